//! The thread that owns the state file while har runs.
//!
//! [`Writer::send`] merges into what waits and never blocks. Once a tick, if there is news, everything is written in
//! one transaction, without waiting for anybody's lock: what cannot be written stays, within bounds, for the
//! next tick. Checks that found what the last ones found are no news: they wait for some, such as the heartbeat, so that a
//! host with few checks wakes and writes rarely. The same tick looks for rows that others wrote (`PRAGMA data_version`),
//! for a file that was deleted or replaced, and tries again what could not be opened. While there is no news and the file
//! is well, the thread sleeps until somebody else writes, which the [`Alarm`] announces, and some seconds at most.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::TransactionBehavior;

use super::alarm::Alarm;
use super::base::Base;
use super::batch::{Batch, Pending};
use super::load::Candidates;
use super::open::{Place, Store, in_memory};
use super::overrides;
use super::prune;
use super::repair::Trouble;
use super::save::{self, Targets};
use super::summary::Summary;
use super::time::now;
use crate::health::Override;

/// Between two rounds: overrides written by others take effect within it.
pub const TICK: Duration = Duration::from_millis(500);

/// Between two rounds while there is no news and nobody else writes: for what is not announced, and for results that
/// waited for a heartbeat in vain, which are not to be 5 s late.
const QUIET: Duration = Duration::from_millis(4500);

/// How long there is a round every tick after somebody else wrote: the write is announced when it begins, and it
/// counts when it ends.
const ATTENTION: Duration = Duration::from_secs(5);

/// Ticks between two attempts to open a file that could not be used.
const RETRY_TICKS: u32 = 4;

/// Rounds of a stop, at least one of them with an attempt to open the file again, after which a file that could not be
/// used before is given up.
const LAST_ROUNDS: u32 = RETRY_TICKS + 1;

/// A lock that is held longer than this is worth telling.
const PATIENCE: Duration = Duration::from_secs(5);

/// Rows of addresses and answers that wait to be written, beyond which no more are wanted: after a first round of fifty
/// thousand checks they would be most of the memory of the process. Half of it is written without waiting for a tick.
pub(super) const ROOM: usize = 8192;

/// Addresses and answers of a transaction after which its memory is given back.
const LARGE: usize = ROOM / 2;

/// Between two clean-ups of targets that nothing refers to.
const CLEAN_EVERY: Duration = Duration::from_secs(3600);

/// What the writer tells, always from its own thread: send it on, do not work in there.
pub struct Hooks {
    /// All overrides, at start and whenever another process changed them; with them those that make no sense, in
    /// words.
    pub on_overrides: Box<dyn Fn(Vec<Override>, Vec<String>) + Send>,
    /// A line once when writing begins to fail or an odd thing is found; `None` when it works again.
    pub on_trouble: Box<dyn Fn(Option<String>) + Send>,
    /// The file was begun anew or opened after all: a [`Batch`] with `complete` is wanted soon.
    pub on_resend: Box<dyn Fn() + Send>,
    /// A [`Batch`] with `complete` or other large ones are in the file, and what it took to write them is free again.
    pub on_complete: Box<dyn Fn() + Send>,
}

/// The handle to the writing thread.
pub struct Writer {
    shared: Arc<Shared>,
    /// What the thread is to have, until it is started.
    idle: Option<(Store, Hooks)>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<Waiting>,
    /// Wakes the thread, once there is one.
    waker: OnceLock<Arc<mio::Waker>>,
    /// The writer has done it.
    done: Condvar,
}

#[derive(Default)]
struct Waiting {
    pending: Pending,
    history: Duration,
    /// Flushes asked for, and those whose batches are written.
    asked: u64,
    written: u64,
    stop: Option<Instant>,
    ended: bool,
    clean: bool,
}

impl Writer {
    /// A writer that works from the start; `history` is how long single results are kept (zero = none).
    ///
    /// # Errors
    /// As [`Writer::begin`].
    pub fn start(store: Store, history: Duration, hooks: Hooks) -> std::io::Result<Writer> {
        let mut writer = Writer::new(store, history, hooks);
        writer.begin()?;
        Ok(writer)
    }

