//! Up, down, unknown: what one address's results in a row make of it.
//!
//! [`observe`] is a function of the old health, one observation and the thresholds; it keeps no clock and
//! knows neither names nor checks. From `unknown` the first result decides; `rise` and `fall` count results
//! in a row; the window of `min_success` and the smoothed latency are emptied when an address comes up.

use super::compact::Millis;
use super::{State, Thresholds, Time};

/// Checks that the window of `min_success` holds at most.
pub const WINDOW: u8 = 20;
/// Checks that it must hold before the share is looked at: fewer say too little.
pub const WINDOW_LEAST: u8 = 10;
/// Weight of a new sample in the smoothed latency and its deviation.
pub const SMOOTHING: f64 = 0.3;

/// What is known about one address under its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Health {
    /// Up, down or unknown.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// Successes in a row.
    pub successes: u32,
    /// Failures in a row.
    pub failures: u32,
    /// The last checks since it came up, newest in the lowest bit, 1 = success.
    pub window: u32,
    /// How many bits of `window` count (0..=20).
    pub window_len: u8,
    /// Smoothed latency, milliseconds. Kept while down: it orders what is best known.
    pub latency_ms: Millis,
    /// Its mean deviation, milliseconds.
    pub deviation_ms: Millis,
    /// Unknown for want of results alone: it was up and its numbers still count when it turns out to be so.
    pub resumes: bool,
}

/// A change of state and what caused it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    /// The old state.
    pub from: State,
    /// The new state.
    pub to: State,
    /// Why.
    pub cause: Cause,
}

/// What changed a state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// It was unknown.
    FirstResult,
    /// So many successes in a row.
    Rise(u32),
    /// So many failures in a row.
    Fall(u32),
    /// Too small a share of successes: this many of that many.
    Share(u32, u32),
}

/// Health after one more observation. `sample_ms` is the latency of a success, if it has one.
pub fn observe(
    health: &Health,
    success: bool,
    sample_ms: Option<f64>,
    thresholds: &Thresholds,
    now: Time,
) -> (Health, Option<Transition>) {
    let mut next = *health;
    if success {
        next.successes = next.successes.saturating_add(1);
        next.failures = 0;
    } else {
        next.failures = next.failures.saturating_add(1);
        next.successes = 0;
    }
    let change = match health.state {
        State::Unknown if success => Some((State::Up, Cause::FirstResult)),
        State::Unknown => Some((State::Down, Cause::FirstResult)),
        State::Down if success && next.successes >= thresholds.rise => Some((State::Up, Cause::Rise(next.successes))),
        State::Down => None,
        State::Up => {
            next.push(success);
            next.fallen(thresholds).map(|cause| (State::Down, cause))
        }
    };
    if let Some((to, _)) = change {
        if to == State::Up {
            next.come_up(health.resumes);
        }
        next.resumes = false;
        next.state = to;
        next.since = now;
    }
    if success && next.state == State::Up {
        next.smooth(sample_ms);
    }
    debug_assert!(next.window_len <= WINDOW && (next.successes == 0 || next.failures == 0));
    (next, change.map(|(to, cause)| Transition { from: health.state, to, cause }))
}

impl Health {
    /// The same address of which nothing recent is known. `resumes` = its numbers stay worth something.
    pub fn forgotten(&self, resumes: bool, now: Time) -> Health {
        Health { state: State::Unknown, since: now, successes: 0, failures: 0, resumes, ..*self }
    }

    /// Whether it is between up and down: the time to look closely.
    pub fn wavers(&self) -> bool {
        match self.state {
            State::Unknown => true,
            State::Up => self.failures > 0,
            State::Down => self.successes > 0,
        }
    }

    /// Whether its latency can be the smoothed one of a row of samples that ended with this one. After a sample it is 0.7
    /// of the distance away, and the deviation is 0.3 of that at least; a millisecond is nothing.
    pub(super) fn can_follow(&self, last_ms: Option<f64>) -> bool {
        let (Some(latency), Some(last)) = (self.latency_ms.get(), last_ms) else { return true };
        let farthest = self.deviation_ms.get().unwrap_or(latency) * (1.0 - SMOOTHING) / SMOOTHING;
        (latency - last).abs() <= farthest + 1.0
    }

    fn push(&mut self, success: bool) {
        self.window = ((self.window << 1) | u32::from(success)) & ((1 << WINDOW) - 1);
        self.window_len = (self.window_len + 1).min(WINDOW);
    }

