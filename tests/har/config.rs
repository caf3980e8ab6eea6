//! The command line and the configuration as a user meets them: texts and exit statuses.

use std::net::UdpSocket;
use std::process::{Command, Output};

use crate::harness::daemon::BINARY;
use crate::harness::{Har, har};

/// Exit status, standard output and standard error.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    (status.code(), String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"))
}

fn with_config(text: &str) -> Har {
    let har = har().prepare();
    std::fs::write(har.config_path(), text).expect("own folder");
    har
}

#[test]
fn a_valid_configuration_passes() {
    let har = har().names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]").prepare();
    let (code, _, stderr) = run(&mut har.tool("check-config"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn every_problem_is_named_with_its_place_in_one_go() {
    let har = with_config(
        "[server]\n\
         listen = [\"192.0.2.1:53\"]\n\
         tttl = 5\n\
         \n\
         [upstream]\n\
         servers = [\"127.0.0.9\"]\n\
         resolv_conf = \"auto\"\n\
         \n\
         [names.\"api.example\"]\n\
         check = \"http://{hots}/\"\n\
         interval = \"soon\"\n\
         candidates = [\"224.0.0.1\"]\n\
         \n\
         [names.\"empty.example\"]\n\
         check = \"none\"\n",
    );
    for command in ["check-config", "serve"] {
        let (code, stdout, stderr) = run(&mut har.tool(command));
        assert_eq!(code, Some(2), "{command}: {stderr}");
        let text = stdout + &stderr;
        for part in [
            "har.toml:2:",
            "192.0.2.1:53",
            "loopback",
            "har.toml:3:",
            "tttl",
            "ttl",
            "resolv_conf",
            "har.toml:10:",
            "hots",
            "har.toml:11:",
            "soon",
            "har.toml:12:",
            "224.0.0.1",
            "empty.example",
        ] {
            assert!(text.contains(part), "{command}: {part:?} is missing in\n{text}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let (code, _, stderr) = run(Command::new(BINARY).args(["serve", "--config", "/nonexistent/har.toml"]));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("/nonexistent/har.toml"), "{stderr}");
}

#[test]
fn a_broken_file_is_named_with_its_place() {
    let har = with_config("[server\nttl = 1\n");
    let (code, stdout, stderr) = run(&mut har.tool("check-config"));
    assert_eq!(code, Some(2));
    assert!((stdout + &stderr).contains("har.toml:1:"));
}

#[test]
fn wrong_usage_is_status_2_and_help_status_0() {
    for arguments in [&["frobnicate"][..], &["serve", "--no-such-flag"], &[]] {
        let (code, stdout, stderr) = run(Command::new(BINARY).args(arguments));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
    let (code, stdout, _) = run(Command::new(BINARY).arg("--help"));
    assert_eq!(code, Some(0));
    for command in ["serve", "check-config", "status", "demo"] {
        assert!(stdout.contains(command), "{command} in\n{stdout}");
    }
    let (code, stdout, _) = run(Command::new(BINARY).arg("--version"));
    assert_eq!((code, stdout.trim()), (Some(0), concat!("har ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_port_in_use_is_named() {
    let mut har = har().prepare();
    let _holder = UdpSocket::bind(har.address()).unwrap();
    har.spawn();
    assert_eq!(har.ended().code(), Some(1));
    let log = har.log();
    assert!(log.contains(&har.address().to_string()) && log.contains("in use"), "{log}");
}

#[test]
fn status_shows_what_is_answered() {
    let har = har()
        .names("[defaults]\ncheck = \"none\"\n[names.\"api.example\"]\ncandidates = [\"192.0.2.7\"]\n[names.\"other.example\"]\ncandidates = [\"192.0.2.8\"]")
        .start();
    har.until_sql("SELECT count(*) FROM ranking WHERE chosen", |count| count == "2");
    let (code, stdout, stderr) = run(&mut har.tool("status"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for part in ["api.example", "192.0.2.7", "other.example", "192.0.2.8"] {
        assert!(stdout.contains(part), "{part} in\n{stdout}");
    }
    assert!(!stdout.contains('\x1b'), "no colour in a pipe");
    let (code, stdout, _) = run(har.tool("status").arg("api.example"));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("192.0.2.7") && !stdout.contains("192.0.2.8"), "{stdout}");
    let (code, stdout, _) = run(har.tool("status").arg("--json"));
    assert_eq!(code, Some(0));
    let value: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert!(value.to_string().contains("192.0.2.8"), "{value}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let har = har().names("[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]").start();
    har.until_sql("SELECT count(*) FROM ranking", |count| count != "0");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = har.tool("status").stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
