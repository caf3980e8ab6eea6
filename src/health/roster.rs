//! Every endpoint of every name as one value: results, look-ups and overrides in, decisions and records out.
//!
//! The caller (`poll`) asks what is due, runs it, applies what came of it, and takes the decisions. One
//! result costs as much as the names that share its target; only names that something happened to are ranked
//! again, when decisions are taken. `reload` fits it to a configuration and to addresses that come
//! and go, `orders` puts on it what operators say, `settle` turns what is known into decisions and records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::changed::{Changed, Counts};
use super::compact::Common;
use super::conflict::Conflict;
use super::decide::{Basis, Decision, Plan};
use super::endpoint::Endpoint;
use super::events::transition_reason;
use super::hash::hash;
use super::local_fault::{HOLD, LocalFault, Unable, in_window};
use super::machine::Transition;
use super::orders::Told;
use super::overrides::{DrainList, Overrides};
use super::resolution::{Change, LookupJob, LookupResult, Lookups};
use super::schedule::{CheckJob, TargetId, is_late};
use super::target::{Mark, Targets, User};
use super::wall::WallClock;
use super::{AnswerRecord, CheckResult, EndpointRecord, Event, EventKind, Host, NameSpec, Outcome, State, Time};

/// A name with a run that takes longer than its results keep is looked at again after its interval, but not sooner than
/// this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Everything that is known about every configured name.
#[derive(Debug, Default)]
pub struct Roster {
    pub(super) machine: u64,
    pub(super) names: Vec<Name>,
    pub(super) index: HashMap<Arc<str>, usize>,
    pub(super) lookups: Lookups,
    /// Names that have a host name as a candidate or in their fallback list.
    pub(super) host_users: HashMap<Arc<str>, BTreeSet<usize>>,
    pub(super) overrides: Overrides,
    /// For what people read and write.
    pub(super) wall: WallClock,
    pub(super) drains: HashMap<Arc<str>, DrainList>,
    /// Malformed strings that were told of, by record.
    pub(super) drain_problems: HashMap<Arc<str>, Vec<String>>,
    pub(super) fault: LocalFault,
    pub(super) unable: Unable,
    /// Names that may rest, see [`Roster::resting_names`].
    pub(super) resting: Vec<usize>,
    /// The longest interval at which anything is polled.
    pub(super) longest_interval: Duration,
    /// To be decided again.
    pub(super) dirty: BTreeSet<usize>,
    /// To be written and counted.
    pub(super) changed: Changed,
    pub(super) events: Vec<Event>,
    pub(super) removed: Vec<(Arc<str>, Host, IpAddr)>,
    pub(super) removed_names: Vec<Arc<str>>,
    pub(super) started: Option<Time>,
    pub(super) targets: Targets,
    late: u64,
    timers: BTreeSet<(Time, Timer)>,
    /// Names whose results may have become too old, by when: with one interval for all they are thousands at a time.
    stale: BTreeMap<Time, Vec<u32>>,
    pub(super) told_orders: Told,
    round_done: bool,
    /// Reasons: most names have the same.
    pub(super) common: Common<Arc<str>>,
    /// Names whose candidates have not been found yet, and may be any moment.
    pub(super) discovering: BTreeSet<Arc<str>>,
    /// Names whose last search for candidates failed, and why.
    pub(super) in_vain: HashMap<Arc<str>, Arc<str>>,
}

/// A configured name.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) spec: NameSpec,
    /// In the order of the candidates, then as their addresses came.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) families: [FamilyState; 2],
    pub(super) last_asked: Time,
    /// No state at all yet: queries wait.
    pub(super) cold: bool,
    /// What the last decision said; `None` = tell again whatever it is.
    pub(super) told: Option<(bool, bool)>,
    /// It stands in [`Roster::stale`], once.
    pub(super) stale_timer: bool,
}

