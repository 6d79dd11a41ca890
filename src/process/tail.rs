//! The end of a command's output, made safe to show: the command's author is a stranger, and tools repeat the addresses
//! they were given with the credentials in them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::model::mask::masked;

/// Longest tail in bytes: a screenful or two of a failing build, small enough for an answer, an event and a log line.
pub(super) const TAIL_BYTES_MAX: usize = 8 * 1024;

/// Raw bytes read for a tail. Twice the tail, because colours and other sequences are taken out.
const RAW_BYTES_MAX: usize = 2 * TAIL_BYTES_MAX;

/// Longest escape sequence that is dropped whole; an unterminated one must not swallow the rest.
const SEQUENCE_CHARS_MAX: usize = 256;

/// The safe tail of `log` from byte `start` to its end.
pub(super) fn read_tail(log: &File, start: u64) -> io::Result<String> {
    let end = log.metadata()?.len();
    let from = start.max(end.saturating_sub(RAW_BYTES_MAX as u64));
    let mut raw = Vec::with_capacity(RAW_BYTES_MAX);
    let mut chunk = [0; 4096];
    while raw.len() < RAW_BYTES_MAX {
        let room = chunk.len().min(RAW_BYTES_MAX - raw.len());
        match log.read_at(&mut chunk[..room], from + raw.len() as u64)? {
            0 => break,
            read => raw.extend_from_slice(&chunk[..read]),
        }
    }
    Ok(safe_tail(&raw))
}

/// Decodes, neutralises and cuts to the last [`TAIL_BYTES_MAX`] bytes.
fn safe_tail(raw: &[u8]) -> String {
    let text = neutralised(&String::from_utf8_lossy(raw));
    let text = masked(&text);
    let cut = text.len().saturating_sub(TAIL_BYTES_MAX);
    text[text.ceil_char_boundary(cut)..].to_owned()
}

/// Drops escape sequences, turns carriage returns into line feeds and other invisible characters into `�`.
fn neutralised(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\u{1b}' => rest = after_sequence(rest),
            '\r' if rest.starts_with('\n') => {}
            '\r' => safe.push('\n'),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() || changes_reading_order(c) => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// Characters that reorder or hide their neighbours, so that text shows as something it is not.
fn changes_reading_order(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// What follows an escape sequence whose introducer was just read.
fn after_sequence(rest: &str) -> &str {
    let mut chars = rest.char_indices().take(SEQUENCE_CHARS_MAX);
    let end = |found: Option<(usize, char)>| found.map_or(rest, |(at, c)| &rest[at + c.len_utf8()..]);
    match chars.next() {
        Some((_, '[')) => end(chars.find(|(_, c)| matches!(c, '@'..='~'))),
        // Strings (title, clipboard, link) end with BEL or ESC \; the ESC introduces the next round, which drops the \.
        Some((_, ']' | 'P' | 'X' | '^' | '_')) => match chars.find(|(_, c)| matches!(c, '\u{7}' | '\u{1b}')) {
            Some((at, '\u{1b}')) => &rest[at..],
            found => end(found),
        },
        Some((_, ' '..='/')) => end(chars.find(|(_, c)| matches!(c, '0'..='~'))),
        Some(simple @ (_, '0'..='~')) => end(Some(simple)),
        _ => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_titles_and_links_disappear_and_the_text_stays() {
        let raw = b"\x1b[1;31merror\x1b[0m: \x1b]0;title\x07no \x1b]8;;http://x\x1b\\way\x1b]8;;\x1b\\\x1b(B\x1bM out\r\n50%\r100%\n";
        assert_eq!(safe_tail(raw), "error: no way out\n50%\n100%\n");
    }

    #[test]
    fn an_unfinished_sequence_does_not_swallow_the_text() {
        let raw = format!("\x1b]0;{}", "x".repeat(1000));
        assert!(safe_tail(raw.as_bytes()).contains(&"x".repeat(1000)));
    }

    #[test]
    fn invalid_utf_8_and_reading_order_tricks_become_visible() {
        assert_eq!(safe_tail(b"a\xff\xfe\0b\x7f"), "a\u{fffd}\u{fffd}\u{fffd}b\u{fffd}");
        assert_eq!(safe_tail("x\u{202e}y\u{9b}31mz".as_bytes()), "x\u{fffd}y\u{fffd}31mz");
    }

    #[test]
    fn credentials_in_addresses_are_taken_out() {
        let raw = b"fatal: unable to access 'https://bot:s3cret@example.org/a?token=x': 403\n";
        assert_eq!(safe_tail(raw), "fatal: unable to access 'https://***@example.org/a?token=***': 403\n");
    }

    proptest! {
        #[test]
        fn a_tail_is_always_short_and_plain(raw in proptest::collection::vec(any::<u8>(), 0..RAW_BYTES_MAX)) {
            let tail = safe_tail(&raw);
            prop_assert!(tail.len() <= TAIL_BYTES_MAX);
            prop_assert!(tail.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()));
        }
    }
}
