//! The repository of a world: made once, copied for each.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::world::TODOS;

const SETTINGS: &str = "[prepare]\ncommand = \"prepare\"\ninputs = [\"README.md\"]\ntimeout_ms = 20000\n\n\
    [[gates]]\nname = \"unit\"\ncommand = \"gate\"\ntimeout_ms = 15000\n\n[todos]\nreview = ";

static PATTERNS: LazyLock<[tempfile::TempDir; 2]> = LazyLock::new(|| [pattern("none"), pattern("required")]);

fn git(dir: &Path, args: &[&str]) {
    let mut command = Command::new("git");
    command.args(args).current_dir(dir);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
        command.env_remove(name);
    }
    let at = "2026-01-01T00:00:00Z";
    command.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")]);
    command.envs([("GIT_AUTHOR_DATE", at), ("GIT_COMMITTER_DATE", at)]);
    command.envs(
        ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"].map(|of| (of, "test")),
    );
    assert!(command.status().expect("git starts").success(), "git {args:?}");
}

fn pattern(review: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp dir");
    git(dir.path(), &["init", "--quiet", "--template=", "--initial-branch", "main"]);
    std::fs::create_dir_all(dir.path().join("todos/t0")).expect("makes it");
    let line = |number: usize| match number {
        3 => "- slug: t3\n  after: [t1]\n".to_owned(),
        5 => "- slug: t5\n  lane: mender\n".to_owned(),
        6 => "- slug: t6\n  after: [t0, t2]\n".to_owned(),
        _ => format!("- slug: t{number}\n"),
    };
    for (file, text) in [
        (".slugline.toml", format!("{SETTINGS}\"{review}\"\n")),
        ("README.md", "read me\n".to_owned()),
        ("todos/roadmap.yaml", (0..TODOS).map(line).collect()),
        ("todos/t0/requirements.md", "do it\n".to_owned()),
    ] {
        std::fs::write(dir.path().join(file), text).expect("writes");
    }
    git(dir.path(), &["add", "--all"]);
    git(dir.path(), &["commit", "--quiet", "--message", "first"]);
    dir
}

/// A repository of its own at this place.
pub fn make(at: &Path, reviewed: bool) {
    copy(PATTERNS[usize::from(reviewed)].path(), at);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes it");
    for entry in std::fs::read_dir(from).expect("reads").flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}
