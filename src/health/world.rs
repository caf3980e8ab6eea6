//! A scripted world for tests: a roster, a clock, and what the network would have answered.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::changed::Counts;
use super::decide::{Decision, Plan};
use super::resolution::{LookupFailure, LookupKind, LookupResult};
use super::roster::Roster;
use super::schedule::TargetId;
use super::{
    AllDown, CandidateSpec, CheckRef, CheckResult, DualStack, Event, Family, Host, LatencyOf, NameSpec, Outcome, Pace,
    Policy, Select, Spread, Thresholds, Time,
};

/// What a check of an address would yield at a time.
pub(super) type Script = Box<dyn FnMut(IpAddr, u32, Time) -> CheckResult>;

/// A roster and its surroundings.
pub(super) struct World {
    pub(super) roster: Roster,
    pub(super) now: Time,
    pub(super) script: Script,
    pub(super) zone: HashMap<Arc<str>, LookupResult>,
    pub(super) texts: HashMap<Arc<str>, Vec<String>>,
    pub(super) decisions: HashMap<usize, Decision>,
    pub(super) events: Vec<Event>,
    /// Times at which checks began, by address.
    pub(super) begun: Vec<(Time, IpAddr)>,
    running: BTreeMap<(Time, TargetId), CheckResult>,
    most_at_once: HashMap<TargetId, u32>,
}

pub(super) const START: Time = Time(1_700_000_000_000);

impl World {
    pub(super) fn new(specs: Vec<NameSpec>, script: Script) -> World {
        let mut world = World::empty(script);
        world.roster.configure(specs, START);
        world
    }

    pub(super) fn empty(script: Script) -> World {
        World {
            roster: Roster::new(b"machine"),
            now: START,
            script,
            zone: HashMap::new(),
            texts: HashMap::new(),
            decisions: HashMap::new(),
            events: Vec::new(),
            begun: Vec::new(),
            running: BTreeMap::new(),
            most_at_once: HashMap::new(),
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        loop {
            self.settle();
            let finish = self.running.keys().next().map(|(at, _)| *at);
            let Some(next) = [finish, self.roster.next_due()].into_iter().flatten().min() else { break };
            if next > end {
                break;
            }
            self.now = next.max(self.now);
        }
        self.now = end;
        self.settle();
    }

    /// Does everything that is due at this moment.
    pub(super) fn settle(&mut self) {
        while let Some((&(at, target), _)) = self.running.first_key_value()
            && at <= self.now
        {
            let result = self.running.remove(&(at, target)).unwrap();
            self.most_at_once.remove(&target);
            self.roster.apply_result(target, &result, self.now);
        }
        self.roster.tick(self.now);
        for job in self.roster.next_lookups(self.now, 1000) {
            match job.kind {
                LookupKind::Addresses => {
                    let failed =
                        LookupResult { v4: Err(LookupFailure::Timeout), v6: Err(LookupFailure::Timeout), ttl: None };
                    let result = self.zone.get(&job.host).cloned().unwrap_or(failed);
                    self.roster.apply_lookup(&job.host, &result, self.now);
                }
                LookupKind::DrainText => {
                    let strings = self.texts.get(&job.host).cloned().unwrap_or_default();
                    let read_name = |name: &str| Some(name.to_owned());
                    self.roster.apply_drain_text(&job.host, Ok(vec![strings]), None, read_name, self.now);
                }
            }
        }
        for job in self.roster.next_checks(self.now, usize::MAX) {
            let running = self.most_at_once.entry(job.target).or_default();
            *running += 1;
            assert_eq!(*running, 1, "two checks of one target at once");
            self.begun.push((self.now, job.address));
            let result = (self.script)(job.address, job.check, self.now);
            self.running.insert((self.now.after(result.total), job.target), result);
        }
        for decision in self.roster.take_decisions(self.now) {
            self.decisions.insert(decision.name, decision);
        }
        self.events.extend(self.roster.take_events());
        self.assert_counts();
    }

    /// What is kept count of is what is there.
    fn assert_counts(&mut self) {
        let counted = self.roster.changed.counts(&self.roster.names);
        let there = self.roster.names.iter().map(|name| Counts::of(&name.endpoints));
        assert_eq!(counted, there.fold(Counts::default(), Counts::with));
    }

    /// What is answered to a question for A of the first name.
    pub(super) fn answer(&self) -> Vec<String> {
        self.answer_of(0, Family::V4)
    }

    pub(super) fn answer_of(&self, name: usize, family: Family) -> Vec<String> {
        self.plan(name, family).addresses().iter().map(IpAddr::to_string).collect()
    }

    pub(super) fn plan(&self, name: usize, family: Family) -> &Plan {
        &self.decisions[&name].families[family.index()].plan
    }

    /// The latency of the first name's address that ranks first.
    pub(super) fn first_ms(&self) -> Option<f64> {
        let first = self.roster.names[0].endpoints.iter().find(|endpoint| endpoint.rank() == Some(1));
        first.and_then(|endpoint| endpoint.health.latency_ms.get())
    }

    pub(super) fn basis(&self, name: usize, family: Family) -> &'static str {
        self.decisions[&name].families[family.index()].basis.as_str()
    }
}

