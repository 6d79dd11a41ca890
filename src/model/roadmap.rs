//! `todos/roadmap.yaml`: the order of the todos and what each comes after.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use saphyr_parser::{Event, Parser};

use super::filed::{Additions, NewTodo};
use super::ids::{Lane, Slug};
use super::settings::distance;

/// A fault in a file of the repository: which file, which line, what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct FileFault {
    /// Repository-relative path.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub message: String,
    /// Whether it is about other todos, and so may go away when those change.
    #[serde(skip)]
    pub dependency: bool,
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

/// What a roadmap file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roadmap {
    /// The file it was read from.
    pub file: String,
    /// Its whole entries, in order.
    pub items: Vec<RoadmapItem>,
    /// Its broken entries; with the slug where it could be read.
    pub broken: Vec<(Option<Slug>, FileFault)>,
    /// Why the file as a whole cannot be read; then there are no entries.
    pub fault: Option<FileFault>,
}

/// A roadmap larger than this is refused: ten thousand entries take a few hundred kilobytes.
pub const ROADMAP_BYTES_MAX: usize = 1 << 20;
/// Entries a roadmap may have.
pub const ROADMAP_ITEMS_MAX: usize = 10_000;
/// The keys of an entry that mean something.
const KEYS: [&str; 4] = ["slug", "after", "lane", "priority"];
/// How deep values may nest: an entry's list of slugs is three deep.
const DEPTH_MAX: usize = 8;

/// A YAML value with its line.
enum Node {
    Scalar(usize, String),
    List(usize, Vec<Node>),
    Map(usize, Vec<(Node, Node)>),
}

impl Node {
    const fn line(&self) -> usize {
        match self {
            Self::Scalar(line, _) | Self::List(line, _) | Self::Map(line, _) => *line,
        }
    }
}

/// Reads a roadmap. Broken entries are listed apart; only what makes the whole file unreadable is its `fault`.
#[must_use]
pub fn parse(file: &str, text: &str) -> Roadmap {
    let fault = |line, message: String| FileFault { file: file.to_owned(), line, message, dependency: false };
    let empty = || Roadmap { file: file.to_owned(), ..Roadmap::default() };
    let whole = |fault| Roadmap { fault: Some(fault), ..empty() };
    if text.len() > ROADMAP_BYTES_MAX {
        return whole(fault(1, format!("the file has {} bytes, at most {ROADMAP_BYTES_MAX} are read", text.len())));
    }
    let entries = match document(text) {
        Ok(None) => return empty(),
        Ok(Some(Node::Scalar(_, text))) if text.is_empty() || text == "~" || text == "null" => return empty(),
        Ok(Some(Node::List(_, entries))) => entries,
        Ok(Some(other)) => {
            return whole(fault(other.line(), "a roadmap is a list of `- slug: name` entries".to_owned()));
        }
        Err((line, message)) => return whole(fault(line, message)),
    };
    if entries.len() > ROADMAP_ITEMS_MAX {
        return whole(fault(1, format!("{} entries, at most {ROADMAP_ITEMS_MAX} are read", entries.len())));
    }
    let mut roadmap = empty();
    let mut seen: HashMap<Slug, usize> = HashMap::new();
    for entry in &entries {
        match item(entry) {
            Ok(item) => match seen.insert(item.slug.clone(), item.line) {
                Some(first) => {
                    seen.insert(item.slug.clone(), first);
                    let message = format!("{} stands here a second time, first in line {first}", item.slug);
                    roadmap.broken.push((Some(item.slug), fault(item.line, message)));
                }
                None => roadmap.items.push(item),
            },
            Err((slug, line, message)) => roadmap.broken.push((slug, fault(line, message))),
        }
    }
    roadmap
}

type ItemFault = (Option<Slug>, usize, String);

