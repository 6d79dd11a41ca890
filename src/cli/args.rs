//! What the command line says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Flags};

/// `slugline`.
#[derive(Debug, Parser)]
#[command(
    name = "slugline",
    version,
    about = "Hands out work to AI coding agents: ask over HTTP, get a git worktree that exists, is prepared, in sync and judged.",
    after_help = "Try it:\n  slugline demo\n\nServe a repository:\n  slugline serve --repo /path/to/repo\n\nLook at it in a browser:\n  slugline console\n\nExit codes: 0 ended as asked, 1 failed, 64 wrong usage or configuration, 65 the ledger is damaged or of a newer version, 70 an actor the daemon cannot do without was given up."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve repositories until told to stop (SIGTERM or Ctrl-C).
    #[command(
        after_help = "Settings come from flags, then the environment (SLUGLINE_LISTEN, SLUGLINE_DATA_DIR, SLUGLINE_LEASE_DURATION_MS, ...), then the configuration file, then defaults. config.example.toml has every setting.\n\nAsk for work:\n  curl -H \"Authorization: Bearer $(cat ~/.local/state/slugline/token)\" -H 'Content-Type: application/json' \\\n       -d '{\"lane\":\"builder\"}' http://127.0.0.1:7584/todos/work"
    )]
    Serve(Serve),
    /// Ask a running daemon whether it is to be relied on.
    #[command(
        after_help = "Exit codes: 0 GO, 1 NO_GO, 2 UNKNOWN (also when no daemon answers).\n\nIn a script:\n  slugline health --data-dir DIR || echo 'not now'"
    )]
    Health(Health),
    /// Look at this machine and the configuration for what would keep a daemon from working, and change nothing.
    #[command(
        after_help = "Exit codes: 0 nothing is in the way, 1 something is, 64 the configuration is wrong.\n\nBefore the first start:\n  slugline doctor --repo /path/to/repo"
    )]
    Doctor(Doctor),
    /// Open the console of a running daemon in a browser, signed in.
    #[command(
        after_help = "The link it prints signs in whoever opens it first, within two minutes. When the daemon runs on another machine:\n  ssh -L 7584:127.0.0.1:7584 HOST\n  slugline console --print\nand open the link where you are."
    )]
    Console(Console),
    /// Copy the ledger, also while a daemon writes to it.
    #[command(
        after_help = "The copy appears when all of it is on disk and was found to be whole; it never replaces a file. A daemon makes one every day by itself ([jobs] backup_every_ms) and keeps seven ([retention] backups_keep).\n\n  slugline backup                          # into DATA_DIR/backups\n  slugline backup /elsewhere/slugline.db\n\nExit codes: 0 made, 1 failed, 64 wrong usage or configuration, 65 the ledger is damaged."
    )]
    Backup(Backup),
    /// Put a backup in the place of the ledger; no daemon may run.
    #[command(
        after_help = "What came after the backup is lost, and it is said how much that is. Claims of the backup are ended and tokens go on above any that was ever given, so that nobody who worked since is mistaken for a holder. Worktrees are not touched. The ledger that is replaced stays beside the new one, as replaced-....db; nothing is deleted.\n\nThe newest backup:\n  ls -v ~/.local/state/slugline/backups | tail -1\n\nGo on with a ledger that lost its end:\n  slugline restore ~/.local/state/slugline/ledger.db\n\nStart with an empty one: move ledger.db*, ledger.mark and backups out of the data directory.\n\nExit codes: 0 restored, 1 failed (a daemon runs, the disk is full), 64 wrong usage or configuration, 65 the backup is damaged; unless it is 0, nothing was changed."
    )]
    Restore(Restore),
    /// Look whether the ledger, or a backup, is what was written.
    #[command(
        after_help = "Every page, every index and the sum of every row, and that it goes as far as was acknowledged. Changes nothing; a daemon may run.\n\n  slugline check\n  slugline check ~/.local/state/slugline/backups/ledger-1234-20260101T000000000Z.db\n\nExit codes: 0 whole, 1 it cannot be read, 64 wrong usage or configuration, 65 damaged, not a ledger or of a newer version."
    )]
    Check(Check),
    /// Give a running daemon a new token, or say where the token is.
    #[command(
        after_help = "What was signed in or started with the old token ends with its grace:\n  slugline token rotate\n  slugline token rotate --grace-ms 0    # it is known to somebody: no longer, from now on"
    )]
    Token(Token),
    /// Make a sample repository, serve it, ask for work twice and show both answers.
    Demo(Demo),
}

