//! SHELL. The event loop of the server thread: every listener, every forwarded query, nothing that can block.
//!
//! Order of service per wake: signals, updates, upstream replies, expiries, TCP clients, UDP listeners, accepts.
//! What is begun is finished before more is taken on, and each of them does a bounded amount of work; readiness is
//! edge-triggered, so what is left over makes the next wait immediate. The clock is read once a wake. `dns` decides
//! what becomes of a query; nobody here knows checks, the state file or the configuration.

pub mod counters;
mod desk;
mod tcp;
mod udp;
pub mod updates;
pub mod upstream;

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, UdpSocket};
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use crate::dns::HostName;
use crate::dns::wire::MAX_MESSAGE;
use crate::os::{self, Clock, Notify, Signals};
use counters::Totals;
use desk::Desk;
use tcp::{ACCEPT_REST, Accepted, Connections};
use udp::Batch;
pub use updates::{Forwarding, Table, Update, UpdateSender};
use upstream::{Client, Forwarder, Listed};

const SIGNALS: Token = Token(0);
const UPDATES: Token = Token(1);
/// A listener's UDP socket has an even token from here on, its TCP listener the odd one above.
const FIRST_LISTENER: usize = 2;
/// Listeners at most, those that a reload replaced included: what the tokens have room for.
const MOST_LISTENERS: usize = 1 << 10;
const FIRST_CONNECTION: usize = FIRST_LISTENER + 2 * MOST_LISTENERS;
/// Above the tokens of [`tcp`], which has room for 2^20 connections.
const FIRST_UPSTREAM: usize = 1 << 22;
/// Events taken from the kernel in one wake.
const EVENTS: usize = 256;
/// How long queries under way may take after a stop.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Everything that the loop starts with.
pub struct Setup {
    /// Bound sockets.
    pub listeners: Vec<os::Listener>,
    /// The first configuration; its names may have no answers yet.
    pub table: Table,
    /// Counters of the process.
    pub totals: Arc<Totals>,
    /// The process's clock.
    pub clock: Clock,
    /// Reload and stop.
    pub signals: Signals,
    /// The service manager.
    pub notify: Notify,
    /// Called in the loop with what others must know: it must not block.
    pub notices: Box<dyn Fn(Notice) + Send>,
}

/// Bounds of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at most; the longest idle one gives way.
    pub tcp_connections: usize,
    /// The longest silence of a client, and the longest wait for the rest of a message.
    pub tcp_idle: Duration,
}

/// What the loop tells the rest of the process.
#[derive(Clone, Debug)]
pub enum Notice {
    /// SIGHUP: read the configuration again, then send [`Update::Table`] or [`Update::Reloaded`].
    Reload,
    /// The end has begun; [`Server::run`] returns within a second.
    Stopping,
    /// A name marked idle was asked for; the mark is gone.
    Asked {
        /// [`NameTable::generation`](crate::dns::lines::NameTable::generation).
        generation: u64,
        /// Its index there.
        name: u32,
    },
    /// A probe came back from har's own upstream: there is a loop.
    Returned {
        /// The name asked for.
        probe: HostName,
    },
    /// The first query after [`counters::Totals::be_told`].
    Traffic,
    /// The upstream servers' counters, at the start and whenever the servers change.
    Upstreams(Vec<Listed>),
}

/// The event loop.
pub struct Server {
    poll: Poll,
    /// By listener number, never used for another one; closed ones are `None`.
    listeners: Vec<Option<Listening>>,
    connections: Connections,
    desk: Desk,
    updates: UpdateSender,
    signals: Signals,
    notify: Notify,
    buffer: Box<[u8]>,
    /// When accepting goes on after descriptors ran out.
    accept_at: Option<Instant>,
    watchdog: Option<Watchdog>,
    reloading: bool,
    is_ready: bool,
    stop: Stop,
    /// Queries received when last looked at.
    received: u64,
}

/// An address that is served.
struct Listening {
    address: SocketAddr,
    udp: Option<UdpSocket>,
    tcp: Option<TcpListener>,
    /// A burst was not enough, or it is new: there may be datagrams.
    udp_due: bool,
    /// The same for connections.
    tcp_due: bool,
}

struct Watchdog {
    every: Duration,
    next: Instant,
    beats: u64,
}

/// How far the end is.
enum Stop {
    No,
    By(Instant),
    Now,
}

