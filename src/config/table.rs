//! Reading a TOML document without stopping at the first mistake.
//!
//! A [`Table`] hands out the values of its keys as the types the configuration knows, remembers which keys were
//! asked for, and reports the others in [`Table::finish`]. Whatever is wrong goes to [`Problems`] with its place,
//! and reading goes on with "not stated". Key paths are only put together when a problem needs one.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::{Unread, open_file};
use super::report::{Source, redact};
use super::values::{self, DURATION_FORM, show_duration};
use super::{Check, Problem, Report};

/// Where a value stands: a file and a range of bytes in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    /// Index of the file among [`Problems::sources`].
    pub file: u32,
    /// First byte.
    pub start: u32,
    /// The byte after the last one.
    pub end: u32,
}

/// A value and its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub spot: Spot,
}

/// Path of a key: a chain that lives on the stack of whoever reads.
#[derive(Clone, Copy)]
pub(super) enum Key<'a> {
    /// The document.
    Root,
    /// A key of a table.
    In(&'a Key<'a>, &'a str),
    /// An element of an array, from 1.
    Nth(&'a Key<'a>, usize),
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Root => Ok(()),
            Key::In(Key::Root, key) => write_key(f, key),
            Key::In(parent, key) => {
                write!(f, "{parent}.")?;
                write_key(f, key)
            }
            Key::Nth(parent, position) => write!(f, "{parent}[{position}]"),
        }
    }
}

/// A key as TOML wants it: bare where it can be.
fn write_key(f: &mut fmt::Formatter<'_>, key: &str) -> fmt::Result {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if bare { f.write_str(key) } else { write!(f, "{key:?}") }
}

/// What a configuration is read for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To run with it, or to say whether that could be done: checks must be able to open their files.
    #[default]
    Run,
    /// To look at what a daemon does with it: what only its checks open is the daemon's to read, not this user's.
    Look,
}

/// Everything found so far, the files it was found in, and what is only worth finding out once.
#[derive(Default)]
pub(super) struct Problems {
    /// What it is read for.
    purpose: Purpose,
    /// The files read, the main one first.
    pub sources: Vec<Source>,
    /// What is wrong.
    errors: Vec<(Spot, Problem)>,
    /// What is no TOML.
    syntax: Vec<(Spot, Problem)>,
    /// What is wrong with no place of its own.
    unplaced: Vec<Problem>,
    /// What is allowed and worth a line.
    warnings: Vec<(Spot, Problem)>,
    /// Findings that hold for many names and are told once.
    told: HashSet<(Spot, String)>,
    /// Patterns that are known to compile: thousands of names may share one.
    patterns: HashSet<String>,
    /// Files that were tried to open, and the error.
    opened: HashMap<PathBuf, Option<Unread>>,
    /// The first secret in each file.
    secrets: HashMap<u32, (Spot, String)>,
    /// Lists of checks that candidates have, each once, and the last of them.
    checks: HashSet<Arc<Vec<Check>>>,
    last_checks: Option<Arc<Vec<Check>>>,
}

impl Problems {
    /// Nothing found yet.
    pub fn new(purpose: Purpose) -> Problems {
        Problems { purpose, ..Problems::default() }
    }

    /// Notes an error. The same sentence at the same place is noted once.
    pub fn error(&mut self, spot: Spot, key: impl fmt::Display, message: impl Into<String>) {
        self.note(spot, key, message.into(), false);
    }

    /// Notes that a path named at this place cannot be opened.
    pub fn unopened(&mut self, spot: Spot, key: impl fmt::Display, unread: &Unread, message: String) {
        self.note(spot, key, message, matches!(unread, Unread::Denied(_)));
    }

    fn note(&mut self, spot: Spot, key: impl fmt::Display, message: String, denied: bool) {
        if self.told.insert((spot, message.clone())) {
            let mut problem = self.problem(spot, key.to_string(), message);
            problem.denied = denied;
            self.errors.push((spot, problem));
        }
    }

    /// Notes something that is allowed and worth a line in the log.
    pub fn warn(&mut self, spot: Spot, key: impl fmt::Display, message: impl Into<String>) {
        let message = message.into();
        if self.told.insert((spot, message.clone())) {
            let problem = self.problem(spot, key.to_string(), message);
            self.warnings.push((spot, problem));
        }
    }

