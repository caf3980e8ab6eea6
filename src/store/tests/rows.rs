//! What is written is what is read: rows, counters, bounds.

use super::*;
use crate::health::OverrideKind;
use crate::health::wall::WallClock;
use crate::os::clock::wall_ms;
use crate::store::base::Base;
use crate::store::batch::{PENDING_RESULTS, Pending};
use crate::store::save::Targets;
use crate::store::writer::ROOM;

#[test]
fn the_writer_says_how_much_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let heard = Heard::default();
    let mut writer = Writer::new(Store::open(&path).unwrap().store, DAY, heard.hooks());
    assert_eq!(writer.room(), ROOM);
    writer.send(complete(3));
    assert_eq!(writer.room(), ROOM - 4, "three addresses and an answer");
    writer.send(complete(3));
    assert_eq!(writer.room(), ROOM - 4, "the same rows");
    let many = (0..ROOM).map(|number| endpoint(&format!("n{number}.example.com"), 1)).collect();
    writer.send(Batch { endpoints: many, ..Batch::default() });
    assert_eq!(writer.room(), 0);
    writer.begin().unwrap();
    assert!(writer.flush(LONG));
    assert_eq!(writer.room(), ROOM, "all is written");
    until("what that took is given back", || *heard.completes.lock().unwrap() == 1);
    writer.send(Batch { endpoints: vec![endpoint("n1.example.com", 1)], ..Batch::default() });
    assert!(writer.flush(LONG) && writer.flush(LONG));
    assert_eq!(*heard.completes.lock().unwrap(), 1, "a few rows leave nothing to give back");
    assert_eq!(count(&path, "SELECT count(*) FROM endpoint"), ROOM as i64 + 3);
}

#[test]
fn what_the_summaries_of_many_took_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let heard = Heard::default();
    let writer = Writer::start(Store::open(&path).unwrap().store, DAY, heard.hooks()).unwrap();
    // Of a slot that is over, so that it is summed up with the batch that brings it.
    let past = Time(wall_ms() - 3_600_000);
    let send = |count: usize, at: Time| {
        let results = (0..count as u32).map(|number| result(number, at, Outcome::Ok, 1)).collect();
        writer.send(Batch { results, ..Batch::default() });
        assert!(writer.flush(LONG) && writer.flush(LONG));
    };
    send(10, past);
    assert_eq!(*heard.completes.lock().unwrap(), 0, "a few rows leave nothing to give back");
    send(ROOM / 2, Time(past.0 + 600_000));
    until("what that took is given back", || *heard.completes.lock().unwrap() == 1);
    assert_eq!(count(&path, "SELECT count(*) FROM check_summary"), ROOM as i64 / 2 + 10);
}

#[test]
fn everything_survives_a_clean_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    let batch = complete(3);
    writer.send(batch.clone());
    assert!(writer.stop(LONG));

    let mut opened = Store::open(&path).unwrap();
    assert_eq!(opened.notes, [""; 0]);
    let stored = opened.store.load(Candidates::Read);
    assert_eq!(stored.notes, [""; 0]);
    assert_eq!(stored.daemon, batch.daemon);
    assert_eq!(stored.names, [(batch.names[0].clone(), batch.name_counters[0].1.clone())]);
    assert_eq!(stored.candidates, batch.candidates);
    assert_eq!(stored.endpoints, batch.endpoints);
    assert_eq!(stored.times_chosen[0], batch.times_chosen[0]);
    assert_eq!(stored.answers, batch.answers);
    assert_eq!(stored.upstreams, batch.upstreams);
    assert_eq!(stored.counters, batch.counters);
    assert_eq!(count(&path, "SELECT count(*) FROM check_history WHERE outcome = 'ok' AND total_ms = 8.0"), 3);
    assert_eq!(count(&path, "SELECT count(*) FROM check_summary WHERE ok = 1 AND p95_ms = 8.0"), 3);
}

#[test]
fn a_complete_batch_removes_what_it_does_not_name_and_keeps_history() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    writer.send(complete(3));
    assert!(writer.flush(LONG));
    let mut less = complete(1);
    (less.results, less.events, less.name_counters, less.times_chosen) = Default::default();
    writer.send(less);
    writer.send(Batch { removed: vec![EndpointKey::of(&endpoint("api.example.com", 9))], ..Batch::default() });
    assert!(writer.stop(LONG));
    assert_eq!(count(&path, "SELECT count(*) FROM address"), 1);
    assert_eq!(count(&path, "SELECT count(*) FROM candidate"), 1);
    assert_eq!(count(&path, "SELECT times_chosen FROM address"), 41);
    assert_eq!(count(&path, "SELECT queries_aaaa FROM name"), 6);
    assert_eq!(count(&path, "SELECT count(*) FROM check_result"), 3);
    assert_eq!(count(&path, "SELECT count(*) FROM event"), 1);
}

