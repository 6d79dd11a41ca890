//! The work tree tier: how a work tree differs from its index and its commit, counted as `git status` counts.
//!
//! One pass: the index is read, every tracked file is stat'ed relative to its directory, every directory that is not
//! ignored is listed once. Contents are read only where stats cannot tell. Takes no lock, writes nothing, starts no
//! process, opens no file that is not a regular one. What needs git's own judgement (renames, line endings, submodules,
//! sparse or split indexes) is said to need it, see [`Looked::AskGit`].

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bstr::ByteSlice as _;
use gix_ignore::glob::pattern::Case;
use gix_ignore::search::Ignore;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};

use super::files::{self, Links};
use super::index::{Entry, INDEX_BYTES_MAX, Index, IndexError, oid_of_bytes};
use super::porcelain::Status;
use super::stamp::Witness;
use super::{Repository, id_of};
use crate::model::ids::Oid;
use crate::model::worktree::Changes;

/// Directories deeper than this are git's own business.
const DEPTH_MAX: usize = 200;
/// Ignore files beyond this are not read; git reads up to a hundred times as much, no tree needs it.
const IGNORE_BYTES_MAX: u64 = 1 << 20;
/// A file beyond this is not read to be compared; git does it, as a process that can be ended.
const CONTENT_BYTES_MAX: u64 = 64 << 20;
/// Files and directories of the remains of a worktree that are looked at; with more they are taken for somebody's.
const REMAINS_MAX: usize = 20_000;
/// Files found unchanged by their content that are remembered per worktree.
const VERIFIED_MAX: usize = 20_000;
/// A file written this shortly before its index could have been written again in the same tick of the file system's
/// clock, and would look the same. Linux keeps file times in ticks of 4 ms where it does not keep them finer.
const TICK_NS: i64 = 4_000_000;
/// A file that was not changed for so long would show a further change in its stat.
const SETTLED_NS: i64 = 50_000_000;
/// Room for one read of a directory.
const LISTING_BYTES: usize = 32 * 1024;

const TYPE_BITS: u32 = 0o170_000;
const LINK_BITS: u32 = 0o120_000;
const SUBMODULE_BITS: u32 = 0o160_000;

/// What of a look at a worktree is of use for the next one. Belongs to one worktree.
#[derive(Debug, Clone, Default)]
pub struct ScanMemory {
    verified: Verified,
    /// Files of the last look only git could tell about.
    unsure: Vec<(Vec<u8>, FileStamp, [u8; 20])>,
    /// The directories the last look went through: those whose changes can change its answer.
    pub dirs: Vec<PathBuf>,
}

impl ScanMemory {
    /// Takes in what git said where only git could tell: what it does not name as changed need not be asked again while
    /// its stat stays.
    pub fn settle(&mut self, status: &Status) {
        let changed: HashSet<&[u8]> =
            status.files.iter().filter(|file| file.unstaged.is_some()).map(|file| file.path.as_bytes()).collect();
        for (path, stamp, oid) in std::mem::take(&mut self.unsure) {
            if !changed.contains(path.as_slice()) && std::str::from_utf8(&path).is_ok() {
                self.verified.0.insert(path, (stamp, oid));
            }
        }
    }
}

/// What a look at a work tree came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// Counted, exactly as `git status` would.
    Counted(Changes),
    /// Only git can say; the text says why.
    AskGit(&'static str),
}

/// Why a look came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The caller no longer wants it, or its time is up.
    #[error("the scan was given up")]
    Stopped,
    /// Something could not be read.
    #[error("{path}: {reason}")]
    Unreadable {
        /// What.
        path: String,
        /// Why.
        reason: String,
    },
}

/// Files whose stat does not fit the index but whose content does: while their stat stays, they need no second read.
#[derive(Debug, Clone, Default)]
struct Verified(HashMap<Vec<u8>, (FileStamp, [u8; 20])>);

