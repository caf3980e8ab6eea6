//! The commands that read the state file, beside a running daemon: metrics, watch, events, replay, and the lines of the
//! page about the file.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::harness::daemon::BINARY;
use crate::harness::{Backend, Har, Mode, har, missing, program, skip, wait_for};

/// Two servers, the listed first one slower.
fn start() -> (Har, Vec<Backend>) {
    let backends = Backend::group(&[("127.0.0.3", 40), ("127.0.0.2", 5)]);
    let har = har().names(&names(&backends, "0.1")).start();
    har.until_a("api.example", "127.0.0.2");
    har.until_sql("SELECT addresses FROM answer WHERE family = 'A'", |addresses| addresses == "127.0.0.2");
    (har, backends)
}

fn names(backends: &[Backend], hysteresis: &str) -> String {
    format!(
        "[names.\"api.example\"]\ncheck = \"http://{{address}}:{}/\"\ncandidates = [\"127.0.0.3\", \"127.0.0.2\"]\n\
         interval = \"200ms\"\nfast_interval = \"100ms\"\nfall = 6\nhysteresis = {hysteresis}\n",
        backends[0].port()
    )
}

/// A command that goes on, with its lines so far; ended with the value.
struct Following {
    child: std::process::Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Following {
    fn start(mut command: Command) -> Following {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (kept, output) = (Arc::clone(&lines), child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                kept.lock().expect("no panic while locked").push(line);
            }
        });
        Following { child, lines }
    }

    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn(&str) -> bool) -> usize {
        wait_for(what, || self.lines.lock().expect("no panic while locked").iter().position(|line| condition(line)))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_are_followed_through_a_restart() {
    let (mut har, mut backends) = start();
    let mut command = har.tool("events");
    command.arg("--follow");
    let following = Following::start(command);
    following.until("what happened before", |line| line.contains("api.example"));
    backends[1].close();
    following.until("the new answer", |line| line.contains(" answer ") && line.contains("127.0.0.2 → 127.0.0.3"));
    assert!(har.stop().success());
    backends[1].open();
    har.start();
    following.until("the way back", |line| line.contains(" answer ") && line.contains("127.0.0.3 → 127.0.0.2"));
    let lines = following.lines.lock().unwrap().clone();
    let distinct: HashSet<&String> = lines.iter().collect();
    assert_eq!(distinct.len(), lines.len(), "each event once: {lines:?}");
}

#[test]
fn a_watched_status_in_a_pipe_is_a_plain_table_for_each_change() {
    let (har, mut backends) = start();
    let mut command = har.tool("status");
    command.arg("--watch");
    let following = Following::start(command);
    following.until("the first table", |line| line.starts_with("api.example A  127.0.0.2 "));
    backends[1].close();
    following.until("the next one", |line| line.starts_with("api.example A  127.0.0.3 "));
    let text = following.lines.lock().unwrap().join("\n");
    assert!(!text.contains('\u{1b}'), "no control sequences: {text}");
}

#[test]
fn who_follows_ends_with_the_reader_though_nothing_happens() {
    let (mut har, _backends) = start();
    assert!(har.stop().success());
    for (subcommand, option) in [("events", "--follow"), ("status", "--watch")] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = har.tool(subcommand);
        let child = command.arg(option).stdout(writer).spawn().expect("it starts");
        // The writing end is the child's alone.
        drop(command);
        let mut following = Following { child, lines: Arc::default() };
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).expect("a first line");
        let status = wait_for("its end", || following.child.try_wait().expect("own child"));
        assert!(status.success(), "{subcommand}: {status}");
    }
}

/// A sample of the exposition format: name, labels, value.
type Sample = (String, Vec<(String, String)>, f64);

