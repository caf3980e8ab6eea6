//! The only place that prefers one endpoint to another.
//!
//! [`rank`] orders the addresses of one name and family and says for each why it is where it is. It is a
//! function of its arguments: the daemon calls it with live state, `har explain`, `har status` and
//! `har replay` with what the state file holds, and both get the same order.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Host, Policy, Select, Spread, State, Time, selection};

/// An address as the ranking sees it.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The candidate.
    pub host: &'a Host,
    /// Its address.
    pub address: IpAddr,
    /// Place of the candidate in the file, from 0.
    pub position: usize,
    /// Tier, lower first: reported by the check or configured; `None` = reported as not to be used.
    pub priority: Option<u32>,
    /// Share (0..=100).
    pub weight: u32,
    /// The real state.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// Held up by an override.
    pub forced: bool,
    /// Taken out by an override or a drain record: until when and by whom, in words.
    pub drained: Option<&'a str>,
    /// Whether any result ever came.
    pub checked: bool,
    /// Unknown, but in the stored answer: keeps its place until its own first result.
    pub keeps_place: bool,
    /// Slower than `max_latency` and not yet back below 0.9 of it.
    pub over_limit: bool,
    /// Smoothed latency, milliseconds.
    pub latency_ms: Option<f64>,
    /// Its mean deviation, milliseconds.
    pub deviation_ms: Option<f64>,
    /// Place in the last ranking, 1 = first.
    pub last_rank: Option<u32>,
}

/// Who shares the answers, for `spread = "host"`.
#[derive(Clone, Copy, Debug)]
pub struct Sharer<'a> {
    /// Hash of this machine's id, see [`super::hash::hash`].
    pub machine: u64,
    /// The configured name.
    pub name: &'a str,
}

/// The order of one family's addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    /// Every input once, best first.
    pub places: Vec<Place>,
    /// The answers, used in turn, as indices into the inputs. Empty when nothing is up.
    pub turns: Vec<Vec<usize>>,
    /// Too few were fit, so that health was ignored.
    pub panic: bool,
}

/// One input's place.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Index into the inputs.
    pub input: usize,
    /// Why it is there.
    pub standing: Standing,
}

/// An address's part in the answer. Its words are those of the state file and of `har explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the answer.
    Chosen,
    /// First by rank, but a pin gives another.
    OtherPinned,
    /// First by rank, but the answer from before a fault of this host's own network is held.
    OtherHeld,
    /// First by rank, but the other family is answered alone.
    OtherFamily,
    /// In reserve: slower than what is answered, or behind the first `answers`.
    Slower,
    /// In reserve: faster, but not by more than the hysteresis.
    WithinMargin,
    /// In reserve: not within `within` of the best.
    OutsideGroup,
    /// In reserve: this host's share is another one.
    OtherShare,
    /// In reserve: weight 0.
    WeightZero,
    /// In reserve: up, but without a latency beside measured ones.
    Unmeasured,
    /// Fit, in a tier that is not needed.
    LowerTier,
    /// Up, but slower than `max_latency`.
    OverMaxLatency,
    /// No result yet.
    NeverChecked,
    /// Nothing recent is known.
    NotKnownYet,
    /// Down.
    Down,
    /// Its check reported that it is not to be used.
    NotToBeUsed,
    /// Up, but another claims to be the one master or primary too and was there first.
    RoleConflict,
    /// Taken out by operators.
    Drained,
}

impl Standing {
    /// Its words, for an address that is in its state since then and drained by whom these words say.
    pub fn words(self, since: Time, drained: Option<&str>) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Standing::Chosen => "chosen",
            Standing::OtherPinned => "first by rank, but the answer is pinned",
            Standing::OtherHeld => "first by rank, but the answer is held",
            Standing::OtherFamily => "first by rank, but the other family is faster",
            Standing::Slower => "reserve: slower than what is answered",
            Standing::WithinMargin => "reserve: faster, but not by more than the hysteresis",
            Standing::OutsideGroup => "reserve: not within reach of the best",
            Standing::OtherShare => "reserve: this host's share is another one",
            Standing::WeightZero => "reserve: weight 0",
            Standing::Unmeasured => "reserve: its latency is not known",
            Standing::LowerTier => "reserve: its tier is not needed",
            Standing::OverMaxLatency => "slower than max_latency",
            Standing::NeverChecked => "never checked",
            Standing::NotKnownYet => "not known yet",
            Standing::Down => return format!("down since {}", super::events::utc(since)).into(),
            Standing::NotToBeUsed => "its check says that it is not to be used",
            Standing::RoleConflict => "up, but another claims its role too and was there first",
            Standing::Drained => return format!("drained {}", drained.unwrap_or_default()).into(),
        })
    }
}

