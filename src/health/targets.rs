//! The runs of checks behind the endpoints: one for each check of each address, shared by all names that want it.
//!
//! A target runs at the shortest interval that any of its users wants, and never twice at once. Its results go
//! to every user.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::few::Few;
use super::roster::Roster;
use super::schedule::{TargetId, jittered, next_slot};
use super::{CheckRef, Time};

/// One check of one address, for all who want the same.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: IpAddr,
    /// [`CheckRef::id`]
    pub(super) check: u32,
    /// Its results say something about this host's network.
    pub(super) is_witness: bool,
    /// Names and their candidates, in order.
    pub(super) users: Few<(usize, usize)>,
    pub(super) due: Time,
    pub(super) interval: Duration,
    pub(super) turn: u64,
    pub(super) running: bool,
    /// Runs at once when the running one has ended.
    pub(super) again: bool,
    /// When it last proved a working path, unless it was silent since.
    pub(super) proof: Option<Time>,
    /// Ran out of turn: its next run goes to this host's place in the interval.
    pub(super) align: bool,
}

impl Roster {
    /// The target of a check of an address, if anything uses it.
    pub fn target_of(&self, address: IpAddr, check: u32) -> Option<TargetId> {
        self.target_ids.get(&(address, check)).copied()
    }

    /// Lets go of all users, to be attached again.
    pub(super) fn detach_all(&mut self) {
        for target in self.targets.values_mut() {
            target.users.take();
        }
    }

    /// The target of a check of an address, with one more user; made if there is none, and then due at once.
    pub(super) fn attach(&mut self, user: (usize, usize), address: IpAddr, check: &CheckRef, now: Time) -> TargetId {
        if let Some(&id) = self.target_ids.get(&(address, check.id)) {
            if let Some(target) = self.targets.get_mut(&id) {
                target.users.insert_in_order(user);
            }
            return id;
        }
        self.last_target += 1;
        let id = TargetId(self.last_target);
        let target = Target {
            address,
            check: check.id,
            is_witness: check.own_address && !is_loopback(address),
            users: Few::One(user),
            due: now,
            interval: Duration::from_secs(1),
            turn: 0,
            running: false,
            again: false,
            proof: None,
            align: true,
        };
        self.targets.insert(id, target);
        self.target_ids.insert((address, check.id), id);
        self.queue.set(id, now);
        id
    }

    /// Takes a user from a target.
    pub(super) fn detach(&mut self, id: TargetId, user: (usize, usize)) {
        if let Some(target) = self.targets.get_mut(&id) {
            target.users.retain(|other| *other != user);
            self.drop_unused(id);
        }
    }

    /// Whether results of a target go to a user.
    pub(super) fn is_user(&self, id: TargetId, user: (usize, usize)) -> bool {
        self.targets.get(&id).is_some_and(|target| target.users.binary_search(&user).is_ok())
    }

    /// Drops every target without users.
    pub(super) fn drop_all_unused(&mut self) {
        let all: Vec<TargetId> = self.targets.keys().copied().collect();
        for id in all {
            self.drop_unused(id);
        }
    }

    pub(super) fn drop_unused(&mut self, id: TargetId) {
        let Some(target) = self.targets.get(&id).filter(|target| target.users.is_empty()) else { return };
        self.target_ids.remove(&(target.address, target.check));
        self.queue.remove(id);
        self.targets.remove(&id);
    }

    /// Puts the first check of a restored endpoint where its last one leads to.
    pub(super) fn resume_pace(&mut self, id: TargetId, at: Time, interval: Duration) {
        if let Some(target) = self.targets.get_mut(&id).filter(|target| !target.running) {
            target.interval = interval;
            target.align = false;
            self.queue.set(id, at);
        }
    }

    /// Makes sure that a check comes within the interval that its users want by now.
    pub(super) fn hasten(&mut self, id: TargetId, now: Time) {
        let wanted = self.wanted_interval(id, now);
        self.queue.hasten(id, now.after(wanted));
    }

    pub(super) fn run_now(&mut self, id: TargetId, now: Time) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        target.align = true;
        target.again = target.running;
        self.queue.hasten(id, now);
    }

    /// The shortest interval that any user wants.
    pub(super) fn wanted_interval(&self, id: TargetId, now: Time) -> Duration {
        let Some(target) = self.targets.get(&id) else { return Duration::MAX };
        let wanted = target.users.iter().filter_map(|&(name, candidate)| {
            let name = self.names.get(name)?;
            let endpoint = name.endpoints.iter().find(|e| e.candidate == candidate && e.address == target.address)?;
            Some(endpoint.wanted_interval(&name.spec.pace, name.is_idle(now)))
        });
        wanted.min().unwrap_or(Duration::from_secs(1))
    }

    /// Plans the next run of a target whose result is in. Its pace hangs on when it was due, not on how long
    /// it took; what fell behind runs once, not once for every turn it missed.
    pub(super) fn reschedule(&mut self, id: TargetId, now: Time) {
        let wanted = self.wanted_interval(id, now);
        let Some(target) = self.targets.get_mut(&id) else { return };
        target.turn += 1;
        target.interval = wanted;
        let steady = target.users.iter().all(|&(name, candidate)| {
            let endpoints = self.names.get(name).map(|name| name.endpoints.as_slice()).unwrap_or_default();
            let own = |e: &&Endpoint| e.candidate == candidate && e.address == target.address;
            !endpoints.iter().find(own).is_some_and(|endpoint| endpoint.health.wavers())
        });
        let next = if std::mem::take(&mut target.again) {
            now
        } else if target.align && steady {
            target.align = false;
            next_slot(now, wanted, self.machine, target.address.to_string().as_bytes())
        } else {
            target.due.after(jittered(wanted, self.machine, id.0, target.turn))
        };
        self.queue.set(id, next.max(now));
        let (users, address) = (target.users.take(), target.address);
        // The other checks of the same endpoints; each once, however many names share it.
        let mut others: BTreeSet<TargetId> = BTreeSet::new();
        for &(name, candidate) in users.iter() {
            let Some(entry) = self.names.get_mut(name) else { continue };
            let own = |e: &&mut Endpoint| e.candidate == candidate && e.address == address;
            let Some(endpoint) = entry.endpoints.iter_mut().find(own) else { continue };
            endpoint.interval = wanted;
            others.extend(endpoint.checks.iter().map(|check| check.target).filter(|other| *other != id));
            self.watch_staleness(name);
        }
        if let Some(target) = self.targets.get_mut(&id) {
            target.users = users;
        }
        for other in others {
            self.hasten(other, now);
        }
    }
}

/// Loopback says nothing about this host's network.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
