//! Look-ups of candidates: how often, how long their addresses are kept, and one trouble at a time.

use crate::harness::{Backend, Behaviour, Har, Upstream, har, wait_for};

fn start(upstream: &Upstream, port: u16, lines: &str, hosts: &[&str]) -> Har {
    let name = |host: &&str| {
        format!(
            "[names.\"api-{host}\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [\"{host}\"]\n\
             interval = \"300ms\"\nfast_interval = \"200ms\"\n{lines}\n"
        )
    };
    har().upstream(&[upstream]).names(&hosts.iter().map(name).collect::<String>()).start()
}

/// Waits for so many more look-ups (of A and AAAA) of a host.
#[track_caller]
fn until_looked_up(upstream: &Upstream, host: &str, times: usize) {
    let before = upstream.seen(host).len();
    wait_for("look-ups", || (upstream.seen(host).len() >= before + 2 * times).then_some(()));
}

#[test]
fn a_short_ttl_and_a_short_interval_both_bring_a_look_up() {
    let backends = Backend::group(&[("127.0.0.2", 1)]);
    for (ttl, lines) in [(1, "resolve_interval = \"1h\""), (3600, "resolve_interval = \"1s\"")] {
        let upstream = Upstream::start();
        upstream.ttl(ttl).addresses("a.example", &["127.0.0.2"]);
        let har = start(&upstream, backends[0].port(), lines, &["a.example"]);
        har.until_a("api-a.example", "127.0.0.2");
        until_looked_up(&upstream, "a.example", 3);
    }
}

#[test]
fn what_stops_resolving_is_marked_kept_checked_and_dropped_when_the_hold_is_over() {
    let mut backends = Backend::group(&[("127.0.0.2", 1)]);
    let upstream = Upstream::start();
    upstream.addresses("a.example", &["127.0.0.2"]);
    let lines = "resolve_interval = \"1s\"\nresolve_hold = \"10s\"\nwhen_all_down = \"servfail\"";
    let har = start(&upstream, backends[0].port(), lines, &["a.example"]);
    har.until_a("api-a.example", "127.0.0.2");
    upstream.behave("a.example", Behaviour::Rcode(hickory_proto::op::ResponseCode::ServFail));
    har.until_sql("SELECT stale FROM address", |stale| stale == "1");
    assert_eq!(har.a("api-a.example"), "127.0.0.2", "kept");
    har.until_sql("SELECT error FROM candidate", |error| error.contains("error"));
    // Not dead for not resolving, but dead when its checks say so.
    backends[0].close();
    wait_for("the check of it", || (har.query("api-a.example", "A").extended_error() == Some(22)).then_some(()));
    wait_for("the end of the hold", || (har.query("api-a.example", "A").extended_error() == Some(14)).then_some(()));
    har.until_sql("SELECT count(*) FROM address", |count| count == "0");
    backends[0].open();
    upstream.behave("a.example", Behaviour::Answer);
    har.until_a("api-a.example", "127.0.0.2");
    har.until_sql("SELECT stale FROM address", |stale| stale == "0");
}

#[test]
fn a_host_that_is_never_answered_for_holds_up_no_other() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1)]);
    let upstream = Upstream::start();
    upstream.behave("bad.example", Behaviour::Drop);
    upstream.behave("odd.example", Behaviour::Raw(b"garbage".to_vec()));
    upstream.addresses("good.example", &["127.0.0.2"]);
    let hosts = ["bad.example", "odd.example", "good.example"];
    let har = start(&upstream, backends[0].port(), "resolve_interval = \"1s\"", &hosts);
    har.until_a("api-good.example", "127.0.0.2");
    upstream.addresses("good.example", &["127.0.0.3"]);
    har.until_a("api-good.example", "127.0.0.3");
    assert_eq!(har.query("api-bad.example", "A").extended_error(), Some(14), "no address is known yet");
    upstream.behave("bad.example", Behaviour::Answer).addresses("bad.example", &["127.0.0.2"]);
    har.until_a("api-bad.example", "127.0.0.2");
}

#[test]
fn a_family_that_is_never_answered_for_holds_up_the_other_no_longer_than_one_wait() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1)]);
    let upstream = Upstream::start();
    upstream.behave("a.example", Behaviour::DropAaaa).addresses("a.example", &["127.0.0.2"]);
    let har = start(&upstream, backends[0].port(), "resolve_interval = \"1s\"", &["a.example"]);
    har.until_a("api-a.example", "127.0.0.2");
    // The candidate is looked up when both families have come to their end, which here takes all the time there is.
    let before = "SELECT (SELECT min(at) FROM event WHERE kind = 'answer') < resolved_at FROM candidate";
    har.until_sql(before, |before| before == "1");
    upstream.addresses("a.example", &["127.0.0.3"]);
    har.until_a("api-a.example", "127.0.0.3");
    har.until_sql("SELECT reason FROM event WHERE reason LIKE '%gone: 127.0.0.2%'", |reason| !reason.is_empty());
}

#[test]
fn an_address_comes_as_unknown_beside_the_old_ones() {
    let backends = Backend::group(&[("127.0.0.2", 30), ("127.0.0.3", 1)]);
    backends[1].set(crate::harness::Mode::Hang);
    let upstream = Upstream::start();
    upstream.addresses("a.example", &["127.0.0.2"]);
    let lines = "resolve_interval = \"1s\"\nwhen_all_down = \"servfail\"";
    let har = start(&upstream, backends[0].port(), lines, &["a.example"]);
    har.until_a("api-a.example", "127.0.0.2");
    upstream.addresses("a.example", &["127.0.0.2", "127.0.0.3"]);
    har.until_sql("SELECT count(*) FROM address", |count| count == "2");
    assert_eq!(har.a("api-a.example"), "127.0.0.2");
    assert_eq!(har.sql("SELECT state FROM address WHERE address = '127.0.0.3' AND state = 'up'").len(), 0);
    har.until_sql("SELECT count(*) FROM event WHERE kind = 'resolution' AND reason LIKE '%new: 127.0.0.3%'", |n| {
        n == "1"
    });
    backends[1].delay(1);
    har.until_sql("SELECT state FROM address WHERE address = '127.0.0.3'", |state| state == "up");
}
