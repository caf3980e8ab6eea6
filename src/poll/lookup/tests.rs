//! Look-ups against scripted servers on loopback.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::*;

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// A question as the script sees it.
struct Asked {
    message: Vec<u8>,
    name: String,
    kind: u16,
    tcp: bool,
    /// Queries before this one.
    turn: usize,
}

type Record = (&'static str, u16, u32, Vec<u8>);

impl Asked {
    fn new(message: &[u8], tcp: bool, turn: usize) -> Asked {
        let name = HostName::from_wire(&message[HEADER..]).unwrap();
        let end = HEADER + name.as_wire().len();
        let kind = u16::from_be_bytes([message[end], message[end + 1]]);
        Asked { message: message[..end + 4].to_vec(), name: name.to_string(), kind, tcp, turn }
    }

    fn has_edns(&self, whole: &[u8]) -> bool {
        whole.len() > self.message.len()
    }

    /// A reply with this code, answers and authorities.
    fn reply(&self, code: u8, answers: &[Record], authorities: &[Record]) -> Vec<u8> {
        let mut reply = self.message.clone();
        reply[2] = 0x81;
        reply[3] = 0x80 | code;
        reply[7] = answers.len() as u8;
        reply[9] = authorities.len() as u8;
        reply[11] = 0;
        for (owner, kind, ttl, data) in answers.iter().chain(authorities) {
            reply.extend(wire(owner));
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1]);
            reply.extend(ttl.to_be_bytes());
            reply.extend((data.len() as u16).to_be_bytes());
            reply.extend(data);
        }
        reply
    }
}

fn wire(name: &str) -> Vec<u8> {
    name.parse::<HostName>().unwrap().as_wire().to_vec()
}

fn a(owner: &'static str, ttl: u32, address: [u8; 4]) -> Record {
    (owner, A, ttl, address.to_vec())
}

fn cname(owner: &'static str, ttl: u32, target: &str) -> Record {
    (owner, CNAME, ttl, wire(target))
}

fn soa(owner: &'static str, ttl: u32, minimum: u32) -> Record {
    let mut data = [wire("ns.example"), wire("admin.example")].concat();
    data.extend([0; 16]);
    data.extend(minimum.to_be_bytes());
    (owner, SOA, ttl, data)
}

/// Answers over UDP and TCP with what the script returns, in that order; nothing for nothing.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(ip: [u8; 4], script: impl Fn(&Asked, &[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Server {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((IpAddr::from(ip), 0)).unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let (address, script) = (udp.local_addr().unwrap(), Arc::new(script));
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (asked2, stop2, script2) = (Arc::clone(&asked), Arc::clone(&stop), Arc::clone(&script));
        let datagrams = thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = udp.recv_from(&mut buffer) {
                if stop2.load(Ordering::SeqCst) {
                    return;
                }
                let asked = Asked::new(&buffer[..length], false, asked2.fetch_add(1, Ordering::SeqCst));
                for reply in script2(&asked, &buffer[..length]) {
                    udp.send_to(&reply, client).unwrap();
                }
            }
        });
        let (asked3, stop3) = (Arc::clone(&asked), Arc::clone(&stop));
        let streams = thread::spawn(move || {
            for stream in tcp.incoming() {
                if stop3.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                let asked = Asked::new(&query, true, asked3.fetch_add(1, Ordering::SeqCst));
                for reply in script(&asked, &query) {
                    stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
                    stream.write_all(&reply).unwrap();
                }
            }
        });
        Server { address, asked, stop, threads: vec![datagrams, streams] }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let poke = UdpSocket::bind((self.address.ip(), 0)).unwrap();
        poke.send_to(&[0; 12], self.address).unwrap();
        drop(TcpStream::connect(self.address));
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

