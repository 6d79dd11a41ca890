//! Putting a backup in the place of the ledger.
//!
//! What came after the backup is lost, and the world has seen it: so the numbers of entries go on where the lost ledger was,
//! tokens go on above any that could have been given, and no claim of the backup goes on. The replaced ledger is kept.

use std::fmt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};

use super::error::{StoreError, Unusable};
use super::mark::{self, Position};
use super::write::{self, Write};
use super::{backup, check, lock_for, schema};
use crate::model::incident::{IncidentState, Incidents, Links, Severity, Sign};
use crate::model::time::Timestamp;

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The last entry of the backup.
    pub last_seq: u64,
    /// The last entry that is known to have been in the ledger before; `None` when there is no sign of one.
    pub known_seq: Option<u64>,
    /// Every token from now on is above this.
    pub tokens_above: u64,
    /// Claims of the backup that were ended.
    pub claims_ended: usize,
    /// Where the replaced ledger is.
    pub replaced: Option<PathBuf>,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { last_seq, known_seq, tokens_above, claims_ended, replaced } = self;
        write!(f, "It goes to entry {last_seq}; ")?;
        match known_seq {
            Some(known) if known > last_seq => write!(f, "entries {} to {known} are lost. ", last_seq + 1)?,
            Some(_) => f.write_str("nothing is known to be lost. ")?,
            None => f.write_str("how far the ledger before it went is not known. ")?,
        }
        write!(f, "Claims that were ended: {claims_ended}. Tokens go on above {tokens_above}.")?;
        replaced.as_ref().map_or(Ok(()), |path| write!(f, " The replaced ledger is {}.", path.display()))
    }
}

/// Puts a backup in the place of the ledger, whatever is there. Refuses while a daemon has it, and a backup that is not
/// whole; then nothing is changed. Blocks.
pub fn restore(ledger: &Path, backup: &Path, at: Timestamp) -> Result<Restored, StoreError> {
    let _lock = lock_for(ledger)?;
    let part = ledger.with_extension("restoring");
    let restored = prepare(ledger, backup, &part, at).and_then(|(mut restored, end)| {
        restored.replaced = set_aside(ledger, at)?;
        schema::put_in_place(&part, ledger)?;
        mark::Mark::of(ledger, end).close();
        Ok(restored)
    });
    if restored.is_err() {
        let _ = schema::remove(&part);
    }
    restored
}

/// Makes the new ledger beside the old one.
fn prepare(ledger: &Path, backup: &Path, part: &Path, at: Timestamp) -> Result<(Restored, Position), StoreError> {
    if !backup.is_file() {
        let reason = "there is no such file".to_owned();
        return Err(StoreError::Open { path: backup.to_owned(), reason });
    }
    let last_seq = backup::copy_to(backup, part)
        .map_err(|error| match error {
            StoreError::Corrupt(what) => Unusable::damaged(backup, format!("is damaged ({what})")),
            other => other,
        })?
        .last_seq;
    let (known, known_token) = known_of(ledger);
    let known_seq = known.map(|known| known.seq);
    let mut db = schema::connect(part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    schema::migrate(&db)?;
    let transaction = db.transaction()?;
    // Tokens are counted up by one, and nobody grants one todo a thousand times in a second: the time in milliseconds is
    // above all that were given since the backup, and since any restore before this one.
    let tokens_above = at.as_ms().max(known_token).max(highest_token(&transaction)?);
    let quiet = known.map_or(0, |known| i64::try_from(known.quiet).unwrap_or(i64::MAX));
    transaction.execute("UPDATE ledger SET tokens_above = ?1, quiet = max(quiet, ?2)", [tokens_above, quiet])?;
    let claims_ended = transaction.execute(
        "UPDATE todos SET record = json_set(record, '$.claim.expires', 0) WHERE json_extract(record, '$.claim') IS NOT NULL",
        [],
    )?;
    let seq = known_seq.unwrap_or(0).max(last_seq);
    transaction.execute("DELETE FROM sqlite_sequence WHERE name = 'events'", [])?;
    let numbered = i64::try_from(seq).unwrap_or(i64::MAX - 1);
    transaction.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?1)", params![numbered])?;
    let lost = if seq > last_seq {
        format!("entries {} to {seq} are lost", last_seq + 1)
    } else {
        "nothing is known to be lost".to_owned()
    };
    note(&transaction, &format!("{} was put in the place of the ledger: {lost}", backup.display()), at)?;
    let end = check::end(&transaction)?;
    transaction.commit()?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.close().map_err(|(_, error)| error)?;
    let tokens_above = u64::try_from(tokens_above).unwrap_or(0);
    Ok((Restored { last_seq, known_seq, tokens_above, claims_ended, replaced: None }, end))
}

/// How far the ledger is known to have gone, and the highest token known to have been given, from whatever can still be read.
fn known_of(ledger: &Path) -> (Option<Position>, i64) {
    let read = || -> Result<(Position, i64), rusqlite::Error> {
        let db = schema::connect_to_look(ledger)?;
        Ok((check::end(&db)?, highest_token(&db).unwrap_or(0)))
    };
    let there = ledger.exists().then(read).and_then(Result::ok);
    (mark::read(ledger).max(there.map(|(end, _)| end)), there.map_or(0, |(_, token)| token))
}

fn highest_token(db: &Connection) -> Result<i64, rusqlite::Error> {
    let sql = "SELECT max(tokens_above, (SELECT coalesce(max(token), 0) FROM todos)) FROM ledger";
    db.query_row(sql, [], |row| row.get(0))
}

/// The restore goes on record.
fn note(db: &Connection, what: &str, at: Timestamp) -> Result<(), StoreError> {
    let sign = Sign {
        key: "ledger:restored".to_owned(),
        severity: Severity::Warning,
        title: what.to_owned(),
        state: IncidentState::Open,
        links: Links::default(),
    };
    let mut incidents = Incidents::new(Vec::new(), 0);
    incidents.seen(sign, || format!("restored-{}", at.as_ms()), at);
    let over = incidents.ended("ledger:restored", "the daemon goes on from there", at);
    over.map_or(Ok(()), |incident| write::apply(db, &Write::IncidentChanged { incident: Box::new(incident), at }))
}

/// Gives the ledger that is replaced another name, with what belongs to it: first the database, so that whatever happens in
/// between, there is none rather than half of one.
fn set_aside(ledger: &Path, at: Timestamp) -> Result<Option<PathBuf>, StoreError> {
    let aside = ledger.with_file_name(format!("replaced-{}.db", at.as_ms()));
    for suffix in ["", "-wal", "-shm"] {
        let named = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        match std::fs::rename(named(ledger), named(&aside)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(aside.exists().then_some(aside))
}
