//! The poller's part in discovery: hands the searches out, and takes over candidates that were found.
//!
//! A result that changes a name's candidates is prepared on a worker (their checks may read files) and comes back as
//! a [`Refit`]. One that was made for another configuration, or is not the last one asked for, is dropped: the one
//! that counts is under way.

use std::collections::HashMap;
use std::sync::Arc;

use super::Poller;
use super::discovery::{Finder, Refit};
use crate::config::Config;
use crate::health::discovery::{Answer, Discoveries, Found};
use crate::health::{EndpointRecord, Host, Time};
use crate::store::Stored;

/// Searches handed out at once at most: they hold a worker each while their upstream is silent.
const MAX_SEARCHES: usize = 32;

/// What is known of discovered candidates: by name, the source and what it gave.
pub type Known = HashMap<Arc<str>, (Arc<str>, Vec<Found>)>;

/// Everything that the poller keeps for discovery.
#[derive(Default)]
pub struct Searches {
    /// When, and what was found.
    pub discoveries: Discoveries,
    finders: HashMap<Arc<str>, Finder>,
    serials: HashMap<Arc<str>, u64>,
    generation: u64,
    serial: u64,
    under_way: usize,
    /// Candidates that were ready while a configuration was being read.
    held: Vec<Refit>,
    /// The candidates changed: rows of the state file have to follow.
    pub changed: bool,
}

impl Searches {
    /// The searches of a configuration.
    pub fn configure(&mut self, finders: Vec<Finder>, now: Time) {
        self.generation += 1;
        self.discoveries.configure(finders.iter().map(|finder| finder.search.clone()).collect(), now);
        self.finders = finders.into_iter().map(|finder| (Arc::clone(&finder.search.name), finder)).collect();
    }

    /// When something is due that may be handed out; with all places taken, a result comes first.
    pub fn next_due(&self) -> Option<Time> {
        self.discoveries.next_due().filter(|_| self.under_way < MAX_SEARCHES)
    }

    /// What is known now, for a configuration that is being read.
    pub fn known(&self) -> Known {
        let known = self.finders.keys().filter_map(|name| {
            let source = self.discoveries.source(name)?;
            Some((Arc::clone(name), (Arc::clone(source), self.discoveries.found(name))))
        });
        known.collect()
    }
}

/// Puts into a configuration what a running daemon knows.
pub fn fill(config: &mut Config, known: &Known) {
    for name in &mut config.names {
        let Some(source) = name.discover.as_ref().map(|discover| discover.source.to_string()) else { continue };
        if let Some((of, found)) = known.get(name.name.to_string().as_str())
            && **of == *source
        {
            name.take_found(found);
        }
    }
}

/// A configuration with what the state file knows: for who asks what the daemon does.
pub fn with_stored(config: &Config, state: &Stored) -> Config {
    let mut filled = config.clone();
    let mut known = stored(config, state);
    for name in &config.names {
        let (Some(discover), Some((_, found))) = (&name.discover, known.get_mut(name.name.to_string().as_str())) else {
            continue;
        };
        // A candidate without an address has no check that shows its port. It is not checked here: any will do.
        let other = found.iter().find_map(|found| found.port);
        for lost in found.iter_mut().filter(|found| !discover.template.fits(found)) {
            lost.port = other.or(Some(1));
        }
    }
    fill(&mut filled, &known);
    filled
}

/// What the last run found, from the state file: its candidates that are not listed. A port is not kept there, but
/// shows in the words of the checks.
pub fn stored(config: &Config, stored: &Stored) -> Known {
    let mut known = Known::new();
    for name in config.names.iter().filter(|name| name.discover.is_some()) {
        let Some(discover) = &name.discover else { continue };
        let shown: Arc<str> = name.name.to_string().into();
        let listed = |host: &Host| name.candidates.iter().any(|listed| super::catalogue::host(&listed.host) == *host);
        let rows = stored.candidates.iter().filter(|row| row.name == shown && !listed(&row.host));
        let found = rows.map(|row| {
            let found = Found { host: row.host.clone(), port: None, priority: row.priority, weight: row.weight };
            let checked = |record: &&EndpointRecord| record.name == shown && record.host == row.host;
            let checks = stored.endpoints.iter().find(checked).map(|record| &record.definition);
            Found { port: checks.and_then(|checks| discover.template.port_in(&found, checks)), ..found }
        });
        known.insert(Arc::clone(&shown), (discover.source.to_string().into(), found.collect()));
    }
    known
}

impl Poller {
    /// Starts what is due.
    pub(super) fn search(&mut self, now: Time) {
        let room = MAX_SEARCHES.saturating_sub(self.searches.under_way);
        for name in self.searches.discoveries.next(now, room) {
            if let Some(finder) = self.searches.finders.get(&name) {
                self.searches.under_way += 1;
                self.crew.find(finder.clone());
            }
        }
    }

    /// A search has ended.
    pub(super) fn searched(&mut self, name: &Arc<str>, source: &str, result: Result<Answer, String>, now: Time) {
        let searches = &mut self.searches;
        searches.under_way = searches.under_way.saturating_sub(1);
        let machine = u64::from(std::process::id());
        let (changed, event) = searches.discoveries.apply(name, source, result, machine, now);
        self.roster.note(event);
        if changed {
            self.prepare(name);
        } else {
            // A name without candidates is as known as it will be; one with some waits for their checks.
            self.roster.discovered(name, searches.discoveries.failure(name));
        }
    }

    /// Has the candidates of a name made anew from what is found.
    pub(super) fn prepare(&mut self, name: &Arc<str>) {
        let Some(own) = self.config.names.iter().find(|other| *other.name.to_string() == **name) else { return };
        let searches = &mut self.searches;
        searches.serial += 1;
        searches.serials.insert(Arc::clone(name), searches.serial);
        let found = searches.discoveries.found(name);
        self.crew.prepare(own.clone(), found, searches.generation, searches.serial);
    }

    /// Takes over a name's candidates, once no configuration is being read: its checks are numbered in a copy of the
    /// catalogue, and the numbers given here meanwhile would be those of other checks there.
    pub(super) fn refit(&mut self, refit: Refit, now: Time) {
        if self.reloading {
            self.searches.held.push(refit);
            return;
        }
        let name: Arc<str> = refit.name.name.to_string().into();
        if refit.generation != self.searches.generation || self.searches.serials.get(&name) != Some(&refit.serial) {
            return;
        }
        let config = Arc::make_mut(&mut self.config);
        let Some(own) = config.names.iter_mut().find(|own| own.name == refit.name.name) else { return };
        own.candidates.clone_from(&refit.name.candidates);
        let (spec, problems) = self.catalogue.compile_name(&refit.name, refit.runners);
        for problem in problems {
            log::warn!("{problem}");
        }
        self.roster.refit(spec, now);
        self.roster.discovered(&name, self.searches.discoveries.failure(&name));
        self.catalogue.retain(&self.roster.checks_in_use());
        self.ledger.configure(&self.roster);
        self.searches.changed = true;
    }

    /// Takes over what waited for the end of a reload. A new configuration has it made anew.
    pub(super) fn refit_held(&mut self, now: Time) {
        for refit in std::mem::take(&mut self.searches.held) {
            self.refit(refit, now);
        }
    }

    /// What was found while a new configuration was being read is not in it.
    pub(super) fn catch_up(&mut self, known: &Known) {
        for (name, (source, found)) in self.searches.known() {
            let was = known.get(&name).filter(|(of, _)| *of == source).map(|(_, found)| found.as_slice());
            if was.unwrap_or_default() != found {
                self.prepare(&name);
            }
        }
    }
}
