//! `[defaults]` and `[names]`: the keys of a name, who wins, and what does not go together.
//!
//! The same [`Settings`] are read for `[defaults]` and for a name; a value comes from the candidate, else the
//! name, else `[defaults]`, else `defaults.rs`. What only shows when all of them are put together (a time limit
//! above the interval in effect, for one) is reported at the stated value that causes it.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::check::{self, Definition, For, TIMEOUTS};
use super::discover::{self, Discover, Template};
use super::table::{At, Item, Key, Problems, Spot, Table};
use super::values::show_duration;
use super::{Candidate, Mode, Name, OtherTypes, Target, defaults, hosts};
use crate::dns::HostName;
use crate::health::Host;
use crate::health::discovery::Found;
use crate::health::{AllDown, DualStack, LatencyOf, Pace, Policy, Select, Spread, Thresholds};

/// Largest TTL, seconds: a day. What har answers changes faster than anyone should keep it.
pub(super) const MAX_TTL: u32 = 86_400;

/// A day.
const DAY: Duration = Duration::from_secs(86_400);
/// Intervals between checks; below 10 ms a check is a load test.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
/// Waits that may be zero.
const WAITS: RangeInclusive<Duration> = Duration::ZERO..=DAY;
/// Latencies to compare with.
const LATENCIES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// `resolve_interval`: a look-up more often than this is a load test of the upstream.
const LOOK_UPS: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;
/// `resolve_hold`: zero to thirty days.
const HOLDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400);
/// Results in a row that can be asked for.
const ROWS: RangeInclusive<u32> = 1..=1000;
/// Most tiers.
const PRIORITIES: RangeInclusive<u32> = 0..=65_535;
/// Shares of a candidate.
const WEIGHTS: RangeInclusive<u32> = 0..=100;

/// The keys of a name as far as they were stated.
#[derive(Default)]
pub(super) struct Settings {
    mode: Option<Mode>,
    select: Option<Select>,
    latency: Option<LatencyOf>,
    within: Option<At<Duration>>,
    spread: Option<Spread>,
    hysteresis: Option<f64>,
    max_latency: Option<At<Duration>>,
    answers: Option<usize>,
    min_up: Option<usize>,
    panic_below: Option<f64>,
    dual_stack: Option<DualStack>,
    when_all_down: Option<At<AllDown>>,
    ttl: Option<u32>,
    other_types: Option<OtherTypes>,
    interval: Option<At<Duration>>,
    fast_interval: Option<At<Duration>>,
    down_interval: Option<At<Duration>>,
    idle_after: Option<At<Duration>>,
    idle_interval: Option<At<Duration>>,
    timeout: Option<At<Duration>>,
    rise: Option<u32>,
    fall: Option<u32>,
    min_success: Option<f64>,
    resolve_interval: Option<At<Duration>>,
    resolve_hold: Option<At<Duration>>,
    /// `Some(None)` = stated as `""`.
    drain_record: Option<Option<HostName>>,
    check: Option<Arc<[Definition]>>,
    /// A check is there but no good: that it is missing need not be said.
    check_failed: bool,
}

