//! The main job: the fastest healthy candidate is answered, and what happens when it is no longer that.

use hickory_proto::op::ResponseCode;

use crate::harness::{Backend, Har, Mode, Upstream, har};

/// Fast enough for a test, slow enough for a server of 200 ms.
const PACE: &str = "[defaults]\ninterval = \"500ms\"\nfast_interval = \"200ms\"\ndown_interval = \"200ms\"\n";

/// One name for each way of `when_all_down`; the candidates listed slowest first.
fn names(port: u16) -> String {
    let mut text = PACE.to_owned();
    for way in ["all", "last-good", "forward", "servfail", "fallback"] {
        text.push_str(&format!(
            "[names.\"{way}.example\"]\n\
             check = \"http://{{address}}:{port}/healthz\"\n\
             candidates = [\"127.0.0.4\", \"127.0.0.3\", \"127.0.0.2\"]\n\
             when_all_down = \"{way}\"\n"
        ));
        if way == "fallback" {
            text.push_str("fallback = [\"192.0.2.99\"]\n");
        }
    }
    text
}

fn start() -> (Har, Vec<Backend>, Upstream) {
    let backends = Backend::group(&[("127.0.0.2", 5), ("127.0.0.3", 40), ("127.0.0.4", 80)]);
    let upstream = Upstream::start();
    upstream.addresses("forward.example", &["198.51.100.7"]);
    let har = har().upstream(&[&upstream]).names(&names(backends[0].port())).start();
    har.until_a("all.example", "127.0.0.2");
    (har, backends, upstream)
}

#[test]
fn a_server_that_becomes_slow_loses_its_place_within_five_checks() {
    let (har, backends, _upstream) = start();
    backends[0].delay(200);
    har.until_a("all.example", "127.0.0.3");
    // As they were recorded: between two looks of this test there may be more checks.
    let results = "FROM check_history WHERE address = '127.0.0.2' AND outcome = 'ok' AND at <= event.at AND total_ms";
    let slow = format!(
        "SELECT (SELECT count(*) {results} >= 200 AND id > (SELECT max(id) {results} < 200)) FROM event WHERE kind = 'answer' \
         AND name = 'all.example' AND after = '127.0.0.3' AND before = '127.0.0.2' ORDER BY id DESC LIMIT 1"
    );
    let checks: u64 = har.until_sql(&slow, |_| true)[0][0].parse().unwrap();
    assert!(checks <= 5, "it took {checks} checks");
}

#[test]
fn a_server_that_stops_is_never_answered_again_after_fall_failures() {
    let (har, backends, _upstream) = start();
    backends[0].set(Mode::Reset);
    har.until_a("all.example", "127.0.0.3");
    let asked = backends[0].connections();
    // Checks of the dead one go on; none of the answers meanwhile is it.
    while backends[0].connections() < asked + 5 {
        assert_ne!(har.a("all.example"), "127.0.0.2");
    }
    har.until_sql("SELECT state FROM ranking WHERE name = 'all.example' AND address = '127.0.0.2'", |s| s == "down");
    // As they were recorded: between two looks of this test there may be more checks.
    let results = "FROM check_history WHERE address = '127.0.0.2' AND at <= since AND outcome";
    let failures = format!(
        "SELECT (SELECT count(*) {results} <> 'ok' AND id > (SELECT max(id) {results} = 'ok')) FROM (SELECT max(at) AS since \
         FROM event WHERE kind = 'state' AND name = 'all.example' AND address = '127.0.0.2' AND after = 'down')"
    );
    har.until_sql(&failures, |failures| failures == "3");
}

#[test]
fn a_refused_port_is_not_fast() {
    let (har, mut backends, _upstream) = start();
    backends[0].close();
    har.until_a("all.example", "127.0.0.3");
    backends[0].open();
    har.until_a("all.example", "127.0.0.2");
}

#[test]
fn all_down_has_five_ways_and_the_ranking_returns() {
    let (har, mut backends, _upstream) = start();
    har.until_a("last-good.example", "127.0.0.2");
    for backend in &mut backends {
        backend.close();
    }
    har.until_a("fallback.example", "192.0.2.99");
    har.until_a("forward.example", "198.51.100.7");

    let reply = har.query("all.example", "A");
    assert_eq!(reply.addresses().len(), 3, "every known address");
    assert_eq!(reply.first(), "127.0.0.2", "the best known first");
    assert_eq!(reply.extended_error(), Some(3), "stale answer");
    let reply = har.query("last-good.example", "A");
    // The three fall one after the other: the last good answer is the one of the last that stood.
    let answered = reply.first().to_string();
    har.until_sql("SELECT last_good FROM answer WHERE name = 'last-good.example' AND family = 'A'", |good| {
        good == answered
    });
    assert_eq!(reply.addresses().len(), 1);
    assert_eq!(reply.extended_error(), Some(3));
    let reply = har.query("servfail.example", "A");
    assert_eq!((reply.rcode(), reply.extended_error()), (ResponseCode::ServFail, Some(22)));

    for backend in &mut backends {
        backend.open();
    }
    for way in ["all", "last-good", "forward", "servfail", "fallback"] {
        har.until_a(&format!("{way}.example"), "127.0.0.2");
    }
    let reply = har.query("all.example", "A");
    assert_eq!((reply.addresses().len(), reply.extended_error()), (1, None));
}

#[test]
fn equal_checks_of_several_names_run_once() {
    let (har, backends, _upstream) = start();
    har.until_sql("SELECT min(checks) FROM ranking WHERE address = '127.0.0.2'", |n| {
        n.parse::<u64>().unwrap_or(0) >= 5
    });
    let rows = har.sql("SELECT max(checks) FROM ranking WHERE address = '127.0.0.2'");
    let checks: usize = rows[0][0].parse().unwrap();
    let connections = backends[0].connections();
    // Five names with checks of their own would make five times as many; the state file may be 5 s late.
    assert!(connections < 3 * checks + 15, "{connections} connections for {checks} checks of each name");
}

#[test]
fn the_change_of_an_answer_is_an_event_and_a_line_in_the_log() {
    let (har, backends, _upstream) = start();
    backends[0].set(Mode::Answer(503, std::time::Duration::ZERO));
    har.until_a("all.example", "127.0.0.3");
    har.until_sql(
        "SELECT count(*) FROM event WHERE kind = 'answer' AND name = 'all.example' AND after LIKE '%127.0.0.3%'",
        |count| count != "0",
    );
    har.until_log("all.example A");
}
