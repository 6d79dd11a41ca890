//! What a base commit says: settings, roadmap, briefs, and what a prepare can be recognised by. Read from objects,
//! never from a work tree; bounded, because anybody who can commit can write anything there.

use git2::{ObjectType, Tree, TreeEntry};

use super::{GitError, Repository, id_of, oid_of};
use crate::model::ids::{Oid, Slug};
use crate::model::prepare::{BaseHints, SCRIPT};
use crate::model::roadmap::FileFault;

/// Settings, roadmaps and Makefiles larger than this are not read.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Files of briefs larger than this are not brought in.
const BLOB_BYTES_MAX: usize = 64 << 20;
/// Todo directories looked at.
const TODOS_MAX: usize = 10_000;
/// Files of one brief.
const FILES_MAX: usize = 1_000;
/// How deep a brief may nest.
const DEPTH_MAX: usize = 8;

/// One file of a brief.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseFile {
    /// Repository-relative path.
    pub path: String,
    /// Its content.
    pub blob: Oid,
    /// Whether it is executable.
    pub executable: bool,
}

/// One todo directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseTodo {
    /// The todo.
    pub slug: Slug,
    /// The directory's tree.
    pub tree: Oid,
    /// Its files, in order.
    pub files: Vec<BaseFile>,
}

/// The todos directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseTodos {
    /// `roadmap.yaml`.
    pub roadmap: Option<String>,
    /// The directories.
    pub todos: Vec<BaseTodo>,
    /// What could not be read.
    pub faults: Vec<(Option<Slug>, FileFault)>,
}

impl Repository {
    /// `.slugline.toml` of a commit. Blocks.
    pub fn config_text(&self, commit: &Oid) -> Result<Option<String>, GitError> {
        self.text(commit, ".slugline.toml")
    }

    fn text(&self, commit: &Oid, path: &str) -> Result<Option<String>, GitError> {
        let library = self.library().map_err(GitError::library(path))?;
        let tree = tree(&library, commit)?;
        let Ok(entry) = tree.get_path(path.as_ref()) else { return Ok(None) };
        if !is_file(&entry) {
            return Err(GitError::State(format!("{path} on the base commit is not a regular file")));
        }
        within(&library, entry.id(), path, TEXT_BYTES_MAX)?;
        let blob = library.find_blob(entry.id()).map_err(GitError::library(path))?;
        let text = String::from_utf8(blob.content().to_vec());
        text.map(Some).map_err(|_| GitError::State(format!("{path} on the base commit is not UTF-8")))
    }

    /// Roadmap and todo directories of a commit. Blocks.
    pub fn todos(&self, commit: &Oid, dir: &str) -> Result<BaseTodos, GitError> {
        let roadmap_path = format!("{dir}/roadmap.yaml");
        let mut found = BaseTodos::default();
        match self.text(commit, &roadmap_path) {
            Ok(roadmap) => found.roadmap = roadmap,
            Err(error) => found
                .faults
                .push((None, FileFault { file: roadmap_path, line: 1, message: error.to_string(), dependency: false })),
        }
        let library = self.library().map_err(GitError::library(dir))?;
        let root = tree(&library, commit)?;
        let Ok(entry) = root.get_path(dir.as_ref()) else { return Ok(found) };
        let Ok(todos) = library.find_tree(entry.id()) else { return Ok(found) };
        for entry in todos.iter().filter(|entry| entry.kind() == Some(ObjectType::Tree)).take(TODOS_MAX) {
            // A directory whose name is no slug is somebody's own affair.
            let Some(slug) = entry.name().ok().and_then(|name| Slug::parse(name).ok()) else { continue };
            let mut walk = Walk { library: &library, files: Vec::new(), fault: None };
            let top = library.find_tree(entry.id()).map_err(GitError::library(format!("{dir}/{slug}")))?;
            walk.tree(&top, &format!("{dir}/{slug}"), 0);
            if let Some(message) = walk.fault {
                found.faults.push((
                    Some(slug.clone()),
                    FileFault { file: format!("{dir}/{slug}"), line: 1, message, dependency: false },
                ));
            }
            found.todos.push(BaseTodo { slug, tree: oid_of(entry.id()), files: walk.files });
        }
        Ok(found)
    }

