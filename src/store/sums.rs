//! Every row of the ledger carries a sum over its columns. A disk that turns a bit inside a record gives back a row that
//! SQLite finds nothing wrong with; its sum tells.
//!
//! Triggers keep the sums, so no statement that writes has to think of them, and they are written with their rows or not at
//! all. A sum is a CRC-32: it finds what disks do, and is no defence against somebody who writes to the file on purpose.

use std::fmt::Write as _;

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension};

/// Damaged rows that are named per table; who has more has seen enough.
const NAMED_MAX: usize = 3;

/// One table with sums.
pub struct Summed {
    /// Its name.
    pub table: &'static str,
    /// What tells its rows apart.
    key: &'static str,
    /// What a sum is over: every column.
    columns: &'static str,
    /// Grows with time alone, so that looking at all of it takes long one day.
    pub is_log: bool,
}

const fn summed(table: &'static str, key: &'static str, columns: &'static str) -> Summed {
    Summed { table, key, columns, is_log: false }
}

const fn log(table: &'static str, key: &'static str, columns: &'static str) -> Summed {
    Summed { table, key, columns, is_log: true }
}

/// Every table that has records, as of format 5. A step that changes one makes its triggers and sums anew.
pub const SUMMED: [Summed; 17] = [
    summed("ledger", "id", "id, schema, tokens_above, quiet"),
    log("events", "seq", "seq, at, kind, repo, slug, data, lane, subject"),
    log("operations", "id", "id, repo, slug, state, record"),
    summed("marks", "repo, slug, kind", "repo, slug, kind, record"),
    summed("verdicts", "seq", "seq, tree, definition, environment, record"),
    summed("todos", "repo, slug", "repo, slug, token, record"),
    summed("lanes", "lane", "lane, record"),
    summed("failures", "seq", "seq, lane, generation, fingerprint, at, record"),
    summed("filed", "repo, slug", "repo, slug, record"),
    summed("after_set", "repo, slug", "repo, slug, record"),
    summed("parked", "seq", "seq, repo, slug, at, record"),
    summed("kept", "key", "key, at, record"),
    summed("clock", "id", "id, awake"),
    summed("sessions", "n", "n, id, ended, record"),
    log("session_events", "n", "n, session, at, record"),
    summed("jobs", "job", "job, record"),
    summed("incidents", "id", "id, resolved, updated, record"),
];

impl Summed {
    /// `row_sum(..)` over the columns of a row, `NEW.` before each when a trigger asks.
    fn sum(&self, of: &str) -> String {
        let columns: Vec<String> = self.columns.split(", ").map(|column| format!("{of}{column}")).collect();
        format!("row_sum('{}', {})", self.table, columns.join(", "))
    }

    /// The rows whose sum is not that of their columns, by their keys; of all rows, or of the newest so many of a log.
    pub fn damaged(&self, db: &Connection, newest: Option<i64>) -> Result<Vec<String>, rusqlite::Error> {
        let and = newest.map_or_else(String::new, |newest| {
            format!("AND {key} > (SELECT max({key}) FROM {table}) - {newest}", key = self.key, table = self.table)
        });
        let sql = format!(
            "SELECT {key} FROM {table} WHERE sum <> {sum} {and} LIMIT {NAMED_MAX}",
            key = self.key,
            table = self.table,
            sum = self.sum("")
        );
        let mut statement = db.prepare(&sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        let mut damaged = Vec::new();
        while let Some(row) = rows.next()? {
            let key = (0..columns).map(|at| row.get::<_, Value>(at).map(shown)).collect::<Result<Vec<_>, _>>()?;
            damaged.push(format!("{} {} is not what was written", self.table, key.join(" ")));
        }
        Ok(damaged)
    }
}

fn shown(value: Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text,
        other => format!("{other:?}"),
    }
}

/// The step that gives every row there is its sum, and every row there will be.
pub fn step() -> String {
    let mut sql = String::from(
        "CREATE TABLE ledger (
             id INTEGER PRIMARY KEY CHECK (id = 1),
             schema INTEGER NOT NULL,
             tokens_above INTEGER NOT NULL,
             quiet INTEGER NOT NULL
         ) STRICT;
         INSERT INTO ledger VALUES (1, 0, 0, 0);",
    );
    for summed in &SUMMED {
        let Summed { table, key, columns, .. } = summed;
        let this_one: Vec<String> = key.split(", ").map(|column| format!("{column} = NEW.{column}")).collect();
        let (sum, new, this_one) = (summed.sum(""), summed.sum("NEW."), this_one.join(" AND "));
        let _ = write!(
            sql,
            "
            ALTER TABLE {table} ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
            UPDATE {table} SET sum = {sum};
            CREATE TRIGGER {table}_inserted AFTER INSERT ON {table} BEGIN
                UPDATE {table} SET sum = {new} WHERE {this_one};
            END;
            CREATE TRIGGER {table}_updated AFTER UPDATE OF {columns} ON {table} BEGIN
                UPDATE {table} SET sum = {new} WHERE {this_one};
            END;"
        );
    }
    sql
}

/// Teaches a connection `row_sum`.
pub fn teach(db: &Connection) -> Result<(), rusqlite::Error> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    db.create_scalar_function("row_sum", -1, flags, row_sum)
}

/// Each value with its kind and length before it, so that nothing can move from one column to the next.
fn row_sum(row: &Context<'_>) -> Result<i64, rusqlite::Error> {
    let mut sum = crc32fast::Hasher::new();
    let mut add = |kind: u8, bytes: &[u8]| {
        sum.update(&[kind]);
        sum.update(&bytes.len().to_le_bytes());
        sum.update(bytes);
    };
    for at in 0..row.len() {
        match row.get_raw(at) {
            ValueRef::Null => add(0, &[]),
            ValueRef::Integer(number) => add(1, &number.to_le_bytes()),
            ValueRef::Real(number) => add(2, &number.to_le_bytes()),
            ValueRef::Text(text) => add(3, text),
            ValueRef::Blob(bytes) => add(4, bytes),
        }
    }
    Ok(i64::from(sum.finalize()))
}

/// The sum over what the tables are: their names, columns, indices and triggers.
fn schema_sum(db: &Connection) -> Result<i64, rusqlite::Error> {
    let sql = "SELECT row_sum(type, name, tbl_name, sql) FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name";
    let mut statement = db.prepare(sql)?;
    let sums = statement.query_map([], |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()?;
    let mut sum = crc32fast::Hasher::new();
    sums.iter().for_each(|one| sum.update(&one.to_le_bytes()));
    Ok(i64::from(sum.finalize()))
}

/// Writes down what the tables are now.
pub fn seal(db: &Connection) -> Result<(), rusqlite::Error> {
    db.execute("UPDATE ledger SET schema = ?1", [schema_sum(db)?]).map(drop)
}

/// Whether the tables are what they were made as.
pub fn is_sealed(db: &Connection) -> Result<bool, rusqlite::Error> {
    let sealed: Option<i64> = db.query_row("SELECT schema FROM ledger", [], |row| row.get(0)).optional()?;
    Ok(sealed == Some(schema_sum(db)?))
}
