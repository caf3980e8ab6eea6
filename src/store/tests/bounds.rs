//! What bounds the file, what a refused row costs, and counters of a file that could not be read at the start.

use std::collections::BTreeMap;

use super::*;
use crate::store::base::Base;
use crate::store::batch::Pending;
use crate::store::prune;
use crate::store::save::{self, Targets};
use crate::store::summary::{Summary, slot_of};

fn fresh() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("../schema.sql")).unwrap();
    connection
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn summaries_leave_after_thirty_days_in_small_steps() {
    let connection = fresh();
    let now = Time(1_795_243_500_000);
    let today = slot_of(now);
    let month = 30 * 288;
    // 31 days of one target.
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO check_summary (slot, target_id, checks, ok) SELECT {today} - i, 1, 30, 30 FROM n",
        31 * 288
    );
    connection.execute_batch(&insert).unwrap();
    prune::old_rows(&connection, now, 1000, 0).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM check_summary"), month + 1, "288 rows are less than a step");
    let old = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
         INSERT INTO check_summary (slot, target_id, checks, ok) SELECT {today} - {month} - 1, i, 30, 30 FROM n"
    );
    connection.execute_batch(&old).unwrap();
    for left in [700, 200, 0] {
        prune::old_rows(&connection, now, 1000, 0).unwrap();
        assert_eq!(number(&connection, "SELECT count(*) FROM check_summary"), month + 1 + left);
    }
    assert_eq!(number(&connection, "SELECT min(slot) FROM check_summary"), today - month);
}

#[test]
fn a_million_results_are_kept_and_no_more() {
    let connection = fresh();
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO check_result (id, target_id, at_unix_ms, outcome_code, total_us) SELECT i, 1, i, 0, 5 FROM n",
        RESULT_ROWS + 1200
    );
    connection.execute_batch(&insert).unwrap();
    for left in [700, 200, 0, 0] {
        prune::old_rows(&connection, Time(0), u64::MAX, 0).unwrap();
        assert_eq!(number(&connection, "SELECT count(*) FROM check_result"), RESULT_ROWS + left);
    }
    assert_eq!(number(&connection, "SELECT min(id) FROM check_result"), 1201, "the oldest leave");
    // Pruning keeps up with any rate of new rows.
    let more = "INSERT INTO check_result (target_id, at_unix_ms, outcome_code, total_us)
        SELECT 1, at_unix_ms, 0, 5 FROM check_result ORDER BY id LIMIT 3000";
    connection.execute_batch(more).unwrap();
    prune::old_rows(&connection, Time(0), u64::MAX, 3000).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM check_result"), RESULT_ROWS);
}

/// 1,300 results a second apart that a clock recorded that was ahead, and 2,000 that came after it was put right.
fn after_a_clock_that_was_ahead(ahead_ms: u64) -> Connection {
    let connection = fresh();
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3300)
         INSERT INTO check_result (target_id, at_unix_ms, outcome_code, total_us)
         SELECT 1, i * 1000 + CASE WHEN i > 1300 THEN 0 ELSE {ahead_ms} END, 0, 5 FROM n"
    );
    connection.execute_batch(&insert).unwrap();
    connection
}

#[test]
fn results_leave_though_a_clock_that_was_ahead_recorded_those_before_them() {
    let connection = after_a_clock_that_was_ahead(86_400_000);
    // Nothing that came after them is old yet.
    prune::old_rows(&connection, Time(2_000_000), 1_000_000, 0).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM check_result"), 3300);
    // Second 3,000, and a history of 1,000 s: those of before second 2,000, whatever time the first ones have.
    for left in [2800, 2300, 1800, 1301, 1301] {
        prune::old_rows(&connection, Time(3_000_000), 1_000_000, 0).unwrap();
        assert_eq!(number(&connection, "SELECT count(*) FROM check_result"), left);
    }
    assert_eq!(number(&connection, "SELECT min(at_unix_ms) FROM check_result"), 2_000_000);
    // A clock that is at 1970 takes everything for the future, and nothing for old.
    prune::old_rows(&connection, Time(5), 1000, 0).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM check_result"), 1301);
}

