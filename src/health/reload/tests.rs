//! One name fitted to other candidates beside names that stay as they are.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::health::roster::Name;
use crate::health::world::{START, World, ok, refused, spec};
use crate::health::{EventKind, State, Time};

fn world(names: &[(&str, &[&str])]) -> World {
    let specs = names.iter().map(|(name, candidates)| spec(name, candidates)).collect();
    World::new(specs, Box::new(|_: IpAddr, _: u32, _: Time| ok(10.0)))
}

fn addresses(world: &World, name: usize) -> Vec<(String, State)> {
    let endpoints = world.roster.names[name].endpoints.iter();
    endpoints.map(|endpoint| (endpoint.address.to_string(), endpoint.health.state)).collect()
}

#[test]
fn what_is_unchanged_keeps_everything_and_others_are_left_alone() {
    let mut world = world(&[("a.example", &["10.0.0.1", "10.0.0.2"]), ("b.example", &["10.0.0.1"])]);
    world.run(Duration::from_secs(5));
    let since = world.roster.names[0].endpoints[1].health.since;
    let now = world.now;
    world.roster.refit(spec("a.example", &["10.0.0.3", "10.0.0.2"]), now);
    assert_eq!(addresses(&world, 0), [("10.0.0.3".to_owned(), State::Unknown), ("10.0.0.2".to_owned(), State::Up)]);
    assert_eq!(world.roster.names[0].endpoints[1].health.since, since);
    assert_eq!(addresses(&world, 1), [("10.0.0.1".to_owned(), State::Up)]);
    let removed = world.roster.take_records(usize::MAX).removed;
    assert!(removed.iter().any(|(name, _, address)| &**name == "a.example" && address.to_string() == "10.0.0.1"));
    world.run(Duration::from_secs(20));
    assert_eq!(addresses(&world, 0)[0].1, State::Up);
    assert_eq!(addresses(&world, 1), [("10.0.0.1".to_owned(), State::Up)], "its checks go on");
    // Targets that nobody wants any more are gone: three addresses, one check each.
    assert_eq!(world.roster.targets.len(), 3);
    world.roster.refit(spec("a.example", &[]), now);
    assert_eq!(world.roster.targets.len(), 1);
}

#[test]
fn what_is_equal_stays_where_it_is_in_memory() {
    let specs = || vec![spec("a.example", &["10.0.0.1"]), spec("b.example", &["10.0.0.1", "10.0.0.2"])];
    let mut world = World::new(specs(), Box::new(|_: IpAddr, _: u32, _: Time| ok(10.0)));
    world.run(Duration::from_secs(5));
    let places = |world: &World| -> Vec<_> {
        let place = |name: &Name| (name.spec.name.as_ptr(), name.spec.candidates.as_ptr());
        world.roster.names.iter().map(place).collect()
    };
    let before = places(&world);
    let mut fresh = specs();
    Arc::make_mut(&mut fresh[1].pace).interval *= 2;
    let (now, interval) = (world.now, fresh[1].pace.interval);
    world.roster.configure(fresh, now);
    assert_eq!(places(&world), before);
    assert_eq!(world.roster.names[1].spec.pace.interval, interval, "what changed is taken over");
    assert_eq!(addresses(&world, 1).len(), 2);
    assert!(addresses(&world, 1).iter().all(|(_, state)| *state == State::Up));
}

#[test]
fn a_name_whose_candidates_are_being_found_waits() {
    let mut world = world(&[("a.example", &[])]);
    world.roster.set_discovering(["a.example".into()].into());
    let now = world.now;
    world.roster.refit(spec("a.example", &[]), now);
    assert!(world.roster.take_decisions(now)[0].waiting);
    assert!(!world.roster.first_round_done());
    world.roster.discovered("a.example");
    assert!(!world.roster.take_decisions(now)[0].waiting);
}

#[test]
fn two_that_claim_the_one_role_are_told_of_and_the_first_is_answered() {
    let mut both = spec("db.example", &["10.0.0.1", "10.0.0.2"]);
    Arc::make_mut(&mut both.policy).hysteresis = 0.0;
    both.candidates.iter_mut().for_each(|candidate| Arc::make_mut(&mut candidate.checks)[0].exclusive = true);
    // The second is faster and would win by latency.
    let script = |address: IpAddr, _: u32, now: Time| match address.to_string().as_str() {
        "10.0.0.1" if now >= Time(START.0 + 60_000) => refused(),
        "10.0.0.1" => ok(50.0),
        _ => ok(5.0),
    };
    let mut world = World::new(vec![both], Box::new(script));
    world.run(Duration::from_secs(30));
    assert_eq!(world.answer(), ["10.0.0.1"]);
    let told = |world: &World| world.events.iter().filter(|event| event.kind == EventKind::RoleConflict).count();
    assert_eq!(told(&world), 1);
    world.run(Duration::from_secs(60));
    assert_eq!(world.answer(), ["10.0.0.2"]);
    assert_eq!(told(&world), 2, "its end is told, too");
}
