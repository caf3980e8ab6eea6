//! The roster in scripted worlds: what is answered, when it changes, and what is left alone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::health::world::{START, World, found, ok, refused, spec, timeout};
use crate::health::{AllDown, CheckRef, Family, Override, OverrideKind};

type Net = Rc<RefCell<HashMap<String, CheckResult>>>;

/// A network in which every address answers after 10 ms until a test says otherwise.
fn world(specs: Vec<NameSpec>) -> (World, Net) {
    let net: Net = Rc::default();
    let seen = Rc::clone(&net);
    let script = move |address: IpAddr, _: u32, _: Time| {
        seen.borrow().get(&address.to_string()).cloned().unwrap_or_else(|| ok(10.0))
    };
    (World::new(specs, Box::new(script)), net)
}

fn set(net: &Net, address: &str, result: CheckResult) {
    net.borrow_mut().insert(address.to_owned(), result);
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn row(id: i64, kind: OverrideKind, name: Option<&str>, target: Option<&str>) -> Override {
    Override {
        id,
        kind,
        name: name.map(str::to_owned),
        target: target.map(str::to_owned),
        expires_at: None,
        reason: None,
        created_by: None,
        created_at: None,
    }
}

/// A check that is told from others by its number and its words.
fn check(id: u32) -> CheckRef {
    let definition = format!("tcp:{id}").into();
    CheckRef { id, definition, is_none: false, own_address: true, exclusive: false }
}

#[test]
fn the_fastest_is_answered_and_left_when_it_dies() {
    let (mut world, net) = world(vec![spec("api.example", &["10.0.0.1", "10.0.0.2"])]);
    set(&net, "10.0.0.1", ok(5.0));
    world.settle();
    assert!(world.decisions[&0].waiting, "cold: queries wait");
    world.run(seconds(1));
    assert!(!world.decisions[&0].waiting);
    assert_eq!(world.answer(), ["10.0.0.1"]);
    assert!(world.roster.first_round_done());
    world.run(seconds(30));
    set(&net, "10.0.0.1", refused());
    world.run(Duration::from_millis(13_500));
    assert_eq!(world.answer(), ["10.0.0.2"]);
    let line = world.events.iter().rfind(|event| event.kind == EventKind::Answer).unwrap().to_string();
    assert!(line.contains("A: 10.0.0.1 -> 10.0.0.2 (5.0 ms -> 10.0 ms)"), "{line}");
    assert!(line.contains("10.0.0.1 is down (connection refused)"), "{line}");
}

#[test]
fn families_and_the_all_down_rules() {
    for (rule, answers, v6_basis) in [
        (AllDown::All, vec!["10.0.0.1"], "all-down"),
        (AllDown::LastGood, vec!["10.0.0.1"], "all-down"),
        (AllDown::Fallback, vec!["10.9.9.9"], "all-down"),
        (AllDown::Servfail, vec![], "all-down"),
        (AllDown::Forward, vec![], "all-down"),
    ] {
        let mut spec = spec("api.example", &["10.0.0.1", "2001:db8::1"]);
        Arc::make_mut(&mut spec.policy).when_all_down = rule;
        spec.fallback = vec![Host::Address("10.9.9.9".parse().unwrap())];
        let (mut world, net) = world(vec![spec]);
        world.run(seconds(5));
        assert_eq!(world.answer_of(0, Family::V6), ["2001:db8::1"]);
        set(&net, "2001:db8::1", refused());
        world.run(seconds(30));
        assert_eq!((world.plan(0, Family::V6), world.basis(0, Family::V6)), (&Plan::Empty, "empty"));
        assert_eq!(world.answer(), ["10.0.0.1"]);
        set(&net, "10.0.0.1", refused());
        world.run(seconds(30));
        assert_eq!(world.answer(), answers, "{rule:?}");
        assert_eq!(world.basis(0, Family::V6), v6_basis, "{rule:?}");
        match rule {
            AllDown::Servfail => assert_eq!(world.plan(0, Family::V4), &Plan::AllDown),
            AllDown::Forward => assert_eq!(world.plan(0, Family::V4), &Plan::Forward),
            AllDown::LastGood => assert_eq!(world.plan(0, Family::V6), &Plan::Empty),
            _ => assert!(matches!(world.plan(0, Family::V4), Plan::Addresses { stale: true, .. })),
        }
    }
}

#[test]
fn records_are_taken_as_there_is_room_and_none_waits_for_ever() {
    let names: Vec<String> = (0..5).map(|number| format!("n{number}.example")).collect();
    let specs = names.iter().zip(1..).map(|(name, last)| spec(name, &[&format!("10.0.0.{last}"), "10.0.1.1"]));
    let (mut world, _) = world(specs.collect());
    world.run(seconds(30));
    let everything = world.roster.take_records(usize::MAX);
    assert_eq!((everything.endpoints.len(), everything.answers.len()), (10, 10));
    assert!(!world.roster.has_records());
    // All change between two portions of one name: each has its turn, with what it is by then.
    let mut taken: Vec<String> = Vec::new();
    for _ in &names {
        world.run(seconds(15));
        assert!(world.roster.has_records());
        let portion = world.roster.take_records(1);
        assert_eq!(portion.endpoints.len(), 2, "a name is not taken by halves");
        assert!(portion.endpoints.iter().all(|record| world.now.since(record.last_check.unwrap()) < seconds(12)));
        taken.push(portion.endpoints[0].name.to_string());
    }
    taken.sort_unstable();
    assert_eq!(taken, names);
    assert!(world.roster.take_records(0).endpoints.is_empty() && world.roster.has_records());
}

#[test]
fn overrides_act_expire_and_mask() {
    let (mut world, net) = world(vec![spec("api.example", &["a.example", "10.0.0.2"])]);
    world.zone.insert("a.example".into(), found(&["10.0.0.1"]));
    set(&net, "10.0.0.1", ok(5.0));
    world.run(seconds(5));
    assert_eq!(world.answer(), ["10.0.0.1"]);
    let mut drain = row(1, OverrideKind::Drain, None, Some("A.example"));
    drain.expires_at = Some(world.now.after(seconds(60)));
    world.roster.set_overrides(vec![drain], world.now);
    world.settle();
    assert_eq!(world.answer(), ["10.0.0.2"]);
    let records = world.roster.take_records(usize::MAX);
    let record = records.endpoints.iter().find(|record| record.host.to_string() == "a.example").unwrap();
    assert_eq!(record.state, State::Up, "the real state stays visible");
    assert!(record.words().starts_with("drained until 20"), "{}", record.words());
    world.run(seconds(61));
    assert_eq!(world.answer(), ["10.0.0.1"], "it expired");
    assert!(world.events.iter().any(|event| event.kind == EventKind::Override && event.reason.contains("ends")));

    world.roster.set_overrides(vec![row(2, OverrideKind::Pin, Some("api.example"), Some("10.0.0.2"))], world.now);
    world.settle();
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.2".to_owned()], "pinned"));
    world.roster.set_overrides(vec![row(3, OverrideKind::Bypass, None, None)], world.now);
    world.settle();
    assert!(world.decisions[&0].bypass);
    set(&net, "10.0.0.1", refused());
    set(&net, "10.0.0.2", refused());
    world.roster.set_overrides(vec![row(4, OverrideKind::ForceUp, None, Some("10.0.0.2"))], world.now);
    world.run(seconds(60));
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.2".to_owned()], "ranked"));
    assert!(!world.decisions[&0].bypass);
}

#[test]
fn a_drain_record_drains_until_it_changes() {
    let mut api = spec("api.example", &["10.0.0.1", "10.0.0.2"]);
    api.drain_record = Some("drain.example".into());
    let (mut world, net) = world(vec![api]);
    set(&net, "10.0.0.1", ok(5.0));
    world.texts.insert("drain.example".into(), vec!["IP=10.0.0.1".to_owned(), "rubbish".to_owned()]);
    world.run(seconds(95));
    assert_eq!(world.answer(), ["10.0.0.2"]);
    let told = world.events.iter().filter(|event| event.reason.contains("rubbish")).count();
    assert_eq!(told, 1, "malformed strings are told of once");
    world.texts.clear();
    world.run(seconds(31));
    assert_eq!(world.answer(), ["10.0.0.1"]);
}

#[test]
fn addresses_come_go_and_are_kept() {
    let mut api = spec("api.example", &["a.example"]);
    api.resolve_hold = seconds(300);
    let (mut world, net) = world(vec![api]);
    world.run(seconds(3));
    assert_eq!(world.plan(0, Family::V4), &Plan::NotReady);
    world.zone.insert("a.example".into(), found(&["10.0.0.1"]));
    world.run(seconds(10));
    assert_eq!(world.answer(), ["10.0.0.1"]);
    assert_eq!((world.plan(0, Family::V6), world.basis(0, Family::V6)), (&Plan::Empty, "no-address"));
    set(&net, "10.0.0.2", ok(2.0));
    world.zone.insert("a.example".into(), found(&["10.0.0.2"]));
    world.run(seconds(100));
    assert_eq!(world.answer(), ["10.0.0.2"]);
    assert_eq!(world.roster.take_records(usize::MAX).removed.len(), 1);
    world.zone.clear();
    world.run(seconds(200));
    assert_eq!(world.answer(), ["10.0.0.2"], "kept while it is held");
    assert!(world.roster.take_records(usize::MAX).endpoints[0].stale);
    world.run(seconds(150));
    assert_eq!(world.plan(0, Family::V4), &Plan::NotReady);
}

#[test]
fn a_fault_of_this_host_is_held_and_ended_by_the_first_success() {
    let (mut world, net) = world(vec![spec("api.example", &["10.0.0.1", "10.0.0.2", "127.0.0.1"])]);
    set(&net, "10.0.0.1", ok(5.0));
    set(&net, "127.0.0.1", ok(20.0));
    world.run(seconds(60));
    set(&net, "10.0.0.1", timeout());
    set(&net, "10.0.0.2", timeout());
    world.run(seconds(40));
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "held"));
    assert!(matches!(world.plan(0, Family::V4), Plan::Addresses { stale: true, .. }));
    set(&net, "10.0.0.1", ok(5.0));
    set(&net, "10.0.0.2", ok(10.0));
    world.run(seconds(3));
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "ranked"));
    assert_eq!(world.events.iter().filter(|event| event.kind == EventKind::LocalFault).count(), 2);
    // Five minutes are the limit.
    set(&net, "10.0.0.1", timeout());
    set(&net, "10.0.0.2", timeout());
    world.run(seconds(360));
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["127.0.0.1".to_owned()], "ranked"));
}

