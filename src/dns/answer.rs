//! What becomes of a query: a prepared reply, an error, nothing, a wait, or the upstream.
//!
//! The rows of the contract in their order: dropped, NOTIMP, FORMERR, BADVERS, REFUSED ([`wire::parse`]), names with
//! a meaning of their own (RFC 6761, RFC 9462), configured names, everything else forwarded. Empty answers carry an
//! SOA (RFC 2308), doubtful ones an extended error (RFC 8914). Nothing here depends on how many names there are,
//! and nothing is allocated once the buffer has grown to a reply's size.

use super::lines::{Family, Line, State};
use super::snapshot::{OtherTypes, Snapshot, address_record, write_record};
use super::table::Folded;
use super::wire::{self, CLASS_IN, DropReason, MAX_MESSAGE, Query, Reject, Reply, ede, rcode, rtype};

/// TTL of the answers for names with a meaning of their own, seconds: what RFC 6303 gives local zones.
pub const LOCAL_TTL: u32 = 10_800;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The client's limit holds, [`wire::udp_limit`].
    Udp,
    /// Replies are whole.
    Tcp,
}

/// Whether a query may still be parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A cold start may answer [`Verdict::Wait`].
    Allowed,
    /// It has waited long enough: it gets what is known by now.
    Over,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The buffer holds the reply.
    Reply {
        /// The configured name, if the query was for one.
        asked: Option<Asked>,
        /// For the counters.
        kind: Kind,
    },
    /// No reply.
    Drop(DropReason),
    /// To be asked upstream, byte for byte.
    Forward {
        /// The configured name, if the query was for one.
        asked: Option<Asked>,
        /// Which servers: 0 the general ones, else the route's number.
        route: u16,
        /// Whether another type of a name that exists here is asked for, so that an upstream NXDOMAIN is relayed as
        /// NOERROR ([`wire::relay_nxdomain_as_noerror`]). `false` for a bypassed name and for the addresses of one whose
        /// candidates are all down: those are forwarded as if not configured.
        exists: bool,
    },
    /// Park it and ask again when the name's answer is set; after at most 1 s with [`Waiting::Over`].
    Wait {
        /// The configured name.
        asked: Asked,
    },
}

/// A question for a configured name, as the counters see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Index of the name.
    pub name: u32,
    /// The type asked for.
    pub kind: QueryKind,
}

/// Types that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKind {
    /// A.
    A,
    /// AAAA.
    Aaaa,
    /// Every other type.
    Other,
}

impl QueryKind {
    /// Every kind, in the order of the state file's columns; `kind as usize` is the place.
    pub const ALL: [QueryKind; 3] = [QueryKind::A, QueryKind::Aaaa, QueryKind::Other];

    /// The word used in the state file.
    pub fn as_str(self) -> &'static str {
        match self {
            QueryKind::A => "a",
            QueryKind::Aaaa => "aaaa",
            QueryKind::Other => "other",
        }
    }

    fn of(qtype: u16) -> QueryKind {
        match qtype {
            rtype::A => QueryKind::A,
            rtype::AAAA => QueryKind::Aaaa,
            _ => QueryKind::Other,
        }
    }
}

/// Kinds of replies, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ranked IPv4 addresses.
    A,
    /// Ranked IPv6 addresses.
    Aaaa,
    /// Addresses of either family marked stale (EDE 3).
    Stale,
    /// NOERROR without addresses, for whatever type.
    Empty,
    /// SERVFAIL: all down (EDE 22).
    AllDown,
    /// SERVFAIL: nothing known yet (EDE 14).
    NotReady,
    /// `localhost`, `_dns.resolver.arpa` and what is below them.
    Special,
    /// Malformed.
    FormErr,
    /// Opcode other than QUERY.
    NotImp,
    /// EDNS version above 0.
    BadVers,
    /// Zone transfer.
    Refused,
}

