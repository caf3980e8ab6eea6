//! What is handed to the writer: rows by value, merged while they wait.
//!
//! A [`Batch`] holds rows with a key (the last value of each counts) and rows that follow each other
//! (results, events). Merging keeps one row a key and at most [`PENDING_RESULTS`] and [`PENDING_EVENTS`] of
//! the others, dropping and counting the oldest: a disk that is full for a day costs no more memory than
//! one that is full for a minute.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::health::wall::WallClock;
use crate::health::{AnswerRecord, CheckResult, EndpointRecord, Event, Family, Host, Outcome, State, Time};

/// Results that wait for the disk at most: about 5 MB, some minutes of 100 addresses checked every second.
pub const PENDING_RESULTS: usize = 20_000;

/// Events that wait for the disk at most: as many as the table holds.
pub const PENDING_EVENTS: usize = super::EVENT_ROWS as usize;

/// Results and addresses that wait at leisure at most, though they are no news: those of a host with few checks.
const CROWD: usize = 64;

/// The row of the daemon itself.
#[derive(Clone, Debug, PartialEq)]
pub struct DaemonRow {
    /// Of har.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The configuration file.
    pub config: String,
    /// Its listeners.
    pub listen: Vec<SocketAddr>,
    /// When it started.
    pub started_at: Time,
    /// Now.
    pub heartbeat_at: Time,
    /// When it stopped, in the last batch of a clean stop.
    pub stopped_at: Option<Time>,
    /// What a person should know; empty if nothing.
    pub note: String,
}

/// A configured name, without its counters.
#[derive(Clone, Debug, PartialEq)]
pub struct NameRow {
    /// As [`crate::health::NameSpec::name`].
    pub name: Arc<str>,
    /// `answer` or `observe`.
    pub mode: Cow<'static, str>,
    /// `lowest-latency` and so on.
    pub select: Cow<'static, str>,
    /// Of its answers, seconds.
    pub ttl_s: u32,
    /// Between checks of an address that is up, milliseconds.
    pub interval_ms: u64,
}

/// One candidate of a name.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateRow {
    /// The configured name.
    pub name: Arc<str>,
    /// The candidate.
    pub host: Host,
    /// Its place in the list, from 0.
    pub position: u32,
    /// Tier, lower first.
    pub priority: u32,
    /// Share.
    pub weight: u32,
    /// When its name was last looked up with success.
    pub resolved_at: Option<Time>,
    /// Why the last look-up failed, if it did.
    pub error: Option<String>,
}

/// Which endpoint: candidate × address of one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// The configured name.
    pub name: Arc<str>,
    /// The candidate.
    pub host: Host,
    /// Its address.
    pub address: IpAddr,
}

impl EndpointKey {
    /// The key of a record.
    pub fn of(record: &EndpointRecord) -> EndpointKey {
        EndpointKey { name: Arc::clone(&record.name), host: record.host.clone(), address: record.address }
    }
}

/// One result of one check of one address. A check that several names share gives one row.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultRow {
    /// When it ended.
    pub at: Time,
    /// The candidate.
    pub host: Host,
    /// The address of the candidate (not of `address = …`, where that differs).
    pub address: IpAddr,
    /// This one check in words, without secrets.
    pub definition: Arc<str>,
    /// What it yielded.
    pub result: CheckResult,
}

/// Kinds of answers that are counted for a configured name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerKind {
    /// Addresses as ranked.
    Ranked,
    /// Addresses under the all-down rule, held or not known yet (EDE 3).
    Stale,
    /// NOERROR without addresses.
    Empty,
    /// SERVFAIL of har's own.
    Servfail,
    /// Replies of upstream servers that were relayed.
    Forwarded,
}

impl AnswerKind {
    /// Every kind, in the order of the columns.
    pub const ALL: [AnswerKind; 5] =
        [AnswerKind::Ranked, AnswerKind::Stale, AnswerKind::Empty, AnswerKind::Servfail, AnswerKind::Forwarded];
}

