//! The rows of the contract, one case or more each; replies are read back with hickory-proto.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::HostName;
use super::super::given::Given;
use super::super::snapshot::{FamilyAnswer, NameAnswer, NameSettings, Turn};
use super::super::wire::tests::{Ask, ask, check_echo, corpus, describe, hostile, opt};
use super::*;

const QR: u8 = 0x80;

fn settings(name: &str, ttl: u32, other_types: OtherTypes) -> NameSettings {
    NameSettings { name: name.parse().unwrap(), ttl, other_types }
}

fn turn(addresses: &[&str]) -> Turn {
    Turn { addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(), given: Arc::default() }
}

fn addresses(texts: &[&str]) -> FamilyAnswer {
    FamilyAnswer::Addresses { turns: vec![turn(texts)], stale: false }
}

fn stale(texts: &[&str]) -> FamilyAnswer {
    FamilyAnswer::Addresses { turns: vec![turn(texts)], stale: true }
}

/// A table with a name for each kind of answer, named after it.
fn snapshot() -> Snapshot {
    use FamilyAnswer::{AllDown, Empty, Forward, NotReady, Wait};
    let many: Vec<String> = (1..=60).map(|n| format!("192.0.2.{n}")).collect();
    let many6: Vec<String> = (1..=60).map(|n| format!("2001:db8::{n:x}")).collect();
    let many = addresses(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let many6 = addresses(&many6.iter().map(String::as_str).collect::<Vec<_>>());
    let rows = [
        ("api.example.com", addresses(&["192.0.2.7", "192.0.2.9"]), addresses(&["2001:db8::7"]), OtherTypes::Forward),
        ("v4only.example", addresses(&["192.0.2.1"]), Empty, OtherTypes::NoHints),
        ("down.example", AllDown, AllDown, OtherTypes::NoData),
        ("new.example", NotReady, NotReady, OtherTypes::Forward),
        ("stale.example", stale(&["192.0.2.3"]), stale(&["2001:db8::3"]), OtherTypes::Forward),
        ("fwd.corp.example", Forward, Forward, OtherTypes::NoData),
        ("cold.example", Wait(Box::new(stale(&["192.0.2.4"]))), Wait(Box::new(NotReady)), OtherTypes::Forward),
        ("many.example", many, many6, OtherTypes::Forward),
        ("*.apps.example", addresses(&["192.0.2.5"]), Empty, OtherTypes::NoData),
        ("bypass.example", addresses(&["192.0.2.6"]), Empty, OtherTypes::NoData),
        ("fresh.example", Empty, Empty, OtherTypes::Forward),
        ("a.localhost", addresses(&["192.0.2.8"]), Empty, OtherTypes::Forward),
    ];
    let names = rows.iter().map(|(name, _, _, other)| settings(name, 5, *other)).collect();
    let routes: [HostName; 2] = ["corp.example".parse().unwrap(), "apps.example".parse().unwrap()];
    let mut snapshot = Snapshot::new(0, names, &routes);
    for (index, (name, v4, v6, _)) in (0..).zip(rows) {
        if name != "fresh.example" {
            snapshot.set(index, NameAnswer { v4, v6, bypass: name == "bypass.example" });
        }
    }
    snapshot
}

/// The verdict in words, and the reply in one line after a colon.
fn outcome(snapshot: &Snapshot, message: &[u8], transport: Transport, waiting: Waiting) -> String {
    let mut out = vec![0xaa; 5];
    let asked = |asked: Option<Asked>| {
        asked.map_or("-".to_owned(), |asked| {
            format!("{}/{}", snapshot.settings(asked.name).unwrap().name, asked.kind.as_str())
        })
    };
    match answer(snapshot, message, transport, waiting, &mut out) {
        Verdict::Reply { asked: name, kind } => {
            check_echo(message, &out);
            format!("{} {}: {}", asked(name), kind.as_str(), describe(&out))
        }
        Verdict::Drop(reason) => format!("{reason:?}"),
        Verdict::Forward { asked: name, route, exists } => {
            format!("{} forward {route}{}", asked(name), if exists { " exists" } else { "" })
        }
        Verdict::Wait { asked: name } => format!("{} wait", asked(Some(name))),
    }
}

fn udp(ask: Ask) -> String {
    outcome(&snapshot(), &ask.bytes(), Transport::Udp, Waiting::Allowed)
}

#[test]
fn rows_of_the_contract() {
    const SOA: &str = "nobody.invalid. 5 5";
    const LOCAL: &str = "nobody.invalid. 10800 10800";
    let edns = |name: &str, qtype| ask(name, qtype).edns(1232);
    let cases = [
        // A and AAAA of a configured name.
        (ask("api.example.com", 1), "api.example.com/a a: 0 aa rd ra | A 192.0.2.7 5 | A 192.0.2.9 5".into()),
        (ask("API.Example.COM", 28), "api.example.com/aaaa aaaa: 0 aa rd ra | AAAA 2001:db8::7 5".into()),
        (
            edns("api.example.com", 1),
            "api.example.com/a a: 0 aa rd ra | A 192.0.2.7 5 | A 192.0.2.9 5 | opt 1232".into(),
        ),
        (Ask { flags: [0, 0x70], ..ask("v4only.example", 1) }, "v4only.example/a a: 0 aa ra cd | A 192.0.2.1 5".into()),
        (
            ask("v4only.example", 1).record(3, &opt(512, 0, 0x80, b"")),
            "v4only.example/a a: 0 aa rd ra | A 192.0.2.1 5 | opt 1232 do".into(),
        ),
        // No address in that family.
        (ask("v4only.example", 28), format!("v4only.example/aaaa empty: 0 aa rd ra | SOA v4only.example. {SOA}")),
        (
            edns("X.apps.example", 28),
            format!("*.apps.example/aaaa empty: 0 aa rd ra | SOA X.apps.example. {SOA} | opt 1232"),
        ),
        // Failures.
        (ask("down.example", 1), "down.example/a all_down: 2 rd ra".into()),
        (edns("down.example", 28), "down.example/aaaa all_down: 2 rd ra | opt 1232 ede 22".into()),
        (ask("new.example", 1), "new.example/a not_ready: 2 rd ra".into()),
        (edns("new.example", 1), "new.example/a not_ready: 2 rd ra | opt 1232 ede 14".into()),
        // Stale.
        (ask("stale.example", 1), "stale.example/a stale: 0 aa rd ra | A 192.0.2.3 5".into()),
        (edns("stale.example", 1), "stale.example/a stale: 0 aa rd ra | A 192.0.2.3 5 | opt 1232 ede 3".into()),
        (
            edns("stale.example", 28),
            "stale.example/aaaa stale: 0 aa rd ra | AAAA 2001:db8::3 5 | opt 1232 ede 3".into(),
        ),
        // All down and forwarded; by the route of the name.
        (ask("fwd.corp.example", 1), "fwd.corp.example/a forward 1".into()),
        // Cold start.
        (ask("cold.example", 1), "cold.example/a wait".into()),
        (ask("cold.example", 16), "cold.example/other forward 0 exists".into()),
        (ask("fresh.example", 28), "fresh.example/aaaa wait".into()),
        // Other types.
        (ask("api.example.com", 16), "api.example.com/other forward 0 exists".into()),
        (ask("v4only.example", 16), "v4only.example/other forward 0 exists".into()),
        (ask("v4only.example", 64), format!("v4only.example/other empty: 0 aa rd ra | SOA v4only.example. {SOA}")),
        (ask("v4only.example", 65), format!("v4only.example/other empty: 0 aa rd ra | SOA v4only.example. {SOA}")),
        (ask("v4only.example", 255), format!("v4only.example/other empty: 0 aa rd ra | SOA v4only.example. {SOA}")),
        (ask("down.example", 15), format!("down.example/other empty: 0 aa rd ra | SOA down.example. {SOA}")),
        (ask("a.b.apps.example", 255), format!("*.apps.example/other empty: 0 aa rd ra | SOA a.b.apps.example. {SOA}")),
        // Bypassed: as if not configured, but counted.
        (ask("bypass.example", 1), "bypass.example/a forward 0".into()),
        (ask("bypass.example", 16), "bypass.example/other forward 0".into()),
        // Names with a meaning of their own, before configured ones.
        (ask("LocalHost", 1), "- special: 0 aa rd ra | A 127.0.0.1 10800".into()),
        (edns("x.localhost", 28), "- special: 0 aa rd ra | AAAA ::1 10800 | opt 1232".into()),
        (ask("a.localhost", 1), "- special: 0 aa rd ra | A 127.0.0.1 10800".into()),
        (ask("localhost", 15), format!("- special: 0 aa rd ra | SOA localhost. {LOCAL}")),
        (ask("localhost.example", 1), "- forward 0".into()),
        (ask("_dns.resolver.arpa", 64), format!("- special: 0 aa rd ra | SOA _dns.resolver.arpa. {LOCAL}")),
        (ask("x._dns.resolver.arpa", 1), format!("- special: 0 aa rd ra | SOA x._dns.resolver.arpa. {LOCAL}")),
        (ask("resolver.arpa", 1), "- forward 0".into()),
        // Everything else, any class.
        (ask("www.example.com", 1), "- forward 0".into()),
        (ask("x.api.example.com", 1), "- forward 0".into()),
        (ask("a.corp.example", 28), "- forward 1".into()),
        (ask("apps.example", 1), "- forward 2".into()),
        (ask("", 2), "- forward 0".into()),
        (ask("api.example.com", 1).class(3), "- forward 0".into()),
        (ask("fwd.corp.example", 1).class(255), "- forward 1".into()),
        (ask("localhost", 1).class(3), "- forward 0".into()),
        // Errors, before any name is looked at.
        (Ask { flags: [0x11, 0], ..ask("api.example.com", 1) }, "- notimp: 4 rd ra".into()),
        (Ask { flags: [0x10, 0], ..edns("localhost", 1) }, "- notimp: 4 ra | opt 1232".into()),
        (Ask { counts: [2, 0, 0, 0], ..ask("api.example.com", 1) }, "- formerr: 1 rd ra".into()),
        (edns("api.example.com", 1).edns(512), "- formerr: 1 rd ra | opt 1232".into()),
        (ask("api.example.com", 1).record(3, &opt(512, 1, 0, b"")), "- badvers: 16 rd ra | opt 1232".into()),
        (ask("api.example.com", 252), "- refused: 5 rd ra".into()),
        (edns("www.example.com", 251), "- refused: 5 rd ra | opt 1232".into()),
        (Ask { flags: [QR, 0], ..ask("api.example.com", 1) }, "Response".into()),
    ];
    for (ask, expected) in cases {
        let message = ask.bytes();
        assert_eq!(outcome(&snapshot(), &message, Transport::Udp, Waiting::Allowed), expected, "{ask:?}");
        assert_eq!(outcome(&snapshot(), &message, Transport::Tcp, Waiting::Allowed), expected, "over TCP: {ask:?}");
    }
    assert_eq!(outcome(&snapshot(), &[0; 11], Transport::Udp, Waiting::Allowed), "TooShort");
}

#[test]
fn waiting_ends_with_what_is_known() {
    let over = |ask: Ask| outcome(&snapshot(), &ask.bytes(), Transport::Udp, Waiting::Over);
    assert_eq!(
        over(ask("cold.example", 1).edns(512)),
        "cold.example/a stale: 0 aa rd ra | A 192.0.2.4 5 | opt 1232 ede 3"
    );
    assert_eq!(over(ask("cold.example", 28).edns(512)), "cold.example/aaaa not_ready: 2 rd ra | opt 1232 ede 14");
    assert_eq!(over(ask("fresh.example", 1)), "fresh.example/a not_ready: 2 rd ra");
    assert_eq!(over(ask("v4only.example", 1)), "v4only.example/a a: 0 aa rd ra | A 192.0.2.1 5");
}

#[test]
fn long_answers_are_cut_by_whole_records() {
    let shape = |ask: Ask, transport| {
        let (snapshot, message) = (snapshot(), ask.bytes());
        let mut out = Vec::new();
        answer(&snapshot, &message, transport, Waiting::Allowed, &mut out);
        let line = describe(&out);
        (line.matches(" | A").count(), line.contains(" tc "), out.len())
    };
    // "many.example": 12 + 14 + 4 bytes in front of the records, 11 of OPT behind.
    let cases = [
        (ask("many.example", 1), Transport::Udp, (30, true, 30 + 30 * 16)),
        (ask("many.example", 1).edns(0), Transport::Udp, (29, true, 30 + 29 * 16 + 11)),
        (ask("many.example", 1).edns(700), Transport::Udp, (41, true, 30 + 41 * 16 + 11)),
        (ask("many.example", 1).edns(1001), Transport::Udp, (60, false, 30 + 60 * 16 + 11)),
        (ask("many.example", 1).edns(1000), Transport::Udp, (59, true, 30 + 59 * 16 + 11)),
        (ask("many.example", 1).edns(65535), Transport::Udp, (60, false, 1001)),
        (ask("many.example", 28), Transport::Udp, (17, true, 30 + 17 * 28)),
        (ask("many.example", 28).edns(65535), Transport::Udp, (42, true, 30 + 42 * 28 + 11)),
        (ask("many.example", 1), Transport::Tcp, (60, false, 30 + 60 * 16)),
        (ask("many.example", 28).edns(512), Transport::Tcp, (60, false, 30 + 60 * 28 + 11)),
    ];
    for (ask, transport, expected) in cases {
        assert_eq!(shape(ask.clone(), transport), expected, "{transport:?} {ask:?}");
    }
}

#[test]
fn an_answer_longer_than_a_message_is_cut_over_tcp_too() {
    let mut snapshot = Snapshot::new(0, vec![settings("a", 1, OtherTypes::Forward)], &[]);
    let addresses = (0..5000u32).map(|n| IpAddr::from(n.to_be_bytes())).collect();
    let turns = vec![Turn { addresses, given: Arc::default() }];
    let v4 = FamilyAnswer::Addresses { turns, stale: false };
    snapshot.set(0, NameAnswer { v4, v6: FamilyAnswer::Empty, bypass: false });
    let mut out = Vec::new();
    answer(&snapshot, &ask("a", 1).bytes(), Transport::Tcp, Waiting::Allowed, &mut out);
    assert!(out.len() <= MAX_MESSAGE && out.len() > MAX_MESSAGE - 16 && !wire::is_truncated(&out));
}

#[test]
fn turns_rotate_and_are_counted() {
    let given: [Arc<Given>; 3] = Default::default();
    let answer_of = |last: u8| {
        let turns = given.iter().zip(1..).map(|(given, n)| Turn {
            addresses: vec![IpAddr::from([192, 0, last, n]), IpAddr::from([192, 0, last, n + 10])],
            given: Arc::clone(given),
        });
        let v4 = FamilyAnswer::Addresses { turns: turns.collect(), stale: false };
        NameAnswer { v4, v6: FamilyAnswer::Empty, bypass: false }
    };
    let mut snapshot = Snapshot::new(0, vec![settings("a", 1, OtherTypes::Forward)], &[]);
    snapshot.set(0, answer_of(2));
    let first = |snapshot: &Snapshot| {
        let line = outcome(snapshot, &ask("a", 1).bytes(), Transport::Udp, Waiting::Allowed);
        line.split(" | ").nth(1).unwrap().to_owned()
    };
    for n in [1, 2, 3, 1] {
        assert_eq!(first(&snapshot), format!("A 192.0.2.{n} 1"));
    }
    let count = || given.clone().map(|given| given.count(None));
    assert_eq!(count(), [Some(2), Some(1), Some(1)]);
    // A new answer takes the turn up where the old one left it.
    snapshot.set(0, answer_of(3));
    assert_eq!(first(&snapshot), "A 192.0.3.2 1");
    // Questions of the other family or type take no turn.
    for qtype in [28, 16] {
        outcome(&snapshot, &ask("a", qtype).bytes(), Transport::Udp, Waiting::Allowed);
    }
    assert_eq!(first(&snapshot), "A 192.0.3.3 1");
    assert_eq!(count(), [Some(0), Some(1), Some(1)], "of this answer");
}

#[test]
fn kinds_have_their_places_and_words() {
    for (place, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, place);
        assert!(Kind::ALL.iter().filter(|other| other.as_str() == kind.as_str()).count() == 1);
    }
    for (place, kind) in QueryKind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, place);
    }
}

