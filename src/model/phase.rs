//! The seven phases of a run, what can be decided about each and why. Every set here is closed: the API document,
//! the metric labels and the logs are all generated from these enums.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One step of a run, in the order answers list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Find the repository, the base commit and the todo.
    Resolve,
    /// The linked git worktree exists, on its branch.
    Worktree,
    /// The repository's prepare command has run for the current inputs.
    Prepare,
    /// The branch contains the base commit.
    SyncMain,
    /// The brief in the worktree is the one on the base branch.
    SyncTodo,
    /// The gates have judged the committed tree.
    Gates,
    /// The caller holds the claim.
    Dispatch,
}

impl Phase {
    /// All phases, in the order answers list them.
    pub const ALL: [Self; 7] =
        [Self::Resolve, Self::Worktree, Self::Prepare, Self::SyncMain, Self::SyncTodo, Self::Gates, Self::Dispatch];

    /// The order a run carries phases out. The claim comes first, because the sync phases ask who holds it; syncing
    /// comes before preparing, so that a merge which brings a new lock file costs one prepare and not two.
    pub const RUN_ORDER: [Self; 7] =
        [Self::Resolve, Self::Dispatch, Self::Worktree, Self::SyncMain, Self::SyncTodo, Self::Prepare, Self::Gates];

    /// The name used in the API, in logs and as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Worktree => "worktree",
            Self::Prepare => "prepare",
            Self::SyncMain => "sync_main",
            Self::SyncTodo => "sync_todo",
            Self::Gates => "gates",
            Self::Dispatch => "dispatch",
        }
    }

    /// The reasons a decision about this phase can carry.
    #[must_use]
    pub const fn reasons(self) -> &'static [Reason] {
        use Reason as R;
        match self {
            Self::Resolve => &[R::BaseMoved, R::BaseUnchanged],
            Self::Worktree => &[R::Created, R::Attached, R::Recreated, R::Present],
            Self::Prepare => &[
                R::WorktreeCreated,
                R::NeverPrepared,
                R::InputsChanged,
                R::OutputsMissing,
                R::LastAttemptFailed,
                R::RefreshRequested,
                R::InputsUnchanged,
                R::NothingToPrepare,
            ],
            Self::SyncMain => &[R::Behind, R::UpToDate, R::LocalChanges, R::HeldByOther, R::Conflict, R::Disabled],
            Self::SyncTodo => &[R::Changed, R::Unchanged, R::KeptLocal, R::Absent],
            Self::Gates => &[R::Due, R::NotDue, R::SameTree, R::Passed, R::Failed],
            Self::Dispatch => &[R::Granted, R::Held],
        }
    }
}

/// What was decided about a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It had to be carried out.
    Run,
    /// Nothing to do.
    Skip,
    /// Somebody else's run was already carrying it out; the caller waited for that.
    Join,
    /// It cannot be carried out, or was and failed.
    Fail,
}

impl Decision {
    /// All decisions.
    pub const ALL: [Self; 4] = [Self::Run, Self::Skip, Self::Join, Self::Fail];

