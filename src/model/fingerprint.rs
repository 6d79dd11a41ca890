//! The identity of a failure: its words with everything taken out that differs between two occasions of the same cause.
//! Pure and versioned: a fingerprint of another version is never compared with one of this version.
//!
//! What goes: where it ran (directories), when and how long, ids, hashes, addresses, counts, colours, log prefixes, the
//! runner's own closing lines. What stays, because it is the cause: error codes, exit codes, HTTP status codes, well-known
//! ports, file names, names of tests, symbols and packages, expected and found values.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::time::Timestamp;

/// Rises whenever a rule changes, since old and new fingerprints of one cause then differ.
pub const VERSION: u32 = 1;

/// Bytes of a text that are looked at, from its beginning.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Lines of the normalized text that are looked at.
const LINES_MAX: usize = 200;
/// Lines that make the fingerprint of a text that does not say what is wrong.
const SAID_FIRST_LINES: usize = 3;
/// A first line of so many bytes says enough by itself.
const SAID_ENOUGH_BYTES: usize = 40;

/// Further lines that belong to a headline that may be too general.
const COMPANIONS_MAX: usize = 2;
/// Expected and found values that belong to a headline.
const VALUES_MAX: usize = 4;

/// When a provider takes requests again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// After so many milliseconds.
    AfterMs(i64),
    /// At that time.
    At(Timestamp),
}

impl Reset {
    /// Milliseconds from `now`.
    #[must_use]
    pub const fn after_ms(self, now: Timestamp) -> i64 {
        match self {
            Self::AfterMs(ms) => ms,
            Self::At(at) => at.as_ms().saturating_sub(now.as_ms()),
        }
    }
}

/// Whose failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The work's, or its environment's: it is counted.
    Ordinary,
    /// A provider takes no more requests for now: the lane rests.
    RateLimit(Option<Reset>),
    /// A provider is down or overloaded: the lane rests.
    Provider(Option<Reset>),
}

impl Class {
    /// The name used in the API and in reasons.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::RateLimit(_) => "rate_limit",
            Self::Provider(_) => "provider",
        }
    }

    /// Of a failure the lane rests for: until when, where that is known.
    #[must_use]
    pub const fn reset(self) -> Option<Option<Reset>> {
        match self {
            Self::Ordinary => None,
            Self::RateLimit(reset) | Self::Provider(reset) => Some(reset),
        }
    }
}

/// What a text is recognised by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// `v1-` and a digest.
    pub id: String,
    /// What it is the digest of.
    pub said: String,
    /// Whose failure it is.
    pub class: Class,
}

/// What one rule did to a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// The rule.
    pub rule: String,
    /// What it is for.
    pub why: String,
    /// The text after it.
    pub text: String,
}

/// How a text becomes its fingerprint, rule by rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explained {
    /// The version of the rules.
    pub version: u32,
    /// The fingerprint.
    pub fingerprint: String,
    /// The text it is the digest of.
    pub normalized: String,
    /// `ordinary`, `rate_limit` or `provider`.
    pub class: String,
    /// Milliseconds until a provider takes requests again, where the text says so.
    pub reset_after_ms: Option<i64>,
    /// Every rule that changed something.
    pub applied: Vec<Applied>,
}

/// The fingerprint of a failure's own words.
#[must_use]
pub fn of(text: &str) -> Fingerprint {
    let said = normalize(text, |_, _| {});
    Fingerprint { id: id(&said), said, class: class(text) }
}

/// Makes the rules ready. It takes tens of milliseconds, once; the first failure should not have to wait for it.
pub fn make_ready() {
    let _ = of("error: nothing yet (retry after 1s, resets at 2026-01-01T00:00:00Z)");
}

/// The same, with every step.
#[must_use]
pub fn explain(text: &str, now: Timestamp) -> Explained {
    let mut applied = Vec::new();
    let normalized = normalize(text, |rule, text| {
        applied.push(Applied { rule: rule.name.to_owned(), why: rule.why.to_owned(), text: text.to_owned() });
    });
    let class = class(text);
    Explained {
        version: VERSION,
        fingerprint: id(&normalized),
        class: class.as_str().to_owned(),
        reset_after_ms: class.reset().flatten().map(|reset| reset.after_ms(now)),
        normalized,
        applied,
    }
}

