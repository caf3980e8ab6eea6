//! What is known of each upstream server, and which one is asked next.
//!
//! A server is known by its address, whichever routes list it. Round trips are smoothed as in RFC 6298, slow
//! answers included. One that leaves several transmissions unanswered in a row, or whose port is closed, is
//! dead: it is left out while another lives, and gets a copy of a query every [`PROBE_EVERY`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::time::{Duration, Instant};

use super::Route;

/// Least wait before a retransmission: above what a busy host's scheduler adds.
pub(super) const LEAST_WAIT: Duration = Duration::from_millis(15);
/// Longest first wait, so that a few retransmissions fit the usual timeout.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Transmissions in a row that went unanswered and make a server dead.
const MISSED_TO_DIE: u32 = 3;
/// Queries in a row that it failed (SERVFAIL, REFUSED) and another server answered: dead as well.
const FAILED_TO_DIE: u32 = 5;
/// How often a dead server gets a copy of a query.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Least time between copies to a server that is not in use, to know its round trip.
const EXPLORE_EVERY: Duration = Duration::from_secs(1);
/// How long TCP is not tried at a server that refused it.
const TCP_REFUSED_FOR: Duration = Duration::from_secs(60);
/// How long what a server's closing of connections taught is kept: a restart looks the same.
const TCP_LIMITS_FOR: Duration = Duration::from_secs(10);
/// Weights of a new sample in the smoothed round trip and in its deviation (RFC 6298).
const GAIN: (f64, f64) = (0.125, 0.25);

/// Index of a server's record.
pub(super) type ServerId = u16;

/// What one server did for those who asked one list, for any thread to read (relaxed). Counted are transmissions, each
/// with its repetitions from the same port as one: of `queries` some are `answers`, some are `timeouts`, and of a few
/// nothing can be said, because nobody waits for them any more.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Sent to it.
    pub queries: AtomicU64,
    /// It replied.
    pub answers: AtomicU64,
    /// It did not reply in time, its port was closed, or there was no way to it.
    pub timeouts: AtomicU64,
    /// It replied SERVFAIL.
    pub servfail: AtomicU64,
}

/// What one server is like, whichever lists hold it; for any thread to read (relaxed).
#[derive(Debug, Default)]
pub struct ServerState {
    /// Smoothed round trip in microseconds; 0 = none measured.
    pub rtt_us: AtomicU64,
    /// 0 = not known yet, 1 = alive, 2 = dead.
    pub state: AtomicU8,
    /// Not asked, because har's own queries come back from it ([`Settings::looping`](super::Settings::looping)).
    pub looping: AtomicBool,
}

impl ServerState {
    /// The state of a server that does not answer: left out, and tried again every few seconds.
    pub const DEAD: u8 = 2;
}

/// A server in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// With its port.
    pub address: SocketAddr,
    /// [`Route::suffix`] of the list.
    pub route: Arc<str>,
    /// Of this list.
    pub counters: Arc<ServerCounters>,
    /// Of all lists.
    pub state: Arc<ServerState>,
}

/// One more. Only the event loop counts, so that two plain instructions do what would otherwise take a locked one.
pub(super) fn count(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

/// A route with the records of its servers.
pub(super) struct RouteServers {
    pub suffix: Arc<str>,
    /// Those that may be asked.
    pub servers: Vec<ServerId>,
    pub fastest: bool,
    /// Of all that are listed, by the server's index: it is looked for with each query and each reply.
    counters: Vec<Option<Arc<ServerCounters>>>,
    /// All that are listed, in their order.
    all: Vec<ServerId>,
}

impl RouteServers {
    /// A route without servers.
    pub fn new(route: &Route) -> RouteServers {
        let (suffix, count) = (route.suffix.as_str().into(), route.servers.len());
        let (servers, all) = (Vec::with_capacity(count), Vec::with_capacity(count));
        RouteServers { suffix, servers, fastest: route.fastest, counters: Vec::new(), all }
    }

    /// Takes up a server, with its counters in the list that was in this one's place.
    pub fn list(&mut self, id: ServerId, looping: bool, before: Option<&RouteServers>) {
        if self.lists(id) {
            return;
        }
        if !looping {
            self.servers.push(id);
        }
        self.all.push(id);
        let place = usize::from(id);
        let counters = before.and_then(|before| before.counters.get(place)?.clone());
        if self.counters.len() <= place {
            self.counters.resize(place + 1, None);
        }
        self.counters[place] = Some(counters.unwrap_or_default());
    }

    pub fn lists(&self, id: ServerId) -> bool {
        self.counters(id).is_some()
    }

    /// What is counted of a server; nothing is of one that a reload took off the list.
    pub fn counters(&self, id: ServerId) -> Option<&ServerCounters> {
        self.counters.get(usize::from(id))?.as_deref()
    }

    /// Its servers, as others see them.
    pub fn listed<'a>(&'a self, servers: &'a Servers) -> impl Iterator<Item = Listed> + 'a {
        self.all.iter().filter_map(|&id| {
            let (server, counters) = (servers.get(id)?, self.counters.get(usize::from(id))?.as_ref()?);
            Some(Listed {
                address: server.address,
                route: Arc::clone(&self.suffix),
                counters: Arc::clone(counters),
                state: Arc::clone(&server.state),
            })
        })
    }
}

/// How much a server takes over TCP.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpLimits {
    /// Connections at once.
    pub streams: usize,
    /// Queries on one connection, after which it is closed.
    pub queries: u32,
}

