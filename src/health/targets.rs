//! The runs of checks behind the endpoints: one for each check of each address, shared by all names that want it.
//!
//! A target runs at the shortest interval that any of its users wants, and never twice at once. Its results go
//! to every user.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::compact::Moment;
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
    /// When its next run is due, or its running one was.
    pub(super) due: Time,
    /// In [`Roster::queue`].
    queued: bool,
    interval_ms: u64,
    turn: u32,
    pub(super) running: bool,
    /// Runs at once when the running one has ended.
    again: bool,
    /// When it last proved a working path, unless it was silent since.
    pub(super) proof: Moment,
    /// Ran out of turn: its next run goes to this host's place in the interval.
    align: bool,
}

impl Target {
    /// What it runs at.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    fn set_interval(&mut self, interval: Duration) {
        self.interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    }
}

/// Targets by their ids, in a row: a hash table would need twice the place.
#[derive(Debug, Default)]
pub(super) struct Targets {
    places: Vec<Option<(TargetId, Target)>>,
    vacant: Vec<u32>,
    /// Targets that there have been.
    serial: u32,
}

impl Targets {
    /// The target with an id.
    pub(super) fn get(&self, id: TargetId) -> Option<&Target> {
        self.places.get(place(id))?.as_ref().filter(|(own, _)| *own == id).map(|(_, target)| target)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, id: TargetId) -> Option<&mut Target> {
        self.places.get_mut(place(id))?.as_mut().filter(|(own, _)| *own == id).map(|(_, target)| target)
    }

    /// The ids of all.
    pub(super) fn ids(&self) -> impl Iterator<Item = TargetId> {
        self.places.iter().flatten().map(|(id, _)| *id)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Target> {
        self.places.iter_mut().flatten().map(|(_, target)| target)
    }

    /// A new one, which gets an id.
    fn insert(&mut self, target: Target) -> TargetId {
        self.serial = self.serial.wrapping_add(1);
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(None);
            // One more than there were: as many addresses as that do not fit into memory.
            (self.places.len() - 1) as u32
        });
        // The serial number ahead: ids are in the order in which they were given out.
        let id = TargetId(u64::from(self.serial) << 32 | u64::from(place));
        self.places[place as usize] = Some((id, target));
        id
    }

    fn remove(&mut self, id: TargetId) {
        if self.get(id).is_some() {
            self.places[place(id)] = None;
            self.vacant.push(id.0 as u32);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ids().count()
    }
}

/// Where in [`Targets`] an id leads.
fn place(id: TargetId) -> usize {
    (id.0 & u64::from(u32::MAX)) as usize
}

/// How many targets there had been with an id's own.
fn serial(id: TargetId) -> u64 {
    id.0 >> 32
}

impl Roster {
    /// The target of a check of an address, if anything uses it.
    pub fn target_of(&self, address: IpAddr, check: u32) -> Option<TargetId> {
        self.target_ids.get(&(address, check)).copied()
    }

    /// Lets go of all users, to be attached again.
    pub(super) fn detach_all(&mut self) {
        for target in self.targets.all_mut() {
            target.users.take();
        }
    }

    /// The target of a check of an address, with one more user; made if there is none, and then due at once.
    pub(super) fn attach(&mut self, user: (usize, usize), address: IpAddr, check: &CheckRef, now: Time) -> TargetId {
        if let Some(&id) = self.target_ids.get(&(address, check.id)) {
            if let Some(target) = self.targets.get_mut(id) {
                target.users.insert_in_order(user);
            }
            return id;
        }
        let target = Target {
            address,
            check: check.id,
            is_witness: check.own_address && !is_loopback(address),
            users: Few::One(user),
            due: now,
            queued: false,
            interval_ms: 1000,
            turn: 0,
            running: false,
            again: false,
            proof: Moment::NEVER,
            align: true,
        };
        let id = self.targets.insert(target);
        self.target_ids.insert((address, check.id), id);
        self.enqueue(id, now);
        id
    }

    /// Puts a target into the queue, or moves it.
    fn enqueue(&mut self, id: TargetId, at: Time) {
        let Some(target) = self.targets.get_mut(id) else { return };
        let before = std::mem::replace(&mut target.due, at);
        if std::mem::replace(&mut target.queued, true) {
            self.queue.remove(&(before, id));
        }
        self.queue.insert((at, id));
    }

    /// Moves a target forward; does nothing when it is not queued or due earlier already.
    fn hasten_to(&mut self, id: TargetId, at: Time) {
        if self.targets.get(id).is_some_and(|target| target.queued && target.due > at) {
            self.enqueue(id, at);
        }
    }

