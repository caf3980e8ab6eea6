//! Whatever happens to the state file, har answers from memory, says so once and writes again when it can.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Har, har, is_root, missing, namespace, skip, wait_for};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]";

/// `nobody` on every distribution that matters.
const NOBODY: u32 = 65_534;

fn ask(har: &Har, times: usize) {
    for _ in 0..times {
        assert_eq!(har.a("api.example"), "192.0.2.7");
    }
}

/// Waits until the queries in the state file are exactly so many.
#[track_caller]
fn until_counted(har: &Har, queries: usize) {
    har.until_sql("SELECT queries_a FROM name", |count| count == queries.to_string());
    assert_eq!(har.sql("SELECT times_chosen FROM address"), [[queries.to_string()]]);
    assert_eq!(har.sql("SELECT value FROM counter WHERE key = 'received_udp'"), [[queries.to_string()]]);
}

/// Waits for the one line of the log, and the status line, that say what is wrong.
#[track_caller]
fn until_told(har: &Har, word: &str) {
    wait_for(&format!("'{word}' in the log"), || har.log().contains(word).then_some(()));
    wait_for(&format!("'{word}' in STATUS"), || {
        har.notify.messages().iter().any(|line| line.contains("STATUS=") && line.contains(word)).then_some(())
    });
    let log = har.log();
    assert_eq!(log.lines().filter(|line| line.contains(word)).count(), 1, "said once:\n{log}");
}

#[track_caller]
fn until_well(har: &Har) {
    wait_for("that it is written again", || har.log().contains("written again").then_some(()));
    wait_for("a status line without it", || {
        let messages = har.notify.messages();
        let last = messages.iter().rev().find(|line| line.contains("STATUS="))?;
        (!last.contains("state file")).then_some(())
    });
    assert_eq!(har.sql("PRAGMA integrity_check"), [["ok"]]);
}

/// A daemon that has counted five queries and was stopped.
fn stopped() -> Har {
    let mut har = har().names(NAMES).start();
    ask(&har, 5);
    assert!(har.stop().success());
    until_counted(&har, 5);
    har
}

