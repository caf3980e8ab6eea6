//! `/etc/resolv.conf` as the C library reads it (resolv.conf(5)), and whether it leads programs to har.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::finding::Finding;
use super::root::{Content, Seen};
use super::{PAGE, Scene};
use crate::config::{Config, values};

/// The file.
pub const PATH: &str = "/etc/resolv.conf";
/// Name servers that glibc takes from the file (`MAXNS`).
const MOST_SERVERS: usize = 3;

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Addresses and their lines.
    pub servers: Vec<(IpAddr, usize)>,
    /// The suffixes of the last `search` or `domain` line.
    pub search: Vec<String>,
    /// Words of the `options` lines and their lines.
    pub options: Vec<(String, usize)>,
}

impl ResolvConf {
    /// Reads a text.
    pub fn parse(text: &str) -> ResolvConf {
        let mut found = ResolvConf::default();
        for (number, line) in text.lines().enumerate() {
            let mut words = line.split_ascii_whitespace();
            let rest = |words: std::str::SplitAsciiWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
            match words.next() {
                Some("nameserver") => {
                    // A scope (fe80::1%eth0) is of no matter here.
                    let address = words.next().and_then(|word| word.split('%').next()?.parse().ok());
                    found.servers.extend(address.map(|address| (address, number + 1)));
                }
                Some("search" | "domain") => found.search = rest(words),
                Some("options") => {
                    found.options.extend(rest(words).into_iter().map(|word| (word, number + 1)));
                }
                _ => {}
            }
        }
        found
    }

    /// The number of an option such as `ndots:2`, and its line.
    pub fn number(&self, option: &str) -> Option<(u32, usize)> {
        self.options.iter().rev().find_map(|(word, line)| {
            let (key, value) = word.split_once(':')?;
            (key == option).then(|| value.parse().ok()).flatten().map(|number| (number, *line))
        })
    }
}

/// Whom a name server address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// A listener of har's.
    Har,
    /// systemd-resolved's stub.
    Stub,
    /// Somebody else.
    Other,
}

/// Says what is wrong with the file.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    if !scene.facts.listen().iter().any(|address| address.port() == values::DNS_PORT) {
        out.push(
            Finding::warning("no-port-53", scene.config_shown(), "har listens on no address with port 53")
                .why("resolv.conf cannot name a port: programs always ask port 53")
                .mend("leave server.listen out (127.0.0.1:53 and [::1]:53), or have something on port 53 pass the queries on"),
        );
    }
    let Some(seen) = scene.facts.files.get(PATH).filter(|seen| seen.content != Content::Nothing) else {
        return missing(scene, out);
    };
    match &seen.content {
        Content::Text(_) => first_server(scene, seen, out),
        Content::Unreadable(why) => out.push(
            Finding::problem("resolv-conf-unreadable", PATH, format!("it cannot be read: {why}"))
                .why("programs without root fare the same and find no name server in it")
                .mend("chmod 644 /etc/resolv.conf"),
        ),
        _ => out.push(
            Finding::problem("resolv-conf-unreadable", PATH, "it is not a file")
                .why("the C library finds no name server in it")
                .mend("put a file there: `nameserver 127.0.0.1`"),
        ),
    }
    if !scene.resolv.servers.is_empty() {
        further_servers(scene, out);
        options(scene, out);
    }
}

/// Without the file the C library asks 127.0.0.1.
fn missing(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let found = match scene.facts.files.get(PATH).and_then(|seen| seen.link.as_deref()) {
        Some(target) => format!("it points at {target}, which does not exist"),
        None => "there is no such file".to_owned(),
    };
    out.push(
        Finding::warning("resolv-conf-missing", PATH, found)
            .why("glibc then asks 127.0.0.1, which is har; other programs (Go, Java, musl with options) differ or fail")
            .mend("write the file: `nameserver 127.0.0.1`"),
    );
}

/// The first server decides who is asked.
fn first_server(scene: &Scene<'_>, seen: &Seen, out: &mut Vec<Finding>) {
    let Some(&(address, line)) = scene.resolv.servers.first() else {
        out.push(
            Finding::hint("resolv-conf-empty", PATH, "it names no server")
                .why("glibc then asks 127.0.0.1, which is har; other programs may not")
                .mend("write it out: `nameserver 127.0.0.1`"),
        );
        return;
    };
    let place = format!("{PATH}:{line}");
    match scene.whose(address) {
        Server::Har => out.push(Finding::ok("resolv-conf", place, format!("programs ask har first ({address})"))),
        Server::Stub if scene.resolved.in_front => {
            let found = format!("programs ask systemd-resolved ({address}), which asks har");
            out.push(Finding::ok("resolv-conf", place, found));
        }
        // The findings about systemd-resolved say more.
        Server::Stub => {}
        Server::Other => {
            let link =
                seen.link.as_deref().map(|target| format!(" (the file is a link to {target})")).unwrap_or_default();
            let found = format!("the first name server is {address}, not har{link}");
            out.push(
                Finding::problem("resolv-conf-elsewhere", place, found)
                    .why("programs on this host do not ask har first: its answers have no effect")
                    .mend(format!("{}; {PAGE}", scene.writer.mend())),
            );
        }
    }
}

