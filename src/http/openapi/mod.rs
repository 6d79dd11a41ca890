//! `GET /openapi.json`: the interface, described. Made from the route table and the types that are served, so that
//! document and server cannot part. `parameters` has what a request takes beside its body, `problems` every refusal,
//! `events` what is sent on `GET /events`.

mod events;
mod parameters;
mod problems;

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use warp::Filter;
use warp::http::StatusCode;

use super::problem::raw;
use super::{ROUTES, Route, Routes};
use crate::model::door::Open;
use crate::model::failure::FailureView;
use crate::model::filed::NewTodo;
use crate::model::fingerprint::Explained;
use crate::model::hang::{HangView, LagHistory};
use crate::model::incident::Incident;
use crate::model::job::JobView;
use crate::model::phase::Phase;
use crate::model::problem::ProblemCode;
use crate::model::readiness::ReadinessView;
use crate::model::session::{SessionEvent, SessionGroupView, SessionView};
use crate::model::todo::Complete;
use crate::model::view::{
    ActorView, AfterRequest, ExplainRequest, HeartbeatRequest, HoldRequest, LaneView, LeaseView, LinkView, LogView,
    NoContent, PauseRequest, ReleaseRequest, ReportRequest, RepositoryView, RotateRequest, RotatedView, SignInRequest,
    SignedInView, StatusView, TodoDetail, TodoView,
};
use crate::model::work_order::{Completion, WorkOrder, WorkRequest};
use crate::model::worktree::{Removal, WorktreeDetail, WorktreeRow};

static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

pub(super) fn routes() -> Routes {
    warp::path!("openapi.json")
        .and(warp::get())
        .map(|| raw(StatusCode::OK, "application/json", DOCUMENT.as_str()))
        .boxed()
}

pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    for schema in [
        generator.subschema_for::<WorkRequest>(),
        generator.subschema_for::<WorkOrder>(),
        generator.subschema_for::<Completion>(),
        generator.subschema_for::<Complete>(),
        generator.subschema_for::<HeartbeatRequest>(),
        generator.subschema_for::<HoldRequest>(),
        generator.subschema_for::<ReleaseRequest>(),
        generator.subschema_for::<LeaseView>(),
        generator.subschema_for::<NewTodo>(),
        generator.subschema_for::<AfterRequest>(),
        generator.subschema_for::<PauseRequest>(),
        generator.subschema_for::<NoContent>(),
        generator.subschema_for::<LogView>(),
        generator.subschema_for::<ExplainRequest>(),
        generator.subschema_for::<TodoView>(),
        generator.subschema_for::<TodoDetail>(),
        generator.subschema_for::<LaneView>(),
        generator.subschema_for::<FailureView>(),
        generator.subschema_for::<Explained>(),
        generator.subschema_for::<ActorView>(),
        generator.subschema_for::<StatusView>(),
        generator.subschema_for::<ReadinessView>(),
        generator.subschema_for::<JobView>(),
        generator.subschema_for::<Incident>(),
        generator.subschema_for::<HangView>(),
        generator.subschema_for::<WorktreeRow>(),
        generator.subschema_for::<WorktreeDetail>(),
        generator.subschema_for::<Removal>(),
        generator.subschema_for::<SessionView>(),
        generator.subschema_for::<SessionGroupView>(),
        generator.subschema_for::<SessionEvent>(),
        generator.subschema_for::<ReportRequest>(),
        generator.subschema_for::<LagHistory>(),
        generator.subschema_for::<RepositoryView>(),
        generator.subschema_for::<SignInRequest>(),
        generator.subschema_for::<SignedInView>(),
        generator.subschema_for::<LinkView>(),
        generator.subschema_for::<RotateRequest>(),
        generator.subschema_for::<RotatedView>(),
    ] {
        drop(schema);
    }
    let mut paths: Map<String, Value> = Map::new();
    for route in &ROUTES {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method.to_lowercase()] = operation(route, &mut generator);
    }
    let reasons: Map<String, Value> =
        Phase::ALL.iter().map(|phase| (phase.as_str().to_owned(), json!(phase.reasons()))).collect();
    json!({
        "openapi": "3.2.0",
        "info": { "title": "Slugline", "version": env!("CARGO_PKG_VERSION"), "description": "Hands out work to AI coding agents: ask, and get a worktree that exists, is prepared, in sync and judged." },
        "servers": [{ "url": "http://127.0.0.1:7584" }],
        "security": [{ "token": [] }, { "cookie": [], "key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "The token in <data_dir>/token; the unix socket needs none." },
                "cookie": { "type": "apiKey", "in": "cookie", "name": "slugline_7584", "description": "What a browser gets when it signs in; the daemon's port is in the name." },
                "key": { "type": "apiKey", "in": "header", "name": "X-Slugline-Key", "description": "What the page gets when it signs in; sent beside the cookie." },
            },
            "schemas": schemas(&mut generator),
        },
        "x-phase-reasons": reasons,
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut responses: Map<String, Value> = problems::responses(route);
    responses.extend(route.statuses.iter().map(|status| (status.to_string(), good(route, *status, generator))));
    let mut operation = json!({ "summary": route.summary, "operationId": format!("{} {}", route.method, route.path), "parameters": parameters::of(route, generator), "responses": responses });
    match route.open {
        Open::No => {}
        Open::Everybody => operation["security"] = json!([]),
        // Without any, but only from the machine itself.
        Open::Here => operation["security"] = json!([{}, { "token": [] }, { "cookie": [], "key": [] }]),
    }
    if let Some(body) = body(route) {
        operation["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{body}") } } } });
    }
    operation
}

