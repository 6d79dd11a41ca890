//! Commands that are not run: git's have their effect in the repository at once, as far as the daemon asks for any; those of
//! the repository have none. How long they take, and how they end, is up to the dice.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use git2::{BranchType, ErrorCode, Oid, Repository, Signature, Time, WorktreeAddOptions};
use slugline::process::{CommandSpec, Exit, ExitOutcome, ProcessError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// How a command ends, and when its effect is.
#[derive(Clone, Copy)]
enum Course {
    /// As it should.
    Well,
    /// With an exit code; `true`: after it did what it should.
    Badly(bool),
    /// Not at all, until its deadline.
    Never(bool),
    /// It is never begun.
    NotStarted,
    /// Nobody knows; what it should do is done.
    Lost,
}

/// Runs one.
pub async fn run(world: Arc<World>, mut spec: CommandSpec, cancel: CancellationToken) -> Result<Exit, ProcessError> {
    let (course, half_ms) = world.roll(|dice| {
        let slow = dice.below(20) == 0;
        (dice.below(100), dice.below(if slow { 4_000 } else { 60 }))
    });
    let course = match course {
        _ if !world.has_faults() => Course::Well,
        0..86 => Course::Well,
        86..91 => Course::Badly(false),
        91..94 => Course::Badly(true),
        94..96 => Course::Never(false),
        96..97 => Course::Never(true),
        97..98 => Course::NotStarted,
        _ => Course::Lost,
    };
    if matches!(course, Course::NotStarted) {
        return Err(ProcessError::NotStarted { program: "git".to_owned(), reason: "made to fail".to_owned() });
    }
    if let Some(started) = spec.on_started.take() {
        started(4_711);
    }
    let begun = Instant::now();
    let words: Vec<String> = spec.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let effect = || if words[0] == "git" { git(&world, &spec.cwd, &words[1..]) } else { Ok(()) };
    let ended = async {
        let half = Duration::from_millis(half_ms);
        sleep(half).await;
        let did = match course {
            Course::Badly(false) | Course::Never(false) => Ok(()),
            _ => effect(),
        };
        sleep(half).await;
        match (course, did) {
            (_, Err(why)) => (ExitOutcome::Code(128), format!("fatal: {why}")),
            (Course::Well, Ok(())) => (ExitOutcome::Code(0), String::new()),
            (Course::Badly(_), Ok(())) => {
                let which = world.roll(|dice| dice.below(4));
                (
                    ExitOutcome::Code(1),
                    format!("error: case {} of the suite is wrong", ["a", "b", "c", "d"][which as usize]),
                )
            }
            (_, Ok(())) => {
                sleep((begun + spec.deadline).saturating_duration_since(Instant::now())).await;
                (ExitOutcome::TimedOut, String::new())
            }
        }
    };
    let lost = matches!(course, Course::Lost);
    let (outcome, tail) = tokio::select! {
        biased;
        () = cancel.cancelled() => {
            sleep(Duration::from_millis(20)).await;
            (ExitOutcome::Cancelled, String::new())
        }
        ended = ended => ended,
    };
    if lost && outcome != ExitOutcome::Cancelled {
        return Err(ProcessError::HelperLost { mark: spec.mark.clone(), killed: 0, survivors: 0 });
    }
    let duration = begun.elapsed();
    let (killed, survivors, output_bytes, cpu) = (0, 0, 0, Duration::ZERO);
    Ok(Exit { outcome, duration, tail, pid: 4_711, killed, survivors, output_bytes, left_out: 0, cpu })
}

/// What git is asked for, done by the library.
fn git(world: &World, cwd: &Path, words: &[String]) -> Result<(), String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let main = || Repository::open(world.repository());
    let done = match words.as_slice() {
        ["worktree", "add", .., "-b", slug, target, base] => {
            main().and_then(|repo| make(&repo, slug, Path::new(target), Some(base)))
        }
        ["worktree", "add", "--quiet", target, slug] => {
            main().and_then(|repo| make(&repo, slug, Path::new(target), None))
        }
        ["update-ref", "-d", name, _] => main().and_then(|repo| repo.find_reference(name)?.delete()),
        ["merge", "--abort"] | ["update-index", ..] => Ok(()),
        ["merge", .., base] => Repository::open(cwd).and_then(|repo| merge(world, &repo, base)),
        other => return Err(format!("nobody taught this git to {other:?}")),
    };
    done.map_err(|error| error.message().to_owned())
}

fn make(repo: &Repository, slug: &str, target: &Path, base: Option<&str>) -> Result<(), git2::Error> {
    let branch = match base {
        Some(base) => repo.branch(slug, &repo.find_commit(Oid::from_str(base)?)?, false)?,
        None => repo.find_branch(slug, BranchType::Local)?,
    };
    let mut options = WorktreeAddOptions::new();
    options.reference(Some(branch.get()));
    let made = repo.worktree(slug, target, Some(&options)).map(drop);
    if made.is_err() {
        // git clears away what it began; the library leaves an empty directory.
        let _ = std::fs::remove_dir(repo.path().join("worktrees").join(slug));
    }
    made
}

/// All trees are alike, so a merge is a commit and nothing else.
fn merge(world: &World, repo: &Repository, base: &str) -> Result<(), git2::Error> {
    let (head, base) = (repo.head()?.peel_to_commit()?, repo.find_commit(Oid::from_str(base)?)?);
    if repo.graph_descendant_of(head.id(), base.id())? {
        return Ok(());
    }
    let of = repo.head()?.name().map(str::to_owned).map_err(|_| git2::Error::from_str("no name"))?;
    if repo.graph_descendant_of(base.id(), head.id())? {
        return repo.reference(&of, base.id(), true, "fast forward").map(drop);
    }
    let by = signature(world);
    repo.commit(Some(&of), &by, &by, "merge", &head.tree()?, &[&head, &base]).map(drop)
}

fn signature(world: &World) -> Signature<'static> {
    let at = Time::new(world.now_ms() / 1_000, 0);
    Signature::new("somebody", "somebody@localhost", &at).expect("a signature")
}

/// A worker commits on the branch of a todo, when there is one.
pub fn commit(world: &World, slug: &str) {
    let repo = Repository::open(world.repository()).expect("opens");
    let name = format!("refs/heads/{slug}");
    let Ok(head) = repo.find_reference(&name).and_then(|at| at.peel_to_commit()) else { return };
    let by = signature(world);
    let made = repo.commit(Some(&name), &by, &by, "work", &head.tree().expect("a tree"), &[&head]);
    assert!(made.is_ok_and(|_| true), "commits");
}

/// The base moves: with some of the branches, or by itself.
pub fn move_base(world: &World, slugs: &[String]) {
    let repo = Repository::open(world.repository()).expect("opens");
    let base = repo.find_reference("refs/heads/main").and_then(|at| at.peel_to_commit()).expect("a base");
    let head = |slug: &String| match repo.find_reference(&format!("refs/heads/{slug}")) {
        Ok(at) => at.peel_to_commit().ok(),
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::NotFound);
            None
        }
    };
    let heads: Vec<_> = slugs.iter().filter_map(head).filter(|head| head.id() != base.id()).collect();
    let parents: Vec<_> = std::iter::once(&base).chain(&heads).collect();
    let by = signature(world);
    repo.commit(Some("refs/heads/main"), &by, &by, "base", &base.tree().expect("a tree"), &parents).expect("commits");
}