    /// The next target that is due, taken out of the queue.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<TargetId> {
        let &(at, id) = self.queue.first().filter(|(at, _)| *at <= now)?;
        self.queue.remove(&(at, id));
        if let Some(target) = self.targets.get_mut(id) {
            target.queued = false;
        }
        Some(id)
    }

    /// Takes a user from a target.
    pub(super) fn detach(&mut self, id: TargetId, user: (usize, usize)) {
        if let Some(target) = self.targets.get_mut(id) {
            target.users.retain(|other| *other != user);
            self.drop_unused(id);
        }
    }

    /// Whether results of a target go to a user.
    pub(super) fn is_user(&self, id: TargetId, user: (usize, usize)) -> bool {
        self.targets.get(id).is_some_and(|target| target.users.binary_search(&user).is_ok())
    }

    /// Drops every target without users.
    pub(super) fn drop_all_unused(&mut self) {
        let all: Vec<TargetId> = self.targets.ids().collect();
        for id in all {
            self.drop_unused(id);
        }
    }

    /// Puts the indexes into as few pages as they need: for after all names were gone through.
    pub(super) fn pack_targets(&mut self) {
        self.target_ids = std::mem::take(&mut self.target_ids).into_iter().collect();
        self.queue = std::mem::take(&mut self.queue).into_iter().collect();
    }

    pub(super) fn drop_unused(&mut self, id: TargetId) {
        let Some(target) = self.targets.get(id).filter(|target| target.users.is_empty()) else { return };
        self.target_ids.remove(&(target.address, target.check));
        self.queue.remove(&(target.due, id));
        self.targets.remove(id);
    }

    /// Puts the first check of a restored endpoint where its last one leads to.
    pub(super) fn resume_pace(&mut self, id: TargetId, at: Time, interval: Duration) {
        if let Some(target) = self.targets.get_mut(id).filter(|target| !target.running) {
            target.set_interval(interval);
            target.align = false;
            self.enqueue(id, at);
        }
    }

    /// Makes sure that a check comes within the interval that its users want by now.
    pub(super) fn hasten(&mut self, id: TargetId, now: Time) {
        // Nothing is wanted sooner than now, which all are at a start.
        if self.targets.get(id).is_none_or(|target| !target.queued || target.due <= now) {
            return;
        }
        let wanted = self.wanted_interval(id, now);
        self.hasten_to(id, now.after(wanted));
    }

    pub(super) fn run_now(&mut self, id: TargetId, now: Time) {
        let Some(target) = self.targets.get_mut(id) else { return };
        target.align = true;
        target.again = target.running;
        self.hasten_to(id, now);
    }

    /// The shortest interval that any user wants.
    pub(super) fn wanted_interval(&self, id: TargetId, now: Time) -> Duration {
        let Some(target) = self.targets.get(id) else { return Duration::MAX };
        let wanted = target.users.iter().filter_map(|&(name, candidate)| {
            let name = self.names.get(name)?;
            let endpoint = name.endpoints.iter().find(|e| e.candidate() == candidate && e.address == target.address)?;
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
        let steady = target.users.iter().all(|&(name, candidate)| {
            let endpoints = self.names.get(name).map(|name| name.endpoints.as_slice()).unwrap_or_default();
            let own = |e: &&Endpoint| e.candidate() == candidate && e.address == target.address;
            !endpoints.iter().find(own).is_some_and(|endpoint| endpoint.health.wavers())
        });
        let next = if std::mem::take(&mut target.again) {
            now
        } else if target.align && steady {
            target.align = false;
            next_slot(now, wanted, self.machine, target.address.to_string().as_bytes())
        } else {
            target.due.after(jittered(wanted, self.machine, serial(id), target.turn.into()))
        };
        let (users, address) = (target.users.take(), target.address);
        self.enqueue(id, next.max(now));
        // The other checks of the same endpoints; each once, however many names share it.
        let mut others: BTreeSet<TargetId> = BTreeSet::new();
        for &(name, candidate) in users.iter() {
            let Some(entry) = self.names.get_mut(name) else { continue };
            let own = |e: &&mut Endpoint| e.candidate() == candidate && e.address == address;
            let Some(endpoint) = entry.endpoints.iter_mut().find(own) else { continue };
            endpoint.set_interval(wanted);
            others.extend(endpoint.checks.iter().map(|check| check.target).filter(|other| *other != id));
            self.watch_staleness(name);
        }
        if let Some(target) = self.targets.get_mut(id) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_means_one_target_for_good() {
        let target = |check| Target {
            address: IpAddr::from([192, 0, 2, 1]),
            check,
            is_witness: false,
            users: Few::default(),
            due: Time(0),
            queued: false,
            interval_ms: 0,
            turn: 0,
            running: false,
            again: false,
            proof: Moment::NEVER,
            align: false,
        };
        let mut targets = Targets::default();
        let [first, second] = [1, 2].map(|check| targets.insert(target(check)));
        targets.remove(first);
        targets.remove(first);
        let third = targets.insert(target(3));
        assert!(targets.get(first).is_none() && targets.get_mut(first).is_none(), "its place is another's by now");
        assert_eq!([second, third].map(|id| targets.get(id).map(|target| target.check)), [Some(2), Some(3)]);
        assert!(first < second && second < third, "in the order in which they came");
        assert_eq!((targets.len(), targets.places.len()), (2, 2));
    }
}
