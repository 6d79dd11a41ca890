//! Worktrees as they are shown: rows, how fresh they are, whether one may be removed, and which are looked at next.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{Oid, RepoName, Slug};
use super::time::Timestamp;
use super::view::ClaimHolder;

/// How a work tree differs from its index and its commit, counted as `git status` counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// Paths whose staged content differs from the commit; a rename is one.
    pub staged: u64,
    /// Tracked paths that differ from what is staged.
    pub unstaged: u64,
    /// Paths git does not know; a directory of them is one.
    pub untracked: u64,
    /// Paths with an unresolved conflict.
    pub conflicted: u64,
}

impl Changes {
    /// Whether there is none.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// One path with changes, in `git status`' own letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileChange {
    /// Worktree-relative; bytes that are no UTF-8 are shown as U+FFFD.
    pub path: String,
    /// Where it was before a rename or copy.
    pub from: Option<String>,
    /// What is staged: `M`, `A`, `D`, `R`, `C`, `T`; `null` when nothing is. `U` or a letter of git's pair in a conflict.
    pub staged: Option<char>,
    /// What is not staged, in the same letters; `?` for a path git does not know.
    pub unstaged: Option<char>,
    /// Whether it is in conflict.
    pub conflicted: bool,
}

/// A commit, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommitView {
    /// Its id.
    pub oid: Oid,
    /// The first line of its message, at most 200 characters.
    pub subject: String,
    /// When its author made it.
    pub at: Timestamp,
    /// Its author's name.
    pub author: String,
}

/// How far two histories are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Distance {
    /// Commits here that are not there.
    pub ahead: u64,
    /// Commits there that are not here.
    pub behind: u64,
}

/// The branch a branch follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Upstream {
    /// Such as `origin/main`.
    pub name: String,
    /// Commits here that are not there; `null` when the upstream is gone.
    pub ahead: Option<u64>,
    /// Commits there that are not here; `null` when the upstream is gone.
    pub behind: Option<u64>,
}

/// How the base came to have what a branch brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MergedBy {
    /// Its commits are in the base's history.
    History,
    /// Its content is in the base, after a squash or a rebase.
    Content,
}

/// What can be said of a row, in one word; the first that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowState {
    /// It is registered, its directory is not there.
    Missing,
    /// The last look failed; what is shown is from before.
    Error,
    /// It was not looked at yet, or something changed since.
    Stale,
    /// It is locked against removal.
    Locked,
    /// It is on no branch.
    Detached,
    /// What is shown is so.
    Fresh,
}

/// How changes of a work tree are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchMode {
    /// The system tells.
    Watched,
    /// It is looked at again and again, while somebody wants to know.
    Polled,
    /// Nobody wants to know; it is looked at when somebody does.
    Idle,
}

/// One worktree of a repository: what git knows of it, what was found in it, and who works in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorktreeRow {
    /// The repository.
    pub repo: RepoName,
    /// What it is called in paths: git's name of it, `@main` for the main one.
    pub name: String,
    /// The todo it was made for, when Slugline made it.
    pub slug: Option<Slug>,
    /// Where it is.
    pub path: String,
    /// Whether it is the repository's main one.
    pub main: bool,
    /// Whether it is a bare repository, without files.
    pub bare: bool,
    /// The branch it is on; during a rebase the branch that is rebased. `null` when it is on none.
    pub branch: Option<String>,
    /// Whether HEAD is on no branch.
    pub detached: bool,
    /// Why it is locked, if it is.
    pub locked: Option<String>,
    /// Why git would forget it, if it would.
    pub prunable: Option<String>,
    /// Its commit; `null` before the first one.
    pub head: Option<CommitView>,
    /// How far it is from the base branch.
    pub base: Option<Distance>,
    /// The branch its branch follows.
    pub upstream: Option<Upstream>,
    /// What is not committed; `null` until it was looked at.
    pub changes: Option<Changes>,
    /// Whether the base has everything that was ever committed here; `null` until that is known, and while the branch is
    /// rebased. A branch nothing was committed on is not merged.
    pub merged: Option<bool>,
    /// How it is merged.
    pub merged_by: Option<MergedBy>,
    /// `merge`, `rebase`, `cherry-pick`, `revert` or `bisect`.
    pub operation_in_progress: Option<String>,
    /// In one word.
    pub state: RowState,
    /// When its files were last looked at.
    pub looked_at: Option<Timestamp>,
    /// How long ago that was, in milliseconds.
    pub age_ms: Option<u64>,
    /// What went wrong with the last look.
    pub error: Option<String>,
    /// How changes of its files are noticed.
    pub watch: WatchMode,
    /// Who holds its todo now.
    pub claim: Option<ClaimHolder>,
    /// Sessions of its todo that are not over, newest first.
    pub sessions: Vec<String>,
}

