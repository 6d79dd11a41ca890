//! The vocabulary and every decision, pure: no I/O, no async runtime, no clock (time is an argument).
//!
//! Reading order: `ids` and `time` (what things are called), `phase` and `plan` (what a call has to do), `claim`, `todo`
//! and `lane` (leases, stages, breakers), `agenda` and `next` (who gets which todo), `desk` (all of that together),
//! `fingerprint` and `failure` (what failed), `git_fault` (what it means that git failed), `roadmap`, `filed`, `repo_config` and `prepare` (what a repository says),
//! `operation`, `work_order`, `problem`, `kept` and `event` (what clients and the ledger see), `record` (what is
//! remembered of a slug), `door`, `pace` and `mask` (who comes in, how often, and what is told to nobody), `trace` (where in a
//! trace something is), `planted` (what in a repository could lead git astray), `worktree` and `session` (what is shown as it
//! changes), `supervision` (what happens to an actor that died), `doctor` (what of a machine would keep a daemon from working).

pub mod agenda;
pub mod claim;
pub mod desk;
pub mod doctor;
pub mod door;
pub mod event;
pub mod failure;
pub mod filed;
pub mod fingerprint;
pub mod git_fault;
pub mod hang;
pub mod ids;
pub mod incident;
pub mod job;
pub mod kept;
pub mod lane;
pub mod mask;
pub mod next;
pub mod operation;
pub mod pace;
pub mod phase;
pub mod plan;
pub mod planted;
pub mod prepare;
pub mod problem;
pub mod readiness;
pub mod record;
pub mod repo_config;
pub mod roadmap;
pub mod session;
pub mod settings;
pub mod supervision;
pub mod time;
pub mod todo;
pub mod trace;
pub mod view;
pub mod work_order;
pub mod worktree;
