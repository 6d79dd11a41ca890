//! `POST /console/sign-in` with the token or a one-time code · `POST /console/sign-out` · `POST /console/links` a link that
//! signs in whoever opens it, once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use warp::Filter;
use warp::http::{HeaderValue, StatusCode, header};
use warp::hyper::body::Bytes;

use super::Routes;
use super::guard::{Access, Visitor};
use super::problem::{Answer, json, parse, reply};
use super::server::Door;
use super::signing::{Signer, clear_cookie, random, set_cookie};
use crate::actors::Handle;
use crate::actors::inputs::hex;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::time::{Awake, Moment};
use crate::model::view::{LinkView, NoContent, SignInRequest, SignedInView};

/// How long a link can be used: from a terminal to the browser beside it, also by hand.
const LINK_MS: i64 = 2 * 60 * 1_000;
/// Links that can be used at once; the oldest goes.
const LINKS_MAX: usize = 16;
/// Bytes of a code.
const CODE_BYTES: usize = 16;
/// Wrong tries within [`WRONG_MS`] until nobody may try for a while.
const WRONG_MAX: usize = 5;
/// For how long a wrong try counts.
const WRONG_MS: i64 = 10_000;

/// What signing in needs.
struct Signing {
    handle: Handle,
    access: Access,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    links: Links,
    tries: Tries,
}

pub(super) fn routes(handle: Handle, access: Access) -> Routes {
    let signing = Arc::new(Signing { handle, access, kept: Mutex::default() });
    let with = warp::any().map(move || signing.clone());
    let asked = warp::post().and(with).and(warp::ext::get::<Door>()).and(warp::body::bytes());
    let sign_in = warp::path!("console" / "sign-in")
        .and(asked.clone())
        .map(|signing: Arc<Signing>, door: Door, body: Bytes| reply(sign_in(&signing, door.0, &body)));
    let sign_out = warp::path!("console" / "sign-out")
        .and(asked.clone())
        .map(|_, door: Door, body: Bytes| reply(sign_out(door.0, &body)));
    let links = warp::path!("console" / "links").and(asked).and(warp::ext::get::<Visitor>()).map(
        |signing: Arc<Signing>, door: Door, body: Bytes, visitor: Visitor| {
            reply(link(&signing, door.0, &visitor, &body))
        },
    );
    sign_in.or(sign_out).unify().or(links).unify().boxed()
}

fn sign_in(signing: &Signing, address: SocketAddr, body: &Bytes) -> Answer {
    let request: SignInRequest = parse(body)?;
    let now = signing.handle.context().clock.moment();
    let mut kept = signing.kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.tries.may_try(now.awake)?;
    let (signer, wrong) = match (&request.token, &request.code) {
        (Some(token), None) => {
            (signing.access.signer_of(token), "that is not this daemon's token; it is in <data_dir>/token")
        }
        (None, Some(code)) => (
            kept.links.take(code, now.awake).or_else(|| signing.access.signer_of_nobody()),
            "the link was used already, or it is too old; `slugline console` makes a new one",
        ),
        _ => return Err(Problem::new(ProblemCode::InvalidRequest, "send either token or code")),
    };
    let Some(signer) = signer else {
        kept.tries.was_wrong(now.awake);
        tracing::warn!("somebody tried to sign in to the console with what is not right");
        return Err(Problem::new(ProblemCode::Unauthorized, wrong));
    };
    drop(kept);
    let signed = signer.sign(now.wall).map_err(|error| no_chance(&error))?;
    let cookie = set_cookie(address.port(), &signed);
    let mut response = json(StatusCode::OK, &SignedInView { key: signed.key, expires_at: signed.expires_at });
    response.headers_mut().extend(HeaderValue::from_str(&cookie).ok().map(|cookie| (header::SET_COOKIE, cookie)));
    Ok(response)
}

fn sign_out(address: SocketAddr, body: &Bytes) -> Answer {
    let NoContent {} = parse(body)?;
    let mut response = json(StatusCode::OK, &serde_json::json!({}));
    let cookie = HeaderValue::from_str(&clear_cookie(address.port()));
    response.headers_mut().extend(cookie.ok().map(|cookie| (header::SET_COOKIE, cookie)));
    Ok(response)
}

fn link(signing: &Signing, address: SocketAddr, visitor: &Visitor, body: &Bytes) -> Answer {
    let NoContent {} = parse(body)?;
    let now = signing.handle.context().clock.moment();
    let code = hex(&random::<CODE_BYTES>().map_err(|error| no_chance(&error))?);
    let mut kept = signing.kept.lock().unwrap_or_else(PoisonError::into_inner);
    let expires = kept.links.give(&code, visitor.signer(), &now);
    // The code is behind the `#`: browsers keep that to themselves, and it is in nobody's log.
    let url = format!("http://{address}/console/#code={code}");
    Ok(json(StatusCode::OK, &LinkView { url, expires_at: now.wall_of(expires) }))
}

