//! One endpoint: an address of a candidate of a name, its health and its part in the answer.
//!
//! An endpoint with several checks makes one observation of one result of each: it fails if any failed, and
//! the first check's time is its latency.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::compact::{Millis, Moment};
use super::conflict::Claim;
use super::few::Few;
use super::machine::{Health, Transition, WINDOW, observe};
use super::overrides::Effect;
use super::rank::{Input, Standing, counts_as_up, is_withheld};
use super::schedule::TargetId;
use super::{
    CandidateSpec, CheckResult, EndpointRecord, LatencyOf, NameSpec, Outcome, Pace, Policy, Recorded, State, Text, Time,
};

/// Intervals without a real result after which nothing is known of an address any more.
const STALE_INTERVALS: u32 = 3;
/// Share of `max_latency` below which an address returns.
const RETURN_SHARE: f64 = 0.9;

/// An address of a candidate of a name.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    candidate: u32,
    /// Where it is.
    pub(super) address: IpAddr,
    /// Its checks; empty = `none`, always up.
    pub(super) checks: Few<EndpointCheck>,
    /// Up, down, numbers.
    pub(super) health: Health,
    /// Unknown, but in the stored answer.
    pub(super) keeps_place: bool,
    /// Over `max_latency`.
    pub(super) over_limit: bool,
    /// When a look-up last gave it.
    pub(super) resolved_at: Moment,
    /// Its host no longer resolves.
    pub(super) stale: bool,
    /// When the last real result came.
    pub(super) last_check: Moment,
    /// The last definite state that was told of.
    pub(super) told: Option<State>,
    /// The interval it is polled at, milliseconds: up to 49 days, a configured one is a day at most.
    interval_ms: u32,
    rank: Option<NonZeroU32>,
    /// In the answer.
    pub(super) chosen: bool,
    /// Why it is where it is.
    pub(super) standing: Standing,
    /// Changed since the last records were taken.
    pub(super) dirty: bool,
    last_outcome: Option<Outcome>,
    times_ms: [Millis; 3],
    /// Results that were [`Outcome::Ok`]. At ten a second the last one is counted after 13 years.
    passed: u32,
    /// Results of another kind: of most addresses there were none, or all of one kind. Further kinds are rare.
    failed: u32,
    failed_as: Outcome,
    round: Round,
    /// What went wrong last. Not rare in an outage.
    last_error: Option<Text>,
    /// `None` = nothing of it applies.
    rare: Option<Box<Rare>>,
}

/// What most addresses have nothing of. Apart from the rest, which is there fifty thousand times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rare {
    /// `None` = nothing applies.
    effect: Option<Box<Effect>>,
    reported_priority: Option<Option<u32>>,
    certificate_days: Option<i64>,
    /// Results other than [`Outcome::Ok`] and the kind of [`Endpoint::failed`]: the kinds that there were.
    others: Few<(Outcome, u32)>,
}

/// What applies to most addresses.
const NOTHING_RARE: &Rare = &Rare { effect: None, reported_priority: None, certificate_days: None, others: Few::None };

/// What operators say of most addresses.
const NO_EFFECT: &Effect = &Effect { drained: None, forced: false };

/// One of an endpoint's checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndpointCheck {
    /// Where its results come from.
    pub(super) target: TargetId,
    heard: bool,
}

/// What was heard since the last observation.
#[derive(Clone, Copy, Debug)]
struct Round {
    failed: bool,
    /// The first check passed: its times are a sample of the latency.
    timed: bool,
}

impl Round {
    const NEW: Round = Round { failed: false, timed: false };
}

impl EndpointCheck {
    /// A check nothing was heard of yet.
    pub(super) fn new(target: TargetId) -> EndpointCheck {
        EndpointCheck { target, heard: false }
    }
}