    /// The name used in the API, in logs and as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Skip => "skip",
            Self::Join => "join",
            Self::Fail => "fail",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a phase was decided the way it was. [`Phase::reasons`] says which belong to which phase.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[$doc])* $name,)* }
        impl Reason {
            /// Every reason of every phase.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The name used in the API, in logs and as a metric label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// resolve: the base branch has a commit that was not read yet.
    BaseMoved = "base_moved",
    /// resolve: what was read of the base commit still holds.
    BaseUnchanged = "base_unchanged",
    /// worktree: neither branch nor worktree existed.
    Created = "created",
    /// worktree: the branch or the directory existed and was linked.
    Attached = "attached",
    /// worktree: it was registered but its directory was gone or half made.
    Recreated = "recreated",
    /// worktree: it is there, registered, on its branch.
    Present = "present",
    /// prepare: the worktree was made in this run.
    WorktreeCreated = "worktree_created",
    /// prepare: there is no record of a finished prepare.
    NeverPrepared = "never_prepared",
    /// prepare: an input file or the command is not what it was at the last prepare.
    InputsChanged = "inputs_changed",
    /// prepare: a declared output is gone.
    OutputsMissing = "outputs_missing",
    /// prepare: the last attempt failed, was cancelled or was cut short.
    LastAttemptFailed = "last_attempt_failed",
    /// prepare: the caller asked for it.
    RefreshRequested = "refresh_requested",
    /// prepare: command, inputs and outputs are those of the last prepare.
    InputsUnchanged = "inputs_unchanged",
    /// prepare: the repository declares nothing and has nothing recognised.
    NothingToPrepare = "nothing_to_prepare",
    /// sync_main: the base has commits the branch lacks.
    Behind = "behind",
    /// sync_main: the branch contains the base commit.
    UpToDate = "up_to_date",
    /// sync_main: the work tree has local changes, so the base was left out for now.
    LocalChanges = "local_changes",
    /// sync_main: another worker holds the claim.
    HeldByOther = "held_by_other",
    /// sync_main: base and branch do not merge.
    Conflict = "conflict",
    /// sync_main: the repository switched it off.
    Disabled = "disabled",
    /// sync_todo: the brief on the base differs from the one last brought in.
    Changed = "changed",
    /// sync_todo: the brief is the one last brought in.
    Unchanged = "unchanged",
    /// sync_todo: the base changed files the worker has edited; the worker's were kept.
    KeptLocal = "kept_local",
    /// sync_todo: the base has no brief for this slug.
    Absent = "absent",
    /// gates: the committed tree has no passing verdict.
    Due = "due",
    /// gates: none are defined, or local changes mean there is no committed tree to judge.
    NotDue = "not_due",
    /// gates: this tree has passed these gates in this environment.
    SameTree = "same_tree",
    /// gates: they ran and passed.
    Passed = "passed",
    /// gates: they ran and at least one did not pass.
    Failed = "failed",
    /// dispatch: a new claim was granted.
    Granted = "granted",
    /// dispatch: the caller's live claim was found.
    Held = "held",
}

/// How a phase that was carried out ended. The words are those of OpenTelemetry's CI/CD conventions
/// (`cicd.pipeline.result`): failure is the user's code, error is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it should.
    Success,
    /// The repository's command or content failed.
    Failure,
    /// The daemon or the machine failed.
    Error,
    /// It ran out of time.
    Timeout,
    /// It was cancelled.
    Cancellation,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 5] = [Self::Success, Self::Failure, Self::Error, Self::Timeout, Self::Cancellation];

    /// The name used in logs and as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Cancellation => "cancellation",
        }
    }
}

/// What an answer says about one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseReport {
    /// Which phase.
    pub phase: Phase,
    /// What was decided.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
    /// Time spent on it in milliseconds: looking for a skip, doing for a run.
    pub duration_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_text_of_every_enum_is_its_json() {
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_value(phase).expect("json"), phase.as_str());
        }
        for decision in Decision::ALL {
            assert_eq!(serde_json::to_value(decision).expect("json"), decision.as_str());
        }
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).expect("json"), reason.as_str());
        }
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).expect("json"), outcome.as_str());
        }
    }

    #[test]
    fn every_reason_belongs_to_exactly_one_phase() {
        let listed: Vec<Reason> = Phase::ALL.iter().flat_map(|phase| phase.reasons()).copied().collect();
        let distinct: BTreeSet<Reason> = listed.iter().copied().collect();
        assert_eq!(listed.len(), distinct.len(), "a reason stands under two phases");
        assert_eq!(distinct, Reason::ALL.iter().copied().collect());
    }

    #[test]
    fn a_run_visits_every_phase_once() {
        let visited: BTreeSet<Phase> = Phase::RUN_ORDER.into_iter().collect();
        assert_eq!(visited, Phase::ALL.into_iter().collect());
    }
}