impl Settings {
    /// Reads the keys that `[defaults]` and a name share.
    pub fn read(table: &mut Table<'_>, folder: &Path, problems: &mut Problems) -> Settings {
        let check_item = table.take("check");
        let check: Option<Arc<[Definition]>> =
            check_item.and_then(|item| check::read(&item, folder, problems)).map(Arc::from);
        let p = problems;
        Settings {
            check_failed: check_item.is_some() && check.is_none(),
            check,
            mode: chosen(table.choice(p, "mode", &[("answer", Mode::Answer), ("observe", Mode::Observe)])),
            select: chosen(table.choice(p, "select", SELECTS)),
            latency: chosen(table.choice(p, "latency", LATENCY_WORDS)),
            within: table.duration(p, "within", LATENCIES),
            spread: chosen(table.choice(p, "spread", &[("rotate", Spread::Rotate), ("host", Spread::Host)])),
            hysteresis: table.share(p, "hysteresis"),
            max_latency: table.duration(p, "max_latency", LATENCIES),
            answers: table.integer(p, "answers", 1..=16),
            min_up: table.integer(p, "min_up", 1..=1000),
            panic_below: table.share(p, "panic_below"),
            dual_stack: chosen(table.choice(p, "dual_stack", DUAL_STACKS)),
            when_all_down: table.choice(p, "when_all_down", ALL_DOWNS),
            ttl: table.integer(p, "ttl", 0..=MAX_TTL),
            other_types: chosen(table.choice(p, "other_types", OTHER_TYPES)),
            interval: table.duration(p, "interval", INTERVALS),
            fast_interval: table.duration(p, "fast_interval", INTERVALS),
            down_interval: table.duration(p, "down_interval", INTERVALS),
            idle_after: table.duration(p, "idle_after", WAITS),
            idle_interval: table.duration(p, "idle_interval", INTERVALS),
            timeout: table.duration(p, "timeout", TIMEOUTS),
            rise: table.integer(p, "rise", ROWS),
            fall: table.integer(p, "fall", ROWS),
            min_success: table.share(p, "min_success"),
            resolve_interval: table.duration(p, "resolve_interval", LOOK_UPS),
            resolve_hold: table.duration(p, "resolve_hold", HOLDS),
            drain_record: drain_record(table, p),
        }
    }
}

/// Words of `select`.
const SELECTS: &[(&str, Select)] = &[
    ("lowest-latency", Select::LowestLatency),
    ("latency-group", Select::LatencyGroup),
    ("round-robin", Select::RoundRobin),
    ("failover", Select::Failover),
    ("all", Select::All),
];
/// Words of `latency`.
const LATENCY_WORDS: &[(&str, LatencyOf)] =
    &[("total", LatencyOf::Total), ("first-byte", LatencyOf::FirstByte), ("connect", LatencyOf::Connect)];
/// Words of `dual_stack`.
const DUAL_STACKS: &[(&str, DualStack)] = &[("independent", DualStack::Independent), ("fastest", DualStack::Fastest)];
/// Words of `when_all_down`.
const ALL_DOWNS: &[(&str, AllDown)] = &[
    ("all", AllDown::All),
    ("last-good", AllDown::LastGood),
    ("forward", AllDown::Forward),
    ("servfail", AllDown::Servfail),
    ("fallback", AllDown::Fallback),
];
/// Words of `other_types`.
const OTHER_TYPES: &[(&str, OtherTypes)] =
    &[("forward", OtherTypes::Forward), ("no-hints", OtherTypes::NoHints), ("nodata", OtherTypes::NoData)];

/// The value without its place.
fn chosen<T>(value: Option<At<T>>) -> Option<T> {
    value.map(|at| at.value)
}

/// Reads `drain_record`.
fn drain_record(table: &mut Table<'_>, problems: &mut Problems) -> Option<Option<HostName>> {
    let item = table.take("drain_record")?;
    let text = item.text(problems, "the name of a TXT record")?.value;
    if text.is_empty() {
        return Some(None);
    }
    match text.parse::<HostName>() {
        Ok(name) if !name.is_wildcard() => Some(Some(name)),
        Ok(_) => {
            item.wrong(problems, "the name of a TXT record; a wildcard cannot be looked up");
            None
        }
        Err(reason) => {
            item.wrong(problems, format_args!("the name of a TXT record; {reason}"));
            None
        }
    }
}

/// What every name is read with, and what was read so far.
pub(super) struct Names<'a> {
    /// `[defaults]`; `None` when the main file could not be read that far.
    pub general: Option<&'a Settings>,
    /// `server.ttl`
    pub ttl: u32,
    /// Relative paths start here.
    pub folder: &'a Path,
    /// The names, complete.
    pub names: Vec<Name>,
    /// Where each stands.
    pub seen: HashMap<HostName, Spot>,
    /// What names have in common.
    pub common: Common,
}

