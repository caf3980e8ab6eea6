//! Whatever happens to the file: nothing is lost that could be kept, and har goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::repair::beside;
use super::writer::TICK;
use super::*;

fn populated(path: &Path) {
    let (writer, _) = start(path);
    writer.send(complete(200));
    assert!(writer.stop(LONG));
}

/// A file of two addresses and an override, which its writer knows of.
fn start_drained(path: &Path) -> (Writer, Heard) {
    let (writer, heard) = start(path);
    writer.send(complete(2));
    assert!(writer.flush(LONG));
    drain(path);
    until("the override", || heard.overrides.lock().unwrap().last().is_some_and(|all| all.len() == 1));
    (writer, heard)
}

fn drain(path: &Path) {
    Connection::open(path)
        .unwrap()
        .execute_batch("INSERT INTO override (kind, target) VALUES ('drain', 'h1.example.com')")
        .unwrap();
}

fn moved_aside(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".damaged-") && name.ends_with('Z')).count()
}

#[test]
fn files_and_folders_are_readable_by_everyone() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("a/b/har.db");
    let (writer, _) = start(&path);
    writer.send(complete(1));
    assert!(writer.flush(LONG));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("a")), 0o755);
    assert_eq!(mode(&folder.path().join("a/b")), 0o755);
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&folder.path().join(format!("a/b/har.db{suffix}"))), 0o644, "{suffix}");
    }
    as_another_user(&path, "while har runs");
    // What kill -9 leaves: the files as they are.
    let killed = folder.path().join("killed.db");
    for suffix in ["", "-wal", "-shm"] {
        let [from, to] = [&path, &killed].map(|path| format!("{}{suffix}", path.display()));
        fs::copy(&from, &to).unwrap();
    }
    as_another_user(&killed, "after kill -9");
    assert!(writer.stop(LONG));
    assert!(!folder.path().join("a/b/har.db-wal").exists(), "one plain file after a clean stop");
    as_another_user(&path, "after a clean stop");
    assert_eq!(Reader::open(&path).unwrap().load().unwrap().endpoints.len(), 1);
}

fn as_another_user(path: &Path, when: &str) {
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|done| done.status.success());
    if !nix::unistd::geteuid().is_root() || !has("setpriv") || !has("sqlite3") {
        eprintln!("skipped: reading as another user needs root, setpriv and sqlite3");
        return;
    }
    let done = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sqlite3", "-readonly"])
        .arg(path)
        .arg("SELECT count(*) FROM ranking")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "1\n", "{when}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_umask_does_not_matter() {
    // The umask belongs to the process, so that the test above is run in one of its own.
    let done = Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" --exact store::tests::files::files_and_folders_are_readable_by_everyone"])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn damage_is_moved_aside_and_overrides_are_kept_where_they_can_be_read() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage, bool); 6] = [
        ("header", |bytes| bytes[..16].fill(b'x'), true),
        ("page of the schema", |bytes| bytes[100..4096].fill(0xff), true),
        ("other pages", |bytes| bytes[4096..].fill(0xa5), true),
        ("truncated", |bytes| bytes.truncate(bytes.len() / 2 / 4096 * 4096), true),
        ("text file", |bytes| *bytes = b"not a database at all\n".to_vec(), true),
        ("zero length", Vec::clear, false),
    ];
    for (case, damage, aside) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        populated(&path);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let mut opened = Store::open(&path).unwrap();
        let mut notes = opened.notes;
        notes.extend(opened.store.load(Candidates::Read).notes);
        assert_eq!(moved_aside(folder.path()), usize::from(aside), "{case}: {notes:?}");
        assert_eq!(notes.iter().any(|note| note.contains("is damaged")), aside, "{case}: {notes:?}");
        let writer = Writer::start(opened.store, DAY, Heard::default().hooks()).unwrap();
        writer.send(complete(2));
        assert!(writer.stop(LONG), "{case}");
        assert_eq!(count(&path, "SELECT count(*) FROM address"), 2, "{case}");
    }
}

