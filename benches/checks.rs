//! Many checks beside the serving of answers: what they cost, what they do to answers, and how fast a result is one.
//!
//! 1,000 addresses of the loopback net are checked every second, over TCP and over HTTP, and every result is kept.
//! Printed are the processor time of every thread but the one that serves (promised: below 15 % of a core for TCP,
//! 30 % for HTTP) and the percentiles of local answers, beside those of a har that checks nothing (promised: 99.9 %
//! below twice as long; both run in turns, so that what else the machine does meets both). Then one name of 10,000
//! changes its address: the time from the server's reply to a check until the first answer with the other address
//! (promised: below 1 ms). Nothing is asserted: `cargo bench --bench checks` is for eyes. `HAR_BIN=path` measures
//! another binary.

#[expect(dead_code, unused_imports, reason = "shared with the process tests, which use the rest")]
#[path = "../tests/har/harness/mod.rs"]
mod harness;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::dns::{Reply, encode, question, udp_socket};
use harness::{Har, har};
use hickory_proto::rr::RecordType;
use nix::time::{clock_getcpuclockid, clock_gettime};

/// Names, each with so many addresses.
const NAMES: usize = 200;
const ADDRESSES: usize = 5;
/// How long each turn is measured, and how many turns.
const TURN: Duration = Duration::from_secs(5);
const TURNS: usize = 4;
/// Names beside the one that changes, and how often it does.
const MANY: usize = 10_000;
const CHANGES: usize = 100;

fn main() {
    // `cargo test --benches` must not take a minute.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let server = Server::start();
    for scheme in ["tcp", "http"] {
        many_checks(scheme, server.port);
    }
    publishing(&server);
}

/// A server on every address of the loopback net that closes each connection, after an answer where it was asked for one.
struct Server {
    port: u16,
    /// Answers 500 instead of 200 to whom it asks for `/switch`.
    fails: Arc<AtomicBool>,
    /// When it last answered such a request.
    answered: Arc<Mutex<Instant>>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let server = Server { port, fails: Arc::default(), answered: Arc::new(Mutex::new(Instant::now())) };
        let (fails, answered) = (Arc::clone(&server.fails), Arc::clone(&server.answered));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                reply(stream, &fails, &answered);
            }
        });
        server
    }
}

/// Answers one request; a client that only connects is gone already or sends nothing.
fn reply(mut stream: TcpStream, fails: &AtomicBool, answered: &Mutex<Instant>) {
    let mut request = [0; 1024];
    let length = stream.read(&mut request).unwrap_or(0);
    let switch = request[..length].starts_with(b"GET /switch");
    let status = if switch && fails.load(Ordering::SeqCst) { "500 No" } else { "200 OK" };
    if length > 0 {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        if switch {
            *answered.lock().expect("no panic while locked") = Instant::now();
        }
        let _ = stream.write_all(text.as_bytes());
    }
}

/// Starts the daemon, or another binary of it.
fn start(names: &str) -> Har {
    let mut har = har().names(names).prepare();
    match std::env::var_os("HAR_BIN") {
        None => har.start(),
        Some(binary) => {
            let mut command = Command::new(binary);
            command.args(["serve", "--config"]).arg(har.config_path()).env("NOTIFY_SOCKET", har.notify.path());
            har.spawn_as(command);
            assert!(har.becomes_ready(), "{}", har.log());
        }
    }
    har
}

/// The same names with a check every second, or with none.
fn names(check: &str) -> String {
    let mut text = format!("[defaults]\ninterval = \"1s\"\nfast_interval = \"1s\"\ncheck = \"{check}\"\n");
    for name in 0..NAMES {
        let all = (0..ADDRESSES).map(|n| format!("\"127.1.{}.{}\"", n + 1, name + 1)).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "[names.\"n{name}.example\"]\ncandidates = [{all}]");
    }
    text
}

