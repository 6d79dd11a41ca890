//! Opening a repository: what can be served, and a clear word for what cannot.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use git2::ErrorCode;

use super::configuration::Settings;
use super::files::{self, Links};
use super::history::Remembered;
use super::index::{INDEX_BYTES_MAX, count_is_possible};
use super::pipes::{self, Reading};
use super::refs::{PACKED_BYTES_MAX, PackedRefs, read_small};
use super::scan::ScanRules;
use super::stamp::Witness;
use super::{GitError, oid_of, planted};
use crate::metrics::git::{self as metric, LibraryOp};
use crate::model::ids::{Oid, RepoName};

/// Branches named in an error as examples.
const EXAMPLES: usize = 5;
/// A list of other object stores beyond this was not made by git.
const ALTERNATES_BYTES_MAX: u64 = 64 << 10;
/// Nor patterns or attributes of the whole repository.
const PATTERNS_BYTES_MAX: u64 = 16 << 20;

/// Why a registered path cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Nothing is there.
    #[error("{0} does not exist; correct path")]
    Missing(String),
    /// Something is there, but no repository.
    #[error("{0} is not a git repository; give the directory that contains .git")]
    NotARepository(String),
    /// It has no commits.
    #[error("{0} has no commits yet; make the first one on its base branch")]
    Empty(String),
    /// The base is not there.
    #[error("{path} has no branch {base}; set base to one of its branches, such as {examples}")]
    NoSuchBase {
        /// The repository.
        path: String,
        /// What was asked for.
        base: String,
        /// What there is.
        examples: String,
    },
    /// The base is something, but no branch.
    #[error("base {base} of {path} is not a branch ({what}); set base to a branch")]
    BaseIsNoBranch {
        /// The repository.
        path: String,
        /// What was asked for.
        base: String,
        /// What it is.
        what: &'static str,
    },
    /// No base was named and none can be seen.
    #[error("HEAD of {0} is detached, so its base branch cannot be seen; set base to a branch")]
    DetachedBase(String),
    /// Its format is beyond us.
    #[error(
        "{path} has a format that is not supported ({reason}); serve a clone with the default formats (sha1, files)"
    )]
    Unsupported {
        /// The repository.
        path: String,
        /// What is unusual.
        reason: String,
    },
    /// Somebody else owns it.
    #[error(
        "{0} belongs to another user; run the daemon as that user, or add it to safe.directory in the global git configuration"
    )]
    OtherOwner(String),
    /// Anything else.
    #[error("{path} cannot be opened: {reason}")]
    Other {
        /// The repository.
        path: String,
        /// Why.
        reason: String,
    },
}

/// A repository in use: one library handle on its common directory, and where its refs are.
pub struct Repository {
    name: RepoName,
    common_dir: PathBuf,
    main_path: PathBuf,
    workshop: PathBuf,
    base_branch: String,
    base_ref: String,
    handle: Mutex<git2::Repository>,
    bare: bool,
    base: Mutex<Option<(Witness, Oid)>>,
    pub(super) packed: PackedRefs,
    pub(super) history: Mutex<Remembered>,
    pub(super) scan_rules: Mutex<Option<Arc<ScanRules>>>,
    upstreams: Mutex<Option<(Witness, HashMap<String, String>)>>,
    /// Symbolic links that were where git writes when it was opened: some share their objects that way.
    pub(super) own_links: BTreeSet<PathBuf>,
    /// The stamps of what the library reads whole, while they say that it may.
    checked: Mutex<Option<Witness>>,
}

/// A handle of the library while it is used.
pub(super) struct Library<H> {
    handle: H,
    _reading: Reading,
}

impl std::ops::Deref for Library<MutexGuard<'_, git2::Repository>> {
    type Target = git2::Repository;

    fn deref(&self) -> &git2::Repository {
        &self.handle
    }
}

impl std::ops::Deref for Library<git2::Repository> {
    type Target = git2::Repository;

    fn deref(&self) -> &git2::Repository {
        &self.handle
    }
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({}, {})", self.name, self.common_dir.display())
    }
}

