//! Messages on the wire: reading a query, writing the short replies, patching what is forwarded.
//!
//! RFC 1035 section 4 (format), RFC 2181 section 5 and RFC 9619 (one question), RFC 6891 (EDNS), RFC 8906 (answer what
//! is not understood), RFC 8914 (extended errors). [`parse`] reads the header, the one question and the OPT record
//! and nothing else: it never allocates, never follows a compression pointer and never trusts a count.
//! Replies are written into a caller's buffer, which is cleared first and keeps its storage.

use super::name::{MAX_LABEL, MAX_NAME};

/// Length of a header (RFC 1035 section 4.1.1).
pub const HEADER: usize = 12;
/// Least UDP payload, and the limit without EDNS (RFC 1035 section 2.3.4).
pub const MIN_PAYLOAD: u16 = 512;
/// Payload that har advertises and the most it sends over UDP: fits an IPv6 path of 1280 bytes unfragmented.
pub const PAYLOAD: u16 = 1232;
/// Longest message over TCP: what its two-byte length can say (RFC 7766 section 8).
pub const MAX_MESSAGE: usize = 65_535;

/// Record and question types (IANA DNS parameters).
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// IPv6 address (RFC 3596).
    pub const AAAA: u16 = 28;
    /// EDNS pseudo record (RFC 6891).
    pub const OPT: u16 = 41;
    /// Service binding (RFC 9460).
    pub const SVCB: u16 = 64;
    /// Service binding of HTTPS (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// Incremental zone transfer (RFC 1995).
    pub const IXFR: u16 = 251;
    /// Zone transfer (RFC 5936).
    pub const AXFR: u16 = 252;
    /// Every type (RFC 8482).
    pub const ANY: u16 = 255;
}

/// The Internet class.
pub const CLASS_IN: u16 = 1;

/// Response codes (IANA DNS parameters).
pub mod rcode {
    /// No error.
    pub const NOERROR: u16 = 0;
    /// The query is malformed.
    pub const FORMERR: u16 = 1;
    /// The server failed.
    pub const SERVFAIL: u16 = 2;
    /// The name does not exist.
    pub const NXDOMAIN: u16 = 3;
    /// The opcode is not supported.
    pub const NOTIMP: u16 = 4;
    /// Refused by policy.
    pub const REFUSED: u16 = 5;
    /// EDNS version not supported; needs an OPT record (RFC 6891 section 9).
    pub const BADVERS: u16 = 16;
}

/// Extended error codes (RFC 8914 section 4).
pub mod ede {
    /// Stale answer.
    pub const STALE_ANSWER: u16 = 3;
    /// Not ready.
    pub const NOT_READY: u16 = 14;
    /// No reachable authority.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// Network error.
    pub const NETWORK_ERROR: u16 = 23;
}

const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const CD: u8 = 0x10;
const RCODE: u8 = 0x0f;
/// DO, in the upper byte of the flags half of an OPT record's TTL.
const DNSSEC_OK: u8 = 0x80;
/// Option code of an extended error (RFC 8914 section 2).
const OPTION_EDE: u8 = 15;
/// An OPT record without options.
const OPT_LEN: usize = 11;
/// An OPT record with an extended error that has no text.
const OPT_EDE_LEN: usize = OPT_LEN + 6;

/// A query with one well-formed question. (Inside a [`Reject::Error`] the question may be missing.)
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The whole message as it came.
    pub message: &'a [u8],
    /// Where the question ends in it; [`HEADER`] when there is none to repeat.
    pub question_end: usize,
    /// Type asked for ([`rtype`]).
    pub qtype: u16,
    /// Class asked for.
    pub qclass: u16,
    /// The OPT record, if there is one.
    pub edns: Option<Edns>,
}

/// What an OPT record says (RFC 6891 section 6.1). Its options are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// UDP payload size the sender takes, as stated (0..=65535).
    pub payload: u16,
    /// Upper eight bits of the response code.
    pub extended_rcode: u8,
    /// EDNS version.
    pub version: u8,
    /// DNSSEC OK.
    pub dnssec_ok: bool,
}

