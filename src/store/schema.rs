//! Tables, and how older ledgers become newer ones.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::check::{self, Depth};
use super::error::{StoreError, Unusable};
use super::mark::{self, Position};
use super::{backup, sums};

/// "SLUG" in ASCII: tells a ledger from any other SQLite file.
const APPLICATION_ID: i32 = 0x534c_5547;

/// How long SQLite itself waits for a lock. Only our own readers and a checkpoint can hold one.
pub const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// The format this program writes.
pub const FORMAT: i32 = 5;
/// The first format whose rows have sums.
const SUMMED_FROM: i32 = 5;

/// Up to this size all of a ledger is looked at before it is opened: some hundred milliseconds. Of a larger one it is what
/// decisions rest on and the newest of the rest; the daily backup looks at all of it.
const WHOLE_AT_OPEN_BYTES: u64 = 32 << 20;

/// What the write-ahead log keeps of its size when it begins anew: enough that it does not grow again every time.
const LOG_BYTES_KEPT: i64 = 16 << 20;

/// One step per released version; a step is never changed, only followed by another.
const MIGRATIONS: [&str; 4] = [
    "
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        kind TEXT NOT NULL,
        repo TEXT NOT NULL,
        slug TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_of_todo ON events (repo, slug, seq);
    CREATE TABLE operations (
        id TEXT PRIMARY KEY,
        repo TEXT NOT NULL,
        slug TEXT NOT NULL,
        state TEXT NOT NULL,
        record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX operations_of_todo ON operations (repo, slug, state, id);
    CREATE INDEX operations_open ON operations (id) WHERE state IN ('queued', 'running');
    CREATE TABLE claims (
        repo TEXT NOT NULL,
        slug TEXT NOT NULL,
        token INTEGER NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (repo, slug)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE stages (
        repo TEXT NOT NULL,
        slug TEXT NOT NULL,
        stage TEXT NOT NULL,
        PRIMARY KEY (repo, slug)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE marks (
        repo TEXT NOT NULL,
        slug TEXT NOT NULL,
        kind TEXT NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (repo, slug, kind)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE verdicts (
        seq INTEGER PRIMARY KEY,
        tree TEXT NOT NULL,
        definition TEXT NOT NULL,
        environment TEXT NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX verdicts_by_key ON verdicts (tree, definition, environment, seq);
",
    // Claims were counted in wall time before: what is left of a lease is what is left of it now.
    "
    ALTER TABLE events ADD COLUMN lane TEXT NOT NULL DEFAULT '';
    CREATE TABLE todos (
        repo TEXT NOT NULL,
        slug TEXT NOT NULL,
        token INTEGER NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (repo, slug)
    ) STRICT;
    INSERT INTO todos (repo, slug, token, record)
        SELECT c.repo, c.slug, c.token, json_object(
            'stage', coalesce(s.stage, 'build'),
            'token', c.token,
            'claim', json_object(
                'todo', json_object('repo', c.repo, 'slug', c.slug),
                'token', c.token,
                'lane', json_extract(c.record, '$.lane'),
                'worker', json_extract(c.record, '$.worker'),
                'granted_at', json_extract(c.record, '$.granted_at'),
                'expires', CAST((julianday(json_extract(c.record, '$.expires_at')) - julianday('now')) * 86400000 AS INTEGER),
                'alive', 0,
                'progress', 0,
                'generation', 1))
        FROM claims c LEFT JOIN stages s ON s.repo = c.repo AND s.slug = c.slug;
    DROP TABLE claims;
    DROP TABLE stages;
    CREATE TABLE lanes (lane TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE failures (
        seq INTEGER PRIMARY KEY,
        lane TEXT NOT NULL,
        generation INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        at INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX failures_by_lane ON failures (lane, fingerprint, generation, at);
    CREATE TABLE filed (
        repo TEXT NOT NULL,
        slug TEXT NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (repo, slug)
    ) STRICT;
    CREATE TABLE after_set (
        repo TEXT NOT NULL,
        slug TEXT NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (repo, slug)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE parked (
        seq INTEGER PRIMARY KEY,
        repo TEXT NOT NULL,
        slug TEXT NOT NULL,
        at INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX parked_of_todo ON parked (repo, slug, seq);
    CREATE TABLE kept (key TEXT PRIMARY KEY, at INTEGER NOT NULL, record TEXT NOT NULL) STRICT;
    CREATE INDEX kept_by_age ON kept (at);
    CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 1), awake INTEGER NOT NULL) STRICT;
",
    // What an event is about when that is neither a todo nor a lane; every claim there ever was gets its session.
    "
    ALTER TABLE events ADD COLUMN subject TEXT NOT NULL DEFAULT '';
    CREATE INDEX events_live ON events (seq) WHERE subject <> '';
    CREATE TABLE sessions (
        n INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        ended INTEGER,
        record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE session_events (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        session TEXT NOT NULL,
        at INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX session_events_of ON session_events (session, n);
    INSERT INTO sessions (id, ended, record)
        SELECT repo || '~' || slug || '~' || token, NULL, json_object(
            'todo', json_object('repo', repo, 'slug', slug),
            'token', token,
            'lane', json_extract(record, '$.claim.lane'),
            'worker', json_extract(record, '$.claim.worker'),
            'started_at', json_extract(record, '$.claim.granted_at'),
            'ended_at', NULL,
            'how', NULL)
        FROM todos WHERE json_extract(record, '$.claim') IS NOT NULL;
",
    // What the daemon knows of itself.
    "
    CREATE TABLE jobs (job TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE incidents (
        id TEXT PRIMARY KEY,
        resolved INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX incidents_by_end ON incidents (resolved, updated);
",
];

/// The step to a format from the one before.
fn step(format: i32) -> Cow<'static, str> {
    let before = usize::try_from(format - 1).unwrap_or(usize::MAX);
    MIGRATIONS.get(before).map_or_else(|| Cow::Owned(sums::step()), |sql| Cow::Borrowed(*sql))
}

/// Opens the file for writing: makes it if there never was one, refuses what is not a whole ledger of a known format that
/// goes as far as was acknowledged. Says how far it goes, too.
pub fn open(path: &Path) -> Result<(Connection, Position), StoreError> {
    let fault = |error: rusqlite::Error| Unusable::or_closed(path, &error);
    if matches!(path.try_exists(), Ok(false)) && sign_of_another(path).is_none() {
        make(path)?;
    }
    let bytes = size_of(path)?;
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(fault)?;
    let depth = if bytes > WHOLE_AT_OPEN_BYTES { Depth::Newest } else { Depth::Whole };
    let found = examine(path, &db, depth)?;
    if found.format < FORMAT {
        backup::before_migration(path, found.format)
            .map_err(|error| StoreError::Open { path: path.to_owned(), reason: error.to_string() })?;
        migrate(&db).map_err(fault)?;
    }
    db.pragma_update(None, "journal_mode", "WAL").map_err(fault)?;
    db.pragma_update(None, "synchronous", "FULL").map_err(fault)?;
    db.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT).map_err(fault)?;
    goes_as_far(path, mark::read(path), found.end)?;
    Ok((db, found.end))
}

/// The size of a ledger that is there and not empty.
pub fn size_of(path: &Path) -> Result<u64, StoreError> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() == 0 => Err(Unusable::damaged(path, "is empty, so its content was lost")),
        Ok(meta) => Ok(meta.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let sign =
                sign_of_another(path).map_or_else(String::new, |sign| format!(", and {sign} says that there was one"));
            Err(Unusable::damaged(path, format!("is missing{sign}")))
        }
        Err(error) => Err(StoreError::Open { path: path.to_owned(), reason: error.to_string() }),
    }
}

/// Refuses a ledger that ends before what was acknowledged.
pub fn goes_as_far(path: &Path, acknowledged: Option<Position>, end: Position) -> Result<(), StoreError> {
    match acknowledged.filter(|acknowledged| acknowledged.seq > end.seq || acknowledged.quiet > end.quiet) {
        None => Ok(()),
        Some(acknowledged) => {
            let what = format!("ends at {end}, and {acknowledged} were acknowledged: what came between is lost");
            Err(Unusable::damaged(path, what))
        }
    }
}

/// What is beside a ledger that is not there and would not be without it.
fn sign_of_another(path: &Path) -> Option<String> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let signs = [mark::path_of(path), log.into()].into_iter().find(|sign| sign.exists());
    signs.or_else(|| backup::newest(&backup::dir_of(path))).map(|sign| sign.display().to_string())
}

/// A ledger that is whole.
pub struct Found {
    /// The format it has.
    pub format: i32,
    /// How far it goes.
    pub end: Position,
}

/// Looks at a ledger, and refuses what is none, is of a newer format or is not what was written.
pub fn examine(path: &Path, db: &Connection, depth: Depth) -> Result<Found, StoreError> {
    let fault = |error: rusqlite::Error| Unusable::or_closed(path, &error);
    let read = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(fault);
    if read("application_id")? != APPLICATION_ID {
        let way_out = "give another --data-dir, or move the file away".to_owned();
        return Err(Unusable { path: path.to_owned(), what: "is not a Slugline ledger".to_owned(), way_out }.into());
    }
    let format = read("user_version")?;
    if format > FORMAT {
        let what = format!("was written by a newer version (format {format}; this one knows {FORMAT})");
        let way_out = Unusable::restore(path);
        let way_out = format!("start the newer version again, or go back to before it: {way_out}");
        return Err(Unusable { path: path.to_owned(), what, way_out }.into());
    }
    let faults = match format {
        ..=0 => vec![format!("its format is {format}")],
        1..SUMMED_FROM => check::pages(db, None).map_err(fault)?,
        SUMMED_FROM.. => check::faults(db, depth).map_err(fault)?,
    };
    if faults.is_empty() {
        let quiet_from_here = |db| Ok(Position { seq: check::last_seq(db)?, quiet: 0 });
        let end = if format < SUMMED_FROM { quiet_from_here(db) } else { check::end(db) };
        Ok(Found { format, end: end.map_err(fault)? })
    } else {
        Err(Unusable::damaged(path, format!("is damaged ({})", faults.join("; "))))
    }
}

/// A new ledger appears whole: made under another name and then renamed, so that a crash leaves no empty file.
fn make(path: &Path) -> Result<(), StoreError> {
    let part = path.with_extension("new");
    let made = || -> Result<(), StoreError> {
        remove(&part)?;
        let db = connect(&part, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
        migrate(&db)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.close().map_err(|(_, error)| error)?;
        put_in_place(&part, path).map_err(|error| StoreError::Io(error.to_string()))
    };
    made().map_err(|error| StoreError::Open { path: path.to_owned(), reason: error.to_string() })
}

/// Takes a database away, with what SQLite keeps beside it.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Io(error.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives a file that is whole its name: for this user alone, on disk before it is seen.
pub fn put_in_place(part: &Path, path: &Path) -> std::io::Result<()> {
    let file = File::open(part)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    file.sync_all()?;
    std::fs::rename(part, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// A connection with the settings every one of ours has.
pub fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let db =
        Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW)?;
    db.busy_timeout(BUSY_LIMIT)?;
    sums::teach(&db)?;
    Ok(db)
}

/// A connection that changes nothing, unless the last one left something half done: then that is undone first.
pub fn connect_to_look(path: &Path) -> Result<Connection, rusqlite::Error> {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let looked = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    match looked.as_ref().map_err(rusqlite::Error::sqlite_error_code) {
        Err(Some(ErrorCode::ReadOnly)) => connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE),
        _ => Ok(db),
    }
}

/// Every missing step, each in a transaction of its own together with its number.
pub fn migrate(db: &Connection) -> Result<(), rusqlite::Error> {
    let format: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for next in format + 1..=FORMAT {
        db.execute_batch(&format!("BEGIN IMMEDIATE; {}; PRAGMA user_version = {next};", step(next)))?;
        if next >= SUMMED_FROM {
            sums::seal(db)?;
        }
        db.execute_batch("COMMIT")?;
    }
    Ok(())
}

/// A ledger of a format before this one, with what `fill` puts in.
#[cfg(test)]
pub fn make_of_format(path: &Path, format: i32, fill: impl FnOnce(&Connection)) {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE).expect("opens");
    db.pragma_update(None, "application_id", APPLICATION_ID).expect("sets");
    (1..=format).for_each(|format| db.execute_batch(&step(format)).expect("makes tables"));
    db.pragma_update(None, "user_version", format).expect("sets");
    db.pragma_update(None, "journal_mode", "WAL").expect("sets");
    fill(&db);
}
