//! Looks for candidates: the targets of an SRV record, or the master that sentinels agree on.
//!
//! A [`Finder`] is made with the configuration and used on a worker; it blocks, within bounds. All sentinels are
//! asked at the same time, so that one that hangs costs no other its answer. Their master counts when more than half
//! of all the listed ones name it and it calls itself a master: an old master with a sentinel of its own is neither.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::checks::{Runner, Unprepared};
use super::connect::{Limit, short};
use super::lookup::{self, Options, Upstreams};
use super::redis::{Access, ask_sentinel, confirm_master};
use super::trust::SystemRoots;
use crate::config::{Candidate, Check, Name, Sentinels, Source, Target};
use crate::dns::HostName;
use crate::health::Host;
use crate::health::discovery::{Answer, Found, Search};

/// The sentinels together, and then the master, get as long at most: a check's usual time.
const MOST_PATIENCE: Duration = Duration::from_secs(2);
/// Largest weight of a candidate; those of SRV records go to 65535.
const MOST_WEIGHT: u32 = 100;

/// Finds the candidates of one name.
#[derive(Clone)]
pub struct Finder {
    /// When.
    pub search: Search,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Srv(HostName),
    Sentinels(Arc<Council>),
    /// What it needs could not be had.
    Unprepared(String),
}

/// The sentinels and how to log in to them and to the master.
struct Council {
    of: Sentinels,
    sentinel: Access,
    master: Access,
    patience: Duration,
}

/// A name's candidates, ready to be taken over.
pub struct Refit {
    /// The configured name with what was found.
    pub name: Name,
    /// For its checks.
    pub runners: HashMap<Check, Result<Runner, Unprepared>>,
    /// The configuration it was made for.
    pub generation: u64,
    /// Of several for one name the last one counts.
    pub serial: u64,
}

impl Refit {
    /// The name with these candidates. Reads what their checks need.
    pub fn new(mut name: Name, found: &[Found], generation: u64, serial: u64) -> Refit {
        name.take_found(found);
        let roots = SystemRoots::new();
        let checks = name.candidates.iter().flat_map(|candidate: &Candidate| &*candidate.checks);
        let runners = checks.map(|check| (check.clone(), Runner::new(check, &roots))).collect();
        Refit { name, runners, generation, serial }
    }
}

impl Finder {
    /// The finder of a name, if its candidates are to be found. Reads password and certificates.
    pub fn new(name: &Name, roots: &SystemRoots) -> Option<Finder> {
        let discover = name.discover.as_ref()?;
        let at_once = matches!(discover.source, Source::Sentinel(_));
        let search = Search {
            name: name.name.to_string().into(),
            source: discover.source.to_string().into(),
            interval: if at_once { name.pace.interval } else { name.resolve_interval.max(Duration::from_secs(1)) },
            retry: if at_once { name.pace.fast_interval } else { name.resolve_interval.min(Duration::from_secs(5)) },
            at_once,
            hold: name.resolve_hold,
        };
        let kind = match &discover.source {
            Source::Srv(record) => Kind::Srv(record.clone()),
            Source::Sentinel(of) => {
                let master = discover.template.redis_login().unwrap_or_else(|| of.login.clone());
                let accesses = Access::new(&of.login, roots).and_then(|own| Ok((own, Access::new(&master, roots)?)));
                let patience = (name.pace.interval / 2).clamp(Duration::from_millis(100), MOST_PATIENCE);
                match accesses {
                    Ok((sentinel, master)) => {
                        Kind::Sentinels(Arc::new(Council { of: of.clone(), sentinel, master, patience }))
                    }
                    Err(why) => Kind::Unprepared(why),
                }
            }
        };
        Some(Finder { search, kind })
    }

