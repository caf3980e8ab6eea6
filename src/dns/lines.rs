//! What a query for a configured name reads and writes, in one cache line.
//!
//! Among ten thousand names hardly anything that a query touches is in a near cache, so that it costs what it touches.
//! The answer that most names have, one address of a family or none, therefore stands beside the counters of its being
//! given: a `Line`. What is rarer is counted apart.
//!
//! One thread owns a [`NameTable`]: it answers from it and counts. Every other thread may read the counters while it
//! does: atomics that are plain numbers to the processor, never locked. How often a single answer was given needs no
//! counter of its own: [`Given`](super::given::Given) notes where its name's counter stood when it began and when it ended.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::answer::{Kind, QueryKind};
use super::snapshot::OtherTypes;

/// A number that only its owner adds to and everybody reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        // One thread adds, so that two plain instructions do what would otherwise take a locked one.
        self.set(self.0.load(Ordering::Relaxed) + 1);
    }

    /// The value now. What its owner wrote before it came to this is seen as well.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Another value, from its owner.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }
}

/// The place of an address family in pairs: 0 for A, 1 for AAAA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A.
    V4,
    /// AAAA.
    V6,
}

impl Family {
    /// Both, in their order.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// What is answered for a family of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// SERVFAIL: nothing is known yet.
    NotReady,
    /// NOERROR without addresses.
    Empty,
    /// SERVFAIL: all down.
    AllDown,
    /// Asked upstream.
    Forward,
    /// The one address in the line.
    One,
    /// More than a line holds.
    More,
}

/// [`State`] with what else is so of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub state: State,
    /// A query waits a while before it gets `state`.
    pub waiting: bool,
    /// Addresses are marked with EDE 3.
    pub stale: bool,
}

impl Standing {
    const STATE: u8 = 7;
    const WAITING: u8 = 8;
    const STALE: u8 = 16;

    fn packed(self) -> u8 {
        self.state as u8
            | if self.waiting { Standing::WAITING } else { 0 }
            | if self.stale { Standing::STALE } else { 0 }
    }

    fn unpacked(byte: u8) -> Standing {
        let state = match byte & Standing::STATE {
            1 => State::Empty,
            2 => State::AllDown,
            3 => State::Forward,
            4 => State::One,
            5 => State::More,
            _ => State::NotReady,
        };
        Standing { state, waiting: byte & Standing::WAITING != 0, stale: byte & Standing::STALE != 0 }
    }
}

/// All that most queries for a name need.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Line {
    asked_ms: AtomicU64,
    /// Answers with addresses that were not stale.
    given: [Count; 2],
    /// The empty answers that most names give, to AAAA.
    empty_v6: Count,
    v6: [AtomicU64; 2],
    v4: AtomicU32,
    ttl: AtomicU32,
    standings: [AtomicU8; 2],
    /// [`Line::BYPASS`] and the [`OtherTypes`].
    whole: AtomicU8,
    /// Set by whoever lets the name rest, cleared by the owner with the query that ends the rest.
    idle: AtomicBool,
    /// The turn of the next answer. It goes on when the answer is replaced, so that frequent changes do not favour the
    /// first turn.
    turns: [AtomicU16; 2],
}

impl Default for Line {
    fn default() -> Line {
        let waiting = || Standing { state: State::NotReady, waiting: true, stale: false }.packed().into();
        Line {
            asked_ms: AtomicU64::default(),
            given: Default::default(),
            empty_v6: Count::default(),
            v6: Default::default(),
            v4: AtomicU32::default(),
            ttl: AtomicU32::default(),
            standings: [waiting(), waiting()],
            whole: AtomicU8::default(),
            idle: AtomicBool::default(),
            turns: Default::default(),
        }
    }
}

impl Line {
    const BYPASS: u8 = 4;
    const OTHER_TYPES: u8 = 3;

