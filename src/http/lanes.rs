//! `GET /lanes` every lane · `POST /lanes/{lane}/pause` nobody gets work in it · `POST /lanes/{lane}/resume` it opens
//! again, step by step.

use warp::Filter;
use warp::http::{HeaderMap, StatusCode};
use warp::hyper::body::Bytes;

use super::Routes;
use super::answer::{Form, keyed, shaped};
use super::claims::short;
use super::problem::{Answer, json, parse, reply};
use crate::actors::Handle;
use crate::model::ids::Lane;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::view::{Mutation, NoContent, PauseRequest};

pub(super) fn routes(handle: Handle) -> Routes {
    let with = move || {
        let handle = handle.clone();
        warp::any().map(move || handle.clone())
    };
    let list =
        warp::path!("lanes").and(warp::get()).and(with()).map(|handle: Handle| json(StatusCode::OK, &handle.lanes()));
    let pause = warp::path!("lanes" / String / "pause")
        .and(warp::post())
        .and(with())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .then(|lane: String, handle, headers, body| async move { reply(pause(&handle, &lane, &headers, &body).await) });
    let resume = warp::path!("lanes" / String / "resume")
        .and(warp::post())
        .and(with())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .then(
            |lane: String, handle, headers, body| async move { reply(resume(&handle, &lane, &headers, &body).await) },
        );
    list.or(pause).unify().or(resume).unify().boxed()
}

fn name(lane: &str) -> Result<Lane, Problem> {
    Lane::parse(lane).map_err(|error| Problem::new(ProblemCode::InvalidName, error.to_string()))
}

async fn pause(handle: &Handle, lane: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
    let name = name(lane)?;
    let request: PauseRequest = parse(body)?;
    short("reason", Some(&request.reason))?;
    if request.reason.trim().is_empty() {
        return Err(Problem::new(ProblemCode::InvalidRequest, "say in reason why the lane is paused"));
    }
    let keyed = keyed(headers, &format!("POST /lanes/{lane}/pause"), Form::Json, body)?;
    Ok(shaped(handle.mutate(Mutation::Pause { lane: name, body: request }, keyed).await, Form::Json))
}

async fn resume(handle: &Handle, lane: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
    let name = name(lane)?;
    let NoContent {} = parse(body)?;
    let keyed = keyed(headers, &format!("POST /lanes/{lane}/resume"), Form::Json, body)?;
    Ok(shaped(handle.mutate(Mutation::Resume { lane: name }, keyed).await, Form::Json))
}
