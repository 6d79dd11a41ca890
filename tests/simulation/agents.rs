//! Those who work: most of what they do is what workers do, some of it is late, doubled, forgotten or sent again.

use std::num::{NonZeroU64, NonZeroU128};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use slugline::actors::Handle;
use slugline::model::filed::NewTodo;
use slugline::model::ids::{IdempotencyKey, Lane, OperationId, Slug, TodoKey, Worker};
use slugline::model::kept::{Answer, Keyed};
use slugline::model::problem::Problem;
use slugline::model::todo::{Complete, Outcome, Review, Stage};
use slugline::model::trace::Trace;
use slugline::model::view::{HeartbeatRequest, HoldRequest, Mutation, Work};
use slugline::model::work_order::{Product, WorkRequest};
use tokio::time::sleep;

use crate::commands;
use crate::scale::Dice;
use crate::world::{TODOS, World, repo_name, todo};

/// A claim somebody has, or had.
#[derive(Debug, Clone)]
struct Held {
    todo: TodoKey,
    token: u64,
    stage: Stage,
}

/// One who works. What it knows outlives the daemon; what it was just asking does not.
pub struct Agent {
    lane: Lane,
    worker: Worker,
    dice: Dice,
    held: Option<Held>,
    /// Claims it gave up without a word, or that were taken from it.
    old: Vec<Held>,
    /// A request it may send again.
    sent: Option<(Mutation, Keyed)>,
    operation: Option<OperationId>,
    keys: u64,
}

impl Agent {
    pub fn new(number: usize, seed: u64) -> Self {
        Self {
            lane: Lane::parse(if number % 3 == 2 { "mender" } else { "builder" }).expect("a lane"),
            worker: Worker::parse(&format!("w{number}")).expect("a worker"),
            dice: Dice(seed),
            held: None,
            old: Vec::new(),
            sent: None,
            operation: None,
            keys: 0,
        }
    }
}

/// A place in a trace that comes from the world's dice.
pub fn trace(world: &World) -> Trace {
    let id = world.roll(|dice| dice.below(1 << 31) + 1);
    Trace::root(NonZeroU128::from(NonZeroU64::new(id).expect("above zero")), NonZeroU64::MIN)
}

/// One of them, from step to step.
pub async fn work(world: Arc<World>, handle: Handle, number: usize) {
    let at_work = AtWork { world, handle, number };
    loop {
        let pause_ms = at_work.roll(|dice| if dice.below(10) == 0 { dice.below(9_000) } else { dice.below(900) });
        sleep(Duration::from_millis(pause_ms)).await;
        at_work.step().await;
        at_work.world.book.audit(&at_work.handle).await;
    }
}

struct AtWork {
    world: Arc<World>,
    handle: Handle,
    number: usize,
}

