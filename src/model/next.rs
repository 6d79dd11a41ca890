//! Which todo a worker gets next, and why the others are not offered: pure. [`super::agenda`] is the fast way to the
//! same answer.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::claim::Claim;
use super::ids::{Lane, Slug};
use super::roadmap::{Catalog, CatalogTodo, FileFault};
use super::time::{Moment, Timestamp};
use super::todo::{Asker, Stage, TodoState};

/// Why a todo is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Another worker's lease runs.
    Claimed(Box<Claim>, Timestamp),
    /// These come first.
    BlockedBy(Vec<Slug>),
    /// It is for another lane.
    OtherLane(Lane),
    /// It mends the lane that asks.
    OwnRemedy,
    /// It failed and waits.
    Backoff {
        /// Failed attempts so far.
        attempts: u32,
        /// Until when.
        until: Timestamp,
    },
    /// It is to be reviewed, and who asks has built it.
    OwnWork,
    /// A file of it is broken.
    Invalid(FileFault),
    /// It is blocked until a person looks at it.
    Blocked(String),
    /// It is at a stage nobody works on.
    Closed(Stage),
    /// The lane may have no more claims now.
    WipLimit(usize),
    /// The lane is opening again, with a few claims at a time.
    Probing(u32),
}

impl Why {
    /// The reason in one stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Claimed(..) => "claimed",
            Self::BlockedBy(_) => "blocked_by",
            Self::OtherLane(_) => "other_lane",
            Self::OwnRemedy => "own_remedy",
            Self::Backoff { .. } => "backoff",
            Self::OwnWork => "own_work",
            Self::Invalid(_) => "invalid",
            Self::Blocked(_) => "blocked",
            Self::Closed(stage) => stage.as_str(),
            Self::WipLimit(_) => "wip_limit",
            Self::Probing(_) => "probing",
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Claimed(claim, until) => write!(f, "claimed by {}/{} until {until}", claim.lane, claim.worker),
            Self::BlockedBy(slugs) => {
                let names: Vec<&str> = slugs.iter().map(Slug::as_str).collect();
                write!(f, "comes after {}", names.join(", "))
            }
            Self::OtherLane(lane) => write!(f, "for lane {lane}"),
            Self::OwnRemedy => f.write_str("mends this lane, so another one has to do it"),
            Self::Backoff { attempts, until } => write!(f, "failed {attempts} times, waits until {until}"),
            Self::OwnWork => f.write_str("at review, and a review is not by who built it"),
            Self::Invalid(fault) => write!(f, "{fault}"),
            Self::Blocked(reason) => write!(f, "blocked: {reason}"),
            Self::Closed(stage) => f.write_str(stage.as_str()),
            Self::WipLimit(limit) => write!(f, "the lane has its {limit} claims already"),
            Self::Probing(width) => {
                write!(f, "the lane is opening again, {width} at a time, and waits for what is out")
            }
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
    /// Nobody knows it.
    Unknown,
    /// A file of it is broken.
    Invalid(FileFault),
    /// These come first.
    DependenciesUnmet(Vec<Slug>),
    /// It is blocked until a person looks at it.
    Blocked(String),
    /// It is at a stage nobody works on.
    Closed(Stage),
}

/// The todos this one waits for.
pub fn unmet(todo: &CatalogTodo, state: &impl Fn(&Slug) -> Arc<TodoState>) -> Vec<Slug> {
    todo.after.iter().filter(|slug| state(slug).stage != Stage::Done).cloned().collect()
}

fn blocked(state: &TodoState) -> Option<String> {
    let reason = || state.blocked.as_ref().map(|blocked| blocked.reason.clone()).unwrap_or_default();
    (state.stage == Stage::Blocked).then(reason)
}

