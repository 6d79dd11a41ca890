//! A worktree's directory is deleted, renamed or replaced by a link while a run works in it or makes it: nothing outside
//! is written or deleted, and the todo can be worked on again afterwards.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use slugline::actors::faults::Faults;

use crate::harness::{House, Site, git, phase, problem, until, write};
use crate::scale::{Dice, seed, size};
use crate::worktree::listing;

/// Runs fail on purpose here, again and again in the same way: no lane pauses for that.
const UNPAUSED: [(&str, &str); 1] = [("breaker.failures", "1000")];

/// A directory that is nobody's business, and what is in it.
struct Canary {
    dir: PathBuf,
    had: Vec<String>,
}

impl Canary {
    fn new(dir: PathBuf) -> Self {
        write(&dir.join("precious.txt"), "mine\n");
        write(&dir.join("README.md"), "mine\n");
        write(&dir.join("todos/deep/file"), "mine\n");
        let had = listing(&dir);
        Self { dir, had }
    }

    fn assert_untouched(&self, when: &str) {
        assert_eq!(listing(&self.dir), self.had, "{when}: something was written or deleted outside");
        for file in ["precious.txt", "README.md", "todos/deep/file"] {
            assert_eq!(std::fs::read_to_string(self.dir.join(file)).expect("is there"), "mine\n", "{when}: {file}");
        }
    }
}

/// What is done to a worktree's directory.
#[derive(Debug, Clone, Copy)]
enum Swap {
    Link,
    Rename,
    Delete,
}

fn swap(how: Swap, worktree: &Path, away: &Path, canary: &Canary) {
    let _ = match how {
        Swap::Link => std::fs::rename(worktree, away).and_then(|()| symlink(&canary.dir, worktree)),
        Swap::Rename => std::fs::rename(worktree, away),
        Swap::Delete => std::fs::remove_dir_all(worktree),
    };
}

/// Puts things back: a link goes, and what was renamed comes back unless something was made in its place.
fn put_back(worktree: &Path, away: &Path) {
    if std::fs::symlink_metadata(worktree).is_ok_and(|meta| meta.is_symlink()) {
        std::fs::remove_file(worktree).expect("a link of ours");
    }
    if std::fs::symlink_metadata(worktree).is_err() {
        let _ = std::fs::rename(away, worktree);
    }
    let _ = std::fs::remove_dir_all(away);
}

