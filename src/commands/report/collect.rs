//! From the rows of the state file to what the page shows: which names, which bands, in which order.
//!
//! Pure: rows in, values out. The results of checks are added afterwards, see [`super::measured`].

use std::collections::HashMap;
use std::time::Duration;

use super::bands::{Change, absences, bands};
use super::data::{AddressView, AnswerView, Answered, Events, NameView, Report};
use super::sampling::Series;
use super::scale::Period;
use crate::commands::fitness::{Fitness, Level};
use crate::commands::status::{answer, daemon_line, endpoints, span, why_without, without_address};
use crate::commands::subject;
use crate::health::{AnswerRecord, EndpointRecord, Family, Host, Outcome, State, Time};
use crate::store::{EventRow, Life, Stored, time};

/// Addresses of a name that are shown.
const ADDRESSES_SHOWN: usize = 24;

/// Events in a list.
const EVENTS_LISTED: usize = 30;

/// Checks that may be missing before a line is broken.
const MISSED_CHECKS: u64 = 4;

/// The rows that a page is made of.
pub struct Rows<'a> {
    /// What is now.
    pub stored: &'a Stored,
    /// All events, oldest first.
    pub events: &'a [EventRow],
    /// When the first thing that is recorded was.
    pub first_record: Option<Time>,
    /// Whether single results are kept at all.
    pub has_history: bool,
}

/// What was asked for.
pub struct Wanted<'a> {
    /// Only these names; empty = those with trouble or changes first, then the others.
    pub names: &'a [String],
    /// How far back.
    pub since: Duration,
    /// Names that are shown at most, unless they were asked for.
    pub limit: usize,
}

/// The page without the results of checks; `Err` names what is not configured.
pub fn report(rows: &Rows<'_>, wanted: &Wanted<'_>, host: String, now: Time) -> Result<Report, String> {
    let stored = rows.stored;
    let (period, mut notes) = period(rows, wanted.since, now);
    let by_name = events_by_name(rows.events, period);
    let (picked, levels, left_out) = pick(stored, &by_name, period, wanted)?;
    notes.extend(left_out);
    if !rows.has_history {
        let words = "Single results of checks are not kept (server.history = \"0s\"): latency comes from five-minute sums, and there are no percentiles.";
        notes.push(words.to_owned());
    }
    let names = picked.iter().map(|&index| {
        let (row, _) = &stored.names[index];
        let events = by_name.get(&*row.name).map(Vec::as_slice).unwrap_or_default();
        name_view(stored, &row.name, row.interval_ms, events, period)
    });
    let orphans: Vec<&EventRow> = rows.events.iter().filter(|event| event.name.is_none()).collect();
    let ended = stored.daemon.as_ref().filter(|_| !matches!(stored.life(), Life::Running | Life::Silent));
    let ended = ended.map(|daemon| daemon.stopped_at.unwrap_or(daemon.heartbeat_at));
    Ok(Report {
        host,
        daemon: daemon_line(stored, now),
        version: stored.daemon.as_ref().map(|daemon| daemon.version.clone()).unwrap_or_default(),
        made: now,
        period,
        notes,
        counters: counters(stored),
        overrides: overrides(stored, now),
        absences: absences(period, rows.events, ended),
        levels,
        names: names.collect(),
        events: listed(&orphans, period),
    })
}

/// The period that was asked for, cut where nothing older is recorded: mostly empty drawings say little.
fn period(rows: &Rows<'_>, since: Duration, now: Time) -> (Period, Vec<String>) {
    let mut notes = Vec::new();
    let mut to = now;
    if let Some(daemon) = &rows.stored.daemon {
        let last = daemon.stopped_at.unwrap_or(daemon.heartbeat_at);
        if now.since(last) > since {
            to = last;
            notes.push(format!("The period ends when har was last heard of, {} ago.", span(now.since(last))));
        }
    }
    let length = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1000);
    let wanted = Time(to.0.saturating_sub(length));
    let begins = rows.first_record.map_or(wanted, |first| first.max(wanted)).min(Time(to.0.saturating_sub(1000)));
    if begins > wanted {
        notes.push(format!(
            "Nothing older is recorded: this is {} of the {} asked for.",
            span(to.since(begins)),
            span(since)
        ));
    }
    (Period { from: begins, to }, notes)
}