#[test]
fn a_lock_at_the_start_loses_no_count() {
    let mut har = stopped();
    let other = rusqlite::Connection::open(har.state_path()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    har.start();
    ask(&har, 3);
    until_told(&har, "locked");
    ask(&har, 2);
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    until_counted(&har, 10);
    until_well(&har);
    ask(&har, 1);
    until_counted(&har, 11);
    assert!(har.stop().success());
    until_counted(&har, 11);
    har.start();
    ask(&har, 1);
    until_counted(&har, 12);
}

#[test]
fn a_lock_after_a_kill_is_read_past() {
    let mut har = har().names(NAMES).start();
    ask(&har, 5);
    until_counted(&har, 5);
    har.kill9();
    let other = rusqlite::Connection::open(har.state_path()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    har.start();
    ask(&har, 5);
    until_told(&har, "locked");
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    until_counted(&har, 10);
    until_well(&har);
}

#[test]
fn a_lock_held_long_while_it_runs_is_told_once() {
    let har = har().names(NAMES).start();
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
    let other = rusqlite::Connection::open(har.state_path()).unwrap();
    other.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    ask(&har, 5);
    until_told(&har, "locked");
    ask(&har, 5);
    other.execute_batch("ROLLBACK").unwrap();
    until_counted(&har, 10);
    until_well(&har);
}

#[test]
fn a_file_that_is_read_only_is_read_and_written_once_it_can_be() {
    if !is_root() {
        return skip("needs root: a file of another user");
    }
    // A network of its own, since nobody else may take the port while it is stopped.
    namespace::inside(&["setpriv"], read_only);
}

fn read_only() {
    let mut har = stopped();
    let state = har.folder().join("state");
    chown(&state, Some(NOBODY), Some(NOBODY)).expect("own files");
    chown(har.folder(), Some(NOBODY), Some(NOBODY)).expect("own files");
    let binary = har.copy_of_the_binary();
    fs::set_permissions(har.notify.path(), fs::Permissions::from_mode(0o777)).expect("own files");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary);
    command.args(["serve", "--config"]).arg(har.config_path()).env("NOTIFY_SOCKET", har.notify.path());
    command.env_remove("RUST_LOG");
    har.spawn_as(command);
    assert!(har.becomes_ready(), "{}", har.log());
    ask(&har, 5);
    until_told(&har, "read-only");
    assert_eq!(har.sql("SELECT queries_a FROM name"), [["5"]], "not written yet");
    // The row is of a run that ended; who looks is not told that none runs.
    let runs = format!("har runs as process {} but did not write this file", har.pid());
    let status = har.run(&["status"]).ok();
    assert!(status.starts_with(&runs), "{status}");
    let check = har.run_as_nobody(&["status", "--check"]);
    assert!(check.code == 2 && check.out.starts_with(&format!("CRITICAL: {runs}")), "{check:?}");
    let explain = har.run(&["explain", "api.example"]).ok();
    assert!(explain.contains("the daemon that runs may answer otherwise"), "{explain}");
    let order = har.run(&["force-up", "192.0.2.7", "--for", "1h"]).ok();
    assert!(order.contains(&format!("warning: {runs}: it may not follow")), "{order}");
    chown(har.state_path(), Some(NOBODY), Some(NOBODY)).expect("own files");
    until_counted(&har, 10);
    until_well(&har);
    assert!(har.stop().success());
}

#[test]
fn a_folder_that_may_not_be_written_is_the_one_error_and_is_still_read() {
    if !is_root() {
        return skip("needs root: a folder of another user");
    }
    if let Some(reason) = missing(&["setpriv", "sqlite3"]) {
        return skip(&reason);
    }
    let mut har = stopped();
    let binary = har.copy_of_the_binary();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary);
    command.args(["serve", "--config"]).arg(har.config_path());
    har.spawn_as(command);
    assert_eq!(har.ended().code(), Some(1));
    let log = har.log();
    assert!(log.contains("cannot write the folder of the state file") && log.contains("server.state"), "{log}");
    assert_eq!(as_nobody(&har.state_path()), "192.0.2.7");
}

