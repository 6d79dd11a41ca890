//! Who is let in. A web page in somebody's browser must not reach the daemon, nor a name that was made to point at
//! loopback: Host is one of ours exactly, Origin if given is ours, nothing crosses sites but a link to the console. TCP
//! callers bring the token, or what signing in gave them; the unix socket is guarded by its mode.

use sha2::{Digest, Sha256};
use warp::http::{HeaderMap, Method, header};

use super::signing::Signer;
use super::{only, open_at};
use crate::actors::clock::Clock;
use crate::metrics::http::{RejectReason, rejected};
use crate::model::problem::{Problem, ProblemCode};

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The TCP listener.
    Tcp,
    /// The unix socket.
    Unix,
}

/// What is asked of a caller.
#[derive(Clone)]
pub struct Access {
    /// Digest of the token; everybody is let in without one.
    token: Option<[u8; 32]>,
    signer: Signer,
    clock: Clock,
}

impl Access {
    /// Callers have to bring this token, if there is one.
    #[must_use]
    pub fn new(token: Option<&str>, clock: Clock) -> Self {
        // Without a token nobody has to be signed in, so what that is signed with is nobody's secret.
        let signer = Signer::new(token.unwrap_or(""));
        Self { token: token.map(|token| Sha256::digest(token).into()), signer, clock }
    }

    /// Whether anything is asked of callers.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.token.is_some()
    }

    /// Whether this is the token. Digests are compared, so that how far a guess is right does not show in time.
    #[must_use]
    pub fn is_token(&self, text: &str) -> bool {
        self.token.is_none_or(|token| <[u8; 32]>::from(Sha256::digest(text)) == token)
    }

    /// Who signs browsers in.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Decides about a request by its head; `port` is the one the daemon listens on, `route` the path of the table that is
    /// asked for, if any is.
    pub fn check(
        &self,
        peer: Peer,
        port: u16,
        method: &Method,
        route: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        if peer == Peer::Tcp && !host_is_ours(headers, port) {
            rejected(RejectReason::Host);
            let detail = format!("the Host header is not this daemon's; use 127.0.0.1:{port} or localhost:{port}");
            return Err(Problem::new(ProblemCode::ForbiddenOrigin, detail));
        }
        if !origin_is_ours(headers, port) || !(site_is_ours(headers) || is_way_in(method, route, headers)) {
            rejected(RejectReason::Origin);
            return Err(Problem::new(ProblemCode::ForbiddenOrigin, "requests from other web pages are not answered"));
        }
        if peer == Peer::Tcp && !self.knows(headers, port) && !is_open(method, route) {
            rejected(RejectReason::Auth);
            let detail =
                "send Authorization: Bearer with the token in <data_dir>/token; `slugline serve` prints where that is";
            return Err(Problem::new(ProblemCode::Unauthorized, detail));
        }
        Ok(())
    }

    /// By the token when one is sent, else by what signing in gave.
    fn knows(&self, headers: &HeaderMap, port: u16) -> bool {
        if !self.asks() {
            return true;
        }
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let value = match (given.next(), given.next()) {
            (None, _) => return self.signer.knows(headers, port, self.clock.now()),
            (Some(value), None) => value,
            (Some(_), Some(_)) => return false,
        };
        let bearer = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        bearer.is_some_and(|(_, bearer)| self.is_token(bearer.trim()))
    }
}

/// The names this daemon goes by.
const HOSTS: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

fn is_our_name(name: &str, port: u16) -> bool {
    HOSTS.iter().any(|host| {
        name.strip_prefix(host)
            .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':') == Some(port.to_string().as_str()))
    })
}

fn host_is_ours(headers: &HeaderMap, port: u16) -> bool {
    let host = only(headers, header::HOST.as_str()).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| is_our_name(&host.to_ascii_lowercase(), port))
}

fn origin_is_ours(headers: &HeaderMap, port: u16) -> bool {
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let name = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        name.is_some_and(|name| is_our_name(name, port))
    })
}

fn site_is_ours(headers: &HeaderMap) -> bool {
    headers.get_all("sec-fetch-site").iter().all(|site| matches!(site.to_str(), Ok("same-origin" | "none")))
}

