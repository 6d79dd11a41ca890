//! What a repository says about itself in `.slugline.toml` on its base branch.

use sha2::{Digest, Sha256};

use super::settings::{Fault, Section};

/// Longest time a prepare command may be given, in milliseconds, and what it gets when nothing is said.
pub const PREPARE_TIMEOUT_MS_DEFAULT: u64 = 900_000;
/// What a gate gets when nothing is said, in milliseconds.
pub const GATE_TIMEOUT_MS_DEFAULT: u64 = 300_000;
/// No command may be given longer than this, in milliseconds: a day.
pub const TIMEOUT_MS_MAX: u64 = 86_400_000;

/// The parsed `.slugline.toml`; a repository without one has the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoConfig {
    /// The prepare command, when declared.
    pub prepare: Option<PrepareConfig>,
    /// How the base comes into a branch.
    pub sync_main: SyncMode,
    /// The gates, in order.
    pub gates: Vec<GateConfig>,
    /// Whether a passing verdict is used again for the same tree, gate and environment.
    pub reuse_passed_gates: bool,
    /// Directory of the todos, repository-relative, checked to stay inside.
    pub todos_dir: String,
    /// Whether a finished build is reviewed.
    pub review: ReviewMode,
}

impl Default for RepoConfig {
    fn default() -> Self {
        Self {
            prepare: None,
            sync_main: SyncMode::Merge,
            gates: Vec::new(),
            reuse_passed_gates: true,
            todos_dir: "todos".to_owned(),
            review: ReviewMode::None,
        }
    }
}

/// The `[prepare]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareConfig {
    /// Run by `sh -c` in the worktree.
    pub command: String,
    /// Files or globs, worktree-relative.
    pub inputs: Vec<String>,
    /// Files or directories that must exist afterwards, worktree-relative.
    pub outputs: Vec<String>,
    /// Time limit in milliseconds.
    pub timeout_ms: u64,
}

/// One `[[gates]]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateConfig {
    /// Its name, unique.
    pub name: String,
    /// Run by `sh -c` in the worktree.
    pub command: String,
    /// Time limit in milliseconds.
    pub timeout_ms: u64,
}

/// `[sync] main`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Merge the base into the branch.
    Merge,
    /// Rebase the branch onto the base.
    Rebase,
    /// Only when the branch has no commits of its own.
    FfOnly,
    /// Never.
    Off,
}

/// `[todos] review`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewMode {
    /// Build, then done.
    None,
    /// Build, review, fix, then done.
    Required,
}

/// The file's name, for faults.
pub const FILE: &str = ".slugline.toml";
/// Inputs, outputs and gates one file may declare.
const PATHS_MAX: usize = 256;
const GATES_MAX: usize = 32;

impl PrepareConfig {
    /// Changes with anything that changes what a prepare does or when it is due.
    #[must_use]
    pub fn digest(&self) -> String {
        let lists = [&self.inputs, &self.outputs]
            .into_iter()
            .flat_map(|list| std::iter::once(list.len().to_string()).chain(list.iter().cloned()));
        digest(std::iter::once(self.command.clone()).chain(lists))
    }
}

impl GateConfig {
    /// Changes with anything that changes what a gate says.
    #[must_use]
    pub fn digest(&self) -> String {
        digest([self.name.clone(), self.command.clone(), self.timeout_ms.to_string()].into_iter())
    }
}