    /// Notes an error of syntax. What else is found at such a place may be an echo, see [`Problems::forget`].
    pub fn syntax(&mut self, spot: Spot, key: impl fmt::Display, message: impl Into<String>) {
        let problem = self.problem(spot, key.to_string(), message.into());
        self.syntax.push((spot, problem));
    }

    /// Takes back what was noted of such places, errors of syntax aside.
    pub fn forget(&mut self, of: impl Fn(Spot) -> bool) {
        self.errors.retain(|(spot, _)| !of(*spot));
    }

    /// Notes that a file as a whole cannot be read.
    pub fn unread(&mut self, file: &Path, unread: &Unread, message: String) {
        let mut problem = Problem::of_file(file, message);
        problem.denied = matches!(unread, Unread::Denied(_));
        self.unplaced.push(problem);
    }

    /// Notes that a file holds a secret.
    pub fn secret(&mut self, spot: Spot, key: impl fmt::Display) {
        self.secrets.entry(spot.file).or_insert_with(|| (spot, key.to_string()));
    }

    /// The first secret of each file.
    pub fn take_secrets(&mut self) -> Vec<(Spot, String)> {
        let mut secrets: Vec<_> = std::mem::take(&mut self.secrets).into_values().collect();
        secrets.sort_by_key(|(spot, _)| spot.file);
        secrets
    }

    /// Whether anything is wrong.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty() && self.syntax.is_empty() && self.unplaced.is_empty()
    }

    /// The report and the warnings, each in the order of the files.
    pub fn finish(mut self) -> (Report, Vec<Problem>) {
        let place = |(spot, _): &(Spot, Problem)| (spot.file, spot.start, spot.end);
        self.errors.append(&mut self.syntax);
        self.errors.sort_by_key(place);
        self.warnings.sort_by_key(place);
        let mut report = Report(self.unplaced);
        report.0.extend(self.errors.into_iter().map(|(_, problem)| problem));
        (report, self.warnings.into_iter().map(|(_, problem)| problem).collect())
    }

    /// `FILE:LINE` of a place, for a message that speaks of two.
    pub fn place(&self, spot: Spot) -> String {
        match self.sources.get(spot.file as usize) {
            Some(source) => format!("{}:{}", source.path.display(), source.line_of(spot.start as usize).0),
            None => String::new(),
        }
    }

    /// Whether a regular expression compiles; notes why not.
    pub fn pattern(&mut self, text: &At<&str>, key: &Key<'_>) -> bool {
        if self.patterns.contains(text.value) {
            return true;
        }
        match regex::bytes::Regex::new(text.value) {
            Ok(_) => self.patterns.insert(text.value.to_owned()),
            Err(error) => {
                let reason = error.to_string();
                // The last line of the parser's picture is the reason, the rest repeats the pattern.
                let reason = reason.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned();
                self.error(text.spot, key, format!("not a regular expression: {reason}"));
                false
            }
        }
    }

    /// A list of checks, shared with the candidates that have an equal one.
    pub fn share(&mut self, checks: Vec<Check>) -> Arc<Vec<Check>> {
        // Mostly a neighbour has the same: comparing is cheaper than hashing.
        if let Some(last) = self.last_checks.as_ref().filter(|last| ***last == *checks) {
            return Arc::clone(last);
        }
        let shared = match self.checks.get(&checks) {
            Some(known) => Arc::clone(known),
            None => {
                let new = Arc::new(checks);
                self.checks.insert(Arc::clone(&new));
                new
            }
        };
        self.last_checks = Some(Arc::clone(&shared));
        shared
    }

    /// Whether a file can be opened for reading; notes why not.
    pub fn readable(&mut self, path: &Path, spot: Spot, key: &Key<'_>) -> bool {
        let result = match self.opened.get(path) {
            Some(known) => known.clone(),
            None => {
                let result = open_file(path).err();
                self.opened.insert(path.to_owned(), result.clone());
                result
            }
        };
        match &result {
            None => true,
            Some(Unread::Denied(_)) if self.purpose == Purpose::Look => true,
            Some(unread) => {
                self.unopened(spot, key, unread, format!("cannot read {}: {unread}", path.display()));
                false
            }
        }
    }

    /// Whether a place is in the header of a table.
    pub fn is_in_header(&self, spot: Spot) -> bool {
        self.sources.get(spot.file as usize).is_some_and(|source| source.is_in_header(spot.start as usize))
    }

    /// Puts a problem together.
    fn problem(&self, spot: Spot, key: String, message: String) -> Problem {
        match self.sources.get(spot.file as usize) {
            Some(source) => source.problem(spot.start as usize, spot.end as usize, key, message),
            None => Problem::of_file(Path::new(""), message),
        }
    }
}