#[test]
fn an_address_that_is_gone_and_comes_back_was_never_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    writer.send(complete(2));
    assert!(writer.flush(LONG));
    assert_eq!(count(&path, "SELECT sum(times_chosen) FROM address"), 41);
    let key = EndpointKey::of(&endpoint("api.example.com", 1));
    writer.send(Batch { removed: vec![key.clone()], ..Batch::default() });
    assert!(writer.flush(LONG));
    // Counted before it went, told afterwards.
    writer.send(Batch { times_chosen: vec![(key, 42)], ..Batch::default() });
    assert!(writer.flush(LONG));
    assert_eq!(count(&path, "SELECT count(*) FROM given"), 0);
    writer.send(Batch { endpoints: vec![endpoint("api.example.com", 1)], ..Batch::default() });
    assert!(writer.stop(LONG));
    assert_eq!(count(&path, "SELECT times_chosen FROM address WHERE address = '192.0.2.1'"), 0);
}

/// What traffic alone changes is written every few seconds, for years.
#[test]
fn counting_what_was_given_does_not_rewrite_the_addresses() {
    const NAMES: u32 = 2000;
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(folder.path().join("har.db")).unwrap();
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    connection.execute_batch(include_str!("../schema.sql")).unwrap();
    let save = |batch: Batch| {
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        let mut pending = Pending::default();
        pending.add(batch);
        connection.execute_batch("BEGIN").unwrap();
        crate::store::save::save(&connection, &pending, &Base::default(), &mut Targets::default(), true).unwrap();
        connection.execute_batch("COMMIT").unwrap();
        std::fs::metadata(folder.path().join("har.db-wal")).unwrap().len() / 1000
    };
    let endpoints =
        (0..NAMES).flat_map(|name| (1..=5).map(move |number| endpoint(&format!("n{name}.example"), number)));
    let endpoints: Vec<_> = endpoints.collect();
    let given = |times| endpoints.iter().step_by(5).map(move |record| (EndpointKey::of(record), times)).collect();
    let all = save(Batch { endpoints: endpoints.clone(), times_chosen: given(1), ..Batch::default() });
    let counted = save(Batch { times_chosen: given(2), ..Batch::default() });
    assert!(all > 2500, "{all} kB");
    assert!(counted < 100, "{counted} kB");
    let twice = "SELECT count(*) FROM address WHERE times_chosen = 2";
    assert_eq!(connection.query_row(twice, [], |row| row.get::<_, u32>(0)).unwrap(), NAMES);
}

#[test]
fn waiting_rows_merge_by_key_and_stay_within_bounds() {
    let mut pending = Pending::default();
    for number in 0..PENDING_RESULTS as u64 + 5 {
        let mut changed = endpoint("a.example", 1);
        changed.successes = number as u32;
        let results = vec![result(1, Time(number), Outcome::Ok, 1)];
        pending.add(Batch { endpoints: vec![changed], results, ..Batch::default() });
    }
    assert_eq!(pending.endpoints.len(), 1);
    assert_eq!(pending.results.len(), PENDING_RESULTS);
    assert_eq!(pending.results[0].at, Time(5), "the oldest are given up");
    assert_eq!(pending.dropped, [5, 0]);

    // Put back under what came later: the later row counts, the results are in order.
    let older = std::mem::take(&mut pending);
    let mut later = endpoint("a.example", 1);
    later.successes = 1;
    pending.add(Batch { endpoints: vec![later.clone()], ..Batch::default() });
    pending.put_back(older);
    assert_eq!(pending.endpoints.values().next().unwrap().as_ref().unwrap(), &later);
    assert_eq!(pending.results.len(), PENDING_RESULTS);
}

