//! TCP connections to the upstream servers: pooled, pipelined, few (RFC 7766 section 6.2).
//!
//! A query of a TCP client takes the open connection with the least to do; another one is opened only when that
//! has much. Idle ones are closed after [`IDLE`].

use std::time::{Duration, Instant};

use super::servers::ServerId;
use super::sockets::Waiting;
use super::table::{Key, Slab};

/// Connections to one server: enough that a slow answer of 64 KB does not hold up the rest.
const PER_SERVER: usize = 4;
/// Queries on one connection before another one is opened.
const PIPELINED: usize = 32;
/// How long a connection without queries is kept (RFC 7766 section 6.2.3 leaves closing to the client).
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// How long a connection may say nothing at all before TCP counts as refused: packets to the port are dropped.
const SILENT_REFUSAL: Duration = Duration::from_secs(1);

/// One connection.
pub(super) struct Stream {
    pub server: ServerId,
    pub waiting: Vec<Waiting>,
    /// When a message last came.
    pub heard: Option<Instant>,
    /// Left a query unanswered for too long: it gets no more until a message comes.
    pub suspect: bool,
    idle_since: Instant,
}

/// The connections.
#[derive(Default)]
pub(super) struct Streams {
    pub open: Slab<Stream>,
}

impl Streams {
    /// A connection to send on, and whether it has to be opened first. `exhausted`: no fresh one can be had.
    pub fn draw(&mut self, server: ServerId, exhausted: bool, now: Instant) -> Option<(Key, bool)> {
        let mut count = 0;
        let mut least: Option<(usize, Key)> = None;
        for (key, stream) in self.open.iter().filter(|(_, stream)| stream.server == server && !stream.suspect) {
            count += 1;
            let load = stream.waiting.len();
            if least.is_none_or(|(other, _)| load < other) {
                least = Some((load, key));
            }
        }
        match least {
            Some((load, key)) if load < PIPELINED || count >= PER_SERVER || exhausted => Some((key, false)),
            _ if exhausted => None,
            _ => {
                let stream = Stream { server, waiting: Vec::new(), heard: None, suspect: false, idle_since: now };
                Some((self.open.insert(stream), true))
            }
        }
    }

    /// A query no longer waits on its connection.
    pub fn release(&mut self, key: Key, id: u16, now: Instant) {
        if let Some(stream) = self.open.get_mut(key) {
            stream.waiting.retain(|waiting| waiting.id != id);
            stream.idle_since = now;
        }
    }

    /// A query on a connection went unanswered for longer than it should have. Returns whether the server seems to
    /// refuse TCP without saying so.
    pub fn missed(&mut self, key: Key, sent: Instant, now: Instant) -> bool {
        let Some(stream) = self.open.get_mut(key) else { return false };
        stream.suspect |= stream.heard.is_none_or(|heard| heard < sent);
        stream.heard.is_none() && now.saturating_duration_since(sent) >= SILENT_REFUSAL
    }

    /// Forgets the connections that have been idle too long, or all idle ones, and lists them in `closed`.
    pub fn sweep(&mut self, all: bool, now: Instant, closed: &mut Vec<Key>) {
        let idle = |stream: &Stream| {
            stream.waiting.is_empty() && (all || now.saturating_duration_since(stream.idle_since) >= IDLE)
        };
        let from = closed.len();
        closed.extend(self.open.iter().filter(|(_, stream)| idle(stream)).map(|(key, _)| key));
        for key in &closed[from..] {
            self.open.remove(*key);
        }
    }
}
