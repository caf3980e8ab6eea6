//! The recorded checks of the addresses that a page shows, read from the state file into their series.
//!
//! A result belongs to an address and a check in words, whichever candidate it is filed under: one that several share is
//! filed under one of them. Of every five minutes the single results are shown while all are there, and else their sum.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::data::{AddressView, Report};
use super::plot::minute;
use super::sampling::{Sample, Series};
use crate::health::{EndpointRecord, Outcome, Time};
use crate::store::{CheckedRow, ReadError, Reader, SLOT_S, Stored, SumRow, place_among};

const SLOT_MS: u64 = SLOT_S as u64 * 1000;

/// After so many intervals without a result nothing is filed under a candidate any more.
const SILENT: u64 = 3;

/// Where the results of a target belong.
#[derive(Clone, Copy)]
struct Place {
    name: usize,
    address: usize,
    /// Which of the address's checks it is, see [`Series::check`].
    check: usize,
    /// The address was checked like that once and is not now.
    former: bool,
}

/// A target, the address it belongs to as the daemon wrote it, and its place.
type Belonging<'a> = (&'a CheckedRow, &'a EndpointRecord, Place);

/// A single result, with the milliseconds of one that passed.
struct Single {
    target: i64,
    at: Time,
    passed_ms: Option<f32>,
}

/// What is recorded of a target at a time.
#[derive(Clone, Copy)]
enum Recorded {
    Single(Option<f32>),
    Sum { checks: u64, passed: u64, sample: Option<Sample> },
}

/// A check that an address once had. What it found waits until all is known of the present ones.
#[derive(Default)]
struct Former {
    definition: String,
    recorded: Vec<(Time, Recorded)>,
}

/// Adds single results where all are there, and five-minute sums where some are not.
pub fn fill(report: &mut Report, reader: &Reader, stored: &Stored) -> Result<(), ReadError> {
    let period = report.period;
    let checked = reader.checked()?;
    let mut belonging = belonging(report, stored, &checked);
    let wanted: HashSet<i64> = belonging.iter().map(|(row, ..)| row.id).collect();
    let mut singles = Vec::new();
    let (mut counts, mut last): (HashMap<(u64, i64), u64>, HashMap<i64, Time>) = Default::default();
    reader.each_result(period.from, |row| {
        // A fault of this host's own says nothing about the address.
        if row.result.outcome == Outcome::LocalError || !period.holds(row.at) || !wanted.contains(&row.target) {
            return;
        }
        let passed = (row.result.outcome == Outcome::Ok).then_some(row.result.total.as_secs_f32() * 1000.0);
        singles.push(Single { target: row.target, at: row.at, passed_ms: passed });
        *counts.entry((slot_of(row.at), row.target)).or_default() += 1;
        let last = last.entry(row.target).or_default();
        *last = row.at.max(*last);
    })?;
    leave_to_others(&mut belonging, &last);

    let mut places: HashMap<i64, Vec<Place>> = HashMap::new();
    let mut former: BTreeMap<i64, Former> = BTreeMap::new();
    for (row, _, place) in belonging {
        places.entry(row.id).or_default().push(place);
        if place.former {
            former.entry(row.id).or_default().definition.clone_from(&row.definition);
        }
    }
    let mut add = |report: &mut Report, target: i64, at: Time, recorded: Recorded| {
        for place in places.get(&target).into_iter().flatten().filter(|place| !place.former) {
            if let Some(address) = address_at(report, place) {
                recorded.add(&mut address.series, place.check, at);
            }
        }
        if let Some(former) = former.get_mut(&target).filter(|_| period.holds(at)) {
            former.recorded.push((at, recorded));
        }
    };
    let (mut summed, mut sums_until) = (HashSet::new(), None);
    reader.each_sum(period.from, period.to, |sum| {
        sums_until = Some(Time(sum.at.0 + SLOT_MS));
        let count = counts.get(&(slot_of(sum.at), sum.target)).copied().unwrap_or(0);
        // Where a slot lies across the begin, the single results of its first part are not looked at.
        let is_whole = if sum.at < period.from { count > 0 } else { count >= sum.checks };
        if !is_whole && wanted.contains(&sum.target) {
            summed.insert((slot_of(sum.at), sum.target));
            let middle = Time(sum.at.0 + SLOT_MS / 2).min(period.to);
            let recorded = Recorded::Sum { checks: sum.checks, passed: sum.ok, sample: sample(sum) };
            add(report, sum.target, middle, recorded);
        }
    })?;
    singles.retain(|single| !summed.contains(&(slot_of(single.at), single.target)));
    for single in &singles {
        add(report, single.target, single.at, Recorded::Single(single.passed_ms));
    }
    add_former(report, &places, former);
    if let Some(first) = singles.iter().map(|single| single.at).min().filter(|_| !summed.is_empty()) {
        tell_of_sums(report, first, sums_until);
    }
    Ok(())
}

fn slot_of(at: Time) -> u64 {
    at.0 / SLOT_MS
}

fn address_at<'a>(report: &'a mut Report, place: &Place) -> Option<&'a mut AddressView> {
    report.names.get_mut(place.name)?.addresses.get_mut(place.address)
}

impl Recorded {
    fn add(self, series: &mut Series, check: usize, at: Time) {
        match self {
            Recorded::Single(passed_ms) => series.check(check, at, passed_ms),
            Recorded::Sum { checks, passed, sample } => series.sum(check, at, checks, passed, sample),
        }
    }
}

