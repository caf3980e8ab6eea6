//! Whether the fault is here: this host's own network, not the candidates.
//!
//! An *episode* begins with a silent failure of an address that was not down and ends with any proof of a
//! working path. When within an episode every address that counts has failed silently, those of at least two
//! hosts, the fault is taken to be here. One that is down counts as long as it proved the path a moment ago, by
//! refusing: what silences it together with the others is not what it was down for. A second address of the same
//! host is no second witness, and neither is a second name of the same address: one dead server behind all names
//! must not look like a dead network.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::events::utc;
use super::roster::{Roster, Timer};
use super::target::{Mark, Target, User};
use super::{CheckResult, Event, EventKind, Host, State, Text, Time};

/// The longest that answers are held: after it, what fails is taken to be down wherever the fault is.
pub const HOLD: Duration = Duration::from_secs(300);

/// A check that could not be made comes again with the next one, and so much later at most.
const SLACK: Duration = Duration::from_secs(1);

/// Checks that cannot be made for want of something on this host: descriptors, memory, a file.
#[derive(Debug, Default)]
pub(super) struct Unable {
    /// How many could not, since it began.
    checks: u64,
    last: Time,
    why: Option<Text>,
}

/// What is going on with this host's network.
#[derive(Clone, Debug, Default)]
pub(super) struct LocalFault {
    /// Counts episodes: what was kept aside in an older one is worth nothing.
    episode: u64,
    /// First failure in this episode of each address that failed silently.
    silent: BTreeMap<IpAddr, Time>,
    /// When the first of them came.
    began: Time,
    /// Every address that counts up to here has failed: where the search for a witness goes on.
    searched: Option<IpAddr>,
    /// Since when the fault is taken to be here.
    since: Option<Time>,
    /// The hold ran out; no new one before a proof of a working path.
    spent: bool,
}

/// An address that is checked and not on loopback. It counts unless it is drained or was down before.
#[derive(Clone, Debug)]
pub(super) struct Witness {
    /// Which.
    pub(super) address: IpAddr,
    /// The candidates it belongs to.
    pub(super) hosts: Vec<Host>,
    /// Whether it counts by its state now; one that failed in this episode does although it is down by now.
    pub(super) counts: bool,
}

impl LocalFault {
    /// The running episode, if anything failed silently since the last proof.
    pub(super) fn episode(&self) -> Option<u64> {
        (!self.silent.is_empty()).then_some(self.episode)
    }

    /// Whether this address failed silently in the running episode.
    pub(super) fn involves(&self, address: IpAddr) -> bool {
        self.silent.contains_key(&address)
    }

    /// Whether this address went down in the running episode, rather than before.
    fn took_down(&self, address: IpAddr, down_since: Time) -> bool {
        self.silent.get(&address).is_some_and(|first| down_since >= *first)
    }

    /// Whether answers are held.
    pub(super) fn holds(&self) -> bool {
        self.since.is_some()
    }

    /// When the hold ends at the latest.
    pub(super) fn hold_ends(&self) -> Option<Time> {
        self.since.map(|since| since.after(HOLD))
    }

    /// A path works: the episode is over. Whether this ends a hold.
    pub(super) fn proof(&mut self) -> bool {
        self.spent = false;
        self.end_episode();
        self.since.take().is_some()
    }

    /// The hold has lasted long enough.
    pub(super) fn run_out(&mut self) {
        self.since = None;
        self.spent = true;
        self.end_episode();
    }

    /// A counted address failed silently. `window` is the longest interval involved; failures older than it
    /// are of another story. `next` yields the first address from a given one on that counts and passes, `all`
    /// every checked one. Whether the fault is now taken to be here.
    pub(super) fn silent_failure(
        &mut self,
        address: IpAddr,
        now: Time,
        window: Duration,
        next: impl Fn(Option<IpAddr>, &dyn Fn(IpAddr) -> bool) -> Option<IpAddr>,
        all: impl FnOnce() -> Vec<Witness>,
    ) -> bool {
        if self.since.is_some() || self.spent {
            return false;
        }
        if self.silent.is_empty() {
            self.began = now;
        } else if now.since(self.began) > window {
            self.silent.retain(|_, first| now.since(*first) <= window);
            self.began = self.silent.values().min().copied().unwrap_or(now);
            self.searched = None;
        }
        self.silent.entry(address).or_insert(now);
        // All before `searched` have failed; one that has not is witness enough to stop at.
        let unheard = |other: IpAddr| !self.silent.contains_key(&other);
        if let Some(witness) = next(self.searched, &unheard) {
            self.searched = Some(witness);
            return false;
        }
        let counted: Vec<Witness> =
            all().into_iter().filter(|one| one.counts || self.silent.contains_key(&one.address)).collect();
        if let Some(witness) = counted.iter().find(|counted| !self.silent.contains_key(&counted.address)) {
            self.searched = Some(witness.address);
            return false;
        }
        if !two_hosts(&counted) {
            return false;
        }
        self.since = Some(now);
        true
    }

