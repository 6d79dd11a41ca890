//! How git is run so that nothing runs with it that somebody planted. Agents can write to the shared `.git`, and its
//! configuration can name programs in many places. Everything local that names one is overridden: by what the user's
//! own (global, system) configuration says, or by nothing.
//!
//! Overrides travel as `GIT_CONFIG_COUNT` and friends, which win over every file. Included files are followed without
//! asking for their condition, since a condition can become true inside git. What is left: a change to the
//! configuration in the milliseconds between this reading and git's own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use git2::{Config, ConfigLevel};

use super::{GitError, Repository};

/// Files followed through includes, and how deep.
const FILES_MAX: usize = 64;
const DEPTH_MAX: usize = 10;

/// Always set, whatever any file says.
const ALWAYS: [(&str, &str); 17] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.pager", "cat"),
    ("core.editor", "true"),
    ("sequence.editor", "true"),
    ("core.alternateRefsCommand", ""),
    ("commit.gpgSign", "false"),
    ("tag.gpgSign", "false"),
    ("merge.verifySignatures", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("submodule.recurse", "false"),
    ("rerere.enabled", "false"),
    ("merge.conflictStyle", "merge"),
    ("protocol.ext.allow", "never"),
    ("worktree.guessRemote", "false"),
    ("rebase.autoStash", "false"),
];

/// The environment of every git command, besides the overrides: no questions, no programs to ask with, plain messages,
/// and a committer of the daemon's own, since the daemon makes the merge.
const ENVIRONMENT: [(&str, &str); 11] = [
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_ASKPASS", "false"),
    ("SSH_ASKPASS", "false"),
    ("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=10"),
    ("GIT_EDITOR", "true"),
    ("GIT_PAGER", "cat"),
    ("LC_ALL", "C"),
    ("GIT_AUTHOR_NAME", "Slugline"),
    ("GIT_AUTHOR_EMAIL", "slugline@localhost"),
    ("GIT_COMMITTER_NAME", "Slugline"),
    ("GIT_COMMITTER_EMAIL", "slugline@localhost"),
];

/// What a key that names a program is overridden with when the user's own configuration does not say.
fn replacement(key: &str) -> Option<&'static str> {
    let (section, name) = (key.split('.').next().unwrap_or(""), key.rsplit('.').next().unwrap_or(""));
    match (section, name) {
        // An empty filter passes content through; `required` would make that an error.
        ("filter", "clean" | "smudge" | "process") => Some(""),
        ("filter", "required") => Some("false"),
        // A driver that fails leaves a conflict, which is named and undone; an empty one would silently take a side.
        ("merge", "driver") => Some("false"),
        ("diff", "external" | "command" | "textconv") | ("interactive", "difffilter") => Some(""),
        ("core", "sshcommand") => Some("ssh -oBatchMode=yes"),
        ("core", "gitproxy" | "askpass") | ("credential", "helper") | ("gpg", "program" | "defaultkeycommand") => {
            Some("")
        }
        ("remote", "uploadpack") => Some("git-upload-pack"),
        ("remote", "receivepack") => Some("git-receive-pack"),
        ("remote", "vcs") | ("trailer", "command" | "cmd") | ("uploadpack", "packobjectshook") => Some(""),
        ("core", "worktree" | "attributesfile") => Some(""),
        _ => None,
    }
}

/// Everything a git command of ours gets in its environment.
pub(super) fn environment(repo: &Repository) -> Result<Vec<(OsString, OsString)>, GitError> {
    let mut pairs: Vec<(String, String)> =
        ALWAYS.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    pairs.extend(overrides(repo.common_dir())?);
    let mut env: Vec<(OsString, OsString)> =
        ENVIRONMENT.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    env.push(("GIT_CONFIG_COUNT".into(), pairs.len().to_string().into()));
    for (index, (key, value)) in pairs.into_iter().enumerate() {
        env.push((format!("GIT_CONFIG_KEY_{index}").into(), key.into()));
        env.push((format!("GIT_CONFIG_VALUE_{index}").into(), value.into()));
    }
    Ok(env)
}

/// Overrides for every key in the repository's own files that names a program.
fn overrides(common_dir: &Path) -> Result<BTreeMap<String, String>, GitError> {
    let mut local = Local::default();
    local.file(&common_dir.join("config"), 0)?;
    local.file(&common_dir.join("config.worktree"), 0)?;
    for entry in std::fs::read_dir(common_dir.join("worktrees")).into_iter().flatten().flatten() {
        local.file(&entry.path().join("config.worktree"), 0)?;
    }
    let own = Config::open_default().ok();
    let own_value = |key: &str| {
        let own = own.as_ref()?;
        [ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::System]
            .into_iter()
            .find_map(|level| own.open_level(level).ok()?.get_string(key).ok())
    };
    let decide = |key: String| {
        let value = own_value(&key).or_else(|| replacement(&key).map(str::to_owned))?;
        // git refuses an empty work tree or attributes file; these two are simply the user's or not there.
        Some((key, value)).filter(|(key, value)| {
            !(value.is_empty() && key.starts_with("core.attributesfile") || key == "core.worktree")
        })
    };
    Ok(local.keys.into_iter().filter_map(decide).collect())
}

#[derive(Default)]
struct Local {
    keys: Vec<String>,
    seen: Vec<PathBuf>,
}

impl Local {
    /// Collects the keys of one file that name programs, and follows what it includes.
    fn file(&mut self, path: &Path, depth: usize) -> Result<(), GitError> {
        if self.seen.iter().any(|seen| seen == path) || !path.exists() {
            return Ok(());
        }
        if depth > DEPTH_MAX || self.seen.len() >= FILES_MAX {
            return Err(GitError::State(format!("{} includes too many files to check", path.display())));
        }
        self.seen.push(path.to_owned());
        let fault = || GitError::library(format!("git configuration {}", path.display()));
        let config = Config::open(path).map_err(fault())?;
        let mut entries = config.entries(None).map_err(fault())?;
        let mut includes = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(fault())?;
            let Ok(key) = entry.name() else { continue };
            if replacement(key).is_some() {
                self.keys.push(key.to_owned());
                if let Some(filter) = key.strip_prefix("filter.").and_then(|rest| rest.rsplit_once('.')) {
                    self.keys.push(format!("filter.{}.required", filter.0));
                }
            } else if key == "include.path" || (key.starts_with("includeif.") && key.ends_with(".path")) {
                includes.extend(entry.value().ok().map(|value| resolve(path, value)));
            }
        }
        includes.into_iter().try_for_each(|include| self.file(&include, depth + 1))
    }
}

/// Where an include leads, seen from the file that has it.
fn resolve(from: &Path, to: &str) -> PathBuf {
    match (to.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => from.parent().unwrap_or(from).join(to),
    }
}
