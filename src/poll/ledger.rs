//! What the poller has to tell the state file, gathered into batches.
//!
//! `health` keeps the records of addresses and answers; this side adds what it does not know: the daemon's own
//! row, names and candidates as configured, how often each address was given out, single results.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::firsts::Firsts;
use super::tally::Key;
use crate::config::values::in_names;
use crate::config::{Config, Mode};
use crate::health::events::utc;
use crate::health::resolution::LookupResult;
use crate::health::roster::Roster;
use crate::health::{CandidateSpec, CheckResult, Event, EventKind, Host, Select, Time};
use crate::os;
use crate::store::{Batch, CandidateRow, DaemonRow, EndpointKey, NameRow, ResultRow, Stored};

/// The counter of checks that began late.
const CHECKS_LATE: &str = "checks_late";

/// The poller's side of the state file.
pub struct Ledger {
    daemon: DaemonRow,
    /// What look-ups said of the host names among the candidates.
    hosts: HashMap<Arc<str>, LookedUp>,
    /// Those whose candidates have rows to write.
    changed: Vec<Arc<str>>,
    chosen: HashMap<EndpointKey, u64>,
    /// Counted in [`Ledger::chosen`] while rows of addresses waited, see [`Ledger::repeat_unsure`].
    unsure: HashSet<EndpointKey>,
    results: Vec<ResultRow>,
    events: Vec<Event>,
    /// Late checks of the processes before this one.
    late_before: u64,
    firsts: Firsts,
}

/// A host name among the candidates.
#[derive(Default)]
struct LookedUp {
    /// Who has it: places of names in the configuration, and of candidates in them.
    users: Vec<(usize, usize)>,
    resolved_at: Option<Time>,
    /// What of that was last worth a row.
    noted: Option<Time>,
    error: Option<String>,
}

impl Ledger {
    /// A ledger that goes on with the counts of the last run.
    pub fn new(config: &Config, roster: &Roster, listeners: Vec<SocketAddr>, stored: &Stored, now: Time) -> Ledger {
        let daemon = DaemonRow {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            config: config.path.display().to_string(),
            listen: listeners,
            started_at: now,
            heartbeat_at: now,
            stopped_at: None,
            note: String::new(),
        };
        let mut ledger = Ledger {
            daemon,
            hosts: HashMap::new(),
            changed: Vec::new(),
            chosen: stored.times_chosen.iter().filter(|(_, times)| *times > 0).cloned().collect(),
            unsure: HashSet::new(),
            results: Vec::new(),
            events: vec![started(config, stored, now)],
            late_before: stored.counters.iter().find(|(key, _)| key == CHECKS_LATE).map_or(0, |(_, count)| *count),
            firsts: Firsts::default(),
        };
        ledger.configure(roster);
        // The candidates of the last run are not read at a start; its addresses are.
        for record in &stored.endpoints {
            if let Host::Name(host) = &record.host
                && let Some(known) = ledger.hosts.get_mut(host)
            {
                known.resolved_at = known.resolved_at.max(record.resolved_at.map(|at| at.min(now)));
            }
        }
        ledger
    }

    /// har listens elsewhere.
    pub fn set_listeners(&mut self, listeners: Vec<SocketAddr>) {
        self.daemon.listen = listeners;
    }

    /// Takes over the candidates of a configuration; what look-ups said of those that stay is kept.
    pub fn configure(&mut self, roster: &Roster) {
        self.firsts = Firsts::default();
        self.hosts.values_mut().for_each(|host| host.users.clear());
        self.changed.clear();
        for (place, name) in roster.specs().enumerate() {
            for (position, candidate) in name.candidates.iter().enumerate() {
                if let Host::Name(host) = &candidate.host {
                    self.hosts.entry(Arc::clone(host)).or_default().users.push((place, position));
                }
            }
        }
        self.hosts.retain(|_, host| !host.users.is_empty());
    }

