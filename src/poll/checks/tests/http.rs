//! `http` checks without TLS.

use super::*;

const EMPTY_OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[test]
fn the_server_sees_the_request_that_was_configured() {
    let (server, heads) = Server::replying(EMPTY_OK);
    let full = HttpCheck {
        path: "/a%20b?token=s3cret&from={address}".into(),
        userinfo: Some("user:s3cret".into()),
        method: "POST".into(),
        headers: vec![("X-Key".into(), "s3cret {address}".into())],
        ..http_check(server.port())
    };
    let by_address = HttpCheck { host: None, ..http_check(server.port()) };
    let stated = HttpCheck { host_header: Some("other.example:81".into()), ..http_check(server.port()) };
    let odd = HttpCheck {
        method: "PROPFIND".into(),
        headers: vec![("User-Agent".into(), "x".into()), ("host".into(), "third.example".into())],
        ..http_check(server.port())
    };
    for http in [full, by_address, stated, odd] {
        let result = run_http(http, PLENTY);
        assert_eq!((result.outcome, result.status, result.error), (Outcome::Ok, Some(200), None));
    }
    let heads: Vec<_> = heads.lock().unwrap().iter().map(|head| head.to_lowercase()).collect();
    let port = server.port();
    for (head, lines) in heads.iter().zip([
        &[
            "post /a%20b?token=s3cret&from=127.0.0.1 http/1.1".to_owned(),
            format!("host: app.example:{port}"),
            "authorization: basic dxnlcjpzm2nyzxq=".to_owned(),
            "x-key: s3cret 127.0.0.1".to_owned(),
            format!("user-agent: har/{}", env!("CARGO_PKG_VERSION")),
            "content-length: 0".to_owned(),
            "connection: close".to_owned(),
        ][..],
        &["get /healthz http/1.1".to_owned(), format!("host: 127.0.0.1:{port}")],
        &["host: other.example:81".to_owned()],
        &["propfind /healthz http/1.1".to_owned(), "user-agent: x".to_owned(), "host: third.example".to_owned()],
    ]) {
        for line in lines {
            assert_eq!(head.lines().filter(|found| found == line).count(), 1, "{line:?} in {head}");
        }
        assert_eq!(head.matches("host:").count(), 1, "{head}");
    }
}

#[test]
fn the_port_of_the_scheme_is_left_out_of_host() {
    for (url, expected) in [
        ("http://app.example:80/", "app.example"),
        ("http://app.example:443/", "app.example:443"),
        ("https://[2001:db8::1]:443/", "[2001:db8::1]"),
        ("https://[2001:db8::1]:80/", "[2001:db8::1]:80"),
    ] {
        assert_eq!(crate::poll::http::host_header(&url.parse().unwrap()), expected);
    }
}

#[test]
fn an_ipv6_host_is_bracketed() {
    let seen = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&seen);
    let server = Server::on("[::1]:0".parse().unwrap(), move |mut stream| {
        *kept.lock().unwrap() = head(&mut stream).to_lowercase();
        stream.write_all(EMPTY_OK.as_bytes()).unwrap();
    });
    let http = HttpCheck { host: None, path: "/?a={address}".into(), ..http_check(server.port()) };
    let address: IpAddr = "::1".parse().unwrap();
    assert_eq!(run(&check(CheckKind::Http(http), PLENTY), address).outcome, Outcome::Ok);
    let seen = seen.lock().unwrap();
    assert!(seen.contains(&format!("host: [::1]:{}\r\n", server.port())), "{seen}");
    assert!(seen.starts_with("get /?a=::1 "), "{seen}");
}

