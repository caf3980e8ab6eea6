//! Clocks: one that never goes back, and a look at whether the host was asleep.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::health::Time;

/// A jump above this is a suspend: far above what two readings one after the other can differ by.
const LEAST_SUSPEND: Duration = Duration::from_secs(1);

/// Milliseconds since the epoch that never go back: the wall clock at the start, and the monotonic one since.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    /// Starts now. One for the process: two have different ideas of the wall clock.
    #[expect(clippy::new_without_default, reason = "reads the wall clock")]
    pub fn new() -> Clock {
        Clock { start: Instant::now(), start_ms: wall_ms() }
    }

    /// The time now.
    pub fn now(&self) -> Time {
        self.at(Instant::now())
    }

    /// The time at an instant; what lies before the start is the start.
    pub fn at(&self, instant: Instant) -> Time {
        Time(self.start_ms).after(instant.saturating_duration_since(self.start))
    }
}

/// The wall clock, milliseconds since the epoch; it may jump.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Notices that the host was suspended: the boot-time clock goes on then, the monotonic one does not.
#[derive(Clone, Copy, Debug)]
pub struct SuspendWatch {
    asleep: Duration,
}

impl SuspendWatch {
    /// Watches from now on.
    #[expect(clippy::new_without_default, reason = "reads the clocks")]
    pub fn new() -> SuspendWatch {
        SuspendWatch { asleep: time_asleep() }
    }

    /// How long the host slept since the last call, if it did.
    pub fn slept(&mut self) -> Option<Duration> {
        self.compare(time_asleep())
    }

    fn compare(&mut self, asleep: Duration) -> Option<Duration> {
        let slept = asleep.saturating_sub(self.asleep);
        self.asleep = asleep;
        (slept >= LEAST_SUSPEND).then_some(slept)
    }
}

/// How long the host has been suspended since it booted.
fn time_asleep() -> Duration {
    // Monotonic first: what passes between the readings then never makes the difference negative.
    let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
    let monotonic = read(ClockId::CLOCK_MONOTONIC);
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(monotonic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_follows_the_monotonic_clock() {
        let clock = Clock::new();
        assert_eq!(clock.at(clock.start + Duration::from_millis(1500)), Time(clock.start_ms + 1500));
        assert!(wall_ms().abs_diff(clock.now().0) < 60_000);
    }

    #[test]
    fn a_jump_is_a_suspend_and_is_told_once() {
        let mut watch = SuspendWatch::new();
        assert_eq!(watch.slept(), None);
        let later = watch.asleep + Duration::from_secs(3600);
        assert_eq!(watch.compare(later), Some(Duration::from_secs(3600)));
        assert_eq!(watch.compare(later), None);
        assert_eq!(watch.compare(later + Duration::from_millis(5)), None);
    }
}
