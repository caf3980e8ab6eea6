//! What is due when: a queue ordered by time, a phase for each host and address, and jitter.
//!
//! Nothing here is random. The phase comes from a hash of the machine's id and the address, so that the
//! hosts of a fleet that boot together do not poll together; the jitter from a hash of the target and its
//! turn. A target that was handed out is not in the queue until its result is in: never two at once.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use super::Time;
use super::hash::{fraction, hash};

/// One run of a check against an address, shared by all names that want the same. Never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub u64);

/// A check to run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckJob {
    /// To be handed back with the result.
    pub target: TargetId,
    /// [`super::CheckRef::id`].
    pub check: u32,
    /// The candidate's address.
    pub address: IpAddr,
}

/// Share of an interval by which a check may come earlier or later.
const JITTER: f64 = 0.1;
/// A check counts as late beyond this even when a tenth of its interval is shorter: a poller that wakes
/// with the granularity of a timer is not late.
const LATE_LEAST: Duration = Duration::from_millis(50);

/// Keys in the order in which they are due; each at most once.
#[derive(Clone, Debug)]
pub(super) struct Queue<K> {
    order: BTreeSet<(Time, K)>,
    due: HashMap<K, Time>,
}

impl<K> Default for Queue<K> {
    fn default() -> Queue<K> {
        Queue { order: BTreeSet::new(), due: HashMap::new() }
    }
}

impl<K: Copy + Ord + Hash> Queue<K> {
    /// Puts a key in, or moves it.
    pub(super) fn set(&mut self, key: K, at: Time) {
        self.remove(key);
        self.due.insert(key, at);
        self.order.insert((at, key));
    }

    /// Moves a key forward; does nothing when it is not queued or due earlier already.
    pub(super) fn hasten(&mut self, key: K, at: Time) {
        if self.due.get(&key).is_some_and(|due| *due > at) {
            self.set(key, at);
        }
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, key: K) {
        if let Some(at) = self.due.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    /// The next key that is due, taken out, and when it was due.
    pub(super) fn pop(&mut self, now: Time) -> Option<(Time, K)> {
        let &(at, key) = self.order.first().filter(|(at, _)| *at <= now)?;
        self.remove(key);
        Some((at, key))
    }

    /// When the first key is due.
    pub(super) fn first(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }
}

/// An interval with its jitter for one turn of one target: 0.9 to 1.1 of it.
pub(super) fn jittered(interval: Duration, machine: u64, salt: u64, turn: u64) -> Duration {
    let share = fraction(hash(machine, &[&salt.to_be_bytes(), &turn.to_be_bytes()]));
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * share)
}

/// Where in an interval this host's turn for something is, 0..1.
pub(super) fn spread(machine: u64, what: &str) -> f64 {
    fraction(hash(machine, &[what.as_bytes()]))
}

/// The next time after `now` at which this host's turn for something comes, by its phase in the interval.
pub(super) fn next_slot(now: Time, interval: Duration, machine: u64, what: &[u8]) -> Time {
    let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    let phase = (fraction(hash(machine, &[what])) * interval as f64) as u64;
    let behind = (now.0 % interval + interval - phase % interval) % interval;
    Time(now.0.saturating_add(interval - behind))
}

/// Whether handing out a check now that was due then is late.
pub(super) fn is_late(due: Time, now: Time, interval: Duration) -> bool {
    now.since(due) > interval.mul_f64(JITTER).max(LATE_LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_hands_out_in_order_and_once() {
        let mut queue = Queue::default();
        for (key, at) in [(1, 30), (2, 10), (3, 20), (2, 40)] {
            queue.set(key, Time(at));
        }
        queue.hasten(2, Time(5));
        queue.hasten(3, Time(25));
        queue.hasten(9, Time(1));
        assert_eq!(queue.first(), Some(Time(5)));
        let drained: Vec<_> = std::iter::from_fn(|| queue.pop(Time(25))).collect();
        assert_eq!(drained, [(Time(5), 2), (Time(20), 3)]);
        assert_eq!(queue.first(), Some(Time(30)));
        queue.remove(1);
        assert_eq!(queue.first(), None);
    }

    #[test]
    fn jitter_stays_within_a_tenth_and_differs() {
        let interval = Duration::from_secs(10);
        let all: Vec<_> = (0..1000).map(|turn| jittered(interval, 1, 2, turn)).collect();
        assert!(all.iter().all(|d| (9.0..=11.0).contains(&d.as_secs_f64())));
        let mean = all.iter().map(Duration::as_secs_f64).sum::<f64>() / 1000.0;
        assert!((9.9..10.1).contains(&mean), "{mean}");
    }

    #[test]
    fn slots_spread_a_fleet_over_the_interval() {
        let interval = Duration::from_secs(10);
        let mut seconds = [0; 10];
        for machine in 0..1000 {
            let slot = next_slot(Time(1_000_000), interval, machine, b"10.0.0.1");
            assert!(slot > Time(1_000_000) && slot <= Time(1_010_000));
            assert_eq!(next_slot(slot, interval, machine, b"10.0.0.1"), slot.after(interval));
            seconds[((slot.0 - 1_000_001) / 1000) as usize] += 1;
        }
        assert!(seconds.iter().all(|count| (60..150).contains(count)), "{seconds:?}");
    }
}