#[test]
fn a_table_with_a_broken_page_does_not_lose_the_overrides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    populated(&path);
    drain(&path);
    let root = count(&path, "SELECT rootpage FROM sqlite_schema WHERE name = 'endpoint'") as usize;
    let mut bytes = fs::read(&path).unwrap();
    bytes[(root - 1) * 4096..root * 4096].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let mut store = Store::open(&path).unwrap().store;
    let stored = store.load(Candidates::Read);
    assert_eq!(stored.overrides.len(), 1);
    drop(store);
    assert_eq!(moved_aside(folder.path()), 1);
    assert_eq!(count(&path, "SELECT count(*) FROM override WHERE kind = 'drain'"), 1);
}

#[test]
fn a_deleted_file_is_written_again_with_its_overrides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, heard) = start_drained(&path);
    fs::remove_file(&path).unwrap();
    until("the wish for everything", || *heard.resends.lock().unwrap() == 1);
    assert!(heard.troubled("deleted or replaced"));
    writer.send(complete(2));
    assert!(writer.stop(LONG));
    assert_eq!(count(&path, "SELECT count(*) FROM address"), 2);
    assert_eq!(count(&path, "SELECT count(*) FROM override"), 1);
    assert_eq!(heard.troubles.lock().unwrap().last(), Some(&None), "said that it works again");
}

#[test]
fn an_emptied_file_is_written_again_with_its_overrides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, heard) = start_drained(&path);
    // As `> har.db` does: the same file, and SQLite does not look.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    until("the wish for everything", || *heard.resends.lock().unwrap() == 1);
    assert!(heard.troubled("emptied"));
    writer.send(complete(2));
    assert!(writer.flush(LONG));
    assert_eq!(count(&path, "SELECT count(*) FROM address"), 2, "readers find it while har runs");
    assert_eq!(count(&path, "SELECT count(*) FROM override"), 1);
    assert!(writer.stop(LONG));
}

#[test]
fn a_log_that_is_deleted_loses_nothing_and_is_begun_again() {
    for gone in [&["-wal"][..], &["-shm"], &["-wal", "-shm"]] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, heard) = start_drained(&path);
        gone.iter().for_each(|suffix| fs::remove_file(beside(&path, suffix)).unwrap());
        // As the poller does every few seconds.
        writer.send(Batch { daemon: Some(daemon()), ..Batch::default() });
        until("the wish for everything", || *heard.resends.lock().unwrap() == 1);
        assert!(heard.troubled("was deleted or replaced"), "{gone:?}");
        // As `har drain` does, by another process.
        assert_eq!(count(&path, "SELECT count(*) FROM override"), 1, "{gone:?}");
        assert_eq!(count(&path, "SELECT count(*) FROM event"), 1, "{gone:?}: what was in the log alone");
        Connection::open(&path)
            .unwrap()
            .execute_batch("INSERT INTO override (kind, target) VALUES ('drain', 'h2.example.com')")
            .unwrap();
        until("the second one", || heard.overrides.lock().unwrap().last().is_some_and(|all| all.len() == 2));
        assert!(writer.stop(LONG), "{gone:?}");
        assert_eq!(count(&path, "SELECT count(*) FROM override"), 2, "{gone:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{gone:?}: one plain file");
    }
}

