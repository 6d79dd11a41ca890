//! From what was found and decided to what a caller is told.

use std::sync::Arc;
use std::time::Duration;

use super::probe::{Look, Memory};
use super::repo::{Base, Repo};
use super::slug::{SlugArgs, WorkCall};
use crate::git::ForeignReason;
use crate::model::claim::Claim;
use crate::model::desk::Claimed;
use crate::model::ids::{Lane, RepoName, Slug, TodoKey};
use crate::model::lane::{LaneObstacle, PausedBy};
use crate::model::next::{self, NotOffered};
use crate::model::phase::{Phase, PhaseReport};
use crate::model::plan::Plan;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::roadmap::Catalog;
use crate::model::time::Moment;
use crate::model::todo::{Asker, Ending, Stale, TodoState};
use crate::model::view::ClaimHolder;
use crate::model::work_order::{ClaimView, Completion, NextStep, WorkOrder, WorktreeView};

/// A slug that needs nothing.
pub struct Settled<'a> {
    /// What was found.
    pub found: &'a Look,
    /// What was decided.
    pub plan: &'a Plan,
    /// The caller's claim.
    pub claim: &'a Claim,
}

/// Milliseconds of a duration, as answers give them: whole microseconds.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The report of every phase of a plan that runs nothing.
#[must_use]
pub fn reports(plan: &Plan, found: &Look) -> Vec<PhaseReport> {
    plan.phases
        .iter()
        .map(|decided| PhaseReport {
            phase: decided.phase,
            decision: decided.decision,
            reason: decided.reason,
            duration_ms: ms(found.took[decided.phase as usize]),
        })
        .collect()
}

/// The answer to a call for which nothing had to run.
#[must_use]
pub fn settled(
    args: &SlugArgs,
    settled: &Settled<'_>,
    memory: &Memory,
    call: &WorkCall,
    waited: Duration,
) -> WorkOrder {
    let Settled { found, plan, claim } = settled;
    let mut order = order(args, found, memory, claim, call.granted.unwrap_or(true));
    order.phases = reports(plan, found);
    order.queued_ms = ms(waited);
    order.total_ms = ms(call.accepted.elapsed());
    order
}

/// A WorkOrder without phases and times; `repeated` says that the caller held the claim before.
#[must_use]
pub fn order(args: &SlugArgs, found: &Look, memory: &Memory, claim: &Claim, repeated: bool) -> WorkOrder {
    let SlugArgs { context, repo, todo, .. } = args;
    let (head, base_oid) = (found.head.clone().unwrap_or_else(|| found.base.oid.clone()), found.base.oid.clone());
    let scan = memory.scan.as_ref();
    let state = context.board.of(todo);
    let now = context.clock.moment();
    WorkOrder {
        repo: todo.repo.clone(),
        slug: todo.slug.clone(),
        lane: claim.lane.clone(),
        stage: state.stage,
        worktree: WorktreeView {
            path: repo.worktree_path(&todo.slug).display().to_string(),
            branch: todo.slug.to_string(),
            head,
            base: repo.git_if_open().map_or_else(String::new, |git| git.base_branch().to_owned()),
            base_oid,
            dirty: scan.is_some_and(|scan| scan.dirty),
            dirty_checked_at: scan.map_or(claim.granted_at, |scan| scan.at),
        },
        brief: found
            .base
            .briefs
            .get(&todo.slug)
            .map(|brief| brief.files.iter().map(|file| file.path.clone()).collect())
            .unwrap_or_default(),
        instructions: context.board.filed(todo).map(|filed| filed.todo.brief).filter(|brief| !brief.is_empty()),
        findings: state.findings.clone(),
        claim: ClaimView::of(claim, repeated, &now, context.settings.rules.terms.heartbeat_every_ms),
        operation: memory.record.as_ref().and_then(|record| record.last_operation.clone()),
        phases: Vec::new(),
        queued_ms: 0.0,
        total_ms: 0.0,
        next: next_steps(todo),
    }
}

