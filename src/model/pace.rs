//! How much one caller may ask: requests by a bucket that fills up again, and places that are given back.

use std::collections::HashMap;
use std::hash::Hash;

const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_MS: u64 = 1_000_000;
/// Callers that are told apart; those beyond share one bucket.
const CALLERS_MAX: usize = 1_024;

/// How many requests a caller may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// For ever, each second; any number when 0.
    pub per_s: u64,
    /// At once, after a rest.
    pub burst: u64,
}

/// Until when a bucket fills, in nanoseconds: one that was full long ago is as good as new.
type FullAt = u64;

/// The buckets of all callers.
#[derive(Debug)]
pub struct Buckets<K> {
    pace: Pace,
    by_caller: HashMap<K, FullAt>,
    others: FullAt,
}

impl<K: Eq + Hash> Buckets<K> {
    /// Everybody's is full.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self { pace, by_caller: HashMap::new(), others: 0 }
    }

    /// One request of a caller, at a time in nanoseconds that never goes back. The error says in how many milliseconds
    /// the next one will be let through.
    pub fn take(&mut self, caller: K, now_ns: u64) -> Result<(), u64> {
        if self.pace.per_s == 0 {
            return Ok(());
        }
        if self.by_caller.len() >= CALLERS_MAX && !self.by_caller.contains_key(&caller) {
            self.by_caller.retain(|_, full_at| *full_at > now_ns);
            if self.by_caller.len() >= CALLERS_MAX {
                return self.pace.drawn(&mut self.others, now_ns);
            }
        }
        self.pace.drawn(self.by_caller.entry(caller).or_insert(0), now_ns)
    }
}

impl Pace {
    fn drawn(self, full_at: &mut FullAt, now_ns: u64) -> Result<(), u64> {
        let each = (NS_PER_S / self.per_s).max(1);
        let then = (*full_at).max(now_ns).saturating_add(each);
        let over = (then - now_ns).saturating_sub(each.saturating_mul(self.burst.max(1)));
        if over > 0 {
            return Err(over.div_ceil(NS_PER_MS));
        }
        *full_at = then;
        Ok(())
    }
}

/// Places that callers take and give back, so many each.
#[derive(Debug)]
pub struct Places<K> {
    each_max: usize,
    taken: HashMap<K, usize>,
}

impl<K: Eq + Hash + Copy> Places<K> {
    /// All are free.
    #[must_use]
    pub fn new(each_max: usize) -> Self {
        Self { each_max, taken: HashMap::new() }
    }

    /// Takes one for a caller; whether there was one left. Each that was taken is [given back](Self::give_back).
    pub fn take(&mut self, caller: K) -> bool {
        if self.each_max == 0 {
            return false;
        }
        let taken = self.taken.entry(caller).or_insert(0);
        let left = *taken < self.each_max;
        *taken += usize::from(left);
        left
    }

    /// A caller gives one back that it took.
    pub fn give_back(&mut self, caller: K) {
        if let Some(taken) = self.taken.get_mut(&caller) {
            *taken -= 1;
            if *taken == 0 {
                self.taken.remove(&caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_then_one_each_time_the_pace_says_and_a_rest_fills_up_again() {
        let mut buckets = Buckets::new(Pace { per_s: 1_000, burst: 5 });
        for _ in 0..5 {
            assert_eq!(buckets.take("a", 7), Ok(()));
        }
        assert_eq!(buckets.take("a", 7), Err(1));
        assert_eq!(buckets.take("b", 7), Ok(()), "others are not held up");
        assert_eq!(buckets.take("a", 7 + NS_PER_MS), Ok(()));
        assert!(buckets.take("a", 7 + NS_PER_MS).is_err());
        for _ in 0..5 {
            assert_eq!(buckets.take("a", NS_PER_S), Ok(()));
        }
        assert!(buckets.take("a", NS_PER_S).is_err());
    }

    #[test]
    fn the_wait_that_is_said_is_enough_and_asking_does_not_make_it_longer() {
        let mut buckets = Buckets::new(Pace { per_s: 1, burst: 1 });
        assert_eq!(buckets.take("a", 0), Ok(()));
        for _ in 0..100 {
            assert_eq!(buckets.take("a", 250 * NS_PER_MS), Err(750));
        }
        assert_eq!(buckets.take("a", NS_PER_S), Ok(()));
    }

    #[test]
    fn no_pace_is_any_number() {
        let mut buckets = Buckets::new(Pace { per_s: 0, burst: 1 });
        assert!((0..10_000).all(|_| buckets.take("a", 0).is_ok()));
        assert!(buckets.by_caller.is_empty());
    }

    #[test]
    fn callers_beyond_those_that_are_told_apart_share_and_go_when_they_rest() {
        let mut buckets = Buckets::new(Pace { per_s: 1, burst: 2 });
        for caller in 0..CALLERS_MAX {
            assert_eq!(buckets.take(caller, 0), Ok(()));
        }
        let strangers = CALLERS_MAX..CALLERS_MAX + 5;
        assert_eq!(strangers.clone().filter(|caller| buckets.take(*caller, 1).is_ok()).count(), 2);
        assert_eq!(buckets.take(3, 1), Ok(()), "who is known has a bucket still");
        assert_eq!(buckets.by_caller.len(), CALLERS_MAX);
        assert!(strangers.clone().all(|caller| buckets.take(caller, 3 * NS_PER_S).is_ok()));
        assert_eq!(buckets.by_caller.len(), strangers.len());
    }

    proptest! {
        #[test]
        fn nobody_ever_gets_more_than_burst_and_pace(
            per_s in 1_u64..5_000, burst in 1_u64..50, steps in proptest::collection::vec(0_u64..20_000_000, 1..400),
        ) {
            let mut buckets = Buckets::new(Pace { per_s, burst });
            let (mut now, mut passed) = (0, 0);
            for step in steps {
                now += step;
                passed += u64::from(buckets.take((), now).is_ok());
                let each = NS_PER_S / per_s;
                prop_assert!(passed <= burst + now / each, "{passed} in {now} ns");
            }
        }
    }

    #[test]
    fn each_has_so_many_places_and_gets_them_back() {
        let mut places = Places::new(2);
        assert!(places.take("a") && places.take("a") && !places.take("a") && places.take("b"));
        places.give_back("a");
        assert!(places.take("a") && !places.take("a"));
        for caller in ["a", "a", "b"] {
            places.give_back(caller);
        }
        assert!(places.taken.is_empty());
        assert!(!Places::new(0).take("a"));
    }
}
