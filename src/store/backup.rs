//! Backups: a copy of the ledger as it is at one moment, made while it is written to, looked at before it counts.
//!
//! `VACUUM INTO` reads one committed state and keeps nobody from writing; what it writes has no free pages and new indices.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;

use super::check::Depth;
use super::error::StoreError;
use super::{Store, schema};
use crate::model::time::Timestamp;

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Where it is.
    pub path: PathBuf,
    /// Its last entry.
    pub last_seq: u64,
    /// Its size.
    pub bytes: u64,
}

/// Where the backups of a ledger are.
pub fn dir_of(ledger: &Path) -> PathBuf {
    ledger.with_file_name("backups")
}

/// The backup with the last entry of all, among those that are made by themselves.
pub fn newest(dir: &Path) -> Option<PathBuf> {
    all(dir).pop()
}

/// What was kept of the newest format before this one.
pub fn of_format_before(dir: &Path) -> Option<PathBuf> {
    (1..schema::FORMAT).rev().map(|format| dir.join(format!("format-{format}.db"))).find(|path| path.exists())
}

/// Those that are made by themselves, by their last entry.
fn all(dir: &Path) -> Vec<PathBuf> {
    let numbered = |path: PathBuf| {
        let seq: u64 = path
            .file_name()?
            .to_str()?
            .strip_prefix("ledger-")?
            .strip_suffix(".db")?
            .split_once('-')?
            .0
            .parse()
            .ok()?;
        Some((seq, path))
    };
    let paths = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<(u64, PathBuf)> = paths.filter_map(numbered).collect();
    all.sort();
    all.into_iter().map(|(_, path)| path).collect()
}

/// Copies a ledger whole, as it is now, also while it is written to: the copy appears when all of it is on disk and was
/// found to be what was written. Replaces what has that name. Blocks.
pub fn copy(ledger: &Path, to: &Path) -> Result<Backup, StoreError> {
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let copied = copy_to(ledger, &part).and_then(|backup| {
        schema::put_in_place(&part, to)?;
        Ok(Backup { path: to.to_owned(), ..backup })
    });
    if copied.is_err() {
        let _ = schema::remove(&part);
    }
    copied
}

/// The same without a name of its own yet.
pub fn copy_to(ledger: &Path, part: &Path) -> Result<Backup, StoreError> {
    schema::remove(part)?;
    // Made empty first, so that nobody else could ever read it.
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(part)?;
    {
        let db = schema::connect_to_look(ledger)?;
        db.execute("VACUUM INTO ?1", [part.to_string_lossy()])?;
    }
    let db = schema::connect(part, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let found = schema::examine(ledger, &db, Depth::Whole)?;
    Ok(Backup { path: part.to_owned(), last_seq: found.end.seq, bytes: std::fs::metadata(part)?.len() })
}

/// Makes a backup with a name of its own, then lets the oldest of more than `keep` go. Blocks.
pub fn make(ledger: &Path, at: Timestamp, keep: usize) -> Result<Backup, StoreError> {
    let dir = dir_of(ledger);
    private_dir(&dir)?;
    let copied = copy(ledger, &dir.join("newest.db"))?;
    let when: String = at.to_string().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let path = dir.join(format!("ledger-{}-{when}.db", copied.last_seq));
    schema::put_in_place(&copied.path, &path)?;
    let all = all(&dir);
    for old in &all[..all.len().saturating_sub(keep.max(1))] {
        std::fs::remove_file(old)?;
    }
    Ok(Backup { path, ..copied })
}

/// Keeps a ledger of a format before this one, for whoever goes back to the program before. Blocks.
pub fn before_migration(ledger: &Path, format: i32) -> Result<Backup, StoreError> {
    let dir = dir_of(ledger);
    private_dir(&dir)?;
    copy(ledger, &dir.join(format!("format-{format}.db")))
}

/// Makes a backup by hand: with a name of its own, or where it is wanted if nothing is there. Blocks.
pub fn back_up(ledger: &Path, to: Option<&Path>, at: Timestamp) -> Result<Backup, StoreError> {
    let closed = |path: &Path, reason: &str| StoreError::Open { path: path.to_owned(), reason: reason.to_owned() };
    if !ledger.exists() {
        return Err(closed(ledger, "there is none"));
    }
    match to {
        None => make(ledger, at, usize::MAX),
        Some(to) if to.exists() => Err(closed(to, "a file is there already")),
        Some(to) => copy(ledger, to),
    }
}

fn private_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl Store {
    /// Makes a backup beside the ledger and lets the oldest of more than `keep` go. Blocks.
    pub fn back_up(&self, at: Timestamp, keep: usize) -> Result<Backup, StoreError> {
        make(&self.path, at, keep)
    }
}
