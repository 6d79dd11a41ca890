//! What a command prints, on its way into the log: all of it up to a limit, and beyond that its beginning and its end.
//!
//! A command of a repository prints into a pipe which a thread of the supervisor never stops reading, whatever becomes of
//! the log: so nothing waits on a full pipe, no log grows beyond its limit, and no command can touch what another one
//! said. git prints into the log itself, because it has to go on when its supervisor is lost; it says little, and is ended
//! when it says more than a log may hold.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::process::Stdio;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

use super::command::WhenDaemonDies;
use super::protocol::Order;

/// Bytes of the end that are kept, at most half of what the log may grow: in memory, so a megabyte.
const TAIL_BYTES_MAX: u64 = 1 << 20;

/// Bytes taken out of the pipe at once, and what is still taken once nothing of the run is left: more than a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;
const REST_BYTES_MAX: u64 = 4 << 20;

/// What a command printed in all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Printed {
    pub(super) bytes: u64,
    /// Bytes between beginning and end that are not in the log.
    pub(super) left_out: u64,
}

/// Where a command's output goes.
pub(super) enum Output {
    /// Into the log itself, which had this length.
    Straight { log: File, start: u64 },
    /// Through a pipe. Dropping the writer tells the thread that nothing more is to come.
    Kept { thread: JoinHandle<Printed>, over: PipeWriter },
}

impl Output {
    /// The way for a command under this order, and what to give it as standard output and error.
    pub(super) fn open(order: &Order, log: &File) -> io::Result<(Self, [Stdio; 2])> {
        if order.when_daemon_dies == WhenDaemonDies::Finish {
            let start = log.metadata()?.len();
            let ends = [log.try_clone()?.into(), log.try_clone()?.into()];
            return Ok((Self::Straight { log: log.try_clone()?, start }, ends));
        }
        let ((pipe, entry), (told, over)) = (io::pipe()?, io::pipe()?);
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let ends = [entry.try_clone()?.into(), entry.into()];
        let kept = Kept::new(log.try_clone()?, order.output_bytes_max);
        let thread = std::thread::Builder::new().name("output".to_owned()).spawn(move || kept.all_of(pipe, &told))?;
        Ok((Self::Kept { thread, over }, ends))
    }

    /// Whether the log itself has grown by more than this.
    pub(super) fn is_beyond(&self, limit: u64) -> bool {
        matches!(self, Self::Straight { log, start } if grown(log, *start) > limit)
    }

    /// Once nothing of the run is left: everything is in the log that belongs there.
    pub(super) fn finish(self) -> Printed {
        match self {
            Self::Straight { log, start } => Printed { bytes: grown(&log, start), left_out: 0 },
            Self::Kept { thread, over } => {
                drop(over);
                thread.join().unwrap_or_default()
            }
        }
    }
}

fn grown(log: &File, start: u64) -> u64 {
    log.metadata().map_or(0, |log| log.len()).saturating_sub(start)
}

/// The beginning, which is in the log, and the end, which is in memory.
struct Kept {
    log: File,
    head_left: u64,
    tail_max: usize,
    /// The end is within the last two of these, each up to the length of a tail.
    older: Vec<u8>,
    newer: Vec<u8>,
    printed: u64,
    written: u64,
    /// The log takes nothing more, because its disk is full or broken. What is printed is lost, and nobody waits.
    broken: bool,
}

impl Kept {
    fn new(log: File, bytes_max: u64) -> Self {
        let tail = TAIL_BYTES_MAX.min(bytes_max / 2);
        let tail_max = usize::try_from(tail).unwrap_or(usize::MAX);
        let (older, newer) = (Vec::new(), Vec::new());
        Self { log, head_left: bytes_max - tail, tail_max, older, newer, printed: 0, written: 0, broken: false }
    }

