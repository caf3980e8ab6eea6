//! Fits the roster to a configuration, to the state file, and to addresses that come and go.
//!
//! What did not change (name, host, address, what its checks say) keeps everything it knows; what is checked
//! differently keeps its place and its counts and is unknown; what is new is unknown; what is gone is taken out everywhere.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::compact::Moment;
use super::decide::{Basis, Plan};
use super::endpoint::{Endpoint, EndpointCheck};
use super::overrides::own_reason;
use super::resolution::{LookupKind, Lookups};
use super::roster::{Name, Roster, Timer};
use super::schedule::TargetId;
use super::target::User;
use super::{AnswerRecord, CandidateSpec, EndpointRecord, Event, Family, Host, NameSpec, State, Time};

impl Roster {
    /// First load and reload: what is unchanged (name, host, address, checks) keeps everything. Decisions of
    /// all names follow, since their indices may have changed.
    pub fn configure(&mut self, specs: Vec<NameSpec>, now: Time) {
        self.started.get_or_insert(now);
        self.lookups.configure(wanted_lookups(&specs), now);
        let mut old: HashMap<Arc<str>, Name> =
            std::mem::take(&mut self.names).into_iter().map(|name| (Arc::clone(&name.spec.name), name)).collect();
        self.detach_all();
        self.host_users.clear();
        self.index.clear();
        self.dirty.clear();
        self.changed.begin(specs.len());
        self.longest_interval = longest_interval(&specs);
        self.resting = (0..specs.len()).filter(|&index| !specs[index].pace.idle_after.is_zero()).collect();
        self.names.reserve_exact(specs.len());
        for (index, spec) in specs.into_iter().enumerate() {
            let before = old.remove(&spec.name);
            let name = self.adopt(spec, before, now);
            self.index.insert(Arc::clone(&name.spec.name), index);
            for host in name.spec.candidates.iter().map(|candidate| &candidate.host).chain(&name.spec.fallback) {
                if let Host::Name(host) = host {
                    self.host_users.entry(Arc::clone(host)).or_default().insert(index);
                }
            }
            self.names.push(name);
            self.attach_all(index, now);
            self.dirty.insert(index);
            self.changed.insert(index);
        }
        for (name, gone) in old {
            self.removed.extend(gone.endpoints.iter().filter_map(|endpoint| {
                Some((
                    Arc::clone(&name),
                    gone.spec.candidates.get(endpoint.candidate())?.host.clone(),
                    endpoint.address,
                ))
            }));
            self.removed_names.push(name);
        }
        self.drop_all_unused();
        let records: BTreeSet<&Arc<str>> =
            self.names.iter().filter_map(|name| name.spec.drain_record.as_ref()).collect();
        let orders = !self.overrides.rows().is_empty() || !self.drains.is_empty();
        self.drains.retain(|record, _| records.contains(record));
        self.clear_timers();
        if orders {
            self.apply_effects();
        }
        self.review_orders(now);
        let hosts: Vec<Arc<str>> = self.host_users.keys().cloned().collect();
        for host in hosts {
            self.watch_hold(&host, now);
        }
        // Each once, however many names share it.
        let targets: Vec<TargetId> = self.targets.ids().collect();
        for target in targets {
            self.hasten(target, now);
        }
        for index in 0..self.names.len() {
            self.watch_staleness(index, now);
        }
    }

