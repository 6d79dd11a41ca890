//! The lease that gives one worker one todo, and the arithmetic of its end: pure.
//!
//! Two clocks run in a lease. A worker is **alive** when it sends heartbeats; it makes **progress** when what it reports
//! is new. A heartbeat carries the lease on, but never further than `progress_ms` behind the last progress: so a ticker
//! cannot keep a wedged worker alive, and a silent worker that thinks for half an hour is not taken for a dead one.

use serde::{Deserialize, Serialize};

use super::ids::{Lane, TodoKey, Worker};
use super::time::{Awake, Moment, Timestamp};

/// What leases and attempts are measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How long a lease lasts without a heartbeat, in milliseconds.
    pub lease_ms: i64,
    /// How often a holder should send one, in milliseconds.
    pub heartbeat_every_ms: i64,
    /// How long heartbeats alone carry a lease behind the last progress, in milliseconds.
    pub progress_ms: i64,
    /// How long a claim may wait for a person in all, in milliseconds.
    pub hold_max_ms: i64,
    /// Attempts after which a todo is blocked until a person looks at it.
    pub attempts_max: u32,
    /// Wait after the first failed attempt, in milliseconds; doubles with each further one.
    pub backoff_min_ms: i64,
    /// The wait never exceeds this, in milliseconds.
    pub backoff_max_ms: i64,
}

impl Terms {
    /// How long a todo waits after its `attempts`-th failed attempt, in milliseconds.
    #[must_use]
    pub fn backoff_ms(&self, attempts: u32) -> i64 {
        let doublings = attempts.saturating_sub(1).min(32);
        self.backoff_min_ms.saturating_mul(1_i64 << doublings).min(self.backoff_max_ms)
    }
}

/// A grant, as the ledger keeps it. Its end is in waking time of the daemon ([`Awake`]), so neither sleep nor a step of
/// the wall clock nor a restart moves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What was granted.
    pub todo: TodoKey,
    /// Fencing token: strictly rising per todo, never used twice.
    pub token: u64,
    /// The lane of the holder.
    pub lane: Lane,
    /// The holder.
    pub worker: Worker,
    /// When it was granted, by the wall clock.
    pub granted_at: Timestamp,
    /// From this instant on it is over.
    pub expires: Awake,
    /// When the holder last gave a sign of life.
    pub alive: Awake,
    /// When the holder last reported something new.
    pub progress: Awake,
    /// What it last reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Waiting for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// The lane's generation when it was granted: what becomes of the claim counts in that generation alone.
    #[serde(default)]
    pub generation: u64,
}

/// A claim that waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Until when.
    pub until: Awake,
    /// For what.
    pub why: String,
    /// How much of `hold_max_ms` this claim has used.
    pub used_ms: i64,
}

/// A hold that is asked for is longer than what is left of the claim's allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldTooLong {
    /// What is left, in milliseconds.
    pub left_ms: i64,
}

impl Claim {
    /// Whether the lease still runs. One rule for everybody: it is over when `now >= expires`.
    #[must_use]
    pub fn is_live(&self, now: Awake) -> bool {
        now < self.expires
    }

    /// Whether this worker of this lane holds it.
    #[must_use]
    pub fn is_held_by(&self, lane: &Lane, worker: &Worker) -> bool {
        self.lane == *lane && self.worker == *worker
    }

    /// Its end as the wall clock will show it.
    #[must_use]
    pub fn expires_at(&self, now: &Moment) -> Timestamp {
        now.wall_of(self.expires)
    }

    /// When something last came of it. A hold counts as progress until it ends, but nothing came of it since it began.
    #[must_use]
    pub fn progressed(&self) -> Awake {
        self.progress.min(self.alive)
    }

    /// Whether heartbeats no longer carry it a whole lease on, because nothing new was reported for long.
    #[must_use]
    pub fn wants_progress(&self, now: Awake, terms: &Terms) -> bool {
        self.progress.plus_ms(terms.progress_ms) < now.plus_ms(terms.lease_ms)
    }

    /// The claim after a sign of life. `extend_ms` of at most a lease is counted from now; the end never comes nearer.
    #[must_use]
    pub fn heartbeat(&self, note: Option<&str>, extend_ms: Option<i64>, now: Awake, terms: &Terms) -> Self {
        let mut claim = self.clone();
        claim.alive = now;
        if let Some(note) = note.filter(|note| Some(*note) != self.note.as_deref()) {
            claim.progress = claim.progress.max(now);
            claim.note = Some(note.to_owned());
        }
        let extend_ms = extend_ms.unwrap_or(terms.lease_ms).clamp(0, terms.lease_ms);
        let end = now.plus_ms(extend_ms).min(claim.progress.plus_ms(terms.progress_ms));
        claim.expires = claim.expires.max(end);
        claim
    }

    /// The claim while it waits for a person: the lease covers the wait, and the wait is no lack of progress.
    pub fn held(&self, for_ms: i64, why: &str, now: Awake, terms: &Terms) -> Result<Self, HoldTooLong> {
        let (covered, used_ms) = self.hold.as_ref().map_or((now, 0), |hold| (hold.until.max(now), hold.used_ms));
        let until = now.plus_ms(for_ms);
        let used_ms = used_ms.saturating_add(until.since_ms(covered).max(0));
        if used_ms > terms.hold_max_ms {
            let before = self.hold.as_ref().map_or(0, |hold| hold.used_ms);
            return Err(HoldTooLong { left_ms: terms.hold_max_ms - before + covered.since_ms(now) });
        }
        let mut claim = self.clone();
        claim.alive = now;
        claim.expires = claim.expires.max(until);
        claim.progress = claim.progress.max(until);
        claim.hold = Some(Hold { until: until.max(covered), why: why.to_owned(), used_ms });
        Ok(claim)
    }

