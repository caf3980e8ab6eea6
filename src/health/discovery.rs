//! Candidates that are found instead of listed: when each name's are looked for, and what becomes of an answer.
//!
//! What was found stays until an answer says otherwise: a failed attempt changes nothing and is told once. A target
//! of a name server's record leaves only when two answers in a row leave it out, as an address does, and all leave
//! when the record has not been there for `hold`. A master that sentinels agree on is taken at once. Who is asked,
//! and how, is the caller's.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::schedule::{Queue, jittered};
use super::{Event, EventKind, Host, Time};

/// Never more often than this, whatever a TTL says.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);
/// Answers in a row that must leave a target out, where one is not enough.
const MISSES: u8 = 2;
/// Targets of one name at most: more is a mistake or an attack.
const MAX_FOUND: usize = 256;

/// A candidate that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub host: Host,
    /// For checks that name no port.
    pub port: Option<u16>,
    /// Tier, lower first.
    pub priority: u32,
    /// Share (0..=100).
    pub weight: u32,
}

/// How the candidates of a name are found.
#[derive(Clone, Debug)]
pub struct Search {
    /// The configured name.
    pub name: Arc<str>,
    /// Where they are looked for, in words without secrets: another one begins anew.
    pub source: Arc<str>,
    /// Between two attempts.
    pub interval: Duration,
    /// The same after one that failed. Never above `interval`.
    pub retry: Duration,
    /// An answer counts at once, and a failure never ends what it said; otherwise a target leaves after two answers
    /// without it, and all leave after `hold`.
    pub at_once: bool,
    /// How long what was found is kept when nothing is found any more.
    pub hold: Duration,
}

/// What a successful attempt found, and how long it may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In the order of preference.
    pub found: Vec<Found>,
    /// Time to live of the record.
    pub ttl: Option<Duration>,
}

/// Every name whose candidates are looked for.
#[derive(Debug, Default)]
pub struct Discoveries {
    entries: Vec<Entry>,
    index: HashMap<Arc<str>, usize>,
    queue: Queue<usize>,
}

#[derive(Debug)]
struct Entry {
    search: Search,
    found: Vec<(Found, u8)>,
    failing: Option<Time>,
    /// Why the last attempt failed.
    why: Option<Arc<str>>,
    told: Option<String>,
    finished: bool,
    turn: u64,
}

impl Discoveries {
    /// Looks for exactly these from now on. What was found stays, and is looked for again at once.
    pub fn configure(&mut self, searches: Vec<Search>, now: Time) {
        let mut old: HashMap<Arc<str>, Entry> = std::mem::take(&mut self.entries)
            .into_iter()
            .map(|entry| (Arc::clone(&entry.search.name), entry))
            .collect();
        (self.queue, self.index) = (Queue::default(), HashMap::new());
        for (at, search) in searches.into_iter().enumerate() {
            let same = old.remove(&search.name).filter(|entry| entry.search.source == search.source);
            self.index.insert(Arc::clone(&search.name), at);
            self.queue.set(at, now);
            self.entries.push(match same {
                Some(entry) => Entry { search, ..entry },
                None => {
                    Entry { search, found: Vec::new(), failing: None, why: None, told: None, finished: false, turn: 0 }
                }
            });
        }
    }

    /// What a former run found.
    pub fn seed(&mut self, name: &str, found: Vec<Found>) {
        if let Some(entry) = self.index.get(name).and_then(|&at| self.entries.get_mut(at)) {
            entry.found = found.into_iter().map(|found| (found, 0)).collect();
        }
    }

