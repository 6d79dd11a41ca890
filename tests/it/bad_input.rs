//! Names that want out, repositories that cannot be served, files that are broken: each is refused with the way out,
//! nothing is left on disk, and everything else works on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::json;
use slugline::actors::faults::Faults;
use slugline::config::{Config, Flags};

use crate::harness::{House, Repo, Site, git, git_command, problem, write};

/// Everything below a directory but the ledger's own files, with the size and time of each file.
fn listing(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).expect("reads") {
            let entry = entry.expect("reads");
            let meta = entry.metadata().expect("is there");
            if entry.file_name().to_string_lossy().starts_with("ledger.db") {
                continue;
            }
            if meta.is_dir() {
                left.push(entry.path());
                found.insert(entry.path(), "directory".to_owned());
            } else {
                found.insert(entry.path(), format!("{} {:?}", meta.len(), meta.modified().expect("time")));
            }
        }
    }
    found
}

async fn alive(house: &House) {
    assert_eq!(house.client.get("/readyz").await.expect("answers").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_want_out_are_refused_and_leave_nothing() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let before = listing(site.dir.path());
    let long = "a".repeat(60_000);
    let hostile = ["", ".", "..", "../x", "../../etc", "a/b", "/etc/passwd", "a\\b", "a\0b", "\u{0}", "%2e%2e%2f", "a%2fb", "x.lock", "con", "nul.txt", "\u{202e}xif", "ｆｉｘ", "FIX", "fix ", " fix", "fix\n", "-rf", "--help", "@{-1}", "HEAD^", "refs/heads/main", "fix..main", "~", "$(id)", "`id`", "*", long.as_str()];
    for name in hostile {
        let shown: String = name.chars().take(40).collect();
        for body in [json!({ "lane": "builder", "slug": name }), json!({ "lane": "builder", "slug": "fix", "repo": name }), json!({ "lane": name, "slug": "fix" })] {
            let reply = house.work(body).await;
            let told = problem(&reply, 400, "invalid_name");
            let detail = told["detail"].as_str().expect("text");
            assert!(detail.contains("a-z 0-9"), "the rule is not said for {shown:?}: {detail}");
            assert!(!detail.contains(['\0', '\u{202e}', '\n']) && reply.body.len() < 2_000, "{shown:?} comes back as it was: {detail:?}");
        }
    }
    assert_eq!(listing(site.dir.path()), before);
    for worker in ["", "a b", "a\0", "\u{202e}", long.as_str()] {
        problem(&house.work(json!({ "lane": "builder", "slug": "fix", "worker": worker })).await, 400, "invalid_name");
    }
    alive(&house).await;
    assert_eq!(listing(site.dir.path()), before);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_paths_are_refused_however_they_are_written() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let before = listing(site.dir.path());
    let hostile = ["..", "%2e%2e", "%2e%2e%2f", "..%2f..%2fetc", "a%2fb", "a%5cb", "%00", "fix%00", "x.lock", "con", "%e2%80%ae", "%ff%fe", "%", "%zz", "FIX", "fix%20", "*"];
    for name in hostile {
        for path in [format!("/todos/app/{name}"), format!("/todos/{name}/fix"), format!("/operations/{name}"), format!("/operations/{name}/log")] {
            let reply = house.client.get(&path).await.expect("answers");
            let code = reply.json()["code"].as_str().unwrap_or("").to_owned();
            assert!(matches!((reply.status, code.as_str()), (400, "invalid_name" | "invalid_request") | (404, "not_found" | "unknown_operation")), "{path}: {}", reply.text());
            problem(&reply, reply.status, &code);
        }
        problem(&house.client.delete(&format!("/operations/{name}")).await.expect("answers"), 404, "unknown_operation");
    }
    for query in ["repo=..", "repo=app&repo=app", "lane=%00", "stage=nowhere", "colour=red", "repo=%2e%2e%2f"] {
        let reply = house.client.get(&format!("/todos?{query}")).await.expect("answers");
        problem(&reply, 400, "invalid_request");
    }
    assert_eq!(listing(site.dir.path()), before);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_404_and_names_what_is() {
    let site = Site::new();
    let (app, lib) = (site.app(&["fix"], ""), Repo::with(site.path("lib"), &["fix"], ""));
    let house = site.start(&[&app, &lib]).await;
    let told = problem(&house.work(json!({ "lane": "builder", "slug": "fix", "repo": "nope" })).await, 404, "unknown_repository");
    assert_eq!(told["registered"], json!(["app", "lib"]));
    let told = problem(&house.work(json!({ "lane": "builder", "slug": "fix" })).await, 400, "invalid_request");
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("app, lib")), "{told}");
    problem(&house.work(json!({ "lane": "builder", "slug": "nope", "repo": "app" })).await, 404, "unknown_slug");
    problem(&house.client.get("/todos/app/nope").await.expect("answers"), 404, "unknown_slug");
    problem(&house.client.get("/todos/nope/fix").await.expect("answers"), 404, "unknown_repository");
    problem(&house.client.get("/todos?repo=nope").await.expect("answers"), 404, "unknown_repository");
    problem(&house.client.get("/operations/01JAAAAAAAAAAAAAAAAAAAAAAA").await.expect("answers"), 404, "unknown_operation");
    assert!(!site.path("data/worktrees").exists(), "a worktree was made for a call that was refused");
    house.stop().await;
}

