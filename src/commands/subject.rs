//! Names and candidates as a person types them, found in the configuration or in the state file.
//!
//! A slip gets the nearest word that is known. Nothing is looked up.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::Failure;
use crate::config::values::nearest;
use crate::config::{Config, Name, Target};
use crate::dns::HostName;
use crate::health::{EndpointRecord, Host};
use crate::store::Stored;

/// Known words that are listed when none is near.
const LISTED: usize = 5;

/// A name that can be found as it was typed.
pub trait Named {
    /// How it is called.
    fn name(&self) -> &HostName;
}

impl Named for Name {
    fn name(&self) -> &HostName {
        &self.name
    }
}

/// A name and what it can be answered with.
#[derive(Clone, Debug)]
pub struct Member {
    /// How it is called.
    name: HostName,
    /// Its candidates.
    hosts: Vec<Host>,
}

impl Named for Member {
    fn name(&self) -> &HostName {
        &self.name
    }
}

/// The names that something can be ordered for.
#[derive(Clone, Debug)]
pub struct Known {
    names: Vec<Member>,
    /// Where they are from, for messages.
    origin: &'static str,
}

impl Known {
    /// Those of a configuration.
    pub fn of_config(config: &Config) -> Known {
        let member = |name: &Name| Member {
            name: name.name.clone(),
            hosts: name.candidates.iter().map(|candidate| spelled(&candidate.host)).collect(),
        };
        Known { names: config.names.iter().map(member).collect(), origin: "the configuration" }
    }

    /// Those that the daemon runs with, as it wrote them down.
    pub fn of_state(stored: &Stored) -> Known {
        let mut hosts: HashMap<&str, Vec<Host>> = HashMap::new();
        for candidate in &stored.candidates {
            hosts.entry(&candidate.name).or_default().push(candidate.host.clone());
        }
        let member =
            |name: &str| Some(Member { name: name.parse().ok()?, hosts: hosts.remove(name).unwrap_or_default() });
        let names = stored.names.iter().map(|(row, _)| &*row.name).filter_map(member).collect();
        Known { names, origin: "the state file" }
    }

    /// All of them, as the state file spells them.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.names.iter().map(|member| member.name.to_string())
    }

    /// The name that answers for this one: itself, or the wildcard that covers it.
    pub fn answering(&self, text: &str) -> Result<String, Failure> {
        let found = exact(&self.names, text).or_else(|| covering(&self.names, text));
        found.map(|member| member.name.to_string()).ok_or_else(|| unknown_name(&self.names, self.origin, text))
    }

    /// The name of exactly this spelling, letter case and trailing dot aside.
    pub fn name(&self, text: &str) -> Result<String, Failure> {
        if let Some(member) = exact(&self.names, text) {
            return Ok(member.name.to_string());
        }
        if let Some(wildcard) = covering(&self.names, text) {
            let (origin, wildcard) = (self.origin, &wildcard.name);
            let hint = format!("'{text}' is no name of {origin}; '{wildcard}' covers it: state that one");
            return Err(Failure::Usage(hint));
        }
        Err(unknown_name(&self.names, self.origin, text))
    }
}

/// A name as the state file has it: lower case, A-labels, no trailing dot.
pub fn spelling(name: &str) -> String {
    let name = name.trim();
    name.parse::<HostName>().map_or_else(|_| name.trim_end_matches('.').to_ascii_lowercase(), |name| name.to_string())
}

/// The configured name that answers for this one: itself, or the wildcard that covers it.
pub fn answering<'a>(config: &'a Config, text: &str) -> Result<&'a Name, Failure> {
    let names = &config.names;
    let found = exact(names, text).or_else(|| covering(names, text));
    found.ok_or_else(|| unknown_name(names, "the configuration", text))
}

fn exact<'a, N: Named>(names: &'a [N], text: &str) -> Option<&'a N> {
    let wanted: HostName = text.trim().parse().ok()?;
    names.iter().find(|name| *name.name() == wanted)
}

/// The wildcard of the longest suffix above a name.
fn covering<'a, N: Named>(names: &'a [N], text: &str) -> Option<&'a N> {
    let wanted: HostName = text.trim().parse().ok()?;
    let above = |wildcard: &HostName| {
        let mut rest = wanted.as_wire();
        while let Some(shorter) = rest.first().and_then(|&length| rest.get(usize::from(length) + 1..)) {
            if shorter == wildcard.suffix() {
                return true;
            }
            if shorter.len() <= 1 {
                break;
            }
            rest = shorter;
        }
        false
    };
    let wildcards = names.iter().filter(|name| name.name().is_wildcard() && above(name.name()));
    wildcards.max_by_key(|name| name.name().labels())
}

fn unknown_name<N: Named>(names: &[N], origin: &str, text: &str) -> Failure {
    let known: Vec<String> = names.iter().map(|name| name.name().to_string()).collect();
    Failure::Usage(format!("'{text}' is no name of {origin}; {}", suggestion(text, &known)))
}

/// `the nearest is 'x'`, or what there is.
fn suggestion(text: &str, known: &[String]) -> String {
    let text = text.trim().trim_end_matches('.');
    match nearest(text, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean '{near}'?"),
        None if known.is_empty() => "there is none".to_owned(),
        None => {
            let more = if known.len() > LISTED { ", …" } else { "" };
            let listed: Vec<&str> = known.iter().take(LISTED).map(String::as_str).collect();
            format!("there is {}{more}", listed.join(", "))
        }
    }
}

