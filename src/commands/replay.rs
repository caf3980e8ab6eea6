//! `har replay`: what another configuration would have answered, from the recorded results of checks.
//!
//! Both configurations, the one that har runs with and the new one, go through the same records in a fresh roster of
//! the daemon's own. The state file is only read, a few thousand rows at a time, so that a running daemon is not
//! held up. What cannot be known from records is left out and said.

mod course;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::ground::same_file;
use super::{Ended, Failure};
use crate::config::{self, Config};
use crate::health::{Family, Host, NameSpec, Time};
use crate::poll::catalogue::Catalogue;
use crate::poll::refit;
use crate::store::{ReadError, Reader, Stored, TargetRow, place_among, time};
use course::{Course, Outcomes, Record, Recording};

/// What `har replay` was asked for.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// The configuration to be tried.
    pub new: PathBuf,
    /// The one to compare with; `None` = the one the daemon of the state file was started with.
    pub old: Option<PathBuf>,
    /// The state file with the records; `None` = that of the new configuration.
    pub state: Option<PathBuf>,
    /// JSON instead of a table.
    pub json: bool,
}

/// Everything that is shown.
#[derive(serde::Serialize)]
struct Report {
    old: String,
    new: String,
    from: String,
    to: String,
    results: u64,
    names: Vec<Line>,
    notes: Vec<String>,
}

#[derive(serde::Serialize)]
struct Line {
    name: String,
    family: &'static str,
    old: Option<Outcomes>,
    new: Option<Outcomes>,
}

