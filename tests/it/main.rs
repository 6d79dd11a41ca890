//! Scenarios on the whole daemon: real repositories, real commands, the real ledger, HTTP on loopback.

mod bad_input;
mod claims;
mod crash;
mod flight;
mod gates;
mod harness;
mod hostile;
mod http;
mod keys;
mod lanes;

mod operations;
mod prepare;
mod stress;
mod supervision;
mod sync;
mod worktree;
