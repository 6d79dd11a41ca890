//! Sessions: the record of what happened under a claim, and the logs agents write themselves. Here is what is told of
//! them and what is concluded from that.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::claim::Claim;
use super::event::EventKind;
use super::ids::{Lane, RepoName, SessionId, Slug, TodoKey, Worker};
use super::time::Timestamp;
use super::todo::{Ending, TodoState};

/// Events one request may bring.
pub const EVENTS_PER_REQUEST_MAX: usize = 100;
/// Characters of an event's text that are taken.
pub const TEXT_CHARS_MAX: usize = 8_192;
/// Characters of a log's text that are shown; the log itself has the rest.
pub const SHOWN_CHARS_MAX: usize = 2_000;
/// Bytes of an event's data.
pub const DATA_BYTES_MAX: usize = 16_384;
/// Bytes of an event's kind.
const KIND_BYTES_MAX: usize = 64;

/// Where a session's events come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionSource {
    /// A claim: its holder reports them.
    Claim,
    /// A log an agent writes by itself.
    Log,
}

/// How a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// It waits for a person.
    Waiting,
    /// Its holder lives and nothing comes of it.
    Stuck,
    /// Something came of it lately.
    Working,
    /// Nothing was heard of it for long.
    Dormant,
    /// It is over.
    Done,
}

impl SessionStatus {
    /// All of them, what needs a person first.
    pub const ALL: [Self; 5] = [Self::Waiting, Self::Stuck, Self::Working, Self::Dormant, Self::Done];

    /// The name used in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Stuck => "stuck",
            Self::Working => "working",
            Self::Dormant => "dormant",
            Self::Done => "done",
        }
    }
}

/// After how much silence a session is called what, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivenessTerms {
    /// A claimed session without an event or progress for so long is stuck; a log without an event is dormant.
    pub stuck_after_ms: u64,
    /// A claimed session without an event or progress for so long is dormant.
    pub dormant_after_ms: u64,
}

/// What a session's status follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivenessFacts {
    /// Its claim is over, or its log says it is.
    pub ended: bool,
    /// Somebody holds its claim.
    pub held: bool,
    /// The claim is on hold for a person, or the last event asks for one.
    pub waits: bool,
    /// Time since the last event or progress, in milliseconds.
    pub silent_ms: u64,
}

/// How a session is. Time alone can change it, without any event.
#[must_use]
pub fn status(facts: &LivenessFacts, terms: &LivenessTerms) -> SessionStatus {
    let LivenessFacts { ended, held, waits, silent_ms } = *facts;
    match () {
        () if ended => SessionStatus::Done,
        () if silent_ms >= terms.dormant_after_ms && !(held && waits) => SessionStatus::Dormant,
        () if waits => SessionStatus::Waiting,
        () if silent_ms < terms.stuck_after_ms => SessionStatus::Working,
        () if held => SessionStatus::Stuck,
        () => SessionStatus::Dormant,
    }
}

/// When time alone would next change a status, in milliseconds from now; `None` when it would not.
#[must_use]
pub fn next_change_ms(facts: &LivenessFacts, terms: &LivenessTerms) -> Option<u64> {
    let now = status(facts, terms);
    [terms.stuck_after_ms, terms.dormant_after_ms]
        .into_iter()
        .filter(|edge| *edge > facts.silent_ms)
        .filter(|edge| status(&LivenessFacts { silent_ms: *edge, ..*facts }, terms) != now)
        .map(|edge| edge - facts.silent_ms)
        .min()
}

/// Kinds of events after which an agent waits for a person.
const WAITING_KINDS: [&str; 5] = ["waiting", "question", "permission", "ask", "needs_input"];
/// Kinds of events that end a log.
const ENDING_KINDS: [&str; 6] = ["result", "end", "ended", "done", "session_end", "exit"];

/// Whether an agent waits for a person after an event of this kind.
#[must_use]
pub fn asks_a_person(kind: &str) -> bool {
    WAITING_KINDS.contains(&kind)
}

