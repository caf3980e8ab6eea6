//! SHELL of the forwarder: the sockets to the upstream servers, UDP and TCP.
//!
//! Every decision is made by [`crate::dns::inflight`]; this file opens, sends, receives, closes and reports
//! back, and owns the random numbers and the buffers. It promises never to block, to do a bounded amount of
//! work for each call, and to treat a socket's error like readiness: a refused connected UDP socket shows up
//! as an error, not as readable. UDP ports are drawn at random by the kernel, which does so for a bind to port 0 and,
//! by the same function, for a connect of a socket that was not bound.

mod connection;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::dns::inflight::{Action, Failure, InFlight, Key};
pub use crate::dns::inflight::{Books, Client, Listed, Named, Route, ServerCounters, ServerState, Settings};
use crate::dns::wire;
use connection::Connection;

/// Datagrams read from one socket for one event; the rest waits for [`Forwarder::expire`], which is then due at once.
const BURST: usize = 64;
/// Random numbers fetched from the kernel at once.
const RANDOM_BLOCK: usize = 256;

/// The forwarder: queries in, adapted replies out.
pub struct Forwarder {
    core: InFlight,
    registry: Registry,
    first_token: usize,
    source: Option<IpAddr>,
    /// By slot of the core's key: UDP sockets have even tokens, connections odd ones.
    sockets: Vec<Option<(Key, UdpSocket)>>,
    connections: Vec<Option<(Key, Connection)>>,
    random: Random,
    buffer: Box<[u8]>,
    /// Sockets and connections that had more than a burst.
    unfinished: Vec<usize>,
    /// Connections with queries that wait for [`Forwarder::flush`].
    unflushed: Vec<Key>,
    /// The time of the last call.
    last: Option<Instant>,
    /// Whether there was a call since [`Forwarder::has_worked`] was asked.
    worked: bool,
}

impl Forwarder {
    /// A forwarder that registers its sockets under `first_token` and the tokens above it. `source`: the local
    /// address to ask servers of its family from.
    pub fn new(settings: &Settings, source: Option<IpAddr>, registry: Registry, first_token: usize) -> Forwarder {
        Forwarder {
            core: InFlight::new(settings),
            registry,
            first_token,
            source,
            sockets: Vec::new(),
            connections: Vec::new(),
            random: Random::default(),
            buffer: vec![0; wire::MAX_MESSAGE].into(),
            unfinished: Vec::new(),
            unflushed: Vec::new(),
            last: None,
            worked: true,
        }
    }

    /// Takes over new server lists and limits; queries under way survive, records of servers that stay are kept.
    pub fn reconfigure(&mut self, settings: &Settings, source: Option<IpAddr>, now: Instant) {
        self.core.reconfigure(settings);
        if self.source != source {
            self.source = source;
            self.renew(now);
        }
    }

    /// Drops every socket and sends what is under way anew: the host's addresses or routes changed, or it was suspended.
    pub fn renew(&mut self, now: Instant) {
        self.core.renew(now, &mut self.random.source());
        self.execute(now);
    }

    /// Forwards a query to the servers of `route` (0 = the general ones).
    pub fn submit(
        &mut self,
        client: Client,
        query: &wire::Query<'_>,
        route: u16,
        named: Option<Named<'_>>,
        now: Instant,
    ) {
        self.core.submit(client, query, route, named, now, &mut self.random.source());
        self.execute(now);
    }

    /// Serves a socket whose token is `first_token` or above: readable, writable or in error.
    pub fn event(&mut self, event: &mio::event::Event, now: Instant) {
        if let Some(index) = event.token().0.checked_sub(self.first_token) {
            self.serve(index, now);
        }
    }

    fn serve(&mut self, index: usize, now: Instant) {
        if index.is_multiple_of(2) {
            self.receive(index, now)
        } else {
            self.serve_connection(index, now)
        }
        self.execute(now);
    }

    /// When [`Forwarder::expire`] has to be called; in the past when it is due now.
    pub fn deadline(&self) -> Option<Instant> {
        let is_due = !self.unfinished.is_empty() || self.core.has_replies();
        if is_due { self.last } else { self.core.deadline() }
    }

    /// Retransmits, gives up and closes what is due, and goes on with what was left of a burst.
    pub fn expire(&mut self, now: Instant) {
        for index in std::mem::take(&mut self.unfinished) {
            self.serve(index, now);
        }
        self.core.expire(now, &mut self.random.source());
        self.execute(now);
    }

    /// Ends every query with the best there is.
    pub fn end_all(&mut self, now: Instant) {
        self.core.end_all(now);
        self.execute(now);
    }

