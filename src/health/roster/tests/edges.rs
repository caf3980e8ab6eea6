//! What is told apart only in corners: reported priorities, limits with a way back, reloads at a bad moment.

use super::*;
use crate::health::resolution::LookupFailure;
use crate::health::{CandidateSpec, DualStack, LatencyOf, Policy, Select};

/// The state of an address of the first name, as the ranking saw it last.
fn standing(world: &World, address: &str) -> String {
    let endpoint = world.roster.names[0].endpoints.iter().find(|e| e.address.to_string() == address).unwrap();
    endpoint.standing.words(endpoint.health.since, endpoint.effect().drained.as_deref()).into_owned()
}

#[test]
fn a_reported_priority_makes_the_tiers() {
    let (mut world, net) = world(vec![spec("db.example", &["10.0.0.1", "10.0.0.2"])]);
    let reports = |ms: f64, priority| CheckResult { priority: Some(priority), ..ok(ms) };
    set(&net, "10.0.0.1", reports(5.0, Some(2)));
    set(&net, "10.0.0.2", reports(50.0, Some(1)));
    world.run(seconds(30));
    assert_eq!(world.answer(), ["10.0.0.2"], "its tier is lower, however slow it is");
    set(&net, "10.0.0.1", reports(5.0, Some(0)));
    world.run(seconds(12));
    assert_eq!(world.answer(), ["10.0.0.1"], "a tier acts with the next result");
    set(&net, "10.0.0.1", reports(5.0, None));
    world.run(seconds(12));
    assert_eq!(world.answer(), ["10.0.0.2"]);
    assert_eq!(standing(&world, "10.0.0.1"), "its check says that it is not to be used");
    // A failure reports nothing: what was said last holds.
    set(&net, "10.0.0.2", refused());
    world.run(seconds(40));
    assert_eq!(world.basis(0, Family::V4), "all-down", "what is not to be used is not used because others are down");
    set(&net, "10.0.0.1", reports(5.0, Some(3)));
    world.run(seconds(12));
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "ranked"));
}

#[test]
fn over_max_latency_returns_below_nine_tenths() {
    let mut api = spec("api.example", &["10.0.0.1", "10.0.0.2"]);
    api.policy = Arc::new(Policy { max_latency: Duration::from_millis(50), hysteresis: 0.0, ..*api.policy });
    api.candidates[0].priority = 1;
    api.candidates[1].priority = 2;
    let (mut world, net) = world(vec![api]);
    set(&net, "10.0.0.1", ok(40.0));
    set(&net, "10.0.0.2", ok(30.0));
    world.run(seconds(60));
    assert_eq!(world.answer(), ["10.0.0.1"]);
    set(&net, "10.0.0.1", ok(80.0));
    world.run(seconds(60));
    assert_eq!(
        (world.answer(), standing(&world, "10.0.0.1").as_str()),
        (vec!["10.0.0.2".to_owned()], "slower than max_latency")
    );
    set(&net, "10.0.0.1", ok(47.0));
    world.run(seconds(300));
    assert_eq!(world.answer(), ["10.0.0.2"], "below the limit, but not below 0.9 of it");
    set(&net, "10.0.0.1", ok(44.0));
    world.run(seconds(300));
    assert_eq!(world.answer(), ["10.0.0.1"], "back below 0.9");
    // In any tier: when nothing is within the limit, it is used.
    set(&net, "10.0.0.1", ok(80.0));
    set(&net, "10.0.0.2", ok(90.0));
    world.run(seconds(120));
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "ranked"));
}

