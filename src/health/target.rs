//! The runs of checks there are: a table of them, found by what is checked, in the order in which they are due.
//!
//! There are fifty thousand of them with ten thousand names. They stand in one row, and all that points to one is its
//! place in that row: a tree or a hash table of keys would need as much memory as the targets themselves.

use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashTable;

use super::compact::Moment;
use super::few::Few;
use super::hash::hash;
use super::schedule::TargetId;
use super::{CheckRef, Time};

/// Who wants a target's results: a candidate of a name, by their places. A configuration of more of either than 32 bits
/// can count does not fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct User {
    name: u32,
    candidate: u32,
}

impl User {
    /// The candidate with that index of the name with that index.
    pub(super) fn new(name: usize, candidate: usize) -> User {
        User { name: name as u32, candidate: candidate as u32 }
    }

    /// Index of the name.
    pub(super) fn name(self) -> usize {
        self.name as usize
    }

    /// Index of the candidate in the name.
    pub(super) fn candidate(self) -> usize {
        self.candidate as usize
    }
}

/// One check of one address, for all who want the same.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: IpAddr,
    /// [`CheckRef::id`]
    pub(super) check: u32,
    /// In order.
    pub(super) users: Few<User>,
    /// When its next run is due, or its running one was.
    due: Moment,
    /// Where it stands in the queue, or [`NOT_QUEUED`].
    seat: u32,
    /// Up to 49 days; a configured interval is a day at most.
    interval_ms: u32,
    /// Runs so far, round and round: it makes one run's jitter differ from the last one's.
    pub(super) turn: u16,
    marks: u8,
    /// When it last proved a working path, unless it was silent since.
    pub(super) proof: Moment,
    /// Targets that there had been with it, which tells it from others in its place.
    serial: u32,
}

/// What can be so of a target, each a bit: it is there fifty thousand times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mark {
    /// Its results say something about this host's network.
    Witness = 1,
    /// Handed out, and its result has not come.
    Running = 2,
    /// Runs at once when the running one has ended.
    Again = 4,
    /// Ran out of turn: its next run goes to this host's place in the interval.
    Align = 8,
}

const NOT_QUEUED: u32 = u32::MAX;

impl Target {
    /// One that nobody runs yet.
    pub(super) fn new(address: IpAddr, check: &CheckRef, user: User) -> Target {
        let mut target = Target {
            address,
            check: check.id,
            users: Few::One(user),
            due: Time(0).into(),
            seat: NOT_QUEUED,
            interval_ms: 1000,
            turn: 0,
            marks: 0,
            proof: Moment::NEVER,
            serial: 0,
        };
        target.set(Mark::Witness, check.own_address && !is_loopback(address));
        target.set(Mark::Align, true);
        target
    }

    /// Whether it is so.
    pub(super) fn is(&self, mark: Mark) -> bool {
        self.marks & mark as u8 != 0
    }

    /// It is so from now on, or not.
    pub(super) fn set(&mut self, mark: Mark, on: bool) {
        self.marks = if on { self.marks | mark as u8 } else { self.marks & !(mark as u8) };
    }

    /// What it runs at.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.into())
    }

    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
    }

    /// When its next run is due, or its running one was.
    pub(super) fn due(&self) -> Time {
        self.due.get().unwrap_or(Time(u64::MAX))
    }

    /// Nobody has taken its next run out of the queue.
    pub(super) fn is_queued(&self) -> bool {
        self.seat != NOT_QUEUED
    }
}

/// Loopback says nothing about this host's network.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// All targets.
#[derive(Debug, Default)]
pub(super) struct Targets {
    places: Vec<Option<Target>>,
    vacant: Vec<u32>,
    /// Targets that there have been.
    serial: u32,
    /// Places by address and check.
    index: HashTable<u32>,
    /// Places in the order in which they are due: a heap, the first one is due first.
    queue: Vec<u32>,
    /// Places by address; `None` = they changed since it was asked for.
    by_address: Option<Box<[u32]>>,
}

/// Finding them.
impl Targets {
    /// The target with an id.
    pub(super) fn get(&self, id: TargetId) -> Option<&Target> {
        self.places.get(place(id))?.as_ref().filter(|target| u64::from(target.serial) == serial(id))
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, id: TargetId) -> Option<&mut Target> {
        self.places.get_mut(place(id))?.as_mut().filter(|target| u64::from(target.serial) == serial(id))
    }

    /// The one of a check of an address.
    pub(super) fn find(&self, address: IpAddr, check: u32) -> Option<TargetId> {
        let is_it =
            |place: &u32| self.at(*place).is_some_and(|target| (target.address, target.check) == (address, check));
        let &place = self.index.find(key(address, check), is_it)?;
        self.at(place).map(|target| id(target.serial, place))
    }

