//! The configured names, compiled: what the event loop looks a question up in.
//!
//! The table of names is built once for a configuration; afterwards one name's answer at a time is
//! replaced with [`Snapshot::set`], so that a change of one name among 10,000 costs one name.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::HostName;

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
