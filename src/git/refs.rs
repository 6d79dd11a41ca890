//! Refs by reading files: a loose ref is one open, one read and one close; `packed-refs` is parsed once per change.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::files::{self, Links};
use super::{GitError, Repository};
use crate::model::ids::{Oid, Slug};

/// Refs, HEAD files and links into admin directories are shorter than this; longer ones are not what they should be.
const SMALL_BYTES_MAX: usize = 4_096;
/// Directories looked into for a branch below another.
const BELOW_MAX: usize = 1_000;
/// How far a symbolic ref may lead.
const SYMBOLIC_DEPTH_MAX: usize = 5;
/// A packed-refs file beyond this is not read: a million refs take about 70 MB.
pub(super) const PACKED_BYTES_MAX: u64 = 128 << 20;

/// Reads a small regular file without following a link and without waiting on a pipe; `None` when nothing is there.
pub(super) fn read_small(path: &Path) -> io::Result<Option<String>> {
    let Some(file) = files::open(path, Links::Refused)? else { return Ok(None) };
    let mut buffer = [0_u8; SMALL_BYTES_MAX];
    let read = rustix::io::read(&file, &mut buffer[..])?;
    if read == SMALL_BYTES_MAX {
        return Err(io::Error::other("larger than such a file can be"));
    }
    String::from_utf8(buffer[..read].to_vec()).map(Some).map_err(|_| io::Error::other("not text"))
}

type Stamp = (u64, i64, i64, u64);
type Parsed = Arc<HashMap<String, Oid>>;

/// `packed-refs`, parsed when it changed.
pub(super) struct PackedRefs {
    path: PathBuf,
    parsed: Mutex<Option<(Stamp, Parsed)>>,
}

impl PackedRefs {
    pub(super) fn new(common_dir: &Path) -> Self {
        Self { path: common_dir.join("packed-refs"), parsed: Mutex::new(None) }
    }

    fn get(&self, name: &str) -> io::Result<Option<Oid>> {
        Ok(self.all()?.and_then(|refs| refs.get(name).cloned()))
    }

    /// A ref whose name begins so.
    fn below(&self, start: &str) -> io::Result<Option<String>> {
        Ok(self.all()?.and_then(|refs| refs.keys().find(|name| name.starts_with(start)).cloned()))
    }

    fn all(&self) -> io::Result<Option<Parsed>> {
        let meta = match fs::symlink_metadata(&self.path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stamp = (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len());
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, refs)) = parsed.as_ref().filter(|(known, _)| *known == stamp) {
            return Ok(Some(refs.clone()));
        }
        let Some(text) = files::read(&self.path, PACKED_BYTES_MAX, Links::Refused)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&text);
        let refs: Parsed = Arc::new(text.lines().filter_map(packed_line).collect());
        *parsed = Some((stamp, refs.clone()));
        Ok(Some(refs))
    }
}

fn packed_line(line: &str) -> Option<(String, Oid)> {
    let (oid, name) = line.split_once(' ')?;
    Some((name.to_owned(), Oid::parse(oid).ok()?))
}

impl Repository {
    /// The commit a ref leads to; `None` when there is no such ref.
    pub(super) fn resolve(&self, name: &str) -> Result<Option<Oid>, GitError> {
        Ok(self.resolve_once(name)?.map(|(oid, _)| oid))
    }

    /// The same, and whether the ref itself holds the commit (and does not lead to another ref).
    pub(super) fn resolve_once(&self, name: &str) -> Result<Option<(Oid, bool)>, GitError> {
        let mut name = name.to_owned();
        for depth in 0..SYMBOLIC_DEPTH_MAX {
            let path = self.common_dir().join(&name);
            let text = match read_small(&path) {
                Ok(text) => text,
                // A directory stands where the ref would be: refs below it, none of this name.
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => None,
                Err(error) => return Err(GitError::file(&path)(error)),
            };
            let Some(text) = text else {
                let packed = self.packed.get(&name).map_err(GitError::file(&self.common_dir().join("packed-refs")))?;
                return Ok(packed.map(|oid| (oid, depth == 0)));
            };
            match text.trim_end().strip_prefix("ref: ") {
                Some(target) if target.starts_with("refs/") && !target.split('/').any(|part| part == "..") => {
                    target.clone_into(&mut name)
                }
                Some(_) => return Err(GitError::State(format!("ref {name} leads outside of refs"))),
                None => {
                    let oid =
                        Oid::parse(text.trim_end()).map_err(|_| GitError::State(format!("ref {name} is damaged")))?;
                    return Ok(Some((oid, depth == 0)));
                }
            }
        }
        Err(GitError::State(format!("ref {name} leads in a circle")))
    }

    /// A branch whose name goes on where the slug's ends: git cannot have both.
    pub(super) fn branch_below(&self, slug: &Slug) -> Option<String> {
        let dir = format!("refs/heads/{slug}");
        let packed = self.packed.below(&format!("{dir}/")).ok().flatten();
        let found = packed.or_else(|| {
            let mut left = vec![PathBuf::from(&dir)];
            for _ in 0..BELOW_MAX {
                let at = left.pop()?;
                for entry in fs::read_dir(self.common_dir().join(&at)).into_iter().flatten().flatten() {
                    let name = at.join(entry.file_name());
                    match entry.file_type() {
                        Ok(kind) if kind.is_dir() => left.push(name),
                        _ => return Some(name.display().to_string()),
                    }
                }
            }
            None
        });
        found.map(|name| name.trim_start_matches("refs/heads/").to_owned())
    }

    /// The commit of a slug's branch, when there is one.
    #[must_use]
    pub fn branch_oid(&self, slug: &Slug) -> Option<Oid> {
        self.resolve(&format!("refs/heads/{slug}")).ok().flatten()
    }
}
