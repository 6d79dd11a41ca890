//! The same answers as short instructions an agent can follow. Text from repositories is shown as data: nothing in it
//! can end the quotation it stands in.

use std::fmt::Write as _;

use crate::model::operation::Operation;
use crate::model::todo::Stage;
use crate::model::work_order::{Completion, Product, WorkOrder};

/// The content type of these answers.
pub(super) const TYPE: &str = "text/markdown; charset=utf-8";

/// Text as inline code that it cannot break out of.
fn code(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| {
            if c == '`' {
                '\''
            } else if c.is_control() {
                ' '
            } else {
                c
            }
        })
        .collect();
    format!("`{plain}`")
}

/// A WorkOrder.
pub(super) fn work_order(order: &WorkOrder) -> String {
    let mut text = format!("# Work on {}\n\n", code(&format!("{}/{}", order.repo, order.slug)));
    let _ = writeln!(
        text,
        "1. Go to the worktree {} (branch {}).",
        code(&order.worktree.path),
        code(&order.worktree.branch)
    );
    match order.brief.as_slice() {
        [] => text.push_str("2. There is no brief in the repository: do what you were told about this todo.\n"),
        files => {
            let files: Vec<String> = files.iter().map(|file| code(file)).collect();
            let _ = writeln!(text, "2. Read {} there and do what it says.", files.join(", "));
        }
    }
    text.push_str(match order.stage {
        Stage::Review => "3. Another worker has built it on that branch. Review it; do not change it.\n",
        Stage::Integrate => {
            "3. It is built and judged. Bring that branch onto the base branch, the way this repository does it.\n"
        }
        _ => "3. Commit on that branch. Do not switch branches and do not touch other worktrees.\n",
    });
    for (title, words) in [("What to do", &order.instructions), ("What the review asked for", &order.findings)] {
        if let Some(words) = words {
            let _ = writeln!(text, "\n{title}:\n\n{}", quoted(words));
        }
    }
    let (at, token) = (format!("/todos/{}/{}", order.repo, order.slug), order.claim.token);
    let review = if order.stage == Stage::Review { ",\"review\":\"approved\"" } else { "" };
    let _ = writeln!(
        text,
        "\nYour claim has token {token} and holds until {}. While you work, say every {} s what you do:\n\n    POST {at}/heartbeat\n    {{\"token\":{token},\"progress\":\"...\"}}\n\nWhen it is done (or with \"failed\" or \"blocked\" and a \"reason\"):\n\n    POST {at}/complete\n    {{\"token\":{token},\"outcome\":\"done\"{review}}}\n\nTo see whether anything changed, ask again:",
        order.claim.expires_at,
        order.claim.heartbeat_every_ms.div_euclid(1_000).max(1)
    );
    let body =
        serde_json::json!({ "repo": order.repo, "slug": order.slug, "lane": order.lane, "worker": order.claim.worker });
    let _ = writeln!(text, "\n    POST /todos/work\n    {body}");
    if order.worktree.dirty {
        text.push_str("\nThe worktree has local changes: gates judge only what is committed.\n");
    }
    text
}

/// Text as a quotation that it cannot break out of.
fn quoted(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.lines().map(|line| format!("    {}\n", line.chars().map(plain).collect::<String>())).collect()
}

/// What a run made.
pub(super) fn product(product: &Product) -> String {
    match product {
        Product::Order(order) => work_order(order),
        Product::Completion(completion) => completed(completion),
    }
}

/// A complete that counts.
fn completed(completion: &Completion) -> String {
    let todo = code(&format!("{}/{}", completion.repo, completion.slug));
    let again = if completion.guard.is_some() { " It had been counted before; nothing was changed." } else { "" };
    format!(
        "# {todo}: {}\n\nIt counts, and the todo is at {}.{again} Your claim is over: stop working in its worktree. For more work:\n\n    POST /todos/work\n",
        completion.outcome.as_str(),
        code(completion.stage.as_str())
    )
}

/// An operation.
pub(super) fn operation(operation: &Operation) -> String {
    let mut text = format!(
        "# Operation {}\n\nFor {}: {}.\n",
        code(operation.id.as_str()),
        code(&operation.todo.to_string()),
        operation.state.as_str()
    );
    if let Some(phase) = operation.phase {
        let _ = writeln!(text, "Now at phase {}.", phase.as_str());
    }
    if let Some(ms) = operation.poll_after_ms {
        let _ = writeln!(
            text,
            "\nAsk again in {ms} ms:\n\n    GET /operations/{0}\n\nIts output: `GET /operations/{0}/log`. To stop it: `DELETE /operations/{0}`.",
            operation.id
        );
    }
    if let Some(problem) = &operation.problem {
        let _ = writeln!(text, "\nIt ended with {}: {}", code(problem.code.as_str()), code(&problem.detail));
    }
    if let Some(made) = operation.result.clone().and_then(|result| serde_json::from_value::<Product>(result).ok()) {
        text.push('\n');
        text.push_str(&product(&made));
    }
    text
}
