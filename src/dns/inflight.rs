//! PURE core of the forwarder: which queries are under way, where they were sent, and what comes next.
//!
//! Inputs (a query, a datagram, a failed socket, the time) change the table and leave [`Action`]s and replies
//! behind; `serve::upstream` is the shell that executes them. No sockets, clock or random source in here: time
//! is `now`, randomness a closure. RFC 1035 (messages), 5452 (matching, unpredictability), 7766 (TCP).
//!
//! Every transmission of a query stays valid until the query ends. An answered query whose other transmissions
//! are still out becomes a ghost for a while, so that slow servers are known for what they are.
//! `entry` is one query, `steps` what happens to it, `tcp` and `lost` what else may; `servers` has the records and the
//! choice, `sockets` and `streams` what they leave from, `budget` how many may leave, `clients` who asked already.

mod budget;
mod clients;
mod entry;
mod lost;
mod servers;
mod sockets;
mod steps;
mod streams;
mod table;
mod tcp;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lines::NameTable;
use super::wire::{self, ede, rcode};
use budget::Budget;
use clients::Clients;
use entry::{AttemptState, Entry, Kept, Via};
pub use servers::{Listed, ServerCounters, ServerState};
use servers::{RouteServers, ServerId, Servers};
use sockets::{Sockets, Waiting};
use streams::Streams;
pub use table::Key;
use table::{Slab, Timers};

/// The reply leaves this long before the timeout, so that it is there within it.
const MARGIN: Duration = Duration::from_millis(20);
/// How long an answered query listens for the servers that have not answered.
const GHOST_FOR: Duration = Duration::from_secs(1);
/// Ghosts at most; past it the transmissions are dropped without a verdict.
const MOST_GHOSTS: usize = 128;
/// Buffers kept for reuse, and the largest that is; a burst or a large answer above it is given back.
const SPARE: (usize, usize) = (256, 4096);
/// How often idle sockets and connections are looked for while there are any.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A datagram.
    Udp {
        /// Index of the listener it came in at.
        listener: u16,
        /// Where it came from.
        peer: SocketAddr,
    },
    /// A query of a TCP connection.
    Tcp {
        /// The connection, never used for another one.
        connection: u64,
    },
}

/// A query for a configured name.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Where to count what becomes of it: the table of the configuration that it was asked under, whatever is loaded
    /// meanwhile.
    pub table: &'a Arc<NameTable>,
    /// The name's index there.
    pub name: u32,
    /// Another type of a name that exists here, whose NXDOMAIN becomes NOERROR.
    pub exists: bool,
}

/// Servers that are asked for the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The suffix it is for, empty for the general servers: by it the counters go on when the lists change.
    pub suffix: String,
    /// As listed; empty when none is known.
    pub servers: Vec<SocketAddr>,
    /// The lowest smoothed round trip first; else as listed.
    pub fastest: bool,
}

/// What the forwarder is told by the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// 0 = the general servers, then the routes by suffix.
    pub routes: Vec<Route>,
    /// Within this a client gets an answer.
    pub timeout: Duration,
    /// Queries under way at most; past it the oldest is answered SERVFAIL.
    pub max_forwards: usize,
    /// Servers of the routes that are not asked for now, because har's own queries come back from them.
    pub looping: Vec<SocketAddr>,
}

/// What the shell has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a UDP socket with a random port and connect it.
    OpenSocket {
        /// Names it from now on.
        socket: Key,
        /// Whom to.
        server: SocketAddr,
    },
    /// Send [`InFlight::message`] of `query` with `id`.
    Send {
        /// Through this socket.
        socket: Key,
        /// The query.
        query: Key,
        /// The ID of this transmission.
        id: u16,
    },
    /// Close a UDP socket.
    CloseSocket {
        /// It is not known here any more.
        socket: Key,
    },
    /// Open a TCP connection.
    OpenStream {
        /// Names it from now on.
        stream: Key,
        /// Whom to.
        server: SocketAddr,
    },
    /// Send [`InFlight::message`] of `query` with `id`, at the latest when the connection is there.
    SendStream {
        /// Through this connection.
        stream: Key,
        /// The query.
        query: Key,
        /// The ID of this transmission.
        id: u16,
    },
    /// Close a connection.
    CloseStream {
        /// It is not known here any more.
        stream: Key,
    },
}

/// Why a socket or connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The port is closed.
    Refused,
    /// No way there from here now: no route, no source address.
    Unreachable,
    /// No descriptor or memory for it.
    Exhausted,
    /// The other side closed it, or it broke.
    Closed,
}