#[test]
fn a_used_buffer_is_not_reallocated() {
    let snapshot = snapshot();
    let mut out = Vec::with_capacity(usize::from(wire::PAYLOAD));
    let storage = out.as_ptr();
    for message in corpus().into_iter().chain([1, 28].map(|qtype| ask("many.example", qtype).edns(65535).bytes())) {
        answer(&snapshot, &message, Transport::Udp, Waiting::Allowed, &mut out);
    }
    assert_eq!(out.as_ptr(), storage);
}

#[test]
fn empty_answers_fit_the_longest_name() {
    let longest = [vec!["a".repeat(63); 3].join("."), "apps".into(), "b".repeat(43), "apps.example".into()].join(".");
    assert_eq!(ask(&longest, 28).name.len(), 255);
    let line = udp(ask(&longest, 28).edns(0));
    assert!(line.contains("| SOA") && line.ends_with("opt 1232"), "{line}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn hostile_messages_get_a_bounded_reply(message in hostile(), tcp: bool, over: bool) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let waiting = if over { Waiting::Over } else { Waiting::Allowed };
        let mut out = Vec::new();
        match answer(&snapshot(), &message, transport, waiting, &mut out) {
            Verdict::Reply { .. } => {
                check_echo(&message, &out);
                let (Ok(query) | Err(Reject::Error { query, .. })) = wire::parse(&message) else { panic!("a reply to a drop") };
                prop_assert!(tcp || out.len() <= wire::udp_limit(&query));
                prop_assert_eq!(describe(&out).contains("| opt"), query.edns.is_some());
            }
            Verdict::Drop(_) => prop_assert!(message.len() < wire::HEADER || message[2] & QR != 0),
            Verdict::Forward { .. } => prop_assert!(wire::parse(&message).is_ok()),
            Verdict::Wait { .. } => prop_assert!(!over),
        }
    }
}
