//! The loop over real sockets on loopback. Waits are for conditions, each with a deadline.

use super::*;
use crate::dns::lines::NameTable;
use crate::dns::snapshot::{FamilyAnswer, NameAnswer, NameSettings, OtherTypes, Snapshot, Turn};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket as StdUdp};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(5);
/// The configured names: one that is known, one that waits.
const KNOWN: &str = "known.test";
const COLD: &str = "cold.test";

struct Running {
    address: SocketAddr,
    updates: UpdateSender,
    notices: Receiver<Notice>,
    totals: Arc<Totals>,
    names: Arc<NameTable>,
    reload: UnixStream,
    stop: UnixStream,
    thread: Option<JoinHandle<io::Result<()>>>,
    upstream: StdUdp,
}

fn known(last: u8) -> NameAnswer {
    let turn = Turn { addresses: vec![[192, 0, 2, last].into()], given: Arc::default() };
    let v4 = FamilyAnswer::Addresses { turns: vec![turn], stale: false };
    NameAnswer { v4, v6: FamilyAnswer::Empty, bypass: false }
}

fn table(upstream: SocketAddr, limits: Limits, generation: u64) -> Table {
    let settings = |name: &str| NameSettings { name: name.parse().unwrap(), ttl: 1, other_types: OtherTypes::NoData };
    let mut snapshot = Snapshot::new(generation, vec![settings(KNOWN), settings(COLD)], &[]);
    snapshot.set(0, known(1));
    let routes = vec![upstream::Route { servers: vec![upstream], fastest: false }];
    let settings =
        upstream::Settings { routes, timeout: Duration::from_secs(4), max_forwards: 64, looping: Vec::new() };
    let forwarding = Forwarding { settings, source: None };
    Table { snapshot, forwarding, limits }
}

fn start_with(connections: usize, notify: Notify) -> Running {
    let upstream = StdUdp::bind("127.0.0.1:0").unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    let limits = Limits { tcp_connections: connections, tcp_idle: Duration::from_secs(10) };
    let table = table(upstream.local_addr().unwrap(), limits, 1);
    let listener = os::sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address;
    let (signals, reload, stop) = Signals::scripted();
    let (sender, notices) = channel();
    let (totals, names) = (Arc::new(Totals::default()), Arc::clone(table.snapshot.counters()));
    let setup = Setup {
        listeners: vec![listener],
        table,
        totals: Arc::clone(&totals),
        clock: Clock::new(),
        signals,
        notify,
        notices: Box::new(move |notice| drop(sender.send(notice))),
    };
    let (server, updates) = Server::new(setup, Instant::now()).unwrap();
    let thread = Some(std::thread::spawn(move || server.run()));
    Running { address, updates, notices, totals, names, reload, stop, thread, upstream }
}

fn start() -> Running {
    start_with(8, Notify::none())
}