impl Endpoint {
    /// A new address: unknown, or up for good when there is nothing to check.
    pub(super) fn new(candidate: usize, address: IpAddr, spec: &CandidateSpec, pace: &Pace, now: Time) -> Endpoint {
        let checked = spec.checks.iter().any(|check| !check.is_none);
        let state = if checked { State::Unknown } else { State::Up };
        Endpoint {
            candidate: candidate as u32,
            address,
            checks: Few::default(),
            health: Health { state, since: now, ..Health::default() },
            keeps_place: false,
            over_limit: false,
            resolved_at: Moment::NEVER,
            stale: false,
            last_check: Moment::NEVER,
            told: None,
            interval_ms: as_whole_ms(pace.fast_interval),
            rank: None,
            chosen: false,
            standing: Standing::NeverChecked,
            dirty: true,
            last_outcome: None,
            times_ms: [Millis::UNKNOWN; 3],
            passed: 0,
            failed: 0,
            failed_as: Outcome::LocalError,
            round: Round::NEW,
            last_error: None,
            rare: None,
        }
    }

    /// Index of the candidate in the spec.
    pub(super) fn candidate(&self) -> usize {
        self.candidate as usize
    }

    /// The candidate has another place in the spec.
    pub(super) fn set_candidate(&mut self, candidate: usize) {
        self.candidate = candidate as u32;
    }

    /// Place in the last ranking, 1 = first.
    pub(super) fn rank(&self) -> Option<u32> {
        self.rank.map(NonZeroU32::get)
    }

    /// It has another place in the ranking.
    pub(super) fn set_rank(&mut self, rank: Option<u32>) {
        self.rank = rank.and_then(NonZeroU32::new);
    }

    /// What operators say.
    pub(super) fn effect(&self) -> &Effect {
        self.rare().effect.as_deref().unwrap_or(NO_EFFECT)
    }

    /// Operators say something else.
    pub(super) fn set_effect(&mut self, effect: Effect) {
        self.rare_mut().effect = kept(effect);
    }

