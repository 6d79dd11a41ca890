//! From what a probe saw to what has to be done: pure, small, table-tested.
//!
//! A run probes, plans, carries out the first phase that needs it and probes again, until no phase needs anything or
//! one cannot go on. So no decision is ever made on what an earlier phase might have changed.

use super::phase::{Decision, Phase, Reason};

/// What stands at the slug's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorktreeState {
    /// Nothing: neither branch nor directory nor registration.
    Absent,
    /// The branch exists, no worktree does.
    BranchOnly,
    /// The directory is ours, its registration is gone.
    Unlinked,
    /// It is registered, its directory is gone.
    Missing,
    /// We began to make it and never finished; nobody was ever given it.
    HalfMade,
    /// It is there, registered, on its branch.
    Present,
    /// Something that is not this slug's worktree stands there.
    Foreign,
}

impl WorktreeState {
    /// Whether its files have to be written.
    #[must_use]
    pub const fn is_to_be_made(self) -> bool {
        matches!(self, Self::Absent | Self::BranchOnly | Self::Missing | Self::HalfMade)
    }

    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Absent, Self::BranchOnly, Self::Unlinked, Self::Missing, Self::HalfMade, Self::Present, Self::Foreign];
}

/// Whether the worktree is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrepareState {
    /// The repository has no prepare command.
    Nothing,
    /// No finished prepare on record.
    Never,
    /// The last attempt failed or was cut short.
    LastAttemptFailed,
    /// Command or inputs differ from the last prepare.
    InputsChanged,
    /// A declared output is gone.
    OutputsMissing,
    /// As it was.
    Unchanged,
}

impl PrepareState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Never,
        Self::LastAttemptFailed,
        Self::InputsChanged,
        Self::OutputsMissing,
        Self::Unchanged,
    ];
}

/// How the branch stands to the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MainState {
    /// The repository switched syncing off.
    Disabled,
    /// The branch contains the base commit.
    UpToDate,
    /// It does not, and the work tree is clean.
    Behind,
    /// It does not, and the work tree has local changes or a git operation in progress.
    BehindWithLocalChanges,
    /// It does not, and this very pair of commits is known not to merge.
    KnownConflict,
}

impl MainState {
    /// All states.
    pub const ALL: [Self; 5] =
        [Self::Disabled, Self::UpToDate, Self::Behind, Self::BehindWithLocalChanges, Self::KnownConflict];
}

/// How the brief in the worktree stands to the one on the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TodoFilesState {
    /// The base has none.
    Absent,
    /// The one last brought in.
    Unchanged,
    /// The one last brought in, except files the worker has edited.
    KeptLocal,
    /// The base has another one.
    Changed,
}

impl TodoFilesState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Absent, Self::Unchanged, Self::KeptLocal, Self::Changed];
}

/// What the gates have said of the committed tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GatesState {
    /// The base defines no gates.
    None,
    /// Local changes: what is in the work tree is not what is committed.
    LocalChanges,
    /// All have passed on this tree in this environment.
    Passed,
    /// At least one has no passing verdict that may be used.
    Due,
}

impl GatesState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::None, Self::LocalChanges, Self::Passed, Self::Due];
}

/// How the caller stands to the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimState {
    /// Nobody's lease runs.
    Free,
    /// The caller's lease runs.
    Mine,
    /// Another worker's lease runs.
    Others,
}

impl ClaimState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Free, Self::Mine, Self::Others];
}

/// What a probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Whether the base moved since it was last read for this slug.
    pub base_moved: bool,
    /// What stands at the slug's place.
    pub worktree: WorktreeState,
    /// Whether it is prepared.
    pub prepare: PrepareState,
    /// How the branch stands to the base.
    pub main: MainState,
    /// How the brief stands to the base.
    pub todo: TodoFilesState,
    /// What the gates have said.
    pub gates: GatesState,
    /// How the caller stands to the claim.
    pub claim: ClaimState,
}

/// What the caller asked for beyond the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Wish {
    /// Prepare even if nothing changed.
    pub refresh: bool,
    /// The files of the worktree were written by this very run, so whatever a prepare had left there is gone.
    pub worktree_made: bool,
    /// Finished work has been judged in this very run: what the base brings from here on waits for the next one.
    pub judged: bool,
}

/// The phases a run has carried out already: none is carried out twice in one run, so a run always ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PhaseSet(u8);

impl PhaseSet {
    /// Adds a phase.
    pub fn insert(&mut self, phase: Phase) {
        self.0 |= 1 << phase as u8;
    }
    /// Whether the phase is in.
    #[must_use]
    pub fn contains(self, phase: Phase) -> bool {
        self.0 & (1 << phase as u8) != 0
    }
    /// Whether nothing is in.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What was decided about one phase, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseDecision {
    /// Which phase.
    pub phase: Phase,
    /// What was decided.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
}

