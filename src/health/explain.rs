//! A name decided once more, from what the state file remembers of it: by the daemon's own rules, for who asks why.
//!
//! The input is rebuilt from records ([`input_of_record`]), the decision is [`super::decide`]'s with its
//! [`super::rank`]. Where it differs from what was recorded, the difference is put into words: then the
//! records are not of the configuration that they are read with.

use std::net::IpAddr;
use std::sync::Arc;

use super::decide::{NO_ADDRESS, Plan, RULE_FALLBACK, RULE_FORWARD, RULE_SERVFAIL, View, decide};
use super::endpoint::input_of_record;
use super::hash::hash;
use super::overrides::{Overrides, own_reason};
use super::rank::{Input, Place, Sharer, Standing};
use super::{AnswerRecord, EndpointRecord, Family, Host, NameSpec, State};

/// What is remembered of a name.
#[derive(Clone, Copy)]
pub struct Remembered<'a> {
    /// As configured now.
    pub spec: &'a NameSpec,
    /// Its addresses, in any order.
    pub endpoints: &'a [EndpointRecord],
    /// What it answered, by family ([`Family::BOTH`]).
    pub answers: [Option<&'a AnswerRecord>; 2],
    /// The overrides in force.
    pub overrides: &'a Overrides,
    /// This host's id, as the daemon uses it.
    pub machine_id: &'a [u8],
    /// Whether it is known which addresses the candidates have: each was looked up, and one with success.
    pub looked_up: bool,
}

/// One family of a name, decided again.
#[derive(Clone, Debug)]
pub struct Rebuilt<'a> {
    /// Which.
    pub family: Family,
    /// What is sent, by the record: the daemon's own word.
    pub recorded: Option<Plan>,
    /// What would be sent.
    pub plan: Plan,
    /// How that would come about, in the word of the state file.
    pub basis: &'static str,
    /// Every known address, best first, with its part in what would be sent.
    pub places: Vec<(&'a EndpointRecord, Standing)>,
    /// In what that differs from the record, if in anything.
    pub differs: Option<String>,
}

/// Decides a name again.
pub fn rebuild<'a>(remembered: &Remembered<'a>) -> [Rebuilt<'a>; 2] {
    let Remembered { spec, answers, .. } = *remembered;
    let records = Family::BOTH.map(|family| records_of(remembered, family));
    let inputs = records.each_ref().map(|records| inputs(records, spec));
    let both: Vec<Input<'_>> = inputs.iter().flatten().cloned().collect();
    let held = answers.map(|answer| {
        let answer = answer.filter(|answer| answer.basis == "held")?;
        Some(Plan::one(&*answer.addresses, true))
    });
    let none: &[IpAddr] = &[];
    let view = View {
        policy: &spec.policy,
        sharer: Sharer { machine: hash(0, &[remembered.machine_id]), name: &spec.name },
        incumbent: answers.map(|answer| answer.map_or(none, |answer| &answer.addresses)),
        last_good: answers.map(|answer| answer.map_or(none, |answer| &answer.last_good)),
        looked_up: [remembered.looked_up; 2],
        fallback: Family::BOTH.map(|family| fallback(spec, family, answers[family.index()])),
        pin: remembered.overrides.pinned(&spec.name, &both, spec.policy.answers),
        held: held.each_ref().map(Option::as_ref),
        in_vain: None,
        inputs,
    };
    let mut decided = decide(&view).into_iter();
    Family::BOTH.map(|family| {
        let answered = decided.next();
        let (plan, basis, places) =
            answered.map_or_else(Default::default, |answered| (answered.plan, answered.basis, answered.ranking.places));
        let records = &records[family.index()];
        let part = |place: Place| match records[place.input] {
            record if left_out(record, spec) => (record, Standing::RoleConflict),
            record => (record, place.standing),
        };
        let places: Vec<_> = places.into_iter().map(part).collect();
        let answer = answers[family.index()];
        let recorded = answer.map(|answer| match (recorded_plan(answer, records), &plan) {
            // A bypass stands in the place of how it came about.
            (recorded, plan) if answer.basis == "bypass" && recorded.gives_what(plan) => plan.clone(),
            // What makes a turn is not recorded.
            (recorded @ Plan::Addresses { stale, .. }, Plan::Addresses { turns, .. }) if recorded.gives_what(&plan) => {
                Plan::Addresses { turns: turns.clone(), stale }
            }
            (recorded, _) => recorded,
        });
        let mut rebuilt = Rebuilt { family, recorded, plan, basis: basis.as_str(), places, differs: None };
        rebuilt.differs = answer.and_then(|answer| difference(&rebuilt, answer));
        rebuilt
    })
}

