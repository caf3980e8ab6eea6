//! Every kind of check obeys its time limit, and those that hang keep no other waiting.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::scripted::{hold, serve};
use crate::harness::{Backend, Mode, har, wait_for};

/// A byte at a time, for ever.
fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_kind_ends_in_time_whatever_the_other_side_does() {
    let silent = serve("127.0.0.2", hold);
    let headers = serve("127.0.0.2", |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        drip(&mut stream, b"X: y\r\n");
    });
    let body = serve("127.0.0.2", |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        drip(&mut stream, b"x");
    });
    let record = serve("127.0.0.2", |mut stream| {
        let _ = stream.write_all(&[22, 3, 3, 0x40, 0]);
        drip(&mut stream, &[2]);
    });
    // A full backlog: the kernel drops what comes.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let full_at = full.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(full_at).unwrap();
    let full_port = full_at.port();
    let url = |port: u16| format!("type = \"http\", url = \"http://{{host}}:{port}/\"");
    let tls = |port: u16| format!("type = \"tls\", port = {port}, verify = false");
    let command = |text: &str| format!("type = \"exec\", command = [\"sh\", \"-c\", \"{text}\"]");
    let cases = [
        ("http-silent", url(silent)),
        ("http-headers", url(headers)),
        ("http-body", url(body)),
        ("http-dropped", url(full_port)),
        ("https-silent", format!("type = \"http\", url = \"https://{{host}}:{silent}/\", verify = false")),
        ("https-record", format!("type = \"http\", url = \"https://{{host}}:{record}/\", verify = false")),
        ("tcp-silent", format!("type = \"tcp\", port = {silent}, expect = \"x\"")),
        ("tcp-drip", format!("type = \"tcp\", port = {body}, expect = \"never\"")),
        ("tcp-dropped", format!("type = \"tcp\", port = {full_port}")),
        ("tls-silent", tls(silent)),
        ("tls-record", tls(record)),
        ("tls-dropped", tls(full_port)),
        ("exec-sleep", command("sleep 60")),
        ("exec-deaf", command("trap '' TERM INT HUP; while :; do sleep 0.2; done")),
        ("exec-left", command("setsid sleep 3 & sleep 60")),
        ("exec-drip", command("while :; do echo x; sleep 0.05; done")),
    ];
    let mut names = String::from(
        "[defaults]\ninterval = \"600ms\"\nfast_interval = \"600ms\"\ndown_interval = \"600ms\"\ntimeout = \"400ms\"\n",
    );
    for (name, check) in &cases {
        names.push_str(&format!("[names.{name}]\ncandidates = [\"127.0.0.2\"]\ncheck = {{ {check} }}\n"));
    }
    let har = har().names(&names).start();
    for (name, _) in &cases {
        let at =
            format!("FROM check_history WHERE definition = (SELECT checks_defined FROM address WHERE name = '{name}')");
        har.until_sql(&format!("SELECT count(*) {at}"), |count| count.parse::<u32>().is_ok_and(|count| count >= 4));
        let rows = har.sql(&format!("SELECT outcome, total_ms, error {at} ORDER BY total_ms"));
        assert!(rows.iter().all(|row| row[0] == "timeout"), "{name}: {rows:?}");
        let took = |row: &[String]| row[1].parse::<f64>().unwrap();
        assert!(rows.iter().all(|row| took(row) > 390.0), "{name}: {rows:?}");
        // The promise is 100 ms. One of them: a loaded machine holds others up.
        har.until_sql(&format!("SELECT min(total_ms) {at}"), |least| {
            least.parse().is_ok_and(|least: f64| least < 500.0)
        });
    }
}

#[test]
fn two_hundred_that_hang_keep_none_of_the_others_waiting() {
    let silent = Backend::start("127.0.0.3");
    silent.set(Mode::Hang);
    let healthy = Backend::start("127.0.0.2");
    let stuck: String = (1..=150)
        .map(|number| {
            let check = format!("http://{{host}}:{}/{number}", silent.port());
            format!("[names.stuck{number}]\ncandidates = [\"127.0.0.3\"]\ncheck = \"{check}\"\n")
        })
        .collect();
    // A name that no other run of this test has: its commands are looked for by it.
    let sleepy = format!("sleepy-{}", std::process::id());
    let commands: Vec<String> = (1..=50).map(|number| format!("\"127.0.8.{number}\"")).collect();
    let mut har = har()
        .names("[defaults]\ninterval = \"2s\"\nfast_interval = \"2s\"\ntimeout = \"2s\"\n")
        .names(&stuck)
        .names(&format!(
            "[names.{sleepy}]\ncandidates = [{}]\ncheck = {{ type = \"exec\", command = [\"sleep\", \"60\"] }}",
            commands.join(", ")
        ))
        .names(&format!(
            "[names.well]\ninterval = \"500ms\"\nfast_interval = \"500ms\"\ntimeout = \"500ms\"\n\
             candidates = [\"127.0.0.2\"]\ncheck = \"http://{{host}}:{}/\"",
            healthy.port()
        ))
        .start();
    // Each that hangs was checked at least twice, so that the slow lane is in use, too.
    har.until_sql("SELECT min(timeout) FROM address WHERE name <> 'well'", |least| {
        least.parse::<u32>().is_ok_and(|least| least >= 2)
    });
    assert_eq!(har.a("well"), "127.0.0.2");
    let well = "FROM check_history WHERE address = '127.0.0.2'";
    // Those that hang would hold each of them up for 2 s; a loaded machine does so with some.
    let apart = format!("SELECT julianday(at) - lag(julianday(at)) OVER (ORDER BY id) AS apart {well}");
    har.until_sql(&format!("SELECT 86400 * min(apart) FROM ({apart})"), |least| {
        least.parse().is_ok_and(|least: f64| least < 1.5)
    });
    // A round of commands begins about now: none of them outlives the daemon.
    assert!(har.stop().success());
    wait_for("the end of all commands", || (!is_there(&format!("HAR_NAME={sleepy}"))).then_some(()));
}

/// Whether a process has this in its environment.
fn is_there(variable: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("proc is mounted").filter_map(Result::ok);
    let mut environments = processes.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
    environments.any(|environment| environment.split(|byte| *byte == 0).any(|one| one == variable.as_bytes()))
}
