//! Candidates that are names: looked up at the upstream, every address checked by itself.

use hickory_proto::op::ResponseCode;

use crate::harness::{Backend, Behaviour, Upstream, har, wait_for};

/// Short intervals, and candidates looked up every second.
const PACE: &str = "[defaults]\ninterval = \"200ms\"\nfast_interval = \"100ms\"\nresolve_interval = \"1s\"\n";

#[test]
fn of_several_addresses_the_dead_one_is_not_answered() {
    let backends = Backend::group(&[("127.0.0.3", 1)]);
    let upstream = Upstream::start();
    // Nothing listens on 127.0.0.2 at that port.
    upstream.addresses("pool.example", &["127.0.0.2", "127.0.0.3"]);
    let port = backends[0].port();
    let names =
        format!("{PACE}[names.\"api.example\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [\"pool.example\"]");
    let har = har().upstream(&[&upstream]).names(&names).start();
    har.until_a("api.example", "127.0.0.3");
    har.until_sql("SELECT state FROM ranking WHERE address = '127.0.0.2'", |state| state == "down");
    har.until_sql("SELECT state FROM ranking WHERE address = '127.0.0.3'", |state| state == "up");
    har.until_a("api.example", "127.0.0.3");
    // The address is pinned, the name of the candidate is what the server hears.
    assert_eq!(backends[0].requests()[0].host, format!("pool.example:{port}"));
}

#[test]
fn a_candidate_with_ipv6_alone_answers_aaaa_and_leaves_a_empty() {
    let backend = Backend::start("::1");
    let upstream = Upstream::start();
    upstream.addresses("six.example", &["::1"]);
    let names = format!(
        "{PACE}[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"six.example\"]",
        backend.port()
    );
    let har = har().upstream(&[&upstream]).names(&names).start();
    wait_for("AAAA ::1", || (har.query("api.example", "AAAA").first() == "::1").then_some(()));
    let reply = har.query("api.example", "A");
    assert_eq!((reply.rcode(), reply.addresses().len()), (ResponseCode::NoError, 0));
    assert!(reply.soa().is_some());
}

#[test]
fn a_candidate_may_be_the_name_itself() {
    let backends = Backend::group(&[("127.0.0.2", 60), ("127.0.0.3", 1)]);
    let upstream = Upstream::start();
    upstream.addresses("self.example", &["127.0.0.2", "127.0.0.3"]);
    let port = backends[0].port();
    let names =
        format!("{PACE}[names.\"self.example\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [\"self.example\"]");
    let har = har().upstream(&[&upstream]).names(&names).start();
    har.until_a("self.example", "127.0.0.3");
}

#[test]
fn an_alias_is_followed_and_a_truncated_look_up_goes_over_tcp() {
    let backends = Backend::group(&[("127.0.0.2", 1)]);
    let upstream = Upstream::start();
    upstream.alias("alias.example", "real.example").addresses("real.example", &["127.0.0.2"]);
    upstream.behave("alias.example", Behaviour::TruncateUdp);
    let port = backends[0].port();
    let names =
        format!("{PACE}[names.\"api.example\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [\"alias.example\"]");
    let har = har().upstream(&[&upstream]).names(&names).start();
    har.until_a("api.example", "127.0.0.2");
    assert!(upstream.seen("alias.example").iter().any(|seen| seen.tcp));
}

#[test]
fn addresses_stay_when_the_name_stops_resolving() {
    let backends = Backend::group(&[("127.0.0.2", 1)]);
    let upstream = Upstream::start();
    upstream.addresses("fading.example", &["127.0.0.2"]);
    let port = backends[0].port();
    let names = format!(
        "{PACE}[names.\"api.example\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [\"fading.example\"]"
    );
    let har = har().upstream(&[&upstream]).names(&names).start();
    har.until_a("api.example", "127.0.0.2");
    upstream.addresses("fading.example", &[]);
    let seen = upstream.seen("fading.example").len();
    wait_for("two more look-ups", || (upstream.seen("fading.example").len() >= seen + 4).then_some(()));
    let connections = backends[0].connections();
    wait_for("more checks", || (backends[0].connections() > connections + 1).then_some(()));
    assert_eq!(har.a("api.example"), "127.0.0.2");
}

#[test]
fn an_address_that_two_look_ups_leave_out_goes_and_a_new_one_comes() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1)]);
    let upstream = Upstream::start();
    upstream.addresses("moving.example", &["127.0.0.2"]);
    let port = backends[0].port();
    let names = format!(
        "{PACE}[names.\"api.example\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [\"moving.example\"]"
    );
    let har = har().upstream(&[&upstream]).names(&names).start();
    har.until_a("api.example", "127.0.0.2");
    upstream.addresses("moving.example", &["127.0.0.3"]);
    har.until_a("api.example", "127.0.0.3");
    har.until_sql("SELECT count(*) FROM ranking WHERE address = '127.0.0.2'", |count| count == "0");
}