/// What decides whether a row looks as it did: everything but the passing of time, and who works in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFacts<'a> {
    /// Registered, directory gone.
    pub missing: bool,
    /// The last look failed.
    pub error: Option<&'a str>,
    /// Looked at since the last sign of change.
    pub fresh: bool,
    /// Locked.
    pub locked: bool,
    /// On no branch.
    pub detached: bool,
}

impl RowState {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 6] = [Self::Missing, Self::Error, Self::Stale, Self::Locked, Self::Detached, Self::Fresh];

    /// The name used in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Error => "error",
            Self::Stale => "stale",
            Self::Locked => "locked",
            Self::Detached => "detached",
            Self::Fresh => "fresh",
        }
    }

    /// The first that fits.
    #[must_use]
    pub fn of(facts: &RowFacts<'_>) -> Self {
        match facts {
            RowFacts { missing: true, .. } => Self::Missing,
            RowFacts { error: Some(_), .. } => Self::Error,
            RowFacts { fresh: false, .. } => Self::Stale,
            RowFacts { locked: true, .. } => Self::Locked,
            RowFacts { detached: true, .. } => Self::Detached,
            RowFacts { .. } => Self::Fresh,
        }
    }
}

/// Why a worktree is not removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Obstacle {
    /// Stable, for programs.
    pub code: ObstacleCode,
    /// What is the matter, and what to do about it.
    pub detail: String,
}

/// The kinds of obstacles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObstacleCode {
    /// It is the repository's main work tree.
    MainWorktree,
    /// Somebody locked it.
    Locked,
    /// A worker holds its todo.
    Claimed,
    /// Something runs in it.
    RunOn,
    /// There are changes that are not committed.
    LocalChanges,
    /// A merge, rebase or the like is under way.
    OperationInProgress,
    /// Commits that no branch or tag has.
    UnreachableCommits,
    /// It could not be looked at, so nothing can be said.
    NotLookedAt,
}

/// What is known of a worktree that somebody wants removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalFacts {
    /// The repository's main work tree.
    pub main: bool,
    /// Why it is locked.
    pub locked: Option<String>,
    /// Lane, worker and end of the claim on its todo.
    pub claimed_by: Option<String>,
    /// The operation that runs in it.
    pub run: Option<String>,
    /// Its directory is gone: nothing in it can be lost any more.
    pub missing: bool,
    /// What is not committed; an error when it could not be looked at just now.
    pub changes: Result<Changes, String>,
    /// A merge, rebase or the like.
    pub in_progress: Option<String>,
    /// Commits only its HEAD leads to; an error when that could not be found out.
    pub unreachable: Result<u64, String>,
}