    fn fallen(&self, thresholds: &Thresholds) -> Option<Cause> {
        if self.failures >= thresholds.fall {
            return Some(Cause::Fall(self.failures));
        }
        let good = self.window.count_ones();
        let share = f64::from(good) / f64::from(self.window_len.max(1));
        (self.window_len >= WINDOW_LEAST && share < thresholds.min_success)
            .then_some(Cause::Share(good, self.window_len.into()))
    }

    fn come_up(&mut self, resumes: bool) {
        if !resumes {
            (self.window, self.window_len) = (0, 0);
            (self.latency_ms, self.deviation_ms) = (Millis::UNKNOWN, Millis::UNKNOWN);
        }
        self.push(true);
    }

    /// `l += 0.3 · (sample − l)`. The deviation starts at half the first sample: one lucky sample must not
    /// look as certain as twenty.
    fn smooth(&mut self, sample_ms: Option<f64>) {
        let Some(sample) = sample_ms.filter(|sample| sample.is_finite() && *sample >= 0.0) else { return };
        let Some(latency) = self.latency_ms.get() else {
            (self.latency_ms, self.deviation_ms) = (sample.into(), (sample / 2.0).into());
            return;
        };
        let deviation = self.deviation_ms.get().unwrap_or(latency / 2.0);
        self.deviation_ms = (deviation + SMOOTHING * ((sample - latency).abs() - deviation)).into();
        self.latency_ms = (latency + SMOOTHING * (sample - latency)).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USUAL: Thresholds = Thresholds { rise: 2, fall: 3, min_success: 0.5 };

    /// Runs `+` (success, 10 ms) and `-` (failure); returns the states after each as letters.
    fn run(script: &str) -> (Health, String) {
        let mut health = Health::default();
        let mut states = String::new();
        for (at, sign) in script.chars().enumerate() {
            let sample = (sign == '+').then_some(10.0);
            health = observe(&health, sign == '+', sample, &USUAL, Time(at as u64)).0;
            states.push(health.state.as_str().as_bytes()[0] as char);
        }
        (health, states)
    }

    #[test]
    fn states_follow_results() {
        for (script, states) in [
            ("+", "u"),
            ("-", "d"),
            ("+--+--", "uuuuuu"),
            ("+---", "uuud"),
            ("-+-++", "ddddu"),
            ("+---++", "uuuddu"),
            // Eleven with five good ones: below half although never three failures in a row.
            ("+-+--+--+--", "uuuuuuuuudd"),
        ] {
            let (_, got) = run(script);
            if script.len() < 11 {
                assert_eq!(got, states, "{script}");
            } else {
                assert!(got.ends_with('d') && got[..9].chars().all(|state| state == 'u'), "{script}: {got}");
            }
        }
    }

    #[test]
    fn numbers_are_emptied_when_it_comes_up() {
        let (health, _) = run("+++---++");
        assert_eq!((health.window, health.window_len), (1, 1));
        assert_eq!((health.latency_ms.get(), health.deviation_ms.get()), (Some(10.0), Some(5.0)));
        let (down, _) = run("+++---");
        assert_eq!(down.latency_ms.get(), Some(10.0), "kept for the order of what is down");
    }

    #[test]
    fn an_interruption_is_not_a_fresh_start() {
        let (health, _) = run("++++++++");
        let back = observe(&health.forgotten(true, Time(50)), true, Some(20.0), &USUAL, Time(51)).0;
        assert_eq!(back.latency_ms.get(), Some(13.0));
        let anew = observe(&health.forgotten(false, Time(50)), true, Some(20.0), &USUAL, Time(51)).0;
        assert_eq!(anew.latency_ms.get(), Some(20.0));
    }

    proptest! {
        #[test]
        fn falls_exactly_after_fall_in_a_row(results in proptest::collection::vec(any::<bool>(), 1..200), fall in 1u32..6, rise in 1u32..6) {
            let thresholds = Thresholds { rise, fall, min_success: 0.0 };
            let mut health = Health::default();
            for (at, &success) in results.iter().enumerate() {
                let before = health;
                health = observe(&before, success, success.then_some(1.0), &thresholds, Time(at as u64)).0;
                let expected = match before.state {
                    State::Unknown => if success { State::Up } else { State::Down },
                    State::Up => if health.failures >= fall { State::Down } else { State::Up },
                    State::Down => if health.successes >= rise { State::Up } else { State::Down },
                };
                prop_assert_eq!(health.state, expected);
                prop_assert!(health.window_len <= WINDOW);
            }
        }
    }
}
