//! `dispatch`: the caller holds the claim.
//!
//! Entry condition: nobody's lease runs on the todo.
//! Effect: the dispatcher grants it, durably; asking twice gives the same grant.
//! Ends with: the grant on disk, or the problem that says who holds it or what speaks against it.
//! Undone by: the lease running out.

use std::time::Duration;

use crate::actors::answer;
use crate::actors::dispatcher::DispatcherMsg;
use crate::actors::mailbox::AskError;
use crate::actors::probe::Look;
use crate::actors::run::{PhaseFault, Run};
use crate::model::desk::Claimed;
use crate::model::phase::{Outcome, Reason};
use crate::model::problem::{Problem, ProblemCode};

/// How long a grant may take: one write to the ledger, with room for a slow disk.
pub const GRANT_LIMIT: Duration = Duration::from_secs(10);

/// Asks the dispatcher for the claim.
pub async fn carry_out(run: &mut Run, reason: Reason, found: &Look) -> Result<Reason, PhaseFault> {
    let (todo, base, asker) = (run.args.todo.clone(), found.base.clone(), run.call.asker.clone());
    let asked = run.args.context.dispatcher.ask(GRANT_LIMIT, |reply| DispatcherMsg::Claim { todo, base, asker, reply });
    match asked.await.map_err(no_answer)?? {
        Claimed::Granted { claim, .. } => {
            run.claim = Some(claim);
            Ok(reason)
        }
        other => {
            let now = run.args.context.clock.moment();
            let problem = answer::not_granted(&run.args.todo, &found.base, &run.call.asker, other, &now);
            Err(PhaseFault { problem, outcome: Outcome::Failure })
        }
    }
}

/// The problem of a dispatcher that does not answer.
#[must_use]
pub fn no_answer(error: AskError) -> Problem {
    let (code, what) = match error {
        AskError::Full => (ProblemCode::Busy, "has too many requests waiting"),
        AskError::Down | AskError::Died => (ProblemCode::Restarting, "is being restarted"),
        AskError::TimedOut => (ProblemCode::DeadlineExceeded, "did not answer in time"),
    };
    Problem::new(code, format!("the dispatcher {what}; ask again")).retry_after(1_000)
}
