//! What is asked, how, and what it cost the server.

use std::fs;
use std::io::Write;
use std::process::Command;

use tempfile::NamedTempFile;

use super::harness::daemon::Ran;
use super::servers::{Names, Running};

/// Seconds that one measurement of throughput takes, and one of latency.
const LENGTH: &str = "2";
/// Queries a second while latency is measured: far below what any of the servers can do.
const LATENCY_RATE: &str = "10000";
/// Names that are forwarded before the first one comes again.
const UNIQUE: usize = 500_000;

/// How a server is asked.
#[derive(Clone, Copy)]
pub struct Load {
    /// Over TCP, pipelined.
    pub tcp: bool,
    /// For names that nobody configured.
    pub forwarded: bool,
    /// Sockets of the client.
    pub clients: usize,
    /// Queries that wait for an answer at a time, in all.
    pub in_flight: usize,
}

/// What one round showed.
pub struct Sample {
    /// Answers a second.
    pub rate: f64,
    /// Processor seconds of the server for a million answers.
    pub cpu_per_million: f64,
    /// Microseconds at the fixed rate.
    pub p50: f64,
    /// The same.
    pub p99: f64,
    /// Queries without an answer.
    pub lost: u64,
}

/// The queries as dnsperf reads them.
pub fn queries(names: Names, load: Load) -> NamedTempFile {
    let mut text = String::new();
    if load.forwarded {
        (0..UNIQUE).for_each(|number| text.push_str(&format!("q{number:06}.forwarded.example A\n")));
    } else {
        names.asked().for_each(|name| text.push_str(&format!("{name} A\n")));
    }
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("a temporary file");
    file
}

/// Asks as fast as answers come, then at a fixed rate.
pub fn measure(server: &Running, load: Load, queries: &NamedTempFile) -> Sample {
    let (before, printed, after) = {
        let before = server.cpu_seconds();
        let printed = Ran::of(&mut dnsperf(server, load, queries)).ok();
        (before, printed, server.cpu_seconds())
    };
    let completed = figure(&printed, "Queries completed:");
    let seconds = figure(&printed, "Run time (s):");
    let each = Ran::of(dnsperf(server, load, queries).args(["-v", "-Q", LATENCY_RATE])).ok();
    let mut latencies: Vec<f64> = each.lines().filter_map(latency).collect();
    latencies.sort_by(f64::total_cmp);
    let percentile = |percent: usize| latencies.get(latencies.len() * percent / 100).map_or(f64::NAN, |s| s * 1e6);
    Sample {
        rate: completed / seconds,
        cpu_per_million: (after - before) / completed * 1e6,
        p50: percentile(50),
        p99: percentile(99),
        lost: figure(&printed, "Queries lost:") as u64,
    }
}

fn dnsperf(server: &Running, load: Load, queries: &NamedTempFile) -> Command {
    let mut command = Command::new("dnsperf");
    command.args(["-s", "127.0.0.1", "-p", &server.port.to_string(), "-m", if load.tcp { "tcp" } else { "udp" }]);
    command.args(["-c", &load.clients.to_string(), "-q", &load.in_flight.to_string(), "-T", "1", "-l", LENGTH]);
    command.arg("-d").arg(queries.path());
    command
}

/// The number behind a word in dnsperf's report.
fn figure(printed: &str, word: &str) -> f64 {
    let line = printed.lines().find_map(|line| line.trim().strip_prefix(word));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("dnsperf says nothing about {word}\n{printed}"))
}

/// Seconds that one query took, of a line such as `> NOERROR n00001.bench.example A 0.000123`.
fn latency(line: &str) -> Option<f64> {
    line.strip_prefix("> ")?.split_whitespace().next_back()?.parse().ok()
}

/// Everything that is started by this process, its threads and itself stay off the servers' processor.
pub fn pin_self() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if processors > 1 {
        let (others, own) = (format!("1-{}", processors - 1), std::process::id().to_string());
        Ran::of(Command::new("taskset").args(["-a", "-c", "-p", &others, &own])).ok();
    }
}

/// A command that runs `program` on the servers' processor.
pub fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0", program]);
    command
}

/// Processor seconds of a process, its threads and what it had others do: dnsmasq has a child for each connection.
pub fn cpu_seconds(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs").flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    // On the scheduler's own clock; of children that have ended, in hundredths.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server runs");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let of_children: u64 = fields.skip(13).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    nanoseconds.sum::<u64>() as f64 / 1e9 + of_children as f64 / 100.0
}