fn item(entry: &Node) -> Result<RoadmapItem, ItemFault> {
    let Node::Map(line, fields) = entry else {
        return Err((None, entry.line(), "an entry is a map with at least `slug: name`".to_owned()));
    };
    let key_of = |node: &Node| match node {
        Node::Scalar(_, text) => text.clone(),
        Node::List(..) | Node::Map(..) => String::new(),
    };
    let slug = fields.iter().find(|(key, _)| key_of(key) == "slug");
    let slug = match slug {
        Some((_, Node::Scalar(at, text))) => Slug::parse(text).map_err(|error| (None, *at, error.to_string()))?,
        Some((_, other)) => return Err((None, other.line(), "slug is one name".to_owned())),
        None => return Err((None, *line, "slug is missing".to_owned())),
    };
    let broken = |line, message: String| (Some(slug.clone()), line, message);
    let mut item = RoadmapItem { slug: slug.clone(), after: Vec::new(), lane: None, priority: 0, line: *line };
    let mut had = HashSet::new();
    for (key, value) in fields {
        let name = key_of(key);
        if !had.insert(name.clone()) {
            return Err(broken(key.line(), format!("{name} stands twice in this entry")));
        }
        match (name.as_str(), value) {
            ("slug", _) => {}
            ("after", Node::List(_, names)) => {
                item.after = names
                    .iter()
                    .map(|name| after(name).map_err(|(line, message)| broken(line, message)))
                    .collect::<Result<_, _>>()?;
            }
            ("after", other) => {
                return Err(broken(other.line(), "after is a list of slugs, such as [first, second]".to_owned()));
            }
            ("lane", Node::Scalar(at, text)) => {
                item.lane = Some(Lane::parse(text).map_err(|error| broken(*at, error.to_string()))?);
            }
            ("priority", Node::Scalar(at, text)) => {
                item.priority =
                    text.parse().map_err(|_| broken(*at, format!("priority is a whole number, not {text:?}")))?;
            }
            ("lane" | "priority", other) => return Err(broken(other.line(), format!("{name} is one value"))),
            // Anything else is a note for people, unless it looks like a slip: a lost `after` would start work too early.
            _ => {
                if let Some(near) = KEYS.iter().find(|known| distance(known, &name) <= 2) {
                    return Err(broken(key.line(), format!("unknown key {name:?}; did you mean {near}?")));
                }
            }
        }
    }
    Ok(item)
}

fn after(name: &Node) -> Result<Slug, (usize, String)> {
    match name {
        Node::Scalar(line, text) => Slug::parse(text).map_err(|error| (*line, error.to_string())),
        other => Err((other.line(), "after is a list of slugs".to_owned())),
    }
}

/// The one document of a text as nodes; anchors, aliases and tags are refused, so that a small file stays small.
fn document(text: &str) -> Result<Option<Node>, (usize, String)> {
    let mut open: Vec<(Node, Option<Node>)> = Vec::new();
    let mut root = None;
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| (error.marker().line(), format!("not valid YAML: {}", error.info())))?;
        let line = span.start.line();
        let refuse = |what: &str| Err((line, format!("{what} are not read in a roadmap")));
        let finished = match event {
            Event::DocumentStart(_) if documents > 0 => return refuse("several documents"),
            Event::DocumentStart(_) => {
                documents += 1;
                None
            }
            Event::Alias(_) => return refuse("aliases"),
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                return refuse("anchors");
            }
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return refuse("tags");
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= DEPTH_MAX => {
                return Err((line, format!("values nest deeper than {DEPTH_MAX}")));
            }
            Event::SequenceStart(..) => {
                open.push((Node::List(line, Vec::new()), None));
                None
            }
            Event::MappingStart(..) => {
                open.push((Node::Map(line, Vec::new()), None));
                None
            }
            Event::Scalar(value, ..) => Some(Node::Scalar(line, value.into_owned())),
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|(node, _)| node),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => None,
        };
        let Some(node) = finished else { continue };
        match open.last_mut() {
            None => root = Some(node),
            Some((Node::List(_, items), _)) => items.push(node),
            Some((Node::Map(_, fields), key)) => match key.take() {
                Some(key) => fields.push((key, node)),
                None => *key = Some(node),
            },
            Some((Node::Scalar(..), _)) => {}
        }
    }
    Ok(root)
}

/// The place a fault is named by that is in no file: a dependency that was set through the API.
const ADDED: &str = "the ledger";

/// A todo as the base commit knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogTodo {
    /// Its name.
    pub slug: Slug,
    /// Todos that have to be done first.
    pub after: Vec<Slug>,
    /// The only lane it is offered to; any when `None`.
    pub lane: Option<Lane>,
    /// Higher goes first.
    pub priority: i64,
    /// Whether the roadmap lists it. One that only has a directory is given when named, never offered.
    pub listed: bool,
    /// The lane it is not offered to: the one it is to mend.
    pub except: Option<Lane>,
    /// What is wrong with it; then it is given to nobody.
    pub fault: Option<FileFault>,
}

