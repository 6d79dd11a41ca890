//! Readiness: whether automation may rely on the daemon now. A pure state machine over what was seen of each criterion.
//!
//! One bad sighting is a glitch and one good one is luck: a criterion fails after several failing sightings in a row over
//! a minimum span, and passes after several good ones. Sightings too far apart are not in a row. What was last seen
//! counts only so long: old evidence, good or bad, is `UNKNOWN`. What was stored by an earlier daemon counts until live
//! evidence decides, and not beyond its own age limit; what bears a stamp from the future was never seen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::{Awake, Moment, Timestamp};

/// What is said of a criterion, and of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// Relied on.
    #[serde(rename = "GO")]
    Go,
    /// Not to be relied on.
    #[serde(rename = "NO_GO")]
    NoGo,
    /// Nobody knows.
    #[serde(rename = "UNKNOWN")]
    Unknown,
}

impl Verdict {
    /// Its word in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Go => "GO",
            Self::NoGo => "NO_GO",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// What readiness is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// The daemon's own duties are done in time.
    Jobs,
    /// Todos that can be claimed are claimed.
    SustainedBacklogStall,
    /// No lane has paused itself.
    Lanes,
    /// The ledger can be written and read.
    Store,
    /// The runtime turns, and no actor was given up.
    Runtime,
    /// There is room on disk.
    Disk,
    /// No critical incident is open.
    Incidents,
}

impl Criterion {
    /// All of them, in the order they are shown.
    pub const ALL: [Self; 7] =
        [Self::Jobs, Self::SustainedBacklogStall, Self::Lanes, Self::Store, Self::Runtime, Self::Disk, Self::Incidents];

    /// Its name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::SustainedBacklogStall => "sustained_backlog_stall",
            Self::Lanes => "lanes",
            Self::Store => "store",
            Self::Runtime => "runtime",
            Self::Disk => "disk",
            Self::Incidents => "incidents",
        }
    }
}

/// What was seen of a criterion at one evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// It holds; in words.
    Well(String),
    /// It does not; in words.
    Failing(String),
    /// It could not be found out; in words. Never counts as good, nor as bad.
    Unseen(String),
}

/// What readiness goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadinessTerms {
    /// Failing sightings in a row until a criterion is `NO_GO`.
    pub fail_after: u32,
    /// Good sightings in a row until it is `GO`.
    pub pass_after: u32,
    /// The failing sightings have to span at least so many milliseconds.
    pub min_span_ms: i64,
    /// Sightings further apart than so many milliseconds are not in a row.
    pub max_gap_ms: i64,
    /// Evidence of so many milliseconds says nothing any more.
    pub evidence_max_ms: i64,
    /// The same of evidence an earlier daemon stored.
    pub stored_max_ms: i64,
}

/// When evidence was gathered, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// By this daemon.
    Live(Awake),
    /// By an earlier one, as long ago as this instant is.
    Stored(Awake),
}

/// One criterion's state.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    verdict: Verdict,
    failures: u32,
    passes: u32,
    failing_since: Option<Awake>,
    seen: Option<Seen>,
    detail: String,
}

impl Default for State {
    fn default() -> Self {
        Self {
            verdict: Verdict::Unknown,
            failures: 0,
            passes: 0,
            failing_since: None,
            seen: None,
            detail: "not seen yet".to_owned(),
        }
    }
}

impl State {
    fn observe(&mut self, sighting: &Sighting, now: Awake, terms: &ReadinessTerms) {
        let (Sighting::Well(detail) | Sighting::Failing(detail) | Sighting::Unseen(detail)) = sighting;
        self.detail.clone_from(detail);
        if self.age(now, terms).1 {
            // What was too old to say anything does not say it again because something else was seen.
            self.verdict = Verdict::Unknown;
        }
        let last = match self.seen {
            Some(Seen::Live(at) | Seen::Stored(at)) => Some(at),
            None => None,
        };
        if last.is_none_or(|at| now.since_ms(at) > terms.max_gap_ms || now < at) {
            (self.failures, self.passes, self.failing_since) = (0, 0, None);
        }
        match sighting {
            Sighting::Failing(_) => {
                self.passes = 0;
                self.failures = self.failures.saturating_add(1);
                let since = *self.failing_since.get_or_insert(now);
                if self.failures >= terms.fail_after && now.since_ms(since) >= terms.min_span_ms {
                    self.verdict = Verdict::NoGo;
                }
            }
            Sighting::Well(_) => {
                (self.failures, self.failing_since) = (0, None);
                self.passes = self.passes.saturating_add(1);
                if self.passes >= terms.pass_after {
                    self.verdict = Verdict::Go;
                }
            }
            // Not seen: what was seen before stands until it is too old.
            Sighting::Unseen(_) => {
                self.passes = 0;
                return;
            }
        }
        self.seen = Some(Seen::Live(now));
    }

