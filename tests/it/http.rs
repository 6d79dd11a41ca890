//! The door: every route there is and none beside it, who is let in, and what a broken or hostile caller can cost.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use regex::Regex;
use serde_json::{Value, json};
use slugline::actors::clock::Clock;
use slugline::actors::faults::Faults;
use slugline::actors::health::inflight::InFlight;
use slugline::cli::client::{Client, Reply};
use slugline::http::ROUTES;
use slugline::http::guard::{Access, Terms};
use slugline::http::server::{Limits, Server};
use slugline::model::door::Open;
use slugline::model::problem::ProblemCode;
use slugline::process::Runner;
use slugline::runtime::{Daemon, Doors, End};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use warp::Filter;

use crate::harness::{House, PATIENCE, Site, phase, problem, until, write};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A path of the table with something in the place of each parameter.
fn filled(path: &str) -> String {
    path.replace("{repo}", "app")
        .replace("{slug}", "fix")
        .replace("{name}", "fix")
        .replace("{id}", "01JAAAAAAAAAAAAAAAAAAAAAAA")
        .replace("{lane}", "builder")
        .replace("{file}", "index.html")
}

async fn send(client: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    client
        .send(Method::from_bytes(method.as_bytes()).expect("a method"), path, headers, Bytes::from(body.to_owned()))
        .await
        .expect("the daemon answers")
}

/// A request that names this token.
async fn send_token(client: &Client, route: &slugline::http::Route, body: &Value, token: &Value) -> Reply {
    let mut body = body.clone();
    body["token"] = token.clone();
    send(client, route.method, &filled(route.path), &[JSON], &body.to_string()).await
}

/// Sends bytes as they are and says everything that comes back until the daemon closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // The daemon may have answered and closed before everything was taken.
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

/// Everything that comes until the daemon closes; fails when it does not close.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the daemon closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn alive(house: &House) {
    let reply = house.client.get("/livez").await.expect("the daemon answers");
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok\n"));
}

