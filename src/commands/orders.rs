//! `har drain`, `undrain`, `force-up`, `pin`, `unpin` and `bypass`: a row in the state file's `override` table.
//!
//! A running daemon follows within a second, one that is started later begins with it. What is typed is held against
//! the configuration first (against the state file while that is invalid), since an order about nothing helps nobody
//! at night.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::ground::Ground;
use super::status::endpoints;
use super::subject::{self, Known};
use super::{Ended, Failure, life};
use crate::health::endpoint::input_without_spec;
use crate::health::overrides::{Target, is_by_record};
use crate::health::rank::Input;
use crate::health::{self, EndpointRecord, Override, OverrideKind, Time};
use crate::store::{Life, OverrideError, Overrides, Reader, Stored, time};

/// Longest time that can be stated for an order: ten years. What is to hold for longer has no end.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Characters of a reason: a line in the log and in tables.
const REASON_LENGTH: usize = 500;

/// Names in one remark; of more the number is told.
const SHOWN_NAMES: usize = 5;

/// An order to give.
#[derive(Clone, Debug)]
pub struct Order {
    /// What it does.
    pub kind: OverrideKind,
    /// One configured name, or all.
    pub name: Option<String>,
    /// The candidate or address; `None` only for a bypass.
    pub target: Option<String>,
    /// How long it holds; `None` = until it is taken back.
    pub length: Option<Duration>,
    /// Why.
    pub reason: Option<String>,
    /// Take names and targets that the configuration does not know.
    pub force: bool,
}

/// An order to take back.
#[derive(Clone, Debug)]
pub struct Withdrawal {
    /// What it does.
    pub kind: OverrideKind,
    /// The name it is for; `None` = the one for all names.
    pub name: Option<String>,
    /// The candidate or address; `None` = any.
    pub target: Option<String>,
}

fn failure(error: OverrideError) -> Failure {
    Failure::Run(error.to_string())
}

