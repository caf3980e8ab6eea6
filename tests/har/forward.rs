//! Everything that is not configured goes upstream and comes back byte for byte, or as SERVFAIL in time.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::harness::dns::{self, encode, plain_question, question};
use crate::harness::{Behaviour, Har, Reply, Upstream, har, wait_for};

fn start(upstreams: &[&Upstream]) -> Har {
    har().upstream(upstreams).start()
}

/// Options, flags and records that har knows nothing about: a cookie, the Z bit, an unknown class and type.
fn strange_query(name: &str) -> Vec<u8> {
    let mut bytes = encode(&plain_question(name, RecordType::Unknown(65_280)));
    bytes[3] |= 0x40 | 0x20;
    bytes[11] = 1;
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    bytes.extend([0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, cookie.len() as u8]);
    bytes.extend(cookie);
    bytes
}

#[test]
fn query_and_answer_pass_byte_for_byte() {
    let upstream = Upstream::start();
    let query = strange_query("Strange.Example");
    // The question as asked, then a record of an unknown type with a compressed owner.
    let mut answer = vec![0x81, 0xa0, 0, 1, 0, 1, 0, 0, 0, 0];
    answer.extend(&query[12..12 + 17 + 4]);
    answer.extend([0xc0, 12, 0xff, 0, 0, 1, 0, 0, 0, 9, 0, 3, 0xde, 0xad, 0xbf]);
    upstream.behave("strange.example", Behaviour::Raw(answer.clone()));
    let har = start(&[&upstream]);
    let reply = har.udp(&query);
    assert_eq!(reply[..2], query[..2], "the client's id");
    assert_eq!(reply[2..], answer[..]);
    let seen = upstream.seen("strange.example");
    assert_eq!(seen[0].bytes[2..], query[2..]);
    let mut tcp = har.tcp();
    tcp.send(&query);
    assert_eq!(tcp.receive().expect("a reply")[2..], answer[..]);
    assert!(upstream.seen("strange.example").iter().any(|seen| seen.tcp), "a TCP client's query goes over TCP");
}

#[test]
fn ids_and_ports_cannot_be_guessed() {
    let upstream = Upstream::start();
    let har = start(&[&upstream]);
    for number in 0..20 {
        let mut query = question(&format!("n{number}.example"), RecordType::A);
        query.metadata.id = 7;
        assert_eq!(Reply::read(&har.udp(&encode(&query))).message.metadata.id, 7);
    }
    let seen: Vec<_> =
        (0..20).flat_map(|number| upstream.seen(&format!("n{number}.example")).into_iter().take(1)).collect();
    let ids: HashSet<[u8; 2]> = seen.iter().map(|seen| [seen.bytes[0], seen.bytes[1]]).collect();
    let ports: HashSet<u16> = seen.iter().map(|seen| seen.from.port()).collect();
    assert!(ids.len() > 15 && ports.len() > 10, "{} ids, {} ports of 20 queries", ids.len(), ports.len());
}

#[test]
fn what_does_not_belong_to_the_query_is_ignored() {
    let upstream = Upstream::start();
    upstream.addresses("true.example", &["198.51.100.3"]).behave("true.example", Behaviour::LiesFirst);
    let har = start(&[&upstream]);
    assert_eq!(har.a("true.example"), "198.51.100.3");
}

#[test]
fn response_codes_are_relayed_and_a_configured_name_exists() {
    let upstream = Upstream::start();
    let har = har()
        .upstream(&[&upstream])
        .names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]")
        .start();
    assert_eq!(har.query("gone.example", "A").rcode(), ResponseCode::NXDomain);
    // NXDOMAIN for another type would deny the addresses too.
    assert_eq!(har.query("api.example", "TXT").rcode(), ResponseCode::NoError);
    upstream.txt("api.example", &["hello"]);
    assert_eq!(har.query("api.example", "TXT").message.answers.len(), 1);
}

#[test]
fn the_next_server_is_asked_on_silence_refusal_and_failure() {
    type Break = fn(&mut Upstream);
    let ways: [(&str, Break); 4] = [
        ("silence", |first| {
            first.behave_always(Behaviour::Drop);
        }),
        ("SERVFAIL", |first| {
            first.behave_always(Behaviour::Rcode(ResponseCode::ServFail));
        }),
        ("REFUSED", |first| {
            first.behave_always(Behaviour::Rcode(ResponseCode::Refused));
        }),
        ("closed port", Upstream::close),
    ];
    for (way, break_it) in ways {
        let (mut first, second) = (Upstream::start(), Upstream::start());
        second.addresses("there.example", &["198.51.100.4"]);
        break_it(&mut first);
        let har = start(&[&first, &second]);
        // One that got no processor for a while counts as dead, too.
        wait_for(way, || (har.a("there.example") == "198.51.100.4").then_some(()));
        wait_for(&format!("{way} over TCP"), || {
            let reply = har.tcp().ask(&question("there.example", RecordType::A));
            (reply.first() == "198.51.100.4").then_some(())
        });
    }
}

