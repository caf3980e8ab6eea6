//! DNS over TCP (RFC 7766, RFC 9210): many queries, strange writers, slow readers, limits; nobody waits for anybody.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use crate::harness::daemon::BINARY;
use crate::harness::dns::{Tcp, encode, framed, plain_question, question};
use crate::harness::load::{Fast, Manner};
use crate::harness::{Behaviour, Har, Reply, Upstream, har, wait_for};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]";

/// Far above what a reply takes, far below every time limit in these tests: who waits for another shows.
const PROMPT: Duration = Duration::from_secs(3);

/// Queries with ids from 1, every second one to be forwarded.
fn mixed(count: u16) -> Vec<Vec<u8>> {
    let numbered = |id: u16| {
        let name = if id.is_multiple_of(2) { "api.example".to_owned() } else { format!("n{id}.example") };
        let mut query = plain_question(&name, RecordType::A);
        query.metadata.id = id;
        encode(&query)
    };
    (1..=count).map(numbered).collect()
}

fn ids(tcp: &mut Tcp, count: u16) -> Vec<u16> {
    (0..count).map(|_| Reply::read(&tcp.receive().expect("a reply")).message.metadata.id).collect()
}

/// A query over TCP and one over UDP are answered at once.
#[track_caller]
fn is_served(har: &Har) {
    let begin = Instant::now();
    assert_eq!(har.a("api.example"), "192.0.2.7");
    assert_eq!(har.tcp().ask(&question("api.example", RecordType::A)).first(), "192.0.2.7");
    assert!(begin.elapsed() < PROMPT, "{:?}", begin.elapsed());
}

#[test]
fn a_hundred_queries_in_one_write_are_all_answered_then_the_half_closed_connection_ends() {
    let upstream = Upstream::start();
    let har = har().upstream(&[&upstream]).names(NAMES).start();
    let all: Vec<u8> = mixed(100).iter().flat_map(|query| framed(query)).collect();
    let mut tcp = har.tcp();
    tcp.0.write_all(&all).unwrap();
    tcp.0.shutdown(Shutdown::Write).unwrap();
    let answered: HashSet<u16> = ids(&mut tcp, 100).into_iter().collect();
    assert_eq!(answered, (1..=100).collect());
    assert!(tcp.receive().is_none(), "nothing more, and the end");
}

#[test]
fn byte_by_byte_writers_are_served_and_delay_nobody() {
    let upstream = Upstream::start();
    let har = har().upstream(&[&upstream]).names(NAMES).start();
    let bytes: Vec<u8> = mixed(2).iter().flat_map(|query| framed(query)).collect();
    let mut writers: Vec<Tcp> = (0..20).map(|_| har.tcp()).collect();
    for (at, byte) in bytes.iter().enumerate() {
        for writer in &mut writers {
            writer.0.write_all(&[*byte]).unwrap();
        }
        if at % 16 == 0 {
            is_served(&har);
        }
    }
    for writer in &mut writers {
        assert_eq!(ids(writer, 2).into_iter().collect::<HashSet<u16>>(), [1, 2].into());
    }
}

#[test]
fn answers_leave_as_they_complete() {
    let upstream = Upstream::start();
    for (name, delay) in [("slow.example", 1000), ("slower.example", 2500)] {
        upstream.addresses(name, &["198.51.100.2"]).behave(name, Behaviour::Delay(Duration::from_millis(delay)));
    }
    let har = har().upstream(&[&upstream]).names(NAMES).start();
    let mut tcp = har.tcp();
    let mut all = Vec::new();
    for (id, name) in [(1, "slower.example"), (2, "slow.example"), (3, "api.example"), (4, "quick.example")] {
        let mut query = plain_question(name, RecordType::A);
        query.metadata.id = id;
        all.extend(framed(&encode(&query)));
    }
    tcp.0.write_all(&all).unwrap();
    let order = ids(&mut tcp, 4);
    assert_eq!(order[2..], [2, 1], "{order:?}");
}

#[test]
fn a_length_of_zero_ends_the_input_and_what_was_asked_before_is_answered() {
    let upstream = Upstream::start();
    upstream.addresses("slow.example", &["198.51.100.2"]);
    upstream.behave("slow.example", Behaviour::Delay(Duration::from_millis(200)));
    let har = har().upstream(&[&upstream]).names(NAMES).start();
    let mut tcp = har.tcp();
    let query = encode(&question("slow.example", RecordType::A));
    tcp.0.write_all(&[framed(&query), vec![0, 0], framed(&query)].concat()).unwrap();
    assert_eq!(Reply::read(&tcp.receive().expect("a reply")).first(), "198.51.100.2");
    assert!(tcp.receive().is_none(), "what stands behind it is not read");
}

