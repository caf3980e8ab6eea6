//! What other threads tell the event loop, and the box it waits in.
//!
//! The sender never waits for the loop. Answers of one name coalesce (the latest wins), a new table clears the
//! answers of the old one, and of everything else the last word counts: the box is bounded by the number of
//! names. Names are told apart by index alone, so one thread sends tables and answers.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;

use super::{Limits, upstream};
use crate::dns::HostName;
use crate::dns::snapshot::{NameAnswer, Snapshot};
use crate::os;

/// News for the event loop.
pub enum Update {
    /// A new configuration.
    Table(Box<Table>),
    /// What is answered for one name of the newest table from now on.
    Answer {
        /// Its index.
        name: u32,
        /// Both families of one moment.
        answer: NameAnswer,
    },
    /// Other upstream servers, the rest of the configuration unchanged.
    Forwarding(Forwarding),
    /// The host's addresses or routes changed, or it woke from suspend: fresh sockets to the upstream.
    Renew,
    /// Names that are asked upstream to find loops: who asks har for one of them is har's own upstream.
    Probes(Vec<HostName>),
    /// Listeners that a reload adds, bound already, and addresses it no longer has.
    Listeners {
        /// To be served from now on.
        add: Vec<os::Listener>,
        /// To be closed.
        remove: Vec<SocketAddr>,
    },
    /// Every name has an answer worth giving: tell the service manager, once.
    Ready,
    /// A reload is over, whether it was taken over or not (a [`Update::Table`] says so by itself).
    Reloaded,
    /// The line for the service manager.
    Status(String),
    /// Stop as on SIGTERM.
    Stop,
}

/// Everything that a configuration changes in the loop.
pub struct Table {
    /// The names and what is answered for them now.
    pub snapshot: Snapshot,
    /// The upstream servers.
    pub forwarding: Forwarding,
    /// Bounds of TCP.
    pub limits: Limits,
}

/// Where and how queries are forwarded.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// Servers and limits.
    pub settings: upstream::Settings,
    /// Local address to ask from.
    pub source: Option<IpAddr>,
}

/// The writing end; every clone writes to the same loop.
#[derive(Clone)]
pub struct UpdateSender(Arc<Shared>);

struct Shared {
    pending: Mutex<Pending>,
    waker: Waker,
    beats: AtomicU64,
    began: Instant,
    /// Until when the poller said it would sleep, in milliseconds since then.
    asleep_until: AtomicU64,
}

/// What has come together since the loop last looked.
#[derive(Default)]
pub(super) struct Pending {
    pub table: Option<Box<Table>>,
    pub answers: HashMap<u32, NameAnswer>,
    pub forwarding: Option<Forwarding>,
    pub probes: Option<Vec<HostName>>,
    pub add: Vec<os::Listener>,
    pub remove: Vec<SocketAddr>,
    pub renew: bool,
    pub ready: bool,
    pub reloaded: bool,
    pub stop: bool,
    pub status: Option<String>,
    filled: bool,
}

impl UpdateSender {
    pub(super) fn new(waker: Waker) -> UpdateSender {
        let pending = Mutex::new(Pending::default());
        UpdateSender(Arc::new(Shared {
            pending,
            waker,
            beats: AtomicU64::new(0),
            began: Instant::now(),
            asleep_until: AtomicU64::new(0),
        }))
    }

    /// Hands an update over and wakes the loop.
    ///
    /// # Errors
    /// When the loop could not be woken; the update is then taken with its next wake.
    pub fn send(&self, update: Update) -> io::Result<()> {
        let mut pending = self.lock();
        pending.merge(update);
        // One wake for everything that the loop has not taken yet.
        if std::mem::replace(&mut pending.filled, true) { Ok(()) } else { self.0.waker.wake() }
    }

