//! Floods and want: garbage among good queries, few descriptors, no upstream, memory that stays as it was.
//!
//! `HAR_FLOOD=10 cargo test --release flood` sends ten times as much.

use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::harness::daemon::BINARY;
use crate::harness::dns::{self, Tcp, encode, question};
use crate::harness::load::{Fast, Manner, load};
use crate::harness::{Har, har, wait_for};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]";

fn scale() -> u64 {
    std::env::var("HAR_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A daemon that asks this server.
fn asking(server: &Fast) -> crate::harness::daemon::Builder {
    har().upstream_lines(&format!("servers = [\"{}\"]", server.address())).names(NAMES)
}

/// Resident memory of the daemon, KiB.
fn resident(har: &Har) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", har.pid())).expect("it is running");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn good_queries_among_garbage_are_all_answered() {
    let upstream = Fast::start();
    let har = asking(&upstream).start();
    let socket = dns::udp_socket(har.address());
    let mut dice = 7_u64;
    let (mut garbage, begin) = (0, Instant::now());
    let packets = 20_000 * scale();
    while garbage < packets {
        for _ in 0..40 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let length = (dice >> 40) as usize % 120;
            let bytes: Vec<u8> = (0..length).map(|at| (dice >> (at % 56)) as u8 ^ at as u8).collect();
            let _ = socket.send(&bytes);
            garbage += 1;
        }
        // A client's resolver would ask again after a loss; here nothing may be lost.
        assert_eq!(har.a("api.example"), "192.0.2.7");
        if garbage % 400 == 0 {
            assert_eq!(har.a(&format!("n{garbage}.example")), "198.51.100.99");
        }
    }
    println!("{garbage} packets of garbage in {:?}", begin.elapsed());
    assert!(!har.log().contains("panicked"), "{}", har.log());
}

#[test]
fn memory_stays_flat_over_many_forwarded_queries() {
    let upstream = Fast::start();
    let har = asking(&upstream).start();
    let (warm, count) = (5_000, 10_000 * scale() as usize);
    assert_eq!(load(har.address(), 5_000, warm, |_| {}).lost, 0);
    let before = resident(&har);
    let measured = load(har.address(), 5_000 * scale().min(4), count, |_| {});
    let after = resident(&har);
    println!("{count} queries: {before} KiB before, {after} KiB after");
    assert_eq!((measured.lost, measured.failed), (0, 0));
    assert!(after < before + 4096, "{before} KiB before, {after} KiB after {count} queries");
}

#[test]
fn sixty_four_descriptors_are_enough_for_queries_in_a_crowd() {
    let upstream = Fast::start_at("127.0.0.1:0", Manner::Delay(Duration::from_millis(20)));
    let mut har = asking(&upstream).prepare();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$@\"", "sh", BINARY, "serve", "--config"]).arg(har.config_path());
    command.env("NOTIFY_SOCKET", har.notify.path());
    har.spawn_as(command);
    assert!(har.becomes_ready(), "{}", har.log());
    // More connections than there are descriptors, all of them idle.
    let crowd: Vec<Tcp> = (0..100).map(|_| har.tcp()).collect();
    let measured = load(har.address(), 300, 600, |_| {});
    assert_eq!((measured.lost, measured.failed), (0, 0), "forwarded over few sockets");
    assert_eq!(har.a("api.example"), "192.0.2.7");
    wait_for("a reply over TCP", || {
        let mut tcp = har.tcp();
        tcp.0.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        tcp.send(&encode(&question("api.example", RecordType::A)));
        let mut length = [0; 2];
        std::io::Read::read_exact(&mut tcp.0, &mut length).ok()
    });
    drop(crowd);
    // Fewer of them: everything as ever.
    assert_eq!(har.a("again.example"), "198.51.100.99");
}

#[test]
fn without_any_upstream_every_query_is_answered() {
    let mut nobody = Fast::start();
    nobody.close();
    let har = har()
        .upstream_lines(&format!("servers = [\"{}\"]\ntimeout = \"600ms\"", nobody.address()))
        .names(NAMES)
        .start();
    let measured = load(har.address(), 1_000, 500, |_| {});
    assert_eq!((measured.lost, measured.failed), (0, 500), "SERVFAIL each");
    assert_eq!(har.a("api.example"), "192.0.2.7");
    assert_eq!(har.query("x.example", "A").rcode(), ResponseCode::ServFail);
    nobody.open();
    har.until_a("back.example", "198.51.100.99");
}