/// A check that passes after so many milliseconds.
pub(super) fn ok(ms: f64) -> CheckResult {
    CheckResult {
        outcome: Outcome::Ok,
        silent: false,
        status: None,
        connect: None,
        first_byte: None,
        total: Duration::from_secs_f64(ms / 1000.0),
        error: None,
        priority: None,
        certificate_days: None,
    }
}

/// A check that fails at once because the port is closed.
pub(super) fn refused() -> CheckResult {
    CheckResult { outcome: Outcome::ConnectError, error: Some("connection refused".into()), ..ok(0.2) }
}

/// A check that nobody answers.
pub(super) fn timeout() -> CheckResult {
    CheckResult { outcome: Outcome::Timeout, silent: true, error: Some("no connection".into()), ..ok(500.0) }
}

/// A look-up that gives these addresses.
pub(super) fn found(addresses: &[&str]) -> LookupResult {
    let all: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let v4 = all.iter().filter_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None }).collect();
    let v6 = all.iter().filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None }).collect();
    LookupResult { v4: Ok(v4), v6: Ok(v6), ttl: None }
}

/// A name with the defaults of the configuration and these candidates.
pub(super) fn spec(name: &str, candidates: &[&str]) -> NameSpec {
    let check = CheckRef { id: 1, definition: "tcp:80".into(), is_none: false, own_address: true, exclusive: false };
    NameSpec {
        name: name.into(),
        policy: Arc::new(Policy {
            select: Select::LowestLatency,
            latency: LatencyOf::Total,
            within: Duration::from_millis(10),
            spread: Spread::Rotate,
            hysteresis: 0.1,
            max_latency: Duration::ZERO,
            answers: 1,
            min_up: 1,
            panic_below: 0.0,
            dual_stack: DualStack::Independent,
            when_all_down: AllDown::All,
        }),
        thresholds: Arc::new(Thresholds { rise: 2, fall: 3, min_success: 0.5 }),
        pace: Arc::new(Pace {
            interval: Duration::from_secs(10),
            fast_interval: Duration::from_secs(1),
            down_interval: Duration::from_secs(10),
            idle_after: Duration::ZERO,
            idle_interval: Duration::from_secs(60),
        }),
        resolve_interval: Duration::from_secs(30),
        resolve_hold: Duration::from_secs(3600),
        candidates: candidates
            .iter()
            .map(|host| CandidateSpec {
                host: host.parse().map_or_else(|_| Host::Name((*host).into()), Host::Address),
                priority: 1,
                weight: 1,
                checks: Arc::new(vec![check.clone()]),
            })
            .collect(),
        fallback: Vec::new(),
        drain_record: None,
    }
}
