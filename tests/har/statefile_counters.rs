//! What a test sends is what it reads back from the state file, across a restart and a reload.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

use crate::harness::dns::{encode, question};
use crate::harness::{Backend, Behaviour, Har, Upstream, har, wait_for};

/// A port of 127.0.0.9 where nobody listens: checks are refused.
const CLOSED: u16 = 1;

fn names(extra: &str) -> String {
    format!(
        "[defaults]\ninterval = \"200ms\"\nfall = 1\n\
         [names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\", \"192.0.2.8\"]\n\
         [names.\"pair.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\", \"192.0.2.8\"]\nanswers = 2\n\
         [names.\"off.example\"]\ncheck = \"tcp:{CLOSED}\"\ncandidates = [\"127.0.0.9\"]\nwhen_all_down = \"servfail\"\n\
         [names.\"old.example\"]\ncheck = \"tcp:{CLOSED}\"\ncandidates = [\"127.0.0.9\"]\n{extra}"
    )
}

/// One round of queries: so many of each over UDP, and again over TCP.
fn send(har: &Har) {
    let mut tcp = har.tcp();
    for (name, kind, times) in ROUND {
        for _ in 0..times {
            let query = encode(&question(name, kind));
            assert!(!har.udp(&query).is_empty());
            tcp.send(&query);
            assert!(tcp.receive().is_some());
        }
    }
}

const ROUND: [(&str, RecordType, u64); 9] = [
    ("api.example", RecordType::A, 5),
    ("api.example", RecordType::AAAA, 3),
    ("api.example", RecordType::TXT, 2),
    ("pair.example", RecordType::A, 4),
    ("off.example", RecordType::A, 2),
    ("old.example", RecordType::A, 3),
    ("elsewhere.example", RecordType::A, 4),
    ("broken.example", RecordType::A, 1),
    ("localhost", RecordType::A, 2),
];

/// Waits until counters are there; what a heartbeat five seconds after now does not tell comes too late.
#[track_caller]
fn in_time(har: &Har, what: &str, mut is_there: impl FnMut() -> bool) {
    har.until_sql("SELECT count(*) FROM daemon", |count| count == "1");
    let now = har.sql("SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+5 seconds')")[0][0].clone();
    wait_for(what, || {
        let is_late = har.sql("SELECT heartbeat_at FROM daemon")[0][0] > now;
        let is_there = is_there();
        assert!(is_there || !is_late, "{what}: at most 5 s late");
        is_there.then_some(())
    });
}

/// Everything that was asked so far, read back.
#[track_caller]
fn read_back(har: &Har, upstream: &Upstream, rounds: u64) {
    // UDP and TCP.
    let n = |count: u64| (2 * rounds * count).to_string();
    let row = |counts: [u64; 8]| counts.map(n).to_vec();
    let sql = "SELECT queries_a, queries_aaaa, queries_other, answers_ranked, answers_stale, answers_empty, \
               answers_servfail, answers_forwarded FROM name WHERE name IN \
               ('api.example', 'pair.example', 'off.example', 'old.example') ORDER BY position";
    let wanted = [
        row([5, 3, 2, 5, 0, 3, 0, 2]),
        row([4, 0, 0, 4, 0, 0, 0, 0]),
        row([2, 0, 0, 0, 0, 0, 2, 0]),
        row([3, 0, 0, 0, 3, 0, 0, 0]),
    ];
    in_time(har, "the counters of the names", || har.sql(sql) == wanted);
    let given = "SELECT name, address, times_chosen FROM address ORDER BY name, address";
    let given: Vec<String> = har.sql(given).iter().map(|row| row.join(" ")).collect();
    let expect = |name: &str, address: &str, count: u64| format!("{name}.example {address} {}", n(count));
    for line in [
        expect("api", "192.0.2.7", 5),
        expect("api", "192.0.2.8", 0),
        expect("pair", "192.0.2.7", 4),
        expect("pair", "192.0.2.8", 4),
        expect("off", "127.0.0.9", 0),
        expect("old", "127.0.0.9", 3),
    ] {
        assert!(given.contains(&line), "{line} in {given:?}");
    }
    let asked: u64 = ROUND.iter().map(|(_, _, times)| times).sum();
    let asked = (rounds * asked).to_string();
    let totals = [("received_udp", &asked), ("received_tcp", &asked), ("forwarded", &n(7)), ("reply_special", &n(2))];
    for (key, wanted) in totals {
        // Of a look in the midst of a wake some are of the next one.
        let total = format!("SELECT value FROM counter WHERE key = '{key}'");
        in_time(har, key, || har.sql(&total).first().is_some_and(|row| row[0] == *wanted));
    }
    // The upstream saw it all; under load some may be repeated, which does not count where it is the same datagram.
    let row = har.sql("SELECT queries, answers, servfail, timeouts FROM upstream");
    let [queries, answers] = [0, 1].map(|cell: usize| row[0][cell].parse::<u64>().expect("a number"));
    let seen = wait_for("the last of the transmissions to arrive", || {
        let names = ["api.example", "elsewhere.example", "broken.example"];
        let seen: u64 = names.iter().map(|name| upstream.seen(name).len() as u64).sum();
        (seen >= queries).then_some(seen)
    });
    assert!(queries >= answers && answers >= 2 * rounds * 7, "{seen} seen: {row:?}");
    assert!(row[0][2].parse::<u64>().expect("a number") >= 2 * rounds, "{row:?}");
}