    /// A writer that writes nothing before [`Writer::begin`].
    pub fn new(store: Store, history: Duration, hooks: Hooks) -> Writer {
        let shared = Arc::new(Shared {
            state: Mutex::new(Waiting { history, ..Waiting::default() }),
            waker: OnceLock::new(),
            done: Condvar::new(),
        });
        Writer { shared, idle: Some((store, hooks)), thread: None }
    }

    /// Starts the thread, once.
    ///
    /// # Errors
    /// When no thread can be had; nothing is ever written then.
    pub fn begin(&mut self) -> std::io::Result<()> {
        let Some((store, hooks)) = self.idle.take() else { return Ok(()) };
        let theirs = Arc::clone(&self.shared);
        let alarm = Alarm::new()?;
        let _ = self.shared.waker.set(alarm.waker());
        let thread = thread::Builder::new()
            .name("har-store".to_owned())
            .spawn(move || Thread::new(theirs, store, hooks, alarm).run())?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Hands over what changed. Never blocks: it is written at the next tick, 500 ms at most, and what is no news with
    /// the next that is, 4.5 s at most.
    pub fn send(&self, batch: Batch) {
        let hurry = {
            let mut state = self.shared.lock();
            let urgency = |pending: &Pending| (pending.is_pressing(), pending.rows() >= LARGE);
            let before = urgency(&state.pending);
            state.pending.add(batch);
            urgency(&state.pending) > before
        };
        if hurry {
            self.shared.wake();
        }
    }

    /// How many more addresses and answers are to be sent, so that what waits stays small: those that change while the
    /// disk is slow can as well be sent as they are later.
    pub fn room(&self) -> usize {
        ROOM.saturating_sub(self.shared.lock().pending.rows())
    }

    /// After a reload: how long single results are kept from now on.
    pub fn set_history(&self, history: Duration) {
        self.shared.lock().history = history;
    }

    /// Waits until everything sent so far is in the file; `false` when that did not happen within `deadline`.
    pub fn flush(&self, deadline: Duration) -> bool {
        let mut state = self.shared.lock();
        state.asked += 1;
        let ticket = state.asked;
        self.shared.wake();
        let waiting = |state: &mut Waiting| state.written < ticket && !state.ended;
        let (state, _) =
            self.shared.done.wait_timeout_while(state, deadline, waiting).unwrap_or_else(PoisonError::into_inner);
        state.written >= ticket
    }

    /// Writes everything and ends the thread, leaving one file without journals; `false` when something could not be
    /// written within `deadline`.
    pub fn stop(mut self, deadline: Duration) -> bool {
        self.end(deadline)
    }

    fn end(&mut self, deadline: Duration) -> bool {
        let mut state = self.shared.lock();
        state.stop = Some(Instant::now() + deadline);
        self.shared.wake();
        // The last attempt may have begun at the deadline; it is short.
        let (state, _) = self
            .shared
            .done
            .wait_timeout_while(state, deadline + PATIENCE, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        let (ended, clean) = (state.ended, state.clean);
        drop(state);
        if let Some(thread) = self.thread.take().filter(|_| ended) {
            let _ = thread.join();
        }
        clean
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end(Duration::from_secs(1));
        }
    }
}

impl Shared {
    fn wake(&self) {
        // A call that fails is made up for by the next round.
        if let Some(Err(error)) = self.waker.get().map(|waker| waker.wake()) {
            log::debug!("the writer cannot be woken: {error}");
        }
    }

