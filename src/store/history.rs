//! What is recorded of a stretch of time: single results and five-minute sums, read in small pieces.
//!
//! Each piece is a read of its own, so that a running daemon's write-ahead log is never held for long. Results lie in the
//! order in which they came, which is that of time only as long as nobody sets the clock: a clock that was ahead leaves
//! times that are later than those of the rows behind it. So nothing here is found by a row's place but by its time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rusqlite::params;

use super::reader::{ReadError, Reader, worded};
use super::time::from_text;
use super::{RecordedRow, SLOT_S};
use crate::health::Time;

/// Rows that are read at once: a few milliseconds.
const ROWS_AT_ONCE: u32 = 5000;

/// Rows of which the times alone are looked at at once, in the same time.
const TIMES_AT_ONCE: u32 = 50_000;

/// Results are stored in the order in which they were handed over, which may differ from that of time by this much.
const DISORDER_MS: i64 = 120_000;

/// A run of rows in whose midst the clock was not set back: those after the first of these rows up to the second.
type Stretch = (i64, i64);

/// A row of `check_summary`.
#[derive(Clone, Debug, PartialEq)]
pub struct SumRow {
    /// Row of `check_target`.
    pub target: i64,
    /// Its begin.
    pub at: Time,
    /// How many checks.
    pub checks: u64,
    /// How many of them passed.
    pub ok: u64,
    /// The least, the mean and the 95th percentile of those that passed, microseconds.
    pub times_us: Option<[f64; 3]>,
}

/// A check that results are stored of.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedRow {
    /// Row of `check_target`.
    pub id: i64,
    /// The candidate, as stored.
    pub host: String,
    /// The address, as stored.
    pub address: String,
    /// The check in words.
    pub definition: String,
    /// When a result of it came, to five minutes.
    pub last_at: Time,
}

impl CheckedRow {
    /// Whether the check is one of those in `all`, see [`place_among`].
    pub fn is_among(&self, all: &str) -> bool {
        place_among(&self.definition, all).is_some()
    }
}

/// Where a check stands among those in `all`, which are joined by `; ` as in [`crate::health::EndpointRecord`]; 0 = it is
/// the first.
///
/// An address and these words are what a result belongs to: a check that several candidates share is recorded for the first
/// of them alone, and for another one after a reload that takes the first away.
pub fn place_among(definition: &str, all: &str) -> Option<usize> {
    all.match_indices(definition).map(|(start, _)| start).find(|&start| {
        let (before, after) = (&all[..start], &all[start + definition.len()..]);
        (before.is_empty() || before.ends_with("; ")) && (after.is_empty() || after.starts_with("; "))
    })
}

impl Reader {
    /// Everything that results or sums may be stored of.
    pub fn checked(&self) -> Result<Vec<CheckedRow>, ReadError> {
        self.rows("SELECT id, host, address, definition, last_at FROM check_target ORDER BY id", params![], |row| {
            let last_at = from_text(&row.get::<_, String>(4)?).unwrap_or_default();
            Ok(CheckedRow {
                id: row.get(0)?,
                host: row.get(1)?,
                address: row.get(2)?,
                definition: row.get(3)?,
                last_at,
            })
        })
    }

    /// The least time of a single result that is still stored, and the begin of the first sum. Times to come do not count.
    pub fn first_records(&self, now: Time) -> Result<(Option<Time>, Option<Time>), ReadError> {
        let until = i64::try_from(now.0).unwrap_or(i64::MAX);
        let (mut first, mut after) = (None, 0);
        while let Some(last) = self.piece(after, TIMES_AT_ONCE)? {
            let sql = "SELECT min(at_unix_ms) FROM check_result WHERE id > ?1 AND id <= ?2 AND at_unix_ms <= ?3";
            let least =
                self.rows(sql, params![after, last, until], |row| row.get::<_, Option<i64>>(0))?.pop().flatten();
            first = first.into_iter().chain(least).min();
            after = last;
        }
        let sql = "SELECT slot FROM check_summary WHERE slot <= ?1 ORDER BY slot LIMIT 1";
        let sum = self.rows(sql, params![until / 1000 / SLOT_S], |row| row.get::<_, i64>(0))?.pop();
        let time = |ms: i64| Time(u64::try_from(ms).unwrap_or(0));
        Ok((first.map(time), sum.map(|slot| time(slot.saturating_mul(SLOT_S * 1000)))))
    }

    /// Hands every single result from `from` on to `visit`, in the order they are stored in.
    pub fn each_result(&self, from: Time, mut visit: impl FnMut(&RecordedRow)) -> Result<(), ReadError> {
        let mut after = 0;
        while let Some(last) = self.piece(after, ROWS_AT_ONCE)? {
            self.results((after, last), from, ROWS_AT_ONCE)?.iter().for_each(&mut visit);
            after = last;
        }
        Ok(())
    }

