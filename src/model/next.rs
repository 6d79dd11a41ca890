//! Which todo a worker gets next, and why the others are not offered: pure.

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::claim::Claim;
use super::ids::{Lane, Slug, Worker};
use super::record::Stage;
use super::roadmap::{Catalog, CatalogTodo, FileFault};
use super::time::Timestamp;

/// What is known of a todo beside what the base says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TodoState {
    /// Where it is.
    pub stage: Stage,
    /// The newest claim ever granted, live or not.
    pub claim: Option<Claim>,
}

/// Why a todo is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Another worker's lease runs.
    Claimed(Claim),
    /// These come first.
    BlockedBy(Vec<Slug>),
    /// It is for another lane.
    OtherLane(Lane),
    /// A file of it is broken.
    Invalid(FileFault),
    /// It is at a stage nobody works on.
    Closed(Stage),
}

impl Why {
    /// The reason in one stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Claimed(_) => "claimed",
            Self::BlockedBy(_) => "blocked_by",
            Self::OtherLane(_) => "other_lane",
            Self::Invalid(_) => "invalid",
            Self::Closed(stage) => stage.as_str(),
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Claimed(claim) => write!(f, "claimed by {}/{} until {}", claim.lane, claim.worker, claim.expires_at),
            Self::BlockedBy(slugs) => {
                let names: Vec<&str> = slugs.iter().map(Slug::as_str).collect();
                write!(f, "comes after {}", names.join(", "))
            }
            Self::OtherLane(lane) => write!(f, "for lane {lane}"),
            Self::Invalid(fault) => write!(f, "{fault}"),
            Self::Closed(stage) => f.write_str(stage.as_str()),
        }
    }
}

/// A todo that is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotOffered {
    /// Which.
    pub slug: Slug,
    /// Why.
    pub why: Why,
}

impl Serialize for NotOffered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("NotOffered", 3)?;
        object.serialize_field("slug", &self.slug)?;
        object.serialize_field("why", &self.why.to_string())?;
        object.serialize_field("code", self.why.code())?;
        object.end()
    }
}

/// Why a todo that was asked for by name cannot be given to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The base does not know it.
    Unknown,
    /// A file of it is broken.
    Invalid(FileFault),
    /// These come first.
    DependenciesUnmet(Vec<Slug>),
    /// It is at a stage nobody works on.
    Closed(Stage),
}

const fn is_open(stage: Stage) -> bool {
    match stage {
        Stage::Ready | Stage::Build | Stage::Review | Stage::Fix => true,
        Stage::Integrate | Stage::Done | Stage::Blocked => false,
    }
}

fn unmet(todo: &CatalogTodo, state: &impl Fn(&Slug) -> TodoState) -> Vec<Slug> {
    todo.after.iter().filter(|slug| state(slug).stage != Stage::Done).cloned().collect()
}

/// Whether a todo that was asked for by name can be given out at all; who holds it is decided elsewhere.
pub fn check(catalog: &Catalog, slug: &Slug, state: &impl Fn(&Slug) -> TodoState) -> Result<(), Refusal> {
    let todo = catalog.get(slug).ok_or(Refusal::Unknown)?;
    if let Some(fault) = &todo.fault {
        return Err(Refusal::Invalid(fault.clone()));
    }
    let stage = state(slug).stage;
    if !is_open(stage) {
        return Err(Refusal::Closed(stage));
    }
    match unmet(todo, state) {
        unmet if unmet.is_empty() => Ok(()),
        unmet => Err(Refusal::DependenciesUnmet(unmet)),
    }
}

/// The todo this worker holds, else the first that can be offered to its lane; or why each is not.
pub fn next(
    catalog: &Catalog,
    state: &impl Fn(&Slug) -> TodoState,
    lane: &Lane,
    worker: &Worker,
    now: Timestamp,
) -> Result<Slug, Vec<NotOffered>> {
    let holds = |todo: &&CatalogTodo| {
        state(&todo.slug).claim.is_some_and(|claim| claim.is_live(now) && claim.is_held_by(lane, worker))
    };
    if let Some(held) = catalog.iter().find(holds) {
        return Ok(held.slug.clone());
    }
    let mut reasons = Vec::new();
    for todo in catalog.iter().filter(|todo| todo.listed) {
        match obstacle(todo, state, lane, now) {
            None => return Ok(todo.slug.clone()),
            Some(why) => reasons.push(NotOffered { slug: todo.slug.clone(), why }),
        }
    }
    Err(reasons)
}