/// One server's record.
pub(super) struct Server {
    pub address: SocketAddr,
    state: Arc<ServerState>,
    /// Smoothed round trip and mean deviation, seconds.
    rtt: Option<(f64, f64)>,
    last_heard: Option<Instant>,
    /// When the first of the transmissions was sent that have gone unanswered since it was last heard.
    silent_from: Option<Instant>,
    missed: u32,
    failed: u32,
    /// Set when dead: when it gets the next copy.
    probe_at: Option<Instant>,
    explore_at: Option<Instant>,
    tcp_refused: Option<Instant>,
    /// Whether the last of its connections was closed before it ever said anything.
    tcp_in_vain: bool,
    /// What was learnt, and until when that counts.
    tcp_limits: Option<(TcpLimits, Instant)>,
    /// Not asked at all: har's own queries come back from it.
    pub looping: bool,
}

impl Server {
    pub fn new(address: SocketAddr) -> Server {
        Server {
            address,
            state: Arc::default(),
            rtt: None,
            last_heard: None,
            silent_from: None,
            missed: 0,
            failed: 0,
            probe_at: None,
            explore_at: None,
            tcp_refused: None,
            tcp_in_vain: false,
            tcp_limits: None,
            looping: false,
        }
    }

    /// How long an answer is waited for before something is done.
    pub fn patience(&self) -> Duration {
        let wait = self.rtt.map_or(0.0, |(rtt, deviation)| rtt + 4.0 * deviation);
        seconds(wait).clamp(LEAST_WAIT, LONGEST_WAIT)
    }

    /// Smoothed round trip, if one was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.map(|(rtt, _)| seconds(rtt))
    }

    pub fn is_dead(&self) -> bool {
        self.probe_at.is_some()
    }

    /// Whether it has answered, and has not missed more than one transmission since.
    pub fn is_reliable(&self) -> bool {
        self.last_heard.is_some() && self.missed < 2 && !self.is_dead()
    }

    pub fn set_looping(&mut self, looping: bool) {
        self.looping = looping;
        self.state.looping.store(looping, Relaxed);
    }

    /// Whether TCP is worth a try.
    pub fn takes_tcp(&self, now: Instant) -> bool {
        self.tcp_refused.is_none_or(|until| until <= now)
    }

    /// TCP gets another chance before its time.
    pub fn retry_tcp(&mut self) {
        (self.tcp_refused, self.tcp_in_vain) = (None, false);
    }

    pub fn refused_tcp(&mut self, now: Instant) {
        (self.tcp_refused, self.tcp_in_vain) = (Some(now + TCP_REFUSED_FOR), false);
    }

    /// It closed a connection that never said anything: once may be a restart, twice in a row is as good as refused.
    pub fn closed_in_vain(&mut self, now: Instant) {
        if std::mem::replace(&mut self.tcp_in_vain, true) {
            self.refused_tcp(now);
        }
    }

    /// How much it takes over TCP, as far as that is known.
    pub fn tcp_limits(&self, now: Instant) -> TcpLimits {
        let learnt = self.tcp_limits.filter(|(_, until)| *until > now);
        learnt.map_or(TcpLimits { streams: usize::MAX, queries: u32::MAX }, |(limits, _)| limits)
    }

    /// It closed a connection after so many answers.
    pub fn closes_after(&mut self, queries: u32, now: Instant) {
        self.tcp_limits = Some((TcpLimits { queries, ..self.tcp_limits(now) }, now + TCP_LIMITS_FOR));
    }

    /// It takes no connection beside so many.
    pub fn takes_streams(&mut self, streams: usize, now: Instant) {
        self.tcp_limits = Some((TcpLimits { streams, ..self.tcp_limits(now) }, now + TCP_LIMITS_FOR));
    }

    /// A reply came that was awaited. `sample`: the round trip, when it is known.
    pub fn heard(&mut self, sample: Option<Duration>, good: bool, now: Instant) {
        (self.last_heard, self.silent_from, self.missed) = (Some(now), None, 0);
        if !good {
            return;
        }
        self.failed = 0;
        self.probe_at = None;
        if let Some(sample) = sample.map(|sample| sample.as_secs_f64()) {
            let (rtt, deviation) = self.rtt.get_or_insert((sample, sample / 2.0));
            *deviation += GAIN.1 * ((sample - *rtt).abs() - *deviation);
            *rtt += GAIN.0 * (sample - *rtt);
            self.state.rtt_us.store((*rtt * 1e6) as u64, Relaxed);
        }
        self.state.state.store(1, Relaxed);
    }

    /// A transmission went unanswered for longer than it should have. Returns whether that was the server's death.
    pub fn missed(&mut self, sent: Instant, now: Instant) -> bool {
        if self.last_heard.is_some_and(|heard| heard >= sent) {
            return false;
        }
        self.missed = self.missed.saturating_add(1);
        let silent_from = *self.silent_from.get_or_insert(sent);
        let long_enough = now.saturating_duration_since(silent_from) >= self.patience();
        self.missed >= MISSED_TO_DIE && long_enough && self.die(now)
    }

    /// Another server answered what this one failed. Returns whether that was its death.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.failed = self.failed.saturating_add(1);
        self.failed >= FAILED_TO_DIE && self.die(now)
    }

    /// Takes it out of use. Returns whether it was in use.
    pub fn die(&mut self, now: Instant) -> bool {
        let lived = self.probe_at.is_none();
        if lived {
            self.probe_at = Some(now + PROBE_EVERY);
            self.state.state.store(2, Relaxed);
        }
        lived
    }

    /// Forgets what the network did to it: the network is another one now.
    pub fn renew(&mut self) {
        (self.silent_from, self.missed, self.failed, self.probe_at) = (None, 0, 0, None);
        (self.tcp_refused, self.tcp_in_vain, self.tcp_limits) = (None, false, None);
    }

    /// Whether it should get a copy of the query at hand, and books it. `explore`: living ones that were not
    /// asked for a while get one too, those never heard in any case.
    pub fn copy_due(&mut self, explore: Explore, now: Instant) -> bool {
        if let Some(at) = &mut self.probe_at {
            let due = *at <= now;
            if due {
                *at = now + PROBE_EVERY;
            }
            return due;
        }
        let wanted = match explore {
            Explore::Nobody => false,
            Explore::Unheard => self.last_heard.is_none(),
            Explore::Everybody => true,
        };
        let due = wanted && self.explore_at.is_none_or(|at| at <= now);
        if due {
            self.explore_at = Some(now + EXPLORE_EVERY);
        }
        due
    }
}