fn id(normalized: &str) -> String {
    let digest = Sha256::digest(normalized);
    let hex: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("v{VERSION}-{hex}")
}

/// One step of the normalization.
struct Rule {
    name: &'static str,
    why: &'static str,
    pattern: Regex,
    put: Put,
}

/// What takes the place of a match.
enum Put {
    /// This text; `$1` and so on are parts of the match.
    Text(&'static str),
    /// What the function says.
    With(fn(&Captures<'_>) -> String),
}

fn rule(name: &'static str, why: &'static str, pattern: &str, put: Put) -> Rule {
    Rule { name, why, pattern: Regex::new(pattern).expect("the rules are valid"), put }
}

/// Every rule, in order: what is more particular comes first.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    use Put::{Text, With};
    vec![
        rule(
            "colours",
            "terminal escapes",
            r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()][A-Za-z0-9]|\][^\x07\x1b]*(?:\x07|\x1b\\))",
            Text(""),
        ),
        rule("line_ends", "carriage returns, blanks at line ends", r"(?m)[ \t\r]+$", Text("")),
        rule(
            "runner_lines",
            "what a runner prints around any failure: the command it ran, which target failed, where its log is",
            r"(?im)^\s*(?:\++ .*|\$ .*|> \S+@\S+ \S+|make(?:\[\d+\])?: (?:\*\*\* \[.*|(?:entering|leaving) directory.*)|npm (?:err!|error) +a complete log of this run.*|npm (?:err!|error)\s+/\S*-debug-0\.log|(?:##\[error\])?error: process completed with exit code \d+\.?|\s*elifecycle\b.*|note: run with `?rust_backtrace=.*|for more information about this error, try.*|see \S+ for (?:more )?details.*|error: could not compile .*|error: test failed, to rerun.*|error: aborting due to.*|warning: build failed.*|collect2: error: ld returned.*|test result: .*|failures?:|tests?:? +\d+ .*|test (?:suites|files) +.*|time: .*|found \d+ errors?.*|=+.*|-{3,}|✖ \d+ problems?.*|.*potentially fixable with the.*|.*fixable with the `--fix` option.*|build failed in .*|\d+ actionable tasks?.*|failure: build failed with an exception\.|\* (?:what went wrong|try|exception is):|attempt \d+ (?:of|/) ?\d+:?|aborted \(core dumped\)|==\d+==aborting|exit status \d+|fail\s*|fail\s+\S+\s+[\d.]+s)$",
            Text(""),
        ),
        rule(
            "envelope",
            "fields a structured log wraps a message in",
            r#"(?im)^.*?\bmsg="((?:[^"\\]|\\.)*)".*$"#,
            Text("$1"),
        ),
        rule("log_prefix", "time, level, process and logger a log line begins with", r"(?m)^.+$", With(without_prefix)),
        rule(
            "attempts",
            "which try it was and when the next one is",
            r"(?i)\s*\(x\d+ over [^)\n]*\)|\s*[(\[][^)\]\n]*\b(?:attempt|retry|retrying)\b[^)\]\n]*[)\]]|\battempt \d+ ?(?:of|/) ?\d+:?\s*|[,;]?\s*\b(?:retry|retrying|try again|trying again|reconnecting)(?: after| in)? \d[\w.]*(?: \d+\w)*",
            Text(""),
        ),
        rule(
            "request_ids",
            "ids",
            r#"(?i)\b(?:req|request|trace|span|run|job|msg|evt|call|chatcmpl)[-_][0-9a-z]{8,}\b|"?request[ _-]?id"?[:=]\s*"?[\w-]+"?"#,
            Text("<id>"),
        ),
        rule("urls", "what a request carried", r"\b(https?://[^\s?#\x22'`<>)]+)[?#][^\s\x22'`<>)]*", Text("$1")),
        rule("uuids", "ids", r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", Text("<id>")),
        rule("ulids", "ids", r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b", Text("<id>")),
        rule("short_ids", "ids", r"\b[0-9A-Z]{9,32}\b", With(short_id)),
        rule(
            "times",
            "points in time",
            r"(?i)\b\d{4}\.\d\d\.\d\d\b|\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|\s?[+-]\d\d:?\d\d| utc)?)?|\b(?:mon|tue|wed|thu|fri|sat|sun),? \d{1,2} [a-z]{3} \d{4} \d\d:\d\d:\d\d(?: [a-z]{3}| [+-]\d{4})?|\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b",
            Text("<time>"),
        ),
        rule("pointers", "addresses in memory", r"(?i)\b0x[0-9a-f]{4,}\b", Text("<addr>")),
        rule(
            "paths",
            "directories: the same file lies elsewhere in every worktree; its name stays",
            r"(?:[A-Za-z]:\\|~?/|\.{1,2}/|\b(?:[\w@.+-]+/)+|\b(?:[\w@.+-]+\\)+)(?:[\w@.+~%-]+[/\\])*[\w@.+~%-]*",
            With(path),
        ),
        rule(
            "positions",
            "line and column",
            r"(\.[A-Za-z]\w{0,9}|<tmp>)(?::\d+(?::\d+)?|\(\d+(?:,\s?\d+)?\))",
            Text("$1:<at>"),
        ),
        rule("lines", "line numbers in words", r"(?i)\b(lines?|columns?|col|row|char) \d+(?:[-–]\d+)?", Text("$1 <n>")),
        rule(
            "hashes",
            "commits, digests, containers",
            r"(?i)\b(?:sha(?:1|256|512)[:-][0-9a-z+/=]{16,}|[0-9a-f]{7,64})\b",
            With(hash),
        ),
        rule(
            "durations",
            "how long",
            r"(?i)\b(?:\d+[dhm])+\d+(?:\.\d+)?m?s\b|\b(?:\d+(?:\.\d+)?\s?(?:ns|µs|us|ms|milliseconds?|secs?|seconds?|s|mins?|minutes?|m|hours?|hrs?|h|days?|d)\b[ \t,]*)+",
            Text("<duration> "),
        ),
        rule("sizes", "how large", r"(?i)\b\d+(?:[.,]\d+)?\s?(?:[kmgt]i?b|bytes|b)\b", Text("<size>")),
        rule(
            "hosts",
            "addresses in a network; a well-known port says which service it is",
            r"\b(?:\d{1,3}\.){3}\d{1,3}(?::(\d+))?\b",
            With(host),
        ),
        rule("ports", "ports given for an occasion", r"(:)(\d{5})\b", With(port)),
        rule(
            "named_ids",
            "which worker, task or machine it was",
            r"(?i)\b(worker|task|job|agent|container|thread|session|build|run|node|pod|host|process|goroutine|runner|plan|step|shard|pid)([ #:=/-]{1,2})(?:[a-z]-)?([0-9a-f]*\d[0-9a-f]*|[a-z0-9]+-[0-9a-f]*\d[0-9a-f]*)\b",
            Text("$1$2<id>"),
        ),
        rule(
            "codes",
            "numbers that are the cause: exit, status and error codes, signals, found and expected values",
            r"(?i)\b((?:exit(?:ed)?(?: with)?(?: code| status)?|code|status(?: code)?|https?|http/\d\.\d|signal|errno|error|sqlstate|expected|got|actual|received|found|left|right|want|version|port|returned|to (?:be|equal)|api error:|exceeded|limit|maximum|timeout of|at most|at least)\b?[:=]?\s?[\x22'`(]?)(-?\d{1,6}(?:\.\d+)*)\b",
            With(kept),
        ),
        rule("statuses", "the status something was answered with", r"((?:->|=>|→)\s?)([1-5]\d\d)\b", With(kept)),
        rule(
            "versions",
            "a version is part of what is named",
            r"((?:==|@[~^]?|[~^]|:v?|-)v?)(\d+(?:\.\d+)+)",
            With(kept),
        ),
        rule("numbers", "counts and everything else that is a number", r"\b\d[\d_.,]*\b", Text("<n>")),
        rule("kept", "numbers that were kept", r"\x02([^\x03]*)\x03", With(unkept)),
        rule("blanks", "blanks in a row", r"[^\S\n]+", Text(" ")),
    ]
});

