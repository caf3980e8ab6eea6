//! When an address goes up and down, and what that is decided by.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::script::Script;
use crate::harness::{Backend, Har, Mode, har, missing, skip, wait_for};

/// One name with two candidates on one port, the first the faster.
fn names(port: u16, lines: &str) -> String {
    format!(
        "[names.\"api.example\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [\"127.0.0.2\", \"127.0.0.3\"]\n{lines}\n"
    )
}

fn two(lines: &str) -> (Har, Vec<Backend>) {
    two_apart(40, lines)
}

/// The second answers after so many milliseconds.
fn two_apart(slow: u64, lines: &str) -> (Har, Vec<Backend>) {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", slow)]);
    let har = har().names(&names(backends[0].port(), lines)).start();
    har.until_a("api.example", "127.0.0.2");
    (har, backends)
}

/// Waits until an address has this state in the state file.
#[track_caller]
fn until_state(har: &Har, address: &str, state: &str) {
    har.until_sql(&format!("SELECT state FROM address WHERE address = '{address}'"), |found| found == state);
}

#[test]
fn rise_and_fall_count_results_in_a_row() {
    let (har, backends) =
        two("interval = \"300ms\"\nfast_interval = \"200ms\"\ndown_interval = \"200ms\"\nfall = 5\nrise = 4");
    // Results alike in a row, up to the one that made it what it is; as they were recorded, since between two looks of this
    // test there may be more checks.
    let in_a_row = |state: &str, alike: &str| {
        let results = "FROM check_history WHERE address = '127.0.0.2'";
        format!(
            "SELECT (SELECT count(*) {results} AND {alike} AND at <= since AND id > \
             (SELECT max(id) {results} AND NOT ({alike}) AND at <= since)) \
             FROM (SELECT max(at) AS since FROM event WHERE kind = 'state' AND address = '127.0.0.2' AND after = '{state}')"
        )
    };
    backends[0].set(Mode::Reset);
    har.until_a("api.example", "127.0.0.3");
    until_state(&har, "127.0.0.2", "down");
    har.until_sql(&in_a_row("down", "outcome <> 'ok'"), |failures| failures == "5");
    backends[0].delay(1);
    har.until_a("api.example", "127.0.0.2");
    until_state(&har, "127.0.0.2", "up");
    har.until_sql(&in_a_row("up", "outcome = 'ok'"), |successes| successes == "4");
}

#[test]
fn an_address_that_fails_every_other_time_goes_down() {
    // Never twice in a row, so that `fall` alone would keep it; nor does it when a loaded machine lets more of them fail.
    let flapper = Script::start("127.0.0.2", |number, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        if number % 2 == 0 {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let har = har()
        .names(&format!(
            "[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"127.0.0.2\"]\n\
             interval = \"1s\"\nfast_interval = \"100ms\"\nrise = 1000\nfall = 1000\nmin_success = 0.6\n",
            flapper.port()
        ))
        .start();
    until_state(&har, "127.0.0.2", "down");
    assert!(flapper.connections() >= 10, "ten checks are the least to judge by: {}", flapper.connections());
    har.until_sql("SELECT count(*) FROM event WHERE kind = 'state' AND after = 'down'", |count| count == "1");
}

#[test]
fn from_unknown_the_first_result_decides() {
    let mut backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1)]);
    backends[0].close();
    let lines = "interval = \"1h\"\nfast_interval = \"1h\"\ndown_interval = \"1h\"\nrise = 1000\nfall = 1000";
    let har = har().names(&names(backends[1].port(), lines)).start();
    har.until_a("api.example", "127.0.0.3");
    until_state(&har, "127.0.0.2", "down");
    until_state(&har, "127.0.0.3", "up");
    assert_eq!(backends[1].connections(), 1, "one result was enough");
}

#[test]
fn the_pace_follows_the_state() {
    let good = Arc::new(AtomicBool::new(true));
    let answering = Arc::clone(&good);
    let server = Script::start("127.0.0.2", move |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        if answering.load(Ordering::SeqCst) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let har = har()
        .names(&format!(
            "[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"127.0.0.2\"]\nfall = 8\n\
             interval = \"1200ms\"\nfast_interval = \"100ms\"\ndown_interval = \"500ms\"\n",
            server.port()
        ))
        .start();
    let median = |first: usize, count: usize| {
        wait_for("more checks", || (server.gaps(first).len() >= count).then_some(()));
        let mut gaps = server.gaps(first)[..count].to_vec();
        gaps.sort();
        gaps[count / 2].as_millis()
    };
    let up = median(1, 3);
    good.store(false, Ordering::SeqCst);
    let failing = server.connections();
    wait_for("the first failure", || (server.connections() > failing).then_some(()));
    let wavering = median(failing, 6);
    until_state(&har, "127.0.0.2", "down");
    let down = median(server.connections(), 4);
    println!("up {up} ms, wavering {wavering} ms, down {down} ms");
    // Medians and wide bounds: a loaded machine delays single checks.
    assert!((1000..2400).contains(&up) && wavering < 400 && (400..1000).contains(&down), "{up}, {wavering}, {down}");
}

#[test]
fn several_checks_must_all_pass() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 40)]);
    let mut ports = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1)]);
    let text = format!(
        "[names.\"api.example\"]\ncheck = [\"http://{{host}}:{}/\", \"tcp:{}\"]\n\
         candidates = [\"127.0.0.2\", \"127.0.0.3\"]\ninterval = \"300ms\"\nfast_interval = \"200ms\"\n",
        backends[0].port(),
        ports[0].port()
    );
    let har = har().names(&text).start();
    har.until_a("api.example", "127.0.0.2");
    ports[0].close();
    har.until_a("api.example", "127.0.0.3");
    ports[0].open();
    har.until_a("api.example", "127.0.0.2");
}

