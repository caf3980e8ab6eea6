//! Many measurements as few: the least, the median and the greatest of each small part of the period.
//!
//! Nothing is dropped: an outlier of one check in a day is still the greatest of its part.

use std::collections::BTreeMap;

use super::scale::Period;
use crate::health::Time;

/// Parts of the period, about one for two pixels of the drawing.
pub const BUCKETS: usize = 400;

/// The shortest time over which several checks of an address are counted as one, milliseconds.
const ROUND_MS: u64 = 300_000;

/// A measurement that passed: one check, or the sum of five minutes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The least, milliseconds.
    pub low: f32,
    /// The time itself; the mean of a sum.
    pub middle: f32,
    /// The greatest; of a sum the value that 95 of 100 do not exceed.
    pub high: f32,
}

/// One part of the period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Checks that failed in it.
    pub failed: u64,
    middles: Vec<f32>,
    range: Option<(f32, f32)>,
}

/// What is recorded of one address.
#[derive(Clone, Debug)]
pub struct Series {
    period: Period,
    buckets: Vec<Bucket>,
    /// How many checks there were and how many passed, by the time and the check.
    rounds: BTreeMap<(u64, usize), (u64, u64)>,
    begun: Option<Time>,
    /// Whether five-minute sums are part of it.
    pub has_sums: bool,
    singles: Vec<f32>,
}

/// The figures of a series' single checks, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// The least.
    pub least: f32,
    /// Half are below.
    pub median: f32,
    /// 95 of 100 are not above.
    pub p95: f32,
    /// The greatest.
    pub greatest: f32,
}

/// What is drawn for a part of the period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The middle of the part, from 0 to 1 of the period.
    pub share: f64,
    /// The least, milliseconds.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The greatest.
    pub high: f64,
}

impl Series {
    /// Nothing yet.
    pub fn new(period: Period) -> Series {
        let buckets = vec![Bucket::default(); BUCKETS];
        Series { period, buckets, rounds: BTreeMap::new(), begun: None, has_sums: false, singles: Vec::new() }
    }

    /// A result of one of the address's checks, of which 0 is the first: its time in milliseconds, or `None` when it
    /// failed. All have to pass, and the latency is the first one's. Outside the period it does not count.
    pub fn check(&mut self, check: usize, at: Time, passed_ms: Option<f32>) {
        let sample = passed_ms.map(|ms| Sample { low: ms, middle: ms, high: ms });
        if self.count(check, at, 1, passed_ms.is_some().into(), sample) {
            self.singles.extend(passed_ms.filter(|_| check == 0));
        }
    }

    /// A sum of several results of a check that ended around `at`.
    pub fn sum(&mut self, check: usize, at: Time, checks: u64, passed: u64, sample: Option<Sample>) {
        self.has_sums |= self.count(check, at, checks, passed, sample);
    }

    /// Whether it lies in the period.
    fn count(&mut self, check: usize, at: Time, checks: u64, passed: u64, sample: Option<Sample>) -> bool {
        let Some(bucket) = self.bucket(at) else { return false };
        bucket.failed += checks.saturating_sub(passed);
        if check == 0 {
            sample.into_iter().for_each(|sample| bucket.add(sample));
            self.begun = Some(self.begun.map_or(at, |begun| begun.min(at)));
        }
        let time = at.0 / ROUND_MS.max(self.period.length_ms() / BUCKETS as u64);
        let count = self.rounds.entry((time, check)).or_default();
        *count = (count.0 + checks, count.1 + passed);
        true
    }

    /// When the first result of the first check was.
    pub fn begun(&self) -> Option<Time> {
        self.begun
    }

    /// Whether there is more than one check.
    pub fn has_several(&self) -> bool {
        self.rounds.keys().any(|(_, check)| *check != 0)
    }

    /// How many checks there were, and how many passed: of several at a time those of which the smallest share did.
    pub fn counts(&self) -> (u64, u64) {
        let mut worst: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (&(time, _), &count) in &self.rounds {
            let worst = worst.entry(time).or_insert(count);
            let share = |(checks, passed): (u64, u64)| passed as f64 / checks.max(1) as f64;
            if share(count) < share(*worst) {
                *worst = count;
            }
        }
        worst.values().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    }

    fn bucket(&mut self, at: Time) -> Option<&mut Bucket> {
        if !self.period.holds(at) {
            return None;
        }
        let place = (self.period.share(at) * BUCKETS as f64) as usize;
        self.buckets.get_mut(place.min(BUCKETS - 1))
    }

    /// The parts with something in them, in runs that a line may connect: not across a part in which all
    /// failed, and not across more than `gap_ms` without a check.
    pub fn runs(&self, gap_ms: u64) -> Vec<Vec<Point>> {
        let width = self.period.length_ms() as f64 / BUCKETS as f64;
        let reach = (gap_ms as f64 / width).ceil().max(1.0) as usize;
        let mut runs: Vec<Vec<Point>> = Vec::new();
        let mut last: Option<usize> = None;
        for (place, bucket) in self.buckets.iter().enumerate() {
            match bucket.point(place) {
                Some(point) => {
                    match (last, runs.last_mut()) {
                        (Some(last), Some(run)) if place - last <= reach => run.push(point),
                        _ => runs.push(vec![point]),
                    }
                    last = Some(place);
                }
                None if bucket.failed > 0 => last = None,
                None => {}
            }
        }
        runs
    }

