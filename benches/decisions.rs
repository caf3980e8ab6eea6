//! The rooms that decide: ordering the addresses of a name, and finding what is due.
//!
//! `cargo bench --bench decisions`. What a whole configuration costs at a start or a reload is in `benches/roster.rs`.

#[expect(dead_code, reason = "shared with the other benchmarks, which use the rest")]
mod fixtures;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use fixtures::decisions::{Checking, Ranking};
use fixtures::names::CANDIDATES;
use har::health::Select;

fn rank(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rank");
    for (name, count, select) in [
        ("5 by latency", CANDIDATES, Select::LowestLatency),
        ("5 in a latency group", CANDIDATES, Select::LatencyGroup),
        ("5 in turn", CANDIDATES, Select::RoundRobin),
        ("64 by latency", 64, Select::LowestLatency),
    ] {
        let mut ranking = Ranking::new(count, select);
        group.bench_function(name, |bencher| bencher.iter(|| ranking.rank()));
    }
    group.finish();
}

fn schedule(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("schedule");
    for names in [10, 1000] {
        // A tenth of them is due each second.
        group.throughput(Throughput::Elements((names * CANDIDATES / 10) as u64));
        let mut checking = Checking::new(names);
        group.bench_function(format!("due checks and their results, {names} names"), |bencher| {
            bencher.iter(|| checking.turn());
        });
    }
    group.finish();
}

criterion_group!(benches, rank, schedule);
criterion_main!(benches);