/// Reads the text format of Prometheus strictly, and checks what its own linter would.
fn parse(text: &str) -> Vec<Sample> {
    let (mut helps, mut types) = (HashSet::new(), HashMap::new());
    let (mut samples, mut seen, mut closed): (Vec<Sample>, HashSet<String>, HashSet<String>) = Default::default();
    let mut current = String::new();
    assert!(text.ends_with('\n') && !text.contains('\r'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty() && helps.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert!(helps.contains(name) && types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(name.starts_with("har_") && !name.contains("_ms"), "{line}");
            // All samples of a metric stand together.
            closed.insert(std::mem::replace(&mut current, name.to_owned()));
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, current, "{line}: below its own head");
            assert!(!closed.contains(&name), "{line}");
            assert!(seen.insert(line.rsplit_once(' ').expect("a value").0.to_owned()), "{line}: twice");
            samples.push((name, labels, value));
        }
    }
    for name in types.keys() {
        assert!(samples.iter().any(|(sample, _, _)| sample == name), "{name} has no sample");
    }
    samples
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}: a number"));
    assert!(value.is_finite(), "{line}");
    let (name, rest) = series.split_at(series.find('{').unwrap_or(series.len()));
    let word = |text: &str| {
        !text.is_empty()
            && !text.as_bytes()[0].is_ascii_digit()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    assert!(word(name), "{line}");
    let mut labels = Vec::new();
    if !rest.is_empty() {
        let mut rest = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("closed braces");
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}: a label"));
            assert!(word(label), "{line}");
            let (mut text, mut end, mut escape) = (String::new(), None, false);
            for (at, character) in after.char_indices() {
                match (escape, character) {
                    (true, 'n') => text.push('\n'),
                    (true, '"' | '\\') => text.push(character),
                    (true, _) => panic!("{line}: an unknown escape"),
                    (false, '\\') => {}
                    (false, '"') => {
                        end = Some(at);
                        break;
                    }
                    (false, _) => text.push(character),
                }
                escape = !escape && character == '\\';
            }
            labels.push((label.to_owned(), text));
            rest = &after[end.unwrap_or_else(|| panic!("{line}: an open quote")) + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
    }
    (name.to_owned(), labels, value)
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let (mut har, _backends) = start();
    for _ in 0..7 {
        har.a("api.example");
    }
    let queries = har.sql("SELECT queries_a FROM name")[0][0].clone();
    let output = || har.tool("metrics").output().unwrap();
    let text = wait_for("the counted queries", || {
        let text = String::from_utf8(output().stdout).unwrap();
        let wanted = "har_queries_total{name=\"api.example\",type=\"A\"} ";
        let found = text.lines().find_map(|line| line.strip_prefix(wanted))?.to_owned();
        let chosen = text.lines().find(|line| line.starts_with("har_address_chosen") && line.contains("127.0.0.2"))?;
        (found.parse::<u64>().ok()? > queries.parse::<u64>().unwrap() && chosen.ends_with(" 1")).then_some(text)
    });
    let samples = parse(&text);
    let value = |name: &str, label: &str| {
        let found = samples.iter().find(|(sample, labels, _)| {
            sample == name && (label.is_empty() || labels.iter().any(|(_, text)| text == label))
        });
        found.unwrap_or_else(|| panic!("{name} {label}\n{text}")).2
    };
    assert_eq!(value("har_up", ""), 1.0);
    assert_eq!(value("har_address_chosen", "127.0.0.2"), 1.0);
    assert_eq!(value("har_address_chosen", "127.0.0.3"), 0.0);
    assert!(value("har_address_latency_seconds", "127.0.0.3") > 0.03);
    assert!(value("har_checks_total", "ok") > 0.0);
    if let Some(promtool) = program("promtool") {
        let mut child = Command::new(promtool).args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }
    assert!(har.stop().success());
    let text = String::from_utf8(har.tool("metrics").output().unwrap().stdout).unwrap();
    assert!(text.contains("\nhar_up 0\n"), "{text}");
    parse(&text);
}

