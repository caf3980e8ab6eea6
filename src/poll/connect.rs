//! A TCP connection with one hard deadline, and what went wrong with it in the words of a check.
//!
//! Every read and write waits at most until the deadline, whatever pace the other side keeps, and the bytes
//! taken from one connection are bounded. Failures are sorted here, once, into [`Outcome`]s: what the candidate
//! did, what the network did and what this host lacked. Nothing here knows HTTP or TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::health::events::one_line;
use crate::health::{CheckResult, Outcome};

/// Longest error text of a result, in characters: it is a column of the state file and a word in a log line.
const MAX_ERROR: usize = 200;
/// Bytes taken from one connection at most: 64 KiB of body and of header, with room for framing, handshake
/// and for compressed bodies that are longer than what they hold.
const MAX_RECEIVED: usize = 1 << 20;

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class.
    pub outcome: Outcome,
    /// Whether nothing at all came back from the network.
    pub silent: bool,
    /// Short, without secrets.
    pub text: String,
}

impl Failure {
    /// A failure that proves a working path.
    pub fn heard(outcome: Outcome, text: impl Into<String>) -> Failure {
        Failure { outcome, silent: false, text: text.into() }
    }

    /// The time is up although a connection was open.
    pub fn late(limit: Duration, phase: &str) -> Failure {
        Failure::heard(Outcome::Timeout, format!("{phase} took longer than {}", shown(limit)))
    }

    /// What an error on an open connection means in `phase`; `otherwise` is the class of what the other side did.
    pub fn broken(error: &io::Error, limit: Limit, phase: &str, otherwise: Outcome) -> Failure {
        match error.kind() {
            _ if error.raw_os_error().is_some_and(is_shortage) => local("no memory left for a socket on this host"),
            ErrorKind::TimedOut => Failure::late(limit.timeout(), phase),
            ErrorKind::UnexpectedEof => Failure::heard(otherwise, format!("{phase} was cut short: connection closed")),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
                Failure::heard(otherwise, format!("{phase} was cut short: connection reset"))
            }
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                Failure::heard(Outcome::ConnectError, format!("{phase} was cut short: {}", io_text(error)))
            }
            ErrorKind::InvalidData => Failure::heard(otherwise, error.to_string()),
            _ => Failure::heard(Outcome::OtherError, format!("{phase} failed: {}", io_text(error))),
        }
    }

    /// The failure as a result; times and status are the caller's to add.
    pub fn into_result(self, total: Duration) -> CheckResult {
        CheckResult { silent: self.silent, error: Some(short(&self.text).into()), ..bare(self.outcome, total) }
    }
}

/// A text of somebody else's as it may be shown: one line, and not more than that says.
pub fn short(text: &str) -> String {
    let end = text.char_indices().nth(MAX_ERROR).map_or(text.len(), |(end, _)| end);
    one_line(&text[..end])
}

/// A result with nothing but its class and duration.
pub fn bare(outcome: Outcome, total: Duration) -> CheckResult {
    CheckResult {
        outcome,
        silent: false,
        status: None,
        connect: None,
        first_byte: None,
        total,
        error: None,
        priority: None,
        certificate_days: None,
    }
}

/// A duration as the configuration would say it: `250ms`, `2s`.
pub fn shown(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

/// When a check began and when it must have ended.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    start: Instant,
    timeout: Duration,
}

impl Limit {
    /// Begins now.
    pub fn new(timeout: Duration) -> Limit {
        Limit { start: Instant::now(), timeout }
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The whole time allowed.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What is left; `None` when nothing is (less than a system call can wait for counts as nothing).
    pub fn left(&self) -> Option<Duration> {
        self.timeout.checked_sub(self.elapsed()).filter(|left| *left >= Duration::from_millis(1))
    }
}

/// An open connection; see the file's header.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    limit: Limit,
    received: usize,
}

impl Connection {
    /// Opens a connection to `to`, from `source` if one of its family is stated.
    ///
    /// # Errors
    /// The failure, sorted.
    pub fn open(to: SocketAddr, source: Option<IpAddr>, limit: Limit) -> Result<Connection, Failure> {
        let source = source.filter(|source| source.is_ipv4() == to.is_ipv4());
        let failed = |error: &io::Error| refine(sort(error, limit, source), error, to, source);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).map_err(|e| failed(&e))?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into()).map_err(|e| failed(&e))?;
        }
        let left = limit.left().ok_or_else(|| silent_timeout(limit))?;
        socket.connect_timeout(&to.into(), left).map_err(|e| failed(&e))?;
        // A small request must not wait for an acknowledgement; failing costs only time.
        let _ = socket.set_tcp_nodelay(true);
        Ok(Connection { stream: socket.into(), limit, received: 0 })
    }

    /// Brings the deadline forward: at most this long from now.
    pub fn end_within(&mut self, within: Duration) {
        self.limit.timeout = self.limit.timeout.min(self.limit.elapsed() + within);
    }

    /// Writes what can be written at once: a farewell that must not cost time. The last use of a connection.
    pub fn write_without_waiting(&mut self, bytes: &[u8]) {
        if self.stream.set_nonblocking(true).is_ok() {
            let _ = self.stream.write(bytes);
        }
    }

    fn remaining(&self) -> io::Result<Duration> {
        self.limit.left().ok_or_else(|| ErrorKind::TimedOut.into())
    }
}