impl AtWork {
    fn me(&self) -> MutexGuard<'_, Agent> {
        self.world.agents[self.number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn roll<T>(&self, how: impl FnOnce(&mut Dice) -> T) -> T {
        how(&mut self.me().dice)
    }

    async fn step(&self) {
        let (what, held, old) = {
            let mut me = self.me();
            let which = usize::try_from(me.dice.below(8)).unwrap_or(0);
            (me.dice.below(100), me.held.clone(), me.old.get(which).cloned())
        };
        match (what, held, old) {
            (0..6, _, Some(old)) => self.complete(&old, Outcome::Done).await,
            (6..9, _, Some(old)) => self.heartbeat(&old).await,
            (9..13, ..) => self.send_again().await,
            (13..16, ..) => self.look().await,
            (16..19, ..) => self.file().await,
            (19..40, None, _) => self.ask(Some(self.roll(|dice| format!("t{}", dice.below(TODOS as u64))))).await,
            (_, None, _) => self.ask(None).await,
            (19..36, Some(held), _) => self.heartbeat(&held).await,
            (36..40, Some(held), _) => self.hold(&held).await,
            (40..45, Some(held), _) => self.release(&held).await,
            (45..52, Some(held), _) => commands::commit(&self.world, held.todo.slug.as_str()),
            (52..57, Some(held), _) => self.complete(&held, Outcome::Failed).await,
            (57..59, Some(held), _) => self.complete(&held, Outcome::Blocked).await,
            // Gone, and nobody is told.
            (59..66, Some(_), _) => self.let_go(),
            (66..72, Some(held), _) => self.ask(Some(held.todo.slug.to_string())).await,
            (72..78, Some(held), _) => {
                // The first answer was lost.
                tokio::join!(self.complete(&held, Outcome::Done), self.complete(&held, Outcome::Done));
            }
            (_, Some(held), _) => self.complete(&held, Outcome::Done).await,
        }
    }

    fn let_go(&self) {
        let mut me = self.me();
        let old = me.held.take();
        me.old.extend(old);
    }

    async fn ask(&self, slug: Option<String>) {
        let request = {
            let mut me = self.me();
            WorkRequest {
                repo: Some(repo_name()),
                slug: slug.map(|slug| Slug::parse(&slug).expect("a slug")),
                lane: me.lane.clone(),
                worker: Some(me.worker.clone()),
                refresh: me.dice.below(12) == 0,
                wait_ms: Some(me.dice.below(8_000)),
            }
        };
        let answer = self.handle.work(request, trace(&self.world)).await;
        if let Ok(Work::Done(product)) = &answer {
            let Product::Order(order) = product else {
                panic!("whoever asked for work was told of a result: {product:?}")
            };
            let me = self.me();
            assert!(order.lane == me.lane && order.claim.worker == me.worker, "I2: it is another one's: {order:?}");
        }
        self.take_in(answer);
    }

    /// What an answer promises, and what it means for whoever asked.
    fn take_in(&self, answer: Result<Work, Problem>) {
        let book = &self.world.book;
        match answer {
            Ok(Work::Done(Product::Order(order))) => {
                let todo = TodoKey { repo: order.repo, slug: order.slug };
                book.granted(&todo.to_string(), order.claim.token);
                order.operation.iter().for_each(|id| book.operation(id));
                let held = Held { todo, token: order.claim.token, stage: order.stage };
                let mut me = self.me();
                let before = me.held.replace(held.clone()).filter(|before| before.token != held.token);
                me.old.extend(before);
            }
            Ok(Work::Done(Product::Completion(completion))) => {
                completion.operation.iter().for_each(|id| book.operation(id));
            }
            Ok(Work::Running(operation)) => {
                book.operation(&operation.id);
                self.me().operation = Some(operation.id.clone());
            }
            Err(_) => {}
        }
    }

    /// What became of what it waits for.
    async fn look(&self) {
        let Some(id) = self.me().operation.take() else { return };
        if let Err(problem) = self.handle.operation(&id).await {
            assert!(problem.code.status() >= 500, "I1: operation {id} was told and is not known: {problem}");
        }
    }

    async fn complete(&self, held: &Held, outcome: Outcome) {
        let Held { todo, token, stage } = held;
        let name = todo.to_string();
        self.world.book.audit(&self.handle).await;
        let was_over = self.world.book.is_over(&name, *token).await;
        let (wait_ms, which, mends) = self.roll(|dice| (dice.below(10_000), dice.below(3), dice.below(4) == 0));
        let review = (*stage == Stage::Review && outcome == Outcome::Done).then_some(if mends {
            Review::ChangesRequested
        } else {
            Review::Approved
        });
        let complete = Complete {
            token: *token,
            outcome,
            summary: None,
            reason: (outcome != Outcome::Done)
                .then(|| format!("the {} is gone", ["disk", "net", "key"][which as usize])),
            review,
            findings: review.filter(|review| *review == Review::ChangesRequested).map(|_| "mend it".to_owned()),
        };
        let answer = self.handle.complete(todo, complete, wait_ms, trace(&self.world)).await;
        match &answer {
            Ok(Work::Done(Product::Completion(said))) => {
                assert!(
                    said.guard.is_some() || !was_over,
                    "I3: a result counted under {name}, token {token}, that was over"
                );
                if said.outcome == slugline::model::todo::How::Done {
                    self.world.book.done(&name, *token);
                }
                self.is_over(held);
            }
            Ok(Work::Done(other)) => panic!("whoever told of a result was given work: {other:?}"),
            Err(problem) if problem.code == slugline::model::problem::ProblemCode::StaleToken => self.is_over(held),
            _ => {}
        }
        self.take_in(answer);
    }

    fn is_over(&self, held: &Held) {
        let mut me = self.me();
        if me.held.as_ref().is_some_and(|now| now.todo == held.todo && now.token == held.token) {
            let old = me.held.take();
            me.old.extend(old);
        }
    }

    async fn heartbeat(&self, held: &Held) {
        let progress = self.roll(|dice| (dice.below(2) == 0).then(|| format!("at {}", dice.below(1_000))));
        let body = HeartbeatRequest { token: held.token, progress, extend_ms: None };
        self.under_token(held, Mutation::Heartbeat { todo: held.todo.clone(), body }).await;
    }

    async fn hold(&self, held: &Held) {
        let for_ms = self.roll(|dice| dice.below(15_000)) + 1;
        let body = HoldRequest { token: held.token, for_ms, why: "a person".to_owned() };
        self.under_token(held, Mutation::Hold { todo: held.todo.clone(), body }).await;
    }

    async fn release(&self, held: &Held) {
        if self.under_token(held, Mutation::Release { todo: held.todo.clone(), token: held.token }).await {
            self.is_over(held);
        }
    }

    /// A change that a claim allows; whether it was made.
    async fn under_token(&self, held: &Held, mutation: Mutation) -> bool {
        self.world.book.audit(&self.handle).await;
        let was_over = self.world.book.is_over(&held.todo.to_string(), held.token).await;
        let answer = self.mutate(mutation).await;
        if let Ok(answered) = &answer {
            let repeated = answered.body.contains("duplicate_release_guard");
            assert!(!was_over || repeated, "I3: {held:?} was over, and yet: {}", answered.body);
        }
        answer.is_ok()
    }

    async fn file(&self) {
        let (number, which) = self.roll(|dice| (dice.below(4), dice.below(TODOS as u64)));
        let slug = format!("filed-{number}");
        let body = NewTodo {
            slug: Slug::parse(&slug).expect("a slug"),
            brief: "as it is said".to_owned(),
            lane: None,
            after: vec![Slug::parse(&format!("t{which}")).expect("a slug")],
            priority: 0,
        };
        if self.mutate(Mutation::File { repo: todo("t0").repo, body }).await.is_ok() {
            self.world.book.filed(&slug);
        }
    }

    /// Half of all changes come under a key, and may be sent again.
    async fn mutate(&self, mutation: Mutation) -> Answer {
        let keyed = {
            let mut me = self.me();
            me.keys += 1;
            let name = format!("{}-{}", me.worker, me.keys);
            (me.dice.below(2) == 0).then(|| Keyed {
                key: IdempotencyKey::parse(&name).expect("a key"),
                digest: format!("{name}-digest-of-the-request"),
                trace_id: String::new(),
            })
        };
        self.me().sent = keyed.clone().map(|keyed| (mutation.clone(), keyed));
        let answer = self.handle.mutate(mutation, keyed.clone()).await;
        self.note(keyed.as_ref(), &answer);
        answer
    }

    fn note(&self, keyed: Option<&Keyed>, answer: &Answer) {
        if let (Some(keyed), Ok(answered)) = (keyed, answer) {
            self.world.book.answered(keyed.key.as_str(), answered);
        }
    }

    async fn send_again(&self) {
        let Some((mutation, keyed)) = self.me().sent.clone() else { return };
        let answer = self.handle.mutate(mutation, Some(keyed.clone())).await;
        self.note(Some(&keyed), &answer);
    }
}
