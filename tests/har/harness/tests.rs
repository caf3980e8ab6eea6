//! The scripted peers themselves, without the daemon: a test is worth what its peers are worth.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::dns::{self, Tcp, encode, question};
use super::{Backend, Behaviour, Mode, Reply, Upstream, namespace};

fn ask(upstream: &Upstream, name: &str) -> Reply {
    Reply::read(&dns::udp(upstream.address(), &encode(&question(name, RecordType::A))))
}

#[test]
fn the_upstream_answers_from_its_table() {
    let upstream = Upstream::start();
    upstream.addresses("a.example", &["192.0.2.1", "2001:db8::1"]).alias("alias.example", "a.example");
    assert_eq!(ask(&upstream, "a.example").first(), "192.0.2.1");
    assert_eq!(ask(&upstream, "alias.example").first(), "192.0.2.1");
    assert_eq!(ask(&upstream, "none.example").rcode(), ResponseCode::NXDomain);
    assert_eq!(Tcp::open(upstream.address()).ask(&question("a.example", RecordType::A)).first(), "192.0.2.1");
    let seen = upstream.seen("a.example");
    assert_eq!(seen.iter().map(|seen| seen.tcp).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn the_upstream_misbehaves_as_told() {
    let mut upstream = Upstream::start();
    upstream.addresses("a.example", &["192.0.2.1"]);
    let query = encode(&question("a.example", RecordType::A));
    let soon = Duration::from_millis(200);
    upstream.behave("a.example", Behaviour::DropFirst(1));
    assert_eq!(dns::udp_within(upstream.address(), &query, soon), None);
    assert_eq!(ask(&upstream, "a.example").first(), "192.0.2.1");
    upstream.behave("a.example", Behaviour::TruncateUdp);
    assert!(ask(&upstream, "a.example").message.metadata.truncation);
    upstream.behave("a.example", Behaviour::LiesFirst);
    assert_eq!(dns::udp(upstream.address(), &query), b"garbage");
    upstream.close();
    assert_eq!(dns::udp_within(upstream.address(), &query, soon), None);
    upstream.open();
    upstream.behave("a.example", Behaviour::Answer);
    assert_eq!(ask(&upstream, "a.example").first(), "192.0.2.1");
}

fn get(backend: &Backend) -> String {
    let Ok(mut stream) = TcpStream::connect((backend.address(), backend.port())) else { return "refused".to_owned() };
    stream.set_read_timeout(Some(Duration::from_millis(if backend.hangs() { 300 } else { 10_000 }))).unwrap();
    let _ = stream.write_all(b"GET /path HTTP/1.1\r\nHost: name.example\r\n\r\n");
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => "silence".to_owned(),
        _ => text.lines().next().unwrap_or("closed").to_owned(),
    }
}

#[test]
fn the_servers_answer_hang_reset_refuse_and_return() {
    let mut backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 0)]);
    assert_eq!(backends[0].port(), backends[1].port());
    let backend = &mut backends[0];
    assert_eq!(get(backend), "HTTP/1.1 200 scripted");
    assert_eq!(backend.requests()[0].line, "GET /path HTTP/1.1");
    assert_eq!(backend.requests()[0].host, "name.example");
    backend.set(Mode::Answer(503, Duration::ZERO));
    assert_eq!(get(backend), "HTTP/1.1 503 scripted");
    backend.set(Mode::Hang);
    assert_eq!(get(backend), "silence");
    backend.set(Mode::Reset);
    assert_eq!(get(backend), "closed");
    backend.close();
    assert_eq!(get(backend), "refused");
    backend.open();
    backend.delay(0);
    assert_eq!(get(backend), "HTTP/1.1 200 scripted");
    assert_eq!(get(&backends[1]), "HTTP/1.1 200 scripted");
}

#[test]
fn a_namespace_has_loopback_port_53_and_its_own_resolver_file() {
    namespace::inside(&[], || {
        assert_eq!(std::fs::read_to_string("/etc/resolv.conf").unwrap(), "nameserver 127.0.0.1\n");
        let interfaces: Vec<_> = std::fs::read_dir("/sys/class/net").unwrap().collect();
        assert!(!interfaces.is_empty());
        let socket = UdpSocket::bind("127.0.0.1:53").expect("port 53 is free and allowed");
        socket.connect("127.0.0.1:53").unwrap();
        socket.send(b"to itself").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 9);
    });
}

#[test]
fn a_failure_inside_a_namespace_is_a_failure_outside() {
    let fails = || namespace::inside(&[], || panic!("as it should"));
    if namespace::is_inside() {
        fails();
    }
    let ended = std::panic::catch_unwind(fails);
    assert!(ended.is_err() || ended.is_ok_and(|ran| !ran), "the failure got lost");
}
