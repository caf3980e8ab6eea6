//! A scripted upstream resolver on 127.0.0.1, UDP and TCP on one port.
//!
//! It answers from a table of names, misbehaves as told, for one name or for all, and keeps every query it
//! saw byte for byte. Everything can be changed while it runs.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::daemon::free_port;
use super::dns::{encode, framed, record_type};

/// How often a thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);

/// Of every record of the table until a test says otherwise, seconds.
const TTL: u32 = 60;

/// Of the SOA in empty answers at most, seconds.
const NEGATIVE_TTL: u32 = 5;

/// What the server does with a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Behaviour {
    /// Answers from the table.
    Answer,
    /// Answers from the table after this long.
    Delay(Duration),
    /// Says nothing.
    Drop,
    /// Says nothing to queries for AAAA records.
    DropAaaa,
    /// Says nothing to this many queries, then answers.
    DropFirst(usize),
    /// Answers with this code and nothing else.
    Rcode(ResponseCode),
    /// TC=1 and no records over UDP, the table over TCP.
    TruncateUdp,
    /// A datagram that is no DNS message, one with another id and one for another question; then the answer.
    LiesFirst,
    /// These bytes behind the id of the query.
    Raw(Vec<u8>),
}

/// A query as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Over TCP.
    pub tcp: bool,
    /// Every byte.
    pub bytes: Vec<u8>,
    /// From where.
    pub from: SocketAddr,
    /// Lower case, no trailing dot.
    pub name: String,
}

#[derive(Default)]
struct Table {
    zone: HashMap<(String, RecordType), Vec<RData>>,
    behaviours: HashMap<String, Behaviour>,
    general: Option<Behaviour>,
    ttl: Option<u32>,
    seen: Vec<Seen>,
    stopped: bool,
}

