//! systemd-resolved: in front of har, behind it, or past it.

use std::net::SocketAddr;

use super::finding::Finding;
use super::ini::{self, Line};
use super::resolv_conf::{self, Server};
use super::root::Files;
use super::{PAGE, Scene};
use crate::config::values;

/// What its configuration says.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// Whether it runs.
    pub runs: bool,
    /// Whether it is told to ask har.
    pub in_front: bool,
    /// Servers beside har in `DNS=`, with their places.
    pub others: Vec<(String, String)>,
    lines: Vec<Line>,
}

impl Resolved {
    /// Reads its files. `listen` is where har is.
    pub fn of(files: &Files, runs: bool, listen: &[SocketAddr]) -> Resolved {
        let main = ["/etc/systemd/resolved.conf", "/usr/lib/systemd/resolved.conf"];
        let folders =
            ["/etc/systemd/resolved.conf.d", "/run/systemd/resolved.conf.d", "/usr/lib/systemd/resolved.conf.d"];
        let lines = ini::read(files, &main, &folders);
        let (har, others): (Vec<_>, Vec<_>) = ini::list(&lines, "Resolve", "DNS")
            .into_iter()
            .partition(|(word, _)| server(word).is_some_and(|server| listen.contains(&server)));
        Resolved { runs, in_front: !har.is_empty(), others, lines }
    }

    fn line(&self, key: &str) -> Option<&Line> {
        ini::last(&self.lines, "Resolve", key)
    }
}

/// An address of `DNS=`: with a port, an interface and a server name, all but the first optional.
fn server(word: &str) -> Option<SocketAddr> {
    values::socket_address(word.split(['%', '#']).next()?)
}

/// Says what is wrong with its part.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let resolved = scene.resolved;
    if !resolved.runs {
        if scene.resolv.servers.first().is_some_and(|(address, _)| resolv_conf::is_stub(*address)) {
            out.push(
                Finding::problem("resolved-gone", resolv_conf::PATH, "it names systemd-resolved, which does not run")
                    .why("programs that read the file get no answer for any name")
                    .mend("put a file with `nameserver 127.0.0.1` in its place, or start systemd-resolved in front of har"),
            );
        }
        return;
    }
    clash(scene, out);
    let stub_is_first = scene.resolv.servers.first().is_some_and(|(address, _)| scene.whose(*address) == Server::Stub);
    if resolved.in_front {
        in_front(scene, out);
    } else if stub_is_first {
        out.push(
            Finding::problem(
                "resolved-past-har",
                "systemd-resolved",
                "programs ask systemd-resolved, and it is not told to ask har",
            )
            .why("queries go past har: its answers have no effect")
            .mend(format!(
                "copy packaging/integration/systemd-resolved.conf to /etc/systemd/resolved.conf.d/har.conf and \
                 `systemctl restart systemd-resolved`; {PAGE}"
            )),
        );
    } else {
        out.push(Finding::ok(
            "resolved",
            "systemd-resolved",
            "it runs, and programs that read resolv.conf do not ask it",
        ));
    }
}

/// A stub where har listens.
fn clash(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    for (word, place) in ini::list(&scene.resolved.lines, "Resolve", "DNSStubListenerExtra") {
        let bare = word.trim_start_matches("udp:").trim_start_matches("tcp:");
        let Some(extra) = values::socket_address(bare) else { continue };
        let clashes =
            |own: &SocketAddr| own.port() == extra.port() && (own.ip() == extra.ip() || extra.ip().is_unspecified());
        if scene.facts.listen().iter().any(clashes) {
            out.push(
                Finding::problem("resolved-extra-stub", place, format!("DNSStubListenerExtra={word}"))
                    .why("systemd-resolved takes the address that har is to listen on")
                    .mend("take the line out and `systemctl restart systemd-resolved`; its own stub on 127.0.0.53 is in nobody's way"),
            );
        }
    }
}

fn in_front(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let resolved = scene.resolved;
    let before = out.len();
    if let Some((other, place)) = resolved.others.first() {
        out.push(
            Finding::warning("resolved-other-servers", place, format!("DNS= names {other} beside har"))
                .why(
                    "systemd-resolved keeps to whichever server answered last: after one slow answer it stays past har",
                )
                .mend("name har alone; har knows the others as its upstream servers"),
        );
    }
    let domains = ini::list(&resolved.lines, "Resolve", "Domains");
    if !domains.iter().any(|(word, _)| word == "~." || word == ".") {
        let place = resolved.line("DNS").map_or("systemd-resolved", |line| line.place.as_str());
        out.push(
            Finding::warning("resolved-no-routing", place, "Domains=~. is missing beside DNS=")
                .why("servers of links are asked as well as har, and the first answer counts")
                .mend(
                    "add `Domains=~.`, as in packaging/integration/systemd-resolved.conf, and restart systemd-resolved",
                ),
        );
    }
    if let Some(line) = resolved.line("DNSOverTLS").filter(|line| ini::is_yes(&line.value)) {
        out.push(
            Finding::problem("resolved-tls", &line.place, "DNSOverTLS=yes")
                .why("systemd-resolved asks har over TLS, which har does not speak: nothing resolves")
                .mend("DNSOverTLS=no (or opportunistic): the way to har does not leave this host"),
        );
    }
    if let Some(line) = resolved.line("DNSSEC").filter(|line| ini::is_yes(&line.value)) {
        out.push(
            Finding::hint("resolved-dnssec", &line.place, "DNSSEC=yes")
                .why("har's own answers are unsigned: names of it inside signed zones are refused as bogus")
                .mend(format!("a line for each such name in /etc/dnssec-trust-anchors.d/har.negative; {PAGE}")),
        );
    }
    if resolved.line("FallbackDNS").is_none_or(|line| !line.value.is_empty()) {
        let place = resolved.line("FallbackDNS").map_or("systemd-resolved", |line| line.place.as_str());
        out.push(
            Finding::hint("resolved-fallback", place, "FallbackDNS= is not emptied")
                .why("built-in public servers are asked while no other server is known")
                .mend("FallbackDNS= with nothing behind it, as in packaging/integration/systemd-resolved.conf"),
        );
    }
    if out.len() == before {
        out.push(Finding::ok("resolved", "systemd-resolved", "it is in front of har and asks har for every name"));
    }
}