impl Running {
    fn udp(&self) -> StdUdp {
        let socket = StdUdp::bind("127.0.0.1:0").unwrap();
        socket.connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn tcp(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn end(&mut self) {
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    fn wait_for(&self, wanted: impl Fn(&Notice) -> bool) -> Notice {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let notice = self.notices.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap();
            if wanted(&notice) {
                return notice;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.write(b"xx");
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(name.parse::<HostName>().unwrap().as_wire());
    message.extend([0, 1, 0, 1]);
    message
}

/// A client of a listener of either family.
fn client(to: SocketAddr) -> StdUdp {
    let local: SocketAddr = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
    let socket = StdUdp::bind(local).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

fn receive(socket: &StdUdp) -> Vec<u8> {
    let mut buffer = [0; 2000];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

fn read_frame(socket: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    socket.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    socket.read_exact(&mut message).unwrap();
    message
}

fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

fn rcode(message: &[u8]) -> u8 {
    message[3] & 15
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn datagrams_are_answered_and_counted_among_garbage() {
    let server = start();
    let (socket, rubbish) = (server.udp(), server.udp());
    for round in 0..500u16 {
        rubbish.send(&[0xff; 5]).unwrap();
        socket.send(&query(round, KNOWN)).unwrap();
        let reply = receive(&socket);
        assert_eq!(id(&reply), round);
        assert_eq!(reply[reply.len() - 4..], [192, 0, 2, 1]);
    }
    let name = server.names.name(0).unwrap();
    assert_eq!(name.queries(crate::dns::answer::QueryKind::A), 500);
    assert_eq!(name.answers(crate::dns::answer::Kind::A), 500);
    assert!(name.asked_ms() > 0);
    until("garbage is counted", || server.totals.dropped_short.get() == 500);
}

#[test]
fn a_query_ends_idleness_once() {
    let server = start();
    server.names.name(0).unwrap().set_idle();
    let socket = server.udp();
    for round in 0..2 {
        socket.send(&query(round, KNOWN)).unwrap();
        receive(&socket);
    }
    let asked = server.notices.try_iter().filter(|notice| matches!(notice, Notice::Asked { generation: 1, name: 0 }));
    assert_eq!(asked.count(), 1);
}

#[test]
fn tcp_answers_what_comes_in_one_write_or_byte_by_byte() {
    let server = start();
    let mut socket = server.tcp();
    let all: Vec<u8> = (0..100).flat_map(|round| framed(&query(round, KNOWN))).collect();
    socket.write_all(&all).unwrap();
    for round in 0..100 {
        assert_eq!(id(&read_frame(&mut socket)), round);
    }
    socket.set_nodelay(true).unwrap();
    for byte in framed(&query(777, KNOWN)) {
        socket.write_all(&[byte]).unwrap();
    }
    assert_eq!(id(&read_frame(&mut socket)), 777);
}

#[test]
fn a_half_closed_connection_gets_its_answers_and_is_closed() {
    let server = start();
    let mut socket = server.tcp();
    socket.write_all(&[framed(&query(1, KNOWN)), framed(&query(2, COLD))].concat()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(id(&read_frame(&mut socket)), 1);
    server.updates.send(Update::Answer { name: 1, answer: known(7) }).unwrap();
    assert_eq!(id(&read_frame(&mut socket)), 2);
    assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn at_the_limit_the_longest_idle_connection_gives_way() {
    let server = start_with(2, Notify::none());
    let (mut first, mut second) = (server.tcp(), server.tcp());
    for socket in [&mut second, &mut first] {
        socket.write_all(&framed(&query(1, KNOWN))).unwrap();
        read_frame(socket);
    }
    let mut third = server.tcp();
    assert_eq!(second.read(&mut [0; 1]).unwrap(), 0, "the longest idle one is closed");
    for socket in [&mut first, &mut third] {
        socket.write_all(&framed(&query(2, KNOWN))).unwrap();
        assert_eq!(id(&read_frame(socket)), 2);
    }
    assert_eq!(server.totals.tcp_evicted.get(), 1);
}

#[test]
fn a_parked_query_is_answered_when_its_name_is_and_after_a_second_otherwise() {
    let server = start();
    let socket = server.udp();
    let begun = Instant::now();
    socket.send(&query(1, COLD)).unwrap();
    let reply = receive(&socket);
    assert_eq!((id(&reply), rcode(&reply)), (1, 2), "nothing is known");
    assert!(begun.elapsed() >= Duration::from_millis(990), "{:?}", begun.elapsed());

    socket.send(&query(2, COLD)).unwrap();
    until("it is parked", || server.totals.parked.get() == 2);
    server.updates.send(Update::Answer { name: 1, answer: known(9) }).unwrap();
    let reply = receive(&socket);
    assert_eq!((id(&reply), rcode(&reply)), (2, 0));
    assert_eq!(reply[reply.len() - 4..], [192, 0, 2, 9]);
}

#[test]
fn the_oldest_parked_queries_give_way() {
    let server = start();
    let socket = server.udp();
    for round in 0..1100u16 {
        socket.send(&query(round, COLD)).unwrap();
        // Not faster than the socket's buffer takes them.
        if round % 100 == 99 {
            until("they were read", || server.totals.udp_received.get() == u64::from(round) + 1);
        }
    }
    assert_eq!(id(&receive(&socket)), 0);
    until("the excess is shed or too old", || server.totals.parked_shed.get() > 0);
}

#[test]
fn what_is_not_configured_is_forwarded_both_ways() {
    let server = start();
    let (udp, mut tcp) = (server.udp(), server.tcp());
    udp.send(&query(5, "elsewhere.test")).unwrap();
    let mut buffer = [0; 600];
    let (length, har) = server.upstream.recv_from(&mut buffer).unwrap();
    buffer[2] |= 0x80;
    server.upstream.send_to(&buffer[..length], har).unwrap();
    assert_eq!(id(&receive(&udp)), 5);
    tcp.write_all(&framed(&query(6, KNOWN))).unwrap();
    assert_eq!(id(&read_frame(&mut tcp)), 6);
    assert_eq!(server.totals.forwarded.get(), 1);
}

#[test]
fn a_probe_that_comes_back_is_told() {
    let server = start();
    let probe: HostName = "har-loop-test-4711.probe.test".parse().unwrap();
    server.updates.send(Update::Probes(vec![probe.clone()])).unwrap();
    let socket = server.udp();
    socket.send(&query(5, "HAR-loop-test-4711.probe.test")).unwrap();
    assert_eq!(rcode(&receive(&socket)), 5);
    let told = server.wait_for(|notice| matches!(notice, Notice::Returned { .. }));
    assert!(matches!(told, Notice::Returned { probe: name } if name == probe));
}

#[test]
fn a_stop_waits_for_queries_under_way_and_a_second_one_does_not() {
    let mut server = start();
    let socket = server.udp();
    socket.send(&query(1, COLD)).unwrap();
    until("it is parked", || server.totals.parked.get() == 1);
    server.stop.write_all(b"x").unwrap();
    server.wait_for(|notice| matches!(notice, Notice::Stopping));
    until("TCP is closed", || TcpStream::connect(server.address).is_err());
    server.updates.send(Update::Answer { name: 1, answer: known(3) }).unwrap();
    assert_eq!(id(&receive(&socket)), 1);
    server.end();

    let mut server = start();
    let socket = server.udp();
    socket.send(&query(1, "elsewhere.test")).unwrap();
    until("it is under way", || server.totals.forwarded.get() == 1);
    let begun = Instant::now();
    server.stop.write_all(b"xx").unwrap();
    server.end();
    assert!(begun.elapsed() < STOP_WITHIN, "{:?}", begun.elapsed());
}

#[test]
fn the_service_manager_is_told() {
    let name = format!("har-serve-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let notify = Notify::to(format!("@{name}").as_bytes(), Some(Duration::from_millis(40))).unwrap();
    let mut server = start_with(8, notify);
    // What came besides food for the watchdog until then.
    let wait = |wanted: &str| {
        let mut buffer = [0; 200];
        let mut before = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "{wanted}");
            let length = manager.recv(&mut buffer).unwrap();
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.starts_with(wanted) {
                return before;
            }
            before.extend((message != "WATCHDOG=1").then_some(message));
        }
    };
    // A reload during the start is no READY: first results are still awaited.
    server.reload.write_all(b"x").unwrap();
    server.wait_for(|notice| matches!(notice, Notice::Reload));
    server.updates.send(Update::Reloaded).unwrap();
    for status in ["one", "two"] {
        server.updates.send(Update::Status(status.to_owned())).unwrap();
        assert_eq!(wait(&format!("STATUS={status}")), [""; 0]);
    }
    server.updates.send(Update::Ready).unwrap();
    wait("READY=1");
    server.updates.send(Update::Status("fine".to_owned())).unwrap();
    wait("STATUS=fine");
    server.updates.beat(Duration::ZERO);
    wait("WATCHDOG=1");
    // One beat that announces a sleep feeds it more than once.
    server.updates.beat(Duration::from_millis(500));
    wait("WATCHDOG=1");
    wait("WATCHDOG=1");
    wait("WATCHDOG=1");
    server.reload.write_all(b"x").unwrap();
    wait("RELOADING=1");
    server.wait_for(|notice| matches!(notice, Notice::Reload));
    let limits = Limits { tcp_connections: 8, tcp_idle: Duration::from_secs(1) };
    let new = table(server.upstream.local_addr().unwrap(), limits, 2);
    server.updates.send(Update::Table(Box::new(new))).unwrap();
    wait("READY=1");
    // Without a sign of life of the poller the watchdog goes hungry; what was sent before is read first.
    manager.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut buffer = [0; 200];
    let deadline = Instant::now() + PATIENCE;
    while manager.recv(&mut buffer).is_ok() {
        assert!(Instant::now() < deadline, "the watchdog is fed without a heartbeat");
    }
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    server.updates.send(Update::Stop).unwrap();
    wait("STOPPING=1");
    server.end();
}

#[test]
fn bursts_of_both_families_are_answered_each_to_its_own_client() {
    let server = start();
    let six = os::sockets::bind("[::1]:0".parse().unwrap()).unwrap();
    let (four, six_address) = (server.address, six.address);
    server.updates.send(Update::Listeners { add: vec![six], remove: Vec::new() }).unwrap();
    for round in 0..20 {
        // More than one batch of each family, and a round of single ones.
        let count = if round == 0 { 1 } else { 50 };
        let clients: Vec<StdUdp> = (0..count).flat_map(|_| [client(four), client(six_address)]).collect();
        for (number, client) in (0..).zip(&clients) {
            client.send(&query(number, KNOWN)).unwrap();
            client.send(&query(number + 1000, KNOWN)).unwrap();
        }
        for (number, client) in (0..).zip(&clients) {
            assert_eq!([id(&receive(client)), id(&receive(client))], [number, number + 1000]);
        }
    }
}

#[test]
fn forwarded_replies_that_come_together_go_each_to_its_own_client() {
    let server = start();
    let six = os::sockets::bind("[::1]:0".parse().unwrap()).unwrap();
    let (four, six_address) = (server.address, six.address);
    server.updates.send(Update::Listeners { add: vec![six], remove: Vec::new() }).unwrap();
    for round in 0..5 {
        // More than one batch of one family, then some of the other, then both in turn.
        let listeners = [vec![four; 40], vec![six_address; 10], vec![four, six_address, four, six_address]].concat();
        let clients: Vec<StdUdp> = listeners.into_iter().map(client).collect();
        let asked = |number: u16| query(number, &format!("n{round}-{number}.elsewhere.test"));
        for (number, client) in (0..).zip(&clients) {
            client.send(&asked(number)).unwrap();
        }
        // All are held until the last one is there.
        let mut held = Vec::new();
        while held.len() < clients.len() {
            let mut buffer = [0; 600];
            let (length, har) = server.upstream.recv_from(&mut buffer).unwrap();
            buffer[2] |= 0x80;
            // A retransmission of one that waits long is not another query.
            if !held.iter().any(|(other, _): &(Vec<u8>, _)| other[12..] == buffer[12..length]) {
                held.push((buffer[..length].to_vec(), har));
            }
        }
        for (reply, har) in &held {
            server.upstream.send_to(reply, *har).unwrap();
        }
        for (number, client) in (0..).zip(&clients) {
            let reply = receive(client);
            assert_eq!((id(&reply), &reply[12..]), (number, &asked(number)[12..]));
        }
    }
}

#[test]
fn listeners_come_and_go() {
    let server = start();
    let added = os::sockets::bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let address = added.address;
    server.updates.send(Update::Listeners { add: vec![added], remove: vec![server.address] }).unwrap();
    let socket = StdUdp::bind("127.0.0.2:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&query(4, KNOWN), address).unwrap();
    assert_eq!(id(&receive(&socket)), 4);
    until("the old one is closed", || TcpStream::connect(server.address).is_err());
}
