//! A panic at every point of the source that has a name for it (`Faults::hit`). The points are read from the source, so none
//! that is added later is left out.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use slugline::actors::faults::Faults;
use slugline::model::phase::Phase;

use crate::harness::{House, Repo, Site, git, until, write};
use crate::scale::{Dice, seed, size};

/// How often each point is met.
const ROUNDS: [u64; 3] = [1, 10, 50];
/// One of so many passes of a point that is to panic does, while it is left to chance.
const ONE_OF: u64 = 3;
/// Todos for each round; so many of them are lived through by chance, and then every pass counts.
const TODOS: usize = 12;
const BY_CHANCE: usize = 2;

/// The points a text names.
fn points(text: &str) -> BTreeSet<String> {
    let named = text.split(".hit(").skip(1).flat_map(|rest| {
        let name = rest.split(')').next().unwrap_or(rest);
        match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
            Some(name) => vec![name.to_owned()],
            // What is carried out; nothing is ever done to resolve.
            None if name == "phase.as_str(" => Phase::ALL
                .iter()
                .filter(|phase| **phase != Phase::Resolve)
                .map(|phase| phase.as_str().to_owned())
                .collect(),
            None => panic!("a point is named by {name:?}, which says nothing to a reader"),
        }
    });
    named.collect()
}

fn points_below(dir: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(dir).expect("reads").flatten() {
        if entry.path().is_dir() {
            all.append(&mut points_below(&entry.path()));
        } else {
            all.append(&mut points(&std::fs::read_to_string(entry.path()).expect("reads")));
        }
    }
    all
}

/// Panics once at each of the points that are left, some time when it is passed.
#[derive(Clone)]
struct Mine(Arc<Mutex<Laid>>);

struct Laid {
    left: BTreeSet<String>,
    one_of: u64,
    dice: Dice,
}

impl Mine {
    fn of(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(Laid { left: BTreeSet::new(), one_of: ONE_OF, dice })))
    }

    fn state(&self) -> MutexGuard<'_, Laid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lay(&self, points: &BTreeSet<String>) {
        let mut laid = self.state();
        (laid.left, laid.one_of) = (points.clone(), ONE_OF);
    }

    /// From now on the next pass is the one.
    fn surely(&self) {
        self.state().one_of = 1;
    }

    fn left(&self) -> BTreeSet<String> {
        self.state().left.clone()
    }

    fn faults(&self) -> Faults {
        let mine = self.clone();
        Faults::at_points(move |point| {
            let goes_off = {
                let Laid { left, one_of, dice } = &mut *mine.state();
                left.contains(point) && dice.below(*one_of) == 0 && left.remove(point)
            };
            assert!(!goes_off, "made to panic at {point}");
        })
    }
}

/// Asks until it is answered well; what a panic makes of an answer is an answer all the same.
async fn insist(house: &House, path: &str, body: &Value) -> Value {
    until(path, || async {
        let reply = house.client.post(path, body).await.expect("the daemon answers");
        let answer = reply.json();
        assert!(reply.status < 300 || answer["code"].is_string(), "{path}: {}", reply.text());
        (reply.status == 200 || reply.status == 201).then_some(answer)
    })
    .await
}

/// A todo from its first call to its end, past every point.
async fn live(site: &Site, house: &House, repo: &Repo, slug: &str) {
    let work = json!({ "lane": "builder", "slug": slug, "wait_ms": 20_000, "refresh": true });
    insist(house, "/todos/work", &work).await;
    repo.write("a.lock", slug);
    repo.write(&format!("todos/{slug}/requirements.md"), "# other words\n");
    repo.commit("the base moves");
    let order = insist(house, "/todos/work", &work).await;
    let token = order["claim"]["token"].clone();
    let session = order["claim"]["session"].as_str().expect("a session");
    let report = json!({ "events": [{ "kind": "note", "text": "hello" }] });
    insist(house, &format!("/sessions/{session}/events"), &report).await;
    let worktree = site.worktree(slug);
    write(&worktree.join("work.txt"), slug);
    git(&worktree, &["add", "--all"]);
    git(&worktree, &["commit", "--quiet", "--message", "work"]);
    for path in ["/worktrees?wait_ms=100", "/sessions", "/readiness"] {
        let reply = house.client.get(path).await.expect("answers");
        assert!(reply.status == 200 || reply.json()["code"].is_string(), "{path}: {}", reply.text());
    }
    let done = json!({ "token": token, "outcome": "done" });
    let about = format!("/todos/app/{slug}");
    until(&format!("{slug} to be counted"), || async {
        house.client.post(&format!("{about}/complete"), &done).await.expect("the daemon answers");
        let stage = house.client.get(&about).await.expect("answers").json()["stage"].clone();
        (stage == "integrate").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_at_any_named_point_is_answered_and_everything_goes_on() {
    assert_eq!(points("x.hit(\"a.b\");\nself.faults.hit(phase.as_str());").len(), Phase::ALL.len());
    let all = points_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(all.len() > 15, "{all:?}");
    let rounds = size("TEST_POINTS", ROUNDS);
    let mine = Mine::of(Dice(seed(None)));
    for _ in 0..rounds {
        let site = Site::new();
        let slugs: Vec<String> = (0..TODOS).map(|number| format!("t{number}")).collect();
        let settings =
            "[prepare]\ncommand = \"true\"\ninputs = [\"a.lock\"]\n[[gates]]\nname = \"g\"\ncommand = \"true\"\n";
        let repo = site.app(&slugs.iter().map(String::as_str).collect::<Vec<_>>(), settings);
        let quick = [("jobs.readiness_every_ms", "100"), ("jobs.self_heal_every_ms", "100")];
        let house = site.start_with(&[&repo], &quick, mine.faults()).await;
        mine.lay(&all);
        let mut slugs = slugs.iter();
        while !mine.left().is_empty() {
            let slug = slugs.next().unwrap_or_else(|| panic!("these points are never passed: {:?}", mine.left()));
            // Readiness that has not changed is stored again after a minute.
            house.awake_ms.fetch_add(61_000, Ordering::SeqCst);
            live(&site, &house, &repo, slug).await;
            if TODOS - slugs.len() == BY_CHANCE {
                mine.surely();
            }
        }
        println!("{} points, {} todos", all.len(), TODOS - slugs.len());
        house.stop_with_all_kept().await;
    }
}
