//! The accept loop: warp decides what to answer, this decides who may ask how much and how long.
//!
//! Limits are for a service of agents: of connections, of heads and bodies and the time they take (the configuration says
//! which), a minute for an answer, half a minute without taking any of it. A connection beyond the limit takes the place of
//! the oldest that has not asked anything as somebody known; where there is none it waits. So whoever opens connections and
//! says nothing, or says it slowly, keeps nobody out. A shutdown stops accepting, lets requests in flight finish, closes
//! what idles, and aborts what is left after the grace.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;
use tracing::Instrument as _;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use warp::reply::Response;

use super::guard::Access;
use super::problem::{from_status, render};
use super::{Routes, only, open_at, template};
use crate::actors::health::inflight::{InFlight, RequestOn};
use crate::actors::health::turning::{Doing, doing};
use crate::metrics::http as metric;
use crate::metrics::http::RejectReason;
use crate::metrics::spans;
use crate::model::door::{Peer, reachable};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::trace::Trace;

/// What one caller may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Time for a request's head to arrive; an idle connection is closed after the same time.
    pub head: Duration,
    /// Time for its body.
    pub body: Duration,
    /// Bytes of a head.
    pub head_bytes: usize,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Time for the answer: longer than any call may wait.
    pub answer: Duration,
    /// Time in which a client has to take something of its answer.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            head_bytes: 16 * 1024,
            body_bytes: 64 * 1024,
            answer: Duration::from_secs(60),
            stall: Duration::from_secs(30),
        }
    }
}

/// Who opens an answer as a page gets one that does nothing and is in nobody's frame.
const NO_PAGE: &str = "default-src 'none'; frame-ancestors 'none'";
/// Bytes of a request's target.
const TARGET_BYTES_MAX: usize = 8 * 1024;
/// How long a connection is left alone, however many come behind it: enough for a head on its way.
const STRANGER_TIME: Duration = Duration::from_secs(1);
/// Connections that may wait to be accepted; the system has a bound of its own, which is lower.
const BACKLOG: u32 = 65_535;
/// How long accepting pauses when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

tokio::task_local! {
    static TRACE: Trace;
}

/// Where the request that is being answered is in its trace; the beginning of one where none is being answered.
pub(super) fn trace() -> Trace {
    TRACE.try_with(Trace::clone).unwrap_or_else(|_| spans::begin(None, None))
}

/// A bound server.
pub struct Server {
    tcp: TcpListener,
    unix: Option<(UnixListener, PathBuf)>,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    routes: Routes,
    access: Access,
    limits: Limits,
    address: SocketAddr,
    on: InFlight<RequestOn>,
    strangers: Strangers,
}

/// Connections on which nobody known has asked anything yet, in the order in which they came.
#[derive(Default)]
struct Strangers {
    came: AtomicU64,
    on: Mutex<BTreeMap<u64, (Instant, CancellationToken)>>,
}

impl Strangers {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, (Instant, CancellationToken)>> {
        self.on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection came, which ends when this is cancelled; the number is what it is known by.
    fn came(&self, end: CancellationToken) -> u64 {
        let number = self.came.fetch_add(1, Ordering::Relaxed);
        self.all().insert(number, (Instant::now(), end));
        number
    }

    /// It is over, or somebody known asked something on it.
    fn is_none(&self, number: u64) {
        self.all().remove(&number);
    }

    /// Ends the oldest if it had its time. Says when to try again.
    fn make_room(&self) -> Duration {
        let mut all = self.all();
        let Some(oldest) = all.first_entry() else { return STRANGER_TIME };
        let left = STRANGER_TIME.saturating_sub(oldest.get().0.elapsed());
        if !left.is_zero() {
            return left;
        }
        metric::rejected(RejectReason::ConnLimit);
        oldest.remove().1.cancel();
        ACCEPT_PAUSE
    }
}

/// Where the daemon is reached, with every request: what is written for browsers names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Door(pub SocketAddr);

impl Server {
    /// Binds both listeners; nothing is answered yet.
    pub async fn bind_with(
        listen: SocketAddr,
        socket: Option<&Path>,
        routes: Routes,
        access: Access,
        limits: Limits,
        on: InFlight<RequestOn>,
    ) -> anyhow::Result<Self> {
        let tcp = bind_tcp(listen).map_err(|error| {
            anyhow::anyhow!(
                "cannot listen on {listen}: {error}; is another daemon running? choose another with --listen"
            )
        })?;
        let address = reachable(tcp.local_addr()?);
        let unix = match socket {
            Some(path) => Some((bind_unix(path).await?, path.to_owned())),
            None => None,
        };
        let shared = Arc::new(Shared { routes, access, limits, address, on, strangers: Strangers::default() });
        Ok(Self { tcp, unix, address, shared })
    }

