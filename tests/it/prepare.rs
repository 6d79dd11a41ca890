//! Preparing: once, when needed, and never taken for done when it is not.

use serde_json::json;

use crate::harness::{Site, git, lines, phase, problem, write};

type Drift<'a> = (&'a str, Box<dyn Fn() + 'a>);

/// A prepare that notes each run outside the worktree and makes an output.
fn settings(site: &Site) -> String {
    format!(
        "[prepare]\ncommand = \"echo run >> {}/runs; mkdir -p out; test ! -e fail\"\ninputs = [\"a.lock\", \"fail\", \"prepare.sh\"]\noutputs = [\"out\"]\n",
        site.path("").display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_call_with_nothing_changed_prepares_nothing() {
    let site = Site::new();
    let repo = site.app(&["fix"], &settings(&site));
    let house = site.start(&[&repo]).await;
    let first = house.order("fix").await;
    assert_eq!(
        (phase(&first, "worktree"), phase(&first, "prepare")),
        ("run/created".into(), "run/worktree_created".into())
    );
    let second = house.order("fix").await;
    for (name, wanted) in [
        ("resolve", "skip/base_unchanged"),
        ("worktree", "skip/present"),
        ("prepare", "skip/inputs_unchanged"),
        ("sync_main", "skip/up_to_date"),
        ("sync_todo", "skip/unchanged"),
        ("gates", "skip/not_due"),
        ("dispatch", "skip/held"),
    ] {
        assert_eq!(phase(&second, name), wanted, "{name}");
    }
    assert_eq!(second["claim"]["guard"], "duplicate_claim_guard");
    assert_eq!(lines(&site.path("runs")), 1);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_drift_prepares_again_and_only_once() {
    let site = Site::new();
    let repo = site.app(&["fix"], &settings(&site));
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let worktree = site.worktree("fix");
    let drifts: [Drift; 3] = [
        ("run/inputs_changed", Box::new(|| write(&worktree.join("a.lock"), "edited"))),
        ("run/outputs_missing", Box::new(|| std::fs::remove_dir(worktree.join("out")).expect("removes"))),
        ("run/inputs_changed", Box::new(|| write(&worktree.join("prepare.sh"), "changed"))),
    ];
    for (index, (wanted, drift)) in drifts.iter().enumerate() {
        drift();
        assert_eq!(phase(&house.order("fix").await, "prepare"), *wanted, "drift {index}");
        assert_eq!(phase(&house.order("fix").await, "prepare"), "skip/inputs_unchanged", "after drift {index}");
        assert_eq!(lines(&site.path("runs")), index + 2);
    }
    let refreshed = house.work(json!({ "lane": "builder", "slug": "fix", "refresh": true, "wait_ms": 45_000 })).await;
    assert_eq!(phase(&refreshed.json(), "prepare"), "run/refresh_requested");
    assert_eq!(phase(&house.order("fix").await, "prepare"), "skip/inputs_unchanged");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worktree_that_is_made_again_is_prepared_again() {
    let site = Site::new();
    let repo = site.app(&["fix"], &settings(&site));
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    std::fs::remove_dir_all(site.worktree("fix")).expect("removes");
    let again = house.order("fix").await;
    assert_eq!(
        (phase(&again, "worktree"), phase(&again, "prepare")),
        ("run/recreated".into(), "run/worktree_created".into())
    );
    assert_eq!(lines(&site.path("runs")), 2);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_prepare_is_never_taken_for_known_good() {
    let site = Site::new();
    let repo = site.app(&["fix"], &settings(&site));
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let fail = site.worktree("fix").join("fail");
    write(&fail, "");
    let reply = house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await;
    let failed = problem(&reply, 422, "prepare_failed");
    assert_eq!(failed["exit_code"], 1);
    assert!(failed["claim"]["token"].is_u64() && failed["operation"].is_string(), "{failed}");
    // Inputs are what they were when it was good, but the last attempt was not.
    std::fs::remove_file(fail).expect("removes");
    assert_eq!(phase(&house.order("fix").await, "prepare"), "run/last_attempt_failed");
    assert_eq!(lines(&site.path("runs")), 3);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_writes_its_own_lock_file_runs_once() {
    let site = Site::new();
    let command = format!("echo run >> {}/runs; echo resolved > a.lock", site.path("").display());
    let repo = site.app(&["fix"], &format!("[prepare]\ncommand = \"{command}\"\ninputs = [\"a.lock\"]\n"));
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    for _ in 0..2 {
        assert_eq!(phase(&house.order("fix").await, "prepare"), "skip/inputs_unchanged");
    }
    // An edit of what it wrote is still an edit.
    write(&site.worktree("fix").join("a.lock"), "edited\n");
    assert_eq!(phase(&house.order("fix").await, "prepare"), "run/inputs_changed");
    assert_eq!(lines(&site.path("runs")), 2);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preparing_leaves_the_work_tree_clean() {
    let site = Site::new();
    let repo = site.app(&["fix"], "[prepare]\ncommand = \"true\"\n[[gates]]\nname = \"g\"\ncommand = \"true\"\n");
    let house = site.start(&[&repo]).await;
    let order = house.order("fix").await;
    assert_eq!((phase(&order, "gates"), &order["worktree"]["dirty"]), ("run/passed".into(), &json!(false)));
    assert_eq!(git(&site.worktree("fix"), &["status", "--porcelain", "--ignored"]), "");
    house.stop().await;
}
