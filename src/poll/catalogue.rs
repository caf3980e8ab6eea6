//! The configuration as `health` and the workers need it: name specifications, and a runner for every check.
//!
//! Equal checks get the same number, whatever name they stand in and however often the configuration is
//! loaded again: that is how `health` shares them and how a reload knows what did not change. Numbers are
//! given out once and never again; a check that no configuration holds any more loses its runner.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::checks::{Runner, Unprepared};
use super::discovery::Finder;
use super::trust::SystemRoots;
use crate::config::{Check, CheckKind, Config, Name, Target};
use crate::dns::HostName;
use crate::health::{CandidateSpec, CheckRef, Host, NameSpec};

/// Every check there is, numbered.
#[derive(Clone, Default)]
pub struct Catalogue {
    numbers: HashMap<Check, u32>,
    entries: HashMap<u32, Entry>,
    next: u32,
}

/// Lists of checks as `health` knows them, by where the list is in the configuration: candidates share equal ones
/// there. With the list itself, so that no other one comes to be in its place.
type Lists = HashMap<*const Check, (Arc<Vec<Check>>, Arc<Vec<CheckRef>>)>;

#[derive(Clone)]
struct Entry {
    definition: Arc<str>,
    runner: Arc<Runner>,
}

/// What a configuration came to.
pub struct Compiled {
    /// One for each configured name, in the configuration's order.
    pub specs: Vec<NameSpec>,
    /// Checks that cannot be run as they stand (an unreadable certificate, say), in words.
    pub problems: Vec<String>,
    /// For the names whose candidates are found.
    pub finders: Vec<Finder>,
}

impl Catalogue {
    /// Numbers the checks of a configuration, prepares their runners and forgets those it no longer has.
    ///
    /// Every runner is made anew, since the certificates it reads may have changed. One that cannot be made fails
    /// each time with the reason as a fault of this host: one unreadable file takes no candidate down.
    ///
    /// Takes the candidates out of the configuration, except those of names that may be fitted to what is found: they
    /// are in the specifications from now on, and there are fifty thousand of them.
    pub fn compile(&mut self, config: &mut Config) -> Compiled {
        let mut problems = Vec::new();
        let roots = SystemRoots::new();
        let before = std::mem::take(&mut self.entries);
        let mut make = |check: &Check| Runner::new(check, &roots);
        let mut lists = Lists::new();
        let mut spec = |name: &mut Name| {
            let spec = self.spec(name, &mut lists, &before, &mut make, &mut problems);
            if name.discover.is_none() {
                name.candidates = Vec::new();
            }
            spec
        };
        let specs = config.names.iter_mut().map(&mut spec).collect();
        let entries = &self.entries;
        self.numbers.retain(|_, number| entries.contains_key(number));
        let finders = config.names.iter().filter_map(|name| Finder::new(name, &roots)).collect();
        Compiled { specs, problems, finders }
    }

    /// The same for one name whose candidates changed; runners of checks that are new are among the given ones.
    pub fn compile_name(
        &mut self,
        name: &Name,
        mut runners: HashMap<Check, Result<Runner, Unprepared>>,
    ) -> (NameSpec, Vec<String>) {
        let mut problems = Vec::new();
        let mut make = |check: &Check| {
            runners.remove(check).unwrap_or_else(|| Err(Unprepared("the check could not be prepared".to_owned())))
        };
        let spec = self.spec(name, &mut Lists::new(), &HashMap::new(), &mut make, &mut problems);
        (spec, problems)
    }

    /// Forgets the checks that are not among these numbers.
    pub fn retain(&mut self, used: &HashSet<u32>) {
        self.entries.retain(|number, _| used.contains(number));
        self.numbers.retain(|_, number| used.contains(number));
    }

    fn spec(
        &mut self,
        name: &Name,
        lists: &mut Lists,
        before: &HashMap<u32, Entry>,
        make: &mut dyn FnMut(&Check) -> Result<Runner, Unprepared>,
        problems: &mut Vec<String>,
    ) -> NameSpec {
        NameSpec {
            name: name.name.to_string().into(),
            policy: Arc::clone(&name.policy),
            thresholds: Arc::clone(&name.thresholds),
            pace: Arc::clone(&name.pace),
            resolve_interval: name.resolve_interval,
            resolve_hold: name.resolve_hold,
            candidates: name
                .candidates
                .iter()
                .map(|candidate| CandidateSpec {
                    host: host(&candidate.host),
                    priority: candidate.priority,
                    weight: candidate.weight,
                    checks: {
                        let (_, refs) = lists.entry(candidate.checks.as_ptr()).or_insert_with(|| {
                            let refer = |check| self.refer(check, before, make, problems);
                            (Arc::clone(&candidate.checks), Arc::new(candidate.checks.iter().map(refer).collect()))
                        });
                        Arc::clone(refs)
                    },
                })
                .collect(),
            fallback: name.fallback.iter().map(host).collect(),
            drain_record: name.drain_record.as_ref().map(|record| record.to_string().into()),
        }
    }

    /// What runs the check of that number.
    pub fn runner(&self, number: u32) -> Option<Arc<Runner>> {
        self.entries.get(&number).map(|entry| Arc::clone(&entry.runner))
    }

    /// The check in words, without secrets.
    pub fn definition(&self, number: u32) -> Arc<str> {
        self.entries.get(&number).map_or_else(|| "".into(), |entry| Arc::clone(&entry.definition))
    }

    fn refer(
        &mut self,
        check: &Check,
        before: &HashMap<u32, Entry>,
        make: &mut dyn FnMut(&Check) -> Result<Runner, Unprepared>,
        problems: &mut Vec<String>,
    ) -> CheckRef {
        let number = match self.numbers.get(check) {
            Some(&number) => number,
            None => {
                let number = self.next;
                self.next += 1;
                self.numbers.insert(check.clone(), number);
                number
            }
        };
        let entry = self.entries.entry(number).or_insert_with(|| {
            let definition =
                before.get(&number).map_or_else(|| check.definition().into(), |had| Arc::clone(&had.definition));
            let runner = make(check).unwrap_or_else(|error| {
                problems.push(format!("check {definition}: {error}"));
                Runner::unprepared(error)
            });
            Entry { definition, runner: Arc::new(runner) }
        });
        CheckRef {
            id: number,
            definition: Arc::clone(&entry.definition),
            is_none: check.kind == CheckKind::None,
            // What a command does is unknown: its failures neither blame nor acquit this host's network.
            own_address: check.address.is_none() && !matches!(check.kind, CheckKind::Exec(_)),
            exclusive: check.wants_the_one(),
        }
    }
}

/// A configured target as `health` names it.
pub fn host(target: &Target) -> Host {
    match target {
        Target::Name(name) => Host::Name(name.to_string().into()),
        Target::Address(address) => Host::Address(*address),
    }
}

/// A host name that somebody wrote as the candidates of that name are kept: A-labels in lower case without a trailing
/// dot. Nothing of a text that no candidate can be called.
pub fn read_name(text: &str) -> Option<String> {
    text.parse::<HostName>().ok().filter(|name| !name.is_wildcard()).map(|name| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_candidates_are_kept() {
        for (text, name) in [
            ("East-1.Example.com.", Some("east-1.example.com")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("a..example", None),
            ("*.example", None),
            ("", None),
        ] {
            assert_eq!(read_name(text).as_deref(), name, "{text}");
        }
    }
}
