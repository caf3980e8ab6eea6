//! A configuration's course through made-up records, and the lines that come of it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::health::{CheckResult, Outcome};
use crate::store::tests::{address, endpoint};

const NAMES: &str = "[server]\nlisten = [\"127.0.0.1:5399\"]\n[upstream]\nservers = [\"127.0.0.1:9\"]\n\
    [names.\"api.example\"]\ncheck = \"tcp:80\"\ninterval = \"1s\"\n";

fn configured(folder: &Path, candidates: &str, more: &str) -> Config {
    let path = folder.join(format!("{}.toml", candidates.len() + more.len()));
    std::fs::write(&path, format!("{NAMES}candidates = {candidates}\n{more}")).unwrap();
    config::load(&path).unwrap_or_else(|report| panic!("{report}"))
}

fn record(second: u64, address: &str, ms: Option<u64>) -> Record {
    let address: IpAddr = address.parse().unwrap();
    let result = CheckResult {
        outcome: if ms.is_some() { Outcome::Ok } else { Outcome::ConnectError },
        silent: false,
        status: None,
        connect: None,
        first_byte: None,
        total: Duration::from_millis(ms.unwrap_or(1)),
        error: None,
        priority: None,
        certificate_days: None,
    };
    Record { at: at(second), address, definition: "tcp:80".into(), result }
}

fn at(second: u64) -> Time {
    Time(1_795_243_500_000 + second * 1000)
}

/// Two addresses with a result a second each: the first takes 10 ms, but fails from 100 s to 150 s; the second 20 ms.
fn minutes() -> Vec<Record> {
    (0..300)
        .flat_map(|second| {
            let fast = (!(100..150).contains(&second)).then_some(10);
            [record(second, "192.0.2.1", fast), record(second, "192.0.2.2", Some(20))]
        })
        .collect()
}

fn recorded(records: &[Record]) -> Recording {
    let mut recording = Recording { begin: at(0), interval: Duration::from_secs(1), ..Recording::default() };
    for record in records {
        *recording.checks.entry((record.address, Arc::clone(&record.definition))).or_default() += 1;
    }
    recording
}

fn outcomes(config: &Config, records: &[Record]) -> Outcomes {
    let recording = recorded(records);
    let mut course = Course::new(specs(config, &Stored::default()), b"machine", &recording);
    records.iter().for_each(|record| course.feed(record));
    let finished = course.finish(at(300));
    assert_eq!(finished.len(), 1, "IPv4 alone: {finished:?}");
    finished[0].2.clone()
}

#[test]
fn a_course_measures_changes_dead_time_and_latency() {
    let folder = tempfile::tempdir().unwrap();
    let records = minutes();
    let usual = outcomes(&configured(folder.path(), "[\"192.0.2.1\", \"192.0.2.2\"]", ""), &records);
    assert_eq!(usual.changes, 2, "there and back");
    assert_eq!(usual.dead_ms, 2000, "the third failure in a row moves the answer");
    assert_eq!((usual.empty_ms, usual.total_ms), (0, 298_000), "without the first moments");
    // 20 ms for some 50 s, 10 ms for the rest; the best available is the same but for hysteresis and `rise`.
    let answered = usual.answered_latency_ms.unwrap();
    assert!((11.5..12.5).contains(&answered), "{answered}");
    assert!(usual.best_latency_ms.unwrap() < answered);

    let patient = configured(folder.path(), "[\"192.0.2.1\", \"192.0.2.2\"]", "fall = 30\nmin_success = 0.0\n");
    assert_eq!(outcomes(&patient, &records).dead_ms, 29_000);
    let slow_alone = outcomes(&configured(folder.path(), "[\"192.0.2.2\"]", ""), &records);
    assert_eq!((slow_alone.changes, slow_alone.dead_ms, slow_alone.answered_latency_ms), (0, 0, Some(20.0)));
}

#[test]
fn a_gap_in_the_records_counts_as_nothing_known() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path(), "[\"192.0.2.1\", \"192.0.2.2\"]", "");
    let mut records = minutes();
    records.retain(|record| record.at < at(50) || record.at >= at(200));
    let gap = outcomes(&config, &records);
    assert!(gap.total_ms < 160_000, "{gap:?}");
    assert_eq!(gap.dead_ms, 0);
}