/// What `nobody` reads with the sqlite3 program.
fn as_nobody(path: &Path) -> String {
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sqlite3", "-readonly"])
        .arg(path)
        .arg("SELECT address FROM ranking")
        .output()
        .expect("setpriv starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Writes until nothing more fits; the file is to be removed again.
fn fill(folder: &Path) -> std::path::PathBuf {
    use std::io::Write;
    let path = folder.join("filler");
    let mut file = fs::File::create(&path).expect("a folder with room for a name");
    while file.write_all(&[7; 1024]).is_ok() {}
    path
}

fn tiny_disk(har: &Har, size: &str) -> std::path::PathBuf {
    let folder = har.folder().join("state");
    fs::create_dir(&folder).expect("own folder");
    let status =
        Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&folder).status();
    assert!(status.expect("mount starts").success());
    folder
}

#[test]
fn a_disk_that_is_full_at_the_start() {
    namespace::inside(&[], || {
        let mut har = har().names(NAMES).prepare();
        let folder = tiny_disk(&har, "1m");
        let filler = fill(&folder);
        har.start();
        ask(&har, 5);
        until_told(&har, "full");
        fs::remove_file(filler).unwrap();
        until_counted(&har, 5);
        until_well(&har);
        assert!(har.stop().success());
    });
}

#[test]
fn a_disk_that_fills_while_it_runs() {
    namespace::inside(&[], || {
        let mut har = har().names(NAMES).prepare();
        let folder = tiny_disk(&har, "2m");
        har.start();
        har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
        let filler = fill(&folder);
        ask(&har, 5);
        until_told(&har, "full");
        ask(&har, 5);
        fs::remove_file(filler).unwrap();
        until_counted(&har, 10);
        until_well(&har);
        assert!(har.stop().success());
        assert!(!folder.join("har.db-wal").exists(), "one plain file");
    });
}

#[test]
fn a_file_that_is_deleted_or_replaced_while_open() {
    let har = har().names(NAMES).start();
    ask(&har, 5);
    until_counted(&har, 5);
    fs::remove_file(har.state_path()).unwrap();
    // Over too soon for a status line, as a rule.
    wait_for("a word about it", || har.log().contains("deleted or replaced").then_some(()));
    ask(&har, 5);
    until_counted(&har, 10);
    until_well(&har);
    // Text in its place, as an editor or a wrong redirection would leave it.
    fs::write(har.folder().join("text"), "no database").unwrap();
    fs::rename(har.folder().join("text"), har.state_path()).unwrap();
    ask(&har, 1);
    wait_for("the text to be moved aside", || har.log().contains("har.db.damaged-").then_some(()));
    until_counted(&har, 11);
    assert_eq!(har.sql("PRAGMA integrity_check"), [["ok"]]);
}

#[test]
fn a_log_that_is_deleted_costs_no_order() {
    // Who has the file open keeps har from putting the lost log into it.
    for watched in [false, true] {
        let names = "[names.\"api.example\"]\ncheck = \"none\"\n\
                     candidates = [\"192.0.2.7\", \"192.0.2.8\", \"192.0.2.9\"]";
        let mut har = har().names(names).start();
        har.until_sql("SELECT count(*) FROM ranking", |count| count == "3");
        har.run(&["drain", "192.0.2.7"]).ok();
        har.until_a("api.example", "192.0.2.8");
        let watcher = watched.then(|| {
            let mut follow = har.tool("events");
            let mut watcher = follow.arg("--follow").stdout(Stdio::piped()).spawn().expect("the binary starts");
            let mut out = BufReader::new(watcher.stdout.take().expect("piped"));
            let mut line = String::new();
            out.read_line(&mut line).expect("a pipe");
            assert!(!line.is_empty(), "it has read");
            (watcher, out)
        });
        for journal in ["har.db-wal", "har.db-shm"] {
            fs::remove_file(har.folder().join("state").join(journal)).unwrap();
        }
        // At once by another log, or later by the new one: until then there may be a file without tables.
        wait_for("the drain to be taken", || (har.run(&["drain", "192.0.2.8"]).code == 0).then_some(()));
        har.until_a("api.example", "192.0.2.9");
        wait_for("a word about it", || har.log().contains("was deleted or replaced").then_some(()));
        until_well(&har);
        assert!(har.run(&["status"]).ok().contains("runs as process"), "{watched}");
        if let Some((mut watcher, _)) = watcher {
            watcher.kill().expect("own child");
            watcher.wait().expect("own child");
        }
        assert!(har.stop().success());
        assert_eq!(har.sql("SELECT target FROM override ORDER BY target"), [["192.0.2.7"], ["192.0.2.8"]], "{watched}");
        assert_eq!(har.sql("PRAGMA integrity_check"), [["ok"]]);
    }
}

#[test]
fn garbage_that_is_copied_over_the_open_file_is_noticed() {
    let mut har = har().names(NAMES).start();
    // What is still in the log alone is not lost with the file: it is put into it.
    assert!(har.stop().success());
    har.start();
    ask(&har, 5);
    until_counted(&har, 5);
    // In place, as `cp` does: no other file, and nothing that har reads by itself before long.
    fs::write(har.state_path(), vec![0xa5; 100_000]).unwrap();
    wait_for("it to be moved aside", || har.log().contains("har.db.damaged-").then_some(()));
    ask(&har, 1);
    until_counted(&har, 6);
    assert_eq!(har.sql("PRAGMA integrity_check"), [["ok"]]);
}

#[test]
fn a_directory_in_its_place() {
    let mut har = har().names(NAMES).prepare();
    fs::create_dir_all(har.state_path()).unwrap();
    har.start();
    ask(&har, 5);
    until_told(&har, "not a file");
    let ran = har.run(&["drain", "192.0.2.7"]);
    assert!(ran.code == 1 && ran.err.contains("is not a file") && !ran.err.contains("permission"), "{ran:?}");
    fs::remove_dir(har.state_path()).unwrap();
    until_counted(&har, 5);
    until_well(&har);
}

#[test]
fn damage_of_every_kind_at_the_start() {
    type Damage = fn(&mut Vec<u8>);
    let kinds: [(&str, Damage, bool); 5] = [
        ("header", |bytes| bytes[..16].fill(b'x'), true),
        ("page", |bytes| bytes[4096..].fill(0xa5), true),
        ("truncated", |bytes| bytes.truncate(bytes.len() / 2 / 4096 * 4096), true),
        ("zero length", Vec::clear, false),
        ("text", |bytes| *bytes = b"no database".to_vec(), true),
    ];
    for (kind, damage, aside) in kinds {
        let mut har = stopped();
        let mut bytes = fs::read(har.state_path()).unwrap();
        damage(&mut bytes);
        fs::write(har.state_path(), &bytes).unwrap();
        har.start();
        ask(&har, 3);
        until_counted(&har, 3);
        let moved: Vec<Vec<u8>> = fs::read_dir(har.folder().join("state"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.display().to_string().contains(".damaged-"))
            .map(|path| fs::read(path).unwrap())
            .collect();
        assert_eq!(moved, if aside { vec![bytes] } else { Vec::new() }, "{kind}");
        if aside {
            har.until_log("is damaged");
        }
        assert_eq!(har.log().matches("is damaged").count(), usize::from(aside), "{kind}: {}", har.log());
        assert_eq!(har.sql("PRAGMA integrity_check"), [["ok"]], "{kind}");
    }
}

#[test]
fn damage_while_it_runs_is_moved_aside_with_the_overrides_kept() {
    let har =
        har().names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\", \"192.0.2.8\"]").start();
    ask(&har, 5);
    until_counted_any(&har, "5");
    let other = rusqlite::Connection::open(har.state_path()).unwrap();
    other.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    other.execute_batch("INSERT INTO override (kind, target) VALUES ('drain', '192.0.2.7')").unwrap();
    drop(other);
    har.until_a("api.example", "192.0.2.8");
    // Everything behind the header, as a broken disk would: file and log.
    for file in ["har.db", "har.db-wal"] {
        let path = har.folder().join("state").join(file);
        let length = fs::metadata(&path).unwrap().len();
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0xa5; usize::try_from(length).unwrap().saturating_sub(4096)], 4096).unwrap();
    }
    // Whether a damaged page is met depends on what is read next: a reload reads and writes everything.
    wait_for("the file to be moved aside", || {
        har.signal(Signal::SIGHUP);
        assert_eq!(har.a("api.example"), "192.0.2.8");
        har.log().contains("har.db.damaged-").then_some(())
    });
    har.until_sql("SELECT count(*) FROM override WHERE target = '192.0.2.7'", |count| count == "1");
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "2");
    assert_eq!(har.sql("PRAGMA integrity_check"), [["ok"]]);
    assert_eq!(har.a("api.example"), "192.0.2.8");
}

fn until_counted_any(har: &Har, queries: &str) {
    har.until_sql("SELECT queries_a FROM name", |count| count == queries);
}

#[test]
fn a_newer_schema_is_told_and_left_alone() {
    let mut har = stopped();
    let other = rusqlite::Connection::open(har.state_path()).unwrap();
    other.execute_batch("ALTER TABLE name ADD COLUMN colour TEXT; PRAGMA user_version = 99").unwrap();
    drop(other);
    let before = fs::read(har.state_path()).unwrap();
    har.start();
    ask(&har, 5);
    until_told(&har, "newer har");
    assert!(har.stop().success());
    assert_eq!(fs::read(har.state_path()).unwrap(), before);
}

#[test]
fn a_stop_does_not_wait_for_a_file_that_cannot_be_used() {
    let mut har = har().names(NAMES).prepare();
    fs::create_dir_all(har.state_path()).unwrap();
    har.start();
    ask(&har, 5);
    until_told(&har, "not a file");
    let begin = Instant::now();
    assert!(har.stop().success());
    // A tenth of a second; a file that is only locked gets three.
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    let last = har.log().lines().last().map(str::to_owned).unwrap_or_default();
    assert!(last.contains("the last rows could not be written") && last.contains("not a file"), "{last}");
}