#[test]
fn ten_thousand_events_are_kept() {
    let connection = fresh();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10400)
        INSERT INTO event (at, kind, reason) SELECT '', 'state', '' FROM n";
    connection.execute_batch(insert).unwrap();
    prune::old_rows(&connection, Time(0), u64::MAX, 0).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM event"), EVENT_ROWS);
    assert_eq!(number(&connection, "SELECT min(id) FROM event"), 401);
}

#[test]
fn targets_leave_with_the_last_that_refers_to_them() {
    let connection = fresh();
    let now = Time(1_795_243_500_000);
    let mut pending = Pending::default();
    let days = |days: u64| Time(now.0 - days * 86_400_000);
    for (target, at) in [(1, days(31)), (2, days(29)), (3, now)] {
        let results = vec![result(target, at, Outcome::Ok, 8)];
        pending.add(Batch { results, ..Batch::default() });
    }
    save::save(&connection, &pending, &Base::default(), &mut Targets::default(), true).unwrap();
    prune::targets(&connection, now, 86_400_000).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM check_target"), 2);
    assert_eq!(number(&connection, "SELECT count(*) FROM check_target WHERE address = '192.0.2.1'"), 0);
    // A longer history keeps them longer.
    prune::targets(&connection, now, 86_400_000 * 60).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM check_target"), 2);
}

#[test]
fn a_crash_in_the_midst_of_a_slot_is_summed_up_again() {
    let mut connection = fresh();
    // The beginning of a slot, and an earlier whole one.
    let begin = Time(1_795_243_500_000 / 300_000 * 300_000);
    let mut pending = Pending::default();
    for second in 0..10 {
        let at = Time(begin.0 + second * 1000);
        let outcome = if second == 3 { Outcome::Timeout } else { Outcome::Ok };
        let results = vec![result(1, at, outcome, 10 + second)];
        pending.add(Batch { results, ..Batch::default() });
    }
    let earlier =
        format!("INSERT INTO check_summary (slot, target_id, checks, ok) VALUES ({}, 1, 30, 30)", slot_of(begin) - 1);
    connection.execute_batch(&earlier).unwrap();
    save::save(&connection, &pending, &Base::default(), &mut Targets::default(), true).unwrap();
    // The process died here; the next one goes on in the same slot.
    let mut summary = Summary::default();
    summary.recover(&connection, Time(begin.0 + 15_000)).unwrap();
    summary.add(1, Time(begin.0 + 20_000), Outcome::Ok, 5000);
    summary.save(&mut connection, Time(begin.0 + 311_000), false).unwrap();
    let row = "SELECT checks * 1000000 + ok * 10000 + least_us FROM check_summary ORDER BY slot DESC LIMIT 1";
    assert_eq!(number(&connection, row), 11 * 1_000_000 + 10 * 10_000 + 5000);
    assert_eq!(number(&connection, "SELECT p95_us FROM check_summary ORDER BY slot DESC LIMIT 1"), 19_000);
    assert_eq!(number(&connection, "SELECT count(*) FROM check_summary WHERE checks = 30"), 1);
}