#[test]
fn what_is_not_a_fault_of_this_host() {
    for case in ["one host", "refused", "upstream answers", "one server behind all names", "another proves the path"] {
        let names: &[&str] = match case {
            "one host" => &["a.example"],
            "one server behind all names" => &["a.example", "b.example", "c.example"],
            _ => &["a.example", "b.example"],
        };
        let (mut world, net) = world(vec![spec("api.example", names)]);
        world.zone.insert("a.example".into(), found(&["10.0.0.1", "2001:db8::1"]));
        let b = if case == "one server behind all names" {
            ["10.0.0.1", "2001:db8::1"]
        } else {
            ["10.0.0.2", "2001:db8::2"]
        };
        world.zone.insert("b.example".into(), found(&b));
        world.zone.insert("c.example".into(), found(&b));
        world.run(seconds(60));
        for address in ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"] {
            set(&net, address, timeout());
        }
        match case {
            "refused" => set(&net, "10.0.0.2", refused()),
            "another proves the path" => set(&net, "2001:db8::2", ok(1.0)),
            _ => {}
        }
        for _ in 0..400 {
            world.run(Duration::from_millis(100));
            if case == "upstream answers" {
                world.roster.upstream_answered(world.now);
            }
        }
        assert!(!world.events.iter().any(|event| event.kind == EventKind::LocalFault), "{case}");
        assert!(!world.roster.summary().local_fault, "{case}");
        assert!(world.roster.summary().down >= 2, "{case}");
    }
}

