//! TCP connections to the upstream servers: pooled, pipelined, few (RFC 7766 section 6.2).
//!
//! Many servers answer the queries of a connection one after another, so that each waits for the slowest in front of
//! it. A query therefore takes a connection that owes nothing, or a fresh one while there are few; only then does
//! it stand behind others. A query that was given up leaves its place on the connection behind, until its answer
//! comes late: it may still be in the way. Idle connections are closed after [`IDLE`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::servers::{ServerId, TcpLimits};
use super::sockets::Waiting;
use super::table::{Key, Slab};

/// Connections to one server on which answers keep coming: a burst goes out in few writes.
const FEW: usize = 4;
/// Connections to one server with those that do not move. Servers take ten from everybody by default (unbound), or
/// twenty (dnsmasq).
const MOST: usize = 8;
/// Without a word for so long, a connection that owes an answer keeps the next query waiting.
const STALLED: Duration = Duration::from_millis(50);
/// Answers that a connection may owe to queries that are gone before it gets no more: some never come.
const MOST_GONE: usize = 32;
/// How long a connection without queries is kept (RFC 7766 section 6.2.3 leaves closing to the client).
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// One connection.
pub(super) struct Stream {
    pub server: ServerId,
    /// What an answer may still come for, in the order of sending; of queries that are gone as well.
    pub waiting: Vec<Waiting>,
    /// How many of them are gone.
    gone: usize,
    /// Queries that it was given, and answers that came.
    given: u32,
    pub answered: u32,
    opened: Instant,
    /// When an answer last came.
    heard: Option<Instant>,
    /// Since when it has owed something without a word.
    quiet_since: Instant,
    idle_since: Instant,
}

impl Stream {
    fn is_stalled(&self, now: Instant) -> bool {
        !self.waiting.is_empty() && now.saturating_duration_since(self.quiet_since) >= STALLED
    }

    /// Whether nobody waits on it.
    fn is_deserted(&self) -> bool {
        self.waiting.len() == self.gone
    }

    /// How many answers it was good for, when the server closed it right after one with others still asked for.
    pub fn ended_after(&self, now: Instant) -> Option<u32> {
        let heard = self.heard.filter(|_| !self.is_deserted())?;
        // After a longer silence it was an idle connection that the query just missed.
        (now.saturating_duration_since(heard) < STALLED).then_some(self.answered)
    }
}

/// Where a query may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Onto an open connection that owes nothing.
    Free(Key),
    /// Onto an open connection, behind others.
    Behind(Key),
    /// Onto a fresh connection.
    Fresh,
    /// Onto a fresh connection in place of one on which nobody waits any more.
    Instead(Key),
}

/// The connections.
#[derive(Default)]
pub(super) struct Streams {
    pub open: Slab<Stream>,
    /// Queries that wait for room at a server, the oldest first.
    pub held: VecDeque<(ServerId, Key)>,
}

impl Streams {
    /// A query waits for room no longer.
    pub fn release_held(&mut self, key: Key) {
        self.held.retain(|(_, held)| *held != key);
    }

    /// Where a query to a server may go. `exhausted`: no fresh connection can be had. `None`: there is no room.
    pub fn place(&self, server: ServerId, limits: TcpLimits, exhausted: bool, now: Instant) -> Option<Place> {
        let (mut count, mut moving) = (0, 0);
        let mut deserted = None;
        let mut least: Option<((bool, usize), Key)> = None;
        for (key, stream) in self.of(server) {
            count += 1;
            let full = stream.given >= limits.queries || stream.gone >= MOST_GONE;
            if stream.is_deserted() && (full || stream.gone > 0) {
                deserted = Some(key);
            }
            let load = (stream.is_stalled(now), stream.waiting.len());
            moving += usize::from(!full && !load.0);
            if !full && least.is_none_or(|(other, _)| load < other) {
                least = Some((load, key));
            }
        }
        let more = count < limits.streams.clamp(1, MOST) && moving < FEW;
        match (least, deserted) {
            (Some(((_, 0), key)), _) => Some(Place::Free(key)),
            _ if !exhausted && more => Some(Place::Fresh),
            (_, Some(key)) if !exhausted => Some(Place::Instead(key)),
            (Some((_, key)), _) => Some(Place::Behind(key)),
            (None, _) => None,
        }
    }

    /// A connection that is to be opened.
    pub fn enter(&mut self, server: ServerId, now: Instant) -> Key {
        self.open.insert(Stream {
            server,
            waiting: Vec::new(),
            gone: 0,
            given: 0,
            answered: 0,
            opened: now,
            heard: None,
            quiet_since: now,
            idle_since: now,
        })
    }

    /// A query was sent on a connection.
    pub fn give(&mut self, key: Key, waiting: Waiting, now: Instant) {
        let Some(stream) = self.open.get_mut(key) else { return };
        if stream.waiting.is_empty() {
            stream.quiet_since = now;
        }
        stream.waiting.push(waiting);
        stream.given = stream.given.saturating_add(1);
    }

    /// An answer came. `late`: to a query that is gone.
    pub fn heard(&mut self, key: Key, id: u16, late: bool, now: Instant) {
        let Some(stream) = self.open.get_mut(key) else { return };
        stream.waiting.retain(|waiting| waiting.id != id);
        stream.gone -= usize::from(late);
        stream.answered = stream.answered.saturating_add(1);
        (stream.heard, stream.quiet_since, stream.idle_since) = (Some(now), now, now);
    }

    /// A query no longer waits for its answer.
    pub fn give_up(&mut self, key: Key, id: u16, now: Instant) {
        let Some(stream) = self.open.get_mut(key) else { return };
        if stream.waiting.iter().any(|waiting| waiting.id == id) {
            stream.gone += 1;
            stream.idle_since = now;
        }
    }

    /// Whether the silence of a connection looks like a port whose packets are dropped: it never said a word, and
    /// no other one of its server has since it was opened.
    pub fn looks_dropped(&self, key: Key) -> bool {
        let Some(silent) = self.open.get(key) else { return false };
        silent.heard.is_none() && !self.of(silent.server).any(|(_, stream)| stream.heard >= Some(silent.opened))
    }

    /// Whether a query waits behind another one for which no answer comes.
    pub fn is_behind(&self, key: Key, id: u16, now: Instant) -> bool {
        let Some(stream) = self.open.get(key) else { return false };
        stream.is_stalled(now) && stream.waiting.first().is_some_and(|first| first.id != id)
    }

    /// Connections of a server on which answers have come.
    pub fn proven(&self, server: ServerId) -> usize {
        self.of(server).filter(|(_, stream)| stream.heard.is_some()).count()
    }

    fn of(&self, server: ServerId) -> impl Iterator<Item = (Key, &Stream)> {
        self.open.iter().filter(move |(_, stream)| stream.server == server)
    }

    /// Forgets the connections that have been idle too long, or all idle ones, and lists them in `closed`.
    pub fn sweep(&mut self, all: bool, now: Instant, closed: &mut Vec<Key>) {
        let idle =
            |stream: &Stream| stream.is_deserted() && (all || now.saturating_duration_since(stream.idle_since) >= IDLE);
        let from = closed.len();
        closed.extend(self.open.iter().filter(|(_, stream)| idle(stream)).map(|(key, _)| key));
        for key in &closed[from..] {
            self.open.remove(*key);
        }
    }
}
