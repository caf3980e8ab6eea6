//! The log: who should read standard error and does not is waited for by nobody.

use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use crate::harness::{Backend, Har, Mode, har, wait_for};

/// A full pipe. The other end is not to be dropped: that would be another case.
fn full_pipe() -> (File, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("own pipe");
    let mut filler = File::from(writer);
    for size in [4096, 1] {
        while filler.write_all(&vec![b'.'; size]).is_ok() {}
    }
    let writer = OwnedFd::from(filler);
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).expect("own pipe");
    (File::from(reader), writer)
}

/// Starts a daemon whose standard error is full. What is returned reads it.
fn spawn_unread(har: &mut Har) -> File {
    let (reader, full) = full_pipe();
    let command = har.command();
    har.spawn_writing_to(command, Stdio::from(full));
    reader
}

/// Reads to the end, and what was read so far.
fn read_on(mut reader: File) -> Arc<Mutex<String>> {
    let text: Arc<Mutex<String>> = Arc::default();
    let theirs = Arc::clone(&text);
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            theirs.lock().expect("no panic while locked").push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    });
    text
}

#[test]
fn nobody_waits_for_who_does_not_read_it() {
    let backends = Backend::group(&[("127.0.0.2", 0), ("127.0.0.3", 0)]);
    let names = format!(
        "[names.\"api.example\"]\ncheck = \"http://{{address}}:{}/\"\nselect = \"failover\"\nfall = 1\nrise = 1\n\
         candidates = [\"127.0.0.2\", \"127.0.0.3\"]\ninterval = \"200ms\"\n",
        backends[0].port()
    );
    let mut har = har().names(&names).prepare();
    let mut reader = spawn_unread(&mut har);
    assert!(har.becomes_ready());
    // What is logged with a change keeps neither the next one nor the state file waiting.
    for _ in 0..3 {
        har.until_a("api.example", "127.0.0.2");
        backends[0].set(Mode::Reset);
        har.until_a("api.example", "127.0.0.3");
        backends[0].set(Mode::Answer(200, Duration::ZERO));
    }
    har.until_sql("SELECT count(*) >= 6 FROM event WHERE kind = 'state'", |enough| enough == "1");
    let begin = Instant::now();
    assert_eq!(har.stop().code(), Some(0));
    println!("ended after {:?}", begin.elapsed());
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("a pipe");
    assert!(!text.contains("stopped"), "it was full all the time");
}

#[test]
fn what_is_lost_is_said_once_it_is_read_again() {
    let names = "[names.\"api.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.7\"]\n";
    let mut har = har().names(names).prepare();
    let reader = spawn_unread(&mut har);
    assert!(har.becomes_ready());
    let wrong: String = (0..1000).map(|n| format!("no_such_key_{n} = true\n")).collect();
    har.rewrite_names(&format!("{names}{wrong}"));
    for count in 2..6 {
        har.signal(Signal::SIGHUP);
        wait_for("the end of the reload", || (har.notify.count("READY=1") == count).then_some(()));
    }
    assert_eq!(har.a("api.example"), "192.0.2.7");
    let text = read_on(reader);
    let text = || text.lock().expect("no panic while locked").clone();
    wait_for("a word about what was lost", || text().contains("lines of the log are lost, ").then_some(()));
    har.rewrite_names(names);
    har.signal(Signal::SIGHUP);
    wait_for("the line of a reload", || text().contains("loaded again").then_some(()));
    assert_eq!(har.stop().code(), Some(0));
    let text = wait_for("the last line", || Some(text()).filter(|text| text.ends_with("stopped\n")));
    let said = ["listening on", "not valid", "are lost", "loaded again"].map(|words| text.find(words).expect(words));
    assert!(said.is_sorted(), "{said:?}");
    let lines = text.trim_start_matches('.').lines();
    lines.for_each(|line| assert!(line.starts_with('<') && line[2..].starts_with('>'), "{line}"));
}

#[test]
fn a_start_that_fails_ends_though_nobody_hears_why() {
    let mut har = har().prepare();
    let _taken = UdpSocket::bind(har.address()).expect("a free port");
    let _reader = spawn_unread(&mut har);
    assert_eq!(har.ended().code(), Some(1));
}
