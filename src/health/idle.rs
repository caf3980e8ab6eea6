//! Names that nobody asks for are polled less often, and a query ends that at once.
//!
//! The event loop knows when a name was last asked for. The poller brings that here once in a while for all names
//! that may rest ([`Roster::resting_names`]), and at once for one that rests already: that one was marked.

use super::Time;
use super::roster::{Name, Roster};
use super::schedule::TargetId;

impl Roster {
    /// Indices of the names that have an `idle_after`.
    pub fn resting_names(&self) -> &[usize] {
        &self.resting
    }

    /// Whether nobody asked for a name for so long that it is polled less often.
    pub fn is_idle(&self, name: usize, now: Time) -> bool {
        self.names.get(name).is_some_and(|name| name.is_idle(now))
    }

    /// A name was asked for at `at`: it is not idle, and if it was by then, it is checked at once.
    pub fn asked(&mut self, name: usize, at: Time, now: Time) {
        let Some(entry) = self.names.get_mut(name).filter(|name| name.last_asked < at) else { return };
        let was_idle = entry.is_idle(at);
        entry.last_asked = at;
        if was_idle {
            let targets: Vec<TargetId> =
                entry.endpoints.iter().flat_map(|endpoint| endpoint.checks.iter()).map(|check| check.target).collect();
            for target in targets {
                self.run_now(target, now);
            }
        }
    }
}

impl Name {
    /// Whether nobody asked for it for so long that it is polled less often.
    pub(super) fn is_idle(&self, now: Time) -> bool {
        let after = self.spec.pace.idle_after;
        !after.is_zero() && now.since(self.last_asked) >= after
    }
}
