//! `redis` checks: PING answers and ROLE fits. Sentinels speak the same protocol and are asked here too.
//!
//! Replies are read by hand (RESP2, which every Redis speaks unless asked for more): five types, each with a
//! bound, on a connection that has the check's own deadline. A login comes first, since nothing else is answered
//! without it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::{RedisCheck, RedisLogin, RedisRole};
use crate::health::{CheckResult, Outcome};
use crate::poll::checks::Route;
use crate::poll::connect::{Failure, Limit};
use crate::poll::secure::{Stream, Times, read_password, sort, without_secret};
use crate::poll::trust::{SystemRoots, client_config};

/// Longest line and longest text of a reply: roles and addresses are far shorter.
const MAX_TEXT: usize = 16 << 10;
/// Most elements of an array: a master lists each of its replicas.
const MAX_ELEMENTS: usize = 4096;
/// Arrays within arrays: ROLE has two levels.
const MAX_DEPTH: usize = 4;
/// Taken from the connection at once.
const CHUNK: usize = 4 << 10;

/// A prepared `redis` check.
pub struct RedisRunner {
    port: u16,
    role: RedisRole,
    server_name: String,
    access: Access,
}

/// A login that is ready for use.
#[derive(Clone)]
pub struct Access {
    username: Option<String>,
    password: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Text(String),
    Error(String),
    Integer(i64),
    Array(Vec<Reply>),
    Nil,
}

impl Access {
    /// Reads the password and the certificates.
    ///
    /// # Errors
    /// What is wrong with a file, in a sentence.
    pub fn new(login: &RedisLogin, roots: &SystemRoots) -> Result<Access, String> {
        Ok(Access {
            username: login.username.clone(),
            password: login.password.as_ref().map(read_password).transpose()?,
            tls: login.tls.as_ref().map(|trust| client_config(trust, roots)).transpose()?,
        })
    }
}

impl RedisRunner {
    /// Reads the password and the certificates.
    ///
    /// # Errors
    /// What is wrong with a file, in a sentence.
    pub fn new(check: &RedisCheck, roots: &SystemRoots) -> Result<RedisRunner, String> {
        let access = Access::new(&check.login, roots)?;
        let server_name = check.server_name.clone().unwrap_or_default();
        Ok(RedisRunner { port: check.port, role: check.role, server_name, access })
    }

    /// Runs it.
    pub fn run(&self, route: Route, limit: Limit) -> CheckResult {
        let mut times = Times::default();
        let outcome = self.attempt(route, limit, &mut times);
        times.result(outcome, limit)
    }

    fn attempt(&self, route: Route, limit: Limit, times: &mut Times) -> Result<(), Failure> {
        let to = SocketAddr::new(route.to, self.port);
        let mut session = Session::open(to, route.source, &self.server_name, &self.access, limit, times)?;
        session.ping()?;
        session.expect_role(self.role)
    }
}

/// Asks a sentinel for the address and port of a master; `None` = it does not know that master.
///
/// # Errors
/// Why it did not say.
pub fn ask_sentinel(
    to: SocketAddr,
    server_name: &str,
    access: &Access,
    master: &str,
    limit: Limit,
) -> Result<Option<(String, u16)>, Failure> {
    const STEP: &str = "SENTINEL GET-MASTER-ADDR-BY-NAME";
    let mut times = Times::default();
    let mut session = Session::open(to, None, server_name, access, limit, &mut times)?;
    let reply = session.ask(STEP, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", master])?;
    match &reply {
        Reply::Nil => Ok(None),
        Reply::Array(parts) => match parts.as_slice() {
            [Reply::Text(host), Reply::Text(port)] => match port.parse() {
                Ok(port) => Ok(Some((host.to_ascii_lowercase(), port))),
                Err(_) => Err(response_error(STEP, "the port is no number")),
            },
            _ => Err(response_error(STEP, "the answer is no host and port")),
        },
        _ => Err(response_error(STEP, "the answer is no host and port (is this a sentinel?)")),
    }
}

/// Whether a server says of itself that it is a master.
///
/// # Errors
/// Why it is not, or did not say.
pub fn confirm_master(to: SocketAddr, server_name: &str, access: &Access, limit: Limit) -> Result<(), Failure> {
    Session::open(to, None, server_name, access, limit, &mut Times::default())?.expect_role(RedisRole::Master)
}

fn response_error(step: &str, text: &str) -> Failure {
    Failure::heard(Outcome::ResponseError, format!("{step}: {text}"))
}

/// A connection that is logged in.
struct Session<'a> {
    stream: Stream,
    limit: Limit,
    times: &'a mut Times,
    password: Option<&'a str>,
    buffer: Vec<u8>,
    read: usize,
}

