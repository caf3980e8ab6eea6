//! What operators and drain records say about candidates: drained, held up, pinned, bypassed.
//!
//! A row for one name beats a row for all names; among rows of one reach a drain beats a forced state. A
//! drain record speaks like a row for all names, so that a row for the name on this host can overrule it.
//! The real state of an address is never touched: an effect only masks it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::events::utc;
use super::rank::Input;
use super::{Family, Host, Override, OverrideKind, State, Time};

/// Strings of one drain record that are read at most: more is a mistake in the zone.
const MAX_DRAIN_STRINGS: usize = 1000;

/// Targets of a drain record named in one event at most.
const TOLD_TARGETS: usize = 8;

/// In the reason of a bypassed name, in front of what would be the reason without.
pub(super) const SEAM: &str = "; without that: ";

/// The reason of an answer without what a bypass put in front of it.
pub fn own_reason(reason: &str) -> &str {
    reason.rsplit_once(SEAM).map_or(reason, |(_, own)| own)
}

/// What is said about one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Taken out: until when and by whom, in words.
    pub drained: Option<String>,
    /// Held up.
    pub forced: bool,
}

/// The rows that have not expired, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    rows: Vec<Override>,
    by_target: HashMap<Target, Vec<usize>>,
}

/// What a row is about, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address, in any of its spellings.
    Address(IpAddr),
    /// A candidate's name, lower case, without a trailing dot.
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Address(address) => address.fmt(f),
            Target::Name(name) => f.write_str(name),
        }
    }
}

impl Target {
    /// Reads a row's target as an operator types it.
    pub fn parse(text: &str) -> Target {
        let text = text.trim();
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        IpAddr::from_str(bare)
            .map_or_else(|_| Target::Name(normal_name(text)), |address| Target::Address(address.to_canonical()))
    }

    /// Whether it means this candidate or this address of it.
    pub fn matches(&self, host: &Host, address: IpAddr) -> bool {
        match self {
            Target::Address(target) => *target == address,
            Target::Name(target) => matches!(host, Host::Name(name) if **name == **target),
        }
    }
}

impl Overrides {
    /// The rows that hold at `now`.
    pub fn new(rows: Vec<Override>, now: Time) -> Overrides {
        let mut overrides = Overrides::default();
        for mut row in rows {
            if row.expires_at.is_some_and(|end| end <= now) {
                continue;
            }
            row.name = row.name.as_deref().map(normal_name);
            if let Some(target) = row.target.as_deref().map(Target::parse) {
                overrides.by_target.entry(target).or_default().push(overrides.rows.len());
            }
            overrides.rows.push(row);
        }
        overrides
    }

    /// The rows that hold.
    pub fn rows(&self) -> &[Override] {
        &self.rows
    }

    /// When the first of them ends by itself.
    pub fn next_expiry(&self) -> Option<Time> {
        self.rows.iter().filter_map(|row| row.expires_at).min()
    }

    /// What the rows and a drain record say about one endpoint of a name.
    pub fn effect(&self, name: &str, host: &Host, address: IpAddr, record: Option<&DrainList>) -> Effect {
        let of_row = |row: &Override| match row.kind {
            OverrideKind::Drain => Effect { drained: Some(row_words(row)), forced: false },
            _ => Effect { drained: None, forced: true },
        };
        if let Some(row) = self.word(name, host, address, true) {
            return of_row(row);
        }
        let general = self.word(name, host, address, false);
        match record.and_then(|record| record.words(host, address)) {
            Some(words) if general.is_none_or(|row| row.kind != OverrideKind::Drain) => {
                Effect { drained: Some(words), forced: false }
            }
            _ => general.map_or_else(Effect::default, of_row),
        }
    }

    /// The row that has the last word on an endpoint, of those for the name or of those for all: a drain before a forced
    /// state, the newest of each.
    fn word(&self, name: &str, host: &Host, address: IpAddr, own: bool) -> Option<&Override> {
        let mut targets = vec![Target::Address(address)];
        if let Host::Name(host) = host {
            targets.push(Target::Name(host.to_string()));
        }
        let rows: Vec<&Override> = targets
            .iter()
            .filter_map(|target| self.by_target.get(target))
            .flatten()
            .map(|&at| &self.rows[at])
            .filter(|row| if own { row.name.as_deref() == Some(name) } else { row.name.is_none() })
            .collect();
        let find = |kind: OverrideKind| rows.iter().rev().find(|row| row.kind == kind).copied();
        find(OverrideKind::Drain).or_else(|| find(OverrideKind::ForceUp))
    }

