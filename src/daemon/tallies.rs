//! The event loop's counters as rows of the state file.
//!
//! The loop counts from zero in every process, and per configuration for names; the state file continues what
//! the last process wrote. A table that a reload replaced is read until the loop has let go of it, so that
//! no query is lost between two configurations.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::Config;
use crate::dns::answer::{Kind, QueryKind};
use crate::health::Time;
use crate::serve::counters::{NameTable, Totals};
use crate::serve::upstream::ServerCounters;
use crate::store::{AnswerKind, Batch, NameCounters, Stored, UpstreamRow};

/// What the last process counted, and what this one does.
pub struct Tallies {
    totals: Arc<Totals>,
    totals_before: HashMap<String, u64>,
    /// Of processes and tables that are over, by name.
    before: HashMap<Arc<str>, NameCounters>,
    current: Shown,
    /// Replaced, but perhaps still counted into for a moment.
    replaced: Vec<Shown>,
    /// What was handed over last, by index of the current table.
    handed: Vec<NameCounters>,
    upstreams_before: HashMap<(SocketAddr, String), UpstreamRow>,
    /// Answers of upstreams beyond loopback when last looked at.
    heard: u64,
}

/// A table with the names of its indices.
struct Shown {
    table: Arc<NameTable>,
    names: Vec<Arc<str>>,
}

impl Tallies {
    /// Continues what the state file holds.
    pub fn new(config: &Config, stored: &Stored, totals: Arc<Totals>) -> Tallies {
        Tallies {
            totals,
            totals_before: stored.counters.iter().cloned().collect(),
            before: stored.names.iter().map(|(row, counters)| (Arc::clone(&row.name), counters.clone())).collect(),
            current: Shown::new(config, 0),
            replaced: Vec::new(),
            handed: Vec::new(),
            upstreams_before: stored
                .upstreams
                .iter()
                .map(|row| ((row.address, row.route.clone()), row.clone()))
                .collect(),
            heard: 0,
        }
    }

    /// Which configuration the table that the loop counts into belongs to.
    pub fn generation(&self) -> u64 {
        self.current.table.generation
    }

    /// The table that the loop counts into.
    pub fn table(&self) -> Arc<NameTable> {
        Arc::clone(&self.current.table)
    }

    /// When each of these names was last asked for, by its index in the current configuration.
    pub fn last_asked(&self, names: &[usize]) -> Vec<Option<Time>> {
        let asked = |&index: &usize| self.current.table.name(index as u32).map(|name| Time(name.asked_ms()));
        names.iter().map(asked).map(|at| at.filter(|at| *at > Time(0))).collect()
    }

    /// Marks names that rest: the loop tells of the next query for each, once.
    pub fn mark_idle(&self, names: &[usize]) {
        for name in names.iter().filter_map(|&index| self.current.table.name(index as u32)) {
            name.idle.store(true, Ordering::Relaxed);
        }
    }

    /// A new table for a new configuration.
    pub fn configure(&mut self, config: &Config) -> Arc<NameTable> {
        let next = Shown::new(config, self.current.table.generation + 1);
        self.replaced.push(std::mem::replace(&mut self.current, next));
        self.handed.clear();
        self.table()
    }

    /// Adds what changed to a batch. `true` when an upstream beyond loopback answered since the last call.
    pub fn collect(
        &mut self,
        upstreams: &[(SocketAddr, Arc<ServerCounters>)],
        config: &Config,
        batch: &mut Batch,
    ) -> bool {
        self.settle();
        let everything = batch.complete;
        self.handed.resize(self.current.names.len(), NameCounters::default());
        for (index, name) in self.current.names.iter().enumerate() {
            let mut counters = self.current.read(index);
            for old in &self.replaced {
                if let Some(at) = old.names.iter().position(|other| other == name) {
                    add(&mut counters, &old.read(at));
                }
            }
            if let Some(before) = self.before.get(name) {
                add(&mut counters, before);
            }
            if everything || counters != self.handed[index] {
                self.handed[index] = counters.clone();
                batch.name_counters.push((Arc::clone(name), counters));
            }
        }
        batch.counters = totals(&self.totals)
            .into_iter()
            .map(|(word, count)| {
                let before = self.totals_before.get(&word).copied().unwrap_or_default();
                (word, before + count)
            })
            .collect();
        self.collect_upstreams(upstreams, config, batch)
    }

    /// Takes the last counts of tables that the loop no longer holds.
    fn settle(&mut self) {
        for old in std::mem::take(&mut self.replaced) {
            if Arc::strong_count(&old.table) > 1 {
                self.replaced.push(old);
                continue;
            }
            for (index, name) in old.names.iter().enumerate() {
                add(self.before.entry(Arc::clone(name)).or_default(), &old.read(index));
            }
        }
    }

