//! Queries by hand, replies read back with hickory-proto as the reference.

use std::fmt::Write;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use proptest::prelude::*;

use super::*;

/// A query in the making: RD=1, one question, class IN.
#[derive(Clone, Debug)]
pub struct Ask {
    pub id: u16,
    pub flags: [u8; 2],
    pub counts: [u16; 4],
    pub name: Vec<u8>,
    pub qtype: u16,
    pub class: u16,
    pub rest: Vec<u8>,
}

pub fn ask(name: &str, qtype: u16) -> Ask {
    Ask { id: 0xbeef, flags: [RD, 0], counts: [1, 0, 0, 0], name: wire_name(name), qtype, class: 1, rest: Vec::new() }
}

impl Ask {
    pub fn class(self, class: u16) -> Ask {
        Ask { class, ..self }
    }

    /// Appends a record to a section (1 = answer … 3 = additional).
    pub fn record(mut self, section: usize, bytes: &[u8]) -> Ask {
        self.counts[section] += 1;
        self.rest.extend_from_slice(bytes);
        self
    }

    pub fn edns(self, payload: u16) -> Ask {
        self.record(3, &opt(payload, 0, 0, b""))
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut message = self.id.to_be_bytes().to_vec();
        message.extend(self.flags);
        message.extend(self.counts.iter().flat_map(|count| count.to_be_bytes()));
        message.extend(&self.name);
        message.extend(self.qtype.to_be_bytes());
        message.extend(self.class.to_be_bytes());
        message.extend(&self.rest);
        message
    }
}

pub fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut wire: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    wire.push(0);
    wire
}

pub fn opt(payload: u16, version: u8, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0, 41];
    record.extend(payload.to_be_bytes());
    record.extend([0, version, flags, 0]);
    record.extend((options.len() as u16).to_be_bytes());
    record.extend(options);
    record
}

/// A reply in a line, as hickory-proto reads it: code, flags, records, EDNS.
pub fn describe(reply: &[u8]) -> String {
    let message = Message::from_vec(reply).expect("a reply that can be read");
    let high = message.edns.as_ref().map_or(0, |edns| edns.rcode_high());
    let code = ResponseCode::from(high, reply[3] & 15);
    let mut line = format!("{}", u16::from(code));
    for (set, word) in [
        (reply[2] & AA, "aa"),
        (reply[2] & TC, "tc"),
        (reply[2] & RD, "rd"),
        (reply[3] & RA, "ra"),
        (reply[3] & 0x20, "ad"),
        (reply[3] & CD, "cd"),
        (reply[3] & 0x40, "z"),
    ] {
        if set != 0 {
            line += &format!(" {word}");
        }
    }
    for record in message.answers.iter().chain(&message.authorities).chain(&message.additionals) {
        let _ = match &record.data {
            RData::A(address) => write!(line, " | A {address} {}", record.ttl),
            RData::AAAA(address) => write!(line, " | AAAA {address} {}", record.ttl),
            RData::SOA(soa) => {
                assert_eq!(soa.mname, record.name);
                write!(line, " | SOA {} {} {} {}", record.name, soa.rname, record.ttl, soa.minimum)
            }
            other => write!(line, " | {other:?}"),
        };
    }
    if let Some(edns) = &message.edns {
        assert_eq!(edns.version(), 0);
        line += &format!(" | opt {}", edns.max_payload());
        if edns.flags().dnssec_ok {
            line += " do";
        }
        for (code, option) in &edns.options().options {
            match (code, option) {
                (EdnsCode::Unknown(15), EdnsOption::Unknown(_, data)) => {
                    line += &format!(" ede {}", u16::from_be_bytes([data[0], data[1]]));
                    assert_eq!(data.len(), 2);
                }
                other => panic!("an option nobody asked for: {other:?}"),
            }
        }
    }
    line
}

fn verdict(message: &[u8]) -> Result<(), String> {
    match parse(message) {
        Ok(query) => {
            assert_eq!(query.message, message);
            Ok(())
        }
        Err(Reject::Drop(reason)) => Err(format!("{reason:?}")),
        Err(Reject::Error { query, rcode, .. }) => {
            let mut reply = Vec::new();
            error(&query, rcode, Some(ede::NOT_READY), &mut reply);
            check_echo(message, &reply);
            Err(rcode.to_string())
        }
    }
}