/// Whether a log is over after an event of this kind.
#[must_use]
pub fn ends_a_log(kind: &str) -> bool {
    ENDING_KINDS.contains(&kind)
}

/// An event, as it is reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSessionEvent {
    /// What kind of thing happened: a word of the agent's own, such as `note`, `tool`, `question`.
    #[schemars(regex(pattern = "^[a-z0-9_.-]{1,64}$"))]
    pub kind: String,
    /// What happened, for people.
    #[serde(default)]
    #[schemars(length(max = TEXT_CHARS_MAX))]
    pub text: Option<String>,
    /// Anything else, for programs.
    #[serde(default)]
    pub data: Option<Value>,
}

impl NewSessionEvent {
    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-');
        if self.kind.is_empty() || self.kind.len() > KIND_BYTES_MAX || !self.kind.bytes().all(plain) {
            let shown: String = self.kind.escape_default().take(KIND_BYTES_MAX).collect();
            return Err(format!("kind \"{shown}\" is not 1 to {KIND_BYTES_MAX} of a-z 0-9 . _ -"));
        }
        if self.text.as_ref().is_some_and(|text| text.chars().count() > TEXT_CHARS_MAX) {
            return Err(format!("text has more than {TEXT_CHARS_MAX} characters"));
        }
        if self.data.as_ref().is_some_and(|data| data.to_string().len() > DATA_BYTES_MAX) {
            return Err(format!("data takes more than {DATA_BYTES_MAX} bytes"));
        }
        Ok(())
    }
}

/// An event of a session, as it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionEvent {
    /// Its place in the session: rising, to ask for what comes after it.
    pub n: u64,
    /// When it happened; of a log, when the log says so.
    pub at: Option<Timestamp>,
    /// What kind of thing happened.
    pub kind: String,
    /// What happened, for people.
    pub text: Option<String>,
    /// Anything else.
    pub data: Option<Value>,
    /// Whether this line of a log could not be read as an event; the text has its beginning.
    pub corrupt: bool,
}

/// What is kept of a claim's session in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimSession {
    /// The todo.
    pub todo: TodoKey,
    /// The claim's token.
    pub token: u64,
    /// In which lane.
    pub lane: Lane,
    /// Who held it.
    pub worker: Worker,
    /// When the claim was granted.
    pub started_at: Timestamp,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// How it ended, in one word.
    pub how: Option<String>,
}

/// What an event of a todo means to its sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionStep {
    /// A claim began one.
    Began(ClaimSession),
    /// A claim was over, and with it this one.
    Ended {
        /// Which.
        id: SessionId,
        /// How it ended, in one word.
        how: String,
    },
}

impl SessionStep {
    /// Every claim has its session: it begins with the grant and ends with the claim. `state` is the todo's after the
    /// event.
    #[must_use]
    pub fn of(todo: &TodoKey, state: &TodoState, kind: EventKind, data: &Value) -> Option<Self> {
        match (kind, &state.claim) {
            (EventKind::ClaimGranted, Some(claim)) => Some(Self::Began(ClaimSession::of(claim))),
            (EventKind::ClaimExpired | EventKind::ClaimReleased, _) => {
                let token = data.get("token").and_then(Value::as_u64).unwrap_or(0);
                let how = state.ending(token).map_or_else(|| "released".to_owned(), how_in_one_word);
                Some(Self::Ended { id: SessionId::of_claim(todo, token), how })
            }
            _ => None,
        }
    }

    /// What the state of a todo says of its sessions, for somebody who has missed the events that led to it.
    #[must_use]
    pub fn all_of(todo: &TodoKey, state: &TodoState) -> Vec<Self> {
        let over = state
            .endings
            .iter()
            .map(|ending| Self::Ended { id: SessionId::of_claim(todo, ending.token), how: how_in_one_word(ending) });
        let on = state.claim.as_ref().map(|claim| Self::Began(ClaimSession::of(claim)));
        over.chain(on).collect()
    }
}

