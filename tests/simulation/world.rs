//! A world that comes from its seed alone: its time, its dice, a repository, a daemon that dies and is started again, those
//! who work with it, and what goes wrong.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slugline::actors::Handle;
use slugline::actors::clock::Clock;
use slugline::actors::faults::{Fate, Faults, Injected};
use slugline::actors::health::turning::Workers;
use slugline::actors::ledger::Ledger;
use slugline::config::{Config, Flags};
use slugline::model::desk::Change;
use slugline::model::ids::{Lane, RepoName, Slug, TodoKey, Worker};
use slugline::model::problem::{Problem, ProblemCode};
use slugline::model::time::Timestamp;
use slugline::model::view::{Mutation, TodoFilter};
use slugline::model::work_order::WorkRequest;
use slugline::process::Runner;
use slugline::runtime::{Doors, ledger_path, open_store, start_actors};
use slugline::store::{Chain, Store, StoreError};
use tokio::time::{Instant, sleep};

use crate::agents::{Agent, trace};
use crate::book::Book;
use crate::commands;
use crate::gate::{Gate, at_once};
use crate::scale::Dice;

/// When the first daemon is started, by the wall clock.
const BEGINNING_MS: i64 = 1_780_000_000_000;
/// Todos on the roadmap.
pub const TODOS: usize = 8;
/// Workers.
const AGENTS: usize = 7;
/// I6: how long after the last fault everything goes on.
const GOES_ON: Duration = Duration::from_secs(30);
/// How long faults go on, in milliseconds.
const FAULTS_MS: [u64; 2] = [6_000, 40_000];
/// How long a daemon lives while they do, in milliseconds.
const LIFE_MS: [u64; 2] = [500, 25_000];

const SETTINGS: [(&str, &str); 18] = [
    ("lease.duration_ms", "12000"),
    ("lease.heartbeat_every_ms", "3000"),
    ("lease.progress_ms", "30000"),
    ("lease.hold_max_ms", "40000"),
    ("attempts.max", "4"),
    ("attempts.backoff_min_ms", "500"),
    ("attempts.backoff_max_ms", "8000"),
    ("breaker.window_ms", "60000"),
    ("lanes.wip_limit", "4"),
    ("watchdog.handler_timeout_ms", "3000"),
    ("runs.git_timeout_ms", "20000"),
    ("actors.idle_after_ms", "15000"),
    ("watchdog.interval_ms", "250"),
    ("jobs.lease_sweep_every_ms", "7000"),
    ("jobs.session_liveness_every_ms", "4000"),
    ("jobs.self_heal_every_ms", "11000"),
    // It writes to the ledger by itself, and nobody could say when that is done.
    ("jobs.ledger_upkeep_every_ms", "0"),
    ("inventory.scans_max", "2"),
];

/// What there is beside the daemon, and goes on when it dies.
pub struct World {
    dir: PathBuf,
    config: Config,
    /// Milliseconds of all lives before this one, and when it began.
    time: Mutex<(i64, Option<Instant>)>,
    /// What the wall clock is off by.
    wall_ms: AtomicI64,
    dice: Mutex<Dice>,
    faults: AtomicBool,
    /// One message in so many meets its actor's end: few worlds are wild ones, where actors are given up.
    handled_well: u64,
    ledger: Mutex<Option<Ledger>>,
    /// Those who work.
    pub agents: Vec<Mutex<Agent>>,
    /// What was promised.
    pub book: Book,
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Melted,
    InOrder,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn repo_name() -> RepoName {
    RepoName::parse("app").expect("a name")
}

pub fn todo(slug: &str) -> TodoKey {
    TodoKey { repo: repo_name(), slug: Slug::parse(slug).expect("a slug") }
}

impl World {
    fn new(seed: u64, dir: &Path) -> Arc<Self> {
        // Of what was there before nothing is left, so that the same seed finds the same.
        let _ = std::fs::remove_dir_all(dir);
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        crate::repository::make(&dir.join("app"), dice.below(2) == 0);
        let mut settings = vec![("data_dir", dir.join("data").display().to_string())];
        settings.extend(SETTINGS.iter().map(|&(key, value)| (key, value.to_owned())));
        let flags = Flags { settings, repos: vec![dir.join("app")] };
        let config = Config::load(&flags, &std::collections::BTreeMap::new(), None).expect("it is valid");
        std::fs::create_dir_all(&config.data_dir).expect("makes it");
        let agent = |number: usize| Mutex::new(Agent::new(number, dice.below(u64::MAX >> 1)));
        let agents = (0..AGENTS).map(agent).collect();
        let handled_well = if dice.below(10) == 0 { 25 } else { 250 };
        Arc::new(Self {
            dir: dir.to_owned(),
            config,
            time: Mutex::default(),
            wall_ms: AtomicI64::new(BEGINNING_MS),
            agents,
            dice: Mutex::new(dice),
            faults: AtomicBool::new(true),
            handled_well,
            ledger: Mutex::default(),
            book: Book::default(),
        })
    }

