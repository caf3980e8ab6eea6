//! `har metrics`: the state in the text format of Prometheus, for the node exporter's textfile collector.
//!
//! Times are in seconds and counters end in `_total`, as that format wants; names begin with `har_` and are only added
//! to. Like every command it reads the state file, so that a scrape costs the daemon nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::{Ended, Failure};
use crate::health::{EndpointRecord, Family, Outcome, State, Time};
use crate::store::{EndpointKey, Life, Reader, Stored};

/// The words of `har_answers_total{kind}`, in the order of the counters.
const KINDS: [&str; 5] = ["ranked", "stale", "empty", "servfail", "forwarded"];

/// The words of `har_queries_total{type}`, in the order of the counters.
const TYPES: [&str; 3] = ["A", "AAAA", "other"];

/// Shows the state file `state` as metrics.
pub fn run(state: &Path, out: &mut dyn Write) -> Ended {
    let stored = Reader::current(state).map_err(|e| Failure::Run(e.to_string()))?;
    // In one piece: a collector must not read half of it.
    out.write_all(exposition(&stored).as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The text in the making.
#[derive(Default)]
struct Text(String);

impl Text {
    /// The head of a metric; its samples follow at once. Without samples it is left out.
    fn metric<'a, V>(&mut self, name: &str, kind: &str, help: &str, samples: V)
    where
        V: IntoIterator<Item = (Vec<(&'static str, &'a str)>, f64)>,
    {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            self.0.push_str(name);
            for (place, (label, text)) in labels.iter().enumerate() {
                let _ = write!(self.0, "{}{label}=\"{}\"", if place == 0 { '{' } else { ',' }, escaped(text));
            }
            let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.metric(name, "gauge", help, [(Vec::new(), value)]);
    }
}

/// A label's value: backslash, quote and line feed have a meaning in the format.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn exposition(stored: &Stored) -> String {
    let mut text = Text::default();
    daemon(&mut text, stored);
    names(&mut text, stored);
    addresses(&mut text, stored);
    upstreams(&mut text, stored);
    let totals = stored.counters.iter().map(|(key, value)| (vec![("kind", key.as_str())], *value as f64));
    text.metric(
        "har_server_events_total",
        "counter",
        "What the DNS server and the state file counted, by kind.",
        totals,
    );
    text.0
}

fn daemon(text: &mut Text, stored: &Stored) {
    let running = stored.life() == Life::Running;
    text.gauge("har_up", "Whether the daemon runs and writes its state (1) or not (0).", flag(running));
    let Some(daemon) = &stored.daemon else { return };
    let info = [(vec![("version", daemon.version.as_str())], 1.0)];
    text.metric("har_info", "gauge", "The version of the daemon that wrote the state.", info);
    text.gauge("har_start_time_seconds", "When the daemon started, in seconds since 1970.", seconds(daemon.started_at));
    let help = "When the daemon last wrote its state, in seconds since 1970.";
    text.gauge("har_heartbeat_timestamp_seconds", help, seconds(daemon.heartbeat_at));
    let now = crate::store::time::now();
    let overrides = stored.overrides.iter().filter(|order| order.expires_at.is_none_or(|end| end > now)).count();
    text.gauge("har_overrides", "Overrides in force.", overrides as f64);
    text.gauge("har_names", "Configured names.", stored.names.len() as f64);
}

fn names(text: &mut Text, stored: &Stored) {
    let queries = stored.names.iter().flat_map(|(row, counters)| {
        TYPES
            .into_iter()
            .zip(counters.queries)
            .map(|(word, count)| (vec![("name", &*row.name), ("type", word)], count as f64))
    });
    text.metric("har_queries_total", "counter", "Queries for a configured name, by type.", queries);
    let answers = stored.names.iter().flat_map(|(row, counters)| {
        KINDS
            .into_iter()
            .zip(counters.answers)
            .map(|(word, count)| (vec![("name", &*row.name), ("kind", word)], count as f64))
    });
    text.metric("har_answers_total", "counter", "Answers for a configured name, by kind.", answers);
    let given = stored.answers.iter().map(|row| {
        (
            vec![("name", &*row.name), ("family", row.family.record()), ("basis", &*row.basis)],
            row.addresses.len() as f64,
        )
    });
    text.metric("har_answer_addresses", "gauge", "Addresses that are answered now, and how that came about.", given);
    let since = stored
        .answers
        .iter()
        .map(|row| (vec![("name", &*row.name), ("family", row.family.record())], seconds(row.since)));
    let help = "Since when this is answered, in seconds since 1970.";
    text.metric("har_answer_since_timestamp_seconds", "gauge", help, since);
}

fn addresses(text: &mut Text, stored: &Stored) {
    let shown: Vec<(String, String)> =
        stored.endpoints.iter().map(|e| (e.host.to_string(), e.address.to_string())).collect();
    let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&EndpointRecord) -> Option<f64>| {
        let samples = stored.endpoints.iter().zip(&shown).filter_map(|(endpoint, (host, address))| {
            let family = Family::of(endpoint.address).record();
            let labels = vec![("name", &*endpoint.name), ("host", host), ("address", address), ("family", family)];
            Some((labels, value(endpoint)?))
        });
        text.metric(name, kind, help, samples);
    };
    each("har_address_up", "gauge", "Whether an address is up.", &|e| Some(flag(e.state == State::Up)));
    let help = "Whether an address may be answered: up or held up, and neither drained nor reported as not to be used.";
    each("har_address_fit", "gauge", help, &|e| Some(flag(e.is_fit())));
    each("har_address_unknown", "gauge", "Whether nothing recent is known of an address.", &|e| {
        Some(flag(e.state == State::Unknown))
    });
    each("har_address_chosen", "gauge", "Whether an address is in the answer.", &|e| Some(flag(e.chosen)));
    each("har_address_drained", "gauge", "Whether an address is taken out by an override or a drain record.", &|e| {
        Some(flag(e.drained.is_some()))
    });
    each("har_address_latency_seconds", "gauge", "Smoothed latency of an address.", &|e| Some(e.latency_ms? / 1000.0));
    each("har_address_deviation_seconds", "gauge", "Mean deviation of the latency of an address.", &|e| {
        Some(e.deviation_ms? / 1000.0)
    });
    each("har_address_last_check_timestamp_seconds", "gauge", "When an address was last checked.", &|e| {
        e.last_check.map(seconds)
    });
    // Of what was never given out there is no row: it is written as 0, for a rate of the first answers needs the value before.
    let times: HashMap<&EndpointKey, u64> = stored.times_chosen.iter().map(|(key, times)| (key, *times)).collect();
    each("har_address_chosen_total", "counter", "Answers that carried an address.", &|e| {
        Some(times.get(&EndpointKey::of(e)).copied().unwrap_or_default() as f64)
    });
    let samples = stored.endpoints.iter().zip(&shown).flat_map(|(endpoint, (host, address))| {
        Outcome::ALL.into_iter().zip(endpoint.counts).map(move |(outcome, count)| {
            let family = Family::of(endpoint.address).record();
            let labels = vec![
                ("name", &*endpoint.name),
                ("host", host.as_str()),
                ("address", address.as_str()),
                ("family", family),
                ("outcome", outcome.as_str()),
            ];
            (labels, count as f64)
        })
    });
    text.metric("har_checks_total", "counter", "Checks of an address, by outcome.", samples);
}

