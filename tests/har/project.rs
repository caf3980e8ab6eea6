//! Promises about the sources themselves: purity, arrows between rooms, sizes, headers, dependencies.
//!
//! Comments and tests are left out where a promise is about code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

use crate::harness::skip;

/// What the pure rooms may not contain: input, output, time, chance, and who would bring them.
const BANNED: [&str; 8] = [
    r"\bstd::(\{[^}]*)?\b(fs|io|thread|env|process|os)\b",
    r"\b(UdpSocket|TcpStream|TcpListener|UnixDatagram|UnixStream)\b",
    r"::now\(|\bSystemTime\b|\belapsed\(\)",
    r"\b(mio|socket2|nix|rusqlite|ureq|rustls|signal_hook|listenfd|env_logger)::",
    r"\blog::|\b(trace|debug|info|warn|error)!\(|\be?print(ln)?!\(",
    r"\b(getrandom|rand|fastrand)::|\bRandomState\b",
    // A OnceLock in a value is a value; as a global it would be a static.
    r"(?m)^\s*(pub(\([^)]*\))? )?static\b|\bthread_local!|\bLazyLock\b",
    r"\bunsafe\b",
];

/// Which other rooms each room may know.
const ARROWS: [(&str, &[&str]); 8] = [
    ("dns", &[]),
    ("health", &[]),
    ("serve", &["dns", "os", "mailbox"]),
    ("poll", &["health", "dns", "store", "config", "mailbox", "os"]),
    ("store", &["health", "dns", "os"]),
    ("config", &["dns", "health"]),
    ("mailbox", &[]),
    // Only for the type of health's time, which the clock gives.
    ("os", &["health"]),
];

/// Lines of a file without its tests.
const MAX_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("a valid pattern")
}

/// Every Rust file below the folders, with its text.
fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("own folder").map(|entry| entry.expect("own folder").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.strip_prefix(root()).expect("below").to_owned(), read(&path)));
        }
    }
    found.sort();
    found
}

/// A file of tests alone.
fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "simulation.rs")))
}

/// A file's text in front of its tests.
fn without_tests(text: &str) -> &str {
    let end = regex(r"(?m)^#\[cfg\(test\)\]\n(#\[.*\n)*mod \w+ \{").find(text);
    end.map_or(text, |found| &text[..found.start()])
}