/// The events of each name up to the end of the period.
fn events_by_name(events: &[EventRow], period: Period) -> HashMap<&str, Vec<&EventRow>> {
    let mut by_name: HashMap<&str, Vec<&EventRow>> = HashMap::new();
    for event in events.iter().filter(|event| at(event) <= period.to) {
        if let Some(name) = &event.name {
            by_name.entry(name).or_default().push(event);
        }
    }
    by_name
}

fn at(event: &EventRow) -> Time {
    time::from_text(&event.at).unwrap_or_default()
}

/// Indices of the names to show, how many names there are of each level, and a sentence on what was left out.
type Picked = (Vec<usize>, [usize; 3], Option<String>);

fn pick(
    stored: &Stored,
    events: &HashMap<&str, Vec<&EventRow>>,
    period: Period,
    wanted: &Wanted<'_>,
) -> Result<Picked, String> {
    let mut levels = [0; 3];
    let mut order: Vec<(Level, usize, usize)> = Vec::with_capacity(stored.names.len());
    for (index, (row, _)) in stored.names.iter().enumerate() {
        let level = level(stored, &row.name).0;
        levels[level as usize] += 1;
        let changes = events.get(&*row.name).map_or(0, |events| changes(events, period));
        order.push((level, changes, index));
    }
    if !wanted.names.is_empty() {
        let find = |name: &String| {
            let spelled = subject::spelling(name);
            let found = stored.names.iter().position(|(row, _)| *row.name == *spelled);
            found.ok_or_else(|| format!("'{spelled}' is not a configured name; `har status` lists them"))
        };
        let mut picked: Vec<usize> = Vec::new();
        for index in wanted.names.iter().map(find) {
            let index = index?;
            if !picked.contains(&index) {
                picked.push(index);
            }
        }
        return Ok((picked, levels, None));
    }
    // Trouble first, then what moved most, then as configured.
    order.sort_by_key(|&(level, changes, index)| (level, std::cmp::Reverse(changes), index));
    let left = order.split_off(order.len().min(wanted.limit));
    let sentence = (!left.is_empty()).then(|| {
        let count = |condition: &dyn Fn(&(Level, usize, usize)) -> bool| left.iter().filter(|name| condition(name)).count();
        let (trouble, moved) = (count(&|name| name.0 != Level::Good), count(&|name| name.0 == Level::Good && name.1 > 0));
        format!(
            "{} of {} names are shown, those with trouble or changes first. Left out: {trouble} with trouble, {moved} with changes, {} quiet. `har report NAME…` shows those you name, --limit sets how many.",
            order.len(),
            stored.names.len(),
            left.len() - trouble - moved,
        )
    });
    Ok((order.into_iter().map(|(_, _, index)| index).collect(), levels, sentence))
}

/// How a name does, by the rule of `har status --check`.
fn level(stored: &Stored, name: &str) -> (Level, String) {
    let fitness = Fitness::of(stored, name);
    let words = match (fitness.fit, fitness.all) {
        (0, 0) => "no address known".to_owned(),
        (0, _) if fitness.drained > 0 => format!("nothing up, {} drained", fitness.drained),
        (0, _) => "nothing up".to_owned(),
        (fit, all) if fit < all => fitness.words(),
        (_, 1) => "up".to_owned(),
        (_, all) => format!("all {all} up"),
    };
    (fitness.level(), words)
}

