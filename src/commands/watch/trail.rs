//! What went before: the last latencies of every address, and how many queries a second.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use std::sync::Arc;

use crate::health::{EndpointRecord, Host, Outcome, Time};
use crate::store::{CheckedRow, RecordedRow, Stored};

/// Latencies that are kept of an address: as many as a wide window shows.
const KEPT: usize = 60;

/// Over how long a rate is taken: the state file gets its counters every few seconds.
const RATE_MS: u64 = 15_000;

/// The heights of a sparkline.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A check that failed, in a sparkline.
pub const FAILED: char = '×';

/// The last checks of every address: the time of one that passed, milliseconds.
#[derive(Debug, Default)]
pub struct Trails(HashMap<Key, Trail>);

/// A candidate, its address and its checks: names that check the same address in different ways have trails of their own.
type Key = (Host, IpAddr, Arc<str>);

fn key(record: &EndpointRecord) -> Key {
    (record.host.clone(), record.address, Arc::clone(&record.definition))
}

#[derive(Debug, Default)]
struct Trail {
    last: Time,
    values: VecDeque<Option<f32>>,
}

impl Trails {
    /// One check, if it is later than those before.
    fn add(&mut self, key: Key, at: Time, passed_ms: Option<f32>) {
        let trail = self.0.entry(key).or_default();
        if at <= trail.last {
            return;
        }
        trail.last = at;
        trail.values.push_back(passed_ms);
        if trail.values.len() > KEPT {
            trail.values.pop_front();
        }
    }

    /// The last check of every address, as the state has it; forgets addresses that are gone.
    pub fn look(&mut self, stored: &Stored) {
        for record in &stored.endpoints {
            let (Some(at), Some(outcome)) = (record.last_check, record.last_outcome) else { continue };
            if outcome != Outcome::LocalError {
                let passed = (outcome == Outcome::Ok).then(|| record.total_ms.or(record.latency_ms)).flatten();
                self.add(key(record), at, passed.map(|ms| ms as f32));
            }
        }
        if self.0.len() > 2 * stored.endpoints.len() + 100 {
            let there: HashSet<Key> = stored.endpoints.iter().map(key).collect();
            self.0.retain(|key, _| there.contains(key));
        }
    }

    /// Recorded results, oldest first, of the checks that the state has now.
    pub fn past(
        stored: &Stored,
        checked: &[CheckedRow],
        mut results: impl FnMut(&mut dyn FnMut(&RecordedRow)),
    ) -> Trails {
        let mut known: HashMap<&str, Vec<&CheckedRow>> = HashMap::new();
        for row in checked {
            known.entry(&row.address).or_default().push(row);
        }
        let mut keys: HashMap<i64, HashSet<Key>> = HashMap::new();
        for record in &stored.endpoints {
            let (host, address) = (record.host.to_string(), record.address.to_string());
            let of_address = known.get(&*address).into_iter().flatten();
            let rows: Vec<_> = of_address.filter(|row| row.is_among(&record.definition)).collect();
            // A check that several candidates share is recorded for one of them.
            let is_own = |row: &&CheckedRow| row.host == host;
            let has_own = rows.iter().any(|row| is_own(row));
            for row in rows.into_iter().filter(|row| !has_own || is_own(row)) {
                keys.entry(row.id).or_default().insert(key(record));
            }
        }
        let mut trails = Trails::default();
        results(&mut |row| {
            if row.result.outcome == Outcome::LocalError {
                return;
            }
            let passed = (row.result.outcome == Outcome::Ok).then_some(row.result.total.as_secs_f32() * 1000.0);
            keys.get(&row.target).into_iter().flatten().for_each(|key| trails.add(key.clone(), row.at, passed));
        });
        trails
    }

    /// The greatest latency among the last `count` checks of an address.
    pub fn greatest(&self, record: &EndpointRecord, count: usize) -> Option<f32> {
        let trail = self.0.get(&key(record))?;
        trail.values.iter().rev().take(count).flatten().copied().reduce(f32::max)
    }

    /// The last `count` checks as blocks, the highest for `top`; newest last.
    pub fn sparkline(&self, record: &EndpointRecord, count: usize, top: f32) -> String {
        let Some(trail) = self.0.get(&key(record)) else { return String::new() };
        let skipped = trail.values.len().saturating_sub(count);
        let block = |value: &Option<f32>| match value {
            Some(ms) if top > 0.0 => BLOCKS[((ms / top * 8.0) as usize).min(BLOCKS.len() - 1)],
            Some(_) => BLOCKS[0],
            None => FAILED,
        };
        trail.values.iter().skip(skipped).map(block).collect()
    }
}