/// What was counted for one name since the state file was begun: absolute values, continued from
/// [`super::Stored::names`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameCounters {
    /// Queries for A, for AAAA, for anything else.
    pub queries: [u64; 3],
    /// Answers by [`AnswerKind::ALL`].
    pub answers: [u64; 5],
}

/// One upstream resolver; the counters are absolute, continued from [`super::Stored::upstreams`].
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamRow {
    /// Where it is.
    pub address: SocketAddr,
    /// The suffix it serves; empty for a general server. One in several lists has a row for each.
    pub route: String,
    /// Whether it is in use.
    pub usable: bool,
    /// Why it is not; empty if it is.
    pub note: String,
    /// What it was sent, repetitions of a datagram aside.
    pub queries: u64,
    /// What it replied to.
    pub answers: u64,
    /// What it left without a reply.
    pub timeouts: u64,
    /// SERVFAIL replies.
    pub servfail: u64,
    /// Smoothed round trip, milliseconds.
    pub rtt_ms: Option<f64>,
}

impl UpstreamRow {
    /// The note of a server that asks har.
    pub const LOOP: &str = "a loop: har's own queries come back from it; tested every 60 s";
    /// The note of a server that does not answer.
    pub const DEAD: &str = "no reply of late; tried again every few seconds";
    /// The note of a server that was listed and is not any more.
    pub const GONE: &str = "no longer listed";
}

/// Everything that one change or one tick has to say. `Batch::default()` says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// With `true` this batch is the whole state: names, candidates, addresses, answers and upstreams that
    /// are not in it leave the tables. After start, after a reload, and when `on_resend` asked for it.
    pub complete: bool,
    /// The daemon's row (heartbeat).
    pub daemon: Option<DaemonRow>,
    /// Names that changed; in a complete batch all, in the order of the file.
    pub names: Vec<NameRow>,
    /// Candidates that changed; in a complete batch all.
    pub candidates: Vec<CandidateRow>,
    /// Addresses that changed.
    pub endpoints: Vec<EndpointRecord>,
    /// Addresses that are gone.
    pub removed: Vec<EndpointKey>,
    /// Answers that changed.
    pub answers: Vec<AnswerRecord>,
    /// Counters of names.
    pub name_counters: Vec<(Arc<str>, NameCounters)>,
    /// Times each address was chosen, absolute.
    pub times_chosen: Vec<(EndpointKey, u64)>,
    /// Upstreams.
    pub upstreams: Vec<UpstreamRow>,
    /// Totals that belong to no name, absolute.
    pub counters: Vec<(String, u64)>,
    /// New results, oldest first.
    pub results: Vec<ResultRow>,
    /// New events, oldest first.
    pub events: Vec<Event>,
}

impl Batch {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty() && self.endpoints.is_empty() && self.is_routine()
    }

    /// Whether all it has to say is that checks found what they had found before: nobody waits to read that.
    pub fn is_routine(&self) -> bool {
        !self.complete
            && self.daemon.is_none()
            && self.names.is_empty()
            && self.candidates.is_empty()
            && self.endpoints.iter().all(stays_as_it_was)
            && self.removed.is_empty()
            && self.answers.is_empty()
            && self.name_counters.is_empty()
            && self.times_chosen.is_empty()
            && self.upstreams.is_empty()
            && self.counters.is_empty()
            && self.events.is_empty()
    }

    /// The same by the wall clock.
    pub fn by(mut self, wall: WallClock) -> Batch {
        if wall == WallClock::default() {
            return self;
        }
        let set = |time: &mut Time| *time = wall.at(*time);
        if let Some(daemon) = &mut self.daemon {
            set(&mut daemon.started_at);
            set(&mut daemon.heartbeat_at);
            daemon.stopped_at.iter_mut().for_each(set);
        }
        self.candidates.iter_mut().filter_map(|row| row.resolved_at.as_mut()).for_each(set);
        for row in &mut self.endpoints {
            set(&mut row.since);
            row.last_check.iter_mut().chain(&mut row.resolved_at).for_each(set);
        }
        self.answers.iter_mut().for_each(|row| set(&mut row.since));
        self.results.iter_mut().for_each(|row| set(&mut row.at));
        self.events.iter_mut().for_each(|event| set(&mut event.at));
        self
    }
}

