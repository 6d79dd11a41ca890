//! Answers that are kept under an `Idempotency-Key`: the same request under the same key gets the same bytes again.

use serde::{Deserialize, Serialize};

use super::ids::IdempotencyKey;
use super::problem::{Problem, ProblemCode};
use super::time::Awake;

/// How long an answer is kept, in milliseconds of the daemon's waking time: a day.
pub const KEPT_FOR_MS: i64 = 86_400_000;

/// Under which key a request came, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The key.
    pub key: IdempotencyKey,
    /// Digest of method, path, form and body: another request under the same key is a mistake of the caller's.
    pub digest: String,
    /// The trace it came in.
    pub trace_id: String,
}

/// An answer, before it is given its form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Its status, when it is no problem.
    pub status: u16,
    /// What it says, as JSON.
    pub body: String,
}

impl Answered {
    /// An answer with this body.
    pub fn of(status: u16, body: &impl Serialize) -> Answer {
        let body = serde_json::to_string(body).map_err(|error| {
            Problem::new(ProblemCode::Internal, format!("the answer could not be written: {error}"))
        })?;
        Ok(Self { status, body })
    }
}

/// What came of a request.
pub type Answer = Result<Answered, Problem>;

/// A kept answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Digest of the request.
    pub digest: String,
    /// What came of it.
    pub answer: Answer,
    /// When it was kept.
    pub at: Awake,
}

/// Whether an answer is kept: what had an effect, and what the same request will get whenever it is sent. A refusal that
/// hangs on what is there now, such as a file that is not committed yet, is decided anew at the next try.
#[must_use]
pub fn is_final(answer: &Answer) -> bool {
    answer.as_ref().err().is_none_or(|problem| {
        matches!(problem.code, ProblemCode::StaleToken | ProblemCode::InvalidRequest | ProblemCode::InvalidName)
    })
}
