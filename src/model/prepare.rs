//! How a worktree is prepared when `.slugline.toml` does not say: recognised from what the base commit holds.

use super::repo_config::{PREPARE_TIMEOUT_MS_DEFAULT, PrepareConfig};

/// Files whose content decides what a prepare does, watched as inputs whenever the command was recognised and not
/// declared. A file that is not there counts as "not there", so that its appearing is a change.
pub const KNOWN_INPUTS: [&str; 22] = [
    "Makefile",
    "GNUmakefile",
    "makefile",
    "package.json",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    "yarn.lock",
    ".npmrc",
    ".yarnrc.yml",
    "pyproject.toml",
    "uv.lock",
    "poetry.lock",
    "requirements.txt",
    "requirements-dev.txt",
    "setup.py",
    "setup.cfg",
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    ".tool-versions",
];

/// Directories a prepare usually makes. Those that are there after a recognised prepare must stay there.
pub const KNOWN_OUTPUTS: [&str; 3] = ["node_modules", ".venv", "venv"];

/// The project's own script, run with the slug as its argument.
pub const SCRIPT: &str = "tools/worktree-prepare.sh";

/// What can be recognised in a base commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseHints {
    /// Names of the regular files in the root.
    pub root_files: Vec<String>,
    /// Whether [`SCRIPT`] is a regular file.
    pub has_script: bool,
    /// The Makefile's text, when there is one of a size worth reading.
    pub makefile: Option<String>,
}

/// The command for a repository that declares none: the project's script, else `make install`, else the package
/// manager whose lock file is there. `None` when nothing is recognised.
#[must_use]
pub fn recognise(hints: &BaseHints) -> Option<PrepareConfig> {
    let has = |name: &str| hints.root_files.iter().any(|file| file == name);
    let command = if hints.has_script {
        // The slug is a checked name without any character the shell knows.
        format!(
            "if [ -x {SCRIPT} ]; then exec {SCRIPT} \"$SLUGLINE_SLUG\"; else exec bash {SCRIPT} \"$SLUGLINE_SLUG\"; fi"
        )
    } else if hints.makefile.as_deref().is_some_and(has_install_target) {
        "make install".to_owned()
    } else if has("pnpm-lock.yaml") {
        "pnpm install --frozen-lockfile".to_owned()
    } else if has("yarn.lock") {
        "yarn install --frozen-lockfile".to_owned()
    } else if has("package-lock.json") || has("npm-shrinkwrap.json") || has("package.json") {
        "npm install --no-audit --no-fund".to_owned()
    } else if has("uv.lock") {
        "uv sync --frozen".to_owned()
    } else if has("Cargo.lock") {
        "cargo fetch --locked".to_owned()
    } else {
        return None;
    };
    let script = hints.has_script.then(|| SCRIPT.to_owned());
    Some(PrepareConfig {
        command,
        inputs: KNOWN_INPUTS.iter().map(|&name| name.to_owned()).chain(script).collect(),
        outputs: Vec::new(),
        timeout_ms: PREPARE_TIMEOUT_MS_DEFAULT,
    })
}

/// Whether a Makefile has a rule whose targets include `install`. Assignments (`install := x`) are none.
fn has_install_target(makefile: &str) -> bool {
    makefile.lines().any(|line| {
        let Some((targets, rest)) = line.split_once(':') else { return false };
        !line.starts_with(['\t', '#', ' ', '.'])
            && !rest.starts_with('=')
            && !rest.starts_with(":=")
            && targets.split_whitespace().any(|target| target == "install")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(files: &[&str], makefile: Option<&str>, has_script: bool) -> BaseHints {
        BaseHints {
            root_files: files.iter().map(|&file| file.to_owned()).collect(),
            has_script,
            makefile: makefile.map(str::to_owned),
        }
    }

    #[test]
    fn the_order_of_recognition_is_script_make_and_lock_files() {
        let command =
            |hints: &BaseHints| recognise(hints).map(|prepare| prepare.command.split(' ').next().map(str::to_owned));
        let all = ["Makefile", "pnpm-lock.yaml", "package-lock.json", "uv.lock", "Cargo.lock"];
        let make = Some("all:\n\techo\ninstall: all\n\techo\n");
        assert!(recognise(&hints(&all, make, true)).is_some_and(|p| p.command.contains(SCRIPT)));
        assert_eq!(command(&hints(&all, make, false)), Some(Some("make".into())));
        assert_eq!(command(&hints(&all, Some("all:\n"), false)), Some(Some("pnpm".into())));
        assert_eq!(command(&hints(&["package.json", "yarn.lock"], None, false)), Some(Some("yarn".into())));
        assert_eq!(command(&hints(&["package.json"], None, false)), Some(Some("npm".into())));
        assert_eq!(command(&hints(&["uv.lock", "Cargo.lock"], None, false)), Some(Some("uv".into())));
        assert_eq!(command(&hints(&["Cargo.lock"], None, false)), Some(Some("cargo".into())));
        assert_eq!(command(&hints(&["README.md"], None, false)), None);
    }

    #[test]
    fn only_a_rule_for_install_counts_as_its_target() {
        for yes in ["install:", "install: all", "build install: x", "install::\n"] {
            assert!(has_install_target(yes), "{yes}");
        }
        for no in ["install := 1", "install = 1", "\tinstall: x", "#install:", "preinstall:", ".PHONY: install", ""] {
            assert!(!has_install_target(no), "{no}");
        }
    }
}
