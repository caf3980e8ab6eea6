//! Candidates that are found: the master of real sentinels through a failover, and the targets of an SRV record.

use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData};

use crate::harness::{Backend, Behaviour, Upstream, har, missing, skip, wait_for};
use crate::servers::{common_port, redis, redis_say, sentinel};

const ADDRESSES: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];

#[test]
fn the_master_of_a_majority_is_followed_and_no_other() {
    if let Some(reason) = missing(&["redis-server"]) {
        return skip(&reason);
    }
    let port = common_port(&ADDRESSES);
    let login = "requirepass s3cret-redis\nmasterauth s3cret-redis\nrepl-ping-replica-period 1";
    let mut master = redis(ADDRESSES[0], port, login);
    let replicas: Vec<_> = ADDRESSES[1..]
        .iter()
        .map(|address| {
            redis(address, port, &format!("{login}\nreplica-announce-ip {address}\nreplicaof {} {port}", ADDRESSES[0]))
        })
        .collect();
    let watch = common_port(&ADDRESSES);
    let mut sentinels: Vec<_> = ADDRESSES.iter().map(|address| sentinel(address, watch, master.address, 2)).collect();
    for sentinel in &sentinels {
        wait_for("sentinels that know each other and the replicas", || {
            let say = |command| redis_say(sentinel.address, &["AUTH s3cret-sentinel", command]);
            let together = say("SENTINEL CKQUORUM mymaster").starts_with("+OK 3 usable");
            (together && say("SENTINEL REPLICAS mymaster") == "*2").then_some(())
        });
    }

    let list: Vec<String> = sentinels.iter().map(|sentinel| format!("\"{}\"", sentinel.address)).collect();
    let mut har = har()
        .names(&format!(
            "[names.\"redis.example\"]\ninterval = \"400ms\"\nfast_interval = \"200ms\"\n\
             check = {{ type = \"redis\", password = \"s3cret-redis\", role = \"master\" }}\n\
             [names.\"redis.example\".discover]\ntype = \"redis-sentinel\"\nsentinels = [{}]\nmaster = \"mymaster\"\n\
             password = \"s3cret-sentinel\"\n",
            list.join(", ")
        ))
        .start();
    // The first query waits for the first result: it is answered, and right.
    assert_eq!(har.a("redis.example"), ADDRESSES[0]);
    har.until_sql("SELECT state FROM ranking WHERE name = 'redis.example'", |state| state == "up");

    master.kill();
    let start = Instant::now();
    // How long the sentinels take is theirs to say.
    let new = wait_for("the new master", || {
        let answer = har.a("redis.example");
        ADDRESSES[1..].contains(&answer.as_str()).then_some(answer)
    });
    println!("the new master was answered {:.1?} after the old one was killed", start.elapsed());
    let promoted = replicas.iter().find(|replica| replica.address.ip().to_string() == new).expect("one of the two");
    assert_eq!(redis_say(promoted.address, &["AUTH s3cret-redis", "PING"]), "+PONG");
    har.until_sql("SELECT state FROM ranking WHERE name = 'redis.example'", |state| state == "up");
    har.until_sql("SELECT group_concat(host) FROM candidate WHERE name = 'redis.example'", |hosts| hosts == new);

    // The old master comes back alone, with a sentinel that knows nobody else: one of three is no majority.
    sentinels.clear();
    let old = redis(ADDRESSES[0], port, login);
    let _lonely = sentinel(ADDRESSES[0], watch, old.address, 1);
    har.until_sql(
        "SELECT count(*) FROM event WHERE kind = 'resolution' AND reason LIKE '%no majority%candidates stay%'",
        |count| count != "0",
    );
    let named = ["AUTH s3cret-sentinel", "SENTINEL GET-MASTER-ADDR-BY-NAME mymaster"];
    assert_eq!(redis_say(sentinels_address(watch), &named), "*2", "the lonely sentinel names its master");
    let checks = "SELECT ok FROM address WHERE name = 'redis.example'";
    let seen: u64 = har.until_sql(checks, |_| true)[0][0].parse().unwrap();
    har.until_sql(checks, |count| {
        assert_eq!(har.a("redis.example"), new);
        count.parse::<u64>().unwrap() >= seen + 3
    });

    // A restart answers from the state file, although no majority can be had.
    har.stop();
    har.start();
    assert_eq!(har.a("redis.example"), new);
    har.stop();
    let state = std::fs::read(har.state_path()).unwrap();
    for bytes in [har.log().into_bytes(), state] {
        assert!(!bytes.windows(6).any(|six| six == b"s3cret"), "a password in the log or the state file");
    }
}