/// Whether a todo that was asked for by name can be given out at all; who holds it is decided elsewhere.
pub fn check(catalog: &Catalog, slug: &Slug, state: &impl Fn(&Slug) -> Arc<TodoState>) -> Result<(), Refusal> {
    let todo = catalog.get(slug).ok_or(Refusal::Unknown)?;
    if let Some(fault) = &todo.fault {
        return Err(Refusal::Invalid(fault.clone()));
    }
    let current = state(slug);
    if let Some(reason) = blocked(&current) {
        return Err(Refusal::Blocked(reason));
    }
    if !current.stage.is_open() {
        return Err(Refusal::Closed(current.stage));
    }
    match unmet(todo, state) {
        unmet if unmet.is_empty() => Ok(()),
        unmet => Err(Refusal::DependenciesUnmet(unmet)),
    }
}

/// What speaks against giving a todo to this worker, when nothing speaks against giving it to somebody.
#[must_use]
pub fn personal(todo: &CatalogTodo, state: &TodoState, asker: &Asker) -> Option<Why> {
    if todo.except.as_ref() == Some(&asker.lane) {
        return Some(Why::OwnRemedy);
    }
    (state.stage == Stage::Review && state.built_by.as_ref() == Some(asker)).then_some(Why::OwnWork)
}

/// Why a todo is not offered to this worker; `None` when it is.
pub fn obstacle(
    todo: &CatalogTodo,
    state: &impl Fn(&Slug) -> Arc<TodoState>,
    asker: &Asker,
    now: &Moment,
) -> Option<Why> {
    let current = state(&todo.slug);
    if let Some(fault) = &todo.fault {
        return Some(Why::Invalid(fault.clone()));
    }
    if let Some(reason) = blocked(&current) {
        return Some(Why::Blocked(reason));
    }
    if !current.stage.is_open() {
        return Some(Why::Closed(current.stage));
    }
    if let Some(other) = todo.lane.as_ref().filter(|other| **other != asker.lane) {
        return Some(Why::OtherLane(other.clone()));
    }
    let unmet = unmet(todo, state);
    if !unmet.is_empty() {
        return Some(Why::BlockedBy(unmet));
    }
    if let Some(claim) = current.live(now.awake) {
        return Some(Why::Claimed(Box::new(claim.clone()), claim.expires_at(now)));
    }
    if let Some(until) = current.not_before.filter(|until| now.awake < *until) {
        return Some(Why::Backoff { attempts: current.attempts, until: now.wall_of(until) });
    }
    personal(todo, &current, asker)
}

/// Every listed todo that could be given to somebody now, whoever that is.
pub fn claimable<'a>(
    catalog: &'a Catalog,
    state: &impl Fn(&Slug) -> Arc<TodoState>,
    now: &Moment,
) -> Vec<&'a CatalogTodo> {
    let waits =
        |state: &TodoState| state.live(now.awake).is_some() || state.not_before.is_some_and(|until| now.awake < until);
    let free =
        |todo: &&CatalogTodo| todo.listed && check(catalog, &todo.slug, state).is_ok() && !waits(&state(&todo.slug));
    catalog.iter().filter(free).collect()
}