/// Adds what former checks found, and says of each address how it was checked before, and until when. Where there are
/// results of the present first check already, a former one was another check beside it, and not its predecessor.
fn add_former(report: &mut Report, places: &HashMap<i64, Vec<Place>>, former: BTreeMap<i64, Former>) {
    let of = |target: &i64| places.get(target).into_iter().flatten().filter(|place| place.former).copied();
    let mut begun = HashMap::new();
    for place in former.keys().flat_map(of) {
        let series = address_at(report, &place).map(|address| address.series.begun());
        begun.insert((place.name, place.address), series.flatten());
    }
    for (number, (target, former)) in former.iter().enumerate() {
        let Some(until) = former.recorded.iter().map(|(at, _)| *at).max() else { continue };
        for place in of(target) {
            let begun = begun.get(&(place.name, place.address)).copied().flatten();
            let Some(address) = address_at(report, &place) else { continue };
            for &(at, recorded) in &former.recorded {
                let beside = begun.is_some_and(|begun| at >= begun);
                recorded.add(&mut address.series, if beside { usize::MAX - number } else { 0 }, at);
            }
            address.former.push((until, former.definition.clone()));
            address.former.sort();
        }
    }
}

/// Says where sums and single results meet, and what lies between them.
fn tell_of_sums(report: &mut Report, first_single: Time, sums_until: Option<Time>) {
    report.notes.push(format!(
        "Single results are kept since {}: what was before is drawn and counted by five-minute sums. Median, 95 % and greatest of the tables are those of the single results.",
        minute(first_single)
    ));
    let gap_ms = report.names.iter().map(|name| name.gap_ms).max().unwrap_or(0);
    let Some(from) = sums_until.filter(|until| first_single.0.saturating_sub(until.0) > gap_ms) else { return };
    let is_absence = |&(gone, back): &(Time, Time)| gone < first_single && back > from;
    if !report.absences.iter().any(is_absence) {
        report.notes.push(format!(
            "From {} to {} nothing is shown: the single results of then are no longer kept, and a five-minute sum is written when its time is over.",
            minute(from),
            minute(first_single)
        ));
    }
}

fn sample(sum: &SumRow) -> Option<Sample> {
    let [low, middle, high] = sum.times_us?.map(|us| (us / 1000.0) as f32);
    Some(Sample { low, middle, high: high.max(middle) })
}

/// The targets of the addresses that are shown: those with the same address and a check that is among theirs, or that was:
/// a check of the candidate that nobody makes any more was that of the one name that has it. Where several have it, nothing
/// tells whose it was.
fn belonging<'a>(report: &Report, stored: &'a Stored, checked: &'a [CheckedRow]) -> Vec<Belonging<'a>> {
    let names: HashMap<&str, usize> = report.names.iter().map(|name| name.name.as_str()).zip(0..).collect();
    let mut users: HashMap<String, Vec<(&EndpointRecord, String)>> = HashMap::new();
    for record in &stored.endpoints {
        users.entry(record.address.to_string()).or_default().push((record, record.host.to_string()));
    }
    let place_of = |record: &EndpointRecord, host: &str| {
        let name = *names.get(&*record.name)?;
        let address = record.address.to_string();
        let is_it = |view: &AddressView| view.address == address && view.host.as_deref().unwrap_or(&address) == host;
        Some((name, report.names.get(name)?.addresses.iter().position(is_it)?))
    };
    let mut belonging = Vec::new();
    for row in checked {
        let users = users.get(&row.address).map(Vec::as_slice).unwrap_or_default();
        let mut own = users.iter().filter(|(_, host)| *host == row.host);
        let is_former = own.clone().count() == 1 && own.all(|(record, _)| !row.is_among(&record.definition));
        for (record, host) in users {
            let check = place_among(&row.definition, &record.definition);
            let former = is_former && *host == row.host;
            if (check.is_some() || former)
                && let Some((name, address)) = place_of(record, host)
            {
                belonging.push((row, *record, Place { name, address, check: check.unwrap_or(0), former }));
            }
        }
    }
    belonging
}

/// Leaves to other candidates what is theirs alone. Checks of the same words are not always one (they may have other
/// passwords or time limits): where results come in under an address's own candidate, those that come in under another
/// one are those of another check. Where none do, the check is shared, and filed under the other one.
fn leave_to_others(belonging: &mut Vec<Belonging<'_>>, last: &HashMap<i64, Time>) {
    let key = |place: &Place| (place.name, place.address, place.check, place.former);
    let last_of = |row: &CheckedRow| last.get(&row.id).copied().unwrap_or(row.last_at);
    let mut newest: HashMap<_, Time> = HashMap::new();
    for (row, _, place) in belonging.iter() {
        let newest = newest.entry(key(place)).or_default();
        *newest = last_of(row).max(*newest);
    }
    let goes_on = |(row, record, place): &Belonging<'_>| {
        // Of a target without single results the time is known to a slot.
        let slack = SILENT * record.interval_ms + if last.contains_key(&row.id) { 0 } else { SLOT_MS };
        newest.get(&key(place)).is_some_and(|newest| newest.0.saturating_sub(last_of(row).0) <= slack)
    };
    let is_own = |(row, record, _): &Belonging<'_>| record.host.to_string() == row.host;
    let filed: HashSet<_> =
        belonging.iter().filter(|all| is_own(all) && goes_on(all)).map(|(_, _, place)| key(place)).collect();
    belonging.retain(|all| is_own(all) || !goes_on(all) || !filed.contains(&key(&all.2)));
}
