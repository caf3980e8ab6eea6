//! SIGHUP: a valid configuration replaces the running one, an invalid one is logged and ignored.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

use crate::harness::daemon::free_port;
use crate::harness::dns::{self, encode, question};
use crate::harness::{Backend, Har, Reply, har, wait_for};

fn name(name: &str, port: u16) -> String {
    format!(
        "[names.\"{name}\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [\"127.0.0.2\"]\ninterval = \"1s\"\n"
    )
}

fn start() -> (Har, Backend) {
    let backend = Backend::start("127.0.0.2");
    let har = har().names(&name("old.example", backend.port())).start();
    har.until_a("old.example", "127.0.0.2");
    (har, backend)
}

fn reload(har: &Har) {
    let (reloading, ready) = (har.notify.count("RELOADING=1"), har.notify.count("READY=1"));
    har.signal(Signal::SIGHUP);
    wait_for("RELOADING=1, then READY=1", || {
        (har.notify.count("RELOADING=1") > reloading && har.notify.count("READY=1") > ready).then_some(())
    });
}

#[test]
fn a_new_name_is_answered_and_an_unchanged_one_keeps_what_it_learned() {
    let (mut har, backend) = start();
    let checks = "SELECT checks FROM ranking WHERE name = 'old.example'";
    har.until_sql(checks, |checks| checks.parse::<u64>().is_ok_and(|checks| checks >= 3));
    let before: u64 = har.sql(checks)[0][0].parse().unwrap();
    har.rewrite_names(&(name("old.example", backend.port()) + &name("new.example", backend.port())));
    reload(&har);
    har.until_a("new.example", "127.0.0.2");
    let after: u64 = har.sql(checks)[0][0].parse().unwrap();
    assert!(after >= before, "{before} checks before, {after} after");
    let reply = har.query("old.example", "A");
    assert_eq!((reply.first().as_str(), reply.extended_error()), ("127.0.0.2", None), "its state is kept");
}

#[test]
fn what_is_gone_is_forwarded_and_leaves_the_state_file() {
    let (mut har, backend) = start();
    har.rewrite_names(&name("new.example", backend.port()));
    reload(&har);
    har.until_a("new.example", "127.0.0.2");
    assert_eq!(har.a("old.example"), "");
    har.until_sql("SELECT count(*) FROM ranking WHERE name = 'old.example'", |count| count == "0");
}

#[test]
fn an_invalid_configuration_is_named_and_the_running_one_kept() {
    let (mut har, _backend) = start();
    har.rewrite_names("[names.\"old.example\"]\ncandidates = [\"not an address\"]\n");
    har.signal(Signal::SIGHUP);
    wait_for("the problem in the log", || har.log().contains("not an address").then_some(()));
    assert_eq!(har.a("old.example"), "127.0.0.2");
    // It says READY again, or the service manager would wait for ever.
    wait_for("READY=1", || (har.notify.count("READY=1") >= 2).then_some(()));
}