    /// The row that goes before `row` for a name, so that this one does nothing for it. `inputs` are the name's addresses
    /// of both families.
    pub fn above<'a>(&'a self, row: &Override, name: &str, inputs: &[Input<'_>]) -> Option<&'a Override> {
        if row.kind == OverrideKind::Bypass {
            return None;
        }
        if let Some(bypass) = self.bypass(name) {
            return Some(bypass);
        }
        if row.kind == OverrideKind::Pin {
            return self.pins(name).next().map(|(first, _)| first).filter(|first| first.id != row.id);
        }
        let target = Target::parse(row.target.as_deref()?);
        let hit = || inputs.iter().filter(|input| target.matches(input.host, input.address));
        hit().next()?;
        let word = |input: &Input<'_>| {
            let [own, general] = [true, false].map(|own| self.word(name, input.host, input.address, own));
            own.or(general)
        };
        if let Some(other) = hit().filter_map(word).find(|other| other.kind != row.kind) {
            return Some(other);
        }
        let (addresses, pin) = self.pin(name, inputs, usize::MAX)?;
        let answered = hit().any(|input| addresses.iter().flatten().any(|address| *address == input.address));
        // What is answered all the same goes on in spite of a drain; to hold it up changes nothing of a pin.
        (answered || row.kind == OverrideKind::ForceUp).then_some(pin)
    }

    /// The pins of a name: a row for the name before one for all, the newest first.
    fn pins(&self, name: &str) -> impl Iterator<Item = (&Override, Target)> {
        let mut pins: Vec<&Override> = self.of_kind(OverrideKind::Pin, name).collect();
        pins.sort_by_key(|row| std::cmp::Reverse((row.name.is_some(), row.id)));
        pins.into_iter().filter_map(|row| Some((row, Target::parse(row.target.as_deref()?))))
    }