#[test]
fn a_warm_start_answers_at_once() {
    let specs = || vec![spec("api.example", &["a.example", "10.0.0.2"])];
    let (mut first, net) = world(specs());
    first.zone.insert("a.example".into(), found(&["10.0.0.1"]));
    set(&net, "10.0.0.1", ok(5.0));
    first.run(seconds(60));
    let records = first.roster.take_records(usize::MAX);
    let ended = first.now;
    for (pause, changed, fresh) in [(5, false, true), (3600, false, false), (5, true, false)] {
        let (mut world, net) = world(Vec::new());
        let mut specs = specs();
        if changed {
            for candidate in &mut specs[0].candidates {
                Arc::make_mut(&mut candidate.checks)[0].definition = "tcp:81".into();
            }
        }
        set(&net, "10.0.0.1", CheckResult { total: seconds(2), ..timeout() });
        world.zone.insert("a.example".into(), found(&["10.0.0.1"]));
        world.now = ended.after(seconds(pause));
        world.roster.configure(specs, world.now);
        world.roster.restore(&records.endpoints, &records.answers, world.now);
        world.settle();
        assert_eq!(world.answer(), ["10.0.0.1"], "after {pause} s");
        assert!(!world.decisions[&0].waiting);
        let basis = if fresh { "ranked" } else { "not-known-yet" };
        assert_eq!(world.basis(0, Family::V4), basis, "after {pause} s, changed: {changed}");
        assert!(world.events.is_empty(), "no news: {:?}", world.events);
        if !fresh {
            world.run(seconds(1));
            assert_eq!(world.answer(), ["10.0.0.1"], "the stored best keeps its place");
            world.run(seconds(2));
            assert_eq!(world.answer(), ["10.0.0.2"], "until its own first result");
        }
    }
}

