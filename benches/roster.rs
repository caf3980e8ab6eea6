//! What a large configuration costs the room that decides: 10,000 names of 5 candidates each, nothing but memory.
//!
//! Printed are the reading of a configuration file, a cold start (configure, first decisions), a warm one (configure, restore what the state file keeps,
//! all decisions: what stands between the start of the process and its first answers), one round of results with
//! their decisions, a reload without changes, and a look-up of a host that every name shares. Memory is what the
//! kernel says this process has in use. Nothing is asserted: `cargo bench --bench roster` is for eyes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use har::config;
use har::health::resolution::LookupResult;
use har::health::roster::Roster;
use har::health::{
    AllDown, CandidateSpec, CheckRef, CheckResult, DualStack, Host, LatencyOf, NameSpec, Outcome, Pace, Policy, Select,
    Spread, Thresholds, Time,
};

/// Configured names.
const NAMES: usize = 10_000;

/// Candidates of each.
const CANDIDATES: usize = 5;

/// When the first one starts.
const START: Time = Time(1_700_000_000_000);

/// Where the candidates are.
#[derive(Clone, Copy, Debug)]
enum Hosts {
    /// Addresses, all different.
    Addresses,
    /// Host names, all different.
    Names,
    /// The same five host names everywhere.
    Shared,
}

fn main() {
    // `cargo test --benches` must not take half a minute.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    read_configuration();
    for hosts in [Hosts::Addresses, Hosts::Names, Hosts::Shared] {
        run(hosts);
    }
}

/// What comes before all else: the file of as many names, read and checked. `--bench state` has the state file.
fn read_configuration() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("har.toml");
    let mut text = "[defaults]\ncheck = \"tcp:80\"\n".to_owned();
    for name in 0..NAMES {
        let candidates: Vec<String> = (0..CANDIDATES).map(|place| format!("\"{}\"", address(name, place))).collect();
        let _ = writeln!(text, "[names.\"n{name}.example\"]\ncandidates = [{}]", candidates.join(", "));
    }
    std::fs::write(&path, text).expect("own folder");
    println!("a file of {NAMES} names of {CANDIDATES} candidates");
    for _ in 0..3 {
        timed("configuration: read", || config::load(&path).expect("it is valid").names.len());
    }
}

fn run(hosts: Hosts) {
    println!("\n{NAMES} names of {CANDIDATES} candidates, {hosts:?}");
    let mut now = START;
    let mut roster = Roster::new(b"machine");
    timed("cold: configure", || roster.configure(specs(hosts), now));
    timed("cold: first decisions", || roster.take_decisions(now).len());
    timed("first look-ups", || look_up_all(&mut roster, now));
    for round in ["first round of results", "second round"] {
        now = now.after(Duration::from_secs(11));
        timed(round, || check_all(&mut roster, now));
        timed("  decisions", || roster.take_decisions(now).len());
        timed("  records", || roster.take_records(usize::MAX).endpoints.len());
    }
    timed("look-ups that change nothing", || {
        now = now.after(Duration::from_secs(10));
        look_up_all(&mut roster, now)
    });
    timed("  decisions", || roster.take_decisions(now).len());
    roster.rewrite();
    let kept = roster.take_records(usize::MAX);
    timed("reload: configure", || roster.configure(specs(hosts), now));
    timed("reload: decisions", || roster.take_decisions(now).len());
    println!("  memory of the process: {} MiB", resident_mib());
    drop(roster);

    now = now.after(Duration::from_secs(2));
    let mut roster = Roster::new(b"machine");
    let begin = Instant::now();
    timed("warm: configure", || roster.configure(specs(hosts), now));
    timed("warm: restore", || roster.restore(&kept.endpoints, &kept.answers, now));
    timed("warm: overrides", || roster.set_overrides(Vec::new(), now));
    timed("warm: decisions", || roster.take_decisions(now).len());
    println!("  warm start in all: {:.0?}; {:?}", begin.elapsed(), roster.summary());
}

fn timed<T: std::fmt::Debug>(what: &str, work: impl FnOnce() -> T) {
    let begin = Instant::now();
    let value = work();
    println!("{what:<32}{:>10.1} ms  {value:?}", begin.elapsed().as_secs_f64() * 1000.0);
}

fn look_up_all(roster: &mut Roster, now: Time) -> usize {
    let jobs = roster.next_lookups(now, usize::MAX);
    for job in &jobs {
        let number: u32 = job.host.trim_start_matches('h').split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let result = LookupResult {
            v4: Ok(vec![Ipv4Addr::from(0x0a00_0000 + number)]),
            v6: Ok(Vec::new()),
            ttl: Some(Duration::from_secs(30)),
        };
        roster.apply_lookup(&job.host, &result, now);
    }
    jobs.len()
}

fn check_all(roster: &mut Roster, now: Time) -> usize {
    let jobs = roster.next_checks(now, usize::MAX);
    for (at, job) in jobs.iter().enumerate() {
        let total = Duration::from_micros(5_000 + (at as u64 * 7_919) % 20_000);
        let result = CheckResult {
            outcome: Outcome::Ok,
            silent: false,
            status: None,
            connect: None,
            first_byte: None,
            total,
            error: None,
            priority: None,
            certificate_days: None,
        };
        roster.apply_result(job.target, &result, now);
    }
    jobs.len()
}

fn address(name: usize, place: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + (name * CANDIDATES + place) as u32).into()
}

fn specs(hosts: Hosts) -> Vec<NameSpec> {
    let check = CheckRef { id: 1, definition: "tcp:80".into(), is_none: false, own_address: true, exclusive: false };
    let checks = Arc::new(vec![check]);
    let host = |name: usize, place: usize| {
        let number = name * CANDIDATES + place;
        match hosts {
            Hosts::Addresses => Host::Address(address(name, place)),
            Hosts::Names => Host::Name(Arc::from(format!("h{number}.example"))),
            Hosts::Shared => Host::Name(Arc::from(format!("h{place}.example"))),
        }
    };
    (0..NAMES)
        .map(|name| NameSpec {
            name: format!("n{name}.example").into(),
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
            candidates: (0..CANDIDATES)
                .map(|place| CandidateSpec {
                    host: host(name, place),
                    priority: 1,
                    weight: 1,
                    checks: Arc::clone(&checks),
                })
                .collect(),
            fallback: Vec::new(),
            drain_record: None,
        })
        .collect()
}

/// Memory of this process that is in use, MiB; 0 when the kernel does not say.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
