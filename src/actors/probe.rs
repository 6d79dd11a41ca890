//! The cheap look: what is true of a slug now, from stats and refs alone. No subprocess and no write; contents are
//! read only where a stat has changed, the work tree is gone through only where a decision hangs on it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::inputs::{self, Inputs};
use super::ledger::Ledger;
use super::repo::{Base, Repo};
use crate::git::{Change, ForeignReason, GitError, Place, Seen};
use crate::model::ids::{Oid, Slug, TodoKey};
use crate::model::phase::Phase;
use crate::model::plan::{ClaimState, GatesState, MainState, PrepareState, Probe, TodoFilesState, WorktreeState};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::record::{MarkState, SlugRecord, TodoMark, VerdictKey};
use crate::model::repo_config::{PrepareConfig, SyncMode};
use crate::model::time::Timestamp;

/// A look through the work tree is good for this long where only "leave it alone" hangs on it. Before anything is
/// changed, it is gone through again.
pub const SCAN_GOOD_FOR: Duration = Duration::from_secs(2);

/// When the work tree was last gone through, and what was found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Wall time, for answers.
    pub at: Timestamp,
    /// The same in a clock that never steps.
    pub taken: Instant,
    /// Whether there were local changes, our own brief files left out.
    pub dirty: bool,
}

impl Scan {
    /// A scan that is as good as done: what was just made is clean.
    #[must_use]
    pub fn fresh(at: Timestamp, dirty: bool) -> Self {
        Self { at, taken: Instant::now(), dirty }
    }

    /// Whether it is too old to go by.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.taken.elapsed() > SCAN_GOOD_FOR
    }
}

/// What is remembered of a slug between looks. All of it can be built again from the ledger and the disk.
#[derive(Default)]
pub struct Memory {
    /// What the ledger says; `None` until it was asked.
    pub record: Option<SlugRecord>,
    /// Verdicts asked for: whether the newest one for the key passed; absent ones are `false`.
    pub verdicts: HashMap<VerdictKey, bool>,
    /// The inputs of prepare and the stats under which their digest holds.
    pub inputs: Option<Inputs>,
    /// The last look through the work tree.
    pub scan: Option<Scan>,
    /// The base the last look was against.
    pub base: Option<Oid>,
    /// The worktree as it last stood, and the stats under which it still does.
    seen: Option<Seen>,
    /// Tree of a commit.
    tree: Option<(Oid, Oid)>,
    /// Whether a head contains a base.
    contains: Option<(Oid, Oid, bool)>,
}

impl Memory {
    /// The record, which every look has loaded before.
    #[must_use]
    pub fn record(&self) -> SlugRecord {
        self.record.clone().unwrap_or_default()
    }

    /// The record for writing.
    pub fn record_mut(&mut self) -> &mut SlugRecord {
        self.record.get_or_insert_default()
    }
}

/// What a look found.
pub struct Look {
    /// The facts a plan is made from; who holds the claim is filled in by the caller.
    pub probe: Probe,
    /// What the base says.
    pub base: Arc<Base>,
    /// The commit of the slug's branch.
    pub head: Option<Oid>,
    /// What stands at the slug's place, when it is not ours.
    pub foreign: Option<ForeignReason>,
    /// Verdicts the plan hangs on: gate index and key.
    pub gate_keys: Vec<VerdictKey>,
    /// How long the look took for each phase, in the order of [`Phase::ALL`].
    pub took: [Duration; 7],
}

/// The environment gates run in, as far as a verdict depends on it.
#[derive(Debug, Clone)]
pub struct GateEnvironment {
    /// Digest of the variables passed and the platform.
    pub digest: String,
}

impl GateEnvironment {
    /// Of the variables commands get on this machine.
    #[must_use]
    pub fn of(variables: &[(std::ffi::OsString, std::ffi::OsString)]) -> Self {
        use sha2::Digest as _;
        let mut hasher = sha2::Sha256::new();
        for part in [std::env::consts::OS, std::env::consts::ARCH] {
            hasher.update(part);
        }
        for (name, value) in variables {
            for part in [name, value] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part.as_encoded_bytes());
            }
        }
        Self { digest: inputs::hex(&hasher.finalize()) }
    }

    /// The environment on top of one prepare.
    fn on(&self, record: &SlugRecord) -> String {
        let prepared = record.prepare.as_ref().map_or("", |mark| mark.inputs.as_str());
        format!("{}:{prepared}", self.digest)
    }
}

