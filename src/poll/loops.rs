//! Finding upstream servers that ask har: queries would go round until somebody gives up.
//!
//! Each server is asked for a random label of its own; the event loop is told the names and reports when somebody
//! asks har for one. Such a server, reached directly or through other forwarders, is left out, of look-ups too.
//! Tests run at the start, on a reload, when the list or the network changes, when queries go unanswered or multiply
//! as they do in a loop, and now and then while there is traffic; while a server is left out, every `RETEST`. It is
//! used again once it answers its test from somewhere else: an error proves nothing, since that is what har itself
//! answers.
//!
//! A test is of every server, however many there are, a wave of them at a time. One that begins before the last one is
//! over goes on with who has not had its turn.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::dns::{HostName, LOOP_TEST};
use crate::health::Time;

/// Between two tests while a server is left out.
const RETEST: Duration = Duration::from_secs(60);
/// Between two tests because queries go unanswered: a dead upstream looks the same and costs no more than that.
const SUSPICION: Duration = Duration::from_secs(2);
/// Queries of a second from which on their missing answers are suspicious before they expire.
const MANY: u64 = 50;
/// Queries since the last test that are worth another one: after [`RETEST`], and after [`SUSPICION`]. A loop beside a
/// server that answers shows in nothing but their number; a test is at most a hundredth of them.
const WORTH_A_TEST: (u64, u64) = (100, 5000);
/// How long a name is looked out for: longer than any forwarder holds a query.
const LOOK_OUT: Duration = Duration::from_secs(15);
/// Servers asked at once, and at most so many in each [`SUSPICION`]: a dead one holds a worker for that long.
const WAVE: usize = 64;

/// What became of the forwarded queries since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Queries forwarded.
    pub asked: u64,
    /// Answered by a server.
    pub answered: u64,
    /// Given up: by the timeout or for want of room.
    pub unanswered: u64,
}

/// Who is tested, and who was found.
#[derive(Debug, Default)]
pub struct Loops {
    /// Who waits for a turn, each with a name to be asked below of.
    waiting: VecDeque<(SocketAddr, HostName)>,
    next_wave: Option<Time>,
    /// What was asked whom, the oldest first.
    waves: VecDeque<Wave>,
    found: Vec<SocketAddr>,
    /// The next test.
    due: Option<Time>,
    last_test: Option<Time>,
    traffic: Traffic,
    /// Queries forwarded before the last test.
    asked_before: u64,
}

/// Names that were asked for at the same time.
#[derive(Debug)]
struct Wave {
    /// Until when they are looked out for.
    until: Time,
    asked: HashMap<HostName, SocketAddr>,
}

impl Loops {
    /// Begins a test of these servers, each with a name below the one given. [`Loops::next_wave`] says whom to ask.
    pub fn begin(&mut self, servers: &[(SocketAddr, HostName)], now: Time) {
        // Where tests come faster than the waves of one, those at the end of the list have their turn, too.
        let listed: HashMap<SocketAddr, &HostName> = servers.iter().map(|(server, below)| (*server, below)).collect();
        self.waiting.retain_mut(|(server, below)| {
            listed.get(server).is_some_and(|listed| {
                below.clone_from(listed);
                true
            })
        });
        let late: HashSet<SocketAddr> = self.waiting.iter().map(|(server, _)| *server).collect();
        self.waiting.extend(servers.iter().filter(|(server, _)| !late.contains(server)).cloned());
        self.next_wave = Some(now);
        self.last_test = Some(now);
        self.asked_before = self.traffic.asked;
        self.due = (!self.found.is_empty()).then(|| now.after(RETEST));
    }

    /// Whom to ask for what now.
    pub fn next_wave(&mut self, now: Time) -> Vec<(SocketAddr, HostName)> {
        if self.next_wave.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let turn = self.waiting.drain(..self.waiting.len().min(WAVE));
        let probes: Vec<_> = turn.filter_map(|(server, below)| Some((server, random_name(&below)?))).collect();
        self.next_wave = (!self.waiting.is_empty()).then(|| now.after(SUSPICION));
        let asked: HashMap<_, _> = probes.iter().map(|(server, name)| (name.clone(), *server)).collect();
        let again: HashSet<SocketAddr> = asked.values().copied().collect();
        self.drop_probes(|server| again.contains(server));
        if !asked.is_empty() {
            self.waves.push_back(Wave { until: now.after(LOOK_OUT), asked });
        }
        probes
    }

    /// The names that are looked out for.
    pub fn names(&self) -> impl Iterator<Item = &HostName> {
        self.waves.iter().flat_map(|wave| wave.asked.keys())
    }

