//! What becomes of a todo: its stage, its claims one after the other, its attempts. Every transition is a pure function
//! from a state to the next one; the dispatcher carries them out.
//!
//! ```text
//! ready → build → review → integrate → done        review only when the repository requires it
//!           ↑        ↓ changes requested
//!           └────── fix                             any stage → blocked → (redrive) → the stage before
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::claim::{Claim, HoldTooLong, Terms};
use super::ids::{Lane, OperationId, TodoKey, Worker};
use super::time::{Awake, Moment, Timestamp};

/// Ended claims that are remembered per todo: a repeated complete or release of one of them is recognised.
const ENDINGS_MAX: usize = 32;

/// Where a todo is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nobody has started.
    #[default]
    Ready,
    /// A worker builds it.
    Build,
    /// A worker reviews it.
    Review,
    /// Findings of a review are being mended.
    Fix,
    /// It is being brought onto the base branch.
    Integrate,
    /// Finished.
    Done,
    /// Waits for a person.
    Blocked,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 7] =
        [Self::Ready, Self::Build, Self::Review, Self::Fix, Self::Integrate, Self::Done, Self::Blocked];

    /// The name used in the API and the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Build => "build",
            Self::Review => "review",
            Self::Fix => "fix",
            Self::Integrate => "integrate",
            Self::Done => "done",
            Self::Blocked => "blocked",
        }
    }
}

impl Stage {
    /// Whether a worker can be given a todo at this stage.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Ready | Self::Build | Self::Review | Self::Fix | Self::Integrate => true,
            Self::Done | Self::Blocked => false,
        }
    }
}

/// Lane and process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Asker {
    /// The lane.
    pub lane: Lane,
    /// The process.
    pub worker: Worker,
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Its work was done.
    Done,
    /// Its work failed.
    Failed,
    /// It needs a person.
    Blocked,
    /// It was given back.
    Released,
    /// Its lease ran out.
    Expired,
}

impl How {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Done, Self::Failed, Self::Blocked, Self::Released, Self::Expired];

    /// The name used in the API, the ledger and as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }
}

/// A claim that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ending {
    /// Its token.
    pub token: u64,
    /// Who held it.
    #[serde(flatten)]
    pub holder: Asker,
    /// When it was granted; not known of those that ended before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_at: Option<Timestamp>,
    /// How it ended.
    pub how: How,
    /// When.
    pub at: Timestamp,
    /// The stage the todo came to.
    pub stage: Stage,
    /// Failed attempts after it.
    pub attempts: u32,
    /// The operation that judged it, when one ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// What its holder said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

/// Why a todo is blocked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blocked {
    /// The stage it comes back to.
    pub from: Stage,
    /// Whether its attempts are used up, or its worker asked for a person.
    pub dead_letter: bool,
    /// In words.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

/// Everything that is decided about a todo beside what its repository says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TodoState {
    /// Where it is.
    pub stage: Stage,
    /// The highest token ever given for it.
    pub token: u64,
    /// The newest claim, until it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Failed attempts since it last came a stage further.
    #[serde(default)]
    pub attempts: u32,
    /// It is not given out before this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Awake>,
    /// Why it is blocked, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// Claims that are over, newest last.
    #[serde(default)]
    pub endings: Vec<Ending>,
    /// Who last built or fixed it: a review is somebody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_by: Option<Asker>,
    /// What the last review asked for, until the fix is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<String>,
}

/// What a holder says when it is through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The work of this stage is done.
    Done,
    /// It could not be done; somebody may try again.
    Failed,
    /// It cannot go on without a person.
    Blocked,
}

/// What a review says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Review {
    /// It may go on.
    Approved,
    /// Something has to be mended first.
    ChangesRequested,
}

/// The body of `POST /todos/{repo}/{slug}/complete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Complete {
    /// The claim's token.
    pub token: u64,
    /// How it went.
    pub outcome: Outcome,
    /// What was done, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Why it failed or is blocked; what failed is recognised by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The verdict of a review; needed at the stage `review`, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
    /// What has to be mended; needed with `changes_requested`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<String>,
}

/// A result that came too late to count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Parked {
    /// When it came.
    pub at: Timestamp,
    /// What was said.
    pub result: Complete,
}

/// What the holder's words are checked against and what they lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// Whether the repository wants finished work reviewed.
    pub review_required: bool,
    /// Whether the base contains the todo's branch.
    pub on_base: bool,
    /// The operation that judged it, when one ran.
    pub operation: Option<OperationId>,
    /// The failure was not the todo's: it counts as no attempt, and nothing waits but the lane.
    pub no_fault: bool,
}

/// Who may not do what it wants with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// Who holds the todo now, if anybody does.
    pub holder: Option<Box<Claim>>,
    /// How the claim of the token ended, if it is remembered.
    pub ended: Option<Box<Ending>>,
}

/// What a request for a todo leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// The same worker's lease still runs: the same grant again, nothing to write.
    Repeat(Claim),
    /// Somebody else's lease runs.
    Held(Claim),
    /// It failed and waits until then.
    Waiting(Awake),
    /// A new grant.
    Granted(Box<TodoState>),
}

