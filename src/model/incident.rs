//! Incidents: operational problems on record, from the first sign to the end, with their history. Pure.
//!
//! A sign names what it is about (its key); one incident is open per key. Signs keep it open; its end is told, or it
//! fades: what shows no sign for the stale limit is `recovering` and no longer counts, and what recovers for as long
//! again is resolved.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{Lane, TodoKey};
use super::time::Timestamp;

/// Steps of an incident's history that are kept: the first and the newest.
const HISTORY_MAX: usize = 50;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Somebody should look at it.
    Warning,
    /// The daemon is not to be relied on meanwhile.
    Critical,
}

/// Where an incident is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// It is there.
    Open,
    /// Somebody works on it.
    Remediating,
    /// It has shown no sign for long, or is ending.
    Recovering,
    /// It is over.
    Resolved,
}

/// What an incident is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Links {
    /// A lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// A job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// A hang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hang: Option<String>,
    /// An actor, as `kind:name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The todo that was made to mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<TodoKey>,
}

/// A sign that something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// What it is about, such as `job:fetch`; one incident is open per key.
    pub key: String,
    /// How bad it is.
    pub severity: Severity,
    /// In one line.
    pub title: String,
    /// `Open`, `Remediating` or `Recovering`.
    pub state: IncidentState,
    /// What it is about.
    pub links: Links,
}

/// A step of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentStep {
    /// When.
    pub at: Timestamp,
    /// To where.
    pub state: IncidentState,
    /// In words.
    pub what: String,
}

/// One incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// What it is about.
    pub key: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    pub state: IncidentState,
    /// In one line.
    pub title: String,
    /// When it was first seen.
    pub opened_at: Timestamp,
    /// When it last showed a sign.
    pub seen_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub resolved_at: Option<Timestamp>,
    /// What it is about.
    pub links: Links,
    /// What became of it, oldest first.
    pub history: Vec<IncidentStep>,
}

impl Incident {
    /// Whether readiness has to reckon with it.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.severity == Severity::Critical && matches!(self.state, IncidentState::Open | IncidentState::Remediating)
    }

    fn step(&mut self, at: Timestamp, state: IncidentState, what: impl Into<String>) {
        self.state = state;
        self.updated_at = at;
        self.history.push(IncidentStep { at, state, what: what.into() });
        if self.history.len() > HISTORY_MAX {
            self.history.remove(1);
        }
    }
}

/// The incidents that are not over, by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incidents {
    open: BTreeMap<String, Incident>,
    stale_ms: i64,
}

impl Incidents {
    /// What the ledger has of incidents that are not over; those without a sign for `stale_ms` fade.
    #[must_use]
    pub fn new(stored: Vec<Incident>, stale_ms: i64) -> Self {
        let open = stored.into_iter().filter(|incident| incident.state != IncidentState::Resolved);
        Self { open: open.map(|incident| (incident.key.clone(), incident)).collect(), stale_ms }
    }

