//! Which host names are looked up when, and what becomes of their addresses.
//!
//! A host name is looked up once for all names that have it as a candidate. Its addresses are kept when it
//! stops resolving, and an address leaves only when two successful look-ups in a row leave it out. Nothing
//! here knows of health: the roster makes endpoints of the addresses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::schedule::{Queue, jittered, spread};
use super::{Family, Time};

/// Look-ups never come closer than this, whatever a TTL says.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// Successful look-ups in a row that must leave an address out before it is removed.
const MISSES: u8 = 2;
/// Look-ups in a row after which a family that fails is waited for less, where the other one does not.
const BRIEF_AFTER: u32 = 2;
/// Addresses of one host name that are kept at most: an answer beyond it is an attack or a mistake.
const MAX_ADDRESSES: usize = 1024;

/// A look-up to make now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupJob {
    /// The name to look up.
    pub host: Arc<str>,
    /// What to ask for.
    pub kind: LookupKind,
    /// One family has addresses and the other failed the last times: it is waited for less.
    pub brief: bool,
}

/// What a look-up asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LookupKind {
    /// A and AAAA: answered with `Roster::apply_lookup`.
    Addresses,
    /// TXT: answered with `Roster::apply_drain_text`.
    DrainText,
}

/// What a look-up of addresses yielded; each family succeeds or fails by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupResult {
    /// The A records; empty = NOERROR without any.
    pub v4: Result<Vec<Ipv4Addr>, LookupFailure>,
    /// The AAAA records; empty = NOERROR without any.
    pub v6: Result<Vec<Ipv6Addr>, LookupFailure>,
    /// The smallest TTL in the answers.
    pub ttl: Option<Duration>,
}

/// Why a look-up brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupFailure {
    /// No reply in time, from no upstream.
    Timeout,
    /// The name does not exist.
    NxDomain,
    /// SERVFAIL, REFUSED or another error code.
    ServerFailure,
    /// There is no upstream to ask, or this host could not send.
    NoUpstream,
}

impl LookupFailure {
    /// The words of events.
    pub fn as_str(self) -> &'static str {
        match self {
            LookupFailure::Timeout => "no reply in time",
            LookupFailure::NxDomain => "the name does not exist",
            LookupFailure::ServerFailure => "the upstream answered with an error",
            LookupFailure::NoUpstream => "no upstream can be reached",
        }
    }
}

/// An address of a host name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Known {
    /// Which.
    pub(super) address: IpAddr,
    /// When a look-up last gave it.
    pub(super) seen: Time,
    misses: u8,
}

/// One host name and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// What is looked up.
    pub(super) job: LookupJob,
    /// Addresses in the order in which they came.
    pub(super) addresses: Vec<Known>,
    /// By family: since when it does not resolve.
    pub(super) failing: [Option<Time>; 2],
    /// By family: whether a look-up ever succeeded.
    pub(super) succeeded: [bool; 2],
    /// Whether any look-up has ended.
    pub(super) finished: bool,
    interval: Duration,
    failures: u32,
    turn: u64,
}

/// What a look-up changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Change {
    /// Addresses that are new.
    pub(super) came: Vec<IpAddr>,
    /// Addresses that are gone.
    pub(super) went: Vec<IpAddr>,
    /// It was the first look-up that ended.
    pub(super) first: bool,
    /// It stopped resolving in these families just now, and why.
    pub(super) stopped: Vec<(Family, &'static str)>,
    /// It resolves again in these families.
    pub(super) resumed: Vec<Family>,
    /// A look-up of a family succeeded for the first time.
    pub(super) learned: bool,
}

impl Change {
    /// Whether everything is as it was.
    pub(super) fn is_none(&self) -> bool {
        let same = self.came.is_empty() && self.went.is_empty() && self.stopped.is_empty() && self.resumed.is_empty();
        same && !self.first && !self.learned
    }
}

