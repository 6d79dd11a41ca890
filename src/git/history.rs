//! The commit tier: what follows from commits alone. Kept by object ids, for ever, within a bound.

use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::files::{self, Links};
use super::{GitError, Repository, id_of, oid_of};
use crate::metrics::git::{self as metric, Cache, LibraryOp};
use crate::model::ids::Oid;
use crate::model::time::Timestamp;
use crate::model::worktree::{CommitView, Distance, MergedBy, Upstream};

/// Commits whose parents and times are remembered, at about a hundred bytes each.
const COMMITS_MAX: usize = 200_000;
/// Answers remembered of each kind.
const ANSWERS_MAX: usize = 20_000;
/// Commits walked for one answer; beyond that two histories are called too far apart to count.
const WALK_MAX: usize = 500_000;
/// How much older than its child's parent's sibling a commit may say it is, in seconds: clocks of committers differ.
const SKEW_S: i64 = 86_400;
/// Bytes of a reflog that are read, from its end.
const REFLOG_BYTES_MAX: u64 = 256 * 1024;
/// Characters of a subject or a name that are shown.
const TEXT_MAX: usize = 200;

/// One commit of the graph.
#[derive(Clone)]
struct Node {
    time: i64,
    parents: Box<[git2::Oid]>,
}

/// What is remembered. Everything here is true for ever, since ids are of contents.
pub(super) struct Remembered {
    nodes: HashMap<git2::Oid, Node>,
    views: Bounded<git2::Oid, CommitView>,
    distances: Bounded<(git2::Oid, git2::Oid), Distance>,
    contained: Bounded<(git2::Oid, git2::Oid), bool>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self {
            nodes: HashMap::new(),
            views: Bounded::new(Cache::Commits),
            distances: Bounded::new(Cache::Distances),
            contained: Bounded::new(Cache::Contained),
        }
    }
}

/// A map that forgets everything once it is full: cheap, and what is still wanted is soon there again.
struct Bounded<K, V> {
    cache: Cache,
    answers: HashMap<K, V>,
}

impl<K: Eq + Hash, V: Clone> Bounded<K, V> {
    fn new(cache: Cache) -> Self {
        Self { cache, answers: HashMap::new() }
    }

    fn get(&self, key: &K) -> Option<V> {
        let answer = self.answers.get(key).cloned();
        metric::cache_asked(self.cache, answer.is_some());
        answer
    }

    fn put(&mut self, key: K, value: V) {
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.clear();
        }
        self.answers.insert(key, value);
    }
}

impl Repository {
    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A commit, as it is shown. Blocks.
    pub fn commit_view(&self, commit: &Oid) -> Result<CommitView, GitError> {
        let id = id_of(commit).map_err(GitError::library(format!("commit {commit}")))?;
        if let Some(view) = self.remembered().views.get(&id) {
            return Ok(view);
        }
        let view = self.library().and_then(|library| view_of(&library, id));
        let view = view.map_err(GitError::library(format!("commit {commit}")))?;
        self.remembered().views.put(id, view.clone());
        Ok(view)
    }

    /// How far two commits are apart; `None` when they are too far apart to count. Blocks.
    pub fn distance(&self, here: &Oid, there: &Oid) -> Result<Option<Distance>, GitError> {
        if here == there {
            return Ok(Some(Distance { ahead: 0, behind: 0 }));
        }
        let fault = || GitError::library(format!("the histories of {here} and {there}"));
        let pair = id_of(here).and_then(|here| Ok((here, id_of(there)?))).map_err(fault())?;
        if let Some(distance) = self.remembered().distances.get(&pair) {
            return Ok(Some(distance));
        }
        let walk = || self.walk(pair.0, pair.1, |_| {});
        let distance = metric::timed(LibraryOp::WalkHistory, walk).map_err(fault())?;
        if let Some(distance) = distance {
            self.remembered().distances.put(pair, distance);
        }
        Ok(distance)
    }

