//! Session logs that agents write themselves: `.jsonl` files below registered directories, read as they grow.
//!
//! Each file is read once, from where reading stopped, a bounded piece at a time. A last line without an end waits for
//! its end; a line that is no event is counted and shown as such; a file that became shorter, or another one under the
//! same name, is read from its beginning. Links are not followed, pipes are not waited for. Everything here blocks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::inputs::hex;
use crate::model::ids::SessionId;
use crate::model::session::{self, LastEvent, SessionEvent};
use crate::model::time::Timestamp;

/// Logs that are followed; the last written win.
const LOGS_MAX: usize = 10_000;
/// How deep directories are looked through.
const DEPTH_MAX: usize = 6;
/// Bytes read of one log before the others get their turn.
const PIECE_BYTES: u64 = 8 << 20;
/// A line beyond this is not read as an event.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Every so many lines it is remembered where they are, so that a page deep in a long log is found quickly.
const MILESTONE_LINES: u64 = 1_000;
/// A log that was not written for so long is not read until it is written again or somebody asks for it.
const COLD_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// Characters of a line that could not be read that are shown.
const CORRUPT_SHOWN: usize = 200;
/// Bytes read of a log for one page of it.
const PAGE_BYTES_MAX: u64 = 32 << 20;
/// Characters of a digest in a session's id.
const DIGEST_CHARS: usize = 16;

/// One log.
#[derive(Debug, Clone)]
pub struct LogTail {
    /// Where it is.
    pub path: PathBuf,
    /// Its session.
    pub id: SessionId,
    /// Which file it was, as device and number.
    file: (u64, u64),
    /// What was read so far, to the end of the last whole line.
    offset: u64,
    /// Its length when it was last looked at.
    pub size: u64,
    /// When it was last written.
    pub written_at: Timestamp,
    /// Whole lines so far, empty ones left out.
    pub lines: u64,
    /// Lines that are no events.
    pub corrupt: u64,
    /// The time of its first event.
    pub started_at: Option<Timestamp>,
    /// Its last event.
    pub last: Option<LastEvent>,
    /// Where the agent worked.
    pub cwd: Option<String>,
    /// Whether the last line was too long and its end is still to come.
    overlong: bool,
    milestones: Vec<(u64, u64)>,
    /// Whether it is left unread because nothing was written for long.
    pub cold: bool,
}

/// What came of reading on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caught {
    /// New lines were read, or it began anew.
    pub changed: bool,
    /// There is more to read.
    pub more: bool,
}

