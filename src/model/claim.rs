//! The lease that gives one worker one todo.

use serde::{Deserialize, Serialize};

use super::ids::{Lane, TodoKey, Worker};
use super::time::Timestamp;

/// A grant, as the ledger keeps it.
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
    /// When it was granted.
    pub granted_at: Timestamp,
    /// From this instant on it is over.
    pub expires_at: Timestamp,
}

impl Claim {
    /// Whether the lease still runs. One rule for everybody: it is over when `now >= expires_at`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }

    /// Whether this worker of this lane holds it.
    #[must_use]
    pub fn is_held_by(&self, lane: &Lane, worker: &Worker) -> bool {
        self.lane == *lane && self.worker == *worker
    }
}

/// What a request for a todo leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The same worker's lease still runs: the same grant again, nothing to write.
    Repeat(Claim),
    /// A new grant to be made durable.
    Grant(Claim),
    /// Somebody else's lease runs.
    Held(Claim),
}

/// Decides a request for `todo` by `worker` of `lane`.
///
/// `latest` is the newest claim ever granted for the todo, live or not: the next token is above it.
#[must_use]
pub fn decide(
    latest: Option<&Claim>,
    todo: &TodoKey,
    lane: &Lane,
    worker: &Worker,
    now: Timestamp,
    lease_ms: i64,
) -> ClaimOutcome {
    match latest {
        Some(claim) if claim.is_live(now) && claim.is_held_by(lane, worker) => ClaimOutcome::Repeat(claim.clone()),
        Some(claim) if claim.is_live(now) => ClaimOutcome::Held(claim.clone()),
        _ => ClaimOutcome::Grant(Claim {
            todo: todo.clone(),
            token: latest.map_or(1, |claim| claim.token + 1),
            lane: lane.clone(),
            worker: worker.clone(),
            granted_at: now,
            expires_at: now.plus_ms(lease_ms),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RepoName, Slug};
    use proptest::prelude::*;

    fn todo() -> TodoKey {
        TodoKey { repo: RepoName::parse("app").expect("name"), slug: Slug::parse("fix").expect("slug") }
    }

    proptest! {
        /// A model of what the rule promises, over arbitrary schedules of two workers and a moving clock.
        #[test]
        fn at_most_one_live_holder_and_tokens_only_rise(steps in proptest::collection::vec((0_u8..3, 0_i64..150), 1..60)) {
            let lane = Lane::parse("builder").expect("lane");
            let mut now = Timestamp::from_ms(0);
            let mut latest: Option<Claim> = None;
            for (who, pass) in steps {
                now = now.plus_ms(pass);
                let worker = Worker::parse(&format!("w{who}")).expect("worker");
                match decide(latest.as_ref(), &todo(), &lane, &worker, now, 100) {
                    ClaimOutcome::Grant(claim) => {
                        if let Some(before) = &latest {
                            prop_assert!(claim.token > before.token);
                            prop_assert!(now >= before.expires_at);
                        }
                        latest = Some(claim);
                    }
                    ClaimOutcome::Repeat(claim) => {
                        prop_assert_eq!(&claim.worker, &worker);
                        prop_assert_eq!(Some(&claim), latest.as_ref());
                    }
                    ClaimOutcome::Held(claim) => {
                        prop_assert_ne!(&claim.worker, &worker);
                        prop_assert!(claim.is_live(now));
                    }
                }
            }
        }
    }

    #[test]
    fn a_lease_is_over_at_the_instant_it_names() {
        let lane = Lane::parse("l").expect("lane");
        let worker = Worker::default_of_lane();
        let ClaimOutcome::Grant(claim) = decide(None, &todo(), &lane, &worker, Timestamp::from_ms(10), 5) else {
            panic!("nothing was held")
        };
        assert!(claim.is_live(Timestamp::from_ms(14)));
        assert!(!claim.is_live(Timestamp::from_ms(15)));
    }
}
