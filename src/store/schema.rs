//! Tables, and how older ledgers become newer ones.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::StoreError;

/// "SLUG" in ASCII: tells a ledger from any other SQLite file.
const APPLICATION_ID: i32 = 0x534c_5547;

/// How long SQLite itself waits for a lock. Only our own readers and a checkpoint can hold one.
pub const BUSY_LIMIT: Duration = Duration::from_secs(5);

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

/// Opens the file for writing: makes it if it is not there, refuses what is not a whole ledger of a known version.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    let fault = |reason: String| StoreError::Open { path: path.to_owned(), reason };
    let existed = match std::fs::metadata(path) {
        Ok(meta) if meta.len() == 0 => {
            return Err(fault(
                "it is empty, so its content was lost; restore a backup, or move it away to start with an empty ledger"
                    .to_owned(),
            ));
        }
        Ok(_) => true,
        Err(_) => false,
    };
    if !existed {
        make(path).map_err(|error| fault(error.to_string()))?;
    }
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|error| fault(error.to_string()))?;
    check(&connection).map_err(fault)?;
    migrate(&connection).map_err(|error| fault(error.to_string()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// A new ledger appears whole: made under another name and then renamed, so that a crash leaves no empty file.
fn make(path: &Path) -> Result<(), StoreError> {
    let part = path.with_extension("new");
    for suffix in ["", "-wal", "-shm"] {
        let mut name = part.clone().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    {
        let connection = connect(&part, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        migrate(&connection)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
    }
    let io = |error: std::io::Error| StoreError::Io(error.to_string());
    std::fs::set_permissions(&part, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(io)?;
    std::fs::rename(&part, path).map_err(io)?;
    path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir).and_then(|dir| dir.sync_all())).map_err(io)
}

/// A connection with the settings every one of ours has.
pub fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let connection =
        Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW)?;
    connection.busy_timeout(BUSY_LIMIT)?;
    Ok(connection)
}

fn check(connection: &Connection) -> Result<(), String> {
    let read = |pragma: &str| {
        connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(|error| error.to_string())
    };
    if read("application_id")? != APPLICATION_ID {
        return Err("it is not a Slugline ledger; give another --data-dir".to_owned());
    }
    let version = read("user_version")?;
    if usize::try_from(version).is_ok_and(|version| version > MIGRATIONS.len()) {
        return Err(format!(
            "it was written by a newer version (format {version}, this one knows {}); start that one again",
            MIGRATIONS.len()
        ));
    }
    let verdict: String =
        connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(|error| error.to_string())?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(format!("it is damaged ({verdict}); restore a backup, or move it away to start with an empty ledger"))
    }
}

/// Every missing step, each in a transaction of its own together with its number.
fn migrate(connection: &Connection) -> Result<(), rusqlite::Error> {
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    for (index, step) in MIGRATIONS.iter().enumerate().skip(done) {
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {step}; PRAGMA user_version = {}; COMMIT;", index + 1))?;
    }
    Ok(())
}

/// A ledger as the first version made it, with what `fill` puts in.
#[cfg(test)]
pub fn make_first_version(path: &Path, fill: impl FnOnce(&Connection)) {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = connect(path, flags).expect("opens");
    connection.pragma_update(None, "application_id", APPLICATION_ID).expect("sets");
    connection.execute_batch(MIGRATIONS[0]).expect("makes tables");
    connection.pragma_update(None, "user_version", 1).expect("sets");
    connection.pragma_update(None, "journal_mode", "WAL").expect("sets");
    fill(&connection);
}
