//! Single situations of the core, step by step.

mod counts;
mod tcp;

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::*;

/// A query for `name.example`, type A.
pub(super) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.push(name.len() as u8);
    message.extend(name.as_bytes());
    message.extend(b"\x07example\0\0\x01\0\x01");
    message
}

/// A reply to it without records.
pub(super) fn reply(query: &[u8], rcode: u16) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] |= 0x80;
    message[3] = 0x80 | rcode as u8;
    message
}

/// Settings with the usual timeout.
pub(super) fn with_limits(routes: Vec<Route>, max_forwards: usize) -> Settings {
    Settings { routes, timeout: Duration::from_secs(4), max_forwards, looping: Vec::new() }
}

fn listed(servers: &[u8]) -> Route {
    let servers = servers.iter().map(|last| address(*last)).collect();
    Route { suffix: String::new(), servers, fastest: false }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 53))
}

fn udp(port: u16) -> Client {
    Client::Udp { listener: 0, peer: SocketAddr::from(([127, 0, 0, 1], port)) }
}

fn tcp(connection: u64) -> Client {
    Client::Tcp { connection }
}

/// What left the core: where from, to whom, and the bytes.
#[derive(Clone, Debug)]
struct Sent {
    from: Key,
    to: u8,
    tcp: bool,
    bytes: Vec<u8>,
}

/// A core whose actions are noted instead of executed.
struct Table {
    core: InFlight,
    base: Instant,
    peers: HashMap<(bool, Key), u8>,
    closed: Vec<Key>,
    number: u64,
}

impl Table {
    fn new(routes: Vec<Route>, max_forwards: usize) -> Table {
        let core = InFlight::new(&with_limits(routes, max_forwards));
        Table { core, base: Instant::now(), peers: HashMap::new(), closed: Vec::new(), number: 1 }
    }

