//! `todos/roadmap.yaml`: the order of the todos and what each comes after.

use super::ids::{Lane, Slug};

/// A fault in a file of the repository: which file, which line, what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct FileFault {
    /// Repository-relative path.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

/// One entry of the roadmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoadmapItem {
    /// The todo.
    pub slug: Slug,
    /// Todos that have to be done first.
    pub after: Vec<Slug>,
    /// The only lane it is offered to; any when `None`.
    pub lane: Option<Lane>,
    /// Higher goes first; the roadmap's order breaks ties.
    pub priority: i64,
    /// Line of the entry, counted from 1.
    pub line: usize,
}