    /// Sends what connections were given since the last call: the queries of one wake leave in one write each. To be
    /// called before waiting; a failure may leave replies behind.
    pub fn flush(&mut self, now: Instant) {
        // Most wakes have none, and to look costs less than to call.
        if !self.unflushed.is_empty() {
            self.flush_all(now);
        }
    }

    fn flush_all(&mut self, now: Instant) {
        while let Some(key) = self.unflushed.pop() {
            let Some(connection) = get(&mut self.connections, key) else { continue };
            if connection.flush().is_err() {
                // It may have been closed behind answers that are still to be read.
                self.serve_connection(key.slot as usize * 2 + 1, now);
                self.execute(now);
            }
        }
    }

    /// Whether [`Forwarder::next_reply`] has one.
    pub fn has_replies(&self) -> bool {
        self.core.has_replies()
    }

    /// The next reply, ready to send: the client's ID, cut to its UDP limit, no length prefix.
    pub fn next_reply(&mut self) -> Option<(Client, &[u8])> {
        self.core.next_reply()
    }

    /// A TCP client went away: what it asked is dropped.
    pub fn forget(&mut self, connection: u64) {
        // Before the first call with a time there is nothing to forget.
        let Some(now) = self.last else { return };
        self.core.forget(connection, now);
        self.execute(now);
    }

    /// Queries under way.
    pub fn under_way(&self) -> usize {
        self.core.under_way()
    }

    /// Whether [`Forwarder::books`] may tell something new since this was last asked.
    pub fn has_worked(&mut self) -> bool {
        std::mem::take(&mut self.worked)
    }

    /// What became of the queries so far.
    pub fn books(&self) -> Books {
        self.core.books()
    }

    /// Every server of every list, to be read by any thread; ask again after [`Forwarder::reconfigure`].
    pub fn listed(&self) -> Vec<Listed> {
        self.core.listed()
    }

    /// Does what the core wants, until it wants no more. A failure may lead to another server, of which there are few.
    fn execute(&mut self, now: Instant) {
        (self.last, self.worked) = (Some(now), true);
        while let Some(action) = self.core.next_action() {
            let failure = match action {
                Action::OpenSocket { socket, server } => self.open_socket(socket, server).err(),
                Action::Send { socket, query, id } => self.send(socket, query, id).err(),
                Action::CloseSocket { socket } => {
                    self.close_socket(socket);
                    None
                }
                Action::OpenStream { stream, server } => self.open_stream(stream, server).err(),
                Action::SendStream { stream, query, id } => self.send_stream(stream, query, id).err(),
                Action::CloseStream { stream } => {
                    self.close_stream(stream);
                    None
                }
            };
            let Some(failure) = failure.map(|error| cause(&error)) else { continue };
            match action {
                Action::OpenSocket { socket, .. } | Action::Send { socket, .. } => {
                    self.fail_socket(socket, failure, now);
                }
                Action::OpenStream { stream, .. } | Action::SendStream { stream, .. } => {
                    self.fail_stream(stream, failure, now);
                }
                Action::CloseSocket { .. } | Action::CloseStream { .. } => {}
            }
        }
    }

    fn open_socket(&mut self, key: Key, server: SocketAddr) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if let Some(source) = self.source.filter(|source| source.is_ipv4() == server.is_ipv4()) {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect(&server.into())?;
        let mut socket = UdpSocket::from_std(socket.into());
        let token = Token(self.first_token + 2 * key.slot as usize);
        self.registry.register(&mut socket, token, Interest::READABLE)?;
        put(&mut self.sockets, key, socket);
        Ok(())
    }

