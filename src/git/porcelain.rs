//! git's own word on a work tree, where only git has one: `git status --porcelain=v2 -z`, asked without locks and with
//! nothing planted running, and read here.

use std::ffi::OsString;
use std::time::Duration;

use super::{Found, GitCommand, GitError, Repository, hardening};
use crate::model::worktree::{Changes, FileChange};

/// What git says of a work tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Counted.
    pub changes: Changes,
    /// Path by path, in git's order.
    pub files: Vec<FileChange>,
    /// Ignored files and directories, when they were asked for.
    pub ignored: Vec<String>,
}

impl Repository {
    /// The command that asks; the caller runs it and reads the answer with [`parse`]. Reads configuration: blocks.
    pub fn status_command(&self, found: &Found, ignored: bool, deadline: Duration) -> Result<GitCommand, GitError> {
        let words = ["git", "--no-optional-locks", "status", "--porcelain=v2", "-z", "--untracked-files=normal"];
        // Of a submodule its commit counts and not its files: to look at those git would run with its configuration.
        let mut argv: Vec<OsString> =
            words.into_iter().chain(["--ignore-submodules=dirty"]).map(OsString::from).collect();
        argv.push(if ignored { "--ignored=traditional" } else { "--ignored=no" }.into());
        let env = hardening::environment(self, &found.git_dir, !found.bare)?;
        Ok(GitCommand { argv, cwd: found.path.clone(), env, deadline, what: "status" })
    }
}

/// Reads the answer; the error says what in it is not as documented.
pub fn parse(answer: &[u8]) -> Result<Status, String> {
    let mut status = Status::default();
    let mut records = answer.split(|byte| *byte == 0).filter(|record| !record.is_empty());
    while let Some(record) = records.next() {
        let text = String::from_utf8_lossy(record);
        let odd =
            || format!("git status said {:?}, which is not as documented", text.chars().take(80).collect::<String>());
        // `1 XY sub mH mI mW hH hI path`, `2 … Xscore path` and then the old path, `u XY sub m1 m2 m3 mW h1 h2 h3 path`.
        let (fields, kind) = match record[0] {
            b'1' => (8, '1'),
            b'2' => (9, '2'),
            b'u' => (10, 'u'),
            b'?' => (1, '?'),
            b'!' => (1, '!'),
            b'#' => continue,
            _ => return Err(odd()),
        };
        let mut parts = text.splitn(fields + 1, ' ');
        let letters: Vec<char> = parts.nth(1).filter(|_| fields > 1).unwrap_or("").chars().collect();
        let path = text.splitn(fields + 1, ' ').nth(fields).ok_or_else(odd)?.to_owned();
        let letter = |at: usize| letters.get(at).copied().filter(|letter| *letter != '.');
        let file =
            |staged, unstaged| FileChange { path: path.clone(), from: None, staged, unstaged, conflicted: false };
        match kind {
            '!' => status.ignored.push(path),
            '?' => {
                status.changes.untracked += 1;
                status.files.push(file(None, Some('?')));
            }
            'u' => {
                status.changes.conflicted += 1;
                status.files.push(FileChange { conflicted: true, ..file(letter(0), letter(1)) });
            }
            _ => {
                if letters.len() != 2 {
                    return Err(odd());
                }
                let from = if kind == '2' {
                    Some(String::from_utf8_lossy(records.next().ok_or_else(odd)?).into_owned())
                } else {
                    None
                };
                status.changes.staged += u64::from(letter(0).is_some());
                status.changes.unstaged += u64::from(letter(1).is_some());
                status.files.push(FileChange { from, ..file(letter(0), letter(1)) });
            }
        }
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_record_is_read() {
        let answer = b"1 .M N... 100644 100644 100644 a a with space\0\
            1 A. N... 000000 100644 100644 0 a \xc3\xbc\0\
            2 R. N... 100644 100644 100644 a a R100 new name\0old name\0\
            u UU N... 100644 100644 100644 100644 a b c both\0\
            ? un tracked/\0! ignored/\0";
        let status = parse(answer).expect("reads");
        assert_eq!(status.changes, Changes { staged: 2, unstaged: 1, untracked: 1, conflicted: 1 });
        let paths: Vec<&str> = status.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["with space", "\u{fc}", "new name", "both", "un tracked/"]);
        assert_eq!(status.files[2].from.as_deref(), Some("old name"));
        assert_eq!((status.files[2].staged, status.files[2].unstaged), (Some('R'), None));
        assert!(status.files[3].conflicted);
        assert_eq!(status.ignored, ["ignored/"]);
    }

    #[test]
    fn what_is_not_as_documented_is_no_answer() {
        for odd in [&b"x"[..], b"1", b"1 M", b"1 M N... 1 1 1 a a p", b"2 R. N... 1 1 1 a a R100 new", b"u UU"] {
            assert!(parse(odd).is_err(), "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(answer in prop::collection::vec(any::<u8>(), 0..200), head in "[12u?!#x ]{0,3}") {
            let _ = parse(&[head.as_bytes(), &answer].concat());
        }
    }
}