/// What became of the queries: admitted = answered + expired + shed + failed + forgotten + under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Queries taken, retransmissions of clients not counted.
    pub admitted: u64,
    /// Retransmissions of clients that joined a query under way.
    pub joined: u64,
    /// Ended with a server's reply.
    pub answered: u64,
    /// Ended by the timeout, or with no server left that could be reached.
    pub expired: u64,
    /// Gave way to a newer one.
    pub shed: u64,
    /// Ended at once because there is no server.
    pub failed: u64,
    /// Their client went away.
    pub forgotten: u64,
    /// Transmissions to servers.
    pub sent: u64,
    /// Datagrams and messages that matched nothing.
    pub ignored: u64,
}

/// A source of unpredictable numbers.
pub type Random<'a> = &'a mut dyn FnMut() -> u64;

/// The table of queries under way.
pub struct InFlight {
    timeout: Duration,
    max_forwards: usize,
    routes: Vec<Arc<RouteServers>>,
    servers: Servers,
    entries: Slab<Entry>,
    /// Keys in the order of admission; those of entries that are gone are dropped on the way.
    ages: VecDeque<Key>,
    /// The query of each UDP client address and ID. A second question under the same ID is not in it.
    clients: Clients,
    sockets: Sockets,
    streams: Streams,
    timers: Timers,
    sweep_at: Option<Instant>,
    budget: Budget,
    ghosts: usize,
    actions: VecDeque<Action>,
    replies: VecDeque<(Client, Vec<u8>)>,
    /// The reply that was handed out last, and buffers to use again.
    current: Vec<u8>,
    spare: Vec<Vec<u8>>,
    spare_entries: Vec<Entry>,
    scratch: Vec<Key>,
    explored: u32,
    books: Books,
}

impl InFlight {
    /// An empty table.
    pub fn new(settings: &Settings) -> InFlight {
        let mut table = InFlight {
            timeout: settings.timeout,
            max_forwards: settings.max_forwards.max(1),
            routes: Vec::new(),
            servers: Servers::default(),
            entries: Slab::default(),
            ages: VecDeque::new(),
            clients: Clients::default(),
            sockets: Sockets::default(),
            streams: Streams::default(),
            timers: Timers::default(),
            sweep_at: None,
            budget: Budget::new(),
            ghosts: 0,
            actions: VecDeque::new(),
            replies: VecDeque::new(),
            current: Vec::new(),
            spare: Vec::new(),
            spare_entries: Vec::new(),
            scratch: Vec::new(),
            explored: 0,
            books: Books::default(),
        };
        table.reconfigure(settings);
        table
    }

    /// Takes over new server lists and limits. Records of servers that stay are kept. Queries under way go on,
    /// those of the general servers (route 0) at the new ones; routes have no identity, so theirs at the old ones.
    pub fn reconfigure(&mut self, settings: &Settings) {
        self.timeout = settings.timeout;
        self.max_forwards = settings.max_forwards.max(1);
        let old = std::mem::take(&mut self.routes);
        for route in &settings.routes {
            let before = old.iter().find(|old| *old.suffix == *route.suffix).map(|old| &**old);
            let mut fresh = RouteServers::new(route);
            for address in &route.servers {
                let id = self.servers.enter(*address);
                let looping = settings.looping.contains(address);
                if let Some(record) = self.servers.get_mut(id) {
                    record.set_looping(looping);
                }
                fresh.list(id, looping, before);
            }
            self.routes.push(Arc::new(fresh));
        }
        self.entries.keys(&mut self.scratch);
        for &key in &self.scratch {
            if let Some(entry) = self.entries.get_mut(key)
                && let (Some(old), Some(new)) = (old.first(), self.routes.first())
                && Arc::ptr_eq(&entry.route, old)
                && !new.servers.is_empty()
            {
                entry.route = Arc::clone(new);
            }
        }
        let used = |id: ServerId| {
            self.routes.iter().any(|route| route.lists(id))
                || self.entries.iter().any(|(_, entry)| {
                    entry.route.servers.contains(&id) || entry.attempts.iter().any(|attempt| attempt.server == id)
                })
                || self.sockets.open.iter().any(|(_, socket)| socket.server == id)
                || self.streams.open.iter().any(|(_, stream)| stream.server == id)
                || self.streams.held.iter().any(|(server, _)| *server == id)
        };
        self.servers.keep(used);
    }

