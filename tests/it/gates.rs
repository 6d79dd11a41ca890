//! Gates: judged once per tree, never on a branch's own terms, never left half dead.

use serde_json::json;

use crate::harness::{House, Site, git, lines, phase, problem, until, write};

fn gate(site: &Site, command: &str) -> String {
    format!(
        "[[gates]]\nname = \"check\"\ncommand = \"echo run >> {}/gates; {command}\"\ntimeout_ms = 20000\n",
        site.path("").display()
    )
}

async fn ask(house: &House, slug: &str) -> slugline::cli::client::Reply {
    house.work(json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_work_calls_on_one_commit_run_the_gates_once() {
    let site = Site::new();
    let repo = site.app(&["fix", "other"], &gate(&site, "test -f README.md"));
    let house = site.start(&[&repo]).await;
    let first = house.order("fix").await;
    assert_eq!(phase(&first, "gates"), "run/passed");
    for _ in 0..2 {
        assert_eq!(phase(&house.order("fix").await, "gates"), "skip/same_tree");
    }
    assert_eq!(lines(&site.path("gates")), 1);
    // Another slug on the same tree, in the same environment: the verdict holds for it too.
    assert_eq!(phase(&house.order("other").await, "gates"), "skip/same_tree");
    assert_eq!(lines(&site.path("gates")), 1);
    // What was judged is on record, with everything that lets one find out why.
    let events = house.handle.context().ledger.store().expect("open").events(0, 1_000).await.expect("reads");
    let verdict = events.iter().find(|event| event.data["gate"] == "check").expect("recorded");
    assert_eq!((&verdict.data["exit_code"], &verdict.data["commit"]), (&json!(0), &first["worktree"]["head"]));
    assert!(
        verdict.data["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0)
            && verdict.data["operation"] == first["operation"]
    );
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_red_gate_is_never_used_again() {
    let site = Site::new();
    let repo = site.app(&["fix"], &gate(&site, "echo this is why; exit 3"));
    let house = site.start(&[&repo]).await;
    for round in 1..=2 {
        let red = problem(&ask(&house, "fix").await, 422, "gate_failed");
        assert_eq!((&red["exit_code"], &red["name"]), (&json!(3), &json!("check")));
        assert!(red["tail"].as_str().is_some_and(|tail| tail.contains("this is why")), "{red}");
        assert_eq!(lines(&site.path("gates")), round);
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_edits_its_own_gates_is_judged_by_those_of_the_base() {
    let site = Site::new();
    let repo = site.app(&["fix"], &gate(&site, "test ! -e broken"));
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let worktree = site.worktree("fix");
    write(&worktree.join(".slugline.toml"), "[[gates]]\nname = \"check\"\ncommand = \"true\"\n");
    write(&worktree.join("broken"), "");
    git(&worktree, &["add", "--all"]);
    git(&worktree, &["commit", "--quiet", "--message", "weaken the gates"]);
    problem(&ask(&house, "fix").await, 422, "gate_failed");
    assert_eq!(lines(&site.path("gates")), 2);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_committed_is_judged_and_an_old_tree_keeps_its_verdict() {
    let site = Site::new();
    let repo = site.app(&["fix"], &gate(&site, "true"));
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let worktree = site.worktree("fix");
    write(&worktree.join("new.txt"), "x");
    git(&worktree, &["add", "--all"]);
    git(&worktree, &["commit", "--quiet", "--message", "new"]);
    write(&worktree.join("loose.txt"), "not committed");
    assert_eq!(phase(&house.order("fix").await, "gates"), "skip/not_due");
    std::fs::remove_file(worktree.join("loose.txt")).expect("removes");
    // The look through the work tree is renewed behind the answers; then the new commit is judged.
    until("the new commit to be judged", || async {
        let order = house.order("fix").await;
        (phase(&order, "gates") == "run/passed").then_some(())
    })
    .await;
    assert_eq!(lines(&site.path("gates")), 2);
    git(&worktree, &["reset", "--quiet", "--hard", "HEAD~1"]);
    assert_eq!(phase(&house.order("fix").await, "gates"), "skip/same_tree");
    assert_eq!(lines(&site.path("gates")), 2);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_changed_on_the_base_is_due_again() {
    let site = Site::new();
    let repo = site.app(&["fix"], &format!("{}[sync]\nmain = \"off\"\n", gate(&site, "true")));
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    repo.write(".slugline.toml", &format!("{}[sync]\nmain = \"off\"\n", gate(&site, "true; true")));
    repo.commit("another gate");
    let order = house.order("fix").await;
    assert_eq!((phase(&order, "gates"), phase(&order, "sync_main")), ("run/passed".into(), "skip/disabled".into()));
    house.stop().await;
}

/// Processes whose command line has this word.
fn processes_with(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).split('\0').any(|part| part == word))
        })
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_out_of_time_leaves_no_process_behind() {
    let site = Site::new();
    // A length nobody else sleeps for, to know the processes by.
    let length = format!("{}.5", 700_000 + std::process::id());
    let command =
        format!("(setsid sh -c 'trap : TERM; sleep {length}; sleep {length}' & nohup sleep {length} & sleep {length})");
    let settings = format!("[[gates]]\nname = \"slow\"\ncommand = \"{command}\"\ntimeout_ms = 400\n");
    let repo = site.app(&["fix"], &settings);
    let house = site.start(&[&repo]).await;
    let late = problem(&ask(&house, "fix").await, 504, "deadline_exceeded");
    assert_eq!(late["name"], "slow");
    assert_eq!(processes_with(&length), 0);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_on_a_tree_that_was_changed_meanwhile_does_not_count() {
    let site = Site::new();
    let repo = site.app(&["fix"], &gate(&site, "echo changed >> README.md"));
    let house = site.start(&[&repo]).await;
    let red = problem(&ask(&house, "fix").await, 422, "gate_failed");
    assert!(red["detail"].as_str().is_some_and(|detail| detail.contains("changed while it ran")), "{red}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_can_be_told_not_to_be_used_again() {
    let site = Site::new();
    let repo = site.app(&["fix"], &format!("{}[verdicts]\nreuse_passed = false\n", gate(&site, "true")));
    let house = site.start(&[&repo]).await;
    for round in 1..=3 {
        assert_eq!(phase(&house.order("fix").await, "gates"), "run/passed");
        assert_eq!(lines(&site.path("gates")), round);
    }
    house.stop().await;
}
