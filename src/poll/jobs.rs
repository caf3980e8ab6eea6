//! What the poller has done elsewhere: checks, look-ups, the list of servers, a new configuration.
//!
//! A [`Crew`] is the pool with the poller's inbox behind it. Each job runs on a worker and comes back as a
//! [`Done`]; a job that no thread can be had for comes back at once as a fault of this host, so that nothing
//! that was handed out is ever forgotten.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Message;
use super::catalogue::{Catalogue, Compiled};
use super::checks::Runner;
use super::connect::bare;
use super::discovery::{Finder, Refit};
use super::listeners::{self, Listeners};
use super::lookup::{self, Options, Upstreams};
use super::refit::{Known, fill};
use super::resolv_conf::Follower;
use super::workers::{Lane, Limits, Pool};
use crate::config::{self, Config, Name, Problem, Report, Route};
use crate::dns::HostName;
use crate::health::discovery::{Answer, Found};
use crate::health::resolution::{LookupFailure, LookupJob, LookupKind, LookupResult};
use crate::health::schedule::{CheckJob, TargetId};
use crate::health::{CheckResult, Outcome};
use crate::mailbox::Inbox;

/// Look-ups under way at most: a dead upstream holds that many workers for a look-up's time, not more.
const MAX_LOOKUPS: usize = 64;

/// One look-up, retransmissions and the next servers included.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// What is left of it for a family when a server was silent about it and the other one is known: asked twice more.
const REST: Duration = Duration::from_millis(1200);
/// The same when that has been so lately.
const BRIEF_REST: Duration = Duration::from_millis(400);

/// A test for a loop: what has not come back by then is caught by the next one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A finished job.
pub enum Done {
    /// A check.
    Checked {
        /// As handed out.
        job: CheckJob,
        /// What it yielded.
        result: CheckResult,
    },
    /// The addresses of one family of a look-up that still waits for the other.
    LookedUpHalf {
        /// The name looked up.
        host: Arc<str>,
        /// One at least, all of one family.
        addresses: Vec<IpAddr>,
    },
    /// A look-up of addresses.
    LookedUp {
        /// The name looked up.
        host: Arc<str>,
        /// Both families.
        result: LookupResult,
        /// A server beyond loopback answered.
        beyond_loopback: bool,
    },
    /// A look-up of a drain record.
    DrainText {
        /// The record.
        record: Arc<str>,
        /// Its records, each with its strings.
        strings: Result<Vec<Vec<String>>, LookupFailure>,
        /// How long they may be kept.
        ttl: Option<Duration>,
        /// A server beyond loopback answered.
        beyond_loopback: bool,
    },
    /// Candidates were looked for.
    Searched {
        /// The configured name.
        name: Arc<str>,
        /// Where, in words.
        source: Arc<str>,
        /// What was found, or why not.
        result: Result<Answer, String>,
        /// A server beyond loopback answered.
        beyond_loopback: bool,
    },
    /// Candidates that were found are ready to be taken over.
    Refitted(Box<Refit>),
    /// The list of upstream servers was looked at.
    Followed {
        /// Back from the worker.
        follower: Box<Follower>,
        /// Whether it has other servers now.
        changed: bool,
    },
    /// An upstream server was tested for a loop.
    Probed {
        /// The server.
        server: SocketAddr,
        /// The name it was asked for.
        probe: HostName,
        /// It answered NOERROR or NXDOMAIN: it got its answer from somewhere else than har.
        good: bool,
    },
    /// The configuration was read again.
    Loaded(Box<Loaded>),
}

/// A configuration that was read again, or why it was refused.
pub type Loaded = Result<Fresh, Report>;

/// A configuration ready to be taken over.
pub struct Fresh {
    /// What the file says.
    pub config: Config,
    /// Other listeners, bound.
    pub listening: listeners::Change,
    /// Knows the general upstream servers.
    pub follower: Box<Follower>,
    /// What was known of discovered candidates when it was read; it is in `config`.
    pub known: Known,
    /// With its checks added.
    pub catalogue: Catalogue,
    /// What `health` needs.
    pub compiled: Compiled,
}

