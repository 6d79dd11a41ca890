//! The ledger on a real file: what was answered is there, what was not is not.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::{Chain, Store, StoreError, Write};
use crate::model::desk::Change;
use crate::model::event::EventKind;
use crate::model::filed::{Filed, NewTodo};
use crate::model::ids::{Lane, OperationId, RepoName, Slug, TodoKey, Worker};
use crate::model::operation::{Operation, OperationKind, OperationState};
use crate::model::record::{MarkState, WorktreeMark};
use crate::model::time::Timestamp;
use crate::model::todo::{Stage, TodoState};

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
        trace_id: None,
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

fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

fn decided(change: Change) -> Write {
    Write::Decided { change, at: at(5) }
}

/// A todo whose highest token is this one.
fn token(token: u64) -> Write {
    let state = Arc::new(TodoState { stage: Stage::Build, token, ..TodoState::default() });
    let events = vec![(EventKind::ClaimGranted, serde_json::json!({ "token": token }))];
    decided(Change::Todo { todo: todo("fix"), state, events })
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
    store.commit(vec![token(3)]).await.expect("commits");
    assert!(matches!(store.commit(vec![token(2)]).await, Err(StoreError::Conflict(_))));
    store.commit(vec![token(4)]).await.expect("commits");
    let decided = store.decided().await.expect("reads");
    assert!(matches!(decided.as_slice(), [Change::Todo { state, .. }] if state.token == 4), "{decided:?}");
}

#[tokio::test]
async fn nothing_of_a_chain_is_written_behind_a_batch_that_was_not() {
    let (_dir, store) = ledger();
    store.commit(vec![token(5)]).await.expect("commits");
    let (torn, other) = (Chain::default(), Chain::default());
    let filed = |slug: &str| {
        let new = NewTodo { slug: todo(slug).slug, brief: String::new(), lane: None, after: vec![], priority: 0 };
        let filed = Filed { todo: new, remedy: None, at: at(1) };
        vec![decided(Change::Filed { repo: todo("fix").repo, filed })]
    };
    let written = [
        store.enqueue(filed("before"), &torn),
        store.enqueue(vec![token(1)], &torn),
        store.enqueue(filed("behind"), &torn),
        store.enqueue(filed("elsewhere"), &other),
    ];
    let results = futures_util::future::join_all(written).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false, true]);
    assert!(torn.is_broken() && !other.is_broken());
    assert!(store.enqueue(filed("later"), &torn).await.is_err());
    let there: Vec<String> = store
        .decided()
        .await
        .expect("reads")
        .into_iter()
        .filter_map(|change| match change {
            Change::Filed { filed, .. } => Some(filed.todo.slug.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(there, ["before", "elsewhere"]);
}

#[tokio::test]
async fn a_ledger_of_the_first_version_opens_with_its_claims_as_they_were() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("ledger.db");
    super::schema::make_of_format(&path, 1, |db| {
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(600);
        let claim = serde_json::json!({
            "todo": { "repo": "app", "slug": "fix" }, "token": 7, "lane": "builder", "worker": "w1",
            "granted_at": "2026-01-01T00:00:00.000Z", "expires_at": soon.to_string(),
        });
        db.execute("INSERT INTO claims VALUES ('app', 'fix', 7, ?1)", [claim.to_string()]).expect("writes");
        db.execute("INSERT INTO stages VALUES ('app', 'fix', 'build')", []).expect("writes");
    });
    let store = Store::open(&path).expect("migrates");
    let decided = store.decided().await.expect("reads");
    let [Change::Todo { state, .. }] = decided.as_slice() else { panic!("{decided:?}") };
    let claim = state.claim.as_ref().expect("the claim is there");
    assert_eq!((state.stage, state.token, claim.worker.as_str()), (Stage::Build, 7, "w1"));
    assert!((500_000..=600_000).contains(&claim.expires.as_ms()), "{claim:?}");
}

#[tokio::test]
async fn what_was_answered_is_there_after_opening_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("ledger.db");
    let store = Store::open(&path).expect("opens");
    let at = at(7);
    let mark = WorktreeMark { state: MarkState::Started, at };
    let writes = vec![Write::WorktreeMarked { todo: todo("fix"), mark: Some(mark.clone()), at }, token(1)];
    let seq = store.commit(writes).await.expect("commits");
    assert_eq!(seq, 2);
    store.close().await;
    drop(store);
    let store = Store::open(&path).expect("opens again");
    let record = store.slug(&todo("fix")).await.expect("reads");
    assert_eq!(record.worktree, Some(mark));
    assert_eq!(store.events(1, 10).await.expect("reads").len(), 1);
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
    let (connection, end) = super::schema::open(&path).expect("opens");
    let mut mark = super::mark::Mark::of(&path, end);
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("pages");
    connection.pragma_update(None, "max_page_count", pages).expect("limits");
    let results: Vec<_> = (0..200).map(|number| commit_now(&connection, &mut mark, opened(number, "fix"))).collect();
    connection.pragma_update(None, "max_page_count", 1_000_000).expect("makes room");
    let room = commit_now(&connection, &mut mark, opened(900, "fix"));
    assert!(results.iter().any(|result| matches!(result, Err(StoreError::Full))), "{results:?}");
    room.expect("there is room again");
    let accepted = results.iter().filter(|result| result.is_ok()).count() + 1;
    let there: i64 = connection.query_row("SELECT count(*) FROM operations", [], |row| row.get(0)).expect("reads");
    assert_eq!(usize::try_from(there).expect("fits"), accepted);
}

