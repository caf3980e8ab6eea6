//! Alerts and the dashboard: valid to promtool, made of metrics that har writes, and told of.
//!
//! promtool is the one on this machine, or the one that `tests/run` unpacks from Debian's package `prometheus`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hickory_proto::op::ResponseCode;
use serde_json::Value;

use super::pages::{pages, root};
use super::regex;
use crate::harness::daemon::Ran;
use crate::harness::{Backend, Upstream, har, program, skip, wait_for};

const RULES: &str = "packaging/monitoring/har.rules.yml";
const DASHBOARD: &str = "packaging/monitoring/har-dashboard.json";

/// Where promtool is, if it is.
pub fn promtool() -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus/usr/bin/promtool");
    program("promtool").or_else(|| unpacked.is_file().then_some(unpacked))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect("the file")
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).expect("JSON")
}

/// The queries of the dashboard, each with where it stands.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            queries.push((panel["title"].to_string(), target["expr"].as_str().expect("an expression").to_owned()));
        }
    }
    for note in list(&dashboard["annotations"]["list"]) {
        queries.extend(note["expr"].as_str().map(|expr| (note["name"].to_string(), expr.to_owned())));
    }
    queries
}

/// A query as Grafana sends it.
fn filled_in(query: &str) -> String {
    let mut query = query.to_owned();
    for (variable, value) in [("$__rate_interval", "5m"), ("$__interval", "1m"), ("$instance", ".*"), ("$name", ".*")] {
        query = query.replace(variable, value);
    }
    assert!(!query.contains('$'), "an unknown variable: {query}");
    query
}