#[test]
fn another_kind_of_latency_counts_from_the_reload_on() {
    let specs = |latency| {
        let mut api = spec("api.example", &["10.0.0.1", "10.0.0.2"]);
        Arc::make_mut(&mut api.policy).latency = latency;
        vec![api]
    };
    let times = |connect, first, total| CheckResult {
        connect: Some(Duration::from_millis(connect)),
        first_byte: Some(Duration::from_millis(first)),
        ..ok(total)
    };
    let (mut world, net) = world(specs(LatencyOf::Total));
    set(&net, "10.0.0.1", times(30, 40, 50.0));
    set(&net, "10.0.0.2", times(10, 80, 90.0));
    world.run(seconds(60));
    for (latency, answer, ms) in [
        (LatencyOf::Connect, "10.0.0.2", 10.0),
        (LatencyOf::FirstByte, "10.0.0.1", 40.0),
        (LatencyOf::Total, "10.0.0.1", 50.0),
    ] {
        world.roster.configure(specs(latency), world.now);
        // Long enough for the deviation to settle again.
        world.run(seconds(100));
        assert_eq!((world.answer(), world.first_ms()), (vec![answer.to_owned()], Some(ms)), "{latency:?}");
        assert_eq!(world.roster.summary().unknown, 0, "nothing is forgotten for it");
    }
}

#[test]
fn names_that_share_a_host_hold_its_addresses_for_their_own_time() {
    let with_hold = |name: &str, hold| {
        let mut spec = spec(name, &["a.example"]);
        spec.resolve_hold = seconds(hold);
        spec
    };
    let (mut world, _) = world(vec![with_hold("short.example", 60), with_hold("long.example", 300)]);
    world.zone.insert("a.example".into(), found(&["10.0.0.1"]));
    world.run(seconds(30));
    world.zone.clear();
    world.run(seconds(50));
    assert_eq!((world.answer_of(0, Family::V4).len(), world.answer_of(1, Family::V4).len()), (1, 1));
    world.run(seconds(60));
    assert_eq!((world.plan(0, Family::V4), world.answer_of(1, Family::V4).len()), (&Plan::NotReady, 1));
    world.begun.clear();
    world.run(seconds(60));
    assert!(world.begun.len() >= 4, "still checked for the one that holds it: {}", world.begun.len());
    world.run(seconds(200));
    assert_eq!(world.plan(1, Family::V4), &Plan::NotReady);
    world.zone.insert("a.example".into(), found(&["10.0.0.1"]));
    world.run(seconds(40));
    assert_eq!((world.answer_of(0, Family::V4).len(), world.answer_of(1, Family::V4).len()), (1, 1));
}

#[test]
fn a_reload_during_a_fault_of_this_host_keeps_the_hold() {
    let api = || spec("api.example", &["10.0.0.1", "10.0.0.2"]);
    let (mut world, net) = world(vec![api(), spec("gone.example", &["10.0.0.3"])]);
    set(&net, "10.0.0.1", ok(5.0));
    world.run(seconds(60));
    for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"] {
        set(&net, address, timeout());
    }
    world.run(seconds(40));
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "held"));
    world.roster.configure(vec![api(), spec("new.example", &["10.0.0.4"])], world.now);
    world.decisions.clear();
    world.run(seconds(5));
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "held"));
    assert_eq!(world.basis(1, Family::V4), "not-known-yet", "what is new is neither held nor down");
    for address in ["10.0.0.1", "10.0.0.2", "10.0.0.4"] {
        set(&net, address, ok(5.0));
    }
    world.run(seconds(12));
    assert_eq!((world.basis(0, Family::V4), world.basis(1, Family::V4)), ("ranked", "ranked"));
    // The limit of the hold survives a reload too.
    for address in ["10.0.0.1", "10.0.0.2", "10.0.0.4"] {
        set(&net, address, timeout());
    }
    world.run(seconds(40));
    assert!(world.roster.summary().local_fault);
    world.roster.configure(vec![api()], world.now);
    world.run(seconds(330));
    assert_eq!((world.roster.summary().local_fault, world.basis(0, Family::V4)), (false, "all-down"));
}

#[test]
fn an_address_that_refused_until_the_fault_is_a_witness_of_it() {
    let (mut world, net) = world(vec![spec("api.example", &["10.0.0.1", "10.0.0.2"])]);
    for silent in [false, true] {
        set(&net, "10.0.0.1", ok(5.0));
        set(&net, "10.0.0.2", if silent { timeout() } else { refused() });
        world.run(seconds(120));
        assert_eq!(world.roster.summary().down, 1);
        for address in ["10.0.0.1", "10.0.0.2"] {
            set(&net, address, timeout());
        }
        world.run(seconds(40));
        // Silent for two minutes, it says nothing about the moment at which the other fell silent.
        assert_eq!(world.roster.summary().local_fault, !silent, "silent before: {silent}");
        if !silent {
            assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "held"));
            let states: Vec<State> = world.roster.names[0].endpoints.iter().map(|e| e.health.state).collect();
            assert_eq!(states, [State::Unknown, State::Down], "what was down before stays down");
        }
    }
    assert_eq!(world.basis(0, Family::V4), "all-down");
}

