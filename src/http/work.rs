//! `POST /todos/work`: ask for work. Answers 200 with a WorkOrder, 202 with an Operation, or a problem.

use warp::Filter;
use warp::http::HeaderMap;
use warp::hyper::body::Bytes;

use super::Routes;
use super::answer::{Form, keyed, of_work, shaped, wait_ms};
use super::problem::{Answer, parse, reply};
use super::server::trace;
use crate::actors::Handle;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::work_order::{WAIT_MS_MAX, WorkRequest};

pub(super) fn routes(handle: Handle) -> Routes {
    warp::path!("todos" / "work")
        .and(warp::post())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .then(move |headers, body| {
            let handle = handle.clone();
            async move { reply(work(&handle, &headers, &body).await) }
        })
        .boxed()
}

async fn work(handle: &Handle, headers: &HeaderMap, body: &Bytes) -> Answer {
    let form = Form::wanted(headers)?;
    let mut request: WorkRequest = parse(body)?;
    if request.wait_ms.is_some_and(|wait| wait > WAIT_MS_MAX) {
        return Err(Problem::new(
            ProblemCode::InvalidRequest,
            format!("wait_ms is at most {WAIT_MS_MAX}; ask with less and follow the operation"),
        ));
    }
    request.wait_ms = wait_ms(headers).or(request.wait_ms);
    let keyed = keyed(headers, "POST /todos/work", form, body)?;
    let answer = handle.under(keyed, async { of_work(handle.work(request, trace()).await?) });
    Ok(shaped(answer.await, form))
}
