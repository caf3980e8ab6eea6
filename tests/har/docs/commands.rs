//! Command lines of the documentation: accepted by har's own grammar, and run where they say so.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use har::cli::Cli;

use super::monitoring::promtool;
use super::pages::{Page, pages, root};
use super::{blocks, regex};
use crate::harness::daemon::Ran;
use crate::harness::{Backend, Har, Upstream, har, program, skip};

/// Programs that look and change nothing, which blocks marked `sh` may use beside har.
const LOOKERS: [&str; 8] = ["sqlite3", "dig", "promtool", "ss", "ip", "df", "ls", "getent"];

/// The words of one command line, up to where another command or a file begins.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(mark), c) if c == mark => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | ';' | '&') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A command line without what a reader types in front of it.
fn bare(line: &str) -> &str {
    let line = line.trim();
    let line = line.strip_prefix("$ ").unwrap_or(line);
    line.strip_prefix("sudo ").unwrap_or(line)
}

/// Why har would not take this line.
fn refused(line: &str) -> Option<clap::Error> {
    let error = Cli::try_parse_from(words(line)).err()?;
    (!matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)).then_some(error)
}

/// Lines of a page's blocks that begin with `har` and a blank.
fn lines_of_har(page: &Page) -> Vec<String> {
    let fenced = page.blocks.iter().filter(|block| matches!(block.language(), "sh" | "text"));
    let fenced = fenced.flat_map(|block| block.text.lines());
    let lines = fenced.chain(page.indented.iter().map(|(_, line)| line.as_str())).map(bare);
    lines.filter(|line| line.starts_with("har ")).map(str::to_owned).collect()
}

/// Code spans of a page's prose that do.
fn spans_of_har(page: &Page) -> Vec<String> {
    page.spans.iter().map(|span| bare(span)).filter(|line| line.starts_with("har ")).map(str::to_owned).collect()
}

#[test]
fn every_command_of_har_is_one_that_it_takes() {
    let mut seen = 0;
    for page in pages() {
        for line in lines_of_har(&page) {
            let reason = refused(&line);
            assert!(reason.is_none(), "{}: `{line}`: {}", page.name, reason.expect("some"));
            seen += 1;
        }
        // Prose may name a command without what it is about.
        for line in spans_of_har(&page) {
            let reason = refused(&line).filter(|error| error.kind() != ErrorKind::MissingRequiredArgument);
            assert!(reason.is_none(), "{}: `{line}`: {}", page.name, reason.expect("some"));
            seen += 1;
        }
    }
    assert!(seen >= 100, "{seen} commands");
}

#[test]
fn the_grammar_is_asked() {
    assert!(refused("har statsu").is_some());
    assert!(refused("har drain").is_some());
    assert!(refused("har events --limit many").is_some());
    assert_eq!(
        words("har drain 192.0.2.7 --reason \"two words\" # why"),
        ["har", "drain", "192.0.2.7", "--reason", "two words"]
    );
    assert_eq!(words("har metrics > file && mv file"), ["har", "metrics"]);
}

#[test]
fn every_command_of_har_is_told_of() {
    let told: BTreeSet<String> = pages()
        .iter()
        .flat_map(|page| [lines_of_har(page), spans_of_har(page)].concat())
        .filter_map(|line| words(&line).get(1).cloned())
        .collect();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(name == "help" || told.contains(name), "no page tells of `har {name}`");
    }
}

#[test]
fn every_command_of_cargo_is_one_that_it_takes() {
    let known = ["run", "build", "test", "bench", "check", "fmt", "clippy", "doc", "install", "deb", "generate-rpm"];
    let bench = regex(r"--bench (\w+)");
    for page in pages() {
        let fenced = page.blocks.iter().filter(|block| block.language() == "sh").map(|block| block.text.as_str());
        let text = fenced.collect::<String>();
        let lines = text.lines().map(str::to_owned);
        let lines = lines.chain(page.indented.iter().map(|(_, line)| line.clone())).chain(page.spans.iter().cloned());
        for line in lines.filter(|line| line.starts_with("cargo ")) {
            let word = line.split_whitespace().nth(1).expect("behind the blank");
            assert!(known.contains(&word), "{}: `{line}`", page.name);
            if let Some(found) = bench.captures(&line) {
                let sources = [format!("benches/{}.rs", &found[1]), format!("benches/{}/main.rs", &found[1])];
                assert!(sources.iter().any(|source| root().join(source).exists()), "{}: `{line}`", page.name);
            }
        }
    }
}

/// The daemon that the pages speak of.
struct Stage {
    har: Har,
    _backends: Vec<Backend>,
    _upstream: Upstream,
}

impl Stage {
    fn start() -> Stage {
        let backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 40)]);
        let upstream = Upstream::start();
        upstream.addresses("east-1.example.com", &["127.0.0.2"]).addresses("west-1.example.com", &["127.0.0.3"]);
        let names = format!(
            "[names.\"api.example.com\"]\ncheck = \"http://{{host}}:{}/\"\n\
             candidates = [\"east-1.example.com\", \"west-1.example.com\"]\ninterval = \"300ms\"\nfast_interval = \"100ms\"\n",
            backends[0].port()
        );
        let har = har().upstream(&[&upstream]).names(&names).start();
        har.until_a("api.example.com", "127.0.0.2");
        har.until_sql("SELECT count(*) FROM check_result", |count| count.parse::<u64>().is_ok_and(|count| count >= 4));
        har.until_sql("SELECT addresses FROM answer WHERE family = 'A'", |addresses| addresses == "127.0.0.2");
        Stage { har, _backends: backends, _upstream: upstream }
    }

    /// Runs one line. `None` when its program is not on this machine.
    fn run(&self, line: &str) -> Option<Ran> {
        let words = words(line);
        let first = words.first().expect("a program");
        if first == "har" {
            let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            return Some(self.har.run(&arguments));
        }
        let path: PathBuf = if first == "promtool" { promtool()? } else { program(first)? };
        let state = self.har.state_path();
        let folder = state.parent().expect("below the folder").display().to_string();
        let line = line
            .replacen(first.as_str(), &path.display().to_string(), 1)
            .replace("/var/lib/har", &folder)
            .replace("@127.0.0.1", &format!("@127.0.0.1 -p {}", self.har.port));
        Some(Ran::of(Command::new("sh").args(["-c", &line]).current_dir(root())))
    }
}

#[test]
fn what_is_said_to_run_runs() {
    let stage = Stage::start();
    let pages = pages();
    let mut run = 0;
    let mut missing = BTreeSet::new();
    for (place, block) in blocks(&pages, "sh") {
        let not_run = block.mark().strip_prefix("not-run:").map(str::trim);
        assert!(
            block.mark().is_empty() || not_run.is_some_and(|reason| !reason.is_empty()),
            "{place}: `sh`, or `sh not-run: REASON`"
        );
        if not_run.is_some() {
            continue;
        }
        for line in block.text.lines().map(bare).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let program = line.split_whitespace().next().expect("not empty");
            assert!(
                program == "har" || LOOKERS.contains(&program),
                "{place}: `{line}` is not run here; say why behind `sh not-run:`"
            );
            match stage.run(line) {
                Some(ran) => assert_eq!(ran.code, 0, "{place}: `{line}`\n{}{}", ran.out, ran.err),
                None => drop(missing.insert(program.to_owned())),
            }
            run += 1;
        }
    }
    assert!(run >= 30, "{run} lines");
    if !missing.is_empty() {
        skip(&format!("the lines of {missing:?}, which are not installed"));
    }
}
