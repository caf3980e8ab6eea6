//! `postgres` checks: a query answers, the server is what it is to be, and a replica is not too far behind.
//!
//! The messages and the logins (SCRAM-SHA-256, MD5, clear text, none) are those of `postgres-protocol`; the
//! connection, its deadline and the bounds are har's. Each check is one session: TLS where it is wanted, login,
//! one query, and a farewell, so that the server's log stays clean.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend;
use rustls::ClientConfig;

use crate::config::{PostgresCheck, PostgresRole, PostgresTls};
use crate::health::{CheckResult, Outcome};
use crate::poll::checks::Route;
use crate::poll::connect::{Failure, Limit, shown};
use crate::poll::secure::{Stream, Times, read_password, sort, without_secret};
use crate::poll::trust::{SystemRoots, client_config};

/// Longest message that is read: the answer is one short row, an error a few lines.
const MAX_MESSAGE: usize = 64 << 10;
/// Taken from the connection at once.
const CHUNK: usize = 4 << 10;
/// Rounds of key derivation that a server may ask for (PostgreSQL's own number is 4096): each costs this host
/// time that no deadline can take back.
const MAX_ITERATIONS: u32 = 100_000;

/// Whether the server is in recovery, and how many seconds its replay is behind: 0 when everything received is
/// replayed, since without new transactions the time of the last one says nothing; -1 when it is not known.
const QUERY: &str = "SELECT pg_is_in_recovery(), \
    CASE WHEN NOT pg_is_in_recovery() THEN 0 \
    WHEN pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn() THEN 0 \
    ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), -1) END";

/// A prepared `postgres` check.
pub struct PostgresRunner {
    check: PostgresCheck,
    password: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

impl PostgresRunner {
    /// Reads the password and the certificates.
    ///
    /// # Errors
    /// What is wrong with a file, in a sentence.
    pub fn new(check: &PostgresCheck, roots: &SystemRoots) -> Result<PostgresRunner, String> {
        let password = check.password.as_ref().map(read_password).transpose()?;
        let tls = match check.tls {
            PostgresTls::Disable => None,
            _ => Some(client_config(&check.trust, roots)?),
        };
        Ok(PostgresRunner { check: check.clone(), password, tls })
    }

    /// Runs it.
    pub fn run(&self, route: Route, limit: Limit) -> CheckResult {
        let mut times = Times::default();
        let outcome = self.attempt(route, limit, &mut times);
        times.result(outcome, limit)
    }

    fn attempt(&self, route: Route, limit: Limit, times: &mut Times) -> Result<(), Failure> {
        let stream = Stream::open(SocketAddr::new(route.to, self.check.port), route.source, limit, times)?;
        let stream = self.secure(stream, limit)?;
        let (buffer, password) = (BytesMut::new(), self.password.as_deref());
        let mut session = Session { stream, limit, times, buffer, password, logged_in: false };
        let outcome = self.converse(&mut session);
        let mut farewell = BytesMut::new();
        // In the middle of a login the message would be an error in the server's log, and silence is none.
        if session.logged_in {
            frontend::terminate(&mut farewell);
        }
        session.stream.farewell(&farewell);
        outcome
    }

    /// TLS as it is wanted and offered.
    fn secure(&self, mut stream: Stream, limit: Limit) -> Result<Stream, Failure> {
        const STEP: &str = "asking for TLS";
        let Some(config) = &self.tls else { return Ok(stream) };
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        let mut answer = [0];
        let asked = stream.write_all(&request).and_then(|()| stream.read_exact(&mut answer));
        asked.map_err(|error| sort(&error, limit, STEP, Outcome::ResponseError))?;
        match answer {
            [b'S'] => stream.secure(self.check.server_name.as_deref().unwrap_or_default(), config, limit),
            [b'N'] if self.check.tls == PostgresTls::Prefer => Ok(stream),
            [b'N'] => {
                Err(Failure::heard(Outcome::TlsError, "the server offers no TLS, and tls asks for it".to_owned()))
            }
            _ => Err(refused(STEP, "the answer is none of PostgreSQL")),
        }
    }

