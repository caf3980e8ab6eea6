//! The names that something happened to: their records are to be written, and what they add to the counts of the status
//! line is to be taken again. The others, which may be ten thousand with fifty thousand addresses, are not walked
//! through for it.

use std::collections::BTreeSet;

use super::endpoint::Endpoint;
use super::roster::Name;
use super::{Outcome, State};

/// Names by their index.
#[derive(Debug, Default)]
pub(super) struct Changed {
    unwritten: BTreeSet<usize>,
    /// Where among them the next one is taken from: in turn, so that none waits for ever.
    next: usize,
    /// What each name adds to `sum`, and whether it stands in `uncounted`.
    parts: Vec<(Counts, bool)>,
    uncounted: Vec<u32>,
    sum: Counts,
}

/// How many addresses are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Names of which nothing is fit.
    pub without_fit: u32,
    pub up: u32,
    pub down: u32,
    pub unknown: u32,
    /// Whose last check could not be made.
    pub unable: u32,
}

impl Changed {
    /// So many names, of which nothing is known yet.
    pub fn begin(&mut self, names: usize) {
        self.unwritten.clear();
        self.uncounted.clear();
        self.parts.clear();
        self.parts.resize(names, Default::default());
        self.parts.shrink_to_fit();
        self.sum = Counts::default();
    }

    /// Something happened to a name.
    pub fn insert(&mut self, name: usize) {
        self.unwritten.insert(name);
        if let Some((_, waits)) = self.parts.get_mut(name).filter(|(_, waits)| !waits) {
            *waits = true;
            self.uncounted.push(name as u32);
        }
    }

    /// Whether records wait to be written.
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// A name whose records are to be written; it leaves.
    pub fn next_unwritten(&mut self) -> Option<usize> {
        let next = *self.unwritten.range(self.next..).next().or_else(|| self.unwritten.first())?;
        self.unwritten.remove(&next);
        self.next = next + 1;
        Some(next)
    }

    /// The counts of all names, of which only those are looked at that something happened to since the last call.
    pub fn counts(&mut self, names: &[Name]) -> Counts {
        // After a first round of all they are many, which would be kept for the few of later.
        for index in std::mem::take(&mut self.uncounted).into_iter().map(|index| index as usize) {
            if let (Some((part, waits)), Some(name)) = (self.parts.get_mut(index), names.get(index)) {
                let now = Counts::of(&name.endpoints);
                self.sum = self.sum.without(*part).with(now);
                (*part, *waits) = (now, false);
            }
        }
        self.sum
    }
}

impl Counts {
    /// Those of one name.
    pub fn of(endpoints: &[Endpoint]) -> Counts {
        let mut counts =
            Counts { without_fit: u32::from(!endpoints.iter().any(Endpoint::is_fit)), ..Counts::default() };
        for endpoint in endpoints {
            counts.unable += u32::from(endpoint.last_outcome() == Some(Outcome::LocalError));
            match endpoint.health.state {
                State::Up => counts.up += 1,
                State::Down => counts.down += 1,
                State::Unknown => counts.unknown += 1,
            }
        }
        counts
    }

    pub fn with(self, other: Counts) -> Counts {
        self.by(other, u32::saturating_add)
    }

    fn without(self, other: Counts) -> Counts {
        self.by(other, u32::saturating_sub)
    }

    fn by(self, other: Counts, apply: impl Fn(u32, u32) -> u32) -> Counts {
        Counts {
            without_fit: apply(self.without_fit, other.without_fit),
            up: apply(self.up, other.up),
            down: apply(self.down, other.down),
            unknown: apply(self.unknown, other.unknown),
            unable: apply(self.unable, other.unable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::world::{START, World, ok, refused, spec};

    fn world(names: usize) -> World {
        let specs = (0..names).map(|name| spec(&format!("n{name}.example"), &["10.0.0.1", "10.0.0.2"])).collect();
        World::new(
            specs,
            Box::new(|address, _, _| if address.to_string().ends_with('1') { ok(5.0) } else { refused() }),
        )
    }

    #[test]
    fn only_what_changed_is_looked_at() {
        let mut world = world(3);
        let unknown = Counts { without_fit: 3, unknown: 6, ..Counts::default() };
        assert_eq!(world.roster.changed.counts(&world.roster.names), unknown);
        world.run(std::time::Duration::from_secs(20));
        let now = Counts { up: 3, down: 3, ..Counts::default() };
        assert_eq!(world.roster.changed.counts(&world.roster.names), now);
        // What nobody tells of is not seen.
        for name in &mut world.roster.names {
            name.endpoints[0].health.state = State::Down;
        }
        assert_eq!(world.roster.changed.counts(&world.roster.names), now);
        world.roster.changed.insert(1);
        world.roster.changed.insert(1);
        let one_less = Counts { without_fit: 1, up: 2, down: 4, ..Counts::default() };
        assert_eq!(world.roster.changed.counts(&world.roster.names), one_less);
        assert_eq!(world.roster.changed.counts(&world.roster.names), one_less);
    }

    #[test]
    fn fewer_names_leave_nothing_of_the_others() {
        let mut world = world(3);
        world.run(std::time::Duration::from_secs(20));
        let left = Counts { up: 1, down: 1, ..Counts::default() };
        world.roster.configure(vec![spec("n2.example", &["10.0.0.1", "10.0.0.2"])], START);
        assert_eq!(world.roster.changed.counts(&world.roster.names), left);
        world.roster.changed.insert(2);
        assert_eq!(world.roster.changed.counts(&world.roster.names), left);
    }

    #[test]
    fn records_are_taken_in_turn() {
        let mut changed = Changed::default();
        changed.begin(4);
        [0, 2, 3].into_iter().for_each(|name| changed.insert(name));
        assert_eq!(changed.next_unwritten(), Some(0));
        changed.insert(0);
        assert_eq!([changed.next_unwritten(), changed.next_unwritten(), changed.next_unwritten()], [2, 3, 0].map(Some));
        assert_eq!((changed.next_unwritten(), changed.has_unwritten()), (None, false));
    }
}
