//! A DNS client: questions made and replies read with hickory-proto, and raw bytes for everything else.
//!
//! One socket per question, so that a late reply never answers the next one.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};

/// How long a reply may take: above every time limit of har's own.
const REPLY_PATIENCE: Duration = Duration::from_secs(10);

/// The biggest datagram there is.
const MAX_DATAGRAM: usize = 65_535;

/// A reply, decoded and as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    /// What it says.
    pub message: Message,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Reply {
    /// Decodes a reply.
    ///
    /// # Panics
    /// When it is no DNS message.
    pub fn read(bytes: &[u8]) -> Reply {
        let message = Message::from_vec(bytes).unwrap_or_else(|e| panic!("not a DNS message ({e}): {bytes:02x?}"));
        assert_eq!(message.metadata.message_type, MessageType::Response, "QR is set in a reply");
        Reply { message, bytes: bytes.to_vec() }
    }

    /// The response code, the upper bits of an OPT included.
    pub fn rcode(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    /// The addresses in the answer section, in order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
    }

    /// The first address, as text; empty when there is none.
    pub fn first(&self) -> String {
        self.addresses().first().map(IpAddr::to_string).unwrap_or_default()
    }

    /// The SOA record of the authority section: owner, TTL and minimum.
    pub fn soa(&self) -> Option<(Name, u32, u32)> {
        self.message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some((record.name.clone(), record.ttl, soa.minimum)),
            _ => None,
        })
    }

    /// The code of the extended error (RFC 8914), if one is there.
    pub fn extended_error(&self) -> Option<u16> {
        let edns = self.message.edns.as_ref()?;
        match edns.option(EdnsCode::from(15))? {
            EdnsOption::Unknown(_, data) => Some(u16::from_be_bytes([*data.first()?, *data.get(1)?])),
            _ => None,
        }
    }
}

/// A question: recursion desired, EDNS with 1232 bytes.
pub fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = plain_question(name, record_type);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

/// A question without EDNS.
pub fn plain_question(name: &str, record_type: RecordType) -> Message {
    let mut id = [0; 2];
    getrandom::fill(&mut id).expect("random bytes");
    let mut message = Message::new(u16::from_be_bytes(id), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).expect("a domain name");
    name.set_fqdn(true);
    message.add_query(Query::query(name, record_type));
    message
}

/// The bytes of a message.
pub fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().expect("an encodable message")
}

/// The record type with this name.
pub fn record_type(name: &str) -> RecordType {
    name.parse().expect("a record type")
}

/// Sends `bytes` from a fresh socket and returns what comes back within `patience`; `None` when nothing does.
pub fn udp_within(server: SocketAddr, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = udp_socket(server);
    socket.set_read_timeout(Some(patience)).expect("a time-out");
    socket.send(bytes).expect("loopback takes a datagram");
    let mut buffer = vec![0; MAX_DATAGRAM];
    match socket.recv(&mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Some(buffer)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
        Err(error) => panic!("no reply from {server}: {error}"),
    }
}

/// As [`udp_within`] with the usual patience; no reply fails the test.
#[track_caller]
pub fn udp(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    udp_within(server, bytes, REPLY_PATIENCE)
        .unwrap_or_else(|| panic!("no reply from {server} within {REPLY_PATIENCE:?} to {bytes:02x?}"))
}

/// A UDP socket connected to `server`.
pub fn udp_socket(server: SocketAddr) -> UdpSocket {
    let local = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).expect("a socket");
    socket.connect(server).expect("loopback is there");
    socket.set_read_timeout(Some(REPLY_PATIENCE)).expect("a time-out");
    socket
}

/// A DNS-over-TCP connection (RFC 7766).
pub struct Tcp(pub TcpStream);

impl Tcp {
    /// Connects.
    pub fn open(server: SocketAddr) -> Tcp {
        let stream = TcpStream::connect(server).expect("the daemon accepts TCP");
        stream.set_read_timeout(Some(REPLY_PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        Tcp(stream)
    }

    /// Sends one message with its length in front.
    pub fn send(&mut self, message: &[u8]) {
        self.0.write_all(&framed(message)).expect("the connection is open");
    }

    /// The next message; `None` when the daemon closed the connection.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 2];
        match self.0.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(error) => panic!("no message over TCP: {error}"),
        }
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut message).expect("a whole message");
        Some(message)
    }

    /// Sends a question and reads one reply.
    #[track_caller]
    pub fn ask(&mut self, message: &Message) -> Reply {
        self.send(&encode(message));
        Reply::read(&self.receive().expect("a reply over TCP"))
    }
}

/// A message with its two bytes of length in front.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a DNS message");
    [&length.to_be_bytes(), message].concat()
}