    /// Fits one name to other candidates: what is unchanged (host, address, checks) keeps everything.
    pub fn refit(&mut self, spec: NameSpec, now: Time) {
        let Some(&index) = self.index.get(&spec.name) else { return };
        for users in self.host_users.values_mut() {
            users.remove(&index);
        }
        for host in spec.candidates.iter().map(|candidate| &candidate.host).chain(&spec.fallback) {
            if let Host::Name(host) = host {
                self.host_users.entry(Arc::clone(host)).or_default().insert(index);
            }
        }
        self.host_users.retain(|_, users| !users.is_empty());
        let wants = {
            let others = self.names.iter().map(|name| &name.spec).filter(|other| other.name != spec.name);
            wanted_lookups(others.chain([&spec]))
        };
        self.lookups.configure(wants, now);
        let targets: Vec<_> =
            self.names[index].endpoints.iter().flat_map(|e| e.checks.iter()).map(|check| check.target).collect();
        for &target in &targets {
            if let Some(target) = self.targets.get_mut(target) {
                target.users.retain(|user| user.name() != index);
            }
        }
        // In its place for a moment, so that the others keep theirs.
        let before = self.names.swap_remove(index);
        let fitted = self.adopt(spec, Some(before), now);
        let last = self.names.len();
        self.names.push(fitted);
        self.names.swap(index, last);
        self.attach_all(index, now);
        for target in targets {
            self.drop_unused(target);
        }
        self.dirty.insert(index);
        self.changed.insert(index);
        self.apply_effects_to(index);
        let hosts: Vec<Arc<str>> = self.names[index].hosts().cloned().collect();
        for host in &hosts {
            self.watch_hold(host, now);
        }
        let targets: Vec<_> =
            self.names[index].endpoints.iter().flat_map(|e| e.checks.iter()).map(|check| check.target).collect();
        for target in targets {
            self.hasten(target, now);
        }
        self.watch_staleness(index, now);
    }

    /// These names have no candidates yet because they are still being looked for. Of others the last search failed.
    pub fn set_discovering(&mut self, names: BTreeSet<Arc<str>>, mut failed: HashMap<Arc<str>, Arc<str>>) {
        self.discovering = names;
        let before: Vec<Arc<str>> = self.in_vain.keys().cloned().collect();
        for name in before.iter().filter(|name| !failed.contains_key(*name)) {
            self.discovered(name, None);
        }
        for (name, why) in failed.drain() {
            self.discovered(&name, Some(why));
        }
    }

    /// The candidates of a name are as known as they will be for now; with why the search for them failed, if it did.
    pub fn discovered(&mut self, name: &Arc<str>, failed: Option<Arc<str>>) {
        let Some(&index) = self.index.get(name) else {
            self.in_vain.remove(name);
            return;
        };
        if self.discovering.remove(name) {
            self.dirty.insert(index);
        }
        if self.in_vain.get(name) == failed.as_ref() {
            return;
        }
        match failed {
            Some(why) => self.in_vain.insert(Arc::clone(name), why),
            None => self.in_vain.remove(name),
        };
        for family in self.names[index].families.iter_mut().filter(|family| family.basis == Basis::NotReady) {
            family.reason_is_old = true;
            self.dirty.insert(index);
        }
    }

    /// Takes an event over that was made elsewhere.
    pub fn note(&mut self, event: Option<Event>) {
        self.events.extend(event);
    }

    /// Numbers of the checks that any candidate has.
    pub fn checks_in_use(&self) -> HashSet<u32> {
        let candidates = self.names.iter().flat_map(|name| &name.spec.candidates);
        candidates.flat_map(|candidate| &*candidate.checks).map(|check| check.id).collect()
    }

    /// Warm start: to be called once, after the first `configure`.
    pub fn restore(&mut self, endpoints: &[EndpointRecord], answers: &[AnswerRecord], now: Time) {
        // Every name may be answered differently now.
        self.dirty.extend(0..self.names.len());
        (0..self.names.len()).for_each(|index| self.changed.insert(index));
        self.restore_hosts(endpoints, now);
        let mut last: Option<(&Arc<str>, usize)> = None;
        for record in endpoints {
            // A name comes with all its addresses, mostly.
            let known = last.filter(|(name, _)| **name == record.name).map(|(_, index)| index);
            let Some(index) = known.or_else(|| self.index.get(&record.name).copied()) else { continue };
            last = Some((&record.name, index));
            self.restore_endpoint(index, record, now);
        }
        self.restore_drains(endpoints, now);
        for record in answers {
            self.restore_answer(record);
        }
        for index in 0..self.names.len() {
            self.watch_staleness(index, now);
        }
    }

