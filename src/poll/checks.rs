//! One check of one address, from a configured [`Check`] to a [`CheckResult`].
//!
//! A [`Runner`] is made once for a check and used from any thread: patterns are compiled, certificates read.
//! Running blocks until the result is there, at most for the check's time-out and a scheduler's grace, whatever
//! the other side does. Each run uses a fresh connection to exactly the address it was given; nothing is
//! looked up. Nothing of a URL's userinfo and query nor of the headers is in a result.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Check, CheckKind};
use crate::health::{CheckResult, Outcome};
use crate::poll::connect::{Failure, Limit, bare};
use crate::poll::exec::ExecRunner;
use crate::poll::http::HttpRunner;
use crate::poll::postgres::PostgresRunner;
use crate::poll::redis::RedisRunner;
use crate::poll::tcp::TcpRunner;
use crate::poll::tls::TlsRunner;
use crate::poll::trust::SystemRoots;

/// A check that is ready to run.
pub struct Runner {
    kind: Kind,
    timeout: Duration,
    target: Target,
}

enum Kind {
    Http(Box<HttpRunner>),
    Tcp(TcpRunner),
    Redis(Box<RedisRunner>),
    Postgres(Box<PostgresRunner>),
    Tls(TlsRunner),
    Exec(ExecRunner),
    /// `none`: nothing is done and all is well.
    None,
    /// What it needs could not be had; the text says why.
    Unprepared(String),
}

/// Where a check connects to, the candidate's address aside.
#[derive(Clone, Copy, Debug)]
struct Target {
    /// A management address in the candidate's place.
    address: Option<IpAddr>,
    source: Option<IpAddr>,
}

/// The addresses of one run.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The candidate's address: what `{address}` stands for.
    pub candidate: IpAddr,
    /// Connected to.
    pub to: IpAddr,
    /// Local address to connect from.
    pub source: Option<IpAddr>,
}

/// What a check needs and could not be had (a certificate file, mostly): a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unprepared(pub String);

impl fmt::Display for Unprepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unprepared {}

impl Runner {
    /// Prepares a check.
    ///
    /// # Errors
    /// An unreadable or useless certificate, key or authority file, or an empty system trust store.
    pub fn new(check: &Check, roots: &SystemRoots) -> Result<Runner, Unprepared> {
        let kind = match &check.kind {
            CheckKind::Http(http) => Kind::Http(Box::new(HttpRunner::new(http, roots).map_err(Unprepared)?)),
            CheckKind::Tcp(tcp) => Kind::Tcp(TcpRunner::new(tcp).map_err(Unprepared)?),
            CheckKind::Redis(redis) => Kind::Redis(Box::new(RedisRunner::new(redis, roots).map_err(Unprepared)?)),
            CheckKind::Postgres(postgres) => {
                Kind::Postgres(Box::new(PostgresRunner::new(postgres, roots).map_err(Unprepared)?))
            }
            CheckKind::Tls(tls) => Kind::Tls(TlsRunner::new(tls, roots).map_err(Unprepared)?),
            CheckKind::Exec(exec) => Kind::Exec(ExecRunner::new(exec).map_err(Unprepared)?),
            CheckKind::None => Kind::None,
        };
        let target = Target { address: check.address, source: check.source };
        Ok(Runner { kind, timeout: check.timeout, target })
    }

    /// Stands in for a check that could not be prepared: each run is a `local_error` with the reason, which
    /// says nothing about the candidate and changes no state.
    pub fn unprepared(why: Unprepared) -> Runner {
        let target = Target { address: None, source: None };
        Runner { kind: Kind::Unprepared(why.0), timeout: Duration::ZERO, target }
    }

    /// Fewer days than this until its certificate expires are worth a warning; `None` when it looks at none.
    pub fn min_days_left(&self) -> Option<u32> {
        match &self.kind {
            Kind::Tls(tls) => Some(tls.min_days_left()),
            _ => None,
        }
    }

    /// Runs the check against one address of a candidate.
    pub fn run(&self, candidate: IpAddr) -> CheckResult {
        let limit = Limit::new(self.timeout);
        let to = self.target.address.unwrap_or(candidate);
        let route = Route { candidate, to, source: self.target.source };
        match &self.kind {
            Kind::Http(http) => http.run(route, limit),
            Kind::Tcp(tcp) => tcp.run(route, limit),
            Kind::Redis(redis) => redis.run(route, limit),
            Kind::Postgres(postgres) => postgres.run(route, limit),
            Kind::Tls(tls) => tls.run(route, limit),
            Kind::Exec(exec) => exec.run(route, limit),
            Kind::None => bare(Outcome::Ok, Duration::ZERO),
            Kind::Unprepared(why) => Failure::heard(Outcome::LocalError, why.as_str()).into_result(Duration::ZERO),
        }
    }
}

impl fmt::Debug for Runner {
    // The definition holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runner")
    }
}

#[cfg(test)]
mod tests;
