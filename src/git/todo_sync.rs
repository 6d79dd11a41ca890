//! The brief in the worktree and the one on the base, three ways by blob id, file by file: what the worker has not
//! touched follows the base, what it has stays.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::base::{BaseFile, BaseTodo};
use super::files;
use super::sync::blob_of;
use super::{Change, GitError, Repository};
use crate::model::ids::{Oid, Slug};
use crate::model::record::TodoMark;

/// A file of a brief beyond this is the worker's own affair.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TodoSyncOutcome {
    /// So many files were written or removed.
    Changed(usize),
    /// Nothing differed.
    Unchanged,
    /// The base changed these files, and so did the worker; the worker's were kept.
    KeptLocal(Vec<String>),
    /// There is no brief on the base and none of ours in the worktree.
    Absent,
}

/// What to do with one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileStep {
    /// It is as it should be.
    Nothing,
    /// Write the base's content.
    Write,
    /// The base has removed it.
    Remove,
    /// The worker has touched it.
    Keep,
}

/// Decides about one file: the blob last brought in, the base's now, the one in the worktree.
#[must_use]
pub fn decide_file(last: Option<&Oid>, now: Option<&Oid>, here: Option<&Oid>) -> FileStep {
    if here == now {
        FileStep::Nothing
    } else if here == last {
        if now.is_some() { FileStep::Write } else { FileStep::Remove }
    } else if now == last {
        // Only the worker changed it.
        FileStep::Nothing
    } else {
        FileStep::Keep
    }
}

/// Brings the brief of a slug in: `now` is the base's, `mark` what was brought in last. Blocks.
pub fn sync_todo(
    repo: &Repository,
    worktree: &Path,
    dir: &str,
    slug: &Slug,
    mark: Option<&TodoMark>,
    now: Option<&BaseTodo>,
) -> Result<(TodoMark, TodoSyncOutcome), GitError> {
    let files: &[BaseFile] = now.map_or(&[], |todo| &todo.files);
    let mut next = TodoMark { tree: now.map(|todo| todo.tree.clone()), ..TodoMark::default() };
    let last = |path: &str| mark.and_then(|mark| mark.files.get(path)).cloned();
    let head = repo.branch_oid(slug);
    let mut changed = 0;
    let names: BTreeSet<&str> = files
        .iter()
        .map(|file| file.path.as_str())
        .chain(mark.into_iter().flat_map(|mark| mark.files.keys().map(String::as_str)))
        .collect();
    for path in names {
        let base = files.iter().find(|file| file.path == path);
        // Without a mark, what the branch has committed counts as brought in.
        let before = match (last(path), mark, &head) {
            (None, None, Some(head)) => repo.blob_at(head, path)?,
            (last, ..) => last,
        };
        let Some(here) = here(worktree, dir, path)? else {
            next.kept_local.push(path.to_owned());
            continue;
        };
        let here = here.map(|content| blob_of(&content)).transpose()?;
        match decide_file(before.as_ref(), base.map(|file| &file.blob), here.as_ref()) {
            FileStep::Nothing => {}
            FileStep::Keep => next.kept_local.push(path.to_owned()),
            FileStep::Write => {
                if let Some(file) = base {
                    files::write_below(worktree, path, &repo.blob(&file.blob)?, file.executable)
                        .map_err(GitError::file(&worktree.join(path)))?;
                }
                changed += 1;
            }
            FileStep::Remove => {
                files::remove_below(worktree, path).map_err(GitError::file(&worktree.join(path)))?;
                changed += 1;
            }
        }
        if let Some(file) = base {
            next.files.insert(path.to_owned(), file.blob.clone());
        }
    }
    let outcome = if !next.kept_local.is_empty() {
        TodoSyncOutcome::KeptLocal(next.kept_local.clone())
    } else if changed > 0 {
        TodoSyncOutcome::Changed(changed)
    } else if now.is_none() {
        TodoSyncOutcome::Absent
    } else {
        TodoSyncOutcome::Unchanged
    };
    Ok((next, outcome))
}

/// The content in the worktree: `Some(None)` when the file is not there, `None` when something that is not a plain
/// file, or a path through a link, stands there: that is the worker's.
#[expect(clippy::option_option, reason = "not there and not ours are two things")]
fn here(worktree: &Path, dir: &str, path: &str) -> Result<Option<Option<Vec<u8>>>, GitError> {
    if !path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
        || path.split('/').any(|part| matches!(part, "" | "." | ".."))
    {
        return Ok(None);
    }
    match files::read_below(worktree, path, FILE_BYTES_MAX) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(GitError::file(&worktree.join(path))(error))
        }
        Err(_) => Ok(None),
    }
}

impl Repository {
    /// Whether a changed path is a brief file that we brought in and nobody has touched since. Blocks.
    #[must_use]
    pub fn looks_like_ours(&self, worktree: &Path, change: &Change, mark: &TodoMark) -> bool {
        let Some(brought) = mark.files.get(&change.path) else { return false };
        self.worker_file(worktree, &change.path).and_then(|content| blob_of(&content).ok()).as_ref() == Some(brought)
    }

    /// Puts brief files that only we changed back to what is committed, so that they are not in a merge's way. Returns
    /// the mark as it is then: those files count as what is committed. Blocks.
    pub fn restore_before_merge(&self, worktree: &Path, head: &Oid, mark: &TodoMark) -> Result<TodoMark, GitError> {
        let mut next = mark.clone();
        for change in self.local_changes(worktree)? {
            if !self.looks_like_ours(worktree, &change, mark) {
                continue;
            }
            self.restore(worktree, head, &change.path)?;
            // The base is looked at again after the merge.
            next.tree = None;
            match self.blob_at(head, &change.path)? {
                Some(blob) => next.files.insert(change.path, blob),
                None => next.files.remove(&change.path),
            };
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_file_decisions() {
        let oid = |digit: &str| Oid::parse(&digit.repeat(40)).expect("oid");
        let (a, b, c) = (oid("a"), oid("b"), oid("c"));
        let all = [None, Some(&a), Some(&b), Some(&c)];
        for last in all {
            for now in all {
                for here in all {
                    let step = decide_file(last, now, here);
                    let touched = here != last;
                    match step {
                        FileStep::Write => assert!(!touched && now.is_some() && now != here),
                        FileStep::Remove => assert!(!touched && now.is_none() && here.is_some()),
                        FileStep::Keep => assert!(touched && now != last && now != here),
                        FileStep::Nothing => assert!(now == here || (touched && now == last)),
                    }
                }
            }
        }
    }
}
