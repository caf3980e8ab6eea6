//! Every way of choosing, as clients see it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::script::Script;
use crate::harness::{Backend, Har, har, wait_for};

/// Fast enough for a test, slow enough for the slowest server here.
const PACE: &str = "[defaults]\ninterval = \"600ms\"\nfast_interval = \"200ms\"\ndown_interval = \"200ms\"\n";

/// A name with these candidates, checked over HTTP.
fn name(name: &str, port: u16, candidates: &[&str], lines: &str) -> String {
    let list: Vec<String> = candidates.iter().map(|candidate| format!("\"{candidate}\"")).collect();
    format!("[names.\"{name}\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [{}]\n{lines}\n", list.join(", "))
}

/// Candidates in their long form: address, priority, weight.
fn long(name: &str, check: &str, candidates: &[(&str, u32, u32)], lines: &str) -> String {
    let list: Vec<String> = candidates
        .iter()
        .map(|(host, priority, weight)| format!("{{ host = \"{host}\", priority = {priority}, weight = {weight} }}"))
        .collect();
    format!("[names.\"{name}\"]\ncheck = \"{check}\"\ncandidates = [{}]\n{lines}\n", list.join(", "))
}

/// How often each address came first in so many answers.
fn count(har: &Har, name: &str, queries: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..queries {
        *counts.entry(har.a(name)).or_default() += 1;
    }
    counts
}

/// Waits until the addresses answered are these, in any order.
#[track_caller]
fn until_all(har: &Har, name: &str, expected: &[&str]) {
    wait_for(&format!("{name}: {expected:?}"), || {
        let mut got: Vec<String> = har.query(name, "A").addresses().iter().map(ToString::to_string).collect();
        got.sort();
        (got == expected).then_some(())
    });
}

#[test]
fn hysteresis_keeps_an_answer_and_zero_follows_the_fastest() {
    let mut backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 100)]);
    // The sticky one would keep the slower if that were measured first.
    backends[1].close();
    let port = backends[0].port();
    let both = ["127.0.0.2", "127.0.0.3"];
    let names =
        name("eager.example", port, &both, "hysteresis = 0") + &name("sticky.example", port, &both, "hysteresis = 1");
    let har = har().names(&(PACE.replace("\"600ms\"", "\"1s\"") + &names)).start();
    har.until_a("eager.example", "127.0.0.2");
    har.until_a("sticky.example", "127.0.0.2");
    backends[1].open();
    har.until_sql("SELECT count(*) FROM address WHERE state = 'up'", |count| count == "4");
    backends[0].delay(400);
    har.until_a("eager.example", "127.0.0.3");
    // Both see the same samples: one has left, the other stays however much faster the other server is.
    let checks = backends[1].connections();
    wait_for("more checks", || (backends[1].connections() >= checks + 4).then_some(()));
    har.until_a("eager.example", "127.0.0.3");
    assert_eq!(har.a("sticky.example"), "127.0.0.2");
    // Down acts at once.
    backends[0].close();
    har.until_a("sticky.example", "127.0.0.3");
}

#[test]
fn a_latency_group_rotates_by_weight_and_loses_who_falls_behind() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1), ("127.0.0.4", 450)]);
    let check = format!("http://{{host}}:{}/", backends[0].port());
    let group = "select = \"latency-group\"\nwithin = \"200ms\"\nhysteresis = 0\n";
    let members = [("127.0.0.2", 1, 3), ("127.0.0.3", 1, 1), ("127.0.0.4", 1, 5)];
    let names = long("group.example", &check, &members, group);
    let har = har().names(&(PACE.to_owned() + &names)).start();
    wait_for("both members", || (count(&har, "group.example", 12).len() == 2).then_some(()));
    wait_for("three to one", || {
        let counts = count(&har, "group.example", 400);
        let of = |address: &str| counts.get(address).copied().unwrap_or(0);
        // The third is outside the group. A turn may begin anew when the ranking is published again.
        ((270..=330).contains(&of("127.0.0.2")) && of("127.0.0.2") + of("127.0.0.3") == 400).then_some(())
    });
    backends[1].delay(450);
    wait_for("the fast one alone", || (count(&har, "group.example", 12).get("127.0.0.2") == Some(&12)).then_some(()));
}

