//! One configuration's course through recorded results: the daemon's own roster, fed with what was measured.
//!
//! Values in, values out: time is that of the records. What is true of an address is its last result, whatever the
//! thresholds of a configuration make of it; that is what "dead" and "best available" are measured with.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::health::decide::{Decision, Plan};
use crate::health::resolution::{LookupFailure, LookupResult};
use crate::health::roster::Roster;
use crate::health::{CheckResult, Family, Host, LatencyOf, NameSpec, Outcome, Time};

/// An address that no longer has results is taken to have left its name after this long.
const GONE_AFTER: Duration = Duration::from_secs(600);

/// Addresses first seen this soon after the beginning were there at the beginning.
const BEGINNING: Duration = Duration::from_secs(60);

/// Between two look-ups: they cost time and say the same.
const LOOK_UP_EVERY: Duration = Duration::from_secs(600);

/// Longer than it takes until nothing changes by itself where nothing is recorded: addresses have left, results are old.
const SETTLED: Duration = Duration::from_secs(3600);

/// What was recorded in all.
#[derive(Default)]
pub struct Recording {
    /// First and last result of each address of each host name.
    pub hosts: HashMap<Arc<str>, BTreeMap<IpAddr, (Time, Time)>>,
    /// Addresses with their checks that have results.
    pub checks: HashMap<(IpAddr, Arc<str>), u64>,
    /// The first result of all.
    pub begin: Time,
    /// The longest interval at which anything was polled.
    pub interval: Duration,
}

/// One recorded result.
pub struct Record {
    /// When it ended.
    pub at: Time,
    /// Of which address.
    pub address: IpAddr,
    /// Of which check.
    pub definition: Arc<str>,
    /// What it yielded.
    pub result: CheckResult,
}

/// What a configuration would have done for one family of one name.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Outcomes {
    /// Changes of the answer.
    pub changes: u64,
    /// Time that was looked at, milliseconds.
    pub total_ms: u64,
    /// Of it: the first address of the answer was one whose last check had failed.
    pub dead_ms: u64,
    /// Of it: no address was answered.
    pub empty_ms: u64,
    /// Mean latency of the first address of the answer, milliseconds.
    pub answered_latency_ms: Option<f64>,
    /// Mean latency of the fastest address that passed, over the same time.
    pub best_latency_ms: Option<f64>,
}

/// A configuration on its way through the records.
pub struct Course<'a> {
    recording: &'a Recording,
    roster: Roster,
    names: Vec<Watched>,
    checks: HashMap<Arc<str>, Vec<u32>>,
    truth: HashMap<(IpAddr, Arc<str>), Truth>,
    /// Host names that have an address at some time.
    hosts: HashMap<IpAddr, Vec<Arc<str>>>,
    /// Names that a check of an address matters to.
    users: HashMap<(IpAddr, Arc<str>), Vec<usize>>,
    now: Time,
    warm: Time,
}

struct Watched {
    name: Arc<str>,
    latency: LatencyOf,
    candidates: Vec<(Host, Vec<Arc<str>>)>,
    families: [Side; 2],
}

#[derive(Default)]
struct Side {
    turns: Vec<Arc<[IpAddr]>>,
    addresses: Option<Arc<[IpAddr]>>,
    since: Time,
    sums: Outcomes,
    answered: f64,
    best: f64,
    compared_ms: f64,
}

#[derive(Clone, Copy)]
struct Truth {
    ok: bool,
    total: f64,
    first_byte: Option<f64>,
    connect: Option<f64>,
}

impl Recording {
    /// Addresses of a host name at a time.
    fn addresses(&self, host: &str, now: Time) -> Vec<IpAddr> {
        let known = self.hosts.get(host).into_iter().flatten();
        let there = |(first, last): (Time, Time)| {
            (first <= now || first <= self.begin.after(BEGINNING)) && now <= last.after(GONE_AFTER)
        };
        known.filter(|(_, span)| there(**span)).map(|(address, _)| *address).collect()
    }

    /// Whether any address of a candidate has results of a check.
    pub fn has(&self, host: &Host, definition: &Arc<str>) -> bool {
        let recorded = |address: IpAddr| self.checks.contains_key(&(address, Arc::clone(definition)));
        match host {
            Host::Address(address) => recorded(*address),
            Host::Name(host) => self.hosts.get(host).into_iter().flatten().any(|(address, _)| recorded(*address)),
        }
    }
}

