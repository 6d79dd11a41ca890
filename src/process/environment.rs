//! The environment a command gets: a short list of what builds need, nothing else of the daemon's own, and no secret.
//! Variables of package managers and proxies are handed on, unless their name says that they are a secret or there are
//! credentials in their value: whatever runs in a worktree could print them. Credentials belong into files that the tools
//! read themselves (`~/.npmrc`, `pip.conf`, git's configuration, `~/.netrc`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::model::mask::{has_credentials, names_a_secret};

/// Variables handed on as they are. No `GIT_*`: an inherited `GIT_DIR` makes git write into the wrong repository.
const KEPT: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TZ",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "NVM_DIR",
    "JAVA_HOME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
];

/// Families of variables handed on by prefix.
const KEPT_PREFIXES: [&str; 5] = ["LC_", "XDG_", "npm_config_", "PIP_", "UV_"];

/// Set whatever the daemon has: nobody watches a terminal, nobody can be asked for a password, and tools behave as in
/// continuous integration.
const FIXED: [(&str, &str); 4] =
    [("TERM", "dumb"), ("CI", "1"), ("GIT_TERMINAL_PROMPT", "0"), ("SSH_ASKPASS_REQUIRE", "never")];

/// Where programs are searched when the daemon itself has no `PATH`.
const PATH_FALLBACK: &str = "/usr/local/bin:/usr/bin:/bin";

/// Names that do not say by themselves that what they hold is no secret.
const NO_SECRETS: [&str; 1] = ["SSH_AUTH_SOCK"];

/// The environment for a command: what is safe and useful of the daemon's own, what is fixed, and then `extra`, which wins.
#[must_use]
pub fn clean_env(extra: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    cleaned(std::env::vars_os(), extra)
}

fn cleaned(own: impl Iterator<Item = (OsString, OsString)>, extra: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let mut env = BTreeMap::from([(OsString::from("PATH"), OsString::from(PATH_FALLBACK))]);
    env.extend(own.filter(|(name, value)| is_kept(name) && !is_secret(name, value)));
    let set = FIXED.iter().chain(extra);
    env.extend(set.map(|(name, value)| (OsString::from(name), OsString::from(value))));
    env.into_iter().collect()
}

fn is_kept(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|p| name.starts_with(p)))
}

fn is_secret(name: &OsStr, value: &OsStr) -> bool {
    let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
    names_a_secret(&name) && !NO_SECRETS.contains(&&*name) || has_credentials(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env_of(own: &[(&str, &str)], extra: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = own.iter().map(|(n, v)| (OsString::from(n), OsString::from(v)));
        let text = |s: OsString| s.into_string().expect("utf-8");
        cleaned(own, extra).into_iter().map(|(n, v)| (text(n), text(v))).collect()
    }

    #[test]
    fn git_variables_and_secrets_are_dropped() {
        let own = [("GIT_DIR", "/x"), ("GIT_CONFIG_GLOBAL", "/y"), ("AWS_SECRET_ACCESS_KEY", "s"), ("HOME", "/h")];
        let names: Vec<String> = env_of(&own, &[]).into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["CI", "GIT_TERMINAL_PROMPT", "HOME", "PATH", "SSH_ASKPASS_REQUIRE", "TERM"]);
    }

    #[test]
    fn secrets_among_what_builds_need_are_dropped() {
        let own = [
            ("npm_config_registry", "https://example.org/"),
            ("npm_config__authToken", "s"),
            ("npm_config_//example.org/:_password", "s"),
            ("PIP_INDEX_URL", "https://u:s@example.org/simple"),
            ("UV_PUBLISH_TOKEN", "s"),
            ("UV_CACHE_DIR", "/c"),
            ("https_proxy", "http://u:s@10.0.0.1:80"),
            ("http_proxy", "http://10.0.0.1:80"),
            ("SSH_AUTH_SOCK", "/a"),
        ];
        let names: Vec<String> = env_of(&own, &[]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "CI",
                "GIT_TERMINAL_PROMPT",
                "PATH",
                "SSH_ASKPASS_REQUIRE",
                "SSH_AUTH_SOCK",
                "TERM",
                "UV_CACHE_DIR",
                "http_proxy",
                "npm_config_registry"
            ]
        );
    }

    #[test]
    fn what_builds_need_is_kept_and_extra_wins() {
        let own = [("LC_ALL", "C"), ("UV_CACHE_DIR", "/c"), ("TERM", "xterm"), ("PATH", "/p"), ("LANG", "de")];
        let env = env_of(&own, &[("LANG", "C"), ("TRACEPARENT", "00-1")]);
        let expected = [
            ("CI", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("LANG", "C"),
            ("LC_ALL", "C"),
            ("PATH", "/p"),
            ("SSH_ASKPASS_REQUIRE", "never"),
            ("TERM", "dumb"),
            ("TRACEPARENT", "00-1"),
            ("UV_CACHE_DIR", "/c"),
        ];
        assert_eq!(env, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
