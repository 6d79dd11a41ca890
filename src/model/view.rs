//! How actors describe themselves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One actor's own view of itself; the console, `/actors` and the tests read this same view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActorView {
    /// `root`, `ledger`, `dispatcher`, `repository` or `slug`.
    pub kind: String,
    /// Unique among living actors of its kind, such as `app/fix-login`.
    pub name: String,
    /// The name of its supervisor's kind and name, `kind:name`; empty for the root.
    pub parent: String,
    /// `running`, `restarting` or `given_up`.
    pub state: String,
    /// Restarts since the daemon started.
    pub restarts: u32,
    /// Why it was last restarted.
    pub last_failure: Option<String>,
    /// Messages waiting now.
    pub mailbox: usize,
    /// The most that ever waited.
    pub mailbox_high_water: usize,
    /// What it is doing, in its own words.
    pub work: Value,
}