fn obstacle(todo: &CatalogTodo, state: &impl Fn(&Slug) -> TodoState, lane: &Lane, now: Timestamp) -> Option<Why> {
    let TodoState { stage, claim } = state(&todo.slug);
    if let Some(fault) = &todo.fault {
        return Some(Why::Invalid(fault.clone()));
    }
    if !is_open(stage) {
        return Some(Why::Closed(stage));
    }
    if let Some(other) = todo.lane.as_ref().filter(|other| *other != lane) {
        return Some(Why::OtherLane(other.clone()));
    }
    let unmet = unmet(todo, state);
    if !unmet.is_empty() {
        return Some(Why::BlockedBy(unmet));
    }
    claim.filter(|claim| claim.is_live(now)).map(Why::Claimed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RepoName, TodoKey};
    use crate::model::roadmap;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const NOW: Timestamp = Timestamp::from_ms(100);

    fn slug(text: &str) -> Slug {
        Slug::parse(text).expect("slug")
    }
    fn lane(text: &str) -> Lane {
        Lane::parse(text).expect("lane")
    }
    fn worker(text: &str) -> Worker {
        Worker::parse(text).expect("worker")
    }
    fn catalog(text: &str) -> Catalog {
        Catalog::build(roadmap::parse("r", text), &[slug("draft")], Vec::new())
    }
    fn held(name: &str, who: &str, until: i64) -> TodoState {
        let claim = Claim {
            todo: TodoKey { repo: RepoName::parse("app").expect("name"), slug: slug(name) },
            token: 1,
            lane: lane("l"),
            worker: worker(who),
            granted_at: Timestamp::from_ms(0),
            expires_at: Timestamp::from_ms(until),
        };
        TodoState { stage: Stage::Build, claim: Some(claim) }
    }
    fn seen(states: &[(&str, TodoState)]) -> impl Fn(&Slug) -> TodoState + use<> {
        let map: HashMap<Slug, TodoState> = states.iter().map(|(name, state)| (slug(name), state.clone())).collect();
        move |slug| map.get(slug).cloned().unwrap_or_default()
    }
    fn pick(text: &str, states: &[(&str, TodoState)], who: &str) -> Result<String, Vec<String>> {
        next(&catalog(text), &seen(states), &lane("l"), &worker(who), NOW)
            .map(|slug| slug.to_string())
            .map_err(|reasons| reasons.iter().map(|reason| format!("{}: {}", reason.slug, reason.why)).collect())
    }
    fn at(stage: Stage) -> TodoState {
        TodoState { stage, claim: None }
    }

    #[test]
    fn the_first_free_one_in_order_is_offered() {
        let map = "- slug: a\n- slug: b\n- slug: c\n  lane: other\n- slug: d\n  after: [b]\n";
        assert_eq!(pick(map, &[], "w"), Ok("a".into()));
        assert_eq!(pick(map, &[("a", held("a", "v", 101))], "w"), Ok("b".into()));
        assert_eq!(pick(map, &[("a", held("a", "v", 100))], "w"), Ok("a".into()));
        assert_eq!(pick(map, &[("a", at(Stage::Done)), ("b", at(Stage::Done))], "w"), Ok("d".into()));
    }

    #[test]
    fn a_worker_that_holds_one_gets_that_one_again() {
        let map = "- slug: a\n- slug: b\n";
        assert_eq!(pick(map, &[("b", held("b", "w", 101))], "w"), Ok("b".into()));
    }

    #[test]
    fn an_empty_answer_says_why_for_each() {
        let map =
            "- slug: a\n- slug: b\n  after: [a]\n- slug: c\n  lane: other\n- slug: d\n- slug: e\n  after: [ghost]\n";
        let reasons =
            pick(map, &[("a", held("a", "v", 5_000)), ("d", at(Stage::Blocked))], "w").expect_err("nothing to offer");
        assert_eq!(reasons.len(), 5, "{reasons:?}");
        for (reason, start) in reasons.iter().zip([
            "a: claimed by l/v until 1970",
            "b: comes after a",
            "c: for lane other",
            "d: blocked",
            "e: r:7: after names ghost",
        ]) {
            assert!(reason.starts_with(start), "{reason}");
        }
    }

    #[test]
    fn a_todo_asked_for_by_name_is_checked_but_need_not_be_listed() {
        let map = catalog("- slug: a\n- slug: b\n  after: [a]\n");
        assert_eq!(check(&map, &slug("draft"), &seen(&[])), Ok(()));
        assert_eq!(check(&map, &slug("ghost"), &seen(&[])), Err(Refusal::Unknown));
        assert_eq!(check(&map, &slug("b"), &seen(&[])), Err(Refusal::DependenciesUnmet(vec![slug("a")])));
        assert_eq!(check(&map, &slug("a"), &seen(&[("a", at(Stage::Done))])), Err(Refusal::Closed(Stage::Done)));
    }

    proptest! {
        #[test]
        fn what_is_offered_is_free_and_has_its_dependencies_done(
            afters in proptest::collection::vec(proptest::collection::vec(0_usize..6, 0..3), 6),
            stages in proptest::collection::vec(0_usize..7, 6),
            claimed in proptest::collection::vec(any::<bool>(), 6),
        ) {
            let text: String = afters.iter().enumerate().map(|(index, after)| {
                let names: Vec<String> = after.iter().filter(|&&other| other < index).map(|other| format!("t{other}")).collect();
                format!("- slug: t{index}\n  after: [{}]\n", names.join(", "))
            }).collect();
            let map = catalog(&text);
            let states: Vec<(String, TodoState)> = (0..6).map(|index| {
                let name = format!("t{index}");
                let state = if claimed[index] { held(&name, "v", 101) } else { TodoState::default() };
                (name, TodoState { stage: Stage::ALL[stages[index]], ..state })
            }).collect();
            let borrowed: Vec<(&str, TodoState)> = states.iter().map(|(name, state)| (name.as_str(), state.clone())).collect();
            let state = seen(&borrowed);
            if let Ok(slug) = next(&map, &state, &lane("l"), &worker("w"), NOW) {
                let todo = map.get(&slug).expect("known");
                prop_assert!(todo.after.iter().all(|after| state(after).stage == Stage::Done));
                prop_assert!(is_open(state(&slug).stage) && state(&slug).claim.is_none());
            }
        }
    }
}
