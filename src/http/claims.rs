//! What the holder of a todo says, under `/todos/{repo}/{slug}`: `POST …/heartbeat`, `…/hold`, `…/release`,
//! `…/complete`. Every one names the claim's token.

use warp::Filter;
use warp::http::HeaderMap;
use warp::hyper::body::Bytes;

use super::Routes;
use super::answer::{Form, keyed, of_work, shaped, wait_ms_or_default};
use super::problem::{Answer, parse, reply};
use super::server::trace;
use super::todos::key;
use crate::actors::Handle;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::todo::Complete;
use crate::model::view::{HeartbeatRequest, HoldRequest, Mutation, NOTE_CHARS_MAX, ReleaseRequest};

pub(super) fn routes(handle: Handle) -> Routes {
    warp::path!("todos" / String / String / String)
        .and(warp::post())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .and_then(move |repo: String, slug: String, verb: String, headers: HeaderMap, body: Bytes| {
            let handle = handle.clone();
            async move {
                let said = Said { handle, repo, slug, headers, body };
                match verb.as_str() {
                    "heartbeat" => Ok(reply(said.heartbeat().await)),
                    "hold" => Ok(reply(said.hold().await)),
                    "release" => Ok(reply(said.release().await)),
                    "complete" => Ok(reply(said.complete().await)),
                    _ => Err(warp::reject::not_found()),
                }
            }
        })
        .boxed()
}

/// One request of a holder.
struct Said {
    handle: Handle,
    repo: String,
    slug: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Said {
    async fn heartbeat(&self) -> Answer {
        let todo = key(&self.repo, &self.slug)?;
        let body: HeartbeatRequest = parse(&self.body)?;
        short("progress", body.progress.as_deref())?;
        self.mutate("heartbeat", Mutation::Heartbeat { todo, body }).await
    }

    async fn hold(&self) -> Answer {
        let todo = key(&self.repo, &self.slug)?;
        let body: HoldRequest = parse(&self.body)?;
        short("why", Some(&body.why))?;
        if body.for_ms == 0 || body.why.trim().is_empty() {
            return Err(Problem::new(ProblemCode::InvalidRequest, "say for_ms, at least 1, and why"));
        }
        self.mutate("hold", Mutation::Hold { todo, body }).await
    }

    async fn release(&self) -> Answer {
        let todo = key(&self.repo, &self.slug)?;
        let ReleaseRequest { token } = parse(&self.body)?;
        self.mutate("release", Mutation::Release { todo, token }).await
    }

    async fn complete(&self) -> Answer {
        let form = Form::wanted(&self.headers)?;
        let todo = key(&self.repo, &self.slug)?;
        let complete: Complete = parse(&self.body)?;
        let keyed = keyed(&self.headers, &self.what("complete"), form, &self.body)?;
        let wait = wait_ms_or_default(&self.headers);
        let asked = async { of_work(self.handle.complete(&todo, complete, wait, trace()).await?) };
        Ok(shaped(self.handle.under(keyed, asked).await, form))
    }

    async fn mutate(&self, verb: &str, mutation: Mutation) -> Answer {
        let keyed = keyed(&self.headers, &self.what(verb), Form::Json, &self.body)?;
        Ok(shaped(self.handle.mutate(mutation, keyed).await, Form::Json))
    }

    fn what(&self, verb: &str) -> String {
        format!("POST /todos/{}/{}/{verb}", self.repo, self.slug)
    }
}

/// What people read in passing is short.
pub(super) fn short(field: &str, text: Option<&str>) -> Result<(), Problem> {
    match text.map(|text| text.chars().count()) {
        Some(count) if count > NOTE_CHARS_MAX => Err(Problem::new(
            ProblemCode::InvalidRequest,
            format!("{field} has {count} characters; at most {NOTE_CHARS_MAX} are kept"),
        )),
        _ => Ok(()),
    }
}
