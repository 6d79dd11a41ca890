//! `GET /console/` the console's page · `GET /console/{file}` what it is made of · `GET /`, `GET /console` the way there.
//! Static files, put into the program when it is built. They say nothing of this daemon, so they need no token; what the page
//! shows it asks for like any other client.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};
use warp::Filter;
use warp::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use warp::path::FullPath;
use warp::reply::Response;

use super::page::{has_tag, listed, not_modified};
use super::problem::{from_status, raw, render};
use super::{Routes, template};
use crate::actors::inputs::hex;
use crate::model::problem::{Problem, ProblemCode};

/// Where the page is.
const PLACE: &str = "/console/";
/// The route of what it is made of.
const FILE: &str = "/console/{file}";
/// The page itself.
const PAGE: &str = "index.html";
/// Digits of a content's digest that name it.
const TAG_DIGITS: usize = 32;

/// Only what is in these files runs, only this daemon is talked to, and nobody has the page in a frame. No text becomes
/// markup or a script; the page's one policy gives the address of its worker, whatever it is asked.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types slugline";

/// What every file is sent with, beside what every answer is.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Kept by the browser, but asked for each time: a new daemon has a new page.
    (header::CACHE_CONTROL, "no-cache"),
    (header::VARY, "Accept-Encoding"),
];

/// One file.
struct File {
    name: &'static str,
    plain: &'static [u8],
    /// Compressed, where that is shorter.
    gzip: Option<&'static [u8]>,
}

/// Every file there is; the build writes the table.
static FILES: &[File] = &include!(concat!(env!("OUT_DIR"), "/console.rs"));

/// The tags of the files, in their order.
static TAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| FILES.iter().map(|file| hex(&Sha256::digest(file.plain))[..TAG_DIGITS].to_owned()).collect());

pub(super) fn routes() -> Routes {
    let page = warp::path("console").map(|| ()).untuple_one();
    warp::get()
        .and(page.or(warp::path::end()).unify())
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .map(|path: FullPath, headers: HeaderMap| answer(path.as_str(), &headers))
        .boxed()
}

fn answer(path: &str, headers: &HeaderMap) -> Response {
    let Some(name) = path.strip_prefix(PLACE) else { return found() };
    let name = if name.is_empty() { PAGE } else { name };
    match FILES.iter().position(|file| file.name == name) {
        Some(at) => file(&FILES[at], &TAGS[at], headers),
        // Beside the files are a few paths that are not read.
        None if template(path) != Some(FILE) => render(&from_status(StatusCode::NOT_FOUND, "GET", path)),
        None => {
            let shown: String = name.chars().take(200).collect();
            render(&Problem::new(ProblemCode::NotFound, format!("the console has no file {shown}")))
        }
    }
}

/// The way to the page, for whoever types the address.
fn found() -> Response {
    let mut response = raw(StatusCode::FOUND, "text/plain; charset=utf-8", format!("{PLACE}\n"));
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(PLACE));
    response
}

fn file(file: &File, digest: &str, headers: &HeaderMap) -> Response {
    let gzip = file.gzip.filter(|_| takes_gzip(headers));
    let tag = if gzip.is_some() { format!("\"{digest}-gzip\"") } else { format!("\"{digest}\"") };
    let mut response = if has(headers, &tag) {
        not_modified()
    } else {
        let mut whole = raw(StatusCode::OK, kind(file.name), gzip.unwrap_or(file.plain));
        let encoding = gzip.map(|_| (header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        whole.headers_mut().extend(encoding);
        whole
    };
    let all = response.headers_mut();
    all.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    all.extend(HeaderValue::from_str(&tag).ok().map(|tag| (header::ETAG, tag)));
    response
}

/// The type of a file by the ending of its name.
fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

/// Whether `If-None-Match` names this tag.
fn has(headers: &HeaderMap, tag: &str) -> bool {
    has_tag(headers, tag) || listed(headers, &header::IF_NONE_MATCH).any(|known| known == "*")
}

/// Whether `Accept-Encoding` lets gzip through: by name, or as any other.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let weight = |wanted: &str| {
        let named = listed(headers, &header::ACCEPT_ENCODING).find_map(|word| {
            let (name, weight) = word.split_once(';').unwrap_or((word, ""));
            name.trim().eq_ignore_ascii_case(wanted).then_some(weight)
        })?;
        let number = named.trim().strip_prefix("q=").or_else(|| named.trim().strip_prefix("Q="));
        Some(number.is_none_or(|number| number.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0)))
    };
    weight("gzip").or_else(|| weight("*")).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("header"))])
    }

    #[test]
    fn gzip_is_sent_to_whoever_takes_it() {
        for (said, takes) in [
            ("gzip", true),
            ("gzip, deflate, br, zstd", true),
            ("br;q=1.0, GZIP;q=0.8, *;q=0.1", true),
            ("*", true),
            ("br, *;q=0.5", true),
            ("", false),
            ("identity", false),
            ("x-gzip-like", false),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("gzip;q=much", false),
        ] {
            assert_eq!(takes_gzip(&with(header::ACCEPT_ENCODING, said)), takes, "{said:?}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_tag_is_found_in_a_list_of_them() {
        for (said, is_there) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
            ("\"a-gzip\"", false),
            ("", false),
        ] {
            assert_eq!(has(&with(header::IF_NONE_MATCH, said), "\"a\""), is_there, "{said:?}");
        }
    }

    #[test]
    fn every_file_has_a_type_and_is_at_a_place_the_table_of_routes_knows() {
        assert!(FILES.iter().any(|file| file.name == PAGE));
        for file in FILES {
            assert_ne!(kind(file.name), "application/octet-stream", "{} has no ending we know", file.name);
            assert_eq!(template(&format!("{PLACE}{}", file.name)), Some(FILE), "{}", file.name);
            assert!(file.gzip.is_none_or(|gzip| gzip.len() < file.plain.len()));
        }
    }

    #[test]
    fn the_policy_is_one_line_of_single_spaces() {
        assert!(!POLICY.contains("  ") && !POLICY.contains('\n'), "{POLICY}");
    }
}