    /// Warm start: the addresses that host names among the candidates had.
    fn restore_hosts(&mut self, endpoints: &[EndpointRecord], now: Time) {
        if self.host_users.is_empty() {
            return;
        }
        for record in endpoints {
            if let (Some(&index), Host::Name(host)) = (self.index.get(&record.name), &record.host) {
                let known = self.names[index].hosts().any(|candidate| candidate == host);
                if known {
                    self.lookups.restore(
                        host,
                        record.address,
                        record.resolved_at.unwrap_or(now).min(now),
                        record.stale,
                    );
                }
            }
        }
        let users: BTreeSet<usize> = self.host_users.values().flatten().copied().collect();
        for index in users {
            self.sync_name(index, None, now);
        }
        let hosts: Vec<Arc<str>> = self.host_users.keys().cloned().collect();
        for host in hosts {
            self.watch_hold(&host, now);
        }
    }

    fn restore_endpoint(&mut self, index: usize, record: &EndpointRecord, now: Time) {
        let name = &mut self.names[index];
        let candidates = &name.spec.candidates;
        let same = |e: &&mut Endpoint| {
            e.address == record.address && candidates.get(e.candidate()).is_some_and(|c| c.host == record.host)
        };
        let Some(endpoint) = name.endpoints.iter_mut().find(same) else { return };
        let Some(candidate) = candidates.get(endpoint.candidate()) else { return };
        endpoint.restore(record, candidate, &name.spec.policy, now);
        name.cold &= record.last_check.is_none();
        if endpoint.health.state == State::Unknown {
            return;
        }
        // Every host of a fleet keeps its own place in the interval through a restart of all of them.
        let (checks, interval) = (endpoint.checks.clone(), endpoint.interval());
        let due = record.last_check.unwrap_or(now).after(interval).max(now);
        for check in checks.iter() {
            self.resume_pace(check.target, due, interval);
        }
    }

    fn restore_answer(&mut self, record: &AnswerRecord) {
        let Some(&index) = self.index.get(&record.name) else { return };
        let name = &mut self.names[index];
        let family = &mut name.families[record.family.index()];
        family.addresses = shared(&record.addresses);
        let same = record.last_good == record.addresses;
        family.last_good = if same { Arc::clone(&family.addresses) } else { shared(&record.last_good) };
        family.since = record.since;
        // What a bypass put in front of it is put there anew.
        family.reason = self.common.share(own_reason(&record.reason));
        family.conflict.settle();
        let other = name.endpoints.iter().any(|e| Family::of(e.address) != record.family);
        let empty = |basis: Basis| other && record.addresses.is_empty() && record.basis == basis.as_str();
        if !record.addresses.is_empty() {
            family.plan = Plan::one(Arc::clone(&family.addresses), false);
            (family.basis, family.decided) = (Basis::Ranked, true);
        } else if empty(Basis::Empty) {
            (family.plan, family.basis, family.decided) = (Plan::Empty, Basis::Empty, true);
        } else if empty(Basis::NoAddress) {
            (family.plan, family.basis, family.decided) = (Plan::Empty, Basis::NoAddress, true);
            let hosts: Vec<Arc<str>> = name.hosts().cloned().collect();
            for host in &hosts {
                self.lookups.restore_empty(host, record.family);
            }
        }
    }

