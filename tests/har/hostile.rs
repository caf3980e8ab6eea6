//! Strangers' packets and connections: never a crash, never another client's loss, no growth.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use hickory_proto::rr::RecordType;

use crate::harness::dns::{self, Tcp, encode, plain_question, question};
use crate::harness::{Har, Upstream, har, wait_for};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]";

/// Packets in one run; a few seconds' worth.
const PACKETS: u64 = 20_000;

/// Memory may grow by this much: buffers reach their size with the first packets, then nothing more.
const GROWTH_KIB: u64 = 16 * 1024;

/// SplitMix64: the same packets for the same seed.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }
}

/// Resident memory of the daemon, KiB.
fn resident(har: &Har) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", har.pid())).expect("it is running");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A packet that was a question once: bits turned, cut, or grown.
fn mutant(random: &mut Seeded) -> Vec<u8> {
    let name = ["api.example", "other.example", "_dns.resolver.arpa", "localhost"][random.below(4)];
    let kind = [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::HTTPS][random.below(4)];
    let mut bytes =
        if random.below(2) == 0 { encode(&question(name, kind)) } else { encode(&plain_question(name, kind)) };
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    match random.below(4) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => (0..random.below(600)).for_each(|_| bytes.push(random.next() as u8)),
        _ => {}
    }
    bytes
}

#[test]
fn mutated_packets_leave_the_daemon_as_it_was() {
    let seed = std::env::var("HAR_SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("HAR_SIM_SEED={seed}");
    let upstream = Upstream::start();
    let har = har().upstream(&[&upstream]).names(NAMES).start();
    let mut random = Seeded(seed);
    let socket = dns::udp_socket(har.address());
    let mut send = |count| {
        for number in 0..count {
            let _ = socket.send(&mutant(&mut random));
            if number % 64 == 0 {
                // In step with the daemon, so that the kernel drops little.
                assert_eq!(har.a("api.example"), "192.0.2.7");
            }
        }
    };
    send(PACKETS / 4);
    let before = resident(&har);
    send(PACKETS);
    let after = resident(&har);
    assert!(after < before + GROWTH_KIB, "{before} KiB before, {after} KiB after {PACKETS} packets");
    assert!(!har.log().contains("panicked"), "{}", har.log());
}

#[test]
fn hostile_tcp_clients_do_not_keep_others_out() {
    let upstream = Upstream::start();
    let har = har().upstream(&[&upstream]).server("tcp_connections = 16\ntcp_idle = \"500ms\"").names(NAMES).start();
    let query = question("api.example", RecordType::A);
    let bytes = encode(&query);
    let openings: [&[u8]; 6] = [
        b"",                                    // silence
        &[0],                                   // half a length
        &[0, 0],                                // an empty message
        &[0xff, 0xff, 1, 2, 3],                 // a promise that is not kept
        b"GET / HTTP/1.1\r\nHost: har\r\n\r\n", // another protocol
        &dns::framed(&bytes)[..10],             // the beginning of a query
    ];
    let mut crowd = Vec::new();
    for opening in openings.iter().cycle().take(60) {
        let mut stream = TcpStream::connect(har.address()).expect("a connection");
        let _ = stream.write_all(opening);
        crowd.push(stream);
        assert_eq!(har.a("api.example"), "192.0.2.7", "UDP goes on");
    }
    wait_for("a reply over TCP in the crowd", || {
        let mut tcp = Tcp::open(har.address());
        tcp.send(&bytes);
        tcp.receive().map(|_| ())
    });
    // The crowd is sent away: every one of its connections ends without a reply of the right shape.
    for stream in crowd {
        let mut tcp = Tcp(stream);
        tcp.0.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        while tcp.receive().is_some() {}
    }
}

#[test]
fn a_client_that_does_not_read_is_not_waited_for() {
    let names = {
        let many: Vec<String> = (1..=100).map(|i| format!("\"192.0.2.{i}\"")).collect();
        format!(
            "{NAMES}\n[names.\"many.example\"]\ncheck = \"none\"\nselect = \"all\"\ncandidates = [{}]",
            many.join(", ")
        )
    };
    let har = har().names(&names).start();
    let before = resident(&har);
    let mut greedy = TcpStream::connect(har.address()).unwrap();
    greedy.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let query = dns::framed(&encode(&question("many.example", RecordType::A)));
    // Until the daemon takes no more, or has been given 16,000 questions whose answers nobody fetches.
    let batch = query.repeat(16);
    for _ in 0..1_000 {
        if greedy.write_all(&batch).is_err() {
            break;
        }
    }
    assert_eq!(har.a("api.example"), "192.0.2.7");
    assert_eq!(har.tcp().ask(&question("api.example", RecordType::A)).first(), "192.0.2.7");
    let after = resident(&har);
    assert!(after < before + GROWTH_KIB, "{before} KiB before, {after} KiB after");
    let _ = greedy.shutdown(Shutdown::Both);
}
