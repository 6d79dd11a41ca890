//! Reading git's index file, versions 2 to 4, as gitformat-index(5) describes it. Nothing is trusted: every length is
//! checked against what is there, and what is unusual (split, sparse, SHA-256) is said to be so and left to git.

use crate::model::ids::Oid;

/// An index beyond this is left to git: a million files take about 100 MB.
pub(super) const INDEX_BYTES_MAX: u64 = 256 << 20;
const HEADER_BYTES: usize = 12;
const STAT_BYTES: usize = 40;
const OID_BYTES: usize = 20;
const CHECKSUM_BYTES: usize = 20;

const ASSUME_VALID: u16 = 0x8000;
const EXTENDED: u16 = 0x4000;
const STAGE: u16 = 0x3000;
const SKIP_WORKTREE: u16 = 0x4000;
const INTENT_TO_ADD: u16 = 0x2000;

/// Why an index is not read here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum IndexError {
    /// It is whole, but of a kind that is git's own business.
    #[error("the index is {0}")]
    Unusual(&'static str),
    /// It is not what an index is.
    #[error("the index is damaged: {0}; `git reset` in that worktree makes a new one from its commit")]
    Damaged(&'static str),
}

/// What the index remembers of a file's stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remembered {
    pub ctime: (u32, u32),
    pub mtime: (u32, u32),
    pub ino: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u32,
}

/// One file of the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    name: (usize, usize),
    pub stat: Remembered,
    pub oid: [u8; OID_BYTES],
    /// 0, or the side of a conflict.
    pub stage: u8,
    pub assume_valid: bool,
    pub skip_worktree: bool,
    pub intent_to_add: bool,
}

/// The worktree-relative paths that the content of an index file lists; the error says why it is not read here.
pub fn listed(index: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
    let index = Index::parse(index).map_err(|error| error.to_string())?;
    Ok(index.entries.iter().map(|entry| index.name(entry).to_vec()).collect())
}

/// An index, parsed.
#[derive(Debug)]
pub(super) struct Index {
    names: Vec<u8>,
    pub entries: Vec<Entry>,
    /// The tree the index would write, when it is known to be whole.
    pub tree: Option<Oid>,
}

impl Index {
    /// An index with nothing in it: what git takes a missing file for.
    pub(super) fn empty() -> Self {
        Self { names: Vec::new(), entries: Vec::new(), tree: None }
    }

    /// Worktree-relative path of an entry, as bytes.
    pub(super) fn name(&self, entry: &Entry) -> &[u8] {
        &self.names[entry.name.0..entry.name.1]
    }

    /// Parses the content of an index file.
    pub(super) fn parse(data: Vec<u8>) -> Result<Self, IndexError> {
        let damaged = IndexError::Damaged;
        if data.is_empty() {
            return Err(damaged("it has no bytes"));
        }
        if data.len() < HEADER_BYTES + CHECKSUM_BYTES || &data[..4] != b"DIRC" {
            return Err(damaged("it does not start as an index does"));
        }
        let (version, count) = (u32_at(&data, 4), u32_at(&data, 8) as usize);
        if !(2..=4).contains(&version) {
            return Err(IndexError::Unusual("of a version that is not known"));
        }
        let end = data.len() - CHECKSUM_BYTES;
        // An entry takes more than forty bytes, so a count that cannot be is refused before anything is set aside.
        if count > end / STAT_BYTES {
            return Err(damaged("it counts more files than it can hold"));
        }
        let mut entries = Vec::with_capacity(count);
        // Version 4 shortens names by what they share with the one before; they are written out in full here.
        let mut arena = Vec::new();
        let mut at = HEADER_BYTES;
        for _ in 0..count {
            let (entry, next) = match version {
                4 => shortened(&data[..end], at, entries.last().map_or((0, 0), |last: &Entry| last.name), &mut arena)?,
                _ => padded(&data[..end], at)?,
            };
            entries.push(entry);
            at = next;
        }
        let tree = extensions(&data[..end], at)?;
        let names = if version == 4 { arena } else { data };
        let index = Self { names, entries, tree };
        let sorted = index
            .entries
            .windows(2)
            .all(|pair| (index.name(&pair[0]), pair[0].stage) < (index.name(&pair[1]), pair[1].stage));
        let plain = index.entries.iter().all(|entry| is_plain(index.name(entry)));
        match (sorted, plain) {
            (true, true) => Ok(index),
            (false, _) => Err(damaged("its files are not in order")),
            (true, false) => Err(damaged("it has a path that leads out of the worktree")),
        }
    }
}