/// One family of a name.
#[derive(Debug, Default)]
pub(super) struct FamilyState {
    pub(super) plan: Plan,
    pub(super) basis: Basis,
    pub(super) reason: Arc<str>,
    pub(super) since: Time,
    /// Those of the plan; one list with it, where it has one, as the next one.
    pub(super) addresses: Arc<[IpAddr]>,
    pub(super) last_good: Arc<[IpAddr]>,
    /// The plan from before an episode of silent failures.
    pub(super) before_episode: Option<Box<(u64, Plan)>>,
    /// What is held while the fault is taken to be here.
    pub(super) held: Option<Box<Plan>>,
    /// Decided at least once, in this process or the last.
    pub(super) decided: bool,
    /// Why no address is known has changed: to be told again, though the answer stays.
    pub(super) reason_is_old: bool,
    pub(super) unwritten: bool,
    /// Of those who claim to be the one master or primary.
    pub(super) conflict: Conflict,
}

/// What happens by itself at some time. Looked at when it comes: what moved meanwhile is put back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Results of some names may have become too old, see [`Roster::stale`].
    Stale,
    /// Addresses of a host name may have been kept long enough.
    Hold(Arc<str>),
    /// An override may have ended.
    Overrides,
    /// An entry of a drain record may have ended.
    Drains,
    /// The hold of a local fault may have lasted long enough.
    Fault,
    /// No check may have failed for want of something here for long enough.
    Unable,
}

/// What changed since the last [`Roster::take_records`], for the state file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// New or changed.
    pub endpoints: Vec<EndpointRecord>,
    /// New or changed.
    pub answers: Vec<AnswerRecord>,
    /// Endpoints (name, candidate, address) that are no more.
    pub removed: Vec<(Arc<str>, Host, IpAddr)>,
    /// Names that the configuration no longer has.
    pub removed_names: Vec<Arc<str>>,
}

/// Counts for a status line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Configured names.
    pub names: usize,
    /// Names of which nothing is fit.
    pub names_without_fit: usize,
    /// Endpoints that are up.
    pub up: usize,
    /// Endpoints that are down.
    pub down: usize,
    /// Endpoints of which nothing (recent) is known.
    pub unknown: usize,
    /// Checks that began later than a tenth of their interval after they were due, since the start; not those that
    /// ran at once, out of turn.
    pub late_checks: u64,
    /// The fault is taken to be this host's own network.
    pub local_fault: bool,
    /// Endpoints whose last check could not be made, see [`Roster::unable`].
    pub unable: usize,
}

impl Roster {
    /// An empty roster for the machine with this id.
    pub fn new(machine_id: &[u8]) -> Roster {
        Roster { machine: hash(0, &[machine_id]), ..Roster::default() }
    }

    /// The names as they were configured, in their order.
    pub fn specs(&self) -> impl Iterator<Item = &NameSpec> {
        self.names.iter().map(|name| &name.spec)
    }

    /// One of them.
    pub fn spec(&self, name: usize) -> Option<&NameSpec> {
        self.names.get(name).map(|name| &name.spec)
    }

