//! Looking candidates up at har's own upstream, never through the host's resolver (which would be har again).
//!
//! A and AAAA are asked at the same moment, each from a fresh socket with a fresh id, over EDNS, again and at the
//! next server on silence, SERVFAIL or REFUSED, over TCP after truncation, within one deadline. CNAME chains are
//! followed within an answer and by further queries. An answer counts only from the server asked, with the id
//! and the question asked. Blocking; runs on a worker.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::Route;
use crate::dns::HostName;
use crate::poll::connect::{Connection, Limit, io_text};

/// Aliases followed for one question: longer chains are loops or mistakes.
const MAX_CHAIN: usize = 8;
/// Wait for a server in the first round; doubled in every further one.
const FIRST_WAIT: Duration = Duration::from_millis(400);
/// Advertised UDP payload (DNS flag day 2020): what passes every usual path unfragmented.
const PAYLOAD: u16 = 1232;
/// Least length of a record: root name, type, class, TTL and length. Bounds what a message's counts may claim.
const LEAST_RECORD: usize = 11;
const HEADER: usize = 12;

/// Who is asked: the general servers and the routes of suffixes that go elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Upstreams<'a> {
    /// In the order in which they are asked.
    pub general: &'a [SocketAddr],
    /// The longest suffix wins.
    pub routes: &'a [Route],
}

/// How it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Local address for servers of its family.
    pub source: Option<IpAddr>,
    /// For everything together.
    pub timeout: Duration,
}

/// What a question yielded: NOERROR, with values or with none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// In the order of the answer; empty when the name exists without this type.
    pub values: Vec<T>,
    /// The least TTL of the records and aliases used, or of the SOA of an empty answer; `None` when none came.
    pub ttl: Option<Duration>,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No server is known.
    NoServer,
    /// No server answered in time.
    Timeout,
    /// Every server refused the connection or could not be reached.
    Unreachable(String),
    /// The name does not exist.
    NxDomain,
    /// Every server answered with an error; the last one's code (2 = SERVFAIL, 5 = REFUSED).
    Rcode(u16),
    /// The answer cannot be read.
    Malformed,
    /// More than 8 aliases, or aliases in a circle.
    Chain,
    /// This host lacked a descriptor, memory or randomness.
    Local(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoServer => f.write_str("no upstream server is known"),
            Failure::Timeout => f.write_str("no answer from the upstream in time"),
            Failure::Unreachable(why) => write!(f, "no upstream can be reached ({why})"),
            Failure::NxDomain => f.write_str("the name does not exist (NXDOMAIN)"),
            Failure::Rcode(2) => f.write_str("the upstream answered SERVFAIL"),
            Failure::Rcode(5) => f.write_str("the upstream answered REFUSED"),
            Failure::Rcode(code) => write!(f, "the upstream answered with code {code}"),
            Failure::Malformed => f.write_str("the upstream's answer cannot be read"),
            Failure::Chain => f.write_str("more than 8 aliases (CNAME)"),
            Failure::Local(why) => write!(f, "this host could not ask ({why})"),
        }
    }
}

impl std::error::Error for Failure {}

/// Both families of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The A records.
    pub v4: Result<Found<Ipv4Addr>, Failure>,
    /// The AAAA records.
    pub v6: Result<Found<Ipv6Addr>, Failure>,
    /// Whether a server beyond loopback answered anything at all: proof that this host's network works.
    pub heard_beyond_loopback: bool,
}

/// The TXT records of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// Each record with its strings.
    pub records: Result<Found<Vec<String>>, Failure>,
    /// As in [`Lookup`].
    pub heard_beyond_loopback: bool,
}

/// A target of an SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where the service is.
    pub target: HostName,
    /// On which port.
    pub port: u16,
    /// Lower first.
    pub priority: u16,
    /// Share among equals.
    pub weight: u16,
}

/// The SRV records of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// Those with a target; the root as a target means that there is none.
    pub records: Result<Found<Service>, Failure>,
    /// As in [`Lookup`].
    pub heard_beyond_loopback: bool,
}

