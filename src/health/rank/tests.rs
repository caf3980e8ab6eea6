//! Tables and properties of the ranking.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::health::hash::hash;
use crate::health::{AllDown, DualStack, LatencyOf};

const SHARER: Sharer<'_> = Sharer { machine: 1, name: "api.example" };

fn policy() -> Policy {
    Policy {
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
    }
}

fn address(last: usize) -> IpAddr {
    IpAddr::from([10, 0, (last >> 8) as u8, last as u8])
}

fn hosts(count: usize) -> Vec<Host> {
    (0..count).map(|last| Host::Name(format!("h{last}.example").into())).collect()
}

/// An input that is up with a latency and no deviation.
fn up(hosts: &[Host], at: usize, latency: f64) -> Input<'_> {
    Input {
        host: &hosts[at],
        address: address(at),
        position: at,
        priority: Some(1),
        weight: 1,
        state: State::Up,
        since: Time(0),
        forced: false,
        drained: None,
        checked: true,
        keeps_place: false,
        over_limit: false,
        latency_ms: Some(latency),
        deviation_ms: Some(0.0),
        last_rank: None,
    }
}

fn order(ranking: &Ranking) -> Vec<usize> {
    ranking.places.iter().map(|place| place.input).collect()
}

#[test]
fn the_fastest_is_first_unless_the_incumbent_is_close() {
    let hosts = hosts(3);
    for (latencies, incumbent, first, second_standing) in [
        ([10.0, 20.0, 30.0], None, 0, Standing::Slower),
        ([10.0, 20.0, 30.0], Some(1), 0, Standing::Slower),
        ([19.0, 20.0, 30.0], Some(1), 1, Standing::WithinMargin),
        ([17.9, 20.0, 30.0], Some(1), 0, Standing::Slower),
        // One millisecond is the least margin.
        ([1.0, 1.9, 3.0], Some(1), 1, Standing::WithinMargin),
        ([1.0, 2.1, 3.0], Some(1), 0, Standing::Slower),
    ] {
        let inputs: Vec<_> = latencies.iter().enumerate().map(|(at, ms)| up(&hosts, at, *ms)).collect();
        let incumbent: Vec<_> = incumbent.map(address).into_iter().collect();
        let ranking = rank(&inputs, &incumbent, &policy(), SHARER);
        assert_eq!(order(&ranking)[0], first, "{latencies:?}");
        assert_eq!(ranking.places[1].standing, second_standing, "{latencies:?}");
        let always_fastest = Policy { hysteresis: 0.0, ..policy() };
        assert_eq!(order(&rank(&inputs, &incumbent, &always_fastest, SHARER)), [0, 1, 2]);
    }
}

#[test]
fn an_uncertain_challenger_waits() {
    let hosts = hosts(2);
    let mut inputs = [up(&hosts, 0, 20.0), up(&hosts, 1, 14.0)];
    inputs[1].deviation_ms = Some(7.0);
    assert_eq!(order(&rank(&inputs, &[address(0)], &policy(), SHARER)), [0, 1]);
    inputs[1].deviation_ms = Some(5.0);
    assert_eq!(order(&rank(&inputs, &[address(0)], &policy(), SHARER)), [1, 0]);
}

