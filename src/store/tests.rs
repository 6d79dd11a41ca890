//! The ledger on a real file: what was answered is there, what was not is not.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::{Store, StoreError, Write};
use crate::model::claim::Claim;
use crate::model::ids::{Lane, OperationId, RepoName, Slug, TodoKey, Worker};
use crate::model::operation::{Operation, OperationKind, OperationState};
use crate::model::record::{MarkState, Stage, WorktreeMark};
use crate::model::time::Timestamp;

fn todo(slug: &str) -> TodoKey {
    TodoKey { repo: RepoName::parse("app").expect("name"), slug: Slug::parse(slug).expect("slug") }
}

fn operation(number: u32, slug: &str) -> Operation {
    Operation {
        id: OperationId::parse(&format!("01{number:024}")).expect("id"),
        kind: OperationKind::Work,
        todo: todo(slug),
        lane: Lane::parse("builder").expect("lane"),
        worker: Worker::default_of_lane(),
        state: OperationState::Queued,
        phase: None,
        phases: Vec::new(),
        created_at: Timestamp::from_ms(1),
        started_at: None,
        finished_at: None,
        deadline_at: Timestamp::from_ms(2),
        poll_after_ms: Some(1),
        result: None,
        problem: None,
    }
}

fn opened(number: u32, slug: &str) -> Vec<Write> {
    vec![Write::OperationOpened(Box::new(operation(number, slug)))]
}

fn claim(token: u64) -> Write {
    Write::ClaimGranted(Claim {
        todo: todo("fix"),
        token,
        lane: Lane::parse("builder").expect("lane"),
        worker: Worker::default_of_lane(),
        granted_at: Timestamp::from_ms(5),
        expires_at: Timestamp::from_ms(6),
    })
}

fn ledger() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = Store::open(&dir.path().join("ledger.db")).expect("opens");
    (dir, store)
}

#[tokio::test]
async fn many_waiting_batches_share_a_commit() {
    let (_dir, store) = ledger();
    let store = Arc::new(store);
    let writers = (0..200).map(|number| {
        let store = store.clone();
        async move { store.commit(opened(number, "fix")).await }
    });
    let results = futures_util::future::join_all(writers).await;
    assert!(results.iter().all(Result::is_ok));
    let stats = store.stats();
    assert_eq!(stats.batches, 200);
    assert!(stats.commits < 20, "{stats:?}");
    assert_eq!(store.open_operations().await.expect("reads").len(), 200);
}

#[tokio::test]
async fn a_batch_that_conflicts_is_rolled_back_alone() {
    let (_dir, store) = ledger();
    store.commit(opened(1, "one")).await.expect("commits");
    let twice = [opened(2, "two"), opened(1, "one")].concat();
    let (bad, good) = tokio::join!(store.commit(twice), store.commit(opened(3, "three")));
    assert!(matches!(bad, Err(StoreError::Conflict(_))), "{bad:?}");
    good.expect("the other batch is not concerned");
    let ids: Vec<_> = store
        .open_operations()
        .await
        .expect("reads")
        .into_iter()
        .map(|operation| operation.todo.slug.to_string())
        .collect();
    assert_eq!(ids, ["one", "three"]);
}

#[tokio::test]
async fn an_ended_operation_never_changes_again() {
    let (_dir, store) = ledger();
    store.commit(opened(1, "fix")).await.expect("commits");
    let interrupted = store.interrupt_open_operations(Timestamp::from_ms(9)).await.expect("interrupts");
    assert_eq!(interrupted, [operation(1, "fix").id]);
    let late = Operation { state: OperationState::Succeeded, ..operation(1, "fix") };
    let refused = store.commit(vec![Write::OperationChanged(Box::new(late))]).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));
    let kept = store.operation(&operation(1, "fix").id).await.expect("reads").expect("is there");
    assert_eq!((kept.state, kept.finished_at), (OperationState::Interrupted, Some(Timestamp::from_ms(9))));
}

#[tokio::test]
async fn tokens_of_a_todo_only_rise() {
    let (_dir, store) = ledger();
    store.commit(vec![claim(3)]).await.expect("commits");
    for old in [1, 3] {
        assert!(matches!(store.commit(vec![claim(old)]).await, Err(StoreError::Conflict(_))));
    }
    store.commit(vec![claim(4)]).await.expect("commits");
    assert_eq!(store.claims().await.expect("reads")[0].token, 4);
}