/// What in a repository's configuration a scan goes by.
pub(super) struct ScanRules {
    witness: Witness,
    /// Why scans of this repository are git's own business, if they are.
    unusual: Option<&'static str>,
    file_mode: bool,
    /// What attributes and settings for the whole repository make git convert.
    converts: Conversions,
    /// Patterns for the whole repository, the least important first.
    excludes: gix_ignore::Search,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    ctime: (i64, i64),
    mtime: (i64, i64),
    ino: u64,
    size: u64,
}

impl Repository {
    /// Counts the changes of a work tree whose HEAD is the given commit (none in a repository without commits).
    /// `git_dir` is the worktree's own. Blocks, for as long as the disk takes; `stop` is asked at every directory.
    pub fn scan(
        &self,
        worktree: &Path,
        git_dir: &Path,
        head_tree: Option<&Oid>,
        memory: &mut ScanMemory,
        stop: &dyn Fn() -> bool,
    ) -> Result<Looked, ScanError> {
        memory.dirs.clear();
        let rules = self.scan_rules();
        if let Some(why) = rules.unusual {
            return Ok(Looked::AskGit(why));
        }
        let index_path = git_dir.join("index");
        let (index, written) = match read_index(&index_path)? {
            IndexFile::Read(index, written) => (index, written),
            IndexFile::Unusual(what) => return Ok(Looked::AskGit(what)),
        };
        if index.entries.iter().any(|entry| entry.intent_to_add || entry.skip_worktree) {
            return Ok(Looked::AskGit("sparse, or has files that are only meant to be added"));
        }
        let staged = self.staged(&index, &index_path, head_tree)?;
        let root = open_dir(rustix::fs::CWD, worktree.as_os_str().as_encoded_bytes(), false)
            .map_err(|error| unreadable(worktree, &io::Error::from(error)))?;
        let mut scan = Scan {
            worktree,
            index: &index,
            written,
            rules: &rules,
            ignores: rules.excludes.clone(),
            verified: &memory.verified,
            still: HashMap::new(),
            dirs: Vec::new(),
            unstaged: 0,
            untracked: 0,
            unsure: None,
            unsure_files: Vec::new(),
            converts: rules.converts,
            stop,
            listing: vec![MaybeUninit::uninit(); LISTING_BYTES],
        };
        scan.directory(root.as_fd(), &mut Vec::new(), 0, index.entries.len(), 0)?;
        let Scan { unstaged, untracked, unsure, unsure_files, still, dirs, .. } = scan;
        memory.verified.0 = still;
        memory.unsure = unsure_files;
        memory.dirs = dirs;
        if let Some(why) = unsure {
            return Ok(Looked::AskGit(why));
        }
        let Some(staged) = staged else { return Ok(Looked::AskGit("changed in ways that may be renames")) };
        Ok(Looked::Counted(Changes { staged, unstaged, untracked, conflicted: conflicted(&index) }))
    }

