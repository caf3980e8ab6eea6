//! Finding upstream servers that ask har: queries would go round until somebody gives up.
//!
//! Each server is asked for a random label of its own; the event loop is told the names and reports when somebody
//! asks har for one. Such a server, reached directly or through other forwarders, is left out, of look-ups too.
//! Tests run at the start, on a reload, when the list or the network changes, when queries go unanswered or multiply
//! as they do in a loop, and now and then while there is traffic; while a server is left out, every `RETEST`. It is
//! used again once it answers its test from somewhere else: an error proves nothing, since that is what har itself
//! answers.

use std::net::SocketAddr;
use std::time::Duration;

use crate::dns::HostName;
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
/// Servers tested at most, each with a name that every query is compared with meanwhile.
const MOST_TESTED: usize = 64;

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
    probes: Vec<(SocketAddr, HostName)>,
    /// Until when the names are looked out for.
    look_out_until: Option<Time>,
    found: Vec<SocketAddr>,
    /// The next test.
    due: Option<Time>,
    last_test: Option<Time>,
    traffic: Traffic,
    /// Queries forwarded before the last test.
    asked_before: u64,
}

impl Loops {
    /// Begins a test of these servers, each with a name below the one given. Returns what to ask whom.
    pub fn begin(&mut self, servers: &[(SocketAddr, HostName)], now: Time) -> Vec<(SocketAddr, HostName)> {
        let probe = |(server, below): &(SocketAddr, HostName)| Some((*server, random_name(below)?));
        self.probes = servers.iter().take(MOST_TESTED).filter_map(probe).collect();
        self.look_out_until = Some(now.after(LOOK_OUT));
        self.last_test = Some(now);
        self.asked_before = self.traffic.asked;
        self.due = (!self.found.is_empty()).then(|| now.after(RETEST));
        self.probes.clone()
    }

    /// A name came back. The server that was asked for it, when that is news.
    pub fn returned(&mut self, name: &HostName, now: Time) -> Option<SocketAddr> {
        let (server, _) = *self.probes.iter().find(|(_, probe)| probe == name)?;
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
        if self.probes.iter().any(|(_, probe)| probe == name) {
            self.found.retain(|other| *other != server);
        }
        self.found.len() < before
    }

    /// Forgets servers that are not listed any more.
    pub fn keep(&mut self, servers: &[(SocketAddr, HostName)]) {
        self.found.retain(|server| servers.iter().any(|(listed, _)| listed == server));
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
        [self.due, self.look_out_until].into_iter().flatten().min()
    }

    /// Whether a test is to begin.
    pub fn is_due(&self, now: Time) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Stops looking out for names that have had their time. `true` when there were any.
    pub fn forget(&mut self, now: Time) -> bool {
        let over = self.look_out_until.is_some_and(|until| until <= now);
        if over {
            self.look_out_until = None;
            self.probes.clear();
        }
        over
    }
}

/// A name that nobody asks for by chance; `None` when there is no randomness or `below` is too long for it.
fn random_name(below: &HostName) -> Option<HostName> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).ok()?;
    format!("har-loop-test-{:016x}.{below}", u64::from_ne_bytes(random)).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Vec<(SocketAddr, HostName)> {
        [("127.0.0.2:53", "example.com"), ("127.0.0.3:53", "corp.example")]
            .map(|(server, below)| (server.parse().unwrap(), below.parse().unwrap()))
            .to_vec()
    }

    #[test]
    fn a_server_whose_name_comes_back_is_left_out_until_it_answers() {
        let (mut loops, start) = (Loops::default(), Time(1_000_000));
        let probes = loops.begin(&servers(), start);
        assert_eq!(probes.len(), 2);
        assert!(probes[1].1.to_string().ends_with(".corp.example"), "{}", probes[1].1);
        assert!(!loops.is_due(start.after(RETEST)), "nobody is left out: no further test");
        assert_eq!(loops.returned(&"other.example".parse().unwrap(), start), None);
        assert_eq!(loops.returned(&probes[1].1, start), Some(probes[1].0));
        assert_eq!(loops.returned(&probes[1].1, start), None, "said once");
        assert_eq!(loops.found(), [probes[1].0]);
        assert!(!loops.is_due(start.after(RETEST / 2)) && loops.is_due(start.after(RETEST)));

        let again = loops.begin(&servers(), start.after(RETEST));
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
        let probes = loops.begin(&servers(), start);
        loops.returned(&probes[0].1, start);
        loops.keep(&servers()[1..]);
        assert!(loops.found().is_empty());
        assert!(!loops.forget(start) && loops.forget(start.after(LOOK_OUT)) && !loops.forget(start.after(LOOK_OUT)));
        assert_eq!(loops.returned(&probes[1].1, start), None);
    }
}
