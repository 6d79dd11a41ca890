//! Logging: one line per event to standard error, text or JSON, written by a thread of its own so that a slow terminal
//! never holds up the runtime. Which lines are written can be changed while the daemon runs. And `otlp`: spans to a
//! collector, in a program built with that feature.

#[cfg(feature = "otlp")]
mod otlp;

use std::panic::PanicHookInfo;

use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use crate::config::{Log, LogFormat, Traces};
use crate::metrics::logs;

/// Lines that may wait for a slow reader; beyond that lines are dropped, never the daemon's time.
const LINES_MAX: usize = 64 * 1024;

/// Keeps the threads that write logs and send spans; dropping it writes and sends what waits.
pub struct Guard {
    _log: WorkerGuard,
    #[cfg(feature = "otlp")]
    _traces: Option<otlp::Exporting>,
}

/// Counts what is logged.
struct Counting;

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        logs::logged(*event.metadata().level());
    }
}

/// The filter in force.
struct Filter(reload::Handle<Targets, Registry>);

impl logs::Filter for Filter {
    fn current(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    fn change(&self, filter: &str) -> Result<(), String> {
        self.0.reload(logs::parse(filter)?).map_err(|error| error.to_string())
    }
}

/// Starts logging, and sending spans where that is asked for. `None` when the process logs already.
#[must_use]
pub fn init(config: &Log, traces: &Traces) -> Option<Guard> {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("log")
        .finish(std::io::stderr());
    let filter = logs::parse(&config.level).unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    let (filter, change) = reload::Layer::new(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let registry = tracing_subscriber::registry().with(filter).with(Counting);
    let started = match config.format {
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init(),
    };
    started.ok()?;
    logs::filter_by(Box::new(Filter(change)));
    std::panic::set_hook(Box::new(log_panic));
    #[cfg(not(feature = "otlp"))]
    let Traces { otlp_endpoint: _ } = traces;
    Some(Guard {
        _log: guard,
        #[cfg(feature = "otlp")]
        _traces: traces.otlp_endpoint.as_deref().and_then(otlp::start),
    })
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
