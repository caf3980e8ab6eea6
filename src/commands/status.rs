//! `har status`: what is answered now, why, and how every candidate does.
//!
//! Everything comes from the state file, so that the command works as any user and with no daemon running, and
//! says which of the two it is. `--json` is documented in `docs/monitoring.md` and only grows. `--check` ends as
//! monitoring plugins do: 0 fine, 1 a warning, 2 critical, 3 unknown.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::fitness::{Fitness, Level};
use super::subject::Known;
use super::{Ended, Failure, life};
use crate::config::values::in_names;
use crate::health::decide::why_unknown;
use crate::health::{AnswerRecord, EndpointRecord, Family, Time};
use crate::store::{CandidateRow, Life, NameRow, ReadError, Reader, Stored, time};

/// What `har status` was asked for.
#[derive(Clone, Debug, Default)]
pub struct StatusOptions {
    /// Only this name.
    pub name: Option<String>,
    /// JSON instead of a table.
    pub json: bool,
    /// One line and an exit status for a monitoring system.
    pub check: bool,
}

/// Shows the state file `state`.
pub fn run(state: &Path, options: &StatusOptions, out: &mut dyn Write) -> Ended {
    let stored = match Reader::current(state).map_err(failure).and_then(|all| of_name(all, options.name.as_deref())) {
        Ok(stored) => stored,
        Err(Failure::Run(line) | Failure::Usage(line)) if options.check => return unknown(&line, out),
        Err(failure) => return Err(failure),
    };
    let now = time::now();
    if options.check {
        let (level, line) = verdict(&stored, now);
        writeln!(out, "{line}")?;
        return Ok(ExitCode::from(level));
    }
    let text = if options.json { json(&stored, now) } else { table(&stored, now) };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Tells a monitoring system that nothing can be told: the first line of why.
pub fn unknown(why: &str, out: &mut dyn Write) -> Ended {
    writeln!(out, "UNKNOWN: {}", why.lines().next().unwrap_or_default())?;
    Ok(ExitCode::from(3))
}

/// The state of all names, or of one.
pub(super) fn read(state: &Path, name: Option<&str>) -> Result<Stored, Failure> {
    let stored = Reader::open(state).and_then(|reader| reader.load()).map_err(failure)?;
    of_name(stored, name)
}

fn failure(error: ReadError) -> Failure {
    Failure::Run(error.to_string())
}

fn of_name(mut stored: Stored, name: Option<&str>) -> Result<Stored, Failure> {
    if let Some(wanted) = name {
        let wanted = Known::of_state(&stored).answering(wanted)?;
        stored.names.retain(|(row, _)| *row.name == *wanted);
    }
    Ok(stored)
}

/// The table, and what of it is worth another look: all but ages and latencies.
pub(super) fn page(state: &Path, options: &StatusOptions) -> Result<(String, String), Failure> {
    let stored = read(state, options.name.as_deref())?;
    let mut substance = format!("{:?} {:?}\n", stored.life(), stored.overrides);
    for (row, _) in &stored.names {
        for family in Family::BOTH {
            let answer = answer(&stored, &row.name, family);
            let answer = answer.map(|answer| (&answer.addresses, &answer.basis, why_unknown(&answer.reason)));
            let _ = writeln!(substance, "{} {} {answer:?}", row.name, row.mode);
        }
        for endpoint in endpoints(&stored, &row.name, None) {
            let EndpointRecord { host, address, state, chosen, drained, forced, stale, .. } = endpoint;
            let _ = writeln!(substance, "{host} {address} {} {chosen} {drained:?} {forced} {stale}", state.as_str());
        }
        for candidate in without_address(&stored, &row.name) {
            let _ = writeln!(substance, "{} {}", candidate.host, why_without(candidate));
        }
    }
    Ok((table(&stored, time::now()), substance))
}

/// The line of a monitoring plugin and its exit status.
fn verdict(stored: &Stored, now: Time) -> (u8, String) {
    match stored.life() {
        Life::Running => (),
        Life::Never => return (3, "UNKNOWN: no daemon has written this state yet".to_owned()),
        _ => return (2, format!("CRITICAL: {}", daemon_line(stored, now))),
    }
    let (mut without, mut degraded, mut drained) = (Vec::new(), Vec::new(), Vec::new());
    for (row, _) in &stored.names {
        let fitness = Fitness::of(stored, &row.name);
        let words = match fitness.words() {
            words if words.is_empty() => row.name.to_string(),
            words => format!("{} ({words})", row.name),
        };
        match fitness.level() {
            Level::Bad => without.push(words),
            Level::Warn => degraded.push(words),
            Level::Good if fitness.drained > 0 => drained.push(words),
            Level::Good => (),
        }
    }
    let total = stored.names.len();
    if !without.is_empty() {
        (2, format!("CRITICAL: nothing up for {} of {}: {}", without.len(), in_names(total), without.join(", ")))
    } else if !degraded.is_empty() {
        (
            1,
            format!(
                "WARNING: {} of {total} names have addresses that are not up: {}",
                degraded.len(),
                degraded.join(", ")
            ),
        )
    } else {
        let but = if drained.is_empty() { String::new() } else { format!(", but {}", drained.join(", ")) };
        (0, format!("OK: everything up for {}{but}", in_names(total)))
    }
}

pub(super) fn daemon_line(stored: &Stored, now: Time) -> String {
    let Some(daemon) = &stored.daemon else { return "no daemon has written this state yet".to_owned() };
    let age = age(now, daemon.heartbeat_at);
    let mut line = match stored.life() {
        Life::Running => format!("har {} runs as process {}, state of {age} ago", daemon.version, daemon.pid),
        Life::Silent => format!("har runs as process {} but has written nothing for {age}: see its log", daemon.pid),
        Life::Stopped | Life::Gone | Life::Never => match (life::stranger(stored), daemon.stopped_at) {
            (Some(pid), _) => {
                format!(
                    "har runs as process {pid} but did not write this file, last written {age} ago: `har doctor` says more"
                )
            }
            (None, Some(_)) => format!("har is not running: it was stopped {age} ago"),
            (None, None) => format!("har is not running: it was last heard of {age} ago and did not end in order"),
        },
    };
    if !daemon.note.is_empty() {
        let _ = write!(line, "; {}", daemon.note);
    }
    line
}

fn table(stored: &Stored, now: Time) -> String {
    let mut text = daemon_line(stored, now) + "\n";
    for order in stored.overrides.iter().filter(|order| order.expires_at.is_none_or(|end| end > now)) {
        let _ = write!(text, "override {}: {}", order.id, order.kind.as_str());
        for part in [&order.target, &order.name].into_iter().flatten() {
            let _ = write!(text, " {part}");
        }
        if let Some(end) = order.expires_at {
            let _ = write!(text, ", for {} more", span(end.since(now)));
        }
        let _ = writeln!(text, "{}", order.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default());
    }
    for (row, _) in &stored.names {
        for family in Family::BOTH {
            let ranked: Vec<&EndpointRecord> = endpoints(stored, &row.name, Some(family)).collect();
            let answer = answer(stored, &row.name, family);
            if ranked.is_empty() && answer.is_none_or(|answer| answer.addresses.is_empty()) {
                continue;
            }
            let _ = write!(text, "\n{} {}  ", row.name, family.record());
            if let Some(observed) = observed(row) {
                let _ = write!(text, "{observed}; would be: ");
            }
            let _ = writeln!(text, "{}", answered(answer, now));
            text.push_str(&candidates(&ranked, now));
        }
        if endpoints(stored, &row.name, None).next().is_none() {
            let _ = writeln!(text, "\n{}  {}", row.name, no_address(stored, row));
        }
        for candidate in without_address(stored, &row.name) {
            let _ = writeln!(text, "     {}  no address: {}", candidate.host, why_without(candidate));
        }
    }
    text
}

fn answered(answer: Option<&AnswerRecord>, now: Time) -> String {
    let Some(answer) = answer else { return "nothing yet".to_owned() };
    let addresses = match &*answer.addresses {
        [] => "nothing".to_owned(),
        addresses => addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
    };
    if is_ordered(answer) {
        return format!("{addresses}  {}", answer.reason);
    }
    format!("{addresses}  for {}: {}", age(now, answer.since), answer.reason)
}

/// Whether it is answered because of an order, which may be younger than the answer: since when that is beside it would
/// read as the order's age.
pub(super) fn is_ordered(answer: &AnswerRecord) -> bool {
    matches!(&*answer.basis, "bypass" | "pinned")
}

/// Aligned lines, a candidate's address each.
fn candidates(ranked: &[&EndpointRecord], now: Time) -> String {
    let lines: Vec<[String; 7]> = ranked
        .iter()
        .map(|endpoint| {
            let error = endpoint.last_outcome.filter(|&outcome| outcome != crate::health::Outcome::Ok);
            let error = error.map(|outcome| match &endpoint.last_error {
                Some(error) => format!("{}: {error}", outcome.as_str()),
                None => outcome.as_str().to_owned(),
            });
            let remark = match error {
                Some(error) => format!("{}; {error}", endpoint.words()),
                None => endpoint.words().into_owned(),
            };
            [
                if endpoint.chosen { "*" } else { " " }.to_owned(),
                endpoint.address.to_string(),
                endpoint.host.to_string(),
                endpoint.state.as_str().to_owned(),
                endpoint.latency_ms.map_or_else(|| "-".to_owned(), |latency| format!("{latency:.1} ms")),
                endpoint.last_check.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(now, at))),
                remark,
            ]
        })
        .collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let mut shown = " ".to_owned();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Numbers end at the same place, words begin there.
            let _ = match column {
                4 => write!(shown, " {cell:>width$} "),
                _ => write!(shown, " {cell:<width$} "),
            };
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn endpoints<'a>(
    stored: &'a Stored,
    name: &'a str,
    family: Option<Family>,
) -> impl Iterator<Item = &'a EndpointRecord> + 'a {
    // They lie in the order of name, family and rank.
    let start = stored.endpoints.partition_point(|endpoint| &*endpoint.name < name);
    let of_name = stored.endpoints.iter().skip(start).take_while(move |endpoint| &*endpoint.name == name);
    of_name.filter(move |endpoint| family.is_none_or(|family| Family::of(endpoint.address) == family))
}

