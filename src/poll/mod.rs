//! SHELL. The poller thread: runs checks and look-ups on a bounded pool and publishes what came of them.
//!
//! It decides nothing itself: [`Roster`] says what is due, takes the results and says what is answered now.
//! The order after a result is fixed: apply, publish, persist. The poller waits for its inbox only; network,
//! disk and the reading of a new configuration happen on other threads and come back as a [`Message`].
//! How an answer reaches the event loop is the caller's: a function that takes a [`Publication`].

mod answers;
pub mod begin;
pub mod catalogue;
mod certificates;
pub mod checks;
mod connect;
pub mod discovery;
mod exec;
mod firsts;
mod http;
mod http_connector;
pub mod jobs;
mod ledger;
mod link;
mod listeners;
pub mod lookup;
pub mod loops;
pub mod pace;
mod postgres;
mod redis;
pub mod refit;
pub mod reload;
pub mod resolv_conf;
mod secure;
mod tally;
mod tcp;
mod tls;
pub mod trust;
mod upstreams;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use log::{Level, info, log, warn};

use crate::config::Config;
use crate::config::values::in_names;
use crate::health::compact::Common;
use crate::health::roster::Roster;
use crate::health::wall::WallClock;
use crate::health::{Event, EventKind, State, Text, Time};
use crate::mailbox::{self, Inbox};
use crate::os::clock::wall_ms;
use crate::os::{Clock, SuspendWatch, memory};
use crate::store::{Batch, Writer};
use catalogue::Catalogue;
use certificates::Certificates;
use jobs::{Crew, Done};
use ledger::Ledger;
pub use link::{Collect, Heard, LastAsked, Link, Message, Publication, Rest};
pub use listeners::Listeners;
use loops::Loops;
use pace::{Extent, NameRounds, Pace};
use refit::Searches;
use tally::Tally;
use upstreams::shown;

/// Between two looks at files that are watched: for what the kernel does not announce, such as a network file system's
/// changes.
const LOOK_AT_FILES: Duration = Duration::from_secs(60);

/// A step of the wall clock that is followed: above what two clocks drift apart between two looks, and small beside what
/// people read times for.
const LEAST_STEP: Duration = Duration::from_millis(500);

/// Between two looks whether the writer of the state file takes more rows, while some wait.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(250);

/// What the last rows get to reach the disk when the daemon stops.
const LAST_WRITE: Duration = Duration::from_secs(3);

/// When after a start or a reload memory is given back: once the first round of checks is over and what the start alone
/// needed is not needed any more, and once what happens for the first time soon after it has happened.
const TRIM_AFTER: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(60)];

/// READY is reported after this even if a check has not come back.
const READY_AFTER: Duration = Duration::from_secs(5);

/// The poller thread's state.
pub struct Poller {
    config: Arc<Config>,
    catalogue: Catalogue,
    roster: Roster,
    crew: Crew,
    clock: Clock,
    inbox: Inbox<Message>,
    writer: Writer,
    link: Link,
    tally: Tally,
    ledger: Ledger,
    certificates: Certificates,
    started: Time,
    pace: Pace,
    name_rounds: NameRounds,
    /// When the files that list the upstream servers are looked at though nobody told of a change; `None` = there are
    /// none.
    next_follow: Option<Time>,
    /// Changes of those files are told of.
    files_watched: bool,
    ready: bool,
    status: String,
    /// A worker is reading the configuration.
    reloading: bool,
    /// It was asked for again meanwhile.
    reload_again: bool,
    /// What is wrong with the state file, if anything.
    store_trouble: Option<String>,
    /// This host slept.
    suspend: SuspendWatch,
    /// Upstream servers that ask har.
    loops: Loops,
    /// Candidates that are looked for.
    searches: Searches,
    /// The start or the last reload, and how many of [`TRIM_AFTER`] are done since.
    trimmed: (Time, usize),
    /// What checks said last of what went wrong: in an outage thousands say the same.
    errors: Common<Text>,
    /// Tables published since the first one.
    tables: u64,
}

