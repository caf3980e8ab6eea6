//! What is particular to queries over TCP: where they leave from, and connections that close, refuse or say nothing.
//!
//! TCP repeats by itself what gets lost. Another transmission to the same server is only worth it when the connection
//! is gone, when the query stands behind a slow answer and another connection is to be had, or after a long time;
//! then it goes over UDP, so that a slow server's other connections stay free. A server may close a connection after
//! any answer (RFC 7766 section 6.2.4): what it left unanswered is asked again, and no more is asked on one from then
//! on than it answers. Who finds no room is held until there is some.

use std::time::{Duration, Instant};

use super::budget::Need;
use super::entry::{Attempt, AttemptState, Entry, Via};
use super::servers::{Server, ServerId};
use super::sockets::{self, Waiting};
use super::steps::Way;
use super::streams::{Place, Stream};
use super::{Action, Failure, InFlight, Random, SWEEP_EVERY, ede, find_waiting, rcode, table::Key, wire};

/// Least wait for an answer over TCP: a connection may have to be opened first.
const LEAST_TCP_WAIT: Duration = Duration::from_millis(200);
/// How long an answer over TCP is waited for before UDP is tried: packets to the port may be dropped.
const SILENCE: Duration = Duration::from_secs(1);

impl InFlight {
    /// A message came in on a connection.
    pub fn stream_message(&mut self, stream: Key, bytes: &[u8], now: Instant, random: Random<'_>) {
        let Some(open) = self.streams.open.get(stream) else { return };
        let server = open.server;
        // Of a query that is gone only the id is known.
        let is_for = |waiting: &Waiting| {
            self.entries.get(waiting.query).is_none_or(|entry| wire::matches_question(&entry.message, bytes))
        };
        let waiting = find_waiting(Some(&open.waiting), bytes).filter(is_for);
        if let Some(waiting) = waiting {
            self.streams.heard(stream, waiting.id, self.entries.get(waiting.query).is_none(), now);
            if let Some(server) = self.servers.get_mut(server) {
                server.retry_tcp();
            }
        }
        self.message_in(waiting, bytes, now, random);
        self.serve_held(now, random);
    }

    /// A connection could not be opened, failed or was closed. It is gone.
    pub fn stream_closed(&mut self, stream: Key, failure: Failure, now: Instant, random: Random<'_>) {
        let Some(stream) = self.streams.open.remove(stream) else { return };
        if failure == Failure::Exhausted {
            let room = self.make_room(now);
            for waiting in &stream.waiting {
                self.unsent(*waiting, room, now, random);
            }
        } else {
            self.learn_from_end(&stream, failure, now);
            for waiting in &stream.waiting {
                self.lost(*waiting, failure, now, random);
            }
        }
        self.serve_held(now, random);
        self.settle();
    }

    /// What the end of a connection says about its server.
    fn learn_from_end(&mut self, stream: &Stream, failure: Failure, now: Instant) {
        let proven = self.streams.proven(stream.server);
        let Some(server) = self.servers.get_mut(stream.server) else { return };
        if stream.answered > 0 {
            if let Some(answers) = stream.ended_after(now) {
                server.closes_after(answers, now);
            }
        } else if proven > 0 {
            // Others are served: this one was too many.
            server.takes_streams(proven, now);
        } else if failure == Failure::Closed {
            server.closed_in_vain(now);
        } else {
            server.refused_tcp(now);
        }
    }

    /// Takes a place on a connection for a transmission. `None`: there is none now.
    pub(super) fn over_tcp(
        &mut self,
        key: Key,
        attempt: u8,
        server: ServerId,
        way: Way,
        now: Instant,
        random: Random<'_>,
    ) -> Option<(Via, u16)> {
        let record = self.servers.get(server)?;
        let place = self.streams.place(server, record.tcp_limits(now), way == Way::Open, now);
        let stream = match place {
            Some(Place::Free(stream) | Place::Behind(stream)) => stream,
            Some(Place::Fresh | Place::Instead(_)) => {
                if let Some(Place::Instead(old)) = place {
                    self.streams.open.remove(old);
                    self.actions.push_back(Action::CloseStream { stream: old });
                }
                let stream = self.streams.enter(server, now);
                self.actions.push_back(Action::OpenStream { stream, server: record.address });
                stream
            }
            None => {
                if way != Way::Open {
                    self.hold(key, server);
                }
                return None;
            }
        };
        let id = sockets::free_id(&self.streams.open.get(stream)?.waiting, random())?;
        self.streams.give(stream, Waiting { id, query: key, attempt }, now);
        self.actions.push_back(Action::SendStream { stream, query: key, id });
        self.sweep_at.get_or_insert_with(|| now + SWEEP_EVERY);
        Some((Via::Tcp(stream), id))
    }