/// Code alone: no tests, no comments, strings emptied.
fn code(text: &str) -> String {
    // One pass, left to right: a string may hold `//` and a comment may hold a quote.
    let literals = regex(r##"r#"(?s:.*?)"#|b?"(?s:\\.|[^"\\])*"|'(\\.[^']*|[^'\\])'|//[^\n]*"##);
    literals.replace_all(without_tests(text), "\"\"").into_owned()
}

/// The files of a room: `src/ROOM.rs` and everything in `src/ROOM/`.
fn room(name: &str) -> Vec<(PathBuf, String)> {
    let inside = Path::new("src").join(name);
    let file = inside.with_extension("rs");
    let files = sources(&["src"]).into_iter().filter(|(path, _)| path.starts_with(&inside) || *path == file);
    files.filter(|(path, _)| !is_test_file(path)).collect()
}

#[test]
fn the_pure_rooms_have_no_way_out() {
    for name in ["dns", "health"] {
        let files = room(name);
        assert!(files.len() > 3, "the room {name} is found");
        for (path, text) in files {
            let code = code(&text);
            for pattern in BANNED {
                let found = regex(pattern).find(&code).map(|found| found.as_str().to_owned());
                assert_eq!(found, None, "{}: {pattern}", path.display());
            }
        }
    }
}

#[test]
fn the_ban_list_bites() {
    for line in [
        "let t = Instant::now();",
        "use std::{collections::HashMap, fs};",
        "std::thread::sleep(wait);",
        "warn!(\"text\");",
        "let s = UdpSocket::bind(a);",
        "static COUNT: AtomicUsize = AtomicUsize::new(0);",
    ] {
        let caught = BANNED.iter().any(|pattern| regex(pattern).is_match(&code(line)));
        assert!(caught, "{line}");
    }
    for line in [
        "fn name() -> &'static str { x }",
        "// Instant::now()",
        "use std::net::IpAddr;",
        "let d = \"std::fs // \"; // \" std::fs",
    ] {
        let caught = BANNED.iter().find(|pattern| regex(pattern).is_match(&code(line)));
        assert_eq!(caught, None, "{line}");
    }
}

#[test]
fn rooms_know_only_whom_they_may() {
    let arrow = regex(r"\bcrate::(\w+)");
    let group = regex(r"\bcrate::\{");
    for (name, known) in ARROWS {
        for (path, text) in room(name) {
            let code = code(&text);
            assert!(!group.is_match(&code), "{}: one `use crate::room` a line", path.display());
            for found in arrow.captures_iter(&code) {
                let other = &found[1];
                assert!(other == name || known.contains(&other), "{}: {name} does not know {other}", path.display());
            }
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for (path, text) in sources(&["packaging/link", "src", "tests", "benches"]) {
        let lines = without_tests(&text).lines().count();
        assert!(is_test_file(&path) || lines <= MAX_LINES, "{}: {lines} lines", path.display());
        assert!(text.starts_with("//!"), "{} does not begin with `//!`", path.display());
    }
}

#[test]
fn nothing_is_left_to_be_done_later() {
    let words = ["TO\u{44}O", "FIX\u{4d}E", "X\u{58}X", "HAC\u{4b}"].join("|");
    let words = regex(&format!(r"\b({words})\b"));
    let numbers = regex(r"(?i)\bissue #?[0-9]");
    for (path, text) in sources(&["packaging/link", "src", "tests", "benches"]) {
        for pattern in [&words, &numbers] {
            let found = pattern.find(&text).map(|found| found.as_str());
            assert_eq!(found, None, "{}", path.display());
        }
    }
}

fn manifest() -> toml::Table {
    read(&root().join("Cargo.toml")).parse().expect("Cargo reads it too")
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let manifest = manifest();
    let wanted: BTreeSet<String> = ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect();
    let text = read(&root().join("docs/dependencies.md"));
    let row = regex(r"(?m)^\| `([^`]+)` \|(.*)$");
    let mut listed = BTreeSet::new();
    for found in row.captures_iter(&text) {
        assert!(found[2].trim_matches(['|', ' ']).len() > 20, "a reason for {}", &found[1]);
        assert!(listed.insert(found[1].to_owned()), "{} is listed twice", &found[1]);
    }
    assert_eq!(listed, wanted, "docs/dependencies.md on the left, Cargo.toml on the right");
}

#[test]
fn the_stated_rust_version_is_the_one_that_builds_this() {
    let manifest = manifest();
    let stated = manifest["package"]["rust-version"].as_str().unwrap();
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output().expect("rustc is there");
    let version = String::from_utf8(output.stdout).unwrap();
    let version = version.split_whitespace().nth(1).expect("rustc X.Y.Z").to_owned();
    let parts = |text: &str| text.split('.').take(2).map(|part| part.parse::<u32>().unwrap()).collect::<Vec<_>>();
    assert!(parts(&version) >= parts(stated), "built with {version}, which is older than {stated}");
    if parts(&version) != parts(stated) {
        skip(&format!("built with {version}; only a build with {stated} shows that rust-version is true"));
    }
}

#[test]
fn what_the_readme_promises_is_there() {
    use std::os::unix::fs::PermissionsExt;
    let readme = read(&root().join("README.md"));
    for command in ["cargo run --release -- demo", "./tests/run"] {
        assert!(readme.contains(command), "{command}");
    }
    for script in ["tests/run", ".ci/run"] {
        let mode = fs::metadata(root().join(script)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} is executable");
    }
    let link = Regex::new(r"\]\(([^)#:]+)\)").unwrap();
    for document in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = read(&root().join(document));
        for found in link.captures_iter(&text) {
            assert!(root().join(&found[1]).exists(), "{document} points at {}", &found[1]);
        }
    }
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert!(root().join(licence).is_file(), "{licence}");
    }
}
