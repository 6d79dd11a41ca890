//! Traces: a caller's goes on through requests, runs and phases into the commands; what is said of it in answers, events
//! and logs; and what a collector gets.

use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::ear::Ear;
use super::harness::{Site, order, problem, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// Prepares, and notes where in its trace it is.
const NOTES: &str = "[prepare]\ncommand = \"printf '%s %s' \\\"$TRACEPARENT\\\" \\\"$TRACESTATE\\\" > ../trace\"\n";

/// The parts of a `traceparent`: trace and span.
fn parts(traceparent: &str) -> (&str, &str) {
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{traceparent}");
    (parts[1], parts[2])
}

fn ask(slug: &str) -> Bytes {
    json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 }).to_string().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_goes_on_into_commands_answers_operations_and_events() {
    let site = Site::new();
    let repo = site.app(&["one"], NOTES);
    let house = site.start(&[&repo]).await;
    let mut ear = Ear::at(&house, "?types=operation.updated", None).await;
    let headers = [("content-type", "application/json"), ("traceparent", PARENT), ("tracestate", "vendor=1")];
    let reply = house.client.send(Method::POST, "/todos/work", &headers, ask("one")).await.expect("answers");
    let order = order(&reply);
    let answered = reply.headers["traceparent"].to_str().expect("text").to_owned();
    let (trace, request) = parts(&answered);
    assert_eq!(trace, TRACE);
    assert_ne!(request, "b7ad6b7169203331", "the request is a span of its own");
    let noted = std::fs::read_to_string(site.path("data/worktrees/app/trace")).expect("was prepared");
    let (seen, state) = noted.split_once(' ').expect("two words");
    assert_eq!((parts(seen).0, state), (TRACE, "vendor=1"));
    assert!(![request, "b7ad6b7169203331"].contains(&parts(seen).1), "the command is a span of its own");
    let operation = order["operation"].as_str().expect("something ran").to_owned();
    let shown = house.client.get(&format!("/operations/{operation}")).await.expect("answers").json();
    assert_eq!(shown["trace_id"], TRACE);
    ear.hear("the operation, with its trace", |heard| heard.data["data"]["trace_id"] == TRACE).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_says_which_trace_it_is_of_and_a_broken_context_begins_a_new_one() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "[prepare]\ncommand = \"exit 3\"\n")]).await;
    let send = |traceparent: &'static str, slug: &'static str| {
        let headers = [("content-type", "application/json"), ("traceparent", traceparent)];
        let client = &house.client;
        async move { client.send(Method::POST, "/todos/work", &headers, ask(slug)).await.expect("answers") }
    };
    for slug in ["nobody", "one"] {
        let failed = send(PARENT, slug).await;
        assert_eq!(failed.json()["trace_id"], TRACE, "{slug}");
    }
    let mut seen = vec![TRACE.to_owned()];
    for broken in ["", "00-xyz", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"] {
        let refused = send(broken, "nobody").await;
        let told = problem(&refused, 404, "unknown_slug")["trace_id"].as_str().expect("text").to_owned();
        assert_eq!(parts(refused.headers["traceparent"].to_str().expect("text")).0, told);
        assert!(!seen.contains(&told), "{broken:?} begins a trace of its own");
        seen.push(told);
    }
    let failed = send(PARENT, "one").await.json();
    let operation = failed["instance"].as_str().expect("an operation").to_owned();
    let shown = house.client.get(&operation).await.expect("answers").json();
    assert_eq!(shown["problem"]["trace_id"], TRACE, "whoever looks later is in another trace: {shown}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn which_lines_are_logged_is_changed_at_run_time_and_lines_of_a_run_say_run_and_trace() {
    let site = Site::new();
    let repo = site.app(&["one", "two"], "");
    let config = site.path("slugline.toml");
    super::harness::write(&config, "[log]\nformat = \"json\"\n");
    let mut daemon = site.spawn_with(&[&repo], &[("SLUGLINE_CONFIG", config)]).await;
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(site.path("daemon.log")).expect("reads");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let of_trace = |id: &str| lines().into_iter().filter(|line| line["trace_id"] == id).collect::<Vec<_>>();
    let set = |level: &'static str| {
        let client = &daemon.client;
        let body = json!({ "level": level }).to_string().into();
        async move {
            client
                .send(Method::PUT, "/debug/log", &[("content-type", "application/json")], body)
                .await
                .expect("answers")
        }
    };
    assert_eq!(daemon.client.get("/debug/log").await.expect("answers").json()["level"], "warn");
    let headers = [("content-type", "application/json"), ("traceparent", PARENT)];
    let quiet = daemon.client.send(Method::POST, "/todos/work", &headers, ask("one")).await.expect("answers");
    assert_eq!(quiet.status, 200);
    problem(&set("loud").await, 400, "invalid_request");
    assert_eq!(set("info").await.json()["level"], "info");
    assert_eq!(of_trace(TRACE), Vec::<Value>::new(), "what was decided not to be logged is not");
    let reply = daemon.client.send(Method::POST, "/todos/work", &headers, ask("two")).await.expect("answers");
    let operation = order(&reply)["operation"].as_str().expect("something ran").to_owned();
    let finished = |line: &Value| line["message"] == "work finished";
    until("the run to be logged", || async { of_trace(TRACE).iter().any(finished).then_some(()) }).await;
    for line in of_trace(TRACE) {
        assert_eq!(line["operation"], operation.as_str(), "{line}");
    }
    // Those of a request that starts nothing are within it.
    let headers = [("content-type", "application/json"), ("traceparent", &PARENT.replace("0af", "1af"))];
    daemon
        .client
        .send(Method::PUT, "/debug/log", &headers, json!({ "level": "info" }).to_string().into())
        .await
        .expect("answers");
    let asked = TRACE.replace("0af", "1af");
    until("the request's own line", || async {
        let spans = |line: &Value| line["spans"].as_array().cloned().unwrap_or_default();
        let found = lines().iter().any(|line| spans(line).iter().any(|span| span["trace_id"] == asked.as_str()));
        found.then_some(())
    })
    .await;
    let around = lines().into_iter().filter(|line| line["spans"][0]["trace_id"] == TRACE).count();
    assert!(around > 0, "lines that do not say it themselves are within the run that does");
    let counted = daemon.client.get("/metrics").await.expect("answers").text();
    let info = counted.lines().find_map(|line| line.strip_prefix("slugline_log_messages_total{level=\"info\"} "));
    assert!(info.is_some_and(|count| count != "0"), "{info:?}");
    daemon.kill();
}