#[test]
fn every_query_is_counted_once() {
    let upstream = Upstream::start();
    upstream.txt("api.example", &["x"]);
    upstream.behave("broken.example", Behaviour::Rcode(ResponseCode::ServFail));
    let mut har = har().upstream(&[&upstream]).names(&names("")).start();
    har.until_sql("SELECT count(*) FROM address WHERE state = 'down'", |count| count == "2");
    send(&har);
    read_back(&har, &upstream, 1);
    assert!(har.stop().success());
    read_back(&har, &upstream, 1);
    har.start();
    read_back(&har, &upstream, 1);
    har.until_sql("SELECT count(*) FROM address WHERE state = 'down'", |count| count == "2");
    send(&har);
    // A reload in the midst of it, with another name in front.
    har.rewrite_names(&names("[names.\"a.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.9\"]\n"));
    har.signal(Signal::SIGHUP);
    har.until_a("a.example", "192.0.2.9");
    har.until_sql("SELECT count(*) FROM name", |count| count == "5");
    // The first answer for the new name is one query over UDP that the table below does not know.
    let more: u64 = har.until_sql("SELECT queries_a FROM name WHERE name = 'a.example'", |count| count != "0")[0][0]
        .parse()
        .unwrap();
    send(&har);
    let udp = "SELECT value FROM counter WHERE key = 'received_udp'";
    let asked: u64 = ROUND.iter().map(|(_, _, times)| times).sum();
    har.until_sql(udp, |count| count.parse::<u64>().is_ok_and(|count| count >= 3 * asked + more));
    let sql = "SELECT queries_a, queries_aaaa, queries_other FROM name WHERE name = 'api.example'";
    har.until_sql(sql, |count| count == "30");
    assert_eq!(har.sql(sql), [["30", "18", "12"]]);
    assert_eq!(har.sql("SELECT answers_forwarded, answers_empty FROM name WHERE name = 'api.example'"), [["12", "18"]]);
}

#[test]
fn what_was_given_just_before_a_reload_is_counted_for_its_name() {
    // Both answer with the same address, and change places.
    let names = |order: [&str; 2], more: &str| {
        let name = |name| format!("[names.\"{name}\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]\n");
        format!("{}{more}", order.map(name).join(""))
    };
    let mut har = har().names(&names(["one.example", "ten.example"], "")).start();
    let given = "SELECT group_concat(n, ' ') FROM (SELECT sum(times_chosen) AS n FROM address \
                 WHERE name IN ('one.example', 'ten.example') GROUP BY name ORDER BY name)";
    for (round, order) in (1..).zip([["ten.example", "one.example"], ["one.example", "ten.example"]]) {
        for (name, times) in [("one.example", 1), ("ten.example", 10)] {
            (0..times).for_each(|_| assert!(!har.udp(&encode(&question(name, RecordType::A))).is_empty()));
        }
        let new = format!("new{round}.example");
        let more = format!("[names.\"{new}\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.9\"]\n");
        har.rewrite_names(&names(order, &more));
        har.signal(Signal::SIGHUP);
        har.until_a(&new, "192.0.2.9");
        in_time(&har, "what was given", || har.sql(given)[0][0] == format!("{round} {round}0"));
    }
    assert!(har.stop().success());
    assert_eq!(har.sql(given), [["2 20"]]);
}