/// Gives an order and says what it means. An order that is there already is put in its place.
pub fn give(ground: &Ground, order: &Order, out: &mut dyn Write) -> Ended {
    let known = known(ground)?;
    let row = checked(&known, &ground.state, order)?;
    let mut overrides = Overrides::open(&ground.state).map_err(failure)?;
    let before = overrides.list().map_err(failure)?;
    // A name has one pin, whatever it was pinned to.
    let target = row.target.as_deref().filter(|_| row.kind != OverrideKind::Pin);
    let replaced: Vec<i64> = before
        .iter()
        .filter(|other| is_meant(other, row.kind, row.name.as_deref(), target))
        .map(|row| row.id)
        .collect();
    let id = overrides.replace(&replaced, &row).map_err(failure)?;
    drop(overrides);
    let verb = if replaced.is_empty() { "" } else { ", in place of the one before" };
    writeln!(out, "override {id}: {}{verb}", words(&row))?;
    // The order stands; what it leads to is told as far as it is known.
    if let Ok(stored) = Reader::current(&ground.state) {
        remarks(&known, &row, &stored, out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Takes an order back; that there is none is a failure.
pub fn withdraw(state: &Path, order: &Withdrawal, out: &mut dyn Write) -> Ended {
    let overrides = Overrides::open(state).map_err(failure)?;
    let name = order.name.as_deref().map(subject::spelling);
    let before = overrides.list().map_err(failure)?;
    let mut removed = 0;
    for row in before.iter().filter(|row| is_meant(row, order.kind, name.as_deref(), order.target.as_deref())) {
        if overrides.remove_row(row.id).map_err(failure)? {
            removed += 1;
            writeln!(out, "removed override {}: {}", row.id, words(row))?;
        }
    }
    drop(overrides);
    if removed == 0 {
        return Err(Failure::Run(nothing_removed(state, order, &before)));
    }
    if let Ok(stored) = Reader::current(state) {
        daemon_remark(&stored, out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The names that an order can be for.
fn known(ground: &Ground) -> Result<Known, Failure> {
    if let Some(config) = &ground.config {
        return Ok(Known::of_config(config));
    }
    let stored = Reader::open(&ground.state).and_then(|reader| reader.load());
    Ok(Known::of_state(&stored.map_err(|error| Failure::Run(error.to_string()))?))
}

/// The row of an order, everything in it found to be possible.
fn checked(known: &Known, state: &Path, order: &Order) -> Result<Override, Failure> {
    let now = time::now();
    if order.length.is_some_and(|length| length.is_zero() || length > LONGEST) {
        return Err(Failure::Usage(
            "--for takes more than nothing and at most ten years; left out, it is until undone".to_owned(),
        ));
    }
    if let Some(reason) = &order.reason {
        if reason.chars().count() > REASON_LENGTH {
            return Err(Failure::Usage(format!("--reason takes at most {REASON_LENGTH} characters")));
        }
        if reason.chars().any(char::is_control) {
            return Err(Failure::Usage("--reason takes one line without control characters".to_owned()));
        }
    }
    let name = match &order.name {
        Some(name) if order.force => Some(subject::spelling(name)),
        Some(name) => Some(known.name(name)?),
        None => None,
    };
    let target = match &order.target {
        Some(target) if order.force => Some(subject::parse(target)?.to_string()),
        Some(target) => Some(subject::target(known, name.as_deref(), &known_endpoints(state), target)?.to_string()),
        None => None,
    };
    Ok(Override {
        id: 0,
        kind: order.kind,
        name,
        target,
        expires_at: order.length.map(|length| now.after(length)),
        reason: order.reason.clone().filter(|reason| !reason.trim().is_empty()),
        created_by: author(),
        created_at: Some(now),
    })
}

/// What is known of addresses; without a state that can be read, nothing.
fn known_endpoints(state: &Path) -> Vec<EndpointRecord> {
    let stored = Reader::open(state).and_then(|reader| reader.load());
    stored.map(|stored| stored.endpoints).unwrap_or_default()
}

/// The person behind the command, through sudo too.
fn author() -> Option<String> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let account = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    let author = variable("SUDO_USER").or_else(account)?;
    Some(author.chars().filter(|c| !c.is_control()).take(64).collect())
}

/// Whether a row is what an order or its end is about, in whatever spelling.
fn is_meant(row: &Override, kind: OverrideKind, name: Option<&str>, target: Option<&str>) -> bool {
    let target_fits = target.is_none_or(|target| {
        let wanted = Target::parse(&subject::spelling(target));
        row.target.as_deref().is_some_and(|target| Target::parse(target) == wanted)
    });
    row.kind == kind && row.name.as_deref() == name && target_fits
}

/// A row as a sentence: `drain 10.0.0.1 for all names until 2026-11-21T08:00:00.000Z (disk), by alice`.
pub fn words(row: &Override) -> String {
    let mut words = row.kind.as_str().to_owned();
    match row.kind {
        OverrideKind::Pin => {
            let (name, target) = (row.name.as_deref().unwrap_or("-"), row.target.as_deref().unwrap_or("-"));
            words += &format!(" {name} to {target}");
        }
        OverrideKind::Bypass => words += &format!(" {}", row.name.as_deref().unwrap_or("every name")),
        OverrideKind::Drain | OverrideKind::ForceUp => {
            words += &format!(
                " {} for {}",
                row.target.as_deref().unwrap_or("-"),
                row.name.as_deref().unwrap_or("all names")
            );
        }
    }
    match row.expires_at {
        Some(end) => words += &format!(" until {}", time::to_text(end)),
        None => words += " until undone",
    }
    if let Some(reason) = &row.reason {
        words += &format!(" ({reason})");
    }
    if let Some(author) = &row.created_by {
        words += &format!(", by {author}");
    }
    words
}

/// What an operator should know after giving an order.
fn remarks(known: &Known, row: &Override, stored: &Stored, out: &mut dyn Write) -> Result<(), Failure> {
    daemon_remark(stored, out)?;
    in_vain(known, row, stored, out)?;
    if row.kind != OverrideKind::Drain {
        return Ok(());
    }
    let target = Target::parse(row.target.as_deref().unwrap_or_default());
    for name in meant(known, row) {
        let own = || endpoints(stored, &name, None);
        let is_hit = |endpoint: &EndpointRecord| target.matches(&endpoint.host, endpoint.address);
        let is_left = |endpoint: &EndpointRecord| !is_hit(endpoint) && endpoint.is_fit();
        if own().any(is_hit) && !own().any(is_left) {
            writeln!(out, "warning: nothing else of {name} is up: its rule for all down (when_all_down) decides")?;
        }
    }
    Ok(())
}

/// The names that an order is for.
fn meant<'a>(known: &'a Known, row: &'a Override) -> impl Iterator<Item = String> + 'a {
    known.names().filter(|name| row.name.as_ref().is_none_or(|only| only == name))
}

/// Tells of the orders, and the drain records, that go before this one, so that it does nothing as long as they hold.
fn in_vain(known: &Known, row: &Override, stored: &Stored, out: &mut dyn Write) -> Result<(), Failure> {
    let rows = health::overrides::Overrides::new(stored.overrides.clone(), time::now());
    let Some(row) =
        rows.rows().iter().find(|other| is_meant(other, row.kind, row.name.as_deref(), row.target.as_deref()))
    else {
        return Ok(());
    };
    let mut above: BTreeMap<i64, (&Override, Vec<String>)> = BTreeMap::new();
    for name in meant(known, row) {
        let own: Vec<&EndpointRecord> = endpoints(stored, &name, None).collect();
        let effects: Vec<_> = own.iter().map(|e| rows.effect(&name, &e.host, e.address, None)).collect();
        // As the orders are now, which the record may not show yet.
        let inputs: Vec<_> = own
            .iter()
            .zip(&effects)
            .map(|(e, effect)| Input {
                forced: effect.forced,
                drained: effect.drained.as_deref(),
                ..input_without_spec(e)
            })
            .collect();
        if let Some(other) = rows.above(row, &name, &inputs) {
            above.entry(other.id).or_insert_with(|| (other, Vec::new())).1.push(name);
        } else if row.kind == OverrideKind::ForceUp && row.name.is_none() {
            let target = Target::parse(row.target.as_deref().unwrap_or_default());
            let mut hit = own.iter().filter(|e| target.matches(&e.host, e.address));
            if let Some(words) = hit.find_map(|e| e.drained.as_deref().filter(|words| is_by_record(words))) {
                let way = format!("with --name {name} this order goes before that");
                writeln!(out, "warning: no effect on {name}: it is drained {words}; {way}")?;
            }
        }
    }
    for (other, names) in above.values() {
        let shown = names.iter().take(SHOWN_NAMES).cloned().collect::<Vec<_>>().join(", ");
        let more = names.len().saturating_sub(SHOWN_NAMES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        writeln!(out, "warning: no effect on {shown}{more} as long as override {} holds: {}", other.id, words(other))?;
    }
    Ok(())
}

fn daemon_remark(stored: &Stored, out: &mut dyn Write) -> Result<(), Failure> {
    match (stored.life(), life::stranger(stored)) {
        (Life::Running | Life::Silent, _) => {}
        (_, Some(pid)) => writeln!(
            out,
            "warning: har runs as process {pid} but did not write this file: it may not follow; `har doctor` says more"
        )?,
        (_, None) => writeln!(out, "no daemon is running: it takes effect when har is started")?,
    }
    Ok(())
}

/// Why there was nothing to take back, and what there is instead.
fn nothing_removed(state: &Path, order: &Withdrawal, rows: &[Override]) -> String {
    let (kind, now) = (order.kind.as_str(), time::now());
    let of = order.target.as_deref().map(|target| format!(" of {target}")).unwrap_or_default();
    let reach = order.name.as_deref().map_or_else(|| "for all names".to_owned(), |name| format!("for {name}"));
    let mut line = format!("there is no {kind}{of} {reach}");
    let holds = |row: &&Override| row.expires_at.is_none_or(|end: Time| end > now);
    let same_target = |row: &&Override| {
        row.kind == order.kind && is_meant(row, order.kind, row.name.as_deref(), order.target.as_deref())
    };
    if let Some(other) = rows.iter().filter(holds).find(same_target) {
        let hint = match (&other.name, order.kind) {
            (Some(name), OverrideKind::Bypass) => format!("but one for {name}: state that name"),
            (Some(name), OverrideKind::Pin) => format!("but one for {name}"),
            (Some(name), _) => format!("but one for {name}: add --name {name}"),
            (None, OverrideKind::Bypass) => "but one for every name: leave the name out".to_owned(),
            (None, _) => "but one for all names: leave --name out".to_owned(),
        };
        return format!("{line}, {hint}");
    }
    let wanted = order.target.as_deref().map(|target| Target::parse(&subject::spelling(target)));
    let by_record = known_endpoints(state).into_iter().find_map(|endpoint| {
        let is_it = wanted.as_ref().is_some_and(|wanted| wanted.matches(&endpoint.host, endpoint.address));
        endpoint.drained.filter(|words| is_it && is_by_record(words))
    });
    if let (Some(words), OverrideKind::Drain) = (by_record, order.kind) {
        return format!("{line}: it is drained {words}; `har force-up` with --name overrules that on this host");
    }
    line += "; `har overrides` lists what there is";
    line
}
