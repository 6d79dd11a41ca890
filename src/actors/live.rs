//! The way in to what is shown as it changes: worktrees, sessions, events. The rest of [`Handle`] is in `handle`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

use super::context::{Context, RepoEntry};
use super::handle::Handle;
use super::inventory::{InventoryMsg, Shown, unknown};
use super::look::ask_git;
use super::mailbox::AskError;
use super::removal;
use super::sessions::{self, SessionsMsg};
use crate::git::Found;
use crate::model::event::EventFilter;
use crate::model::ids::{RepoName, SessionId, TodoKey};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::session::{
    NewSessionEvent, SessionEvent, SessionGroup, SessionGroupView, SessionQuery, SessionView, group_of,
};
use crate::model::time::Moment;
use crate::model::view::ClaimHolder;
use crate::model::worktree::{Removal, WorktreeDetail, WorktreeRow};

/// How long the registry of a repository may take to be read before the list is given without it.
const SURVEY_LIMIT: Duration = Duration::from_secs(5);
/// Paths of a worktree that are named.
const FILES_MAX: usize = 1_000;
/// Commits of a worktree that are named.
const COMMITS_MAX: usize = 100;
/// How long counting the files of a worktree may take.
const DISK_LIMIT: Duration = Duration::from_secs(20);

impl Handle {
    fn entries(&self, repo: Option<&RepoName>) -> Result<Vec<&RepoEntry>, Problem> {
        match repo {
            Some(name) => self.context().repo(Some(name)).map(|entry| vec![entry]),
            None => Ok(self.context().repos.values().collect()),
        }
    }

    /// Says that somebody looks at these worktrees, and waits until their registries were read; with `wait`, until
    /// every one of them was looked at or the time is up.
    pub async fn want_worktrees(&self, repo: Option<&RepoName>, wait: Duration) -> Result<(), Problem> {
        let want = |entry: &RepoEntry| {
            let address = entry.inventory.clone();
            let (looked, limit) = if wait.is_zero() { (false, SURVEY_LIMIT) } else { (true, wait) };
            async move { address.ask(limit, |reply| InventoryMsg::Want { looked, reply }).await }
        };
        // Whatever is not read in time is shown as it is known.
        drop(futures_util::future::join_all(self.entries(repo)?.into_iter().map(want)).await);
        Ok(())
    }

    /// Changes whenever the list of these worktrees does, but for the passing of time.
    pub fn worktrees_version(&self, repo: Option<&RepoName>) -> Result<String, Problem> {
        let entries = self.entries(repo)?;
        let rows: Vec<String> = entries.iter().map(|entry| entry.rows.version().to_string()).collect();
        let context = self.context();
        Ok(format!("{}.{}.{}", rows.join("-"), context.board.version(), context.sessions.version()))
    }

    /// The worktrees as they are known now, by repository.
    pub fn worktrees(&self, repo: Option<&RepoName>) -> Result<Vec<WorktreeRow>, Problem> {
        let (now, logs) = (self.context().clock.moment(), self.logs());
        let fill = |entry: &RepoEntry| {
            let shown: Arc<Shown> = entry.rows.get();
            shown.rows.iter().map(|row| self.filled((**row).clone(), &logs, &now)).collect::<Vec<_>>()
        };
        Ok(self.entries(repo)?.into_iter().flat_map(fill).collect())
    }

    fn logs(&self) -> HashMap<TodoKey, Vec<SessionId>> {
        self.context().sessions.logs_by_todo(&self.context().places)
    }

    /// A row with what is not the inventory's: who works there, and how old it is.
    fn filled(&self, mut row: WorktreeRow, logs: &HashMap<TodoKey, Vec<SessionId>>, now: &Moment) -> WorktreeRow {
        let context = self.context();
        row.age_ms = row.looked_at.map(|at| u64::try_from(now.wall.as_ms().saturating_sub(at.as_ms())).unwrap_or(0));
        if let Some(slug) = row.slug.clone() {
            let todo = TodoKey { repo: row.repo.clone(), slug };
            let state = context.board.of(&todo);
            row.claim = state.live(now.awake).map(|claim| ClaimHolder::of(claim, now));
            let held = row.claim.as_ref().map(|claim| SessionId::of_claim(&todo, claim.token));
            let held = held.filter(|session| context.sessions.has(session));
            let logs = logs.get(&todo).map(Vec::as_slice).unwrap_or_default();
            row.sessions = held.iter().chain(logs).map(ToString::to_string).collect();
        }
        row
    }