#[test]
fn another_configuration_is_replayed_beside_the_daemon() {
    let (mut har, backends) = start();
    let old = har.folder().join("old.toml");
    std::fs::copy(har.config_path(), &old).unwrap();
    // The first moments, in which nothing is known yet, are not looked at.
    har.until_sql("SELECT count(*) FROM check_result", |count| count.parse::<u64>().is_ok_and(|count| count >= 20));
    // The fastest answers, fails for a while, and comes back: with the new configuration it is never asked.
    backends[1].set(Mode::Answer(500, std::time::Duration::ZERO));
    har.until_a("api.example", "127.0.0.3");
    let failed = "SELECT count(*) FROM check_history WHERE outcome = 'response_error'";
    har.until_sql(failed, |count| count.parse::<u64>().is_ok_and(|count| count >= 10));
    backends[1].delay(5);
    har.until_a("api.example", "127.0.0.2");
    let back = "SELECT count(*) FROM event WHERE kind = 'answer' AND after = '127.0.0.2' AND before = '127.0.0.3'";
    har.until_sql(back, |count| count != "0");
    let after = "SELECT count(*) FROM check_result WHERE outcome = 'ok' AND id > \
                 (SELECT max(id) FROM check_result WHERE outcome <> 'ok')";
    har.until_sql(after, |count| count.parse::<u64>().is_ok_and(|count| count >= 20));
    let new = har.folder().join("new.toml");
    let text = std::fs::read_to_string(&old).unwrap();
    let changed = text.replace("[\"127.0.0.3\", \"127.0.0.2\"]", "[\"127.0.0.3\", \"127.0.0.9\"]");
    assert_ne!(text, changed);
    std::fs::write(&new, changed).unwrap();
    let replay = |arguments: &[&str]| {
        let output = Command::new(BINARY).arg("replay").arg("--config").arg(&new).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let document: serde_json::Value = serde_json::from_str(&replay(&["--json"])).unwrap();
    let line = &document["names"][0];
    assert_eq!((line["name"].as_str(), line["family"].as_str()), (Some("api.example"), Some("A")), "{document}");
    assert!(line["old"]["changes"].as_u64().unwrap() >= 2, "there and back: {document}");
    assert_eq!(line["new"]["changes"], 0, "{document}");
    // `fall` checks pass before the dead address is left.
    assert!(line["old"]["dead_ms"].as_u64().unwrap() > 0, "{document}");
    let latency = |which: &str, key: &str| line[which][key].as_f64().unwrap();
    assert!(latency("new", "answered_latency_ms") > 35.0, "{document}");
    assert!(latency("old", "best_latency_ms") <= latency("old", "answered_latency_ms") + 0.001, "{document}");
    let notes = document["notes"].to_string();
    assert!(notes.contains("127.0.0.9") && notes.contains("nothing is recorded"), "{notes}");
    // The daemon went on meanwhile, and the table is for people.
    assert_eq!(har.a("api.example"), "127.0.0.2");
    let table = replay(&["--old", old.to_str().unwrap()]);
    assert!(table.contains("api.example A") && table.contains("on a dead address"), "{table}");
    assert!(har.stop().success());
    let stopped: serde_json::Value = serde_json::from_str(&replay(&["--json"])).unwrap();
    assert!(stopped["results"].as_u64() >= document["results"].as_u64());
}

#[test]
fn the_lines_of_the_page_run_against_a_real_file() {
    if let Some(reason) = missing(&["sqlite3"]) {
        return skip(&reason);
    }
    let (mut har, backends) = start();
    for _ in 0..2 {
        backends[1].set(Mode::Answer(500, std::time::Duration::ZERO));
        har.until_a("api.example", "127.0.0.3");
        backends[1].delay(5);
        har.until_a("api.example", "127.0.0.2");
    }
    let changes = "SELECT count(*) FROM event WHERE kind = 'state' AND address = '127.0.0.2'";
    har.until_sql(changes, |count| count.parse::<u64>().is_ok_and(|count| count >= 4));
    // The slowest tenth of less than ten is nothing.
    let passed = "SELECT count(*) FROM check_result WHERE outcome = 'ok' GROUP BY target_id ORDER BY 1 DESC";
    har.until_sql(passed, |count| count.parse::<u64>().is_ok_and(|count| count >= 10));
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema.md")).unwrap();
    let lines: Vec<&str> = page.lines().map(str::trim).filter(|line| line.starts_with("sqlite3 ")).collect();
    assert_eq!(lines.iter().filter(|line| line.contains("-readonly")).count(), 11, "{lines:?}");
    let run = |line: &str| {
        let line = line.replace("/var/lib/har/har.db", "har.db");
        let mut command = Command::new("sh");
        command.args(["-c", &line]).current_dir(har.folder().join("state"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // Orders first, so that the question about them has an answer.
    let (questions, orders): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|line| line.contains("-readonly"));
    orders.iter().filter(|line| line.contains("INSERT")).for_each(|line| drop(run(line)));
    for line in &questions {
        let answer = run(line);
        // Other names than the page's, nothing yesterday, nothing copied: only what must have an answer here.
        let silent = ["check_summary", "'api.example.com'", ".backup"].iter().any(|word| line.contains(word));
        assert!(silent || !answer.is_empty(), "no answer: {line}");
    }
    let flaps = questions.iter().find(|line| line.contains("changes > 2")).unwrap();
    assert!(run(flaps).contains("127.0.0.2"), "which candidate flaps");
    assert!(har.stop().success());
}

#[test]
fn a_name_is_found_however_it_is_typed() {
    let har = har().names("[names.\"münchen.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]").start();
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "1");
    for typed in ["münchen.example", "MÜNCHEN.example.", "XN--MNCHEN-3YA.example"] {
        let status = har.run(&["status", typed]).ok();
        assert!(status.contains("\nxn--mnchen-3ya.example A  192.0.2.7"), "{typed}: {status}");
        assert!(har.run(&["events", typed]).ok().contains("192.0.2.7"), "{typed}");
        assert!(har.run(&["report", "--output", "-", typed]).ok().contains("192.0.2.7"), "{typed}");
    }
}

#[test]
fn a_broken_configuration_is_unknown_to_a_monitoring_system_and_not_critical() {
    let har = har().names("[names.\"api.example\"]\ncheck = \"nonsense\"\ncandidates = [\"192.0.2.7\"]").prepare();
    let ran = har.run(&["status", "--check"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.out.starts_with("UNKNOWN: ") && ran.out.contains("api.example"), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
    // No daemon has begun a state file that could be looked at in its place.
    let ran = har.run(&["status"]);
    assert!(ran.code == 1 && ran.err.contains("there is no state file"), "{ran:?}");
}
