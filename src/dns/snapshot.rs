//! The configured names, compiled: what the event loop looks a question up in.
//!
//! The table of names is built once for a configuration; afterwards one name's answer at a time is
//! replaced with [`Snapshot::set`], so that a change of one name among 10,000 costs one name. An answer of one address
//! goes into the [line](super::lines) of its name; others are compiled to record bytes there and then, and copied.

mod foresight;

use std::net::IpAddr;
use std::sync::Arc;

use super::HostName;
use super::given::Given;
use super::lines::{Family, Line, NameTable, Standing, State};
use super::table::{Folded, Suffixes, Table};
use super::wire::{CLASS_IN, rtype};
pub use foresight::Glance;

/// The configured names and routes, and what is answered for each name now.
#[derive(Debug)]
pub struct Snapshot {
    settings: Box<[NameSettings]>,
    /// What is answered for each name as far as it fits there, and what was.
    table: Arc<NameTable>,
    /// The rest of the answers, for either family.
    held: Box<[[Held; 2]]>,
    exact: Table,
    wildcards: Suffixes,
    routes: Suffixes,
}

impl Snapshot {
    /// The table of a configuration, with a number that tells it from others. A name's index is its place in `names`;
    /// route 0 is the general servers, `routes` are numbered from 1 as given. Until its first [`Snapshot::set`] a name
    /// waits, then is not ready.
    pub fn new(generation: u64, names: Vec<NameSettings>, routes: &[HostName]) -> Snapshot {
        let of_kind = |wildcard| {
            let numbered = names.iter().zip(0..);
            numbered
                .filter(move |(settings, _)| settings.name.is_wildcard() == wildcard)
                .map(|(settings, index)| (settings.name.suffix(), index))
        };
        let table = NameTable::new(generation, names.len());
        for (settings, index) in names.iter().zip(0..) {
            if let Some(line) = table.line(index) {
                line.configure(settings.ttl, settings.other_types);
            }
        }
        Snapshot {
            table: Arc::new(table),
            held: names.iter().map(|_| Default::default()).collect(),
            exact: Table::new(of_kind(false)),
            wildcards: Suffixes::new(of_kind(true)),
            routes: Suffixes::new(routes.iter().map(HostName::as_wire).zip(1..)),
            settings: names.into(),
        }
    }

    /// The counters of its names, for whoever reads them. To count is this table's owner's.
    pub fn counters(&self) -> &Arc<NameTable> {
        &self.table
    }

    /// Replaces what is answered for a name, both families at once. An index beyond the table does nothing.
    pub fn set(&mut self, name: u32, answer: NameAnswer) {
        let (Some(held), Some(line)) = (self.held.get_mut(name as usize), self.table.line(name)) else { return };
        line.set_bypass(answer.bypass);
        for (family, answer) in Family::BOTH.into_iter().zip([answer.v4, answer.v6]) {
            let counter = |stale| self.table.addresses_given(name, family, stale);
            let held = &mut held[family as usize];
            held.end(counter(line.standing(family).stale));
            let (standing, new) = Held::of(answer, family, line);
            line.set_standing(family, standing);
            new.begin(counter(standing.stale));
            *held = new;
        }
    }

    /// What never changes about a name.
    pub fn settings(&self, name: u32) -> Option<&NameSettings> {
        self.settings.get(name as usize)
    }

    /// Names in the table; their indexes are `0..len()`.
    pub fn len(&self) -> usize {
        self.settings.len()
    }

    /// Whether no name is configured.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    /// The configured name that stands for a name: itself, else the wildcard with the longest suffix above it.
    pub fn find(&self, name: &Folded) -> Option<u32> {
        self.exact.find(name.as_wire()).or_else(|| self.wildcards.above(name))
    }

    /// The route of a name: the longest suffix that is itself or above it, 0 for the general servers.
    pub fn route(&self, name: &Folded) -> u16 {
        self.routes.at_or_above(name).map_or(0, |number| number as u16)
    }

