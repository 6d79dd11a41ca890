//! Watches the runtime from outside: a thread of its own that looks at every worker, asks the runtime for a sign of life,
//! and has a dump written while a hang lasts.
//!
//! It is never late for a hang: a worker that is in one poll is looked at again just when that poll would become one.
//! Lengths are those the workers took themselves. Time in which this very process was stopped is charged to nobody.
//! While a worker is held, the others are woken every now and then, because the one that is held may be the one that
//! tends timers and sockets.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::Handle;

use super::hangs::{self, DumpWriter, Held, NewDump};
use super::pulse::Pulse;
use super::stacks;
use super::turning::{Slot, Spell, Workers, nanos};
use super::watchdog::WatchdogMsg;
use crate::actors::context::Context;
use crate::actors::root::RootMsg;
use crate::metrics::runtime as metric;
use crate::model::hang::{HangReason, HangView, WatchdogTerms};
use crate::model::time::Timestamp;

/// A worker that is held for so long may keep timers and sockets from being tended: the others are woken.
const WAKE_AFTER_NANOS: u64 = 20_000_000;
/// How often the threads for what blocks are asked for a sign of life.
const BLOCKING_EVERY_NANOS: u64 = 5_000_000_000;
/// How often it is looked at least: so long timers may wait for a worker that is held.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// How often it is looked while a worker is held.
const LOOK_WHILE_HELD: Duration = Duration::from_millis(10);
/// Workers whose stacks are taken for one dump.
const STACKS_MAX: usize = 16;
/// A hang by a worker that turned again before it was seen is still told, this long after.
const SPELLS_KEPT: usize = 1_000;
/// How long ends are waited for before the last look counts.
const END_LIMIT: Duration = Duration::from_millis(200);

/// The thread; ends when this is dropped.
pub struct Sampler {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Sampler {
    /// Starts the thread for the runtime it is called in.
    pub fn start(context: &Arc<Context>, workers: Arc<Workers>) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let watchdog = context.watchdog.clone();
        let tell = move |view: &HangView| {
            let _ = watchdog.send(WatchdogMsg::Hang { hang: Box::new(view.clone()) });
        };
        let writer = DumpWriter::start(context, Box::new(tell))?;
        let terms = context.settings.watchdog;
        let look = Look {
            context: Arc::downgrade(context),
            pulse: context.pulse.clone(),
            runtime: Handle::current(),
            workers,
            terms,
            threshold: terms.threshold_ms * 1_000_000,
            writer,
            asked: Arc::default(),
            asked_at: 0,
            blocking_asked: Arc::default(),
            blocking_asked_at: 0,
            systemd: sd_notify::watchdog_enabled(),
            on: None,
            spells: Vec::new(),
            told: HashMap::new(),
            dumped_at: 0,
            systemd_told_at: 0,
        };
        let stop = over.clone();
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || look.go_on(&stop))?;
        context.pulse.is_sampled_by(thread.thread().clone());
        Ok(Self { over, thread: Some(thread) })
    }
}

/// A hang that is on.
struct OnHang {
    id: String,
    reason: HangReason,
    began: u64,
    dumped: bool,
    /// Who held a worker, since when, and until when.
    held: Vec<(Arc<Slot>, u64, Option<u64>)>,
    /// When nobody was found to hold one any more.
    free_at: Option<u64>,
}

/// A hang of which there is no dump.
struct Undumped {
    id: String,
    reason: HangReason,
    began: u64,
    lasted: Duration,
    held: Option<Held>,
}

struct Look {
    context: Weak<Context>,
    pulse: Arc<Pulse>,
    runtime: Handle,
    workers: Arc<Workers>,
    terms: WatchdogTerms,
    threshold: u64,
    writer: DumpWriter,
    /// When the runtime was asked for a sign of life it has not given; 0 when it was not.
    asked: Arc<AtomicU64>,
    asked_at: u64,
    blocking_asked: Arc<AtomicBool>,
    blocking_asked_at: u64,
    systemd: Option<Duration>,
    on: Option<OnHang>,
    /// Long polls that ended lately: whose thread, and which.
    spells: Vec<(i32, Spell)>,
    /// Spells that were told as hangs.
    told: HashMap<(i32, u64), u64>,
    dumped_at: u64,
    systemd_told_at: u64,
}

