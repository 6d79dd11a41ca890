//! The disk of one daemon, in the hands of a test: calls that fail, a process that dies at one of them, no room, and the loss
//! of power. `tests/shim/shim.c` stands between the daemon and its files; this is how it is told what to do, and what the
//! files are after a loss of power.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::Site;
use crate::scale::Dice;

/// What is lost of a file is lost in these.
const SECTOR: usize = 512;

/// EIO.
pub const FAILED: u64 = 5;
/// ENOSPC.
pub const NO_ROOM: u64 = 28;

/// Files there is no room for.
pub const LEDGER: u64 = 1;
pub const LOGS: u64 = 2;
pub const REST: u64 = 4;

/// Numbers of `struct control`, in its order.
#[derive(Debug, Clone, Copy)]
enum Number {
    KillAt = 1,
    Torn,
    FailAt,
    FailEvery,
    Error,
    Full,
    Failed,
}

/// Between one site's daemons and their data.
pub struct Disk {
    control: File,
    vars: Vec<(&'static str, PathBuf)>,
    journal: PathBuf,
}

/// The library, made once per run of the tests.
fn library() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (part, library) = (dir.join(format!("shim-{}", std::process::id())), dir.join("shim.so"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/shim.c");
        let options = ["-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", "-o"];
        let made = Command::new("gcc").args(options).arg(&part).arg(&source).status().expect("gcc starts");
        assert!(made.success(), "gcc does not take {}", source.display());
        std::fs::rename(&part, &library).expect("renames");
        library
    })
}

impl Disk {
    /// A disk that does as it is asked so far.
    pub fn of(site: &Site) -> Self {
        let (numbers, journal) = (site.path("shim.control"), site.path("shim.journal"));
        let control = File::options().read(true).write(true).create(true).truncate(true).open(&numbers).expect("makes");
        control.set_len(64).expect("makes room");
        let vars = vec![
            ("LD_PRELOAD", library().to_owned()),
            ("SHIM_DIR", site.path("data")),
            ("SHIM_CONTROL", numbers),
            ("SHIM_JOURNAL", PathBuf::new()),
        ];
        Self { control, vars, journal }
    }

    /// The same, writing down what is changed.
    pub fn with_journal(site: &Site) -> Self {
        let mut disk = Self::of(site);
        disk.vars[3].1.clone_from(&disk.journal);
        disk
    }

    /// What a daemon on it has in its environment.
    pub fn vars(&self, more: &[(&'static str, &str)]) -> Vec<(&'static str, PathBuf)> {
        self.vars.iter().cloned().chain(more.iter().map(|&(name, value)| (name, value.into()))).collect()
    }

    fn set(&self, number: Number, value: u64) {
        self.control.write_all_at(&value.to_le_bytes(), number as u64 * 8).expect("writes");
    }

    fn get(&self, number: Number) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, number as u64 * 8).expect("reads");
        u64::from_le_bytes(bytes)
    }

    /// Changes that were made to fail since it was last made well.
    pub fn failed(&self) -> u64 {
        self.get(Number::Failed)
    }

    /// Nothing fails any more; counts begin anew.
    pub fn well(&self) {
        self.control.write_all_at(&[0; 64], 0).expect("writes");
    }

    /// The process dies at this change, half way through it when it is a write and `torn`.
    pub fn kill_at(&self, call: u64, torn: bool) {
        self.well();
        self.set(Number::Torn, torn.into());
        self.set(Number::KillAt, call);
    }

    /// This change fails.
    pub fn fail_at(&self, call: u64, error: u64) {
        self.well();
        self.set(Number::Error, error);
        self.set(Number::FailAt, call);
    }

    /// Every so many changes fail.
    pub fn fail_every(&self, calls: u64, error: u64) {
        self.well();
        self.set(Number::Error, error);
        self.set(Number::FailEvery, calls);
    }

    /// There is no room for these.
    pub fn full(&self, files: u64) {
        self.well();
        self.set(Number::Full, files);
    }

    /// How much was written down.
    pub fn journaled(&self) -> u64 {
        std::fs::metadata(&self.journal).map_or(0, |meta| meta.len())
    }

    /// Everything that was written down.
    pub fn journal(&self) -> Vec<Entry> {
        parsed(&std::fs::read(&self.journal).expect("reads"))
    }
}

/// One change that was made.
#[derive(Debug)]
pub struct Entry {
    /// Where the journal is after it.
    pub end: u64,
    what: u8,
    at: usize,
    path: String,
    to: String,
    bytes: Vec<u8>,
}

