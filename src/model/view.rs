//! What callers see of actors, todos and requests for work.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::claim::{Claim, Terms};
use super::filed::{AFTER_MAX, NewTodo};
use super::hang::LagView;
use super::ids::{Lane, RepoName, Slug, TodoKey, Worker};
use super::incident::Incident;
use super::job::RunLockView;
use super::lane::{Gate, LaneState, PausedBy, STEPS};
use super::operation::{Operation, OperationState};
use super::problem::Problem;
use super::readiness::{CriterionView, Verdict};
use super::roadmap::FileFault;
use super::session::{EVENTS_PER_REQUEST_MAX, NewSessionEvent};
use super::time::{Moment, Timestamp};
use super::todo::{Blocked, Ending, Parked, Stage};
use super::work_order::Product;

/// Characters of what a holder or a person says in passing.
pub const NOTE_CHARS_MAX: usize = 2_000;

/// Why an actor was restarted, or given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Restarted {
    /// When.
    pub at: Timestamp,
    /// `panic`, `error`, `hang` or `killed`.
    pub reason: String,
    /// In its own words.
    pub text: String,
}

/// A message an actor handles or handled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HandledMessage {
    /// Which.
    pub message: String,
    /// How long it has been handled, or took.
    pub took_ms: f64,
    /// How long ago that ended; absent while it is handled.
    pub ago_ms: Option<f64>,
}

/// One actor, as it is seen and as it sees itself; the console, `/actors` and the tests read this same view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActorView {
    /// `root`, `ledger`, `dispatcher`, `repository`, `slug` and the like.
    pub kind: String,
    /// Unique among living actors of its kind, such as `app/fix-login`.
    pub name: String,
    /// Its supervisor's kind and name, `kind:name`; empty for the root.
    pub parent: String,
    /// `running`, `restarting`, `hung` or `given_up`.
    pub state: String,
    /// What it does with its children, when it is a supervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Restarts since its supervisor was started.
    pub restarts: u32,
    /// Why, the newest last.
    pub reasons: Vec<Restarted>,
    /// Messages waiting now.
    pub mailbox: usize,
    /// The most that ever waited.
    pub mailbox_high_water: usize,
    /// Messages that may wait; requests beyond are refused.
    pub mailbox_limit: usize,
    /// The message it is handling now.
    pub handling: Option<HandledMessage>,
    /// The message it handled last.
    pub last: Option<HandledMessage>,
    /// What it is doing, in its own words; absent when it did not say in time.
    pub work: Option<Value>,
}

/// What waits to be claimed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueView {
    /// Todos that could be given to somebody.
    pub ready: usize,
    /// For how long the oldest of them has been seen to wait by this daemon, in milliseconds.
    pub oldest_ready_ms: Option<i64>,
}

/// The daemon at a glance. Reading it changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// The verdict.
    pub readiness: Verdict,
    /// What it is made of.
    pub criteria: Vec<CriterionView>,
    /// The daemon's own duties that are being done, whoever does them.
    pub run_locks: Vec<RunLockView>,
    /// How many those are.
    pub run_locks_count: usize,
    /// What waits to be claimed.
    pub queue: QueueView,
    /// Every lane.
    pub lanes: Vec<LaneView>,
    /// Incidents that are not over.
    pub incidents: Vec<Incident>,
    /// How late timers were within the last minute, in milliseconds.
    pub lag_ms: LagView,
    /// Hangs since the daemon was started, dumps of them, and hangs that were not dumped because the last dump was near.
    pub hangs: HangCounts,
    /// Actors by state.
    pub actors: BTreeMap<String, usize>,
    /// What the ledger is doing; absent while it is not open.
    pub store: Option<Value>,
    /// What runs.
    pub version: String,
    /// When the daemon was started.
    pub started_at: Timestamp,
}

/// How often the runtime did not turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HangCounts {
    /// Hangs.
    pub total: u64,
    /// Dumps, of hangs and by hand.
    pub dumps: u64,
    /// Hangs without a dump.
    pub not_dumped: u64,
}

/// What a request for work leads to.
#[derive(Debug, Clone)]
pub enum Work {
    /// The answer.
    Done(Product),
    /// It still runs.
    Running(Box<Operation>),
}