#[test]
fn who_takes_part() {
    let hosts = hosts(6);
    let mut inputs: Vec<_> = (0..6).map(|at| up(&hosts, at, 10.0 * (at + 1) as f64)).collect();
    inputs[0].state = State::Down;
    inputs[1].drained = Some("until undone");
    inputs[2].over_limit = true;
    inputs[3].priority = Some(2);
    inputs[4].priority = Some(2);
    inputs[5].state = State::Unknown;
    let ranking = rank(&inputs, &[], &policy(), SHARER);
    assert_eq!(order(&ranking), [3, 4, 2, 5, 0, 1]);
    assert_eq!(ranking.turns, [[3]]);
    let standings: Vec<_> = ranking.places.iter().map(|place| place.standing).collect();
    assert_eq!(standings[2..], [Standing::OverMaxLatency, Standing::NotKnownYet, Standing::Down, Standing::Drained]);
    // Over the limit is used when nothing within it is up, in any tier.
    (inputs[3].state, inputs[4].state) = (State::Down, State::Down);
    assert_eq!(rank(&inputs, &[], &policy(), SHARER).turns, [[2]]);
    // Forced up beats the real state; "not to be used" beats being up.
    inputs[0].forced = true;
    assert_eq!(rank(&inputs, &[], &policy(), SHARER).turns, [[0]]);
    inputs[0].priority = None;
    assert_eq!(rank(&inputs, &[], &policy(), SHARER).turns, [[2]]);
}

#[test]
fn policies() {
    let hosts = hosts(4);
    let mut inputs: Vec<_> = [30.0, 12.0, 10.0, 20.0].iter().enumerate().map(|(at, ms)| up(&hosts, at, *ms)).collect();
    inputs[3].priority = Some(2);
    let turns = |inputs: &[Input<'_>], change: &dyn Fn(&mut Policy)| {
        let mut policy = policy();
        change(&mut policy);
        rank(inputs, &[], &policy, SHARER).turns
    };
    assert_eq!(turns(&inputs, &|p| p.answers = 2), [[2, 1]]);
    assert_eq!(turns(&inputs, &|p| p.select = Select::All), [[2, 1, 0]]);
    assert_eq!(turns(&inputs, &|p| p.select = Select::Failover), [[0]]);
    assert_eq!(turns(&inputs, &|p| (p.select, p.min_up) = (Select::Failover, 2)), [[1]]);
    assert_eq!(turns(&inputs, &|p| p.select = Select::RoundRobin), [[0], [1], [2]]);
    assert_eq!(turns(&inputs, &|p| p.select = Select::LatencyGroup), [[1], [2]]);
    assert_eq!(turns(&inputs, &|p| (p.select, p.min_up) = (Select::RoundRobin, 4)), [[0], [1], [2], [3]]);
    inputs[1].weight = 0;
    assert_eq!(turns(&inputs, &|p| p.select = Select::LatencyGroup), [[2]]);
    inputs[2].latency_ms = None;
    assert_eq!(turns(&inputs, &|p| p.answers = 3), [[1, 0, 2]], "without a latency behind measured ones");
    // Panic: one of three is fit.
    (inputs[0].state, inputs[1].state) = (State::Down, State::Down);
    assert_eq!(turns(&inputs, &|p| (p.select, p.panic_below) = (Select::All, 0.4)), [[2]]);
    assert_eq!(turns(&inputs, &|p| (p.select, p.panic_below) = (Select::All, 0.6)), [[1, 0, 2]]);
}

#[test]
fn the_stored_best_keeps_its_place_until_its_own_first_result() {
    let hosts = hosts(3);
    let mut inputs: Vec<_> = (0..3).map(|at| up(&hosts, at, 10.0)).collect();
    for (at, input) in inputs.iter_mut().enumerate() {
        input.state = State::Unknown;
        input.last_rank = Some(3 - at as u32);
    }
    inputs[2].keeps_place = true;
    let ranking = rank(&inputs, &[address(2)], &policy(), SHARER);
    assert_eq!((order(&ranking), ranking.turns.len()), (vec![2, 1, 0], 0));
    inputs[0].state = State::Up;
    assert_eq!(rank(&inputs, &[address(2)], &policy(), SHARER).turns, [[2]]);
    inputs[2].state = State::Down;
    inputs[2].keeps_place = false;
    assert_eq!(rank(&inputs, &[address(2)], &policy(), SHARER).turns, [[0]]);
}

