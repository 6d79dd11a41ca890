//! Readers of what other people wrote, on samples that were mutated at random: nothing panics, nothing takes long.

#[path = "../scale/mod.rs"]
mod scale;
mod table;

use std::sync::mpsc;
use std::time::Duration;

use scale::{Dice, seed, size};
use table::{READERS, Reader};

/// How long one text may take at most; the machine may be busy.
const READ_MAX: Duration = Duration::from_secs(20);
/// Bytes of a mutated text at most.
const BYTES_MAX: usize = 16 * 1024;

/// Another text made from one: bytes changed, cut out, put in, doubled, or parts of two samples.
fn mutated(reader: &Reader, dice: &mut Dice) -> Vec<u8> {
    let mut text = dice.one_of(reader.samples).to_vec();
    for _ in 0..=dice.below(6) {
        let at = usize::try_from(dice.below(text.len() as u64 + 1)).unwrap_or(0);
        let upto = at + usize::try_from(dice.below((text.len() - at) as u64 + 1)).unwrap_or(0);
        match dice.below(6) {
            0 if at < text.len() => text[at] ^= 1 << dice.below(8),
            1 => drop(text.drain(at..upto)),
            2 => text.insert(at, u8::try_from(dice.below(256)).unwrap_or(0)),
            3 => {
                let again = text[at..upto].repeat(1 + usize::try_from(dice.below(40)).unwrap_or(0));
                text.splice(at..at, again);
            }
            4 => {
                let odd: [&[u8]; 8] = [
                    b"\0",
                    b"\xff\xfe",
                    "\u{202e}".as_bytes(),
                    b"[[[[[[[[",
                    b"{{{{{{{{",
                    b"9999999999999999999999",
                    b"\r\n",
                    b"&a [*a,*a]",
                ];
                text.splice(at..at, dice.one_of(&odd).iter().copied());
            }
            _ => {
                let other = dice.one_of(reader.samples);
                let from = usize::try_from(dice.below(other.len() as u64 + 1)).unwrap_or(0);
                text.truncate(at);
                text.extend_from_slice(&other[from..]);
            }
        }
        text.truncate(BYTES_MAX);
    }
    text
}

#[test]
fn no_text_makes_a_reader_panic_or_think_for_long() {
    let (inputs, seed) = (size("READER_INPUTS", [1_000, 20_000, 200_000]), seed(None));
    for reader in &READERS {
        let (tell, told) = mpsc::channel::<Vec<u8>>();
        let (name, read, mut dice) = (reader.name, reader.read, Dice(seed));
        std::thread::spawn(move || {
            for sample in reader.samples {
                read(sample);
            }
            for _ in 0..inputs {
                let text = mutated(reader, &mut dice);
                if tell.send(text.clone()).is_err() {
                    return;
                }
                read(&text);
            }
        });
        let (mut last, mut seen) = (Vec::new(), 0);
        loop {
            match told.recv_timeout(READ_MAX) {
                Ok(text) => (last, seen) = (text, seen + 1),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("{name} takes longer than {READ_MAX:?} for {:?}", last.escape_ascii().to_string())
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        assert_eq!(seen, inputs, "{name} panics on {:?}", last.escape_ascii().to_string());
    }
}

#[test]
fn every_sample_is_read_and_a_reader_that_takes_nothing_is_seen() {
    // That the samples are what the readers read, and not only something they refuse at once.
    assert_eq!(slugline::git::listed(sample("index_of_git").to_vec()), Ok(vec![b"a".to_vec()]));
    slugline::git::porcelain::parse(sample("status_of_git")).expect("is a status");
    slugline::model::repo_config::parse(&String::from_utf8_lossy(sample("repository_settings"))).expect("are settings");
    assert!(slugline::model::session::read_line(sample("log_lines")).is_some());
}

fn sample(name: &str) -> &'static [u8] {
    READERS.iter().find(|reader| reader.name == name).expect("is one of them").samples[0]
}
