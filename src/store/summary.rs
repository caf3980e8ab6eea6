//! Five minutes of results in one row: what `check_summary` keeps after single results are gone.
//!
//! A slot is summed up in memory and written when it is over, and at the end of the process. What a crash
//! interrupts is summed up again from the results that were written; with `history = "0s"`, where there
//! are none, the fuller row of the two is kept.

use std::collections::BTreeMap;

use rusqlite::{Connection, TransactionBehavior, params};

use super::SLOT_S;
use crate::health::{Outcome, Time};

/// Times of one slot that are kept for the percentile: one check every 100 ms, which is below any interval.
const SAMPLES_MAX: usize = 3000;

/// Slots that wait for the disk at most: a day of 100 addresses.
const SLOTS_MAX: usize = 28_800;

/// How long after its end a slot is written: results come a tick late.
const GRACE_MS: u64 = 10_000;

#[derive(Default)]
struct Slot {
    checks: u64,
    ok: u64,
    sum_us: u64,
    samples_us: Vec<u32>,
}

/// The slots that are not over, or not written.
#[derive(Default)]
pub(super) struct Summary {
    slots: BTreeMap<(i64, i64), Slot>,
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
        let slot = self.slots.entry((slot_of(at), target)).or_default();
        slot.checks += 1;
        if outcome == Outcome::Ok {
            let total_us = u32::try_from(total_us).unwrap_or(u32::MAX);
            slot.ok += 1;
            slot.sum_us += u64::from(total_us);
            if slot.samples_us.len() < SAMPLES_MAX {
                slot.samples_us.push(total_us);
            }
        }
        while self.slots.len() > SLOTS_MAX {
            self.slots.pop_first();
        }
    }

    /// Sums up again what a crash or a stop left in single results but not in whole slots.
    pub fn recover(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.slots.clear();
        let last: Option<i64> = connection.query_row("SELECT max(slot) FROM check_summary", [], |row| row.get(0))?;
        let mut statement = connection
            .prepare("SELECT target_id, at_unix_ms, outcome_code, total_us FROM check_result ORDER BY id DESC")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let at = Time(u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0));
            // The last slot that is there may have been written by a stop in its midst.
            if last.is_some_and(|last| slot_of(at) < last) {
                break;
            }
            let outcome = usize::try_from(row.get::<_, i64>(2)?).ok().and_then(|code| Outcome::ALL.get(code));
            self.add(row.get(0)?, at, outcome.copied().unwrap_or(Outcome::LocalError), row.get(3)?);
        }
        Ok(())
    }

    /// Writes the slots that are over at `now`, or all of them, in a transaction of its own. What fails is tried again with the next batch.
    pub fn save(&mut self, connection: &mut Connection, now: Time, all: bool) -> rusqlite::Result<()> {
        let settled = slot_of(Time(now.0.saturating_sub(GRACE_MS)));
        let over = |slot: i64| all || slot < settled;
        if !self.slots.keys().any(|&(slot, _)| over(slot)) {
            return Ok(());
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (&(number, target), slot) in self.slots.iter().filter(|((slot, _), _)| over(*slot)) {
            slot.write(&transaction, number, target)?;
        }
        transaction.commit()?;
        self.slots.retain(|&(slot, _), _| !over(slot));
        Ok(())
    }
}

impl Slot {
    fn write(&self, connection: &Connection, number: i64, target: i64) -> rusqlite::Result<()> {
        let mut sorted = self.samples_us.clone();
        sorted.sort_unstable();
        // The smallest value that 95 of 100 do not exceed.
        let p95 = (sorted.len() * 95).div_ceil(100).checked_sub(1).and_then(|at| sorted.get(at));
        let mean = self.sum_us.checked_div(self.ok);
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
                self.checks as i64,
                self.ok as i64,
                sorted.first(),
                mean.map(|mean| mean as i64),
                p95
            ])?;
        Ok(())
    }
}