/// What stands before the answers of a name that is only observed: they are not given.
pub(super) fn observed(row: &NameRow) -> Option<&'static str> {
    (row.mode == "observe").then_some("observed, every query is forwarded")
}

/// That no address of a name is known, with why no candidate was found where they are searched for.
pub(super) fn no_address(stored: &Stored, row: &NameRow) -> String {
    let why = answer(stored, &row.name, Family::V4).and_then(|answer| why_unknown(&answer.reason));
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let observed = observed(row).map(|words| format!("{words}; ")).unwrap_or_default();
    format!("{observed}no address known{why}")
}

/// The candidates of a name of which no address is known.
pub(super) fn without_address<'a>(stored: &'a Stored, name: &'a str) -> impl Iterator<Item = &'a CandidateRow> + 'a {
    // They lie in the order of name and place.
    let start = stored.candidates.partition_point(|candidate| &*candidate.name < name);
    let of_name = stored.candidates.iter().skip(start).take_while(move |candidate| &*candidate.name == name);
    of_name.filter(move |candidate| !endpoints(stored, name, None).any(|endpoint| endpoint.host == candidate.host))
}

pub(super) fn why_without(candidate: &CandidateRow) -> &str {
    candidate.error.as_deref().unwrap_or("it was not looked up yet")
}