    /// A file below `path` that is not as the index of that registration has it, if there is one: somebody's own, then, or
    /// something that cannot be told from it. Blocks.
    pub(super) fn own_file(&self, path: &Path, admin: &Path) -> Option<String> {
        let Ok(IndexFile::Read(index, _)) = read_index(&admin.join("index")) else { return Some(".".to_owned()) };
        let known: HashMap<&[u8], &Entry> = index.entries.iter().map(|entry| (index.name(entry), entry)).collect();
        let (mut left, mut seen) = (vec![PathBuf::new()], 0_usize);
        while let Some(dir) = left.pop() {
            let Ok(entries) = std::fs::read_dir(path.join(&dir)) else { return Some(dir.display().to_string()) };
            for entry in entries {
                let Ok((entry, kind)) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind))) else {
                    return Some(dir.display().to_string());
                };
                seen += 1;
                let name = dir.join(entry.file_name());
                if kind.is_dir() && seen < REMAINS_MAX {
                    left.push(name);
                    continue;
                }
                let bytes = name.as_os_str().as_encoded_bytes();
                let content = || files::read_below(path, name.to_str()?, CONTENT_BYTES_MAX).ok().flatten();
                let same = known.get(bytes).is_some_and(|known| {
                    let oid = content().and_then(|content| super::sync::blob_of(&content).ok());
                    kind.is_file() && known.stage == 0 && oid == Some(oid_of_bytes(&known.oid))
                });
                if !same {
                    return Some(name.display().to_string());
                }
            }
        }
        None
    }

    /// A submodule of a worktree that has files in it, if there is one. Blocks.
    #[must_use]
    pub fn submodule(&self, worktree: &Path, git_dir: &Path) -> Option<String> {
        let Ok(IndexFile::Read(index, _)) = read_index(&git_dir.join("index")) else { return None };
        let submodules = index.entries.iter().filter(|entry| entry.stat.mode & TYPE_BITS == SUBMODULE_BITS);
        let mut paths = submodules.map(|entry| index.name(entry).to_path_lossy().into_owned());
        let inside = paths.find(|path| std::fs::symlink_metadata(worktree.join(path).join(".git")).is_ok());
        inside.map(|path| path.display().to_string())
    }

    /// Staged changes; `None` when some of them could be renames, which git counts as one.
    fn staged(&self, index: &Index, path: &Path, head_tree: Option<&Oid>) -> Result<Option<u64>, ScanError> {
        if index.tree.is_some() && index.tree.as_ref() == head_tree {
            return Ok(Some(0));
        }
        let library = self.library().map_err(|error| unreadable(path, &error.message()))?;
        let count = || -> Result<Option<u64>, git2::Error> {
            let tree = head_tree.map(|tree| library.find_tree(id_of(tree)?)).transpose()?;
            let index = git2::Index::open(path)?;
            let diff = library.diff_tree_to_index(tree.as_ref(), Some(&index), None)?;
            let (mut added, mut deleted, mut other) = (0_u64, 0_u64, 0_u64);
            for delta in diff.deltas() {
                match delta.status() {
                    git2::Delta::Added => added += 1,
                    git2::Delta::Deleted => deleted += 1,
                    git2::Delta::Conflicted | git2::Delta::Unmodified => {}
                    _ => other += 1,
                }
            }
            Ok((added == 0 || deleted == 0).then_some(added + deleted + other))
        };
        count().map_err(|error| unreadable(path, &error.message()))
    }

    /// The rules, read again when a file they come from has changed.
    fn scan_rules(&self) -> Arc<ScanRules> {
        let mut known = self.scan_rules.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(rules) = known.as_ref().filter(|rules| rules.witness.holds()) {
            return rules.clone();
        }
        let rules = Arc::new(self.read_rules());
        *known = rules.witness.settled().then(|| rules.clone());
        rules
    }

    fn read_rules(&self) -> ScanRules {
        let info_exclude = self.common_dir().join("info/exclude");
        let mut files = vec![self.common_dir().join("config"), self.common_dir().join("config.worktree")];
        files.extend(
            [git2::Config::find_global(), git2::Config::find_xdg(), git2::Config::find_system()].into_iter().flatten(),
        );
        let config = self.library().and_then(|library| library.config()).and_then(|mut config| config.snapshot());
        let Ok(config) = config else {
            let witness = Witness::of(files);
            let unusual = Some("of a configuration that cannot be read");
            return ScanRules {
                witness,
                unusual,
                file_mode: true,
                converts: Conversions::default(),
                excludes: gix_ignore::Search::default(),
            };
        };
        let is_set = |key: &str| config.get_entry(key).is_ok();
        let is_true = |key: &str, default: bool| config.get_bool(key).unwrap_or(default);
        let unusual = if is_set("core.worktree") {
            Some("of a repository whose work tree is configured elsewhere")
        } else if is_true("core.sparsecheckout", false) || is_true("index.sparse", false) {
            Some("sparse")
        } else if is_true("core.ignorecase", false) || is_true("core.precomposeunicode", false) {
            Some("on a file system that changes names")
        } else if is_set("core.checkstat") || !is_true("core.trustctime", true) || !is_true("core.symlinks", true) {
            Some("of a repository with its own idea of file times or links")
        } else {
            None
        };
        let of_user = |file: &str| {
            let base = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
            Some(
                base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?.join("git").join(file),
            )
        };
        let excludes_file = config.get_path("core.excludesfile").ok().or_else(|| of_user("ignore"));
        let attributes_file = config.get_path("core.attributesfile").ok().or_else(|| of_user("attributes"));
        let attributes: Vec<PathBuf> =
            attributes_file.into_iter().chain([self.common_dir().join("info/attributes")]).collect();
        files.extend(excludes_file.clone());
        files.extend(attributes.clone());
        files.push(info_exclude.clone());
        let witness = Witness::of(files);
        let mut excludes = gix_ignore::Search::default();
        for file in excludes_file.into_iter().chain([info_exclude]) {
            if let Some(text) = read_regular(&file, Links::Followed) {
                // The patterns of these files are anchored at the root, wherever the files are.
                let _ = excludes.add_patterns_buffer(&text, file, None, Ignore::default());
            }
        }
        let line_endings = config.get_string("core.autocrlf").is_ok_and(|value| value != "false");
        let converts = attributes
            .iter()
            .filter_map(|file| read_regular(file, Links::Followed))
            .map(|text| Conversions::named_in(&text))
            .fold(Conversions { line_endings, ..Conversions::default() }, Conversions::and);
        ScanRules { witness, unusual, file_mode: is_true("core.filemode", true), converts, excludes }
    }
}

