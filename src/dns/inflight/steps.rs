//! What happens to one query: sent, sent again or elsewhere, answered, given up.
//!
//! The inputs in `inflight` end here. A first retransmission repeats the datagram where the server is reliable;
//! after that, and at once where it is not, another server or a fresh socket is used. What surely failed is
//! replaced without waiting.

use std::time::{Duration, Instant};

use super::budget::Need;
use super::entry::{Attempt, AttemptState, Entry, MOST_ATTEMPTS, Via};
use super::servers::{Explore, LEAST_WAIT, Server, ServerId, count};
use super::sockets::{self, Waiting};
use super::{
    Action, Client, GHOST_FOR, InFlight, MOST_GHOSTS, Random, SPARE, SWEEP_EVERY, ede, rcode, table::Key, wire,
};

/// One query in so many is copied to the servers that are not in use, at most once a second each.
const EXPLORE_ONE_IN: u32 = 64;
/// How long a query is tried again when every server refuses or cannot be reached: a resolver that restarts is
/// back within it, and a host without a network is told soon.
const HOPELESS_AFTER: Duration = Duration::from_secs(1);
/// A reply this soon after a repetition answers the repetition, also where the usual round trip is even shorter.
const PROMPT: Duration = Duration::from_millis(2);

/// How a transmission may leave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As its client and the server have it: over TCP for a TCP client unless the server refuses that.
    Usual,
    /// The same, from what is open already: no descriptor is left.
    Open,
    /// Over UDP whoever asked.
    Udp,
}

impl InFlight {
    /// Sends a query for the first time, with copies to servers whose state is to be learnt.
    pub(super) fn start(&mut self, key: Key, now: Instant, random: Random<'_>) {
        let Some(entry) = self.entries.get(key) else { return };
        let route = std::sync::Arc::clone(&entry.route);
        let Some(server) = self.servers.choose(&route.servers, route.fastest, random(), |_| Some(0)) else { return };
        self.restart(key, server, now);
        self.transmit(key, server, Way::Usual, now, random);
        if route.servers.len() == 1 {
            return;
        }
        self.explored = self.explored.wrapping_add(1);
        let explore = match (route.fastest, self.explored.is_multiple_of(EXPLORE_ONE_IN)) {
            (false, _) => Explore::Nobody,
            (true, false) => Explore::Unheard,
            (true, true) => Explore::Everybody,
        };
        // The living come first: when the one chosen is dead all are, and all are tried.
        let all_dead = self.is_dead(server);
        for &other in route.servers.iter().filter(|other| **other != server) {
            let Some(record) = self.servers.get_mut(other) else { continue };
            let need = if record.is_dead() { Need::Replacement } else { Need::Guess };
            if (record.copy_due(explore, now) || all_dead) && self.budget.extra(need, now) {
                self.transmit(key, other, Way::Usual, now, random);
            }
        }
    }

    /// Sends a query anew whose transmissions are all forgotten, as soon as the budget has it.
    pub(super) fn start_anew(&mut self, key: Key, now: Instant, random: Random<'_>) {
        if self.budget.extra(Need::Replacement, now) {
            self.start(key, now, random);
        } else if let Some(entry) = self.entries.get_mut(key) {
            entry.restart(LEAST_WAIT, now);
            self.timers.set(entry.wake, key);
        }
    }

