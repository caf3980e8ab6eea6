//! `discover`: candidates that are found while har runs, and the checks they get.
//!
//! What a candidate needs besides its address is known from the file: a [`Template`] keeps the checks of the name and
//! makes a candidate of whatever is found, as if it had been listed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::check::{Definition, For};
use super::databases::read_login;
use super::table::{Item, Problems, Table};
use super::values;
use super::{Candidate, Check, CheckKind, Name, RedisLogin, Target, TcpCheck};
use crate::dns::HostName;
use crate::health::Host;
use crate::health::discovery::Found;

/// Port of a sentinel that is written without one.
const SENTINEL_PORT: u16 = 26379;
/// Sentinels at most: each is asked at the same time as the others.
const MAX_SENTINELS: usize = 15;

/// How candidates of a name are found.
#[derive(Clone, Debug, PartialEq)]
pub struct Discover {
    /// Where they are looked for.
    pub source: Source,
    /// How they are checked.
    pub template: Template,
    /// How many candidates of the name are listed; those behind them were found.
    pub listed: usize,
}

/// Where candidates are looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The master that the sentinels agree on.
    Sentinel(Sentinels),
    /// The targets of an SRV record.
    Srv(HostName),
}

/// Whom to ask for a master.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentinels {
    /// All of them: the majority is counted among these.
    pub sentinels: Vec<(Target, u16)>,
    /// The name they know the master by.
    pub master: String,
    /// How to log in to a sentinel.
    pub login: RedisLogin,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Srv(record) => write!(f, "SRV {record}"),
            Source::Sentinel(sentinels) => {
                let all: Vec<String> =
                    sentinels.sentinels.iter().map(|(host, port)| format!("{host}:{port}")).collect();
                write!(f, "master {:?} of the sentinels {}", sentinels.master, all.join(", "))
            }
        }
    }
}

/// The checks of a name, to be made for what is found.
#[derive(Clone)]
pub struct Template {
    name: String,
    checks: Arc<[Definition]>,
    timeouts: Vec<Duration>,
}

impl fmt::Debug for Template {
    // The definitions hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({}, {} checks)", self.name, self.checks.len())
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Template) -> bool {
        self.name == other.name && self.timeouts == other.timeouts && self.checks.len() == other.checks.len()
    }
}

impl Template {
    /// Keeps the checks of a name, each with its time limit.
    pub(super) fn new(name: &str, checks: Arc<[Definition]>, timeouts: Vec<Duration>) -> Template {
        Template { name: name.to_owned(), checks, timeouts }
    }

    /// The candidate made of what was found. A problem is noted when the checks do not fit it.
    pub(super) fn build(&self, found: &Found, problems: &mut Problems) -> Option<Candidate> {
        let host = match &found.host {
            Host::Address(address) => Target::Address(*address),
            Host::Name(name) => Target::Name(name.parse().ok()?),
        };
        let host_text = host.to_string();
        let of = For { name: &self.name, host: &host, host_text: &host_text, port: found.port };
        let checks: Option<Vec<Check>> = self
            .checks
            .iter()
            .zip(&self.timeouts)
            .map(|(check, timeout)| check.build(of, *timeout, problems))
            .collect();
        Some(Candidate { host, priority: found.priority, weight: found.weight, checks: Arc::new(checks?) })
    }

    /// Whether the checks can be made for what was found: some need its port.
    pub fn fits(&self, found: &Found) -> bool {
        self.build(found, &mut Problems::default()).is_some()
    }

    /// The port with which the checks of what was found read like these words; `None` = they do without one, or no
    /// port does it.
    pub fn port_in(&self, found: &Found, words: &str) -> Option<u16> {
        let reads = |port: Option<u16>| {
            let candidate = self.build(&Found { port, ..found.clone() }, &mut Problems::default());
            candidate.is_some_and(|candidate| {
                let checks: Vec<String> = candidate.checks.iter().map(Check::definition).collect();
                checks.join("; ") == words
            })
        };
        let numbers = words.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
        if reads(None) { None } else { numbers.filter(|port| *port > 0).find(|port| reads(Some(*port))) }
    }

    /// How the first Redis check logs in: a master that sentinels name is asked for its role like this.
    pub fn redis_login(&self) -> Option<RedisLogin> {
        let trial = Found { host: Host::Name("found.invalid".into()), port: Some(1), priority: 1, weight: 1 };
        let candidate = self.build(&trial, &mut Problems::default())?;
        candidate.checks.iter().find_map(|check| match &check.kind {
            CheckKind::Redis(redis) => Some(redis.login.clone()),
            _ => None,
        })
    }
}

