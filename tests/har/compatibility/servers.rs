//! Servers that har asks: every reply must come out of har as it came from the server, id aside.

use std::fs;
use std::net::SocketAddr;

use hickory_proto::op::Message;

use super::stage::{NEEDED, Server, Stage, cannot_drop_root};
use super::table::{Table, WRONG};
use crate::harness::{dns, har, missing, namespace};

/// The zone, without signatures; 100 addresses of one name are added.
const ZONE: &str = "\
$ORIGIN forwarded.example.
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
@ MX 10 www
@ MX 20 mail.elsewhere.example.
ns A 192.0.2.53
www A 192.0.2.80
www AAAA 2001:db8::80
www TXT \"v=one\" \"two words\"
alias CNAME www
*.wild A 192.0.2.81
strange TYPE65280 \\# 4 0A000001
service HTTPS 1 . alpn=h2 ipv4hint=192.0.2.80
";

/// The zone's signed file and its key as a trust anchor of delv.
pub struct Zone {
    /// Path of the signed zone.
    pub file: String,
    /// The public key as a zone file has it.
    pub key: String,
}

/// Programs that [`Zone::sign`] starts.
pub const SIGNERS: [&str; 2] = ["ldns-keygen", "ldns-signzone"];

impl Zone {
    /// Writes and signs the zone.
    pub fn sign(stage: &Stage) -> Zone {
        let mut text = ZONE.to_owned();
        (1..=100).for_each(|last| text.push_str(&format!("large A 198.51.100.{}\n", last + 100)));
        let plain = stage.file("forwarded.zone", &text);
        let key = stage.must("ldns-keygen", &["-a", "ECDSAP256SHA256", "-k", "forwarded.example"]).trim().to_owned();
        stage.must("ldns-signzone", &["-o", "forwarded.example", &plain, &key]);
        let key = fs::read_to_string(stage.path(&format!("{key}.key"))).expect("a key");
        Zone { file: format!("{plain}.signed"), key: key.lines().next().expect("a line").to_owned() }
    }
}

/// Unbound with the zone as its own.
pub fn unbound(stage: &Stage, zone: &Zone, address: SocketAddr) -> Server {
    let text = format!(
        "server:\n{}\nmodule-config: \"iterator\"\nrrset-roundrobin: no\nauth-zone:\nname: forwarded.example\n\
         zonefile: \"{}\"\nfor-downstream: yes\nfor-upstream: no\nremote-control:\ncontrol-enable: no\n",
        unbound_basics(stage, address),
        zone.file
    );
    let file = stage.file(&format!("unbound-{}.conf", address.port()), &text);
    stage.serve("unbound", &["-d", "-p", "-c", &file], &[], address)
}

/// What every Unbound of the tests has in its `server:` part.
pub fn unbound_basics(stage: &Stage, address: SocketAddr) -> String {
    format!(
        "interface: {}\nport: {}\nusername: \"\"\nchroot: \"\"\ndirectory: \"{}\"\nuse-syslog: no\nnum-threads: 1\n\
         do-not-query-localhost: no\nval-log-level: 2",
        address.ip(),
        address.port(),
        stage.path("").display()
    )
}

fn nsd(stage: &Stage, zone: &Zone, address: SocketAddr) -> Server {
    let folder = stage.path("").display().to_string();
    let text = format!(
        "server:\nip-address: {}@{}\nusername: \"\"\nchroot: \"\"\nzonesdir: \"{folder}\"\ndatabase: \"\"\npidfile: \"\"\n\
         zonelistfile: \"{folder}/zone.list\"\nxfrdfile: \"{folder}/xfrd\"\nxfrdir: \"{folder}\"\nserver-count: 1\n\
         remote-control:\ncontrol-enable: no\nzone:\nname: forwarded.example\nzonefile: \"{}\"\n",
        address.ip(),
        address.port(),
        zone.file
    );
    let file = stage.file("nsd.conf", &text);
    stage.serve("nsd", &["-d", "-c", &file], &[], address)
}

fn dnsmasq(stage: &Stage, behind: SocketAddr, address: SocketAddr) -> Server {
    stage.serve(
        "dnsmasq",
        &[
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-hosts",
            "--no-resolv",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
            // Otherwise the TTLs of two answers may differ.
            "--cache-size=0",
            &format!("--listen-address={}", address.ip()),
            &format!("--port={}", address.port()),
            &format!("--server={}#{}", behind.ip(), behind.port()),
        ],
        &[],
        address,
    )
}

/// A column: a question, asked of the server and of har.
struct Case {
    heading: &'static str,
    name: &'static str,
    kind: &'static str,
    /// EDNS of this size, with DO or without.
    edns: Option<(u16, bool)>,
    tcp: bool,
}

fn cases() -> Vec<Case> {
    let case = |heading, name, kind, edns, tcp| Case { heading, name, kind, edns, tcp };
    let plain = Some((1232, false));
    let signed = Some((1232, true));
    vec![
        case("A", "www.forwarded.example", "A", plain, false),
        case("A without EDNS", "www.forwarded.example", "A", None, false),
        case("AAAA", "www.forwarded.example", "AAAA", plain, false),
        case("CNAME", "alias.forwarded.example", "A", plain, false),
        case("TXT", "www.forwarded.example", "TXT", plain, false),
        case("MX", "forwarded.example", "MX", plain, false),
        case("HTTPS", "service.forwarded.example", "HTTPS", plain, false),
        case("unknown type", "strange.forwarded.example", "TYPE65280", plain, false),
        case("no data", "www.forwarded.example", "MX", plain, false),
        case("NXDOMAIN", "missing.forwarded.example", "A", plain, false),
        case("1.6 KB, no EDNS", "large.forwarded.example", "A", None, false),
        case("1.6 KB, EDNS 1232", "large.forwarded.example", "A", plain, false),
        case("1.6 KB, TCP", "large.forwarded.example", "A", plain, true),
        case("signed A", "www.forwarded.example", "A", signed, false),
        case("signed wildcard", "a.wild.forwarded.example", "A", signed, false),
        case("signed NXDOMAIN", "missing.forwarded.example", "A", signed, false),
        case("DNSKEY, TCP", "forwarded.example", "DNSKEY", signed, true),
    ]
}

