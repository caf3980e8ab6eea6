//! The table of `docs/protocol.md`, row by row, with hostile input over UDP and TCP on both listeners.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hickory_proto::rr::RecordType;

use crate::harness::dns::{self, Tcp, encode, plain_question};
use crate::harness::load::{Fast, Manner};
use crate::harness::{Har, Reply, har};

const NAMES: &str = r#"
[defaults]
check = "none"
ttl = 7

[names."api.example"]
candidates = ["192.0.2.7"]

[names."hints.example"]
candidates = ["192.0.2.8"]
other_types = "no-hints"

[names."alone.example"]
candidates = ["192.0.2.9"]
other_types = "nodata"
"#;

/// `api.example` with its root label.
const API: &[u8] = b"\x03api\x07example\0";

/// What a message gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// No reply.
    Nothing,
    /// This code (12 bits), the question repeated or not, OPT or not.
    Code(u16, bool, bool),
    /// The upstream's answer.
    Forwarded,
    /// The configured name's, with OPT or not.
    Answered(bool),
    /// NOERROR with an SOA alone.
    Empty,
}

/// A message: flags, the four counts and the rest.
fn message(flags: u16, counts: [u16; 4], rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34];
    bytes.extend(flags.to_be_bytes());
    counts.iter().for_each(|count| bytes.extend(count.to_be_bytes()));
    rest.iter().for_each(|part| bytes.extend(*part));
    bytes
}

/// A question: a name, type and class.
fn asked(name: &[u8], kind: u16, class: u16) -> Vec<u8> {
    [name, &kind.to_be_bytes(), &class.to_be_bytes()].concat()
}

/// One question, recursion desired, and these additional records.
fn query(name: &[u8], kind: u16, class: u16, additional: &[&[u8]]) -> Vec<u8> {
    let question = asked(name, kind, class);
    let mut parts = vec![question.as_slice()];
    parts.extend(additional);
    message(0x0100, [1, 0, 0, additional.len() as u16], &parts)
}

/// An OPT record (RFC 6891 section 6.1.2).
fn opt(payload: u16, version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 41];
    bytes.extend(payload.to_be_bytes());
    bytes.extend([0, version]);
    bytes.extend(flags.to_be_bytes());
    bytes.extend((options.len() as u16).to_be_bytes());
    bytes.extend(options);
    bytes
}

/// A name of this many bytes, the root label included.
fn name_of(length: usize) -> Vec<u8> {
    let mut name = Vec::new();
    while name.len() + 1 < length {
        // The last label takes what is left, at least one byte.
        let left = length - 1 - name.len();
        let label = if left > 65 { 63 } else { left.min(64) - 1 };
        let label = if left - label - 1 == 1 { label - 1 } else { label };
        name.push(label as u8);
        name.extend(vec![b'a'; label]);
    }
    name.push(0);
    assert_eq!(name.len(), length);
    name
}