    fn call<T>(&mut self, millis: u64, run: impl FnOnce(&mut InFlight, Instant, Random<'_>) -> T) -> T {
        let number = &mut self.number;
        let mut random = || {
            *number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *number ^ (*number >> 32)
        };
        let result = run(&mut self.core, self.base + Duration::from_millis(millis), &mut random);
        self.core.debug_assert_invariants();
        result
    }

    fn ask(&mut self, client: Client, message: &[u8], millis: u64) -> Vec<Sent> {
        self.ask_as(client, message, 0, None, millis)
    }

    fn ask_as(
        &mut self,
        client: Client,
        message: &[u8],
        route: u16,
        named: Option<Named<'_>>,
        millis: u64,
    ) -> Vec<Sent> {
        let parsed = wire::parse(message).unwrap();
        self.call(millis, |core, now, random| core.submit(client, &parsed, route, named, now, random));
        self.sent()
    }

    fn receive(&mut self, to: &Sent, bytes: &[u8], millis: u64) -> Vec<Sent> {
        self.call(millis, |core, now, random| match to.tcp {
            true => core.stream_message(to.from, bytes, now, random),
            false => core.datagram(to.from, bytes, now, random),
        });
        self.sent()
    }

    fn fail(&mut self, of: &Sent, failure: Failure, millis: u64) -> Vec<Sent> {
        self.call(millis, |core, now, random| match of.tcp {
            true => core.stream_closed(of.from, failure, now, random),
            false => core.socket_failed(of.from, failure, now, random),
        });
        self.sent()
    }

    fn expire(&mut self, millis: u64) -> Vec<Sent> {
        self.call(millis, |core, now, random| core.expire(now, random));
        self.sent()
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(action) = self.core.next_action() {
            let ip = |server: SocketAddr| match server {
                SocketAddr::V4(server) => server.ip().octets()[3],
                SocketAddr::V6(_) => 0,
            };
            let (from, query, id, tcp) = match action {
                Action::OpenSocket { socket, server } => {
                    self.peers.insert((false, socket), ip(server));
                    continue;
                }
                Action::OpenStream { stream, server } => {
                    self.peers.insert((true, stream), ip(server));
                    continue;
                }
                Action::CloseSocket { socket: key } | Action::CloseStream { stream: key } => {
                    self.closed.push(key);
                    continue;
                }
                Action::Send { socket, query, id } => (socket, query, id, false),
                Action::SendStream { stream, query, id } => (stream, query, id, true),
            };
            let bytes = self.core.message(query, id).unwrap().to_vec();
            sent.push(Sent { from, to: self.peers[&(tcp, from)], tcp, bytes });
        }
        sent
    }

    fn reply(&mut self) -> Option<(Client, Vec<u8>)> {
        self.core.next_reply().map(|(client, reply)| (client, reply.to_vec()))
    }

    fn code(&mut self) -> Option<u16> {
        self.reply().and_then(|(_, reply)| wire::rcode(&reply))
    }

    /// Makes a server known as one that answers within a millisecond.
    fn prove(&mut self, millis: u64) {
        let sent = self.ask(udp(60_000), &query(1, "proof"), millis);
        self.receive(&sent[0], &reply(&sent[0].bytes, 0), millis + 1);
        assert_eq!(self.code(), Some(0));
    }
}

fn to(sent: &[Sent]) -> Vec<u8> {
    sent.iter().map(|sent| sent.to).collect()
}

#[test]
fn a_reply_is_adapted_to_its_client() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    // Name, whether configured, code and length of the reply; code, truncation and length that the client gets.
    for (configured, code, length, expected, truncated, expected_length) in [
        (false, 0, 100, 0, false, 100),
        (false, 3, 100, 3, false, 100),
        (true, 3, 100, 0, false, 100),
        (false, 0, 512, 0, false, 512),
        (false, 0, 513, 0, true, 29),
        (false, 1, 29, 1, false, 29),
        (false, 9, 29, 9, false, 29),
    ] {
        let asked = query(500, "abc");
        let names = Arc::new(NameTable::new(0, 1));
        let named = configured.then_some(Named { table: &names, name: 0, exists: true });
        let sent = table.ask_as(udp(1), &asked, 0, named, 0);
        let mut answer = reply(&sent[0].bytes, code);
        answer.resize(length, 0);
        table.receive(&sent[0], &answer, 1);
        let (client, got) = table.reply().unwrap();
        assert_eq!((client, wire::id(&got), wire::rcode(&got)), (udp(1), Some(500), Some(expected)));
        assert_eq!((wire::is_truncated(&got), got.len()), (truncated, expected_length), "{code} {length}");
    }
}