    /// The interval it is polled at.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.into())
    }

    /// It is polled at another interval; sub-millisecond parts are dropped.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval_ms = as_whole_ms(interval);
    }

    /// What an `exec` check reported last.
    pub(super) fn reported_priority(&self) -> Option<Option<u32>> {
        self.rare().reported_priority
    }

    /// What went wrong last.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// How its last check ended.
    pub(super) fn last_outcome(&self) -> Option<Outcome> {
        self.last_outcome
    }

    fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(NOTHING_RARE)
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| Box::new(NOTHING_RARE.clone()))
    }

    /// Results so far, by [`Outcome::ALL`].
    fn counts(&self) -> [u64; Outcome::ALL.len()] {
        let count = |outcome| match outcome {
            Outcome::Ok => self.passed,
            other if other == self.failed_as => self.failed,
            other => self.rare().others.iter().find(|(kind, _)| *kind == other).map_or(0, |(_, count)| *count),
        };
        Outcome::ALL.map(|outcome| u64::from(count(outcome)))
    }

    /// Takes in a result of one of its checks. Whether an observation came of it, and what it changed.
    pub(super) fn apply(
        &mut self,
        target: TargetId,
        result: &CheckResult,
        spec: &NameSpec,
        now: Time,
    ) -> Option<Option<Transition>> {
        self.count(result);
        if result.outcome == Outcome::LocalError {
            // It says nothing about the candidate, but why there is nothing to say.
            self.last_error = Some(result.error.clone().unwrap_or_else(|| result.outcome.as_str().into()));
            return None;
        }
        let success = result.outcome == Outcome::Ok;
        if success && let Some(priority) = result.priority {
            self.rare_mut().reported_priority = Some(priority);
        }
        if let Some(days) = result.certificate_days {
            self.rare_mut().certificate_days = Some(days);
        }
        self.round.failed |= !success;
        if success && self.checks.first().is_some_and(|first| first.target == target) {
            self.round.timed = true;
            self.times_ms = [result.connect, result.first_byte, Some(result.total)].map(|time| time.map(as_ms).into());
        }
        if !success {
            self.last_error = Some(result.error.clone().unwrap_or_else(|| result.outcome.as_str().into()));
        }
        for check in self.checks.iter_mut().filter(|check| check.target == target) {
            check.heard = true;
        }
        if self.checks.iter().any(|check| !check.heard) {
            return None;
        }
        Some(self.observe(spec, now))
    }

    /// Counts a result and nothing else: it says nothing about the candidate.
    pub(super) fn count(&mut self, result: &CheckResult) {
        self.dirty = true;
        match result.outcome {
            Outcome::Ok => self.passed = self.passed.saturating_add(1),
            other if self.failed == 0 || other == self.failed_as => {
                (self.failed, self.failed_as) = (self.failed.saturating_add(1), other);
            }
            other => {
                let others = &mut self.rare_mut().others;
                match others.iter_mut().find(|(kind, _)| *kind == other) {
                    Some((_, count)) => *count = count.saturating_add(1),
                    None => others.push((other, 1)),
                }
            }
        }
        self.last_outcome = Some(result.outcome);
    }

    fn observe(&mut self, spec: &NameSpec, now: Time) -> Option<Transition> {
        let round = std::mem::replace(&mut self.round, Round::NEW);
        for check in self.checks.iter_mut() {
            check.heard = false;
        }
        let sample = (round.timed && !round.failed).then(|| self.last_ms(spec.policy.latency)).flatten();
        let (health, transition) = observe(&self.health, !round.failed, sample, &spec.thresholds, now);
        self.health = health;
        self.last_check = now.into();
        self.keeps_place = false;
        self.weigh(&spec.policy);
        transition
    }

    /// Whether it is over `max_latency`, with the return below 0.9 of it.
    pub(super) fn weigh(&mut self, policy: &Policy) {
        let limit = as_ms(policy.max_latency);
        self.over_limit = limit > 0.0
            && self
                .health
                .latency_ms
                .get()
                .is_some_and(|ms| ms > limit || (self.over_limit && ms >= RETURN_SHARE * limit));
    }

    /// Nothing recent is known of it any more. `resumes` = its numbers stay worth something.
    pub(super) fn forget(&mut self, resumes: bool, now: Time) {
        let was_good = self.health.state == State::Up || self.keeps_place;
        self.keeps_place = self.chosen && was_good;
        self.health = self.health.forgotten(resumes, now);
        self.round = Round::NEW;
        for check in self.checks.iter_mut() {
            check.heard = false;
        }
        self.dirty = true;
    }

    /// Its checks are others from now on: what the old ones found orders the answers, and the counts go on.
    pub(super) fn check_otherwise(&mut self, candidate: &CandidateSpec, now: Time) {
        if self.rare.is_some() {
            let rare = self.rare_mut();
            (rare.reported_priority, rare.certificate_days) = (None, None);
        }
        self.forget(false, now);
        if candidate.checks.iter().all(|check| check.is_none) {
            self.health = Health { state: State::Up, since: now, ..Health::default() };
            (self.keeps_place, self.over_limit) = (false, false);
        }
    }

    /// When nothing is known of it any more unless a result comes, or is under way: see [`Endpoint::waits_for`].
    pub(super) fn stale_at(&self) -> Option<Time> {
        let known = !self.checks.is_empty() && self.health.state != State::Unknown;
        self.last_check.get().filter(|_| known).map(|last| last.after(self.interval() * STALE_INTERVALS))
    }

    /// Whether its next observation waits for a run that has this property.
    pub(super) fn waits_for(&self, is_so: impl Fn(TargetId) -> bool) -> bool {
        self.checks.iter().any(|check| !check.heard && is_so(check.target))
    }

    /// As far as a conflict of roles is concerned.
    pub(super) fn claim(&self) -> Claim {
        Claim {
            address: self.address,
            up: self.health.state == State::Up && self.effect().drained.is_none(),
            passed: self.last_outcome == Some(Outcome::Ok),
            heard: self.health.state != State::Unknown,
        }
    }

    /// Whether it may be answered, the limits of its name aside.
    pub(super) fn is_fit(&self) -> bool {
        let Effect { drained, forced } = self.effect();
        let withheld = is_withheld(drained.as_deref(), self.reported_priority().unwrap_or(Some(0)));
        counts_as_up(self.health.state, *forced) && !withheld
    }

    /// The interval at which its own state wants it polled.
    pub(super) fn wanted_interval(&self, pace: &Pace, idle: bool) -> Duration {
        let usual = match self.health.state {
            _ if self.health.wavers() => pace.fast_interval,
            State::Down => pace.down_interval,
            _ => pace.interval,
        };
        if idle { usual.max(pace.idle_interval) } else { usual }
    }

    /// As the ranking sees it.
    pub(super) fn input<'a>(&'a self, candidate: &'a CandidateSpec) -> Input<'a> {
        Input {
            host: &candidate.host,
            address: self.address,
            position: self.candidate(),
            priority: self.reported_priority().unwrap_or(Some(candidate.priority)),
            weight: candidate.weight,
            state: self.health.state,
            since: self.health.since,
            forced: self.effect().forced,
            drained: self.effect().drained.as_deref(),
            checked: self.last_check.get().is_some(),
            keeps_place: self.keeps_place,
            over_limit: self.over_limit,
            latency_ms: self.health.latency_ms.get(),
            deviation_ms: self.health.deviation_ms.get(),
            last_rank: self.rank(),
        }
    }

    /// As the state file keeps it.
    pub(super) fn record(&self, name: &Arc<str>, candidate: &CandidateSpec) -> EndpointRecord {
        let (health, rare) = (&self.health, self.rare());
        EndpointRecord {
            name: Arc::clone(name),
            host: candidate.host.clone(),
            address: self.address,
            definition: definition(candidate),
            state: health.state,
            since: health.since,
            successes: health.successes,
            failures: health.failures,
            window: health.window,
            window_len: health.window_len.into(),
            latency_ms: health.latency_ms.get(),
            deviation_ms: health.deviation_ms.get(),
            connect_ms: self.times_ms[0].get(),
            first_byte_ms: self.times_ms[1].get(),
            total_ms: self.times_ms[2].get(),
            last_check: self.last_check.get(),
            last_outcome: self.last_outcome,
            last_error: self.last_error.clone(),
            interval_ms: self.interval_ms.into(),
            stale: self.stale,
            resolved_at: self.resolved_at.get(),
            rank: self.rank(),
            chosen: self.chosen,
            standing: Recorded::Found(self.standing),
            certificate_days: rare.certificate_days,
            counts: self.counts(),
            keeps_place: self.keeps_place,
            over_limit: self.over_limit,
            reported_priority: rare.reported_priority,
            drained: self.effect().drained.clone(),
            forced: self.effect().forced,
        }
    }

    /// Takes over what the state file kept. What is too old, from the future, or of another check orders the
    /// answers and counts as unknown.
    pub(super) fn restore(&mut self, record: &EndpointRecord, candidate: &CandidateSpec, policy: &Policy, now: Time) {
        let others = self.take_counts(&record.counts);
        let mut rare = Rare { effect: kept(self.effect().clone()), others, ..Rare::default() };
        self.set_rank(record.rank);
        self.chosen = record.chosen;
        if self.checks.is_empty() {
            self.rare = Some(rare).filter(|rare| rare != NOTHING_RARE).map(Box::new);
            return;
        }
        self.health = Health {
            state: record.state,
            since: record.since,
            successes: record.successes,
            failures: record.failures,
            window: record.window,
            window_len: u8::try_from(record.window_len).unwrap_or(WINDOW).min(WINDOW),
            latency_ms: record.latency_ms.into(),
            deviation_ms: record.deviation_ms.into(),
            resumes: false,
        };
        self.times_ms = [record.connect_ms, record.first_byte_ms, record.total_ms].map(Millis::from);
        if !self.health.can_follow(self.last_ms(policy.latency)) {
            self.change_latency(policy.latency);
        }
        self.last_check = record.last_check.into();
        self.last_outcome = record.last_outcome;
        self.last_error = record.last_error.clone();
        self.over_limit = record.over_limit;
        self.keeps_place = record.keeps_place;
        self.interval_ms = u32::try_from(record.interval_ms).unwrap_or(u32::MAX);
        self.told = Some(record.state).filter(|state| *state != State::Unknown);
        let same = definition(candidate) == record.definition;
        if same {
            rare.reported_priority = record.reported_priority;
            rare.certificate_days = record.certificate_days;
        }
        self.rare = Some(rare).filter(|rare| rare != NOTHING_RARE).map(Box::new);
        let recent = self.stale_at().is_some_and(|end| now < end) && record.last_check.is_some_and(|last| last <= now);
        if !same || !recent {
            let since = self.health.since;
            self.forget(false, since.min(now));
        }
        self.weigh(policy);
    }

    /// Takes over how many results there were, but for those that are rare.
    fn take_counts(&mut self, counts: &[u64; Outcome::ALL.len()]) -> Few<(Outcome, u32)> {
        let counts = counts.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let mut others = Outcome::ALL.into_iter().zip(counts).skip(1).filter(|(_, count)| *count > 0);
        [self.passed, ..] = counts;
        (self.failed_as, self.failed) = others.next().unwrap_or((Outcome::LocalError, 0));
        others.collect()
    }

    /// That of the last check's times which is the latency.
    fn last_ms(&self, latency: LatencyOf) -> Option<f64> {
        let [connect, first_byte, total] = self.times_ms.map(Millis::get);
        match latency {
            LatencyOf::Connect => connect.or(total),
            LatencyOf::FirstByte => first_byte.or(total),
            LatencyOf::Total => total,
        }
    }

    /// The latency is another of the check's times from now on.
    pub(super) fn change_latency(&mut self, latency: LatencyOf) {
        let last = self.last_ms(latency);
        self.health.latency_ms = last.into();
        self.health.deviation_ms = last.map(|ms| ms / 2.0).into();
    }
}