impl Kind {
    /// Every kind; `kind as usize` is its place. The first six are replies for configured names.
    pub const ALL: [Kind; 11] = [
        Kind::A,
        Kind::Aaaa,
        Kind::Stale,
        Kind::Empty,
        Kind::AllDown,
        Kind::NotReady,
        Kind::Special,
        Kind::FormErr,
        Kind::NotImp,
        Kind::BadVers,
        Kind::Refused,
    ];

    /// The word used in the state file.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::A => "a",
            Kind::Aaaa => "aaaa",
            Kind::Stale => "stale",
            Kind::Empty => "empty",
            Kind::AllDown => "all_down",
            Kind::NotReady => "not_ready",
            Kind::Special => "special",
            Kind::FormErr => "formerr",
            Kind::NotImp => "notimp",
            Kind::BadVers => "badvers",
            Kind::Refused => "refused",
        }
    }

    fn of_error(rcode: u16) -> Kind {
        match rcode {
            rcode::NOTIMP => Kind::NotImp,
            rcode::BADVERS => Kind::BadVers,
            rcode::REFUSED => Kind::Refused,
            _ => Kind::FormErr,
        }
    }
}

/// Decides what becomes of a message and writes the reply, if there is one, into `out`.
pub fn answer(
    snapshot: &Snapshot,
    message: &[u8],
    transport: Transport,
    waiting: Waiting,
    out: &mut Vec<u8>,
) -> Verdict {
    match wire::parse(message) {
        Ok(query) => answer_query(snapshot, &query, transport, waiting, out),
        Err(reject) => answer_reject(&reject, out),
    }
}

/// [`answer`] for a message that [`wire::parse`] rejected.
pub fn answer_reject(reject: &Reject<'_>, out: &mut Vec<u8>) -> Verdict {
    match reject {
        Reject::Drop(reason) => Verdict::Drop(*reason),
        Reject::Error { query, rcode } => {
            wire::error(query, *rcode, None, out);
            Verdict::Reply { asked: None, kind: Kind::of_error(*rcode) }
        }
    }
}

/// [`answer`] for a query that is parsed already: who forwards needs it parsed as well.
pub fn answer_query(
    snapshot: &Snapshot,
    query: &Query<'_>,
    transport: Transport,
    waiting: Waiting,
    out: &mut Vec<u8>,
) -> Verdict {
    let name = Folded::new(query.name());
    let forward = |asked, exists| Verdict::Forward { asked, route: snapshot.route(&name), exists };
    if query.qclass != CLASS_IN {
        return forward(None, false);
    }
    if let Some(special) = Special::of(&name) {
        special.write(query, out);
        return Verdict::Reply { asked: None, kind: Kind::Special };
    }
    let Some(index) = snapshot.find(&name) else { return forward(None, false) };
    let Some(line) = snapshot.line(index) else { return forward(None, false) };
    let asked = Asked { name: index, kind: QueryKind::of(query.qtype) };
    if line.is_bypassed() {
        return forward(Some(asked), false);
    }
    let (family, kind) = match asked.kind {
        QueryKind::A => (Family::V4, Kind::A),
        QueryKind::Aaaa => (Family::V6, Kind::Aaaa),
        QueryKind::Other => {
            if is_forwarded(line, query.qtype) {
                return forward(Some(asked), true);
            }
            write_empty(query, line.ttl(), out);
            return Verdict::Reply { asked: Some(asked), kind: Kind::Empty };
        }
    };
    let standing = line.standing(family);
    if standing.waiting && waiting == Waiting::Allowed {
        return Verdict::Wait { asked };
    }
    let kind = match standing.state {
        State::One | State::More => {
            let (one, length) = address_record(line, family);
            let records = match standing.state {
                State::More => snapshot.take_turn(index, family, line),
                _ => one.get(..length).unwrap_or(&one),
            };
            write_addresses(query, records, length, standing.stale, transport, out);
            if standing.stale { Kind::Stale } else { kind }
        }
        State::Empty => {
            write_empty(query, line.ttl(), out);
            Kind::Empty
        }
        State::AllDown => {
            wire::error(query, rcode::SERVFAIL, Some(ede::NO_REACHABLE_AUTHORITY), out);
            Kind::AllDown
        }
        State::NotReady => {
            wire::error(query, rcode::SERVFAIL, Some(ede::NOT_READY), out);
            Kind::NotReady
        }
        State::Forward => return forward(Some(asked), false),
    };
    Verdict::Reply { asked: Some(asked), kind }
}

