//! Scenarios on the whole daemon: real repositories, real commands, the real ledger, HTTP on loopback.

mod bad_input;
mod claims;
mod console;
mod crash;
mod disk;
mod doctor;
mod doors;
mod ear;
mod events;
mod flight;
mod gates;
mod git_states;
mod harness;
mod health;
mod hostile;
mod http;
mod injection;
mod keys;
mod lanes;
mod locks;
#[path = "../marked/mod.rs"]
mod marked;
mod operations;
mod points;
mod prepare;
mod processes;
mod prometheus;
mod promises;
mod recovery;
mod remotes;
#[path = "../replay/mod.rs"]
mod replay;
#[path = "../scale/mod.rs"]
mod scale;
mod sessions;
mod shutdown;
mod storage;
mod stress;
mod supervision;
mod swaps;
mod sync;
mod traces;
mod worktree;
mod worktrees;