impl Server {
    /// Registers everything; nothing is served before [`Server::begin`].
    ///
    /// # Errors
    /// When the kernel refuses a descriptor or a registration.
    pub fn new(mut setup: Setup, now: Instant) -> io::Result<(Server, UpdateSender)> {
        let poll = Poll::new()?;
        let updates = UpdateSender::new(Waker::new(poll.registry(), UPDATES)?);
        setup.signals.register(poll.registry(), SIGNALS)?;
        let Forwarding { settings, source } = &setup.table.forwarding;
        let forwarder = Forwarder::new(settings, *source, poll.registry().try_clone()?, FIRST_UPSTREAM);
        let watchdog = setup.notify.watchdog_every().map(|every| Watchdog { every, next: now, beats: 0 });
        let mut server = Server {
            connections: Connections::new(setup.table.limits, FIRST_CONNECTION),
            desk: Desk::new(setup.table, setup.totals, setup.clock, setup.notices, forwarder, now),
            poll,
            listeners: Vec::new(),
            updates: updates.clone(),
            signals: setup.signals,
            notify: setup.notify,
            buffer: vec![0; MAX_MESSAGE].into(),
            accept_at: None,
            watchdog,
            reloading: false,
            is_ready: false,
            stop: Stop::No,
            received: 0,
        };
        for listener in setup.listeners {
            server.add_listener(listener)?;
        }
        server.tell_upstreams();
        Ok((server, updates))
    }

    /// Answers what has been asked until now, before [`Server::run`].
    pub fn begin(&mut self, now: Instant) {
        self.wake(&Events::with_capacity(0), &mut Batch::new(), now);
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// When waiting for events fails, which no stranger can cause.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        // Not of the server, which is made in one thread and may run in another: its pointers stay where they are.
        let mut batch = Batch::new();
        let mut now = Instant::now();
        while !self.is_stopped(now) {
            let timeout = self.next_deadline(now).map(|deadline| deadline.saturating_duration_since(now));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            now = Instant::now();
            self.wake(&events, &mut batch, now);
        }
        if self.desk.under_way() > 0 {
            // Better than to let them wait for nobody.
            self.desk.forwarder.end_all(now);
            self.pass_replies(&mut batch, now);
            self.connections.serve(self.poll.registry(), &mut self.desk, &mut self.buffer, now);
            self.desk.totals.set_books(self.desk.forwarder.books());
        }
        Ok(())
    }

    /// One round in the order of service.
    fn wake(&mut self, events: &Events, batch: &mut Batch, now: Instant) {
        if events.iter().any(|event| event.token().0 < FIRST_LISTENER) {
            self.obey(events, batch, now);
        }
        for event in events {
            match event.token().0 {
                FIRST_UPSTREAM.. => self.desk.forwarder.event(event, now),
                FIRST_CONNECTION.. => self.connections.event(event.token()),
                token => self.note_listener(token),
            }
        }
        self.expire(batch, now);
        if self.desk.forwarder.has_replies() {
            self.pass_replies(batch, now);
        }
        if self.connections.has_due() {
            self.connections.serve(self.poll.registry(), &mut self.desk, &mut self.buffer, now);
        }
        self.serve_datagrams(batch, now);
        self.accept(now);
        if self.desk.is_overfull() {
            self.release(batch, |_| false, now);
        }
        self.desk.forwarder.flush(now);
        if self.desk.forwarder.has_replies() || self.connections.has_due() {
            // What was refused at once has its reply already; nobody else would wake the loop for it.
            self.pass_replies(batch, now);
            self.connections.serve(self.poll.registry(), &mut self.desk, &mut self.buffer, now);
            self.desk.forwarder.flush(now);
        }
        if self.desk.forwarder.has_worked() {
            self.desk.totals.set_books(self.desk.forwarder.books());
        }
        self.tell_traffic();
    }

    /// What the rest of the process wants comes first.
    fn obey(&mut self, events: &Events, batch: &mut Batch, now: Instant) {
        if events.iter().any(|event| event.token() == SIGNALS) {
            self.obey_signals(now);
        }
        if events.iter().any(|event| event.token() == UPDATES) {
            self.take_updates(batch, now);
        }
    }

    /// Says so when queries come again.
    fn tell_traffic(&mut self) {
        let received = self.desk.totals.received();
        if received != std::mem::replace(&mut self.received, received) && self.desk.totals.is_to_tell() {
            (self.desk.notices)(Notice::Traffic);
        }
    }

    fn obey_signals(&mut self, now: Instant) {
        let received = self.signals.received();
        if received.reload && matches!(self.stop, Stop::No) {
            // One that comes during the start is a part of it: READY has to mean what it says.
            if self.is_ready {
                self.reloading = true;
                self.notify.reloading();
            }
            (self.desk.notices)(Notice::Reload);
        }
        for _ in 0..received.stops.min(2) {
            self.begin_stop(now);
        }
    }

