//! The wall clock is set while har runs, as time synchronisation does soon after a boot.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Backend, Har, har, missing, skip, wait_for};

/// What shows the daemon another time than it is; its monotonic clock stays.
fn libfaketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime"));
    folders.map(|folder| folder.join("libfaketimeMT.so.1")).find(|path| path.exists())
}

/// A daemon whose clock is wrong by so many seconds, and put right once it runs.
fn start_with_clock_off(seconds: &str, names: &str) -> Option<Har> {
    let library = libfaketime()?;
    let mut har = har().names(names).prepare();
    let shown = har.folder().join("time");
    fs::write(&shown, seconds).expect("the time is written");
    let mut command = har.command();
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &shown);
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    har.spawn_as(command);
    assert!(har.becomes_ready(), "{}", har.log());
    fs::write(&shown, "+0").expect("the time is put right");
    Some(har)
}

#[test]
fn the_state_file_and_orders_go_by_the_clock_as_it_is_now() {
    if let Some(reason) = missing(&["faketime"]) {
        return skip(&reason);
    }
    let backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 40)]);
    let names = format!(
        "[defaults]\ninterval = \"300ms\"\nfast_interval = \"100ms\"\n[names.\"api.example\"]\n\
         check = \"http://{{address}}:{}/\"\ncandidates = [\"127.0.0.2\", \"127.0.0.3\"]\n",
        backends[0].port()
    );
    for off in ["-7200", "+7200"] {
        let Some(har) = start_with_clock_off(off, &names) else { return skip("libfaketimeMT.so.1 is not there") };
        har.until_a("api.example", "127.0.0.2");
        for time in [
            "heartbeat_at FROM daemon",
            "started_at FROM daemon",
            "since FROM address LIMIT 1",
            "last_check FROM address LIMIT 1",
            "since FROM answer LIMIT 1",
            "at FROM check_history ORDER BY id DESC LIMIT 1",
        ] {
            until_near_now(&har, time);
        }
        wait_for("everything to be well", || (har.run(&["status", "--check"]).code == 0).then_some(()));
        har.run(&["drain", "127.0.0.2", "--for", "30m"]).ok();
        har.until_a("api.example", "127.0.0.3");
        until_near_now(&har, "at FROM event WHERE kind = 'override' ORDER BY id DESC LIMIT 1");
    }
}

fn until_near_now(har: &Har, time: &str) {
    let (column, rest) = time.split_once(" FROM ").expect("a query");
    let query = format!("SELECT abs(julianday('now') - julianday({column})) * 86400 < 60 FROM {rest}");
    har.until_sql(&query, |near| near == "1");
}
