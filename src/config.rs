//! The configuration, complete and checked.
//!
//! [`load`] reads a file and its includes and returns either a [`Config`] in which every default is filled
//! in and every value was found possible, or a [`Report`] with everything that is wrong, at once.
//! `raw` walks over the files with the typed readers of `table`, `names` and `check` read the larger parts, `url`,
//! `values` and `include` know single texts, `files` opens and reads, `glimpse` reads what a broken file still shows, `report` words the problems, [`defaults`] holds the defaults.
//! Nothing here opens a socket or looks a name up.

mod check;
mod databases;
pub mod defaults;
mod discover;
mod exec;
mod files;
mod glimpse;
mod hosts;
mod include;
mod names;
mod raw;
pub mod report;
mod syntax;
mod table;
mod tls;
mod url;
pub mod values;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::dns::HostName;
use crate::health::{Pace, Policy, Thresholds};
pub use databases::{Password, PostgresCheck, PostgresRole, PostgresTls, RedisCheck, RedisLogin, RedisRole};
pub use discover::{Discover, Sentinels, Source, Template};
pub use exec::ExecCheck;
pub use files::{Unread, open_file};
pub use report::{Problem, Report};
use table::Purpose;
pub use tls::TlsCheck;

/// A complete configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from, absolute.
    pub path: PathBuf,
    /// `[server]`
    pub server: Server,
    /// `[upstream]`
    pub upstream: Upstream,
    /// `[names]`, in the order of the file, then of the included files.
    pub names: Vec<Name>,
    /// Every file that was read: the main one, then the included ones.
    pub sources: Vec<PathBuf>,
    /// What is allowed and still worth a line in the log.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Every file that a reload or a check reads again.
    pub fn files(&self) -> Vec<PathBuf> {
        let checks = self.names.iter().flat_map(|name| &name.candidates).flat_map(|candidate| &*candidate.checks);
        let mut files = self.sources.clone();
        let trusts = checks.filter_map(|check| match &check.kind {
            CheckKind::Http(http) => Some(&http.trust),
            CheckKind::Tls(tls) => Some(&tls.trust),
            _ => {
                let (trust, password) = check.database_files();
                files.extend(password.cloned());
                trust
            }
        });
        let mut trusts: Vec<&Trust> = trusts.collect();
        for discover in self.names.iter().filter_map(|name| name.discover.as_ref()) {
            let logins = match &discover.source {
                Source::Sentinel(sentinels) => [Some(sentinels.login.clone()), discover.template.redis_login()],
                Source::Srv(_) => [None, discover.template.redis_login()],
            };
            files.extend(logins.iter().flatten().filter_map(|login| login.files().1.cloned()));
            if let Source::Sentinel(sentinels) = &discover.source {
                trusts.extend(sentinels.login.tls.as_ref());
            }
        }
        for trust in trusts {
            files.extend(trust.ca_file.clone());
            files.extend(trust.client.iter().flat_map(|(chain, key)| [chain.clone(), key.clone()]));
        }
        files.sort_unstable();
        files.dedup();
        files
    }
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Loopback addresses, UDP and TCP on each.
    pub listen: Vec<SocketAddr>,
    /// Whether `listen` was stated (a missing ::1 is only tolerated when it was not).
    pub listen_stated: bool,
    /// The state file, absolute.
    pub state: PathBuf,
    /// Whom to become after binding, when started as root.
    pub user: Option<String>,
    /// TCP connections at most.
    pub tcp_connections: usize,
    /// Longest wait for a client's next byte.
    pub tcp_idle: Duration,
    /// Queries under way upstream at most.
    pub max_forwards: usize,
    /// How long single check results are kept; zero = none.
    pub history: Duration,
    /// Level of the log; `RUST_LOG` overrides.
    pub log: log::LevelFilter,
}

/// `[upstream]`
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Where the general servers come from.
    pub servers: Servers,
    /// Which server is asked first.
    pub order: Order,
    /// Within this a client gets an answer.
    pub timeout: Duration,
    /// Local address to ask from.
    pub source: Option<IpAddr>,
    /// Suffixes that go elsewhere, as written.
    pub routes: Vec<Route>,
}

/// A suffix and its servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// This name and all below it.
    pub suffix: HostName,
    /// Asked instead of the general servers, never empty.
    pub servers: Vec<SocketAddr>,
}

/// Where the general upstream servers come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Servers {
    /// `servers = [...]`
    Listed(Vec<SocketAddr>),
    /// `resolv_conf = "FILE"`
    File(PathBuf),
    /// `resolv_conf = "auto"`: the first of the usual files that lists a server other than har.
    Auto,
}

/// Which upstream server is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The lowest smoothed round trip.
    Fastest,
    /// As listed; the next only on no reply, SERVFAIL, REFUSED or a closed port.
    Listed,
}