/// Looks at a slug: loads what the ledger remembers if need be, then stats and refs on a thread that may block. The
/// look is against the base given, or against what the base is now.
pub async fn look(
    repo: &Arc<Repo>,
    todo: &TodoKey,
    ledger: &Ledger,
    environment: &Arc<GateEnvironment>,
    mut memory: Box<Memory>,
    base: Option<Arc<Base>>,
    now: Timestamp,
) -> (Box<Memory>, Result<Look, Problem>) {
    if memory.record.is_none() {
        match load(todo, ledger).await {
            Ok(record) => memory.record = Some(record),
            Err(problem) => return (memory, Err(problem)),
        }
    }
    let (repo, slug, environment) = (repo.clone(), todo.slug.clone(), environment.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let found = look_now(&repo, &slug, &environment, &mut memory, base, now);
        (memory, found)
    });
    match looked.await {
        Ok((memory, Ok(found))) => ask_for_verdicts(ledger, memory, found).await,
        Ok((memory, Err(problem))) => (memory, Err(problem)),
        Err(error) => {
            let problem = Problem::new(ProblemCode::Internal, format!("looking at {todo} failed: {error}"));
            (Box::default(), Err(problem))
        }
    }
}

/// A look from memory alone, on this thread; `None` when the ledger has to be asked for a verdict first. Blocks.
pub fn look_here(
    repo: &Repo,
    slug: &Slug,
    environment: &GateEnvironment,
    memory: &mut Memory,
    now: Timestamp,
) -> Option<Result<Look, Problem>> {
    let found = look_now(repo, slug, environment, memory, None, now);
    let asks = |found: &Look| found.gate_keys.iter().any(|key| !memory.verdicts.contains_key(key));
    (!found.as_ref().is_ok_and(asks)).then_some(found)
}

async fn load(todo: &TodoKey, ledger: &Ledger) -> Result<SlugRecord, Problem> {
    ledger.store()?.slug(todo).await.map_err(|error| ledger.note(&error))
}

/// Verdicts that are not in memory are asked for once; a key without a verdict is remembered as not passed.
async fn ask_for_verdicts(
    ledger: &Ledger,
    mut memory: Box<Memory>,
    mut found: Look,
) -> (Box<Memory>, Result<Look, Problem>) {
    let unknown: Vec<VerdictKey> =
        found.gate_keys.iter().filter(|key| !memory.verdicts.contains_key(*key)).cloned().collect();
    if unknown.is_empty() {
        return (memory, Ok(found));
    }
    let store = match ledger.store() {
        Ok(store) => store,
        Err(problem) => return (memory, Err(problem)),
    };
    match store.verdicts_for(&unknown).await {
        Ok(verdicts) => {
            memory.verdicts.extend(unknown.into_iter().map(|key| (key, false)));
            memory.verdicts.extend(verdicts.into_iter().map(|verdict| (verdict.key, verdict.passed)));
            if found.probe.gates == GatesState::Due && all_passed(&memory, &found) {
                found.probe.gates = GatesState::Passed;
            }
            (memory, Ok(found))
        }
        Err(error) => {
            let problem = ledger.note(&error);
            (memory, Err(problem))
        }
    }
}

fn all_passed(memory: &Memory, found: &Look) -> bool {
    found.base.config.reuse_passed_gates
        && found.gate_keys.iter().all(|key| memory.verdicts.get(key).copied().unwrap_or(false))
}