fn how_in_one_word(ending: &Ending) -> String {
    let how = serde_json::to_value(ending.how).ok();
    how.as_ref().and_then(Value::as_str).unwrap_or("released").to_owned()
}

impl ClaimSession {
    /// The session of a claim that was just granted, or is on.
    #[must_use]
    pub fn of(claim: &Claim) -> Self {
        Self {
            todo: claim.todo.clone(),
            token: claim.token,
            lane: claim.lane.clone(),
            worker: claim.worker.clone(),
            started_at: claim.granted_at,
            ended_at: None,
            how: None,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        SessionId::of_claim(&self.todo, self.token)
    }
}

/// What the events of a session add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// How many there are.
    pub events: u64,
    /// Lines of a log that could not be read.
    pub corrupt: u64,
    /// The last one.
    pub last: Option<LastEvent>,
}

/// The last event of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastEvent {
    /// When.
    pub at: Timestamp,
    /// What kind.
    pub kind: String,
    /// What happened, at most 200 characters.
    pub text: Option<String>,
}

/// Characters of a last event's text that are shown.
const LAST_CHARS_MAX: usize = 200;

impl LastEvent {
    /// An event in short.
    #[must_use]
    pub fn of(at: Timestamp, kind: &str, text: Option<&str>) -> Self {
        let text = text.map(|text| text.chars().take(LAST_CHARS_MAX).collect());
        Self { at, kind: kind.to_owned(), text }
    }
}

/// A session, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// Where its events come from.
    pub source: SessionSource,
    /// How it is.
    pub status: SessionStatus,
    /// The repository it works in, when that is known.
    pub repo: Option<RepoName>,
    /// The todo it works on, when that is known.
    pub slug: Option<Slug>,
    /// The lane.
    pub lane: Option<Lane>,
    /// Who holds or held the claim.
    pub worker: Option<Worker>,
    /// The claim's token.
    pub token: Option<u64>,
    /// What to call it: `repo/slug`, or the log's name.
    pub title: String,
    /// The log's path.
    pub path: Option<String>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When something last came of it: an event, or progress its holder reported.
    pub active_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub how: Option<String>,
    /// Events so far.
    pub events: u64,
    /// Lines of its log that could not be read.
    pub corrupt: u64,
    /// The last event.
    pub last: Option<LastEvent>,
    /// What it waits for a person for, while it does.
    pub waits_for: Option<String>,
}

impl SessionView {
    /// The todo it works on, when that is known.
    #[must_use]
    pub fn todo(&self) -> Option<TodoKey> {
        let (repo, slug) = self.repo.clone().zip(self.slug.clone())?;
        Some(TodoKey { repo, slug })
    }
}

/// What a list of sessions is ordered by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionSort {
    /// The last to show activity first.
    #[default]
    Active,
    /// The last to begin first.
    Started,
    /// What needs a person first, then by activity.
    Status,
    /// By repository and slug.
    Title,
}

/// What a list of sessions is put together by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionGroup {
    /// Their status.
    Status,
    /// Their lane.
    Lane,
    /// Their repository.
    Repo,
    /// Their todo.
    Slug,
}

/// Which sessions to list, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionQuery {
    /// Of these statuses; of all when empty.
    pub statuses: Vec<SessionStatus>,
    /// Of this lane.
    pub lane: Option<Lane>,
    /// Of this repository.
    pub repo: Option<RepoName>,
    /// Whose id, title, worker or last words have every one of these words in them.
    pub text: Option<String>,
    /// In which order.
    pub sort: SessionSort,
}

impl SessionQuery {
    /// Whether a session is wanted.
    #[must_use]
    pub fn wants(&self, view: &SessionView) -> bool {
        (self.statuses.is_empty() || self.statuses.contains(&view.status))
            && self.lane.as_ref().is_none_or(|lane| view.lane.as_ref() == Some(lane))
            && self.repo.as_ref().is_none_or(|repo| view.repo.as_ref() == Some(repo))
            && self.text.as_ref().is_none_or(|text| says(view, text))
    }

