//! Whole pages: of state files that the writer made, and of rows made up for what a page must withstand.

use std::time::{Duration, Instant};

use super::*;
use crate::health::{Event, EventKind, Outcome, State, Time};
use crate::store::tests::{DAY, LONG, address, complete, endpoint, name_row, result, start};
use crate::store::{Batch, ResultRow, Store, Stored};

fn options(names: &[&str]) -> ReportOptions {
    ReportOptions {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        since: Duration::from_secs(3600),
        limit: 50,
        output: "-".into(),
        has_history: true,
    }
}

/// The page of a state file that holds these batches.
fn page_of(batches: Vec<Batch>, options: &ReportOptions) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    batches.into_iter().for_each(|batch| writer.send(batch));
    assert!(writer.flush(LONG));
    assert!(writer.stop(LONG));
    let mut out = Vec::new();
    run(&path, options, "web-1".to_owned(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn state_event(at: Time, number: u32, before: &str, after: &str) -> Event {
    let record = endpoint("api.example.com", number);
    let mut event = Event::new(at, EventKind::State, "3 checks failed in a row".to_owned());
    (event.name, event.host, event.address) = (Some(record.name), Some(record.host), Some(record.address));
    (event.before, event.after) = (Some(before.to_owned().into()), Some(after.to_owned().into()));
    event
}

fn minutes_ago(minutes: u64) -> Time {
    Time(time::now().0 - minutes * 60_000)
}

#[test]
fn a_page_shows_the_answer_the_states_the_latencies_and_the_events() {
    let mut batch = complete(2);
    batch.results = (0..240u64)
        .map(|number| {
            let at = Time(minutes_ago(40).0 + number * 10_000);
            let outcome = if (60..90).contains(&number) { Outcome::Timeout } else { Outcome::Ok };
            result(1, at, outcome, 7 + number % 3)
        })
        .collect();
    batch.events.extend([state_event(minutes_ago(30), 1, "up", "down"), state_event(minutes_ago(25), 1, "down", "up")]);
    batch.endpoints[0].since = minutes_ago(25);
    let page = page_of(vec![batch], &options(&[]));
    for wanted in [
        "<title>har on web-1, ",
        "api.example.com",
        "✓ all 2 up",
        "for ",
        ": the fastest",
        "192.0.2.1 (h1.example.com), 192.0.2.2 (h2.example.com)",
        "class=\"state down\"",
        "class=\"failures\"",
        "class=\"line l1\"",
        "8 ms",
        "state 192.0.2.1 h1.example.com up → down",
        "87.50 %",
        "Nothing older is recorded",
    ] {
        assert!(page.contains(wanted), "{wanted}\n{page}");
    }
    let elsewhere = page.replace("http://www.w3.org/", "").matches("http://").count();
    assert_eq!((page.matches("<script").count(), elsewhere), (0, 0), "no scripts, and names of vocabularies alone");
}

/// Results of a check every ten seconds from so many minutes ago on, ten minutes long.
fn ten_minutes(ago: u64, number: u32, definition: &str, outcome: Outcome) -> Vec<ResultRow> {
    let one = |at: u64| {
        let mut row = result(number, Time(minutes_ago(ago).0 + at * 10_000), outcome, 8);
        row.definition = definition.into();
        row
    };
    (0..60).map(one).collect()
}

#[test]
fn what_an_earlier_check_found_stays_and_is_marked() {
    let mut batch = complete(2);
    batch.results = ten_minutes(40, 1, "tcp:8080", Outcome::Timeout);
    batch.results.extend(ten_minutes(30, 1, "http://{host}/", Outcome::Ok));
    let page = page_of(vec![batch], &options(&[]));
    assert!(page.contains("50.00 %"), "both count: {page}");
    assert_eq!(page.matches("class=\"redefined\"").count(), 1);
    assert!(page.contains("the check of 192.0.2.1 was tcp:8080"), "{page}");
    assert!(page.contains("Upright dashes"));
}

#[test]
fn an_earlier_check_of_an_address_that_two_names_have_is_nobodys() {
    let mut batch = complete(1);
    let mut other = batch.endpoints[0].clone();
    (other.name, other.definition) = ("other.example.com".into(), "tcp:443".into());
    batch.names.push(name_row("other.example.com"));
    batch.endpoints.push(other);
    batch.results = ten_minutes(40, 1, "tcp:8080", Outcome::Timeout);
    batch.results.extend(ten_minutes(30, 1, "http://{host}/", Outcome::Ok));
    batch.results.extend(ten_minutes(30, 1, "tcp:443", Outcome::Ok));
    let page = page_of(vec![batch], &options(&[]));
    assert!(page.matches("100 %").count() >= 2 && !page.contains("50.00 %"), "{page}");
    assert!(!page.contains("redefined\"") && !page.contains("8080"));
}

/// The checks and the share of those that passed in the table's row of each address.
fn counts_of(page: &str) -> Vec<(String, String)> {
    let cell = |row: &str, label: &str| {
        let cell = row.split(&format!("data-label=\"{label}\"")).nth(1).unwrap();
        cell.split(['>', '<']).nth(1).unwrap().to_owned()
    };
    let rows = page.split("<th scope=\"row\">").skip(1);
    rows.map(|row| (cell(row, "Checks"), cell(row, "Passed"))).collect()
}

/// A name with the address of `h1.example.com`, which it knows under another name.
fn with_an_alias() -> Batch {
    let mut batch = complete(1);
    let mut alias = endpoint("alias.example.com", 1);
    alias.host = crate::health::Host::Name("db1.example.com".into());
    batch.names.push(name_row("alias.example.com"));
    batch.endpoints.push(alias);
    batch
}

fn filed_under(host: &str, mut results: Vec<ResultRow>) -> Vec<ResultRow> {
    results.iter_mut().for_each(|row| row.host = crate::health::Host::Name(host.into()));
    results
}

#[test]
fn a_check_that_two_candidates_share_counts_for_both_whomever_it_is_filed_under() {
    let mut batch = with_an_alias();
    batch.results = ten_minutes(30, 1, "http://{host}/", Outcome::Ok);
    // A reload moved it to the other one, and another one moved it back.
    batch.results.extend(filed_under("db1.example.com", ten_minutes(20, 1, "http://{host}/", Outcome::Timeout)));
    batch.results.extend(ten_minutes(10, 1, "http://{host}/", Outcome::Ok));
    let page = page_of(vec![batch], &options(&[]));
    assert_eq!(counts_of(&page), vec![("180".to_owned(), "66.67 %".to_owned()); 2], "{page}");
}

#[test]
fn two_checks_of_the_same_words_are_each_counted_for_their_own_candidate() {
    let mut batch = with_an_alias();
    batch.results = ten_minutes(10, 1, "http://{host}/", Outcome::Ok);
    batch.results.extend(filed_under("db1.example.com", ten_minutes(10, 1, "http://{host}/", Outcome::Timeout)));
    let page = page_of(vec![batch], &options(&["api.example.com", "alias.example.com"]));
    let expected = ["100 %", "0.00 %"].map(|share| ("60".to_owned(), share.to_owned()));
    assert_eq!(counts_of(&page), expected, "{page}");
}

#[test]
fn an_address_passes_when_all_its_checks_do_and_its_latency_is_that_of_the_first() {
    let mut batch = complete(1);
    batch.endpoints[0].definition = "tcp:80; http://{host}/".into();
    batch.results = ten_minutes(20, 1, "tcp:80", Outcome::Ok);
    let mut other = ten_minutes(20, 1, "http://{host}/", Outcome::Timeout);
    other[0].result.outcome = Outcome::Ok;
    other[0].result.total = Duration::from_millis(777);
    batch.results.extend(other);
    let page = page_of(vec![batch], &options(&[]));
    let (checks, passed) = counts_of(&page).remove(0);
    assert_eq!((checks.as_str(), passed.as_str()), ("60", "1.67 %"), "{page}");
    assert!(!page.contains("777") && page.contains("Of several checks of an address"), "{page}");
}

#[test]
fn a_name_that_is_asked_for_twice_has_one_section() {
    let page = page_of(vec![complete(1)], &options(&["api.example.com", "API.example.com."]));
    assert!(page.contains("id=\"n1\"") && !page.contains("id=\"n2\""), "{page}");
}

#[test]
fn every_check_counts_once_where_single_results_are_no_longer_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    let mut batch = complete(1);
    // One in ten seconds for 50 minutes; of the last 12 they are kept.
    let one = |number: u64| result(1, Time(minutes_ago(50).0 + number * 10_000), Outcome::Ok, 8);
    batch.results = (0..299).map(one).collect();
    writer.send(batch);
    assert!(writer.flush(LONG));
    writer.set_history(Duration::from_secs(720));
    writer.send(Batch { results: vec![one(299)], ..Batch::default() });
    assert!(writer.flush(LONG));
    let left = crate::store::tests::count(&path, "SELECT count(*) FROM check_result");
    assert!((70..75).contains(&left), "{left}");
    let mut out = Vec::new();
    run(&path, &options(&[]), "web-1".to_owned(), &mut out).unwrap();
    assert!(writer.stop(LONG));
    let page = String::from_utf8(out).unwrap();
    assert_eq!(counts_of(&page), [("300".to_owned(), "100 %".to_owned())], "{page}");
    assert!(page.contains("Single results are kept since") && !page.contains("nothing is shown"), "{page}");
}

#[test]
fn what_is_not_yet_summed_up_and_no_longer_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    let mut batch = complete(1);
    // So long ago that the next slot is over, too.
    let begin = time::now().0 / 300_000 * 300_000 - 900_000;
    let result_at = |second: u64| result(1, Time(begin + second * 1000), Outcome::Ok, 8);
    batch.results = (0..280).map(result_at).collect();
    writer.send(batch);
    assert!(writer.flush(LONG));
    assert!(writer.stop(LONG));
    // A crash in the second slot, of which the single results are gone but for some.
    let connection = rusqlite::Connection::open(&path).unwrap();
    let late = "UPDATE check_result SET at_unix_ms = at_unix_ms + 290000; DELETE FROM check_result WHERE id <= 200;
        UPDATE endpoint SET interval_ms = 1000; UPDATE name SET interval_ms = 1000";
    connection.execute_batch(late).unwrap();
    let mut out = Vec::new();
    run(&path, &options(&[]), "web-1".to_owned(), &mut out).unwrap();
    let page = String::from_utf8(out).unwrap();
    assert_eq!(counts_of(&page), [("360".to_owned(), "100 %".to_owned())], "{page}");
    let wanted = format!("From {} to ", plot::minute(Time(begin + 300_000)));
    assert!(page.contains(&wanted) && page.contains("nothing is shown"), "{page}");
}

