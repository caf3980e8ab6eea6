//! A fixed number of one operation and nothing else, to be counted under callgrind.
//!
//! `instructions WORK COUNT` does it. What starting and setting up costs goes away in the difference of two counts;
//! tests/har/instructions.rs takes it and compares it with `benches/instructions.toml`. `instructions` alone lists
//! the kinds of work, each with how often one call does it and how many calls are counted.

#[expect(dead_code, reason = "shared with the other benchmarks, which use the rest")]
mod fixtures;

use std::hint::black_box;
use std::process::ExitCode;

use fixtures::decisions::{Checking, Ranking};
use fixtures::forwarding::Forwarding;
use fixtures::framing::{Framing, PIPELINED};
use fixtures::names::{A, AAAA, Asking, CANDIDATES, HTTPS, Names};
use har::health::Select;

/// A kind of work.
struct Work {
    name: &'static str,
    /// Operations in one call.
    operations: usize,
    /// Calls, enough that a single odd one does not show.
    calls: usize,
    /// Sets up, then calls so many times.
    run: fn(usize) -> u64,
}

/// Names of which a tenth is checked at a time.
const CHECKED: usize = 200;

/// Names that nothing happens to.
const MANY: usize = 2000;

const WORKS: [Work; 13] = [
    Work { name: "parse", operations: 1, calls: 20_000, run: parse },
    Work { name: "local_10", operations: 1, calls: 20_000, run: |calls| local(10, Asking::Plain, A, calls) },
    Work { name: "local_10000", operations: 1, calls: 20_000, run: |calls| local(10_000, Asking::Plain, A, calls) },
    Work { name: "local_wildcard", operations: 1, calls: 20_000, run: |calls| local(10, Asking::Wildcard, A, calls) },
    Work { name: "local_aaaa", operations: 1, calls: 20_000, run: |calls| local(10, Asking::Plain, AAAA, calls) },
    Work { name: "local_empty", operations: 1, calls: 20_000, run: |calls| local(10, Asking::Plain, HTTPS, calls) },
    Work {
        name: "local_mixed_case",
        operations: 1,
        calls: 20_000,
        run: |calls| local(10, Asking::MixedCase, A, calls),
    },
    Work { name: "forward_fresh_ports", operations: 1, calls: 10_000, run: |calls| forward(1, 200, calls) },
    Work { name: "forward_port_pool", operations: 1, calls: 20_000, run: |calls| forward(64, 20_000, calls) },
    Work { name: "tcp_framing", operations: PIPELINED, calls: 1000, run: framing },
    Work { name: "rank", operations: 1, calls: 5000, run: ranking },
    Work { name: "status_without_news", operations: 1, calls: 20_000, run: counting },
    Work { name: "schedule", operations: CHECKED * CANDIDATES / 10, calls: 40, run: checking },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, calls) = match arguments.as_slice() {
        [name, calls] => (name.as_str(), calls.parse()),
        // `cargo bench` and `cargo test --benches` come with flags of their own.
        _ => {
            for work in &WORKS {
                println!("{} {} {}", work.name, work.operations, work.calls);
            }
            return ExitCode::SUCCESS;
        }
    };
    let (Some(work), Ok(calls)) = (WORKS.iter().find(|work| work.name == name), calls) else {
        eprintln!("usage: instructions WORK COUNT; without arguments it lists the kinds of work");
        return ExitCode::FAILURE;
    };
    black_box((work.run)(calls));
    ExitCode::SUCCESS
}

fn repeat(calls: usize, mut call: impl FnMut() -> u64) -> u64 {
    (0..calls).fold(0, |sum, _| sum + black_box(call()))
}

fn parse(calls: usize) -> u64 {
    let mut names = Names::new(10, Asking::Plain, A);
    repeat(calls, || har::dns::wire::parse(names.next_query()).map_or(0, |query| query.question_end as u64))
}

fn local(count: usize, asking: Asking, rtype: u16, calls: usize) -> u64 {
    let mut names = Names::new(count, asking, rtype);
    repeat(calls, || names.answer())
}

fn forward(window: usize, rate: u32, calls: usize) -> u64 {
    let mut forwarding = Forwarding::new(window, rate);
    // Until the pool is full and buffers have grown.
    repeat(5000, || forwarding.turn());
    repeat(calls, || forwarding.turn())
}

fn framing(calls: usize) -> u64 {
    let mut framing = Framing::new();
    repeat(calls, || framing.turn())
}

fn ranking(calls: usize) -> u64 {
    let mut ranking = Ranking::new(CANDIDATES, Select::LowestLatency);
    repeat(calls, || ranking.rank())
}

/// Once a second, whatever happens: what it costs must not hang on the number of names.
fn counting(calls: usize) -> u64 {
    let mut checking = Checking::cold(MANY);
    checking.counts();
    repeat(calls, || checking.counts())
}

fn checking(calls: usize) -> u64 {
    let mut checking = Checking::new(CHECKED);
    repeat(calls, || checking.turn())
}
