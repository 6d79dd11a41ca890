//! The command line: what it says (`args`), and a client that talks to the daemon over HTTP like any other (`client`),
//! which asks how the daemon is (`health`), looks for what would keep one from working (`doctor`), opens its console
//! (`console`), gives it a new token (`token`) and shows what it does (`demo`).
//!
//! May know `model` and `config`.

pub mod args;
pub mod client;
pub mod console;
pub mod demo;
pub mod doctor;
pub mod health;
pub mod token;
