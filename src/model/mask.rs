//! Credentials are taken out of words that others wrote, before they are kept, logged or told: git repeats the address of a
//! remote in what it says, and people put passwords and tokens into addresses.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What stands in the place of a credential.
const MASK: &str = "***";

/// `scheme://user:password@`. Whoever gives an address a user gives it a credential: with a token that is the user's
/// name. Up to the last `@` before the path, because passwords have some, too.
static USER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s'"<>?#]*@"#).expect("the pattern is one")
});

/// `?name=value` and `&name=value`.
static PART: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?P<name>[?&;][A-Za-z0-9_.%~-]+=)(?P<value>[^&;\s'"<>#]+)"#).expect("the pattern is one")
});

/// `Authorization: …`, as tools that are made to talk repeat it.
static HEADER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)(?P<name>\b(?:proxy-)?authorization:[ \t]*(?:(?:basic|bearer|token)[ \t]+)?)\S+")
        .expect("the pattern is one")
});

/// What the name of a secret has in it.
const SECRET: [&str; 10] =
    ["token", "secret", "password", "passwd", "pwd", "credential", "auth", "signature", "apikey", "api_key"];
/// What it is as a whole.
const SECRET_WHOLE: [&str; 5] = ["key", "sig", "pass", "pat", "code"];

/// Whether a name is that of a secret: of a variable, or of a part of an address.
#[must_use]
pub fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    SECRET.iter().any(|part| name.contains(part)) || words().any(|word| SECRET_WHOLE.contains(&word))
}

/// Whether a text has an address with a user in it, or another credential this would take out.
#[must_use]
pub fn has_credentials(text: &str) -> bool {
    matches!(masked(text), Cow::Owned(masked) if masked != text)
}

/// The text without the credentials in it.
#[must_use]
pub fn masked(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    text = without_users(text);
    if text.contains('=') {
        text = owned(text, |text| {
            PART.replace_all(text, |found: &Captures<'_>| {
                let (name, value) = (&found["name"], &found["value"]);
                format!("{name}{}", if names_a_secret(&name[1..]) { MASK } else { value })
            })
        });
    }
    // Where a slash went with a value there may be an address with a user now.
    text = without_users(text);
    if text.contains(':') {
        text = owned(text, |text| HEADER.replace_all(text, format!("${{name}}{MASK}")));
    }
    text
}

fn without_users(text: Cow<'_, str>) -> Cow<'_, str> {
    let found = text.contains("://");
    if found { owned(text, |text| USER.replace_all(text, format!("${{scheme}}{MASK}@"))) } else { text }
}

fn owned<'a>(text: Cow<'a, str>, replace: impl Fn(&str) -> Cow<'_, str>) -> Cow<'a, str> {
    match replace(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(replaced) => Cow::Owned(replaced),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credentials_in_addresses_are_taken_out_and_the_words_around_them_stay() {
        for (said, told) in [
            (
                "fatal: unable to access 'https://bot:s3cret@git.example.org/a.git/': 403",
                "fatal: unable to access 'https://***@git.example.org/a.git/': 403",
            ),
            ("https://ghp_abc@example.org/x", "https://***@example.org/x"),
            ("http://u:p@ss@example.org:80/x", "http://***@example.org:80/x"),
            ("ssh://git@example.org/x and git+ssh://a:b@c/d", "ssh://***@example.org/x and git+ssh://***@c/d"),
            ("socks5h://u:p@10.0.0.1:1080", "socks5h://***@10.0.0.1:1080"),
            ("http://h/x?access_token=abc&page=2&X-Sig=def#f", "http://h/x?access_token=***&page=2&X-Sig=***#f"),
            ("http://h/x?private_token=abc'", "http://h/x?private_token=***'"),
            ("> Authorization: Basic dXNlcjpwdw==\nok", "> Authorization: Basic ***\nok"),
            ("http://a;passwd=b/c;d@h", "http://***@h"),
            ("proxy-authorization: abc", "proxy-authorization: ***"),
            ("AUTHORIZATION: bearer abc def", "AUTHORIZATION: bearer *** def"),
        ] {
            assert_eq!(masked(said), told);
            assert!(has_credentials(said) && !has_credentials(told), "{said}");
        }
    }

    #[test]
    fn other_words_stay_as_they_are() {
        for said in [
            "",
            "error[E0308]: mismatched types at src/main.rs:10:5",
            "git@example.org:a/b.git",
            "https://example.org/@scope/name?page=2&per_page=100",
            "mail me@example.org, see https://example.org/a?b=c",
            "a = b; key = value; c://",
            "Author: A <a@example.org>",
        ] {
            assert!(matches!(masked(said), Cow::Borrowed(_)) || masked(said) == said, "{said}: {}", masked(said));
            assert!(!has_credentials(said), "{said}");
        }
    }

    #[test]
    fn names_of_secrets_are_known() {
        for name in
            ["npm_config__authToken", "UV_PUBLISH_TOKEN", "PIP_CLIENT_KEY", "UV_INDEX_X_PASSWORD", "sig", "code"]
        {
            assert!(names_a_secret(name), "{name}");
        }
        for name in
            ["npm_config_registry", "UV_CACHE_DIR", "PIP_INDEX_URL", "XDG_RUNTIME_DIR", "page", "keyboard", "monkey"]
        {
            assert!(!names_a_secret(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_was_masked_once_is_not_masked_again(text in "[a-z:/@?&=' \n]{0,60}") {
            let once = masked(&text).into_owned();
            prop_assert_eq!(masked(&once), once.as_str());
        }

        #[test]
        fn a_password_never_comes_through(user in "[a-z:@%.]{0,10}", password in "[A-Z0-9@:%.!$]{1,12}", host in "[a-z.]{1,9}") {
            let said = format!("fatal: 'https://{user}:{password}@{host}/a.git' said no");
            let told = format!("fatal: 'https://***@{host}/a.git' said no");
            prop_assert_eq!(masked(&said), told);
        }
    }
}