/// Whether the last result of an address bears out the state that it was in before.
fn stays_as_it_was(record: &EndpointRecord) -> bool {
    let borne_out = match record.state {
        State::Up => record.last_outcome == Some(Outcome::Ok),
        State::Down => record.last_outcome != Some(Outcome::Ok),
        State::Unknown => false,
    };
    borne_out && record.last_check.is_some_and(|at| at > record.since)
}

/// Values of which the last one of a key counts.
///
/// Mostly one batch has all that waits, and there may be ten thousand: they are taken over as they came.
#[derive(Debug)]
pub(super) struct Latest<K, V>(Vec<(K, V)>);

impl<K: Ord + Hash, V> Latest<K, V> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what came later.
    pub fn add(&mut self, more: Vec<(K, V)>) {
        if self.0.is_empty() {
            self.0 = more;
        } else if !more.is_empty() {
            let all: HashMap<K, V> = std::mem::take(&mut self.0).into_iter().chain(more).collect();
            self.0 = all.into_iter().collect();
        }
    }

    /// In the order of the keys, which is theirs in the file; of several with one key the last comes last.
    pub fn in_order(&self) -> Vec<&(K, V)> {
        let mut all: Vec<&(K, V)> = self.0.iter().collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }
}

impl<K, V> Default for Latest<K, V> {
    fn default() -> Latest<K, V> {
        Latest(Vec::new())
    }
}

/// What waits to be written, one row a key. Of what there may be much each table is one allocation, that leaves no holes
/// in the memory when it is written.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub complete: bool,
    pub daemon: Option<DaemonRow>,
    /// With the place in the configuration, which only a complete batch tells.
    pub names: HashMap<Arc<str>, (Option<usize>, NameRow)>,
    pub candidates: HashMap<(Arc<str>, Host), CandidateRow>,
    /// `None` = gone.
    pub endpoints: HashMap<EndpointKey, Option<EndpointRecord>>,
    pub answers: HashMap<(Arc<str>, Family), AnswerRecord>,
    pub name_counters: Latest<Arc<str>, NameCounters>,
    pub times_chosen: Latest<EndpointKey, u64>,
    pub upstreams: BTreeMap<(SocketAddr, String), UpstreamRow>,
    pub counters: BTreeMap<String, u64>,
    pub results: VecDeque<ResultRow>,
    pub events: VecDeque<Event>,
    /// Results and events that were given up for the bounds.
    pub dropped: [u64; 2],
    /// Something of it is more than routine.
    pub is_news: bool,
}