    /// A name as the new configuration has it, with what is known of it.
    ///
    /// What is equal stays where it is in memory: ten thousand names that move with each reload leave it full of holes.
    fn adopt(&mut self, spec: NameSpec, before: Option<Name>, now: Time) -> Name {
        let (mut name, old_spec) = match before {
            None => (Name::new(spec, now), None),
            Some(same) if same.spec == spec && same.hosts().next().is_none() => return unchanged(same),
            Some(mut other) => {
                let mut old = std::mem::replace(&mut other.spec, spec);
                std::mem::swap(&mut old.name, &mut other.spec.name);
                if old.candidates == other.spec.candidates {
                    std::mem::swap(&mut old.candidates, &mut other.spec.candidates);
                }
                // Until now nobody kept count of when it was asked for.
                if old.pace.idle_after.is_zero() {
                    other.last_asked = now;
                }
                (other, Some(old))
            }
        };
        let old_candidate = |endpoint: &Endpoint| old_spec.as_ref()?.candidates.get(endpoint.candidate());
        let mut old: Vec<Option<Endpoint>> = std::mem::take(&mut name.endpoints).into_iter().map(Some).collect();
        name.told = None;
        // Its size from the start, fifty thousand times: what is cut off leaves holes.
        name.endpoints.reserve_exact(name.spec.candidates.len());
        for family in &mut name.families {
            family.unwritten = true;
        }
        for (position, candidate) in name.spec.candidates.iter().enumerate() {
            for address in self.addresses_of(&candidate.host, name.spec.resolve_hold, now) {
                let kept = old.iter_mut().find(|slot| {
                    slot.as_ref().is_some_and(|e| {
                        e.address == address && old_candidate(e).is_some_and(|c| c.host == candidate.host)
                    })
                });
                let mut endpoint = match (kept.and_then(Option::take), &old_spec) {
                    (Some(endpoint), Some(old)) => carry_over(endpoint, old, position, candidate, &name.spec, now),
                    _ => Endpoint::new(position, address, candidate, &name.spec.pace, now),
                };
                if let Host::Name(host) = &candidate.host {
                    mark_resolution(&self.lookups, &mut endpoint, host);
                }
                name.endpoints.push(endpoint);
            }
        }
        name.endpoints.shrink_to_fit();
        self.removed.extend(
            old.into_iter()
                .flatten()
                .filter_map(|e| Some((Arc::clone(&name.spec.name), old_candidate(&e)?.host.clone(), e.address))),
        );
        name
    }

    /// Makes the endpoints of a host name's candidates agree with its addresses.
    pub(super) fn sync_host(&mut self, host: &Arc<str>, now: Time) {
        let users: Vec<usize> = self.host_users.get(host).into_iter().flatten().copied().collect();
        let longest = users.iter().map(|&index| self.names[index].spec.resolve_hold).max().unwrap_or_default();
        self.lookups.expire(host, longest, now);
        for index in users {
            self.sync_name(index, Some(host), now);
        }
        self.watch_hold(host, now);
    }

    /// A look-up of a host gave what is known: only the time of it is news.
    pub(super) fn refresh_host(&mut self, host: &Arc<str>) {
        for &index in self.host_users.get(host).into_iter().flatten() {
            let Some(name) = self.names.get_mut(index) else { continue };
            let candidates = &name.spec.candidates;
            let of_host = |e: &&mut Endpoint| matches!(candidates.get(e.candidate()), Some(c) if matches!(&c.host, Host::Name(name) if name == host));
            for endpoint in name.endpoints.iter_mut().filter(of_host) {
                mark_resolution(&self.lookups, endpoint, host);
            }
            self.changed.insert(index);
        }
    }

