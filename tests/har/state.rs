//! The state file: read by others while har runs and after it, and har without a good one.

use std::fs;
use std::process::Command;

use crate::harness::{Backend, Har, Mode, har, is_root, missing, skip, wait_for};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]";

/// What `sqlite3 -readonly` prints, as `nobody` where the test may become it.
fn sqlite3(har: &Har, query: &str) -> String {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sqlite3"]);
        command
    } else {
        Command::new("sqlite3")
    };
    let output = command.arg("-readonly").arg(har.state_path()).arg(query).output().expect("sqlite3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn sums_are_kept_without_single_results() {
    let backend = Backend::start("127.0.0.2");
    let names = format!(
        "[names.\"api.example\"]\ncheck = \"http://{{host}}:{}/\"\ncandidates = [\"127.0.0.2\"]\ninterval = \"50ms\"",
        backend.port()
    );
    let mut har = har().server("history = \"0s\"").names(&names).start();
    // On a loaded machine some of them take longer than their 50 ms.
    let checks =
        "SELECT ok, ok + timeout + connect_error + tls_error + response_error + other_error + local_error FROM address";
    har.until_sql(checks, |ok| ok.parse::<u64>().is_ok_and(|ok| ok >= 5));
    assert!(har.stop().success());
    assert_eq!(har.sql("SELECT count(*) FROM check_result"), [["0"]]);
    assert_eq!(har.sql(checks), har.sql("SELECT sum(ok), sum(checks) FROM check_summary"), "each check is in a sum");
}

#[test]
fn anyone_reads_it_while_har_runs_after_a_stop_and_after_a_kill() {
    if let Some(reason) = missing(&["sqlite3", "setpriv"]) {
        return skip(&reason);
    }
    let mut har = har().names(NAMES).start();
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
    let query = "SELECT name, family, address, chosen FROM ranking";
    let row = "api.example|A|192.0.2.7|1";
    assert_eq!(sqlite3(&har, query), row, "while it runs");
    assert!(har.stop().success());
    assert_eq!(sqlite3(&har, query), row, "after a stop");
    har.start();
    // Between two commits, which are half a second apart: what a kill within one leaves is looked at elsewhere.
    let heartbeat = "SELECT heartbeat_at FROM daemon";
    let before = har.sql(heartbeat)[0][0].clone();
    har.until_sql(heartbeat, |now| now != before);
    har.kill9();
    assert_eq!(sqlite3(&har, query), row, "after a kill");
}

#[test]
fn its_rights_do_not_depend_on_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let mut har = har().names(NAMES).prepare();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh", crate::harness::daemon::BINARY, "serve", "--config"]);
    command.arg(har.config_path()).env("NOTIFY_SOCKET", har.notify.path());
    har.spawn_as(command);
    assert!(har.becomes_ready(), "{}", har.log());
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(format!("{:o}", mode(har.state_path())), "644");
    assert_eq!(format!("{:o}", mode(har.folder().join("state"))), "755");
}

#[test]
fn the_documented_columns_are_there() {
    let har = har().names(NAMES).start();
    har.until_sql(
        "SELECT count(*) FROM (SELECT name, family, rank, host, address, state, chosen, latency_ms, connect_ms, \
         total_ms, checks, failures, last_check, last_error FROM ranking)",
        |count| count == "1",
    );
    for table in [
        "daemon",
        "name",
        "candidate",
        "address",
        "override",
        "check_result",
        "check_summary",
        "event",
        "upstream",
        "status",
    ] {
        har.sql(&format!("SELECT * FROM \"{table}\" LIMIT 1"));
    }
    assert_eq!(har.sql("PRAGMA integrity_check"), [["ok"]]);
}

#[test]
fn a_damaged_file_is_moved_aside() {
    for (what, content) in [("text", b"this is no database, this is no database".to_vec()), ("zeroes", vec![0; 8192])] {
        let mut har = har().names(NAMES).prepare();
        fs::create_dir(har.folder().join("state")).unwrap();
        fs::write(har.state_path(), &content).unwrap();
        har.start();
        assert_eq!(har.a("api.example"), "192.0.2.7", "{what}");
        har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
        let moved: Vec<String> = fs::read_dir(har.folder().join("state"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("har.db.damaged-"))
            .collect();
        assert_eq!(moved.len(), 1, "{what}: {moved:?}");
        assert_eq!(fs::read(har.folder().join("state").join(&moved[0])).unwrap(), content, "{what}");
        wait_for("a word about it", || har.log().contains("har.db.damaged-").then_some(()));
    }
}

#[test]
fn a_newer_file_is_not_written() {
    let mut har = har().names(NAMES).start();
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
    assert!(har.stop().success());
    let connection = rusqlite::Connection::open(har.state_path()).unwrap();
    connection.pragma_update(None, "user_version", 1_000_000).unwrap();
    drop(connection);
    let before = fs::read(har.state_path()).unwrap();
    har.start();
    assert_eq!(har.a("api.example"), "192.0.2.7");
    wait_for("a word about it", || har.log().contains("newer").then_some(()));
    assert!(har.stop().success());
    assert_eq!(fs::read(har.state_path()).unwrap(), before);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do() {
    let mut har = har().names(NAMES).prepare();
    // A file where the folder belongs stops root too.
    fs::write(har.folder().join("state"), "").unwrap();
    har.spawn();
    assert_eq!(har.ended().code(), Some(1));
    let log = har.log();
    assert!(log.contains("state") && log.trim_end().lines().count() <= 2, "one line:\n{log}");
}

#[test]
fn a_locked_file_delays_neither_start_nor_answers() {
    let mut har = har().names(NAMES).start();
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
    assert!(har.stop().success());
    let connection = rusqlite::Connection::open(har.state_path()).unwrap();
    connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
    har.start();
    assert_eq!(har.a("api.example"), "192.0.2.7");
    connection.execute_batch("ROLLBACK").unwrap();
    drop(connection);
    assert!(har.stop().success());
}

#[test]
fn a_file_that_is_deleted_comes_back() {
    let har = har().names(NAMES).start();
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
    for file in ["har.db", "har.db-wal", "har.db-shm"] {
        let _ = fs::remove_file(har.folder().join("state").join(file));
    }
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
    assert_eq!(har.a("api.example"), "192.0.2.7");
}

#[test]
fn the_first_heartbeat_after_a_change_tells_of_it() {
    let backend = Backend::start("127.0.0.2");
    let check = format!("check = \"http://{{host}}:{}/\"", backend.port());
    let pace = "interval = \"200ms\"\nfast_interval = \"100ms\"\ncandidates = [\"127.0.0.2\"]";
    let har = har().names(&format!("[names.\"api.example\"]\n{check}\n{pace}")).start();
    let up = "SELECT note FROM daemon, address WHERE state = 'up' AND heartbeat_at > since";
    har.until_sql(up, |note| note.starts_with("1 name, 1 of 1 addresses up"));
    backend.set(Mode::Reset);
    // Both rows of one moment: looked at more often than the heart beats.
    let down = "SELECT note FROM daemon, address WHERE state = 'down' AND heartbeat_at > since";
    let row = har.until_sql(down, |_| true);
    assert!(row[0][0].starts_with("1 name, 0 of 1 addresses up"), "{row:?}");
}
