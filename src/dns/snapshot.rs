//! The configured names, compiled: what the event loop looks a question up in.
//!
//! The table of names is built once for a configuration; afterwards one name's answer at a time is
//! replaced with [`Snapshot::set`], so that a change of one name among 10,000 costs one name. Addresses are
//! compiled to record bytes there and then: answering copies them.

mod foresight;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::HostName;
use super::table::{Folded, Suffixes, Table};
use super::wire::{CLASS_IN, rtype};
pub use foresight::Glance;

/// The configured names and routes, and what is answered for each name now.
#[derive(Debug)]
pub struct Snapshot {
    settings: Box<[NameSettings]>,
    entries: Box<[Entry]>,
    exact: Table,
    wildcards: Suffixes,
    routes: Suffixes,
}

impl Snapshot {
    /// The table of a configuration. A name's index is its place in `names`; route 0 is the general servers,
    /// `routes` are numbered from 1 as given. Until its first [`Snapshot::set`] a name waits, then is not ready.
    pub fn new(names: Vec<NameSettings>, routes: &[HostName]) -> Snapshot {
        let of_kind = |wildcard| {
            let numbered = names.iter().zip(0..);
            numbered
                .filter(move |(settings, _)| settings.name.is_wildcard() == wildcard)
                .map(|(settings, index)| (settings.name.suffix(), index))
        };
        Snapshot {
            exact: Table::new(of_kind(false)),
            wildcards: Suffixes::new(of_kind(true)),
            routes: Suffixes::new(routes.iter().map(HostName::as_wire).zip(1..)),
            entries: names.iter().map(Entry::new).collect(),
            settings: names.into(),
        }
    }

    /// Replaces what is answered for a name, both families at once. An index beyond the table does nothing.
    pub fn set(&mut self, name: u32, answer: NameAnswer) {
        let Some(entry) = self.entries.get_mut(name as usize) else { return };
        entry.bypass = answer.bypass;
        entry.v4.replace(answer.v4, entry.ttl, rtype::A);
        entry.v6.replace(answer.v6, entry.ttl, rtype::AAAA);
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

    pub(super) fn entry(&self, name: u32) -> Option<&Entry> {
        self.entries.get(name as usize)
    }
}

/// What a query needs of a name, together in memory: among 10,000 names what it costs is the cache lines it touches. The
/// first one holds all that most queries for A need.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Entry {
    pub ttl: u32,
    pub other_types: OtherTypes,
    pub bypass: bool,
    pub v4: Family,
    pub v6: Family,
}

impl Entry {
    fn new(settings: &NameSettings) -> Entry {
        let family = || Family { state: State::NotReady, waiting: true, next: AtomicU32::new(0) };
        Entry { v4: family(), v6: family(), ttl: settings.ttl, other_types: settings.other_types, bypass: false }
    }
}

/// A [`FamilyAnswer`], compiled.
#[derive(Debug)]
pub(super) struct Family {
    pub state: State,
    /// Whether a query waits a while before it gets `state`.
    pub waiting: bool,
    /// The turn of the next answer. It goes on when the answer is replaced, so that frequent changes do not
    /// favour the first turn.
    next: AtomicU32,
}

#[derive(Debug)]
pub(super) enum State {
    Addresses { turns: Turns, stale: bool },
    Empty,
    AllDown,
    NotReady,
    Forward,
}

/// Whole answers that are given one after the other. Most names have one: in place it is not looked for elsewhere.
#[derive(Debug)]
pub(super) enum Turns {
    One(Prepared),
    Many(Box<[Prepared]>),
}

impl Turns {
    /// `None` when there is none.
    fn new(mut turns: Vec<Prepared>) -> Option<Turns> {
        if turns.len() > 1 {
            return Some(Turns::Many(turns.into()));
        }
        turns.pop().map(Turns::One)
    }
}

/// One whole answer, ready to be copied.
#[derive(Debug)]
pub(super) struct Prepared {
    records: Records,
    given: Arc<AtomicU64>,
}