    /// Where it is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is ready, then drains within `grace`.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send, grace: Duration) {
        let Self { tcp, unix, shared, .. } = self;
        let (graceful, slots) = (GracefulShutdown::new(), Arc::new(Semaphore::new(shared.limits.connections)));
        let connections = tokio_util::task::TaskTracker::new();
        let abort = CancellationToken::new();
        let (listener, socket) = unix.map_or((None, None), |(listener, path)| (Some(listener), Some(path)));
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = tcp.accept() => accepted.map(|(stream, from)| { let _ = stream.set_nodelay(true); Accepted::Tcp(stream, from) }),
                accepted = accept_unix(listener.as_ref()) => accepted.map(Accepted::Unix),
                () = &mut stop => break,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let slot = loop {
                let again = if slots.available_permits() == 0 { shared.strangers.make_room() } else { STRANGER_TIME };
                tokio::select! {
                    slot = slots.clone().acquire_owned() => break slot.ok(),
                    () = &mut stop => break None,
                    () = tokio::time::sleep(again) => {}
                }
            };
            let Some(slot) = slot else { break };
            let (shared, end) = (shared.clone(), abort.child_token());
            let number = shared.strangers.came(end.clone());
            let connection = match accepted {
                Accepted::Tcp(stream, from) => {
                    serve_one(stream, (Peer::Tcp(from.ip()), number), shared.clone(), &graceful).boxed()
                }
                Accepted::Unix(stream) => serve_one(stream, (Peer::Socket, number), shared.clone(), &graceful).boxed(),
            };
            connections.spawn(async move {
                metric::connections_changed(1);
                let _ = end.run_until_cancelled(connection).await;
                metric::connections_changed(-1);
                shared.strangers.is_none(number);
                drop(slot);
            });
        }
        drop((tcp, listener));
        connections.close();
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            tracing::warn!("connections were still open after the grace and are cut");
        }
        abort.cancel();
        connections.wait().await;
        if let Some(socket) = socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

enum Accepted {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(UnixStream),
}

async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// A port with as long a queue as the system gives: whoever finds it full comes again after a second at the earliest.
fn bind_tcp(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A daemon that comes back has its port again although connections of the one before are still ending.
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}

/// A socket for this user alone. One that a dead daemon left is replaced; one that somebody answers on is not.
async fn bind_unix(path: &Path) -> anyhow::Result<UnixListener> {
    let fault = |what: &str, error: io::Error| anyhow::anyhow!("socket {}: {what}: {error}", path.display());
    if let Some(dir) = path.parent() {
        crate::actors::exclusion::private_dir(dir).map_err(|error| fault("its directory cannot be made", error))?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            anyhow::bail!("socket {} is in use by another daemon; choose another with --socket", path.display());
        }
        std::fs::remove_file(path).map_err(|error| fault("a stale one cannot be removed", error))?;
    }
    // Bound under another name until its mode is right: nobody else can connect in between.
    let part = path.with_extension("part");
    let _ = std::fs::remove_file(&part);
    let listener = UnixListener::bind(&part).map_err(|error| fault("cannot be bound", error))?;
    std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| fault("its mode cannot be set", error))?;
    std::fs::rename(&part, path).map_err(|error| fault("cannot be put in place", error))?;
    Ok(listener)
}

fn serve_one<S>(
    stream: S,
    (peer, number): (Peer, u64),
    shared: Arc<Shared>,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Limits { head, stall, head_bytes, .. } = shared.limits;
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<Response, Infallible>(answer(&shared, (peer, number), request).await) }
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(stall));
    let stream = Box::pin(stream);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(head_bytes).half_close(false);
    let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
    async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// One request, from its head to its answer.
