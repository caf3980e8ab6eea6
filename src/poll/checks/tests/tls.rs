//! `https` checks: certificates, names, client certificates.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::*;
use crate::mailbox::Inbox;
use crate::poll::workers::{Lane, Limits, Pool};

/// An authority, and a folder for what checks read.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(super) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Authorities of one name would be told apart by their signatures only.
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer, folder }
    }

    pub(super) fn issue(&self, name: &str, last_year: i32) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(last_year, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub(super) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A bundle of two authorities, of which ours is the second.
    pub(super) fn ca_file(&self) -> PathBuf {
        let other = Authority::new().issuer.as_ref().pem();
        self.file("ca.pem", &format!("{other}\n{}", self.issuer.as_ref().pem()))
    }
}

/// Serves a fixed reply with this certificate and keeps the names that clients asked for.
pub(super) struct TlsServer {
    server: Server,
    names: Arc<Mutex<Vec<Option<String>>>>,
}

impl TlsServer {
    pub(super) fn start((certificate, key): (rcgen::Certificate, KeyPair), clients: Option<&Authority>) -> TlsServer {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from(authority.issuer.as_ref().der().to_vec())).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
        let names = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&names);
        let server = Server::start(LOCAL, move |stream| {
            let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
            let head = head(&mut tls);
            kept.lock().unwrap().push(tls.conn.server_name().map(str::to_owned));
            if !head.is_empty() {
                // Closed without close_notify, as many servers do.
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\n\r\nalive");
            }
        });
        TlsServer { server, names }
    }

    pub(super) fn port(&self) -> u16 {
        self.server.port()
    }

    fn check(&self, host: &str, trust: &Trust) -> CheckResult {
        let host = Some(host.to_owned());
        let http = HttpCheck { tls: true, host, trust: trust.clone(), ..http_check(self.server.port()) };
        run_http(http, PLENTY)
    }

    fn has_seen(&self, name: Option<&str>) -> bool {
        let start = Instant::now();
        while start.elapsed() < PLENTY {
            if self.names.lock().unwrap().iter().any(|seen| seen.as_deref() == name) {
                return true;
            }
            thread::yield_now();
        }
        false
    }
}

#[test]
fn certificates_are_verified_against_the_urls_host() {
    let authority = Authority::new();
    let known = Trust { ca_file: Some(authority.ca_file()), ..trust() };
    let stranger = Authority::new();
    let strange = Trust { ca_file: Some(stranger.ca_file()), ..trust() };
    let none = Trust { verify: false, ..trust() };

    let good = TlsServer::start(authority.issue("app.example", 2999), None);
    let expired = TlsServer::start(authority.issue("app.example", 2001), None);
    let numeric = TlsServer::start(authority.issue("127.0.0.1", 2999), None);
    for (server, host, trust, error) in [
        (&good, "app.example", &known, ""),
        (&good, "other.example", &known, "not valid for name"),
        (&good, "127.0.0.1", &known, "not valid for name"),
        (&good, "app.example", &strange, "UnknownIssuer"),
        (&good, "other.example", &none, ""),
        (&expired, "app.example", &known, "expired"),
        (&expired, "app.example", &none, ""),
        (&numeric, "127.0.0.1", &known, ""),
        (&numeric, "app.example", &known, "not valid for name"),
    ] {
        let result = server.check(host, trust);
        let expected = if error.is_empty() { Outcome::Ok } else { Outcome::TlsError };
        assert_eq!(result.outcome, expected, "{host} {error}: {result:?}");
        assert!(result.error.as_deref().unwrap_or("").contains(error), "{result:?}");
        assert!(!result.silent && result.connect.is_some());
        assert_eq!(result.first_byte.is_some(), error.is_empty(), "TLS bytes are not the reply's");
    }
    assert!(good.has_seen(Some("app.example")) && good.has_seen(Some("other.example")));
    assert!(numeric.has_seen(None), "an address is no SNI");
}

#[test]
fn client_certificates_are_presented() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.issue("app.example", 2999), Some(&authority));
    let without = Trust { ca_file: Some(authority.ca_file()), ..trust() };
    let result = server.check("app.example", &without);
    assert_eq!(result.outcome, Outcome::TlsError, "{result:?}");
    let (certificate, key) = authority.issue("har", 2999);
    let files = (authority.file("client.pem", &certificate.pem()), authority.file("key.pem", &key.serialize_pem()));
    let with = Trust { client: Some(files), ..without };
    let result = server.check("app.example", &with);
    assert_eq!((result.outcome, result.error), (Outcome::Ok, None));
}