    fn converse(&self, session: &mut Session<'_>) -> Result<(), Failure> {
        const LOGIN: &str = "login";
        let parameters = [
            ("user", self.check.user.as_str()),
            ("database", &self.check.dbname),
            ("application_name", "har"),
            ("client_encoding", "UTF8"),
        ];
        session.send(LOGIN, |buffer| frontend::startup_message(parameters, buffer))?;
        self.log_in(session, LOGIN)?;
        session.logged_in = true;
        session.until_ready(LOGIN)?;
        const ASK: &str = "the query";
        session.send(ASK, |buffer| frontend::query(QUERY, buffer))?;
        let row = session.until_ready(ASK)?.ok_or_else(|| refused(ASK, "there is no row"))?;
        self.judge(&row)
    }

    fn log_in(&self, session: &mut Session<'_>, step: &str) -> Result<(), Failure> {
        let password = || {
            let missing = "the server wants a password, and none is configured";
            self.password.as_deref().map(str::as_bytes).ok_or_else(|| refused(step, missing))
        };
        match session.receive(step)? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => {
                let password = password()?;
                session.send(step, |buffer| frontend::password_message(password, buffer))?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(self.check.user.as_bytes(), password()?, body.salt());
                session.send(step, |buffer| frontend::password_message(hash.as_bytes(), buffer))?;
            }
            Message::AuthenticationSasl(body) => {
                let offered: Vec<String> =
                    body.mechanisms().map(|name| Ok(name.to_owned())).collect().unwrap_or_default();
                if !offered.iter().any(|name| name == SCRAM_SHA_256) {
                    return Err(refused(
                        step,
                        &format!("the server offers {}, not {SCRAM_SHA_256}", offered.join(", ")),
                    ));
                }
                scram(session, step, password()?)?;
            }
            _ => return Err(refused(step, "the server wants a kind of login that checks cannot do")),
        }
        match session.receive(step)? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(refused(step, "an answer out of turn")),
        }
    }

    fn judge(&self, row: &DataRowBody) -> Result<(), Failure> {
        const STEP: &str = "the query";
        let ranges: Vec<_> = row.ranges().collect().map_err(|_| refused(STEP, "the row cannot be read"))?;
        let text = |column: usize| {
            let range = ranges.get(column)?.clone()?;
            std::str::from_utf8(row.buffer().get(range)?).ok()
        };
        let in_recovery = match text(0) {
            Some("t") => true,
            Some("f") => false,
            _ => return Err(refused(STEP, "the row does not say whether the server is in recovery")),
        };
        match (self.check.role, in_recovery) {
            (PostgresRole::Primary, true) => return Err(refused("role", "is a replica, a primary is wanted")),
            (PostgresRole::Replica, false) => return Err(refused("role", "is a primary, a replica is wanted")),
            _ => {}
        }
        let (Some(most), true) = (self.check.max_lag, in_recovery) else { return Ok(()) };
        match text(1).and_then(|text| text.parse::<f64>().ok()).filter(|lag| lag.is_finite()) {
            Some(lag) if lag < 0.0 => Err(refused("replay lag", "not known yet: nothing was replayed since the start")),
            Some(lag) if lag > most.as_secs_f64() => {
                // Whole milliseconds, far below what could overflow.
                let lag = shown(Duration::from_millis((lag.min(1e9) * 1000.0) as u64));
                Err(refused("replay lag", &format!("{lag}, at most {} is wanted", shown(most))))
            }
            Some(_) => Ok(()),
            None => Err(refused(STEP, "the row does not say how far replay is behind")),
        }
    }
}

fn refused(step: &str, text: &str) -> Failure {
    Failure::heard(Outcome::ResponseError, format!("{step}: {text}"))
}