#[test]
fn replies_and_what_they_mean() {
    use Outcome::{Ok, ResponseError};
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n{}", "x".repeat(70_000));
    let bomb = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(2000));
    let informed = format!("{}HTTP/1.1 200 OK\r\n\r\nalive", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3));
    for (reply, outcome, error) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalive", Ok, ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalive and more than announced", Ok, ""),
        ("HTTP/1.0 200 OK\r\n\r\nalive until closed", Ok, ""),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nali\r\n2\r\nve\r\n0\r\n\r\n", Ok, ""),
        (&informed, Ok, ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", ResponseError, "the body (0 bytes) does not match \"alive$?\""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndead", ResponseError, "the body (4 bytes) does not match"),
        ("HTTP/1.1 503 s3cret\r\nContent-Length: 5\r\n\r\nalive", ResponseError, "status 503, expected 200-299, 304"),
        ("HTTP/1.1 301 Moved\r\nLocation: /s3cret\r\n\r\n", ResponseError, "status 301, expected 200-299, 304"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nalive", ResponseError, "the body was cut short"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nalive\r\n",
            ResponseError,
            "the body was cut short",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\nalivealive",
            ResponseError,
            "the body cannot be read: ",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Le", ResponseError, "the connection was closed before a whole reply"),
        ("", ResponseError, "the connection was closed before a whole reply"),
        ("SSH-2.0-OpenSSH_9.6 s3cret\r\n", ResponseError, "the reply is not valid HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\nContent-Length: s3cret\r\n\r\nalive", ResponseError, "the reply is not valid HTTP/1.1"),
        (&big, ResponseError, "the body (65536 bytes) does not match \"alive$?\""),
        (&bomb, ResponseError, "the reply's header is longer than 32 KiB"),
        (&many, ResponseError, "the reply is not valid HTTP/1.1"),
    ] {
        let (server, _) = Server::replying(reply);
        let http = HttpCheck {
            body: Some("alive$?".into()),
            status: vec![(200, 299), (304, 304)],
            path: "/?s3cret".into(),
            ..http_check(server.port())
        };
        let result = run_http(http, PLENTY);
        let shown = &reply[..reply.len().min(80)];
        assert_eq!(result.outcome, outcome, "{shown:?}: {result:?}");
        assert!(result.error.as_deref().unwrap_or("").starts_with(error), "{shown:?}: {result:?}");
        assert_eq!(result.error.is_some(), outcome != Ok);
        assert!(!result.silent && result.connect.is_some());
        assert_eq!(result.first_byte.is_some(), !reply.is_empty());
    }
}

#[test]
fn a_compressed_body_is_matched_as_it_was() {
    // "alive" in a stored block, by RFC 1951 and 1952.
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01\x05\0\xfa\xffalive\x53\x5a\x3b\x10\x05\0\0\0";
    let header = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length:";
    let mut reply = format!("{header} {}\r\n\r\n", gzip.len()).into_bytes();
    reply.extend(gzip);
    let (server, _) = Server::replying(reply);
    let result = run_http(HttpCheck { body: Some("^alive$".into()), ..http_check(server.port()) }, PLENTY);
    assert_eq!((result.outcome, result.error), (Outcome::Ok, None));
}

#[test]
fn times_are_told_apart() {
    let server = Server::start(LOCAL, |mut stream| {
        head(&mut stream);
        thread::sleep(Duration::from_millis(60));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").unwrap();
        thread::sleep(Duration::from_millis(60));
        stream.write_all(b"k").unwrap();
    });
    let apart = || {
        let result = run_http(http_check(server.port()), PLENTY);
        let (connect, first_byte, total) = (result.connect.unwrap(), result.first_byte.unwrap(), result.total);
        println!("{connect:?}, {first_byte:?}, {total:?}");
        let step = Duration::from_millis(55);
        first_byte >= connect + step && total >= first_byte + step
    };
    // Where a loaded machine lets the first byte lie there for a while, the next one tells.
    assert!((0..20).any(|_| apart()));
}

#[test]
fn the_deadline_holds_whatever_the_server_does() {
    let header = || "HTTP/1.1 200 OK\r\n".bytes();
    let scripts: [Box<dyn Fn(TcpStream) + Send + Sync>; 5] = [
        Box::new(hold),
        Box::new(move |stream| drip(stream, header().chain(b"X: y\r\n".iter().copied().cycle()))),
        Box::new(move |stream| drip(stream, header().chain(*b"\r\n").chain(std::iter::repeat(b'x')))),
        Box::new(|stream| drip(stream, b"HTTP/1.1 100 Continue\r\n\r\n".iter().copied().cycle())),
        Box::new(move |stream| {
            let chunks = b"1\r\nx\r\n".iter().copied().cycle();
            drip(stream, header().chain(*b"Transfer-Encoding: chunked\r\n\r\n").chain(chunks));
        }),
    ];
    for (number, script) in scripts.into_iter().enumerate() {
        let server = Server::start(LOCAL, script);
        let result = run_http(http_check(server.port()), SHORT);
        assert_eq!((result.outcome, result.silent), (Outcome::Timeout, false), "{number}: {result:?}");
        assert!(result.connect.is_some() && result.total >= SHORT - Duration::from_millis(5), "{number}: {result:?}");
    }
}