/// Whether an index of so many bytes can have as many files as its first twelve bytes say: each takes more than forty.
pub(super) fn count_is_possible(header: &[u8; HEADER_BYTES], length: u64) -> bool {
    u64::from(u32_at(header, 8)) <= length / STAT_BYTES as u64
}

/// Whether a path stays below where it starts and out of `.git`.
fn is_plain(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".." | b".git"))
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

/// The fixed part of an entry, and where its name starts.
fn fixed(data: &[u8], at: usize) -> Result<(Entry, usize), IndexError> {
    let flags_at = at + STAT_BYTES + OID_BYTES;
    if flags_at + 4 > data.len() {
        return Err(IndexError::Damaged("it ends in the middle of a file"));
    }
    let flags = u16_at(data, flags_at);
    let more = if flags & EXTENDED == 0 { 0 } else { u16_at(data, flags_at + 2) };
    let mut oid = [0; OID_BYTES];
    oid.copy_from_slice(&data[at + STAT_BYTES..flags_at]);
    let word = |index: usize| u32_at(data, at + index * 4);
    let stat = Remembered {
        ctime: (word(0), word(1)),
        mtime: (word(2), word(3)),
        ino: word(5),
        mode: word(6),
        uid: word(7),
        gid: word(8),
        size: word(9),
    };
    let entry = Entry {
        name: (0, 0),
        stat,
        oid,
        stage: u8::try_from((flags & STAGE) >> 12).unwrap_or(0),
        assume_valid: flags & ASSUME_VALID != 0,
        skip_worktree: more & SKIP_WORKTREE != 0,
        intent_to_add: more & INTENT_TO_ADD != 0,
    };
    Ok((entry, flags_at + if flags & EXTENDED == 0 { 2 } else { 4 }))
}

fn until_nul(data: &[u8], from: usize) -> Result<usize, IndexError> {
    let rest = data.get(from..).unwrap_or_default();
    let length = rest.iter().position(|byte| *byte == 0);
    length.map(|length| from + length).ok_or(IndexError::Damaged("a name does not end"))
}

/// Versions 2 and 3: the whole name, then one to eight NULs up to a multiple of eight.
fn padded(data: &[u8], at: usize) -> Result<(Entry, usize), IndexError> {
    let (mut entry, name) = fixed(data, at)?;
    let end = until_nul(data, name)?;
    entry.name = (name, end);
    Ok((entry, at + ((end - at) / 8 + 1) * 8))
}

/// Version 4: how much of the name before to drop, then the rest of this one.
fn shortened(
    data: &[u8],
    at: usize,
    before: (usize, usize),
    arena: &mut Vec<u8>,
) -> Result<(Entry, usize), IndexError> {
    let (mut entry, mut name) = fixed(data, at)?;
    let damaged = IndexError::Damaged("a shortened name cannot be read");
    // git's variable-length integers, as in pack files' offsets.
    let mut drop: usize = 0;
    for position in 0.. {
        let byte = *data.get(name).ok_or(damaged.clone())?;
        name += 1;
        drop = (drop << 7 | usize::from(byte & 0x7f)) + usize::from(byte & 0x80 != 0);
        if byte & 0x80 == 0 {
            break;
        }
        if position > 3 {
            return Err(damaged);
        }
    }
    let kept = (before.1 - before.0).checked_sub(drop).ok_or(damaged)?;
    let end = until_nul(data, name)?;
    let start = arena.len();
    arena.extend_from_within(before.0..before.0 + kept);
    arena.extend_from_slice(&data[name..end]);
    entry.name = (start, arena.len());
    Ok((entry, end + 1))
}

/// Goes through the extensions; comes back with the root of the cached tree, if it is whole.
fn extensions(data: &[u8], mut at: usize) -> Result<Option<Oid>, IndexError> {
    let mut tree = None;
    while at + 8 <= data.len() {
        let (name, length) = (&data[at..at + 4], u32_at(data, at + 4) as usize);
        let body = data.get(at + 8..at + 8 + length).ok_or(IndexError::Damaged("an extension is cut short"))?;
        match name {
            b"TREE" => tree = cached_root(body),
            b"link" => return Err(IndexError::Unusual("split")),
            b"sdir" => return Err(IndexError::Unusual("sparse")),
            _ if name[0].is_ascii_uppercase() => {}
            _ => return Err(IndexError::Unusual("of a kind that is not known")),
        }
        at += 8 + length;
    }
    Ok(tree)
}