/// A host that boots with its clock at 1970 and has it set then: the time between is no reason to go through it.
#[test]
fn decades_without_a_record_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path(), "[\"db.example\", \"192.0.2.2\"]", "");
    let records: Vec<Record> =
        (0..10).map(Time).chain((0..10).map(at)).map(|at| Record { at, ..record(0, "192.0.2.1", Some(10)) }).collect();
    let address = records[0].address;
    let spans = std::collections::BTreeMap::from([(address, (Time(0), at(9)))]);
    let hosts = HashMap::from([("db.example".into(), spans)]);
    let recording = Recording { begin: Time(0), hosts, ..recorded(&records) };
    let begun = Instant::now();
    let mut course = Course::new(specs(&config, &Stored::default()), b"machine", &recording);
    records.iter().for_each(|record| course.feed(record));
    // Milliseconds; step by step it would take minutes.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let finished = course.finish(at(300));
    assert_eq!(finished[0].2.answered_latency_ms, Some(10.0), "{finished:?}");
}

/// A check that two candidates share is filed under one of them. The address has another check too, and only since later.
#[test]
fn a_candidate_has_the_results_that_are_filed_under_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path(), "[\"db.example\"]", "");
    let mut endpoint = endpoint("api.example", 1);
    (endpoint.host, endpoint.definition) = (Host::Name("db.example".into()), "tcp:80".into());
    let target = |id, host: &str, definition: &str, first, last| TargetRow {
        id,
        host: Host::Name(host.into()),
        address: address(1),
        definition: definition.into(),
        first: at(first),
        last: at(last),
        results: 1,
    };
    let targets = [
        target(1, "other.example", "tcp:80", 0, 150),
        target(2, "third.example", "tcp:80", 150, 300),
        target(3, "other.example", "tcp:81", 250, 300),
    ];
    let stored = Stored { endpoints: vec![endpoint], ..Stored::default() };
    let recording = Recording { interval: Duration::from_secs(1), ..recording(&targets, &stored) };
    let mut course = Course::new(specs(&config, &Stored::default()), b"machine", &recording);
    (0..300).for_each(|second| course.feed(&record(second, "192.0.2.1", Some(10))));
    let finished = course.finish(at(300));
    assert_eq!((finished[0].2.empty_ms, finished[0].2.total_ms), (0, 298_000), "{finished:?}");
}

/// Names that come to share an address are given it by the same result.
#[test]
fn an_address_is_brought_to_every_candidate_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path(), "[\"db.example\"]", "");
    let begun = at(100);
    let hosts = ["a.example", "db.example", "z.example"];
    let hosts = hosts.map(|host| (Arc::from(host), BTreeMap::from([(address(1), (begun, at(300)))])));
    let records: Vec<Record> = (100..300).map(|second| record(second, "192.0.2.1", Some(10))).collect();
    let recording = Recording { hosts: HashMap::from(hosts), ..recorded(&records) };
    let mut course = Course::new(specs(&config, &Stored::default()), b"machine", &recording);
    records.iter().for_each(|record| course.feed(record));
    let finished = course.finish(at(300));
    // The time before the first result counts for three intervals.
    assert_eq!((finished[0].2.empty_ms, finished[0].2.total_ms), (3000, 203_000), "from its first result on");
}

#[test]
fn what_is_not_recorded_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path(), "[\"192.0.2.1\", \"192.0.2.9\", \"new.example\"]", "");
    let notes = unrecorded("new", &specs(&config, &Stored::default()), &recorded(&minutes()));
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("192.0.2.9 of api.example") && notes[1].contains("new.example"), "{notes:?}");
}

#[test]
fn the_names_of_both_stand_side_by_side() {
    let line = |name: &str| (Arc::from(name), Family::V4, Outcomes::default());
    let lines = lines(vec![line("a"), line("b")], vec![line("c"), line("a")]);
    let shown: Vec<_> = lines.iter().map(|line| (line.name.as_str(), line.old.is_some(), line.new.is_some())).collect();
    assert_eq!(shown, [("c", false, true), ("a", true, true), ("b", true, false)]);
}