#[test]
fn only_checks_that_found_the_same_again_are_routine() {
    let now = time::now();
    let said = |change: fn(&mut EndpointRecord)| {
        let mut record = endpoint("a.example", 1);
        change(&mut record);
        Batch { endpoints: vec![record], results: vec![result(1, now, Outcome::Ok, 8)], ..Batch::default() }
    };
    assert!(Batch::default().is_empty() && Batch::default().is_routine());
    assert!(said(|_| ()).is_routine() && !said(|_| ()).is_empty());
    assert!(said(|record| (record.state, record.last_outcome) = (State::Down, Some(Outcome::Timeout))).is_routine());
    let news: [fn(&mut EndpointRecord); 5] = [
        |record| record.last_outcome = Some(Outcome::Timeout),
        |record| record.state = State::Down,
        |record| record.state = State::Unknown,
        |record| record.since = record.last_check.unwrap(),
        |record| record.last_check = None,
    ];
    assert!(news.into_iter().all(|change| !said(change).is_routine()));
    // Each of its other parts is worth a write.
    let whole = complete(1);
    let parts = [
        Batch { complete: true, ..Batch::default() },
        Batch { daemon: whole.daemon, ..Batch::default() },
        Batch { names: whole.names, ..Batch::default() },
        Batch { candidates: whole.candidates, ..Batch::default() },
        Batch { removed: vec![EndpointKey::of(&endpoint("a.example", 1))], ..Batch::default() },
        Batch { answers: whole.answers, ..Batch::default() },
        Batch { name_counters: whole.name_counters, ..Batch::default() },
        Batch { times_chosen: whole.times_chosen, ..Batch::default() },
        Batch { upstreams: whole.upstreams, ..Batch::default() },
        Batch { counters: whole.counters, ..Batch::default() },
        Batch { events: whole.events, ..Batch::default() },
    ];
    for part in parts {
        assert!(!part.is_routine() && !part.is_empty(), "{part:?}");
        let mut pending = Pending::default();
        pending.add(said(|_| ()));
        assert!(!pending.is_pressing());
        pending.add(part);
        pending.add(said(|_| ()));
        assert!(pending.is_pressing());
        // What could not be written is no less of news than what came meanwhile.
        let routine = || {
            let mut pending = Pending::default();
            pending.add(said(|_| ()));
            pending
        };
        let mut newer = routine();
        newer.put_back(routine());
        assert!(!newer.is_pressing());
        pending.put_back(routine());
        assert!(pending.is_pressing());
        newer.put_back(pending);
        assert!(newer.is_pressing());
    }
    // Much of it does not wait.
    let mut pending = Pending::default();
    let results = vec![result(1, now, Outcome::Ok, 8); 63];
    pending.add(Batch { results, ..Batch::default() });
    assert!(!pending.is_pressing());
    pending.add(said(|_| ()));
    assert!(pending.is_pressing());
}

#[test]
fn results_without_news_are_written_before_they_are_late() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    writer.send(complete(1));
    // The second one leaves nothing to be given back, for which the writer would not sleep.
    assert!(writer.flush(LONG) && writer.flush(LONG));
    // Seen from outside: who opens the file makes the writer attentive.
    let log = || std::fs::metadata(path.with_extension("db-wal")).unwrap().len();
    let (before, begin) = (log(), Instant::now());
    writer.send(Batch { results: vec![result(1, time::now(), Outcome::Ok, 8)], ..Batch::default() });
    until("a write", || log() > before);
    // They are promised within 5 s; without a bound of their own it would be half a minute.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(count(&path, "SELECT count(*) FROM check_result"), 2);
}

#[test]
fn results_and_events_are_pruned_by_age_and_number() {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("../schema.sql")).unwrap();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
        INSERT INTO check_result (target_id, at_unix_ms, outcome_code, total_us) SELECT 1, i * 1000, 0, 5 FROM n;
        INSERT INTO event (at, kind, reason) SELECT at, 'state', '' FROM check_result";
    connection.execute_batch(insert).unwrap();
    let count = |table: &str| -> i64 {
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    prune::old_rows(&connection, Time(2_000_000), 1_000_000, 0).unwrap();
    assert_eq!(count("check_result"), 2500, "a step of 500");
    for _ in 0..5 {
        prune::old_rows(&connection, Time(2_000_000), 1_000_000, 0).unwrap();
    }
    assert_eq!(count("check_result"), 2001, "history is 1,000 s: from second 1,000 on");
    prune::to_newest(&connection, "event", 2800, 150).unwrap();
    assert_eq!(count("event"), 2850);
    prune::to_newest(&connection, "event", 2800, 150).unwrap();
    assert_eq!(count("event"), 2800);
}

