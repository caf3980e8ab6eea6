//! Programs of this host that keep addresses longer than har's TTL tells them to.

use super::finding::Finding;
use super::root::Seen;
use super::{PAGE, Scene};

/// Seconds that are worth no word: a change of answer is seen soon enough.
const SOON: i64 = 5;
/// The key of `java.security`.
const TTL: &str = "networkaddress.cache.ttl";

/// Says who keeps addresses too long.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    java(scene, out);
    nscd(scene, out);
}

/// A Java's own cache, one finding for each installed one.
fn java(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let mut seen_before: Vec<&str> = Vec::new();
    for seen in scene.facts.files.below("/usr/lib/jvm", "/java.security") {
        // `default-java` and the like are links to another of them.
        if seen_before.contains(&seen.real.as_str()) {
            continue;
        }
        seen_before.push(&seen.real);
        let (found, forever) = match cache_ttl(seen) {
            None => (format!("{TTL} is not set: 30 s, or for ever with a security manager"), false),
            Some(seconds) if seconds < 0 => (format!("{TTL}={seconds}: addresses are kept for ever"), true),
            Some(seconds) if seconds > SOON => (format!("{TTL}={seconds}"), false),
            Some(_) => {
                out.push(Finding::ok("java-cache", &seen.real, "Java keeps addresses for a few seconds at most"));
                continue;
            }
        };
        let finding = if forever { Finding::warning } else { Finding::hint };
        out.push(
            finding("java-cache", &seen.real, found)
                .why("programs in Java go on with the old address for that long after har's answer has changed")
                .mend(format!(
                    "{TTL}=1 there, as in packaging/integration/java.security, or -Dsun.net.inetaddr.ttl=1; {PAGE}"
                )),
        );
    }
}

fn cache_ttl(seen: &Seen) -> Option<i64> {
    // The last line wins, as in any file of properties.
    let lines = seen.text()?.lines().filter_map(|line| line.trim().split_once('='));
    lines.rev().filter(|(key, _)| key.trim() == TTL).find_map(|(_, value)| value.trim().parse().ok())
}

/// glibc's cache daemon.
fn nscd(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    const PATH: &str = "/etc/nscd.conf";
    if !scene.facts.runs("nscd") {
        return;
    }
    let text = scene.facts.files.text(PATH).unwrap_or_default();
    let switch = |line: &str| {
        let mut words = line.split_whitespace();
        let is_hosts = words.next() == Some("enable-cache") && words.next() == Some("hosts");
        is_hosts.then(|| words.next() == Some("yes"))
    };
    let last = text.lines().enumerate().filter_map(|(number, line)| Some((number + 1, switch(line)?))).last();
    match last {
        Some((line, true)) => out.push(
            Finding::warning("nscd-hosts", format!("{PATH}:{line}"), "nscd runs and caches hosts")
                .why("its entries outlive har's answers, and it hands out one address of several only")
                .mend("enable-cache hosts no, as in packaging/integration/nscd.conf, then `systemctl restart nscd`"),
        ),
        _ => out.push(Finding::ok("nscd-hosts", PATH, "nscd runs and does not cache hosts")),
    }
}
