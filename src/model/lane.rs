//! Lanes: who may be given work now. A lane pauses itself when one failure repeats, and opens again step by step: pure.
//!
//! ```text
//! open ──(a failure repeats, or a person)──▶ paused ──(a person, or `until`)──▶ probing ──▶ open
//!                                              ▲                                  │
//!                                              └──── a probe failed or expired ───┘
//! ```
//!
//! Every resume begins a new generation. What failed in an earlier one never counts in a later one, whenever its claim
//! ends.

use std::collections::{HashMap, VecDeque};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{Lane, TodoKey};
use super::time::Timestamp;

/// Claims a resumed lane may have at once, step by step: one probe, then a ramp. A step is passed when as many claims
/// of it ended well as it may have at once.
pub const STEPS: [u32; 4] = [1, 1, 2, 4];

/// Fingerprints whose recent failures are remembered per lane: beyond it the one that failed longest ago is let go.
const FINGERPRINTS_MAX: usize = 1_000;

/// What the breaker goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerTerms {
    /// So many failures of one fingerprint in one lane pause it.
    pub failures: usize,
    /// Within so many milliseconds.
    pub window_ms: i64,
}

/// Who paused a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PausedBy {
    /// The lane itself.
    Breaker,
    /// A person.
    Person,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// By whom.
    pub by: PausedBy,
    /// Why, in words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself; never when `None`.
    pub until: Option<Timestamp>,
    /// The failure that repeated, if one did.
    pub fingerprint: Option<String>,
}

/// A claim that was let into a lane that is opening again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// For which todo.
    pub todo: TodoKey,
    /// Under which token.
    pub token: u64,
}

/// Where a lane is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Gate {
    /// Everybody is let in, up to the WIP limit.
    Open,
    /// Nobody is.
    Paused(Pause),
    /// A few are.
    Probing {
        /// Index into [`STEPS`].
        step: usize,
        /// Claims of this step that ended well.
        passed: u32,
        /// Claims that were let in and are not over.
        out: Vec<Permit>,
    },
}

/// A lane, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneState {
    /// Its name.
    pub lane: Lane,
    /// Rises with every resume.
    pub generation: u64,
    /// Where it is.
    pub gate: Gate,
    /// Since when.
    pub since: Option<Timestamp>,
}

/// Why a lane gets no further claim now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneObstacle {
    /// It is paused.
    Paused(Pause),
    /// It is opening again, and as many claims as this step may have are out.
    Probing {
        /// How many that is.
        width: u32,
    },
    /// It has as many claims as it may have.
    Full {
        /// Claims it has.
        wip: usize,
        /// Claims it may have.
        limit: usize,
    },
}

/// How a claim ended, as its lane sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneEnd {
    /// Well.
    Passed,
    /// Its work failed, or its lease ran out.
    Failed {
        /// In words.
        what: String,
        /// What failed.
        fingerprint: String,
    },
    /// Neither: it was given back, or waits for a person.
    Returned,
}

impl LaneState {
    /// A lane nobody has heard of before: open.
    #[must_use]
    pub fn new(lane: Lane) -> Self {
        Self { lane, generation: 1, gate: Gate::Open, since: None }
    }

    /// Whether one more claim may be granted, with `wip` of them living.
    pub fn admit(&self, wip: usize, limit: Option<usize>) -> Result<(), LaneObstacle> {
        match &self.gate {
            Gate::Paused(pause) => return Err(LaneObstacle::Paused(pause.clone())),
            Gate::Probing { step, out, .. } if out.len() >= STEPS[*step] as usize => {
                return Err(LaneObstacle::Probing { width: STEPS[*step] });
            }
            Gate::Open | Gate::Probing { .. } => {}
        }
        match limit {
            Some(limit) if wip >= limit => Err(LaneObstacle::Full { wip, limit }),
            _ => Ok(()),
        }
    }

    /// A claim was granted: while the lane is opening again it takes a permit. Whether anything changed.
    pub fn granted(&mut self, todo: &TodoKey, token: u64) -> bool {
        match &mut self.gate {
            Gate::Probing { out, .. } => {
                out.push(Permit { todo: todo.clone(), token });
                true
            }
            Gate::Open | Gate::Paused(_) => false,
        }
    }

