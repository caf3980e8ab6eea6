//! The forwarder over real loopback sockets; the test itself plays the upstream servers.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use mio::{Events, Poll};

use super::*;
use crate::dns::wire::rcode;

const FIRST_TOKEN: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);

/// An event loop around a forwarder.
struct Loop {
    poll: Poll,
    forwarder: Forwarder,
    replies: Vec<(Client, Vec<u8>)>,
}

impl Loop {
    fn new(servers: &[SocketAddr]) -> Loop {
        let poll = Poll::new().unwrap();
        let route = Route { suffix: String::new(), servers: servers.to_vec(), fastest: false };
        let settings =
            Settings { routes: vec![route], timeout: Duration::from_secs(4), max_forwards: 1000, looping: Vec::new() };
        let registry = poll.registry().try_clone().unwrap();
        let forwarder = Forwarder::new(&settings, None, registry, FIRST_TOKEN);
        Loop { poll, forwarder, replies: Vec::new() }
    }

    fn ask(&mut self, client: Client, message: &[u8]) {
        self.forwarder.submit(client, &wire::parse(message).unwrap(), 0, None, Instant::now());
    }

    /// Turns the loop until a condition holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Loop) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        let mut events = Events::with_capacity(64);
        loop {
            while let Some((client, reply)) = self.forwarder.next_reply() {
                self.replies.push((client, reply.to_vec()));
            }
            if holds(self) {
                return;
            }
            let now = Instant::now();
            self.forwarder.flush(now);
            assert!(now < give_up, "{what} did not happen within {PATIENCE:?}");
            let due = self.forwarder.deadline().map_or(PATIENCE, |at| at.saturating_duration_since(now));
            // What the test waits for can also happen outside of the loop.
            self.poll.poll(&mut events, Some(due.min(Duration::from_millis(5)))).unwrap();
            let now = Instant::now();
            events.iter().for_each(|event| self.forwarder.event(event, now));
            if self.forwarder.deadline().is_some_and(|at| at <= now) {
                self.forwarder.expire(now);
            }
        }
    }

    fn reply(&mut self) -> (Client, Vec<u8>) {
        self.until("a reply", |this| !this.replies.is_empty());
        self.replies.remove(0)
    }

    /// What an upstream server's socket receives, while the loop turns.
    fn received(&mut self, server: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 4096];
        let mut got = None;
        self.until("a query at the upstream", |_| {
            got = server.recv_from(&mut buffer).ok();
            got.is_some()
        });
        let (length, from) = got.unwrap();
        (buffer[..length].to_vec(), from)
    }
}

fn server() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn udp(port: u16) -> Client {
    Client::Udp { listener: 0, peer: SocketAddr::from(([127, 0, 0, 1], port)) }
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.push(name.len() as u8);
    message.extend(name.as_bytes());
    message.extend(b"\x07example\0\0\x01\0\x01");
    message
}

fn answer(query: &[u8]) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] |= 0x80;
    message
}

#[test]
fn an_answer_comes_back_byte_for_byte_under_the_clients_id() {
    let (upstream, address) = server();
    let mut turns = Loop::new(&[address]);
    turns.ask(udp(1000), &query(77, "a"));
    let (asked, from) = turns.received(&upstream);
    assert_eq!(asked[2..], query(77, "a")[2..]);
    let mut right = answer(&asked);
    right.extend(b"whatever follows");
    // Another id, another question and another sender first: none of them counts, the wait goes on.
    let mut wrong = right.clone();
    wrong[1] ^= 1;
    upstream.send_to(&wrong, from).unwrap();
    let mut wrong = right.clone();
    wrong[13] = b'b';
    upstream.send_to(&wrong, from).unwrap();
    server().0.send_to(&right, from).unwrap();
    upstream.send_to(&right, from).unwrap();
    let (client, reply) = turns.reply();
    wire::set_id(&mut right, 77);
    assert_eq!((client, reply), (udp(1000), right));
    assert_eq!(turns.forwarder.books().ignored, 2);
    assert_eq!(turns.forwarder.under_way(), 0);
}

#[test]
fn silence_is_followed_by_the_second_server() {
    let ((silent, first), (second, address)) = (server(), server());
    let mut turns = Loop::new(&[first, address]);
    turns.ask(udp(1), &query(1, "a"));
    turns.received(&silent);
    let (asked, from) = turns.received(&second);
    second.send_to(&answer(&asked), from).unwrap();
    assert_eq!(turns.reply().1, answer(&query(1, "a")));
}

#[test]
fn a_closed_port_is_followed_by_the_second_server_at_once() {
    let closed = server().1;
    let (second, address) = server();
    let mut turns = Loop::new(&[closed, address]);
    turns.ask(udp(1), &query(1, "a"));
    let (asked, from) = turns.received(&second);
    second.send_to(&answer(&asked), from).unwrap();
    assert_eq!(turns.reply().1, answer(&query(1, "a")));
    let state = |at: usize| turns.forwarder.listed()[at].state.state.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((state(0), state(1)), (2, 1));
}

