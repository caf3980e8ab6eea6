//! What is no TOML: each error with its key and the mend, and how far the rest of such a file can be trusted.
//!
//! The parser goes on behind an error. A value that is none (mostly a text without quotes) leaves the rest as it is, with
//! something made up in its place. What breaks the structure (a bracket without its other half) ends the trust: the
//! errors and tables behind it are its echo.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::table::{Key, Problems, Spot};
use super::values;

/// How the parser begins its words on a value that is none. With others the structure is taken to be broken.
const OF_VALUES: [&str; 6] = [
    "string values must be quoted",
    "invalid float",
    "invalid integer",
    "invalid boolean",
    "invalid basic string",
    "missing escaped value",
];

/// What of a document is made up.
pub(super) struct Damage {
    /// Where its values are none.
    values: Vec<Range<usize>>,
    /// Where the structure breaks.
    broken: Option<usize>,
}

impl Damage {
    /// Whether what is found at a place of this file says nothing: it is of a made-up value, or of a table that goes on
    /// where nothing can be trusted. So might any that misses something: that stands at its header.
    pub fn makes_up(&self, text: &str, file: u32, spot: Spot) -> bool {
        let (start, end) = (spot.start as usize, spot.end as usize);
        let is_of_value = self.values.iter().any(|value| start < value.end.max(value.start + 1) && value.start < end);
        let is_beyond =
            self.broken.is_some_and(|at| start >= header_before(text, at) || is_header(line_at(text, start)));
        spot.file == file && (is_of_value || is_beyond)
    }
}

/// Parses a document and notes what is wrong with its syntax; with what to think of the rest, if anything is.
pub(super) fn parse<'a>(text: &'a str, file: u32, problems: &mut Problems) -> (Spanned<DeTable<'a>>, Option<Damage>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let errors: Vec<_> = errors
        .into_iter()
        .map(|error| (error.span().unwrap_or(text.len()..text.len()), error.message().to_owned()))
        .collect();
    let is_duplicate = |message: &str| message == "duplicate key";
    let is_of_value = |message: &str| OF_VALUES.iter().any(|words| message.starts_with(words));
    let breaks = |(_, message): &&(Range<usize>, String)| !is_duplicate(message) && !is_of_value(message);
    let broken = errors.iter().filter(breaks).min_by_key(|(span, _)| span.start);
    let mut damage = Damage { values: Vec::new(), broken: broken.map(|(span, _)| span.start) };
    if let Some((span, message)) = broken {
        problems.syntax(spot(file, span), "", format!("not valid TOML: {message}"));
    }
    // Where a table that is there twice begins: its keys are then there twice as well, which says nothing new.
    let mut twice: Option<usize> = None;
    for (span, message) in errors {
        if damage.broken.is_some_and(|at| span.start >= at) {
            continue;
        }
        if is_duplicate(&message) {
            duplicate(text, file, &span, &mut twice, problems);
        } else if is_of_value(&message) {
            let mut value = None;
            locate(document.get_ref(), &Key::Root, span.start, &mut |key, range| {
                value = Some((key.to_string(), range));
            });
            let (key, range) = value.unwrap_or((String::new(), span.clone()));
            let mend = mend(text.get(range.clone()).unwrap_or_default()).unwrap_or(message);
            problems.syntax(spot(file, &span), key, format!("not valid TOML: {mend}"));
            damage.values.push(range);
        }
    }
    let is_whole = damage.values.is_empty() && damage.broken.is_none();
    (document, (!is_whole).then_some(damage))
}

fn spot(file: u32, span: &Range<usize>) -> Spot {
    // Files are at most 64 MiB long.
    Spot { file, start: span.start as u32, end: span.end as u32 }
}

/// What to write instead of a value without quotes. Of what it says only as much as cannot be secret.
fn mend(written: &str) -> Option<String> {
    let is_plain = |text: &str| {
        let text = text.trim();
        let is_address = text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok();
        is_address || text == "none" || values::duration(text).is_some()
    };
    match written.to_ascii_lowercase().as_str() {
        "" => Some("a value is missing".to_owned()),
        word @ ("true" | "false") => Some(format!("write {word}, in lower case")),
        _ if is_plain(written) => Some(format!("a text stands in quotes: write {:?}", written.trim())),
        _ if written.starts_with(['"', '\'']) => None,
        _ => Some("a text stands in quotes, and so do addresses and durations".to_owned()),
    }
}

/// Tells of the scalar value around a byte of the document.
fn locate(table: &DeTable<'_>, path: &Key<'_>, at: usize, tell: &mut dyn FnMut(&Key<'_>, Range<usize>)) {
    for (key, value) in table.iter() {
        locate_in(value, &Key::In(path, key.get_ref()), at, tell);
    }
}

fn locate_in(value: &Spanned<DeValue<'_>>, key: &Key<'_>, at: usize, tell: &mut dyn FnMut(&Key<'_>, Range<usize>)) {
    match value.get_ref() {
        DeValue::Table(table) => locate(table, key, at, tell),
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                locate_in(value, &Key::Nth(key, index + 1), at, tell);
            }
        }
        // What misses its end is told of behind it.
        _ if (value.span().start..=value.span().end).contains(&at) => tell(key, value.span()),
        _ => {}
    }
}

/// Notes that a key is there twice, unless it is one of a table that is.
fn duplicate(text: &str, file: u32, span: &Range<usize>, twice: &mut Option<usize>, problems: &mut Problems) {
    let same_table = |start: usize| text.get(start..span.start).is_some_and(|between| !between.contains("\n["));
    if twice.is_some_and(same_table) {
        return;
    }
    let first = first_header(text, span.start);
    *twice = first.map(|_| span.start);
    let first = first.map(|start| spot(file, &(start..start)));
    let also = first.map(|first| format!("; it is already there at {}", problems.place(first)));
    problems.syntax(spot(file, span), path(text, span), format!("the same key twice{}", also.unwrap_or_default()));
}

/// The path of a key as far as the lines tell it: with the header above, or the header itself.
fn path(text: &str, span: &Range<usize>) -> String {
    let inner = |line: &str| line.split('#').next().unwrap_or("").trim().trim_matches(['[', ']']).trim().to_owned();
    let line = line_at(text, span.start);
    let key = text.get(span.clone()).unwrap_or_default();
    if is_header(line) {
        return inner(line);
    }
    match line_at(text, header_before(text, span.start)) {
        header if is_header(header) => format!("{}.{key}", inner(header)),
        _ => key.to_owned(),
    }
}

/// The line around a byte.
fn line_at(text: &str, at: usize) -> &str {
    let start = line_start(text, at);
    text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default()
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1)
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

/// Where the last table header at or above a byte begins; 0 without one.
fn header_before(text: &str, at: usize) -> usize {
    let mut start = line_start(text, at);
    while start > 0 && !is_header(line_at(text, start)) {
        start = line_start(text, start - 1);
    }
    start
}

/// Where the table header around the byte `again` stands for the first time, if that is a header.
fn first_header(text: &str, again: usize) -> Option<usize> {
    let start = line_start(text, again);
    let header = |line: &str| is_header(line).then(|| line.split('#').next().unwrap_or("").trim().to_owned());
    let written = header(line_at(text, start))?;
    let mut at = 0;
    for line in text[..start].split_inclusive('\n') {
        if header(line).as_ref() == Some(&written) {
            return Some(at);
        }
        at += line.len();
    }
    None
}
