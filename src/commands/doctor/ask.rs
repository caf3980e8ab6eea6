//! Questions to har's listeners and to its upstream servers: one each.
//!
//! An upstream is asked for the root's name servers, or for the SOA of a route's suffix: what every resolver knows and
//! what tells nobody anything. The question is sent again once; a server that answers neither is silent.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};

use crate::config::{self, Config, Mode};

/// Each of the two transmissions; above the second that har holds a query back with no state at all.
const WAIT: Duration = Duration::from_millis(1500);
/// Servers asked at the same time.
const AT_ONCE: usize = 16;

/// What was heard.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// From har's listeners.
    pub listeners: Vec<Listener>,
    /// From the upstream servers.
    pub upstreams: Vec<Upstream>,
}

/// What a listener said.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// The name asked for, type A.
    pub name: String,
    /// Whether har answers that name itself by the configuration.
    pub configured: bool,
    /// Over UDP.
    pub udp: Heard,
    /// Over TCP.
    pub tcp: Heard,
}

/// What an upstream server said.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where.
    pub address: SocketAddr,
    /// The suffix it serves; `None` for a general server.
    pub route: Option<String>,
    /// Over UDP.
    pub heard: Heard,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A reply.
    Reply {
        /// Its code; 0 is fine.
        rcode: u16,
        /// Whether it speaks with authority, as har does for its names.
        authoritative: bool,
    },
    /// Nothing in time.
    Silence,
    /// The kernel said no: a closed port, no route.
    Refused(String),
}

/// Asks all of them. Blocks for a few seconds at most, with many silent servers for longer.
pub fn everybody(config: Option<&Config>, listen: &[SocketAddr], servers: &[SocketAddr]) -> Asked {
    let (name, configured) = own_name(config);
    let source = config.and_then(|config| config.upstream.source);
    let routes = config.map(|config| config.upstream.routes.as_slice()).unwrap_or_default();
    let general = servers.iter().map(|&address| (address, None));
    let routed =
        routes.iter().flat_map(|route| route.servers.iter().map(|&address| (address, Some(route.suffix.to_string()))));
    let upstreams: Vec<(SocketAddr, Option<String>)> = general.chain(routed).collect();
    Asked {
        listeners: together(listen, |&address| Listener {
            address,
            name: name.clone(),
            configured,
            udp: over_udp(address, None, &name, RecordType::A),
            tcp: over_tcp(address, &name),
        }),
        upstreams: together(&upstreams, |(address, route)| {
            let (name, kind) = match route {
                Some(suffix) => (suffix.as_str(), RecordType::SOA),
                None => (".", RecordType::NS),
            };
            Upstream { address: *address, route: route.clone(), heard: over_udp(*address, source, name, kind) }
        }),
    }
}

/// A name that har answers without asking anybody, and whether that is a configured one.
fn own_name(config: Option<&Config>) -> (String, bool) {
    let answered = |name: &&config::Name| name.mode == Mode::Answer && !name.name.is_wildcard();
    match config.and_then(|config| config.names.iter().find(answered)) {
        Some(name) => (name.name.to_string(), true),
        None => ("localhost".to_owned(), false),
    }
}

/// Does a job for each on a thread of its own, a few at a time, and keeps the order.
fn together<T: Sync, R: Send>(items: &[T], job: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let mut done = Vec::with_capacity(items.len());
    for some in items.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|item| scope.spawn(|| job(item))).collect();
            done.extend(threads.into_iter().filter_map(|thread| thread.join().ok()));
        });
    }
    done
}

fn over_udp(server: SocketAddr, source: Option<IpAddr>, name: &str, kind: RecordType) -> Heard {
    let Some((id, question)) = question(name, kind) else {
        return Heard::Refused("no question could be made".to_owned());
    };
    let local = source.filter(|source| source.is_ipv4() == server.is_ipv4()).unwrap_or(match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    });
    let talk = || -> std::io::Result<Heard> {
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect(server)?;
        let mut reply = [0; 4096];
        for _ in 0..2 {
            socket.send(&question)?;
            let end = Instant::now() + WAIT;
            while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                socket.set_read_timeout(Some(left))?;
                match socket.recv(&mut reply) {
                    Ok(length) => {
                        if let Some(heard) = heard(&reply[..length], id) {
                            return Ok(heard);
                        }
                    }
                    Err(error) if is_timeout(&error) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Heard::Silence)
    };
    talk().unwrap_or_else(|error| Heard::Refused(error.to_string()))
}

fn over_tcp(server: SocketAddr, name: &str) -> Heard {
    let Some((id, question)) = question(name, RecordType::A) else {
        return Heard::Refused("no question could be made".to_owned());
    };
    let talk = || -> std::io::Result<Heard> {
        let mut stream = TcpStream::connect_timeout(&server, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        let length = u16::try_from(question.len()).unwrap_or(0).to_be_bytes();
        stream.write_all(&[&length, question.as_slice()].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply)?;
        Ok(heard(&reply, id).unwrap_or(Heard::Silence))
    };
    match talk() {
        Ok(heard) => heard,
        Err(error) if is_timeout(&error) => Heard::Silence,
        Err(error) => Heard::Refused(error.to_string()),
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A query with a random id, recursion desired.
fn question(name: &str, kind: RecordType) -> Option<(u16, Vec<u8>)> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).ok()?;
    let id = u16::from_be_bytes(id);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).ok()?, kind));
    Some((id, message.to_vec().ok()?))
}

/// What a reply says; `None` when it is not one to the question. Its header is enough.
fn heard(reply: &[u8], id: u16) -> Option<Heard> {
    let header = reply.first_chunk::<12>()?;
    let is_reply = header[2] & 0x80 != 0;
    (is_reply && header[..2] == id.to_be_bytes())
        .then(|| Heard::Reply { rcode: u16::from(header[3] & 0x0f), authoritative: header[2] & 0x04 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(answers: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(WAIT * 4)).unwrap();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some(reply) = answers(&query[..length]) {
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        address
    }

    fn reply(query: &[u8], flags: [u8; 2]) -> Vec<u8> {
        [&query[..2], &flags, &query[4..]].concat()
    }

    #[test]
    fn replies_silence_and_closed_ports_are_told_apart() {
        let good = server(|query| Some(reply(query, [0x84, 0])));
        let bad = server(|query| Some(reply(query, [0x80, 5])));
        // Another id is nobody's answer, and neither is an echo of the query.
        let liar = server(|query| Some([&[!query[0], query[1], 0x84, 0], &query[4..]].concat()));
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let heard = everybody(None, &[], &[good, bad, liar, closed]);
        let heard: Vec<Heard> = heard.upstreams.into_iter().map(|upstream| upstream.heard).collect();
        assert_eq!(heard[0], Heard::Reply { rcode: 0, authoritative: true });
        assert_eq!(heard[1], Heard::Reply { rcode: 5, authoritative: false });
        assert_eq!(heard[2], Heard::Silence);
        assert!(matches!(&heard[3], Heard::Refused(why) if why.contains("refused")), "{:?}", heard[3]);
    }

    #[test]
    fn a_query_is_no_reply() {
        let (id, query) = question("example.com", RecordType::A).unwrap();
        assert_eq!(heard(&query, id), None);
        assert_eq!(heard(&query[..4], id), None);
    }
}