pub(super) fn answer<'a>(stored: &'a Stored, name: &str, family: Family) -> Option<&'a AnswerRecord> {
    // Answers lie in the order of name and family, by the table's key.
    let key = |answer: &AnswerRecord| (&*answer.name, answer.family.record()).cmp(&(name, family.record()));
    stored.answers.binary_search_by(key).ok().and_then(|at| stored.answers.get(at))
}

pub(super) fn age(now: Time, then: Time) -> String {
    span(now.since(then))
}

/// A duration in one unit, rounded down: `12 s`, `5 min`, `3 h`, `2 d`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    /// `running`, `silent`, `stopped`, `gone`, `never`.
    daemon: &'static str,
    pid: Option<u32>,
    version: Option<&'a str>,
    started_at: Option<String>,
    heartbeat_at: Option<String>,
    heartbeat_age_ms: Option<u64>,
    note: Option<&'a str>,
    names: Vec<Name<'a>>,
}

#[derive(Serialize)]
struct Name<'a> {
    name: &'a str,
    mode: &'a str,
    answers: Vec<Answer<'a>>,
    candidates: Vec<Candidate<'a>>,
    without_address: Vec<Without<'a>>,
}

#[derive(Serialize)]
struct Without<'a> {
    host: String,
    error: Option<&'a str>,
    resolved_at: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    family: &'static str,
    addresses: &'a [IpAddr],
    basis: &'a str,
    reason: &'a str,
    since: String,
}