/// Why a message gets no ordinary answer.
#[derive(Clone, Copy, Debug)]
pub enum Reject<'a> {
    /// No reply at all.
    Drop(DropReason),
    /// An error reply: [`error`] writes it.
    Error {
        /// What the reply repeats; its question may be missing.
        query: Query<'a>,
        /// NOTIMP, FORMERR, BADVERS or REFUSED.
        rcode: u16,
    },
}

/// Why a message gets no reply: answering it could start a loop or tell nobody anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Shorter than a header.
    TooShort,
    /// QR=1: a response.
    Response,
}

impl<'a> Query<'a> {
    /// The query's id.
    pub fn id(&self) -> u16 {
        be16(self.message, 0).unwrap_or(0)
    }

    /// The name asked for, as sent: uncompressed wire format, letter case as it came.
    pub fn name(&self) -> &'a [u8] {
        self.message.get(HEADER..self.question_end.saturating_sub(4)).unwrap_or_default()
    }

    /// Name, type and class as sent; empty when there is no question to repeat.
    pub fn question(&self) -> &'a [u8] {
        self.message.get(HEADER..self.question_end).unwrap_or_default()
    }

    /// Length of the OPT record that a reply carries: nothing when the query had none.
    pub(super) fn opt_len(&self, ede: Option<u16>) -> usize {
        match (self.edns, ede) {
            (None, _) => 0,
            (Some(_), None) => OPT_LEN,
            (Some(_), Some(_)) => OPT_EDE_LEN,
        }
    }
}

/// Reads a message that a client sent.
///
/// The checks run in the order of the contract: dropped, NOTIMP, FORMERR, BADVERS, REFUSED. What follows the question
/// is walked only to find OPT. It is malformed when the walk passes the end, and when an OPT record is a second
/// one, has an owner other than the root, or stands outside the additional section (RFC 6891 section 6.1.1). Bytes
/// behind the last record are ignored.
///
/// # Errors
/// [`Reject`] says what becomes of every other message.
pub fn parse(message: &[u8]) -> Result<Query<'_>, Reject<'_>> {
    let Some(header) = message.first_chunk::<HEADER>() else { return Err(Reject::Drop(DropReason::TooShort)) };
    if header[2] & QR != 0 {
        return Err(Reject::Drop(DropReason::Response));
    }
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let mut query = Query { message, question_end: HEADER, qtype: 0, qclass: 0, edns: None };
    let mut sound = false;
    // Other numbers of questions are malformed, but whether the reply carries OPT is known only behind them.
    if let Some(end) = (0..questions).try_fold(HEADER, |at, _| question_end(message, at)) {
        (query.edns, sound) = find_opt(message, end);
        sound &= questions == 1;
        if questions == 1 {
            query.question_end = end;
            query.qtype = be16(message, end - 4).unwrap_or(0);
            query.qclass = be16(message, end - 2).unwrap_or(0);
        }
    }
    let rcode = if header[2] & OPCODE != 0 {
        rcode::NOTIMP
    } else if !sound {
        rcode::FORMERR
    } else if query.edns.is_some_and(|edns| edns.version != 0) {
        rcode::BADVERS
    } else if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
        rcode::REFUSED
    } else {
        return Ok(query);
    };
    Err(Reject::Error { query, rcode })
}

/// Where the question at `start` ends, if it is one: plain labels, no pointers, within limits.
fn question_end(message: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = usize::from(*message.get(at)?);
        at += length + 1;
        if length == 0 {
            break;
        }
        if length > MAX_LABEL {
            return None;
        }
    }
    (at - start <= MAX_NAME && at + 4 <= message.len()).then_some(at + 4)
}

/// Walks the records behind the question: the first OPT seen, and whether everything was sound. Each record takes
/// at least 11 bytes, so that the work is bounded by the message whatever its counts say.
fn find_opt(message: &[u8], question_end: usize) -> (Option<Edns>, bool) {
    const COUNTS: [usize; 3] = [6, 8, 10];
    let mut edns = None;
    let mut at = question_end;
    for count_at in COUNTS {
        for _ in 0..be16(message, count_at).unwrap_or(0) {
            let Some(record) = Record::read(message, at) else { return (edns, false) };
            at = record.end;
            if record.rtype == rtype::OPT {
                let in_place = count_at == COUNTS[2] && record.owner_is_root && edns.is_none();
                edns = edns.or(Some(record.edns()));
                if !in_place {
                    return (edns, false);
                }
            }
        }
    }
    (edns, true)
}