/// What git may do to a file's bytes before it compares them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Conversions {
    /// Filters and encodings: anything.
    whole: bool,
    /// `$Id$` in files that have it.
    idents: bool,
    /// CRLF in files that have it.
    line_endings: bool,
}

impl Conversions {
    /// What these attributes name, for whichever files.
    fn named_in(attributes: &[u8]) -> Self {
        let names = |word: &str| attributes.find(word).is_some();
        Self {
            whole: names("filter=") || names("working-tree-encoding"),
            idents: names("ident"),
            line_endings: names("text") || names("eol") || names("crlf"),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            whole: self.whole || other.whole,
            idents: self.idents || other.idents,
            line_endings: self.line_endings || other.line_endings,
        }
    }

    /// Whether these bytes may not be what git compares.
    fn may_change(self, bytes: &[u8]) -> bool {
        self.whole || self.idents && bytes.find(b"$Id").is_some() || self.line_endings && bytes.find(b"\r\n").is_some()
    }
}

/// Paths with a conflict, each counted once.
fn conflicted(index: &Index) -> u64 {
    let mut last: Option<&[u8]> = None;
    let mut count = 0;
    for entry in index.entries.iter().filter(|entry| entry.stage != 0) {
        let name = index.name(entry);
        if last != Some(name) {
            count += 1;
            last = Some(name);
        }
    }
    count
}

