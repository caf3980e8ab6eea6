//! A second `nameserver` line behind har's: who answers then, and when.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::clients::musl;
use super::stage::{NEEDED, Stage};
use super::table::{Table, WRONG};
use crate::harness::{Har, Upstream, dns, har, namespace, program};

/// What har answers, and what the other server answers for the same names.
const ANSWERS: [&str; 2] = ["192.0.2.4", "198.51.100.4"];

/// The time-out in resolv.conf, seconds.
const TIMEOUT: u64 = 3;

/// What har does when it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Answers,
    ServFail,
    NxDomain,
    Hangs,
    Stopped,
}

const STATES: [(&str, State); 5] = [
    ("har answers", State::Answers),
    ("har says SERVFAIL", State::ServFail),
    ("har says NXDOMAIN", State::NxDomain),
    ("har hangs", State::Hangs),
    ("har is not running", State::Stopped),
];

impl State {
    fn name(self) -> &'static str {
        match self {
            State::ServFail => "down.example",
            State::NxDomain => "missing.forwarded.example",
            _ => "four.example",
        }
    }
}

/// Whose answer a program took, and what else can be told from outside.
fn cell(second: &Upstream, state: State, ask: impl Fn(&str) -> String) -> String {
    let name = state.name();
    let before = second.seen(name).len();
    let begun = Instant::now();
    let text = ask(name);
    let waited = begun.elapsed() >= Duration::from_secs(TIMEOUT);
    // It takes one datagram after the other: when this reply is there, it has seen what was sent before.
    dns::udp(second.address(), &dns::encode(&dns::question("marker.example", dns::record_type("A"))));
    let asked = second.seen(name).len() > before;
    let who = match (text.contains(ANSWERS[0]), text.contains(ANSWERS[1])) {
        // Both are asked at the same time; which reply is first is nobody's to say.
        _ if asked && !waited && matches!(state, State::Answers | State::NxDomain) => {
            return "whoever is first".to_owned();
        }
        (true, false) => "har",
        (false, true) => "the second",
        (false, false) if state == State::NxDomain => "har",
        _ => return format!("{WRONG}: {text:?}"),
    };
    if waited { format!("{who}, after the time-out") } else { who.to_owned() }
}

fn set(har: &mut Har, state: State) {
    match state {
        State::Hangs => har.signal(Signal::SIGSTOP),
        State::Stopped => {
            har.signal(Signal::SIGCONT);
            assert!(har.stop().success());
        }
        _ => {}
    }
}

#[test]
fn a_second_nameserver_line_is_used_as_the_resolver_library_sees_fit() {
    namespace::inside(&NEEDED, || {
        let stage = Stage::new();
        let upstream = Upstream::start();
        let second = Upstream::start_at("127.0.0.2:53");
        for (_, state) in STATES {
            second.addresses(state.name(), &ANSWERS[1..]);
        }
        let names = format!(
            "[names.\"four.example\"]\ncheck = \"none\"\ncandidates = [\"{}\"]\n[names.\"down.example\"]\n\
             check = \"tcp:9\"\ncandidates = [\"192.0.2.9\"]\ninterval = \"300ms\"\nwhen_all_down = \"servfail\"\n",
            ANSWERS[0]
        );
        let mut har = har().port(53).upstream(&[&upstream]).names(&names).start();
        har.until_sql("SELECT state FROM address WHERE address = '192.0.2.9'", |state| state == "down");
        stage.resolv_conf("127.0.0.1\nnameserver 127.0.0.2", &format!("timeout:{TIMEOUT} attempts:1"));
        let mut programs: Vec<(&'static str, Result<Vec<PathBuf>, String>)> = vec![
            (
                "glibc",
                program("getent").map(|path| vec![path, "ahostsv4".into()]).ok_or("getent is not installed".to_owned()),
            ),
            ("musl", musl(&stage).map(|path| vec![path, "4".into()])),
        ];
        let mut cells = vec![Vec::new(); programs.len()];
        for (_, state) in STATES {
            set(&mut har, state);
            for ((_, command), cells) in programs.iter_mut().zip(&mut cells) {
                let Ok(command) = command else { continue };
                let words: Vec<&str> = command.iter().map(|word| word.to_str().expect("UTF-8")).collect();
                cells.push(cell(&second, state, |name| {
                    let output = stage.run(words[0], &[&words[1..], &[name]].concat());
                    String::from_utf8_lossy(&output.stdout).into_owned()
                }));
            }
        }
        let headings = std::iter::once("library").chain(STATES.iter().map(|(heading, _)| *heading)).collect();
        let mut table = Table::new("second", headings);
        for ((name, command), cells) in programs.into_iter().zip(cells) {
            match command {
                Ok(_) => table.row(name, cells),
                Err(reason) => table.absent(name, reason),
            }
        }
        table.version("glibc", stage.version("getent", "--version"));
        table.settle();
    });
}
