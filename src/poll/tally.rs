//! How often each address was given out.
//!
//! The event loop counts whole answers (a [`Turn`](crate::dns::snapshot::Turn) each can tell how often it was given); this
//! side knows which addresses a turn holds. A turn that was replaced is read until the event loop has let go of it,
//! so that no answer is lost between two versions.

use std::net::IpAddr;
use std::sync::Arc;

use crate::dns::given::Given;
use crate::dns::lines::{Family, NameTable};
use crate::health::few::Few;
use crate::os::{self, memory};

/// A configured name's index and one of its addresses.
pub type Key = (usize, IpAddr);

/// Counters of answers given, by name and address.
#[derive(Default)]
pub struct Tally {
    /// By name, of the table that answers are made for now.
    turns: Vec<Few<Watched>>,
    /// Of tables that were replaced: name and turn.
    old: Vec<(usize, Watched)>,
}

/// How many names later what is fetched is there.
const AHEAD: usize = 16;

struct Watched {
    addresses: Arc<[IpAddr]>,
    stale: bool,
    given: Arc<Given>,
    seen: u64,
}

impl Watched {
    /// How often since the last call. `now`: what the counter of its name says; `None` = it is of a table that was replaced,
    /// and counted when it has ended: with that table, a moment later.
    fn more(&mut self, now: Option<u64>) -> u64 {
        let Some(given) = self.given.count(now) else { return 0 };
        let more = given.saturating_sub(self.seen);
        self.seen += more;
        more
    }

    /// Takes what was given since the last call; `false` when that was all, since nobody holds it any more.
    fn take(&mut self, name: usize, now: Option<u64>, counts: &mut Vec<(Key, u64)>) -> bool {
        // The order matters: what the loop adds before it lets go must be seen by what is read below.
        let held = Arc::strong_count(&self.given) > 1;
        let more = self.more(now);
        if more > 0 {
            counts.extend(self.addresses.iter().map(|&address| ((name, address), more)));
        }
        held
    }

    fn family(&self) -> Family {
        self.addresses.first().map_or(Family::V4, |address| Family::of(*address))
    }
}

impl Tally {
    /// From now on answers are made for another table. `places`: by a name's index in the one before, that in this one, if
    /// it still has the name. What is given of one that it has not is not counted any more.
    pub fn begin_table(&mut self, places: &[Option<usize>]) {
        let place = |name: usize| places.get(name).copied().flatten();
        let old = std::mem::take(&mut self.old);
        self.old.extend(old.into_iter().filter_map(|(name, turn)| Some((place(name)?, turn))));
        for (name, turns) in std::mem::take(&mut self.turns).into_iter().enumerate() {
            if let Some(name) = place(name) {
                self.old.extend(turns.into_vec().into_iter().map(|turn| (name, turn)));
            }
        }
    }

    /// Answers of so many names are to come.
    pub fn make_room(&mut self, names: usize) {
        self.turns.reserve_exact(names.saturating_sub(self.turns.len()));
    }

    /// For a new answer of `name`, marked stale or not.
    pub fn watch(&mut self, name: usize, addresses: &Arc<[IpAddr]>, stale: bool) -> Arc<Given> {
        if self.turns.len() <= name {
            self.turns.resize_with(name + 1, Few::default);
        }
        let turns = &mut self.turns[name];
        // Answers may change often with nobody asking.
        turns.retain(|turn| Arc::strong_count(&turn.given) > 1 || turn.given.count(None) != Some(turn.seen));
        let given = Arc::<Given>::default();
        turns.push(Watched { addresses: Arc::clone(addresses), stale, given: Arc::clone(&given), seen: 0 });
        given
    }

    /// Has the processor fetch what will be read of a name: of many, hardly any is near.
    fn foresee(&self, name: Option<usize>) {
        for turn in name.and_then(|name| self.turns.get(name)).into_iter().flat_map(|turns| turns.iter()) {
            memory::fetch(turn.addresses.as_ptr().cast());
            memory::fetch(Arc::as_ptr(&turn.given).cast());
        }
    }