/// Totals over the last seconds, and what they make a second.
#[derive(Debug, Default)]
pub struct Rates(BTreeMap<&'static str, VecDeque<(Time, u64)>>);

impl Rates {
    /// A total as it is at a moment.
    pub fn look(&mut self, key: &'static str, at: Time, total: u64) {
        let seen = self.0.entry(key).or_default();
        // A state file that was begun anew counts from nothing again.
        if seen.back().is_some_and(|(_, last)| *last > total) {
            seen.clear();
        }
        seen.push_back((at, total));
        while seen.get(1).is_some_and(|(second, _)| at.0.saturating_sub(second.0) >= RATE_MS) {
            seen.pop_front();
        }
    }

    /// How many a second; `None` until there is something to compare with.
    pub fn a_second(&self, key: &'static str) -> Option<f64> {
        let seen = self.0.get(key)?;
        let (&(from, before), &(to, now)) = (seen.front()?, seen.back()?);
        let ms = to.0.saturating_sub(from.0);
        (ms > 0).then(|| now.saturating_sub(before) as f64 * 1000.0 / ms as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::CheckResult;
    use crate::store::tests::endpoint;

    #[test]
    fn a_sparkline_shows_the_last_checks_and_those_that_failed() {
        let (one, other) = (endpoint("api.example.com", 1), endpoint("api.example.com", 2));
        let mut trails = Trails::default();
        let checks = [(1, Some(1.0)), (2, Some(40.0)), (2, Some(99.0)), (3, None), (4, Some(20.0)), (5, Some(80.0))];
        checks.into_iter().for_each(|(at, value)| trails.add(key(&one), Time(at), value));
        assert_eq!(trails.sparkline(&one, 9, 80.0), "▁▅×▃█", "a check that was seen counts once");
        assert_eq!(trails.sparkline(&one, 2, 80.0), "▃█");
        assert_eq!(trails.greatest(&one, 3), Some(80.0));
        assert_eq!(trails.sparkline(&other, 9, 80.0), "");
        let otherwise = EndpointRecord { definition: "tcp:80".into(), ..one };
        assert_eq!(trails.sparkline(&otherwise, 9, 80.0), "", "checked in another way");
    }

    #[test]
    fn what_is_filed_under_another_candidate_is_seen_where_there_is_nothing_of_its_own() {
        let one = endpoint("api.example.com", 1);
        let alias = EndpointRecord { host: Host::Name("alias.example.com".into()), ..one.clone() };
        let stored = Stored { endpoints: vec![one.clone(), alias.clone()], ..Stored::default() };
        let row = |id, record: &EndpointRecord| CheckedRow {
            id,
            host: record.host.to_string(),
            address: record.address.to_string(),
            definition: record.definition.to_string(),
            last_at: Time(0),
        };
        let result = |target| RecordedRow {
            id: target,
            target,
            at: Time(1000 + target as u64),
            result: CheckResult {
                outcome: Outcome::Ok,
                silent: false,
                status: None,
                connect: None,
                first_byte: None,
                total: std::time::Duration::from_millis(8),
                error: None,
                priority: None,
                certificate_days: None,
            },
        };
        let marks = |rows: &[CheckedRow]| {
            let trails = Trails::past(&stored, rows, |visit| (1..=2).for_each(|target| visit(&result(target))));
            [&one, &alias].map(|record| trails.sparkline(record, 9, 8.0).chars().count())
        };
        assert_eq!(marks(&[row(1, &one)]), [1, 1]);
        assert_eq!(marks(&[row(1, &one), row(2, &alias)]), [1, 1]);
        let elsewhere = CheckedRow { address: "192.0.2.200".into(), ..row(2, &one) };
        assert_eq!(marks(&[elsewhere]), [0, 0]);
    }

    #[test]
    fn a_trail_is_bounded() {
        let record = endpoint("api.example.com", 1);
        let mut trails = Trails::default();
        (1..500).for_each(|at| trails.add(key(&record), Time(at), Some(1.0)));
        assert_eq!(trails.sparkline(&record, 500, 1.0).chars().count(), KEPT);
    }

    #[test]
    fn rates_are_taken_over_the_last_seconds() {
        let mut rates = Rates::default();
        rates.look("queries", Time(1000), 500);
        assert_eq!(rates.a_second("queries"), None);
        rates.look("queries", Time(3000), 520);
        assert_eq!(rates.a_second("queries"), Some(10.0));
        (4..60).for_each(|second| rates.look("queries", Time(second * 1000), 520));
        assert_eq!(rates.a_second("queries"), Some(0.0), "what is long past does not count");
        rates.look("queries", Time(61_000), 3);
        assert_eq!(rates.a_second("queries"), None, "a new file");
    }
}
