//! From times and milliseconds to places in a drawing, and the round values that an axis shows.

use crate::health::Time;
use crate::store::time;

/// Labels on the axis of time at most: as many as a telephone has room for.
const TIME_TICKS: u64 = 6;

/// The same of labels with seconds, which are wider.
const SECOND_TICKS: u64 = 4;

/// Between two labels of the axis of time, seconds.
const TIME_STEPS: [u64; 20] =
    [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800];

/// Spread of values from which on the axis is logarithmic.
const WIDE: f64 = 25.0;

const DAY_S: u64 = 86_400;

/// What a page is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its begin.
    pub from: Time,
    /// Its end, later than the begin.
    pub to: Time,
}

impl Period {
    /// Its length, at least a millisecond.
    pub fn length_ms(self) -> u64 {
        self.to.0.saturating_sub(self.from.0).max(1)
    }

    /// Whether a moment lies in it.
    pub fn holds(self, at: Time) -> bool {
        (self.from..=self.to).contains(&at)
    }

    /// How far into it a moment lies, from 0 to 1.
    pub fn share(self, at: Time) -> f64 {
        let passed = at.0.clamp(self.from.0, self.to.0) - self.from.0;
        passed as f64 / self.length_ms() as f64
    }

    /// Round moments in it, with their labels.
    pub fn ticks(self) -> Vec<(Time, String)> {
        let most = |step: u64| if step < 60 { SECOND_TICKS } else { TIME_TICKS };
        let fits = |step: &u64| self.length_ms() / (step * 1000) <= most(*step);
        let step = TIME_STEPS.into_iter().find(fits).unwrap_or_else(|| {
            let days = self.length_ms().div_ceil(DAY_S * 1000).div_ceil(TIME_TICKS);
            days * DAY_S
        });
        let first = self.from.0.div_ceil(step * 1000);
        let last = self.to.0 / (step * 1000);
        (first..=last).map(|number| Time(number * step * 1000)).map(|at| (at, clock(at, step))).collect()
    }
}

/// The label of a round moment: a time of day, or the date at midnight.
fn clock(at: Time, step_s: u64) -> String {
    let text = time::to_text(at);
    let part = if at.0.is_multiple_of(DAY_S * 1000) && step_s >= 3600 {
        text.get(5..10)
    } else if step_s < 60 {
        text.get(11..19)
    } else {
        text.get(11..16)
    };
    part.unwrap_or_default().to_owned()
}

/// An axis of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// From 0 to the top.
    Linear {
        /// The largest value that has a place.
        top: f64,
    },
    /// Each decade as high as the other.
    Logarithmic {
        /// The smallest value that has a place.
        bottom: f64,
        /// The largest.
        top: f64,
    },
}

impl Values {
    /// The axis for values from `low` to `high`: logarithmic where they lie far apart, so that one slow
    /// check does not flatten all others.
    pub fn of(low: f64, high: f64) -> Values {
        let low = low.max(0.001);
        let high = high.max(low);
        if high / low < WIDE {
            return Values::Linear { top: round_up(high * 1.05) };
        }
        Values::Logarithmic { bottom: round_down(low), top: round_up(high) }
    }