/// Which todos to list.
#[derive(Debug, Clone, Default)]
pub struct TodoFilter {
    /// Of this repository.
    pub repo: Option<RepoName>,
    /// At this stage.
    pub stage: Option<Stage>,
    /// For this lane, or for any.
    pub lane: Option<Lane>,
}

/// A todo, as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TodoView {
    /// The repository.
    pub repo: RepoName,
    /// Its name.
    pub slug: Slug,
    /// Where it is.
    pub stage: Stage,
    /// The only lane it is offered to; any when `null`.
    pub lane: Option<Lane>,
    /// Todos that have to be done first.
    pub after: Vec<Slug>,
    /// Higher is offered first.
    pub priority: i64,
    /// Whether the roadmap lists it; one that is not is given when named, never offered.
    pub listed: bool,
    /// Worktree-relative paths of the files that say what to do.
    pub brief: Vec<String>,
    /// Who holds it now.
    pub claim: Option<ClaimHolder>,
    /// Failed attempts since it last came a stage further.
    pub attempts: u32,
    /// After a failure it is not given out before this time.
    pub not_before: Option<Timestamp>,
    /// Why it waits for a person, if it does.
    pub blocked: Option<Blocked>,
    /// What is wrong with it, with file and line; then it is given to nobody.
    pub fault: Option<FileFault>,
    /// Where its worktree is, once somebody has worked on it.
    pub worktree: Option<String>,
}

/// A todo with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TodoDetail {
    /// As in the list.
    #[serde(flatten)]
    pub todo: TodoView,
    /// What to do, of a todo that was filed and has no files.
    pub instructions: Option<String>,
    /// What the last review asked for.
    pub findings: Option<String>,
    /// The newest verdict of each gate that judged it.
    pub gates: Vec<GateView>,
    /// Claims that are over, newest last.
    pub endings: Vec<Ending>,
    /// Results that came too late to count, newest first, at most twenty.
    pub parked: Vec<Parked>,
    /// What happened to it, newest first, at most a hundred entries.
    pub history: Vec<HistoryEntry>,
}

/// What a gate said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateView {
    /// Its name.
    pub gate: String,
    /// Whether it passed.
    pub passed: bool,
    /// Its exit code, when it had one.
    pub exit_code: Option<i32>,
    /// How long it ran, in milliseconds.
    pub duration_ms: f64,
    /// The commit it judged.
    pub commit: String,
    /// Where its output is.
    pub log: String,
    /// When it ended.
    pub at: Timestamp,
}

/// One entry of a todo's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// Position in the ledger.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// The kind of event.
    pub kind: String,
    /// What it says.
    pub data: Value,
}

/// Who holds a todo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimHolder {
    /// The lane.
    pub lane: Lane,
    /// The process.
    pub worker: Worker,
    /// The fencing token.
    pub token: u64,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// From this instant on it is over.
    pub expires_at: Timestamp,
    /// When the holder last gave a sign of life.
    pub alive_at: Timestamp,
    /// When it last reported something new.
    pub progress_at: Timestamp,
    /// What it last reported.
    #[schemars(length(max = NOTE_CHARS_MAX))]
    pub progress: Option<String>,
    /// What it waits for a person for, while it does.
    pub hold: Option<HoldView>,
}

/// What an agent reports to its session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest {
    /// What happened, in order, at most a hundred.
    #[schemars(length(min = 1, max = EVENTS_PER_REQUEST_MAX))]
    pub events: Vec<NewSessionEvent>,
}

/// A claim that waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoldView {
    /// For what.
    pub why: String,
    /// Until when.
    pub until: Timestamp,
}

impl ClaimHolder {
    /// The view of a claim.
    #[must_use]
    pub fn of(claim: &Claim, now: &Moment) -> Self {
        let hold = claim.hold.as_ref().filter(|hold| now.awake < hold.until);
        Self {
            lane: claim.lane.clone(),
            worker: claim.worker.clone(),
            token: claim.token,
            granted_at: claim.granted_at,
            expires_at: claim.expires_at(now),
            alive_at: now.wall_of(claim.alive),
            progress_at: now.wall_of(claim.progressed()),
            progress: claim.note.clone(),
            hold: hold.map(|hold| HoldView { why: hold.why.clone(), until: now.wall_of(hold.until) }),
        }
    }
}