    /// Looks. Tells whether an upstream beyond loopback was heard.
    pub fn find(&self, upstreams: &Upstreams<'_>, options: &Options) -> (Result<Answer, String>, bool) {
        match &self.kind {
            Kind::Unprepared(why) => (Err(why.clone()), false),
            Kind::Sentinels(council) => (council.find(upstreams, options), false),
            Kind::Srv(record) => {
                let found = lookup::lookup_services(record, upstreams, options);
                let answer = found.records.map_err(|failure| failure.to_string()).and_then(|found| {
                    let targets = targets(&found.values);
                    if targets.is_empty() {
                        return Err("the record has no target".to_owned());
                    }
                    Ok(Answer { found: targets, ttl: found.ttl.map(|ttl| ttl.max(Duration::from_secs(1))) })
                });
                (answer, found.heard_beyond_loopback)
            }
        }
    }
}

/// The candidates of an SRV record (RFC 2782): weights are scaled to those of candidates; where all are 0, all are
/// equal. A root target means that the service is not there.
fn targets(records: &[lookup::Service]) -> Vec<Found> {
    let mut records: Vec<&lookup::Service> = records.iter().collect();
    records.sort_by(|a, b| (a.priority, b.weight, &a.target, a.port).cmp(&(b.priority, a.weight, &b.target, b.port)));
    let most = records.iter().map(|record| u32::from(record.weight)).max().unwrap_or(0);
    let weight = |weight: u16| match u32::from(weight) {
        _ if most == 0 => 1,
        weight if most <= MOST_WEIGHT => weight,
        weight => (weight * MOST_WEIGHT).div_ceil(most),
    };
    let found = records.iter().map(|record| Found {
        host: Host::Name(record.target.to_string().into()),
        port: Some(record.port).filter(|port| *port > 0),
        priority: record.priority.into(),
        weight: weight(record.weight),
    });
    found.collect()
}

impl Council {
    fn find(&self, upstreams: &Upstreams<'_>, options: &Options) -> Result<Answer, String> {
        let limit = Limit::new(self.patience);
        let votes: Vec<Result<Option<(String, u16)>, String>> = std::thread::scope(|scope| {
            let ask = |(host, port): &(Target, u16)| {
                let (host, port) = (host.clone(), *port);
                std::thread::Builder::new().name("sentinel".to_owned()).spawn_scoped(scope, move || {
                    let address = resolve(&host, upstreams, options)?;
                    let (to, name) = (SocketAddr::new(address, port), host.to_string());
                    ask_sentinel(to, &name, &self.sentinel, &self.of.master, limit)
                        .map_err(|failure| short(&failure.text))
                })
            };
            let threads: Vec<_> = self.of.sentinels.iter().map(ask).collect();
            let vote = |thread: std::io::Result<std::thread::ScopedJoinHandle<'_, _>>| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| Err("it could not be asked".to_owned())),
                Err(error) => Err(format!("no thread to ask it: {error}")),
            };
            threads.into_iter().map(vote).collect()
        });
        let (host, port) = majority(&self.of.sentinels, &votes)?;
        let target: Target = match host.parse::<IpAddr>() {
            Ok(address) => Target::Address(address),
            Err(_) => Target::Name(
                host.parse().map_err(|_| format!("the sentinels name {:?}, which is no host", short(&host)))?,
            ),
        };
        let address = resolve(&target, upstreams, options)?;
        confirm_master(SocketAddr::new(address, port), &host, &self.master, Limit::new(self.patience)).map_err(
            |failure| format!("{host}:{port} is named by the sentinels, but not confirmed: {}", short(&failure.text)),
        )?;
        let host = match target {
            Target::Address(address) => Host::Address(address),
            Target::Name(name) => Host::Name(name.to_string().into()),
        };
        Ok(Answer { found: vec![Found { host, port: Some(port), priority: 1, weight: 1 }], ttl: None })
    }
}