fn no_chance(error: &std::io::Error) -> Problem {
    Problem::new(ProblemCode::Internal, format!("the system gives no random numbers: {error}"))
}

/// A code that can be used. Only its digest is kept.
struct Given {
    digest: [u8; 32],
    until: Awake,
    /// Signs in whoever uses it: what it gives ends with the token of who asked for it.
    signer: Signer,
}

/// Codes that can be used, each once.
#[derive(Default)]
struct Links(VecDeque<Given>);

impl Links {
    /// Keeps a code, and says until when.
    fn give(&mut self, code: &str, signer: &Signer, now: &Moment) -> Awake {
        let until = now.awake.plus_ms(LINK_MS);
        self.0.retain(|given| now.awake < given.until);
        if self.0.len() == LINKS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Given { digest: Sha256::digest(code).into(), until, signer: signer.clone() });
        until
    }

    /// Uses a code up; who signs in with it, if it was one.
    fn take(&mut self, code: &str, now: Awake) -> Option<Signer> {
        self.0.retain(|given| now < given.until);
        let digest: [u8; 32] = Sha256::digest(code).into();
        let at = self.0.iter().position(|given| given.digest == digest);
        at.and_then(|at| self.0.remove(at)).map(|given| given.signer)
    }
}

/// When somebody last tried with what was wrong.
#[derive(Default)]
struct Tries(VecDeque<Awake>);

impl Tries {
    /// Whether anybody may try now. Nobody may while there were too many wrong tries, whoever made them: it is not known
    /// who is who.
    fn may_try(&mut self, now: Awake) -> Result<(), Problem> {
        self.0.retain(|at| now.since_ms(*at) < WRONG_MS);
        match self.0.front().filter(|_| self.0.len() >= WRONG_MAX) {
            None => Ok(()),
            Some(oldest) => {
                let left = u64::try_from(WRONG_MS - now.since_ms(*oldest)).unwrap_or(0);
                let detail = "too many wrong tries to sign in; wait a moment";
                Err(Problem::new(ProblemCode::Busy, detail).retry_after(left))
            }
        }
    }

    fn was_wrong(&mut self, now: Awake) {
        self.0.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Awake {
        Awake::from_ms(ms)
    }

    #[test]
    fn a_code_signs_in_once_and_only_while_it_is_new() {
        let (mut links, signer) = (Links::default(), Signer::new("secret"));
        let give = |links: &mut Links, code: &str, ms| links.give(code, &signer, &Moment::both(ms));
        assert_eq!(give(&mut links, "one", 1_000), at(1_000 + LINK_MS));
        give(&mut links, "two", 2_000);
        let take = |links: &mut Links, code: &str, ms| links.take(code, at(ms)).is_some();
        assert!(!take(&mut links, "", 3_000) && !take(&mut links, "three", 3_000));
        assert!(take(&mut links, "two", 3_000) && !take(&mut links, "two", 3_000));
        assert!(!take(&mut links, "one", 1_000 + LINK_MS), "two minutes are over");
        give(&mut links, "four", 200_000);
        assert!(take(&mut links, "four", 200_000 + LINK_MS - 1));
        assert!(links.0.is_empty());
    }

    #[test]
    fn so_many_codes_are_kept_and_the_oldest_goes() {
        let (mut links, signer) = (Links::default(), Signer::new("secret"));
        let code = |number: usize| format!("code {number}");
        for number in 0..=LINKS_MAX {
            links.give(&code(number), &signer, &Moment::both(0));
        }
        assert_eq!(links.0.len(), LINKS_MAX);
        assert!(links.take(&code(0), at(1)).is_none());
        assert!((1..=LINKS_MAX).all(|number| links.take(&code(number), at(1)).is_some()));
    }

    #[test]
    fn wrong_tries_are_slowed_and_time_lets_go_of_them_one_by_one() {
        let mut tries = Tries::default();
        for ms in 0..WRONG_MAX {
            let now = at(i64::try_from(ms).expect("small") * 1_000);
            tries.may_try(now).expect("may try");
            tries.was_wrong(now);
        }
        let refused = tries.may_try(at(4_500)).expect_err("too many");
        assert_eq!((refused.code, refused.retry_after_ms), (ProblemCode::Busy, Some(5_500)));
        assert!(tries.may_try(at(WRONG_MS - 1)).is_err());
        tries.may_try(at(WRONG_MS)).expect("the oldest no longer counts");
        tries.was_wrong(at(WRONG_MS));
        assert!(tries.may_try(at(WRONG_MS)).is_err());
        tries.may_try(at(10 * WRONG_MS)).expect("all is forgotten");
    }
}