/// One value of the document.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    /// Its path.
    pub key: Key<'a>,
    /// The value.
    pub value: &'a DeValue<'a>,
    /// Where it stands.
    pub spot: Spot,
}

impl<'a> Item<'a> {
    /// Notes that this is not what is allowed here.
    pub fn wrong(&self, problems: &mut Problems, allowed: impl fmt::Display) {
        problems.error(self.spot, self.key, format!("found {}; allowed: {allowed}", found(self.value)));
    }

    /// The value as text.
    pub fn text(&self, problems: &mut Problems, allowed: impl fmt::Display) -> Option<At<&'a str>> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong(problems, allowed);
        }
        text.map(|value| At { value, spot: self.spot })
    }

    /// The elements of an array.
    pub fn list<'b>(&'b self, problems: &mut Problems, allowed: impl fmt::Display) -> Option<Vec<Item<'b>>> {
        let Some(array) = self.value.as_array() else {
            self.wrong(problems, allowed);
            return None;
        };
        Some(array.iter().enumerate().map(|(index, value)| self.nth(index, value)).collect())
    }

    /// The element of an array with its path.
    pub fn nth<'b>(&'b self, index: usize, value: &'b Spanned<DeValue<'b>>) -> Item<'b> {
        Item { key: Key::Nth(&self.key, index + 1), value: value.get_ref(), spot: spot(self.spot.file, value) }
    }
}

/// The place of a spanned value.
fn spot<T>(file: u32, value: &Spanned<T>) -> Spot {
    let span = value.span();
    // Files are at most 64 MiB long, so that the conversion cannot fail.
    let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Spot { file, start: narrow(span.start), end: narrow(span.end) }
}

/// A value in words, short and without secrets.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let shown: String = redact(text).chars().take(80).collect();
            let more = if text.chars().count() > 80 { "…" } else { "" };
            format!("{:?}{more}", shown)
        }
        DeValue::Integer(number) => format!("the integer {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(list) if list.is_empty() => "an empty list".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// One table being read.
pub(super) struct Table<'a> {
    /// Its path.
    pub key: &'a Key<'a>,
    /// Where it, or its header, stands.
    pub spot: Spot,
    /// What it holds.
    entries: &'a DeTable<'a>,
    /// The keys asked for so far.
    asked: Vec<&'static str>,
    /// Keys that were refused with a sentence of their own.
    refused: Vec<&'static str>,
    /// How many of both were there.
    taken: usize,
}