    /// How old the evidence is, in milliseconds, and whether it is too old to say anything.
    fn age(&self, now: Awake, terms: &ReadinessTerms) -> (Option<i64>, bool) {
        match self.seen {
            None => (None, true),
            Some(Seen::Live(at)) => (Some(now.since_ms(at)), now.since_ms(at) >= terms.evidence_max_ms),
            Some(Seen::Stored(at)) => (Some(now.since_ms(at)), now.since_ms(at) >= terms.stored_max_ms),
        }
    }
}

/// A criterion as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CriterionView {
    /// Which.
    pub name: Criterion,
    /// What is said of it now.
    pub verdict: Verdict,
    /// Failing sightings in a row.
    pub consecutive_failures: u32,
    /// Good sightings in a row.
    pub consecutive_passes: u32,
    /// Failing sightings in a row until it is `NO_GO`.
    pub fail_after: u32,
    /// Good sightings in a row until it is `GO`.
    pub pass_after: u32,
    /// How old what was last seen is, in milliseconds; absent when nothing was.
    pub evidence_age_ms: Option<i64>,
    /// Whether that is too old to say anything.
    pub stale: bool,
    /// Whether it is what an earlier daemon stored.
    pub stored: bool,
    /// What was seen, in words.
    pub detail: String,
}

/// Readiness as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadinessView {
    /// `NO_GO` when a criterion is; else `UNKNOWN` when one is; else `GO`.
    pub verdict: Verdict,
    /// Each criterion.
    pub criteria: Vec<CriterionView>,
}

/// What is stored of a criterion, for the next daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCriterion {
    name: Criterion,
    verdict: Verdict,
    failures: u32,
    passes: u32,
    failing_for_ms: Option<i64>,
    age_ms: i64,
    detail: String,
}

/// What is stored, for the next daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// When it was stored.
    pub at: Timestamp,
    criteria: Vec<StoredCriterion>,
}

/// What became of something that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// It is taken over.
    Fresh,
    /// It is too old to say anything.
    Stale,
    /// It bears a stamp from the future.
    Future,
    /// Not all of it is there.
    Torn(String),
    /// There is nothing.
    Missing,
}

/// The state of every criterion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    terms: ReadinessTerms,
    states: [State; Criterion::ALL.len()],
}

impl Readiness {
    /// Nothing seen yet: everything is `UNKNOWN`.
    #[must_use]
    pub fn new(terms: ReadinessTerms) -> Self {
        Self { terms, states: std::array::from_fn(|_| State::default()) }
    }

    /// What an earlier daemon stored, as far as it still says something; and what became of it.
    #[must_use]
    pub fn restore(terms: ReadinessTerms, stored: Option<&[u8]>, now: &Moment) -> (Self, Restored) {
        let mut fresh = Self::new(terms);
        let Some(bytes) = stored else { return (fresh, Restored::Missing) };
        let stored: Stored = match serde_json::from_slice(bytes) {
            Ok(stored) => stored,
            Err(error) => return (fresh, Restored::Torn(error.to_string())),
        };
        let age = now.wall.as_ms().saturating_sub(stored.at.as_ms());
        if age < 0 {
            return (fresh, Restored::Future);
        }
        if age >= terms.stored_max_ms {
            return (fresh, Restored::Stale);
        }
        for criterion in stored.criteria {
            let seen = now.awake.plus_ms(-age.saturating_add(criterion.age_ms.max(0)));
            fresh.states[criterion.name as usize] = State {
                verdict: criterion.verdict,
                failures: criterion.failures,
                passes: criterion.passes,
                failing_since: criterion.failing_for_ms.map(|ms| seen.plus_ms(-ms.max(0))),
                seen: Some(Seen::Stored(seen)),
                detail: criterion.detail,
            };
        }
        (fresh, Restored::Fresh)
    }

    /// What has to be stored for the next daemon. A criterion nothing is known of is not.
    #[must_use]
    pub fn stored(&self, now: &Moment) -> Stored {
        let criterion = |(name, state): (Criterion, &State)| {
            let (Seen::Live(at) | Seen::Stored(at)) = state.seen?;
            Some(StoredCriterion {
                name,
                verdict: state.verdict,
                failures: state.failures,
                passes: state.passes,
                failing_for_ms: state.failing_since.map(|since| at.since_ms(since)),
                age_ms: now.awake.since_ms(at),
                detail: state.detail.clone(),
            })
        };
        Stored { at: now.wall, criteria: Criterion::ALL.into_iter().zip(&self.states).filter_map(criterion).collect() }
    }

