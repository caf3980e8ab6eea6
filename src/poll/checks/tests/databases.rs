//! `redis` and `postgres` checks against servers that hang, drip, lie and repeat secrets.

use super::*;
use crate::config::{Password, PostgresCheck, PostgresRole, PostgresTls, RedisCheck, RedisLogin, RedisRole};

fn redis(port: u16, role: RedisRole) -> CheckKind {
    let password = Some(Password::Text("s3cret".into()));
    let login = RedisLogin { username: Some("probe".into()), password, tls: None };
    CheckKind::Redis(RedisCheck { port, login, role, server_name: None })
}

fn postgres(port: u16, tls: PostgresTls) -> CheckKind {
    CheckKind::Postgres(PostgresCheck {
        port,
        user: "har".into(),
        password: Some(Password::Text("s3cret".into())),
        dbname: "har".into(),
        role: PostgresRole::Any,
        max_lag: None,
        tls,
        trust: Trust { verify: false, ca_file: None, client: None },
        server_name: Some("db.example".into()),
    })
}

/// A message of PostgreSQL.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Answers whatever comes with these bytes, and holds the connection.
fn answering(reply: impl Into<Vec<u8>>) -> Server {
    let reply = reply.into();
    Server::start(LOCAL, move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(&reply);
        hold(stream);
    })
}

#[test]
fn whoever_hangs_or_drips_is_late_and_holds_nobody() {
    let hangs = Server::start(LOCAL, hold);
    let drips = Server::start(LOCAL, |stream| drip(stream, std::iter::repeat_n(b'+', 10_000)));
    for server in [&hangs, &drips] {
        for kind in [redis(server.port(), RedisRole::Any), postgres(server.port(), PostgresTls::Disable)] {
            let result = run(&check(kind, SHORT), LOCAL);
            assert!(matches!(result.outcome, Outcome::Timeout | Outcome::ResponseError), "{result:?}");
            assert!(!result.silent && result.connect.is_some());
        }
    }
    let result = run(&check(postgres(hangs.port(), PostgresTls::Prefer), SHORT), LOCAL);
    assert_eq!(
        (result.outcome, result.error.as_deref()),
        (Outcome::Timeout, Some("asking for TLS took longer than 300ms"))
    );
    let result = run(&check(redis(closed_port(), RedisRole::Any), PLENTY), LOCAL);
    assert_eq!((result.outcome, result.error.as_deref()), (Outcome::ConnectError, Some("connection refused")));
}

#[test]
fn what_is_no_redis_is_said_to_be_none() {
    let nested = b"*1\r\n".repeat(50);
    for (reply, text) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "is this a Redis?"),
        (b"$99999999999\r\n", "longer than 16 KiB"),
        (b"*99999999\r\n", "a reply of this size"),
        (&nested, "a reply of this size"),
        (b"$3\r\nabcde", "a text without its end"),
        (b":x\r\n", "a number that is none"),
        (b"\r\n", "an empty line"),
        (&[b'+'; 20_000], "a line longer than 16 KiB"),
        (b"-ERR you said s3cret\r\n", "login (AUTH): ERR you said ***"),
        (b"+OK\r\n+what\r\n", "PING: the answer is not PONG"),
        (b"+OK\r\n+PONG\r\n*1\r\n$8\r\nsentinel\r\n", "ROLE: is a sentinel, a master is wanted"),
        (b"+OK\r\n+PONG\r\n*0\r\n", "ROLE: the answer names no role"),
    ] {
        let server = answering(reply);
        let result = run(&check(redis(server.port(), RedisRole::Master), PLENTY), LOCAL);
        assert_eq!(result.outcome, Outcome::ResponseError, "{result:?}");
        assert!(result.error.as_deref().unwrap().contains(text), "{result:?} has no {text:?}");
    }
    let server = answering(b"+OK\r\n+PONG\r\n*3\r\n$6\r\nmaster\r\n:12\r\n*1\r\n*3\r\n$1\r\na\r\n$1\r\n1\r\n$-1\r\n");
    assert_eq!(run(&check(redis(server.port(), RedisRole::Master), PLENTY), LOCAL).outcome, Outcome::Ok);
}

#[test]
fn what_is_no_postgres_is_said_to_be_none() {
    let ok = message(b'R', &0u32.to_be_bytes());
    let row = |columns: &[&[u8]]| {
        let mut body = (columns.len() as u16).to_be_bytes().to_vec();
        for column in columns {
            body.extend((column.len() as u32).to_be_bytes());
            body.extend(*column);
        }
        message(b'D', &body)
    };
    let ready = || message(b'Z', b"I");
    let session = |row: Vec<u8>| [ok.clone(), ready(), row, ready()].concat();
    let mut scram = 10u32.to_be_bytes().to_vec();
    scram.extend(b"SCRAM-SHA-256\0\0");
    let mut endless = 11u32.to_be_bytes().to_vec();
    endless.extend(b"r=x,s=c2FsdA==,i=4000000000");
    for (reply, text) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "is this a PostgreSQL?"),
        (vec![b'R', 0xff, 0xff, 0xff, 0xff], "none of PostgreSQL"),
        (vec![b'R', 0, 0, 0, 2], "none of PostgreSQL"),
        (vec![b'R', 0x7f, 0xff, 0xff, 0xff], "longer than 64 KiB"),
        (message(b'R', &7u32.to_be_bytes()), "a kind of login that checks cannot do"),
        (message(b'E', b"SFATAL\0C28P01\0Mno s3cret for you\0\0"), "login: no *** for you (28P01)"),
        (message(b'E', b"M\xff\xfe\0"), "login: "),
        ([message(b'R', &scram), message(b'R', &endless)].concat(), "more than 100000 rounds"),
        (session(row(&[b"maybe", b"0"])), "whether the server is in recovery"),
        (session(row(&[])), "whether the server is in recovery"),
        (session(message(b'D', &[0, 9, 0])), "cannot be read"),
        (session(Vec::new()), "there is no row"),
    ] {
        let server = answering(reply);
        let result = run(&check(postgres(server.port(), PostgresTls::Disable), PLENTY), LOCAL);
        assert_eq!(result.outcome, Outcome::ResponseError, "{result:?}");
        assert!(result.error.as_deref().unwrap().contains(text), "{result:?} has no {text:?}");
    }
    let server = answering(session(row(&[b"f", b"0"])));
    assert_eq!(run(&check(postgres(server.port(), PostgresTls::Disable), PLENTY), LOCAL).outcome, Outcome::Ok);
    for (answer, outcome) in [("N", Outcome::TlsError), ("S", Outcome::TlsError), ("x", Outcome::ResponseError)] {
        let server = answering(if answer == "S" { "Snot TLS at all, whatever is said" } else { answer });
        let result = run(&check(postgres(server.port(), PostgresTls::Require), SHORT), LOCAL);
        assert_eq!(result.outcome, outcome, "{answer}: {result:?}");
    }
}

#[test]
fn a_password_file_is_trimmed_and_missed_by_its_name() {
    use std::io::Write as _;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"\n  s3cret words \r\n").unwrap();
    let read = |path: &std::path::Path| crate::poll::secure::read_password(&Password::File(path.to_owned()));
    assert_eq!(read(file.path()).unwrap(), "s3cret words");
    assert!(read(std::path::Path::new("/nonexistent/pw")).unwrap_err().contains("/nonexistent/pw"));
    let empty = tempfile::NamedTempFile::new().unwrap();
    assert!(read(empty.path()).unwrap_err().ends_with("is empty"));
}