    /// The addresses of the pin that holds for a name, by family ([`Family::BOTH`]) and `answers` of each at most, and
    /// its words. `inputs` are the name's addresses of both families. Of a host those that are neither drained
    /// nor down are pinned, if there are any; an address is pinned whatever is known of it, and one that is no
    /// candidate's too, in an emergency.
    pub fn pinned(&self, name: &str, inputs: &[Input<'_>], answers: usize) -> Option<([Vec<IpAddr>; 2], String)> {
        let (addresses, row) = self.pin(name, inputs, answers)?;
        Some((addresses, format!("to {} {}", row.target.as_deref().unwrap_or_default(), row_words(row))))
    }

    fn pin(&self, name: &str, inputs: &[Input<'_>], answers: usize) -> Option<([Vec<IpAddr>; 2], &Override)> {
        for (row, target) in self.pins(name) {
            let mut own: Vec<&Input<'_>> =
                inputs.iter().filter(|input| target.matches(input.host, input.address)).collect();
            let is_bad = |input: &Input<'_>| input.drained.is_some() || (input.state == State::Down && !input.forced);
            own.sort_by_key(|input| (is_bad(input), input.last_rank.unwrap_or(u32::MAX)));
            let any_better = own.first().is_some_and(|first| !is_bad(first));
            own.retain(|input| !any_better || !is_bad(input));
            let mut addresses: Vec<IpAddr> = Vec::new();
            for input in own {
                if !addresses.contains(&input.address) {
                    addresses.push(input.address);
                }
            }
            if let (Target::Address(address), true, true) = (&target, addresses.is_empty(), row.name.is_some()) {
                addresses.push(*address);
            }
            if addresses.is_empty() {
                continue;
            }
            let of = |family| {
                let own = addresses.iter().copied().filter(|address| Family::of(*address) == family);
                own.take(answers.max(1)).collect()
            };
            return Some((Family::BOTH.map(of), row));
        }
        None
    }

    /// The order that has the name forwarded, if there is one: its own before one for all names.
    pub fn bypass(&self, name: &str) -> Option<&Override> {
        self.of_kind(OverrideKind::Bypass, name).max_by_key(|row| (row.name.is_some(), row.id))
    }

    /// Whether the name is forwarded.
    pub fn bypasses(&self, name: &str) -> bool {
        self.bypass(name).is_some()
    }

    fn of_kind(&self, kind: OverrideKind, name: &str) -> impl Iterator<Item = &Override> {
        self.rows.iter().filter(move |row| row.kind == kind && row.name.as_deref().is_none_or(|row| row == name))
    }
}

/// `until … by …: why` of a row, as far as it says so.
pub fn row_words(row: &Override) -> String {
    let mut words: Vec<String> = Vec::new();
    words.push(row.expires_at.map_or_else(|| "until undone".to_owned(), |end| format!("until {}", utc(end))));
    words.extend(row.created_by.as_deref().map(|who| format!("by {who}")));
    let words = words.join(" ");
    match &row.reason {
        Some(reason) => format!("{words}: {reason}"),
        None => words,
    }
}

/// Lower case, no trailing dot: how names are compared.
fn normal_name(name: &str) -> String {
    name.trim().trim_end_matches('.').to_ascii_lowercase()
}

/// What a drain record lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrainList {
    entries: Vec<(Target, Option<Time>)>,
    record: String,
    /// What the last run knew, until the record was looked up.
    remembered: bool,
}

/// In front of a record's name in the words of what it drains.
const BY_RECORD: &str = "by the record ";

/// Whether these words of what drains an address are those of a drain record.
pub fn is_by_record(words: &str) -> bool {
    words.contains(BY_RECORD)
}

impl DrainList {
    /// Reads the strings of TXT records: `IP=ADDRESS` or `HOST=NAME`, each with an optional
    /// `IpExpires=RFC3339` behind a blank, comma or semicolon, or in the next string of the same record (records
    /// come in any order). What cannot be read is returned beside the list, in words.
    /// `read_name` makes of a host name what a candidate's name is kept as, or nothing of what is none.
    pub fn parse(
        record: &str,
        records: &[Vec<String>],
        read_name: fn(&str) -> Option<String>,
        now: Time,
    ) -> (DrainList, Vec<String>) {
        let mut list = DrainList { record: record.to_owned(), ..DrainList::default() };
        let mut problems = Vec::new();
        let numbered = records.iter().flat_map(|strings| strings.iter().enumerate());
        let mut begin = 0;
        for (place, string) in numbered.take(MAX_DRAIN_STRINGS) {
            if place == 0 {
                begin = list.entries.len();
            }
            if let Err(problem) = list.read(string, begin, read_name) {
                problems.push(format!("{string:?}: {problem}"));
            }
        }
        let strings: usize = records.iter().map(Vec::len).sum();
        if strings > MAX_DRAIN_STRINGS {
            problems.push(format!("everything behind its first {MAX_DRAIN_STRINGS} strings"));
        }
        list.entries.retain(|(_, end)| end.is_none_or(|end| end > now));
        (list, problems)
    }

    /// A list of what the last run knew of a record, still empty.
    pub fn remembered(record: &str) -> DrainList {
        DrainList { record: record.to_owned(), remembered: true, ..DrainList::default() }
    }

    /// Whether it is what the last run knew.
    pub fn is_remembered(&self) -> bool {
        self.remembered
    }

    /// Adds an address that was drained with these words, if they are those of this record.
    pub fn remember(&mut self, words: &str, address: IpAddr, now: Time) {
        let Some((until, record)) = words.split_once(BY_RECORD) else { return };
        if record != self.record {
            return;
        }
        let end = until.trim().strip_prefix("until ").and_then(|text| jiff::Timestamp::from_str(text).ok());
        let end = end.and_then(|end| u64::try_from(end.as_millisecond()).ok()).map(Time);
        if end.is_none_or(|end| end > now) {
            self.entries.push((Target::Address(address), end));
        }
    }

    /// When the first of its entries ends by itself.
    pub fn next_expiry(&self) -> Option<Time> {
        self.entries.iter().filter_map(|(_, end)| *end).min()
    }

