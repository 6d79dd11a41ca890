//! Who is let in. A web page in somebody's browser must not reach the daemon, nor a name that was made to point at
//! loopback; TCP callers bring the token, or what signing in gave them; the unix socket is guarded by its mode; and nobody asks
//! so much that others get nothing. What is let in says `model/door.rs`, how much `model/pace.rs`; this reads heads, knows
//! the token, and keeps count.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;
use warp::http::{HeaderMap, Method, header};

use super::ROUTES;
use super::signing::{Signer, random};
use crate::actors::clock::Clock;
use crate::metrics::http::{RejectReason, rejected};
use crate::model::door::{Caller, Head, Names, Open, Peer, Refusal, Said, Shown};
use crate::model::pace::{Buckets, Pace, Places};
use crate::model::problem::{Problem, ProblemCode};

/// What callers may do.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The names the daemon goes by.
    pub names: Names,
    /// How many requests each may make.
    pub pace: Pace,
    /// How many streams of events each may have open.
    pub listeners_each_max: usize,
}

impl Default for Terms {
    /// The daemon's own names, any number of requests and streams.
    fn default() -> Self {
        Self { names: Names::default(), pace: Pace { per_s: 0, burst: 1 }, listeners_each_max: usize::MAX }
    }
}

/// What is asked of a caller. Clones share all of it.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    /// None when nothing is asked of anybody.
    keys: Option<ArcSwap<Keys>>,
    /// Of whom nothing is asked is signed in with this.
    nobodys: Arc<Key>,
    /// Digests are made with it; a table of digests made elsewhere says nothing about ours.
    salt: Hmac<Sha256>,
    clock: Clock,
    names: Names,
    born: Instant,
    buckets: Mutex<Buckets<Caller>>,
    listeners: Mutex<Places<Caller>>,
}

/// The token, and the one before it while that is still good.
struct Keys {
    now: Arc<Key>,
    before: Option<Arc<Key>>,
}

/// One token, and all that hangs on it.
struct Key {
    /// Of the token, made with the salt.
    digest: Vec<u8>,
    signer: Signer,
    /// Nothing of it is good any more; streams that were begun with it end.
    over: CancellationToken,
}

/// Who a request is from, with every request that is let in.
#[derive(Clone)]
pub struct Visitor {
    /// Whose requests and streams it is counted with.
    pub caller: Caller,
    /// The token that let it in; the present one where none was needed.
    key: Arc<Key>,
}

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl Visitor {
    /// Who signs browsers in that this visitor lets in: what it gives ends with the token it came with.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.key.signer
    }

    /// Ready when the token that let it in is no longer good.
    pub fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        self.key.over.clone().cancelled_owned()
    }
}

impl Access {
    /// Callers have to bring this token, if there is one. The error says that the system gives no random numbers.
    pub fn new(token: Option<&str>, clock: Clock, terms: Terms) -> io::Result<Self> {
        let salt = Hmac::new_from_slice(&random::<32>()?).expect("HMAC takes keys of any length");
        let key = |token| Arc::new(Key::of(token, &salt));
        let Terms { names, pace, listeners_each_max } = terms;
        Ok(Self(Arc::new(Inner {
            keys: token.map(|token| ArcSwap::from_pointee(Keys { now: key(token), before: None })),
            // Without a token nobody has to be signed in, so what that is signed with is nobody's secret.
            nobodys: key(""),
            salt,
            clock,
            names,
            born: Instant::now(),
            buckets: Mutex::new(Buckets::new(pace)),
            listeners: Mutex::new(Places::new(listeners_each_max)),
        })))
    }