fn commit_now(db: &Connection, mark: &mut super::mark::Mark, batch: Vec<Write>) -> Result<u64, StoreError> {
    super::writer::commit_one(db, mark, batch)
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

/// A closed ledger with something in it.
async fn written(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("ledger.db");
    let store = Store::open(&path).expect("opens");
    for number in 1..=20 {
        store.commit(opened(number, "fix")).await.expect("commits");
    }
    store.commit(vec![token(3)]).await.expect("commits");
    store.close().await;
    path
}

#[tokio::test]
async fn a_bit_inside_a_record_is_found_though_sqlite_finds_nothing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = written(dir.path()).await;
    let mut bytes = std::fs::read(&path).expect("reads");
    let record = b"\"worker\":\"default\"";
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(record)).collect();
    bytes[places[0] + 11] ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    let found: String = Connection::open(&path)
        .expect("opens")
        .pragma_query_value(None, "integrity_check", |row| row.get(0))
        .expect("checks");
    assert_eq!(found, "ok");
    let said = refused(&path);
    assert!(said.contains("is not what was written") && said.contains("ledger.db"), "{said}");
    assert!(super::check(&path).is_err());
}

#[tokio::test]
async fn a_ledger_that_lost_its_end_is_refused_and_so_is_none_where_there_was_one() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = written(dir.path()).await;
    let old = std::fs::read(&path).expect("reads");
    let store = Store::open(&path).expect("opens");
    // The second changes the ledger without an entry in its log.
    store.commit(opened(90, "fix")).await.expect("commits");
    let before = super::mark::read(&path).expect("a mark");
    store.commit(vec![decided(Change::Awake(crate::model::time::Awake::from_ms(9)))]).await.expect("commits");
    let after = super::mark::read(&path).expect("a mark");
    assert_eq!((after.seq, after.quiet), (before.seq, before.quiet + 1));
    store.close().await;
    assert_eq!(super::check(&path).expect("is whole").acknowledged, Some(after));
    let whole = std::fs::read(&path).expect("reads");
    std::fs::write(&path, old).expect("writes");
    assert!(refused(&path).contains("what came between is lost"));
    std::fs::remove_file(&path).expect("removes");
    let said = refused(&path);
    assert!(said.contains("is missing") && said.contains("ledger.mark"), "{said}");
    assert!(!path.exists(), "a new one was made");
    std::fs::write(&path, whole).expect("writes");
    Store::open(&path).expect("the whole one opens");
}