    /// A query waits until there is room on a connection to a server.
    fn hold(&mut self, key: Key, server: ServerId) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.held.replace(server) != Some(server) {
            self.streams.release_held(key);
            self.streams.held.push_back((server, key));
        }
    }

    /// Sends what waits for room, as far as there is some.
    pub(super) fn serve_held(&mut self, now: Instant, random: Random<'_>) {
        let mut next = 0;
        while let Some(&(server, key)) = self.streams.held.get(next) {
            let full = self.servers.get(server).is_some_and(|record| {
                record.takes_tcp(now) && self.streams.place(server, record.tcp_limits(now), false, now).is_none()
            });
            if full {
                next += 1;
                continue;
            }
            self.streams.held.remove(next);
            let Some(entry) = self.entries.get_mut(key) else { continue };
            entry.held = None;
            // One that a reload took off the list is not asked any more: the query's next step asks another.
            if entry.route.servers.contains(&server) {
                self.transmit(key, server, Way::Usual, now, random);
            }
        }
    }

    /// How to ask a server again that was asked before, if that is of use now.
    pub(super) fn way_again(&self, entry: &Entry, server: ServerId, now: Instant) -> Option<Way> {
        let record = self.servers.get(server)?;
        if !entry.is_tcp() || !record.takes_tcp(now) {
            return Some(Way::Usual);
        }
        if entry.held == Some(server) {
            return None;
        }
        let Some(last) = entry.over_tcp(server).rfind(|attempt| attempt.state == AttemptState::Waiting) else {
            return Some(Way::Usual);
        };
        let Via::Tcp(stream) = last.via else { return None };
        let place = || self.streams.place(server, record.tcp_limits(now), false, now);
        if self.streams.is_behind(stream, last.id, now) && !matches!(place(), None | Some(Place::Behind(_))) {
            return Some(Way::Usual);
        }
        let asked_over_udp = entry.waiting().any(|other| other.server == server && matches!(other.via, Via::Udp(_)));
        (last.overdue && !asked_over_udp).then_some(Way::Udp)
    }

    /// How long an answer is waited for before something is done; over TCP a query may open a connection and wait
    /// for others.
    pub(super) fn patience(&self, entry: &Entry, server: &Server, now: Instant) -> Duration {
        if entry.is_tcp() && server.takes_tcp(now) {
            (3 * server.patience()).max(LEAST_TCP_WAIT).min(self.timeout / 2)
        } else {
            server.patience()
        }
    }

    /// Counts the transmissions over TCP that have gone unanswered for too long. Returns when the next one will have.
    pub(super) fn book_silence(&mut self, key: Key, now: Instant) -> Option<Instant> {
        let entry = self.entries.get_mut(key).filter(|entry| entry.is_tcp())?;
        let mut next = None;
        let mut died = false;
        for attempt in entry.attempts.iter_mut().filter(|a| a.state == AttemptState::Waiting && !a.overdue) {
            let (Via::Tcp(stream), Some(server)) = (attempt.via, self.servers.get_mut(attempt.server)) else {
                continue;
            };
            let silence = (3 * server.patience()).max(SILENCE).min(self.timeout / 2);
            let due = attempt.first_sent + silence;
            if due <= now {
                attempt.overdue = true;
                died |= server.missed(attempt.last_sent, now);
                if self.streams.looks_dropped(stream) {
                    server.refused_tcp(now);
                }
            } else {
                next = Some(next.map_or(due, |other: Instant| other.min(due)));
            }
        }
        if died {
            self.wake_the_stranded(now);
        }
        next
    }

    /// A truncated reply came for a TCP client. When it came over UDP, because TCP had been refused or said nothing,
    /// TCP gets another chance, unless this very query has had it.
    pub(super) fn truncated_for_tcp(&mut self, key: Key, index: usize, now: Instant, random: Random<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(attempt) = entry.attempts.get_mut(index) else { return };
        let (server, via, id) = (attempt.server, attempt.via, attempt.id);
        if std::mem::replace(&mut attempt.state, AttemptState::Useless) == AttemptState::Waiting {
            self.release(via, id, now);
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        let silent = |attempt: &Attempt| attempt.state == AttemptState::Waiting;
        if entry.over_tcp(server).all(silent)
            && entry.over_tcp(server).count() < 2
            && let Some(record) = self.servers.get_mut(server)
        {
            record.retry_tcp();
            if self.budget.extra(Need::Replacement, now) {
                self.restart(key, server, now);
                self.transmit(key, server, Way::Usual, now, random);
                return;
            }
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.over_tcp(server).any(silent) {
            // The whole answer may still come.
            return;
        }
        if entry.best.is_empty() {
            wire::set_id(&mut entry.message, entry.id);
            if let Ok(query) = wire::parse(&entry.message) {
                wire::error(&query, rcode::SERVFAIL, Some(ede::NETWORK_ERROR), &mut entry.best);
            }
        }
        self.advance(key, now, random);
    }
}
