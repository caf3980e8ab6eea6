//! What a forger would have to guess: source ports and ids as an upstream server sees them, at a low rate and under
//! load. The bounds are wide enough that chance fails a run less than once in a million.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::harness::har;
use crate::harness::load::{Asked, Fast, drawn, load};

/// Sockets to one server that are shared under load, as docs/forwarding.md states.
const POOL: f64 = 256.0;

/// Ports that the kernel gives out by itself.
fn kernel_range() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("Linux has it");
    let mut numbers = text.split_whitespace().map(|number| number.parse().expect("a port"));
    (numbers.next().expect("the first"), numbers.next().expect("the last"))
}

/// What an upstream saw of `count` queries at `rate` a second.
fn seen(rate: u64, count: usize) -> Vec<Asked> {
    let upstream = Fast::start();
    let har = har().upstream_lines(&format!("servers = [\"{}\"]", upstream.address())).start();
    let begin = Instant::now();
    let measured = load(har.address(), rate, count, |_| {});
    println!("{count} queries in {:?}, {} transmissions", begin.elapsed(), upstream.count());
    assert_eq!((measured.lost, measured.failed), (0, 0));
    drawn(upstream.asked())
}

/// Pearson's statistic of values below `range` over 16 equal parts: 15 on average, above 65 once in 3 million.
fn unevenness(values: impl Iterator<Item = f64>, range: f64) -> f64 {
    let mut parts = [0.0; 16];
    for value in values {
        parts[(value / range * 16.0) as usize] += 1.0;
    }
    let expected = parts.iter().sum::<f64>() / 16.0;
    parts.iter().map(|count| (count - expected).powi(2) / expected).sum()
}

/// Uses of each port.
fn uses(asked: &[Asked]) -> HashMap<u16, f64> {
    let mut uses = HashMap::new();
    for asked in asked {
        *uses.entry(asked.port).or_default() += 1.0;
    }
    uses
}

#[test]
fn at_a_low_rate_every_query_has_a_random_port_of_its_own() {
    let asked = seen(200, 600);
    let (low, high) = kernel_range();
    let (count, range) = (asked.len() as f64, f64::from(high - low) + 1.0);
    let ports: Vec<f64> = asked.iter().map(|asked| f64::from(asked.port) - f64::from(low)).collect();
    assert!(ports.iter().all(|port| (0.0..range).contains(port)), "outside {low}..={high}");
    // Two at random are alike once in a range; 20 more than that do not happen.
    let alike = count - uses(&asked).len() as f64;
    let by_chance = count * count / 2.0 / range;
    println!("{alike} ports twice, {by_chance:.1} by chance");
    assert!(alike < 2.0 * by_chance + 20.0, "{alike} of {count} ports were used before");
    let (port_chi, id_chi) =
        (unevenness(ports.iter().copied(), range), unevenness(asked.iter().map(|asked| f64::from(asked.id)), 65_536.0));
    println!("chi-squared over 16 parts: ports {port_chi:.1}, ids {id_chi:.1}");
    assert!(port_chi < 65.0 && id_chi < 65.0, "ports {port_chi}, ids {id_chi}");
    // Neither rising nor falling, nor close to the one before.
    let rising = ports.windows(2).filter(|pair| pair[1] > pair[0]).count() as f64 / count;
    let close = ports.windows(2).filter(|pair| (pair[1] - pair[0]).abs() < range / 100.0).count() as f64 / count;
    println!("{rising:.3} rise, {close:.3} are close to the one before");
    assert!((0.4..0.6).contains(&rising) && close < 0.07, "{rising} rise, {close} are close");
}

#[test]
fn under_load_ports_are_drawn_from_a_large_pool_that_is_renewed() {
    let asked = seen(3_000, 15_000);
    // What one port's probability amounts to, where a few milliseconds of queries stand for one moment. The busiest
    // windows are taken: at the beginning the pool is still filling.
    for window in asked[5_000..].chunks_exact(2_000) {
        let count = window.len() as f64;
        let uses = uses(window);
        // The chance that two draws are alike, without bias (the collision entropy), and the most frequent port.
        let alike: f64 = uses.values().map(|uses| uses * (uses - 1.0)).sum::<f64>() / (count * (count - 1.0));
        let most = uses.values().copied().fold(0.0, f64::max) / count;
        let pairs: HashSet<(u16, u16)> = window.windows(2).map(|pair| (pair[0].port, pair[1].port)).collect();
        println!(
            "{} ports, {:.2} bits by collisions, {:.2} by the most frequent, {} of {count} successions differ",
            uses.len(),
            -alike.log2(),
            -most.log2(),
            pairs.len(),
        );
        assert!(uses.len() as f64 > 0.9 * POOL, "{} ports", uses.len());
        assert!(-alike.log2() > POOL.log2() - 0.1, "{:.2} bits", -alike.log2());
        // 2,000 draws can show no more than about seven bits this way: the most frequent of 256 stands out by chance.
        assert!(-most.log2() > 6.2, "{:.2} bits by the most frequent port", -most.log2());
        assert!(pairs.len() as f64 > 0.9 * count, "a port tells the next one");
    }
    let ids = unevenness(asked.iter().map(|asked| f64::from(asked.id)), 65_536.0);
    assert!(ids < 65.0, "chi-squared of the ids over 16 parts: {ids}");
    // A socket gets nothing new after two seconds: what is used later is another draw from the kernel's range.
    let (early, rest) = asked.split_at(2_000);
    let later = rest[0].at + Duration::from_millis(2_500);
    let ports_of = |asked: &[Asked]| -> HashSet<u16> { asked.iter().map(|asked| asked.port).collect() };
    let (early, late) = (ports_of(early), ports_of(&rest[rest.partition_point(|asked| asked.at < later)..]));
    let kept = early.intersection(&late).count();
    let (low, high) = kernel_range();
    let by_chance = (early.len() * late.len()) as f64 / (f64::from(high - low) + 1.0);
    println!(
        "{} ports early, {} after 2.5 s, {kept} of them the same, {by_chance:.1} by chance",
        early.len(),
        late.len()
    );
    assert!(early.len() > 200 && late.len() > 200, "too short a run to tell");
    assert!((kept as f64) < 2.0 * by_chance + 30.0, "{kept} ports are still in use");
}