#[test]
fn what_was_found_in_its_place_is_told_too_and_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, heard) = start_drained(&path);
    let foreign = folder.path().join("foreign");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    fs::rename(&foreign, &path).unwrap();
    until("the reason", || heard.troubled("database of some other program"));
    assert!(heard.troubled("deleted or replaced"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    until("the next reason", || heard.troubled("is not a file"));
    // Some attempts more find the same.
    std::thread::sleep(5 * TICK);
    let told: Vec<_> = heard.troubles.lock().unwrap().clone();
    assert_eq!(told.len(), 3, "{told:?}");
    fs::remove_dir(&path).unwrap();
    until("a word that all is well", || heard.troubles.lock().unwrap().last() == Some(&None));
    assert!(writer.stop(LONG));
}

#[test]
fn a_directory_in_its_place_and_then_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    fs::create_dir(&path).unwrap();
    let opened = Store::open(&path).unwrap();
    assert!(opened.notes[0].contains("not a file") && opened.notes[0].contains("in memory"), "{:?}", opened.notes);
    let heard = Heard::default();
    let writer = Writer::start(opened.store, DAY, heard.hooks()).unwrap();
    writer.send(complete(2));
    assert!(!writer.flush(Duration::from_millis(100)));
    fs::remove_dir(&path).unwrap();
    until("the wish for everything", || *heard.resends.lock().unwrap() == 1);
    assert!(writer.stop(LONG), "what waited is written");
    assert_eq!(count(&path, "SELECT count(*) FROM address"), 2);
}

#[test]
fn a_lock_held_by_somebody_delays_nobody_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    writer.send(complete(2));
    assert!(writer.flush(LONG));
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let begun = Instant::now();
    writer.send(Batch { results: vec![result(1, time::now(), Outcome::Timeout, 2000)], ..Batch::default() });
    // The lock is held until long after.
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(!writer.flush(Duration::from_millis(300)));
    other.execute_batch("COMMIT").unwrap();
    assert!(writer.flush(LONG));
    assert_eq!(count(&path, "SELECT count(*) FROM check_result WHERE outcome = 'timeout'"), 1);
    drop(other);
    assert!(writer.stop(LONG));
}

#[test]
fn a_lock_at_start_means_memory_and_then_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    populated(&path);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let opened = Store::open(&path).unwrap();
    assert!(opened.notes[0].contains("locked"), "{:?}", opened.notes);
    let heard = Heard::default();
    let writer = Writer::start(opened.store, DAY, heard.hooks()).unwrap();
    other.execute_batch("COMMIT").unwrap();
    until("the wish for everything", || *heard.resends.lock().unwrap() == 1);
    drop(other);
    assert!(writer.stop(LONG));
}

#[test]
fn a_new_file_gets_its_tables_from_the_writer_so_that_no_answer_waits_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let mut opened = Store::open(&path).unwrap();
    assert_eq!(opened.notes, [""; 0]);
    assert_eq!(opened.store.load(Candidates::Read).names.len(), 0);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "nothing was written or synced so far");
    let heard = Heard::default();
    let writer = Writer::start(opened.store, DAY, heard.hooks()).unwrap();
    writer.send(complete(3));
    assert!(writer.stop(LONG));
    assert_eq!(count(&path, "SELECT count(*) FROM address"), 3);
    assert_eq!((heard.troubles.lock().unwrap().len(), *heard.resends.lock().unwrap()), (0, 0));
    assert_eq!(count(&path, "PRAGMA user_version"), migrate::VERSION);
}

#[test]
fn a_command_waits_for_the_tables_of_a_file_that_was_just_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let store = Store::open(&path).unwrap().store;
    let error = Overrides::open(&path).err().unwrap().to_string();
    assert!(error.ends_with("is not a state file of har (or not begun yet)"), "{error}");
    let (begun, beginning) = std::sync::mpsc::channel();
    let theirs = path.clone();
    let commands = std::thread::spawn(move || {
        begun.send(()).unwrap();
        (Reader::open(&theirs).map(drop), Overrides::open(&theirs).map(drop))
    });
    beginning.recv().unwrap();
    let writer = Writer::start(store, DAY, Heard::default().hooks()).unwrap();
    let (read, ordered) = commands.join().unwrap();
    assert!(read.is_ok() && ordered.is_ok(), "{read:?} {ordered:?}");
    assert!(writer.stop(LONG));
}