fn timestamp(time: io::Result<SystemTime>) -> Timestamp {
    let since = time.ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

impl LogTail {
    /// A log of which nothing was read yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let digest = hex(&Sha256::digest(path.as_os_str().as_encoded_bytes()));
        Self {
            id: SessionId::of_log(&digest[..DIGEST_CHARS]),
            path,
            file: (0, 0),
            offset: 0,
            size: 0,
            written_at: Timestamp::from_ms(0),
            lines: 0,
            corrupt: 0,
            started_at: None,
            last: None,
            cwd: None,
            overlong: false,
            milestones: Vec::new(),
            cold: false,
        }
    }

    /// What to call it.
    #[must_use]
    pub fn title(&self) -> String {
        self.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    }

    fn begin_anew(&mut self) {
        *self = Self { cold: self.cold, ..Self::new(std::mem::take(&mut self.path)) };
    }

    /// Reads on, at most one piece.
    pub fn catch_up(&mut self) -> io::Result<Caught> {
        self.catch_up_by(PIECE_BYTES)
    }

    fn catch_up_by(&mut self, piece: u64) -> io::Result<Caught> {
        let mut file = open(&self.path)?;
        let meta = file.metadata()?;
        let mut caught = Caught::default();
        let now_file = (meta.dev(), meta.ino());
        if (self.file != (0, 0) && self.file != now_file) || meta.len() < self.offset {
            self.begin_anew();
            caught.changed = true;
        }
        (self.file, self.size, self.written_at) = (now_file, meta.len(), timestamp(meta.modified()));
        self.cold = false;
        if meta.len() == self.offset {
            return Ok(caught);
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        let limit = piece.max(LINE_BYTES_MAX as u64 + 1);
        file.take(limit).read_to_end(&mut bytes)?;
        let mut at = 0;
        while let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') {
            self.line(&bytes[at..at + length], self.offset + at as u64);
            at += length + 1;
            caught.changed = true;
        }
        self.offset += at as u64;
        if at == 0 && bytes.len() > LINE_BYTES_MAX {
            // No line is so long: what there is of it is passed over, and so is the rest when it comes.
            self.offset += bytes.len() as u64;
            self.overlong = true;
        }
        caught.more = self.offset < self.size && bytes.len() as u64 >= limit;
        Ok(caught)
    }

    /// Takes in one whole line, which begins at `start`.
    fn line(&mut self, line: &[u8], start: u64) {
        let overlong = std::mem::take(&mut self.overlong) || line.len() > LINE_BYTES_MAX;
        if line.trim_ascii().is_empty() && !overlong {
            return;
        }
        if self.lines.is_multiple_of(MILESTONE_LINES) {
            self.milestones.push((self.lines, start));
        }
        self.lines += 1;
        let Some(read) = (if overlong { None } else { session::read_line(line) }) else {
            self.corrupt += 1;
            return;
        };
        // What is said to be in the future was not.
        let at = read.at.unwrap_or(self.written_at).min(self.written_at);
        self.started_at.get_or_insert(at);
        self.cwd = read.cwd.or(self.cwd.take());
        self.last = Some(LastEvent::of(at, &read.kind, read.text.as_deref()));
    }

    /// Events after a place in the log, oldest first; what was not read yet is not among them.
    pub fn events(&self, after: u64, limit: usize) -> io::Result<Vec<SessionEvent>> {
        let (mut n, start) = self.milestones.iter().rev().find(|(lines, _)| *lines <= after).copied().unwrap_or((0, 0));
        let mut file = open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut events = Vec::new();
        let mut reader = BufReader::new(file.take(self.offset.saturating_sub(start).min(PAGE_BYTES_MAX)));
        let mut line = Vec::new();
        while events.len() < limit {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            if text.trim_ascii().is_empty() {
                continue;
            }
            n += 1;
            if n > after {
                events.push(shown(n, text));
            }
        }
        Ok(events)
    }
}

/// A line of a log as an event, or as what it is.
fn shown(n: u64, line: &[u8]) -> SessionEvent {
    match session::read_line(line).filter(|_| line.len() <= LINE_BYTES_MAX) {
        Some(read) => SessionEvent { n, at: read.at, kind: read.kind, text: read.text, data: None, corrupt: false },
        None => {
            let text = String::from_utf8_lossy(&line[..line.len().min(CORRUPT_SHOWN * 4)])
                .chars()
                .take(CORRUPT_SHOWN)
                .collect();
            SessionEvent { n, at: None, kind: "corrupt".to_owned(), text: Some(text), data: None, corrupt: true }
        }
    }
}

/// All logs below the registered directories.
#[derive(Debug, Default)]
pub struct LogSet {
    dirs: Vec<PathBuf>,
    /// The logs, by where they are.
    pub logs: HashMap<PathBuf, LogTail>,
}

/// What came of a look at all logs.
#[derive(Debug, Default)]
pub struct LookedAt {
    /// Sessions of which there is something new.
    pub changed: Vec<SessionId>,
    /// Sessions whose log is gone.
    pub gone: Vec<SessionId>,
    /// Some log has more to read.
    pub more: bool,
    /// Every directory that was looked through.
    pub dirs: Vec<PathBuf>,
}

