//! Many listeners to `GET /events` in one process, and how long an event takes to reach each: `bench/live` runs it.
//!
//! `live_clients ADDRESS TOKEN_FILE SESSION CLIENTS EVENTS PER_SECOND`
//!
//! Opens CLIENTS streams of `session.updated`, waits for the hello of each and prints `connected`. After a line on its
//! input it posts EVENTS notes to the session, and prints one line of JSON when all have come everywhere, or 30 s after
//! the last. A delay is from just before the request of a note is written to the moment this program has read the event
//! from that client's socket. One thread reads all sockets with epoll on the same machine, so its own turn is in the
//! delay, and what is printed is the most that the daemon can have taken. A client holds a socket and what is left of a
//! line, nothing else.

use std::collections::BTreeSet;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const HELLO: Duration = Duration::from_secs(60);
const LATE: Duration = Duration::from_secs(30);
const TURN_MS: i32 = 100;
const EPOLLIN: u32 = 1;
const EPOLL_CTL_ADD: i32 = 1;

/// As the kernel wants it; packed on this one architecture.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
struct Ready {
    events: u32,
    client: u64,
}

unsafe extern "C" {
    fn epoll_create1(flags: i32) -> i32;
    fn epoll_ctl(epoll: i32, what: i32, socket: i32, ready: *mut Ready) -> i32;
    fn epoll_wait(epoll: i32, ready: *mut Ready, most: i32, timeout_ms: i32) -> i32;
}

struct Client {
    stream: TcpStream,
    rest: Vec<u8>,
}

/// An event that came: whose, which, when.
struct Arrival {
    client: u64,
    id: u64,
    at: Instant,
}

struct Clients {
    all: Vec<Client>,
    epoll: i32,
    greeted: usize,
    arrivals: Vec<Arrival>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, token, session, clients, events, per_second] = args.as_slice() else {
        eprintln!("live_clients ADDRESS TOKEN_FILE SESSION CLIENTS EVENTS PER_SECOND");
        std::process::exit(64);
    };
    let token = std::fs::read_to_string(token).expect("the token reads");
    let head = format!("Host: {address}\r\nAuthorization: Bearer {}\r\n", token.trim());
    let [count, events, per_second] =
        [clients, events, per_second].map(|number| number.parse::<usize>().expect("a number"));
    let mut clients = Clients::connect(address, &head, count);
    println!("connected");
    std::io::stdin().lock().read_line(&mut String::new()).expect("a line says go");
    let notes = Notes { address: address.clone(), head, session: session.clone(), per_second };
    let posting = std::thread::spawn(move || notes.post(events));
    clients.read_until(Instant::now() + LATE + Duration::from_secs((events / per_second) as u64), |clients| {
        clients.arrivals.len() >= count * events
    });
    report(&clients.arrivals, &posting.join().expect("the notes are posted"), count);
}

impl Clients {
    fn connect(address: &str, head: &str, count: usize) -> Self {
        // SAFETY: takes a number, gives a descriptor.
        let epoll = unsafe { epoll_create1(0) };
        let mut clients = Self { all: Vec::new(), epoll, greeted: 0, arrivals: Vec::new() };
        let request = format!("GET /events?types=session.updated HTTP/1.1\r\n{head}Accept: text/event-stream\r\n\r\n");
        for number in 0..count {
            let mut stream = TcpStream::connect(address).expect("the daemon takes connections");
            stream.write_all(request.as_bytes()).expect("the daemon takes a request");
            stream.set_nonblocking(true).expect("nonblocking");
            let mut ready = Ready { events: EPOLLIN, client: number as u64 };
            // SAFETY: the descriptors are open, and the kernel copies `ready`.
            let added = unsafe { epoll_ctl(epoll, EPOLL_CTL_ADD, stream.as_raw_fd(), &raw mut ready) };
            assert_eq!(added, 0, "epoll takes the socket");
            clients.all.push(Client { stream, rest: Vec::new() });
        }
        clients.read_until(Instant::now() + HELLO, |clients| clients.greeted == count);
        assert_eq!(clients.greeted, count, "every client is greeted");
        clients
    }