/// A duration to the nanosecond below: rounding to the nearest one, as the library does, takes four times as long.
fn seconds(seconds: f64) -> Duration {
    Duration::from_nanos((seconds * 1e9) as u64)
}

/// Who besides the dead gets a copy of a query.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Explore {
    /// None.
    Nobody,
    /// Servers that never answered yet.
    Unheard,
    /// Every server that is not the one chosen.
    Everybody,
}

/// All records; an index stays valid until [`Servers::keep`] says otherwise.
#[derive(Default)]
pub(super) struct Servers {
    records: Vec<Option<Server>>,
}

impl Servers {
    /// The index of an address, a new record if there is none.
    pub fn enter(&mut self, address: SocketAddr) -> ServerId {
        let known = self.records.iter().position(|record| record.as_ref().is_some_and(|r| r.address == address));
        let index = known.or_else(|| self.records.iter().position(Option::is_none)).unwrap_or_else(|| {
            self.records.push(None);
            self.records.len() - 1
        });
        self.records[index].get_or_insert_with(|| Server::new(address));
        index as ServerId
    }

    /// Drops the records that are not used any more.
    pub fn keep(&mut self, used: impl Fn(ServerId) -> bool) {
        for (index, record) in self.records.iter_mut().enumerate() {
            if !used(index as ServerId) {
                *record = None;
            }
        }
    }

    pub fn get(&self, id: ServerId) -> Option<&Server> {
        self.records.get(usize::from(id))?.as_ref()
    }

    pub fn get_mut(&mut self, id: ServerId) -> Option<&mut Server> {
        self.records.get_mut(usize::from(id))?.as_mut()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Server> {
        self.records.iter_mut().flatten()
    }

    /// The server to ask: living ones first, then by `order`'s own preference, among those that `rank` gives
    /// a place; a lower place counts before everything else.
    pub fn choose(
        &self,
        servers: &[ServerId],
        fastest: bool,
        tie: u64,
        place: impl Fn(ServerId) -> Option<u8>,
    ) -> Option<ServerId> {
        let count = servers.len().max(1);
        let first = (tie % count as u64) as usize;
        let preference = |(position, &id): (usize, &ServerId)| {
            let server = self.get(id).filter(|server| !server.looping)?;
            // Those never measured come after the measured ones, in an order that the random number turns.
            let speed = match (fastest, server.rtt) {
                (false, _) => (0.0, position),
                (true, Some((rtt, _))) => (rtt, position),
                (true, None) => (f64::MAX, (position + count - first) % count),
            };
            Some(((place(id)?, server.is_dead(), speed), id))
        };
        let candidates = servers.iter().enumerate().filter_map(preference);
        candidates.min_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(std::cmp::Ordering::Equal)).map(|(_, id)| id)
    }
}