#[test]
fn a_reload_keeps_what_did_not_change() {
    let (mut world, net) =
        world(vec![spec("api.example", &["10.0.0.1", "10.0.0.2"]), spec("old.example", &["10.0.0.3"])]);
    set(&net, "10.0.0.1", ok(5.0));
    world.run(seconds(60));
    let counts = |world: &mut World, address: &str| {
        let endpoints = &world.roster.names[world.roster.index["api.example"]].endpoints;
        endpoints.iter().find(|e| e.address.to_string() == address).map(|e| (e.health.state, e.health.window_len))
    };
    let before = counts(&mut world, "10.0.0.1").unwrap();
    assert!(before.1 > 3);
    let mut changed = spec("api.example", &["10.0.0.4", "10.0.0.1", "10.0.0.2"]);
    *Arc::make_mut(&mut changed.candidates[2].checks) = vec![check(7)];
    let mut other = spec("new.example", &["10.0.0.1"]);
    Arc::make_mut(&mut other.candidates[0].checks)[0].id = 1;
    world.roster.configure(vec![other, changed], world.now);
    assert_eq!(counts(&mut world, "10.0.0.1"), Some(before));
    assert_eq!(counts(&mut world, "10.0.0.2").unwrap().0, State::Unknown);
    assert_eq!(counts(&mut world, "10.0.0.4"), Some((State::Unknown, 0)));
    world.decisions.clear();
    world.settle();
    assert_eq!(world.decisions.len(), 2);
    assert_eq!(world.answer_of(1, Family::V4), ["10.0.0.1"]);
    let records = world.roster.take_records(usize::MAX);
    assert_eq!(records.removed_names, ["old.example".into()]);
    world.run(seconds(30));
    assert_eq!(world.answer_of(0, Family::V4), ["10.0.0.1"]);
    assert_eq!(world.roster.summary().unknown, 0);
    // A changed check of the one that is answered: it keeps its place.
    let mut again = spec("api.example", &["10.0.0.1", "10.0.0.2"]);
    *Arc::make_mut(&mut again.candidates[0].checks) = vec![check(9)];
    *Arc::make_mut(&mut again.candidates[1].checks) = vec![check(7)];
    set(&net, "10.0.0.1", CheckResult { total: seconds(1), ..refused() });
    world.roster.configure(vec![again], world.now);
    world.settle();
    assert_eq!(world.answer(), ["10.0.0.1"]);
    world.run(seconds(2));
    assert_eq!(world.answer(), ["10.0.0.2"]);
}