    /// Drops what has ended; whether there was any.
    pub fn expire(&mut self, now: Time) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(_, end)| end.is_none_or(|end| end > now));
        self.entries.len() != before
    }

    /// The targets in words: `nothing`, or the first few and how many more there are.
    pub fn words_of_targets(&self) -> String {
        let mut words: Vec<String> =
            self.entries.iter().take(TOLD_TARGETS).map(|(target, _)| target.to_string()).collect();
        match self.entries.len() {
            0 => return "nothing".to_owned(),
            count if count > TOLD_TARGETS => words.push(format!("{} more", count - TOLD_TARGETS)),
            _ => {}
        }
        words.join(", ")
    }

    /// The targets, for telling what came and went.
    pub fn targets(&self) -> HashSet<&Target> {
        self.entries.iter().map(|(target, _)| target).collect()
    }

    fn words(&self, host: &Host, address: IpAddr) -> Option<String> {
        let (_, end) = self.entries.iter().find(|(target, _)| target.matches(host, address))?;
        let until = end.map(|end| format!("until {} ", utc(end))).unwrap_or_default();
        Some(format!("{until}{BY_RECORD}{}", self.record))
    }

    /// Reads one string; `begin` is where the entries of its record begin.
    fn read(&mut self, string: &str, begin: usize, read_name: fn(&str) -> Option<String>) -> Result<(), String> {
        let words = string.split([' ', ',', ';', '\t']).filter(|word| !word.is_empty());
        let mut entry: Option<(Target, Option<Time>)> = None;
        for word in words {
            let (key, value) = word.split_once('=').ok_or("expected IP=ADDRESS or HOST=NAME")?;
            match key.to_ascii_lowercase().as_str() {
                "ip" | "host" if entry.is_some() => return Err("more than one IP or HOST".to_owned()),
                "ip" => {
                    let Target::Address(address) = Target::parse(value) else {
                        return Err(format!("{value:?} is not an address"));
                    };
                    entry = Some((Target::Address(address), None));
                }
                "host" => {
                    let host = match Target::parse(value) {
                        Target::Name(_) => read_name(value).map(Target::Name),
                        address => Some(address),
                    };
                    entry =
                        Some((host.ok_or_else(|| format!("{value:?} is neither a host name nor an address"))?, None));
                }
                "ipexpires" => {
                    let end =
                        jiff::Timestamp::from_str(value).map_err(|_| format!("{value:?} is not an RFC 3339 time"))?;
                    let end = Time(u64::try_from(end.as_millisecond()).unwrap_or(0));
                    // In a string of its own it belongs to the one before.
                    let before = self.entries.get_mut(begin..).and_then(<[_]>::last_mut);
                    let target = entry.as_mut().or(before).ok_or("IpExpires without an IP")?;
                    target.1 = Some(end);
                }
                _ => return Err(format!("unknown key {key:?}; IP, HOST and IpExpires are known")),
            }
        }
        self.entries.extend(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, kind: OverrideKind, name: Option<&str>, target: &str) -> Override {
        Override {
            id,
            kind,
            name: name.map(str::to_owned),
            target: Some(target.to_owned()),
            expires_at: None,
            reason: None,
            created_by: None,
            created_at: None,
        }
    }

    #[test]
    fn precedence() {
        use OverrideKind::{Drain, ForceUp};
        let host = Host::Name("db1.example".into());
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let own = Some("api.example");
        for (rows, drained, forced) in [
            (vec![], false, false),
            (vec![(Drain, None, "db1.example")], true, false),
            (vec![(Drain, own, "DB1.Example.")], true, false),
            (vec![(Drain, None, "10.0.0.1")], true, false),
            (vec![(Drain, None, "10.0.0.2")], false, false),
            (vec![(Drain, Some("other.example"), "10.0.0.1")], false, false),
            (vec![(ForceUp, None, "10.0.0.1")], false, true),
            (vec![(ForceUp, None, "10.0.0.1"), (Drain, None, "db1.example")], true, false),
            (vec![(ForceUp, own, "10.0.0.1"), (Drain, None, "db1.example")], false, true),
            (vec![(ForceUp, None, "10.0.0.1"), (Drain, own, "db1.example")], true, false),
        ] {
            let rows: Vec<Override> = rows.iter().map(|&(kind, name, target)| row(1, kind, name, target)).collect();
            let effect = Overrides::new(rows.clone(), Time(0)).effect("api.example", &host, address, None);
            assert_eq!((effect.drained.is_some(), effect.forced), (drained, forced), "{rows:?}");
        }
    }

    #[test]
    fn the_row_that_goes_before_another_is_found() {
        use OverrideKind::{Bypass, Drain, ForceUp, Pin};
        let hosts = ["a.example", "b.example"].map(|host| Host::Name(host.into()));
        let addresses: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|text| text.parse().unwrap());
        let own = Some("api.example");
        // What is there, what is given after it, and the number of the one that goes before it.
        for (there, given, above) in [
            ((Pin, own, "a.example"), (Drain, None, "a.example"), Some(1)),
            ((Pin, own, "a.example"), (Drain, None, "10.0.0.1"), None),
            ((Pin, own, "10.0.0.1"), (Drain, None, "10.0.0.1"), Some(1)),
            ((Pin, own, "a.example"), (Drain, None, "b.example"), None),
            ((Pin, own, "a.example"), (ForceUp, None, "b.example"), Some(1)),
            ((Pin, Some("web.example"), "a.example"), (Drain, None, "a.example"), None),
            ((Drain, None, "a.example"), (ForceUp, None, "a.example"), Some(1)),
            ((Drain, None, "a.example"), (ForceUp, own, "a.example"), None),
            ((ForceUp, own, "a.example"), (Drain, None, "a.example"), Some(1)),
            ((ForceUp, None, "a.example"), (Drain, None, "a.example"), None),
            ((Drain, None, "a.example"), (Drain, None, "10.0.0.1"), None),
            ((Bypass, None, "-"), (Pin, own, "a.example"), Some(1)),
            ((Bypass, own, "-"), (Drain, None, "a.example"), Some(1)),
            ((Bypass, own, "-"), (Bypass, None, "-"), None),
            ((Drain, None, "a.example"), (Pin, own, "a.example"), None),
        ] {
            let [there, given] = [(1, there), (2, given)].map(|(id, (kind, name, target))| row(id, kind, name, target));
            let rows = Overrides::new(vec![there.clone(), given.clone()], Time(0));
            let places = [(&hosts[0], addresses[0]), (&hosts[0], addresses[1]), (&hosts[1], addresses[2])];
            let effects = places.map(|(host, address)| rows.effect("api.example", host, address, None));
            let inputs = [0, 1, 2].map(|at: usize| Input {
                host: places[at].0,
                address: places[at].1,
                forced: effects[at].forced,
                drained: effects[at].drained.as_deref(),
                ..up(&hosts[0])
            });
            let found = rows.above(&given, "api.example", &inputs).map(|row| row.id);
            assert_eq!(found, above, "{there:?} and {given:?}");
        }
    }

    fn up(host: &Host) -> Input<'_> {
        Input {
            host,
            address: IpAddr::from([0; 4]),
            position: 0,
            priority: None,
            weight: 1,
            state: State::Up,
            since: Time(0),
            forced: false,
            drained: None,
            checked: true,
            keeps_place: false,
            over_limit: false,
            latency_ms: None,
            deviation_ms: None,
            last_rank: None,
        }
    }

    #[test]
    fn drain_records() {
        let strings = [
            "IP=10.0.0.1",
            "HOST=B.example. IpExpires=2023-11-14T22:13:20Z",
            "IpExpires=2031-11-14T22:13:20Z",
            "IP=10.0.0.300",
            "nonsense",
            "PORT=1",
            "HOST=10.0.0.2",
            "IP=::ffff:10.0.0.3",
            "HOST=[2001:db8::4]",
            "HOST=a..b",
        ]
        .map(|text| vec![text.to_owned()]);
        let read_name = |name: &str| (!name.contains("..")).then(|| normal_name(name));
        let own = [vec!["IP=2001:db8::1".to_owned(), "IpExpires=2033-11-14T22:13:20+01:00".to_owned()]];
        let (mut list, problems) = DrainList::parse("d.example", &[&strings[..], &own].concat(), read_name, Time(0));
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert_eq!(list.targets().len(), 6);
        let other = Host::Name("c.example".into());
        for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::4"] {
            assert!(list.words(&other, address.parse().unwrap()).is_some(), "{address}");
        }
        let b = Host::Name("b.example".into());
        assert!(list.words(&b, "10.9.9.9".parse().unwrap()).is_some_and(|words| words.contains("2023")));
        assert_eq!(list.next_expiry(), Some(Time(1_700_000_000_000)));
        assert!(list.expire(Time(1_700_000_000_000)));
        assert!(list.words(&b, "10.9.9.9".parse().unwrap()).is_none());
        assert!(!list.expire(Time(1_700_000_000_000)));
    }
}
