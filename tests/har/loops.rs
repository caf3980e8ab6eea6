//! Upstreams that ask har: found, left out, said once, used again when they have mended their ways.

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

use crate::harness::daemon::free_port;
use crate::harness::dns::{encode, question, udp_within};
use crate::harness::load::{Fast, Manner};
use crate::harness::{Har, Reply, har, wait_for};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]";

/// A daemon whose servers are these, not started.
fn prepared(servers: &[&Fast]) -> Har {
    let list: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.address())).collect();
    let lines = format!("servers = [{}]\norder = \"listed\"\ntimeout = \"1s\"", list.join(", "));
    har().upstream_lines(&lines).names(NAMES).prepare()
}

fn start(har: &mut Har) {
    // Its port is known to the others already: it must not move.
    har.spawn();
    assert!(har.becomes_ready(), "{}", har.log());
}

#[track_caller]
fn until_said(har: &Har, times: usize) {
    wait_for("the line about the loop", || (har.log().matches("(a loop)").count() >= times).then_some(()));
    assert_eq!(har.log().matches("(a loop)").count(), times, "said once:\n{}", har.log());
}

/// What was on its way when the loop was found has been dealt with.
fn until_quiet(server: &Fast) {
    let mut last = (server.count(), Instant::now());
    wait_for("the storm to be over", || {
        let count = server.count();
        if count > last.0 + 2 {
            last = (count, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(400)).then_some(())
    });
}

/// A query whose reply does not matter: where thousands go round, one may get lost.
fn ask_in_the_storm(har: &Har, name: &str) {
    let query = encode(&question(name, RecordType::A));
    drop(udp_within(har.address(), &query, Duration::from_millis(1500)));
}

/// The loop is over: a forwarded query ends at once, and its kin come to the upstream only as tests.
#[track_caller]
fn fails_fast(har: &Har) {
    let query = encode(&question("round.example", RecordType::A));
    wait_for("the server to be left out", || {
        let begin = Instant::now();
        let reply = Reply::read(&udp_within(har.address(), &query, Duration::from_millis(1500))?);
        assert_eq!(reply.rcode(), ResponseCode::ServFail);
        (begin.elapsed() < Duration::from_millis(500) && reply.extended_error() == Some(23)).then_some(())
    });
}

#[test]
fn a_forwarder_that_asks_har_is_found_at_the_start_and_used_again_once_mended() {
    let forwarder = Fast::start();
    let mut har = prepared(&[&forwarder]);
    forwarder.set(Manner::Forward(har.address()));
    start(&mut har);
    until_said(&har, 1);
    fails_fast(&har);
    assert_eq!(har.a("api.example"), "192.0.2.7", "configured names go on");
    har.until_sql("SELECT note FROM upstream WHERE usable = 0", |note| note.contains("loop"));
    wait_for("the status line", || {
        har.notify.messages().iter().any(|message| message.contains("leads back to har")).then_some(())
    });
    // A reload tests again: still a loop, and no news.
    har.signal(Signal::SIGHUP);
    wait_for("the reload", || har.log().contains("loaded again").then_some(()));
    fails_fast(&har);
    until_said(&har, 1);

    forwarder.set(Manner::Answer);
    har.signal(Signal::SIGHUP);
    har.until_a("other.example", "198.51.100.99");
    har.until_sql("SELECT usable FROM upstream", |usable| usable == "1");
    har.until_log("it is used again");
}

#[test]
fn a_loop_is_found_however_many_servers_there_are() {
    let (general, route) = (Fast::start(), Fast::start());
    let closed: String = (1..=70).map(|n| format!("\"127.0.1.{n}:9\", ")).collect();
    let lines = format!(
        "servers = [{closed}\"{}\"]\ntimeout = \"1s\"\n[upstream.routes]\n\"corp.example\" = [\"{}\"]",
        general.address(),
        route.address()
    );
    let mut har = har().upstream_lines(&lines).names(NAMES).prepare();
    for server in [&general, &route] {
        server.set(Manner::Forward(har.address()));
    }
    start(&mut har);
    for server in [&general, &route] {
        let line = format!("the upstream {} sends", server.address());
        wait_for("the loop to be found", || har.log().contains(&line).then_some(()));
    }
    until_said(&har, 2);
}

#[test]
fn a_loop_that_begins_while_running_is_found() {
    let turncoat = Fast::start();
    let mut har = prepared(&[&turncoat]);
    start(&mut har);
    assert_eq!(har.a("before.example"), "198.51.100.99");
    turncoat.set(Manner::Forward(har.address()));
    // Queries go round now, until they expire and make har look.
    wait_for("the loop to be found", || {
        ask_in_the_storm(&har, "during.example");
        har.log().contains("(a loop)").then_some(())
    });
    fails_fast(&har);
    until_quiet(&turncoat);
    // What goes round already may outlast a silence of a loaded machine.
    wait_for("a hundred queries of which nothing goes there but tests", || {
        let before = turncoat.count();
        (0..100).for_each(|_| drop(har.query("after.example", "A")));
        (turncoat.count() <= before + 20).then_some(())
    });
}

#[test]
fn a_loop_beside_a_server_that_answers_is_found_while_running() {
    let (turncoat, good) = (Fast::start(), Fast::start());
    let mut har = prepared(&[&turncoat, &good]);
    start(&mut har);
    assert_eq!(har.a("before.example"), "198.51.100.99");
    turncoat.set(Manner::Forward(har.address()));
    let mut number = 0;
    wait_for("the loop to be found", || {
        number += 1;
        ask_in_the_storm(&har, &format!("n{number}.example"));
        har.log().contains("(a loop)").then_some(())
    });
    until_quiet(&turncoat);
    // What goes round already may outlast a silence of a loaded machine.
    let more = wait_for("twenty answers from the good server alone", || {
        let before = turncoat.count();
        let answered = (0..20).all(|_| har.a("after.example") == "198.51.100.99");
        let more = turncoat.count() - before;
        (answered && more <= 20).then_some(more)
    });
    println!("found after {number} queries; {more} more went round");
}

#[test]
fn a_loop_through_two_forwarders_is_found_and_the_good_server_is_used() {
    let (first, second, good) = (Fast::start(), Fast::start(), Fast::start());
    let mut har = prepared(&[&first, &good]);
    second.set(Manner::Forward(har.address()));
    first.set(Manner::Forward(second.address()));
    start(&mut har);
    until_said(&har, 1);
    har.until_a("other.example", "198.51.100.99");
    let before = first.count();
    for number in 0..100 {
        har.until_a(&format!("n{number}.example"), "198.51.100.99");
    }
    assert!(first.count() <= before + 20, "nothing goes there but tests");
}

#[test]
fn two_daemons_that_forward_to_each_other_end_the_loop() {
    let other = free_port(&["127.0.0.1".parse().unwrap()]);
    let mut one =
        har().upstream_lines(&format!("servers = [\"127.0.0.1:{other}\"]\ntimeout = \"1s\"")).names(NAMES).prepare();
    let mut two = har()
        .port(other)
        .upstream_lines(&format!("servers = [\"{}\"]\ntimeout = \"1s\"", one.address()))
        .names(NAMES)
        .prepare();
    start(&mut one);
    start(&mut two);
    // The second asks the first, which asks the second.
    until_said(&two, 1);
    for daemon in [&one, &two] {
        fails_fast(daemon);
        assert_eq!(daemon.a("api.example"), "192.0.2.7");
    }
    // Whoever else asks gets an answer, and the two have long stopped talking.
    let forwarded = |daemon: &Har| -> u64 {
        daemon.until_sql("SELECT sum(queries) FROM upstream", |sum| !sum.is_empty())[0][0].parse().unwrap()
    };
    assert!(forwarded(&two) < 100, "{}", forwarded(&two));
}

#[test]
fn candidates_are_not_looked_up_at_a_server_that_asks_har() {
    let (forwarder, good) = (Fast::start(), Fast::start());
    let mut har = prepared(&[&forwarder, &good]);
    forwarder.set(Manner::Forward(har.address()));
    har.rewrite_names(
        "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"host.example\"]\nresolve_interval = \"1s\"",
    );
    start(&mut har);
    until_said(&har, 1);
    har.until_a("api.example", "198.51.100.99");
}