impl<'a> Session<'a> {
    fn open(
        to: SocketAddr,
        source: Option<IpAddr>,
        server_name: &str,
        access: &'a Access,
        limit: Limit,
        times: &'a mut Times,
    ) -> Result<Session<'a>, Failure> {
        let mut stream = Stream::open(to, source, limit, times)?;
        if let Some(config) = &access.tls {
            stream = stream.secure(server_name, config, limit)?;
        }
        let password = access.password.as_deref();
        let mut session = Session { stream, limit, times, password, buffer: Vec::new(), read: 0 };
        if let Some(password) = password {
            match access.username.as_deref() {
                Some(user) => session.ask("login (AUTH)", &["AUTH", user, password])?,
                None => session.ask("login (AUTH)", &["AUTH", password])?,
            };
        }
        Ok(session)
    }

    fn ping(&mut self) -> Result<(), Failure> {
        match self.ask("PING", &["PING"])? {
            Reply::Text(text) if text == "PONG" => Ok(()),
            _ => Err(response_error("PING", "the answer is not PONG")),
        }
    }

    /// Whatever the role may be, it is not asked for: a user may lack the permission.
    fn expect_role(&mut self, wanted: RedisRole) -> Result<(), Failure> {
        let wanted = match wanted {
            RedisRole::Any => return Ok(()),
            RedisRole::Master => "master",
            RedisRole::Replica => "replica",
        };
        let reply = self.ask("ROLE", &["ROLE"])?;
        let word = match &reply {
            Reply::Array(parts) => match parts.first() {
                Some(Reply::Text(word)) => word.as_str(),
                _ => "",
            },
            _ => "",
        };
        let role = match word {
            "slave" => "replica",
            "master" | "sentinel" => word,
            _ => return Err(response_error("ROLE", "the answer names no role")),
        };
        if role == wanted { Ok(()) } else { Err(response_error("ROLE", &format!("is a {role}, a {wanted} is wanted"))) }
    }

    /// Sends a command and reads its reply; an error reply is a failure of the step.
    fn ask(&mut self, step: &str, words: &[&str]) -> Result<Reply, Failure> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend(format!("${}\r\n", word.len()).as_bytes());
            command.extend(word.as_bytes());
            command.extend(b"\r\n");
        }
        let sent = self.stream.write_all(&command).and_then(|()| self.stream.flush());
        sent.map_err(|error| sort(&error, self.limit, step, Outcome::ResponseError))?;
        match self.reply(step, 0)? {
            Reply::Error(text) => Err(response_error(step, &without_secret(&text, self.password))),
            reply => Ok(reply),
        }
    }

    fn reply(&mut self, step: &str, depth: usize) -> Result<Reply, Failure> {
        let garbled = |what: &str| response_error(step, &format!("{what} (is this a Redis?)"));
        let line = self.line(step)?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| garbled("an empty line"))?;
        let number = || rest.parse::<i64>().map_err(|_| garbled("a number that is none"));
        match kind {
            "+" => Ok(Reply::Text(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => Ok(Reply::Integer(number()?)),
            "$" => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Nil),
                Ok(length) if length > MAX_TEXT => Err(garbled("a text longer than 16 KiB")),
                Ok(length) => {
                    let bytes = self.take(length + 2, step)?;
                    let text = bytes.strip_suffix(b"\r\n").ok_or_else(|| garbled("a text without its end"))?;
                    Ok(Reply::Text(String::from_utf8_lossy(text).into_owned()))
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Nil),
                Ok(count) if count > MAX_ELEMENTS || depth >= MAX_DEPTH => Err(garbled("a reply of this size")),
                Ok(count) => {
                    (0..count).map(|_| self.reply(step, depth + 1)).collect::<Result<_, _>>().map(Reply::Array)
                }
            },
            _ => Err(garbled("not the protocol of Redis")),
        }
    }

    /// The next line without its end.
    fn line(&mut self, step: &str) -> Result<String, Failure> {
        let mut looked = 0;
        loop {
            let ahead = &self.buffer[self.read..];
            if let Some(at) = ahead[looked..].windows(2).position(|two| two == b"\r\n") {
                let end = looked + at;
                let line = String::from_utf8_lossy(&ahead[..end]).into_owned();
                self.read += end + 2;
                return Ok(line);
            }
            if ahead.len() > MAX_TEXT {
                return Err(response_error(step, "a line longer than 16 KiB (is this a Redis?)"));
            }
            looked = ahead.len().saturating_sub(1);
            self.fill(step)?;
        }
    }

    fn take(&mut self, length: usize, step: &str) -> Result<Vec<u8>, Failure> {
        while self.buffer.len() - self.read < length {
            self.fill(step)?;
        }
        let bytes = self.buffer[self.read..self.read + length].to_vec();
        self.read += length;
        Ok(bytes)
    }

    fn fill(&mut self, step: &str) -> Result<(), Failure> {
        self.buffer.drain(..self.read);
        self.read = 0;
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(response_error(step, "was cut short: connection closed")),
            Ok(length) => {
                self.times.first_byte.get_or_insert_with(|| self.limit.elapsed());
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Err(error) => Err(sort(&error, self.limit, step, Outcome::ResponseError)),
        }
    }
}
