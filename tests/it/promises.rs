//! What holds whatever fails. A test that breaks things keeps book here of what the daemon acknowledged and of what workers
//! did, and at its end asks for all of it:
//!
//! - I1 what was acknowledged is there: operations, todos, grants
//! - I2 a todo has one holder at a time, and no token is used twice or goes back
//! - I3 nothing is accepted under a token that is over
//! - I4 ten seconds after the daemon no process of its runs is left
//! - I5 the ledger is whole
//! - I6 every todo that is asked for can be had within thirty seconds, or it is said why not
//! - I7 what workers committed or only wrote is there

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slugline::cli::client::{Client, Reply};
use slugline::process::MARK_VARIABLE;
use slugline::runtime::run_mark;
use slugline::store::Store;

use crate::harness::{git, until, write};
use crate::marked::marked;
use crate::replay::{Log, replay};

/// I4: how long what was run may outlive the daemon.
const LEFTOVERS_END: Duration = Duration::from_secs(10);
/// I6: how long after the last fault everything goes on.
const GOES_ON: Duration = Duration::from_secs(30);
/// What a worker writes and does not commit.
const UNCOMMITTED: &str = "not committed\n";

/// The book of one site.
pub struct Promises {
    data: PathBuf,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// Where operations and todos that were told of are to be seen: those of since it was last asked, and those before.
    told: BTreeSet<String>,
    seen: BTreeSet<String>,
    /// Todo and token of each grant, with the session it began.
    granted: BTreeMap<(String, u64), Value>,
    /// Worktrees that were worked in, with the commit made there.
    commits: BTreeMap<PathBuf, String>,
}

impl Book {
    /// What was seen before is asked for once more.
    fn ask_again(&mut self) {
        self.told.append(&mut self.seen);
    }
}

impl Promises {
    /// Of the daemons with this data directory.
    pub fn of(data: &Path) -> Self {
        Self { data: data.to_owned(), book: Mutex::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what an answer to a change acknowledges; a refusal acknowledges nothing.
    pub fn told(&self, reply: &Reply) {
        if reply.status >= 300 {
            return;
        }
        let answer = reply.json();
        let mut book = self.book();
        let accepted = (reply.status == 202).then_some(&answer["id"]);
        for id in accepted.into_iter().chain([&answer["operation"]]) {
            book.told.extend(id.as_str().map(|id| format!("/operations/{id}")));
        }
        let (Some(repo), Some(slug)) = (answer["repo"].as_str(), answer["slug"].as_str()) else { return };
        let todo = format!("{repo}/{slug}");
        book.told.insert(format!("/todos/{todo}"));
        if let Some(token) = answer["claim"]["token"].as_u64() {
            let session = answer["claim"]["session"].clone();
            let before = book.granted.entry((todo.clone(), token)).or_insert_with(|| session.clone());
            assert_eq!(*before, session, "I2: token {token} of {todo} was used twice");
        }
    }

    /// A worker leaves a commit that is nowhere else and an edit that is not committed, once per worktree. Says the commit.
    pub fn work_in(&self, worktree: &Path) -> String {
        let mut book = self.book();
        let work = || {
            write(&worktree.join("committed.txt"), "committed by the worker\n");
            git(worktree, &["add", "committed.txt"]);
            git(worktree, &["commit", "--quiet", "--message", "work"]);
            write(&worktree.join("mine.txt"), UNCOMMITTED);
            git(worktree, &["rev-parse", "HEAD"])
        };
        book.commits.entry(worktree.to_owned()).or_insert_with(work).clone()
    }

    /// Worktrees that were worked in.
    pub fn worked_in(&self) -> usize {
        self.book().commits.len()
    }

    /// I1, I6 and I7, asked of a daemon that nothing happens to any more. Afterwards all that can be had is held.
    pub async fn kept_by(&self, client: &Client) {
        // Before, too: what goes on could put back what was lost.
        self.all_is_kept(client).await;
        self.goes_on(client).await;
        self.all_is_kept(client).await;
    }

    /// I1 of all that was ever told, and I7.
    async fn all_is_kept(&self, client: &Client) {
        self.book().ask_again();
        self.kept_so_far(client).await;
    }

    /// I1 of what was told since this was last asked, and I7.
    pub async fn kept_so_far(&self, client: &Client) {
        self.is_known(client).await;
        self.nothing_of_workers_is_lost();
    }

    /// I1 of what was told since this was last asked.
    pub async fn is_known(&self, client: &Client) {
        let told = std::mem::take(&mut self.book().told);
        for path in &told {
            let reply = client.get(path).await.expect("the daemon answers");
            assert_eq!(reply.status, 200, "I1: {path} was acknowledged and is lost: {}", reply.text());
        }
        self.book().seen.extend(told);
    }

    /// I6.
    async fn goes_on(&self, client: &Client) {
        let listed = until("the list of todos", || async {
            let reply = client.get("/todos").await.expect("the daemon answers");
            (reply.status == 200).then(|| reply.json())
        });
        for todo in listed.await.as_array().expect("a list") {
            let body = json!({ "repo": todo["repo"], "slug": todo["slug"], "lane": "builder", "worker": "auditor", "wait_ms": 30_000 });
            let since = Instant::now();
            until(&format!("an answer about {todo}"), || async {
                let reply = client.post("/todos/work", &body).await.expect("the daemon answers");
                self.told(&reply);
                assert!(
                    since.elapsed() < GOES_ON,
                    "I6: {todo} is neither granted nor refused with a reason: {}",
                    reply.text()
                );
                (reply.status == 200 || is_reason(&reply)).then_some(())
            })
            .await;
        }
    }

    /// I7.
    fn nothing_of_workers_is_lost(&self) {
        let book = self.book();
        for (worktree, commit) in &book.commits {
            let at = worktree.display();
            assert_eq!(git(worktree, &["merge-base", commit, "HEAD"]), *commit, "I7: {at} lost its commit");
            let edit = std::fs::read_to_string(worktree.join("mine.txt"));
            assert_eq!(edit.ok().as_deref(), Some(UNCOMMITTED), "I7: {at} lost an edit");
        }
    }

    /// I2, I3, I4 and I5, when the daemon is gone, however it went; and that I1 holds of grants.
    pub async fn kept_after(&self) -> Log {
        let mark = format!("{MARK_VARIABLE}={}-", run_mark(&self.data));
        let since = Instant::now();
        until("I4: the last process of a run to end", || async {
            let left = marked(|given| given.starts_with(mark.as_bytes()));
            assert!(since.elapsed() < LEFTOVERS_END, "I4: {left:?} outlive the daemon");
            left.is_empty().then_some(())
        })
        .await;
        let path = self.data.join("ledger.db");
        let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.expect("opens");
        let store = store.expect("I5: the ledger is whole");
        store.decided().await.expect("I5: all that was decided can be read");
        let log = replay(&store).await;
        store.close().await;
        let book = self.book();
        let lost: Vec<_> = book.granted.keys().filter(|grant| !log.granted.contains(*grant)).collect();
        assert!(lost.is_empty(), "I1: grants that were told are not in the log: {lost:?}");
        drop(book);
        log
    }
}

/// Whether a refusal says what is with the todo, and not only that the daemon cannot say now. A command of the repository's
/// that did not end in its time is such a reason.
fn is_reason(reply: &Reply) -> bool {
    match reply.json()["code"].as_str() {
        Some("busy") | None => false,
        Some("deadline_exceeded") => true,
        Some(_) => (400..500).contains(&reply.status),
    }
}