#[test]
fn two_bare_addresses_of_two_families_may_be_one_server() {
    for (candidates, fault) in [
        (["10.0.0.1", "2001:db8::1"], false),
        (["10.0.0.1", "10.0.0.2"], true),
        (["2001:db8::1", "2001:db8::2"], true),
        (["10.0.0.1", "six.example"], true),
    ] {
        let (mut world, net) = world(vec![spec("api.example", &candidates)]);
        world.zone.insert("six.example".into(), found(&["2001:db8::9"]));
        world.run(seconds(60));
        for address in ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "2001:db8::9"] {
            set(&net, address, timeout());
        }
        world.run(seconds(40));
        assert_eq!(world.roster.summary().local_fault, fault, "{candidates:?}");
    }
}

#[test]
fn a_query_counts_from_when_it_was_asked() {
    let mut api = spec("api.example", &["10.0.0.1"]);
    Arc::make_mut(&mut api.pace).idle_after = seconds(60);
    let (mut world, _) = world(vec![api, spec("other.example", &["10.0.0.2"])]);
    assert_eq!(world.roster.resting_names(), [0]);
    world.run(seconds(50));
    // Learned of ten seconds late: it was not idle when it came, nothing is checked for it.
    let asked = world.now;
    world.run(seconds(15));
    assert!(world.roster.is_idle(0, world.now));
    world.begun.clear();
    world.roster.asked(0, asked, world.now);
    world.settle();
    assert_eq!((world.roster.is_idle(0, world.now), world.begun.len()), (false, 0));
    world.run(seconds(60));
    assert!(world.roster.is_idle(0, world.now));
    world.roster.asked(0, asked, world.now);
    assert!(world.roster.is_idle(0, world.now), "heard of already");
}

#[test]
fn a_check_that_outlasts_its_intervals_is_not_forgotten_meanwhile() {
    let hang = |took| CheckResult { total: took, ..timeout() };
    let states = |world: &World| -> Vec<String> {
        let states = world.events.iter().filter(|event| event.kind == EventKind::State);
        states.map(|event| format!("{:?} {}", event.after.as_deref(), event.reason)).collect()
    };
    // Up: the time limit of the check is above three of the fast intervals.
    let (mut world, net) = world(vec![spec("api.example", &["10.0.0.1", "127.0.0.1"])]);
    world.run(seconds(60));
    set(&net, "10.0.0.1", hang(seconds(5)));
    world.run(seconds(60));
    assert_eq!(states(&world), ["Some(\"down\") 3 checks failed in a row: no connection"]);
    // Down, at an interval of which five fit into a check, or waiting for a worker for minutes.
    let mut api = spec("api.example", &["10.0.0.1"]);
    Arc::make_mut(&mut api.policy).when_all_down = AllDown::Servfail;
    Arc::make_mut(&mut api.pace).down_interval = seconds(1);
    for took in [5, 400] {
        let (mut world, net) = self::world(vec![api.clone()]);
        set(&net, "10.0.0.1", hang(seconds(took)));
        world.run(seconds(1500));
        assert_eq!(states(&world).len(), 1, "{:?}", states(&world));
        assert_eq!(world.plan(0, Family::V4), &Plan::AllDown);
        // Runs that say nothing are no results, however long they take.
        set(&net, "10.0.0.1", CheckResult { outcome: Outcome::LocalError, ..hang(seconds(2)) });
        world.run(seconds(took + 10));
        assert_eq!(world.roster.summary().unknown, 1);
    }
}