/// All todos of a base commit: those on the roadmap and those that have a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    todos: Vec<CatalogTodo>,
    by_slug: HashMap<Slug, usize>,
    fault: Option<FileFault>,
    /// The roadmap's file and the line of each entry.
    file: String,
    lines: HashMap<Slug, usize>,
}

impl Catalog {
    /// Brings roadmap and directories together and checks what one todo says of others.
    #[must_use]
    pub fn build(roadmap: Roadmap, directories: &[Slug], directory_faults: Vec<(Option<Slug>, FileFault)>) -> Self {
        let lines = roadmap.items.iter().map(|item| (item.slug.clone(), item.line)).collect();
        let mut catalog = Self { fault: roadmap.fault, file: roadmap.file, lines, ..Self::default() };
        for item in roadmap.items {
            let RoadmapItem { slug, after, lane, priority, .. } = item;
            catalog.push(CatalogTodo { slug, after, lane, priority, listed: true, except: None, fault: None });
        }
        for slug in directories {
            catalog.push(CatalogTodo {
                slug: slug.clone(),
                after: Vec::new(),
                lane: None,
                priority: 0,
                listed: false,
                except: None,
                fault: None,
            });
        }
        for (slug, fault) in roadmap.broken.into_iter().chain(directory_faults) {
            catalog.blame(slug, fault);
        }
        catalog.check_dependencies();
        catalog.bring_into_order();
        catalog
    }

    /// These todos with what was added to them in the ledger. What the base says of a slug wins over a todo that was
    /// filed under the same name; dependencies that were set win over those of the base.
    #[must_use]
    pub fn with(&self, additions: &Additions) -> Self {
        let mut catalog = self.clone();
        for filed in additions.filed.values() {
            let NewTodo { slug, after, lane, priority, .. } = filed.todo.clone();
            let except = filed.remedy.as_ref().map(|remedy| remedy.lane.clone());
            catalog.push(CatalogTodo { slug, after, lane, priority, listed: true, except, fault: None });
        }
        for (slug, after) in &additions.after {
            if let Some(&index) = catalog.by_slug.get(slug) {
                catalog.todos[index].after.clone_from(after);
                catalog.lines.remove(slug);
            }
        }
        catalog.check_dependencies();
        catalog.bring_into_order();
        catalog
    }

    /// A stable sort: the order of the roadmap breaks ties.
    fn bring_into_order(&mut self) {
        self.todos.sort_by_key(|todo| (!todo.listed, std::cmp::Reverse(todo.priority)));
        self.by_slug = self.todos.iter().enumerate().map(|(index, todo)| (todo.slug.clone(), index)).collect();
    }

    /// The way from a todo back to itself along `after`, both ends included, if there is one.
    #[must_use]
    pub fn cycle(&self, slug: &Slug) -> Option<Vec<Slug>> {
        let path = self.way_back(*self.by_slug.get(slug)?)?;
        Some(path.into_iter().map(|step| self.todos[step].slug.clone()).collect())
    }

