//! How often each address was given out.
//!
//! The event loop counts whole answers (a [`Turn`](crate::dns::snapshot::Turn) each has a counter); this side
//! knows which addresses a turn holds. A turn that was replaced is read until the event loop has let go of it,
//! so that no answer is lost between two versions.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A configured name's index and one of its addresses.
pub type Key = (usize, IpAddr);

/// Counters of answers given, by name and address.
#[derive(Default)]
pub struct Tally {
    turns: Vec<Watched>,
}

struct Watched {
    name: u32,
    addresses: Arc<[IpAddr]>,
    given: Arc<AtomicU64>,
    seen: u64,
}

impl Tally {
    /// A counter for a new answer of `name`.
    pub fn watch(&mut self, name: usize, addresses: &Arc<[IpAddr]>) -> Arc<AtomicU64> {
        let given = Arc::new(AtomicU64::new(0));
        let addresses = Arc::clone(addresses);
        self.turns.push(Watched { name: name as u32, addresses, given: Arc::clone(&given), seen: 0 });
        given
    }

    /// What was given since the last call, in the order of names and addresses; turns that nobody holds any more are let go.
    pub fn collect(&mut self) -> Vec<(Key, u64)> {
        let mut counts: Vec<(Key, u64)> = Vec::new();
        self.turns.retain_mut(|turn| {
            // The order matters: what the loop adds before it lets go must be seen by the read below.
            let held = Arc::strong_count(&turn.given) > 1;
            let given = turn.given.load(Ordering::Acquire);
            let more = given - turn.seen;
            turn.seen = given;
            if more > 0 {
                counts.extend(turn.addresses.iter().map(|&address| ((turn.name as usize, address), more)));
            }
            held
        });
        // A reload leaves room for twice as many.
        if self.turns.len() < self.turns.capacity() / 2 {
            self.turns.shrink_to_fit();
        }
        // In order, since what is looked up for each lies in that order, too.
        counts.sort_unstable_by_key(|(key, _)| *key);
        counts.dedup_by(|(key, more), (before, sum)| {
            let same = key == before;
            *sum += if same { *more } else { 0 };
            same
        });
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_answer_is_counted_to_its_end() {
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut tally = Tally::default();
        let first = tally.watch(0, &[one, two].into());
        first.fetch_add(3, Ordering::Relaxed);
        let second = tally.watch(0, &[two].into());
        second.fetch_add(1, Ordering::Relaxed);
        let counts = tally.collect();
        assert_eq!(counts, [((0, one), 3), ((0, two), 4)]);
        first.fetch_add(2, Ordering::Relaxed);
        drop(first);
        let counts = tally.collect();
        assert_eq!(counts, [((0, one), 2), ((0, two), 2)]);
        assert_eq!(tally.turns.len(), 1, "the first turn is let go");
        assert!(tally.collect().is_empty());
    }
}
