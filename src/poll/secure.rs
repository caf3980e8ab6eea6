//! A connection with or without TLS, for the checks that log in somewhere.
//!
//! Both kinds read and write alike; the deadline is the connection's own. Failures are worded by step: what was
//! being done when it went wrong.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::config::{Password, open_file};
use crate::health::{CheckResult, Outcome};
use crate::poll::connect::{Connection, Failure, Limit, bare};

/// Longest password file: keys and tokens are far shorter.
const MAX_PASSWORD: u64 = 64 << 10;

/// A connection, plain or secured.
pub enum Stream {
    /// As it is.
    Plain(Connection),
    /// Inside TLS.
    Tls(Box<StreamOwned<ClientConnection, Connection>>),
}

/// When things happened in a check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Until the connection was open.
    pub connect: Option<Duration>,
    /// Until the first byte of the first reply, TLS aside.
    pub first_byte: Option<Duration>,
}

impl Times {
    /// The result of a check that took these times.
    pub fn result(self, outcome: Result<(), Failure>, limit: Limit) -> CheckResult {
        let total = limit.elapsed();
        let result = match outcome {
            Ok(()) => bare(Outcome::Ok, total),
            Err(failure) => failure.into_result(total),
        };
        CheckResult { connect: self.connect, first_byte: self.first_byte, ..result }
    }
}

impl Stream {
    /// Opens a plain connection.
    ///
    /// # Errors
    /// The failure, sorted.
    pub fn open(to: SocketAddr, source: Option<IpAddr>, limit: Limit, times: &mut Times) -> Result<Stream, Failure> {
        let connection = Connection::open(to, source, limit)?;
        times.connect = Some(limit.elapsed());
        Ok(Stream::Plain(connection))
    }

    /// Secures a plain connection; `host` is the name (or address) that the certificate must be for.
    ///
    /// # Errors
    /// A handshake that fails, sorted.
    pub fn secure(self, host: &str, config: &Arc<ClientConfig>, limit: Limit) -> Result<Stream, Failure> {
        let Stream::Plain(mut connection) = self else { return Ok(self) };
        let refused = |text: String| Failure::heard(Outcome::TlsError, text);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| refused(format!("{host:?} cannot be the name in a certificate")))?;
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(|error| refused(error.to_string()))?;
        match tls.complete_io(&mut connection) {
            Ok(_) => Ok(Stream::Tls(Box::new(StreamOwned::new(tls, connection)))),
            Err(error) => Err(sort(&error, limit, "the TLS handshake", Outcome::TlsError)),
        }
    }

    /// Says goodbye in the words of the protocol, at no cost in time.
    pub fn farewell(self, words: &[u8]) {
        match self {
            Stream::Plain(mut connection) => connection.write_without_waiting(words),
            Stream::Tls(mut tls) => {
                let mut last = Vec::new();
                // Into memory: nothing of it waits.
                let _ = tls.conn.writer().write_all(words);
                tls.conn.send_close_notify();
                while tls.conn.wants_write() && tls.conn.write_tls(&mut last).is_ok_and(|written| written > 0) {}
                tls.sock.write_without_waiting(&last);
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(connection) => connection.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(connection) => connection.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(connection) => connection.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// What an error means in the step during which it came; `otherwise` is the class of what the other side did.
pub fn sort(error: &io::Error, limit: Limit, step: &str, otherwise: Outcome) -> Failure {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return Failure::heard(Outcome::TlsError, format!("{step}: {error}"));
    }
    Failure::broken(error, limit, step, otherwise)
}

/// The password itself.
///
/// # Errors
/// What is wrong with its file, in a sentence.
pub fn read_password(password: &Password) -> Result<String, String> {
    let path = match password {
        Password::Text(text) => return Ok(text.clone()),
        Password::File(path) => path,
    };
    let failed = |why: String| format!("cannot read password_file {}: {why}", path.display());
    let file = open_file(path).map_err(|unread| failed(unread.to_string()))?;
    let mut text = String::new();
    file.take(MAX_PASSWORD).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    match text.trim() {
        "" => Err(format!("password_file {} is empty", path.display())),
        text if text.contains('\0') => Err(format!("password_file {} holds a zero byte", path.display())),
        text => Ok(text.to_owned()),
    }
}

/// A text of the other side without the password, should that side repeat it.
pub fn without_secret(text: &str, password: Option<&str>) -> String {
    match password {
        Some(password) if !password.is_empty() => text.replace(password, "***"),
        _ => text.to_owned(),
    }
}