/// What every reply owes its query: id, QR, opcode, and the question or none.
pub fn check_echo(query: &[u8], reply: &[u8]) {
    Message::from_vec(reply).unwrap_or_else(|error| panic!("{error}: {reply:02x?} to {query:02x?}"));
    assert_eq!(reply[..2], query[..2]);
    assert_eq!(reply[2] & (QR | OPCODE | RD), QR | query[2] & (OPCODE | RD));
    if reply[4..6] == [0, 1] {
        let end = question_end(reply, HEADER).unwrap();
        assert_eq!(reply[HEADER..end], query[HEADER..end]);
    } else {
        assert_eq!(reply[4..6], [0, 0]);
        assert_ne!(reply[3] & RCODE, 0);
    }
}

#[test]
fn a_query_is_read() {
    let message = ask("Api.Example.com", rtype::AAAA).record(3, &opt(4096, 0, 0x80, b"\0\x0a\0\x08cookie!!")).bytes();
    let query = parse(&message).unwrap();
    assert_eq!((query.id(), query.qtype, query.qclass), (0xbeef, rtype::AAAA, 1));
    assert_eq!(query.name(), b"\x03Api\x07Example\x03com\0");
    assert_eq!(query.question().len(), 17 + 4);
    let edns = Edns { payload: 4096, extended_rcode: 0, version: 0, dnssec_ok: true };
    assert_eq!(query.edns, Some(edns));
    let root = ask("", rtype::A).bytes();
    assert_eq!(parse(&root).unwrap().name(), b"\0");
}

