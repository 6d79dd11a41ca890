//! The same answers as short instructions an agent can follow. Text from repositories is shown as data: nothing in it
//! can end the quotation it stands in.

use std::fmt::Write as _;

use crate::model::operation::Operation;
use crate::model::work_order::WorkOrder;

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
    text.push_str("3. Commit on that branch. Do not switch branches and do not touch other worktrees.\n");
    let _ = writeln!(
        text,
        "\nYour claim has token {} and holds until {}. To see whether anything changed, ask again:",
        order.claim.token, order.claim.expires_at
    );
    let body =
        serde_json::json!({ "repo": order.repo, "slug": order.slug, "lane": order.lane, "worker": order.claim.worker });
    let _ = writeln!(text, "\n    POST /todos/work\n    {body}");
    if order.worktree.dirty {
        text.push_str("\nThe worktree has local changes: gates judge only what is committed.\n");
    }
    text
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
    if let Some(order) = operation.result.clone().and_then(|result| serde_json::from_value::<WorkOrder>(result).ok()) {
        text.push('\n');
        text.push_str(&work_order(&order));
    }
    text
}
