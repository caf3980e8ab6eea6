//! A daemon that nobody asks sleeps, and wakes for what others do to its files.

use std::fs;
use std::time::{Duration, Instant};

use super::harness::{Backend, Har, har, wait_for};

/// What is measured in one go; a wake every few seconds is to be seen in it.
const WINDOW: Duration = Duration::from_secs(5);
/// Windows at most: threads of the start end after ten seconds, and the names of the loop test are forgotten after 15.
const WINDOWS: usize = 8;
/// Wake-ups of all threads in a window that are few enough: the counters and the heartbeat every 4 s need two threads.
const FEW: u64 = 5;

/// How often the threads of a daemon whose name begins so went to sleep so far.
fn sleeps(har: &Har, thread: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", har.pid())).expect("the daemon runs");
    let of_task = |status: String| {
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let is_it = value("Name:").is_some_and(|name| name.starts_with(thread));
        value("voluntary_ctxt_switches:").filter(|_| is_it).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).map(of_task).sum()
}

/// Waits for a window in which those threads went to sleep so often at most.
fn until_quiet(har: &Har, thread: &str, few: u64) {
    let mut seen = Vec::new();
    while !seen.iter().any(|&count| count <= few) {
        assert!(seen.len() < WINDOWS, "wake-ups in {WINDOW:?} each: {seen:?}");
        let before = sleeps(har, thread);
        // Waiting is the measurement.
        std::thread::sleep(WINDOW);
        seen.push(sleeps(har, thread).saturating_sub(before));
    }
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

    until_quiet(&har, "", FEW);

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

#[test]
fn checks_that_find_the_same_again_do_not_wake_the_writer_one_by_one() {
    let addresses: Vec<String> = (1..=10).map(|n| format!("127.0.50.{n}")).collect();
    // Only connected to.
    let servers = Backend::group(&addresses.iter().map(|address| (address.as_str(), 0)).collect::<Vec<_>>());
    let mut config = format!("[defaults]\ncheck = \"tcp:{}\"\ninterval = \"1s\"\n", servers[0].port());
    for address in &addresses {
        config += &format!("[names.\"n{address}.example\"]\ncandidates = [\"{address}\"]\n");
    }
    let har = har().names(&config).start();
    har.until_sql("SELECT count(*) FROM ranking WHERE state = 'up'", |count| count == "10");
    let results = "SELECT count(*) FROM check_result";
    let before: u64 = har.sql(results)[0][0].parse().expect("a number");
    // Ten results a second and an address for each, in one write every four: two in a window, and a wait for the disk.
    until_quiet(&har, "har-store", 3);
    har.until_sql(results, |count| count.parse::<u64>().is_ok_and(|count| count >= before + 40));
}