/// Whether a type other than A and AAAA of a configured name goes upstream.
fn is_forwarded(line: &Line, qtype: u16) -> bool {
    match line.other_types() {
        OtherTypes::Forward => true,
        OtherTypes::NoHints => !matches!(qtype, rtype::HTTPS | rtype::SVCB | rtype::ANY),
        OtherTypes::NoData => false,
    }
}

/// Writes as many whole records as the client takes, each `length` bytes long.
fn write_addresses(
    query: &Query<'_>,
    records: &[u8],
    length: usize,
    stale: bool,
    transport: Transport,
    out: &mut Vec<u8>,
) {
    let ede = stale.then_some(ede::STALE_ANSWER);
    let limit = match transport {
        Transport::Udp => wire::udp_limit(query),
        Transport::Tcp => MAX_MESSAGE,
    };
    let room = limit.saturating_sub(query.question_end + query.opt_len(ede));
    let fitting = records.get(..room / length * length).unwrap_or(records);
    let reply = Reply {
        authoritative: true,
        // Over TCP there is nowhere else to ask: what a message cannot hold is left out without a word.
        truncated: fitting.len() < records.len() && transport == Transport::Udp,
        answers: (fitting.len() / length) as u16,
        ede,
        ..Reply::default()
    };
    reply.begin(query, out);
    out.extend_from_slice(fitting);
    reply.finish(query, out);
}

/// Writes NOERROR without records and with an SOA, by which a client knows how long that holds (RFC 2308 section 3).
fn write_empty(query: &Query<'_>, ttl: u32, out: &mut Vec<u8>) {
    let reply = Reply { authoritative: true, authority: 1, ..Reply::default() };
    reply.begin(query, out);
    // Master: the owner itself. Mailbox `nobody.invalid.`, serial and times as RFC 6303 section 3 has them.
    let mut data = *b"\xc0\x0c\x06nobody\x07invalid\x00\0\0\0\x01\0\0\x0e\x10\0\0\x04\xb0\0\x09\x3a\x80\0\0\0\0";
    if let Some(minimum) = data.last_chunk_mut::<4>() {
        *minimum = ttl.to_be_bytes();
    }
    write_record(out, rtype::SOA, ttl, &data);
    reply.finish(query, out);
}

/// Names that har knows without being told.
#[derive(Clone, Copy)]
enum Special {
    /// This host (RFC 6761 section 6.3).
    Localhost,
    /// Designated encrypted resolvers (RFC 9462 section 4): there are none, and asking upstream would name the wrong one.
    EncryptedResolver,
}

impl Special {
    fn of(name: &Folded) -> Option<Special> {
        if name.is_at_or_below(b"\x09localhost\0") {
            Some(Special::Localhost)
        } else if name.is_at_or_below(b"\x04_dns\x08resolver\x04arpa\0") {
            Some(Special::EncryptedResolver)
        } else {
            None
        }
    }

    fn write(self, query: &Query<'_>, out: &mut Vec<u8>) {
        let reply = Reply { authoritative: true, answers: 1, ..Reply::default() };
        let address: &[u8] = match (self, query.qtype) {
            (Special::Localhost, rtype::A) => &[127, 0, 0, 1],
            (Special::Localhost, rtype::AAAA) => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            _ => return write_empty(query, LOCAL_TTL, out),
        };
        reply.begin(query, out);
        write_record(out, query.qtype, LOCAL_TTL, address);
        reply.finish(query, out);
    }
}

#[cfg(test)]
mod tests;
