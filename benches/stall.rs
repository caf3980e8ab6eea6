//! Two figures of the real binary under load: lateness of checks and time of local answers.
//!
//! 200 candidates accept and never answer; a healthy one is checked beside them. Printed are by how much the
//! healthy one's checks are further apart than their interval (promised: at most a tenth of it, beyond the
//! jitter of a tenth that is meant), and the 99th percentile of the time a local answer takes (promised: below
//! 1 ms on an idle machine). Nothing is asserted: `cargo bench --bench stall` is for eyes.

#[expect(dead_code, unused_imports, reason = "shared with the process tests, which use the rest")]
#[path = "../tests/har/harness/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use harness::dns::{encode, question, udp_socket};
use harness::{Backend, Mode, har};
use hickory_proto::rr::RecordType;

/// Candidates that accept and never answer.
const STALLED: usize = 200;

/// Between two checks of one address.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long is measured.
const LENGTH: Duration = Duration::from_secs(20);

fn main() {
    // `cargo test --benches` must not take half a minute.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let stalled = Backend::start("127.0.0.1");
    stalled.set(Mode::Hang);
    let healthy = Backend::start("127.0.1.1");
    let mut names = format!(
        "[defaults]\ninterval = \"{0}ms\"\nfast_interval = \"{0}ms\"\n\
         [names.\"healthy.example\"]\ncheck = \"http://{{host}}:{1}/\"\ncandidates = [\"127.0.1.1\"]\n",
        INTERVAL.as_millis(),
        healthy.port()
    );
    let candidates: Vec<String> = (1..=STALLED)
        .map(|number| {
            // One server on one address plays all of them: the address that is checked is another.
            let check = format!(
                "{{ type = \"http\", url = \"http://s{number}.example:{}/\", address = \"127.0.0.1\" }}",
                stalled.port()
            );
            format!("{{ host = \"127.0.2.{number}\", check = {check} }}")
        })
        .collect();
    names.push_str(&format!("[names.\"stalled.example\"]\ncandidates = [{}]\n", candidates.join(", ")));
    let har = har().names(&names).start();

    let socket = udp_socket(har.address());
    let query = encode(&question("healthy.example", RecordType::A));
    let mut buffer = [0; 2048];
    let (mut answers, mut checks) = (Vec::new(), Vec::new());
    let mut seen = healthy.connections();
    let begin = Instant::now();
    while begin.elapsed() < LENGTH {
        let sent = Instant::now();
        socket.send(&query).expect("loopback takes a datagram");
        socket.recv(&mut buffer).expect("an answer");
        answers.push(sent.elapsed());
        if healthy.connections() != seen {
            seen = healthy.connections();
            checks.push(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    answers.sort_unstable();
    let p99 = answers[answers.len() * 99 / 100];
    let late = checks.windows(2).map(|pair| (pair[1] - pair[0]).saturating_sub(INTERVAL)).max().unwrap_or(LENGTH);
    println!("{STALLED} stalled candidates, {} checks of them under way or ended", stalled.connections());
    println!("checks of the healthy one: {}, latest {late:?} after its interval of {INTERVAL:?}", checks.len());
    println!("local answers: {}, 99th percentile {p99:?}", answers.len());
}
