//! One registered repository, shared by its actor and its slugs: the git handle, what was read of the base commit,
//! and the permit for writing to its registry. Lives outside every actor's state, so that a restart loses nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::git::base::BaseTodo;
use crate::git::{OpenError, Repository};
use crate::metrics::git::{self as git_metric, Cache, LibraryOp};
use crate::model::ids::{Oid, RepoName, Slug, TodoKey};
use crate::model::planted::Planted;
use crate::model::prepare;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::repo_config::{self, PrepareConfig, RepoConfig};
use crate::model::roadmap::{self, Catalog};

/// What is registered, as the configuration says.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its name.
    pub name: RepoName,
    /// Its path.
    pub path: PathBuf,
    /// Its base branch; the branch its HEAD names when `None`.
    pub base: Option<String>,
    /// Its remote, when it has one to fetch from.
    pub remote: Option<String>,
}

/// What one base commit says: settings, todos and briefs. Immutable; a moved base makes a new one.
pub struct Base {
    /// The commit.
    pub oid: Oid,
    /// `.slugline.toml`, parsed.
    pub config: RepoConfig,
    /// The prepare that applies: declared or recognised.
    pub prepare: Option<PrepareConfig>,
    /// Whether the prepare was recognised and not declared.
    pub prepare_recognised: bool,
    /// The todos.
    pub catalog: Arc<Catalog>,
    /// The brief of every todo.
    pub briefs: std::collections::HashMap<Slug, BaseTodo>,
}

/// A repository in use.
pub struct Repo {
    /// What is registered.
    pub registered: Registered,
    /// Where the worktrees of this repository are.
    pub worktrees: PathBuf,
    /// Where the locks of those worktrees are.
    pub locks: PathBuf,
    /// Where half-made worktrees are moved to.
    pub trash: PathBuf,
    /// One writer at a time to the worktree registry and its shared refs.
    pub registry: tokio::sync::Mutex<()>,
    opened: ArcSwapOption<Repository>,
    base: ArcSwapOption<Base>,
    /// Only one caller reads a new base; the others wait for it.
    reading: Mutex<()>,
    used: Mutex<Instant>,
    planted: Mutex<Option<PlantedView>>,
}

/// What is planted in a repository, and what of it came while the daemon was watching.
#[derive(Debug, Clone, Default)]
struct PlantedView {
    at_first: Planted,
    now: Planted,
}