    fn take_updates(&mut self, batch: &mut Batch, now: Instant) {
        let pending = self.updates.take();
        let changed: HashSet<u32> = pending.answers.keys().copied().collect();
        let new_table = pending.table.is_some();
        if let Some(table) = pending.table {
            let Table { snapshot, forwarding, limits } = *table;
            self.desk.snapshot = snapshot;
            self.connections.set_limits(limits);
            self.set_forwarding(&forwarding, now);
        }
        if let Some(forwarding) = pending.forwarding {
            self.set_forwarding(&forwarding, now);
        }
        for (name, answer) in pending.answers {
            self.desk.snapshot.set(name, answer);
        }
        if new_table || !changed.is_empty() {
            self.release(batch, |name| new_table || changed.contains(&name), now);
        }
        if pending.renew {
            self.desk.forwarder.renew(now);
        }
        if let Some(probes) = pending.probes {
            self.desk.set_probes(probes);
        }
        self.change_listeners(pending.remove, pending.add);
        if let Some(line) = pending.status {
            self.notify.status(&line);
        }
        if pending.ready && !std::mem::replace(&mut self.is_ready, true) {
            self.notify.ready();
        }
        if (pending.reloaded || new_table) && std::mem::take(&mut self.reloading) {
            self.notify.ready();
        }
        if pending.stop && matches!(self.stop, Stop::No) {
            self.begin_stop(now);
        }
    }

    fn set_forwarding(&mut self, forwarding: &Forwarding, now: Instant) {
        self.desk.forwarder.reconfigure(&forwarding.settings, forwarding.source, now);
        self.tell_upstreams();
    }

    fn tell_upstreams(&self) {
        (self.desk.notices)(Notice::Upstreams(self.desk.forwarder.listed()));
    }

    fn change_listeners(&mut self, remove: Vec<SocketAddr>, add: Vec<os::Listener>) {
        for place in &mut self.listeners {
            if let Some(gone) = place.take_if(|listening| remove.contains(&listening.address)) {
                gone.close(self.poll.registry());
            }
        }
        for listener in add {
            let address = listener.address;
            if let Err(error) = self.add_listener(listener) {
                log::error!("{address} is not served: {error}");
            }
        }
    }

    fn add_listener(&mut self, listener: os::Listener) -> io::Result<()> {
        let number = self.listeners.len();
        if number >= MOST_LISTENERS {
            return Err(io::Error::other("too many listeners since the start; restart har"));
        }
        let token = FIRST_LISTENER + 2 * number;
        let mut udp = listener.udp.map(UdpSocket::from_std);
        if let Some(socket) = &mut udp {
            self.poll.registry().register(socket, Token(token), Interest::READABLE)?;
        }
        let mut tcp = listener.tcp.map(TcpListener::from_std);
        if let Some(socket) = &mut tcp {
            self.poll.registry().register(socket, Token(token + 1), Interest::READABLE)?;
        }
        let listening = Listening { address: listener.address, udp, tcp, udp_due: true, tcp_due: true };
        self.listeners.push(Some(listening));
        Ok(())
    }

    fn note_listener(&mut self, token: usize) {
        let Some(index) = token.checked_sub(FIRST_LISTENER) else { return };
        if let Some(listening) = self.listeners.get_mut(index / 2).and_then(Option::as_mut) {
            if index.is_multiple_of(2) { listening.udp_due = true } else { listening.tcp_due = true }
        }
    }