#[tokio::test]
async fn what_was_answered_is_there_after_opening_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("ledger.db");
    let store = Store::open(&path).expect("opens");
    let at = Timestamp::from_ms(7);
    let mark = WorktreeMark { state: MarkState::Started, at };
    let writes = vec![
        Write::WorktreeMarked { todo: todo("fix"), mark: Some(mark.clone()), at },
        Write::StageChanged { todo: todo("fix"), stage: Stage::Build, at },
        claim(1),
    ];
    let seq = store.commit(writes).await.expect("commits");
    assert_eq!(seq, 3);
    store.close().await;
    drop(store);
    let store = Store::open(&path).expect("opens again");
    let record = store.slug(&todo("fix")).await.expect("reads");
    assert_eq!(
        (record.worktree, record.stage, record.claim.map(|claim| claim.token)),
        (Some(mark), Stage::Build, Some(1))
    );
    assert_eq!(store.events(1, 10).await.expect("reads").len(), 2);
}

#[tokio::test]
async fn a_second_opener_is_refused_while_the_first_is_undisturbed() {
    let (dir, store) = ledger();
    let second = Store::open(&dir.path().join("ledger.db"));
    assert!(matches!(second, Err(StoreError::InUse { .. })));
    store.commit(opened(1, "fix")).await.expect("the first goes on");
}

fn refused(path: &Path) -> String {
    match Store::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn an_empty_foreign_damaged_or_newer_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let empty = dir.path().join("empty.db");
    std::fs::write(&empty, "").expect("write");
    assert!(refused(&empty).contains("empty"));

    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).expect("opens").execute_batch("CREATE TABLE t (x)").expect("writes");
    assert!(refused(&foreign).contains("not a Slugline ledger"));

    let damaged = dir.path().join("damaged.db");
    std::fs::write(&damaged, vec![7_u8; 8_192]).expect("write");
    let before = std::fs::read(&damaged).expect("reads");
    assert!(refused(&damaged).contains(damaged.to_str().expect("utf-8")));
    assert_eq!(before, std::fs::read(&damaged).expect("reads"));

    let newer = dir.path().join("newer.db");
    drop(Store::open(&newer).expect("makes one"));
    wait_until_free(&newer);
    Connection::open(&newer).expect("opens").pragma_update(None, "user_version", 99).expect("writes");
    assert!(refused(&newer).contains("newer version"));
}

/// The writer's thread lets the lock go a moment after the store was dropped.
fn wait_until_free(path: &Path) {
    let begun = std::time::Instant::now();
    while matches!(super::lock_for(path), Err(StoreError::InUse { .. })) {
        assert!(begun.elapsed().as_secs() < 10, "the lock was never released");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_full_disk_accepts_nothing_and_goes_on_once_there_is_room() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("ledger.db");
    let connection = super::schema::open(&path).expect("opens");
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("pages");
    connection.pragma_update(None, "max_page_count", pages).expect("limits");
    let results: Vec<_> = (0..200).map(|number| commit_now(&connection, opened(number, "fix"))).collect();
    connection.pragma_update(None, "max_page_count", 1_000_000).expect("makes room");
    let room = commit_now(&connection, opened(900, "fix"));
    assert!(results.iter().any(|result| matches!(result, Err(StoreError::Full))), "{results:?}");
    room.expect("there is room again");
    let accepted = results.iter().filter(|result| result.is_ok()).count() + 1;
    let there: i64 = connection.query_row("SELECT count(*) FROM operations", [], |row| row.get(0)).expect("reads");
    assert_eq!(usize::try_from(there).expect("fits"), accepted);
}

fn commit_now(db: &Connection, batch: Vec<Write>) -> Result<u64, StoreError> {
    super::writer::commit_one(db, batch)
}

/// Run by the next test in a process of its own: writes for ever and says what was answered.
#[tokio::test]
async fn writes_until_killed_when_asked_to() {
    let Ok(path) = std::env::var("LEDGER_TO_WRITE_UNTIL_KILLED") else { return };
    let store = Store::open(Path::new(&path)).expect("opens");
    for number in 0..1_000_000 {
        store.commit(opened(number, "fix")).await.expect("commits");
        println!("answered {number}");
    }
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_answered() {
    use std::io::BufRead as _;
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("ledger.db");
    for round in 1..=5_usize {
        let mut child = std::process::Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "store::tests::writes_until_killed_when_asked_to", "--nocapture"])
            .env("LEDGER_TO_WRITE_UNTIL_KILLED", path.with_file_name(format!("{round}.db")))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("spawns");
        let out = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut answered = None;
        for line in out.lines().map_while(Result::ok) {
            if let Some((_, number)) = line.split_once("answered ") {
                answered = number.parse::<usize>().ok();
                if answered == Some(round * 7) {
                    child.kill().expect("kills");
                }
            }
        }
        child.wait().expect("reaps");
        let store = Store::open(&path.with_file_name(format!("{round}.db"))).expect("opens after the kill");
        let there = store.open_operations().await.expect("reads").len();
        assert!(there > answered.expect("something was answered"), "{there} {answered:?}");
    }
}