#[test]
fn a_start_that_ends_early_leaves_a_new_file_with_tables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    drop(Store::open(&path).unwrap());
    assert_eq!(count(&path, "SELECT count(*) FROM address"), 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "and no journal beside it");
}

#[test]
fn a_newer_schema_is_read_and_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    populated(&path);
    let newer = "ALTER TABLE endpoint ADD COLUMN shoe_size INTEGER; DROP TABLE upstream; PRAGMA user_version = 7";
    Connection::open(&path).unwrap().execute_batch(newer).unwrap();
    let before = fs::read(&path).unwrap();
    let mut opened = Store::open(&path).unwrap();
    assert!(opened.notes[0].contains("newer har (schema 7"), "{:?}", opened.notes);
    let stored = opened.store.load(Candidates::Read);
    assert_eq!((stored.endpoints.len(), stored.notes.len()), (200, 1));
    let writer = Writer::start(opened.store, DAY, Heard::default().hooks()).unwrap();
    writer.send(complete(1));
    assert!(!writer.stop(Duration::from_millis(100)));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(Reader::open(&path).unwrap().load().unwrap().endpoints.len(), 200);
}

#[test]
fn a_full_disk_is_told_once_and_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    drop(Store::open(&path).unwrap());
    let mut store = Store::open(&path).unwrap().store;
    let pages = "SELECT page_count FROM pragma_page_count";
    let connection = store.connection.as_mut().unwrap();
    let used: i64 = connection.query_row(pages, [], |row| row.get(0)).unwrap();
    connection.query_row(&format!("PRAGMA max_page_count = {used}"), [], |_| Ok(())).unwrap();
    let heard = Heard::default();
    let writer = Writer::start(store, DAY, heard.hooks()).unwrap();
    writer.send(complete(500));
    // The writer opens the file again after a while, which lifts the limit of that connection.
    until("the end of the shortage", || heard.troubles.lock().unwrap().len() == 2);
    assert!(writer.flush(LONG));
    assert!(heard.troubled("full"), "{:?}", heard.troubles.lock().unwrap());
    assert_eq!(heard.troubles.lock().unwrap().len(), 2, "once when it began, once when it was over");
    assert_eq!(*heard.resends.lock().unwrap(), 0, "nothing was lost");
    assert!(writer.stop(LONG));
    assert_eq!(count(&path, "SELECT count(*) FROM address"), 500);
    assert_eq!(count(&path, "SELECT count(*) FROM check_result"), 500);
}

#[test]
fn a_folder_that_cannot_be_made_is_the_one_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = Store::open(&folder.path().join("file/sub/har.db")).err().unwrap().to_string();
    assert!(error.contains("file/sub") && error.contains("server.state"), "{error}");
}

#[test]
fn readers_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    assert!(Reader::open(&path).err().unwrap().to_string().contains("is har running"));
    assert!(Overrides::open(&path).err().unwrap().to_string().contains("is har running"));
    fs::write(&path, "hello, I am no database, but I am long enough to be looked at").unwrap();
    assert!(Reader::open(&path).err().unwrap().to_string().contains("damaged"));
    fs::write(&path, "").unwrap();
    assert!(Reader::open(&path).err().unwrap().to_string().contains("not a state file"));
}

#[test]
fn a_reader_that_looks_on_does_not_spoil_a_clean_stop() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    writer.send(complete(1));
    assert!(writer.flush(LONG));
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.load().unwrap().endpoints.len(), 1);
    assert!(writer.stop(LONG));
    as_another_user(&path, "with a reader at the stop");
    drop(reader);
    as_another_user(&path, "after the reader has gone");
}