impl Look {
    fn go_on(mut self, over: &AtomicBool) {
        let mut wake_at = nanos();
        let mut spent = spent_here();
        while !over.load(Ordering::Acquire) {
            let now = nanos();
            self.judge_gap(wake_at, now, spent);
            let Some(context) = self.context.upgrade() else { return };
            self.look(&context, now);
            drop(context);
            let done = nanos();
            // A stop may come while it looks, too.
            self.judge_gap(now, done, spent);
            wake_at = self.next_look(done);
            spent = spent_here();
            std::thread::park_timeout(Duration::from_nanos(wake_at.saturating_sub(nanos())));
        }
    }

    /// Time in which this thread did not get on: because of others on the machine, or because the process was stopped? Only
    /// the first is lag. What the thread has spent since `spent` was read is known not to be a stop.
    fn judge_gap(&self, from: u64, to: u64, spent: Option<u64>) {
        let Some(gap) = to.checked_sub(from).filter(|gap| *gap >= self.threshold / 2) else { return };
        let explained = spent_here().zip(spent).map_or(gap, |(now, before)| now.saturating_sub(before));
        if gap.saturating_sub(explained) >= self.threshold / 2 {
            tracing::warn!(for_ms = gap / 1_000_000, "this process was stopped for a while; nobody is charged with it");
            self.pulse.was_stopped(from, to);
        }
    }

    /// When to look next: often enough to meet every poll, and just when one that is on would be a hang.
    fn next_look(&self, now: u64) -> u64 {
        let interval = Duration::from_millis(self.terms.interval_ms);
        let held: Vec<u64> = self.workers.all().iter().filter_map(|slot| slot.held_since()).collect();
        let busy = self.on.is_some() || held.iter().any(|since| now.saturating_sub(*since) >= WAKE_AFTER_NANOS);
        let every = if busy { LOOK_WHILE_HELD.min(interval) } else { interval.min(LOOK_MAX) };
        let usual = now + u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        let charged = |since: u64| now.saturating_sub(since) - self.length(since, now);
        let due = held.iter().map(|since| since + self.threshold + charged(*since) + 500_000);
        due.filter(|due| *due > now).min().map_or(usual, |due| due.min(usual))
    }

    /// How long something lasted, without the time in which the process was stopped.
    fn length(&self, from: u64, to: u64) -> u64 {
        self.pulse.length(from, to)
    }

    fn look(&mut self, context: &Arc<Context>, now: u64) {
        self.ask_for_a_sign(context, now);
        let slots = self.workers.all();
        for slot in &slots {
            self.spells.extend(slot.take_spells().into_iter().map(|spell| (slot.tid, spell)));
        }
        let held: Vec<(Arc<Slot>, u64)> =
            slots.iter().filter_map(|slot| Some((slot.clone(), slot.held_since()?))).collect();
        if held.iter().any(|(_, since)| now.saturating_sub(*since) >= WAKE_AFTER_NANOS) {
            // An empty task wakes a worker that sleeps, and it takes over what the one that is held cannot tend.
            drop(self.runtime.spawn(async {}));
        }
        let stuck: Vec<(Arc<Slot>, u64)> =
            held.into_iter().filter(|(_, since)| self.length(*since, now) >= self.threshold).collect();
        self.judge(context, stuck, now);
        self.tell_of_missed(context, now);
        self.tell_systemd(now);
        for ask in self.pulse.take_asks() {
            self.dump_all(context, ask.reason, ask.note, Some(ask.reply));
        }
        if self.pulse.was_signalled() {
            self.dump_all(context, HangReason::ByHand, Some("a signal asked for it".to_owned()), None);
        }
        self.tell_root_of_a_dead_watchdog(context, now);
    }