/// What the walk needs of a record.
struct Record {
    owner_is_root: bool,
    rtype: u16,
    class: u16,
    ttl: [u8; 4],
    end: usize,
}

impl Record {
    /// The record at `start`; `None` when it passes the end. A pointer ends its owner and is not followed.
    fn read(message: &[u8], start: usize) -> Option<Record> {
        let mut at = start;
        loop {
            let length = *message.get(at)?;
            match length {
                0 => at += 1,
                1..=0x3f => {
                    at += usize::from(length) + 1;
                    continue;
                }
                0xc0..=0xff => at += 2,
                _ => return None,
            }
            break;
        }
        let fixed = message.get(at..)?.first_chunk::<10>()?;
        let end = at + 10 + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        (end <= message.len()).then(|| Record {
            owner_is_root: at == start + 1,
            rtype: u16::from_be_bytes([fixed[0], fixed[1]]),
            class: u16::from_be_bytes([fixed[2], fixed[3]]),
            ttl: [fixed[4], fixed[5], fixed[6], fixed[7]],
            end,
        })
    }

    /// The record read as OPT, whose class and TTL have meanings of their own.
    fn edns(&self) -> Edns {
        Edns {
            payload: self.class,
            extended_rcode: self.ttl[0],
            version: self.ttl[1],
            dnssec_ok: self.ttl[2] & DNSSEC_OK != 0,
        }
    }
}

/// The most bytes of a reply that this client takes over UDP: 512 without EDNS, never above [`PAYLOAD`] with it.
pub fn udp_limit(query: &Query<'_>) -> usize {
    usize::from(query.edns.map_or(MIN_PAYLOAD, |edns| edns.payload.clamp(MIN_PAYLOAD, PAYLOAD)))
}

/// Writes an error reply: header, the question if there was one, and OPT with the extended error ([`ede`]) when and
/// only when the query had OPT. At most 288 bytes, so that it fits every client.
pub fn error(query: &Query<'_>, rcode: u16, ede: Option<u16>, out: &mut Vec<u8>) {
    let reply = Reply { rcode, ede, ..Reply::default() };
    reply.begin(query, out);
    reply.finish(query, out);
}

/// What the header and the OPT record of a reply say beyond what they repeat from the query.
#[derive(Clone, Copy, Default)]
pub(super) struct Reply {
    /// Response code; above 15 only with OPT.
    pub rcode: u16,
    /// AA: the answer is har's own.
    pub authoritative: bool,
    /// TC: records were left out.
    pub truncated: bool,
    /// Records in the answer section.
    pub answers: u16,
    /// Records in the authority section.
    pub authority: u16,
    /// Extended error, sent when the query had OPT.
    pub ede: Option<u16>,
}

impl Reply {
    /// Clears `out` and writes header and question. RA=1; opcode, RD and CD are copied (RFC 4035 section 3.1.6);
    /// AD and Z stay clear, since nothing here was validated.
    pub fn begin(self, query: &Query<'_>, out: &mut Vec<u8>) {
        let header = query.message.first_chunk::<HEADER>().copied().unwrap_or_default();
        let question = query.question();
        let mut flags = QR | header[2] & (OPCODE | RD);
        if self.authoritative {
            flags |= AA;
        }
        if self.truncated {
            flags |= TC;
        }
        let [answers_high, answers_low] = self.answers.to_be_bytes();
        out.clear();
        out.extend_from_slice(&[
            header[0],
            header[1],
            flags,
            RA | header[3] & CD | self.rcode as u8 & RCODE,
            0,
            u8::from(!question.is_empty()),
            answers_high,
            answers_low,
            0,
            self.authority as u8,
            0,
            u8::from(query.edns.is_some()),
        ]);
        out.extend_from_slice(question);
    }