#[test]
fn endless_replies_at_full_speed_are_cut() {
    for (first, endless, outcome) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "body", Outcome::Ok),
        ("HTTP/1.1 200 OK\r\n", "a: b\r\n", Outcome::ResponseError),
        ("", "HTTP/1.1 100 Continue\r\n\r\n", Outcome::ResponseError),
        ("", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", Outcome::ResponseError),
    ] {
        let server = Server::start(LOCAL, move |mut stream| {
            let block = endless.repeat(1000);
            let mut sent = stream.write_all(first.as_bytes());
            while sent.is_ok() {
                sent = stream.write_all(block.as_bytes());
            }
        });
        let result = run_http(http_check(server.port()), PLENTY);
        assert_eq!(result.outcome, outcome, "{endless:?}: {result:?}");
    }
}

#[test]
fn redirects_stay_at_the_address_and_keep_secrets_at_the_origin() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let server = Server::start(LOCAL, move |mut stream| {
        let port = stream.local_addr().unwrap().port();
        let head = head(&mut stream).to_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let location = match path.as_str() {
            "/a/start" => "next?q=1#fragment".to_owned(),
            "/a/next?q=1" => "?q=2".to_owned(),
            "/a/next?q=2" => format!("http://elsewhere.example:{port}/x"),
            "/x" => format!("//third.example:{port}/y"),
            "/y" => "/end".to_owned(),
            "/loop" => "/loop".to_owned(),
            "/file" => "file:///etc/s3cret".to_owned(),
            "/other" => "https://user:s3cret@x.example/".to_owned(),
            _ => String::new(),
        };
        kept.lock().unwrap().push((path, head));
        let reply = match location.as_str() {
            "" => EMPTY_OK.to_owned(),
            _ => format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"),
        };
        stream.write_all(reply.as_bytes()).unwrap();
    });
    let follow = |path: &str| HttpCheck {
        path: path.into(),
        follow_redirects: true,
        // Nothing here speaks TLS, and the system's store may be empty.
        trust: Trust { verify: false, ..trust() },
        headers: vec![("X-Key".into(), "s3cret".into())],
        userinfo: Some("a:s3cret".into()),
        ..http_check(server.port())
    };
    let result = run_http(follow("/a/start"), PLENTY);
    assert_eq!((result.outcome, result.status, result.error), (Outcome::Ok, Some(200), None));
    let heads = std::mem::take(&mut *seen.lock().unwrap());
    let secrets = |head: &str| (head.contains("x-key"), head.contains("authorization"));
    let steps: Vec<_> = heads.iter().map(|(path, head)| (path.as_str(), secrets(head))).collect();
    let (with, without) = ((true, true), (false, false));
    assert_eq!(
        steps,
        [
            ("/a/start", with),
            ("/a/next?q=1", with),
            ("/a/next?q=2", with),
            ("/x", without),
            ("/y", without),
            ("/end", without),
        ]
    );
    assert!(heads[3].1.contains(&format!("host: elsewhere.example:{}\r\n", server.port())));
    assert!(heads[5].1.contains(&format!("host: third.example:{}\r\n", server.port())));
    for (path, error) in [
        ("/loop", "more than 5 redirects"),
        ("/file", "a redirect to something other than an http or https URL"),
        ("/other", "a redirect to something other than an http or https URL"),
    ] {
        let result = run_http(follow(path), PLENTY);
        assert_eq!((result.outcome, result.error.as_deref()), (Outcome::ResponseError, Some(error)));
    }
}

#[test]
fn what_cannot_be_asked_is_said_when_preparing() {
    for (http, error) in [
        (HttpCheck { body: Some("(".into()), ..http_check(1) }, "\"(\" is not a regular expression"),
        (HttpCheck { method: "GE T".into(), ..http_check(1) }, "\"GE T\" is not a request method"),
        (
            HttpCheck { path: "/s3cret path".into(), ..http_check(1) },
            "the URL for host app.example holds characters that a URL cannot",
        ),
        (
            HttpCheck { headers: vec![("X".into(), "s3cret\n".into())], ..http_check(1) },
            "a header holds characters that a header cannot",
        ),
    ] {
        let check = check(CheckKind::Http(http), PLENTY);
        assert_eq!(Runner::new(&check, &SystemRoots::new()).unwrap_err(), Unprepared(error.into()));
    }
}
