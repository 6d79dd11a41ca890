//! Finding what was planted in a repository's shared git directory: settings, hooks, other object stores, links. What of it
//! counts is decided by `model::planted`; what git is kept from, by `hardening`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::configuration::{Setting, Settings};
use super::files::{self, Links};
use super::refs::read_small;
use super::stamp::Stamp;
use super::{GitError, Repository};
use crate::model::planted::{Finding, Planted};

/// Attributes beyond this are not read.
const ATTRIBUTES_BYTES_MAX: u64 = 1 << 20;
/// What git writes to of the directory all worktrees share. A link there would have it write somewhere else.
const WRITTEN: [&str; 14] = [
    "HEAD",
    "packed-refs",
    "objects",
    "objects/info",
    "objects/pack",
    "refs",
    "refs/heads",
    "refs/remotes",
    "logs",
    "logs/HEAD",
    "logs/refs",
    "logs/refs/heads",
    "logs/refs/remotes",
    "worktrees",
];
/// Of these, everything that is directly in them.
const WRITTEN_BELOW: [&str; 5] = ["objects", "refs/heads", "refs/remotes", "logs/refs/heads", "logs/refs/remotes"];

/// The symbolic links that stand where git writes.
pub(super) fn links(common_dir: &Path) -> BTreeSet<PathBuf> {
    let written = WRITTEN.iter().map(|name| common_dir.join(name)).filter(|path| is_link(path));
    let below = WRITTEN_BELOW.iter().flat_map(|name| links_in(&common_dir.join(name)));
    written.chain(below).collect()
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}

fn links_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink())).map(|entry| entry.path()).collect()
}

impl Repository {
    /// Refuses to let git write where a link leads out of the repository that was not there when it was opened, or out of
    /// a worktree's own git directory, where there never is one. Blocks.
    pub(super) fn refuse_links(&self, git_dir: &Path) -> Result<(), GitError> {
        let mut found = links(self.common_dir()).into_iter().filter(|link| !self.own_links.contains(link));
        let of_worktree = || {
            let dirs = [git_dir.to_owned(), git_dir.join("logs"), git_dir.join("refs")];
            dirs.into_iter().filter(|_| git_dir != self.common_dir()).flat_map(|dir| links_in(&dir)).next()
        };
        match found.next().or_else(of_worktree) {
            None => Ok(()),
            Some(link) => Err(GitError::State(format!(
                "{} is a symbolic link, and git would write where it leads; take it away",
                link.display()
            ))),
        }
    }

    /// Everything in the repository's shared directory that could make git run a program or lead it elsewhere. Blocks.
    #[must_use]
    pub fn planted(&self) -> Planted {
        let common_dir = self.common_dir();
        let mut findings = Vec::new();
        let configuration = ["config", "config.worktree"].map(|name| common_dir.join(name));
        self.settings(configuration.into(), &mut findings);
        let admins = self.admin_dirs().unwrap_or_default();
        for admin in &admins {
            self.settings(vec![admin.join("config.worktree")], &mut findings);
            let bent =
                read_small(&admin.join("commondir")).is_ok_and(|to| to.is_none_or(|to| to.trim_end() != "../.."));
            let bent = bent.then(|| admin.join("commondir"));
            findings.extend(bent.into_iter().chain(links_in(admin)).map(|path| self.file(&path)));
        }
        let hooks = fs::read_dir(common_dir.join("hooks")).into_iter().flatten().flatten().map(|hook| hook.path());
        let is_hook = |path: &PathBuf| path.extension().is_none_or(|extension| extension != "sample");
        findings.extend(hooks.filter(is_hook).map(|path| self.file(&path)));
        let by_being_there = ["objects/info/alternates", "objects/info/http-alternates", "info/grafts", "commondir"];
        let there = by_being_there.iter().map(|name| common_dir.join(name)).filter(|path| path.exists());
        findings.extend(there.chain(links(common_dir)).map(|path| self.file(&path)));
        let replaces = fs::read_dir(common_dir.join("refs/replace")).is_ok_and(|mut refs| refs.next().is_some());
        findings.extend(replaces.then(|| self.file(&common_dir.join("refs/replace"))));
        let attributes = common_dir.join("info/attributes");
        let names_driver = files::read(&attributes, ATTRIBUTES_BYTES_MAX, Links::Refused).is_ok_and(|text| {
            let text = text.unwrap_or_default();
            ["filter=", "merge=", "diff="].iter().any(|word| String::from_utf8_lossy(&text).contains(word))
        });
        findings.extend(names_driver.then(|| self.file(&attributes)));
        Planted::of(findings)
    }

    fn settings(&self, files: Vec<PathBuf>, findings: &mut Vec<Finding>) {
        let first = files[0].clone();
        match Settings::read(files) {
            Ok(found) => findings.extend(found.settings.iter().map(|Setting { file, key, value }| Finding::Setting {
                file: self.called(&found.files[*file]),
                key: key.clone(),
                value: value.clone().unwrap_or_default(),
            })),
            // What cannot be read may have anything in it.
            Err(_) => findings.push(self.file(&first)),
        }
    }

    fn file(&self, path: &Path) -> Finding {
        Finding::File { name: self.called(path), version: format!("{:?}", Stamp::of(path)) }
    }

    fn called(&self, path: &Path) -> String {
        path.strip_prefix(self.common_dir()).unwrap_or(path).display().to_string()
    }
}