/// Values that many names have in common, each kept once.
#[derive(Default)]
pub(super) struct Common {
    policies: Recent<Policy>,
    thresholds: Recent<Thresholds>,
    paces: Recent<Pace>,
}

/// The values that came last. Names have few different ones; a file in which all differ costs no search.
struct Recent<T>(VecDeque<Arc<T>>);

/// Values that are compared with at most.
const RECENT: usize = 16;

impl<T> Default for Recent<T> {
    fn default() -> Recent<T> {
        Recent(VecDeque::new())
    }
}

impl<T: PartialEq> Recent<T> {
    /// The value, shared with the last equal one.
    fn share(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.0.iter().find(|known| ***known == value) {
            return Arc::clone(known);
        }
        self.0.truncate(RECENT - 1);
        let new = Arc::new(value);
        self.0.push_front(Arc::clone(&new));
        new
    }
}

/// A name's own settings beside the general ones.
struct InEffect<'a> {
    own: &'a Settings,
    general: &'a Settings,
}

impl Names<'_> {
    /// Reads the table `names` of one file.
    pub fn read(&mut self, item: &Item<'_>, problems: &mut Problems) {
        let Some(mut table) = Table::open(item, problems, "a table of names") else { return };
        for (key, item) in table.take_all() {
            let name = self.read_key(&key, &item, problems);
            self.read_name(name, key.spot, &item, problems);
        }
    }

    /// Reads the name itself.
    fn read_key(&mut self, key: &At<&str>, item: &Item<'_>, problems: &mut Problems) -> Option<HostName> {
        let name: HostName = match key.value.parse() {
            Ok(name) => name,
            Err(reason) => {
                let message = format!(
                    "found {:?}; allowed: a host name, or a wildcard such as \"*.apps.example.com\"; {reason}",
                    key.value
                );
                problems.error(key.spot, item.key, message);
                return None;
            }
        };
        if let Some(reason) = hosts::never_answered(&name) {
            problems.error(key.spot, item.key, reason);
            return None;
        }
        if let Some(&first) = self.seen.get(&name) {
            let place = problems.place(first);
            problems.error(key.spot, item.key, format!("the name {name} is already configured at {place}"));
            return None;
        }
        self.seen.insert(name.clone(), key.spot);
        Some(name)
    }

    /// Reads the table of one name; with `name` = `None` only to find more problems.
    fn read_name(&mut self, name: Option<HostName>, spot: Spot, item: &Item<'_>, problems: &mut Problems) {
        if hosts::unquoted(item, problems) {
            return;
        }
        let Some(mut table) = Table::open(item, problems, "a table with candidates and check") else { return };
        let own = Settings::read(&mut table, self.folder, problems);
        let listed = table.take("candidates");
        let fallback_item = table.take("fallback");
        let fallback = fallback_item.map(|item| hosts::read_targets(&item, problems)).unwrap_or_default();
        let no_fallback = fallback_item.is_none_or(|item| item.value.as_array().is_some_and(|list| list.is_empty()));
        let discover_item = table.take("discover");
        let source = discover_item.and_then(|item| discover::read(&item, self.folder, problems));
        table.finish(problems);
        let unknown = Settings::default();
        let effect = InEffect { own: &own, general: self.general.unwrap_or(&unknown) };
        check_fast(&own, &item.key, problems);
        if own.check_failed || listed.is_none() && discover_item.is_none() {
            // No check will be built that would bring it up.
            effect.timeout(None, &item.key, problems);
        }
        if let Some(item) = fallback_item.filter(|_| !effect.falls_back() && !fallback.is_empty()) {
            let message = "it is never used: that takes when_all_down = \"fallback\"";
            problems.warn(item.spot, item.key, message);
        }
        if effect.falls_back() && no_fallback {
            let at = own.when_all_down.map_or(spot, |at| at.spot);
            let message = "when_all_down = \"fallback\" needs a list fallback of addresses or names";
            problems.error(at, Key::In(&item.key, "when_all_down"), message);
        }
        if listed.is_none() && discover_item.is_none() {
            let message = "candidates are missing; allowed: a list of host names and addresses, or discover";
            problems.error(spot, item.key, message);
            return;
        }
        let shown = name.as_ref().map(HostName::to_string).unwrap_or_default();
        let reader = Candidates {
            name: &shown,
            key: &item.key,
            spot,
            effect: &effect,
            folder: self.folder,
            defaults_known: self.general.is_some(),
        };
        let candidates = listed.map(|listed| reader.read(&listed, problems)).unwrap_or_default();
        let listed = candidates.len();
        let discover = source.and_then(|source| {
            let template = reader.template(problems)?;
            Some(Box::new(Discover { source, template, listed }))
        });
        if let Some(name) = name.filter(|_| listed > 0 || discover.is_some()) {
            self.names.push(Name { discover, ..effect.name(name, candidates, fallback, self.ttl, &mut self.common) });
        }
    }
}

