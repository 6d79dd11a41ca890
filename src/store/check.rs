//! Whether a ledger is what was written: its pages and indices (SQLite knows), its tables, every row (its sum knows), and
//! how far it goes (the mark knows).

use std::fmt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::error::{StoreError, Unusable};
use super::mark::{self, Position};
use super::{schema, sums};

/// How much of a ledger is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All of it.
    Whole,
    /// All that decisions rest on, and of what only grows the newest.
    Newest,
}

/// A ledger that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// Its format.
    pub format: i32,
    /// How far it goes.
    pub end: Position,
    /// Its size.
    pub bytes: u64,
    /// How far it was acknowledged, when there is a mark beside it.
    pub acknowledged: Option<Position>,
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, end, bytes, acknowledged } = self;
        write!(f, "format {format}, {bytes} bytes, up to {end}")?;
        acknowledged.map_or(Ok(()), |at| write!(f, "; {at} were acknowledged"))
    }
}

/// Looks at all of a ledger or backup, also while a daemon writes to it. Changes nothing. Blocks.
pub fn check(path: &Path) -> Result<Whole, StoreError> {
    // Read before, so that what is acknowledged meanwhile is no fault.
    let acknowledged = mark::read(path);
    let bytes = schema::size_of(path)?;
    let db = schema::connect_to_look(path).map_err(|error| Unusable::or_closed(path, &error))?;
    let found = schema::examine(path, &db, Depth::Whole)?;
    schema::goes_as_far(path, acknowledged, found.end)?;
    Ok(Whole { format: found.format, end: found.end, bytes, acknowledged })
}

/// Entries of a log that are looked at when not all are.
const NEWEST: i64 = 50_000;

/// What is wrong with a ledger of the present format, in words; nothing when it is whole.
pub fn faults(db: &Connection, depth: Depth) -> Result<Vec<String>, rusqlite::Error> {
    let mut faults = Vec::new();
    match depth {
        Depth::Whole => faults.extend(pages(db, None)?),
        Depth::Newest => {
            for summed in sums::SUMMED.iter().filter(|summed| !summed.is_log) {
                faults.extend(pages(db, Some(summed.table))?);
            }
        }
    }
    if !sums::is_sealed(db)? {
        faults.push("its tables are not what they were made as".to_owned());
        return Ok(faults);
    }
    for summed in &sums::SUMMED {
        match (depth, summed.is_log, summed.table) {
            (Depth::Whole, ..) | (_, false, _) => faults.extend(summed.damaged(db, None)?),
            // Keys of the others are no numbers.
            (Depth::Newest, true, "events" | "session_events") => faults.extend(summed.damaged(db, Some(NEWEST))?),
            (Depth::Newest, true, _) => {}
        }
    }
    faults.extend(numbering(db)?);
    Ok(faults)
}

/// What SQLite finds, in all pages or in those of a table and its indices.
pub fn pages(db: &Connection, table: Option<&str>) -> Result<Vec<String>, rusqlite::Error> {
    let sql =
        table.map_or_else(|| "PRAGMA integrity_check(3)".to_owned(), |one| format!("PRAGMA integrity_check({one})"));
    let found: Vec<String> = db.prepare(&sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(found.into_iter().filter(|line| line != "ok").take(3).map(|line| line.replace('\n', " ")).collect())
}

/// The number of the next entry is kept beside the log; it goes on where the log ends.
fn numbering(db: &Connection) -> Result<Option<String>, rusqlite::Error> {
    let next: Option<i64> =
        db.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'events'", [], |row| row.get(0)).optional()?;
    let last = last_seq(db)?;
    let next = u64::try_from(next.unwrap_or(0)).unwrap_or(u64::MAX);
    Ok((next != last).then(|| format!("its log ends at entry {last}, and entry {next} was the last to be numbered")))
}

/// How far a ledger of the present format goes.
pub fn end(db: &Connection) -> Result<Position, rusqlite::Error> {
    let quiet: i64 = db.prepare_cached("SELECT quiet FROM ledger")?.query_row([], |row| row.get(0))?;
    Ok(Position { seq: last_seq(db)?, quiet: u64::try_from(quiet).unwrap_or(0) })
}

/// The last entry of the log.
pub fn last_seq(db: &Connection) -> Result<u64, rusqlite::Error> {
    let sql = "SELECT coalesce(max(seq), 0) FROM events";
    let seq: i64 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(seq).unwrap_or(0))
}
