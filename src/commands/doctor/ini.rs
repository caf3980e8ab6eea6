//! Files of sections and `KEY=value` lines, with their drop-ins: systemd's and NetworkManager's.
//!
//! The main file comes first, then the drop-ins of all folders in the order of their file names; a name in an earlier
//! folder hides the same name in a later one (systemd.conf(5), NetworkManager.conf(5)).

use std::collections::BTreeMap;

use super::root::{Files, Seen};

/// One line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its section, without the brackets.
    pub section: String,
    /// Left of the `=`.
    pub key: String,
    /// Right of it.
    pub value: String,
    /// `FILE:LINE`.
    pub place: String,
}

/// All lines in effect, in the order in which they are read.
pub fn read(files: &Files, main: &[&str], folders: &[&str]) -> Vec<Line> {
    let first = main.iter().find_map(|path| files.get(path)).into_iter();
    let mut drop_ins: BTreeMap<&str, &Seen> = BTreeMap::new();
    for folder in folders {
        for seen in files.below(folder, ".conf") {
            drop_ins.entry(seen.path.rsplit('/').next().unwrap_or_default()).or_insert(seen);
        }
    }
    first.chain(drop_ins.into_values()).flat_map(lines).collect()
}

/// The lines of one file.
pub fn lines(seen: &Seen) -> Vec<Line> {
    let (mut section, mut lines) = (String::new(), Vec::new());
    for (number, line) in seen.text().unwrap_or_default().lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            lines.push(Line {
                section: section.clone(),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
                place: format!("{}:{}", seen.path, number + 1),
            });
        }
    }
    lines
}

/// The last line of a key.
pub fn last<'a>(lines: &'a [Line], section: &str, key: &str) -> Option<&'a Line> {
    lines.iter().rev().find(|line| line.section == section && line.key == key)
}

/// The words of a key that may be given several times: each line adds, an empty one begins anew.
pub fn list(lines: &[Line], section: &str, key: &str) -> Vec<(String, String)> {
    let mut words: Vec<(String, String)> = Vec::new();
    for line in lines.iter().filter(|line| line.section == section && line.key == key) {
        if line.value.is_empty() {
            words.clear();
        }
        words.extend(line.value.split_whitespace().map(|word| (word.to_owned(), line.place.clone())));
    }
    words
}

/// `yes`, `true`, `on`, `1`, as systemd reads them.
pub fn is_yes(value: &str) -> bool {
    ["yes", "true", "on", "1", "y", "t"].iter().any(|word| word.eq_ignore_ascii_case(value))
}