    /// Takes a query that [`wire::parse`] accepted. `route` 0 is the general servers.
    pub fn submit(
        &mut self,
        client: Client,
        query: &wire::Query<'_>,
        route: u16,
        named: Option<Named<'_>>,
        now: Instant,
        random: Random<'_>,
    ) {
        let is_udp = matches!(client, Client::Udp { .. });
        let hash = self.clients.hash(client, query.id(), random);
        let joined = self.clients.get(hash).and_then(|key| self.entries.get(key));
        if joined.is_some_and(|entry| entry.is_of(client, query.id()) && entry.question() == query.question()) {
            self.books.joined += 1;
            return;
        }
        self.books.admitted += 1;
        let route = self.routes.get(usize::from(route)).filter(|route| !route.servers.is_empty());
        let Some(route) = route.map(Arc::clone) else {
            self.books.failed += 1;
            Kept::of(named).inspect(Kept::unreached);
            let mut buffer = self.buffer();
            wire::error(query, rcode::SERVFAIL, Some(ede::NETWORK_ERROR), &mut buffer);
            self.replies.push_back((client, buffer));
            return;
        };
        while self.under_way() >= self.max_forwards {
            self.shed_oldest(now);
        }
        let mut entry = match self.spare_entries.pop() {
            Some(old) => Entry::reuse(old, client, route, Kept::of(named), now),
            None => Entry::new(client, route, Kept::of(named), now),
        };
        (entry.id, entry.hash) = (query.id(), hash);
        entry.message.extend_from_slice(query.message);
        entry.question_end = query.question_end as u32;
        entry.limit = if is_udp { wire::udp_limit(query) } else { wire::MAX_MESSAGE } as u32;
        entry.deadline = now + self.timeout.saturating_sub(MARGIN).max(self.timeout / 2);
        let key = self.entries.insert(entry);
        if is_udp {
            self.clients.enter(hash, key);
        }
        self.ages.push_back(key);
        self.budget.query(now);
        self.start(key, now, random);
        self.settle();
    }

    /// A datagram came in at a socket.
    pub fn datagram(&mut self, socket: Key, bytes: &[u8], now: Instant, random: Random<'_>) {
        let waiting = self.sockets.open.get(socket).map(|socket| socket.waiting.as_slice());
        let waiting = find_waiting(waiting, bytes);
        self.message_in(waiting, bytes, now, random);
    }

    fn message_in(&mut self, waiting: Option<Waiting>, bytes: &[u8], now: Instant, random: Random<'_>) {
        let matching = waiting.filter(|waiting| {
            self.entries.get(waiting.query).is_some_and(|entry| wire::matches_question(&entry.message, bytes))
        });
        match matching {
            Some(waiting) => self.answered(waiting.query, usize::from(waiting.attempt), bytes, now, random),
            None => self.books.ignored += 1,
        }
        self.settle();
    }

    /// A socket could not be opened, or failed. It is gone.
    pub fn socket_failed(&mut self, socket: Key, failure: Failure, now: Instant, random: Random<'_>) {
        let Some(socket) = self.sockets.remove(socket) else { return };
        if matches!(failure, Failure::Refused | Failure::Unreachable) {
            self.died(socket.server, now);
        }
        let exhausted = failure == Failure::Exhausted;
        let room = exhausted && self.make_room(now);
        for waiting in &socket.waiting {
            if exhausted {
                self.unsent(*waiting, room, now, random);
            } else {
                self.lost(*waiting, failure, now, random);
            }
        }
        self.settle();
    }

