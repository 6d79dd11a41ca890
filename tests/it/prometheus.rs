//! What operators are given, against a real Prometheus: it scrapes a daemon under a scripted load; every rule, alert and
//! panel of `grafana/` is evaluated on what it got.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;
use regex::Regex;
use serde_json::{Value, json};
use slugline::cli::client::{Client, Reply};

use super::ear::Ear;
use super::harness::{Repo, Site, Spawned, until};

/// The daemon is under load for so long, and for so many rounds at least, however slow the machine.
const LOAD: Duration = Duration::from_secs(40);
const ROUNDS_MIN: usize = 12;
/// Todos; each round of the load takes one.
const SLUGS: usize = 99;
/// The range in the place of Grafana's `$__rate_interval`: what happened once in the load is in it.
const RATE: &str = "5m";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The directory with `prometheus` and `promtool`.
fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let found = Command::new(root().join("grafana/fetch-prometheus")).output().expect("starts");
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
        PathBuf::from(String::from_utf8(found.stdout).expect("text").trim())
    })
}

fn promtool(args: &[&str], stdin: &str) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(tools().join("promtool"))
        .args(args)
        .current_dir(root().join("grafana/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child.stdin.take().expect("is piped").write_all(stdin.as_bytes()).expect("is read");
    child.wait_with_output().expect("ends")
}

fn accepted(output: &Output) {
    let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).join("\n");
    assert!(output.status.success(), "{}: {said}", output.status);
}

/// Files of a directory below `grafana/prometheus` with this ending.
fn files(dir: &str, ending: &str) -> Vec<String> {
    let all = std::fs::read_dir(root().join("grafana/prometheus").join(dir)).expect("is there");
    let named = all.map(|entry| format!("{dir}/{}", entry.expect("reads").file_name().to_string_lossy()));
    let mut fitting: Vec<String> = named.filter(|name| name.ends_with(ending)).collect();
    fitting.sort();
    fitting
}

#[test]
fn every_alert_and_rule_is_valid_fires_in_a_case_and_keeps_quiet_in_another() {
    accepted(&promtool(&["check", "config", "prometheus.yaml"], ""));
    accepted(&promtool(&["check", "rules", "rules.yaml", "alerts.yaml"], ""));
    let cases = files("tests", ".yaml");
    let mut args = vec!["test", "rules"];
    args.extend(cases.iter().map(String::as_str));
    accepted(&promtool(&args, ""));
    let text = |file: &str| std::fs::read_to_string(root().join("grafana/prometheus").join(file)).expect("reads");
    let tested: String = cases.iter().map(|file| text(file)).collect();
    // From one expectation to the next: its alert's name, and what fires when something is expected to.
    let expected: Vec<(&str, bool)> = tested
        .split("alertname: ")
        .skip(1)
        .filter_map(|case| Some((case.split(['\n', ',']).next()?, case.contains("exp_labels"))))
        .collect();
    let name = Regex::new(r"(?m)^ *- alert: (\w+)$").expect("a pattern");
    let alerts: Vec<String> = name.captures_iter(&text("alerts.yaml")).map(|found| found[1].to_owned()).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    for alert in alerts {
        let runbook = root().join(format!("docs/runbooks/{alert}.md"));
        assert!(runbook.is_file(), "{alert} has no runbook");
        assert!(expected.contains(&(&alert, true)), "no case in which {alert} fires");
        assert!(expected.contains(&(&alert, false)), "no case in which {alert} keeps quiet");
    }
}

