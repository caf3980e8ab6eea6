//! The code that a daemon at work needs lies together, so that little else of the program is in memory.
//!
//! `HAR_BLESS=1 cargo test --test har steady` writes `packaging/link/steady.txt`, the list by which the build puts it together:
//! every function of the profile `gate` that ran after the start, as callgrind saw it. The test starts the program of
//! that profile without callgrind, lets it do the same work, and asks the kernel which pages of its code are in memory.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::daemon::Ran;
use crate::harness::dns::{encode, framed, question};
use crate::harness::{Backend, Har, Mode, Upstream, har, missing, skip, wait_for};
use crate::instructions::{gate, in_place_of, is_blessing};

use hickory_proto::rr::RecordType;

/// Code in memory outside of the list's, kB: windows of 64 KiB that some function brought in.
const MOST_KB: usize = 640;
/// Code in memory before what the start used is given back, kB, at least: without this the test would show nothing.
const START_KB: usize = 1500;
const PAGE: usize = 4096;
/// Rounds of checks, and of questions, that are the work.
const ROUNDS: usize = 10;
/// In these a candidate is down: rows of the state file are written that were not written before, and lines of the log.
const DOWN: Range<usize> = 2..6;

fn list() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/link/steady.txt")
}

/// What the daemon is asked and what it checks.
struct Peers {
    upstream: Upstream,
    checked: Vec<Backend>,
}

impl Peers {
    fn start() -> Peers {
        let upstream = Upstream::start();
        for number in 0..ROUNDS {
            upstream.addresses(&format!("u{number}.example.org"), &["192.0.2.1"]);
            upstream.addresses(&format!("t{number}.example.org"), &["192.0.2.2"]);
        }
        Peers { upstream, checked: Backend::group(&[("127.0.1.1", 1), ("127.0.1.2", 5)]) }
    }

    /// A daemon of ten names, five checked over TCP and five over HTTP; not started.
    fn daemon(&self) -> Har {
        let port = self.checked[0].port();
        let name = |number: usize| {
            let check = if number < 5 { format!("tcp:{port}") } else { format!("http://{{host}}:{port}/n{number}") };
            format!("[names.\"n{number}.example\"]\ncheck = \"{check}\"\ncandidates = [\"127.0.1.1\", \"127.0.1.2\"]\n")
        };
        let names: String = (0..10).map(name).collect();
        har().upstream(&[&self.upstream]).names(&format!("[defaults]\ninterval = \"1s\"\n{names}")).prepare()
    }

    /// Rounds of checks, of questions over UDP and TCP, and of writing, one after the other.
    fn work(&self, har: &Har) {
        for round in 0..ROUNDS {
            let status = if DOWN.contains(&round) { 503 } else { 200 };
            self.checked[1].set(Mode::Answer(status, Duration::ZERO));
            let before = self.checked[0].requests().len();
            ask(har, round);
            wait_for("a round of checks", || (self.checked[0].requests().len() >= before + 5).then_some(()));
        }
        let last = format!("SELECT queries_a FROM name WHERE name = 'n{}.example'", ROUNDS - 1);
        har.until_sql(&last, |count| count.parse().is_ok_and(|count: u64| count > 0));
    }
}

/// Asks for a name of its own and one of the upstream's, over UDP and TCP.
fn ask(har: &Har, round: usize) {
    assert!(!har.a(&format!("n{round}.example")).is_empty());
    assert_eq!(har.a(&format!("u{round}.example.org")), "192.0.2.1");
    let mut tcp = har.tcp();
    for name in [format!("n{round}.example"), format!("t{round}.example.org")] {
        tcp.0.set_nodelay(true).expect("an option");
        std::io::Write::write_all(&mut tcp.0, &framed(&encode(&question(&name, RecordType::A)))).expect("har reads");
        assert!(tcp.receive().is_some_and(|reply| reply[3] & 0x0f == 0 && reply[7] == 1), "{name}");
    }
}

#[test]
fn the_code_of_a_daemon_at_work_lies_together() {
    if let Some(reason) = missing(if is_blessing() { &["valgrind", "vgdb"] } else { &["readelf"] }) {
        return skip(&reason);
    }
    if is_blessing() {
        // What only a long load shows is on the list already. A name that no longer exists costs nothing.
        let before = fs::read_to_string(list()).expect("the list");
        let kept = before.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
        return fs::write(list(), text(&ran().into_iter().chain(kept).collect())).expect("own folder");
    }
    let peers = Peers::start();
    let mut har = peers.daemon();
    har.spawn_as(in_place_of(&har, Command::new(gate())));
    assert!(har.becomes_ready(), "{}", har.log());
    let begin = code_kb(&har);
    assert!(begin.1 >= START_KB, "the start left {begin:?} kB of code, inside and outside of the list's");
    wait_for("the start's code to be given back", || (code_kb(&har).1 < begin.1 / 2).then_some(()));
    peers.work(&har);
    let (inside, outside) = code_kb(&har);
    println!("{inside} kB of the list's code, {outside} kB of other code");
    assert!(
        inside > 0 && outside <= MOST_KB,
        "{outside} kB of code in memory that packaging/link/steady.txt does not name"
    );
}

