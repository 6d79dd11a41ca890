//! Lists: pages of them, lists in queries and headers, and answers that say nothing has changed.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use schemars::Schema;
use warp::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use warp::reply::Response;

use super::problem::raw;
use crate::model::problem::{Problem, ProblemCode};

/// Entries of one page at most, and when nothing is said.
pub(super) const LIMIT_MAX: usize = 5_000;
/// How many there are, of all pages.
const TOTAL: &str = "x-total-count";

/// What part of a list is wanted.
pub(super) struct Page {
    /// The place of the last entry of the page before.
    pub after: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// One page of a list: the entries, how many there are in all, and the place of the last one when more follow.
pub(super) fn page<T>(
    all: Vec<T>,
    wanted: &Page,
    place: impl Fn(&T) -> String,
) -> Result<(Vec<T>, usize, Option<String>), Problem> {
    let limit = wanted.limit.unwrap_or(LIMIT_MAX);
    if limit == 0 || limit > LIMIT_MAX {
        let detail = format!("limit is {limit}; it is 1 to {LIMIT_MAX}");
        return Err(Problem::new(ProblemCode::InvalidRequest, detail));
    }
    let total = all.len();
    let from = match &wanted.after {
        None => 0,
        Some(after) => match all.iter().position(|entry| place(entry) == *after) {
            Some(at) => at + 1,
            None => {
                let shown: String = after.escape_default().take(200).collect();
                let detail = format!("after={shown} is not in this list any more; begin again without it");
                return Err(Problem::new(ProblemCode::InvalidRequest, detail));
            }
        },
    };
    let entries: Vec<T> = all.into_iter().skip(from).take(limit).collect();
    let next = (from + entries.len() < total).then(|| entries.last().map(&place)).flatten();
    Ok((entries, total, next))
}

/// A comma separated list of words, each one of those there are; the error names what is none, and what there is.
pub(super) fn words<T: Copy, const N: usize>(
    what: &str,
    text: &str,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, Problem> {
    let one = |word: &str| {
        all.into_iter().find(|one| name(*one) == word).ok_or_else(|| {
            let known = all.map(&name).join(", ");
            Problem::new(ProblemCode::InvalidRequest, format!("{what} {word:?} is none of {known}"))
        })
    };
    text.split(',').map(str::trim).map(one).collect()
}

/// Describes a text as a comma separated list of words, each given as a regular expression.
pub(super) fn list_of<T: AsRef<str>>(schema: &mut Schema, words: &[T]) {
    let word = words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("|");
    schema.insert("pattern".to_owned(), format!("^(?:{word})(?:,(?:{word}))*$").into());
}

/// The entries of a header that is a list.
pub(super) fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// Whether `If-None-Match` names this tag; weak and strong ones are compared alike.
pub(super) fn has_tag(headers: &HeaderMap, tag: &str) -> bool {
    listed(headers, &header::IF_NONE_MATCH).any(|known| known.trim_start_matches("W/") == tag.trim_start_matches("W/"))
}

/// The answer to whoever has it already.
pub(super) fn not_modified() -> Response {
    let mut response = raw(StatusCode::NOT_MODIFIED, "text/plain", "");
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}

/// Tells the answers of this process from those of another one.
static PROCESS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn tag(version: &str, query: &str) -> String {
    format!("W/\"{:016x}\"", PROCESS.hash_one((version, query)))
}

/// The answer to somebody who has this version of the list already.
pub(super) fn unchanged(headers: &HeaderMap, version: &str, query: &str) -> Option<Response> {
    let tag = tag(version, query);
    if !has_tag(headers, &tag) {
        return None;
    }
    let mut response = not_modified();
    response.headers_mut().extend(HeaderValue::from_str(&tag).ok().map(|tag| (header::ETAG, tag)));
    Some(response)
}

/// A list with its tag, how many entries there are, and where it goes on.
pub(super) fn with_etag(
    mut response: Response,
    version: &str,
    query: &str,
    total: usize,
    next: Option<&str>,
) -> Response {
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_str(&tag(version, query)).ok().map(|tag| (header::ETAG, tag)));
    headers.insert(TOTAL, HeaderValue::from(total));
    if let Some(next) = next {
        let mut pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap_or_default();
        pairs.retain(|(key, _)| key != "after");
        pairs.push(("after".to_owned(), next.to_owned()));
        let link = format!("<?{}>; rel=\"next\"", serde_urlencoded::to_string(&pairs).unwrap_or_default());
        headers.extend(HeaderValue::from_str(&link).ok().map(|link| (header::LINK, link)));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limit: usize, after: Option<&str>) -> Result<(Vec<u32>, usize, Option<String>), Problem> {
        let wanted = Page { after: after.map(str::to_owned), limit: Some(limit) };
        page((0..7).collect(), &wanted, u32::to_string)
    }

    #[test]
    fn pages_follow_one_another_without_a_gap_and_the_last_one_says_so() {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let (entries, total, next) = of(3, after.as_deref()).expect("is a page");
            assert_eq!(total, 7);
            seen.extend(entries);
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..7).collect::<Vec<_>>());
    }

    #[test]
    fn a_place_that_is_gone_and_a_limit_of_nothing_are_named() {
        assert!(of(3, Some("9")).expect_err("is gone").detail.contains("after=9"));
        assert!(of(0, None).is_err() && of(LIMIT_MAX + 1, None).is_err());
    }
}