    fn read_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) {
        let mut ready = [Ready { events: 0, client: 0 }; 1024];
        while !done(self) && Instant::now() < end {
            // SAFETY: the kernel writes at most as many entries as the array has.
            let count = unsafe { epoll_wait(self.epoll, ready.as_mut_ptr(), ready.len() as i32, TURN_MS) };
            for entry in ready.iter().take(usize::try_from(count).unwrap_or(0)) {
                self.on_ready(entry.client);
            }
        }
    }

    fn on_ready(&mut self, number: u64) {
        let client = &mut self.all[number as usize];
        let mut chunk = [0; 16 * 1024];
        let read = match client.stream.read(&mut chunk) {
            Ok(0) => panic!("the daemon closed the stream of client {number}"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("client {number}: {error}"),
        };
        let at = Instant::now();
        client.rest.extend_from_slice(&chunk[..read]);
        if client.rest.starts_with(b"HTTP/1.1 ") && !client.rest.starts_with(b"HTTP/1.1 200") {
            panic!("GET /events: {}", String::from_utf8_lossy(&client.rest[..client.rest.len().min(200)]));
        }
        while let Some(end) = client.rest.windows(2).position(|two| two == b"\n\n") {
            let block = String::from_utf8_lossy(&client.rest[..end]).into_owned();
            client.rest.drain(..end + 2);
            if line(&block, "event:") == Some("hello") {
                self.greeted += 1;
            } else if line(&block, "event:") == Some("session.updated") {
                let id = line(&block, "id:").and_then(|id| id.parse().ok()).expect("an event has an id");
                self.arrivals.push(Arrival { client: number, id, at });
            }
        }
        client.rest.shrink_to(256);
    }
}

/// What a line of an event says after its name.
fn line<'a>(block: &'a str, name: &str) -> Option<&'a str> {
    block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Where notes go, and how often.
struct Notes {
    address: String,
    head: String,
    session: String,
    per_second: usize,
}

impl Notes {
    /// Posts so many, one at a time, and says when each was begun.
    fn post(&self, count: usize) -> Vec<Instant> {
        let mut stream = TcpStream::connect(&self.address).expect("the daemon takes connections");
        stream.set_nodelay(true).expect("nodelay");
        let begun = Instant::now();
        (0..count)
            .map(|number| {
                let due = begun + Duration::from_millis((number * 1000 / self.per_second) as u64);
                while Instant::now() < due {
                    std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
                }
                self.note(&mut stream, number)
            })
            .collect()
    }

    fn note(&self, stream: &mut TcpStream, number: usize) -> Instant {
        let body = format!("{{\"events\":[{{\"kind\":\"note\",\"text\":\"note {number}\"}}]}}");
        let kind = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let request = format!("POST /sessions/{}/events HTTP/1.1\r\n{}{kind}\r\n{body}", self.session, self.head);
        let at = Instant::now();
        stream.write_all(request.as_bytes()).expect("sends");
        let mut answer = [0; 16 * 1024];
        // The answer is small and comes in one piece; only its status is looked at.
        let read = stream.read(&mut answer).expect("the daemon answers");
        let text = String::from_utf8_lossy(&answer[..read]);
        assert!(text.starts_with("HTTP/1.1 2"), "POST /sessions/{}/events: {text}", self.session);
        at
    }
}

/// The k-th note is the k-th id: notes are posted one at a time, and ids only grow.
fn report(arrivals: &[Arrival], posted: &[Instant], clients: usize) {
    let ids: Vec<u64> = arrivals.iter().map(|arrival| arrival.id).collect::<BTreeSet<_>>().into_iter().collect();
    if ids.len() != posted.len() {
        println!("{{\"fault\": \"{} notes were posted and {} events came\"}}", posted.len(), ids.len());
        return;
    }
    let mut seen = BTreeSet::new();
    let mut delays = Vec::new();
    for arrival in arrivals.iter().filter(|arrival| seen.insert((arrival.client, arrival.id))) {
        let note = ids.binary_search(&arrival.id).expect("is one of them");
        delays.push(arrival.at.saturating_duration_since(posted[note]).as_secs_f64() * 1e3);
    }
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays[((delays.len() as f64 * share) as usize).min(delays.len() - 1)];
    println!(
        "{{\"clients\": {clients}, \"events\": {}, \"lost\": {}, \"p50_ms\": {:.2}, \"p99_ms\": {:.2}, \"max_ms\": {:.2}}}",
        posted.len(),
        clients * posted.len() - delays.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
