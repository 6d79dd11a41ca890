//! Everything that reads what other people wrote, each as a function of bytes, with what has to hold whatever the bytes
//! are. `main.rs` beside this file gives them mutated samples; `fuzz/` gives them what a fuzzer finds.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Component, Path};

use slugline::config::{Config, Flags};
use slugline::git::{self, porcelain};
use slugline::model::door::AllowedHost;
use slugline::model::event::{EventFilter, place};
use slugline::model::ids::{IdempotencyKey, Lane, OperationId, RepoName, SessionId, Slug, Worker};
use slugline::model::time::Timestamp;
use slugline::model::todo::Complete;
use slugline::model::trace::Trace;
use slugline::model::view::{
    AfterRequest, ExplainRequest, HeartbeatRequest, HoldRequest, LogView, PauseRequest, ReleaseRequest, ReportRequest,
    SignInRequest,
};
use slugline::model::work_order::WorkRequest;
use slugline::model::{filed::NewTodo, fingerprint, mask, repo_config, roadmap, session};

/// One reader: its name, samples of what it reads, and the reading.
pub struct Reader {
    /// What is read.
    pub name: &'static str,
    /// Where mutations begin.
    pub samples: &'static [&'static [u8]],
    /// Reads, and panics when something that has to hold does not.
    pub read: fn(&[u8]),
}

/// All of them.
pub const READERS: [Reader; 16] = [
    Reader { name: "names", samples: &[b"fix-login", b"a.b_c-d", b"app~todo~1", b"worker:1@host/2", b"01J9Z3NDEKTSV4RRFFQ69G5FAV"], read: names },
    Reader { name: "configuration", samples: &[include_bytes!("../../config.example.toml")], read: configuration },
    Reader { name: "repository_settings", samples: &[REPOSITORY_SETTINGS], read: repository_settings },
    Reader { name: "roadmap", samples: &[b"- slug: a\n- slug: b\n  after: [a]\n  lane: x\n  priority: 3\n", b"[]", b"- &x {slug: a}\n- *x\n"], read: roadmap },
    Reader { name: "bodies", samples: &BODIES, read: bodies },
    Reader { name: "event_types", samples: &[b"claim.*,todo.updated", b"lane.paused"], read: event_types },
    Reader { name: "last_event_id", samples: &[b"17", b"18446744073709551616", b" 4 "], read: last_event_id },
    Reader { name: "trace_context", samples: &[b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nvendor=1", b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"], read: trace_context },
    Reader { name: "status_of_git", samples: &[b"1 .M N... 100644 100644 100644 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa a b\0? c\0! d/\0u UU N... 100644 100644 100644 100644 a b c file\0", b"2 R. N... 100644 100644 100644 a b R100 new\0old\0"], read: status_of_git },
    Reader { name: "index_of_git", samples: &[&INDEX, b"DIRC\0\0\0\x04\0\0\0\x01"], read: index_of_git },
    Reader { name: "failures", samples: &[b"error[E0425]: cannot find value `x` in this scope\n --> src/main.rs:4:5\n", b"Traceback (most recent call last):\n  File \"a.py\", line 3\nValueError: 0x7fff at 2026-01-01T00:00:00Z\n", b"429 Too Many Requests, retry after 30s"], read: failures },
    Reader { name: "log_lines", samples: &[b"{\"type\":\"assistant\",\"timestamp\":\"2026-01-01T00:00:00Z\",\"message\":{\"content\":[{\"text\":\"hi\"}]},\"cwd\":\"/w\"}", b"{\"ts\":1e300,\"kind\":\"x\"}"], read: log_lines },
    Reader {
        name: "configuration_of_git",
        samples: &[
            b"[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://h/x ; why\n[filter \"a\\\"b\"]\n\tclean = \"a b\" \\\n c\n",
            b"[include]\npath = ~/more\n[a.B]c",
        ],
        read: configuration_of_git,
    },
    Reader { name: "allowed_hosts", samples: &[b"box.example.org:7584", b"[fe80::1]:80", b"192.0.2.7"], read: allowed_hosts },
    Reader {
        name: "credentials",
        samples: &[b"fatal: https://bot:s3cret@git.example.org/a.git?token=abc&x=1 Authorization: Basic abc", b"ssh://a:s3cret@c/d", b"http://a;passwd=b/c;d@h"],
        read: credentials,
    },
    Reader { name: "times", samples: &[b"2026-01-01T00:00:00Z", b"-009999-01-01T00:00:00+23:59", b"2026-06-30T23:59:60Z"], read: times },
];

