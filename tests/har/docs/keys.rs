//! The page about keys against the sources that read them, and against the example that holds the defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::pages::root;
use super::regex;

/// Words in the sources that stand where keys do and are the types of checks.
const TYPES: [&str; 6] = ["http", "tcp", "exec", "redis", "postgres", "none"];

/// Every key that the configuration's sources ask a table for.
fn keys_of_the_sources() -> BTreeSet<String> {
    let asked =
        [regex(r#"\b(?:table|root)\b[^;"]{0,80}?"([a-z][a-z_]*)""#), regex(r#"\("([a-z][a-z_]*)", problems\)"#)];
    let mut keys = BTreeSet::new();
    for entry in fs::read_dir(root().join("src/config")).expect("the room") {
        let path = entry.expect("an entry").path();
        if path.is_dir() || path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        let code = text.split("#[cfg(test)]\nmod").next().expect("the first part");
        for pattern in &asked {
            keys.extend(pattern.captures_iter(code).map(|found| found[1].to_owned()));
        }
    }
    keys.retain(|key| !TYPES.contains(&key.as_str()));
    keys
}

/// A row: its keys, and its other cells by the heads of their columns.
struct Row {
    keys: Vec<String>,
    cells: BTreeMap<String, String>,
}

fn rows(page: &str) -> Vec<Row> {
    let mut heads: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    let key = regex("`([a-z_]+)`");
    for line in page.lines() {
        let Some(line) = line.strip_prefix("| ").and_then(|line| line.strip_suffix('|')) else { continue };
        let cells: Vec<String> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        if cells[0] == "key" {
            heads = cells;
        } else if cells[0].starts_with('`') {
            let keys = key.captures_iter(&cells[0]).map(|found| found[1].to_owned()).collect();
            let cells = heads.iter().cloned().zip(cells).skip(1).collect();
            rows.push(Row { keys, cells });
        }
    }
    rows
}

fn page() -> String {
    fs::read_to_string(root().join("docs/configuration.md")).expect("the page")
}

#[test]
fn every_key_has_a_row_and_every_row_a_key() {
    let rows = rows(&page());
    let told: BTreeSet<String> = rows.iter().flat_map(|row| row.keys.iter().cloned()).collect();
    let read = keys_of_the_sources();
    let untold: Vec<&String> = read.difference(&told).collect();
    assert!(untold.is_empty(), "not in docs/configuration.md: {untold:?}");
    let unread: Vec<&String> = told.difference(&read).collect();
    assert!(unread.is_empty(), "nobody reads these: {unread:?}");
    assert!(read.len() > 75, "{read:?}");
    for row in &rows {
        for head in ["default", "range"] {
            let cell = row.cells.get(head).map_or("", String::as_str);
            let required = head == "default" && row.keys == ["type"];
            assert!(
                required || !cell.is_empty() || row.cells.get("range").is_some_and(|range| range == "required"),
                "{:?} has no {head}",
                row.keys
            );
        }
    }
}

#[test]
fn the_defaults_are_those_of_the_example() {
    let example = fs::read_to_string(root().join("har.toml.example")).expect("the example");
    let rows = rows(&page());
    let setting = regex(r"(?m)^#([a-z_]+)\s*= (.*)$");
    let mut compared = 0;
    for found in setting.captures_iter(&example) {
        let (key, value) = (&found[1], found[2].trim());
        let said: Vec<&str> = rows
            .iter()
            .filter(|row| row.keys.iter().any(|other| other == key))
            .filter_map(|row| row.cells.get("default").map(String::as_str))
            .collect();
        // Defaults that follow another key are said in words.
        let followed = ["ttl", "order", "down_interval", "timeout"].contains(&key);
        let exact = said.iter().any(|cell| cell.contains(&format!("`{value}`")));
        assert!(exact || followed, "{key}: the example says {value}, the page {said:?}");
        compared += 1;
    }
    assert!(compared > 35, "{compared} defaults");
}
