//! Worktrees, shown as they change.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use slugline::actors::faults::Faults;

use super::ear::Ear;
use super::harness::{House, Repo, Site, git, git_command, problem, until, write};

async fn rows(house: &House, query: &str) -> Vec<Value> {
    let reply = house.client.get(&format!("/worktrees{query}")).await.expect("answers");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json().as_array().expect("a list").clone()
}

/// Every row, each looked at.
async fn looked(house: &House) -> Vec<Value> {
    rows(house, "?wait_ms=45000").await
}

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name} in {rows:?}"))
}

async fn wait_for(house: &House, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    until(what, || async {
        let rows = rows(house, "").await;
        rows.iter().find(|row| row["name"] == name && fits(row)).cloned()
    })
    .await
}

/// A worktree somebody made by hand.
fn by_hand(site: &Site, repo: &Repo, name: &str) -> std::path::PathBuf {
    let path = site.path(name);
    repo.git(&["worktree", "add", "--quiet", "--no-track", "-b", name, &path.display().to_string()]);
    path
}

async fn scans_of_repo(house: &House) -> u64 {
    // The metrics are of the whole process, in which other tests run beside this one: the actor's own view is asked.
    let actors = house.client.get("/actors").await.expect("answers").json();
    let inventory = actors.as_array().expect("a list").iter().find(|actor| actor["kind"] == "inventory").cloned();
    inventory.expect("there is one")["work"]["looks"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worktree_is_listed_peoples_own_too_each_as_what_it_is() {
    let site = Site::new();
    let repo = site.app(&["ours"], "");
    by_hand(&site, &repo, "theirs");
    let detached = by_hand(&site, &repo, "detached");
    git(&detached, &["checkout", "--quiet", "--detach"]);
    let missing = by_hand(&site, &repo, "missing");
    std::fs::remove_dir_all(missing).expect("removes");
    let locked = by_hand(&site, &repo, "locked");
    repo.git(&["worktree", "lock", "--reason", "on a stick", &locked.display().to_string()]);
    let house = site.start(&[&repo]).await;
    let order = house.order("ours").await;
    let rows = looked(&house).await;
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[0]["name"], "@main");
    assert_eq!(
        (&rows[0]["main"], &rows[0]["branch"], &rows[0]["state"]),
        (&json!(true), &json!("main"), &json!("fresh"))
    );
    let ours = row(&rows, "ours");
    assert_eq!((&ours["slug"], &ours["claim"]["worker"]), (&json!("ours"), &json!("default")));
    assert_eq!(ours["sessions"], json!([order["claim"]["session"]]));
    let theirs = row(&rows, "theirs");
    assert_eq!((&theirs["slug"], &theirs["claim"], &theirs["state"]), (&Value::Null, &Value::Null, &json!("fresh")));
    assert_eq!(theirs["changes"], json!({ "staged": 0, "unstaged": 0, "untracked": 0, "conflicted": 0 }));
    assert_eq!((&theirs["base"], &theirs["merged"]), (&json!({ "ahead": 0, "behind": 0 }), &json!(false)));
    assert_eq!(theirs["head"]["subject"], "first");
    let detached = row(&rows, "detached");
    assert_eq!((&detached["state"], &detached["branch"]), (&json!("detached"), &Value::Null));
    let missing = row(&rows, "missing");
    assert_eq!((&missing["state"], &missing["changes"]), (&json!("missing"), &Value::Null));
    assert!(missing["prunable"].is_string());
    let locked = row(&rows, "locked");
    assert_eq!((&locked["state"], &locked["locked"]), (&json!("locked"), &json!("on a stick")));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_repository_and_its_worktrees_are_shown_and_served() {
    let site = Site::new();
    let source = site.app(&["one"], "");
    git(&site.path(""), &["clone", "--quiet", "--bare", "app", "bare"]);
    let bare = Repo { path: site.path("bare") };
    drop(source);
    let house = site.start(&[&bare]).await;
    let order = house.work(json!({ "lane": "l", "slug": "one", "wait_ms": 45_000 })).await;
    assert_eq!(order.status, 200, "{}", order.text());
    let rows = looked(&house).await;
    assert_eq!((&rows[0]["bare"], &rows[0]["changes"]), (&json!(true), &Value::Null));
    assert_eq!(row(&rows, "one")["state"], "fresh");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_in_a_worktree_reaches_a_listener_as_what_changed() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let work = by_hand(&site, &repo, "w");
    let house = site.start(&[&repo]).await;
    let mut ear = Ear::at(&house, "?types=worktree.*", None).await;
    looked(&house).await;
    wait_for(&house, "w", "it to be watched", |row| row["watch"] == "watched").await;
    write(&work.join("new.txt"), "x");
    let of = |name: &'static str| move |data: &Value| data["name"] == name;
    let w = of("w");
    let heard =
        ear.hear("an untracked file", |heard| w(&heard.data) && heard.data["data"]["changes"]["untracked"] == 1).await;
    assert_eq!((heard.kind.as_str(), &heard.data["repo"]), ("worktree.updated", &json!("app")));
    assert!(heard.data["data"].get("path").is_none(), "only what changed is told: {}", heard.data);
    git(&work, &["add", "-A"]);
    ear.hear("a staged file", |heard| w(&heard.data) && heard.data["data"]["changes"]["staged"] == 1).await;
    git(&work, &["commit", "--quiet", "-m", "mine"]);
    ear.hear("a commit", |heard| w(&heard.data) && heard.data["data"]["head"]["subject"] == "mine").await;
    wait_for(&house, "w", "its distance", |row| row["base"]["ahead"] == 1 && row["changes"]["staged"] == 0).await;
    repo.git(&["merge", "--quiet", "--no-ff", "--no-edit", "w"]);
    ear.hear("that it is merged", |heard| w(&heard.data) && heard.data["data"]["merged"] == true).await;
    let merged = wait_for(&house, "w", "it to be fresh", |row| row["state"] == "fresh").await;
    assert_eq!((&merged["merged_by"], &merged["base"]["ahead"]), (&json!("history"), &json!(0)));
    let other = by_hand(&site, &repo, "other");
    let o = of("other");
    ear.hear("a new worktree", |heard| o(&heard.data) && heard.data["data"].get("changes").is_some()).await;
    repo.git(&["worktree", "remove", &other.display().to_string()]);
    ear.hear("that it is gone", |heard| o(&heard.data) && heard.kind == "worktree.removed").await;
    assert_eq!(rows(&house, "").await.len(), 2);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_in_the_middle_of_a_rebase_is_not_called_merged() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let work = by_hand(&site, &repo, "w");
    write(&work.join("file"), "theirs");
    git(&work, &["add", "-A"]);
    git(&work, &["commit", "--quiet", "-m", "theirs"]);
    repo.write("file", "ours");
    repo.commit("ours");
    let rebase = git_command(&work, &["rebase", "--quiet", "main"]).output().expect("runs");
    assert!(!rebase.status.success(), "it stops at the conflict");
    let house = site.start(&[&repo]).await;
    let rows = looked(&house).await;
    let w = row(&rows, "w");
    assert_eq!(
        (&w["operation_in_progress"], &w["branch"], &w["merged"]),
        (&json!("rebase"), &json!("w"), &Value::Null)
    );
    git(&work, &["rebase", "--abort"]);
    wait_for(&house, "w", "its branch", |row| row["detached"] == false && row["merged"] == false).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_are_seen_by_polling_where_the_watches_do_not_suffice_and_the_row_says_so() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let work = by_hand(&site, &repo, "w");
    let house = site.start_with(&[&repo], &[("inventory.watches_max", "0")], Faults::default()).await;
    let mut ear = Ear::at(&house, "?types=worktree.updated", None).await;
    let before = looked(&house).await;
    assert_eq!(row(&before, "w")["watch"], "polled");
    // The same size, so that only its content or its time can tell.
    write(&work.join("README.md"), "READ ME\n");
    ear.hear("the edit", |heard| heard.data["data"]["changes"]["unstaged"] == 1).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_has_not_changed_is_not_sent_again_and_pages_and_fields_are_as_asked() {
    let site = Site::new();
    let repo = site.app(&[], "");
    for name in ["a", "b-side", "c"] {
        by_hand(&site, &repo, name);
    }
    let house = site.start(&[&repo]).await;
    looked(&house).await;
    for name in ["@main", "a", "b-side", "c"] {
        wait_for(&house, name, "it to be watched", |row| row["watch"] == "watched" && row["state"] == "fresh").await;
    }
    let first = house.client.get("/worktrees").await.expect("answers");
    let tag = first.headers["etag"].to_str().expect("text").to_owned();
    let again =
        house.client.send(Method::GET, "/worktrees", &[("if-none-match", &tag)], Bytes::new()).await.expect("answers");
    assert_eq!((again.status, again.body.len()), (304, 0));
    write(&site.path("a").join("x"), "x");
    let changed = until("the tag to change", || async {
        let reply = house
            .client
            .send(Method::GET, "/worktrees", &[("if-none-match", &tag)], Bytes::new())
            .await
            .expect("answers");
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_ne!(changed.headers["etag"], first.headers["etag"]);
    let page = house.client.get("/worktrees?limit=3&fields=branch,state").await.expect("answers");
    assert_eq!(page.headers["x-total-count"], "4");
    assert_eq!(page.json()[1], json!({ "repo": "app", "name": "a", "branch": "a", "state": page.json()[1]["state"] }));
    let link = page.headers["link"].to_str().expect("text").to_owned();
    let next = link.trim_start_matches('<').split('>').next().expect("a link").to_owned();
    let rest = rows(&house, &next).await;
    assert_eq!(rest.iter().map(|row| row["name"].as_str().unwrap_or("")).collect::<Vec<_>>(), ["c"]);
    // A word no temporary directory has in its name: paths are searched too.
    assert_eq!(rows(&house, "?q=b-side").await.len(), 1);
    for (query, says) in [
        ("?fields=nothing", "it has"),
        ("?state=dirty", "none of"),
        ("?limit=0", "limit"),
        ("?after=app/zzz", "begin again"),
        ("?repos=app", "the query is not"),
    ] {
        let reply = house.client.get(&format!("/worktrees{query}")).await.expect("answers");
        let said = problem(&reply, 400, "invalid_request");
        assert!(said["detail"].as_str().is_some_and(|detail| detail.contains(says)), "{query}: {said}");
    }
    problem(&house.client.get("/worktrees?repo=nobody").await.expect("answers"), 404, "unknown_repository");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worktree_is_shown_with_files_commits_and_what_it_takes_on_disk() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let work = by_hand(&site, &repo, "w");
    for number in 0..3 {
        write(&work.join("f"), &number.to_string());
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "--quiet", "-m", &format!("number {number}")]);
    }
    git(&work, &["mv", "README.md", "läs mig.md"]);
    write(&work.join("f"), "edited");
    write(&work.join("ünknown"), "x");
    let house = site.start(&[&repo]).await;
    let detail = house.client.get("/worktrees/app/w?disk=true").await.expect("answers");
    let detail = detail.json();
    let subjects: Vec<&str> =
        detail["commits"].as_array().expect("a list").iter().filter_map(|commit| commit["subject"].as_str()).collect();
    assert_eq!(subjects, ["number 2", "number 1", "number 0"]);
    assert_eq!(detail["changes"], json!({ "staged": 1, "unstaged": 1, "untracked": 1, "conflicted": 0 }));
    let renamed = detail["files"].as_array().expect("a list").iter().find(|file| file["staged"] == "R").cloned();
    let renamed = renamed.expect("the rename is there");
    assert_eq!((&renamed["path"], &renamed["from"]), (&json!("läs mig.md"), &json!("README.md")));
    assert!(detail["disk_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    assert_eq!(detail["removal"][0]["code"], "local_changes");
    problem(&house.client.get("/worktrees/app/nothing").await.expect("answers"), 404, "unknown_worktree");
    problem(&house.client.get("/worktrees/app/%FF").await.expect("answers"), 400, "invalid_name");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_would_be_lost_is_removed_and_what_is_safe_goes_aside_with_its_branch_kept() {
    let site = Site::new();
    let repo = site.app(&["ours"], "");
    let work = by_hand(&site, &repo, "w");
    let house = site.start(&[&repo]).await;
    house.order("ours").await;
    let refused = |reply: slugline::cli::client::Reply, code: &str| {
        let said = problem(&reply, 409, "worktree_in_use");
        let codes: Vec<&str> =
            said["reasons"].as_array().expect("reasons").iter().filter_map(|reason| reason["code"].as_str()).collect();
        assert_eq!(codes, [code]);
    };
    refused(house.client.delete("/worktrees/app/@main").await.expect("answers"), "main_worktree");
    refused(house.client.delete("/worktrees/app/ours").await.expect("answers"), "claimed");
    write(&work.join("precious"), "x");
    refused(house.client.delete("/worktrees/app/w").await.expect("answers"), "local_changes");
    std::fs::remove_file(work.join("precious")).expect("removes");
    repo.git(&["worktree", "lock", &work.display().to_string()]);
    refused(house.client.delete("/worktrees/app/w").await.expect("answers"), "locked");
    repo.git(&["worktree", "unlock", &work.display().to_string()]);
    let lock = repo.path.join(".git/worktrees/w/index.lock");
    write(&lock, "");
    refused(house.client.delete("/worktrees/app/w").await.expect("answers"), "operation_in_progress");
    std::fs::remove_file(&lock).expect("is still there");
    git(&work, &["checkout", "--quiet", "--detach"]);
    git(&work, &["commit", "--quiet", "--allow-empty", "-m", "on no branch"]);
    refused(house.client.delete("/worktrees/app/w").await.expect("answers"), "unreachable_commits");
    git(&work, &["checkout", "--quiet", "w"]);
    write(&work.join(".gitignore"), "built\n");
    git(&work, &["add", "-A"]);
    git(&work, &["commit", "--quiet", "-m", "ignores"]);
    write(&work.join("built"), "x");
    let asked = house.client.delete("/worktrees/app/w?dry_run=true").await.expect("answers").json();
    assert_eq!(
        (&asked["safe"], &asked["removed"], &asked["ignored"]),
        (&json!(true), &json!(false), &json!(["built"]))
    );
    assert!(work.exists());
    let mut ear = Ear::at(&house, "?types=worktree.removed", None).await;
    looked(&house).await;
    let removed = house.client.delete("/worktrees/app/w").await.expect("answers").json();
    assert_eq!(removed["removed"], true, "{removed}");
    assert!(!work.exists());
    let trash = removed["trash"].as_str().expect("a path");
    assert!(Path::new(trash).join("worktree/built").exists(), "it can be brought back");
    assert!(!repo.git(&["worktree", "list"]).contains(&work.display().to_string()));
    assert_eq!(repo.git(&["log", "-1", "--format=%s", "w"]), "ignores", "its branch stays");
    ear.hear("that it is gone", |heard| heard.data["name"] == "w").await;
    problem(&house.client.delete("/worktrees/app/w").await.expect("answers"), 404, "unknown_worktree");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_never_looks_clean_and_never_drops_the_row() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let work = by_hand(&site, &repo, "w");
    let house = site.start(&[&repo]).await;
    write(&work.join("f"), "x");
    assert_eq!(row(&looked(&house).await, "w")["changes"]["untracked"], 1);
    let index = repo.path.join(".git/worktrees/w/index");
    let whole = std::fs::read(&index).expect("reads");
    for damage in [&b""[..], &whole[..whole.len() / 2], b"DIRC\0\0\0\x02\xff\xff\xff\xff garbage garbage garbage"] {
        std::fs::write(&index, damage).expect("damages");
        let refreshed = house.client.post("/worktrees/app/w/refresh", &json!({})).await.expect("answers");
        problem(&refreshed, 422, "worktree_unreadable");
        let shown = wait_for(&house, "w", "the error", |row| row["state"] == "error").await;
        assert_eq!(shown["changes"]["untracked"], 1, "the last good value stays");
        assert!(shown["error"].as_str().is_some_and(|error| error.contains("index")), "{shown}");
    }
    std::fs::write(&index, &whole).expect("mends");
    let refreshed = house.client.post("/worktrees/app/w/refresh", &json!({})).await.expect("answers");
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    // A sign of the mending may come behind the look, which then has to be made sure of.
    let shown = wait_for(&house, "w", "it to be well", |row| row["state"] == "fresh").await;
    assert_eq!(shown["error"], Value::Null);
    // HEAD, and what it leads to.
    let head = repo.path.join(".git/worktrees/w/HEAD");
    std::fs::write(&head, "garbage").expect("damages");
    let shown = wait_for(&house, "w", "the error", |row| row["state"] == "error").await;
    assert!(shown["error"].as_str().is_some_and(|error| error.contains("HEAD")), "{shown}");
    std::fs::write(&head, "ref: refs/heads/w\n").expect("mends");
    wait_for(&house, "w", "it to be well again", |row| row["state"] == "fresh").await;
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_not_there_keeps_its_rows_and_comes_back() {
    let site = Site::new();
    let repo = site.app(&[], "");
    by_hand(&site, &repo, "w");
    let house = site.start(&[&repo]).await;
    assert_eq!(looked(&house).await.len(), 2);
    let away = site.path("unmounted");
    std::fs::rename(&repo.path, &away).expect("unmounts");
    // Somebody asks again and again, as people do.
    let shown = wait_for(&house, "w", "the error", |row| row["state"] == "error").await;
    assert!(shown["error"].as_str().is_some_and(|error| !error.is_empty()));
    assert_eq!(rows(&house, "").await.len(), 2);
    std::fs::rename(&away, &repo.path).expect("mounts");
    wait_for(&house, "w", "it to be well again", |row| row["state"] == "fresh").await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_cannot_be_read_at_all_is_a_row_with_an_error_beside_the_others() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let broken = Repo::empty(site.path("broken"));
    let house = site.start(&[&repo, &broken]).await;
    let rows = looked(&house).await;
    let of = |name: &str| rows.iter().find(|row| row["repo"] == name).cloned().expect("a row");
    assert_eq!((&of("app")["state"], &of("broken")["state"]), (&json!("fresh"), &json!("error")));
    assert!(of("broken")["error"].as_str().is_some_and(|error| error.contains("no commits")), "{}", of("broken"));
    house.stop().await;
}

/// Blocks every scan until it is opened.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<bool>, Condvar)>, Arc<AtomicBool>);

impl Door {
    fn faults(&self) -> Faults {
        let door = self.clone();
        Faults::at_points(move |point| {
            if point == "inventory.scan" && door.1.load(Ordering::SeqCst) {
                let (open, opened) = &*door.0;
                let mut open = open.lock().expect("locks");
                while !*open {
                    open = opened.wait(open).expect("waits");
                }
            }
        })
    }

    fn close(&self) {
        self.1.store(true, Ordering::SeqCst);
    }

    fn open(&self) {
        self.1.store(false, Ordering::SeqCst);
        *self.0.0.lock().expect("locks") = true;
        self.0.1.notify_all();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_whose_disk_does_not_answer_ends_for_everybody_but_its_own_thread() {
    let site = Site::new();
    let repo = site.app(&[], "");
    by_hand(&site, &repo, "a");
    let door = Door::default();
    door.close();
    let settings = [("inventory.scan_timeout_ms", "300"), ("inventory.scans_max", "1")];
    let house = site.start_with(&[&repo], &settings, door.faults()).await;
    let rows = looked(&house).await;
    for name in ["@main", "a"] {
        assert_eq!(row(&rows, name)["state"], "error", "{rows:?}");
        assert!(row(&rows, name)["error"].as_str().is_some_and(|error| error.contains("did not answer")));
    }
    // The one permit there is was given back each time, and no second look is made at what is stuck.
    let actors = house.client.get("/actors").await.expect("answers").json();
    let work =
        &actors.as_array().expect("a list").iter().find(|actor| actor["kind"] == "inventory").expect("one")["work"];
    assert_eq!((&work["permits"]["free"], &work["stuck"]), (&json!(1), &json!(["@main", "a"])));
    door.open();
    for name in ["@main", "a"] {
        wait_for(&house, name, "it to be well again", |row| row["state"] == "fresh").await;
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worktree_that_is_deleted_while_it_is_looked_at_is_missing_and_then_gone() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let work = by_hand(&site, &repo, "w");
    for number in 0..300 {
        write(&work.join(format!("d{number}/f")), "x");
    }
    let house = site.start(&[&repo]).await;
    let deleting = work.clone();
    let deleted = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(deleting));
    rows(&house, "").await;
    let _ = deleted.await.expect("ends");
    let _ = std::fs::remove_dir_all(&work);
    wait_for(&house, "w", "it to be missing", |row| row["state"] == "missing").await;
    repo.git(&["worktree", "prune"]);
    until("the row to go", || async { (rows(&house, "").await.len() == 1).then_some(()) }).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_sockets_and_directories_nobody_may_read_hold_nobody_up() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let work = by_hand(&site, &repo, "w");
    rustix::fs::mkfifoat(rustix::fs::CWD, work.join("pipe"), rustix::fs::Mode::RWXU).expect("makes");
    let _socket = std::os::unix::net::UnixListener::bind(work.join("socket")).expect("binds");
    // In the place of a tracked file.
    std::fs::remove_file(work.join("README.md")).expect("removes");
    rustix::fs::mkfifoat(rustix::fs::CWD, work.join("README.md"), rustix::fs::Mode::RWXU).expect("makes");
    std::fs::create_dir(work.join("closed")).expect("makes");
    write(&work.join("closed/f"), "x");
    std::fs::set_permissions(work.join("closed"), std::fs::Permissions::from_mode(0o000)).expect("closes");
    let house = site.start(&[&repo]).await;
    let shown = looked(&house).await;
    let said = git(&work, &["--no-optional-locks", "status", "--porcelain=v2"]);
    let unstaged = said.lines().filter(|line| line.starts_with("1 .")).count();
    let untracked = said.lines().filter(|line| line.starts_with('?')).count();
    assert_eq!(
        row(&shown, "w")["changes"],
        json!({ "staged": 0, "unstaged": unstaged, "untracked": untracked, "conflicted": 0 })
    );
    // In the place of an ignore file it would hold git itself up for ever.
    rustix::fs::mkfifoat(rustix::fs::CWD, work.join(".gitignore"), rustix::fs::Mode::RWXU).expect("makes");
    let refreshed = house.client.post("/worktrees/app/w/refresh", &json!({})).await.expect("answers");
    assert_eq!((refreshed.status, refreshed.json()["changes"]["untracked"].as_u64()), (200, Some(untracked as u64)));
    std::fs::set_permissions(work.join("closed"), std::fs::Permissions::from_mode(0o700)).expect("opens");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nobody_asking_or_listening_nothing_is_looked_at_and_nothing_is_watched() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let work = by_hand(&site, &repo, "w");
    let house = site.start(&[&repo]).await;
    house.order("one").await;
    write(&work.join("f"), "x");
    git(&work, &["commit", "--quiet", "--allow-empty", "-m", "x"]);
    assert_eq!(scans_of_repo(&house).await, 0);
    assert_eq!(house.handle.context().watching.count(), 0);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_events_cause_no_git_work_and_git_events_no_session_work() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let work = by_hand(&site, &repo, "w");
    let house = site.start(&[&repo]).await;
    let order = house.order("one").await;
    let session = order["claim"]["session"].as_str().expect("a session").to_owned();
    let mut ear = Ear::at(&house, "", None).await;
    looked(&house).await;
    for name in ["@main", "one", "w"] {
        wait_for(&house, name, "it to be watched", |row| row["watch"] == "watched" && row["state"] == "fresh").await;
    }
    // Until looks that make sure of the watches are over.
    let settled = until("looks to settle", || async {
        let before = scans_of_repo(&house).await;
        let mut beat = tokio::time::interval(Duration::from_millis(1_200));
        beat.tick().await;
        beat.tick().await;
        (scans_of_repo(&house).await == before).then_some(before)
    })
    .await;
    let surveys = |actors: &Value| {
        let find = |kind: &str| actors.as_array().expect("a list").iter().find(|actor| actor["kind"] == kind).cloned();
        find("inventory").expect("there is one")["work"]["surveys"].clone()
    };
    let before = surveys(&house.client.get("/actors").await.expect("answers").json());
    for number in 0..100 {
        let event = json!({ "events": [{ "kind": "note", "text": format!("number {number}") }] });
        let reply = house.client.post(&format!("/sessions/{session}/events"), &event).await.expect("answers");
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    ear.hear("the last report", |heard| heard.kind == "session.updated" && heard.data["data"]["events"] == 100).await;
    let after = surveys(&house.client.get("/actors").await.expect("answers").json());
    assert_eq!((scans_of_repo(&house).await, after), (settled, before), "reports made somebody look at git");
    let version = house.handle.context().sessions.version();
    write(&work.join("f"), "x");
    git(&work, &["add", "-A"]);
    git(&work, &["commit", "--quiet", "-m", "x"]);
    ear.hear("the commit", |heard| heard.kind == "worktree.updated" && heard.data["data"]["head"]["subject"] == "x")
        .await;
    assert_eq!(house.handle.context().sessions.version(), version, "a commit made somebody look at sessions");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_unused_for_long_leaves_the_memory_and_comes_back_with_the_next_question() {
    let site = Site::new();
    let repo = site.app(&[], "");
    by_hand(&site, &repo, "w");
    let settings = [("inventory.forget_after_ms", "1000")];
    let house = site.start_with(&[&repo], &settings, Faults::default()).await;
    let mut ear = Ear::at(&house, "?types=worktree.*", None).await;
    ear.hear("a row", |heard| heard.data["name"] == "w").await;
    let entry = || house.handle.context().repos.values().next().expect("one").repo.clone();
    assert!(entry().git_if_open().is_some());
    drop(ear);
    until("it to be forgotten", || async { entry().git_if_open().is_none().then_some(()) }).await;
    assert_eq!(house.handle.context().watching.count(), 0);
    assert_eq!(looked(&house).await.len(), 2);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_kind_are_found_and_ages_are_never_negative() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let path = site.path("ünï cödé");
    repo.git(&["worktree", "add", "--quiet", "--no-track", "-b", "x", &path.display().to_string()]);
    let house = site.start(&[&repo]).await;
    let name = row(&looked(&house).await, "@main")["name"].clone();
    assert_eq!(name, "@main");
    let odd = rows(&house, "").await[1]["name"].as_str().expect("text").to_owned();
    let escaped: String = odd.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let detail = house.client.get(&format!("/worktrees/app/{escaped}")).await.expect("answers");
    assert_eq!((detail.status, detail.json()["branch"].as_str()), (200, Some("x")), "{}", detail.text());
    house.wall_ms.store(-10 * 365 * 86_400_000, Ordering::SeqCst);
    let rows = looked(&house).await;
    assert!(rows.iter().all(|row| row["age_ms"].as_i64().is_some_and(|age| age >= 0)), "{rows:?}");
    house.stop().await;
}
