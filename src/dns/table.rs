//! Names found by their bytes: a fixed hash table over wire-format suffixes.
//!
//! Built once for a configuration and never changed, so that nobody outside can fill a bucket: a fast hash without
//! a secret is enough. A look-up costs a probe for a whole name and one for each depth at which a suffix exists,
//! whatever the number of names; it neither allocates nor fails on bytes that are no name.

use super::name::{MAX_LABEL, MAX_NAME};

/// A name in lower case, ready to be looked up.
pub struct Folded {
    bytes: [u8; FOLDED],
    length: usize,
}

/// [`MAX_NAME`] rounded up to whole [`LANE`]s.
const FOLDED: usize = MAX_NAME.next_multiple_of(LANE);
/// Bytes that are folded at a time.
const LANE: usize = 32;

impl Folded {
    /// Folds the case of an uncompressed wire name; what is longer than a name can be is cut.
    pub fn new(wire: &[u8]) -> Folded {
        let wire = wire.get(..MAX_NAME).unwrap_or(wire);
        let (mut bytes, length) = ([0; FOLDED], wire.len());
        bytes[..length].copy_from_slice(wire);
        // Length bytes are at most 63 and therefore below 'A': the whole name can be folded at once, and by whole
        // lanes without a byte-wise rest, since the zeros behind it stay zeros.
        bytes[..length.next_multiple_of(LANE)].make_ascii_lowercase();
        Folded { bytes, length }
    }

    /// The lower-case wire name.
    pub fn as_wire(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The name and everything above it down to the root, longest first.
    fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.as_wire();
        std::iter::from_fn(move || {
            let here = rest;
            let length = usize::from(*here.first()?);
            rest = if length == 0 || length > MAX_LABEL { &[] } else { here.get(length + 1..).unwrap_or_default() };
            Some(here)
        })
    }

    /// Whether this is `name` or a name below it. `name` is in lower-case wire format.
    pub fn is_at_or_below(&self, name: &[u8]) -> bool {
        // The comparison of bytes alone would take a label's data for a length; it only spares most names the walk.
        self.as_wire().ends_with(name) && self.suffixes().any(|suffix| suffix == name)
    }
}

/// Keys, each with its place in the order of adding.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Box<[Slot]>,
    /// Each key behind a byte with its length.
    keys: Box<[u8]>,
}

/// One place of the table: eight bytes, of which none lie in another cache line, so that those of 10,000 names stay
/// within the second-level cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where the key is.
    key: u32,
    /// The value, and above it what tells most other keys apart without a look at them.
    tagged: u32,
}

/// Marks a slot without a key.
const VACANT: Slot = Slot { key: 0, tagged: u32::MAX };
/// Values are below this. No configuration comes near so many names.
const VALUES: u32 = (1 << TAG_SHIFT) - 1;
/// Where the tag begins. Tables of up to as many slots take the rest of the hash for the place.
const TAG_SHIFT: u32 = 24;

impl Slot {
    fn has_tag_of(self, hash: u32) -> bool {
        (self.tagged ^ hash) >> TAG_SHIFT == 0
    }

    fn value(self) -> u32 {
        self.tagged & VALUES
    }
}

impl Table {
    /// A table of lower-case wire names; the first of equal ones counts.
    pub fn new<'a>(entries: impl Iterator<Item = (&'a [u8], u32)> + Clone) -> Table {
        let entries = entries.filter(|(_, value)| *value < VALUES);
        let count = entries.clone().count();
        if count == 0 {
            return Table::default();
        }
        // At most half full: probes stay short and always end.
        let mut table = Table { slots: vec![VACANT; (2 * count).next_power_of_two()].into(), keys: Box::default() };
        let mut keys = Vec::new();
        for (key, value) in entries {
            let start = keys.len();
            keys.push(key.len() as u8);
            keys.extend_from_slice(key);
            let hash = hash(key);
            let mut at = hash as usize & (table.slots.len() - 1);
            loop {
                let slot = &mut table.slots[at];
                if *slot == VACANT {
                    *slot = Slot { key: start as u32, tagged: hash & !VALUES | value };
                    break;
                }
                if slot.has_tag_of(hash) && key_at(&keys, slot.key) == key {
                    keys.truncate(start);
                    break;
                }
                at = (at + 1) & (table.slots.len() - 1);
            }
        }
        table.keys = keys.into();
        table
    }

    /// Where a key with this hash is looked for first.
    pub fn first_slot(&self, hash: u32) -> Option<&Slot> {
        self.slots.get(hash as usize & self.slots.len().wrapping_sub(1))
    }

    /// What a look-up of a key with this hash reads most likely: where the key begins, and the value.
    pub fn guess(&self, hash: u32) -> Option<(&u8, u32)> {
        let slot = self.first_slot(hash).filter(|slot| **slot != VACANT && slot.has_tag_of(hash))?;
        Some((self.keys.get(slot.key as usize)?, slot.value()))
    }

    /// The value of a key in lower-case wire format.
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let hash = hash(key);
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at & mask];
            if slot == VACANT {
                return None;
            }
            if slot.has_tag_of(hash) && key_at(&self.keys, slot.key) == key {
                return Some(slot.value());
            }
            at += 1;
        }
    }
}

fn key_at(keys: &[u8], at: u32) -> &[u8] {
    let at = at as usize;
    &keys[at + 1..at + 1 + usize::from(keys[at])]
}

/// Names that stand for what is below them: the longest that fits a question wins.
#[derive(Debug, Default)]
pub struct Suffixes {
    table: Table,
    /// Bit n: some suffix has n labels. Depths without one are not probed.
    depths: u128,
}

impl Suffixes {
    /// Suffixes in lower-case wire format, each with its value; the first of equal ones counts.
    pub fn new<'a>(entries: impl Iterator<Item = (&'a [u8], u32)> + Clone) -> Suffixes {
        let depths = entries.clone().fold(0, |depths, (suffix, _)| depths | 1 << labels(suffix));
        Suffixes { table: Table::new(entries), depths }
    }

    /// The value of the longest suffix that is the name itself or above it.
    pub fn at_or_above(&self, name: &Folded) -> Option<u32> {
        self.longest(name, 0)
    }

    /// The value of the longest suffix that is truly above the name.
    pub fn above(&self, name: &Folded) -> Option<u32> {
        self.longest(name, 1)
    }

    fn longest(&self, name: &Folded, skip: usize) -> Option<u32> {
        if self.depths == 0 {
            return None;
        }
        let labels = labels(name.as_wire());
        let candidates = name.suffixes().enumerate().skip(skip);
        candidates
            .filter(|(gone, _)| self.depths >> (labels - gone.min(&labels)) & 1 != 0)
            .find_map(|(_, suffix)| self.table.find(suffix))
    }
}

/// Labels of a wire name, the root not counted: at most 127 in one of 255 bytes.
fn labels(wire: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Some(&length @ 1..) = wire.get(at) {
        at += usize::from(length) + 1;
        count += 1;
    }
    count
}

/// Eight bytes at a time: a multiplication spreads them upwards, a fold brings the upper half down.
pub(super) fn hash(key: &[u8]) -> u32 {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |state: u64, word: u64| {
        let product = (state ^ word).wrapping_mul(SPREAD);
        product ^ product >> 32
    };
    let (words, rest) = key.as_chunks::<8>();
    let state = words.iter().fold(key.len() as u64, |state, word| mix(state, u64::from_le_bytes(*word)));
    // The last eight bytes once more are quicker than the rest byte by byte.
    let last = match key.last_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => rest.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    mix(state, last) as u32
}

#[cfg(test)]
mod tests;