/// What a complete leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completing {
    /// The claim lives and the words fit: what is due is judged, then it counts.
    Go(Claim),
    /// It was counted before; this is what came of it.
    Repeat(Ending),
    /// The token is not the live claim's.
    Stale(Stale),
    /// The words do not fit the stage.
    Unfit(&'static str),
}

impl TodoState {
    /// The claim whose lease runs.
    #[must_use]
    pub fn live(&self, now: Awake) -> Option<&Claim> {
        self.claim.as_ref().filter(|claim| claim.is_live(now))
    }

    /// The live claim of this token, or who holds the todo instead.
    pub fn owned(&self, token: u64, now: Awake) -> Result<&Claim, Stale> {
        match self.live(now) {
            Some(claim) if claim.token == token => Ok(claim),
            holder => {
                Err(Stale { holder: holder.cloned().map(Box::new), ended: self.ending(token).cloned().map(Box::new) })
            }
        }
    }

    /// How the claim of a token ended, if that is remembered.
    #[must_use]
    pub fn ending(&self, token: u64) -> Option<&Ending> {
        self.endings.iter().rev().find(|ending| ending.token == token)
    }

    /// Decides a request by `asker`. A lease that has run out has to be ended ([`Self::expired`]) before.
    #[must_use]
    pub fn grant(&self, todo: &TodoKey, asker: &Asker, generation: u64, now: &Moment, terms: &Terms) -> Grant {
        match self.live(now.awake) {
            Some(claim) if claim.is_held_by(&asker.lane, &asker.worker) => return Grant::Repeat(claim.clone()),
            Some(claim) => return Grant::Held(claim.clone()),
            None => {}
        }
        if let Some(until) = self.not_before.filter(|until| now.awake < *until) {
            return Grant::Waiting(until);
        }
        let mut state = self.clone();
        state.token += 1;
        state.not_before = None;
        if state.stage == Stage::Ready {
            state.stage = Stage::Build;
        }
        state.claim = Some(Claim {
            todo: todo.clone(),
            token: state.token,
            lane: asker.lane.clone(),
            worker: asker.worker.clone(),
            granted_at: now.wall,
            expires: now.awake.plus_ms(terms.lease_ms),
            alive: now.awake,
            progress: now.awake,
            note: None,
            hold: None,
            generation,
        });
        Grant::Granted(Box::new(state))
    }

    /// The state after a sign of life of the holder.
    pub fn heartbeat(
        &self,
        token: u64,
        note: Option<&str>,
        extend_ms: Option<i64>,
        now: Awake,
        terms: &Terms,
    ) -> Result<Self, Stale> {
        let claim = self.owned(token, now)?.heartbeat(note, extend_ms, now, terms);
        Ok(Self { claim: Some(claim), ..self.clone() })
    }

    /// The state while the holder waits for a person.
    pub fn held(
        &self,
        token: u64,
        for_ms: i64,
        why: &str,
        now: Awake,
        terms: &Terms,
    ) -> Result<Result<Self, HoldTooLong>, Stale> {
        let claim = self.owned(token, now)?.held(for_ms, why, now, terms);
        Ok(claim.map(|claim| Self { claim: Some(claim), ..self.clone() }))
    }

    /// The state while the daemon is at work for the holder until `end`.
    pub fn carried_to(&self, token: u64, end: Awake, now: Awake) -> Result<Self, Stale> {
        let claim = self.owned(token, now)?.carried_to(end);
        Ok(Self { claim: Some(claim), ..self.clone() })
    }

    /// The state after the holder gave the todo back: no attempt, offered at once.
    pub fn released(&self, token: u64, now: &Moment) -> Result<Self, Stale> {
        self.owned(token, now.awake)?;
        let mut state = self.clone();
        state.end(How::Released, now, None, None);
        Ok(state)
    }

    /// The state after its lease ran out, if it has: an attempt, offered again at once.
    #[must_use]
    pub fn expired(&self, now: &Moment, terms: &Terms) -> Option<Self> {
        let claim = self.claim.as_ref().filter(|claim| !claim.is_live(now.awake))?;
        let what = format!("the lease of {}/{} ran out", claim.lane, claim.worker);
        let mut state = self.clone();
        state.count_attempt(now, terms, &what);
        state.end(How::Expired, now, None, None);
        Some(state)
    }

