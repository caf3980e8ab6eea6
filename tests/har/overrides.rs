//! Orders: drain, force-up, pin and bypass by command, by SQL and by a drain record, with a running daemon.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use nix::sys::signal::Signal;

use crate::harness::daemon::Ran;
use crate::harness::{Backend, Har, Upstream, har, is_root, missing, skip, wait_for};

/// `nobody` on every distribution that matters.
const NOBODY: u32 = 65_534;

const PACE: &str = "[defaults]\ninterval = \"1s\"\nfast_interval = \"100ms\"\n";

fn name(name: &str, candidates: &str, port: u16) -> String {
    format!("[names.\"{name}\"]\ncheck = \"http://{{address}}:{port}/\"\ncandidates = [{candidates}]\n")
}

fn names(port: u16) -> String {
    let both = "\"127.0.0.2\", \"127.0.0.3\"";
    format!("{PACE}{}{}", name("api.example", both, port), name("web.example", both, port))
}

/// Two names with a fast candidate, 127.0.0.2, and a slow one, 127.0.0.3.
fn start() -> (Har, Vec<Backend>, Upstream) {
    let backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 40)]);
    let upstream = Upstream::start();
    let har = har().upstream(&[&upstream]).names(&names(backends[0].port())).start();
    both(&har, "127.0.0.2", "127.0.0.2");
    // READY does not wait for the file.
    har.until_sql("SELECT count(*) FROM override", |count| count == "0");
    (har, backends, upstream)
}

#[track_caller]
fn both(har: &Har, api: &str, web: &str) {
    har.until_a("api.example", api);
    har.until_a("web.example", web);
}