/// One thing a log line can begin with, before what it says.
static PREFIX: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?ix)^\s*(?:
            \[[^\]\n]{1,60}\]
          | [\[(]?\d{4}[-/]\d\d[-/]\d\d[T\s]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|\s?[+-]\d\d:?\d\d|\s[A-Z]{3,4}\b)?[\])]?
          | (?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\s+\d{1,2}\s\d\d:\d\d:\d\d(?:\s[\w.-]+)?
          | [\[(]?\d\d:\d\d:\d\d(?:[.,]\d+)?[\])]?
          | \d{10}(?:\d{3})?(?:\.\d+)?\b
          | \((?:worker|thread|pid|task|job|run)[^)\n]{0,30}\)
          | [A-Za-z_][\w.]*=(?:"[^"\n]*"|\S+)
          | \#\d+\s(?:\[[^\]\n]*\]\s)?\d+\.\d+
          | [a-z][\w.-]*@[\w.-]+:?\s
          | (?:stderr|stdout|kernel):
          | npm\s(?:err!|error)\s(?:code\s.*)?
          | remote:
          | [a-z][\w.-]*\s*\|\s
          | ⎿
          | [\w./-]{1,40}\[\d+\]:?\s
          | e\s{2,}
        )[:,]?\s*"#,
    )
    .expect("a pattern")
});
static LEVEL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL|trace|debug|info|notice|warn|warning|error|fatal|critical)\s+").expect("a pattern")
});
static LOGGER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[a-z][\w.-]{0,40}(?:\s[\w-]+=\S+|\s[0-9A-Z]{8,26})?:\s+").expect("a pattern"));

