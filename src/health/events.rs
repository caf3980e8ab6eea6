//! The words of events: one line in the log, one row in the `event` table.
//!
//! Every transition line that the daemon prints comes from the one `Display` here, in the form
//! `name family: before -> after (latencies): reason`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::machine::{Cause, Transition};
use super::{Event, EventKind, Host, State, Time};

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut subject: Vec<String> = Vec::new();
        subject.extend(self.name.as_deref().map(str::to_owned));
        subject.extend(self.family.map(|family| family.record().to_owned()));
        subject.extend(self.place());
        if subject.is_empty() {
            subject.push(self.kind.as_str().replace('_', " "));
        }
        write!(f, "{}: ", subject.join(" "))?;
        match (&self.before, &self.after) {
            (None, None) => return f.write_str(&self.reason),
            (before, after) => {
                write!(f, "{} -> {}", before.as_deref().unwrap_or("none"), after.as_deref().unwrap_or("none"))?;
            }
        }
        match (self.before_ms, self.after_ms) {
            (None, None) => {}
            (before, after) => write!(f, " ({} -> {})", milliseconds(before), milliseconds(after))?,
        }
        write!(f, ": {}", self.reason)
    }
}

impl Event {
    /// An event with everything optional left out. Its reason is one line for a terminal, whoever wrote the words.
    pub fn new(at: Time, kind: EventKind, reason: impl Into<Arc<str>>) -> Event {
        let mut reason = reason.into();
        if reason.chars().any(char::is_control) {
            reason = one_line(&reason).into();
        }
        Event {
            at,
            kind,
            name: None,
            family: None,
            host: None,
            address: None,
            before: None,
            after: None,
            before_ms: None,
            after_ms: None,
            reason,
        }
    }

    fn place(&self) -> Option<String> {
        match (&self.host, self.address) {
            (Some(host), Some(address)) => Some(place(host, address)),
            (Some(host), None) => Some(host.to_string()),
            (None, address) => address.map(|address| address.to_string()),
        }
    }
}

/// Without what would break a line of the log or colour a terminal.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// An address and, unless it is the candidate itself, the candidate's name.
pub fn place(host: &Host, address: IpAddr) -> String {
    match host {
        Host::Name(name) => format!("{address} ({name})"),
        Host::Address(_) => address.to_string(),
    }
}

/// A latency as it is shown: `8.3 ms`, or `?` when it is not known.
pub fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1} ms"))
}

/// A time as it is shown and stored: UTC, ISO 8601, milliseconds.
pub fn utc(time: Time) -> String {
    let stamp = i64::try_from(time.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(|| format!("{} ms after 1970", time.0), |stamp| format!("{stamp:.3}"))
}

/// Why an address changed its state, with the last error where there is one.
pub fn transition_reason(transition: &Transition, error: Option<&str>) -> String {
    let error = error.filter(|_| transition.to == State::Down).map(|error| format!(": {error}")).unwrap_or_default();
    match transition.cause {
        Cause::FirstResult if transition.to == State::Up => "its first check passed".to_owned(),
        Cause::FirstResult => format!("its first check failed{error}"),
        Cause::Rise(count) => format!("{} passed in a row", checks(count)),
        Cause::Fall(count) => format!("{} failed in a row{error}", checks(count)),
        Cause::Share(good, all) => format!("only {good} of its last {all} checks passed{error}"),
    }
}

fn checks(count: u32) -> String {
    if count == 1 { "1 check".to_owned() } else { format!("{count} checks") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Family;

    #[test]
    fn lines_read_well() {
        let mut event = Event::new(Time(0), EventKind::Answer, "10.0.0.1 is down".to_owned());
        event.name = Some("api.example.com".into());
        event.family = Some(Family::V4);
        event.before = Some("10.0.0.1 (east-2)".into());
        event.after = Some("10.0.0.2 (east-1)".into());
        (event.before_ms, event.after_ms) = (Some(12.1), Some(8.26));
        assert_eq!(
            event.to_string(),
            "api.example.com A: 10.0.0.1 (east-2) -> 10.0.0.2 (east-1) (12.1 ms -> 8.3 ms): 10.0.0.1 is down"
        );
        let foreign = Event::new(Time(0), EventKind::Override, "lists a\nb\u{1b}[31m\u{9b}2J");
        assert_eq!(foreign.to_string(), "override: lists a b [31m 2J", "one line, whoever wrote it");
        let fault = Event::new(Time(0), EventKind::LocalFault, "it is this host".to_owned());
        assert_eq!(fault.to_string(), "local fault: it is this host");
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(utc(Time(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
    }
}
