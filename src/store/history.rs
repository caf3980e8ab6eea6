//! What is recorded of a stretch of time: single results and five-minute sums, read in small pieces.
//!
//! Each piece is a read of its own, so that a running daemon's write-ahead log is never held for long.

use rusqlite::params;

use super::reader::{ReadError, Reader, worded};
use super::{RecordedRow, SLOT_S};
use crate::health::Time;

/// Rows that are read at once: a few milliseconds.
const ROWS_AT_ONCE: u32 = 5000;

/// Results are stored in the order in which they were handed over, which may differ from that of time by this much.
const DISORDER_MS: u64 = 120_000;

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
        self.rows("SELECT id, host, address, definition FROM check_target ORDER BY id", params![], |row| {
            Ok(CheckedRow { id: row.get(0)?, host: row.get(1)?, address: row.get(2)?, definition: row.get(3)? })
        })
    }

    /// When the first single result that is still stored ended, and the begin of the first sum.
    pub fn first_records(&self) -> Result<(Option<Time>, Option<Time>), ReadError> {
        let result = "SELECT at_unix_ms FROM check_result ORDER BY id LIMIT 1";
        let sum = "SELECT slot FROM check_summary ORDER BY slot LIMIT 1";
        let result = self.rows(result, params![], |row| row.get::<_, i64>(0))?.pop();
        let sum = self.rows(sum, params![], |row| row.get::<_, i64>(0))?.pop();
        let time = |ms: i64| Time(u64::try_from(ms).unwrap_or(0));
        Ok((result.map(time), sum.map(|slot| time(slot.saturating_mul(SLOT_S * 1000)))))
    }

    /// Hands every single result from `from` on to `visit`, in the order they are stored in. Some before `from` may be among them.
    pub fn each_result(&self, from: Time, mut visit: impl FnMut(&RecordedRow)) -> Result<(), ReadError> {
        let mut after = self.last_before(from)?;
        loop {
            let rows = self.results(after, ROWS_AT_ONCE)?;
            rows.iter().for_each(&mut visit);
            match rows.last() {
                Some(last) if rows.len() == ROWS_AT_ONCE as usize => after = last.id,
                _ => return Ok(()),
            }
        }
    }

    /// Hands every sum of a slot that begins in `from..to` to `visit`, a slot after the other.
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

    /// A row before all results that ended at `from` or later: found by halving, since rows lie in order of time.
    fn last_before(&self, from: Time) -> Result<i64, ReadError> {
        let bounds = self.rows("SELECT min(id), max(id) FROM check_result", params![], |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?))
        })?;
        let Some((Some(mut low), Some(mut high))) = bounds.first().copied() else { return Ok(0) };
        let early = i64::try_from(from.0.saturating_sub(DISORDER_MS)).unwrap_or(i64::MAX);
        low -= 1;
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            let sql = "SELECT at_unix_ms FROM check_result WHERE id >= ?1 ORDER BY id LIMIT 1";
            let at = self.rows(sql, params![middle], |row| row.get::<_, i64>(0))?.pop();
            if at.is_some_and(|at| at < early) { low = middle } else { high = middle }
        }
        Ok(low)
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
        let (mut inside, mut before) = (0u64, 0u64);
        reader.each_result(hour, |row| *(if row.at >= hour { &mut inside } else { &mut before }) += 1).unwrap();
        assert!((3599..=3602).contains(&inside), "{inside}");
        assert!(before <= DISORDER_MS / 1000 + 1, "the older ones are not read: {before}");
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
        let (first, slot) = reader.first_records().unwrap();
        assert!(first.is_some() && slot.is_some_and(|slot| slot <= begin));
        assert_eq!(reader.checked().unwrap()[0].definition, "http://{host}/");
    }
}