fn further_servers(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let servers = &scene.resolv.servers;
    let har_is_named = servers.iter().any(|(address, _)| scene.whose(*address) == Server::Har);
    let others: Vec<&(IpAddr, usize)> =
        servers.iter().filter(|(address, _)| scene.whose(*address) != Server::Har).collect();
    if har_is_named && let Some((address, line)) = others.first() {
        out.push(
            Finding::warning(
                "second-nameserver",
                format!("{PATH}:{line}"),
                format!("{address} is named beside har"),
            )
            .why(
                "musl asks all servers at once and takes the first answer, har's or not; glibc asks it whenever har is \
                 late or says SERVFAIL",
            )
            .mend("leave har alone in the file; Restart=always, the socket unit and the watchdog are the safety net"),
        );
    }
    if servers.len() > MOST_SERVERS {
        let (_, line) = servers[MOST_SERVERS];
        out.push(
            Finding::hint("too-many-nameservers", format!("{PATH}:{line}"), format!("{} name servers", servers.len()))
                .why("glibc takes the first three and ignores the rest")
                .mend("leave har alone in the file"),
        );
    }
}

fn options(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let resolv = scene.resolv;
    if let Some((_, line)) = resolv.options.iter().find(|(word, _)| word == "rotate")
        && resolv.servers.len() > 1
    {
        out.push(
            Finding::warning("rotate", format!("{PATH}:{line}"), "options rotate, with more than one name server")
                .why("glibc begins with another server in turn: some queries go to har, some past it")
                .mend("take the word out, or leave har alone in the file"),
        );
    }
    if let Some(config) = scene.config {
        patience(scene, config, out);
        searched(scene, config, out);
    }
}

/// Whether programs give up before har does.
fn patience(scene: &Scene<'_>, config: &Config, out: &mut Vec<Finding>) {
    /// glibc's own (`RES_TIMEOUT`, `RES_DFLRETRY`).
    const DEFAULTS: (u32, u32) = (5, 2);
    let timeout = scene.resolv.number("timeout");
    let attempts = scene.resolv.number("attempts");
    let Some((_, line)) = timeout.or(attempts) else { return };
    let seconds = timeout.map_or(DEFAULTS.0, |(seconds, _)| seconds);
    let attempts = attempts.map_or(DEFAULTS.1, |(attempts, _)| attempts);
    if u128::from(seconds) * u128::from(attempts) * 1000 < config.upstream.timeout.as_millis() {
        let found = format!("programs wait {seconds} s, {attempts} times");
        out.push(
            Finding::hint("impatient", format!("{PATH}:{line}"), found)
                .why(format!(
                    "har tries its upstream servers for up to {} (upstream.timeout) and would still have an answer",
                    values::show_duration(config.upstream.timeout)
                ))
                .mend("raise `timeout:` or `attempts:`, or lower upstream.timeout"),
        );
    }
}

/// Configured names that programs ask for with a suffix behind them first.
fn searched(scene: &Scene<'_>, config: &Config, out: &mut Vec<Finding>) {
    let ndots = scene.resolv.number("ndots").map_or(1, |(dots, _)| dots);
    let Some(suffix) = scene.resolv.search.first() else { return };
    let few = |name: &&crate::config::Name| (name.name.labels() as u64) <= u64::from(ndots);
    if let Some(name) = config.names.iter().find(few) {
        out.push(
            Finding::hint("searched-first", PATH, format!("{} has fewer dots than ndots:{ndots} asks for", name.name))
                .why(format!(
                    "programs ask for {}.{suffix} first, which har forwards; it costs a query upstream each time",
                    name.name
                ))
                .mend("ask for it with a dot at its end, lower ndots, or configure the long name"),
        );
    }
}

/// Whether `::1` is named without being there; used by the findings on IPv6.
pub fn names_v6_loopback(scene: &Scene<'_>) -> Option<usize> {
    let is_loopback = |(address, _): &&(IpAddr, usize)| *address == IpAddr::V6(Ipv6Addr::LOCALHOST);
    scene.resolv.servers.iter().find(is_loopback).map(|(_, line)| *line)
}

/// systemd-resolved's two stubs (systemd-resolved.service(8)).
pub fn is_stub(address: IpAddr) -> bool {
    [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)].iter().any(|stub| address == IpAddr::V4(*stub))
}