#[derive(Serialize)]
struct Candidate<'a> {
    host: String,
    address: IpAddr,
    family: &'static str,
    rank: Option<u32>,
    chosen: bool,
    state: &'static str,
    since: String,
    standing: Cow<'a, str>,
    latency_ms: Option<f64>,
    connect_ms: Option<f64>,
    total_ms: Option<f64>,
    last_check: Option<String>,
    last_outcome: Option<&'static str>,
    last_error: Option<&'a str>,
    stale: bool,
}

fn json(stored: &Stored, now: Time) -> String {
    let daemon = stored.daemon.as_ref();
    let names = stored.names.iter().map(|(row, _)| Name {
        name: &row.name,
        mode: &row.mode,
        answers: Family::BOTH
            .into_iter()
            .filter_map(|family| answer(stored, &row.name, family))
            .map(|answer| Answer {
                family: answer.family.record(),
                addresses: &answer.addresses,
                basis: &answer.basis,
                reason: &answer.reason,
                since: time::to_text(answer.since),
            })
            .collect(),
        candidates: endpoints(stored, &row.name, None).map(candidate).collect(),
        without_address: without_address(stored, &row.name)
            .map(|candidate| Without {
                host: candidate.host.to_string(),
                error: candidate.error.as_deref(),
                resolved_at: candidate.resolved_at.map(time::to_text),
            })
            .collect(),
    });
    let document = Document {
        daemon: match stored.life() {
            Life::Running => "running",
            Life::Silent => "silent",
            Life::Stopped => "stopped",
            Life::Gone => "gone",
            Life::Never => "never",
        },
        pid: daemon.map(|daemon| daemon.pid),
        version: daemon.map(|daemon| daemon.version.as_str()),
        started_at: daemon.map(|daemon| time::to_text(daemon.started_at)),
        heartbeat_at: daemon.map(|daemon| time::to_text(daemon.heartbeat_at)),
        heartbeat_age_ms: daemon
            .map(|daemon| u64::try_from(now.since(daemon.heartbeat_at).as_millis()).unwrap_or(u64::MAX)),
        note: daemon.map(|daemon| daemon.note.as_str()).filter(|note| !note.is_empty()),
        names: names.collect(),
    };
    // Nothing in it can fail to be written: text, numbers and lists.
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

fn candidate(endpoint: &EndpointRecord) -> Candidate<'_> {
    Candidate {
        host: endpoint.host.to_string(),
        address: endpoint.address,
        family: Family::of(endpoint.address).record(),
        rank: endpoint.rank,
        chosen: endpoint.chosen,
        state: endpoint.state.as_str(),
        since: time::to_text(endpoint.since),
        standing: endpoint.words(),
        latency_ms: endpoint.latency_ms,
        connect_ms: endpoint.connect_ms,
        total_ms: endpoint.total_ms,
        last_check: endpoint.last_check.map(time::to_text),
        last_outcome: endpoint.last_outcome.map(crate::health::Outcome::as_str),
        last_error: endpoint.last_error.as_deref(),
        stale: endpoint.stale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;
    use crate::store::Batch;
    use crate::store::tests::{LONG, answer as answer_row, complete, daemon, endpoint, name_row, start};

    fn shown(path: &Path, options: &StatusOptions) -> (Ended, String) {
        let mut out = Vec::new();
        let ended = run(path, options, &mut out);
        (ended, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_table_the_document_and_the_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let check = StatusOptions { check: true, ..StatusOptions::default() };
        let (ended, text) = shown(&path, &check);
        assert_eq!(ended.unwrap(), ExitCode::from(3), "{text}");
        assert!(
            matches!(shown(&path, &StatusOptions::default()).0, Err(Failure::Run(line)) if line.contains("is har running"))
        );

        let (writer, _) = start(&path);
        let mut batch = complete(2);
        writer.send(batch.clone());
        assert!(writer.flush(LONG));
        let (ended, text) = shown(&path, &StatusOptions::default());
        assert_eq!(ended.unwrap(), ExitCode::SUCCESS);
        assert!(text.starts_with("har 0.1.0 runs as process"), "{text}");
        assert!(text.contains("\napi.example.com A  192.0.2.1 192.0.2.2  for "), "{text}");
        assert!(text.contains("\n  *  192.0.2.1  h1.example.com  up   9.2 ms  0 s ago  chosen\n"), "{text}");
        assert!(text.contains("\n     192.0.2.2  h2.example.com  up  10.2 ms  0 s ago  reserve\n"), "{text}");

        let one = StatusOptions { name: Some("API.example.com.".to_owned()), json: true, check: false };
        let document: serde_json::Value = serde_json::from_str(&shown(&path, &one).1).unwrap();
        assert_eq!(document["daemon"], "running");
        assert_eq!(document["names"][0]["answers"][0]["addresses"][0], "192.0.2.1");
        assert_eq!(document["names"][0]["candidates"][1]["state"], "up");
        let other = StatusOptions { name: Some("other".to_owned()), ..StatusOptions::default() };
        assert!(matches!(shown(&path, &other).0, Err(Failure::Usage(_))));
        let slip = StatusOptions { name: Some("apj.example.com".to_owned()), ..StatusOptions::default() };
        let hint = "did you mean 'api.example.com'?";
        assert!(matches!(shown(&path, &slip).0, Err(Failure::Usage(line)) if line.contains(hint)));

        let (ended, text) = shown(&path, &check);
        assert_eq!((ended.unwrap(), text.as_str()), (ExitCode::SUCCESS, "OK: everything up for 1 name\n"));
        // What operators say counts as it does for the answers.
        let says = |change: &dyn Fn(&mut Batch)| {
            let mut batch = batch.clone();
            change(&mut batch);
            writer.send(batch);
            assert!(writer.flush(LONG));
            shown(&path, &check).1
        };
        let drain = |batch: &mut Batch, count: usize| {
            batch.endpoints.iter_mut().take(count).for_each(|endpoint| endpoint.drained = Some("until undone".into()));
        };
        let text = says(&|batch| drain(batch, 1));
        assert_eq!(text, "OK: everything up for 1 name, but api.example.com (1 of 2 up, 1 drained)\n");
        let text = says(&|batch| drain(batch, 2));
        assert_eq!(text, "CRITICAL: nothing up for 1 of 1 name: api.example.com (2 drained)\n");
        let text = says(&|batch| {
            batch.endpoints.iter_mut().for_each(|endpoint| (endpoint.state, endpoint.forced) = (State::Down, true));
        });
        assert_eq!(text, "OK: everything up for 1 name\n");
        batch.endpoints[0].state = State::Down;
        writer.send(batch.clone());
        assert!(writer.flush(LONG));
        assert_eq!(shown(&path, &check).0.unwrap(), ExitCode::from(1));
        batch.endpoints[1].state = State::Down;
        writer.send(batch.clone());
        assert!(writer.flush(LONG));
        assert!(shown(&path, &check).1.starts_with("CRITICAL: nothing up for 1 of 1 name: api.example.com"));
        // A process number that the kernel never gives out, and a heart that stopped.
        let daemon = batch.daemon.as_mut().unwrap();
        (daemon.pid, daemon.heartbeat_at) = (i32::MAX as u32, Time(time::now().0 - 60_000));
        writer.send(batch.clone());
        assert!(writer.flush(LONG));
        assert!(shown(&path, &check).1.starts_with("CRITICAL: har is not running: it was last heard of 60 s ago"));
        batch.daemon.as_mut().unwrap().stopped_at = Some(time::now());
        writer.send(batch);
        assert!(writer.stop(LONG));
        let (ended, text) = shown(&path, &check);
        assert_eq!(ended.unwrap(), ExitCode::from(2));
        assert!(text.starts_with("CRITICAL: har is not running: it was stopped"), "{text}");
    }

    #[test]
    fn what_is_only_observed_is_not_shown_as_given() {
        let mut stored = Stored { daemon: Some(daemon()), ..Stored::default() };
        for name in ["lost.example", "seen.example"] {
            stored.names.push((NameRow { mode: "observe".into(), ..name_row(name) }, Default::default()));
        }
        stored.endpoints.push(endpoint("seen.example", 1));
        let lost = AnswerRecord {
            addresses: [].into(),
            basis: "not-ready".into(),
            reason: "no address is known: SRV x: no such name".into(),
            ..answer_row("lost.example")
        };
        stored.answers = vec![lost, answer_row("seen.example")];
        let text = table(&stored, time::now());
        let head = "\nseen.example A  observed, every query is forwarded; would be: 192.0.2.1 192.0.2.2  for ";
        assert!(text.contains(head), "{text}");
        let head = "\nlost.example  observed, every query is forwarded; no address known: SRV x: no such name\n";
        assert!(text.contains(head), "{text}");
        for (row, _) in &mut stored.names {
            row.mode = "answer".into();
        }
        let text = table(&stored, time::now());
        assert!(text.contains("\nseen.example A  192.0.2.1 192.0.2.2  for "), "{text}");
        assert!(text.contains("\nlost.example  no address known: SRV x: no such name\n"), "{text}");
    }
}