    /// One roll of the world's dice.
    pub fn roll<T>(&self, how: impl FnOnce(&mut Dice) -> T) -> T {
        how(&mut lock(&self.dice))
    }

    fn between(&self, [least, most]: [u64; 2]) -> u64 {
        least + self.roll(|dice| dice.below(most - least))
    }

    /// Whether things go wrong.
    pub fn has_faults(&self) -> bool {
        self.faults.load(Ordering::SeqCst)
    }

    pub fn repository(&self) -> PathBuf {
        self.dir.join("app")
    }

    fn ran_ms(&self) -> i64 {
        let (before, born) = *lock(&self.time);
        before + born.map_or(0, |born| i64::try_from(born.elapsed().as_millis()).expect("a short time"))
    }

    /// The wall clock.
    pub fn now_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::SeqCst) + self.ran_ms()
    }

    fn clock(self: &Arc<Self>) -> Clock {
        let (wall, running, dice) = (self.clone(), self.clone(), self.clone());
        let clock = Clock::of(move || Timestamp::from_ms(wall.now_ms()), move || running.ran_ms());
        clock.with_dice(move || dice.roll(|dice| dice.below(1 << 31) << 33 | dice.below(1 << 31) << 2 | dice.below(4)))
    }

    fn runner(self: &Arc<Self>) -> Runner {
        let world = self.clone();
        Runner::by(move |spec, cancel| commands::run(world.clone(), spec, cancel))
    }

    /// What goes wrong inside.
    fn injected(self: &Arc<Self>) -> Faults {
        let (points, handlers, batches) = (self.clone(), self.clone(), self.clone());
        let at_points = Faults::at_points(move |point| points.at(point));
        let in_handlers = Faults::in_handlers(move |kind, _, _| handlers.in_handler(kind));
        at_points.and(in_handlers).and(Faults::of_batches(move || batches.of_batch()))
    }

    fn at(&self, point: &str) {
        if point == "ledger.queued" {
            // What was queued is written before anything else happens; when that is told is another matter.
            let store = lock(&self.ledger).as_ref().and_then(|ledger| ledger.store().ok());
            if let Some(store) = store {
                let _ = at_once(store.enqueue(Vec::new(), &Chain::default()));
            }
            return;
        }
        let in_a_phase = ["worktree", "prepare", "sync_main", "sync_todo", "gates", "dispatch", "worktree.made"];
        if self.has_faults() && in_a_phase.contains(&point) && self.roll(|dice| dice.below(60)) == 0 {
            panic!("made to panic at {point}");
        }
    }

    fn in_handler(&self, kind: &str) -> Injected {
        // The end of the root is the end of everything; that comes often enough.
        if !self.has_faults() || kind == "root" || self.roll(|dice| dice.below(self.handled_well)) > 0 {
            return Injected::Nothing;
        }
        match self.roll(|dice| dice.below(4)) {
            0 => Injected::Panic,
            1 => Injected::Error,
            // Whoever ends what hangs is not ended by anybody in here.
            2 if kind != "watchdog" => Injected::Hang,
            _ => Injected::Kill,
        }
    }

    fn of_batch(&self) -> Fate {
        if !self.has_faults() {
            return Fate::default();
        }
        let (refused, slow) = self.roll(|dice| (dice.below(60), dice.below(200)));
        let refused = match refused {
            0 => Some(StoreError::Full),
            1 => Some(StoreError::Io("made to fail".to_owned())),
            _ => None,
        };
        let most_ms = match slow {
            0 => 15_000,
            1..10 => 2_000,
            _ => 20,
        };
        Fate { refused, told_after: Duration::from_millis(self.roll(|dice| dice.below(most_ms))) }
    }

    /// One life of the daemon, and of those who work with it.
    async fn live(self: &Arc<Self>, end: Option<u64>) -> End {
        let path = ledger_path(&self.config.data_dir);
        let clock = self.clock();
        let store = open_store(&path, &clock).await.expect("I5: the ledger opens");
        let tip = store.last_seq().await.expect("I5: it can be read");
        let faults = self.injected();
        let ledger = Ledger::new(store, tip, faults.clone());
        *lock(&self.ledger) = Some(ledger.clone());
        let doors = Doors { runner: self.runner(), clock, faults, workers: Workers::unwatched() };
        let started = start_actors(&self.config, ledger.clone(), doors, "slugline-simulated".to_owned()).await;
        let (handle, mut melted) = started.expect("the actors start");
        for number in 0..self.agents.len() {
            tokio::spawn(crate::agents::work(self.clone(), handle.clone(), number));
        }
        let ended = match end {
            Some(after_ms) => {
                tokio::spawn(self.clone().goes_wrong(handle.clone(), ledger.clone()));
                let ended = tokio::select! {
                    biased;
                    () = sleep(Duration::from_millis(after_ms)) => End::Killed,
                    _ = melted.wait_for(Option::is_some) => End::Melted,
                };
                if ended == End::Melted {
                    // Whatever is under way comes to rest: nothing waits for the thread that may block.
                    sleep(Duration::from_millis(100)).await;
                }
                ended
            }
            None => {
                self.goes_on(&handle).await;
                handle.drain(Duration::from_secs(5)).await;
                End::InOrder
            }
        };
        *lock(&self.ledger) = None;
        at_once(ledger.close());
        ended
    }

    /// What goes wrong around the daemon.
    async fn goes_wrong(self: Arc<Self>, handle: Handle, ledger: Ledger) {
        loop {
            sleep(Duration::from_millis(self.between([200, 4_000]))).await;
            match self.roll(|dice| dice.below(12)) {
                // The ledger's thread ends.
                0 => {
                    if let Ok(store) = ledger.store() {
                        at_once(store.close());
                    }
                }
                1 | 2 => self.step_the_wall_clock(),
                3..6 => {
                    let slugs =
                        self.roll(|dice| (0..3).map(|_| format!("t{}", dice.below(TODOS as u64))).collect::<Vec<_>>());
                    commands::move_base(&self, &slugs);
                }
                6..8 => {
                    let (which, runs) = (self.roll(|dice| dice.below(4)), handle.context().runs.all());
                    let mut ids: Vec<_> = runs.into_iter().map(|run| run.id).collect();
                    ids.sort();
                    if let Some(id) = ids.get(which as usize) {
                        let _ = handle.cancel(&id.clone()).await;
                    }
                }
                // A person looks after what waits for one.
                _ => {
                    let (lane, slug) = self.roll(|dice| (dice.below(2), dice.below(TODOS as u64)));
                    let lane = Lane::parse(["builder", "mender"][lane as usize]).expect("a lane");
                    let _ = handle.mutate(Mutation::Resume { lane }, None).await;
                    let _ = handle.mutate(Mutation::Redrive { todo: todo(&format!("t{slug}")) }, None).await;
                }
            }
        }
    }

    fn step_the_wall_clock(&self) {
        let hour = 3_600_000;
        let by = self.roll(|dice| *dice.one_of(&[-hour, hour, -500, 500, 24 * hour, 87_600 * hour, -1_000, 60_000]));
        // It is never before the beginning, since nobody's clock is.
        let now = self.now_ms();
        let by = if now + by < BEGINNING_MS || now + by > BEGINNING_MS + 100_000 * hour { 0 } else { by };
        self.wall_ms.fetch_add(by, Ordering::SeqCst);
    }

    /// I6: every todo there is can be had, or it is said why not.
    async fn goes_on(self: &Arc<Self>, handle: &Handle) {
        let since = Instant::now();
        let listed = loop {
            match handle.todos(&TodoFilter::default()).await {
                Ok(listed) => break listed,
                Err(problem) => assert!(since.elapsed() < GOES_ON, "I6: todos are not listed: {problem}"),
            }
            sleep(Duration::from_millis(100)).await;
        };
        self.book.all_filed_are_in(&listed);
        let asked = listed.iter().map(|view| self.can_be_had(handle, &view.slug, since));
        futures_util::future::join_all(asked).await;
        self.book.audit(handle).await;
    }

    async fn can_be_had(self: &Arc<Self>, handle: &Handle, slug: &Slug, since: Instant) {
        loop {
            let request = WorkRequest {
                repo: Some(repo_name()),
                slug: Some(slug.clone()),
                lane: Lane::parse("builder").expect("a lane"),
                worker: Some(Worker::parse("auditor").expect("a worker")),
                refresh: false,
                wait_ms: Some(30_000),
            };
            let answer = handle.work(request, trace(self)).await;
            let said = match answer {
                Ok(slugline::model::view::Work::Done(_)) => return,
                Ok(slugline::model::view::Work::Running(operation)) => format!("{operation:?}"),
                Err(problem) if is_reason(handle, slug, &problem) => return,
                Err(problem) => problem.to_string(),
            };
            assert!(since.elapsed() < GOES_ON, "I6: {slug} is neither granted nor refused with a reason: {said}");
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// I1, I5: what was promised is in the ledger, and its views say what its log says. Comes back with all of the log.
    async fn kept(&self) -> String {
        let store = Store::open(&ledger_path(&self.config.data_dir)).expect("I5: the ledger is whole");
        self.book.all_is_in(&store).await;
        let held = self.book.held().await;
        let mut views = std::collections::BTreeMap::new();
        for change in store.decided().await.expect("I5: what was decided can be read") {
            if let Change::Todo { todo, state, .. } = change
                && let Some(claim) = &state.claim
            {
                views.insert(todo.to_string(), claim.token);
            }
        }
        assert_eq!(views, held, "I5: views and log say something else");
        let events = store.events(0, 1_000_000).await.expect("I5: the log can be read");
        store.close().await;
        let lines = events.iter().map(|event| {
            let line = format!("{} {} {:?} {:?} {}", event.seq, event.at, event.kind, event.subject, event.data);
            without_room(&line) + "\n"
        });
        lines.collect()
    }
}

/// How much room is on which disk is the one thing told that does not come from the seed.
fn without_room(line: &str) -> String {
    let Some(at) = line.find(" MB are free at ") else { return line.to_owned() };
    let (before, after) = (line[..at].trim_end_matches(|digit: char| digit.is_ascii_digit()), &line[at..]);
    format!("{before}some room{}", after.find('"').map_or("", |end| &after[end..]))
}

/// Whether a refusal says what is with the todo, and not only that the daemon cannot say now. An actor that was given up is
/// said to be.
fn is_reason(handle: &Handle, slug: &Slug, problem: &Problem) -> bool {
    let is_given_up = || handle.context().supervised.down().iter().any(|(name, _)| name.ends_with(&format!("/{slug}")));
    match problem.code {
        ProblemCode::Busy => false,
        ProblemCode::Restarting => is_given_up(),
        code => (400..500).contains(&code.status()),
    }
}

/// What a world came to.
pub struct Told {
    /// Every entry of its log.
    pub log: String,
    /// How often the daemon was killed, and how often it gave itself up.
    pub ends: [usize; 2],
    /// Grants and finished todos.
    pub granted: usize,
    pub done: usize,
}

/// The whole of a world: faults, then none, then what is left of it.
pub fn run(seed: u64, dir: &Path) -> Told {
    let world = World::new(seed, dir);
    let (mut ends, mut left_ms) = ([0, 0], world.between(FAULTS_MS));
    loop {
        let gate = Gate::default();
        let runtime = gate.runtime();
        let life_ms = (left_ms > 0).then(|| world.between(LIFE_MS).min(left_ms));
        let before = world.ran_ms();
        if life_ms.is_none() {
            world.faults.store(false, Ordering::SeqCst);
        }
        let ended = runtime.block_on(async {
            *lock(&world.time) = (before, Some(Instant::now()));
            let ended = world.live(life_ms).await;
            *lock(&world.time) = (world.ran_ms(), None);
            ended
        });
        gate.open();
        drop(runtime);
        match ended {
            End::Killed => ends[0] += 1,
            End::Melted => ends[1] += 1,
            End::InOrder => break,
        }
        left_ms -= life_ms.unwrap_or(0);
        // Time without a daemon.
        let away = i64::try_from(world.between([10, 10_000])).expect("a short time");
        world.wall_ms.fetch_add(away, Ordering::SeqCst);
    }
    let reader = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let log = reader.block_on(world.kept());
    let [granted, done] = reader.block_on(world.book.counts());
    Told { log, ends, granted, done }
}
