//! The state file under everything that happens to files, with builders for its rows.

mod bounds;
mod files;
mod pages;
mod rows;

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::*;
use crate::health::{
    AnswerRecord, CheckResult, EndpointRecord, Event, EventKind, Family, Host, Outcome, Override, Recorded, State, Time,
};

pub const LONG: Duration = Duration::from_secs(60);
pub const DAY: Duration = Duration::from_secs(86_400);

pub fn address(number: u32) -> IpAddr {
    IpAddr::from((0xc000_0200 + number).to_be_bytes())
}

pub fn endpoint(name: &str, number: u32) -> EndpointRecord {
    EndpointRecord {
        name: name.into(),
        host: Host::Name(format!("h{number}.example.com").into()),
        address: address(number),
        definition: "http://{host}/".into(),
        state: State::Up,
        since: Time(1_795_243_500_123),
        successes: 4,
        failures: 0,
        window: 0b1111,
        window_len: 4,
        latency_ms: Some(8.25 + f64::from(number)),
        deviation_ms: Some(0.5),
        connect_ms: Some(2.0),
        first_byte_ms: Some(7.0),
        total_ms: Some(8.0),
        last_check: Some(time::now()),
        last_outcome: Some(Outcome::Ok),
        last_error: Some("refused".into()),
        interval_ms: 10_000,
        stale: false,
        resolved_at: Some(Time(1_795_243_500_000)),
        rank: Some(number),
        chosen: number == 1,
        standing: Recorded::Read(if number == 1 { "chosen" } else { "reserve" }.to_owned()),
        certificate_days: (number == 1).then_some(30),
        counts: [100, 1, 2, 3, 4, 5, 6],
        keeps_place: false,
        over_limit: number == 2,
        reported_priority: (number == 3).then_some(None),
        drained: (number == 3).then(|| "until 2026-11-21T10:00:00Z by ops".to_owned()),
        forced: number == 3,
    }
}

pub fn answer(name: &str) -> AnswerRecord {
    AnswerRecord {
        name: name.into(),
        family: Family::V4,
        addresses: [address(1), address(2)].into(),
        basis: "ranked".into(),
        reason: "the fastest".into(),
        since: Time(1_795_243_500_123),
        last_good: [address(1)].into(),
    }
}

pub fn result(number: u32, at: Time, outcome: Outcome, total_ms: u64) -> ResultRow {
    let result = CheckResult {
        outcome,
        silent: false,
        status: Some(200),
        connect: Some(Duration::from_millis(1)),
        first_byte: Some(Duration::from_millis(2)),
        total: Duration::from_millis(total_ms),
        error: (outcome != Outcome::Ok).then(|| "connection refused".into()),
        priority: None,
        certificate_days: None,
    };
    let host = Host::Name(format!("h{number}.example.com").into());
    ResultRow { at, host, address: address(number), definition: "http://{host}/".into(), result }
}

pub fn event(at: Time, reason: &str) -> Event {
    Event {
        at,
        kind: EventKind::Answer,
        name: Some("api.example.com".into()),
        family: Some(Family::V4),
        host: None,
        address: None,
        before: Some("192.0.2.2".into()),
        after: Some("192.0.2.1".into()),
        before_ms: Some(12.5),
        after_ms: Some(8.25),
        reason: reason.into(),
    }
}

pub fn daemon() -> DaemonRow {
    DaemonRow {
        version: "0.1.0".to_owned(),
        pid: std::process::id(),
        config: "/etc/har/har.toml".to_owned(),
        listen: vec!["127.0.0.1:53".parse().unwrap()],
        started_at: Time(1_795_243_500_123),
        heartbeat_at: time::now(),
        stopped_at: None,
        note: String::new(),
    }
}

pub fn name_row(name: &str) -> NameRow {
    let (mode, select) = ("answer".to_owned(), "lowest-latency".to_owned());
    NameRow { name: name.into(), mode: mode.into(), select: select.into(), ttl_s: 1, interval_ms: 10_000 }
}

/// A whole state: one name, `addresses` addresses, an upstream.
pub fn complete(addresses: u32) -> Batch {
    let name = "api.example.com";
    let endpoints: Vec<_> = (1..=addresses).map(|number| endpoint(name, number)).collect();
    Batch {
        complete: true,
        daemon: Some(daemon()),
        names: vec![name_row(name)],
        candidates: endpoints
            .iter()
            .zip(0..)
            .map(|(record, position)| CandidateRow {
                name: name.into(),
                host: record.host.clone(),
                position,
                priority: 1,
                weight: 1,
                resolved_at: record.resolved_at,
                error: None,
            })
            .collect(),
        answers: vec![answer(name)],
        name_counters: vec![(name.into(), NameCounters { queries: [5, 6, 7], answers: [1, 2, 3, 4, 5] })],
        times_chosen: vec![(EndpointKey::of(&endpoint(name, 1)), 41)],
        upstreams: vec![UpstreamRow {
            address: "10.0.0.2:53".parse().unwrap(),
            route: String::new(),
            usable: true,
            note: String::new(),
            queries: 10,
            answers: 9,
            timeouts: 1,
            servfail: 2,
            rtt_ms: Some(3.5),
        }],
        counters: vec![("queries".to_owned(), 99)],
        results: (1..=addresses).map(|number| result(number, time::now(), Outcome::Ok, 8)).collect(),
        events: vec![event(time::now(), "12.5 ms → 8.25 ms")],
        endpoints,
        ..Batch::default()
    }
}

/// What the hooks were told.
#[derive(Clone, Default)]
pub struct Heard {
    pub overrides: Arc<Mutex<Vec<Vec<Override>>>>,
    pub troubles: Arc<Mutex<Vec<Option<String>>>>,
    pub resends: Arc<Mutex<u32>>,
    pub completes: Arc<Mutex<u32>>,
}

impl Heard {
    pub fn hooks(&self) -> Hooks {
        let (overrides, troubles) = (self.overrides.clone(), self.troubles.clone());
        let (resends, completes) = (self.resends.clone(), self.completes.clone());
        Hooks {
            on_overrides: Box::new(move |all, _| overrides.lock().unwrap().push(all)),
            on_trouble: Box::new(move |line| troubles.lock().unwrap().push(line)),
            on_resend: Box::new(move || *resends.lock().unwrap() += 1),
            on_complete: Box::new(move || *completes.lock().unwrap() += 1),
        }
    }

    pub fn troubled(&self, word: &str) -> bool {
        self.troubles.lock().unwrap().iter().flatten().any(|line| line.contains(word))
    }
}

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

pub fn start(path: &Path) -> (Writer, Heard) {
    let heard = Heard::default();
    let store = Store::open(path).unwrap().store;
    (Writer::start(store, DAY, heard.hooks()).unwrap(), heard)
}

pub fn count(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}