    /// When [`InFlight::expire`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.timers.next(), self.sweep_at) {
            (Some(timer), Some(sweep)) => Some(timer.min(sweep)),
            (timer, sweep) => timer.or(sweep),
        }
    }

    /// Does what is due: at most one step for each query.
    pub fn expire(&mut self, now: Instant, random: Random<'_>) {
        while let Some((at, key)) = self.timers.due(now) {
            if self.entries.get(key).is_some_and(|entry| entry.wake == at) {
                self.step(key, now, random);
            }
        }
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep_at = None;
            self.sweep(false, now);
        }
        self.serve_held(now, random);
        self.settle();
    }

    /// Ends every query with the best there is: nobody will wait for more.
    pub fn end_all(&mut self, now: Instant) {
        let mut keys = std::mem::take(&mut self.scratch);
        self.entries.keys(&mut keys);
        for &key in &keys {
            if self.entries.get(key).is_some_and(|entry| !entry.ghost) {
                self.give_up(key, now);
            }
        }
        self.scratch = keys;
        self.settle();
    }

    /// Drops what a connection asked.
    pub fn forget(&mut self, connection: u64, now: Instant) {
        let client = Client::Tcp { connection };
        let mut keys = std::mem::take(&mut self.scratch);
        keys.clear();
        let of_client = |(_, entry): &(Key, &Entry)| entry.client == client && !entry.ghost;
        keys.extend(self.entries.iter().filter(of_client).map(|(key, _)| key));
        for &key in &keys {
            self.books.forgotten += 1;
            if let Some(entry) = self.entries.get_mut(key) {
                // Nothing becomes of it; an entry that waits for use must not keep the table of a configuration that is over.
                entry.named = None;
            }
            self.end(key, now);
        }
        self.scratch = keys;
        self.settle();
    }

    /// The host's addresses or routes changed, or it was suspended: every socket and connection is closed, the dead
    /// get another chance, and what is under way is sent anew as the budget allows.
    pub fn renew(&mut self, now: Instant, random: Random<'_>) {
        self.servers.iter_mut().for_each(servers::Server::renew);
        self.budget.renew(now);
        let mut keys = std::mem::take(&mut self.scratch);
        self.sockets.open.keys(&mut keys);
        for &socket in &keys {
            self.sockets.remove(socket);
            self.actions.push_back(Action::CloseSocket { socket });
        }
        self.streams.open.keys(&mut keys);
        for &stream in &keys {
            self.streams.open.remove(stream);
            self.actions.push_back(Action::CloseStream { stream });
        }
        self.streams.held.clear();
        self.entries.keys(&mut keys);
        for &key in &keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            entry.attempts.clear();
            entry.held = None;
            if entry.ghost {
                self.end(key, now);
            } else {
                self.start_anew(key, now, random);
            }
        }
        self.scratch = keys;
        self.settle();
    }

    /// The next thing to do. A failure is reported at once, before the next one is taken.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The bytes of a query under way with the ID of one of its transmissions.
    pub fn message(&mut self, query: Key, id: u16) -> Option<&[u8]> {
        let message = &mut self.entries.get_mut(query)?.message;
        wire::set_id(message, id);
        Some(message)
    }

    /// The next reply for a client, as it has to be sent.
    pub fn next_reply(&mut self) -> Option<(Client, &[u8])> {
        let (client, reply) = self.replies.pop_front()?;
        let sent = std::mem::replace(&mut self.current, reply);
        self.recycle(sent);
        Some((client, &self.current))
    }

    /// Whether [`InFlight::next_reply`] has one.
    pub fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Whether an answer is awaited at a socket.
    pub fn awaits(&self, socket: Key) -> bool {
        self.sockets.open.get(socket).is_some_and(|socket| !socket.waiting.is_empty())
    }

    /// Queries under way.
    pub fn under_way(&self) -> usize {
        self.entries.len() - self.ghosts
    }

    /// What became of the queries so far.
    pub fn books(&self) -> Books {
        self.books
    }

    /// Every server of every list, the general ones first.
    pub fn listed(&self) -> Vec<Listed> {
        self.routes.iter().flat_map(|route| route.listed(&self.servers)).collect()
    }

    /// Panics in debug builds when the parts contradict each other.
    pub fn debug_assert_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let books = &self.books;
        let ended = books.answered + books.expired + books.shed + books.failed + books.forgotten;
        assert_eq!(books.admitted, ended + self.under_way() as u64, "{books:?}");
        assert!(self.ghosts <= MOST_GHOSTS);
        assert_eq!(self.ghosts, self.entries.iter().filter(|(_, entry)| entry.ghost).count());
        for (key, socket) in self.sockets.open.iter() {
            for waiting in &socket.waiting {
                let attempt = self.entries.get(waiting.query).map(|entry| entry.attempts[usize::from(waiting.attempt)]);
                let attempt = attempt.expect("a socket waits for a query that is gone");
                assert_eq!((attempt.via, attempt.id), (Via::Udp(key), waiting.id));
                assert_eq!((attempt.state, attempt.server), (AttemptState::Waiting, socket.server));
            }
        }
        for (key, entry) in self.entries.iter() {
            for attempt in entry.waiting() {
                let waiting = match attempt.via {
                    Via::Udp(socket) => self.sockets.open.get(socket).map(|socket| &socket.waiting),
                    Via::Tcp(stream) => self.streams.open.get(stream).map(|stream| &stream.waiting),
                };
                let waiting = waiting.expect("an attempt waits on what is gone");
                assert!(waiting.iter().any(|waiting| waiting.query == key && waiting.id == attempt.id));
            }
        }
        for key in self.clients.iter() {
            assert!(self.entries.get(key).is_some_and(|entry| !entry.ghost));
        }
    }
}

/// Who waits for a message by its ID.
fn find_waiting(waiting: Option<&[Waiting]>, bytes: &[u8]) -> Option<Waiting> {
    sockets::find(waiting?, wire::id(bytes)?)
}
