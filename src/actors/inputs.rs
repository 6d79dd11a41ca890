//! What a prepare depends on and what it leaves behind, in a worktree: a content digest that is only taken again when
//! a stat has changed. Reads regular files only, never through a symbolic link, and never waits on a pipe.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use globset::{Glob, GlobSet, GlobSetBuilder};
use sha2::{Digest, Sha256};

use crate::git::Stamp;

/// Files and directories looked at per worktree. A glob over more is a mistake in the declaration; what is beyond is
/// left out, and the digest says that it was.
const ENTRIES_MAX: usize = 20_000;

/// A digest of inputs and the stamps under which it still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// Digest over names, kinds and contents, in hex.
    pub digest: String,
    stamps: Vec<(PathBuf, Stamp)>,
    settled: bool,
}

impl Inputs {
    /// Looks at the inputs of a worktree; `before` saves reading contents when no stamp has changed.
    #[must_use]
    pub fn look(worktree: &Path, patterns: &[String], before: Option<&Self>) -> Self {
        match before {
            Some(known) if known.still_holds() => known.clone(),
            _ => Self::read(worktree, patterns),
        }
    }

    /// Whether no stat of anything looked at has changed since, by stats alone.
    #[must_use]
    pub fn still_holds(&self) -> bool {
        self.settled && self.stamps.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }

    fn read(worktree: &Path, patterns: &[String]) -> Self {
        let now = SystemTime::now();
        let mut found = Found::default();
        for pattern in patterns {
            if pattern.contains(['*', '?', '[', '{']) {
                let globs = GlobSetBuilder::new().add(glob(pattern)).build().unwrap_or_default();
                found.walk(worktree, &glob_root(worktree, pattern), &globs);
            } else {
                found.take(&worktree.join(pattern), worktree);
            }
        }
        found.paths.sort_by(|a, b| a.0.cmp(&b.0));
        found.paths.dedup_by(|a, b| a.0 == b.0);
        let mut hasher = Sha256::new();
        hasher.update([u8::from(found.truncated)]);
        for (path, _) in &found.paths {
            let name = path.strip_prefix(worktree).unwrap_or(path).as_os_str().as_encoded_bytes();
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name);
            hash_content(&mut hasher, path);
        }
        let settled = found.paths.iter().all(|(_, stamp)| stamp.settled(now));
        Self { digest: hex(&hasher.finalize()), stamps: found.paths, settled }
    }
}

/// The outputs of the list that are not there.
#[must_use]
pub fn missing<'a>(worktree: &Path, outputs: &'a [String]) -> Option<&'a str> {
    outputs.iter().find(|output| fs::symlink_metadata(worktree.join(output)).is_err()).map(String::as_str)
}

#[derive(Default)]
struct Found {
    paths: Vec<(PathBuf, Stamp)>,
    truncated: bool,
}

impl Found {
    fn push(&mut self, path: &Path) -> bool {
        if self.paths.len() >= ENTRIES_MAX {
            self.truncated = true;
            return false;
        }
        self.paths.push((path.to_owned(), Stamp::of(path)));
        true
    }

    /// One declared path; a directory stands for everything under it.
    fn take(&mut self, path: &Path, worktree: &Path) {
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
            let everything = GlobSetBuilder::new().add(glob("**")).build().unwrap_or_default();
            self.walk(worktree, path, &everything);
        } else {
            self.push(path);
        }
    }

    /// Every directory is stamped too, so that a file appearing is a change without walking again.
    fn walk(&mut self, worktree: &Path, dir: &Path, globs: &GlobSet) {
        if !self.push(dir) {
            return;
        }
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let kind = entry.file_type();
            if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
                if !matches!(entry.file_name().to_str(), Some(".git" | "node_modules" | ".venv" | "target")) {
                    self.walk(worktree, &path, globs);
                }
            } else if globs.is_match(path.strip_prefix(worktree).unwrap_or(&path)) {
                self.push(&path);
            }
        }
    }
}

/// The directory a glob can be limited to: its leading components without wildcards.
fn glob_root(worktree: &Path, pattern: &str) -> PathBuf {
    let plain = pattern.split('/').take_while(|part| !part.contains(['*', '?', '[', '{']));
    plain.fold(worktree.to_owned(), |path, part| path.join(part))
}