/// Looks up the SRV records of a name. Blocks up to the time-out of the options.
pub fn lookup_services(name: &HostName, upstreams: &Upstreams<'_>, options: &Options) -> Services {
    let mut chases = [Chase::new(name, RecordType::SRV)];
    let heard_beyond_loopback = run(&mut chases, upstreams, options, &mut |_| None);
    let [chase] = chases;
    let service = |data: &RData| match data {
        RData::SRV(srv) => {
            let target = wire_name(&srv.target).filter(|target| target.labels() > 0 && !target.is_wildcard())?;
            Some(Service { target, port: srv.port, priority: srv.priority, weight: srv.weight })
        }
        _ => None,
    };
    Services { records: chase.finish(service), heard_beyond_loopback }
}

/// Looks up the addresses of a name. Blocks up to the time-out of the options.
///
/// Addresses that no candidate can have are left out: filtering resolvers answer `0.0.0.0` or `::` for what they
/// block, and connecting there would reach this very host.
pub fn lookup(name: &HostName, upstreams: &Upstreams<'_>, options: &Options) -> Lookup {
    lookup_in_halves(name, upstreams, options, options.timeout, &mut |_| {})
}

/// [`lookup`], which hands over the addresses of one family when a server has been silent about the other one: it may
/// be so to the end (RFC 4074, section 4.1). From then on `rest` is all the time there is.
pub fn lookup_in_halves(
    name: &HostName,
    upstreams: &Upstreams<'_>,
    options: &Options,
    rest: Duration,
    half: &mut dyn FnMut(Vec<IpAddr>),
) -> Lookup {
    let mut chases = [Chase::new(name, RecordType::A), Chase::new(name, RecordType::AAAA)];
    let mut told = false;
    let heard_beyond_loopback = run(&mut chases, upstreams, options, &mut |chase| {
        let records = chase.ended.iter().flatten().flatten();
        let addresses: Vec<IpAddr> =
            records.filter_map(|data| v4(data).map(IpAddr::from).or_else(|| v6(data).map(IpAddr::from))).collect();
        if addresses.is_empty() || std::mem::replace(&mut told, true) {
            return None;
        }
        half(addresses);
        Some(Limit::new(rest))
    });
    let [of_v4, of_v6] = chases;
    Lookup { v4: of_v4.finish(v4), v6: of_v6.finish(v6), heard_beyond_loopback }
}

fn v4(data: &RData) -> Option<Ipv4Addr> {
    match data {
        RData::A(a) if !(a.0.is_unspecified() || a.0.is_multicast() || a.0.is_broadcast()) => Some(a.0),
        _ => None,
    }
}

fn v6(data: &RData) -> Option<Ipv6Addr> {
    match data {
        RData::AAAA(aaaa) if !(aaaa.0.is_unspecified() || aaaa.0.is_multicast()) => Some(aaaa.0),
        _ => None,
    }
}

/// Looks up the TXT records of a name. Blocks up to the time-out of the options.
pub fn lookup_texts(name: &HostName, upstreams: &Upstreams<'_>, options: &Options) -> Texts {
    let mut chases = [Chase::new(name, RecordType::TXT)];
    let heard_beyond_loopback = run(&mut chases, upstreams, options, &mut |_| None);
    let [chase] = chases;
    let strings = |data: &RData| match data {
        RData::TXT(text) => Some(text.txt_data.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect()),
        _ => None,
    };
    Texts { records: chase.finish(strings), heard_beyond_loopback }
}

/// The servers for a name: those of the longest route above it, or the general ones.
pub fn servers_for<'a>(name: &HostName, general: &'a [SocketAddr], routes: &'a [Route]) -> &'a [SocketAddr] {
    let mut rest = name.as_wire();
    loop {
        if let Some(route) = routes.iter().find(|route| route.suffix.as_wire() == rest) {
            return &route.servers;
        }
        // The next label; the root's zero byte ends the walk.
        match rest.first().and_then(|&length| rest.get(usize::from(length) + 1..)) {
            Some(shorter) if rest.len() > 1 => rest = shorter,
            _ => return general,
        }
    }
}

/// One question and the aliases it leads through.
#[derive(Clone)]
struct Chase {
    name: HostName,
    kind: RecordType,
    aliases: usize,
    ttl: Option<u32>,
    ended: Option<Result<Vec<RData>, Failure>>,
}

impl Chase {
    fn new(name: &HostName, kind: RecordType) -> Chase {
        Chase { name: name.clone(), kind, aliases: 0, ttl: None, ended: None }
    }

