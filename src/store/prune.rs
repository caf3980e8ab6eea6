//! What leaves the state file by its age or number, a bounded step with each batch.
//!
//! Mostly nothing does: a look at the ends of a table comes before a deletion, which costs many times as much though it
//! finds nothing. All statements are prepared at the first look, as in [`super::save`].

use rusqlite::{Connection, OptionalExtension};

use super::summary::slot_of;
use super::time::to_text;
use super::{EVENT_ROWS, RESULT_ROWS, SLOT_S, SUMMARY_DAYS};
use crate::health::Time;

/// Old rows that one transaction deletes at least, when there are any: a few milliseconds of work.
const PRUNE_STEP: i64 = 500;

/// Deletes what is too old or too much, a bounded step at a time. `inserted` results came in this
/// transaction, so that pruning keeps up with any rate.
pub(super) fn old_rows(connection: &Connection, now: Time, history_ms: u64, inserted: usize) -> rusqlite::Result<()> {
    let step = PRUNE_STEP.max(2 * inserted as i64);
    results(connection, now, history_ms, step)?;
    summaries(connection, slot_of(now) - SUMMARY_DAYS * 86_400 / SLOT_S, step)?;
    for (table, rows) in [("check_result", RESULT_ROWS), ("event", EVENT_ROWS)] {
        to_newest(connection, table, rows, step)?;
    }
    Ok(())
}

/// Deletes summaries from before a slot.
fn summaries(connection: &Connection, oldest: i64, step: i64) -> rusqlite::Result<()> {
    let mut look = connection.prepare_cached("SELECT min(slot) FROM check_summary")?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM check_summary WHERE (slot, target_id) IN
         (SELECT slot, target_id FROM check_summary WHERE slot < ?1 ORDER BY slot, target_id LIMIT ?2)",
    )?;
    let first: Option<i64> = look.query_row([], |row| row.get(0))?;
    if first.is_some_and(|first| first < oldest) {
        delete.execute([oldest, step])?;
    }
    Ok(())
}

/// Deletes results that are too old.
///
/// They lie in the order in which they came, and times are those of the clock at that time. One that was ahead leaves
/// rows of times to come before those that came later: they leave with the first that has a time of before now.
fn results(connection: &Connection, now: Time, history_ms: u64, step: i64) -> rusqlite::Result<()> {
    let mut look =
        connection.prepare_cached("SELECT id, at_unix_ms FROM check_result WHERE id >= ?1 ORDER BY id LIMIT 1")?;
    let mut newest = connection.prepare_cached("SELECT max(id) FROM check_result")?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM check_result WHERE (id < ?1 OR at_unix_ms < ?2)
         AND id IN (SELECT id FROM check_result ORDER BY id LIMIT ?3)",
    )?;
    let mut from = |id: i64| look.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional();
    let now = i64::try_from(now.0).unwrap_or(i64::MAX);
    let since = now.saturating_sub_unsigned(history_ms);
    let Some((mut low, mut at)) = from(i64::MIN)? else { return Ok(()) };
    let mut first: i64 = low;
    if at > now {
        let mut high = newest.query_row([], |row| row.get::<_, i64>(0))?.saturating_add(1);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            match from(middle)?.filter(|(_, at): &(i64, i64)| *at <= now) {
                Some(found) => {
                    (first, at) = found;
                    high = middle;
                }
                None => low = middle,
            }
        }
    }
    if at < since {
        delete.execute([first, since, step])?;
    }
    Ok(())
}

/// Keeps the newest `rows` of a table whose ids only grow.
pub(super) fn to_newest(connection: &Connection, table: &str, rows: i64, step: i64) -> rusqlite::Result<()> {
    let ends = format!("SELECT (SELECT min(id) FROM {table}), (SELECT max(id) FROM {table})");
    let mut look = connection.prepare_cached(&ends)?;
    let mut delete = connection.prepare_cached(&format!("DELETE FROM {table} WHERE id < ?1"))?;
    let ends = look.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)): (Option<i64>, Option<i64>) = ends else { return Ok(()) };
    let keep_from = last.saturating_sub(rows).saturating_add(1);
    if first < keep_from {
        delete.execute([keep_from.min(first.saturating_add(step))])?;
    }
    Ok(())
}

/// Forgets targets that nothing refers to any more; cheap enough for once an hour.
pub(super) fn targets(connection: &Connection, now: Time, history_ms: u64) -> rusqlite::Result<()> {
    let kept_ms = (SUMMARY_DAYS * 86_400_000) as u64;
    let slack_ms = 2 * SLOT_S as u64 * 1000;
    let since = Time(now.0.saturating_sub(kept_ms.max(history_ms) + slack_ms));
    connection.execute("DELETE FROM check_target WHERE last_at < ?1", [to_text(since)])?;
    Ok(())
}
