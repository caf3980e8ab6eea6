//! PURE. Endpoints and numbers: who is up, how fast, and who is answered.
//!
//! No sockets, files, threads, environment, `log`, random source or clock in here: time comes in as a
//! [`Time`], results as [`CheckResult`] values, and what was decided comes out as values. `poll` is the
//! shell that runs the checks and hands the decisions on; a test reads these sources and fails on a breach.
//!
//! [`machine`] turns results into up and down, [`roster`] holds every endpoint as one value,
//! [`rank`] is the only place that prefers one endpoint to another, [`decide`] adds the rules that are about a
//! whole name, [`explain`] decides once more from records, [`schedule`] and [`resolution`] say what is due when,
//! [`overrides`] what operators say, [`wall`] by which clock, `orders` puts that on the endpoints.
//! [`events`] has the words.

mod changed;
pub mod compact;
mod conflict;
pub mod decide;
pub mod discovery;
pub mod endpoint;
pub mod events;
pub mod explain;
pub mod few;
pub mod hash;
mod idle;
mod local_fault;
pub mod machine;
mod orders;
pub mod overrides;
pub mod rank;
mod records;
mod reload;
pub mod resolution;
pub mod roster;
pub mod schedule;
mod selection;
mod settle;
mod target;
mod targets;
mod time;
pub mod wall;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod world;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use compact::Text;
pub use records::{AnswerRecord, EndpointRecord, Recorded};
pub use time::Time;

/// Address family of a question: A asks for one, AAAA for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, the A record.
    V4,
    /// IPv6, the AAAA record.
    V6,
}

impl Family {
    /// Both, in the order in which they are shown.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// 0 for IPv4, 1 for IPv6: the place in pairs ordered as [`Family::BOTH`].
    pub fn index(self) -> usize {
        match self {
            Family::V4 => 0,
            Family::V6 => 1,
        }
    }

    /// The record type's name: `A` or `AAAA`.
    pub fn record(self) -> &'static str {
        match self {
            Family::V4 => "A",
            Family::V6 => "AAAA",
        }
    }
}

/// How a check ended. Only [`Outcome::Ok`] feeds the latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All that was asked for came, in time.
    Ok,
    /// Nothing conclusive within the check's time.
    Timeout,
    /// No connection: refused, reset, unreachable, no source address, family unsupported.
    ConnectError,
    /// The handshake or the certificate failed.
    TlsError,
    /// A reply came and was not the one expected.
    ResponseError,
    /// Anything else on the candidate's side (an `exec` check's failure, for one).
    OtherError,
    /// This host lacked a descriptor, memory or a local port: says nothing about the candidate.
    LocalError,
}

impl Outcome {
    /// Every outcome, in the order of the state file's columns.
    pub const ALL: [Outcome; 7] = [
        Outcome::Ok,
        Outcome::Timeout,
        Outcome::ConnectError,
        Outcome::TlsError,
        Outcome::ResponseError,
        Outcome::OtherError,
        Outcome::LocalError,
    ];

    /// The word used in the state file and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Timeout => "timeout",
            Outcome::ConnectError => "connect_error",
            Outcome::TlsError => "tls_error",
            Outcome::ResponseError => "response_error",
            Outcome::OtherError => "other_error",
            Outcome::LocalError => "local_error",
        }
    }

    /// The outcome that [`Outcome::as_str`] names.
    pub fn from_word(word: &str) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == word)
    }
}

/// What one check of one address yielded. Times are on a monotonic clock from the start of the check.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckResult {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether nothing at all came back from the network (a time-out while connecting, host or network
    /// unreachable, no source address): the sign of a fault on this host's own side. A refused port, a
    /// reset, a TLS or HTTP error prove a working path and have this `false`.
    pub silent: bool,
    /// HTTP code, exit status and the like.
    pub status: Option<i64>,
    /// Until the TCP connection was open.
    pub connect: Option<Duration>,
    /// Until the first byte of the reply.
    pub first_byte: Option<Duration>,
    /// The whole check.
    pub total: Duration,
    /// What went wrong, short, without secrets. In an outage thousands say the same, and share it.
    pub error: Option<Text>,
    /// A priority that an `exec` check reported; `Some(None)` = it said "not to be used".
    pub priority: Option<Option<u32>>,
    /// Days until the certificate expires, from `tls` checks.
    pub certificate_days: Option<i64>,
}