    /// Hands every single result to `visit` in the order of time, and says how often the clock was set back between them.
    pub fn each_result_by_time(&self, mut visit: impl FnMut(RecordedRow)) -> Result<usize, ReadError> {
        let mut stretches = self.stretches()?;
        let set_back = stretches.len().saturating_sub(1);
        let at_once = (ROWS_AT_ONCE / u32::try_from(stretches.len()).unwrap_or(u32::MAX).max(1)).max(100);
        let mut rows: Vec<VecDeque<RecordedRow>> = vec![VecDeque::new(); stretches.len()];
        // The next row of each.
        let mut heads = BinaryHeap::new();
        let mut next = |place: usize| -> Result<Option<RecordedRow>, ReadError> {
            let (Some(rows), Some(stretch)) = (rows.get_mut(place), stretches.get_mut(place)) else { return Ok(None) };
            if rows.is_empty() {
                *rows = self.results(*stretch, Time(0), at_once)?.into();
                stretch.0 = rows.back().map_or(stretch.1, |last| last.id);
            }
            Ok(rows.pop_front())
        };
        let mut waiting = Vec::with_capacity(set_back + 1);
        for place in 0..=set_back {
            let row = next(place)?;
            heads.extend(row.iter().map(|row| Reverse((row.at, place))));
            waiting.push(row);
        }
        while let Some(Reverse((_, place))) = heads.pop() {
            let following = next(place)?;
            heads.extend(following.iter().map(|row| Reverse((row.at, place))));
            if let Some(row) = waiting.get_mut(place).and_then(|waiting| std::mem::replace(waiting, following)) {
                visit(row);
            }
        }
        Ok(set_back)
    }

    /// Hands every sum of a slot from the one of `from` on that begins before `to` to `visit`, a slot after the other.
    pub fn each_sum(&self, from: Time, to: Time, mut visit: impl FnMut(&SumRow)) -> Result<(), ReadError> {
        let slot = |time: Time| i64::try_from(time.0 / 1000).unwrap_or(i64::MAX) / SLOT_S;
        let sql = "SELECT slot, target_id, checks, ok, least_us, mean_us, p95_us FROM check_summary
                   WHERE (slot, target_id) > (?1, ?2) AND slot < ?3 ORDER BY slot, target_id LIMIT ?4";
        let (mut after, end) = ((slot(from) - 1, i64::MAX), slot(to));
        loop {
            let rows = self.rows(sql, params![after.0, after.1, end, ROWS_AT_ONCE], |row| {
                Ok((row.get::<_, i64>(0)?, sum(row)?))
            })?;
            rows.iter().for_each(|(_, row)| visit(row));
            match rows.last() {
                Some((slot, row)) if rows.len() == ROWS_AT_ONCE as usize => after = (*slot, row.target),
                _ => return Ok(()),
            }
        }
    }

    /// The last of the next so many rows of `check_result` after the row `after`.
    fn piece(&self, after: i64, rows: u32) -> Result<Option<i64>, ReadError> {
        let sql = "SELECT max(id) FROM (SELECT id FROM check_result WHERE id > ?1 ORDER BY id LIMIT ?2)";
        Ok(self.rows(sql, params![after, rows], |row| row.get(0))?.pop().flatten())
    }