/// A candidate or one of its addresses, as the state file spells it. It must belong to the name `only`, if that is
/// given; `endpoints` is what is known of addresses.
pub fn target(known: &Known, only: Option<&str>, endpoints: &[EndpointRecord], text: &str) -> Result<Host, Failure> {
    let wanted = parse(text)?;
    let is_meant = |member: &&Member| only.is_none_or(|only| *only == member.name.to_string());
    let names: Vec<&Member> = known.names.iter().filter(is_meant).collect();
    let mut known: BTreeSet<String> = names.iter().flat_map(|name| &name.hosts).map(Host::to_string).collect();
    let of_names = |record: &&EndpointRecord| names.iter().any(|name| *record.name == *name.name.to_string());
    for record in endpoints.iter().filter(of_names) {
        // A candidate that was discovered is only known by the state.
        known.extend([record.host.to_string(), record.address.to_string()]);
    }
    if known.contains(&wanted.to_string()) {
        return Ok(wanted);
    }
    let known: Vec<String> = known.into_iter().collect();
    let of = match names.as_slice() {
        [name] => format!("of {}", name.name),
        _ => "of any name".to_owned(),
    };
    let kind = match wanted {
        Host::Name(_) => "candidate",
        Host::Address(_) => "candidate's address",
    };
    let hint = suggestion(&wanted.to_string(), &known);
    Err(Failure::Usage(format!("'{text}' is no {kind} {of}; {hint} (--force takes it as it is)")))
}

/// A host name or an address, whether it is known or not.
pub fn parse(text: &str) -> Result<Host, Failure> {
    let target = crate::config::values::target(text.trim());
    let target = target.map_err(|error| Failure::Usage(format!("'{text}' is no host name and no address: {error}")))?;
    Ok(spelled(&target))
}

fn spelled(target: &Target) -> Host {
    match target {
        Target::Name(name) => Host::Name(name.to_string().into()),
        Target::Address(address) => Host::Address(canonical(*address)),
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CandidateRow, NameCounters, NameRow};

    fn config() -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.toml");
        let text = "[defaults]\ncheck = \"none\"\n[names.\"api.example.com\"]\ncandidates = [\"db1.example.com\", \"10.0.0.1\", \"2001:db8::1\"]\n\
            [names.\"*.apps.example.com\"]\ncandidates = [\"10.0.0.2\"]\n[names.\"*.eu.apps.example.com\"]\ncandidates = [\"10.0.0.3\"]\n";
        std::fs::write(&path, text).unwrap();
        crate::config::load(&path).unwrap()
    }

    /// What a daemon with this configuration writes down.
    fn stored(config: &Config) -> Stored {
        let mut stored = Stored::default();
        for name in &config.names {
            let key: std::sync::Arc<str> = name.name.to_string().into();
            stored.names.push((
                NameRow { name: key.clone(), mode: "".into(), select: "".into(), ttl_s: 1, interval_ms: 1 },
                NameCounters::default(),
            ));
            for (position, candidate) in (0..).zip(&name.candidates) {
                let host = spelled(&candidate.host);
                let row = CandidateRow {
                    name: key.clone(),
                    host,
                    position,
                    priority: 0,
                    weight: 1,
                    resolved_at: None,
                    error: None,
                };
                stored.candidates.push(row);
            }
        }
        stored
    }

    fn line<T>(result: Result<T, Failure>) -> String {
        match result {
            Err(Failure::Usage(line)) => line,
            _ => String::new(),
        }
    }

    #[test]
    fn names_are_found_and_slips_get_the_nearest() {
        let config = config();
        for known in [Known::of_config(&config), Known::of_state(&stored(&config))] {
            assert_eq!(known.name("API.example.com.").unwrap(), "api.example.com");
            assert!(line(known.name("apj.example.com")).contains("did you mean 'api.example.com'?"));
            assert!(line(known.name("nothing.like.it")).contains("there is api.example.com, *.apps.example.com"));
            assert!(line(known.name("x.apps.example.com")).contains("'*.apps.example.com' covers it"));
            assert_eq!(known.answering("API.example.com.").unwrap(), "api.example.com");
            assert_eq!(known.answering("x.y.eu.apps.example.com").unwrap(), "*.eu.apps.example.com");
            assert!(line(known.answering("apj.example.com")).contains("did you mean 'api.example.com'?"));
        }
        assert_eq!(answering(&config, "y.x.eu.apps.example.com").unwrap().name.to_string(), "*.eu.apps.example.com");
        assert_eq!(answering(&config, "x.apps.example.com").unwrap().name.to_string(), "*.apps.example.com");
        assert!(answering(&config, "apps.example.com").is_err());
    }

    #[test]
    fn targets_are_candidates_of_the_names_that_are_meant() {
        let config = config();
        for known in [Known::of_config(&config), Known::of_state(&stored(&config))] {
            assert_eq!(target(&known, None, &[], "DB1.example.com.").unwrap().to_string(), "db1.example.com");
            assert_eq!(target(&known, None, &[], "[2001:DB8:0::1]").unwrap().to_string(), "2001:db8::1");
            assert!(target(&known, None, &[], "10.0.0.2").is_ok());
            let line_of = |text| line(target(&known, Some("api.example.com"), &[], text));
            assert!(
                line_of("10.0.0.2").contains("no candidate's address of api.example.com; did you mean '10.0.0.1'?")
            );
            assert!(line_of("db2.example.com").contains("did you mean 'db1.example.com'?"));
            assert!(line_of("http://x/").contains("a host is no URL"));
            assert!(line_of("10.0.0.1:80").contains("port"));
        }
    }
}
