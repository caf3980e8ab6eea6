//! `har explain`: what is answered for a name and why, and each candidate's part in it, in sentences.
//!
//! Everything is rebuilt from the state file and decided again by the rules of the daemon
//! ([`crate::health::explain`]); where that disagrees with what the daemon recorded, it says so.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use super::status::{age, daemon_line};
use super::{Ended, Failure, life, orders, subject};
use crate::config::{Config, Mode};
use crate::health::decide::Plan;
use crate::health::events::place;
use crate::health::explain::{Rebuilt, Remembered, rebuild};
use crate::health::overrides::{Overrides, Target, own_reason};
use crate::health::rank::Standing;
use crate::health::{
    AnswerRecord, EndpointRecord, Family, Host, NameSpec, Outcome, Override, OverrideKind, State, Time,
};
use crate::os;
use crate::poll::catalogue::Catalogue;
use crate::poll::refit;
use crate::store::{Reader, Stored, time};

/// Explains one name.
pub fn run(config: &Config, asked: &str, out: &mut dyn Write) -> Ended {
    let name = subject::answering(config, asked)?;
    let stored = Reader::current(&config.server.state).map_err(|error| Failure::Run(error.to_string()))?;
    let shown = name.name.to_string();
    let specs = Catalogue::default().compile(&mut refit::with_stored(config, &stored)).specs;
    let Some(spec) = specs.into_iter().find(|spec| *spec.name == *shown) else {
        return Err(Failure::Run(format!("{shown} is not in the compiled configuration")));
    };
    let now = time::now();
    let covered = if asked.trim().trim_end_matches('.').eq_ignore_ascii_case(&shown) || !name.name.is_wildcard() {
        String::new()
    } else {
        format!("{asked} is covered by the wildcard {shown}.\n")
    };
    let observed = name.mode == Mode::Observe;
    let text = covered + &explain(&spec, observed, &stored, now);
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn explain(spec: &NameSpec, observed: bool, stored: &Stored, now: Time) -> String {
    let mut text = format!("{}\n{}.\n", spec.name, daemon_line(stored, now));
    text += life::caveat(stored);
    if !stored.names.iter().any(|(row, _)| row.name == spec.name) {
        text += "This name is in the configuration but not in the state: the daemon has not loaded it yet (SIGHUP or a restart does).\n";
        return text;
    }
    let endpoints: Vec<EndpointRecord> =
        stored.endpoints.iter().filter(|record| record.name == spec.name).cloned().collect();
    let overrides = Overrides::new(stored.overrides.clone(), now);
    let answers = Family::BOTH
        .map(|family| stored.answers.iter().find(|answer| answer.name == spec.name && answer.family == family));
    if observed {
        text +=
            "It is only observed (mode = \"observe\"): every query is forwarded, and what follows would be answered.\n";
    }
    for row in orders_of(&overrides, &spec.name, &endpoints) {
        text += &format!("Ordered: {}.\n", orders::words(row));
    }
    if overrides.bypasses(&spec.name) {
        text += "So every query for it is forwarded, of every type; what follows would be answered without that.\n";
    }
    // Every candidate's name was looked up, with an error or not, and one at least is known.
    let row = |host: &Host| stored.candidates.iter().find(|row| row.name == spec.name && row.host == *host);
    let is_literal = |host: &Host| matches!(host, Host::Address(_));
    let hosts = || spec.candidates.iter().map(|candidate| &candidate.host);
    let tried = |host: &Host| row(host).is_some_and(|row| row.resolved_at.is_some() || row.error.is_some());
    let known = |host: &Host| is_literal(host) || row(host).is_some_and(|row| row.resolved_at.is_some());
    let looked_up = hosts().all(|host| is_literal(host) || tried(host)) && hosts().any(known);
    let machine_id = os::machine_id();
    let rebuilt = rebuild(&Remembered {
        spec,
        endpoints: &endpoints,
        answers,
        overrides: &overrides,
        machine_id: &machine_id,
        looked_up,
    });
    for (family, answer) in rebuilt.iter().zip(answers) {
        text += &format!("\n{}: {}\n", family.family.record(), answered(family, answer, now));
        if let Some(difference) = &family.differs {
            text += &format!(
                "  By this configuration and the recorded state, which the lines below go by, {difference}. The \
                 configuration was changed and not loaded since, or the daemon is in the middle of a change: ask again \
                 in a second.\n"
            );
        }
        for (record, standing) in &family.places {
            text += &format!("  {}: {}\n", place(&record.host, record.address), part(record, *standing, now));
        }
    }
    text += &without_address(spec, stored, &endpoints);
    text
}

/// The orders that bear on a name: for it, or for all names and about one of its candidates.
fn orders_of<'a>(
    overrides: &'a Overrides,
    name: &'a str,
    endpoints: &'a [EndpointRecord],
) -> impl Iterator<Item = &'a Override> {
    overrides.rows().iter().filter(move |row| match (&row.name, row.kind) {
        (Some(own), _) => own == name,
        (None, OverrideKind::Bypass) => true,
        (None, _) => {
            let target = Target::parse(row.target.as_deref().unwrap_or_default());
            endpoints.iter().any(|endpoint| target.matches(&endpoint.host, endpoint.address))
        }
    })
}