    /// Those that are not over.
    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.open.values()
    }

    /// Takes in a sign; what comes back has changed and is to be written. `id` is for a new incident.
    pub fn seen(&mut self, sign: Sign, id: impl FnOnce() -> String, now: Timestamp) -> Option<Incident> {
        let Some(incident) = self.open.get_mut(&sign.key) else {
            let mut incident = Incident {
                id: id(),
                key: sign.key.clone(),
                severity: sign.severity,
                state: sign.state,
                title: sign.title.clone(),
                opened_at: now,
                seen_at: now,
                updated_at: now,
                resolved_at: None,
                links: sign.links,
                history: Vec::new(),
            };
            incident.step(now, sign.state, format!("opened: {}", sign.title));
            self.open.insert(sign.key, incident.clone());
            return Some(incident);
        };
        let long_ago = now.as_ms().saturating_sub(incident.updated_at.as_ms()) >= self.stale_ms / 4;
        incident.seen_at = now;
        let worse = sign.severity > incident.severity;
        let moved = sign.state != incident.state || worse || sign.links != incident.links;
        incident.severity = incident.severity.max(sign.severity);
        incident.links = sign.links;
        if moved {
            incident.title.clone_from(&sign.title);
            incident.step(now, sign.state, sign.title);
        } else if long_ago {
            // The ledger knows that it is still there, in case the daemon ends now.
            incident.updated_at = now;
        } else {
            return None;
        }
        Some(incident.clone())
    }

    /// What a key is about is over.
    pub fn ended(&mut self, key: &str, why: &str, now: Timestamp) -> Option<Incident> {
        let mut incident = self.open.remove(key)?;
        incident.resolved_at = Some(now);
        incident.step(now, IncidentState::Resolved, format!("resolved: {why}"));
        Some(incident)
    }

    /// What has shown no sign for long fades. A sign from the future was never seen.
    pub fn sweep(&mut self, now: Timestamp) -> Vec<Incident> {
        let age = |at: Timestamp| now.as_ms().saturating_sub(at.as_ms());
        let stale = |at: Timestamp, limit: i64| age(at) >= limit || age(at) < 0;
        let mut changed = Vec::new();
        for incident in self.open.values_mut() {
            let counts = matches!(incident.state, IncidentState::Open | IncidentState::Remediating);
            if counts && stale(incident.seen_at, self.stale_ms) {
                incident.step(now, IncidentState::Recovering, "no sign of it for long");
                changed.push(incident.clone());
            }
        }
        let faded = |incident: &&Incident| {
            incident.state == IncidentState::Recovering
                && stale(incident.seen_at, self.stale_ms)
                && age(incident.updated_at) >= self.stale_ms
        };
        let over: Vec<String> = self.open.values().filter(faded).map(|incident| incident.key.clone()).collect();
        changed.extend(over.iter().filter_map(|key| self.ended(key, "it faded", now)));
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: i64 = 60_000;
    const STALE: i64 = 45 * MINUTE;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn sign(key: &str, severity: Severity) -> Sign {
        Sign {
            key: key.to_owned(),
            severity,
            title: format!("{key} is wrong"),
            state: IncidentState::Open,
            links: Links::default(),
        }
    }

    fn state(incidents: &Incidents, key: &str) -> Option<IncidentState> {
        incidents.open.get(key).map(|incident| incident.state)
    }

    #[test]
    fn a_stale_critical_incident_recovers_after_forty_five_minutes_and_not_before() {
        for (age, expected) in [
            (STALE - 1_000, IncidentState::Open),
            (STALE, IncidentState::Recovering),
            (STALE + 1_000, IncidentState::Recovering),
        ] {
            let mut incidents = Incidents::new(Vec::new(), STALE);
            incidents.seen(sign("disk", Severity::Critical), || "1".to_owned(), at(1_000));
            assert!(incidents.open["disk"].blocks());
            incidents.sweep(at(1_000 + age));
            assert_eq!(state(&incidents, "disk"), Some(expected), "{age}");
            assert_eq!(incidents.open["disk"].blocks(), expected == IncidentState::Open);
        }
    }

    #[test]
    fn what_was_stored_in_the_future_was_never_seen() {
        let mut incidents = Incidents::new(Vec::new(), STALE);
        let stored = incidents.seen(sign("disk", Severity::Critical), || "1".to_owned(), at(10 * MINUTE)).expect("new");
        let mut incidents = Incidents::new(vec![stored], STALE);
        incidents.sweep(at(9 * MINUTE));
        assert_eq!(state(&incidents, "disk"), Some(IncidentState::Recovering));
    }

    #[test]
    fn a_sign_brings_a_recovering_incident_back_as_the_same_one() {
        let mut incidents = Incidents::new(Vec::new(), STALE);
        incidents.seen(sign("job:fetch", Severity::Warning), || "1".to_owned(), at(0));
        assert_eq!(incidents.sweep(at(STALE)).len(), 1);
        let back =
            incidents.seen(sign("job:fetch", Severity::Warning), || "2".to_owned(), at(STALE + 1)).expect("moved");
        assert_eq!((back.id.as_str(), back.state, back.history.len()), ("1", IncidentState::Open, 3));
    }

    #[test]
    fn an_incident_that_fades_is_resolved_after_as_long_again() {
        let mut incidents = Incidents::new(Vec::new(), STALE);
        incidents.seen(sign("hang", Severity::Critical), || "1".to_owned(), at(0));
        incidents.sweep(at(STALE));
        assert!(incidents.sweep(at(2 * STALE - 1)).is_empty());
        let over = incidents.sweep(at(2 * STALE));
        assert_eq!(over[0].state, IncidentState::Resolved);
        assert_eq!(incidents.open().count(), 0);
    }

    #[test]
    fn a_sign_that_says_nothing_new_is_not_written_but_keeps_it_open() {
        let mut incidents = Incidents::new(Vec::new(), STALE);
        incidents.seen(sign("disk", Severity::Critical), || "1".to_owned(), at(0));
        let mut written = 0;
        for minute in 1..=600 {
            let now = at(minute * MINUTE);
            written += usize::from(incidents.seen(sign("disk", Severity::Critical), || "2".to_owned(), now).is_some());
            assert!(incidents.sweep(now).is_empty(), "minute {minute}");
        }
        assert!((40..=60).contains(&written), "{written} writes in ten hours");
    }

    proptest! {
        /// At most one incident per key is open, ids never come back after the end, and history is in order and bounded.
        #[test]
        fn incidents_are_one_per_key(
            steps in proptest::collection::vec((0_usize..3, 0_u8..4, 0_i64..50), 1..200)
        ) {
            let (mut incidents, mut now, mut ids, mut over) = (Incidents::new(Vec::new(), STALE), 0_i64, 0, Vec::new());
            for (key, what, minutes) in steps {
                now += minutes * MINUTE;
                let key = ["a", "b", "c"][key];
                let changed = match what {
                    0 | 1 => {
                        let severity = if what == 0 { Severity::Warning } else { Severity::Critical };
                        let new = || { ids += 1; ids.to_string() };
                        incidents.seen(sign(key, severity), new, at(now)).into_iter().collect()
                    }
                    2 => incidents.ended(key, "mended", at(now)).into_iter().collect(),
                    _ => incidents.sweep(at(now)),
                };
                for incident in changed {
                    prop_assert!(!over.contains(&incident.id), "a resolved incident changed");
                    if incident.state == IncidentState::Resolved {
                        over.push(incident.id.clone());
                    }
                    prop_assert!(incident.history.len() <= HISTORY_MAX);
                    prop_assert!(incident.history.windows(2).all(|two| two[0].at <= two[1].at));
                }
            }
        }
    }
}