/// Every row with what it gets.
fn table() -> Vec<(&'static str, Vec<u8>, Gets)> {
    use Gets::{Answered, Code, Empty, Forwarded, Nothing};
    let edns = opt(1232, 0, 0, &[]);
    let plain = |name: &[u8], kind| query(name, kind, 1, &[]);
    let mut rows = vec![
        // Dropped: shorter than a header, or QR=1.
        ("one byte", vec![0], Nothing),
        ("a header less one byte", plain(API, 1)[..11].to_vec(), Nothing),
        ("a response", message(0x8180, [1, 0, 0, 0], &[&asked(API, 1, 1)]), Nothing),
        ("a response with another opcode", message(0xa900, [0, 0, 0, 0], &[]), Nothing),
        // NOTIMP comes before FORMERR.
        ("STATUS", message(0x1000, [1, 0, 0, 0], &[&asked(API, 1, 1)]), Code(4, true, false)),
        ("NOTIFY", message(0x2000, [1, 0, 0, 0], &[&asked(API, 6, 1)]), Code(4, true, false)),
        ("UPDATE with a lying count", message(0x2800, [1, 9, 9, 9], &[&asked(API, 6, 1)]), Code(4, true, false)),
        ("opcode 15 and no question", message(0x7800, [0, 0, 0, 0], &[]), Code(4, false, false)),
        // FORMERR: the question.
        ("no question", message(0x0100, [0, 0, 0, 0], &[]), Code(1, false, false)),
        ("no question but OPT", message(0x0100, [0, 0, 0, 1], &[&edns]), Code(1, false, true)),
        (
            "two questions",
            message(0x0100, [2, 0, 0, 0], &[&asked(API, 1, 1), &asked(API, 28, 1)]),
            Code(1, false, false),
        ),
        ("65,535 questions", message(0x0100, [65_535, 0, 0, 0], &[&asked(API, 1, 1)]), Code(1, false, false)),
        ("a question that is not there", message(0x0100, [1, 0, 0, 0], &[]), Code(1, false, false)),
        ("a question without its class", message(0x0100, [1, 0, 0, 0], &[API, &[0, 1, 0]]), Code(1, false, false)),
        ("a name without an end", message(0x0100, [1, 0, 0, 0], &[b"\x03api\x07exam"]), Code(1, false, false)),
        ("a pointer to itself", plain(&[0xc0, 12], 1), Code(1, false, false)),
        ("a pointer into the header", plain(&[0xc0, 0], 1), Code(1, false, false)),
        ("a pointer behind a label", plain(&[1, b'a', 0xc0, 12], 1), Code(1, false, false)),
        ("a pointer beyond the end", plain(&[0xff, 0xff], 1), Code(1, false, false)),
        ("a label of 64", plain(&[&[64][..], &[b'a'; 64], &[0]].concat(), 1), Code(1, false, false)),
        ("a label of the extended kind", plain(&[0x41, 1, 0], 1), Code(1, false, false)),
        ("a label of 0x80", plain(&[0x80, 1, 0], 1), Code(1, false, false)),
        ("a name of 256", plain(&name_of(256), 1), Code(1, false, false)),
        ("a name of 400", plain(&name_of(400), 1), Code(1, false, false)),
        // FORMERR: what follows.
        ("an answer that is not there", message(0x0100, [1, 1, 0, 0], &[&asked(API, 1, 1)]), Code(1, true, false)),
        ("65,535 records", message(0x0100, [1, 65_535, 0, 0], &[&asked(API, 1, 1)]), Code(1, true, false)),
        ("authority that is not there", message(0x0100, [1, 0, 7, 0], &[&asked(API, 1, 1)]), Code(1, true, false)),
        ("an OPT cut short", query(API, 1, 1, &[&edns[..10]]), Code(1, true, false)),
        ("two OPT", query(API, 1, 1, &[&edns, &edns]), Code(1, true, true)),
        ("OPT and a record missing", message(0x0100, [1, 0, 0, 2], &[&asked(API, 1, 1), &edns]), Code(1, true, true)),
        ("OPT of another owner", query(API, 1, 1, &[&[&[1, b'a'][..], &edns].concat()]), Code(1, true, true)),
        ("OPT among the answers", message(0x0100, [1, 1, 0, 0], &[&asked(API, 1, 1), &edns]), Code(1, true, true)),
        ("two OPT of a newer version", query(API, 1, 1, &[&opt(512, 1, 0, &[]), &edns]), Code(1, true, true)),
        ("OPT whose length lies", query(API, 1, 1, &[&[&edns[..9], &[0xff, 0xff]].concat()]), Code(1, true, false)),
        // BADVERS comes before REFUSED.
        ("EDNS version 1", query(API, 1, 1, &[&opt(1232, 1, 0, &[])]), Code(16, true, true)),
        ("EDNS version 255", query(API, 1, 1, &[&opt(0, 255, 0x8000, &[])]), Code(16, true, true)),
        ("a transfer with version 1", query(API, 252, 1, &[&opt(1232, 1, 0, &[])]), Code(16, true, true)),
        // REFUSED.
        ("AXFR", plain(API, 252), Code(5, true, false)),
        ("IXFR", query(API, 251, 1, &[&edns]), Code(5, true, true)),
        ("AXFR of a stranger", plain(b"\x05other\0", 252), Code(5, true, false)),
        // Special and configured names.
        ("plain", plain(API, 1), Answered(false)),
        ("0x20", plain(b"\x03aPI\x07ExAmPlE\0", 1), Answered(false)),
        ("EDNS", query(API, 1, 1, &[&edns]), Answered(true)),
        ("trailing bytes", [plain(API, 1), vec![0xc0; 300]].concat(), Answered(false)),
        ("every other flag", message(0x07f0, [1, 0, 0, 0], &[&asked(API, 1, 1)]), Answered(false)),
        (
            "unknown options",
            query(API, 1, 1, &[&opt(1232, 0, 0x7fff, &[0xfd, 0xe9, 0, 2, 1, 2, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])]),
            Answered(true),
        ),
        ("an option whose length lies", query(API, 1, 1, &[&opt(1232, 0, 0, &[0, 10, 0xff, 0xff])]), Answered(true)),
        (
            "another record beside OPT",
            query(API, 1, 1, &[&[0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0], &edns]),
            Answered(true),
        ),
        ("no address of that family", plain(API, 28), Empty),
        ("nodata", plain(b"\x05alone\x07example\0", 16), Empty),
        ("no-hints: HTTPS", plain(b"\x05hints\x07example\0", 65), Empty),
        ("no-hints: SVCB", plain(b"\x05hints\x07example\0", 64), Empty),
        ("no-hints: ANY", plain(b"\x05hints\x07example\0", 255), Empty),
        ("localhost MX", plain(b"\x09localhost\0", 15), Empty),
        ("_dns.resolver.arpa", plain(b"\x04_dns\x08resolver\x04arpa\0", 64), Empty),
        // Everything else, any class.
        ("no-hints: TXT", plain(b"\x05hints\x07example\0", 16), Forwarded),
        ("ANY of a configured name", plain(API, 255), Forwarded),
        ("class CH", query(API, 16, 3, &[]), Forwarded),
        ("class ANY", query(API, 1, 255, &[]), Forwarded),
        ("localhost of class CH", query(b"\x09localhost\0", 1, 3, &[]), Forwarded),
        ("the root", plain(&[0], 2), Forwarded),
        ("a name of 255", plain(&name_of(255), 1), Forwarded),
        ("a label of 63", plain(&[&[63][..], &[b'a'; 63], &[0]].concat(), 1), Forwarded),
        ("a name below a configured one", plain(b"\x01x\x03api\x07example\0", 1), Forwarded),
        ("a name that ends alike", plain(b"\x04xapi\x07example\0", 1), Forwarded),
        ("dots and zeros in a label", plain(b"\x0bapi.example\0", 1), Forwarded),
        ("type 0", plain(API, 0), Forwarded),
        ("type 65,535", plain(API, 65_535), Forwarded),
    ];
    for opcode in [3_u16, 7, 14] {
        rows.push((
            "an unassigned opcode",
            message(opcode << 11, [1, 0, 0, 0], &[&asked(API, 1, 1)]),
            Code(4, true, false),
        ));
    }
    rows
}

