//! Five minutes of results in one row: what `check_summary` keeps after single results are gone.
//!
//! A slot is summed up in memory and written when it is over, and at the end of the process. What a crash
//! interrupts is summed up again from the results that were written; with `history = "0s"`, where there
//! are none, the fuller row of the two is kept.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, TransactionBehavior, params};

use super::SLOT_S;
use crate::health::few::Few;
use crate::health::{Outcome, Time};
use crate::os;

/// Times of one slot that are kept for the percentile: one check every 100 ms, which is below any interval.
const SAMPLES_MAX: usize = 3000;

/// Rows of slots that are over and wait for the disk at most: a day of 100 addresses.
const WAITING_MAX: usize = 28_800;

/// Rows in a row of other times than those that are looked for: a clock that was set leaves some in the midst of a slot.
const STRAYS: usize = 3000;

/// How long after its end a slot is written: results come a tick late.
const GRACE_MS: u64 = 10_000;

/// What came of one target's checks in a slot. There is one for each address that is checked, which may be 50,000.
#[derive(Default)]
struct Row {
    checks: u32,
    ok: u32,
    sum_us: u64,
    samples_us: Few<u32>,
}

/// Results of a slot that lie in a list before they are summed up by target: 2 MB, five results of 50,000 addresses.
const LATEST_MAX: usize = 1 << 18;

/// One result. Of 50,000 addresses that are each checked once a minute, a list of these takes a third of the memory that
/// a table of rows does.
struct Sample {
    target: u32,
    us: Us,
}

/// How long a check took that was successful, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Us(u32);

/// The results of a slot.
#[derive(Default)]
struct Slot {
    latest: Vec<Sample>,
    /// What came before them. Being one large table, it leaves no holes in the memory when the slot is over.
    rows: HashMap<i64, Row>,
}

/// The slots that are not over, or not written.
#[derive(Default)]
pub(super) struct Summary {
    slots: BTreeMap<i64, Slot>,
}

/// The slot of a time.
pub(super) fn slot_of(at: Time) -> i64 {
    i64::try_from(at.0 / 1000).unwrap_or(i64::MAX) / SLOT_S
}

impl Summary {
    /// Counts one result of a target.
    pub fn add(&mut self, target: i64, at: Time, outcome: Outcome, total_us: i64) {
        if outcome == Outcome::LocalError {
            return; // says nothing about the candidate
        }
        let us = Us::new((outcome == Outcome::Ok).then_some(total_us));
        self.slots.entry(slot_of(at)).or_default().add(target, us);
        self.forget();
    }

    /// Lets the oldest slots go when too much waits. The last two are at work: the one that goes on, and the one before
    /// it within its grace.
    fn forget(&mut self) {
        if self.slots.len() <= 2 {
            return;
        }
        self.slots.values_mut().rev().skip(2).for_each(Slot::sum_up);
        while self.slots.values().rev().skip(2).map(|slot| slot.rows.len()).sum::<usize>() > WAITING_MAX {
            self.slots.pop_first();
        }
    }

    /// Sums up again what a crash or a stop left in single results but not in whole slots: those from the last slot that
    /// is there to that of the newest result, and the present one, which goes on. A slot to come is none of them, unless
    /// the clock was ahead until the end.
    pub fn recover(&mut self, connection: &Connection, now: Time) -> rusqlite::Result<()> {
        self.slots.clear();
        let present = slot_of(now);
        let mut statement = connection
            .prepare("SELECT target_id, at_unix_ms, outcome_code, total_us FROM check_result ORDER BY id DESC")?;
        let mut rows = statement.query([])?;
        let (mut wanted, mut strays) = (None, 0);
        while let Some(row) = rows.next()? {
            let at = Time(u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0));
            let slot = slot_of(at);
            let wanted = match &wanted {
                Some(wanted) => wanted,
                None => {
                    // The last slot that is there may have been written by a stop in its midst.
                    let last = "SELECT max(slot) FROM check_summary WHERE slot <= ?1";
                    let last: Option<i64> = connection.query_row(last, [slot], |row| row.get(0))?;
                    wanted.insert(last.unwrap_or(i64::MIN)..=slot)
                }
            };
            if !wanted.contains(&slot) && !(present - 1..=present).contains(&slot) {
                strays += 1;
                if strays > STRAYS {
                    break;
                }
                continue;
            }
            strays = 0;
            let outcome = usize::try_from(row.get::<_, i64>(2)?).ok().and_then(|code| Outcome::ALL.get(code));
            self.add(row.get(0)?, at, outcome.copied().unwrap_or(Outcome::LocalError), row.get(3)?);
        }
        Ok(())
    }

    /// Writes the slots that are over at `now`, or all of them, in a transaction of its own, and says how many rows that
    /// were. What fails is tried again with the next batch.
    pub fn save(&mut self, connection: &mut Connection, now: Time, all: bool) -> rusqlite::Result<usize> {
        let settled = slot_of(Time(now.0.saturating_sub(GRACE_MS)));
        // One to come is what a clock that was ahead has left: it is not waited for.
        let over = |slot: i64| all || slot < settled || slot > slot_of(now);
        if !self.slots.keys().any(|&slot| over(slot)) {
            return Ok(0);
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut rows = 0;
        for (&number, slot) in self.slots.iter_mut().filter(|(slot, _)| over(**slot)) {
            rows += slot.write(&transaction, number)?;
        }
        transaction.commit()?;
        self.slots.retain(|&slot, _| !over(slot));
        Ok(rows)
    }
}

