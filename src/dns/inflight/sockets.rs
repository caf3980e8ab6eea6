//! Which UDP socket a transmission leaves from.
//!
//! Every socket is connected to one server and has a port that the kernel draws at random. At low rates each
//! transmission gets a fresh one, closed when its query ends: about 14.8 bits of port (28,232 of Linux's default
//! range) beside 16 of id. Under load a fresh socket costs more than everything else, so that ports then are drawn at
//! random from a pool of up to [`POOL`] for each server, each replaced after [`MOST_USES`] uses or [`LONGEST_USE`].

use std::time::{Duration, Instant};

use super::servers::ServerId;
use super::table::{Key, Slab};

/// Transmissions a second above which sockets are shared: below it a fresh one each costs less than 1 % of a core.
const FRESH_RATE: u32 = 500;
/// Over which the rate is measured.
const WINDOW: Duration = Duration::from_millis(100);
/// Sockets of one server that are shared under load.
const POOL: usize = 256;
/// Sockets in all, half of the usual descriptor limit of 1024, past which a server has to make do with
/// [`LEAST_POOL`].
const MOST_SOCKETS: usize = 512;
/// Sockets that a server gets in any case, so that its ports stay hard to guess.
const LEAST_POOL: usize = 64;
/// Transmissions that may leave from one socket.
const MOST_USES: u32 = 256;
/// How long a socket is given new transmissions.
pub(super) const LONGEST_USE: Duration = Duration::from_secs(2);

/// A transmission that waits for its answer: the query and which of its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub id: u16,
    pub query: Key,
    pub attempt: u8,
}

/// A transmission by its id among those that wait on one socket or connection.
pub(super) fn find(waiting: &[Waiting], id: u16) -> Option<Waiting> {
    waiting.iter().copied().find(|waiting| waiting.id == id)
}

/// An id that none of those waiting has. `None` when all are taken.
pub(super) fn free_id(waiting: &[Waiting], random: u64) -> Option<u16> {
    if waiting.len() > usize::from(u16::MAX) {
        return None;
    }
    // Four draws from one random number; a table so full that all four are taken is searched from the last.
    let mut id = random as u16;
    for shift in [16, 32, 48] {
        if find(waiting, id).is_none() {
            return Some(id);
        }
        id = (random >> shift) as u16;
    }
    while find(waiting, id).is_some() {
        id = id.wrapping_add(1);
    }
    Some(id)
}

/// One connected UDP socket.
pub(super) struct Socket {
    pub server: ServerId,
    pub waiting: Vec<Waiting>,
    /// When it gets no more transmissions.
    until: Instant,
    uses: u32,
    /// Whether it may get more transmissions.
    shared: bool,
}

/// The open UDP sockets.
#[derive(Default)]
pub(super) struct Sockets {
    pub open: Slab<Socket>,
    /// Those of each server that may get more transmissions.
    shared: Vec<(ServerId, Vec<Key>)>,
    spare: Vec<Vec<Waiting>>,
    /// When the window ends.
    window_ends: Option<Instant>,
    sent: (u32, u32),
    scratch: Vec<Key>,
}

impl Sockets {
    /// A socket to send from, and whether it has to be opened first. `exhausted`: no fresh one can be had.
    pub fn draw(&mut self, server: ServerId, exhausted: bool, random: u64, now: Instant) -> Option<(Key, bool)> {
        self.count(now);
        let enough = match (exhausted, self.open.len() >= MOST_SOCKETS, self.busy()) {
            (true, _, _) => 1,
            (false, true, _) => LEAST_POOL,
            (false, false, true) => POOL,
            (false, false, false) => usize::MAX,
        };
        let pool = self.shared.iter_mut().find(|(id, _)| *id == server).map(|(_, pool)| pool);
        if let Some(pool) = pool.filter(|pool| pool.len() >= enough) {
            let index = (random % pool.len() as u64) as usize;
            let key = pool[index];
            if let Some(socket) = self.open.get_mut(key) {
                socket.uses += 1;
                if socket.uses >= MOST_USES || now >= socket.until {
                    socket.shared = false;
                    pool.swap_remove(index);
                }
                return Some((key, false));
            }
            pool.swap_remove(index);
        }
        if exhausted {
            return None;
        }
        let waiting = self.spare.pop().unwrap_or_default();
        let key = self.open.insert(Socket { server, waiting, until: now + LONGEST_USE, uses: 1, shared: true });
        match self.shared.iter_mut().find(|(id, _)| *id == server) {
            Some((_, pool)) => pool.push(key),
            None => self.shared.push((server, vec![key])),
        }
        Some((key, true))
    }

    /// A transmission no longer waits. Returns whether the socket is to be closed, and then forgets it.
    pub fn release(&mut self, key: Key, id: u16) -> bool {
        let busy = self.busy();
        let Some(socket) = self.open.get_mut(key) else { return false };
        socket.waiting.retain(|waiting| waiting.id != id);
        if !socket.waiting.is_empty() {
            return false;
        }
        if busy && socket.shared {
            return false;
        }
        self.retire(key);
        true
    }

    /// Forgets an idle socket and keeps its storage for another one.
    fn retire(&mut self, key: Key) {
        if let Some(socket) = self.remove(key)
            && self.spare.len() < POOL
        {
            self.spare.push(socket.waiting);
        }
    }

    /// Forgets a socket.
    pub fn remove(&mut self, key: Key) -> Option<Socket> {
        let socket = self.open.remove(key)?;
        if socket.shared
            && let Some(at) = self.shared.iter().position(|(id, _)| *id == socket.server)
        {
            let pool = &mut self.shared[at].1;
            if let Some(index) = pool.iter().position(|other| *other == key) {
                // An empty one stays: at low rates the next query would have to allocate it anew.
                pool.swap_remove(index);
            }
        }
        Some(socket)
    }

    /// Forgets the idle sockets that are too old, or all idle ones, and lists them in `closed`.
    pub fn sweep(&mut self, all: bool, now: Instant, closed: &mut Vec<Key>) {
        self.roll(now);
        let all = all || !self.busy();
        let mut keys = std::mem::take(&mut self.scratch);
        self.open.keys(&mut keys);
        for &key in &keys {
            let due = |socket: &Socket| socket.waiting.is_empty() && (all || now >= socket.until);
            if self.open.get(key).is_some_and(due) {
                self.retire(key);
                closed.push(key);
            }
        }
        self.scratch = keys;
    }

    /// Whether sockets are kept for more transmissions.
    fn busy(&self) -> bool {
        self.sent.0.max(self.sent.1) >= FRESH_RATE / 10
    }

    fn count(&mut self, now: Instant) {
        self.roll(now);
        self.sent.1 += 1;
    }

    fn roll(&mut self, now: Instant) {
        let ends = *self.window_ends.get_or_insert_with(|| now + WINDOW);
        if now >= ends {
            self.sent = (if now < ends + WINDOW { self.sent.1 } else { 0 }, 0);
            self.window_ends = Some(now + WINDOW);
        }
    }
}
