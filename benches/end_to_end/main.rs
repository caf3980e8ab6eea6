//! har beside dnsmasq and unbound, asked by Debian's dnsperf: `cargo bench --bench end_to_end`.
//!
//! Each kind of work starts every server that is installed, and asks one after the other in several rounds, so that
//! what else happens on this machine meets all of them. A word chooses the work: `-- forward`. Servers are pinned to
//! the first processor, the load and the upstream to the others; a machine of one shows little. Everything stays on
//! loopback and on ports that are free, and ends with this program. Nothing is asserted: it is for eyes.

#[expect(dead_code, unused_imports, reason = "shared with the process tests, which use the rest")]
#[path = "../../tests/har/harness/mod.rs"]
mod harness;
mod load;
mod servers;

use harness::{missing, program};
use load::{Load, Sample};
use servers::{Names, Running};

/// Rounds of which the median is shown.
const ROUNDS: usize = 3;

/// A kind of work.
struct Work {
    word: &'static str,
    title: &'static str,
    names: Names,
    load: Load,
}

fn works() -> [Work; 5] {
    let udp = Load { tcp: false, forwarded: false, clients: 4, in_flight: 128 };
    [
        Work {
            word: "local",
            title: "local answers, UDP, 10 names, 128 in flight",
            names: Names::Plain(10),
            load: udp,
        },
        Work {
            word: "many",
            title: "local answers, UDP, 10,000 names of 5 candidates, 128 in flight",
            names: Names::Plain(10_000),
            load: udp,
        },
        Work {
            word: "wildcard",
            title: "local answers, UDP, 10 wildcards, 128 in flight",
            names: Names::Wildcards(10),
            load: udp,
        },
        Work {
            word: "forward",
            title: "forwarding, UDP, every name asked once, no cache, 100 in flight",
            names: Names::Plain(10),
            load: Load { forwarded: true, in_flight: 100, ..udp },
        },
        Work {
            word: "tcp",
            title: "local answers, TCP, 10 names, 100 in flight on 4 connections",
            names: Names::Plain(10),
            load: Load { tcp: true, in_flight: 100, ..udp },
        },
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` must not take minutes.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if let Some(missing) = missing(&["dnsperf", "taskset"]) {
        eprintln!("{missing}");
        return;
    }
    load::pin_self();
    let upstream = servers::Upstream::start();
    for work in works().iter().filter(|work| words.is_empty() || words.iter().any(|word| *word == work.word)) {
        compare(work, &upstream);
    }
}

fn compare(work: &Work, upstream: &servers::Upstream) {
    println!("\n{}", work.title);
    let mut running = vec![servers::har(work.names, upstream)];
    if program("dnsmasq").is_some() {
        running.push(servers::dnsmasq(work.names, upstream));
    }
    if program("unbound").is_some() {
        running.push(servers::unbound(work.names, upstream));
    }
    let queries = load::queries(work.names, work.load);
    let mut samples: Vec<Vec<Sample>> = running.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        // Every other round the other way: who comes first has no advantage.
        let order: Vec<usize> =
            if round % 2 == 0 { (0..running.len()).collect() } else { (0..running.len()).rev().collect() };
        for at in order {
            samples[at].push(load::measure(&running[at], work.load, &queries));
        }
    }
    print(&running, &samples);
}

fn print(running: &[Running], samples: &[Vec<Sample>]) {
    println!(
        "{:<10}{:>12}{:>12}{:>8}{:>10}{:>10}{:>8}",
        "server", "queries/s", "CPU s/M", "of har", "p50 us", "p99 us", "lost"
    );
    let median_of = |all: &[Sample], figure: fn(&Sample) -> f64| {
        let mut figures: Vec<f64> = all.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let har = median_of(&samples[0], |sample| sample.cpu_per_million);
    for (server, samples) in running.iter().zip(samples) {
        let cpu = median_of(samples, |sample| sample.cpu_per_million);
        println!(
            "{:<10}{:>12.0}{:>12.2}{:>8.2}{:>10.0}{:>10.0}{:>8}",
            server.name,
            median_of(samples, |sample| sample.rate),
            cpu,
            cpu / har,
            median_of(samples, |sample| sample.p50),
            median_of(samples, |sample| sample.p99),
            samples.iter().map(|sample| sample.lost).sum::<u64>(),
        );
    }
}
