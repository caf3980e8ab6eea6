//! A daemon that nobody asks sleeps, and wakes for what others do to its files.

use std::fs;
use std::time::{Duration, Instant};

use super::harness::{Har, har, wait_for};

/// What is measured in one go; a wake every few seconds is to be seen in it.
const WINDOW: Duration = Duration::from_secs(5);
/// Windows at most: threads of the start end after ten seconds, and the names of the loop test are forgotten after 15.
const WINDOWS: usize = 8;
/// Wake-ups of all threads in a window that are few enough: the counters and the heartbeat every 4 s need two threads.
const FEW: u64 = 5;

/// How often the threads of a daemon went to sleep so far.
fn sleeps(har: &Har) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", har.pid())).expect("the daemon runs");
    let of_task = |status: String| {
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).map(of_task).sum()
}

fn drain(other: &rusqlite::Connection, address: &str) {
    let sql = "INSERT INTO override (kind, target, created_at) VALUES ('drain', ?1, '2026-01-01T00:00:00.000Z')";
    other.execute(sql, [address]).expect("the file can be written");
}

#[test]
fn nobody_wakes_a_daemon_that_has_nothing_to_do_but_whoever_writes_its_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("resolv.conf");
    fs::write(&list, "nameserver 127.0.0.9\n").expect("own folder");
    let names: Vec<String> = (0..10)
        .map(|n| {
            format!("[names.\"n{n}.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.{n}\", \"198.51.100.{n}\"]\n")
        })
        .collect();
    let har = har().upstream_lines(&format!("resolv_conf = {list:?}")).names(&names.concat()).start();
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "20");
    // Somebody has the file open all the time, as a person at a SQL prompt does.
    let other = rusqlite::Connection::open(har.state_path()).expect("the state file is there");
    other.busy_timeout(Duration::from_secs(10)).expect("a time-out");
    har.until_a("n1.example", "192.0.2.1");

    let mut seen = Vec::new();
    while !seen.iter().any(|&count| count <= FEW) {
        assert!(seen.len() < WINDOWS, "wake-ups in {WINDOW:?} each: {seen:?}");
        let before = sleeps(&har);
        // Waiting is the measurement.
        std::thread::sleep(WINDOW);
        seen.push(sleeps(&har).saturating_sub(before));
    }

    // Seen in the log: a query would wake the daemon by itself, and so would the rows that follow the change before.
    let mut took = Vec::new();
    for n in 1..=5 {
        std::thread::sleep(Duration::from_millis(1500));
        drain(&other, &format!("192.0.2.{n}"));
        let begin = Instant::now();
        wait_for("the other address", || har.log().contains(&format!("198.51.100.{n}")).then_some(()));
        took.push(begin.elapsed());
    }
    // A loaded machine may keep some of them waiting; without the kernel's word it is 2.5 s for all but the first.
    took.sort();
    assert!(took[1] < Duration::from_millis(1500), "{took:?}");

    fs::write(folder.path().join("new"), "nameserver 127.0.0.10\n").expect("own folder");
    fs::rename(folder.path().join("new"), &list).expect("own folder");
    wait_for("the new list", || har.log().contains("upstream servers: 127.0.0.10:53").then_some(()));
}
