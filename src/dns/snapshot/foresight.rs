//! What a query will read of the table, told before it is read.
//!
//! Among ten thousand names hardly anything that a look-up touches is in a near cache, and a processor waits for one
//! place after the other: the slot, then the key and the line. Of a batch all queries can be looked at ahead, a step for
//! all before the next one, so that it waits for all of them at once. These are guesses that nothing
//! depends on: a name in odd case, below a wildcard or beside its first slot is found as ever, a little later.

use super::super::name::MAX_NAME;
use super::super::table;
use super::super::wire::HEADER;
use super::Snapshot;

/// From this many names on they do not fit into the nearest caches, and looking ahead pays.
const MANY: usize = 1000;

/// The name in a question, for a guess.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    hash: u32,
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
        Some(Glance { hash: table::hash(name) })
    }
}

impl Snapshot {
    /// Whether looking ahead pays.
    pub fn is_large(&self) -> bool {
        self.settings.len() >= MANY
    }

    /// The first step: `fetch` is told where the name of a message is looked for.
    pub fn foresee(&self, message: &[u8], fetch: impl Fn(*const u8)) -> Option<Glance> {
        let glance = Glance::at(message)?;
        fetch((&raw const *self.exact.first_slot(glance.hash)?).cast());
        Some(glance)
    }

    /// The second step: the key, and the line of the name, if the slot says one.
    pub fn foresee_line(&self, glance: Glance, fetch: impl Fn(*const u8)) {
        if let Some((key, name)) = self.exact.guess(glance.hash) {
            fetch(key);
            if let Some(line) = self.table.line(name) {
                fetch((&raw const *line).cast());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::super::super::wire::tests::wire_name;
    use super::super::{NameSettings, OtherTypes};
    use super::*;

    fn snapshot(names: u32) -> Snapshot {
        let settings = |index| NameSettings {
            name: format!("n{index}.example").parse().unwrap(),
            ttl: 1,
            other_types: OtherTypes::Forward,
        };
        Snapshot::new(0, (0..names).map(settings).collect(), &[])
    }

    fn question(name: &str) -> Vec<u8> {
        let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(wire_name(name));
        message.extend([0, 1, 0, 1]);
        message
    }

    /// Whether all is told that an answer for the name with that index is read from.
    fn is_foreseen(snapshot: &Snapshot, index: u32) -> bool {
        let told = RefCell::new(Vec::new());
        let fetch = |place: *const u8| told.borrow_mut().push(place.addr());
        let glance = snapshot.foresee(&question(&format!("n{index}.example")), fetch).unwrap();
        snapshot.foresee_line(glance, fetch);
        let line = &raw const *snapshot.line(index).unwrap();
        let told = told.into_inner();
        told.len() == 3 && told.contains(&line.addr())
    }

    #[test]
    fn most_names_are_foreseen() {
        let snapshot = snapshot(10_000);
        let right = (0..10_000).filter(|&index| is_foreseen(&snapshot, index)).count();
        assert!(right > 7000, "{right} of 10,000 are in their first slot");
        assert!(snapshot.is_large());
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(message in prop::collection::vec(any::<u8>(), 0..600), names in 0..3u32) {
            let snapshot = snapshot(names);
            if let Some(glance) = snapshot.foresee(&message, |_| {}) {
                snapshot.foresee_line(glance, |_| {});
            }
        }
    }
}
