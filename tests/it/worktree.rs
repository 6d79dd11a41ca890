//! Worktrees: never mistaken, never lost, made again from what is there.

use std::os::unix::fs::symlink;

use futures_util::future::join_all;
use serde_json::{Value, json};
use slugline::actors::faults::Faults;

use crate::harness::{House, Repo, Site, git, git_command, phase, problem, until, write};

async fn ask(house: &House, slug: &str) -> slugline::cli::client::Reply {
    house.work(json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_slugs_worktree_is_never_taken_for_it_nor_touched() {
    let site = Site::new();
    let slugs = ["plain", "file", "link", "clone", "branch", "detached"];
    let repo = site.app(&slugs, "");
    let at = |slug: &str| site.worktree(slug);
    write(&at("plain").join("precious.txt"), "mine");
    write(&at("file"), "mine");
    std::fs::create_dir_all(site.path("elsewhere")).expect("makes");
    symlink(site.path("elsewhere"), at("link")).expect("links");
    Repo::with(at("clone"), &[], "");
    repo.git(&["worktree", "add", "--quiet", "-b", "another", at("branch").to_str().expect("utf-8")]);
    repo.git(&["worktree", "add", "--quiet", "--detach", at("detached").to_str().expect("utf-8")]);
    let before = listing(&site.path("data"));
    let house = site.start(&[&repo]).await;
    for (slug, part) in slugs.iter().zip([
        "plain directory",
        "a file",
        "symbolic link",
        "another repository",
        "on branch another",
        "detached",
    ]) {
        let body = problem(&ask(&house, slug).await, 423, "worktree_foreign");
        let detail = body["detail"].as_str().expect("detail");
        assert!(detail.contains(part) && detail.contains(at(slug).to_str().expect("utf-8")), "{slug}: {detail}");
    }
    house.stop_with_all_kept().await;
    let after: Vec<String> =
        listing(&site.path("data")).into_iter().filter(|path| path.starts_with("worktrees")).collect();
    assert_eq!(before, after);
}

/// Every path below a directory, links not followed.
pub fn listing(dir: &std::path::Path) -> Vec<String> {
    fn walk(dir: &std::path::Path, base: &std::path::Path, all: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            all.push(entry.path().strip_prefix(base).expect("below").display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), base, all);
            }
        }
    }
    let mut all = Vec::new();
    walk(dir, dir, &mut all);
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_directory_comes_back_with_what_was_committed_and_staged() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let worktree = site.worktree("fix");
    write(&worktree.join("committed.txt"), "c");
    git(&worktree, &["add", "--all"]);
    git(&worktree, &["commit", "--quiet", "--message", "work"]);
    write(&worktree.join("staged.txt"), "s");
    git(&worktree, &["add", "--all"]);
    std::fs::remove_dir_all(&worktree).expect("removes");
    let order = house.order("fix").await;
    assert_eq!(phase(&order, "worktree"), "run/recreated");
    assert_eq!(git(&worktree, &["status", "--porcelain"]), "A  staged.txt");
    assert_eq!(std::fs::read_to_string(worktree.join("committed.txt")).expect("is there"), "c");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_registration_is_linked_again_around_the_workers_edits() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let (worktree, away) = (site.worktree("fix"), site.path("away"));
    write(&worktree.join("edit.txt"), "not committed");
    write(&worktree.join("README.md"), "edited");
    std::fs::rename(&worktree, &away).expect("moves");
    repo.git(&["worktree", "prune"]);
    std::fs::rename(&away, &worktree).expect("moves back");
    let order = house.order("fix").await;
    assert_eq!(phase(&order, "worktree"), "run/attached");
    assert_eq!(git(&worktree, &["status", "--porcelain"]), "M README.md\n?? edit.txt");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_without_a_worktree_is_attached_with_its_commits() {
    let site = Site::new();
    let repo = site.app(&["fix"], "[sync]\nmain = \"off\"\n");
    repo.git(&["checkout", "--quiet", "-b", "fix"]);
    repo.write("old.txt", "earlier work");
    let commit = repo.commit("earlier work");
    let house = site.start(&[&repo]).await;
    let elsewhere = problem(&ask(&house, "fix").await, 423, "worktree_foreign");
    assert!(elsewhere["detail"].as_str().is_some_and(|detail| detail.contains("checked out at")), "{elsewhere}");
    repo.git(&["checkout", "--quiet", "main"]);
    let order = house.order("fix").await;
    assert_eq!((phase(&order, "worktree"), &order["worktree"]["head"]), ("run/attached".into(), &json!(commit)));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_todos_at_once_all_get_worktree_brief_and_an_untracked_branch() {
    let site = Site::new();
    let names: Vec<String> = (0..40).map(|number| format!("todo-{number}")).collect();
    let slugs: Vec<&str> = names.iter().map(String::as_str).collect();
    let repo = site.app(&slugs, "");
    repo.git(&["config", "branch.autoSetupMerge", "always"]);
    let house = site.start(&[&repo]).await;
    let orders: Vec<Value> = join_all(slugs.iter().map(|slug| house.order(slug))).await;
    for (slug, order) in slugs.iter().zip(&orders) {
        assert_eq!(order["worktree"]["branch"], *slug);
        assert!(
            site.worktree(slug).join(format!("todos/{slug}/requirements.md")).exists(),
            "{slug} came without its brief"
        );
    }
    assert_eq!(repo.git(&["worktree", "list", "--porcelain"]).matches("worktree ").count(), 41);
    let tracking = git_command(&repo.path, &["config", "--get-regexp", "^branch\\..*\\.(merge|remote)"])
        .output()
        .expect("git starts");
    assert_eq!(String::from_utf8_lossy(&tracking.stdout), "");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worktrees_of_others_stay_registered_through_everything() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let (bystander, unmounted) = (site.path("bystander"), site.path("unmounted"));
    repo.git(&["worktree", "add", "--quiet", "-b", "bystander", bystander.to_str().expect("utf-8")]);
    std::fs::rename(&bystander, &unmounted).expect("unmounts");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    std::fs::remove_dir_all(site.worktree("fix")).expect("removes");
    house.order("fix").await;
    std::fs::rename(&unmounted, &bystander).expect("mounts");
    assert_eq!(git(&bystander, &["branch", "--show-current"]), "bystander");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worktrees_directory_that_vanished_whole_is_refused_and_not_made_again() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    write(&site.worktree("fix").join("mine.txt"), "not committed");
    let (there, away) = (site.path("data/worktrees"), site.path("unmounted"));
    std::fs::rename(&there, &away).expect("unmounts");
    // The lock beside the worktrees makes the directory itself again; the repository's own is what counts.
    let refused = problem(&ask(&house, "fix").await, 423, "worktree_foreign");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("mount")), "{refused}");
    let _ = std::fs::remove_dir_all(&there);
    std::fs::rename(&away, &there).expect("mounts");
    assert_eq!(phase(&house.order("fix").await, "worktree"), "skip/present");
    assert!(site.worktree("fix").join("mine.txt").exists());
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worktree_that_was_only_begun_is_kept_when_whole_and_moved_aside_when_not() {
    let site = Site::new();
    let repo = site.app(&["whole", "half"], "");
    let faults = Faults::at_points(|point| assert_ne!(point, "worktree.made", "made to fail"));
    let house = site.start_with(&[&repo], &[], faults).await;
    for slug in ["whole", "half"] {
        problem(&ask(&house, slug).await, 500, "internal");
    }
    house.stop().await;
    std::fs::remove_file(site.worktree("half").join("README.md")).expect("removes");
    let house = site.start(&[&repo]).await;
    for slug in ["whole", "half"] {
        let order = house.order(slug).await;
        assert_eq!(phase(&order, "worktree"), "run/recreated", "{slug}");
        assert_eq!(git(&site.worktree(slug), &["status", "--porcelain"]), "", "{slug}");
    }
    let aside: Vec<_> =
        std::fs::read_dir(site.path("data/worktrees/.trash/app")).expect("something was moved aside").collect();
    assert_eq!(aside.len(), 1);
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_never_makes_a_workers_git_fail() {
    let site = Site::new();
    let repo = site.app(&["fix"], "[[gates]]\nname = \"g\"\ncommand = \"true\"\n");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let worktree = site.worktree("fix");
    let worker = tokio::task::spawn_blocking(move || {
        for number in 0..40 {
            write(&worktree.join("work.txt"), &number.to_string());
            git(&worktree, &["add", "work.txt"]);
            git(&worktree, &["commit", "--quiet", "--message", "step"]);
        }
    });
    until("the worker to be done", || async {
        let reply = ask(&house, "fix").await;
        assert!(reply.status == 200 || reply.json()["retryable"] == true, "{}", reply.text());
        worker.is_finished().then_some(())
    })
    .await;
    worker.await.expect("every git of the worker succeeded");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_variables_the_daemon_inherits_reach_no_repository() {
    let site = Site::new();
    let (repo, decoy) =
        (site.app(&["fix"], "[prepare]\ncommand = \"env > env.out\"\n"), Repo::with(site.path("decoy"), &[], ""));
    let (config, head) =
        (std::fs::read(decoy.path.join(".git/config")).expect("reads"), decoy.git(&["rev-parse", "HEAD"]));
    let vars = [
        ("GIT_DIR", decoy.path.join(".git")),
        ("GIT_WORK_TREE", decoy.path.clone()),
        ("GIT_INDEX_FILE", decoy.path.join(".git/index")),
    ];
    let daemon = site.spawn_with(&[&repo], &vars).await;
    let reply = daemon
        .client
        .post("/todos/work", &json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 }))
        .await
        .expect("answers");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let env = std::fs::read_to_string(site.worktree("fix").join("env.out")).expect("prepare ran in the worktree");
    // The one that is there is ours: nobody can be asked for a password.
    let others: Vec<_> =
        env.lines().filter(|line| line.starts_with("GIT_") && *line != "GIT_TERMINAL_PROMPT=0").collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(
        (std::fs::read(decoy.path.join(".git/config")).expect("reads"), decoy.git(&["rev-parse", "HEAD"])),
        (config, head)
    );
    assert_eq!(repo.git(&["config", "core.bare"]), "false");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_registration_that_somebody_left_is_in_nobodys_way() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    std::fs::create_dir_all(repo.path.join(".git/worktrees/fix")).expect("makes");
    let house = site.start(&[&repo]).await;
    for _ in 0..2 {
        house.order("fix").await;
        assert_eq!(git(&site.worktree("fix"), &["branch", "--show-current"]), "fix");
    }
    house.stop_with_all_kept().await;
}
