//! How many transmissions beyond one a query may go upstream.
//!
//! Two rules: guesses (a retransmission while an answer may still be on its way, a copy that explores) are
//! limited to a tenth of the queries until losses are proven; and everything together, replacements of what
//! surely failed included, to one and a half of the last second's queries. Where queries are rare a second says
//! little (the second knock of a lone query falls into a second of its own), so that below six a second the same
//! share is counted over queries instead of time: each earns one and a half, of which [`EXTRA_FLOOR`] can be saved.

use std::time::{Duration, Instant};

/// Length of a part of the sliding second; fine enough that the window's edge is below a tenth of it.
const PART: Duration = Duration::from_millis(50);
/// Parts of the sliding second, and the one that is filling.
const PARTS: usize = 21;
/// Extra transmissions for each query of the last second.
const EXTRA_SHARE: f64 = 1.5;
/// Extra transmissions that can be saved up, and that may go out in a second of few queries: a lone query must be
/// able to knock more than once.
const EXTRA_FLOOR: f64 = 8.0;
/// Extra transmissions in a second whatever was used before: a server that is back is noticed by who still waits.
const EXTRA_LEAST: f64 = 1.0;
/// How often a change of the network fills up what is saved.
const RENEWED_EVERY: Duration = Duration::from_secs(10);
/// Guesses that each query earns.
const EARNED: f64 = 0.08;
/// Guesses that can be saved up: what is outstanding at 1,000 queries a second when a server falls silent.
const SAVED: f64 = 32.0;
/// Weight of the newest verdict on whether extras were needed.
const VERDICT_GAIN: f64 = 0.125;

/// Why an extra transmission is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// An answer may still come.
    Guess,
    /// Nothing that is under way can be expected to be answered.
    Replacement,
}

/// The account of extra transmissions.
pub(super) struct Budget {
    parts: [(u32, u32); PARTS],
    current: usize,
    /// When the current part ends.
    ends: Option<Instant>,
    /// Extra transmissions that the queries so far have earned and not used; a debt when negative.
    earned: f64,
    /// When a change of the network last filled that up.
    renewed: Option<Instant>,
    saved: f64,
    needed: f64,
}

impl Budget {
    pub fn new() -> Budget {
        let parts = [(0, 0); PARTS];
        Budget { parts, current: 0, ends: None, earned: EXTRA_FLOOR, renewed: None, saved: SAVED, needed: 0.0 }
    }

    /// A query goes upstream for the first time.
    pub fn query(&mut self, now: Instant) {
        self.turn(now);
        self.parts[self.current].0 += 1;
        self.earned = (self.earned + EXTRA_SHARE).min(EXTRA_FLOOR);
        self.saved = (self.saved + EARNED).min(SAVED);
    }

    /// The network is another one: a few queries that used up theirs on the old one are to be sent at once. A network that
    /// comes and goes all the time earns no more by that.
    pub fn renew(&mut self, now: Instant) {
        if self.renewed.is_none_or(|at| now.saturating_duration_since(at) >= RENEWED_EVERY) {
            (self.renewed, self.earned) = (Some(now), EXTRA_FLOOR);
        }
    }

    /// Asks for one more transmission and books it when it is granted.
    pub fn extra(&mut self, need: Need, now: Instant) -> bool {
        self.turn(now);
        let (queries, extras) =
            self.parts.iter().fold((0u32, 0u32), |(queries, extras), part| (queries + part.0, extras + part.1));
        // The parts cover somewhat more than a second: the oldest one's extras count, its queries do not.
        let queries = queries - self.parts[(self.current + 1) % PARTS].0;
        let wanted = f64::from(extras) + 1.0;
        let of_this_second = wanted <= (EXTRA_SHARE * f64::from(queries)).max(EXTRA_LEAST);
        if !of_this_second && (wanted > EXTRA_FLOOR || self.earned < 1.0) {
            return false;
        }
        if need == Need::Guess {
            if self.saved >= 1.0 {
                self.saved -= 1.0;
            } else if self.needed < 0.5 {
                return false;
            }
        }
        self.parts[self.current].1 += 1;
        self.earned = (self.earned - 1.0).max(-EXTRA_FLOOR);
        true
    }

    /// Learns whether an extra transmission was needed (`true`: the one before it was lost).
    pub fn verdict(&mut self, needed: bool) {
        self.needed += VERDICT_GAIN * (f64::from(u8::from(needed)) - self.needed);
    }

    fn turn(&mut self, now: Instant) {
        let ends = *self.ends.get_or_insert_with(|| now + PART);
        if now < ends {
            return;
        }
        let passed = 1 + (now.saturating_duration_since(ends).as_millis() / PART.as_millis()) as usize;
        for _ in 0..passed.min(PARTS) {
            self.current = (self.current + 1) % PARTS;
            self.parts[self.current] = (0, 0);
        }
        self.ends = Some(ends + PART * u32::try_from(passed).unwrap_or(u32::MAX));
    }
}