#[test]
fn starts_reloads_and_stops_are_events() {
    let (mut har, backend) = start();
    let events = |har: &Har, reasons: &[&str]| {
        let count = reasons.len().to_string();
        har.until_sql("SELECT count(*) FROM event WHERE kind = 'daemon'", |rows| rows == count);
        let rows = har.sql("SELECT reason FROM event WHERE kind = 'daemon' ORDER BY id");
        for (row, reason) in rows.iter().zip(reasons) {
            assert!(row[0].contains(reason) && !row[0].contains('\n'), "{reason:?}: {rows:?}");
        }
    };
    har.rewrite_names(&(name("old.example", backend.port()) + &name("new.example", backend.port())));
    reload(&har);
    har.rewrite_names("[names.\"old.example\"]\ncandidates = [\"not an address\"]\ncheck = \"nonsense\"\n");
    reload(&har);
    let mut told = vec![
        "started, 1 name from",
        "the configuration was loaded again: 2 names",
        "the configuration was not taken over: ",
    ];
    events(&har, &told);
    har.until_log("was not taken over");
    let log = har.log();
    assert_eq!(log.matches("was loaded again").count(), 1, "{log}");
    assert_eq!(log.matches("was not taken over").count(), 1, "{log}");
    assert!(
        har.sql("SELECT reason FROM event WHERE kind = 'daemon' ORDER BY id")[0][0].contains("no earlier run is known")
    );

    har.rewrite_names(&name("old.example", backend.port()));
    har.stop();
    har.start();
    told.extend(["stopped", "; the last run was stopped at 2"]);
    events(&har, &told);
    har.kill9();
    har.start();
    told.push("; the last run did not end in order and was last heard of at 2");
    events(&har, &told);
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_applies() {
    let (mut har, backend) = start();
    har.rewrite_server("user = \"nobody\"");
    har.rewrite_names(&(name("old.example", backend.port()) + &name("new.example", backend.port())));
    reload(&har);
    har.until_a("new.example", "127.0.0.2");
    wait_for("a line about the user", || {
        har.log().lines().any(|line| line.contains("user") && line.contains("restart")).then_some(())
    });
}

#[test]
fn a_reload_asked_for_while_har_starts_follows_the_start() {
    let mut har = har().names(&name("old.example", 9)).prepare();
    let (mut pipe, text) = har.spawn_held();
    har.signal(Signal::SIGHUP);
    har.rewrite_names(&(name("old.example", 9) + &name("new.example", 9)));
    pipe.write_all(text.as_bytes()).expect("har reads");
    drop(pipe);
    assert!(har.becomes_ready(), "{}", har.log());
    let daemon = "SELECT count(*) FROM event WHERE kind = 'daemon' AND reason LIKE";
    har.until_sql(&format!("{daemon} '%started, 1 name from%'"), |count| count == "1");
    har.until_sql(&format!("{daemon} '%was loaded again: 2 names%'"), |count| count == "1");
}

/// The daemon's list of listeners, replaced in its configuration file.
fn listen(har: &Har, addresses: &[SocketAddr]) {
    let text = std::fs::read_to_string(har.config_path()).expect("own folder");
    let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let line = |line: &str| match line.starts_with("listen = ") {
        true => format!("listen = [{}]\n", list.join(", ")),
        false => format!("{line}\n"),
    };
    std::fs::write(har.config_path(), text.lines().map(line).collect::<String>()).expect("own folder");
}

fn ask_at(address: SocketAddr) -> String {
    Reply::read(&dns::udp(address, &encode(&question("old.example", RecordType::A)))).first()
}

#[test]
fn listeners_come_and_go_and_what_stays_is_left_alone() {
    let (har, _backend) = start();
    let stays = har.address();
    let elsewhere = |last: u8| SocketAddr::from(([127, 0, 0, last], free_port(&[[127, 0, 0, last].into()])));
    let [first, second] = [elsewhere(7), elsewhere(8)];
    let listeners = |addresses: &[SocketAddr]| {
        let wanted: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        har.until_sql("SELECT listen FROM daemon", |listen| wanted.iter().all(|address| listen.contains(address)));
    };
    let mut connection = har.tcp();
    listen(&har, &[stays, first]);
    reload(&har);
    assert_eq!(ask_at(first), "127.0.0.2");
    listeners(&[stays, first]);
    assert!(!har.log().contains("restart"), "{}", har.log());

    // One that cannot be had: nothing changes, until it can.
    let taken = UdpSocket::bind(second).unwrap();
    listen(&har, &[stays, second]);
    reload(&har);
    let refusal = format!("cannot listen on {second} (UDP): in use by");
    wait_for("the reason", || har.log().contains(&refusal).then_some(()));
    assert_eq!(ask_at(first), "127.0.0.2");
    drop(taken);
    reload(&har);
    assert_eq!(ask_at(second), "127.0.0.2");
    wait_for("the first to be closed", || TcpStream::connect(first).is_err().then_some(()));
    drop(UdpSocket::bind(first).expect("it is free"));
    listeners(&[stays, second]);
    assert_eq!(connection.ask(&question("old.example", RecordType::A)).first(), "127.0.0.2", "all the while");
}

/// A figure of the process, kB.
fn kb(har: &Har, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", har.pid())).expect("it is running");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("the kernel says");
    line.trim_start_matches(':').trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn the_code_that_a_start_and_a_reload_need_leaves_the_memory() {
    let (har, _backend) = start();
    // What is mapped stays so unless it is given back. Ordinary work has its own code mapped again within a second: what
    // is less afterwards is what the start or the reload alone needed, a small part of the whole for a reload.
    let given_back = |what: &str, from: u64, percent: u64| {
        let mut most = from;
        wait_for(what, || {
            let mapped = kb(&har, "RssFile");
            most = most.max(mapped);
            (mapped * 100 < most * percent).then_some(())
        });
    };
    given_back("the start's code to be given back", kb(&har, "VmHWM") - kb(&har, "RssAnon"), 75);
    har.signal(Signal::SIGHUP);
    given_back("the code of a reload to be given back", 0, 95);
}
