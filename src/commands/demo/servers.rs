//! The demo's three HTTP servers: one port, three loopback addresses, three speeds.
//!
//! Each answers one request at a time on a thread of its own, which is plenty for a check twice a second
//! and a curious `curl`. The first can be told to fail: it then answers 503.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where the servers are and how long each takes, the fastest first. Linux has all of 127.0.0.0/8 on `lo`.
pub const SPEEDS: [(Ipv4Addr, Duration); 3] = [
    (Ipv4Addr::new(127, 0, 0, 1), Duration::from_millis(5)),
    (Ipv4Addr::new(127, 0, 0, 2), Duration::from_millis(40)),
    (Ipv4Addr::new(127, 0, 0, 3), Duration::from_millis(80)),
];

/// Tries for a port that is free on all three addresses; the first nearly always is.
const PORT_TRIES: usize = 32;

/// A request that is longer is not one of ours.
const MAX_REQUEST: u64 = 8 * 1024;

/// A client that sends nothing holds its server up no longer than this.
const CLIENT_PATIENCE: Duration = Duration::from_millis(250);

/// The running servers; dropping the value stops them.
pub struct Servers {
    port: u16,
    signals: Arc<Signals>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Signals {
    failing: AtomicBool,
    over: AtomicBool,
}

impl Servers {
    /// Starts them on a port that is free on all of their addresses.
    ///
    /// # Errors
    /// When there is no such port, or no such address (not Linux).
    pub fn start() -> Result<Servers, Error> {
        let (port, listeners) = bind()?;
        let mut servers = Servers { port, signals: Arc::default(), threads: Vec::new() };
        for (listener, (address, delay)) in listeners.into_iter().zip(SPEEDS) {
            let signals = Arc::clone(&servers.signals);
            let fastest = address == SPEEDS[0].0;
            let serve = move || {
                for stream in listener.incoming() {
                    if signals.over.load(Ordering::Relaxed) {
                        return;
                    }
                    let failing = fastest && signals.failing.load(Ordering::Relaxed);
                    // A client that breaks off is its own affair.
                    let _ = stream.and_then(|stream| respond(stream, address, delay, failing));
                }
            };
            servers.threads.push(std::thread::Builder::new().name(format!("demo-{address}")).spawn(serve)?);
        }
        Ok(servers)
    }

    /// The one port of all of them.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the fastest one fails from now on.
    pub fn fail_fastest(&self, failing: bool) {
        self.signals.failing.store(failing, Ordering::Relaxed);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.signals.over.store(true, Ordering::Relaxed);
        for (address, _) in SPEEDS {
            // Wakes the thread that waits for a client.
            let _ = TcpStream::connect((address, self.port));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn bind() -> Result<(u16, Vec<TcpListener>), Error> {
    let mut last = Error::from(ErrorKind::AddrInUse);
    for _ in 0..PORT_TRIES {
        let first = TcpListener::bind((SPEEDS[0].0, 0))?;
        let port = first.local_addr()?.port();
        let others: Result<Vec<TcpListener>, Error> =
            SPEEDS[1..].iter().map(|(address, _)| TcpListener::bind(SocketAddr::from((*address, port)))).collect();
        match others {
            Ok(others) => return Ok((port, [first].into_iter().chain(others).collect())),
            Err(error) if error.kind() == ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn respond(stream: TcpStream, address: Ipv4Addr, delay: Duration, failing: bool) -> Result<(), Error> {
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    let mut request = BufReader::new(&stream).take(MAX_REQUEST);
    let mut line = String::new();
    while request.read_line(&mut line)? > 0 && line != "\r\n" {
        line.clear();
    }
    std::thread::sleep(delay);
    let (status, body) = if failing {
        ("503 Service Unavailable", format!("{address} is out of order\n"))
    } else {
        ("200 OK", format!("{address}, {} ms\n", delay.as_millis()))
    };
    let length = body.len();
    write!(&stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(servers: &Servers, address: Ipv4Addr) -> String {
        let mut stream = TcpStream::connect((address, servers.port())).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: demo.example\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn all_answer_and_only_the_fastest_can_fail() {
        let servers = Servers::start().unwrap();
        for (address, _) in SPEEDS {
            assert!(get(&servers, address).starts_with("HTTP/1.1 200 "), "{address}");
        }
        servers.fail_fastest(true);
        assert!(get(&servers, SPEEDS[0].0).starts_with("HTTP/1.1 503 "));
        assert!(get(&servers, SPEEDS[1].0).starts_with("HTTP/1.1 200 "));
        servers.fail_fastest(false);
        assert!(get(&servers, SPEEDS[0].0).starts_with("HTTP/1.1 200 "));
    }
}