impl Case {
    fn query(&self) -> Vec<u8> {
        // An unknown type has no name in the library: its number is put in afterwards.
        let number = self.kind.strip_prefix("TYPE").map(|text| text.parse::<u16>().expect("a number"));
        let kind = dns::record_type(if number.is_some() { "A" } else { self.kind });
        let mut message: Message = dns::plain_question(self.name, kind);
        if let Some((size, dnssec)) = self.edns {
            let mut edns = hickory_proto::op::Edns::new();
            edns.set_max_payload(size);
            edns.set_dnssec_ok(dnssec);
            message.set_edns(edns);
        }
        let mut bytes = dns::encode(&message);
        if let Some(number) = number {
            // Header, the labels with a length each and the root.
            let place = 12 + self.name.len() + 2;
            bytes[place..place + 2].copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn ask(&self, server: SocketAddr) -> Vec<u8> {
        let query = self.query();
        let reply = if self.tcp {
            let mut connection = dns::Tcp::open(server);
            connection.send(&query);
            connection.receive().expect("a reply")
        } else {
            dns::udp(server, &query)
        };
        assert_eq!(reply[..2], query[..2], "the id of the query");
        reply
    }

    /// What a reply to this question must have, so that two wrong ones are not taken for a right one.
    fn is_answer(&self, reply: &[u8]) -> bool {
        let count = u16::from_be_bytes([reply[6], reply[7]]);
        let (rcode, truncated) = (reply[3] & 15, reply[2] & 2 != 0);
        match self.heading {
            "no data" => rcode == 0 && count == 0,
            heading if heading.contains("NXDOMAIN") => rcode == 3,
            "1.6 KB, no EDNS" | "1.6 KB, EDNS 1232" => truncated,
            "1.6 KB, TCP" => count == 100,
            heading => rcode == 0 && !truncated && count >= if heading.starts_with("signed") { 2 } else { 1 },
        }
    }

    fn cell(&self, server: SocketAddr, har: SocketAddr) -> String {
        let (direct, through) = (self.ask(server), self.ask(har));
        if !self.is_answer(&direct) {
            return format!("{WRONG}: the server itself: {direct:02x?}");
        }
        if direct[2..] == through[2..] {
            "identical".to_owned()
        } else {
            format!("{WRONG}: {through:02x?} instead of {direct:02x?}")
        }
    }
}

#[test]
fn replies_of_servers_come_out_as_they_came() {
    namespace::inside(&[&NEEDED[..], &SIGNERS, &["delv"]].concat(), || {
        let stage = Stage::new();
        let zone = Zone::sign(&stage);
        let cases = cases();
        let headings =
            std::iter::once("server").chain(cases.iter().map(|case| case.heading)).chain(["validated by delv"]);
        let mut table = Table::new("servers", headings.collect());
        let anchor = stage.file("anchors", &anchor(&zone));
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let row = |table: &mut Table, name, server: SocketAddr| {
            let har = har().port(53).upstream_lines(&format!("servers = [\"{server}\"]")).start();
            let mut cells: Vec<String> = cases.iter().map(|case| case.cell(server, har.address())).collect();
            cells.push(delv(&stage, &anchor));
            table.row(name, cells);
        };
        match missing(&["nsd"]) {
            Some(reason) => ["nsd", "dnsmasq, in front of nsd"].iter().for_each(|n| table.absent(n, reason.clone())),
            None => {
                let _nsd = nsd(&stage, &zone, at(5301));
                row(&mut table, "nsd", at(5301));
                table.version("nsd", stage.version("nsd", "-v"));
                match cannot_drop_root(&["dnsmasq"]) {
                    Some(reason) => table.absent("dnsmasq, in front of nsd", reason),
                    None => {
                        let _dnsmasq = dnsmasq(&stage, at(5301), at(5302));
                        row(&mut table, "dnsmasq, in front of nsd", at(5302));
                        table.version("dnsmasq", stage.version("dnsmasq", "--version"));
                    }
                }
            }
        }
        match missing(&["unbound"]) {
            Some(reason) => table.absent("unbound", reason),
            None => {
                let _unbound = unbound(&stage, &zone, at(5303));
                row(&mut table, "unbound", at(5303));
                table.version("unbound", stage.version("unbound", "-V"));
            }
        }
        table.settle();
    });
}

/// delv's trust anchors: the zone's own key.
fn anchor(zone: &Zone) -> String {
    let place = zone.key.find("DNSKEY").expect("a key record");
    let words: Vec<&str> = zone.key[place..].split_whitespace().collect();
    let key: String = words[4..].iter().take_while(|word| !word.starts_with(';')).copied().collect();
    format!("trust-anchors {{ forwarded.example. static-key {} {} {} \"{key}\"; }};\n", words[1], words[2], words[3])
}

/// Whether delv, asking har alone, finds the chain from the trust anchor to the address whole.
fn delv(stage: &Stage, anchor: &str) -> String {
    let asked = ["@127.0.0.1", "-a", anchor, "+root=forwarded.example", "www.forwarded.example", "A"];
    let output = stage.run("delv", &asked);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.contains("; fully validated") { "yes".to_owned() } else { format!("{WRONG}: {text}") }
}