fn look_now(
    repo: &Repo,
    slug: &Slug,
    environment: &GateEnvironment,
    memory: &mut Memory,
    base: Option<Arc<Base>>,
    now: Timestamp,
) -> Result<Look, Problem> {
    let begun = Instant::now();
    let base = base.map_or_else(|| repo.base(), Ok)?;
    let mut lap = Lap { took: [Duration::ZERO; 7], since: begun };
    lap.end(Phase::Resolve);
    let git = repo.git()?;
    let path = repo.worktree_path(slug);
    let base_moved = memory.base.as_ref().is_some_and(|known| *known != base.oid);
    memory.base = Some(base.oid.clone());
    let place = git.glance_again(&path, slug, &mut memory.seen).map_err(|error| unreadable(&path, &error))?;
    let (worktree, head, foreign) = worktree_state(place, memory);
    let mut found = Look {
        probe: Probe {
            base_moved,
            worktree,
            prepare: PrepareState::Never,
            main: MainState::UpToDate,
            todo: TodoFilesState::Unchanged,
            gates: GatesState::None,
            claim: ClaimState::Free,
        },
        base,
        head: head.as_ref().map(|(oid, _)| oid.clone()),
        foreign,
        gate_keys: Vec::new(),
        took: lap.took,
    };
    lap.end(Phase::Worktree);
    found.probe.prepare = prepare_state(&path, &found, memory);
    lap.end(Phase::Prepare);
    if let Some((head, busy)) = head.filter(|_| worktree == WorktreeState::Present) {
        let mut eye = Eye { git: &git, path: &path, now, busy };
        found.probe.main = eye.main_state(&head, &found.base, memory)?;
        lap.end(Phase::SyncMain);
        found.probe.todo = todo_state(slug, &found.base, memory);
        lap.end(Phase::SyncTodo);
        found.probe.gates = eye.gates_state(&head, environment, &mut found, memory)?;
        lap.end(Phase::Gates);
    }
    found.took = lap.took;
    Ok(found)
}

/// A stopwatch that charges what passed to one phase after the other.
struct Lap {
    took: [Duration; 7],
    since: Instant,
}

impl Lap {
    fn end(&mut self, phase: Phase) {
        let now = Instant::now();
        self.took[phase as usize] = now - self.since;
        self.since = now;
    }
}

/// Whatever keeps a look from seeing, it has a name.
fn unreadable(path: &Path, error: &GitError) -> Problem {
    let mut problem = error.problem(&path.display().to_string());
    if problem.code == ProblemCode::Internal {
        problem.code = ProblemCode::RepositoryUnusable;
    }
    problem
}

/// State, head with whether a git operation is in progress, and what is foreign about it.
type Standing = (WorktreeState, Option<(Oid, bool)>, Option<ForeignReason>);

fn worktree_state(place: Place, memory: &Memory) -> Standing {
    let half_made = memory
        .record
        .as_ref()
        .and_then(|record| record.worktree.as_ref())
        .is_some_and(|mark| mark.state != MarkState::Done);
    match place {
        Place::Absent { branch: None } => (WorktreeState::Absent, None, None),
        Place::Absent { branch: Some(_) } => (WorktreeState::BranchOnly, None, None),
        Place::Unfinished => (WorktreeState::HalfMade, None, None),
        Place::Missing
        | Place::Unlinked
        | Place::Present { .. }
        | Place::Foreign(ForeignReason::PlainDirectory | ForeignReason::LostLink(_))
            if half_made =>
        {
            (WorktreeState::HalfMade, None, None)
        }
        Place::Missing => (WorktreeState::Missing, None, None),
        Place::Unlinked => (WorktreeState::Unlinked, None, None),
        Place::Present { head, in_progress } => (WorktreeState::Present, Some((head, in_progress.is_some())), None),
        Place::Foreign(reason) => (WorktreeState::Foreign, None, Some(reason)),
    }
}

/// The outputs that have to be there: declared ones, and those a recognised prepare was seen to leave.
fn outputs<'a>(config: &'a PrepareConfig, left: &'a [String]) -> &'a [String] {
    if config.outputs.is_empty() { left } else { &config.outputs }
}

fn prepare_state(path: &Path, found: &Look, memory: &mut Memory) -> PrepareState {
    let Some(config) = &found.base.prepare else { return PrepareState::Nothing };
    let Some(mark) = memory.record.as_ref().and_then(|record| record.prepare.clone()) else {
        return PrepareState::Never;
    };
    if mark.state != MarkState::Done {
        return PrepareState::LastAttemptFailed;
    }
    if found.probe.worktree != WorktreeState::Present {
        return PrepareState::Never;
    }
    let inputs = Inputs::look(path, &config.inputs, memory.inputs.as_ref());
    let same = inputs.digest == mark.inputs && config.digest() == mark.definition;
    memory.inputs = Some(inputs);
    if !same {
        PrepareState::InputsChanged
    } else if inputs::missing(path, outputs(config, &mark.outputs)).is_some() {
        PrepareState::OutputsMissing
    } else {
        PrepareState::Unchanged
    }
}