    // A panic ends the daemon; in a test the value behind a poisoned lock is as good as before.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a round of the thread knew.
struct Round {
    begun: Instant,
    /// The flushes that had been asked for.
    ticket: u64,
    stopping: bool,
}

/// What the thread itself keeps.
struct Thread {
    shared: Arc<Shared>,
    store: Store,
    hooks: Hooks,
    alarm: Alarm,
    /// Until when somebody else may be writing.
    attention: Option<Instant>,
    targets: Targets,
    summary: Summary,
    /// What a file that could not be read at the start had counted.
    base: Base,
    /// What `data_version` was when the overrides were read.
    seen: Option<i64>,
    overrides: Vec<Override>,
    /// Overrides that make no sense, in words.
    ignored: Vec<String>,
    /// What was in the log alone may be gone.
    lost_log: bool,
    /// The troubles that were told since all was well.
    told: BTreeSet<String>,
    /// Whether a row that SQLite refuses was told of: once in a process.
    refused: bool,
    failing_since: Option<Instant>,
    ticks: u32,
    /// Rounds of the stop in which the file was barred.
    barred: u32,
    cleaned: Instant,
    /// A large transaction was written, or a slot of many summaries, and its memory not given back yet.
    untidy: bool,
}

impl Thread {
    fn new(shared: Arc<Shared>, store: Store, hooks: Hooks, alarm: Alarm) -> Thread {
        Thread {
            shared,
            store,
            hooks,
            alarm,
            attention: None,
            targets: Targets::default(),
            summary: Summary::default(),
            base: Base::default(),
            seen: None,
            overrides: Vec::new(),
            ignored: Vec::new(),
            lost_log: false,
            told: BTreeSet::new(),
            refused: false,
            failing_since: None,
            ticks: 0,
            barred: 0,
            cleaned: Instant::now(),
            untidy: false,
        }
    }

    fn run(mut self) {
        self.told.extend(self.store.hindrance().map(in_memory));
        self.prepare();
        self.recover();
        let shared = Arc::clone(&self.shared);
        loop {
            let begun = Instant::now();
            self.alarm.ignore();
            self.look_after_file();
            let (pending, history, ticket, stop) = {
                let mut state = shared.lock();
                (std::mem::take(&mut state.pending), state.history, state.asked, state.stop)
            };
            let large = pending.complete || pending.rows() >= LARGE;
            let written = self.write(pending, history, stop.is_some());
            self.untidy |= large && written;
            // Large ones come in a row.
            if !large && std::mem::take(&mut self.untidy) {
                self.tidy_up();
            }
            // Listens first: what is written before the look is seen by it, what is written after it is announced.
            let announced = self.store.is_writable() && self.alarm.listen(&self.store.path);
            self.look_at_overrides();
            let mut state = shared.lock();
            if written && state.written < ticket {
                state.written = ticket;
                shared.done.notify_all();
            }
            self.barred += u32::from(stop.is_some() && self.store.is_barred());
            // What came during the last write is written too; a busy file gets until the deadline, one that cannot be
            // used a few attempts.
            let over = state.stop.is_some_and(|until| {
                (stop.is_some() && written && state.pending.is_empty())
                    || Instant::now() >= until
                    || self.barred >= LAST_ROUNDS
            });
            if over {
                state.clean = written;
                drop(state);
                self.store.finish();
                shared.lock().ended = true;
                shared.done.notify_all();
                return;
            }
            let stopping = state.stop.is_some();
            drop(state);
            let quiet = announced && written && self.failing_since.is_none() && !self.untidy;
            let round = Round { begun, ticket, stopping };
            self.sleep(
                round,
                if stopping {
                    TICK / 25
                } else if quiet {
                    self.until_expiry()
                } else {
                    TICK
                },
            );
        }
    }

    /// Sleeps until the next round, which is a tick after the last one began when there is something to do.
    fn sleep(&mut self, round: Round, pause: Duration) {
        let mut until = Instant::now() + pause;
        loop {
            let now = Instant::now();
            if self.attention.is_some_and(|end| now < end) {
                until = until.min(round.begun + TICK);
            }
            {
                let state = self.shared.lock();
                if state.asked != round.ticket || state.stop.is_some() != round.stopping {
                    return;
                }
                if state.pending.rows() >= LARGE && self.failing_since.is_none() && self.store.is_writable() {
                    return;
                }
                if state.pending.is_pressing() && !round.stopping {
                    until = until.min(round.begun + TICK);
                }
            }
            if now >= until {
                return;
            }
            if self.alarm.wait(until - now) {
                self.attention = Some(Instant::now() + ATTENTION);
            }
        }
    }