async fn ask(house: &House, slug: &str) -> (u16, Value) {
    let reply = house.work(json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 })).await;
    (reply.status, reply.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_is_touched_however_a_worktree_is_swapped_while_it_is_worked_in() {
    let rounds = size("SWAPS", [30, 500, 2_000]);
    let mut dice = Dice(seed(None));
    let site = Site::new();
    let repo = site.app(
        &["fix", "beside"],
        "[prepare]\ncommand = \"echo x > prepared.out; mkdir -p out\"\ninputs = [\"a.lock\"]\n",
    );
    repo.write(".gitignore", "prepared.out\nout\n");
    repo.commit("ignore");
    let canary = Canary::new(site.path("canary"));
    let house = site.start_with(&[&repo], &UNPAUSED, Faults::default()).await;
    house.begun("beside").await;
    house.order("fix").await;
    let (worktree, away) = (site.worktree("fix"), site.path("data/worktrees/away"));
    for round in 0..rounds {
        repo.write("a.lock", &round.to_string());
        repo.write("todos/fix/requirements.md", &round.to_string());
        repo.write(&format!("new/{}", round % 7), &round.to_string());
        let base = repo.commit("the base moves");
        let how = *dice.one_of(&[Swap::Link, Swap::Link, Swap::Rename, Swap::Delete]);
        let after = Duration::from_micros(dice.below(80_000));
        let ((status, said), ()) = tokio::join!(ask(&house, "fix"), async {
            let _ = tokio::time::timeout(after, std::future::pending::<()>()).await;
            swap(how, &worktree, &away, &canary);
        });
        canary.assert_untouched(&format!("round {round}, {how:?} after {after:?}"));
        assert!(status == 200 || said["code"].is_string(), "round {round}: {said}");
        put_back(&worktree, &away);
        if !worktree.join(".git").exists() || round % 5 == 4 {
            // Whatever became of it, it can be worked on again, with the base of this round.
            let again = until("work in it again", || async {
                let (status, said) = ask(&house, "fix").await;
                println!("round {round}: {status} {}", said["detail"]);
                (status == 200).then_some(said)
            })
            .await;
            assert_eq!(again["worktree"]["base_oid"], json!(base), "round {round}");
        }
        canary.assert_untouched(&format!("after round {round}"));
    }
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_takes_the_place_of_a_worktree_while_it_is_made_is_neither_followed_nor_cleared_away() {
    let rounds = size("SWAPS_MAKING", [15, 200, 800]);
    let mut dice = Dice(seed(None));
    let site = Site::new();
    let names: Vec<String> = (0..rounds).map(|number| format!("fix-{number}")).collect();
    let slugs: Vec<&str> = names.iter().map(String::as_str).collect();
    let repo = site.app(&[&slugs[..], &["beside"]].concat(), "");
    let canary = Canary::new(site.path("canary"));
    let house = site.start_with(&[&repo], &UNPAUSED, Faults::default()).await;
    house.begun("beside").await;
    for slug in slugs {
        let worktree = site.worktree(slug);
        std::fs::create_dir_all(worktree.parent().expect("has one")).expect("makes");
        let after = Duration::from_micros(dice.below(60_000));
        let ((status, said), linked) = tokio::join!(ask(&house, slug), async {
            let _ = tokio::time::timeout(after, std::future::pending::<()>()).await;
            symlink(&canary.dir, &worktree).is_ok()
        });
        canary.assert_untouched(&format!("{slug} after {after:?}"));
        assert!(status == 200 || said["code"].is_string(), "{slug}: {said}");
        if linked {
            std::fs::remove_file(&worktree).expect("the link is still there");
        }
        let (status, said) = ask(&house, slug).await;
        assert_eq!(status, 200, "{slug}, linked {linked} after {after:?}: {said}");
        assert_eq!(git(&worktree, &["status", "--porcelain"]), "", "{slug}");
    }
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worktree_that_was_being_made_when_the_daemon_was_ended_is_made_by_the_next_run() {
    let site = Site::new();
    let repo = site.app(&["fix", "old", "beside"], "");
    repo.git(&["branch", "old"]);
    let trash = site.path("data/worktrees/.trash/app");
    // As a kill leaves it: registered beside its place, and (one of them) locked by the git that was making it.
    for (slug, locked) in [("fix", true), ("old", false)] {
        let made = trash.join(format!("making-01J{slug}")).join(slug);
        let branch = if slug == "fix" { ["-b", "fix"] } else { ["--quiet", "old"] };
        let at = made.to_str().expect("text");
        let args = if slug == "fix" {
            vec!["worktree", "add", "--quiet", "-b", "fix", at]
        } else {
            vec!["worktree", "add", branch[0], at, branch[1]]
        };
        repo.git(&args);
        if locked {
            write(&repo.path.join(".git/worktrees/fix/locked"), "initializing");
            std::fs::remove_dir_all(&made).expect("it had got no further");
        }
    }
    let house = site.start(&[&repo]).await;
    house.begun("beside").await;
    for slug in ["fix", "old"] {
        assert_eq!(phase(&house.order(slug).await, "worktree"), "run/recreated", "{slug}");
        assert_eq!(git(&site.worktree(slug), &["status", "--porcelain"]), "", "{slug}");
        assert_eq!(git(&site.worktree(slug), &["branch", "--show-current"]), slug);
    }
    assert_eq!(repo.git(&["worktree", "list", "--porcelain"]).matches("worktree ").count(), 4);
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_removal_left_half_done_is_made_again_only_when_nothing_in_it_is_anybodys_own() {
    let site = Site::new();
    let repo = site.app(&["fix", "beside"], "");
    repo.write("dir/kept.txt", "kept\n");
    repo.commit("more");
    let house = site.start_with(&[&repo], &[], Faults::default()).await;
    house.begun("beside").await;
    house.order("fix").await;
    let worktree = site.worktree("fix");
    write(&worktree.join("staged.txt"), "staged\n");
    git(&worktree, &["add", "staged.txt"]);
    // Half of it is gone, its link too.
    let half_delete = || {
        for gone in [".git", "README.md", ".slugline.toml"] {
            std::fs::remove_file(worktree.join(gone)).expect("removes");
        }
    };
    half_delete();
    write(&worktree.join("dir/mine.txt"), "nowhere else\n");
    let refused = house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await;
    let body = problem(&refused, 423, "worktree_foreign");
    assert!(body["detail"].as_str().is_some_and(|detail| detail.contains("dir/mine.txt")), "{body}");
    assert_eq!(std::fs::read_to_string(worktree.join("dir/mine.txt")).expect("is there"), "nowhere else\n");
    std::fs::remove_file(worktree.join("dir/mine.txt")).expect("removes");
    assert_eq!(phase(&house.order("fix").await, "worktree"), "run/recreated");
    assert_eq!(git(&worktree, &["status", "--porcelain"]), "A  staged.txt");
    let aside = listing(&site.path("data/worktrees/.trash/app"));
    assert!(aside.iter().any(|path| path.ends_with("worktree/dir/kept.txt")), "{aside:?}");
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_moves_nothing_that_is_not_linked_to_its_registration() {
    let site = Site::new();
    let repo = site.app(&["beside"], "");
    let (apart, outside) = (site.path("apart"), Canary::new(site.path("outside")));
    repo.git(&["worktree", "add", "--quiet", "-b", "apart", apart.to_str().expect("text")]);
    let house = site.start(&[&repo]).await;
    house.begun("beside").await;
    // Its registration says that somebody's directory is the worktree.
    for bent in [outside.dir.join(".git"), site.path("other/.git")] {
        write(&repo.path.join(".git/worktrees/apart/gitdir"), &format!("{}\n", bent.display()));
        if bent.starts_with(&outside.dir) {
            write(&bent, "gitdir: /nowhere\n");
        }
        let had = (listing(&outside.dir), listing(&apart));
        let reply = house.client.delete("/worktrees/app/apart").await.expect("answers");
        assert_eq!((listing(&outside.dir), listing(&apart)), had, "{}", reply.text());
    }
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_phase_follows_a_link_that_takes_the_worktrees_place_right_before_it() {
    for point in ["sync_main", "sync_todo", "prepare", "gates"] {
        let site = Site::new();
        let settings = "[prepare]\ncommand = \"echo x > prepared.out\"\ninputs = [\"a.lock\"]\n[[gates]]\nname = \"g\"\ncommand = \"echo x > judged.out\"\n";
        let repo = site.app(&["fix", "beside"], settings);
        repo.write(".gitignore", "*.out\n");
        repo.commit("ignore");
        let canary = Canary::new(site.path("canary"));
        let (worktree, away) = (site.worktree("fix"), site.path("data/worktrees/away"));
        let armed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (fuse, at, to, elsewhere) = (armed.clone(), worktree.clone(), away.clone(), canary.dir.clone());
        let faults = Faults::at_points(move |hit| {
            if hit == point && fuse.swap(false, std::sync::atomic::Ordering::SeqCst) {
                std::fs::rename(&at, &to).and_then(|()| symlink(&elsewhere, &at)).expect("swaps");
            }
        });
        let house = site.start_with(&[&repo], &[], faults).await;
        house.begun("beside").await;
        house.order("fix").await;
        repo.write("a.lock", "1");
        repo.write("todos/fix/requirements.md", "# other words\n");
        repo.commit("the base moves");
        armed.store(true, std::sync::atomic::Ordering::SeqCst);
        let (status, said) = ask(&house, "fix").await;
        assert!(status != 200 && said["code"].is_string(), "{point}: {said}");
        canary.assert_untouched(point);
        put_back(&worktree, &away);
        house.order("fix").await;
        canary.assert_untouched(point);
        house.stop_with_all_kept().await;
    }
}