/// The answer to a heartbeat or a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseView {
    /// From this instant on the claim is over.
    pub expires_at: Timestamp,
    /// Without something new to report, heartbeats carry the lease no further than this.
    pub progress_by: Timestamp,
    /// What the holder should know: `cancel_requested`, `lane_paused`, `progress_needed`, `draining`.
    pub verbs: Vec<String>,
}

impl LeaseView {
    /// The view of a claim's lease.
    #[must_use]
    pub fn of(claim: &Claim, verbs: Vec<String>, now: &Moment, terms: &Terms) -> Self {
        let progress_by = now.wall_of(claim.progress.plus_ms(terms.progress_ms));
        Self { expires_at: claim.expires_at(now), progress_by, verbs }
    }
}

/// A lane, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LaneView {
    /// Its name.
    pub lane: Lane,
    /// `open`, `paused` or `probing`.
    pub state: String,
    /// Who paused it.
    pub paused_by: Option<PausedBy>,
    /// Why.
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: Option<Timestamp>,
    /// When the pause ends by itself.
    pub until: Option<Timestamp>,
    /// What repeated, when the breaker paused it.
    pub fingerprint: Option<String>,
    /// Rises with every resume.
    pub generation: u64,
    /// While it is opening again: how many claims it may have at once.
    pub probes: Option<u32>,
    /// Claims it has.
    pub wip: usize,
    /// Claims it may have.
    pub wip_limit: Option<usize>,
}

impl LaneView {
    /// The view of a lane.
    #[must_use]
    pub fn of(lane: &LaneState, wip: usize, wip_limit: Option<usize>) -> Self {
        let pause = lane.paused();
        let (state, probes) = match &lane.gate {
            Gate::Open => ("open", None),
            Gate::Paused(_) => ("paused", None),
            Gate::Probing { step, .. } => ("probing", STEPS.get(*step).copied()),
        };
        Self {
            lane: lane.lane.clone(),
            state: state.to_owned(),
            paused_by: pause.map(|pause| pause.by),
            reason: pause.map(|pause| pause.reason.clone()),
            since: lane.since,
            until: pause.and_then(|pause| pause.until),
            fingerprint: pause.and_then(|pause| pause.fingerprint.clone()),
            generation: lane.generation,
            probes,
            wip,
            wip_limit,
        }
    }
}

/// What asks for a todo's claim to be changed, or a lane, or the todos themselves.
#[derive(Debug, Clone)]
pub enum Mutation {
    /// `POST …/heartbeat`.
    Heartbeat {
        /// Which todo.
        todo: TodoKey,
        /// What was sent.
        body: HeartbeatRequest,
    },
    /// `POST …/hold`.
    Hold {
        /// Which todo.
        todo: TodoKey,
        /// What was sent.
        body: HoldRequest,
    },
    /// `POST …/release`.
    Release {
        /// Which todo.
        todo: TodoKey,
        /// Under which token.
        token: u64,
    },
    /// `POST …/redrive`.
    Redrive {
        /// Which todo.
        todo: TodoKey,
    },
    /// `POST /todos/{repo}`.
    File {
        /// In which repository.
        repo: RepoName,
        /// What was sent.
        body: NewTodo,
    },
    /// `PUT …/after`.
    SetAfter {
        /// Which todo.
        todo: TodoKey,
        /// What it comes after.
        after: Vec<Slug>,
    },
    /// `POST /lanes/{lane}/pause`.
    Pause {
        /// Which lane.
        lane: Lane,
        /// What was sent.
        body: PauseRequest,
    },
    /// `POST /lanes/{lane}/resume`.
    Resume {
        /// Which lane.
        lane: Lane,
    },
}

impl Mutation {
    /// The repository it is about, if it is about one.
    #[must_use]
    pub const fn repo(&self) -> Option<&RepoName> {
        match self {
            Self::Heartbeat { todo, .. }
            | Self::Hold { todo, .. }
            | Self::Release { todo, .. }
            | Self::Redrive { todo }
            | Self::SetAfter { todo, .. } => Some(&todo.repo),
            Self::File { repo, .. } => Some(repo),
            Self::Pause { .. } | Self::Resume { .. } => None,
        }
    }
}

/// The body of `POST /todos/{repo}/{slug}/heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest {
    /// The claim's token.
    pub token: u64,
    /// What is being done, at most 2000 characters. Something new is progress; the same again is not.
    pub progress: Option<String>,
    /// How far from now the lease shall reach, in milliseconds; a whole lease when left out, and at most that.
    pub extend_ms: Option<u64>,
}