    /// The longest sleep that misses no override's end.
    fn until_expiry(&self) -> Duration {
        let now = now();
        let ends = self.overrides.iter().filter_map(|order| order.expires_at);
        ends.map(|end| end.since(now)).min().unwrap_or(QUIET).clamp(TICK / 25, QUIET)
    }

    /// Makes the file that was opened ready to be written.
    fn prepare(&mut self) {
        if let Some(notes) = self.store.prepare() {
            self.settle_in(notes, true);
        }
    }

    /// After a whole state or much of one: what it filled caches with is seldom needed again.
    fn tidy_up(&self) {
        if let Some(connection) = &self.store.connection {
            let _ = connection.release_memory();
        }
        (self.hooks.on_complete)();
    }

    /// Opens again what was deleted, replaced or could not be opened.
    fn look_after_file(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.store.is_writable() {
            let place = self.store.place();
            if place == Place::Well {
                self.store.note_journals();
                if let Some(error) = self.store.look_inside() {
                    self.failed(&error);
                }
                return;
            }
            self.store.forget(place);
            self.lost_log |= place != Place::Lost;
            self.tell(format!("{}: opening it again", place.words(&self.store.path)));
        } else if !self.ticks.is_multiple_of(RETRY_TICKS) {
            return;
        }
        self.reopen(true);
    }

    fn reopen(&mut self, resend: bool) {
        let notes = self.store.reopen();
        self.settle_in(notes, resend);
    }

    /// After the file was opened again.
    fn settle_in(&mut self, notes: Vec<String>, resend: bool) {
        self.targets.clear();
        self.seen = None;
        notes.into_iter().for_each(|note| self.tell(note));
        if self.store.missed && self.store.connection.is_some() {
            let mut stored = self.store.load(Candidates::Skip);
            std::mem::take(&mut stored.notes).into_iter().for_each(|note| self.tell(note));
            if !self.store.missed {
                self.base = Base::of(stored);
            }
        }
        if self.store.is_writable() {
            self.restore_overrides();
            // The same file needs no recovery, and the slots at hand are fuller than its results may be.
            if resend {
                self.recover();
                (self.hooks.on_resend)();
            }
        }
    }

    /// A file that was begun anew, or lost its log, gets the overrides that are in force: a drain must not end because a
    /// disk lost a page.
    fn restore_overrides(&mut self) {
        let Some(connection) = &self.store.connection else { return };
        let is_new = connection.query_row("SELECT count(*) = 0 FROM daemon", [], |row| row.get(0)).unwrap_or(false);
        if std::mem::take(&mut self.lost_log) || is_new {
            overrides::restore(connection, &self.overrides);
        }
    }

    /// Continues the summaries that the last process did not finish.
    fn recover(&mut self) {
        if let (true, Some(connection)) = (self.store.is_writable(), &self.store.connection) {
            let _ = self.summary.recover(connection, now());
        }
    }

    fn look_at_overrides(&mut self) {
        let Some(connection) = &self.store.connection else { return };
        let version = connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut look| look.query_row([], |row| row.get::<_, i64>(0)))
            .ok();
        if version.is_none() || version == self.seen {
            return;
        }
        // An error is the writing's to tell, which meets it too.
        let Ok((orders, ignored)) = overrides::read(connection) else { return };
        let first = self.seen.is_none();
        self.seen = version;
        if first || orders != self.overrides || ignored != self.ignored {
            self.overrides.clone_from(&orders);
            self.ignored.clone_from(&ignored);
            (self.hooks.on_overrides)(orders, ignored);
        }
    }

