//! How git is run so that nothing runs with it that somebody planted. Agents can write to the shared `.git`, and its
//! configuration can name programs in many places. Everything local that names one is overridden: by what the user's
//! own (global, system) configuration says, or by nothing.
//!
//! Overrides travel as `GIT_CONFIG_COUNT` and friends, which win over every file. What is left: a change to the
//! configuration in the milliseconds between this reading and git's own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use git2::{Config, ConfigLevel};

use super::configuration::{Setting, Settings};
use super::{GitError, Repository};

/// Always set, whatever any file says.
const ALWAYS: [(&str, &str); 18] = [
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
    // A merge waits for it in vain, a second for each ref that is not there; where it counts we try again ourselves.
    ("core.packedRefsTimeout", "100"),
];

/// The environment of every git command, besides the overrides: no questions, no programs to ask with, no transport that is
/// a program of somebody's, objects and histories as they are and not as a replacement or a graft has them, plain
/// messages, and a committer of the daemon's own, since the daemon makes the merge.
const ENVIRONMENT: [(&str, &str); 15] = [
    ("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh"),
    // The first of several settings counts here, so none of ours could win.
    ("GIT_PROXY_COMMAND", ""),
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    // A file that cannot be: git has a word of advice about one that is there, be it empty.
    ("GIT_GRAFT_FILE", "/dev/null/none"),
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
        ("core", "askpass") | ("gpg", "program" | "defaultkeycommand") => Some(""),
        ("hook", "command") => Some("true"),
        ("remote", "uploadpack") => Some("git-upload-pack"),
        ("remote", "receivepack") => Some("git-receive-pack"),
        ("remote", "vcs") | ("trailer", "command" | "cmd") | ("uploadpack", "packobjectshook") => Some(""),
        ("core", "attributesfile") => Some("/dev/null"),
        _ => None,
    }
}

/// Everything a git command of ours gets in its environment, when it works in the worktree with this git directory (the
/// shared one for the main worktree) and is started where its files are, if it has any. Where git works is said here and not left to files
/// that somebody can bend: neither a `.git`, a `commondir` nor a `core.worktree` leads it elsewhere.
pub(super) fn environment(
    repo: &Repository,
    git_dir: &Path,
    has_files: bool,
) -> Result<Vec<(OsString, OsString)>, GitError> {
    let mut pairs: Vec<(String, String)> =
        ALWAYS.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    pairs.extend(overrides(repo.common_dir(), git_dir)?);
    let mut env: Vec<(OsString, OsString)> =
        ENVIRONMENT.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    env.push(("GIT_DIR".into(), git_dir.into()));
    env.push(("GIT_COMMON_DIR".into(), repo.common_dir().into()));
    // The directory it is started in, whatever name that has by then.
    env.extend(has_files.then(|| ("GIT_WORK_TREE".into(), ".".into())));
    env.push(("GIT_CONFIG_COUNT".into(), pairs.len().to_string().into()));
    for (index, (key, value)) in pairs.into_iter().enumerate() {
        env.push((format!("GIT_CONFIG_KEY_{index}").into(), key.into()));
        env.push((format!("GIT_CONFIG_VALUE_{index}").into(), value.into()));
    }
    Ok(env)
}

/// Overrides for every key in the repository's own files that names a program.
fn overrides(common_dir: &Path, git_dir: &Path) -> Result<Vec<(String, String)>, GitError> {
    let files = [common_dir.join("config"), common_dir.join("config.worktree"), git_dir.join("config.worktree")];
    let mut keys = BTreeSet::new();
    let mut helpers = false;
    for Setting { key, .. } in Settings::read(files)?.settings {
        if key.starts_with("credential.") && key.ends_with(".helper") {
            helpers = true;
        } else if replacement(&key).is_some() {
            if let Some((driver, _)) = key.strip_prefix("filter.").and_then(|rest| rest.rsplit_once('.')) {
                keys.insert(format!("filter.{driver}.required"));
            }
            keys.insert(key);
        }
    }
    let own = Config::open_default().ok();
    let own_value = |key: &str| {
        let own = own.as_ref()?;
        [ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::System]
            .into_iter()
            .find_map(|level| own.open_level(level).ok()?.get_string(key).ok())
    };
    let decide = |key: String| Some((own_value(&key).or_else(|| replacement(&key).map(str::to_owned))?, key));
    let mut pairs: Vec<(String, String)> =
        keys.into_iter().filter_map(decide).map(|(value, key)| (key, value)).collect();
    if helpers {
        // They add up; an empty one lets go all before it, the user's own too, which come again behind it.
        pairs.push(("credential.helper".to_owned(), String::new()));
        pairs.extend(own.iter().flat_map(own_helpers));
    }
    Ok(pairs)
}

/// The user's own credential helpers, for everything and for single addresses, in their order.
fn own_helpers(own: &Config) -> Vec<(String, String)> {
    let mut helpers = Vec::new();
    let Ok(mut entries) = own.entries(Some("^credential\\..*helper$")) else { return helpers };
    while let Some(Ok(entry)) = entries.next() {
        if let (Ok(key), Ok(value)) = (entry.name(), entry.value()) {
            helpers.push((key.to_owned(), value.to_owned()));
        }
    }
    helpers
}
