//! What a route takes beside its body: names in its path, its query, headers. A query is described by the very type
//! that reads it.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use super::super::{Route, events, failures, health, operations, sessions, todos, worktrees};
use super::bound;
use crate::model::ids::{IdempotencyKey, Lane, OperationId, RepoName, SessionId, Slug};

/// Every parameter of a route.
pub(super) fn of(route: &Route, generator: &mut SchemaGenerator) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<Value> = names
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": in_path(route.path, name, generator) })
        })
        .collect();
    all.extend(query(route, generator));
    if takes_key(route) {
        all.push(header("Idempotency-Key", &generator.subschema_for::<IdempotencyKey>().to_value()));
    }
    if route.path == "/events" {
        all.push(header("Last-Event-ID", &json!({ "type": "string", "pattern": events::ID_PATTERN })));
    }
    all
}

fn header(name: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "header", "required": false, "schema": schema })
}

/// Whether a route's answer can be had again under a key.
pub(super) fn takes_key(route: &Route) -> bool {
    match (route.method, route.path) {
        ("DELETE", "/worktrees/{repo}/{name}") => true,
        ("POST" | "PUT", path) => {
            !path.starts_with("/console/")
                && !["/token/rotate", "/failures/explain", "/debug/log", "/worktrees/{repo}/{name}/refresh"]
                    .contains(&path)
        }
        _ => false,
    }
}

fn in_path(path: &str, name: &str, generator: &mut SchemaGenerator) -> Value {
    let schema = match (name, path.starts_with("/operations/"), path.starts_with("/sessions/")) {
        ("repo", ..) => generator.subschema_for::<RepoName>(),
        ("slug", ..) => generator.subschema_for::<Slug>(),
        ("lane", ..) => generator.subschema_for::<Lane>(),
        ("id", true, _) => generator.subschema_for::<OperationId>(),
        ("id", _, true) => generator.subschema_for::<SessionId>(),
        // What is not there is not found, whatever it is called.
        _ => return json!({ "type": "string", "minLength": 1 }),
    };
    schema.to_value()
}

fn query(route: &Route, generator: &mut SchemaGenerator) -> Vec<Value> {
    match (route.method, route.path) {
        ("GET", "/todos") => parts::<todos::Query>(generator),
        ("GET", "/failures") => parts::<failures::Query>(generator),
        ("GET", "/worktrees") => parts::<worktrees::Query>(generator),
        ("GET", "/worktrees/{repo}/{name}") => parts::<worktrees::OneQuery>(generator),
        ("DELETE", "/worktrees/{repo}/{name}") => parts::<worktrees::RemoveQuery>(generator),
        ("GET", "/sessions") => parts::<sessions::Query>(generator),
        ("GET", "/sessions/{id}/events") => parts::<sessions::EventsQuery>(generator),
        ("GET", "/operations") => parts::<operations::Query>(generator),
        ("GET", "/events") => parts::<events::Query>(generator),
        ("GET", "/readyz" | "/healthz") => parts::<health::Query>(generator),
        _ => Vec::new(),
    }
}

/// The fields of a type that reads a query.
fn parts<T: JsonSchema>(generator: &mut SchemaGenerator) -> Vec<Value> {
    let mut whole = T::json_schema(generator).to_value();
    bound(&mut whole);
    let Some(fields) = whole.get_mut("properties").and_then(Value::as_object_mut) else { return Vec::new() };
    let part = |(name, schema): (&String, &mut Value)| {
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut part = json!({ "name": name, "in": "query", "required": false, "schema": given(schema) });
        if let Some(description) = description {
            part["description"] = description;
        }
        part
    };
    fields.iter_mut().map(part).collect()
}

/// The schema of what is given, when it is: what is left out of a query is no `null`.
fn given(schema: &mut Value) -> Value {
    let Some(members) = schema.as_object_mut() else { return schema.clone() };
    members.remove("default");
    if let Some(Value::Array(kinds)) = members.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [one] = kinds.as_slice() {
            let one = one.clone();
            members.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(any)) = members.get("anyOf")
        && let Some(one) = any.iter().find(|one| one["type"] != "null")
    {
        return one.clone();
    }
    schema.clone()
}
