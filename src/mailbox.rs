//! Hand-over between threads: a bounded or coalescing box of values and a way to wake its reader.
//!
//! The writer never waits for the reader, and the reader takes everything at once. What wakes the reader
//! is the caller's (a mio waker for the event loop, a condition variable for a thread that sleeps in
//! [`Inbox::wait`]).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Places that reader and writer keep for what comes next; after a burst the rest of them go back.
pub const KEPT: usize = 256;

/// A queue that many threads write to and one sleeps on.
pub struct Inbox<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Inbox<T> {
        Inbox { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<T> {
    queue: Mutex<VecDeque<T>>,
    filled: Condvar,
}

impl<T> Default for Inbox<T> {
    fn default() -> Inbox<T> {
        Inbox { shared: Arc::new(Shared { queue: Mutex::new(VecDeque::new()), filled: Condvar::new() }) }
    }
}

impl<T> Inbox<T> {
    /// An empty inbox.
    pub fn new() -> Inbox<T> {
        Inbox::default()
    }

    /// Adds a value and wakes the reader. Who writes without an answer to wait for bounds what it sends.
    pub fn send(&self, value: T) {
        self.lock().push_back(value);
        self.shared.filled.notify_one();
    }

    /// Moves everything into `into`, after waiting up to `timeout` (for ever if `None`) for a first value.
    pub fn wait(&self, timeout: Option<Duration>, into: &mut Vec<T>) {
        let queue = self.lock();
        let empty = |queue: &mut VecDeque<T>| queue.is_empty();
        let mut queue = match timeout {
            Some(timeout) => {
                self.shared.filled.wait_timeout_while(queue, timeout, empty).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.shared.filled.wait_while(queue, empty).unwrap_or_else(PoisonError::into_inner),
        };
        into.extend(queue.drain(..));
        queue.shrink_to(KEPT);
    }

    /// Moves everything that is there into `into`, without waiting.
    pub fn take(&self, into: &mut Vec<T>) {
        let mut queue = self.lock();
        into.extend(queue.drain(..));
        queue.shrink_to(KEPT);
    }

    /// Values waiting.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // A panic ends the process (see `lib.rs`), so that a poisoned lock is never seen in the daemon;
    // in a test the value behind it is as good as before.
    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_arrive_in_order_and_wake_the_reader() {
        let inbox = Inbox::new();
        let writer = inbox.clone();
        let thread = std::thread::spawn(move || {
            writer.send(1);
            writer.send(2);
        });
        let mut got = Vec::new();
        while got.len() < 2 {
            inbox.wait(Some(Duration::from_secs(5)), &mut got);
        }
        thread.join().unwrap();
        assert_eq!(got, [1, 2]);
        assert!(inbox.is_empty());
        inbox.wait(Some(Duration::ZERO), &mut got);
        assert_eq!(got.len(), 2);
    }

    #[test]
    fn a_burst_leaves_no_room_behind() {
        let (inbox, mut got) = (Inbox::new(), Vec::new());
        for take in [true, false] {
            (0..10_000).for_each(|value| inbox.send(value));
            if take {
                inbox.take(&mut got)
            } else {
                inbox.wait(None, &mut got)
            }
            assert!(inbox.lock().capacity() <= 2 * KEPT, "{}", inbox.lock().capacity());
        }
        assert_eq!(got.len(), 20_000);
    }
}