impl Poller {
    /// The configuration, with the candidates that the last run found.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    /// Starts the thread that writes the state file: the disk would be in the way of a start.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn begin_writing(&mut self) -> std::io::Result<()> {
        self.writer.begin()
    }

    /// Runs until [`Message::Stop`], then hands over the last rows.
    pub fn run(mut self, link: Link) {
        self.link = link;
        // Names, candidates and what a changed configuration left out: the tables are brought up to date at once.
        self.write_everything(self.clock.now());
        self.test_loops(self.clock.now());
        self.watch_files(self.clock.now());
        let mut messages = Vec::new();
        loop {
            let wait = self.until_due();
            (self.link.beat)(wait);
            self.inbox.wait(Some(wait), &mut messages);
            (self.link.beat)(Duration::ZERO);
            let now = self.clock.now();
            for message in messages.drain(..) {
                match message {
                    Message::Stop => return self.finish(),
                    message => self.apply(message, now),
                }
            }
            messages.shrink_to(mailbox::KEPT);
            self.step(now);
        }
    }

    /// How long nothing is due, if nobody writes.
    fn until_due(&self) -> Duration {
        let now = self.clock.now();
        let dues = [self.roster.next_due(), self.searches.next_due(), self.loops.next_due(), self.next_follow];
        let room = self.roster.has_records().then(|| now.after(LOOK_FOR_ROOM));
        let due = dues.into_iter().chain([room]).flatten().fold(self.pace.due(), Time::min);
        due.since(now)
    }

    fn apply(&mut self, message: Message, now: Time) {
        if !message.is_routine() {
            self.pace.hasten();
        }
        match message {
            Message::Done(Done::Checked { job, mut result }) => {
                result.error = result.error.map(|text| self.errors.share(&text));
                if let Some(host) = self.roster.candidate_of(job.target) {
                    self.crew.note(job.target, &result);
                    let least = self.catalogue.runner(job.check).and_then(|runner| runner.min_days_left());
                    let place = (job.check, host.clone(), job.address);
                    let look = |least| self.certificates.look(place, least, &result, now);
                    self.ledger.event(least.and_then(look));
                    self.ledger.result(host, job.address, self.catalogue.definition(job.check), &result, now);
                }
                // Silence is judged by what the upstreams have said until now, not until the last housekeeping.
                if result.silent && (self.link.heard)() {
                    self.roster.upstream_answered(now);
                }
                self.roster.apply_result(job.target, &result, now);
            }
            Message::Done(Done::LookedUpHalf { host, addresses }) => {
                self.roster.apply_half_lookup(&host, &addresses, now);
            }
            Message::Done(Done::LookedUp { host, result, beyond_loopback }) => {
                self.crew.lookup_done();
                self.ledger.looked_up(&host, &result, now);
                self.roster.apply_lookup(&host, &result, now);
                self.heard_from_upstream(beyond_loopback, now);
            }
            Message::Done(Done::DrainText { record, strings, ttl, beyond_loopback }) => {
                self.crew.lookup_done();
                self.roster.apply_drain_text(&record, strings, ttl, catalogue::read_name, now);
                self.heard_from_upstream(beyond_loopback, now);
            }
            Message::Done(Done::Searched { name, source, result, beyond_loopback }) => {
                self.searched(&name, &source, result, now);
                self.heard_from_upstream(beyond_loopback, now);
            }
            Message::Done(Done::Refitted(refit)) => self.refit(*refit, now),
            Message::Done(Done::Followed { follower, changed }) => {
                if self.crew.followed(follower, changed) {
                    self.new_servers(now);
                }
            }
            Message::Done(Done::Probed { server, probe, good }) => {
                if good {
                    self.loop_ended(server, &probe);
                }
            }
            Message::Done(Done::Loaded(loaded)) => self.reloaded(*loaded, now),
            Message::Overrides { rows, ignored } => {
                self.roster.set_overrides(rows, now);
                self.roster.ignored_overrides(ignored, now);
            }
            Message::StoreTrouble(trouble) => self.store_trouble(trouble),
            Message::WriteAll => self.write_everything(now),
            Message::Reload => self.reload(),
            Message::Returned { probe } => self.found_loop(&probe, now),
            Message::NetworkChanged => {
                (self.link.publish)(Publication::Renew);
                self.loops.test_soon(now);
            }
            Message::FilesChanged => self.follow(now),
            // Looked at with the counters, which is soon now.
            Message::ClockJumped | Message::Traffic => {}
            // The index means something in the latest table alone.
            Message::Asked { generation, name } if generation == self.tables => {
                self.roster.asked(name as usize, now, now);
            }
            Message::Asked { .. } => {}
            Message::Stop => {}
        }
    }

    fn heard_from_upstream(&mut self, beyond_loopback: bool, now: Time) {
        if beyond_loopback {
            self.roster.upstream_answered(now);
        }
    }

    /// What follows from the clock and from what was applied: publish first, then persist, then new work.
    fn step(&mut self, now: Time) {
        self.roster.tick(now);
        while let Some(decision) = self.roster.next_decision(now) {
            let answer = self.name_answer(&decision);
            (self.link.publish)(Publication::Answer { name: decision.name as u32, answer });
        }
        if std::mem::take(&mut self.searches.changed) {
            self.write_everything(now);
        }
        self.report_ready(now);
        let mut batch = Batch::default();
        self.ledger.changes(&mut self.roster, self.writer.room(), &mut batch);
        if !batch.removed.is_empty() {
            self.forget_removed();
        }
        if !batch.is_routine() {
            self.pace.hasten();
        }
        if self.pace.is_due(now) {
            self.housekeeping(&mut batch, now);
        }
        tell(&batch.events);
        self.persist(batch);
        self.watch_loops(now);
        if self.next_follow.is_some_and(|due| due <= now) {
            self.follow(now);
        }
        self.hand_out(now);
    }

    fn hand_out(&mut self, now: Time) {
        self.search(now);
        for job in self.roster.next_lookups(now, self.crew.free_lookups()) {
            self.crew.look_up(job);
        }
        for job in self.roster.next_checks(now, usize::MAX) {
            self.crew.check(job, self.catalogue.runner(job.check));
        }
    }

    /// What does not announce itself.
    fn housekeeping(&mut self, batch: &mut Batch, now: Time) {
        if let Some(slept) = self.suspend.slept() {
            info!("this host was suspended for {slept:.0?}: everything is checked at once");
            (self.link.publish)(Publication::Renew);
            self.roster.check_everything(now);
            self.searches.discoveries.hasten_all(now);
        }
        self.follow_wall_clock(now);
        self.let_rest(now);
        self.count(batch, self.name_rounds.extent(now), now);
        if self.ready {
            self.trim(now);
        }
    }

    /// Gives back what only the start or a reload needed.
    fn trim(&mut self, now: Time) {
        let (begin, done) = &mut self.trimmed;
        if TRIM_AFTER.get(*done).is_some_and(|after| now.since(*begin) >= *after) {
            *done += 1;
            memory::give_back();
        }
    }

    /// The wall clock may have been set since the start, or gone on while this host slept.
    fn follow_wall_clock(&mut self, now: Time) {
        let wall = WallClock::showing(Time(wall_ms()), self.clock.now());
        let (step, forward) = wall.set_from(self.roster.wall_clock());
        if step >= LEAST_STEP {
            info!("the wall clock was set {step:.1?} {}", if forward { "forward" } else { "back" });
            self.roster.set_wall_clock(wall, now);
            self.write_everything(now);
        }
    }

    /// Learns which names were asked for, and marks those that rest from now on.
    fn let_rest(&mut self, now: Time) {
        let names = self.roster.resting_names().to_vec();
        if names.is_empty() {
            return;
        }
        for (name, at) in names.iter().zip((self.link.asked)(&names)) {
            if let Some(at) = at {
                self.roster.asked(*name, at, now);
            }
        }
        let idle: Vec<usize> = names.into_iter().filter(|&name| self.roster.is_idle(name, now)).collect();
        (self.link.rest)(&idle);
    }

    /// Counters and the heartbeat, with the status line of this moment.
    fn count(&mut self, batch: &mut Batch, extent: Extent, now: Time) {
        self.report_status();
        let heard = (self.link.collect)(batch, extent);
        let given = match extent {
            Extent::Names => {
                self.name_rounds.done(heard.moved.len(), now);
                self.tally.collect(&(self.link.table)(), &heard.moved)
            }
            Extent::Totals => Vec::new(),
        };
        if let Some(due) = self.name_rounds.due() {
            self.pace.not_after(due);
        }
        if heard.beyond_loopback {
            self.roster.upstream_answered(now);
        }
        self.loops.note(heard.traffic, now);
        self.ledger.given(&self.roster, given, batch);
        self.ledger.heartbeat(batch, &self.status, now);
    }

    fn report_ready(&mut self, now: Time) {
        if !self.ready && (self.roster.first_round_done() || now.since(self.started) >= READY_AFTER) {
            self.ready = true;
            (self.link.publish)(Publication::Ready);
        }
    }

    /// Publishes the status line when it changed.
    fn report_status(&mut self) {
        let summary = self.roster.summary();
        let mut line = format!(
            "{}, {} of {} addresses up",
            in_names(summary.names),
            summary.up,
            summary.up + summary.down + summary.unknown
        );
        if summary.names_without_fit > 0 {
            line += &format!(", {} without a healthy address", in_names(summary.names_without_fit));
        }
        if summary.local_fault {
            line += ", this host's own network seems down: answers are held";
        }
        if let Some(why) = self.roster.unable() {
            line += &format!(", addresses that cannot be checked: {} ({why})", summary.unable);
        }
        if self.crew.servers().is_empty() {
            line += ", no upstream server";
        }
        if !self.loops.found().is_empty() {
            line += &format!(", not used because it leads back to har: {}", shown(self.loops.found()));
        }
        if let Some(trouble) = &self.store_trouble {
            line += &format!(", {trouble}");
        }
        if line != self.status {
            self.status.clone_from(&line);
            (self.link.publish)(Publication::Status(line));
        }
    }

    /// Says once what is wrong with the state file, and once that it is well again.
    fn store_trouble(&mut self, trouble: Option<String>) {
        match &trouble {
            Some(trouble) => warn!("{trouble}; answers and checks go on"),
            None if self.store_trouble.is_some() => info!("the state file is written again"),
            None => {}
        }
        self.store_trouble = trouble;
    }

    /// Hands rows over to the state file, which goes by the wall clock.
    fn persist(&self, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        self.writer.send(batch.by(self.roster.wall_clock()));
    }

    /// Hands over the whole state: the file is new, or the configuration is.
    fn write_everything(&mut self, now: Time) {
        self.forget_removed();
        let mut batch = Batch::default();
        self.ledger.everything(&mut self.roster, &self.config, &mut batch);
        self.count(&mut batch, Extent::Names, now);
        tell(&batch.events);
        self.persist(batch);
    }

    /// The last counters, and the mark of a clean stop.
    fn finish(mut self) {
        exec::stop();
        let now = self.clock.now();
        let mut batch = Batch::default();
        let words = format!("har {} stopped", env!("CARGO_PKG_VERSION"));
        self.ledger.event(Some(Event::new(now, EventKind::Daemon, words)));
        self.ledger.changes(&mut self.roster, usize::MAX, &mut batch);
        self.count(&mut batch, Extent::Names, now);
        tell(&batch.events);
        self.ledger.stopped(&mut batch, now);
        self.persist(batch);
        if !self.writer.stop(LAST_WRITE) {
            let why = self.store_trouble.map(|trouble| format!("; the last word on it was: {trouble}"));
            warn!("the last rows could not be written to the state file{}", why.unwrap_or_default());
        }
    }
}

/// A line in the log for each event.
fn tell(events: &[Event]) {
    for event in events {
        log!(level(event), "{event}");
    }
}

/// How loud an event is in the log.
fn level(event: &Event) -> Level {
    match event.kind {
        EventKind::LocalFault | EventKind::RoleConflict | EventKind::Certificate => Level::Warn,
        EventKind::State if event.after.as_deref() == Some(State::Down.as_str()) => Level::Warn,
        _ => Level::Info,
    }
}
