//! What a repository says about itself in `.slugline.toml` on its base branch.

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