    /// Whether a complete can go on. Nothing is changed.
    #[must_use]
    pub fn completing(&self, complete: &Complete, now: Awake) -> Completing {
        let claim = match self.owned(complete.token, now) {
            Ok(claim) => claim,
            Err(stale) => {
                let same = |ending: &&Ending| ending.how == complete.outcome.how();
                return match stale.ended.as_deref().filter(same) {
                    Some(ending) => Completing::Repeat(ending.clone()),
                    None => Completing::Stale(stale),
                };
            }
        };
        let done = complete.outcome == Outcome::Done;
        let said = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.trim().is_empty());
        match (self.stage == Stage::Review && done, complete.review) {
            (true, None) => Completing::Unfit("the todo is at review: say review: approved or changes_requested"),
            (true, Some(Review::ChangesRequested)) if !said(&complete.findings) => {
                Completing::Unfit("changes are requested without saying which: say them in findings")
            }
            (false, Some(_)) => Completing::Unfit("review is for a todo at the stage review that is done"),
            _ if !done && !said(&complete.reason) => {
                Completing::Unfit("say in reason why; what repeats is recognised by it")
            }
            _ => Completing::Go(claim.clone()),
        }
    }

    /// The state after a complete that [`Self::completing`] let go on.
    #[must_use]
    pub fn completed(&self, complete: &Complete, around: &Circumstances, now: &Moment, terms: &Terms) -> Self {
        let mut state = self.clone();
        let reason = complete.reason.clone().unwrap_or_default();
        match complete.outcome {
            Outcome::Done => state.advance(complete, around, now, terms),
            Outcome::Blocked => {
                state.blocked = Some(Blocked { from: self.stage, dead_letter: false, reason, at: now.wall });
                state.stage = Stage::Blocked;
            }
            Outcome::Failed if around.no_fault => {}
            Outcome::Failed => {
                state.count_attempt(now, terms, &reason);
                state.not_before =
                    (state.stage != Stage::Blocked).then(|| now.awake.plus_ms(terms.backoff_ms(state.attempts)));
            }
        }
        let said = complete.reason.clone().or_else(|| complete.findings.clone()).or_else(|| complete.summary.clone());
        state.end(complete.outcome.how(), now, around.operation.clone(), said);
        state
    }

    fn advance(&mut self, complete: &Complete, around: &Circumstances, now: &Moment, terms: &Terms) {
        let through = if around.on_base { Stage::Done } else { Stage::Integrate };
        match self.stage {
            Stage::Ready | Stage::Build | Stage::Fix => {
                self.built_by = self.claim.as_ref().map(Claim::holder);
                self.findings = None;
                self.stage = if around.review_required { Stage::Review } else { through };
            }
            Stage::Review if complete.review == Some(Review::ChangesRequested) => {
                self.findings.clone_from(&complete.findings);
                self.stage = Stage::Fix;
                // A review and a fix that never agree are an attempt each time round.
                self.count_attempt(now, terms, complete.findings.as_deref().unwrap_or_default());
            }
            Stage::Review => self.stage = through,
            Stage::Integrate => self.stage = Stage::Done,
            Stage::Done | Stage::Blocked => {}
        }
        if matches!(self.stage, Stage::Integrate | Stage::Done) {
            self.attempts = 0;
        }
        self.not_before = None;
    }

    /// The base contains the branch of a todo that nobody holds: it is done. `None` when it is not at that stage.
    #[must_use]
    pub fn integrated(&self, now: Awake) -> Option<Self> {
        let free = self.stage == Stage::Integrate && self.live(now).is_none();
        free.then(|| Self { stage: Stage::Done, attempts: 0, not_before: None, ..self.clone() })
    }

    /// A person wants a blocked todo tried again, or a waiting one tried now; `None` when there is nothing to do.
    #[must_use]
    pub fn redriven(&self, now: Awake) -> Option<Self> {
        let waits = self.not_before.is_some_and(|until| now < until);
        let mut state = self.clone();
        match self.blocked.as_ref() {
            Some(blocked) if self.stage == Stage::Blocked => state.stage = blocked.from,
            _ if waits => {}
            _ => return None,
        }
        state.blocked = None;
        state.attempts = 0;
        state.not_before = None;
        Some(state)
    }

    /// One more failed attempt; the last one makes the todo a dead letter.
    fn count_attempt(&mut self, now: &Moment, terms: &Terms, what: &str) {
        self.attempts += 1;
        if self.attempts >= terms.attempts_max {
            let reason = format!("given up after {} attempts; the last: {what}", self.attempts);
            self.blocked = Some(Blocked { from: self.stage, dead_letter: true, reason, at: now.wall });
            self.stage = Stage::Blocked;
        }
    }

    /// The claim is over.
    fn end(&mut self, how: How, now: &Moment, operation: Option<OperationId>, said: Option<String>) {
        let Some(claim) = self.claim.take() else { return };
        if self.endings.len() >= ENDINGS_MAX {
            self.endings.remove(0);
        }
        self.endings.push(Ending {
            token: claim.token,
            holder: claim.holder(),
            granted_at: Some(claim.granted_at),
            how,
            at: now.wall,
            stage: self.stage,
            attempts: self.attempts,
            operation,
            said,
        });
    }
}

impl Claim {
    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> Asker {
        Asker { lane: self.lane.clone(), worker: self.worker.clone() }
    }
}

impl Outcome {
    /// How a claim with this outcome ends.
    #[must_use]
    pub const fn how(self) -> How {
        match self {
            Self::Done => How::Done,
            Self::Failed => How::Failed,
            Self::Blocked => How::Blocked,
        }
    }
}
