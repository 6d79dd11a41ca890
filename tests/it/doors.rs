//! The daemon's doors, over real sockets: who is let in and who is not, what one caller may cost, a new token, and secrets
//! that are told to nobody.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use hyper::Method;
use serde_json::{Value, json};
use slugline::actors::faults::Faults;
use slugline::cli::client::{Client, Reply};
use slugline::http::ROUTES;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::bad_input::listing;
use crate::ear::Ear;
use crate::harness::{House, PATIENCE, Repo, Site, Spawned, order, problem, until, write};
use crate::scale::size;

const JSON: (&str, &str) = ("content-type", "application/json");
/// Requests that are on at once where there are many.
const AT_ONCE: usize = 16;

/// Sends bytes as they are and says everything that comes back until the daemon closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // The daemon may have answered and closed before everything was taken.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the daemon closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer, its head in lowercase and its body.
fn parts(answer: &str) -> (u16, String, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head}")), head.to_ascii_lowercase(), body)
}

async fn get(client: &Client, path: &str, headers: &[(&str, &str)]) -> Reply {
    client.send(Method::GET, path, headers, Bytes::new()).await.expect("the daemon answers")
}

async fn post(client: &Client, path: &str, body: &Value) -> Reply {
    client.post(path, body).await.expect("the daemon answers")
}

async fn status_of(client: &Client, path: &str) -> u16 {
    get(client, path, &[]).await.status
}

/// One combination of what is sent.
#[derive(Debug, Clone)]
struct Combination {
    target: String,
    heads: Vec<String>,
    wanted: u16,
}