/// A line without the time, level, process and logger it may begin with. What looks like a logger and speaks of an
/// error is part of what is said.
fn without_prefix(found: &Captures<'_>) -> String {
    let mut line = &found[0];
    let mut stripped = false;
    while let Some(prefix) = PREFIX.find(line) {
        line = &line[prefix.end()..];
        stripped = true;
    }
    if !stripped {
        return line.to_owned();
    }
    // A number behind the level is the error's own.
    if let Some(level) = LEVEL.find(line).filter(|level| !line[level.end()..].starts_with(|c: char| c.is_ascii_digit()))
    {
        line = &line[level.end()..];
        while let Some(prefix) = PREFIX.find(line) {
            line = &line[prefix.end()..];
        }
    }
    if let Some(logger) = LOGGER.find(line) {
        let name = logger.as_str().to_lowercase();
        if !["error", "exception", "fail", "fatal", "panic", "failed", "cannot"].iter().any(|word| name.contains(word))
        {
            line = &line[logger.end()..];
        }
    }
    line.to_owned()
}

/// Nine capitals and digits or more, mixed, are an id; a word or a number is none.
fn short_id(found: &Captures<'_>) -> String {
    let digits = found[0].bytes().filter(u8::is_ascii_digit).count();
    if digits >= 2 && found[0].len() - digits >= 2 { "<id>".to_owned() } else { found[0].to_owned() }
}

/// The part of a file's name that a build put in to tell it from its forerunner.
static HASH_PART: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"([-._])[0-9a-f]{6,64}\b").expect("a pattern"));

fn path(found: &Captures<'_>) -> String {
    let text = &found[0];
    let is_absolute = text.starts_with(['/', '~']) || text.contains(":\\");
    let name = text.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(text);
    let name = &*HASH_PART.replace_all(name, "$1<hash>");
    let is_made_up = |name: &str| {
        let digits = name.bytes().filter(u8::is_ascii_digit).count();
        name.starts_with("tmp") || name.starts_with(".tmp") || digits >= 4 && digits * 3 >= name.len()
    };
    if text.trim_matches(['/', '.', '~']).is_empty() {
        text.to_owned()
    } else if is_absolute && !name.contains('.') {
        // A directory or a program: where it lies is the whole of it.
        "<dir>".to_owned()
    } else if is_made_up(name) {
        "<tmp>".to_owned()
    } else {
        name.to_owned()
    }
}

/// Seven hex digits or more are a hash when letters and digits are mixed; a word or a number is none.
fn hash(found: &Captures<'_>) -> String {
    let text = &found[0];
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if text.starts_with("sha") || digits > 0 && digits < text.len() { "<hash>".to_owned() } else { text.to_owned() }
}