    /// What was given since the last call, in the order of names and addresses; turns that nobody holds any more are let go.
    ///
    /// `table`: the one that answers are made for; `moved`: the names in it of which anything was counted since then, as
    /// read before this call. Each turn has places of its own in memory; those of the others, which may be ten thousand,
    /// are not read.
    pub fn collect(&mut self, table: &NameTable, moved: &[usize]) -> Vec<(Key, u64)> {
        let mut counts: Vec<(Key, u64)> = Vec::new();
        self.old.retain_mut(|(name, turn)| turn.take(*name, None, &mut counts));
        if self.old.is_empty() {
            self.old = Vec::new();
        }
        for (row, &name) in moved.iter().enumerate() {
            os::breathe(row);
            self.foresee(moved.get(row + AHEAD).copied());
            let Some(turns) = self.turns.get_mut(name) else { continue };
            turns.retain(|turn| {
                let now = table.addresses_given(name as u32, turn.family(), turn.stale);
                turn.take(name, Some(now), &mut counts)
            });
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
    use crate::dns::answer::{self, Kind, QueryKind, Transport, Verdict, Waiting};
    use crate::dns::snapshot::{FamilyAnswer, NameAnswer, NameSettings, OtherTypes, Snapshot, Turn};

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn snapshot(generation: u64) -> Snapshot {
        let settings = NameSettings { name: "a.example".parse().unwrap(), ttl: 1, other_types: OtherTypes::Forward };
        Snapshot::new(generation, vec![settings], &[])
    }

    fn one_turn(tally: &mut Tally, addresses: &[IpAddr], stale: bool) -> NameAnswer {
        one_turn_of(tally, 0, addresses, stale)
    }

    fn one_turn_of(tally: &mut Tally, name: usize, addresses: &[IpAddr], stale: bool) -> NameAnswer {
        let turn = Turn { addresses: addresses.to_vec(), given: tally.watch(name, &addresses.into(), stale) };
        let v4 = FamilyAnswer::Addresses { turns: vec![turn], stale };
        NameAnswer { v4, v6: FamilyAnswer::Empty, bypass: false }
    }

    fn collect(tally: &mut Tally, table: &NameTable) -> Vec<(Key, u64)> {
        let moved: Vec<usize> = table.take_moved(false).collect();
        tally.collect(table, &moved)
    }

    /// Turns that are kept.
    fn kept(tally: &Tally) -> usize {
        tally.old.len() + tally.turns.iter().map(|turns| turns.len()).sum::<usize>()
    }

    fn give(snapshot: &Snapshot, times: u64, kind: Kind) {
        (0..times).for_each(|_| snapshot.counters().name(0).unwrap().count_reply(QueryKind::A, kind));
    }

    #[test]
    fn a_replaced_answer_is_counted_to_its_end() {
        let (mut tally, mut snapshot) = (Tally::default(), snapshot(0));
        snapshot.set(0, one_turn(&mut tally, &[ONE], false));
        give(&snapshot, 3, Kind::A);
        let coming = one_turn(&mut tally, &[TWO], false);
        assert_eq!(collect(&mut tally, snapshot.counters()), [((0, ONE), 3)]);
        give(&snapshot, 2, Kind::A);
        snapshot.set(0, coming);
        give(&snapshot, 4, Kind::A);
        assert_eq!(collect(&mut tally, snapshot.counters()), [((0, ONE), 2), ((0, TWO), 4)]);
        assert_eq!(kept(&tally), 1, "the first turn is let go");
        assert!(collect(&mut tally, snapshot.counters()).is_empty());
        // What is marked stale is counted elsewhere.
        snapshot.set(0, one_turn(&mut tally, &[ONE], true));
        give(&snapshot, 5, Kind::Stale);
        assert_eq!(collect(&mut tally, snapshot.counters()), [((0, ONE), 5)]);
        snapshot.set(0, NameAnswer { v4: FamilyAnswer::Empty, v6: FamilyAnswer::Empty, bypass: false });
        assert!(collect(&mut tally, snapshot.counters()).is_empty());
    }

    #[test]
    fn what_was_given_before_a_reload_is_counted_where_the_name_stands_now() {
        let settings =
            |name: &str| NameSettings { name: name.parse().unwrap(), ttl: 1, other_types: OtherTypes::Forward };
        let mut old = Snapshot::new(0, ["a.example", "b.example", "c.example"].map(settings).into(), &[]);
        let mut tally = Tally::default();
        for name in 0..3 {
            old.set(name, one_turn_of(&mut tally, name as usize, &[ONE], false));
            (0..=name).for_each(|_| old.counters().name(name).unwrap().count_reply(QueryKind::A, Kind::A));
        }
        // a stands behind c, and b is gone; in the next one c is gone too.
        tally.begin_table(&[Some(1), None, Some(0)]);
        tally.begin_table(&[None, Some(0)]);
        let new = snapshot(2);
        assert_eq!(collect(&mut tally, new.counters()), []);
        drop(old);
        assert_eq!((collect(&mut tally, new.counters()), kept(&tally)), (vec![((0, ONE), 1)], 0));
    }

    #[test]
    fn turns_that_nobody_holds_are_let_go_before_they_are_many() {
        let (mut tally, mut snapshot) = (Tally::default(), snapshot(0));
        let mut given = 0;
        for round in 0..500 {
            snapshot.set(0, one_turn(&mut tally, &[ONE], false));
            // Nobody asks between most changes.
            if round % 50 == 0 {
                give(&snapshot, 1, Kind::A);
            }
            given += collect(&mut tally, snapshot.counters()).iter().map(|(_, more)| more).sum::<u64>();
            assert!(kept(&tally) <= 2, "round {round}: {} turns", kept(&tally));
        }
        assert_eq!(given, 10);
    }

    #[test]
    fn each_of_several_turns_is_counted() {
        let (mut tally, mut snapshot) = (Tally::default(), snapshot(0));
        let turns = [ONE, TWO].map(|one| {
            let given = tally.watch(0, &[one].into(), false);
            Turn { addresses: vec![one], given }
        });
        let v4 = FamilyAnswer::Addresses { turns: turns.to_vec(), stale: false };
        snapshot.set(0, NameAnswer { v4, v6: FamilyAnswer::Empty, bypass: false });
        let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
        let ask = |times| {
            for _ in 0..times {
                let verdict = answer::answer(&snapshot, query, Transport::Udp, Waiting::Over, &mut Vec::new());
                assert!(matches!(verdict, Verdict::Reply { kind: Kind::A, .. }));
                // As the loop does: its turn first, the name then.
                give(&snapshot, 1, Kind::A);
            }
        };
        assert!(collect(&mut tally, snapshot.counters()).is_empty());
        ask(3);
        assert_eq!(collect(&mut tally, snapshot.counters()), [((0, ONE), 2), ((0, TWO), 1)]);
        ask(1);
        assert_eq!(collect(&mut tally, snapshot.counters()), [((0, TWO), 1)]);
    }

    #[test]
    fn an_answer_of_a_table_that_was_replaced_is_counted_when_it_is_gone() {
        let (mut tally, mut old) = (Tally::default(), snapshot(0));
        old.set(0, one_turn(&mut tally, &[ONE], false));
        give(&old, 3, Kind::A);
        assert_eq!(collect(&mut tally, old.counters()), [((0, ONE), 3)]);
        tally.begin_table(&[Some(0)]);
        let mut new = snapshot(1);
        new.set(0, one_turn(&mut tally, &[TWO], false));
        // The loop has not taken the new one yet.
        give(&old, 2, Kind::A);
        assert!(collect(&mut tally, new.counters()).is_empty());
        drop(old);
        give(&new, 1, Kind::A);
        assert_eq!(collect(&mut tally, new.counters()), [((0, ONE), 2), ((0, TWO), 1)]);
        assert_eq!(kept(&tally), 1);
    }
}