/// That something takes so many milliseconds, at the quickest of some times: a loaded machine holds others up.
#[track_caller]
fn takes(least: u64, most: u64, run: impl Fn()) {
    let mut took = Duration::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        run();
        took = took.min(start.elapsed());
        if took < Duration::from_millis(most) {
            break;
        }
    }
    assert!((Duration::from_millis(least)..Duration::from_millis(most)).contains(&took), "{took:?}");
}

fn look(text: &str, servers: &[SocketAddr], timeout: u64) -> Lookup {
    let upstreams = Upstreams { general: servers, routes: &[] };
    lookup(&name(text), &upstreams, &Options { source: None, timeout: Duration::from_millis(timeout) })
}

fn found<T>(values: impl IntoIterator<Item = T>, ttl: u64) -> Result<Found<T>, Failure> {
    Ok(Found { values: values.into_iter().collect(), ttl: Some(Duration::from_secs(ttl)) })
}

const ONE: [u8; 4] = [192, 0, 2, 1];

#[test]
fn both_families_with_the_least_ttl() {
    let server = Server::start([127, 0, 0, 1], |asked, _| {
        let v6 = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        vec![match asked.kind {
            A => asked.reply(0, &[a("x.example", 60, ONE), a("x.example", 30, [192, 0, 2, 2])], &[]),
            AAAA => asked.reply(0, &[("x.example", AAAA, 5, v6)], &[]),
            _ => asked.reply(4, &[], &[]),
        }]
    });
    let lookup = look("X.example", &[server.address], 2000);
    assert_eq!(lookup.v4, found([ONE.into(), Ipv4Addr::new(192, 0, 2, 2)], 30));
    assert_eq!(lookup.v6, found(["2001:db8::1".parse().unwrap()], 5));
    assert!(!lookup.heard_beyond_loopback);
    assert_eq!(server.asked(), 2);
}

#[test]
fn what_is_no_address_is_told_apart() {
    let server = Server::start([127, 0, 0, 1], |asked, _| {
        vec![match asked.name.as_str() {
            "none.example" => asked.reply(0, &[], &[soa("example", 300, 20)]),
            "nx.example" => asked.reply(3, &[], &[soa("example", 300, 20)]),
            "fail.example" => asked.reply(2, &[], &[]),
            "blocked.example" => asked.reply(0, &[a("blocked.example", 20, [0; 4])], &[]),
            "group.example" => asked.reply(0, &[a("group.example", 20, [224, 0, 0, 1])], &[]),
            "refused.example" => asked.reply(5, &[], &[]),
            _ => Vec::new(),
        }]
    });
    assert_eq!(look("none.example", &[server.address], 2000).v4, found([], 20));
    assert_eq!(look("blocked.example", &[server.address], 2000).v4, found([], 20));
    assert_eq!(look("group.example", &[server.address], 2000).v4, found([], 20));
    assert_eq!(look("nx.example", &[server.address], 2000).v4, Err(Failure::NxDomain));
    assert_eq!(look("fail.example", &[server.address], 2000).v6, Err(Failure::Rcode(2)));
    assert_eq!(look("refused.example", &[server.address], 2000).v4, Err(Failure::Rcode(5)));
    takes(690, 850, || assert_eq!(look("silent.example", &[server.address], 700).v4, Err(Failure::Timeout)));
    assert_eq!(look("x.example", &[], 700).v4, Err(Failure::NoServer));
}

#[test]
fn truncation_is_followed_by_tcp() {
    let server = Server::start([127, 0, 0, 1], |asked, _| {
        let mut reply = asked.reply(0, &[a("x.example", 9, ONE)], &[]);
        if !asked.tcp {
            reply = asked.reply(0, &[], &[]);
            reply[2] |= 2;
        }
        vec![reply]
    });
    assert_eq!(look("x.example", &[server.address], 2000).v4, found([ONE.into()], 9));
}