    fn asked_for(&self, name: &HostName) -> Option<SocketAddr> {
        self.waves.iter().find_map(|wave| wave.asked.get(name)).copied()
    }

    fn drop_probes(&mut self, of: impl Fn(&SocketAddr) -> bool) {
        self.waves.iter_mut().for_each(|wave| wave.asked.retain(|_, server| !of(server)));
        self.waves.retain(|wave| !wave.asked.is_empty());
    }

    /// A name came back. The server that was asked for it, when that is news.
    pub fn returned(&mut self, name: &HostName, now: Time) -> Option<SocketAddr> {
        let server = self.asked_for(name)?;
        self.due.get_or_insert(now.after(RETEST));
        if self.found.contains(&server) {
            return None;
        }
        self.found.push(server);
        Some(server)
    }

    /// A server answered its test with something that har would not have said. `true` when it had been left out.
    pub fn answered(&mut self, server: SocketAddr, name: &HostName) -> bool {
        let before = self.found.len();
        if self.asked_for(name).is_some() {
            self.found.retain(|other| *other != server);
        }
        self.found.len() < before
    }

    /// Forgets servers that are not listed any more.
    pub fn keep(&mut self, servers: &[(SocketAddr, HostName)]) {
        let listed: HashSet<SocketAddr> = servers.iter().map(|(server, _)| *server).collect();
        self.found.retain(|server| listed.contains(server));
        self.drop_probes(|server| !listed.contains(server));
    }

    /// Servers that lead back to har.
    pub fn found(&self) -> &[SocketAddr] {
        &self.found
    }

    /// Wants a test at the next occasion.
    pub fn test_soon(&mut self, now: Time) {
        // A host whose routes come and go all the time is not to ask all the time.
        self.due = Some(self.last_test.map_or(now, |last| last.after(SUSPICION)).max(now));
    }

    /// Looks at how forwarding went since the last call, about a second of traffic.
    pub fn note(&mut self, traffic: Traffic, now: Time) {
        let asked = traffic.asked.saturating_sub(self.traffic.asked);
        let answered = traffic.answered.saturating_sub(self.traffic.answered);
        let unanswered = traffic.unanswered > self.traffic.unanswered;
        self.traffic = traffic;
        let since_test = traffic.asked.saturating_sub(self.asked_before);
        let suspicious = unanswered || asked >= MANY && answered < asked / 2 || since_test >= WORTH_A_TEST.1;
        let older_than = |age: Duration| self.last_test.is_none_or(|last| now.since(last) >= age);
        if suspicious && older_than(SUSPICION) || since_test >= WORTH_A_TEST.0 && older_than(RETEST) {
            self.due = Some(now);
        }
    }

    /// When something is to be done though no query comes.
    pub fn next_due(&self) -> Option<Time> {
        [self.due, self.next_wave, self.waves.front().map(|wave| wave.until)].into_iter().flatten().min()
    }

    /// Whether a test is to begin.
    pub fn is_due(&self, now: Time) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Stops looking out for names that have had their time. `true` when there were any.
    pub fn forget(&mut self, now: Time) -> bool {
        let before = self.waves.len();
        self.waves.retain(|wave| wave.until > now);
        self.waves.len() < before
    }
}