/// The functions of the program that ran at work, after the start and before the stop.
fn ran() -> BTreeSet<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("counts");
    let mut command = Command::new("valgrind");
    // The start ends where it gives memory back.
    command.args(["--tool=callgrind", "--quiet", "--zero-before=malloc_trim", "--demangle=no"]);
    command.args(["--compress-strings=no", "--compress-pos=no"]);
    command.arg(format!("--callgrind-out-file={}", out.display())).arg(gate());
    let peers = Peers::start();
    let mut har = peers.daemon();
    har.spawn_as(in_place_of(&har, command));
    assert!(har.becomes_ready(), "{}", har.log());
    // Long enough for what is due every few seconds, and for threads to come and go.
    for _ in 0..4 {
        peers.work(&har);
    }
    Ran::of(Command::new("vgdb").arg(format!("--pid={}", har.pid())).arg("dump")).ok();
    let dumped = folder.path().join("counts.1");
    let counts = wait_for("the counts", || fs::read_to_string(&dumped).ok().filter(|text| text.contains("\ntotals:")));
    har.kill9();
    functions(&counts, &gate().display().to_string())
}

/// The functions of `object` with a cost of their own, under names without the compiler's hashes and suffixes.
fn functions(counts: &str, object: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let (mut here, mut function, mut inclusive) = (false, "", false);
    for line in counts.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            // Of functions without lines, C's and the standard library's, callgrind does not say whose they are.
            here = name == object || name == "???";
        } else if let Some(name) = line.strip_prefix("fn=") {
            function = name;
        } else if line.starts_with("calls=") {
            inclusive = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            // The line after `calls=` is what the called function cost.
            if !std::mem::take(&mut inclusive) && here && function.starts_with(|first: char| !first.is_ascii_digit()) {
                found.insert(lasting(function));
            }
        }
    }
    found.retain(|name| name.chars().all(|one| one.is_ascii_alphanumeric() || "_$.*".contains(one)));
    found
}

/// The part of a function's name that does not change from build to build, as a pattern.
fn lasting(name: &str) -> String {
    let hash = regex::Regex::new("17h[0-9a-f]{16}E.*$").expect("a valid pattern");
    let krate = regex::Regex::new("Cs[0-9A-Za-z]+_").expect("a valid pattern");
    let recursion = name.split('\'').next().unwrap_or_default();
    if recursion.starts_with("_ZN") {
        return hash.replace(recursion, "17h*").into_owned();
    }
    let plain = recursion.split('.').next().unwrap_or_default();
    if plain.starts_with("_R") { krate.replace_all(plain, "Cs*_").into_owned() } else { plain.to_owned() }
}

fn text(names: &BTreeSet<String>) -> String {
    assert!(names.len() > 500, "{} functions ran", names.len());
    let lines: Vec<String> = names.iter().map(|name| format!("{name}\n")).collect();
    format!(
        "# The functions of a daemon at work, which the build puts side by side (packaging/link/main.rs).\n\
         # Written by `HAR_BLESS=1 cargo test --test har steady`.\n{}",
        lines.concat()
    )
}

/// Program code in memory, kB: of the list's, and other.
fn code_kb(har: &Har) -> (usize, usize) {
    let maps = fs::read_to_string(format!("/proc/{}/maps", har.pid())).expect("it is running");
    let program = gate().display().to_string();
    let lines: Vec<&str> = maps.lines().filter(|line| line.ends_with(&program)).collect();
    let mapped = |line: &str| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    let base = lines.first().and_then(|line| mapped(line)).expect("the program is mapped").start;
    let code = lines.iter().find(|line| line.contains(" r-xp ")).and_then(|line| mapped(line)).expect("code");
    let list = section();
    let list = base + list.start..base + list.end;
    let pages = fs::File::open(format!("/proc/{}/pagemap", har.pid())).expect("it is running");
    let mut entries = vec![0; (code.end - code.start) / PAGE * 8];
    pages.read_exact_at(&mut entries, (code.start / PAGE * 8) as u64).expect("an entry for each page");
    let present = entries.chunks(8).map(|entry| entry[7] & 0x80 != 0);
    let addresses = (code.start..).step_by(PAGE).zip(present).filter(|(_, present)| *present).map(|(at, _)| at);
    let (inside, outside): (Vec<usize>, Vec<usize>) =
        addresses.partition(|at| *at + PAGE > list.start && *at < list.end);
    (inside.len() * PAGE / 1024, outside.len() * PAGE / 1024)
}

/// Where in the program the list's code is.
fn section() -> Range<usize> {
    let sections = Ran::of(Command::new("readelf").arg("-SW").arg(gate())).ok();
    let line = sections.lines().find_map(|line| line.split_once(" .text.steady ")).map(|(_, rest)| rest);
    let line = line.expect("the build has put code together; its warnings say why not");
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |place: usize| usize::from_str_radix(words[place], 16).expect("a number");
    number(1)..number(1) + number(3)
}

#[test]
fn names_are_kept_without_what_the_compiler_adds() {
    for (name, kept) in [
        ("_ZN3har5serve6Server4wake17h165f9e64aad4a041E", "_ZN3har5serve6Server4wake17h*"),
        ("_ZN3har5serve6Server4wake17h165f9e64aad4a041E.llvm.17'2", "_ZN3har5serve6Server4wake17h*"),
        ("_RNvXsq_NtCsjrHSEGnQ3l9_5alloc6string3fmt.287", "_RNvXsq_NtCs*_5alloc6string3fmt"),
        ("sqlite3Update.constprop.0", "sqlite3Update"),
        ("resolveExprStep'2", "resolveExprStep"),
    ] {
        assert_eq!(lasting(name), kept);
    }
    let counts = "ob=/a\nfn=one\n1 5\ncalls=1 0\n6 99\nfn=two\ncalls=1 0\n1 99\nob=/lib\nfn=three\n1 5\n\
                  ob=/a\nfn=0x12\n0 5\n";
    assert_eq!(functions(counts, "/a"), BTreeSet::from(["one".to_owned()]));
}