impl Repo {
    /// A repository that was not opened yet; its worktrees are under `worktrees_dir`.
    #[must_use]
    pub fn new(registered: Registered, worktrees_dir: &Path) -> Self {
        let name = registered.name.as_str();
        Self {
            worktrees: worktrees_dir.join(name),
            // No repository name starts with a dot, so these never meet a worktree.
            locks: worktrees_dir.join(".locks").join(name),
            trash: worktrees_dir.join(".trash").join(name),
            registry: tokio::sync::Mutex::new(()),
            opened: ArcSwapOption::empty(),
            base: ArcSwapOption::empty(),
            reading: Mutex::new(()),
            used: Mutex::new(Instant::now()),
            planted: Mutex::default(),
            registered,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &RepoName {
        &self.registered.name
    }

    /// Where the worktree of a slug is or will be.
    #[must_use]
    pub fn worktree_path(&self, slug: &Slug) -> PathBuf {
        self.worktrees.join(slug.as_str())
    }

    /// The todo whose worktree belongs at this path, if one does.
    #[must_use]
    pub fn todo_at(&self, path: &Path) -> Option<TodoKey> {
        let name = path.strip_prefix(&self.worktrees).ok()?.to_str()?;
        Some(TodoKey { repo: self.name().clone(), slug: Slug::parse(name).ok()? })
    }

    /// How long nobody has wanted anything of it.
    #[must_use]
    pub fn unused_for(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Leaves the memory: its handle is closed, what was read of it is forgotten. The next use brings it back.
    pub fn forget(&self) {
        self.opened.store(None);
        self.base.store(None);
    }

    /// The git repository, opened on first use and again as long as that fails. Blocks.
    pub fn git(&self) -> Result<Arc<Repository>, Problem> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if let Some(git) = self.opened.load_full() {
            return Ok(git);
        }
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(git) = self.opened.load_full() {
            return Ok(git);
        }
        let Registered { name, path, base, remote } = &self.registered;
        let git = Repository::open(name.clone(), path, base.as_deref(), remote.as_deref());
        let git = git.map(|git| Arc::new(git.with_workshop(&self.trash)));
        let git = git.map_err(|error| unusable(name, &error))?;
        self.note_planted(&git);
        self.opened.store(Some(git.clone()));
        Ok(git)
    }

    /// Looks at what in the repository could lead git astray, when it is in use. Blocks.
    pub fn look_for_planted(&self) {
        if let Some(git) = self.opened.load_full() {
            self.note_planted(&git);
        }
    }

    fn note_planted(&self, git: &Repository) {
        let now = git.planted();
        let mut view = self.planted.lock().unwrap_or_else(PoisonError::into_inner);
        match view.as_mut() {
            Some(view) => view.now = now,
            None => *view = Some(PlantedView { at_first: now.clone(), now }),
        }
    }

    /// The names of what in the repository could lead git astray, as last seen; and of those that came, or were changed,
    /// since the daemon first looked.
    #[must_use]
    pub fn planted(&self) -> (Vec<String>, Vec<String>) {
        let view = self.planted.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
        (view.now.names(), view.now.since(&view.at_first))
    }

    /// The git repository, when it is open already.
    #[must_use]
    pub fn git_if_open(&self) -> Option<Arc<Repository>> {
        self.opened.load_full()
    }

    /// What was last read of the base, if anything.
    #[must_use]
    pub fn base_if_read(&self) -> Option<Arc<Base>> {
        self.base.load_full()
    }

    /// What the base commit says now: three reads of small files when it did not move. Blocks.
    pub fn base(&self) -> Result<Arc<Base>, Problem> {
        let git = self.git()?;
        let oid = git.base_oid().map_err(|error| {
            Problem::new(ProblemCode::RepositoryUnusable, format!("repository {}: {error}", self.name()))
        })?;
        if let Some(base) = self.base.load_full().filter(|base| base.oid == oid) {
            git_metric::cache_asked(Cache::Base, true);
            return Ok(base);
        }
        git_metric::cache_asked(Cache::Base, false);
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = self.base.load_full().filter(|base| base.oid == oid) {
            return Ok(base);
        }
        let base = Arc::new(git_metric::timed(LibraryOp::ReadBase, || read_base(&git, oid))?);
        self.base.store(Some(base.clone()));
        Ok(base)
    }
}

fn unusable(name: &RepoName, error: &OpenError) -> Problem {
    Problem::new(ProblemCode::RepositoryUnusable, format!("repository {name}: {error}"))
}

fn read_base(git: &Repository, oid: Oid) -> Result<Base, Problem> {
    let fault = |error: &dyn std::fmt::Display| {
        Problem::new(
            ProblemCode::RepositoryUnusable,
            format!("repository {}: base commit {oid} cannot be read: {error}", git.name()),
        )
    };
    let config = match git.config_text(&oid).map_err(|error| fault(&error))? {
        Some(text) => repo_config::parse(&text).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let detail = format!("repository {}, base commit {oid}: {}", git.name(), lines.join("; "));
            Problem::new(ProblemCode::RepositoryConfigInvalid, detail).with("faults", lines)
        })?,
        None => RepoConfig::default(),
    };
    let todos = git.todos(&oid, &config.todos_dir).map_err(|error| fault(&error))?;
    let roadmap_file = format!("{}/roadmap.yaml", config.todos_dir);
    let roadmap = roadmap::parse(&roadmap_file, todos.roadmap.as_deref().unwrap_or(""));
    let dirs: Vec<Slug> = todos.todos.iter().map(|todo| todo.slug.clone()).collect();
    let catalog = Arc::new(Catalog::build(roadmap, &dirs, todos.faults));
    let recognised = config.prepare.is_none();
    let prepare = match &config.prepare {
        Some(declared) => Some(declared.clone()),
        None => prepare::recognise(&git.hints(&oid).map_err(|error| fault(&error))?),
    };
    let briefs = todos.todos.into_iter().map(|todo| (todo.slug.clone(), todo)).collect();
    Ok(Base { oid, config, prepare, prepare_recognised: recognised, catalog, briefs })
}