/// What is worth a place of its own.
fn kept(effect: Effect) -> Option<Box<Effect>> {
    (effect != *NO_EFFECT).then(|| Box::new(effect))
}

/// A candidate's checks in words.
fn definition(spec: &CandidateSpec) -> Arc<str> {
    match spec.checks.as_slice() {
        [check] => Arc::clone(&check.definition),
        checks => checks.iter().map(|check| &*check.definition).collect::<Vec<_>>().join("; ").into(),
    }
}

fn as_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn as_whole_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// A record as the ranking sees it: what the commands rebuild from the state file.
pub fn input_of_record<'a>(record: &'a EndpointRecord, spec: &'a NameSpec) -> Option<Input<'a>> {
    let position = spec.candidates.iter().position(|candidate| candidate.host == record.host)?;
    let candidate = &spec.candidates[position];
    let priority = record.reported_priority.unwrap_or(Some(candidate.priority));
    Some(Input { position, priority, weight: candidate.weight, ..input_without_spec(record) })
}

/// A record as the ranking sees it, apart from what its candidate's configuration adds.
pub fn input_without_spec(record: &EndpointRecord) -> Input<'_> {
    Input {
        host: &record.host,
        address: record.address,
        position: 0,
        priority: None,
        weight: 0,
        state: record.state,
        since: record.since,
        forced: record.forced,
        drained: record.drained.as_deref(),
        checked: record.last_check.is_some(),
        keeps_place: record.keeps_place,
        over_limit: record.over_limit,
        latency_ms: record.latency_ms,
        deviation_ms: record.deviation_ms,
        last_rank: record.rank,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_keeps_its_size() {
        assert!(size_of::<Endpoint>() <= 136, "{} bytes, fifty thousand times", size_of::<Endpoint>());
    }
}