/// The clock is a day ahead for a moment, and har is started anew twice in a slot after it was put right.
#[test]
fn a_slot_goes_on_after_a_restart_whatever_the_clock_was_before() {
    let mut connection = fresh();
    let begin = Time(1_795_243_500_000 / 300_000 * 300_000);
    let tomorrow = Time(begin.0 + 86_400_000);
    let mut targets = Targets::default();
    let mut checked = |connection: &mut Connection, summary: &mut Summary, from: Time, count: u64| {
        let mut pending = Pending::default();
        let results = (0..count).map(|second| result(1, Time(from.0 + second * 1000), Outcome::Ok, 10)).collect();
        pending.add(Batch { results, ..Batch::default() });
        let saved = save::save(connection, &pending, &Base::default(), &mut targets, true).unwrap();
        saved.fresh.into_iter().for_each(|(target, at, outcome, us)| summary.add(target, at, outcome, us));
    };
    let checks = |connection: &Connection, slot: i64| {
        number(connection, &format!("SELECT coalesce(sum(checks), 0) FROM check_summary WHERE slot = {slot}"))
    };
    let mut summary = Summary::default();
    checked(&mut connection, &mut summary, begin, 7);
    checked(&mut connection, &mut summary, tomorrow, 12);
    checked(&mut connection, &mut summary, Time(begin.0 + 20_000), 5);
    // What lies in the future is not kept in memory until it comes.
    summary.save(&mut connection, Time(begin.0 + 30_000), false).unwrap();
    assert_eq!([begin, tomorrow].map(|at| checks(&connection, slot_of(at))), [0, 12]);
    summary.save(&mut connection, Time(begin.0 + 30_000), true).unwrap();
    assert_eq!([begin, tomorrow].map(|at| checks(&connection, slot_of(at))), [12, 12]);
    for (start, sum) in [(40_000, 17), (60_000, 22)] {
        let mut summary = Summary::default();
        summary.recover(&connection, Time(begin.0 + start)).unwrap();
        checked(&mut connection, &mut summary, Time(begin.0 + start), 5);
        summary.save(&mut connection, Time(begin.0 + start + 10_000), true).unwrap();
        assert_eq!([begin, tomorrow].map(|at| checks(&connection, slot_of(at))), [sum, 12]);
    }
    // A start with the clock at 1970 finds nothing to sum up again but the last slot.
    let mut summary = Summary::default();
    summary.recover(&connection, Time(5000)).unwrap();
    assert_eq!(summary.save(&mut connection, Time(5000), true).unwrap(), 1);
    assert_eq!([begin, tomorrow].map(|at| checks(&connection, slot_of(at))), [22, 12]);
}

#[test]
fn slots_at_work_are_whole_however_many_are_checked_and_those_that_wait_are_bounded() {
    let mut connection = fresh();
    let mut summary = Summary::default();
    let begin = Time(1_795_243_500_000 / 300_000 * 300_000);
    let slot = |number: u64| Time(begin.0 + number * 300_000);
    for target in 0..40_000 {
        summary.add(target, slot(0), Outcome::Ok, 1000);
    }
    assert_eq!(summary.save(&mut connection, slot(2), false).unwrap(), 40_000);
    assert_eq!(number(&connection, "SELECT count(*) FROM check_summary"), 40_000);
    // The disk is away for ten slots of 10,000.
    for number in 1..=10 {
        (0..10_000).for_each(|target| summary.add(target, slot(number), Outcome::Ok, 1000));
    }
    summary.save(&mut connection, slot(11), true).unwrap();
    let counts =
        "SELECT group_concat(rows) FROM (SELECT count(*) AS rows FROM check_summary GROUP BY slot ORDER BY slot)";
    let counts: String = connection.query_row(counts, [], |row| row.get(0)).unwrap();
    assert_eq!(counts, "40000,10000,10000,10000,10000", "two that wait beside the two at work");
}