/// The values of a page by series, as written.
fn values(page: &str) -> BTreeMap<&str, &str> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_how_lanes_actors_and_the_ledger_stand_is_told_as_it_is() {
    let site = Site::new();
    let repo = site.app(&["one", "two", "three"], "");
    repo.write("todos/roadmap.yaml", "- slug: one\n- slug: two\n- slug: three\n  lane: reviewer\n");
    repo.commit("a lane of its own");
    let config = site.path("slugline.toml");
    super::harness::write(&config, "[jobs]\nreadiness_every_ms = 100\n[[lane]]\nname = \"builder\"\nwip_limit = 2\n");
    let daemon = site.spawn_with(&[&repo], &[("SLUGLINE_CONFIG", config)]).await;
    let post = |path: &'static str, body: Value| {
        let client = &daemon.client;
        async move { client.post(path, &body).await.expect("answers") }
    };
    let given = post("/todos/work", json!({ "lane": "builder", "slug": "one", "wait_ms": 20_000 })).await;
    assert_eq!(given.status, 200, "{}", given.text());
    assert_eq!(post("/lanes/reviewer/pause", json!({ "reason": "a try" })).await.status, 200);
    // What waits is looked for every fifteen seconds at most: the first time found nothing read, or was before the grant.
    let page = until("what waits to be told", || async {
        let page = daemon.client.get("/metrics").await.expect("answers").text();
        let told = values(&page);
        let waits = |lane: &str| told.get(format!("slugline_queue_depth{{lane=\"{lane}\"}}").as_str()) == Some(&"1");
        let both_wait = waits("reviewer") && waits("(any)");
        both_wait.then_some(page)
    })
    .await;
    let told = values(&page);
    for (series, value) in [
        ("slugline_queue_depth{lane=\"(any)\"}", "1"),
        ("slugline_work_items{state=\"ready\"}", "2"),
        ("slugline_work_items{state=\"build\"}", "1"),
        ("slugline_lane_in_use{lane=\"builder\"}", "1"),
        ("slugline_lane_capacity{lane=\"builder\"}", "2"),
        ("slugline_lane_open{lane=\"builder\"}", "1"),
        ("slugline_lane_capacity{lane=\"reviewer\"}", "inf"),
        ("slugline_lane_open{lane=\"reviewer\"}", "0"),
        ("slugline_breakers{scope=\"lane\",state=\"open\"}", "1"),
        ("slugline_claims_total{lane=\"builder\",result=\"granted\"}", "1"),
        ("slugline_queue_wait_seconds_count{lane=\"builder\"}", "1"),
        ("slugline_claims_active", "1"),
        ("slugline_actors{kind=\"slug\",state=\"idle\"}", "1"),
        ("slugline_actors{kind=\"repository\",state=\"parked\"}", "0"),
        ("slugline_singleflight_waiters{op=\"work\"}", "0"),
        ("http_server_active_requests{http_request_method=\"GET\"}", "1"),
    ] {
        assert_eq!(told.get(series), Some(&value), "{series}");
    }
    let number = |series: &str| told[series].parse::<f64>().expect("a number");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
    let waited = now - number("slugline_work_oldest_ready_timestamp_seconds");
    assert!((0.0..120.0).contains(&waited), "{waited} s");
    assert!(number("slugline_store_bytes{file=\"db\"}") > 0.0);
    let (free, size) = ("slugline_disk_free_bytes{dir=\"data\"}", "slugline_disk_size_bytes{dir=\"data\"}");
    assert!(number(free) > 0.0 && number(free) <= number(size), "{} of {}", told[free], told[size]);
    assert!(told["process_cpu_seconds_total"].contains('.'), "seconds with their fractions");
    assert_eq!(post("/todos/app/one/release", json!({ "token": 1 })).await.status, 200);
    let page = daemon.client.get("/metrics").await.expect("answers").text();
    let told = values(&page);
    assert_eq!(told.get("slugline_claim_hold_seconds_count{outcome=\"released\"}"), Some(&"1"));
    assert_eq!((told["slugline_claims_active"], told["slugline_lane_in_use{lane=\"builder\"}"]), ("0", "0"));
}

/// A Prometheus that scrapes one daemon every second. Killed when dropped.
struct Prometheus {
    child: Child,
    client: Client,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    async fn start(dir: &Path, target: SocketAddr) -> Self {
        // Rules that are evaluated every few minutes are evaluated every second here.
        let interval = Regex::new(r"(?m)^ +interval: .*$").expect("a pattern");
        for file in ["rules.yaml", "alerts.yaml"] {
            let text = std::fs::read_to_string(root().join("grafana/prometheus").join(file)).expect("reads");
            super::harness::write(&dir.join(file), &interval.replace_all(&text, "    interval: 1s"));
        }
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": ["rules.yaml", "alerts.yaml"],
            "scrape_configs": [{ "job_name": "slugline", "static_configs": [{ "targets": [target.to_string()] }] }],
        });
        // JSON is YAML.
        super::harness::write(&dir.join("prometheus.yaml"), &config.to_string());
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound");
        let log = std::fs::File::create(dir.join("prometheus.log")).expect("creates");
        let child = Command::new(tools().join("prometheus"))
            .arg(format!("--config.file={}", dir.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={free}"))
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts");
        let started = Self { child, client: Client::tcp(free, None) };
        until("prometheus to be ready", || async {
            let ready = started.client.get("/-/ready").await.ok()?;
            (ready.status == 200).then_some(())
        })
        .await;
        started
    }

    async fn ask(&self, path: &str) -> Value {
        let answer = self.client.get(path).await.expect("prometheus answers").json();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// How many series an expression has now that are numbers.
    async fn series(&self, expression: &str) -> usize {
        let encoded = percent_encoding::utf8_percent_encode(expression, percent_encoding::NON_ALPHANUMERIC);
        let found = self.ask(&format!("/api/v1/query?query={encoded}")).await;
        let result = found["result"].as_array().cloned().unwrap_or_default();
        result.iter().filter(|series| series["value"][1] != "NaN").count()
    }
}

/// Everything that makes the daemon count something, again and again.
struct Load<'a> {
    daemon: &'a Spawned,
    repo: &'a Repo,
    address: SocketAddr,
    token: String,
}