const REPOSITORY_SETTINGS: &[u8] = b"[prepare]\ncommand = \"make\"\ninputs = [\"*.lock\", \"src/**\"]\noutputs = [\".venv\"]\ntimeout_ms = 1000\n\n[sync]\nmain = \"rebase\"\n\n[[gates]]\nname = \"test\"\ncommand = \"make test\"\n\n[todos]\ndir = \"todos\"\nreview = \"required\"\n";

const BODIES: [&[u8]; 6] = [
    br#"{"repo":"app","slug":"fix-login","lane":"builder","worker":"w1","refresh":true,"wait_ms":10}"#,
    br#"{"token":7,"outcome":"done","summary":"s","review":"approved","findings":"f"}"#,
    br#"{"token":7,"progress":"p","extend_ms":5}"#,
    br#"{"slug":"x","brief":"b","after":["a"],"priority":-3}"#,
    br#"{"reason":"r","until":"2026-01-01T00:00:00Z"}"#,
    br#"{"events":[{"kind":"note","text":"t","data":{"a":[1,2,{"b":null}]}}]}"#,
];

/// An index of version 2 with one file in it and nothing else.
const INDEX: [u8; 12 + 64 + 20] = {
    let mut all = [0; 12 + 64 + 20];
    let head = *b"DIRC\0\0\0\x02\0\0\0\x01";
    let mut at = 0;
    while at < head.len() {
        all[at] = head[at];
        at += 1;
    }
    // The mode of a file, the length of its name, the name.
    (all[12 + 26], all[12 + 27]) = (0x81, 0xa4);
    all[12 + 61] = 1;
    all[12 + 62] = b'a';
    all
};

fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(slug) = Slug::parse(&text) {
        let mut parts = Path::new(slug.as_str()).components();
        assert!(matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)), "{slug}");
        assert_eq!(slug.as_str(), &*text);
        assert!(RepoName::parse(&text).is_ok() && Lane::parse(&text).is_ok());
    }
    for error in [
        Worker::parse(&text).err(),
        SessionId::parse(&text).err(),
        OperationId::parse(&text).err(),
        IdempotencyKey::parse(&text).err(),
    ]
    .into_iter()
    .flatten()
    {
        assert!(error.to_string().len() < 2_000, "{error}");
    }
}

fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let env = BTreeMap::from([("HOME".to_owned(), "/nowhere".to_owned())]);
    if let Err(faults) = Config::load(&Flags::default(), &env, Some((Path::new("/nowhere/slugline.toml"), &text))) {
        assert!(!faults.is_empty(), "refused without a reason");
    }
}

fn repository_settings(bytes: &[u8]) {
    match repo_config::parse(&String::from_utf8_lossy(bytes)) {
        Ok(settings) => drop(settings.prepare.map(|prepare| prepare.digest())),
        Err(faults) => assert!(!faults.is_empty(), "refused without a reason"),
    }
}

fn roadmap(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let catalog = roadmap::Catalog::build(roadmap::parse("roadmap.yaml", &text), &[], Vec::new());
    for todo in catalog.iter() {
        assert!(catalog.get(&todo.slug).is_some());
        let _ = catalog.cycle(&todo.slug);
    }
}