/// Orders one family's addresses. `incumbent` is what was answered last, best first.
///
/// Fit ones that take part come first, then fit ones of other tiers, slow ones, unknown ones in their last
/// order, down ones with the best known first, and drained ones last.
pub fn rank(inputs: &[Input<'_>], incumbent: &[IpAddr], policy: &Policy, sharer: Sharer<'_>) -> Ranking {
    // Most names have addresses of one family.
    if inputs.is_empty() {
        return Ranking::default();
    }
    let (fit, panic) = fit(inputs, policy);
    let participants = first_tiers(fit.clone(), inputs, policy);
    let selected = select(&participants, inputs, incumbent, policy, sharer);
    let mut places: Vec<Place> = Vec::with_capacity(inputs.len());
    let mut placed = vec![false; inputs.len()];
    let mut place = |input: usize, standing: Standing, placed: &mut Vec<bool>| {
        if !std::mem::replace(&mut placed[input], true) {
            places.push(Place { input, standing });
        }
    };
    for (i, standing) in selected.order {
        place(i, standing, &mut placed);
    }
    for i in leftover_order(&placed, inputs, policy) {
        let standing = standing_outside(&inputs[i], fit.contains(&i));
        place(i, standing, &mut placed);
    }
    debug_assert_eq!(places.len(), inputs.len());
    Ranking { places, turns: selected.turns, panic }
}

/// Whether an override, the real state or the stored answer lets it be used.
fn available(input: &Input<'_>) -> bool {
    usable(input) && (is_up(input) || input.keeps_place)
}

/// Neither drained nor reported as not to be used: what even panic does not override.
fn usable(input: &Input<'_>) -> bool {
    !is_withheld(input.drained, input.priority)
}

fn is_up(input: &Input<'_>) -> bool {
    counts_as_up(input.state, input.forced)
}

/// Up, or held up by an override.
pub(super) fn counts_as_up(state: State, forced: bool) -> bool {
    state == State::Up || forced
}

/// Taken out on purpose: drained, or reported by its check as not to be used.
pub(super) fn is_withheld(drained: Option<&str>, priority: Option<u32>) -> bool {
    drained.is_some() || priority.is_none()
}

/// The fit ones, or with too few of them everything usable (`true`).
fn fit(inputs: &[Input<'_>], policy: &Policy) -> (Vec<usize>, bool) {
    let all = || 0..inputs.len();
    if !all().any(|i| usable(&inputs[i]) && is_up(&inputs[i])) {
        return (Vec::new(), false);
    }
    let within: Vec<usize> = all().filter(|&i| available(&inputs[i]) && !inputs[i].over_limit).collect();
    let within_is_up = within.iter().any(|&i| is_up(&inputs[i]));
    let fit: Vec<usize> = if within_is_up { within } else { all().filter(|&i| available(&inputs[i])).collect() };
    // What is unknown says nothing about how many are ill.
    let is_known = |i: &usize| usable(&inputs[*i]) && (inputs[*i].state != State::Unknown || inputs[*i].forced);
    let known = distinct(all().filter(is_known), inputs);
    let healthy = distinct(fit.iter().copied().filter(|&i| is_up(&inputs[i])), inputs);
    if (healthy as f64) < policy.panic_below * known as f64 {
        return (all().filter(|&i| usable(&inputs[i])).collect(), true);
    }
    (fit, false)
}

/// Priority, and within it the listed order where that makes the tiers.
fn tier(input: &Input<'_>, policy: &Policy) -> (u32, usize) {
    let listed = if policy.select == Select::Failover { input.position } else { 0 };
    (input.priority.unwrap_or(u32::MAX), listed)
}

/// How many addresses these are: two candidates may have one address.
fn distinct(indices: impl Iterator<Item = usize>, inputs: &[Input<'_>]) -> usize {
    let mut addresses: Vec<IpAddr> = indices.map(|i| inputs[i].address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.len()
}

/// The first tiers that together hold `min_up` addresses.
fn first_tiers(mut fit: Vec<usize>, inputs: &[Input<'_>], policy: &Policy) -> Vec<usize> {
    fit.sort_by_key(|&i| (tier(&inputs[i], policy), i));
    let mut held = BTreeSet::new();
    let enough = |i: &&usize| {
        held.insert(inputs[**i].address);
        held.len() >= policy.min_up
    };
    let Some(&last) = fit.iter().find(enough).or(fit.last()) else { return fit };
    let lowest = tier(&inputs[last], policy);
    fit.retain(|&i| tier(&inputs[i], policy) <= lowest);
    fit.sort_unstable();
    fit
}

/// Who takes part, in order, and the answers made of them.
struct Selected {
    order: Vec<(usize, Standing)>,
    turns: Vec<Vec<usize>>,
}

fn select(
    participants: &[usize],
    inputs: &[Input<'_>],
    incumbent: &[IpAddr],
    policy: &Policy,
    sharer: Sharer<'_>,
) -> Selected {
    if participants.is_empty() {
        return Selected { order: Vec::new(), turns: Vec::new() };
    }
    match policy.select {
        Select::LowestLatency | Select::Failover => {
            ordered(selection::by_latency(participants, inputs, incumbent, policy), policy.answers, inputs)
        }
        Select::All => {
            let order = selection::by_latency(participants, inputs, incumbent, policy);
            let all = order.len();
            ordered(order, all, inputs)
        }
        Select::RoundRobin => rotated(participants.to_vec(), Vec::new(), inputs, policy),
        Select::LatencyGroup => {
            let (members, rest) = selection::group(participants, inputs, incumbent, policy);
            match policy.spread {
                Spread::Rotate => rotated(members, rest, inputs, policy),
                Spread::Host => hosted(members, rest, inputs, policy, sharer),
            }
        }
    }
}

/// One answer: the first of an order.
fn ordered(order: Vec<usize>, answers: usize, inputs: &[Input<'_>]) -> Selected {
    let turn: Vec<usize> = first_addresses(&order, answers, inputs);
    let slowest = turn.iter().filter_map(|&i| inputs[i].latency_ms).fold(f64::NEG_INFINITY, f64::max);
    let order = order
        .into_iter()
        .map(|i| {
            let standing = match inputs[i].latency_ms {
                _ if turn.contains(&i) => Standing::Chosen,
                Some(latency) if latency < slowest => Standing::WithinMargin,
                None if slowest.is_finite() => Standing::Unmeasured,
                _ => Standing::Slower,
            };
            (i, standing)
        })
        .collect();
    Selected { order, turns: vec![turn] }
}

/// The first `answers` that differ: two candidates may have one address.
fn first_addresses(order: &[usize], answers: usize, inputs: &[Input<'_>]) -> Vec<usize> {
    let mut turn: Vec<usize> = Vec::new();
    for &i in order {
        if turn.len() == answers.max(1) {
            break;
        }
        if !turn.iter().any(|&other| inputs[other].address == inputs[i].address) {
            turn.push(i);
        }
    }
    turn
}

/// Each answer begins with the next member.
fn rotated(members: Vec<usize>, rest: Vec<usize>, inputs: &[Input<'_>], policy: &Policy) -> Selected {
    let (members, weightless) = selection::weighted(members, inputs);
    let members = first_addresses(&members, members.len(), inputs);
    let turns = selection::rotation(&members, inputs, policy.answers);
    let order = standings(members, Standing::Chosen, weightless, rest);
    Selected { order, turns }
}

/// One answer: the members that this host's hash puts first.
fn hosted(
    members: Vec<usize>,
    rest: Vec<usize>,
    inputs: &[Input<'_>],
    policy: &Policy,
    sharer: Sharer<'_>,
) -> Selected {
    let (mut members, weightless) = selection::weighted(members, inputs);
    selection::rendezvous(&mut members, inputs, sharer);
    let turn = first_addresses(&members, policy.answers, inputs);
    let mut order = standings(members, Standing::OtherShare, weightless, rest);
    for (i, standing) in &mut order {
        if turn.contains(i) {
            *standing = Standing::Chosen;
        }
    }
    Selected { order, turns: vec![turn] }
}

fn standings(
    members: Vec<usize>,
    standing: Standing,
    weightless: Vec<usize>,
    rest: Vec<usize>,
) -> Vec<(usize, Standing)> {
    let with = |indices: Vec<usize>, standing: Standing| indices.into_iter().map(move |i| (i, standing));
    with(members, standing)
        .chain(with(weightless, Standing::WeightZero))
        .chain(with(rest, Standing::OutsideGroup))
        .collect()
}

/// The order of those that take no part.
fn leftover_order(placed: &[bool], inputs: &[Input<'_>], policy: &Policy) -> Vec<usize> {
    let mut left: Vec<usize> = (0..inputs.len()).filter(|&i| !placed[i]).collect();
    let class = |input: &Input<'_>| match input.state {
        _ if input.drained.is_some() => 5,
        _ if input.priority.is_none() => 4,
        _ if is_up(input) => u32::from(input.over_limit),
        State::Unknown => 2,
        _ => 3,
    };
    left.sort_by(|&a, &b| {
        let (a_input, b_input) = (&inputs[a], &inputs[b]);
        let stored = |input: &Input<'_>| {
            // What is unknown stands in its last order; what is new, behind it.
            if class(input) == 2 { (!input.keeps_place, input.last_rank.unwrap_or(u32::MAX)) } else { (false, 0) }
        };
        let latency = |input: &Input<'_>| input.latency_ms.unwrap_or(f64::INFINITY);
        class(a_input)
            .cmp(&class(b_input))
            .then_with(|| stored(a_input).cmp(&stored(b_input)))
            .then_with(|| tier(a_input, policy).cmp(&tier(b_input, policy)))
            .then_with(|| latency(a_input).total_cmp(&latency(b_input)))
            .then_with(|| a.cmp(&b))
    });
    left
}

fn standing_outside(input: &Input<'_>, fit: bool) -> Standing {
    match input.state {
        _ if input.drained.is_some() => Standing::Drained,
        _ if input.priority.is_none() => Standing::NotToBeUsed,
        _ if fit => Standing::LowerTier,
        _ if is_up(input) => Standing::OverMaxLatency,
        State::Unknown if input.checked => Standing::NotKnownYet,
        State::Unknown => Standing::NeverChecked,
        _ => Standing::Down,
    }
}

#[cfg(test)]
mod tests;
