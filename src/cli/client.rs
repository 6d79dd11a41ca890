//! A small HTTP client for the daemon: one request per connection, over TCP or the unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long one call may take: the longest a work call may wait, and room.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Where the daemon is.
#[derive(Debug, Clone)]
enum Place {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
}

/// A client; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    place: Place,
    token: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: hyper::HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; `null` when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// Over TCP, with the token if the daemon wants one.
    #[must_use]
    pub fn tcp(address: std::net::SocketAddr, token: Option<String>) -> Self {
        Self { place: Place::Tcp(address), token }
    }

    /// Over the unix socket.
    #[must_use]
    pub fn unix(socket: &Path) -> Self {
        Self { place: Place::Unix(socket.to_owned()), token: None }
    }

    /// Where it connects to, over TCP.
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        match &self.place {
            Place::Tcp(address) => Some(*address),
            Place::Unix(_) => None,
        }
    }

    /// For the daemon on a data directory; the error says what is missing and the way out.
    pub fn of_data_dir(data_dir: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = data_dir.join(name);
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let address = read("address").map_err(|error| {
            format!(
                "no daemon runs on {} ({error}); start one with `slugline serve`, or name another with --data-dir",
                data_dir.display()
            )
        })?;
        let address = address
            .trim()
            .parse()
            .map_err(|error| format!("{} holds no address: {error}", data_dir.join("address").display()))?;
        Ok(Self::tcp(address, read("token").ok().map(|token| token.trim().to_owned())))
    }

    /// `POST` of a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.send(Method::POST, path, &[(header::CONTENT_TYPE.as_str(), "application/json")], body.to_string().into())
            .await
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(Method::DELETE, path, &[], Bytes::new()).await
    }

    /// Any request.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Reply> {
        let host = match &self.place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).context("not a request")?;
        let call = async {
            match &self.place {
                Place::Tcp(address) => {
                    call(
                        TcpStream::connect(address).await.with_context(|| format!("no daemon answers on {address}"))?,
                        request,
                    )
                    .await
                }
                Place::Unix(socket) => {
                    call(
                        UnixStream::connect(socket)
                            .await
                            .with_context(|| format!("no daemon answers on {}", socket.display()))?,
                        request,
                    )
                    .await
                }
            }
        };
        tokio::time::timeout(CALL_LIMIT, call).await.context("the daemon did not answer in time")?
    }

    /// Asks for work and follows the operation until it has ended; `progress` is told each phase as it begins.
    pub async fn work(&self, body: &Value, mut progress: impl FnMut(&str)) -> anyhow::Result<Value> {
        let reply = self.post("/todos/work", body).await?;
        if reply.status != StatusCode::ACCEPTED.as_u16() {
            return order(&reply);
        }
        let id = reply.json()["id"].as_str().context("an operation without an id")?.to_owned();
        loop {
            let operation = self.get(&format!("/operations/{id}")).await?.json();
            progress(operation["phase"].as_str().unwrap_or("waiting"));
            match operation["state"].as_str() {
                Some("queued" | "running") => tokio::time::sleep(Duration::from_millis(250)).await,
                Some("succeeded") => return Ok(operation["result"].clone()),
                _ => bail!("operation {id} ended: {}", operation["problem"]),
            }
        }
    }
}

fn order(reply: &Reply) -> anyhow::Result<Value> {
    if reply.status == StatusCode::OK.as_u16() {
        Ok(reply.json())
    } else {
        bail!("the daemon answered {}: {}", reply.status, reply.text())
    }
}

async fn call(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Reply> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    driver.abort();
    Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
}
