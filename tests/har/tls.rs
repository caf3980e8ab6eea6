//! HTTPS checks: the certificate is for the name, the connection goes to the address.

use crate::harness::{Authority, Backend, har, wait_for};

#[test]
fn the_certificate_must_be_valid_for_the_name_of_the_url() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let servers = [
        ("good", Backend::tls("127.0.0.2", authority.server("good.example"))),
        ("wrong", Backend::tls("127.0.0.3", authority.server("other.example"))),
        ("expired", Backend::tls("127.0.0.4", authority.expired_server("expired.example"))),
        ("stranger", Backend::tls("127.0.0.5", stranger.server("stranger.example"))),
    ];
    let mut names = String::from("[defaults]\ninterval = \"1s\"\nfast_interval = \"100ms\"\ntimeout = \"1s\"\n");
    for (name, server) in &servers {
        names.push_str(&format!(
            "[names.\"{name}.example\"]\n\
             check = {{ type = \"http\", url = \"https://{name}.example:{port}/healthz\", ca_file = \"ca.pem\" }}\n\
             candidates = [\"{address}\"]\n",
            port = server.port(),
            address = server.address(),
        ));
    }
    let mut har = har().names(&names).prepare();
    authority.write(&har.folder().join("ca.pem"));
    har.start();

    har.until_sql("SELECT state FROM ranking WHERE name = 'good.example'", |state| state == "up");
    let request = wait_for("a request", || servers[0].1.requests().first().cloned());
    assert_eq!(request.server_name.as_deref(), Some("good.example"));
    assert_eq!(request.host, format!("good.example:{}", servers[0].1.port()));
    assert_eq!(request.line, "GET /healthz HTTP/1.1");
    let reply = har.query("good.example", "A");
    assert_eq!((reply.first().as_str(), reply.extended_error()), ("127.0.0.2", None));

    for (name, server) in &servers[1..] {
        let state = format!("SELECT state FROM ranking WHERE name = '{name}.example'");
        har.until_sql(&state, |state| state == "down");
        let count = format!("SELECT tls_error FROM address WHERE name = '{name}.example'");
        har.until_sql(&count, |count| count.parse::<u64>().is_ok_and(|count| count > 0));
        assert!(server.requests().is_empty(), "{name}: no request is sent over a connection that is not trusted");
    }
}