    /// The commits of `here` that are not in the history of `there`, newest first, at most `limit`. Blocks.
    pub fn commits_beyond(&self, here: &Oid, there: &Oid, limit: usize) -> Result<Vec<CommitView>, GitError> {
        let fault = || GitError::library(format!("the histories of {here} and {there}"));
        let pair = id_of(here).and_then(|here| Ok((here, id_of(there)?))).map_err(fault())?;
        let mut ids = Vec::new();
        let walk = || self.walk(pair.0, pair.1, |only_here| ids = only_here);
        metric::timed(LibraryOp::WalkHistory, walk).map_err(fault())?;
        ids.truncate(limit);
        let library = self.library().map_err(fault())?;
        ids.into_iter().map(|id| view_of(&library, id).map_err(fault())).collect()
    }

    /// Paints both histories from their ends towards each other, by time, until all that is left is common to both;
    /// then a little further, since clocks differ.
    fn walk(
        &self,
        here: git2::Oid,
        there: git2::Oid,
        only_here: impl FnOnce(Vec<git2::Oid>),
    ) -> Result<Option<Distance>, git2::Error> {
        const HERE: u8 = 1;
        const THERE: u8 = 2;
        const BOTH: u8 = HERE | THERE;
        struct Seen {
            colors: u8,
            queued: bool,
            time: i64,
        }
        let library = self.library()?;
        let mut memory = self.remembered();
        if memory.nodes.len() > COMMITS_MAX {
            memory.nodes.clear();
        }
        let mut seen: HashMap<git2::Oid, Seen> = HashMap::new();
        let mut queue: BinaryHeap<(i64, git2::Oid)> = BinaryHeap::new();
        let mut one_sided = 0_usize;
        for (id, color) in [(here, HERE), (there, THERE)] {
            let time = node(&library, &mut memory.nodes, id)?.time;
            seen.insert(id, Seen { colors: color, queued: true, time });
            queue.push((time, id));
            one_sided += 1;
        }
        let mut oldest_one_sided = i64::MAX;
        while let Some((time, id)) = queue.pop() {
            if one_sided == 0 && time < oldest_one_sided.saturating_sub(SKEW_S) {
                break;
            }
            if seen.len() > WALK_MAX {
                return Ok(None);
            }
            let Some(at) = seen.get_mut(&id) else { continue };
            at.queued = false;
            let colors = at.colors;
            if colors != BOTH {
                one_sided -= 1;
                oldest_one_sided = oldest_one_sided.min(time);
            }
            let parents = node(&library, &mut memory.nodes, id)?.parents.clone();
            for parent in parents {
                // Behind the end of a shallow clone there is nothing.
                let Ok(parent_time) = node(&library, &mut memory.nodes, parent).map(|node| node.time) else { continue };
                let known = seen.entry(parent).or_insert(Seen { colors: 0, queued: false, time: parent_time });
                let painted = known.colors | colors;
                if painted == known.colors {
                    continue;
                }
                if known.queued {
                    if known.colors != BOTH && painted == BOTH {
                        one_sided -= 1;
                    }
                } else {
                    known.queued = true;
                    queue.push((known.time, parent));
                    if painted != BOTH {
                        one_sided += 1;
                    }
                }
                known.colors = painted;
            }
        }
        let count = |color| seen.values().filter(|seen| seen.colors == color).count() as u64;
        let distance = Distance { ahead: count(HERE), behind: count(THERE) };
        let here: HashMap<git2::Oid, i64> =
            seen.iter().filter(|(_, seen)| seen.colors == HERE).map(|(id, seen)| (*id, seen.time)).collect();
        only_here(newest_first(&here, &memory.nodes));
        Ok(Some(distance))
    }