/// `[names."…"]`, with `[defaults]` already applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The name or wildcard.
    pub name: HostName,
    /// Answer, or only watch.
    pub mode: Mode,
    /// How candidates are preferred. One value for all names with the same, as are the next two.
    pub policy: Arc<Policy>,
    /// When they go up and down.
    pub thresholds: Arc<Thresholds>,
    /// How often they are checked.
    pub pace: Arc<Pace>,
    /// In the order of the file, then what was found. Never empty without `discover`.
    pub candidates: Vec<Candidate>,
    /// How more candidates are found.
    pub discover: Option<Box<Discover>>,
    /// Used when `when_all_down = "fallback"`.
    pub fallback: Vec<Target>,
    /// TTL of the answers, seconds (0..=86400).
    pub ttl: u32,
    /// What types other than A and AAAA get.
    pub other_types: OtherTypes,
    /// At most this long between look-ups of candidate names.
    pub resolve_interval: Duration,
    /// How long addresses are kept when their name stops resolving.
    pub resolve_hold: Duration,
    /// TXT record with what is drained.
    pub drain_record: Option<HostName>,
}

/// Whether har answers a name or only watches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Answer it.
    Answer,
    /// Check, rank and record, but forward the query.
    Observe,
}

/// What types other than A and AAAA of a configured name get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherTypes {
    /// Asked upstream.
    Forward,
    /// As `Forward`, but HTTPS, SVCB and ANY are answered empty.
    NoHints,
    /// Answered empty.
    NoData,
}

/// One candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// A name to look up or an address.
    pub host: Target,
    /// Tier, lower first.
    pub priority: u32,
    /// Share in weighted policies (0..=100).
    pub weight: u32,
    /// Its own checks or the name's, placeholders other than `{address}` filled in. Never empty. One list for all
    /// candidates with the same checks: ten thousand names have fifty thousand of them.
    pub checks: Arc<Vec<Check>>,
}

/// A name to look up or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Looked up at the upstream.
    Name(HostName),
    /// A unicast address.
    Address(IpAddr),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Name(name) => name.fmt(f),
            Target::Address(address) => address.fmt(f),
        }
    }
}

/// One check of one candidate, ready to run against any of its addresses. Equal values are the same check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// What is done.
    pub kind: CheckKind,
    /// Its time limit, look-up excluded.
    pub timeout: Duration,
    /// Check this address instead of the candidate's own.
    pub address: Option<IpAddr>,
    /// Local address to check from.
    pub source: Option<IpAddr>,
}

/// The kinds of checks and their keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// `http` and `https`.
    Http(HttpCheck),
    /// `tcp`.
    Tcp(TcpCheck),
    /// `redis`.
    Redis(RedisCheck),
    /// `postgres`.
    Postgres(PostgresCheck),
    /// `tls`.
    Tls(TlsCheck),
    /// `exec`.
    Exec(ExecCheck),
    /// `none`: always up, latency unknown.
    None,
}

/// Keys of an `http` check. `{address}` may still be in the path, the header values and the `Host` header.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    /// `https` or `http`.
    pub tls: bool,
    /// Host of the URL: `Host` header, SNI and certificate name. An IPv6 literal is without brackets;
    /// the candidate's own address when the URL says `{address}`, then it is `None`.
    pub host: Option<String>,
    /// Port of the URL, or the scheme's.
    pub port: u16,
    /// Whether the port was stated in the URL (it then is in the `Host` header).
    pub port_stated: bool,
    /// Path and query, beginning with `/`; `{address}` is still in it.
    pub path: String,
    /// `user:password` of the URL, percent-decoded. A secret.
    pub userinfo: Option<String>,
    /// Request method, upper case.
    pub method: String,
    /// Codes that pass, as inclusive ranges. Never empty.
    pub status: Vec<(u16, u16)>,
    /// Pattern that the first 64 KiB of the body must match, known to compile.
    pub body: Option<String>,
    /// Extra headers. Secrets may be among them.
    pub headers: Vec<(String, String)>,
    /// `Host` header in place of the URL's.
    pub host_header: Option<String>,
    /// Follow redirects (to the same address).
    pub follow_redirects: bool,
    /// Trust store and client certificate; only used when `tls`.
    pub trust: Trust,
}

/// TLS keys shared by the checks that speak it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trust {
    /// Verify the certificate and its name.
    pub verify: bool,
    /// Authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Keys of a `tcp` check. `{address}` may still be in the text to send.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TcpCheck {
    /// Port to connect to.
    pub port: u16,
    /// Text sent after connecting.
    pub send: Option<String>,
    /// Pattern that the reply must match, known to compile.
    pub expect: Option<String>,
}

/// Reads and checks a configuration file and its includes.
///
/// # Errors
/// A [`Report`] of every problem found in any of the files, each with file, line, column and key.
pub fn load(path: &Path) -> Result<Config, Report> {
    raw::load(path, files::open_any, Purpose::Run)
}

/// Reads and checks it for somebody who looks at what a daemon does with it: files that only checks open, such as keys,
/// are the daemon's to read.
///
/// # Errors
/// As [`load`].
pub fn look(path: &Path) -> Result<Config, Report> {
    raw::load(path, files::open_any, Purpose::Look)
}

/// Reads and checks it again, for a daemon that runs: a pipe would be empty by now, or keep its reader waiting for ever.
///
/// # Errors
/// As [`load`]; and a main file that is no regular one.
pub fn load_again(path: &Path) -> Result<Config, Report> {
    raw::load(path, files::open_file, Purpose::Run)
}

/// Where a configuration says the state file is, whatever else is wrong with it; `None` when that cannot be told.
pub fn state_path(path: &Path) -> Option<PathBuf> {
    glimpse::state(path)
}
