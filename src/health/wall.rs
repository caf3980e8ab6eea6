//! The wall clock beside health's own.
//!
//! Health counts on a clock that never goes back, so that a step of the wall clock (time synchronisation after
//! the boot, a suspend) moves no check. People and the state file go by the wall clock: what is written is
//! converted, and so are the ends of what operators order.

use std::time::Duration;

use super::Time;

/// How far the wall clock is ahead of health's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    ahead_ms: i64,
}

impl WallClock {
    /// The wall clock that shows `wall` when it is `now`.
    pub fn showing(wall: Time, now: Time) -> WallClock {
        let signed = |time: Time| i64::try_from(time.0).unwrap_or(i64::MAX);
        WallClock { ahead_ms: signed(wall) - signed(now) }
    }

    /// What it shows at a time.
    pub fn at(self, time: Time) -> Time {
        Time(time.0.saturating_add_signed(self.ahead_ms))
    }

    /// When it shows this.
    pub fn when(self, wall: Time) -> Time {
        Time(wall.0.saturating_add_signed(-self.ahead_ms))
    }

    /// How far it was set to get here from another, and whether forward.
    pub fn set_from(self, before: WallClock) -> (Duration, bool) {
        let step = self.ahead_ms - before.ahead_ms;
        (Duration::from_millis(step.unsigned_abs()), step > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_converts_both_ways_and_knows_its_steps() {
        let (now, wall) = (Time(10_000), Time(4_000));
        let behind = WallClock::showing(wall, now);
        assert_eq!((behind.at(now), behind.when(wall)), (wall, now));
        assert_eq!(behind.at(Time(1_000)), Time(0), "before 1970 there is nothing");
        assert_eq!(behind.set_from(WallClock::default()), (Duration::from_secs(6), false));
        assert_eq!(WallClock::default().set_from(behind), (Duration::from_secs(6), true));
    }
}