/// The root of the cached tree: an empty path, how many entries it covers (less than none when it is outdated), how
/// many subtrees, and its id.
fn cached_root(body: &[u8]) -> Option<Oid> {
    let line_end = body.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(body.get(1..line_end)?).ok()?;
    let covered: i64 = line.split(' ').next()?.parse().ok()?;
    let id = body.get(line_end + 1..line_end + 1 + OID_BYTES)?;
    (body[0] == 0 && covered >= 0).then(|| oid_of_bytes(id))
}

/// Twenty bytes as an id.
pub(super) fn oid_of_bytes(bytes: &[u8]) -> Oid {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Oid::parse(&hex).expect("twenty bytes are forty digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn git(dir: &std::path::Path, args: &[&str]) -> Vec<u8> {
        let done = std::process::Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.hooksPath=/dev/null"])
            .args(args)
            .current_dir(dir)
            .output()
            .expect("git runs");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    /// A repository with names that are hard for an index, in the wanted version.
    fn index_of_version(version: &str) -> (tempfile::TempDir, Vec<u8>) {
        let dir = tempfile::tempdir().expect("temp dir");
        git(dir.path(), &["init", "-q"]);
        for name in ["a", "a-b", "a.d/x", "a0", "ünï/cödé", "deep/er/and/deeper", "z"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("has a parent")).expect("makes");
            std::fs::write(path, name).expect("writes");
        }
        git(dir.path(), &["add", "-A"]);
        std::fs::write(dir.path().join("later"), "x").expect("writes");
        git(dir.path(), &["add", "-N", "later"]);
        git(dir.path(), &["update-index", "--index-version", version]);
        let data = std::fs::read(dir.path().join(".git/index")).expect("reads");
        (dir, data)
    }

    #[test]
    fn every_version_reads_as_git_reads_it() {
        for version in ["2", "3", "4"] {
            let (dir, data) = index_of_version(version);
            let index = Index::parse(data).expect("parses");
            let listed = git(dir.path(), &["ls-files", "-s", "-z"]);
            let ours: Vec<Vec<u8>> = index
                .entries
                .iter()
                .map(|entry| {
                    let head = format!("{:o} {} {}\t", entry.stat.mode, oid_of_bytes(&entry.oid), entry.stage);
                    [head.as_bytes(), index.name(entry)].concat()
                })
                .collect();
            let theirs: Vec<Vec<u8>> =
                listed.split(|byte| *byte == 0).filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
            assert_eq!(ours, theirs, "version {version}");
            assert_eq!(index.entries.iter().filter(|entry| entry.intent_to_add).count(), 1);
        }
    }

    #[test]
    fn the_tree_of_a_committed_index_is_its_commits() {
        let (dir, _) = index_of_version("2");
        git(dir.path(), &["reset", "-q", "later"]);
        git(dir.path(), &["commit", "-qm", "one"]);
        let index = Index::parse(std::fs::read(dir.path().join(".git/index")).expect("reads")).expect("parses");
        let tree = String::from_utf8(git(dir.path(), &["rev-parse", "HEAD^{tree}"])).expect("text");
        assert_eq!(index.tree.expect("is known").as_str(), tree.trim());
    }

    proptest! {
        #[test]
        fn no_content_makes_the_reader_panic(
            version in prop_oneof![Just("2"), Just("4")],
            cut in 0_usize..2_000,
            flips in prop::collection::vec((0_usize..2_000, any::<u8>()), 0..8),
        ) {
            thread_local! {
                static SAMPLES: [Vec<u8>; 2] = [index_of_version("2").1, index_of_version("4").1];
            }
            let mut data = SAMPLES.with(|samples| samples[usize::from(version == "4")].clone());
            for (at, byte) in flips {
                let length = data.len();
                data[at % length] ^= byte;
            }
            data.truncate(if cut % 3 == 0 { cut % data.len() } else { data.len() });
            let _ = Index::parse(data);
        }
    }
}