impl LogSet {
    /// The logs below these directories; nothing is read yet.
    #[must_use]
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs, logs: HashMap::new() }
    }

    /// Looks for new logs and reads on in all that were written. Those of `wanted` are read even when they are cold.
    pub fn look(&mut self, wanted: &[SessionId]) -> LookedAt {
        let mut looked = LookedAt::default();
        let mut found = Vec::new();
        for dir in &self.dirs {
            files_below(dir, 0, &mut found, &mut looked.dirs);
        }
        found.sort_by_key(|(_, meta)| std::cmp::Reverse((meta.mtime(), meta.mtime_nsec())));
        found.truncate(LOGS_MAX);
        let mut before = std::mem::take(&mut self.logs);
        for (path, meta) in found {
            let known = before.remove(&path);
            let is_new = known.is_none();
            let mut log = known.unwrap_or_else(|| LogTail::new(path.clone()));
            let written_at = timestamp(meta.modified());
            let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
            let untouched = log.written_at == written_at && log.size == meta.len();
            let is_wanted = wanted.contains(&log.id);
            if is_new && age > COLD_AFTER && !is_wanted {
                (log.size, log.written_at, log.cold) = (meta.len(), written_at, true);
                looked.changed.push(log.id.clone());
            } else if !(untouched && (log.cold && !is_wanted || log.offset == log.size)) {
                match log.catch_up() {
                    Ok(caught) => {
                        looked.more |= caught.more;
                        if caught.changed || is_new {
                            looked.changed.push(log.id.clone());
                        }
                    }
                    Err(error) => tracing::debug!(%error, path = %path.display(), "a session log cannot be read"),
                }
            }
            self.logs.insert(path, log);
        }
        looked.gone.extend(before.into_values().map(|log| log.id));
        looked
    }
}

