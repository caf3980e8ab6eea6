//! A and AAAA of one name: each by itself, and never a broken family while the other works.

use hickory_proto::op::ResponseCode;

use crate::harness::{Backend, Har, har, wait_for};

fn start(lines: &str, delays: (u64, u64)) -> (Har, Vec<Backend>) {
    let backends = Backend::group(&[("127.0.0.2", delays.0), ("::1", delays.1)]);
    let names = format!(
        "[names.\"api.example\"]\ncheck = \"http://{{address}}:{}/\"\ncandidates = [\"127.0.0.2\", \"::1\"]\n\
         interval = \"500ms\"\nfast_interval = \"200ms\"\ndown_interval = \"200ms\"\nttl = 3\n{lines}\n",
        backends[0].port()
    );
    (har().names(&names).start(), backends)
}

/// Waits until the answers for A and AAAA are these; empty = NOERROR without an address.
#[track_caller]
fn until(har: &Har, v4: &str, v6: &str) {
    wait_for(&format!("A {v4:?}, AAAA {v6:?}"), || {
        let replies = ["A", "AAAA"].map(|kind| har.query("api.example", kind));
        for reply in &replies {
            assert_eq!(reply.rcode(), ResponseCode::NoError, "never NXDOMAIN");
        }
        (replies[0].first() == v4 && replies[1].first() == v6).then_some(())
    });
}

#[test]
fn a_family_with_nothing_fit_is_empty_while_the_other_has_something() {
    let (har, mut backends) = start("", (1, 1));
    until(&har, "127.0.0.2", "::1");
    backends[1].close();
    until(&har, "127.0.0.2", "");
    let reply = har.query("api.example", "AAAA");
    let (owner, ttl, minimum) = reply.soa().expect("an SOA says for how long");
    assert_eq!((owner.to_ascii().as_str(), ttl, minimum), ("api.example.", 3, 3));
    // Both down: that is another rule.
    backends[0].close();
    until(&har, "127.0.0.2", "::1");
    assert_eq!(har.query("api.example", "AAAA").extended_error(), Some(3));
    backends[1].open();
    until(&har, "", "::1");
    backends[0].open();
    until(&har, "127.0.0.2", "::1");
    wait_for("answers that are not stale", || har.query("api.example", "A").extended_error().is_none().then_some(()));
}

#[test]
fn the_slower_family_gets_an_empty_answer_where_that_is_wanted() {
    let (har, backends) = start("dual_stack = \"fastest\"", (1, 150));
    until(&har, "127.0.0.2", "");
    backends[0].delay(300);
    until(&har, "", "::1");
    // The faster one fails: the other serves.
    let mut backends = backends;
    backends[1].close();
    until(&har, "127.0.0.2", "");
}
