//! The roster under orders: override rows and drain records taken in, told of, and put on every endpoint.
//!
//! What the orders say is in [`super::overrides`]; here they meet the names and addresses that they are about. An order
//! that is about nothing (a slip of the pen, a candidate that is gone) is told of, since its author believes it
//! to work.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::overrides::{DrainList, Overrides, Target, row_words};
use super::resolution::LookupFailure;
use super::roster::{Name, Roster, Timer};
use super::wall::WallClock;
use super::{EndpointRecord, Event, EventKind, Host, Override, OverrideKind, Time};

/// What was told of orders, so that it is told once.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The rows were set at least once.
    set: bool,
    /// Those that are in the table though they are over, by number and end: one that ends here is still there for a
    /// moment.
    over: BTreeSet<(i64, Option<Time>)>,
    /// Rows that make no sense, in words.
    ignored: Vec<String>,
    /// Rows that are about nothing here, by number.
    idle: BTreeSet<i64>,
}

impl Roster {
    /// All rows of the override table.
    pub fn set_overrides(&mut self, overrides: Vec<Override>, now: Time) {
        let first = !std::mem::replace(&mut self.told_orders.set, true);
        let over = over(&overrides, self.wall.at(now));
        let told = std::mem::replace(&mut self.told_orders.over, over.clone());
        let held = |row: &Override| self.overrides.rows().iter().any(|other| is_same(other, row));
        let is_news = |row: &&Override| {
            let key = (row.id, row.expires_at);
            over.contains(&key) && !told.contains(&key) && !held(row)
        };
        let news: Vec<Override> = overrides.iter().filter(is_news).cloned().collect();
        // Local time for UTC is the usual way to an order that is over, and its author believes it to work.
        let verb = if first { "ended while har was not running" } else { "was over when it came (times are UTC)" };
        for row in &news {
            self.tell_order(row, verb, now);
        }
        self.follow_overrides(overrides, first, now);
    }

    /// The same rows at another time: some may be over by now.
    pub(super) fn review_overrides(&mut self, now: Time) {
        let rows = self.overrides.rows().to_vec();
        self.told_orders.over.extend(over(&rows, self.wall.at(now)));
        self.follow_overrides(rows, false, now);
    }

    fn follow_overrides(&mut self, overrides: Vec<Override>, first: bool, now: Time) {
        let new = Overrides::new(overrides, self.wall.at(now));
        let old = std::mem::replace(&mut self.overrides, new);
        let (old, new) = (old.rows().to_vec(), self.overrides.rows().to_vec());
        let before = |row: &Override| old.iter().find(|other| is_same(other, row));
        for row in old.iter().filter(|row| !new.iter().any(|other| is_same(other, row))) {
            self.tell_order(row, "ends", now);
        }
        for row in &new {
            match before(row) {
                Some(known) if known == row => {}
                Some(_) => self.tell_order(row, "is changed", now),
                // Rows that were there before this process began then.
                None if first && self.is_older(row) => {}
                None => self.tell_order(row, "begins", now),
            }
        }
        for row in old.iter().chain(&new) {
            if matches!(row.kind, OverrideKind::Pin | OverrideKind::Bypass) {
                match &row.name {
                    Some(name) => self.dirty.extend(self.index.get(name.as_str())),
                    None => self.dirty.extend(0..self.names.len()),
                }
            }
        }
        if let Some(end) = self.overrides.next_expiry() {
            self.timer(self.wall.when(end), Timer::Overrides);
        }
        self.told_orders.idle = self.idle_orders();
        if !(old.is_empty() && new.is_empty()) {
            self.apply_effects();
        }
    }

    /// By which clock people order and read, from now on. An order's end is where that clock says.
    pub fn set_wall_clock(&mut self, wall: WallClock, now: Time) {
        self.wall = wall;
        self.review_overrides(now);
        self.expire_drains(now);
    }

    /// The clock of [`Roster::set_wall_clock`].
    pub fn wall_clock(&self) -> WallClock {
        self.wall
    }

    /// Whether a row was there before this process began.
    fn is_older(&self, row: &Override) -> bool {
        let started = self.started.map(|started| self.wall.at(started));
        row.created_at.is_some_and(|at| Some(at) < started)
    }