/// What a link on another page may lead to. It says nothing, and does nothing by being loaded.
const WAYS_IN: [&str; 3] = ["/", "/console", "/console/"];

/// Whether somebody followed a link to the console, in a window and not in a frame.
fn is_way_in(method: &Method, route: Option<&str>, headers: &HeaderMap) -> bool {
    let says = |name: &str, wanted: &str| only(headers, name).is_some_and(|value| value == wanted);
    method == Method::GET
        && route.is_some_and(|route| WAYS_IN.contains(&route))
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document")
}

/// Whether the table says that a route needs no token.
fn is_open(method: &Method, route: Option<&str>) -> bool {
    route.is_some_and(|route| open_at(route).any(|open| open.method == method.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::signing::{KEY_HEADER, Signed};
    use crate::http::template;
    use crate::model::time::Timestamp;
    use warp::http::HeaderName;

    /// Every combination of the headers that matter; what may pass is listed by hand, so the code is not its own judge.
    #[test]
    fn only_the_listed_combinations_get_through() {
        // Refusals are counted; a counter that is used before there is a recorder counts for nobody in this process.
        crate::metrics::install();
        let hosts = [
            ("127.0.0.1:7584", true),
            ("localhost:7584", true),
            ("[::1]:7584", true),
            ("127.0.0.1", true),
            ("LOCALHOST:7584", true),
            ("127.0.0.1:80", false),
            ("127.0.0.1.evil.com", false),
            ("evil.com", false),
            ("localhost.:7584", false),
            ("[::ffff:127.0.0.1]:7584", false),
            ("", false),
        ];
        let origins = [
            (None, true),
            (Some("http://127.0.0.1:7584"), true),
            (Some("http://localhost:7584"), true),
            (Some("null"), false),
            (Some("https://127.0.0.1:7584"), false),
            (Some("http://evil.com"), false),
        ];
        let sites = [
            (None, true),
            (Some("same-origin"), true),
            (Some("none"), true),
            (Some("same-site"), false),
            (Some("cross-site"), false),
        ];
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
                        let mut from = vec![("host", host)];
                        from.extend(origin.map(|origin| ("origin", origin)));
                        from.extend(site.map(|site| ("sec-fetch-site", site)));
                        from.extend(
                            way.iter().flat_map(|(mode, to)| [("sec-fetch-mode", *mode), ("sec-fetch-dest", *to)]),
                        );
                        for (caller, known) in callers {
                            let headers = of(&[&from, caller].concat());
                            for (method, path, open, way_in) in &targets {
                                let passed = access.check(Peer::Tcp, 7584, method, template(path), &headers).is_ok();
                                let may_come = host_ok && origin_ok && (site_ok || (way_ok && *way_in));
                                assert_eq!(passed, may_come && (known || *open), "{method} {path} {headers:?}");
                                seen += 1;
                            }
                        }
                    }
                }
            }
        }
        assert!(seen >= 200_000, "{seen}");
    }

    /// A guard with the token `secret`, and somebody who signed in there.
    fn signed_in() -> (Access, Signed) {
        let access = Access::new(Some("secret"), Clock::of(|| Timestamp::from_ms(1_000_000), || 0));
        let signed = access.signer().sign(Timestamp::from_ms(1_000_000)).expect("signs");
        (access, signed)
    }

    fn of(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("header"))).collect()
    }

    #[test]
    fn two_hosts_or_none_are_refused_and_the_socket_needs_neither_host_nor_token() {
        crate::metrics::install();
        let (access, _) = signed_in();
        let check = |peer, headers: &HeaderMap| access.check(peer, 7584, &Method::GET, Some("/livez"), headers).is_ok();
        let mut headers = HeaderMap::new();
        assert!(!check(Peer::Tcp, &headers));
        assert!(access.check(Peer::Unix, 7584, &Method::POST, Some("/todos/work"), &headers).is_ok());
        headers.append(header::HOST, "localhost:7584".parse().expect("header"));
        assert!(check(Peer::Tcp, &headers));
        headers.append(header::HOST, "localhost:7584".parse().expect("header"));
        assert!(!check(Peer::Tcp, &headers));
        let mut page = HeaderMap::new();
        page.insert(header::ORIGIN, "http://evil.com".parse().expect("header"));
        assert!(!check(Peer::Unix, &page));
    }
}