#[test]
fn a_check_shared_with_a_faster_name_says_nothing_about_the_pace_of_the_others() {
    let specs = || {
        let mut two = spec("two.example", &["10.0.0.1"]);
        two.candidates[0].checks = Arc::new(vec![check(2), check(1)]);
        let mut one = spec("one.example", &["10.0.0.1"]);
        one.candidates[0].checks = Arc::new(vec![check(1)]);
        Arc::make_mut(&mut one.pace).interval = seconds(1);
        vec![one, two]
    };
    let (mut world, _) = world(specs());
    world.run(seconds(120));
    let records = world.roster.take_records(usize::MAX);
    let intervals: Vec<u64> = records.endpoints.iter().map(|record| record.interval_ms).collect();
    assert_eq!((intervals, world.roster.summary().up), (vec![1000, 10_000], 2));
    assert!(!world.events.iter().any(|event| event.kind == EventKind::State), "{:?}", world.events);
    // A restart resumes each check at the pace of the name that wants it most often.
    let mut next = World::new(specs(), Box::new(|_, _, _| ok(10.0)));
    next.now = world.now;
    next.roster.restore(&records.endpoints, &records.answers, next.now);
    next.run(seconds(60));
    assert!(!next.events.iter().any(|event| event.kind == EventKind::State), "{:?}", next.events);
    assert_eq!(next.roster.summary().up, 2);
}

#[test]
fn a_family_that_was_never_looked_up_with_success_stays_unknown_through_a_restart() {
    let only_v4 = LookupResult { v6: Err(LookupFailure::Timeout), ..found(&["10.0.0.1"]) };
    let (mut world, _) = world(vec![spec("api.example", &["a.example"])]);
    world.zone.insert("a.example".into(), only_v4.clone());
    world.run(seconds(60));
    assert_eq!((world.plan(0, Family::V6), world.basis(0, Family::V6)), (&Plan::NotReady, "not-ready"));
    let records = world.roster.take_records(usize::MAX);
    let (mut next, _) = self::world(vec![spec("api.example", &["a.example"])]);
    next.zone.insert("a.example".into(), only_v4);
    next.now = world.now;
    next.roster.restore(&records.endpoints, &records.answers, next.now);
    next.settle();
    assert_eq!(next.plan(0, Family::V6), &Plan::NotReady);
    next.run(seconds(60));
    assert_eq!(next.plan(0, Family::V6), &Plan::NotReady);
    next.zone.insert("a.example".into(), found(&["10.0.0.1"]));
    next.run(seconds(60));
    assert_eq!((next.plan(0, Family::V6), next.basis(0, Family::V6)), (&Plan::Empty, "no-address"));
}

#[test]
fn checks_that_cannot_be_made_are_told_once_for_all_when_they_begin_and_end() {
    let (mut world, net) = world(vec![spec("api.example", &["10.0.0.1", "10.0.0.2"])]);
    world.run(seconds(60));
    let told = |world: &World| -> Vec<String> {
        let here = world.events.iter().filter(|event| event.kind == EventKind::LocalFault);
        here.map(|event| event.reason.to_string()).collect()
    };
    assert_eq!((told(&world).len(), world.roster.unable()), (0, None));
    let no_descriptor =
        || CheckResult { outcome: Outcome::LocalError, error: Some("no file descriptor left".into()), ..ok(1.0) };
    for address in ["10.0.0.1", "10.0.0.2"] {
        set(&net, address, no_descriptor());
    }
    world.run(seconds(60));
    assert_eq!(told(&world).len(), 1, "{:?}", told(&world));
    assert!(told(&world)[0].contains("no file descriptor left"));
    assert_eq!((world.roster.summary().unable, world.roster.unable()), (2, Some("no file descriptor left")));
    let records = world.roster.take_records(usize::MAX).endpoints;
    assert!(records.iter().all(|record| record.last_error.as_deref() == Some("no file descriptor left")));
    assert_eq!(world.roster.summary().down, 0, "it says nothing about the candidates");
    for address in ["10.0.0.1", "10.0.0.2"] {
        set(&net, address, ok(10.0));
    }
    world.run(seconds(60));
    assert_eq!(told(&world).len(), 2, "{:?}", told(&world));
    assert!(told(&world)[1].starts_with("checks can be made again: "));
    assert_eq!((world.roster.summary().unable, world.roster.unable()), (0, None));
}

