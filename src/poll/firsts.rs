//! First answers of many names: told one by one while they are few, summed up beyond.
//!
//! What a name answers for the first time is no change of an answer. With ten thousand names that have no state yet, a
//! line for each would fill the table of events, and what is worth reading would leave it.

use crate::health::{Event, EventKind, Time};

/// First answers told one by one after a start or a reload.
const TOLD: usize = 100;

/// How many there were since the start or the last reload.
#[derive(Debug, Default)]
pub struct Firsts {
    told: usize,
    /// Left out since the last sum.
    untold: usize,
}

impl Firsts {
    /// Leaves out first answers when enough of them were told.
    pub fn thin_out(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        events.retain(|event| {
            if event.kind != EventKind::Answer || event.before.is_some() {
                return true;
            }
            let tell = self.told < TOLD;
            *(if tell { &mut self.told } else { &mut self.untold }) += 1;
            tell
        });
        events
    }

    /// The event that stands for those left out since the last call, if there were any.
    pub fn sum(&mut self, now: Time) -> Option<Event> {
        let untold = std::mem::take(&mut self.untold);
        (untold > 0).then(|| {
            let words =
                format!("{untold} more first answers, of names of which nothing was known, are not told one by one");
            Event::new(now, EventKind::Daemon, words)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(before: Option<&str>) -> Event {
        let mut event = Event::new(Time(0), EventKind::Answer, String::new());
        event.before = before.map(|words| words.to_owned().into());
        event
    }

    #[test]
    fn changes_are_told_always_and_first_answers_while_they_are_few() {
        let mut firsts = Firsts::default();
        assert_eq!(firsts.thin_out(vec![answer(None); TOLD - 1]).len(), TOLD - 1);
        assert_eq!(firsts.sum(Time(1)), None);
        let mixed = [answer(None), answer(None), answer(Some("192.0.2.1")), answer(None)];
        let other = Event::new(Time(0), EventKind::State, String::new());
        let told = firsts.thin_out(mixed.into_iter().chain([other.clone()]).collect());
        assert_eq!(told, [answer(None), answer(Some("192.0.2.1")), other]);
        let sum = firsts.sum(Time(1)).unwrap();
        assert!(sum.kind == EventKind::Daemon && sum.reason.starts_with("2 more first answers"), "{}", sum.reason);
        assert_eq!(firsts.sum(Time(2)), None, "said once");
    }
}
