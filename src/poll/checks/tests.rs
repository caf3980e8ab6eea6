//! Checks against scripted servers on loopback: every outcome, the deadline, what the server gets to see.

mod databases;
mod days;
mod exec;
mod http;
mod tls;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;
use crate::config::{HttpCheck, TcpCheck, Trust};

const LOCAL: [u8; 4] = [127, 0, 0, 1];
const PLENTY: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);
/// How late a result may be.
const GRACE: Duration = Duration::from_millis(100);

/// Accepts connections and lets the script deal with each in a thread of its own.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    fn start(ip: [u8; 4], script: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        Server::on(SocketAddr::from((ip, 0)), script)
    }

    fn on(address: SocketAddr, script: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, script) = (Arc::new(AtomicBool::new(false)), Arc::new(script));
        let stopped = Arc::clone(&stop);
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let script = Arc::clone(&script);
                let stream = stream.unwrap();
                // What a client that gave up leaves unread must not hold the thread for ever.
                stream.set_write_timeout(Some(PLENTY)).unwrap();
                stream.set_read_timeout(Some(PLENTY)).unwrap();
                thread::spawn(move || script(stream));
            }
        });
        Server { address, stop, acceptor: Some(acceptor) }
    }

    /// Reads a request, keeps it, sends the reply and closes.
    fn replying(reply: impl Into<Vec<u8>>) -> (Server, Arc<Mutex<Vec<String>>>) {
        let (reply, heads) = (reply.into(), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&heads);
        let server = Server::start(LOCAL, move |mut stream| {
            kept.lock().unwrap().push(head(&mut stream));
            let _ = stream.write_all(&reply);
        });
        (server, heads)
    }

    fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.acceptor.take().unwrap().join().unwrap();
    }
}

