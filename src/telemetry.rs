//! Logging: one line per event to standard error, text or JSON, written by a thread of its own so that a slow terminal
//! never holds up the runtime.

use std::panic::PanicHookInfo;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};

/// Lines that may wait for a slow reader; beyond that lines are dropped, never the daemon's time.
const LINES_MAX: usize = 64 * 1024;

/// Keeps the log's thread; dropping it writes what waits.
pub struct Guard(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Starts logging. `None` when the process logs already.
#[must_use]
pub fn init(config: &Log) -> Option<Guard> {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("log")
        .finish(std::io::stderr());
    let filter: Targets = config.level.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match config.format {
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    started.ok()?;
    std::panic::set_hook(Box::new(log_panic));
    Some(Guard(guard))
}

/// One line per panic, without a backtrace: resolving one can hold a worker for a tenth of a second.
fn log_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let place = info.location().map_or_else(String::new, ToString::to_string);
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    tracing::error!(panic.message = text, panic.place = place, thread, "thread panicked");
}