#[test]
fn what_is_no_candidate_any_more_is_neither_the_last_good_nor_held() {
    let api = |candidates: &[&str]| {
        let mut api = spec("api.example", candidates);
        Arc::make_mut(&mut api.policy).when_all_down = AllDown::LastGood;
        vec![api]
    };
    let both = ["10.0.0.1", "a.example"];
    let (mut world, net) = world(api(&both));
    world.zone.insert("a.example".into(), found(&["10.0.0.2"]));
    set(&net, "10.0.0.1", ok(5.0));
    world.run(seconds(60));
    // The last good one is still a candidate: it is given though it is down.
    set(&net, "10.0.0.2", refused());
    world.run(seconds(60));
    set(&net, "10.0.0.1", refused());
    world.run(seconds(60));
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "all-down"));
    let records = world.roster.take_records(usize::MAX);
    world.roster.configure(api(&both[1..]), world.now);
    world.settle();
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.2".to_owned()], "all-down"));
    // The same after a restart with the other configuration.
    let (mut next, net) = self::world(api(&both[1..]));
    next.zone.insert("a.example".into(), found(&["10.0.0.2"]));
    set(&net, "10.0.0.2", refused());
    next.now = world.now;
    next.roster.restore(&records.endpoints, &records.answers, next.now);
    next.run(seconds(60));
    assert_eq!((next.answer(), next.basis(0, Family::V4)), (vec!["10.0.0.2".to_owned()], "all-down"));

    // Held, and put back from before the first failure.
    for at_once in [true, false] {
        let (mut world, net) = self::world(api(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
        set(&net, "10.0.0.1", ok(5.0));
        world.run(seconds(60));
        set(&net, "10.0.0.1", timeout());
        world.run(seconds(14));
        assert_eq!(world.answer(), ["10.0.0.2"]);
        if at_once {
            world.roster.configure(api(&["10.0.0.2", "10.0.0.3"]), world.now);
        }
        set(&net, "10.0.0.2", timeout());
        set(&net, "10.0.0.3", timeout());
        for _ in 0..400 {
            world.run(Duration::from_millis(100));
            if world.roster.summary().local_fault {
                break;
            }
        }
        assert!(world.roster.summary().local_fault);
        if !at_once {
            assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "held"));
            world.roster.configure(api(&["10.0.0.2", "10.0.0.3"]), world.now);
            world.settle();
        }
        assert_eq!(world.answer(), ["10.0.0.2"], "removed before the fault: {at_once}");
    }
}

