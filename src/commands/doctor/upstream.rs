//! The upstream servers: are there any, do they answer, do they lead back to har.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::ask::{Heard, Upstream};
use super::facts::{Facts, shown};
use super::finding::Finding;
use super::listeners::code;
use super::resolv_conf::is_stub;
use super::{PAGE, Scene};
use crate::config::Servers;
use crate::dns::wire::rcode;
use crate::poll::resolv_conf::{AUTO, is_own, parse};
use crate::store::UpstreamRow;

/// The general servers that har would use now, and the file they are from.
pub fn servers(facts: &Facts) -> (Vec<SocketAddr>, Option<String>) {
    let configured = facts.config.as_ref().map_or(&Servers::Auto, |config| &config.upstream.servers);
    let files: Vec<String> = match configured {
        Servers::Listed(servers) => return (servers.clone(), None),
        Servers::File(file) => vec![shown(file)],
        Servers::Auto => AUTO.iter().map(|file| format!("/{file}")).collect(),
    };
    let listen = facts.listen();
    let listed = |file: &String| {
        let mut servers = parse(facts.files.text(file)?);
        servers.retain(|server| !is_own(*server, &listen));
        (!servers.is_empty()).then_some((servers, Some(file.clone())))
    };
    files.iter().find_map(listed).unwrap_or_default()
}

/// Says what is wrong with them.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let before = out.len();
    let (servers, file) = servers(scene.facts);
    if servers.is_empty() {
        return out.push(none(scene));
    }
    loops(scene, &servers, file.as_deref(), out);
    left_out(scene, &servers, out);
    silence(scene, out);
    if out.len() == before {
        let list: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
        let answering = match (&scene.facts.asked, servers.len()) {
            (None, _) => "",
            (Some(_), 1) => ", which answers",
            (Some(_), _) => ", which all answer",
        };
        let place = file.unwrap_or_else(|| scene.config_shown());
        out.push(Finding::ok("upstream", place, format!("har asks {}{answering}", list.join(", "))));
    }
}

/// No server at all.
fn none(scene: &Scene<'_>) -> Finding {
    let why = "names that are not configured get SERVFAIL, and candidates that are names cannot be looked up";
    let configured = scene.config.map(|config| &config.upstream.servers);
    let Some(Servers::File(file)) = configured else {
        return Finding::problem("no-upstream", "upstream.resolv_conf", "\"auto\" finds no server other than har")
            .why(why)
            .mend(format!("name them: upstream.servers in har.toml; {PAGE}"));
    };
    let file = shown(file);
    let found = match scene.facts.files.get(&file) {
        Some(seen) if seen.text().is_some() => "it names no server other than har",
        Some(_) => "it cannot be read",
        None => "upstream.resolv_conf names this file, and there is none",
    };
    Finding::problem("no-upstream", file, found)
        .why(why)
        .mend(format!("see to the program that writes the file, or name the servers: upstream.servers; {PAGE}"))
}

/// Ways back to har that can be told from files.
fn loops(scene: &Scene<'_>, servers: &[SocketAddr], file: Option<&str>, out: &mut Vec<Finding>) {
    let Some(stub) = servers.iter().find(|server| is_stub(server.ip())) else { return };
    let place = file.map_or_else(|| scene.config_shown(), str::to_owned);
    if scene.resolved.in_front {
        out.push(
            Finding::problem("loop", place, format!("har asks systemd-resolved ({stub}), and systemd-resolved asks har"))
                .why("queries go round until somebody gives up: har leaves that server out and has none")
                .mend("upstream.resolv_conf = \"/run/systemd/resolve/resolv.conf\", where the servers of the links are, or upstream.servers"),
        );
    } else if file.is_none_or(|file| file != "/run/systemd/resolve/resolv.conf") {
        out.push(
            Finding::hint("upstream-stub", place, format!("har asks systemd-resolved's stub ({stub})"))
                .why("one process more on the way of each query, with a cache of its own")
                .mend("upstream.resolv_conf = \"/run/systemd/resolve/resolv.conf\" asks the same servers without it"),
        );
    }
}

