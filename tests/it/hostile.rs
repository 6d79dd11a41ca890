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
    // Read by nobody but git's own uploading side, and by whoever fetches.
    let origin = format!(
        "[uploadpack]\n\tpackObjectsHook = {program}\n[hook \"evil\"]\n\tcommand = {program}\n\tevent = post-checkout\n[core]\n\tgitProxy = {program}\n\talternateRefsCommand = {program}\n[protocol]\n\tallow = always\n[protocol \"ext\"]\n\tallow = always\n[gpg \"ssh\"]\n\tdefaultKeyCommand = {program}\n[submodule]\n\trecurse = true\n"
    );
    let planted = format!(
        "{origin}[core]\n\tfsmonitor = {program}\n\tsshCommand = {program}\n\teditor = {program}\n\tpager = {program}\n\taskPass = {program}\n\
         [filter \"evil\"]\n\tclean = {program}\n\tsmudge = {program}\n\tprocess = {program}\n\trequired = true\n\
         [merge \"evil\"]\n\tdriver = {program}\n[diff \"evil\"]\n\ttextconv = {program}\n\tcommand = {program}\n[diff]\n\texternal = {program}\n\
         [gpg]\n\tprogram = {program}\n[commit]\n\tgpgSign = true\n[credential]\n\thelper = {program}\n[sequence]\n\teditor = {program}\n[alias]\n\tmerge = !{program}\n"
    );
    write(&git_dir.join("planted.cfg"), &planted);
    let mut config = std::fs::read_to_string(git_dir.join("config")).expect("reads");
    config.push_str(&planted);
    config.push_str("[include]\n\tpath = planted.cfg\n[includeIf \"onbranch:**\"]\n\tpath = planted-branch.cfg\n");
    write(&git_dir.join("planted-branch.cfg"), &planted.replace("evil", "evil2"));
    config.push_str("[extensions]\n\tworktreeConfig = true\n");
    std::fs::write(git_dir.join("config"), config).expect("writes");
    write(&git_dir.join("config.worktree"), &planted);
    write(&git_dir.join("info/attributes"), "* filter=evil merge=evil diff=evil\n");
}

