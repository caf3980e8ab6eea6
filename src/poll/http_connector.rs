//! ureq's connection to exactly one address, timed, with the check's own deadline.
//!
//! The only file that uses ureq's `unversioned` traits, which may change in its minor releases: the manifest
//! therefore pins `~3.5`. ureq's own resolver (which would ask the host's resolver, that is har), its proxies,
//! its pool and its time-outs take no part; where a failure happened is recorded in the [`Trace`] and not read
//! back from ureq's errors.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use crate::health::Outcome;
use crate::poll::connect::{Connection, Failure, Limit};
use crate::poll::tls;

/// The longest header of a reply; a status page has no need for more.
pub const MAX_HEADER: usize = 32 << 10;
/// ureq keeps a whole header in its input buffer, hence larger than [`MAX_HEADER`].
const INPUT_BUFFER: usize = 2 * MAX_HEADER;
/// Holds the request line and each single header of a request.
const OUTPUT_BUFFER: usize = 16 << 10;

/// What a check leaves behind besides its reply. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Traced>>);

/// The content of a [`Trace`].
#[derive(Clone, Debug, Default)]
pub struct Traced {
    /// Until the first TCP connection was open.
    pub connect: Option<Duration>,
    /// Until the first byte of the (last) reply, after TLS.
    pub first_byte: Option<Duration>,
    /// What ended the connection, when something did.
    pub failure: Option<Failure>,
}

impl Trace {
    /// What was recorded so far.
    pub fn read(&self) -> Traced {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Traced> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ureq gets an error of no meaning: the meaning is in the trace.
    fn fail(&self, failure: Failure) -> ureq::Error {
        self.lock().failure = Some(failure);
        ureq::Error::Io(io::Error::from(ErrorKind::Other))
    }
}

/// Says that there is nothing to resolve.
#[derive(Debug)]
pub struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

/// Connects to one address, whatever the URL's host is.
#[derive(Debug)]
pub struct PinnedConnector {
    /// The address.
    pub to: IpAddr,
    /// Local address to connect from.
    pub source: Option<IpAddr>,
    /// For everything together.
    pub limit: Limit,
    /// For `https` URLs.
    pub tls: Option<Arc<ClientConfig>>,
    /// Where it is recorded.
    pub trace: Trace,
}

impl Connector<()> for PinnedConnector {
    type Out = PinnedTransport;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<PinnedTransport>, ureq::Error> {
        let default = if details.needs_tls() { 443 } else { 80 };
        let to = SocketAddr::new(self.to, details.uri.port_u16().unwrap_or(default));
        let connection = Connection::open(to, self.source, self.limit).map_err(|failure| self.trace.fail(failure))?;
        let mut traced = self.trace.lock();
        traced.connect.get_or_insert_with(|| self.limit.elapsed());
        traced.first_byte = None;
        drop(traced);
        let stream = if details.needs_tls() {
            let host = details.uri.host().unwrap_or_default();
            self.handshake(host, connection).map_err(|failure| self.trace.fail(failure))?
        } else {
            Stream::Plain(connection)
        };
        let buffers = LazyBuffers::new(INPUT_BUFFER, OUTPUT_BUFFER);
        Ok(Some(PinnedTransport { stream, buffers, limit: self.limit, trace: self.trace.clone() }))
    }
}

impl PinnedConnector {
    fn handshake(&self, host: &str, mut connection: Connection) -> Result<Stream, Failure> {
        let tls_error = |text: String| Failure::heard(Outcome::TlsError, text);
        let config = self.tls.clone().ok_or_else(|| tls_error("no TLS set-up for this check".into()))?;
        let tls = tls::handshake(config, tls::server_name(host).map_err(tls_error)?, &mut connection, self.limit)?;
        Ok(Stream::Tls(Box::new(StreamOwned::new(tls, connection))))
    }
}

/// An open connection as ureq uses it.
#[derive(Debug)]
pub struct PinnedTransport {
    stream: Stream,
    buffers: LazyBuffers,
    limit: Limit,
    trace: Trace,
}

#[derive(Debug)]
enum Stream {
    Plain(Connection),
    Tls(Box<StreamOwned<ClientConnection, Connection>>),
}

impl PinnedTransport {
    fn failed(&self, error: &io::Error) -> ureq::Error {
        self.trace.fail(tls::sort(error, self.limit, "the reply", Outcome::ResponseError))
    }
}

impl Transport for PinnedTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let output = &self.buffers.output()[..amount];
        let sent = match &mut self.stream {
            Stream::Plain(connection) => connection.write_all(output),
            Stream::Tls(tls) => tls.write_all(output).and_then(|()| tls.flush()),
        };
        sent.map_err(|error| self.failed(&error))
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let buffer = self.buffers.input_append_buf();
        let read = match &mut self.stream {
            Stream::Plain(connection) => connection.read(buffer),
            // A peer that closes without close_notify is common; whether something is missing, HTTP says.
            Stream::Tls(tls) => match tls.read(buffer) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        };
        let read = read.map_err(|error| self.failed(&error))?;
        self.buffers.input_appended(read);
        if read > 0 {
            self.trace.lock().first_byte.get_or_insert_with(|| self.limit.elapsed());
        }
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        false
    }

    fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }
}

impl Drop for PinnedTransport {
    fn drop(&mut self) {
        // Servers log a TLS connection that ends without a farewell as truncated.
        if let Stream::Tls(tls) = &mut self.stream {
            tls.conn.send_close_notify();
            let mut farewell = Vec::new();
            let _ = tls.conn.write_tls(&mut farewell);
            tls.sock.write_without_waiting(&farewell);
        }
    }
}