    /// One worktree with everything that is known of it, looked at now if it is not fresh.
    pub async fn worktree(&self, repo: &RepoName, name: &str, disk: bool) -> Result<WorktreeDetail, Problem> {
        let entry = self.context().repo(Some(repo))?;
        self.want_worktrees(Some(repo), Duration::ZERO).await?;
        let found = removal::find(entry, name).await?;
        let shown = |rows: Vec<WorktreeRow>| rows.into_iter().find(|row| row.name == name);
        let known = shown(self.worktrees(Some(repo))?);
        if known.as_ref().is_none_or(|row| row.changes.is_none()) && !found.missing && !found.bare {
            // Why it cannot be looked at is in the row.
            let _ = self.refresh(repo, name).await;
        }
        let row = shown(self.worktrees(Some(repo))?).ok_or_else(|| unknown(repo, name))?;
        let (files, reasons, commits, disk_bytes) = tokio::join!(
            self.files(entry, &found),
            removal::judge(self.context(), &entry.repo, &found),
            commits(entry, &found),
            async { if disk { disk_use(self.context(), &found).await } else { None } },
        );
        let (mut files, mut row) = match files {
            Ok(files) => (files, row),
            Err(error) => (Vec::new(), WorktreeRow { error: row.error.clone().or(Some(error)), ..row }),
        };
        if found.missing || found.bare {
            row.error = None;
        }
        let files_cut = files.len() > FILES_MAX;
        files.truncate(FILES_MAX);
        Ok(WorktreeDetail { row, files, files_cut, commits, disk_bytes, removal: reasons.0 })
    }

    async fn files(&self, entry: &RepoEntry, found: &Found) -> Result<Vec<crate::model::worktree::FileChange>, String> {
        if found.missing || found.bare {
            return Ok(Vec::new());
        }
        let limit = self.context().settings.scan_timeout;
        ask_git(self.context(), &entry.repo, found, false, limit).await.map(|status| status.files)
    }

    /// Looks at one worktree now.
    pub async fn refresh(&self, repo: &RepoName, name: &str) -> Result<WorktreeRow, Problem> {
        let entry = self.context().repo(Some(repo))?;
        self.want_worktrees(Some(repo), Duration::ZERO).await?;
        let limit = self.context().settings.scan_timeout + Duration::from_secs(2);
        let name_of = name.to_owned();
        let asked = entry.inventory.ask(limit, |reply| InventoryMsg::Refresh { name: name_of, reply }).await;
        asked.map_err(|error| inventory_did_not_answer(repo, error))??;
        let row = entry.rows.get().rows.iter().find(|row| row.name == name).cloned();
        let row = row.ok_or_else(|| unknown(repo, name))?;
        Ok(self.filled((*row).clone(), &self.logs(), &self.context().clock.moment()))
    }

    /// Removes a worktree, when nothing would be lost.
    pub async fn remove_worktree(&self, repo: &RepoName, name: &str, dry_run: bool) -> Result<Removal, Problem> {
        self.context().refuse_when_draining()?;
        removal::remove(self.context(), self.context().repo(Some(repo))?, name, dry_run).await
    }

    /// Sessions, as they are asked for: those of one page, and how many there are.
    #[must_use]
    pub fn sessions(&self, query: &SessionQuery) -> Vec<SessionView> {
        let context = self.context();
        let mut views = context.sessions.all(&context.board, &context.places, &context.clock.moment());
        views.retain(|view| query.wants(view));
        query.order(&mut views);
        views
    }

    /// Sessions in groups, the groups in the order of their first session.
    #[must_use]
    pub fn grouped(views: Vec<SessionView>, by: SessionGroup) -> Vec<SessionGroupView> {
        let mut groups: Vec<SessionGroupView> = Vec::new();
        let mut at: BTreeMap<String, usize> = BTreeMap::new();
        for view in views {
            let name = group_of(&view, by);
            let index = *at.entry(name.clone()).or_insert_with(|| {
                groups.push(SessionGroupView { group: name, count: 0, sessions: Vec::new() });
                groups.len() - 1
            });
            groups[index].count += 1;
            groups[index].sessions.push(view);
        }
        groups
    }