    /// Makes the endpoints of a name agree with the addresses of one of its hosts, or of all.
    fn sync_name(&mut self, index: usize, host: Option<&Arc<str>>, now: Time) {
        // A fallback name or a first look-up without addresses changes the answer too.
        self.dirty.insert(index);
        self.changed.insert(index);
        let spec = &self.names[index].spec;
        let concerned = |candidate: &CandidateSpec| match &candidate.host {
            Host::Name(name) => host.is_none_or(|host| host == name),
            Host::Address(_) => false,
        };
        let wanted: Vec<Option<Vec<IpAddr>>> = spec
            .candidates
            .iter()
            .map(|candidate| concerned(candidate).then(|| self.addresses_of(&candidate.host, spec.resolve_hold, now)))
            .collect();
        if wanted.iter().all(Option::is_none) {
            return;
        }
        let mut endpoints = std::mem::take(&mut self.names[index].endpoints);
        let stays = |endpoint: &mut Endpoint| {
            let wanted = wanted.get(endpoint.candidate()).and_then(Option::as_ref);
            wanted.is_none_or(|wanted| wanted.contains(&endpoint.address))
        };
        for endpoint in endpoints.extract_if(.., |endpoint| !stays(endpoint)) {
            for check in endpoint.checks.iter() {
                self.detach(check.target, User::new(index, endpoint.candidate()));
            }
            let spec = &self.names[index].spec;
            if let Some(candidate) = spec.candidates.get(endpoint.candidate()) {
                self.removed.push((Arc::clone(&spec.name), candidate.host.clone(), endpoint.address));
            }
        }
        let spec = &self.names[index].spec;
        for (position, (candidate, wanted)) in spec.candidates.iter().zip(&wanted).enumerate() {
            for &address in wanted.iter().flatten() {
                if !endpoints.iter().any(|e| e.candidate() == position && e.address == address) {
                    endpoints.push(Endpoint::new(position, address, candidate, &spec.pace, now));
                }
            }
            if let (Some(_), Host::Name(host)) = (wanted, &candidate.host) {
                for endpoint in endpoints.iter_mut().filter(|e| e.candidate() == position) {
                    mark_resolution(&self.lookups, endpoint, host);
                }
            }
        }
        endpoints.sort_by_key(|endpoint| endpoint.candidate());
        endpoints.shrink_to_fit();
        self.names[index].endpoints = endpoints;
        self.attach_all(index, now);
        self.apply_effects_to(index);
    }

    /// Gives every endpoint of a name its targets.
    fn attach_all(&mut self, index: usize, now: Time) {
        let mut endpoints = std::mem::take(&mut self.names[index].endpoints);
        for endpoint in &mut endpoints {
            let user = User::new(index, endpoint.candidate());
            let Some(candidate) = self.names[index].spec.candidates.get(endpoint.candidate()) else { continue };
            let checks: Vec<_> = candidate.checks.iter().filter(|check| !check.is_none).cloned().collect();
            let attached = endpoint.checks.iter().all(|check| self.is_user(check.target, user));
            if endpoint.checks.len() == checks.len() && attached {
                continue;
            }
            endpoint.checks = checks
                .iter()
                .map(|check| EndpointCheck::new(self.attach(user, endpoint.address, check, now)))
                .collect();
        }
        self.names[index].endpoints = endpoints;
    }

    /// Addresses of a candidate that a name with this hold still keeps.
    fn addresses_of(&self, host: &Host, hold: Duration, now: Time) -> Vec<IpAddr> {
        let host = match host {
            Host::Address(address) => return vec![*address],
            Host::Name(host) => host,
        };
        let Some(entry) = self.lookups.get(host) else { return Vec::new() };
        let kept =
            |address: IpAddr| entry.failing[Family::of(address).index()].is_none_or(|since| now.since(since) < hold);
        entry.addresses.iter().map(|known| known.address).filter(|address| kept(*address)).collect()
    }

    /// Sees to it that addresses of a host that does not resolve are dropped in time.
    fn watch_hold(&mut self, host: &Arc<str>, now: Time) {
        let Some(entry) = self.lookups.get(host) else { return };
        let known = |family: Family| entry.addresses.iter().any(|known| Family::of(known.address) == family);
        let failing: Vec<Time> =
            Family::BOTH.into_iter().filter(|f| known(*f)).filter_map(|f| entry.failing[f.index()]).collect();
        let users = self.host_users.get(host).into_iter().flatten();
        let holds: BTreeSet<Duration> = users.map(|&index| self.names[index].spec.resolve_hold).collect();
        for since in failing {
            for end in holds.iter().map(|hold| since.after(*hold)).filter(|end| *end > now) {
                self.timer(end, Timer::Hold(Arc::clone(host)));
            }
        }
    }
}