    fn all_of(mut self, mut pipe: PipeReader, told: &PipeReader) -> Printed {
        let (mut chunk, mut rest, mut over) = (vec![0; CHUNK_BYTES], REST_BYTES_MAX, false);
        while rest > 0 {
            match pipe.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => {
                    self.take(&chunk[..read]);
                    rest -= if over { rest.min(read as u64) } else { 0 };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !over => {
                    let mut fds = [PollFd::new(&pipe, PollFlags::IN), PollFd::new(told, PollFlags::IN)];
                    // A wait that fails is a short one: the pipe is looked at again. What is there is read before the end.
                    over = poll(&mut fds, None).is_ok() && !fds[1].revents().is_empty();
                }
                Err(_) => break,
            }
        }
        self.end()
    }

    fn take(&mut self, bytes: &[u8]) {
        self.printed += bytes.len() as u64;
        let head = bytes.len().min(usize::try_from(self.head_left).unwrap_or(usize::MAX));
        let (head, mut rest) = bytes.split_at(head);
        self.head_left -= head.len() as u64;
        self.write(head);
        while !rest.is_empty() && self.tail_max > 0 {
            if self.newer.len() == self.tail_max {
                std::mem::swap(&mut self.older, &mut self.newer);
                self.newer.clear();
            }
            let (now, later) = rest.split_at(rest.len().min(self.tail_max - self.newer.len()));
            self.newer.extend_from_slice(now);
            rest = later;
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.broken {
            return;
        }
        match self.log.write_all(bytes) {
            Ok(()) => self.written += bytes.len() as u64,
            Err(_) => self.broken = true,
        }
    }

    fn end(mut self) -> Printed {
        let mut tail = [std::mem::take(&mut self.older), std::mem::take(&mut self.newer)].concat();
        tail.drain(..tail.len().saturating_sub(self.tail_max));
        let left_out = self.printed - self.written - tail.len() as u64;
        if left_out > 0 {
            let said = format!("\n[slugline: {left_out} bytes are left out here]\n");
            let before = self.written;
            self.write(said.as_bytes());
            self.written = before;
        }
        self.write(&tail);
        Printed { bytes: self.printed, left_out: self.printed - self.written }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(bytes_max: u64, chunks: &[Vec<u8>]) -> (Vec<u8>, Printed) {
        let log = tempfile::tempfile().expect("temp file");
        let mut kept = Kept::new(log.try_clone().expect("clones"), bytes_max);
        chunks.iter().for_each(|chunk| kept.take(chunk));
        let printed = kept.end();
        let mut text = Vec::new();
        use std::io::Seek as _;
        let mut log = log;
        log.rewind().expect("rewinds");
        log.read_to_end(&mut text).expect("reads");
        (text, printed)
    }

    proptest! {
        #[test]
        fn all_of_it_is_kept_up_to_the_limit_and_beyond_it_both_ends(
            bytes_max in 0_u64..300,
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 0..12),
        ) {
            let (whole, (log, printed)) = (chunks.concat(), kept(bytes_max, &chunks));
            prop_assert_eq!(printed.bytes, whole.len() as u64);
            if whole.len() as u64 <= bytes_max {
                prop_assert_eq!((log, printed.left_out), (whole, 0));
            } else {
                let tail = usize::try_from(bytes_max / 2).expect("small");
                let head = usize::try_from(bytes_max).expect("small") - tail;
                let said = format!("\n[slugline: {} bytes are left out here]\n", whole.len() - head - tail);
                prop_assert_eq!(printed.left_out, (whole.len() - head - tail) as u64);
                prop_assert_eq!(log, [&whole[..head], said.as_bytes(), &whole[whole.len() - tail..]].concat());
            }
        }
    }

    #[test]
    fn a_log_that_takes_nothing_holds_up_nobody() {
        let full = File::options().write(true).open("/dev/full").expect("Linux");
        let mut kept = Kept::new(full, 100);
        kept.take(&[b'x'; 300]);
        let printed = kept.end();
        assert_eq!((printed.bytes, printed.left_out), (300, 300));
    }
}