/// Plain SQL by another process than har.
fn write(har: &Har, sql: &str) {
    let connection = rusqlite::Connection::open(har.state_path()).expect("the state file is there");
    connection.busy_timeout(Duration::from_secs(10)).expect("a time-out");
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn reload(har: &Har) {
    let ready = har.notify.count("READY=1");
    har.signal(Signal::SIGHUP);
    wait_for("READY=1 after a reload", || (har.notify.count("READY=1") > ready).then_some(()));
}

#[track_caller]
fn until_event(har: &Har, reason: &str) {
    let query = format!("SELECT count(*) FROM event WHERE kind = 'override' AND reason LIKE '{reason}'");
    har.until_sql(&query, |count| count != "0");
}

#[test]
fn a_drain_takes_effect_within_a_second_and_the_real_state_stays_visible() {
    let (har, _backends, _upstream) = start();
    let (mut drained, mut undrained) = (Duration::MAX, Duration::MAX);
    // The quickest of some: a loaded machine may keep others waiting.
    for _ in 0..10 {
        if drained.max(undrained) < Duration::from_secs(1) {
            break;
        }
        let out = har.run(&["drain", "127.0.0.2", "--reason", "disk is full"]).ok();
        assert!(out.contains(": drain 127.0.0.2 for all names until undone (disk is full), by "), "{out}");
        let begin = Instant::now();
        both(&har, "127.0.0.3", "127.0.0.3");
        drained = drained.min(begin.elapsed());
        let out = har.run(&["undrain", "127.0.0.2"]).ok();
        assert!(out.starts_with("removed override "), "{out}");
        let begin = Instant::now();
        both(&har, "127.0.0.2", "127.0.0.2");
        undrained = undrained.min(begin.elapsed());
    }
    assert!(drained.max(undrained) < Duration::from_secs(1), "{drained:?}, {undrained:?}");

    har.run(&["drain", "127.0.0.2", "--name", "API.example.", "--for", "1h", "--reason", "again"]).ok();
    both(&har, "127.0.0.3", "127.0.0.2");
    let row = har.until_sql(
        "SELECT standing, state, drained, forced FROM address WHERE name = 'api.example' AND address = '127.0.0.2'",
        |standing| standing.starts_with("drained until 20"),
    );
    assert_eq!(row[0][1], "up", "the real state");
    assert!(row[0][2].ends_with(": again"), "{row:?}");
    let checks = "SELECT checks FROM ranking WHERE name = 'api.example' AND address = '127.0.0.2'";
    let before: u64 = har.sql(checks)[0][0].parse().unwrap();
    har.until_sql(checks, |now| now.parse::<u64>().unwrap() > before);
    until_event(&har, "drain of 127.0.0.2 begins, until undone by %: disk is full");
    until_event(&har, "drain of 127.0.0.2 ends, until undone by %: disk is full");
    until_event(&har, "drain of 127.0.0.2 begins, until 20%: again");
    let status = har.run(&["status", "api.example"]).ok();
    assert!(status.contains("drain 127.0.0.2 api.example, for ") && status.contains("drained until"), "{status}");
}

#[test]
fn for_ends_by_itself_and_an_order_given_again_is_one() {
    let (har, _backends, _upstream) = start();
    har.run(&["drain", "127.0.0.2", "--for", "1h"]).ok();
    let out = har.run(&["drain", "127.0.0.2", "--for", "4s", "--reason", "short"]).ok();
    assert!(out.contains(", in place of the one before"), "{out}");
    assert_eq!(har.sql("SELECT count(*), max(reason) FROM override"), [["1", "short"]]);
    both(&har, "127.0.0.3", "127.0.0.3");
    both(&har, "127.0.0.2", "127.0.0.2");
    har.until_sql("SELECT count(*) FROM override", |count| count == "0");
    until_event(&har, "drain of 127.0.0.2 ends, until 20%: short");
}

#[test]
fn orders_survive_a_kill_and_a_reload_and_wait_for_their_name() {
    let (mut har, backends, _upstream) = start();
    har.run(&["drain", "127.0.0.2"]).ok();
    write(&har, "INSERT INTO override (kind, name, target) VALUES ('pin', 'New.Example.', '127.0.0.3')");
    both(&har, "127.0.0.3", "127.0.0.3");
    until_event(&har, "pin of 127.0.0.3 begins, %(no configured name is called so)");
    har.kill9();
    har.start();
    assert_eq!(har.a("api.example"), "127.0.0.3", "the first answer");
    let new = name("new.example", "\"127.0.0.4\", \"127.0.0.3\"", backends[0].port());
    har.rewrite_names(&(names(backends[0].port()) + &new));
    reload(&har);
    assert_eq!(har.a("api.example"), "127.0.0.3");
    har.until_a("new.example", "127.0.0.3");
    assert!(har.stop().success());
    let out = har.run(&["undrain", "127.0.0.2"]).ok();
    assert!(out.contains("no daemon is running: it takes effect when har is started"), "{out}");
    har.start();
    both(&har, "127.0.0.2", "127.0.0.2");
}

#[test]
fn plain_sql_does_the_same() {
    let (har, _backends, _upstream) = start();
    write(&har, "INSERT INTO override (kind, name, target) VALUES ('drain', 'API.Example.', '127.0.0.2')");
    both(&har, "127.0.0.3", "127.0.0.2");
    write(&har, "DELETE FROM override");
    both(&har, "127.0.0.2", "127.0.0.2");
    write(
        &har,
        "INSERT INTO override (kind, target, expires_at) VALUES ('drain', '127.0.0.2', datetime('now', '+4 seconds'))",
    );
    both(&har, "127.0.0.3", "127.0.0.3");
    both(&har, "127.0.0.2", "127.0.0.2");
    until_event(&har, "drain of 127.0.0.2 ends,%");
}

#[test]
fn a_drain_beats_a_forced_state_and_a_row_for_one_name_a_general_one() {
    let (har, mut backends, _upstream) = start();
    backends[0].close();
    both(&har, "127.0.0.3", "127.0.0.3");
    har.run(&["force-up", "127.0.0.2", "--reason", "the check is wrong"]).ok();
    har.run(&["drain", "127.0.0.3", "--name", "api.example"]).ok();
    har.until_a("api.example", "127.0.0.2");
    har.until_sql(
        "SELECT state || forced || chosen FROM address WHERE name = 'api.example' AND address = '127.0.0.2'",
        |state| state == "down11",
    );
    har.run(&["drain", "127.0.0.2"]).ok();
    har.run(&["undrain", "127.0.0.3", "--name", "api.example"]).ok();
    both(&har, "127.0.0.3", "127.0.0.3");
    // Both candidates are up for api.example only by its own rows, which beat the general drain.
    har.run(&["force-up", "127.0.0.2", "--name", "api.example"]).ok();
    har.run(&["drain", "127.0.0.3"]).ok();
    har.until_a("api.example", "127.0.0.2");
    har.run(&["force-up", "127.0.0.2", "--name", "api.example", "--remove"]).ok();
    har.until_sql("SELECT max(forced) FROM address WHERE name = 'api.example' AND address = '127.0.0.2'", |forced| {
        forced == "0"
    });
}

#[test]
fn a_pin_freezes_the_answer() {
    let (har, mut backends, _upstream) = start();
    let out = har.run(&["pin", "api.example", "127.0.0.3", "--for", "1h", "--reason", "test"]).ok();
    assert!(out.contains("pin api.example to 127.0.0.3 until 20"), "{out}");
    both(&har, "127.0.0.3", "127.0.0.2");
    backends[1].close();
    har.until_sql("SELECT state FROM ranking WHERE name = 'api.example' AND address = '127.0.0.3'", |s| s == "down");
    assert_eq!(har.a("api.example"), "127.0.0.3", "it is frozen");
    let reply = har.query("api.example", "AAAA");
    assert_eq!((reply.rcode(), reply.addresses().len()), (ResponseCode::NoError, 0));
    let refused = har.run(&["pin", "api.example", "192.0.2.1"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    har.run(&["pin", "api.example", "192.0.2.1", "--force"]).ok();
    har.until_a("api.example", "192.0.2.1");
    assert_eq!(har.sql("SELECT count(*) FROM override"), [["1"]], "a name has one pin");
    har.until_sql("SELECT basis FROM answer WHERE name = 'api.example' AND family = 'A'", |basis| basis == "pinned");
    har.run(&["unpin", "api.example"]).ok();
    har.until_a("api.example", "127.0.0.2");
    let again = har.run(&["unpin", "api.example"]);
    assert_eq!(again.code, 1, "{again:?}");
}

#[test]
fn a_bypass_forwards_configured_names_whatever_the_type() {
    let (har, _backends, upstream) = start();
    upstream.addresses("api.example", &["198.51.100.1"]).txt("api.example", &["upstream"]);
    upstream.addresses("web.example", &["198.51.100.2"]);
    har.run(&["bypass", "web.example"]).ok();
    both(&har, "127.0.0.2", "198.51.100.2");
    har.run(&["bypass", "--reason", "three in the morning"]).ok();
    both(&har, "198.51.100.1", "198.51.100.2");
    assert_eq!(har.query("api.example", "TXT").message.answers.len(), 1);
    // As if the name were not configured: not even NXDOMAIN is changed.
    upstream.addresses("web.example", &[]);
    assert_eq!(har.query("web.example", "MX").rcode(), ResponseCode::NXDomain);
    let row = har.until_sql(
        "SELECT basis, reason, addresses FROM answer WHERE name = 'api.example' AND family = 'A'",
        |basis| basis == "bypass",
    );
    assert!(row[0][1].contains("three in the morning: every query is forwarded; without that: "), "{row:?}");
    assert_eq!(row[0][2], "127.0.0.2", "what would be answered stays visible");
    har.run(&["bypass", "--remove"]).ok();
    har.until_a("api.example", "127.0.0.2");
    let wrong = har.run(&["bypass", "--remove"]);
    assert!(wrong.code == 1 && wrong.err.contains("but one for web.example: state that name"), "{wrong:?}");
    har.run(&["bypass", "web.example", "--remove"]).ok();
    both(&har, "127.0.0.2", "127.0.0.2");
    until_event(&har, "bypass of everything ends,%");
}

#[test]
fn rows_that_make_no_sense_are_ignored_and_told_of_once() {
    let (har, _backends, _upstream) = start();
    write(
        &har,
        "INSERT INTO override (id, kind, target) VALUES (11, 'drain', CAST(x'ff' AS TEXT)), (12, 'drain', ' ');
         INSERT INTO override (id, kind, target, expires_at) VALUES (13, 'drain', '127.0.0.2', '1969-01-01');
         INSERT INTO override (id, kind, target) VALUES (14, 'drain', '127.0.0.2')",
    );
    both(&har, "127.0.0.3", "127.0.0.3");
    for turn in 0..3 {
        write(&har, &format!("INSERT INTO override (id, kind, target) VALUES ({}, 'drain', '127.0.0.9')", 20 + turn));
        until_event(&har, "drain of 127.0.0.9 begins, until undone (no candidate has this address now)");
        har.until_sql("SELECT count(*) FROM event WHERE reason LIKE 'drain of 127.0.0.9%'", |n| {
            n == (turn + 1).to_string()
        });
    }
    for id in [11, 12, 13] {
        let line = format!("override {id} is ignored");
        har.until_log(&line);
        assert_eq!(har.log().matches(&line).count(), 1, "{line}\n{}", har.log());
        until_event(&har, &format!("{line}%"));
    }
    let note = har.sql("SELECT note FROM daemon");
    assert!(!note[0][0].contains("ignored"), "not taken for trouble with the file: {note:?}");
    let listed = har.run(&["overrides"]).ok();
    assert!(listed.contains("override 13 is ignored") && listed.contains("127.0.0.9"), "{listed}");
}

#[test]
fn slips_are_refused_with_the_nearest_that_is_known() {
    let (har, _backends, _upstream) = start();
    // What the commands look at: it may be in the file later than READY.
    har.until_sql("SELECT count(*) FROM ranking WHERE state = 'up'", |count| count == "4");
    for (arguments, code, line) in [
        (&["drain", "127.0.0.22"][..], 2, "did you mean '127.0.0.2'?"),
        (&["drain", "127.0.0.2", "--name", "apj.example"], 2, "did you mean 'api.example'?"),
        (&["drain", "127.0.0.2", "--for", "0s"], 2, "more than nothing"),
        (&["drain", "127.0.0.2", "--for", "tomorrow"], 2, "a number and a unit"),
        (&["drain", "127.0.0.2", "--reason", "two\nlines"], 2, "one line"),
        (&["drain", "http://127.0.0.2/"], 2, "no URL"),
        (&["pin", "api.example", "host.example"], 2, "is no candidate of api.example"),
        (&["force-up", "127.0.0.2", "--remove", "--for", "1s"], 2, "cannot be used with"),
        (&["undrain", "127.0.0.2"], 1, "there is no drain of 127.0.0.2 for all names; `har overrides` lists"),
        (&["bypass", "nothing.example"], 2, "is no name of the configuration"),
    ] {
        let ran = har.run(arguments);
        assert!(ran.code == code && ran.err.contains(line) && ran.out.is_empty(), "{arguments:?}: {ran:?}");
    }
    assert_eq!(har.sql("SELECT count(*) FROM override"), [["0"]]);
    let out = har.run(&["drain", "later.example", "--name", "other.example", "--force"]).ok();
    assert!(out.contains("drain later.example for other.example"), "{out}");
    let out = har.run(&["drain", "127.0.0.2"]).ok();
    assert!(!out.contains("warning"), "{out}");
    until_event(&har, "drain of 127.0.0.2 begins%");
    har.until_sql("SELECT count(*) FROM address WHERE drained IS NOT NULL", |count| count == "2");
    let out = har.run(&["drain", "127.0.0.3"]).ok();
    assert!(out.contains("warning: nothing else of api.example is up"), "{out}");
    let wrong = har.run(&["undrain", "127.0.0.2", "--name", "api.example"]);
    assert!(wrong.code == 1 && wrong.err.contains("but one for all names: leave --name out"), "{wrong:?}");
}

#[test]
fn an_order_that_does_nothing_says_what_goes_before_it() {
    let (har, _backends, _upstream) = start();
    let pinned = har.run(&["pin", "api.example", "127.0.0.2", "--reason", "migration"]).ok();
    assert!(!pinned.contains("warning"), "{pinned}");
    let basis = "SELECT basis FROM answer WHERE name = 'api.example' AND family = 'A'";
    har.until_sql(basis, |basis| basis == "pinned");
    let status = har.run(&["status", "api.example"]).ok();
    assert!(status.contains("api.example A  127.0.0.2  pinned to 127.0.0.2 until undone"), "no age: {status}");
    let out = har.run(&["drain", "127.0.0.2"]).ok();
    let line =
        "warning: no effect on api.example as long as override 1 holds: pin api.example to 127.0.0.2 until undone";
    assert!(out.contains(line) && !out.contains("web.example"), "{out}");
    both(&har, "127.0.0.2", "127.0.0.3");
    let out = har.run(&["force-up", "127.0.0.2", "--name", "web.example"]).ok();
    assert!(!out.contains("warning"), "a row for the name before one for all: {out}");
    let out = har.run(&["drain", "127.0.0.2"]).ok();
    assert!(out.contains("no effect on web.example as long as override 3 holds: force-up 127.0.0.2"), "{out}");
    har.run(&["bypass", "--for", "1h"]).ok();
    let out = har.run(&["pin", "web.example", "127.0.0.3"]).ok();
    assert!(out.contains("no effect on web.example as long as override 4 holds: bypass every name"), "{out}");
}

#[test]
fn an_order_by_sql_that_was_over_when_it_came_is_told_of_and_goes() {
    let (har, _backends, _upstream) = start();
    let row = "('drain', '127.0.0.2', datetime('now', '-5 hours', '+10 minutes'))";
    write(&har, &format!("INSERT INTO override (kind, target, expires_at) VALUES {row}"));
    until_event(&har, "drain of 127.0.0.2 was over when it came (times are UTC), until 20%");
    har.until_sql("SELECT count(*) FROM override", |count| count == "0");
}

#[test]
fn the_list_says_what_is_left_and_by_whom() {
    let (mut har, _backends, _upstream) = start();
    let mut drain = har.tool("drain");
    Ran::of(drain.args(["127.0.0.2", "--for", "10m", "--reason", "disk"]).env("SUDO_USER", "alice")).ok();
    assert!(har.stop().success());
    write(
        &har,
        "INSERT INTO override (kind, name, expires_at) VALUES ('bypass', 'web.example', datetime('now', '-1 hour'))",
    );
    let listed = har.run(&["overrides"]).ok();
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..5], ["id", "kind", "target", "name", "left"], "{listed}");
    assert_eq!(lines[1][1..5], ["drain", "127.0.0.2", "all", "names"], "{listed}");
    assert!(lines[1].contains(&"alice") && lines[1].ends_with(&["disk"]), "{listed}");
    assert!(lines[2][1..5] == ["bypass", "-", "web.example", "expired"], "{listed}");
    let document: serde_json::Value = serde_json::from_str(&har.run(&["overrides", "--json"]).ok()).unwrap();
    let rows = &document["overrides"];
    assert_eq!((&rows[0]["created_by"], &rows[0]["expired"]), (&"alice".into(), &false.into()));
    let left = rows[0]["left_ms"].as_u64().unwrap();
    assert!((1..=600_000).contains(&left), "{left}");
    assert_eq!((&rows[1]["expired"], &rows[1]["target"]), (&true.into(), &serde_json::Value::Null));
    har.start();
    until_event(&har, "bypass of the name ended while har was not running%");
    har.until_sql("SELECT count(*) FROM override", |count| count == "1");
    har.run(&["undrain", "127.0.0.2"]).ok();
    assert_eq!(har.run(&["overrides"]).ok(), "no overrides\n");
}

#[test]
fn a_drain_record_drains_what_it_lists() {
    let backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 40)]);
    let upstream = Upstream::start();
    upstream.addresses("a.example", &["127.0.0.2"]).addresses("b.example", &["127.0.0.3"]);
    let names = format!(
        "{PACE}resolve_interval = \"100ms\"\ndrain_record = \"drain.example\"\n{}",
        name("api.example", "\"a.example\", \"b.example\"", backends[0].port())
    );
    let mut har = har().upstream(&[&upstream]).names(&names).start();
    har.until_a("api.example", "127.0.0.2");
    upstream.txt("drain.example", &["IP=127.0.0.2", "IP=not-an-address", "rubbish"]);
    har.until_a("api.example", "127.0.0.3");
    until_event(&har, "drain record drain.example now lists 127.0.0.2");
    let row = har.until_sql("SELECT drained, state FROM address WHERE address = '127.0.0.2'", |d| !d.is_empty());
    assert_eq!(row[0], ["by the record drain.example", "up"]);
    let listed = har.run(&["overrides"]).ok();
    assert!(listed.contains("drained by a record:") && listed.contains("127.0.0.2"), "{listed}");
    let wrong = har.run(&["undrain", "127.0.0.2"]);
    assert!(wrong.code == 1 && wrong.err.contains("it is drained by the record drain.example"), "{wrong:?}");
    // A row for the name on this host overrules the record.
    har.run(&["force-up", "127.0.0.2", "--name", "api.example"]).ok();
    har.until_a("api.example", "127.0.0.2");
    har.run(&["force-up", "127.0.0.2", "--name", "api.example", "--remove"]).ok();
    har.until_a("api.example", "127.0.0.3");
    har.until_sql("SELECT count(*) FROM address WHERE drained IS NOT NULL AND forced = 0", |count| count == "1");
    // Drained from the first answer on, though no upstream can be asked for the record after a restart.
    har.kill9();
    upstream.behave_always(crate::harness::Behaviour::Drop);
    har.start();
    assert_eq!(har.a("api.example"), "127.0.0.3");
    upstream.behave_always(crate::harness::Behaviour::Answer);

    upstream.txt("drain.example", &["HOST=B.example."]);
    har.until_a("api.example", "127.0.0.2");
    har.until_sql("SELECT drained FROM address WHERE address = '127.0.0.3'", |d| d == "by the record drain.example");
    // Gone: NXDOMAIN.
    upstream.records("drain.example", "TXT", Vec::new());
    har.until_sql("SELECT count(*) FROM address WHERE drained IS NOT NULL", |count| count == "0");
    let end = jiff::Timestamp::now() + Duration::from_secs(4);
    upstream.txt("drain.example", &[&format!("IP=127.0.0.2 IpExpires={end:.0}")]);
    har.until_a("api.example", "127.0.0.3");
    har.until_a("api.example", "127.0.0.2");
    assert!(jiff::Timestamp::now() >= end - Duration::from_secs(1), "not before its time");
    let told =
        "SELECT count(*) FROM event WHERE reason LIKE '%ignored: \"rubbish\"%' OR reason LIKE '%not-an-address%'";
    assert_eq!(har.sql(told), [["2"]], "two strings, each told of once");
}