    /// How the base has everything that was committed on a branch, if it has; a branch nothing was committed on is not
    /// merged. Blocks.
    pub fn merged(&self, branch: Option<&str>, head: &Oid, base: &Oid) -> Result<Option<MergedBy>, GitError> {
        let Some(distance) = self.distance(head, base)? else { return Ok(None) };
        match distance {
            Distance { ahead: 0, .. } => {
                let own =
                    branch.is_some_and(|branch| self.was_committed_on(branch)) || !self.is_first_parent(head, base)?;
                Ok(own.then_some(MergedBy::History))
            }
            Distance { behind: 0, .. } => Ok(None),
            Distance { .. } => Ok(self.has_content_of(base, head)?.then_some(MergedBy::Content)),
        }
    }

    /// Whether a branch's reflog has a commit in it: creating, resetting and fast-forwarding are none.
    fn was_committed_on(&self, branch: &str) -> bool {
        const OWN: [&str; 5] = ["commit", "cherry-pick", "revert", "rebase", "am:"];
        let is_plain = !branch.split('/').any(|part| matches!(part, "" | "." | ".."));
        let text = is_plain.then(|| tail_of(&self.common_dir().join("logs/refs/heads").join(branch))).flatten();
        text.is_some_and(|text| {
            let messages = text.lines().filter_map(|line| line.split_once('\t'));
            messages.into_iter().any(|(_, message)| OWN.iter().any(|own| message.starts_with(own)))
        })
    }

    /// Whether a commit is on the line of first parents of another: then it was the base's own, or fast-forwarded.
    fn is_first_parent(&self, commit: &Oid, of: &Oid) -> Result<bool, GitError> {
        let walk = || -> Result<bool, git2::Error> {
            let (commit, mut at) = (id_of(commit)?, id_of(of)?);
            let library = self.library()?;
            let mut memory = self.remembered();
            let oldest = node(&library, &mut memory.nodes, commit)?.time.saturating_sub(SKEW_S);
            for _ in 0..WALK_MAX {
                if at == commit {
                    return Ok(true);
                }
                let here = node(&library, &mut memory.nodes, at)?;
                match here.parents.first() {
                    Some(parent) if here.time >= oldest => at = *parent,
                    _ => break,
                }
            }
            Ok(false)
        };
        walk().map_err(GitError::library(format!("the history of {of}")))
    }

    /// Whether the base has the content of what a branch changed. Most branches are decided by comparing a few blobs;
    /// where both sides changed the same file, the merge is tried in memory.
    fn has_content_of(&self, base: &Oid, head: &Oid) -> Result<bool, GitError> {
        let fault = || GitError::library(format!("what {head} brings to {base}"));
        let pair = id_of(base).and_then(|base| Ok((base, id_of(head)?))).map_err(fault())?;
        if let Some(contained) = self.remembered().contained.get(&pair) {
            return Ok(contained);
        }
        let contained = match self.compare_blobs(pair.0, pair.1).map_err(fault())? {
            Some(contained) => contained,
            None => self.has_all_of(base, head)?,
        };
        self.remembered().contained.put(pair, contained);
        Ok(contained)
    }

    /// `None` when only a merge can tell.
    fn compare_blobs(&self, base: git2::Oid, head: git2::Oid) -> Result<Option<bool>, git2::Error> {
        let library = self.library()?;
        let Ok(fork) = library.merge_base(base, head) else { return Ok(Some(false)) };
        let tree = |commit| library.find_commit(commit)?.tree();
        let (fork, base, head) = (tree(fork)?, tree(base)?, tree(head)?);
        let diff = library.diff_tree_to_tree(Some(&fork), Some(&head), None)?;
        let mut all_there = true;
        for delta in diff.deltas() {
            let path = delta.new_file().path().or_else(|| delta.old_file().path());
            let Some(path) = path else { return Ok(None) };
            let at = |tree: &git2::Tree<'_>| tree.get_path(path).ok().map(|entry| (entry.id(), entry.filemode()));
            let (was, is, wanted) = (at(&fork), at(&base), at(&head));
            if is == wanted {
                continue;
            }
            if is == was {
                return Ok(Some(false));
            }
            all_there = false;
        }
        Ok(all_there.then_some(true))
    }