/// Reads the candidates of one name.
struct Candidates<'a> {
    /// The name as text; empty when it is no good itself.
    name: &'a str,
    /// The path of the name's table.
    key: &'a Key<'a>,
    /// Where the name stands.
    spot: Spot,
    /// The settings of the name.
    effect: &'a InEffect<'a>,
    /// Relative paths start here.
    folder: &'a Path,
    /// Whether `[defaults]` could be read.
    defaults_known: bool,
}

impl Candidates<'_> {
    /// Reads the list.
    fn read(&self, listed: &Item<'_>, problems: &mut Problems) -> Vec<Candidate> {
        const ALLOWED: &str = "a list of host names, addresses and tables with a host";
        let Some(items) = listed.list(problems, ALLOWED) else { return Vec::new() };
        if items.is_empty() {
            listed.wrong(problems, ALLOWED);
        }
        let mut candidates: Vec<Candidate> = Vec::with_capacity(items.len());
        let mut first: HashMap<Target, Spot> = HashMap::with_capacity(items.len());
        for item in &items {
            let Some((candidate, spot)) = self.read_one(item, problems) else { continue };
            match first.insert(candidate.host.clone(), spot) {
                Some(earlier) => {
                    let place = problems.place(earlier);
                    let message = format!("the candidate {} is already listed at {place}", candidate.host);
                    problems.error(spot, item.key, message);
                }
                None => candidates.push(candidate),
            }
        }
        candidates
    }

    /// Reads a candidate of either form.
    fn read_one(&self, item: &Item<'_>, problems: &mut Problems) -> Option<(Candidate, Spot)> {
        let (mut priority, mut weight) = (defaults::PRIORITY, defaults::WEIGHT);
        if item.value.as_table().is_none() {
            let host = hosts::read_target(item, problems)?;
            let checks = self.checks(None, &host, problems);
            return Some((Candidate { host, priority, weight, checks }, item.spot));
        }
        let mut table = Table::open(item, problems, "")?;
        let host_item = table.take("host");
        let host = host_item.and_then(|item| hosts::read_target(&item, problems));
        if host_item.is_none() {
            problems.error(item.spot, item.key, "host is missing; allowed: a host name or the address of one host");
        }
        priority = table.integer(problems, "priority", PRIORITIES).unwrap_or(priority);
        weight = table.integer(problems, "weight", WEIGHTS).unwrap_or(weight);
        let check_item = table.take("check");
        let own = check_item.and_then(|item| check::read(&item, self.folder, problems));
        table.finish(problems);
        let (host, host_item) = (host?, host_item?);
        let checks = match (check_item, own) {
            (Some(_), None) => Arc::default(),
            (_, own) => self.checks(own.as_deref(), &host, problems),
        };
        Some((Candidate { host, priority, weight, checks }, host_item.spot))
    }

    /// How what is found is checked; tried with a candidate, so that what is wrong shows here.
    fn template(&self, problems: &mut Problems) -> Option<Template> {
        let settings = self.effect;
        let general = if settings.own.check_failed { None } else { settings.general.check.as_ref() };
        let host = Target::Name("found.invalid".parse().ok()?);
        let Some(checks) = settings.own.check.as_ref().or(general) else {
            // Says that a check is missing.
            self.checks(None, &host, problems);
            return None;
        };
        let timeouts: Vec<Duration> =
            checks.iter().map(|check| settings.timeout(Some(check), self.key, problems)).collect();
        let template = Template::new(self.name, Arc::clone(checks), timeouts);
        let trial = Found { host: Host::Name("found.invalid".into()), port: Some(1), priority: 1, weight: 1 };
        template.build(&trial, problems).map(|_| template)
    }

    /// The checks of one candidate: its own, else the name's, else the general ones.
    fn checks(&self, own: Option<&[Definition]>, host: &Target, problems: &mut Problems) -> Arc<Vec<super::Check>> {
        let settings = self.effect;
        let named = settings.own.check.as_deref();
        let general = if settings.own.check_failed { None } else { settings.general.check.as_deref() };
        let Some(definitions) = own.or(named).or(general) else {
            let failed = settings.own.check_failed || settings.general.check_failed;
            if !failed && self.defaults_known {
                let message = "check is missing; allowed: \"http://…\", \"https://…\", \"tcp:PORT\", \"none\" (always up), a table with a type, or a list of these";
                problems.error(self.spot, self.key, message);
            }
            return Arc::default();
        };
        // Most checks say nothing of their candidate: fifty thousand texts that nobody reads.
        let host_text = if definitions.iter().any(Definition::wants_text) { host.to_string() } else { String::new() };
        let of = For { name: self.name, host, host_text: &host_text, port: None };
        let build = |definition: &Definition| {
            let timeout = settings.timeout(Some(definition), self.key, problems);
            definition.build(of, timeout, problems)
        };
        let checks = definitions.iter().filter_map(build).collect();
        problems.share(checks)
    }
}