    fn send(&mut self, key: Key, query: Key, id: u16) -> io::Result<()> {
        // Of a socket that failed while this action waited, or of a query that ended meanwhile: nothing to do.
        let Some(socket) = get(&mut self.sockets, key) else { return Ok(()) };
        let Some(message) = self.core.message(query, id) else { return Ok(()) };
        loop {
            match socket.send(message) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A full send buffer drops it, as any queue on the way may: it will be sent again.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn open_stream(&mut self, key: Key, server: SocketAddr) -> io::Result<()> {
        let token = Token(self.first_token + 2 * key.slot as usize + 1);
        let source = self.source.filter(|source| source.is_ipv4() == server.is_ipv4());
        let connection = Connection::open(server, source, &self.registry, token)?;
        put(&mut self.connections, key, connection);
        Ok(())
    }

    fn send_stream(&mut self, key: Key, query: Key, id: u16) -> io::Result<()> {
        let Some(connection) = get(&mut self.connections, key) else { return Ok(()) };
        let Some(message) = self.core.message(query, id) else { return Ok(()) };
        if connection.queue(message)? {
            self.unflushed.push(key);
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, now: Instant) {
        for _ in 0..BURST {
            let Some((key, socket)) = self.sockets.get(index / 2).and_then(Option::as_ref) else { return };
            let key = *key;
            let awaited = self.core.awaits(key);
            match socket.recv(&mut self.buffer) {
                Ok(length) => {
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    self.core.datagram(key, bytes, now, &mut self.random.source());
                    // What the reply sets free is closed at once, before more is read from it.
                    self.execute(now);
                    // The last answer that anybody waits for here: looking whether there is more would be a call
                    // for nothing. Whatever comes later brings an event of its own.
                    if awaited && !self.core.awaits(key) {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.fail_socket(key, cause(&error), now);
                    return;
                }
            }
        }
        self.unfinished.push(index);
    }

    fn serve_connection(&mut self, index: usize, now: Instant) {
        for _ in 0..BURST {
            let Some((key, connection)) = self.connections.get_mut(index / 2).and_then(Option::as_mut) else { return };
            let key = *key;
            match connection.receive(&mut self.buffer) {
                Ok(Some(message)) => {
                    self.core.stream_message(key, message, now, &mut self.random.source());
                    self.execute(now);
                }
                Ok(None) => return,
                Err(error) => {
                    self.fail_stream(key, cause(&error), now);
                    return;
                }
            }
        }
        self.unfinished.push(index);
    }

    fn fail_socket(&mut self, key: Key, failure: Failure, now: Instant) {
        self.close_socket(key);
        self.core.socket_failed(key, failure, now, &mut self.random.source());
    }

    fn fail_stream(&mut self, key: Key, failure: Failure, now: Instant) {
        self.close_stream(key);
        self.core.stream_closed(key, failure, now, &mut self.random.source());
    }

    fn close_socket(&mut self, key: Key) {
        // Closing takes it out of epoll: nobody else has it. While a check's program is being started a copy of the
        // descriptor is open in it; what comes for it meanwhile finds the slot empty, or nothing to read there.
        drop(take(&mut self.sockets, key));
    }

    fn close_stream(&mut self, key: Key) {
        if let Some(connection) = take(&mut self.connections, key) {
            connection.close(&self.registry);
        }
    }
}

fn put<T>(table: &mut Vec<Option<(Key, T)>>, key: Key, value: T) {
    let slot = key.slot as usize;
    if table.len() <= slot {
        table.resize_with(slot + 1, || None);
    }
    table[slot] = Some((key, value));
}

fn get<T>(table: &mut [Option<(Key, T)>], key: Key) -> Option<&mut T> {
    let (owner, value) = table.get_mut(key.slot as usize)?.as_mut()?;
    (*owner == key).then_some(value)
}

fn take<T>(table: &mut [Option<(Key, T)>], key: Key) -> Option<T> {
    let place = table.get_mut(key.slot as usize)?;
    place.take_if(|(owner, _)| *owner == key).map(|(_, value)| value)
}

/// What an error of a socket means for what was sent through it.
fn cause(error: &io::Error) -> Failure {
    use nix::errno::Errno;
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EADDRINUSE | Errno::EAGAIN) => {
            Failure::Exhausted
        }
        Some(Errno::ECONNREFUSED) => Failure::Refused,
        Some(
            Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::EADDRNOTAVAIL
            | Errno::EAFNOSUPPORT
            | Errno::EACCES
            | Errno::EPERM
            | Errno::EINVAL,
        ) => Failure::Unreachable,
        _ => Failure::Closed,
    }
}

/// Unpredictable numbers from the kernel, fetched by the block.
struct Random {
    block: Box<[u8; RANDOM_BLOCK * 8]>,
    used: usize,
}

impl Default for Random {
    fn default() -> Random {
        Random { block: Box::new([0; RANDOM_BLOCK * 8]), used: RANDOM_BLOCK * 8 }
    }
}

impl Random {
    fn source(&mut self) -> impl FnMut() -> u64 {
        || self.next()
    }

    fn next(&mut self) -> u64 {
        if self.used >= self.block.len() {
            // Without random numbers every answer could be forged: the process must not go on. It does not happen
            // on a kernel that has the system call.
            #[expect(clippy::expect_used, reason = "predictable ids are worse than a restart")]
            getrandom::fill(self.block.as_mut_slice()).expect("the kernel has random numbers");
            self.used = 0;
        }
        let mut bytes = [0; 8];
        let chunk = &mut self.block[self.used..self.used + 8];
        bytes.copy_from_slice(chunk);
        // A number that was given out is not kept.
        chunk.fill(0);
        self.used += 8;
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests;