/// Replays the recorded results and shows the difference.
pub fn run(options: &ReplayOptions, machine_id: &[u8], out: &mut dyn Write) -> Ended {
    let new = config::look(&options.new).map_err(Failure::Config)?;
    let state = options.state.clone().unwrap_or_else(|| new.server.state.clone());
    let failure = |error: ReadError| Failure::Run(error.to_string());
    let reader = Reader::open(&state).map_err(failure)?;
    let stored = reader.load().map_err(failure)?;
    let running = stored.daemon.as_ref().map(|daemon| PathBuf::from(&daemon.config));
    let Some(old_path) = options.old.clone().or(running) else {
        return Err(Failure::Usage(
            "no daemon has written this state: name the old configuration with --old".to_owned(),
        ));
    };
    let old = config::look(&old_path).map_err(|report| {
        Failure::Usage(format!("the old configuration cannot be read; name another one with --old\n{report}"))
    })?;
    let targets = reader.targets().map_err(failure)?;
    let Some(end) = targets.iter().map(|target| target.last).max() else {
        let line = format!("no results are recorded in {}: is server.history above 0s?", state.display());
        return Err(Failure::Run(line));
    };
    let recording = recording(&targets, &stored);
    let mut notes = Vec::new();
    if same_file(&old.path, &new.path) {
        notes.push("both are the same file: name the one that was in use with --old".to_owned());
    }
    let (old_specs, new_specs) = (specs(&old, &stored), specs(&new, &stored));
    for (which, specs) in [("old", &old_specs), ("new", &new_specs)] {
        notes.extend(unrecorded(which, specs, &recording));
    }
    let mut courses = [Course::new(old_specs, machine_id, &recording), Course::new(new_specs, machine_id, &recording)];
    let (results, set_back) = feed(&reader, &targets, &mut courses)?;
    notes.extend(clock(set_back));
    let [old_course, new_course] = courses;
    let report = Report {
        old: old.path.display().to_string(),
        new: new.path.display().to_string(),
        from: time::to_text(recording.begin),
        to: time::to_text(end),
        results,
        names: lines(old_course.finish(end), new_course.finish(end)),
        notes,
    };
    let text = if options.json {
        // Nothing in it can fail to be written: text and finite numbers.
        serde_json::to_string(&report).unwrap_or_default() + "\n"
    } else {
        table(&report)
    };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The names of a configuration as the daemon would see them, with the candidates that it found. Checks that could not
/// be run do not matter here.
fn specs(config: &Config, stored: &Stored) -> Vec<NameSpec> {
    Catalogue::default().compile(&mut refit::with_stored(config, stored)).specs
}

fn recording(targets: &[TargetRow], stored: &Stored) -> Recording {
    let mut recording = Recording {
        begin: targets.iter().map(|target| target.first).min().unwrap_or_default(),
        // Where the interval is not known any more, the default.
        interval: stored
            .endpoints
            .iter()
            .map(|endpoint| Duration::from_millis(endpoint.interval_ms))
            .max()
            .unwrap_or(Duration::from_secs(10)),
        ..Recording::default()
    };
    let mut add = |host: &Host, address, first: Time, last: Time| {
        let Host::Name(host) = host else { return };
        let known: &mut BTreeMap<_, _> = recording.hosts.entry(Arc::clone(host)).or_default();
        let span = known.entry(address).or_insert((first, last));
        *span = (span.0.min(first), span.1.max(last));
    };
    // Of each address and check, whomever it is filed under.
    let mut spans: HashMap<IpAddr, BTreeMap<&str, (Time, Time)>> = HashMap::new();
    for target in targets {
        add(&target.host, target.address, target.first, target.last);
        let span = spans.entry(target.address).or_default().entry(&*target.definition);
        let span = span.or_insert((target.first, target.last));
        *span = (span.0.min(target.first), span.1.max(target.last));
    }
    // A check that several candidates share is recorded for one of them.
    for endpoint in &stored.endpoints {
        for (definition, (first, last)) in spans.get(&endpoint.address).into_iter().flatten() {
            if place_among(definition, &endpoint.definition).is_some() {
                add(&endpoint.host, endpoint.address, *first, *last);
            }
        }
    }
    for target in targets {
        *recording.checks.entry((target.address, Arc::clone(&target.definition))).or_default() += target.results;
    }
    recording
}

/// What a clock that was set back means for what is shown.
fn clock(set_back: usize) -> Option<String> {
    let times = if set_back == 1 { "once".to_owned() } else { format!("{set_back} times") };
    let line = "results are taken in the order of the times they have, also those of a clock that was ahead";
    (set_back > 0).then(|| format!("the clock was set back {times} while this was recorded: {line}"))
}

/// A line for each candidate that the records say nothing about.
fn unrecorded(which: &str, specs: &[NameSpec], recording: &Recording) -> Vec<String> {
    let mut notes = Vec::new();
    for spec in specs {
        for candidate in &spec.candidates {
            let missing: Vec<&str> = candidate
                .checks
                .iter()
                .filter(|check| !check.is_none && !recording.has(&candidate.host, &check.definition))
                .map(|check| &*check.definition)
                .collect();
            if !missing.is_empty() {
                notes.push(format!(
                    "{which}: nothing is recorded for {} of {} with the check {}: it counts as unknown",
                    candidate.host,
                    spec.name,
                    missing.join("; ")
                ));
            }
        }
    }
    notes
}

/// Gives every result to both; returns how many there were, and how often the clock was set back between them.
fn feed(reader: &Reader, targets: &[TargetRow], courses: &mut [Course<'_>; 2]) -> Result<(u64, usize), Failure> {
    let targets: HashMap<i64, &TargetRow> = targets.iter().map(|target| (target.id, target)).collect();
    let mut count = 0;
    let set_back = reader.each_result_by_time(|row| {
        // A target that came after the list was made is a matter of the next replay.
        let Some(target) = targets.get(&row.target) else { return };
        let record = Record {
            at: row.at,
            address: target.address,
            definition: Arc::clone(&target.definition),
            result: row.result,
        };
        courses.iter_mut().for_each(|course| course.feed(&record));
        count += 1;
    });
    Ok((count, set_back.map_err(|error| Failure::Run(error.to_string()))?))
}

type Finished = Vec<(Arc<str>, Family, Outcomes)>;

/// Both side by side, in the order of the new configuration; what only the old one has follows.
fn lines(old: Finished, new: Finished) -> Vec<Line> {
    let mut before: HashMap<(Arc<str>, Family), Outcomes> = HashMap::new();
    let mut order = Vec::new();
    for (name, family, outcomes) in old {
        order.push((Arc::clone(&name), family));
        before.insert((name, family), outcomes);
    }
    let mut lines: Vec<Line> = Vec::new();
    for (name, family, outcomes) in new {
        let old = before.remove(&(Arc::clone(&name), family));
        lines.push(Line { name: name.to_string(), family: family.record(), old, new: Some(outcomes) });
    }
    for key in order {
        if let Some(outcomes) = before.remove(&key) {
            lines.push(Line { name: key.0.to_string(), family: key.1.record(), old: Some(outcomes), new: None });
        }
    }
    lines
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "{} results from {} to {}\nold: {}\nnew: {}\n\n",
        report.results, report.from, report.to, report.old, report.new
    );
    let mut rows = vec![[
        "name".to_owned(),
        String::new(),
        "changes".to_owned(),
        "on a dead address".to_owned(),
        "without an address".to_owned(),
        "latency".to_owned(),
        "best available".to_owned(),
    ]];
    for line in &report.names {
        for (which, outcomes) in [("old", &line.old), ("new", &line.new)] {
            let name = if which == "old" { format!("{} {}", line.name, line.family) } else { String::new() };
            let cells = match outcomes {
                None => ["not configured".to_owned(), String::new(), String::new(), String::new(), String::new()],
                Some(outcomes) => [
                    outcomes.changes.to_string(),
                    share(outcomes.dead_ms, outcomes.total_ms),
                    share(outcomes.empty_ms, outcomes.total_ms),
                    latency(outcomes.answered_latency_ms),
                    latency(outcomes.best_latency_ms),
                ],
            };
            let [changes, dead, empty, answered, best] = cells;
            rows.push([name, which.to_owned(), changes, dead, empty, answered, best]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    if !report.notes.is_empty() {
        text.push('\n');
    }
    for note in &report.notes {
        text.push_str(&format!("{note}\n"));
    }
    text
}

/// `12.3 s (0.4 %)`
fn share(part_ms: u64, total_ms: u64) -> String {
    let percent = 100.0 * part_ms as f64 / total_ms.max(1) as f64;
    format!("{:.1} s ({percent:.2} %)", part_ms as f64 / 1000.0)
}

fn latency(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"))
}

#[cfg(test)]
mod tests;
