//! What failed, where and how: the entries of the failure ledger.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{Lane, TodoKey};
use super::time::Timestamp;

/// Bytes of a failure's own words that are kept: its beginning and its end.
pub const SAMPLE_BYTES_MAX: usize = 4_096;

/// Where a failure was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureSource {
    /// A worker said so.
    Complete,
    /// A gate did not pass on work that was said to be done.
    Gate,
    /// The repository's prepare command failed.
    Prepare,
    /// The lease of a probe ran out.
    Expired,
}

impl FailureSource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Complete, Self::Gate, Self::Prepare, Self::Expired];

    /// The name used in the API, the ledger and as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Gate => "gate",
            Self::Prepare => "prepare",
            Self::Expired => "expired",
        }
    }
}

/// One failure, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In which lane.
    pub lane: Lane,
    /// The lane's generation when the claim was granted.
    pub generation: u64,
    /// What failed, normalized.
    pub fingerprint: String,
    /// For which todo.
    #[serde(flatten)]
    pub todo: TodoKey,
    /// Under which token.
    pub token: u64,
    /// Where it was seen.
    pub source: FailureSource,
    /// When.
    pub at: Timestamp,
    /// Its own words, cut.
    pub sample: String,
}

/// One line of `GET /failures`: everything of one fingerprint in one generation of one lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailureView {
    /// What failed, normalized.
    pub fingerprint: String,
    /// In which lane.
    pub lane: Lane,
    /// In which of its generations.
    pub generation: u64,
    /// How often.
    pub count: u64,
    /// For which todos, `repo/slug`, at most a hundred.
    pub todos: Vec<String>,
    /// When first.
    pub first_at: Timestamp,
    /// When last.
    pub last_at: Timestamp,
    /// When each was, oldest first, at most the hundred newest.
    pub times: Vec<Timestamp>,
    /// The newest one's own words.
    pub sample: String,
    /// What is wrong, in the words of the newest one that its fingerprint is made of.
    pub said: String,
    /// Where the newest one was seen.
    pub source: FailureSource,
}

/// Text cut to [`SAMPLE_BYTES_MAX`] bytes: the beginning says what ran, the end how it ended.
#[must_use]
pub fn sample(text: &str) -> String {
    if text.len() <= SAMPLE_BYTES_MAX {
        return text.to_owned();
    }
    let half = SAMPLE_BYTES_MAX / 2 - 4;
    let head = (0..=half).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let tail = (text.len() - half..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    format!("{}\n…\n{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sample_keeps_both_ends_and_its_limit(text in "[aé\u{1f600}\n]{0,3000}") {
            let cut = sample(&text);
            prop_assert!(cut.len() <= SAMPLE_BYTES_MAX);
            prop_assert_eq!(cut.chars().next(), text.chars().next());
            prop_assert_eq!(cut.chars().last(), text.chars().last());
        }
    }
}
