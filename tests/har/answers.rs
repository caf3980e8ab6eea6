//! What configured names, special names and queries that are none get: the table of `docs/protocol.md` on the wire.

use std::net::{Ipv6Addr, SocketAddr};

use hickory_proto::op::{OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use crate::harness::dns::{self, Tcp, encode, plain_question, question};
use crate::harness::{Har, Reply, Upstream, har};

/// Names that need no check, so that only the answer is tested.
const NAMES: &str = r#"
[defaults]
check = "none"

[names."api.example.com"]
candidates = ["192.0.2.7", "2001:db8::7"]
ttl = 30

[names."v4.example.com"]
candidates = ["192.0.2.8"]
ttl = 5

[names."*.apps.example.com"]
candidates = ["192.0.2.9"]
"#;

fn start(upstream: &Upstream) -> Har {
    har().upstream(&[upstream]).names(NAMES).ipv6().start()
}

fn ask(har: &Har, message: &hickory_proto::op::Message) -> Reply {
    Reply::read(&har.udp(&encode(message)))
}

#[test]
fn a_configured_name_is_answered_with_authority() {
    let upstream = Upstream::start();
    let har = start(&upstream);
    for (kind, address) in [("A", "192.0.2.7"), ("AAAA", "2001:db8::7")] {
        let reply = har.query("api.example.com", kind);
        let header = reply.message.metadata;
        assert!(header.authoritative && header.recursion_available && header.recursion_desired, "{header:?}");
        assert_eq!(reply.rcode(), ResponseCode::NoError);
        assert_eq!(reply.first(), address);
        assert_eq!(reply.message.answers[0].ttl, 30);
        assert!(reply.message.authorities.is_empty());
    }
    let mut undesired = question("api.example.com", RecordType::A);
    undesired.metadata.recursion_desired = false;
    assert!(!ask(&har, &undesired).message.metadata.recursion_desired, "RD is copied");
    assert!(upstream.seen("api.example.com").is_empty(), "nothing of it goes upstream");
}

#[test]
fn the_question_comes_back_in_its_own_letters() {
    let upstream = Upstream::start();
    let har = start(&upstream);
    let query = encode(&question("aPi.ExAmPlE.cOm", RecordType::A));
    let reply = har.udp(&query);
    let end = 12 + "aPi.ExAmPlE.cOm".len() + 2 + 4;
    assert_eq!(reply[12..end], query[12..end]);
    assert_eq!(Reply::read(&reply).first(), "192.0.2.7");
}

#[test]
fn only_the_name_itself_matches_and_a_wildcard_what_is_below_it() {
    let upstream = Upstream::start();
    for name in ["api.example.com.evil.example", "xapi.example.com", "a.api.example.com", "apps.example.com"] {
        upstream.addresses(name, &["198.51.100.1"]);
    }
    let har = start(&upstream);
    for (name, address) in [
        ("api.example.com", "192.0.2.7"),
        ("api.example.com.evil.example", "198.51.100.1"),
        ("xapi.example.com", "198.51.100.1"),
        ("a.api.example.com", "198.51.100.1"),
        ("apps.example.com", "198.51.100.1"),
        ("one.apps.example.com", "192.0.2.9"),
        ("one.two.apps.example.com", "192.0.2.9"),
    ] {
        assert_eq!(har.a(name), address, "{name}");
    }
}

#[test]
fn a_family_without_addresses_is_empty_and_says_for_how_long() {
    let upstream = Upstream::start();
    let har = start(&upstream);
    let reply = har.query("v4.example.com", "AAAA");
    assert_eq!(reply.rcode(), ResponseCode::NoError);
    assert!(reply.message.answers.is_empty());
    let (owner, ttl, minimum) = reply.soa().expect("an SOA record");
    assert_eq!((owner.to_ascii().trim_end_matches('.'), ttl, minimum), ("v4.example.com", 5, 5));
    assert!(upstream.seen("v4.example.com").is_empty(), "it is never forwarded");
}

#[test]
fn special_names_are_answered_here() {
    let upstream = Upstream::start();
    let har = start(&upstream);
    for name in ["localhost", "some.localhost"] {
        assert_eq!(har.query(name, "A").first(), "127.0.0.1", "{name}");
        assert_eq!(har.query(name, "AAAA").first(), "::1", "{name}");
        assert!(upstream.seen(name).is_empty(), "{name}");
    }
    let reply = har.query("_dns.resolver.arpa", "SVCB");
    assert_eq!((reply.rcode(), reply.message.answers.len()), (ResponseCode::NoError, 0));
    assert!(upstream.seen("_dns.resolver.arpa").is_empty());
}

#[test]
fn what_is_no_plain_query_gets_its_code() {
    let upstream = Upstream::start();
    let har = start(&upstream);

    let mut status = question("api.example.com", RecordType::A);
    status.metadata.op_code = OpCode::Status;
    assert_eq!(ask(&har, &status).rcode(), ResponseCode::NotImp);

    let mut two = question("api.example.com", RecordType::A);
    two.queries.push(two.queries[0].clone());
    assert_eq!(ask(&har, &two).rcode(), ResponseCode::FormErr);

    let mut none = question("api.example.com", RecordType::A);
    none.queries.clear();
    assert_eq!(ask(&har, &none).rcode(), ResponseCode::FormErr);

    let mut version = question("api.example.com", RecordType::A);
    version.edns.as_mut().expect("it has one").set_version(1);
    // 16, for which hickory has two names.
    assert_eq!(u16::from(ask(&har, &version).rcode()), u16::from(ResponseCode::BADVERS));

    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(ask(&har, &question("api.example.com", kind)).rcode(), ResponseCode::Refused, "{kind}");
    }

    let mut chaos = question("api.example.com", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask(&har, &chaos).rcode(), ResponseCode::NXDomain, "another class is forwarded");
    // That query and no other: it is sent again where the upstream gets no processor for a while.
    let (seen, sent) = (upstream.seen("api.example.com"), encode(&chaos));
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.bytes[2..] == sent[2..]), "{seen:?}");
}