/// Why a worktree is not removed; nothing when it may be. Whatever would be lost is a reason.
#[must_use]
pub fn obstacles(facts: &RemovalFacts) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut add = |code, detail: String| found.push(Obstacle { code, detail });
    if facts.main {
        add(ObstacleCode::MainWorktree, "it is the repository's main work tree".to_owned());
    }
    if let Some(reason) = &facts.locked {
        let reason = if reason.is_empty() { "no reason given" } else { reason };
        add(ObstacleCode::Locked, format!("it is locked ({reason}); `git worktree unlock` it first"));
    }
    if let Some(holder) = &facts.claimed_by {
        add(ObstacleCode::Claimed, format!("{holder} works in it; wait, or release the claim"));
    }
    if let Some(operation) = &facts.run {
        add(ObstacleCode::RunOn, format!("operation {operation} runs in it; wait, or cancel it"));
    }
    if let Some(what) = &facts.in_progress {
        add(ObstacleCode::OperationInProgress, format!("a {what} is under way; finish or abort it"));
    }
    match &facts.changes {
        _ if facts.missing => {}
        Ok(changes) if changes.is_clean() => {}
        Ok(changes) => {
            let Changes { staged, unstaged, untracked, conflicted } = changes;
            let detail = format!(
                "{staged} staged, {unstaged} unstaged, {untracked} untracked and {conflicted} conflicted paths would be lost; commit them or throw them away"
            );
            add(ObstacleCode::LocalChanges, detail);
        }
        Err(reason) => add(ObstacleCode::NotLookedAt, format!("its files could not be looked at: {reason}")),
    }
    match &facts.unreachable {
        Ok(0) => {}
        Ok(count) => add(
            ObstacleCode::UnreachableCommits,
            format!("{count} commits are on no branch or tag and would be lost; make a branch of them"),
        ),
        Err(reason) => add(ObstacleCode::NotLookedAt, format!("its commits could not be looked at: {reason}")),
    }
    found
}

/// What became, or would become, of a worktree that somebody wants removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removal {
    /// The repository.
    pub repo: RepoName,
    /// The worktree's name.
    pub name: String,
    /// Where it is or was.
    pub path: String,
    /// Whether it may be removed.
    pub safe: bool,
    /// Why not.
    pub reasons: Vec<Obstacle>,
    /// Ignored files and directories that go with it.
    pub ignored: Vec<String>,
    /// Whether this was only a question.
    pub dry_run: bool,
    /// Whether it is gone.
    pub removed: bool,
    /// Where it was moved to; it stays there for a while.
    pub trash: Option<String>,
    /// Its branch stays; this is its name.
    pub branch: Option<String>,
}

/// A worktree with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorktreeDetail {
    /// As in the list.
    #[serde(flatten)]
    pub row: WorktreeRow,
    /// What is not committed, path by path, at most a thousand.
    pub files: Vec<FileChange>,
    /// Whether there are more.
    pub files_cut: bool,
    /// Commits that are not on the base, newest first, at most a hundred.
    pub commits: Vec<CommitView>,
    /// What its files take on disk, in bytes, ignored ones included; only when asked for.
    pub disk_bytes: Option<u64>,
    /// Whether it could be removed, and why not.
    pub removal: Vec<Obstacle>,
}

/// Who wants a look at a worktree; the first goes first. Making one goes before all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Somebody waits for exactly this one.
    Asked,
    /// Somebody works in it.
    Active,
    /// It is shown to somebody.
    Background,
}

/// Polling may cost a fifth of a core in the long run, per repository: after a round of looks that took so long, the next
/// is due so many times later.
const REST_PER_COST: u64 = 4;
/// No scan of a polled worktree is due sooner, in milliseconds.
const POLL_MIN_MS: u64 = 7_000;
/// None is later, in milliseconds.
const POLL_MAX_MS: u64 = 600_000;
/// After a failed look the next is due so much later, doubling with each further failure, in milliseconds.
const RETRY_MIN_MS: u64 = 2_000;

/// When a polled worktree is looked at again, in milliseconds after its last look: what all worktrees of its repository
/// cost together decides, so a slow repository backs off as a whole.
#[must_use]
pub fn poll_after_ms(round_cost_ms: u64) -> u64 {
    (round_cost_ms.saturating_mul(REST_PER_COST)).clamp(POLL_MIN_MS, POLL_MAX_MS)
}

