//! What can be written: each entry appends one event and changes the view it is about, in one transaction.

use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::{Value, json};

use super::error::StoreError;
use crate::model::desk::Change;
use crate::model::event::EventKind;
use crate::model::failure::Failure;
use crate::model::ids::{IdempotencyKey, Lane, OperationId, RepoName, SessionId, TodoKey};
use crate::model::incident::Incident;
use crate::model::job::JobRecord;
use crate::model::kept::{KEPT_FOR_MS, Kept};
use crate::model::operation::{Operation, OperationState};
use crate::model::phase::PhaseReport;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::record::{ConflictMark, PrepareMark, SyncMark, TodoMark, Verdict, WorktreeMark};
use crate::model::session::{NewSessionEvent, SessionStep};
use crate::model::time::Timestamp;

/// Verdicts kept; older ones are let go, and their trees are judged again if they ever come back.
const VERDICTS_MAX: i64 = 10_000;

/// Parked results kept per todo; older ones are let go, and are in the log still.
const PARKED_MAX: i64 = 1_000;

/// Failures kept; older ones are let go.
const FAILURES_MAX: i64 = 100_000;

/// How far back in the ledger somebody who missed events can be told them, in entries. Live events beyond it are let
/// go.
pub const REPLAY_MAX: u64 = 50_000;
/// Every so many entries the live ones that nobody can ask for any more are let go.
const LIVE_SWEEP_EVERY: i64 = 1_024;

/// Sessions kept; older ones that are over are let go with their events.
const SESSIONS_MAX: i64 = 50_000;
/// Every so many sessions the oldest are let go.
const SESSION_SWEEP_EVERY: i64 = 256;
/// Events kept per session; older ones are let go.
const SESSION_EVENTS_MAX: i64 = 100_000;

/// Incidents that are over and kept.
const INCIDENTS_MAX: i64 = 1_000;
/// Events kept: years of a busy night each. Views do not rest on them.
const EVENTS_MAX: i64 = 5_000_000;
/// Events let go at once, so that no commit waits for long.
const EVENTS_PER_TIDYING: i64 = 10_000;

/// One entry of the ledger.
#[derive(Debug, Clone)]
pub enum Write {
    /// An operation was accepted.
    OperationOpened(Box<Operation>),
    /// An operation changed. One that has ended never changes again: that is a conflict.
    OperationChanged(Box<Operation>),
    /// A phase was decided about.
    PhaseFinished {
        /// In which operation.
        operation: OperationId,
        /// For which todo.
        todo: TodoKey,
        /// In which trace.
        trace_id: String,
        /// What was decided.
        report: PhaseReport,
        /// When.
        at: Timestamp,
    },
    /// The dispatcher decided something. A todo's token that goes back is a conflict.
    Decided {
        /// What.
        change: Change,
        /// When.
        at: Timestamp,
    },
    /// An answer is kept under its key. Another answer under the same key is a conflict.
    Kept {
        /// The key.
        key: IdempotencyKey,
        /// The answer.
        kept: Box<Kept>,
    },
    /// The mark of the worktree phase; `None` takes it away.
    WorktreeMarked {
        /// For which todo.
        todo: TodoKey,
        /// The mark.
        mark: Option<WorktreeMark>,
        /// When.
        at: Timestamp,
    },
    /// The mark of the prepare phase; `None` takes it away.
    PrepareMarked {
        /// For which todo.
        todo: TodoKey,
        /// The mark.
        mark: Option<PrepareMark>,
        /// When.
        at: Timestamp,
    },
    /// The mark of the sync_todo phase; `None` takes it away.
    TodoMarked {
        /// For which todo.
        todo: TodoKey,
        /// The mark.
        mark: Option<TodoMark>,
        /// When.
        at: Timestamp,
    },
    /// A known conflict of the sync_main phase; `None` takes it away.
    ConflictMarked {
        /// For which todo.
        todo: TodoKey,
        /// The mark.
        mark: Option<ConflictMark>,
        /// When.
        at: Timestamp,
    },
    /// A sync_main that was begun; `None` says it is whole or undone.
    SyncMarked {
        /// For which todo.
        todo: TodoKey,
        /// The mark.
        mark: Option<SyncMark>,
        /// When.
        at: Timestamp,
    },
    /// A gate judged.
    VerdictRecorded(Verdict),
    /// What is shown of a worktree changed.
    WorktreeSeen {
        /// Of which repository.
        repo: RepoName,
        /// Which one.
        name: String,
        /// What changed; `None` when it is gone.
        delta: Option<Value>,
        /// When.
        at: Timestamp,
    },
    /// Events came to a claim's session.
    SessionReported {
        /// Which.
        session: SessionId,
        /// Its todo.
        todo: TodoKey,
        /// What happened, in order.
        events: Vec<NewSessionEvent>,
        /// What the session adds up to now.
        delta: Value,
        /// When they came.
        at: Timestamp,
    },
    /// Something happened to the daemon itself.
    Noted {
        /// What.
        kind: EventKind,
        /// To what: a job, an actor, a hang, readiness.
        about: String,
        /// What is to be said of it.
        data: Value,
        /// When.
        at: Timestamp,
    },
    /// A run of a job ended. `told` says that it is news.
    JobEnded {
        /// What is known of it now.
        record: JobRecord,
        /// Whether it is an event too.
        told: bool,
        /// When.
        at: Timestamp,
    },
    /// An incident was opened or changed.
    IncidentChanged {
        /// The incident as it is now.
        incident: Box<Incident>,
        /// When.
        at: Timestamp,
    },
    /// What is too old is let go.
    Tidied,
    /// A session shows another sign of life, without an event of its own in the ledger.
    SessionSeen {
        /// Which.
        session: SessionId,
        /// Its todo, when that is known.
        todo: Option<TodoKey>,
        /// What changed.
        delta: Value,
        /// When.
        at: Timestamp,
    },
}