    /// Asks the runtime to begin something new when its own timers have not been heard of for two of their intervals, and
    /// now and then the threads for what blocks; notes how long that takes.
    fn ask_for_a_sign(&mut self, context: &Context, now: u64) {
        self.ask_those_for_what_blocks(now);
        let of_systemd = self.systemd.map_or(u64::MAX, |limit| u64::try_from(limit.as_nanos() / 4).unwrap_or(u64::MAX));
        let quiet = (2 * self.terms.interval_ms * 1_000_000).min(of_systemd);
        let heard = now.saturating_sub(self.pulse.answered().max(self.asked_at)) < quiet;
        if self.asked.load(Ordering::Acquire) != 0 || heard {
            return;
        }
        self.asked_at = now;
        self.asked.store(now, Ordering::Release);
        let (asked, pulse, clock) = (self.asked.clone(), self.pulse.clone(), context.clock.clone());
        drop(self.runtime.spawn(async move {
            asked.store(0, Ordering::Release);
            pulse.answer(clock.now());
        }));
    }

    fn ask_those_for_what_blocks(&mut self, now: u64) {
        let due = now.saturating_sub(self.blocking_asked_at) >= BLOCKING_EVERY_NANOS;
        if due && !self.blocking_asked.swap(true, Ordering::AcqRel) {
            self.blocking_asked_at = now;
            let asked = self.blocking_asked.clone();
            drop(self.runtime.spawn_blocking(move || {
                metric::lagged(metric::RuntimeKind::Blocking, Duration::from_nanos(nanos().saturating_sub(now)));
                asked.store(false, Ordering::Release);
            }));
        }
    }

    /// Begins, follows and ends a hang.
    fn judge(&mut self, context: &Arc<Context>, stuck: Vec<(Arc<Slot>, u64)>, now: u64) {
        let asked = self.asked.load(Ordering::Acquire);
        let unanswered = asked != 0 && self.length(asked, now) >= self.threshold;
        match self.on.take() {
            None if !stuck.is_empty() => {
                let all = self.are_all(stuck.len()) || unanswered;
                let reason = if all { HangReason::AllWorkersStuck } else { HangReason::WorkerStuck };
                let began = stuck.iter().map(|(_, since)| *since).min().unwrap_or(now);
                self.begin(context, reason, began, stuck, now);
            }
            None if unanswered => self.begin(context, HangReason::Unanswered, asked, Vec::new(), now),
            None => {}
            Some(mut hang) => {
                for (slot, since) in &stuck {
                    if !hang.held.iter().any(|(known, began, _)| known.tid == slot.tid && began == since) {
                        hang.held.push((slot.clone(), *since, None));
                        self.told.insert((slot.tid, *since), now);
                        if self.are_all(stuck.len()) {
                            hang.reason = HangReason::AllWorkersStuck;
                        }
                        if hang.dumped && hang.held.len() <= STACKS_MAX {
                            self.writer.joined(hang.id.clone(), hang.reason, self.found(slot, *since, now));
                        }
                    }
                }
                for (slot, since, ended) in &mut hang.held {
                    let is_it = |(tid, spell): &&(i32, Spell)| *tid == slot.tid && spell.began == *since;
                    *ended = ended.or_else(|| self.spells.iter().find(is_it).map(|(_, spell)| spell.ended));
                }
                let free = stuck.is_empty() && !(hang.reason == HangReason::Unanswered && unanswered);
                if free {
                    hang.free_at.get_or_insert(now);
                } else {
                    hang.free_at = None;
                }
                let waits_for_an_end = hang.held.iter().any(|(_, _, ended)| ended.is_none())
                    && hang.free_at.is_some_and(|free| now - free < END_LIMIT.as_nanos() as u64);
                if free && !waits_for_an_end {
                    self.end(context, hang, now);
                } else {
                    self.on = Some(hang);
                }
            }
        }
    }

