//! `tls` checks: the handshake completes, and how long the certificate is good for.
//!
//! In TLS 1.3 a client is done before the server has looked at its certificate. When the server asked for one, its
//! verdict is waited for, a moment at most, and what it says then counts; the time of the check ends with the
//! handshake all the same.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::config::TlsCheck;
use crate::health::{CheckResult, Outcome};
use crate::poll::checks::Route;
use crate::poll::connect::{Connection, Failure, Limit, bare};
use crate::poll::trust::{SystemRoots, client_config};

/// How long a server's verdict on the client's certificate is waited for; most send something at once.
const VERDICT: Duration = Duration::from_millis(250);

/// A prepared `tls` check.
pub struct TlsRunner {
    port: u16,
    /// `None` = the address that is checked.
    name: Option<ServerName<'static>>,
    config: Arc<ClientConfig>,
    min_days_left: u32,
}

/// What is found out on the way.
#[derive(Default)]
struct Found {
    connect: Option<Duration>,
    total: Option<Duration>,
    days: Option<i64>,
}

impl TlsRunner {
    /// Reads certificates and looks at the name.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn new(check: &TlsCheck, roots: &SystemRoots) -> Result<TlsRunner, String> {
        let name = check.server_name.as_deref().map(server_name).transpose()?;
        let config = client_config(&check.trust, roots)?;
        Ok(TlsRunner { port: check.port, name, config, min_days_left: check.min_days_left })
    }

    /// Fewer days than this until the certificate expires are worth a warning.
    pub fn min_days_left(&self) -> u32 {
        self.min_days_left
    }

    /// Runs it.
    pub fn run(&self, route: Route, limit: Limit) -> CheckResult {
        let mut found = Found::default();
        let outcome = self.attempt(route, limit, &mut found);
        let total = found.total.unwrap_or_else(|| limit.elapsed());
        let result = match outcome {
            Ok(()) => bare(Outcome::Ok, total),
            Err(failure) => failure.into_result(total),
        };
        CheckResult { connect: found.connect, certificate_days: found.days, ..result }
    }

    fn attempt(&self, route: Route, limit: Limit, found: &mut Found) -> Result<(), Failure> {
        let mut connection = Connection::open(SocketAddr::new(route.to, self.port), route.source, limit)?;
        found.connect = Some(limit.elapsed());
        let name = self.name.clone().unwrap_or_else(|| route.candidate.into());
        let asked = Arc::new(Asked {
            inner: Arc::clone(&self.config.client_auth_cert_resolver),
            asked: AtomicBool::new(false),
        });
        let mut config = ClientConfig::clone(&self.config);
        config.client_auth_cert_resolver = Arc::clone(&asked) as Arc<dyn ResolvesClientCert>;
        let mut tls = handshake(Arc::new(config), name, &mut connection, limit)?;
        found.total = Some(limit.elapsed());
        found.days = tls.peer_certificates().and_then(|chain| chain.first()).and_then(|first| days_left(first));
        if asked.asked.load(Ordering::Relaxed) && tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
            connection.end_within(VERDICT);
            verdict(&mut tls, &mut connection, limit)?;
        }
        tls.send_close_notify();
        let mut farewell = Vec::new();
        let _ = tls.write_tls(&mut farewell);
        connection.write_without_waiting(&farewell);
        Ok(())
    }
}

/// Shakes hands over an open connection.
///
/// # Errors
/// The failure, sorted: what TLS says is a `tls_error`, a deadline a `timeout`.
pub fn handshake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    connection: &mut Connection,
    limit: Limit,
) -> Result<ClientConnection, Failure> {
    let mut tls =
        ClientConnection::new(config, name).map_err(|error| Failure::heard(Outcome::TlsError, error.to_string()))?;
    match tls.complete_io(connection) {
        Ok(_) => Ok(tls),
        Err(error) => Err(sort(&error, limit, "the TLS handshake", Outcome::TlsError)),
    }
}

/// A text as the name in a certificate; brackets of an IPv6 literal are taken off.
///
/// # Errors
/// A sentence, when no certificate can hold it.
pub fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(bare.to_owned()).map_err(|_| format!("{bare:?} cannot be the name in a certificate"))
}

/// What an error on a connection with TLS means in `phase`; `otherwise` is the class of what the candidate did.
pub fn sort(error: &io::Error, limit: Limit, phase: &str, otherwise: Outcome) -> Failure {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return Failure::heard(Outcome::TlsError, error.to_string());
    }
    Failure::broken(error, limit, phase, otherwise)
}

/// Waits for what the server says once it has seen the client's certificate. Silence is consent.
fn verdict(tls: &mut ClientConnection, connection: &mut Connection, limit: Limit) -> Result<(), Failure> {
    let refused = |text: String| Failure::heard(Outcome::TlsError, text);
    match tls.read_tls(connection) {
        Ok(0) => Err(refused("the server closed the connection after the handshake: a client certificate?".into())),
        Ok(_) => tls.process_new_packets().map(drop).map_err(|error| refused(error.to_string())),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
        Err(error) => Err(sort(&error, limit, "the end of the TLS handshake", Outcome::TlsError)),
    }
}

/// Whole days until a certificate expires, negative when it has; `None` when it cannot be read.
fn days_left(certificate: &[u8]) -> Option<i64> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let seconds = i64::try_from(end).ok()?.checked_sub(i64::try_from(now).ok()?)?;
    Some(seconds.div_euclid(86_400))
}

/// Notes whether the server asked for the client's certificate.
struct Asked {
    inner: Arc<dyn ResolvesClientCert>,
    asked: AtomicBool,
}

impl fmt::Debug for Asked {
    // What is behind it holds a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.inner.resolve(hints, schemes)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.inner.only_raw_public_keys()
    }

    // Without any certificate rustls would not call `resolve`, and the question would go unnoticed.
    fn has_certs(&self) -> bool {
        true
    }
}