    /// TTL of the answers, seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl.load(Ordering::Relaxed)
    }

    /// What types other than A and AAAA get.
    pub fn other_types(&self) -> OtherTypes {
        match self.whole.load(Ordering::Relaxed) & Line::OTHER_TYPES {
            0 => OtherTypes::Forward,
            1 => OtherTypes::NoHints,
            _ => OtherTypes::NoData,
        }
    }

    /// Whether the whole name is forwarded.
    pub fn is_bypassed(&self) -> bool {
        self.whole.load(Ordering::Relaxed) & Line::BYPASS != 0
    }

    /// What never changes.
    pub fn configure(&self, ttl: u32, other_types: OtherTypes) {
        let other_types = match other_types {
            OtherTypes::Forward => 0,
            OtherTypes::NoHints => 1,
            OtherTypes::NoData => 2,
        };
        self.ttl.store(ttl, Ordering::Relaxed);
        self.whole.store(other_types, Ordering::Relaxed);
    }

    pub fn set_bypass(&self, bypass: bool) {
        let other_types = self.whole.load(Ordering::Relaxed) & Line::OTHER_TYPES;
        self.whole.store(other_types | if bypass { Line::BYPASS } else { 0 }, Ordering::Relaxed);
    }

    pub fn standing(&self, family: Family) -> Standing {
        Standing::unpacked(self.standings[family as usize].load(Ordering::Relaxed))
    }

    pub fn set_standing(&self, family: Family, standing: Standing) {
        self.standings[family as usize].store(standing.packed(), Ordering::Relaxed);
    }

    /// The address of [`State::One`] for A.
    pub fn v4(&self) -> Ipv4Addr {
        self.v4.load(Ordering::Relaxed).into()
    }

    /// The same for AAAA.
    pub fn v6(&self) -> Ipv6Addr {
        let [high, low] = [&self.v6[0], &self.v6[1]].map(|half| u128::from(half.load(Ordering::Relaxed)));
        (high << 64 | low).into()
    }

    pub fn set_address(&self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.v4.store(address.into(), Ordering::Relaxed),
            IpAddr::V6(address) => {
                let bits = u128::from(address);
                self.v6[0].store((bits >> 64) as u64, Ordering::Relaxed);
                self.v6[1].store(bits as u64, Ordering::Relaxed);
            }
        }
    }

    /// The next of so many turns.
    pub fn next_turn(&self, family: Family, turns: usize) -> usize {
        let next = &self.turns[family as usize];
        let turn = next.load(Ordering::Relaxed);
        next.store(turn.wrapping_add(1), Ordering::Relaxed);
        usize::from(turn) % turns.max(1)
    }
}

/// What is counted of a name besides; by family, or by [`QueryKind`] where there are three.
#[derive(Debug, Default)]
struct Rest {
    stale: [Count; 2],
    all_down: [Count; 2],
    not_ready: [Count; 2],
    /// To A and to other types.
    empty: [Count; 2],
    /// Handed to the forwarder.
    forwarded: [Count; 3],
    /// What became of those: an upstream server's reply, or SERVFAIL for want of one.
    relayed: Count,
    unreached: Count,
    unanswered: [Count; 3],
}

/// How many names make a [`Group`].
const NEIGHBOURS: usize = 64;

/// What neighbours have together: of ten thousand names few are asked for.
#[derive(Debug, Default)]
struct Group {
    /// Something was counted of one of them. Whoever reads the counters clears it before and finds what has moved without
    /// reading them all.
    moved: AtomicBool,
    /// Made once one of them needs some: these counters are more than everything else that the table holds.
    rest: OnceLock<Box<[Rest]>>,
}

/// The answers and counters of the names of one configuration, by the index they have in it.
#[derive(Debug)]
pub struct NameTable {
    /// Tells the tables of successive configurations apart.
    pub generation: u64,
    lines: Box<[Line]>,
    groups: Box<[Group]>,
}

impl NameTable {
    /// A table for `names` names: no answers, nothing counted.
    pub fn new(generation: u64, names: usize) -> NameTable {
        NameTable {
            generation,
            lines: (0..names).map(|_| Line::default()).collect(),
            groups: (0..names.div_ceil(NEIGHBOURS)).map(|_| Group::default()).collect(),
        }
    }

    /// Names in whose neighbourhood something was counted since the last call, and perhaps of some others; all of them
    /// if that is wanted. To be read after this; what is counted meanwhile is seen now or by the next call.
    pub fn take_moved(&self, all: bool) -> impl Iterator<Item = usize> {
        let moved = move |(_, group): &(usize, &Group)| group.moved.swap(false, Ordering::Acquire) || all;
        let groups = self.groups.iter().enumerate().filter(moved);
        groups.flat_map(|(at, _)| (at * NEIGHBOURS..).take(NEIGHBOURS)).take_while(|&index| index < self.lines.len())
    }