/// The clock was ahead by 20 minutes for the first ten.
#[test]
fn checks_count_once_after_a_clock_that_was_ahead() {
    let mut batch = complete(1);
    batch.results = ten_minutes(20, 1, "http://{host}/", Outcome::Ok);
    for ago in [30, 20, 10] {
        batch.results.extend(ten_minutes(ago, 1, "http://{host}/", Outcome::Ok));
    }
    let page = page_of(vec![batch], &options(&[]));
    assert_eq!(counts_of(&page), [("240".to_owned(), "100 %".to_owned())], "{page}");
}

#[test]
fn hostile_text_from_outside_stays_text() {
    let hostile = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{202e}\u{7}";
    let mut batch = complete(2);
    batch.endpoints[0].last_error = Some(hostile.into());
    batch.endpoints[0].last_outcome = Some(Outcome::ResponseError);
    batch.endpoints[0].standing = crate::health::Recorded::Read(hostile.to_owned());
    batch.endpoints[0].drained = Some(hostile.to_owned());
    batch.endpoints[1].host = crate::health::Host::Name(hostile.into());
    batch.answers[0].reason = hostile.into();
    batch.candidates[1].error = Some(hostile.to_owned());
    batch.events[0].reason = hostile.into();
    batch.events[0].after = Some(hostile.into());
    if let Some(daemon) = &mut batch.daemon {
        (daemon.version, daemon.note) = (hostile.to_owned(), hostile.to_owned());
    }
    let page = page_of(vec![batch], &options(&[]));
    assert!(page.matches("&lt;script&gt;").count() >= 6, "it is shown where it belongs");
    for unwanted in ["<script", "<img", "\u{202e}", "\u{7}", "onerror=\"", "'&"] {
        assert!(!page.contains(unwanted), "{unwanted:?}");
    }
    assert_eq!(page.matches("</style>").count(), 1);
}