/// A repository that cannot be served, registered beside a good one: how it is registered, what its problem has to
/// say besides its path, and what mends it.
struct Unusable {
    base: Option<&'static str>,
    says: &'static str,
    mend: Option<Box<dyn Fn(&Path)>>,
}

/// Serves `bad`, made by the caller at the site's `bad`, beside a good repository, and checks all that has to hold.
async fn is_unusable(site: &Site, unusable: Unusable) {
    let (bad, good) = (site.path("bad"), site.app(&["fix"], ""));
    let base = unusable.base.map_or_else(String::new, |base| format!("base = {base:?}\n"));
    let text = format!("listen = \"127.0.0.1:0\"\ndata_dir = \"data\"\n[[repositories]]\nname = \"bad\"\npath = {bad:?}\n{base}[[repositories]]\nname = \"app\"\npath = {:?}\n", good.path);
    let config = Config::load(&Flags::default(), &BTreeMap::new(), Some((&site.path("slugline.toml"), &text))).expect("the test's configuration is valid");
    let house = House::start(config, Faults::default()).await;
    let before = listing(site.dir.path());
    for body in [json!({ "lane": "builder", "slug": "fix", "repo": "bad" }), json!({ "lane": "builder", "repo": "bad" })] {
        let told = problem(&house.work(body).await, 422, "repository_unusable");
        let detail = told["detail"].as_str().expect("text");
        assert!(detail.contains(bad.to_str().expect("text")) && detail.contains(unusable.says), "{detail}");
    }
    problem(&house.client.get("/todos?repo=bad").await.expect("answers"), 422, "repository_unusable");
    assert_eq!(listing(site.dir.path()), before);
    alive(&house).await;
    let works = |repo: &'static str| house.work(json!({ "lane": "builder", "slug": "fix", "repo": repo, "wait_ms": 45_000 }));
    let other = works("app").await;
    assert_eq!(other.status, 200, "{}", other.text());
    if let Some(mend) = unusable.mend {
        mend(&bad);
        let mended = works("bad").await;
        assert_eq!(mended.status, 200, "{}", mended.text());
    }
    house.stop().await;
}

fn make_good(path: &Path) {
    Repo::with(path.to_owned(), &["fix"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_not_there_is_said_and_works_once_it_is() {
    is_unusable(&Site::new(), Unusable { base: None, says: "does not exist", mend: Some(Box::new(make_good)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_without_a_repository_is_said_and_works_once_it_is_one() {
    let site = Site::new();
    write(&site.path("bad/notes.txt"), "no repository\n");
    is_unusable(&site, Unusable { base: None, says: "is not a git repository; give the directory", mend: Some(Box::new(make_good)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_place_of_a_repository_is_said() {
    let site = Site::new();
    write(&site.path("bad"), "a file\n");
    is_unusable(&site, Unusable { base: None, says: "is not a git repository; give the directory", mend: None }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_commits_is_said_and_works_after_the_first() {
    let site = Site::new();
    Repo::empty(site.path("bad"));
    is_unusable(&site, Unusable { base: None, says: "has no commits yet; make the first one", mend: Some(Box::new(make_good)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_repository_is_said() {
    let site = Site::new();
    make_good(&site.path("source"));
    git(&site.path(""), &["clone", "--quiet", "--bare", "source", "bad"]);
    is_unusable(&site, Unusable { base: None, says: "is a bare repository; Slugline needs one with a work tree", mend: None }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_not_there_is_said_with_the_branches_there_are() {
    let site = Site::new();
    make_good(&site.path("bad"));
    let mend = |path: &Path| drop(git(path, &["branch", "nope"]));
    is_unusable(&site, Unusable { base: Some("nope"), says: "has no branch nope; set base to one of its branches, such as main", mend: Some(Box::new(mend)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_a_commit_and_an_expression_are_no_bases() {
    for (base, says) in [("v1", "is not a branch (a tag)"), ("HEAD", "is not a branch (not a branch name)"), ("main~0", "is not a branch (not a branch name)"), ("--all", "is not a branch (not a branch name)"), ("4b825dc642cb6eb9a060e54bf8d69288fbee4904", "is not a branch (a commit)")] {
        let site = Site::new();
        make_good(&site.path("bad"));
        git(&site.path("bad"), &["tag", "v1"]);
        is_unusable(&site, Unusable { base: Some(base), says, mend: None }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_head_without_a_base_is_said_and_works_on_a_branch() {
    let site = Site::new();
    make_good(&site.path("bad"));
    git(&site.path("bad"), &["checkout", "--quiet", "--detach"]);
    let mend = |path: &Path| drop(git(path, &["checkout", "--quiet", "main"]));
    is_unusable(&site, Unusable { base: None, says: "is detached", mend: Some(Box::new(mend)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_beyond_the_usual_are_said() {
    for format in ["--ref-format=reftable", "--object-format=sha256"] {
        let site = Site::new();
        std::fs::create_dir_all(site.path("bad")).expect("makes");
        let made = git_command(&site.path("bad"), &["init", "--quiet", "--initial-branch", "main", format]).output().expect("git starts");
        if !made.status.success() {
            // Reftables came with git 2.45; an older git cannot make such a repository to be tried.
            assert!(String::from_utf8_lossy(&made.stderr).contains("ref-format"), "{format}: {made:?}");
            continue;
        }
        make_good(&site.path("bad"));
        is_unusable(&site, Unusable { base: None, says: "serve a clone with the default formats", mend: None }).await;
    }
}