    /// Names that are due, `limit` at most, each handed out once until its result is applied.
    pub fn next(&mut self, now: Time, limit: usize) -> Vec<Arc<str>> {
        let due = std::iter::from_fn(|| self.queue.pop(now)).take(limit);
        due.filter_map(|(_, at)| self.entries.get(at)).map(|entry| Arc::clone(&entry.search.name)).collect()
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Time> {
        self.queue.first()
    }

    /// Everything is due now.
    pub fn hasten_all(&mut self, now: Time) {
        for at in 0..self.entries.len() {
            self.queue.hasten(at, now);
        }
    }

    /// What is found so far.
    pub fn found(&self, name: &str) -> Vec<Found> {
        let entry = self.index.get(name).and_then(|&at| self.entries.get(at));
        entry.map(|entry| entry.found.iter().map(|(found, _)| found.clone()).collect()).unwrap_or_default()
    }

    /// Where the candidates of a name are looked for.
    pub fn source(&self, name: &str) -> Option<&Arc<str>> {
        Some(&self.entries.get(*self.index.get(name)?)?.search.source)
    }

    /// Why the last attempt for a name failed, if it did.
    pub fn failure(&self, name: &str) -> Option<Arc<str>> {
        self.entries.get(*self.index.get(name)?)?.why.clone()
    }

    /// All names whose last attempt failed, and why.
    pub fn failures(&self) -> HashMap<Arc<str>, Arc<str>> {
        let failed = |entry: &Entry| Some((Arc::clone(&entry.search.name), entry.why.clone()?));
        self.entries.iter().filter_map(failed).collect()
    }

    /// Names of which no attempt has ended yet and nothing is known.
    pub fn unfinished(&self) -> BTreeSet<Arc<str>> {
        let open = self.entries.iter().filter(|entry| !entry.finished && entry.found.is_empty());
        open.map(|entry| Arc::clone(&entry.search.name)).collect()
    }

    /// What an attempt yielded: whether the candidates changed, and what is to be told. One that was made for
    /// another source is ignored.
    pub fn apply(
        &mut self,
        name: &str,
        source: &str,
        result: Result<Answer, String>,
        machine: u64,
        now: Time,
    ) -> (bool, Option<Event>) {
        let Some(&at) = self.index.get(name) else { return (false, None) };
        let Some(entry) = self.entries.get_mut(at).filter(|entry| *entry.search.source == *source) else {
            return (false, None);
        };
        entry.finished = true;
        entry.turn += 1;
        let before: Vec<Found> = entry.found.iter().map(|(found, _)| found.clone()).collect();
        let (wait, event) = match result {
            Ok(answer) => (entry.answered(answer), entry.resumed(now)),
            Err(why) => (entry.search.retry, entry.failed(why, now)),
        };
        let wait = jittered(wait.mul_f64(0.9), machine, at as u64, entry.turn).max(LEAST_INTERVAL);
        self.queue.set(at, now.after(wait));
        let changed = !entry.found.iter().map(|(found, _)| found).eq(before.iter());
        (changed, event)
    }
}

impl Entry {
    /// Takes an answer over; how long until the next attempt.
    fn answered(&mut self, answer: Answer) -> Duration {
        (self.failing, self.why) = (None, None);
        let mut fresh: Vec<Found> = Vec::new();
        for found in answer.found {
            if fresh.len() < MAX_FOUND && !fresh.iter().any(|other| other.host == found.host) {
                fresh.push(found);
            }
        }
        let missing = |(found, misses): (Found, u8)| {
            let left_out = !fresh.iter().any(|other| other.host == found.host);
            (left_out && misses + 1 < MISSES).then_some((found, misses + 1))
        };
        let kept: Vec<(Found, u8)> = match self.search.at_once {
            true => Vec::new(),
            false => std::mem::take(&mut self.found).into_iter().filter_map(missing).collect(),
        };
        self.found = fresh.into_iter().map(|found| (found, 0)).chain(kept).collect();
        answer.ttl.unwrap_or(self.search.interval).min(self.search.interval)
    }

    fn resumed(&mut self, now: Time) -> Option<Event> {
        let told = self.told.take()?;
        Some(self.event(now, format!("found again, after: {told}")))
    }