/// The records of a family in the order in which the daemon has them: as listed, and where that says nothing as they
/// were ranked.
fn records_of<'a>(remembered: &Remembered<'a>, family: Family) -> Vec<&'a EndpointRecord> {
    let position =
        |record: &EndpointRecord| remembered.spec.candidates.iter().position(|candidate| candidate.host == record.host);
    let of_family = remembered.endpoints.iter().filter(|record| Family::of(record.address) == family);
    let mut records: Vec<_> = of_family.filter(|record| position(record).is_some()).collect();
    records.sort_by_key(|record| (position(record), record.rank.unwrap_or(u32::MAX)));
    records
}

fn inputs<'a>(records: &[&'a EndpointRecord], spec: &'a NameSpec) -> Vec<Input<'a>> {
    let input = |record: &&'a EndpointRecord| {
        let input = input_of_record(record, spec)?;
        Some(Input { priority: input.priority.filter(|_| !left_out(record, spec)), ..input })
    };
    records.iter().filter_map(input).collect()
}

/// Whether an address was left out for the sake of another that claimed the same role first: who was first is known by
/// the record alone.
fn left_out(record: &EndpointRecord, spec: &NameSpec) -> bool {
    let candidate = spec.candidates.iter().find(|candidate| candidate.host == record.host);
    let exclusive = candidate.is_some_and(|candidate| candidate.checks.iter().any(|check| check.exclusive));
    exclusive && record.words() == Standing::RoleConflict.words(record.since, None)
}

/// The addresses of the fallback list. The state file does not know those of its names, but what was answered of it.
fn fallback(spec: &NameSpec, family: Family, answer: Option<&AnswerRecord>) -> Vec<IpAddr> {
    let has_names = spec.fallback.iter().any(|host| matches!(host, Host::Name(_)));
    let is_of_it = |answer: &&AnswerRecord| answer.reason.ends_with(RULE_FALLBACK) || answer.basis == "held";
    if let Some(answer) = answer.filter(is_of_it).filter(|_| has_names) {
        return answer.addresses.to_vec();
    }
    let addresses = spec.fallback.iter().filter_map(|host| match host {
        Host::Address(address) => Some(*address),
        Host::Name(_) => None,
    });
    addresses.filter(|address| Family::of(*address) == family).collect()
}

/// What is sent by a record: its addresses, or what its reason says of an answer without any. Those of turns stand in
/// one.
fn recorded_plan(answer: &AnswerRecord, records: &[&EndpointRecord]) -> Plan {
    let reason = own_reason(&answer.reason);
    if !answer.addresses.is_empty() {
        let by_rule = ["all-down", "held", "not-known-yet"].contains(&&*answer.basis);
        let is_unknown = |record: &&&EndpointRecord| record.state == State::Unknown && !record.forced;
        let mut unknown = records.iter().filter(is_unknown);
        let has_unknown = unknown.any(|record| answer.addresses.contains(&record.address));
        let stale = by_rule || (answer.basis != "pinned" && has_unknown);
        return Plan::one(Arc::clone(&answer.addresses), stale);
    }
    match () {
        () if reason.starts_with(NO_ADDRESS) => Plan::NotReady,
        () if reason.ends_with(RULE_SERVFAIL) => Plan::AllDown,
        () if reason.ends_with(RULE_FORWARD) => Plan::Forward,
        () => Plan::Empty,
    }
}