fn glob(pattern: &str) -> Glob {
    // Patterns are compiled when the repository's configuration is parsed; one that fails here matches nothing.
    Glob::new(pattern).unwrap_or_else(|_| Glob::new("").expect("an empty glob compiles"))
}

fn hash_content(hasher: &mut Sha256, path: &Path) {
    let kind = match fs::symlink_metadata(path) {
        Err(_) => b'-',
        Ok(meta) if meta.is_symlink() => b'l',
        Ok(meta) if meta.is_file() => b'f',
        Ok(meta) if meta.is_dir() => b'd',
        Ok(_) => b'?',
    };
    hasher.update([kind]);
    match kind {
        b'l' => {
            let target = fs::read_link(path).unwrap_or_default();
            hasher.update(target.as_os_str().as_encoded_bytes());
        }
        b'f' => match hash_file(path) {
            Ok(digest) => hasher.update(digest),
            Err(error) => hasher.update(error.kind().to_string().as_bytes()),
        },
        _ => {}
    }
}

fn hash_file(path: &Path) -> io::Result<[u8; 32]> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    #[expect(clippy::cast_possible_wrap, reason = "open flags are small bit sets")]
    let mut file: File = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Bytes as lowercase hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, remove_file, write};

    fn patterns(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn edits_deletions_and_new_files_change_the_digest_and_a_touch_does_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path();
        create_dir(root.join("sub")).expect("dir");
        write(root.join("a.lock"), "1").expect("write");
        write(root.join("sub/b.toml"), "1").expect("write");
        let wanted = patterns(&["a.lock", "absent", "**/*.toml"]);
        let first = Inputs::look(root, &wanted, None);
        write(root.join("a.lock"), "1").expect("rewrite with the same content");
        let touched = Inputs::look(root, &wanted, Some(&first));
        assert_eq!(first.digest, touched.digest);
        write(root.join("a.lock"), "2").expect("same length, other content");
        let edited = Inputs::look(root, &wanted, Some(&touched));
        assert_ne!(touched.digest, edited.digest);
        write(root.join("sub/c.toml"), "").expect("new file under a glob");
        let appeared = Inputs::look(root, &wanted, Some(&edited));
        assert_ne!(edited.digest, appeared.digest);
        write(root.join("absent"), "").expect("write");
        let there = Inputs::look(root, &wanted, Some(&appeared));
        assert_ne!(appeared.digest, there.digest);
        remove_file(root.join("a.lock")).expect("remove");
        assert_ne!(there.digest, Inputs::look(root, &wanted, Some(&there)).digest);
    }

    #[test]
    fn a_same_size_edit_right_after_a_look_is_seen() {
        let dir = tempfile::tempdir().expect("temp dir");
        for round in 0..200 {
            write(dir.path().join("f"), format!("{round:04}a")).expect("write");
            let before = Inputs::look(dir.path(), &patterns(&["f"]), None);
            write(dir.path().join("f"), format!("{round:04}b")).expect("write");
            assert_ne!(before.digest, Inputs::look(dir.path(), &patterns(&["f"]), Some(&before)).digest);
        }
    }

    #[test]
    fn a_pipe_or_a_link_among_the_inputs_neither_hangs_nor_leads_outside() {
        let dir = tempfile::tempdir().expect("temp dir");
        let outside = tempfile::NamedTempFile::new().expect("temp file");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .expect("fifo");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).expect("link");
        let wanted = patterns(&["pipe", "link"]);
        let before = Inputs::look(dir.path(), &wanted, None);
        write(outside.path(), "changed outside").expect("write");
        assert_eq!(before.digest, Inputs::look(dir.path(), &wanted, None).digest);
    }

    #[test]
    fn a_missing_output_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        create_dir(dir.path().join(".venv")).expect("dir");
        assert_eq!(missing(dir.path(), &patterns(&[".venv"])), None);
        assert_eq!(missing(dir.path(), &patterns(&[".venv", "node_modules"])), Some("node_modules"));
    }
}