impl<'a> Table<'a> {
    /// Begins to read the document of a file.
    pub fn root(file: u32, entries: &'a DeTable<'a>) -> Table<'a> {
        Table {
            key: &Key::Root,
            spot: Spot { file, start: 0, end: 0 },
            entries,
            asked: Vec::new(),
            refused: Vec::new(),
            taken: 0,
        }
    }

    /// Begins to read a value that must be a table.
    pub fn open(item: &'a Item<'a>, problems: &mut Problems, allowed: impl fmt::Display) -> Option<Table<'a>> {
        let Some(entries) = item.value.as_table() else {
            item.wrong(problems, allowed);
            return None;
        };
        // As many keys as a name is asked for: ten thousand lists need not grow.
        let asked = Vec::with_capacity(32);
        Some(Table { key: &item.key, spot: item.spot, entries, asked, refused: Vec::new(), taken: 0 })
    }

    /// The value of a key, if it is there.
    pub fn take(&mut self, name: &'static str) -> Option<Item<'a>> {
        self.asked.push(name);
        let value = self.entries.get(name)?;
        self.taken += 1;
        Some(Item { key: Key::In(self.key, name), value: value.get_ref(), spot: spot(self.spot.file, value) })
    }

    /// Whether a key is there, of whatever type.
    pub fn is_there(&self, name: &str) -> bool {
        self.entries.get(name).is_some()
    }

    /// Refuses a key that is known elsewhere and out of place here.
    pub fn refuse(&mut self, problems: &mut Problems, name: &'static str, message: &str) {
        if let Some((key, _)) = self.entries.get_key_value(name) {
            self.refused.push(name);
            self.taken += 1;
            problems.error(spot(self.spot.file, key), Key::In(self.key, name), message);
        }
    }

    /// Every entry in the order of the file: the key, its place, and the value. Counts as having read them all.
    pub fn take_all(&mut self) -> Vec<(At<&'a str>, Item<'a>)> {
        self.taken = self.entries.len();
        let file = self.spot.file;
        let key_path = self.key;
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(key, value)| {
                let name: &str = key.get_ref();
                let item = Item { key: Key::In(key_path, name), value: value.get_ref(), spot: spot(file, value) };
                (At { value: name, spot: spot(file, key) }, item)
            })
            .collect();
        all.sort_by_key(|(key, _)| key.spot.start);
        all
    }

    /// Reports the keys nobody asked for.
    pub fn finish(self, problems: &mut Problems) {
        self.report_unknown(problems, None);
    }

    /// The same with another sentence.
    pub fn finish_with(self, problems: &mut Problems, message: &str) {
        self.report_unknown(problems, Some(message));
    }

    /// Reports the keys nobody asked for, with a sentence or with the nearest known one.
    fn report_unknown(self, problems: &mut Problems, sentence: Option<&str>) {
        if self.taken == self.entries.len() {
            return;
        }
        for (key, _) in self.entries.iter() {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) || self.refused.contains(&name) {
                continue;
            }
            let message = match (sentence, values::nearest(name, self.asked.iter().copied())) {
                (Some(sentence), _) => sentence.to_owned(),
                (None, Some(near)) => format!("unknown key; did you mean {near}?"),
                (None, None) => format!("unknown key; known here: {}", self.asked.join(", ")),
            };
            problems.error(spot(self.spot.file, key), Key::In(self.key, name), message);
        }
    }

    /// A text.
    pub fn text(&mut self, problems: &mut Problems, name: &'static str, allowed: &str) -> Option<At<&'a str>> {
        self.take(name)?.text(problems, allowed)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, problems: &mut Problems, name: &'static str) -> Option<bool> {
        let item = self.take(name)?;
        let flag = item.value.as_bool();
        if flag.is_none() {
            item.wrong(problems, "true or false");
        }
        flag
    }

    /// A whole number of a range.
    pub fn integer<T>(&mut self, problems: &mut Problems, name: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let item = self.take(name)?;
        let number = integer(item.value).and_then(|number| T::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            item.wrong(problems, format_args!("a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A share from 0 to 1.
    pub fn share(&mut self, problems: &mut Problems, name: &'static str) -> Option<f64> {
        let item = self.take(name)?;
        let number = match item.value {
            DeValue::Float(number) => number.as_str().parse().ok(),
            // Zero and one are the only whole numbers that are allowed, and they convert exactly.
            value => integer(value).and_then(|number| i8::try_from(number).ok()).map(f64::from),
        };
        let number = number.filter(|number: &f64| (0.0..=1.0).contains(number));
        if number.is_none() {
            item.wrong(problems, "a number from 0.0 to 1.0");
        }
        number
    }

    /// A duration of a range.
    pub fn duration(
        &mut self,
        problems: &mut Problems,
        name: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<At<Duration>> {
        let item = self.take(name)?;
        let Some(duration) = item.value.as_str().and_then(values::duration) else {
            item.wrong(problems, DURATION_FORM);
            return None;
        };
        if !range.contains(&duration) {
            let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
            item.wrong(problems, format_args!("{least} to {most}"));
            return None;
        }
        Some(At { value: duration, spot: item.spot })
    }

    /// One of a few words.
    pub fn choice<T: Copy>(
        &mut self,
        problems: &mut Problems,
        name: &'static str,
        choices: &[(&str, T)],
    ) -> Option<At<T>> {
        let item = self.take(name)?;
        let word = item.value.as_str();
        let chosen = choices.iter().find(|(choice, _)| Some(*choice) == word);
        if chosen.is_none() {
            let all: Vec<String> = choices.iter().map(|(choice, _)| format!("{choice:?}")).collect();
            let hint = match word.and_then(|word| values::nearest(word, choices.iter().map(|&(choice, _)| choice))) {
                Some(near) => format!("; did you mean {near:?}?"),
                None => String::new(),
            };
            item.wrong(problems, format_args!("{}{hint}", all.join(", ")));
        }
        chosen.map(|&(_, value)| At { value, spot: item.spot })
    }
}

/// The value of a TOML integer, whatever its radix.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}
