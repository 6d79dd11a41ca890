//! Who does what, one thing at a time: the supervision tree, its messages and its state.
//!
//! May know `model`, `metrics`, `git`, `process` and `store`. Reading order: `handle` and `live` (the way in), `slug` (the
//! single-flight), `probe` (the cheap look), `run` and `phases` (carrying out), `judging` (what a complete
//! adds to a run), `dispatcher` (who gets what),
//! `repository`, `root` and `ledger` (the tree), `mailbox` and `supervision` (what ractor leaves out), `context`,
//! `repo`, `board` and `runs` (what outlives an actor), `exclusion` and `exec` (how commands run), `answer` and
//! `timing` (what is told), `inventory` with `survey`, `look`, `permits`, `watching` and `removal` (worktrees, live),
//! `sessions` with `log_tail`, `events` (who hears of it), `health` (the daemon watches itself) with `seen` (what it says of
//! itself) and `levels` (what metrics say of now), `keys` (the same answer again), `alarm`, `log_stream`, `inputs`, `clock`, `faults`.

pub mod alarm;
pub mod answer;
pub mod board;
pub mod clock;
pub mod context;
pub mod dispatcher;
pub mod events;
pub mod exclusion;
pub mod exec;
pub mod faults;
pub mod handle;
pub mod health;
pub mod inputs;
pub mod inventory;
pub mod judging;
pub mod keys;
pub mod ledger;
mod levels;
pub mod live;
pub mod log_stream;
pub mod log_tail;
pub mod look;
pub mod mailbox;
pub mod permits;
pub mod phases;
pub mod probe;
pub mod removal;
pub mod repo;
pub mod repository;
pub mod root;
pub mod run;
pub mod runs;
pub mod seen;
pub mod sessions;
pub mod slug;
pub mod supervision;
pub mod survey;
pub mod timing;
pub mod watching;

use ractor::Actor;

pub use context::{Args, Settings};
pub use handle::Handle;
pub use repo::Registered;

/// Starts the actors: the root, which starts the rest. The second part tells the name of a child the root gave up.
pub async fn start(
    args: Args,
    ledger_path: std::path::PathBuf,
) -> Result<(Handle, tokio::sync::watch::Receiver<Option<String>>), String> {
    let context = context::Context::new(args);
    let melted = context.meltdown.subscribe();
    let root = root::RootArgs { context: context.clone(), ledger_path };
    let (_, ended) = Actor::spawn(None, root::Root, root).await.map_err(|error| error.to_string())?;
    // Nobody supervises the root: when it ends, nothing that is left can help.
    let watched = context.clone();
    tokio::spawn(async move {
        let _ = ended.await;
        if !watched.is_draining() {
            watched.meltdown.send_replace(Some("root".to_owned()));
        }
    });
    Ok((Handle::new(context), melted))
}