/// The body of `POST /todos/{repo}/{slug}/hold`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// The claim's token.
    pub token: u64,
    /// How long from now, in milliseconds.
    #[schemars(range(min = 1))]
    pub for_ms: u64,
    /// What is waited for, at most 2000 characters.
    #[schemars(length(max = NOTE_CHARS_MAX), regex(pattern = r"\S"))]
    pub why: String,
}

/// The body of `POST /todos/{repo}/{slug}/release`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The claim's token.
    pub token: u64,
}

/// The body of `PUT /todos/{repo}/{slug}/after`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AfterRequest {
    /// The todos that have to be done first, in the place of those known before.
    #[schemars(length(max = AFTER_MAX))]
    pub after: Vec<Slug>,
}

/// The body of `POST /lanes/{lane}/pause`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// Why, for whoever asks this lane for work; at most 2000 characters.
    #[schemars(length(max = NOTE_CHARS_MAX), regex(pattern = r"\S"))]
    pub reason: String,
    /// When the pause ends by itself; never when left out.
    pub until: Option<Timestamp>,
}

/// A body without content: `{}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoContent {}

/// Which lines the log has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogView {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,slugline::git=debug`.
    pub level: String,
}

/// The body of `POST /console/sign-in`: one of the two. Not to be shown in a log.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["token"], "properties": { "token": { "type": "string" }, "code": { "type": "null" } } }, { "required": ["code"], "properties": { "code": { "type": "string" }, "token": { "type": "null" } } }]))]
pub struct SignInRequest {
    /// The daemon's token.
    pub token: Option<String>,
    /// The code of a link.
    pub code: Option<String>,
}

/// The answer to it; the cookie comes with it.
#[derive(Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SignedInView {
    /// What has to be sent beside the cookie, as `X-Slugline-Key`.
    pub key: String,
    /// From this instant on neither is worth anything.
    pub expires_at: Timestamp,
}

/// The longest grace of an old token in milliseconds: a day.
pub const GRACE_MS_MAX: u64 = 86_400_000;

/// The body of `POST /token/rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// How long the old token is good yet, in milliseconds; `[auth] grace_ms` when not given, no longer when 0.
    #[schemars(range(max = GRACE_MS_MAX))]
    pub grace_ms: Option<u64>,
}

/// The answer to it. The new token is in the file, for whoever may read that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RotatedView {
    /// The file.
    pub token_path: String,
    /// How long the old token is good, in milliseconds.
    pub grace_ms: u64,
    /// Until then; a restart of the daemon ends it, too.
    pub old_until: Timestamp,
}

/// The answer to `POST /console/links`.
#[derive(Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LinkView {
    /// Signs in whoever opens it first.
    pub url: String,
    /// Until then.
    pub expires_at: Timestamp,
}

/// Which operations to list.
#[derive(Debug, Clone, Default)]
pub struct OperationFilter {
    /// Of this repository.
    pub repo: Option<RepoName>,
    /// Of this todo of it.
    pub slug: Option<Slug>,
    /// In one of these states; in any when there are none.
    pub states: Vec<OperationState>,
    /// Only the newest of each todo.
    pub latest: bool,
    /// At most so many.
    pub limit: usize,
}

/// A registered repository.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RepositoryView {
    /// Its name.
    pub name: RepoName,
    /// Where it is.
    pub path: String,
    /// Its base branch, when that is known.
    pub base: Option<String>,
    /// Its remote, when it has one to fetch from.
    pub remote: Option<String>,
    /// What in its shared git directory could make git run a program or lead it elsewhere, by name: settings, hooks,
    /// links. The daemon follows none of it.
    pub planted: Vec<String>,
    /// Whether work can be handed out in it.
    pub usable: bool,
    /// What is wrong with it, when it cannot.
    #[schemars(with = "Option<Value>")]
    pub problem: Option<Problem>,
}

/// The body of `POST /failures/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The words of a failure.
    pub text: String,
}

/// Whether work is accepted, and what speaks for and against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Whether it is.
    pub ok: bool,
    /// Every check: its name, whether it passes, and in words.
    pub checks: Vec<(String, bool, String)>,
}