    /// How high a value stands, from 0 to 1.
    pub fn share(self, value: f64) -> f64 {
        let share = match self {
            Values::Linear { top } => value / top,
            Values::Logarithmic { bottom, top } => (value.max(bottom) / bottom).ln() / (top / bottom).ln(),
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values on it, the top included.
    pub fn ticks(self) -> Vec<f64> {
        match self {
            Values::Linear { top } => {
                let parts = if ((top / decade(top)).round() as u64).is_multiple_of(5) { 5 } else { 4 };
                (0..=parts).map(|part| top * f64::from(part) / f64::from(parts)).collect()
            }
            Values::Logarithmic { bottom, top } => {
                let steps: &[f64] = if top / bottom > 2500.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let mut at = decade(bottom);
                let mut ticks = Vec::new();
                while at <= top * 1.001 {
                    ticks.extend(steps.iter().map(|step| at * step));
                    at *= 10.0;
                }
                ticks.retain(|tick| *tick >= bottom * 0.999 && *tick <= top * 1.001);
                ticks
            }
        }
    }
}

/// The power of ten at or below a value.
fn decade(value: f64) -> f64 {
    10f64.powf((value.log10() + 1e-9).floor())
}

/// The next value like 1, 2, 4, 5, 8 or 10.
fn round_up(value: f64) -> f64 {
    let unit = decade(value);
    let step = [1.0, 2.0, 4.0, 5.0, 8.0].into_iter().find(|step| step * unit >= value * 0.999_999);
    step.unwrap_or(10.0) * unit
}

/// The last value like 1, 2 or 5.
fn round_down(value: f64) -> f64 {
    let unit = decade(value);
    let step = [5.0, 2.0].into_iter().find(|step| step * unit <= value * 1.000_001);
    step.unwrap_or(1.0) * unit
}

/// A latency with its unit and as many digits as say something.
pub fn milliseconds(value: f64) -> String {
    let digits = |value: f64, digits: usize| {
        let text = format!("{value:.digits$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match value {
        value if value >= 9999.5 => format!("{} s", digits(value / 1000.0, 1)),
        value if value >= 99.95 => format!("{} ms", digits(value, 0)),
        value if value >= 0.995 => format!("{} ms", digits(value, 1)),
        value => format!("{} ms", digits(value, 3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(from: &str, to: &str) -> Period {
        Period { from: time::from_text(from).unwrap(), to: time::from_text(to).unwrap() }
    }

    #[test]
    fn moments_have_their_place_and_never_leave_the_drawing() {
        let day = period("2026-11-20T00:00:00.000Z", "2026-11-21T00:00:00.000Z");
        assert_eq!(day.share(time::from_text("2026-11-20T06:00:00.000Z").unwrap()), 0.25);
        assert_eq!((day.share(Time(0)), day.share(Time(u64::MAX))), (0.0, 1.0));
    }

    #[test]
    fn labels_of_time_are_round_and_few() {
        let labels = |from, to| period(from, to).ticks().into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        let day = labels("2026-11-20T13:07:00.000Z", "2026-11-21T13:07:00.000Z");
        assert_eq!(day, ["18:00", "11-21", "06:00", "12:00"]);
        let minute = labels("2026-11-20T13:07:03.000Z", "2026-11-20T13:08:03.000Z");
        assert_eq!(minute, ["13:07:15", "13:07:30", "13:07:45", "13:08:00"], "with seconds there is room for fewer");
        for length in 1..4000u64 {
            let span = Period { from: Time(1_795_243_500_123), to: Time(1_795_243_500_123 + length * length * 1000) };
            let count = span.ticks().len() as u64;
            assert!(count <= TIME_TICKS + 1, "{length}: {count}");
        }
    }

    #[test]
    fn a_narrow_range_begins_at_zero_and_a_wide_one_is_logarithmic() {
        assert_eq!(Values::of(5.0, 41.0), Values::Linear { top: 50.0 });
        assert_eq!(Values::of(5.0, 41.0).ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(Values::of(3.0, 3.5).ticks(), [0.0, 1.0, 2.0, 3.0, 4.0]);
        let wide = Values::of(3.0, 700.0);
        assert_eq!(wide, Values::Logarithmic { bottom: 2.0, top: 800.0 });
        assert_eq!(wide.ticks(), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
        assert_eq!(Values::of(8.0, 290.0).ticks(), [5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
    }

    #[test]
    fn every_value_has_a_place_in_order() {
        for (low, high) in [(0.0, 0.0), (0.2, 0.3), (1.0, 24.9), (1.0, 25.1), (0.004, 60_000.0), (3000.0, 3000.0)] {
            let values = Values::of(low, high);
            let ticks = values.ticks();
            assert!((2..=11).contains(&ticks.len()), "{values:?}: {ticks:?}");
            assert!(ticks.is_sorted(), "{ticks:?}");
            assert!(values.share(low) <= values.share(high) && values.share(high) <= 1.0);
            let top = match values {
                Values::Linear { top } | Values::Logarithmic { top, .. } => top,
            };
            assert!(high <= top, "{high} is on the axis of {values:?}");
        }
    }

    #[test]
    fn latencies_read_well() {
        let texts = [0.0421, 0.25, 1.0, 8.26, 99.9, 120.4, 9999.0, 12_345.0].map(milliseconds);
        assert_eq!(texts, ["0.042 ms", "0.25 ms", "1 ms", "8.3 ms", "99.9 ms", "120 ms", "9999 ms", "12.3 s"]);
    }
}
