//! `tcp` checks: the connection opens, and the reply matches if one is expected.
//!
//! A reply is read until the pattern matches it, the candidate closes, 64 KiB are there or the time is up.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use regex::bytes::Regex;

use crate::config::TcpCheck;
use crate::health::{CheckResult, Outcome};
use crate::poll::checks::Route;
use crate::poll::connect::{Connection, Failure, Limit, bare, shown};

/// As much of a reply is held against the pattern.
const MAX_REPLY: usize = 64 << 10;
/// Taken from the connection at once.
const CHUNK: usize = 4 << 10;

/// A prepared `tcp` check.
pub struct TcpRunner {
    port: u16,
    send: Option<String>,
    expect: Option<Regex>,
}

#[derive(Default)]
struct Times {
    connect: Option<Duration>,
    first_byte: Option<Duration>,
}

impl TcpRunner {
    /// Compiles the pattern.
    ///
    /// # Errors
    /// A pattern that does not compile, in a sentence.
    pub fn new(check: &TcpCheck) -> Result<TcpRunner, String> {
        let expect = check.expect.as_deref().map(compile).transpose()?;
        Ok(TcpRunner { port: check.port, send: check.send.clone(), expect })
    }

    /// Runs it.
    pub fn run(&self, route: Route, limit: Limit) -> CheckResult {
        let mut times = Times::default();
        let outcome = self.attempt(route, limit, &mut times);
        let total = limit.elapsed();
        let result = match outcome {
            Ok(()) => bare(Outcome::Ok, total),
            Err(failure) => failure.into_result(total),
        };
        CheckResult { connect: times.connect, first_byte: times.first_byte, ..result }
    }

    fn attempt(&self, route: Route, limit: Limit, times: &mut Times) -> Result<(), Failure> {
        let mut connection = Connection::open(SocketAddr::new(route.to, self.port), route.source, limit)?;
        times.connect = Some(limit.elapsed());
        if let Some(text) = &self.send {
            let text = text.replace("{address}", &route.candidate.to_string());
            connection
                .write_all(text.as_bytes())
                .map_err(|error| Failure::broken(&error, limit, "sending", Outcome::ResponseError))?;
        }
        let Some(expect) = &self.expect else { return Ok(()) };
        let mut reply = Vec::new();
        let mut chunk = [0; CHUNK];
        loop {
            let room = CHUNK.min(MAX_REPLY - reply.len());
            let read = match connection.read(&mut chunk[..room]) {
                Ok(read) => read,
                // Whatever came before the reset was not enough: it would have ended the loop.
                Err(error) => {
                    let failure = Failure::broken(&error, limit, "the reply", Outcome::ResponseError);
                    return Err(unmatched(failure, expect, reply.len(), limit));
                }
            };
            if read > 0 {
                times.first_byte.get_or_insert_with(|| limit.elapsed());
            }
            reply.extend_from_slice(&chunk[..read]);
            if expect.is_match(&reply) {
                return Ok(());
            }
            if read == 0 || reply.len() >= MAX_REPLY {
                let text = format!("the reply ({} bytes) does not match {:?}", reply.len(), expect.as_str());
                return Err(Failure::heard(Outcome::ResponseError, text));
            }
        }
    }
}

// A reply that came and is not the one waited for says more than "late".
fn unmatched(failure: Failure, expect: &Regex, received: usize, limit: Limit) -> Failure {
    if failure.outcome != Outcome::Timeout || received == 0 {
        return failure;
    }
    let text = format!("{received} bytes within {} did not match {:?}", shown(limit.timeout()), expect.as_str());
    Failure { text, ..failure }
}

/// A pattern over bytes: replies need not be UTF-8.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|_| format!("{pattern:?} is not a regular expression"))
}