    /// The row of a candidate.
    fn candidate(&self, name: &Arc<str>, position: usize, candidate: &CandidateSpec) -> CandidateRow {
        let looked_up = match &candidate.host {
            Host::Name(host) => self.hosts.get(host),
            Host::Address(_) => None,
        };
        CandidateRow {
            name: Arc::clone(name),
            position: position as u32,
            priority: candidate.priority,
            weight: candidate.weight,
            resolved_at: looked_up.and_then(|host| host.resolved_at),
            error: looked_up.and_then(|host| host.error.clone()),
            host: candidate.host.clone(),
        }
    }

    /// The rows of the candidates that look-ups said something new of.
    fn changed_candidates(&mut self, roster: &Roster) -> Vec<CandidateRow> {
        let changed = std::mem::take(&mut self.changed);
        let places = changed.iter().filter_map(|host| self.hosts.get(host)).flat_map(|host| &host.users);
        let rows = places.filter_map(|&(place, position)| {
            let name = roster.spec(place)?;
            Some(self.candidate(&name.name, position, name.candidates.get(position)?))
        });
        rows.collect()
    }

    /// Something that happened, if it did.
    pub fn event(&mut self, event: Option<Event>) {
        self.events.extend(event);
    }

    /// A check's result, for the history and the sums, which are kept without one.
    pub fn result(&mut self, host: Host, address: IpAddr, definition: Arc<str>, result: &CheckResult, at: Time) {
        self.results.push(ResultRow { at, host, address, definition, result: result.clone() });
    }

    /// What a look-up said of a candidate. A success is noted when the last one was a failure or is a minute
    /// old: its time alone is not worth a row every few seconds.
    pub fn looked_up(&mut self, host: &str, result: &LookupResult, now: Time) {
        let found =
            [result.v4.as_ref().is_ok_and(|v4| !v4.is_empty()), result.v6.as_ref().is_ok_and(|v6| !v6.is_empty())];
        let error = match (&result.v4, &result.v6) {
            _ if found.contains(&true) => None,
            (Err(failure), _) | (_, Err(failure)) => Some(failure.as_str().to_owned()),
            _ => Some("the name has no address".to_owned()),
        };
        let Some(known) = self.hosts.get_mut(host) else { return };
        let worth_a_row = known.error != error || known.noted.is_none_or(|at| now.since(at).as_secs() >= 60);
        if error.is_none() {
            known.resolved_at = Some(now);
        }
        if worth_a_row {
            known.noted = known.resolved_at;
        }
        known.error = error;
        if worth_a_row && self.changed.last().is_none_or(|last| **last != *host) {
            self.changed.push(host.into());
        }
    }

    /// Adds what changed since the last batch, about `room` rows of addresses and answers at most.
    pub fn changes(&mut self, roster: &mut Roster, room: usize, batch: &mut Batch) {
        let records = roster.take_records(room);
        batch.endpoints = records.endpoints;
        batch.answers = records.answers;
        batch.removed =
            records.removed.into_iter().map(|(name, host, address)| EndpointKey { name, host, address }).collect();
        for key in &batch.removed {
            self.chosen.remove(key);
        }
        batch.candidates = self.changed_candidates(roster);
        batch.events = self.firsts.thin_out(roster.take_events());
        batch.events.append(&mut self.events);
        batch.results = std::mem::take(&mut self.results);
    }

    /// Adds the whole state.
    pub fn everything(&mut self, roster: &mut Roster, config: &Config, batch: &mut Batch) {
        roster.rewrite();
        self.changes(roster, usize::MAX, batch);
        batch.complete = true;
        batch.candidates.clear();
        // What leaves the table with this batch begins at 0 should it come back.
        let kept: HashSet<EndpointKey> = batch.endpoints.iter().map(EndpointKey::of).collect();
        self.chosen.retain(|key, _| kept.contains(key));
        for (name, spec) in config.names.iter().zip(roster.specs()) {
            let candidates = spec.candidates.iter().enumerate();
            batch
                .candidates
                .extend(candidates.map(|(position, candidate)| self.candidate(&spec.name, position, candidate)));
            batch.names.push(NameRow {
                name: Arc::clone(&spec.name),
                mode: match name.mode {
                    Mode::Answer => "answer",
                    Mode::Observe => "observe",
                }
                .into(),
                select: select_word(name.policy.select).into(),
                ttl_s: name.ttl,
                interval_ms: name.pace.interval.as_millis() as u64,
            });
        }
        batch.times_chosen = self.chosen.iter().map(|(key, count)| (key.clone(), *count)).collect();
    }

