//! The quick tier of the inventory: registry, HEADs, refs, and what follows from commits. Blocks for milliseconds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::repo::Repo;
use super::watching::Watched;
use crate::git::{Found, GitError, Repository};
use crate::model::ids::Oid;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::worktree::{CommitView, Distance, MergedBy, Upstream};

/// Directories of refs that are watched.
const REF_DIRS_MAX: usize = 2_000;

/// What follows from the commits of a worktree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commits {
    /// Its commit.
    pub head: Option<CommitView>,
    /// The base's commit.
    pub base_oid: Option<Oid>,
    /// How far they are apart.
    pub base: Option<Distance>,
    /// What its branch follows.
    pub upstream: Option<Upstream>,
}

/// Whether the base has what was committed on a branch, and of which commits that is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The branch's commit.
    pub head: Oid,
    /// The base's.
    pub base: Oid,
    /// How, if it has.
    pub by: Option<MergedBy>,
}

impl Merged {
    /// Whether it is said of these commits.
    #[must_use]
    pub fn is_of(&self, head: Option<&Oid>, base: Option<&Oid>) -> bool {
        head == Some(&self.head) && base == Some(&self.base)
    }
}

/// What a survey read.
#[derive(Debug)]
pub struct Survey {
    /// Of which worktrees; of all when `None`.
    pub of: Option<BTreeSet<String>>,
    /// Those of them that are there.
    pub rows: Vec<(Found, Commits)>,
    /// The full name of the base's ref.
    pub base_ref: String,
    /// Some directories are watched from now on only: what changed in them before was not told.
    pub watched_anew: bool,
}

/// Reads the registry and refs, of these worktrees or all; with `watch` it watches where they come from first, so that
/// no change falls in between. What is watched of worktrees that were `known` and are gone is let go.
pub fn survey(
    context: &Context,
    repo: &Repo,
    of: Option<BTreeSet<String>>,
    known: &[String],
    watch: bool,
) -> Result<Survey, Problem> {
    let git = repo.git()?;
    let fault =
        |error: GitError| Problem::new(ProblemCode::RepositoryUnusable, format!("repository {}: {error}", repo.name()));
    let mut watched_anew = false;
    if watch && of.is_none() {
        watched_anew |= watch_shared(context, &git);
    }
    // A base that is gone says so in its own words and leaves the rows without a distance.
    let base = git.base_oid().map_err(fault)?;
    let found = git.worktrees().map_err(fault)?;
    let names: BTreeSet<&str> = found.iter().map(|found| found.name.as_str()).collect();
    for gone in known.iter().filter(|known| !names.contains(known.as_str())) {
        context.watching.release(&Watched::Tree(repo.name().clone(), gone.clone()));
        context.watching.release(&Watched::Admin(repo.name().clone(), gone.clone()));
    }
    let wanted = found.into_iter().filter(|found| of.as_ref().is_none_or(|of| of.contains(&found.name)));
    let mut rows = Vec::new();
    for mut found in wanted {
        let commits = match commits_of(&git, &found, &base) {
            Ok(commits) => commits,
            Err(error) => {
                found.error.get_or_insert(error.to_string());
                Commits { base_oid: Some(base.clone()), ..Commits::default() }
            }
        };
        if watch && !found.main {
            let owner = Watched::Admin(repo.name().clone(), found.name.clone());
            watched_anew |= context.watching.watch(&owner, std::slice::from_ref(&found.git_dir)).unwrap_or(false);
        }
        rows.push((found, commits));
    }
    Ok(Survey { of, rows, base_ref: git.base_ref().to_owned(), watched_anew })
}

fn commits_of(git: &Repository, found: &Found, base: &Oid) -> Result<Commits, GitError> {
    let Some(head) = &found.head else { return Ok(Commits { base_oid: Some(base.clone()), ..Commits::default() }) };
    let upstream = match found.branch.as_deref().filter(|_| !found.detached) {
        Some(branch) => git.upstream(branch, head)?,
        None => None,
    };
    Ok(Commits {
        head: Some(git.commit_view(head)?),
        base: git.distance(head, base)?,
        base_oid: Some(base.clone()),
        upstream,
    })
}

/// Watches what all worktrees share. Without a watch the rows are as old as the last question.
fn watch_shared(context: &Context, git: &Repository) -> bool {
    let (common, name) = (git.common_dir(), git.name());
    let mut refs = Vec::new();
    for below in ["refs/heads", "refs/remotes"] {
        directories(&common.join(below), &mut refs);
    }
    let registry = common.join("worktrees");
    let registry = if registry.is_dir() { vec![registry] } else { Vec::new() };
    let mut anew = false;
    for (owner, dirs) in [
        (Watched::Common(name.clone()), vec![common.to_owned()]),
        (Watched::Registry(name.clone()), registry),
        (Watched::Refs(name.clone()), refs),
    ] {
        anew |= context.watching.watch(&owner, &dirs).unwrap_or(false);
    }
    anew
}

fn directories(dir: &Path, all: &mut Vec<PathBuf>) {
    if all.len() >= REF_DIRS_MAX {
        return;
    }
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    all.push(dir.to_owned());
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        directories(&entry.path(), all);
    }
}