/// Every host name that is looked up.
#[derive(Clone, Debug, Default)]
pub(super) struct Lookups {
    ids: HashMap<(Arc<str>, LookupKind), u64>,
    entries: HashMap<u64, Entry>,
    queue: Queue<u64>,
    last_id: u64,
}

impl Lookups {
    /// Looks up exactly these from now on, each at least so often. What was known stays known.
    pub(super) fn configure(&mut self, wants: HashMap<(Arc<str>, LookupKind), Duration>, now: Time) {
        self.ids.retain(|key, id| {
            let keep = wants.contains_key(key);
            if !keep {
                self.entries.remove(id);
                self.queue.remove(*id);
            }
            keep
        });
        for (key, interval) in wants {
            let interval = interval.max(LEAST_INTERVAL);
            if let Some(entry) = self.ids.get(&key).and_then(|id| self.entries.get_mut(id)) {
                entry.interval = interval;
                if let Some(&id) = self.ids.get(&key) {
                    self.queue.hasten(id, now.after(interval));
                }
                continue;
            }
            self.last_id += 1;
            let job = LookupJob { host: Arc::clone(&key.0), kind: key.1, brief: false };
            self.entries.insert(self.last_id, Entry::new(job, interval));
            self.queue.set(self.last_id, now);
            self.ids.insert(key, self.last_id);
        }
    }

    /// Look-ups that are due, each handed out once until it is applied.
    pub(super) fn next(&mut self, now: Time, limit: usize) -> Vec<LookupJob> {
        let due = std::iter::from_fn(|| self.queue.pop(now)).take(limit);
        due.filter_map(|(_, id)| self.entries.get(&id)).map(Entry::next_job).collect()
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.queue.first()
    }

    /// Everything is due now.
    pub(super) fn hasten_all(&mut self, now: Time) {
        for id in self.entries.keys() {
            self.queue.hasten(*id, now);
        }
    }

    /// What is known of a host name.
    pub(super) fn get(&self, host: &Arc<str>) -> Option<&Entry> {
        self.entries.get(self.ids.get(&(Arc::clone(host), LookupKind::Addresses))?)
    }

    /// An address from the state file.
    pub(super) fn restore(&mut self, host: &Arc<str>, address: IpAddr, seen: Time, stale: bool) {
        let Some(id) = self.ids.get(&(Arc::clone(host), LookupKind::Addresses)) else { return };
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.addresses.len() < MAX_ADDRESSES && !entry.addresses.iter().any(|known| known.address == address) {
            entry.addresses.push(Known { address, seen, misses: 0 });
            entry.succeeded[Family::of(address).index()] = true;
            if stale {
                entry.failing[Family::of(address).index()].get_or_insert(seen);
            }
        }
    }

    /// The family was known to have no address when the state file was written.
    pub(super) fn restore_empty(&mut self, host: &Arc<str>, family: Family) {
        if let Some(id) = self.ids.get(&(Arc::clone(host), LookupKind::Addresses))
            && let Some(entry) = self.entries.get_mut(id)
        {
            entry.succeeded[family.index()] = true;
        }
    }

    /// Takes in what a look-up of addresses yielded and plans the next one.
    pub(super) fn apply(&mut self, host: &Arc<str>, result: &LookupResult, machine: u64, now: Time) -> Option<Change> {
        let &id = self.ids.get(&(Arc::clone(host), LookupKind::Addresses))?;
        let entry = self.entries.get_mut(&id)?;
        let change = entry.apply(result, now);
        let next = entry.next_interval(result.ttl, entry.failing != [None, None], machine, id);
        self.queue.set(id, now.after(next));
        Some(change)
    }

    /// Takes in the addresses of one family while the look-up goes on, which will tell what it leaves out.
    pub(super) fn apply_half(&mut self, host: &Arc<str>, addresses: &[IpAddr], now: Time) -> Option<Change> {
        let &id = self.ids.get(&(Arc::clone(host), LookupKind::Addresses))?;
        let entry = self.entries.get_mut(&id)?;
        let mut change = Change { first: !entry.finished, ..Change::default() };
        entry.take_in(Family::of(*addresses.first()?), addresses, now, &mut change);
        Some(change)
    }