/// The write that closes an operation whose daemon died.
pub fn interrupted(mut operation: Operation, at: Timestamp) -> Write {
    operation.state = OperationState::Interrupted;
    operation.finished_at = Some(at);
    operation.phase = None;
    operation.poll_after_ms = None;
    let detail =
        format!("a restart of the daemon ended operation {}; ask again, and what is missing is done", operation.id);
    operation.problem = Some(Problem::new(ProblemCode::Interrupted, detail));
    Write::OperationChanged(Box::new(operation))
}

/// Applies one entry inside an open transaction.
pub fn apply(db: &Connection, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::OperationOpened(operation) => operation_opened(db, operation),
        Write::OperationChanged(operation) => operation_changed(db, operation),
        Write::PhaseFinished { operation, todo, trace_id, report, at } => {
            let data = json!({ "operation": operation, "report": report, "trace_id": trace_id });
            append(db, *at, EventKind::PhaseFinished, todo, &data)
        }
        Write::Decided { change, at } => decided(db, change, *at),
        Write::Kept { key, kept } => answer_kept(db, key, kept),
        Write::WorktreeMarked { todo, mark, at } => marked(db, todo, "worktree", mark.as_ref(), *at),
        Write::PrepareMarked { todo, mark, at } => marked(db, todo, "prepare", mark.as_ref(), *at),
        Write::TodoMarked { todo, mark, at } => marked(db, todo, "todo", mark.as_ref(), *at),
        Write::ConflictMarked { todo, mark, at } => marked(db, todo, "conflict", mark.as_ref(), *at),
        Write::SyncMarked { todo, mark, at } => marked(db, todo, "sync", mark.as_ref(), *at),
        Write::VerdictRecorded(verdict) => verdict_recorded(db, verdict),
        Write::WorktreeSeen { repo, name, delta, at } => {
            let kind = if delta.is_some() { EventKind::WorktreeUpdated } else { EventKind::WorktreeRemoved };
            let data = delta.clone().unwrap_or_else(|| json!({}));
            append_live(db, *at, kind, (repo.as_str(), "", name), &data)
        }
        Write::Noted { kind, about, data, at } => append_live(db, *at, *kind, ("", "", about), data),
        Write::JobEnded { record, told, at } => job_ended(db, record, *told, *at),
        Write::IncidentChanged { incident, at } => incident_changed(db, incident, *at),
        Write::Tidied => tidied(db),
        Write::SessionReported { session, todo, events, delta, at } => {
            session_reported(db, session, events, *at)?;
            let about = (todo.repo.as_str(), todo.slug.as_str(), session.as_str());
            append_live(db, *at, EventKind::SessionUpdated, about, delta)
        }
        Write::SessionSeen { session, todo, delta, at } => {
            let (repo, slug) = todo.as_ref().map_or(("", ""), |todo| (todo.repo.as_str(), todo.slug.as_str()));
            append_live(db, *at, EventKind::SessionUpdated, (repo, slug, session.as_str()), delta)
        }
    }
}

