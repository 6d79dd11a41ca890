//! Guards the doors of the house: which room may import which, which foreign types stay inside, that every file says
//! what it is for, and that tests wait for conditions. Each guard is tried on a sample it has to refuse.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms and what they may import of ours. The hallway's files are at the end.
const DOORS: [(&str, &[&str]); 12] = [
    ("model", &[]),
    ("metrics", &["model"]),
    ("git", &["model", "metrics"]),
    ("process", &["model", "metrics"]),
    ("store", &["model", "metrics"]),
    ("actors", &["model", "metrics", "git", "process", "store"]),
    ("http", &["actors", "model", "metrics"]),
    ("cli", &["model", "config"]),
    ("config.rs", &["model", "metrics"]),
    ("telemetry", &["config", "metrics"]),
    ("lib.rs", &[]),
    ("runtime.rs", &["actors", "cli", "config", "git", "http", "metrics", "model", "process", "store", "telemetry"]),
];

/// Crates whose types stay in one room.
const STAY_INSIDE: [(&str, &str); 8] = [
    ("git2::", "git"),
    ("rusqlite::", "store"),
    ("warp::", "http"),
    ("clap::", "cli"),
    ("metrics_exporter_prometheus::", "metrics"),
    ("ractor::", "actors"),
    ("opentelemetry::", "telemetry"),
    ("opentelemetry_otlp::", "telemetry"),
];

/// Rooms that would gather everything.
const NO_ROOM: [&str; 4] = ["util", "common", "helpers", "prelude"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What is in `bench/out` was made by benchmarks: repositories of others, too.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.ends_with("bench/out") {
            continue;
        }
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Every file of a directory with its path inside it and its text.
fn texts(dir: &str) -> Vec<(String, String)> {
    let base = root().join(dir);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&base).expect("is inside").display().to_string();
        (name, fs::read_to_string(path).expect("reads"))
    };
    rust_files(&base).into_iter().map(read).collect()
}

/// Lines of code, comments left out.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or("")))
        .filter(|(_, line)| !line.trim().is_empty())
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap_or(file)
}

/// The rooms a line names after `crate::`, also in a list in braces.
fn named_rooms(line: &str) -> Vec<&str> {
    line.match_indices("crate::")
        .flat_map(|(at, _)| {
            let rest = &line[at + "crate::".len()..];
            let list = rest.strip_prefix('{').map(|list| list.split('}').next().unwrap_or(list));
            list.map_or_else(|| vec![first_word(rest)], |list| list.split(',').map(first_word).collect())
        })
        .filter(|room| !room.is_empty())
        .collect()
}

fn first_word(text: &str) -> &str {
    let text = text.trim_start();
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

fn wrong_imports(file: &str, text: &str) -> Vec<String> {
    let room = room_of(file);
    let Some((_, allowed)) = DOORS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{file} belongs to no room")];
    };
    let wrong = |(line, code): (usize, &str)| -> Vec<String> {
        let rooms = named_rooms(code).into_iter().filter(|named| *named != room && !allowed.contains(named));
        rooms.map(|named| format!("{file}:{line}: {room} may not know {named}")).collect()
    };
    code(text).flat_map(wrong).collect()
}

#[test]
fn imports_go_one_way() {
    let wrong: Vec<String> = texts("src")
        .iter()
        .filter(|(file, _)| file != "main.rs")
        .flat_map(|(file, text)| wrong_imports(file, text))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(wrong_imports("model/x.rs", "use crate::store::Store;\n// use crate::git;\n").len(), 1);
    assert_eq!(wrong_imports("http/x.rs", "use crate::{model, git::Place};").len(), 1);
    assert_eq!(wrong_imports("helpers/x.rs", "").len(), 1);
}

fn escaped(file: &str, text: &str) -> Vec<String> {
    let room = room_of(file);
    let out = |(line, code): (usize, &str)| -> Vec<String> {
        let names = STAY_INSIDE.iter().filter(|(name, home)| room != *home && mentions(code, name));
        names.map(|(name, home)| format!("{file}:{line}: {name} stays in {home}")).collect()
    };
    code(text).flat_map(out).collect()
}

fn mentions(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn foreign_types_stay_in_their_room() {
    // `main` reads the command line; nothing else is excused.
    let wrong: Vec<String> = texts("src")
        .iter()
        .filter(|(file, _)| file != "main.rs")
        .flat_map(|(file, text)| escaped(file, text))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(escaped("actors/x.rs", "let id: git2::Oid = x;").len(), 1);
    assert_eq!(escaped("actors/x.rs", "let id = mygit2::Oid;").len(), 0);
}

#[test]
fn every_file_says_what_it_is_for() {
    for dir in ["src", "tests", "bench"] {
        for (file, text) in texts(dir) {
            assert!(text.starts_with("//!"), "{dir}/{file} does not begin with //!");
        }
    }
}

#[test]
fn there_is_no_room_that_gathers_everything() {
    for (file, _) in texts("src") {
        let gathers = file.split('/').any(|part| NO_ROOM.contains(&part.trim_end_matches(".rs")));
        assert!(!gathers, "src/{file}: put it into the room whose noun it mentions");
    }
}

fn impatient(text: &str) -> Vec<usize> {
    let signs = [
        concat!("thread::", "sleep"),
        concat!("time::", "sleep("),
        concat!("#[", "ignore"),
        concat!("should_", "panic"),
    ];
    code(text).filter(|(_, line)| signs.iter().any(|sign| line.contains(sign))).map(|(line, _)| line).collect()
}

#[test]
fn tests_wait_for_conditions_and_are_never_switched_off() {
    for (file, text) in texts("tests") {
        let lines = impatient(&text);
        assert!(lines.is_empty(), "tests/{file}: lines {lines:?}");
    }
    assert_eq!(impatient(concat!("std::thread::", "sleep(x);\n#[", "ignore]\n")), [1, 2]);
}

/// Whether a text has an absolute path that begins so; the same words inside a longer path are another thing.
fn begins_a_path(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || "_.-/}".contains(c)))
}

