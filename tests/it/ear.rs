//! A listener to the event stream, as a client would write one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::harness::{House, PATIENCE};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    pub id: u64,
    pub kind: String,
    pub data: Value,
}

/// A connection to `/events`.
pub struct Ear {
    body: Incoming,
    text: String,
    heard: VecDeque<Heard>,
    /// What was heard and not waited for.
    passed: Vec<Heard>,
    /// The id a client would send when it comes back.
    pub last_id: Option<u64>,
    pub status: u16,
}

impl Ear {
    pub async fn at(house: &House, query: &str, last: Option<u64>) -> Self {
        Self::connect(house.address, &house.token, query, last.map(|last| last.to_string()).as_deref()).await
    }

    pub async fn connect(address: SocketAddr, token: &str, query: &str, last: Option<&str>) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("shakes hands");
        tokio::spawn(connection);
        let mut request = hyper::Request::get(format!("/events{query}"))
            .header("host", address.to_string())
            .header("authorization", format!("Bearer {token}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = sender.send_request(request).await.expect("is answered");
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or("").to_owned();
        assert_eq!(status == 200, kind == "text/event-stream", "{status} {kind}");
        Self {
            body: response.into_body(),
            text: String::new(),
            heard: VecDeque::new(),
            passed: Vec::new(),
            last_id: None,
            status,
        }
    }

    /// Whether anything was heard and passed over that fits.
    pub fn heard_before(&self, fits: impl Fn(&Heard) -> bool) -> bool {
        self.passed.iter().any(fits)
    }

    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Heard> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("something is heard in time")
    }

    /// The next event within a time, if there is one.
    pub async fn within(&mut self, limit: Duration) -> Option<Heard> {
        tokio::time::timeout(limit, self.read()).await.ok().flatten()
    }

    /// Waits for an event that fits.
    pub async fn hear(&mut self, what: &str, fits: impl Fn(&Heard) -> bool) -> Heard {
        let begun = std::time::Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "never heard: {what}");
            let heard = self.next().await.unwrap_or_else(|| panic!("the stream ended before: {what}"));
            if fits(&heard) {
                return heard;
            }
            self.passed.push(heard);
        }
    }

    async fn read(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                self.last_id = Some(heard.id);
                return Some(heard);
            }
            let frame = self.body.frame().await?.ok()?;
            let Ok(bytes) = frame.into_data() else { continue };
            self.text.push_str(std::str::from_utf8(&bytes).expect("events are text"));
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
                };
                let id = field("id").and_then(|id| id.parse().ok()).expect("every block has an id");
                match field("event") {
                    Some(kind) => {
                        let data = serde_json::from_str(&field("data").expect("data")).expect("data is JSON");
                        self.heard.push_back(Heard { id, kind, data });
                    }
                    None => self.last_id = Some(id),
                }
            }
        }
    }
}
