//! Numbers that may be unknown, in no more place than those that are known, and texts that are kept once for many: what
//! an address has of them is there fifty thousand times.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::Time;

/// Milliseconds, if they are known, to seven digits: a tenth of a microsecond in a second. Never a NaN, which says no.
#[derive(Clone, Copy, Debug)]
pub struct Millis(f32);

impl Millis {
    /// Not known.
    pub const UNKNOWN: Millis = Millis(f32::NAN);

    /// The number, if it is known.
    pub fn get(self) -> Option<f64> {
        Some(f64::from(self.0)).filter(|ms| !ms.is_nan())
    }
}

impl Default for Millis {
    fn default() -> Millis {
        Millis::UNKNOWN
    }
}

impl PartialEq for Millis {
    fn eq(&self, other: &Millis) -> bool {
        self.get() == other.get()
    }
}

impl From<f64> for Millis {
    fn from(ms: f64) -> Millis {
        Millis(ms as f32)
    }
}

impl From<Option<f64>> for Millis {
    fn from(ms: Option<f64>) -> Millis {
        ms.map_or(Millis::UNKNOWN, Millis::from)
    }
}

/// A time, if there is one, in 48 bits: up to the year 10889. Never the last of all times, which says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment([u16; 3]);

impl Moment {
    /// None.
    pub(super) const NEVER: Moment = Moment([u16::MAX; 3]);

    /// The time, if there is one.
    pub(super) fn get(self) -> Option<Time> {
        let [low, middle, high] = self.0.map(u64::from);
        Some(Time(high << 32 | middle << 16 | low)).filter(|_| self != Moment::NEVER)
    }
}

impl From<Time> for Moment {
    fn from(time: Time) -> Moment {
        let ms = time.0.min((1 << 48) - 2);
        Moment([ms as u16, (ms >> 16) as u16, (ms >> 32) as u16])
    }
}

impl From<Option<Time>> for Moment {
    fn from(time: Option<Time>) -> Moment {
        time.map_or(Moment::NEVER, Moment::from)
    }
}

/// A text that many share, in the place of one pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(Arc<Box<str>>);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(Arc::new(text.into()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(Arc::new(text.into()))
    }
}

/// Texts that many have in common. Who asks for one of the last few again gets that one.
#[derive(Debug, Default)]
pub struct Common<T>([T; 8]);

impl<T: Clone + Deref<Target = str> + for<'a> From<&'a str>> Common<T> {
    /// The text, kept once for all who ask for it in a row.
    pub fn share(&mut self, text: &str) -> T {
        let Common(last) = self;
        let at = last.iter().position(|known| **known == *text).unwrap_or_else(|| {
            last.rotate_right(1);
            last[0] = text.into();
            0
        });
        last[at].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once() {
        let mut common = Common::<Arc<str>>::default();
        let [first, other, again] = ["one", "two", "one"].map(|text| common.share(text));
        assert!(Arc::ptr_eq(&first, &again) && *other == *"two");
        for text in ["three", "four", "five", "six", "seven", "eight", "nine", "ten"] {
            assert_eq!(*common.share(text), *text);
        }
        assert_eq!(*common.share("one"), *first, "made anew");
    }

    #[test]
    fn what_is_known_comes_back_and_what_is_not_does_not() {
        for ms in [None, Some(0.0), Some(2.5)] {
            assert_eq!(Millis::from(ms).get(), ms);
        }
        assert_eq!(Millis::UNKNOWN, Millis::default());
        for time in [None, Some(Time(0)), Some(Time(7)), Some(Time(1_800_000_000_123)), Some(Time((1 << 48) - 2))] {
            assert_eq!(Moment::from(time).get(), time);
        }
        assert_eq!(Moment::from(Time(u64::MAX)).get(), Some(Time((1 << 48) - 2)), "no time is none");
        assert_eq!((size_of::<Millis>(), size_of::<Moment>()), (4, 6));
    }
}