#[test]
fn first_row_that_matches() {
    let plain = ask("a.b", rtype::A);
    let long = |last: usize| [vec!["a".repeat(63); 3].join("."), "a".repeat(last)].join(".");
    let tsig = b"\x01k\xc0\x0c\0\xfa\0\xff\0\0\0\0\0\x02xx";
    let with = |change: &dyn Fn(&mut Ask)| {
        let mut ask = plain.clone();
        change(&mut ask);
        ask.bytes()
    };
    let cases: Vec<(&str, Vec<u8>, Result<(), &str>)> = vec![
        ("plain", plain.bytes(), Ok(())),
        ("empty", vec![], Err("TooShort")),
        ("eleven bytes", plain.bytes()[..11].to_vec(), Err("TooShort")),
        ("a response", with(&|ask| ask.flags[0] |= QR), Err("Response")),
        ("a response of another opcode", with(&|ask| ask.flags[0] |= QR | 0x20), Err("Response")),
        ("header alone", with(&|ask| ask.counts[0] = 0)[..12].to_vec(), Err("1")),
        ("status", with(&|ask| ask.flags[0] |= 0x10), Err("4")),
        ("notify without question", [&[1, 2, 0x20, 0][..], &[0; 8]].concat(), Err("4")),
        ("update, malformed", with(&|ask| (ask.flags[0], ask.counts[1]) = (0x28, 9)), Err("4")),
        ("no question", with(&|ask| ask.counts[0] = 0), Err("1")),
        ("two questions", with(&|ask| ask.counts[0] = 2), Err("1")),
        ("65535 questions", with(&|ask| ask.counts[0] = 65535), Err("1")),
        ("name without end", with(&|ask| ask.name = b"\x03abc".to_vec())[..16].to_vec(), Err("1")),
        ("class cut", plain.bytes()[..20].to_vec(), Err("1")),
        ("pointer", with(&|ask| ask.name = b"\xc0\x0c".to_vec()), Err("1")),
        ("label, then pointer", with(&|ask| ask.name = b"\x01a\xc0\x0c".to_vec()), Err("1")),
        ("extended label", with(&|ask| ask.name = b"\x41\x01a\0".to_vec()), Err("1")),
        ("label of 63", ask(&"a".repeat(63), 1).bytes(), Ok(())),
        ("label of 64", with(&|ask| ask.name = [b"\x40".as_slice(), &[b'a'; 64], b"\0"].concat()), Err("1")),
        ("name of 255", ask(&long(61), 1).bytes(), Ok(())),
        ("name of 256", ask(&long(62), 1).bytes(), Err("1")),
        ("opt", plain.clone().edns(0).bytes(), Ok(())),
        ("opt behind another record", plain.clone().record(3, tsig).edns(65535).bytes(), Ok(())),
        ("opt before another record", plain.clone().edns(512).record(3, tsig).bytes(), Ok(())),
        ("records in every section", plain.clone().record(1, tsig).record(2, tsig).edns(9).bytes(), Ok(())),
        ("two opts", plain.clone().edns(512).edns(512).bytes(), Err("1")),
        ("opt in the answer section", plain.clone().record(1, &opt(512, 0, 0, b"")).bytes(), Err("1")),
        ("opt in the authority section", plain.clone().record(2, &opt(512, 0, 0, b"")).bytes(), Err("1")),
        ("opt with an owner", plain.clone().record(3, b"\x01a\0\0\x29\x04\xd0\0\0\0\0\0\0").bytes(), Err("1")),
        ("opt with a pointer", plain.clone().record(3, b"\xc0\x0c\0\x29\x04\xd0\0\0\0\0\0\0").bytes(), Err("1")),
        ("a count without record", with(&|ask| ask.counts[1] = 1), Err("1")),
        ("65535 records promised", with(&|ask| ask.counts[3] = 65535), Err("1")),
        ("data past the end", plain.clone().record(3, b"\0\0\x29\x04\xd0\0\0\0\0\0\x01").bytes(), Err("1")),
        ("a record's fixed part cut", plain.clone().record(3, b"\0\0\x29\x04\xd0\0\0\0\0").bytes(), Err("1")),
        ("extended label in an owner", plain.clone().record(3, &[&[0x80], &tsig[..]].concat()).bytes(), Err("1")),
        ("trailing bytes", with(&|ask| ask.rest = vec![0xff; 40]), Ok(())),
        ("version 1", plain.clone().record(3, &opt(512, 1, 0, b"")).bytes(), Err("16")),
        ("version 255, axfr", ask("a", 252).record(3, &opt(512, 255, 0, b"")).bytes(), Err("16")),
        ("version 1 and a second opt", plain.clone().record(3, &opt(512, 1, 0, b"")).edns(1).bytes(), Err("1")),
        ("axfr", ask("a", rtype::AXFR).bytes(), Err("5")),
        ("ixfr", ask("a", rtype::IXFR).class(3).bytes(), Err("5")),
        ("any", ask("a", rtype::ANY).bytes(), Ok(())),
        ("chaos", ask("version.bind", 16).class(3).bytes(), Ok(())),
    ];
    for (what, message, expected) in cases {
        assert_eq!(verdict(&message), expected.map_err(str::to_owned), "{what}");
    }
}

#[test]
fn error_replies() {
    let reply = |ask: Ask, code, ede| {
        let message = ask.bytes();
        let query = match parse(&message) {
            Ok(query) | Err(Reject::Error { query, .. }) => query,
            Err(Reject::Drop(reason)) => panic!("{reason:?}"),
        };
        let mut out = vec![7; 3];
        error(&query, code, ede, &mut out);
        check_echo(&message, &out);
        describe(&out)
    };
    let plain = ask("x.Y", rtype::A);
    let net = Some(ede::NETWORK_ERROR);
    assert_eq!(reply(plain.clone(), rcode::SERVFAIL, net), "2 rd ra");
    assert_eq!(reply(plain.clone().edns(4096), rcode::SERVFAIL, net), "2 rd ra | opt 1232 ede 23");
    assert_eq!(reply(plain.clone().edns(4096), rcode::REFUSED, None), "5 rd ra | opt 1232");
    let dnssec = Ask { flags: [0, 0x30], ..plain.clone().record(3, &opt(0, 0, 0x80, b"")) };
    assert_eq!(reply(dnssec, rcode::SERVFAIL, net), "2 ra cd | opt 1232 do ede 23");
    let newer = plain.clone().record(3, &opt(4096, 1, 0, b""));
    assert_eq!(reply(newer, rcode::BADVERS, None), "16 rd ra | opt 1232");
    assert_eq!(reply(plain.clone().edns(1).edns(2), rcode::FORMERR, None), "1 rd ra | opt 1232");
    assert_eq!(reply(Ask { counts: [2, 0, 0, 0], ..plain.clone() }, rcode::FORMERR, None), "1 rd ra");
    // The OPT record is found behind any number of questions.
    let twice = Ask { rest: b"\0\0\x01\0\x01".to_vec(), counts: [2, 0, 0, 0], ..plain };
    assert_eq!(reply(twice.clone(), rcode::FORMERR, None), "1 rd ra");
    assert_eq!(reply(twice.edns(512), rcode::FORMERR, None), "1 rd ra | opt 1232");
    let mut none = [0; HEADER];
    none[11] = 1;
    let none = [&none[..], &opt(512, 0, 0, b"")].concat();
    let Err(Reject::Error { query, rcode: code }) = parse(&none) else { panic!("a query without a question") };
    let mut out = Vec::new();
    error(&query, code, None, &mut out);
    assert_eq!(describe(&out), "1 ra | opt 1232");
}