impl Repository {
    /// Opens the repository at `path` with the given base branch, or the one its HEAD names. With a remote whose
    /// tracking branch exists, that is the base. Writes nothing. Blocks.
    pub fn open(name: RepoName, path: &Path, base: Option<&str>, remote: Option<&str>) -> Result<Self, OpenError> {
        let shown = path.display().to_string();
        if !path.exists() {
            return Err(OpenError::Missing(shown));
        }
        let unsound = |error: GitError| OpenError::Other { path: shown.clone(), reason: error.to_string() };
        if let Some(common_dir) = common_dir_of(path) {
            check(&common_dir).map_err(unsound)?;
        }
        let opened = git2::Repository::open(path).map_err(|error| classify(&shown, &error))?;
        let opened = if opened.is_worktree() {
            git2::Repository::open(opened.commondir()).map_err(|error| classify(&shown, &error))?
        } else {
            opened
        };
        let other = |reason: String| OpenError::Other { path: shown.clone(), reason };
        let common_dir = opened.commondir().canonicalize().map_err(|error| other(error.to_string()))?;
        if opened.path().canonicalize().ok().as_ref() != Some(&common_dir) {
            return Err(other(format!(
                "its git directory leads to {}; take the file commondir out of it",
                common_dir.display()
            )));
        }
        let checked = check(&common_dir).map_err(unsound)?;
        // The library says it with a slash at its end.
        let (bare, main_path) = (opened.is_bare(), opened.workdir().unwrap_or(&common_dir).components().collect());
        let base_branch = match base {
            Some(base) => base.to_owned(),
            None => head_branch(&opened, &shown)?,
        };
        let base_ref = base_ref(&opened, &shown, &base_branch, remote)?;
        let packed = PackedRefs::new(&common_dir);
        let own_links = planted::links(&common_dir);
        let common_dir_for_workshop = common_dir.join("slugline-workshop");
        Ok(Self {
            name,
            common_dir,
            main_path,
            workshop: common_dir_for_workshop,
            base_branch,
            base_ref,
            handle: Mutex::new(opened),
            bare,
            base: Mutex::default(),
            packed,
            history: Mutex::default(),
            scan_rules: Mutex::default(),
            upstreams: Mutex::default(),
            own_links,
            checked: Mutex::new(checked.settled().then_some(checked)),
        })
    }

    /// Its registered name.
    #[must_use]
    pub fn name(&self) -> &RepoName {
        &self.name
    }

    /// The directory its worktrees share.
    #[must_use]
    pub fn common_dir(&self) -> &Path {
        &self.common_dir
    }

    /// The same with worktrees made in this directory of ours before they are moved to their place.
    #[must_use]
    pub fn with_workshop(mut self, dir: &Path) -> Self {
        dir.clone_into(&mut self.workshop);
        self
    }

    pub(super) fn workshop(&self) -> &Path {
        &self.workshop
    }