#[test]
fn without_single_results_the_sums_are_drawn_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    let mut batch = complete(1);
    batch.results =
        (0..180u64).map(|number| result(1, Time(minutes_ago(50).0 + number * 10_000), Outcome::Ok, 8)).collect();
    writer.send(batch);
    assert!(writer.flush(LONG));
    writer.set_history(Duration::ZERO);
    writer.send(Batch { results: vec![result(1, minutes_ago(1), Outcome::Ok, 8)], ..Batch::default() });
    assert!(writer.flush(LONG));
    assert!(writer.stop(LONG));
    let mut out = Vec::new();
    let options = ReportOptions { has_history: false, ..options(&[]) };
    run(&path, &options, "web-1".to_owned(), &mut out).unwrap();
    let page = String::from_utf8(out).unwrap();
    assert!(page.contains("server.history = &quot;0s&quot;"), "{page}");
    assert!(page.contains("five-minute sums, with their mean"), "the sums are drawn: {page}");
    assert!(page.contains("class=\"line l1\""), "{page}");
}

#[test]
fn nothing_recorded_is_said_and_not_drawn() {
    let mut batch = complete(1);
    (batch.results, batch.events) = (Vec::new(), Vec::new());
    let page = page_of(vec![batch], &ReportOptions { has_history: false, ..options(&[]) });
    assert!(page.contains("there are no latencies to draw"), "{page}");
    assert!(page.contains("Nothing happened in this period"), "{page}");
    assert!(!page.contains("class=\"line"), "{page}");
    let empty = page_of(Vec::new(), &options(&[]));
    assert!(empty.contains("No name is configured") && empty.contains("no daemon has written this state yet"));
}