#[test]
fn root_gives_orders_to_a_daemon_of_another_user() {
    if !is_root() {
        return skip("needs root: a daemon of another user");
    }
    let backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 40)]);
    let mut har = har().server("user = \"nobody\"").names(&names(backends[0].port())).prepare();
    let state = har.folder().join("state");
    fs::create_dir(&state).unwrap();
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    har.start();
    both(&har, "127.0.0.2", "127.0.0.2");
    let owners = || -> Vec<(String, u32)> {
        let files = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap());
        files.map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().uid())).collect()
    };
    har.run(&["drain", "127.0.0.2"]).ok();
    both(&har, "127.0.0.3", "127.0.0.3");
    assert!(owners().iter().all(|(_, owner)| *owner == NOBODY), "while it runs: {:?}", owners());
    // After a kill and after a stop root is alone with the file, and makes its journals.
    har.kill9();
    har.run(&["undrain", "127.0.0.2"]).ok();
    assert!(owners().iter().all(|(_, owner)| *owner == NOBODY), "after a kill: {:?}", owners());
    har.start();
    both(&har, "127.0.0.2", "127.0.0.2");
    assert!(har.stop().success());
    har.run(&["drain", "127.0.0.2"]).ok();
    assert!(owners().iter().all(|(_, owner)| *owner == NOBODY), "after a stop: {:?}", owners());
    har.start();
    both(&har, "127.0.0.3", "127.0.0.3");
    let heartbeat = har.sql("SELECT heartbeat_at FROM daemon")[0][0].clone();
    har.until_sql("SELECT heartbeat_at FROM daemon", |now| now > heartbeat.as_str());
    assert!(!har.log().contains("cannot be written"), "{}", har.log());
}