#[test]
fn only_the_right_reply_counts() {
    let server = Server::start([127, 0, 0, 1], |asked, _| {
        let good = asked.reply(0, &[a("x.example", 9, ONE)], &[]);
        let spoofed = asked.reply(0, &[a("x.example", 9, [6, 6, 6, 6])], &[]);
        let mutate = |at: usize, bits: u8| {
            let mut wrong = spoofed.clone();
            wrong[at] ^= bits;
            wrong
        };
        // Id, QR, opcode, the name, the type, then no question at all, then half a header.
        let mut wrong = vec![mutate(0, 1), mutate(2, 0x80), mutate(2, 0x28), mutate(13, 1), mutate(24, 0x20)];
        let mut bare = spoofed[..HEADER].to_vec();
        bare[5] = 0;
        wrong.push(bare);
        wrong.push(spoofed[..7].to_vec());
        // The same name in another case is the same question.
        let mut upper = good.clone();
        upper[13] = b'X';
        wrong.push(upper);
        wrong
    });
    assert_eq!(look("x.example", &[server.address], 2000).v4, found([ONE.into()], 9));
    assert_eq!(server.asked(), 2);
}

#[test]
fn damaged_replies_are_an_error_and_no_more() {
    let server = Server::start([127, 0, 0, 1], |asked, _| {
        let mut reply = asked.reply(0, &[a("x.example", 9, ONE)], &[]);
        match asked.name.as_str() {
            "counts.example" => reply[6] = 0xff,
            _ => reply.truncate(reply.len() - 2),
        }
        vec![reply]
    });
    assert_eq!(look("counts.example", &[server.address], 2000).v4, Err(Failure::Malformed));
    assert_eq!(look("x.example", &[server.address], 2000).v4, Err(Failure::Malformed));
}

#[test]
fn aliases_within_an_answer_and_beyond_it() {
    let server = Server::start([127, 0, 0, 1], |asked, _| {
        let none = [soa("example", 300, 20)];
        vec![match (asked.name.as_str(), asked.kind) {
            ("in.example", A) => asked.reply(
                0,
                &[
                    a("end.example", 50, ONE),
                    cname("mid.example", 7, "end.example"),
                    cname("in.example", 90, "mid.example"),
                ],
                &[],
            ),
            ("in.example", _) => asked.reply(0, &[cname("in.example", 90, "end.example")], &none),
            ("out.example", _) => asked.reply(0, &[cname("out.example", 11, "Target.Other")], &[]),
            ("target.other", A) => asked.reply(0, &[a("target.other", 50, ONE)], &[]),
            ("target.other", _) => asked.reply(0, &[], &none),
            ("loop.example", _) => asked.reply(0, &[cname("loop.example", 1, "loop.example")], &[]),
            ("far.example", _) => asked.reply(0, &[cname("far.example", 1, "loop.example")], &[]),
            _ => asked.reply(3, &[cname("dangling.example", 1, "gone.example")], &[]),
        }]
    });
    let servers = [server.address];
    assert_eq!(look("in.example", &servers, 2000).v4, found([ONE.into()], 7));
    assert_eq!(look("in.example", &servers, 2000).v6, found([], 20));
    assert_eq!(look("out.example", &servers, 2000).v4, found([ONE.into()], 11));
    assert_eq!(look("out.example", &servers, 2000).v6, found([], 11));
    assert_eq!(look("loop.example", &servers, 2000).v4, Err(Failure::Chain));
    assert_eq!(look("far.example", &servers, 2000).v6, Err(Failure::Chain));
    assert_eq!(look("dangling.example", &servers, 2000).v4, Err(Failure::NxDomain));
}