    /// Rows that make no sense, in words: each is told of once.
    pub fn ignored_overrides(&mut self, ignored: Vec<String>, now: Time) {
        let told = std::mem::replace(&mut self.told_orders.ignored, ignored.clone());
        for words in ignored.into_iter().filter(|words| !told.contains(words)) {
            self.events.push(Event::new(now, EventKind::Override, words));
        }
    }

    /// After a reload: tells of the rows that are about nothing any more.
    pub(super) fn review_orders(&mut self, now: Time) {
        let idle = self.idle_orders();
        let told = std::mem::replace(&mut self.told_orders.idle, idle.clone());
        let rows: Vec<Override> = self
            .overrides
            .rows()
            .iter()
            .filter(|row| idle.contains(&row.id) && !told.contains(&row.id))
            .cloned()
            .collect();
        for row in &rows {
            self.tell_order(row, "has no effect any more", now);
        }
    }

    fn idle_orders(&self) -> BTreeSet<i64> {
        self.overrides.rows().iter().filter(|row| self.misses(row).is_some()).map(|row| row.id).collect()
    }

    fn tell_order(&mut self, row: &Override, verb: &str, now: Time) {
        let target = row.target.as_deref().filter(|_| row.kind != OverrideKind::Bypass);
        let target = target.unwrap_or(if row.name.is_some() { "the name" } else { "everything" });
        let remark = self.misses(row).map(|why| format!(" ({why})")).unwrap_or_default();
        let reason = format!("{} of {target} {verb}, {}{remark}", row.kind.as_str(), row_words(row));
        let mut event = Event::new(now, EventKind::Override, reason);
        event.name = row.name.as_deref().map(Arc::from);
        self.events.push(event);
    }

    /// Why a row is about nothing that is configured or known now, if so.
    fn misses(&self, row: &Override) -> Option<&'static str> {
        let names: Vec<&Name> = match row.name.as_deref() {
            Some(name) => match self.index.get(name).and_then(|&index| self.names.get(index)) {
                Some(name) => vec![name],
                None => return Some("no configured name is called so"),
            },
            None => self.names.iter().collect(),
        };
        if row.kind == OverrideKind::Bypass {
            return None;
        }
        let target = Target::parse(row.target.as_deref().unwrap_or_default());
        let is_known = names.iter().any(|name| {
            let listed = name.spec.candidates.iter().any(|candidate| match (&candidate.host, &target) {
                (Host::Name(host), Target::Name(target)) => **host == **target,
                (Host::Address(host), Target::Address(target)) => host == target,
                _ => false,
            });
            listed || matches!(target, Target::Address(target) if name.endpoints.iter().any(|e| e.address == target))
        });
        match target {
            _ if is_known => None,
            Target::Address(_) if row.kind == OverrideKind::Pin => Some("an address that is no candidate's: unchecked"),
            Target::Address(_) => Some("no candidate has this address now"),
            Target::Name(_) => Some("no candidate is called so"),
        }
    }
}

/// Those that have ended, by number and end.
fn over(rows: &[Override], wall: Time) -> BTreeSet<(i64, Option<Time>)> {
    let ended = rows.iter().filter(|row| row.expires_at.is_some_and(|end| end <= wall));
    ended.map(|row| (row.id, row.expires_at)).collect()
}

/// Whether two rows are one order, perhaps with another end or reason.
fn is_same(a: &Override, b: &Override) -> bool {
    (a.id, a.kind, &a.name, &a.target) == (b.id, b.kind, &b.name, &b.target)
}