    /// Where a name stands among them.
    pub fn place_of(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Look-ups that are due, `limit` at most, each handed out once until its result is applied.
    pub fn next_lookups(&mut self, now: Time, limit: usize) -> Vec<LookupJob> {
        self.lookups.next(now, limit)
    }

    /// What a look-up of addresses yielded.
    pub fn apply_lookup(&mut self, host: &str, result: &LookupResult, now: Time) {
        let host: Arc<str> = host.into();
        let Some(change) = self.lookups.apply(&host, result, self.machine, now) else { return };
        self.looked_up_as(&host, &change, now);
    }

    /// The addresses of one family of a look-up that still waits for the other.
    pub fn apply_half_lookup(&mut self, host: &str, addresses: &[IpAddr], now: Time) {
        let host: Arc<str> = host.into();
        // The time of it alone is news that comes with the whole.
        if let Some(change) = self.lookups.apply_half(&host, addresses, now).filter(|change| !change.is_none()) {
            self.looked_up_as(&host, &change, now);
        }
    }

    fn looked_up_as(&mut self, host: &Arc<str>, change: &Change, now: Time) {
        let mut tell = |reason: String| {
            let mut event = Event::new(now, EventKind::Resolution, reason);
            event.host = Some(Host::Name(Arc::clone(host)));
            self.events.push(event);
        };
        let list = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        if !change.came.is_empty() && !change.first {
            tell(format!("new: {}", list(&change.came)));
        }
        if !change.went.is_empty() {
            tell(format!("gone: {}", list(&change.went)));
        }
        for (family, why) in &change.stopped {
            tell(format!("{} stopped resolving: {why}; its addresses are kept for resolve_hold", family.record()));
        }
        for family in &change.resumed {
            tell(format!("{} resolves again", family.record()));
        }
        if change.is_none() {
            self.refresh_host(host);
        } else {
            self.sync_host(host, now);
        }
    }

    /// Checks that are due, `limit` at most, each handed out once until its result is applied.
    pub fn next_checks(&mut self, now: Time, limit: usize) -> Vec<CheckJob> {
        let mut jobs = Vec::new();
        while jobs.len() < limit
            && let Some(id) = self.targets.pop_due(now)
        {
            let Some(target) = self.targets.get_mut(id) else { continue };
            target.set(Mark::Running, true);
            jobs.push(CheckJob { target: id, check: target.check, address: target.address });
        }
        jobs
    }

    /// What a check yielded. A target that is no more is ignored.
    pub fn apply_result(&mut self, target: TargetId, result: &CheckResult, now: Time) {
        let id = target;
        let Some(target) = self.targets.get_mut(id) else { return };
        target.set(Mark::Running, false);
        // With its result, so that a check that waited for a worker is late too.
        let began = Time(now.0.saturating_sub(u64::try_from(result.total.as_millis()).unwrap_or(u64::MAX)));
        // What runs at once, out of turn (at a start, after a resume), has no time that it could miss.
        self.late += u64::from(!target.is(Mark::Align) && is_late(target.due(), began, target.interval()));
        let address = target.address;
        let speaks = target.is(Mark::Witness) && result.outcome != Outcome::LocalError;
        let users = target.users.take();
        let silent = speaks && result.silent && result.outcome != Outcome::Ok;
        let proved = target.proof.get();
        if speaks {
            target.proof = (!silent).then_some(now).into();
        }
        if speaks && !silent {
            self.network_works(now, &format!("a check of {address} got through"));
        }
        if result.outcome == Outcome::LocalError {
            self.note_unable(result, now);
        }
        let window = self.fault_window(result.total);
        let counts = silent && (in_window(proved, now, window) || self.counts(address, &users));
        for &user in users.iter() {
            self.apply_to_endpoint(id, (user, address), result, silent, now);
            if result.outcome == Outcome::LocalError {
                // The next run may be under way before anything else happens.
                self.forget_old(user.name(), now);
            }
        }
        if let Some(target) = self.targets.get_mut(id) {
            target.users = users;
        }
        if counts && !self.fault.holds() {
            self.silent_failure(address, window, now);
        }
        self.reschedule(id, now);
    }

    /// When something is due next: a check, a look-up, an expiry. What was handed out is not.
    pub fn next_due(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(at, _)| *at);
        [self.targets.next_due(), self.lookups.next_due(), timer].into_iter().flatten().min()
    }

