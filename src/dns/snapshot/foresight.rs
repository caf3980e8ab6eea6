//! What a query will read of the table, told before it is read.
//!
//! Among ten thousand names hardly anything that a look-up touches is in a near cache, and a processor waits for one
//! place after the other: the slot, then the key, the answer and its counter. Of a batch all queries can be looked at
//! ahead, a step for all before the next one, so that it waits for all of them at once. These are guesses that nothing
//! depends on: a name in odd case, below a wildcard or beside its first slot is found as ever, a little later.

use std::sync::Arc;

use super::super::name::MAX_NAME;
use super::super::table;
use super::super::wire::{HEADER, rtype};
use super::{Entry, Family, Snapshot, State, Turns};

/// From this many names on they do not fit into the nearest caches, and looking ahead pays.
const MANY: usize = 1000;

/// The question of a message as it stands, for a guess.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glance {
    hash: u32,
    rtype: u16,
}

impl Glance {
    /// The first question's; nothing of a message that has none.
    fn at(message: &[u8]) -> Option<Glance> {
        let question = message.get(HEADER..)?;
        let mut end = 0;
        while let Some(&length @ 1..) = question.get(end) {
            end += usize::from(length) + 1;
        }
        let name = question.get(..=end).filter(|name| name.len() <= MAX_NAME)?;
        let rtype = question.get(end + 1..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))?;
        Some(Glance { hash: table::hash(name), rtype })
    }
}

impl Snapshot {
    /// Whether looking ahead pays.
    pub fn is_large(&self) -> bool {
        self.entries.len() >= MANY
    }

    /// The first step: `fetch` is told where the name of a message is looked for.
    pub fn foresee(&self, message: &[u8], fetch: impl Fn(*const u8)) -> Option<Glance> {
        let glance = Glance::at(message)?;
        fetch((&raw const *self.exact.first_slot(glance.hash)?).cast());
        Some(glance)
    }

    /// The second step: the key and the answer. The index of the name, if the slot says one.
    pub fn foresee_answer(&self, glance: Glance, fetch: impl Fn(*const u8)) -> Option<u32> {
        let (key, name) = self.exact.guess(glance.hash)?;
        fetch(key);
        fetch((&raw const *self.family(name, glance)?).cast());
        // All that is no address of the other family is read in front of them.
        fetch((&raw const *self.entry(name)?).cast());
        Some(name)
    }

    /// The third step: what counts how often the answer was given.
    pub fn foresee_count(&self, name: u32, glance: Glance, fetch: impl Fn(*const u8)) {
        if let Some(State::Addresses { turns: Turns::One(turn), .. }) = self.family(name, glance).map(|it| &it.state) {
            fetch(Arc::as_ptr(&turn.given).cast());
        }
    }

    fn family(&self, name: u32, glance: Glance) -> Option<&Family> {
        let Entry { v4, v6, .. } = self.entry(name)?;
        Some(if glance.rtype == rtype::AAAA { v6 } else { v4 })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::super::super::wire::tests::wire_name;
    use super::super::{FamilyAnswer, NameAnswer, NameSettings, OtherTypes, Turn};
    use super::*;

    fn snapshot(names: u32) -> Snapshot {
        let settings = |index| NameSettings {
            name: format!("n{index}.example").parse().unwrap(),
            ttl: 1,
            other_types: OtherTypes::Forward,
        };
        Snapshot::new((0..names).map(settings).collect(), &[])
    }

    fn question(name: &str, rtype: u16) -> Vec<u8> {
        let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(wire_name(name));
        message.extend(rtype.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    #[test]
    fn every_place_that_an_answer_is_read_from_is_told() {
        let mut snapshot = snapshot(2000);
        let given = Arc::new(AtomicU64::new(0));
        let turn = Turn { addresses: vec!["2001:db8::1".parse().unwrap()], given: Arc::clone(&given) };
        let v6 = FamilyAnswer::Addresses { turns: vec![turn], stale: false };
        snapshot.set(1234, NameAnswer { bypass: false, v4: FamilyAnswer::Empty, v6 });
        let told = RefCell::new(Vec::new());
        let fetch = |place: *const u8| told.borrow_mut().push(place.addr());
        let glance = snapshot.foresee(&question("n1234.example", rtype::AAAA), fetch).unwrap();
        assert_eq!(snapshot.foresee_answer(glance, fetch), Some(1234));
        snapshot.foresee_count(1234, glance, fetch);
        let entry = &raw const snapshot.entries[1234];
        let family = &raw const snapshot.entries[1234].v6;
        for place in [entry.addr(), family.addr(), Arc::as_ptr(&given).addr()] {
            assert!(told.borrow().contains(&place), "{place:x} in {told:x?}");
        }
        assert_eq!(told.borrow().len(), 5, "and the slot and the key");
        assert!(snapshot.is_large());
    }

    #[test]
    fn most_names_are_foreseen() {
        let snapshot = snapshot(10_000);
        let foreseen = |index: &u32| {
            let glance = snapshot.foresee(&question(&format!("n{index}.example"), rtype::A), |_| {}).unwrap();
            snapshot.foresee_answer(glance, |_| {}) == Some(*index)
        };
        let right = (0..10_000).filter(foreseen).count();
        assert!(right > 7000, "{right} of 10,000 are in their first slot");
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(message in prop::collection::vec(any::<u8>(), 0..600), names in 0..3u32) {
            let snapshot = snapshot(names);
            if let Some(glance) = snapshot.foresee(&message, |_| {})
                && let Some(name) = snapshot.foresee_answer(glance, |_| {}) {
                snapshot.foresee_count(name, glance, |_| {});
                prop_assert!(name < names);
            }
        }
    }
}