    /// Whether so many stuck workers are all there are.
    fn are_all(&self, stuck: usize) -> bool {
        stuck >= self.runtime.metrics().num_workers()
    }

    fn begin(
        &mut self,
        context: &Arc<Context>,
        reason: HangReason,
        began: u64,
        stuck: Vec<(Arc<Slot>, u64)>,
        now: u64,
    ) {
        let id = hangs::new_id();
        let due = self.dumped_at == 0 || now.saturating_sub(self.dumped_at) >= self.terms.dump_every_ms * 1_000_000;
        let found = if stuck.is_empty() {
            self.workers.all().into_iter().filter(|slot| slot.worker().is_some()).map(|slot| (slot, began)).collect()
        } else {
            stuck.clone()
        };
        let dumped = due && {
            self.dumped_at = now;
            let held = found.iter().take(STACKS_MAX).map(|(slot, since)| self.found(slot, *since, now)).collect();
            self.writer.write(NewDump {
                id: id.clone(),
                reason,
                note: None,
                at: ago(context.clock.now(), self.length(began, now)),
                lag: Duration::from_nanos(self.length(began, now)),
                lags: self.pulse.last_minute(),
                held,
                reply: None,
            })
        };
        self.pulse.hang_began(reason, dumped);
        let held: Vec<_> = stuck.into_iter().map(|(slot, since)| (slot, since, None)).collect();
        for (slot, since, _) in &held {
            self.told.insert((slot.tid, *since), now);
        }
        self.on = Some(OnHang { id, reason, began, dumped, held, free_at: None });
    }

    fn found(&self, slot: &Slot, since: u64, now: u64) -> Held {
        Held {
            tid: slot.tid,
            worker: slot.worker(),
            doing: slot.doing(),
            held: Duration::from_nanos(self.length(since, now)),
            state: thread_state(slot.tid),
            stack: self.terms.stacks.then(|| stacks::of_thread(slot.tid)).flatten(),
        }
    }

    fn end(&mut self, context: &Arc<Context>, hang: OnHang, now: u64) {
        let ended = hang.held.iter().map(|(_, _, ended)| ended.unwrap_or(now)).max().unwrap_or(now);
        let lasted = Duration::from_nanos(self.length(hang.began, ended));
        self.pulse.hang_over();
        if hang.dumped {
            self.writer.over(hang.id, lasted);
        } else {
            let lasted_ms = lasted.as_secs_f64() * 1_000.0;
            tracing::warn!(
                reason = hang.reason.as_str(),
                lasted_ms,
                "the runtime did not turn; not dumped, the last dump was too near"
            );
            let OnHang { id, reason, began, .. } = hang;
            self.tell(context, Undumped { id, reason, began, lasted, held: None }, now);
        }
    }

    /// A hang without a dump is told all the same.
    fn tell(&self, context: &Context, told: Undumped, now: u64) {
        let Undumped { id, reason, began, lasted, held } = told;
        let lag_ms = lasted.as_secs_f64() * 1_000.0;
        let at = ago(context.clock.now(), now.saturating_sub(began));
        let culprits = held.iter().map(|held| hangs::culprit(held, None)).collect();
        let hang = HangView { id, at, reason, lag_ms, lasted_ms: Some(lag_ms), culprits };
        let _ = context.watchdog.send(WatchdogMsg::Hang { hang: Box::new(hang) });
    }