/// A request up to its empty line, or what came of it.
fn head(stream: &mut impl Read) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// Sends a byte at a time until the other side is gone.
fn drip(mut stream: impl Write, bytes: impl IntoIterator<Item = u8>) {
    for byte in bytes {
        if stream.write_all(&[byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Holds a connection until the other side is gone.
fn hold(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

fn check(kind: CheckKind, timeout: Duration) -> Check {
    Check { kind, timeout, address: None, source: None }
}

fn trust() -> Trust {
    Trust { verify: true, ca_file: None, client: None }
}

fn http_check(port: u16) -> HttpCheck {
    HttpCheck {
        tls: false,
        host: Some("app.example".into()),
        port,
        port_stated: true,
        path: "/healthz".into(),
        userinfo: None,
        method: "GET".into(),
        status: vec![(200, 299)],
        body: None,
        headers: Vec::new(),
        host_header: None,
        follow_redirects: false,
        trust: trust(),
    }
}

fn tcp_check(port: u16, send: Option<&str>, expect: Option<&str>) -> CheckKind {
    CheckKind::Tcp(TcpCheck { port, send: send.map(str::to_owned), expect: expect.map(str::to_owned) })
}

fn run(check: &Check, address: impl Into<IpAddr>) -> CheckResult {
    let (runner, address) = (Runner::new(check, &SystemRoots::new()).unwrap(), address.into());
    let limit = check.timeout + GRACE;
    // A loaded machine holds single runs up; what overruns its limit by itself does so each time.
    let mut result = None;
    for _ in 0..10 {
        let start = Instant::now();
        let latest = runner.run(address);
        let took = start.elapsed();
        let late = took >= limit;
        result = Some((took, latest));
        if !late {
            break;
        }
    }
    let (took, result) = result.unwrap();
    assert!(took < limit, "{took:?} for {:?}: {result:?}", check.timeout);
    if let Some(error) = &result.error {
        assert!(error.chars().count() <= 200 && !error.contains("s3cret"), "{error}");
    }
    result
}

fn run_http(http: HttpCheck, timeout: Duration) -> CheckResult {
    run(&check(CheckKind::Http(http), timeout), LOCAL)
}

fn run_tcp(kind: CheckKind, timeout: Duration) -> CheckResult {
    run(&check(kind, timeout), LOCAL)
}

fn closed_port() -> u16 {
    TcpListener::bind((IpAddr::from(LOCAL), 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn tcp_connects_sends_and_matches() {
    let server = Server::start(LOCAL, |mut stream| {
        let mut word = [0; 6];
        if stream.read_exact(&mut word).is_ok() && &word == b"PING\r\n" {
            drip(stream, *b"\xff+PONG\r\n+never read");
        }
    });
    let opened = run_tcp(tcp_check(server.port(), None, None), PLENTY);
    assert_eq!((opened.outcome, opened.first_byte), (Outcome::Ok, None));
    assert!(opened.connect.unwrap() <= opened.total);
    let matched = run_tcp(tcp_check(server.port(), Some("PING\r\n"), Some(r"\+PONG")), PLENTY);
    assert_eq!((matched.outcome, matched.error), (Outcome::Ok, None));
    assert!(matched.first_byte.unwrap() < matched.total);
}

#[test]
fn tcp_text_can_name_the_address() {
    let (said, heard) = std::sync::mpsc::channel();
    let server = Server::start([127, 0, 0, 2], move |mut stream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        said.send(text).unwrap();
    });
    let result = run(&check(tcp_check(server.port(), Some("I am {address}\n"), None), PLENTY), [127, 0, 0, 2]);
    assert_eq!(result.outcome, Outcome::Ok);
    assert_eq!(heard.recv_timeout(PLENTY).unwrap(), "I am 127.0.0.2\n");
}

#[test]
fn tcp_replies_that_do_not_match() {
    let with = |script: fn(TcpStream), timeout| {
        let server = Server::start(LOCAL, script);
        run_tcp(tcp_check(server.port(), None, Some("^OK")), timeout)
    };
    let other = with(|mut stream| stream.write_all(b"ERR").unwrap(), PLENTY);
    assert_eq!(other.outcome, Outcome::ResponseError);
    assert_eq!(*other.error.unwrap(), *r#"the reply (3 bytes) does not match "^OK""#);
    let silence = with(hold, SHORT);
    assert_eq!((silence.outcome, silence.silent), (Outcome::Timeout, false));
    assert!(silence.connect.is_some() && silence.total >= SHORT);
    let slow = with(|stream| drip(stream, [b'x'; 1000]), SHORT);
    assert_eq!(slow.outcome, Outcome::Timeout);
    assert!(slow.error.unwrap().contains("did not match"));
    let endless = with(|mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {}, PLENTY);
    assert_eq!(endless.outcome, Outcome::ResponseError);
    assert!(endless.error.unwrap().contains("65536 bytes"));
    // Not before the client has said something: then its connection is open for sure.
    let resetting = Server::start(LOCAL, |mut stream| {
        let _ = stream.read(&mut [0]);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let reset = run_tcp(tcp_check(resetting.port(), Some("hello"), Some("^OK")), PLENTY);
    assert_eq!((reset.outcome, reset.silent), (Outcome::ResponseError, false));
}

#[test]
fn connections_that_do_not_come_about() {
    let refused = run_tcp(tcp_check(closed_port(), None, None), PLENTY);
    assert_eq!((refused.outcome, refused.silent, refused.connect), (Outcome::ConnectError, false, None));
    assert_eq!(*refused.error.unwrap(), *"connection refused");

    // A documentation address (RFC 5737) is nobody's.
    let mut foreign = check(tcp_check(closed_port(), None, None), PLENTY);
    foreign.source = Some([192, 0, 2, 1].into());
    let foreign = run(&foreign, LOCAL);
    assert_eq!((foreign.outcome, foreign.silent), (Outcome::ConnectError, true));
    assert_eq!(*foreign.error.unwrap(), *"source 192.0.2.1 is not an address of this host");

    // Nobody accepts and the backlog is full: the kernel drops what comes.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((LOCAL, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    for kind in [tcp_check(address.port(), None, None), CheckKind::Http(http_check(address.port()))] {
        let dropped = run_tcp(kind, SHORT);
        assert_eq!((dropped.outcome, dropped.silent, dropped.connect), (Outcome::Timeout, true, None));
        assert!(dropped.total >= SHORT - Duration::from_millis(5));
    }
}

#[test]
fn the_source_is_what_the_server_sees_and_only_of_its_family() {
    let (said, heard) = std::sync::mpsc::channel();
    let server = Server::start(LOCAL, move |stream| said.send(stream.peer_addr().unwrap().ip()).unwrap());
    for (source, seen) in [(IpAddr::from([127, 0, 0, 7]), [127, 0, 0, 7]), ("2001:db8::7".parse().unwrap(), LOCAL)] {
        let mut check = check(tcp_check(server.port(), None, None), PLENTY);
        check.source = Some(source);
        assert_eq!(run(&check, LOCAL).outcome, Outcome::Ok);
        assert_eq!(heard.recv_timeout(PLENTY).unwrap(), IpAddr::from(seen));
    }
}

#[test]
fn a_management_address_is_connected_to_in_the_candidates_place() {
    let server = Server::start([127, 0, 0, 9], |mut stream| {
        let head = head(&mut stream);
        assert!(head.starts_with("GET /check?of=192.0.2.1 HTTP/1.1\r\n"), "{head}");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let http = HttpCheck { path: "/check?of={address}".into(), ..http_check(server.port()) };
    let managed = Check { address: Some([127, 0, 0, 9].into()), ..check(CheckKind::Http(http), PLENTY) };
    assert_eq!(run(&managed, [192, 0, 2, 1]).outcome, Outcome::Ok);
}

#[test]
fn none_is_always_up_and_an_unprepared_check_blames_this_host() {
    assert_eq!(run(&check(CheckKind::None, PLENTY), [192, 0, 2, 1]), bare(Outcome::Ok, Duration::ZERO));
    let result = Runner::unprepared(Unprepared("cannot read /ca.pem".into())).run(LOCAL.into());
    assert_eq!(result.outcome, Outcome::LocalError);
    assert_eq!(*result.error.unwrap(), *"cannot read /ca.pem");
}

#[test]
fn runners_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Runner>();
}