#[test]
fn what_does_not_match_is_ignored_and_the_wait_goes_on() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let sent = table.ask(udp(1), &query(1, "abc"), 0).remove(0);
    let right = reply(&sent.bytes, 0);
    let change = |at: usize| {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        wrong
    };
    let not_a_response = sent.bytes.clone();
    let other_name = reply(&query(wire::id(&sent.bytes).unwrap(), "abd"), 0);
    let bare_servfail = [&right[..3], &[2, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    let ignored = [change(0), change(1), not_a_response, other_name, bare_servfail, Vec::new(), vec![0; 11]];
    for wrong in &ignored {
        table.receive(&sent, wrong, 1);
        assert_eq!(table.reply(), None, "{wrong:?}");
    }
    assert_eq!(table.core.books().ignored, ignored.len() as u64);
    let bare_formerr = [&right[..3], &[1, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    table.receive(&sent, &bare_formerr, 2);
    assert_eq!(table.code(), Some(1));
    // It came once; the socket is gone.
    table.receive(&sent, &right, 3);
    assert_eq!(table.reply(), None);
}

#[test]
fn a_clients_retransmission_joins() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    assert_eq!(table.ask(udp(1), &query(7, "a"), 0).len(), 1);
    assert_eq!(table.ask(udp(1), &query(7, "a"), 5).len(), 0);
    // Another name, id or port is another query; so is each query of a connection.
    for (client, message) in [(udp(1), query(7, "b")), (udp(1), query(8, "a")), (udp(2), query(7, "a"))] {
        assert_eq!(table.ask(client, &message, 5).len(), 1);
    }
    assert_eq!(table.ask(tcp(1), &query(7, "a"), 5).len(), 1);
    assert_eq!(table.ask(tcp(1), &query(7, "a"), 5).len(), 1);
    assert_eq!((table.core.books().joined, table.core.under_way()), (1, 6));
}

#[test]
fn past_the_limit_the_oldest_gives_way() {
    let mut table = Table::new(vec![listed(&[1])], 2);
    for port in 1..=3 {
        table.ask(udp(port), &query(port, "a"), u64::from(port));
    }
    let (client, reply) = table.reply().unwrap();
    assert_eq!((client, wire::id(&reply), wire::rcode(&reply)), (udp(1), Some(1), Some(rcode::SERVFAIL)));
    assert_eq!((table.core.under_way(), table.core.books().shed, table.closed.len()), (2, 1, 1));
}

#[test]
fn the_same_datagram_first_then_another_server() {
    let mut table = Table::new(vec![listed(&[1, 2])], 10);
    table.prove(0);
    let first = table.ask(udp(1), &query(1, "a"), 100);
    assert_eq!(to(&first), [1]);
    assert!(table.expire(114).is_empty());
    let second = table.expire(115);
    assert_eq!((second[0].from, &second[0].bytes), (first[0].from, &first[0].bytes));
    let third = table.expire(130);
    assert_eq!(to(&third), [2]);
    // The first one's answer counts still.
    table.receive(&first[0], &reply(&first[0].bytes, 0), 131);
    assert_eq!(table.code(), Some(0));
}

#[test]
fn a_server_never_heard_is_not_asked_twice_before_the_next() {
    let mut table = Table::new(vec![listed(&[1, 2])], 10);
    assert_eq!(to(&table.ask(udp(1), &query(1, "a"), 0)), [1]);
    assert_eq!(to(&table.expire(15)), [2]);
}

#[test]
fn servfail_and_refused_are_tried_elsewhere_and_the_best_is_relayed() {
    // Replies of the servers in turn, what the client gets, servers asked.
    for (codes, expected, asked) in [
        (&[2, 0][..], 0, 2),
        (&[5, 3], 3, 2),
        (&[5, 2, 5], 2, 3),
        (&[2, 5, 5], 2, 3),
        (&[5, 5, 5], 5, 3),
        (&[3], 3, 1),
        (&[4], 4, 1),
    ] {
        let mut table = Table::new(vec![listed(&[1, 2, 3])], 10);
        let mut sent = table.ask(udp(1), &query(1, "a"), 0);
        for (count, code) in codes.iter().enumerate() {
            assert_eq!(to(&sent), [count as u8 + 1], "{codes:?}");
            assert_eq!(table.reply(), None);
            sent = table.receive(&sent[0], &reply(&sent[0].bytes, *code), 1);
        }
        assert_eq!(table.code(), Some(expected), "{codes:?}");
        assert_eq!(table.core.books().sent, asked);
    }
}

#[test]
fn a_server_that_always_fails_is_left_out_and_comes_back() {
    let mut table = Table::new(vec![listed(&[1, 2])], 10);
    for round in 0..5 {
        let sent = table.ask(udp(round), &query(1, "a"), 0);
        assert_eq!(to(&sent), [1]);
        let sent = table.receive(&sent[0], &reply(&sent[0].bytes, 5), 1);
        table.receive(&sent[0], &reply(&sent[0].bytes, 0), 2);
        assert_eq!(table.code(), Some(0));
    }
    let sent = table.ask(udp(9), &query(1, "a"), 10);
    assert_eq!(to(&sent), [2]);
    table.receive(&sent[0], &reply(&sent[0].bytes, 0), 11);
    assert_eq!(table.code(), Some(0));
    // A copy finds it well again.
    let sent = table.ask(udp(10), &query(1, "a"), 2500);
    assert_eq!(to(&sent), [2, 1]);
    table.receive(&sent[0], &reply(&sent[0].bytes, 0), 2501);
    assert_eq!(table.code(), Some(0));
    table.receive(&sent[1], &reply(&sent[1].bytes, 0), 2502);
    assert_eq!(table.reply(), None);
    assert_eq!(to(&table.ask(udp(11), &query(1, "a"), 2510)), [1]);
}

#[test]
fn the_fastest_is_asked_once_all_are_measured() {
    let servers = vec![address(1), address(2)];
    let mut table = Table::new(vec![Route { fastest: true, servers, ..listed(&[]) }], 10);
    let mut sent = table.ask(udp(1), &query(1, "a"), 0);
    sent.sort_by_key(|sent| sent.to);
    assert_eq!(to(&sent), [1, 2]);
    table.receive(&sent[1], &reply(&sent[1].bytes, 0), 2);
    table.receive(&sent[0], &reply(&sent[0].bytes, 0), 9);
    assert_eq!(to(&table.ask(udp(2), &query(1, "a"), 10)), [2]);
    assert_eq!(table.core.books().answered, 1);
}

#[test]
fn nothing_answers_servfail_in_time() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    table.ask(udp(1), &query(1, "a"), 0);
    let mut sent = 1;
    while let Some(at) = table.core.deadline().filter(|_| table.core.under_way() > 0) {
        sent += table.expire(at.duration_since(table.base).as_millis() as u64).len();
    }
    assert_eq!(table.code(), Some(rcode::SERVFAIL));
    assert!((5..=10).contains(&sent), "{sent} transmissions");
    assert_eq!(table.core.books().expired, 1);
}

#[test]
fn a_closed_port_of_the_only_server_is_said_after_a_second() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let mut sent = table.ask(udp(1), &query(1, "a"), 0);
    let mut now = 0;
    while table.core.under_way() > 0 {
        for sent in std::mem::take(&mut sent) {
            table.fail(&sent, Failure::Refused, now);
        }
        now = table.core.deadline().unwrap().duration_since(table.base).as_millis() as u64;
        sent = table.expire(now);
    }
    assert_eq!(table.code(), Some(rcode::SERVFAIL));
    assert!((1000..1010).contains(&now), "{now}");
}