/// SCRAM-SHA-256 (RFC 7677) without channel binding: the server proves that it knows the password too.
fn scram(session: &mut Session<'_>, step: &str, password: &[u8]) -> Result<(), Failure> {
    let broken = |_| refused(step, "the server's part of SCRAM does not hold");
    let out_of_turn = || refused(step, "an answer out of turn");
    let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
    session.send(step, |buffer| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), buffer))?;
    let Message::AuthenticationSaslContinue(body) = session.receive(step)? else { return Err(out_of_turn()) };
    let rounds = iterations(body.data()).filter(|rounds| *rounds <= MAX_ITERATIONS);
    if rounds.is_none() {
        return Err(refused(step, "the server asks for more than 100000 rounds of SCRAM"));
    }
    scram.update(body.data()).map_err(broken)?;
    session.send(step, |buffer| frontend::sasl_response(scram.message(), buffer))?;
    let Message::AuthenticationSaslFinal(body) = session.receive(step)? else { return Err(out_of_turn()) };
    scram.finish(body.data()).map_err(broken)
}

/// The number of rounds in a server's first SCRAM message, `r=NONCE,s=SALT,i=ROUNDS`.
fn iterations(message: &[u8]) -> Option<u32> {
    std::str::from_utf8(message).ok()?.split(',').find_map(|part| part.strip_prefix("i="))?.parse().ok()
}

/// A connection on which messages are exchanged.
struct Session<'a> {
    stream: Stream,
    limit: Limit,
    times: &'a mut Times,
    buffer: BytesMut,
    password: Option<&'a str>,
    logged_in: bool,
}

impl Session<'_> {
    fn send(&mut self, step: &str, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<(), Failure> {
        let mut message = BytesMut::new();
        write(&mut message).map_err(|_| refused(step, "a name or a password cannot be put into a message"))?;
        let sent = self.stream.write_all(&message).and_then(|()| self.stream.flush());
        sent.map_err(|error| sort(&error, self.limit, step, Outcome::ResponseError))
    }

    /// Reads up to the server's readiness; the first row on the way.
    fn until_ready(&mut self, step: &str) -> Result<Option<DataRowBody>, Failure> {
        let mut first = None;
        loop {
            match self.receive(step)? {
                Message::ReadyForQuery(_) => return Ok(first),
                Message::DataRow(row) if first.is_none() => first = Some(row),
                _ => {}
            }
        }
    }

    /// The next message; notices are passed over, an error is a failure.
    fn receive(&mut self, step: &str) -> Result<Message, Failure> {
        loop {
            let garbled = |_| refused(step, "the answer is none of PostgreSQL");
            // The length is looked at before anything is reserved for it.
            let header = Header::parse(&self.buffer).map_err(garbled)?;
            let length = header.map(|header| usize::try_from(header.len()).unwrap_or(usize::MAX));
            if length.is_some_and(|length| length > MAX_MESSAGE) {
                return Err(refused(step, "a message longer than 64 KiB (is this a PostgreSQL?)"));
            }
            match Message::parse(&mut self.buffer).map_err(garbled)? {
                Some(Message::ErrorResponse(body)) => return Err(self.said(step, &body)),
                Some(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                Some(message) => return Ok(message),
                None => self.fill(step)?,
            }
        }
    }

    fn fill(&mut self, step: &str) -> Result<(), Failure> {
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(refused(step, "was cut short: connection closed")),
            Ok(length) => {
                self.times.first_byte.get_or_insert_with(|| self.limit.elapsed());
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Err(error) => Err(sort(&error, self.limit, step, Outcome::ResponseError)),
        }
    }

    /// An error of the server: its sentence and its code.
    fn said(&self, step: &str, body: &ErrorResponseBody) -> Failure {
        let (mut sentence, mut code) = (String::new(), String::new());
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'M' => sentence = text(),
                b'C' => code = text(),
                _ => {}
            }
        }
        let text = format!("{} ({code})", without_secret(&sentence, self.password));
        refused(step, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_scram_are_read() {
        assert_eq!(iterations(b"r=abc,s=c2FsdA==,i=4096"), Some(4096));
        for bad in [&b"r=abc,s=c2FsdA=="[..], b"i=99999999999", b"", b"\xff"] {
            assert_eq!(iterations(bad), None);
        }
    }
}