    /// Expiries, staleness, holds. To be called before decisions are taken.
    pub fn tick(&mut self, now: Time) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, timer)) = self.timers.pop_first()
        {
            match timer {
                Timer::Stale => self.forget_all_stale(now),
                Timer::Hold(host) => self.sync_host(&host, now),
                Timer::Overrides => self.review_overrides(now),
                Timer::Drains => self.expire_drains(now),
                Timer::Fault if self.fault.hold_ends().is_some_and(|end| end <= now) => {
                    self.fault.run_out();
                    self.release(now, format!("held for {} s: what fails is taken to be down now", HOLD.as_secs()));
                }
                Timer::Fault => {}
                Timer::Unable => self.look_at_unable(now),
            }
        }
    }

    /// An upstream beyond loopback answered: this host's network works.
    pub fn upstream_answered(&mut self, now: Time) {
        self.network_works(now, "an upstream answered");
    }

    /// Everything is due now: checks and look-ups (resume from suspend).
    pub fn check_everything(&mut self, now: Time) {
        let all: Vec<TargetId> = self.targets.ids().collect();
        for target in all {
            self.run_now(target, now);
        }
        self.lookups.hasten_all(now);
    }

    /// Names whose decision changed since the last call.
    pub fn take_decisions(&mut self, now: Time) -> Vec<Decision> {
        std::iter::from_fn(|| self.next_decision(now)).collect()
    }

    /// The same one by one: ten thousand decisions that are only passed on need not be there at once, between what is
    /// kept of each.
    pub fn next_decision(&mut self, now: Time) -> Option<Decision> {
        while let Some(name) = self.dirty.pop_first() {
            let decision = self.decide_name(name, now);
            if decision.is_some() {
                return decision;
            }
        }
        None
    }

    /// Events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The candidate behind a target; of several that share it the first.
    pub fn candidate_of(&self, target: TargetId) -> Option<Host> {
        let user = self.targets.get(target)?.users.first()?;
        Some(self.names.get(user.name())?.spec.candidates.get(user.candidate())?.host.clone())
    }

    /// Checks that began late since the start, see [`Summary::late_checks`].
    pub fn late_checks(&self) -> u64 {
        self.late
    }

    /// Counts for a status line.
    pub fn summary(&mut self) -> Summary {
        let Counts { without_fit, up, down, unknown, unable } = self.changed.counts(&self.names);
        let [names_without_fit, up, down, unknown, unable] =
            [without_fit, up, down, unknown, unable].map(|count| count as usize);
        Summary {
            names: self.names.len(),
            names_without_fit,
            up,
            down,
            unknown,
            late_checks: self.late,
            local_fault: self.fault.holds(),
            unable,
        }
    }

    /// Whether every name has fresh state or has finished its first round; once true it stays so.
    pub fn first_round_done(&mut self) -> bool {
        self.round_done = self.round_done
            || self.names.iter().all(|name| {
                let resolved = name.hosts().all(|host| {
                    self.lookups.get(host).is_some_and(|entry| entry.finished || !entry.addresses.is_empty())
                });
                let found = !self.discovering.contains(&name.spec.name);
                found && resolved && name.endpoints.iter().all(|endpoint| endpoint.health.state != State::Unknown)
            });
        self.round_done
    }
}

/// Results.
impl Roster {
    fn apply_to_endpoint(
        &mut self,
        id: TargetId,
        (user, address): (User, IpAddr),
        result: &CheckResult,
        silent: bool,
        now: Time,
    ) {
        let holds = self.fault.holds();
        let (name_index, candidate) = (user.name(), user.candidate());
        let Some(name) = self.names.get_mut(name_index) else { return };
        let own = |e: &&mut Endpoint| e.candidate() == candidate && e.address == address;
        let Some(endpoint) = name.endpoints.iter_mut().find(own) else { return };
        self.changed.insert(name_index);
        if silent && holds && endpoint.health.state != State::Down {
            endpoint.count(result);
            return;
        }
        let priority = endpoint.reported_priority();
        let observed = endpoint.apply(id, result, &name.spec, now);
        if observed.is_some() || endpoint.reported_priority() != priority || name.spec.wants_the_one() {
            self.dirty.insert(name_index);
        }
        if let Some(Some(transition)) = observed {
            let told = endpoint.told.replace(transition.to);
            // What was unknown and turns out as it was last told is no news, nor is a first success.
            let news = match told {
                Some(told) => told != transition.to,
                None => transition.to == State::Down,
            };
            if news {
                self.events.extend(state_event(name, (candidate, address), &transition, &mut self.common, now));
            }
        }
    }

    fn forget_all_stale(&mut self, now: Time) {
        while let Some((at, mut names)) = self.stale.pop_first() {
            if at > now {
                self.stale.insert(at, names);
                return;
            }
            names.sort_unstable();
            for index in names.into_iter().map(|index| index as usize) {
                self.forget_old(index, now);
                if let Some(name) = self.names.get_mut(index) {
                    name.stale_timer = false;
                }
                self.watch_staleness(index, now);
            }
        }
    }