#[test]
fn no_server_is_servfail_at_once() {
    let mut table = Table::new(vec![listed(&[])], 10);
    assert!(table.ask(udp(1), &query(1, "a"), 0).is_empty());
    assert_eq!(table.code(), Some(rcode::SERVFAIL));
    let parsed = query(1, "a");
    let parsed = wire::parse(&parsed).unwrap();
    table.call(0, |core, now, random| core.submit(udp(1), &parsed, 7, None, now, random));
    assert_eq!(table.code(), Some(rcode::SERVFAIL));
    assert_eq!(table.core.deadline(), None);
}

#[test]
fn without_descriptors_an_open_socket_is_shared_or_the_query_waits() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let first = table.ask(udp(1), &query(1, "a"), 0);
    let second = table.ask(udp(2), &query(2, "b"), 0);
    let shared = table.fail(&second[0], Failure::Exhausted, 0);
    assert_eq!(shared[0].from, first[0].from);
    table.receive(&shared[0], &reply(&shared[0].bytes, 0), 1);
    assert_eq!(table.reply().unwrap().0, udp(2));
    table.receive(&first[0], &reply(&first[0].bytes, 0), 1);
    assert_eq!(table.reply().unwrap().0, udp(1));
    let alone = table.ask(udp(3), &query(3, "c"), 10);
    assert!(table.fail(&alone[0], Failure::Exhausted, 10).is_empty());
    let again = table.expire(25);
    table.receive(&again[0], &reply(&again[0].bytes, 0), 26);
    assert_eq!(table.reply().unwrap().0, udp(3));
    let stream = table.ask(tcp(1), &query(4, "d"), 30);
    assert!(table.fail(&stream[0], Failure::Exhausted, 30).is_empty());
    let again = table.expire(230);
    table.receive(&again[0], &reply(&again[0].bytes, 0), 231);
    assert_eq!(table.reply().unwrap().0, tcp(1));
}