/// A check as this room sees it: equal ids are equal checks.
#[derive(Clone, Debug)]
pub struct CheckRef {
    /// Given out by `poll`, stable while the process lives.
    pub id: u32,
    /// The definition in words, without secrets: what the state file keeps to tell a changed check.
    pub definition: Arc<str>,
    /// `none`: never run, always up, latency unknown.
    pub is_none: bool,
    /// Whether it connects to the candidate's own address (`false` for a management address): only
    /// such results speak about this host's network to the candidate.
    pub own_address: bool,
    /// Passes at the one master or primary alone: two addresses that pass contradict each other.
    pub exclusive: bool,
}

impl PartialEq for CheckRef {
    fn eq(&self, other: &CheckRef) -> bool {
        self.id == other.id
    }
}
impl Eq for CheckRef {}

/// Where a candidate is: a name to look up or an address as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// Lower case, no trailing dot.
    Name(Arc<str>),
    /// A literal.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(address) => address.fmt(f),
        }
    }
}

/// When an address goes up or down.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Successes in a row that bring a down address up (1..).
    pub rise: u32,
    /// Failures in a row that take an up address down (1..).
    pub fall: u32,
    /// Least share of successes among the last 20 checks since it came up, once there are 10 (0..=1).
    pub min_success: f64,
}

/// How often an address is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// Between checks of an address that is up.
    pub interval: Duration,
    /// While it is between up and down, or unknown. Never above `interval`.
    pub fast_interval: Duration,
    /// While it is down.
    pub down_interval: Duration,
    /// Not asked for this long: polled every `idle_interval`. Zero = never idle.
    pub idle_after: Duration,
    /// Between checks of a name nobody asks for.
    pub idle_interval: Duration,
}

/// How the fit candidates of a tier are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// The fastest first, with hysteresis.
    LowestLatency,
    /// All within `within` of the best share the answers.
    LatencyGroup,
    /// Turn by turn, by weight.
    RoundRobin,
    /// Each candidate its own tier, as listed.
    Failover,
    /// Every fit one in each answer.
    All,
}

/// Which of a check's times is the latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyOf {
    /// The whole check.
    Total,
    /// Until the first byte of the reply.
    FirstByte,
    /// The TCP connect alone.
    Connect,
}

/// How a latency group shares the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Each answer the next one, by weight.
    Rotate,
    /// This host keeps one, by rendezvous hash.
    Host,
}

/// Whether the families are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DualStack {
    /// Each is answered by itself.
    Independent,
    /// The slower one gets an empty answer.
    Fastest,
}

/// What is answered when every known address of both families is down or drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllDown {
    /// The known addresses, best-known first.
    All,
    /// What was last answered while something was fit.
    LastGood,
    /// Ask upstream.
    Forward,
    /// SERVFAIL.
    Servfail,
    /// The fallback list.
    Fallback,
}

/// How a name's addresses are preferred to each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The order within a tier.
    pub select: Select,
    /// Which time counts.
    pub latency: LatencyOf,
    /// Width of a latency group.
    pub within: Duration,
    /// How a latency group shares.
    pub spread: Spread,
    /// Share by which a challenger must be faster (0..=1); 0 turns every margin off.
    pub hysteresis: f64,
    /// Slower than this only when nothing within it is up. Zero = no limit.
    pub max_latency: Duration,
    /// Addresses in one answer (1..=16).
    pub answers: usize,
    /// Fit addresses a family needs before lower tiers stay out (1..).
    pub min_up: usize,
    /// Share of fit addresses below which health is ignored (0..=1, 0 = never).
    pub panic_below: f64,
    /// Families compared or not.
    pub dual_stack: DualStack,
    /// The rule when nothing is left.
    pub when_all_down: AllDown,
}

/// A configured name as this room needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct NameSpec {
    /// Lower case, no trailing dot; a wildcard begins with `*.`.
    pub name: Arc<str>,
    /// How candidates are preferred. One value for all names with the same, as are the next two.
    pub policy: Arc<Policy>,
    /// When they go up and down.
    pub thresholds: Arc<Thresholds>,
    /// How often they are checked.
    pub pace: Arc<Pace>,
    /// At most this long between look-ups of a candidate's name.
    pub resolve_interval: Duration,
    /// How long the addresses of a name that stopped resolving are kept.
    pub resolve_hold: Duration,
    /// In the order of the file.
    pub candidates: Vec<CandidateSpec>,
    /// Looked up with the candidates, never checked; only for [`AllDown::Fallback`].
    pub fallback: Vec<Host>,
    /// TXT record that lists what is drained, if any.
    pub drain_record: Option<Arc<str>>,
}

