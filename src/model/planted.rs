//! What in a repository can make git run a program, or work somewhere else than it is thought to: settings, hooks, other
//! object stores, links. None of it is followed by the daemon; it is named, so that a person can see it, and that it
//! came while the daemon was watching is an incident. Pure.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

/// Names that are shown of one repository.
const NAMES_MAX: usize = 200;

/// Something that was found in a repository's shared git directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A setting.
    Setting {
        /// The file, as it is called below the git directory.
        file: String,
        /// Section and name in lower case, the subsection as it is.
        key: String,
        /// Its value.
        value: String,
    },
    /// A file or a link that counts by being there.
    File {
        /// What it is called below the git directory.
        name: String,
        /// Differs when its content does.
        version: String,
    },
}

/// What counts of it: by name, with a digest of what it says. Values are not kept, they may be secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planted(BTreeMap<String, u64>);

impl Planted {
    /// Of everything that was found.
    #[must_use]
    pub fn of(findings: Vec<Finding>) -> Self {
        let digest = |text: &str| BuildHasherDefault::<DefaultHasher>::default().hash_one(text);
        let mut planted = BTreeMap::new();
        for finding in findings {
            let (name, text) = match finding {
                Finding::Setting { key, value, .. } if !counts(&key, &value) => continue,
                Finding::Setting { file, key, value } if file == "config" => (shown(&key), value),
                Finding::Setting { file, key, value } => (format!("{file}: {}", shown(&key)), value),
                Finding::File { name, version } => (name, version),
            };
            // A setting may be there several times.
            let sum = planted.entry(name).or_insert(0_u64);
            *sum = sum.rotate_left(1) ^ digest(&text);
        }
        Self(planted)
    }

    /// The names of all of it.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.keys().take(NAMES_MAX).cloned().collect()
    }

    /// The names of what was not there before, or said something else.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<String> {
        let new = self.0.iter().filter(|(name, digest)| before.0.get(*name) != Some(*digest));
        new.map(|(name, _)| name.clone()).take(NAMES_MAX).collect()
    }
}

/// Whether a setting can make git run a program or lead it elsewhere.
#[must_use]
pub fn counts(key: &str, value: &str) -> bool {
    let (section, name) = (key.split('.').next().unwrap_or(""), key.rsplit('.').next().unwrap_or(""));
    let is_switch = matches!(value.to_ascii_lowercase().as_str(), "" | "true" | "false" | "yes" | "no" | "on" | "off");
    match (section, name) {
        ("core", "fsmonitor") => !is_switch,
        ("core", "hookspath" | "worktree" | "sshcommand" | "gitproxy" | "askpass" | "editor" | "pager") => true,
        ("core", "attributesfile" | "excludesfile" | "alternaterefscommand") => true,
        ("filter", "clean" | "smudge" | "process")
        | ("merge", "driver")
        | ("diff", "external" | "command" | "textconv")
        | ("interactive", "difffilter")
        | ("sequence", "editor")
        | ("credential", "helper")
        | ("gpg", "program" | "defaultkeycommand")
        | ("hook", "command")
        | ("trailer", "command" | "cmd")
        | ("uploadpack", "packobjectshook")
        | ("remote", "uploadpack" | "receivepack" | "vcs" | "proxy")
        | ("include" | "includeif", "path")
        | ("url", "insteadof" | "pushinsteadof")
        | ("http", "proxy" | "cookiefile" | "sslcert" | "sslkey" | "sslcainfo") => true,
        ("http", "sslverify") => matches!(value.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0"),
        ("submodule", "update") => value.starts_with('!'),
        ("alias", _) => value.starts_with('!'),
        _ => false,
    }
}

/// A key as it is shown: addresses in the middle of one can have a password in them.
fn shown(key: &str) -> String {
    let hidden = ["url.", "credential.", "http.", "includeif."];
    match (key.split_once('.'), key.rsplit_once('.')) {
        (Some((section, _)), Some((before, name))) if hidden.iter().any(|start| key.starts_with(start)) => {
            if before == section { key.to_owned() } else { format!("{section}.*.{name}") }
        }
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: &str) -> Finding {
        Finding::Setting { file: "config".to_owned(), key: key.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn what_names_a_program_or_leads_elsewhere_counts_and_the_rest_does_not() {
        for (key, value) in [
            ("core.fsmonitor", "/tmp/evil"),
            ("core.hookspath", "/tmp"),
            ("filter.Evil.smudge", "x"),
            ("merge.x.y.driver", "x"),
            ("include.path", "x"),
            ("includeif.onbranch:**.path", "x"),
            ("url.ext::sh.insteadof", "x"),
            ("credential.helper", ""),
            ("credential.https://h.helper", "x"),
            ("http.sslverify", "False"),
            ("alias.merge", "!x"),
        ] {
            assert!(counts(key, value), "{key}");
        }
        for (key, value) in [
            ("core.fsmonitor", "True"),
            ("core.bare", "false"),
            ("remote.origin.url", "x"),
            ("branch.main.merge", "x"),
            ("merge.conflictstyle", "x"),
            ("alias.st", "status"),
            ("http.sslverify", "true"),
            ("user.name", "x"),
        ] {
            assert!(!counts(key, value), "{key}");
        }
    }

    #[test]
    fn what_is_new_or_says_something_else_is_named_and_what_went_is_not() {
        let before = Planted::of(vec![setting("core.hookspath", "a"), setting("core.editor", "a")]);
        let now = Planted::of(vec![
            setting("core.hookspath", "b"),
            setting("core.bare", "true"),
            Finding::File { name: "hooks/post-checkout".to_owned(), version: "1".to_owned() },
        ]);
        assert_eq!(now.since(&before), ["core.hookspath", "hooks/post-checkout"]);
        assert_eq!(before.since(&before), Vec::<String>::new());
        let twice = Planted::of(vec![setting("core.editor", "a"), setting("core.editor", "a")]);
        assert_eq!(twice.since(&before), ["core.editor"]);
    }

    #[test]
    fn no_name_shows_a_value_or_an_address() {
        let planted = Planted::of(vec![
            setting("url.https://user:secret@host/.insteadof", "secret"),
            setting("credential.https://user:secret@host.helper", "secret"),
            setting("http.proxy", "http://user:secret@host"),
            Finding::Setting {
                file: "worktrees/fix/config.worktree".to_owned(),
                key: "core.worktree".to_owned(),
                value: "secret".to_owned(),
            },
        ]);
        let names = planted.names();
        assert_eq!(
            names,
            ["credential.*.helper", "http.proxy", "url.*.insteadof", "worktrees/fix/config.worktree: core.worktree"]
        );
    }
}