    /// A claim of this lane is over. Only one that holds a permit moves the lane. Whether anything changed.
    pub fn ended(&mut self, todo: &TodoKey, token: u64, end: &LaneEnd, now: Timestamp) -> bool {
        let Gate::Probing { step, passed, out } = &mut self.gate else { return false };
        let Some(at) = out.iter().position(|permit| permit.todo == *todo && permit.token == token) else {
            return false;
        };
        out.remove(at);
        match end {
            LaneEnd::Returned => {}
            LaneEnd::Passed => {
                *passed += 1;
                if *passed >= STEPS[*step] {
                    (*step, *passed) = (*step + 1, 0);
                }
                if *step >= STEPS.len() {
                    self.gate = Gate::Open;
                    self.since = Some(now);
                }
            }
            LaneEnd::Failed { what, fingerprint } => self.pause(Pause {
                by: PausedBy::Breaker,
                reason: format!("the lane was opening again, and {todo} did not end well: {what}"),
                since: now,
                until: None,
                fingerprint: Some(fingerprint.clone()),
            }),
        }
        true
    }

    /// Whether a claim holds a permit, so that its end moves the lane.
    #[must_use]
    pub fn holds(&self, todo: &TodoKey, token: u64) -> bool {
        match &self.gate {
            Gate::Probing { out, .. } => out.iter().any(|permit| permit.todo == *todo && permit.token == token),
            Gate::Open | Gate::Paused(_) => false,
        }
    }

    /// Nobody is let in from here on.
    pub fn pause(&mut self, pause: Pause) {
        self.since = Some(pause.since);
        self.gate = Gate::Paused(pause);
    }

    /// A new generation begins with one probe. Nothing happens to a lane that is not paused. Whether anything changed.
    pub fn resume(&mut self, now: Timestamp) -> bool {
        if !matches!(self.gate, Gate::Paused(_)) {
            return false;
        }
        self.generation += 1;
        self.since = Some(now);
        self.gate = Gate::Probing { step: 0, passed: 0, out: Vec::new() };
        true
    }

    /// Whether its pause ends by itself, and that time has come.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        matches!(&self.gate, Gate::Paused(Pause { until: Some(until), .. }) if now >= *until)
    }

    /// The pause, while there is one.
    #[must_use]
    pub fn paused(&self) -> Option<&Pause> {
        match &self.gate {
            Gate::Paused(pause) => Some(pause),
            Gate::Open | Gate::Probing { .. } => None,
        }
    }

    /// Whether failures can pause it: a person's pause and one that stands until a person resumes it stay as they are.
    #[must_use]
    pub fn can_trip(&self) -> bool {
        match &self.gate {
            Gate::Open | Gate::Probing { .. } => true,
            Gate::Paused(pause) => pause.by == PausedBy::Breaker && pause.until.is_some(),
        }
    }
}

/// The recent failures of one lane in its current generation, by fingerprint. Built again from the ledger's failures.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    recent: HashMap<String, VecDeque<Timestamp>>,
}