/// The workers and what they need.
pub struct Crew {
    pool: Arc<Pool>,
    inbox: Inbox<Message>,
    lookups: usize,
    /// Targets whose last check ran into its time limit: their next one waits in the slow lane.
    pub(super) slow: HashSet<TargetId>,
    listeners: Listeners,
    /// Away while a worker looks.
    pub(super) follower: Option<Box<Follower>>,
    /// The files that the follower follows.
    files: Vec<PathBuf>,
    /// They may have changed since the follower went to look.
    look_again: bool,
    upstream: Arc<Upstream>,
    /// Servers that lead back to har.
    looping: Vec<SocketAddr>,
}

/// Whom look-ups ask; shared with the jobs.
struct Upstream {
    /// As listed.
    general: Vec<SocketAddr>,
    routes: Vec<Route>,
    /// The same without those that lead back to har.
    asked: (Vec<SocketAddr>, Vec<Route>),
    source: Option<IpAddr>,
}

impl Upstream {
    /// Who is asked.
    fn asked(&self) -> Upstreams<'_> {
        Upstreams { general: &self.asked.0, routes: &self.asked.1 }
    }

    /// How look-ups ask.
    fn options(&self) -> Options {
        Options { source: self.source, timeout: LOOKUP_TIMEOUT }
    }
}

impl Crew {
    /// Workers for a configuration. Looks for the upstream servers once, here, so that a starting daemon knows them.
    pub fn new(inbox: Inbox<Message>, config: &Config, listeners: Listeners) -> Crew {
        let mut crew = Crew {
            pool: Arc::new(Pool::new(Limits::default())),
            inbox,
            lookups: 0,
            slow: HashSet::new(),
            listeners,
            follower: None,
            files: Vec::new(),
            look_again: false,
            upstream: Arc::new(Upstream {
                general: Vec::new(),
                routes: Vec::new(),
                asked: Default::default(),
                source: None,
            }),
            looping: Vec::new(),
        };
        let follower = follow(config, crew.listeners.addresses());
        crew.configure(config, follower);
        crew
    }

    /// Takes over the upstream part of a configuration, with a follower that has looked once. Whether it found no
    /// server, so that those of the follower before it stay.
    pub fn configure(&mut self, config: &Config, mut follower: Box<Follower>) -> bool {
        // Stated servers that are not stated any more are not wanted; those of a file are the last known ones.
        let kept = !self.files.is_empty() && follower.keep(&self.upstream.general);
        self.set_servers(follower.servers().to_vec(), config.upstream.routes.clone(), config.upstream.source);
        self.files = follower.files().to_vec();
        self.follower = Some(follower);
        kept
    }

    /// har listens elsewhere: it is not to ask itself there.
    pub fn set_listeners(&mut self, listeners: Listeners) {
        self.listeners = listeners;
    }