/// What more than half of all sentinels say; else who said what.
fn majority(
    sentinels: &[(Target, u16)],
    votes: &[Result<Option<(String, u16)>, String>],
) -> Result<(String, u16), String> {
    let mut count: HashMap<&(String, u16), usize> = HashMap::new();
    for vote in votes.iter().filter_map(|vote| vote.as_ref().ok()?.as_ref()) {
        *count.entry(vote).or_default() += 1;
    }
    let winner = count.iter().find(|(_, votes)| **votes * 2 > sentinels.len());
    if let Some((master, _)) = winner {
        return Ok((*master).clone());
    }
    let said: Vec<String> = sentinels
        .iter()
        .zip(votes)
        .map(|((host, port), vote)| match vote {
            Ok(Some((master, at))) => format!("{host}:{port} names {}:{at}", short(master)),
            Ok(None) => format!("{host}:{port} does not know the master"),
            Err(why) => format!("{host}:{port}: {why}"),
        })
        .collect();
    Err(format!("no majority of the {} sentinels ({})", sentinels.len(), said.join("; ")))
}

/// The first address of a host, looked up at the upstream where it is a name.
fn resolve(host: &Target, upstreams: &Upstreams<'_>, options: &Options) -> Result<IpAddr, String> {
    let name = match host {
        Target::Address(address) => return Ok(*address),
        Target::Name(name) => name,
    };
    let found = lookup::lookup(name, upstreams, options);
    let v4 = found.v4.iter().flat_map(|found| &found.values).map(|v4| IpAddr::from(*v4));
    let v6 = found.v6.iter().flat_map(|found| &found.values).map(|v6| IpAddr::from(*v6));
    v4.chain(v6).next().ok_or_else(|| format!("{name} has no address that can be found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(host: &str) -> Result<Option<(String, u16)>, String> {
        Ok(Some((host.to_owned(), 6379)))
    }

    #[test]
    fn a_majority_is_one_of_all_sentinels() {
        let all: Vec<(Target, u16)> = (1..=3).map(|n| (Target::Address([10, 0, 0, n].into()), 26379)).collect();
        let silent = || Err("connection refused".to_owned());
        for (votes, master) in [
            ([vote("a"), vote("a"), vote("b")], Some("a")),
            ([vote("a"), vote("a"), silent()], Some("a")),
            ([vote("a"), silent(), silent()], None),
            ([vote("a"), vote("b"), Ok(None)], None),
        ] {
            assert_eq!(majority(&all, &votes).ok().map(|(host, _)| host).as_deref(), master, "{votes:?}");
        }
        let said = majority(&all, &[vote("a"), Ok(None), silent()]).unwrap_err();
        assert!(said.contains("10.0.0.3:26379: connection refused") && said.contains("10.0.0.1:26379 names a:6379"));
        let long = format!("a\u{1b}[31m{}", "x".repeat(20_000));
        let said = majority(&all, &[vote(&long), Ok(None), silent()]).unwrap_err();
        assert!(said.len() < 500 && said.contains("names a [31mxxx"), "{said}");
    }

    #[test]
    fn weights_of_records_become_those_of_candidates() {
        let service = |target: &str, priority, weight| lookup::Service {
            target: target.parse().unwrap(),
            port: 80,
            priority,
            weight,
        };
        let weights = |records: &[lookup::Service]| {
            targets(records).into_iter().map(|found| (found.host.to_string(), found.weight)).collect::<Vec<_>>()
        };
        let pair = |a: u32, b: u32| vec![("a".to_owned(), a), ("b".to_owned(), b)];
        assert_eq!(weights(&[service("b", 1, 0), service("a", 1, 0)]), pair(1, 1));
        assert_eq!(weights(&[service("a", 1, 60), service("b", 1, 40)]), pair(60, 40));
        assert_eq!(weights(&[service("a", 0, 1), service("b", 1, 65_535)]), pair(1, 100));
        assert_eq!(weights(&[service("a", 0, 500), service("b", 1, 0)]), pair(100, 0));
    }
}
