//! Slugline hands out work to AI coding agents: an agent asks over HTTP and gets a git worktree that exists, is
//! prepared, in sync and judged. `ARCHITECTURE.md` tells the way through the rooms.

pub mod actors;
pub mod cli;
pub mod config;
pub mod git;
pub mod http;
pub mod metrics;
pub mod model;
pub mod process;
pub mod runtime;
pub mod store;
pub mod telemetry;
