//! How the addresses of a name do together: what `har status --check`, the live table and the report say of it.
//!
//! What is taken out on purpose (drained, or not to be used by its check's own word) is neither good nor trouble, unless
//! nothing else is left.

use super::status::endpoints;
use crate::store::Stored;

/// Counts of one name's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fitness {
    /// All.
    pub all: usize,
    /// Up or held up, and not taken out.
    pub fit: usize,
    /// Taken out on purpose.
    pub withheld: usize,
    /// Those of them that operators took out.
    pub drained: usize,
}

/// How a name does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is fit.
    Bad,
    /// Something is not fit.
    Warn,
    /// Everything that is not taken out is fit.
    Good,
}

impl Fitness {
    /// Of one name.
    pub fn of(stored: &Stored, name: &str) -> Fitness {
        let mut counts = Fitness::default();
        for endpoint in endpoints(stored, name, None) {
            counts.all += 1;
            counts.fit += usize::from(endpoint.is_fit());
            counts.withheld += usize::from(endpoint.is_withheld());
            counts.drained += usize::from(endpoint.drained.is_some());
        }
        counts
    }

    /// What it comes to.
    pub fn level(self) -> Level {
        match self.fit {
            0 => Level::Bad,
            fit if fit + self.withheld < self.all => Level::Warn,
            _ => Level::Good,
        }
    }

    /// `2 of 3 up, 1 drained`, as far as there is something to say.
    pub fn words(self) -> String {
        let up = format!("{} of {} up", self.fit, self.all);
        match (self.fit, self.drained) {
            (0, 0) => String::new(),
            (0, drained) if drained == self.all => format!("{drained} drained"),
            (_, 0) => up,
            (_, drained) => format!("{up}, {drained} drained"),
        }
    }
}