    /// The claim with its lease carried to `end` at least: the daemon itself is at work for the holder until then.
    #[must_use]
    pub fn carried_to(&self, end: Awake) -> Self {
        Self { expires: self.expires.max(end), ..self.clone() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::ids::{RepoName, Slug};
    use proptest::prelude::*;

    /// Terms with round numbers.
    pub const TERMS: Terms = Terms {
        lease_ms: 100,
        heartbeat_every_ms: 10,
        progress_ms: 300,
        hold_max_ms: 1_000,
        attempts_max: 3,
        backoff_min_ms: 50,
        backoff_max_ms: 150,
    };

    fn at(ms: i64) -> Awake {
        Awake::from_ms(ms)
    }

    fn claim() -> Claim {
        Claim {
            todo: TodoKey { repo: RepoName::parse("app").expect("name"), slug: Slug::parse("fix").expect("slug") },
            token: 1,
            lane: Lane::parse("builder").expect("lane"),
            worker: Worker::default_of_lane(),
            granted_at: Timestamp::from_ms(0),
            expires: at(100),
            alive: at(0),
            progress: at(0),
            note: None,
            hold: None,
            generation: 1,
        }
    }

    #[test]
    fn a_lease_is_over_at_the_instant_it_names() {
        assert!(claim().is_live(at(99)));
        assert!(!claim().is_live(at(100)));
    }

    #[test]
    fn a_ticker_cannot_keep_a_wedged_worker_alive_for_ever() {
        let mut wedged = claim();
        let mut now = 0;
        while wedged.is_live(at(now)) {
            wedged = wedged.heartbeat(Some("the same as ever"), None, at(now), &TERMS);
            now += 10;
            assert!(now < 10_000, "the lease never ends");
        }
        assert_eq!(wedged.expires, at(300), "heartbeats end progress_ms behind the last progress");
    }

    #[test]
    fn a_silent_worker_mid_thought_keeps_its_whole_lease() {
        let thinking = claim().heartbeat(Some("thinking"), None, at(5), &TERMS);
        assert!(thinking.is_live(at(104)));
    }

    #[test]
    fn what_is_new_carries_the_lease_on_and_what_is_not_does_not() {
        let first = claim().heartbeat(Some("a"), None, at(50), &TERMS);
        assert_eq!((first.progress, first.expires), (at(50), at(150)));
        let same = first.heartbeat(Some("a"), None, at(340), &TERMS);
        assert_eq!((same.progress, same.expires), (at(50), at(350)));
        assert!(same.wants_progress(at(340), &TERMS));
        assert!(first.wants_progress(at(251), &TERMS) && !first.wants_progress(at(250), &TERMS));
        let new = first.heartbeat(Some("b"), None, at(340), &TERMS);
        assert_eq!((new.progress, new.expires), (at(340), at(440)));
    }

    #[test]
    fn the_daemons_own_work_carries_a_lease_on_and_never_ends_it_sooner() {
        let carried = claim().carried_to(at(150));
        assert_eq!((carried.expires, carried.carried_to(at(120)).expires), (at(150), at(150)));
    }

    #[test]
    fn nothing_came_of_a_claim_in_the_future_while_it_waits_for_a_person() {
        let held = claim().heartbeat(Some("begun"), None, at(20), &TERMS).held(500, "the design", at(40), &TERMS);
        let held = held.expect("may wait");
        assert_eq!((held.progress, held.progressed()), (at(540), at(40)));
    }

    #[test]
    fn a_hold_is_bounded_in_all_and_asking_again_costs_only_what_is_added() {
        let held = claim().held(400, "which database?", at(0), &TERMS).expect("fits");
        assert_eq!((held.expires, held.hold.as_ref().map(|hold| hold.used_ms)), (at(400), Some(400)));
        let again = held.held(400, "which database?", at(100), &TERMS).expect("fits");
        assert_eq!(again.hold.as_ref().map(|hold| (hold.until, hold.used_ms)), Some((at(500), 500)));
        assert_eq!(again.held(1_000, "still?", at(200), &TERMS), Err(HoldTooLong { left_ms: 800 }));
        assert!(again.held(800, "still?", at(200), &TERMS).is_ok());
        assert!(again.heartbeat(None, None, at(500), &TERMS).is_live(at(599)), "a hold is no lack of progress");
    }

    #[test]
    fn the_wait_after_a_failure_doubles_up_to_its_limit() {
        let waits: Vec<i64> = (1..=5).map(|attempt| TERMS.backoff_ms(attempt)).collect();
        assert_eq!(waits, [50, 100, 150, 150, 150]);
        assert_eq!(TERMS.backoff_ms(u32::MAX), 150);
    }

    proptest! {
        #[test]
        fn no_heartbeat_and_no_hold_ever_shortens_a_lease(
            steps in proptest::collection::vec((0_i64..120, 0_u8..4, proptest::option::of(-50_i64..400)), 1..80),
        ) {
            let (mut claim, mut now) = (claim(), at(0));
            for (pass, what, extend) in steps {
                now = now.plus_ms(pass);
                let before = claim.expires;
                claim = match what {
                    0 => claim.heartbeat(None, extend, now, &TERMS),
                    1 => claim.heartbeat(Some(&format!("{pass}")), extend, now, &TERMS),
                    2 => claim.held(extend.unwrap_or(1).max(1), "person", now, &TERMS).unwrap_or(claim),
                    _ => claim.carried_to(now.plus_ms(extend.unwrap_or(0))),
                };
                prop_assert!(claim.expires >= before);
                let used = claim.hold.as_ref().map_or(0, |hold| hold.used_ms);
                prop_assert!(used <= TERMS.hold_max_ms);
            }
        }
    }
}
