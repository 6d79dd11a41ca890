//! Who comes in, by the head of a request alone: the names the daemon goes by, what a web page may ask, what needs the
//! token, what has to be JSON. `http/guard.rs` reads heads and carries this out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Names by which every daemon can be asked for.
const OWN_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];
/// Characters of an allowed host: as many as DNS has for a name, and a port.
const HOST_CHARS_MAX: usize = 253 + 6;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The unix socket, which its mode guards.
    Socket,
    /// The TCP listener, from this address.
    Tcp(IpAddr),
}

impl Peer {
    /// Whether it is on this machine. One that comes by an address of a network is not: nobody can tell.
    #[must_use]
    pub fn is_here(self) -> bool {
        match self {
            Self::Socket => true,
            Self::Tcp(address) => address.to_canonical().is_loopback(),
        }
    }
}

/// Who a caller showed to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shown {
    /// By the token; or nothing is asked, as on the socket.
    Token,
    /// A browser that is signed in.
    Browser,
    /// Nobody.
    Nobody,
}

/// Whose requests and listeners are counted together. Who has no token cannot use up what those who have it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    peer: Peer,
    shown: Shown,
}

impl Caller {
    /// A caller from somewhere. Whoever has one address of an IPv6 network has all of its last 64 bits.
    #[must_use]
    pub fn of(peer: Peer, shown: Shown) -> Self {
        let network = |address: IpAddr| match address.to_canonical() {
            IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
            four @ IpAddr::V4(_) => four,
        };
        let peer = match peer {
            Peer::Tcp(address) if !peer.is_here() => Peer::Tcp(network(address)),
            peer => peer,
        };
        Self { peer, shown }
    }

    /// Whether it showed who it is.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.shown != Shown::Nobody
    }
}

/// To whom a route is open without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// To nobody.
    No,
    /// To callers on this machine.
    Here,
    /// To everybody.
    Everybody,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// It is not there.
    Nothing,
    /// It is there once.
    Once(&'a str),
    /// It is there more than once, or is no text.
    Unclear,
}

impl Said<'_> {
    fn is(self, wanted: &str) -> bool {
        matches!(self, Self::Once(text) if text == wanted)
    }

    /// Whether it is not there, or once and right.
    fn fits(self, right: impl FnOnce(&str) -> bool) -> bool {
        match self {
            Self::Nothing => true,
            Self::Once(text) => right(text),
            Self::Unclear => false,
        }
    }
}

/// A request's head, as far as it decides.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Where it comes from.
    pub peer: Peer,
    /// Who sends it.
    pub shown: Shown,
    /// `GET`, …
    pub method: &'a str,
    /// `Host`.
    pub host: Said<'a>,
    /// `Origin`.
    pub origin: Said<'a>,
    /// `Sec-Fetch-Site`.
    pub site: Said<'a>,
    /// `Sec-Fetch-Mode`.
    pub mode: Said<'a>,
    /// `Sec-Fetch-Dest`.
    pub dest: Said<'a>,
    /// `Content-Type`.
    pub kind: Said<'a>,
    /// To whom what is asked for is open.
    pub open: Open,
    /// Whether a link on another page may lead there.
    pub way_in: bool,
    /// Whether there is such a route at all.
    pub known: bool,
}

/// Why somebody does not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `Host` is no name of ours.
    Host,
    /// Another page asks.
    Origin,
    /// No token, or a wrong one.
    Token,
    /// What would change something is not JSON.
    NotJson,
}

/// A name the daemon may be asked for by, beside its own: a host, and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    host: String,
    port: Option<u16>,
}

impl AllowedHost {
    /// Reads `name`, `name:port`, an IPv4 address or an IPv6 one in brackets. The error says in words what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{:?} is no host such as slugline.example.org or 192.0.2.7:7584", shown(text));
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((six, rest)) => {
                let address: Ipv6Addr = six.parse().map_err(|_| wrong())?;
                (format!("[{address}]"), rest.strip_prefix(':').map(Some).or(rest.is_empty().then_some(None)))
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host.to_ascii_lowercase(), Some(Some(port))),
                None => (text.to_ascii_lowercase(), Some(None)),
            },
        };
        let port = match port.ok_or_else(wrong)? {
            None => None,
            Some(text) => {
                Some(text.parse().ok().filter(|port: &u16| *port > 0 && port.to_string() == text).ok_or_else(wrong)?)
            }
        };
        let label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        };
        let is_name = host.starts_with('[') || host.split('.').all(label);
        if is_name && text.len() <= HOST_CHARS_MAX { Ok(Self { host, port }) } else { Err(wrong()) }
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The names a daemon goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The address it listens on, when that is one of its own on a network.
    bound: Option<String>,
    allowed: Vec<AllowedHost>,
}