/// The first of three that is there.
fn pick<T>(own: Option<T>, general: Option<T>, default: T) -> T {
    own.or(general).unwrap_or(default)
}

impl InEffect<'_> {
    /// A duration in effect.
    fn duration(&self, of: impl Fn(&Settings) -> Option<At<Duration>>, default: Duration) -> Duration {
        of(self.own).or(of(self.general)).map_or(default, |at| at.value)
    }

    /// The interval in effect.
    fn interval(&self) -> Duration {
        self.duration(|settings| settings.interval, defaults::INTERVAL)
    }

    /// Whether the all-down rule in effect is the fallback list.
    fn falls_back(&self) -> bool {
        let rule = self.own.when_all_down.or(self.general.when_all_down);
        rule.is_some_and(|at| at.value == AllDown::Fallback)
    }

    /// The time limit of a check, reported when it does not fit the interval in effect.
    fn timeout(&self, definition: Option<&Definition>, key: &Key<'_>, problems: &mut Problems) -> Duration {
        let interval = self.own.interval.or(self.general.interval);
        let in_effect = self.interval();
        let of_check = definition.filter(|definition| definition.timeout.is_some());
        let stated = of_check.and_then(|definition| definition.timeout);
        let Some(stated) = stated.or(self.own.timeout).or(self.general.timeout) else {
            return defaults::TIMEOUT.min(in_effect);
        };
        if stated.value > in_effect {
            let (timeout, shown) = (show_duration(stated.value), show_duration(in_effect));
            let key = if let Some(definition) = of_check {
                format!("{}.timeout", definition.key)
            } else if self.own.timeout.is_some() {
                Key::In(key, "timeout").to_string()
            } else {
                "defaults.timeout".to_owned()
            };
            match interval {
                Some(interval) => {
                    let place = problems.place(interval.spot);
                    let message =
                        format!("found {timeout:?}; allowed: up to the interval in effect, {shown} ({place})");
                    problems.error(stated.spot, key, message);
                }
                None => {
                    let message = format!("{timeout} is above the default interval, {shown}: slow checks run late");
                    problems.warn(stated.spot, key, message);
                }
            }
        }
        stated.value
    }

    /// Everything put together.
    fn name(
        &self,
        name: HostName,
        candidates: Vec<Candidate>,
        fallback: Vec<Target>,
        ttl: u32,
        common: &mut Common,
    ) -> Name {
        let (own, general) = (self.own, self.general);
        let interval = self.interval();
        Name {
            name,
            mode: pick(own.mode, general.mode, defaults::MODE),
            policy: common.policies.share(self.policy()),
            thresholds: common.thresholds.share(Thresholds {
                rise: pick(own.rise, general.rise, defaults::RISE),
                fall: pick(own.fall, general.fall, defaults::FALL),
                min_success: pick(own.min_success, general.min_success, defaults::MIN_SUCCESS),
            }),
            pace: common.paces.share(Pace {
                interval,
                fast_interval: self.duration(|s| s.fast_interval, defaults::FAST_INTERVAL).min(interval),
                down_interval: self.duration(|s| s.down_interval, interval),
                idle_after: self.duration(|s| s.idle_after, defaults::IDLE_AFTER),
                idle_interval: self.duration(|s| s.idle_interval, defaults::IDLE_INTERVAL),
            }),
            candidates,
            discover: None,
            fallback,
            ttl: pick(own.ttl, general.ttl, ttl),
            other_types: pick(own.other_types, general.other_types, defaults::OTHER_TYPES),
            resolve_interval: self.duration(|s| s.resolve_interval, defaults::RESOLVE_INTERVAL),
            resolve_hold: self.duration(|s| s.resolve_hold, defaults::RESOLVE_HOLD),
            drain_record: pick(own.drain_record.clone(), general.drain_record.clone(), None),
        }
    }

    /// How candidates are preferred.
    fn policy(&self) -> Policy {
        let (own, general) = (self.own, self.general);
        Policy {
            select: pick(own.select, general.select, defaults::SELECT),
            latency: pick(own.latency, general.latency, defaults::LATENCY),
            within: self.duration(|s| s.within, defaults::WITHIN),
            spread: pick(own.spread, general.spread, defaults::SPREAD),
            hysteresis: pick(own.hysteresis, general.hysteresis, defaults::HYSTERESIS),
            max_latency: self.duration(|s| s.max_latency, defaults::MAX_LATENCY),
            answers: pick(own.answers, general.answers, defaults::ANSWERS),
            min_up: pick(own.min_up, general.min_up, defaults::MIN_UP),
            panic_below: pick(own.panic_below, general.panic_below, defaults::PANIC_BELOW),
            dual_stack: pick(own.dual_stack, general.dual_stack, defaults::DUAL_STACK),
            when_all_down: pick(chosen(own.when_all_down), chosen(general.when_all_down), defaults::WHEN_ALL_DOWN),
        }
    }
}

/// Reports a `fast_interval` above the `interval` beside it; elsewhere it is cut to the interval in effect.
pub(super) fn check_fast(settings: &Settings, key: &Key<'_>, problems: &mut Problems) {
    if let (Some(fast), Some(interval)) = (settings.fast_interval, settings.interval)
        && fast.value > interval.value
    {
        let (found, most) = (show_duration(fast.value), show_duration(interval.value));
        let message = format!("found {found:?}; allowed: up to the interval stated beside it, {most:?}");
        problems.error(fast.spot, Key::In(key, "fast_interval"), message);
    }
}
