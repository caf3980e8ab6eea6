//! When the poller looks at what does not announce itself: the counters, the heartbeat, names that rest.
//!
//! Once a second while something happens. While nothing does, rarely: a host daemon that nobody asks should sleep. The
//! counters of many names are work even then, and are looked at as rarely as the promise of the state file allows.

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

    /// The next look comes by then.
    pub fn not_after(&mut self, time: Time) {
        self.due = self.due.min(time);
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

/// Names whose counters changed since the last look from which on they are many: some milliseconds of two threads.
const MANY: usize = 1000;

/// What a look takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The totals, and the counters of every name.
    Names,
    /// The totals alone.
    Totals,
}

/// When the counters of names are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameRounds {
    /// The next round, where the last one found many.
    due: Option<Time>,
}

impl NameRounds {
    /// What a look now takes in.
    pub fn extent(&self, now: Time) -> Extent {
        if self.due.is_some_and(|due| now < due) { Extent::Totals } else { Extent::Names }
    }

    /// A look took them in, and the counters of so many had changed.
    pub fn done(&mut self, changed: usize, now: Time) {
        self.due = (changed >= MANY).then(|| now.after(QUIET));
    }

    /// When there is to be a look that takes them in, if what is counted until then is not to be late.
    pub fn due(&self) -> Option<Time> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_many_names_are_looked_at_rarely_and_never_late() {
        let start = Time(1_000_000);
        let at = |ms: u64| start.after(Duration::from_millis(ms));
        let (mut pace, mut rounds) = (Pace::new(start), NameRounds::default());
        let mut taken_in = Vec::new();
        // Something happens all the time until half past the second second, nothing afterwards.
        for ms in 0..12_000 {
            if ms < 2_500 {
                pace.hasten();
            }
            if !pace.is_due(at(ms)) {
                continue;
            }
            match rounds.extent(at(ms)) {
                Extent::Names => {
                    taken_in.push(ms);
                    rounds.done(if ms < 4000 { MANY } else { MANY - 1 }, at(ms));
                }
                Extent::Totals => pace.not_after(rounds.due().unwrap()),
            }
        }
        assert_eq!(taken_in, [0, 4000, 8000], "what is counted right after a look waits for 4 s, no longer");
        pace.hasten();
        assert!(pace.is_due(at(12_000)) && rounds.extent(at(12_000)) == Extent::Names, "few are looked at each time");
    }

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