    fn finish<T>(self, value: impl Fn(&RData) -> Option<T>) -> Result<Found<T>, Failure> {
        let records = self.ended.unwrap_or(Err(Failure::Timeout))?;
        let ttl = self.ttl.map(|seconds| Duration::from_secs(seconds.into()));
        Ok(Found { values: records.iter().filter_map(value).collect(), ttl })
    }

    /// Goes as far as an answer leads; without an end afterwards, the rest is to be asked for.
    fn advance(&mut self, message: &Message) {
        if message.metadata.response_code == ResponseCode::NXDomain {
            self.ended = Some(Err(Failure::NxDomain));
            return;
        }
        let mut moved = false;
        loop {
            let own = || message.answers.iter().filter(|record| wire_name(&record.name).as_ref() == Some(&self.name));
            let values: Vec<_> = own().filter(|record| record.record_type() == self.kind).collect();
            if !values.is_empty() {
                let least = values.iter().map(|record| record.ttl).min();
                let data = values.iter().map(|record| record.data.clone()).collect();
                self.keep_least(least);
                self.ended = Some(Ok(data));
                return;
            }
            let alias = own().find_map(|record| match &record.data {
                RData::CNAME(target) => Some((record.ttl, wire_name(&target.0)?)),
                _ => None,
            });
            let Some((ttl, target)) = alias else { break };
            self.keep_least(Some(ttl));
            self.aliases += 1;
            if self.aliases > MAX_CHAIN {
                self.ended = Some(Err(Failure::Chain));
                return;
            }
            self.name = target;
            moved = true;
        }
        let negative = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
        // An alias at the end of an answer is where it stops, unless the SOA says that there is nothing further.
        if !moved || negative.is_some() {
            self.keep_least(negative);
            self.ended = Some(Ok(Vec::new()));
        }
    }

    fn keep_least(&mut self, ttl: Option<u32>) {
        self.ttl = [self.ttl, ttl].into_iter().flatten().min();
    }
}

/// Brings every chase to its end; whether a server beyond loopback was heard. `half` is given one that has ended while
/// a server was silent about another, and may shorten the time that is left.
fn run(
    chases: &mut [Chase],
    upstreams: &Upstreams<'_>,
    options: &Options,
    half: &mut dyn FnMut(&Chase) -> Option<Limit>,
) -> bool {
    let mut limit = Limit::new(options.timeout);
    let mut heard = false;
    while let Some(next) = chases.iter().find(|chase| chase.ended.is_none()) {
        let servers = servers_for(&next.name, upstreams.general, upstreams.routes);
        let mut together: Vec<&mut Chase> = chases
            .iter_mut()
            .filter(|chase| chase.ended.is_none())
            .filter(|chase| servers_for(&chase.name, upstreams.general, upstreams.routes) == servers)
            .collect();
        let mut round: Vec<Question> = together.iter().map(|chase| Question::new(&chase.name, chase.kind)).collect();
        let mut silent = |round: &[Question]| {
            let answered =
                together.iter().zip(round).find_map(|(chase, question)| Some((chase, question.answer.as_ref()?)));
            let (chase, message) = answered?;
            let mut ahead = Chase::clone(chase);
            ahead.advance(message);
            half(&ahead)
        };
        limit = ask(&mut round, servers, options.source, limit, &mut heard, &mut silent);
        for (chase, question) in together.iter_mut().zip(round) {
            match question.answer {
                Some(message) => chase.advance(&message),
                None => chase.ended = Some(Err(question.failure.unwrap_or(Failure::Timeout))),
            }
        }
    }
    heard
}

/// A question on its way through the servers.
struct Question {
    /// Name, type and class as in a message.
    wire: Vec<u8>,
    answer: Option<Message>,
    /// The last thing that went wrong, silence aside.
    failure: Option<Failure>,
    /// Servers that are no use for it.
    failed: Vec<SocketAddr>,
}

impl Question {
    fn new(name: &HostName, kind: RecordType) -> Question {
        let mut wire = name.as_wire().to_vec();
        wire.extend(u16::from(kind).to_be_bytes());
        wire.extend([0, 1]);
        Question { wire, answer: None, failure: None, failed: Vec::new() }
    }

    fn wants(&self, server: SocketAddr) -> bool {
        self.answer.is_none() && !self.failed.contains(&server)
    }