/// Why each listed todo is not offered to this worker; `lane` is what its lane adds to those it could have.
pub fn reasons(
    catalog: &Catalog,
    state: &impl Fn(&Slug) -> Arc<TodoState>,
    asker: &Asker,
    now: &Moment,
    lane: Option<&Why>,
) -> Vec<NotOffered> {
    let why = |todo: &CatalogTodo| obstacle(todo, state, asker, now).or_else(|| lane.cloned());
    catalog
        .iter()
        .filter(|todo| todo.listed)
        .filter_map(|todo| why(todo).map(|why| NotOffered { slug: todo.slug.clone(), why }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agenda::Agenda;
    use crate::model::claim::tests::TERMS;
    use crate::model::filed::{Additions, Filed, NewTodo, Remedy};
    use crate::model::ids::{RepoName, TodoKey, Worker};
    use crate::model::roadmap;
    use crate::model::todo::{Blocked, Grant};
    use proptest::prelude::*;
    use std::collections::HashMap;

    const NOW: Moment = Moment::both(100);

    fn slug(text: &str) -> Slug {
        Slug::parse(text).expect("slug")
    }
    fn lane(text: &str) -> Lane {
        Lane::parse(text).expect("lane")
    }
    fn asker(who: &str) -> Asker {
        Asker { lane: lane("l"), worker: Worker::parse(who).expect("worker") }
    }
    fn catalog(text: &str) -> Catalog {
        Catalog::build(roadmap::parse("r", text), &[slug("draft")], Vec::new())
    }
    fn held(name: &str, who: &str, granted: i64) -> TodoState {
        let todo = TodoKey { repo: RepoName::parse("app").expect("name"), slug: slug(name) };
        match TodoState::default().grant(&todo, &asker(who), 1, &Moment::both(granted), &TERMS) {
            Grant::Granted(state) => *state,
            other => panic!("{other:?}"),
        }
    }
    fn seen(states: &[(&str, TodoState)]) -> impl Fn(&Slug) -> Arc<TodoState> + use<> {
        let map: HashMap<Slug, Arc<TodoState>> =
            states.iter().map(|(name, state)| (slug(name), Arc::new(state.clone()))).collect();
        move |slug| map.get(slug).cloned().unwrap_or_default()
    }
    fn pick(catalog: &Catalog, states: &[(&str, TodoState)], who: &str) -> Option<String> {
        let state = seen(states);
        let found = Agenda::new(Arc::new(catalog.clone()), &state).next(&asker(who), NOW.awake, &state);
        found.map(|slug| slug.to_string())
    }
    fn at(stage: Stage) -> TodoState {
        TodoState { stage, ..TodoState::default() }
    }
    fn done() -> TodoState {
        at(Stage::Done)
    }

    #[test]
    fn the_first_free_one_in_order_is_offered() {
        let map = catalog("- slug: a\n- slug: b\n- slug: c\n  lane: other\n- slug: d\n  after: [b]\n");
        assert_eq!(pick(&map, &[], "w").as_deref(), Some("a"));
        assert_eq!(pick(&map, &[("a", held("a", "v", 50))], "w").as_deref(), Some("b"));
        assert_eq!(pick(&map, &[("a", done()), ("b", done())], "w").as_deref(), Some("d"));
    }

    #[test]
    fn a_review_is_offered_to_anybody_but_the_builder() {
        let map = catalog("- slug: a\n");
        let review = TodoState { built_by: Some(asker("w")), ..at(Stage::Review) };
        assert_eq!(pick(&map, &[("a", review.clone())], "w"), None);
        assert_eq!(pick(&map, &[("a", review)], "v").as_deref(), Some("a"));
    }

    #[test]
    fn a_remedy_goes_first_and_not_to_the_lane_it_mends() {
        let remedy = |lane: &str| Filed {
            todo: NewTodo { slug: slug("mend"), brief: String::new(), lane: None, after: vec![], priority: 9 },
            remedy: Some(Remedy { lane: Lane::parse(lane).expect("lane"), fingerprint: "f".into(), generation: 1 }),
            at: Timestamp::from_ms(0),
        };
        let with = |lane| Additions { filed: [(slug("mend"), remedy(lane))].into(), ..Additions::default() };
        let map = catalog("- slug: a\n");
        assert_eq!(pick(&map.with(&with("other")), &[], "w").as_deref(), Some("mend"));
        assert_eq!(pick(&map.with(&with("l")), &[], "w").as_deref(), Some("a"));
    }

    #[test]
    fn a_filed_todo_mends_a_dependency_that_named_nothing() {
        let map = catalog("- slug: a\n  after: [ghost]\n");
        assert!(map.get(&slug("a")).is_some_and(|todo| todo.fault.is_some()));
        let ghost = Filed {
            todo: NewTodo { slug: slug("ghost"), brief: String::new(), lane: None, after: vec![], priority: 0 },
            remedy: None,
            at: Timestamp::from_ms(0),
        };
        let map = map.with(&Additions { filed: [(slug("ghost"), ghost)].into(), ..Additions::default() });
        assert_eq!(map.get(&slug("a")).and_then(|todo| todo.fault.clone()), None);
        assert_eq!(pick(&map, &[], "w").as_deref(), Some("ghost"));
    }

    #[test]
    fn an_empty_answer_says_why_for_each() {
        let map = catalog(
            "- slug: a\n- slug: b\n  after: [a]\n- slug: c\n  lane: other\n- slug: d\n- slug: e\n  after: [ghost]\n- slug: f\n- slug: g\n",
        );
        let blocked =
            Blocked { from: Stage::Build, dead_letter: true, reason: "given up".into(), at: Timestamp::from_ms(0) };
        let states = [
            ("a", held("a", "v", 50)),
            ("d", TodoState { blocked: Some(blocked), ..at(Stage::Blocked) }),
            (
                "f",
                TodoState {
                    attempts: 2,
                    not_before: Some(crate::model::time::Awake::from_ms(500)),
                    ..at(Stage::Build)
                },
            ),
        ];
        let reasons = reasons(&map, &seen(&states), &asker("w"), &NOW, Some(&Why::WipLimit(3)));
        let texts: Vec<String> = reasons.iter().map(|reason| format!("{}: {}", reason.slug, reason.why)).collect();
        assert_eq!(texts.len(), 7, "{texts:?}");
        for (text, start) in texts.iter().zip([
            "a: claimed by l/v until 1970",
            "b: comes after a",
            "c: for lane other",
            "d: blocked: given up",
            "e: r:7: after names ghost",
            "f: failed 2 times, waits until 1970",
            "g: the lane has its 3 claims already",
        ]) {
            assert!(text.starts_with(start), "{text}");
        }
    }

    #[test]
    fn a_todo_asked_for_by_name_is_checked_but_need_not_be_listed() {
        let map = catalog("- slug: a\n- slug: b\n  after: [a]\n");
        assert_eq!(check(&map, &slug("draft"), &seen(&[])), Ok(()));
        assert_eq!(check(&map, &slug("ghost"), &seen(&[])), Err(Refusal::Unknown));
        assert_eq!(check(&map, &slug("b"), &seen(&[])), Err(Refusal::DependenciesUnmet(vec![slug("a")])));
        assert_eq!(check(&map, &slug("a"), &seen(&[("a", done())])), Err(Refusal::Closed(Stage::Done)));
    }

    proptest! {
        /// The index says what the long way round says, over changing states, for every worker.
        #[test]
        fn the_index_offers_what_a_look_at_every_todo_offers(
            afters in proptest::collection::vec(proptest::collection::vec(0_usize..8, 0..3), 8),
            lanes in proptest::collection::vec(0_u8..3, 8),
            changes in proptest::collection::vec((0_usize..8, 0_usize..7, 0_u8..4, 0_i64..30), 0..60),
        ) {
            let text: String = afters.iter().enumerate().map(|(index, after)| {
                let names: Vec<String> =
                    after.iter().filter(|&&other| other < index).map(|other| format!("t{other}")).collect();
                let lane = match lanes[index] { 0 => "", 1 => "  lane: l\n", _ => "  lane: m\n" };
                format!("- slug: t{index}\n{lane}  after: [{}]\n", names.join(", "))
            }).collect();
            let map = Arc::new(catalog(&text));
            let mut states: HashMap<Slug, Arc<TodoState>> = HashMap::new();
            let mut agenda = Agenda::new(map.clone(), &|slug| states.get(slug).cloned().unwrap_or_default());
            let mut now = 0;
            for (which, stage, what, pass) in changes {
                now += pass;
                let name = slug(&format!("t{which}"));
                let mut state = if what == 0 { held(name.as_str(), "v", i64::MAX / 2) } else { TodoState::default() };
                state.stage = Stage::ALL[stage];
                if what == 1 { state.not_before = Some(crate::model::time::Awake::from_ms(now + 20)) }
                if what == 2 { state.built_by = Some(asker("w")) }
                states.insert(name.clone(), Arc::new(state));
                let state = |slug: &Slug| states.get(slug).cloned().unwrap_or_default();
                agenda.changed(&name, &state);
                for who in ["w", "v"] {
                    let moment = Moment::both(now);
                    let long = map.iter().filter(|todo| todo.listed)
                        .find(|todo| obstacle(todo, &state, &asker(who), &moment).is_none())
                        .map(|todo| todo.slug.clone());
                    prop_assert_eq!(agenda.next(&asker(who), moment.awake, &state), long);
                }
            }
        }
    }
}
