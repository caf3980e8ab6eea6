//! `postgres` checks against real servers: logins, TLS, role, replay lag, promotion, and two primaries.

use crate::harness::{Authority, Har, har, missing, skip, wait_for};
use crate::servers::{
    Server, cluster, common_port, postgres, postgres_program, replica_of, sql, write_hba, write_private,
};

const PACE: &str = "[defaults]\ninterval = \"1s\"\nfast_interval = \"200ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 2\n";

fn name(name: &str, candidates: &[&str], check: &str) -> String {
    let list: Vec<String> = candidates.iter().map(|candidate| format!("\"{candidate}\"")).collect();
    format!(
        "[names.\"{name}.example\"]\ncandidates = [{}]\ncheck = {{ type = \"postgres\", {check} }}\n",
        list.join(", ")
    )
}

fn reason_to_skip() -> Option<String> {
    let absent = ["initdb", "postgres", "pg_basebackup"].into_iter().find(|name| postgres_program(name).is_none());
    absent.map(|name| format!("not installed: {name}")).or_else(|| missing(&["psql", "setpriv"]))
}

#[track_caller]
fn is(har: &Har, name: &str, address: &str, state: &str, error: &str) {
    let seen = "SELECT state || ': ' || coalesce(last_error, '') FROM ranking";
    let seen = format!("{seen} WHERE name = '{name}.example' AND address = '{address}'");
    har.until_sql(&seen, |seen| seen.starts_with(state) && seen.contains(error));
}

#[test]
fn logins_and_tls_are_as_the_server_wants_them() {
    if let Some(reason) = reason_to_skip() {
        return skip(&reason);
    }
    let address = "127.0.0.2";
    let port = common_port(&[address]);
    let authority = Authority::new();
    let folder = cluster();
    write_hba(
        folder.path(),
        "host all scram 127.0.0.0/8 scram-sha-256\nhost all old 127.0.0.0/8 md5\nhost all clear 127.0.0.0/8 password\n\
         hostssl all secure 127.0.0.0/8 trust\nhostnossl all plain 127.0.0.0/8 trust\n",
    );
    let (certificate, key) = authority.pem(address);
    write_private(folder.path(), "server.crt", &certificate);
    write_private(folder.path(), "server.key", &key);
    let server = postgres(folder, address, port, &["ssl=on"]);
    sql(&server, "CREATE ROLE scram LOGIN PASSWORD 's3cret-scram'; CREATE ROLE clear LOGIN PASSWORD 's3cret-clear'");
    sql(&server, "SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 's3cret-md5'");
    sql(&server, "CREATE ROLE secure LOGIN; CREATE ROLE plain LOGIN");

    let one = [address];
    let db = format!("port = {port}, dbname = \"postgres\"");
    // Whom the time limit breaks off takes no leave.
    let mut text = PACE.replace("\"1s\"", "\"5s\"");
    text += &name("scram", &one, &format!("{db}, user = \"scram\", password = \"s3cret-scram\", role = \"primary\""));
    text += &name("md5", &one, &format!("{db}, user = \"old\", password = \"s3cret-md5\""));
    text += &name("clear", &one, &format!("{db}, user = \"clear\", password_file = \"pw\""));
    text += &name("wrong", &one, &format!("{db}, user = \"scram\", password = \"s3cret-wrong\""));
    text += &name("wrong5", &one, &format!("{db}, user = \"old\", password = \"s3cret-wrong\""));
    text += &name("none", &one, &format!("{db}, user = \"scram\""));
    text += &name(
        "nodb",
        &one,
        &format!("port = {port}, dbname = \"nope\", user = \"scram\", password = \"s3cret-scram\""),
    );
    for tls in ["prefer", "require", "disable"] {
        text += &name(&format!("secure-{tls}"), &one, &format!("{db}, user = \"secure\", tls = \"{tls}\""));
    }
    text += &name("plain-disable", &one, &format!("{db}, user = \"plain\", tls = \"disable\""));
    text += &name("verified", &one, &format!("{db}, user = \"secure\", tls = \"verify\", ca_file = \"ca.pem\""));
    text += &name("stranger", &one, &format!("{db}, user = \"secure\", tls = \"verify\""));
    text += &name("replica", &one, &format!("{db}, user = \"secure\", role = \"replica\""));
    let mut har = har().names(&text).prepare();
    authority.write(&har.folder().join("ca.pem"));
    std::fs::write(har.folder().join("pw"), "s3cret-clear\n").unwrap();
    har.start();

    for fine in ["scram", "md5", "clear", "secure-prefer", "secure-require", "plain-disable", "verified"] {
        is(&har, fine, address, "up", "");
    }
    is(&har, "wrong", address, "down", "login: password authentication failed for user \"scram\" (28P01)");
    is(&har, "wrong5", address, "down", "login: password authentication failed for user \"old\" (28P01)");
    is(&har, "none", address, "down", "login: the server wants a password, and none is configured");
    is(&har, "nodb", address, "down", "login: database \"nope\" does not exist");
    is(&har, "secure-disable", address, "down", "login: no pg_hba.conf entry");
    is(&har, "stranger", address, "down", "TLS handshake");
    is(&har, "replica", address, "down", "role: is a primary, a replica is wanted");
    let wrong = "SELECT response_error, ok FROM address WHERE name = 'wrong.example'";
    assert_eq!(har.until_sql(wrong, |count| count != "0")[0][1], "0");
    let log = std::fs::read_to_string(server.folder().join("log")).unwrap();
    for rude in ["unexpected EOF", "reset by peer", "message type"] {
        assert!(!log.contains(rude), "sessions end politely:\n{log}");
    }
    har.stop();
    let state = std::fs::read(har.state_path()).unwrap();
    for bytes in [har.log().into_bytes(), state] {
        assert!(!bytes.windows(6).any(|six| six == b"s3cret"), "a password in the log or the state file");
    }
}