/// Records of equal length, owner `C0 0C`: the name in the question.
#[derive(Debug)]
enum Records {
    /// The usual answer is one address: in place it saves an allocation a name and a cache miss a query.
    One {
        length: u8,
        bytes: [u8; AAAA_RECORD],
    },
    Many(Box<[u8]>),
}

impl Records {
    fn new(records: &[u8]) -> Records {
        let mut bytes = [0; AAAA_RECORD];
        match bytes.get_mut(..records.len()) {
            Some(place) => {
                place.copy_from_slice(records);
                Records::One { length: records.len() as u8, bytes }
            }
            None => Records::Many(records.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Records::One { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            Records::Many(bytes) => bytes,
        }
    }
}

impl Family {
    fn replace(&mut self, answer: FamilyAnswer, ttl: u32, rtype: u16) {
        let (mut answer, mut waiting) = (answer, false);
        while let FamilyAnswer::Wait(inner) = answer {
            (answer, waiting) = (*inner, true);
        }
        self.waiting = waiting;
        self.state = match answer {
            FamilyAnswer::Addresses { turns, stale } => {
                let turns = turns.into_iter().filter_map(|turn| Prepared::new(turn, ttl, rtype)).collect();
                Turns::new(turns).map_or(State::Empty, |turns| State::Addresses { turns, stale })
            }
            FamilyAnswer::Empty | FamilyAnswer::Wait(_) => State::Empty,
            FamilyAnswer::AllDown => State::AllDown,
            FamilyAnswer::NotReady => State::NotReady,
            FamilyAnswer::Forward => State::Forward,
        };
    }

    /// The records of the next turn, counted as given.
    pub fn take_turn<'a>(&self, turns: &'a Turns) -> &'a [u8] {
        let turn = match turns {
            Turns::One(only) => Some(only),
            Turns::Many(turns) => turns.get(self.next.fetch_add(1, Ordering::Relaxed) as usize % turns.len().max(1)),
        };
        turn.map_or(&[], |turn| {
            // Only the owner of the table counts: no locked instruction.
            turn.given.store(turn.given.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            turn.records.as_bytes()
        })
    }
}

impl Prepared {
    /// `None` when no address is of the type's family.
    fn new(turn: Turn, ttl: u32, rtype: u16) -> Option<Prepared> {
        let mut records = Vec::with_capacity(turn.addresses.len() * AAAA_RECORD);
        for address in turn.addresses {
            match address {
                IpAddr::V4(address) if rtype == rtype::A => write_record(&mut records, rtype, ttl, &address.octets()),
                IpAddr::V6(address) if rtype == rtype::AAAA => {
                    write_record(&mut records, rtype, ttl, &address.octets());
                }
                _ => {}
            }
        }
        (!records.is_empty()).then(|| Prepared { records: Records::new(&records), given: turn.given })
    }
}

/// Length of an A record with a compressed owner.
pub(super) const A_RECORD: usize = 16;
/// Length of an AAAA record with a compressed owner.
pub(super) const AAAA_RECORD: usize = 28;

/// Appends a record whose owner is the name in the question.
pub(super) fn write_record(out: &mut Vec<u8>, rtype: u16, ttl: u32, data: &[u8]) {
    let ([type_high, type_low], [_, class]) = (rtype.to_be_bytes(), CLASS_IN.to_be_bytes());
    let [ttl0, ttl1, ttl2, ttl3] = ttl.to_be_bytes();
    let [length_high, length_low] = (data.len() as u16).to_be_bytes();
    let head = [0xc0, 0x0c, type_high, type_low, 0, class, ttl0, ttl1, ttl2, ttl3, length_high, length_low];
    out.extend_from_slice(&head);
    out.extend_from_slice(data);
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
    /// Counts how often this answer was given; whoever made the turn reads it.
    pub given: Arc<AtomicU64>,
}

#[cfg(test)]
mod tests;