impl<'a> Course<'a> {
    /// A configuration at the beginning of the records, knowing nothing.
    pub fn new(mut specs: Vec<NameSpec>, machine_id: &[u8], recording: &'a Recording) -> Course<'a> {
        let mut checks: HashMap<Arc<str>, Vec<u32>> = HashMap::new();
        for spec in &mut specs {
            // Results come at the pace they were recorded at; a shorter interval would call them too old.
            Arc::make_mut(&mut spec.pace).interval = spec.pace.interval.max(recording.interval);
            Arc::make_mut(&mut spec.pace).idle_after = Duration::ZERO;
            spec.resolve_interval = LOOK_UP_EVERY;
            spec.drain_record = None;
            for check in spec.candidates.iter().flat_map(|candidate| &*candidate.checks) {
                let ids = checks.entry(Arc::clone(&check.definition)).or_default();
                if !ids.contains(&check.id) {
                    ids.push(check.id);
                }
            }
        }
        let names = specs.iter().map(Watched::new).collect();
        let mut roster = Roster::new(machine_id);
        roster.configure(specs, recording.begin);
        let warm = recording.begin.after(recording.interval * 2);
        let mut hosts: HashMap<IpAddr, Vec<Arc<str>>> = HashMap::new();
        for (host, addresses) in &recording.hosts {
            addresses.keys().for_each(|address| hosts.entry(*address).or_default().push(Arc::clone(host)));
        }
        hosts.values_mut().for_each(|hosts| hosts.sort_unstable());
        let (truth, users) = (HashMap::new(), HashMap::new());
        let mut course = Course { recording, roster, names, checks, truth, hosts, users, now: recording.begin, warm };
        course.advance(recording.begin);
        course
    }

    /// Goes on to a result and takes it in.
    pub fn feed(&mut self, record: &Record) {
        self.advance(self.now.max(record.at));
        let key = (record.address, Arc::clone(&record.definition));
        if !self.truth.contains_key(&key) {
            // An address that a look-up must have brought meanwhile, to every candidate that shares the check.
            for host in self.hosts.get(&record.address).cloned().unwrap_or_default() {
                if self.recording.addresses(&host, self.now).contains(&record.address) {
                    self.look_up(&host);
                }
            }
            self.users.clear();
        }
        if record.result.outcome != Outcome::LocalError {
            for name in self.users_of(&key) {
                Family::BOTH.into_iter().for_each(|family| self.account(name, family));
            }
            self.truth.insert(key, Truth::of(&record.result));
        }
        for id in self.checks.get(&record.definition).cloned().unwrap_or_default() {
            if let Some(target) = self.roster.target_of(record.address, id) {
                self.roster.apply_result(target, &record.result, self.now);
            }
        }
        self.decide();
    }

    /// What came of each name and family that has an address, up to `end`.
    pub fn finish(mut self, end: Time) -> Vec<(Arc<str>, Family, Outcomes)> {
        self.advance(end.max(self.now));
        let mut lines = Vec::new();
        for name in 0..self.names.len() {
            for family in Family::BOTH {
                self.account(name, family);
                let watched = &mut self.names[name];
                let side = &mut watched.families[family.index()];
                if side.compared_ms > 0.0 {
                    side.sums.answered_latency_ms = Some(side.answered / side.compared_ms);
                    side.sums.best_latency_ms = Some(side.best / side.compared_ms);
                }
                let sums = side.sums.clone();
                if self.known(name, family) {
                    lines.push((Arc::clone(&self.names[name].name), family, sums));
                }
            }
        }
        lines
    }

    /// Whether the name has a candidate address of the family.
    fn known(&self, name: usize, family: Family) -> bool {
        self.names[name].candidates.iter().any(|(host, _)| match host {
            Host::Address(address) => Family::of(*address) == family,
            Host::Name(host) => {
                self.recording.hosts.get(host).into_iter().flatten().any(|(address, _)| Family::of(*address) == family)
            }
        })
    }

    /// Expiries and look-ups until `end`. What lies between is followed for a while after the last record and before
    /// the next: a clock that was set, or a daemon that was stopped, can leave decades without any.
    fn advance(&mut self, end: Time) {
        let (settled, again) = (self.now.after(SETTLED), Time(end.0.saturating_sub(SETTLED.as_millis() as u64)));
        while let Some(due) = self.roster.next_due().filter(|due| *due <= end) {
            let due = if due > settled { due.max(again) } else { due };
            self.now = self.now.max(due);
            self.roster.tick(self.now);
            for job in self.roster.next_lookups(self.now, usize::MAX) {
                self.look_up(&job.host);
            }
            // They are under way until a record says what came of them.
            self.roster.next_checks(self.now, usize::MAX);
            self.decide();
        }
        self.now = self.now.max(end);
    }

    fn look_up(&mut self, host: &Arc<str>) {
        let addresses = self.recording.addresses(host, self.now);
        let v4: Vec<_> = addresses.iter().filter_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None }).collect();
        let v6: Vec<_> = addresses.iter().filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None }).collect();
        let result = if addresses.is_empty() {
            LookupResult { v4: Err(LookupFailure::Timeout), v6: Err(LookupFailure::Timeout), ttl: None }
        } else {
            LookupResult { v4: Ok(v4), v6: Ok(v6), ttl: None }
        };
        self.roster.apply_lookup(host, &result, self.now);
        self.users.clear();
    }

    fn decide(&mut self) {
        for decision in self.roster.take_decisions(self.now) {
            self.take(&decision);
        }
        // Nobody reads them here.
        self.roster.take_events();
    }

    fn take(&mut self, decision: &Decision) {
        for of_family in &decision.families {
            self.account(decision.name, of_family.family);
            let (warm, now) = (self.warm, self.now);
            let Some(watched) = self.names.get_mut(decision.name) else { continue };
            let side = &mut watched.families[of_family.family.index()];
            let addresses = of_family.plan.addresses();
            let changed = side.addresses.as_ref().is_some_and(|before| *before != addresses);
            side.sums.changes += u64::from(changed && now > warm);
            side.turns = match &of_family.plan {
                Plan::Addresses { turns, .. } => turns.to_vec(),
                _ => Vec::new(),
            };
            side.addresses = Some(addresses);
        }
    }

    /// Adds the time since the last look to what a family's answer came to.
    fn account(&mut self, name: usize, family: Family) {
        let now = self.now;
        let since = self.names[name].families[family.index()].since.max(self.warm);
        self.names[name].families[family.index()].since = now;
        // While nothing was recorded for long, nothing is known: the daemon did not run.
        let span = now.since(since).min(self.recording.interval * 3).as_millis() as u64;
        if span == 0 {
            return;
        }
        let turns = std::mem::take(&mut self.names[name].families[family.index()].turns);
        let best = self.best(name, family);
        let firsts: Vec<IpAddr> = turns.iter().filter_map(|turn| turn.first().copied()).collect();
        let (mut dead, mut latency, mut measured) = (0.0, 0.0, 0.0);
        for first in &firsts {
            match self.truth_of(name, *first) {
                Some((false, _)) => dead += 1.0,
                Some((true, Some(ms))) => (latency, measured) = (latency + ms, measured + 1.0),
                _ => (),
            }
        }
        let side = &mut self.names[name].families[family.index()];
        side.turns = turns;
        side.sums.total_ms += span;
        if firsts.is_empty() {
            side.sums.empty_ms += span;
            return;
        }
        // Answers that take turns count in equal shares.
        side.sums.dead_ms += (span as f64 * dead / firsts.len() as f64) as u64;
        if let Some(best) = best.filter(|_| measured > 0.0) {
            let weight = span as f64 * measured / firsts.len() as f64;
            side.answered += weight * latency / measured;
            side.best += weight * best;
            side.compared_ms += weight;
        }
    }

    /// Latency of the fastest address that passed its last checks.
    fn best(&self, name: usize, family: Family) -> Option<f64> {
        let addresses = self.names[name].candidates.iter().flat_map(|(host, _)| match host {
            Host::Address(address) => vec![*address],
            Host::Name(host) => self.recording.addresses(host, self.now),
        });
        addresses
            .filter(|address| Family::of(*address) == family)
            .filter_map(|address| self.truth_of(name, address).filter(|(ok, _)| *ok)?.1)
            .min_by(f64::total_cmp)
    }

    /// Whether an address passed all its last checks, and the latency of the first; `None` = never checked.
    fn truth_of(&self, name: usize, address: IpAddr) -> Option<(bool, Option<f64>)> {
        let watched = &self.names[name];
        let (_, checks) = watched.candidates.iter().find(|(host, _)| self.is_at(host, address))?;
        let truths: Vec<Truth> =
            checks.iter().filter_map(|check| self.truth.get(&(address, Arc::clone(check))).copied()).collect();
        let first = truths.first()?;
        let latency = match watched.latency {
            LatencyOf::Total => Some(first.total),
            LatencyOf::FirstByte => first.first_byte,
            LatencyOf::Connect => first.connect,
        };
        Some((truths.iter().all(|truth| truth.ok), latency))
    }

    fn is_at(&self, host: &Host, address: IpAddr) -> bool {
        match host {
            Host::Address(own) => *own == address,
            Host::Name(host) => self.recording.hosts.get(host).is_some_and(|known| known.contains_key(&address)),
        }
    }

    fn users_of(&mut self, key: &(IpAddr, Arc<str>)) -> Vec<usize> {
        if let Some(known) = self.users.get(key) {
            return known.clone();
        }
        let uses = |watched: &Watched| {
            watched.candidates.iter().any(|(host, checks)| checks.contains(&key.1) && self.is_at(host, key.0))
        };
        let users: Vec<usize> = (0..self.names.len()).filter(|&name| uses(&self.names[name])).collect();
        self.users.insert(key.clone(), users.clone());
        users
    }
}

impl Watched {
    fn new(spec: &NameSpec) -> Watched {
        let candidates = spec.candidates.iter().map(|candidate| {
            let checks = candidate.checks.iter().filter(|check| !check.is_none);
            (candidate.host.clone(), checks.map(|check| Arc::clone(&check.definition)).collect())
        });
        Watched {
            name: Arc::clone(&spec.name),
            latency: spec.policy.latency,
            candidates: candidates.collect(),
            families: Default::default(),
        }
    }
}

impl Truth {
    fn of(result: &CheckResult) -> Truth {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        Truth {
            ok: result.outcome == Outcome::Ok,
            total: ms(result.total),
            first_byte: result.first_byte.map(ms),
            connect: result.connect.map(ms),
        }
    }
}
