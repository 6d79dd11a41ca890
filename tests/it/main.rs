//! Scenarios on the whole daemon: real repositories, real commands, the real ledger, HTTP on loopback.

mod crash;
mod harness;
mod prepare;
