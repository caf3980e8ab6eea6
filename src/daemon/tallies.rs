//! The event loop's counters as rows of the state file.
//!
//! The loop counts from zero in every process, and per configuration for names; the state file continues what
//! the last process wrote. A table that a reload replaced is read until the loop has let go of it, so that
//! no query is lost between two configurations.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::{Config, Name};
use crate::dns::answer::{Kind, QueryKind};
use crate::dns::lines::NameTable;
use crate::health::Time;
use crate::os;
use crate::poll::pace::Extent;
use crate::serve::counters::Totals;
use crate::serve::upstream::{Books, Listed, ServerCounters, ServerState};
use crate::store::{AnswerKind, Batch, NameCounters, Stored, UpstreamRow};

/// What the last process counted, and what this one does.
pub struct Tallies {
    totals: Arc<Totals>,
    totals_before: HashMap<String, u64>,
    /// Of processes and tables that are over, by name.
    before: HashMap<Arc<str>, NameCounters>,
    current: Shown,
    /// Replaced, but perhaps still counted into for a moment.
    replaced: Vec<Shown>,
    /// The sum of what tables held when it was handed over last, by index of the current one: what only grows has changed
    /// when its sum has. What is over (`before`) is not in it: it is looked up for names that moved alone.
    handed: Vec<u64>,
    /// Counts of a table that is over came to `before` since names were last looked at.
    settled: bool,
    /// Of upstreams that this process did not ask, or under earlier counters.
    upstreams_before: HashMap<(SocketAddr, String), [u64; 4]>,
    /// The counters of each upstream in each list, also of those that are no longer there, and what was handed over last.
    upstreams: HashMap<(SocketAddr, String), Server>,
    /// What was counted of the totals when they were handed over last, in their order.
    totals_handed: Vec<u64>,
    /// Answers of upstreams beyond loopback when last looked at.
    heard: u64,
}

/// An upstream as last seen.
struct Server {
    counters: Arc<ServerCounters>,
    row: Option<UpstreamRow>,
}

/// A table with the names of its indices.
struct Shown {
    table: Arc<NameTable>,
    /// Empty where a later configuration no longer had the name.
    names: Vec<Arc<str>>,
    /// Where each name is, once somebody looks for one that moved.
    places: OnceCell<HashMap<Arc<str>, usize>>,
}

impl Tallies {
    /// Continues what the state file holds; `table` is the first one.
    pub fn new(config: &Config, table: Arc<NameTable>, stored: &Stored, totals: Arc<Totals>) -> Tallies {
        Tallies {
            totals,
            totals_before: stored.counters.iter().cloned().collect(),
            before: stored
                .names
                .iter()
                .filter(|(_, counters)| *counters != NameCounters::default())
                .map(|(row, counters)| (Arc::clone(&row.name), counters.clone()))
                .collect(),
            current: Shown::new(config, table, &[]),
            replaced: Vec::new(),
            handed: Vec::new(),
            settled: false,
            upstreams_before: stored
                .upstreams
                .iter()
                .map(|row| ((row.address, row.route.clone()), [row.queries, row.answers, row.timeouts, row.servfail]))
                .collect(),
            upstreams: HashMap::new(),
            totals_handed: Vec::new(),
            heard: 0,
        }
    }

    /// The newest table that the loop counts into, or is about to.
    pub fn table(&self) -> Arc<NameTable> {
        Arc::clone(&self.current.table)
    }

    /// What became of the forwarded queries of this process.
    pub fn books(&self) -> Books {
        self.totals.books()
    }

    /// When each of these names was last asked for, by its index in the current configuration.
    pub fn last_asked(&self, names: &[usize]) -> Vec<Option<Time>> {
        let asked = |&index: &usize| self.current.table.name(index as u32).map(|name| Time(name.asked_ms()));
        names.iter().map(asked).map(|at| at.filter(|at| *at > Time(0))).collect()
    }

    /// Marks names that rest: the loop tells of the next query for each, once.
    pub fn mark_idle(&self, names: &[usize]) {
        for name in names.iter().filter_map(|&index| self.current.table.name(index as u32)) {
            name.set_idle();
        }
    }

    /// The table of a new configuration. A name that it no longer has begins at 0 should it come back, as it would after a
    /// restart.
    pub fn configure(&mut self, config: &Config, table: Arc<NameTable>) {
        let next = Shown::new(config, table, &self.current.names);
        self.replaced.push(std::mem::replace(&mut self.current, next));
        for old in &mut self.replaced {
            old.forget_all_but(&self.current);
        }
        let places = self.current.places.take().unwrap_or_else(|| self.current.all_places());
        self.before.retain(|name, _| places.contains_key(name));
        self.handed.clear();
    }