    /// Keeps what was found, for a while.
    fn failed(&mut self, why: String, now: Time) -> Option<Event> {
        let since = *self.failing.get_or_insert(now);
        self.why = Some(format!("{}: {why}", self.search.source).into());
        if !self.search.at_once && now.since(since) >= self.search.hold {
            self.found.clear();
        }
        for (_, misses) in &mut self.found {
            *misses = 0;
        }
        // Told once, however the words change meanwhile: who asks every second must not fill the log.
        if self.told.is_some() {
            return None;
        }
        let stays = if self.found.is_empty() { "no candidate is known" } else { "the candidates stay" };
        let reason = format!("{why}: {stays}");
        self.told = Some(why);
        Some(self.event(now, reason))
    }

    fn event(&self, now: Time, reason: String) -> Event {
        let mut event = Event::new(now, EventKind::Resolution, format!("{}: {reason}", self.search.source));
        event.name = Some(Arc::clone(&self.search.name));
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(hosts: &[&str]) -> Vec<Found> {
        let one = |host: &&str| Found { host: Host::Name((*host).into()), port: Some(80), priority: 0, weight: 1 };
        hosts.iter().map(one).collect()
    }

    fn discoveries(at_once: bool) -> Discoveries {
        let mut discoveries = Discoveries::default();
        let search = Search {
            name: "a".into(),
            source: "s".into(),
            interval: Duration::from_secs(10),
            retry: Duration::from_secs(1),
            at_once,
            hold: Duration::from_secs(60),
        };
        discoveries.configure(vec![search], Time(0));
        assert_eq!(discoveries.next(Time(0), 9).len(), 1);
        assert_eq!(discoveries.next(Time(0), 9).len(), 0, "handed out once");
        discoveries
    }

    fn step(discoveries: &mut Discoveries, at: u64, result: Result<&[&str], &str>) -> (Vec<String>, bool, bool) {
        let result = result.map(|hosts| Answer { found: found(hosts), ttl: None }).map_err(str::to_owned);
        let (changed, event) = discoveries.apply("a", "s", result, 1, Time(at * 1000));
        let hosts = discoveries.found("a").iter().map(|found| found.host.to_string()).collect();
        (hosts, changed, event.is_some())
    }

    #[test]
    fn targets_come_at_once_and_go_after_two_answers() {
        let mut d = discoveries(false);
        let hosts = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(step(&mut d, 0, Ok(&["x", "y"])), (hosts(&["x", "y"]), true, false));
        assert_eq!(step(&mut d, 1, Ok(&["y", "z"])), (hosts(&["y", "z", "x"]), true, false));
        assert_eq!(step(&mut d, 2, Err("no")), (hosts(&["y", "z", "x"]), false, true));
        assert_eq!(step(&mut d, 3, Err("no")), (hosts(&["y", "z", "x"]), false, false), "told once");
        assert_eq!(step(&mut d, 4, Ok(&["y", "z"])), (hosts(&["y", "z", "x"]), false, true));
        assert_eq!(step(&mut d, 5, Ok(&["y", "z"])), (hosts(&["y", "z"]), true, false));
        assert_eq!(step(&mut d, 6, Err("no")).0.len(), 2);
        assert_eq!(step(&mut d, 66, Err("no")), (hosts(&[]), true, false));
    }

    #[test]
    fn a_master_is_taken_at_once_and_kept_for_good() {
        let mut d = discoveries(true);
        assert!(d.unfinished().contains("a"));
        assert_eq!(step(&mut d, 0, Ok(&["x"])).0, ["x"]);
        assert!(d.unfinished().is_empty());
        assert_eq!(step(&mut d, 1, Ok(&["y"])).0, ["y"]);
        assert_eq!(step(&mut d, 2, Err("no majority")).0, ["y"]);
        assert_eq!(step(&mut d, 999, Err("no majority")).0, ["y"]);
        assert!(d.next_due().unwrap() <= Time(1_000_000), "tried again soon");
    }

    #[test]
    fn another_source_begins_anew() {
        let mut d = discoveries(true);
        step(&mut d, 0, Ok(&["x"]));
        assert_eq!(d.apply("a", "other", Err("late".into()), 1, Time(1)), (false, None));
        let search = d.entries[0].search.clone();
        d.configure(vec![Search { source: "other".into(), ..search }], Time(2));
        assert!(d.found("a").is_empty());
    }
}