    /// All rows of `check_result`, parted where the clock was set back.
    fn stretches(&self) -> Result<Vec<Stretch>, ReadError> {
        let (mut stretches, mut greatest, mut after): (Vec<Stretch>, _, _) = (Vec::new(), i64::MIN, 0);
        loop {
            let sql = "SELECT id, at_unix_ms FROM check_result WHERE id > ?1 ORDER BY id LIMIT ?2";
            let rows = self
                .rows(sql, params![after, TIMES_AT_ONCE], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
            for &(id, at) in &rows {
                match stretches.last_mut().filter(|_| at >= greatest.saturating_sub(DISORDER_MS)) {
                    Some(stretch) => (stretch.1, greatest) = (id, greatest.max(at)),
                    None => {
                        stretches.push((after, id));
                        greatest = at;
                    }
                }
                after = id;
            }
            if rows.len() < TIMES_AT_ONCE as usize {
                return Ok(stretches);
            }
        }
    }

    fn rows<T>(
        &self,
        sql: &str,
        values: &[&dyn rusqlite::ToSql],
        parse: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, ReadError> {
        let read = || {
            let mut statement = self.connection().prepare_cached(sql)?;
            statement.query_map(values, parse)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| worded(self.path(), &error))
    }
}

fn sum(row: &rusqlite::Row<'_>) -> rusqlite::Result<SumRow> {
    let count = |column: usize| Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0));
    let time = |column: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(|us| us as f64));
    let times_us = match (time(4)?, time(5)?, time(6)?) {
        (Some(least), Some(mean), Some(p95)) => Some([least, mean, p95]),
        _ => None,
    };
    Ok(SumRow {
        target: row.get(1)?,
        at: Time(count(0)?.saturating_mul(SLOT_S as u64 * 1000)),
        checks: count(2)?,
        ok: count(3)?,
        times_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Outcome;
    use crate::store::tests::{LONG, complete, result, start};
    use crate::store::{Batch, time};

    #[test]
    fn a_check_is_found_among_several_and_not_in_a_longer_one() {
        assert_eq!(place_among("tcp:80", "tcp:80"), Some(0));
        assert_eq!(place_among("tcp:80", "http://{host}/; tcp:80"), Some(16));
        assert_eq!(place_among("exec a; b", "exec a; b; tcp:80"), Some(0));
        assert_eq!(place_among("tcp:80", "tcp:8080"), None);
        assert_eq!(place_among("tcp:80", "http://{host}/tcp:80; tcp:443"), None);
    }

    #[test]
    fn a_stretch_of_results_and_sums_is_read_from_its_begin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, _) = start(&path);
        writer.send(complete(1));
        let now = time::now().0;
        // One a second for three hours, more than are read at once.
        let begin = Time(now - 10_800_000);
        let results = (0..10_800u64).map(|second| {
            let outcome = if second % 10 == 0 { Outcome::Timeout } else { Outcome::Ok };
            result(1, Time(begin.0 + second * 1000), outcome, 8)
        });
        writer.send(Batch { results: results.collect(), ..Batch::default() });
        assert!(writer.flush(LONG));
        assert!(writer.stop(LONG));
        let reader = Reader::open(&path).unwrap();
        let hour = Time(now - 3_600_000);
        let mut inside = 0;
        reader
            .each_result(hour, |row| {
                assert!(row.at >= hour);
                inside += 1;
            })
            .unwrap();
        assert!((3599..=3602).contains(&inside), "{inside}");
        let (mut checks, mut slots) = (0, 0);
        reader
            .each_sum(Time(0), Time(now), |sum| {
                checks += sum.checks;
                slots += 1;
                let [least, mean, p95] = sum.times_us.unwrap();
                assert!(least <= mean && mean <= p95);
            })
            .unwrap();
        assert!((35..=37).contains(&slots) && checks > 10_000, "{slots} slots, {checks} checks");
        let (first, slot) = reader.first_records(Time(now)).unwrap();
        assert!(first.is_some() && slot.is_some_and(|slot| slot <= begin));
        assert_eq!(reader.checked().unwrap()[0].definition, "http://{host}/");
    }

    /// The clock is a day ahead for a while, is put right, and is at 1970 for a moment.
    #[test]
    fn rows_are_found_by_their_time_after_the_clock_was_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, _) = start(&path);
        let now = time::now().0;
        let seconds = |begin: u64| (0..100u64).map(move |second| Time(begin + second * 1000));
        // Their times in the order in which they come; more pieces than one of them are read in.
        let times = (seconds(now - 700_000).chain(seconds(now + 86_400_000)).chain(seconds(now - 500_000)))
            .chain((0..10_000).map(|number| Time(1000 + number)))
            .chain(seconds(now - 200_000));
        let results = times.map(|at| result(1, at, Outcome::Ok, 8)).collect();
        writer.send(Batch { results, ..Batch::default() });
        assert!(writer.flush(LONG));
        assert!(writer.stop(LONG));
        let reader = Reader::open(&path).unwrap();
        let mut found = Vec::new();
        reader.each_result(Time(now - 500_000), |row| found.push(row.at)).unwrap();
        let expected: Vec<Time> =
            seconds(now + 86_400_000).chain(seconds(now - 500_000)).chain(seconds(now - 200_000)).collect();
        assert_eq!(found, expected);
        let mut all = Vec::new();
        let set_back = reader.each_result_by_time(|row| all.push(row.at)).unwrap();
        assert_eq!((set_back, all.len(), all.is_sorted()), (2, 10_400, true));
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("DELETE FROM check_result WHERE at_unix_ms < 100000").unwrap();
        assert_eq!(reader.first_records(Time(now)).unwrap().0, Some(Time(now - 700_000)));
        connection.execute_batch("DELETE FROM check_result WHERE id <= 100").unwrap();
        assert_eq!(reader.first_records(Time(now)).unwrap().0, Some(Time(now - 500_000)), "tomorrow is no begin");
    }
}
