//! What agents plant in the shared repository is never run by the daemon, and leads it nowhere.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::harness::{Repo, Site, git, phase, problem, write};
use serde_json::json;

fn executable(file: &Path, text: &str) {
    write(file, text);
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("mode");
}

/// Plants programs wherever git's configuration can name one; each would leave a canary.
fn plant(repo: &Repo, canary: &Path) {
    let git_dir = repo.path.join(".git");
    let run = format!("echo $0 >> {}", canary.display());
    for hook in [
        "post-checkout",
        "post-merge",
        "post-rewrite",
        "pre-rebase",
        "pre-merge-commit",
        "commit-msg",
        "prepare-commit-msg",
        "pre-commit",
        "post-commit",
        "reference-transaction",
        "post-index-change",
    ] {
        executable(&git_dir.join("hooks").join(hook), &format!("#!/bin/sh\n{run}\n"));
    }
    let program = git_dir.join("planted.sh");
    executable(&program, &format!("#!/bin/sh\n{run}\ncat\n"));
    let program = program.display();
    let planted = format!(
        "[core]\n\tfsmonitor = {program}\n\tsshCommand = {program}\n\teditor = {program}\n\tpager = {program}\n\taskPass = {program}\n\
         [filter \"evil\"]\n\tclean = {program}\n\tsmudge = {program}\n\tprocess = {program}\n\trequired = true\n\
         [merge \"evil\"]\n\tdriver = {program}\n[diff \"evil\"]\n\ttextconv = {program}\n\tcommand = {program}\n[diff]\n\texternal = {program}\n\
         [gpg]\n\tprogram = {program}\n[commit]\n\tgpgSign = true\n[credential]\n\thelper = {program}\n[sequence]\n\teditor = {program}\n[alias]\n\tmerge = !{program}\n"
    );
    write(&git_dir.join("planted.cfg"), &planted);
    let mut config = std::fs::read_to_string(git_dir.join("config")).expect("reads");
    config.push_str(&planted);
    config.push_str("[include]\n\tpath = planted.cfg\n[includeIf \"onbranch:**\"]\n\tpath = planted-branch.cfg\n");
    write(&git_dir.join("planted-branch.cfg"), &planted.replace("evil", "evil2"));
    std::fs::write(git_dir.join("config"), config).expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_planted_runs_through_create_merge_rebase_recreate_relink_or_attach() {
    for mode in ["merge", "rebase"] {
        let site = Site::new();
        let repo = site.app(&["fix", "old"], &format!("[sync]\nmain = \"{mode}\"\n"));
        repo.write(".gitattributes", "*.txt filter=evil merge=evil diff=evil\n*.md filter=evil2 merge=evil2\n");
        repo.write("a.txt", "a\n");
        repo.commit("attributes");
        repo.git(&["branch", "old"]);
        repo.write("c.txt", "c\n");
        repo.commit("more");
        let canary = site.path("canary");
        let moved = repo.git(&["commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "base moves"]);
        repo.write("b.txt", "b\n");
        repo.commit("another");
        plant(&repo, &canary);
        let house = site.start(&[&repo]).await;
        let created = house.order("fix").await;
        assert_eq!(phase(&created, "worktree"), "run/created");
        assert_eq!(phase(&house.order("old").await, "worktree"), "run/attached");
        // The base moves without any git of ours that could run what is planted.
        let tip = site.path("app/.git/refs/heads/main");
        let base = std::fs::read_to_string(&tip).expect("a loose ref");
        drop(moved);
        let next = hermetic(
            &repo.path,
            &["commit-tree", &format!("{}^{{tree}}", base.trim()), "-p", base.trim(), "-m", "base moves"],
        );
        std::fs::write(&tip, format!("{next}\n")).expect("moves the base");
        assert_eq!(phase(&house.order("fix").await, "sync_main"), "run/behind");
        std::fs::remove_dir_all(site.worktree("fix")).expect("removes");
        assert_eq!(phase(&house.order("fix").await, "worktree"), "run/recreated");
        std::fs::remove_dir_all(site.path("app/.git/worktrees/fix")).expect("loses its registration");
        assert_eq!(phase(&house.order("fix").await, "worktree"), "run/attached");
        let ran = std::fs::read_to_string(&canary).unwrap_or_default();
        assert_eq!(ran, "", "{mode}: something planted was run");
        assert_eq!(std::fs::read_to_string(site.worktree("fix").join("a.txt")).expect("is there"), "a\n");
        house.stop().await;
    }
}

/// git with nothing of the repository's configuration that could run.
fn hermetic(dir: &Path, args: &[&str]) -> String {
    let safe = ["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "commit.gpgSign=false"];
    git(dir, &[&safe[..], args].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brief_behind_a_planted_link_is_not_written_through_it() {
    let site = Site::new();
    let repo = site.app(&["fix"], "[sync]\nmain = \"off\"\n");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let (brief, outside) = (site.worktree("fix").join("todos/fix"), site.path("outside"));
    std::fs::create_dir_all(&outside).expect("makes");
    std::fs::remove_dir_all(&brief).expect("removes");
    symlink(&outside, &brief).expect("links");
    repo.write("todos/fix/requirements.md", "# new words\n");
    repo.commit("edit");
    assert_eq!(phase(&house.order("fix").await, "sync_todo"), "run/kept_local");
    assert_eq!(std::fs::read_dir(outside).expect("reads").count(), 0);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worktree_whose_link_was_bent_elsewhere_is_refused() {
    let site = Site::new();
    let (repo, other) = (site.app(&["fix"], ""), Repo::with(site.path("other"), &[], ""));
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    write(&site.worktree("fix").join(".git"), &format!("gitdir: {}/.git\n", other.path.display()));
    let reply = house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await;
    problem(&reply, 423, "worktree_foreign");
    house.stop().await;
}
