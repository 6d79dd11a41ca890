//! Tells the program which revision of the sources it was made from, and puts the files of the console into it.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

fn main() -> Result<(), Box<dyn Error>> {
    // The reflog grows with every commit and every checkout. A path that is not there would have this run every time.
    let reflog = ".git/logs/HEAD";
    println!("cargo:rerun-if-changed={}", if Path::new(reflog).is_file() { reflog } else { "build.rs" });
    println!("cargo:rerun-if-env-changed=BUILD_REVISION");
    let given = std::env::var("BUILD_REVISION").ok();
    let revision = given.or_else(of_the_sources).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=BUILD_REVISION={revision}");
    println!("cargo:rerun-if-changed={CONSOLE}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo says where to write")?);
    embed(Path::new(CONSOLE), &out)
}

fn of_the_sources() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.trim().to_owned())
}

/// Where the files of the console are.
const CONSOLE: &str = "console";

/// Writes a table of every file of the console: its name, its content, and its content compressed where that is shorter.
/// The content is copied, so that both are of the same moment.
fn embed(console: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let names = names(console)?;
    if !names.iter().any(|name| name == "index.html") {
        return Err(format!("{}/index.html is not there", console.display()).into());
    }
    let mut table = "[\n".to_owned();
    for (number, name) in names.iter().enumerate() {
        let content = fs::read(console.join(name)).map_err(|error| format!("{name}: {error}"))?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&content)?;
        let compressed = encoder.finish()?;
        let file = |ending: &str| out.join(format!("console-{number}{ending}"));
        fs::write(file(""), &content)?;
        fs::write(file(".gz"), &compressed)?;
        let bytes = |ending: &str| format!("include_bytes!({:?})", file(ending));
        let gzip = if compressed.len() < content.len() { format!("Some({})", bytes(".gz")) } else { "None".to_owned() };
        writeln!(table, "    File {{ name: {name:?}, plain: {}, gzip: {gzip} }},", bytes(""))?;
    }
    table.push_str("]\n");
    fs::write(out.join("console.rs"), table)?;
    Ok(())
}

/// The names of all files, those in directories as `views/todos.js`; what begins with a dot is left out.
fn names(console: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut names = Vec::new();
    for (name, path) in entries(console)? {
        if path.is_dir() {
            let inside = entries(&path)?.into_iter().map(|(inner, _)| format!("{name}/{inner}"));
            names.extend(inside);
        } else {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, Box<dyn Error>> {
    let read = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut entries = Vec::new();
    for entry in read {
        let path = entry?.path();
        let name =
            path.file_name().and_then(|name| name.to_str()).ok_or("a name in the console is no text")?.to_owned();
        if !name.starts_with('.') {
            entries.push((name, path));
        }
    }
    Ok(entries)
}