    /// Takes in what was seen of a criterion.
    pub fn observe(&mut self, criterion: Criterion, sighting: &Sighting, now: Awake) {
        self.states[criterion as usize].observe(sighting, now, &self.terms);
    }

    /// What is said now. Looking changes nothing.
    #[must_use]
    pub fn view(&self, now: Awake) -> ReadinessView {
        let view = |(name, state): (Criterion, &State)| {
            let (evidence_age_ms, stale) = state.age(now, &self.terms);
            CriterionView {
                name,
                verdict: if stale { Verdict::Unknown } else { state.verdict },
                consecutive_failures: state.failures,
                consecutive_passes: state.passes,
                fail_after: self.terms.fail_after,
                pass_after: self.terms.pass_after,
                evidence_age_ms,
                stale,
                stored: matches!(state.seen, Some(Seen::Stored(_))),
                detail: state.detail.clone(),
            }
        };
        let criteria: Vec<CriterionView> = Criterion::ALL.into_iter().zip(&self.states).map(view).collect();
        let any = |verdict: Verdict| criteria.iter().any(|criterion| criterion.verdict == verdict);
        let verdict = match (any(Verdict::NoGo), any(Verdict::Unknown)) {
            (true, _) => Verdict::NoGo,
            (false, true) => Verdict::Unknown,
            (false, false) => Verdict::Go,
        };
        ReadinessView { verdict, criteria }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: i64 = 60_000;
    const TERMS: ReadinessTerms = ReadinessTerms {
        fail_after: 2,
        pass_after: 2,
        min_span_ms: 5_000,
        max_gap_ms: 30_000,
        evidence_max_ms: 60_000,
        stored_max_ms: 30 * MINUTE,
    };

    fn at(ms: i64) -> Awake {
        Awake::from_ms(ms)
    }

    fn well() -> Sighting {
        Sighting::Well("well".to_owned())
    }

    fn failing() -> Sighting {
        Sighting::Failing("failing".to_owned())
    }

    fn disk(readiness: &Readiness, now: i64) -> Verdict {
        readiness.view(at(now)).criteria[Criterion::Disk as usize].verdict
    }

    /// A readiness that was seen to be well everywhere, twice, the last time at `ms`.
    fn all_well(ms: i64) -> Readiness {
        let mut readiness = Readiness::new(TERMS);
        for step in [ms - 5_000, ms] {
            Criterion::ALL.into_iter().for_each(|criterion| readiness.observe(criterion, &well(), at(step)));
        }
        readiness
    }

    #[test]
    fn nothing_seen_is_unknown_and_one_good_sighting_is_luck() {
        let mut readiness = Readiness::new(TERMS);
        assert_eq!(readiness.view(at(0)).verdict, Verdict::Unknown);
        Criterion::ALL.into_iter().for_each(|criterion| readiness.observe(criterion, &well(), at(0)));
        assert_eq!(readiness.view(at(0)).verdict, Verdict::Unknown);
        assert_eq!(all_well(5_000).view(at(5_000)).verdict, Verdict::Go);
    }

    #[test]
    fn a_single_glitch_is_never_no_go() {
        let mut readiness = all_well(5_000);
        readiness.observe(Criterion::Disk, &failing(), at(10_000));
        assert_eq!(readiness.view(at(10_000)).verdict, Verdict::Go);
        readiness.observe(Criterion::Disk, &well(), at(15_000));
        readiness.observe(Criterion::Disk, &failing(), at(20_000));
        assert_eq!(readiness.view(at(20_000)).verdict, Verdict::Go);
    }

    #[test]
    fn two_sightings_too_close_together_are_one_glitch_seen_twice() {
        let mut readiness = all_well(5_000);
        readiness.observe(Criterion::Disk, &failing(), at(10_000));
        readiness.observe(Criterion::Disk, &failing(), at(10_001));
        assert_eq!(disk(&readiness, 10_001), Verdict::Go);
        readiness.observe(Criterion::Disk, &failing(), at(15_000));
        assert_eq!(disk(&readiness, 15_000), Verdict::NoGo);
    }

    #[test]
    fn a_sustained_backlog_stall_needs_two_sightings() {
        let mut readiness = all_well(5_000);
        readiness.observe(Criterion::SustainedBacklogStall, &failing(), at(10_000));
        assert_eq!(readiness.view(at(10_000)).verdict, Verdict::Go);
        readiness.observe(Criterion::SustainedBacklogStall, &failing(), at(15_000));
        assert_eq!(readiness.view(at(15_000)).verdict, Verdict::NoGo);
    }

    #[test]
    fn sightings_further_apart_than_the_gap_are_not_in_a_row() {
        let mut readiness = all_well(5_000);
        readiness.observe(Criterion::Disk, &failing(), at(10_000));
        readiness.observe(Criterion::Disk, &failing(), at(10_000 + TERMS.max_gap_ms + 1));
        assert_eq!(disk(&readiness, 10_000 + TERMS.max_gap_ms + 1), Verdict::Go);
        let mut readiness = all_well(5_000);
        readiness.observe(Criterion::Disk, &failing(), at(10_000));
        readiness.observe(Criterion::Disk, &failing(), at(10_000 + TERMS.max_gap_ms));
        assert_eq!(disk(&readiness, 10_000 + TERMS.max_gap_ms), Verdict::NoGo);
    }

    #[test]
    fn what_could_not_be_found_out_is_never_valid_and_ages_into_unknown() {
        let mut readiness = all_well(5_000);
        for step in 2..=12 {
            readiness.observe(Criterion::Disk, &Sighting::Unseen("no answer".to_owned()), at(step * 5_000));
            assert_eq!(disk(&readiness, step * 5_000), Verdict::Go);
        }
        assert_eq!(disk(&readiness, 65_000), Verdict::Unknown);
        let mut never = Readiness::new(TERMS);
        for step in 0..10 {
            never.observe(Criterion::Disk, &Sighting::Unseen("no answer".to_owned()), at(step * 5_000));
        }
        assert_eq!(disk(&never, 50_000), Verdict::Unknown);
    }

    #[test]
    fn a_stale_go_and_a_stale_no_go_are_both_unknown() {
        let mut readiness = all_well(5_000);
        assert_eq!(readiness.view(at(64_999)).verdict, Verdict::Go);
        assert_eq!(readiness.view(at(65_000)).verdict, Verdict::Unknown);
        readiness.observe(Criterion::Disk, &failing(), at(10_000));
        readiness.observe(Criterion::Disk, &failing(), at(15_000));
        assert_eq!(readiness.view(at(74_999)).verdict, Verdict::NoGo);
        assert_eq!(readiness.view(at(75_000)).verdict, Verdict::Unknown);
    }

    /// What is said after a restart so many milliseconds after it was stored.
    fn after(stored: &Readiness, away_ms: i64) -> (Verdict, Restored) {
        let bytes = serde_json::to_vec(&stored.stored(&Moment::both(5_000))).expect("writes");
        let now = Moment::both(5_000 + away_ms);
        let (readiness, restored) = Readiness::restore(TERMS, Some(&bytes), &now);
        (readiness.view(now.awake).verdict, restored)
    }

    #[test]
    fn what_was_stored_counts_for_thirty_minutes_and_not_a_second_longer() {
        let go = all_well(5_000);
        let mut no_go = all_well(5_000);
        no_go.states[Criterion::Disk as usize].verdict = Verdict::NoGo;
        for (stored, verdict) in [(&go, Verdict::Go), (&no_go, Verdict::NoGo)] {
            assert_eq!(after(stored, 30 * MINUTE - 1_000), (verdict, Restored::Fresh), "29:59");
            assert_eq!(after(stored, 30 * MINUTE), (Verdict::Unknown, Restored::Stale), "30:00");
            assert_eq!(after(stored, 30 * MINUTE + 1_000), (Verdict::Unknown, Restored::Stale), "30:01");
        }
    }

    #[test]
    fn a_stored_verdict_goes_stale_while_the_daemon_runs_without_evidence() {
        let bytes = serde_json::to_vec(&all_well(5_000).stored(&Moment::both(5_000))).expect("writes");
        let (readiness, _) = Readiness::restore(TERMS, Some(&bytes), &Moment::both(5_000));
        assert_eq!(readiness.view(at(5_000 + 30 * MINUTE - 1)).verdict, Verdict::Go);
        assert_eq!(readiness.view(at(5_000 + 30 * MINUTE)).verdict, Verdict::Unknown);
    }

    #[test]
    fn a_missing_torn_or_future_file_is_unknown() {
        let bytes = serde_json::to_vec(&all_well(5_000).stored(&Moment::both(5_000))).expect("writes");
        let restored = |bytes: Option<&[u8]>, now: i64| {
            let (readiness, restored) = Readiness::restore(TERMS, bytes, &Moment::both(now));
            assert_eq!(readiness.view(at(now)).verdict, Verdict::Unknown);
            restored
        };
        assert_eq!(restored(None, 6_000), Restored::Missing);
        assert_eq!(restored(Some(&bytes), 4_999), Restored::Future);
        for length in 0..bytes.len() {
            assert!(matches!(restored(Some(&bytes[..length]), 6_000), Restored::Torn(_)), "{length} bytes of it");
        }
    }

    #[test]
    fn live_evidence_wins_over_what_was_stored() {
        let mut no_go = all_well(5_000);
        no_go.states[Criterion::Disk as usize].verdict = Verdict::NoGo;
        let bytes = serde_json::to_vec(&no_go.stored(&Moment::both(5_000))).expect("writes");
        let (mut readiness, _) = Readiness::restore(TERMS, Some(&bytes), &Moment::both(6_000));
        assert_eq!(disk(&readiness, 6_000), Verdict::NoGo);
        for step in [6_000, 11_000] {
            Criterion::ALL.into_iter().for_each(|criterion| readiness.observe(criterion, &well(), at(step)));
        }
        assert_eq!(readiness.view(at(11_000)).verdict, Verdict::Go);
    }

    proptest! {
        /// However often somebody looks, before, between and after: the verdicts are the same.
        #[test]
        fn the_verdict_does_not_depend_on_how_often_it_is_read(
            seen in proptest::collection::vec((0_u8..3, 0_i64..40_000, 0_usize..50), 1..60)
        ) {
            let (mut read, mut unread) = (Readiness::new(TERMS), Readiness::new(TERMS));
            let mut now = 0;
            for (what, gap, looks) in seen {
                now += gap;
                let sighting = || match what {
                    0 => well(),
                    1 => failing(),
                    _ => Sighting::Unseen("no answer".to_owned()),
                };
                for _ in 0..looks {
                    let _ = read.view(at(now));
                }
                read.observe(Criterion::Jobs, &sighting(), at(now));
                unread.observe(Criterion::Jobs, &sighting(), at(now));
                prop_assert_eq!(read.view(at(now)), unread.view(at(now)));
            }
        }

        /// `NO_GO` is only ever said with enough failing sightings in a row, over the span, none of them too far apart.
        #[test]
        fn no_go_is_always_earned(seen in proptest::collection::vec((any::<bool>(), 0_i64..90_000), 1..80)) {
            let mut readiness = Readiness::new(TERMS);
            let (mut now, mut row): (i64, Vec<i64>) = (0, Vec::new());
            for (fails, gap) in seen {
                now += gap;
                if gap > TERMS.max_gap_ms {
                    row.clear();
                }
                let before = disk(&readiness, now);
                if fails { row.push(now) } else { row.clear() }
                readiness.observe(Criterion::Disk, &if fails { failing() } else { well() }, at(now));
                let span = row.last().zip(row.first()).map_or(0, |(last, first)| last - first);
                if disk(&readiness, now) == Verdict::NoGo && before != Verdict::NoGo {
                    prop_assert!(row.len() >= 2 && span >= TERMS.min_span_ms, "at {now}: {row:?}");
                }
            }
        }

        /// Storing and restoring at once changes nothing that is said.
        #[test]
        fn what_is_stored_is_what_comes_back(seen in proptest::collection::vec((0_usize..7, any::<bool>(), 0_i64..9_000), 0..60)) {
            let (mut readiness, mut now) = (Readiness::new(TERMS), 100_000);
            for (criterion, fails, gap) in seen {
                now += gap;
                readiness.observe(Criterion::ALL[criterion], &if fails { failing() } else { well() }, at(now));
            }
            let bytes = serde_json::to_vec(&readiness.stored(&Moment::both(now))).expect("writes");
            let (restored, _) = Readiness::restore(TERMS, Some(&bytes), &Moment::both(now));
            let said = |view: ReadinessView| view.criteria.into_iter().map(|one| (one.name, one.verdict, one.consecutive_failures, one.evidence_age_ms)).collect::<Vec<_>>();
            let fresh = |view: ReadinessView| view.criteria.into_iter().filter(|one| !one.stale).map(|one| one.name).collect::<Vec<_>>();
            let (was, is) = (readiness.view(at(now)), restored.view(at(now)));
            let still: Vec<Criterion> = fresh(was.clone());
            prop_assert_eq!(
                said(was).into_iter().filter(|one| still.contains(&one.0)).collect::<Vec<_>>(),
                said(is).into_iter().filter(|one| still.contains(&one.0)).collect::<Vec<_>>()
            );
        }
    }
}