#[test]
fn rendezvous_moves_only_the_share_it_must() {
    let hosts = hosts(5);
    let policy = Policy { select: Select::LatencyGroup, spread: Spread::Host, ..policy() };
    let mut inputs: Vec<_> = (0..5).map(|at| up(&hosts, at, 10.0)).collect();
    inputs[4].weight = 2;
    let choose = |inputs: &[Input<'_>], machine: u64| {
        let sharer = Sharer { machine: hash(machine, &[]), name: "api.example" };
        inputs[rank(inputs, &[], &policy, sharer).turns[0][0]].address
    };
    const MACHINES: u64 = 6000;
    let mut shares = [0u32; 5];
    for machine in 0..MACHINES {
        let with = choose(&inputs, machine);
        shares[inputs.iter().position(|input| input.address == with).unwrap()] += 1;
        let without = choose(&inputs[1..], machine);
        assert!(with == address(0) || with == without, "machine {machine} moved from {with} to {without}");
    }
    for (at, share) in shares.into_iter().enumerate() {
        let expected = MACHINES as f64 / 6.0 * if at == 4 { 2.0 } else { 1.0 };
        assert!((f64::from(share) - expected).abs() < 0.1 * expected, "{shares:?}");
    }
}

#[derive(Clone, Debug)]
struct Random {
    priority: Option<u32>,
    weight: u32,
    state: State,
    forced: bool,
    drained: bool,
    keeps_place: bool,
    over_limit: bool,
    latency: Option<f64>,
    deviation: f64,
}

fn random() -> impl Strategy<Value = Random> {
    let states = prop_oneof![Just(State::Up), Just(State::Up), Just(State::Down), Just(State::Unknown)];
    let rare = || proptest::bool::weighted(0.15);
    (
        (proptest::option::weighted(0.95, 1u32..4), 0u32..5, states, rare(), rare()),
        (rare(), rare(), proptest::option::weighted(0.9, 0.1f64..100.0), 0.0f64..20.0),
    )
        .prop_map(|((priority, weight, state, forced, drained), (keeps, over_limit, latency, deviation))| Random {
            priority,
            weight,
            state,
            forced,
            drained,
            keeps_place: keeps && state == State::Unknown,
            over_limit,
            latency,
            deviation,
        })
}

fn random_policy() -> impl Strategy<Value = Policy> {
    let select = prop_oneof![
        Just(Select::LowestLatency),
        Just(Select::LatencyGroup),
        Just(Select::RoundRobin),
        Just(Select::Failover),
        Just(Select::All)
    ];
    let spread = prop_oneof![Just(Spread::Rotate), Just(Spread::Host)];
    (select, spread, 0.0f64..0.5, 1usize..4, 1usize..4).prop_map(|(select, spread, hysteresis, answers, min_up)| {
        Policy { select, spread, hysteresis, answers, min_up, ..policy() }
    })
}

fn inputs<'a>(hosts: &'a [Host], random: &[Random]) -> Vec<Input<'a>> {
    let input = |(at, random): (usize, &Random)| Input {
        priority: random.priority,
        weight: random.weight,
        state: random.state,
        forced: random.forced,
        drained: random.drained.then_some("for a test"),
        keeps_place: random.keeps_place,
        over_limit: random.over_limit,
        latency_ms: random.latency,
        deviation_ms: Some(random.deviation),
        ..up(hosts, at, 0.0)
    };
    random.iter().enumerate().map(input).collect()
}