    /// Whether anything is asked of callers.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.0.keys.is_some()
    }

    /// Who signs in whoever has this token; nobody when it is none of ours.
    #[must_use]
    pub fn signer_of(&self, token: &str) -> Option<Signer> {
        self.key_of(token).map(|key| key.signer.clone())
    }

    /// Who signs in anybody, where nothing is asked.
    #[must_use]
    pub fn signer_of_nobody(&self) -> Option<Signer> {
        (!self.asks()).then(|| self.0.nobodys.signer.clone())
    }

    /// From now on this is the token. The one before is good for `grace`; the one before that no longer.
    pub fn renew(&self, token: &str, grace: Duration) {
        let Some(keys) = &self.0.keys else { return };
        let now = Arc::new(Key::of(token, &self.0.salt));
        let old = keys.load_full();
        if let Some(older) = &old.before {
            older.over.cancel();
        }
        keys.store(Arc::new(Keys { now, before: Some(old.now.clone()) }));
        let over = old.now.over.clone();
        if grace.is_zero() {
            over.cancel();
        } else {
            tokio::spawn(async move {
                tokio::time::sleep(grace).await;
                over.cancel();
            });
        }
    }

    /// Whether a visitor came with the token of now, or is one of whom nothing is asked.
    #[must_use]
    pub fn is_present(&self, visitor: &Visitor) -> bool {
        self.0.keys.as_ref().is_none_or(|keys| Arc::ptr_eq(&keys.load().now, &visitor.key))
    }

    /// Decides about a request by its head; `port` is the one the daemon listens on, `route` the path of the table that is
    /// asked for, if any is.
    pub fn admit(
        &self,
        peer: Peer,
        port: u16,
        method: &Method,
        route: Option<&'static str>,
        headers: &HeaderMap,
    ) -> Result<Visitor, Problem> {
        let known = self.known(peer, headers, port);
        let shown = known.as_ref().map_or(Shown::Nobody, |(shown, _)| *shown);
        let caller = Caller::of(peer, shown);
        if route != Some(UNCOUNTED) {
            self.pace(caller)?;
        }
        let at = ROUTES.iter().find(|known| Some(known.path) == route && known.method == method.as_str());
        let head = Head {
            peer,
            shown,
            method: method.as_str(),
            host: said(headers, header::HOST.as_str()),
            origin: said(headers, header::ORIGIN.as_str()),
            site: said(headers, "sec-fetch-site"),
            mode: said(headers, "sec-fetch-mode"),
            dest: said(headers, "sec-fetch-dest"),
            kind: said(headers, header::CONTENT_TYPE.as_str()),
            open: at.map_or(Open::No, |at| at.open),
            way_in: route.is_some_and(|route| WAYS_IN.contains(&route)),
            known: at.is_some(),
        };
        self.0.names.decide(port, &head).map_err(|refusal| refused(refusal, port))?;
        Ok(Visitor { caller, key: known.map_or_else(|| self.present(), |(_, key)| key) })
    }

    /// A place to listen from, for as long as it is kept.
    pub fn listener(&self, visitor: &Visitor) -> Result<Listening, Problem> {
        if self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).take(visitor.caller) {
            return Ok(Listening { access: self.clone(), caller: visitor.caller });
        }
        let detail = "you listen with as many streams as [http] event_clients_per_caller_max lets each; close one";
        Err(Problem::new(ProblemCode::Busy, detail).retry_after(LISTEN_AGAIN_MS))
    }

    fn pace(&self, caller: Caller) -> Result<(), Problem> {
        let now = u64::try_from(self.0.born.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let taken = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner).take(caller, now);
        taken.map_err(|wait_ms| {
            rejected(RejectReason::Pace);
            let detail = "more requests than [http] requests_per_s lets each caller make; wait a moment";
            Problem::new(ProblemCode::Busy, detail).retry_after(wait_ms)
        })
    }

    fn present(&self) -> Arc<Key> {
        self.0.keys.as_ref().map_or_else(|| self.0.nobodys.clone(), |keys| keys.load().now.clone())
    }

    /// Who it is, by the token when one is sent, else by what signing in gave.
    fn known(&self, peer: Peer, headers: &HeaderMap, port: u16) -> Option<(Shown, Arc<Key>)> {
        if peer == Peer::Socket || !self.asks() {
            return Some((Shown::Token, self.present()));
        }
        match said(headers, header::AUTHORIZATION.as_str()) {
            Said::Nothing => {
                let now = self.0.clock.now();
                let key = self.key_that(|key| key.signer.knows(headers, port, now))?;
                Some((Shown::Browser, key))
            }
            Said::Once(value) => {
                let (_, bearer) = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))?;
                Some((Shown::Token, self.key_of(bearer.trim())?))
            }
            Said::Unclear => None,
        }
    }

    fn key_of(&self, token: &str) -> Option<Arc<Key>> {
        if !self.asks() {
            return Some(self.present());
        }
        let digest = digested(token, &self.0.salt);
        self.key_that(|key| digest.clone().verify_slice(&key.digest).is_ok())
    }

    /// The key that is still good and fits.
    fn key_that(&self, fits: impl Fn(&Key) -> bool) -> Option<Arc<Key>> {
        let keys = self.0.keys.as_ref()?.load();
        let good = |key: &&Arc<Key>| !key.over.is_cancelled() && fits(key);
        Some(&keys.now).filter(good).or_else(|| keys.before.as_ref().filter(good)).cloned()
    }
}