    /// The files that list the general upstream servers.
    pub fn followed_files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The general upstream servers.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.upstream.general
    }

    /// How many more look-ups may be started.
    pub fn free_lookups(&self) -> usize {
        MAX_LOOKUPS.saturating_sub(self.lookups)
    }

    /// Runs a check; a missing runner is a fault of this host.
    pub fn check(&mut self, job: CheckJob, runner: Option<Arc<Runner>>) {
        let Some(runner) = runner else {
            self.local_error(job, "the check could not be prepared");
            return;
        };
        let last = self.slow.contains(&job.target).then_some(Outcome::Timeout);
        let lane = Lane::after(last);
        let inbox = self.inbox.clone();
        let work = Box::new(move || {
            let result = runner.run(job.address);
            inbox.send(Message::Done(Done::Checked { job, result }));
        });
        if let Err(refused) = self.pool.submit(lane, work) {
            self.local_error(job, &format!("no worker thread could be started: {}", refused.error));
        }
    }

    /// Remembers whether a target hangs.
    pub fn note(&mut self, target: TargetId, result: &CheckResult) {
        if result.outcome == Outcome::Timeout {
            self.slow.insert(target);
        } else {
            self.slow.remove(&target);
        }
    }

    /// Forgets the targets that are no more.
    pub fn forget(&mut self, is_there: impl Fn(TargetId) -> bool) {
        self.slow.retain(|target| is_there(*target));
    }

    /// Looks a candidate or a drain record up.
    pub fn look_up(&mut self, job: LookupJob) {
        self.lookups += 1;
        let (inbox, upstream, again) = (self.inbox.clone(), Arc::clone(&self.upstream), job.clone());
        let work = Box::new(move || {
            let done = look_up(job, &upstream, &inbox);
            inbox.send(Message::Done(done));
        });
        if self.pool.submit(Lane::Normal, work).is_err() {
            self.inbox.send(Message::Done(failed(again)));
        }
    }

    /// A look-up came back.
    pub fn lookup_done(&mut self) {
        self.lookups = self.lookups.saturating_sub(1);
    }

    /// Looks for another list of servers, on a worker: the file may be on a slow disk.
    pub fn follow(&mut self) {
        if self.files.is_empty() {
            return;
        }
        let Some(mut follower) = self.follower.take() else {
            self.look_again = true;
            return;
        };
        let inbox = self.inbox.clone();
        // Without a thread to be had the follower would be lost with its job: it is begun anew then.
        let spare = follower.clone();
        let work = Box::new(move || {
            let changed = follower.poll().is_some();
            inbox.send(Message::Done(Done::Followed { follower, changed }));
        });
        if self.pool.submit(Lane::Normal, work).is_err() {
            self.follower = Some(spare);
        }
    }

    /// Takes the follower back, unless a reload has made a new one meanwhile, which may be away by now itself.
    pub fn followed(&mut self, follower: Box<Follower>, changed: bool) -> bool {
        if self.follower.is_some() || follower.files() != self.files {
            return false;
        }
        if changed {
            let (routes, source) = (self.upstream.routes.clone(), self.upstream.source);
            self.set_servers(follower.servers().to_vec(), routes, source);
        }
        self.follower = Some(follower);
        if std::mem::take(&mut self.look_again) {
            self.follow();
        }
        changed
    }

    /// Looks for the candidates of a name.
    pub fn find(&mut self, finder: Finder) {
        let (inbox, upstream, search) = (self.inbox.clone(), Arc::clone(&self.upstream), finder.search.clone());
        let done = move |result, beyond_loopback| {
            Message::Done(Done::Searched { name: search.name, source: search.source, result, beyond_loopback })
        };
        let (spare, spare_inbox) = (done.clone(), self.inbox.clone());
        let work = Box::new(move || {
            let (result, beyond_loopback) = finder.find(&upstream.asked(), &upstream.options());
            inbox.send(done(result, beyond_loopback));
        });
        if self.pool.submit(Lane::Normal, work).is_err() {
            spare_inbox.send(spare(Err("no worker thread could be started".to_owned()), false));
        }
    }

    /// Prepares what was found for a name. Without a thread it is done here: what was found must not be lost.
    pub fn prepare(&mut self, name: Name, found: Vec<Found>, generation: u64, serial: u64) {
        let inbox = self.inbox.clone();
        let work = Box::new(move || {
            let refit = Refit::new(name, &found, generation, serial);
            inbox.send(Message::Done(Done::Refitted(Box::new(refit))));
        });
        if let Err(refused) = self.pool.submit(Lane::Normal, work) {
            (refused.job)();
        }
    }

    /// Reads the configuration again and prepares its checks.
    pub fn load(&mut self, running: &Config, mut catalogue: Catalogue, known: Known) {
        let (inbox, path, listeners) = (self.inbox.clone(), running.path.clone(), self.listeners.clone());
        let refusal = Report(vec![Problem::of_file(
            path.clone(),
            "no worker thread could be started to read it; send SIGHUP again",
        )]);
        let work = Box::new(move || {
            let loaded = config::load_again(&path).map(|mut config| {
                fill(&mut config, &known);
                let compiled = catalogue.compile(&mut config);
                let listening = listeners.change(&config.server.listen, config.server.listen_stated);
                let follower = follow(&config, listening.listeners.addresses());
                Fresh { config, listening, follower, known, catalogue, compiled }
            });
            inbox.send(Message::Done(Done::Loaded(Box::new(loaded))));
        });
        if self.pool.submit(Lane::Normal, work).is_err() {
            self.inbox.send(Message::Done(Done::Loaded(Box::new(Err(refusal)))));
        }
    }

    /// Every server with a name that it can be expected to forward what is below of: that of its route, or one
    /// that no forwarder answers itself (RFC 6761 reserves no name below it, and it exists). Those of routes first, which
    /// are few.
    pub fn tested(&self) -> Vec<(SocketAddr, HostName)> {
        let Ok(anywhere) = "example.com".parse::<HostName>() else { return Vec::new() };
        let general = self.upstream.general.iter().map(|server| (*server, anywhere.clone()));
        let routes = self.upstream.routes.iter();
        let routes = routes.flat_map(|route| route.servers.iter().map(|server| (*server, route.suffix.clone())));
        let mut listed = HashSet::new();
        let general: Vec<_> = general.filter(|(server, _)| listed.insert(*server)).collect();
        let mut servers: Vec<_> = routes.filter(|(server, _)| listed.insert(*server)).collect();
        servers.extend(general);
        servers
    }

    /// Leaves servers out of look-ups.
    pub fn set_looping(&mut self, looping: &[SocketAddr]) {
        self.looping = looping.to_vec();
        let Upstream { general, routes, source, .. } = &*self.upstream;
        self.set_servers(general.clone(), routes.clone(), *source);
    }

    /// Asks a server for a name that does not exist.
    pub fn probe(&mut self, server: SocketAddr, name: HostName) {
        let (inbox, source) = (self.inbox.clone(), self.upstream.source);
        let work = Box::new(move || {
            let upstreams = Upstreams { general: &[server], routes: &[] };
            let found = lookup::lookup_texts(&name, &upstreams, &Options { source, timeout: PROBE_TIMEOUT });
            let good = matches!(found.records, Ok(_) | Err(lookup::Failure::NxDomain));
            inbox.send(Message::Done(Done::Probed { server, probe: name, good }));
        });
        // Without a thread to be had the next test will do.
        let _ = self.pool.submit(Lane::Normal, work);
    }

    fn set_servers(&mut self, general: Vec<SocketAddr>, routes: Vec<Route>, source: Option<IpAddr>) {
        let may_be_asked = |server: &&SocketAddr| !self.looping.contains(server);
        let asked_routes = routes.iter().map(|route| {
            let servers = route.servers.iter().filter(may_be_asked).copied().collect();
            Route { servers, ..route.clone() }
        });
        let asked = (general.iter().filter(may_be_asked).copied().collect(), asked_routes.collect());
        self.upstream = Arc::new(Upstream { general, routes, asked, source });
    }

    fn local_error(&self, job: CheckJob, why: &str) {
        let mut result = bare(Outcome::LocalError, Duration::ZERO);
        result.error = Some(why.into());
        self.inbox.send(Message::Done(Done::Checked { job, result }));
    }
}