/// Every combination, each with the status it has to have. What is right is listed here, not asked of the code.
fn combinations(port: u16, token: &str) -> Vec<Combination> {
    // What comes first decides, in the order of the statuses: 400, 403, 401, 415.
    let hosts: [(&str, &[String], u16); 9] = [
        ("/failures/explain", &[format!("127.0.0.1:{port}")], 200),
        ("/failures/explain", &[format!("LOCALHOST:{port}")], 200),
        ("/failures/explain", &["[::1]".to_owned()], 200),
        ("/failures/explain", &["127.0.0.1.evil.com".to_owned()], 403),
        ("/failures/explain", &[format!("[::ffff:127.0.0.1]:{port}")], 403),
        ("/failures/explain", &[format!("localhost.:{port}")], 403),
        ("/failures/explain", &[format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}")], 403),
        ("/failures/explain", &["127.0.0.1:1".to_owned()], 403),
        ("http://127.0.0.1/failures/explain", &[format!("127.0.0.1:{port}")], 400),
    ];
    let origins = [
        (None, true),
        (Some(format!("http://localhost:{port}")), true),
        (Some("null".to_owned()), false),
        (Some("http://evil.com".to_owned()), false),
    ];
    let sites = [(None, true), (Some("same-origin"), true), (Some("cross-site"), false)];
    let kinds = [(Some("application/json"), true), (Some("text/plain"), false)];
    let tokens = [(Some(token), true), (Some("wrong"), false), (None, false)];
    let mut all = Vec::new();
    for (target, names, first) in &hosts {
        for (origin, from_us) in &origins {
            for (site, on_site) in sites {
                for (kind, is_json) in kinds {
                    for (token, is_token) in tokens {
                        let wanted = match (*first, *from_us && on_site, is_token, is_json) {
                            (200, true, true, true) => 200,
                            (200, true, true, false) => 415,
                            (200, true, false, _) => 401,
                            (200, false, ..) => 403,
                            (refused, ..) => refused,
                        };
                        let mut heads: Vec<String> = names.iter().map(|name| format!("Host: {name}")).collect();
                        heads.extend(origin.as_ref().map(|origin| format!("Origin: {origin}")));
                        heads.extend(site.map(|site| format!("Sec-Fetch-Site: {site}")));
                        heads.extend(kind.map(|kind| format!("Content-Type: {kind}")));
                        heads.extend(token.map(|token| format!("Authorization: Bearer {token}")));
                        all.push(Combination { target: (*target).to_owned(), heads, wanted });
                    }
                }
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_name_page_type_and_token_together_get_through() {
    let site = Site::new();
    let house = site.start(&[&site.app(&[], "")]).await;
    let body = r#"{"text":"it broke"}"#;
    let all = combinations(house.address.port(), &house.token);
    assert!(all.len() >= 400 && all.iter().filter(|one| one.wanted == 200).count() == 12, "{}", all.len());
    let address = house.address;
    let tried = stream::iter(all).map(|one| async move {
        let head = one.heads.join("\r\n");
        let length = body.len();
        let request = format!(
            "POST {} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}",
            one.target
        );
        (exchange(address, request.as_bytes()).await, one)
    });
    let answers: Vec<(String, Combination)> = tried.buffer_unordered(AT_ONCE).collect().await;
    let document = house.client.get("/openapi.json").await.expect("answers").json();
    for route in &ROUTES {
        let told = &document["paths"][route.path][route.method.to_lowercase()]["responses"]["429"];
        assert_eq!(told.is_null(), route.path == "/livez", "{} {} says nothing of waiting", route.method, route.path);
    }
    for (answer, one) in answers {
        let (status, head, body) = parts(&answer);
        assert_eq!(status, one.wanted, "{one:?}: {answer}");
        let refused = status != 200;
        assert_eq!(head.contains("content-type: application/problem+json"), refused, "{answer}");
        assert!(!refused || !body.contains("it broke"), "who is refused is told what was sent: {answer}");
        // No page elsewhere may ever read an answer, nor guess at what it is, nor have it run or framed.
        assert!(!head.contains("access-control-"), "{answer}");
        for wanted in [
            "x-content-type-options: nosniff",
            "cross-origin-resource-policy: same-origin",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'",
            "cache-control: no-store",
        ] {
            assert!(head.contains(wanted), "{wanted}: {answer}");
        }
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_name_is_let_in_from_plain_and_encrypted_pages_and_its_neighbours_are_not() {
    let site = Site::new();
    let hosts = [("http.allowed_hosts", "box.example.org, proxy.example.org:8443")];
    let house = site.start_with(&[&site.app(&[], "")], &hosts, Faults::default()).await;
    let port = house.address.port();
    for (host, origin, wanted) in [
        ("box.example.org".to_owned(), None, 200),
        (format!("BOX.example.org:{port}"), Some("http://box.example.org"), 200),
        ("box.example.org".to_owned(), Some("https://box.example.org"), 200),
        ("proxy.example.org:8443".to_owned(), Some("https://proxy.example.org:8443"), 200),
        ("proxy.example.org".to_owned(), None, 403),
        ("box.example.org.".to_owned(), None, 403),
        ("a.box.example.org".to_owned(), None, 403),
        ("box.example.org".to_owned(), Some("https://a.box.example.org"), 403),
    ] {
        let origin = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /todos HTTP/1.1\r\nHost: {host}\r\n{origin}Authorization: Bearer {}\r\nConnection: close\r\n\r\n",
            house.token
        );
        let answer = exchange(house.address, request.as_bytes()).await;
        assert_eq!(parts(&answer).0, wanted, "{request}{answer}");
    }
    house.stop().await;
}

#[test]
fn a_daemon_that_asks_nobody_for_a_token_does_not_start_beyond_loopback() {
    let site = Site::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
    // An address this machine does not have: should the daemon start after all, it is reached by nobody.
    command.args(["serve", "--listen", "192.0.2.1:0", "--data-dir"]).arg(site.path("data"));
    let output = command.env("SLUGLINE_AUTH_MODE", "none").output().expect("starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("mode = \"token\"") && said.contains("127.0.0.1"), "{said}");
    assert!(!site.path("data").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_paths_are_refused_in_words_and_leave_nothing_on_disk() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["fix"], "")]).await;
    house.order("fix").await;
    let before = listing(site.dir.path());
    let names = [
        "..",
        ".",
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "a%2fb",
        "a%5cb",
        "%00",
        "fix%00",
        "fix%0a",
        "%e2%80%ae",
        "fix%e2%80%8b",
        "%ef%bb%bffix",
        "%ff%fe",
        "%c0%ae%c0%ae",
        "%",
        "%zz",
        "con",
        "nul.txt",
        "aux",
        "com1",
        "fix.lock",
        "FIX",
        "fix%20",
        "fix.",
        "-f",
        "*",
        "~",
        "@%7b-1%7d",
        ".git",
        "refs%2fheads%2fmain",
    ];
    let long = [("a".repeat(300)), "%2e".repeat(2_000), "b".repeat(8_300)];
    let names: Vec<&str> = names.into_iter().chain(long.iter().map(String::as_str)).collect();
    let mut asked: Vec<(&str, String)> = Vec::new();
    for route in ROUTES.iter().filter(|route| route.path.contains('{')) {
        for name in &names {
            // A lane is a name and nothing else, and these are as good as any.
            if route.path.contains("{lane}") && matches!(*name, "con" | "nul.txt" | "aux" | "com1" | "fix.lock") {
                continue;
            }
            for parameter in ["{repo}", "{slug}", "{name}", "{id}", "{lane}", "{file}"] {
                if route.path.contains(parameter) {
                    let path = route.path.replace(parameter, name).replace("{repo}", "app");
                    asked.push((route.method, path.replace("{slug}", "fix").replace("{name}", "fix")));
                }
            }
        }
    }
    assert!(asked.len() > 600, "{}", asked.len());
    let client = &house.client;
    let answers = stream::iter(asked).map(|(method, path)| async move {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let body = if method == Method::GET { Bytes::new() } else { Bytes::from_static(b"{}") };
        (client.send(method.clone(), &path, &[JSON], body).await.expect("the daemon answers"), method, path)
    });
    for (reply, method, path) in answers.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
        let shown: String = path.chars().take(100).collect();
        assert!((400..500).contains(&reply.status), "{method} {shown}: {} {}", reply.status, reply.text());
        problem(&reply, reply.status, reply.json()["code"].as_str().unwrap_or("none"));
    }
    // What no client would send. The parser answers what is no HTTP by itself, without a document.
    let host = format!("Host: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n", house.address, house.token);
    for (line, statuses) in [
        ("CONNECT 127.0.0.1:22 HTTP/1.1".to_owned(), &[400_u16][..]),
        ("CONNECT /todos HTTP/1.1".to_owned(), &[400, 405]),
        ("GET todos HTTP/1.1".to_owned(), &[400]),
        ("GET //todos HTTP/1.1".to_owned(), &[404]),
        ("GET /todos/app/fix\0 HTTP/1.1".to_owned(), &[400]),
        ("GET /todos/app/\u{202e}fix HTTP/1.1".to_owned(), &[400, 404]),
        ("GET /todos/app/../../etc HTTP/1.1".to_owned(), &[404]),
        (format!("GET /todos?repo={} HTTP/1.1", "a".repeat(10_000)), &[414]),
        (format!("GET /{} HTTP/1.1", "a".repeat(65_536)), &[414, 431]),
    ] {
        let answer = exchange(house.address, format!("{line}\r\n{host}").as_bytes()).await;
        let shown: String = line.chars().take(60).collect();
        assert!(statuses.contains(&parts(&answer).0), "{shown}: {answer}");
    }
    assert_eq!(status_of(&house.client, "/readyz").await, 200);
    assert_eq!(listing(site.dir.path()), before);
    house.stop().await;
}

/// Lets this process have as many files open as the system gives it.
fn many_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Half a request, then a byte now and then, until the daemon closes; says how long that took.
async fn dawdle(address: SocketAddr, half: String) -> Duration {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let begun = Instant::now();
    let (mut beat, mut buffer) = (tokio::time::interval(Duration::from_millis(500)), [0; 4_096]);
    if stream.write_all(half.as_bytes()).await.is_err() {
        return begun.elapsed();
    }
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => if matches!(read, Ok(0) | Err(_)) { return begun.elapsed() },
            _ = beat.tick() => if stream.write_all(b"x").await.is_err() { return begun.elapsed() },
        }
        assert!(begun.elapsed() < PATIENCE, "the daemon does not close {half:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_slowly_is_closed_and_keeps_nobody_out() {
    let count = usize::try_from(size("TEST_SLOW", [200, 1_000, 5_000])).expect("a number of them");
    let time_ms = size("TEST_SLOW_MS", [2_000, 10_000, 10_000]);
    assert!(many_files() > 2 * count as u64 + 256, "this system gives too few open files");
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    // Room for half of them, so that others have to be let go for whoever comes.
    let vars = [
        ("SLUGLINE_HTTP_HEAD_MS", time_ms.to_string().into()),
        ("SLUGLINE_HTTP_BODY_MS", time_ms.to_string().into()),
        ("SLUGLINE_HTTP_CONNECTIONS_MAX", count.to_string().into()),
    ];
    let daemon = site.spawn_with(&[&repo], &vars).await;
    let address = daemon.client.address().expect("by TCP");
    let healthy = async |rounds: usize| {
        let mut took = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            let reply = daemon.client.get("/todos").await.expect("is answered all the while");
            assert_eq!(reply.status, 200, "{}", reply.text());
            took.push(begun.elapsed());
        }
        took.sort();
        took[took.len() * 99 / 100]
    };
    let alone = healthy(100).await;
    let heads = (0..count).map(|_| format!("POST /todos/work HTTP/1.1\r\nHost: {address}\r\nX-Slow: "));
    // A body of nobody, where none is asked for a token, so that it is waited for.
    let bodies = (0..count).map(|_| {
        format!(
            "POST /console/sign-in HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{{"
        )
    });
    let slow: Vec<_> = heads.chain(bodies).map(|half| tokio::spawn(dawdle(address, half))).collect();
    let beside = healthy(100).await;
    let body = json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 });
    order(&daemon.client.post("/todos/work", &body).await.expect("answers"));
    site.promises.work_in(&site.worktree("fix"));
    let mut longest = Duration::ZERO;
    for one in slow {
        longest = longest.max(one.await.expect("is closed"));
    }
    println!("{count} of each: p99 {alone:?} alone, {beside:?} beside them; the last was closed after {longest:?}");
    assert!(longest < Duration::from_secs(30), "{longest:?}");
    healthy(10).await;
    daemon.kill_with_all_kept().await;
}