    /// Puts sessions in the order that is asked for; ids decide between equals, so that pages do not overlap.
    pub fn order(&self, views: &mut [SessionView]) {
        views.sort_by(|a, b| {
            let by = match self.sort {
                SessionSort::Active => b.active_at.cmp(&a.active_at),
                SessionSort::Started => b.started_at.cmp(&a.started_at),
                SessionSort::Status => a.status.cmp(&b.status).then(b.active_at.cmp(&a.active_at)),
                SessionSort::Title => a.title.cmp(&b.title),
            };
            by.then_with(|| a.id.cmp(&b.id))
        });
    }
}

fn says(view: &SessionView, text: &str) -> bool {
    let worker = view.worker.as_ref().map_or("", |worker| worker.as_str());
    let last = view.last.as_ref().and_then(|last| last.text.as_deref()).unwrap_or("");
    let all = format!("{} {} {worker} {last}", view.id, view.title).to_lowercase();
    text.to_lowercase().split_whitespace().all(|word| all.contains(word))
}

/// What a session is grouped under.
#[must_use]
pub fn group_of(view: &SessionView, by: SessionGroup) -> String {
    match by {
        SessionGroup::Status => view.status.as_str().to_owned(),
        SessionGroup::Lane => view.lane.as_ref().map_or(String::new(), ToString::to_string),
        SessionGroup::Repo => view.repo.as_ref().map_or(String::new(), ToString::to_string),
        SessionGroup::Slug => match (&view.repo, &view.slug) {
            (Some(repo), Some(slug)) => format!("{repo}/{slug}"),
            _ => String::new(),
        },
    }
}

/// One group of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionGroupView {
    /// What they have in common; empty for those that have no such thing.
    pub group: String,
    /// How many there are.
    pub count: u64,
    /// They.
    pub sessions: Vec<SessionView>,
}

/// Reads one line of a log: any object with a time, a kind and something to say under one of their usual names.
/// `None` when it is no object.
#[must_use]
pub fn read_line(line: &[u8]) -> Option<LogLine> {
    let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(line) else { return None };
    let text_of = |names: &[&str]| names.iter().find_map(|name| object.get(*name)?.as_str()).map(str::to_owned);
    let at = text_of(&["timestamp", "time", "at", "ts", "created_at"])
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .map(|at| Timestamp::from_ms(at.as_millisecond()))
        .or_else(|| object.get("ts").or(object.get("time")).and_then(Value::as_f64).map(epoch));
    let kind = text_of(&["kind", "type", "event", "role"]).unwrap_or_else(|| "event".to_owned());
    let kind = kind.chars().take(KIND_BYTES_MAX).collect();
    let said = ["text", "summary", "message", "content", "result", "error"]
        .iter()
        .find_map(|name| words(object.get(*name)?, 0));
    let text = said.map(|text| text.chars().take(SHOWN_CHARS_MAX).collect());
    let cwd = text_of(&["cwd", "worktree", "workdir"]);
    Some(LogLine { at, kind, text, cwd })
}

/// Seconds or milliseconds since 1970, by their size.
fn epoch(number: f64) -> Timestamp {
    let ms = if number.abs() < 1e11 { number * 1_000.0 } else { number };
    #[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
    Timestamp::from_ms(ms as i64)
}

