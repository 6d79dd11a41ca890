//! `slugline demo`: a sample repository, two requests for work, and what to try next.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::client::Client;

/// The sample's settings: a prepare that takes a moment, and a gate.
const SETTINGS: &str = r#"# How Slugline prepares, syncs and judges worktrees of this repository.
[prepare]
command = "sh tools/prepare.sh"
inputs = ["tools/prepare.sh", "packages.lock"]
outputs = [".cache"]
timeout_ms = 60000

[[gates]]
name = "check"
command = "sh tools/check.sh"
timeout_ms = 60000
"#;

const PREPARE: &str = "mkdir -p .cache
for package in $(cat packages.lock); do
    echo \"fetching $package\"
    sleep 0.2
    echo \"$package\" > \".cache/$package\"
done
";

const CHECK: &str = "test -f README.md && echo \"all is well\"
";

const ROADMAP: &str =
    "- slug: fix-login\n- slug: add-search\n  priority: 1\n- slug: ship-it\n  after: [fix-login, add-search]\n";

/// A repository made for the demo.
pub struct Sample {
    /// Where it is.
    pub path: PathBuf,
}

/// Makes the sample repository under `dir`. Blocks.
pub fn make_sample(dir: &Path) -> anyhow::Result<Sample> {
    let path = dir.join("sample");
    let files = [
        (".slugline.toml", SETTINGS),
        ("tools/prepare.sh", PREPARE),
        ("tools/check.sh", CHECK),
        ("packages.lock", "left-pad\nright-pad\nmiddle-pad\n"),
        (".gitignore", ".cache/\n"),
        ("README.md", "# A sample\n"),
        ("todos/roadmap.yaml", ROADMAP),
        ("todos/fix-login/requirements.md", "# Fix the login\n\nPeople with a dot in their name cannot log in.\n"),
        ("todos/add-search/requirements.md", "# Add search\n"),
        ("todos/ship-it/requirements.md", "# Ship it\n"),
    ];
    for (name, content) in files {
        let file = path.join(name);
        std::fs::create_dir_all(file.parent().unwrap_or(&path))?;
        std::fs::write(&file, content).with_context(|| file.display().to_string())?;
    }
    for args in [
        &["init", "--quiet", "--initial-branch", "main"][..],
        &["add", "--all"],
        &["commit", "--quiet", "--message", "A sample repository"],
    ] {
        git(&path, args)?;
    }
    Ok(Sample { path })
}

/// git as a stranger's machine has it: no configuration of the user's, an identity of its own.
fn git(dir: &Path, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("git")
        .args(args)
        .current_dir(dir)
        .envs([
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_AUTHOR_NAME", "Sample"),
            ("GIT_AUTHOR_EMAIL", "sample@localhost"),
            ("GIT_COMMITTER_NAME", "Sample"),
            ("GIT_COMMITTER_EMAIL", "sample@localhost"),
        ])
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .context("git cannot be started; install it")?;
    ensure!(output.status.success(), "git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Asks for work twice and shows both answers.
pub async fn show(client: &Client, out: &mut impl Write) -> anyhow::Result<()> {
    let request = json!({ "lane": "builder", "slug": "fix-login" });
    writeln!(out, "POST /todos/work {request}\n")?;
    let mut last = String::new();
    let first = client
        .work(&request, |phase| {
            if phase != last {
                eprintln!("  … {phase}");
                phase.clone_into(&mut last);
            }
        })
        .await?;
    table(&first, "first answer", out)?;
    let second = client.work(&request, |_| {}).await?;
    table(&second, "second answer, nothing changed", out)?;
    let (before, after) = (first["total_ms"].as_f64().unwrap_or(0.0), second["total_ms"].as_f64().unwrap_or(0.0));
    if after > 0.0 {
        writeln!(
            out,
            "The second was {:.0} times as fast: no process was started and nothing was written.\n",
            before / after
        )?;
    }
    Ok(())
}

fn table(order: &Value, title: &str, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{title}: worktree {}", order["worktree"]["path"].as_str().unwrap_or("?"))?;
    for phase in order["phases"].as_array().into_iter().flatten() {
        let text = |name: &str| phase[name].as_str().unwrap_or("?").to_owned();
        writeln!(
            out,
            "  {:<10} {:<5} {:<20} {:>10.3} ms",
            text("phase"),
            text("decision"),
            text("reason"),
            phase["duration_ms"].as_f64().unwrap_or(0.0)
        )?;
    }
    writeln!(out, "  {:<37} {:>10.3} ms\n", "total", order["total_ms"].as_f64().unwrap_or(0.0))
}

/// What can be tried next, in lines that work when pasted.
pub fn what_next(address: &str, token: &Path, sample: &Path, out: &mut impl Write) -> std::io::Result<()> {
    let data_dir = token.parent().unwrap_or(token).display();
    let (token, sample) = (token.display(), sample.display());
    writeln!(
        out,
        "address   http://{address}\ntoken     {token}\nsample    {sample}\n\nTry next:\n\n  # work for another agent, as instructions\n  curl -s -H \"Authorization: Bearer $(cat {token})\" -H 'Content-Type: application/json' -H 'Accept: text/markdown' \\\n       -d '{{\"lane\":\"builder\",\"worker\":\"w2\"}}' http://{address}/todos/work\n\n  # a new package: prepare runs again, once\n  echo new-pad >> {sample}/packages.lock && git -C {sample} commit -qam 'A new package'\n  curl -s -H \"Authorization: Bearer $(cat {token})\" -H 'Content-Type: application/json' \\\n       -d '{{\"lane\":\"builder\",\"slug\":\"fix-login\"}}' http://{address}/todos/work\n\n  # say that you are alive, then that it is done: it is judged, and counts once\n  curl -s -H \"Authorization: Bearer $(cat {token})\" -H 'Content-Type: application/json' \\\n       -d '{{\"token\":1,\"progress\":\"looking around\"}}' http://{address}/todos/sample/fix-login/heartbeat\n  curl -s -H \"Authorization: Bearer $(cat {token})\" -H 'Content-Type: application/json' \\\n       -d '{{\"token\":1,\"outcome\":\"done\"}}' http://{address}/todos/sample/fix-login/complete\n\n  # all of it in a browser\n  slugline console --data-dir {data_dir}\n\n  # lanes, and what failed in them\n  curl -s -H \"Authorization: Bearer $(cat {token})\" http://{address}/lanes\n  curl -s -H \"Authorization: Bearer $(cat {token})\" http://{address}/failures\n\n  # who does what, and how long phases take\n  curl -s -H \"Authorization: Bearer $(cat {token})\" http://{address}/actors\n  curl -s http://{address}/metrics | grep slugline_phase\n"
    )
}