    /// Whether it has no main work tree.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.bare
    }

    /// The ref a branch follows, by the configuration, which is read again when it has changed.
    pub(super) fn upstream_ref(&self, branch: &str) -> Option<String> {
        let mut known = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, upstreams)) = known.as_ref().filter(|(witness, _)| witness.holds()) {
            return upstreams.get(branch).cloned();
        }
        let witness = Witness::of([self.common_dir.join("config")]);
        let upstreams = self.library().map(|library| upstreams_of(&library)).unwrap_or_default();
        let found = upstreams.get(branch).cloned();
        *known = witness.settled().then_some((witness, upstreams));
        found
    }

    /// Its main work tree; of a bare repository, itself.
    #[must_use]
    pub fn main_path(&self) -> &Path {
        &self.main_path
    }

    /// Its base branch, as people call it.
    #[must_use]
    pub fn base_branch(&self) -> &str {
        &self.base_branch
    }

    /// The full name of the ref the base is.
    #[must_use]
    pub fn base_ref(&self) -> &str {
        &self.base_ref
    }

    /// The base's commit now: two stats when it has not moved.
    pub fn base_oid(&self) -> Result<Oid, GitError> {
        let mut known = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, oid)) = known.as_ref().filter(|(witness, _)| witness.holds()) {
            return Ok(oid.clone());
        }
        let witness = Witness::of([self.common_dir.join(&self.base_ref), self.common_dir.join("packed-refs")]);
        let gone =
            || GitError::State(format!("{} is gone; make it again, or set base to another branch", self.base_ref));
        let (oid, direct) = self.resolve_once(&self.base_ref)?.ok_or_else(gone)?;
        // A base that is a symbolic ref changes elsewhere: it is read anew each time.
        *known = (direct && witness.settled()).then(|| (witness, oid.clone()));
        Ok(oid)
    }

    /// The library handle, for one short use. Some stats make sure that what the library reads whole, again and again,
    /// is still what can be read.
    pub(super) fn library(&self) -> Result<Library<MutexGuard<'_, git2::Repository>>, git2::Error> {
        self.check().map_err(|error| git2::Error::from_str(&error.to_string()))?;
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Library { handle, _reading: Reading::library(&self.common_dir, Some(&self.main_path)) })
    }

    /// Makes sure that what git and the library read whole can be read.
    pub(super) fn check(&self) -> Result<(), GitError> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.as_ref().is_some_and(Witness::holds) {
            return Ok(());
        }
        let witness = check(&self.common_dir)?;
        *checked = witness.settled().then_some(witness);
        Ok(())
    }

    /// The library's handle on one worktree and on nothing else, whatever its own files or the configuration say.
    pub(super) fn open_worktree(&self, path: &Path) -> Result<Library<git2::Repository>, git2::Error> {
        let refused = |error: &dyn std::fmt::Display| git2::Error::from_str(&error.to_string());
        self.check().map_err(|error| refused(&error))?;
        refuse_pipe(path).map_err(|error| refused(&error))?;
        let git_dir = self.git_dir_of(path).ok_or_else(|| refused(&"it is no worktree of this repository"))?;
        Settings::read([git_dir.join("config.worktree")]).map_err(|error| refused(&error))?;
        check_index(&git_dir.join("index")).map_err(|error| refused(&error))?;
        let reading = Reading::library(&self.common_dir, Some(path));
        let flags = git2::RepositoryOpenFlags::NO_SEARCH | git2::RepositoryOpenFlags::NO_DOTGIT;
        let opened = git2::Repository::open_ext(&git_dir, flags, std::iter::empty::<&Path>())?;
        let is = |is: &Path, wanted: &Path| is.canonicalize().is_ok_and(|is| is == wanted);
        if !is(opened.path(), &git_dir) || !is(opened.commondir(), &self.common_dir) {
            return Err(refused(&"its git directory leads somewhere else"));
        }
        opened.set_workdir(path, false)?;
        Ok(Library { handle: opened, _reading: reading })
    }

    /// The git directory of a worktree that is there: the shared one of the main worktree, that of its registration
    /// otherwise.
    pub(super) fn git_dir_of(&self, path: &Path) -> Option<PathBuf> {
        if path == self.main_path || path == self.common_dir {
            Some(self.common_dir.clone())
        } else {
            self.admin_of(path)
        }
    }

    /// The tree of a commit. Blocks.
    pub fn tree_of_commit(&self, commit: &Oid) -> Result<Oid, GitError> {
        let library = self.library().map_err(GitError::library(format!("commit {commit}")))?;
        let tree = super::id_of(commit).and_then(|id| library.find_commit(id)).map(|commit| commit.tree_id());
        tree.map(oid_of).map_err(GitError::library(format!("commit {commit}")))
    }

    /// Whether `head` has `base` in its history. Blocks.
    pub fn contains(&self, head: &Oid, base: &Oid) -> Result<bool, GitError> {
        if head == base {
            return Ok(true);
        }
        let library = self.library().map_err(GitError::library(format!("history of {head}")))?;
        let contains = super::id_of(head).and_then(|head| library.graph_descendant_of(head, super::id_of(base)?));
        contains.map_err(GitError::library(format!("history of {head}")))
    }

    /// Whether `base` has everything `head` would bring: its history, or (after a squash or a rebase) its content.
    /// Nothing is written. Blocks.
    pub fn has_all_of(&self, base: &Oid, head: &Oid) -> Result<bool, GitError> {
        if self.contains(base, head)? {
            return Ok(true);
        }
        let library = self.library().map_err(GitError::library(format!("merging {head} into {base} in memory")))?;
        let commit = |oid: &Oid| super::id_of(oid).and_then(|id| library.find_commit(id));
        let brings_nothing = || -> Result<bool, git2::Error> {
            let (base, head) = (commit(base)?, commit(head)?);
            let merged = library.merge_commits(&base, &head, None)?;
            if merged.has_conflicts() {
                return Ok(false);
            }
            let diff = library.diff_tree_to_index(Some(&base.tree()?), Some(&merged), None)?;
            Ok(diff.deltas().len() == 0)
        };
        let tried = metric::timed(LibraryOp::MergeTrial, brings_nothing);
        tried.map_err(GitError::library(format!("merging {head} into {base} in memory")))
    }
}

