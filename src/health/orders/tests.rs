//! Orders in a scripted world: what is told of them, and what outlives a reload and a restart.

use super::*;
use crate::health::wall::WallClock;
use crate::health::world::{START, World, ok, refused, spec};
use crate::health::{AllDown, Family, Host, NameSpec};

fn world(specs: Vec<NameSpec>) -> World {
    let fast: IpAddr = "10.0.0.1".parse().unwrap();
    let mut world = World::new(specs, Box::new(move |address, _, _| ok(if address == fast { 5.0 } else { 10.0 })));
    world.run(Duration::from_secs(3));
    world.events.clear();
    world
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

fn told(world: &mut World) -> Vec<String> {
    world.settle();
    let events = std::mem::take(&mut world.events);
    events.into_iter().filter(|event| event.kind == EventKind::Override).map(|event| event.reason.to_string()).collect()
}

fn two() -> NameSpec {
    spec("api.example", &["10.0.0.1", "10.0.0.2"])
}

#[test]
fn an_order_about_nothing_is_told_of() {
    use OverrideKind::{Bypass, Drain, Pin};
    for (order, remark) in [
        (row(1, Drain, None, Some("10.0.0.1")), ""),
        (row(1, Drain, None, Some("::ffff:10.0.0.1")), ""),
        (row(1, Drain, None, Some("10.0.0.9")), " (no candidate has this address now)"),
        (row(1, Drain, None, Some("b.example")), " (no candidate is called so)"),
        (row(1, Drain, Some("web.example"), Some("10.0.0.1")), " (no configured name is called so)"),
        (row(1, Pin, Some("api.example"), Some("10.0.0.9")), " (an address that is no candidate's: unchecked)"),
        (row(1, Bypass, None, None), ""),
        (row(1, Bypass, Some("web.example"), None), " (no configured name is called so)"),
    ] {
        let mut world = world(vec![two()]);
        world.roster.set_overrides(vec![order.clone()], world.now);
        let lines = told(&mut world);
        assert!(
            lines.len() == 1 && lines[0].ends_with(&format!("begins, until undone{remark}")),
            "{order:?}: {lines:?}"
        );
    }
}

#[test]
fn a_row_that_changes_and_a_number_used_again_are_told_apart() {
    let mut world = world(vec![two()]);
    let mut order = row(1, OverrideKind::Drain, None, Some("10.0.0.1"));
    world.roster.set_overrides(vec![order.clone()], world.now);
    assert_eq!(told(&mut world), ["drain of 10.0.0.1 begins, until undone"]);
    order.reason = Some("disk".to_owned());
    world.roster.set_overrides(vec![order.clone()], world.now);
    assert_eq!(told(&mut world), ["drain of 10.0.0.1 is changed, until undone: disk"]);
    world.roster.set_overrides(vec![order], world.now);
    assert_eq!(told(&mut world), [""; 0]);
    world.roster.set_overrides(vec![row(1, OverrideKind::Drain, None, Some("10.0.0.2"))], world.now);
    assert_eq!(
        told(&mut world),
        ["drain of 10.0.0.1 ends, until undone: disk", "drain of 10.0.0.2 begins, until undone"]
    );
    assert_eq!(world.answer(), ["10.0.0.1"]);
}

#[test]
fn rows_that_make_no_sense_are_told_of_once() {
    let mut world = world(vec![two()]);
    for _ in 0..3 {
        world.roster.ignored_overrides(vec!["override 7 is ignored".to_owned()], world.now);
    }
    assert_eq!(told(&mut world), ["override 7 is ignored"]);
    world.roster.ignored_overrides(Vec::new(), world.now);
    world.roster.ignored_overrides(vec!["override 7 is ignored".to_owned()], world.now);
    assert_eq!(told(&mut world).len(), 1, "it was gone and came back");
}

#[test]
fn an_order_that_was_over_when_it_came_is_told_of_once() {
    let mut world = world(vec![two()]);
    world.roster.set_overrides(Vec::new(), world.now);
    let mut late = row(1, OverrideKind::Drain, None, Some("10.0.0.1"));
    late.expires_at = Some(Time(START.0 - 1000));
    for _ in 0..2 {
        world.roster.set_overrides(vec![late.clone()], world.now);
    }
    let lines = told(&mut world);
    assert!(
        lines.len() == 1 && lines[0].starts_with("drain of 10.0.0.1 was over when it came (times are UTC), until 20"),
        "{lines:?}"
    );
    assert_eq!(world.answer(), ["10.0.0.1"]);
    // Those that end in their time stay in the table until the writer comes to it.
    let mut ends =
        [row(2, OverrideKind::Drain, None, Some("10.0.0.1")), row(3, OverrideKind::Drain, None, Some("10.0.0.2"))];
    ends[0].expires_at = Some(world.now.after(Duration::from_secs(1)));
    ends[1].expires_at = Some(world.now.after(Duration::from_secs(2)));
    world.roster.set_overrides(ends.to_vec(), world.now);
    assert_eq!(told(&mut world).len(), 2, "both begin");
    world.run(Duration::from_secs(3));
    world.roster.set_overrides(ends.to_vec(), world.now);
    let lines = told(&mut world);
    assert!(lines.len() == 2 && lines.iter().all(|line| line.contains(" ends, until ")), "{lines:?}");
    world.roster.set_overrides(Vec::new(), world.now);
    world.roster.set_overrides(vec![late], world.now);
    assert_eq!(told(&mut world).len(), 1, "given again");
}

#[test]
fn a_row_for_one_name_holds_through_a_reload_and_is_told_of_when_its_name_goes() {
    let mut world = world(vec![two()]);
    world.roster.set_overrides(vec![row(1, OverrideKind::Drain, Some("web.example"), Some("10.0.0.1"))], world.now);
    told(&mut world);
    let web = || spec("web.example", &["10.0.0.1", "10.0.0.2"]);
    world.roster.configure(vec![web(), two()], world.now);
    world.run(Duration::from_secs(3));
    assert_eq!(world.answer_of(0, Family::V4), ["10.0.0.2"], "the row waited for its name");
    assert_eq!(world.answer_of(1, Family::V4), ["10.0.0.1"]);
    world.roster.configure(vec![web()], world.now);
    assert_eq!(world.roster.take_decisions(world.now)[0].families[0].plan.addresses().len(), 1);
    assert_eq!(told(&mut world), [""; 0]);
    for _ in 0..2 {
        world.roster.configure(vec![two()], world.now);
    }
    let line = "drain of 10.0.0.1 has no effect any more, until undone (no configured name is called so)";
    assert_eq!(told(&mut world), [line]);
}

#[test]
fn what_ended_while_har_did_not_run_is_told_of() {
    let mut world = World::new(vec![two()], Box::new(|_, _, _| ok(5.0)));
    let mut old = row(1, OverrideKind::Drain, None, Some("10.0.0.1"));
    (old.created_at, old.expires_at) = (Some(Time(START.0 - 9000)), Some(Time(START.0 - 1000)));
    let mut still = row(2, OverrideKind::Drain, None, Some("10.0.0.2"));
    still.created_at = Some(Time(START.0 - 9000));
    for _ in 0..2 {
        world.roster.set_overrides(vec![old.clone(), still.clone()], world.now);
    }
    let lines = told(&mut world);
    assert!(lines.len() == 1 && lines[0].contains("10.0.0.1 ended while har was not running"), "{lines:?}");
}

#[test]
fn a_bypass_is_in_the_record_of_the_answer() {
    let mut world = world(vec![two()]);
    world.roster.take_records(usize::MAX);
    world.roster.set_overrides(vec![row(1, OverrideKind::Bypass, None, None)], world.now);
    world.settle();
    let record = world.roster.take_records(usize::MAX).answers.into_iter().find(|a| a.family == Family::V4).unwrap();
    assert_eq!((&*record.basis, record.addresses.len()), ("bypass", 1));
    assert!(record.reason.starts_with("bypassed until undone: every query is forwarded; without that: "), "{record:?}");
    // A restart under the bypass does not take the bypass for the reason.
    let mut next = World::new(vec![two()], Box::new(|_, _, _| ok(5.0)));
    next.roster.restore(&[], std::slice::from_ref(&record), next.now);
    next.roster.set_overrides(vec![row(1, OverrideKind::Bypass, None, None)], next.now);
    next.settle();
    let again = next.roster.take_records(usize::MAX).answers.into_iter().find(|a| a.family == Family::V4).unwrap();
    assert_eq!(again.reason.matches("bypassed").count(), 1, "{}", again.reason);
    world.roster.set_overrides(Vec::new(), world.now);
    world.settle();
    let record = world.roster.take_records(usize::MAX).answers.into_iter().find(|a| a.family == Family::V4).unwrap();
    assert_eq!(record.basis, "ranked");
}

#[test]
fn what_ends_without_a_rank_before_is_told_as_such() {
    let answers = |world: &mut World| -> Vec<String> {
        world.settle();
        let events = std::mem::take(&mut world.events).into_iter();
        events.filter(|event| event.kind == EventKind::Answer).map(|event| event.reason.to_string()).collect()
    };
    let mut world = world(vec![two()]);
    let foreign = row(1, OverrideKind::Pin, Some("api.example"), Some("192.0.2.9"));
    world.roster.set_overrides(vec![foreign], world.now);
    assert_eq!(answers(&mut world), ["pinned to 192.0.2.9 until undone"]);
    world.roster.set_overrides(Vec::new(), world.now);
    assert_eq!(answers(&mut world), ["no longer pinned"]);

    let mut api = two();
    Arc::make_mut(&mut api.policy).when_all_down = AllDown::Fallback;
    api.fallback = vec![Host::Address("192.0.2.9".parse().unwrap())];
    let mut world = World::new(vec![two()], Box::new(|_, _, _| ok(5.0)));
    world.run(Duration::from_secs(3));
    let records = world.roster.take_records(usize::MAX).answers;
    assert_eq!(*records.iter().find(|record| record.family == Family::V4).unwrap().reason, *"10.0.0.1 is up");
    let mut world = World::new(vec![api], Box::new(|_, _, _| refused()));
    world.run(Duration::from_secs(20));
    assert_eq!(world.answer(), ["192.0.2.9"]);
    world.events.clear();
    world.roster.set_overrides(vec![row(1, OverrideKind::ForceUp, None, Some("10.0.0.2"))], world.now);
    assert_eq!(answers(&mut world), ["10.0.0.2 is held up by an override"]);
}

#[test]
fn an_order_ends_by_the_clock_that_it_was_written_by() {
    let hour = 3_600_000;
    let mut world = world(vec![two()]);
    let at_wall = |world: &World, ahead: i64| Time(world.now.0.saturating_add_signed(ahead));
    let drain = |end: Time| {
        let mut row = row(1, OverrideKind::Drain, None, Some("10.0.0.1"));
        row.expires_at = Some(end);
        vec![row]
    };
    // The clock was an hour ahead when har started, and was put right since.
    let wall = WallClock::showing(at_wall(&world, -hour), world.now);
    world.roster.set_wall_clock(wall, world.now);
    let end = at_wall(&world, -hour).after(Duration::from_secs(600));
    world.roster.set_overrides(drain(end), world.now);
    world.run(Duration::from_secs(590));
    assert_eq!(world.answer(), ["10.0.0.2"]);
    world.run(Duration::from_secs(20));
    assert_eq!(world.answer(), ["10.0.0.1"]);
    // It was a day behind: what ended in between ends with the step.
    let end = world.now;
    let behind = WallClock::showing(at_wall(&world, -24 * hour), world.now);
    world.roster.set_wall_clock(behind, world.now);
    world.roster.set_overrides(drain(end), world.now);
    world.settle();
    assert_eq!(world.answer(), ["10.0.0.2"]);
    world.roster.set_wall_clock(WallClock::default(), world.now);
    world.settle();
    assert_eq!(world.answer(), ["10.0.0.1"]);
}

#[test]
fn a_pinned_name_does_not_wait_for_its_first_check() {
    let mut world = World::new(vec![two()], Box::new(|_, _, _| ok(5.0)));
    world.roster.set_overrides(vec![row(1, OverrideKind::Pin, Some("api.example"), Some("10.0.0.2"))], world.now);
    world.settle();
    assert!(!world.decisions[&0].waiting);
    assert_eq!(world.answer(), ["10.0.0.2"]);
}

#[test]
fn a_pin_to_a_host_gives_what_is_neither_drained_nor_down() {
    let mut api = spec("api.example", &["a.example", "10.0.0.9"]);
    Arc::make_mut(&mut api.policy).answers = 4;
    let mut world = World::new(vec![api], Box::new(|_, _, _| ok(5.0)));
    world.zone.insert("a.example".into(), crate::health::world::found(&["10.0.0.1", "10.0.0.2"]));
    world.run(Duration::from_secs(3));
    let pin = row(1, OverrideKind::Pin, Some("api.example"), Some("a.example"));
    world.roster.set_overrides(vec![pin.clone()], world.now);
    world.settle();
    assert_eq!(world.answer(), ["10.0.0.1", "10.0.0.2"]);
    let drain = |id, address| row(id, OverrideKind::Drain, None, Some(address));
    world.roster.set_overrides(vec![pin.clone(), drain(2, "10.0.0.1")], world.now);
    world.settle();
    assert_eq!(world.answer(), ["10.0.0.2"]);
    world.roster.set_overrides(vec![pin, drain(2, "10.0.0.1"), drain(3, "10.0.0.2")], world.now);
    world.settle();
    assert_eq!(world.answer().len(), 2, "a pin for the name is more specific than a drain");
}

#[test]
fn what_a_drain_record_listed_stays_drained_over_a_restart() {
    let with_record = || {
        let mut api = two();
        api.drain_record = Some("drain.example".into());
        api
    };
    let mut first = World::new(vec![with_record()], Box::new(|_, _, _| ok(5.0)));
    first.texts.insert("drain.example".into(), vec!["IP=10.0.0.1 IpExpires=2033-11-14T22:13:20Z".to_owned()]);
    first.run(Duration::from_secs(3));
    let records = first.roster.take_records(usize::MAX);
    let mut second = World::new(vec![with_record()], Box::new(|_, _, _| ok(5.0)));
    second.roster.restore(&records.endpoints, &records.answers, second.now);
    let decision = second.roster.take_decisions(second.now);
    assert_eq!(
        *decision[0].families[0].plan.addresses(),
        ["10.0.0.2".parse::<IpAddr>().unwrap()],
        "before any look-up"
    );
    // The record says so no longer.
    second.run(Duration::from_secs(3));
    let drained = |world: &mut World| {
        world.roster.rewrite();
        world.roster.take_records(usize::MAX).endpoints.iter().filter(|endpoint| endpoint.drained.is_some()).count()
    };
    assert_eq!(drained(&mut second), 0);
    assert_eq!(told(&mut second), ["drain record drain.example now lists nothing"]);
    // While it cannot be looked up, what is remembered ends when its time is over.
    let mut third = World::new(vec![with_record()], Box::new(|_, _, _| ok(5.0)));
    third.now = Time(2_016_000_000_000);
    third.roster.restore(&records.endpoints, &records.answers, third.now);
    assert_eq!(drained(&mut third), 0);
}
