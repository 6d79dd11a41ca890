//! A repository's own configuration, read without trusting it, as git-config(1) describes the syntax. It is read here
//! before git or the library read it: whoever can write there can make either read gigabytes (a file that includes a
//! thousand files that include a thousand more), wait on a pipe, or run a program.
//!
//! Included files are followed without asking for their condition, since a condition can become true inside git, and as
//! often as git would follow them.

use std::io;
use std::path::{Path, PathBuf};

use super::GitError;
use super::files::{self, Links};

/// How often files are read through includes, and how deep; git itself stops at ten.
const READS_MAX: usize = 64;
const DEPTH_MAX: usize = 10;
/// What is read in all: ten thousand branches with an upstream each take about one megabyte.
const BYTES_MAX: u64 = 8 << 20;

/// One setting, where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// Which of the files that were read it is in.
    pub file: usize,
    /// Section and name in lower case, the subsection as it is: `filter.LFS.clean`.
    pub key: String,
    /// Its value; `None` for a bare name, which means "true".
    pub value: Option<String>,
}

/// Everything some files say, and every file that was read or looked for.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub settings: Vec<Setting>,
    pub files: Vec<PathBuf>,
    bytes: u64,
}

impl Settings {
    /// Reads these files in order, those that are there, with what they include.
    pub(super) fn read(files: impl IntoIterator<Item = PathBuf>) -> Result<Self, GitError> {
        let mut found = Self::default();
        files.into_iter().try_for_each(|file| found.file(&file, Links::Refused, 0))?;
        Ok(found)
    }