/// The type of a request's body.
fn body(route: &Route) -> Option<&'static str> {
    match (route.method, route.path) {
        ("POST", "/todos/work") => Some("WorkRequest"),
        ("POST", "/todos/{repo}") => Some("NewTodo"),
        ("PUT", "/todos/{repo}/{slug}/after") => Some("AfterRequest"),
        ("POST", "/todos/{repo}/{slug}/heartbeat") => Some("HeartbeatRequest"),
        ("POST", "/todos/{repo}/{slug}/hold") => Some("HoldRequest"),
        ("POST", "/todos/{repo}/{slug}/release") => Some("ReleaseRequest"),
        ("POST", "/todos/{repo}/{slug}/complete") => Some("Complete"),
        ("POST", "/lanes/{lane}/pause") => Some("PauseRequest"),
        ("POST", "/todos/{repo}/{slug}/redrive" | "/lanes/{lane}/resume") => Some("NoContent"),
        ("POST", "/failures/explain") => Some("ExplainRequest"),
        ("POST", "/worktrees/{repo}/{name}/refresh" | "/debug/hang-dump") => Some("NoContent"),
        ("POST", "/sessions/{id}/events") => Some("ReportRequest"),
        ("PUT", "/debug/log") => Some("LogView"),
        ("POST", "/token/rotate") => Some("RotateRequest"),
        ("POST", "/console/sign-in") => Some("SignInRequest"),
        ("POST", "/console/sign-out" | "/console/links") => Some("NoContent"),
        _ => None,
    }
}

/// A type of which a caller may have asked for some members only.
fn some_of(name: &str, generator: &SchemaGenerator) -> Value {
    let whole = generator.definitions().get(name);
    let members = whole.and_then(|whole| whole.get("properties")).and_then(Value::as_object);
    let member =
        |key: &String| (key.clone(), json!({ "$ref": format!("#/components/schemas/{name}/properties/{key}") }));
    let members: Map<String, Value> = members.into_iter().flat_map(Map::keys).map(member).collect();
    json!({ "type": "object", "required": ["repo", "name"], "properties": members })
}

