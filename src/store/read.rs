//! The views, read on connections of their own beside the writer: each read sees one committed state.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, Row, params};
use serde::de::DeserializeOwned;

use super::error::StoreError;
use super::{ReaderPool, Store, Write, observe, schema};
use crate::metrics::store::StoreOp;
use crate::model::desk::Change;
use crate::model::event::{Event, EventKind, Subject};
use crate::model::failure::{Failure, FailureView};
use crate::model::filed::Filed;
use crate::model::fingerprint;
use crate::model::ids::{IdempotencyKey, Lane, OperationId, RepoName, SessionId, Slug, TodoKey};
use crate::model::incident::Incident;
use crate::model::job::JobRecord;
use crate::model::kept::Kept;
use crate::model::operation::Operation;
use crate::model::record::{SlugRecord, Verdict, VerdictKey};
use crate::model::session::{Activity, ClaimSession, LastEvent, NewSessionEvent, SessionEvent};
use crate::model::time::{Awake, Timestamp};
use crate::model::todo::{Parked, TodoState};
use crate::model::view::OperationFilter;

impl ReaderPool {
    /// Lends a connection to `read` on a thread that may block.
    async fn with<T, F>(self: &Arc<Self>, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let begun = Instant::now();
        let result = self.lend(read).await;
        observe(StoreOp::Read, begun, &result);
        result
    }

    async fn lend<T, F>(self: &Arc<Self>, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let _permit = self.permits.acquire().await.map_err(|_| StoreError::Gone)?;
        let pool = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => schema::connect(&pool.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
            };
            let result = read(&connection);
            pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        });
        done.await.map_err(|error| StoreError::Io(error.to_string()))?
    }
}

impl Store {
    /// Everything remembered of one slug.
    pub async fn slug(&self, todo: &TodoKey) -> Result<SlugRecord, StoreError> {
        let todo = todo.clone();
        self.readers.with(move |db| slug_record(db, &todo)).await
    }

    /// The newest verdict for each of the keys that has one.
    pub async fn verdicts_for(&self, keys: &[VerdictKey]) -> Result<Vec<Verdict>, StoreError> {
        let keys = keys.to_vec();
        let newest = "SELECT record FROM verdicts WHERE tree = ?1 AND definition = ?2 AND environment = ?3 ORDER BY seq DESC LIMIT 1";
        self.readers
            .with(move |db| {
                let one = |key: &VerdictKey| {
                    record(db, newest, params![key.tree.as_str(), key.definition, key.environment]).transpose()
                };
                keys.iter().filter_map(one).collect()
            })
            .await
    }

    /// An operation.
    pub async fn operation(&self, id: &OperationId) -> Result<Option<Operation>, StoreError> {
        let id = id.clone();
        self.readers.with(move |db| record(db, "SELECT record FROM operations WHERE id = ?1", [id.as_str()])).await
    }

    /// Every operation that has not ended.
    pub async fn open_operations(&self) -> Result<Vec<Operation>, StoreError> {
        self.readers
            .with(|db| {
                records(db, "SELECT record FROM operations WHERE state IN ('queued', 'running') ORDER BY id", [])
            })
            .await
    }

    /// Operations, newest first: with `latest` only the newest of each todo, and of those the ones in the states.
    pub async fn operations(&self, filter: OperationFilter) -> Result<Vec<Operation>, StoreError> {
        self.readers.with(move |db| operations(db, &filter)).await
    }