impl Pending {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        !self.complete
            && self.daemon.is_none()
            && self.names.is_empty()
            && self.candidates.is_empty()
            && self.endpoints.is_empty()
            && self.answers.is_empty()
            && self.name_counters.is_empty()
            && self.times_chosen.is_empty()
            && self.upstreams.is_empty()
            && self.counters.is_empty()
            && self.results.is_empty()
            && self.events.is_empty()
    }

    /// How many rows of addresses and answers there are: what there may be much of.
    pub fn rows(&self) -> usize {
        self.endpoints.len() + self.answers.len()
    }

    /// Whether it is to be written at the next tick: there is news, or much of anything.
    pub fn is_pressing(&self) -> bool {
        self.is_news || self.results.len() >= CROWD || self.rows() >= CROWD
    }

    /// Adds what came later; rows with the same key replace the ones that wait.
    pub fn add(&mut self, batch: Batch) {
        self.is_news |= !batch.is_routine();
        if batch.complete {
            self.start_over();
        }
        let complete = batch.complete;
        self.daemon = batch.daemon.or(self.daemon.take());
        for (position, row) in batch.names.into_iter().enumerate() {
            let position = if complete { Some(position) } else { self.names.get(&row.name).and_then(|had| had.0) };
            self.names.insert(Arc::clone(&row.name), (position, row));
        }
        self.candidates
            .extend(batch.candidates.into_iter().map(|row| ((Arc::clone(&row.name), row.host.clone()), row)));
        self.endpoints.extend(batch.removed.into_iter().map(|key| (key, None)));
        self.endpoints.extend(batch.endpoints.into_iter().map(|record| (EndpointKey::of(&record), Some(record))));
        self.answers.extend(batch.answers.into_iter().map(|row| ((Arc::clone(&row.name), row.family), row)));
        self.name_counters.add(batch.name_counters);
        self.times_chosen.add(batch.times_chosen);
        self.upstreams.extend(batch.upstreams.into_iter().map(|row| ((row.address, row.route.clone()), row)));
        self.counters.extend(batch.counters);
        self.results.extend(batch.results);
        self.events.extend(batch.events);
        self.bound();
    }

    /// Puts back what could not be written, under what came meanwhile.
    pub fn put_back(&mut self, mut older: Pending) {
        older.is_news |= self.is_news;
        self.is_news = older.is_news;
        if !self.complete {
            older.complete |= self.complete;
            older.daemon = self.daemon.take().or(older.daemon);
            older.names.extend(std::mem::take(&mut self.names));
            older.candidates.extend(std::mem::take(&mut self.candidates));
            older.endpoints.extend(std::mem::take(&mut self.endpoints));
            older.answers.extend(std::mem::take(&mut self.answers));
            older.name_counters.add(std::mem::take(&mut self.name_counters.0));
            older.times_chosen.add(std::mem::take(&mut self.times_chosen.0));
            older.upstreams.append(&mut self.upstreams);
            older.counters.append(&mut self.counters);
            older.results.append(&mut self.results);
            older.events.append(&mut self.events);
            older.dropped = [older.dropped[0] + self.dropped[0], older.dropped[1] + self.dropped[1]];
            *self = older;
        } else {
            // The whole state came meanwhile: of the older one only what happened still counts, and the
            // counters, which the newer one need not carry.
            older.results.append(&mut self.results);
            older.events.append(&mut self.events);
            older.counters.append(&mut self.counters);
            older.name_counters.add(std::mem::take(&mut self.name_counters.0));
            older.times_chosen.add(std::mem::take(&mut self.times_chosen.0));
            self.results = older.results;
            self.events = older.events;
            self.counters = older.counters;
            self.name_counters = older.name_counters;
            self.times_chosen = older.times_chosen;
            self.dropped = [older.dropped[0] + self.dropped[0], older.dropped[1] + self.dropped[1]];
        }
        self.bound();
    }

    /// A complete batch follows: what it will say again is forgotten.
    fn start_over(&mut self) {
        self.complete = true;
        self.names.clear();
        self.candidates.clear();
        self.endpoints.clear();
        self.answers.clear();
        self.upstreams.clear();
    }

    fn bound(&mut self) {
        let results = self.results.len().saturating_sub(PENDING_RESULTS);
        let events = self.events.len().saturating_sub(PENDING_EVENTS);
        self.results.drain(..results);
        self.events.drain(..events);
        self.dropped[0] += results as u64;
        self.dropped[1] += events as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_key_counts_and_nothing_grows() {
        let mut latest = Latest::default();
        latest.add(vec![("b", 1), ("a", 1)]);
        assert_eq!(latest.in_order(), [&("a", 1), &("b", 1)]);
        for value in 2..50 {
            latest.add(vec![("a", value), ("c", value)]);
            assert_eq!(latest.in_order(), [&("a", value), &("b", 1), &("c", value)]);
        }
        latest.add(Vec::new());
        assert!(!latest.is_empty() && latest.0.len() == 3);
        // One batch may say a thing twice.
        let mut latest = Latest::default();
        latest.add(vec![("a", 2), ("b", 1), ("a", 3)]);
        assert_eq!(latest.in_order(), [&("a", 2), &("a", 3), &("b", 1)]);
    }
}
