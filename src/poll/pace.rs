//! When the poller looks at what does not announce itself: the counters, the heartbeat, names that rest.
//!
//! Once a second while something happens. While nothing does, rarely: a host daemon that nobody asks should sleep.

use std::time::Duration;

use crate::health::Time;

/// Between two looks while something happens.
pub const BUSY: Duration = Duration::from_secs(1);

/// Between two looks while nothing happens: what is counted is in the state file after 5 s at the latest.
pub const QUIET: Duration = Duration::from_secs(4);

/// The time of the next look.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    last: Option<Time>,
    due: Time,
}

impl Pace {
    /// The first look is due at once.
    pub fn new(now: Time) -> Pace {
        Pace { last: None, due: now }
    }

    /// Something happened: the next look is a second after the last one, or now.
    pub fn hasten(&mut self) {
        if let Some(last) = self.last {
            self.due = self.due.min(last.after(BUSY));
        }
    }

    /// When the next look is due.
    pub fn due(&self) -> Time {
        self.due
    }

    /// Whether it is time; then the next one is far away unless something happens.
    pub fn is_due(&mut self, now: Time) -> bool {
        let due = self.due <= now;
        if due {
            *self = Pace { last: Some(now), due: now.after(QUIET) };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_a_second_apart_while_something_happens() {
        let start = Time(1_000_000);
        let at = |ms: u64| start.after(Duration::from_millis(ms));
        let mut pace = Pace::new(start);
        pace.hasten();
        assert!(pace.is_due(start) && !pace.is_due(at(1000)), "nothing happened");
        assert_eq!(pace.due(), start.after(QUIET));
        pace.hasten();
        assert!(pace.is_due(at(1500)), "the last one was long ago");
        pace.hasten();
        assert_eq!(pace.due(), at(2500), "not more than once a second");
        assert!(!pace.is_due(at(2499)) && pace.is_due(at(2500)));
        assert!(!pace.is_due(at(6499)) && pace.is_due(at(6500)));
    }
}
