//! A restart answers from the state file at once, also after a kill, before any check is done.

use crate::harness::dns::{self, encode, question};
use crate::harness::{Backend, Har, Mode, Reply, har, wait_for};

use std::time::Duration;

use hickory_proto::rr::RecordType;

/// The fastest candidate is listed last: only what was learned puts it first.
fn start() -> (Har, Vec<Backend>) {
    let backends = Backend::group(&[("127.0.0.4", 80), ("127.0.0.3", 40), ("127.0.0.2", 5)]);
    let names = format!(
        "[names.\"api.example\"]\n\
         check = \"http://{{address}}:{}/\"\n\
         candidates = [\"127.0.0.4\", \"127.0.0.3\", \"127.0.0.2\"]\n\
         interval = \"300ms\"\n",
        backends[0].port()
    );
    let har = har().names(&names).start();
    har.until_a("api.example", "127.0.0.2");
    har.until_sql("SELECT count(*) FROM ranking WHERE chosen AND address = '127.0.0.2'", |count| count == "1");
    har.until_sql("SELECT count(*) FROM ranking WHERE latency_ms > 0", |count| count == "3");
    (har, backends)
}

/// The first reply of a daemon that is only just starting.
fn first_reply(har: &Har) -> Reply {
    wait_for("a first reply", || {
        let query = encode(&question("api.example", RecordType::A));
        dns::udp_within(har.address(), &query, Duration::from_millis(500)).map(|bytes| Reply::read(&bytes))
    })
}

#[test]
fn after_a_kill_the_first_answer_is_the_stored_one() {
    let (mut har, backends) = start();
    har.kill9();
    for backend in &backends {
        backend.set(Mode::Hang);
    }
    har.spawn();
    let reply = first_reply(&har);
    assert_eq!(reply.first(), "127.0.0.2", "no check can have ended: the servers hang");
    assert!(har.becomes_ready());
}

#[test]
fn after_a_stop_with_dead_servers_the_first_answer_is_the_stored_one() {
    let (mut har, mut backends) = start();
    assert!(har.stop().success());
    for backend in &mut backends {
        backend.close();
    }
    har.spawn();
    assert_eq!(first_reply(&har).first(), "127.0.0.2");
    assert!(har.becomes_ready());
}

#[test]
fn counters_go_on_where_they_were() {
    let (mut har, _backends) = start();
    assert!(har.stop().success());
    let total = "SELECT sum(checks) FROM ranking";
    let before: u64 = har.sql(total)[0][0].parse().unwrap();
    assert!(before >= 3);
    har.start();
    har.until_sql(total, |sum| sum.parse::<u64>().is_ok_and(|sum| sum > before));
}
