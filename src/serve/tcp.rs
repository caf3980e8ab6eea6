//! TCP connections of clients: a bounded table of sockets, each driven by a [`Stream`]. TCP is no second choice:
//! it is served on every listener, and limits are what RFC 9210 section 4 advises (idle time, number, who gives way).
//!
//! Edge-triggered: a socket is read until it would block or its stream wants no more, and remembered as readable in
//! the second case. A slow client delays nobody: each connection gets a bounded burst a wake. Keys hold a
//! generation, so that a reply for a connection that is gone finds nobody.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use super::Limits;
use super::desk::{Desk, Taken};
use super::upstream::Client;
use crate::dns::stream::{HIGH_WATER, Stream};

/// Messages and reads of one connection in one wake.
const BURST: usize = 64;
/// Connections accepted at one listener in one wake.
const ACCEPT_BURST: usize = 32;
/// Connections at most whatever is configured: their tokens lie below the forwarder's.
const MOST_CONNECTIONS: usize = 1 << 20;
/// How long accepting rests when nobody can give way to a new connection: an edge-triggered listener does not remind.
pub(super) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Every connection.
pub(super) struct Connections {
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    open: usize,
    limits: Limits,
    first_token: usize,
    generation: u32,
    /// Slots with work left, or with replies to send.
    due: Vec<usize>,
    /// Those of the wake at hand, kept between wakes for its storage.
    serving: Vec<usize>,
    /// Not later than the earliest deadline of a stream.
    deadline: Option<Instant>,
}

struct Connection {
    key: u64,
    socket: TcpStream,
    stream: Stream,
    /// The last read did not say that nothing is left.
    readable: bool,
    is_due: bool,
}

/// How accepting ended.
pub(super) enum Accepted {
    /// Nobody waits any more.
    All,
    /// A burst was not enough.
    More,
    /// No descriptors, and none to be had: try again after [`ACCEPT_REST`].
    Rest,
}

impl Connections {
    pub fn new(limits: Limits, first_token: usize) -> Connections {
        Connections {
            slots: Vec::new(),
            free: Vec::new(),
            open: 0,
            limits: limits.bounded(),
            first_token,
            generation: 0,
            due: Vec::new(),
            serving: Vec::new(),
            deadline: None,
        }
    }