fn step(action: &str, method: &str, path: String) -> NextStep {
    NextStep { action: action.to_owned(), method: method.to_owned(), path }
}

/// What a worker can do with the todo it holds.
fn next_steps(todo: &TodoKey) -> Vec<NextStep> {
    let at = |verb: &str| format!("/todos/{}/{}/{verb}", todo.repo, todo.slug);
    vec![
        step("complete", "POST", at("complete")),
        step("heartbeat", "POST", at("heartbeat")),
        step("hold", "POST", at("hold")),
        step("release", "POST", at("release")),
        step("work_again", "POST", "/todos/work".to_owned()),
        step("look", "GET", format!("/todos/{}/{}", todo.repo, todo.slug)),
    ]
}

/// The answer to a complete that counts.
#[must_use]
pub fn completion(todo: &TodoKey, ending: &Ending, repeated: bool, phases: Vec<PhaseReport>) -> Completion {
    Completion {
        repo: todo.repo.clone(),
        slug: todo.slug.clone(),
        token: ending.token,
        outcome: ending.how,
        guard: repeated.then(|| "duplicate_complete_guard".to_owned()),
        stage: ending.stage,
        attempts: ending.attempts,
        completed_at: ending.at,
        operation: ending.operation.clone(),
        phases,
        next: vec![
            step("work", "POST", "/todos/work".to_owned()),
            step("look", "GET", format!("/todos/{}/{}", todo.repo, todo.slug)),
        ],
    }
}

/// The problem of a token that is not the live claim's.
#[must_use]
pub fn stale(todo: &TodoKey, token: u64, found: &Stale, now: &Moment, what: &str) -> Problem {
    let how = found.ended.as_ref().map_or_else(
        || format!("token {token} is not the live claim of {todo}"),
        |ending| format!("the claim of {todo} with token {token} ended ({})", ending.how.as_str()),
    );
    let (held, holder) = match &found.holder {
        Some(claim) => (
            format!("{}/{} holds it with token {}", claim.lane, claim.worker, claim.token),
            serde_json::to_value(ClaimHolder::of(claim, now)).unwrap_or_default(),
        ),
        None => ("nobody holds it now".to_owned(), serde_json::Value::Null),
    };
    let detail = format!("{how}; {held}; {what}: ask for work again");
    Problem::new(ProblemCode::StaleToken, detail)
        .with("token", token)
        .with("holder", holder)
        .with("ended", serde_json::to_value(&found.ended).unwrap_or_default())
}

/// The problem of words that do not fit the stage.
#[must_use]
pub fn unfit(why: &str) -> Problem {
    Problem::new(ProblemCode::InvalidRequest, format!("{why}; nothing was changed"))
}

/// The problem of a hold beyond the claim's allowance.
#[must_use]
pub fn hold_too_long(todo: &TodoKey, for_ms: u64, left_ms: i64) -> Problem {
    let detail = format!(
        "the claim of {todo} may wait for people {left_ms} ms more, not {for_ms}; hold it for less, or complete it as blocked"
    );
    Problem::new(ProblemCode::HoldLimit, detail).with("left_ms", left_ms)
}

/// The problem of a todo that another worker holds.
#[must_use]
pub fn already_claimed(todo: &TodoKey, claim: &Claim, now: &Moment) -> Problem {
    let until = claim.expires_at(now);
    let detail =
        format!("{todo} is held by {}/{} until {until}; ask without a slug for another todo", claim.lane, claim.worker);
    Problem::new(ProblemCode::AlreadyClaimed, detail)
        .with("lane", claim.lane.as_str())
        .with("worker", claim.worker.as_str())
        .with("expires_at", until.to_string())
}