/// A scripted upstream resolver.
pub struct Upstream {
    address: SocketAddr,
    table: Arc<Mutex<Table>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Upstream {
    /// Starts one with an empty table: every name is NXDOMAIN.
    pub fn start() -> Upstream {
        Upstream::start_at("127.0.0.1:0")
    }

    /// As [`Upstream::start`] at a certain place.
    pub fn start_at(address: &str) -> Upstream {
        let address = address.parse().expect("an address with a port");
        let mut upstream = Upstream { address, table: Arc::default(), threads: Vec::new() };
        upstream.open();
        upstream
    }

    /// Where it listens (also after [`Upstream::close`]).
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes its ports: queries are refused by the kernel.
    pub fn close(&mut self) {
        self.table().stopped = true;
        for thread in self.threads.drain(..) {
            thread.join().expect("the server thread does not panic");
        }
    }

    /// Opens its ports, the same as before if there was a before.
    pub fn open(&mut self) {
        self.table().stopped = false;
        let wanted = self.address;
        let (udp, tcp) = super::wait_for("the upstream's port", || {
            let port = if wanted.port() == 0 { free_port(&[wanted.ip()]) } else { wanted.port() };
            let address = SocketAddr::new(wanted.ip(), port);
            Some((UdpSocket::bind(address).ok()?, TcpListener::bind(address).ok()?))
        });
        self.address = udp.local_addr().expect("bound");
        udp.set_read_timeout(Some(TICK)).expect("a time-out");
        tcp.set_nonblocking(true).expect("non-blocking");
        let table = Arc::clone(&self.table);
        self.threads.push(std::thread::spawn(move || serve_udp(&udp, &table)));
        let table = Arc::clone(&self.table);
        self.threads.push(std::thread::spawn(move || serve_tcp(&tcp, &table)));
    }

    /// Addresses of a name, of both families; none takes the name's A and AAAA records away.
    pub fn addresses(&self, name: &str, addresses: &[&str]) -> &Upstream {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let v4 = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(v4) => Some(RData::A(A(*v4))),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.iter().filter_map(|address| match address {
            IpAddr::V6(v6) => Some(RData::AAAA(AAAA(*v6))),
            IpAddr::V4(_) => None,
        });
        self.records(name, "A", v4.collect());
        self.records(name, "AAAA", v6.collect())
    }

    /// A TXT record of these strings.
    pub fn txt(&self, name: &str, strings: &[&str]) -> &Upstream {
        let strings = strings.iter().map(|text| (*text).to_owned()).collect();
        self.records(name, "TXT", vec![RData::TXT(TXT::new(strings))])
    }

    /// An alias; the target's addresses are added to the answer.
    pub fn alias(&self, name: &str, target: &str) -> &Upstream {
        self.records(name, "CNAME", vec![RData::CNAME(CNAME(absolute(target)))])
    }

    /// The records of a name and type in place of what was there; none takes them away.
    pub fn records(&self, name: &str, kind: &str, records: Vec<RData>) -> &Upstream {
        let key = (name.to_owned(), record_type(kind));
        let mut table = self.table();
        if records.is_empty() {
            table.zone.remove(&key);
        } else {
            table.zone.insert(key, records);
        }
        drop(table);
        self
    }

    /// What is done with queries for one name.
    pub fn behave(&self, name: &str, behaviour: Behaviour) -> &Upstream {
        self.table().behaviours.insert(name.to_owned(), behaviour);
        self
    }

    /// What is done with queries for every name without a behaviour of its own.
    pub fn behave_always(&self, behaviour: Behaviour) -> &Upstream {
        self.table().general = Some(behaviour);
        self
    }

    /// The TTL of every record from now on, seconds.
    pub fn ttl(&self, seconds: u32) -> &Upstream {
        self.table().ttl = Some(seconds);
        self
    }

    /// The queries for a name so far.
    pub fn seen(&self, name: &str) -> Vec<Seen> {
        self.table().seen.iter().filter(|seen| seen.name == name).cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        lock(&self.table).stopped = true;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().expect("no panic while locked")
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).expect("a domain name");
    name.set_fqdn(true);
    name
}

fn serve_udp(socket: &UdpSocket, table: &Arc<Mutex<Table>>) {
    let mut buffer = [0; 65_535];
    while !lock(table).stopped {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let Some((behaviour, replies)) = react(table, &buffer[..length], from, false) else { continue };
        let socket = socket.try_clone().expect("another handle");
        let send = move || replies.iter().for_each(|reply| drop(socket.send_to(reply, from)));
        if let Behaviour::Delay(delay) = behaviour {
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                send();
            });
        } else {
            send();
        }
    }
}

fn serve_tcp(listener: &TcpListener, table: &Arc<Mutex<Table>>) {
    while !lock(table).stopped {
        match listener.accept() {
            Ok((stream, from)) => {
                let table = Arc::clone(table);
                std::thread::spawn(move || serve_connection(stream, from, &table));
            }
            Err(_) => std::thread::sleep(TICK / 10),
        }
    }
}

fn serve_connection(mut stream: TcpStream, from: SocketAddr, table: &Arc<Mutex<Table>>) {
    let mut length = [0; 2];
    while stream.set_nonblocking(false).is_ok() && stream.read_exact(&mut length).is_ok() {
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() || lock(table).stopped {
            return;
        }
        let Some((behaviour, replies)) = react(table, &query, from, true) else { continue };
        let Ok(mut writer) = stream.try_clone() else { return };
        std::thread::spawn(move || {
            if let Behaviour::Delay(delay) = behaviour {
                std::thread::sleep(delay);
            }
            // Replies of one connection may come in any order, but each in one piece.
            replies.iter().for_each(|reply| drop(writer.write_all(&framed(reply))));
        });
    }
}