/// Below this, a port belongs to a service; from here on the system gives them out.
const EPHEMERAL_FROM: u32 = 32_768;

fn host(found: &Captures<'_>) -> String {
    match found.get(1).map(|port| port.as_str().parse::<u32>()) {
        Some(Ok(port)) if port < EPHEMERAL_FROM => format!("<ip>:\u{2}{}\u{3}", letters(&port.to_string())),
        Some(_) => "<ip>:<port>".to_owned(),
        None => "<ip>".to_owned(),
    }
}

fn port(found: &Captures<'_>) -> String {
    match found[2].parse::<u32>() {
        Ok(port) if (EPHEMERAL_FROM..=65_535).contains(&port) => ":<port>".to_owned(),
        _ => format!(":\u{2}{}\u{3}", letters(&found[2])),
    }
}

/// A number that stays, written so that the rule for numbers does not see it.
fn kept(found: &Captures<'_>) -> String {
    format!("{}\u{2}{}\u{3}", &found[1], letters(&found[2]))
}

fn letters(number: &str) -> String {
    number
        .chars()
        .map(|c| c.to_digit(10).and_then(|digit| char::from_u32('\u{e000}' as u32 + digit)).unwrap_or(c))
        .collect()
}

fn unkept(found: &Captures<'_>) -> String {
    let digit = |c: char| char::from_digit((c as u32).wrapping_sub('\u{e000}' as u32), 10).unwrap_or(c);
    found[1].chars().map(digit).collect()
}

fn normalize(text: &str, mut seen: impl FnMut(&Rule, &str)) -> String {
    let mut text = Cow::Borrowed(cut(text));
    if text.contains(['\u{2}', '\u{3}']) {
        text = Cow::Owned(text.replace(['\u{2}', '\u{3}'], " "));
    }
    for rule in RULES.iter() {
        let changed = match &rule.put {
            Put::Text(with) => rule.pattern.replace_all(&text, *with),
            Put::With(with) => rule.pattern.replace_all(&text, with),
        };
        if let Cow::Owned(changed) = changed
            && changed != *text
        {
            seen(rule, &changed);
            text = Cow::Owned(changed);
        }
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut distinct: Vec<&str> = Vec::new();
    for line in lines {
        if distinct.last() != Some(&line) {
            distinct.push(line);
        }
    }
    distinct.truncate(LINES_MAX);
    let text = distinct.join("\n").to_lowercase();
    match headline(&text) {
        Some((rule, said)) => {
            let said = said.trim().to_owned();
            if said != text {
                seen(rule, &said);
            }
            said
        }
        // Nothing is said to be wrong: then it is what is said first.
        None => {
            let first = text.lines().next().unwrap_or_default();
            let lines = if first.len() >= SAID_ENOUGH_BYTES { 1 } else { SAID_FIRST_LINES };
            text.lines().take(lines).collect::<Vec<_>>().join("\n")
        }
    }
}

/// How tools say what is wrong: the first of these that a text has is its headline, the rest of the text is what stands
/// around it. More particular ones come first; the last one takes any line that speaks of something gone wrong.
struct Headline {
    rule: Rule,
    beside: Beside,
}

/// What belongs to a headline beside itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// Nothing: it says all.
    Nothing,
    /// Values that were expected and found.
    Values,
    /// The innermost function: it does not say where.
    Place,
    /// Nothing, but the last one in the text counts: causes are told after what they led to. The line after it, when it
    /// ends in a colon.
    LastOf,
    /// Other lines that speak of it: it may be as general as "validation failed".
    Companions,
}