/// A decision about every phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// In the order answers list them ([`Phase::ALL`]).
    pub phases: [PhaseDecision; 7],
}

/// What a run does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Carry out this phase.
    Run(Phase, Reason),
    /// Stop: this phase cannot go on.
    Fail(Phase, Reason),
    /// Everything is as it should be.
    Done,
}

impl Plan {
    /// The decision about one phase.
    #[must_use]
    pub fn of(&self, phase: Phase) -> PhaseDecision {
        self.phases[phase as usize]
    }

    /// The first thing to do that this run has not done yet, in [`Phase::RUN_ORDER`]. Who may not have the todo, and
    /// whose place is taken, is told before anything is begun, even a claim.
    #[must_use]
    pub fn next(&self, ran: PhaseSet) -> Step {
        for phase in [Phase::Dispatch, Phase::Worktree] {
            let PhaseDecision { decision, reason, .. } = self.of(phase);
            if decision == Decision::Fail {
                return Step::Fail(phase, reason);
            }
        }
        for phase in Phase::RUN_ORDER {
            let PhaseDecision { decision, reason, .. } = self.of(phase);
            match decision {
                Decision::Run if !ran.contains(phase) => return Step::Run(phase, reason),
                Decision::Fail if !ran.contains(phase) => return Step::Fail(phase, reason),
                Decision::Run | Decision::Fail | Decision::Skip | Decision::Join => {}
            }
        }
        Step::Done
    }
}

/// Decides about every phase.
#[must_use]
pub fn plan(probe: &Probe, wish: Wish) -> Plan {
    let decide = |phase| {
        let (decision, reason) = match phase {
            Phase::Resolve => resolve(probe),
            Phase::Dispatch => dispatch(probe),
            Phase::Worktree => worktree(probe),
            Phase::SyncMain => sync_main(probe, wish),
            Phase::SyncTodo => sync_todo(probe),
            Phase::Prepare => prepare(probe, wish),
            Phase::Gates => gates(probe),
        };
        PhaseDecision { phase, decision, reason }
    };
    Plan { phases: Phase::ALL.map(decide) }
}

use Decision::{Fail, Run, Skip};

/// Reading the base is part of the probe itself, so it is never left to do.
fn resolve(probe: &Probe) -> (Decision, Reason) {
    (Skip, if probe.base_moved { Reason::BaseMoved } else { Reason::BaseUnchanged })
}

fn dispatch(probe: &Probe) -> (Decision, Reason) {
    match probe.claim {
        ClaimState::Free => (Run, Reason::Granted),
        ClaimState::Mine => (Skip, Reason::Held),
        ClaimState::Others => (Fail, Reason::Held),
    }
}

fn worktree(probe: &Probe) -> (Decision, Reason) {
    match probe.worktree {
        WorktreeState::Absent => (Run, Reason::Created),
        WorktreeState::BranchOnly | WorktreeState::Unlinked => (Run, Reason::Attached),
        WorktreeState::Missing | WorktreeState::HalfMade => (Run, Reason::Recreated),
        WorktreeState::Present => (Skip, Reason::Present),
        WorktreeState::Foreign => (Fail, Reason::Present),
    }
}

fn sync_main(probe: &Probe, wish: Wish) -> (Decision, Reason) {
    match (probe.main, probe.claim) {
        (MainState::Disabled, _) => (Skip, Reason::Disabled),
        // It was when it was judged; to bring the base in now would make something else of it.
        _ if wish.judged => (Skip, Reason::UpToDate),
        (MainState::UpToDate, _) => (Skip, Reason::UpToDate),
        (_, ClaimState::Others) => (Skip, Reason::HeldByOther),
        (MainState::BehindWithLocalChanges, _) => (Skip, Reason::LocalChanges),
        (MainState::KnownConflict, _) => (Fail, Reason::Conflict),
        (MainState::Behind, _) => (Run, Reason::Behind),
    }
}

fn sync_todo(probe: &Probe) -> (Decision, Reason) {
    match (probe.todo, probe.claim) {
        (TodoFilesState::Absent, _) => (Skip, Reason::Absent),
        (TodoFilesState::KeptLocal, _) => (Skip, Reason::KeptLocal),
        (TodoFilesState::Changed, ClaimState::Free | ClaimState::Mine) => (Run, Reason::Changed),
        (TodoFilesState::Unchanged | TodoFilesState::Changed, _) => (Skip, Reason::Unchanged),
    }
}