#[test]
fn names_that_are_asked_for_are_shown_and_slips_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    drop(Store::open(&path).unwrap());
    let (writer, _) = start(&path);
    writer.send(complete(1));
    assert!(writer.flush(LONG));
    assert!(writer.stop(LONG));
    let mut out = Vec::new();
    run(&path, &options(&["API.example.com."]), "web-1".to_owned(), &mut out).unwrap();
    assert!(String::from_utf8(out).unwrap().contains("id=\"n1\""));
    let slip = run(&path, &options(&["apj.example.com"]), "web-1".to_owned(), &mut Vec::new());
    assert!(matches!(slip, Err(Failure::Usage(line)) if line.contains("apj.example.com")));
    let missing = run(&folder.path().join("no.db"), &options(&[]), "web-1".to_owned(), &mut Vec::new());
    assert!(matches!(missing, Err(Failure::Run(line)) if line.contains("is har running")));
}

/// Ten thousand names with three addresses each: one without anything up, one partly up, one that moved.
fn many() -> Stored {
    let mut stored = Stored::default();
    for number in 0..10_000u32 {
        let name = format!("n{number:05}.example.com");
        stored.names.push((name_row(&name), Default::default()));
        for place in 1..=3 {
            let mut record = endpoint(&name, place);
            record.state = match (number, place) {
                (7777, _) | (8888, 1) => State::Down,
                _ => State::Up,
            };
            stored.endpoints.push(record);
        }
        stored.answers.push(crate::store::tests::answer(&name));
    }
    stored
}