    /// Takes a server's last word on it.
    fn settle(&mut self, server: SocketAddr, result: Result<Message, Failure>) {
        match result {
            Ok(message) => match message.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => self.answer = Some(message),
                code => self.reject(server, Failure::Rcode(code.into())),
            },
            // Silence may be loss: the server is asked again.
            Err(Failure::Timeout) => {}
            Err(failure) => self.reject(server, failure),
        }
    }

    fn reject(&mut self, server: SocketAddr, failure: Failure) {
        self.failure = Some(failure);
        self.failed.push(server);
    }
}

/// Asks all questions together, server by server, until each has an answer, no server is left or the time is up. Shows
/// them when a server was `silent` about one. Returns the limit that held at the end.
fn ask(
    questions: &mut [Question],
    servers: &[SocketAddr],
    source: Option<IpAddr>,
    mut limit: Limit,
    heard: &mut bool,
    silent: &mut dyn FnMut(&[Question]) -> Option<Limit>,
) -> Limit {
    let mut wait = FIRST_WAIT;
    if servers.is_empty() {
        questions.iter_mut().for_each(|question| question.failure = Some(Failure::NoServer));
    }
    while servers.iter().any(|&server| questions.iter().any(|question| question.wants(server))) {
        for &server in servers {
            let Some(left) = limit.left() else { return limit };
            let mut open = Vec::new();
            for question in questions.iter_mut().filter(|question| question.wants(server)) {
                match Exchange::begin(&question.wire, server, source) {
                    Ok(exchange) => open.push((exchange, question)),
                    Err(failure) => question.settle(server, Err(failure)),
                }
            }
            gather(open, Limit::new(left.min(wait)), limit, heard);
            if questions.iter().any(|question| question.wants(server))
                && let Some(shorter) = silent(questions)
                && shorter.left() < limit.left()
            {
                limit = shorter;
            }
        }
        wait *= 2;
    }
    limit
}

/// Waits within `patience` for the answers of one server, in whatever order they come: one that is lost must not cost
/// the other its answer.
fn gather(mut open: Vec<(Exchange, &mut Question)>, patience: Limit, limit: Limit, heard: &mut bool) {
    while !open.is_empty() {
        // What came while an answer was fetched over TCP is there although the time is up.
        let left = patience.left();
        let ready = readable(&open, left.unwrap_or_default());
        let mut ready = ready.into_iter();
        open.retain_mut(|(exchange, question)| {
            let result = ready.next().unwrap_or(false).then(|| exchange.receive(limit, heard)).flatten();
            let goes_on = result.is_none();
            if let Some(result) = result {
                question.settle(exchange.server, result);
            }
            goes_on
        });
        if left.is_none() {
            return;
        }
    }
}

/// Which of them have something to read, after waiting for a first one.
fn readable(open: &[(Exchange, &mut Question)], wait: Duration) -> Vec<bool> {
    let mut sockets: Vec<PollFd<'_>> =
        open.iter().map(|(exchange, _)| PollFd::new(exchange.socket.as_fd(), PollFlags::POLLIN)).collect();
    // A signal ends the wait early: then nothing is there yet.
    let _ = poll(&mut sockets, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX));
    sockets.iter().map(|socket| socket.any().unwrap_or(false)).collect()
}

/// One question at one server.
struct Exchange {
    question: Vec<u8>,
    query: Vec<u8>,
    /// Without EDNS.
    plain: bool,
    socket: UdpSocket,
    server: SocketAddr,
    source: Option<IpAddr>,
}

impl Exchange {
    /// Sends the question from a fresh socket.
    fn begin(question: &[u8], server: SocketAddr, source: Option<IpAddr>) -> Result<Exchange, Failure> {
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let from = source.filter(|source| source.is_ipv4() == server.is_ipv4()).unwrap_or(any);
        let query = query(question, true)?;
        let socket = UdpSocket::bind((from, 0)).map_err(|error| sort(&error))?;
        // Connected, it hears nobody but the server.
        socket.connect(server).and_then(|()| socket.send(&query)).map_err(|error| sort(&error))?;
        socket.set_nonblocking(true).map_err(|error| sort(&error))?;
        Ok(Exchange { question: question.to_vec(), query, plain: false, socket, server, source })
    }

