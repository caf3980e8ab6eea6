//! `har probe`: the checks once, now, without a daemon.

use std::time::Duration;

use crate::harness::{Backend, Behaviour, Mode, Upstream, har, is_root, skip};

#[test]
fn every_check_of_every_address_once_and_nothing_is_left_behind() {
    let mut backends = Backend::group(&[("127.0.0.2", 30), ("127.0.0.3", 0), ("127.0.0.4", 0)]);
    let port = backends[0].port();
    let upstream = Upstream::start();
    upstream.addresses("a.example", &["127.0.0.2", "127.0.0.3"]);
    backends[2].close();
    let names = format!(
        "[defaults]\ntimeout = \"5s\"\n\
         [names.\"api.example\"]\ncheck = \"http://{{address}}:{port}/\"\ncandidates = [\"a.example\", \"127.0.0.4\"]\n\
         [names.\"*.web.example\"]\ncheck = \"http://{{address}}:{port}/\"\ncandidates = [\"127.0.0.2\"]\n\
         [names.\"none.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]\n"
    );
    let har = har().upstream(&[&upstream]).names(&names).prepare();
    let out = har.run(&["probe"]).ok();
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 6, "a head and five addresses:\n{out}");
    assert_eq!(lines[1][..5], ["api.example", "a.example", "127.0.0.2", "ok", "200"], "{out}");
    let times: Vec<f64> = lines[1][5..8].iter().map(|cell| cell.parse().expect("milliseconds")).collect();
    assert!(times[0] < times[1] && times[1] >= 30.0 && times[2] >= times[1], "{out}");
    assert_eq!(lines[3][..5], ["api.example", "127.0.0.4", "127.0.0.4", "connect_error", "-"], "{out}");
    assert_eq!(lines[5][..8], ["none.example", "192.0.2.1", "192.0.2.1", "ok", "-", "-", "-", "-"], "{out}");
    assert_eq!(backends[0].connections(), 1, "equal checks of two names run once");
    assert!(!har.state_path().exists(), "no state file is made");

    let out = har.run(&["probe", "x.web.example"]).ok();
    assert_eq!(out.lines().count(), 2, "{out}");
    let document: serde_json::Value = serde_json::from_str(&har.run(&["probe", "api.example", "--json"]).ok()).unwrap();
    assert_eq!((&document["names"][0]["up"], &document["names"][0]["addresses"]), (&2.into(), &3.into()));
    assert_eq!(document["checks"][0]["status"], 200);
    let wrong = har.run(&["probe", "apj.example"]);
    assert!(wrong.code == 2 && wrong.err.contains("did you mean 'api.example'?"), "{wrong:?}");
}

#[test]
fn a_command_is_run_as_the_user_of_the_daemon() {
    if !is_root() {
        return skip("needs root: another user");
    }
    let names = "[names.\"api.example\"]\ncandidates = [\"192.0.2.1\"]\n\
                 check = { type = \"exec\", command = [\"/usr/bin/id\"], expect = \"uid=65534\" }\n";
    let har = har().server("user = \"nobody\"").names(names).prepare();
    let ran = har.run(&["probe"]);
    assert!(ran.code == 0 && ran.out.contains(" ok "), "{ran:?}");
}

#[test]
fn a_name_with_nothing_up_is_exit_status_1() {
    let backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 0)]);
    let port = backends[0].port();
    let upstream = Upstream::start();
    upstream.addresses("a.example", &["127.0.0.2"]);
    backends[0].set(Mode::Answer(503, Duration::ZERO));
    let names = format!(
        "[names.\"api.example\"]\ncheck = [\"tcp:{port}\", \"http://{{address}}:{port}/\"]\ncandidates = [\"a.example\"]\n\
         [names.\"web.example\"]\ncheck = \"tcp:{port}\"\ncandidates = [\"127.0.0.3\"]\n\
         [names.\"lost.example\"]\ncheck = \"tcp:{port}\"\ncandidates = [\"gone.example\"]\n"
    );
    let har = har().upstream(&[&upstream]).names(&names).prepare();
    let ran = har.run(&["probe"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("api.example: nothing up of 1\n"), "one of two checks is not enough:\n{}", ran.out);
    assert!(ran.out.contains("lost.example: no address is known\n") && ran.out.contains("NXDOMAIN"), "{}", ran.out);
    assert!(ran.out.contains("response_error") && !ran.out.contains("web.example: "), "{}", ran.out);
    har.run(&["probe", "web.example"]).ok();
    upstream.behave("gone.example", Behaviour::Drop);
    let ran = har.run(&["probe", "lost.example"]);
    assert!(ran.code == 1 && ran.out.contains("no_address"), "{ran:?}");
}