/// An index file, opened.
enum IndexFile {
    /// Read, and when it was last written.
    Read(Index, (i64, i64)),
    /// git's own business.
    Unusual(&'static str),
}

/// A missing index is empty, as git has it.
fn read_index(path: &Path) -> Result<IndexFile, ScanError> {
    let opened = files::open(path, Links::Refused).map_err(|error| unreadable(path, &error))?;
    let Some(file) = opened else { return Ok(IndexFile::Read(Index::empty(), (0, 0))) };
    let meta = file.metadata().map_err(|error| unreadable(path, &error))?;
    if meta.len() > INDEX_BYTES_MAX {
        return Ok(IndexFile::Unusual("larger than is read here"));
    }
    let data = files::read_open(file, INDEX_BYTES_MAX).map_err(|error| unreadable(path, &error))?;
    match Index::parse(data) {
        Ok(index) => Ok(IndexFile::Read(index, (meta.mtime(), meta.mtime_nsec()))),
        Err(IndexError::Unusual(what)) => Ok(IndexFile::Unusual(what)),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, reason: &dyn std::fmt::Display) -> ScanError {
    ScanError::Unreadable { path: path.display().to_string(), reason: reason.to_string() }
}

/// A small regular file; `None` when it is not there or is none.
fn read_regular(path: &Path, links: Links) -> Option<Vec<u8>> {
    files::read(path, IGNORE_BYTES_MAX, links).ok().flatten()
}

fn open_dir(at: BorrowedFd<'_>, name: &[u8], follow: bool) -> rustix::io::Result<OwnedFd> {
    let follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK | follow;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// The names in a directory, and what each is.
#[derive(Default)]
struct Listing {
    names: Vec<u8>,
    entries: Vec<(usize, usize, FileType)>,
}

impl Listing {
    fn push(&mut self, name: &[u8], kind: FileType) {
        let start = self.names.len();
        self.names.extend_from_slice(name);
        self.entries.push((start, self.names.len(), kind));
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], FileType)> {
        self.entries.iter().map(|(start, end, kind)| (&self.names[*start..*end], *kind))
    }

    fn has(&self, wanted: &[u8]) -> bool {
        self.iter().any(|(name, _)| name == wanted)
    }
}

struct Scan<'a> {
    worktree: &'a Path,
    index: &'a Index,
    /// When the index was written.
    written: (i64, i64),
    rules: &'a ScanRules,
    /// The patterns in force here, the least important first.
    ignores: gix_ignore::Search,
    verified: &'a Verified,
    /// What of `verified` still holds, and what came to it.
    still: HashMap<Vec<u8>, (FileStamp, [u8; 20])>,
    dirs: Vec<PathBuf>,
    unstaged: u64,
    untracked: u64,
    /// Why only git can tell, once something came up.
    unsure: Option<&'static str>,
    unsure_files: Vec<(Vec<u8>, FileStamp, [u8; 20])>,
    /// What the attributes in force here make git convert.
    converts: Conversions,
    stop: &'a dyn Fn() -> bool,
    listing: Vec<MaybeUninit<u8>>,
}

impl Scan<'_> {
    /// One directory: `prefix` is its path with a slash at its end (empty for the root), `from..to` are the entries of
    /// the index below it.
    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        prefix: &mut Vec<u8>,
        from: usize,
        to: usize,
        depth: usize,
    ) -> Result<(), ScanError> {
        if (self.stop)() {
            return Err(ScanError::Stopped);
        }
        if depth > DEPTH_MAX {
            self.unsure = Some("deeper than is looked at here");
            return Ok(());
        }
        let listed = self.list(dir, prefix)?;
        let had_ignores = self.push_ignores(&listed, prefix);
        let (index, start) = (self.index, prefix.len());
        let converted = self.converts;
        self.converts = converted.and(converts_below(dir, &listed));
        let mut known: Vec<&[u8]> = Vec::new();
        let mut at = from;
        while at < to {
            let name = &index.name(&index.entries[at])[start..];
            match name.find_byte(b'/') {
                None => {
                    let end = (at..to).find(|next| &index.name(&index.entries[*next])[start..] != name).unwrap_or(to);
                    self.file(dir, name, &index.entries[at..end])?;
                    // git calls nothing of that name untracked, not even a directory that took the file's place.
                    known.push(name);
                    at = end;
                }
                Some(slash) => {
                    let part = &name[..=slash];
                    let end = at
                        + index.entries[at..to].partition_point(|entry| index.name(entry)[start..].starts_with(part));
                    let name = &name[..slash];
                    if self.subdirectory(dir, prefix, name, at, end, depth)? {
                        known.push(name);
                    }
                    at = end;
                }
            }
        }
        // Files and directories are in another order in the index than their names are.
        known.sort_unstable();
        for (name, kind) in listed.iter() {
            if known.binary_search(&name).is_err() && self.is_untracked(dir, prefix, name, kind, depth)? {
                self.untracked += 1;
            }
        }
        self.converts = converted;
        if had_ignores {
            self.ignores.patterns.pop();
        }
        Ok(())
    }

    /// A directory of the index; whether a directory stands there.
    fn subdirectory(
        &mut self,
        dir: BorrowedFd<'_>,
        prefix: &mut Vec<u8>,
        name: &[u8],
        from: usize,
        to: usize,
        depth: usize,
    ) -> Result<bool, ScanError> {
        use rustix::io::Errno;
        match open_dir(dir, name, false) {
            Ok(below) => {
                let before = prefix.len();
                prefix.extend_from_slice(name);
                prefix.push(b'/');
                self.directory(below.as_fd(), prefix, from, to, depth + 1)?;
                prefix.truncate(before);
                Ok(true)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let mut last: Option<&[u8]> = None;
                for entry in &self.index.entries[from..to] {
                    let name = self.index.name(entry);
                    let is_conflict = entry.stage != 0;
                    if !is_conflict && !entry.assume_valid && last != Some(name) {
                        self.unstaged += 1;
                    }
                    last = Some(name);
                }
                Ok(false)
            }
            Err(error) => Err(self.unreadable(prefix, name, &io::Error::from(error))),
        }
    }

    fn unreadable(&self, prefix: &[u8], name: &[u8], error: &io::Error) -> ScanError {
        let path = [prefix, name].concat();
        unreadable(&self.worktree.join(path.to_path_lossy()), error)
    }

    /// A file of the index, with all its sides if it is in conflict.
    fn file(&mut self, dir: BorrowedFd<'_>, name: &[u8], entries: &[Entry]) -> Result<(), ScanError> {
        let entry = &entries[0];
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => None,
            Err(error) => {
                let path = self.index.name(entry).to_path_lossy();
                return Err(unreadable(&self.worktree.join(path), &io::Error::from(error)));
            }
        };
        if entry.stage != 0 {
            return Ok(());
        }
        let is_directory =
            stat.as_ref().is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if entry.stat.mode & TYPE_BITS == SUBMODULE_BITS {
            match (&stat, is_directory) {
                (Some(_), true) => {
                    let inside = [name, b"/.git"].concat();
                    if rustix::fs::statat(dir, inside.as_slice(), AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                        self.unsure = Some("with submodules");
                    }
                }
                _ => self.unstaged += 1,
            }
            return Ok(());
        }
        let changed =
            !entry.assume_valid && stat.is_none_or(|stat| is_directory || self.is_changed(dir, name, entry, &stat));
        self.unstaged += u64::from(changed);
        Ok(())
    }

    /// Whether a file differs from its entry, as git's own comparison has it.
    fn is_changed(&mut self, dir: BorrowedFd<'_>, name: &[u8], entry: &Entry, stat: &rustix::fs::Stat) -> bool {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the index keeps the low 32 bits")]
        let low = |number: i64| number as u32;
        #[expect(clippy::cast_possible_truncation, reason = "the index keeps the low 32 bits")]
        let low_u = |number: u64| number as u32;
        let (kind, remembered) = (stat.st_mode & TYPE_BITS, &entry.stat);
        if kind != remembered.mode & TYPE_BITS {
            return true;
        }
        let is_link = kind == LINK_BITS;
        if !is_link && self.rules.file_mode && (stat.st_mode ^ remembered.mode) & 0o100 != 0 {
            return true;
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if low_u(size) != remembered.size && remembered.size != 0 {
            return true;
        }
        let same = low(stat.st_mtime) == remembered.mtime.0
            && u32::try_from(stat.st_mtime_nsec).is_ok_and(|ns| ns == remembered.mtime.1 || remembered.mtime.1 == 0)
            && low(stat.st_ctime) == remembered.ctime.0
            && u32::try_from(stat.st_ctime_nsec).is_ok_and(|ns| ns == remembered.ctime.1 || remembered.ctime.1 == 0)
            && stat.st_uid == remembered.uid
            && stat.st_gid == remembered.gid
            && low_u(stat.st_ino) == remembered.ino
            && low_u(size) == remembered.size;
        if same && !self.is_racy(remembered.mtime) {
            return false;
        }
        let nanos = |ns: u64| i64::try_from(ns).unwrap_or(0);
        let stamp = FileStamp {
            ctime: (stat.st_ctime, nanos(stat.st_ctime_nsec)),
            mtime: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
            ino: stat.st_ino,
            size,
        };
        let path = self.index.name(entry);
        if self.verified.0.get(path) == Some(&(stamp, entry.oid)) {
            self.still.insert(path.to_vec(), (stamp, entry.oid));
            return false;
        }
        match self.content(dir, name, is_link, size) {
            Content::Unknown(why) => {
                self.unsure = Some(why);
                if self.unsure_files.len() < VERIFIED_MAX && self.has_settled(stamp.ctime) {
                    self.unsure_files.push((path.to_vec(), stamp, entry.oid));
                }
                false
            }
            Content::Blob(oid) if oid == oid_of_bytes(&entry.oid) => {
                if self.still.len() < VERIFIED_MAX && self.has_settled(stamp.ctime) {
                    self.still.insert(path.to_vec(), (stamp, entry.oid));
                }
                false
            }
            Content::Blob(_) => true,
        }
    }

    /// Whether a file could have changed after the index was written without its stat showing it.
    fn is_racy(&self, mtime: (u32, u32)) -> bool {
        let nanos = |secs: i64, ns: i64| secs.saturating_mul(1_000_000_000).saturating_add(ns);
        nanos(i64::from(mtime.0), i64::from(mtime.1)) + TICK_NS >= nanos(self.written.0, self.written.1)
    }

    /// Whether a later change of such a file would show in its stat.
    fn has_settled(&self, ctime: (i64, i64)) -> bool {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let changed = i128::from(ctime.0) * 1_000_000_000 + i128::from(ctime.1);
        i128::try_from(now.as_nanos()).unwrap_or(0) > changed + i128::from(SETTLED_NS)
    }

    fn content(&self, dir: BorrowedFd<'_>, name: &[u8], is_link: bool, size: u64) -> Content {
        let blob = |bytes: &[u8]| match git2::Oid::hash_object(git2::ObjectType::Blob, bytes) {
            Ok(oid) => Content::Blob(super::oid_of(oid)),
            Err(_) => Content::Unknown("with a file that cannot be hashed"),
        };
        if is_link {
            return match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => blob(target.as_bytes()),
                Err(_) => Content::Unknown("changing while it is looked at"),
            };
        }
        if size > CONTENT_BYTES_MAX {
            return Content::Unknown("with a large file that has to be read");
        }
        let opened = files::open_at(dir, name, Links::Refused);
        match opened.and_then(|file| files::read_open(file, CONTENT_BYTES_MAX)).ok() {
            // Line endings, filters and encodings are git's own business; without any of them the bytes are the blob.
            Some(bytes) if self.converts.may_change(&bytes) => Content::Unknown("with files that git converts"),
            Some(bytes) => blob(&bytes),
            None => Content::Unknown("with a file that cannot be read"),
        }
    }

    fn list(&mut self, dir: BorrowedFd<'_>, prefix: &[u8]) -> Result<Listing, ScanError> {
        let mut listed = Listing::default();
        let mut listing = std::mem::take(&mut self.listing);
        let mut entries = RawDir::new(dir, &mut listing);
        let result = loop {
            match entries.next() {
                None => break Ok(()),
                Some(Ok(entry)) => {
                    let name = entry.file_name().to_bytes();
                    if !matches!(name, b"." | b".." | b".git") {
                        listed.push(name, entry.file_type());
                    }
                }
                Some(Err(rustix::io::Errno::NOENT)) => break Ok(()),
                Some(Err(error)) => break Err(self.unreadable(prefix, b"", &io::Error::from(error))),
            }
        };
        self.listing = listing;
        self.dirs.push(self.worktree.join(prefix.strip_suffix(b"/").unwrap_or(prefix).to_path_lossy()));
        result.map(|()| listed)
    }

    /// Takes in the ignore file of a directory, if it has one; the caller takes it out again.
    fn push_ignores(&mut self, listed: &Listing, prefix: &[u8]) -> bool {
        if !listed.has(b".gitignore") {
            return false;
        }
        let path = self.worktree.join(prefix.to_path_lossy()).join(".gitignore");
        let Some(text) = read_regular(&path, Links::Refused) else { return false };
        self.ignores.add_patterns_buffer(&text, path, Some(self.worktree), Ignore::default()).is_ok()
    }

    fn is_ignored(&self, path: &[u8], is_dir: bool) -> bool {
        let found = self.ignores.pattern_matching_relative_path(path.as_bstr(), Some(is_dir), Case::Sensitive);
        found.is_some_and(|found| !found.pattern.is_negative())
    }

    /// Whether a directory on the way there is ignored: nothing below one is taken in again, even beside tracked files.
    fn is_below_ignored(&self, prefix: &[u8]) -> bool {
        prefix.find_iter(b"/").any(|slash| self.is_ignored(&prefix[..slash], true))
    }

    /// Whether git would show a name that is not in the index as untracked. A directory is shown, as one, when there
    /// is anything in it that is not ignored.
    fn is_untracked(
        &mut self,
        dir: BorrowedFd<'_>,
        prefix: &mut Vec<u8>,
        name: &[u8],
        kind: FileType,
        depth: usize,
    ) -> Result<bool, ScanError> {
        let kind = match kind {
            FileType::Unknown => match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => return Ok(false),
            },
            known => known,
        };
        if !matches!(kind, FileType::RegularFile | FileType::Symlink | FileType::Directory) {
            return Ok(false);
        }
        let before = prefix.len();
        prefix.extend_from_slice(name);
        let is_dir = kind == FileType::Directory;
        let shown = if self.is_ignored(prefix, is_dir) || self.is_below_ignored(&prefix[..before]) {
            Ok(false)
        } else if is_dir {
            prefix.push(b'/');
            self.has_untracked(dir, prefix, name, depth + 1)
        } else {
            Ok(true)
        };
        prefix.truncate(before);
        shown
    }

    /// Whether an untracked directory holds anything git would show.
    fn has_untracked(
        &mut self,
        at: BorrowedFd<'_>,
        prefix: &mut Vec<u8>,
        name: &[u8],
        depth: usize,
    ) -> Result<bool, ScanError> {
        if (self.stop)() {
            return Err(ScanError::Stopped);
        }
        if depth > DEPTH_MAX {
            self.unsure = Some("deeper than is looked at here");
            return Ok(false);
        }
        let Ok(dir) = open_dir(at, name, false) else { return Ok(false) };
        if is_repository(dir.as_fd()) {
            return Ok(true);
        }
        let listed = self.list(dir.as_fd(), prefix)?;
        let had_ignores = self.push_ignores(&listed, prefix);
        let mut found = false;
        // Files first: most directories are decided by one of them.
        'found: for directories in [false, true] {
            for (name, kind) in listed.iter().filter(|(_, kind)| (*kind == FileType::Directory) == directories) {
                if self.is_untracked(dir.as_fd(), prefix, name, kind, depth)? {
                    found = true;
                    break 'found;
                }
            }
        }
        if had_ignores {
            self.ignores.patterns.pop();
        }
        Ok(found)
    }
}

/// What the attributes of a directory make git convert.
fn converts_below(dir: BorrowedFd<'_>, listed: &Listing) -> Conversions {
    let name = c".gitattributes";
    if !listed.has(name.to_bytes()) {
        return Conversions::default();
    }
    let text = files::open_at(dir, name, Links::Refused).and_then(|file| files::read_open(file, IGNORE_BYTES_MAX)).ok();
    text.map_or(Conversions { whole: true, ..Conversions::default() }, |text| Conversions::named_in(&text))
}

enum Content {
    Blob(Oid),
    Unknown(&'static str),
}

/// Whether a directory is a repository of its own, or a worktree of one: git shows it as one name, whatever is in it.
fn is_repository(dir: BorrowedFd<'_>) -> bool {
    let stat = |name: &CStr| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok();
    match stat(c".git").map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Some(FileType::RegularFile) => true,
        Some(FileType::Directory) => {
            stat(c".git/HEAD").is_some() && stat(c".git/objects").is_some() && stat(c".git/refs").is_some()
        }
        _ => false,
    }
}
