//! One query under way: who asked, what was sent where, and the best reply so far.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::lines::NameTable;
use super::servers::{ServerId, count};
use super::table::Key;
use super::{Client, Named, RouteServers};

/// Transmissions of one query: every server a few times within the longest sensible timeout.
pub(super) const MOST_ATTEMPTS: usize = 16;
/// Times that the wait may double; later ones fall behind every timeout.
const MOST_DOUBLINGS: u8 = 16;

/// A query under way, or one already answered that still listens for slower servers (`ghost`).
pub(super) struct Entry {
    pub client: Client,
    /// The client's ID.
    pub id: u16,
    /// Its place among the clients.
    pub hash: u64,
    /// The query as it came; its ID is overwritten by each transmission.
    pub message: Vec<u8>,
    pub question_end: u32,
    /// Most that the client takes in one message.
    pub limit: u32,
    pub route: Arc<RouteServers>,
    /// The configured name that it is for, until what became of it is counted.
    pub named: Option<Kept>,
    pub admitted: Instant,
    pub deadline: Instant,
    /// When something has to be done.
    pub wake: Instant,
    /// The wait doubles from here.
    base: Instant,
    wait: Duration,
    doublings: u8,
    pub attempts: Vec<Attempt>,
    /// The best SERVFAIL or REFUSED so far.
    pub best: Vec<u8>,
    /// The server at which it waits for room on a connection.
    pub held: Option<ServerId>,
    pub ghost: bool,
}

/// [`Named`] while a query is under way.
pub(super) struct Kept {
    table: Arc<NameTable>,
    name: u32,
    pub exists: bool,
}

impl Kept {
    pub fn of(named: Option<Named<'_>>) -> Option<Kept> {
        named.map(|Named { table, name, exists }| Kept { table: Arc::clone(table), name, exists })
    }

    /// A server's reply was passed on.
    pub fn relayed(&self) {
        if let Some(name) = self.table.name(self.name) {
            name.count_relayed();
        }
    }

    /// It got a SERVFAIL of our own.
    pub fn unreached(&self) {
        if let Some(name) = self.table.name(self.name) {
            name.count_unreached();
        }
    }
}

/// One transmission and its repetitions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub server: ServerId,
    pub via: Via,
    pub id: u16,
    pub first_sent: Instant,
    pub last_sent: Instant,
    pub sends: u8,
    /// Over TCP: it has gone unanswered for so long that it was held against the server.
    pub overdue: bool,
    /// When a reply came that was relayed after a repetition; a second one shows that it was the first's.
    pub heard: Option<Instant>,
    pub state: AttemptState,
}

/// What a transmission left from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Udp(Key),
    Tcp(Key),
}

/// What became of a transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptState {
    /// An answer counts.
    Waiting,
    /// SERVFAIL or REFUSED came.
    Bad,
    /// A truncated reply came that the client has no use for.
    Useless,
    /// Its socket or connection was refused, or there is no way: nothing can come.
    Lost,
    /// The server closed the connection: nothing comes of this one, but somebody is there.
    Closed,
    /// It never left, for want of a descriptor.
    Unsent,
}

impl Entry {
    /// An empty one, to be filled.
    pub fn new(client: Client, route: Arc<RouteServers>, named: Option<Kept>, now: Instant) -> Entry {
        Entry {
            client,
            id: 0,
            hash: 0,
            message: Vec::new(),
            question_end: 0,
            limit: 0,
            route,
            named,
            admitted: now,
            deadline: now,
            wake: now,
            base: now,
            wait: Duration::ZERO,
            doublings: 0,
            attempts: Vec::new(),
            best: Vec::new(),
            held: None,
            ghost: false,
        }
    }

    /// The same in one that was used before, whose buffers are kept.
    pub fn reuse(old: Entry, client: Client, route: Arc<RouteServers>, named: Option<Kept>, now: Instant) -> Entry {
        let Entry { mut message, mut attempts, mut best, .. } = old;
        message.clear();
        attempts.clear();
        best.clear();
        Entry { message, attempts, best, ..Entry::new(client, route, named, now) }
    }

    /// Name, type and class.
    pub fn question(&self) -> &[u8] {
        self.message.get(12..self.question_end as usize).unwrap_or_default()
    }

    /// Whether a client asked this under this ID.
    pub fn is_of(&self, client: Client, id: u16) -> bool {
        (self.client, self.id) == (client, id)
    }

    pub fn is_tcp(&self) -> bool {
        matches!(self.client, Client::Tcp { .. })
    }

    pub fn waiting(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.state == AttemptState::Waiting)
    }

    /// Whether nothing can come of what was sent so far: every port was closed, or there was no way.
    pub fn is_refused(&self) -> bool {
        let sent = !self.attempts.is_empty() && self.held.is_none();
        sent && self.attempts.iter().all(|attempt| attempt.state == AttemptState::Lost)
    }

    /// A transmission to a server came to nothing.
    pub fn unanswered(&self, server: ServerId) {
        if let Some(counters) = self.route.counters(server) {
            count(&counters.timeouts);
        }
    }

    /// Those of its transmissions that went to a server over TCP.
    pub fn over_tcp(&self, server: ServerId) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.attempts.iter().filter(move |attempt| attempt.server == server && matches!(attempt.via, Via::Tcp(_)))
    }

    /// How often a server was tried, and whether the last try failed. To wait for room there is a try.
    pub fn tries(&self, server: ServerId) -> (usize, bool) {
        let of_server = |a: &&Attempt| a.server == server && a.state != AttemptState::Unsent;
        let failed = self.attempts.iter().rfind(of_server).is_some_and(|a| a.state != AttemptState::Waiting);
        let held = self.held == Some(server);
        (self.attempts.iter().filter(of_server).count() + usize::from(held), failed && !held)
    }

    /// Starts the waiting anew: the first time is `wait` from now.
    pub fn restart(&mut self, wait: Duration, now: Instant) {
        (self.base, self.wait, self.doublings) = (now, wait, 0);
        self.wake = (now + wait).min(self.deadline);
    }

    /// Sets the next time: the whole wait doubles, so that the steps are one, one, two, four … times the first. A turn
    /// in between changes nothing.
    pub fn double(&mut self, now: Instant) {
        loop {
            let wake = self.base + self.wait * (1 << self.doublings);
            if wake > now || self.doublings == MOST_DOUBLINGS {
                self.wake = wake.min(self.deadline);
                return;
            }
            self.doublings += 1;
        }
    }
}
