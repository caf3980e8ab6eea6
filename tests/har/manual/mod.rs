//! Manual pages and completions are what the grammar of the command line and `docs/configuration.md` say.
//!
//! They lie in `packaging/`, made; the tests make them again and compare. `HAR_BLESS=1` writes them instead.

mod markdown;
mod pages;
mod shells;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::harness::{missing, skip};

/// Compares every file of a folder with what it is to be, or makes it that.
fn compare(folder: &str, wanted: &BTreeMap<String, String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    if std::env::var_os("HAR_BLESS").is_some() {
        fs::remove_dir_all(&folder).expect("the folder of made files");
        fs::create_dir(&folder).expect("own folder");
        for (name, text) in wanted {
            fs::write(folder.join(name), text).expect("own folder");
        }
    }
    let there: BTreeMap<String, String> = fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("text"))
        })
        .collect();
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    let mend = "`HAR_BLESS=1 cargo test --test har manual` makes it again";
    assert_eq!(names(&there), names(wanted), "{}: {mend}", folder.display());
    for (name, text) in wanted {
        assert!(there[name] == *text, "{}/{name} is not what it is made from any more: {mend}", folder.display());
    }
}

#[test]
fn the_pages_are_what_they_are_made_from() {
    let pages = pages::all();
    assert!(pages.len() > 10 && pages.contains_key("har.8") && pages.contains_key("har.toml.5"), "{:?}", pages.keys());
    compare("packaging/man", &pages);
}

#[test]
fn every_key_has_an_entry_in_the_page() {
    let page = &pages::all()["har.toml.5"];
    let example = include_str!("../../../har.toml.example");
    let key = regex::Regex::new(r"(?m)^#?(?: )?([a-z_]+) *= ").expect("a valid pattern");
    let keys: Vec<&str> = key.captures_iter(example).map(|found| found.get(1).expect("a group").as_str()).collect();
    assert!(keys.len() > 60, "the keys are found: {keys:?}");
    for key in keys {
        assert!(page.contains(&format!("\\fB{key}\\fR")), "{key} is not in har.toml(5)");
    }
}

#[test]
fn man_has_no_complaint() {
    if let Some(reason) = missing(&["man"]) {
        return skip(&reason);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man");
    for name in pages::all().keys() {
        let mut command = std::process::Command::new("man");
        command.args(["--warnings", "--local-file"]).arg(folder.join(name)).env("MANWIDTH", "80");
        let output = command.env("LC_ALL", "C.UTF-8").output().expect("man starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaint.is_empty(), "{name}: {complaint}");
        assert!(text.contains("NAME") && text.lines().count() > 10, "{name}: {text}");
    }
}
