//! An operation's log as a stream that follows the file while the operation runs.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};

use super::runs::RunView;

/// Bytes read and sent at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks a slow reader may be behind before reading pauses; the file itself is the buffer.
const CHUNKS_AHEAD: usize = 4;
/// How often a log that has nothing new is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The stream; ends when the operation has ended and everything was sent, or when the reader goes.
pub struct LogStream(mpsc::Receiver<io::Result<Bytes>>);

impl Stream for LogStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// Follows the log at `path`; without a live view it is sent as it is.
#[must_use]
pub fn follow(path: PathBuf, live: Option<watch::Receiver<RunView>>) -> LogStream {
    let (out, chunks) = mpsc::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        if let Err(error) = copy(path, live, &out).await {
            let _ = out.send(Err(error)).await;
        }
    });
    LogStream(chunks)
}

async fn copy(
    path: PathBuf,
    live: Option<watch::Receiver<RunView>>,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut file: Option<File> = None;
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let over = live.as_ref().is_none_or(is_over);
        if file.is_none() {
            file = match File::open(&path).await {
                Ok(opened) => Some(opened),
                // A run that has started no command yet has no log.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        while let Some(open) = &mut file {
            let mut chunk = vec![0; CHUNK_BYTES];
            let read = open.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            chunk.truncate(read);
            if out.send(Ok(chunk.into())).await.is_err() {
                return Ok(());
            }
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

fn is_over(view: &watch::Receiver<RunView>) -> bool {
    view.has_changed().is_err() || view.borrow().is_over()
}
