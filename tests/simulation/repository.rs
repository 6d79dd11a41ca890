//! The repository of a world, with todos that come after others, one lane's own todo and a brief.

use std::path::Path;

use git2::{IndexAddOption, Repository, RepositoryInitOptions, Signature, Time};

use crate::world::TODOS;

const SETTINGS: &str = "[prepare]\ncommand = \"prepare\"\ninputs = [\"README.md\"]\ntimeout_ms = 20000\n\n\
    [[gates]]\nname = \"unit\"\ncommand = \"gate\"\ntimeout_ms = 15000\n\n[todos]\nreview = ";

fn line(number: usize) -> String {
    match number {
        3 => "- slug: t3\n  after: [t1]\n".to_owned(),
        5 => "- slug: t5\n  lane: mender\n".to_owned(),
        6 => "- slug: t6\n  after: [t0, t2]\n".to_owned(),
        _ => format!("- slug: t{number}\n"),
    }
}

/// Makes one at this place.
pub fn make(at: &Path, reviewed: bool) {
    std::fs::create_dir_all(at.join("todos/t0")).expect("makes it");
    for (file, text) in [
        (".slugline.toml", format!("{SETTINGS}\"{}\"\n", if reviewed { "required" } else { "none" })),
        ("README.md", "read me\n".to_owned()),
        ("todos/roadmap.yaml", (0..TODOS).map(line).collect()),
        ("todos/t0/requirements.md", "do it\n".to_owned()),
    ] {
        std::fs::write(at.join(file), text).expect("writes");
    }
    commit_all(at).expect("commits");
}

fn commit_all(at: &Path) -> Result<(), git2::Error> {
    let repo = Repository::init_opts(at, RepositoryInitOptions::new().external_template(false).initial_head("main"))?;
    let mut index = repo.index()?;
    index.add_all(["*"], IndexAddOption::DEFAULT, None)?;
    index.write()?;
    let by = Signature::new("somebody", "somebody@localhost", &Time::new(1_780_000_000, 0))?;
    repo.commit(Some("HEAD"), &by, &by, "first", &repo.find_tree(index.write_tree()?)?, &[]).map(drop)
}