    /// A query's time has come.
    pub(super) fn step(&mut self, key: Key, now: Instant, random: Random<'_>) {
        let Some(entry) = self.entries.get(key) else { return };
        if entry.ghost {
            self.bury(key, now);
            return;
        }
        if now >= entry.deadline {
            self.give_up(key, now);
            return;
        }
        self.book_misses(key, now);
        let silent_at = self.book_silence(key, now);
        let Some(entry) = self.entries.get(key) else { return };
        let hopeless = entry.is_refused() && now.saturating_duration_since(entry.admitted) >= HOPELESS_AFTER;
        if hopeless || (!entry.best.is_empty() && self.untried(entry, true).is_none()) {
            self.give_up(key, now);
            return;
        }
        self.knock_again(key, now, random);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.double(now);
            entry.wake = silent_at.map_or(entry.wake, |at| at.min(entry.wake));
            self.timers.set(entry.wake, key);
        }
        self.hurry_if_hopeless(key, now);
    }

    /// Repeats the last transmission or makes a new one, if the budget has it.
    fn knock_again(&mut self, key: Key, now: Instant, random: Random<'_>) {
        let Some(entry) = self.entries.get(key) else { return };
        let all_dead = entry.route.servers.iter().all(|id| self.is_dead(*id));
        let hope = entry.waiting().any(|attempt| all_dead || !self.is_dead(attempt.server));
        let need = if hope { Need::Guess } else { Need::Replacement };
        let repeatable = entry.attempts.iter().rposition(|attempt| {
            attempt.state == AttemptState::Waiting
                && attempt.sends == 1
                && matches!(attempt.via, Via::Udp(_))
                && self.servers.get(attempt.server).is_some_and(|server| !server.looping)
        });
        let alternative = self.untried(entry, true);
        let reliable = |index: usize| {
            let server = entry.attempts.get(index).map(|attempt| attempt.server);
            // One that a reload took off the list is not asked again.
            let listed = server.filter(|server| entry.route.servers.contains(server));
            listed.and_then(|server| self.servers.get(server)).is_some_and(Server::is_reliable) || alternative.is_none()
        };
        if let Some(index) = repeatable.filter(|index| reliable(*index)) {
            if self.budget.extra(need, now) {
                self.repeat(key, index, now);
            }
            return;
        }
        // The one tried least, those that failed last; the dead only among the dead.
        let place = |id| {
            let (tries, failed) = entry.tries(id);
            let place = tries.min(MOST_ATTEMPTS) + if failed { MOST_ATTEMPTS } else { 0 };
            (all_dead || !self.is_dead(id)).then_some(place as u8)
        };
        let other = || {
            let server = self.servers.choose(&entry.route.servers, entry.route.fastest, 0, place)?;
            Some((server, self.way_again(entry, server, now)?))
        };
        if let Some((server, way)) = alternative.map(|server| (server, Way::Usual)).or_else(other)
            && self.budget.extra(need, now)
        {
            self.transmit(key, server, way, now, random);
        }
    }

    /// What was sent is known to bring nothing (more): asks the next server at once, or relays what there is.
    pub(super) fn advance(&mut self, key: Key, now: Instant, random: Random<'_>) {
        let Some(entry) = self.entries.get(key) else { return };
        let only_living = !entry.best.is_empty();
        if let Some(server) = self.untried(entry, only_living) {
            if self.budget.extra(Need::Replacement, now) {
                self.restart(key, server, now);
                self.transmit(key, server, Way::Usual, now, random);
            }
        } else if !entry.best.is_empty() && entry.waiting().all(|attempt| self.is_dead(attempt.server)) {
            self.give_up(key, now);
        }
        // Else another transmission is still out, or the next step asks the budget again or begins a new round.
        self.hurry_if_hopeless(key, now);
    }

    /// With every transmission refused the wait must not double past the moment at which that is told.
    fn hurry_if_hopeless(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let end = (entry.admitted + HOPELESS_AFTER).max(now);
        if entry.is_refused() && end < entry.wake {
            entry.wake = end;
            self.timers.set(end, key);
        }
    }

    /// A server of the query's route that it was not sent to yet.
    fn untried(&self, entry: &Entry, only_living: bool) -> Option<ServerId> {
        let place = |id| (entry.tries(id).0 == 0 && !(only_living && self.is_dead(id))).then_some(0);
        self.servers.choose(&entry.route.servers, entry.route.fastest, 0, place)
    }

    pub(super) fn is_dead(&self, id: ServerId) -> bool {
        self.servers.get(id).is_none_or(Server::is_dead)
    }

    /// Starts the waits of a query anew, as long as its server usually takes.
    pub(super) fn restart(&mut self, key: Key, server: ServerId, now: Instant) {
        let (Some(entry), Some(server)) = (self.entries.get(key), self.servers.get(server)) else { return };
        let patience = self.patience(entry, server, now);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.restart(patience, now);
        self.timers.set(entry.wake, key);
    }

    /// Sends a query to a server under a new id.
    pub(super) fn transmit(&mut self, key: Key, server: ServerId, way: Way, now: Instant, random: Random<'_>) -> bool {
        let Some(entry) = self.entries.get(key) else { return false };
        let Some(record) = self.servers.get(server) else { return false };
        if entry.attempts.len() >= MOST_ATTEMPTS {
            return false;
        }
        let attempt = entry.attempts.len() as u8;
        let from = if entry.is_tcp() && way != Way::Udp && record.takes_tcp(now) {
            self.over_tcp(key, attempt, server, way, now, random)
        } else {
            self.over_udp(key, attempt, server, way, now, random)
        };
        let Some((via, id)) = from else { return false };
        self.books.sent += 1;
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if let Some(counters) = entry.route.counters(server) {
            count(&counters.queries);
        }
        let state = AttemptState::Waiting;
        let (sends, overdue, heard) = (1, false, None);
        entry.attempts.push(Attempt { server, via, id, first_sent: now, last_sent: now, sends, overdue, heard, state });
        true
    }

    /// Takes a socket for a transmission.
    fn over_udp(
        &mut self,
        key: Key,
        attempt: u8,
        server: ServerId,
        way: Way,
        now: Instant,
        random: Random<'_>,
    ) -> Option<(Via, u16)> {
        let (socket, fresh) = self.sockets.draw(server, way == Way::Open, random(), now)?;
        if fresh {
            let server = self.servers.get(server)?.address;
            self.actions.push_back(Action::OpenSocket { socket, server });
        }
        let open = self.sockets.open.get_mut(socket)?;
        let id = sockets::free_id(&open.waiting, random())?;
        open.waiting.push(Waiting { id, query: key, attempt });
        self.actions.push_back(Action::Send { socket, query: key, id });
        Some((Via::Udp(socket), id))
    }

    /// Sends the same datagram from the same socket again.
    fn repeat(&mut self, key: Key, index: usize, now: Instant) {
        let Some(attempt) = self.entries.get_mut(key).and_then(|entry| entry.attempts.get_mut(index)) else { return };
        let Via::Udp(socket) = attempt.via else { return };
        attempt.sends += 1;
        attempt.last_sent = now;
        self.actions.push_back(Action::Send { socket, query: key, id: attempt.id });
        self.books.sent += 1;
    }

    /// A reply that matches one of a query's transmissions.
    pub(super) fn answered(&mut self, key: Key, index: usize, bytes: &[u8], now: Instant, random: Random<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(attempt) = entry.attempts.get_mut(index) else { return };
        let code = wire::rcode(bytes).unwrap_or(rcode::SERVFAIL);
        let bad = matches!(code, rcode::SERVFAIL | rcode::REFUSED);
        let udp = matches!(attempt.via, Via::Udp(_));
        let before = *attempt;
        let listens_on = !entry.ghost && !bad && udp && before.sends > 1;
        if listens_on {
            attempt.heard = Some(now);
        } else {
            attempt.state = AttemptState::Bad;
        }
        // The second reply to one that was repeated is none to another transmission.
        if before.heard.is_none()
            && let Some(counters) = entry.route.counters(before.server)
        {
            count(&counters.answers);
            if bad && code == rcode::SERVFAIL {
                count(&counters.servfail);
            }
        }
        let superseded = entry.attempts.iter().any(|other| other.first_sent > before.first_sent);
        let useless = entry.is_tcp() && !entry.ghost && wire::is_truncated(bytes);
        let ghost = entry.ghost;
        self.book_reply(&before, superseded, bad, now);
        if !listens_on {
            self.release(before.via, before.id, now);
        }
        if ghost {
            if self.entries.get(key).is_some_and(|entry| entry.waiting().next().is_none()) {
                self.end(key, now);
            }
        } else if useless {
            self.truncated_for_tcp(key, index, now, random);
        } else if bad {
            self.keep_if_best(key, bytes);
            self.advance(key, now, random);
        } else {
            self.book_failures(key, before.server, now);
            self.relay(key, bytes, now);
        }
    }

    /// Learns from a reply: the server's round trip, and whether what was sent after it had been needed.
    fn book_reply(&mut self, attempt: &Attempt, superseded: bool, bad: bool, now: Instant) {
        let Some(server) = self.servers.get_mut(attempt.server) else { return };
        let since_last = || now.saturating_duration_since(attempt.last_sent);
        let prompt = || since_last() <= server.rtt().map_or(PROMPT, |rtt| PROMPT.max(2 * rtt));
        let repeated = attempt.sends > 1;
        // After a repetition, a prompt reply most likely answers that one and tells nothing about the first. Any
        // other reply, and the second of two, shows that the first was answered slowly.
        let likely_lost = repeated && attempt.heard.is_none() && prompt();
        // Guessing which one a late reply answers would count the wait as round trip, and lengthen the next wait by it:
        // where answers are lost and late at once that goes up without end. The second reply settles it.
        let answered_at = if repeated { attempt.heard } else { Some(now) };
        let measured = answered_at.filter(|_| matches!(attempt.via, Via::Udp(_)));
        let sample = measured.map(|at| at.saturating_duration_since(attempt.first_sent));
        server.heard(sample, !bad, now);
        if attempt.heard.is_some() {
            // Takes back the verdict that the first of the two replies led to.
            self.budget.verdict(false);
        }
        if repeated || superseded {
            self.budget.verdict(likely_lost && !superseded);
        }
    }

    /// Keeps a SERVFAIL or REFUSED, the former rather than the latter.
    fn keep_if_best(&mut self, key: Key, bytes: &[u8]) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.best.is_empty() || wire::rcode(&entry.best) == Some(rcode::REFUSED) {
            entry.best.clear();
            entry.best.extend_from_slice(bytes);
        }
    }

    /// The servers that failed a query which `good` answered.
    fn book_failures(&mut self, key: Key, good: ServerId, now: Instant) {
        let Some(entry) = self.entries.get(key) else { return };
        for attempt in entry.attempts.iter().filter(|a| a.state == AttemptState::Bad && a.server != good) {
            if let Some(server) = self.servers.get_mut(attempt.server) {
                server.failed(now);
            }
        }
    }

    /// Ends a query with a server's reply.
    fn relay(&mut self, key: Key, bytes: &[u8], now: Instant) {
        let mut reply = self.buffer();
        let Some(entry) = self.entries.get_mut(key) else { return };
        reply.extend_from_slice(bytes);
        wire::set_id(&mut reply, entry.id);
        if let Some(named) = entry.named.take() {
            if named.exists {
                wire::relay_nxdomain_as_noerror(&mut reply);
            }
            named.relayed();
        }
        if reply.len() > entry.limit as usize {
            wire::set_id(&mut entry.message, entry.id);
            if let Ok(query) = wire::parse(&entry.message) {
                wire::truncate(&mut reply, &query);
            }
        }
        self.replies.push_back((entry.client, reply));
        self.books.answered += 1;
        self.haunt(key, now);
    }

    /// Ends a query with the best there is: a SERVFAIL or REFUSED that came, or one of our own.
    pub(super) fn give_up(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if !entry.best.is_empty() {
            let best = std::mem::take(&mut entry.best);
            self.relay(key, &best, now);
            self.recycle(best);
            return;
        }
        self.refuse(key);
        self.books.expired += 1;
        if let Some(entry) = self.entries.get(key) {
            for attempt in entry.waiting() {
                entry.unanswered(attempt.server);
                if !attempt.overdue
                    && let Some(server) = self.servers.get_mut(attempt.server)
                {
                    server.missed(attempt.last_sent, now);
                }
                self.budget.verdict(true);
            }
        }
        self.end(key, now);
    }

    /// Answers SERVFAIL to the client of a query.
    fn refuse(&mut self, key: Key) {
        let mut reply = self.buffer();
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(named) = entry.named.take() {
            named.unreached();
        }
        wire::set_id(&mut entry.message, entry.id);
        if let Ok(query) = wire::parse(&entry.message) {
            wire::error(&query, rcode::SERVFAIL, Some(ede::NETWORK_ERROR), &mut reply);
        }
        self.replies.push_back((entry.client, reply));
    }

    /// The oldest query gives way to a new one.
    pub(super) fn shed_oldest(&mut self, now: Instant) {
        while let Some(key) = self.ages.pop_front() {
            if self.entries.get(key).is_some_and(|entry| !entry.ghost) {
                self.refuse(key);
                self.books.shed += 1;
                self.end(key, now);
                return;
            }
        }
    }

    /// An answered query listens on for the servers that have not answered.
    fn haunt(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.waiting().next().is_none() || self.ghosts >= MOST_GHOSTS {
            self.end(key, now);
            return;
        }
        if entry.held.take().is_some() {
            self.streams.release_held(key);
        }
        entry.ghost = true;
        entry.wake = now + GHOST_FOR;
        self.ghosts += 1;
        self.timers.set(entry.wake, key);
        if let Client::Udp { .. } = entry.client {
            self.clients.remove(entry.hash, key);
        }
    }

    /// A ghost's time is over: what it still waited for never came.
    fn bury(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get(key) else { return };
        for attempt in entry.waiting().filter(|attempt| attempt.heard.is_none()) {
            entry.unanswered(attempt.server);
            if let Some(server) = self.servers.get_mut(attempt.server) {
                server.missed(attempt.last_sent, now);
            }
            if entry.attempts.iter().any(|other| other.first_sent > attempt.first_sent) {
                self.budget.verdict(true);
            }
        }
        self.end(key, now);
    }

    /// Counts the datagrams that should have been answered by now against their servers.
    fn book_misses(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get(key) else { return };
        let mut died = false;
        for attempt in entry.waiting().filter(|attempt| matches!(attempt.via, Via::Udp(_))) {
            let Some(server) = self.servers.get_mut(attempt.server) else { continue };
            let late = now.saturating_duration_since(attempt.last_sent) >= server.patience();
            if late && server.missed(attempt.last_sent, now) {
                died = true;
            }
        }
        if died {
            self.wake_the_stranded(now);
        }
    }

    /// Takes a query out of the table and its transmissions off their sockets.
    pub(super) fn end(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.remove(key) else { return };
        if entry.held.is_some() {
            self.streams.release_held(key);
        }
        for attempt in entry.waiting() {
            self.release(attempt.via, attempt.id, now);
        }
        if entry.ghost {
            self.ghosts -= 1;
        } else if let Client::Udp { .. } = entry.client {
            self.clients.remove(entry.hash, key);
        }
        if self.spare_entries.len() < SPARE.0 && entry.message.capacity().max(entry.best.capacity()) <= SPARE.1 {
            self.spare_entries.push(entry);
        }
    }

    pub(super) fn release(&mut self, via: Via, id: u16, now: Instant) {
        match via {
            Via::Udp(socket) => {
                if self.sockets.release(socket, id) {
                    self.actions.push_back(Action::CloseSocket { socket });
                } else {
                    self.sweep_at.get_or_insert_with(|| now + SWEEP_EVERY);
                }
            }
            Via::Tcp(stream) => self.streams.give_up(stream, id, now),
        }
    }

    /// Tidies up after an input, so that the deadline is a real one and the tables are within their bounds.
    pub(super) fn settle(&mut self) {
        let entries = &self.entries;
        self.timers.prune(entries.len(), |at, key| entries.get(key).is_some_and(|entry| entry.wake == at));
        if self.ages.len() > 2 * entries.len() + SPARE.0 {
            self.ages.retain(|key| entries.get(*key).is_some_and(|entry| !entry.ghost));
            // Twice what brought it here: an even load must not give back now what it needs with the next query.
            let kept = 2 * (2 * entries.len() + SPARE.0);
            self.ages.shrink_to(kept);
            self.clients.shrink_to(kept);
        }
    }

    /// An empty buffer.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Gives a buffer back.
    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE.0 && buffer.capacity() <= SPARE.1 {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}
