//! What the state file costs: rows and bytes written per check, processor time per 1,000 checks, and the size of the file
//! after a simulated week of 100 addresses checked every 10 s, with the default history of 24 h.
//!
//! The batches are those of a poller that hands over what changed every second: a result and an address row
//! for each check, the daemon's row, counters that moved. Time is the writer's own (all threads of this process,
//! which does nothing else). `cargo bench --bench state`; the figures stand in `docs/schema.md`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use har::health::rank::Standing;
use har::health::{CheckResult, EndpointRecord, Host, Outcome, Recorded, State, Time};
use har::store::{Batch, Candidates, DaemonRow, Hooks, NameCounters, NameRow, ResultRow, Store, Writer, time};

const ADDRESSES: u32 = 100;
const INTERVAL_S: u64 = 10;
const WEEK_S: u64 = 7 * 86_400;
/// What is thrown away after this long is what the default configuration throws away.
const HISTORY: Duration = Duration::from_secs(86_400);
/// Seconds of checks in one batch of the simulated week: thousands of transactions instead of hundreds of thousands.
const WEEK_BATCH_S: u64 = 300;

fn main() {
    // `cargo test --benches` must not take a minute.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    per_check(&folder.path().join("checks.db"));
    week(&folder.path().join("week.db"));
    start(&folder.path().join("start.db"));
}

/// One check at a time, as a daemon does it: batches of a second.
fn per_check(path: &Path) {
    let writer = writer(path);
    writer.send(complete());
    assert!(writer.flush(Duration::from_secs(60)));
    let seconds = 200;
    let (rows, bytes, cpu, begin) = (count(path, "check_result"), written(), cpu(), Instant::now());
    let now = time::now();
    for second in 0..seconds {
        writer.send(batch(now.after(Duration::from_secs(second)), 1));
        assert!(writer.flush(Duration::from_secs(60)));
    }
    let checks = seconds * u64::from(ADDRESSES) / INTERVAL_S;
    let spent = cpu_since(cpu);
    println!("{checks} checks in {seconds} batches of a second each, {:.1?}", begin.elapsed());
    println!(
        "rows written per check: {:.2} (its result and its address)",
        2.0 * (count(path, "check_result") - rows) as f64 / checks as f64
    );
    println!("bytes handed to the disk per check: {:.0}", (written() - bytes) as f64 / checks as f64);
    println!("processor time per 1,000 checks: {:.1} ms", spent * 1_000_000.0 / checks as f64);
    // Nothing changed but a counter and the heartbeat.
    let (bytes, cpu) = (written(), self::cpu());
    for second in 0..seconds {
        writer.send(idle(now.after(Duration::from_secs(second))));
        assert!(writer.flush(Duration::from_secs(60)));
    }
    println!(
        "a second without a check: {} bytes, {:.2} ms",
        (written() - bytes) / seconds,
        cpu_since(cpu) * 1000.0 / seconds as f64
    );
    assert!(writer.stop(Duration::from_secs(60)));
}

/// A week that ends now, so that ages are what they would be. Single results that would be gone by its end are not
/// written at all, only summed up.
fn week(path: &Path) {
    let writer = writer(path);
    writer.send(complete());
    let begin = Instant::now();
    let start = Time(time::now().0 - WEEK_S * 1000);
    writer.set_history(Duration::ZERO);
    for at in (0..WEEK_S).step_by(WEEK_BATCH_S as usize) {
        if at == WEEK_S - HISTORY.as_secs() {
            writer.set_history(HISTORY);
        }
        writer.send(batch(start.after(Duration::from_secs(at)), WEEK_BATCH_S));
        assert!(writer.flush(Duration::from_secs(60)));
    }
    assert!(writer.stop(Duration::from_secs(60)));
    let checks = WEEK_S / INTERVAL_S * u64::from(ADDRESSES);
    let size = std::fs::metadata(path).map_or(0, |found| found.len());
    println!("a week of {ADDRESSES} addresses every {INTERVAL_S} s: {checks} checks in {:.0?}", begin.elapsed());
    println!(
        "file: {:.1} MB, {} results, {} summaries",
        size as f64 / 1e6,
        count(path, "check_result"),
        count(path, "check_summary")
    );
}

/// Reading the state of 50,000 addresses at a start.
fn start(path: &Path) {
    let writer = writer(path);
    let mut batch = complete();
    batch.endpoints = (0..50_000).map(|number| endpoint(number, time::now())).collect();
    batch.answers.clear();
    writer.send(batch);
    assert!(writer.stop(Duration::from_secs(60)));
    let mut times: Vec<Duration> = (0..7)
        .map(|_| {
            let begin = Instant::now();
            let mut store = Store::open(path).expect("own folder").store;
            let stored = store.load(Candidates::Skip);
            let elapsed = begin.elapsed();
            assert_eq!(stored.endpoints.len(), 50_000);
            elapsed
        })
        .collect();
    times.sort_unstable();
    println!("opening and reading 50,000 addresses: {:.0?} (fastest of 7), {:.0?} (median)", times[0], times[3]);
}