#[test]
fn files_of_every_version_are_read() {
    let files = [include_str!("data/version-1.sql"), include_str!("data/version-2.sql")];
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new.db");
    drop(Store::open(&new).unwrap());
    for (version, dump) in (1..).zip(files) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        Connection::open(&path).unwrap().execute_batch(dump).unwrap();
        assert_eq!(count(&path, "PRAGMA user_version"), version);
        let mut opened = Store::open(&path).unwrap();
        let stored = opened.store.load(Candidates::Read);
        assert_eq!((opened.notes.len(), stored.notes), (0, Vec::new()));
        assert_eq!((stored.names.len(), stored.endpoints.len(), stored.overrides.len()), (1, 2, 1));
        assert_eq!(stored.endpoints[0].latency_ms, Some(9.25));
        assert_eq!(stored.times_chosen.iter().map(|(_, times)| *times).collect::<Vec<_>>(), [41], "never is nothing");
        drop(opened);
        assert_eq!(schema_of(&path), schema_of(&new), "version {version} is brought to what a new file has");
    }
}

#[test]
fn another_daemon_that_writes_the_same_file_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    let parent = nix::unistd::getppid().as_raw() as u32;
    let mut batch = complete(1);
    // Itself, a process that runs, one that does not, and one that has stopped in order.
    let cases = [
        (std::process::id(), None, None),
        (parent, None, Some(parent)),
        (i32::MAX as u32, None, None),
        (parent, Some(time::now()), None),
    ];
    for (pid, stopped_at, expected) in cases {
        let daemon = batch.daemon.as_mut().unwrap();
        (daemon.pid, daemon.stopped_at, daemon.heartbeat_at) = (pid, stopped_at, time::now());
        writer.send(batch.clone());
        assert!(writer.flush(LONG));
        assert_eq!(Reader::open(&path).unwrap().load().unwrap().other_writer(), expected, "{pid} {stopped_at:?}");
    }
    assert!(writer.stop(LONG));
}

#[test]
fn a_number_that_another_process_has_by_now_is_not_the_daemons() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    let mut batch = complete(1);
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    // How long ago the heart beat: a child of this moment has written none of an hour ago.
    for (pid, ago_ms, life) in [
        (child.id(), 3_600_000, Life::Gone),
        (child.id(), 0, Life::Running),
        // The first process of this host is older.
        (1, 16_000, Life::Silent),
    ] {
        let daemon = batch.daemon.as_mut().unwrap();
        (daemon.pid, daemon.heartbeat_at) = (pid, Time(time::now().0 - ago_ms));
        writer.send(batch.clone());
        assert!(writer.flush(LONG));
        assert_eq!(Reader::open(&path).unwrap().load().unwrap().life(), life, "{ago_ms} ms ago");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(writer.stop(LONG));
}

#[test]
fn right_after_a_stop_a_command_waits_for_the_next_daemons_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    let mut batch = complete(1);
    let mut stopped = |writer: &Writer, ago_ms| {
        batch.daemon.as_mut().unwrap().stopped_at = Some(Time(time::now().0 - ago_ms));
        writer.send(batch.clone());
        assert!(writer.flush(LONG));
    };
    stopped(&writer, 0);
    assert!(writer.stop(LONG));
    let looking = std::thread::spawn({
        let path = path.clone();
        move || Reader::current(&path).unwrap().life()
    });
    std::thread::sleep(Duration::from_millis(100));
    let (writer, _) = start(&path);
    writer.send(complete(1));
    assert!(writer.flush(LONG));
    assert_eq!(looking.join().unwrap(), Life::Running);
    // Of a stop that is over, nothing is waited for.
    stopped(&writer, 60_000);
    let begun = Instant::now();
    assert_eq!(Reader::current(&path).unwrap().life(), Life::Stopped);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert!(writer.stop(LONG));
}

/// Every table, view and trigger with its columns, and the version.
fn schema_of(path: &Path) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let sql = "SELECT s.type || ' ' || s.name || ' ' || coalesce(c.name || ' ' || c.type || c.\"notnull\" || c.pk || c.hidden, '')
               FROM sqlite_schema s LEFT JOIN pragma_table_xinfo(s.name) c
               UNION ALL SELECT 'version ' || user_version FROM pragma_user_version ORDER BY 1";
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}