    fn end_episode(&mut self) {
        if !self.silent.is_empty() {
            self.silent.clear();
            self.episode += 1;
        }
        self.searched = None;
    }
}

impl Roster {
    /// Whether a failure of an address counts: not drained, not down before.
    pub(super) fn counts(&self, address: IpAddr, users: &[User]) -> bool {
        users.iter().any(|user| {
            let endpoints = self.names.get(user.name()).map(|name| name.endpoints.as_slice()).unwrap_or_default();
            endpoints.iter().any(|e| {
                let own = e.candidate() == user.candidate() && e.address == address;
                own && e.effect().drained.is_none() && e.health.state != State::Down
            })
        })
    }

    /// Whether an address has a say now: by its state, or since it proved a working path a moment ago, even
    /// by refusing.
    fn address_counts(&self, address: IpAddr, now: Time, window: Duration) -> bool {
        self.witnesses(address)
            .any(|target| in_window(target.proof.get(), now, window) || self.counts(address, &target.users))
    }

    /// The targets of an address whose results speak about this host's network.
    fn witnesses(&self, address: IpAddr) -> impl Iterator<Item = &Target> {
        let own = self.targets.listed_from(Some(address)).take_while(move |target| target.address == address);
        own.filter(|target| target.is(Mark::Witness))
    }

    /// Every address that has such a target, from one on.
    fn witness_addresses(&self, from: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let witnesses = self.targets.listed_from(from).filter(|target| target.is(Mark::Witness));
        let mut last = None;
        witnesses.map(|target| target.address).filter(move |address| last.replace(*address) != Some(*address))
    }

    /// How far apart failures of one fault may be, after a check that took so long: the longest interval with
    /// its jitter, and the check.
    pub(super) fn fault_window(&self, took: Duration) -> Duration {
        self.longest_interval.mul_f64(1.1) + took
    }

    /// A failure of an address without a sign of life, where that counts.
    pub(super) fn silent_failure(&mut self, address: IpAddr, window: Duration, now: Time) {
        self.targets.put_in_order();
        let mut fault = std::mem::take(&mut self.fault);
        let next = |from: Option<IpAddr>, unheard: &dyn Fn(IpAddr) -> bool| {
            self.witness_addresses(from).find(|&other| unheard(other) && self.address_counts(other, now, window))
        };
        let all = || {
            let witness = |address| Witness {
                address,
                hosts: self.hosts_of(address),
                counts: self.address_counts(address, now, window),
            };
            self.witness_addresses(None).map(witness).collect()
        };
        let here = fault.silent_failure(address, now, window, next, all);
        self.fault = fault;
        if here {
            self.hold(now);
        }
    }

    fn hosts_of(&self, address: IpAddr) -> Vec<Host> {
        let users = self.witnesses(address).flat_map(|target| target.users.iter());
        let hosts: BTreeSet<&Host> = users
            .filter_map(|user| self.names.get(user.name())?.spec.candidates.get(user.candidate()))
            .map(|candidate| &candidate.host)
            .collect();
        hosts.into_iter().cloned().collect()
    }

