//! `har demo`, as the README asks every newcomer to type it.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use crate::harness::daemon::BINARY;
use crate::harness::dns::{self, encode, question};
use crate::harness::{Reply, namespace};

use hickory_proto::rr::RecordType;

#[test]
fn the_answer_follows_the_servers_and_the_demo_ends_by_itself() {
    // In a namespace its port is free, and the host's own resolver is out of reach.
    namespace::inside(&[], || {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(BINARY)
            .args(["demo", "--for", "23s"])
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = Vec::new();
        let mut asked = None;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains("answer: 127.0.0.1") && asked.is_none() {
                let query = encode(&question("demo.example", RecordType::A));
                asked = Some(Reply::read(&dns::udp("127.0.0.1:5300".parse().unwrap(), &query)).first());
            }
            lines.push(line);
        }
        let status = child.wait().unwrap();
        let text = lines.join("\n");
        assert_eq!(status.code(), Some(0), "{text}");
        assert!(text.contains("dig @127.0.0.1 -p 5300 demo.example A +short"), "{text}");
        assert_eq!(asked.as_deref(), Some("127.0.0.1"), "{text}");
        let answers: Vec<&str> =
            lines.iter().filter_map(|line| line.split("answer: ").nth(1)?.split(' ').next()).collect();
        let mut moves = answers.clone();
        moves.dedup();
        let from = moves.iter().position(|answer| *answer == "127.0.0.1").expect("the fastest");
        assert_eq!(moves.get(from..from + 3), Some(&["127.0.0.1", "127.0.0.2", "127.0.0.1"][..]), "{text}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "its folder is gone");
    });
}

#[test]
fn a_busy_port_is_named_with_the_way_out() {
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let place = holder.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(BINARY).args(["demo", "--listen", &place]).env("TMPDIR", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&place) && text.contains("--listen"), "{text}");
    assert!(!text.contains("server.user"), "who tries it is not told to keep it: {text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "its folder is gone");
}