impl Names {
    /// Of a daemon that listens on an address and was told these names.
    #[must_use]
    pub fn new(listen: IpAddr, allowed: Vec<AllowedHost>) -> Self {
        let named = |address: IpAddr| match address {
            IpAddr::V4(four) => four.to_string(),
            IpAddr::V6(six) => format!("[{six}]"),
        };
        Self { bound: (!listen.is_unspecified()).then(|| named(listen)), allowed }
    }

    /// Whether a `Host` is one of ours, with the port we listen on or none.
    fn is_own(&self, authority: &str, port: u16) -> bool {
        let own = OWN_NAMES.into_iter().chain(self.bound.as_deref());
        own.into_iter().any(|name| port_behind(authority, name).is_some_and(|given| given.fits(port)))
    }

    /// Whether a `Host` is one that was allowed: with its port when it has one, else with ours or none.
    fn is_allowed(&self, authority: &str, port: u16) -> bool {
        self.allowed.iter().any(|allowed| {
            port_behind(authority, &allowed.host).is_some_and(|given| match allowed.port {
                Some(wanted) => given.is(wanted),
                None => given.fits(port),
            })
        })
    }

    fn is_ours(&self, authority: &str, port: u16) -> bool {
        self.is_own(authority, port) || self.is_allowed(authority, port)
    }

    /// Whether an `Origin` is a page of ours. Who is behind a proxy that encrypts has pages that are `https`.
    fn is_our_page(&self, origin: &str, port: u16) -> bool {
        match (origin.strip_prefix("http://"), origin.strip_prefix("https://")) {
            (Some(authority), _) => self.is_ours(authority, port),
            (None, Some(authority)) => self.is_allowed(authority, port),
            (None, None) => false,
        }
    }

    /// Decides about a request that came to `port`. What is refused first says least: a stranger's page learns nothing
    /// about tokens, and who has no token nothing about what there is.
    pub fn decide(&self, port: u16, head: &Head<'_>) -> Result<(), Refusal> {
        let at_home = match (head.peer, head.host) {
            (Peer::Socket, _) => true,
            (Peer::Tcp(_), Said::Once(host)) => self.is_ours(host, port),
            (Peer::Tcp(_), _) => false,
        };
        if !at_home {
            return Err(Refusal::Host);
        }
        let followed = head.way_in && head.method == "GET" && head.mode.is("navigate") && head.dest.is("document");
        let same_site = head.site.fits(|site| matches!(site, "same-origin" | "none"));
        if !head.origin.fits(|origin| self.is_our_page(origin, port)) || !(same_site || followed) {
            return Err(Refusal::Origin);
        }
        let may = match head.open {
            Open::No => false,
            Open::Here => head.peer.is_here(),
            Open::Everybody => true,
        };
        if !may && head.peer != Peer::Socket && head.shown == Shown::Nobody {
            return Err(Refusal::Token);
        }
        // What a form on a web page can send is no JSON.
        if head.known
            && matches!(head.method, "POST" | "PUT")
            && !matches!(head.kind, Said::Once(kind) if is_json(kind))
        {
            return Err(Refusal::NotJson);
        }
        Ok(())
    }
}

/// The port an authority has behind a name, if it is that name.
fn port_behind<'a>(authority: &'a str, name: &str) -> Option<Port<'a>> {
    let (given, rest) = authority.split_at_checked(name.len())?;
    let port = if rest.is_empty() { Port::None } else { Port::Given(rest.strip_prefix(':')?) };
    given.eq_ignore_ascii_case(name).then_some(port)
}

enum Port<'a> {
    None,
    Given(&'a str),
}

impl Port<'_> {
    fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Given(text) if text.parse() == Ok(wanted) && !text.starts_with(['+', '0']))
    }

    fn fits(&self, ours: u16) -> bool {
        matches!(self, Self::None) || self.is(ours)
    }
}

