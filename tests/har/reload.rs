//! SIGHUP: a valid configuration replaces the running one, an invalid one is logged and ignored.

use std::io::Write;

use nix::sys::signal::Signal;

use crate::harness::{Backend, Har, har, wait_for};

fn name(name: &str, port: u16) -> String {
    format!(
        "[names.\"{name}\"]\ncheck = \"http://{{host}}:{port}/\"\ncandidates = [\"127.0.0.2\"]\ninterval = \"200ms\"\n"
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
        har.log()
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
    let log = events(&har, &told);
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

/// A figure of the process, kB.
fn kb(har: &Har, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", har.pid())).expect("it is running");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("the kernel says");
    line.trim_start_matches(':').trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn the_code_that_a_start_and_a_reload_need_leaves_the_memory() {
    let (har, _backend) = start();
    let given_back = |what: &str, from: u64| {
        let mut most = from;
        wait_for(what, || {
            let mapped = kb(&har, "RssFile");
            most = most.max(mapped);
            // Ordinary work has its own code mapped again within a second.
            (mapped < most * 3 / 4).then_some(())
        });
    };
    given_back("the start's code to be given back", kb(&har, "VmHWM") - kb(&har, "RssAnon"));
    har.signal(Signal::SIGHUP);
    given_back("the code of a reload to be given back", 0);
}
