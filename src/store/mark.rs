//! How far the ledger was ever acknowledged: a small file beside it, so that a ledger that lost its end, or an older one
//! in its place, is noticed.
//!
//! Two slots are written in turn, in place, after each commit and before its answer, so a torn write leaves the one before.
//! It is handed to the disk only every so often ([`SYNC_EVERY`]): a process that dies loses nothing of it; a machine that
//! loses its power may forget the last of it, and then a ledger that lost just as much at the same time goes unnoticed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A sector: written whole or not at all by most disks.
const SLOT_BYTES: usize = 512;
/// Commits between two syncs: their cost is not seen beside the ledger's own.
const SYNC_EVERY: u64 = 256;

/// How far a ledger goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Its last entry.
    pub seq: u64,
    /// Commits that changed it without an entry.
    pub quiet: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} and quiet change {}", self.seq, self.quiet)
    }
}

/// Where the mark of a ledger is.
pub fn path_of(ledger: &Path) -> PathBuf {
    ledger.with_extension("mark")
}

/// How far a ledger was acknowledged, as far as the mark says; `None` when there is none that can be read.
pub fn read(ledger: &Path) -> Option<Position> {
    slots(&std::fs::read(path_of(ledger)).ok()?).into_iter().flatten().max()
}

fn slots(text: &[u8]) -> [Option<Position>; 2] {
    let mut slots = text.chunks(SLOT_BYTES).map(parsed);
    [slots.next().flatten(), slots.next().flatten()]
}

fn slot(at: Position) -> Vec<u8> {
    let line = format!("slugline acknowledged {} {}", at.seq, at.quiet);
    let mut slot = format!("{line} {:08x}\n", crc32fast::hash(line.as_bytes())).into_bytes();
    slot.resize(SLOT_BYTES - 1, b' ');
    slot.push(b'\n');
    slot
}

fn parsed(text: &[u8]) -> Option<Position> {
    let line = std::str::from_utf8(text).ok()?.lines().next()?;
    let mut numbers = line.split(' ').skip(2);
    let at = Position { seq: numbers.next()?.parse().ok()?, quiet: numbers.next()?.parse().ok()? };
    slot(at).starts_with(line.as_bytes()).then_some(at)
}

/// The mark of a ledger that is open. When it cannot be written it falls behind, which harms nobody, and is tried again.
pub struct Mark {
    path: PathBuf,
    file: Option<File>,
    /// Times it was to be written; its last bit is the slot that is next.
    turns: u64,
    failing: bool,
}

impl Mark {
    /// The mark of a ledger that goes to `at`; made when there is none.
    pub fn of(ledger: &Path, at: Position) -> Self {
        let mut mark = Self { path: path_of(ledger), file: None, turns: 0, failing: false };
        let begun = mark.begin(at);
        mark.tell(&begun);
        mark
    }

    fn begin(&mut self, at: Position) -> io::Result<()> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        let mut text = vec![0; 2 * SLOT_BYTES];
        let length = file.read_at(&mut text, 0)?;
        let [first, second] = slots(&text[..length]);
        self.turns = u64::from(first > second);
        // Both slots get their room now; what is written later is written in place.
        if length < text.len() {
            file.write_all_at(&vec![b' '; 2 * SLOT_BYTES], 0)?;
        }
        self.file = Some(file);
        self.write(at)?;
        self.sync()?;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    fn write(&mut self, at: Position) -> io::Result<()> {
        let place = (self.turns % 2) * SLOT_BYTES as u64;
        self.turns += 1;
        self.file.as_ref().map_or(Ok(()), |file| file.write_all_at(&slot(at), place))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Everything up to `at` is on disk, and is about to be acknowledged.
    pub fn reached(&mut self, at: Position) {
        let due = self.turns.is_multiple_of(SYNC_EVERY);
        let done = match &self.file {
            None if due => self.begin(at),
            _ => self.write(at).and_then(|()| if due { self.sync() } else { Ok(()) }),
        };
        self.tell(&done);
    }

    /// Hands it to the disk: the ledger is closed.
    pub fn close(mut self) {
        let done = self.sync();
        self.tell(&done);
    }

    /// One warning when it begins to fail.
    fn tell(&mut self, done: &io::Result<()>) {
        if let Err(error) = done
            && !self.failing
        {
            tracing::warn!(path = %self.path.display(), %error, "how far the ledger was acknowledged cannot be noted");
        }
        self.failing = done.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_the_highest_entry_and_one_that_is_torn_the_one_before() {
        let dir = tempfile::tempdir().expect("temp dir");
        let ledger = dir.path().join("ledger.db");
        assert_eq!(read(&ledger), None);
        let at = |seq, quiet| Position { seq, quiet };
        let mut mark = Mark::of(&ledger, Position::default());
        for position in [at(7, 0), at(7, 1), at(9, 1)] {
            mark.reached(position);
            assert_eq!(read(&ledger), Some(position));
        }
        mark.close();
        drop(Mark::of(&ledger, at(9, 1)));
        Mark::of(&ledger, at(9, 1)).reached(at(12, 1));
        assert_eq!(read(&ledger), Some(at(12, 1)));
        let whole = std::fs::read(path_of(&ledger)).expect("reads");
        for bit in (0..whole.len() * 8).step_by(5) {
            let mut torn = whole.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(path_of(&ledger), &torn).expect("writes");
            assert!(
                [Some(at(9, 1)), Some(at(12, 1))].contains(&read(&ledger)),
                "bit {bit} makes it {:?}",
                read(&ledger)
            );
        }
        std::fs::write(path_of(&ledger), "").expect("writes");
        assert_eq!(read(&ledger), None);
    }
}
