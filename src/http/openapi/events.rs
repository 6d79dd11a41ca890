//! What `GET /events` sends, event by event (`itemSchema` of OpenAPI 3.2).

use serde_json::{Value, json};

use crate::model::event::EventKind;

/// One event of the stream: those that are in the ledger, and the two that say where a listener is.
pub(super) fn item() -> Value {
    let place = json!({ "type": "object", "required": ["seq", "server_version"], "properties": { "seq": whole(), "server_version": { "type": "string" } } });
    let again = json!({ "type": "object", "required": ["seq", "reason"], "properties": { "seq": whole(), "reason": { "type": "string" } } });
    let own = [sent("hello", &place), sent("reset", &again)];
    let kinds = EventKind::ALL.into_iter().map(|kind| sent(kind.as_str(), &entry(kind)));
    json!({ "oneOf": own.into_iter().chain(kinds).collect::<Vec<Value>>() })
}

fn whole() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

/// An event of this name whose data is JSON of this schema.
fn sent(event: &str, data: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["id", "event", "data"],
        "properties": {
            "id": { "type": "string", "pattern": "^[0-9]{1,20}$" },
            "event": { "const": event },
            "data": { "type": "string", "contentMediaType": "application/json", "contentSchema": data },
        },
    })
}

/// What an entry of the ledger says: where it is in the log, when, and about whom.
fn entry(kind: EventKind) -> Value {
    let text = || json!({ "type": "string" });
    let subject: &[&str] = match kind {
        EventKind::TodoUpdated
        | EventKind::ClaimGranted
        | EventKind::ClaimExpired
        | EventKind::ClaimReleased
        | EventKind::OperationUpdated
        | EventKind::PhaseFinished => &["repo", "slug"],
        EventKind::LanePaused | EventKind::LaneResumed => &["lane"],
        EventKind::WorktreeUpdated | EventKind::WorktreeRemoved => &["repo", "name"],
        EventKind::SessionUpdated => &["session"],
        EventKind::ReadinessChanged => &["daemon"],
        EventKind::JobUpdated => &["job"],
        EventKind::IncidentUpdated => &["incident"],
        EventKind::ActorRestarted => &["actor"],
        EventKind::HangDetected => &["hang"],
    };
    let required = [&["seq", "at", "type", "data"], subject].concat();
    let mut schema = json!({
        "type": "object",
        "required": required,
        "properties": { "seq": whole(), "at": { "type": "string", "format": "date-time" }, "type": { "const": kind }, "data": { "type": "object" } },
    });
    for name in subject {
        schema["properties"][name] = text();
    }
    schema
}