    /// Everything the dispatcher has decided and still goes by, in the order it takes it in.
    pub async fn decided(&self) -> Result<Vec<Change>, StoreError> {
        self.readers
            .with(|db| {
                let mut all = Vec::new();
                let awake: Option<i64> = db.query_row("SELECT awake FROM clock", [], |row| row.get(0)).optional()?;
                all.extend(awake.map(|awake| Change::Awake(Awake::from_ms(awake))));
                let above: i64 = db.query_row("SELECT tokens_above FROM ledger", [], |row| row.get(0))?;
                all.extend(u64::try_from(above).ok().filter(|above| *above > 0).map(Change::TokensAbove));
                for (todo, state) in keyed_records::<TodoState>(db, "SELECT repo, slug, record FROM todos")? {
                    all.push(Change::Todo { todo, state: Arc::new(state), events: Vec::new() });
                }
                for state in records(db, "SELECT record FROM lanes", [])? {
                    all.push(Change::Lane { state, event: None });
                }
                let newest =
                    "SELECT record FROM (SELECT seq, record FROM failures ORDER BY seq DESC LIMIT ?1) ORDER BY seq";
                all.extend(records(db, newest, [TALLIED_MAX])?.into_iter().map(Change::Failed));
                for (todo, filed) in keyed_records::<Filed>(db, "SELECT repo, slug, record FROM filed")? {
                    all.push(Change::Filed { repo: todo.repo, filed });
                }
                for (todo, after) in keyed_records::<Vec<Slug>>(db, "SELECT repo, slug, record FROM after_set")? {
                    all.push(Change::AfterSet { todo, after });
                }
                Ok(all)
            })
            .await
    }

    /// The answer kept under a key.
    pub async fn kept(&self, key: &IdempotencyKey) -> Result<Option<Kept>, StoreError> {
        let key = key.clone();
        self.readers.with(move |db| record(db, "SELECT record FROM kept WHERE key = ?1", [key.as_str()])).await
    }

    /// Failures since a time, of one lane or all, by lane, fingerprint and generation; the newest first.
    pub async fn failures(&self, lane: Option<&Lane>, since: Timestamp) -> Result<Vec<FailureView>, StoreError> {
        let lane = lane.cloned();
        self.readers.with(move |db| failures(db, lane.as_ref(), since)).await
    }

    /// The results of a todo that came too late to count, newest first.
    pub async fn parked(&self, todo: &TodoKey, limit: usize) -> Result<Vec<Parked>, StoreError> {
        let (todo, limit) = (todo.clone(), i64::try_from(limit).unwrap_or(i64::MAX));
        self.readers
            .with(move |db| {
                let mut statement = db.prepare_cached(
                    "SELECT at, record FROM parked WHERE repo = ?1 AND slug = ?2 ORDER BY seq DESC LIMIT ?3",
                )?;
                let rows = statement.query_map(params![todo.repo.as_str(), todo.slug.as_str(), limit], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
                })?;
                rows.map(|row| {
                    let (at, text) = row?;
                    Ok(Parked { at: Timestamp::from_ms(at), result: serde_json::from_str(&text)? })
                })
                .collect()
            })
            .await
    }

    /// What happened to a todo, newest first.
    pub async fn history(&self, todo: &TodoKey, limit: usize) -> Result<Vec<Event>, StoreError> {
        let (todo, limit) = (todo.clone(), i64::try_from(limit).unwrap_or(i64::MAX));
        self.readers
            .with(move |db| {
                let sql = "SELECT seq, at, kind, repo, slug, data, lane, subject FROM events WHERE repo = ?1 AND slug = ?2 AND subject = '' ORDER BY seq DESC LIMIT ?3";
                events(db, sql, params![todo.repo.as_str(), todo.slug.as_str(), limit])
            })
            .await
    }

    /// The newest verdicts of a todo, newest first.
    pub async fn verdicts_of(&self, todo: &TodoKey, limit: usize) -> Result<Vec<Verdict>, StoreError> {
        let (todo, limit) = (todo.clone(), i64::try_from(limit).unwrap_or(i64::MAX));
        let sql = "SELECT record FROM verdicts WHERE json_extract(record, '$.todo.repo') = ?1 AND json_extract(record, '$.todo.slug') = ?2 ORDER BY seq DESC LIMIT ?3";
        self.readers.with(move |db| records(db, sql, params![todo.repo.as_str(), todo.slug.as_str(), limit])).await
    }

    /// The last entry.
    pub async fn last_seq(&self) -> Result<u64, StoreError> {
        self.readers
            .with(|db| {
                let seq: i64 = db.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))?;
                Ok(u64::try_from(seq).unwrap_or(0))
            })
            .await
    }

    /// Events after a sequence number, oldest first.
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let (after, limit) = (i64::try_from(after).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
        let sql =
            "SELECT seq, at, kind, repo, slug, data, lane, subject FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        self.readers.with(move |db| events(db, sql, params![after, limit])).await
    }
}