#[test]
fn a_lost_datagram_is_sent_again() {
    let upstream = Upstream::start();
    upstream.addresses("lossy.example", &["198.51.100.5"]).behave("lossy.example", Behaviour::DropFirst(1));
    let har = start(&[&upstream]);
    assert_eq!(har.a("lossy.example"), "198.51.100.5");
    assert!(upstream.seen("lossy.example").len() >= 2);
}

#[test]
fn when_all_servers_fail_the_client_hears_it_in_time() {
    for behaviour in [Behaviour::Drop, Behaviour::Rcode(ResponseCode::ServFail)] {
        let upstream = Upstream::start();
        let lines = format!("servers = [\"{}\"]\ntimeout = \"600ms\"", upstream.address());
        let har = har().upstream_lines(&lines).start();
        upstream.behave("dead.example", behaviour.clone());
        let begin = Instant::now();
        let reply = har.query("dead.example", "A");
        assert_eq!(reply.rcode(), ResponseCode::ServFail, "{behaviour:?}");
        if behaviour == Behaviour::Drop {
            assert_eq!(reply.extended_error(), Some(23), "network error");
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{behaviour:?}: {:?}", begin.elapsed());
    }
}

#[test]
fn truncation_is_passed_on_and_never_reaches_a_tcp_client() {
    let upstream = Upstream::start();
    upstream.addresses("large.example", &["198.51.100.6"]).behave("large.example", Behaviour::TruncateUdp);
    let har = start(&[&upstream]);
    let reply = har.query("large.example", "A");
    assert!(reply.message.metadata.truncation && reply.addresses().is_empty());
    let reply = har.tcp().ask(&question("large.example", RecordType::A));
    assert!(!reply.message.metadata.truncation);
    assert_eq!(reply.first(), "198.51.100.6");
}

#[test]
fn a_reply_above_the_clients_limit_is_cut_to_its_question() {
    let upstream = Upstream::start();
    let many: Vec<String> = (1..=60).map(|i| format!("198.51.100.{i}")).collect();
    upstream.addresses("wide.example", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let har = start(&[&upstream]);
    let reply = Reply::read(&har.udp(&encode(&plain_question("wide.example", RecordType::A))));
    assert!(reply.message.metadata.truncation);
    assert_eq!((reply.message.queries.len(), reply.addresses().len()), (1, 0));
    assert!(reply.bytes.len() <= 512);
    assert_eq!(har.tcp().ask(&plain_question("wide.example", RecordType::A)).addresses().len(), 60);
}

#[test]
fn a_clients_retransmission_joins_the_query_under_way() {
    let upstream = Upstream::start();
    upstream.addresses("slow.example", &["198.51.100.7"]);
    upstream.behave("slow.example", Behaviour::Delay(Duration::from_millis(1500)));
    let har = start(&[&upstream]);
    let socket = dns::udp_socket(har.address());
    let query = encode(&question("slow.example", RecordType::A));
    for _ in 0..3 {
        socket.send(&query).unwrap();
    }
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(Reply::read(&buffer[..length]).first(), "198.51.100.7");
    // Datagrams of one socket come in order: a second reply would be there before that of the marker.
    let marker = question("marker.example", RecordType::A);
    socket.send(&encode(&marker)).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(Reply::read(&buffer[..length]).message.metadata.id, marker.metadata.id, "one reply to all three");
}

#[test]
fn routes_send_a_suffix_elsewhere_and_nowhere_else() {
    let (general, corp) = (Upstream::start(), Upstream::start());
    general.addresses("www.corp.example", &["198.51.100.8"]).addresses("corp.example.net", &["198.51.100.9"]);
    corp.addresses("www.corp.example", &["10.8.0.80"]).addresses("corp.example", &["10.8.0.1"]);
    let lines = format!(
        "servers = [\"{}\"]\ntimeout = \"2s\"\n[upstream.routes]\n\"corp.example\" = [\"{}\"]",
        general.address(),
        corp.address()
    );
    let har = har().upstream_lines(&lines).start();
    assert_eq!(har.a("www.corp.example"), "10.8.0.80");
    assert_eq!(har.a("corp.example"), "10.8.0.1");
    assert_eq!(har.a("corp.example.net"), "198.51.100.9");
    corp.behave_always(Behaviour::Drop);
    assert_eq!(har.query("www.corp.example", "A").rcode(), ResponseCode::ServFail);
    assert!(general.seen("www.corp.example").is_empty(), "a private name never goes to the general servers");
}