/// A follower of the configured servers that has looked once.
fn follow(config: &Config, listeners: &[SocketAddr]) -> Box<Follower> {
    let mut follower = Follower::new(&config.upstream.servers, listeners, Path::new("/"));
    follower.poll();
    Box::new(follower)
}

/// On a worker: asks the upstream.
fn look_up(job: LookupJob, upstream: &Upstream, inbox: &Inbox<Message>) -> Done {
    let Ok(name) = job.host.parse::<HostName>() else { return failed(job) };
    let (upstreams, options) = (upstream.asked(), upstream.options());
    match job.kind {
        LookupKind::Addresses => {
            let rest = if job.brief { BRIEF_REST } else { REST };
            let found = lookup::lookup_in_halves(&name, &upstreams, &options, rest, &mut |addresses| {
                inbox.send(Message::Done(Done::LookedUpHalf { host: Arc::clone(&job.host), addresses }));
            });
            let ttl = [ttl(&found.v4), ttl(&found.v6)].into_iter().flatten().min();
            Done::LookedUp {
                host: job.host,
                result: LookupResult { v4: values(found.v4), v6: values(found.v6), ttl },
                beyond_loopback: found.heard_beyond_loopback,
            }
        }
        LookupKind::DrainText => {
            let found = lookup::lookup_texts(&name, &upstreams, &options);
            Done::DrainText {
                record: job.host,
                ttl: ttl(&found.records),
                strings: values(found.records),
                beyond_loopback: found.heard_beyond_loopback,
            }
        }
    }
}