/// The first words found in a value: a text, or that of the parts of a message.
fn words(value: &Value, depth: usize) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(object) if depth < 4 => {
            ["text", "content", "summary", "name"].iter().find_map(|name| words(object.get(*name)?, depth + 1))
        }
        Value::Array(parts) if depth < 4 => parts.iter().find_map(|part| words(part, depth + 1)),
        _ => None,
    }
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it happened.
    pub at: Option<Timestamp>,
    /// What kind of thing happened.
    pub kind: String,
    /// What happened.
    pub text: Option<String>,
    /// Where the agent worked.
    pub cwd: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: LivenessTerms = LivenessTerms { stuck_after_ms: 100, dormant_after_ms: 1_000 };

    fn of(ended: bool, held: bool, waits: bool, silent_ms: u64) -> SessionStatus {
        status(&LivenessFacts { ended, held, waits, silent_ms }, &TERMS)
    }

    #[test]
    fn silence_alone_makes_a_held_session_stuck_and_then_dormant_at_the_exact_edge() {
        assert_eq!(of(false, true, false, 99), SessionStatus::Working);
        assert_eq!(of(false, true, false, 100), SessionStatus::Stuck);
        assert_eq!(of(false, true, false, 999), SessionStatus::Stuck);
        assert_eq!(of(false, true, false, 1_000), SessionStatus::Dormant);
    }

    #[test]
    fn a_log_nobody_holds_is_dormant_and_never_stuck() {
        assert_eq!(of(false, false, false, 99), SessionStatus::Working);
        assert_eq!(of(false, false, false, 100), SessionStatus::Dormant);
        assert_eq!(of(false, false, true, 500), SessionStatus::Waiting);
        assert_eq!(of(false, false, true, 1_000), SessionStatus::Dormant);
    }

    #[test]
    fn waiting_for_a_person_is_not_being_stuck_however_long_and_the_end_is_the_end() {
        assert_eq!(of(false, true, true, 5_000_000), SessionStatus::Waiting);
        assert_eq!(of(true, true, true, 0), SessionStatus::Done);
    }

    #[test]
    fn the_next_change_is_when_the_status_changes() {
        for held in [false, true] {
            for waits in [false, true] {
                for silent_ms in 0..1_100 {
                    let facts = LivenessFacts { ended: false, held, waits, silent_ms };
                    let now = status(&facts, &TERMS);
                    let next = next_change_ms(&facts, &TERMS);
                    let seen = (1..2_000)
                        .find(|ms| status(&LivenessFacts { silent_ms: silent_ms + ms, ..facts }, &TERMS) != now);
                    assert_eq!(next, seen, "{facts:?}");
                }
            }
        }
    }

    #[test]
    fn lines_of_several_kinds_of_agents_are_read() {
        let line = read_line(br#"{"type":"assistant","timestamp":"2026-02-27T00:00:00.5Z","cwd":"/w/a","message":{"role":"assistant","content":[{"type":"text","text":"done"}]}}"#).expect("is an object");
        assert_eq!(line.kind, "assistant");
        assert_eq!(line.at, Some(Timestamp::from_ms(1_772_150_400_500)));
        assert_eq!((line.text.as_deref(), line.cwd.as_deref()), (Some("done"), Some("/w/a")));
        let line = read_line(br#"{"event":"exit","ts":1772150400}"#).expect("is an object");
        assert_eq!((line.kind.as_str(), line.at), ("exit", Some(Timestamp::from_ms(1_772_150_400_000))));
        for bad in ["", "[]", "7", "{", "{\"a\":}", "\u{0}"] {
            assert_eq!(read_line(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn events_that_are_too_much_are_named() {
        let event = |kind: &str| NewSessionEvent { kind: kind.to_owned(), text: None, data: None };
        assert_eq!(event("tool.call").check(), Ok(()));
        for bad in ["", "A", "a b", "\u{e9}", &"x".repeat(65)] {
            assert!(event(bad).check().is_err(), "{bad}");
        }
        let long = NewSessionEvent { text: Some("x".repeat(TEXT_CHARS_MAX + 1)), ..event("note") };
        assert!(long.check().is_err());
        let big = NewSessionEvent { data: Some(Value::String("x".repeat(DATA_BYTES_MAX))), ..event("note") };
        assert!(big.check().is_err());
    }
}