    /// The ids of all.
    pub(super) fn ids(&self) -> impl Iterator<Item = TargetId> {
        self.places.iter().zip(0..).filter_map(|(target, place)| Some(id(target.as_ref()?.serial, place)))
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Target> {
        self.places.iter_mut().flatten()
    }

    /// Puts them in the order of their addresses, for [`Targets::listed_from`].
    pub(super) fn put_in_order(&mut self) {
        if self.by_address.is_none() {
            let occupied = self.places.iter().zip(0..).filter(|(target, _)| target.is_some());
            let mut places: Vec<u32> = occupied.map(|(_, place)| place).collect();
            places.sort_unstable_by_key(|&place| self.at(place).map(|target| (target.address, target.check)));
            self.by_address = Some(places.into());
        }
    }

    /// From an address on, or all, if they were put in order since they changed.
    pub(super) fn listed_from(&self, first: Option<IpAddr>) -> impl Iterator<Item = &Target> {
        let all = self.by_address.as_deref().unwrap_or_default();
        let before = |place: &u32| self.at(*place).map(|target| target.address) < first;
        let begin = first.map_or(0, |_| all.partition_point(before));
        all.iter().skip(begin).filter_map(|&place| self.at(place))
    }

    /// A new one, which gets an id.
    pub(super) fn insert(&mut self, target: Target) -> TargetId {
        self.serial = self.serial.wrapping_add(1);
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(None);
            // One more than there were: as many addresses as that do not fit into memory.
            (self.places.len() - 1) as u32
        });
        let own = key(target.address, target.check);
        self.places[place as usize] = Some(Target { serial: self.serial, seat: NOT_QUEUED, ..target });
        let places = &self.places;
        let key_of =
            |place: &u32| places[*place as usize].as_ref().map_or(0, |target| key(target.address, target.check));
        self.index.insert_unique(own, place, key_of);
        self.by_address = None;
        id(self.serial, place)
    }

    pub(super) fn remove(&mut self, id: TargetId) {
        let Some(target) = self.get(id) else { return };
        let (own, seat) = (key(target.address, target.check), target.seat);
        let at = place(id) as u32;
        if seat != NOT_QUEUED {
            self.unseat(seat as usize);
        }
        if let Ok(entry) = self.index.find_entry(own, |other| *other == at) {
            entry.remove();
        }
        self.places[at as usize] = None;
        self.vacant.push(at);
        self.by_address = None;
    }

    fn at(&self, place: u32) -> Option<&Target> {
        self.places.get(place as usize)?.as_ref()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ids().count()
    }
}

/// The queue. Each target knows its seat, so that it can be moved.
impl Targets {
    /// Puts a target into the queue, or moves it.
    pub(super) fn enqueue(&mut self, id: TargetId, at: Time) {
        let end = self.queue.len();
        let Some(target) = self.get_mut(id) else { return };
        target.due = at.into();
        let seat = if target.is_queued() { target.seat as usize } else { end };
        if seat == end {
            self.queue.push(place(id) as u32);
        }
        self.settle(seat);
    }

    /// When the first one is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.at(*self.queue.first()?).map(Target::due)
    }

    /// The next one that is due, taken out of the queue.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<TargetId> {
        let &place = self.queue.first()?;
        let first = self.at(place).filter(|target| target.due() <= now)?;
        let id = id(first.serial, place);
        self.unseat(0);
        Some(id)
    }

    /// Takes who has a seat out of the queue; the last one sits down there.
    fn unseat(&mut self, seat: usize) {
        let gone = self.queue.swap_remove(seat);
        if let Some(Some(target)) = self.places.get_mut(gone as usize) {
            target.seat = NOT_QUEUED;
        }
        if seat < self.queue.len() {
            self.settle(seat);
        }
    }

    /// Moves who sits somewhere to where it belongs: up past those that are due later, or else down.
    fn settle(&mut self, mut seat: usize) {
        let mover = self.queue[seat];
        let due = self.due(mover);
        while let Some(above) = seat.checked_sub(1).map(|below| below / 2)
            && due < self.due(self.queue[above])
        {
            self.sit(self.queue[above], seat);
            seat = above;
        }
        loop {
            let left = 2 * seat + 1;
            let Some(lower) = (left..self.queue.len().min(left + 2)).min_by_key(|&at| self.due(self.queue[at])) else {
                break;
            };
            if due < self.due(self.queue[lower]) {
                break;
            }
            self.sit(self.queue[lower], seat);
            seat = lower;
        }
        self.sit(mover, seat);
    }

    fn sit(&mut self, place: u32, seat: usize) {
        self.queue[seat] = place;
        if let Some(Some(target)) = self.places.get_mut(place as usize) {
            target.seat = seat as u32;
        }
    }

    /// What the order goes by: of those due at one time the oldest is first.
    fn due(&self, place: u32) -> (Time, u32) {
        self.at(place).map_or((Time(u64::MAX), 0), |target| (target.due(), target.serial))
    }
}

