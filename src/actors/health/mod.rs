//! The daemon watches itself, and says how it is.
//!
//! Reading order: `turning` (what each thread of the runtime does now), `stacks` (where it is stuck), `inflight` (what is on),
//! `sampler` with `pulse` and `hangs` (sees a hang while it lasts and dumps it), `watchdog` (the part of it that is an actor),
//! `jobs` with `run_lock` and `duties` (the daemon's own periodic duties), `readiness` with `evidence` and `surroundings` (what
//! is said of all of it, and of the machine around it).

pub mod duties;
pub mod evidence;
pub mod hangs;
pub mod inflight;
pub mod jobs;
pub mod pulse;
pub mod readiness;
pub mod run_lock;
pub mod sampler;
pub mod stacks;
pub mod surroundings;
pub mod turning;
pub mod watchdog;