    /// Adds what changed to a batch, of the names if they are asked for. `true` when an upstream beyond loopback answered since the last call.
    /// The other part: the names that moved, by index.
    pub fn collect(&mut self, upstreams: &[Listed], extent: Extent, batch: &mut Batch) -> (bool, Vec<usize>) {
        // Before the counters are read: a query that comes after that is told of.
        self.totals.be_told();
        self.settle();
        let moved = if extent == Extent::Names { self.collect_names(batch) } else { Vec::new() };
        self.collect_totals(batch);
        (self.collect_upstreams(upstreams, batch), moved)
    }

    fn collect_totals(&mut self, batch: &mut Batch) {
        for (place, (prefix, word, count)) in totals(&self.totals).enumerate() {
            match self.totals_handed.get_mut(place) {
                Some(handed) if *handed == count && !batch.complete => continue,
                Some(handed) => *handed = count,
                None => self.totals_handed.push(count),
            }
            let word = format!("{prefix}{word}");
            let before = self.totals_before.get(&word).copied().unwrap_or_default();
            batch.counters.push((word, before + count));
        }
    }

    /// Adds the counters of names; those that moved, by index.
    fn collect_names(&mut self, batch: &mut Batch) -> Vec<usize> {
        let all = batch.complete || std::mem::take(&mut self.settled) || !self.replaced.is_empty();
        let mut moved = Vec::new();
        for (row, index) in self.current.table.take_moved(all).enumerate() {
            os::breathe(row);
            let Some(name) = self.current.names.get(index) else { continue };
            let mut counters = self.current.read(index);
            for old in &self.replaced {
                if let Some(at) = old.place(index, name) {
                    add_all(&mut counters, &old.read(at));
                }
            }
            let sum = sum_of(&counters);
            if !batch.complete && sum == self.handed[index] {
                continue;
            }
            self.handed[index] = sum;
            if let Some(before) = self.before.get(name) {
                add_all(&mut counters, before);
            }
            batch.name_counters.push((Arc::clone(name), counters));
            moved.push(index);
        }
        moved
    }

    /// Takes the last counts of tables that the loop no longer holds.
    fn settle(&mut self) {
        self.handed.resize(self.current.names.len(), 0);
        for old in std::mem::take(&mut self.replaced) {
            if Arc::strong_count(&old.table) > 1 {
                self.replaced.push(old);
                continue;
            }
            self.settled = true;
            for (index, name) in old.names.iter().enumerate() {
                let counted = if name.is_empty() { NameCounters::default() } else { old.read(index) };
                // Of ten thousand names few are asked for.
                if counted == NameCounters::default() {
                    continue;
                }
                add_all(self.before.entry(Arc::clone(name)).or_default(), &counted);
                if let Some(handed) = self.current.place(index, name).and_then(|at| self.handed.get_mut(at)) {
                    // Below zero where the last of it was not handed over yet: it differs, which is all that counts.
                    *handed = handed.wrapping_sub(sum_of(&counted));
                }
            }
        }
    }

    fn collect_upstreams(&mut self, upstreams: &[Listed], batch: &mut Batch) -> bool {
        if batch.complete {
            // Those that are no longer listed leave the table; their counts are kept should they come back.
            self.upstreams.values_mut().for_each(|server| server.row = None);
        }
        let mut listed = HashSet::new();
        for one in upstreams {
            let (key, counters) = ((one.address, one.route.to_string()), &one.counters);
            let before = self.upstreams_before.entry(key.clone()).or_default();
            let server = self
                .upstreams
                .entry(key.clone())
                .or_insert_with(|| Server { counters: Arc::clone(counters), row: None });
            if !Arc::ptr_eq(&server.counters, counters) {
                // It was gone for a while: counted from 0 again.
                add(before, &counted(&server.counters));
                server.counters = Arc::clone(counters);
            }
            let row = upstream_row(one, *before);
            if server.row.as_ref() != Some(&row) {
                server.row = Some(row.clone());
                batch.upstreams.push(row);
            }
            listed.insert(key);
        }
        for (_, server) in self.upstreams.iter_mut().filter(|(key, _)| !listed.contains(*key)) {
            if let Some(row) = server.row.as_mut().filter(|row| row.note != UpstreamRow::GONE) {
                (row.usable, row.note) = (false, UpstreamRow::GONE.to_owned());
                batch.upstreams.push(row.clone());
            }
        }
        self.heard(upstreams)
    }