async fn answer(shared: &Shared, from: (Peer, u64), request: Request<Incoming>) -> Response {
    let begun = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let counted = metric::Method::named(method.as_str());
    let _answering = metric::request_started(counted);
    let trace = trace_of(request.headers());
    let known = template(&path);
    let answered = async {
        match admit(shared, from, request, known).await {
            Ok(request) => route(shared, request, &method, &path, known).await,
            Err(problem) => render(&problem),
        }
    };
    // Lines that are logged on the way, also by the actors that are asked, say which request it was. What needs no token is
    // asked by machines all the time, or is a file of the console; nobody wants to follow each request.
    let followed = known.filter(|route| open_at(route).next().is_none());
    let span = match followed {
        Some(route) => tracing::info_span!("request", method = counted.as_str(), route, trace_id = trace.trace_id()),
        None => tracing::Span::none(),
    };
    let mut response = TRACE.scope(trace.clone(), answered.instrument(span)).await;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&trace.to_string()) {
        headers.insert(HeaderName::from_static(TRACEPARENT), value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    // The console's files say themselves how they may be kept, and what a page of them may do. No other answer is a page.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(NO_PAGE));
    if let Some(route) = known.filter(|route| !route.ends_with("/log") && *route != "/events") {
        let (status, took) = (response.status().as_u16(), begun.elapsed());
        metric::request_finished(counted, route, status, took);
        if followed.is_some() {
            spans::request_ended(&trace, counted.as_str(), route, status, took);
        }
    }
    response
}

/// Checks a request's head and reads its body.
async fn admit(
    shared: &Shared,
    (peer, number): (Peer, u64),
    request: Request<Incoming>,
    known: Option<&'static str>,
) -> Result<Request<Full<Bytes>>, Problem> {
    let (mut head, body) = request.into_parts();
    head.extensions.insert(Door(shared.address));
    // warp panics on the authority form of CONNECT; the absolute form is for proxies.
    if head.method == Method::CONNECT || head.uri.authority().is_some() || !head.uri.path().starts_with('/') {
        metric::rejected(RejectReason::Malformed);
        return Err(Problem::new(
            ProblemCode::InvalidRequest,
            "this is no proxy: send the path alone as the request target",
        ));
    }
    if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > TARGET_BYTES_MAX) {
        return Err(Problem::new(
            ProblemCode::UriTooLong,
            format!("request targets have at most {TARGET_BYTES_MAX} bytes"),
        ));
    }
    let visitor = shared.access.admit(peer, shared.address.port(), &head.method, known, &head.headers)?;
    let is_known = visitor.caller.is_known();
    head.extensions.insert(visitor);
    let too_large = || {
        metric::rejected(RejectReason::BodySize);
        Problem::new(ProblemCode::BodyTooLarge, format!("bodies have at most {} bytes", shared.limits.body_bytes))
    };
    // A length that is said to be too large is refused as said: the caller need not send it, nor anybody wait for it.
    if usize::try_from(body.size_hint().lower()).map_or(true, |said| said > shared.limits.body_bytes) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(shared.limits.body, Limited::new(body, shared.limits.body_bytes).collect()).await;
    let body = match read {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Ok(Err(error)) => {
            return Err(Problem::new(ProblemCode::InvalidRequest, format!("the body broke off: {error}")));
        }
        Err(_) => {
            return Err(Problem::new(
                ProblemCode::RequestTimeout,
                format!("the body did not arrive within {} s", shared.limits.body.as_secs()),
            ));
        }
    };
    if is_known {
        shared.strangers.is_none(number);
    }
    Ok(Request::from_parts(head, Full::new(body)))
}

/// Asks warp, and turns whatever is no answer of ours into a problem.
async fn route(
    shared: &Shared,
    request: Request<Full<Bytes>>,
    method: &Method,
    path: &str,
    known: Option<&'static str>,
) -> Response {
    // warp takes `/todos/` for `/todos`; the table knows one spelling, and so do metrics and the open routes.
    let Some(known) = known else {
        return render(&from_status(StatusCode::NOT_FOUND, method.as_str(), path));
    };
    let _on = shared.on.enter(RequestOn { method: method.to_string(), route: known });
    let what = Doing::Request { method: method.to_string(), route: known.to_owned() };
    let asked = doing(what, async { warp::service(shared.routes.clone()).call(request).await });
    let asked = AssertUnwindSafe(asked).catch_unwind();
    let response = match tokio::time::timeout(shared.limits.answer, asked).await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(_)) => return render(&Problem::new(ProblemCode::Internal, "a handler panicked; the log says where")),
        Err(_) => {
            return render(&Problem::new(
                ProblemCode::DeadlineExceeded,
                format!("no answer within {} s", shared.limits.answer.as_secs()),
            ));
        }
    };
    let is_problem =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    // What is not ready says so in its own words when it is asked to.
    let is_verdict = response.status() == StatusCode::SERVICE_UNAVAILABLE && (path == "/readyz" || path == "/healthz");
    if is_error && !is_problem && !is_verdict {
        render(&from_status(response.status(), method.as_str(), path))
    } else {
        response
    }
}

/// W3C's name for where a caller is in its trace.
const TRACEPARENT: &str = "traceparent";

/// The place of a request in its trace. Of several headers of a name none is right.
fn trace_of(headers: &HeaderMap) -> Trace {
    let one = |name: &str| only(headers, name)?.to_str().ok();
    spans::begin(one(TRACEPARENT), one("tracestate"))
}