/// Both addresses that har listens on.
fn listeners(har: &Har) -> [SocketAddr; 2] {
    [har.address(), SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), har.port)]
}

/// The reply over UDP, or nothing: what is asked afterwards on the same socket is answered first then.
fn over_udp(server: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let socket = dns::udp_socket(server);
    let mut buffer = vec![0; 65_535];
    socket.send(bytes).expect("loopback takes a datagram");
    let mut marker = query(API, 1, 1, &[]);
    marker[..2].copy_from_slice(&[0xee, 0xee]);
    let mut receive = || {
        let length = socket.recv(&mut buffer).expect("a reply");
        buffer[..length].to_vec()
    };
    // The marker is sent at once only where nothing is expected before it.
    if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
        socket.send(&marker).expect("loopback takes a datagram");
    }
    let reply = receive();
    (reply[..2] != [0xee, 0xee]).then_some(reply)
}

fn over_tcp(server: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut tcp = Tcp::open(server);
    tcp.send(bytes);
    tcp.0.shutdown(std::net::Shutdown::Write).expect("the connection is open");
    let reply = tcp.receive();
    assert!(reply.is_none() || tcp.receive().is_none(), "one reply, then the end");
    reply
}

/// What a reply is.
fn classify(sent: &[u8], reply: Option<&[u8]>) -> Gets {
    let Some(reply) = reply else { return Gets::Nothing };
    let decoded = Reply::read(reply);
    assert_eq!(reply[..2], sent[..2], "the id");
    assert_ne!(reply[3] & 0x80, 0, "recursion is available");
    let has_question = reply[4..6] == [0, 1];
    if has_question {
        let question = decoded.message.queries[0].name.len() + 4;
        assert_eq!(reply[12..12 + question], sent[12..12 + question], "the question as it was asked");
    }
    let edns = decoded.message.edns.as_ref();
    if let Some(edns) = edns {
        assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
    }
    let code = u16::from(reply[3] & 0x0f) | edns.map_or(0, |edns| u16::from(edns.rcode_high()) << 4);
    match (code, decoded.first().as_str(), decoded.soa()) {
        (0, "198.51.100.99", _) => Gets::Forwarded,
        (0, "192.0.2.7", _) => {
            assert_ne!(reply[2] & 0x04, 0, "authority");
            assert_eq!(reply[2] & 0x02, 0, "TC is not copied");
            assert_eq!(reply[2] & 0x01, sent[2] & 0x01, "RD is");
            assert_eq!(reply[3] & 0x70, sent[3] & 0x10, "AD and Z are clear, CD is copied");
            Gets::Answered(edns.is_some())
        }
        (0, "", Some(_)) => Gets::Empty,
        _ => Gets::Code(code, has_question, edns.is_some()),
    }
}