fn writer(path: &Path) -> Writer {
    let store = Store::open(path).expect("own folder").store;
    let hooks = Hooks {
        on_overrides: Box::new(|_, _| {}),
        on_trouble: Box::new(|line| println!("trouble: {line:?}")),
        on_resend: Box::new(|| {}),
        on_complete: Box::new(|| {}),
    };
    Writer::start(store, HISTORY, hooks).expect("a thread")
}

fn name() -> Arc<str> {
    "api.example.com".into()
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn host(number: u32) -> Host {
    Host::Name(format!("server-{number}.east.example.com").into())
}

fn definition() -> Arc<str> {
    "GET http://{host}:8080/healthz".into()
}

fn complete() -> Batch {
    let row = NameRow {
        name: name(),
        mode: "answer".into(),
        select: "lowest-latency".into(),
        ttl_s: 1,
        interval_ms: INTERVAL_S * 1000,
    };
    Batch {
        complete: true,
        names: vec![row],
        endpoints: (0..ADDRESSES).map(|number| endpoint(number, time::now())).collect(),
        ..idle(time::now())
    }
}

/// The checks of `seconds` seconds, evenly spread over the addresses.
fn batch(now: Time, seconds: u64) -> Batch {
    let mut batch = idle(now);
    for millisecond in (0..seconds * 1000).step_by((INTERVAL_S * 1000 / u64::from(ADDRESSES)) as usize) {
        let at = now.after(Duration::from_millis(millisecond));
        let number = (at.0 / (INTERVAL_S * 1000 / u64::from(ADDRESSES)) % u64::from(ADDRESSES)) as u32;
        // A latency that moves, so that the rows do.
        let total = Duration::from_micros(5000 + at.0 % 997);
        batch.endpoints.push(endpoint(number, at));
        batch.results.push(ResultRow {
            at,
            host: host(number),
            address: address(number),
            definition: definition(),
            result: result(total),
        });
    }
    batch
}

/// What a second without a check changes.
fn idle(now: Time) -> Batch {
    Batch {
        daemon: Some(DaemonRow {
            version: "0.1.0".to_owned(),
            pid: 4711,
            config: "/etc/har/har.toml".to_owned(),
            listen: Vec::new(),
            started_at: now,
            heartbeat_at: now,
            stopped_at: None,
            note: String::new(),
        }),
        name_counters: vec![(name(), NameCounters { queries: [now.0, 0, 0], answers: [now.0, 0, 0, 0, 0] })],
        counters: vec![("received_udp".to_owned(), now.0)],
        ..Batch::default()
    }
}

fn result(total: Duration) -> CheckResult {
    CheckResult {
        outcome: Outcome::Ok,
        silent: false,
        status: Some(200),
        connect: Some(total / 3),
        first_byte: Some(total / 2),
        total,
        error: None,
        priority: None,
        certificate_days: None,
    }
}

fn endpoint(number: u32, at: Time) -> EndpointRecord {
    let ms = 5.0 + (at.0 % 997) as f64 / 1000.0;
    EndpointRecord {
        certificate_days: None,
        name: name(),
        host: host(number),
        address: address(number),
        definition: definition(),
        state: State::Up,
        since: at,
        successes: 40,
        failures: 0,
        window: 0xf_ffff,
        window_len: 20,
        latency_ms: Some(ms),
        deviation_ms: Some(0.5),
        connect_ms: Some(2.0),
        first_byte_ms: Some(3.0),
        total_ms: Some(ms),
        last_check: Some(at),
        last_outcome: Some(Outcome::Ok),
        last_error: None,
        interval_ms: INTERVAL_S * 1000,
        stale: false,
        resolved_at: Some(at),
        rank: Some(number + 1),
        chosen: number == 0,
        standing: Recorded::Found(Standing::Slower),
        counts: [at.0 / 1000, 0, 0, 0, 0, 0, 0],
        keeps_place: false,
        over_limit: false,
        reported_priority: None,
        drained: None,
        forced: false,
    }
}

fn count(path: &Path, table: &str) -> i64 {
    let connection =
        rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the file");
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("a number")
}

/// Bytes this process has handed to the kernel for writing.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or_default()
}

/// Processor time of this process so far, seconds.
fn cpu() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds: u64 = tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum();
    nanoseconds as f64 / 1e9
}

fn cpu_since(before: f64) -> f64 {
    cpu() - before
}