    /// One session.
    pub async fn session(&self, id: &SessionId) -> Result<SessionView, Problem> {
        let context = self.context();
        let now = context.clock.moment();
        if let Some(view) = context.sessions.one(id, &context.board, &context.places, &now) {
            return Ok(view);
        }
        let ledger = &context.ledger;
        let found = ledger.store()?.session(id).await.map_err(|error| ledger.note(&error))?;
        let (session, activity) = found.ok_or_else(|| sessions::unknown(id))?;
        Ok(context.sessions.view_of(session, activity, &context.board, &now))
    }

    /// Events of a session after a place in it, oldest first.
    pub async fn session_events(&self, id: &SessionId, after: u64, limit: usize) -> Result<Vec<SessionEvent>, Problem> {
        let context = self.context();
        if let Some(log) = context.sessions.log(id) {
            // Somebody wants to read it: an old one is read now.
            let _ = context.sessions_address.send(SessionsMsg::Wanted { session: id.clone() });
            return sessions::log_events(log, after, limit).await;
        }
        self.session(id).await?;
        let ledger = &context.ledger;
        ledger.store()?.session_events(id, after, limit).await.map_err(|error| ledger.note(&error))
    }

    /// Events come to a claim's session; how many it has then.
    pub async fn report(&self, id: &SessionId, events: Vec<NewSessionEvent>) -> Result<u64, Problem> {
        let context = self.context();
        context.refuse_when_draining()?;
        if context.sessions.log(id).is_some() {
            let detail = format!("session {id} is a log its agent writes; report to the session of a claim");
            return Err(Problem::new(ProblemCode::InvalidRequest, detail));
        }
        let id = id.clone();
        let asked =
            context.sessions_address.ask(REPORT_LIMIT, |reply| SessionsMsg::Report { session: id, events, reply });
        asked.await.map_err(|error| {
            let code = if error == AskError::Full { ProblemCode::Busy } else { ProblemCode::Restarting };
            Problem::new(code, "sessions cannot take reports in at the moment; send it again").retry_after(500)
        })?
    }

    /// The event stream, as its listeners hear it.
    pub fn listen(
        &self,
        filter: EventFilter,
        last: Option<u64>,
    ) -> Result<impl Stream<Item = Bytes> + Send + use<>, Problem> {
        self.context().refuse_when_draining()?;
        self.context().hub.listen(&self.context().ledger, filter, last)
    }
}

/// How long a report may take to be written.
const REPORT_LIMIT: Duration = Duration::from_secs(15);

fn inventory_did_not_answer(repo: &RepoName, error: AskError) -> Problem {
    let code = match error {
        AskError::Full => ProblemCode::Busy,
        AskError::Down | AskError::Died => ProblemCode::Restarting,
        AskError::TimedOut => ProblemCode::DeadlineExceeded,
    };
    Problem::new(code, format!("the inventory of {repo} did not answer; ask again")).retry_after(1_000)
}

/// Commits that are not on the base, newest first.
async fn commits(entry: &RepoEntry, found: &Found) -> Vec<crate::model::worktree::CommitView> {
    let (repo, head) = (entry.repo.clone(), found.head.clone());
    let read = tokio::task::spawn_blocking(move || {
        let (git, head) = (repo.git().ok()?, head?);
        git.commits_beyond(&head, &git.base_oid().ok()?, COMMITS_MAX).ok()
    });
    read.await.ok().flatten().unwrap_or_default()
}

async fn disk_use(context: &Arc<Context>, found: &Found) -> Option<u64> {
    let _permit = context.permits.take(crate::model::worktree::Urgency::Asked).await;
    let (late, path) = (Arc::new(AtomicBool::new(false)), found.path.clone());
    let stop = late.clone();
    let counted = tokio::task::spawn_blocking(move || removal::disk_use(&path, &|| stop.load(Ordering::Acquire)));
    let done = tokio::time::timeout(DISK_LIMIT, counted).await;
    late.store(true, Ordering::Release);
    done.ok()?.ok()?
}
