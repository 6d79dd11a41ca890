//! The todos of one repository in the order they are offered, indexed: who is next costs what is offered, not what is
//! known. [`super::next`] says the same thing the long way round; a property test holds the two together.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::ids::{Lane, Slug};
use super::next::{self, unmet};
use super::roadmap::Catalog;
use super::time::Awake;
use super::todo::{Asker, TodoState};

/// Where a todo stands in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    /// It cannot be offered, whoever asks.
    Out,
    /// It can.
    Free,
    /// It can from then on.
    Later(Awake),
}

/// The index. It follows the states it is told of; whoever changes one has to tell.
#[derive(Debug, Clone)]
pub struct Agenda {
    catalog: Arc<Catalog>,
    spots: Vec<Spot>,
    /// What can be offered, by the lane it is for.
    free: HashMap<Option<Lane>, BTreeSet<usize>>,
    later: BTreeSet<(Awake, usize)>,
    dependents: HashMap<Slug, Vec<usize>>,
}

impl Agenda {
    /// Indexes a catalog.
    pub fn new(catalog: Arc<Catalog>, state: &impl Fn(&Slug) -> Arc<TodoState>) -> Self {
        let mut dependents: HashMap<Slug, Vec<usize>> = HashMap::new();
        for (index, todo) in catalog.iter().enumerate() {
            for before in &todo.after {
                dependents.entry(before.clone()).or_default().push(index);
            }
        }
        let spots = vec![Spot::Out; catalog.len()];
        let mut agenda = Self { catalog, spots, free: HashMap::new(), later: BTreeSet::new(), dependents };
        for index in 0..agenda.spots.len() {
            agenda.place(index, state);
        }
        agenda
    }

    /// What it indexes.
    #[must_use]
    pub const fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The state of a todo changed: it and what comes after it are placed anew.
    pub fn changed(&mut self, slug: &Slug, state: &impl Fn(&Slug) -> Arc<TodoState>) {
        let Some(index) = self.catalog.index_of(slug) else { return };
        self.place(index, state);
        for dependent in self.dependents.get(slug).cloned().unwrap_or_default() {
            self.place(dependent, state);
        }
    }

    fn place(&mut self, index: usize, state: &impl Fn(&Slug) -> Arc<TodoState>) {
        let Some(todo) = self.catalog.at(index) else { return };
        match self.spots[index] {
            Spot::Out => {}
            Spot::Free => {
                if let Some(lane) = self.free.get_mut(&todo.lane) {
                    lane.remove(&index);
                }
            }
            Spot::Later(at) => {
                self.later.remove(&(at, index));
            }
        }
        let current = state(&todo.slug);
        let stands = todo.listed
            && todo.fault.is_none()
            && current.stage.is_open()
            && current.claim.is_none()
            && unmet(todo, state).is_empty();
        self.spots[index] = match current.not_before {
            _ if !stands => Spot::Out,
            Some(at) => Spot::Later(at),
            None => Spot::Free,
        };
        match self.spots[index] {
            Spot::Out => {}
            Spot::Free => {
                self.free.entry(todo.lane.clone()).or_default().insert(index);
            }
            Spot::Later(at) => {
                self.later.insert((at, index));
            }
        }
    }

    /// The first todo that can be offered to this worker.
    pub fn next(&mut self, asker: &Asker, now: Awake, state: &impl Fn(&Slug) -> Arc<TodoState>) -> Option<Slug> {
        while let Some(&(at, index)) = self.later.first().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, index));
            self.spots[index] = Spot::Free;
            let lane = self.catalog.at(index).and_then(|todo| todo.lane.clone());
            self.free.entry(lane).or_default().insert(index);
        }
        let of = |lane: Option<Lane>| self.free.get(&lane).into_iter().flatten().copied();
        let fits = |&index: &usize| {
            self.catalog.at(index).is_some_and(|todo| next::personal(todo, &state(&todo.slug), asker).is_none())
        };
        let any = of(None).find(fits);
        let own = of(Some(asker.lane.clone())).find(fits);
        let first = match (any, own) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        first.and_then(|index| self.catalog.at(index)).map(|todo| todo.slug.clone())
    }
}
