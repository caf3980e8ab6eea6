//! Resolvers that ask har: caches and validators with har as their forwarder.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};

use super::clients::{Case, Family, Way, cases, names};
use super::servers::{SIGNERS, Zone, unbound, unbound_basics};
use super::stage::{NEEDED, Server, Stage, cannot_drop_root};
use super::table::{Table, WRONG};
use crate::harness::{Backend, Har, Reply, dns, har, namespace, wait_for};

/// How long after har a resolver may still give the last answer: its TTL is 1 s, the rest is for a loaded machine.
const FOLLOWS: Duration = Duration::from_secs(6);

/// Address that every query for `moving.example` is answered with, and the one for when that is down.
const MOVING: [&str; 2] = ["127.0.0.41", "127.0.0.42"];

struct Scene {
    stage: Stage,
    har: Har,
    moving: Vec<Backend>,
    zone: Zone,
    /// systemd-resolved asks nobody, har on loopback neither, while no other interface has an address.
    routable: bool,
    _upstream: Server,
}

impl Scene {
    fn new() -> Scene {
        let stage = Stage::new();
        let words = [
            "link add har0 type veth peer name har1",
            "link set har1 up",
            "link set har0 up",
            "addr add 203.0.113.1/24 dev har0",
        ];
        let routable =
            words.iter().all(|words| stage.run("ip", &words.split(' ').collect::<Vec<_>>()).status.success());
        let zone = Zone::sign(&stage);
        let address = SocketAddr::from(([127, 0, 0, 1], 5300));
        let upstream = unbound(&stage, &zone, address);
        let moving = Backend::group(&[(MOVING[0], 0), (MOVING[1], 0)]);
        let own = format!(
            "{}\n[names.\"inner.forwarded.example\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.10\"]\n\
             [names.\"moving.example\"]\ncheck = \"http://{{host}}:{}/\"\nselect = \"failover\"\ncandidates = {MOVING:?}\n\
             interval = \"200ms\"\n",
            names(),
            moving[0].port()
        );
        let har = har().port(53).ipv6().upstream_lines(&format!("servers = [\"{address}\"]")).names(&own).start();
        har.until_sql("SELECT state FROM address WHERE address = '192.0.2.9'", |state| state == "down");
        har.until_a("moving.example", MOVING[0]);
        Scene { stage, har, moving, zone, routable, _upstream: upstream }
    }

    /// Unbound that forwards everything to har.
    fn unbound(&self, server: &str, address: SocketAddr) -> Server {
        let text = format!(
            "server:\n{}\n{server}\nforward-zone:\nname: \".\"\nforward-addr: 127.0.0.1\nremote-control:\n\
             control-enable: no\n",
            unbound_basics(&self.stage, address)
        );
        let file = self.stage.file(&format!("unbound-{}.conf", address.port()), &text);
        self.stage.serve("unbound", &["-d", "-p", "-c", &file], &[], address)
    }

    fn dnsmasq(&self, address: SocketAddr) -> Server {
        let listen = format!("--listen-address={}", address.ip());
        let port = format!("--port={}", address.port());
        let arguments = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-hosts",
            "--no-resolv",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
            "--server=127.0.0.1",
            &listen,
            &port,
        ];
        self.stage.serve("dnsmasq", &arguments, &[], address)
    }

    fn resolved(&self, program: &Path) -> Server {
        let stage = &self.stage;
        for folder in ["/run/systemd/resolved.conf.d", "/run/dbus"] {
            fs::create_dir_all(folder).expect("the namespace's own /run");
        }
        let text = "[Resolve]\nDNS=127.0.0.1\nFallbackDNS=\nDomains=~.\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n";
        fs::write("/run/systemd/resolved.conf.d/har.conf", text).expect("the namespace's own /run");
        // The account it changes to, where the package that makes it is not installed.
        for (path, line) in [
            ("/etc/passwd", "systemd-resolve:x:64999:64999::/:/usr/sbin/nologin\n"),
            ("/etc/group", "systemd-resolve:x:64999:\n"),
        ] {
            let text = fs::read_to_string(path).expect("every host has it");
            if !text.contains("systemd-resolve:") {
                stage.cover(path, &format!("{text}{line}"));
            }
        }
        let environment = libraries(program).map(|folder| ("LD_LIBRARY_PATH", folder.display().to_string()));
        let address = SocketAddr::from(([127, 0, 0, 53], 53));
        stage.serve(program.to_str().expect("UTF-8"), &[], environment.as_slice(), address)
    }

    fn row(&self, server: SocketAddr, cases: &[Case]) -> Vec<String> {
        let mut cells: Vec<String> = cases.iter().map(|case| cell(server, case)).collect();
        cells.push(self.follows(server));
        cells.push(authenticated(server));
        let inner = ask(server, "inner.forwarded.example", "A", false);
        cells.push(judge(&inner.addresses(), &["192.0.2.10".parse().expect("an address")], inner.rcode(), true));
        cells
    }

    /// Whether har's change of mind reaches those who ask the resolver.
    fn follows(&self, server: SocketAddr) -> String {
        let first = || ask(server, "moving.example", "A", false).first();
        wait_for("the first choice", || (first() == MOVING[0]).then_some(()));
        self.moving[0].set(crate::harness::Mode::Reset);
        self.har.until_a("moving.example", MOVING[1]);
        let changed = Instant::now();
        let followed = wait_for("the second choice", || (first() == MOVING[1]).then(|| changed.elapsed()));
        self.moving[0].delay(0);
        self.har.until_a("moving.example", MOVING[0]);
        if followed < FOLLOWS { "yes".to_owned() } else { format!("{WRONG}: after {followed:?}") }
    }
}