#[test]
fn limits_by_payload() {
    for (payload, limit) in [(None, 512), (Some(0), 512), (Some(511), 512), (Some(513), 513), (Some(1232), 1232)]
        .into_iter()
        .chain([1233, 4096, 65535].map(|payload| (Some(payload), 1232)))
    {
        let plain = ask("a", 1);
        let message = payload.map_or(plain.clone(), |payload| plain.edns(payload)).bytes();
        assert_eq!(udp_limit(&parse(&message).unwrap()), limit, "{payload:?}");
    }
}

#[test]
fn long_replies_are_cut_to_the_question() {
    let long_text = [b"\xc0\x0c\0\x10\0\x01\0\0\0\x01\x02\0\xff".as_slice(), &[b'x'; 511]].concat();
    let upstream = Ask { id: 7, flags: [QR | AA | RD, RA | 0x20 | 3], ..ask("TXT.example", 16).record(1, &long_text) };
    let cut = |query: Ask, reply: &Ask| {
        let message = query.bytes();
        let mut reply = reply.bytes();
        truncate(&mut reply, &parse(&message).unwrap());
        check_echo(&message, &reply);
        assert!(is_truncated(&reply));
        assert!(matches_question(&message, &reply));
        describe(&reply)
    };
    let query = ask("txt.Example", 16);
    assert_eq!(cut(query.clone(), &upstream), "3 aa tc rd ra ad");
    assert_eq!(cut(query.clone().edns(600), &upstream), "3 aa tc rd ra ad | opt 1232");
    let extended = upstream.record(3, b"\0\0\x29\x04\xd0\x01\0\0\0\0\0");
    assert_eq!(cut(query.edns(600), &extended), "19 aa tc rd ra ad | opt 1232");
    let mut short = vec![1, 2];
    let message = ask("a", 1).bytes();
    truncate(&mut short, &parse(&message).unwrap());
    assert_eq!(short, [1, 2]);
}

#[test]
fn replies_to_the_same_question() {
    let query = ask("Api.example", rtype::A).edns(1232);
    let reply = |name: &str, qtype| Ask { id: 9, flags: [QR, RA], ..ask(name, qtype) };
    let bare = |flags: [u8; 2]| [&[0, 9, flags[0], flags[1]][..], &[0; 8]].concat();
    for (what, reply, matches) in [
        ("same", reply("Api.example", 1).bytes(), true),
        ("case folded", reply("api.EXAMPLE", 1).bytes(), true),
        ("other type", reply("Api.example", 28).bytes(), false),
        ("type that differs by case", reply("Api.example", 0x21).bytes(), false),
        ("other class", reply("Api.example", 1).class(3).bytes(), false),
        ("other name", reply("Apj.example", 1).bytes(), false),
        ("longer name", reply("Api.example.x", 1).bytes(), false),
        ("shorter name", reply("Api", 1).bytes(), false),
        ("a query", query.bytes(), false),
        ("other opcode", Ask { flags: [QR | 0x20, 0], ..query.clone() }.bytes(), false),
        ("two questions", Ask { counts: [2, 0, 0, 0], ..reply("Api.example", 1) }.bytes(), false),
        ("formerr without question", bare([QR, RA | 1]), true),
        ("notimp without question", bare([QR, 4]), true),
        ("servfail without question", bare([QR, 2]), false),
        ("noerror without question", bare([QR, 0]), false),
        ("formerr with a record", Ask { counts: [0, 1, 0, 0], flags: [QR, 1], ..query.clone() }.bytes(), false),
        ("too short", vec![0; 11], false),
    ] {
        assert_eq!(matches_question(&query.bytes(), &reply), matches, "{what}");
    }
    // 'A' in a type is 0x41: the case of numbers is not folded.
    assert!(!matches_question(&ask("a", 0x41).bytes(), &reply("a", 0x61).bytes()));
}