    /// A sign of life of the poller, and how long it will sleep now: the watchdog is fed only while these come. Wakes
    /// nobody.
    pub fn beat(&self, sleep: Duration) {
        let until = (self.0.began.elapsed() + sleep).as_millis();
        self.0.asleep_until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the poller need not give a sign of life yet.
    pub(super) fn is_asleep(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.0.began).as_millis();
        now < u128::from(self.0.asleep_until.load(Ordering::Relaxed))
    }

    pub(super) fn beats(&self) -> u64 {
        self.0.beats.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> Pending {
        std::mem::take(&mut *self.lock())
    }

    // A panic ends the daemon, so that a poisoned lock is only seen in tests, where the value is as good as before.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn merge(&mut self, update: Update) {
        match update {
            Update::Table(table) => {
                self.table = Some(table);
                self.answers.clear();
                self.forwarding = None;
            }
            Update::Answer { name, answer } => {
                self.answers.insert(name, answer);
            }
            Update::Forwarding(forwarding) => self.forwarding = Some(forwarding),
            Update::Renew => self.renew = true,
            Update::Probes(names) => self.probes = Some(names),
            Update::Listeners { add, remove } => {
                // What the loop has not seen yet may be gone again. So those that wait are listeners of one configuration.
                self.add.retain(|listener| !remove.contains(&listener.address));
                self.add.extend(add);
                self.remove.extend(remove);
            }
            Update::Ready => self.ready = true,
            Update::Reloaded => self.reloaded = true,
            Update::Status(line) => self.status = Some(line),
            Update::Stop => self.stop = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::snapshot::FamilyAnswer;

    fn answer(bypass: bool) -> NameAnswer {
        NameAnswer { v4: FamilyAnswer::Empty, v6: FamilyAnswer::Empty, bypass }
    }

    fn table() -> Update {
        let settings = upstream::Settings {
            routes: Vec::new(),
            timeout: std::time::Duration::from_secs(1),
            max_forwards: 1,
            looping: Vec::new(),
        };
        Update::Table(Box::new(Table {
            snapshot: Snapshot::new(2, Vec::new(), &[]),
            forwarding: Forwarding { settings, source: None },
            limits: Limits { tcp_connections: 1, tcp_idle: std::time::Duration::from_secs(1) },
        }))
    }

    #[test]
    fn the_latest_answer_wins_and_a_table_clears_them() {
        let poll = mio::Poll::new().unwrap();
        let sender = UpdateSender::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        for round in 0..1000 {
            sender.send(Update::Answer { name: round % 3, answer: answer(round >= 997) }).unwrap();
        }
        let pending = sender.take();
        assert_eq!(pending.answers.len(), 3);
        assert!(pending.answers.values().all(|answer| answer.bypass));

        sender.send(Update::Answer { name: 1, answer: answer(false) }).unwrap();
        sender.send(table()).unwrap();
        sender.send(Update::Answer { name: 2, answer: answer(false) }).unwrap();
        let pending = sender.take();
        assert!(pending.table.is_some());
        assert_eq!(pending.answers.keys().copied().collect::<Vec<_>>(), [2]);
        assert!(sender.take().answers.is_empty());
    }

    #[test]
    fn listeners_that_come_together_are_all_taken_but_those_that_went_again() {
        let poll = mio::Poll::new().unwrap();
        let sender = UpdateSender::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let bind = |_| os::sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (many, one) = ((0..100).map(bind).collect::<Vec<_>>(), bind(0));
        let (first, last, old) = (many[0].address, one.address, "127.0.0.1:53".parse().unwrap());
        sender.send(Update::Listeners { add: many, remove: vec![old] }).unwrap();
        sender.send(Update::Listeners { add: vec![one], remove: vec![first] }).unwrap();
        let pending = sender.take();
        assert_eq!(pending.add.len(), 100);
        assert!(pending.add.iter().all(|listener| listener.address != first));
        assert_eq!(pending.add.last().map(|listener| listener.address), Some(last));
        assert_eq!(pending.remove, [old, first]);
    }
}
