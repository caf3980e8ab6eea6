//! `tls` checks of the daemon: who is there, and how long the certificate is good for.

use std::time::Duration;

use crate::harness::{Authority, Backend, har};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_certificate_about_to_expire_is_said_once_and_is_no_failure() {
    let authority = Authority::new();
    let half = DAY / 2;
    let short = Backend::tls("127.0.0.2", authority.server_for("short.example", 10 * DAY + half));
    let long = Backend::tls("127.0.0.3", authority.server_for("long.example", 90 * DAY + half));
    let expired = Backend::tls("127.0.0.4", authority.expired_server("expired.example"));
    let mut names = String::from("[defaults]\ninterval = \"1s\"\nfast_interval = \"100ms\"\n");
    for (name, server, address) in
        [("short", &short, "127.0.0.2"), ("long", &long, "127.0.0.3"), ("expired", &expired, "127.0.0.4")]
    {
        names.push_str(&format!(
            "[names.\"{name}.example\"]\ncandidates = [\"{address}\"]\n\
             check = {{ type = \"tls\", port = {}, server_name = \"{{name}}\", ca_file = \"ca.pem\", min_days_left = 14 }}\n",
            server.port()
        ));
    }
    let mut har = har().names(&names).prepare();
    authority.write(&har.folder().join("ca.pem"));
    har.start();
    for (name, found) in [("short", "up 10 ok"), ("long", "up 90 ok"), ("expired", "down - tls_error")] {
        let row = "state || ' ' || coalesce(certificate_days, '-') || ' ' || last_outcome";
        har.until_sql(&format!("SELECT {row} FROM address WHERE name = '{name}.example'"), |row| row == found);
    }
    assert_eq!(har.a("short.example"), "127.0.0.2");
    // Many checks later it was said once.
    let count = "SELECT count(*) FROM check_history WHERE address = '127.0.0.2' AND certificate_days = 10";
    har.until_sql(count, |count| count.parse::<u32>().is_ok_and(|count| count >= 4));
    let events = har.sql("SELECT address, reason FROM event WHERE kind = 'certificate'");
    assert_eq!(events, [["127.0.0.2", "the certificate expires in 10 days, min_days_left is 14"]]);
    har.until_log("127.0.0.2: the certificate expires in 10 days");
    assert_eq!(har.log().matches("127.0.0.2: the certificate expires in 10 days").count(), 1, "{}", har.log());
    assert!(har.stop().success());
    // What was found is there after a restart, too.
    let kept = har.sql("SELECT certificate_days FROM address WHERE name = 'long.example'");
    assert_eq!(kept, [["90"]]);
}

#[test]
fn the_short_form_expects_the_candidates_own_name() {
    let authority = Authority::new();
    let server = Backend::tls("127.0.0.2", authority.server("one.example"));
    let check = format!("check = \"tls:{}\"", server.port());
    let har = har().names(&format!("[names.a]\ncandidates = [\"127.0.0.2\"]\n{check}\n")).start();
    // The system trusts no test's authority.
    let row = har
        .until_sql("SELECT last_outcome, last_error, checks_defined FROM address", |outcome| !outcome.is_empty())
        .remove(0);
    assert_eq!(row[2], format!("tls:{} server_name=127.0.0.2", server.port()));
    // Without any authority at all it is this host that is to blame.
    assert!(["tls_error", "local_error"].contains(&row[0].as_str()), "{row:?}");
}