#[test]
fn nothing_names_a_path_of_the_machine_it_was_written_on() {
    for dir in ["src", "tests", "bench"] {
        for (file, text) in texts(dir) {
            let found =
                [concat!("/ro", "ot/"), concat!("/wo", "rk/")].into_iter().find(|path| begins_a_path(&text, path));
            assert_eq!(found, None, "{dir}/{file}");
        }
    }
    assert!(begins_a_path(concat!("in \"/wo", "rk/x\""), concat!("/wo", "rk/")));
    assert!(!begins_a_path(concat!("POST /todos/wo", "rk/"), concat!("/wo", "rk/")));
}

/// Problems that no test can see, and why.
const NEVER_SEEN: [(&str, &str); 1] =
    [("headers_too_large", "the parser of heads answers 431 by itself, without a body")];

/// The codes of problems, as the vocabulary lists them.
fn codes(vocabulary: &str) -> Vec<&str> {
    let code = |line: &'_ str| -> Option<(usize, usize)> {
        let (name, rest) = line.trim().split_once(" = \"")?;
        let (code, rest) = rest.split_once("\", ")?;
        let is_one = name.chars().all(char::is_alphanumeric) && rest.starts_with(|c: char| c.is_ascii_digit());
        let at = line.find(code)?;
        is_one.then_some((at, at + code.len()))
    };
    vocabulary.lines().filter_map(|line| code(line).map(|(from, to)| &line[from..to])).collect()
}

/// The tests of a file, each with everything in it.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let begins = |part: &&str| part.starts_with("test]") || part.starts_with("tokio::test");
    text.split("\n#[").filter(begins).map(|part| part.split("\n}\n").next().unwrap_or(part))
}

#[test]
fn every_problem_is_expected_by_a_test() {
    let vocabulary = fs::read_to_string(root().join("src/model/problem.rs")).expect("reads");
    let files = texts("tests");
    let tests: Vec<&str> =
        files.iter().filter(|(file, _)| file != "tidy.rs").flat_map(|(_, text)| tests_in(text)).collect();
    let is_expected = |code: &str| tests.iter().any(|test| test.contains(&format!("\"{code}\"")));
    let codes = codes(&vocabulary);
    assert!(codes.len() >= 50, "{codes:?}");
    for code in codes {
        let excused = NEVER_SEEN.iter().any(|(never, _)| *never == code);
        assert!(
            is_expected(code) != excused,
            "{code}: {}",
            if excused { "is seen after all" } else { "no test expects it" }
        );
    }
    assert!(!is_expected("no_such_problem"));
}

/// Scenarios in which something is broken, by their file.
const BREAK: [&str; 11] = [
    "crash",
    "git_states",
    "hostile",
    "injection",
    "locks",
    "points",
    "processes",
    "remotes",
    "shutdown",
    "supervision",
    "swaps",
];

/// The name of the function that code is of.
fn function(code: &str) -> Option<&str> {
    code[code.find("fn ")? + 3..].split(['(', '<']).next()
}

/// The tests of a file that end without asking for the promises of `tests/it/promises.rs`, themselves or in what they call.
fn unasked(text: &str) -> Vec<&str> {
    let asks = |code: &str| code.contains("_all_kept(") || code.contains("kept_after(");
    let asking: Vec<&str> = text.split("\n}\n").filter(|code| asks(code)).filter_map(function).collect();
    let calls = |test: &str| asking.iter().any(|name| test.contains(&format!("{name}(")));
    tests_in(text).filter(|test| !asks(test) && !calls(test)).filter_map(function).collect()
}

#[test]
fn whatever_is_broken_all_promises_are_asked_for() {
    for (file, text) in texts("tests/it").iter().filter(|(file, _)| BREAK.contains(&file.trim_end_matches(".rs"))) {
        assert_eq!(unasked(text), Vec::<&str>::new(), "{file}");
    }
    let asks = "\nasync fn all() {\n    house.stop_with_all_kept().await;\n}\n";
    let test = |calls: &str| format!("{asks}\n#[tokio::test]\nasync fn breaks() {{\n    {calls};\n}}\n");
    assert_eq!((unasked(&test("all()")), unasked(&test("house.stop()"))), (vec![], vec!["breaks"]));
}

/// The names of tests a page of ours gives, such as `worktree::what_is_…`.
fn named_tests(page: &str) -> Vec<&str> {
    page.split('`').skip(1).step_by(2).filter(|name| name.contains("::") && !name.contains(' ')).collect()
}

#[test]
fn every_test_a_page_names_is_there() {
    let all: Vec<(String, String)> = texts("tests").into_iter().chain(texts("src")).collect();
    let is_there = |name: &str| {
        let (path, function) = name.rsplit_once("::").expect("a path");
        let file = path.trim_end_matches("::tests").rsplit("::").next().expect("a file");
        let sits = |name: &str| name.contains(file);
        all.iter().any(|(name, text)| sits(name) && text.contains(&format!("fn {function}(")))
    };
    // The page, and how many tests it names at least.
    for (page, least) in [("docs/lessons.md", 20), ("SECURITY.md", 15), ("docs/reliability.md", 0)] {
        let text = fs::read_to_string(root().join(page)).expect("reads");
        let names = named_tests(&text);
        assert!(names.len() >= least, "{page}: {names:?}");
        for name in names {
            assert!(is_there(name), "{name} is named in {page} and is nowhere");
        }
    }
    assert!(!is_there("worktree::something_that_is_nowhere"));
}