impl Us {
    const FAILED: Us = Us(u32::MAX);

    /// `None` = the check failed. More than an hour is an hour and some.
    fn new(us: Option<i64>) -> Us {
        us.map_or(Us::FAILED, |us| Us(u32::try_from(us).unwrap_or(u32::MAX).min(u32::MAX - 1)))
    }

    fn get(self) -> Option<u32> {
        (self != Us::FAILED).then_some(self.0)
    }
}

impl Slot {
    fn add(&mut self, target: i64, us: Us) {
        // What is too large for the list, which no file comes to, has a row at once.
        let Ok(short) = u32::try_from(target) else { return self.rows.entry(target).or_default().add(us) };
        self.latest.push(Sample { target: short, us });
        if self.latest.len() >= LATEST_MAX {
            self.sum_up();
        }
    }

    /// Makes rows of the list.
    fn sum_up(&mut self) {
        for sample in std::mem::take(&mut self.latest) {
            self.rows.entry(sample.target.into()).or_default().add(sample.us);
        }
    }

    /// Writes all rows, in the order of the table, and says how many they were.
    fn write(&mut self, connection: &Connection, number: i64) -> rusqlite::Result<usize> {
        if self.rows.is_empty() {
            self.latest.sort_unstable_by_key(|sample| sample.target);
            let mut rows = 0;
            for (count, samples) in self.latest.chunk_by(|a, b| a.target == b.target).enumerate() {
                os::breathe(count);
                let Some(target) = samples.first().map(|sample| sample.target) else { continue };
                let mut row = Row::default();
                samples.iter().for_each(|sample| row.add(sample.us));
                row.write(connection, number, target.into())?;
                rows += 1;
            }
            return Ok(rows);
        }
        self.sum_up();
        let mut targets: Vec<i64> = self.rows.keys().copied().collect();
        targets.sort_unstable();
        for (count, target) in targets.into_iter().enumerate() {
            os::breathe(count);
            self.rows[&target].write(connection, number, target)?;
        }
        Ok(self.rows.len())
    }
}

impl Row {
    fn add(&mut self, us: Us) {
        self.checks += 1;
        if let Some(us) = us.get() {
            self.ok += 1;
            self.sum_us += u64::from(us);
            if self.samples_us.len() < SAMPLES_MAX {
                self.samples_us.push(us);
            }
        }
    }

    fn write(&self, connection: &Connection, number: i64, target: i64) -> rusqlite::Result<()> {
        let mut sorted = self.samples_us.to_vec();
        sorted.sort_unstable();
        // The smallest value that 95 of 100 do not exceed.
        let p95 = (sorted.len() * 95).div_ceil(100).checked_sub(1).and_then(|at| sorted.get(at));
        let mean = self.sum_us.checked_div(u64::from(self.ok));
        connection
            .prepare_cached(
                "INSERT INTO check_summary (slot, target_id, checks, ok, least_us, mean_us, p95_us)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT DO UPDATE SET checks = excluded.checks, ok = excluded.ok, least_us = excluded.least_us,
                     mean_us = excluded.mean_us, p95_us = excluded.p95_us
                 WHERE excluded.checks >= checks",
            )?
            .execute(params![
                number,
                target,
                self.checks,
                self.ok,
                sorted.first(),
                mean.map(|mean| mean as i64),
                p95
            ])?;
        Ok(())
    }
}