/// The problem of a lane that gets no claim now.
#[must_use]
pub fn lane_obstacle(lane: &Lane, obstacle: &LaneObstacle) -> Problem {
    let resume = format!("/lanes/{lane}/resume");
    match obstacle {
        LaneObstacle::Paused(pause) => {
            let by = match pause.by {
                PausedBy::Breaker => "by itself",
                PausedBy::Person => "by a person",
            };
            let end = pause.until.map_or_else(
                || format!("it stays so until POST {resume}"),
                |until| format!("it opens again at {until}, or with POST {resume}"),
            );
            let detail = format!("lane {lane} was paused {by}: {}; {end}", pause.reason);
            Problem::new(ProblemCode::LanePaused, detail)
                .with("lane", lane.as_str())
                .with("state", "paused")
                .with("paused_by", serde_json::to_value(pause.by).unwrap_or_default())
                .with("reason", pause.reason.as_str())
                .with("since", pause.since.to_string())
                .with("until", pause.until.map(|until| until.to_string()))
                .with("fingerprint", pause.fingerprint.clone())
                .with("resume", resume)
                .retry_after(LANE_RETRY_MS)
        }
        LaneObstacle::Probing { width } => Problem::new(
            ProblemCode::LanePaused,
            format!("lane {lane} is opening again, {width} at a time, and waits for what is out; ask again later"),
        )
        .with("lane", lane.as_str())
        .with("state", "probing")
        .with("resume", resume)
        .retry_after(LANE_RETRY_MS),
        LaneObstacle::Full { wip, limit } => Problem::new(
            ProblemCode::WipLimit,
            format!("lane {lane} has {wip} claims and may have {limit}; complete or release one, or ask again later"),
        )
        .with("lane", lane.as_str())
        .with("wip", *wip)
        .with("wip_limit", *limit)
        .retry_after(LANE_RETRY_MS),
    }
}

/// When to ask a lane again that gets no claim now.
const LANE_RETRY_MS: u64 = 30_000;

/// A request for this very todo that came to nothing.
#[must_use]
pub fn not_granted(todo: &TodoKey, base: &Base, asker: &Asker, claimed: Claimed, now: &Moment) -> Problem {
    match claimed {
        Claimed::Refused(refusal) => refused(base, todo, refusal),
        Claimed::Held(claim) => already_claimed(todo, &claim, now),
        Claimed::Waiting { attempts, until } => {
            let detail = format!(
                "{todo} failed {attempts} times and waits until {}; POST /todos/{}/{}/redrive lets it go on now",
                now.wall_of(until),
                todo.repo,
                todo.slug
            );
            Problem::new(ProblemCode::Backoff, detail)
                .with("attempts", attempts)
                .with("until", now.wall_of(until).to_string())
                .retry_after(now.until_ms(until).max(1))
        }
        Claimed::OwnWork => Problem::new(
            ProblemCode::OwnWork,
            format!(
                "{todo} is at review, and {}/{} has built it; another worker has to review it",
                asker.lane, asker.worker
            ),
        ),
        Claimed::Lane(obstacle) => lane_obstacle(&asker.lane, &obstacle),
        Claimed::Nothing | Claimed::Granted { .. } => {
            Problem::new(ProblemCode::NoWork, format!("{todo} cannot be given out now"))
        }
    }
}

/// A request for any todo that came to nothing: why, per todo.
#[must_use]
pub fn no_work(repo: &RepoName, base: &Base, lane: &Lane, reasons: Vec<NotOffered>) -> Problem {
    let detail = match base.catalog.fault() {
        Some(fault) => format!("the roadmap of {repo} is broken: {fault}"),
        None if reasons.is_empty() => {
            format!("{repo} has no todo in {}/roadmap.yaml on its base branch", base.config.todos_dir)
        }
        None => format!("no todo of {repo} can go to lane {lane} now; reasons says why, per todo"),
    };
    let total = reasons.len();
    let shown: Vec<NotOffered> = reasons.into_iter().take(REASONS_MAX).collect();
    let left_off = total - shown.len();
    let problem =
        Problem::new(ProblemCode::NoWork, detail).with("reasons", serde_json::json!(shown)).retry_after(5_000);
    if left_off == 0 { problem } else { problem.with("reasons_left_off", left_off) }
}

/// Reasons an empty answer lists; how many more there were it says as a number.
const REASONS_MAX: usize = 500;