#[test]
fn a_host_keeps_its_share_and_a_change_moves_only_what_it_must() {
    let names = |candidates: &[&str]| {
        let list: Vec<String> = candidates.iter().map(|candidate| format!("\"{candidate}\"")).collect();
        let name = |at| format!("[names.\"n{at}.example\"]\ncandidates = [{}]\n", list.join(", "));
        let defaults = "[defaults]\ncheck = \"none\"\nselect = \"latency-group\"\nspread = \"host\"\n";
        (0..24).map(name).fold(defaults.to_owned(), |text, name| text + &name)
    };
    let mut har = har().names(&names(&["192.0.2.1", "192.0.2.2", "192.0.2.3"])).start();
    let answers = |har: &Har| (0..24).map(|at| har.a(&format!("n{at}.example"))).collect::<Vec<_>>();
    let before = answers(&har);
    assert_eq!(answers(&har), before, "each answer is the same");
    let mut used = before.clone();
    used.sort();
    used.dedup();
    assert!(used.len() > 1, "names differ in which one this host keeps: {before:?}");
    har.rewrite_names(&names(&["192.0.2.1", "192.0.2.3"]));
    har.signal(Signal::SIGHUP);
    wait_for("nobody on .2", || (!answers(&har).contains(&"192.0.2.2".to_owned())).then_some(()));
    for (before, after) in before.iter().zip(answers(&har)) {
        assert!(*before == after || before == "192.0.2.2", "{before} -> {after} without need");
    }
}

#[test]
fn round_robin_goes_by_weight() {
    let check = "none";
    let weights = [("192.0.2.1", 1, 3), ("192.0.2.2", 1, 1), ("192.0.2.3", 1, 0)];
    let names = long("robin.example", check, &weights, "select = \"round-robin\"")
        + &long("two.example", check, &weights[..2], "select = \"round-robin\"\nanswers = 2");
    let har = har().names(&names).start();
    let counts = count(&har, "robin.example", 400);
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("192.0.2.1".to_owned(), 300), ("192.0.2.2".to_owned(), 100)]);
    for _ in 0..8 {
        assert_eq!(har.query("two.example", "A").addresses().len(), 2, "the following members fill each answer");
    }
    assert_eq!(count(&har, "two.example", 40).get("192.0.2.2"), Some(&10));
}

#[test]
fn failover_follows_the_list_and_all_gives_every_fit_one() {
    let mut backends = Backend::group(&[("127.0.0.2", 150), ("127.0.0.3", 1), ("127.0.0.4", 60)]);
    let port = backends[0].port();
    let three = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let names = name("failover.example", port, &three, "select = \"failover\"")
        + &name("all.example", port, &three, "select = \"all\"")
        + &name("two.example", port, &three, "answers = 2\nhysteresis = 0");
    let har = har().names(&(PACE.to_owned() + &names)).start();
    har.until_a("failover.example", "127.0.0.2");
    until_all(&har, "all.example", &three);
    wait_for("the two fastest, best first", || {
        let two: Vec<String> = har.query("two.example", "A").addresses().iter().map(ToString::to_string).collect();
        (two == ["127.0.0.3", "127.0.0.4"]).then_some(())
    });
    backends[0].close();
    har.until_a("failover.example", "127.0.0.3");
    until_all(&har, "all.example", &three[1..]);
    backends[0].open();
    har.until_a("failover.example", "127.0.0.2");
    until_all(&har, "all.example", &three);
}