#[test]
fn replies_and_scraps_are_dropped() {
    let upstream = Upstream::start();
    let har = start(&upstream);
    let socket = dns::udp_socket(har.address());
    let mut reply = encode(&question("api.example.com", RecordType::A));
    reply[2] |= 0x80;
    let asked = question("api.example.com", RecordType::A);
    for bytes in [&[][..], &[1, 2, 3], &reply[..11], &reply, &encode(&asked)] {
        socket.send(bytes).unwrap();
    }
    // Datagrams of one socket are served in order: had one of the first been answered, it would come first.
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(Reply::read(&buffer[..length]).message.metadata.id, asked.metadata.id);
}

#[test]
fn edns_is_answered_with_edns_and_its_absence_with_none() {
    let upstream = Upstream::start();
    let har = start(&upstream);
    assert!(ask(&har, &plain_question("api.example.com", RecordType::A)).message.edns.is_none());
    for dnssec_ok in [false, true] {
        let mut query = question("api.example.com", RecordType::A);
        let edns = query.edns.as_mut().unwrap();
        edns.set_max_payload(4096);
        edns.flags_mut().dnssec_ok = dnssec_ok;
        let edns = ask(&har, &query).message.edns.expect("an OPT record");
        assert_eq!((edns.max_payload(), edns.flags().dnssec_ok, edns.version()), (1232, dnssec_ok, 0));
    }
}

#[test]
fn what_does_not_fit_is_cut_by_whole_records_and_whole_over_tcp() {
    let candidates: Vec<String> = (1..=100).map(|i| format!("\"192.0.2.{i}\"")).collect();
    let names = format!(
        "[names.\"many.example.com\"]\ncheck = \"none\"\nselect = \"all\"\ncandidates = [{}]\n",
        candidates.join(", ")
    );
    let har = har().names(&names).start();
    let mut large = question("many.example.com", RecordType::A);
    large.edns.as_mut().unwrap().set_max_payload(4096);
    for (query, limit) in [(plain_question("many.example.com", RecordType::A), 512), (large, 1232)] {
        let reply = ask(&har, &query);
        assert!(reply.message.metadata.truncation, "TC is set");
        assert!(reply.bytes.len() <= limit, "{} bytes", reply.bytes.len());
        assert!(reply.addresses().len() > 20, "as many records as fit");
    }
    let reply = har.tcp().ask(&plain_question("many.example.com", RecordType::A));
    assert!(!reply.message.metadata.truncation);
    assert_eq!(reply.addresses().len(), 100);
}

#[test]
fn every_listener_answers_over_udp_and_tcp() {
    let upstream = Upstream::start();
    let har = start(&upstream);
    for ip in [har.address().ip(), Ipv6Addr::LOCALHOST.into()] {
        let address = SocketAddr::new(ip, har.port);
        let query = question("api.example.com", RecordType::A);
        assert_eq!(Reply::read(&dns::udp(address, &encode(&query))).first(), "192.0.2.7", "{address} UDP");
        assert_eq!(Tcp::open(address).ask(&query).first(), "192.0.2.7", "{address} TCP");
    }
}

#[test]
fn a_tcp_connection_carries_many_queries_answered_as_they_complete() {
    let upstream = Upstream::start();
    upstream.addresses("slow.example", &["198.51.100.2"]);
    upstream.behave("slow.example", crate::harness::Behaviour::Delay(std::time::Duration::from_millis(300)));
    let har = start(&upstream);
    let mut tcp = har.tcp();
    let (slow, quick) = (question("slow.example", RecordType::A), question("api.example.com", RecordType::A));
    // Both in one segment; then the client says that no more comes.
    let both = [dns::framed(&encode(&slow)), dns::framed(&encode(&quick))].concat();
    std::io::Write::write_all(&mut tcp.0, &both).unwrap();
    tcp.0.shutdown(std::net::Shutdown::Write).unwrap();
    let ids = [(); 2].map(|()| Reply::read(&tcp.receive().expect("a reply")).message.metadata.id);
    assert_eq!(ids, [quick.metadata.id, slow.metadata.id]);
    assert!(tcp.receive().is_none(), "then the connection ends");
}