/// A primary on the first address and its replica on the second, both trusting everybody.
fn pair(a: &str, b: &str, port: u16) -> (Server, Server) {
    let folder = cluster();
    write_hba(folder.path(), "host all all 127.0.0.0/8 trust\n");
    let primary = postgres(folder, a, port, &["ssl=off"]);
    let copy = replica_of(&primary);
    let replica = postgres(copy, b, port, &["ssl=off", "hot_standby=on"]);
    (primary, replica)
}

#[test]
fn lag_promotion_and_two_primaries() {
    if let Some(reason) = reason_to_skip() {
        return skip(&reason);
    }
    let (a, b) = ("127.0.0.2", "127.0.0.3");
    let port = common_port(&[a, b]);
    let (primary, replica) = pair(a, b, port);
    let db = format!("port = {port}, user = \"postgres\", tls = \"disable\"");
    let mut text = PACE.to_owned();
    text += &name("rw", &[a, b], &format!("{db}, role = \"primary\""));
    text += &name("ro", &[a, b], &format!("{db}, role = \"replica\""));
    text += &name("fresh", &[b], &format!("{db}, role = \"replica\", max_lag = \"500ms\""));
    text += &name("tls", &[a], &format!("port = {port}, user = \"postgres\", tls = \"require\""));
    let har = har().names(&text).start();
    har.until_a("rw.example", a);
    har.until_a("ro.example", b);
    is(&har, "rw", b, "down", "role: is a replica, a primary is wanted");
    is(&har, "ro", a, "down", "role: is a primary, a replica is wanted");
    is(&har, "tls", a, "down", "the server offers no TLS");

    // Idle, the replica is up to date; what is received and not replayed makes it late.
    sql(&primary, "CREATE TABLE t AS SELECT 1");
    is(&har, "fresh", b, "up", "");
    sql(&replica, "SELECT pg_wal_replay_pause()");
    sql(&primary, "INSERT INTO t VALUES (2)");
    is(&har, "fresh", b, "down", "replay lag: ");
    sql(&replica, "SELECT pg_wal_replay_resume()");
    is(&har, "fresh", b, "up", "");

    // Both claim to be the primary: the answer stays with the one it was.
    sql(&replica, "SELECT pg_promote()");
    let conflict = "SELECT count(*) FROM event WHERE kind = 'role_conflict' AND name = 'rw.example'";
    har.until_sql(conflict, |count| count != "0");
    is(&har, "rw", b, "up", "");
    let checks = "SELECT min(ok) FROM address WHERE name = 'rw.example'";
    let seen: u64 = har.until_sql(checks, |_| true)[0][0].parse().unwrap();
    har.until_sql(checks, |count| {
        assert_eq!(har.a("rw.example"), a);
        count.parse::<u64>().unwrap() >= seen + 2
    });
    wait_for("an explanation that agrees", || {
        let text = har.run(&["explain", "rw.example"]).ok();
        (text.contains("another claims its role too") && !text.contains("By this configuration")).then_some(())
    });
    // The old one is gone: the promoted one is answered.
    drop(primary);
    har.until_a("rw.example", b);
}