impl Key {
    fn of(token: &str, salt: &Hmac<Sha256>) -> Self {
        let digest = digested(token, salt).finalize().into_bytes().to_vec();
        Self { digest, signer: Signer::new(token), over: CancellationToken::new() }
    }
}

/// Digests are compared, in constant time, so that how far a guess is right does not show.
fn digested(token: &str, salt: &Hmac<Sha256>) -> Hmac<Sha256> {
    let mut digest = salt.clone();
    digest.update(token.as_bytes());
    digest
}

/// A place to listen from; free again when this is dropped.
pub struct Listening {
    access: Access,
    caller: Caller,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.access.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.caller);
    }
}

/// When who listens too often may try again, in milliseconds.
const LISTEN_AGAIN_MS: u64 = 5_000;
/// What everybody may always ask: whoever watches whether the daemon lives must not be told that it is busy.
const UNCOUNTED: &str = "/livez";
/// What a link on another page may lead to. It says nothing, and does nothing by being loaded.
const WAYS_IN: [&str; 3] = ["/", "/console", "/console/"];

/// What a header says.
fn said<'a>(headers: &'a HeaderMap, name: &str) -> Said<'a> {
    let mut given = headers.get_all(name).iter();
    match (given.next(), given.next()) {
        (None, _) => Said::Nothing,
        (Some(value), None) => value.to_str().map_or(Said::Unclear, Said::Once),
        (Some(_), Some(_)) => Said::Unclear,
    }
}