    fn collect_upstreams(
        &mut self,
        upstreams: &[(SocketAddr, Arc<ServerCounters>)],
        config: &Config,
        batch: &mut Batch,
    ) -> bool {
        for (address, counters) in upstreams {
            let route = route_of(config, *address);
            let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            let before = self.upstreams_before.get(&(*address, route.clone()));
            let and_before = |count: u64, of: fn(&UpstreamRow) -> u64| count + before.map_or(0, of);
            let answers = read(&counters.answers);
            let dead = counters.state.load(Ordering::Relaxed) == ServerCounters::DEAD;
            let rtt_us = read(&counters.rtt_us);
            batch.upstreams.push(UpstreamRow {
                address: *address,
                usable: !dead,
                note: if dead { "no reply of late; tried again every few seconds".to_owned() } else { String::new() },
                queries: and_before(read(&counters.queries), |row| row.queries),
                answers: and_before(answers, |row| row.answers),
                timeouts: and_before(read(&counters.timeouts), |row| row.timeouts),
                servfail: and_before(read(&counters.servfail), |row| row.servfail),
                rtt_ms: (rtt_us > 0).then_some(rtt_us as f64 / 1000.0),
                route,
            });
        }
        self.heard(upstreams)
    }

    /// Whether an upstream beyond loopback answered since the last call.
    pub fn heard(&mut self, upstreams: &[(SocketAddr, Arc<ServerCounters>)]) -> bool {
        let beyond = upstreams.iter().filter(|(address, _)| !address.ip().is_loopback());
        let heard = beyond.map(|(_, counters)| counters.answers.load(Ordering::Relaxed)).sum();
        let more = heard > self.heard;
        self.heard = heard;
        more
    }
}

impl Shown {
    fn new(config: &Config, generation: u64) -> Shown {
        let names: Vec<Arc<str>> = config.names.iter().map(|name| name.name.to_string().into()).collect();
        Shown { table: Arc::new(NameTable::new(generation, names.len())), names }
    }

    fn read(&self, index: usize) -> NameCounters {
        let Some(name) = self.table.name(index as u32) else { return NameCounters::default() };
        let mut answers = [0; AnswerKind::ALL.len()];
        for kind in Kind::ALL {
            if let Some(column) = column(kind) {
                answers[column as usize] += name.answers(kind);
            }
        }
        answers[AnswerKind::Forwarded as usize] = name.forwarded.get();
        NameCounters { queries: QueryKind::ALL.map(|kind| name.queries(kind)), answers }
    }
}

/// Where a kind of reply is counted for a name; `None` = it never is for a configured one.
fn column(kind: Kind) -> Option<AnswerKind> {
    match kind {
        Kind::A | Kind::Aaaa => Some(AnswerKind::Ranked),
        Kind::Stale => Some(AnswerKind::Stale),
        Kind::Empty => Some(AnswerKind::Empty),
        Kind::AllDown | Kind::NotReady => Some(AnswerKind::Servfail),
        Kind::Special | Kind::FormErr | Kind::NotImp | Kind::BadVers | Kind::Refused => None,
    }
}

fn add(counters: &mut NameCounters, more: &NameCounters) {
    for (count, more) in counters.queries.iter_mut().zip(more.queries) {
        *count += more;
    }
    for (count, more) in counters.answers.iter_mut().zip(more.answers) {
        *count += more;
    }
}

/// The suffix that a server serves; empty for a general one.
fn route_of(config: &Config, server: SocketAddr) -> String {
    let route = config.upstream.routes.iter().find(|route| route.servers.contains(&server));
    route.map_or_else(String::new, |route| route.suffix.to_string())
}

/// Everything counted for the whole server, with the words of the state file.
fn totals(totals: &Totals) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = [
        ("received_udp", &totals.udp_received),
        ("received_tcp", &totals.tcp_received),
        ("dropped_short", &totals.dropped_short),
        ("dropped_response", &totals.dropped_response),
        ("receive_errors", &totals.receive_errors),
        ("send_errors", &totals.send_errors),
        ("forwarded", &totals.forwarded),
        ("parked", &totals.parked),
        ("parked_shed", &totals.parked_shed),
        ("returned", &totals.returned),
        ("tcp_accepted", &totals.tcp_accepted),
        ("tcp_evicted", &totals.tcp_evicted),
        ("tcp_accept_errors", &totals.tcp_accept_errors),
        ("tcp_expired", &totals.tcp_expired),
    ]
    .into_iter()
    .map(|(word, count)| (word.to_owned(), count.get()))
    .collect();
    all.extend(Kind::ALL.map(|kind| (format!("reply_{}", kind.as_str()), totals.answers(kind))));
    let books = totals.books();
    all.extend([
        ("forward_joined".to_owned(), books.joined),
        ("forward_answered".to_owned(), books.answered),
        ("forward_expired".to_owned(), books.expired),
        ("forward_shed".to_owned(), books.shed),
        ("forward_failed".to_owned(), books.failed),
        ("forward_sent".to_owned(), books.sent),
        ("forward_ignored".to_owned(), books.ignored),
    ]);
    all
}
