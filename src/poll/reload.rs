//! A configuration that is read again while har runs: what is taken over, and what waits for a restart.

use std::collections::HashSet;
use std::sync::Arc;

use log::warn;

use super::jobs::{Fresh, Loaded};
use super::upstreams::shown;
use super::{Poller, Publication};
use crate::config::values::in_names;
use crate::config::{Config, Report};
use crate::dns::HostName;
use crate::health::{Event, EventKind, Time};
use crate::store::Batch;

/// How the event of a refused reload begins.
pub const REFUSED: &str = "the configuration was not taken over: ";

/// How that of one that was taken over does.
pub const TAKEN: &str = "the configuration was loaded again: ";

impl Poller {
    /// Has the configuration read again, off this thread; once more afterwards if it is being read, since the files
    /// may have changed behind the reader.
    pub(super) fn reload(&mut self) {
        if self.reloading {
            self.reload_again = true;
            return;
        }
        self.reloading = true;
        self.crew.load(&self.config, self.catalogue.clone(), self.searches.known());
    }

    /// Takes over what was read, or stays with what runs.
    pub(super) fn reloaded(&mut self, loaded: Loaded, now: Time) {
        self.reloading = false;
        self.trimmed = (now, 0);
        match loaded {
            Ok(fresh) => self.take_over(fresh, now),
            Err(report) => self.refuse(&report, now),
        }
        self.refit_held(now);
        if std::mem::take(&mut self.reload_again) {
            self.reload();
        }
    }

    /// Forgets what was noted of targets that are no more: their numbers never come again.
    pub(super) fn forget_removed(&mut self) {
        let roster = &self.roster;
        self.crew.forget(|target| roster.candidate_of(target).is_some());
        self.certificates.forget(|number, address| roster.target_of(address, number).is_some());
    }

    fn refuse(&mut self, report: &Report, now: Time) {
        log::error!("the configuration is not valid and was not taken over; the running one is kept\n{report}");
        // The log has all problems already: the row goes past the log, with the first one.
        self.persist(Batch { events: vec![refusal(report, now)], ..Batch::default() });
        (self.link.publish)(Publication::ReloadRefused);
    }

    fn take_over(&mut self, mut fresh: Fresh, now: Time) {
        for text in fresh.config.warnings.iter().map(ToString::to_string).chain(fresh.compiled.problems) {
            warn!("{text}");
        }
        for key in needs_restart(&self.config, &fresh.config) {
            warn!("{key} has changed: this takes effect with a restart of har");
        }
        self.change_listeners(fresh.listening);
        keep_in_place(&mut fresh.config, &self.config);
        self.config = Arc::new(fresh.config);
        self.catalogue = fresh.catalogue;
        let before: Vec<Arc<str>> = self.roster.specs().map(|spec| Arc::clone(&spec.name)).collect();
        self.roster.configure(fresh.compiled.specs, now);
        self.searches.configure(fresh.compiled.finders, now);
        let discoveries = &self.searches.discoveries;
        self.roster.set_discovering(discoveries.unfinished(), discoveries.failures());
        self.catch_up(&fresh.known);
        if self.crew.configure(&self.config, fresh.follower) {
            warn!("no file lists an upstream server now: the last ones stay in use ({})", shown(self.crew.servers()));
        }
        self.watch_files(now);
        self.loops.keep(&self.crew.tested());
        self.crew.set_looping(self.loops.found());
        self.writer.set_history(self.config.server.history);
        self.ledger.configure(&self.roster);
        self.roster.tick(now);
        self.tables += 1;
        let places: Vec<Option<usize>> = before.iter().map(|name| self.roster.place_of(name)).collect();
        self.tally.begin_table(&places);
        let answers = self.all_answers(now);
        let (servers, looping) = (self.crew.servers().to_vec(), self.loops.found().to_vec());
        (self.link.publish)(Publication::Table { config: Arc::clone(&self.config), answers, servers, looping });
        self.test_loops(now);
        let words = format!("{TAKEN}{}", in_names(self.config.names.len()));
        self.ledger.event(Some(Event::new(now, EventKind::Daemon, words)));
        self.write_everything(now);
    }
}

/// Has the names that stay be those that are there already. What was made while the file was read stands between much
/// that is gone by now, and would keep its pages.
fn keep_in_place(fresh: &mut Config, running: &Config) {
    let known: HashSet<&HostName> = running.names.iter().map(|name| &name.name).collect();
    for name in &mut fresh.names {
        if let Some(&known) = known.get(&name.name) {
            name.name = known.clone();
        }
    }
}

/// The event of a configuration that was not taken over, in one line.
fn refusal(report: &Report, now: Time) -> Event {
    let first = report.0.first().map(ToString::to_string).unwrap_or_default();
    let first = first.lines().next().unwrap_or_default();
    let more = match report.0.len() {
        0 | 1 => String::new(),
        count => format!(" (the first of {count} problems)"),
    };
    Event::new(now, EventKind::Daemon, format!("{REFUSED}{first}{more}"))
}

/// Keys whose change cannot take effect in a running daemon: what the start alone opens or gives up.
fn needs_restart(running: &Config, fresh: &Config) -> Vec<&'static str> {
    let (a, b) = (&running.server, &fresh.server);
    let mut keys = Vec::new();
    if a.state != b.state {
        keys.push("server.state");
    }
    if a.user != b.user {
        keys.push("server.user");
    }
    keys
}

#[cfg(test)]
mod tests;