    /// Whether an upstream beyond loopback answered since the last call.
    pub fn heard(&mut self, upstreams: &[Listed]) -> bool {
        let beyond = upstreams.iter().filter(|one| !one.address.ip().is_loopback());
        let heard = beyond.map(|one| one.counters.answers.load(Ordering::Relaxed)).sum();
        let more = heard > self.heard;
        self.heard = heard;
        more
    }
}

/// Queries, answers, time-outs and SERVFAILs so far.
fn counted(counters: &ServerCounters) -> [u64; 4] {
    [&counters.queries, &counters.answers, &counters.timeouts, &counters.servfail]
        .map(|count| count.load(Ordering::Relaxed))
}

fn upstream_row(one: &Listed, before: [u64; 4]) -> UpstreamRow {
    let mut sums = counted(&one.counters);
    add(&mut sums, &before);
    let [queries, answers, timeouts, servfail] = sums;
    let dead = one.state.state.load(Ordering::Relaxed) == ServerState::DEAD;
    let looping = one.state.looping.load(Ordering::Relaxed);
    let rtt_us = one.state.rtt_us.load(Ordering::Relaxed);
    UpstreamRow {
        address: one.address,
        route: one.route.to_string(),
        usable: !dead && !looping,
        note: match (looping, dead) {
            (true, _) => UpstreamRow::LOOP.to_owned(),
            (false, true) => UpstreamRow::DEAD.to_owned(),
            (false, false) => String::new(),
        },
        queries,
        answers,
        timeouts,
        servfail,
        rtt_ms: (rtt_us > 0).then_some(rtt_us as f64 / 1000.0),
    }
}

impl Shown {
    /// The names of a configuration; those that are in their old places stay where they are in memory.
    fn new(config: &Config, table: Arc<NameTable>, old: &[Arc<str>]) -> Shown {
        let shown = |(index, name): (usize, &Name)| {
            let name = name.name.to_string();
            old.get(index).filter(|old| ***old == *name).map_or_else(|| name.as_str().into(), Arc::clone)
        };
        let names: Vec<Arc<str>> = config.names.iter().enumerate().map(shown).collect();
        Shown { table, names, places: OnceCell::new() }
    }

    /// Where a name is that has the place `index` in another table.
    fn place(&self, index: usize, name: &Arc<str>) -> Option<usize> {
        // Most reloads leave most names where they are.
        if self.names.get(index) == Some(name) {
            return Some(index);
        }
        self.places.get_or_init(|| self.all_places()).get(name).copied()
    }

    fn all_places(&self) -> HashMap<Arc<str>, usize> {
        self.names.iter().cloned().zip(0..).collect()
    }

    /// Takes the names from it that are not in the other one: what was counted of them is of no use any more.
    fn forget_all_but(&mut self, other: &Shown) {
        for (index, name) in self.names.iter_mut().enumerate() {
            if other.place(index, name).is_none() {
                *name = Arc::default();
            }
        }
        self.places.take();
    }

    fn read(&self, index: usize) -> NameCounters {
        let Some(name) = self.table.name(index as u32) else { return NameCounters::default() };
        let mut answers = [0; AnswerKind::ALL.len()];
        for kind in Kind::ALL {
            if let Some(column) = column(kind) {
                answers[column as usize] += name.answers(kind);
            }
        }
        answers[AnswerKind::Servfail as usize] += name.unreached();
        answers[AnswerKind::Forwarded as usize] = name.relayed();
        NameCounters { queries: QueryKind::ALL.map(|kind| name.queries(kind)), answers }
    }
}

/// Where a kind of reply is counted for a name; `None` = it never is for a configured one.
fn column(kind: Kind) -> Option<AnswerKind> {
    match kind {
        Kind::A | Kind::Aaaa => Some(AnswerKind::Ranked),
        Kind::Stale => Some(AnswerKind::Stale),
        Kind::Empty => Some(AnswerKind::Empty),
        Kind::AllDown | Kind::NotReady => Some(AnswerKind::Servfail),
        Kind::Special | Kind::FormErr | Kind::NotImp | Kind::BadVers | Kind::Refused => None,
    }
}

fn sum_of(counters: &NameCounters) -> u64 {
    counters.queries.iter().chain(&counters.answers).sum()
}

fn add_all(counters: &mut NameCounters, more: &NameCounters) {
    add(&mut counters.queries, &more.queries);
    add(&mut counters.answers, &more.answers);
}

