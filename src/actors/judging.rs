//! What a complete asks of its run beyond a work call: that the claim still lives, that everything is committed, that the
//! very tree which counts has passed every gate, and that the end of the claim is on disk before anybody hears of it.

use super::answer;
use super::dispatcher::{self, DispatcherMsg};
use super::phases::dispatch::{GRANT_LIMIT, no_answer};
use super::probe::Look;
use super::run::{PhaseFault, Run};
use super::runs::Purpose;
use crate::model::desk::Completed;
use crate::model::failure::FailureSource;
use crate::model::phase::{Outcome, Phase};
use crate::model::plan::PhaseSet;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::repo_config::ReviewMode;
use crate::model::todo::{Circumstances, Complete, Stage, Stale};
use crate::model::work_order::Product;

impl Run {
    /// What the worker said it has done, when that is what the run is for.
    pub fn complete(&self) -> Option<&Complete> {
        match &self.call.purpose {
            Purpose::Complete(complete) => Some(complete),
            Purpose::Work { .. } => None,
        }
    }

    /// Whether the claim the run is for is over.
    pub fn has_lost_its_claim(&self) -> bool {
        let token = self.complete().map(|complete| complete.token).or(self.claim.as_ref().map(|claim| claim.token));
        let now = self.args.context.clock.moment().awake;
        let live = self.args.context.board.of(&self.args.todo).live(now).map(|claim| claim.token);
        token.is_some() && token != live
    }

    /// Nothing more is done for a claim that is over. What was said under it is parked; a complete that was counted
    /// before is answered as it was.
    pub async fn end_without_claim(&mut self, found: &Look) -> Result<Product, Problem> {
        if self.complete().is_some() {
            return self.conclude(found, false).await;
        }
        let token = self.claim.as_ref().map_or(0, |claim| claim.token);
        let now = self.args.context.clock.moment();
        let state = self.args.context.board.of(&self.args.todo);
        let over = state.owned(token, now.awake).err().unwrap_or(Stale { holder: None, ended: None });
        Err(answer::stale(&self.args.todo, token, &over, &now, "the run was ended"))
    }

    /// What was judged counts from here on: the end of the claim and the todo's next stage go to the ledger.
    pub async fn conclude(&mut self, found: &Look, on_base: bool) -> Result<Product, Problem> {
        let Some(complete) = self.complete().cloned() else {
            return Err(Problem::new(ProblemCode::Internal, "a run without a complete was concluded"));
        };
        let around = Circumstances {
            review_required: found.base.config.review == ReviewMode::Required,
            on_base,
            operation: Some(self.handle.id.clone()),
            no_fault: false,
        };
        let (todo, said) = (self.args.todo.clone(), complete.clone());
        let context = &self.args.context;
        let asked =
            context.dispatcher.ask(GRANT_LIMIT, |reply| DispatcherMsg::Judged { todo, complete: said, around, reply });
        let completed = asked.await.map_err(no_answer)??;
        match dispatcher::counted(&self.args.todo, &complete, completed, &context.clock.moment())? {
            Completed::Counted { ending, repeated } => {
                let completion = answer::completion(&self.args.todo, &ending, repeated, self.reports.clone());
                Ok(Product::Completion(Box::new(completion)))
            }
            _ => Err(Problem::new(ProblemCode::Internal, "what was judged was neither counted nor refused")),
        }
    }

    /// Whether finished work stands as it is: whole, and judged. Says whether the base has it already.
    pub async fn stands(&mut self, found: &Look, ran: PhaseSet) -> Result<bool, Problem> {
        let on_base = self.is_whole(found).await?;
        if self.is_judged(found, ran) {
            return Ok(on_base);
        }
        let detail = format!(
            "the branch of {}, or the gates on the base, changed while it was judged, so the verdict does not count; complete again",
            self.args.todo
        );
        Err(Problem::new(ProblemCode::GateFailed, detail))
    }

    /// Only what is committed can be done, and a todo that is brought onto the base has to be there.
    async fn is_whole(&mut self, found: &Look) -> Result<bool, Problem> {
        let changes = self.local_changes().await?;
        if !changes.is_empty() {
            let files: Vec<String> = changes.into_iter().map(|change| change.path).collect();
            let detail = format!(
                "{} has changes that are not committed: {}; commit them, ignore them or take them away, then complete again",
                self.args.todo,
                files.iter().take(10).cloned().collect::<Vec<_>>().join(", ")
            );
            return Err(Problem::new(ProblemCode::LocalChanges, detail).with("files", files));
        }
        let git = self.git()?;
        let (base, head) = (found.base.oid.clone(), found.head.clone().unwrap_or_else(|| found.base.oid.clone()));
        let (of_base, of_head) = (base.clone(), head.clone());
        let looked = tokio::task::spawn_blocking(move || git.has_all_of(&of_base, &of_head)).await;
        let fault = |error: &dyn std::fmt::Display| {
            Problem::new(ProblemCode::Internal, format!("comparing {head} with the base failed: {error}"))
        };
        let on_base = looked.map_err(|error| fault(&error))?.map_err(|error| fault(&error))?;
        let integrating = self.args.context.board.of(&self.args.todo).stage == Stage::Integrate;
        if integrating && !on_base {
            let detail = format!(
                "{} is at integrate, and base commit {base} does not contain {head}; bring the branch onto the base, then complete again",
                self.args.todo
            );
            return Err(Problem::new(ProblemCode::NotIntegrated, detail)
                .with("head", head.as_str())
                .with("base_oid", base.as_str()));
        }
        Ok(on_base)
    }

    /// Whether the very tree that is to count has passed every gate; in this run, where verdicts are not used again.
    fn is_judged(&self, found: &Look, ran: PhaseSet) -> bool {
        let passed = |key| self.memory.verdicts.get(key).copied().unwrap_or(false);
        let again = found.base.config.reuse_passed_gates || found.gate_keys.is_empty();
        found.gate_keys.len() == found.base.config.gates.len()
            && found.gate_keys.iter().all(passed)
            && (again || ran.contains(Phase::Gates))
    }

    /// The failure of a command goes to the failure ledger, where it may pause the lane. A gate that fails while its
    /// worker is still at work is no failure of anybody's; one that fails on what was said to be done is.
    pub async fn note_failure(&self, phase: Phase, fault: &PhaseFault) {
        let source = match (phase, self.complete()) {
            (Phase::Prepare, _) => FailureSource::Prepare,
            (Phase::Gates, Some(_)) => FailureSource::Gate,
            _ => return,
        };
        let (Some(claim), Outcome::Failure | Outcome::Timeout) = (self.claim.clone(), fault.outcome) else { return };
        let problem = &fault.problem;
        let part = |name: &str| problem.extra.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        // Ended for a limit is another failure than any the command makes by itself.
        let what = Some(part("limit")).filter(|limit| !limit.is_empty()).unwrap_or(problem.code.as_str());
        let text = format!("{} {what}\n{}", part("name"), part("tail"));
        let asked =
            self.args.context.dispatcher.ask(GRANT_LIMIT, |reply| DispatcherMsg::Failed { claim, source, text, reply });
        if let Err(error) = asked.await {
            tracing::warn!(todo = %self.args.todo, ?error, "a failure could not be noted");
        }
    }
}
