//! What held from when to when, put together from what holds now and the changes that are recorded.

use super::scale::Period;
use crate::health::Time;
use crate::store::{EventRow, time};

/// Something that held for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Band<T> {
    /// Since when.
    pub from: Time,
    /// Until when.
    pub to: Time,
    /// What; `None` = it is not known.
    pub what: Option<T>,
}

/// A change of what held.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<T> {
    /// When.
    pub at: Time,
    /// What was, if that is recorded.
    pub before: Option<T>,
    /// What is from then on.
    pub after: Option<T>,
}

/// The bands of a period: `changes` in order of time (earlier ones may be among them), and what holds now, since when.
pub fn bands<T: Clone + PartialEq>(period: Period, changes: &[Change<T>], now: Option<(T, Time)>) -> Vec<Band<T>> {
    let mut bands: Vec<Band<T>> = Vec::new();
    let mut add = |from: Time, to: Time, what: Option<T>| {
        let (from, to) = (from.max(period.from), to.min(period.to));
        if from >= to {
            return;
        }
        match bands.last_mut() {
            Some(last) if last.what == what => last.to = to,
            _ => bands.push(Band { from, to, what }),
        }
    };
    let mut from = Time(0);
    let mut held = changes.first().and_then(|change| change.before.clone());
    for change in changes {
        add(from, change.at, held.take());
        (from, held) = (change.at, change.after.clone());
    }
    match now {
        // No change to it is recorded: before that it is not known what held.
        Some((what, since)) if changes.is_empty() => {
            add(from, since, None);
            add(since, period.to, Some(what));
        }
        // What the file says last was true since then at the latest; an event that was lost must not belie it.
        Some((what, since)) if held.as_ref() != Some(&what) => {
            let since = since.max(from);
            add(from, since, held);
            add(since, period.to, Some(what));
        }
        _ => add(from, period.to, held),
    }
    bands
}

/// When har did not run, as far as its starts tell of it.
pub fn absences(period: Period, events: &[EventRow], ended: Option<Time>) -> Vec<(Time, Time)> {
    let starts = events.iter().filter(|event| event.kind == "daemon" && event.reason.contains(" started, "));
    let spans = starts.filter_map(|event| {
        // The reason ends with the time at which the run before was stopped or last heard of.
        let before = event.reason.get(event.reason.len().checked_sub(24)?..)?;
        Some((time::from_text(before)?, time::from_text(&event.at)?))
    });
    let spans = spans.chain(ended.map(|ended| (ended, period.to)));
    let inside = spans.map(|(from, to)| (from.max(period.from), to.min(period.to)));
    inside.filter(|(from, to)| from < to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Period = Period { from: Time(100), to: Time(200) };

    fn change(at: u64, before: Option<&'static str>, after: &'static str) -> Change<&'static str> {
        Change { at: Time(at), before, after: Some(after) }
    }

    fn shown(changes: &[Change<&'static str>], now: Option<(&'static str, u64)>) -> Vec<(u64, u64, &'static str)> {
        let bands = bands(PERIOD, changes, now.map(|(what, since)| (what, Time(since))));
        bands.into_iter().map(|band| (band.from.0, band.to.0, band.what.unwrap_or("?"))).collect()
    }

    #[test]
    fn changes_divide_the_period() {
        let changes = [change(50, Some("x"), "a"), change(120, Some("a"), "b"), change(150, Some("b"), "a")];
        assert_eq!(shown(&changes, Some(("a", 150))), [(100, 120, "a"), (120, 150, "b"), (150, 200, "a")]);
        assert_eq!(shown(&changes[1..], Some(("a", 150)))[0], (100, 120, "a"), "what was before the first change");
    }

    #[test]
    fn what_is_not_recorded_is_not_made_up() {
        assert_eq!(shown(&[], Some(("a", 150))), [(100, 150, "?"), (150, 200, "a")]);
        assert_eq!(shown(&[], Some(("a", 20))), [(100, 200, "a")]);
        assert_eq!(shown(&[], None), [(100, 200, "?")]);
        assert_eq!(shown(&[change(130, None, "a")], Some(("a", 130))), [(100, 130, "?"), (130, 200, "a")]);
        assert_eq!(
            shown(&[change(130, None, "a")], Some(("b", 160))),
            [(100, 130, "?"), (130, 160, "a"), (160, 200, "b")],
            "a change whose event was lost"
        );
    }

    #[test]
    fn starts_tell_when_har_was_away() {
        let start = |at: u64, last: &str| EventRow {
            id: 1,
            at: time::to_text(Time(at)),
            kind: "daemon".to_owned(),
            name: None,
            family: None,
            host: None,
            address: None,
            before: None,
            after: None,
            before_ms: None,
            after_ms: None,
            reason: format!("har 0.1.0 started, 1 name from har.toml; {last}"),
        };
        let events = [
            start(90, "no earlier run is known"),
            start(150, &format!("the last run was stopped at {}", time::to_text(Time(140)))),
        ];
        assert_eq!(absences(PERIOD, &events, None), [(Time(140), Time(150))]);
        assert_eq!(absences(PERIOD, &[], Some(Time(180))), [(Time(180), Time(200))]);
    }
}
