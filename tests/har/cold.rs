//! A start without any state: the first query waits for the first good check, at most 1 s.

use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use crate::harness::dns::{self, encode, question};
use crate::harness::{Backend, Har, Mode, Reply, har, wait_for};

/// One question, sent as soon as somebody listens; its only reply.
fn first_reply(har: &Har) -> Reply {
    let query = encode(&question("api.example", RecordType::A));
    wait_for("a first reply", || {
        // `None` at once while the port is closed.
        dns::udp_within(har.address(), &query, Duration::from_secs(10)).map(|bytes| Reply::read(&bytes))
    })
}

fn spawn(names: &str) -> Har {
    let mut har = har().names(names).prepare();
    har.spawn();
    har
}

/// A first reply that did not wait to the end of its second. On a loaded machine the checks may take longer than that:
/// then another daemon is asked.
#[track_caller]
fn first_reply_within_the_second(names: &str) -> Reply {
    wait_for("a first reply within a second", || {
        let begin = Instant::now();
        let reply = first_reply(&spawn(names));
        // Measured from before the start: what took less did not wait.
        (reply.extended_error() != Some(3) || begin.elapsed() < Duration::from_secs(1)).then_some(reply)
    })
}

#[test]
fn the_first_query_waits_for_a_healthy_candidate() {
    let backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 300)]);
    backends[0].set(Mode::Hang);
    let reply = first_reply_within_the_second(&format!(
        "[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"127.0.0.2\", \"127.0.0.3\"]",
        backends[0].port()
    ));
    assert_eq!((reply.first().as_str(), reply.extended_error()), ("127.0.0.3", None));
}

#[test]
fn it_does_not_wait_for_ever() {
    let backend = Backend::start("127.0.0.2");
    backend.set(Mode::Hang);
    let har = spawn(&format!(
        "[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"127.0.0.2\"]\ninterval = \"1h\"\ntimeout = \"10m\"",
        backend.port()
    ));
    let reply = first_reply(&har);
    assert_eq!((reply.first().as_str(), reply.extended_error()), ("127.0.0.2", Some(3)), "what is known by then");
}

#[test]
fn it_does_not_wait_when_all_have_failed() {
    let mut backend = Backend::start("127.0.0.2");
    backend.close();
    let reply = first_reply_within_the_second(&format!(
        "[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"127.0.0.2\"]\nwhen_all_down = \"servfail\"",
        backend.port()
    ));
    assert_eq!(reply.extended_error(), Some(22), "all down");
}

#[test]
fn without_an_address_it_is_not_ready() {
    // The upstream of the harness is a closed port: the candidate never resolves.
    let har = spawn("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"nowhere.example\"]");
    assert_eq!(first_reply(&har).extended_error(), Some(14));
}