#[test]
fn promtool_finds_no_fault() {
    let Some(promtool) = promtool() else {
        return skip("not installed: promtool");
    };
    let run = |arguments: &[&str]| Ran::of(Command::new(&promtool).args(arguments).current_dir(root()));
    let said = run(&["check", "rules", RULES]).ok();
    let count = read(RULES).matches("- alert: ").count();
    assert!(said.contains(&format!("{count} rules found")) && count > 10, "{said}");
    run(&["test", "rules", "packaging/monitoring/har.rules.test.yml"]).ok();
    // Every alert is in a test in which it fires.
    let tests = read("packaging/monitoring/har.rules.test.yml");
    for alert in alerts() {
        let fires = regex(&format!(r"alertname: {alert}\n\s+exp_alerts:\n\s+- exp_labels"));
        assert!(fires.is_match(&tests), "{alert} fires in no test");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("queries.json");
    let rules: Vec<Value> = queries(&dashboard())
        .iter()
        .enumerate()
        .map(|(n, (_, query))| serde_json::json!({"record": format!("query:{n}"), "expr": filled_in(query)}))
        .collect();
    let number = rules.len();
    // JSON is YAML.
    let text = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    fs::write(&file, text).expect("own folder");
    let said = run(&["check", "rules", &file.display().to_string()]).ok();
    assert!(said.contains(&format!("{number} rules found")) && number > 15, "{said}");
}

fn alerts() -> Vec<String> {
    regex(r"(?m)- alert: (\w+)$").captures_iter(&read(RULES)).map(|found| found[1].to_owned()).collect()
}

#[test]
fn every_alert_is_told_of_and_has_a_runbook() {
    let pages = pages();
    let page = pages.iter().find(|page| page.name == "docs/operations.md").expect("the page");
    for alert in alerts() {
        assert!(page.spans.contains(&alert), "{alert} is not in {}", page.name);
    }
    let rules = read(RULES);
    let runbooks: Vec<String> = regex(r"(?m)runbook: docs/operations\.md#([\w-]+)$")
        .captures_iter(&rules)
        .map(|found| found[1].to_owned())
        .collect();
    assert_eq!(runbooks.len(), alerts().len());
    for runbook in runbooks {
        assert!(page.anchors.contains(&runbook), "{runbook}; there are {:?}", page.anchors);
    }
    for name in page.spans.iter().filter(|span| regex("^Har[A-Z][A-Za-z]+$").is_match(span)) {
        assert!(alerts().contains(name), "{name} is no alert");
    }
}

#[test]
fn alerts_and_dashboard_are_made_of_metrics_that_har_writes() {
    let backends = Backend::group(&[("127.0.0.2", 0)]);
    let upstream = Upstream::start();
    upstream.addresses("other.example", &["192.0.2.9"]);
    let names = format!(
        "[names.\"api.example.com\"]\ncheck = \"http://{{address}}:{}/\"\ncandidates = [\"127.0.0.2\"]\n",
        backends[0].port()
    );
    let har = har().upstream(&[&upstream]).names(&names).start();
    assert_eq!(har.query("other.example", "A").rcode(), ResponseCode::NoError);
    let text = wait_for("metrics of an upstream that was asked", || {
        let text = har.run(&["metrics"]).ok();
        text.contains("har_upstream_rtt_seconds{").then_some(text)
    });
    let mut metrics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name").to_owned();
        let labels = regex(r#"[{,](\w+)=""#).captures_iter(line).map(|found| found[1].to_owned()).collect();
        metrics.insert(name, labels);
    }
    let pages = pages();
    let schema = pages.iter().find(|page| page.name == "docs/schema.md").expect("the page");
    let keys = regex(r#"(?m)^har_server_events_total\{kind="(\w+)"\}"#);
    let untold: Vec<&str> = keys.captures_iter(&text).map(|found| found.extract::<1>().1[0]).collect();
    assert!(untold.len() > 25, "{text}");
    let untold: Vec<_> = untold.into_iter().filter(|key| !schema.spans.iter().any(|span| span == key)).collect();
    assert_eq!(untold, Vec::<&str>::new(), "keys of the table counter that {} does not tell of", schema.name);
    let selector = regex(r"\b(har_\w+)(?:\{([^}]*)\})?");
    let matcher = regex(r#"(\w+)\s*(?:=~|!=|=)\s*"([^"]*)""#);
    let sources = words_of_the_sources();
    let mut asked: Vec<(String, String)> = queries(&dashboard());
    asked.extend(expressions(&read(RULES)).into_iter().map(|expression| (RULES.to_owned(), expression)));
    for (place, query) in &asked {
        for found in selector.captures_iter(query) {
            let labels = metrics.get(&found[1]).unwrap_or_else(|| panic!("{place}: har writes no {}", &found[1]));
            for matched in matcher.captures_iter(found.get(2).map_or("", |labels| labels.as_str())) {
                let label = &matched[1];
                assert!(label == "instance" || labels.contains(label), "{place}: {} has no {label}", &found[1]);
                for value in matched[2].split('|').filter(|value| !value.starts_with('$')) {
                    assert!(sources.contains(value), "{place}: {label}={value:?} is never written");
                }
            }
        }
    }
    if let Some(promtool) = promtool() {
        let file = har.folder().join("metrics");
        fs::write(&file, &text).expect("own folder");
        let ran =
            Ran::of(Command::new(promtool).args(["check", "metrics"]).stdin(fs::File::open(file).expect("own file")));
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    }
}

/// The expressions of the rules, without their alerts' names and texts.
fn expressions(rules: &str) -> Vec<String> {
    let expression = regex(r"(?m)^        expr: (>-\n(?:          .*\n)+|.*\n)");
    let found: Vec<String> = expression.captures_iter(rules).map(|found| found[1].to_owned()).collect();
    assert_eq!(found.len(), rules.matches("- alert: ").count());
    found
}

/// Every text of the sources that is one word.
fn words_of_the_sources() -> BTreeSet<String> {
    let word = regex(r#""([a-z][a-z_-]*)""#);
    let mut words = BTreeSet::new();
    let mut open = vec![root().join("src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("own folder").map(|entry| entry.expect("an entry").path()));
        } else {
            let text = fs::read_to_string(&path).expect("text");
            words.extend(word.captures_iter(&text).map(|found| found[1].to_owned()));
        }
    }
    words
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    for key in ["title", "uid", "schemaVersion", "panels", "templating", "time", "annotations"] {
        assert!(!dashboard[key].is_null(), "{key}");
    }
    assert!(dashboard["id"].is_null(), "Grafana gives the number");
    let mut ids = BTreeSet::new();
    let mut taken: Vec<[u64; 4]> = Vec::new();
    for panel in dashboard["panels"].as_array().expect("a list") {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64()), "{title}: its number is another's");
        let place = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a number"));
        let [x, y, w, h] = place;
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}: {place:?}");
        let over = |other: &&[u64; 4]| {
            x < other[0] + other[2] && other[0] < x + w && y < other[1] + other[3] && other[1] < y + h
        };
        assert_eq!(taken.iter().find(over), None, "{title} lies over another");
        taken.push(place);
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("a list");
        assert!(!targets.is_empty() && panel["description"].as_str().is_some_and(|text| text.len() > 3), "{title}");
        let source = &panel["datasource"]["uid"];
        assert!(
            targets.iter().all(|target| target["datasource"]["uid"] == *source && *source == "${datasource}"),
            "{title}"
        );
    }
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .map(|list| list.iter().filter_map(|variable| variable["name"].as_str()).collect())
        .unwrap_or_default();
    assert_eq!(variables, ["datasource", "instance", "name"]);
}