    fn expire(&mut self, batch: &mut Batch, now: Instant) {
        if self.desk.forwarder.deadline().is_some_and(|deadline| deadline <= now) {
            self.desk.forwarder.expire(now);
        }
        if self.desk.deadline().is_some_and(|deadline| deadline <= now) {
            self.release(batch, |_| false, now);
        }
        self.connections.expire(self.poll.registry(), &mut self.desk, now);
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = None;
        }
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.next <= now
        {
            watchdog.next = now + watchdog.every;
            let beats = self.updates.beats();
            let moved = std::mem::replace(&mut watchdog.beats, beats) != beats;
            // Before the poller's first sign of life it is the start-up timeout's to judge.
            if moved || self.updates.is_asleep(now) || !self.is_ready {
                self.notify.alive();
            }
        }
    }

    /// Hands the forwarder's replies to their clients.
    fn pass_replies(&mut self, batch: &mut Batch, now: Instant) {
        let Server { desk, listeners, connections, .. } = self;
        let mut mail = Mail { listeners, connections, batch, totals: &desk.totals, now };
        while let Some((client, reply)) = desk.forwarder.next_reply() {
            mail.put(client, Some(reply));
        }
        mail.send();
    }

    fn release(&mut self, batch: &mut Batch, changed: impl Fn(u32) -> bool, now: Instant) {
        let Server { desk, listeners, connections, .. } = self;
        let totals = Arc::clone(&desk.totals);
        let mut mail = Mail { listeners, connections, batch, totals: &totals, now };
        desk.release(changed, now, |client, reply| mail.put(client, reply));
        mail.send();
    }

    fn serve_datagrams(&mut self, batch: &mut Batch, now: Instant) {
        if !matches!(self.stop, Stop::No) {
            return;
        }
        for (number, place) in (0..).zip(&mut self.listeners) {
            if let Some(Listening { address, udp: Some(socket), udp_due, .. }) = place
                && *udp_due
            {
                *udp_due = udp::serve(&mut self.desk, socket, address.is_ipv4(), number, batch, now);
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        if !matches!(self.stop, Stop::No) || self.accept_at.is_some() {
            return;
        }
        for listening in self.listeners.iter_mut().flatten() {
            let Some(listener) = listening.tcp.as_ref().filter(|_| listening.tcp_due) else { continue };
            match self.connections.accept(listener, self.poll.registry(), &mut self.desk, now) {
                Accepted::All => listening.tcp_due = false,
                Accepted::More => {}
                Accepted::Rest => {
                    self.accept_at = Some(now + ACCEPT_REST);
                    return;
                }
            }
        }
    }

    /// The first call stops taking queries, the second ends at once.
    fn begin_stop(&mut self, now: Instant) {
        if !matches!(self.stop, Stop::No) {
            self.stop = Stop::Now;
            return;
        }
        self.stop = Stop::By(now + STOP_WITHIN);
        self.notify.stopping();
        (self.desk.notices)(Notice::Stopping);
        for listening in self.listeners.iter_mut().flatten() {
            // UDP sockets stay open for the replies still to come.
            listening.close_tcp(self.poll.registry());
        }
        self.connections.end_input(now);
    }

    fn is_stopped(&self, now: Instant) -> bool {
        match self.stop {
            Stop::No => false,
            Stop::Now => true,
            Stop::By(deadline) => deadline <= now || self.desk.under_way() == 0 && self.connections.len() == 0,
        }
    }

    /// When the loop has to look again by itself.
    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let serving = matches!(self.stop, Stop::No);
        let due = self.connections.has_due()
            || serving
                && self.listeners.iter().flatten().any(|listening| {
                    listening.udp_due && listening.udp.is_some()
                        || listening.tcp_due && listening.tcp.is_some() && self.accept_at.is_none()
                });
        if due {
            return Some(now);
        }
        let stop = if let Stop::By(deadline) = self.stop { Some(deadline) } else { None };
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.next);
        let desk = self.desk.deadline();
        let forwarder = self.desk.forwarder.deadline();
        let deadlines = [stop, watchdog, desk, forwarder, self.connections.deadline(), self.accept_at];
        deadlines.into_iter().flatten().min()
    }
}

/// Replies on the way their queries came.
struct Mail<'a> {
    listeners: &'a [Option<Listening>],
    connections: &'a mut Connections,
    batch: &'a mut Batch,
    totals: &'a Totals,
    now: Instant,
}

impl Mail<'_> {
    /// Takes a reply (`None`: there is none) to a client; one over UDP leaves with [`Mail::send`] at the latest.
    fn put(&mut self, client: Client, reply: Option<&[u8]>) {
        match (client, reply) {
            (Client::Tcp { connection }, reply) => self.connections.settle(connection, reply, self.now),
            (Client::Udp { listener, peer }, Some(reply)) => {
                if !self.batch.takes(listener) {
                    self.send();
                }
                self.batch.queue(listener, peer, reply);
            }
            (Client::Udp { .. }, None) => {}
        }
    }

    fn send(&mut self) {
        if let Some(listener) = self.batch.queued() {
            let listening = self.listeners.get(usize::from(listener)).and_then(Option::as_ref);
            self.batch.send(listening.and_then(|listening| listening.udp.as_ref()), self.totals);
        }
    }
}

impl Listening {
    fn close_tcp(&mut self, registry: &Registry) {
        if let Some(mut socket) = self.tcp.take() {
            // Closing takes it out of epoll all the same.
            let _ = registry.deregister(&mut socket);
        }
    }

    fn close(mut self, registry: &Registry) {
        self.close_tcp(registry);
        if let Some(mut socket) = self.udp.take() {
            let _ = registry.deregister(&mut socket);
        }
    }
}

#[cfg(test)]
mod tests;
