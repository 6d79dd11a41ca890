//! Hang dumps: what was in flight, written to a file of its own while the hang lasts, by a thread the runtime has no
//! part in. A dump is written three times: at once with what is on and the bare addresses of the stacks, then with the
//! names of the functions, then with how long it lasted in all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::inflight::InFlight;
use super::stacks::{self, Frame};
use super::turning::Doing;
use crate::actors::clock::operation_id;
use crate::actors::context::Context;
use crate::actors::exclusion::private_dir;
use crate::actors::runs::RunView;
use crate::model::hang::{Culprit, HangReason, HangView};
use crate::model::ids::{RepoName, Slug};
use crate::model::time::Timestamp;

/// Dumps that may wait to be written.
const WAITING_MAX: usize = 16;
/// A file beyond this is no dump of ours.
const BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Mailboxes listed in a dump.
const MAILBOXES_MAX: usize = 200;

/// A worker that is held, as it was found.
pub struct Held {
    /// Its thread.
    pub tid: i32,
    /// Its index.
    pub worker: Option<usize>,
    /// What it does, when that is known.
    pub doing: Option<Arc<Doing>>,
    /// How long it has.
    pub held: Duration,
    /// What the system says of the thread: `R` runs or wants to, `S` waits, `D` waits for a disk.
    pub state: Option<char>,
    /// The addresses on its stack.
    pub stack: Option<Vec<usize>>,
}

/// A dump that is to be written.
pub struct NewDump {
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: HangReason,
    /// In words, when there is more to say.
    pub note: Option<String>,
    /// When it began.
    pub at: Timestamp,
    /// How long it has lasted.
    pub lag: Duration,
    /// How late timers were in the last minute, in milliseconds.
    pub lags: Vec<f64>,
    /// Whoever holds a worker; every worker in a dump made by hand.
    pub held: Vec<Held>,
    /// Told when it is written.
    pub reply: Option<oneshot::Sender<Result<HangView, String>>>,
}

enum Order {
    Write(Box<NewDump>),
    Joined { id: String, reason: HangReason, held: Box<Held> },
    Over { id: String, lasted: Duration },
    End,
}

/// The thread that writes dumps.
pub struct DumpWriter {
    orders: SyncSender<Order>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Told of every dump, once it is written whole and once it is over.
pub type Tell = Box<dyn Fn(&HangView) + Send>;

impl DumpWriter {
    /// Starts the thread.
    pub fn start(context: &Arc<Context>, tell: Tell) -> io::Result<Self> {
        let (orders, waiting) = sync_channel(WAITING_MAX);
        let context = Arc::downgrade(context);
        let thread = std::thread::Builder::new()
            .name("hang-writer".to_owned())
            .spawn(move || write_dumps(&context, &waiting, &tell))?;
        Ok(Self { orders, thread: Some(thread) })
    }

    /// Has a dump written; `false` when too many wait.
    pub fn write(&self, dump: NewDump) -> bool {
        self.orders.try_send(Order::Write(Box::new(dump))).is_ok()
    }

    /// Another worker is held in the same hang.
    pub fn joined(&self, id: String, reason: HangReason, held: Held) {
        let _ = self.orders.try_send(Order::Joined { id, reason, held: Box::new(held) });
    }