static HEADLINES: LazyLock<Vec<Headline>> = LazyLock::new(|| {
    let headline = |name, beside, pattern| Headline {
        rule: rule(name, "the line that says what is wrong; what stands around it differs", pattern, Put::Text("")),
        beside,
    };
    vec![
        headline("sanitizer", Beside::Nothing, r"(?m)^summary: (\w+sanitizer: \S+).* (in \S+)"),
        headline("test_summary", Beside::Nothing, r"(?m)^(?:failed|error) (\S+::\S+)"),
        headline("test_name", Beside::Values, r"(?m)^(?:[●×✕✗] |fail +)(?:\S+ > )?(.+ [›>] .+)$"),
        headline("test_panic", Beside::Values, r"(?m)^thread '([^']+)'.*panicked at[^\n]*\n([^\n]+)"),
        headline("test_fail", Beside::Nothing, r"(?m)^--- fail: (\S+)"),
        headline("api_error", Beside::Nothing, r#"(?m)"type": ?"(\w+)", ?"message": ?"([^"\n]*)""#),
        headline("git_rejected", Beside::Nothing, r"(?m)^! \[(?:remote )?rejected\] .*\((.+)\)$"),
        headline("race", Beside::Place, r"(?m)^(warning: data race)"),
        headline("panic", Beside::Place, r"(?m)^(?:panic|fatal error): (.+)$"),
        headline("exit", Beside::LastOf, r"(?m)^\*\* \(\w+\) (.+)$"),
        headline("compiler_code", Beside::Values, r"(?m)\b((?:error|warning)(?:\[[a-z]+\d+\]| [a-z]{1,4}\d+): .+)$"),
        headline("linter_row", Beside::Nothing, r"(?m)^<n>:<n> (?:error|warning) (.+)$"),
        headline("linter_code", Beside::Nothing, r"(?m):<at>:? ([a-z]{1,4}\d{3,4}\b.*)$"),
        headline(
            "linker",
            Beside::Nothing,
            r"(?m)(undefined reference to .+|undefined symbols? .+|multiple definition of .+|no rule to make target .+)$",
        ),
        headline(
            "exception",
            Beside::LastOf,
            r"(?m)^(?:e +|uncaught |caused by: |exception in thread .{1,60}? )?((?:\w+[.:]+)*\w+(?:error|exception|interrupt)\b(?: \[\w+\])?:.*)$",
        ),
        headline("reason", Beside::LastOf, r"(?m)^> (could not .+|cannot .+|no .+)$"),
        headline(
            "spoke_of_it",
            Beside::Companions,
            r"(?m)^(.*\b(?:error|errors|failed|failure|fatal|cannot|can't|could not|couldn't|unable|not found|no such|no rule|denied|refused|timed out|timeout|exceeded|killed|undefined|unknown|missing|invalid|conflict|conflicts?|mismatch|rejected|forbidden|unauthorized|unreachable|abort(?:ed)?|gave up|exited|limit|overloaded|quota|exit code|signal|must|required|expired|corrupt|full|fault|fail|fails)\b.*)$",
        ),
    ]
});

/// Some lines of one tool begin with the level and some do not.
static LEADING_LEVEL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(?:error|fatal|err!|warning|failed|failure):?\s+").expect("a pattern"));
static SAID_ERROR: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?:^|[\s\]:>|])(?:error|fatal|err!|failed|failure|critical|denied)[:\]]+\s*(.+)$").expect("a pattern")
});
static VALUES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^\s*(?:expected|received|actual|got|want|left|right|found|symbol)\b ?:? .*$|\bexpected [^,\n]+, (?:found|got) .+$").expect("a pattern")
});
static PLACE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^\s*(?:#\d+ \S+ in |at )?((?:[\w@.$-]+[./:])*\(?\*?\w+\)?\.\w+)\(").expect("a pattern")
});

fn headline(text: &str) -> Option<(&'static Rule, String)> {
    for Headline { rule, beside } in HEADLINES.iter() {
        let mut all = rule.pattern.captures_iter(text);
        let found = if *beside == Beside::LastOf { all.last() } else { all.next() };
        let Some(found) = found else { continue };
        let whole = found.get(0).map_or(0..0, |whole| whole.range());
        let (rest, behind) = (&text[whole.start..], &text[whole.end..]);
        let mut said: Vec<&str> = found.iter().skip(1).flatten().map(|part| part.as_str().trim()).collect();
        match beside {
            Beside::Nothing => {}
            Beside::LastOf if said.last().is_some_and(|line| line.ends_with(':')) => said.extend(behind.lines().nth(1)),
            Beside::LastOf => {}
            Beside::Place => {
                said.extend(PLACE.captures(rest).and_then(|place| place.get(1)).map(|place| place.as_str()))
            }
            Beside::Values => said.extend(values(rest)),
            Beside::Companions => {
                said.extend(rule.pattern.find_iter(behind).take(COMPANIONS_MAX).map(|line| line.as_str()));
                said.extend(values(rest).filter(|value| !value.is_empty()));
                said = said.into_iter().map(without_level).collect();
                said.dedup();
            }
        }
        let said = LEADING_LEVEL.replace(&said.join("\n"), "").into_owned();
        return Some((rule, said));
    }
    None
}