impl Store {
    /// The newest sessions with what their events add up to, oldest first.
    pub async fn sessions(&self, limit: usize) -> Result<Vec<(ClaimSession, Activity)>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.readers
            .with(move |db| {
                let newest = "SELECT record FROM (SELECT n, record FROM sessions ORDER BY n DESC LIMIT ?1) ORDER BY n";
                let sessions: Vec<ClaimSession> = records(db, newest, [limit])?;
                sessions
                    .into_iter()
                    .map(|session| activity(db, &session.id()).map(|activity| (session, activity)))
                    .collect()
            })
            .await
    }

    /// One session. Those not among the newest are read when somebody asks for them.
    pub async fn session(&self, id: &SessionId) -> Result<Option<(ClaimSession, Activity)>, StoreError> {
        let id = id.clone();
        self.readers
            .with(move |db| {
                let found: Option<ClaimSession> =
                    record(db, "SELECT record FROM sessions WHERE id = ?1", [id.as_str()])?;
                found.map(|session| activity(db, &id).map(|activity| (session, activity))).transpose()
            })
            .await
    }

    /// Events of a session after a place in it, oldest first.
    pub async fn session_events(
        &self,
        id: &SessionId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<SessionEvent>, StoreError> {
        let (id, after) = (id.clone(), i64::try_from(after).unwrap_or(i64::MAX));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.readers
            .with(move |db| {
                let mut statement = db.prepare_cached(
                    "SELECT n, at, record FROM session_events WHERE session = ?1 AND n > ?2 ORDER BY n LIMIT ?3",
                )?;
                let rows = statement.query_map(params![id.as_str(), after, limit], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
                })?;
                rows.map(|row| {
                    let (n, at, text) = row?;
                    let NewSessionEvent { kind, text, data } = serde_json::from_str(&text)?;
                    let (n, at) = (u64::try_from(n).unwrap_or(0), Some(Timestamp::from_ms(at)));
                    Ok(SessionEvent { n, at, kind, text, data, corrupt: false })
                })
                .collect()
            })
            .await
    }
}

impl Store {
    /// What is known of every job that has run.
    pub async fn jobs(&self) -> Result<Vec<JobRecord>, StoreError> {
        self.readers.with(|db| records(db, "SELECT record FROM jobs ORDER BY job", [])).await
    }

    /// Incidents: those that are not over, then the newest that are.
    pub async fn incidents(&self, limit: usize) -> Result<Vec<Incident>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = "SELECT record FROM incidents ORDER BY resolved, updated DESC LIMIT ?1";
        self.readers.with(move |db| records(db, sql, [limit])).await
    }

    /// Folds the write-ahead log in as far as nobody reads from it, and has the database look after its indices.
    pub async fn tidy(&self) -> Result<(), StoreError> {
        self.commit(vec![Write::Tidied]).await?;
        let path = self.readers.path.clone();
        let tidied = tokio::task::spawn_blocking(move || {
            let db = schema::connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            db.execute_batch("PRAGMA analysis_limit = 400; PRAGMA optimize")?;
            Ok::<(), StoreError>(())
        });
        tidied.await.map_err(|error| StoreError::Io(error.to_string()))?
    }
}

/// What the events of a session add up to.
fn activity(db: &Connection, id: &SessionId) -> Result<Activity, StoreError> {
    let events: i64 = db
        .prepare_cached("SELECT count(*) FROM session_events WHERE session = ?1")?
        .query_row([id.as_str()], |row| row.get(0))?;
    let last: Option<(i64, String)> = db
        .prepare_cached("SELECT at, record FROM session_events WHERE session = ?1 ORDER BY n DESC LIMIT 1")?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let last = match last {
        Some((at, text)) => {
            let event: NewSessionEvent = serde_json::from_str(&text)?;
            Some(LastEvent::of(Timestamp::from_ms(at), &event.kind, event.text.as_deref()))
        }
        None => None,
    };
    Ok(Activity { events: u64::try_from(events).unwrap_or(0), corrupt: 0, last })
}

