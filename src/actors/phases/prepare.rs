//! `prepare`: the repository's prepare command has run for the current inputs.
//!
//! Entry condition: new worktree, never prepared, inputs or command changed, an output gone, the last attempt failed,
//! or the caller asked.
//! Effect: the command, as the base commit declares it (or as recognised there), runs in the worktree.
//! Ends with: a digest of the inputs as they are after the run, and the outputs that have to stay, marked in the
//! ledger; or the mark "failed". The mark "begun" is there before the command starts, so no crash reads as prepared.
//! Undone by: nothing; the next call runs it again unless it is marked done.

use std::time::Duration;

use super::blocking;
use crate::actors::exec::RunExec;
use crate::actors::inputs::{self, Inputs};
use crate::actors::probe::Look;
use crate::actors::run::{PhaseFault, Run};
use crate::model::phase::{Outcome, Phase, Reason};
use crate::model::prepare::KNOWN_OUTPUTS;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::record::{MarkState, PrepareMark};
use crate::model::repo_config::PrepareConfig;
use crate::store::Write;

/// Runs the prepare command.
pub async fn carry_out(run: &mut Run, reason: Reason, found: &Look) -> Result<Reason, PhaseFault> {
    let Some(config) = found.base.prepare.clone() else { return Ok(Reason::NothingToPrepare) };
    mark(run, &config, MarkState::Started, String::new(), Vec::new()).await?;
    let exec = RunExec::command(run, Phase::Prepare);
    let ended = exec.shell(&config.command, Duration::from_millis(config.timeout_ms)).await;
    let outcome = match ended.and_then(|exit| exec.judge(&config.command, "prepare", ProblemCode::PrepareFailed, &exit))
    {
        Ok(()) => settle(run, &config, found.base.prepare_recognised).await,
        Err(fault) => Err(fault),
    };
    if outcome.is_err() {
        mark(run, &config, MarkState::Failed, String::new(), Vec::new()).await?;
    }
    outcome.map(|()| reason)
}

/// The digest is taken after the run: a lock file the command writes is what the next look compares with.
async fn settle(run: &mut Run, config: &PrepareConfig, recognised: bool) -> Result<(), PhaseFault> {
    let path = run.args.repo.worktree_path(&run.args.todo.slug);
    let (patterns, declared) = (config.inputs.clone(), config.outputs.clone());
    let (inputs, missing, left) = blocking(move || {
        let missing = inputs::missing(&path, &declared).map(str::to_owned);
        let left: Vec<String> = KNOWN_OUTPUTS
            .iter()
            .filter(|name| recognised && path.join(name).is_dir())
            .map(|&name| name.to_owned())
            .collect();
        (Inputs::look(&path, &patterns, None), missing, left)
    })
    .await?;
    if let Some(output) = missing {
        let detail = format!(
            "prepare `{}` ended well but its declared output {output} is not there; correct outputs in .slugline.toml or the command",
            config.command
        );
        return Err(PhaseFault {
            problem: Problem::new(ProblemCode::PrepareFailed, detail).with("missing_output", output),
            outcome: Outcome::Failure,
        });
    }
    mark(run, config, MarkState::Done, inputs.digest.clone(), left).await?;
    run.memory.inputs = Some(inputs);
    Ok(())
}

async fn mark(
    run: &mut Run,
    config: &PrepareConfig,
    state: MarkState,
    inputs: String,
    outputs: Vec<String>,
) -> Result<(), PhaseFault> {
    let at = run.args.context.clock.now();
    let mark = PrepareMark { state, definition: config.digest(), inputs, outputs, at };
    run.memory.record_mut().prepare = Some(mark.clone());
    let todo = run.args.todo.clone();
    run.commit(vec![Write::PrepareMarked { todo, mark: Some(mark), at }]).await.map_err(PhaseFault::from)
}