/// A name that nobody asks for by chance; `None` when there is no randomness or `below` is too long for it.
fn random_name(below: &HostName) -> Option<HostName> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).ok()?;
    format!("{LOOP_TEST}{:016x}.{below}", u64::from_ne_bytes(random)).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Vec<(SocketAddr, HostName)> {
        [("127.0.0.2:53", "example.com"), ("127.0.0.3:53", "corp.example")]
            .map(|(server, below)| (server.parse().unwrap(), below.parse().unwrap()))
            .to_vec()
    }

    fn test(loops: &mut Loops, now: Time) -> Vec<(SocketAddr, HostName)> {
        loops.begin(&servers(), now);
        loops.next_wave(now)
    }

    #[test]
    fn every_server_is_tested_a_wave_at_a_time() {
        let many: Vec<(SocketAddr, HostName)> = (0..3 * WAVE + 1)
            .map(|n| (format!("127.0.{}.{}:53", n / 250, n % 250 + 1).parse().unwrap(), "example.com".parse().unwrap()))
            .collect();
        let (mut loops, start) = (Loops::default(), Time(1_000_000));
        let second = |n: u64| start.after(Duration::from_secs(n));
        loops.begin(&many, start);
        let first = loops.next_wave(start);
        assert_eq!(first.len(), WAVE);
        assert!(loops.next_wave(second(1)).is_empty() && loops.next_due() == Some(second(2)));
        // Queries go unanswered all the while, so that a test is to begin every two seconds.
        let mut tested: Vec<SocketAddr> = Vec::new();
        for wave in 1..=3 {
            loops.begin(&many, second(2 * wave));
            let asked = loops.next_wave(second(2 * wave));
            assert_eq!(asked.len(), WAVE);
            tested.extend(asked.iter().map(|(server, _)| *server));
        }
        tested.extend(first.iter().map(|(server, _)| *server));
        assert_eq!(tested.iter().collect::<HashSet<_>>().len(), many.len(), "the last one of the list, too");
        let names = loops.names().count();
        assert_eq!(names, many.len(), "a name for each, those of the first wave are still looked out for");
        assert_eq!(loops.returned(&first[WAVE - 1].1, second(8)), Some(first[WAVE - 1].0));
        assert!(loops.forget(second(16)) && loops.names().count() < names);
    }

    #[test]
    fn a_server_whose_name_comes_back_is_left_out_until_it_answers() {
        let (mut loops, start) = (Loops::default(), Time(1_000_000));
        let probes = test(&mut loops, start);
        assert_eq!(probes.len(), 2);
        assert!(probes[1].1.to_string().ends_with(".corp.example"), "{}", probes[1].1);
        assert!(!loops.is_due(start.after(RETEST)), "nobody is left out: no further test");
        assert_eq!(loops.returned(&"other.example".parse().unwrap(), start), None);
        assert_eq!(loops.returned(&probes[1].1, start), Some(probes[1].0));
        assert_eq!(loops.returned(&probes[1].1, start), None, "said once");
        assert_eq!(loops.found(), [probes[1].0]);
        assert!(!loops.is_due(start.after(RETEST / 2)) && loops.is_due(start.after(RETEST)));

        let again = test(&mut loops, start.after(RETEST));
        assert_ne!(again[1].1, probes[1].1, "fresh names");
        assert!(!loops.answered(probes[1].0, &probes[1].1), "an answer to an old test says nothing");
        assert!(loops.answered(again[1].0, &again[1].1));
        assert!(loops.found().is_empty());
    }

    #[test]
    fn unanswered_queries_bring_a_test_about_but_not_many() {
        let (mut loops, start) = (Loops::default(), Time(1_000_000));
        let second = |n: u64| start.after(Duration::from_secs(n));
        loops.begin(&servers(), start);
        loops.note(Traffic { asked: 1000, answered: 0, unanswered: 0 }, second(1));
        assert!(!loops.is_due(second(1)), "tested just now");
        loops.note(Traffic { asked: 1100, answered: 100, unanswered: 0 }, second(6));
        assert!(!loops.is_due(second(6)), "all answered");
        loops.note(Traffic { asked: 1200, answered: 110, unanswered: 0 }, second(7));
        assert!(loops.is_due(second(7)));
        loops.begin(&servers(), second(7));
        loops.note(Traffic { asked: 6100, answered: 5010, unanswered: 0 }, second(12));
        assert!(!loops.is_due(second(12)), "4,900 since the last test");
        loops.note(Traffic { asked: 6200, answered: 5110, unanswered: 0 }, second(13));
        assert!(loops.is_due(second(13)), "a storm, though it is answered");
        loops.begin(&servers(), second(13));
        loops.note(Traffic { asked: 6299, answered: 5209, unanswered: 0 }, second(80));
        assert!(!loops.is_due(second(80)), "little was asked since");
        loops.note(Traffic { asked: 6300, answered: 5210, unanswered: 0 }, second(81));
        assert!(loops.is_due(second(81)));
        loops.begin(&servers(), second(81));
        loops.note(Traffic { asked: 6301, answered: 5210, unanswered: 1 }, second(87));
        assert!(loops.is_due(second(87)), "one that expired is enough");
    }

    #[test]
    fn servers_that_are_gone_and_names_that_are_old_are_forgotten() {
        let (mut loops, start) = (Loops::default(), Time(1_000_000));
        let probes = test(&mut loops, start);
        loops.returned(&probes[0].1, start);
        loops.keep(&servers()[1..]);
        assert!(loops.found().is_empty());
        assert!(!loops.forget(start) && loops.forget(start.after(LOOK_OUT)) && !loops.forget(start.after(LOOK_OUT)));
        assert_eq!(loops.returned(&probes[1].1, start), None);
    }
}