#[test]
fn a_tcp_client_gets_no_truncated_reply() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let sent = table.ask(tcp(1), &query(1, "a"), 0);
    assert!(sent[0].tcp);
    let sent = table.fail(&sent[0], Failure::Refused, 1);
    assert!(!sent[0].tcp);
    let mut truncated = reply(&sent[0].bytes, 0);
    truncated[2] |= 2;
    table.receive(&sent[0], &truncated, 2);
    assert_eq!(table.code(), Some(rcode::SERVFAIL));
    // The next one starts over UDP, and TCP gets another chance.
    let sent = table.ask(tcp(2), &query(1, "a"), 10);
    assert!(!sent[0].tcp);
    let sent = table.receive(&sent[0], &truncated_reply(&sent[0].bytes), 11);
    assert!(sent[0].tcp);
    table.receive(&sent[0], &reply(&sent[0].bytes, 0), 12);
    assert_eq!(table.code(), Some(0));
}

fn truncated_reply(query: &[u8]) -> Vec<u8> {
    let mut message = reply(query, 0);
    message[2] |= 2;
    message
}

#[test]
fn a_connection_that_dies_is_replaced_once_and_idle_ones_are_closed() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    let first = table.ask(tcp(1), &query(1, "a"), 0);
    let again = table.fail(&first[0], Failure::Closed, 1);
    assert!(again.len() == 1 && again[0].tcp && again[0].from != first[0].from);
    table.receive(&again[0], &reply(&again[0].bytes, 0), 2);
    assert_eq!(table.code(), Some(0));
    while let Some(at) = table.core.deadline() {
        table.expire(at.duration_since(table.base).as_millis() as u64);
    }
    assert_eq!(table.closed, [again[0].from]);
}

#[test]
fn tcp_that_is_silently_dropped_is_replaced_by_udp() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    table.prove(0);
    let mut sent = table.ask(tcp(1), &query(1, "a"), 100);
    while sent.iter().all(|sent| sent.tcp) {
        let at = table.core.deadline().unwrap().duration_since(table.base).as_millis() as u64;
        assert!(at < 3000);
        sent = table.expire(at);
    }
    let udp = sent.into_iter().find(|sent| !sent.tcp).unwrap();
    table.receive(&udp, &reply(&udp.bytes, 0), 2900);
    assert_eq!(table.code(), Some(0));
}

#[test]
fn new_servers_take_over_what_is_under_way() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    table.prove(0);
    let old = table.ask(udp(1), &query(1, "a"), 10);
    let other = table.ask(udp(2), &query(2, "b"), 10);
    table.call(11, |core, _, _| core.reconfigure(&with_limits(vec![listed(&[2])], 10)));
    let new = table.expire(25);
    assert_eq!(to(&new), [2, 2]);
    // The old server's answer counts too.
    table.receive(&old[0], &reply(&old[0].bytes, 0), 26);
    assert_eq!(table.reply().unwrap().0, udp(1));
    table.receive(&new[1], &reply(&new[1].bytes, 0), 27);
    assert_eq!(table.reply().unwrap().0, udp(2));
    table.receive(&other[0], &reply(&other[0].bytes, 0), 28);
    table.expire(5000);
    table.call(5001, |core, _, _| core.reconfigure(&with_limits(vec![listed(&[2, 3])], 10)));
    let known: Vec<_> = table.core.listed().into_iter().map(|server| server.address).collect();
    assert_eq!(known, [address(2), address(3)]);
}

#[test]
fn an_entry_keeps_its_size() {
    // It is moved several times for each query, and looked up by its place in the table more often.
    assert!(size_of::<Entry>() <= 240, "{}", size_of::<Entry>());
}