fn good(route: &Route, status: u16, generator: &SchemaGenerator) -> Value {
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let (kind, schema) = match (route.path, status) {
        ("/todos/work", 200) => ("application/json", schema("WorkOrder")),
        ("/todos/work" | "/todos/{repo}/{slug}/complete", 202) | ("/operations/{id}", _) => {
            ("application/json", schema("Operation"))
        }
        ("/todos/{repo}/{slug}/complete", _) => ("application/json", schema("Completion")),
        ("/todos/{repo}/{slug}/heartbeat" | "/todos/{repo}/{slug}/hold", _) => {
            ("application/json", schema("LeaseView"))
        }
        (
            "/todos/{repo}"
            | "/todos/{repo}/{slug}/after"
            | "/todos/{repo}/{slug}/release"
            | "/todos/{repo}/{slug}/redrive",
            _,
        ) => ("application/json", json!({ "type": "object", "required": ["repo", "slug"] })),
        ("/lanes", _) => ("application/json", json!({ "type": "array", "items": schema("LaneView") })),
        ("/lanes/{lane}/pause" | "/lanes/{lane}/resume", _) => ("application/json", schema("LaneView")),
        ("/failures", _) => ("application/json", json!({ "type": "array", "items": schema("FailureView") })),
        ("/failures/explain", _) => ("application/json", schema("Explained")),
        ("/todos", _) => ("application/json", json!({ "type": "array", "items": schema("TodoView") })),
        ("/todos/{repo}/{slug}", _) => ("application/json", schema("TodoDetail")),
        ("/operations", _) => ("application/json", json!({ "type": "array", "items": schema("Operation") })),
        ("/repositories", _) => ("application/json", json!({ "type": "array", "items": schema("RepositoryView") })),
        ("/lag", _) => ("application/json", schema("LagHistory")),
        ("/token/rotate", _) => ("application/json", schema("RotatedView")),
        ("/console/sign-in", _) => ("application/json", schema("SignedInView")),
        ("/console/sign-out", _) => ("application/json", json!({ "type": "object" })),
        ("/console/links", _) => ("application/json", schema("LinkView")),
        ("/console/", 200) => ("text/html", json!({ "type": "string" })),
        ("/console/{file}", 200) => ("*/*", json!({ "type": "string" })),
        ("/actors", _) => ("application/json", json!({ "type": "array", "items": schema("ActorView") })),
        ("/status", _) => ("application/json", schema("StatusView")),
        ("/readiness", _) => ("application/json", schema("ReadinessView")),
        ("/jobs", _) => ("application/json", json!({ "type": "array", "items": schema("JobView") })),
        ("/incidents", _) => ("application/json", json!({ "type": "array", "items": schema("Incident") })),
        ("/hangs", _) => ("application/json", json!({ "type": "array", "items": schema("HangView") })),
        ("/hangs/{id}", _) => {
            ("application/json", json!({ "type": "object", "required": ["id", "reason", "culprits"] }))
        }
        ("/debug/hang-dump", _) => ("application/json", schema("HangView")),
        ("/debug/log", _) => ("application/json", schema("LogView")),
        ("/worktrees", 200) => {
            ("application/json", json!({ "type": "array", "items": some_of("WorktreeRow", generator) }))
        }
        ("/worktrees/{repo}/{name}", _) if route.method == "DELETE" => ("application/json", schema("Removal")),
        ("/worktrees/{repo}/{name}", _) => ("application/json", schema("WorktreeDetail")),
        ("/worktrees/{repo}/{name}/refresh", _) => ("application/json", schema("WorktreeRow")),
        ("/sessions", 200) => (
            "application/json",
            json!({ "type": "array", "items": { "anyOf": [schema("SessionView"), schema("SessionGroupView")] } }),
        ),
        ("/sessions/{id}", _) => ("application/json", schema("SessionView")),
        ("/sessions/{id}/events", _) if route.method == "POST" => {
            ("application/json", json!({ "type": "object", "required": ["session", "accepted", "events"] }))
        }
        ("/sessions/{id}/events", _) => {
            ("application/json", json!({ "type": "array", "items": schema("SessionEvent") }))
        }
        ("/events", _) => {
            let content = json!({ "text/event-stream": { "itemSchema": events::item() } });
            return json!({ "description": route.summary, "content": content });
        }
        ("/openapi.json", _) => ("application/json", json!({ "type": "object" })),
        _ => ("text/plain", json!({ "type": "string" })),
    };
    json!({ "description": route.summary, "content": { kind: { "schema": schema } } })
}

/// Says of whole numbers how large they may be: a format alone binds nobody.
fn bound(schema: &mut Value) {
    match schema {
        Value::Array(all) => all.iter_mut().for_each(bound),
        Value::Object(members) => {
            let (least, most) = match members.get("format").and_then(Value::as_str) {
                Some("uint64" | "uint") => (json!(0), json!(u64::MAX)),
                Some("uint32") => (json!(0), json!(u32::MAX)),
                Some("int64") => (json!(i64::MIN), json!(i64::MAX)),
                _ => return members.values_mut().for_each(bound),
            };
            members.entry("minimum").or_insert(least);
            members.entry("maximum").or_insert(most);
        }
        _ => {}
    }
}

fn schemas(generator: &mut SchemaGenerator) -> Value {
    let mut all = generator.take_definitions(true);
    all.values_mut().for_each(bound);
    let codes: Vec<&str> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
    all.insert("Problem".to_owned(), json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance", "code", "retryable"],
        "properties": {
            "type": { "type": "string" }, "title": { "type": "string" }, "status": { "type": "integer" }, "detail": { "type": "string" },
            "instance": { "type": "string" }, "code": { "type": "string", "enum": codes }, "retryable": { "type": "boolean" }, "retry_after_ms": { "type": "integer" },
        },
    }));
    all.insert("Operation".to_owned(), json!({
        "type": "object",
        "required": ["id", "kind", "repo", "slug", "state", "phases", "created_at", "deadline_at"],
        "properties": {
            "id": { "type": "string" }, "kind": { "enum": ["work", "complete"] }, "repo": { "type": "string" }, "slug": { "type": "string" }, "lane": { "type": "string" }, "worker": { "type": "string" },
            "state": { "enum": ["queued", "running", "succeeded", "failed", "cancelled", "interrupted"] },
            "phase": { "type": ["string", "null"] }, "phases": { "type": "array", "items": { "$ref": "#/components/schemas/PhaseReport" } },
            "created_at": { "type": "string" }, "started_at": { "type": ["string", "null"] }, "finished_at": { "type": ["string", "null"] }, "deadline_at": { "type": "string" },
            "poll_after_ms": { "type": ["integer", "null"] }, "result": { "anyOf": [{ "$ref": "#/components/schemas/WorkOrder" }, { "$ref": "#/components/schemas/Completion" }, { "type": "null" }] },
            "problem": { "anyOf": [{ "$ref": "#/components/schemas/Problem" }, { "type": "null" }] },
        },
    }));
    Value::Object(all)
}