fn job_ended(db: &Connection, record: &JobRecord, told: bool, at: Timestamp) -> Result<(), StoreError> {
    let text = serde_json::to_string(record)?;
    db.prepare_cached("INSERT OR REPLACE INTO jobs (job, record) VALUES (?1, ?2)")?
        .execute(params![record.job.as_str(), text])?;
    if told {
        append_live(db, at, EventKind::JobUpdated, ("", "", record.job.as_str()), &json!(record))?;
    }
    Ok(())
}

fn incident_changed(db: &Connection, incident: &Incident, at: Timestamp) -> Result<(), StoreError> {
    db.prepare_cached("INSERT OR REPLACE INTO incidents (id, resolved, updated, record) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            incident.id,
            incident.resolved_at.is_some(),
            incident.updated_at.as_ms(),
            serde_json::to_string(incident)?
        ])?;
    append_live(db, at, EventKind::IncidentUpdated, ("", "", &incident.id), &json!(incident))
}

/// Bounds of what grows with time alone; each of them is far beyond what anybody looks back to.
fn tidied(db: &Connection) -> Result<(), StoreError> {
    db.execute(
        "DELETE FROM incidents WHERE resolved AND id NOT IN
             (SELECT id FROM incidents WHERE resolved ORDER BY updated DESC LIMIT ?1)",
        [INCIDENTS_MAX],
    )?;
    db.execute(
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events
             WHERE seq <= (SELECT max(seq) FROM events) - ?1 ORDER BY seq LIMIT ?2)",
        params![EVENTS_MAX, EVENTS_PER_TIDYING],
    )?;
    Ok(())
}

