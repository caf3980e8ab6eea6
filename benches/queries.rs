//! The rooms that a query goes through: reading it, answering it, forwarding it, and its way over TCP.
//!
//! `cargo bench --bench queries`; one of them by a word: `cargo bench --bench queries -- answer`. The names are those
//! of `benches/instructions.rs`, which counts what this one times.

#[expect(dead_code, reason = "shared with the other benchmarks, which use the rest")]
mod fixtures;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use fixtures::forwarding::Forwarding;
use fixtures::framing::{Framing, PIPELINED};
use fixtures::names::{A, AAAA, Asking, HTTPS, Names};

/// Queries under way in a full table.
const UNDER_WAY: usize = 1000;

fn parse(criterion: &mut Criterion) {
    let mut names = Names::new(10, Asking::Plain, A);
    criterion.bench_function("parse", |bencher| {
        bencher.iter(|| har::dns::wire::parse(names.next_query()).map_or(0, |query| query.question_end));
    });
}

fn answer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("answer");
    for (name, count, asking, rtype) in [
        ("10 names, A", 10, Asking::Plain, A),
        ("10 names, AAAA", 10, Asking::Plain, AAAA),
        ("10 names, HTTPS (empty)", 10, Asking::Plain, HTTPS),
        ("10 names, mixed case", 10, Asking::MixedCase, A),
        ("10 wildcards", 10, Asking::Wildcard, A),
        ("10,000 names, A", 10_000, Asking::Plain, A),
        ("10,000 wildcards", 10_000, Asking::Wildcard, A),
    ] {
        let mut names = Names::new(count, asking, rtype);
        group.bench_function(name, |bencher| bencher.iter(|| names.answer()));
    }
    group.finish();
}

fn in_flight(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("in-flight");
    for (name, window, rate) in [("fresh ports, 200/s", 1, 200), ("port pool, 20,000/s", 64, 20_000)] {
        let mut forwarding = Forwarding::new(window, rate);
        (0..5000).for_each(|_| _ = black_box(forwarding.turn()));
        group.bench_function(format!("begin and reply, {name}"), |bencher| bencher.iter(|| forwarding.turn()));
    }
    let full = || {
        let mut forwarding = Forwarding::new(UNDER_WAY, 20_000);
        (0..UNDER_WAY).for_each(|_| forwarding.begin());
        forwarding
    };
    group.throughput(Throughput::Elements(UNDER_WAY as u64));
    group.bench_function("expire 1000", |bencher| {
        let expire = |mut forwarding: Forwarding| {
            forwarding.lose_all();
            forwarding.wait(Duration::from_secs(5));
            assert_eq!(forwarding.under_way(), 0);
            forwarding
        };
        bencher.iter_batched(full, expire, BatchSize::LargeInput);
    });
    group.finish();
}

fn tcp_framing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tcp");
    group.throughput(Throughput::Elements(PIPELINED as u64));
    let mut framing = Framing::new();
    group.bench_function("16 queries in one read", |bencher| bencher.iter(|| framing.turn()));
    group.finish();
}

criterion_group!(benches, parse, answer, in_flight, tcp_framing);
criterion_main!(benches);
