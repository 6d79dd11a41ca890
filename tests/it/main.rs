//! Scenarios on the whole daemon: real repositories, real commands, the real ledger, HTTP on loopback.

mod harness;
mod http;
mod prepare;