impl Tally {
    /// Notes a failure and says how many of its fingerprint are in `(at - window, at]`, up to the breaker's number.
    pub fn note(&mut self, fingerprint: &str, at: Timestamp, terms: &BreakerTerms) -> usize {
        if self.recent.len() >= FINGERPRINTS_MAX && !self.recent.contains_key(fingerprint) {
            let oldest = self.recent.iter().min_by_key(|(_, times)| times.back().copied());
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.recent.remove(&name);
            }
        }
        let times = self.recent.entry(fingerprint.to_owned()).or_default();
        times.push_back(at);
        if times.len() > terms.failures {
            times.pop_front();
        }
        let begin = at.plus_ms(-terms.window_ms);
        times.iter().filter(|&&time| begin < time && time <= at).count()
    }

    /// A new generation counts from nothing.
    pub fn clear(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RepoName, Slug};
    use proptest::prelude::*;

    const TERMS: BreakerTerms = BreakerTerms { failures: 3, window_ms: 86_400_000 };

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn lane() -> LaneState {
        LaneState::new(Lane::parse("builder").expect("lane"))
    }

    fn todo(name: &str) -> TodoKey {
        TodoKey { repo: RepoName::parse("app").expect("name"), slug: Slug::parse(name).expect("slug") }
    }

    fn by_breaker(until: Option<i64>) -> Pause {
        Pause {
            by: PausedBy::Breaker,
            reason: "it repeats".into(),
            since: at(0),
            until: until.map(at),
            fingerprint: Some("f".into()),
        }
    }

    fn failed() -> LaneEnd {
        LaneEnd::Failed { what: "it broke".into(), fingerprint: "f".into() }
    }

    fn resumed() -> LaneState {
        let mut lane = lane();
        lane.pause(by_breaker(None));
        assert!(lane.resume(at(1)));
        lane
    }

    #[test]
    fn the_breaker_counts_three_failures_and_not_two_within_the_window_to_the_millisecond() {
        for (third, expected) in [(86_399_999, 3), (86_400_000, 2), (86_400_001, 2)] {
            let mut tally = Tally::default();
            tally.note("f", at(0), &TERMS);
            tally.note("f", at(10), &TERMS);
            assert_eq!(tally.note("f", at(third), &TERMS), expected, "{third}");
        }
    }

    #[test]
    fn one_todo_that_fails_six_times_counts_six_failures() {
        let mut tally = Tally::default();
        let counts: Vec<usize> = (0..6).map(|n| tally.note("f", at(n), &TERMS)).collect();
        assert_eq!(counts, [1, 2, 3, 3, 3, 3]);
    }

    #[test]
    fn different_failures_are_counted_apart() {
        let mut tally = Tally::default();
        assert_eq!(
            [tally.note("a", at(0), &TERMS), tally.note("b", at(0), &TERMS), tally.note("a", at(1), &TERMS)],
            [1, 1, 2]
        );
    }

    #[test]
    fn a_full_tally_forgets_the_oldest_for_a_new_failure_and_nothing_for_a_known_one() {
        let mut tally = Tally::default();
        for (number, when) in (0..FINGERPRINTS_MAX).zip(0..) {
            tally.note(&format!("f{number}"), at(when), &TERMS);
        }
        let full = i64::try_from(FINGERPRINTS_MAX).expect("a small number");
        assert_eq!(tally.note("f1", at(full), &TERMS), 2);
        assert_eq!(tally.note("new", at(full), &TERMS), 1);
        assert_eq!(tally.recent.len(), FINGERPRINTS_MAX);
        assert_eq!((tally.note("f2", at(full), &TERMS), tally.note("f0", at(full), &TERMS)), (2, 1));
    }

    #[test]
    fn failures_from_the_future_of_a_clock_that_was_set_back_do_not_count() {
        let mut tally = Tally::default();
        tally.note("f", at(1_000_000), &TERMS);
        tally.note("f", at(1_000_001), &TERMS);
        assert_eq!(tally.note("f", at(5), &TERMS), 1);
    }

    #[test]
    fn a_resume_lets_exactly_one_probe_in_then_one_two_four_then_everybody() {
        let mut lane = resumed();
        let (mut token, mut widths) = (0, Vec::new());
        while lane.gate != Gate::Open {
            let mut out = Vec::new();
            while lane.admit(0, None).is_ok() {
                token += 1;
                assert!(lane.granted(&todo("a"), token));
                out.push(token);
            }
            widths.push(out.len());
            for token in out {
                assert!(lane.ended(&todo("a"), token, &LaneEnd::Passed, at(2)));
            }
        }
        assert_eq!((widths, lane.generation), (vec![1, 1, 2, 4], 2));
    }

    #[test]
    fn a_failed_probe_closes_the_lane_again_and_a_cancelled_one_gives_its_permit_back() {
        let mut lane = resumed();
        lane.granted(&todo("a"), 1);
        assert_eq!(lane.admit(0, None), Err(LaneObstacle::Probing { width: 1 }));
        lane.ended(&todo("a"), 1, &LaneEnd::Returned, at(2));
        assert_eq!(lane.admit(0, None), Ok(()));
        lane.granted(&todo("b"), 1);
        lane.ended(&todo("b"), 1, &failed(), at(3));
        assert_eq!(
            lane.paused().map(|pause| (pause.by, pause.fingerprint.as_deref())),
            Some((PausedBy::Breaker, Some("f")))
        );
        assert_eq!(lane.generation, 2, "closing again is no resume");
    }

    #[test]
    fn claims_from_before_a_pause_neither_probe_nor_close() {
        let mut lane = resumed();
        lane.granted(&todo("new"), 1);
        let before = lane.clone();
        assert!(!lane.ended(&todo("old"), 1, &failed(), at(2)) && !lane.ended(&todo("new"), 7, &failed(), at(2)));
        assert_eq!(lane, before);
    }

    #[test]
    fn a_pause_without_an_end_stays_and_one_with_an_end_is_due_at_that_instant() {
        let mut lane = lane();
        lane.pause(Pause { by: PausedBy::Person, ..by_breaker(None) });
        assert!(!lane.is_due(at(i64::MAX)) && !lane.can_trip());
        lane.pause(by_breaker(Some(50)));
        assert!(!lane.is_due(at(49)) && lane.is_due(at(50)) && lane.can_trip());
    }

    #[test]
    fn a_second_resume_begins_no_second_generation() {
        let mut lane = resumed();
        assert!(!lane.resume(at(9)));
        assert_eq!(lane.generation, 2);
    }

    #[test]
    fn the_wip_limit_holds_in_every_state() {
        assert_eq!(lane().admit(4, Some(4)), Err(LaneObstacle::Full { wip: 4, limit: 4 }));
        assert_eq!(resumed().admit(4, Some(4)), Err(LaneObstacle::Full { wip: 4, limit: 4 }));
        assert_eq!(lane().admit(3, Some(4)), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// A model as plain as can be, stepped beside the lane: which permits are out, how many steps have passed.
        #[test]
        fn a_lane_is_its_model_over_ten_thousand_schedules(
            steps in proptest::collection::vec((0_u8..7, 0_usize..6), 1..60),
        ) {
            let mut lane = lane();
            let (mut paused, mut level, mut passed, mut generation) = (false, None::<usize>, 0_u32, 1_u64);
            let mut out: Vec<u64> = Vec::new();
            let mut old: Vec<u64> = Vec::new();
            let mut token = 0;
            for (what, which) in steps {
                match what {
                    0 | 1 => {
                        let free = !paused && level.is_none_or(|level| out.len() < STEPS[level] as usize);
                        prop_assert_eq!(lane.admit(0, None).is_ok(), free);
                        if free {
                            token += 1;
                            lane.granted(&todo("a"), token);
                            if level.is_some() { out.push(token) } else { old.push(token) }
                        }
                    }
                    2 => {
                        lane.pause(by_breaker(None));
                        old.append(&mut out);
                        (paused, level) = (true, None);
                    }
                    3 => {
                        prop_assert_eq!(lane.resume(at(1)), paused);
                        if paused {
                            (paused, level, passed) = (false, Some(0), 0);
                            generation += 1;
                        }
                    }
                    _ => {
                        let end = match what { 4 => LaneEnd::Passed, 5 => failed(), _ => LaneEnd::Returned };
                        if let Some(&token) = old.get(which) {
                            prop_assert!(!lane.ended(&todo("a"), token, &end, at(1)));
                            old.remove(which);
                        } else if !out.is_empty() {
                            let token = out.remove(which % out.len());
                            prop_assert!(lane.ended(&todo("a"), token, &end, at(1)));
                            match (end, level) {
                                (LaneEnd::Passed, Some(at)) => {
                                    passed += 1;
                                    if passed == STEPS[at] { (level, passed) = (Some(at + 1).filter(|&next| next < STEPS.len()), 0) }
                                    if level.is_none() { old.append(&mut out) }
                                }
                                (LaneEnd::Failed { .. }, _) => { old.append(&mut out); (paused, level) = (true, None) }
                                _ => {}
                            }
                        }
                    }
                }
                prop_assert_eq!(lane.paused().is_some(), paused);
                prop_assert_eq!(lane.generation, generation);
                prop_assert_eq!(matches!(lane.gate, Gate::Open), !paused && level.is_none());
            }
        }

        /// The tally is the plain count over everything that was ever noted, up to the breaker's number.
        #[test]
        fn a_tally_counts_what_a_list_of_everything_counts(
            times in proptest::collection::vec((0_i64..40, 0_u8..3), 1..60),
        ) {
            let terms = BreakerTerms { failures: 3, window_ms: 50 };
            let (mut tally, mut all, mut now) = (Tally::default(), Vec::new(), 0);
            for (pass, which) in times {
                now += pass;
                all.push((which, now));
                let count = all.iter().filter(|&&(name, time)| name == which && now - 50 < time && time <= now).count();
                prop_assert_eq!(tally.note(&which.to_string(), at(now), &terms), count.min(3));
            }
        }
    }
}