#[cfg(feature = "otlp")]
mod collected {
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt as _, Empty};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper::{Request, Response, StatusCode};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    /// A collector's door: takes what comes, or refuses it.
    struct Collector {
        endpoint: String,
        spans: Arc<Mutex<Vec<Value>>>,
        refusals: Arc<Mutex<u32>>,
    }

    impl Collector {
        async fn open() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            let endpoint = format!("http://{}/v1/traces", listener.local_addr().expect("bound"));
            let (spans, refusals) = (Arc::<Mutex<Vec<Value>>>::default(), Arc::<Mutex<u32>>::default());
            let (into, refuse) = (spans.clone(), refusals.clone());
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (into, refuse) = (into.clone(), refuse.clone());
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (into, refuse) = (into.clone(), refuse.clone());
                        async move {
                            let body = request.into_body().collect().await.expect("arrives").to_bytes();
                            let mut left = refuse.lock().expect("no panic");
                            let refused = *left > 0;
                            *left = left.saturating_sub(1);
                            if !refused {
                                into.lock().expect("no panic").extend(spans_of(&body));
                            }
                            let status = if refused { StatusCode::BAD_REQUEST } else { StatusCode::OK };
                            let answer = Response::builder().status(status).body(Empty::<Bytes>::new());
                            Ok::<_, Infallible>(answer.expect("is whole"))
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
                }
            });
            Self { endpoint, spans, refusals }
        }

        fn of(&self, trace: &str) -> Vec<Value> {
            let spans = self.spans.lock().expect("no panic");
            spans.iter().filter(|span| span["traceId"] == trace).cloned().collect()
        }
    }

    fn spans_of(body: &[u8]) -> Vec<Value> {
        let sent: Value = serde_json::from_slice(body).expect("is OTLP in JSON");
        let all = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        all(&sent, "resourceSpans")
            .iter()
            .flat_map(|resource| all(resource, "scopeSpans"))
            .flat_map(|scope| all(&scope, "spans"))
            .collect()
    }

    fn attribute(span: &Value, name: &str) -> Value {
        let attributes = span["attributes"].as_array().cloned().unwrap_or_default();
        let found = attributes.into_iter().find(|attribute| attribute["key"] == name);
        found.map_or(Value::Null, |attribute| attribute["value"]["stringValue"].clone())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_gets_request_run_phases_and_commands_each_below_what_it_is_part_of() {
        let site = Site::new();
        let repo = site.app(&["one"], NOTES);
        let collector = Collector::open().await;
        let endpoint = PathBuf::from(&collector.endpoint);
        let mut daemon = site.spawn_with(&[&repo], &[("SLUGLINE_TRACES_OTLP_ENDPOINT", endpoint)]).await;
        let headers = [("content-type", "application/json"), ("traceparent", PARENT)];
        let reply = daemon.client.send(Method::POST, "/todos/work", &headers, ask("one")).await.expect("answers");
        let operation = order(&reply)["operation"].as_str().expect("something ran").to_owned();
        let spans = until("request and run", || async {
            let spans = collector.of(TRACE);
            let has = |name: &str| spans.iter().any(|span| span["name"] == name);
            (has("POST /todos/work") && has("run")).then_some(spans)
        })
        .await;
        let by_id: HashMap<String, Value> =
            spans.iter().map(|span| (span["spanId"].as_str().expect("an id").to_owned(), span.clone())).collect();
        assert_eq!(by_id.len(), spans.len(), "every span has an id of its own");
        let above = |span: &Value| by_id.get(span["parentSpanId"].as_str().unwrap_or_default());
        let named = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(named("POST /todos/work")["parentSpanId"], "b7ad6b7169203331");
        let run = named("run");
        assert_eq!(above(run).map(|span| &span["name"]), Some(&json!("POST /todos/work")));
        assert_eq!(attribute(run, "cicd.pipeline.run.id"), operation.as_str());
        assert_eq!(attribute(run, "cicd.pipeline.result"), "success");
        let phases: Vec<&Value> =
            spans.iter().filter(|span| span["name"].as_str().is_some_and(|name| name.starts_with("phase "))).collect();
        assert_eq!(phases.len(), 7, "all seven, whether they ran or not");
        assert!(phases.iter().all(|phase| above(phase) == Some(run)));
        assert_eq!(attribute(named("phase prepare"), "slugline.reason"), "worktree_created");
        let commands: Vec<&Value> = spans
            .iter()
            .filter(|span| span["name"].as_str().is_some_and(|name| name.starts_with("command ")))
            .collect();
        assert!(commands.len() >= 2, "git's and prepare's");
        for command in &commands {
            let name = above(command).map(|span| span["name"].clone());
            assert!(name.as_ref().and_then(Value::as_str).is_some_and(|name| name.starts_with("phase ")), "{name:?}");
        }
        // A call that finds everything as it should be is a run too, of which nothing had to be carried out.
        let warm = daemon.client.send(Method::POST, "/todos/work", &headers, ask("one")).await.expect("answers");
        assert_eq!(order(&warm)["operation"], operation.as_str(), "no operation of its own");
        until("the warm run", || async {
            (collector.of(TRACE).iter().filter(|span| span["name"] == "run").count() == 2).then_some(())
        })
        .await;
        let unsampled = [("content-type", "application/json"), ("traceparent", &PARENT.replace("-01", "-00"))];
        let before = collector.of(TRACE).len();
        daemon.client.send(Method::POST, "/todos/work", &unsampled, ask("one")).await.expect("answers");
        let after = [("content-type", "application/json"), ("traceparent", &PARENT.replace("0af", "1af"))];
        daemon.client.send(Method::POST, "/todos/work", &after, ask("one")).await.expect("answers");
        until("what came later", || async { (!collector.of(&TRACE.replace("0af", "1af")).is_empty()).then_some(()) })
            .await;
        assert_eq!(collector.of(TRACE).len(), before, "what its caller does not record is not sent");
        daemon.kill();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_refuses_costs_nothing_but_its_spans_and_is_counted() {
        let site = Site::new();
        let repo = site.app(&["one"], "");
        let collector = Collector::open().await;
        *collector.refusals.lock().expect("no panic") = 1;
        let endpoint = PathBuf::from(&collector.endpoint);
        let mut daemon = site.spawn_with(&[&repo], &[("SLUGLINE_TRACES_OTLP_ENDPOINT", endpoint)]).await;
        let headers = [("content-type", "application/json"), ("traceparent", PARENT)];
        daemon.client.send(Method::POST, "/todos/work", &headers, ask("one")).await.expect("answers");
        let count = |fate: &'static str| {
            let client = &daemon.client;
            async move {
                let text = client.get("/metrics").await.expect("answers").text();
                let line = format!("slugline_trace_spans_total{{result=\"{fate}\"}} ");
                text.lines().find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok()).unwrap_or(0)
            }
        };
        until("the refused to be counted", || async { (count("failed").await > 0).then_some(()) }).await;
        daemon.client.send(Method::POST, "/todos/work", &headers, ask("one")).await.expect("answers");
        until("later ones to be taken", || async { (count("sent").await > 0).then_some(()) }).await;
        assert_eq!(count("dropped").await, 0);
        daemon.kill();
    }
}
