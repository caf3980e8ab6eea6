//! `har overrides`: the orders in the state file, what is left of their time, and what drain records take out.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::status::{age, span};
use super::{Ended, Failure, table};
use crate::health::overrides::is_by_record;
use crate::health::{Override, Time};
use crate::store::{Reader, Stored, time};

/// Shows them; any user who may read the state file can.
pub fn run(state: &Path, json: bool, out: &mut dyn Write) -> Ended {
    let stored = Reader::open(state).and_then(|reader| reader.load());
    let stored = stored.map_err(|error| Failure::Run(error.to_string()))?;
    let now = time::now();
    let text = if json { document(&stored, now) } else { listing(&stored, now) };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn listing(stored: &Stored, now: Time) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for row in &stored.overrides {
        let or = |text: &Option<String>, other: &str| text.clone().unwrap_or_else(|| other.to_owned());
        rows.push(vec![
            row.id.to_string(),
            row.kind.as_str().to_owned(),
            or(&row.target, "-"),
            or(&row.name, "all names"),
            left(row, now),
            or(&row.created_by, "?"),
            row.created_at.map_or_else(|| "?".to_owned(), |at| format!("{} ago", age(now, at))),
            or(&row.reason, ""),
        ]);
    }
    let mut text = String::new();
    if rows.is_empty() {
        text += "no overrides\n";
    } else {
        text += &table::text(&["id", "kind", "target", "name", "left", "by", "since", "reason"], &rows, &[0]);
    }
    for note in &stored.ignored_overrides {
        text += &format!("{note}\n");
    }
    let recorded: Vec<Vec<String>> = by_record(stored)
        .map(|drained| vec![drained.address, drained.host, drained.name.to_owned(), drained.words.to_owned()])
        .collect();
    if !recorded.is_empty() {
        text += "\ndrained by a record:\n";
        text += &table::text(&["address", "host", "name", "drained"], &recorded, &[]);
    }
    text
}

/// What is left of a row's time.
fn left(row: &Override, now: Time) -> String {
    match row.expires_at {
        None => "until undone".to_owned(),
        Some(end) if end <= now => "expired".to_owned(),
        Some(end) => span(end.since(now)),
    }
}

/// An address that a drain record takes out.
#[derive(Serialize)]
struct Recorded<'a> {
    name: &'a str,
    host: String,
    address: String,
    words: &'a str,
}

fn by_record(stored: &Stored) -> impl Iterator<Item = Recorded<'_>> {
    stored.endpoints.iter().filter_map(|endpoint| {
        let words = endpoint.drained.as_deref().filter(|words| is_by_record(words))?;
        let (host, address) = (endpoint.host.to_string(), endpoint.address.to_string());
        Some(Recorded { name: &endpoint.name, host, address, words })
    })
}

#[derive(Serialize)]
struct Document<'a> {
    overrides: Vec<Row<'a>>,
    ignored: &'a [String],
    drained_by_record: Vec<Recorded<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: i64,
    kind: &'static str,
    name: Option<&'a str>,
    target: Option<&'a str>,
    expires_at: Option<String>,
    left_ms: Option<u64>,
    expired: bool,
    reason: Option<&'a str>,
    created_by: Option<&'a str>,
    created_at: Option<String>,
}

fn document(stored: &Stored, now: Time) -> String {
    let overrides = stored.overrides.iter().map(|row| Row {
        id: row.id,
        kind: row.kind.as_str(),
        name: row.name.as_deref(),
        target: row.target.as_deref(),
        expires_at: row.expires_at.map(time::to_text),
        left_ms: row.expires_at.map(|end| u64::try_from(end.since(now).as_millis()).unwrap_or(u64::MAX)),
        expired: row.expires_at.is_some_and(|end| end <= now),
        reason: row.reason.as_deref(),
        created_by: row.created_by.as_deref(),
        created_at: row.created_at.map(time::to_text),
    });
    let document = Document {
        overrides: overrides.collect(),
        ignored: &stored.ignored_overrides,
        drained_by_record: by_record(stored).collect(),
    };
    // Nothing in it can fail to be written: text, numbers and lists.
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}
