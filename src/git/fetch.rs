//! Bringing commits from a remote: the base branch alone, into its tracking branch, and nothing else.

use super::command::{self, Exec};
use super::{GitError, Repository};

impl Repository {
    /// Fetches the base branch of `remote`. Nothing that is checked out moves, no tag comes along, nothing is pruned, and
    /// nobody is asked for a password. Submodules are left alone.
    pub async fn fetch(&self, exec: &impl Exec, remote: &str) -> Result<(), GitError> {
        if remote.is_empty() || remote.starts_with('-') {
            return Err(GitError::State(format!("{remote:?} is no name of a remote")));
        }
        let base = self.base_branch();
        let refspec = format!("+refs/heads/{base}:refs/remotes/{remote}/{base}");
        let args = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-prune",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--upload-pack=git-upload-pack",
            remote,
            &refspec,
        ];
        command::run(self, exec, self.common_dir(), "fetch", &args).await
    }
}