fn is_json(kind: &str) -> bool {
    kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json")
}

/// Where those on this machine reach a daemon that listens: the address that means all of them is none to connect to.
#[must_use]
pub fn reachable(listens: SocketAddr) -> SocketAddr {
    match listens.ip() {
        IpAddr::V4(four) if four.is_unspecified() => (Ipv4Addr::LOCALHOST, listens.port()).into(),
        IpAddr::V6(six) if six.is_unspecified() => (Ipv6Addr::LOCALHOST, listens.port()).into(),
        _ => listens,
    }
}

/// Descriptors that are kept for everything but connections: the ledger, logs, git, what is looked at.
pub const DESCRIPTORS_KEPT: u64 = 512;

/// How many of the connections that are wanted there may be with so many descriptors. Half of few, else all but
/// [`DESCRIPTORS_KEPT`]: whoever comes by the network never leaves the store and git without any.
#[must_use]
pub fn connections_within(wanted: usize, descriptors: u64) -> usize {
    let left = descriptors - DESCRIPTORS_KEPT.min(descriptors / 2);
    wanted.min(usize::try_from(left).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 7584;
    const HERE: Peer = Peer::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn names(allowed: &[&str]) -> Names {
        let allowed = allowed.iter().map(|text| AllowedHost::parse(text).expect("a host")).collect();
        Names::new(address("127.0.0.1"), allowed)
    }

    /// A request for a route that needs the token, by somebody who has it.
    fn plain() -> Head<'static> {
        Head {
            peer: HERE,
            shown: Shown::Token,
            method: "GET",
            host: Said::Once("127.0.0.1:7584"),
            origin: Said::Nothing,
            site: Said::Nothing,
            mode: Said::Nothing,
            dest: Said::Nothing,
            kind: Said::Nothing,
            open: Open::No,
            way_in: false,
            known: true,
        }
    }

    #[test]
    fn a_host_is_one_of_ours_to_the_letter() {
        let names = names(&["slugline.example.org", "proxy.example.org:8443", "192.0.2.7", "[2001:db8::7]"]);
        for (host, ours) in [
            ("127.0.0.1", true),
            ("127.0.0.1:7584", true),
            ("localhost:7584", true),
            ("LocalHost:7584", true),
            ("[::1]:7584", true),
            ("slugline.example.org", true),
            ("SLUGLINE.example.org:7584", true),
            ("proxy.example.org:8443", true),
            ("192.0.2.7:7584", true),
            ("[2001:db8::7]:7584", true),
            ("", false),
            (":7584", false),
            ("127.0.0.1:", false),
            ("127.0.0.1:80", false),
            ("127.0.0.1:07584", false),
            ("127.0.0.1:+7584", false),
            ("127.0.0.1:7584:7584", false),
            ("127.0.0.1.", false),
            ("127.0.0.1.:7584", false),
            ("127.0.0.1.evil.com", false),
            ("evil.com#127.0.0.1", false),
            ("user@127.0.0.1:7584", false),
            ("localhost.:7584", false),
            ("[::ffff:127.0.0.1]:7584", false),
            ("::1", false),
            ("127.1", false),
            ("2130706433", false),
            ("0.0.0.0:7584", false),
            ("evil.slugline.example.org", false),
            ("slugline.example.org.", false),
            ("slugline.example.org:80", false),
            ("slugline.example.organic", false),
            ("proxy.example.org", false),
            ("proxy.example.org:7584", false),
            ("192.0.2.77", false),
            ("localhöst", false),
        ] {
            let head = Head { host: Said::Once(host), ..plain() };
            assert_eq!(names.decide(PORT, &head), if ours { Ok(()) } else { Err(Refusal::Host) }, "{host}");
        }
        for unclear in [Said::Nothing, Said::Unclear] {
            assert_eq!(names.decide(PORT, &Head { host: unclear, ..plain() }), Err(Refusal::Host));
            let socket = Head { host: unclear, peer: Peer::Socket, shown: Shown::Nobody, ..plain() };
            assert_eq!(names.decide(PORT, &socket), Ok(()));
        }
    }

    #[test]
    fn the_address_that_is_listened_on_is_a_name_and_the_one_that_means_all_is_none() {
        let asked = |listen: &str, host: &'static str| {
            let head = Head { host: Said::Once(host), ..plain() };
            Names::new(address(listen), Vec::new()).decide(PORT, &head).is_ok()
        };
        assert!(asked("192.0.2.7", "192.0.2.7:7584") && asked("192.0.2.7", "localhost:7584"));
        assert!(asked("2001:db8::7", "[2001:db8::7]:7584"));
        assert!(!asked("192.0.2.7", "192.0.2.8:7584"));
        assert!(!asked("0.0.0.0", "0.0.0.0:7584") && !asked("::", "[::]:7584") && asked("0.0.0.0", "127.0.0.1:7584"));
    }

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("192.0.2.7:80", "192.0.2.7:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
        ] {
            assert_eq!(reachable(listens.parse().expect("an address")).to_string(), reached);
        }
    }

    #[test]
    fn an_origin_is_a_page_of_ours_or_not_there() {
        let names = names(&["slugline.example.org"]);
        for (origin, ours) in [
            (Said::Nothing, true),
            (Said::Once("http://127.0.0.1:7584"), true),
            (Said::Once("http://localhost:7584"), true),
            (Said::Once("http://slugline.example.org"), true),
            (Said::Once("https://slugline.example.org"), true),
            (Said::Once("https://127.0.0.1:7584"), false),
            (Said::Once("http://127.0.0.1:7585"), false),
            (Said::Once("http://127.0.0.1:7584/"), false),
            (Said::Once("HTTP://127.0.0.1:7584"), false),
            (Said::Once("null"), false),
            (Said::Once(""), false),
            (Said::Once("http://evil.com"), false),
            (Said::Once("https://slugline.example.org.evil.com"), false),
            (Said::Unclear, false),
        ] {
            let passed = names.decide(PORT, &Head { origin, ..plain() });
            assert_eq!(passed, if ours { Ok(()) } else { Err(Refusal::Origin) }, "{origin:?}");
            // The socket is no way round: pages cannot reach it, so what says that it is one is none of ours.
            let socket = names.decide(PORT, &Head { origin, peer: Peer::Socket, ..plain() });
            assert_eq!(socket, passed, "{origin:?}");
        }
    }

    #[test]
    fn nothing_crosses_sites_but_a_link_to_the_page() {
        let names = names(&[]);
        let (navigate, document) = (Said::Once("navigate"), Said::Once("document"));
        for (site, method, way_in, mode, dest, passes) in [
            (Said::Nothing, "GET", false, Said::Nothing, Said::Nothing, true),
            (Said::Once("same-origin"), "GET", false, Said::Once("cors"), Said::Once("empty"), true),
            (Said::Once("none"), "GET", false, navigate, document, true),
            (Said::Once("same-site"), "GET", false, navigate, document, false),
            (Said::Once("cross-site"), "GET", false, navigate, document, false),
            (Said::Once("cross-site"), "GET", true, navigate, document, true),
            (Said::Once("cross-site"), "POST", true, navigate, document, false),
            (Said::Once("cross-site"), "GET", true, navigate, Said::Once("iframe"), false),
            (Said::Once("cross-site"), "GET", true, Said::Once("no-cors"), document, false),
            (Said::Once("cross-site"), "GET", true, navigate, Said::Unclear, false),
            (Said::Once("Same-Origin"), "GET", false, Said::Nothing, Said::Nothing, false),
            (Said::Unclear, "GET", false, Said::Nothing, Said::Nothing, false),
        ] {
            let head = Head { site, method, way_in, mode, dest, open: Open::Everybody, ..plain() };
            assert_eq!(names.decide(PORT, &head).is_ok(), passes, "{head:?}");
        }
    }

    #[test]
    fn what_is_open_here_is_not_open_to_other_machines() {
        let away = Peer::Tcp(address("198.51.100.9"));
        for (open, peer, shown, passes) in [
            (Open::No, HERE, Shown::Nobody, false),
            (Open::No, HERE, Shown::Browser, true),
            (Open::No, away, Shown::Token, true),
            (Open::No, away, Shown::Nobody, false),
            (Open::No, Peer::Socket, Shown::Nobody, true),
            (Open::Here, HERE, Shown::Nobody, true),
            (Open::Here, Peer::Tcp(address("127.8.8.8")), Shown::Nobody, true),
            (Open::Here, Peer::Tcp(address("::1")), Shown::Nobody, true),
            (Open::Here, Peer::Tcp(address("::ffff:127.0.0.1")), Shown::Nobody, true),
            (Open::Here, Peer::Tcp(address("::ffff:198.51.100.9")), Shown::Nobody, false),
            (Open::Here, away, Shown::Nobody, false),
            (Open::Here, away, Shown::Token, true),
            (Open::Here, away, Shown::Browser, true),
            (Open::Everybody, away, Shown::Nobody, true),
        ] {
            let head = Head { open, peer, shown, ..plain() };
            let wanted = if passes { Ok(()) } else { Err(Refusal::Token) };
            assert_eq!(names(&[]).decide(PORT, &head), wanted, "{head:?}");
        }
    }

    #[test]
    fn what_changes_something_is_json() {
        for (method, known, kind, passes) in [
            ("POST", true, Said::Once("application/json"), true),
            ("PUT", true, Said::Once("Application/JSON; charset=utf-8"), true),
            ("POST", true, Said::Nothing, false),
            ("POST", true, Said::Once("text/plain"), false),
            ("POST", true, Said::Once("application/x-www-form-urlencoded"), false),
            ("POST", true, Said::Once("text/plain; application/json"), false),
            ("POST", true, Said::Once("application/jsonp"), false),
            ("POST", true, Said::Unclear, false),
            // What is not there is told so.
            ("POST", false, Said::Nothing, true),
            ("GET", true, Said::Nothing, true),
            // No form can send it.
            ("DELETE", true, Said::Nothing, true),
        ] {
            let head = Head { method, known, kind, ..plain() };
            let wanted = if passes { Ok(()) } else { Err(Refusal::NotJson) };
            assert_eq!(names(&[]).decide(PORT, &head), wanted, "{head:?}");
        }
    }

    #[test]
    fn an_allowed_host_is_read_in_one_spelling_or_refused() {
        for (text, read) in [
            ("slugline.example.org", "slugline.example.org"),
            ("Box:8443", "box:8443"),
            ("my_box", "my_box"),
            ("192.0.2.7:80", "192.0.2.7:80"),
            ("[2001:DB8:0::7]:80", "[2001:db8::7]:80"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(AllowedHost::parse(text).map(|host| host.to_string()).as_deref(), Ok(read), "{text}");
        }
        for text in [
            "",
            "*",
            "*.example.org",
            ".",
            "a..b",
            "example.org.",
            "-a",
            "a-",
            "a b",
            "http://a",
            "a/b",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:b",
            "a:1:2",
            "::1",
            "[::1",
            "[::1]x",
            "[x]",
            "[1.2.3.4]",
            "user@a",
            "bücher.example",
            "a\n",
        ] {
            assert!(AllowedHost::parse(text).is_err(), "{text:?}");
        }
        assert!(AllowedHost::parse(&"a".repeat(300)).is_err());
    }

    #[test]
    fn callers_are_told_apart_by_network_and_by_what_they_show() {
        let tcp = |text: &str, shown| Caller::of(Peer::Tcp(address(text)), shown);
        let nobody = Shown::Nobody;
        assert_eq!(tcp("2001:db8::1", nobody), tcp("2001:db8::ffff:2", nobody));
        assert_eq!(tcp("::ffff:192.0.2.1", nobody), tcp("192.0.2.1", nobody));
        for (one, other) in [
            (tcp("2001:db8:0:1::1", nobody), tcp("2001:db8:0:2::1", nobody)),
            (tcp("192.0.2.1", nobody), tcp("192.0.2.2", nobody)),
            (tcp("127.0.0.1", nobody), tcp("127.0.0.1", Shown::Token)),
            (tcp("127.0.0.1", Shown::Browser), tcp("127.0.0.1", Shown::Token)),
            (tcp("127.0.0.1", Shown::Token), Caller::of(Peer::Socket, Shown::Token)),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn descriptors_are_kept_for_what_is_no_connection() {
        for (wanted, descriptors, may) in [
            (4_096, 1_048_576, 4_096),
            (4_096, 4_608, 4_096),
            (4_096, 4_096, 3_584),
            (4_096, 1_024, 512),
            (4_096, 256, 128),
            (16, 1_024, 16),
            (16, 1, 1),
            (16, 0, 1),
        ] {
            assert_eq!(connections_within(wanted, descriptors), may, "{wanted} of {descriptors}");
        }
    }
}
