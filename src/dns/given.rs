//! How often one answer was given, told by two values of a counter that there is anyway.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often one answer was given. Whoever composed it keeps it to read it; the owner of the table writes it.
///
/// The only answer of a family is given as often as its name's counter moves while it stands, so that only two values of
/// that are noted. One of several turns counts itself.
#[derive(Debug)]
pub struct Given {
    /// [`Given::NOT_YET`], or where the counter stood.
    begin: AtomicU64,
    /// [`Given::GOES_ON`], or where the counter stood.
    end: AtomicU64,
}

impl Default for Given {
    fn default() -> Given {
        Given { begin: Given::NOT_YET.into(), end: Given::GOES_ON.into() }
    }
}

impl Given {
    const NOT_YET: u64 = u64::MAX;
    const GOES_ON: u64 = u64::MAX;

    /// How often so far. `now` is what [`NameTable::addresses_given`](super::lines::NameTable::addresses_given) says of its name, family and staleness, read before
    /// this is called; `None` when the table is no longer the one it was made for. `None` comes back when that cannot be
    /// told: it has not ended, and where its counter stands is not known.
    pub fn count(&self, now: Option<u64>) -> Option<u64> {
        let begin = self.begin.load(Ordering::Acquire);
        if begin == Given::NOT_YET {
            return Some(0);
        }
        let end = match self.end.load(Ordering::Acquire) {
            // What the counter moved after the end would have come with the end: there is none in `now`.
            Given::GOES_ON => now?,
            end => end,
        };
        Some(end.saturating_sub(begin))
    }

    /// It is the only answer of its family from now on; the counter stands there.
    pub(super) fn begin(&self, counter: u64) {
        self.begin.store(counter, Ordering::Release);
    }

    /// It is given no more.
    pub(super) fn end(&self, counter: u64) {
        self.end.store(counter, Ordering::Release);
    }

    /// It is one of several turns, and counts itself.
    pub(super) fn begin_turn(&self) {
        self.end.store(0, Ordering::Release);
        self.begin.store(0, Ordering::Release);
    }

    /// Its turn was given.
    pub(super) fn add_turn(&self) {
        self.end.store(self.end.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_was_given_as_often_as_the_counter_moved_while_it_stood() {
        let given = Given::default();
        assert_eq!([given.count(None), given.count(Some(9))], [Some(0); 2], "not yet");
        given.begin(10);
        assert_eq!([None, Some(9), Some(10), Some(13)].map(|now| given.count(now)), [None, Some(0), Some(0), Some(3)]);
        given.end(14);
        assert_eq!([None, Some(13), Some(20)].map(|now| given.count(now)), [Some(4); 3]);
        let turn = Given::default();
        turn.begin_turn();
        assert_eq!(turn.count(None), Some(0));
        turn.add_turn();
        turn.add_turn();
        assert_eq!(turn.count(Some(50)), Some(2));
    }

    #[test]
    fn it_is_small() {
        // Ten thousand times.
        assert!(size_of::<Given>() <= 16, "{}", size_of::<Given>());
    }
}