#[test]
fn every_row_of_the_table_on_every_listener_and_transport() {
    let upstream = Fast::start();
    let lines = format!("servers = [\"{}\"]", upstream.address());
    let har = har().upstream_lines(&lines).names(NAMES).ipv6().start();
    let mut wrong = Vec::new();
    for (what, bytes, gets) in table() {
        for server in listeners(&har) {
            for (transport, reply) in [("UDP", over_udp(server, &bytes)), ("TCP", over_tcp(server, &bytes))] {
                let got = classify(&bytes, reply.as_deref());
                if got != gets {
                    wrong.push(format!("{what} over {transport} at {server}: {got:?} instead of {gets:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sixty_addresses_are_cut_by_whole_records_to_every_payload_size_and_whole_over_tcp() {
    let candidates: Vec<String> = (1..=60).map(|n| format!("\"192.0.2.{n}\", \"2001:db8::{n}\"")).collect();
    let names = format!(
        "[names.\"many.example\"]\ncheck = \"none\"\nselect = \"all\"\ncandidates = [{}]",
        candidates.join(", ")
    );
    let har = har().names(&names).ipv6().start();
    let many = b"\x04many\x07example\0";
    for (kind, record) in [(1, 16), (28, 28)] {
        for payload in [
            None,
            Some(0),
            Some(1),
            Some(511),
            Some(512),
            Some(513),
            Some(700),
            Some(1231),
            Some(1232),
            Some(1233),
            Some(4096),
            Some(65_535),
        ] {
            let limit = usize::from(payload.unwrap_or(0_u16)).clamp(512, 1232);
            let edns = payload.map(|payload| opt(payload, 0, 0, &[]));
            let bytes = query(many, kind, 1, &edns.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let fixed = 12 + many.len() + 4 + edns.as_ref().map_or(0, Vec::len);
            let fitting = ((limit - fixed) / record).min(60);
            for server in listeners(&har) {
                let reply = over_udp(server, &bytes).expect("a reply");
                let what = format!("type {kind}, payload {payload:?} at {server}");
                assert_eq!(reply.len(), fixed + fitting * record, "{what}");
                assert_eq!(reply[2] & 0x02 != 0, fitting < 60, "TC: {what}");
                assert_eq!(Reply::read(&reply).addresses().len(), fitting, "{what}");
                let whole = over_tcp(server, &bytes).expect("a reply");
                assert_eq!((whole.len(), whole[2] & 0x02), (fixed + 60 * record, 0), "over TCP: {what}");
            }
        }
    }
}

#[test]
fn a_forwarded_reply_keeps_to_every_payload_size() {
    let upstream = crate::harness::Upstream::start();
    let many: Vec<String> = (1..=60).map(|n| format!("198.51.100.{n}")).collect();
    upstream.addresses("wide.example", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let har = har().upstream(&[&upstream]).start();
    for payload in [0_u16, 511, 512, 900, 1232, 4096, 65_535] {
        let bytes = query(b"\x04wide\x07example\0", 1, 1, &[&opt(payload, 0, 0x8000, &[])]);
        let reply = over_udp(har.address(), &bytes).expect("a reply");
        let limit = usize::from(payload).clamp(512, 1232);
        let decoded = Reply::read(&reply);
        assert!(reply.len() <= limit, "payload {payload}: {} bytes", reply.len());
        let cut = decoded.message.metadata.truncation;
        assert_eq!(decoded.addresses().len(), if cut { 0 } else { 60 }, "payload {payload}");
        assert!(decoded.message.edns.is_some(), "OPT stays: payload {payload}");
    }
}

#[test]
fn without_an_upstream_the_rows_that_are_hars_own_stay() {
    let silent = Fast::start_at("127.0.0.1:0", Manner::Refuse);
    let lines = format!("servers = [\"{}\"]\ntimeout = \"500ms\"", silent.address());
    let har = har().upstream_lines(&lines).names(NAMES).start();
    assert_eq!(har.a("api.example"), "192.0.2.7");
    let refused = Reply::read(&har.udp(&encode(&plain_question("other.example", RecordType::A))));
    assert_eq!(u16::from(refused.rcode()), 5, "the only reply there is gets relayed");
}