    /// How many todos there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.todos.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.todos.is_empty()
    }

    /// Where a todo stands in the order of [`Self::iter`].
    #[must_use]
    pub fn index_of(&self, slug: &Slug) -> Option<usize> {
        self.by_slug.get(slug).copied()
    }

    /// The todo at a place of that order.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<&CatalogTodo> {
        self.todos.get(index)
    }

    fn push(&mut self, todo: CatalogTodo) {
        if !self.by_slug.contains_key(&todo.slug) {
            self.by_slug.insert(todo.slug.clone(), self.todos.len());
            self.todos.push(todo);
        }
    }

    /// A fault without a slug that could be read has no todo to blame: it is the roadmap's.
    fn blame(&mut self, slug: Option<Slug>, fault: FileFault) {
        let Some(slug) = slug else {
            self.fault.get_or_insert(fault);
            return;
        };
        self.push(CatalogTodo {
            slug: slug.clone(),
            after: Vec::new(),
            lane: None,
            priority: 0,
            listed: true,
            except: None,
            fault: None,
        });
        if let Some(&index) = self.by_slug.get(&slug) {
            self.todos[index].fault.get_or_insert(fault);
        }
    }

    /// Finds what one todo says wrongly of others. Faults of this kind are found again whenever todos were added.
    fn check_dependencies(&mut self) {
        for todo in &mut self.todos {
            todo.fault.take_if(|fault| fault.dependency);
        }
        let entangled = self.entangled();
        let faults: Vec<(usize, String)> = (0..self.todos.len())
            .filter_map(|index| self.dependency_fault(index, &entangled).map(|message| (index, message)))
            .collect();
        for (index, message) in faults {
            let slug = &self.todos[index].slug;
            let (file, line) = self.lines.get(slug).map_or((ADDED, 1), |&line| (self.file.as_str(), line));
            let fault = FileFault { file: file.to_owned(), line, message, dependency: true };
            self.todos[index].fault.get_or_insert(fault);
        }
    }

    /// Which todos are on a cycle or come after one: those that are left when whatever waits for nothing is taken away
    /// again and again.
    fn entangled(&self) -> Vec<bool> {
        let known = |todo: &CatalogTodo| -> Vec<usize> {
            todo.after.iter().filter_map(|slug| self.by_slug.get(slug).copied()).collect()
        };
        let mut waits: Vec<usize> = self.todos.iter().map(|todo| known(todo).len()).collect();
        let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); self.todos.len()];
        for (index, todo) in self.todos.iter().enumerate() {
            for before in known(todo) {
                dependents[before].push(index);
            }
        }
        let mut free: Vec<usize> = (0..self.todos.len()).filter(|&index| waits[index] == 0).collect();
        while let Some(index) = free.pop() {
            for &next in &dependents[index] {
                waits[next] -= 1;
                if waits[next] == 0 {
                    free.push(next);
                }
            }
        }
        waits.into_iter().map(|left| left > 0).collect()
    }

    fn dependency_fault(&self, index: usize, entangled: &[bool]) -> Option<String> {
        let todo = &self.todos[index];
        if let Some(unknown) = todo.after.iter().find(|slug| !self.by_slug.contains_key(*slug)) {
            return Some(format!("after names {unknown}, which is neither on the roadmap nor has a directory"));
        }
        let path = entangled[index].then(|| self.way_back(index)).flatten()?;
        let names: Vec<&str> = path.iter().map(|&step| self.todos[step].slug.as_str()).collect();
        Some(format!("depends on itself: {}", names.join(" → ")))
    }

    /// The shortest way along `after` from a todo back to itself, both ends included.
    fn way_back(&self, start: usize) -> Option<Vec<usize>> {
        let mut came_from: HashMap<usize, usize> = HashMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            for next in self.todos[at].after.iter().filter_map(|slug| self.by_slug.get(slug).copied()) {
                if next == start {
                    let mut path = vec![start, at];
                    let mut step = at;
                    while step != start {
                        step = came_from[&step];
                        path.push(step);
                    }
                    path.dedup();
                    path.reverse();
                    if path.len() == 1 {
                        path.push(start);
                    }
                    return Some(path);
                }
                if let Entry::Vacant(unseen) = came_from.entry(next) {
                    unseen.insert(at);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// A todo by name.
    #[must_use]
    pub fn get(&self, slug: &Slug) -> Option<&CatalogTodo> {
        self.by_slug.get(slug).map(|&index| &self.todos[index])
    }

    /// All todos: those on the roadmap in the order they are offered, then the others.
    pub fn iter(&self) -> impl Iterator<Item = &CatalogTodo> {
        self.todos.iter()
    }

    /// What is wrong with the roadmap as a whole, or with an entry whose slug cannot be read.
    #[must_use]
    pub fn fault(&self) -> Option<&FileFault> {
        self.fault.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slug(text: &str) -> Slug {
        Slug::parse(text).expect("slug")
    }

    fn faults(text: &str) -> Vec<String> {
        let roadmap = parse("todos/roadmap.yaml", text);
        roadmap.fault.iter().chain(roadmap.broken.iter().map(|(_, fault)| fault)).map(ToString::to_string).collect()
    }

    fn catalog(text: &str) -> Catalog {
        Catalog::build(parse("todos/roadmap.yaml", text), &[], Vec::new())
    }

    #[test]
    fn entries_are_read_in_order_with_their_lines() {
        let roadmap = parse("r", "- slug: one\n- slug: two\n  after: [one]\n  lane: builder\n  priority: 5\n");
        assert_eq!(roadmap.items.len(), 2);
        let two = &roadmap.items[1];
        assert_eq!((two.slug.as_str(), two.line, two.priority, two.after.clone()), ("two", 2, 5, vec![slug("one")]));
        assert_eq!(two.lane.as_ref().map(Lane::as_str), Some("builder"));
    }

    #[test]
    fn other_keys_are_notes_for_people() {
        let roadmap = parse("r", "- slug: one\n  description: 'what: it is'\n  group: [a, b]\n");
        assert_eq!((roadmap.items.len(), roadmap.broken.len()), (1, 0));
    }

    #[test]
    fn an_empty_roadmap_has_no_entries_and_no_fault() {
        for empty in ["", "[]", "# nothing\n", "---\n", "~"] {
            assert_eq!(parse("", empty), Roadmap::default(), "{empty:?}");
        }
    }

    #[test]
    fn a_broken_entry_names_file_and_line_and_leaves_the_others() {
        let text = "- slug: good\n- slug: ../bad\n- slug: odd\n  lanes: red\n- slug: single\n  after: good\n- slug: good\n- just text\n";
        let roadmap = parse("todos/roadmap.yaml", text);
        assert_eq!(roadmap.items.iter().map(|item| item.slug.as_str()).collect::<Vec<_>>(), ["good"]);
        let found = faults(text);
        assert_eq!(found.len(), 5, "{found:?}");
        for (fault, start) in found.iter().zip([
            "2: slug",
            "4: unknown key \"lanes\"; did you mean lane?",
            "6: after is a list",
            "7: good stands here a second time, first in line 1",
            "8: an entry is a map",
        ]) {
            assert!(fault.starts_with(&format!("todos/roadmap.yaml:{start}")), "{fault}");
        }
    }

    #[test]
    fn what_makes_the_file_unreadable_is_its_fault() {
        for (text, part) in [
            ("slug: one", "a roadmap is a list"),
            ("- slug: [", "not valid YAML"),
            ("- &a slug: x\n- *a", "anchors"),
            ("- slug: !!str x", "tags"),
            ("- a\n---\n- b", "several documents"),
            ("- [[[[[[[[[[1]]]]]]]]]]", "nest deeper"),
        ] {
            let roadmap = parse("r", text);
            assert!(roadmap.items.is_empty());
            assert!(roadmap.fault.as_ref().is_some_and(|fault| fault.message.contains(part)), "{text:?}: {roadmap:?}");
        }
    }

    #[test]
    fn a_cycle_is_the_fault_of_those_on_it_and_of_nobody_else() {
        let catalog = catalog(
            "- slug: a\n  after: [b]\n- slug: b\n  after: [c]\n- slug: c\n  after: [a]\n- slug: d\n  after: [a]\n- slug: e\n  after: [e]\n",
        );
        let fault = |name: &str| {
            catalog.get(&slug(name)).and_then(|todo| todo.fault.as_ref()).map(|fault| fault.message.clone())
        };
        assert_eq!(fault("a").as_deref(), Some("depends on itself: a → b → c → a"));
        assert_eq!(fault("c").as_deref(), Some("depends on itself: c → a → b → c"));
        assert_eq!(fault("d"), None);
        assert_eq!(fault("e").as_deref(), Some("depends on itself: e → e"));
    }

    #[test]
    fn an_unknown_dependency_is_the_fault_of_the_one_that_names_it() {
        let catalog = catalog("- slug: a\n  after: [ghost]\n- slug: b\n");
        let fault = catalog.get(&slug("a")).and_then(|todo| todo.fault.clone()).expect("a fault");
        assert!(fault.line == 1 && fault.message.contains("ghost"), "{fault}");
        assert_eq!(catalog.get(&slug("b")).and_then(|todo| todo.fault.clone()), None);
    }

    #[test]
    fn higher_priority_goes_first_and_the_roadmap_breaks_ties() {
        let roadmap = parse("r", "- slug: a\n- slug: b\n  priority: 2\n- slug: c\n- slug: d\n  priority: 2\n");
        let catalog = Catalog::build(roadmap, &[slug("a"), slug("draft")], Vec::new());
        let order: Vec<(&str, bool)> = catalog.iter().map(|todo| (todo.slug.as_str(), todo.listed)).collect();
        assert_eq!(order, [("b", true), ("d", true), ("a", true), ("c", true), ("draft", false)]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[-a-z:\\[\\]{}&*!#|>\" \n]{0,120}") {
            let _ = Catalog::build(parse("r", &text), &[], Vec::new());
        }
    }
}