    pub(super) fn line(&self, name: u32) -> Option<&Line> {
        self.table.line(name)
    }

    /// The records of the next turn of a family of which more is answered than a line holds, counted as given.
    pub(super) fn take_turn(&self, name: u32, family: Family, line: &Line) -> &[u8] {
        let Some(Held::More(turns)) = self.held.get(name as usize).map(|held| &held[family as usize]) else {
            return &[];
        };
        turns.0.get(line.next_turn(family, turns.0.len())).map_or(&[], |turn| {
            turn.given.add_turn();
            &turn.records
        })
    }
}

/// Whoever reads how often the answers were given sees where each one ended.
impl Drop for Snapshot {
    fn drop(&mut self) {
        for (held, name) in self.held.iter().zip(0..) {
            let Some(line) = self.table.line(name) else { return };
            for family in Family::BOTH {
                let stale = line.standing(family).stale;
                held[family as usize].end(self.table.addresses_given(name, family, stale));
            }
        }
    }
}

/// What is kept of a family's answer beside the line of its name.
#[derive(Debug, Default)]
enum Held {
    /// Nothing.
    #[default]
    Nothing,
    /// How often the address in the line was given.
    One(Arc<Given>),
    /// Answers that do not fit there.
    More(Box<Turns>),
}

/// Whole answers that are given one after the other.
#[derive(Debug)]
struct Turns(Box<[Prepared]>);

/// One whole answer, ready to be copied.
#[derive(Debug)]
struct Prepared {
    /// Of equal length, owner `C0 0C`: the name in the question.
    records: Box<[u8]>,
    given: Arc<Given>,
}

impl Held {
    /// An answer taken apart; the one address that it may be goes into the line.
    fn of(answer: FamilyAnswer, family: Family, line: &Line) -> (Standing, Held) {
        let (mut answer, mut waiting) = (answer, false);
        while let FamilyAnswer::Wait(inner) = answer {
            (answer, waiting) = (*inner, true);
        }
        let short = |state| (Standing { state, waiting, stale: false }, Held::Nothing);
        let (mut turns, stale) = match answer {
            FamilyAnswer::Addresses { turns, stale } => (turns, stale),
            FamilyAnswer::Empty | FamilyAnswer::Wait(_) => return short(State::Empty),
            FamilyAnswer::AllDown => return short(State::AllDown),
            FamilyAnswer::NotReady => return short(State::NotReady),
            FamilyAnswer::Forward => return short(State::Forward),
        };
        for turn in &mut turns {
            turn.addresses.retain(|address| Family::of(*address) == family);
        }
        turns.retain(|turn| !turn.addresses.is_empty());
        match turns.as_slice() {
            [] => short(State::Empty),
            [Turn { addresses, given }] if addresses.len() == 1 => {
                addresses.iter().for_each(|address| line.set_address(*address));
                (Standing { state: State::One, waiting, stale }, Held::One(Arc::clone(given)))
            }
            _ => {
                let turns = turns.into_iter().map(|turn| Prepared::new(turn, line.ttl())).collect();
                (Standing { state: State::More, waiting, stale }, Held::More(Box::new(Turns(turns))))
            }
        }
    }

    /// It is answered from now on.
    fn begin(&self, counter: u64) {
        match self {
            Held::Nothing => {}
            Held::One(given) => given.begin(counter),
            Held::More(turns) => turns.0.iter().for_each(|turn| turn.given.begin_turn()),
        }
    }

    /// It is answered no more. Turns have counted themselves.
    fn end(&self, counter: u64) {
        if let Held::One(given) = self {
            given.end(counter);
        }
    }
}

impl Prepared {
    fn new(turn: Turn, ttl: u32) -> Prepared {
        let mut records = Vec::with_capacity(turn.addresses.len() * AAAA_RECORD);
        for address in turn.addresses {
            match address {
                IpAddr::V4(address) => write_record(&mut records, rtype::A, ttl, &address.octets()),
                IpAddr::V6(address) => write_record(&mut records, rtype::AAAA, ttl, &address.octets()),
            }
        }
        Prepared { records: records.into(), given: turn.given }
    }
}

