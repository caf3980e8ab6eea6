//! `http` checks against a real nginx.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::daemon::free_port;
use crate::harness::{Authority, har, missing, program, skip, wait_for};

/// nginx in a folder of its own; ended with this value.
struct Nginx {
    child: Child,
    plain: u16,
    tls: u16,
    mutual: u16,
}

impl Nginx {
    /// Plain HTTP, HTTPS and HTTPS with a client certificate, each on a port of 127.0.0.2.
    fn start(folder: &Path) -> Nginx {
        let address = Ipv4Addr::new(127, 0, 0, 2).into();
        let [plain, tls, mutual] = [(); 3].map(|()| free_port(&[address]));
        fs::create_dir_all(folder.join("html")).expect("own folder");
        fs::write(folder.join("html/page.txt"), format!("{}\nalive\n", "filler ".repeat(2000))).expect("own folder");
        fs::write(folder.join("html/big.txt"), format!("alive\n{}", "x".repeat(3_000_000))).expect("own folder");
        fs::write(folder.join("html/late.txt"), format!("{}alive\n", "x".repeat(70_000))).expect("own folder");
        fs::write(folder.join("users"), "ann:{PLAIN}s3cret\n").expect("own folder");
        let config = CONFIG
            .replace("PLAIN_PORT", &plain.to_string())
            .replace("TLS_PORT", &tls.to_string())
            .replace("MUTUAL_PORT", &mutual.to_string());
        fs::write(folder.join("nginx.conf"), config).expect("own folder");
        let child = Command::new(program("nginx").expect("asked for before"))
            .arg("-p")
            .arg(folder)
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        let nginx = Nginx { child, plain, tls, mutual };
        for port in [plain, tls, mutual] {
            wait_for("nginx", || TcpStream::connect((address, port)).ok());
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

const CONFIG: &str = r#"
daemon off;
master_process off;
pid nginx.pid;
events { worker_connections 64; }
http {
    access_log off;
    default_type text/plain;
    client_body_temp_path tmp;
    proxy_temp_path tmp;
    fastcgi_temp_path tmp;
    uwsgi_temp_path tmp;
    scgi_temp_path tmp;
    absolute_redirect off;
    server {
        listen 127.0.0.2:PLAIN_PORT;
        root html;
        location / { }
        location = /gzip { gzip on; gzip_min_length 1; gzip_proxied any; gzip_types text/plain; try_files /page.txt =404; }
        location = /echo { return 200 "$request_method $http_host $http_x_probe $http_user_agent $http_connection $args\n"; }
        location = /empty { return 204; }
        location = /busy { return 503 "busy\n"; }
        location = /teapot { return 418 "alive\n"; }
        location = /moved { return 302 /page.txt; }
        location = /away { return 302 http://other.example:PLAIN_PORT/page.txt; }
        location = /loop { return 302 /loop; }
        location = /login { auth_basic "har"; auth_basic_user_file users; try_files /page.txt =404; }
        location = /closed { return 444; }
        location = /drip { limit_rate 1000; try_files /big.txt =404; }
        location = /old { proxy_pass http://127.0.0.2:PLAIN_PORT/page.txt; proxy_http_version 1.0; chunked_transfer_encoding off; }
    }
    ssl_certificate server.pem;
    ssl_certificate_key server.key;
    server {
        listen 127.0.0.2:TLS_PORT ssl;
        location / { return 200 "$ssl_server_name $host\n"; }
    }
    server {
        listen 127.0.0.2:MUTUAL_PORT ssl;
        ssl_client_certificate ca.pem;
        ssl_verify_client on;
        location / { return 200 "$ssl_client_verify\n"; }
    }
}
"#;

#[test]
fn a_real_nginx_is_understood() {
    if let Some(reason) = missing(&["nginx"]) {
        return skip(&reason);
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    authority.write_pair("shop.example", folder.path(), "server");
    authority.write_pair("har", folder.path(), "client");
    let nginx = Nginx::start(folder.path());
    let at = |path: &str| format!("url = \"http://{{host}}:{}{path}\"", nginx.plain);
    let over_tls = |port: u16, more: &str| {
        let ca = folder.path().join("ca.pem");
        format!("url = \"https://shop.example:{port}/\", ca_file = \"{}\"{more}", ca.display())
    };
    let client = format!(
        ", client_cert = \"{0}.pem\", client_key = \"{0}.key\", body = \"^SUCCESS\"",
        folder.path().join("client").display()
    );
    let user = format!("url = \"http://ann:s3cret@{{host}}:{}/login\", body = \"alive\"", nginx.plain);
    let echoed = "^POST www.echo.example [a-z]+-1 har/[0-9.]+ close a=127.0.0.2\\\\n$";
    // A name, its check, and what its last error begins with when it is not to pass.
    let cases = [
        ("page", format!("{}, body = \"^filler (?s:.*)alive\\n$\"", at("/page.txt")), ""),
        ("gzip", format!("{}, body = \"^filler (?s:.*)alive\\n$\"", at("/gzip")), ""),
        (
            "echo",
            format!(
                "{}, method = \"post\", host = \"www.{{name}}\", headers = {{ X-Probe = \"sesame-1\" }}, body = \"{echoed}\"",
                at("/echo?a={address}")
            ),
            "",
        ),
        ("head", format!("{}, method = \"HEAD\"", at("/page.txt")), ""),
        ("empty", at("/empty"), ""),
        ("missing", at("/no-such-page"), "status 404, expected 200-299"),
        ("teapot", format!("{}, status = [\"200-299\", 418], body = \"alive\"", at("/teapot")), ""),
        ("busy", at("/busy"), "status 503, expected 200-299"),
        ("moved", at("/moved"), "status 302, expected 200-299"),
        ("seen", format!("{}, status = 302", at("/moved")), ""),
        ("followed", format!("{}, follow_redirects = true, body = \"alive\", verify = false", at("/moved")), ""),
        ("away", format!("{}, follow_redirects = true, body = \"alive\", verify = false", at("/away")), ""),
        ("loop", format!("{}, follow_redirects = true, verify = false", at("/loop")), "more than 5 redirects"),
        ("user", user, ""),
        ("stranger", at("/login"), "status 401, expected 200-299"),
        ("big", format!("{}, body = \"^alive\"", at("/big.txt")), ""),
        ("late", format!("{}, body = \"alive\"", at("/late.txt")), "the body (65536 bytes) does not match"),
        ("closed", at("/closed"), "the connection was closed before a whole reply"),
        ("drip", at("/drip"), "the reply took longer than 1s"),
        ("old", format!("{}, body = \"alive\"", at("/old")), ""),
        ("managed", format!("{}, address = \"127.0.0.2\"", at("/page.txt").replace("{host}", "managed.example")), ""),
        ("secure", over_tls(nginx.tls, ", body = \"^shop.example shop.example\""), ""),
        (
            "named",
            over_tls(nginx.tls, "").replace("shop", "other"),
            "invalid peer certificate: certificate not valid for name",
        ),
        (
            "unknown",
            format!("url = \"https://shop.example:{}/\"", nginx.tls),
            "invalid peer certificate: UnknownIssuer",
        ),
        ("trusting", format!("url = \"https://other.example:{}/\", verify = false", nginx.tls), ""),
        ("mutual", over_tls(nginx.mutual, &client), ""),
        ("anonymous", over_tls(nginx.mutual, ""), "status 400, expected 200-299"),
        ("plain", format!("url = \"https://{{host}}:{}/\", verify = false", nginx.plain), "received corrupt message"),
    ];
    let mut names =
        String::from("[defaults]\ninterval = \"1s\"\nfast_interval = \"1s\"\ntimeout = \"1s\"\nfall = 1\nrise = 1\n");
    for (name, check, _) in &cases {
        let candidate = if *name == "managed" { "192.0.2.7" } else { "127.0.0.2" };
        names.push_str(&format!(
            "[names.\"{name}.example\"]\ncandidates = [\"{candidate}\"]\ncheck = {{ type = \"http\", {check} }}\n"
        ));
    }
    let har = har().names(&names).start();
    for (name, _, error) in &cases {
        let wanted = if error.is_empty() { "up" } else { "down" };
        let query =
            format!("SELECT state || ' ' || coalesce(last_error, '') FROM address WHERE name = '{name}.example'");
        // On a loaded machine one may take longer than its second: the next one tells.
        let begins = format!("{wanted} {error}");
        let row = har.until_sql(&query, |found| found.starts_with(&begins))[0][0].clone();
        assert_eq!(row.len() > wanted.len() + 1, !error.is_empty(), "{name}: {row}");
    }
    // The user and the query are in no row.
    for secret in ["s3cret", "echo?a=", "sesame"] {
        let query = format!("SELECT count(*) FROM check_target WHERE definition LIKE '%{secret}%'");
        assert_eq!(har.sql(&query)[0][0], "0", "{secret}");
    }
    assert!(!har.log().contains("s3cret"));
}
