//! The names things go by: every id is a newtype that can only hold a checked value.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest slug, repository name, lane or worker in bytes. 64 fits a branch name, a path segment
/// and a Prometheus label without cutting.
pub const NAME_BYTES_MAX: usize = 64;

/// A name that does not follow its rule. The text says which rule and how to comply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {shown} is not valid: {rule}")]
pub struct NameError {
    /// What was being named: `slug`, `repository`, `lane`, `worker`.
    pub kind: &'static str,
    /// The offending text, escaped and cut to a length that is safe to print.
    pub shown: String,
    /// The rule, in words.
    pub rule: &'static str,
}

impl NameError {
    fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        let cut: String = text.chars().take(NAME_BYTES_MAX).collect();
        let dots = if cut.len() < text.len() { "…" } else { "" };
        Self { kind, shown: format!("\"{}{dots}\"", cut.escape_default()), rule }
    }
}

/// File names that some systems open as devices; never a slug, so that a repository stays portable.
const DEVICE_NAMES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2",
    "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

const SLUG_RULE: &str = "1 to 64 of a-z 0-9 . _ -, first and last a letter or digit, no \"..\", not ending in .lock, \
                         no device name such as con or nul";

/// The rule of [`is_plain_name`] for those who check by a regular expression.
const NAME_PATTERN: &str =
    r"^(?!.*\.\.)(?!.*\.lock$)(?!(?:con|prn|aux|nul|com[1-9]|lpt[1-9])(?:\.|$))[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$";

/// `^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$` without `..`, a `.lock` ending or a device name: safe as a path
/// segment and as a branch name at once.
fn is_plain_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    bytes.len() <= NAME_BYTES_MAX
        && edge(first)
        && edge(last)
        && bytes.iter().all(|&b| edge(b) || matches!(b, b'.' | b'_' | b'-'))
        && !text.contains("..")
        && !text.ends_with(".lock")
        && !DEVICE_NAMES.contains(&text.split('.').next().unwrap_or(text))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:expr, $pattern:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String", extend("pattern" = $pattern))]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text against the rule of this name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(NameError::new($kind, text, $rule)) }
            }
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.to_string()
            }
        }
    };
}

name_type!(
    /// The name of a todo, unique in its repository.
    Slug, "slug", SLUG_RULE, NAME_PATTERN, is_plain_name
);
name_type!(
    /// The name of a registered repository, unique in the daemon.
    RepoName, "repository", SLUG_RULE, NAME_PATTERN, is_plain_name
);
name_type!(
    /// A named stream of work.
    Lane, "lane", SLUG_RULE, NAME_PATTERN, is_plain_name
);
name_type!(
    /// One agent process.
    Worker, "worker", "1 to 64 of letters, digits and . _ - : @ /", "^[A-Za-z0-9._:@/-]{1,64}$",
    |text| !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'@' | b'/'))
);
name_type!(
    /// A git object id in lowercase hex (40 digits for SHA-1, 64 for SHA-256).
    Oid, "object id", "40 or 64 lowercase hex digits", "^(?:[0-9a-f]{40}|[0-9a-f]{64})$",
    |text| matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);
name_type!(
    /// The id of an operation: a ULID, so ids sort by time of creation.
    OperationId, "operation id", "26 characters of Crockford base 32", "^[0-9A-Z]{26}$",
    |text| text.len() == 26 && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
);

name_type!(
    /// What a client calls a request, to be able to send it again.
    IdempotencyKey, "Idempotency-Key", "1 to 128 visible ASCII characters", "^[!-~]{1,128}$",
    |text| !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic())
);

name_type!(
    /// The id of a session: `repo~slug~token` of a claim's, `log~` and a digest of a log's.
    SessionId, "session id", "1 to 160 of a-z 0-9 . _ - ~", "^[a-z0-9._~-]{1,160}$",
    |text| !text.is_empty()
        && text.len() <= 160
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'~'))
);

impl SessionId {
    /// The session of a claim.
    #[must_use]
    pub fn of_claim(todo: &TodoKey, token: u64) -> Self {
        Self(format!("{}~{}~{token}", todo.repo, todo.slug).into())
    }

    /// The session of a log, by a digest of where it is.
    #[must_use]
    pub fn of_log(digest: &str) -> Self {
        Self(format!("log~{}", digest.to_ascii_lowercase()).into())
    }
}

impl Worker {
    /// The worker a lane has when a caller does not say which process it is.
    #[must_use]
    pub fn default_of_lane() -> Self {
        Self("default".into())
    }
}

/// `repo/slug`, unique in the daemon.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct TodoKey {
    /// The repository.
    pub repo: RepoName,
    /// The todo in it.
    pub slug: Slug,
}

impl fmt::Display for TodoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repo, self.slug)
    }
}
impl fmt::Debug for TodoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_slugs_are_accepted() {
        for good in ["a", "7", "fix-login", "a.b_c-d", "x".repeat(64).as_str(), "concert", "lockfile"] {
            assert!(Slug::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn hostile_slugs_are_refused_with_the_rule() {
        let long = "a".repeat(65_536);
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a-",
            "A",
            "a b",
            "a\0b",
            "a\n",
            "x.lock",
            "é",
            "con",
            "nul.txt",
            "%2e%2e",
            "a%2fb",
            "@{-1}",
            "\u{202e}a",
            long.as_str(),
        ] {
            let error = Slug::parse(bad).expect_err(bad);
            assert!(error.shown.len() < 800 && error.to_string().contains("1 to 64"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_slug_is_always_one_safe_path_segment(text in ".{0,80}") {
            if let Ok(slug) = Slug::parse(&text) {
                let path = std::path::Path::new(slug.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
            }
        }
    }
}
