//! How often each address was given out.
//!
//! The event loop counts whole answers (a [`Turn`](crate::dns::snapshot::Turn) each can tell how often it was given); this
//! side knows which addresses a turn holds. A turn that was replaced is read until the event loop has let go of it,
//! so that no answer is lost between two versions.

use std::net::IpAddr;
use std::sync::Arc;

use crate::dns::lines::{Family, Given, NameTable};

/// A configured name's index and one of its addresses.
pub type Key = (usize, IpAddr);

/// Counters of answers given, by name and address.
#[derive(Default)]
pub struct Tally {
    turns: Vec<Watched>,
    /// The table that answers are made for now.
    generation: u64,
}

struct Watched {
    name: u32,
    stale: bool,
    generation: u64,
    addresses: Arc<[IpAddr]>,
    given: Arc<Given>,
    seen: u64,
}

impl Watched {
    /// How often since the last call.
    fn more(&mut self, table: &NameTable) -> u64 {
        let family = self.addresses.first().map_or(Family::V4, |address| Family::of(*address));
        // Of a table that was replaced it is counted when it has ended: with that table, a moment later.
        let of_table = table.generation == self.generation;
        let now = of_table.then(|| table.addresses_given(self.name, family, self.stale));
        let Some(given) = self.given.count(now) else { return 0 };
        let more = given.saturating_sub(self.seen);
        self.seen += more;
        more
    }
}

impl Tally {
    /// From now on answers are made for another table.
    pub fn begin_table(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// For a new answer of `name`, marked stale or not.
    pub fn watch(&mut self, name: usize, addresses: &Arc<[IpAddr]>, stale: bool) -> Arc<Given> {
        let given = Arc::<Given>::default();
        self.turns.push(Watched {
            name: name as u32,
            stale,
            generation: self.generation,
            addresses: Arc::clone(addresses),
            given: Arc::clone(&given),
            seen: 0,
        });
        given
    }

    /// What was given since the last call, in the order of names and addresses; turns that nobody holds any more are let go.
    pub fn collect(&mut self, table: &NameTable) -> Vec<(Key, u64)> {
        let mut counts: Vec<(Key, u64)> = Vec::new();
        self.turns.retain_mut(|turn| {
            // The order matters: what the loop adds before it lets go must be seen by what is read below.
            let held = Arc::strong_count(&turn.given) > 1;
            let more = turn.more(table);
            if more > 0 {
                counts.extend(turn.addresses.iter().map(|&address| ((turn.name as usize, address), more)));
            }
            held
        });
        // A reload leaves room for twice as many.
        if self.turns.len() < self.turns.capacity() / 2 {
            self.turns.shrink_to_fit();
        }
        // In order, since what is looked up for each lies in that order, too.
        counts.sort_unstable_by_key(|(key, _)| *key);
        counts.dedup_by(|(key, more), (before, sum)| {
            let same = key == before;
            *sum += if same { *more } else { 0 };
            same
        });
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::answer::{Kind, QueryKind};
    use crate::dns::snapshot::{FamilyAnswer, NameAnswer, NameSettings, OtherTypes, Snapshot, Turn};

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn snapshot(generation: u64) -> Snapshot {
        let settings = NameSettings { name: "a.example".parse().unwrap(), ttl: 1, other_types: OtherTypes::Forward };
        Snapshot::new(generation, vec![settings], &[])
    }

    fn answer(tally: &mut Tally, addresses: &[IpAddr], stale: bool) -> NameAnswer {
        let turn = Turn { addresses: addresses.to_vec(), given: tally.watch(0, &addresses.into(), stale) };
        let v4 = FamilyAnswer::Addresses { turns: vec![turn], stale };
        NameAnswer { v4, v6: FamilyAnswer::Empty, bypass: false }
    }

    fn give(snapshot: &Snapshot, times: u64, kind: Kind) {
        (0..times).for_each(|_| snapshot.counters().name(0).unwrap().count_reply(QueryKind::A, kind));
    }

    #[test]
    fn a_replaced_answer_is_counted_to_its_end() {
        let (mut tally, mut snapshot) = (Tally::default(), snapshot(0));
        snapshot.set(0, answer(&mut tally, &[ONE], false));
        give(&snapshot, 3, Kind::A);
        let coming = answer(&mut tally, &[TWO], false);
        assert_eq!(tally.collect(snapshot.counters()), [((0, ONE), 3)]);
        give(&snapshot, 2, Kind::A);
        snapshot.set(0, coming);
        give(&snapshot, 4, Kind::A);
        assert_eq!(tally.collect(snapshot.counters()), [((0, ONE), 2), ((0, TWO), 4)]);
        assert_eq!(tally.turns.len(), 1, "the first turn is let go");
        assert!(tally.collect(snapshot.counters()).is_empty());
        // What is marked stale is counted elsewhere.
        snapshot.set(0, answer(&mut tally, &[ONE], true));
        give(&snapshot, 5, Kind::Stale);
        assert_eq!(tally.collect(snapshot.counters()), [((0, ONE), 5)]);
        snapshot.set(0, NameAnswer { v4: FamilyAnswer::Empty, v6: FamilyAnswer::Empty, bypass: false });
        assert!(tally.collect(snapshot.counters()).is_empty() && tally.turns.is_empty());
    }

    #[test]
    fn an_answer_of_a_table_that_was_replaced_is_counted_when_it_is_gone() {
        let (mut tally, mut old) = (Tally::default(), snapshot(0));
        old.set(0, answer(&mut tally, &[ONE], false));
        give(&old, 3, Kind::A);
        assert_eq!(tally.collect(old.counters()), [((0, ONE), 3)]);
        tally.begin_table(1);
        let mut new = snapshot(1);
        new.set(0, answer(&mut tally, &[TWO], false));
        // The loop has not taken the new one yet.
        give(&old, 2, Kind::A);
        assert!(tally.collect(new.counters()).is_empty());
        drop(old);
        give(&new, 1, Kind::A);
        assert_eq!(tally.collect(new.counters()), [((0, ONE), 2), ((0, TWO), 1)]);
        assert_eq!(tally.turns.len(), 1);
    }
}