/// By what the index finds a target.
fn key(address: IpAddr, check: u32) -> u64 {
    let check = check.to_be_bytes();
    match address {
        IpAddr::V4(address) => hash(0, &[&address.octets(), &check]),
        IpAddr::V6(address) => hash(0, &[&address.octets(), &check]),
    }
}

/// The serial number ahead: ids are in the order in which they were given out.
fn id(serial: u32, place: u32) -> TargetId {
    TargetId(u64::from(serial) << 32 | u64::from(place))
}

/// Where in [`Targets`] an id leads.
fn place(id: TargetId) -> usize {
    (id.0 & u64::from(u32::MAX)) as usize
}

/// How many targets there had been with an id's own.
pub(super) fn serial(id: TargetId) -> u64 {
    id.0 >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(last: u8, check: u32) -> Target {
        let check = CheckRef { id: check, definition: "".into(), is_none: false, own_address: true, exclusive: false };
        Target::new(IpAddr::from([192, 0, 2, last]), &check, User::new(0, 0))
    }

    #[test]
    fn an_id_means_one_target_for_good() {
        let mut targets = Targets::default();
        let [first, second] = [1, 2].map(|check| targets.insert(target(1, check)));
        targets.remove(first);
        targets.remove(first);
        let third = targets.insert(target(1, 3));
        assert!(targets.get(first).is_none() && targets.get_mut(first).is_none(), "its place is another's by now");
        assert_eq!([second, third].map(|id| targets.get(id).map(|target| target.check)), [Some(2), Some(3)]);
        assert!(first < second && second < third, "in the order in which they came");
        assert_eq!((targets.len(), targets.places.len()), (2, 2));
    }

    #[test]
    fn a_target_keeps_its_size() {
        assert!(size_of::<Option<Target>>() <= 64, "{} bytes, fifty thousand times", size_of::<Option<Target>>());
    }

    proptest! {
        /// Against a plain list: who is found, who is due, who comes in the order of addresses.
        #[test]
        fn they_are_found_and_due_in_order(steps in proptest::collection::vec((0u8..5, 0u8..12, 0u64..40), 1..200)) {
            let mut targets = Targets::default();
            let mut known: Vec<(TargetId, u8, Option<u64>)> = Vec::new();
            for (step, last, at) in steps {
                let found = targets.find(IpAddr::from([192, 0, 2, last]), 7);
                let own = known.iter().position(|(_, other, _)| *other == last);
                prop_assert_eq!(found, own.map(|own| known[own].0));
                match (step, own) {
                    (0 | 1, None) => known.push((targets.insert(target(last, 7)), last, None)),
                    (0 | 1, Some(own)) => {
                        targets.enqueue(known[own].0, Time(at));
                        known[own].2 = Some(at);
                    }
                    (2, Some(own)) => targets.remove(known.remove(own).0),
                    (3, _) => {
                        let due = |(id, _, at): &(TargetId, u8, Option<u64>)| at.map(|at| (at, *id));
                        let first = known.iter().filter_map(due).min();
                        prop_assert_eq!(targets.next_due(), first.map(|(at, _)| Time(at)));
                        let first = first.filter(|(due, _)| *due <= at).map(|(_, id)| id);
                        prop_assert_eq!(targets.pop_due(Time(at)), first);
                        known.iter_mut().filter(|(id, ..)| Some(*id) == first).for_each(|popped| popped.2 = None);
                    }
                    (4, _) => {
                        targets.put_in_order();
                        let from = IpAddr::from([192, 0, 2, last]);
                        let mut expected: Vec<u8> = known.iter().map(|(_, other, _)| *other).collect();
                        expected.retain(|other| *other >= last);
                        expected.sort_unstable();
                        let expected: Vec<IpAddr> = expected.iter().map(|last| [192, 0, 2, *last].into()).collect();
                        let listed: Vec<IpAddr> = targets.listed_from(Some(from)).map(|target| target.address).collect();
                        prop_assert_eq!(listed, expected);
                    }
                    _ => {}
                }
            }
        }
    }
}