type Script = Box<dyn Fn(TcpStream) + Send + Sync>;

#[test]
fn handshakes_that_lead_nowhere() {
    let none = Trust { verify: false, ..trust() };
    let https = |port| HttpCheck { tls: true, trust: none.clone(), ..http_check(port) };
    // A record that is announced and comes byte by byte.
    let record = || [22, 3, 3, 0x40, 0].into_iter().chain(std::iter::repeat(2));
    let scripts: [(Script, Outcome, Duration); 4] = [
        (Box::new(hold), Outcome::Timeout, SHORT),
        (Box::new(move |stream| drip(stream, record())), Outcome::Timeout, SHORT),
        (Box::new(drop), Outcome::TlsError, PLENTY),
        (
            Box::new(|mut stream| {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }),
            Outcome::TlsError,
            PLENTY,
        ),
    ];
    for (script, outcome, timeout) in scripts {
        let server = Server::start(LOCAL, script);
        let result = run_http(https(server.port()), timeout);
        assert_eq!((result.outcome, result.silent), (outcome, false), "{result:?}");
        assert!(result.connect.is_some() && result.first_byte.is_none());
    }
    assert_eq!(run_http(https(closed_port()), PLENTY).outcome, Outcome::ConnectError);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("har", 2999);
    let (_, other) = authority.issue("har", 2999);
    let certificate = authority.file("client.pem", &certificate.pem());
    let key = authority.file("key.pem", &key.serialize_pem());
    let other = authority.file("other.pem", &other.serialize_pem());
    let missing = authority.folder.path().join("missing.pem");
    let empty = authority.file("empty.pem", "# nothing\n");
    let ca = Some(authority.ca_file());
    let https = |ca_file: Option<PathBuf>, client| {
        let http = HttpCheck { tls: true, trust: Trust { verify: true, ca_file, client }, ..http_check(1) };
        Runner::new(&check(CheckKind::Http(http), PLENTY), &SystemRoots::new())
    };
    for (ca_file, client, error) in [
        (Some(missing.clone()), None, "cannot read "),
        (Some(empty.clone()), None, "no certificate in PEM format"),
        (Some(key.clone()), None, "no certificate in PEM format"),
        (ca.clone(), Some((certificate.clone(), empty)), "no usable private key in PEM format"),
        (ca.clone(), Some((certificate.clone(), other)), "do not make a client certificate"),
        (ca.clone(), Some((missing, key.clone())), "cannot read "),
    ] {
        let failed = https(ca_file, client).unwrap_err();
        assert!(failed.0.contains(error) && failed.0.contains(".pem"), "{failed}");
    }
    assert!(https(ca, Some((certificate, key))).is_ok());
}

#[test]
fn a_workers_stack_is_large_enough() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.issue("app.example", 2999), None);
    let trust = Trust { ca_file: Some(authority.ca_file()), ..trust() };
    let body = Some(r"(?i)\b(alive|healthy\w*)\b".into());
    let http = HttpCheck { tls: true, trust, body, follow_redirects: true, ..http_check(server.server.port()) };
    let runner = Runner::new(&check(CheckKind::Http(http), PLENTY), &SystemRoots::new()).unwrap();
    let (pool, inbox) = (Pool::new(Limits::default()), Inbox::new());
    let results = inbox.clone();
    assert!(pool.submit(Lane::Normal, Box::new(move || results.send(runner.run(LOCAL.into())))).is_ok());
    let mut got = Vec::new();
    inbox.wait(Some(PLENTY), &mut got);
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].outcome, got[0].error.as_deref()), (Outcome::Ok, None));
}

#[test]
fn without_a_ca_file_the_systems_store_decides() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.issue("app.example", 2999), None);
    let http =
        HttpCheck { tls: true, host: Some("app.example".into()), trust: trust(), ..http_check(server.server.port()) };
    let roots = SystemRoots::new();
    match Runner::new(&check(CheckKind::Http(http), PLENTY), &roots) {
        Ok(runner) => assert_eq!(runner.run(LOCAL.into()).outcome, Outcome::TlsError),
        Err(why) => assert!(why.0.contains("trust store") && why.0.contains("ca_file"), "{why}"),
    }
}