    /// The upstream of a branch, and how far it is. Blocks.
    pub fn upstream(&self, branch: &str, head: &Oid) -> Result<Option<Upstream>, GitError> {
        let Some(reference) = self.upstream_ref(branch) else { return Ok(None) };
        let name =
            reference.strip_prefix("refs/remotes/").or(reference.strip_prefix("refs/heads/")).unwrap_or(&reference);
        let distance = match self.resolve(&reference)? {
            Some(there) => self.distance(head, &there)?,
            None => None,
        };
        Ok(Some(Upstream {
            name: name.to_owned(),
            ahead: distance.map(|distance| distance.ahead),
            behind: distance.map(|distance| distance.behind),
        }))
    }

    /// Commits that only this commit leads to, no branch, remote branch or tag. Blocks.
    pub fn unreachable(&self, head: &Oid) -> Result<u64, GitError> {
        let count = || -> Result<u64, git2::Error> {
            let library = self.library()?;
            let mut walk = library.revwalk()?;
            walk.push(id_of(head)?)?;
            for glob in ["refs/heads/*", "refs/remotes/*", "refs/tags/*"] {
                walk.hide_glob(glob)?;
            }
            Ok(walk.take(WALK_MAX).count() as u64)
        };
        count().map_err(GitError::library(format!("what leads to {head}")))
    }
}

/// Commits by time, but none before its children: several are often made in one second.
fn newest_first(commits: &HashMap<git2::Oid, i64>, nodes: &HashMap<git2::Oid, Node>) -> Vec<git2::Oid> {
    let parents = |id: &git2::Oid| nodes.get(id).map(|node| node.parents.as_ref()).unwrap_or_default().iter();
    let mut children: HashMap<git2::Oid, usize> = HashMap::new();
    for parent in commits.keys().flat_map(parents).filter(|parent| commits.contains_key(*parent)) {
        *children.entry(*parent).or_default() += 1;
    }
    let mut ready: BinaryHeap<(i64, git2::Oid)> =
        commits.iter().filter(|(id, _)| !children.contains_key(*id)).map(|(id, time)| (*time, *id)).collect();
    let mut ordered = Vec::with_capacity(commits.len());
    while let Some((_, id)) = ready.pop() {
        ordered.push(id);
        for parent in parents(&id) {
            let Some(left) = children.get_mut(parent) else { continue };
            *left -= 1;
            if *left == 0 {
                ready.extend(commits.get(parent).map(|time| (*time, *parent)));
            }
        }
    }
    ordered
}

fn node<'m>(
    library: &git2::Repository,
    nodes: &'m mut HashMap<git2::Oid, Node>,
    id: git2::Oid,
) -> Result<&'m Node, git2::Error> {
    use std::collections::hash_map::Entry;
    match nodes.entry(id) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(empty) => {
            let commit = library.find_commit(id)?;
            Ok(empty.insert(Node { time: commit.time().seconds(), parents: commit.parent_ids().collect() }))
        }
    }
}

fn view_of(library: &git2::Repository, id: git2::Oid) -> Result<CommitView, git2::Error> {
    let commit = library.find_commit(id)?;
    let author = commit.author();
    let short = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(TEXT_MAX).collect::<String>();
    Ok(CommitView {
        oid: oid_of(id),
        subject: short(commit.summary_bytes().unwrap_or_default()),
        at: Timestamp::from_ms(author.when().seconds().saturating_mul(1_000)),
        author: short(author.name_bytes()),
    })
}

/// The end of a file, as text.
fn tail_of(path: &Path) -> Option<String> {
    let mut file = files::open(path, Links::Refused).ok().flatten()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(REFLOG_BYTES_MAX))).ok()?;
    let mut bytes = Vec::new();
    file.take(REFLOG_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
