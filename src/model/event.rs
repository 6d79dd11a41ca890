//! What happened, as the ledger logs it: append-only, each event names its subject.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::{Lane, RepoName, SessionId, Slug, TodoKey};
use super::time::Timestamp;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EventKind {
    /// A todo's stage or marks changed.
    #[serde(rename = "todo.updated")]
    TodoUpdated,
    /// A claim was granted.
    #[serde(rename = "claim.granted")]
    ClaimGranted,
    /// The lease of a claim ran out.
    #[serde(rename = "claim.expired")]
    ClaimExpired,
    /// A claim ended through its holder: it was completed or given back.
    #[serde(rename = "claim.released")]
    ClaimReleased,
    /// A lane was paused, by a person or by itself.
    #[serde(rename = "lane.paused")]
    LanePaused,
    /// A lane opens again, or is open again.
    #[serde(rename = "lane.resumed")]
    LaneResumed,
    /// An operation changed its state.
    #[serde(rename = "operation.updated")]
    OperationUpdated,
    /// A phase was carried out.
    #[serde(rename = "phase.finished")]
    PhaseFinished,
    /// What is shown of a worktree changed.
    #[serde(rename = "worktree.updated")]
    WorktreeUpdated,
    /// A worktree is gone.
    #[serde(rename = "worktree.removed")]
    WorktreeRemoved,
    /// Something came to a session, or it shows another sign of life.
    #[serde(rename = "session.updated")]
    SessionUpdated,
    /// Readiness, or a criterion of it, has another verdict.
    #[serde(rename = "readiness.changed")]
    ReadinessChanged,
    /// A duty of the daemon ended otherwise than the last time, or does not end.
    #[serde(rename = "job.updated")]
    JobUpdated,
    /// An incident was opened, changed or resolved.
    #[serde(rename = "incident.updated")]
    IncidentUpdated,
    /// An actor was restarted, or given up.
    #[serde(rename = "actor.restarted")]
    ActorRestarted,
    /// The runtime, or an actor, did not turn; told when it begins and when it is over.
    #[serde(rename = "hang.detected")]
    HangDetected,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::TodoUpdated,
        Self::ClaimGranted,
        Self::ClaimExpired,
        Self::ClaimReleased,
        Self::LanePaused,
        Self::LaneResumed,
        Self::OperationUpdated,
        Self::PhaseFinished,
        Self::WorktreeUpdated,
        Self::WorktreeRemoved,
        Self::SessionUpdated,
        Self::ReadinessChanged,
        Self::JobUpdated,
        Self::IncidentUpdated,
        Self::ActorRestarted,
        Self::HangDetected,
    ];

    /// Whether it only says what can be seen again at any time, so that old ones may be let go.
    #[must_use]
    pub const fn is_live(self) -> bool {
        match self {
            Self::TodoUpdated
            | Self::ClaimGranted
            | Self::ClaimExpired
            | Self::ClaimReleased
            | Self::LanePaused
            | Self::LaneResumed
            | Self::OperationUpdated
            | Self::PhaseFinished => false,
            Self::WorktreeUpdated
            | Self::WorktreeRemoved
            | Self::SessionUpdated
            | Self::ReadinessChanged
            | Self::JobUpdated
            | Self::IncidentUpdated
            | Self::ActorRestarted
            | Self::HangDetected => true,
        }
    }

    /// The name used in the API and the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TodoUpdated => "todo.updated",
            Self::ClaimGranted => "claim.granted",
            Self::ClaimExpired => "claim.expired",
            Self::ClaimReleased => "claim.released",
            Self::LanePaused => "lane.paused",
            Self::LaneResumed => "lane.resumed",
            Self::OperationUpdated => "operation.updated",
            Self::PhaseFinished => "phase.finished",
            Self::WorktreeUpdated => "worktree.updated",
            Self::WorktreeRemoved => "worktree.removed",
            Self::SessionUpdated => "session.updated",
            Self::ReadinessChanged => "readiness.changed",
            Self::JobUpdated => "job.updated",
            Self::IncidentUpdated => "incident.updated",
            Self::ActorRestarted => "actor.restarted",
            Self::HangDetected => "hang.detected",
        }
    }
}

/// Whom an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Subject {
    /// A session.
    Session {
        /// Which.
        session: SessionId,
        /// The repository it works in, when that is known.
        repo: Option<RepoName>,
        /// The todo it works on, when that is known.
        slug: Option<Slug>,
    },
    /// A worktree.
    Worktree {
        /// Of which repository.
        repo: RepoName,
        /// Its name.
        name: String,
    },
    /// A duty of the daemon.
    Job {
        /// Its name.
        job: String,
    },
    /// An incident.
    Incident {
        /// Its id.
        incident: String,
    },
    /// An actor.
    Actor {
        /// Its kind and name, as `kind:name`.
        actor: String,
    },
    /// A hang.
    Hang {
        /// Its id.
        hang: String,
    },
    /// The daemon itself.
    Daemon {
        /// What of it: `readiness`.
        daemon: String,
    },
    /// A todo.
    Todo(TodoKey),
    /// A lane.
    Lane {
        /// Its name.
        lane: Lane,
    },
}

