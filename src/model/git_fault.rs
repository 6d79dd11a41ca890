//! What it means that git failed: by what it, the library or the system said of it; and of a sync, by what it left.

use super::problem::ProblemCode;

/// Why git, or what reads and writes beside it, did not do what it should, as far as its words say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitFault {
    /// The disk takes nothing more, or nothing at all.
    Disk,
    /// Another git holds a lock, or was quicker.
    Locked,
    /// Something that is no file stands where it reads one.
    NoFile,
    /// Objects of the repository are not there or cannot be read.
    Damaged,
    /// Something else.
    Other,
}

/// What is said of each, in words of git, of the library and of the system; the first that fits counts. git says of a full
/// disk that it cannot make a lock, and of a file it cannot write whole not why.
const WORDS: [(GitFault, &[&str]); 4] = [
    (
        GitFault::Disk,
        &[
            "No space left on device",
            "Disk quota exceeded",
            "Read-only file system",
            "Input/output error",
            "unable to write file",
            "rite new index file",
        ],
    ),
    (
        GitFault::Locked,
        &[
            "could not lock",
            "Unable to create",
            ".lock': File exists",
            "cannot lock ref",
            "Another git process",
            "nable to write index",
            "failed to lock file",
        ],
    ),
    (GitFault::NoFile, &["it is a pipe", "not a regular file"]),
    (
        GitFault::Damaged,
        &[
            "object not found",
            "missing object",
            "missing blob",
            "missing tree",
            "bad object",
            "invalid object",
            "bad tree object",
            "unable to read tree",
            "unable to read sha1 file",
            "unable to read blob",
            "unable to parse object",
            "could not parse",
            "failed to unpack tree object",
            "failed to read object",
            "can not be successfully peeled",
            "failed to parse loose object",
            "corrupt",
        ],
    ),
];

impl GitFault {
    /// What was said means.
    #[must_use]
    pub fn of(said: &str) -> Self {
        let fits = |words: &[&str]| words.iter().any(|word| said.contains(word));
        WORDS.iter().find(|(_, words)| fits(words)).map_or(Self::Other, |(fault, _)| *fault)
    }

    /// The problem clients are told.
    #[must_use]
    pub const fn code(self) -> ProblemCode {
        match self {
            Self::Disk => ProblemCode::StoreUnavailable,
            Self::Locked => ProblemCode::LockTimeout,
            Self::NoFile | Self::Damaged => ProblemCode::RepositoryUnusable,
            Self::Other => ProblemCode::Internal,
        }
    }

    /// What can be done about it; nothing when that is not known.
    #[must_use]
    pub const fn way_out(self) -> Option<&'static str> {
        match self {
            Self::Disk => Some("make room there, or make it writable, and ask again"),
            Self::Locked => Some(
                "ask again when that git is done; a lock that a dead git left is taken away once it is a minute old and nobody's",
            ),
            Self::NoFile => Some("take it away, and ask again"),
            Self::Damaged => Some(
                "an object of the repository is missing or damaged: `git fsck` names it; bring it back from a clone or a remote, then ask again",
            ),
            Self::Other => None,
        }
    }
}

/// Where the branch is after a sync that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Branch {
    /// Where it was before.
    WhereItWas,
    /// Somewhere else, and it has the base.
    WithTheBase,
    /// Somewhere else without it: somebody committed meanwhile, or has begun something of their own there.
    Elsewhere,
}

/// What a sync that failed left, after it was called off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The merge or rebase is still under way.
    pub under_way: bool,
    /// Where the branch is.
    pub branch: Branch,
    /// Files were in conflict before it was called off.
    pub conflicts: bool,
}

/// What a sync that failed has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It could not be called off yet.
    Unfinished,
    /// All of it was done; what failed came after.
    Synced,
    /// Base and branch do not merge, and all is as it was.
    Conflict,
    /// All is as it was.
    Undone,
    /// The branch is somebody else's doing: nothing is undone any more.
    Overtaken,
}

/// Whatever a git that failed said, what it left says what became of it: a try that got half way is not told from one that
/// did nothing by its words.
#[must_use]
pub const fn settlement(left: Left) -> Settlement {
    match (left.under_way, left.branch) {
        (true, _) => Settlement::Unfinished,
        (false, Branch::WithTheBase) => Settlement::Synced,
        (false, Branch::Elsewhere) => Settlement::Overtaken,
        (false, Branch::WhereItWas) if left.conflicts => Settlement::Conflict,
        (false, Branch::WhereItWas) => Settlement::Undone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_is_told_as_what_it_means() {
        use GitFault::{Damaged, Disk, Locked, NoFile, Other};
        for (said, fault) in [
            ("fatal: Unable to create '/r/.git/index.lock': File exists.", Locked),
            ("fatal: Unable to create '/r/.git/index.lock': No space left on device", Disk),
            ("fatal: update_ref failed for ref 'HEAD': cannot lock ref 'HEAD': is at a but expected b", Locked),
            ("error: could not lock config file .git/config: File exists", Locked),
            ("error: Unable to write index.", Locked),
            ("failed to lock file '/r/.git/worktrees/fix/index.lock' for writing: ", Locked),
            ("error: unable to write file README.md", Disk),
            ("fatal: unable to write new index file", Disk),
            ("error: Could not write new index file.", Disk),
            ("/d/todos/fix.md: No space left on device (os error 28)", Disk),
            ("/d/todos: Read-only file system (os error 30)", Disk),
            ("/d/fix/.gitignore: it is a pipe, and git reads a file of that name", NoFile),
            ("/r/.git/info/exclude: not a regular file", NoFile),
            ("fatal: unable to read tree (4b825dc642cb6eb9a060e54bf8d69288fbee4904)", Damaged),
            ("error: unable to read sha1 file of README.md (1269488f7fb1f4b56a8c0e5eb48cecbfadfa9219)", Damaged),
            ("object not found - no match for id (4b825dc642cb6eb9a060e54bf8d69288fbee4904)", Damaged),
            ("fatal: There is no merge to abort (MERGE_HEAD missing).", Other),
            ("", Other),
        ] {
            assert_eq!(GitFault::of(said), fault, "{said}");
            assert_eq!(fault.way_out().is_none(), fault.code() == ProblemCode::Internal);
        }
    }

    #[test]
    fn the_table_of_what_a_sync_that_failed_has_come_to() {
        for under_way in [false, true] {
            for branch in [Branch::WhereItWas, Branch::WithTheBase, Branch::Elsewhere] {
                for conflicts in [false, true] {
                    let came_to = settlement(Left { under_way, branch, conflicts });
                    let as_it_was = !under_way && branch == Branch::WhereItWas;
                    match came_to {
                        Settlement::Unfinished => assert!(under_way),
                        Settlement::Synced => assert!(!under_way && branch == Branch::WithTheBase),
                        Settlement::Overtaken => assert!(!under_way && branch == Branch::Elsewhere),
                        Settlement::Conflict => assert!(as_it_was && conflicts),
                        Settlement::Undone => assert!(as_it_was && !conflicts),
                    }
                }
            }
        }
    }
}