fn todo_state(slug: &Slug, base: &Base, memory: &Memory) -> TodoFilesState {
    let Some(brief) = base.briefs.get(slug) else {
        let had =
            memory.record.as_ref().and_then(|record| record.todo.as_ref()).is_some_and(|mark| mark.tree.is_some());
        return if had { TodoFilesState::Changed } else { TodoFilesState::Absent };
    };
    match memory.record.as_ref().and_then(|record| record.todo.as_ref()) {
        Some(mark) if mark.tree.as_ref() == Some(&brief.tree) => {
            if mark.kept_local.is_empty() {
                TodoFilesState::Unchanged
            } else {
                TodoFilesState::KeptLocal
            }
        }
        Some(_) | None => TodoFilesState::Changed,
    }
}

/// Looks that need git objects or the work tree.
struct Eye<'a> {
    git: &'a crate::git::Repository,
    path: &'a Path,
    now: Timestamp,
    busy: bool,
}

impl Eye<'_> {
    fn main_state(&mut self, head: &Oid, base: &Base, memory: &mut Memory) -> Result<MainState, Problem> {
        if base.config.sync_main == SyncMode::Off {
            return Ok(MainState::Disabled);
        }
        let contains = match &memory.contains {
            Some((of, what, contains)) if of == head && *what == base.oid => *contains,
            _ => {
                let contains = self.git.contains(head, &base.oid).map_err(|error| unreadable(self.path, &error))?;
                memory.contains = Some((head.clone(), base.oid.clone(), contains));
                contains
            }
        };
        let record = memory.record();
        if contains && record.sync.is_none() {
            return Ok(MainState::UpToDate);
        }
        // A merge of ours that was cut short is undone by the phase itself before anything else.
        if record.sync.is_some() {
            return Ok(MainState::Behind);
        }
        if record.conflict.is_some_and(|known| known.head == *head && known.base == base.oid) {
            return Ok(MainState::KnownConflict);
        }
        let dirty = self.busy || self.scan(memory)?;
        Ok(if dirty { MainState::BehindWithLocalChanges } else { MainState::Behind })
    }

    fn gates_state(
        &mut self,
        head: &Oid,
        environment: &GateEnvironment,
        found: &mut Look,
        memory: &mut Memory,
    ) -> Result<GatesState, Problem> {
        if found.base.config.gates.is_empty() {
            return Ok(GatesState::None);
        }
        let tree = match &memory.tree {
            Some((of, tree)) if of == head => tree.clone(),
            _ => {
                let tree = self.git.tree_of_commit(head).map_err(|error| unreadable(self.path, &error))?;
                memory.tree = Some((head.clone(), tree.clone()));
                tree
            }
        };
        let on = environment.on(&memory.record());
        let key = |gate: &crate::model::repo_config::GateConfig| VerdictKey {
            tree: tree.clone(),
            definition: gate.digest(),
            environment: on.clone(),
        };
        found.gate_keys = found.base.config.gates.iter().map(key).collect();
        if all_passed(memory, found) {
            return Ok(GatesState::Passed);
        }
        let dirty = self.busy || self.scan(memory)?;
        Ok(if dirty { GatesState::LocalChanges } else { GatesState::Due })
    }

    /// Whether the work tree has local changes: as last seen when that is recent and was "yes", else by going through it.
    fn scan(&self, memory: &mut Memory) -> Result<bool, Problem> {
        if let Some(scan) = memory.scan.as_ref().filter(|scan| scan.dirty && !scan.is_old()) {
            return Ok(scan.dirty);
        }
        let mark = memory.record.as_ref().and_then(|record| record.todo.as_ref());
        let changes = local_changes(self.git, self.path, mark)?;
        memory.scan = Some(Scan::fresh(self.now, !changes.is_empty()));
        Ok(!changes.is_empty())
    }
}

/// The paths with local changes, those left out that we brought in ourselves and nobody touched. Blocks.
pub fn local_changes(
    git: &crate::git::Repository,
    path: &Path,
    mark: Option<&TodoMark>,
) -> Result<Vec<Change>, Problem> {
    let changes = git.local_changes(path).map_err(|error| unreadable(path, &error))?;
    Ok(changes.into_iter().filter(|change| !mark.is_some_and(|mark| git.looks_like_ours(path, change, mark))).collect())
}
