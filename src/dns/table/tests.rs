//! Tests of the name table against a naive model.

use proptest::prelude::*;

use super::super::HostName;
use super::*;

fn fold(text: &str) -> Folded {
    Folded::new(text.parse::<HostName>().unwrap().as_wire())
}

#[test]
fn folding_leaves_lengths_alone() {
    let name = [b"\x3f".as_slice(), &[b'Q'; 63], b"\x03A\xc4z\0"].concat();
    let folded = Folded::new(&name);
    assert_eq!(folded.as_wire(), [b"\x3f".as_slice(), &[b'q'; 63], b"\x03a\xc4z\0"].concat());
}

#[test]
fn at_or_below_counts_labels() {
    let localhost = b"\x09localhost\0";
    assert!(fold("LocalHost").is_at_or_below(localhost));
    assert!(fold("a.b.localhost").is_at_or_below(localhost));
    assert!(!fold("xlocalhost").is_at_or_below(localhost));
    assert!(!fold("localhost.x").is_at_or_below(localhost));
    // One label of eleven bytes whose data looks like the name with its length.
    assert!(!Folded::new(b"\x0bx\x09localhost\0").is_at_or_below(localhost));
}

#[test]
fn longest_suffix() {
    let keys = ["example", "b.example", "deep.a.b.example"].map(|text| text.parse::<HostName>().unwrap());
    let suffixes = Suffixes::new(keys.iter().map(HostName::as_wire).zip(0..));
    for (name, at, above) in [
        ("example", Some(0), None),
        ("b.example", Some(1), Some(0)),
        ("a.b.example", Some(1), Some(1)),
        ("x.deep.a.b.example", Some(2), Some(2)),
        ("xb.example", Some(0), Some(0)),
        ("b.example.x", None, None),
    ] {
        assert_eq!((suffixes.at_or_above(&fold(name)), suffixes.above(&fold(name))), (at, above), "{name}");
    }
    let root = Suffixes::new([(&b"\0"[..], 5)].into_iter());
    assert_eq!(root.above(&fold("a.b")), Some(5));
    assert_eq!(root.above(&Folded::new(b"\0")), None);
    assert_eq!(root.at_or_above(&Folded::new(b"\0")), Some(5));
}

#[test]
fn the_first_of_equal_keys_counts() {
    let table = Table::new([(&b"\x01a\0"[..], 3), (&b"\x01b\0"[..], 4), (&b"\x01a\0"[..], 5)].into_iter());
    assert_eq!(table.find(b"\x01a\0"), Some(3));
    assert_eq!(table.find(b"\x01b\0"), Some(4));
    assert_eq!(table.find(b"\x01c\0"), None);
    assert_eq!(Table::default().find(b"\0"), None);
}

#[test]
fn a_slot_holds_all_values_but_the_one_that_marks_a_vacant_one() {
    let keys: Vec<[u8; 3]> = (b'a'..=b'z').map(|letter| [1, letter, 0]).collect();
    let table = Table::new(keys.iter().map(|key| (&key[..], VALUES - 1)));
    assert!(keys.iter().all(|key| table.find(key) == Some(VALUES - 1)));
    assert_eq!(Table::new([(&b"\x01a\0"[..], VALUES)].into_iter()).find(b"\x01a\0"), None);
    assert_eq!(size_of::<Slot>(), 8);
}

#[test]
fn probes_stay_short_with_many_names() {
    let keys: Vec<HostName> = (0..10_000).map(|n| format!("host-{n}.pool.example.com").parse().unwrap()).collect();
    let table = Table::new(keys.iter().map(HostName::as_wire).zip(0..));
    let mask = table.slots.len() - 1;
    let mut distances: Vec<usize> = Vec::new();
    for (at, slot) in table.slots.iter().enumerate().filter(|(_, slot)| **slot != VACANT) {
        distances.push(at.wrapping_sub(hash(key_at(&table.keys, slot.key)) as usize) & mask);
    }
    assert_eq!(distances.len(), keys.len());
    assert!(distances.iter().sum::<usize>() < keys.len(), "more than one extra probe a name on average");
    assert!(*distances.iter().max().unwrap() < 64);
    for (key, value) in keys.iter().zip(0..) {
        assert_eq!(table.find(key.as_wire()), Some(value));
    }
}

proptest! {
    #[test]
    fn bytes_that_are_no_name(name in prop::collection::vec(any::<u8>(), 0..300)) {
        let folded = Folded::new(&name);
        let suffixes = Suffixes::new([(&b"\x01a\0"[..], 1), (&b"\0"[..], 2)].into_iter());
        suffixes.at_or_above(&folded);
        suffixes.above(&folded);
        folded.is_at_or_below(b"\x01a\0");
    }
}
