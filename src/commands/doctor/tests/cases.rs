//! The faults: what is changed on the sound host, and what is found for it.

use super::*;
use crate::config::{Problem, Report};
use crate::os::privileges::Closed;
use crate::store::{ReadError, Unreadable};

/// A host with a fault.
pub struct Case {
    pub what: &'static str,
    /// What is other in its files.
    pub host: fn(&Host),
    /// What is other in what was heard, or cannot be fabricated with files.
    pub facts: fn(&mut Facts),
    /// Everything that is to be found.
    pub found: &'static [&'static str],
}

const fn files(what: &'static str, host: fn(&Host), found: &'static [&'static str]) -> Case {
    Case { what, host, facts: |_| {}, found }
}

const fn heard(what: &'static str, facts: fn(&mut Facts), found: &'static [&'static str]) -> Case {
    Case { what, host: |_| {}, facts, found }
}

const fn both(what: &'static str, host: fn(&Host), facts: fn(&mut Facts), found: &'static [&'static str]) -> Case {
    Case { what, host, facts, found }
}

/// The general upstream servers' replies.
fn upstreams(facts: &mut Facts, heard: &[Heard]) {
    let upstreams = &mut facts.asked.as_mut().unwrap().upstreams;
    let first = upstreams[0].clone();
    *upstreams = heard.iter().map(|heard| Upstream { heard: heard.clone(), ..first.clone() }).collect();
}

fn first_listener(facts: &mut Facts) -> &mut Listener {
    &mut facts.asked.as_mut().unwrap().listeners[0]
}

fn kept(facts: &mut Facts) -> &mut Kept {
    facts.state.kept.as_mut().unwrap().as_mut().unwrap()
}

/// A server that the daemon does not use.
fn unused(address: &str, note: &str) -> UpstreamRow {
    UpstreamRow {
        address: address.parse().unwrap(),
        route: String::new(),
        usable: false,
        note: note.to_owned(),
        queries: 9,
        answers: 0,
        timeouts: 9,
        servfail: 0,
        rtt_ms: None,
    }
}

fn config(host: &Host, from: &str, to: &str) {
    assert!(CONFIG.contains(from));
    host.put("etc/har/har.toml", &CONFIG.replace(from, to));
}

fn resolved(host: &Host, text: &str) {
    host.process(204, "systemd-resolve").put("etc/systemd/resolved.conf.d/x.conf", text);
}

/// As the packages of systemd set it up.
fn stub(host: &Host) {
    host.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        .put("run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\n");
}

fn front(host: &Host, more: &str) {
    stub(host);
    resolved(host, &format!("[Resolve]\nDNS=127.0.0.1\nDomains=~.\nFallbackDNS=\n{more}\n"));
}

pub const CASES: &[Case] = &[
    // The configuration.
    files(
        "no configuration",
        |host| {
            host.remove("etc/har/har.toml");
        },
        &["problem config-missing", "problem no-upstream"],
    ),
    files(
        "an unknown key",
        |host| config(host, "servers", "sevrers"),
        &["problem config-invalid", "problem no-upstream"],
    ),
    files(
        "everybody writes it",
        |host| {
            host.mode("etc/har/har.toml", 0o666);
        },
        &["problem config-open"],
    ),
    files(
        "everybody writes an included file",
        |host| {
            host.put("etc/har/har.toml", &format!("include = [\"more.toml\"]\n{CONFIG}"));
            host.put("etc/har/more.toml", "").mode("etc/har/more.toml", 0o666);
        },
        &["problem config-open"],
    ),
    heard(
        "a configuration that is not this user's to read",
        |facts| {
            let mut closed = Problem::of_file(Path::new("/etc/har/har.toml"), "cannot read it");
            closed.denied = true;
            facts.config = Err(Report(vec![closed]));
        },
        &["problem no-upstream", "warning config-closed"],
    ),
    heard(
        "a file that the daemon's user may not read",
        |facts| {
            let mend = "chgrp har /etc/har/x.toml; chmod 640 /etc/har/x.toml".to_owned();
            facts.runner.closed = vec![Closed { path: "/etc/har/x.toml".into(), mend }];
            facts.runner.name = "har (server.user)".to_owned();
        },
        &["problem config-unreadable"],
    ),
    heard(
        "a user who does not exist",
        |facts| facts.runner.missing = Some("server.user \"x\" does not exist; create it".to_owned()),
        &["problem no-user"],
    ),
    heard(
        "a reload that was refused",
        |facts| kept(facts).refused = Some(("2026-06-01".to_owned(), "it was invalid".to_owned())),
        &["warning reload-refused"],
    ),
    files(
        "a time-out above the default interval",
        |host| {
            config(
                host,
                "check = \"tcp:80\"\ncandidates = [\"192.0.2.7\"]",
                "check = \"tcp:80\"\ntimeout = \"20s\"\ncandidates = [\"192.0.2.7\"]",
            )
        },
        &["hint config-warning"],
    ),
    // resolv.conf.
    files(
        "another server",
        |host| {
            host.put("etc/resolv.conf", "search a.example\nnameserver 10.0.0.2\n");
        },
        &["problem resolv-conf-elsewhere"],
    ),
    files(
        "another server first",
        |host| {
            host.put("etc/resolv.conf", "nameserver 10.0.0.2\nnameserver 127.0.0.1\n");
        },
        &["problem resolv-conf-elsewhere", "warning second-nameserver"],
    ),
    files(
        "a second server",
        |host| {
            host.put("etc/resolv.conf", "nameserver 127.0.0.1\nnameserver 10.0.0.2\n");
        },
        &["warning second-nameserver"],
    ),
    files(
        "both of har's are no second server",
        |host| {
            host.put("etc/resolv.conf", "nameserver 127.0.0.1\nnameserver ::1\n");
        },
        &[],
    ),
    files(
        "five servers",
        |host| {
            let text: String = (1..5).map(|n| format!("nameserver 10.0.0.{n}\n")).collect();
            host.add("etc/resolv.conf", &text);
        },
        &["hint too-many-nameservers", "warning second-nameserver"],
    ),
    files(
        "rotate",
        |host| {
            host.add("etc/resolv.conf", "nameserver 10.0.0.2\noptions edns0 rotate\n");
        },
        &["warning rotate", "warning second-nameserver"],
    ),
    files(
        "rotate with one server",
        |host| {
            host.add("etc/resolv.conf", "options rotate\n");
        },
        &[],
    ),
    files(
        "programs that give up early",
        |host| {
            host.add("etc/resolv.conf", "options timeout:1 attempts:2\n");
        },
        &["hint impatient"],
    ),
    files(
        "names that are searched for first",
        |host| {
            host.add("etc/resolv.conf", "search corp.example\noptions ndots:5\n");
        },
        &["hint searched-first"],
    ),
    files(
        "a search list alone",
        |host| {
            host.add("etc/resolv.conf", "search corp.example\n");
        },
        &[],
    ),
    files(
        "no file",
        |host| {
            host.remove("etc/resolv.conf");
        },
        &["warning resolv-conf-missing"],
    ),
    files(
        "a link that leads nowhere",
        |host| {
            host.link("etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf");
        },
        &["warning resolv-conf-missing"],
    ),
    files(
        "a folder",
        |host| {
            host.remove("etc/resolv.conf").put("etc/resolv.conf/x", "");
        },
        &["problem resolv-conf-unreadable"],
    ),
    files(
        "no server in it",
        |host| {
            host.put("etc/resolv.conf", "# nameserver 127.0.0.1\n");
        },
        &["hint resolv-conf-empty"],
    ),
    files(
        "har on another port",
        |host| config(host, "[upstream]", "[server]\nlisten = [\"127.0.0.1:5300\"]\n[upstream]"),
        &["problem not-running", "problem resolv-conf-elsewhere", "warning no-port-53"],
    ),
    // Who writes it.
    files(
        "NetworkManager",
        |host| {
            host.process(201, "NetworkManager")
                .put("etc/NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\n");
        },
        &["warning resolv-conf-rewritten"],
    ),
    files(
        "a drop-in undone by a later one",
        |host| {
            host.process(201, "NetworkManager")
                .put("usr/lib/NetworkManager/conf.d/zz.conf", "[main]\ndns=none\n")
                .put("etc/NetworkManager/conf.d/aa.conf", "[main]\ndns=default\n");
        },
        &["warning resolv-conf-rewritten"],
    ),
    files(
        "dhclient",
        |host| {
            host.process(202, "dhclient").put("etc/dhcp/dhclient-enter-hooks.d/debug", "set | logger\n");
        },
        &["warning resolv-conf-rewritten"],
    ),
    files(
        "dhcpcd",
        |host| {
            host.process(202, "dhcpcd").put("etc/dhcpcd.conf", "hostname\n#nohook resolv.conf\n");
        },
        &["warning resolv-conf-rewritten"],
    ),
    files(
        "dhcpcd without its hook",
        |host| {
            host.process(202, "dhcpcd").put("etc/dhcpcd.conf", "nohook lookup-hostname, resolv.conf\n");
        },
        &[],
    ),
    files(
        "openresolv",
        |host| {
            host.put("sbin/resolvconf", "")
                .put("etc/resolvconf.conf", "resolv_conf=/etc/resolv.conf\n#name_servers=127.0.0.1\n");
        },
        &["warning resolv-conf-rewritten"],
    ),
    files(
        "cloud-init",
        |host| {
            host.put(
                "etc/cloud/cloud.cfg.d/50.cfg",
                "manage_resolv_conf: true\nresolv_conf:\n  nameservers: ['8.8.8.8']\n",
            );
        },
        &["warning resolv-conf-rewritten"],
    ),
    files(
        "dns-nameservers that nobody reads",
        |host| {
            host.put("etc/network/interfaces", "iface eth0 inet static\n  dns-nameservers 10.0.0.2\n");
        },
        &["hint dead-dns-nameservers"],
    ),
    // nsswitch.conf and hosts.
    files(
        "no dns",
        |host| {
            host.put("etc/nsswitch.conf", "hosts: files\n");
        },
        &["problem nss-no-dns"],
    ),
    files(
        "nss-resolve past har",
        |host| {
            host.process(204, "systemd-resolve")
                .put("etc/nsswitch.conf", "hosts: files resolve [!UNAVAIL=return] dns\n");
        },
        &["problem nss-resolve"],
    ),
    files(
        "nss-resolve without systemd-resolved goes on to dns",
        |host| {
            host.put("etc/nsswitch.conf", "hosts: files resolve [!UNAVAIL=return] dns\n");
        },
        &[],
    ),
    files(
        "multicast DNS that ends the search",
        |host| {
            host.put("etc/nsswitch.conf", "hosts: files mdns4 [NOTFOUND=return] dns\n");
        },
        &["problem nss-mdns"],
    ),
    files(
        "the usual multicast DNS",
        |host| {
            host.put("etc/nsswitch.conf", "hosts: files mdns4_minimal [NOTFOUND=return] dns\n");
        },
        &[],
    ),
    files(
        "a configured name in .local",
        |host| {
            config(host, "api.example.com", "api.local");
            host.put("etc/nsswitch.conf", "hosts: files mdns4_minimal [NOTFOUND=return] dns\n");
        },
        &["problem nss-mdns-local"],
    ),
    files(
        "this host's own name is configured",
        |host| {
            host.put("etc/nsswitch.conf", "hosts: files myhostname dns\n").put("etc/hostname", "api.example.com\n");
        },
        &["warning nss-myhostname"],
    ),
    files(
        "sssd",
        |host| {
            host.put("etc/nsswitch.conf", "hosts: files dns sss\n");
        },
        &["hint sss"],
    ),
    files(
        "a configured name in hosts",
        |host| {
            host.add("etc/hosts", "192.0.2.1 old API.example.com # since 2019\n");
        },
        &["problem hosts-file"],
    ),
    files(
        "a name below a wildcard in hosts",
        |host| {
            host.add(
                "etc/hosts",
                "192.0.2.1 one.apps.example.com\n#192.0.2.2 api.example.com\n192.0.2.3 xapps.example.com\n",
            );
        },
        &["problem hosts-file"],
    ),
    // systemd-resolved.
    files(
        "the stub, and no way to har",
        |host| {
            stub(host);
            resolved(host, "[Resolve]\nDNS=10.0.0.2\n");
        },
        &["problem resolved-past-har"],
    ),
    files("the stub of a service that is gone", stub, &["problem resolved-gone"]),
    files("behind har", |host| resolved(host, "[Resolve]\nDNS=10.0.0.2\n"), &[]),
    files("another server beside har", |host| front(host, "DNS=10.0.0.2"), &["warning resolved-other-servers"]),
    files(
        "servers of links beside har",
        |host| {
            stub(host);
            resolved(host, "[Resolve]\nDNS=127.0.0.1\nFallbackDNS=\n");
        },
        &["warning resolved-no-routing"],
    ),
    files(
        "built-in servers",
        |host| {
            stub(host);
            resolved(host, "[Resolve]\nDNS=127.0.0.1\nDomains=~.\n");
        },
        &["hint resolved-fallback"],
    ),
    files("DNS over TLS to har", |host| front(host, "DNSOverTLS=yes"), &["problem resolved-tls"]),
    files("a validator in front of har", |host| front(host, "DNSSEC=yes"), &["hint resolved-dnssec"]),
    files(
        "a stub on har's address",
        |host| front(host, "DNSStubListenerExtra=udp:127.0.0.1"),
        &["problem resolved-extra-stub"],
    ),
    // The listeners.
    both(
        "dnsmasq has the port",
        |host| {
            host.no_sockets().process(300, "dnsmasq").socket("udp", "0.0.0.0", 300).socket("tcp", "0.0.0.0", 300);
        },
        |facts| {
            // It does not keep ::1 free.
            facts.state.kept = None;
            facts.state.file = None;
        },
        &["hint state-none", "problem port-taken"],
    ),
    both(
        "nobody listens",
        |host| {
            host.no_sockets();
        },
        |facts| kept(facts).life = Life::Stopped,
        &["problem not-running"],
    ),
    heard("a silent listener", |facts| first_listener(facts).udp = Heard::Silence, &["problem listener-silent"]),
    heard(
        "a closed port",
        |facts| first_listener(facts).tcp = Heard::Refused("connection refused".to_owned()),
        &["problem listener-silent"],
    ),
    heard(
        "an error for a configured name",
        |facts| first_listener(facts).udp = Heard::Reply { rcode: 2, authoritative: false },
        &["warning listener-error"],
    ),
    heard(
        "somebody else's answer",
        |facts| first_listener(facts).udp = Heard::Reply { rcode: 0, authoritative: false },
        &["warning listener-foreign"],
    ),
    files(
        "IPv6 off",
        |host| {
            host.remove("proc/net/udp6").remove("proc/net/tcp6").put("proc/sys/net/ipv6/conf/lo/disable_ipv6", "1\n");
        },
        &["hint no-ipv6"],
    ),
    files(
        "IPv6 off, and asked for alone",
        |host| {
            host.remove("proc/net/if_inet6");
            config(host, "[upstream]", "[server]\nlisten = [\"[::1]:53\"]\n[upstream]");
            host.add("etc/resolv.conf", "nameserver ::1\n");
        },
        &[
            "problem no-ipv6-listener",
            "problem no-ipv6-nameserver",
            "problem resolv-conf-elsewhere",
            "warning second-nameserver",
        ],
    ),
    // The upstream servers.
    files("no server anywhere", |host| config(host, "servers = [\"10.0.0.2\"]", ""), &["problem no-upstream"]),
    files(
        "a file that is not there",
        |host| config(host, "servers = [\"10.0.0.2\"]", "resolv_conf = \"/run/har-upstream.conf\""),
        &["problem no-upstream"],
    ),
    files(
        "a file that names har",
        |host| {
            config(host, "servers = [\"10.0.0.2\"]", "resolv_conf = \"/run/har-upstream.conf\"");
            host.put("run/har-upstream.conf", "nameserver 127.0.0.1\n");
        },
        &["problem no-upstream"],
    ),
    files(
        "a file that names another",
        |host| {
            config(host, "servers = [\"10.0.0.2\"]", "resolv_conf = \"/run/har-upstream.conf\"");
            host.put("run/har-upstream.conf", "nameserver 127.0.0.1\nnameserver 10.0.0.3\n");
        },
        &[],
    ),
    files(
        "round in a circle with systemd-resolved",
        |host| {
            front(host, "");
            config(host, "10.0.0.2", "127.0.0.53");
        },
        &["problem loop"],
    ),
    files(
        "by way of systemd-resolved's stub",
        |host| {
            resolved(host, "[Resolve]\n");
            config(host, "10.0.0.2", "127.0.0.53");
        },
        &["hint upstream-stub"],
    ),
    heard(
        "a loop that the daemon has found",
        |facts| {
            kept(facts).upstreams = vec![unused("10.0.0.2:53", UpstreamRow::LOOP)];
        },
        &["problem loop-found"],
    ),
    heard(
        "a dead upstream that answers whoever looks, and one that is not listed",
        |facts| {
            let rows = [("10.0.0.2:53", UpstreamRow::DEAD), ("10.0.0.7:53", UpstreamRow::DEAD)];
            kept(facts).upstreams = rows.map(|(address, note)| unused(address, note)).to_vec();
        },
        &["warning upstream-dead"],
    ),
    heard(
        "an upstream that is dead to the daemon and to whoever looks",
        |facts| {
            kept(facts).upstreams = vec![unused("10.0.0.2:53", UpstreamRow::DEAD)];
            upstreams(facts, &[Heard::Silence]);
        },
        &["problem upstreams-silent"],
    ),
    heard("a dead upstream", |facts| upstreams(facts, &[Heard::Silence]), &["problem upstreams-silent"]),
    heard(
        "one of two is dead",
        |facts| upstreams(facts, &[Heard::Silence, Heard::Reply { rcode: 0, authoritative: false }]),
        &["warning upstream-silent"],
    ),
    heard(
        "an upstream that refuses",
        |facts| upstreams(facts, &[Heard::Reply { rcode: 5, authoritative: false }]),
        &["warning upstream-error"],
    ),
    heard(
        "a route whose VPN is down",
        |facts| {
            let address = "10.8.0.1:53".parse().unwrap();
            let route = Some("corp.example".to_owned());
            let heard = Heard::Refused("network is unreachable".to_owned());
            facts.asked.as_mut().unwrap().upstreams.push(Upstream { address, route, heard });
        },
        &["warning route-silent"],
    ),
    // Containers.
    files(
        "Docker is told nothing",
        |host| {
            host.process(400, "dockerd");
        },
        &["warning docker-dns"],
    ),
    files(
        "Docker is told loopback",
        |host| {
            host.put("etc/docker/daemon.json", "{\"dns\": [\"127.0.0.1\"]}");
        },
        &["problem docker-dns"],
    ),
    files(
        "Docker's file is broken",
        |host| {
            host.put("etc/docker/daemon.json", "{\"dns\": [\"10.0.0.2\",]}");
        },
        &["problem docker-json"],
    ),
    files(
        "Podman is told nothing",
        |host| {
            host.put("usr/bin/podman", "")
                .put("usr/share/containers/containers.conf", "[containers]\n#dns_servers = []\n");
        },
        &["warning podman-dns"],
    ),
    files(
        "Podman is told loopback",
        |host| {
            host.put("usr/bin/podman", "")
                .put("etc/containers/containers.conf", "[containers]\ndns_servers = [\"::1\"]\n");
        },
        &["problem podman-dns"],
    ),
    files(
        "pods get har's address",
        |host| {
            host.put("var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\n");
        },
        &["problem kubelet-resolv-conf"],
    ),
    files(
        "pods get a file that is not there",
        |host| {
            host.put("var/lib/kubelet/config.yaml", "resolvConf: \"/run/none\" # real\n");
        },
        &["problem kubelet-resolv-conf"],
    ),
    files(
        "the kubelet's command line wins",
        |host| {
            host.put("var/lib/kubelet/config.yaml", "resolvConf: /etc/resolv.conf\n")
                .put("etc/default/kubelet", "KUBELET_EXTRA_ARGS=\"--resolv-conf=/run/real.conf --v=2\"\n")
                .put("run/real.conf", "nameserver 10.0.0.2\n");
        },
        &[],
    ),
    // Caches.
    files(
        "Java as it comes",
        |host| {
            host.put("usr/lib/jvm/java-17/conf/security/java.security", "#networkaddress.cache.ttl=-1\n")
                .link("usr/lib/jvm/default-java", "java-17");
        },
        &["hint java-cache"],
    ),
    files(
        "Java that never forgets",
        |host| {
            host.put("usr/lib/jvm/java-17/conf/security/java.security", "networkaddress.cache.ttl = -1\n");
        },
        &["warning java-cache"],
    ),
    files(
        "nscd",
        |host| {
            host.process(500, "nscd").put("etc/nscd.conf", "enable-cache passwd yes\nenable-cache\t\thosts\t\tyes\n");
        },
        &["warning nscd-hosts"],
    ),
    // The state file.
    files(
        "no state file beside a daemon",
        |host| {
            host.remove("var/lib/har/har.db");
        },
        &["problem state-absent"],
    ),
    both(
        "no state file and no daemon",
        |host| {
            host.remove("var/lib/har/har.db").no_sockets();
        },
        |_| {},
        &["hint state-none", "problem not-running"],
    ),
    heard(
        "rows that cannot be read",
        |facts| facts.state.kept = Some(Err(ReadError::new(Unreadable::Damaged, "it is not a database"))),
        &["problem state-unreadable"],
    ),
    files(
        "a closed state file",
        |host| {
            host.mode("var/lib/har/har.db", 0o600);
        },
        &["warning state-closed"],
    ),
    files(
        "a closed folder",
        |host| {
            host.mode("var/lib/har", 0o700);
        },
        &["warning state-closed"],
    ),
    files(
        "a state file that everybody writes",
        |host| {
            host.mode("var/lib/har/har.db", 0o666);
        },
        &["problem state-open"],
    ),
    heard("another owner", |facts| facts.state.file.as_mut().unwrap().uid += 1, &["warning state-owner"]),
    heard("a daemon that cannot write", |facts| kept(facts).life = Life::Silent, &["problem state-stale"]),
    heard(
        "a daemon that hangs",
        |facts| {
            kept(facts).life = Life::Silent;
            first_listener(facts).udp = Heard::Silence;
        },
        &["problem listener-silent", "problem state-hung"],
    ),
    both(
        "a file in the place of the state folder",
        |host| {
            host.no_sockets().remove("var/lib/har/har.db");
            fs::remove_dir(host.folder.path().join("var/lib/har")).unwrap();
            host.put("var/lib/har", "");
        },
        |_| {},
        &["problem not-running", "problem state-folder"],
    ),
    heard("another daemon's state", |facts| kept(facts).life = Life::Stopped, &["warning state-other"]),
    both(
        "after a crash",
        |host| {
            host.no_sockets();
        },
        |facts| kept(facts).life = Life::Gone,
        &["hint state-crash", "problem not-running"],
    ),
    heard(
        "a state of tomorrow",
        |facts| kept(facts).heartbeat_at = Some(NOW.after(std::time::Duration::from_secs(86_400))),
        &["warning state-future"],
    ),
    heard(
        "a daemon with another configuration",
        |facts| kept(facts).config = Some("/root/har.toml".to_owned()),
        &["warning other-config"],
    ),
    // The service.
    files(
        "no unit",
        |host| {
            host.remove("usr/lib/systemd/system/har.service");
        },
        &["warning no-unit"],
    ),
    files(
        "a masked unit",
        |host| {
            host.link("etc/systemd/system/har.service", "/dev/null");
        },
        &["problem unit-masked"],
    ),
    files(
        "a unit that is not enabled",
        |host| {
            host.remove("etc/systemd/system/multi-user.target.wants/har.service");
        },
        &["warning unit-disabled"],
    ),
    files(
        "the socket alone is enough",
        |host| {
            host.remove("etc/systemd/system/multi-user.target.wants/har.service")
                .put("usr/lib/systemd/system/har.socket", "")
                .link("etc/systemd/system/sockets.target.wants/har.socket", "/usr/lib/systemd/system/har.socket");
        },
        &[],
    ),
    files(
        "no right to port 53",
        |host| {
            host.put("usr/lib/systemd/system/har.service", "[Service]\nUser=har\nExecStart=/usr/bin/har serve\n");
        },
        &["problem unit-capability"],
    ),
    files(
        "a kernel that lets everybody",
        |host| {
            host.put("usr/lib/systemd/system/har.service", "[Service]\nUser=har\nExecStart=/usr/bin/har serve\n")
                .put("proc/sys/net/ipv4/ip_unprivileged_port_start", "53\n");
        },
        &[],
    ),
    files(
        "a unit with another configuration",
        |host| {
            let text = "[Service]\nExecStart=\nExecStart=/usr/bin/har serve --config /opt/har.toml\n";
            host.put("etc/systemd/system/har.service.d/local.conf", text);
        },
        &["warning unit-config"],
    ),
    files(
        "few open files",
        |host| {
            host.limit(1024);
        },
        &["warning open-files"],
    ),
    files(
        "few local ports",
        |host| {
            host.put("proc/sys/net/ipv4/ip_local_port_range", "60000\t61000\n");
        },
        &["warning local-ports"],
    ),
    // The clock.
    heard("before 2025", |facts| facts.now = Time(1_000_000_000_000), &["problem clock-wrong", "warning state-future"]),
    files(
        "nobody keeps the clock",
        |host| {
            config(host, "tcp:80\"\ncandidates = [\"192.0.2.7\"]", "https://{host}/\"\ncandidates = [\"192.0.2.7\"]")
        },
        &["hint clock-unkept"],
    ),
    files(
        "not synchronized yet",
        |host| {
            config(host, "tcp:80\"\ncandidates = [\"192.0.2.7\"]", "https://{host}/\"\ncandidates = [\"192.0.2.7\"]");
            host.process(600, "systemd-timesyn");
        },
        &["hint clock-unsynchronized"],
    ),
    files(
        "synchronized",
        |host| {
            config(host, "tcp:80\"\ncandidates = [\"192.0.2.7\"]", "https://{host}/\"\ncandidates = [\"192.0.2.7\"]");
            host.process(600, "systemd-timesyn").put("run/systemd/timesync/synchronized", "");
        },
        &[],
    ),
];