#[test]
fn no_server_is_servfail_at_once_and_no_reply_is_servfail_in_time() {
    let mut turns = Loop::new(&[]);
    turns.ask(udp(1), &query(9, "a"));
    let (_, reply) = turns.reply();
    assert_eq!((wire::id(&reply), wire::rcode(&reply)), (Some(9), Some(rcode::SERVFAIL)));

    let (_silent, address) = server();
    let mut turns = Loop::new(&[address]);
    let settings = Settings {
        routes: vec![Route { suffix: String::new(), servers: vec![address], fastest: false }],
        timeout: Duration::from_millis(200),
        max_forwards: 10,
        looping: Vec::new(),
    };
    turns.forwarder.reconfigure(&settings, None, Instant::now());
    let start = Instant::now();
    turns.ask(udp(1), &query(9, "a"));
    assert_eq!(wire::rcode(&turns.reply().1), Some(rcode::SERVFAIL));
    assert!(start.elapsed() >= Duration::from_millis(170));
}

#[test]
fn truncation_is_passed_on() {
    let (upstream, address) = server();
    let mut turns = Loop::new(&[address]);
    turns.ask(udp(1), &query(5, "a"));
    let (asked, from) = turns.received(&upstream);
    let mut truncated = answer(&asked);
    truncated[2] |= 2;
    upstream.send_to(&truncated, from).unwrap();
    let (_, reply) = turns.reply();
    assert!(wire::is_truncated(&reply));
    assert_eq!(reply.len(), asked.len());
}

#[test]
fn ports_and_ids_differ_from_query_to_query() {
    let (upstream, address) = server();
    let mut turns = Loop::new(&[address]);
    let (mut ports, mut ids) = (HashSet::new(), HashSet::new());
    for number in 0..300 {
        turns.ask(udp(number), &query(0, "a"));
        let (asked, from) = turns.received(&upstream);
        ports.insert(from.port());
        ids.insert(wire::id(&asked));
        upstream.send_to(&answer(&asked), from).unwrap();
        turns.reply();
    }
    // 300 draws out of 65,536 ids repeat 0.7 times on average; ports come out of a pool once it is full.
    assert!(ids.len() > 285, "{} different ids", ids.len());
    assert!(ports.len() > 200, "{} different ports", ports.len());
}

fn tcp(connection: u64) -> Client {
    Client::Tcp { connection }
}

/// A server that listens on UDP and TCP at one port.
fn stream_server() -> (UdpSocket, TcpListener, SocketAddr) {
    for _ in 0..50 {
        let (socket, address) = server();
        if let Ok(listener) = TcpListener::bind(address) {
            listener.set_nonblocking(true).unwrap();
            return (socket, listener, address);
        }
    }
    panic!("no port that is free for UDP and TCP");
}

impl Loop {
    fn accepted(&mut self, listener: &TcpListener) -> std::net::TcpStream {
        let mut stream = None;
        self.until("a connection at the upstream", |_| {
            stream = listener.accept().ok();
            stream.is_some()
        });
        let stream = stream.unwrap().0;
        stream.set_nonblocking(true).unwrap();
        stream
    }

    fn frame(&mut self, stream: &mut std::net::TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until("a frame at the upstream", |_| {
            let wanted = match bytes.first_chunk::<2>() {
                Some(length) => usize::from(u16::from_be_bytes(*length)) + 2,
                None => 2,
            };
            let mut more = vec![0; wanted - bytes.len()];
            if let Ok(length) = stream.read(&mut more) {
                bytes.extend(&more[..length]);
            }
            bytes.len() > 2 && bytes.len() == usize::from(u16::from_be_bytes([bytes[0], bytes[1]])) + 2
        });
        bytes.split_off(2)
    }
}

