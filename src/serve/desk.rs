//! What becomes of a query once it has been read, whichever way it came: answered, forwarded, parked or dropped.
//!
//! The one place of the loop that knows the snapshot and the forwarder. Parked queries (cold start) wait in a
//! bounded table until their name's answer says otherwise, one second at most; the oldest gives way.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Notice;
use super::counters::Totals;
use super::upstream::{Client, Forwarder, Named};
use crate::dns::answer::{self, Asked, Transport, Verdict, Waiting};
use crate::dns::snapshot::{Glance, Snapshot};
use crate::dns::wire;
use crate::dns::{HostName, LOOP_TEST};
use crate::os::{Clock, memory};

/// Queries parked at most: a cold start of a host asks for far fewer, and each holds a copy of its message.
const MAX_PARKED: usize = 1024;
/// How long a query waits for the first result of its name.
const PARK_FOR: Duration = Duration::from_secs(1);

/// Where queries are decided.
pub(super) struct Desk {
    pub snapshot: Snapshot,
    pub totals: Arc<Totals>,
    pub forwarder: Forwarder,
    pub notices: Box<dyn Fn(Notice) + Send>,
    pub clock: Clock,
    /// The reply after [`Taken::Reply`].
    pub reply: Vec<u8>,
    /// Names that are looked out for to find loops.
    probes: HashSet<HostName>,
    parked: VecDeque<Parked>,
    /// The last time that was asked for, and what it is in milliseconds: all queries of a wake share it.
    converted: (Instant, u64),
}

/// A query that waits for its name's first result.
struct Parked {
    client: Client,
    message: Vec<u8>,
    asked: Asked,
    until: Instant,
}

/// What a transport has to do with a query.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Send [`Desk::reply`].
    Reply,
    /// Nothing, ever.
    Nothing,
    /// Nothing now: the reply comes by [`Desk::release`] or the forwarder.
    Later,
}

impl Desk {
    pub fn new(
        table: super::Table,
        totals: Arc<Totals>,
        clock: Clock,
        notices: Box<dyn Fn(Notice) + Send>,
        forwarder: Forwarder,
        started: Instant,
    ) -> Desk {
        Desk {
            snapshot: table.snapshot,
            totals,
            forwarder,
            notices,
            clock,
            reply: Vec::with_capacity(usize::from(wire::PAYLOAD)),
            probes: HashSet::new(),
            parked: VecDeque::new(),
            converted: (started, clock.at(started).0),
        }
    }

