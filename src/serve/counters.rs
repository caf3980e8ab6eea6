//! What the event loop counts, for any thread to read while it runs: relaxed atomics, never locked.
//!
//! [`Totals`] live as long as the process. A [`NameTable`] belongs to one configuration: a reload brings a new
//! one, and whoever made the old one keeps it for its last values. A stranger's packet is counted here and
//! never logged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::upstream::Books;
use crate::dns::answer::{Asked, Kind, QueryKind};
use crate::dns::wire::DropReason;

/// A number that only its owner adds to and everybody reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        // One thread adds, so that two plain instructions do what would otherwise take a locked one.
        self.set(self.get() + 1);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Counters of the whole server.
#[derive(Debug, Default)]
pub struct Totals {
    /// Datagrams received from clients.
    pub udp_received: Count,
    /// Messages received over TCP.
    pub tcp_received: Count,
    /// Messages shorter than a header.
    pub dropped_short: Count,
    /// Messages with QR=1.
    pub dropped_response: Count,
    /// Errors other than an empty queue while receiving from a listener.
    pub receive_errors: Count,
    /// Replies over UDP that could not be sent (ENOBUFS, EPERM, full buffer).
    pub send_errors: Count,
    /// Queries handed to the forwarder.
    pub forwarded: Count,
    /// Queries that waited for a first check result.
    pub parked: Count,
    /// Parked queries that gave way to newer ones.
    pub parked_shed: Count,
    /// Queries that came back from har's own upstream.
    pub returned: Count,
    /// TCP connections accepted.
    pub tcp_accepted: Count,
    /// TCP connections closed for being the longest idle at the limit.
    pub tcp_evicted: Count,
    /// Errors of `accept` (no descriptors left, mostly).
    pub tcp_accept_errors: Count,
    /// Connections closed by their deadline.
    pub tcp_expired: Count,
    answers: [Count; Kind::ALL.len()],
    books: [Count; 9],
    /// Somebody wants to know of the next query.
    to_tell: AtomicBool,
}

impl Totals {
    /// Replies of one kind that har gave itself.
    pub fn answers(&self, kind: Kind) -> u64 {
        self.answers.get(kind as usize).map_or(0, Count::get)
    }

    /// From now on the next query is worth a [`super::Notice::Traffic`], once.
    pub fn be_told(&self) {
        self.to_tell.store(true, Ordering::SeqCst);
    }

    /// Whether somebody wants to know of a query; once.
    pub(super) fn is_to_tell(&self) -> bool {
        // The load spares a busy server the locked instruction.
        self.to_tell.load(Ordering::Relaxed) && self.to_tell.swap(false, Ordering::Relaxed)
    }

    /// Messages of clients.
    pub(super) fn received(&self) -> u64 {
        self.udp_received.get() + self.tcp_received.get()
    }

    /// What became of the forwarded queries, as of the last wake of the loop.
    pub fn books(&self) -> Books {
        let [admitted, joined, answered, expired, shed, failed, forgotten, sent, ignored] = &self.books;
        Books {
            admitted: admitted.get(),
            joined: joined.get(),
            answered: answered.get(),
            expired: expired.get(),
            shed: shed.get(),
            failed: failed.get(),
            forgotten: forgotten.get(),
            sent: sent.get(),
            ignored: ignored.get(),
        }
    }

    pub(super) fn set_books(&self, books: Books) {
        let Books { admitted, joined, answered, expired, shed, failed, forgotten, sent, ignored } = books;
        let values = [admitted, joined, answered, expired, shed, failed, forgotten, sent, ignored];
        for (count, value) in self.books.iter().zip(values) {
            count.set(value);
        }
    }

    pub(super) fn count_answer(&self, kind: Kind) {
        if let Some(count) = self.answers.get(kind as usize) {
            count.add();
        }
    }

    pub(super) fn count_drop(&self, reason: DropReason) {
        match reason {
            DropReason::TooShort => self.dropped_short.add(),
            DropReason::Response => self.dropped_response.add(),
        }
    }
}

/// Counters of the names of one configuration, by the index they have in its snapshot.
#[derive(Debug)]
pub struct NameTable {
    /// Tells the tables of successive configurations apart, in [`super::Notice::Asked`].
    pub generation: u64,
    names: Box<[NameCounters]>,
}

impl NameTable {
    /// A table for `names` names.
    pub fn new(generation: u64, names: usize) -> NameTable {
        NameTable { generation, names: (0..names).map(|_| NameCounters::default()).collect() }
    }

    /// The counters of one name.
    pub fn name(&self, index: u32) -> Option<&NameCounters> {
        self.names.get(index as usize)
    }
}

/// Kinds of replies that a configured name gets: the first of [`Kind::ALL`].
const KINDS_OF_A_NAME: usize = 6;

/// Counters of one name. In this order and at this alignment a query that is answered with addresses writes to one cache
/// line: among 10,000 names that is what counting costs.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct NameCounters {
    /// Set by the poller when it lets the name rest, cleared by the loop with the query that ends the rest.
    pub idle: AtomicBool,
    asked_ms: AtomicU64,
    queries: [Count; QueryKind::ALL.len()],
    answers: [Count; KINDS_OF_A_NAME],
    /// Queries forwarded, whatever their type.
    pub forwarded: Count,
}

impl NameCounters {
    /// Queries of one type.
    pub fn queries(&self, kind: QueryKind) -> u64 {
        self.queries.get(kind as usize).map_or(0, Count::get)
    }

    /// Replies of one kind that har gave itself.
    pub fn answers(&self, kind: Kind) -> u64 {
        self.answers.get(kind as usize).map_or(0, Count::get)
    }

    /// When it was last asked for, milliseconds of [`crate::os::Clock`]; 0 = never.
    pub fn asked_ms(&self) -> u64 {
        self.asked_ms.load(Ordering::Relaxed)
    }

    /// Counts a query; `true` when it ended the name's idleness.
    pub(super) fn count_query(&self, asked: Asked, now_ms: u64) -> bool {
        if let Some(count) = self.queries.get(asked.kind as usize) {
            count.add();
        }
        self.asked_ms.store(now_ms, Ordering::Relaxed);
        // The load spares busy names the locked instruction.
        self.idle.load(Ordering::Relaxed) && self.idle.swap(false, Ordering::Relaxed)
    }

    pub(super) fn count_answer(&self, kind: Kind) {
        if let Some(count) = self.answers.get(kind as usize) {
            count.add();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_query_with_an_answer_is_counted_in_one_cache_line() {
        let end = offset_of!(NameCounters, answers) + size_of::<Count>() * (Kind::Stale as usize + 1);
        assert!(end <= 64 && align_of::<NameCounters>() == 64, "{end}");
        assert!(size_of::<NameCounters>() <= 128, "{}", size_of::<NameCounters>());
    }

    #[test]
    fn each_kind_of_a_name_has_its_place() {
        let name = NameCounters::default();
        for (times, kind) in (1..).zip(Kind::ALL) {
            (0..times).for_each(|_| name.count_answer(kind));
        }
        assert_eq!(Kind::ALL.map(|kind| name.answers(kind)), [1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0]);
    }
}