    /// Says how long a hang lasted.
    pub fn over(&self, id: String, lasted: Duration) {
        let _ = self.orders.try_send(Order::Over { id, lasted });
    }
}

impl Drop for DumpWriter {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A new id; later ones sort later.
#[must_use]
pub fn new_id() -> String {
    operation_id().to_string()
}

/// Where dumps are.
#[must_use]
pub fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("hangs")
}

fn write_dumps(context: &Weak<Context>, waiting: &Receiver<Order>, tell: &Tell) {
    let mut last: Option<(HangView, Value)> = None;
    while let Ok(order) = waiting.recv() {
        let Some(context) = context.upgrade() else { return };
        let dir = dir(&context.settings.data_dir);
        match order {
            Order::End => return,
            Order::Write(dump) => {
                let mut dump = *dump;
                let reply = dump.reply.take();
                let written = write_one(&context, &dir, &dump);
                match &written {
                    Ok((view, document)) => {
                        context.pulse.dumped(context.clock.now());
                        log(view, dump.note.as_deref(), &dir);
                        tell(view);
                        last = Some((view.clone(), document.clone()));
                    }
                    Err(error) => tracing::error!(%error, dir = %dir.display(), "a hang dump could not be written"),
                }
                if let Some(reply) = reply {
                    let _ = reply.send(written.map(|(view, _)| view).map_err(|error| error.to_string()));
                }
                let _ = keep(&dir, context.settings.watchdog.dumps_max);
            }
            Order::Joined { id, reason, held } => {
                let Some((view, document)) = last.as_mut().filter(|(view, _)| view.id == id) else { continue };
                let frames = held.stack.as_deref().map(stacks::named).unwrap_or_default();
                backtrace::clear_symbol_cache();
                view.reason = reason;
                view.culprits.push(culprit(&held, stacks::culprit(&frames)));
                if let Some(threads) = document["threads"].as_array_mut() {
                    threads.push(thread(&held, &frames));
                }
                merge(document, view);
                if let Err(error) = put(&dir, &id, document) {
                    tracing::error!(%error, "another worker of a hang could not be written");
                }
            }
            Order::Over { id, lasted } => {
                let Some((view, document)) = last.as_mut().filter(|(view, _)| view.id == id) else { continue };
                view.lasted_ms = Some(ms(lasted));
                document["lasted_ms"] = json!(view.lasted_ms);
                document["over"] = json!(true);
                if let Err(error) = put(&dir, &id, document) {
                    tracing::error!(%error, "the end of a hang could not be written");
                }
                tell(view);
            }
        }
    }
}

fn ms(length: Duration) -> f64 {
    (length.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// One line says it all; the file says the rest.
fn log(view: &HangView, note: Option<&str>, dir: &Path) {
    let culprits: Vec<String> = view
        .culprits
        .iter()
        .map(|culprit| {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
            format!("{} in {}", text(&culprit.doing), text(&culprit.function))
        })
        .collect();
    let (reason, file) = (view.reason.as_str(), dir.join(format!("{}.json", view.id)));
    if view.reason.is_of_the_runtime() {
        tracing::error!(hang = view.id, reason, lag_ms = view.lag_ms, culprits = ?culprits, dump = %file.display(), "the runtime does not turn");
    } else {
        tracing::info!(hang = view.id, reason, note, dump = %file.display(), "a dump was made");
    }
}

fn write_one(context: &Arc<Context>, dir: &Path, dump: &NewDump) -> io::Result<(HangView, Value)> {
    private_dir(dir)?;
    let mut view = HangView {
        id: dump.id.clone(),
        at: dump.at,
        reason: dump.reason,
        lag_ms: ms(dump.lag),
        lasted_ms: None,
        culprits: dump.held.iter().map(|held| culprit(held, None)).collect(),
    };
    let mut document = json!({
        "note": dump.note,
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "threshold_ms": context.settings.watchdog.threshold_ms,
        "over": !dump.reason.is_of_the_runtime(),
        "in_flight": in_flight(context),
        "lag_last_minute": { "summary": crate::model::hang::LagView::of(dump.lags.clone()), "samples_ms": dump.lags.iter().map(|late| (late * 1_000.0).round() / 1_000.0).collect::<Vec<_>>() },
        "threads": dump.held.iter().map(|held| thread(held, &[])).collect::<Vec<_>>(),
    });
    merge(&mut document, &view);
    put(dir, &dump.id, &document)?;
    // Only now what takes long: names.
    let stacks: Vec<Vec<Frame>> =
        dump.held.iter().map(|held| held.stack.as_deref().map(stacks::named).unwrap_or_default()).collect();
    // What was read of debug information takes more memory than all the rest of the daemon.
    backtrace::clear_symbol_cache();
    view.culprits = dump
        .held
        .iter()
        .zip(&stacks)
        // In a dump made by hand most workers merely wait; they are no culprits.
        .filter(|(held, _)| dump.reason.is_hang() || held.doing.is_some())
        .map(|(held, frames)| culprit(held, stacks::culprit(frames)))
        .collect();
    document["threads"] = dump.held.iter().zip(&stacks).map(|(held, frames)| thread(held, frames)).collect();
    merge(&mut document, &view);
    put(dir, &dump.id, &document)?;
    Ok((view, document))
}

/// What is listed of a dump stands in it too.
fn merge(document: &mut Value, view: &HangView) {
    if let (Value::Object(all), Ok(Value::Object(view))) = (document, serde_json::to_value(view)) {
        all.extend(view);
    }
}

pub(super) fn culprit(held: &Held, frame: Option<&Frame>) -> Culprit {
    let (repo, slug) = subject(held.doing.as_deref());
    Culprit {
        worker: held.worker,
        doing: held.doing.as_ref().map(|doing| doing.words()),
        repo,
        slug,
        function: frame.map(|frame| match &frame.at {
            Some(at) => format!("{} ({at})", frame.function),
            None => frame.function.clone(),
        }),
        held_ms: ms(held.held),
    }
}

/// For which repository and slug a thread does what it does.
fn subject(doing: Option<&Doing>) -> (Option<RepoName>, Option<Slug>) {
    match doing {
        Some(Doing::Run { todo, .. }) => (Some(todo.repo.clone()), Some(todo.slug.clone())),
        Some(Doing::Message { actor: "slug" | "repository" | "inventory", name, .. }) => {
            let (repo, slug) = name.split_once('/').map_or((&**name, None), |(repo, slug)| (repo, Some(slug)));
            (RepoName::parse(repo).ok(), slug.and_then(|slug| Slug::parse(slug).ok()))
        }
        _ => (None, None),
    }
}

fn thread(held: &Held, frames: &[Frame]) -> Value {
    let addresses = held.stack.as_deref().unwrap_or_default();
    json!({
        "tid": held.tid,
        "worker": held.worker,
        "doing": held.doing,
        "held_ms": ms(held.held),
        "state": held.state,
        "stack": if frames.is_empty() {
            json!(addresses.iter().map(|address| format!("{address:#x}")).collect::<Vec<_>>())
        } else {
            json!(frames)
        },
    })
}

fn listed<T: Clone + serde::Serialize>(on: &InFlight<T>) -> Value {
    let Some(all) = on.all() else { return json!("a thread that is stuck keeps it from being read") };
    all.into_iter()
        .map(|(elapsed, what)| {
            let mut entry = serde_json::to_value(&what).unwrap_or_default();
            entry["elapsed_ms"] = json!(ms(elapsed));
            entry
        })
        .collect()
}

/// Everything that is on. Reads what is shared; waits for nobody.
#[must_use]
pub fn in_flight(context: &Context) -> Value {
    let runs: Value = match context.runs.try_all() {
        None => json!("a thread that is stuck keeps it from being read"),
        Some(runs) => runs
            .into_iter()
            .map(|run| {
                let mut entry = json!({
                    "repo": run.todo.repo, "slug": run.todo.slug, "operation": run.id,
                    "lane": run.lane, "worker": run.worker, "elapsed_ms": ms(run.begun.elapsed()),
                });
                if let RunView::Live(operation) = &*run.view.borrow() {
                    entry["state"] = json!(operation.state);
                    entry["phase"] = json!(operation.phase);
                }
                entry
            })
            .collect(),
    };
    let mut mailboxes = context.vitals();
    mailboxes.retain(|vitals| vitals.waiting > 0 || vitals.handling.is_some());
    mailboxes.sort_by_key(|vitals| std::cmp::Reverse(vitals.waiting));
    mailboxes.truncate(MAILBOXES_MAX);
    let mailboxes: Vec<Value> = mailboxes
        .iter()
        .map(|vitals| {
            json!({
                "actor": vitals.kind.as_str(), "name": &*vitals.name, "waiting": vitals.waiting,
                "high_water": vitals.high_water,
                "handling": vitals.handling.map(|(message, took)| json!({ "message": message, "elapsed_ms": ms(took) })),
            })
        })
        .collect();
    json!({
        "runs": runs,
        "commands": listed(&context.on.commands),
        "locks": listed(&context.on.locks),
        "requests": listed(&context.on.requests),
        "mailboxes": mailboxes,
        "jobs": context.jobs.running(),
        "actors_down": context.supervised.down().into_iter().map(|(name, status)| json!({
            "actor": status.kind.as_str(), "name": name, "state": status.state, "reasons": status.reasons,
        })).collect::<Vec<_>>(),
    })
}

/// Writes a dump whole or not at all.
fn put(dir: &Path, id: &str, document: &Value) -> io::Result<()> {
    crate::actors::exclusion::write_whole(&dir.join(format!("{id}.json")), document.to_string().as_bytes())
}

/// Lets the oldest dumps go, beyond so many. Says how many went.
pub fn keep(dir: &Path, max: usize) -> io::Result<usize> {
    let mut files = files(dir)?;
    files.sort();
    let beyond = files.len().saturating_sub(max);
    files.drain(..beyond).try_for_each(std::fs::remove_file)?;
    Ok(beyond)
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let dumps = entries.flatten().map(|entry| entry.path());
    Ok(dumps.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect())
}

/// The dumps that are kept, newest first. Blocks.
pub fn list(dir: &Path) -> io::Result<Vec<HangView>> {
    let mut files = files(dir)?;
    files.sort_by(|a, b| b.cmp(a));
    Ok(files.iter().filter_map(|file| read(file).ok().and_then(|value| serde_json::from_value(value).ok())).collect())
}

/// One dump; `None` when there is none of that id. Blocks.
pub fn one(dir: &Path, id: &str) -> io::Result<Option<Value>> {
    // An id is 26 letters and digits; nothing else becomes a path.
    if id.is_empty() || id.len() > 32 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(None);
    }
    match read(&dir.join(format!("{id}.json"))) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(file: &Path) -> io::Result<Value> {
    let length = std::fs::metadata(file)?.len();
    if length > BYTES_MAX {
        return Err(io::Error::other(format!("{} has {length} bytes and is no dump", file.display())));
    }
    serde_json::from_slice(&std::fs::read(file)?).map_err(io::Error::other)
}