fn ttl<T>(found: &Result<lookup::Found<T>, lookup::Failure>) -> Option<Duration> {
    found.as_ref().ok().and_then(|found| found.ttl)
}

fn values<T>(found: Result<lookup::Found<T>, lookup::Failure>) -> Result<Vec<T>, LookupFailure> {
    found.map(|found| found.values).map_err(|failure| match failure {
        lookup::Failure::Timeout => LookupFailure::Timeout,
        lookup::Failure::NxDomain => LookupFailure::NxDomain,
        lookup::Failure::NoServer | lookup::Failure::Unreachable(_) | lookup::Failure::Local(_) => {
            LookupFailure::NoUpstream
        }
        _ => LookupFailure::ServerFailure,
    })
}

/// A look-up that could not be made on this host.
fn failed(job: LookupJob) -> Done {
    match job.kind {
        LookupKind::Addresses => Done::LookedUp {
            host: job.host,
            result: LookupResult { v4: Err(LookupFailure::NoUpstream), v6: Err(LookupFailure::NoUpstream), ttl: None },
            beyond_loopback: false,
        },
        LookupKind::DrainText => Done::DrainText {
            record: job.host,
            strings: Err(LookupFailure::NoUpstream),
            ttl: None,
            beyond_loopback: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::trust::SystemRoots;

    #[test]
    fn a_search_asks_no_server_that_leads_back_to_har() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.toml");
        let text = "[upstream]\nservers = [\"127.0.0.1:9\"]\nroutes = { \"corp.example\" = [\"127.0.0.2:9\"] }\n\
                    [names.\"a\"]\ncheck = \"none\"\ndiscover = { type = \"srv\", record = \"_x._tcp.example\" }\n\
                    [names.\"b\"]\ncheck = \"none\"\ndiscover = { type = \"srv\", record = \"_x._tcp.corp.example\" }\n";
        std::fs::write(&path, text).unwrap();
        let config = config::load(&path).unwrap_or_else(|report| panic!("{report}"));
        let inbox = Inbox::new();
        let mut crew = Crew::new(inbox.clone(), &config, Listeners::default());
        crew.set_looping(&["127.0.0.1:9".parse().unwrap(), "127.0.0.2:9".parse().unwrap()]);
        for name in &config.names {
            crew.find(Finder::new(name, &SystemRoots::new()).unwrap());
            let mut messages = Vec::new();
            inbox.wait(Some(Duration::from_secs(20)), &mut messages);
            let Some(Message::Done(Done::Searched { result, .. })) = messages.pop() else { panic!("it has an end") };
            assert_eq!(result, Err("no upstream server is known".to_owned()), "{}", name.name);
        }
    }
}