fn parsed(journal: &[u8]) -> Vec<Entry> {
    let (mut entries, mut from) = (Vec::new(), 0);
    while let Some(length) = journal[from..].iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&journal[from..from + length]).expect("a line");
        let mut words = line.splitn(4, ' ');
        let what = words.next().expect("what").as_bytes()[0];
        let at = words.next().expect("at").parse().expect("a number");
        let bytes: usize = words.next().expect("length").parse().expect("a number");
        let (path, to) = words.next().expect("paths").split_once('\t').expect("two paths");
        from += length + 1;
        let bytes = journal[from..from + bytes].to_vec();
        from += bytes.len();
        entries.push(Entry { end: from as u64, what, at, path: path.to_owned(), to: to.to_owned(), bytes });
    }
    entries
}

#[derive(Debug, Clone)]
enum Change<'a> {
    Write(usize, &'a [u8]),
    Cut(usize),
}

#[derive(Debug, Default)]
struct Inode<'a> {
    disk: Vec<u8>,
    pending: Vec<Change<'a>>,
}

/// How much of what was not synced is on disk after a loss of power.
#[derive(Debug, Clone, Copy)]
enum Luck {
    Nothing,
    All,
    /// Each sector of each write by itself.
    Some,
}

fn write(disk: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if disk.len() < at + bytes.len() {
        disk.resize(at + bytes.len(), 0);
    }
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Inode<'_> {
    fn synced(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write(at, bytes) => write(&mut self.disk, at, bytes),
                Change::Cut(length) => self.disk.resize(length, 0),
            }
        }
    }

    fn without_power(&self, luck: Luck, dice: &mut Dice) -> Vec<u8> {
        let mut disk = self.disk.clone();
        let mut lucky = || match luck {
            Luck::Nothing => false,
            Luck::All => true,
            Luck::Some => dice.below(2) == 0,
        };
        for change in &self.pending {
            match change {
                Change::Cut(length) if lucky() => disk.resize(*length, 0),
                Change::Cut(_) => {}
                Change::Write(at, bytes) => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
                        if lucky() {
                            write(&mut disk, at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
        disk
    }
}

/// Makes in `into` the files as they may be when the power is lost after `entries`: what was synced, and of the rest as much as
/// chance has it, torn at sectors. Names are kept in the order in which they were made, up to some point after the last
/// sync of a directory.
pub fn after_power_loss(entries: &[Entry], dice: &mut Dice, into: &Path) {
    let mut inodes: Vec<Inode<'_>> = Vec::new();
    let (mut names, mut kept) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
    let mut named: Vec<(&Entry, usize)> = Vec::new();
    for entry in entries {
        let inode = names.get(entry.path.as_str()).copied();
        match (entry.what, inode) {
            (b'C', Some(inode)) => inodes[inode].pending.push(Change::Cut(0)),
            (b'C', None) => {
                inodes.push(Inode::default());
                names.insert(&entry.path, inodes.len() - 1);
                named.push((entry, inodes.len() - 1));
            }
            (b'W', Some(inode)) => inodes[inode].pending.push(Change::Write(entry.at, &entry.bytes)),
            (b'T', Some(inode)) => inodes[inode].pending.push(Change::Cut(entry.at)),
            (b'S', Some(inode)) => inodes[inode].synced(),
            (b'S', None) => named.drain(..).for_each(|(entry, inode)| rename(&mut kept, entry, inode)),
            (b'R' | b'U', Some(inode)) => {
                rename(&mut names, entry, inode);
                named.push((entry, inode));
            }
            // A file that was removed while it was open.
            (b'W' | b'T' | b'R' | b'U', None) => {}
            other => panic!("{other:?} in the journal"),
        }
    }
    let names_kept = usize::try_from(dice.below(named.len() as u64 + 1)).expect("fits");
    named.drain(..names_kept).for_each(|(entry, inode)| rename(&mut kept, entry, inode));
    for (name, inode) in kept {
        let luck = *dice.one_of(&[Luck::Nothing, Luck::All, Luck::Some, Luck::Some]);
        let path = into.join(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("makes");
        std::fs::write(path, inodes[inode].without_power(luck, dice)).expect("writes");
    }
}

/// What one change of names does.
fn rename<'a>(names: &mut BTreeMap<&'a str, usize>, entry: &'a Entry, inode: usize) {
    match entry.what {
        b'C' => drop(names.insert(&entry.path, inode)),
        b'R' => {
            names.remove(entry.path.as_str());
            names.insert(&entry.to, inode);
        }
        _ => drop(names.remove(entry.path.as_str())),
    }
}