fn many_checks(scheme: &str, port: u16) {
    let check = if scheme == "tcp" { format!("tcp:{port}") } else { format!("http://{{host}}:{port}/") };
    let (checking, idle) = (start(&names(&check)), start(&names("none")));
    // The first round begins at once and all together; what follows is spread.
    std::thread::sleep(Duration::from_secs(3));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let (mut spent, mut serving, mut passed) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for _ in 0..TURNS {
        let (begin, all, own) = (Instant::now(), process_time(&checking), server_time(&checking));
        ask(&checking, &mut with);
        let served = server_time(&checking) - own;
        serving += served;
        spent += process_time(&checking) - all - served;
        passed += begin.elapsed();
        ask(&idle, &mut without);
    }
    let late = checking.sql("SELECT value FROM counter WHERE key = 'checks_late'");
    println!("{} addresses checked every second over {scheme}, {:.0?}:", NAMES * ADDRESSES, passed);
    println!(
        "  threads other than the server: {:.1} % of a core; the server: {:.1} %; checks that began late: {}",
        100.0 * spent.as_secs_f64() / passed.as_secs_f64(),
        100.0 * serving.as_secs_f64() / passed.as_secs_f64(),
        late.first().and_then(|row| row.first()).map_or("0", String::as_str)
    );
    for (what, answers) in [("beside the checks", &mut with), ("without checks", &mut without)] {
        answers.sort_unstable();
        let at = |share: f64| answers[((answers.len() as f64 * share) as usize).min(answers.len() - 1)];
        println!("  answers {what}: 50 % {:?}, 99 % {:?}, 99.9 % {:?}", at(0.5), at(0.99), at(0.999));
    }
}

/// Asks one query after the other for a turn, a millisecond apart.
fn ask(har: &Har, answers: &mut Vec<Duration>) {
    let socket = udp_socket(har.address());
    let query = encode(&question("n7.example", RecordType::A));
    let (begin, mut buffer) = (Instant::now(), [0; 2048]);
    while begin.elapsed() < TURN {
        let sent = Instant::now();
        socket.send(&query).expect("loopback takes a datagram");
        socket.recv(&mut buffer).expect("an answer");
        answers.push(sent.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Processor time of all threads so far, those that have ended included.
fn process_time(har: &Har) -> Duration {
    let clock = clock_getcpuclockid(har.pid()).expect("it is running");
    clock_gettime(clock).expect("its clock").into()
}

/// Processor time of the thread that serves: the process's first.
fn server_time(har: &Har) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{0}/task/{0}/schedstat", har.pid())).expect("it is running");
    Duration::from_nanos(text.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a number"))
}

/// One name of many whose first address fails and recovers.
fn publishing(server: &Server) {
    let mut text = format!(
        "[names.\"switch.example\"]\ncheck = \"http://{{host}}:{}/switch\"\ncandidates = [\"127.2.0.1\", \"192.0.2.1\"]\n\
         select = \"failover\"\ninterval = \"100ms\"\nfast_interval = \"100ms\"\nrise = 1\nfall = 1\n",
        server.port
    );
    text = text.replace("\"192.0.2.1\"", "{ host = \"192.0.2.1\", check = \"none\" }");
    for name in 0..MANY {
        let _ = writeln!(
            text,
            "[names.\"m{name}.example\"]\ncheck = \"none\"\ncandidates = [\"10.{}.{}.1\"]",
            name / 250,
            name % 250
        );
    }
    let har = start(&text);
    let socket = udp_socket(har.address());
    let (query, mut buffer) = (encode(&question("switch.example", RecordType::A)), [0; 2048]);
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let fails = change % 2 == 0;
        server.fails.store(fails, Ordering::SeqCst);
        let wanted = if fails { "192.0.2.1" } else { "127.2.0.1" };
        loop {
            socket.send(&query).expect("loopback takes a datagram");
            let length = socket.recv(&mut buffer).expect("an answer");
            if Reply::read(&buffer[..length]).first() == wanted {
                took.push(server.answered.lock().expect("no panic while locked").elapsed());
                break;
            }
        }
    }
    took.sort_unstable();
    println!(
        "one name of {}: {CHANGES} changes, from the server's reply to the first new answer: 50 % {:?}, 90 % {:?}, all {:?}",
        MANY + 1,
        took[CHANGES / 2],
        took[CHANGES * 9 / 10],
        took[CHANGES - 1]
    );
}
