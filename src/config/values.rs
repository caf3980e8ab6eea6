//! Texts of the configuration that mean something: durations, addresses, hosts, and the nearest known word.
//!
//! Pure functions from a text to a value or to a sentence that says what was wrong. They know nothing of files
//! and places; whoever reads the document adds those.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Target;
use crate::dns::HostName;
use crate::health::hash::hash;

/// Port of a DNS server or listener that is written without one (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;

/// What a duration looks like, for messages.
pub(super) const DURATION_FORM: &str = r#"a whole number with a unit, such as "250ms", "10s", "5m" or "24h""#;

/// Reads `250ms`, `10s`, `5m`, `24h`. `None` when it is anything else or too large to count in milliseconds.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit).map(Duration::from_millis)
}

/// A duration as it is written in the file, in the largest unit that leaves no rest.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if millis >= unit && millis.is_multiple_of(unit) {
            return format!("{}{name}", millis / unit);
        }
    }
    if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") }
}

/// So many names, in words.
pub fn in_names(count: usize) -> String {
    format!("{count} name{}", if count == 1 { "" } else { "s" })
}

/// What tells secrets apart in the words of a check: 16 bits of a hash, too few to try secrets against.
pub(super) fn mark(secrets: &[&[u8]]) -> String {
    format!("#{:04x}", hash(0, secrets) & 0xffff)
}

/// Reads an address with or without port and brackets; without a port it gets [`DNS_PORT`].
pub fn socket_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    ip_address(text).map(|address| SocketAddr::new(address, DNS_PORT))
}

/// Reads an address; IPv6 may be in brackets.
pub(super) fn ip_address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// Why an address cannot be that of one host, if it cannot.
pub(super) fn not_unicast(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address is no host's"),
        _ if address.is_multicast() => Some("a multicast address is no single host's"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address is no single host's"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4-mapped address is written as the IPv4 address")
        }
        _ => None,
    }
}

/// Reads a candidate: a host name or a unicast address.
pub fn target(text: &str) -> Result<Target, String> {
    if let Some(address) = ip_address(text) {
        return match not_unicast(address) {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(Target::Address(address)),
        };
    }
    if text.parse::<SocketAddr>().is_ok() || is_host_and_port(text) {
        return Err("a host has no port here; the port belongs into the check".to_owned());
    }
    if text.contains("://") {
        return Err("a host is no URL; the URL belongs into the check".to_owned());
    }
    let name: HostName = text.parse().map_err(|error| format!("{error}"))?;
    if name.is_wildcard() {
        return Err("a wildcard cannot be looked up".to_owned());
    }
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or("");
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it ends in a number like an address and is not a valid one".to_owned());
    }
    Ok(Target::Name(name))
}

/// Whether a header is likely to carry a secret.
pub(super) fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "cookie", "token", "secret", "password", "api-key", "apikey", "api_key", "auth"]
        .iter()
        .any(|word| name.contains(word))
}

/// Whether a text is `name:digits`.
fn is_host_and_port(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The known word nearest to one that is not, when it is near enough to be a slip.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long word of a stranger's file is no slip, and the distance of long words costs their product.
    if word.len() > 40 {
        return None;
    }
    let folded = word.to_ascii_lowercase().replace('-', "_");
    let limit = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (distance(&folded, &candidate.replace('-', "_")), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("250ms", 250), ("0s", 0), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)));
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        for text in
            ["", "5", "s", "-5s", "1.5s", "5 s", "5S", "5sec", "1d", "99999999999999999999s", "9999999999999999h"]
        {
            assert_eq!(duration(text), None, "{text:?}");
        }
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn addresses_with_and_without_port() {
        for (text, shown) in [
            ("10.0.0.2", "10.0.0.2:53"),
            ("10.0.0.3:5353", "10.0.0.3:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
        ] {
            assert_eq!(socket_address(text).map(|address| address.to_string()).as_deref(), Some(shown));
        }
        for text in ["", "host", "10.0.0.2:", "10.0.0.2:70000", "[10.0.0.2]", "[::1", "10.0.0"] {
            assert_eq!(socket_address(text), None, "{text:?}");
        }
    }

    #[test]
    fn candidates() {
        for (text, shown) in [
            ("API1.example.com.", "api1.example.com"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:DB8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(target(text).map(|target| target.to_string()).as_deref(), Ok(shown));
        }
        for (text, reason) in [
            ("", "empty"),
            ("0.0.0.0", "unspecified"),
            ("::", "unspecified"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("::ffff:192.0.2.1", "IPv4-mapped"),
            ("192.0.2.7:80", "port"),
            ("api:8080", "port"),
            ("http://api/", "URL"),
            ("*.example.com", "wildcard"),
            ("192.0.2", "number"),
            ("192.0.2.300", "number"),
            ("a b", "' '"),
        ] {
            let error = target(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn slips_and_strangers() {
        let known = ["interval", "fast_interval", "timeout", "ttl", "rise", "fall"];
        for (word, found) in [
            ("intervall", Some("interval")),
            ("fast-interval", Some("fast_interval")),
            ("timeuot", Some("timeout")),
            ("TTL", Some("ttl")),
            ("banana", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), found, "{word:?}");
        }
    }
}