    /// Appends OPT when the query had one. [`Reply::begin`] has counted it already.
    pub fn finish(self, query: &Query<'_>, out: &mut Vec<u8>) {
        let Some(edns) = query.edns else { return };
        let [payload_high, payload_low] = PAYLOAD.to_be_bytes();
        let flags = if edns.dnssec_ok { DNSSEC_OK } else { 0 };
        let extended = (self.rcode >> 4) as u8;
        let opt = |length| [0, 0, rtype::OPT as u8, payload_high, payload_low, extended, 0, flags, 0, 0, length];
        match self.ede {
            None => out.extend_from_slice(&opt(0)),
            Some(code) => {
                let [high, low] = code.to_be_bytes();
                out.extend_from_slice(&opt(6));
                out.extend_from_slice(&[0, OPTION_EDE, 0, 2, high, low]);
            }
        }
    }
}

/// Cuts a forwarded reply that is above the client's limit to the header with TC=1, the question as the client asked
/// it, and OPT if the query had one. Flags and response code stay those of the upstream, the id becomes the query's.
pub fn truncate(reply: &mut Vec<u8>, query: &Query<'_>) {
    let Some(&header) = reply.first_chunk::<HEADER>() else { return };
    let behind_question = if header[4..6] == [0, 0] { Some(HEADER) } else { question_end(reply, HEADER) };
    let extended = behind_question.and_then(|at| find_opt(reply, at).0).map_or(0, |edns| edns.extended_rcode);
    let cut = Reply { rcode: u16::from(extended) << 4, ..Reply::default() };
    cut.begin(query, reply);
    if let Some(flags) = reply.get_mut(2..4) {
        flags.copy_from_slice(&[header[2] | TC, header[3]]);
    }
    cut.finish(query, reply);
}

/// Puts an id into a message; nothing happens to one that is too short to have one.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.first_chunk_mut::<2>() {
        *place = id.to_be_bytes();
    }
}

/// The id of a message that is long enough to have one.
pub fn id(message: &[u8]) -> Option<u16> {
    be16(message, 0)
}

/// The response code of the header (0..=15); the bits that OPT adds are left out. `None` when there is no header.
pub fn rcode(message: &[u8]) -> Option<u16> {
    message.first_chunk::<HEADER>().map(|header| u16::from(header[3] & RCODE))
}

/// Whether a message has TC=1.
pub fn is_truncated(message: &[u8]) -> bool {
    message.first_chunk::<HEADER>().is_some_and(|header| header[2] & TC != 0)
}

/// Whether `reply` is a response to the question of `query`, the id aside (RFC 5452 section 9.1).
///
/// Opcode, type and class are compared exactly, the name without regard to letter case (RFC 4343): some servers
/// repeat it in lower case, and what makes a forged reply improbable is id, port and socket. A FORMERR or NOTIMP
/// without any question or record counts too, since a server that could not read the query cannot repeat it.
pub fn matches_question(query: &[u8], reply: &[u8]) -> bool {
    let (Some(asked), Some(header)) = (query.first_chunk::<HEADER>(), reply.first_chunk::<HEADER>()) else {
        return false;
    };
    if header[2] & QR == 0 || header[2] & OPCODE != asked[2] & OPCODE {
        return false;
    }
    if header[4..10] == [0; 6] {
        return matches!(u16::from(header[3] & RCODE), rcode::FORMERR | rcode::NOTIMP);
    }
    let Some(end) = question_end(query, HEADER).filter(|_| header[4..6] == [0, 1]) else { return false };
    let (Some(ours), Some(theirs)) = (query.get(HEADER..end), reply.get(HEADER..end)) else { return false };
    if ours == theirs {
        return true;
    }
    let fixed = ours.len() - 4;
    // Length bytes are below 'A', so that folding the case of the whole name never makes two lengths equal.
    ours[..fixed].eq_ignore_ascii_case(&theirs[..fixed]) && ours[fixed..] == theirs[fixed..]
}

/// Turns NXDOMAIN into NOERROR: a configured name exists, whatever the upstream knows of it, and NXDOMAIN would deny
/// its addresses and every name below it too (RFC 8020 section 2).
pub fn relay_nxdomain_as_noerror(reply: &mut [u8]) {
    if let Some(header) = reply.first_chunk_mut::<HEADER>()
        && u16::from(header[3] & RCODE) == rcode::NXDOMAIN
    {
        header[3] &= !RCODE;
    }
}

fn be16(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests;