    /// The parts with failed checks: where, from 0 to 1, and how many.
    pub fn failures(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let failed = self.buckets.iter().enumerate().filter(|(_, bucket)| bucket.failed > 0);
        failed.map(|(place, bucket)| (centre(place), bucket.failed))
    }

    /// The least and the greatest that is drawn.
    pub fn range(&self) -> Option<(f32, f32)> {
        let ranges = self.buckets.iter().filter_map(|bucket| bucket.range);
        ranges.reduce(|(low, high), (least, greatest)| (low.min(least), high.max(greatest)))
    }

    /// The figures of the single checks that passed.
    pub fn figures(&self) -> Option<Figures> {
        let mut sorted = self.singles.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied();
        Some(Figures { least: *sorted.first()?, median: at(50)?, p95: at(95)?, greatest: *sorted.last()? })
    }
}

fn centre(place: usize) -> f64 {
    (place as f64 + 0.5) / BUCKETS as f64
}

impl Bucket {
    fn add(&mut self, sample: Sample) {
        self.middles.push(sample.middle);
        let (low, high) = self.range.unwrap_or((sample.low, sample.high));
        self.range = Some((low.min(sample.low), high.max(sample.high)));
    }

    fn point(&self, place: usize) -> Option<Point> {
        let (low, high) = self.range?;
        let mut sorted = self.middles.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let median = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Point { share: centre(place), low: low.into(), median: median.into(), high: high.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Period = Period { from: Time(1_000_000), to: Time(4_600_000) };

    /// A moment in the middle of a part of the hour.
    fn at(bucket: u64) -> Time {
        Time(HOUR.from.0 + bucket * 9000 + 4500)
    }

    #[test]
    fn a_part_keeps_its_least_median_and_greatest() {
        let mut series = Series::new(HOUR);
        for ms in [9.0, 7.0, 250.0, 8.0, 8.5] {
            series.check(0, at(3), Some(ms));
        }
        let runs = series.runs(0);
        let expected = Point { share: 3.5 / 400.0, low: 7.0, median: 8.5, high: 250.0 };
        assert_eq!(runs, [vec![expected]]);
        assert_eq!(series.range(), Some((7.0, 250.0)));
        let figures = series.figures().unwrap();
        assert_eq!((figures.least, figures.median, figures.p95, figures.greatest), (7.0, 8.5, 250.0, 250.0));
    }

    #[test]
    fn no_line_is_drawn_where_nothing_was_measured() {
        let mut series = Series::new(HOUR);
        for bucket in [0, 1, 2, 10, 11, 13] {
            series.check(0, at(bucket), Some(1.0));
        }
        series.check(0, at(12), None);
        let lengths = |series: &Series, gap| series.runs(gap).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&series, 30_000), [3, 2, 1], "a gap, and a failure");
        assert_eq!(lengths(&series, 80_000), [5, 1]);
        assert_eq!(series.failures().collect::<Vec<_>>(), [(12.5 / 400.0, 1)]);
        assert_eq!(series.counts(), (7, 6));
    }

    #[test]
    fn what_is_outside_does_not_count() {
        let mut series = Series::new(HOUR);
        series.check(0, Time(999_999), Some(1.0));
        series.check(0, Time(4_600_001), None);
        assert_eq!((series.counts(), series.figures(), series.range()), ((0, 0), None, None));
        series.check(0, HOUR.to, Some(1.0));
        assert_eq!(series.runs(0).len(), 1, "the last moment is inside");
    }

    #[test]
    fn sums_count_their_checks_and_are_no_single_figures() {
        let mut series = Series::new(HOUR);
        series.sum(0, at(5), 30, 28, Some(Sample { low: 4.0, middle: 6.0, high: 20.0 }));
        series.sum(0, at(40), 30, 0, None);
        assert_eq!((series.counts(), series.has_sums), ((60, 28), true));
        assert_eq!((series.range(), series.figures()), (Some((4.0, 20.0)), None));
        assert_eq!(series.failures().map(|(_, count)| count).collect::<Vec<_>>(), [2, 30]);
    }

    #[test]
    fn all_checks_have_to_pass_and_the_latency_is_the_first_ones() {
        let mut series = Series::new(HOUR);
        for minute in 0..60 {
            let at = Time(HOUR.from.0 + minute * 60_000);
            series.check(0, at, Some(2.0));
            // Another one fails for half the time.
            series.check(13, Time(at.0 + 5000), (minute < 30).then_some(90.0));
        }
        assert_eq!((series.counts(), series.has_several()), ((60, 30), true));
        assert_eq!(series.range(), Some((2.0, 2.0)));
        assert_eq!(series.figures().map(|figures| figures.greatest), Some(2.0));
        assert_eq!(series.failures().map(|(_, count)| count).sum::<u64>(), 30);
    }
}
