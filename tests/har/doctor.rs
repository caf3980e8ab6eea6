//! `har doctor` beside the real daemon, on the real kernel: a host on which all is well, and the ways it goes wrong.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::daemon::{BINARY, Ran};
use crate::harness::{Har, Upstream, har, namespace, wait_for};

const NAMES: &str = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]";

/// Puts a file of the test's in the place of the host's, inside the namespace.
fn instead(path: &str, text: &str, folder: &Path) {
    let own = folder.join(path.trim_start_matches('/').replace('/', "-"));
    fs::write(&own, text).expect("own folder");
    let ran = Ran::of(Command::new("mount").arg("--bind").arg(&own).arg(path));
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// har on port 53 of a host whose other files are as they should be.
fn start(upstream: &Upstream) -> Har {
    let har = har().port(53).upstream(&[upstream]).names(NAMES).start();
    for (path, text) in [("/etc/nsswitch.conf", "hosts: files dns\n"), ("/etc/hosts", "127.0.0.1 localhost\n")] {
        instead(path, text, har.folder());
    }
    har.until_a("api.example", "192.0.2.7");
    har.until_sql("SELECT heartbeat_at FROM daemon", |at| !at.is_empty());
    har
}

/// The ids of what was found, with its severity, and the exit status.
fn found(har: &Har) -> (Vec<String>, i32) {
    let ran = har.run(&["doctor", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let word = |finding: &serde_json::Value, key: &str| finding[key].as_str().expect("text").to_owned();
    let findings = document["findings"].as_array().expect("a list");
    (
        findings.iter().map(|finding| format!("{} {}", word(finding, "severity"), word(finding, "id"))).collect(),
        ran.code,
    )
}

#[track_caller]
fn assert_problem(har: &Har, id: &str) {
    let (ids, code) = found(har);
    assert!(ids.contains(&format!("problem {id}")) && code == 1, "{id} in {ids:?}, exit status {code}");
}

#[test]
fn a_sound_host_has_no_problem() {
    namespace::inside(&["mount"], || {
        let upstream = Upstream::start();
        let har = start(&upstream);
        let (ids, code) = found(&har);
        assert!(code == 0 && !ids.iter().any(|id| id.starts_with("problem")), "exit status {code}: {ids:?}");
        for id in ["config", "resolv-conf", "nsswitch", "listener", "upstream", "state", "open-files"] {
            assert!(ids.contains(&format!("ok {id}")), "{id} in {ids:?}");
        }
        // In words: no colour, the sum at the end, and a file that the report names.
        let text = har.run(&["doctor"]).ok();
        assert!(text.contains("\n0 problems, ") && !text.contains('\u{1b}'), "{text}");
        assert!(text.contains("ok: /etc/resolv.conf:1: programs ask har first (127.0.0.1)"), "{text}");
        assert!(text.contains("ok: 127.0.0.1:53: har answers api.example A over UDP and TCP"), "{text}");
        // One question to the upstream for each time, sent again where nothing was heard; for nothing of the operator's.
        let asked = upstream.seen("");
        assert!((2..=4).contains(&asked.len()), "{asked:?}");
    });
}

#[test]
fn what_breaks_a_host_is_found_on_it() {
    namespace::inside(&["mount"], || {
        let mut upstream = Upstream::start();
        let mut har = start(&upstream);
        instead("/etc/hosts", "192.0.2.99 api.example\n", har.folder());
        assert_problem(&har, "hosts-file");
        instead("/etc/hosts", "127.0.0.1 localhost\n", har.folder());

        upstream.close();
        assert_problem(&har, "upstreams-silent");
        upstream.open();

        fs::write("/etc/resolv.conf", "nameserver 127.0.0.99\n").expect("the namespace's own");
        assert_problem(&har, "resolv-conf-elsewhere");
        fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n").expect("the namespace's own");

        har.stop();
        assert_problem(&har, "not-running");
        let other = Upstream::start_at("127.0.0.1:53");
        assert_problem(&har, "port-taken");
        let text = har.run(&["doctor"]).out;
        assert!(text.contains(&format!("(pid {}) has the port", std::process::id())), "{text}");
        drop(other);
        har.start();
        // READY comes before the row of the new process is in the file.
        wait_for("everything to be mended", || (found(&har).1 == 0).then_some(()));
    });
}

#[test]
fn a_frozen_daemon_is_not_taken_for_a_sound_one() {
    namespace::inside(&["mount"], || {
        let upstream = Upstream::start();
        let har = start(&upstream);
        har.signal(nix::sys::signal::Signal::SIGSTOP);
        let (ids, code) = found(&har);
        let text = har.run(&["doctor"]).out;
        har.signal(nix::sys::signal::Signal::SIGCONT);
        assert!(text.contains("its process hangs") && !text.contains("has not this address"), "{text}");
        assert!(ids.contains(&"problem listener-silent".to_owned()) && code == 1, "exit status {code}: {ids:?}");
    });
}

#[test]
fn another_root_is_looked_at_without_asking_anybody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let put = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("below")).expect("own folder");
        fs::write(path, text).expect("own folder");
    };
    let doctor = || Ran::of(Command::new(BINARY).args(["doctor", "--root"]).arg(folder.path()));
    put("etc/resolv.conf", "nameserver 127.0.0.1\n");
    let ran = doctor();
    assert_eq!(ran.code, 2, "no configuration: {ran:?}");
    assert!(ran.out.contains("problem: /etc/har/har.toml: "), "{ran:?}");
    // Nobody listens on this address: a question would be a problem.
    put("etc/har/har.toml", "[upstream]\nservers = [\"127.0.0.9:9\"]\n");
    let ran = doctor();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("\n0 problems, ") && ran.out.contains("nobody was asked"), "{ran:?}");
    put("etc/resolv.conf", "nameserver 10.0.0.2\n");
    let ran = doctor();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("mend: write `nameserver 127.0.0.1` into it, alone"), "{ran:?}");
    let ran = Ran::of(Command::new(BINARY).args(["doctor", "--root", "/nonexistent"]));
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
}