/// A list for all who keep it; an empty one takes no place.
fn shared(addresses: &[IpAddr]) -> Arc<[IpAddr]> {
    if addresses.is_empty() { Arc::default() } else { addresses.into() }
}

/// Notes when a look-up last gave an address, and whether its host still resolves.
fn mark_resolution(lookups: &Lookups, endpoint: &mut Endpoint, host: &Arc<str>) {
    let Some(entry) = lookups.get(host) else { return };
    let seen = entry.addresses.iter().find(|known| known.address == endpoint.address).map(|known| known.seen);
    let stale = entry.failing[Family::of(endpoint.address).index()].is_some();
    let seen = Moment::from(seen);
    endpoint.dirty |= endpoint.stale != stale || endpoint.resolved_at != seen;
    (endpoint.stale, endpoint.resolved_at) = (stale, seen);
}

/// What a reload makes of a name that is as it was and has addresses alone.
fn unchanged(mut name: Name) -> Name {
    name.told = None;
    name.families.iter_mut().for_each(|family| family.unwritten = true);
    name.endpoints.iter_mut().for_each(|endpoint| endpoint.dirty = true);
    name
}

/// What a reload makes of an endpoint whose host and address are as before.
fn carry_over(
    mut endpoint: Endpoint,
    old_spec: &NameSpec,
    position: usize,
    candidate: &CandidateSpec,
    spec: &NameSpec,
    now: Time,
) -> Endpoint {
    let same = old_spec.candidates.get(endpoint.candidate()).is_some_and(|old| is_checked_alike(old, candidate));
    endpoint.set_candidate(position);
    endpoint.dirty = true;
    if !same {
        endpoint.check_otherwise(candidate, now);
    }
    if old_spec.policy.latency != spec.policy.latency {
        endpoint.change_latency(spec.policy.latency);
    }
    endpoint.weigh(&spec.policy);
    endpoint
}

/// Whether what was learned of one holds for the other: by the words of their checks, as at a start. What is not in the
/// words (the patience, a password) changes how a check is run, not what it finds.
fn is_checked_alike(one: &CandidateSpec, other: &CandidateSpec) -> bool {
    let [one, other] = [one, other].map(|spec| spec.checks.iter().map(|check| &check.definition));
    one.eq(other)
}

/// Every host name and drain record with the shortest interval that a name wants.
fn wanted_lookups<'a>(specs: impl IntoIterator<Item = &'a NameSpec>) -> HashMap<(Arc<str>, LookupKind), Duration> {
    let mut wants: HashMap<(Arc<str>, LookupKind), Duration> = HashMap::new();
    let mut want = |host: &Arc<str>, kind: LookupKind, interval: Duration| {
        let wanted = wants.entry((Arc::clone(host), kind)).or_insert(interval);
        *wanted = interval.min(*wanted);
    };
    for spec in specs {
        for host in spec.candidates.iter().map(|candidate| &candidate.host).chain(&spec.fallback) {
            if let Host::Name(host) = host {
                want(host, LookupKind::Addresses, spec.resolve_interval);
            }
        }
        if let Some(record) = &spec.drain_record {
            want(record, LookupKind::DrainText, spec.resolve_interval);
        }
    }
    wants
}

fn longest_interval(specs: &[NameSpec]) -> Duration {
    let intervals = specs.iter().map(|spec| {
        let idle = if spec.pace.idle_after.is_zero() { Duration::ZERO } else { spec.pace.idle_interval };
        spec.pace.interval.max(idle)
    });
    intervals.max().unwrap_or_default()
}

#[cfg(test)]
mod tests;