    /// Takes a datagram that is there; `None` when the wait goes on.
    fn receive(&mut self, limit: Limit, heard: &mut bool) -> Option<Result<Message, Failure>> {
        // Larger than advertised: a server that sends more than it was allowed is still understood.
        let mut buffer = [0; 4096];
        let reply = match self.socket.recv(&mut buffer) {
            Ok(length) => &buffer[..length],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
            Err(error) => return Some(Err(sort(&error))),
        };
        if !answers(reply, &self.query, &self.question) {
            return None;
        }
        *heard |= !self.server.ip().to_canonical().is_loopback();
        let code = reply[3] & 0x0f;
        // A server from before EDNS says so with FORMERR or NOTIMP.
        if !self.plain && matches!(code, 1 | 4) {
            self.plain = true;
            return self.ask_plainly().err().map(Err);
        }
        if reply[2] & 0x02 != 0 {
            return Some(self.over_tcp(limit));
        }
        Some(decode(reply))
    }

    /// Asks once more, without EDNS.
    fn ask_plainly(&mut self) -> Result<(), Failure> {
        self.query = query(&self.question, false)?;
        self.socket.send(&self.query).map(drop).map_err(|error| sort(&error))
    }

    fn over_tcp(&self, limit: Limit) -> Result<Message, Failure> {
        // Half of what is left, so that a server that hangs over TCP leaves time for another.
        let half = Limit::new(limit.left().ok_or(Failure::Timeout)? / 2);
        let open = Connection::open(self.server, self.source, half);
        let mut connection = open.map_err(|failure| Failure::Unreachable(failure.text))?;
        // Over TCP the id guards nothing, and a fresh one costs nothing.
        let query = query(&self.question, !self.plain)?;
        let mut framed = (query.len() as u16).to_be_bytes().to_vec();
        framed.extend(&query);
        let mut reply = Vec::new();
        let mut transfer = || -> io::Result<()> {
            connection.write_all(&framed)?;
            let mut length = [0; 2];
            connection.read_exact(&mut length)?;
            reply.resize(usize::from(u16::from_be_bytes(length)), 0);
            connection.read_exact(&mut reply)
        };
        transfer().map_err(|error| Failure::Unreachable(format!("over TCP: {}", io_text(&error))))?;
        if answers(&reply, &query, &self.question) { decode(&reply) } else { Err(Failure::Malformed) }
    }
}

/// A query with a fresh id, recursion desired, with or without EDNS.
fn query(question: &[u8], edns: bool) -> Result<Vec<u8>, Failure> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| Failure::Local(error.to_string()))?;
    let mut message = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    message.extend(question);
    if edns {
        // RFC 6891: root, type OPT, payload, no extended code, version 0, no flags, no options.
        let [high, low] = PAYLOAD.to_be_bytes();
        message.extend([0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
    }
    Ok(message)
}

/// Whether a message answers this query: its id, and its question or, in a bare FORMERR or NOTIMP, none.
fn answers(reply: &[u8], query: &[u8], question: &[u8]) -> bool {
    let Some((header, body)) = reply.split_at_checked(HEADER) else { return false };
    let is_reply_to_a_query = header[2] & 0xf8 == 0x80;
    let same_question = || {
        // Type and class are compared as they are: as letters, some types differ only in case.
        let (name, rest) = question.split_at(question.len() - 4);
        body.get(..question.len()).is_some_and(|asked| {
            let (asked_name, asked_rest) = asked.split_at(name.len());
            asked_name.eq_ignore_ascii_case(name) && asked_rest == rest
        })
    };
    let asked = match u16::from_be_bytes([header[4], header[5]]) {
        0 => matches!(header[3] & 0x0f, 1 | 4),
        1 => same_question(),
        _ => false,
    };
    header[..2] == query[..2] && is_reply_to_a_query && asked
}

fn decode(reply: &[u8]) -> Result<Message, Failure> {
    let count = |at: usize| usize::from(u16::from_be_bytes([reply[at], reply[at + 1]]));
    // The decoder reserves room for as many records as the header claims.
    if count(6) + count(8) + count(10) > reply.len() / LEAST_RECORD {
        return Err(Failure::Malformed);
    }
    Message::from_vec(reply).map_err(|_| Failure::Malformed)
}

fn wire_name(name: &Name) -> Option<HostName> {
    let mut wire = Vec::with_capacity(name.len() + 1);
    for label in name.iter() {
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend(label);
    }
    wire.push(0);
    HostName::from_wire(&wire)
}

fn sort(error: &io::Error) -> Failure {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EADDRINUSE => {
            Failure::Local(io_text(error))
        }
        _ => Failure::Unreachable(io_text(error)),
    }
}

#[cfg(test)]
mod tests;