    /// What a prepare can be recognised by. Blocks.
    pub fn hints(&self, commit: &Oid) -> Result<BaseHints, GitError> {
        let mut hints = BaseHints::default();
        {
            let library = self.library().map_err(GitError::library(format!("commit {commit}")))?;
            let root = tree(&library, commit)?;
            hints.root_files =
                root.iter().filter(is_file).filter_map(|entry| entry.name().ok().map(str::to_owned)).collect();
            hints.has_script = root.get_path(SCRIPT.as_ref()).is_ok_and(|entry| is_file(&entry));
        }
        let makefile = ["GNUmakefile", "makefile", "Makefile"]
            .into_iter()
            .find(|name| hints.root_files.iter().any(|file| file == name));
        if let Some(makefile) = makefile {
            hints.makefile = self.text(commit, makefile).unwrap_or(None);
        }
        Ok(hints)
    }

    /// The content of a blob. Blocks.
    pub(super) fn blob(&self, oid: &Oid) -> Result<Vec<u8>, GitError> {
        let library = self.library().map_err(GitError::library(format!("blob {oid}")))?;
        let fault = || GitError::library(format!("blob {oid}"));
        let id = id_of(oid).map_err(fault())?;
        within(&library, id, "a file of a brief", BLOB_BYTES_MAX)?;
        library.find_blob(id).map(|blob| blob.content().to_vec()).map_err(fault())
    }

    /// The blob at a path of a commit, when there is one. Blocks.
    pub(super) fn blob_at(&self, commit: &Oid, path: &str) -> Result<Option<Oid>, GitError> {
        let library = self.library().map_err(GitError::library(path))?;
        let tree = tree(&library, commit)?;
        Ok(tree.get_path(path.as_ref()).ok().filter(is_file).map(|entry| oid_of(entry.id())))
    }
}

fn tree<'a>(library: &'a git2::Repository, commit: &Oid) -> Result<Tree<'a>, GitError> {
    let tree = id_of(commit).and_then(|id| library.find_commit(id)).and_then(|commit| commit.tree());
    tree.map_err(GitError::library(format!("commit {commit}")))
}

/// Refuses an object that is larger than is read, without reading it.
fn within(library: &git2::Repository, id: git2::Oid, what: &str, limit: usize) -> Result<(), GitError> {
    let header = library.odb().and_then(|objects| objects.read_header(id)).map_err(GitError::library(what))?;
    if header.0 <= limit {
        return Ok(());
    }
    Err(GitError::State(format!("{what} on the base commit has {} bytes, at most {limit} are read", header.0)))
}

/// A regular file, executable or not; links and submodules are none.
fn is_file(entry: &TreeEntry<'_>) -> bool {
    matches!(entry.filemode(), 0o100_644 | 0o100_755 | 0o100_664)
}

struct Walk<'a> {
    library: &'a git2::Repository,
    files: Vec<BaseFile>,
    fault: Option<String>,
}

impl Walk<'_> {
    fn tree(&mut self, tree: &Tree<'_>, at: &str, depth: usize) {
        for entry in tree {
            let Ok(name) = entry.name() else {
                self.fault.get_or_insert_with(|| format!("a file in {at} has a name that is not UTF-8"));
                continue;
            };
            let path = format!("{at}/{name}");
            if entry.kind() == Some(ObjectType::Tree) {
                match self.library.find_tree(entry.id()) {
                    Ok(below) if depth < DEPTH_MAX => self.tree(&below, &path, depth + 1),
                    _ => drop(
                        self.fault
                            .get_or_insert_with(|| format!("{path} nests deeper than {DEPTH_MAX} or cannot be read")),
                    ),
                }
            } else if is_file(&entry) && self.files.len() < FILES_MAX {
                self.files.push(BaseFile { path, blob: oid_of(entry.id()), executable: entry.filemode() == 0o100_755 });
            } else if is_file(&entry) {
                self.fault.get_or_insert_with(|| format!("{at} has more than {FILES_MAX} files"));
            }
        }
    }
}
