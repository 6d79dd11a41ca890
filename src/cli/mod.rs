//! The command line: what it says (`args`), and a client that talks to the daemon over HTTP like any other (`client`),
//! which the demo uses (`demo`).
//!
//! May know `model` and `config`.

pub mod args;
pub mod client;
pub mod demo;
pub mod health;
