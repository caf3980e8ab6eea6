//! How the fit candidates of a tier share the answers: order with hysteresis, groups, weights, rendezvous.
//!
//! Works on indices into the inputs of [`super::rank::rank`], its only caller. Nothing here looks at health:
//! who takes part was decided before.

use std::net::IpAddr;

use super::hash::{fraction, hash};
use super::rank::{Input, Sharer};
use super::{Host, Policy};

/// Turns of a weighted rotation at most (unless more addresses take part): a longer round is
/// indistinguishable to a client and costs memory for every name.
const MAX_TURNS: u64 = 256;
/// Least difference that makes a challenger faster, milliseconds: below it clocks and schedulers speak.
const LEAST_MARGIN_MS: f64 = 1.0;

/// Whether `challenger` is faster than `incumbent` by more than the policy's margin.
pub(super) fn beats(challenger: &Input<'_>, incumbent: &Input<'_>, policy: &Policy) -> bool {
    if incumbent.keeps_place {
        return false;
    }
    match (challenger.latency_ms, incumbent.latency_ms) {
        (Some(new), Some(old)) => {
            old - new > margin(old, [challenger.deviation_ms, incumbent.deviation_ms], policy.hysteresis)
        }
        (new, old) => new.is_some() && old.is_none(),
    }
}

/// What a latency must be undercut by: the share, 1 ms and the larger deviation; nothing when the share is 0.
pub(super) fn margin(old_ms: f64, deviations: [Option<f64>; 2], hysteresis: f64) -> f64 {
    if hysteresis <= 0.0 {
        return 0.0;
    }
    let deviation = deviations.into_iter().flatten().fold(0.0, f64::max);
    (hysteresis * old_ms).max(LEAST_MARGIN_MS).max(deviation)
}

