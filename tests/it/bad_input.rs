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
pub fn listing(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).expect("reads") {
            let entry = entry.expect("reads");
            let meta = entry.metadata().expect("is there");
            let name = entry.file_name().to_string_lossy().into_owned();
            // What the daemon keeps of itself changes while it lives.
            if name.starts_with("ledger.") || name == "jobs" || name.starts_with("readiness.") {
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
    let hostile = [
        "",
        ".",
        "..",
        "../x",
        "../../etc",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "a\0b",
        "\u{0}",
        "%2e%2e%2f",
        "a%2fb",
        "x.lock",
        "con",
        "nul.txt",
        "\u{202e}xif",
        "ｆｉｘ",
        "FIX",
        "fix ",
        " fix",
        "fix\n",
        "-rf",
        "--help",
        "@{-1}",
        "HEAD^",
        "refs/heads/main",
        "fix..main",
        "~",
        "$(id)",
        "`id`",
        "*",
        long.as_str(),
    ];
    for name in hostile {
        let shown: String = name.chars().take(40).collect();
        for body in [
            json!({ "lane": "builder", "slug": name }),
            json!({ "lane": "builder", "slug": "fix", "repo": name }),
            json!({ "lane": name, "slug": "fix" }),
        ] {
            let reply = house.work(body).await;
            let told = problem(&reply, 400, "invalid_name");
            let detail = told["detail"].as_str().expect("text");
            assert!(detail.contains("a-z 0-9"), "the rule is not said for {shown:?}: {detail}");
            assert!(
                !detail.contains(['\0', '\u{202e}', '\n']) && reply.body.len() < 2_000,
                "{shown:?} comes back as it was: {detail:?}"
            );
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
    let hostile = [
        "..",
        "%2e%2e",
        "%2e%2e%2f",
        "..%2f..%2fetc",
        "a%2fb",
        "a%5cb",
        "%00",
        "fix%00",
        "x.lock",
        "con",
        "%e2%80%ae",
        "%ff%fe",
        "%",
        "%zz",
        "FIX",
        "fix%20",
        "*",
    ];
    for name in hostile {
        for path in [
            format!("/todos/app/{name}"),
            format!("/todos/{name}/fix"),
            format!("/operations/{name}"),
            format!("/operations/{name}/log"),
        ] {
            let reply = house.client.get(&path).await.expect("answers");
            let code = reply.json()["code"].as_str().unwrap_or("").to_owned();
            assert!(
                matches!(
                    (reply.status, code.as_str()),
                    (400, "invalid_name" | "invalid_request") | (404, "not_found" | "unknown_operation")
                ),
                "{path}: {}",
                reply.text()
            );
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
    let told = problem(
        &house.work(json!({ "lane": "builder", "slug": "fix", "repo": "nope" })).await,
        404,
        "unknown_repository",
    );
    assert_eq!(told["registered"], json!(["app", "lib"]));
    let told = problem(&house.work(json!({ "lane": "builder", "slug": "fix" })).await, 400, "invalid_request");
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("app, lib")), "{told}");
    problem(&house.work(json!({ "lane": "builder", "slug": "nope", "repo": "app" })).await, 404, "unknown_slug");
    problem(&house.client.get("/todos/app/nope").await.expect("answers"), 404, "unknown_slug");
    problem(&house.client.get("/todos/nope/fix").await.expect("answers"), 404, "unknown_repository");
    problem(&house.client.get("/todos?repo=nope").await.expect("answers"), 404, "unknown_repository");
    problem(
        &house.client.get("/operations/01JAAAAAAAAAAAAAAAAAAAAAAA").await.expect("answers"),
        404,
        "unknown_operation",
    );
    assert!(!site.path("data/worktrees").exists(), "a worktree was made for a call that was refused");
    house.stop().await;
}

/// What makes a repository usable.
type Mend = Box<dyn Fn(&Path)>;
/// Arguments, environment, and what stderr has to say.
type Usage<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);

/// A repository that cannot be served, registered beside a good one: how it is registered, what its problem has to
/// say besides its path, and what mends it.
struct Unusable {
    base: Option<&'static str>,
    says: &'static str,
    mend: Option<Mend>,
}

/// Serves `bad`, made by the caller at the site's `bad`, beside a good repository, and checks all that has to hold.
async fn is_unusable(site: &Site, unusable: Unusable) {
    let (bad, good) = (site.path("bad"), site.app(&["fix"], ""));
    let base = unusable.base.map_or_else(String::new, |base| format!("base = {base:?}\n"));
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = \"data\"\n[[repositories]]\nname = \"bad\"\npath = {bad:?}\n{base}[[repositories]]\nname = \"app\"\npath = {:?}\n",
        good.path
    );
    let config = Config::load(&Flags::default(), &BTreeMap::new(), Some((&site.path("slugline.toml"), &text)))
        .expect("the test's configuration is valid");
    let house = House::start(config, Faults::default(), 0, site.promises.clone()).await;
    let before = listing(site.dir.path());
    for body in
        [json!({ "lane": "builder", "slug": "fix", "repo": "bad" }), json!({ "lane": "builder", "repo": "bad" })]
    {
        let told = problem(&house.work(body).await, 422, "repository_unusable");
        let detail = told["detail"].as_str().expect("text");
        assert!(detail.contains(bad.to_str().expect("text")) && detail.contains(unusable.says), "{detail}");
    }
    problem(&house.client.get("/todos?repo=bad").await.expect("answers"), 422, "repository_unusable");
    assert_eq!(listing(site.dir.path()), before);
    alive(&house).await;
    let works =
        |repo: &'static str| house.work(json!({ "lane": "builder", "slug": "fix", "repo": repo, "wait_ms": 45_000 }));
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
    is_unusable(
        &site,
        Unusable { base: None, says: "is not a git repository; give the directory", mend: Some(Box::new(make_good)) },
    )
    .await;
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
    is_unusable(
        &site,
        Unusable { base: None, says: "has no commits yet; make the first one", mend: Some(Box::new(make_good)) },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_not_there_is_said_with_the_branches_there_are() {
    let site = Site::new();
    make_good(&site.path("bad"));
    let mend = |path: &Path| drop(git(path, &["branch", "nope"]));
    is_unusable(
        &site,
        Unusable {
            base: Some("nope"),
            says: "has no branch nope; set base to one of its branches, such as main",
            mend: Some(Box::new(mend)),
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_a_commit_and_an_expression_are_no_bases() {
    for (base, says) in [
        ("v1", "is not a branch (a tag)"),
        ("HEAD", "is not a branch (not a branch name)"),
        ("main~0", "is not a branch (not a branch name)"),
        ("--all", "is not a branch (not a branch name)"),
        ("4b825dc642cb6eb9a060e54bf8d69288fbee4904", "is not a branch (a commit)"),
    ] {
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
        let made = git_command(&site.path("bad"), &["init", "--quiet", "--initial-branch", "main", format])
            .output()
            .expect("git starts");
        if !made.status.success() {
            // Reftables came with git 2.45; an older git cannot make such a repository to be tried.
            assert!(String::from_utf8_lossy(&made.stderr).contains("ref-format"), "{format}: {made:?}");
            continue;
        }
        make_good(&site.path("bad"));
        is_unusable(&site, Unusable { base: None, says: "serve a clone with the default formats", mend: None }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_settings_on_the_base_are_said_with_line_and_key_and_mended_by_a_commit() {
    let site = Site::new();
    let broken = "[prepare]\ncomand = \"make\"\n[sync]\nmain = \"sometimes\"\n[todos]\ndir = \"../elsewhere\"\n";
    let (app, lib) = (site.app(&["fix"], broken), Repo::with(site.path("lib"), &["fix"], ""));
    let house = site.start(&[&app, &lib]).await;
    let work =
        |repo: &'static str| house.work(json!({ "lane": "builder", "slug": "fix", "repo": repo, "wait_ms": 45_000 }));
    let told = problem(&work("app").await, 422, "repository_config_invalid");
    let detail = told["detail"].as_str().expect("text");
    for part in [
        ".slugline.toml:2: prepare.comand: unknown key; did you mean command?",
        ".slugline.toml:4: sync.main: \"sometimes\"",
        ".slugline.toml:6: todos.dir",
        "repository app",
    ] {
        assert!(detail.contains(part), "{part} is not in: {detail}");
    }
    assert!(told["faults"].as_array().is_some_and(|faults| faults.len() >= 3), "{told}");
    assert!(!site.path("data/worktrees").exists());
    assert_eq!(work("lib").await.status, 200);
    // What stands in the work tree or on another branch mends nothing; the base does.
    app.write(".slugline.toml", "");
    problem(&work("app").await, 422, "repository_config_invalid");
    app.commit("mend the settings");
    let mended = work("app").await;
    assert_eq!(mended.status, 200, "{}", mended.text());
    // Broken again: a worktree that is there already is no way around.
    app.write(".slugline.toml", "[prepare\n");
    app.commit("break the settings");
    let told = problem(&work("app").await, 422, "repository_config_invalid");
    assert!(
        told["detail"].as_str().is_some_and(|detail| detail.contains(".slugline.toml:1: not valid TOML")),
        "{told}"
    );
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_or_a_whole_repository_that_goes_away_is_said_and_works_again_when_it_is_back() {
    let site = Site::new();
    let (app, lib) = (site.app(&["fix"], ""), Repo::with(site.path("lib"), &["fix"], ""));
    let house = site.start(&[&app, &lib]).await;
    let work =
        |repo: &'static str| house.work(json!({ "lane": "builder", "slug": "fix", "repo": repo, "wait_ms": 45_000 }));
    assert_eq!(work("app").await.status, 200);
    app.git(&["branch", "--move", "main", "elsewhere"]);
    let told = problem(&work("app").await, 422, "repository_unusable");
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("refs/heads/main is gone")), "{told}");
    app.git(&["branch", "--move", "elsewhere", "main"]);
    assert_eq!(work("app").await.status, 200);
    std::fs::rename(&app.path, site.path("moved")).expect("moves");
    let told = problem(&work("app").await, 422, "repository_unusable");
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("app")), "{told}");
    assert_eq!(work("lib").await.status, 200);
    std::fs::rename(site.path("moved"), &app.path).expect("moves back");
    assert_eq!(work("app").await.status, 200);
    house.stop().await;
}

/// Runs the program in the site's directory with only these variables and its data under the site; has to end.
fn slugline(site: &Site, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
    command.args(args).env_clear().env("HOME", site.path("home")).envs(env.iter().copied());
    command.current_dir(site.dir.path()).stdin(Stdio::null()).output().expect("runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_usage_ends_with_64_and_says_every_fault_at_once() {
    let site = Site::new();
    write(
        &site.path("own.toml"),
        "lisen = \"127.0.0.1:0\"\n[lease]\nduration_ms = \"long\"\n[[repositories]]\nname = \"../x\"\npath = \"x\"\n",
    );
    let cases: [Usage<'_>; 10] = [
        (&["serve", "--lissen", "127.0.0.1:0"], &[], &["--lissen", "--listen"]),
        (&[], &[], &["Usage", "serve"]),
        (&["sreve"], &[], &["sreve", "serve"]),
        (
            &["serve", "--listen", "192.0.2.1:0"],
            &[("SLUGLINE_AUTH_MODE", "none")],
            &["listen: 192.0.2.1:0 is not on loopback", "mode = \"token\""],
        ),
        (&["serve", "--listen", "192.0.2.1:80"], &[("SLUGLINE_AUTH_MODE", "none")], &["not on loopback"]),
        (&["serve", "--allowed-hosts", "box,*"], &[], &["http.allowed_hosts: \"*\" is no host such as"]),
        (&["serve", "--listen", "nowhere"], &[], &["listen: \"nowhere\" is not an address such as 127.0.0.1:7584"]),
        (&["serve", "--config", "none.toml"], &[], &["none.toml: "]),
        (
            &["serve"],
            &[("SLUGLINE_LISTENN", "x"), ("SLUGLINE_LEASE_DURATION_MS", "-1"), ("SLUGLINE_LOG_LEVEL", "=loud=")],
            &["SLUGLINE_LISTENN: unknown variable", "lease.duration_ms", "log.level"],
        ),
        (
            &["serve", "--config", "own.toml", "--listen", "0.0.0.0"],
            &[("SLUGLINE_AUTH_MODE", "maybe")],
            &[
                "own.toml:1: lisen: unknown key; did you mean listen?",
                "own.toml:3: lease.duration_ms",
                "own.toml:5: repositories[0].name",
                "auth.mode: \"maybe\" is not one of token, none",
                "listen: \"0.0.0.0\" is not an address",
            ],
        ),
    ];
    for (args, env, says) in cases {
        let output = slugline(&site, args, env);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {text}");
        for part in says {
            assert!(text.contains(part), "{args:?}: {part} is not in: {text}");
        }
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(!site.path("home").exists(), "something was made before the faults were found");
}

#[test]
fn help_and_version_end_well() {
    let site = Site::new();
    for (args, says) in [
        (&["--help"][..], "slugline serve --repo"),
        (&["serve", "--help"], "--data-dir"),
        (&["demo", "--help"], "--once"),
        (&["help", "serve"], "--listen"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let output = slugline(&site, args, &[]);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", said(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains(says), "{args:?}");
    }
    assert!(!site.path("home").exists());
}

#[test]
fn a_damaged_ledger_a_foreign_file_and_a_short_token_end_the_start_and_stay_as_they_are() {
    let garbage = "this is no database, but it may be somebody's only copy of something\n".repeat(200);
    let text_data = "a valid database of somebody else";
    for (file, content, says, code) in
        [("ledger.db", garbage.as_str(), "ledger", 65), ("token", "short", "too short; remove the file", 1)]
    {
        let site = Site::new();
        let at = site.path("data").join(file);
        write(&at, content);
        let output = slugline(&site, &["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"], &[]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(code), "{file}: {text}");
        assert!(text.contains(says) && !text.contains("panicked"), "{file}: {text}");
        assert_eq!(std::fs::read_to_string(&at).expect("is there"), content, "{file} was changed");
        assert!(!site.path("data/address").exists(), "{file}: an address was written");
    }
    // A database, but not ours.
    let site = Site::new();
    let at = site.path("data/ledger.db");
    std::fs::create_dir_all(site.path("data")).expect("makes");
    let foreign = rusqlite::Connection::open(&at).expect("opens");
    foreign
        .execute_batch(&format!("create table notes (text); insert into notes values ('{text_data}');"))
        .expect("writes");
    drop(foreign);
    let before = std::fs::read(&at).expect("is there");
    let output = slugline(&site, &["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"], &[]);
    assert_eq!(output.status.code(), Some(65), "{}", said(&output));
    assert!(said(&output).contains("ledger"), "{}", said(&output));
    assert!(std::fs::read(&at).expect("is there") == before, "a database of somebody else was changed");
}

#[test]
fn a_taken_address_and_an_unwritable_place_are_said() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("address").to_string();
    let output = slugline(&site, &["serve", "--listen", &address, "--data-dir", "data"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains(&format!("cannot listen on {address}")) && said(&output).contains("--listen"),
        "{}",
        said(&output)
    );
    write(&site.path("file"), "");
    let output = slugline(&site, &["serve", "--listen", "127.0.0.1:0", "--data-dir", "file/data"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("data directory"), "{}", said(&output));
}