/// `slugline serve`.
#[derive(Debug, Default, Args)]
pub struct Serve {
    /// Configuration file; without it, ./slugline.toml when it is there.
    #[arg(long, env = "SLUGLINE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A repository to serve, named after its directory; may be given more than once.
    #[arg(long, value_name = "PATH")]
    pub repo: Vec<PathBuf>,
    /// TCP address; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Names the daemon may be asked for by, beside loopback's and the address it listens on; `name` or `name:port`.
    #[arg(long, value_name = "NAME,NAME")]
    pub allowed_hosts: Option<String>,
    /// Unix socket beside it.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// Token, address, ledger and logs.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Worktrees; the data directory's `worktrees` when not given.
    #[arg(long, value_name = "DIR")]
    pub worktrees_dir: Option<String>,
}

/// Which of the daemons that run.
#[derive(Debug, Args)]
pub struct Running {
    /// Configuration file of the daemon; without it, ./slugline.toml when it is there.
    #[arg(long, env = "SLUGLINE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its data directory.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
}

/// `slugline health`.
#[derive(Debug, Args)]
pub struct Health {
    /// Which daemon.
    #[command(flatten)]
    pub daemon: Running,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `slugline doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// What a daemon would be told.
    #[command(flatten)]
    pub serve: Serve,
}

/// `slugline console`.
#[derive(Debug, Args)]
pub struct Console {
    /// Which daemon.
    #[command(flatten)]
    pub daemon: Running,
    /// Print the link and open nothing.
    #[arg(long)]
    pub print: bool,
}

/// `slugline backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// Whose ledger.
    #[command(flatten)]
    pub ledger: Running,
    /// The copy; a name of its own in the data directory's `backups` when not given.
    pub file: Option<PathBuf>,
}

/// `slugline restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// Whose ledger.
    #[command(flatten)]
    pub ledger: Running,
    /// The backup.
    pub file: PathBuf,
}

/// `slugline check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Whose ledger.
    #[command(flatten)]
    pub ledger: Running,
    /// A backup to look at instead.
    pub file: Option<PathBuf>,
}

impl Running {
    /// What the daemon was told; or every fault of the configuration, a line each.
    pub fn load(&self) -> Result<Config, Vec<String>> {
        let (config, data_dir) = (self.config.clone(), self.data_dir.clone());
        Serve { config, data_dir, ..Serve::default() }.load()
    }

    /// Where the daemon keeps its address and token; or every fault of the configuration, a line each.
    pub fn data_dir(&self) -> Result<PathBuf, Vec<String>> {
        self.load().map(|config| config.data_dir)
    }
}

/// `slugline token`.
#[derive(Debug, Args)]
pub struct Token {
    /// What to do.
    #[command(subcommand)]
    pub what: TokenCommand,
}

/// What to do with a token.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Have the daemon make a new one and write it to its file; asks on the unix socket, so the old one may be lost.
    Rotate {
        /// Which daemon.
        #[command(flatten)]
        daemon: Running,
        /// How long the old one is good, in milliseconds; `[auth] grace_ms` when not given, no longer when 0.
        #[arg(long, value_name = "MS")]
        grace_ms: Option<u64>,
    },
    /// Print where the token is.
    Path {
        /// Which daemon.
        #[command(flatten)]
        daemon: Running,
    },
}

impl Token {
    /// Of which daemon.
    #[must_use]
    pub const fn daemon(&self) -> &Running {
        match &self.what {
            TokenCommand::Rotate { daemon, .. } | TokenCommand::Path { daemon } => daemon,
        }
    }
}

/// `slugline demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// End after the two answers instead of serving on.
    #[arg(long)]
    pub once: bool,
}

/// The file read when none is named.
const FILE_DEFAULT: &str = "slugline.toml";

impl Serve {
    /// The configuration file, where there is one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| PathBuf::from(FILE_DEFAULT).is_file().then(|| FILE_DEFAULT.into()))
    }

    /// Everything that was said, as one configuration; or every fault, a line each.
    pub fn load(&self) -> Result<Config, Vec<String>> {
        let flags = [
            ("listen", &self.listen),
            ("http.allowed_hosts", &self.allowed_hosts),
            ("socket", &self.socket),
            ("data_dir", &self.data_dir),
            ("worktrees_dir", &self.worktrees_dir),
        ];
        let absolute = |key: &'static str, value: &String| match key {
            "listen" | "http.allowed_hosts" => value.clone(),
            // Seen from where the command was given, not from the file's directory.
            _ => std::path::absolute(value).map_or_else(|_| value.clone(), |path| path.display().to_string()),
        };
        let settings = flags
            .into_iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| (key, absolute(key, value))))
            .collect();
        let flags = Flags { settings, repos: self.repo.clone() };
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let path = self.file();
        let text = match &path {
            Some(path) => {
                Some(std::fs::read_to_string(path).map_err(|error| vec![format!("{}: {error}", path.display())])?)
            }
            None => None,
        };
        let file = path.as_deref().zip(text.as_deref());
        Config::load(&flags, &env, file).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }
}