#[test]
fn several_checks_must_all_pass() {
    let mut api = spec("api.example", &["10.0.0.1"]);
    let mut second = api.candidates[0].checks[0].clone();
    (second.id, second.definition) = (2, "http".into());
    let first = api.candidates[0].checks[0].clone();
    api.candidates[0].checks = Arc::new(vec![first, second]);
    let good = Rc::new(RefCell::new(true));
    let seen = Rc::clone(&good);
    let script = move |_: IpAddr, check: u32, _: Time| match check {
        2 if !*seen.borrow() => refused(),
        2 => ok(99.0),
        _ => ok(5.0),
    };
    let mut world = World::new(vec![api], Box::new(script));
    world.run(seconds(30));
    assert_eq!(world.first_ms().map(f64::round), Some(5.0));
    *good.borrow_mut() = false;
    world.run(seconds(30));
    assert_eq!(world.roster.summary().down, 1);
}

#[test]
fn equal_checks_run_once_at_the_shortest_interval() {
    let mut slow = spec("slow.example", &["10.0.0.1"]);
    Arc::make_mut(&mut slow.pace).interval = seconds(60);
    let (mut world, _) = world(vec![slow, spec("api.example", &["10.0.0.1"])]);
    world.run(seconds(20));
    world.begun.clear();
    world.run(seconds(600));
    assert!((57..=63).contains(&world.begun.len()), "{}", world.begun.len());
    assert_eq!(world.roster.summary().up, 2);
}

#[test]
fn local_errors_change_nothing_and_silence_makes_unknown() {
    let (mut world, net) = world(vec![spec("api.example", &["10.0.0.1"])]);
    world.run(seconds(20));
    set(&net, "10.0.0.1", CheckResult { outcome: Outcome::LocalError, ..ok(1.0) });
    world.run(seconds(15));
    assert_eq!(world.roster.summary().up, 1);
    world.run(seconds(30));
    assert_eq!(world.roster.summary().unknown, 1);
    assert_eq!((world.answer(), world.basis(0, Family::V4)), (vec!["10.0.0.1".to_owned()], "not-known-yet"));
}

#[test]
fn idle_names_are_polled_less_until_asked() {
    let mut api = spec("api.example", &["10.0.0.1"]);
    Arc::make_mut(&mut api.pace).idle_after = seconds(60);
    let (mut world, _) = world(vec![api]);
    world.run(seconds(140));
    world.begun.clear();
    world.run(seconds(600));
    assert!((9..=12).contains(&world.begun.len()), "{}", world.begun.len());
    world.begun.clear();
    world.roster.asked(0, world.now, world.now);
    world.settle();
    assert_eq!(world.begun.len(), 1, "a query ends idleness at once");
    world.run(seconds(50));
    assert!((5..=8).contains(&world.begun.len()), "{}", world.begun.len());
}