impl Read for Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.received >= MAX_RECEIVED {
            return Err(io::Error::new(ErrorKind::InvalidData, "the reply is longer than 1 MiB"));
        }
        loop {
            self.stream.set_read_timeout(Some(self.remaining()?))?;
            match self.stream.read(buf) {
                Ok(read) => {
                    self.received += read;
                    return Ok(read);
                }
                Err(error) if waited(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.set_write_timeout(Some(self.remaining()?))?;
            match self.stream.write(buf) {
                Err(error) if waited(&error) => {}
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// The socket's own time-out rounds to the kernel's tick: whether time is up is the deadline's to say.
fn waited(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn silent_timeout(limit: Limit) -> Failure {
    let text = format!("no answer to the connection attempt within {}", shown(limit.timeout));
    Failure { outcome: Outcome::Timeout, silent: true, text }
}

/// What an error of `socket`, `bind` or `connect` means.
fn sort(error: &io::Error, limit: Limit, source: Option<IpAddr>) -> Failure {
    if error.kind() == ErrorKind::TimedOut {
        return silent_timeout(limit);
    }
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let silent = |text: &str| Failure { outcome: Outcome::ConnectError, silent: true, text: text.into() };
    match errno {
        Errno::EMFILE | Errno::ENFILE => local("no file descriptor left on this host (raise LimitNOFILE)"),
        Errno::ENOMEM | Errno::ENOBUFS => local("no memory left for a socket on this host"),
        Errno::EADDRINUSE | Errno::EAGAIN => local("no local port left on this host"),
        Errno::ECONNREFUSED => Failure::heard(Outcome::ConnectError, "connection refused"),
        Errno::ECONNRESET | Errno::ECONNABORTED => {
            Failure::heard(Outcome::ConnectError, "connection reset while connecting")
        }
        Errno::ENETUNREACH | Errno::ENETDOWN => silent("network unreachable"),
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => silent("host unreachable"),
        Errno::EAFNOSUPPORT => silent("this host does not support the address family"),
        Errno::EACCES | Errno::EPERM => silent("connecting is not permitted on this host (a local firewall?)"),
        Errno::EADDRNOTAVAIL => match source {
            Some(source) => silent(&format!("source {source} is not an address of this host")),
            None => silent("no source address for this destination"),
        },
        _ => silent(&format!("cannot connect: {}", io_text(error))),
    }
}

fn is_shortage(code: i32) -> bool {
    matches!(Errno::from_raw(code), Errno::ENOMEM | Errno::ENOBUFS)
}

fn local(text: &str) -> Failure {
    Failure::heard(Outcome::LocalError, text)
}

// EADDRNOTAVAIL means either that no address of this host fits or that every local port towards the destination
// is taken. A datagram socket has ports of its own, so what works for it names the other cause.
fn refine(failure: Failure, error: &io::Error, to: SocketAddr, source: Option<IpAddr>) -> Failure {
    if error.raw_os_error() != Some(Errno::EADDRNOTAVAIL as i32) {
        return failure;
    }
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let probe = std::net::UdpSocket::bind((source.unwrap_or(any), 0)).and_then(|socket| socket.connect(to));
    if probe.is_ok() { local("no local port left on this host towards this address") } else { failure }
}

/// An I/O error in the system's words, without its number.
pub fn io_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_whose_fault_they_are() {
        for (errno, outcome, silent) in [
            (Errno::EMFILE, Outcome::LocalError, false),
            (Errno::ENFILE, Outcome::LocalError, false),
            (Errno::ENOMEM, Outcome::LocalError, false),
            (Errno::ENOBUFS, Outcome::LocalError, false),
            (Errno::EADDRINUSE, Outcome::LocalError, false),
            (Errno::ECONNREFUSED, Outcome::ConnectError, false),
            (Errno::ECONNRESET, Outcome::ConnectError, false),
            (Errno::ENETUNREACH, Outcome::ConnectError, true),
            (Errno::EHOSTUNREACH, Outcome::ConnectError, true),
            (Errno::EAFNOSUPPORT, Outcome::ConnectError, true),
            (Errno::EADDRNOTAVAIL, Outcome::ConnectError, true),
            (Errno::ETIMEDOUT, Outcome::Timeout, true),
        ] {
            let error = io::Error::from_raw_os_error(errno as i32);
            let failure = sort(&error, Limit::new(Duration::from_secs(1)), None);
            assert_eq!((failure.outcome, failure.silent), (outcome, silent), "{errno}");
        }
    }

    #[test]
    fn errors_on_an_open_connection_are_not_silent() {
        let limit = Limit::new(Duration::from_secs(1));
        for (errno, outcome) in [
            (Errno::ENOBUFS, Outcome::LocalError),
            (Errno::ETIMEDOUT, Outcome::Timeout),
            (Errno::ECONNRESET, Outcome::ResponseError),
            (Errno::EPIPE, Outcome::ResponseError),
            (Errno::EHOSTUNREACH, Outcome::ConnectError),
            (Errno::EIO, Outcome::OtherError),
        ] {
            let error = io::Error::from_raw_os_error(errno as i32);
            let failure = Failure::broken(&error, limit, "the reply", Outcome::ResponseError);
            assert_eq!((failure.outcome, failure.silent), (outcome, false), "{errno}");
        }
    }

    #[test]
    fn a_local_port_that_could_be_had_means_the_others_are_taken() {
        let error = io::Error::from_raw_os_error(Errno::EADDRNOTAVAIL as i32);
        let limit = Limit::new(Duration::from_secs(1));
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(refine(sort(&error, limit, None), &error, to, None).outcome, Outcome::LocalError);
        let foreign = Some(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(refine(sort(&error, limit, foreign), &error, to, foreign).outcome, Outcome::ConnectError);
    }

    #[test]
    fn long_texts_and_control_characters_are_cut() {
        let result =
            Failure::heard(Outcome::OtherError, format!("a\nb{}", "é".repeat(300))).into_result(Duration::ZERO);
        let text = result.error.unwrap();
        assert_eq!(text.chars().count(), MAX_ERROR);
        assert!(text.starts_with("a b"));
    }
}