#[test]
fn a_burst_leaves_no_memory_behind() {
    let mut table = Table::new(vec![listed(&[1])], 4096);
    for port in 0..4000 {
        table.call(0, |core, now, random| {
            let message = query(port, "burst");
            core.submit(udp(port), &wire::parse(&message).unwrap(), 0, None, now, random);
            while core.next_action().is_some() {}
        });
        if port == 600 {
            assert!(table.core.sockets.open.len() <= 600, "sockets are shared past the limit");
        }
    }
    assert_eq!(table.core.under_way(), 4000);
    table.call(3990, |core, now, random| {
        core.expire(now, random);
        while core.next_action().is_some() {}
        while core.next_reply().is_some() {}
    });
    assert_eq!(table.core.under_way(), 0);
    assert!(table.core.spare.len() <= SPARE.0 && table.core.spare_entries.len() <= SPARE.0);
    assert!(table.core.ages.len() <= SPARE.0 && table.core.entries.len() == 0);
}

#[test]
fn guesses_are_saved_up_and_then_need_proof() {
    let now = Instant::now();
    let mut budget = Budget::new();
    (0..1000).for_each(|_| budget.query(now));
    let granted = (0..500).filter(|_| budget.extra(budget::Need::Guess, now)).count();
    assert!((20..100).contains(&granted), "{granted}");
    assert!(budget.extra(budget::Need::Replacement, now));
    (0..10).for_each(|_| budget.verdict(true));
    assert!(budget.extra(budget::Need::Guess, now));
    (0..10).for_each(|_| budget.verdict(false));
    assert!(!budget.extra(budget::Need::Guess, now));
    // Everything together is bounded by the last second's queries.
    let more = (0..5000).filter(|_| budget.extra(budget::Need::Replacement, now)).count();
    assert_eq!(granted + 2 + more, 1500);
    // All is used up: one knock a second is left, until queries earn more.
    let second = |n: u64| now + Duration::from_millis(1200 * n);
    let extras = |budget: &mut Budget, at| (0..100).filter(|_| budget.extra(budget::Need::Replacement, at)).count();
    assert_eq!(extras(&mut budget, second(1)), 1);
    (0..20).for_each(|n| budget.query(second(2 + n)));
    assert_eq!(extras(&mut budget, second(30)), 8, "saved up by queries that needed none");
    assert_eq!(extras(&mut budget, second(31)), 1);
}

#[test]
fn rare_queries_share_one_account() {
    let mut budget = Budget::new();
    let start = Instant::now();
    // A query every two seconds, and whoever waits wants as much as there is.
    let mut extras = 0;
    for n in 0..100 {
        let at = start + Duration::from_secs(2 * n);
        budget.query(at);
        extras += (0..20).filter(|_| budget.extra(budget::Need::Replacement, at)).count();
    }
    assert!((100..=158).contains(&extras), "{extras} for 100 queries, eight of them saved from the start");
}

#[test]
fn a_server_dies_of_three_misses_in_a_row() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut server = servers::Server::new(address(1));
    assert!(!server.missed(at(0), at(15)) && !server.missed(at(0), at(30)));
    server.heard(Some(Duration::from_millis(1)), true, at(31));
    // Sent before it was last heard: no sign of silence.
    assert!(!server.missed(at(30), at(45)));
    assert!(!server.missed(at(40), at(55)) && !server.missed(at(41), at(56)) && !server.is_dead());
    assert!(server.missed(at(42), at(57)) && server.is_dead());
    // A copy every two seconds; an error does not bring it back, an answer does.
    assert!(!server.copy_due(servers::Explore::Nobody, at(1000)));
    assert!(server.copy_due(servers::Explore::Nobody, at(2057)));
    assert!(!server.copy_due(servers::Explore::Nobody, at(2058)));
    server.heard(None, false, at(2060));
    assert!(server.is_dead());
    server.heard(None, true, at(2061));
    assert!(!server.is_dead());
}

