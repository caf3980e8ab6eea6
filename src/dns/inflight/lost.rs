//! What becomes of queries whose socket or connection is gone, and of sockets and connections that nobody needs.

use std::time::Instant;

use super::budget::Need;
use super::entry::{AttemptState, Via};
use super::servers::ServerId;
use super::sockets::Waiting;
use super::steps::Way;
use super::{Action, Failure, InFlight, Random, SWEEP_EVERY, table::Key};

impl InFlight {
    /// A server's port is closed, or there is no way to it.
    pub(super) fn died(&mut self, server: ServerId, now: Instant) {
        if self.servers.get_mut(server).is_some_and(|server| server.die(now)) {
            self.wake_the_stranded(now);
        }
    }

    /// Gives a turn at once to the queries that wait for dead servers only while another one lives.
    pub(super) fn wake_the_stranded(&mut self, now: Instant) {
        let mut keys = std::mem::take(&mut self.scratch);
        keys.clear();
        keys.extend(self.entries.iter().filter_map(|(key, entry)| {
            let stranded = !entry.ghost
                && entry.waiting().next().is_some()
                && entry.waiting().all(|attempt| self.is_dead(attempt.server))
                && entry.route.servers.iter().any(|id| !self.is_dead(*id));
            stranded.then_some(key)
        }));
        for &key in &keys {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.wake = now.min(entry.deadline);
                self.timers.set(entry.wake, key);
            }
        }
        self.scratch = keys;
    }

    /// A transmission's socket or connection is gone.
    pub(super) fn lost(&mut self, waiting: Waiting, failure: Failure, now: Instant, random: Random<'_>) {
        let state = if failure == Failure::Closed { AttemptState::Closed } else { AttemptState::Lost };
        let Some((server, via)) = self.ends_as(waiting, state, now) else { return };
        // What a connection leaves unanswered is asked again; over UDP once the server is known to refuse TCP.
        if matches!(via, Via::Tcp(_)) && self.budget.extra(Need::Replacement, now) {
            self.restart(waiting.query, server, now);
            self.transmit(waiting.query, server, Way::Usual, now, random);
        } else {
            self.advance(waiting.query, now, random);
        }
    }

    /// A transmission did not leave for want of a descriptor; `room`: there is one now. It is no extra one to send it
    /// again. Without room only an open socket will do; an open connection has no use for the same query twice.
    pub(super) fn unsent(&mut self, waiting: Waiting, room: bool, now: Instant, random: Random<'_>) {
        let Some((server, via)) = self.ends_as(waiting, AttemptState::Unsent, now) else { return };
        let Some(entry) = self.entries.get(waiting.query) else { return };
        if room || matches!(via, Via::Udp(_)) || entry.waiting().next().is_none() {
            let way = if room { Way::Usual } else { Way::Open };
            self.transmit(waiting.query, server, way, now, random);
        }
    }

    /// Notes what became of a transmission. Returns where it had gone, if its query is still under way.
    fn ends_as(&mut self, waiting: Waiting, state: AttemptState, now: Instant) -> Option<(ServerId, Via)> {
        let entry = self.entries.get_mut(waiting.query)?;
        let attempt = entry.attempts.get_mut(usize::from(waiting.attempt))?;
        attempt.state = state;
        let (server, via, heard) = (attempt.server, attempt.via, attempt.heard.is_some());
        if state == AttemptState::Lost && !heard {
            entry.unanswered(server);
        }
        if !entry.ghost {
            return Some((server, via));
        }
        if entry.waiting().next().is_none() {
            self.end(waiting.query, now);
        }
        None
    }

    /// Closes what is idle, and what listens without a client waiting, because descriptors ran out. Returns whether
    /// that gave any back.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        let before = self.actions.len();
        let mut ghosts: Vec<Key> = Vec::new();
        ghosts.extend(self.entries.iter().filter(|(_, entry)| entry.ghost).map(|(key, _)| key));
        ghosts.into_iter().for_each(|key| self.end(key, now));
        self.sweep(true, now);
        self.actions.len() > before
    }

    /// Closes sockets and connections that have been idle for too long, or all idle ones.
    pub(super) fn sweep(&mut self, all: bool, now: Instant) {
        let mut closed = std::mem::take(&mut self.scratch);
        closed.clear();
        self.sockets.sweep(all, now, &mut closed);
        self.actions.extend(closed.drain(..).map(|socket| Action::CloseSocket { socket }));
        self.streams.sweep(all, now, &mut closed);
        self.actions.extend(closed.drain(..).map(|stream| Action::CloseStream { stream }));
        self.scratch = closed;
        if self.sweep_at.is_none() && self.sockets.open.len() + self.streams.open.len() > 0 {
            self.sweep_at = Some(now + SWEEP_EVERY);
        }
    }
}