    /// One transaction; what cannot be written is put back. `true` when nothing is left unwritten.
    fn write(&mut self, pending: Pending, history: Duration, last: bool) -> bool {
        if !self.store.is_writable() {
            let nothing = pending.is_empty();
            self.shared.lock().pending.put_back(pending);
            return nothing;
        }
        match self.transact(&pending, history, last) {
            Ok(()) => {
                self.failing_since = None;
                self.base.forget_removed(&pending);
                if let Err(error) = self.sum_up(last) {
                    // The slots wait for the next time.
                    self.failed(&error);
                    return !last;
                }
                if !self.told.is_empty() {
                    self.told.clear();
                    (self.hooks.on_trouble)(None);
                }
                true
            }
            Err(error) => {
                self.targets.clear();
                self.shared.lock().pending.put_back(pending);
                self.failed(&error);
                false
            }
        }
    }

    fn transact(&mut self, pending: &Pending, history: Duration, last: bool) -> rusqlite::Result<()> {
        let Some(connection) = &mut self.store.connection else { return Ok(()) };
        let now = now();
        let expired = self.overrides.iter().any(|order| order.expires_at.is_some_and(|end| end <= now));
        let clean = self.cleaned.elapsed() >= CLEAN_EVERY;
        if pending.is_empty() && !expired && !clean && !last {
            return Ok(());
        }
        let history_ms = u64::try_from(history.as_millis()).unwrap_or(u64::MAX);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let saved = save::save(&transaction, pending, &self.base, &mut self.targets, !history.is_zero())?;
        prune::old_rows(&transaction, now, history_ms, pending.results.len())?;
        if expired {
            overrides::delete_over(&transaction, &self.overrides, now)?;
        }
        if clean {
            prune::targets(&transaction, now, history_ms)?;
        }
        transaction.commit()?;
        // After the commit, since a result that is put back would be counted twice.
        for (target, at, outcome, total_us) in saved.fresh {
            self.summary.add(target, at, outcome, total_us);
        }
        if let Some(refusal) = saved.refusal.filter(|_| !std::mem::replace(&mut self.refused, true)) {
            let path = self.store.path.display();
            (self.hooks.on_trouble)(Some(format!("the state file {path} does not take {refusal}; left out")));
        }
        if clean {
            self.cleaned = Instant::now();
        }
        if expired {
            self.overrides.retain(|order| order.expires_at.is_none_or(|end| end > now));
            // By the wall clock, in which they were written: it may have been set since the daemon's own began.
            (self.hooks.on_overrides)(self.overrides.clone(), self.ignored.clone());
        }
        Ok(())
    }

    /// Writes the summaries that are due.
    fn sum_up(&mut self, last: bool) -> rusqlite::Result<()> {
        let Some(connection) = &mut self.store.connection else { return Ok(()) };
        let rows = self.summary.save(connection, now(), last)?;
        self.untidy |= rows >= LARGE;
        Ok(())
    }

    fn failed(&mut self, error: &rusqlite::Error) {
        let path = self.store.path.display().to_string();
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        match Trouble::of(error) {
            Trouble::Busy if since.elapsed() < PATIENCE => (),
            Trouble::Busy => self.tell(format!(
                "the state file {path} is locked by another process; going on in memory until it is free"
            )),
            Trouble::Damaged if self.store.may_set_aside() => {
                let note = self.store.set_aside(&error.to_string());
                self.tell(note);
                self.reopen(true);
            }
            Trouble::Damaged => {
                let reason = format!("the state file {path} is damaged again ({error})");
                self.tell(format!("{reason}; going on in memory"));
                self.store.hinder(reason);
            }
            Trouble::Unusable | Trouble::Refused => {
                self.tell(format!("the state file {path} cannot be written: {error}; going on in memory"));
                // The same file again, for a connection that a broken disk spoiled: what waits is still whole.
                if self.ticks.is_multiple_of(RETRY_TICKS) && self.store.is_in_place() {
                    self.reopen(false);
                }
            }
        }
    }

    /// Says a trouble once, and what comes of it: the last one told is what is wrong now.
    fn tell(&mut self, line: String) {
        if self.told.insert(line.clone()) {
            (self.hooks.on_trouble)(Some(line));
        }
    }
}