/// When a worktree whose look failed is looked at again, in milliseconds.
#[must_use]
pub fn retry_after_ms(failures: u32) -> u64 {
    RETRY_MIN_MS.saturating_mul(1 << failures.saturating_sub(1).min(12)).min(POLL_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RemovalFacts {
        RemovalFacts {
            main: false,
            locked: None,
            claimed_by: None,
            run: None,
            missing: false,
            changes: Ok(Changes::default()),
            in_progress: None,
            unreachable: Ok(0),
        }
    }

    fn codes(facts: &RemovalFacts) -> Vec<ObstacleCode> {
        obstacles(facts).iter().map(|obstacle| obstacle.code).collect()
    }

    #[test]
    fn only_a_worktree_nothing_of_which_would_be_lost_may_go() {
        assert_eq!(codes(&facts()), []);
        assert_eq!(codes(&RemovalFacts { main: true, ..facts() }), [ObstacleCode::MainWorktree]);
        assert_eq!(codes(&RemovalFacts { locked: Some(String::new()), ..facts() }), [ObstacleCode::Locked]);
        assert_eq!(codes(&RemovalFacts { claimed_by: Some("w".to_owned()), ..facts() }), [ObstacleCode::Claimed]);
        assert_eq!(codes(&RemovalFacts { run: Some("o".to_owned()), ..facts() }), [ObstacleCode::RunOn]);
        let dirty = |changes| RemovalFacts { changes: Ok(changes), ..facts() };
        for changes in [
            Changes { staged: 1, ..Changes::default() },
            Changes { unstaged: 1, ..Changes::default() },
            Changes { untracked: 1, ..Changes::default() },
            Changes { conflicted: 1, ..Changes::default() },
        ] {
            assert_eq!(codes(&dirty(changes)), [ObstacleCode::LocalChanges]);
        }
        let unknown = RemovalFacts { changes: Err("gone".to_owned()), unreachable: Err("gone".to_owned()), ..facts() };
        assert_eq!(codes(&unknown), [ObstacleCode::NotLookedAt, ObstacleCode::NotLookedAt]);
        assert_eq!(codes(&RemovalFacts { unreachable: Ok(2), ..facts() }), [ObstacleCode::UnreachableCommits]);
        let missing = RemovalFacts { missing: true, changes: Err("gone".to_owned()), ..facts() };
        assert_eq!(codes(&missing), [], "what is in no directory cannot be lost with it");
    }

    #[test]
    fn a_row_says_the_worst_of_itself() {
        let facts = RowFacts { missing: true, error: Some("x"), fresh: false, locked: true, detached: true };
        assert_eq!(RowState::of(&facts), RowState::Missing);
        let facts = RowFacts { missing: false, ..facts };
        assert_eq!(RowState::of(&facts), RowState::Error);
        let facts = RowFacts { error: None, ..facts };
        assert_eq!(RowState::of(&facts), RowState::Stale);
        let facts = RowFacts { fresh: true, ..facts };
        assert_eq!(RowState::of(&facts), RowState::Locked);
        let facts = RowFacts { locked: false, ..facts };
        assert_eq!(RowState::of(&facts), RowState::Detached);
        assert_eq!(RowState::of(&RowFacts { detached: false, ..facts }), RowState::Fresh);
    }

    #[test]
    fn a_slow_repository_is_polled_less_and_a_failing_worktree_is_left_in_peace() {
        assert_eq!(poll_after_ms(0), 7_000);
        assert_eq!(poll_after_ms(1_500), 7_000);
        assert_eq!(poll_after_ms(5_000), 20_000);
        assert_eq!(poll_after_ms(u64::MAX), 600_000);
        assert_eq!([1, 2, 3, 40].map(retry_after_ms), [2_000, 4_000, 8_000, 600_000]);
    }
}
