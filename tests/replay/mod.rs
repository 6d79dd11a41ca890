//! The ledger's log gone through from its first entry by somebody who knows nothing of the code that wrote it (I2, I3): one
//! holder per todo at any time, every token above all before it, every end an end of what is held.

use std::collections::{BTreeMap, BTreeSet};

use slugline::model::event::{Event, EventKind, Subject};
use slugline::store::Store;

/// Events read at once.
const PORTION: usize = 50_000;

/// What the log says.
#[derive(Debug, Default)]
pub struct Log {
    /// Todo and token of every grant.
    pub granted: BTreeSet<(String, u64)>,
    /// The same of every complete that counts.
    pub done: BTreeSet<(String, u64)>,
    /// How often each todo was finished.
    pub finished: BTreeMap<String, usize>,
    /// Leases that ran out.
    pub expired: usize,
    /// Results that came too late.
    pub parked: usize,
}

/// The log as far as it was gone through.
#[derive(Debug, Default)]
pub struct Replay {
    held: BTreeMap<String, u64>,
    highest: BTreeMap<String, u64>,
    after: u64,
    /// What it says so far.
    pub log: Log,
}

impl Replay {
    /// Goes on to the last entry there is.
    pub async fn go_on(&mut self, store: &Store) {
        loop {
            let events = store.events(self.after, PORTION).await.expect("I5: the log can be read");
            let Some(last) = events.last() else { return };
            self.after = last.seq;
            events.iter().for_each(|event| self.take(event));
        }
    }

    /// The last entry that was gone through.
    #[allow(dead_code, reason = "not every test binary asks")]
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Todo and token of everything that is held.
    #[allow(dead_code, reason = "not every test binary asks")]
    pub fn held(&self) -> &BTreeMap<String, u64> {
        &self.held
    }

    fn take(&mut self, event: &Event) {
        let Subject::Todo(todo) = &event.subject else { return };
        let (name, token) = (todo.to_string(), event.data["token"].as_u64());
        match event.kind {
            EventKind::ClaimGranted => {
                let token = token.expect("a token");
                assert_eq!(
                    self.held.insert(name.clone(), token),
                    None,
                    "I2: {name} was granted twice at {}",
                    event.seq
                );
                let before = self.highest.insert(name.clone(), token).unwrap_or(0);
                assert!(token > before, "I2: {name}: token {token} after {before}");
                self.log.granted.insert((name, token));
            }
            EventKind::ClaimExpired | EventKind::ClaimReleased => {
                assert_eq!(self.held.remove(&name), token, "I3: an end of what is not held: {event:?}");
                self.log.expired += usize::from(event.kind == EventKind::ClaimExpired);
                if event.data["how"] == "done" {
                    self.log.done.insert((name, token.unwrap_or(0)));
                }
            }
            EventKind::TodoUpdated if event.data["stage"] == "done" => {
                *self.log.finished.entry(name).or_default() += 1;
            }
            EventKind::TodoUpdated => self.log.parked += usize::from(!event.data["parked"].is_null()),
            _ => {}
        }
    }
}

/// The whole log.
#[allow(dead_code, reason = "not every test binary asks")]
pub async fn replay(store: &Store) -> Log {
    let mut replay = Replay::default();
    replay.go_on(store).await;
    replay.log
}