/// Asks once more on a connection that stays open, and says the first line of the answer.
async fn ask_on(stream: &mut TcpStream, house: &House) -> String {
    let request =
        format!("GET /lag HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n", house.address, house.token);
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let mut body = vec![0; length.expect("a length")];
    stream.read_exact(&mut body).await.expect("a body");
    head.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_make_room_for_whoever_comes_and_who_is_known_keeps_its_place() {
    let site = Site::new();
    // Nobody is closed because of the time it takes.
    let limits = [("http.connections_max", "16"), ("http.head_ms", "600000"), ("http.body_ms", "600000")];
    let house = site.start_with(&[&site.app(&["fix"], "")], &limits, Faults::default()).await;
    house.begun("fix").await;
    let mut known = TcpStream::connect(house.address).await.expect("connects");
    assert_eq!(ask_on(&mut known, &house).await, "http/1.1 200 ok");
    let mut strangers = Vec::new();
    for number in 0..30 {
        let mut stranger = TcpStream::connect(house.address).await.expect("connects");
        // Some say nothing, some half a head, some have asked what everybody may, some send half a body.
        let said = match number % 4 {
            0 => String::new(),
            1 => "GET /livez HTTP/1.1\r\nHost: ".to_owned(),
            2 => format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", house.address),
            _ => format!(
                "POST /console/sign-in HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{",
                house.address
            ),
        };
        stranger.write_all(said.as_bytes()).await.expect("sends");
        strangers.push(stranger);
    }
    for _ in 0..3 {
        assert_eq!(status_of(&house.client, "/todos").await, 200);
    }
    assert_eq!(ask_on(&mut known, &house).await, "http/1.1 200 ok");
    drop(strangers);
    house.stop_with_all_kept().await;
}

/// A daemon that may have so many files open.
async fn with_files(site: &Site, repo: &Repo, files: u64) -> Spawned {
    let line = format!("ulimit -n {files} && exec \"$@\"");
    let data = site.path("data");
    let mut command = Command::new("sh");
    command.args(["-c", &line, "sh", env!("CARGO_BIN_EXE_slugline"), "serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(&data).arg("--repo").arg(&repo.path).env("SLUGLINE_LOG_LEVEL", "warn");
    let log = std::fs::File::create(site.path("daemon.log")).expect("log");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("starts");
    let address = until("the daemon to write its address", || async {
        std::fs::read_to_string(data.join("address")).ok()?.trim().parse().ok()
    });
    let client = Client::tcp(address.await, Some(token_in(&data)));
    Spawned { child, client: site.noting(client) }
}

fn token_in(data: &Path) -> String {
    std::fs::read_to_string(data.join("token")).expect("token").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_all_connections_leaves_files_for_store_and_git() {
    let site = Site::new();
    let repo = site.app(&["fix"], "[prepare]\ncommand = \"git log -1 > made.txt\"\n");
    let daemon = with_files(&site, &repo, 200).await;
    let address = daemon.client.address().expect("by TCP");
    // More than there are files; each is let go when it has to be, and taken again.
    let crowd = tokio::spawn(async move {
        let mut held = std::collections::VecDeque::new();
        loop {
            if let Ok(stream) = TcpStream::connect(address).await {
                held.push_back(stream);
            }
            if held.len() > 300 {
                held.pop_front();
            }
        }
    });
    until("the places to be taken", || async {
        let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).map_or(0, Iterator::count);
        (files >= 100).then_some(())
    })
    .await;
    let body = json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 });
    order(&daemon.client.post("/todos/work", &body).await.expect("answers"));
    site.promises.work_in(&site.worktree("fix"));
    assert!(site.worktree("fix").join("made.txt").exists());
    let warned = std::fs::read_to_string(site.path("daemon.log")).expect("log");
    assert!(warned.contains("fewer open files") && !warned.contains("could not be accepted"), "{warned}");
    crowd.abort();
    daemon.kill_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_to_wait_and_nobody_else_is() {
    let site = Site::new();
    let pace = [("http.requests_per_s", "1"), ("http.requests_burst", "20")];
    let house = site.start_with(&[&site.app(&[], "")], &pace, Faults::default()).await;
    let stranger = Client::tcp(house.address, None);
    let (begun, mut passed) = (Instant::now(), 0_u64);
    let refused = loop {
        let reply = get(&house.client, "/todos", &[]).await;
        if reply.status != 200 {
            break reply;
        }
        passed += 1;
        assert!(passed <= 21 + begun.elapsed().as_secs(), "{passed} were let through");
    };
    assert!(passed >= 20, "{passed}");
    let told = problem(&refused, 429, "busy");
    assert!((1..=1_000).contains(&told["retry_after_ms"].as_u64().expect("a time")), "{told}");
    assert_eq!(refused.headers["retry-after"], "1");
    // Whoever watches whether it lives hears so, whatever else is asked.
    for _ in 0..50 {
        assert_eq!(status_of(&stranger, "/livez").await, 200);
    }
    // Strangers and those on the socket are counted by themselves, and strangers no less.
    assert_eq!(status_of(&stranger, "/todos").await, 401);
    assert_eq!(status_of(&Client::unix(&site.path("data").join("slugline.sock")), "/todos").await, 200);
    until("strangers to be told to wait", || async { (status_of(&stranger, "/todos").await == 429).then_some(()) })
        .await;
    // A while later there is room again.
    until("room again", || async { (status_of(&house.client, "/todos").await == 200).then_some(()) }).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_cannot_take_every_listeners_place() {
    let site = Site::new();
    let (each, all) = ([("http.event_clients_per_caller_max", "2")], [("http.event_clients_max", "3")]);
    let limits = [each, all].concat();
    let house = site.start_with(&[&site.app(&[], "")], &limits, Faults::default()).await;
    let first = Ear::at(&house, "", None).await;
    let _second = Ear::at(&house, "", None).await;
    let refused = house.client.get("/events").await.expect("answers");
    let told = problem(&refused, 429, "busy");
    assert!(told["detail"].as_str().expect("words").contains("event_clients_per_caller_max"), "{told}");
    assert!(refused.headers.contains_key("retry-after"));
    // A browser is somebody else; then all places are taken.
    let signed = post(&house.client, "/console/sign-in", &json!({ "token": house.token })).await;
    let browser = Browser::of(&house, &signed);
    let mut shown = browser.listen(house.address).await;
    assert!(shown.head.starts_with("http/1.1 200"), "{}", shown.head);
    let other = browser.get("/events").await;
    let told = problem(&other, 429, "busy");
    assert!(told["detail"].as_str().expect("words").contains("event_clients_max"), "{told}");
    // A place that is given up is free again.
    drop(first);
    until("a place to be free", || async { (Ear::at(&house, "", None).await.status == 200).then_some(()) }).await;
    shown.stream.shutdown().await.expect("closes");
    house.stop().await;
}

/// A browser that is signed in.
struct Browser {
    client: Client,
    cookie: String,
    key: String,
}

/// A stream it listens to.
struct Shown {
    stream: TcpStream,
    head: String,
}

impl Browser {
    fn of(house: &House, reply: &Reply) -> Self {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let cookie = reply.headers["set-cookie"].to_str().expect("text").split(';').next().expect("a pair").to_owned();
        let key = reply.json()["key"].as_str().expect("a key").to_owned();
        Self { client: Client::tcp(house.address, None), cookie, key }
    }

    async fn get(&self, path: &str) -> Reply {
        get(&self.client, path, &[("cookie", &self.cookie), ("x-slugline-key", &self.key)]).await
    }

    async fn listen(&self, address: SocketAddr) -> Shown {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!(
            "GET /events HTTP/1.1\r\nHost: {address}\r\nCookie: {}\r\nX-Slugline-Key: {}\r\n\r\n",
            self.cookie, self.key
        );
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        Shown { stream, head: String::from_utf8_lossy(&head).to_ascii_lowercase() }
    }
}

/// `slugline token …` on a site's data: exit code and what it said.
async fn token_command(site: &Site, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
    command.arg("token").args(args).arg("--data-dir").arg(site.path("data")).current_dir(site.dir.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("runs").expect("starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_token_is_good_for_its_grace_and_what_hangs_on_it_ends_with_it() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let house = site.start(&[&repo]).await;
    let file = site.path("data").join("token");
    let old = house.client.clone();
    let in_a_browser = Browser::of(&house, &post(&old, "/console/sign-in", &json!({ "token": house.token })).await);
    let mut ear = Ear::at(&house, "", None).await;
    ear.next().await.expect("hello");
    let (code, path) = token_command(&site, &["path"]).await;
    assert_eq!((code, path.trim()), (Some(0), file.to_str().expect("text")));

    // By the socket, with the grace of the configuration: a minute.
    let (code, said) = token_command(&site, &["rotate"]).await;
    assert_eq!(code, Some(0), "{said}");
    let second = token_in(&site.path("data"));
    assert!(second != house.token && !said.contains(&second) && said.contains("good until"), "{said}");
    assert_eq!(std::fs::metadata(&file).expect("is there").permissions().mode() & 0o777, 0o600);
    let new = Client::tcp(house.address, Some(second.clone()));
    assert_eq!((status_of(&old, "/todos").await, status_of(&new, "/todos").await), (200, 200));
    assert_eq!(in_a_browser.get("/todos").await.status, 200);
    // With the old one nobody gets beyond its grace: not by a new token, not by a sign-in, not by a link.
    problem(&post(&old, "/token/rotate", &json!({})).await, 401, "unauthorized");
    let by_old = Browser::of(&house, &post(&old, "/console/sign-in", &json!({ "token": house.token })).await);
    let link = post(&old, "/console/links", &json!({})).await.json()["url"].as_str().expect("a link").to_owned();
    let link_code = link.split("#code=").nth(1).expect("a code").to_owned();
    let by_link = Browser::of(&house, &post(&old, "/console/sign-in", &json!({ "code": link_code })).await);
    let by_new = Browser::of(&house, &post(&new, "/console/sign-in", &json!({ "token": second })).await);
    for browser in [&by_old, &by_link, &by_new] {
        assert_eq!(browser.get("/todos").await.status, 200);
    }

    // Again, and at once: the first one's grace is over with it.
    let rotated = post(&new, "/token/rotate", &json!({ "grace_ms": 0 })).await;
    assert_eq!((rotated.status, rotated.json()["grace_ms"].as_u64()), (200, Some(0)), "{}", rotated.text());
    let third = Client::tcp(house.address, Some(token_in(&site.path("data"))));
    for client in [&old, &new] {
        problem(&client.get("/todos").await.expect("answers"), 401, "unauthorized");
    }
    for browser in [&in_a_browser, &by_old, &by_link, &by_new] {
        problem(&browser.get("/todos").await, 401, "unauthorized");
    }
    while ear.next().await.is_some() {}
    assert_eq!(status_of(&third, "/todos").await, 200);

    // A grace that is short ends by itself.
    let rotated = post(&third, "/token/rotate", &json!({ "grace_ms": 50 })).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    until("the grace to be over", || async { (status_of(&third, "/todos").await == 401).then_some(()) }).await;
    for (body, wanted) in
        [(json!({ "grace_ms": -1 }), 400), (json!({ "grace_ms": 86_400_001 }), 400), (json!({ "x": 1 }), 400)]
    {
        let client = Client::tcp(house.address, Some(token_in(&site.path("data"))));
        assert_eq!(post(&client, "/token/rotate", &body).await.status, wanted, "{body}");
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_knows_the_new_token_and_no_old_one() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let first = site.start(&[&repo]).await;
    let socket = Client::unix(&site.path("data").join("slugline.sock"));
    let rotated = post(&socket, "/token/rotate", &json!({ "grace_ms": 86_400_000 })).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    assert_eq!(rotated.json()["token_path"], site.path("data").join("token").display().to_string());
    let old = first.token.clone();
    assert_eq!(status_of(&first.client, "/todos").await, 200, "its grace is a day");
    first.stop().await;
    let second = site.start(&[&repo]).await;
    assert_ne!(second.token, old);
    assert_eq!(status_of(&second.client, "/todos").await, 200);
    assert_eq!(status_of(&Client::tcp(second.address, Some(old)), "/todos").await, 401);
    // What cannot be written changes nothing.
    std::fs::create_dir(site.path("data").join("token.part")).expect("makes");
    problem(&post(&second.client, "/token/rotate", &json!({})).await, 500, "internal");
    assert_eq!(status_of(&second.client, "/todos").await, 200);
    second.stop().await;
}

/// Whoever asks is told that they may not.
async fn forbidding() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4_096];
            let _ = stream.read(&mut asked).await;
            let said = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(said).await;
        }
    });
    address
}

/// Every file below a directory with its content.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                found.insert(entry.path(), std::fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    found
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_log_ledger_event_dump_metric_answer_or_command() {
    let site = Site::new();
    // What prints its environment, and that of the process that supervises it.
    let command = "env | tee seen.txt; tr '\\\\0' '\\\\n' < /proc/$PPID/environ";
    let repo = site.app(&["fix"], &format!("[prepare]\ncommand = \"{command}\"\n"));
    let remote = forbidding().await;
    repo.git(&[
        "remote",
        "add",
        "origin",
        &format!("http://bot:canary-url@{remote}/app.git?private_token=canary-query"),
    ]);
    write(&site.path("home/.netrc"), "machine 127.0.0.1 login bot password canary-netrc\n");
    let config = format!("[[repositories]]\nname = \"app\"\npath = \"{}\"\nremote = \"origin\"\n", repo.path.display());
    write(&site.path("slugline.toml"), &config);
    let vars: [(&str, PathBuf); 12] = [
        ("SLUGLINE_CONFIG", site.path("slugline.toml")),
        ("SLUGLINE_JOBS_FETCH_EVERY_MS", "200".into()),
        ("SLUGLINE_LOG_LEVEL", "trace".into()),
        ("HOME", site.path("home")),
        ("GIT_ASKPASS", "echo canary-askpass".into()),
        ("AWS_SECRET_ACCESS_KEY", "canary-aws".into()),
        ("GITHUB_TOKEN", "canary-github".into()),
        ("npm_config__authToken", "canary-npm".into()),
        ("UV_PUBLISH_TOKEN", "canary-uv".into()),
        ("PIP_INDEX_URL", "https://u:canary-pip@127.0.0.1/simple".into()),
        ("https_proxy", "http://u:canary-proxy@127.0.0.1:9".into()),
        ("no_proxy", "127.0.0.1".into()),
    ];
    let daemon = site.spawn_with(&[], &vars).await;
    let client = &daemon.client;
    let token = token_in(&site.path("data"));

    // Work, a fetch that fails, a sign-in, a dump.
    let work = post(client, "/todos/work", &json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await;
    let operation = order(&work)["operation"].as_str().expect("an operation").to_owned();
    let fault = until("a fetch to fail", || async {
        let jobs = client.get("/jobs").await.ok()?.json();
        let fetch = jobs.as_array()?.iter().find(|job| job["job"] == "fetch")?.to_string();
        fetch.contains("unable to access").then_some(fetch)
    })
    .await;
    assert!(fault.contains("private_token=***"), "the address is told without what is secret in it: {fault}");
    let signed = post(client, "/console/sign-in", &json!({ "token": token })).await;
    let (key, cookie) = (signed.json()["key"].clone(), signed.headers["set-cookie"].to_str().expect("text").to_owned());
    let dump = post(client, "/debug/hang-dump", &json!({})).await.json()["id"].as_str().expect("an id").to_owned();
    let fields = |text: &str| text.split(['=', ';']).nth(1).unwrap_or_default().to_owned();

    // Everything that is told.
    let mut told: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for path in [
        "/metrics",
        "/status",
        "/readyz?verbose",
        "/jobs",
        "/incidents",
        "/actors",
        "/hangs",
        "/lanes",
        "/failures",
        "/sessions",
        "/todos",
        "/todos/app/fix",
        "/worktrees?wait_ms=5000",
        "/worktrees/app/fix",
        "/repositories",
        "/operations",
        "/lag",
        &format!("/operations/{operation}"),
        &format!("/operations/{operation}/log"),
        &format!("/hangs/{dump}"),
    ] {
        let reply = client.get(path).await.expect("answers");
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        told.insert(path.to_owned(), reply.body.to_vec());
    }
    let mut ear = Ear::connect(client.address().expect("by TCP"), &token, "", Some("0")).await;
    let mut events = Vec::new();
    let wanted = ["claim.granted", "operation.updated", "phase.finished", "job.updated"];
    while !wanted.iter().all(|kind| has(&events, kind)) {
        let heard = ear.next().await.expect("an event");
        events.extend(format!("{} {}\n", heard.kind, heard.data).into_bytes());
    }
    told.insert("/events".to_owned(), events);
    told.insert("the log".to_owned(), std::fs::read(site.path("daemon.log")).expect("log"));
    let kept = contents(&site.path("data"));
    assert!(kept.keys().any(|path| path.ends_with("worktrees/app/fix/seen.txt")), "prepare printed nothing");
    told.extend(kept.into_iter().map(|(path, content)| (path.display().to_string(), content)));
    // It is looked for where it has to be, so that looking is known to find.
    let token_file = site.path("data").join("token").display().to_string();
    assert!(has(&told.remove(&token_file).expect("the token's file"), &token));
    assert!(has(&told[&format!("/operations/{operation}/log")], "PATH="), "prepare printed no environment");

    let secrets = [token.as_str(), key.as_str().expect("a key"), &fields(&cookie), "canary-"];
    for (place, content) in &told {
        for secret in secrets {
            let at = content.windows(secret.len()).position(|window| window == secret.as_bytes());
            let around =
                at.map(|at| String::from_utf8_lossy(&content[at.saturating_sub(200)..(at + 60).min(content.len())]));
            assert!(around.is_none(), "{place} has a secret: {}", around.unwrap_or_default());
        }
    }
}

#[test]
fn a_variable_that_is_no_setting_is_refused_without_its_value() {
    let site = Site::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
    command.args(["serve", "--data-dir"]).arg(site.path("data"));
    let output = command.env("SLUGLINE_TOKEN", "canary-token").output().expect("starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("SLUGLINE_TOKEN") && !said.contains("canary"), "{said}");
}
