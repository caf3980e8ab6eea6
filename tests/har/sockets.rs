//! Socket activation: passed sockets replace `listen`.
//!
//! A shell moves the sockets, which travel as standard input and output, to descriptors 3 and 4 and becomes
//! the daemon; so the process id of `LISTEN_PID` is right without any unsafe code here.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use hickory_proto::rr::RecordType;

use crate::harness::daemon::BINARY;
use crate::harness::dns::{self, Tcp, encode, question};
use crate::harness::{Har, Reply, har, wait_for};

const PASS: &str = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"";

/// The daemon with these sockets, not yet started.
fn passing(har: &Har, udp: UdpSocket, tcp: TcpListener) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", PASS, "sh", BINARY, "serve", "--config"]).arg(har.config_path());
    command.env("NOTIFY_SOCKET", har.notify.path());
    command.stdin(Stdio::from(OwnedFd::from(udp))).stdout(Stdio::from(OwnedFd::from(tcp)));
    command
}

fn names() -> Har {
    har().names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]").prepare()
}

#[test]
fn passed_sockets_are_served_and_listen_is_not_bound() {
    let mut har = names();
    let udp = UdpSocket::bind("127.0.0.5:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.5:0").unwrap();
    let (at_udp, at_tcp): (SocketAddr, SocketAddr) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let command = passing(&har, udp, tcp);
    har.spawn_as(command);
    assert!(har.becomes_ready(), "{}", har.log());
    let query = question("api.example", RecordType::A);
    assert_eq!(Reply::read(&dns::udp(at_udp, &encode(&query))).first(), "192.0.2.7");
    assert_eq!(Tcp::open(at_tcp).ask(&query).first(), "192.0.2.7");
    drop(UdpSocket::bind(har.address()).expect("`listen` is left alone"));
}

#[test]
fn without_a_number_of_passed_sockets_har_does_not_start() {
    let mut har = names();
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=abc exec \"$@\"", "sh", BINARY, "serve", "--config"]);
    command.arg(har.config_path());
    har.spawn_as(command);
    assert_eq!(har.ended().code(), Some(1));
    assert!(har.log().contains("LISTEN_FDS=abc is no number of passed sockets"), "{}", har.log());
}

#[test]
fn a_passed_socket_is_no_upstream() {
    let udp = UdpSocket::bind("127.0.0.5:0").unwrap();
    let tcp = TcpListener::bind(udp.local_addr().unwrap()).unwrap();
    let own = udp.local_addr().unwrap();
    let mut har = har().upstream_lines(&format!("servers = [\"{own}\"]")).prepare();
    let command = passing(&har, udp, tcp);
    har.spawn_as(command);
    assert_eq!(har.ended().code(), Some(1));
    wait_for("the reason", || {
        (har.log().contains(&own.to_string()) && har.log().contains("own listeners")).then_some(())
    });
}

#[test]
fn a_passed_socket_beyond_loopback_is_refused() {
    let mut har = names();
    let command = passing(&har, UdpSocket::bind("0.0.0.0:0").unwrap(), TcpListener::bind("127.0.0.5:0").unwrap());
    har.spawn_as(command);
    assert_eq!(har.ended().code(), Some(1));
    assert!(har.log().contains("0.0.0.0") && har.log().contains("loopback"), "{}", har.log());
}
