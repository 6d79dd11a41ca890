//! The views, read on connections of their own beside the writer: each read sees one committed state.

use std::sync::{Arc, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, Row, params};
use serde::de::DeserializeOwned;

use super::error::StoreError;
use super::{ReaderPool, Store, schema};
use crate::model::claim::Claim;
use crate::model::event::Event;
use crate::model::ids::{OperationId, RepoName, Slug, TodoKey};
use crate::model::operation::Operation;
use crate::model::record::{SlugRecord, Stage, Verdict, VerdictKey};
use crate::model::time::Timestamp;

impl ReaderPool {
    /// Lends a connection to `read` on a thread that may block.
    async fn with<T, F>(self: &Arc<Self>, read: F) -> Result<T, StoreError>
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

    /// The newest claim of every todo, live or not.
    pub async fn claims(&self) -> Result<Vec<Claim>, StoreError> {
        self.readers.with(|db| records(db, "SELECT record FROM claims", [])).await
    }

    /// The stage of every todo that has one on record.
    pub async fn stages(&self) -> Result<Vec<(TodoKey, Stage)>, StoreError> {
        self.readers
            .with(|db| {
                let mut statement = db.prepare_cached("SELECT repo, slug, stage FROM stages")?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
                rows.map(|row| {
                    let (repo, slug, stage): (String, String, String) = row?;
                    Ok((key(&repo, &slug)?, serde_json::from_value(stage.into())?))
                })
                .collect()
            })
            .await
    }

    /// Events after a sequence number, oldest first.
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let (after, limit) = (i64::try_from(after).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
        self.readers
            .with(move |db| {
                let mut statement = db.prepare_cached(
                    "SELECT seq, at, kind, repo, slug, data FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
                )?;
                let mut rows = statement.query(params![after, limit])?;
                let mut events = Vec::new();
                while let Some(row) = rows.next()? {
                    events.push(event(row)?);
                }
                Ok(events)
            })
            .await
    }
}

fn slug_record(db: &Connection, todo: &TodoKey) -> Result<SlugRecord, StoreError> {
    let at = params![todo.repo.as_str(), todo.slug.as_str()];
    let stage: Option<String> = db
        .prepare_cached("SELECT stage FROM stages WHERE repo = ?1 AND slug = ?2")?
        .query_row(at, |row| row.get(0))
        .optional()?;
    let last =
        "SELECT id FROM operations WHERE repo = ?1 AND slug = ?2 AND state = 'succeeded' ORDER BY id DESC LIMIT 1";
    let last: Option<String> = db.prepare_cached(last)?.query_row(at, |row| row.get(0)).optional()?;
    Ok(SlugRecord {
        stage: stage.map(|stage| serde_json::from_value(stage.into())).transpose()?.unwrap_or_default(),
        claim: record(db, "SELECT record FROM claims WHERE repo = ?1 AND slug = ?2", at)?,
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
        todo: key(&row.get::<_, String>(3)?, &row.get::<_, String>(4)?)?,
        data: serde_json::from_str(&data)?,
    })
}

fn key(repo: &str, slug: &str) -> Result<TodoKey, StoreError> {
    let fault = |error: crate::model::ids::NameError| StoreError::Corrupt(error.to_string());
    Ok(TodoKey { repo: RepoName::parse(repo).map_err(fault)?, slug: Slug::parse(slug).map_err(fault)? })
}