#[test]
fn silence_lying_lengths_and_half_messages_end_with_the_idle_time() {
    let har = har().server("tcp_idle = \"800ms\"").names(NAMES).start();
    let query = framed(&encode(&question("api.example", RecordType::A)));
    let half = query[..query.len() - 1].to_vec();
    for opening in [Vec::new(), vec![0xff, 0xff, 1], vec![0], half, query.clone()] {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(har.address()).unwrap();
        stream.write_all(&opening).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        assert!(end.is_ok() || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
        let took = begin.elapsed();
        assert!((Duration::from_millis(790)..Duration::from_secs(8)).contains(&took), "{took:?} after {opening:02x?}");
        assert_eq!(!rest.is_empty(), opening == query, "{opening:02x?}");
    }
    // A byte now and then is not the rest of the message: the time runs from its beginning.
    let mut stream = TcpStream::connect(har.address()).unwrap();
    let begin = Instant::now();
    wait_for("the end of a writer that never gets done", || stream.write_all(&[1]).err());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn at_the_limit_the_longest_idle_connection_gives_way() {
    let har = har().server("tcp_connections = 8\ntcp_idle = \"60s\"").names(NAMES).start();
    let query = question("api.example", RecordType::A);
    let mut kept: Vec<Tcp> = (0..8).map(|_| har.tcp()).collect();
    for tcp in &mut kept {
        tcp.ask(&query);
    }
    // The first is used again, so that the second is the longest idle.
    kept[0].ask(&query);
    let mut another = har.tcp();
    assert_eq!(another.ask(&query).first(), "192.0.2.7");
    assert!(kept[1].receive().is_none(), "the second was closed");
    kept[0].ask(&query);
    kept[2].ask(&query);
}

#[test]
fn one_that_waits_for_an_answer_outlives_the_idle_ones() {
    let upstream = Upstream::start();
    upstream.addresses("slow.example", &["198.51.100.2"]);
    upstream.behave("slow.example", Behaviour::Delay(Duration::from_millis(900)));
    let har = har().upstream(&[&upstream]).server("tcp_connections = 4\ntcp_idle = \"60s\"").names(NAMES).start();
    let mut waiting = har.tcp();
    waiting.send(&encode(&question("slow.example", RecordType::A)));
    let crowd: Vec<Tcp> = (0..12)
        .map(|_| {
            let mut tcp = har.tcp();
            tcp.ask(&question("api.example", RecordType::A));
            tcp
        })
        .collect();
    assert_eq!(Reply::read(&waiting.receive().expect("not closed")).first(), "198.51.100.2");
    drop(crowd);
}

#[test]
fn slow_readers_delay_nobody() {
    let many: Vec<String> = (1..=100).map(|i| format!("\"192.0.2.{i}\"")).collect();
    let names = format!(
        "{NAMES}\n[names.\"many.example\"]\ncheck = \"none\"\nselect = \"all\"\ncandidates = [{}]",
        many.join(", ")
    );
    let har = har().server("tcp_idle = \"60s\"").names(&names).start();
    let batch = framed(&encode(&question("many.example", RecordType::A))).repeat(400);
    // Each asks for half a megabyte and reads none of it.
    let readers: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(har.address()).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
            let _ = stream.write_all(&batch);
            stream
        })
        .collect();
    for _ in 0..20 {
        is_served(&har);
    }
    // Who begins to read gets everything.
    let mut late = Tcp(readers.into_iter().next().unwrap());
    late.0.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    for _ in 0..300 {
        assert_eq!(Reply::read(&late.receive().expect("a reply")).addresses().len(), 100);
    }
}

#[test]
fn a_thousand_connections_are_served_side_by_side() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < 4096 {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(4096), hard).unwrap();
    }
    let har = har().server("tcp_connections = 1200\ntcp_idle = \"60s\"").names(NAMES).start();
    let query = framed(&encode(&question("api.example", RecordType::A)));
    let mut connections: Vec<Tcp> = (0..1000).map(|_| har.tcp()).collect();
    for _ in 0..2 {
        for tcp in &mut connections {
            tcp.0.write_all(&query).unwrap();
        }
        is_served(&har);
        for tcp in &mut connections {
            assert_eq!(Reply::read(&tcp.receive().expect("a reply")).first(), "192.0.2.7");
        }
    }
    // Twice as many come and go: the limit holds, and the newest are served.
    for _ in 0..1000 {
        let mut tcp = har.tcp();
        tcp.0.write_all(&query).unwrap();
        drop(tcp);
    }
    is_served(&har);
}

#[test]
fn a_tcp_query_falls_back_to_udp_where_the_upstream_has_no_tcp() {
    let upstream = Fast::start_at("127.0.0.1:0", Manner::Answer);
    let har = har().upstream_lines(&format!("servers = [\"{}\"]", upstream.address())).start();
    let mut tcp = har.tcp();
    for number in 0..20 {
        let reply = tcp.ask(&question(&format!("n{number}.example"), RecordType::A));
        assert_eq!(reply.first(), "198.51.100.99");
    }
}

/// Silent clients that are more than there are descriptors, as a leak or a scan leaves them.
#[test]
fn without_free_descriptors_silent_clients_give_way_at_once() {
    let mut har = har().server("tcp_idle = \"60s\"").names(NAMES).prepare();
    let mut command = Command::new("sh");
    // The hard limit too, so that har cannot raise it.
    command.args(["-c", "ulimit -n 64 && exec \"$0\" serve --config \"$1\""]).arg(BINARY).arg(har.config_path());
    command.env("NOTIFY_SOCKET", har.notify.path()).env_remove("RUST_LOG");
    har.spawn_as(command);
    assert!(har.becomes_ready(), "{}", har.log());
    // Were one let in every tenth of a second, the last would wait some 15 s.
    let silent: Vec<Tcp> = (0..200).map(|_| har.tcp()).collect();
    is_served(&har);
    // Those who came last are still there, and served too.
    let mut last = silent.into_iter().next_back().unwrap();
    assert_eq!(last.ask(&question("api.example", RecordType::A)).first(), "192.0.2.7");
}