#[test]
fn a_server_that_leads_back_is_not_asked_and_its_record_is_kept() {
    let mut table = Table::new(vec![listed(&[1, 2])], 10);
    let sent = table.ask(udp(1), &query(7, "a"), 0);
    assert_eq!(sent[0].to, 1);
    let mut settings = with_limits(vec![listed(&[1, 2])], 10);
    settings.looping = vec![address(1)];
    table.core.reconfigure(&settings);
    // What is under way goes on elsewhere, and so does what is new.
    let again = table.expire(20);
    assert_eq!(again.iter().map(|sent| sent.to).collect::<Vec<_>>(), [2]);
    assert_eq!(table.ask(udp(2), &query(8, "b"), 21)[0].to, 2);
    let servers = table.core.listed();
    let first = servers.iter().find(|server| server.address == address(1)).unwrap();
    assert!(first.state.looping.load(Relaxed) && first.counters.queries.load(Relaxed) == 1);
    // Nobody is left: the new fails at once, the old waits for what is out and asks nobody.
    settings.looping = vec![address(1), address(2)];
    table.core.reconfigure(&settings);
    assert!(table.ask(udp(3), &query(9, "c"), 30).is_empty());
    assert_eq!(table.core.books().failed, 1);
    assert!((40..1000).step_by(20).all(|at| table.expire(at).is_empty()));
    settings.looping.clear();
    table.core.reconfigure(&settings);
    assert_eq!(table.ask(udp(4), &query(10, "d"), 1001)[0].to, 1);
}

#[test]
fn a_failure_waits_for_the_budget_while_a_server_is_left_to_ask() {
    let mut table = Table::new(vec![listed(&[1, 2, 3])], 1000);
    let mut sent = Vec::new();
    for port in 0..100 {
        sent.extend(table.ask(udp(port), &query(port, "a"), 0));
    }
    // The first two fail everything: two extra transmissions for each, and only one and a half are to be had at once.
    let mut good = 0;
    for at in 1..3000 {
        sent.extend(table.expire(at));
        if at % 20 == 0 {
            sent.extend(table.ask(udp(100 + at as u16), &query(1, "a"), at));
        }
        let mut next = Vec::new();
        for sent in sent {
            let code = if sent.to == 3 { 0 } else { rcode::SERVFAIL };
            next.extend(table.receive(&sent, &reply(&sent.bytes, code), at));
        }
        sent = next;
        while let Some(code) = table.code() {
            assert_eq!(code, 0, "at {at}");
            good += 1;
        }
    }
    assert_eq!(good, 100 + 149);
}

#[test]
fn a_change_of_the_network_sends_again_at_once_but_not_each_time_it_flaps() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    (1..=3).for_each(|port| drop(table.ask(udp(port), &query(port, "a"), 0)));
    table.call(0, |core, now, _| while core.budget.extra(budget::Need::Replacement, now) {});
    let mut renew = |millis| {
        table.call(millis, |core, now, random| core.renew(now, random));
        table.sent().len()
    };
    assert_eq!(renew(1500), 3);
    // What was saved up for it is used up little by little.
    let more: usize = (4..16).map(|at| renew(400 * at)).sum();
    assert!((5..=8).contains(&more), "{more}");
}

#[test]
fn a_change_of_the_network_without_budget_is_followed_by_another_try() {
    let mut table = Table::new(vec![listed(&[1])], 10);
    table.ask(udp(1), &query(1, "a"), 0);
    table.expire(2000);
    table.call(2000, |core, now, _| while core.budget.extra(budget::Need::Replacement, now) {});
    // Eight in a second are enough, whatever changes.
    table.call(2000, |core, now, random| core.renew(now, random));
    assert!(table.sent().is_empty());
    let mut sent = Vec::new();
    for at in 2000..3970 {
        sent.extend(table.expire(at));
        assert_eq!(table.reply(), None, "{at}");
    }
    table.receive(&sent[0], &reply(&sent[0].bytes, 0), 3970);
    assert_eq!(table.code(), Some(0));
}
