//! kill -9 at random moments under load: the file stays whole, and the next daemon answers at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use crate::harness::dns::{self, encode, question};
use crate::harness::{Backend, Har, Reply, har, namespace, wait_for};

const KILLS: u32 = 50;

/// Longest life of a daemon, milliseconds: from the middle of its start to some batches later.
const LONGEST_LIFE: u64 = 250;

/// A generator that gives the same lives each time (Knuth's MMIX constants).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Asks on and on until told to stop, whether anybody answers or not.
fn load(server: SocketAddr, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let socket = dns::udp_socket(server);
        let query = encode(&question("n1.example", RecordType::A));
        while !stop.load(Ordering::Relaxed) {
            let _ = socket.send(&query);
            std::thread::sleep(Duration::from_millis(1));
        }
    })
}

fn first_answer(har: &Har) -> Reply {
    wait_for("an answer", || {
        let query = encode(&question("n0.example", RecordType::A));
        dns::udp_within(har.address(), &query, Duration::from_millis(200)).map(|bytes| Reply::read(&bytes))
    })
}

#[test]
fn fifty_kills_leave_the_file_whole_and_the_next_start_answers() {
    // A network of its own, since nobody else may take the port between two lives.
    namespace::inside(&[], fifty_kills);
}

fn fifty_kills() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 30)]);
    let names: String = (0..20)
        .map(|number| {
            format!(
                "[names.\"n{number}.example\"]\ncheck = \"http://{{address}}:{}/{number}\"\n\
                 candidates = [\"127.0.0.3\", \"127.0.0.2\"]\ninterval = \"1s\"\nfast_interval = \"200ms\"\n",
                backends[0].port()
            )
        })
        .collect();
    let mut har = har().names(&names).start();
    har.until_a("n0.example", "127.0.0.2");
    har.until_sql("SELECT count(*) FROM answer WHERE addresses = '127.0.0.2'", |count| count == "20");
    let stop = Arc::new(AtomicBool::new(false));
    let asking = load(har.address(), &stop);
    let mut dice = Dice(20_261_121);
    for kill in 0..KILLS {
        std::thread::sleep(Duration::from_millis(dice.below(LONGEST_LIFE)));
        har.kill9();
        assert_eq!(har.sql("PRAGMA integrity_check"), [["ok"]], "after kill {kill}");
        let begin = Instant::now();
        har.spawn();
        if kill % 5 == 0 {
            let reply = first_answer(&har);
            assert_eq!(reply.first(), "127.0.0.2", "after kill {kill}: what was stored");
            assert!(begin.elapsed() < Duration::from_secs(20), "after kill {kill}: {:?}", begin.elapsed());
        }
    }
    stop.store(true, Ordering::Relaxed);
    asking.join().expect("it does not panic");
    assert!(har.becomes_ready(), "{}", har.log());
    assert!(!har.log().contains("damaged"), "{}", har.log());
    assert!(har.stop().success());
    assert_eq!(har.sql("PRAGMA integrity_check"), [["ok"]]);
    assert_eq!(har.sql("SELECT count(*) FROM address"), [["40"]]);
}
