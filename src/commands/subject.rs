//! Names and candidates as a person types them, found in the configuration.
//!
//! A slip gets the nearest word that is known. Nothing is looked up.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Failure;
use crate::config::values::nearest;
use crate::config::{Config, Name, Target};
use crate::dns::HostName;
use crate::health::{EndpointRecord, Host};

/// Known words that are listed when none is near.
const LISTED: usize = 5;

/// A name as the state file has it: lower case, A-labels, no trailing dot.
pub fn spelling(name: &str) -> String {
    let name = name.trim();
    name.parse::<HostName>().map_or_else(|_| name.trim_end_matches('.').to_ascii_lowercase(), |name| name.to_string())
}

/// The configured name of exactly this spelling, letter case and trailing dot aside.
pub fn name<'a>(config: &'a Config, text: &str) -> Result<&'a Name, Failure> {
    if let Some(name) = exact(config, text) {
        return Ok(name);
    }
    if let Some(wildcard) = covering(config, text) {
        let hint = format!("'{text}' is no name of the configuration; '{}' covers it: state that one", wildcard.name);
        return Err(Failure::Usage(hint));
    }
    Err(unknown_name(config, text))
}

/// The configured name that answers for this one: itself, or the wildcard that covers it.
pub fn answering<'a>(config: &'a Config, text: &str) -> Result<&'a Name, Failure> {
    exact(config, text).or_else(|| covering(config, text)).ok_or_else(|| unknown_name(config, text))
}

fn exact<'a>(config: &'a Config, text: &str) -> Option<&'a Name> {
    let wanted: HostName = text.trim().parse().ok()?;
    config.names.iter().find(|name| name.name == wanted)
}

/// The wildcard of the longest suffix above a name.
fn covering<'a>(config: &'a Config, text: &str) -> Option<&'a Name> {
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
    let wildcards = config.names.iter().filter(|name| name.name.is_wildcard() && above(&name.name));
    wildcards.max_by_key(|name| name.name.labels())
}

fn unknown_name(config: &Config, text: &str) -> Failure {
    let known: Vec<String> = config.names.iter().map(|name| name.name.to_string()).collect();
    Failure::Usage(format!("'{text}' is no name of the configuration; {}", suggestion(text, &known)))
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

/// A candidate or one of its addresses, as the state file spells it. `names` are those that it must belong to,
/// `endpoints` what is known of their addresses.
pub fn target(names: &[&Name], endpoints: &[EndpointRecord], text: &str) -> Result<Host, Failure> {
    let wanted = parse(text)?;
    let hosts = names.iter().flat_map(|name| &name.candidates).map(|candidate| &candidate.host);
    let mut known: BTreeSet<String> = hosts.map(|host| spelled(host).to_string()).collect();
    let of_names = |record: &&EndpointRecord| names.iter().any(|name| *record.name == *name.name.to_string());
    for record in endpoints.iter().filter(of_names) {
        // A candidate that was discovered is only known by the state.
        known.extend([record.host.to_string(), record.address.to_string()]);
    }
    if known.contains(&wanted.to_string()) {
        return Ok(wanted);
    }
    let known: Vec<String> = known.into_iter().collect();
    let of = match names {
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

    fn config() -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.toml");
        let text = "[defaults]\ncheck = \"none\"\n[names.\"api.example.com\"]\ncandidates = [\"db1.example.com\", \"10.0.0.1\", \"2001:db8::1\"]\n\
            [names.\"*.apps.example.com\"]\ncandidates = [\"10.0.0.2\"]\n[names.\"*.eu.apps.example.com\"]\ncandidates = [\"10.0.0.3\"]\n";
        std::fs::write(&path, text).unwrap();
        crate::config::load(&path).unwrap()
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
        assert_eq!(name(&config, "API.example.com.").unwrap().name.to_string(), "api.example.com");
        assert!(line(name(&config, "apj.example.com")).contains("did you mean 'api.example.com'?"));
        assert!(line(name(&config, "nothing.like.it")).contains("there is api.example.com, *.apps.example.com"));
        assert!(line(name(&config, "x.apps.example.com")).contains("'*.apps.example.com' covers it"));
        assert_eq!(answering(&config, "y.x.eu.apps.example.com").unwrap().name.to_string(), "*.eu.apps.example.com");
        assert_eq!(answering(&config, "x.apps.example.com").unwrap().name.to_string(), "*.apps.example.com");
        assert!(answering(&config, "apps.example.com").is_err());
    }

    #[test]
    fn targets_are_candidates_of_the_names_that_are_meant() {
        let config = config();
        let all: Vec<&Name> = config.names.iter().collect();
        assert_eq!(target(&all, &[], "DB1.example.com.").unwrap().to_string(), "db1.example.com");
        assert_eq!(target(&all, &[], "[2001:DB8:0::1]").unwrap().to_string(), "2001:db8::1");
        assert!(target(&all, &[], "10.0.0.2").is_ok());
        let line_of = |text| line(target(&all[..1], &[], text));
        assert!(line_of("10.0.0.2").contains("no candidate's address of api.example.com; did you mean '10.0.0.1'?"));
        assert!(line_of("db2.example.com").contains("did you mean 'db1.example.com'?"));
        assert!(line_of("http://x/").contains("a host is no URL"));
        assert!(line_of("10.0.0.1:80").contains("port"));
    }
}