/// Notes a query and makes the replies to it; `None` when it is no DNS message.
fn react(table: &Arc<Mutex<Table>>, bytes: &[u8], from: SocketAddr, tcp: bool) -> Option<(Behaviour, Vec<Vec<u8>>)> {
    let query = Message::from_vec(bytes).ok()?;
    let question = query.queries.first()?;
    let name = question.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let mut table = lock(table);
    let seen = Seen { tcp, bytes: bytes.to_vec(), from, name: name.clone() };
    table.seen.push(seen);
    let own = table.behaviours.get(&name).cloned();
    let behaviour = own.or_else(|| table.general.clone()).unwrap_or(Behaviour::Answer);
    if let Behaviour::DropFirst(left @ 1..) = behaviour {
        let next = Behaviour::DropFirst(left - 1);
        match table.behaviours.get_mut(&name) {
            Some(own) => *own = next,
            None => table.general = Some(next),
        }
        return Some((behaviour, Vec::new()));
    }
    let answer = from_table(&table, &query, &name);
    let replies = match &behaviour {
        Behaviour::Drop => Vec::new(),
        Behaviour::DropAaaa if query.queries.iter().any(|query| query.query_type() == RecordType::AAAA) => Vec::new(),
        Behaviour::Answer | Behaviour::Delay(_) | Behaviour::DropFirst(_) | Behaviour::DropAaaa => {
            vec![encode(&answer)]
        }
        Behaviour::Rcode(code) => vec![encode(&empty(&query, *code))],
        Behaviour::TruncateUdp if tcp => vec![encode(&answer)],
        Behaviour::TruncateUdp => {
            let mut cut = empty(&query, ResponseCode::NoError);
            cut.metadata.truncation = true;
            vec![encode(&cut)]
        }
        Behaviour::LiesFirst => lies(&answer).into_iter().chain([encode(&answer)]).collect(),
        Behaviour::Raw(rest) => vec![[&bytes[..2], rest].concat()],
    };
    Some((behaviour, replies))
}

/// What an attacker who guesses would send: none of it is the answer.
fn lies(answer: &Message) -> Vec<Vec<u8>> {
    let lie =
        vec![Record::from_rdata(answer.queries[0].name.clone(), TTL, RData::A(A(Ipv4Addr::new(203, 0, 113, 66))))];
    let mut other_id = answer.clone();
    other_id.metadata.id = !answer.metadata.id;
    other_id.answers.clone_from(&lie);
    let mut other_question = answer.clone();
    other_question.queries[0].name = absolute("elsewhere.example");
    other_question.answers = lie;
    vec![b"garbage".to_vec(), encode(&other_id), encode(&other_question)]
}

fn empty(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::error_msg(query.metadata.id, query.metadata.op_code, code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.clone());
    reply.edns.clone_from(&query.edns);
    reply
}

fn from_table(table: &Table, query: &Message, name: &str) -> Message {
    let question = &query.queries[0];
    let ttl = table.ttl.unwrap_or(TTL);
    let mut reply = empty(query, ResponseCode::NoError);
    let mut owner = name.to_owned();
    // An alias and the alias's alias are enough for any test.
    for _ in 0..3 {
        let records = |kind| table.zone.get(&(owner.clone(), kind)).cloned().unwrap_or_default();
        let add = |reply: &mut Message, data: Vec<RData>| {
            reply.add_answers(data.into_iter().map(|data| Record::from_rdata(absolute(&owner), ttl, data)));
        };
        let direct = records(question.query_type);
        let alias = records(RecordType::CNAME);
        if !direct.is_empty() {
            add(&mut reply, direct);
            return reply;
        }
        let Some(RData::CNAME(target)) = alias.first().cloned() else { break };
        add(&mut reply, alias);
        owner = target.0.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    }
    if !table.zone.keys().any(|(known, _)| *known == owner) {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    let soa = SOA::new(absolute("ns.invalid"), absolute("root.invalid"), 1, 3600, 600, 86_400, NEGATIVE_TTL.min(ttl));
    reply.add_authority(Record::from_rdata(absolute("example"), NEGATIVE_TTL.min(ttl), RData::SOA(soa)));
    reply
}