#[test]
fn tiers_join_as_equals_until_enough_are_fit() {
    let mut backends = Backend::group(&[("127.0.0.2", 150), ("127.0.0.3", 1)]);
    let check = format!("http://{{host}}:{}/", backends[0].port());
    let tiers = [("127.0.0.2", 1, 1), ("127.0.0.3", 2, 1)];
    let names = long("one.example", &check, &tiers, "min_up = 1")
        + &long("two.example", &check, &tiers, "min_up = 2\nhysteresis = 0");
    let har = har().names(&(PACE.to_owned() + &names)).start();
    har.until_a("one.example", "127.0.0.2");
    har.until_a("two.example", "127.0.0.3");
    backends[0].close();
    har.until_a("one.example", "127.0.0.3");
    backends[0].open();
    har.until_a("one.example", "127.0.0.2");
}

#[test]
fn what_is_over_max_latency_serves_when_nothing_else_is_up() {
    let mut backends = Backend::group(&[("127.0.0.2", 400), ("127.0.0.3", 1)]);
    let check = format!("http://{{host}}:{}/", backends[0].port());
    let tiers = [("127.0.0.2", 1, 1), ("127.0.0.3", 2, 1)];
    let names = long("api.example", &check, &tiers, "max_latency = \"200ms\"");
    let har = har().names(&(PACE.to_owned() + &names)).start();
    har.until_a("api.example", "127.0.0.3");
    backends[1].close();
    wait_for("the slow one, which is up: nothing about it is stale", || {
        let reply = har.query("api.example", "A");
        (reply.first() == "127.0.0.2" && reply.extended_error().is_none()).then_some(())
    });
    backends[1].open();
    har.until_a("api.example", "127.0.0.3");
    backends[0].delay(1);
    har.until_a("api.example", "127.0.0.2");
}

#[test]
fn with_too_few_fit_health_is_ignored() {
    let mut backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1), ("127.0.0.4", 1)]);
    let three = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let names = name("api.example", backends[0].port(), &three, "select = \"all\"\npanic_below = 0.5");
    let har = har().names(&(PACE.to_owned() + &names)).start();
    until_all(&har, "api.example", &three);
    backends[0].close();
    until_all(&har, "api.example", &three[1..]);
    backends[1].close();
    until_all(&har, "api.example", &three);
    har.until_sql("SELECT basis FROM answer WHERE family = 'A'", |basis| basis == "panic");
    backends[0].open();
    until_all(&har, "api.example", &[three[0], three[2]]);
}

#[test]
fn latency_is_that_of_the_connection_the_first_byte_or_the_whole() {
    const HEAD: Duration = Duration::from_millis(80);
    const BODY: Duration = Duration::from_millis(80);
    let server = Script::start("127.0.0.2", |_, mut stream| {
        // A client that breaks off is none of our concern.
        let _ = stream.read(&mut [0; 1024]);
        std::thread::sleep(HEAD);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n");
        std::thread::sleep(BODY);
        let _ = stream.write_all(b"ok\n");
    });
    let mut names = PACE.to_owned();
    for latency in ["connect", "first-byte", "total"] {
        names += &format!(
            "[names.\"{latency}.example\"]\ncandidates = [\"127.0.0.2\"]\nlatency = \"{latency}\"\n\
             check = {{ type = \"http\", url = \"http://{{host}}:{}/\", body = \"ok\" }}\n",
            server.port()
        );
    }
    let har = har().names(&names).start();
    // All three have the same samples, so that a slow machine moves them together; where one was read late, the next tells.
    har.until_sql("SELECT count(*) FROM address WHERE latency_ms > 0", |count| count == "3");
    wait_for("three latencies that are apart", || {
        let rows = har.sql("SELECT latency_ms FROM address ORDER BY name");
        let ms: Vec<f64> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
        let [connect, first_byte, total] = ms[..] else { return None };
        (first_byte - connect >= 60.0 && total - first_byte >= 60.0).then_some(())
    });
}
