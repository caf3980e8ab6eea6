//! `tls` checks: the handshake, the days that are left, the server's verdict on a client certificate.

use super::tls::{Authority, TlsServer};
use super::*;
use crate::config::TlsCheck;

fn tls_check(port: u16, name: Option<&str>, trust: Trust) -> TlsCheck {
    TlsCheck { port, server_name: name.map(str::to_owned), trust, min_days_left: 0 }
}

fn run_tls(tls: TlsCheck, timeout: Duration) -> CheckResult {
    run(&check(CheckKind::Tls(tls), timeout), LOCAL)
}

#[test]
fn the_days_until_a_certificate_expires_are_counted() {
    let authority = Authority::new();
    let known = Trust { ca_file: Some(authority.ca_file()), ..trust() };
    let blind = Trust { verify: false, ..trust() };
    let server = TlsServer::start(authority.issue("app.example", 2999), None);
    let result = run_tls(tls_check(server.port(), Some("app.example"), known.clone()), PLENTY);
    assert_eq!((result.outcome, result.error.as_deref()), (Outcome::Ok, None));
    // 2999-01-01 is 375,835 days after 1970-01-01.
    let today = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 86_400;
    let days = 375_835 - today as i64;
    assert!((days - 1..=days).contains(&result.certificate_days.unwrap()), "{result:?} {days}");
    assert!(result.connect.unwrap() < result.total && result.first_byte.is_none());

    let expired = TlsServer::start(authority.issue("app.example", 2001), None);
    let result = run_tls(tls_check(expired.port(), Some("app.example"), known), PLENTY);
    assert_eq!((result.outcome, result.certificate_days), (Outcome::TlsError, None));
    assert!(result.error.unwrap().contains("expired"));
    let result = run_tls(tls_check(expired.port(), Some("app.example"), blind), PLENTY);
    assert_eq!(result.outcome, Outcome::Ok);
    assert!(result.certificate_days.unwrap() < -9000);
}

#[test]
fn the_name_is_the_stated_one_or_the_address() {
    let authority = Authority::new();
    let known = Trust { ca_file: Some(authority.ca_file()), ..trust() };
    let numeric = TlsServer::start(authority.issue("127.0.0.1", 2999), None);
    assert_eq!(run_tls(tls_check(numeric.port(), None, known.clone()), PLENTY).outcome, Outcome::Ok);
    let wrong = run_tls(tls_check(numeric.port(), Some("app.example"), known.clone()), PLENTY);
    assert_eq!(wrong.outcome, Outcome::TlsError);
    assert!(wrong.error.unwrap().contains("not valid for name"));
    let runner =
        Runner::new(&check(CheckKind::Tls(tls_check(1, Some("-a.example"), known)), PLENTY), &SystemRoots::new());
    assert_eq!(runner.unwrap_err().0, "\"-a.example\" cannot be the name in a certificate");
}

#[test]
fn a_server_that_wants_a_certificate_has_the_last_word() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.issue("app.example", 2999), Some(&authority));
    let without = Trust { ca_file: Some(authority.ca_file()), ..trust() };
    let refused = run_tls(tls_check(server.port(), Some("app.example"), without.clone()), PLENTY);
    assert_eq!(refused.outcome, Outcome::TlsError, "{refused:?}");
    let stranger = Authority::new();
    for (issuer, outcome) in [(&authority, Outcome::Ok), (&stranger, Outcome::TlsError)] {
        let (certificate, key) = issuer.issue("har", 2999);
        let files = (authority.file("client.pem", &certificate.pem()), authority.file("key.pem", &key.serialize_pem()));
        let with = Trust { client: Some(files), ..without.clone() };
        let result = run_tls(tls_check(server.port(), Some("app.example"), with), PLENTY);
        assert_eq!(result.outcome, outcome, "{result:?}");
        assert!(result.certificate_days.is_some());
    }
}

#[test]
fn handshakes_end_in_time() {
    let none = Trust { verify: false, ..trust() };
    let record = || [22, 3, 3, 0x40, 0].into_iter().chain(std::iter::repeat(2));
    for (number, script) in
        [Box::new(hold) as Box<dyn Fn(TcpStream) + Send + Sync>, Box::new(move |stream| drip(stream, record()))]
            .into_iter()
            .enumerate()
    {
        let server = Server::start(LOCAL, script);
        let result = run_tls(tls_check(server.port(), Some("app.example"), none.clone()), SHORT);
        assert_eq!((result.outcome, result.silent), (Outcome::Timeout, false), "{number}: {result:?}");
    }
    let closing = Server::start(LOCAL, drop);
    let result = run_tls(tls_check(closing.port(), Some("app.example"), none.clone()), PLENTY);
    assert_eq!(result.outcome, Outcome::TlsError, "{result:?}");
    assert_eq!(run_tls(tls_check(closed_port(), Some("app.example"), none), PLENTY).outcome, Outcome::ConnectError);
}