/// Why this todo cannot be given to anybody, if so.
pub fn refusal(
    base: &Base,
    catalog: &Catalog,
    seen: &impl Fn(&Slug) -> Arc<TodoState>,
    todo: &TodoKey,
) -> Option<Problem> {
    next::check(catalog, &todo.slug, seen).err().map(|refusal| refused(base, todo, refusal))
}

/// The problem of a todo that cannot be given to anybody.
#[must_use]
pub fn refused(base: &Base, todo: &TodoKey, refusal: next::Refusal) -> Problem {
    match refusal {
        next::Refusal::Unknown => Problem::new(
            ProblemCode::UnknownSlug,
            format!(
                "{todo} is neither in {dir}/roadmap.yaml nor under {dir}/ on the base commit {oid}; add it there and commit, or POST /todos/{repo}",
                dir = base.config.todos_dir,
                oid = base.oid,
                repo = todo.repo
            ),
        ),
        next::Refusal::Invalid(fault) => Problem::new(ProblemCode::TodoInvalid, format!("{todo}: {fault}"))
            .with("file", fault.file)
            .with("line", fault.line),
        next::Refusal::DependenciesUnmet(slugs) => {
            let names: Vec<String> = slugs.iter().map(ToString::to_string).collect();
            let detail = format!("{todo} comes after {}, not done yet", names.join(", "));
            Problem::new(ProblemCode::DependenciesUnmet, detail).with("unmet", names)
        }
        next::Refusal::Blocked(reason) => {
            let redrive = format!("/todos/{}/{}/redrive", todo.repo, todo.slug);
            let detail = format!("{todo} is blocked: {reason}; a person lets it go on with POST {redrive}");
            Problem::new(ProblemCode::TodoBlocked, detail).with("reason", reason).with("redrive", redrive)
        }
        next::Refusal::Closed(stage) => Problem::new(ProblemCode::NoWork, format!("{todo} is {}", stage.as_str()))
            .with("reasons", serde_json::json!([{ "slug": todo.slug, "why": stage.as_str(), "code": stage.as_str() }])),
    }
}

/// The problem of a plan that cannot go on at this phase.
#[must_use]
pub fn cannot(phase: Phase, todo: &TodoKey, repo: &Arc<Repo>, found: &Look, memory: &Memory) -> Problem {
    let path = repo.worktree_path(&todo.slug);
    match phase {
        Phase::Worktree => foreign(todo, &path, found.foreign.as_ref()),
        Phase::SyncMain => {
            let files = memory.record().conflict.map(|known| known.files).unwrap_or_default();
            conflict(todo, &path.display().to_string(), found, &files)
        }
        Phase::Resolve | Phase::Prepare | Phase::SyncTodo | Phase::Gates | Phase::Dispatch => {
            Problem::new(ProblemCode::Internal, format!("{todo} stopped at {} without a reason", phase.as_str()))
        }
    }
}

fn foreign(todo: &TodoKey, path: &std::path::Path, reason: Option<&ForeignReason>) -> Problem {
    let shown = path.display();
    let what = reason.map_or_else(|| "something else stands there".to_owned(), ToString::to_string);
    let detail = format!(
        "the worktree of {todo} belongs at {shown}, but {what}; move it away and ask again, nothing was touched"
    );
    Problem::new(ProblemCode::WorktreeForeign, detail).with("path", shown.to_string())
}

/// The problem of a branch the base does not merge into.
#[must_use]
pub fn conflict(todo: &TodoKey, path: &str, found: &Look, files: &[String]) -> Problem {
    let detail = match files {
        [] => format!(
            "the branch of {todo} has commits of its own, so it cannot be moved forward to {}; merge or rebase it in {path}, then ask again",
            found.base.oid
        ),
        _ => format!(
            "base {} does not merge into the branch of {todo}: {}; nothing was changed: merge it in {path}, commit, then ask again",
            found.base.oid,
            files.join(", ")
        ),
    };
    Problem::new(ProblemCode::MergeConflict, detail)
        .with("files", files)
        .with("base_oid", found.base.oid.as_str())
        .with("worktree", path)
}