#[test]
fn overrides_of_others_arrive_and_expired_ones_leave() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, heard) = start(&path);
    until("the first reading", || heard.overrides.lock().unwrap().len() == 1);
    let order = Override {
        id: 0,
        kind: OverrideKind::Drain,
        name: None,
        target: Some("h1.example.com".to_owned()),
        expires_at: Some(time::now().after(Duration::from_millis(800))),
        reason: Some("disk".to_owned()),
        created_by: Some("me".to_owned()),
        created_at: None,
    };
    let overrides = Overrides::open(&path).unwrap();
    let id = overrides.add(&order).unwrap();
    let by_hand = "INSERT INTO override (kind, target, expires_at, reason) VALUES ('drain', 'H2.example.com.',
        datetime('now', '+1 day'), char(27) || '[31mred' || char(10) || 'line')";
    Connection::open(&path).unwrap().execute_batch(by_hand).unwrap();
    until("both overrides", || heard.overrides.lock().unwrap().last().unwrap().len() == 2);
    let last = heard.overrides.lock().unwrap().last().unwrap().clone();
    assert_eq!((last[0].id, last[0].kind, &last[0].target), (id, OverrideKind::Drain, &order.target));
    assert_eq!(last[1].target.as_deref(), Some("h2.example.com"));
    assert_eq!(last[1].reason.as_deref(), Some(" [31mred line"), "nothing that colours a terminal or breaks a line");
    assert!(last[1].expires_at.unwrap() > time::now().after(DAY / 2));
    until("the expired row to leave", || overrides.list().unwrap().len() == 1);
    until("the news of it", || heard.overrides.lock().unwrap().last().unwrap().len() == 1);
    for wrong in [
        "INSERT INTO override (kind, target) VALUES ('drian', 'x')",
        "INSERT INTO override (kind) VALUES ('drain')",
        "INSERT INTO override (kind, target) VALUES ('pin', 'x')",
        "INSERT INTO override (kind, target, expires_at) VALUES ('drain', 'x', 'tomorrow')",
    ] {
        assert!(Connection::open(&path).unwrap().execute_batch(wrong).is_err(), "{wrong}");
    }
    assert_eq!(overrides.remove(None, None, Some("h2.example.com")).unwrap(), 1);
    until("the removal", || heard.overrides.lock().unwrap().last().unwrap().is_empty());
    let told = heard.overrides.lock().unwrap().len();
    writer.send(complete(1));
    assert!(writer.flush(LONG));
    assert!(writer.stop(LONG));
    assert_eq!(heard.overrides.lock().unwrap().len(), told, "own writes are no news");
}

#[test]
fn an_order_after_a_crash_leaves_the_log_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    writer.send(complete(1));
    assert!(writer.flush(LONG));
    // What a crash leaves.
    let crashed = folder.path().join("crashed.db");
    for suffix in ["", "-wal", "-shm"] {
        let named = |path: &Path| std::path::PathBuf::from(format!("{}{suffix}", path.display()));
        std::fs::copy(named(&path), named(&crashed)).unwrap();
    }
    assert!(writer.stop(LONG));
    assert_eq!(Overrides::open(&crashed).unwrap().list().unwrap(), []);
    assert!(folder.path().join("crashed.db-wal").exists() && folder.path().join("crashed.db-shm").exists());
}

#[test]
fn a_row_that_cannot_be_read_spoils_itself_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, heard) = start(&path);
    assert!(writer.flush(LONG), "its tables are there");
    let rows = "INSERT INTO override (id, kind, target) VALUES (1, 'drain', CAST(x'ff' AS TEXT)), (2, 'drain', 'b\u{fc}cher.example');
        INSERT INTO override (id, kind, name, target) VALUES (3, 'drain', '', 'x'), (4, 'drain', NULL, '[2001:DB8::1]')";
    Connection::open(&path).unwrap().execute_batch(rows).unwrap();
    until("the rows that can be read", || heard.overrides.lock().unwrap().last().is_some_and(|all| all.len() == 2));
    let targets: Vec<_> =
        heard.overrides.lock().unwrap().last().unwrap().iter().map(|row| row.target.clone()).collect();
    assert_eq!(targets, [Some("xn--bcher-kva.example".to_owned()), Some("[2001:db8::1]".to_owned())]);
    assert!(writer.stop(LONG));
    let stored = Store::open(&path).unwrap().store.load(Candidates::Read);
    assert_eq!((stored.overrides.len(), stored.ignored_overrides.len(), stored.notes.len()), (2, 2, 0));
}

#[test]
fn every_time_of_a_batch_goes_by_the_wall_clock() {
    let mut batch = complete(2);
    batch.daemon.as_mut().unwrap().stopped_at = Some(Time(5));
    batch.candidates.iter_mut().for_each(|row| row.resolved_at = Some(Time(6)));
    batch.results = vec![result(1, Time(7), Outcome::Ok, 1)];
    batch.events = vec![Event::new(Time(8), EventKind::Daemon, String::new())];
    // Whatever is a time anywhere in it is one million ahead, and nothing else is changed.
    let shifted = batch.clone().by(WallClock::showing(Time(1_000_000), Time(0)));
    let ahead = regex::Regex::new(r"Time\(\s*(\d+)").unwrap();
    let all = |batch: &Batch| -> Vec<u64> {
        ahead.captures_iter(&format!("{batch:?}")).map(|found| found[1].parse().unwrap()).collect()
    };
    let expected: Vec<u64> = all(&batch).into_iter().map(|at| at + 1_000_000).collect();
    assert!(expected.len() >= 10, "{batch:?}");
    assert_eq!(all(&shifted), expected);
    assert_eq!(shifted.by(WallClock::showing(Time(0), Time(1_000_000))), batch);
}