    /// Polls that were too long and were over before this thread got to look: no stacks, but told.
    fn tell_of_missed(&mut self, context: &Arc<Context>, now: u64) {
        let spells = std::mem::take(&mut self.spells);
        let (mut late, mut kept) = (Vec::new(), Vec::new());
        for (tid, spell) in spells {
            let is_told = self.told.contains_key(&(tid, spell.began));
            let is_hang = spell.doing.is_some() && self.length(spell.began, spell.ended) >= self.threshold;
            match (is_told, is_hang) {
                // It may be the end somebody waits for.
                (true, _) => kept.push((tid, spell)),
                (false, true) => late.push((tid, spell)),
                (false, false) => {}
            }
        }
        kept.retain(|(_, spell)| now.saturating_sub(spell.ended) < 1_000_000_000);
        kept.truncate(SPELLS_KEPT);
        self.spells = kept;
        self.told.retain(|_, at| now.saturating_sub(*at) < 600_000_000_000);
        for (tid, spell) in late {
            self.told.insert((tid, spell.began), now);
            let lasted = Duration::from_nanos(self.length(spell.began, spell.ended));
            let doing = spell.doing.as_ref().map(|doing| doing.words());
            tracing::warn!(
                lasted_ms = lasted.as_secs_f64() * 1_000.0,
                doing,
                "a worker was held; it was over before it could be dumped"
            );
            self.pulse.hang_seen(HangReason::WorkerStuck, false);
            let held = Held { tid, worker: None, doing: spell.doing, held: lasted, state: None, stack: None };
            let (id, reason, began) = (hangs::new_id(), HangReason::WorkerStuck, spell.began);
            self.tell(context, Undumped { id, reason, began, lasted, held: Some(held) }, now);
        }
    }

    /// A dump of everything, whatever it is for.
    fn dump_all(
        &mut self,
        context: &Arc<Context>,
        reason: HangReason,
        note: Option<String>,
        reply: Option<tokio::sync::oneshot::Sender<Result<HangView, String>>>,
    ) {
        let now = nanos();
        let workers = self.workers.all().into_iter().filter(|slot| slot.worker().is_some());
        let held =
            workers.take(STACKS_MAX).map(|slot| self.found(&slot, slot.held_since().unwrap_or(now), now)).collect();
        let dump = NewDump {
            id: hangs::new_id(),
            reason,
            note,
            at: context.clock.now(),
            lag: Duration::ZERO,
            lags: self.pulse.last_minute(),
            held,
            reply,
        };
        if !self.writer.write(dump) {
            tracing::warn!("too many dumps wait to be written; one was left out");
        }
    }

    /// systemd hears of us only while the runtime answers.
    fn tell_systemd(&mut self, now: u64) {
        let Some(limit) = self.systemd else { return };
        let half = u64::try_from(limit.as_nanos() / 2).unwrap_or(u64::MAX);
        let answers = now.saturating_sub(self.pulse.answered()) < half;
        if answers && now.saturating_sub(self.systemd_told_at) >= half / 2 {
            self.systemd_told_at = now;
            if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
                tracing::warn!(%error, "systemd could not be told that the runtime turns");
                self.systemd = None;
            }
        }
    }

    /// Who watches the watchdog: an actor that does not turn any more while the runtime does hangs.
    fn tell_root_of_a_dead_watchdog(&self, context: &Context, now: u64) {
        let limit = Duration::from_millis(self.terms.handler_timeout_ms);
        let runtime_turns = now.saturating_sub(self.pulse.answered()) < self.threshold;
        if let Some(silent) = self.pulse.watchdog_silent_for().filter(|silent| *silent >= limit && runtime_turns) {
            self.pulse.watchdog_turns();
            let why = format!("it has not turned for {} ms", silent.as_millis());
            let _ = context.root.send(RootMsg::Hung { child: "watchdog".to_owned(), why });
        }
    }
}

fn ago(now: Timestamp, nanos: u64) -> Timestamp {
    now.plus_ms(-i64::try_from(nanos / 1_000_000).unwrap_or(0))
}

/// How long this thread has had a processor, or waited for one or for the stack of another thread, so far, in nanoseconds;
/// `None` where the system does not count it.
fn spent_here() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let (had, waited) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(had.saturating_add(waited).saturating_add(stacks::waited()))
}

/// What the system says a thread does.
fn thread_state(tid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}
