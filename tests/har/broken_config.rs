//! Somebody broke the configuration: the daemon runs on, and whoever is on call can still look and give orders.

use std::fs;

use crate::harness::{Har, Upstream, har};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\nselect = \"failover\"\n\
    candidates = [\"192.0.2.7\", \"192.0.2.8\"]\n[names.\"*.apps.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.9\"]";

/// A daemon whose configuration file was broken after it had read it.
fn broken(more: &str) -> (Har, Upstream) {
    let upstream = Upstream::start();
    upstream.addresses("api.example", &["198.51.100.1"]);
    let har = har().upstream(&[&upstream]).names(NAMES).start();
    har.until_a("api.example", "192.0.2.7");
    har.until_sql("SELECT count(*) FROM ranking", |count| count == "3");
    let text = fs::read_to_string(har.config_path()).expect("own file");
    fs::write(har.config_path(), format!("{text}\n{more}")).expect("own folder");
    assert_eq!(har.run(&["check-config"]).code, 2);
    (har, upstream)
}

/// Runs a command that goes by the state file alone and says so.
#[track_caller]
fn warned(har: &Har, arguments: &[&str]) -> String {
    let ran = har.run(arguments);
    assert_eq!(ran.code, 0, "{ran:?}");
    let place = har.config_path().display().to_string();
    assert!(ran.err.starts_with("har: the configuration is invalid (") && ran.err.contains(&place), "{ran:?}");
    assert!(ran.err.contains("state/har.db") && ran.err.lines().count() == 1, "{ran:?}");
    ran.out
}

#[test]
fn orders_are_given_and_taken_back() {
    let (har, _upstream) = broken("[names.\"api.example\"\ncandidates = oops");
    warned(&har, &["bypass", "API.example.", "--for", "1h"]);
    har.until_a("api.example", "198.51.100.1");
    warned(&har, &["bypass", "api.example", "--remove"]);
    har.until_a("api.example", "192.0.2.7");
    warned(&har, &["bypass"]);
    har.until_a("api.example", "198.51.100.1");
    warned(&har, &["bypass", "--remove"]);
    let drained = warned(&har, &["drain", "192.0.2.9", "--name", "*.apps.example"]);
    assert!(drained.contains("warning: nothing else of *.apps.example is up"), "{drained}");
    warned(&har, &["undrain", "192.0.2.9", "--name", "*.apps.example"]);
    warned(&har, &["drain", "192.0.2.7"]);
    har.until_a("api.example", "192.0.2.8");
    warned(&har, &["force-up", "192.0.2.8", "--for", "1h"]);
    warned(&har, &["force-up", "192.0.2.8", "--remove"]);
    warned(&har, &["undrain", "192.0.2.7"]);
    har.until_a("api.example", "192.0.2.7");
    warned(&har, &["pin", "api.example", "192.0.2.8"]);
    har.until_a("api.example", "192.0.2.8");
    warned(&har, &["unpin", "api.example"]);
    har.until_a("api.example", "192.0.2.7");
}

#[test]
fn slips_are_held_against_what_the_daemon_runs_with() {
    let (har, _upstream) = broken("[server]\ncolour = 7");
    for (arguments, hint) in [
        (["pin", "apj.example", "192.0.2.7"], "no name of the state file; did you mean 'api.example'?"),
        (["pin", "x.apps.example", "192.0.2.9"], "'*.apps.example' covers it"),
        (["pin", "api.example", "192.0.2.9"], "no candidate's address of api.example"),
    ] {
        let ran = har.run(&arguments);
        assert!(ran.code == 2 && ran.err.contains(hint), "{ran:?}");
    }
    assert_eq!(har.sql("SELECT count(*) FROM override"), [["0"]]);
}

#[test]
fn the_state_is_shown() {
    let (har, _upstream) = broken("[defaults]\ncheck = \"nonsense\"");
    assert!(warned(&har, &["status"]).contains("\napi.example A  192.0.2.7"));
    assert!(warned(&har, &["status", "api.example", "--json"]).starts_with('{'));
    assert!(warned(&har, &["events"]).contains("192.0.2.7"));
    assert!(warned(&har, &["metrics"]).contains("\nhar_up 1\n"));
    assert_eq!(warned(&har, &["overrides"]), "no overrides\n");
    assert!(warned(&har, &["report", "--output", "-"]).contains("192.0.2.7"));
    // What is decided by the configuration is not told without it.
    assert_eq!(har.run(&["explain", "api.example"]).code, 2);
    let ran = har.run(&["status", "--check"]);
    assert!(ran.code == 3 && ran.out.starts_with("UNKNOWN: "), "{ran:?}");
}

#[test]
fn a_configuration_that_is_gone_shows_no_state_file_and_the_state_file_can_be_named() {
    let (har, _upstream) = broken("[broken");
    fs::remove_file(har.config_path()).unwrap();
    let ran = har.run(&["bypass"]);
    assert!(ran.code == 2 && ran.err.contains("--state"), "{ran:?}");
    let state = har.state_path().display().to_string();
    let ran = har.run(&["bypass", "--state", &state]);
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
    har.until_a("api.example", "198.51.100.1");
    assert!(har.run(&["status", "--state", &state]).ok().contains("bypass"));
    let ran = har.run(&["status", "--check", "--state", &state]);
    assert_eq!(ran.code, 0, "{ran:?}");
}