fn add(sums: &mut [u64], more: &[u64]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

/// Everything counted for the whole server by this process, with the words of the state file in two parts.
fn totals(totals: &Totals) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    let counts = [
        ("received_udp", &totals.udp_received),
        ("received_tcp", &totals.tcp_received),
        ("dropped_short", &totals.dropped_short),
        ("dropped_response", &totals.dropped_response),
        ("receive_errors", &totals.receive_errors),
        ("send_errors", &totals.send_errors),
        ("forwarded", &totals.forwarded),
        ("parked", &totals.parked),
        ("parked_shed", &totals.parked_shed),
        ("returned", &totals.returned),
        ("tcp_accepted", &totals.tcp_accepted),
        ("tcp_evicted", &totals.tcp_evicted),
        ("tcp_accept_errors", &totals.tcp_accept_errors),
        ("tcp_expired", &totals.tcp_expired),
    ];
    let replies = Kind::ALL.map(|kind| ("reply_", kind.as_str(), totals.answers(kind)));
    let books = totals.books();
    let forwards = [
        ("forward_joined", books.joined),
        ("forward_answered", books.answered),
        ("forward_expired", books.expired),
        ("forward_shed", books.shed),
        ("forward_failed", books.failed),
        ("forward_sent", books.sent),
        ("forward_ignored", books.ignored),
    ];
    let counts = counts.map(|(word, count)| ("", word, count.get()));
    counts.into_iter().chain(replies).chain(forwards.map(|(word, count)| ("", word, count)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NameRow;

    /// A configuration of these names.
    fn of_names(names: &[&str]) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.toml");
        let name = |name| format!("[names.\"{name}\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]\n");
        std::fs::write(&path, names.iter().map(name).collect::<String>()).unwrap();
        crate::config::load(&path).unwrap_or_else(|report| panic!("{report}"))
    }

    #[test]
    fn a_name_that_leaves_and_comes_back_begins_at_0() {
        let (both, one) = (of_names(&["a.example", "b.example"]), of_names(&["b.example"]));
        let table = |config: &Config| Arc::new(NameTable::new(0, config.names.len()));
        let mut stored = Stored::default();
        for name in ["a.example", "b.example"] {
            let row = NameRow { name: name.into(), mode: "".into(), select: "".into(), ttl_s: 1, interval_ms: 1 };
            stored.names.push((row, NameCounters { queries: [100, 0, 0], ..NameCounters::default() }));
        }
        let first = table(&both);
        let mut tallies = Tallies::new(&both, Arc::clone(&first), &stored, Arc::default());
        let counted = |tallies: &mut Tallies| {
            let mut batch = Batch { complete: true, ..Batch::default() };
            tallies.collect(&[], Extent::Names, &mut batch);
            batch
                .name_counters
                .into_iter()
                .map(|(name, counters)| (name.to_string(), counters.queries[0]))
                .collect::<Vec<_>>()
        };
        let expect = |counts: &[(&str, u64)]| -> Vec<(String, u64)> {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        // The loop may count into the first table for a while yet: what it holds of the name is not told again.
        (0..2).for_each(|name| first.name(name).unwrap().count_reply(QueryKind::A, Kind::A));
        assert_eq!(counted(&mut tallies), expect(&[("a.example", 101), ("b.example", 101)]));
        tallies.configure(&one, table(&one));
        assert_eq!(counted(&mut tallies), expect(&[("b.example", 101)]));
        tallies.configure(&both, table(&both));
        assert_eq!(counted(&mut tallies), expect(&[("a.example", 0), ("b.example", 101)]));
        drop(first);
        assert_eq!(
            counted(&mut tallies),
            expect(&[("a.example", 0), ("b.example", 101)]),
            "once the loop let go of it"
        );
    }

    #[test]
    fn totals_go_on_from_the_last_process_and_are_handed_over_when_they_change() {
        let config = of_names(&["a.example"]);
        let totals = Arc::<Totals>::default();
        let stored = Stored { counters: vec![("forwarded".to_owned(), 100)], ..Stored::default() };
        let table = Arc::new(NameTable::new(0, 1));
        let mut tallies = Tallies::new(&config, table, &stored, Arc::clone(&totals));
        let mut handed = |complete| {
            let mut batch = Batch { complete, ..Batch::default() };
            tallies.collect(&[], Extent::Totals, &mut batch);
            batch.counters
        };
        let all = handed(false);
        assert!(all.len() > 25 && all.contains(&("forwarded".to_owned(), 100)), "the first time all of them: {all:?}");
        assert_eq!(handed(false), []);
        totals.forwarded.add();
        assert_eq!(handed(false), [("forwarded".to_owned(), 101)]);
        assert_eq!(handed(false), [], "once");
        assert_eq!(handed(true).len(), all.len(), "a whole state has all of them");
        assert_eq!(handed(false), []);
    }

    #[test]
    fn what_is_counted_around_a_reload_is_handed_over_once_and_completely() {
        let config = of_names(&["a.example", "b.example"]);
        let table = || Arc::new(NameTable::new(0, 2));
        let first = table();
        let mut tallies = Tallies::new(&config, Arc::clone(&first), &Stored::default(), Arc::default());
        let handed = |tallies: &mut Tallies| {
            let mut batch = Batch::default();
            tallies.collect(&[], Extent::Names, &mut batch);
            let told = |(name, counters): (Arc<str>, NameCounters)| (name.to_string(), counters.queries[0]);
            batch.name_counters.into_iter().map(told).collect::<Vec<_>>()
        };
        let ask = |table: &NameTable, name| table.name(name).unwrap().count_reply(QueryKind::A, Kind::A);
        let a = |count| [("a.example".to_owned(), count)];
        ask(&first, 0);
        assert_eq!(handed(&mut tallies), a(1));
        let second = table();
        tallies.configure(&config, Arc::clone(&second));
        // The loop counts into the old one for a while, and then into the new one.
        ask(&first, 0);
        assert_eq!(handed(&mut tallies), a(2));
        assert_eq!(handed(&mut tallies), []);
        ask(&first, 0);
        ask(&second, 0);
        drop(first);
        assert_eq!(handed(&mut tallies), a(4));
        assert_eq!(handed(&mut tallies), []);
        // This time it lets go before anybody looks, and what it counted last is all there is.
        ask(&second, 0);
        let third = table();
        tallies.configure(&config, Arc::clone(&third));
        drop(second);
        assert_eq!(handed(&mut tallies), a(5));
        ask(&third, 1);
        assert_eq!(handed(&mut tallies), [("b.example".to_owned(), 1)]);
        assert_eq!(handed(&mut tallies), []);
    }

    #[test]
    fn a_server_in_two_lists_has_two_rows() {
        let config = of_names(&["a.example"]);
        let mut tallies = Tallies::new(&config, Arc::new(NameTable::new(0, 1)), &Stored::default(), Arc::default());
        let address = "192.0.2.53:53".parse().unwrap();
        let listed = ["", "corp.example"].map(|route| {
            let counters = Arc::new(ServerCounters::default());
            counters.queries.store(route.len() as u64, Ordering::Relaxed);
            Listed { address, route: route.into(), counters, state: Arc::default() }
        });
        let mut batch = Batch::default();
        tallies.collect(&listed, Extent::Totals, &mut batch);
        let rows: Vec<(&str, u64)> = batch.upstreams.iter().map(|row| (&*row.route, row.queries)).collect();
        assert_eq!(rows, [("", 0), ("corp.example", 12)]);
        batch = Batch::default();
        tallies.collect(&listed[..1], Extent::Totals, &mut batch);
        let rows: Vec<(&str, &str)> = batch.upstreams.iter().map(|row| (&*row.route, &*row.note)).collect();
        assert_eq!(rows, [("corp.example", UpstreamRow::GONE)], "it left one of the lists");
    }

    #[test]
    fn an_upstream_that_leaves_and_comes_back_keeps_its_counts() {
        let config = of_names(&["a.example"]);
        let address: SocketAddr = "192.0.2.53:53".parse().unwrap();
        let mut stored = Stored::default();
        stored.upstreams.push(UpstreamRow {
            address,
            route: String::new(),
            usable: true,
            note: String::new(),
            queries: 100,
            answers: 90,
            timeouts: 5,
            servfail: 5,
            rtt_ms: None,
        });
        let mut tallies = Tallies::new(&config, Arc::new(NameTable::new(0, 1)), &stored, Arc::new(Totals::default()));
        let mut collect = |upstreams: &[Listed], complete| {
            let mut batch = Batch { complete, ..Batch::default() };
            tallies.collect(upstreams, Extent::Names, &mut batch);
            batch.upstreams
        };
        let counters = || {
            let counters = Arc::new(ServerCounters::default());
            counters.queries.store(10, Ordering::Relaxed);
            Listed { address, route: "".into(), counters, state: Arc::default() }
        };
        let first = [counters()];
        assert_eq!(collect(&first, true)[0].queries, 110);
        assert_eq!(collect(&first, false), [], "nothing changed");
        let gone = collect(&[], false);
        assert_eq!((gone[0].usable, gone[0].note.as_str(), gone[0].queries), (false, UpstreamRow::GONE, 110));
        assert_eq!(collect(&[], false), [], "said once");
        let again = collect(&[counters()], false);
        assert_eq!((again[0].usable, again[0].queries), (true, 120));
        assert_eq!(collect(&[], true), [], "a complete batch names only what is listed");
    }
}
