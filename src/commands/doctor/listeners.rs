//! har's own listeners: who has their ports, whether har runs and answers there, and IPv6.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Scene;
use super::ask::{Heard, Listener};
use super::facts::Port;
use super::finding::Finding;
use super::resolv_conf;
use crate::dns::wire::rcode;
use crate::os::holder::{Held, Holder};

/// Says what is wrong with the listeners.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    ipv6(scene, out);
    let needed = scene.facts.ports.iter().filter(|port| !is_optional(scene, port.address));
    let before = out.len();
    needed.for_each(|port| holders(port, out));
    let taken = out.len() > before;
    let asked = scene.facts.asked.as_ref().map(|asked| asked.listeners.as_slice()).unwrap_or_default();
    let heard = asked.iter().filter(|listener| !is_optional(scene, listener.address));
    let silent = scene.facts.ports.iter().all(|port| port.udp == Held::Free && port.tcp == Held::Free);
    if silent && scene.facts.asked.is_some() {
        return out.push(not_running());
    }
    if !taken {
        heard.for_each(|listener| answers(scene, listener, out));
    }
}

/// `::1` may be missing unless har listens nowhere else.
fn is_optional(scene: &Scene<'_>, address: SocketAddr) -> bool {
    !is_alone(scene) && !has_v6_loopback(scene) && address.is_ipv6()
}

fn is_alone(scene: &Scene<'_>) -> bool {
    scene.config.is_some_and(|config| config.server.listen.iter().all(SocketAddr::is_ipv6))
}

fn not_running() -> Finding {
    Finding::problem("not-running", "har", "no daemon runs: nobody listens on any address of server.listen")
        .why("programs that are told to ask har get no answer for any name")
        .mend("systemctl enable --now har.service; why it ended is in `journalctl -u har`")
}

/// Ports that somebody else has.
fn holders(port: &Port, out: &mut Vec<Finding>) {
    for (held, protocol) in [(&port.udp, "UDP"), (&port.tcp, "TCP")] {
        let place = format!("{} ({protocol})", port.address);
        match held {
            Held::By(holder) if !is_har(holder) => {
                out.push(
                    Finding::problem("port-taken", place, format!("{holder} has the port"))
                        .why("har cannot listen there, and what programs ask goes to that process")
                        .mend(give_way(&holder.command, port.address)),
                );
            }
            Held::By(_) | Held::Free | Held::Unseen => {}
        }
    }
}

/// systemd has the sockets of `har.socket` until har is started.
fn is_har(holder: &Holder) -> bool {
    holder.command == "har" || holder.pid == 1
}

/// How a known server leaves the port.
fn give_way(command: &str, address: SocketAddr) -> String {
    let how = match command {
        "dnsmasq" => {
            "dnsmasq: `port=0` when it only serves DHCP, or `except-interface=lo` with `bind-interfaces`; under NetworkManager dns=none"
        }
        "unbound" => "unbound: `interface:` and `port:` elsewhere, then har may ask it as its upstream",
        "named" => "BIND: `listen-on` and `listen-on-v6` without loopback, or another port",
        "systemd-resolve" => "systemd-resolved: take DNSStubListenerExtra= with this address out",
        "connmand" => "ConnMan: start it with --nodnsproxy",
        "pdns_server" | "pdns_recursor" => "PowerDNS: local-address elsewhere",
        "coredns" | "node-cache" => "a DNS server of Kubernetes: bind it elsewhere",
        _ => "stop it, move it to another address, or change server.listen",
    };
    format!("{how}; `ss -lntup sport = :{}` shows it", address.port())
}