/// Length of an A record with a compressed owner.
const A_RECORD: usize = 16;
/// Length of an AAAA record with a compressed owner.
const AAAA_RECORD: usize = 28;

/// The record of the address in a line, and how long a record of that family is.
pub(super) fn address_record(line: &Line, family: Family) -> ([u8; AAAA_RECORD], usize) {
    let mut record = [0; AAAA_RECORD];
    let (rtype, length) = match family {
        Family::V4 => {
            record[HEAD..A_RECORD].copy_from_slice(&line.v4().octets());
            (rtype::A, A_RECORD)
        }
        Family::V6 => {
            record[HEAD..].copy_from_slice(&line.v6().octets());
            (rtype::AAAA, AAAA_RECORD)
        }
    };
    record[..HEAD].copy_from_slice(&record_head(rtype, line.ttl(), length - HEAD));
    (record, length)
}

/// Appends a record whose owner is the name in the question.
pub(super) fn write_record(out: &mut Vec<u8>, rtype: u16, ttl: u32, data: &[u8]) {
    out.extend_from_slice(&record_head(rtype, ttl, data.len()));
    out.extend_from_slice(data);
}

/// Length of what stands in front of a record's data.
const HEAD: usize = 12;

fn record_head(rtype: u16, ttl: u32, length: usize) -> [u8; HEAD] {
    let ([type_high, type_low], [_, class]) = (rtype.to_be_bytes(), CLASS_IN.to_be_bytes());
    let [ttl0, ttl1, ttl2, ttl3] = ttl.to_be_bytes();
    let [length_high, length_low] = (length as u16).to_be_bytes();
    [0xc0, 0x0c, type_high, type_low, 0, class, ttl0, ttl1, ttl2, ttl3, length_high, length_low]
}

/// What never changes about a name while a configuration lasts.
#[derive(Clone, Debug)]
pub struct NameSettings {
    /// The name or wildcard.
    pub name: HostName,
    /// TTL of its answers and of the SOA in empty ones, seconds.
    pub ttl: u32,
    /// What types other than A and AAAA get.
    pub other_types: OtherTypes,
}

/// What types other than A and AAAA of a configured name get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherTypes {
    /// Asked upstream.
    Forward,
    /// As `Forward`, but HTTPS, SVCB and ANY are answered empty.
    NoHints,
    /// Answered empty.
    NoData,
}

/// What is answered for a name now: both families of one moment.
#[derive(Clone, Debug)]
pub struct NameAnswer {
    /// For A.
    pub v4: FamilyAnswer,
    /// For AAAA.
    pub v6: FamilyAnswer,
    /// The whole name is forwarded, whatever the type (`mode = "observe"`, `har bypass`).
    pub bypass: bool,
}

/// What is answered for one family of a name.
#[derive(Clone, Debug)]
pub enum FamilyAnswer {
    /// Addresses; `turns` are used one after the other, query by query. Never empty, none of them empty.
    Addresses {
        /// Each a whole answer in its order.
        turns: Vec<Turn>,
        /// Marked with EDE 3 (*stale answer*): held, all down, or not known yet.
        stale: bool,
    },
    /// NOERROR without addresses, with an SOA.
    Empty,
    /// SERVFAIL with EDE 22 (*no reachable authority*): all down.
    AllDown,
    /// SERVFAIL with EDE 14 (*not ready*): no address known yet.
    NotReady,
    /// Ask upstream.
    Forward,
    /// Cold start: wait up to 1 s for a first result, then answer as the inner one says.
    Wait(Box<FamilyAnswer>),
}

/// One whole answer of a family.
#[derive(Clone, Debug)]
pub struct Turn {
    /// In the order of the answer; all of one family.
    pub addresses: Vec<IpAddr>,
    /// How often this answer was given; whoever made the turn reads it.
    pub given: Arc<Given>,
}

#[cfg(test)]
mod tests;