#[test]
fn patches() {
    let mut message = Ask { flags: [QR, RA | 3], ..ask("a", 1) }.bytes();
    set_id(&mut message, 0x1234);
    assert_eq!((id(&message), rcode(&message)), (Some(0x1234), Some(rcode::NXDOMAIN)));
    relay_nxdomain_as_noerror(&mut message);
    assert_eq!(describe(&message), "0 ra");
    let mut failed = Ask { flags: [QR, RA | 2], ..ask("a", 1) }.bytes();
    relay_nxdomain_as_noerror(&mut failed);
    assert_eq!(rcode(&failed), Some(rcode::SERVFAIL));
    for length in 0..HEADER {
        let mut short = vec![3; length];
        relay_nxdomain_as_noerror(&mut short);
        set_id(&mut short, 1);
        assert!(!is_truncated(&short) && rcode(&short).is_none());
    }
}

/// Messages worth mutating: what the tables above are made of.
pub fn corpus() -> Vec<Vec<u8>> {
    let plain = ask("Api.Example.com", rtype::A);
    vec![
        plain.bytes(),
        plain.clone().edns(1232).bytes(),
        plain.clone().record(3, &opt(4096, 0, 0x80, b"\0\x0a\0\x08cookie!!")).bytes(),
        plain.clone().record(1, b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\x7f\0\0\x01").edns(9).bytes(),
        plain.clone().edns(1).edns(2).bytes(),
        ask("a.b.apps.example", rtype::AAAA).edns(700).bytes(),
        ask("localhost", rtype::AAAA).bytes(),
        ask("x._dns.resolver.arpa", 64).edns(512).bytes(),
        ask(&vec!["abc"; 63].join("."), rtype::A).bytes(),
        ask("version.bind", 16).class(3).bytes(),
        Ask { flags: [0x28, 0], ..plain }.bytes(),
    ]
}

/// Truncations, flipped bytes, cuts and joins of the corpus.
pub fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let base = (prop::sample::select(corpus()), prop::sample::select(corpus()), any::<prop::sample::Index>());
    (base, edits, any::<bool>(), any::<prop::sample::Index>()).prop_map(
        |((mut message, other, at), edits, join, end)| {
            if join {
                message.truncate(at.index(message.len() + 1));
                message.extend(other);
            }
            for (place, byte) in edits {
                let place = place.index(message.len());
                message[place] = byte;
            }
            let end = end.index(2 * message.len());
            message.truncate(end);
            message
        },
    )
}

#[test]
fn truncations_never_pass_for_whole() {
    for message in corpus() {
        for end in 0..message.len() {
            assert!(verdict(&message[..end]).is_err(), "{:02x?}", &message[..end]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn hostile_messages(message in hostile()) {
        if verdict(&message).is_ok() {
            let query = parse(&message).unwrap();
            prop_assert!(query.name().len() <= MAX_NAME && query.question_end <= message.len());
            let mut reply = message.clone();
            reply[2] |= QR;
            prop_assert!(matches_question(&message, &reply));
            truncate(&mut reply, &query);
            prop_assert!(reply.len() <= query.question_end + OPT_LEN);
            check_echo(&message, &reply);
        }
    }

    #[test]
    fn noise(message in prop::collection::vec(any::<u8>(), 0..600), reply in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = verdict(&message);
        matches_question(&message, &reply);
        let query = ask("a", 1).bytes();
        truncate(&mut reply.clone(), &parse(&query).unwrap());
    }
}