impl Name {
    /// Puts what was found behind the listed candidates, in place of what was found before. What is listed too, or
    /// cannot be checked, is left out.
    pub fn take_found(&mut self, found: &[Found]) {
        let Some(discover) = &self.discover else { return };
        self.candidates.truncate(discover.listed);
        for found in found {
            if let Some(candidate) = discover.template.build(found, &mut Problems::default())
                && !self.candidates.iter().any(|other| other.host == candidate.host)
            {
                self.candidates.push(candidate);
            }
        }
    }
}

/// Reads `discover`.
pub(super) fn read(item: &Item<'_>, folder: &Path, problems: &mut Problems) -> Option<Source> {
    const TYPES: &str = r#""redis-sentinel", "srv""#;
    let mut table = Table::open(item, problems, "a table with a type")?;
    let Some(kind) = table.take("type") else {
        problems.error(item.spot, item.key, format!("type is missing; allowed: {TYPES}"));
        return None;
    };
    let source = match kind.value.as_str() {
        Some("srv") => read_srv(&mut table, problems),
        Some("redis-sentinel") => read_sentinels(&mut table, folder, problems),
        _ => {
            kind.wrong(problems, TYPES);
            return None;
        }
    };
    table.finish(problems);
    source
}

fn read_srv(table: &mut Table<'_>, problems: &mut Problems) -> Option<Source> {
    const ALLOWED: &str = "the name of an SRV record, such as \"_http._tcp.example.com\"";
    let Some(item) = table.take("record") else {
        problems.error(table.spot, table.key, format!("record is missing; allowed: {ALLOWED}"));
        return None;
    };
    let text = item.text(problems, ALLOWED)?.value;
    match text.parse::<HostName>() {
        Ok(name) if !name.is_wildcard() => Some(Source::Srv(name)),
        _ => {
            item.wrong(problems, ALLOWED);
            None
        }
    }
}

fn read_sentinels(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> Option<Source> {
    const ALLOWED: &str = "a list of 1 to 15 sentinels, such as [\"10.0.0.1:26379\"]";
    let login = read_login(table, folder, problems);
    let master = table.take("master");
    if master.is_none() {
        problems.error(table.spot, table.key, "master is missing; allowed: the name that the sentinels know it by");
    }
    let master = master.and_then(|item| {
        let text = item.text(problems, "the name that the sentinels know the master by")?.value;
        if text.is_empty() || text.contains(char::is_whitespace) {
            item.wrong(problems, "the name that the sentinels know the master by");
            return None;
        }
        Some(text.to_owned())
    });
    let Some(list) = table.take("sentinels") else {
        problems.error(table.spot, table.key, format!("sentinels is missing; allowed: {ALLOWED}"));
        return None;
    };
    let items = list.list(problems, ALLOWED)?;
    if items.is_empty() || items.len() > MAX_SENTINELS {
        problems.error(list.spot, list.key, format!("found {} sentinels; allowed: {ALLOWED}", items.len()));
        return None;
    }
    let mut sentinels: Vec<(Target, u16)> = Vec::new();
    for item in &items {
        let Some(text) = item.text(problems, "a host with its port") else { continue };
        match host_and_port(text.value) {
            Some(sentinel) if sentinels.contains(&sentinel) => {
                problems.error(item.spot, item.key, "this sentinel is listed twice: it would have two votes");
            }
            Some(sentinel) => sentinels.push(sentinel),
            None => item.wrong(problems, "a host with its port, such as \"10.0.0.1:26379\""),
        }
    }
    if sentinels.len() < items.len() {
        return None;
    }
    Some(Source::Sentinel(Sentinels { sentinels, master: master?, login }))
}

/// `host`, `host:port`, `[v6]:port` or `v6`.
fn host_and_port(text: &str) -> Option<(Target, u16)> {
    if let Ok(target) = values::target(text) {
        return Some((target, SENTINEL_PORT));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some((values::target(host).ok()?, port))
}

/// The port of a `tcp` check of one candidate: its own, or the one that discovery found.
pub(super) fn tcp_port(tcp: &TcpCheck, of: For<'_>) -> Result<u16, String> {
    let port = Some(tcp.port).filter(|port| *port > 0).or(of.port);
    port.ok_or_else(|| "port is missing; a check of type \"tcp\" needs one".to_owned())
}
