//! The daemon's own periodic duties: what there is, when one is due, and who holds its run-lock. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// A duty of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobName {
    /// Commits come from the remotes.
    Fetch,
    /// Leases, waits and pauses that are over end.
    LeaseSweep,
    /// What was moved aside, and what half-made worktrees left, is let go after its time.
    WorktreePrune,
    /// Repositories nobody used for long leave the memory.
    RootEviction,
    /// Logs of operations are let go after their time, and beyond their bound.
    LogRetention,
    /// Hang dumps are let go beyond their bound.
    DumpRetention,
    /// The ledger is tidied.
    LedgerUpkeep,
    /// A copy of the ledger is made and looked at.
    Backup,
    /// Sessions are called what their silence makes of them.
    SessionLiveness,
    /// Readiness is evaluated.
    Readiness,
    /// Run-locks of the dead are cleared; what runs is told.
    SelfHeal,
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

impl JobName {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Fetch,
        Self::LeaseSweep,
        Self::WorktreePrune,
        Self::RootEviction,
        Self::LogRetention,
        Self::DumpRetention,
        Self::LedgerUpkeep,
        Self::Backup,
        Self::SessionLiveness,
        Self::Readiness,
        Self::SelfHeal,
    ];

    /// Its name in the API, in metrics and of its run-lock.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::LeaseSweep => "lease_sweep",
            Self::WorktreePrune => "worktree_prune",
            Self::RootEviction => "root_eviction",
            Self::LogRetention => "log_retention",
            Self::DumpRetention => "dump_retention",
            Self::LedgerUpkeep => "ledger_upkeep",
            Self::Backup => "backup",
            Self::SessionLiveness => "session_liveness",
            Self::Readiness => "readiness",
            Self::SelfHeal => "self_heal",
        }
    }

    /// The job of a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|job| job.as_str() == text)
    }

    /// How often it runs, in milliseconds, when nothing else is said.
    #[must_use]
    pub const fn period_ms(self) -> u64 {
        match self {
            Self::Readiness => 5 * SECOND,
            Self::SessionLiveness => SECOND,
            Self::LeaseSweep | Self::SelfHeal => 30 * SECOND,
            Self::Fetch => MINUTE,
            Self::LedgerUpkeep => 10 * MINUTE,
            Self::WorktreePrune | Self::RootEviction | Self::LogRetention | Self::DumpRetention => 60 * MINUTE,
            Self::Backup => 24 * 60 * MINUTE,
        }
    }

    /// How long one run should take at most, in milliseconds. Beyond it the job is over its budget, which is shown;
    /// after as long again it is ended.
    #[must_use]
    pub const fn budget_ms(self) -> u64 {
        match self {
            Self::Readiness | Self::SessionLiveness | Self::LeaseSweep | Self::SelfHeal => 10 * SECOND,
            Self::LedgerUpkeep | Self::RootEviction | Self::DumpRetention => MINUTE,
            Self::Fetch => 2 * MINUTE,
            Self::WorktreePrune | Self::LogRetention | Self::Backup => 5 * MINUTE,
        }
    }
}

/// After so many budgets a job is ended.
pub const LIMIT_BUDGETS: u32 = 2;
/// Failures in a row that make an incident of a job.
pub const FAILURES_MAX: u32 = 3;

/// A process, so that it can be told from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// When it was started, in the system's ticks since it booted.
    pub start_time: u64,
    /// Which boot of the system that was.
    pub boot_id: String,
}

/// What the system says of a process now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// This boot of the system, when it can be read.
    pub boot_id: Option<String>,
    /// When the process of that number was started; `None` when there is none.
    pub start_time: Option<u64>,
}

impl Owner {
    /// Whether the process is certainly gone. Only proof counts: what cannot be read proves nothing.
    #[must_use]
    pub fn is_proven_dead(&self, facts: &Facts) -> bool {
        let other_boot = facts.boot_id.as_ref().is_some_and(|boot| *boot != self.boot_id);
        other_boot || facts.start_time != Some(self.start_time)
    }
}

/// What stands in the file of a run-lock while its job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockNote {
    /// The job.
    pub job: JobName,
    /// Who runs it.
    pub owner: Owner,
    /// Since when.
    pub started_at: Timestamp,
    /// How long it should take, in milliseconds.
    pub budget_ms: u64,
}

/// A run-lock as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunLockView {
    /// The job.
    pub job: JobName,
    /// Who runs it.
    pub owner: Owner,
    /// Since when.
    pub started_at: Timestamp,
    /// For so many milliseconds.
    pub elapsed_ms: u64,
    /// How long it should take, in milliseconds.
    pub budget_ms: u64,
    /// Whether it takes longer.
    pub over_budget: bool,
    /// Whether it was told to end and has not.
    pub hung: bool,
}

/// How a run of a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobResult {
    /// Well.
    Ok,
    /// It could not do its duty.
    Failed,
    /// It was ended because it did not end.
    Hung,
    /// Somebody else runs it: nothing was done.
    Held,
}