/// Sorts by latency, those without one behind, as listed.
pub(super) fn sort_by_latency(indices: &mut [usize], inputs: &[Input<'_>]) {
    indices.sort_by(|&a, &b| {
        let latency = |i: usize| inputs[i].latency_ms.unwrap_or(f64::INFINITY);
        latency(a).total_cmp(&latency(b)).then(a.cmp(&b))
    });
}

/// The fastest first, but an incumbent is passed only by who beats it.
pub(super) fn by_latency(
    participants: &[usize],
    inputs: &[Input<'_>],
    incumbent: &[IpAddr],
    policy: &Policy,
) -> Vec<usize> {
    let (mut order, mut challengers): (Vec<usize>, Vec<usize>) =
        participants.iter().partition(|&&i| incumbent.contains(&inputs[i].address));
    order.sort_by_key(|&i| incumbent.iter().position(|address| *address == inputs[i].address));
    sort_by_latency(&mut challengers, inputs);
    // Incumbents keep their order among each other by the same margin.
    let mut seated: Vec<usize> = Vec::with_capacity(order.len());
    for i in order {
        seated.insert(seat(i, &seated, inputs, policy), i);
    }
    // Challengers are plainly ordered by latency, so that those before one seat stay in order.
    let mut seats: Vec<Vec<usize>> = vec![Vec::new(); seated.len() + 1];
    for i in challengers {
        seats[seat(i, &seated, inputs, policy)].push(i);
    }
    let mut result = Vec::with_capacity(participants.len());
    for (position, before) in seats.into_iter().enumerate() {
        result.extend(before);
        result.extend(seated.get(position));
    }
    result
}

/// In front of the first that it beats.
fn seat(i: usize, seated: &[usize], inputs: &[Input<'_>], policy: &Policy) -> usize {
    seated.iter().position(|&other| beats(&inputs[i], &inputs[other], policy)).unwrap_or(seated.len())
}

/// Splits into the group within `within` of the best (as listed) and the rest (by latency). A member leaves
/// only when it is beyond the width by the margin.
pub(super) fn group(
    participants: &[usize],
    inputs: &[Input<'_>],
    incumbent: &[IpAddr],
    policy: &Policy,
) -> (Vec<usize>, Vec<usize>) {
    let best = participants.iter().copied().min_by(|&a, &b| {
        let latency = |i: usize| inputs[i].latency_ms.unwrap_or(f64::INFINITY);
        latency(a).total_cmp(&latency(b))
    });
    let Some((best, fastest)) = best.and_then(|i| inputs[i].latency_ms.map(|latency| (i, latency))) else {
        return (participants.to_vec(), Vec::new());
    };
    let limit = fastest + policy.within.as_secs_f64() * 1000.0;
    let (members, mut rest): (Vec<usize>, Vec<usize>) = participants.iter().partition(|&&i| {
        let input = &inputs[i];
        let slack = if incumbent.contains(&input.address) {
            margin(limit, [input.deviation_ms, inputs[best].deviation_ms], policy.hysteresis)
        } else {
            0.0
        };
        input.keeps_place || input.latency_ms.is_some_and(|latency| latency <= limit + slack)
    });
    sort_by_latency(&mut rest, inputs);
    (members, rest)
}

/// Splits off those of weight 0, unless there is nothing else.
pub(super) fn weighted(members: Vec<usize>, inputs: &[Input<'_>]) -> (Vec<usize>, Vec<usize>) {
    let (some, none): (Vec<usize>, Vec<usize>) = members.into_iter().partition(|&i| inputs[i].weight > 0);
    if some.is_empty() { (none, Vec::new()) } else { (some, none) }
}

/// A round of answers in which each member is first as often as its weight says (smooth weighted round
/// robin: turns of one member lie as far apart as they can). The following members fill each answer.
pub(super) fn rotation(members: &[usize], inputs: &[Input<'_>], answers: usize) -> Vec<Vec<usize>> {
    let weights = turn_weights(members, inputs);
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0i64; members.len()];
    let mut turns = Vec::new();
    for _ in 0..total {
        for (credit, weight) in credit.iter_mut().zip(&weights) {
            *credit += weight;
        }
        let first = (0..members.len()).rev().max_by_key(|&at| credit[at]).unwrap_or(0);
        credit[first] -= total;
        turns.push(members.iter().cycle().skip(first).take(answers.clamp(1, members.len())).copied().collect());
    }
    turns
}

/// Weights with their common divisor taken out, scaled so that a round stays within its bound.
fn turn_weights(members: &[usize], inputs: &[Input<'_>]) -> Vec<i64> {
    let raw: Vec<u64> = members.iter().map(|&i| u64::from(inputs[i].weight).max(1)).collect();
    let divisor = raw.iter().copied().fold(0, gcd).max(1);
    let sum: u64 = raw.iter().sum::<u64>() / divisor;
    let bound = MAX_TURNS.max(members.len() as u64);
    let scaled = |weight: u64| {
        let share = weight / divisor;
        if sum <= bound { share } else { ((share * bound + sum / 2) / sum).max(1) }
    };
    raw.into_iter().map(|weight| scaled(weight) as i64).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Orders by rendezvous hash: this host's own first. When a member comes or goes, only the hosts that it
/// gains or leaves behind change theirs. Weight w gets w/total of the hosts.
pub(super) fn rendezvous(members: &mut [usize], inputs: &[Input<'_>], sharer: Sharer<'_>) {
    let score = |i: usize| {
        let input = &inputs[i];
        let host = match input.host {
            Host::Name(name) => name.to_string(),
            Host::Address(address) => address.to_string(),
        };
        let candidate = hash(sharer.machine, &[sharer.name.as_bytes(), host.as_bytes()]);
        let weight = f64::from(input.weight.max(1));
        // A candidate's addresses share its score: which of them is decided by a hash of their own.
        (-weight / fraction(candidate).ln(), hash(candidate, &[input.address.to_string().as_bytes()]))
    };
    members.sort_by_cached_key(|&i| {
        let (candidate, address) = score(i);
        // Positive floats order like their bits.
        std::cmp::Reverse((candidate.to_bits(), address))
    });
}