impl Load<'_> {
    async fn post(&self, path: &str, body: Value) -> Reply {
        self.daemon.client.post(path, &body).await.expect("answers")
    }

    async fn work(&self, lane: &str, slug: &str) -> Value {
        self.post("/todos/work", json!({ "lane": lane, "slug": slug, "wait_ms": 20_000 })).await.json()
    }

    async fn round(&self, number: usize) {
        let get = |path: &'static str| async move { self.daemon.client.get(path).await.expect("answers") };
        let slug = format!("t{number:02}");
        // What fails does so in lanes of its own: three failures of a kind pause a lane.
        let (lane, outcome) = if number.is_multiple_of(2) { ("builder", "done") } else { ("flaky", "failed") };
        let order = self.work(lane, &slug).await;
        let token = order["claim"]["token"].clone();
        for _ in 0..5 {
            self.work(lane, &slug).await;
        }
        self.post(&format!("/todos/app/{slug}/heartbeat"), json!({ "token": token, "progress": "on it" })).await;
        self.post(&format!("/todos/app/{slug}/release"), json!({ "token": 999 })).await;
        self.post("/todos/work", json!({ "lane": "other-lane", "slug": slug, "worker": "w2" })).await;
        let complete = json!({ "token": token, "outcome": outcome, "summary": "so it went", "reason": "it broke" });
        self.post(&format!("/todos/app/{slug}/complete"), complete).await;
        self.work("breaking", "bad").await;
        self.post("/todos/work", json!({ "lane": "builder", "slug": "nobody" })).await;
        self.repo.write("README.md", &format!("{number}\n"));
        self.repo.commit("the base moves");
        for path in ["/worktrees?wait_ms=5000", "/sessions", "/todos", "/status", "/actors", "/lanes"] {
            get(path).await;
        }
        let foreign = [("host", "evil.example")];
        drop(self.daemon.client.send(Method::GET, "/lanes", &foreign, Bytes::new()).await);
        drop(Client::tcp(self.address, None).get("/lanes").await);
        let mut ear = Ear::connect(self.address, &self.token, "", Some("1")).await;
        ear.next().await.expect("hello");
    }
}