/// Plants the same in the registration of a worktree that is there, and leads its work tree out of the site.
fn plant_in_worktree(repo: &Repo, slug: &str, outside: &Path) {
    let config = std::fs::read_to_string(repo.path.join(".git/config.worktree")).expect("planted");
    let elsewhere = format!(
        "{config}[core]\n\tworktree = {}\n\thooksPath = {}/hooks\n",
        outside.display(),
        repo.path.join(".git").display()
    );
    write(&repo.path.join(".git/worktrees").join(slug).join("config.worktree"), &elsewhere);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_planted_runs_through_create_merge_rebase_recreate_relink_or_attach() {
    for mode in ["merge", "rebase", "ff-only"] {
        let site = Site::new();
        let gate = "[[gates]]\nname = \"g\"\ncommand = \"true\"\n";
        let repo = site.app(&["fix", "old", "beside"], &format!("[sync]\nmain = \"{mode}\"\n{gate}"));
        repo.write(".gitattributes", "*.txt filter=evil merge=evil diff=evil\n*.md filter=evil2 merge=evil2\n");
        repo.write("a.txt", "a\n");
        repo.commit("attributes");
        repo.git(&["branch", "old"]);
        repo.git(&["worktree", "add", "--quiet", "--detach", site.worktree("apart").to_str().expect("utf-8"), "old"]);
        repo.write("c.txt", "c\n");
        repo.commit("more");
        let (canary, outside) = (site.path("canary"), site.path("outside"));
        write(&outside.join("precious.txt"), "mine");
        let moved = repo.git(&["commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "base moves"]);
        repo.write("b.txt", "b\n");
        repo.commit("another");
        let house = site.start(&[&repo]).await;
        house.begun("beside").await;
        plant(&repo, &canary);
        let created = house.order("fix").await;
        assert_eq!(phase(&created, "worktree"), "run/created");
        assert_eq!(phase(&house.order("old").await, "worktree"), "run/attached");
        plant_in_worktree(&repo, "fix", &outside);
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
        plant_in_worktree(&repo, "fix", &outside);
        // Lists, asks git where only git can tell, and removes what may be removed.
        write(&site.worktree("old").join("d.txt"), "d\n");
        let list = house.client.get("/worktrees?wait_ms=20000").await.expect("answers").json();
        assert_eq!(list.as_array().map(Vec::len), Some(5), "{list}");
        house.client.get("/worktrees/app/old").await.expect("answers");
        plant_in_worktree(&repo, "apart", &outside);
        let removed = house.client.delete("/worktrees/app/apart").await.expect("answers");
        assert_eq!(removed.status, 200, "{}", removed.text());
        let ran = std::fs::read_to_string(&canary).unwrap_or_default();
        assert_eq!(ran, "", "{mode}: something planted was run");
        assert_eq!(std::fs::read_to_string(site.worktree("fix").join("a.txt")).expect("is there"), "a\n");
        let left: Vec<_> =
            std::fs::read_dir(&outside).expect("lists").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["precious.txt"], "{mode}: something was written outside");
        house.stop_with_all_kept().await;
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
    let repo = site.app(&["fix", "beside"], "[sync]\nmain = \"off\"\n");
    let house = site.start(&[&repo]).await;
    house.begun("beside").await;
    house.order("fix").await;
    let (brief, outside) = (site.worktree("fix").join("todos/fix"), site.path("outside"));
    std::fs::create_dir_all(&outside).expect("makes");
    std::fs::remove_dir_all(&brief).expect("removes");
    symlink(&outside, &brief).expect("links");
    repo.write("todos/fix/requirements.md", "# new words\n");
    repo.commit("edit");
    assert_eq!(phase(&house.order("fix").await, "sync_todo"), "run/kept_local");
    assert_eq!(std::fs::read_dir(outside).expect("reads").count(), 0);
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worktree_whose_link_was_bent_elsewhere_is_refused() {
    let site = Site::new();
    let (repo, other) = (site.app(&["fix", "beside"], ""), Repo::with(site.path("other"), &[], ""));
    let house = site.start(&[&repo]).await;
    house.begun("beside").await;
    house.order("fix").await;
    write(&site.worktree("fix").join(".git"), &format!("gitdir: {}/.git\n", other.path.display()));
    let reply = house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await;
    problem(&reply, 423, "worktree_foreign");
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submodule_with_a_configuration_of_its_own_runs_nothing_when_its_worktree_is_looked_at() {
    let site = Site::new();
    let repo = site.app(&["fix", "beside"], "");
    let house = site.start(&[&repo]).await;
    house.begun("beside").await;
    house.order("fix").await;
    let (worktree, canary, program) = (site.worktree("fix"), site.path("canary"), site.path("planted.sh"));
    executable(&program, &format!("#!/bin/sh\necho $0 >> {}\n", canary.display()));
    let inside = Repo::with(worktree.join("sub"), &[], "");
    git(&worktree, &["-c", "advice.addEmbeddedRepo=false", "add", "sub"]);
    git(&worktree, &["commit", "--quiet", "--message", "a submodule"]);
    inside.git(&["config", "core.fsmonitor", program.to_str().expect("utf-8")]);
    inside.git(&["config", "filter.evil.clean", program.to_str().expect("utf-8")]);
    write(&inside.path.join(".git/info/attributes"), "* filter=evil\n");
    // As long as it was, so that only its content can tell.
    inside.write("README.md", "READ ME\n");
    let list = house.client.get("/worktrees?wait_ms=20000").await.expect("answers").json();
    let row = list.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "fix")).cloned();
    assert_eq!(row.expect("is listed")["state"], "fresh", "{list}");
    house.order("fix").await;
    assert!(!canary.exists(), "git ran in the submodule as the submodule said");
    house.client.post("/todos/app/fix/release", &json!({ "lane": "builder" })).await.expect("answers");
    let refused = house.client.delete("/worktrees/app/fix").await.expect("answers");
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("submodule") && !canary.exists(), "{}", refused.text());
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_writes_through_no_link_that_somebody_put_where_it_writes() {
    let site = Site::new();
    let repo = site.app(&["fix", "beside"], "");
    let house = site.start(&[&repo]).await;
    house.begun("beside").await;
    house.order("fix").await;
    let (outside, common) = (site.path("outside"), repo.path.join(".git"));
    write(&outside.join("file"), "mine\n");
    std::fs::create_dir_all(outside.join("dir")).expect("makes");
    let before = crate::worktree::listing(&outside);
    for (number, (at, to)) in [
        ("worktrees/fix/MERGE_MSG", "file"),
        ("worktrees/fix/AUTO_MERGE", "file"),
        ("logs/refs/heads/fix", "file"),
        ("logs/refs/heads", "dir"),
        ("objects/info", "dir"),
    ]
    .into_iter()
    .enumerate()
    {
        repo.write("other.txt", &number.to_string());
        repo.commit("the base moves");
        let (place, kept) = (common.join(at), site.path("kept"));
        let had = std::fs::rename(&place, &kept).is_ok();
        symlink(outside.join(to), &place).expect("links");
        let reply = house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await;
        assert_ne!(reply.status, 200, "{at}: {}", reply.text());
        assert!(reply.text().contains("symbolic link"), "{at}: {}", reply.text());
        assert_eq!(std::fs::read_to_string(outside.join("file")).expect("is there"), "mine\n", "{at}");
        assert_eq!(crate::worktree::listing(&outside), before, "{at}");
        std::fs::remove_file(&place).expect("takes it away");
        if had {
            std::fs::rename(&kept, &place).expect("puts back");
        }
        assert_eq!(phase(&house.order("fix").await, "sync_main"), "run/behind", "{at}");
    }
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_is_listed_by_name_and_is_an_incident_until_it_is_gone() {
    let site = Site::new();
    let repo = site.app(&["fix", "beside"], "");
    repo.git(&["config", "core.hooksPath", "/somewhere"]);
    let house = site
        .start_with(&[&repo], &[("jobs.readiness_every_ms", "50")], slugline::actors::faults::Faults::default())
        .await;
    house.begun("beside").await;
    house.order("fix").await;
    let planted = async || {
        let list = house.client.get("/repositories").await.expect("answers").json();
        list[0]["planted"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|name| name.as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    let incident = async || {
        let all = house.client.get("/incidents").await.expect("answers").json();
        let all = all.as_array().unwrap_or_else(|| panic!("a list: {all}")).clone();
        all.into_iter().find(|incident| incident["key"] == "planted:app" && incident["state"] != "resolved")
    };
    assert_eq!(planted().await, ["core.hookspath"]);
    repo.git(&["config", "filter.evil.smudge", "secret-program"]);
    repo.git(&["config", "url.https://user:secret@host/.insteadOf", "https://host/"]);
    executable(&repo.path.join(".git/hooks/post-checkout"), "#!/bin/sh\n");
    assert_eq!(planted().await, ["core.hookspath", "filter.evil.smudge", "hooks/post-checkout", "url.*.insteadof"]);
    let opened = crate::harness::until("an incident", incident).await;
    let title = opened["title"].as_str().expect("text");
    assert!(
        title.contains("filter.evil.smudge") && !title.contains("secret") && !title.contains("hookspath"),
        "{title}"
    );
    repo.git(&["config", "--remove-section", "filter.evil"]);
    repo.git(&["config", "--unset", "url.https://user:secret@host/.insteadOf"]);
    std::fs::remove_file(repo.path.join(".git/hooks/post-checkout")).expect("removes");
    crate::harness::until("the incident to be over", async || incident().await.is_none().then_some(())).await;
    house.stop_with_all_kept().await;
}