fn difference(rebuilt: &Rebuilt<'_>, answer: &AnswerRecord) -> Option<String> {
    if let Some(recorded) = rebuilt.recorded.as_ref().filter(|recorded| !recorded.gives_what(&rebuilt.plan)) {
        return Some(format!("{} would be answered, {} is recorded", words(&rebuilt.plan), words(recorded)));
    }
    if rebuilt.basis != answer.basis && answer.basis != "bypass" {
        return Some(format!("the same is answered, but as '{}', while '{}' is recorded", rebuilt.basis, answer.basis));
    }
    let mut recorded: Vec<&EndpointRecord> = rebuilt.places.iter().map(|(record, _)| *record).collect();
    recorded.sort_by_key(|record| record.rank.unwrap_or(u32::MAX));
    let recorded: Vec<IpAddr> = recorded.into_iter().map(|record| record.address).collect();
    let now: Vec<IpAddr> = rebuilt.places.iter().map(|(record, _)| record.address).collect();
    (now != recorded).then(|| {
        format!("the same is answered, but the order would be {}, {} is recorded", list(&now), list(&recorded))
    })
}

/// A plan in few words.
fn words(plan: &Plan) -> String {
    match plan {
        Plan::Addresses { .. } => list(&plan.addresses()),
        Plan::Empty => "nothing".to_owned(),
        Plan::AllDown => "SERVFAIL".to_owned(),
        Plan::NotReady => "SERVFAIL (no address known)".to_owned(),
        Plan::Forward => "what the upstream says".to_owned(),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::world::{World, found, ok, refused, spec};
    use crate::health::{AllDown, Override, OverrideKind, Select, Time};
    use std::time::Duration;

    /// Runs a world and compares what it decided with what its records say.
    fn agrees(api: &NameSpec, orders: &[Override], seconds: u64) {
        let script = |address: IpAddr, _: u32, at: Time| {
            let last = match address {
                IpAddr::V4(v4) => v4.octets()[3],
                IpAddr::V6(v6) => v6.octets()[15],
            };
            // 4 is down, the others waver by up to a fifth.
            let noise = (at.0 / 1000 * 7 + u64::from(last) * 13) % 5;
            if last == 4 { refused() } else { ok(f64::from(last) * 3.0 + noise as f64 * 0.1) }
        };
        let mut world = World::new(vec![api.clone()], Box::new(script));
        world.zone.insert("a.example".into(), found(&["10.0.0.1", "10.0.0.2", "2001:db8::1"]));
        world.zone.insert("b.example".into(), found(&["10.0.0.4", "2001:db8::4"]));
        world.zone.insert("fallback.example".into(), found(&["10.0.0.9", "10.0.0.8"]));
        world.roster.set_overrides(orders.to_vec(), world.now);
        for _ in 0..seconds {
            world.run(Duration::from_secs(1));
            world.roster.rewrite();
            let records = world.roster.take_records(usize::MAX);
            let overrides = Overrides::new(orders.to_vec(), world.now);
            let rebuilt = rebuild(&Remembered {
                spec: api,
                endpoints: &records.endpoints,
                answers: Family::BOTH.map(|family| records.answers.iter().find(|answer| answer.family == family)),
                overrides: &overrides,
                machine_id: b"machine",
                looked_up: true,
            });
            for family in rebuilt {
                assert_eq!(family.differs, None, "{:?} {orders:?} {records:#?}", api.policy);
                assert_eq!(family.recorded.as_ref(), Some(world.plan(0, family.family)), "{:?} {orders:?}", api.policy);
                for (record, standing) in family.places {
                    assert_eq!(
                        standing.words(record.since, record.drained.as_deref()),
                        record.words(),
                        "{:?}",
                        api.policy
                    );
                }
            }
        }
    }

    #[test]
    fn what_the_daemon_decided_is_decided_again() {
        let row = |kind, name: Option<&str>, target: &str| Override {
            id: 1,
            kind,
            name: name.map(str::to_owned),
            target: Some(target.to_owned()),
            expires_at: None,
            reason: None,
            created_by: None,
            created_at: None,
        };
        let orders = [
            vec![],
            vec![row(OverrideKind::Drain, None, "10.0.0.1")],
            vec![row(OverrideKind::ForceUp, None, "10.0.0.4")],
            vec![row(OverrideKind::Pin, Some("api.example"), "b.example")],
            vec![row(OverrideKind::Bypass, None, "-")],
        ];
        for select in [Select::LowestLatency, Select::LatencyGroup, Select::RoundRobin, Select::Failover, Select::All] {
            for orders in &orders {
                for candidates in [&["a.example", "b.example", "10.0.0.3"][..], &["b.example"], &["missing.example"]] {
                    let mut api = spec("api.example", candidates);
                    Arc::make_mut(&mut api.policy).select = select;
                    agrees(&api, orders, 25);
                    // All that are up claim the one role: one is answered and the others are left out.
                    let checks = api.candidates.iter_mut().flat_map(|candidate| Arc::make_mut(&mut candidate.checks));
                    checks.for_each(|check| check.exclusive = true);
                    agrees(&api, orders, 25);
                }
            }
        }
    }

    #[test]
    fn every_all_down_rule_is_decided_again() {
        for when_all_down in [AllDown::All, AllDown::LastGood, AllDown::Forward, AllDown::Servfail, AllDown::Fallback] {
            for fallback in [&["192.0.2.1", "fallback.example"][..], &["fallback.example"], &["missing.example"]] {
                for candidates in [&["b.example"][..], &["10.0.0.4"], &["missing.example"]] {
                    let mut api = spec("api.example", candidates);
                    Arc::make_mut(&mut api.policy).when_all_down = when_all_down;
                    api.fallback = spec("fallback", fallback).candidates.into_iter().map(|c| c.host).collect();
                    agrees(&api, &[], 10);
                }
            }
        }
    }

    #[test]
    fn another_configuration_is_told_from_that_of_the_records() {
        let api = spec("api.example", &["10.0.0.1", "10.0.0.2"]);
        let mut world = World::new(vec![api.clone()], Box::new(|_, _, _| ok(5.0)));
        world.run(Duration::from_secs(3));
        let records = world.roster.take_records(usize::MAX);
        let rebuilt = |spec: &NameSpec| {
            let overrides = Overrides::default();
            let families = rebuild(&Remembered {
                spec,
                endpoints: &records.endpoints,
                answers: Family::BOTH.map(|family| records.answers.iter().find(|answer| answer.family == family)),
                overrides: &overrides,
                machine_id: b"machine",
                looked_up: true,
            });
            // Whatever would be, the record says what is.
            let given = families.each_ref().map(|family| family.recorded.as_ref().map(words).unwrap_or_default());
            assert_eq!(given, ["10.0.0.1", "nothing"]);
            families.map(|family| family.differs.unwrap_or_default())
        };
        assert_eq!(rebuilt(&api), ["", ""]);
        let differs = |would: &str| [format!("{would} would be answered, 10.0.0.1 is recorded"), String::new()];
        assert_eq!(rebuilt(&spec("api.example", &["10.0.0.2"])), differs("10.0.0.2"));
        let mut tiered = api.clone();
        tiered.candidates[0].priority = 2;
        assert_eq!(rebuilt(&tiered), differs("10.0.0.2"));
        // The same basis of both, and not the same answer.
        let [v4, v6] = rebuilt(&spec("api.example", &["other.example"]));
        assert_eq!(v4, "SERVFAIL (no address known) would be answered, 10.0.0.1 is recorded");
        assert_eq!(v6, "SERVFAIL (no address known) would be answered, nothing is recorded");
    }
}
