//! The runs of checks behind the endpoints: one for each check of each address, shared by all names that want it.
//!
//! A target runs at the shortest interval that any of its users wants, and never twice at once. Its results go
//! to every user.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::roster::Roster;
use super::schedule::{TargetId, jittered, next_slot};
use super::target::{Mark, Target, User, serial};
use super::{CheckRef, Time};

impl Roster {
    /// The target of a check of an address, if anything uses it.
    pub fn target_of(&self, address: IpAddr, check: u32) -> Option<TargetId> {
        self.targets.find(address, check)
    }

    /// Lets go of all users, to be attached again.
    pub(super) fn detach_all(&mut self) {
        for target in self.targets.all_mut() {
            target.users.take();
        }
    }

    /// The target of a check of an address, with one more user; made if there is none, and then due at once.
    pub(super) fn attach(&mut self, user: User, address: IpAddr, check: &CheckRef, now: Time) -> TargetId {
        if let Some(id) = self.targets.find(address, check.id) {
            if let Some(target) = self.targets.get_mut(id) {
                target.users.insert_in_order(user);
            }
            return id;
        }
        let id = self.targets.insert(Target::new(address, check, user));
        self.targets.enqueue(id, now);
        id
    }

    /// Moves a target forward; does nothing when it is not queued or due earlier already.
    fn hasten_to(&mut self, id: TargetId, at: Time) {
        if self.targets.get(id).is_some_and(|target| target.is_queued() && target.due() > at) {
            self.targets.enqueue(id, at);
        }
    }

    /// Takes a user from a target.
    pub(super) fn detach(&mut self, id: TargetId, user: User) {
        if let Some(target) = self.targets.get_mut(id) {
            target.users.retain(|other| *other != user);
            self.drop_unused(id);
        }
    }

    /// Whether results of a target go to a user.
    pub(super) fn is_user(&self, id: TargetId, user: User) -> bool {
        self.targets.get(id).is_some_and(|target| target.users.binary_search(&user).is_ok())
    }

    /// Drops every target without users.
    pub(super) fn drop_all_unused(&mut self) {
        let all: Vec<TargetId> = self.targets.ids().collect();
        for id in all {
            self.drop_unused(id);
        }
    }

    pub(super) fn drop_unused(&mut self, id: TargetId) {
        if self.targets.get(id).is_some_and(|target| target.users.is_empty()) {
            self.targets.remove(id);
        }
    }

    /// Puts the first check of a restored endpoint where its last one leads to; of several endpoints' it is the
    /// earliest.
    pub(super) fn resume_pace(&mut self, id: TargetId, at: Time, interval: Duration) {
        let Some(target) = self.targets.get_mut(id).filter(|target| !target.is(Mark::Running)) else { return };
        let is_first = target.is(Mark::Align);
        if is_first || interval < target.interval() {
            target.set_interval(interval);
        }
        if is_first || at < target.due() {
            target.set(Mark::Align, false);
            self.targets.enqueue(id, at);
        }
    }

    /// Makes sure that a check comes within the interval that its users want by now.
    pub(super) fn hasten(&mut self, id: TargetId, now: Time) {
        // Nothing is wanted sooner than now, which all are at a start.
        if self.targets.get(id).is_none_or(|target| !target.is_queued() || target.due() <= now) {
            return;
        }
        let wanted = self.wanted_interval(id, now);
        self.hasten_to(id, now.after(wanted));
    }

    pub(super) fn run_now(&mut self, id: TargetId, now: Time) {
        let Some(target) = self.targets.get_mut(id) else { return };
        target.set(Mark::Align, true);
        target.set(Mark::Again, target.is(Mark::Running));
        self.hasten_to(id, now);
    }

    /// The shortest interval that any user wants.
    pub(super) fn wanted_interval(&self, id: TargetId, now: Time) -> Duration {
        let Some(target) = self.targets.get(id) else { return Duration::MAX };
        let wanted = target.users.iter().filter_map(|user| {
            let name = self.names.get(user.name())?;
            let own = |e: &&Endpoint| e.candidate() == user.candidate() && e.address == target.address;
            let endpoint = name.endpoints.iter().find(own)?;
            Some(endpoint.wanted_interval(&name.spec.pace, name.is_idle(now)))
        });
        wanted.min().unwrap_or(Duration::from_secs(1))
    }

    /// Plans the next run of a target whose result is in. Its pace hangs on when it was due, not on how long
    /// it took; what fell behind runs once, not once for every turn it missed.
    pub(super) fn reschedule(&mut self, id: TargetId, now: Time) {
        let wanted = self.wanted_interval(id, now);
        let Some(target) = self.targets.get_mut(id) else { return };
        target.turn = target.turn.wrapping_add(1);
        target.set_interval(wanted);
        let steady = target.users.iter().all(|user| {
            let endpoints = self.names.get(user.name()).map(|name| name.endpoints.as_slice()).unwrap_or_default();
            let own = |e: &&Endpoint| e.candidate() == user.candidate() && e.address == target.address;
            !endpoints.iter().find(own).is_some_and(|endpoint| endpoint.health.wavers())
        });
        let next = if target.is(Mark::Again) {
            target.set(Mark::Again, false);
            now
        } else if target.is(Mark::Align) && steady {
            target.set(Mark::Align, false);
            next_slot(now, wanted, self.machine, target.address.to_string().as_bytes())
        } else {
            target.due().after(jittered(wanted, self.machine, serial(id), target.turn.into()))
        };
        let (users, address) = (target.users.take(), target.address);
        self.targets.enqueue(id, next.max(now));
        // The other checks of the same endpoints; each once, however many names share it.
        let mut others: BTreeSet<TargetId> = BTreeSet::new();
        for user in users.iter() {
            let Some(entry) = self.names.get_mut(user.name()) else { continue };
            let own = |e: &&mut Endpoint| e.candidate() == user.candidate() && e.address == address;
            let Some(endpoint) = entry.endpoints.iter_mut().find(own) else { continue };
            // An observation takes a result of each of its checks: it comes as often as the slowest of them.
            let intervals = endpoint.checks.iter().filter_map(|check| self.targets.get(check.target));
            let slowest = intervals.map(Target::interval).max().unwrap_or(wanted);
            endpoint.set_interval(slowest);
            others.extend(endpoint.checks.iter().map(|check| check.target).filter(|other| *other != id));
            self.watch_staleness(user.name(), now);
        }
        if let Some(target) = self.targets.get_mut(id) {
            target.users = users;
        }
        for other in others {
            self.hasten(other, now);
        }
    }
}
