//! One name fitted to other candidates beside names that stay as they are.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::health::roster::Name;
use crate::health::world::{START, World, ok, refused, spec};
use crate::health::{CheckRef, EventKind, Outcome, State, Time};

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
    world.roster.set_discovering(["a.example".into()].into(), HashMap::new());
    let now = world.now;
    world.roster.refit(spec("a.example", &[]), now);
    assert!(world.roster.take_decisions(now)[0].waiting);
    assert!(!world.roster.first_round_done());
    world.roster.discovered(&"a.example".into(), None);
    assert!(!world.roster.take_decisions(now)[0].waiting);
}

#[test]
fn a_search_in_vain_is_the_reason_that_no_address_is_known() {
    let mut world = world(&[("a.example", &[])]);
    let name: Arc<str> = "a.example".into();
    let tell = |world: &mut World, failed: Option<&str>| {
        world.roster.discovered(&name, failed.map(Arc::from));
        world.run(Duration::from_secs(1));
        let answers = world.roster.take_records(usize::MAX).answers;
        answers.into_iter().map(|answer| (answer.reason.to_string(), answer.since)).collect::<Vec<_>>()
    };
    let both = |why: &str| vec![(format!("no address is known{why}"), START); 2];
    assert_eq!(tell(&mut world, None), both(" yet"));
    assert_eq!(tell(&mut world, Some("SRV x: no such name")), both(": SRV x: no such name"));
    assert_eq!(tell(&mut world, Some("SRV x: no such name")), [], "the same is no news");
    assert_eq!(tell(&mut world, Some("SRV x: time-out")), both(": SRV x: time-out"));
    assert_eq!(tell(&mut world, None), both(" yet"));
    // A reload may take the search away, or another one may have failed by then.
    tell(&mut world, Some("SRV x: time-out"));
    world.roster.set_discovering(BTreeSet::new(), [(name.clone(), "SRV y: time-out".into())].into());
    assert_eq!(tell(&mut world, Some("SRV y: time-out")), both(": SRV y: time-out"));
    world.roster.set_discovering(BTreeSet::new(), HashMap::new());
    assert_eq!(tell(&mut world, None), both(" yet"));
    assert!(world.events.is_empty(), "{:?}", world.events);
    // Where addresses are known a search that fails changes nothing.
    world.roster.refit(spec("a.example", &["10.0.0.1"]), world.now);
    world.run(Duration::from_secs(5));
    world.roster.take_records(usize::MAX);
    let reasons = tell(&mut world, Some("SRV y: time-out"));
    assert!(reasons.iter().all(|(reason, _)| reason == "the candidates have no address of this family"), "{reasons:?}");
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

#[test]
fn a_check_is_known_by_its_words_and_counts_go_on_in_any_case() {
    let api = |id: u32, words: &str| {
        let mut api = spec("api.example", &["10.0.0.1", "10.0.0.2"]);
        let check =
            CheckRef { id, definition: words.into(), is_none: words == "none", ..api.candidates[0].checks[0].clone() };
        api.candidates.iter_mut().for_each(|candidate| candidate.checks = Arc::new(vec![check.clone()]));
        vec![api]
    };
    let passed = |world: &mut World| -> Vec<(State, u64, Option<f64>)> {
        world.roster.rewrite();
        let records = world.roster.take_records(usize::MAX).endpoints;
        let ok = Outcome::ALL.iter().position(|outcome| *outcome == Outcome::Ok).unwrap();
        records.iter().map(|record| (record.state, record.counts[ok], record.latency_ms)).collect()
    };
    let mut world = World::new(api(1, "tcp:80"), Box::new(|_: IpAddr, _: u32, _: Time| ok(10.0)));
    world.run(Duration::from_secs(60));
    let before = passed(&mut world);
    assert!(before.iter().all(|(state, ok, _)| *state == State::Up && *ok > 5), "{before:?}");
    world.events.clear();
    // Another patience: another check to run, which says the same.
    world.roster.configure(api(2, "tcp:80"), world.now);
    assert_eq!(passed(&mut world), before);
    let unknown = |before: &[(State, u64, Option<f64>)]| -> Vec<_> {
        before.iter().map(|(_, ok, ms)| (State::Unknown, *ok, *ms)).collect()
    };
    world.roster.configure(api(3, "tcp:81"), world.now);
    assert_eq!(passed(&mut world), unknown(&before));
    world.run(Duration::from_secs(60));
    assert!(world.events.is_empty(), "up it was, and up it is: {:?}", world.events);
    let before = passed(&mut world);
    assert!(before.iter().all(|(state, ok, _)| *state == State::Up && *ok > 10), "{before:?}");
    world.roster.configure(api(4, "none"), world.now);
    let none = passed(&mut world);
    assert!(none.iter().zip(&before).all(|(now, was)| *now == (State::Up, was.1, None)), "{none:?}");
    world.run(Duration::from_secs(60));
    world.roster.configure(api(5, "tcp:80"), world.now);
    assert_eq!(passed(&mut world), unknown(&none));
    world.run(Duration::from_secs(60));
    assert!(passed(&mut world).iter().zip(&none).all(|(now, was)| now.0 == State::Up && now.1 > was.1 + 5));
}