    /// Plans the next look-up of a drain record. Whether it is one of ours.
    pub(super) fn applied_text(
        &mut self,
        host: &Arc<str>,
        ttl: Option<Duration>,
        failed: bool,
        machine: u64,
        now: Time,
    ) -> bool {
        let Some(&id) = self.ids.get(&(Arc::clone(host), LookupKind::DrainText)) else { return false };
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.finished = true;
        let next = entry.next_interval(ttl, failed, machine, id);
        self.queue.set(id, now.after(next));
        true
    }

    /// Drops the addresses of families that have not resolved for `hold`.
    pub(super) fn expire(&mut self, host: &Arc<str>, hold: Duration, now: Time) {
        if let Some(id) = self.ids.get(&(Arc::clone(host), LookupKind::Addresses))
            && let Some(entry) = self.entries.get_mut(id)
        {
            let failing = entry.failing;
            entry
                .addresses
                .retain(|known| failing[Family::of(known.address).index()].is_none_or(|since| now.since(since) < hold));
        }
    }
}

impl Entry {
    fn new(job: LookupJob, interval: Duration) -> Entry {
        Entry {
            job,
            addresses: Vec::new(),
            failing: [None; 2],
            succeeded: [false; 2],
            finished: false,
            interval,
            failures: 0,
            turn: 0,
        }
    }

    fn next_job(&self) -> LookupJob {
        let one_family = matches!(self.failing, [None, Some(_)] | [Some(_), None]);
        LookupJob { brief: one_family && self.failures >= BRIEF_AFTER, ..self.job.clone() }
    }

    fn apply(&mut self, result: &LookupResult, now: Time) -> Change {
        let v4 = result.v4.as_ref().map(|list| list.iter().copied().map(IpAddr::from).collect::<Vec<_>>());
        let v6 = result.v6.as_ref().map(|list| list.iter().copied().map(IpAddr::from).collect::<Vec<_>>());
        let any = [&v4, &v6].iter().any(|family| family.as_ref().is_ok_and(|list| !list.is_empty()));
        let mut change = Change { first: !std::mem::replace(&mut self.finished, true), ..Change::default() };
        for (family, found) in Family::BOTH.into_iter().zip([v4, v6]) {
            match found {
                Ok(found) if any => self.resolved(family, &found, now, &mut change),
                Ok(_) => self.failed(family, "it has no address at all", now, &mut change),
                Err(failure) => self.failed(family, failure.as_str(), now, &mut change),
            }
        }
        change
    }

    fn resolved(&mut self, family: Family, found: &[IpAddr], now: Time, change: &mut Change) {
        self.addresses.retain_mut(|known| {
            if Family::of(known.address) != family || found.contains(&known.address) {
                return true;
            }
            known.misses += 1;
            if known.misses >= MISSES {
                change.went.push(known.address);
            }
            known.misses < MISSES
        });
        self.take_in(family, found, now, change);
    }

    /// What was found is there, whatever else is.
    fn take_in(&mut self, family: Family, found: &[IpAddr], now: Time, change: &mut Change) {
        change.learned |= !std::mem::replace(&mut self.succeeded[family.index()], true);
        if self.failing[family.index()].take().is_some() {
            change.resumed.push(family);
        }
        // An address that is none (0.0.0.0, a group) is how some resolvers say that a name is blocked.
        for &address in found.iter().filter(|address| !address.is_unspecified() && !address.is_multicast()) {
            if let Some(known) = self.addresses.iter_mut().find(|known| known.address == address) {
                (known.seen, known.misses) = (now, 0);
            } else if self.addresses.len() < MAX_ADDRESSES {
                self.addresses.push(Known { address, seen: now, misses: 0 });
                change.came.push(address);
            }
        }
    }