fn upstreams(text: &mut Text, stored: &Stored) {
    let shown: Vec<String> = stored.upstreams.iter().map(|row| row.address.to_string()).collect();
    type Value = fn(&crate::store::UpstreamRow) -> Option<f64>;
    let metrics: [(&str, &str, &str, Value); 6] = [
        ("har_upstream_usable", "gauge", "Whether an upstream server is in use.", |row| Some(flag(row.usable))),
        (
            "har_upstream_queries_total",
            "counter",
            "What an upstream server was sent, repetitions of a datagram aside.",
            |row| Some(row.queries as f64),
        ),
        ("har_upstream_answers_total", "counter", "What an upstream server replied to.", |row| {
            Some(row.answers as f64)
        }),
        (
            "har_upstream_timeouts_total",
            "counter",
            "What an upstream server left without a reply: in time, or at all with its port closed or out of reach.",
            |row| Some(row.timeouts as f64),
        ),
        ("har_upstream_servfail_total", "counter", "SERVFAIL replies of an upstream server.", |row| {
            Some(row.servfail as f64)
        }),
        ("har_upstream_rtt_seconds", "gauge", "Smoothed round trip to an upstream server.", |row| {
            Some(row.rtt_ms? / 1000.0)
        }),
    ];
    for (name, kind, help, value) in metrics {
        let samples = stored.upstreams.iter().zip(&shown).filter_map(|(row, address)| {
            Some((vec![("address", address.as_str()), ("route", row.route.as_str())], value(row)?))
        });
        text.metric(name, kind, help, samples);
    }
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn seconds(time: Time) -> f64 {
    time.0 as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{LONG, complete, start};

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.metric("har_x", "gauge", "X.", [(vec![("a", "b\"c\\d\ne")], 1.5)]);
        assert_eq!(text.0, "# HELP har_x X.\n# TYPE har_x gauge\nhar_x{a=\"b\\\"c\\\\d\\ne\"} 1.5\n");
        text.metric("har_y", "gauge", "Y.", []);
        assert!(!text.0.contains("har_y"), "no head without samples");
    }

    #[test]
    fn every_counter_of_the_state_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, _) = start(&path);
        writer.send(complete(2));
        assert!(writer.flush(LONG));
        let mut out = Vec::new();
        assert_eq!(run(&path, &mut out).unwrap(), ExitCode::SUCCESS);
        let text = String::from_utf8(out).unwrap();
        for line in [
            "har_up 1",
            "har_queries_total{name=\"api.example.com\",type=\"AAAA\"} 6",
            "har_answers_total{name=\"api.example.com\",kind=\"forwarded\"} 5",
            "har_address_latency_seconds{name=\"api.example.com\",host=\"h1.example.com\",address=\"192.0.2.1\",family=\"A\"} 0.00925",
            "har_address_chosen_total{name=\"api.example.com\",host=\"h1.example.com\",address=\"192.0.2.1\",family=\"A\"} 41",
            "har_address_chosen_total{name=\"api.example.com\",host=\"h2.example.com\",address=\"192.0.2.2\",family=\"A\"} 0",
            "har_checks_total{name=\"api.example.com\",host=\"h2.example.com\",address=\"192.0.2.2\",family=\"A\",outcome=\"tls_error\"} 3",
            "har_upstream_rtt_seconds{address=\"10.0.0.2:53\",route=\"\"} 0.0035",
            "har_server_events_total{kind=\"queries\"} 99",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
        assert!(writer.stop(LONG));
    }
}