impl NameSpec {
    /// Whether only one address can be the right one.
    pub(crate) fn wants_the_one(&self) -> bool {
        self.candidates.iter().flat_map(|candidate| &*candidate.checks).any(|check| check.exclusive)
    }
}

/// One candidate of a name.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateSpec {
    /// Where it is.
    pub host: Host,
    /// Tier, lower first (default 1).
    pub priority: u32,
    /// Share in round robin and latency groups (0..=100).
    pub weight: u32,
    /// All must pass; the first one's time is the latency. Never empty. One list for all candidates with the same; what
    /// each has of it is one pointer.
    pub checks: Arc<Vec<CheckRef>>,
}

/// Whether an address answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// No result yet, or none recent enough.
    #[default]
    Unknown,
    /// In use.
    Up,
    /// Not to be used.
    Down,
}

impl State {
    /// The word used in the state file and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Up => "up",
            State::Down => "down",
        }
    }

    /// The state that [`State::as_str`] names.
    pub fn from_word(word: &str) -> Option<State> {
        [State::Unknown, State::Up, State::Down].into_iter().find(|state| state.as_str() == word)
    }
}

/// A row of the `override` table.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// Its row.
    pub id: i64,
    /// What it does.
    pub kind: OverrideKind,
    /// One configured name, or all.
    pub name: Option<String>,
    /// The host or address; `None` only for [`OverrideKind::Bypass`].
    pub target: Option<String>,
    /// When it ends by itself.
    pub expires_at: Option<Time>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Who.
    pub created_by: Option<String>,
    /// When.
    pub created_at: Option<Time>,
}

/// What an override does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OverrideKind {
    /// Takes a candidate out without touching the service.
    Drain,
    /// Holds one up.
    ForceUp,
    /// Freezes an answer.
    Pin,
    /// Forwards configured names too.
    Bypass,
}

impl OverrideKind {
    /// The word used in the state file.
    pub fn as_str(self) -> &'static str {
        match self {
            OverrideKind::Drain => "drain",
            OverrideKind::ForceUp => "force-up",
            OverrideKind::Pin => "pin",
            OverrideKind::Bypass => "bypass",
        }
    }

    /// The kind that [`OverrideKind::as_str`] names.
    pub fn from_word(word: &str) -> Option<OverrideKind> {
        [OverrideKind::Drain, OverrideKind::ForceUp, OverrideKind::Pin, OverrideKind::Bypass]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

/// Something worth a row in the `event` table and a line in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub at: Time,
    /// What kind.
    pub kind: EventKind,
    /// The configured name it is about.
    pub name: Option<Arc<str>>,
    /// The family it is about.
    pub family: Option<Family>,
    /// The candidate.
    pub host: Option<Host>,
    /// The address.
    pub address: Option<IpAddr>,
    /// What was (a state, or the answer's addresses).
    pub before: Option<Cow<'static, str>>,
    /// What is.
    pub after: Option<Cow<'static, str>>,
    /// Latency of what was answered before, milliseconds.
    pub before_ms: Option<f64>,
    /// Latency of what is answered now, milliseconds.
    pub after_ms: Option<f64>,
    /// Why.
    pub reason: Arc<str>,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// An address changed its state.
    State,
    /// An answer changed.
    Answer,
    /// Addresses of a candidate came or went, or its name stopped resolving.
    Resolution,
    /// An override began or ended.
    Override,
    /// The fault is taken to be this host's own network, or no longer.
    LocalFault,
    /// Two addresses claim to be the one master or primary.
    RoleConflict,
    /// A certificate is about to expire, or was renewed.
    Certificate,
    /// The daemon started, stopped, reloaded or found its state file unusable.
    Daemon,
}

impl EventKind {
    /// The word used in the state file.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::State => "state",
            EventKind::Answer => "answer",
            EventKind::Resolution => "resolution",
            EventKind::Override => "override",
            EventKind::LocalFault => "local_fault",
            EventKind::RoleConflict => "role_conflict",
            EventKind::Certificate => "certificate",
            EventKind::Daemon => "daemon",
        }
    }
}