/// Failures the breakers' counts are made from again at a start.
const TALLIED_MAX: i64 = 20_000;
/// Todos named per line of the failures.
const FAILED_TODOS_MAX: i64 = 100;
/// Times said per line of the failures.
const FAILURE_TIMES_MAX: i64 = 100;

fn failures(db: &Connection, lane: Option<&Lane>, since: Timestamp) -> Result<Vec<FailureView>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT lane, fingerprint, generation, count(*), min(at), max(at), max(seq) FROM failures
         WHERE at >= ?1 AND (?2 IS NULL OR lane = ?2) GROUP BY lane, fingerprint, generation ORDER BY max(seq) DESC",
    )?;
    let mut rows = statement.query(params![since.as_ms(), lane.map(Lane::as_str)])?;
    let mut views = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, fingerprint): (String, String) = (row.get(0)?, row.get(1)?);
        let generation: i64 = row.get(2)?;
        let newest: Option<Failure> =
            record(db, "SELECT record FROM failures WHERE seq = ?1", [row.get::<_, i64>(6)?])?;
        let mut todos = db.prepare_cached(
            "SELECT DISTINCT json_extract(record, '$.repo') || '/' || json_extract(record, '$.slug') FROM failures
             WHERE lane = ?1 AND fingerprint = ?2 AND generation = ?3 AND at >= ?4 LIMIT ?5",
        )?;
        let todos = todos
            .query_map(params![name, fingerprint, generation, since.as_ms(), FAILED_TODOS_MAX], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut times = db.prepare_cached(
            "SELECT at FROM failures WHERE lane = ?1 AND fingerprint = ?2 AND generation = ?3 AND at >= ?4
             ORDER BY at DESC LIMIT ?5",
        )?;
        let mut times: Vec<Timestamp> = times
            .query_map(params![name, fingerprint, generation, since.as_ms(), FAILURE_TIMES_MAX], |row| {
                row.get(0).map(Timestamp::from_ms)
            })?
            .collect::<Result<_, _>>()?;
        times.reverse();
        let Some(newest) = newest else { continue };
        views.push(FailureView {
            lane: newest.lane,
            fingerprint,
            generation: newest.generation,
            count: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
            todos,
            first_at: Timestamp::from_ms(row.get(4)?),
            last_at: Timestamp::from_ms(row.get(5)?),
            times,
            said: fingerprint::of(&newest.sample).said,
            sample: newest.sample,
            source: newest.source,
        });
    }
    Ok(views)
}

/// What is looked for is found in the index of todos, which has no records in it; only those that are shown are read whole.
fn operations(db: &Connection, filter: &OperationFilter) -> Result<Vec<Operation>, StoreError> {
    let of_todo = "(?1 IS NULL OR repo = ?1) AND (?2 IS NULL OR slug = ?2)";
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let in_state = "(?3 = '[]' OR state IN (SELECT value FROM json_each(?3)))";
    let found = if filter.latest {
        format!(
            "SELECT id FROM (SELECT max(id) AS newest FROM operations INDEXED BY operations_of_todo WHERE {of_todo} GROUP BY repo, slug)
             JOIN operations ON id = newest WHERE {in_state}"
        )
    } else {
        format!("SELECT id FROM operations INDEXED BY operations_of_todo WHERE {of_todo} AND {in_state}")
    };
    let sql = format!("SELECT record FROM operations WHERE id IN ({found} ORDER BY id DESC LIMIT ?4) ORDER BY id DESC");
    let (repo, slug) = (filter.repo.as_ref().map(RepoName::as_str), filter.slug.as_ref().map(Slug::as_str));
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    records(db, &sql, params![repo, slug, serde_json::to_string(&states)?, limit])
}

fn events(db: &Connection, sql: &str, at: impl Params) -> Result<Vec<Event>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(at)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(event(row)?);
    }
    Ok(events)
}