    /// Adds the count of late checks, and how often addresses were given since the last call.
    pub fn given(&mut self, roster: &Roster, given: Vec<(Key, u64)>, batch: &mut Batch) {
        batch.counters.push((CHECKS_LATE.to_owned(), self.late_before + roster.late_checks()));
        for (row, ((name, address), more)) in given.into_iter().enumerate() {
            os::breathe(row);
            // An address that two candidates of a name share is counted for the one that ranks first.
            let Some((name, host)) = roster.endpoint_of(name, address) else { continue };
            let key = EndpointKey { name, host, address };
            let count = self.chosen.entry(key.clone()).or_default();
            *count += more;
            batch.times_chosen.push((key, *count));
        }
        self.repeat_unsure(roster, batch);
    }

    /// The count of an address whose row has yet to be written has nowhere to go in the file: while rows wait, what is
    /// counted is said again afterwards.
    fn repeat_unsure(&mut self, roster: &Roster, batch: &mut Batch) {
        if roster.has_records() {
            self.unsure.extend(batch.times_chosen.iter().map(|(key, _)| key.clone()));
        } else {
            let unsure = std::mem::take(&mut self.unsure);
            batch.times_chosen.extend(unsure.into_iter().filter_map(|key| {
                let count = *self.chosen.get(&key)?;
                Some((key, count))
            }));
        }
    }

    /// Adds the daemon's row.
    pub fn heartbeat(&mut self, batch: &mut Batch, note: &str, now: Time) {
        batch.events.extend(self.firsts.sum(now));
        self.daemon.heartbeat_at = now;
        note.clone_into(&mut self.daemon.note);
        batch.daemon = Some(self.daemon.clone());
    }

    /// Marks a clean stop.
    pub fn stopped(&mut self, batch: &mut Batch, now: Time) {
        self.daemon.stopped_at = Some(now);
        batch.daemon = Some(self.daemon.clone());
    }
}

/// The event of a start, which tells how the last run ended.
fn started(config: &Config, stored: &Stored, now: Time) -> Event {
    let last = match &stored.daemon {
        None => "no earlier run is known".to_owned(),
        Some(DaemonRow { stopped_at: Some(at), .. }) => format!("the last run was stopped at {}", utc(*at)),
        Some(last) => format!("the last run did not end in order and was last heard of at {}", utc(last.heartbeat_at)),
    };
    let (version, path) = (env!("CARGO_PKG_VERSION"), config.path.display());
    let words = format!("har {version} started, {} from {path}; {last}", in_names(config.names.len()));
    Event::new(now, EventKind::Daemon, words)
}