/// An expression with its place, made what Grafana would send.
fn of_dashboards() -> Vec<(String, String)> {
    fn walk(panels: &Value, place: &str, found: &mut Vec<(String, String)>) {
        for panel in panels.as_array().into_iter().flatten() {
            let place = format!("{place} / {}", panel["title"].as_str().unwrap_or("?"));
            for target in panel["targets"].as_array().into_iter().flatten() {
                found.extend(target["expr"].as_str().map(|expr| (place.clone(), expr.to_owned())));
            }
            walk(&panel["panels"], &place, found);
        }
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("grafana/dashboards")).expect("is there") {
        let path = entry.expect("reads").path();
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("is JSON");
        let place = dashboard["title"].as_str().expect("a title").to_owned();
        walk(&dashboard["panels"], &place, &mut found);
        for annotation in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
            let place = format!("{place} / annotation {}", annotation["name"].as_str().unwrap_or("?"));
            let expr = annotation["expr"].as_str().or(annotation["target"]["expr"].as_str());
            found.extend(expr.map(|expr| (place, expr.to_owned())));
        }
    }
    let variable = Regex::new(r#"=~?"\$\{?\w+(:\w+)?\}?""#).expect("a pattern");
    found
        .into_iter()
        .map(|(place, expr)| {
            let expr = expr.replace("$__rate_interval", RATE).replace("$__range", RATE).replace("[30d:5m]", "[1h:5s]");
            // What shows only what happened is asked for what did not, too.
            let expr = expr.strip_suffix(" > 0").unwrap_or(&expr);
            (place, variable.replace_all(expr, r#"=~".+""#).into_owned())
        })
        .collect()
}

/// The selectors of an expression: what it reads.
fn selectors(expression: &str) -> BTreeSet<String> {
    let name = r"(?:up|slugline[a-z0-9_:]+|http_server_[a-z_]+|process_[a-z_]+|tokio_[a-z_]+)";
    let selector = Regex::new(&format!(r#"\b{name}\b(?:\{{[^}}]*\}})?"#)).expect("a pattern");
    // What stands in quotes within a selector is part of it; nothing else of ours is quoted.
    selector.find_iter(expression).map(|found| found.as_str().to_owned()).collect()
}

/// What rightly has no data while all is well, and why. By how the place begins.
const EMPTY: [(&str, &str); 2] = [
    ("slugline:backlog_unasked:max5m", "it is there only while work waits and nobody asks"),
    (
        "slugline:lane_asked_in_vain:increase15m",
        "it is there only while a lane with room gives nothing to those who ask",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_scrapes_a_daemon_under_load_has_data_for_every_panel_alert_and_rule() {
    let site = Site::new();
    let slugs: Vec<String> = (0..SLUGS).map(|number| format!("t{number:02}")).chain(["bad".to_owned()]).collect();
    let prepare = "sleep 60 & case $SLUGLINE_SLUG in bad) exit 1;; *) seq 200; : > made;; esac";
    let settings = format!(
        "[prepare]\ncommand = {prepare:?}\noutputs = [\"made\"]\n[[gates]]\nname = \"t\"\ncommand = \"true\"\n"
    );
    let repo = site.app(&slugs.iter().map(String::as_str).collect::<Vec<_>>(), &settings);
    repo.write(".gitignore", "made\n");
    repo.commit("ignored");
    let config = site.path("slugline.toml");
    super::harness::write(
        &config,
        "[log]\nlevel = \"info\"\n[lease]\nduration_ms = 5000\nheartbeat_every_ms = 1000\n[[lane]]\nname = \"idle\"\nwip_limit = 2\n",
    );
    let daemon = site.spawn_with(&[&repo], &[("SLUGLINE_CONFIG", config)]).await;
    let read = |name: &str| std::fs::read_to_string(site.path("data").join(name)).expect("reads").trim().to_owned();
    let (address, token) = (read("address").parse().expect("an address"), read("token"));
    let prometheus = Prometheus::start(&site.path("prometheus"), address).await;
    let load = Load { daemon: &daemon, repo: &repo, address, token };
    load.post("/debug/hang-dump", json!({})).await;
    let begun = Instant::now();
    let mut number = 0;
    while number < ROUNDS_MIN || number < SLUGS && begun.elapsed() < LOAD {
        load.round(number).await;
        number += 1;
    }
    let scraped = daemon.client.get("/metrics").await.expect("answers").text();
    accepted(&promtool(&["check", "metrics"], &scraped));
    let samples = scraped.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    assert!(samples <= 5_000, "{samples} series after {number} rounds");
    let declared: BTreeSet<&str> = slugline::metrics::all().iter().map(|metric| metric.name).collect();
    let typed = scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    assert_eq!(typed.collect::<BTreeSet<&str>>(), declared, "what is declared and what is scraped");

    let mut without: BTreeMap<String, String> = BTreeMap::new();
    for (place, expression) in of_dashboards() {
        if prometheus.series(&expression).await == 0 {
            without.insert(place, expression);
        }
    }
    let groups = prometheus.ask("/api/v1/rules").await;
    let rules = groups["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
    for rule in rules {
        let (name, query) = (rule["name"].as_str().expect("a name"), rule["query"].as_str().expect("a query"));
        assert_eq!(rule["health"], "ok", "{name}: {rule}");
        // An alert is silent when all is well: then what it reads has to be there.
        let alerting = rule["type"] == "alerting";
        // What is recorded is looked at where it is.
        let recorded = |read: &String| !read.starts_with("slugline:");
        let reads: Vec<String> =
            if alerting { selectors(query).into_iter().filter(recorded).collect() } else { vec![query.to_owned()] };
        for read in reads {
            let asked = if alerting { format!("last_over_time({read}[{RATE}])") } else { read };
            if prometheus.series(&asked).await == 0 {
                without.insert(format!("{name}: {asked}"), asked);
            }
        }
    }
    let unexplained: Vec<_> =
        without.iter().filter(|(place, _)| !EMPTY.iter().any(|(begins, _)| place.starts_with(begins))).collect();
    assert!(unexplained.is_empty(), "without data: {unexplained:#?}");
    for (begins, why) in EMPTY {
        assert!(
            without.keys().any(|place| place.starts_with(begins)),
            "{begins} has data, so it is not true that {why}"
        );
    }
}
