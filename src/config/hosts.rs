//! Names and hosts as they stand in the file: which make no sense, and which little.

use std::net::IpAddr;

use toml::de::DeValue;

use super::table::{Item, Key, Problems, Spot};
use super::{Target, values};
use crate::dns::HostName;

/// Keys of a name whose values may be tables.
const TABLES: [&str; 3] = ["check", "discover", "candidates"];

/// Notes what became of names without quotes, such as `[names.api.example.com]`: tables in tables. Whether there are.
pub(super) fn unquoted(item: &Item<'_>, problems: &mut Problems) -> bool {
    let Key::In(_, name) = item.key else { return false };
    tables_of_headers(item.value, name, item, problems)
}

/// Notes the innermost of such tables, with the whole name.
fn tables_of_headers(value: &DeValue<'_>, name: &str, item: &Item<'_>, problems: &mut Problems) -> bool {
    let mut any = false;
    for (key, value) in value.as_table().into_iter().flat_map(|table| table.iter()) {
        // Files are at most 64 MiB long.
        let spot = Spot { file: item.spot.file, start: key.span().start as u32, end: key.span().end as u32 };
        let label: &str = key.get_ref();
        if TABLES.contains(&label) || value.get_ref().as_table().is_none() || !problems.is_in_header(spot) {
            continue;
        }
        any = true;
        let whole = format!("{name}.{label}");
        if !tables_of_headers(value.get_ref(), &whole, item, problems) {
            let message = format!("write [names.{whole:?}]: without quotes each dot begins a table in a table");
            problems.error(spot, item.key, message);
        }
    }
    any
}

/// Why a name would never be answered from the configuration.
pub(super) fn never_answered(name: &HostName) -> Option<String> {
    let wire = name.as_wire();
    let labels = name.labels();
    if wire.ends_with(b"\x09localhost\0") && (labels == 1 || last_label_is_localhost(name)) {
        return Some(
            "localhost and the names below it are always this host (RFC 6761) and cannot be configured".into(),
        );
    }
    if wire == b"\x04_dns\x08resolver\x04arpa\0" {
        return Some("_dns.resolver.arpa is always answered empty (RFC 9462) and cannot be configured".into());
    }
    if name.is_wildcard() && labels == 1 {
        return Some("a wildcard needs a name behind it, such as \"*.apps.example.com\"".into());
    }
    None
}

/// Whether the last label is `localhost`: the bytes alone could be the end of a longer label.
fn last_label_is_localhost(name: &HostName) -> bool {
    name.to_string().rsplit('.').next() == Some("localhost")
}

/// Reads a list of hosts, such as `fallback`.
pub(super) fn read_targets(item: &Item<'_>, problems: &mut Problems) -> Vec<Target> {
    const ALLOWED: &str = "a list of host names and addresses";
    let items = item.list(problems, ALLOWED).unwrap_or_default();
    let mut targets = Vec::new();
    for item in &items {
        if let Some(target) = read_target(item, problems) {
            if targets.contains(&target) {
                problems.error(item.spot, item.key, format!("{target} is listed twice"));
            } else {
                targets.push(target);
            }
        }
    }
    targets
}

/// Reads a host name or an address.
pub(super) fn read_target(item: &Item<'_>, problems: &mut Problems) -> Option<Target> {
    const ALLOWED: &str = "a host name or the address of one host";
    let text = item.text(problems, ALLOWED)?.value;
    match values::target(text) {
        Ok(target) => {
            if let Target::Address(IpAddr::V6(address)) = target
                && address.is_unicast_link_local()
            {
                let message = "a link-local address says not on which link it is: no check can reach it";
                problems.warn(item.spot, item.key, message);
            }
            Some(target)
        }
        Err(reason) => {
            item.wrong(problems, format_args!("{ALLOWED}; {reason}"));
            None
        }
    }
}