/// Regular `.jsonl` files below a directory, without following links.
fn files_below(dir: &Path, depth: usize, found: &mut Vec<(PathBuf, fs::Metadata)>, dirs: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    dirs.push(dir.to_owned());
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if kind.is_dir() && depth < DEPTH_MAX && dirs.len() < LOGS_MAX {
            files_below(&path, depth + 1, found, dirs);
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "jsonl") {
            found.extend(entry.metadata().ok().map(|meta| (path, meta)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn append(path: &Path, text: &[u8]) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("opens");
        file.write_all(text).expect("writes");
    }

    fn log() -> (tempfile::TempDir, LogTail) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.jsonl");
        append(&path, b"");
        (dir, LogTail::new(path))
    }

    #[test]
    fn a_line_counts_once_its_end_is_there() {
        let (_dir, mut log) = log();
        append(&log.path, b"{\"type\":\"user\",\"text\":\"a\"}\n{\"type\":\"assi");
        assert!(log.catch_up().expect("reads").changed);
        assert_eq!((log.lines, log.corrupt), (1, 0));
        assert!(!log.catch_up().expect("reads").changed);
        append(&log.path, b"stant\",\"text\":\"b\"}\n");
        assert!(log.catch_up().expect("reads").changed);
        assert_eq!(log.last.as_ref().map(|last| last.kind.as_str()), Some("assistant"));
        let events = log.events(0, 10).expect("reads");
        assert_eq!(events.iter().map(|event| event.n).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(log.events(1, 10).expect("reads").len(), 1);
    }

    #[test]
    fn a_log_that_became_shorter_or_another_file_is_read_from_its_beginning() {
        let (_dir, mut log) = log();
        append(&log.path, b"{\"type\":\"a\"}\n{\"type\":\"b\"}\n");
        log.catch_up().expect("reads");
        fs::write(&log.path, b"{\"type\":\"c\"}\n").expect("truncates");
        assert!(log.catch_up().expect("reads").changed);
        assert_eq!((log.lines, log.last.as_ref().map(|last| last.kind.clone())), (1, Some("c".to_owned())));
        let other = log.path.with_extension("new");
        append(&other, b"{\"type\":\"d\"}\n{\"type\":\"e\"}\n{\"type\":\"f\"}\n");
        fs::rename(&other, &log.path).expect("rotates");
        assert!(log.catch_up().expect("reads").changed);
        assert_eq!((log.lines, log.last.as_ref().map(|last| last.kind.clone())), (3, Some("f".to_owned())));
    }

    #[test]
    fn lines_that_are_no_events_are_counted_and_shown_as_such() {
        let (_dir, mut log) = log();
        append(&log.path, b"{\"type\":\"a\"}\nno json\n\xff\xfe\n\n[1]\n{\"type\":\"b\"}\n");
        log.catch_up().expect("reads");
        assert_eq!((log.lines, log.corrupt), (5, 3));
        let shown = log.events(0, 10).expect("reads");
        assert_eq!(shown.iter().map(|event| event.corrupt).collect::<Vec<_>>(), [false, true, true, true, false]);
        assert_eq!(shown[1].text.as_deref(), Some("no json"));
    }

    #[test]
    fn a_line_of_many_megabytes_is_one_corrupt_line_however_it_arrives() {
        let (_dir, mut log) = log();
        append(&log.path, b"{\"type\":\"a\"}\n");
        for _ in 0..5 {
            append(&log.path, &vec![b'x'; 700_000]);
            while log.catch_up_by(4_096).expect("reads").more {}
        }
        append(&log.path, b"\n{\"type\":\"b\"}\n");
        while log.catch_up_by(4_096).expect("reads").more {}
        assert_eq!((log.lines, log.corrupt), (3, 1));
    }

    #[test]
    fn a_long_log_is_read_piece_by_piece_and_its_pages_are_found() {
        let (_dir, mut log) = log();
        let mut text = Vec::new();
        for number in 0..60_000 {
            text.extend_from_slice(format!("{{\"type\":\"note\",\"text\":\"{number}\"}}\n").as_bytes());
        }
        append(&log.path, &text);
        let mut pieces = 1;
        while log.catch_up_by(100_000).expect("reads").more {
            pieces += 1;
        }
        assert!(pieces > 1 && log.lines == 60_000, "{pieces} {}", log.lines);
        for after in [0, 999, 1_000, 1_001, 12_345, 59_999] {
            let page = log.events(after, 3).expect("reads");
            let wanted: Vec<u64> = (after + 1..=60_000).take(3).collect();
            assert_eq!(page.iter().map(|event| event.n).collect::<Vec<_>>(), wanted);
            let first = page.first().map(|event| event.text.clone());
            assert_eq!(first, wanted.first().map(|n| Some((n - 1).to_string())));
        }
    }

    #[test]
    fn only_regular_jsonl_files_are_logs_and_old_ones_wait_until_they_are_wanted() {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).expect("makes");
        append(&at("a.jsonl"), b"{\"type\":\"a\"}\n");
        append(&at("sub/old.jsonl"), b"{\"type\":\"a\"}\n");
        append(&at("b.json"), b"{}\n");
        std::os::unix::fs::symlink(at("a.jsonl"), at("link.jsonl")).expect("links");
        fs::create_dir(at("dir.jsonl")).expect("makes");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe.jsonl"), Mode::RWXU).expect("makes");
        let long_ago = SystemTime::now() - Duration::from_secs(3 * 86_400);
        File::options().write(true).open(at("sub/old.jsonl")).expect("opens").set_modified(long_ago).expect("sets");
        let mut set = LogSet::new(vec![dir.path().to_owned()]);
        let looked = set.look(&[]);
        assert_eq!((looked.changed.len(), set.logs.len()), (2, 2));
        let old = set.logs[&at("sub/old.jsonl")].clone();
        assert!(old.cold && old.lines == 0);
        assert_eq!(set.look(&[]).changed, []);
        let wanted = [old.id];
        assert_eq!(set.look(&wanted).changed, wanted);
        fs::remove_file(at("sub/old.jsonl")).expect("removes");
        assert_eq!(set.look(&[]).gone, wanted);
    }
}