/// Where a path's repository shares what its worktrees share, by its files alone; `None` when that cannot be seen.
fn common_dir_of(path: &Path) -> Option<PathBuf> {
    let link = path.join(".git");
    let git_dir = match read_small(&link) {
        Ok(Some(text)) => path.join(text.trim_end().strip_prefix("gitdir: ")?),
        Ok(None) => path.to_owned(),
        Err(_) if link.is_dir() => link,
        Err(_) => return None,
    };
    let common = read_small(&git_dir.join("commondir")).ok().flatten();
    Some(common.map_or(git_dir.clone(), |common| git_dir.join(common.trim_end())))
}

/// Makes sure of the files that the library reads whole and without asking what they are: that they are regular ones,
/// of a size that can be, and that the configuration does not include itself to death. What comes back says how long
/// that holds.
fn check(common_dir: &Path) -> Result<Witness, GitError> {
    let [packed, alternates, exclude, attributes] =
        ["packed-refs", "objects/info/alternates", "info/exclude", "info/attributes"].map(|name| common_dir.join(name));
    let configuration = ["config", "config.worktree"].map(|name| common_dir.join(name));
    // The stamps are taken before anything is read. What is included is not known before that; it is read again when it
    // is looked at again.
    let whole = [packed.clone(), alternates.clone(), exclude.clone(), attributes.clone()];
    let before = Witness::of(configuration.iter().cloned().chain(whole));
    let read = Settings::read(configuration)?;
    for (file, limit) in [(packed, PACKED_BYTES_MAX), (alternates, ALTERNATES_BYTES_MAX)] {
        is_readable(&file, limit, Links::Refused)?;
    }
    // Some keep these of theirs elsewhere.
    for file in [exclude, attributes] {
        is_readable(&file, PATTERNS_BYTES_MAX, Links::Followed)?;
    }
    Ok(before.and(read.files))
}

/// Whether the library may read a file whole; one that is not there it may.
fn is_readable(path: &Path, limit: u64, links: Links) -> Result<Option<std::fs::File>, GitError> {
    let fault = |reason: String| GitError::File { path: path.display().to_string(), reason };
    let Some(file) = files::open(path, links).map_err(|error| fault(error.to_string()))? else {
        return Ok(None);
    };
    match file.metadata() {
        Ok(meta) if meta.len() <= limit => Ok(Some(file)),
        Ok(meta) => Err(fault(format!("it has {} bytes, at most {limit} are read", meta.len()))),
        Err(error) => Err(fault(error.to_string())),
    }
}

/// Refuses a worktree in which somebody waited at a pipe that is still there.
pub(super) fn refuse_pipe(worktree: &Path) -> Result<(), GitError> {
    let refused = |pipe: PathBuf| GitError::File {
        path: pipe.display().to_string(),
        reason: "it is a pipe, and git reads a file of that name".to_owned(),
    };
    pipes::known_below(worktree).map_or(Ok(()), |pipe| Err(refused(pipe)))
}