#[test]
fn who_may_not_write_is_told_who_may() {
    if !is_root() {
        return skip("needs root: a command of another user");
    }
    if let Some(reason) = missing(&["setpriv"]) {
        return skip(&reason);
    }
    let (mut har, _backends, _upstream) = start();
    for running in [true, false] {
        if !running {
            assert!(har.stop().success());
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", crate::harness::daemon::BINARY]);
        let ran = Ran::of(command.args(["drain", "127.0.0.2", "--config"]).arg(har.config_path()));
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("no permission to write the state file") && ran.err.contains("or as root"), "{ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    }
}

#[test]
fn every_command_of_the_operations_page_works() {
    if let Some(reason) = missing(&["sqlite3"]) {
        return skip(&reason);
    }
    let upstream = Upstream::start();
    upstream.addresses("east-1.example.com", &["127.0.0.2"]).addresses("west-1.example.com", &["127.0.0.3"]);
    let names = "[names.\"api.example.com\"]\ncheck = \"none\"\n\
                 candidates = [\"east-1.example.com\", \"west-1.example.com\", \"192.0.2.7\"]";
    let har = har().upstream(&[&upstream]).names(names).start();
    har.until_sql("SELECT count(*) FROM address", |count| count == "3");
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    let state = har.state_path().display().to_string();
    let mut run = 0;
    for line in lines.map(|line| line.strip_prefix("sudo ").unwrap_or(line)) {
        let mut words = Vec::new();
        for (place, part) in line.split('"').enumerate() {
            // Quoted parts are one word each.
            if place % 2 == 1 {
                words.push(part);
            } else {
                words.extend(part.split_whitespace());
            }
        }
        words.iter_mut().filter(|word| **word == "/var/lib/har/har.db").for_each(|word| *word = &state);
        match words.split_first() {
            Some((&"har", arguments)) => drop(har.run(arguments).ok()),
            Some((&"sqlite3", arguments)) => {
                drop(Ran::of(Command::new("sqlite3").arg(har.state_path()).args(&arguments[1..])).ok());
            }
            _ => continue,
        }
        run += 1;
    }
    assert!(run >= 20, "{run} commands");
    assert_eq!(har.sql("SELECT count(*) FROM override"), [["0"]], "each order is taken back on the page");
}