/// What came of the question.
fn answers(scene: &Scene<'_>, listener: &Listener, out: &mut Vec<Finding>) {
    let before = out.len();
    for (heard, protocol) in [(&listener.udp, "UDP"), (&listener.tcp, "TCP")] {
        let place = format!("{} ({protocol})", listener.address);
        let found = match heard {
            Heard::Reply { rcode: rcode::NOERROR, authoritative } => {
                if listener.configured && !authoritative {
                    out.push(foreign(listener, &place));
                }
                continue;
            }
            Heard::Reply { rcode, .. } => {
                let found = format!("{} A is answered with {}", listener.name, code(*rcode));
                out.push(
                    Finding::warning("listener-error", place, found)
                        .why("programs get no address for that name")
                        .mend(format!("har explain {}", listener.name)),
                );
                continue;
            }
            Heard::Silence => "it is silent".to_owned(),
            Heard::Refused(why) => format!("it does not answer: {why}"),
        };
        out.push(
            Finding::problem("listener-silent", place, found)
                .why("programs that are told to ask har get no answer for any name")
                .mend(match scene.runs_har() {
                    true if *heard == Heard::Silence && scene.has_port(listener.address) => {
                        "the daemon has this address and is silent: its process hangs, `systemctl restart har`; if it does not, a packet filter is in the way on loopback"
                    }
                    true => "the daemon runs and has not this address: after a change of server.listen `systemctl reload har`, and `journalctl -u har` for what it says to that; else a packet filter is in the way on loopback",
                    false => "systemctl enable --now har.service; why it ended is in `journalctl -u har`",
                }),
        );
    }
    if out.len() == before {
        let found = format!("har answers {} A over UDP and TCP", listener.name);
        out.push(Finding::ok("listener", listener.address.to_string(), found));
    }
}

/// An answer that is not har's.
fn foreign(listener: &Listener, place: &str) -> Finding {
    let found = format!("{} is answered without authority", listener.name);
    Finding::warning("listener-foreign", place, found)
        .why("har answers its names with authority: the name is bypassed, another configuration is loaded, or another server listens there")
        .mend(format!("`har overrides`, `systemctl reload har`, `ss -lntup sport = :{}`", listener.address.port()))
}

/// A response code in words.
pub fn code(number: u16) -> String {
    match number {
        rcode::SERVFAIL => "SERVFAIL".to_owned(),
        rcode::NXDOMAIN => "NXDOMAIN".to_owned(),
        rcode::REFUSED => "REFUSED".to_owned(),
        rcode::NOTIMP => "NOTIMP".to_owned(),
        rcode::FORMERR => "FORMERR".to_owned(),
        other => format!("code {other}"),
    }
}

/// Whether this host has `::1`, as far as the kernel tells.
fn has_v6_loopback(scene: &Scene<'_>) -> bool {
    const LOOPBACK: &str = "00000000000000000000000000000001";
    let files = &scene.facts.files;
    let on = scene.facts.number("/proc/sys/net/ipv6/conf/lo/disable_ipv6") != Some(1);
    on && files.text("/proc/net/if_inet6").is_some_and(|text| text.lines().any(|line| line.starts_with(LOOPBACK)))
}

fn ipv6(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let listens = scene.facts.ports.iter().any(|port| port.address.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST));
    // Without any process table nothing is known of this host's kernel.
    if has_v6_loopback(scene) || scene.facts.processes.is_empty() {
        return;
    }
    if let Some(line) = resolv_conf::names_v6_loopback(scene) {
        let place = format!("{}:{line}", resolv_conf::PATH);
        out.push(
            Finding::problem("no-ipv6-nameserver", place, "it names ::1, which this host does not have (IPv6 is off)")
                .why("each query to it fails, and programs lose time before they ask the next server")
                .mend("take the line out: 127.0.0.1 is enough"),
        );
    }
    if !listens {
        return;
    }
    if is_alone(scene) {
        out.push(
            Finding::problem(
                "no-ipv6-listener",
                "[::1]",
                "server.listen names ::1 alone, which this host does not have (IPv6 is off)",
            )
            .why("har does not start: there is nothing to listen on")
            .mend("add 127.0.0.1 to server.listen, or turn IPv6 on (net.ipv6.conf.lo.disable_ipv6 = 0)"),
        );
    } else {
        out.push(
            Finding::hint("no-ipv6", "[::1]", "this host has no ::1 (IPv6 is off)")
                .why("har listens on 127.0.0.1 alone, which is enough")
                .mend("nothing, as long as resolv.conf names 127.0.0.1"),
        );
    }
}