/// What became other than it was; the first answer after a start is no change.
fn changes(events: &[&EventRow], period: Period) -> usize {
    let moved = |event: &EventRow| matches!(event.kind.as_str(), "state" | "answer") && event.before.is_some();
    events.iter().filter(|event| moved(event) && period.holds(at(event))).count()
}

fn name_view(stored: &Stored, name: &str, interval_ms: u64, events: &[&EventRow], period: Period) -> NameView {
    let (level, verdict) = level(stored, name);
    let known: Vec<&EndpointRecord> = endpoints(stored, name, None).collect();
    let shown = known.iter().take(ADDRESSES_SHOWN).enumerate();
    let addresses = shown.map(|(place, endpoint)| address_view(place + 1, endpoint, events, period)).collect();
    let answers = Family::BOTH.into_iter().filter_map(|family| {
        let record = answer(stored, name, family);
        let of_family = known.iter().any(|endpoint| Family::of(endpoint.address) == family);
        let answered = record.is_some_and(|record| !record.addresses.is_empty());
        (of_family || answered).then(|| answer_view(family, record, &known, events, period))
    });
    let slowest = known.iter().map(|endpoint| endpoint.interval_ms).max().unwrap_or(0).max(interval_ms);
    NameView {
        name: name.to_owned(),
        level,
        verdict,
        changes: changes(events, period),
        answers: answers.collect(),
        more_addresses: known.len().saturating_sub(ADDRESSES_SHOWN),
        addresses,
        without: without_address(stored, name)
            .map(|candidate| (candidate.host.to_string(), why_without(candidate).to_owned()))
            .collect(),
        events: listed(events, period),
        gap_ms: slowest.saturating_mul(MISSED_CHECKS),
    }
}

fn answer_view(
    family: Family,
    record: Option<&AnswerRecord>,
    known: &[&EndpointRecord],
    events: &[&EventRow],
    period: Period,
) -> AnswerView {
    let of_family = |event: &&&EventRow| event.kind == "answer" && event.family.as_deref() == Some(family.record());
    let changes: Vec<Change<Answered>> = events
        .iter()
        .filter(of_family)
        .map(|event| Change {
            at: at(event),
            before: event.before.as_deref().map(|words| answered(words, known)),
            after: event.after.as_deref().map(|words| answered(words, known)),
        })
        .collect();
    let now = record.map(|record| (answered(&words(record, known), known), record.since));
    // The words for nothing depend on why; the last event has them.
    let last = changes.last().and_then(|change| change.after.clone());
    let now = now.map(|(now, since)| match last {
        Some(last) if last.number == now.number => (last, since),
        _ => (now, since),
    });
    AnswerView {
        family: family.record(),
        now: record.map_or_else(|| "nothing yet".to_owned(), |record| words(record, known)),
        since: record.map(|record| record.since),
        reason: record.map(|record| record.reason.to_string()).unwrap_or_default(),
        bands: bands(period, &changes, now),
    }
}