fn prepare(probe: &Probe, wish: Wish) -> (Decision, Reason) {
    if probe.prepare == PrepareState::Nothing {
        return (Skip, Reason::NothingToPrepare);
    }
    match probe.prepare {
        _ if wish.worktree_made || probe.worktree.is_to_be_made() => (Run, Reason::WorktreeCreated),
        _ if wish.refresh => (Run, Reason::RefreshRequested),
        PrepareState::Never => (Run, Reason::NeverPrepared),
        PrepareState::LastAttemptFailed => (Run, Reason::LastAttemptFailed),
        PrepareState::InputsChanged => (Run, Reason::InputsChanged),
        PrepareState::OutputsMissing => (Run, Reason::OutputsMissing),
        PrepareState::Unchanged | PrepareState::Nothing => (Skip, Reason::InputsUnchanged),
    }
}

fn gates(probe: &Probe) -> (Decision, Reason) {
    match probe.gates {
        GatesState::None | GatesState::LocalChanges => (Skip, Reason::NotDue),
        GatesState::Passed => (Skip, Reason::SameTree),
        GatesState::Due => (Run, Reason::Due),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLED: Probe = Probe {
        base_moved: false,
        worktree: WorktreeState::Present,
        prepare: PrepareState::Unchanged,
        main: MainState::UpToDate,
        todo: TodoFilesState::Unchanged,
        gates: GatesState::Passed,
        claim: ClaimState::Mine,
    };

    fn every_probe() -> Vec<Probe> {
        let mut all = Vec::new();
        for base_moved in [false, true] {
            for worktree in WorktreeState::ALL {
                for prepare in PrepareState::ALL {
                    for main in MainState::ALL {
                        for todo in TodoFilesState::ALL {
                            for gates in GatesState::ALL {
                                for claim in ClaimState::ALL {
                                    all.push(Probe { base_moved, worktree, prepare, main, todo, gates, claim });
                                }
                            }
                        }
                    }
                }
            }
        }
        all
    }

    fn only(change: impl Fn(&mut Probe), phase: Phase) -> (Decision, Reason) {
        let mut probe = SETTLED;
        change(&mut probe);
        let decided = plan(&probe, Wish::default()).of(phase);
        (decided.decision, decided.reason)
    }

    #[test]
    fn a_settled_worktree_needs_nothing() {
        let plan = plan(&SETTLED, Wish::default());
        assert_eq!(plan.next(PhaseSet::default()), Step::Done);
        assert!(plan.phases.iter().all(|decided| decided.decision == Skip));
    }

    #[test]
    fn the_table_of_decisions() {
        use Phase as P;
        use Reason as R;
        let table: Vec<((Decision, Reason), (Decision, Reason))> = vec![
            (only(|p| p.base_moved = true, P::Resolve), (Skip, R::BaseMoved)),
            (only(|p| p.base_moved = false, P::Resolve), (Skip, R::BaseUnchanged)),
            (only(|p| p.claim = ClaimState::Free, P::Dispatch), (Run, R::Granted)),
            (only(|p| p.claim = ClaimState::Mine, P::Dispatch), (Skip, R::Held)),
            (only(|p| p.claim = ClaimState::Others, P::Dispatch), (Fail, R::Held)),
            (only(|p| p.worktree = WorktreeState::Absent, P::Worktree), (Run, R::Created)),
            (only(|p| p.worktree = WorktreeState::BranchOnly, P::Worktree), (Run, R::Attached)),
            (only(|p| p.worktree = WorktreeState::Unlinked, P::Worktree), (Run, R::Attached)),
            (only(|p| p.worktree = WorktreeState::Missing, P::Worktree), (Run, R::Recreated)),
            (only(|p| p.worktree = WorktreeState::HalfMade, P::Worktree), (Run, R::Recreated)),
            (only(|p| p.worktree = WorktreeState::Present, P::Worktree), (Skip, R::Present)),
            (only(|p| p.worktree = WorktreeState::Foreign, P::Worktree), (Fail, R::Present)),
            (only(|p| p.prepare = PrepareState::Nothing, P::Prepare), (Skip, R::NothingToPrepare)),
            (only(|p| p.prepare = PrepareState::Never, P::Prepare), (Run, R::NeverPrepared)),
            (only(|p| p.prepare = PrepareState::LastAttemptFailed, P::Prepare), (Run, R::LastAttemptFailed)),
            (only(|p| p.prepare = PrepareState::InputsChanged, P::Prepare), (Run, R::InputsChanged)),
            (only(|p| p.prepare = PrepareState::OutputsMissing, P::Prepare), (Run, R::OutputsMissing)),
            (only(|p| p.prepare = PrepareState::Unchanged, P::Prepare), (Skip, R::InputsUnchanged)),
            (only(|p| p.worktree = WorktreeState::Absent, P::Prepare), (Run, R::WorktreeCreated)),
            (only(|p| p.main = MainState::Disabled, P::SyncMain), (Skip, R::Disabled)),
            (only(|p| p.main = MainState::UpToDate, P::SyncMain), (Skip, R::UpToDate)),
            (only(|p| p.main = MainState::Behind, P::SyncMain), (Run, R::Behind)),
            (only(|p| p.main = MainState::BehindWithLocalChanges, P::SyncMain), (Skip, R::LocalChanges)),
            (only(|p| p.main = MainState::KnownConflict, P::SyncMain), (Fail, R::Conflict)),
            (only(|p| p.todo = TodoFilesState::Absent, P::SyncTodo), (Skip, R::Absent)),
            (only(|p| p.todo = TodoFilesState::Unchanged, P::SyncTodo), (Skip, R::Unchanged)),
            (only(|p| p.todo = TodoFilesState::KeptLocal, P::SyncTodo), (Skip, R::KeptLocal)),
            (only(|p| p.todo = TodoFilesState::Changed, P::SyncTodo), (Run, R::Changed)),
            (only(|p| p.gates = GatesState::None, P::Gates), (Skip, R::NotDue)),
            (only(|p| p.gates = GatesState::LocalChanges, P::Gates), (Skip, R::NotDue)),
            (only(|p| p.gates = GatesState::Passed, P::Gates), (Skip, R::SameTree)),
            (only(|p| p.gates = GatesState::Due, P::Gates), (Run, R::Due)),
        ];
        for (row, (got, wanted)) in table.into_iter().enumerate() {
            assert_eq!(got, wanted, "row {row}");
        }
    }

    #[test]
    fn a_worktree_made_in_this_run_is_prepared_whatever_was_marked() {
        for state in PrepareState::ALL {
            let probe = Probe { prepare: state, ..SETTLED };
            let decided = plan(&probe, Wish { worktree_made: true, ..Wish::default() }).of(Phase::Prepare);
            let wanted = if state == PrepareState::Nothing {
                (Skip, Reason::NothingToPrepare)
            } else {
                (Run, Reason::WorktreeCreated)
            };
            assert_eq!((decided.decision, decided.reason), wanted);
        }
    }

    #[test]
    fn refresh_prepares_a_settled_worktree_and_nothing_else() {
        let plan = plan(&SETTLED, Wish { refresh: true, ..Wish::default() });
        let running: Vec<Phase> =
            plan.phases.iter().filter(|decided| decided.decision == Run).map(|decided| decided.phase).collect();
        assert_eq!(running, [Phase::Prepare]);
        assert_eq!(plan.of(Phase::Prepare).reason, Reason::RefreshRequested);
    }

    #[test]
    fn every_probe_leads_to_reasons_of_the_closed_sets_and_to_an_end() {
        for probe in every_probe() {
            for refresh in [false, true] {
                let plan = plan(&probe, Wish { refresh, ..Wish::default() });
                for (index, decided) in plan.phases.iter().enumerate() {
                    assert_eq!(decided.phase, Phase::ALL[index]);
                    assert!(decided.phase.reasons().contains(&decided.reason), "{decided:?}");
                    assert_ne!(decided.decision, Decision::Join);
                }
                let mut ran = PhaseSet::default();
                for _ in 0..Phase::ALL.len() {
                    let Step::Run(phase, _) = plan.next(ran) else { break };
                    ran.insert(phase);
                }
                assert!(!matches!(plan.next(ran), Step::Run(..)), "{probe:?}");
            }
        }
    }

    #[test]
    fn nothing_is_touched_while_another_worker_holds_the_claim_or_something_foreign_stands_there() {
        for mut probe in every_probe() {
            probe.claim = ClaimState::Others;
            assert_eq!(
                plan(&probe, Wish { refresh: true, ..Wish::default() }).next(PhaseSet::default()),
                Step::Fail(Phase::Dispatch, Reason::Held)
            );
            probe.worktree = WorktreeState::Foreign;
            for claim in [ClaimState::Mine, ClaimState::Free] {
                probe.claim = claim;
                assert_eq!(
                    plan(&probe, Wish { refresh: true, ..Wish::default() }).next(PhaseSet::default()),
                    Step::Fail(Phase::Worktree, Reason::Present)
                );
            }
        }
    }

    #[test]
    fn the_base_is_never_merged_over_local_changes() {
        for mut probe in every_probe() {
            probe.main = MainState::BehindWithLocalChanges;
            for refresh in [false, true] {
                assert_eq!(plan(&probe, Wish { refresh, ..Wish::default() }).of(Phase::SyncMain).decision, Skip);
            }
        }
    }

    #[test]
    fn a_failed_prepare_is_never_known_good() {
        for mut probe in every_probe() {
            for state in [PrepareState::LastAttemptFailed, PrepareState::Never, PrepareState::OutputsMissing] {
                probe.prepare = state;
                assert_eq!(plan(&probe, Wish::default()).of(Phase::Prepare).decision, Run);
            }
        }
    }
}