    /// The counters of one name.
    pub fn name(&self, index: u32) -> Option<NameCounters<'_>> {
        let at = index as usize;
        let (line, group) = (self.lines.get(at)?, self.groups.get(at / NEIGHBOURS)?);
        Some(NameCounters { line, group, place: at % NEIGHBOURS })
    }

    /// How often addresses of a family were given for a name, those marked stale apart: what [`Given::count`](super::given::Given::count) goes by.
    pub fn addresses_given(&self, name: u32, family: Family, stale: bool) -> u64 {
        self.name(name).map_or(0, |name| name.addresses_given(family, stale))
    }

    pub(super) fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(index as usize)
    }
}

/// What is counted of one name.
#[derive(Clone, Copy, Debug)]
pub struct NameCounters<'a> {
    line: &'a Line,
    group: &'a Group,
    place: usize,
}

/// For the owner.
impl NameCounters<'_> {
    /// Somebody asks for the name; `true` when that ends its idleness.
    pub fn note_asked(self, now_ms: u64) -> bool {
        self.line.asked_ms.store(now_ms, Ordering::Relaxed);
        // The load spares busy names the locked instruction.
        self.line.idle.load(Ordering::Relaxed) && self.line.idle.swap(false, Ordering::Relaxed)
    }

    /// A query was answered by har itself. Kinds that no configured name gets are not counted.
    pub fn count_reply(self, asked: QueryKind, kind: Kind) {
        let family = usize::from(asked == QueryKind::Aaaa);
        match kind {
            Kind::A => self.line.given[Family::V4 as usize].add(),
            Kind::Aaaa => self.line.given[Family::V6 as usize].add(),
            Kind::Stale => self.rest().stale[family].add(),
            Kind::Empty if asked == QueryKind::Aaaa => self.line.empty_v6.add(),
            Kind::Empty => self.rest().empty[usize::from(asked == QueryKind::Other)].add(),
            Kind::AllDown => self.rest().all_down[family].add(),
            Kind::NotReady => self.rest().not_ready[family].add(),
            Kind::Special | Kind::FormErr | Kind::NotImp | Kind::BadVers | Kind::Refused => return,
        }
        self.note_moved();
    }

    /// A query was handed to the forwarder; what becomes of it is counted when that is known.
    pub fn count_forwarded(self, asked: QueryKind) {
        self.rest().forwarded[asked as usize].add();
        self.note_moved();
    }

    /// An upstream server's reply to one of those was passed on, whatever it says.
    pub fn count_relayed(self) {
        self.rest().relayed.add();
        self.note_moved();
    }

    /// One of those was answered SERVFAIL, because no upstream server had a reply in time.
    pub fn count_unreached(self) {
        self.rest().unreached.add();
        self.note_moved();
    }

    /// A query gets no reply: its client is gone, or asked the same again.
    pub fn count_unanswered(self, asked: QueryKind) {
        self.rest().unanswered[asked as usize].add();
        self.note_moved();
    }

    /// After what was counted.
    fn note_moved(&self) {
        self.group.moved.store(true, Ordering::Release);
    }

    /// The rare counters, made if need be.
    fn rest(&self) -> &Rest {
        &self.group.rest.get_or_init(|| (0..NEIGHBOURS).map(|_| Rest::default()).collect())[self.place]
    }
}