/// An answer in the words of events: `10.0.0.1 (east-1), 10.0.0.2`.
fn words(record: &AnswerRecord, known: &[&EndpointRecord]) -> String {
    if record.addresses.is_empty() {
        return "no address".to_owned();
    }
    let word = |address: &std::net::IpAddr| {
        let host = known.iter().find(|endpoint| endpoint.address == *address).and_then(|endpoint| host_of(endpoint));
        host.map_or_else(|| address.to_string(), |host| format!("{address} ({host})"))
    };
    record.addresses.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn answered(words: &str, known: &[&EndpointRecord]) -> Answered {
    let first = words.split([' ', ',']).next().and_then(|word| word.parse::<std::net::IpAddr>().ok());
    let place = first.and_then(|first| known.iter().position(|endpoint| endpoint.address == first));
    Answered { words: words.to_owned(), number: place.map(|place| place + 1) }
}

fn host_of(endpoint: &EndpointRecord) -> Option<String> {
    match &endpoint.host {
        Host::Name(name) => Some(name.to_string()),
        Host::Address(_) => None,
    }
}

fn address_view(number: usize, endpoint: &EndpointRecord, events: &[&EventRow], period: Period) -> AddressView {
    let (host, address) = (endpoint.host.to_string(), endpoint.address.to_string());
    let of_address = |event: &&&EventRow| {
        event.kind == "state" && event.address.as_deref() == Some(&*address) && event.host.as_deref() == Some(&*host)
    };
    let state = |word: &Option<String>| word.as_deref().and_then(State::from_word);
    let changes: Vec<Change<State>> = events
        .iter()
        .filter(of_address)
        .map(|event| Change { at: at(event), before: state(&event.before), after: state(&event.after) })
        .collect();
    let error = endpoint.last_outcome.filter(|&outcome| outcome != Outcome::Ok);
    let mut standing = endpoint.words().into_owned();
    if let Some(outcome) = error {
        let detail = endpoint.last_error.as_deref().unwrap_or_default();
        let colon = if detail.is_empty() { "" } else { ": " };
        standing = format!("{standing}; {}{colon}{detail}", outcome.as_str());
    }
    if let Some(drained) = &endpoint.drained {
        standing = format!("{standing}; drained {drained}");
    }
    AddressView {
        number,
        host: host_of(endpoint),
        state: endpoint.state,
        chosen: endpoint.chosen,
        standing,
        latency_ms: endpoint.latency_ms,
        bands: bands(period, &changes, Some((endpoint.state, endpoint.since))),
        series: Series::new(period),
        former: Vec::new(),
        address,
    }
}

fn listed(events: &[&EventRow], period: Period) -> Events {
    let inside: Vec<&&EventRow> = events.iter().filter(|event| period.holds(at(event))).collect();
    Events {
        marks: inside.iter().map(|event| (at(event), subject(event))).collect(),
        listed: inside.iter().rev().take(EVENTS_LISTED).map(|event| (**event).clone()).collect(),
    }
}

/// What an event is about and what changed.
pub fn subject(event: &EventRow) -> String {
    let mut words = vec![event.kind.replace('_', " ")];
    words.extend([&event.family, &event.address, &event.host].into_iter().flatten().cloned());
    words.dedup();
    if event.before.is_some() || event.after.is_some() {
        let side = |side: &Option<String>| side.clone().filter(|text| !text.is_empty()).unwrap_or("none".to_owned());
        words.push(format!("{} → {}", side(&event.before), side(&event.after)));
    }
    words.join(" ")
}

/// The sums that a reader asks for first, since the state file was begun.
fn counters(stored: &Stored) -> Vec<(&'static str, u64)> {
    let asked = stored.names.iter().map(|(_, counters)| counters.queries.iter().sum::<u64>()).sum();
    let kind = |place: usize| stored.names.iter().filter_map(|(_, counters)| counters.answers.get(place)).sum();
    let total = |key: &str| stored.counters.iter().find(|(word, _)| word == key).map_or(0, |(_, count)| *count);
    vec![
        ("queries received", total("received_udp") + total("received_tcp")),
        ("of configured names", asked),
        ("answered as ranked", kind(0)),
        ("answered by an all-down rule or held", kind(1)),
        ("SERVFAIL for configured names", kind(3)),
        ("forwarded", total("forwarded")),
        ("forwarded in vain", total("forward_expired") + total("forward_failed")),
    ]
}

fn overrides(stored: &Stored, now: Time) -> Vec<String> {
    let in_force = stored.overrides.iter().filter(|order| order.expires_at.is_none_or(|end| end > now));
    let words = in_force.map(|order| {
        let mut words = order.kind.as_str().to_owned();
        for part in [&order.target, &order.name].into_iter().flatten() {
            words = format!("{words} {part}");
        }
        if let Some(end) = order.expires_at {
            words = format!("{words}, for {} more", span(end.since(now)));
        }
        order.reason.iter().fold(words, |words, reason| format!("{words} ({reason})"))
    });
    words.collect()
}