fn sentinels_address(port: u16) -> std::net::SocketAddr {
    format!("{}:{port}", ADDRESSES[0]).parse().expect("an address")
}

fn record(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_utf8(target).expect("a name")))
}

#[test]
fn targets_of_an_srv_record_come_and_go() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1), ("127.0.0.4", 1)]);
    let port = backends[0].port();
    let upstream = Upstream::start();
    for (name, address) in ["one.example", "two.example", "three.example"].iter().zip(ADDRESSES) {
        upstream.addresses(name, &[address]);
    }
    let service = "_http._tcp.example";
    upstream.records(
        service,
        "SRV",
        vec![record(10, 60, port, "one.example."), record(20, 30000, port, "two.example.")],
    );
    let defaults = "[defaults]\ninterval = \"1s\"\nfast_interval = \"200ms\"\nresolve_interval = \"1s\"\n";
    let names = format!(
        "{defaults}[names.\"web.example\"]\ncheck = \"http://{{host}}/healthz\"\n\
         discover = {{ type = \"srv\", record = \"{service}\" }}\n\
         [names.\"tcp.example\"]\ncheck = {{ type = \"tcp\" }}\n\
         discover = {{ type = \"srv\", record = \"{service}\" }}\n\
         [names.\"both.example\"]\ncheck = \"http://{{host}}:{port}/healthz\"\ncandidates = [\"127.0.0.4\"]\n\
         discover = {{ type = \"srv\", record = \"{service}\" }}\n"
    );
    let mut har = har().upstream(&[&upstream]).names(&names).start();
    for name in ["web.example", "tcp.example"] {
        har.until_a(name, ADDRESSES[0]);
    }
    // Listed ones have priority 1.
    har.until_a("both.example", ADDRESSES[2]);
    let rows = har.until_sql("SELECT count(*) FROM candidate WHERE name IN ('web.example', 'both.example')", |count| {
        count == "5"
    });
    assert_eq!(rows.len(), 1);
    let rows = har.sql("SELECT host, priority, weight FROM candidate WHERE name = 'web.example' ORDER BY position");
    assert_eq!(rows, [["one.example", "10", "1"], ["two.example", "20", "100"]]);

    // A record that cannot be had changes nothing; one without the target does, after two answers.
    upstream.records(service, "SRV", vec![record(20, 0, port, "two.example."), record(30, 0, port, "three.example.")]);
    har.until_a("web.example", ADDRESSES[1]);
    har.until_sql(
        "SELECT group_concat(host) FROM (SELECT host FROM candidate WHERE name = 'web.example' ORDER BY position)",
        |hosts| hosts == "two.example,three.example",
    );

    // A reload and a restart keep what was found.
    har.rewrite_names(&names.replace("interval = \"1s\"\nfast", "interval = \"2s\"\nfast"));
    har.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the reload", || har.log().contains("was loaded again").then_some(()));
    assert_eq!(har.a("web.example"), ADDRESSES[1]);
    har.stop();
    har.start();
    assert_eq!(har.a("web.example"), ADDRESSES[1]);
    har.until_sql("SELECT count(*) FROM candidate WHERE name = 'web.example'", |count| count == "2");
}

/// A name for each kind of check, whose candidates are the targets of one record.
fn found_names(service: &str) -> String {
    format!(
        "[defaults]\ninterval = \"200ms\"\nresolve_interval = \"1s\"\n\
         [names.\"web.example\"]\ncheck = \"http://{{host}}/healthz\"\n\
         discover = {{ type = \"srv\", record = \"{service}\" }}\n\
         [names.\"tcp.example\"]\ncheck = {{ type = \"tcp\" }}\n\
         discover = {{ type = \"srv\", record = \"{service}\" }}\n"
    )
}