#[test]
fn trouble_of_this_host_takes_no_candidate_down() {
    if let Some(reason) = missing(&["prlimit"]) {
        return skip(&reason);
    }
    let (har, backends) = two("interval = \"1s\"\nfast_interval = \"100ms\"\nwhen_all_down = \"servfail\"");
    until_state(&har, "127.0.0.2", "up");
    let limit = |limit: &str| {
        let pid = har.pid().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}")]).status();
        assert!(done.expect("prlimit starts").success());
    };
    // No new descriptor is to be had: what is open stays.
    limit("5:");
    har.until_sql("SELECT min(local_error) FROM address", |count| count.parse::<u64>().is_ok_and(|count| count >= 4));
    assert_eq!(har.a("api.example"), "127.0.0.2", "the order stays, without a rule for all down");
    assert_eq!(har.sql("SELECT count(*) FROM event WHERE kind = 'state' AND after = 'down'"), [["0"]]);
    limit("1000:");
    let checks = backends[1].connections();
    wait_for("checks again", || (backends[1].connections() > checks + 1).then_some(()));
    until_state(&har, "127.0.0.2", "up");
    assert_eq!(har.query("api.example", "A").extended_error(), None);
}

#[test]
fn old_state_orders_the_answers_and_is_no_outage() {
    let (mut har, backends) = two("interval = \"300ms\"\nfast_interval = \"300ms\"\nwhen_all_down = \"servfail\"");
    har.until_sql("SELECT address FROM ranking WHERE chosen", |address| address == "127.0.0.2");
    har.until_sql("SELECT count(*) FROM address WHERE latency_ms > 0", |count| count == "2");
    assert!(har.stop().success());
    for backend in &backends {
        backend.set(Mode::Hang);
    }
    // Older than three of the intervals that it was found out at; no check of this run ends while it is asked.
    std::thread::sleep(Duration::from_millis(1000));
    let lines = "interval = \"1h\"\nfast_interval = \"1h\"\ntimeout = \"10m\"\nwhen_all_down = \"servfail\"";
    har.rewrite_names(&names(backends[0].port(), lines));
    har.spawn();
    let reply = wait_for("a first reply", || {
        use crate::harness::dns::{encode, question, udp_within};
        let query = encode(&question("api.example", hickory_proto::rr::RecordType::A));
        udp_within(har.address(), &query, Duration::from_millis(500)).map(|bytes| crate::harness::Reply::read(&bytes))
    });
    assert_eq!((reply.first().as_str(), reply.extended_error()), ("127.0.0.2", Some(3)), "not known yet");
    assert!(har.becomes_ready());
}

#[test]
fn a_changed_check_and_a_new_address_are_no_outage() {
    let lines = "interval = \"30s\"\nfast_interval = \"30s\"\ntimeout = \"10s\"\nwhen_all_down = \"servfail\"";
    // The only measurement for a long time: on a busy machine, too, the first must come out as the faster.
    let (mut har, backends) = two_apart(1000, lines);
    let port = backends[0].port();
    for backend in &backends {
        backend.set(Mode::Hang);
    }
    let reload = |har: &Har, text: &str| {
        let ready = har.notify.count("READY=1");
        har.signal(Signal::SIGHUP);
        wait_for(text, || (har.notify.count("READY=1") > ready).then_some(()));
    };
    // A new candidate beside one that is up: nothing moves.
    har.rewrite_names(&names(port, lines).replace("[\"127.0.0.2\"", "[\"127.0.0.4\", \"127.0.0.2\""));
    reload(&har, "a new address");
    let reply = har.query("api.example", "A");
    assert_eq!((reply.first().as_str(), reply.extended_error()), ("127.0.0.2", None));
    // Another check of all of them: nothing is known, and that is not down.
    har.rewrite_names(&names(port, lines).replace("/\"", "/other\""));
    reload(&har, "a changed check");
    let reply = har.query("api.example", "A");
    assert_eq!((reply.first().as_str(), reply.extended_error()), ("127.0.0.2", Some(3)));
    for backend in &backends {
        backend.delay(1);
    }
}