#[test]
fn families_that_are_answered_in_turn_are_compared_by_their_fastest() {
    let mut api = spec("api.example", &["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
    let policy = Policy { select: Select::RoundRobin, dual_stack: DualStack::Fastest, ..*api.policy };
    api.policy = Arc::new(policy);
    let (mut world, net) = world(vec![api]);
    set(&net, "10.0.0.1", ok(207.0));
    set(&net, "10.0.0.2", ok(6.0));
    set(&net, "2001:db8::1", ok(86.0));
    world.run(seconds(30));
    assert_eq!((world.answer().len(), world.plan(0, Family::V6)), (2, &Plan::Empty));
    set(&net, "10.0.0.2", ok(207.0));
    world.run(seconds(300));
    assert_eq!((world.plan(0, Family::V4), world.answer_of(0, Family::V6).len()), (&Plan::Empty, 1));
}

#[test]
fn another_kind_of_latency_counts_from_the_restart_on() {
    let specs = |latency| {
        let mut api = spec("api.example", &["10.0.0.1"]);
        Arc::make_mut(&mut api.policy).latency = latency;
        vec![api]
    };
    for (before, after, ms) in [
        (LatencyOf::Total, LatencyOf::Connect, 2.0),
        (LatencyOf::Connect, LatencyOf::Total, 150.0),
        (LatencyOf::Connect, LatencyOf::Connect, 2.0),
    ] {
        let result = CheckResult { connect: Some(Duration::from_millis(2)), ..ok(150.0) };
        let script = move |result: &CheckResult| {
            let result = result.clone();
            Box::new(move |_: IpAddr, _: u32, _: Time| result.clone())
        };
        let mut world = World::new(specs(before), script(&result));
        world.run(seconds(60));
        let records = world.roster.take_records(usize::MAX);
        let mut next = World::empty(script(&result));
        next.now = world.now;
        next.roster.configure(specs(after), next.now);
        next.roster.restore(&records.endpoints, &records.answers, next.now);
        next.settle();
        assert_eq!(next.first_ms().map(f64::round), Some(ms), "{before:?} to {after:?}");
        assert_eq!(next.roster.summary().up, 1);
    }
}

#[test]
fn a_reload_that_lets_a_name_rest_takes_it_as_just_asked_for() {
    let api = |idle: u64| {
        let mut api = spec("api.example", &["10.0.0.1"]);
        Arc::make_mut(&mut api.pace).idle_after = seconds(idle);
        vec![api]
    };
    let (mut world, _) = world(api(0));
    world.run(seconds(600));
    world.roster.configure(api(60), world.now);
    world.run(seconds(50));
    assert!(!world.roster.is_idle(0, world.now));
    // Another time to rest is no query.
    world.roster.configure(api(55), world.now);
    world.run(seconds(6));
    assert!(world.roster.is_idle(0, world.now));
}

#[test]
fn a_name_waits_once_for_its_results_to_become_too_old() {
    let (mut world, _) = world(vec![spec("a.example", &["10.0.0.1"]), spec("b.example", &["10.0.0.2"])]);
    for turn in 0..20 {
        world.run(seconds(15));
        let found = ["10.0.0.1", "10.0.0.3"];
        world.roster.refit(spec("a.example", &found[..1 + turn / 2 % 2]), world.now);
        assert_eq!(world.roster.stale.values().flatten().count(), 2, "{:?}", world.roster.stale);
    }
    world.roster.configure(vec![spec("b.example", &["10.0.0.2"])], world.now);
    assert_eq!(world.roster.stale.values().flatten().count(), 1);
}

#[test]
fn a_restart_leaves_answers_in_turn_as_they_were() {
    let api = |weights: [u32; 2]| {
        let mut api = spec("api.example", &["10.0.0.2", "10.0.0.1"]);
        Arc::make_mut(&mut api.policy).select = Select::RoundRobin;
        let candidates = api.candidates.drain(..).zip(weights);
        api.candidates = candidates.map(|(candidate, weight)| CandidateSpec { weight, ..candidate }).collect();
        vec![api]
    };
    let answer = |world: &mut World| {
        world.roster.rewrite();
        let answers = world.roster.take_records(usize::MAX).answers;
        let answer = answers.into_iter().find(|answer| answer.family == Family::V4).unwrap();
        (answer.addresses, answer.reason, answer.since)
    };
    let (mut world, _) = world(api([1, 1]));
    world.run(seconds(60));
    world.roster.rewrite();
    let records = world.roster.take_records(usize::MAX);
    let before = answer(&mut world);
    let mut next = World::empty(Box::new(|_, _, _| ok(10.0)));
    next.now = world.now.after(seconds(5));
    next.roster.configure(api([1, 1]), next.now);
    next.roster.restore(&records.endpoints, &records.answers, next.now);
    next.settle();
    assert_eq!(answer(&mut next), before);
    assert_eq!(next.plan(0, Family::V4), world.plan(0, Family::V4), "all turns are given");
    assert!(next.events.is_empty(), "{:?}", next.events);
    // Other shares of the same are given, and are no other answer.
    next.roster.configure(api([3, 1]), next.now);
    next.settle();
    assert_eq!(answer(&mut next), before);
    assert_ne!(next.plan(0, Family::V4), world.plan(0, Family::V4));
}

#[test]
fn a_name_that_never_had_an_address_has_been_so_since_it_was_first_decided() {
    let api = || vec![spec("api.example", &["missing.example"])];
    let since = |world: &mut World| {
        world.roster.rewrite();
        let answers = world.roster.take_records(usize::MAX).answers;
        answers.iter().map(|answer| answer.since).collect::<Vec<_>>()
    };
    let (mut world, _) = world(api());
    world.run(seconds(60));
    assert_eq!(since(&mut world), [START, START]);
    // A restart does not begin it anew; what says nothing of its beginning is put right.
    world.roster.rewrite();
    let mut records = world.roster.take_records(usize::MAX);
    records.answers[1].since = Time(0);
    let mut next = World::empty(Box::new(|_, _, _| ok(10.0)));
    next.now = world.now.after(seconds(5));
    next.roster.configure(api(), next.now);
    next.roster.restore(&records.endpoints, &records.answers, next.now);
    let restarted = next.now;
    next.run(seconds(5));
    assert_eq!(since(&mut next), [START, restarted]);
}

#[test]
fn an_all_down_rule_without_addresses_of_its_own_says_what_is_given_instead() {
    for (rule, was_up, words) in [
        (AllDown::LastGood, true, "what was last answered is given"),
        (AllDown::LastGood, false, "nothing that was answered before is left: all known addresses are given"),
        (AllDown::Fallback, true, "the fallback list has no address: all known addresses are given"),
    ] {
        let mut api = spec("api.example", &["10.0.0.1"]);
        Arc::make_mut(&mut api.policy).when_all_down = rule;
        api.fallback = vec![Host::Name("missing.example".into())];
        let (mut world, net) = world(vec![api]);
        if was_up {
            world.run(seconds(5));
        }
        set(&net, "10.0.0.1", refused());
        world.run(seconds(60));
        assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "all-down"));
        let reason = &world.decisions[&0].families[0].reason;
        assert_eq!(**reason, *format!("every known address is down or drained: {words}"));
    }
}

