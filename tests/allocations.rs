//! Nothing is allocated for a query: not in the pure rooms, not in the event loop between real sockets.
//!
//! A program of its own, since its allocator counts what every thread of the process does, and without the test
//! runner, whose own threads allocate. Its clients and its upstream write into buffers that they have already, so that
//! nobody allocates but har.

#[expect(dead_code, reason = "shared with the benchmarks, which use the rest")]
#[path = "../benches/fixtures/mod.rs"]
mod fixtures;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use fixtures::forwarding::Forwarding as Forwarded;
use fixtures::framing::Framing;
use fixtures::names::{A, AAAA, Asking, HTTPS, Names, configured_name, query, table};
use har::os::{Clock, Notify, Signals, sockets};
use har::serve::counters::Totals;
use har::serve::upstream::{Route, Settings};
use har::serve::{Forwarding, Limits, Server, Setup, Table, Update, UpdateSender};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Queries counted; before them a tenth of that warms everything up.
const QUERIES: usize = 10_000;
/// Queries counted at a low rate, and from one to the next: below the rate at which ports are shared.
const RARE: (usize, Duration) = (500, Duration::from_millis(4));
/// Queries under way at a high rate, and in one write of a TCP client.
const BURST: usize = 32;
/// Runs at a low rate at most, until one is what all that follow are.
const ATTEMPTS: usize = 5;
/// Configured names of the served table.
const NAMES: usize = 10;

/// How often anything was allocated or grown meanwhile, by any thread.
fn allocations(work: impl FnOnce()) -> usize {
    let region = Region::new(COUNTED);
    work();
    let change = region.change();
    change.allocations + change.reallocations
}

/// Runs `turn` until it is warm, and then counts.
fn steady(turns: usize, mut turn: impl FnMut(usize)) -> usize {
    // Whatever is renewed by time is renewed once.
    (0..turns / 10).for_each(&mut turn);
    allocations(|| (turns / 10..turns / 10 + turns).for_each(&mut turn))
}

/// The one test.
const NAME: &str = "a_query_allocates_nothing";

/// As the test runner would have it: one word of the command line chooses, `--list` tells, the result is a line.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = words.is_empty() || words.iter().any(|word| NAME.contains(word.as_str()));
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    // A panic on the way ends the program, which cargo counts as a failure too.
    let failed = chosen && !a_query_allocates_nothing();
    let passed = chosen && !failed;
    println!(
        "test result: {}. {} passed; {} failed",
        if failed { "FAILED" } else { "ok" },
        u8::from(passed),
        u8::from(failed)
    );
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn a_query_allocates_nothing() -> bool {
    assert!(allocations(|| drop(std::hint::black_box(vec![1]))) > 0, "allocations are counted at all");
    let mut counted = pure();
    counted.extend(served());
    println!("allocations in {QUERIES} queries (at a low rate in {}):", RARE.0);
    for Counted { what, count, most } in &counted {
        println!("{count:>8}, at most {most:>2}: {what}");
    }
    counted.iter().all(|counted| counted.count <= counted.most)
}

/// One row of the result.
struct Counted {
    what: &'static str,
    count: usize,
    most: usize,
}

/// What must not allocate at all.
fn none(what: &'static str, count: usize) -> Counted {
    Counted { what, count, most: 0 }
}

/// What draws ports at random from a pool: when more queries than ever wait on one of them, its list grows and stays
/// that large. The longer it runs, the rarer that is; less than one in a thousand is what a short run can show.
fn rare(what: &'static str, count: usize) -> Counted {
    Counted { what, count, most: QUERIES / 1000 }
}

/// The pure rooms.
fn pure() -> Vec<Counted> {
    let local = |names, asking, rtype| {
        let mut names = Names::new(names, asking, rtype);
        steady(QUERIES, |_| _ = names.answer())
    };
    let forwarded = |window, rate| {
        let mut forwarding = Forwarded::new(window, rate);
        // Long enough that every port of the pool has been used and renewed.
        (0..10 * QUERIES).for_each(|_| _ = forwarding.turn());
        steady(QUERIES, |_| _ = forwarding.turn())
    };
    let mut framing = Framing::new();
    vec![
        none("answer, 10 names", local(10, Asking::Plain, A)),
        none("answer, 10,000 names", local(10_000, Asking::Plain, AAAA)),
        none("answer, wildcards", local(10, Asking::Wildcard, A)),
        none("empty answer to mixed case", local(10, Asking::MixedCase, HTTPS)),
        none("forward from fresh ports, one at a time", forwarded(0, 200)),
        none("forward from fresh ports, two at a time", forwarded(1, 200)),
        rare("forward from the pool", forwarded(64, 20_000)),
        none("TCP framing", steady(QUERIES, |_| _ = framing.turn())),
    ]
}