/// The word of the configuration for a policy.
fn select_word(select: Select) -> &'static str {
    match select {
        Select::LowestLatency => "lowest-latency",
        Select::LatencyGroup => "latency-group",
        Select::RoundRobin => "round-robin",
        Select::Failover => "failover",
        Select::All => "all",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::resolution::LookupFailure;
    use crate::health::{CheckRef, NameSpec};
    use crate::store::tests::endpoint;

    /// One name with one address, of which everything has yet to be written.
    fn begun(address: IpAddr) -> (Ledger, Roster) {
        begun_with(Host::Address(address), &Stored::default())
    }

    fn begun_with(host: Host, stored: &Stored) -> (Ledger, Roster) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.toml");
        let text = format!("[names.\"a.example\"]\ncheck = \"none\"\ncandidates = [\"{host}\"]\n");
        std::fs::write(&path, text).unwrap();
        let config = crate::config::load(&path).unwrap_or_else(|report| panic!("{report}"));
        let name = &config.names[0];
        let check = CheckRef { id: 1, definition: "none".into(), is_none: true, own_address: true, exclusive: false };
        let candidate = CandidateSpec { host, priority: 1, weight: 1, checks: Arc::new(vec![check]) };
        let spec = NameSpec {
            name: "a.example".into(),
            policy: Arc::clone(&name.policy),
            thresholds: Arc::clone(&name.thresholds),
            pace: Arc::clone(&name.pace),
            resolve_interval: name.resolve_interval,
            resolve_hold: name.resolve_hold,
            candidates: vec![candidate],
            fallback: Vec::new(),
            drain_record: None,
        };
        let mut roster = Roster::new(b"machine");
        roster.configure(vec![spec], Time(1_000_000));
        (Ledger::new(&config, &roster, Vec::new(), stored, Time(1_000_000)), roster)
    }

    #[test]
    fn rows_wait_in_the_roster_until_there_is_room() {
        let (mut ledger, mut roster) = begun(IpAddr::from([192, 0, 2, 1]));
        let mut rows = |room| {
            let mut batch = Batch::default();
            ledger.changes(&mut roster, room, &mut batch);
            batch.endpoints.len()
        };
        assert_eq!([0, 1, 1].map(&mut rows), [0, 1, 0]);
    }

    #[test]
    fn when_a_name_was_last_looked_up_outlives_a_restart_and_is_noted_once_a_minute() {
        let mut stored = Stored::default();
        for (number, at) in [(1, 400_000), (2, 500_000), (3, 2_000_000)] {
            let mut record = endpoint("a.example", number);
            (record.host, record.resolved_at) = (Host::Name("h.example".into()), Some(Time(at)));
            stored.endpoints.push(record);
        }
        let resolved_at = |ledger: &mut Ledger, roster: &Roster| {
            ledger.changed_candidates(roster).into_iter().map(|row| (row.resolved_at, row.error)).collect::<Vec<_>>()
        };
        let failed = LookupResult { v4: Err(LookupFailure::Timeout), v6: Err(LookupFailure::Timeout), ttl: None };
        let found = LookupResult { v4: Ok(vec![[192, 0, 2, 1].into()]), ..failed.clone() };
        // One of them was written by a clock that was ahead.
        let (mut ledger, roster) = begun_with(Host::Name("h.example".into()), &stored);
        ledger.looked_up("h.example", &failed, Time(1_000_000));
        assert_eq!(resolved_at(&mut ledger, &roster)[0].0, Some(Time(1_000_000)));
        stored.endpoints.pop();
        let (mut ledger, roster) = begun_with(Host::Name("h.example".into()), &stored);
        ledger.looked_up("h.example", &failed, Time(1_000_000));
        let rows = resolved_at(&mut ledger, &roster);
        assert!(rows.len() == 1 && rows[0].0 == Some(Time(500_000)) && rows[0].1.is_some(), "{rows:?}");
        // Every half minute from now on.
        let rows = (0..5).map(|half| {
            ledger.looked_up("h.example", &found, Time(1_001_000 + half * 30_000));
            resolved_at(&mut ledger, &roster).len()
        });
        assert_eq!(rows.collect::<Vec<_>>(), [1, 0, 1, 0, 1]);
    }

    #[test]
    fn what_is_counted_of_an_address_that_has_no_row_yet_is_said_again() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let (mut ledger, mut roster) = begun(address);
        let mut chosen = |roster: &Roster, more: &[u64]| {
            let mut batch = Batch::default();
            ledger.given(roster, more.iter().map(|more| ((0, address), *more)).collect(), &mut batch);
            batch.times_chosen.into_iter().map(|(key, count)| (key.address, count)).collect::<Vec<_>>()
        };
        assert!(roster.has_records());
        assert_eq!(chosen(&roster, &[3]), [(address, 3)]);
        assert_eq!(chosen(&roster, &[2]), [(address, 5)]);
        roster.take_records(usize::MAX);
        assert_eq!(chosen(&roster, &[]), [(address, 5)], "its row comes with this batch at the latest");
        assert_eq!(chosen(&roster, &[]), [], "once");
        assert_eq!(chosen(&roster, &[1]), [(address, 6)]);
    }
}