#[test]
fn the_next_server_is_asked_after_silence_errors_and_closed_ports() {
    let good = Server::start([127, 0, 0, 2], |asked, _| vec![asked.reply(0, &[a("x.example", 9, ONE)], &[])]);
    let silent = Server::start([127, 0, 0, 3], |_, _| Vec::new());
    let failing = Server::start([127, 0, 0, 4], |asked, _| vec![asked.reply(2, &[], &[])]);
    let closed = UdpSocket::bind("127.0.0.5:0").unwrap().local_addr().unwrap();
    for (bad, least, most) in [(silent.address, 390, 900), (failing.address, 0, 300), (closed, 0, 300)] {
        takes(least, most, || {
            assert_eq!(look("x.example", &[bad, good.address], 3000).v4, found([ONE.into()], 9), "{bad}");
        });
    }
    takes(0, 300, || assert!(matches!(look("x.example", &[closed], 3000).v4, Err(Failure::Unreachable(_)))));
}

#[test]
fn a_lost_datagram_is_sent_again() {
    let server = Server::start([127, 0, 0, 1], |asked, _| match asked.turn {
        0 | 1 => Vec::new(),
        _ => vec![asked.reply(0, &[a("x.example", 9, ONE)], &[])],
    });
    assert_eq!(look("x.example", &[server.address], 3000).v4, found([ONE.into()], 9));
    // Both families twice; a loaded machine may be slow to answer that.
    assert!(server.asked() >= 4, "{}", server.asked());
}

#[test]
fn a_family_that_is_lost_does_not_cost_the_other_its_answer() {
    for lost in [A, AAAA] {
        let server = Server::start([127, 0, 0, 1], move |asked, whole| match asked.kind {
            kind if kind == lost => Vec::new(),
            // Once more after a word on EDNS, and over TCP: what it takes to answer is no part of the other's wait.
            _ if asked.has_edns(whole) => vec![asked.reply(1, &[], &[])],
            _ if !asked.tcp => {
                let mut short = asked.reply(0, &[], &[]);
                short[2] |= 2;
                vec![short]
            }
            A => vec![asked.reply(0, &[a("x.example", 9, ONE)], &[])],
            _ => vec![asked.reply(0, &[("x.example", AAAA, 9, Ipv6Addr::LOCALHOST.octets().to_vec())], &[])],
        });
        let lookup = look("x.example", &[server.address], 2000);
        let both = match lost {
            A => (Err(Failure::Timeout), found([Ipv6Addr::LOCALHOST], 9)),
            _ => (found([ONE.into()], 9), Err(Failure::Timeout)),
        };
        assert_eq!((lookup.v4, lookup.v6), both);
    }
}

#[test]
fn a_family_is_told_of_while_the_other_is_waited_for() {
    let v6 = || ("x.example", AAAA, 9, Ipv6Addr::LOCALHOST.octets().to_vec());
    let reply = move |asked: &Asked| match asked.kind {
        A => asked.reply(0, &[a("x.example", 9, ONE)], &[]),
        _ => asked.reply(0, &[v6()], &[]),
    };
    for (lost, other) in [(A, IpAddr::from(Ipv6Addr::LOCALHOST)), (AAAA, IpAddr::from(ONE))] {
        let told = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&told);
        // What is lost is answered only when the other has been told of.
        let server = Server::start([127, 0, 0, 1], move |asked, _| {
            let answered = asked.kind != lost || seen.load(Ordering::SeqCst);
            if answered { vec![reply(asked)] } else { Vec::new() }
        });
        let upstreams = Upstreams { general: &[server.address], routes: &[] };
        let options = Options { source: None, timeout: Duration::from_secs(20) };
        let mut halves = Vec::new();
        let lookup = lookup_in_halves(&name("x.example"), &upstreams, &options, options.timeout, &mut |addresses| {
            told.store(true, Ordering::SeqCst);
            halves.push(addresses);
        });
        assert_eq!(halves, [[other]]);
        assert_eq!((lookup.v4, lookup.v6), (found([ONE.into()], 9), found([Ipv6Addr::LOCALHOST], 9)));
    }
    // A family without addresses is no half.
    let server = Server::start([127, 0, 0, 1], |asked, _| match asked.kind {
        A => vec![asked.reply(0, &[], &[])],
        _ => Vec::new(),
    });
    let upstreams = Upstreams { general: &[server.address], routes: &[] };
    let options = Options { source: None, timeout: Duration::from_millis(700) };
    let lookup = lookup_in_halves(&name("x.example"), &upstreams, &options, options.timeout, &mut |half| {
        panic!("{half:?} was told of")
    });
    assert_eq!(lookup.v6, Err(Failure::Timeout));
}