#[test]
fn a_slot_comes_to_the_same_whether_it_is_summed_up_on_the_way_or_at_its_end() {
    let begin = Time(1_795_243_500_000 / 300_000 * 300_000);
    let (usual, large) = ([1, 2, 3, 4, i64::from(u32::MAX)], [1, 2, 3 << 32, 3 << 32 | 1, i64::MAX]);
    // The larger number is more than the list of a slot holds, and fewer for each target than are kept for the percentile.
    for (count, every, spread, targets) in [(200, 10, 7, usual), (200, 10, 7, large), (270_000, 50, 20_000, usual)] {
        let mut connection = fresh();
        let mut summary = Summary::default();
        let mut expected: BTreeMap<i64, (i64, Vec<i64>)> = BTreeMap::new();
        for number in 0..count {
            let target = if number % every == 0 { targets[number / every % 5] } else { 100 + (number % spread) as i64 };
            let us = (number as i64 * 7919) % 5000;
            let outcome = if number % 11 == 0 { Outcome::Timeout } else { Outcome::Ok };
            summary.add(target, begin, outcome, us);
            let (failed, times) = expected.entry(target).or_default();
            if outcome == Outcome::Ok { times.push(us) } else { *failed += 1 }
        }
        summary.save(&mut connection, begin, true).unwrap();
        let mut statement = connection
            .prepare("SELECT target_id, checks, ok, least_us, mean_us, p95_us FROM check_summary ORDER BY target_id")
            .unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, (row.get(3)?, row.get(4)?, row.get(5)?))));
        let rows: Vec<(i64, i64, i64, [Option<i64>; 3])> = rows
            .unwrap()
            .map(|row| row.map(|(id, checks, ok, (a, b, c))| (id, checks, ok, [a, b, c])).unwrap())
            .collect();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(target, (failed, mut times))| {
                times.sort_unstable();
                let mean = times.iter().sum::<i64>().checked_div(times.len() as i64);
                let p95 = (times.len() * 95).div_ceil(100).checked_sub(1).map(|at| times[at]);
                (target, failed + times.len() as i64, times.len() as i64, [times.first().copied(), mean, p95])
            })
            .collect();
        assert_eq!(rows, expected, "{count} of {targets:?}");
    }
}

#[test]
fn a_row_that_is_refused_does_not_keep_the_others_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, heard) = start(&path);
    writer.send(complete(1));
    assert!(writer.flush(LONG));
    // A rule that no event of this kind fulfils.
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TRIGGER no BEFORE INSERT ON event WHEN new.reason = 'bad'
             BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        )
        .unwrap();
    for _ in 0..2 {
        let events = vec![event(time::now(), "bad"), event(time::now(), "good")];
        writer.send(Batch { events, ..Batch::default() });
        assert!(writer.flush(LONG));
    }
    assert_eq!(count(&path, "SELECT count(*) FROM event WHERE reason = 'good'"), 2);
    assert_eq!(count(&path, "SELECT value FROM counter WHERE key = 'rows_refused'"), 2);
    let told: Vec<String> = heard.troubles.lock().unwrap().iter().flatten().cloned().collect();
    assert!(told.len() == 1 && told[0].contains("event") && told[0].contains("not this one"), "{told:?}");
    assert!(writer.stop(LONG));
}

#[test]
fn counters_of_a_file_that_was_locked_at_the_start_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    writer.send(complete(2));
    assert!(writer.stop(LONG));
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut store = Store::open(&path).unwrap().store;
    assert!(store.load(Candidates::Read).names.is_empty());
    let heard = Heard::default();
    let writer = Writer::start(store, DAY, heard.hooks()).unwrap();
    let mut batch = complete(2);
    batch.upstreams[0].queries = 1;
    writer.send(batch.clone());
    other.execute_batch("COMMIT").unwrap();
    drop(other);
    until("the wish for everything", || *heard.resends.lock().unwrap() == 1);
    // Written twice, added once.
    writer.send(batch);
    assert!(writer.flush(LONG));
    assert_eq!(count(&path, "SELECT queries_a * 1000 + answers_forwarded FROM name"), 10_010);
    assert_eq!(count(&path, "SELECT times_chosen FROM address WHERE address = '192.0.2.1'"), 82);
    assert_eq!(count(&path, "SELECT ok FROM address WHERE address = '192.0.2.2'"), 200);
    assert_eq!(count(&path, "SELECT queries * 100 + answers FROM upstream"), 11 * 100 + 18);
    assert_eq!(count(&path, "SELECT value FROM counter WHERE key = 'queries'"), 198);
    // An address that leaves and comes back begins anew.
    writer.send(Batch { removed: vec![EndpointKey::of(&endpoint("api.example.com", 2))], ..Batch::default() });
    assert!(writer.flush(LONG));
    writer.send(Batch { endpoints: vec![endpoint("api.example.com", 2)], ..Batch::default() });
    assert!(writer.stop(LONG));
    assert_eq!(count(&path, "SELECT ok FROM address WHERE address = '192.0.2.2'"), 100);
}
