//! What the state file keeps of addresses and answers: written as it changes, read back for a warm start.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use super::rank::{Standing, counts_as_up, is_withheld};
use super::{Family, Host, Outcome, State, Text, Time};

/// One endpoint (candidate × address of one name) as the state file keeps it: written as it changes,
/// read back for a warm start.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointRecord {
    /// The configured name.
    pub name: Arc<str>,
    /// The candidate.
    pub host: Host,
    /// One of its addresses.
    pub address: IpAddr,
    /// Its checks in words, joined by `; `, without secrets.
    pub definition: Arc<str>,
    /// Up, down or unknown (the real state, whatever an override says).
    pub state: State,
    /// Since when it is in that state.
    pub since: Time,
    /// Successes in a row.
    pub successes: u32,
    /// Failures in a row.
    pub failures: u32,
    /// The last checks since it came up, newest in the lowest bit, 1 = success.
    pub window: u32,
    /// How many bits of `window` count (0..=20).
    pub window_len: u32,
    /// Smoothed latency, milliseconds.
    pub latency_ms: Option<f64>,
    /// Mean deviation of the latency, milliseconds.
    pub deviation_ms: Option<f64>,
    /// Last connect time, milliseconds.
    pub connect_ms: Option<f64>,
    /// Last time to the first byte, milliseconds.
    pub first_byte_ms: Option<f64>,
    /// Last whole time, milliseconds.
    pub total_ms: Option<f64>,
    /// When the last result came.
    pub last_check: Option<Time>,
    /// How it ended.
    pub last_outcome: Option<Outcome>,
    /// What went wrong with the last one that failed.
    pub last_error: Option<Text>,
    /// The interval it was polled at, milliseconds.
    pub interval_ms: u64,
    /// The name of the candidate no longer resolves; the address is kept for `resolve_hold`.
    pub stale: bool,
    /// When a look-up last gave this address.
    pub resolved_at: Option<Time>,
    /// Place in its family's ranking, 1 = first; `None` = not ranked.
    pub rank: Option<u32>,
    /// Whether it is in the answer now.
    pub chosen: bool,
    /// Why it is where it is; in words with [`EndpointRecord::words`].
    pub standing: Recorded,
    /// Days until its certificate expires, as last found by a `tls` check.
    pub certificate_days: Option<i64>,
    /// Results so far, by [`Outcome::ALL`].
    pub counts: [u64; 7],
    /// Unknown, but in the stored answer: keeps its place until its own first result.
    pub keeps_place: bool,
    /// Went over `max_latency` and has not come back below 0.9 of it.
    pub over_limit: bool,
    /// What its check reported last; `Some(None)` = not to be used.
    pub reported_priority: Option<Option<u32>>,
    /// Taken out by an override or a drain record: until when and by whom, in words.
    pub drained: Option<String>,
    /// Held up by an override.
    pub forced: bool,
}

/// A standing, as it was found or as the state file said it. Its words are made where they are wanted: fifty thousand
/// addresses may be *down since*.
#[derive(Clone, Debug, PartialEq)]
pub enum Recorded {
    /// By this process.
    Found(Standing),
    /// In words.
    Read(String),
}

impl EndpointRecord {
    /// Whether it may be answered, the limits of its name aside: up or held up, and not [withheld](Self::is_withheld).
    pub fn is_fit(&self) -> bool {
        counts_as_up(self.state, self.forced) && !self.is_withheld()
    }

    /// Whether it is taken out on purpose: drained, or reported by its check as not to be used.
    pub fn is_withheld(&self) -> bool {
        is_withheld(self.drained.as_deref(), self.reported_priority.unwrap_or(Some(0)))
    }

    /// Its standing in words (`chosen`, `reserve`, `down since …`).
    pub fn words(&self) -> Cow<'_, str> {
        match &self.standing {
            Recorded::Found(standing) => standing.words(self.since, self.drained.as_deref()),
            Recorded::Read(words) => Cow::Borrowed(words),
        }
    }
}

/// One family's answer of one name as the state file keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRecord {
    /// The configured name.
    pub name: Arc<str>,
    /// A or AAAA.
    pub family: Family,
    /// What is answered, best first; empty when nothing is.
    pub addresses: Arc<[IpAddr]>,
    /// One word for the way it came about: `ranked`, `not-known-yet`, `all-down`, `held`, `panic`,
    /// `pinned`, `bypass`, `empty`, `no-address`, `not-ready`.
    pub basis: Cow<'static, str>,
    /// Why, in a sentence.
    pub reason: Arc<str>,
    /// Since when.
    pub since: Time,
    /// What was last answered while something was fit.
    pub last_good: Arc<[IpAddr]>,
}