/// An event that says what can be seen again at any time; old ones are let go.
fn append_live(
    db: &Connection,
    at: Timestamp,
    kind: EventKind,
    (repo, slug, subject): (&str, &str, &str),
    data: &Value,
) -> Result<(), StoreError> {
    db.prepare_cached("INSERT INTO events (at, kind, repo, slug, data, subject) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![at.as_ms(), kind.as_str(), repo, slug, data.to_string(), subject])?;
    let seq = db.last_insert_rowid();
    let kept = i64::try_from(REPLAY_MAX).unwrap_or(i64::MAX);
    if seq % LIVE_SWEEP_EVERY == 0 {
        db.prepare_cached("DELETE FROM events WHERE subject <> '' AND seq <= ?1")?.execute([seq - kept])?;
    }
    Ok(())
}

fn session_reported(
    db: &Connection,
    session: &SessionId,
    events: &[NewSessionEvent],
    at: Timestamp,
) -> Result<(), StoreError> {
    for event in events {
        db.prepare_cached("INSERT INTO session_events (session, at, record) VALUES (?1, ?2, ?3)")?.execute(params![
            session.as_str(),
            at.as_ms(),
            serde_json::to_string(event)?
        ])?;
    }
    db.prepare_cached(
        "DELETE FROM session_events WHERE session = ?1 AND n <= (
             SELECT n FROM session_events WHERE session = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute(params![session.as_str(), SESSION_EVENTS_MAX])?;
    Ok(())
}

fn session_follows(db: &Connection, step: SessionStep, at: Timestamp) -> Result<(), StoreError> {
    match step {
        SessionStep::Began(session) => {
            db.prepare_cached("INSERT OR REPLACE INTO sessions (id, ended, record) VALUES (?1, NULL, ?2)")?
                .execute(params![session.id().as_str(), serde_json::to_string(&session)?])?;
            let n = db.last_insert_rowid();
            if n % SESSION_SWEEP_EVERY == 0 {
                sessions_swept(db, n - SESSIONS_MAX)?;
            }
        }
        SessionStep::Ended { id, how } => {
            db.prepare_cached(
                "UPDATE sessions SET ended = ?2, record = json_set(record, '$.ended_at', ?3, '$.how', ?4) WHERE id = ?1",
            )?
            .execute(params![id.as_str(), at.as_ms(), at.to_string(), how])?;
        }
    }
    Ok(())
}

fn sessions_swept(db: &Connection, up_to: i64) -> Result<(), StoreError> {
    db.prepare_cached(
        "DELETE FROM session_events WHERE session IN (SELECT id FROM sessions WHERE n <= ?1 AND ended IS NOT NULL)",
    )?
    .execute([up_to])?;
    db.prepare_cached("DELETE FROM sessions WHERE n <= ?1 AND ended IS NOT NULL")?.execute([up_to])?;
    Ok(())
}

fn append(db: &Connection, at: Timestamp, kind: EventKind, todo: &TodoKey, data: &Value) -> Result<(), StoreError> {
    db.prepare_cached("INSERT INTO events (at, kind, repo, slug, data) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![at.as_ms(), kind.as_str(), todo.repo.as_str(), todo.slug.as_str(), data.to_string()])?;
    Ok(())
}

fn append_lane(db: &Connection, at: Timestamp, kind: EventKind, lane: &Lane, data: &Value) -> Result<(), StoreError> {
    db.prepare_cached("INSERT INTO events (at, kind, repo, slug, data, lane) VALUES (?1, ?2, '', '', ?3, ?4)")?
        .execute(params![at.as_ms(), kind.as_str(), data.to_string(), lane.as_str()])?;
    Ok(())
}

fn operation_opened(db: &Connection, operation: &Operation) -> Result<(), StoreError> {
    db.prepare_cached("INSERT INTO operations (id, repo, slug, state, record) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
        params![
            operation.id.as_str(),
            operation.todo.repo.as_str(),
            operation.todo.slug.as_str(),
            operation.state.as_str(),
            serde_json::to_string(operation)?
        ],
    )?;
    operation_event(db, operation, operation.created_at)
}

fn operation_changed(db: &Connection, operation: &Operation) -> Result<(), StoreError> {
    let changed = db
        .prepare_cached(
            "UPDATE operations SET state = ?2, record = ?3 WHERE id = ?1 AND state IN ('queued', 'running')",
        )?
        .execute(params![operation.id.as_str(), operation.state.as_str(), serde_json::to_string(operation)?])?;
    if changed == 0 {
        return Err(StoreError::Conflict(format!("operation {} has ended or was never opened", operation.id)));
    }
    operation_event(db, operation, operation.finished_at.or(operation.started_at).unwrap_or(operation.created_at))
}

fn operation_event(db: &Connection, operation: &Operation, at: Timestamp) -> Result<(), StoreError> {
    let data = json!({ "operation": operation.id, "state": operation.state, "phase": operation.phase, "lane": operation.lane, "worker": operation.worker, "trace_id": operation.trace_id });
    append(db, at, EventKind::OperationUpdated, &operation.todo, &data)
}

fn decided(db: &Connection, change: &Change, at: Timestamp) -> Result<(), StoreError> {
    match change {
        Change::Todo { todo, state, events } => {
            let token = whole(state.token)?;
            let changed = db
                .prepare_cached(
                    "INSERT INTO todos (repo, slug, token, record) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (repo, slug) DO UPDATE SET token = excluded.token, record = excluded.record
                     WHERE excluded.token >= todos.token",
                )?
                .execute(params![todo.repo.as_str(), todo.slug.as_str(), token, serde_json::to_string(&**state)?])?;
            if changed == 0 {
                return Err(StoreError::Conflict(format!("token {token} of {todo} is behind one that was given")));
            }
            events.iter().try_for_each(|(kind, data)| {
                if let Some(step) = SessionStep::of(todo, state, *kind, data) {
                    session_follows(db, step, at)?;
                }
                append(db, at, *kind, todo, data)
            })
        }
        Change::Lane { state, event } => {
            db.prepare_cached("INSERT OR REPLACE INTO lanes (lane, record) VALUES (?1, ?2)")?
                .execute(params![state.lane.as_str(), serde_json::to_string(state)?])?;
            match event {
                Some((kind, data)) => append_lane(db, at, *kind, &state.lane, data),
                None => Ok(()),
            }
        }
        Change::Failed(failure) => failed(db, failure),
        Change::Filed { repo, filed } => {
            let record = serde_json::to_string(filed)?;
            db.prepare_cached("INSERT INTO filed (repo, slug, record) VALUES (?1, ?2, ?3)")?.execute(params![
                repo.as_str(),
                filed.todo.slug.as_str(),
                record
            ])?;
            let todo = TodoKey { repo: repo.clone(), slug: filed.todo.slug.clone() };
            append(db, at, EventKind::TodoUpdated, &todo, &json!({ "filed": filed }))
        }
        Change::AfterSet { todo, after } => {
            db.prepare_cached("INSERT OR REPLACE INTO after_set (repo, slug, record) VALUES (?1, ?2, ?3)")?
                .execute(params![todo.repo.as_str(), todo.slug.as_str(), serde_json::to_string(after)?])?;
            append(db, at, EventKind::TodoUpdated, todo, &json!({ "after": after }))
        }
        Change::Parked { todo, complete } => {
            let (repo, slug) = (todo.repo.as_str(), todo.slug.as_str());
            db.prepare_cached("INSERT INTO parked (repo, slug, at, record) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![repo, slug, at.as_ms(), serde_json::to_string(complete)?])?;
            db.prepare_cached(
                "DELETE FROM parked WHERE repo = ?1 AND slug = ?2 AND seq <= (
                     SELECT seq FROM parked WHERE repo = ?1 AND slug = ?2 ORDER BY seq DESC LIMIT 1 OFFSET ?3)",
            )?
            .execute(params![repo, slug, PARKED_MAX])?;
            append(db, at, EventKind::TodoUpdated, todo, &json!({ "parked": complete }))
        }
        Change::Awake(awake) => {
            db.prepare_cached("INSERT OR REPLACE INTO clock (id, awake) VALUES (1, ?1)")?.execute([awake.as_ms()])?;
            Ok(())
        }
        Change::TokensAbove(token) => {
            db.prepare_cached("UPDATE ledger SET tokens_above = max(tokens_above, ?1)")?.execute([whole(*token)?])?;
            Ok(())
        }
    }
}

fn whole(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Conflict(format!("{number} is out of range")))
}

fn failed(db: &Connection, failure: &Failure) -> Result<(), StoreError> {
    db.prepare_cached("INSERT INTO failures (lane, generation, fingerprint, at, record) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            failure.lane.as_str(),
            whole(failure.generation)?,
            failure.fingerprint,
            failure.at.as_ms(),
            serde_json::to_string(failure)?
        ])?;
    db.prepare_cached("DELETE FROM failures WHERE seq <= (SELECT max(seq) FROM failures) - ?1")?
        .execute([FAILURES_MAX])?;
    let data = json!({ "failure": failure.fingerprint, "source": failure.source, "lane": failure.lane, "generation": failure.generation, "token": failure.token });
    append(db, failure.at, EventKind::TodoUpdated, &failure.todo, &data)
}

fn answer_kept(db: &Connection, key: &IdempotencyKey, kept: &Kept) -> Result<(), StoreError> {
    db.prepare_cached("DELETE FROM kept WHERE at < ?1")?.execute([kept.at.as_ms() - KEPT_FOR_MS])?;
    db.prepare_cached("INSERT INTO kept (key, at, record) VALUES (?1, ?2, ?3)")?.execute(params![
        key.as_str(),
        kept.at.as_ms(),
        serde_json::to_string(kept)?
    ])?;
    Ok(())
}

fn marked<M: Serialize>(
    db: &Connection,
    todo: &TodoKey,
    kind: &str,
    mark: Option<&M>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let (repo, slug) = (todo.repo.as_str(), todo.slug.as_str());
    match mark {
        Some(mark) => db
            .prepare_cached("INSERT OR REPLACE INTO marks (repo, slug, kind, record) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![repo, slug, kind, serde_json::to_string(mark)?])?,
        None => db
            .prepare_cached("DELETE FROM marks WHERE repo = ?1 AND slug = ?2 AND kind = ?3")?
            .execute(params![repo, slug, kind])?,
    };
    append(db, at, EventKind::TodoUpdated, todo, &json!({ "mark": kind, "value": mark }))
}

fn verdict_recorded(db: &Connection, verdict: &Verdict) -> Result<(), StoreError> {
    let record = serde_json::to_string(verdict)?;
    db.prepare_cached("INSERT INTO verdicts (tree, definition, environment, record) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![verdict.key.tree.as_str(), verdict.key.definition, verdict.key.environment, record])?;
    db.prepare_cached("DELETE FROM verdicts WHERE seq <= (SELECT max(seq) FROM verdicts) - ?1")?
        .execute([VERDICTS_MAX])?;
    append(db, verdict.at, EventKind::TodoUpdated, &verdict.todo, &serde_json::to_value(verdict)?)
}
