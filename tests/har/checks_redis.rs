//! `redis` checks against real servers: login, role, TLS, and errors that say what was expected.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{Authority, Har, har, missing, skip};
use crate::servers::{common_port, redis, redis_say, redis_tls};

const PACE: &str = "[defaults]\ninterval = \"300ms\"\nfast_interval = \"200ms\"\nrise = 1\nfall = 1\n";

/// One name with one candidate.
fn name(name: &str, candidate: &str, check: &str) -> String {
    format!("[names.\"{name}.example\"]\ncandidates = [\"{candidate}\"]\ncheck = {{ type = \"redis\", {check} }}\n")
}

#[track_caller]
fn is(har: &Har, name: &str, state: &str, error: &str) {
    let seen = format!("SELECT state || ': ' || coalesce(last_error, '') FROM ranking WHERE name = '{name}.example'");
    har.until_sql(&seen, |seen| seen.starts_with(state) && seen.contains(error));
}

#[test]
fn role_login_and_password_file_decide() {
    if let Some(reason) = missing(&["redis-server"]) {
        return skip(&reason);
    }
    let (a, b) = ("127.0.0.2", "127.0.0.3");
    let port = common_port(&[a, b]);
    let login = "requirepass s3cret-one\nmasterauth s3cret-one\nuser probe on >s3cret-two +ping +role\nuser pinger on >s3cret-two +ping";
    let master = redis(a, port, login);
    let _replica = redis(b, port, &format!("{login}\nreplicaof {a} {port}"));

    let builder = har().names(PACE);
    let mut text = String::new();
    let password = "password = \"s3cret-one\"";
    text += &name("any", a, &format!("port = {port}, {password}"));
    text += &name("master", a, &format!("port = {port}, {password}, role = \"master\""));
    text += &name("no-master", b, &format!("port = {port}, {password}, role = \"master\""));
    text += &name("replica", b, &format!("port = {port}, {password}, role = \"replica\""));
    text += &name("no-replica", a, &format!("port = {port}, {password}, role = \"replica\""));
    text += &name("none", a, &format!("port = {port}"));
    text += &name("wrong", a, &format!("port = {port}, password = \"s3cret-three\""));
    let user = "username = \"probe\", password_file = \"redis.secret\", role = \"master\"";
    text += &name("file", a, &format!("port = {port}, {user}"));
    text += &name("acl", a, &format!("port = {port}, username = \"pinger\", password = \"s3cret-two\""));
    text += &name(
        "acl-role",
        a,
        &format!("port = {port}, username = \"pinger\", password = \"s3cret-two\", role = \"master\""),
    );
    text += &name("gone", a, &format!("port = {port}, password_file = \"not-there\""));
    let mut har = builder.names(&text).prepare();
    let secret = har.folder().join("redis.secret");
    std::fs::write(&secret, "  s3cret-two \n\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    har.start();

    for fine in ["any", "master", "replica", "file", "acl"] {
        is(&har, fine, "up", "");
    }
    is(&har, "no-master", "down", "ROLE: is a replica, a master is wanted");
    is(&har, "no-replica", "down", "ROLE: is a master, a replica is wanted");
    is(&har, "none", "down", "PING: NOAUTH");
    is(&har, "wrong", "down", "login (AUTH): WRONGPASS");
    is(&har, "acl-role", "down", "ROLE: NOPERM");
    // A fault of this host says nothing about the candidate.
    is(&har, "gone", "unknown", "");
    har.until_sql("SELECT local_error FROM address WHERE name = 'gone.example'", |count| count != "0");
    har.until_log("cannot read password_file");
    let counts = "SELECT response_error, ok FROM address WHERE name = 'wrong.example'";
    let rows = har.until_sql(counts, |count| count != "0");
    assert_eq!(rows[0][1], "0");

    // The server is well, and nothing secret is anywhere.
    assert_eq!(redis_say(master.address, &["AUTH s3cret-one", "PING"]), "+PONG");
    // A readable configuration draws a warning.
    har.until_log("holds a password and everybody");
    har.stop();
    let state = std::fs::read(har.state_path()).unwrap();
    for bytes in [har.log().into_bytes(), state] {
        assert!(!bytes.windows(6).any(|six| six == b"s3cret"), "a password in the log or the state file");
    }
}

#[test]
fn tls_is_verified_or_not_as_stated() {
    if let Some(reason) = missing(&["redis-server"]) {
        return skip(&reason);
    }
    let address = "127.0.0.2";
    let port = common_port(&[address]);
    let authority = Authority::new();
    let _server = redis_tls(address, port, authority.pem(address));
    let mut text = PACE.to_owned();
    text += &name("good", address, &format!("port = {port}, tls = true, ca_file = \"ca.pem\", role = \"master\""));
    text += &name("strange", address, &format!("port = {port}, tls = true"));
    text += &name("blind", address, &format!("port = {port}, tls = true, verify = false"));
    text += &name("plain", address, &format!("port = {port}"));
    let mut har = har().names(&text).prepare();
    authority.write(&har.folder().join("ca.pem"));
    har.start();
    is(&har, "good", "up", "");
    is(&har, "blind", "up", "");
    is(&har, "strange", "down", "TLS handshake");
    is(&har, "plain", "down", "PING");
}
