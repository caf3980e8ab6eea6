//! This host's own network changes: addresses, routes, and the file that lists the servers. In a namespace each.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use crate::harness::dns::{self, encode, question};
use crate::harness::load::{Fast, Manner};
use crate::harness::{Har, Reply, har, namespace, wait_for};

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip starts");
    assert!(status.success(), "ip {arguments}");
}

/// A daemon whose only server is silent now, and the socket of a client that waits for `late.example`.
fn waiting(upstream: &Fast) -> (Har, std::net::UdpSocket) {
    let har = har().upstream_lines(&format!("servers = [\"{}\"]\ntimeout = \"15s\"", upstream.address())).start();
    upstream.set(Manner::Silent);
    let socket = dns::udp_socket(har.address());
    socket.send(&encode(&question("late.example", RecordType::A))).expect("loopback takes a datagram");
    (har, socket)
}

#[test]
fn a_change_of_addresses_or_routes_renews_the_sockets_and_answers_go_on() {
    namespace::inside(&["ip"], || {
        for change in ["addr add 10.77.0.1/32 dev lo", "route add 10.78.0.0/24 dev lo", "addr del 10.77.0.1/32 dev lo"]
        {
            let upstream = Fast::start();
            let (har, socket) = waiting(&upstream);
            // The waits double: once the last two transmissions are two seconds apart, the next one is four seconds away.
            let gap = || {
                let asked = upstream.asked();
                let [.., before, last] = asked.as_slice() else { return None };
                (last.at.duration_since(before.at) > Duration::from_millis(1800)).then_some(asked.len())
            };
            let sent = wait_for("a long wait between two transmissions", gap);
            upstream.set(Manner::Answer);
            let begin = Instant::now();
            ip(change);
            let mut buffer = [0; 2048];
            let length = socket.recv(&mut buffer).expect("an answer");
            let took = begin.elapsed();
            assert_eq!(Reply::read(&buffer[..length]).first(), "198.51.100.99");
            assert!(took < Duration::from_millis(2500), "{change}: {took:?}");
            println!("{change}: answered after {took:?}");
            let asked = upstream.asked();
            assert!(asked[..sent].iter().all(|old| old.port != asked[sent].port), "a fresh socket");
            drop(har);
        }
    });
}

#[test]
fn the_list_of_servers_is_followed_however_it_is_changed() {
    namespace::inside(&[], || {
        let servers: Vec<Fast> =
            (1..=3).map(|last| Fast::start_at(&format!("127.0.0.7{last}:53"), Manner::Answer)).collect();
        let har = har().port(53).ipv6().upstream_lines("resolv_conf = \"resolv.conf\"").prepare();
        let at = |name: &str| har.folder().join(name);
        let write = |path: &Path, last: u8| {
            std::fs::write(path, format!("# comment\nnameserver 127.0.0.1\nnameserver 127.0.0.7{last}\n")).unwrap();
        };
        write(&at("resolv.conf"), 1);
        let mut har = har;
        har.start();
        let at = |name: &str| har.folder().join(name);
        let asks = |number: usize, how: &str| {
            wait_for(&format!("server {number} after {how}"), || {
                let before = servers[number - 1].count();
                assert_eq!(har.a(&format!("{number}.example")), "198.51.100.99", "{how}");
                (servers[number - 1].count() > before).then_some(())
            });
        };
        asks(1, "the start");
        write(&at("resolv.conf"), 2);
        asks(2, "a rewrite");
        write(&at("new"), 3);
        std::fs::rename(at("new"), at("resolv.conf")).unwrap();
        asks(3, "a rename");
        write(&at("target-1"), 1);
        write(&at("target-2"), 2);
        symlink(at("target-1"), at("link")).unwrap();
        std::fs::rename(at("link"), at("resolv.conf")).unwrap();
        asks(1, "a rename of a link");
        symlink(at("target-2"), at("link")).unwrap();
        std::fs::rename(at("link"), at("resolv.conf")).unwrap();
        asks(2, "a swap of links");
        // Emptied, left with har alone, deleted: the last servers stay.
        for text in ["", "nameserver 127.0.0.1\n", "nameserver ::1\nsearch example\n"] {
            std::fs::write(at("target-2"), text).unwrap();
            let until = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < until {
                assert_eq!(har.a("kept.example"), "198.51.100.99");
            }
        }
        std::fs::remove_file(at("resolv.conf")).unwrap();
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            assert_eq!(har.a("kept.example"), "198.51.100.99");
        }
        // And a server on the list that asks har is found when the list changes.
        servers[2].set(Manner::Forward(har.address()));
        write(&at("resolv.conf"), 3);
        wait_for("the line about the loop", || har.log().contains("(a loop)").then_some(()));
        write(&at("resolv.conf"), 1);
        har.until_a("after.example", "198.51.100.99");
    });
}