fn bodies(bytes: &[u8]) {
    fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        serde_json::from_slice(bytes).ok()
    }
    drop((read::<WorkRequest>(bytes), read::<HeartbeatRequest>(bytes), read::<HoldRequest>(bytes)));
    drop((read::<ReleaseRequest>(bytes), read::<NewTodo>(bytes), read::<AfterRequest>(bytes)));
    drop((read::<PauseRequest>(bytes), read::<ExplainRequest>(bytes), read::<LogView>(bytes)));
    drop(read::<SignInRequest>(bytes));
    if let Some(complete) = read::<Complete>(bytes) {
        let text = serde_json::to_vec(&complete).expect("writes");
        assert_eq!(read::<Complete>(&text), Some(complete), "what is kept is what was said");
    }
    for event in read::<ReportRequest>(bytes).iter().flat_map(|report| &report.events) {
        if event.check().is_ok() {
            assert!(event.kind.len() <= 64);
        }
    }
}

fn event_types(bytes: &[u8]) {
    match EventFilter::parse_kinds(&String::from_utf8_lossy(bytes)) {
        Ok(kinds) => assert!(!kinds.is_empty(), "nothing is listened to"),
        Err(said) => assert!(said.len() < 4_000, "{said}"),
    }
}

fn last_event_id(bytes: &[u8]) {
    if let Err(said) = place(&String::from_utf8_lossy(bytes)) {
        assert!(said.len() < 500, "{said}");
    }
}

fn trace_context(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (parent, state) = text.split_once('\n').map_or((&*text, None), |(parent, state)| (parent, Some(state)));
    if let Some(trace) = Trace::under(parent, state, NonZeroU64::MIN) {
        assert_eq!(trace.trace_id().len(), 32);
        assert!(trace.state().is_none_or(|state| !state.contains(['\r', '\n'])));
    }
}

fn status_of_git(bytes: &[u8]) {
    if let Ok(status) = porcelain::parse(bytes) {
        assert!(status.files.len() + status.ignored.len() <= bytes.len());
    }
}

fn index_of_git(bytes: &[u8]) {
    // The sum at the end is not looked at, as git does not where it is left out.
    for name in git::listed(bytes.to_vec()).unwrap_or_default() {
        let name = String::from_utf8_lossy(&name).into_owned();
        assert!(!Path::new(&name).is_absolute() && !name.split('/').any(|part| part == ".."), "{name}");
    }
}

fn configuration_of_git(bytes: &[u8]) {
    for key in git::settings_in(bytes).unwrap_or_default() {
        assert!(key.len() <= bytes.len() && !key.contains('\0'), "{key:?}");
    }
}

fn allowed_hosts(bytes: &[u8]) {
    if let Ok(host) = AllowedHost::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(AllowedHost::parse(&host.to_string()), Ok(host), "what is shown is what is meant");
    }
}

fn credentials(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let masked = mask::masked(&text).into_owned();
    assert_eq!(mask::masked(&masked), masked, "nothing that is left is a credential");
}

fn failures(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (first, again) = (fingerprint::of(&text), fingerprint::of(&text));
    assert_eq!(first.id, again.id);
    let explained = fingerprint::explain(&text, Timestamp::from_ms(0));
    assert_eq!(explained.fingerprint, first.id, "it is explained as it is done");
}

fn log_lines(bytes: &[u8]) {
    if let Some(line) = session::read_line(bytes) {
        assert!(line.kind.len() <= 4 * 64);
        assert!(line.text.is_none_or(|text| text.chars().count() <= session::SHOWN_CHARS_MAX));
        drop(line.at.map(|at| at.to_string()));
    }
}

fn times(bytes: &[u8]) {
    let text = serde_json::to_string(&String::from_utf8_lossy(bytes)).expect("writes");
    if let Ok(at) = serde_json::from_str::<Timestamp>(&text) {
        let shown = serde_json::to_string(&at).expect("writes");
        assert_eq!(serde_json::from_str::<Timestamp>(&shown).expect("reads what it wrote"), at);
    }
}
