//! What the event loop counts, for any thread to read while it runs: relaxed atomics, never locked.
//!
//! [`Totals`] live as long as the process; what is counted of a name stands beside its answer, in
//! [`NameTable`](crate::dns::lines::NameTable). A stranger's packet is counted here and never logged.

use std::sync::atomic::{AtomicBool, Ordering};

use super::upstream::Books;
use crate::dns::answer::Kind;
use crate::dns::lines::Count;
use crate::dns::wire::DropReason;

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