/// Servers that the running daemon does not use.
fn left_out(scene: &Scene<'_>, servers: &[SocketAddr], out: &mut Vec<Finding>) {
    let Some(kept) = scene.kept().filter(|_| scene.runs_har()) else { return };
    let asked = scene.facts.asked.as_ref().map(|asked| asked.upstreams.as_slice()).unwrap_or_default();
    // What it did not say here either is told below.
    let is_silent = |address| asked.iter().any(|upstream| upstream.address == address && is_dead(upstream));
    // A server in several lists has a row for each.
    let mut told = HashSet::new();
    for row in kept.upstreams.iter().filter(|row| servers.contains(&row.address) && told.insert(row.address)) {
        let place = row.address.to_string();
        if row.note == UpstreamRow::LOOP {
            out.push(
                Finding::problem("loop-found", place, "the running har has left this upstream server out")
                    .why("it sent har's own queries back to har: whoever it is forwards to this host's har")
                    .mend("have that server forward elsewhere, or name another one; har tests it again every 60 s"),
            );
        } else if row.note == UpstreamRow::DEAD && !is_silent(row.address) {
            out.push(
                Finding::warning("upstream-dead", place, "the running har has had no reply from this server of late")
                    .why("har goes on with the others and tries it again every few seconds; should they fail, nothing is left")
                    .mend("see to the server and to the way there (upstream.source, a packet filter), or take it out"),
            );
        }
    }
}

fn is_dead(upstream: &Upstream) -> bool {
    !matches!(upstream.heard, Heard::Reply { .. })
}

/// Servers that did not answer, or not well.
fn silence(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let asked = scene.facts.asked.as_ref().map(|asked| asked.upstreams.as_slice()).unwrap_or_default();
    let mut general = asked.iter().filter(|upstream| upstream.route.is_none()).peekable();
    if general.peek().is_some() && general.clone().all(is_dead) {
        let list: Vec<String> = general.map(said).collect();
        out.push(
            Finding::problem("upstreams-silent", "upstream", format!("no server answers: {}", list.join("; ")))
                .why("names that are not configured get SERVFAIL")
                .mend("see to the network, a packet filter on port 53, or the list of servers"),
        );
    } else {
        for upstream in general.filter(|upstream| is_dead(upstream)) {
            out.push(
                Finding::warning("upstream-silent", upstream.address.to_string(), said(upstream))
                    .why("har goes on with the others; should they fail, nothing is left")
                    .mend("take the server out, or see to it"),
            );
        }
    }
    for upstream in asked.iter().filter(|upstream| upstream.route.is_some() && is_dead(upstream)) {
        let route = upstream.route.as_deref().unwrap_or_default();
        out.push(
            Finding::warning(
                "route-silent",
                upstream.address.to_string(),
                format!("{}, the server for {route}", said(upstream)),
            )
            .why(format!("names below {route} get SERVFAIL while no server of the route answers"))
            .mend("start the VPN that leads there; if it is down on purpose, nothing is to be done"),
        );
    }
    refusals(asked, out);
}

fn refusals(asked: &[Upstream], out: &mut Vec<Finding>) {
    for upstream in asked {
        let Heard::Reply { rcode: number @ (rcode::SERVFAIL | rcode::REFUSED), .. } = upstream.heard else { continue };
        out.push(
            Finding::warning(
                "upstream-error",
                upstream.address.to_string(),
                format!("it answers with {}", code(number)),
            )
            .why("a server that does not resolve for this host makes har ask a second one each time")
            .mend("take the server out, or have it allow recursion for this host"),
        );
    }
}

fn said(upstream: &Upstream) -> String {
    match &upstream.heard {
        Heard::Refused(why) => format!("{} does not answer ({why})", upstream.address),
        _ => format!("{} is silent", upstream.address),
    }
}
