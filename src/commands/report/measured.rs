//! The recorded checks of the addresses that a page shows, read from the state file into their series.

use std::collections::HashMap;

use super::data::Report;
use super::sampling::{Sample, Series};
use crate::health::{Outcome, Time};
use crate::store::{ReadError, Reader, SLOT_S, Stored, SumRow};

/// Which series the results of a target belong to: the places of names and addresses in the report.
type Places = HashMap<i64, Vec<(usize, usize)>>;

/// Adds single results where there are some, and five-minute sums for the time before the first of them.
pub fn fill(report: &mut Report, reader: &Reader, stored: &Stored) -> Result<(), ReadError> {
    let places = places(report, reader, stored)?;
    let period = report.period;
    let (first_result, _) = reader.first_records()?;
    let singles_from = first_result.unwrap_or(period.to);
    let half = Time(u64::try_from(SLOT_S).unwrap_or_default() * 500);
    let mut add = |target: i64, act: &dyn Fn(&mut Series)| {
        for &(name, address) in places.get(&target).into_iter().flatten() {
            if let Some(address) = report.names.get_mut(name).and_then(|name| name.addresses.get_mut(address)) {
                act(&mut address.series);
            }
        }
    };
    if singles_from > period.from {
        reader.each_sum(period.from, singles_from, |sum| {
            let middle = Time(sum.at.0 + half.0);
            add(sum.target, &|series| series.sum(middle, sum.checks, sum.ok, sample(sum)));
        })?;
    }
    reader.each_result(period.from, |row| {
        let passed = (row.result.outcome == Outcome::Ok).then_some(row.result.total.as_secs_f32() * 1000.0);
        // A fault of this host's own says nothing about the address.
        if row.result.outcome != Outcome::LocalError {
            add(row.target, &|series| series.check(row.at, passed));
        }
    })
}

fn sample(sum: &SumRow) -> Option<Sample> {
    let [low, middle, high] = sum.times_us?.map(|us| (us / 1000.0) as f32);
    Some(Sample { low, middle, high: high.max(middle) })
}

/// The targets of the addresses that are shown: the same host and address, and a check that is among theirs.
fn places(report: &Report, reader: &Reader, stored: &Stored) -> Result<Places, ReadError> {
    let mut shown: HashMap<(&str, &str), Vec<(usize, usize)>> = HashMap::new();
    for (name_place, name) in report.names.iter().enumerate() {
        for (place, address) in name.addresses.iter().enumerate() {
            let host = address.host.as_deref().unwrap_or(&address.address);
            shown.entry((host, &address.address)).or_default().push((name_place, place));
        }
    }
    // Two names may check the same address in different ways.
    let mut definitions: HashMap<(&str, String, String), &str> = HashMap::new();
    for record in &stored.endpoints {
        let key = (&*record.name, record.host.to_string(), record.address.to_string());
        definitions.insert(key, &record.definition);
    }
    let mut places = Places::new();
    for row in reader.checked()? {
        for &(name_place, place) in shown.get(&(&*row.host, &*row.address)).into_iter().flatten() {
            let Some(name) = report.names.get(name_place) else { continue };
            let key = (name.name.as_str(), row.host.clone(), row.address.clone());
            if definitions.get(&key).is_some_and(|all| row.is_among(all)) {
                places.entry(row.id).or_default().push((name_place, place));
            }
        }
    }
    Ok(places)
}