/// What is known of a job across daemons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobRecord {
    /// The job.
    pub job: JobName,
    /// When its last run began.
    pub started_at: Option<Timestamp>,
    /// When its last run ended.
    pub ended_at: Option<Timestamp>,
    /// How.
    pub result: Option<JobResult>,
    /// In words.
    pub detail: String,
    /// Runs that were not good, one after the other.
    pub failures_in_a_row: u32,
    /// Runs.
    pub runs: u64,
    /// Runs that were ended because they did not end.
    pub hung: u64,
}

impl JobRecord {
    /// A job that has not run yet.
    #[must_use]
    pub const fn new(job: JobName) -> Self {
        Self {
            job,
            started_at: None,
            ended_at: None,
            result: None,
            detail: String::new(),
            failures_in_a_row: 0,
            runs: 0,
            hung: 0,
        }
    }

    /// Takes in how a run ended. Says whether that is news: not what every run before it was.
    pub fn ended(&mut self, result: JobResult, detail: String, now: Timestamp) -> bool {
        let news = self.result != Some(result) || result == JobResult::Hung;
        self.ended_at = Some(now);
        self.result = Some(result);
        self.detail = detail;
        self.runs += 1;
        match result {
            JobResult::Ok => self.failures_in_a_row = 0,
            JobResult::Failed => self.failures_in_a_row += 1,
            JobResult::Hung => {
                self.failures_in_a_row += 1;
                self.hung += 1;
            }
            JobResult::Held => {}
        }
        news
    }

    /// In how many milliseconds it is due, when it runs every `period_ms`. What has never run waits for a thousandth of its
    /// period, so that a start has the disk for itself. A record from the future is not believed.
    #[must_use]
    pub fn due_in_ms(&self, period_ms: u64, now: Timestamp) -> u64 {
        let Some(started) = self.started_at else { return period_ms / 1_000 };
        match u64::try_from(now.as_ms().saturating_sub(started.as_ms())) {
            Ok(since) => period_ms.saturating_sub(since),
            Err(_) => 0,
        }
    }
}

/// A job as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// What is known of it.
    #[serde(flatten)]
    pub record: JobRecord,
    /// How often it runs, in milliseconds; never when 0.
    pub period_ms: u64,
    /// How long one run should take, in milliseconds.
    pub budget_ms: u64,
    /// When it is due next.
    pub due_at: Option<Timestamp>,
    /// The run that is on.
    pub running: Option<RunLockView>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { pid: 7, start_time: 100, boot_id: "b".to_owned() }
    }

    #[test]
    fn only_proof_says_that_an_owner_is_dead() {
        let facts = |boot: Option<&str>, start_time| Facts { boot_id: boot.map(str::to_owned), start_time };
        assert!(!owner().is_proven_dead(&facts(Some("b"), Some(100))), "it lives");
        assert!(owner().is_proven_dead(&facts(Some("b"), None)), "no such process");
        assert!(owner().is_proven_dead(&facts(Some("b"), Some(101))), "its number was given to another");
        assert!(owner().is_proven_dead(&facts(Some("c"), Some(100))), "the system was booted since");
        assert!(!owner().is_proven_dead(&facts(None, Some(100))), "an unreadable boot proves nothing");
    }

    #[test]
    fn a_job_is_due_a_period_after_it_began_and_at_once_when_its_record_cannot_be_believed() {
        let mut record = JobRecord::new(JobName::LogRetention);
        assert_eq!(record.due_in_ms(1_000, Timestamp::from_ms(5_000)), 1, "it has never run");
        record.started_at = Some(Timestamp::from_ms(5_000));
        assert_eq!(record.due_in_ms(1_000, Timestamp::from_ms(5_400)), 600);
        assert_eq!(record.due_in_ms(1_000, Timestamp::from_ms(9_000)), 0);
        assert_eq!(record.due_in_ms(1_000, Timestamp::from_ms(4_999)), 0, "a record from the future");
    }

    #[test]
    fn a_hung_run_counts_as_a_failure_and_is_always_news() {
        let mut record = JobRecord::new(JobName::Fetch);
        let now = Timestamp::from_ms(0);
        assert!(record.ended(JobResult::Ok, String::new(), now));
        assert!(!record.ended(JobResult::Ok, String::new(), now));
        assert!(record.ended(JobResult::Hung, String::new(), now));
        assert!(record.ended(JobResult::Hung, String::new(), now));
        assert_eq!((record.failures_in_a_row, record.hung, record.runs), (2, 2, 4));
        record.ended(JobResult::Ok, String::new(), now);
        assert_eq!(record.failures_in_a_row, 0);
    }

    #[test]
    fn every_job_has_a_name_of_its_own_and_a_budget() {
        for job in JobName::ALL {
            assert_eq!(JobName::parse(job.as_str()), Some(job));
            assert!(job.budget_ms() > 0 && job.period_ms() > 0);
            assert_eq!(serde_json::to_value(job).expect("writes"), job.as_str());
        }
    }
}