fn fit_now(input: &Input<'_>) -> bool {
    (input.state == State::Up || input.forced) && input.drained.is_none() && input.priority.is_some()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn properties(
        random in proptest::collection::vec(random(), 0..12),
        policy in random_policy(),
        incumbent in proptest::collection::vec(0usize..12, 0..4),
    ) {
        let hosts = hosts(random.len());
        let inputs = inputs(&hosts, &random);
        let incumbent: Vec<IpAddr> = incumbent.into_iter().map(address).collect();
        let ranking = rank(&inputs, &incumbent, &policy, SHARER);

        let mut sorted = order(&ranking);
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..inputs.len()).collect::<Vec<_>>(), "a ranking is a permutation");

        let any_fit = inputs.iter().any(fit_now);
        prop_assert_eq!(any_fit, !ranking.turns.is_empty());
        let chosen: Vec<usize> = ranking.turns.iter().flatten().copied().collect();
        for &i in &chosen {
            prop_assert!(fit_now(&inputs[i]) || inputs[i].keeps_place, "down or drained is never chosen");
            prop_assert!(inputs[i].drained.is_none());
        }
        prop_assert!(ranking.turns.iter().all(|turn| !turn.is_empty()));

        // A tier is never skipped: whatever is fit in an earlier tier than a chosen one takes part.
        let within = inputs.iter().any(|input| fit_now(input) && !input.over_limit);
        let takes_part = |input: &Input<'_>| fit_now(input) && !(within && input.over_limit);
        let last_tier = chosen.iter().map(|&i| tier(&inputs[i], &policy)).max();
        let before = |limit| inputs.iter().filter(|input| takes_part(input) && tier(input, &policy) < limit).count();
        if let Some(last_tier) = last_tier {
            prop_assert!(before(last_tier) < policy.min_up, "tiers join only while they are needed");
        }

        // Hysteresis keeps nothing beyond its margin.
        if matches!(policy.select, Select::LowestLatency | Select::Failover) && let Some(&first) = chosen.first() {
            let first = &inputs[first];
            let place_of = |i: usize| ranking.places.iter().position(|place| place.input == i);
            for (i, other) in inputs.iter().enumerate() {
                let equal = takes_part(other) && Some(tier(other, &policy)) <= last_tier && place_of(i).is_some();
                if let (true, false, Some(new), Some(old)) = (equal, first.keeps_place, other.latency_ms, first.latency_ms) {
                    let margin = selection::margin(old, [other.deviation_ms, first.deviation_ms], policy.hysteresis);
                    prop_assert!(old - new <= margin + 1e-9, "{old} kept although {new} is faster");
                }
            }
        }
    }

    #[test]
    fn weights_hold(weights in proptest::collection::vec(0u32..=100, 1..8)) {
        let hosts = hosts(weights.len());
        let mut inputs: Vec<_> = (0..weights.len()).map(|at| up(&hosts, at, 10.0)).collect();
        for (input, weight) in inputs.iter_mut().zip(&weights) {
            input.weight = *weight;
        }
        let policy = Policy { select: Select::RoundRobin, ..policy() };
        let turns = rank(&inputs, &[], &policy, SHARER).turns;
        let total: u32 = weights.iter().sum();
        for (at, weight) in weights.iter().enumerate() {
            let got = turns.iter().filter(|turn| turn[0] == at).count() as f64 / turns.len() as f64;
            let expected = if total == 0 { 1.0 / weights.len() as f64 } else { f64::from(*weight) / f64::from(total) };
            prop_assert!((got - expected).abs() <= 0.02, "{weights:?}: {at} got {got}, not {expected}");
        }
        prop_assert!(turns.len() <= 256 + weights.len());
    }
}

#[test]
fn an_address_of_two_candidates_counts_once() {
    let hosts = hosts(3);
    let mut inputs: Vec<_> = (0..3).map(|at| up(&hosts, at, 10.0)).collect();
    inputs[1].address = inputs[0].address;
    inputs[2].priority = Some(2);
    inputs[2].latency_ms = Some(1.0);
    let policy = Policy { min_up: 2, ..policy() };
    assert_eq!(rank(&inputs, &[], &policy, SHARER).turns, [[2]], "the next tier joins");
    // One of two addresses is fit: not less than half, though one of three candidates is.
    let policy = Policy { panic_below: 0.5, ..self::policy() };
    (inputs[0].state, inputs[1].state) = (State::Down, State::Down);
    let ranking = rank(&inputs, &[], &policy, SHARER);
    assert_eq!((ranking.panic, ranking.turns), (false, vec![vec![2]]));
}
