//! What the service manager hears, from READY to STOPPING.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Backend, Mode, har, wait_for};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]";

#[test]
fn ready_comes_when_every_name_has_been_checked() {
    let backend = Backend::start("127.0.0.2");
    backend.delay(300);
    let names = format!(
        "[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"127.0.0.2\"]",
        backend.port()
    );
    let har = har().names(&names).start();
    assert!(backend.connections() >= 1);
    let reply = har.query("api.example", "A");
    assert_eq!((reply.first().as_str(), reply.extended_error()), ("127.0.0.2", None), "the check has passed already");
}

#[test]
fn ready_does_not_wait_for_ever() {
    let backend = Backend::start("127.0.0.2");
    backend.set(Mode::Hang);
    let names = format!(
        "[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"127.0.0.2\"]\ninterval = \"1h\"\ntimeout = \"10m\"",
        backend.port()
    );
    // Starting waits for READY; a check of ten minutes would outlast the patience of the harness.
    drop(har().names(&names).start());
}

#[test]
fn status_reloading_and_stopping_are_told() {
    let mut har = har().names(NAMES).start();
    wait_for("a STATUS", || (har.notify.count("STATUS=") > 0).then_some(()));
    har.signal(Signal::SIGHUP);
    wait_for("RELOADING and a second READY", || (har.notify.count("READY=1") == 2).then_some(()));
    let reloading: Vec<String> = har.notify.messages().into_iter().filter(|m| m.contains("RELOADING=1")).collect();
    assert_eq!(reloading.len(), 1);
    assert!(reloading[0].contains("MONOTONIC_USEC="), "Type=notify-reload needs it: {}", reloading[0]);
    assert!(har.stop().success());
    assert_eq!(har.notify.count("STOPPING=1"), 1);
    assert!(!har.notify.messages().iter().any(|m| m.contains("WATCHDOG")), "nobody asked for a watchdog");
}

#[test]
fn the_status_follows_a_check_within_a_second_or_so() {
    let mut backend = Backend::start("127.0.0.2");
    let pace = "interval = \"200ms\"\nfast_interval = \"100ms\"\nrise = 1\nfall = 1";
    let names =
        format!("[names.\"api.example\"]\ncheck = \"tcp:{}\"\ncandidates = [\"127.0.0.2\"]\n{pace}", backend.port());
    let har = har().names(&names).start();
    let says = |up: &str| har.notify.messages().last().is_some_and(|last| last.contains(up));
    wait_for("a STATUS", || says("1 of 1 addresses up").then_some(()));
    let mut took = Vec::new();
    // Each begins right after a look at what there is to say, so that the next one is as far away as it can be.
    for up in [false, true, false, true, false] {
        let begin = Instant::now();
        if up {
            backend.open()
        } else {
            backend.close()
        }
        let line = if up { "1 of 1 addresses up" } else { "0 of 1 addresses up" };
        wait_for(line, || says(line).then_some(()));
        took.push(begin.elapsed());
    }
    // A loaded machine may keep some of them waiting; while nothing happens the next look comes after 4 s.
    took.sort();
    assert!(took[2] < Duration::from_millis(2500), "{took:?}");
}

#[test]
fn the_watchdog_is_fed_when_asked_for() {
    let har = har().names(NAMES).environment("WATCHDOG_USEC", "400000").start();
    wait_for("three signs of life", || (har.notify.count("WATCHDOG=1") >= 3).then_some(()));
}

#[test]
fn a_watchdog_meant_for_another_process_is_not_fed() {
    let har = har().names(NAMES).environment("WATCHDOG_USEC", "100000").environment("WATCHDOG_PID", "1").start();
    for _ in 0..200 {
        har.a("api.example");
    }
    har.until_sql("SELECT count(*) FROM ranking", |count| count != "0");
    assert_eq!(har.notify.count("WATCHDOG=1"), 0);
}