    fn file(&mut self, path: &Path, links: Links, depth: usize) -> Result<(), GitError> {
        if depth > DEPTH_MAX || self.files.len() >= READS_MAX {
            return Err(GitError::State(format!(
                "configuration {} includes too many files: at most {READS_MAX} are read, {DEPTH_MAX} deep",
                path.display()
            )));
        }
        self.files.push(path.to_owned());
        let unreadable = |error: io::Error| GitError::State(format!("configuration {}: {error}", path.display()));
        let Some(text) = files::read(path, BYTES_MAX - self.bytes, links).map_err(unreadable)? else { return Ok(()) };
        self.bytes += text.len() as u64;
        let settings = parse(&text).map_err(|line| {
            GitError::State(format!("configuration {} cannot be understood from line {line} on", path.display()))
        })?;
        let file = self.files.len() - 1;
        for setting in settings {
            let setting = Setting { file, ..setting };
            let includes = setting.key == "include.path"
                || setting.key.starts_with("includeif.") && setting.key.ends_with(".path");
            let to = setting.value.as_deref().filter(|_| includes).map(|to| resolve(path, to));
            self.settings.push(setting);
            if let Some(to) = to {
                self.file(&to, Links::Followed, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Where an include leads, seen from the file that has it.
fn resolve(from: &Path, to: &str) -> PathBuf {
    match (to.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => from.parent().unwrap_or(from).join(to),
    }
}

/// The names of what the content of a configuration file sets, in order, or the line from which on it is none.
pub fn settings_in(text: &[u8]) -> Result<Vec<String>, usize> {
    Ok(parse(text)?.into_iter().map(|setting| setting.key).collect())
}

/// The settings of one file, or the line from which on it is none.
fn parse(text: &[u8]) -> Result<Vec<Setting>, usize> {
    // What comes behind such a byte is seen by some of those who read and not by others.
    if let Some(at) = text.iter().position(|byte| *byte == 0) {
        return Err(1 + text[..at].iter().filter(|byte| **byte == b'\n').count());
    }
    let mut reader = Reader { text: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text), at: 0, line: 1 };
    reader.settings().ok_or(reader.line)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl Reader<'_> {
    /// The next character, `\r\n` as one; the end is a line's end.
    fn next(&mut self) -> u8 {
        let skipped = usize::from(self.text[self.at.min(self.text.len())..].starts_with(b"\r\n"));
        let read = self.text.get(self.at + skipped).copied().unwrap_or(b'\n');
        self.at += skipped + 1;
        self.line += usize::from(read == b'\n');
        read
    }

    fn is_over(&self) -> bool {
        self.at > self.text.len()
    }

    fn settings(&mut self) -> Option<Vec<Setting>> {
        let (mut settings, mut section, mut comment) = (Vec::new(), None, false);
        loop {
            match self.next() {
                b'\n' if self.is_over() => return Some(settings),
                b'\n' => comment = false,
                _ if comment => {}
                read if is_space(read) => {}
                b'#' | b';' => comment = true,
                b'[' => section = Some([self.section()?.as_slice(), b"."].concat()),
                first if first.is_ascii_alphabetic() => {
                    let (name, value) = self.variable(first)?;
                    let key = [section.clone().unwrap_or_default(), name].concat();
                    settings.push(Setting {
                        file: 0,
                        key: String::from_utf8(key).ok()?,
                        value: value.map(|value| String::from_utf8_lossy(&value).into_owned()),
                    });
                }
                _ => return None,
            }
        }
    }

    /// `name]`, `name.sub]` or `name "Sub"]`.
    fn section(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        loop {
            match self.next() {
                _ if self.is_over() => return None,
                b']' => return (!name.is_empty()).then_some(name),
                read if is_space(read) => return self.subsection(name, read),
                read if is_key(read) || read == b'.' => name.push(read.to_ascii_lowercase()),
                _ => return None,
            }
        }
    }

    fn subsection(&mut self, mut name: Vec<u8>, mut read: u8) -> Option<Vec<u8>> {
        while is_space(read) {
            if read == b'\n' {
                return None;
            }
            read = self.next();
        }
        if read != b'"' {
            return None;
        }
        name.push(b'.');
        loop {
            match self.next() {
                b'\n' => return None,
                b'"' => return (self.next() == b']').then_some(name),
                b'\\' => match self.next() {
                    b'\n' => return None,
                    escaped => name.push(escaped),
                },
                read => name.push(read),
            }
        }
    }

    fn variable(&mut self, first: u8) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let mut name = vec![first.to_ascii_lowercase()];
        let mut read = self.next();
        while is_key(read) {
            name.push(read.to_ascii_lowercase());
            read = self.next();
        }
        while matches!(read, b' ' | b'\t') {
            read = self.next();
        }
        match read {
            b'\n' => Some((name, None)),
            b'=' => Some((name, Some(self.value()?))),
            _ => None,
        }
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        // `kept` is how much stands if only white space follows.
        let (mut value, mut kept, mut quoted, mut comment) = (Vec::new(), 0, false, false);
        loop {
            match self.next() {
                b'\n' if quoted => return None,
                b'\n' => {
                    value.truncate(kept);
                    return Some(value);
                }
                _ if comment => {}
                read if is_space(read) && !quoted => {
                    if !value.is_empty() {
                        value.push(read);
                    }
                }
                b'#' | b';' if !quoted => comment = true,
                b'"' => {
                    quoted = !quoted;
                    kept = value.len();
                }
                b'\\' => {
                    match self.next() {
                        b'\n' => continue,
                        b't' => value.push(b'\t'),
                        b'b' => value.push(8),
                        b'n' => value.push(b'\n'),
                        same @ (b'\\' | b'"') => value.push(same),
                        _ => return None,
                    }
                    kept = value.len();
                }
                read => {
                    value.push(read);
                    kept = value.len();
                }
            }
        }
    }
}

const fn is_space(read: u8) -> bool {
    matches!(read, b' ' | b'\t' | b'\n' | b'\r')
}

const fn is_key(read: u8) -> bool {
    read.is_ascii_alphanumeric() || read == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What git itself reads in a file: every key with its value; `None` when it refuses the file.
    fn by_git(file: &Path) -> Option<Vec<Setting>> {
        let done = std::process::Command::new("git")
            .args(["config", "--no-includes", "--null", "--list", "--file"])
            .arg(file)
            .output()
            .expect("git runs");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let entry = |entry: &str| match entry.split_once('\n') {
            Some((key, value)) => Setting { file: 0, key: key.to_owned(), value: Some(value.to_owned()) },
            None => Setting { file: 0, key: entry.to_owned(), value: None },
        };
        done.status.success().then(|| text.split_terminator('\0').map(entry).collect())
    }

    #[test]
    fn what_is_odd_is_read_as_git_reads_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("config");
        for text in [
            "[core]fsmonitor = a\n",
            "[Core]\n\tFSMonitor = \"a b\" c ; not this\n",
            "[filter \"Evil.one\"] clean = run \\\n more\\tthings # no\n[a.B]c=d\r\n[a]\r\nb\r\n",
            "\u{feff}[core]\nhooksPath=x",
            "[a]\nb = \"x;y#z\" \"  \"\n",
            "[a \"q\\\"u\\\\o\"]\nk=v\n",
            "[a] b [c] d",
            "[a]\nb = c\\\n",
            "[a]b=\"",
            "[a\nb=c",
            "b=c",
            "[]\nb=c",
            "[]",
            "[ \"a\"]\nb=c",
            "[.]\nb=c",
            "",
        ] {
            std::fs::write(&file, text).expect("writes");
            assert_eq!(parse(text.as_bytes()).ok(), by_git(&file), "{text:?}");
        }
    }

    #[test]
    fn a_file_with_a_byte_that_ends_texts_is_refused() {
        assert_eq!(parse(b"[a]\nb=c\n[filter \"x\0y\"]\nclean = run\n"), Err(3));
    }

    #[test]
    fn includes_are_counted_as_often_as_they_are_followed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name);
        let line = |to: &str| format!("[include]\npath = {to}\n");
        std::fs::write(at("config"), line("a").repeat(9)).expect("writes");
        std::fs::write(at("a"), line("b").repeat(9)).expect("writes");
        std::fs::write(at("b"), "[x]\ny = z\n").expect("writes");
        let error = Settings::read([at("config")]).expect_err("nine times nine");
        assert!(error.to_string().contains("includes too many files"), "{error}");
        std::fs::write(at("a"), line("b").repeat(2)).expect("writes");
        let found = Settings::read([at("config")]).expect("reads");
        assert_eq!(found.settings.iter().filter(|setting| setting.key == "x.y").count(), 18);
        std::fs::write(at("config"), line("config")).expect("writes");
        assert!(Settings::read([at("config")]).is_err(), "a circle");
        std::fs::write(at("config"), line("/dev/zero")).expect("writes");
        assert!(Settings::read([at("config")]).is_err(), "a device");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]

        /// Where the two would differ, something could be planted that only git sees.
        #[test]
        fn whatever_is_written_is_read_as_git_reads_it(parts in prop::collection::vec(
            prop::sample::select(vec![
                "[core]", "[a \"b\"]", "[a.B]", "[", "]", "\"", "\\", "\\\\", "\n", "\r\n", "\r", " ", "\t", "=", "#", ";",
                "key", "Key-2", "value", "x", "é", "\\n", "\\\"", "[Filter \"x\\\"y\"]", "\u{b}", "1", "-", "_", ".",
            ]), 0..14)
        ) {
            let text = format!("[core]\n{}", parts.concat());
            let dir = tempfile::tempdir().expect("temp dir");
            let file = dir.path().join("config");
            std::fs::write(&file, &text).expect("writes");
            prop_assert_eq!(parse(text.as_bytes()).ok(), by_git(&file), "{:?}", text);
        }
    }
}
