//! Idempotency: one request per key at a time, and the same answer again for a request that was answered.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::ledger::Ledger;
use crate::model::ids::IdempotencyKey;
use crate::model::kept::{Answer, Kept, Keyed, is_final};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::time::Awake;
use crate::store::Write;

/// The keys whose requests are being answered.
#[derive(Clone, Default)]
pub struct Keys(Arc<Mutex<HashSet<IdempotencyKey>>>);

/// What a request under a key comes to.
pub enum Seen {
    /// It was answered before: this is the answer.
    Answered(Answer),
    /// It is new; the key is taken until this is dropped.
    New(Taken),
}

/// A key that is taken.
pub struct Taken {
    keys: Keys,
    key: IdempotencyKey,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.keys.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Keys {
    /// Takes the key of a request, or says what was answered to it before.
    pub async fn take(&self, ledger: &Ledger, keyed: &Keyed) -> Result<Seen, Problem> {
        let Keyed { key, digest, .. } = keyed;
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            let detail = format!("a request under Idempotency-Key {key} is being answered; send it again later");
            return Err(Problem::new(ProblemCode::KeyInFlight, detail).retry_after(1_000));
        }
        let taken = Taken { keys: self.clone(), key: key.clone() };
        match ledger.store()?.kept(key).await.map_err(|error| ledger.note(&error))? {
            None => Ok(Seen::New(taken)),
            Some(kept) if kept.digest == *digest => Ok(Seen::Answered(kept.answer)),
            Some(_) => {
                let detail = format!(
                    "another request was made under Idempotency-Key {key}; give every request a key of its own"
                );
                Err(Problem::new(ProblemCode::KeyReused, detail))
            }
        }
    }
}

/// The answer with a name of its own where it is a problem, the same name whenever the same request gets it.
pub fn named(answer: Answer, keyed: &Keyed) -> Answer {
    answer.map_err(|problem| {
        let instance = format!("urn:slugline:request:{}:{}", keyed.key, keyed.digest.get(..16).unwrap_or_default());
        let problem = problem.with("trace_id", keyed.trace_id.as_str());
        if problem.extra.contains_key("operation") { problem } else { problem.with("instance", instance) }
    })
}

/// What was answered to this very request, if anything.
pub async fn kept(ledger: &Ledger, keyed: &Keyed) -> Option<Answer> {
    let kept = ledger.store().ok()?.kept(&keyed.key).await.ok()??;
    (kept.digest == keyed.digest).then_some(kept.answer)
}

/// Keeps an answer whose effect is on disk already, before it is given.
pub async fn keep(ledger: &Ledger, keyed: Keyed, answer: &Answer, at: Awake) -> Result<(), Problem> {
    if !is_final(answer) {
        return Ok(());
    }
    let kept = Box::new(Kept { digest: keyed.digest, answer: answer.clone(), at });
    ledger.commit(vec![Write::Kept { key: keyed.key, kept }]).await
}