#[test]
fn ten_thousand_names_stay_a_page_with_the_troubled_ones_first() {
    let stored = many();
    let mut moved = crate::store::tests::event(minutes_ago(5), "faster");
    moved.name = Some("n09999.example.com".into());
    let row = crate::store::EventRow {
        id: 1,
        at: time::to_text(moved.at),
        kind: "answer".to_owned(),
        name: moved.name.map(|name| name.to_string()),
        family: Some("A".to_owned()),
        host: None,
        address: None,
        before: moved.before.map(Into::into),
        after: moved.after.map(Into::into),
        before_ms: None,
        after_ms: None,
        reason: moved.reason.to_string(),
    };
    let rows = Rows { stored: &stored, events: &[row], first_record: Some(Time(0)), has_history: true };
    let wanted = Wanted { names: &[], since: DAY, limit: 50 };
    let began = Instant::now();
    let mut report = collect::report(&rows, &wanted, "web-1".to_owned(), time::now()).unwrap();
    let names: Vec<&str> = report.names.iter().take(4).map(|name| name.name.as_str()).collect();
    assert_eq!(names, ["n07777.example.com", "n08888.example.com", "n09999.example.com", "n00000.example.com"]);
    assert_eq!((report.names.len(), report.levels), (50, [1, 1, 9998]));
    assert!(
        report.notes.iter().any(|note| note.contains("0 with trouble, 0 with changes, 9950 quiet")),
        "{:?}",
        report.notes
    );
    // Every part of every line has its own range: the worst case.
    for address in report.names.iter_mut().flat_map(|name| &mut name.addresses) {
        for part in 0..1600u64 {
            let at = Time(report.period.from.0 + part * DAY.as_millis() as u64 / 1600);
            address.series.check(0, at, (part % 50 != 0).then_some(1.0 + (part * 7919 % 1000) as f32));
        }
    }
    let page = page::page(&report);
    assert!(page.len() < 4_000_000, "{} bytes", page.len());
    assert!(began.elapsed() < Duration::from_secs(60), "no quadratic search");
    assert!(page.contains(&address(3).to_string()));
}

/// The colours of a theme: what `:root` says, light first.
fn colours(theme: usize) -> std::collections::HashMap<String, [f64; 3]> {
    let style = include_str!("style.css");
    let roots: Vec<&str> = style.split(":root{").skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
    let mut colours = std::collections::HashMap::new();
    for declaration in roots[..=theme].iter().flat_map(|root| root.split(';')) {
        let Some((name, hex)) = declaration.split_once(":#") else { continue };
        let hex: String = if hex.len() == 3 { hex.chars().flat_map(|c| [c, c]).collect() } else { hex.to_owned() };
        let part = |at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
        colours.insert(name.trim().to_owned(), [part(0), part(2), part(4)]);
    }
    colours
}

/// The contrast of two colours as WCAG 2 defines it.
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let linear = |part: f64| if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) };
    let light = |[red, green, blue]: [f64; 3]| 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
    let (one, other) = (light(one) + 0.05, light(other) + 0.05);
    (one / other).max(other / one)
}

#[test]
fn every_text_has_the_contrast_of_wcag_aa() {
    let mut pairs: Vec<(String, String)> = [
        ("--ink", "--back"),
        ("--ink", "--sheet"),
        ("--ink", "--unknown"),
        ("--faint", "--back"),
        ("--faint", "--sheet"),
        ("--link", "--back"),
        ("--good", "--good-back"),
        ("--warn", "--warn-back"),
        ("--bad", "--bad-back"),
        ("--good", "--sheet"),
        ("--bad", "--sheet"),
    ]
    .map(|(text, back)| (text.to_owned(), back.to_owned()))
    .to_vec();
    for number in 1..=plot::LINES {
        pairs.push(("--on".to_owned(), format!("--c{number}")));
        pairs.push((format!("--c{number}"), "--sheet".to_owned()));
    }
    for theme in [0, 1] {
        let colours = colours(theme);
        for (text, back) in &pairs {
            let contrast = contrast(colours[text], colours[back]);
            assert!(contrast >= 4.5, "theme {theme}: {text} on {back} is {contrast:.2}");
        }
    }
}