#[tokio::test]
async fn a_backup_is_put_in_place_and_nothing_that_was_given_since_is_given_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = written(dir.path()).await;
    let store = Store::open(&path).expect("opens");
    let backup = store.back_up(at(1_000), 7).expect("backs up");
    let in_use = super::restore(&path, &backup.path, at(2_000));
    assert!(matches!(in_use, Err(StoreError::InUse { .. })), "{in_use:?}");
    store.commit([opened(91, "fix"), vec![token(7)]].concat()).await.expect("commits");
    let known = store.last_seq().await.expect("reads");
    store.close().await;
    let restored = super::restore(&path, &backup.path, at(2_000)).expect("restores");
    assert_eq!((restored.last_seq, restored.known_seq, restored.tokens_above), (backup.last_seq, Some(known), 2_000));
    assert!(
        restored.to_string().contains(&format!("entries {} to {known} are lost", backup.last_seq + 1)),
        "{restored}"
    );
    assert!(restored.replaced.as_ref().is_some_and(|path| path.exists()));
    let store = Store::open(&path).expect("opens");
    let decided = store.decided().await.expect("reads");
    assert!(decided.contains(&Change::TokensAbove(2_000)), "{decided:?}");
    let next = store.commit(opened(92, "fix")).await.expect("commits");
    assert!(next > known + 1, "entry {next} was given before, up to {known}");
    assert_eq!(store.incidents(9).await.expect("reads").len(), 1, "it is on record");
    store.close().await;
    // The replaced one again: later than all that was given since.
    let again = super::restore(&path, restored.replaced.as_deref().expect("kept"), at(1_500)).expect("restores");
    assert_eq!((again.known_seq, again.tokens_above), (Some(next), 2_000));
}

#[tokio::test]
async fn a_damaged_backup_changes_nothing_and_old_backups_go_when_there_are_more_than_are_kept() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = written(dir.path()).await;
    let store = Store::open(&path).expect("opens");
    let made: Vec<_> = (0..4).map(|turn| store.back_up(at(turn), 2).expect("backs up").path).collect();
    assert_eq!(made.iter().map(|path| path.exists()).collect::<Vec<_>>(), [false, false, true, true]);
    store.close().await;
    let before = std::fs::read(&path).expect("reads");
    for damage in [4_096, 0] {
        std::fs::File::options().write(true).open(&made[3]).expect("opens").set_len(damage).expect("truncates");
        let restored = super::restore(&path, &made[3], at(9));
        assert!(matches!(restored, Err(StoreError::Unusable(_))), "{restored:?}");
    }
    assert_eq!(std::fs::read(&path).expect("reads"), before);
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("reads").flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("restoring")), "{left:?}");
}

#[tokio::test]
async fn every_format_before_this_one_opens_and_is_kept_as_it_was() {
    for format in 1..super::schema::FORMAT {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("ledger.db");
        super::schema::make_of_format(&path, format, |db| {
            let event =
                "INSERT INTO events (at, kind, repo, slug, data) VALUES (1, 'todo.updated', 'app', 'fix', '{}')";
            db.execute(event, []).expect("writes");
        });
        let store = Store::open(&path).expect("migrates");
        assert_eq!(store.last_seq().await.expect("reads"), 1);
        store.close().await;
        assert_eq!(super::check(&path).expect("is whole").format, super::schema::FORMAT);
        let kept = super::check(&dir.path().join(format!("backups/format-{format}.db"))).expect("is whole");
        assert_eq!((kept.format, kept.end.seq), (format, 1));
    }
}

/// Not a test of right or wrong: prints what a start costs.
#[tokio::test]
async fn opening_costs() {
    let Ok(entries) = std::env::var("LEDGER_ENTRIES") else { return };
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("ledger.db");
    let store = Store::open(&path).expect("opens");
    let entries: u32 = entries.parse().expect("a number");
    let begun = std::time::Instant::now();
    for many in 0..entries / 100 {
        store.commit((0..100).flat_map(|one| opened(many * 100 + one, "fix")).collect()).await.expect("commits");
    }
    println!("written in {:?}", begun.elapsed());
    store.close().await;
    let bytes = std::fs::metadata(&path).expect("is there").len();
    let begun = std::time::Instant::now();
    let store = Store::open(&path).expect("opens");
    println!("{entries} entries and operations, {bytes} bytes, opened in {:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    store.back_up(at(1), 1).expect("backs up");
    println!("backup in {:?}", begun.elapsed());
}