#[test]
fn what_was_found_is_explained_replayed_and_shown() {
    let backends = Backend::group(&[("127.0.0.2", 1), ("127.0.0.3", 1)]);
    let port = backends[0].port();
    let upstream = Upstream::start();
    for (name, address) in ["one.example", "two.example"].iter().zip(ADDRESSES) {
        upstream.addresses(name, &[address]);
    }
    let service = "_http._tcp.example";
    let record = |priority, target| record(priority, 1, port, target);
    let all = vec![record(10, "one.example."), record(20, "two.example."), record(30, "lost.example.")];
    upstream.records(service, "SRV", all);
    let har = har().server("history = \"1h\"").upstream(&[&upstream]).names(&found_names(service)).start();
    for name in ["web.example", "tcp.example"] {
        har.until_a(name, ADDRESSES[0]);
        har.until_sql(&format!("SELECT count(*) FROM ranking WHERE name = '{name}' AND state = 'up'"), |n| n == "2");
        // An answer that has just changed may be on its way to the file.
        wait_for("an explanation that agrees", || {
            let text = har.run(&["explain", name]).ok();
            let agrees = !text.contains("By this configuration") && !text.contains("any more");
            let whole = text.contains("127.0.0.2 (one.example): chosen")
                && text.contains("127.0.0.3 (two.example): reserve")
                && text.contains("lost.example: no address is known: ");
            (agrees && whole).then_some(())
        });
    }

    let error = "SELECT error FROM candidate WHERE name = 'web.example' AND host = 'lost.example'";
    let why = har.until_sql(error, |error| !error.is_empty())[0][0].clone();
    let table = har.run(&["status", "web.example"]).ok();
    assert!(table.contains(&format!("\n     lost.example  no address: {why}\n")), "{why}: {table}");
    let document: serde_json::Value =
        serde_json::from_str(&har.run(&["status", "web.example", "--json"]).ok()).expect("JSON");
    let name = &document["names"][0];
    assert_eq!(name["candidates"].as_array().map(Vec::len), Some(2), "{name}");
    assert_eq!(name["without_address"].as_array().map(Vec::len), Some(1), "{name}");
    assert_eq!(
        (&name["without_address"][0]["host"], &name["without_address"][0]["error"]),
        (&"lost.example".into(), &why.into())
    );

    har.until_sql("SELECT count(DISTINCT definition) FROM check_history", |count| count.parse::<u32>().unwrap() >= 3);
    let text = har.run(&["replay"]).ok();
    assert!(text.contains("web.example A") && text.contains("tcp.example A"), "{text}");
    assert!(!text.contains("nothing is recorded for one.example"), "{text}");
    assert!(!text.contains("nothing is recorded for two.example"), "{text}");
    assert!(text.contains("nothing is recorded for lost.example of web.example"), "{text}");
}

#[test]
fn a_search_in_vain_is_explained_and_shown() {
    let backends = Backend::group(&[("127.0.0.2", 1)]);
    let upstream = Upstream::start();
    upstream.addresses("one.example", &[ADDRESSES[0]]);
    let service = "_http._tcp.example";
    upstream.behave(service, Behaviour::Rcode(ResponseCode::ServFail));
    let har = har().upstream(&[&upstream]).names(&found_names(service)).start();
    let until = |what: &[&str], absent: &str| {
        wait_for(what[1], || {
            let status = har.run(&["status", "web.example"]).out;
            let explained = har.run(&["explain", "web.example"]).out;
            let all = status.contains(what[0]) && explained.contains(what[1]);
            (all && !status.contains(absent) && !explained.contains(absent)).then_some(())
        });
    };
    let why = "no address is known: SRV _http._tcp.example: ";
    until(&["web.example  no address known: SRV _http._tcp.example: ", why], "known yet");
    assert_eq!(har.query("web.example", "A").extended_error(), Some(14));
    upstream.records(service, "SRV", vec![record(10, 1, backends[0].port(), "one.example.")]);
    upstream.behave(service, Behaviour::Answer);
    until(&["web.example A  127.0.0.2", "A: 127.0.0.2 is answered"], "SRV _http._tcp.example");
}

#[test]
fn probing_looks_for_candidates_and_says_why_there_are_none() {
    let backends = Backend::group(&[("127.0.0.2", 1)]);
    let upstream = Upstream::start();
    upstream.addresses("one.example", &[ADDRESSES[0]]);
    let service = "_http._tcp.example";
    upstream.records(service, "SRV", vec![record(10, 1, backends[0].port(), "one.example.")]);
    upstream.behave("_gone._tcp.example", Behaviour::Rcode(ResponseCode::ServFail));
    let gone = "[names.\"gone.example\"]\ncheck = { type = \"tcp\" }\n\
        discover = { type = \"srv\", record = \"_gone._tcp.example\" }\n";
    let har = har().upstream(&[&upstream]).names(&(found_names(service) + gone)).prepare();
    let ran = har.run(&["probe", "--json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let document: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let rows: Vec<String> = document["checks"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| ["name", "host", "outcome"].map(|key| row[key].as_str().unwrap_or_default()).join(" "))
        .collect();
    assert_eq!(
        rows,
        ["web.example one.example ok", "tcp.example one.example ok", "gone.example SRV _gone._tcp.example not_found"]
    );
    let why = document["checks"][2]["error"].as_str().unwrap_or_default();
    assert!(why.contains("SERVFAIL"), "{why}");
    assert_eq!(har.run(&["probe", "web.example"]).ok().lines().count(), 2);
    assert!(har.run(&["probe", "gone.example"]).out.contains(why));
}