#[test]
fn what_is_first_by_rank_and_not_given_says_what_decides() {
    let (mut world, net) = world(vec![spec("api.example", &["10.0.0.1", "10.0.0.2", "2001:db8::1"])]);
    set(&net, "10.0.0.1", ok(5.0));
    world.run(seconds(5));
    let pin = row(1, OverrideKind::Pin, Some("api.example"), Some("10.0.0.2"));
    world.roster.set_overrides(vec![pin], world.now);
    world.run(seconds(1));
    assert_eq!(standing(&world, "10.0.0.1"), "first by rank, but the answer is pinned");
    world.roster.set_overrides(Vec::new(), world.now);
    Arc::make_mut(&mut world.roster.names[0].spec.policy).dual_stack = DualStack::Fastest;
    world.run(seconds(15));
    assert_eq!(standing(&world, "2001:db8::1"), "first by rank, but the other family is faster");
}

#[test]
fn a_name_counts_as_without_fit_by_what_may_be_answered() {
    let (mut world, net) = world(vec![spec("api.example", &["10.0.0.1"])]);
    set(&net, "10.0.0.1", CheckResult { priority: Some(Some(1)), ..ok(10.0) });
    world.run(seconds(5));
    let mut without = |kinds: &[OverrideKind], result: CheckResult| {
        set(&net, "10.0.0.1", result);
        let orders = (1..).zip(kinds).map(|(id, kind)| row(id, *kind, None, Some("10.0.0.1")));
        world.roster.set_overrides(orders.collect(), world.now);
        world.run(seconds(60));
        world.roster.rewrite();
        let records = world.roster.take_records(usize::MAX).endpoints;
        assert_eq!(records[0].is_fit(), world.roster.summary().names_without_fit == 0, "{kinds:?}");
        assert_eq!(records[0].is_fit(), world.basis(0, Family::V4) == "ranked", "{kinds:?}");
        world.roster.summary().names_without_fit
    };
    let (drain, force) = (OverrideKind::Drain, OverrideKind::ForceUp);
    assert_eq!(without(&[], ok(10.0)), 0);
    assert_eq!(without(&[drain], ok(10.0)), 1);
    assert_eq!(without(&[], refused()), 1);
    assert_eq!(without(&[force], refused()), 0);
    assert_eq!(without(&[drain, force], refused()), 1, "a drain beats a forced state");
    assert_eq!(without(&[], CheckResult { priority: Some(None), ..ok(10.0) }), 1, "its check says no");
}