/// The event loop, between clients and an upstream on loopback.
fn served() -> Vec<Counted> {
    let upstream = Upstream::start();
    let served = Served::start(upstream.address);
    let mut clients = Clients::new(served.address);
    let local = query(&configured_name(1, Asking::Plain), A);
    let other = query("n0000000.forwarded.example", A);
    let mut fresh = other.clone();
    let many = |clients: &mut Clients, turn: usize| {
        clients.ask_many(&other, |at, query| number(query, turn * BURST + at));
    };
    let one = |clients: &mut Clients, turn: usize| {
        number(&mut fresh, turn);
        clients.ask(&fresh);
        std::thread::sleep(RARE.1);
    };
    let counted = vec![
        none("UDP, local", steady(QUERIES, |_| clients.ask(&local))),
        none("UDP, local, many at once", steady(QUERIES / BURST, |_| clients.ask_many(&local, |_, _| {}))),
        rare("UDP, forwarded, at a high rate", {
            // The pool grows by one port for each query at first, and each port's list with its use.
            (0..QUERIES / BURST * 5).for_each(|turn| many(&mut clients, turn));
            steady(QUERIES / BURST, |turn| many(&mut clients, turn))
        }),
        none("UDP, forwarded, at a low rate", {
            let mut one = one;
            // Until the pool is gone, which is a matter of time: the first of these may be too early.
            let mut run = || steady(RARE.0, |turn| one(&mut clients, turn));
            let first = run();
            (1..ATTEMPTS).fold(first, |least, _| if least == 0 { 0 } else { least.min(run()) })
        }),
        none("TCP, local, pipelined", steady(QUERIES / BURST, |_| clients.pipeline(&local))),
        none("TCP, forwarded, pipelined", steady(QUERIES / BURST, |_| clients.pipeline(&other))),
    ];
    served.stop();
    upstream.stop();
    counted
}

/// Makes a name that was not asked before of `n0000000`.
fn number(query: &mut [u8], mut number: usize) {
    for digit in query[14..21].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The library's server thread.
struct Served {
    address: SocketAddr,
    updates: UpdateSender,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Served {
    fn start(upstream: SocketAddr) -> Served {
        let settings = Settings {
            routes: vec![Route { suffix: String::new(), servers: vec![upstream], fastest: false }],
            timeout: Duration::from_secs(4),
            max_forwards: 4096,
            looping: Vec::new(),
        };
        let listener = sockets::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = listener.address;
        let setup = Setup {
            listeners: vec![listener],
            table: Table {
                snapshot: table(NAMES, Asking::Plain),
                forwarding: Forwarding { settings, source: None },
                limits: Limits { tcp_connections: 8, tcp_idle: PATIENCE },
            },
            totals: Arc::new(Totals::default()),
            clock: Clock::new(),
            signals: Signals::take_over().expect("signal handlers"),
            notify: Notify::none(),
            notices: Box::new(|_| {}),
        };
        let (server, updates) = Server::new(setup, Instant::now()).expect("a server");
        Served { address, updates, thread: std::thread::spawn(move || server.run()) }
    }

    fn stop(self) {
        self.updates.send(Update::Stop).expect("the loop runs");
        self.thread.join().expect("the loop does not panic").expect("the loop ends well");
    }
}

/// A server that answers every query without records.
struct Upstream {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Upstream {
    fn start() -> Upstream {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        let stopped = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !seen.load(Ordering::Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                buffer[2] |= 0x80;
                socket.send_to(&buffer[..length], peer).expect("loopback takes a datagram");
            }
        });
        Upstream { address, stopped, thread }
    }

    fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().expect("the upstream does not panic");
    }
}

/// Who asks, with buffers that are used again.
struct Clients {
    udp: UdpSocket,
    tcp: TcpStream,
    written: Vec<u8>,
    buffer: Vec<u8>,
}

impl Clients {
    fn new(server: SocketAddr) -> Clients {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        udp.connect(server).expect("loopback");
        udp.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let tcp = TcpStream::connect(server).expect("har accepts");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        tcp.set_nodelay(true).expect("no delay");
        Clients { udp, tcp, written: Vec::with_capacity(1 << 16), buffer: vec![0; 1 << 16] }
    }

    fn ask(&mut self, query: &[u8]) {
        self.udp.send(query).expect("loopback takes a datagram");
        self.receive();
    }

    fn receive(&mut self) {
        let length = self.udp.recv(&mut self.buffer).expect("an answer");
        assert!(length > 12 && self.buffer[3] & 0x0f == 0, "NOERROR: {:?}", &self.buffer[..length]);
    }

    /// [`BURST`] queries under way, each with its own id and changed by `vary`.
    fn ask_many(&mut self, query: &[u8], vary: impl Fn(usize, &mut [u8])) {
        for at in 0..BURST {
            self.written.clear();
            self.written.extend_from_slice(query);
            self.written[0] = at as u8;
            vary(at, &mut self.written);
            self.udp.send(&self.written).expect("loopback takes a datagram");
        }
        for _ in 0..BURST {
            self.receive();
        }
    }

    /// [`BURST`] queries in one write, and all their answers.
    fn pipeline(&mut self, query: &[u8]) {
        self.written.clear();
        for at in 0..BURST {
            self.written.extend_from_slice(&(query.len() as u16).to_be_bytes());
            let start = self.written.len();
            self.written.extend_from_slice(query);
            self.written[start] = at as u8;
        }
        self.tcp.write_all(&self.written).expect("har reads");
        for _ in 0..BURST {
            self.tcp.read_exact(&mut self.buffer[..2]).expect("an answer");
            let length = usize::from(u16::from_be_bytes([self.buffer[0], self.buffer[1]]));
            self.tcp.read_exact(&mut self.buffer[..length]).expect("a whole answer");
            assert_eq!(self.buffer[3] & 0x0f, 0, "NOERROR");
        }
    }
}
