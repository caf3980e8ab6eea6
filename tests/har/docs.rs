//! The documentation is true: its configurations are valid, its commands are accepted and run, its links lead somewhere.
//!
//! Read are README.md, CONTRIBUTING.md, CHANGELOG.md and every page in `docs/`, so that a new page is held to the same. How a
//! block says what it is stands in CONTRIBUTING.md. The page about keys is compared with the sources that read them.

mod commands;
mod dashboard;
mod keys;
mod monitoring;
mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;

use crate::harness::daemon::{BINARY, Ran};
use pages::{Block, Page, pages, root};

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("a valid pattern")
}

/// All blocks of one language, each with its place.
fn blocks<'a>(pages: &'a [Page], language: &'a str) -> impl Iterator<Item = (String, &'a Block)> {
    pages.iter().flat_map(move |page| {
        page.blocks
            .iter()
            .filter(move |block| block.language() == language)
            .map(|block| (format!("{}:{}", page.name, block.line), block))
    })
}

/// What a block marked `toml fragment` is a part of.
fn around(fragment: &str) -> String {
    let has = |key: &str| fragment.lines().any(|line| line.split('=').next().is_some_and(|word| word.trim() == key));
    let mut text = String::from("[names.\"fragment.example.com\"]\n");
    for (key, line) in [("candidates", "candidates = [\"192.0.2.1\"]\n"), ("check", "check = \"none\"\n")] {
        if !has(key) {
            text.push_str(line);
        }
    }
    text + fragment
}

#[test]
fn every_configuration_is_one_that_har_takes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("har.toml");
    let pages = pages();
    let mut checked = 0;
    for (place, block) in blocks(&pages, "toml") {
        let text = match block.mark() {
            "" => block.text.clone(),
            "fragment" => around(&block.text),
            mark if mark.starts_with("of ") => {
                let parsed = block.text.parse::<toml::Table>();
                assert!(parsed.is_ok(), "{place}: {parsed:?}");
                continue;
            }
            mark => panic!("{place}: a block marked `toml {mark}`; CONTRIBUTING.md has the marks"),
        };
        fs::write(&file, &text).expect("own folder");
        let ran = Ran::of(Command::new(BINARY).arg("check-config").arg("--config").arg(&file));
        assert_eq!(ran.code, 0, "{place}:\n{text}\n{}", ran.err);
        checked += 1;
    }
    assert!(checked >= 20, "{checked} configurations");
    for (place, block) in blocks(&pages, "json") {
        let parsed = serde_json::from_str::<serde_json::Value>(&block.text);
        assert!(parsed.is_ok(), "{place}: {parsed:?}");
    }
}

#[test]
fn every_block_is_closed_and_says_what_it_is() {
    let known = ["toml", "sh", "text", "yaml", "json", "sql", "ini", "python", "rust", "promql"];
    for page in pages() {
        assert!(page.closed, "{}: a block without an end", page.name);
        for block in &page.blocks {
            assert!(
                known.contains(&block.language()),
                "{}:{}: a block of `{}`: one of {known:?} says what it is",
                page.name,
                block.line,
                block.info
            );
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let link = regex(r"\]\(([^()\s]+)\)");
    let pages = pages();
    let mut followed = 0;
    for page in &pages {
        let folder = root().join(&page.name).parent().expect("below the root").to_owned();
        for found in link.captures_iter(&page.prose) {
            let target = &found[1];
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { root().join(&page.name) } else { folder.join(path) };
            assert!(path.exists(), "{} points at {target}", page.name);
            if !anchor.is_empty() {
                let path = path.canonicalize().expect("it exists");
                let other =
                    pages.iter().find(|other| root().join(&other.name).canonicalize().ok().as_ref() == Some(&path));
                let other = other.unwrap_or_else(|| panic!("{}: {target} is no page", page.name));
                assert!(other.anchors.contains(anchor), "{}: {target}; there are {:?}", page.name, other.anchors);
            }
            followed += 1;
        }
    }
    assert!(followed >= 60, "{followed} links");
}

#[test]
fn every_path_of_this_repository_exists() {
    let path = regex(r"^(\./)?((packaging|src|tests|docs|benches|\.ci)/[\w./-]*)$");
    let mut seen = BTreeSet::new();
    for page in pages().iter().filter(|page| page.name != "CHANGELOG.md") {
        for span in &page.spans {
            if let Some(found) = path.captures(span) {
                assert!(root().join(&found[2]).exists(), "{}: `{span}` does not exist", page.name);
                seen.insert(found[2].to_owned());
            }
        }
    }
    assert!(seen.len() >= 25, "{seen:?}");
}

#[test]
fn every_picture_is_well_formed_and_follows_the_readers_theme() {
    for entry in fs::read_dir(root().join("docs")).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "svg") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        let shown = path.display();
        assert!(text.contains("prefers-color-scheme: dark"), "{shown}: dark");
        assert!(text.contains("<title") && text.contains("<desc"), "{shown}: words for who cannot see it");
        assert!(!text.contains("<script") && !text.contains("href=\"http"), "{shown}: nothing from elsewhere");
        well_formed(&text).unwrap_or_else(|reason| panic!("{shown}: {reason}"));
    }
    assert!(Path::new(&root().join("docs/dataflow.svg")).exists());
}

/// Whether every element of a picture is closed by its own name.
fn well_formed(text: &str) -> Result<(), String> {
    let tag = regex(r"<(/?)([A-Za-z]+)([^<>]*?)(/?)>");
    let mut open: Vec<String> = Vec::new();
    for found in tag.captures_iter(text) {
        let name = found[2].to_owned();
        if &found[1] == "/" {
            let last = open.pop();
            if last.as_ref() != Some(&name) {
                return Err(format!("</{name}> closes {last:?}"));
            }
        } else if &found[4] != "/" {
            open.push(name);
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("never closed: {open:?}")) }
}