    fn failed(&mut self, family: Family, why: &'static str, now: Time, change: &mut Change) {
        let since = &mut self.failing[family.index()];
        let known = self.addresses.iter().any(|known| Family::of(known.address) == family);
        if since.is_none() && known {
            change.stopped.push((family, why));
        }
        since.get_or_insert(now);
        // A row of successful look-ups is broken.
        for known in self.addresses.iter_mut().filter(|known| Family::of(known.address) == family) {
            known.misses = 0;
        }
    }

    /// The TTL if it is shorter than the interval; after a failure 1 s, doubling up to that: one family may fail for
    /// good while the other one's addresses move. Jitter only shortens.
    fn next_interval(&mut self, ttl: Option<Duration>, failed: bool, machine: u64, id: u64) -> Duration {
        self.turn += 1;
        let together = self.turn == 1 || self.failures > 0;
        self.failures = if failed { self.failures.saturating_add(1) } else { 0 };
        let usual = ttl.unwrap_or(self.interval).min(self.interval);
        let next = match self.failures {
            // At the start, and when an upstream is back, all are looked up at once; the next time comes anywhere in
            // the interval, so that they part.
            0 if together => return usual.mul_f64(spread(machine, &self.job.host)).max(LEAST_INTERVAL),
            0 => usual,
            failures => LEAST_INTERVAL.saturating_mul(1 << (failures - 1).min(16)).min(usual),
        };
        jittered(next.mul_f64(0.9), machine, id, self.turn).max(LEAST_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn v4(result: Result<&[u8], LookupFailure>) -> LookupResult {
        let v4 = result.map(|lasts| lasts.iter().map(|&last| Ipv4Addr::new(10, 0, 0, last)).collect());
        LookupResult { v6: v4.as_ref().map(|_: &Vec<_>| Vec::new()).map_err(|failure| *failure), v4, ttl: None }
    }

    fn lookups(host: &Arc<str>) -> Lookups {
        let mut lookups = Lookups::default();
        let wants = HashMap::from([((Arc::clone(host), LookupKind::Addresses), Duration::from_secs(30))]);
        lookups.configure(wants, Time(0));
        lookups
    }

    #[test]
    fn addresses_come_and_go() {
        let host: Arc<str> = "a.example".into();
        let mut lookups = lookups(&host);
        assert_eq!(lookups.next(Time(0), 9).len(), 1);
        assert_eq!(lookups.next(Time(0), 9).len(), 0, "handed out once");
        use LookupFailure::{NxDomain, Timeout};
        let steps: [(Result<&[u8], LookupFailure>, usize); 9] = [
            (Ok(&[1, 2]), 2),
            (Ok(&[2, 3]), 3),
            (Ok(&[1, 2, 3]), 3),
            (Ok(&[2, 3]), 3),
            (Err(Timeout), 3),
            (Ok(&[2, 3]), 3),
            (Ok(&[2, 3]), 2),
            (Err(NxDomain), 2),
            (Ok(&[]), 2),
        ];
        for (at, (step, count)) in steps.into_iter().enumerate() {
            let now = Time(at as u64 * 60_000);
            lookups.apply(&host, &v4(step), 1, now).unwrap();
            lookups.expire(&host, HOUR, now);
            assert_eq!(lookups.get(&host).unwrap().addresses.len(), count, "step {at}");
        }
        lookups.expire(&host, HOUR, Time(8 * 60_000).after(HOUR));
        assert!(lookups.get(&host).unwrap().addresses.is_empty());
    }

    #[test]
    fn half_a_look_up_brings_addresses_and_leaves_none_out() {
        let host: Arc<str> = "a.example".into();
        let mut lookups = lookups(&host);
        lookups.next(Time(0), 9);
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let half = |lookups: &mut Lookups, at| lookups.apply_half(&host, &[ip(2)], Time(at)).unwrap();
        let change = half(&mut lookups, 400);
        assert!(change.first && change.learned && change.came == [ip(2)] && change.went.is_empty(), "{change:?}");
        assert_eq!(lookups.next_due(), None, "it goes on");
        let whole = || LookupResult { v6: Err(LookupFailure::Timeout), ..v4(Ok(&[1, 2])) };
        let change = lookups.apply(&host, &whole(), 1, Time(3_000)).unwrap();
        assert!(change.first && change.came == [ip(1)], "{change:?}");
        // Of one look-up that leaves it out, a half and the whole are one.
        assert!(half(&mut lookups, 5_000).is_none());
        let without = LookupResult { v6: Err(LookupFailure::Timeout), ..v4(Ok(&[2])) };
        assert!(lookups.apply(&host, &without, 1, Time(6_000)).unwrap().went.is_empty());
        assert!(half(&mut lookups, 8_000).is_none());
        assert_eq!(lookups.apply(&host, &without, 1, Time(9_000)).unwrap().went, [ip(1)]);
        // Its addresses stopped resolving: the half alone ends that.
        let change = lookups.apply(&host, &v4(Err(LookupFailure::Timeout)), 1, Time(10_000)).unwrap();
        assert_eq!(change.stopped, [(Family::V4, "no reply in time")]);
        assert_eq!(half(&mut lookups, 12_000).resumed, [Family::V4]);
    }

    #[test]
    fn look_ups_that_began_together_part() {
        let hosts: Vec<Arc<str>> = (0..1000).map(|at| format!("h{at}.example").into()).collect();
        let mut lookups = Lookups::default();
        let wants = hosts.iter().map(|host| ((Arc::clone(host), LookupKind::Addresses), Duration::from_secs(30)));
        lookups.configure(wants.collect(), Time(0));
        let mut seconds = [0usize; 90];
        for (second, count) in seconds.iter_mut().enumerate() {
            let now = Time(second as u64 * 1000);
            for job in lookups.next(now, usize::MAX) {
                *count += 1;
                lookups.apply(&job.host, &v4(Ok(&[1])), 1, now);
            }
        }
        assert_eq!(seconds[0], 1000);
        assert!(seconds[2..].iter().all(|count| *count < 80), "{seconds:?}");
    }

    #[test]
    fn look_ups_keep_their_pace() {
        let host: Arc<str> = "a.example".into();
        let mut lookups = lookups(&host);
        let second = |n| Some(Duration::from_secs(n));
        // One family resolves, the other one never does.
        let half = || LookupResult { v6: Err(LookupFailure::ServerFailure), ..v4(Ok(&[1])) };
        let mut briefs = Vec::new();
        for (result, ttl, least, most) in [
            (v4(Ok(&[1])), None, 1_000, 30_000),
            (v4(Ok(&[1])), second(300), 24_000, 30_000),
            (v4(Ok(&[1])), second(10), 8_000, 10_000),
            (v4(Ok(&[1])), second(0), 1_000, 1_000),
            (v4(Err(LookupFailure::Timeout)), None, 1_000, 1_000),
            (v4(Err(LookupFailure::Timeout)), None, 1_600, 2_000),
            (v4(Ok(&[1])), None, 1_000, 30_000),
            (v4(Ok(&[1])), None, 24_000, 30_000),
            (half(), second(3), 1_000, 1_000),
            (half(), second(3), 1_600, 2_000),
            (half(), second(3), 2_400, 3_000),
            (half(), second(3), 2_400, 3_000),
        ] {
            lookups.apply(&host, &LookupResult { ttl, ..result }, 1, Time(0)).unwrap();
            let due = lookups.next_due().unwrap().0;
            assert!((least..=most).contains(&due), "{due} not in {least}..={most}");
            briefs.push(lookups.next(Time(due), 1)[0].brief);
        }
        assert_eq!(briefs, [vec![false; 9], vec![true; 3]].concat(), "after two of which half failed");
    }
}
