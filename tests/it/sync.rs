//! Syncing: the base comes in when nothing is in its way, conflicts are named and undone, a worker's edits stay.

use serde_json::json;

use crate::harness::{House, Site, git, lines, phase, problem, until, write};

async fn ask(house: &House) -> slugline::cli::client::Reply {
    house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await
}

fn commit(worktree: &std::path::Path, file: &str, content: &str) {
    write(&worktree.join(file), content);
    git(worktree, &["add", "--all"]);
    git(worktree, &["commit", "--quiet", "--message", "work"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_base_is_merged_and_prepares_again_only_when_inputs_came_along() {
    let site = Site::new();
    let repo = site.app(
        &["fix"],
        &format!("[prepare]\ncommand = \"echo run >> {}/runs\"\ninputs = [\"a.lock\"]\n", site.path("").display()),
    );
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    commit(&site.worktree("fix"), "own.txt", "own work");
    repo.write("other.txt", "new on the base");
    repo.commit("other");
    let merged = house.order("fix").await;
    assert_eq!(
        (phase(&merged, "sync_main"), phase(&merged, "prepare")),
        ("run/behind".into(), "skip/inputs_unchanged".into())
    );
    repo.write("a.lock", "1");
    let base = repo.commit("lock");
    let prepared = house.order("fix").await;
    assert_eq!(
        (phase(&prepared, "sync_main"), phase(&prepared, "prepare")),
        ("run/behind".into(), "run/inputs_changed".into())
    );
    assert_eq!(lines(&site.path("runs")), 2);
    git(&site.worktree("fix"), &["merge-base", "--is-ancestor", &base, "HEAD"]);
    assert_eq!(phase(&house.order("fix").await, "sync_main"), "skip/up_to_date");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_moves_while_a_run_is_on_is_for_the_next_call_and_is_prepared_with_then() {
    let site = Site::new();
    let (begun, go) = (site.path("begun"), site.path("go"));
    let settings = format!(
        "[prepare]\ncommand = \"cat a.lock >> {}; touch {}; until test -e {}; do sleep 0.02; done\"\ninputs = [\"a.lock\"]\n",
        site.path("prepared").display(),
        begun.display(),
        go.display()
    );
    let repo = site.app(&["fix"], &settings);
    repo.write("a.lock", "first\n");
    repo.commit("lock");
    let house = site.start(&[&repo]).await;
    let first = tokio::join!(house.order("fix"), async {
        until("the run to prepare", || async { begun.exists().then_some(()) }).await;
        repo.write("a.lock", "second\n");
        repo.commit("the base moves");
        write(&go, "");
    })
    .0;
    assert_eq!(
        (phase(&first, "sync_main"), phase(&first, "prepare")),
        ("skip/up_to_date".into(), "run/worktree_created".into())
    );
    let here = || std::fs::read_to_string(site.worktree("fix").join("a.lock")).expect("is there");
    assert_eq!(here(), "first\n", "a base came in that nothing was prepared with");
    let second = house.order("fix").await;
    assert_eq!(
        (phase(&second, "sync_main"), phase(&second, "prepare")),
        ("run/behind".into(), "run/inputs_changed".into())
    );
    assert_eq!((here(), lines(&site.path("prepared"))), ("second\n".into(), 2));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_changes_leave_the_base_out_for_now_and_are_not_called_a_conflict() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let worktree = site.worktree("fix");
    write(&worktree.join("state.txt"), "not committed");
    repo.write("other.txt", "x");
    repo.commit("other");
    for _ in 0..2 {
        assert_eq!(phase(&house.order("fix").await, "sync_main"), "skip/local_changes");
    }
    assert!(!worktree.join("other.txt").exists());
    commit(&worktree, "state.txt", "committed");
    until("the base to be merged once the tree is clean", || async {
        (phase(&house.order("fix").await, "sync_main") == "run/behind").then_some(())
    })
    .await;
    assert!(worktree.join("other.txt").exists() && worktree.join("state.txt").exists());
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_named_leaves_everything_as_it_was_and_is_known_the_next_time() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let worktree = site.worktree("fix");
    commit(&worktree, "README.md", "the worker's\n");
    let head = git(&worktree, &["rev-parse", "HEAD"]);
    repo.write("README.md", "the base's\n");
    repo.commit("readme");
    let first = problem(&ask(&house).await, 409, "merge_conflict");
    assert_eq!(first["files"], json!(["README.md"]));
    assert_eq!(
        (git(&worktree, &["rev-parse", "HEAD"]), git(&worktree, &["status", "--porcelain"])),
        (head, String::new())
    );
    let second = problem(&ask(&house).await, 409, "merge_conflict");
    assert_eq!(
        (&second["files"], &second["operation"]),
        (&json!(["README.md"]), &json!(null)),
        "a known conflict needs no run"
    );
    let merge = crate::harness::git_command(&worktree, &["merge", "--quiet", "main"]).status().expect("git starts");
    assert!(!merge.success());
    commit(&worktree, "README.md", "both\n");
    assert_eq!(phase(&house.order("fix").await, "sync_main"), "skip/up_to_date");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_decides_between_merge_rebase_forward_only_and_off() {
    for (mode, own_commit, wanted) in
        [("rebase", true, "run/behind"), ("ff-only", false, "run/behind"), ("off", true, "skip/disabled")]
    {
        let site = Site::new();
        let repo = site.app(&["fix"], &format!("[sync]\nmain = \"{mode}\"\n"));
        let house = site.start(&[&repo]).await;
        house.order("fix").await;
        let worktree = site.worktree("fix");
        if own_commit {
            commit(&worktree, "own.txt", "x");
        }
        repo.write("other.txt", "x");
        repo.commit("other");
        let order = house.order("fix").await;
        assert_eq!(phase(&order, "sync_main"), wanted, "{mode}");
        assert_eq!(git(&worktree, &["rev-list", "--merges", "HEAD"]), "", "{mode} makes no merge");
        assert_eq!(worktree.join("other.txt").exists(), mode != "off", "{mode}");
        if mode == "ff-only" {
            commit(&worktree, "own.txt", "x");
            repo.write("more.txt", "x");
            repo.commit("more");
            assert_eq!(problem(&ask(&house).await, 409, "merge_conflict")["files"], json!([]));
        }
        house.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_file_in_the_way_of_the_base_is_named_and_kept() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    repo.write(".gitignore", "secret.env\n");
    repo.commit("ignore");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let secret = site.worktree("fix").join("secret.env");
    write(&secret, "the worker's secret");
    repo.write("secret.env", "the base's");
    repo.git(&["add", "--force", "secret.env"]);
    repo.commit("tracked now");
    let body = problem(&ask(&house).await, 409, "local_changes");
    assert_eq!(body["files"], json!(["secret.env"]));
    assert_eq!(std::fs::read_to_string(secret).expect("is there"), "the worker's secret");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_ticks_stay_while_the_bases_other_edits_arrive() {
    let site = Site::new();
    let repo = site.app(&["fix"], "[sync]\nmain = \"off\"\n");
    repo.write("todos/fix/plan.md", "- [ ] one\n");
    repo.write("todos/fix/gone.md", "will go\n");
    repo.commit("plan");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let brief = |file: &str| std::fs::read_to_string(site.worktree("fix").join("todos/fix").join(file)).ok();
    write(&site.worktree("fix").join("todos/fix/plan.md"), "- [x] one\n");
    repo.write("todos/fix/plan.md", "- [ ] one\n- [ ] two\n");
    repo.write("todos/fix/requirements.md", "# other words\n");
    repo.write("todos/fix/new.md", "new\n");
    std::fs::remove_file(repo.path.join("todos/fix/gone.md")).expect("removes");
    repo.commit("edits");
    let order = house.order("fix").await;
    assert_eq!(phase(&order, "sync_todo"), "run/kept_local");
    assert_eq!(
        (
            brief("plan.md").as_deref(),
            brief("requirements.md").as_deref(),
            brief("new.md").as_deref(),
            brief("gone.md")
        ),
        (Some("- [x] one\n"), Some("# other words\n"), Some("new\n"), None)
    );
    assert_eq!(phase(&house.order("fix").await, "sync_todo"), "skip/kept_local");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brief_files_we_brought_in_do_not_block_the_next_merge() {
    let site = Site::new();
    let repo = site.app(&["fix"], "[sync]\nmain = \"off\"\n");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    repo.write("todos/fix/requirements.md", "# second words\n");
    repo.write("todos/fix/new.md", "new\n");
    repo.commit("edits");
    assert_eq!(phase(&house.order("fix").await, "sync_todo"), "run/changed");
    repo.write(".slugline.toml", "[sync]\nmain = \"merge\"\n");
    repo.commit("merge from now on");
    let order = house.order("fix").await;
    assert_eq!(phase(&order, "sync_main"), "run/behind");
    assert_eq!(git(&site.worktree("fix"), &["status", "--porcelain"]), "");
    assert_eq!(phase(&house.order("fix").await, "sync_todo"), "skip/unchanged");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_git_lock_is_removed_only_when_it_is_provably_nobodys() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let lock = repo.path.join(".git/worktrees/fix/index.lock");
    write(&lock, "");
    let held = std::fs::File::options().write(true).open(&lock).expect("opens");
    held.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(300)).expect("ages it");
    repo.write("other.txt", "x");
    repo.commit("other");
    // Old, but a living process has it open: left alone, and said.
    let body = problem(&ask(&house).await, 503, "lock_timeout");
    assert!(body["detail"].as_str().is_some_and(|detail| detail.contains("index.lock")), "{body}");
    assert!(lock.exists());
    drop(held);
    assert_eq!(phase(&house.order("fix").await, "sync_main"), "run/behind");
    assert!(!lock.exists() && site.worktree("fix").join("other.txt").exists());
    house.stop_with_all_kept().await;
}
