//! `tcp` checks of the daemon: what is sent and expected, and connections that do not come about.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::harness::scripted::{hold, serve};
use crate::harness::{har, namespace, program};

const PACE: &str =
    "[defaults]\ninterval = \"500ms\"\nfast_interval = \"500ms\"\ntimeout = \"500ms\"\nfall = 1\nrise = 1\n";

#[test]
fn every_end_of_a_connection_has_its_word() {
    let greeting = serve("127.0.0.2", |mut stream| {
        let mut word = [0; 21];
        if stream.read_exact(&mut word).is_ok() && &word == b"EHLO smtp 127.0.0.2\r\n" {
            let _ = stream.write_all(b"250-hello\r\n250 SIZE\r\n");
        }
    });
    let silent = serve("127.0.0.2", hold);
    // Not before the client has said something: then its connection is open for sure.
    let reset = serve("127.0.0.2", |mut stream| {
        let _ = stream.read(&mut [0]);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let closed = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap().port();
    let cases = [
        (
            "smtp",
            format!("port = {greeting}, send = \"EHLO {{name}} {{address}}\\r\\n\", expect = \"(?m)^250 \""),
            "up",
            "ok",
            "",
        ),
        (
            "other",
            format!("port = {greeting}, send = \"EHLO smtp {{address}}\\r\\n\", expect = \"^220\""),
            "down",
            "response_error",
            "the reply (21 bytes) does not match \"^220\"",
        ),
        ("open", format!("port = {silent}"), "up", "ok", ""),
        ("silent", format!("port = {silent}, expect = \"^OK\""), "down", "timeout", "the reply took longer than 500ms"),
        (
            "reset",
            format!("port = {reset}, send = \"hello\", expect = \"^OK\""),
            "down",
            "response_error",
            "the reply was cut short: connection reset",
        ),
        ("closed", format!("port = {closed}"), "down", "connect_error", "connection refused"),
    ];
    let mut names = PACE.to_owned();
    for (name, check, ..) in &cases {
        names.push_str(&format!(
            "[names.{name}]\ncandidates = [\"127.0.0.2\"]\ncheck = {{ type = \"tcp\", {check} }}\n"
        ));
    }
    let har = har().names(&names).start();
    for (name, _, state, outcome, error) in &cases {
        let row = "state || ' ' || last_outcome || ' ' || coalesce(last_error, '')";
        let found = format!("{state} {outcome} {error}");
        har.until_sql(&format!("SELECT {row} FROM address WHERE name = '{name}'"), |row| row == found);
    }
}

#[test]
fn what_the_network_swallows_is_a_timeout() {
    namespace::inside(&["ip"], || {
        // Packets to these come back to a host that is not theirs and forwards nothing: they vanish.
        let route = ["route", "add", "192.0.2.0/24", "dev", "lo"];
        assert!(Command::new(program("ip").expect("asked for")).args(route).status().expect("ip runs").success());
        let har = har()
            .names(PACE)
            .names("[names.hole]\ncandidates = [\"192.0.2.7\"]\ncheck = \"tcp:443\"")
            .names("[names.far]\ncandidates = [\"198.51.100.7\"]\ncheck = \"tcp:443\"")
            .start();
        for (name, found) in [
            ("hole", "timeout: no answer to the connection attempt within 500ms"),
            ("far", "connect_error: network unreachable"),
        ] {
            let query = format!("SELECT last_outcome || ': ' || last_error FROM address WHERE name = '{name}'");
            har.until_sql(&query, |row| row == found);
        }
    });
}