fn refused(refusal: Refusal, port: u16) -> Problem {
    let (reason, code, detail) = match refusal {
        Refusal::Host => (
            RejectReason::Host,
            ProblemCode::ForbiddenOrigin,
            format!(
                "the Host header is not this daemon's; use 127.0.0.1:{port} or localhost:{port}, or allow the name with --allowed-hosts"
            ),
        ),
        Refusal::Origin => (
            RejectReason::Origin,
            ProblemCode::ForbiddenOrigin,
            "requests from other web pages are not answered".to_owned(),
        ),
        Refusal::Token => (
            RejectReason::Auth,
            ProblemCode::Unauthorized,
            "send Authorization: Bearer with the token in <data_dir>/token; `slugline serve` prints where that is"
                .to_owned(),
        ),
        Refusal::NotJson => (
            RejectReason::Malformed,
            ProblemCode::UnsupportedMediaType,
            "send Content-Type: application/json".to_owned(),
        ),
    };
    rejected(reason);
    Problem::new(code, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::signing::{KEY_HEADER, Signed};
    use crate::http::template;
    use crate::model::time::Timestamp;
    use warp::http::HeaderName;

    const HERE: Peer = Peer::Tcp(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    /// Every combination of the headers that matter, few values of each, since `model/door.rs` has them all; what may pass is listed by hand, so the code is not its own judge.
    #[test]
    fn only_the_listed_combinations_get_through() {
        // Refusals are counted; a counter that is used before there is a recorder counts for nobody in this process.
        crate::metrics::install();
        let hosts = [("127.0.0.1:7584", true), ("LOCALHOST:7584", true), ("127.0.0.1:80", false), ("", false)];
        let origins = [(None, true), (Some("http://localhost:7584"), true), (Some("null"), false)];
        let sites = [(None, true), (Some("same-origin"), true), (Some("cross-site"), false)];
        // How a page is come to: mode and destination.
        let ways = [
            (None, false),
            (Some(("navigate", "document")), true),
            (Some(("navigate", "iframe")), false),
            (Some(("cors", "empty")), false),
            (Some(("no-cors", "document")), false),
        ];
        let (access, signed) = signed_in();
        let (cookie, key) = (format!("slugline_7584={}", signed.cookie), signed.key);
        let other_port = format!("slugline_80={}", signed.cookie);
        let callers: [(&[(&'static str, &str)], bool); 10] = [
            (&[], false),
            (&[("authorization", "Bearer secret")], true),
            (&[("authorization", "bearer secret")], true),
            (&[("authorization", "Bearer wrong")], false),
            (&[("authorization", "Basic secret")], false),
            (&[("cookie", &cookie), (KEY_HEADER, &key)], true),
            (&[("cookie", &cookie)], false),
            (&[(KEY_HEADER, &key)], false),
            (&[("cookie", &other_port), (KEY_HEADER, &key)], false),
            // Who sends a token is judged by it.
            (&[("authorization", "Bearer wrong"), ("cookie", &cookie), (KEY_HEADER, &key)], false),
        ];
        // Method, path, whether it is open, whether a link of another page may lead there.
        let targets = [
            (Method::POST, "/todos/work", false, false),
            (Method::GET, "/livez", true, false),
            (Method::GET, "/", true, true),
            (Method::GET, "/console", true, true),
            (Method::GET, "/console/", true, true),
            (Method::GET, "/console/app.js", true, false),
            (Method::GET, "/console/views/now.js", true, false),
            (Method::GET, "/console/a/b/c", false, false),
            (Method::GET, "/console/links/", false, false),
            (Method::POST, "/console/", false, false),
            (Method::POST, "/console/sign-in", true, false),
            (Method::POST, "/console/sign-in/", false, false),
            (Method::POST, "/console/links", false, false),
        ];
        let mut seen = 0;
        for (host, host_ok) in hosts {
            for (origin, origin_ok) in origins {
                for (site, site_ok) in sites {
                    for (way, way_ok) in ways {
                        let mut from = vec![("host", host), ("content-type", "application/json")];
                        from.extend(origin.map(|origin| ("origin", origin)));
                        from.extend(site.map(|site| ("sec-fetch-site", site)));
                        from.extend(
                            way.iter().flat_map(|(mode, to)| [("sec-fetch-mode", *mode), ("sec-fetch-dest", *to)]),
                        );
                        for (caller, known) in callers {
                            let headers = of(&[&from, caller].concat());
                            for (method, path, open, way_in) in &targets {
                                let passed = access.admit(HERE, 7584, method, template(path), &headers).is_ok();
                                let may_come = host_ok && origin_ok && (site_ok || (way_ok && *way_in));
                                assert_eq!(passed, may_come && (known || *open), "{method} {path} {headers:?}");
                                seen += 1;
                            }
                        }
                    }
                }
            }
        }
        assert!(seen >= 20_000, "{seen}");
    }

    /// A guard with the token `secret`, and somebody who signed in there.
    fn signed_in() -> (Access, Signed) {
        let clock = Clock::of(|| Timestamp::from_ms(1_000_000), || 0);
        let access = Access::new(Some("secret"), clock, Terms::default()).expect("a guard");
        let signer = access.signer_of("secret").expect("is the token");
        (access, signer.sign(Timestamp::from_ms(1_000_000)).expect("signs"))
    }

    fn of(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("header"))).collect()
    }

    #[test]
    fn two_hosts_or_none_are_refused_and_the_socket_needs_neither_host_nor_token() {
        crate::metrics::install();
        let (access, _) = signed_in();
        let check = |peer, headers: &HeaderMap| access.admit(peer, 7584, &Method::GET, Some("/livez"), headers).is_ok();
        let mut headers = HeaderMap::new();
        assert!(!check(HERE, &headers));
        assert!(access.admit(Peer::Socket, 7584, &Method::GET, Some("/todos"), &headers).is_ok());
        headers.append(header::HOST, "localhost:7584".parse().expect("header"));
        assert!(check(HERE, &headers));
        headers.append(header::HOST, "localhost:7584".parse().expect("header"));
        assert!(!check(HERE, &headers));
        let mut page = HeaderMap::new();
        page.insert(header::ORIGIN, "http://evil.com".parse().expect("header"));
        assert!(!check(Peer::Socket, &page));
    }
}
