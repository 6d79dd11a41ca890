//! `slugline health`: asks the daemon whether it is to be relied on, for people and for scripts.

use std::io::{self, Write};

use super::client::Client;
use crate::model::readiness::{ReadinessView, Verdict};

/// The exit code of a verdict: 0 for `GO`, 1 for `NO_GO`, 2 for `UNKNOWN`.
#[must_use]
pub const fn exit_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Go => 0,
        Verdict::NoGo => 1,
        Verdict::Unknown => 2,
    }
}

/// Asks, prints, and says the verdict. Nobody who answers is `UNKNOWN`: whoever asks must not rely on it.
pub async fn show(client: Result<Client, String>, as_json: bool, out: &mut impl Write) -> io::Result<Verdict> {
    let asked = match client {
        Ok(client) => client.get("/readiness").await.map_err(|error| format!("{error:#}")),
        Err(error) => Err(error),
    };
    let view = asked.and_then(|reply| match reply.status {
        200 => {
            serde_json::from_slice::<ReadinessView>(&reply.body).map_err(|error| format!("the answer is none: {error}"))
        }
        status => Err(format!("the daemon answered {status}: {}", reply.text())),
    });
    let view = match view {
        Ok(view) => view,
        Err(error) => {
            if as_json {
                writeln!(
                    out,
                    "{}",
                    serde_json::json!({ "verdict": Verdict::Unknown, "criteria": [], "error": error })
                )?;
            } else {
                writeln!(out, "{}: {error}", Verdict::Unknown.as_str())?;
            }
            return Ok(Verdict::Unknown);
        }
    };
    if as_json {
        writeln!(out, "{}", serde_json::to_string(&view).map_err(io::Error::other)?)?;
        return Ok(view.verdict);
    }
    writeln!(out, "{}", view.verdict.as_str())?;
    for criterion in &view.criteria {
        let age = match criterion.evidence_age_ms {
            Some(age) => format!("{:.1} s ago{}", seconds(age), if criterion.stale { ", too long ago" } else { "" }),
            None => "never seen".to_owned(),
        };
        let stored = if criterion.stored { ", by an earlier daemon" } else { "" };
        writeln!(
            out,
            "  {:8} {:24} {} ({age}{stored})",
            criterion.verdict.as_str(),
            criterion.name.as_str(),
            criterion.detail
        )?;
    }
    Ok(view.verdict)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}