fn keyed_records<T: DeserializeOwned>(db: &Connection, sql: &str) -> Result<Vec<(TodoKey, T)>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))?;
    rows.map(|row| {
        let (repo, slug, text) = row?;
        Ok((key(&repo, &slug)?, serde_json::from_str(&text)?))
    })
    .collect()
}

fn slug_record(db: &Connection, todo: &TodoKey) -> Result<SlugRecord, StoreError> {
    let at = params![todo.repo.as_str(), todo.slug.as_str()];
    let last =
        "SELECT id FROM operations WHERE repo = ?1 AND slug = ?2 AND state = 'succeeded' ORDER BY id DESC LIMIT 1";
    let last: Option<String> = db.prepare_cached(last)?.query_row(at, |row| row.get(0)).optional()?;
    Ok(SlugRecord {
        last_operation: last
            .map(|id| OperationId::parse(&id).map_err(|error| StoreError::Corrupt(error.to_string())))
            .transpose()?,
        worktree: mark(db, todo, "worktree")?,
        prepare: mark(db, todo, "prepare")?,
        todo: mark(db, todo, "todo")?,
        conflict: mark(db, todo, "conflict")?,
        sync: mark(db, todo, "sync")?,
    })
}

fn mark<T: DeserializeOwned>(db: &Connection, todo: &TodoKey, kind: &str) -> Result<Option<T>, StoreError> {
    let sql = "SELECT record FROM marks WHERE repo = ?1 AND slug = ?2 AND kind = ?3";
    record(db, sql, params![todo.repo.as_str(), todo.slug.as_str(), kind])
}

fn record<T: DeserializeOwned>(db: &Connection, sql: &str, at: impl Params) -> Result<Option<T>, StoreError> {
    let text: Option<String> = db.prepare_cached(sql)?.query_row(at, |row| row.get(0)).optional()?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}

fn records<T: DeserializeOwned>(db: &Connection, sql: &str, at: impl Params) -> Result<Vec<T>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let texts: Vec<String> = statement.query_map(at, |row| row.get(0))?.collect::<Result<_, _>>()?;
    texts.iter().map(|text| serde_json::from_str(text).map_err(StoreError::from)).collect()
}

fn event(row: &Row<'_>) -> Result<Event, StoreError> {
    let (kind, data): (String, String) = (row.get(2)?, row.get(5)?);
    Ok(Event {
        seq: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
        at: Timestamp::from_ms(row.get(1)?),
        kind: serde_json::from_value(kind.into())?,
        subject: subject(row)?,
        data: serde_json::from_str(&data)?,
    })
}

fn subject(row: &Row<'_>) -> Result<Subject, StoreError> {
    let (kind, lane, about): (String, String, String) = (row.get(2)?, row.get(6)?, row.get(7)?);
    let fault = |error: crate::model::ids::NameError| StoreError::Corrupt(error.to_string());
    if !about.is_empty() {
        let parsed: EventKind = serde_json::from_value(kind.clone().into())?;
        if let Some(subject) = Subject::of_the_daemon(parsed, &about) {
            return Ok(subject);
        }
        let (repo, slug): (String, String) = (row.get(3)?, row.get(4)?);
        if kind.starts_with("worktree.") {
            return Ok(Subject::Worktree { repo: RepoName::parse(&repo).map_err(fault)?, name: about });
        }
        let repo = if repo.is_empty() { None } else { Some(RepoName::parse(&repo).map_err(fault)?) };
        let slug = if slug.is_empty() { None } else { Some(Slug::parse(&slug).map_err(fault)?) };
        return Ok(Subject::Session { session: SessionId::parse(&about).map_err(fault)?, repo, slug });
    }
    if lane.is_empty() {
        return Ok(Subject::Todo(key(&row.get::<_, String>(3)?, &row.get::<_, String>(4)?)?));
    }
    let lane = Lane::parse(&lane).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(Subject::Lane { lane })
}

fn key(repo: &str, slug: &str) -> Result<TodoKey, StoreError> {
    let fault = |error: crate::model::ids::NameError| StoreError::Corrupt(error.to_string());
    Ok(TodoKey { repo: RepoName::parse(repo).map_err(fault)?, slug: Slug::parse(slug).map_err(fault)? })
}