    /// Takes other bounds over: the idle time for new connections, the number with the next one.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits.bounded();
    }

    pub fn len(&self) -> usize {
        self.open
    }

    /// Accepts who waits at a listener.
    pub fn accept(&mut self, listener: &TcpListener, registry: &Registry, desk: &mut Desk, now: Instant) -> Accepted {
        // One gave way for whoever is next.
        let mut gave_way = false;
        for _ in 0..ACCEPT_BURST {
            match listener.accept() {
                Ok((socket, _)) => {
                    gave_way = false;
                    desk.totals.tcp_accepted.add();
                    while self.open >= self.limits.tcp_connections {
                        self.evict(registry, desk);
                    }
                    if self.add(socket, registry, now).is_err() {
                        desk.totals.tcp_accept_errors.add();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Accepted::All,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(_) => {
                    desk.totals.tcp_accept_errors.add();
                    // Where that did not help, it is not for want of a descriptor of har's own.
                    if gave_way || !self.evict(registry, desk) {
                        return Accepted::Rest;
                    }
                    gave_way = true;
                }
            }
        }
        Accepted::More
    }

    fn add(&mut self, mut socket: TcpStream, registry: &Registry, now: Instant) -> io::Result<()> {
        // Without it replies wait for the client's delayed acknowledgement; a failure costs only that.
        let _ = socket.set_nodelay(true);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let token = Token(self.first_token + slot);
        if let Err(error) = registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE) {
            self.free.push(slot);
            return Err(error);
        }
        self.generation = self.generation.wrapping_add(1);
        let key = u64::from(self.generation) << 32 | slot as u64;
        let stream = Stream::new(self.limits.tcp_idle, now);
        self.note_deadline(stream.deadline());
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Connection { key, socket, stream, readable: true, is_due: false });
            self.open += 1;
        }
        self.mark(slot);
        Ok(())
    }

    /// The longest silent one gives way, one that waits for nothing before one that waits for an answer. `false` when
    /// there is none.
    fn evict(&mut self, registry: &Registry, desk: &mut Desk) -> bool {
        let open = self.slots.iter().enumerate().filter_map(|(slot, place)| Some((slot, place.as_ref()?)));
        let oldest = open.min_by_key(|(_, connection)| {
            (connection.stream.pending() > 0, connection.stream.last_active(), connection.key)
        });
        let Some((slot, _)) = oldest else { return false };
        desk.totals.tcp_evicted.add();
        self.close(slot, registry, desk);
        true
    }

    /// A socket became readable, writable or broke.
    pub fn event(&mut self, token: Token) {
        let slot = token.0.wrapping_sub(self.first_token);
        if let Some(connection) = self.slots.get_mut(slot).and_then(Option::as_mut) {
            // An error shows up by reading, too.
            connection.readable = true;
            self.mark(slot);
        }
    }

    /// Queues a reply (`None`: there is none) for a connection, if that is still there.
    pub fn settle(&mut self, key: u64, reply: Option<&[u8]>, now: Instant) {
        let slot = (key & u64::from(u32::MAX)) as usize;
        let place = self.slots.get_mut(slot).and_then(Option::as_mut);
        let Some(connection) = place.filter(|connection| connection.key == key) else { return };
        match reply {
            Some(reply) => connection.stream.queue_reply(reply, now),
            None => connection.stream.discard(now),
        }
        self.mark(slot);
    }

    /// Takes no more input from anybody; what was asked is still answered.
    pub fn end_input(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            if let Some(connection) = self.slots.get_mut(slot).and_then(Option::as_mut) {
                connection.stream.end_of_input(now);
                self.mark(slot);
            }
        }
    }

    /// Serves every connection that has work, each for a burst.
    pub fn serve(&mut self, registry: &Registry, desk: &mut Desk, buffer: &mut [u8], now: Instant) {
        let mut serving = std::mem::take(&mut self.serving);
        // What becomes due meanwhile waits for the next call.
        std::mem::swap(&mut self.due, &mut serving);
        for slot in serving.drain(..) {
            let Some(connection) = self.slots.get_mut(slot).and_then(Option::as_mut) else { continue };
            connection.is_due = false;
            let more = connection.serve(desk, buffer, now);
            let deadline = connection.stream.deadline();
            match more {
                Err(_) => self.close(slot, registry, desk),
                Ok(_) if connection.stream.is_finished() => self.close(slot, registry, desk),
                Ok(more) => {
                    self.note_deadline(deadline);
                    if more {
                        self.mark(slot);
                    }
                }
            }
        }
        self.serving = serving;
    }

    /// Whether [`Connections::serve`] has work left.
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// When [`Connections::expire`] is to be called: then or earlier something may be over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Closes what is over. Deadlines mostly move away: the whole table is looked at once the earliest of them
    /// has come, not at every wake.
    pub fn expire(&mut self, registry: &Registry, desk: &mut Desk, now: Instant) {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        self.deadline = None;
        for slot in 0..self.slots.len() {
            let Some(connection) = self.slots.get_mut(slot).and_then(Option::as_mut) else { continue };
            if connection.stream.expire(now) {
                desk.totals.tcp_expired.add();
                self.close(slot, registry, desk);
            } else {
                let deadline = connection.stream.deadline();
                self.note_deadline(deadline);
            }
        }
    }

    fn close(&mut self, slot: usize, registry: &Registry, desk: &mut Desk) {
        let Some(mut connection) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        // Closing takes it out of epoll by itself; there is nothing to do about a failure.
        let _ = registry.deregister(&mut connection.socket);
        self.open -= 1;
        self.free.push(slot);
        desk.forget(connection.key);
    }

    fn mark(&mut self, slot: usize) {
        if let Some(connection) = self.slots.get_mut(slot).and_then(Option::as_mut)
            && !std::mem::replace(&mut connection.is_due, true)
        {
            self.due.push(slot);
        }
    }

    fn note_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = [self.deadline, deadline].into_iter().flatten().min();
    }
}

impl Connection {
    /// Reads, answers and writes within a burst. `true` when there is more to do at once.
    fn serve(&mut self, desk: &mut Desk, buffer: &mut [u8], now: Instant) -> io::Result<bool> {
        let mut more = true;
        for _ in 0..BURST {
            if let Some(message) = self.stream.next_message(now) {
                desk.totals.tcp_received.add();
                match desk.take(Client::Tcp { connection: self.key }, message, now) {
                    Taken::Reply => self.stream.queue_reply(&desk.reply, now),
                    Taken::Nothing => self.stream.discard(now),
                    Taken::Later => {}
                }
            } else if self.readable && self.stream.wants_read() {
                self.read(buffer, now)?;
            } else {
                more = false;
                break;
            }
        }
        let held_back = self.stream.output().len() >= HIGH_WATER;
        self.write(now)?;
        Ok(more || held_back && self.stream.output().len() < HIGH_WATER)
    }

    fn read(&mut self, buffer: &mut [u8], now: Instant) -> io::Result<()> {
        match self.socket.read(buffer) {
            Ok(0) => {
                self.readable = false;
                self.stream.end_of_input(now);
            }
            Ok(length) => self.stream.feed(buffer.get(..length).unwrap_or_default(), now),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        while self.stream.wants_write() {
            match self.socket.write(self.stream.output()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => self.stream.sent(length, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Limits {
    fn bounded(self) -> Limits {
        Limits { tcp_connections: self.tcp_connections.clamp(1, MOST_CONNECTIONS), ..self }
    }
}
