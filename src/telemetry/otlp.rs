//! Spans to a collector, by OTLP over HTTP. What ended is put into a bounded queue and sent by a thread of its own, in
//! batches; what finds the queue full, or is not taken, is counted and let go.

use std::borrow::Cow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

use crate::metrics::spans::{self, Ended, Fate, Side, Value};

/// Spans that may wait to be sent.
const WAITING_MAX: usize = 4_096;
/// Spans that are sent at once.
const BATCH_MAX: usize = 512;
/// How long a span waits for others to be sent with.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const SEND_LIMIT: Duration = Duration::from_secs(5);

enum Order {
    Send(Box<Ended>),
    /// The daemon stops: send what waits, and end.
    Stop,
}

/// The thread that sends; dropping this sends what waits.
pub(super) struct Exporting {
    orders: SyncSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Exporting {
    fn drop(&mut self) {
        // The queue empties itself: each batch has a limit.
        let _ = self.orders.send(Order::Stop);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Begins to send to `endpoint`. `None` when that cannot be, which is logged.
pub(super) fn start(endpoint: &str) -> Option<Exporting> {
    let (orders, waiting) = sync_channel(WAITING_MAX);
    let endpoint = endpoint.to_owned();
    let send = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(async { send_all(&endpoint, &waiting).await }),
        Err(error) => tracing::error!(%error, "traces are not sent: their runtime cannot be started"),
    };
    let thread = std::thread::Builder::new().name("traces".to_owned()).spawn(send);
    let thread = thread.map_err(|error| tracing::error!(%error, "traces are not sent: no thread")).ok()?;
    let queue = orders.clone();
    spans::collect_by(Box::new(move |ended| {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(Order::Send(Box::new(ended)))
        {
            spans::spans_went(Fate::Dropped, 1);
        }
    }));
    Some(Exporting { orders, thread: Some(thread) })
}

async fn send_all(endpoint: &str, waiting: &Receiver<Order>) {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpJson)
        .with_endpoint(endpoint)
        .with_timeout(SEND_LIMIT)
        .build();
    let mut exporter = match exporter {
        Ok(exporter) => exporter,
        Err(error) => return tracing::error!(%error, endpoint, "traces are not sent"),
    };
    exporter.set_resource(
        &Resource::builder()
            .with_service_name("slugline")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build(),
    );
    let mut failing = false;
    let mut going_on = true;
    while going_on {
        let (batch, more) = next_batch(waiting);
        going_on = more;
        if batch.is_empty() {
            continue;
        }
        let count = batch.len();
        let sent = exporter.export(batch).await;
        spans::spans_went(if sent.is_ok() { Fate::Sent } else { Fate::Failed }, count);
        match &sent {
            // Said once, and once more when it is over: a collector that is away is no reason for a line a second.
            Err(error) if !failing => tracing::warn!(%error, endpoint, count, "spans were not taken and are lost"),
            Ok(()) if failing => tracing::info!(endpoint, "spans are taken again"),
            _ => {}
        }
        failing = sent.is_err();
    }
}

/// What comes within a while, and whether anything may come after it. Blocks; nothing else runs on this thread.
fn next_batch(waiting: &Receiver<Order>) -> (Vec<SpanData>, bool) {
    let mut batch = Vec::new();
    let Ok(Order::Send(first)) = waiting.recv() else { return (batch, false) };
    batch.push(data(*first));
    let until = Instant::now() + BATCH_WAIT;
    while batch.len() < BATCH_MAX {
        match waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Order::Send(ended)) => batch.push(data(*ended)),
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return (batch, false),
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    (batch, true)
}

fn data(ended: Ended) -> SpanData {
    let Ended { trace, name, side, began, ended, attributes, failed } = ended;
    let value = |value: Value| match value {
        Value::Text(text) => opentelemetry::Value::from(text),
        Value::Number(number) => opentelemetry::Value::from(number),
    };
    let state = trace.state().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(trace.id()),
            SpanId::from(trace.span()),
            TraceFlags::SAMPLED,
            false,
            state,
        ),
        parent_span_id: trace.parent().map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: side == Side::Server && trace.parent().is_some(),
        span_kind: if side == Side::Server { SpanKind::Server } else { SpanKind::Internal },
        name: Cow::Owned(name),
        start_time: began,
        end_time: ended,
        attributes: attributes.into_iter().map(|(key, said)| KeyValue::new(key, value(said))).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: failed.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("slugline").build(),
    }
}