#[test]
fn the_rest_of_the_time_is_for_the_other_family() {
    let server = Server::start([127, 0, 0, 1], |asked, _| match asked.kind {
        A => vec![asked.reply(0, &[a("x.example", 9, ONE)], &[])],
        _ => Vec::new(),
    });
    let upstreams = Upstreams { general: &[server.address], routes: &[] };
    let options = Options { source: None, timeout: Duration::from_secs(20) };
    let begin = Instant::now();
    let lookup = lookup_in_halves(&name("x.example"), &upstreams, &options, Duration::from_millis(100), &mut |_| {});
    assert_eq!((lookup.v4, lookup.v6), (found([ONE.into()], 9), Err(Failure::Timeout)));
    assert!(begin.elapsed() < options.timeout, "the other was waited for to the end");
}

#[test]
fn a_server_without_edns_is_asked_without() {
    let server = Server::start([127, 0, 0, 1], |asked, whole| {
        vec![if asked.has_edns(whole) {
            let mut reply = asked.reply(1, &[], &[])[..HEADER].to_vec();
            reply[5] = 0;
            reply
        } else {
            asked.reply(0, &[a("x.example", 9, ONE)], &[])
        }]
    });
    assert_eq!(look("x.example", &[server.address], 3000).v4, found([ONE.into()], 9));
}

#[test]
fn texts_keep_records_and_strings_apart() {
    let server = Server::start([127, 0, 0, 1], |asked, _| {
        let record = |text: &str| ("drain.example", TXT, 9, text.as_bytes().to_vec());
        vec![asked.reply(0, &[record("\x0cIP=192.0.2.1\x03a=b"), record("\x06HOST=x")], &[])]
    });
    let upstreams = Upstreams { general: &[server.address], routes: &[] };
    let options = Options { source: Some([127, 0, 0, 9].into()), timeout: Duration::from_secs(2) };
    let texts = lookup_texts(&name("drain.example"), &upstreams, &options);
    let expected = [vec!["IP=192.0.2.1".to_owned(), "a=b".to_owned()], vec!["HOST=x".to_owned()]];
    assert_eq!(texts.records, found(expected, 9));
}

#[test]
fn the_longest_route_wins_and_aliases_may_lead_into_one() {
    let general = Server::start([127, 0, 0, 1], |asked, _| {
        vec![asked.reply(0, &[cname("www.example", 60, "www.corp.example")], &[])]
    });
    let corp = Server::start([127, 0, 0, 2], |asked, _| vec![asked.reply(0, &[a("www.corp.example", 9, ONE)], &[])]);
    let route = |suffix: &str, server| Route { suffix: name(suffix), servers: vec![server] };
    let other: SocketAddr = "127.0.0.9:9".parse().unwrap();
    let routes = [route("example.corp.example", other), route("corp.example", corp.address), route("b.a", other)];
    let servers = [general.address];
    for (text, expected) in [
        ("corp.example", corp.address),
        ("a.b.CORP.example", corp.address),
        ("x.example.corp.example", other),
        ("xcorp.example", general.address),
        ("example", general.address),
        ("a.b.a", other),
        ("a", general.address),
    ] {
        assert_eq!(servers_for(&name(text), &servers, &routes), [expected], "{text}");
    }
    let upstreams = Upstreams { general: &servers, routes: &routes };
    let lookup = lookup(&name("www.example"), &upstreams, &Options { source: None, timeout: Duration::from_secs(2) });
    assert_eq!(lookup.v4, found([ONE.into()], 9));
}
