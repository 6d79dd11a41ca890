//! The console's doors: its files, signing in and out, and the lists only it asks for.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use flate2::read::GzDecoder;
use hyper::Method;
use serde_json::{Value, json};
use slugline::actors::faults::Faults;
use slugline::cli::client::{Client, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{House, Repo, Site, problem, until, write};

const JSON: (&str, &str) = ("content-type", "application/json");
const GZIP: (&str, &str) = ("accept-encoding", "gzip, deflate, br");

async fn get(client: &Client, path: &str, headers: &[(&str, &str)]) -> Reply {
    client.send(Method::GET, path, headers, Bytes::new()).await.expect("the daemon answers")
}

async fn post(client: &Client, path: &str, body: &Value) -> Reply {
    client.post(path, body).await.expect("the daemon answers")
}

/// Whoever comes without anything.
fn stranger(house: &House) -> Client {
    Client::tcp(house.address, None)
}

/// A browser: no token, a cookie and a key.
struct Browser {
    client: Client,
    /// The value of the cookie, and its name.
    cookie: (String, String),
    key: String,
}

impl Browser {
    /// What a sign-in gave.
    fn of(client: Client, reply: &Reply) -> Self {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let set = reply.headers["set-cookie"].to_str().expect("text");
        let (pair, terms) = set.split_once("; ").expect("has terms");
        assert_eq!(terms, "HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000");
        let (name, value) = pair.split_once('=').expect("a pair");
        let key = reply.json()["key"].as_str().expect("a key").to_owned();
        Self { client, cookie: (value.to_owned(), name.to_owned()), key }
    }

    fn cookie(&self) -> String {
        format!("{}={}", self.cookie.1, self.cookie.0)
    }

    async fn get(&self, path: &str) -> Reply {
        get(&self.client, path, &[("cookie", &self.cookie()), ("x-slugline-key", &self.key)]).await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        let headers = [JSON, ("cookie", &self.cookie()), ("x-slugline-key", &self.key)];
        self.client.send(Method::POST, path, &headers, body.to_string().into()).await.expect("the daemon answers")
    }
}

/// The files of the console as they are in the sources: place and content.
fn sources() -> BTreeMap<String, Vec<u8>> {
    fn gather(dir: &Path, place: &str, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).expect("reads").map(|entry| entry.expect("an entry").path()) {
            let name = entry.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            if name.starts_with('.') {
                continue;
            }
            if entry.is_dir() {
                gather(&entry, &format!("{place}{name}/"), all);
            } else {
                all.insert(format!("{place}{name}"), std::fs::read(&entry).expect("reads"));
            }
        }
    }
    let mut all = BTreeMap::new();
    gather(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("console"), "/console/", &mut all);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_served_whole_to_anybody_and_compressed_to_whoever_takes_that() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let client = stranger(&house);
    let files = sources();
    assert!(files.contains_key("/console/index.html"), "{:?}", files.keys());
    let mut compressed = 0;
    for (place, content) in files {
        let plain = get(&client, &place, &[]).await;
        assert_eq!((plain.status, plain.body[..] == content[..]), (200, true), "{place} is not what is in console/");
        assert!(!plain.headers.contains_key("content-encoding"));
        let kind = match place.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some("png") => "image/png",
            _ => "font/woff2",
        };
        let short = get(&client, &place, &[GZIP]).await;
        for reply in [&plain, &short] {
            assert_eq!(reply.headers["content-type"], kind, "{place}");
            assert_eq!(reply.headers["vary"], "Accept-Encoding");
        }
        if short.headers.contains_key("content-encoding") {
            compressed += 1;
            let mut told = Vec::new();
            GzDecoder::new(&short.body[..]).read_to_end(&mut told).expect("is gzip");
            assert!(told == content && short.body.len() < content.len(), "{place}");
            assert_ne!(short.headers["etag"], plain.headers["etag"], "{place}");
        }
        // Who has it is told so, in either form; who has the other one is sent this one.
        for (reply, other, more) in [(&plain, &short, None), (&short, &plain, Some(GZIP))] {
            let tag = reply.headers["etag"].to_str().expect("text");
            assert!(tag.starts_with('"'), "{tag} is not strong");
            let ask = |tag: String| {
                let (client, place) = (client.clone(), place.clone());
                async move {
                    let mut headers = vec![("if-none-match", tag.as_str())];
                    headers.extend(more);
                    get(&client, &place, &headers).await
                }
            };
            let same = ask(format!("\"x\", {tag}")).await;
            assert_eq!((same.status, same.body.len(), &same.headers["etag"]), (304, 0, &reply.headers["etag"]));
            for name in ["cache-control", "content-security-policy", "vary"] {
                assert_eq!(same.headers[name], reply.headers[name]);
            }
            let others = other.headers["etag"].to_str().expect("text").to_owned();
            if others != tag {
                assert_eq!(ask(others).await.status, 200, "{place}");
            }
        }
    }
    assert!(compressed > 0, "nothing is compressed");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_sent_with_what_keeps_other_pages_and_scripts_out() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let page = get(&stranger(&house), "/console/", &[]).await;
    assert_eq!(page.body, get(&stranger(&house), "/console/index.html", &[]).await.body);
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types slugline",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-cache"),
        ("vary", "Accept-Encoding"),
    ] {
        let said: Vec<&str> = page.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        assert_eq!(said, [value], "{name}");
    }
    // The page runs under its own policy: nothing in it is a script or a style by itself, or from elsewhere.
    let text = page.text();
    for odd in ["<style", " style=", " onclick=", " onload=", "javascript:", "http://", "https://"] {
        assert!(!text.contains(odd), "{odd} is in the page");
    }
    assert!(
        text.match_indices("<script")
            .all(|(at, _)| text[at..].lines().next().is_some_and(|line| line.contains("src=")))
    );
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bare_address_leads_to_the_page_and_what_is_no_file_is_not_there() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let client = stranger(&house);
    for path in ["/", "/console", "/?x=1", "/console?x=1"] {
        let reply = get(&client, path, &[]).await;
        assert_eq!((reply.status, &reply.headers["location"]), (302, &"/console/".parse().expect("header")), "{path}");
    }
    for path in [
        "/console/nothing.js",
        "/console/views/nothing.js",
        "/console/..",
        "/console/%69ndex.html",
        "/console/../Cargo.toml",
    ] {
        problem(&get(&client, path, &[]).await, 404, "not_found");
    }
    for path in ["/console/a/b/c", "/console/views/", "/console//", "/index.html", "/favicon.ico"] {
        problem(&get(&client, path, &[]).await, 401, "unauthorized");
        problem(&get(&house.client, path, &[]).await, 404, "not_found");
    }
    let allow = |reply: &Reply| reply.headers["allow"].to_str().expect("text").to_owned();
    for path in ["/console/", "/console/index.html"] {
        let reply = post(&house.client, path, &json!({})).await;
        problem(&reply, 405, "method_not_allowed");
        assert_eq!(allow(&reply), "GET");
    }
    for path in ["/console/sign-in", "/console/sign-out", "/console/links"] {
        let reply = get(&house.client, path, &[]).await;
        problem(&reply, 405, "method_not_allowed");
        assert_eq!(allow(&reply), "POST");
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_signs_in_with_the_token_and_needs_cookie_and_key_for_everything() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let (port, client) = (house.address.port(), stranger(&house));
    let reply = post(&client, "/console/sign-in", &json!({ "token": house.token })).await;
    assert_eq!(reply.headers["cache-control"], "no-store");
    let browser = Browser::of(client.clone(), &reply);
    assert_eq!(browser.cookie.1, format!("slugline_{port}"));
    assert_eq!(browser.get("/status").await.status, 200);
    let work = json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 });
    assert_eq!(browser.post("/todos/work", &work).await.status, 200);
    // Neither is worth anything by itself, nor with that of somebody else, nor beside a wrong token.
    let other = Browser::of(client.clone(), &post(&client, "/console/sign-in", &json!({ "token": house.token })).await);
    assert_ne!((&other.key, &other.cookie.0), (&browser.key, &browser.cookie.0));
    let (cookie, key) = (browser.cookie(), browser.key.as_str());
    let of_another_port = format!("slugline_{}={}", port ^ 1, browser.cookie.0);
    let refused: [&[(&str, &str)]; 6] = [
        &[("cookie", &cookie)],
        &[("x-slugline-key", key)],
        &[("cookie", &cookie), ("x-slugline-key", &other.key)],
        &[("cookie", &of_another_port), ("x-slugline-key", key)],
        &[("cookie", &cookie), ("x-slugline-key", key), ("authorization", "Bearer wrong")],
        &[("authorization", &format!("Bearer {key}"))],
    ];
    for headers in refused {
        for path in ["/status", "/todos", "/events", "/nothing"] {
            problem(&get(&client, path, headers).await, 401, "unauthorized");
        }
    }
    // A page elsewhere that has all of it still has the wrong origin.
    let crossing = [("cookie", cookie.as_str()), ("x-slugline-key", key), ("origin", "http://127.0.0.1:1")];
    problem(&get(&client, "/status", &crossing).await, 403, "forbidden_origin");
    // After thirty days it is over.
    house.wall_ms.fetch_add(30 * 86_400_000 - 60_000, Ordering::SeqCst);
    assert_eq!(browser.get("/status").await.status, 200);
    house.wall_ms.fetch_add(60_000, Ordering::SeqCst);
    problem(&browser.get("/status").await, 401, "unauthorized");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_to_a_browser_that_is_signed_in() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let browser = Browser::of(
        stranger(&house),
        &post(&stranger(&house), "/console/sign-in", &json!({ "token": house.token })).await,
    );
    let mut stream = TcpStream::connect(house.address).await.expect("connects");
    let request = format!(
        "GET /events HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nLast-Event-ID: 0\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nCookie: {}\r\nX-Slugline-Key: {}\r\n\r\n",
        house.address,
        browser.cookie(),
        browser.key
    );
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut heard = String::new();
    let mut bytes = [0; 4_096];
    while !heard.contains("event: hello") {
        let read = tokio::time::timeout(crate::harness::PATIENCE, stream.read(&mut bytes)).await.expect("in time");
        let length = read.expect("reads");
        assert!(length > 0, "the stream ended: {heard}");
        heard.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    assert!(heard.starts_with("HTTP/1.1 200 ") && heard.contains("content-type: text/event-stream"), "{heard}");
    drop(stream);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_signs_in_once_and_for_two_minutes() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let client = stranger(&house);
    problem(&post(&client, "/console/links", &json!({})).await, 401, "unauthorized");
    let made = post(&house.client, "/console/links", &json!({})).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let code_of = |made: &Reply| {
        let url = made.json()["url"].as_str().expect("a link").to_owned();
        let code = url.strip_prefix(&format!("http://{}/console/#code=", house.address)).expect("leads to the console");
        code.to_owned()
    };
    let code = json!({ "code": code_of(&made) });
    let browser = Browser::of(client.clone(), &post(&client, "/console/sign-in", &code).await);
    let again = problem(&post(&client, "/console/sign-in", &code).await, 401, "unauthorized");
    assert!(again["detail"].as_str().is_some_and(|detail| detail.contains("slugline console")), "{again}");
    // Who is signed in may make another, for another browser; it is too old after two minutes.
    let made = browser.post("/console/links", &json!({})).await;
    house.awake_ms.fetch_add(120_000, Ordering::SeqCst);
    problem(&post(&client, "/console/sign-in", &json!({ "code": code_of(&made) })).await, 401, "unauthorized");
    // The link is a secret; it is in no ledger under a key, and so each is another.
    let keyed = [JSON, ("idempotency-key", "same")];
    let twice = [
        house.client.send(Method::POST, "/console/links", &keyed, "{}".into()).await.expect("answers").json(),
        house.client.send(Method::POST, "/console/links", &keyed, "{}".into()).await.expect("answers").json(),
    ];
    assert_ne!(twice[0]["url"], twice[1]["url"]);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_is_slowed_and_what_is_no_sign_in_is_told_so() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let client = stranger(&house);
    for body in
        [json!({}), json!({ "token": "x", "code": "y" }), json!({ "key": "x" }), json!({ "token": 7 }), json!([])]
    {
        problem(&post(&client, "/console/sign-in", &body).await, 400, "invalid_request");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let reply = client.send(Method::POST, "/console/sign-in", &form, "token=x".into()).await.expect("answers");
    problem(&reply, 415, "unsupported_media_type");
    for guess in [
        json!({ "token": "" }),
        json!({ "token": "x" }),
        json!({ "code": "" }),
        json!({ "code": "x" }),
        json!({ "token": "y" }),
    ] {
        let reply = post(&client, "/console/sign-in", &guess).await;
        problem(&reply, 401, "unauthorized");
        assert!(!reply.headers.contains_key("set-cookie"));
    }
    // From here on a right one waits, too; else a guess would cost nothing.
    let right = json!({ "token": house.token });
    let told = problem(&post(&client, "/console/sign-in", &right).await, 429, "busy");
    assert!(told["retry_after_ms"].as_u64().is_some_and(|ms| (1..=10_000).contains(&ms)), "{told}");
    house.awake_ms.fetch_add(10_000, Ordering::SeqCst);
    assert_eq!(post(&client, "/console/sign-in", &right).await.status, 200);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_takes_the_cookie_away() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let client = stranger(&house);
    let reply = post(&client, "/console/sign-out", &json!({})).await;
    assert_eq!((reply.status, reply.json()), (200, json!({})));
    let cleared = format!("slugline_{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", house.address.port());
    assert_eq!(reply.headers["set-cookie"], cleared);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_outlives_the_daemon_and_ends_with_its_token() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let mut daemon = site.spawn(&[&repo]).await;
    let (token_file, read) = (site.path("data/token"), |path: &Path| std::fs::read_to_string(path).expect("reads"));
    let address = |site: &Site| read(&site.path("data/address")).trim().parse().expect("an address");
    let token = read(&token_file).trim().to_owned();
    let client = Client::tcp(address(&site), None);
    let before = Browser::of(client.clone(), &post(&client, "/console/sign-in", &json!({ "token": token })).await);
    // The next one has another port, since these take a free one; so the cookie has another name.
    let moved = |site: &Site| {
        let address: std::net::SocketAddr = address(site);
        let cookie = (before.cookie.0.clone(), format!("slugline_{}", address.port()));
        Browser { client: Client::tcp(address, None), cookie, key: before.key.clone() }
    };
    daemon.kill();
    let mut daemon = site.spawn(&[&repo]).await;
    assert_eq!(moved(&site).get("/status").await.status, 200);
    daemon.kill();
    std::fs::remove_file(&token_file).expect("removes");
    let daemon = site.spawn(&[&repo]).await;
    assert_ne!(read(&token_file).trim(), token);
    problem(&moved(&site).get("/status").await, 401, "unauthorized");
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_asked_signing_in_is_always_right() {
    let site = Site::new();
    let repo = site.app(&[], "");
    // The harness wants a token to be there.
    site.start(&[&repo]).await.stop().await;
    let house = site.start_with(&[&repo], &[("auth.mode", "none")], Faults::default()).await;
    let client = stranger(&house);
    assert_eq!(get(&client, "/status", &[]).await.status, 200);
    for body in [json!({ "token": "anything" }), json!({ "code": "anything" })] {
        let browser = Browser::of(client.clone(), &post(&client, "/console/sign-in", &body).await);
        assert_eq!(browser.get("/status").await.status, 200);
    }
    house.stop().await;
}

/// Sends a request as a browser does that follows a link, and says the first line of the answer.
async fn follow(house: &House, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(house.address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", house.address);
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("is answered");
    String::from_utf8_lossy(&answer).lines().next().unwrap_or("").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_on_another_page_leads_to_the_console_and_nowhere_else() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let linked =
        |site: &str| format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n");
    for site in ["cross-site", "same-site"] {
        for (path, status) in [("/", "302"), ("/console", "302"), ("/console/", "200")] {
            let line = follow(&house, path, &linked(site)).await;
            assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {line}");
        }
        for path in ["/console/app.js", "/livez", "/metrics", "/status", "/openapi.json"] {
            assert!(follow(&house, path, &linked(site)).await.starts_with("HTTP/1.1 403 "), "{path}");
        }
        // In a frame, as a picture, or asked for by a script.
        for (mode, to) in [("navigate", "iframe"), ("no-cors", "image"), ("cors", "empty")] {
            let headers = format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: {mode}\r\nSec-Fetch-Dest: {to}\r\n");
            assert!(follow(&house, "/console/", &headers).await.starts_with("HTTP/1.1 403 "), "{mode} {to}");
        }
    }
    house.stop().await;
}

/// `slugline console` on a site's daemon, with only these programs on its path.
fn console(site: &Site, more: &[&str], programs: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
    command.arg("console").arg("--data-dir").arg(site.path("data")).args(more);
    let output = command.env("PATH", programs).current_dir(site.dir.path()).output().expect("starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_command_prints_a_link_that_works_and_opens_it_when_it_can() {
    let site = Site::new();
    let programs = site.path("programs");
    std::fs::create_dir_all(&programs).expect("makes");
    let (code, _, said) = console(&site, &[], &programs);
    assert_eq!(code, Some(1));
    assert!(said.contains("no daemon runs on") && said.contains("slugline serve"), "{said}");
    let house = site.start(&[&site.app(&[], "")]).await;
    let signs_in = |url: String| {
        let client = stranger(&house);
        let code = url.trim().rsplit_once("#code=").expect("a code").1.to_owned();
        async move { Browser::of(client.clone(), &post(&client, "/console/sign-in", &json!({ "code": code })).await) }
    };
    let (code, printed, said) = console(&site, &["--print"], &programs);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert_eq!(signs_in(printed).await.get("/status").await.status, 200);
    // Without a browser the link is there all the same.
    let (code, printed, said) = console(&site, &[], &programs);
    assert!(code == Some(0) && said.contains("open the link yourself"), "{code:?} {said}");
    signs_in(printed).await;
    for opener in ["xdg-open", "open"] {
        let program = programs.join(opener);
        write(&program, &format!("#!/bin/sh\necho \"$1\" > {}\n", site.path("opened").display()));
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("sets");
    }
    let (code, printed, said) = console(&site, &[], &programs);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let opened = until("the link to be opened", || async {
        std::fs::read_to_string(site.path("opened")).ok().filter(|text| text.ends_with('\n'))
    });
    assert_eq!(opened.await, printed);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_cannot_be_used_is_listed_with_what_is_wrong_until_it_is_mended() {
    let site = Site::new();
    let (good, bad) = (site.app(&["fix"], ""), Repo { path: site.path("bad") });
    let house = site.start(&[&good, &bad]).await;
    let listed = || async { get(&house.client, "/repositories", &[]).await.json() };
    let seen = listed().await;
    let path = |repo: &Repo| repo.path.display().to_string();
    let fine = json!({ "name": "app", "path": path(&good), "base": "main", "remote": null, "planted": [], "usable": true, "problem": null });
    assert_eq!(seen[0], fine);
    assert_eq!((&seen[1]["name"], &seen[1]["usable"], &seen[1]["base"]), (&json!("bad"), &json!(false), &Value::Null));
    let problem = &seen[1]["problem"];
    assert_eq!((&problem["code"], &problem["status"]), (&json!("repository_unusable"), &json!(422)));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(&path(&bad))), "{problem}");
    Repo::with(bad.path.clone(), &[], "");
    let mended = listed().await;
    assert_eq!(
        (&mended[1]["usable"], &mended[1]["base"], &mended[1]["problem"]),
        (&json!(true), &json!("main"), &Value::Null)
    );
    // What is broken on the base keeps the repository from being used as well; its branch is known.
    good.write(".slugline.toml", "[prepare\n");
    good.commit("broken");
    let broken = listed().await;
    assert_eq!((&broken[0]["usable"], &broken[0]["base"]), (&json!(false), &json!("main")));
    assert_eq!(broken[0]["problem"]["code"], "repository_config_invalid");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_late_timers_were_is_told_in_stretches_of_ten_seconds() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let history = until("a stretch to be over", || async {
        let history = get(&house.client, "/lag", &[]).await.json();
        (!history["points"].as_array().expect("points").is_empty()).then_some(history)
    })
    .await;
    assert_eq!(history["every_ms"], 10_000);
    let point = &history["points"][0];
    assert!(point["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{point}");
    let number = |name: &str| point[name].as_f64().unwrap_or_else(|| panic!("{name} is missing: {point}"));
    assert!(number("samples") >= 1.0 && number("p50_ms") <= number("p99_ms") && number("p99_ms") <= number("max_ms"));
    house.stop().await;
}