fn write_frame(stream: &mut std::net::TcpStream, message: &[u8]) {
    stream.set_nonblocking(false).unwrap();
    stream.write_all(&(message.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(message).unwrap();
    stream.set_nonblocking(true).unwrap();
}

#[test]
fn tcp_queries_share_a_connection_and_are_answered_out_of_order() {
    let (_udp, listener, address) = stream_server();
    let mut turns = Loop::new(&[address]);
    // One of a burst has to share.
    (1..=5).for_each(|client| turns.ask(tcp(client), &query(1, if client == 5 { "b" } else { "a" })));
    let mut streams: Vec<_> = (0..4).map(|_| turns.accepted(&listener)).collect();
    let first = streams.iter_mut().map(|stream| turns.frame(stream)).collect::<Vec<_>>().remove(0);
    let mut stream = streams.remove(0);
    let second = turns.frame(&mut stream);
    assert_ne!(first[..2], second[..2]);
    let mut large = answer(&second);
    large.resize(65_535, 7);
    write_frame(&mut stream, &large);
    let (client, reply) = turns.reply();
    assert_eq!((client, reply.len()), (tcp(5), 65_535));
    assert_eq!(reply[2..], large[2..]);
    write_frame(&mut stream, &answer(&first));
    assert_eq!(turns.reply(), (tcp(1), answer(&query(1, "a"))));
}

#[test]
fn queries_of_one_wake_leave_in_one_write() {
    let (_udp, listener, address) = stream_server();
    let mut turns = Loop::new(&[address]);
    (1..=4).for_each(|client| turns.ask(tcp(client), &query(1, "a")));
    let mut streams: Vec<_> = (0..4).map(|_| turns.accepted(&listener)).collect();
    for stream in &mut streams {
        let asked = turns.frame(stream);
        write_frame(stream, &answer(&asked));
        turns.reply();
    }
    (1..=8).for_each(|client| turns.ask(tcp(client), &query(2, "b")));
    let mut stream = streams.remove(0);
    stream.set_nonblocking(true).unwrap();
    let nothing = stream.peek(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    turns.forwarder.flush(Instant::now());
    let mut both = [0; 100];
    // On loopback what was written is there when the call is back.
    assert_eq!(stream.read(&mut both).unwrap(), 2 * (2 + query(2, "b").len()));
}

#[test]
fn a_connection_that_dies_is_replaced_once() {
    let (_udp, listener, address) = stream_server();
    let mut turns = Loop::new(&[address]);
    turns.ask(tcp(1), &query(1, "a"));
    let mut stream = turns.accepted(&listener);
    turns.frame(&mut stream);
    drop(stream);
    let mut stream = turns.accepted(&listener);
    let asked = turns.frame(&mut stream);
    write_frame(&mut stream, &answer(&asked));
    assert_eq!(turns.reply(), (tcp(1), answer(&query(1, "a"))));
}

#[test]
fn what_a_server_leaves_unanswered_when_it_closes_is_asked_again() {
    let (_udp, listener, address) = stream_server();
    listener.set_nonblocking(false).unwrap();
    // One answer for each connection: what else was asked there is unread, so that the end is a reset.
    let server = std::thread::spawn(move || {
        for _ in 0..20 {
            let mut stream = listener.accept().unwrap().0;
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut message).unwrap();
            write_frame(&mut stream, &answer(&message));
        }
    });
    let mut turns = Loop::new(&[address]);
    (1..=20).for_each(|client| turns.ask(tcp(client), &query(client as u16, "a")));
    for _ in 0..20 {
        let (client, reply) = turns.reply();
        let Client::Tcp { connection } = client else { panic!("{client:?}") };
        assert_eq!(reply, answer(&query(connection as u16, "a")));
    }
    server.join().unwrap();
}

#[test]
fn what_was_answered_before_a_reset_is_read() {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let poll = Poll::new().unwrap();
    let mut connection =
        Connection::open(listener.local_addr().unwrap(), None, poll.registry(), Token(FIRST_TOKEN)).unwrap();
    let mut peer = listener.accept().unwrap().0;
    let mut buffer = [0; 512];
    assert!(connection.receive(&mut buffer).unwrap().is_none());
    connection.queue(&query(1, "a")).unwrap();
    connection.flush().unwrap();
    write_frame(&mut peer, &answer(&query(1, "a")));
    // With something unread: a reset, which on loopback is there when the call is back.
    drop(peer);
    connection.queue(&query(2, "b")).unwrap();
    assert!(connection.flush().is_err());
    assert_eq!(connection.receive(&mut buffer).unwrap(), Some(answer(&query(1, "a")).as_slice()));
    assert!(connection.receive(&mut buffer).is_err());
}

#[test]
fn refused_tcp_goes_over_udp() {
    let (upstream, address) = server();
    let mut turns = Loop::new(&[address]);
    turns.ask(tcp(1), &query(1, "a"));
    let (asked, from) = turns.received(&upstream);
    upstream.send_to(&answer(&asked), from).unwrap();
    assert_eq!(turns.reply(), (tcp(1), answer(&query(1, "a"))));
}

#[test]
fn renewed_sockets_ask_again() {
    let (upstream, address) = server();
    let mut turns = Loop::new(&[address]);
    turns.ask(udp(1), &query(1, "a"));
    let (_, old) = turns.received(&upstream);
    turns.forwarder.renew(Instant::now());
    let (asked, new) = turns.received(&upstream);
    assert_ne!(old, new);
    upstream.send_to(&answer(&asked), new).unwrap();
    assert_eq!(turns.reply().1, answer(&query(1, "a")));
}
