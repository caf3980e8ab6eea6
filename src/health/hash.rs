//! A hash that is the same on every host, in every version and on every day.
//!
//! Phases, jitter and the rendezvous spread hang on it: a change here would move every host's share of the
//! answers at once, so it is written out instead of taken from the standard library, which promises nothing.

/// Hashes parts under a seed. Parts are kept apart: `["ab", "c"]` and `["a", "bc"]` differ.
pub fn hash(seed: u64, parts: &[&[u8]]) -> u64 {
    let mut state = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
    for part in parts {
        for byte in *part {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        state = mix(state ^ part.len() as u64);
    }
    state
}

/// A hash as a number in 0..1, neither end included.
pub fn fraction(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// Finalizer of splitmix64: every bit of the input reaches every bit of the output.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_for_ever() {
        assert_eq!(hash(0, &[]), hash(0, &[]));
        assert_ne!(hash(0, &[b"ab", b"c"]), hash(0, &[b"a", b"bc"]));
        assert_ne!(hash(1, &[b"ab"]), hash(2, &[b"ab"]));
    }

    #[test]
    fn fractions_spread_evenly() {
        let mut buckets = [0u32; 10];
        for number in 0u32..10_000 {
            buckets[(fraction(hash(7, &[&number.to_be_bytes()])) * 10.0) as usize] += 1;
        }
        for bucket in buckets {
            assert!((900..1100).contains(&bucket), "{buckets:?}");
        }
    }
}