/// An answer of raw bytes that has to be a problem.
fn raw_problem(answer: &str, status: u16, code: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(head.to_ascii_lowercase().contains("content-type: application/problem+json"), "{answer}");
    let body: Value = serde_json::from_str(body.trim()).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!((body["code"].as_str(), body["status"].as_u64()), (Some(code), Some(u64::from(status))), "{body}");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_exactly_the_routes_and_each_is_served() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let document = house.client.get("/openapi.json").await.expect("answers").json();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().expect("methods").keys().map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let routes: BTreeSet<(String, String)> =
        ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    assert_eq!(described, routes);
    assert_eq!(routes.len(), ROUTES.len(), "a route stands in the table twice");
    for route in &ROUTES {
        let token = 1;
        let body = match route.path.rsplit('/').next() {
            _ if !matches!(route.method, "POST" | "PUT") => json!({}),
            Some("work") => json!({ "lane": "builder", "slug": "fix" }),
            Some("heartbeat" | "release") => json!({ "token": token }),
            Some("hold") => json!({ "token": token, "for_ms": 10, "why": "a person" }),
            Some("complete") => json!({ "token": token, "outcome": "blocked", "reason": "a person" }),
            Some("after") => json!({ "after": [] }),
            Some("pause") => json!({ "reason": "a person" }),
            Some("explain") => json!({ "text": "it broke" }),
            Some("{repo}") => json!({ "slug": "new" }),
            Some("events") => json!({ "events": [{ "kind": "note" }] }),
            Some("sign-in") => json!({ "token": house.token }),
            _ => json!({}),
        };
        if route.path == "/debug/log" {
            // This process does not log; `traces` asks one that does.
            continue;
        }
        if route.path == "/events" {
            // It never ends.
            let ear = super::ear::Ear::at(&house, "", None).await;
            assert_eq!(ear.status, 200);
            continue;
        }
        if matches!(route.path.rsplit('/').next(), Some("hold" | "release" | "complete")) {
            // Every one of them needs the live claim, and two of them end it.
            send(&house.client, "POST", "/todos/app/fix/redrive", &[JSON], "{}").await;
            let again = send(&house.client, "POST", "/todos/work", &[JSON], r#"{"lane":"builder","slug":"fix"}"#).await;
            let claim = again.json()["claim"]["token"].clone();
            let reply = send_token(&house.client, route, &body, &claim).await;
            assert!(route.statuses.contains(&reply.status), "{}: {}", route.path, reply.text());
            continue;
        }
        let body = if matches!(route.method, "POST" | "PUT") { body.to_string() } else { String::new() };
        let only_asked = if route.path == "/worktrees/{repo}/{name}" { "?dry_run=true" } else { "" };
        let path = match route.method {
            "DELETE" => format!("{}{only_asked}", filled(route.path)),
            _ => filled(route.path),
        };
        let reply = send(&house.client, route.method, &path, &[JSON], &body).await;
        let code = reply.json()["code"].as_str().map(str::to_owned);
        assert!(
            !matches!(code.as_deref(), Some("not_found" | "method_not_allowed")),
            "{} {} is not served: {}",
            route.method,
            route.path,
            reply.text()
        );
        if !route.path.contains("{id}") {
            assert!(
                route.statuses.contains(&reply.status),
                "{} {}: {} {}",
                route.method,
                route.path,
                reply.status,
                reply.text()
            );
        }
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_are_405_with_allow_and_other_paths_404() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let mut tried = 0;
    for route in &ROUTES {
        let allowed: BTreeSet<&str> =
            ROUTES.iter().filter(|other| other.path == route.path).map(|other| other.method).collect();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]
            .iter()
            .filter(|method| !allowed.contains(*method))
        {
            let reply = send(&house.client, method, &filled(route.path), &[JSON], "").await;
            problem(&reply, 405, "method_not_allowed");
            let said: BTreeSet<&str> = reply.headers["allow"].to_str().expect("text").split(", ").collect();
            assert_eq!(said, allowed, "{method} {}", route.path);
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
    for path in [
        "/todos/",
        "/todo",
        "/todos/work/",
        "/operations/",
        "/repositories/",
        "/lag/",
        "/todos/a/b/c",
        "/livez/x",
        "/openapi.json/",
        "//livez",
        "/LIVEZ",
        "/index.html",
        "/console/views/",
        "/console/links/",
        "/console//index.html",
        "/.git/config",
    ] {
        for method in ["GET", "POST"] {
            problem(&send(&house.client, method, path, &[JSON], "").await, 404, "not_found");
        }
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_asked_for_everywhere_but_at_the_open_routes() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let wrong = [
        None,
        Some("wrong".to_owned()),
        Some(house.token[1..].to_owned()),
        Some(format!("{}0", house.token)),
        Some(String::new()),
    ];
    for token in wrong {
        let client = Client::tcp(house.address, token.clone());
        for route in &ROUTES {
            let reply =
                send(&client, route.method, &filled(route.path), &[JSON], r#"{"lane":"builder","slug":"fix"}"#).await;
            if route.open != Open::No {
                // What is sent is no request to sign in or out, and is told so.
                let refused = matches!(route.path, "/console/sign-in" | "/console/sign-out");
                let wanted = if refused { 400 } else { route.statuses[0] };
                assert_eq!(reply.status, wanted, "{}", route.path);
            } else {
                problem(&reply, 401, "unauthorized");
                assert_eq!(reply.headers["www-authenticate"], "Bearer");
            }
        }
        // What is not there does not show without a token.
        problem(&client.get("/secret").await.expect("answers"), 401, "unauthorized");
    }
    assert!(!site.worktree("fix").exists(), "somebody without a token was given work");
    // A second header beside the right one is no way in, nor is another scheme.
    let reply = send(&house.client, "GET", "/todos", &[("authorization", "Bearer wrong")], "").await;
    problem(&reply, 401, "unauthorized");
    let reply = send(
        &Client::tcp(house.address, None),
        "GET",
        "/todos",
        &[("authorization", &format!("Basic {}", house.token))],
        "",
    )
    .await;
    problem(&reply, 401, "unauthorized");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_and_borrowed_names_are_kept_out() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let (port, token) = (house.address.port(), &house.token);
    let body = r#"{"lane":"builder","slug":"fix"}"#;
    let ask = |host: String, more: &str| {
        let request = format!(
            "POST /todos/work HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n{body}",
            body.len()
        );
        exchange_owned(house.address, request)
    };
    let ours = format!("127.0.0.1:{port}");
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        "127.0.0.1:1".to_owned(),
        String::new(),
    ] {
        raw_problem(&ask(host, "").await, 403, "forbidden_origin");
    }
    for more in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        raw_problem(&ask(ours.clone(), more).await, 403, "forbidden_origin");
    }
    raw_problem(&ask(ours.clone(), &format!("Host: {ours}\r\n")).await, 403, "forbidden_origin");
    // The open routes tell such a caller nothing either.
    raw_problem(
        &exchange(house.address, b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await,
        403,
        "forbidden_origin",
    );
    assert!(!site.worktree("fix").exists());
    assert!(
        ask(ours, &format!("Origin: http://localhost:{port}\r\nSec-Fetch-Site: same-origin\r\n"))
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    house.stop().await;
}

async fn exchange_owned(address: SocketAddr, request: String) -> String {
    exchange(address, request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_work_request_is_refused_with_the_way_out() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let cases: [(&str, &str, &str); 16] = [
        ("", "invalid_request", "EOF"),
        ("{", "invalid_request", "EOF"),
        ("not json", "invalid_request", "line 1"),
        ("null", "invalid_request", "null"),
        ("[]", "invalid_request", "a list"),
        ("\n [\"app\",\"fix\",\"builder\",\"w\",false,0]", "invalid_request", "a list"),
        ("\"builder\"", "invalid_request", "string"),
        ("{}", "invalid_request", "lane"),
        (r#"{"lane":"builder","colour":1}"#, "invalid_request", "colour"),
        (r#"{"lane":7}"#, "invalid_request", "integer"),
        (r#"{"lane":"builder","lane":"other"}"#, "invalid_request", "lane"),
        (r#"{"lane":"builder","wait_ms":45001}"#, "invalid_request", "45000"),
        (r#"{"lane":"builder","wait_ms":-1}"#, "invalid_request", "-1"),
        (r#"{"lane":"builder","refresh":"yes"}"#, "invalid_request", "bool"),
        (r#"{"lane":"builder"} {"lane":"builder"}"#, "invalid_request", "trailing"),
        (&deep, "invalid_request", ""),
    ];
    for (body, code, names) in cases {
        let reply = send(&house.client, "POST", "/todos/work", &[JSON], body).await;
        let detail = problem(&reply, 400, code)["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains(names), "{body:.80}: {detail}");
    }
    let unknown = send(&house.client, "POST", "/todos/work", &[JSON], r#"{"lane":"builder","colour":1}"#).await;
    for known in ["repo", "slug", "lane", "worker", "refresh", "wait_ms"] {
        assert!(unknown.text().contains(&format!("`{known}`")), "{}", unknown.text());
    }
    assert!(!site.worktree("fix").exists(), "something that is no request was given work");
    let longest =
        send(&house.client, "POST", "/todos/work", &[JSON], r#"{"lane":"builder","slug":"fix","wait_ms":45000}"#).await;
    assert_eq!(longest.status, 200, "{}", longest.text());
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn media_types_are_agreed_on_or_refused() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let body = r#"{"lane":"builder","slug":"fix","wait_ms":45000}"#;
    for headers in [
        vec![],
        vec![("content-type", "text/plain")],
        vec![("content-type", "application/x-www-form-urlencoded")],
        vec![("content-type", "application/jsonp")],
    ] {
        problem(&send(&house.client, "POST", "/todos/work", &headers, body).await, 415, "unsupported_media_type");
    }
    for accept in ["text/html", "image/png, text/html;q=0.9", ""] {
        problem(
            &send(&house.client, "POST", "/todos/work", &[JSON, ("accept", accept)], body).await,
            406,
            "not_acceptable",
        );
    }
    assert!(!site.worktree("fix").exists(), "work was done for an answer nobody could read");
    for (accept, kind) in [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/html, */*;q=0.1", "application/json"),
        ("text/markdown", "text/markdown; charset=utf-8"),
    ] {
        let reply = send(
            &house.client,
            "POST",
            "/todos/work",
            &[("content-type", "Application/JSON; charset=utf-8"), ("accept", accept)],
            body,
        )
        .await;
        assert_eq!((reply.status, reply.headers["content-type"].to_str().expect("text")), (200, kind), "{accept}");
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_say_how_it_is_without_a_token() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    house.order("fix").await;
    let anybody = Client::tcp(house.address, None);
    let get = |path: &'static str| {
        let anybody = anybody.clone();
        async move { anybody.get(path).await.expect("answers") }
    };
    for path in ["/readyz", "/healthz"] {
        assert_eq!((get(path).await.status, get(path).await.text().as_str()), (200, "ready\n"));
    }
    for path in ["/readyz?verbose", "/healthz?verbose=1"] {
        let text = get(path).await.text();
        assert!(
            text.lines().filter(|line| line.starts_with("[ok] ")).count() >= 4 && text.ends_with("ready\n"),
            "{text}"
        );
    }
    let page = get("/metrics").await;
    assert_eq!(
        (page.status, page.headers["content-type"].to_str().expect("text")),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    let text = page.text();
    let mut described = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(described.insert(rest.split(' ').next().expect("a name").to_owned()), "described twice: {line}");
        } else if !line.starts_with('#') && !line.is_empty() {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|name| described.contains(*name)))
                .unwrap_or(name);
            assert!(described.contains(family), "no # TYPE before {line}");
        }
    }
    let decided = text.lines().find(|line| {
        line.starts_with("slugline_phase_decisions_total{")
            && line.contains("phase=\"worktree\",decision=\"run\",reason=\"created\"")
    });
    assert!(decided.is_some_and(|line| !line.ends_with(" 0")), "{text}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_daemon_is_not_ready_and_takes_no_work() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    house.handle.context().start_draining();
    let refused = house.work(json!({ "lane": "builder", "slug": "fix" })).await;
    problem(&refused, 503, "draining");
    assert_eq!(refused.headers["retry-after"], "2");
    for path in ["/readyz", "/healthz"] {
        problem(&house.client.get(path).await.expect("answers"), 503, "draining");
        let verbose = house.client.get(&format!("{path}?verbose")).await.expect("answers");
        assert_eq!(verbose.status, 503);
        assert!(
            verbose.text().contains("[failed] draining") && verbose.text().ends_with("not ready\n"),
            "{}",
            verbose.text()
        );
    }
    // It lives, and what is known can still be read.
    alive(&house).await;
    assert_eq!(house.client.get("/todos").await.expect("answers").status, 200);
    house.stop().await;
    assert!(!site.worktree("fix").exists());
}

/// A server without a daemon behind it; `GET /livez` never answers, `POST /todos/work` says what it was sent.
async fn short_limits(limits: Limits) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    bare_server(limits, SHORT).await
}

async fn bare_server(limits: Limits, grace: Duration) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    // A counter that is used before there is a recorder counts for nobody in this process.
    slugline::metrics::install();
    let slow = warp::path!("livez").and(warp::get()).then(std::future::pending::<warp::reply::Response>).boxed();
    let echo = warp::path!("todos" / "work")
        .and(warp::body::bytes())
        .map(|body: Bytes| warp::reply::Response::new(body.into()))
        .boxed();
    // A stream without an end; `ENDLESS` counts those that are on.
    let endless = warp::path!("events")
        .and(warp::get())
        .map(|| {
            let on = Endless::new();
            let chunks = futures_util::stream::repeat_with(move || {
                let _on = &on;
                Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'.'; 65_536]))
            });
            warp::reply::Reply::into_response(warp::reply::stream(chunks))
        })
        .boxed();
    let routes = slow.or(echo).unify().or(endless).unify().boxed();
    let server = Server::bind_with(
        "127.0.0.1:0".parse().expect("address"),
        None,
        routes,
        Access::new(None, Clock::system(), Terms::default()).expect("a guard"),
        limits,
        InFlight::default(),
    )
    .await
    .expect("binds");
    let address = server.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async { drop(stopped.await) }, grace));
    (address, stop, serving)
}

static ENDLESS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

struct Endless;

impl Endless {
    fn new() -> Self {
        ENDLESS.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Self
    }

    fn on() -> usize {
        ENDLESS.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        ENDLESS.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_of_an_answer_without_an_end_is_cut_off_and_who_does_is_not() {
    let limits = Limits { stall: SHORT, ..endless() };
    let (address, stop, serving) = short_limits(limits).await;
    let ask = format!("GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let (mut idle, mut eager) =
        (TcpStream::connect(address).await.expect("connects"), TcpStream::connect(address).await.expect("connects"));
    idle.write_all(ask.as_bytes()).await.expect("sends");
    eager.write_all(ask.as_bytes()).await.expect("sends");
    let mut buffer = vec![0; 65_536];
    while Endless::on() < 2 {
        eager.read_exact(&mut buffer).await.expect("goes on");
    }
    let since = std::time::Instant::now();
    while Endless::on() > 1 {
        eager.read_exact(&mut buffer).await.expect("goes on");
        assert!(since.elapsed() < PATIENCE, "the one that takes nothing is still served");
    }
    eager.read_exact(&mut buffer).await.expect("goes on");
    drop((idle, eager, stop));
    serving.await.expect("ends");
}

/// Long enough for a loaded machine to send a request in, short enough to wait for.
const SHORT: Duration = Duration::from_millis(300);

fn short() -> Limits {
    Limits { head: SHORT, body: SHORT, answer: SHORT, ..Limits::default() }
}

/// Limits that end nothing within a test.
fn endless() -> Limits {
    Limits { head: 10 * PATIENCE, body: 10 * PATIENCE, answer: 10 * PATIENCE, ..Limits::default() }
}

fn post(address: SocketAddr, more: &str) -> String {
    format!("POST /todos/work HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_no_whole_head_is_cut_off() {
    let (address, stop, serving) = short_limits(short()).await;
    for sent in ["", "G", "GET /livez HTTP/1.1\r\n", "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(sent.as_bytes()).await.expect("sends");
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{sent:?}: {answer}");
    }
    // One that is kept open is closed as well once it idles.
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(format!("{}{{}}", post(address, "Content-Length: 2\r\n")).as_bytes()).await.expect("sends");
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));
    drop(stop);
    serving.await.expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_is_408_and_an_answer_that_does_not_come_504() {
    let (address, stop, serving) = short_limits(short()).await;
    for (more, part) in [
        ("Content-Length: 10\r\n", "{"),
        ("Transfer-Encoding: chunked\r\n", "1\r\n{\r\n"),
        ("Content-Length: 10\r\n", ""),
        ("Expect: 100-continue\r\nContent-Length: 10\r\n", ""),
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(format!("{}{part}", post(address, more)).as_bytes()).await.expect("sends");
        let answer = rest(&mut stream).await;
        raw_problem(answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&answer), 408, "request_timeout");
    }
    let answer =
        exchange(address, format!("GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
            .await;
    raw_problem(&answer, 504, "deadline_exceeded");
    drop(stop);
    serving.await.expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let (address, stop, serving) = short_limits(Limits { connections: 1, ..short() }).await;
    // The first has asked something, as somebody known: nothing is asked of anybody here. It holds the only place until its
    // time for the next head is over; then comes the second.
    let mut first = TcpStream::connect(address).await.expect("connects");
    first.write_all(format!("{}{{}}", post(address, "Content-Length: 2\r\n")).as_bytes()).await.expect("sends");
    first.read_exact(&mut [0; 12]).await.expect("is answered");
    let answer =
        exchange(address, format!("{}{{}}", post(address, "Connection: close\r\nContent-Length: 2\r\n")).as_bytes())
            .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop((first, stop));
    serving.await.expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_64_kib_are_413_with_and_without_a_length() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let head = |more: &str| {
        post(house.address, &format!("Authorization: Bearer {}\r\nConnection: close\r\n{more}", house.token))
    };
    let over = "x".repeat(64 * 1024 + 1);
    let fits = format!("{{\"lane\":\"builder\",\"slug\":\"fix\",\"wait_ms\":45000{}}}", " ".repeat(64 * 1024 - 48));
    assert!(fits.len() > 65_000 && fits.len() <= 64 * 1024);
    raw_problem(
        &exchange_owned(house.address, format!("{}{over}", head("Content-Length: 65537\r\n"))).await,
        413,
        "body_too_large",
    );
    raw_problem(
        &exchange_owned(
            house.address,
            format!("{}10001\r\n{over}\r\n0\r\n\r\n", head("Transfer-Encoding: chunked\r\n")),
        )
        .await,
        413,
        "body_too_large",
    );
    let whole =
        exchange_owned(house.address, format!("{}{fits}", head(&format!("Content-Length: {}\r\n", fits.len())))).await;
    assert!(whole.starts_with("HTTP/1.1 200 "), "{whole}");
    // A length that is a lie about 8 EiB is refused by what it says, not by reading it.
    let huge = exchange_owned(house.address, head("Content-Length: 9223372036854775807\r\n")).await;
    raw_problem(&huge, 413, "body_too_large");
    // A body that breaks off is no request.
    let mut stream = TcpStream::connect(house.address).await.expect("connects");
    stream.write_all(format!("{}{{\"lane\"", head("Content-Length: 500\r\n")).as_bytes()).await.expect("sends");
    drop(stream);
    alive(&house).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_for_proxies_and_endless_ones_are_refused_and_the_daemon_lives() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let host = house.address.to_string();
    let ask = |line: String| {
        exchange_owned(house.address, format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    for line in [
        "CONNECT example.com:443".to_owned(),
        format!("CONNECT {host}"),
        format!("GET http://{host}/livez"),
        "GET http://example.com/".to_owned(),
        "OPTIONS *".to_owned(),
    ] {
        raw_problem(&ask(line).await, 400, "invalid_request");
        alive(&house).await;
    }
    raw_problem(&ask(format!("GET /{}", "a".repeat(9_000))).await, 414, "uri_too_long");
    raw_problem(&ask(format!("GET /todos?repo={}", "a".repeat(9_000))).await, 414, "uri_too_long");
    // Larger than a whole head may be: the parser answers, without a body.
    let answer = ask(format!("GET /{}", "a".repeat(65_536))).await;
    assert!(
        answer.is_empty()
            || ["HTTP/1.1 414 ", "HTTP/1.1 431 ", "HTTP/1.1 400 "].iter().any(|line| answer.starts_with(line)),
        "{answer}"
    );
    let answer = exchange_owned(
        house.address,
        format!("GET /livez HTTP/1.1\r\nHost: {host}\r\nX-Long: {}\r\n\r\n", "a".repeat(20 * 1024)),
    )
    .await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..2_000).map(|n| format!("h{n}: v\r\n")).collect();
    let answer = exchange_owned(house.address, format!("GET /livez HTTP/1.1\r\nHost: {host}\r\n{many}\r\n")).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    alive(&house).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_gets_nothing_and_harms_nothing() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    let host = house.address.to_string();
    let noise: Vec<u8> = (0..4_096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let smuggled = format!(
        "POST /todos/work HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /openapi.json HTTP/1.1\r\nHost: {host}\r\n\r\n",
        house.token
    );
    let cases: [&[u8]; 9] = [
        &noise,
        b"\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /livez\r\n",
        b"GET /livez HTTP/0.9\r\n\r\n",
        b"GET /livez HTTP/3.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST /todos/work HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    ];
    for bytes in cases {
        let answer = exchange(house.address, bytes).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 505 "),
            "{:?}: {answer}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
    }
    let answer = exchange(house.address, smuggled.as_bytes()).await;
    assert!(!answer.contains("openapi"), "a second request came in the body of the first: {answer}");
    alive(&house).await;
    // Requests one after the other in one go are answered in their order.
    let two = format!(
        "GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\nGET /nothing HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\nGET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
        house.token
    );
    let answer = exchange(house.address, two.as_bytes()).await;
    let statuses: Vec<&str> =
        answer.lines().filter_map(|line| line.split_once("HTTP/1.1 ").map(|(_, rest)| &rest[..3])).collect();
    assert_eq!(statuses, ["200", "404", "200"], "{answer}");
    // The old protocol is answered as well, and closed.
    let old = exchange(house.address, format!("GET /livez HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_needs_no_token_and_is_this_users_alone() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let socket = site.path("run/door.sock");
    let extra: [(&'static str, &str); 1] = [("socket", socket.to_str().expect("text"))];
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    site.start_with(&[&repo], &extra, Faults::default()).await.stop().await;
    assert!(!socket.exists(), "the socket stays behind");
    // What a dead daemon left is replaced.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
    let house = site.start_with(&[&repo], &extra, Faults::default()).await;
    assert_eq!(
        (mode(&socket), mode(&site.path("run")), mode(&site.path("data")), mode(&site.path("data/token"))),
        (0o600, 0o700, 0o700, 0o600)
    );
    let reply = Client::unix(&socket)
        .post("/todos/work", &json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 }))
        .await
        .expect("answers");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let page = send(&Client::unix(&socket), "GET", "/todos", &[("origin", "http://evil.example")], "").await;
    problem(&page, 403, "forbidden_origin");
    // Another daemon does not take it away.
    let mut other = site.config(&[&repo], &extra);
    other.data_dir = site.path("other");
    let doors = Doors {
        runner: Runner::new(env!("CARGO_BIN_EXE_slugline").into()),
        ..Doors::real(slugline::actors::health::turning::Workers::unwatched())
    };
    let error = Daemon::build(&other, doors).await.err().expect("the socket is taken").to_string();
    assert!(error.contains("in use by another daemon") && error.contains("--socket"), "{error}");
    assert_eq!(Client::unix(&socket).get("/livez").await.expect("still answers").status, 200);
    house.stop().await;
    assert!(!socket.exists(), "the socket stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_answers_who_waits_and_closes_who_idles() {
    let site = Site::new();
    let repo = site.app(
        &["fix"],
        &format!(
            "[prepare]\ncommand = \"touch {0}/begun; while test ! -e {0}/go; do sleep 0.05; done\"\n",
            site.path("").display()
        ),
    );
    let house = site.start_with(&[&repo], &[("http.drain_ms", "30000")], Faults::default()).await;
    let (address, handle, token) = (house.address, house.handle.clone(), house.token.clone());
    let mut idle = TcpStream::connect(address).await.expect("connects");
    idle.write_all(format!("GET /livez HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.expect("sends");
    let mut first = [0; 9];
    idle.read_exact(&mut first).await.expect("is answered");
    let client = house.client.clone();
    let call = tokio::spawn(async move {
        client.post("/todos/work", &json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await
    });
    until("prepare to begin", || async { site.path("begun").exists().then_some(()) }).await;
    let stopping = tokio::spawn(house.stop());
    until("the daemon to drain", || async { (!handle.readiness().ok).then_some(()) }).await;
    // Whoever asks is told that it is not ready for as long as somebody waits.
    let asks = Client::tcp(address, Some(token));
    problem(&asks.get("/readyz").await.expect("is answered"), 503, "draining");
    let more = asks.post("/todos/work", &json!({ "lane": "builder", "slug": "fix" })).await.expect("is answered");
    problem(&more, 503, "draining");
    assert!(!call.is_finished(), "the call did not wait for its run");
    write(&site.path("go"), "");
    let reply = call.await.expect("no panic").expect("is answered");
    assert_eq!(
        (reply.status, phase(&reply.json(), "prepare")),
        (200, "run/worktree_created".into()),
        "{}",
        reply.text()
    );
    assert!(rest(&mut idle).await.ends_with("ok\n"), "who idles is closed");
    until("the listener to close", || async { TcpStream::connect(address).await.is_err().then_some(()) }).await;
    assert_eq!(stopping.await.expect("no panic"), End::Asked);
    assert!(!site.path("data/address").exists(), "the address of a daemon that is gone stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_holds_a_shutdown_up_no_longer_than_the_grace() {
    let (address, stop, serving) = short_limits(endless()).await;
    let mut half_head = TcpStream::connect(address).await.expect("connects");
    half_head.write_all(b"POST /todos/work HT").await.expect("sends");
    let mut half_body = TcpStream::connect(address).await.expect("connects");
    half_body.write_all(format!("{}{{", post(address, "Content-Length: 10\r\n")).as_bytes()).await.expect("sends");
    let mut never = TcpStream::connect(address).await.expect("connects");
    never.write_all(format!("GET /livez HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.expect("sends");
    // Taken in before the stop: a connection that came later is answered, so these three were accepted.
    let answer =
        exchange(address, format!("{}{{}}", post(address, "Connection: close\r\nContent-Length: 2\r\n")).as_bytes())
            .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(stop);
    // The limits are beyond the patience: only the grace can end this.
    tokio::time::timeout(PATIENCE, serving).await.expect("the grace cuts them").expect("ends");
    for stream in [&mut half_head, &mut half_body, &mut never] {
        assert_eq!(rest(stream).await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_valid_traceparent_reaches_the_prepare_command_and_no_other_text_does() {
    let site = Site::new();
    let repo = site.app(
        &["fix"],
        &format!("[prepare]\ncommand = \"echo \\\"<${{TRACEPARENT-none}}>\\\" >> {}/seen\"\n", site.path("").display()),
    );
    let house = site.start(&[&repo]).await;
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let invalid = [
        "",
        "x",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01; rm -rf /",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    ];
    for given in [good].iter().chain(&invalid) {
        let body = r#"{"lane":"builder","slug":"fix","refresh":true,"wait_ms":45000}"#;
        let reply = send(&house.client, "POST", "/todos/work", &[JSON, ("traceparent", given)], body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let seen = std::fs::read_to_string(site.path("seen")).expect("prepare ran");
    let place = Regex::new("^<00-([0-9a-f]{32})-[0-9a-f]{16}-01>$").expect("a pattern");
    let traces: Vec<String> = seen
        .lines()
        .map(|line| place.captures(line).unwrap_or_else(|| panic!("{line} is no place in a trace"))[1].to_owned())
        .collect();
    assert_eq!(traces[0], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(
        traces.iter().collect::<BTreeSet<_>>().len(),
        1 + invalid.len(),
        "the others are in traces of their own"
    );
    house.stop().await;
}

#[test]
fn the_page_about_the_interface_lists_every_problem_code() {
    let page = include_str!("../../docs/api.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), ProblemCode::ALL.len());
    for code in ProblemCode::ALL {
        let row =
            format!("| `{}` | {} | {} |", code.as_str(), code.status(), if code.retryable() { "yes" } else { "no" });
        assert!(rows.iter().any(|line| line.starts_with(&row)), "{row} is missing or different in docs/api.md");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_idles_does_not_hold_a_shutdown_up() {
    let (address, stop, serving) = bare_server(endless(), 10 * PATIENCE).await;
    let mut idle = TcpStream::connect(address).await.expect("connects");
    idle.write_all(format!("{}{{}}", post(address, "Content-Length: 2\r\n")).as_bytes()).await.expect("sends");
    idle.read_exact(&mut [0; 9]).await.expect("is answered");
    drop(stop);
    // Neither a limit nor the grace ends within the patience: it is closed because it idles.
    tokio::time::timeout(PATIENCE, serving).await.expect("the idle connection is closed").expect("ends");
    assert!(rest(&mut idle).await.ends_with("{}"));
}