    /// The fault is here: what was answered before is put back, and what failed meanwhile is unknown.
    fn hold(&mut self, now: Time) {
        let episode = self.fault.episode();
        for (index, name) in self.names.iter_mut().enumerate() {
            if !name.endpoints.iter().any(|endpoint| self.fault.involves(endpoint.address)) {
                continue;
            }
            for family in &mut name.families {
                let before = family.before_episode.take().filter(|kept| Some(kept.0) == episode);
                let plan = before.map_or_else(|| family.plan.clone(), |kept| kept.1);
                family.held = family.decided.then(|| Box::new(plan));
            }
            let held = name.families.iter().filter_map(|family| family.held.as_deref());
            let held: Vec<IpAddr> = held.flat_map(|plan| plan.addresses().to_vec()).collect();
            for endpoint in &mut name.endpoints {
                if !self.fault.involves(endpoint.address) || endpoint.checks.is_empty() {
                    continue;
                }
                if endpoint.health.state == State::Down {
                    if self.fault.took_down(endpoint.address, endpoint.health.since) {
                        endpoint.forget(true, now);
                        endpoint.keeps_place = held.contains(&endpoint.address);
                    }
                } else {
                    endpoint.health.failures = 0;
                    endpoint.dirty = true;
                }
            }
            self.dirty.insert(index);
            self.changed.insert(index);
        }
        let reason = "every checked address fails without a sign of life: the fault is taken to be this host's own \
                      network, answers are held";
        let end = now.after(HOLD);
        self.events.push(Event::new(
            now,
            EventKind::LocalFault,
            format!("{reason} until {} at most", utc(self.wall.at(end))),
        ));
        self.timer(end, Timer::Fault);
    }

    /// Why checks cannot be made, while that goes on.
    pub fn unable(&self) -> Option<&str> {
        self.unable.why.as_deref()
    }

    /// A check could not be made. That is told once when it begins: it is the same for all of them.
    pub(super) fn note_unable(&mut self, result: &CheckResult, now: Time) {
        let why = result.error.clone().unwrap_or_else(|| result.outcome.as_str().into());
        (self.unable.checks, self.unable.last) = (self.unable.checks + 1, now);
        if self.unable.checks == 1 {
            let reason = format!("checks cannot be made: {why}; their addresses are not known until they can");
            self.events.push(Event::new(now, EventKind::LocalFault, reason));
            self.timer(now.after(self.fault_window(SLACK)), Timer::Unable);
        }
        self.unable.why = Some(why);
    }

    /// It is over when whatever could not be checked had its turn again.
    pub(super) fn look_at_unable(&mut self, now: Time) {
        let end = self.unable.last.after(self.fault_window(SLACK));
        if now < end {
            return self.timer(end, Timer::Unable);
        }
        let Unable { checks, .. } = std::mem::take(&mut self.unable);
        let reason = format!("checks can be made again: {checks} could not be");
        self.events.push(Event::new(now, EventKind::LocalFault, reason));
    }

    pub(super) fn network_works(&mut self, now: Time, how: &str) {
        if self.fault.proof() {
            self.release(now, format!("{how}: this host's network works again, everything is checked"));
        }
    }

    pub(super) fn release(&mut self, now: Time, reason: String) {
        for (index, name) in self.names.iter_mut().enumerate() {
            for family in &mut name.families {
                if family.held.take().is_some() {
                    self.dirty.insert(index);
                }
            }
        }
        self.events.push(Event::new(now, EventKind::LocalFault, reason));
        self.check_everything(now);
    }
}

/// Whether a path was proved to work a moment ago. Such an address has a say even while it is down: it refused,
/// or its service answers wrongly, and now it is silent.
pub(super) fn in_window(proved: Option<Time>, now: Time, window: Duration) -> bool {
    proved.is_some_and(|at| now.since(at) <= window)
}

/// Whether two of the addresses have no host in common. A bare IPv4 and a bare IPv6 address may be one server:
/// nothing tells them apart, so that they do not count as two.
fn two_hosts(counted: &[Witness]) -> bool {
    let bare = |one: &Witness| one.hosts.iter().all(|host| matches!(host, Host::Address(_)));
    let apart =
        |one: &Witness, other: &Witness| one.address.is_ipv4() == other.address.is_ipv4() || !bare(one) || !bare(other);
    // If all share a host with the first, another pair may still be apart; sets are small and the first
    // disjoint pair ends the search.
    counted.iter().enumerate().any(|(at, one)| {
        let hosts: HashSet<&Host> = one.hosts.iter().collect();
        let disjoint = |other: &Witness| other.hosts.iter().all(|host| !hosts.contains(host));
        counted[at + 1..].iter().any(|other| apart(one, other) && disjoint(other))
    })
}
