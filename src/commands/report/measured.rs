//! The recorded checks of the addresses that a page shows, read from the state file into their series.

use std::collections::{BTreeMap, HashMap};

use super::data::{AddressView, Report};
use super::sampling::{Sample, Series};
use crate::health::{EndpointRecord, Outcome, Time};
use crate::store::{ReadError, Reader, SLOT_S, Stored, SumRow};

/// Which series the results of a target belong to.
#[derive(Default)]
struct Places {
    /// By target, the places of names and addresses in the report.
    of: HashMap<i64, Vec<(usize, usize)>>,
    /// Targets that were an address's check once and are not now: the check in words, and when its last result was.
    former: BTreeMap<i64, (String, Option<Time>)>,
}

/// Adds single results where there are some, and five-minute sums for the time before the first of them.
pub fn fill(report: &mut Report, reader: &Reader, stored: &Stored) -> Result<(), ReadError> {
    let mut places = places(report, reader, stored)?;
    let period = report.period;
    let (first_result, _) = reader.first_records(report.made)?;
    let singles_from = first_result.unwrap_or(period.to);
    let half = Time(u64::try_from(SLOT_S).unwrap_or_default() * 500);
    let Places { of, former } = &mut places;
    let mut add = |target: i64, at: Time, act: &dyn Fn(&mut Series)| {
        for &(name, address) in of.get(&target).into_iter().flatten() {
            if let Some(address) = address_at(report, name, address) {
                act(&mut address.series);
            }
        }
        if let Some((_, until)) = former.get_mut(&target).filter(|_| period.holds(at)) {
            *until = (*until).max(Some(at));
        }
    };
    if singles_from > period.from {
        reader.each_sum(period.from, singles_from, |sum| {
            let middle = Time(sum.at.0 + half.0);
            add(sum.target, middle, &|series| series.sum(middle, sum.checks, sum.ok, sample(sum)));
        })?;
    }
    reader.each_result(period.from, |row| {
        let passed = (row.result.outcome == Outcome::Ok).then_some(row.result.total.as_secs_f32() * 1000.0);
        // A fault of this host's own says nothing about the address.
        if row.result.outcome != Outcome::LocalError {
            add(row.target, row.at, &|series| series.check(row.at, passed));
        }
    })?;
    tell_of_former(report, &places);
    Ok(())
}

fn address_at(report: &mut Report, name: usize, address: usize) -> Option<&mut AddressView> {
    report.names.get_mut(name)?.addresses.get_mut(address)
}

/// Says of each address how it was checked before, and until when.
fn tell_of_former(report: &mut Report, places: &Places) {
    for (target, (definition, until)) in &places.former {
        for &(name, address) in places.of.get(target).into_iter().flatten() {
            if let (Some(until), Some(address)) = (*until, address_at(report, name, address)) {
                address.former.push((until, definition.clone()));
                address.former.sort();
            }
        }
    }
}

fn sample(sum: &SumRow) -> Option<Sample> {
    let [low, middle, high] = sum.times_us?.map(|us| (us / 1000.0) as f32);
    Some(Sample { low, middle, high: high.max(middle) })
}

/// The targets of the addresses that are shown: the same host and address, and a check that is among theirs, or that
/// was: a check that nobody makes any more was that of the one name that has the address. Where several have it,
/// nothing tells whose it was.
fn places(report: &Report, reader: &Reader, stored: &Stored) -> Result<Places, ReadError> {
    let mut shown: HashMap<(&str, &str), Vec<(usize, usize)>> = HashMap::new();
    for (name_place, name) in report.names.iter().enumerate() {
        for (place, address) in name.addresses.iter().enumerate() {
            let host = address.host.as_deref().unwrap_or(&address.address);
            shown.entry((host, &address.address)).or_default().push((name_place, place));
        }
    }
    // Two names may check the same address in different ways.
    let mut users: HashMap<(String, String), Vec<&EndpointRecord>> = HashMap::new();
    for record in &stored.endpoints {
        users.entry((record.host.to_string(), record.address.to_string())).or_default().push(record);
    }
    let mut places = Places::default();
    for row in reader.checked()? {
        let Some(shown) = shown.get(&(&*row.host, &*row.address)) else { continue };
        let users = users.get(&(row.host.clone(), row.address.clone())).map(Vec::as_slice).unwrap_or_default();
        let checks = |record: &&&EndpointRecord| row.is_among(&record.definition);
        let is_former = !users.iter().any(|record| checks(&record));
        for &(name_place, place) in shown {
            let Some(name) = report.names.get(name_place) else { continue };
            let own = users.iter().find(|record| *record.name == *name.name);
            if is_former && users.len() == 1 || own.is_some_and(|own| checks(&own)) {
                places.of.entry(row.id).or_default().push((name_place, place));
            }
        }
        if is_former {
            places.former.insert(row.id, (row.definition, None));
        }
    }
    Ok(places)
}
