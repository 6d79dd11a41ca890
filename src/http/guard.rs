//! Who is let in. A web page in somebody's browser must not reach the daemon, nor a name that was made to point at
//! loopback: Host is one of ours exactly, Origin if given is ours, nothing crosses sites. TCP callers bring the token;
//! the unix socket is guarded by its mode.

use sha2::{Digest, Sha256};
use warp::http::{HeaderMap, Method, header};

use super::ROUTES;
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
#[derive(Debug, Clone)]
pub struct Access {
    /// Digest of the token; everybody is let in without one.
    token: Option<[u8; 32]>,
}

impl Access {
    /// Callers have to bring this token, if there is one.
    #[must_use]
    pub fn new(token: Option<&str>) -> Self {
        Self { token: token.map(|token| Sha256::digest(token).into()) }
    }

    /// Decides about a request by its head; `port` is the one the daemon listens on.
    pub fn check(
        &self,
        peer: Peer,
        port: u16,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        if peer == Peer::Tcp && !host_is_ours(headers, port) {
            rejected(RejectReason::Host);
            let detail = format!("the Host header is not this daemon's; use 127.0.0.1:{port} or localhost:{port}");
            return Err(Problem::new(ProblemCode::ForbiddenOrigin, detail));
        }
        if !origin_is_ours(headers, port) {
            rejected(RejectReason::Origin);
            return Err(Problem::new(ProblemCode::ForbiddenOrigin, "requests from other web pages are not answered"));
        }
        let is_open = ROUTES.iter().any(|route| route.open && route.path == path && route.method == method.as_str());
        if peer == Peer::Tcp && !is_open && !self.knows(headers) {
            rejected(RejectReason::Auth);
            let detail =
                "send Authorization: Bearer with the token in <data_dir>/token; `slugline serve` prints where that is";
            return Err(Problem::new(ProblemCode::Unauthorized, detail));
        }
        Ok(())
    }

    /// Digests are compared, so that how far a guess is right does not show in time.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let bearer = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        bearer.is_some_and(|(_, bearer)| <[u8; 32]>::from(Sha256::digest(bearer.trim())) == *token)
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
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().is_ok_and(|host| is_our_name(&host.to_ascii_lowercase(), port))
}

fn origin_is_ours(headers: &HeaderMap, port: u16) -> bool {
    let origin = headers.get_all(header::ORIGIN).iter().all(|origin| {
        let name = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        name.is_some_and(|name| is_our_name(name, port))
    });
    let site = headers.get_all("sec-fetch-site").iter().all(|site| matches!(site.to_str(), Ok("same-origin" | "none")));
    origin && site
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let tokens = [
            (None, false),
            (Some("Bearer secret"), true),
            (Some("bearer secret"), true),
            (Some("Bearer wrong"), false),
            (Some("Basic secret"), false),
        ];
        let access = Access::new(Some("secret"));
        let mut seen = 0;
        for (host, host_ok) in hosts {
            for (origin, origin_ok) in origins {
                for (site, site_ok) in sites {
                    for (token, token_ok) in tokens {
                        for (path, open) in [("/todos/work", false), ("/livez", true)] {
                            let mut headers = HeaderMap::new();
                            headers.insert(header::HOST, host.parse().expect("header"));
                            headers.extend(origin.map(|value| (header::ORIGIN, value.parse().expect("header"))));
                            headers.extend(site.map(|value| {
                                (warp::http::HeaderName::from_static("sec-fetch-site"), value.parse().expect("header"))
                            }));
                            headers.extend(token.map(|value| (header::AUTHORIZATION, value.parse().expect("header"))));
                            let method = if open { Method::GET } else { Method::POST };
                            let passed = access.check(Peer::Tcp, 7584, &method, path, &headers).is_ok();
                            assert_eq!(
                                passed,
                                host_ok && origin_ok && site_ok && (token_ok || open),
                                "{headers:?} {path}"
                            );
                            seen += 1;
                        }
                    }
                }
            }
        }
        assert!(seen >= 400, "{seen}");
    }

    #[test]
    fn two_hosts_or_none_are_refused_and_the_socket_needs_neither_host_nor_token() {
        crate::metrics::install();
        let access = Access::new(Some("secret"));
        let check = |peer, headers: &HeaderMap| access.check(peer, 7584, &Method::GET, "/livez", headers).is_ok();
        let mut headers = HeaderMap::new();
        assert!(!check(Peer::Tcp, &headers));
        assert!(access.check(Peer::Unix, 7584, &Method::POST, "/todos/work", &headers).is_ok());
        headers.append(header::HOST, "localhost:7584".parse().expect("header"));
        assert!(check(Peer::Tcp, &headers));
        headers.append(header::HOST, "localhost:7584".parse().expect("header"));
        assert!(!check(Peer::Tcp, &headers));
        let mut page = HeaderMap::new();
        page.insert(header::ORIGIN, "http://evil.com".parse().expect("header"));
        assert!(!check(Peer::Unix, &page));
    }
}