/// Drain records.
impl Roster {
    /// What a look-up of a drain record yielded: the strings of each record, and how host names are read
    /// ([`DrainList::parse`]). After a failure other than NXDOMAIN what it listed last stays drained.
    pub fn apply_drain_text(
        &mut self,
        record: &str,
        records: Result<Vec<Vec<String>>, LookupFailure>,
        ttl: Option<Duration>,
        read_name: fn(&str) -> Option<String>,
        now: Time,
    ) {
        let record: Arc<str> = record.into();
        let failed = records.as_ref().is_err_and(|failure| *failure != LookupFailure::NxDomain);
        if !self.lookups.applied_text(&record, ttl, failed, self.machine, now) || failed {
            return;
        }
        let (list, problems) = DrainList::parse(&record, &records.unwrap_or_default(), read_name, self.wall.at(now));
        let told = self.drain_problems.entry(Arc::clone(&record)).or_default();
        for problem in problems.iter().filter(|problem| !told.contains(problem)) {
            let reason = format!("drain record {record}: ignored: {problem}");
            self.events.push(Event::new(now, EventKind::Override, reason));
        }
        *told = problems;
        let before = self.drains.get(&record);
        if before == Some(&list) {
            return;
        }
        let targets = before.map(DrainList::targets).unwrap_or_default();
        // What is remembered of the last run says nothing new when the record says the same.
        let is_news = list.targets().is_empty() || !before.is_some_and(DrainList::is_remembered);
        if is_news && targets != list.targets() {
            let reason = format!("drain record {record} now lists {}", list.words_of_targets());
            self.events.push(Event::new(now, EventKind::Override, reason));
        }
        if let Some(end) = list.next_expiry() {
            self.timer(self.wall.when(end), Timer::Drains);
        }
        self.drains.insert(record, list);
        self.apply_effects();
    }

    /// Warm start: what a drain record listed in the last run stays drained until the record was looked up.
    pub(super) fn restore_drains(&mut self, records: &[EndpointRecord], now: Time) {
        for endpoint in records {
            let Some(words) = endpoint.drained.as_deref() else { continue };
            let Some(name) = self.index.get(&endpoint.name).and_then(|&index| self.names.get(index)) else { continue };
            let Some(record) = name.spec.drain_record.clone() else { continue };
            let list = self.drains.entry(Arc::clone(&record)).or_insert_with(|| DrainList::remembered(&record));
            list.remember(words, endpoint.address, self.wall.at(now));
        }
        if self.drains.is_empty() {
            return;
        }
        if let Some(end) = self.drains_end() {
            self.timer(end, Timer::Drains);
        }
        self.apply_effects();
    }

    /// When the first entry of a drain record ends.
    pub(super) fn drains_end(&self) -> Option<Time> {
        let end = self.drains.values().filter_map(DrainList::next_expiry).min();
        end.map(|end| self.wall.when(end))
    }

    pub(super) fn expire_drains(&mut self, now: Time) {
        for list in self.drains.values_mut() {
            list.expire(self.wall.at(now));
        }
        if let Some(end) = self.drains_end() {
            self.timer(end, Timer::Drains);
        }
        self.apply_effects();
    }
}

/// Effects.
impl Roster {
    /// Puts what operators say on every endpoint.
    pub(super) fn apply_effects(&mut self) {
        for index in 0..self.names.len() {
            self.apply_effects_to(index);
        }
    }

    /// Puts what operators say on the endpoints of one name.
    pub(super) fn apply_effects_to(&mut self, index: usize) {
        let Some(Name { spec, endpoints, .. }) = self.names.get_mut(index) else { return };
        let record = spec.drain_record.as_ref().and_then(|record| self.drains.get(record));
        for endpoint in endpoints {
            let Some(candidate) = spec.candidates.get(endpoint.candidate()) else { continue };
            let effect = self.overrides.effect(&spec.name, &candidate.host, endpoint.address, record);
            if effect != *endpoint.effect() {
                endpoint.set_effect(effect);
                endpoint.dirty = true;
                self.dirty.insert(index);
                self.changed.insert(index);
            }
        }
    }

    /// The addresses of the pin that holds for a name, by family, and its words.
    pub(super) fn pin(&self, name: &Name) -> Option<([Vec<IpAddr>; 2], String)> {
        let inputs: Vec<_> = name
            .endpoints
            .iter()
            .filter_map(|endpoint| Some(endpoint.input(name.spec.candidates.get(endpoint.candidate())?)))
            .collect();
        self.overrides.pinned(&name.spec.name, &inputs, name.spec.policy.answers)
    }
}

#[cfg(test)]
mod tests;