fn values(text: &str) -> impl Iterator<Item = &str> {
    VALUES.find_iter(text).take(VALUES_MAX).map(|value| value.as_str().trim())
}

/// What a line says behind the word that it is an error.
fn without_level(line: &str) -> &str {
    SAID_ERROR.captures(line).and_then(|said| said.get(1)).map_or(line, |said| said.as_str()).trim()
}

/// The beginning of a text that is too long to be looked at whole: what went wrong first is the cause.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

static RATE_LIMIT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\brate[ _-]?limit(?:ed|_error| exceeded| reached)?\b|\b429\b.*\btoo many requests\b|\btoo many requests\b|\b(?:status|http|error|code)[ :/]*429\b|(?:^|[^\w\s]\s*|\b(?:api|usage|weekly|daily|hourly|monthly|requests?|tokens?|your|current|account)\s+)quota\s+(?:exceeded|exhausted|reached)\b|\bexceeded your (?:current )?quota\b|\busage limit reached\b|\bresource_exhausted\b|\binsufficient_quota\b").expect("a pattern")
});
static PROVIDER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\boverloaded(?:_error)?\b|\b(?:status|http|error|code)[ :/]*529\b|\bapi error:? 5\d\d\b|\b(?:provider|model|anthropic|claude|openai|gemini|bedrock|vertex)\b.{0,60}\b(?:50[0234]|service unavailable|temporarily unavailable|internal server error)\b").expect("a pattern")
});
static AFTER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:retry|try again|retrying|resets?|reset|available again|wait)[ _-]?(?:after|in|for)?[:=\s\x22']{0,4}((?:\d+(?:\.\d+)?\s?(?:ms|milliseconds?|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)?\s?)+)").expect("a pattern")
});
static PART: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(\d+(?:\.\d+)?)\s?([A-Za-z]*)").expect("a pattern"));
static AT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:resets?|retry|available|until|again)\b[^\n]{0,30}?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?\s?(?:Z|UTC|[+-]\d\d:?\d\d)?)").expect("a pattern")
});

fn class(text: &str) -> Class {
    let text = cut(text);
    if RATE_LIMIT.is_match(text) {
        Class::RateLimit(reset(text))
    } else if PROVIDER.is_match(text) {
        Class::Provider(reset(text))
    } else {
        Class::Ordinary
    }
}

fn reset(text: &str) -> Option<Reset> {
    if let Some(found) = AT.captures(text) {
        let given = found[1].trim().replacen(' ', "T", 1).replace(" UTC", "Z").replace("UTC", "Z");
        let given =
            if given.ends_with('Z') || given.rfind(['+', '-']).is_some_and(|at| at > 10) { given } else { given + "Z" };
        if let Ok(at) = given.parse::<jiff::Timestamp>() {
            return Some(Reset::At(Timestamp::from_ms(at.as_millisecond())));
        }
    }
    let found = AFTER.captures(text)?;
    let mut ms = 0.0;
    for part in PART.captures_iter(&found[1]) {
        let number: f64 = part[1].parse().ok()?;
        ms += number
            * match part[2].to_lowercase().as_str() {
                "ms" | "millisecond" | "milliseconds" => 1.0,
                "m" | "min" | "mins" | "minute" | "minutes" => 60_000.0,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000.0,
                "d" | "day" | "days" => 86_400_000.0,
                _ => 1_000.0,
            };
    }
    #[expect(clippy::cast_possible_truncation, reason = "a number of milliseconds; too large is clipped later")]
    let ms = ms as i64;
    Some(Reset::AfterMs(ms))
}