#[test]
fn checks_are_counted_by_outcome() {
    let backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 0)]);
    backends[1].set(crate::harness::Mode::Answer(500, Duration::ZERO));
    let names = format!(
        "[names.\"api.example\"]\ncheck = \"http://{{address}}:{}/\"\ncandidates = [\"127.0.0.2\", \"127.0.0.3\"]\n\
         interval = \"500ms\"\nfast_interval = \"500ms\"\n",
        backends[0].port()
    );
    let mut har = har().names(&names).start();
    let enough = |backend: &Backend| backend.requests().len() >= 5;
    wait_for("some checks", || backends.iter().all(enough).then_some(()));
    assert!(har.stop().success());
    for (address, column, backend) in [("127.0.0.2", "ok", &backends[0]), ("127.0.0.3", "response_error", &backends[1])]
    {
        let row = &har.sql(&format!(
            "SELECT {column}, ok + timeout + connect_error + tls_error + response_error + other_error + local_error, \
             (SELECT count(*) FROM check_history WHERE address = '{address}' AND outcome = '{column}') \
             FROM address WHERE address = '{address}'"
        ))[0];
        let [of_column, in_all, recorded] = [0, 1, 2].map(|cell: usize| row[cell].parse::<usize>().unwrap());
        // One may have been under way when har stopped. On a loaded machine one may have timed out before it was read.
        wait_for(&format!("as many requests of {address}: {row:?}"), || {
            let asked = backend.requests().len();
            (in_all == asked || in_all + 1 == asked).then_some(())
        });
        assert!(of_column > 0 && of_column <= in_all, "{address}: {row:?}");
        assert_eq!(of_column, recorded, "{address}: each result once");
    }
}

/// More names than are counted every second.
const MANY: usize = 1200;

fn many_names() -> String {
    let name = |number| {
        format!("\"n{number}.example\" = {{ check = \"none\", candidates = [\"192.0.2.7\", \"192.0.2.8\"] }}\n")
    };
    (0..MANY).fold("[names]\n".to_owned(), |all, number| all + &name(number))
}

#[test]
fn many_names_are_counted_in_time_and_to_the_last_query() {
    let mut har = har().names(&many_names()).start();
    let ask_all = |har: &Har| {
        for number in 0..MANY {
            assert!(!har.udp(&encode(&question(&format!("n{number}.example"), RecordType::A))).is_empty());
        }
    };
    let counts = "SELECT min(queries_a), max(queries_a), (SELECT min(n) FROM (SELECT sum(times_chosen) AS n FROM address \
                  GROUP BY name)) FROM name WHERE name <> 'n0.example'";
    for round in 1..=2 {
        ask_all(&har);
        let round = round.to_string();
        in_time(&har, "the counters", || har.sql(counts)[0] == [&*round, &*round, &*round]);
    }
    // A moment after a look, and stopped before the next.
    ask_all(&har);
    assert!(har.stop().success());
    assert_eq!(har.sql(counts), [["3", "3", "3"]]);
}

#[test]
fn first_answers_of_many_names_do_not_fill_the_events() {
    let mut har = har().names(&many_names()).start();
    let told = "SELECT count(*) FROM event WHERE kind = 'answer'";
    let sum = format!("{} more first answers", MANY - 100);
    let summed = format!("SELECT count(*) FROM event WHERE kind = 'daemon' AND reason LIKE '{sum}%'");
    har.until_sql(&summed, |count| count == "1");
    assert_eq!(har.sql(told), [["100"]]);
    har.until_log(&sum);
    assert!(har.stop().success());
    har.start();
    har.until_sql("SELECT count(*) FROM event WHERE reason LIKE '%the last run was stopped%'", |count| count == "1");
    assert_eq!(har.sql("SELECT count(*) FROM event WHERE kind = 'answer' OR reason LIKE '%first answers%'"), [["101"]]);
}

#[test]
fn a_forwarded_query_for_a_name_is_counted_by_what_became_of_it() {
    let upstream = Upstream::start();
    upstream.txt("api.example", &["x"]);
    let names = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]\nmode = \"observe\"\n\
                 [names.\"api.corp.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]\n";
    // The same server in two lists, and a port where nobody listens in a third.
    let served = upstream.address();
    let routes = format!(
        "servers = [\"{served}\"]\n[upstream.routes]\n\"corp.example\" = [\"127.0.0.9:{CLOSED}\"]\n\
         \"other.example\" = [\"{served}\"]"
    );
    let har = har().upstream_lines(&routes).names(names).start();
    let ask = |name: &str, kind| assert!(!har.udp(&encode(&question(name, kind))).is_empty());
    ask("api.example", RecordType::TXT);
    ask("www.other.example", RecordType::A);
    ask("www.other.example", RecordType::AAAA);
    ask("api.corp.example", RecordType::TXT);
    let sql = "SELECT name, queries_other, answers_servfail, answers_forwarded FROM name ORDER BY name";
    let wanted = [["api.corp.example", "1", "1", "0"], ["api.example", "1", "0", "1"]];
    wait_for("what became of them", || (har.sql(sql) == wanted).then_some(()));
    let sql =
        "SELECT route, answers, queries - answers, timeouts = queries FROM upstream WHERE queries > 0 ORDER BY route";
    let rows = har.sql(sql);
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["", "corp.example", "other.example"]);
    assert_eq!((rows[1][1].as_str(), rows[1][3].as_str()), ("0", "1"), "all refused: {rows:?}");
    assert_eq!((rows[0][1].as_str(), rows[2][1].as_str()), ("1", "2"), "{rows:?}");
}