fn ask(server: SocketAddr, name: &str, kind: &str, tcp: bool) -> Reply {
    let mut question: Message = dns::question(name, dns::record_type(kind));
    question.metadata.authentic_data = true;
    let bytes = dns::encode(&question);
    let over_tcp = || {
        let mut connection = dns::Tcp::open(server);
        connection.send(&bytes);
        Reply::read(&connection.receive().expect("a reply"))
    };
    if tcp {
        return over_tcp();
    }
    let reply = Reply::read(&dns::udp(server, &bytes));
    if reply.message.metadata.truncation { over_tcp() } else { reply }
}

fn cell(server: SocketAddr, case: &Case) -> String {
    let kinds: &[&str] = match case.family {
        Family::V4 => &["A"],
        Family::V6 => &["AAAA"],
        Family::Any => &["A", "AAAA"],
    };
    let replies: Vec<Reply> = kinds.iter().map(|kind| ask(server, case.name, kind, case.way == Way::Tcp)).collect();
    let seen: Vec<IpAddr> = replies.iter().flat_map(Reply::addresses).collect();
    judge(&seen, &case.right, replies[0].rcode(), false)
}

/// A cell from what was seen and what is right; some may `fail` by design.
fn judge(seen: &[IpAddr], right: &[IpAddr], code: ResponseCode, fail: bool) -> String {
    let (mut seen, mut right) = (seen.to_vec(), right.to_vec());
    seen.sort();
    right.sort();
    let word = match code {
        ResponseCode::NoError => "no data".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        other => other.to_string(),
    };
    match seen == right {
        true if right.is_empty() => word,
        true => "yes".to_owned(),
        false if fail && seen.is_empty() => word,
        false => format!("{WRONG}: {word} {seen:?}"),
    }
}

/// Whether the resolver vouches for the signed zone that har forwards.
fn authenticated(server: SocketAddr) -> String {
    let reply = ask(server, "www.forwarded.example", "A", false);
    if reply.first() != "192.0.2.80" {
        return format!("{WRONG}: {:?}", reply.message);
    }
    if reply.message.metadata.authentic_data { "yes".to_owned() } else { "does not validate".to_owned() }
}

/// systemd-resolved as installed, or as `tests/run` has unpacked it: its package would take resolv.conf over.
fn find_resolved() -> Result<PathBuf, String> {
    cannot_drop_root(&[]).map_or(Ok(()), Err)?;
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("systemd-resolved");
    let folders = [PathBuf::from("/"), unpacked];
    let places = folders.iter().flat_map(|folder| ["usr/lib", "lib"].map(|lib| folder.join(lib)));
    let found = places.map(|folder| folder.join("systemd/systemd-resolved")).find(|path| path.is_file());
    found.ok_or_else(|| "not installed, nor unpacked by tests/run".to_owned())
}

/// The library folder that was unpacked with it.
fn libraries(program: &Path) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("systemd-resolved");
    program.starts_with(&root).then_some(())?;
    let folders = fs::read_dir(root.join("usr/lib")).ok()?.filter_map(Result::ok);
    folders.map(|entry| entry.path().join("systemd")).find(|folder| {
        let mut files = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        files.any(|entry| entry.file_name().to_string_lossy().starts_with("libsystemd-shared"))
    })
}

#[test]
fn resolvers_in_front_of_har_see_what_it_answers() {
    namespace::inside(&[&NEEDED[..], &SIGNERS, &["unbound"]].concat(), || {
        let scene = Scene::new();
        let mut cases = cases();
        cases.retain(|case| case.way != Way::V6);
        let more = ["follows a change", "vouches for a signed zone", "configured name inside it"];
        let headings = std::iter::once("resolver").chain(cases.iter().map(|case| case.heading)).chain(more);
        let mut table = Table::new("resolvers", headings.collect());
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let validate =
            format!("trust-anchor: \"{}\"\nmodule-config: \"validator iterator\"", scene.zone.key.replace('"', ""));
        let insecure = format!("{validate}\ndomain-insecure: \"inner.forwarded.example\"");
        for (name, server, address) in [
            ("unbound", "module-config: \"iterator\"", at(5310)),
            ("unbound, validating", &validate, at(5311)),
            ("unbound, validating, `domain-insecure`", &insecure, at(5312)),
        ] {
            let _server = scene.unbound(server, address);
            table.row(name, scene.row(address, &cases));
        }
        table.version("unbound", scene.stage.version("unbound", "-V"));
        match cannot_drop_root(&["dnsmasq"]) {
            Some(reason) => table.absent("dnsmasq", reason),
            None => {
                let _server = scene.dnsmasq(at(5313));
                table.row("dnsmasq", scene.row(at(5313), &cases));
                table.version("dnsmasq", scene.stage.version("dnsmasq", "--version"));
            }
        }
        match find_resolved() {
            Err(reason) => table.absent("systemd-resolved", reason),
            Ok(_) if !scene.routable => table.absent("systemd-resolved", "no veth interface to be had".to_owned()),
            Ok(program) => {
                scene.stage.must("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
                let _server = scene.resolved(&program);
                table.row("systemd-resolved", scene.row(SocketAddr::from(([127, 0, 0, 53], 53)), &cases));
                table.version("systemd", scene.stage.version(program.to_str().expect("UTF-8"), "--version"));
            }
        }
        table.settle();
    });
}