/// `10.0.0.1 is answered, for 12 s: why.` By the record alone: what is worked out here only says what would be.
fn answered(family: &Rebuilt<'_>, answer: Option<&AnswerRecord>, now: Time) -> String {
    match (&family.recorded, answer) {
        (Some(recorded), Some(answer)) => {
            let why = own_reason(&answer.reason);
            format!("{}, for {}: {why}.", sentence(recorded, "is"), age(now, answer.since))
        }
        _ => format!("nothing is recorded yet; by this configuration {}.", sentence(&family.plan, "would be")),
    }
}

/// What is done with a query, or would be: `verb` says which.
fn sentence(plan: &Plan, verb: &str) -> String {
    let list = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    match plan {
        Plan::Addresses { turns, stale } => {
            let addresses = plan.addresses();
            let verb = if addresses.len() > 1 && verb == "is" { "are" } else { verb };
            let turns = match turns.len() {
                1 => String::new(),
                _ => format!(" in turn, {} of them in each answer", turns.first().map_or(0, |turn| turn.len())),
            };
            let stale = if *stale { " as a stale answer (EDE 3)" } else { "" };
            format!("{} {verb} answered{turns}{stale}", list(&addresses))
        }
        Plan::Empty => format!("an empty answer {verb} given"),
        Plan::AllDown => format!("SERVFAIL {verb} answered (EDE 22)"),
        Plan::NotReady => format!("SERVFAIL {verb} answered, since no address is known (EDE 14)"),
        Plan::Forward => format!("the query {verb} forwarded"),
    }
}

/// An address's part: its standing, then its real state, then its last check.
fn part(record: &EndpointRecord, standing: Standing, now: Time) -> String {
    let mut text = standing.words(record.since, record.drained.as_deref()).into_owned();
    if record.forced {
        text += ". It is held up by an override";
    }
    let really = if record.drained.is_some() || record.forced { "Really it" } else { "It" };
    text += &match (standing, record.state) {
        (Standing::Down, _) => String::new(),
        (_, State::Unknown) => format!(". {really} is not known to be up or down"),
        (_, state) => format!(". {really} is {} (for {})", state.as_str(), age(now, record.since)),
    };
    match (record.latency_ms, record.deviation_ms) {
        (Some(latency), Some(deviation)) => text += &format!(", {latency:.1} ms on average (± {deviation:.1})"),
        (Some(latency), None) => text += &format!(", {latency:.1} ms on average"),
        (None, _) => {}
    }
    match (record.last_check, record.last_outcome) {
        (Some(at), Some(outcome)) => {
            text += &format!("; last checked {} ago: {}", age(now, at), outcome.as_str());
            match record.last_error.as_deref() {
                Some(error) if outcome != Outcome::Ok => text += &format!(" ({error})"),
                // One of several checks fails, or it is not yet up again.
                Some(error) if record.state == State::Down => text += &format!("; its last failure: {error}"),
                _ => {}
            }
        }
        _ if record.definition.as_ref() == "none" => text += "; it is not checked",
        _ => text += "; it was never checked",
    }
    if record.stale {
        text += "; its name no longer resolves, it is kept for resolve_hold";
    }
    text + "."
}

/// The candidates of which no address is known.
fn without_address(spec: &NameSpec, stored: &Stored, endpoints: &[EndpointRecord]) -> String {
    let mut text = String::new();
    for candidate in &spec.candidates {
        if endpoints.iter().any(|endpoint| endpoint.host == candidate.host) {
            continue;
        }
        let row = stored.candidates.iter().find(|row| row.name == spec.name && row.host == candidate.host);
        let why = match row {
            Some(row) => row.error.clone().unwrap_or_else(|| "it was not looked up yet".to_owned()),
            None => "it is in the configuration, but the daemon has not loaded that yet".to_owned(),
        };
        text += &format!("\n{}: no address is known: {why}.\n", candidate.host);
    }
    for endpoint in endpoints.iter().filter(|e| !spec.candidates.iter().any(|c| c.host == e.host)) {
        let words = place(&endpoint.host, endpoint.address);
        text += &format!(
            "\n{words} is in the state, but no candidate in the configuration any more: it is not loaded yet.\n"
        );
    }
    text
}