    /// Has what a batch of messages will read brought near, [`Snapshot::foresee`]. `N` is what a batch holds at most.
    pub fn foresee<'a, const N: usize>(&self, messages: impl Iterator<Item = &'a [u8]>) {
        let mut ahead: [Option<Glance>; N] = [None; N];
        for (place, message) in ahead.iter_mut().zip(messages) {
            *place = self.snapshot.foresee(message, memory::fetch);
        }
        for glance in ahead.into_iter().flatten() {
            self.snapshot.foresee_line(glance, memory::fetch);
        }
    }

    /// Decides about a message that was just received.
    pub fn take(&mut self, client: Client, message: &[u8], now: Instant) -> Taken {
        match self.decide(client, message, Waiting::Allowed, true, now) {
            Ok(taken) => taken,
            Err(asked) => self.park(client, message, asked, now),
        }
    }

    /// `Err` when it is to be parked. `first`: it was not parked before.
    fn decide(
        &mut self,
        client: Client,
        message: &[u8],
        waiting: Waiting,
        first: bool,
        now: Instant,
    ) -> Result<Taken, Asked> {
        let transport = match client {
            Client::Udp { .. } => Transport::Udp,
            Client::Tcp { .. } => Transport::Tcp,
        };
        let query = wire::parse(message);
        // Before everything else: a wildcard among the configured names must not hide that it came back.
        if let Ok(query) = &query
            && let Some(probe) = self.returned(query)
        {
            self.totals.returned.add();
            // Refusing ends the loop; a forwarder would otherwise ask its way round until it gave up.
            wire::error(query, wire::rcode::REFUSED, None, &mut self.reply);
            (self.notices)(Notice::Returned { probe });
            return Ok(Taken::Reply);
        }
        let verdict = match &query {
            Ok(query) => answer::answer_query(&self.snapshot, query, transport, waiting, &mut self.reply),
            Err(reject) => answer::answer_reject(reject, &mut self.reply),
        };
        if let Verdict::Reply { asked: Some(asked), .. }
        | Verdict::Forward { asked: Some(asked), .. }
        | Verdict::Wait { asked } = verdict
            && first
        {
            self.note_asked(asked, now);
        }
        match verdict {
            Verdict::Reply { asked, kind } => {
                self.totals.count_answer(kind);
                if let Some(asked) = asked
                    && let Some(name) = self.snapshot.counters().name(asked.name)
                {
                    name.count_reply(asked.kind, kind);
                }
                Ok(Taken::Reply)
            }
            Verdict::Drop(reason) => {
                self.totals.count_drop(reason);
                Ok(Taken::Nothing)
            }
            Verdict::Wait { asked } => Err(asked),
            Verdict::Forward { asked, route, exists } => {
                let Ok(query) = &query else { return Ok(Taken::Nothing) };
                self.totals.forwarded.add();
                let named = asked.map(|asked| {
                    let table = self.snapshot.counters();
                    if let Some(name) = table.name(asked.name) {
                        name.count_forwarded(asked.kind);
                    }
                    Named { table, name: asked.name, exists }
                });
                self.forwarder.submit(client, query, route, named, now);
                Ok(Taken::Later)
            }
        }
    }

    fn note_asked(&mut self, asked: Asked, now: Instant) {
        let names = self.snapshot.counters();
        let Some(name) = names.name(asked.name) else { return };
        if self.converted.0 != now {
            self.converted = (now, self.clock.at(now).0);
        }
        if name.note_asked(self.converted.1) {
            (self.notices)(Notice::Asked { generation: names.generation, name: asked.name });
        }
    }

    /// A parked query, or one that would have been, gets no reply of its own.
    fn count_unanswered(&self, asked: Asked) {
        if let Some(name) = self.snapshot.counters().name(asked.name) {
            name.count_unanswered(asked.kind);
        }
    }

    /// The probe that this query is, if it is one.
    fn returned(&self, query: &wire::Query<'_>) -> Option<HostName> {
        // However many there are, a query of anybody else costs a look at its first label.
        let label = query.name().get(1..=LOOP_TEST.len()).filter(|_| !self.probes.is_empty())?;
        if !label.eq_ignore_ascii_case(LOOP_TEST.as_bytes()) {
            return None;
        }
        HostName::from_wire(query.name()).filter(|name| self.probes.contains(name))
    }

    /// Replaces the names that only har asks for.
    pub fn set_probes(&mut self, probes: Vec<HostName>) {
        self.probes = probes.into_iter().collect();
    }

    fn park(&mut self, client: Client, message: &[u8], asked: Asked, now: Instant) -> Taken {
        let is_udp = matches!(client, Client::Udp { .. });
        // A retransmission: the first one's reply is for both.
        if is_udp && self.parked.iter().any(|parked| parked.client == client && parked.message == message) {
            self.count_unanswered(asked);
            return Taken::Nothing;
        }
        self.totals.parked.add();
        let until = now + PARK_FOR;
        self.parked.push_back(Parked { client, message: message.into(), asked, until });
        Taken::Later
    }

    /// When [`Desk::release`] is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.parked.front().map(|parked| parked.until)
    }

    /// Gives `send` the reply of every parked query that need not wait any more: `changed` says whose answer is new,
    /// the others go by age or for want of room. `None` for one that gets no reply at all.
    pub fn release(
        &mut self,
        changed: impl Fn(u32) -> bool,
        now: Instant,
        mut send: impl FnMut(Client, Option<&[u8]>),
    ) {
        let mut excess = self.parked.len().saturating_sub(MAX_PARKED);
        for _ in 0..self.parked.len() {
            let Some(mut parked) = self.parked.pop_front() else { return };
            let shed = excess > 0;
            excess = excess.saturating_sub(1);
            if shed {
                self.totals.parked_shed.add();
            }
            let over = shed || parked.until <= now;
            if !over && !changed(parked.asked.name) {
                self.parked.push_back(parked);
                continue;
            }
            let waiting = if over { Waiting::Over } else { Waiting::Allowed };
            match self.decide(parked.client, &parked.message, waiting, false, now) {
                Ok(Taken::Reply) => send(parked.client, Some(&self.reply)),
                Ok(Taken::Nothing) => send(parked.client, None),
                Ok(Taken::Later) => {}
                Err(asked) => {
                    // A new table may have given the name another index.
                    parked.asked = asked;
                    self.parked.push_back(parked);
                }
            }
        }
    }

    /// Whether more is parked than may be.
    pub fn is_overfull(&self) -> bool {
        self.parked.len() > MAX_PARKED
    }

    /// A connection is gone: what it asked is dropped.
    pub fn forget(&mut self, connection: u64) {
        self.forwarder.forget(connection);
        let gone = Client::Tcp { connection };
        self.parked
            .iter()
            .filter(|parked| parked.client == gone)
            .for_each(|parked| self.count_unanswered(parked.asked));
        self.parked.retain(|parked| parked.client != gone);
    }

    /// Queries that clients still wait for.
    pub fn under_way(&self) -> usize {
        self.forwarder.under_way() + self.parked.len()
    }
}