/// For everybody.
impl NameCounters<'_> {
    /// From now on the next query ends its idleness.
    pub fn set_idle(self) {
        self.line.idle.store(true, Ordering::Relaxed);
    }

    /// When it was last asked for, as told to [`NameCounters::note_asked`]; 0 = never.
    pub fn asked_ms(self) -> u64 {
        self.line.asked_ms.load(Ordering::Relaxed)
    }

    /// Queries of one type, whatever became of them.
    pub fn queries(self, asked: QueryKind) -> u64 {
        let usual = match asked {
            QueryKind::A => self.addresses_given(Family::V4, false),
            QueryKind::Aaaa => self.addresses_given(Family::V6, false) + self.line.empty_v6.get(),
            QueryKind::Other => 0,
        };
        usual
            + self.rare(|rest| {
                let rare = rest.forwarded[asked as usize].get() + rest.unanswered[asked as usize].get();
                let of = |family: Family| {
                    let at = family as usize;
                    rest.stale[at].get() + rest.all_down[at].get() + rest.not_ready[at].get()
                };
                rare + match asked {
                    QueryKind::A => rest.empty[0].get() + of(Family::V4),
                    QueryKind::Aaaa => of(Family::V6),
                    QueryKind::Other => rest.empty[1].get(),
                }
            })
    }

    /// Replies of one kind that har gave itself.
    pub fn answers(self, kind: Kind) -> u64 {
        let sum = |counts: &[Count; 2]| counts[0].get() + counts[1].get();
        match kind {
            Kind::A => self.addresses_given(Family::V4, false),
            Kind::Aaaa => self.addresses_given(Family::V6, false),
            Kind::Stale => self.rare(|rest| sum(&rest.stale)),
            Kind::Empty => self.line.empty_v6.get() + self.rare(|rest| sum(&rest.empty)),
            Kind::AllDown => self.rare(|rest| sum(&rest.all_down)),
            Kind::NotReady => self.rare(|rest| sum(&rest.not_ready)),
            Kind::Special | Kind::FormErr | Kind::NotImp | Kind::BadVers | Kind::Refused => 0,
        }
    }

    /// Replies of upstream servers that were passed on.
    pub fn relayed(self) -> u64 {
        self.rare(|rest| rest.relayed.get())
    }

    /// Forwarded queries that were answered SERVFAIL, because no upstream server had a reply in time.
    pub fn unreached(self) -> u64 {
        self.rare(|rest| rest.unreached.get())
    }

    pub(super) fn addresses_given(self, family: Family, stale: bool) -> u64 {
        let at = family as usize;
        if stale { self.rare(|rest| rest.stale[at].get()) } else { self.line.given[at].get() }
    }

    /// Something of the rare counters, 0 while there are none.
    fn rare(&self, read: impl FnOnce(&Rest) -> u64) -> u64 {
        self.group.rest.get().map_or(0, |group| read(&group[self.place]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_queries_need_of_a_name_is_one_cache_line() {
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
        // Ten thousand times.
        assert!(size_of::<Rest>() <= 128, "{}", size_of::<Rest>());
    }

    #[test]
    fn a_line_gives_back_what_it_was_told() {
        let line = Line::default();
        let standing = Standing { state: State::NotReady, waiting: true, stale: false };
        assert_eq!(Family::BOTH.map(|family| line.standing(family)), [standing; 2]);
        for state in [State::NotReady, State::Empty, State::AllDown, State::Forward, State::One, State::More] {
            for (waiting, stale) in [(false, false), (true, false), (false, true), (true, true)] {
                let standing = Standing { state, waiting, stale };
                line.set_standing(Family::V6, standing);
                assert_eq!(line.standing(Family::V6), standing);
            }
        }
        for other_types in [OtherTypes::Forward, OtherTypes::NoHints, OtherTypes::NoData] {
            line.configure(86_400, other_types);
            for bypass in [true, false] {
                line.set_bypass(bypass);
                assert_eq!((line.other_types(), line.is_bypassed(), line.ttl()), (other_types, bypass, 86_400));
            }
        }
        line.set_address("192.0.2.1".parse().unwrap());
        line.set_address("2001:db8:1:2:3:4:5:6".parse().unwrap());
        assert_eq!((line.v4().to_string(), line.v6().to_string()), ("192.0.2.1".into(), "2001:db8:1:2:3:4:5:6".into()));
    }

    #[test]
    fn whatever_is_counted_marks_the_neighbourhood() {
        let table = NameTable::new(0, 2 * NEIGHBOURS + 3);
        let moved = |all| table.take_moved(all).collect::<Vec<_>>();
        let counts: [fn(NameCounters<'_>); 9] = [
            |name| name.count_reply(QueryKind::A, Kind::A),
            |name| name.count_reply(QueryKind::Aaaa, Kind::Empty),
            |name| name.count_reply(QueryKind::A, Kind::Stale),
            |name| name.count_reply(QueryKind::Other, Kind::Empty),
            |name| name.count_reply(QueryKind::A, Kind::AllDown),
            |name| name.count_forwarded(QueryKind::A),
            |name| name.count_relayed(),
            |name| name.count_unreached(),
            |name| name.count_unanswered(QueryKind::A),
        ];
        for count in counts {
            count(table.name(NEIGHBOURS as u32).unwrap());
            assert_eq!(moved(false), (NEIGHBOURS..2 * NEIGHBOURS).collect::<Vec<_>>());
            assert!(moved(false).is_empty(), "told once");
        }
        table.name(2 * NEIGHBOURS as u32).unwrap().count_relayed();
        assert_eq!(moved(false), [2 * NEIGHBOURS, 2 * NEIGHBOURS + 1, 2 * NEIGHBOURS + 2], "no more than there are");
        table.name(0).unwrap().count_relayed();
        assert_eq!(moved(true), (0..2 * NEIGHBOURS + 3).collect::<Vec<_>>());
        assert!(moved(false).is_empty(), "all of them are some");
        table.name(0).unwrap().count_reply(QueryKind::A, Kind::Refused);
        assert!(moved(false).is_empty(), "nothing was counted");
    }

    #[test]
    fn turns_go_round_for_each_family() {
        let line = Line::default();
        let turns = |family, of| [(); 4].map(|()| line.next_turn(family, of));
        assert_eq!(turns(Family::V4, 3), [0, 1, 2, 0]);
        assert_eq!(turns(Family::V6, 2), [0, 1, 0, 1]);
        assert_eq!(turns(Family::V4, 0), [0; 4]);
        line.turns[0].store(u16::MAX, Ordering::Relaxed);
        assert_eq!(turns(Family::V4, 2), [1, 0, 1, 0]);
    }

    #[test]
    fn every_query_is_one_of_its_type_and_of_what_became_of_it() {
        let table = NameTable::new(7, 2);
        let name = table.name(1).unwrap();
        let replies = [
            (QueryKind::A, Kind::A, 1),
            (QueryKind::Aaaa, Kind::Aaaa, 2),
            (QueryKind::A, Kind::Stale, 3),
            (QueryKind::Aaaa, Kind::Stale, 4),
            (QueryKind::A, Kind::Empty, 5),
            (QueryKind::Aaaa, Kind::Empty, 6),
            (QueryKind::Other, Kind::Empty, 7),
            (QueryKind::A, Kind::AllDown, 8),
            (QueryKind::Aaaa, Kind::AllDown, 9),
            (QueryKind::A, Kind::NotReady, 10),
            (QueryKind::Aaaa, Kind::NotReady, 11),
        ];
        for (asked, kind, times) in replies {
            (0..times).for_each(|_| name.count_reply(asked, kind));
        }
        for (asked, times) in QueryKind::ALL.into_iter().zip([100, 200, 300]) {
            (0..times).for_each(|_| name.count_forwarded(asked));
            (0..2 * times).for_each(|_| name.count_unanswered(asked));
        }
        (0..590).for_each(|_| name.count_relayed());
        (0..9).for_each(|_| name.count_unreached());
        let sums = [1, 2, 3 + 4, 5 + 6 + 7, 8 + 9, 10 + 11, 0, 0, 0, 0, 0];
        assert_eq!(Kind::ALL.map(|kind| name.answers(kind)), sums);
        assert_eq!((name.relayed(), name.unreached()), (590, 9));
        let asked = [1 + 3 + 5 + 8 + 10 + 300, 2 + 4 + 6 + 9 + 11 + 600, 7 + 900];
        assert_eq!(QueryKind::ALL.map(|kind| name.queries(kind)), asked);
        let other = table.name(0).unwrap();
        assert_eq!(QueryKind::ALL.map(|kind| other.queries(kind)), [0; 3]);
        assert!(table.name(2).is_none() && table.generation == 7);
    }

    #[test]
    fn a_query_ends_idleness_once() {
        let table = NameTable::new(0, 1);
        let name = table.name(0).unwrap();
        assert_eq!((name.note_asked(5), name.asked_ms()), (false, 5));
        name.set_idle();
        assert_eq!([6, 7].map(|now| name.note_asked(now)), [true, false]);
        assert_eq!(name.asked_ms(), 7);
    }
}
