//! Upstream servers under load: what can be guessed, what is sent twice, who is asked when one fails.
//!
//! Each test prints its figures; the bounds asserted are wide, because a loaded machine is slow.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::harness::dns::{self, encode, question};
use crate::harness::load::{Asked, Fast, Manner, Measured, drawn, load};
use crate::harness::{Behaviour, Har, Reply, Upstream, har, wait_for};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(1000);

fn start(servers: &[&Fast], lines: &str) -> Har {
    let list: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.address())).collect();
    har().upstream_lines(&format!("servers = [{}]\n{lines}", list.join(", "))).start()
}

#[track_caller]
fn all_answered(measured: &Measured, count: usize) {
    assert_eq!((measured.answers.len(), measured.failed, measured.lost), (count, 0, 0));
}

/// How far the counts of equally likely values are from equal (chi-square).
fn chi_square(values: impl Iterator<Item = usize>, buckets: usize) -> f64 {
    let mut counts = vec![0_u64; buckets];
    values.for_each(|value| counts[value] += 1);
    let expected = counts.iter().sum::<u64>() as f64 / buckets as f64;
    counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

/// Bounds that a true random source misses about once in a million runs.
fn ids_are_unpredictable(asked: &[Asked]) {
    let count = asked.len() as f64;
    for bit in 0..16 {
        let ones = asked.iter().filter(|asked| asked.id >> bit & 1 == 1).count() as f64;
        assert!((ones - count / 2.0).abs() < 5.0 * count.sqrt() / 2.0, "bit {bit}: {ones} of {count}");
    }
    // 15 degrees of freedom.
    for shift in [0, 4, 8, 12] {
        let chi = chi_square(asked.iter().map(|asked| usize::from(asked.id >> shift & 15)), 16);
        assert!(chi < 55.0, "nibble at {shift}: {chi}");
    }
    let differences = || asked.windows(2).map(|pair| pair[1].id.wrapping_sub(pair[0].id));
    let chi = chi_square(differences().map(|difference| usize::from(difference >> 12)), 16);
    assert!(chi < 55.0, "differences: {chi}");
    let near = differences().filter(|difference| *difference <= 8 || *difference >= u16::MAX - 8).count();
    assert!(near < 20, "{near} neighbours of {count}");
}

#[test]
fn ids_and_ports_of_thousands_of_queries_cannot_be_predicted() {
    let upstream = Fast::start();
    let har = start(&[&upstream], "");
    // Below 500 a second every query has a socket of its own.
    all_answered(&load(har.address(), 350, 1400, |_| {}), 1400);
    let slow = drawn(upstream.asked());
    let ports: HashSet<u16> = slow.iter().map(|asked| asked.port).collect();
    println!("{} queries at 350/s: {} ports", slow.len(), ports.len());
    assert!(ports.len() * 10 > slow.len() * 9, "{} ports of {} queries", ports.len(), slow.len());
    let follow = slow.windows(2).filter(|pair| pair[1].port.abs_diff(pair[0].port) <= 2).count();
    assert!(follow < 20, "{follow} ports follow one another");
    ids_are_unpredictable(&slow);

    all_answered(&load(har.address(), 3000, 4000, |_| {}), 4000);
    let all = drawn(upstream.asked());
    let fast = &all[slow.len()..];
    let ports: HashSet<u16> = fast.iter().map(|asked| asked.port).collect();
    println!("{} queries at 3000/s: {} ports", fast.len(), ports.len());
    // Without a processor to run on it may be no more than 500 a second: then they are fresh ones.
    assert!(ports.len() >= 200, "{}", ports.len());
    let repeated = fast.windows(2).filter(|pair| pair[1].port == pair[0].port).count();
    assert!(repeated * 10 < fast.len(), "{repeated} from the same port as the one before");
    ids_are_unpredictable(fast);
}

#[test]
fn lies_are_ignored_and_the_truth_counts() {
    let upstream = Fast::start_at("127.0.0.1:0", Manner::Lie);
    let har = start(&[&upstream], "");
    for number in 0..100 {
        let reply = Reply::read(&har.udp(&encode(&question(&format!("n{number}.example"), RecordType::A))));
        assert_eq!((reply.first(), reply.addresses().len()), ("198.51.100.99".to_owned(), 1));
    }
    har.until_sql("SELECT value FROM counter WHERE key = 'forward_ignored'", |count| {
        count.parse::<u64>().is_ok_and(|count| count >= 300)
    });
}

#[test]
fn little_is_sent_twice_when_nothing_is_lost() {
    let (one, two) = (Fast::start(), Fast::start());
    for (order, servers) in [("fastest", vec![&one, &two]), ("listed", vec![&one, &two]), ("fastest", vec![&one])] {
        let before = one.count() + two.count();
        let har = start(&servers, &format!("order = \"{order}\""));
        all_answered(&load(har.address(), 1000, 1500, |_| {}), 1500);
        let sent = one.count() + two.count() - before;
        println!("{order}, {} servers: {sent} sent for 1500", servers.len());
        // A tenth, and what may be saved up while the machine itself holds answers back.
        assert!(sent <= 1650 + 40, "{order}: {sent}");
    }
}

#[test]
fn a_server_that_loses_a_third_still_answers_everything() {
    let upstream = Fast::start_at("127.0.0.1:0", Manner::Lose(30));
    let har = start(&[&upstream], "timeout = \"15s\"");
    let measured = load(har.address(), 500, 1000, |_| {});
    let p99 = measured.percentile(99, Duration::ZERO, LONG);
    println!("30 % lost: p99 {p99:?}, {:.2} sent for each", upstream.count() as f64 / 1000.0);
    // Of many, one may lose every time.
    assert!(measured.answers.len() == 1000 && measured.failed <= 3, "{} failed", measured.failed);
    assert!(p99 < 5 * SECOND, "{p99:?}");
    assert!(upstream.count() as f64 <= 2.5 * 1000.0);
}

#[test]
fn a_first_server_that_was_never_there_costs_next_to_nothing() {
    for (order, closed) in [("listed", false), ("listed", true), ("fastest", false), ("fastest", true)] {
        let (mut first, second) = (Fast::start_at("127.0.0.1:0", Manner::Silent), Fast::start());
        if closed {
            first.close();
        }
        let har = start(&[&first, &second], &format!("order = \"{order}\""));
        let measured = load(har.address(), 400, 600, |_| {});
        let [half, p99] = [50, 99].map(|percent| measured.percentile(percent, SECOND, LONG));
        println!("{order}, closed {closed}: after the first second half {half:?}, p99 {p99:?}");
        all_answered(&measured, 600);
        // Those that wait while a loaded machine runs somebody else are some; a silent server costs all of them.
        assert!(half < SECOND && p99 < 3 * SECOND, "{order}, closed {closed}: {half:?}, {p99:?}");
        assert!(first.count() + second.count() <= 660 + 40);
    }
}

#[test]
fn a_server_that_dies_under_load_loses_nothing_and_is_used_again() {
    for order in ["listed", "fastest"] {
        let (first, second) = (Fast::start(), Fast::start_at("127.0.0.1:0", Manner::Delay(Duration::from_millis(5))));
        let har = start(&[&first, &second], &format!("order = \"{order}\"\ntimeout = \"10s\""));
        let measured = load(har.address(), 1000, 3000, |number| {
            if number == 1000 {
                first.set(Manner::Silent);
            }
        });
        let (during, after) = (measured.percentile(90, SECOND, 2 * SECOND), measured.percentile(90, 2 * SECOND, LONG));
        println!("{order}: p90 in the second of its death {during:?}, afterwards {after:?}");
        all_answered(&measured, 3000);
        assert!(during < 3 * SECOND && after < 3 * SECOND, "{during:?}, {after:?}");
        wait_for("the dead server to be shown as such", || {
            har.a("again.example");
            let rows = har.sql(&format!("SELECT usable FROM upstream WHERE address = '{}'", first.address()));
            (rows.first()?.first()? == "0").then_some(())
        });

        first.set(Manner::Answer);
        let begin = Instant::now();
        wait_for("the first server to be used again", || {
            let before = first.count();
            (0..10).for_each(|number| assert_eq!(har.a(&format!("n{number}.example")), "198.51.100.99"));
            (first.count() >= before + 9).then_some(())
        });
        println!("{order}: used again after {:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn another_server_is_asked_when_one_is_slow_by_its_own_record() {
    let (first, second) = (Fast::start(), Fast::start());
    let har = start(&[&first, &second], "order = \"listed\"");
    all_answered(&load(har.address(), 200, 60, |_| {}), 60);
    let before = second.count();
    // Beyond the time limit of the query: whoever waits for it fails.
    first.set(Manner::Delay(Duration::from_secs(8)));
    let begin = Instant::now();
    assert_eq!(har.a("slow.example"), "198.51.100.99");
    println!("answered after {:?}", begin.elapsed());
    assert!(second.count() > before);
}

#[test]
fn when_all_are_dead_all_are_tried_and_the_first_to_return_is_used_at_once() {
    let (mut first, mut second) = (Fast::start(), Fast::start());
    let har = start(&[&first, &second], "timeout = \"2s\"");
    first.close();
    second.close();
    for number in 0..5 {
        assert_eq!(har.query(&format!("n{number}.example"), "A").rcode(), ResponseCode::ServFail);
    }
    second.open();
    assert_eq!(har.a("back.example"), "198.51.100.99", "the very next query");
    second.close();
    first.open();
    assert_eq!(har.a("other.example"), "198.51.100.99");
}

#[test]
fn the_best_reply_is_relayed() {
    use ResponseCode::{NXDomain, Refused, ServFail};
    for (one, two, best) in [
        (Refused, ServFail, ServFail),
        (ServFail, Refused, ServFail),
        (Refused, NXDomain, NXDomain),
        (Refused, Refused, Refused),
    ] {
        let (first, second) = (Upstream::start(), Upstream::start());
        first.behave_always(Behaviour::Rcode(one));
        second.behave_always(Behaviour::Rcode(two));
        let har = har().upstream(&[&first, &second]).start();
        for number in 0..3 {
            let name = format!("n{number}.example");
            // One that got no processor for a while counts as dead, and what it would have said is not waited for.
            wait_for(&format!("{best} of {one} and {two}"), || (har.query(&name, "A").rcode() == best).then_some(()));
            wait_for(&format!("{best} of {one} and {two} over TCP"), || {
                (har.tcp().ask(&question(&name, RecordType::A)).rcode() == best).then_some(())
            });
        }
    }
}

#[test]
fn past_the_limit_the_oldest_query_gives_way() {
    let upstream = Fast::start_at("127.0.0.1:0", Manner::Silent);
    let har = start(&[&upstream], "timeout = \"60s\"");
    let socket = dns::udp_socket(har.address());
    let mut query = encode(&question("waits.example", RecordType::A));
    // Everything fits; then each new one costs the oldest.
    for id in 0..4096_u16 + 50 {
        query[..2].copy_from_slice(&id.to_be_bytes());
        socket.send(&query).unwrap();
        if id % 32 == 31 {
            // In step with the daemon, so that its socket buffer does not overflow.
            assert_eq!(har.query("localhost", "A").first(), "127.0.0.1");
        }
    }
    let mut buffer = [0; 2048];
    for id in 0..50_u16 {
        let length = socket.recv(&mut buffer).expect("a reply to the oldest");
        let reply = Reply::read(&buffer[..length]);
        assert_eq!((reply.message.metadata.id, reply.rcode()), (id, ResponseCode::ServFail));
        assert_eq!(reply.extended_error(), Some(23));
    }
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(socket.recv(&mut buffer).is_err(), "4,096 are under way still");
    har.until_sql("SELECT value FROM counter WHERE key = 'forward_shed'", |count| count == "50");
}

#[test]
fn the_longest_message_passes_over_tcp_in_both_directions() {
    let upstream = Upstream::start();
    let har = har().upstream(&[&upstream]).start();
    // A question, and an additional record that fills the message to the last byte.
    let fill = |bytes: &mut Vec<u8>| {
        let length = (65_535 - bytes.len() - 11) as u16;
        bytes.extend([0, 0xff, 1, 0, 1, 0, 0, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend((0..length).map(|at| at as u8 ^ (at >> 8) as u8));
        assert_eq!(bytes.len(), 65_535);
    };
    let mut query = encode(&dns::plain_question("huge.example", RecordType::A));
    query[11] = 1;
    let mut reply = query.clone();
    (reply[2], reply[3]) = (0x81, 0x80);
    fill(&mut query);
    fill(&mut reply);
    upstream.behave("huge.example", Behaviour::Raw(reply[2..].to_vec()));
    let mut tcp = har.tcp();
    for _ in 0..4 {
        tcp.send(&query);
    }
    for _ in 0..4 {
        let got = tcp.receive().expect("a reply");
        assert!(
            got == reply,
            "byte for byte: {} bytes, {:02x?} instead of {:02x?}",
            got.len(),
            &got[..40],
            &reply[..40]
        );
    }
    let seen = upstream.seen("huge.example");
    assert!(seen.iter().all(|seen| seen.tcp && seen.bytes[2..] == query[2..]), "byte for byte");
}

#[test]
fn the_longest_route_wins_for_clients_and_for_candidates() {
    let (general, corp, deep) = (Upstream::start(), Upstream::start(), Upstream::start());
    for (server, address) in [(&general, "198.51.100.1"), (&corp, "198.51.100.2"), (&deep, "198.51.100.3")] {
        for name in ["www.example", "www.corp.example", "db.deep.corp.example", "xcorp.example"] {
            server.addresses(name, &[address]);
        }
    }
    let lines = format!(
        "servers = [\"{}\"]\n[upstream.routes]\n\"corp.example\" = [\"{}\"]\n\"deep.corp.example\" = [\"{}\"]",
        general.address(),
        corp.address(),
        deep.address()
    );
    let names = "[names.\"db.example\"]\ncheck = \"none\"\ncandidates = [\"db.deep.corp.example\"]";
    let har = har().upstream_lines(&lines).names(names).start();
    for (name, address) in [
        ("www.example", "198.51.100.1"),
        ("xcorp.example", "198.51.100.1"),
        ("WWW.Corp.Example", "198.51.100.2"),
        ("db.deep.corp.example", "198.51.100.3"),
    ] {
        assert_eq!(har.a(name), address, "{name}");
    }
    har.until_a("db.example", "198.51.100.3");
}
