//! `har probe`: looks every candidate up and runs its checks once, now, as the daemon would.
//!
//! Neither a daemon nor the state file has a part in it: what a configuration would find is known before anything
//! relies on it. Equal checks of one address run once, however many names want them.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use serde::Serialize;

use super::{Ended, Failure, runner, subject, table};
use crate::config::{Config, Route};
use crate::dns::HostName;
use crate::health::{CheckRef, CheckResult, Host, NameSpec, Outcome};
use crate::mailbox::Inbox;
use crate::os::privileges;
use crate::poll::catalogue::Catalogue;
use crate::poll::discovery::Finder;
use crate::poll::lookup::{self, Lookup, Options, Upstreams};
use crate::poll::resolv_conf::Follower;
use crate::poll::workers::{Lane, Limits, Pool};

/// One look-up, retransmissions and the next servers included.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Look-ups under way at most: no resolver is flooded because somebody looks.
const LOOKUPS: usize = 64;

/// Searches for candidates under way at most, as in the daemon.
const SEARCHES: usize = 32;

/// A line of the result: one check of one address, or why there was none.
#[derive(Serialize)]
struct Row {
    name: String,
    host: String,
    address: Option<IpAddr>,
    check: String,
    /// As in the state file; `no_address` when the candidate could not be looked up, `not_found` when candidates were
    /// looked for in vain.
    outcome: &'static str,
    status: Option<i64>,
    connect_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    total_ms: Option<f64>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Document {
    names: Vec<Verdict>,
    checks: Vec<Row>,
}

#[derive(Serialize)]
struct Verdict {
    name: String,
    /// Addresses of which every check passed.
    up: usize,
    addresses: usize,
}

/// Gives root up as the daemon does: what it may not read or run fails here too, and no command of an `exec` check is
/// run as root that was meant for another. To be called before there is a second thread.
///
/// # Errors
/// When `server.user` does not exist, or the kernel refuses.
pub fn become_runner(config: &Config) -> Result<(), Failure> {
    let failed = |error: crate::os::Error| Failure::Run(error.to_string());
    let account = if Uid::effective().is_root() { runner::account(config, None).map_err(failed)? } else { None };
    privileges::drop_to(account.map(|(account, _)| account).as_ref()).map_err(failed)
}

/// Probes every name, or one. Exit status 0 when each has an address of which every check passes, else 1.
pub fn run(config: &Config, only: Option<&str>, json: bool, out: &mut dyn Write) -> Ended {
    let only = only.map(|name| subject::answering(config, name)).transpose()?.map(|name| name.name.to_string());
    let mut config = config.clone();
    config.names.retain(|name| only.as_deref().is_none_or(|only| name.name.to_string() == only));
    let asked = Arc::new(Asked::new(&config));
    let mut catalogue = Catalogue::default();
    let mut compiled = catalogue.compile(&mut config.clone());
    let unfound = search(&mut config, std::mem::take(&mut compiled.finders), &asked);
    if config.names.iter().any(|name| name.discover.is_some()) {
        compiled = catalogue.compile(&mut config.clone());
    }
    let specs = compiled.specs;
    let found = look_up(&asked, &specs);
    let results = check(&catalogue, &specs, &found);
    let document =
        Document { names: verdicts(&specs, &found, &results), checks: rows(&specs, &found, &results, &unfound) };
    if json {
        // Nothing in it can fail to be written: text, numbers and lists.
        writeln!(out, "{}", serde_json::to_string_pretty(&document).unwrap_or_default())?;
    } else {
        out.write_all(listing(&document).as_bytes())?;
    }
    out.flush()?;
    let all_up = document.names.iter().all(|verdict| verdict.up > 0);
    Ok(if all_up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Found = HashMap<Arc<str>, Result<Vec<IpAddr>, String>>;
type Results = HashMap<(u32, IpAddr), CheckResult>;

/// har's upstream, as the daemon uses it.
struct Asked {
    general: Vec<SocketAddr>,
    routes: Vec<Route>,
    options: Options,
}

impl Asked {
    fn new(config: &Config) -> Asked {
        let mut follower = Follower::new(&config.upstream.servers, &config.server.listen, Path::new("/"));
        follower.poll();
        let options = Options { source: config.upstream.source, timeout: LOOKUP_TIMEOUT };
        Asked { general: follower.servers().to_vec(), routes: config.upstream.routes.clone(), options }
    }

    fn servers(&self) -> Upstreams<'_> {
        Upstreams { general: &self.general, routes: &self.routes }
    }
}

/// Where the candidates of a name were looked for in vain, and why there are none, by name.
type Unfound = HashMap<Arc<str>, (Arc<str>, String)>;

/// Looks for the candidates that are to be found, once, and puts them into the configuration.
fn search(config: &mut Config, finders: Vec<Finder>, asked: &Arc<Asked>) -> Unfound {
    let finders: HashMap<Arc<str>, Finder> =
        finders.into_iter().map(|finder| (Arc::clone(&finder.search.name), finder)).collect();
    let (finders, asked) = (Arc::new(finders), Arc::clone(asked));
    let searched = Arc::clone(&finders);
    let answers = run_all(SEARCHES, finders.keys().cloned().collect(), move |name: &Arc<str>| {
        searched.get(name).map(|finder| finder.find(&asked.servers(), &asked.options).0)
    });
    let mut unfound = Unfound::new();
    for (name, answer) in answers {
        let (Some(answer), Some(finder)) = (answer, finders.get(&name)) else { continue };
        match answer {
            Ok(answer) => {
                let own = config.names.iter_mut().find(|own| own.name.to_string() == *name);
                own.into_iter().for_each(|own| own.take_found(&answer.found));
            }
            Err(why) => {
                unfound.insert(name, (Arc::clone(&finder.search.source), why));
            }
        }
    }
    unfound
}

/// Looks up every candidate that is a name.
fn look_up(asked: &Arc<Asked>, specs: &[NameSpec]) -> Found {
    let asked = Arc::clone(asked);
    let hosts: BTreeSet<Arc<str>> = specs.iter().flat_map(hosts).collect();
    run_all(LOOKUPS, hosts.into_iter().collect(), move |host: &Arc<str>| {
        let Ok(name) = host.parse::<HostName>() else { return Err("it is no host name".to_owned()) };
        addresses(lookup::lookup(&name, &asked.servers(), &asked.options))
    })
}

fn hosts(spec: &NameSpec) -> impl Iterator<Item = Arc<str>> {
    spec.candidates.iter().filter_map(|candidate| match &candidate.host {
        Host::Name(host) => Some(Arc::clone(host)),
        Host::Address(_) => None,
    })
}

/// The addresses of both families; a failure when there is none at all.
fn addresses(found: Lookup) -> Result<Vec<IpAddr>, String> {
    let (mut all, mut why): (Vec<IpAddr>, Option<String>) = (Vec::new(), None);
    match found.v4 {
        Ok(v4) => all.extend(v4.values.into_iter().map(IpAddr::V4)),
        Err(error) => why = Some(error.to_string()),
    }
    match found.v6 {
        Ok(v6) => all.extend(v6.values.into_iter().map(IpAddr::V6)),
        Err(error) => why = why.or(Some(error.to_string())),
    }
    if all.is_empty() { Err(why.unwrap_or_else(|| "the name has no address".to_owned())) } else { Ok(all) }
}

/// The addresses of a candidate.
fn of_candidate(host: &Host, found: &Found) -> Result<Vec<IpAddr>, String> {
    match host {
        Host::Address(address) => Ok(vec![*address]),
        Host::Name(host) => found.get(host).cloned().unwrap_or_else(|| Err("it was not looked up".to_owned())),
    }
}

/// Runs every check of every address once.
fn check(catalogue: &Catalogue, specs: &[NameSpec], found: &Found) -> Results {
    let mut wanted: BTreeSet<(u32, IpAddr)> = BTreeSet::new();
    for candidate in specs.iter().flat_map(|spec| &spec.candidates) {
        for address in of_candidate(&candidate.host, found).unwrap_or_default() {
            wanted.extend(candidate.checks.iter().map(|check| (check.id, address)));
        }
    }
    let catalogue = catalogue.clone();
    let threads = Limits::default().threads;
    run_all(threads, wanted.into_iter().collect(), move |&(check, address)| {
        catalogue.runner(check).map(|runner| runner.run(address))
    })
    .into_iter()
    .filter_map(|(key, result)| Some((key, result?)))
    .collect()
}

/// Runs a job for every key on that many threads at most, and waits for all.
fn run_all<K, V>(threads: usize, keys: Vec<K>, job: impl Fn(&K) -> V + Send + Sync + 'static) -> HashMap<K, V>
where
    K: Clone + Eq + std::hash::Hash + Send + 'static,
    V: Send + 'static,
{
    let pool = Pool::new(Limits { threads, slow: threads, ..Limits::default() });
    let (inbox, job) = (Inbox::new(), Arc::new(job));
    let count = keys.len();
    for key in keys {
        let (inbox, job) = (inbox.clone(), Arc::clone(&job));
        let work = Box::new(move || inbox.send((key.clone(), job(&key))));
        if let Err(refused) = pool.submit(Lane::Normal, work) {
            // Without a thread to be had it is done here, one after the other.
            (refused.job)();
        }
    }
    let mut done = Vec::new();
    while done.len() < count {
        inbox.wait(None, &mut done);
    }
    done.into_iter().collect()
}

fn rows(specs: &[NameSpec], found: &Found, results: &Results, unfound: &Unfound) -> Vec<Row> {
    let mut rows = Vec::new();
    for spec in specs {
        rows.extend(unfound.get(&spec.name).map(|(source, why)| Row {
            name: spec.name.to_string(),
            host: source.to_string(),
            address: None,
            check: "discover".to_owned(),
            outcome: "not_found",
            status: None,
            connect_ms: None,
            first_byte_ms: None,
            total_ms: None,
            error: Some(why.clone()),
        }));
        for candidate in &spec.candidates {
            let empty = |address, check: &CheckRef| Row {
                name: spec.name.to_string(),
                host: candidate.host.to_string(),
                address,
                check: check.definition.to_string(),
                outcome: "no_address",
                status: None,
                connect_ms: None,
                first_byte_ms: None,
                total_ms: None,
                error: None,
            };
            match of_candidate(&candidate.host, found) {
                Err(why) => {
                    let checks = candidate.checks.iter().take(1);
                    rows.extend(checks.map(|check| Row { error: Some(why.clone()), ..empty(None, check) }));
                }
                Ok(addresses) => {
                    for address in addresses {
                        let of_address = candidate.checks.iter().filter_map(|check| {
                            let result = results.get(&(check.id, address))?;
                            let checked = !check.is_none;
                            Some(Row {
                                outcome: result.outcome.as_str(),
                                status: result.status,
                                connect_ms: result.connect.map(as_ms),
                                first_byte_ms: result.first_byte.map(as_ms),
                                total_ms: checked.then(|| as_ms(result.total)),
                                error: result.error.as_deref().map(str::to_owned),
                                ..empty(Some(address), check)
                            })
                        });
                        rows.extend(of_address);
                    }
                }
            }
        }
    }
    rows
}

fn verdicts(specs: &[NameSpec], found: &Found, results: &Results) -> Vec<Verdict> {
    let of_name = |spec: &NameSpec| {
        let (mut known, mut up): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = Default::default();
        for candidate in &spec.candidates {
            for address in of_candidate(&candidate.host, found).unwrap_or_default() {
                known.insert(address);
                let passed = |check: &CheckRef| {
                    results.get(&(check.id, address)).is_some_and(|result| result.outcome == Outcome::Ok)
                };
                if candidate.checks.iter().all(passed) {
                    up.insert(address);
                }
            }
        }
        Verdict { name: spec.name.to_string(), up: up.len(), addresses: known.len() }
    };
    specs.iter().map(of_name).collect()
}

fn as_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn listing(document: &Document) -> String {
    // Which check a line is about goes without saying where each address has one.
    let mut places = BTreeSet::new();
    let several = !document.checks.iter().all(|row| places.insert((&row.name, &row.host, row.address)));
    let mut head = vec!["name", "host", "address", "outcome", "status", "connect", "first byte", "total ms"];
    if several {
        head.push("check");
    }
    head.push("error");
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
    let lines: Vec<Vec<String>> = document
        .checks
        .iter()
        .map(|row| {
            let mut line = vec![
                row.name.clone(),
                row.host.clone(),
                row.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
                row.outcome.to_owned(),
                row.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
                ms(row.connect_ms),
                ms(row.first_byte_ms),
                ms(row.total_ms),
            ];
            if several {
                line.push(row.check.clone());
            }
            line.push(row.error.clone().unwrap_or_default());
            line
        })
        .collect();
    let mut text = table::text(&head, &lines, &[4, 5, 6, 7]);
    for verdict in document.names.iter().filter(|verdict| verdict.up == 0) {
        text += &match verdict.addresses {
            0 => format!("{}: no address is known\n", verdict.name),
            count => format!("{}: nothing up of {count}\n", verdict.name),
        };
    }
    text
}