/// The library sets room aside for as many files as an index says it has, whatever its size.
fn check_index(path: &Path) -> Result<(), GitError> {
    use std::io::Read as _;
    let Some(mut file) = is_readable(path, INDEX_BYTES_MAX, Links::Refused)? else { return Ok(()) };
    let length = file.metadata().map_err(GitError::file(path))?.len();
    let mut header = [0; 12];
    match file.read_exact(&mut header) {
        Ok(()) if !count_is_possible(&header, length) => {
            Err(GitError::State(format!("{} counts more files than it can hold", path.display())))
        }
        // The library says itself what is wrong with one that is cut short.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The upstream of every branch that has one, from one pass over the configuration.
fn upstreams_of(repo: &git2::Repository) -> HashMap<String, String> {
    let Ok(config) = repo.config().and_then(|mut config| config.snapshot()) else { return HashMap::new() };
    let mut branches = Vec::new();
    if let Ok(mut entries) = config.entries(Some("^branch\\..*\\.merge$")) {
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.name().ok().and_then(|name| name.strip_prefix("branch.")?.strip_suffix(".merge"));
            branches.extend(name.map(str::to_owned));
        }
    }
    let upstream = |branch: String| {
        let name = repo.branch_upstream_name(&format!("refs/heads/{branch}")).ok()?;
        Some((branch, name.as_str().ok()?.to_owned()))
    };
    branches.into_iter().filter_map(upstream).collect()
}

fn classify(path: &str, error: &git2::Error) -> OpenError {
    let message = error.message().to_owned();
    match error.code() {
        ErrorCode::NotFound => OpenError::NotARepository(path.to_owned()),
        ErrorCode::Owner => OpenError::OtherOwner(path.to_owned()),
        _ if message.contains("extension")
            || message.contains("object format")
            || message.contains("objectformat")
            || message.contains("repository format")
            || message.contains("refstorage") =>
        {
            OpenError::Unsupported { path: path.to_owned(), reason: message }
        }
        _ => OpenError::Other { path: path.to_owned(), reason: message },
    }
}

fn head_branch(repo: &git2::Repository, path: &str) -> Result<String, OpenError> {
    let head = repo.find_reference("HEAD").map_err(|error| classify(path, &error))?;
    let target = head.symbolic_target().ok().flatten().and_then(|target| target.strip_prefix("refs/heads/"));
    target.map(str::to_owned).ok_or_else(|| OpenError::DetachedBase(path.to_owned()))
}

fn base_ref(repo: &git2::Repository, path: &str, base: &str, remote: Option<&str>) -> Result<String, OpenError> {
    let local = format!("refs/heads/{base}");
    let no_branch = |what| OpenError::BaseIsNoBranch { path: path.to_owned(), base: base.to_owned(), what };
    if base == "HEAD" || base.starts_with('-') || !git2::Reference::is_valid_name(&local) {
        return Err(no_branch("not a branch name"));
    }
    let is_there = |name: &str| repo.find_reference(name).is_ok_and(|found| found.peel_to_commit().is_ok());
    if let Some(tracking) = remote.map(|remote| format!("refs/remotes/{remote}/{base}")).filter(|name| is_there(name)) {
        return Ok(tracking);
    }
    if is_there(&local) {
        return Ok(local);
    }
    if is_there(&format!("refs/tags/{base}")) {
        return Err(no_branch("a tag"));
    }
    if git2::Oid::from_str(base).is_ok() && base.len() >= 7 {
        return Err(no_branch("a commit"));
    }
    let branches: Vec<String> = repo
        .branches(Some(git2::BranchType::Local))
        .into_iter()
        .flatten()
        .filter_map(|branch| branch.ok()?.0.name().ok().flatten().map(str::to_owned))
        .take(EXAMPLES)
        .collect();
    if branches.is_empty() {
        return Err(OpenError::Empty(path.to_owned()));
    }
    Err(OpenError::NoSuchBase { path: path.to_owned(), base: base.to_owned(), examples: branches.join(", ") })
}