#[test]
fn two_thousand_addresses_keep_their_pace() {
    let hosts: Vec<String> = (0..2000).map(|at| format!("10.1.{}.{}", at / 250, at % 250 + 1)).collect();
    let specs = hosts
        .iter()
        .map(|host| {
            let mut spec = spec(&format!("n{host}"), &[host]);
            Arc::make_mut(&mut spec.pace).interval = seconds(1);
            spec
        })
        .collect();
    let (mut world, _) = world(specs);
    world.run(seconds(3));
    world.begun.clear();
    world.run(seconds(10));
    let checks = world.begun.len();
    assert!((19_800..=20_200).contains(&checks), "{checks} checks in 10 s");
    assert_eq!(world.roster.summary().late_checks, 0);
    let mut by_tenth = [0usize; 100];
    for (at, _) in &world.begun {
        by_tenth[((at.since(START).as_millis() - 3000) / 100).min(99) as usize] += 1;
    }
    assert!(by_tenth.iter().all(|count| (100..300).contains(count)), "spread: {by_tenth:?}");
}

#[test]
fn lateness_is_counted_and_a_resume_checks_everything() {
    let (mut world, _) = world(vec![spec("api.example", &["10.0.0.1", "10.0.0.2"])]);
    world.run(seconds(30));
    world.begun.clear();
    world.roster.check_everything(world.now);
    world.settle();
    assert_eq!(world.begun.len(), 2);
    world.run(seconds(1));
    world.now = world.now.after(seconds(25));
    world.run(seconds(1));
    assert_eq!(world.roster.summary().late_checks, 2);
}

#[test]
fn what_runs_at_once_out_of_turn_is_never_late() {
    let (mut world, _) = world(vec![spec("api.example", &["10.0.0.1", "10.0.0.2"])]);
    // A host that is busy starting has a thread for the first round a while after it was due.
    world.now = START.after(Duration::from_millis(2500));
    world.run(seconds(60));
    world.roster.check_everything(world.now);
    world.now = world.now.after(Duration::from_millis(2500));
    world.run(seconds(5));
    assert_eq!((world.roster.summary().late_checks, world.roster.summary().up), (0, 2));
    world.run(seconds(60));
    world.now = world.now.after(seconds(25));
    world.run(seconds(1));
    assert_eq!(world.roster.summary().late_checks, 2, "in turn again");
}

#[test]
fn dual_stack_gives_the_faster_family() {
    let mut api = spec("api.example", &["10.0.0.1", "2001:db8::1"]);
    Arc::make_mut(&mut api.policy).dual_stack = crate::health::DualStack::Fastest;
    let (mut world, net) = world(vec![api]);
    set(&net, "10.0.0.1", ok(20.0));
    set(&net, "2001:db8::1", ok(10.0));
    world.run(seconds(60));
    assert_eq!(
        (world.plan(0, Family::V4), world.answer_of(0, Family::V6)),
        (&Plan::Empty, vec!["2001:db8::1".to_owned()])
    );
    set(&net, "10.0.0.1", ok(9.5));
    world.run(seconds(200));
    assert_eq!(world.plan(0, Family::V4), &Plan::Empty, "within the margin");
    set(&net, "2001:db8::1", refused());
    world.run(seconds(60));
    assert_eq!((world.answer(), world.plan(0, Family::V6)), (vec!["10.0.0.1".to_owned()], &Plan::Empty));
}

#[test]
fn a_mass_outage_costs_no_more_than_its_results() {
    let hosts: Vec<String> = (0..10_000).map(|at| format!("10.{}.{}.1", at / 250, at % 250)).collect();
    let specs = hosts.chunks(5).map(|five| {
        let five: Vec<&str> = five.iter().map(String::as_str).collect();
        spec(&format!("n{}", five[0]), &five)
    });
    let dead = Rc::new(RefCell::new(false));
    let seen = Rc::clone(&dead);
    let script = move |_: IpAddr, _: u32, _: Time| if *seen.borrow() { timeout() } else { ok(10.0) };
    let mut world = World::new(specs.collect(), Box::new(script));
    world.run(seconds(15));
    *dead.borrow_mut() = true;
    world.run(seconds(15));
    assert!(world.roster.summary().local_fault);
    assert!((0..2000).all(|name| world.basis(name, Family::V4) == "held"));
    *dead.borrow_mut() = false;
    world.run(seconds(5));
    assert_eq!((world.roster.summary().local_fault, world.roster.summary().up), (false, 10_000));
}

mod edges;