    /// Nothing is known any more of what had no result for three of its intervals. A run that takes longer than that,
    /// or waits for a worker so long, is no missing one: its result decides.
    fn forget_old(&mut self, index: usize, now: Time) {
        let Some(name) = self.names.get_mut(index) else { return };
        let is_under_way = |id| self.targets.get(id).is_some_and(|target| target.is(Mark::Running));
        for endpoint in &mut name.endpoints {
            if endpoint.stale_at().is_none_or(|at| at > now) || endpoint.waits_for(is_under_way) {
                continue;
            }
            let mut event = Event::new(now, EventKind::State, "no result for three of its intervals".to_owned());
            event.name = Some(Arc::clone(&name.spec.name));
            event.host = name.spec.candidates.get(endpoint.candidate()).map(|candidate| candidate.host.clone());
            event.address = Some(endpoint.address);
            event.before = Some(endpoint.health.state.as_str().into());
            event.after = Some(State::Unknown.as_str().into());
            self.events.push(event);
            endpoint.forget(endpoint.health.state == State::Up, now);
            self.dirty.insert(index);
            self.changed.insert(index);
        }
    }

    /// Sees to it that a name is looked at when its results may have become too old; where a run was under way then,
    /// an interval later again.
    pub(super) fn watch_staleness(&mut self, index: usize, now: Time) {
        let Some(name) = self.names.get_mut(index).filter(|name| !name.stale_timer) else { return };
        let look = |endpoint: &Endpoint| {
            let at = endpoint.stale_at()?;
            Some(if at > now { at } else { now.after(endpoint.interval().max(LOOK_AGAIN)) })
        };
        if let Some(at) = name.endpoints.iter().filter_map(look).min() {
            name.stale_timer = true;
            // On whole seconds, so that many names share a wake-up.
            let at = Time(at.0.div_ceil(1000).saturating_mul(1000));
            self.stale.entry(at).or_default().push(index as u32);
            self.timer(at, Timer::Stale);
        }
    }

    /// Something is to be looked at by then.
    pub(super) fn timer(&mut self, at: Time, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// Forgets all timers, whose names have other indices now.
    pub(super) fn clear_timers(&mut self) {
        self.timers.clear();
        self.stale.clear();
        self.names.iter_mut().for_each(|name| name.stale_timer = false);
        let dues = [
            (self.overrides.next_expiry().map(|end| self.wall.when(end)), Timer::Overrides),
            (self.drains_end(), Timer::Drains),
            (self.fault.hold_ends(), Timer::Fault),
        ];
        for (at, timer) in dues {
            if let Some(at) = at {
                self.timer(at, timer);
            }
        }
    }
}

impl Name {
    /// A new one, of which nothing is known.
    pub(super) fn new(spec: NameSpec, now: Time) -> Name {
        Name {
            spec,
            endpoints: Vec::new(),
            families: [FamilyState::default(), FamilyState::default()],
            last_asked: now,
            cold: true,
            told: None,
            stale_timer: false,
        }
    }

    /// Its candidates that are looked up.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.spec.candidates.iter().filter_map(|candidate| match &candidate.host {
            Host::Name(host) => Some(host),
            Host::Address(_) => None,
        })
    }
}

fn state_event(
    name: &Name,
    (candidate, address): (usize, IpAddr),
    transition: &Transition,
    common: &mut Common<Arc<str>>,
    now: Time,
) -> Option<Event> {
    let endpoint = name.endpoints.iter().find(|e| e.candidate() == candidate && e.address == address)?;
    let reason = transition_reason(transition, endpoint.last_error());
    let mut event = Event::new(now, EventKind::State, common.share(&reason));
    event.name = Some(Arc::clone(&name.spec.name));
    event.host = name.spec.candidates.get(candidate).map(|candidate| candidate.host.clone());
    event.address = Some(address);
    event.before = Some(transition.from.as_str().into());
    event.after = Some(transition.to.as_str().into());
    Some(event)
}

#[cfg(test)]
mod tests;
