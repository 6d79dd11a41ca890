//! Tells the program which revision of the sources it was made from.

use std::path::Path;
use std::process::Command;

fn main() {
    // The reflog grows with every commit and every checkout. A path that is not there would have this run every time.
    let reflog = ".git/logs/HEAD";
    println!("cargo:rerun-if-changed={}", if Path::new(reflog).is_file() { reflog } else { "build.rs" });
    println!("cargo:rerun-if-env-changed=BUILD_REVISION");
    let given = std::env::var("BUILD_REVISION").ok();
    let revision = given.or_else(of_the_sources).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=BUILD_REVISION={revision}");
}

fn of_the_sources() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.trim().to_owned())
}
