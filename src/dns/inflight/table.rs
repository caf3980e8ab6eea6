//! Storage of the forwarder's core: slots with generations, and what happens when.
//!
//! A [`Key`] of something that is gone finds nothing, even when its slot was taken again. Timers are removed
//! lazily: an item whose owner has another time by now is skipped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Slots that are kept for reuse when everything is gone; a burst above it is given back.
const KEPT_SLOTS: usize = 256;

/// Names a value in a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Index, below the largest number of values that were there at once.
    pub slot: u32,
    /// Counts insertions, so that an old key is told from a new one.
    pub generation: u32,
}

/// Values by key, in reused slots.
pub(super) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    generation: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new(), generation: 0 }
    }
}

impl<T> Slab<T> {
    /// Adds a value.
    pub fn insert(&mut self, value: T) -> Key {
        self.generation = self.generation.wrapping_add(1);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize] = (self.generation, Some(value));
        Key { slot, generation: self.generation }
    }

    /// The value of a key, if it is still there.
    pub fn get(&self, key: Key) -> Option<&T> {
        let (generation, value) = self.slots.get(key.slot as usize)?;
        if *generation == key.generation { value.as_ref() } else { None }
    }

    /// The value of a key, if it is still there.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(key.slot as usize)?;
        if *generation == key.generation { value.as_mut() } else { None }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let value = self.slots[key.slot as usize].1.take();
        self.free.push(key.slot);
        if self.free.len() == self.slots.len() && self.slots.len() > KEPT_SLOTS {
            // Generations go on counting, so that keys from before the burst still find nothing.
            (self.slots, self.free) = (Vec::new(), Vec::new());
        }
        value
    }

    /// Values there.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Every value, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, (generation, value))| {
            value.as_ref().map(|value| (Key { slot: slot as u32, generation: *generation }, value))
        })
    }

    /// Every key into `into`, for loops that change the slab.
    pub fn keys(&self, into: &mut Vec<Key>) {
        into.clear();
        into.extend(self.iter().map(|(key, _)| key));
    }
}

/// What is due when.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Key)>>,
}

impl Timers {
    /// Adds a time; the one before it becomes stale because the owner no longer has it.
    pub fn set(&mut self, at: Instant, key: Key) {
        self.heap.push(Reverse((at, key)));
    }

    /// The earliest time, stale ones dropped first.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes what is due, stale or not.
    pub fn due(&mut self, now: Instant) -> Option<(Instant, Key)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(item)| item)
    }

    /// Drops stale items from the top, and all of them once they are the most.
    pub fn prune(&mut self, live: usize, valid: impl Fn(Instant, Key) -> bool) {
        while let Some(Reverse((at, key))) = self.heap.peek()
            && !valid(*at, *key)
        {
            self.heap.pop();
        }
        if self.heap.len() > 2 * live + KEPT_SLOTS {
            self.heap.retain(|Reverse((at, key))| valid(*at, *key));
            // Twice what brought it here: an even load must not give back now what it needs with the next query.
            self.heap.shrink_to(2 * (2 * live + KEPT_SLOTS));
        }
    }
}