/// SHA-256 over the parts with their lengths, in hex.
fn digest(parts: impl Iterator<Item = String>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads `.slugline.toml`; all faults at once.
pub fn parse(text: &str) -> Result<RepoConfig, Vec<Fault>> {
    let mut top = Section::parse(FILE, text);
    let faults = top.fault_list();
    let defaults = RepoConfig::default();
    let prepare = top.section_if_there("prepare").and_then(prepare);
    let mut sync = top.section("sync");
    let modes = [
        ("merge", SyncMode::Merge),
        ("rebase", SyncMode::Rebase),
        ("ff-only", SyncMode::FfOnly),
        ("off", SyncMode::Off),
    ];
    let sync_main = sync.word("main", &modes).unwrap_or(defaults.sync_main);
    sync.finish();
    let mut gates: Vec<GateConfig> = Vec::new();
    for section in top.sections("gates", GATES_MAX) {
        if let Some(gate) = gate(section, &gates) {
            gates.push(gate);
        }
    }
    let mut verdicts = top.section("verdicts");
    let reuse_passed_gates = verdicts.flag("reuse_passed").unwrap_or(true);
    verdicts.finish();
    let mut todos = top.section("todos");
    let todos_dir = todos
        .parsed("dir", |text| plain_dir(text).map(|()| text.trim_end_matches('/').to_owned()))
        .unwrap_or(defaults.todos_dir);
    let review = todos
        .word("review", &[("none", ReviewMode::None), ("required", ReviewMode::Required)])
        .unwrap_or(ReviewMode::None);
    todos.finish();
    top.finish();
    let faults = faults.take();
    if faults.is_empty() {
        Ok(RepoConfig { prepare, sync_main, gates, reuse_passed_gates, todos_dir, review })
    } else {
        Err(faults)
    }
}

fn prepare(mut section: Section) -> Option<PrepareConfig> {
    let command = section.parsed("command", command);
    if command.is_none() {
        section.fault("command", "is needed: the line of shell that prepares a worktree");
    }
    let config = PrepareConfig {
        command: command.unwrap_or_default(),
        inputs: section.texts("inputs", PATHS_MAX, pattern).unwrap_or_default(),
        outputs: section.texts("outputs", PATHS_MAX, inside).unwrap_or_default(),
        timeout_ms: section.whole("timeout_ms", 1..=TIMEOUT_MS_MAX).unwrap_or(PREPARE_TIMEOUT_MS_DEFAULT),
    };
    section.finish();
    (!config.command.is_empty()).then_some(config)
}

fn gate(mut section: Section, earlier: &[GateConfig]) -> Option<GateConfig> {
    let name = section.parsed("name", |text| super::ids::Lane::parse(text).map(|name| name.to_string()));
    let command = section.parsed("command", command);
    let timeout_ms = section.whole("timeout_ms", 1..=TIMEOUT_MS_MAX).unwrap_or(GATE_TIMEOUT_MS_DEFAULT);
    let (Some(name), Some(command)) = (name, command) else {
        section.fault("", "a gate needs a name and a command");
        section.finish();
        return None;
    };
    if earlier.iter().any(|gate| gate.name == name) {
        section.fault("name", format!("{name} stands here a second time"));
    }
    section.finish();
    Some(GateConfig { name, command, timeout_ms })
}

fn command(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() {
        Err("is empty")
    } else if text.contains('\0') {
        Err("has a NUL byte")
    } else {
        Ok(text.to_owned())
    }
}

/// A path that stays inside the worktree and out of git's own directory.
///
/// Parts are compared without case, since some disks are so, and braces of a glob are taken apart, since `{.git,a}/x`
/// is two paths.
fn inside(text: &str) -> Result<(), String> {
    let forbidden = |part: &str| matches!(part.to_ascii_lowercase().as_str(), ".." | "." | ".git" | "~");
    let parts = text.trim_end_matches('/').split(['/', '{', '}', ',']);
    let bad = text.is_empty()
        || text.starts_with('/')
        || text.contains("//")
        || text.contains(['\0', '\\', '\n'])
        || parts.into_iter().any(forbidden);
    if bad { Err(format!("{text:?} is not a path inside the worktree")) } else { Ok(()) }
}

/// A directory that is one, and no pattern.
fn plain_dir(text: &str) -> Result<(), String> {
    inside(text)?;
    if text.contains(['*', '?', '[', '{']) {
        Err(format!("{text:?} is a pattern, expected one directory"))
    } else {
        Ok(())
    }
}

fn pattern(text: &str) -> Result<(), String> {
    inside(text)?;
    globset::Glob::new(text).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_is_read() {
        let text = "[prepare]\ncommand = \"make install\"\ninputs = [\"Makefile\", \"uv.lock\"]\noutputs = [\".venv\"]\ntimeout_ms = 900000\n[sync]\nmain = \"rebase\"\n[[gates]]\nname = \"test\"\ncommand = \"make test\"\n[todos]\ndir = \"todos\"\nreview = \"required\"\n";
        let config = parse(text).expect("parses");
        assert_eq!(config.sync_main, SyncMode::Rebase);
        assert_eq!(config.gates[0].timeout_ms, GATE_TIMEOUT_MS_DEFAULT);
        assert_eq!(config.prepare.expect("declared").outputs, [".venv"]);
        assert_eq!(parse("").expect("an empty file is fine"), RepoConfig::default());
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let text = "[prepare]\ninputs = [\"../x\", \"[\"]\n[sync]\nmain = \"sometimes\"\n[[gates]]\nname = \"a\"\n[todos]\ndir = \"/etc\"\n[extra]\n";
        let faults: Vec<String> = parse(text).expect_err("faulty").iter().map(ToString::to_string).collect();
        for part in [
            "prepare.command: is needed",
            "\"../x\" is not a path",
            "sync.main: \"sometimes\" is not one of merge, rebase, ff-only, off",
            "gates[0].",
            "todos.dir",
            "extra: unknown key",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
        }
        assert!(faults.len() >= 7, "{faults:?}");
    }

    #[test]
    fn no_path_leads_out_of_the_worktree_or_into_git() {
        for bad in [
            "",
            "/etc",
            "../x",
            "a/../b",
            ".git/config",
            ".GIT/config",
            "a/.Git",
            "{.git,a}/x",
            "{..,a}/x",
            "~/x",
            "a//b",
            "a\\b",
        ] {
            assert!(inside(bad).is_err(), "{bad}");
        }
        for good in ["a", "a/b.lock", ".venv/", "**/*.toml", "{a,b}/x", ".gitignore", "a..b"] {
            assert!(pattern(good).is_ok(), "{good}");
        }
        assert!(plain_dir("t*").is_err() && plain_dir("work/todos").is_ok());
    }

    #[test]
    fn a_definition_changes_with_everything_that_matters() {
        let prepare = PrepareConfig { command: "a".into(), inputs: vec!["b".into()], outputs: vec![], timeout_ms: 1 };
        let moved = PrepareConfig { inputs: vec![], outputs: vec!["b".into()], ..prepare.clone() };
        assert_ne!(prepare.digest(), moved.digest());
        let gate = GateConfig { name: "a".into(), command: "b".into(), timeout_ms: 1 };
        assert_ne!(gate.digest(), GateConfig { command: "c".into(), ..gate }.digest());
    }
}