impl Subject {
    /// A subject of the daemon's own, by the kind of its event; `None` when the kind has another one.
    #[must_use]
    pub fn of_the_daemon(kind: EventKind, about: &str) -> Option<Self> {
        let about = about.to_owned();
        Some(match kind {
            EventKind::ReadinessChanged => Self::Daemon { daemon: about },
            EventKind::JobUpdated => Self::Job { job: about },
            EventKind::IncidentUpdated => Self::Incident { incident: about },
            EventKind::ActorRestarted => Self::Actor { actor: about },
            EventKind::HangDetected => Self::Hang { hang: about },
            _ => return None,
        })
    }

    /// The repository it belongs to, when it belongs to one.
    #[must_use]
    pub fn repo(&self) -> Option<&RepoName> {
        match self {
            Self::Todo(todo) => Some(&todo.repo),
            Self::Worktree { repo, .. } => Some(repo),
            Self::Session { repo, .. } => repo.as_ref(),
            Self::Lane { .. }
            | Self::Job { .. }
            | Self::Incident { .. }
            | Self::Actor { .. }
            | Self::Hang { .. }
            | Self::Daemon { .. } => None,
        }
    }
}

/// Which events somebody wants to hear of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of these kinds; of all when `None`.
    pub kinds: Option<Vec<EventKind>>,
    /// Of this repository, and those of no repository.
    pub repo: Option<RepoName>,
    /// Of this session alone.
    pub session: Option<SessionId>,
}

impl EventFilter {
    /// Reads a list of types: names such as `claim.granted`, or `claim.*` for all of a kind. The error names what is
    /// none, and what there is.
    pub fn parse_kinds(text: &str) -> Result<Vec<EventKind>, String> {
        let mut kinds = Vec::new();
        for wanted in text.split(',').map(str::trim) {
            let fits = |name: &str| match wanted.strip_suffix('*') {
                Some(prefix) => prefix.ends_with('.') && name.starts_with(prefix),
                None => name == wanted,
            };
            let before = kinds.len();
            kinds.extend(EventKind::ALL.into_iter().filter(|kind| fits(kind.as_str())));
            if kinds.len() == before {
                let known: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
                return Err(format!(
                    "{:?} is no type of event; there are {}",
                    wanted.chars().take(64).collect::<String>(),
                    known.join(", ")
                ));
            }
        }
        Ok(kinds)
    }

    /// Whether an event is wanted.
    #[must_use]
    pub fn wants(&self, kind: EventKind, subject: &Subject) -> bool {
        self.wants_kind(kind)
            && self.repo.as_ref().is_none_or(|wanted| subject.repo().is_none_or(|repo| repo == wanted))
            && self
                .session
                .as_ref()
                .is_none_or(|wanted| matches!(subject, Subject::Session { session, .. } if session == wanted))
    }

    /// Whether a kind is wanted at all.
    #[must_use]
    pub fn wants_kind(&self, kind: EventKind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

/// The place in the log that a listener names to go on from, if it names one: an empty text names none. The error says what
/// a place looks like.
pub fn place(text: &str) -> Result<Option<u64>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Beyond what a ledger can have: it is told to begin anew.
        return Ok(Some(text.parse().unwrap_or(u64::MAX)));
    }
    let shown: String = text.escape_default().take(64).collect();
    Err(format!("Last-Event-ID {shown} is none of ours: they are whole numbers; connect without it"))
}

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the ledger, strictly rising.
    pub seq: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// What kind.
    pub kind: EventKind,
    /// Whom it is about.
    #[serde(flatten)]
    pub subject: Subject,
    /// What it says.
    pub data: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_names_and_families_and_says_what_there_is() {
        assert_eq!(EventFilter::parse_kinds("lane.paused, claim.*").map(|kinds| kinds.len()), Ok(4));
        assert_eq!(EventFilter::parse_kinds("hang.detected"), Ok(vec![EventKind::HangDetected]));
        let error = EventFilter::parse_kinds("change").expect_err("is none");
        assert!(error.contains("\"change\"") && error.contains("worktree.updated"), "{error}");
        assert!(EventFilter::parse_kinds("*").is_err() && EventFilter::parse_kinds("cl*").is_err());
    }

    #[test]
    fn a_filter_by_repository_lets_through_what_belongs_to_none() {
        let repo = |name: &str| RepoName::parse(name).expect("name");
        let filter = EventFilter { repo: Some(repo("a")), ..EventFilter::default() };
        let of = |name: &str| Subject::Worktree { repo: repo(name), name: "w".to_owned() };
        assert!(filter.wants(EventKind::WorktreeUpdated, &of("a")));
        assert!(!filter.wants(EventKind::WorktreeUpdated, &of("b")));
        let lane = Subject::Lane { lane: Lane::parse("l").expect("name") };
        assert!(filter.wants(EventKind::LanePaused, &lane));
    }

    #[test]
    fn subjects_survive_json() {
        let repo = RepoName::parse("a").expect("name");
        let session = SessionId::parse("a~s~1").expect("id");
        for subject in [
            Subject::Worktree { repo: repo.clone(), name: "w".to_owned() },
            Subject::Session { session, repo: Some(repo.clone()), slug: None },
            Subject::Job { job: "fetch".to_owned() },
            Subject::Incident { incident: "1".to_owned() },
            Subject::Actor { actor: "slug:a/s".to_owned() },
            Subject::Hang { hang: "1".to_owned() },
            Subject::Daemon { daemon: "readiness".to_owned() },
            Subject::Todo(TodoKey { repo, slug: Slug::parse("s").expect("name") }),
        ] {
            let text = serde_json::to_string(&subject).expect("writes");
            assert_eq!(serde_json::from_str::<Subject>(&text).expect("reads"), subject);
        }
    }
}
