//! SIGTERM and SIGINT: queries under way are answered, the exit status is 0, nothing is left behind.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

use crate::harness::dns::{self, encode, question};
use crate::harness::{Behaviour, Reply, Upstream, har, wait_for};

#[test]
fn queries_under_way_are_answered_before_the_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let upstream = Upstream::start();
        upstream.addresses("slow.example", &["198.51.100.1"]);
        upstream.behave("slow.example", Behaviour::Delay(Duration::from_millis(200)));
        let mut har = har().upstream(&[&upstream]).start();
        let socket = dns::udp_socket(har.address());
        socket.send(&encode(&question("slow.example", RecordType::A))).unwrap();
        let mut tcp = har.tcp();
        tcp.send(&encode(&question("slow.example", RecordType::A)));
        wait_for("both queries upstream", || {
            let seen = upstream.seen("slow.example");
            (seen.iter().any(|seen| seen.tcp) && seen.iter().any(|seen| !seen.tcp)).then_some(())
        });
        har.signal(signal);
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{signal}: {error}"));
        assert_eq!(Reply::read(&buffer[..length]).first(), "198.51.100.1", "{signal}");
        assert_eq!(Reply::read(&tcp.receive().expect("a reply")).first(), "198.51.100.1", "{signal} TCP");
        assert_eq!(har.ended().code(), Some(0), "{signal}");
        drop(UdpSocket::bind(har.address()).expect("the port is free again"));
        drop(TcpListener::bind(har.address()).expect("the port is free again"));
        assert_eq!(har.notify.count("STOPPING=1"), 1, "{signal}");
    }
}

#[test]
fn a_query_that_never_ends_does_not_keep_it() {
    let upstream = Upstream::start();
    upstream.behave("dead.example", Behaviour::Drop);
    let mut har = har().upstream(&[&upstream]).start();
    let (socket, mut tcp) = (dns::udp_socket(har.address()), har.tcp());
    let query = encode(&question("dead.example", RecordType::A));
    socket.send(&query).unwrap();
    tcp.send(&query);
    wait_for("both queries upstream", || {
        let seen = upstream.seen("dead.example");
        (seen.iter().any(|seen| seen.tcp) && seen.iter().any(|seen| !seen.tcp)).then_some(())
    });
    assert_eq!(har.stop().code(), Some(0));
    // Nobody is left waiting.
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("a reply");
    for reply in [Reply::read(&buffer[..length]), Reply::read(&tcp.receive().expect("a reply"))] {
        assert_eq!((reply.rcode(), reply.extended_error()), (ResponseCode::ServFail, Some(23)));
    }
}

#[test]
fn a_start_is_broken_off() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut har = har().prepare();
        let held = har.spawn_held();
        har.signal(signal);
        assert_eq!(har.ended().code(), Some(0), "{signal}");
        drop(held);
    }
}

#[test]
fn the_state_file_is_one_file_after_a_clean_stop() {
    let mut har = har().names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]").start();
    assert_eq!(har.a("api.example"), "192.0.2.7");
    assert_eq!(har.stop().code(), Some(0));
    let files: Vec<_> =
        std::fs::read_dir(har.folder().join("state")).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["har.db"]);
}
