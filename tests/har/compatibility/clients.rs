//! Programs that ask har: resolver libraries, languages, and the tools that people debug with.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Output;

use regex::Regex;

use super::stage::{NEEDED, Stage};
use super::table::{NOT_ASKED, Table, WRONG};
use crate::harness::{Backend, Behaviour, Har, Upstream, har, missing, namespace, program};

/// Which addresses are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Whatever there is.
    Any,
}

/// How a client gets to har.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `nameserver 127.0.0.1`.
    Plain,
    /// The same over TCP alone.
    Tcp,
    /// `nameserver ::1`.
    V6,
}

/// A column.
pub struct Case {
    /// Its heading.
    pub heading: &'static str,
    /// What is asked.
    pub name: &'static str,
    /// For which addresses.
    pub family: Family,
    /// By which way.
    pub way: Way,
    /// What is right; nothing = the client must say that there is nothing.
    pub right: Vec<IpAddr>,
}

/// The columns, for which [`Scene`] has the names.
pub fn cases() -> Vec<Case> {
    let case = |heading, name, family, way, right: &[&str]| {
        let right = right.iter().map(|text| text.parse().expect("an address")).collect();
        Case { heading, name, family, way, right }
    };
    use Family::{Any, V4, V6};
    let both = ["192.0.2.5", "2001:db8::5"];
    vec![
        case("A", "four.example", V4, Way::Plain, &["192.0.2.4"]),
        case("AAAA", "both.example", V6, Way::Plain, &both[1..]),
        case("both", "both.example", Any, Way::Plain, &both),
        case("IPv6 alone", "six.example", Any, Way::Plain, &["2001:db8::6"]),
        case("empty family", "six.example", V4, Way::Plain, &[]),
        case("wildcard", "a.b.apps.example", V4, Way::Plain, &["192.0.2.7"]),
        case("40 addresses", "crowd.example", V4, Way::Plain, &texts(&crowd(40, "192.0.2"))),
        case("forwarded", "www.forwarded.example", Any, Way::Plain, &["192.0.2.80", "2001:db8::80"]),
        case("forwarded NXDOMAIN", "missing.forwarded.example", V4, Way::Plain, &[]),
        case("forwarded, truncated", "large.forwarded.example", V4, Way::Plain, &texts(&crowd(100, "198.51.100"))),
        case("TCP alone", "both.example", Any, Way::Tcp, &both),
        case("forwarded, TCP alone", "www.forwarded.example", Any, Way::Tcp, &["192.0.2.80", "2001:db8::80"]),
        case("all down, `servfail`", "down.example", V4, Way::Plain, &[]),
        case("`nameserver ::1`", "both.example", Any, Way::V6, &both),
    ]
}

fn crowd(count: usize, prefix: &str) -> Vec<String> {
    (1..=count).map(|last| format!("{prefix}.{}", last + 100)).collect()
}

fn texts(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// The names of [`cases`], for har's configuration.
pub fn names() -> String {
    let name = |name: &str, list: &[String], more: &str| {
        format!("[names.\"{name}\"]\ncheck = \"none\"\ncandidates = {list:?}\n{more}\n")
    };
    let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    [
        name("four.example", &own(&["192.0.2.4"]), ""),
        name("both.example", &own(&["192.0.2.5", "2001:db8::5"]), ""),
        name("six.example", &own(&["2001:db8::6"]), ""),
        name("*.apps.example", &own(&["192.0.2.7"]), ""),
        name("crowd.example", &crowd(40, "192.0.2"), "select = \"all\""),
        // Nobody listens at port 9.
        "[names.\"down.example\"]\ncheck = \"tcp:9\"\ncandidates = [\"192.0.2.9\"]\ninterval = \"300ms\"\n\
         when_all_down = \"servfail\"\n"
            .to_owned(),
    ]
    .concat()
}

/// har with its names and a scripted upstream, and a web server that has every address.
struct Scene {
    stage: Stage,
    har: Har,
    web: Backend,
    _upstream: Upstream,
}

impl Scene {
    fn new() -> Scene {
        let stage = Stage::new();
        let upstream = Upstream::start();
        upstream.addresses("www.forwarded.example", &["192.0.2.80", "2001:db8::80"]);
        upstream.addresses("large.forwarded.example", &texts(&crowd(100, "198.51.100")));
        upstream.behave("large.forwarded.example", Behaviour::TruncateUdp);
        let har = har().port(53).ipv6().upstream(&[&upstream]).names(&names()).start();
        // Down is what it must be before anybody asks.
        har.until_sql("SELECT state FROM address WHERE address = '192.0.2.9'", |state| state == "down");
        Scene { stage, har, web: Backend::start("::"), _upstream: upstream }
    }
}

/// What a client saw.
#[derive(PartialEq, Eq)]
enum Saw {
    /// Addresses.
    Addresses(BTreeSet<IpAddr>),
    /// Its word for that there are none.
    Said(String),
}

/// How a client is told to use TCP alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tcp {
    /// The call has it.
    Argument,
    /// `options use-vc`.
    Options,
    /// Not at all.
    Never,
}

/// A row.
struct Client {
    name: &'static str,
    program: &'static str,
    version: &'static str,
    /// In resolv.conf. One attempt and a long time-out: a lost answer must show, not be asked for again.
    options: &'static str,
    tcp: Tcp,
    /// Shows one address of those it got, or one family, as it likes.
    chooses: bool,
    /// Cannot be told a family.
    any_family: bool,
    /// Does not do TCP when an answer was truncated.
    no_fallback: bool,
    ask: fn(&Scene, &Case, Family) -> Saw,
}

const PATIENT: &str = "timeout:60 attempts:1";

const CLIENT: Client = Client {
    name: "",
    program: "",
    version: "--version",
    options: PATIENT,
    tcp: Tcp::Options,
    chooses: false,
    any_family: false,
    no_fallback: false,
    ask: getent_ahosts,
};

fn clients() -> Vec<Client> {
    let getent = |name, options| Client { name, program: "getent", options, ..CLIENT };
    vec![
        getent("glibc, getent ahosts", PATIENT),
        getent("the same, edns0", "timeout:60 attempts:1 edns0"),
        getent("the same, use-vc", "timeout:60 attempts:1 use-vc"),
        getent("the same, trust-ad", "timeout:60 attempts:1 edns0 trust-ad"),
        getent("the same, rotate", "timeout:60 attempts:1 rotate"),
        getent("the same, single-request", "timeout:60 attempts:1 single-request"),
        Client {
            name: "glibc, getent hosts",
            program: "getent",
            chooses: true,
            any_family: true,
            ask: getent_hosts,
            ..CLIENT
        },
        Client {
            name: "musl before 1.2.4, getaddrinfo",
            program: "musl-gcc",
            // After SERVFAIL it waits for the whole time-out: another server might answer.
            options: "timeout:2 attempts:1",
            tcp: Tcp::Never,
            no_fallback: true,
            ask: |scene, case, family| worded(&scene.stage.run(&scene.path("resolve"), &[letter(family), case.name])),
            ..CLIENT
        },
        Client { name: "curl", program: "curl", chooses: true, ask: curl, ..CLIENT },
        Client { name: "wget", program: "wget", chooses: true, ask: wget, ..CLIENT },
        Client {
            name: "Python, getaddrinfo",
            program: "python3",
            ask: |scene, case, family| {
                worded(&scene.stage.run("python3", &[&scene.path("resolve.py"), letter(family), case.name]))
            },
            ..CLIENT
        },
        Client { name: "Node, dns.lookup", program: "node", ask: |s, c, f| node(s, "lookup", c, f), ..CLIENT },
        Client {
            name: "Node, dns.resolve",
            program: "node",
            tcp: Tcp::Never,
            ask: |s, c, f| node(s, "resolve", c, f),
            ..CLIENT
        },
        Client { name: "Java, InetAddress", program: "java", version: "-version", ask: java, ..CLIENT },
        Client { name: "dig", program: "dig", version: "-v", tcp: Tcp::Argument, ask: dig, ..CLIENT },
        Client { name: "kdig", program: "kdig", tcp: Tcp::Argument, ask: kdig, ..CLIENT },
        Client { name: "drill", program: "drill", version: "-v", tcp: Tcp::Argument, ask: drill, ..CLIENT },
        Client { name: "delv -i", program: "delv", version: "-v", tcp: Tcp::Argument, ask: delv, ..CLIENT },
        Client { name: "host", program: "host", version: "-V", tcp: Tcp::Argument, ask: host, ..CLIENT },
        Client {
            name: "nslookup",
            program: "nslookup",
            version: "-version",
            tcp: Tcp::Argument,
            ask: nslookup,
            ..CLIENT
        },
        Client {
            name: "busybox nslookup",
            program: "busybox",
            version: "--help",
            tcp: Tcp::Never,
            no_fallback: true,
            ask: busybox_nslookup,
            ..CLIENT
        },
        Client {
            name: "busybox wget",
            program: "busybox",
            version: "--help",
            chooses: true,
            any_family: true,
            ask: busybox_wget,
            ..CLIENT
        },
    ]
}

impl Scene {
    fn path(&self, name: &str) -> String {
        self.stage.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Writes or compiles what a client needs; a reason why it cannot be asked here.
    fn prepare(&self, client: &Client) -> Result<(), String> {
        if program(client.program).is_none() {
            return Err(format!("{} is not installed", client.program));
        }
        match client.program {
            "python3" => drop(self.stage.file("resolve.py", include_str!("programs/resolve.py"))),
            "node" => drop(self.stage.file("resolve.js", include_str!("programs/resolve.js"))),
            "java" => {
                if program("javac").is_none() {
                    return Err("javac is not installed".to_owned());
                }
                let source = self.stage.file("Resolve.java", include_str!("programs/Resolve.java"));
                self.stage.must("javac", &["-d", &self.path(""), &source]);
            }
            "musl-gcc" => {
                musl(&self.stage)?;
                let version = musl_version(&self.stage);
                let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
                if numbers >= vec![1, 2, 4] {
                    return Err(format!("musl is {version}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn cell(&self, client: &Client, case: &Case) -> String {
        let narrow = case.family != Family::Any && case.right.is_empty() && case.name == "six.example";
        if (case.way == Way::Tcp && client.tcp == Tcp::Never) || (narrow && client.any_family) {
            return NOT_ASKED.to_owned();
        }
        let vc = if case.way == Way::Tcp && client.tcp == Tcp::Options { " use-vc" } else { "" };
        let server = if case.way == Way::V6 { "::1" } else { "127.0.0.1" };
        self.stage.resolv_conf(server, &format!("{}{vc}", client.options));
        let tcp_before = self.har_tcp();
        let saw = (client.ask)(self, case, case.family);
        let right: BTreeSet<IpAddr> = case.right.iter().copied().collect();
        if case.way == Way::Tcp && self.har_tcp() == tcp_before {
            return format!("{WRONG}: no TCP");
        }
        match saw {
            Saw::Addresses(seen) if seen == right => "yes".to_owned(),
            Saw::Addresses(seen) if client.chooses && seen.is_subset(&right) => "yes".to_owned(),
            Saw::Addresses(seen) if client.no_fallback && seen.is_subset(&right) => format!("{} of them", seen.len()),
            Saw::Addresses(seen) => format!("{WRONG}: {seen:?}"),
            Saw::Said(word) if right.is_empty() || client.no_fallback => word,
            Saw::Said(word) => format!("{WRONG}: {word}"),
        }
    }

    /// TCP connections that the kernel has seen opened by clients in this namespace.
    fn har_tcp(&self) -> u64 {
        assert!(self.har.port == 53, "the count is the namespace's");
        let text = std::fs::read_to_string("/proc/net/snmp").expect("proc is mounted");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (head, row) = (lines.next().expect("a heading"), lines.next().expect("a row"));
        let place = head.split(' ').position(|word| word == "ActiveOpens").expect("a column");
        row.split(' ').nth(place).expect("a cell").parse().expect("a number")
    }
}

/// Compiles the program that calls musl's getaddrinfo.
pub fn musl(stage: &Stage) -> Result<PathBuf, String> {
    missing(&["musl-gcc"]).map_or(Ok(()), Err)?;
    let source = stage.file("resolve.c", include_str!("programs/resolve.c"));
    let program = stage.path("resolve");
    stage.must("musl-gcc", &["-static", "-o", program.to_str().expect("UTF-8"), &source]);
    Ok(program)
}

fn musl_version(stage: &Stage) -> String {
    let loader = format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH);
    stage.version(&loader, "--version")
}

#[test]
fn programs_see_what_har_answers() {
    let needed: Vec<&str> = NEEDED.to_vec();
    namespace::inside(&needed, || {
        let scene = Scene::new();
        let cases = cases();
        let headings = std::iter::once("program").chain(cases.iter().map(|case| case.heading)).collect();
        let mut table = Table::new("clients", headings);
        for client in clients() {
            if let Err(reason) = scene.prepare(&client) {
                table.absent(client.name, reason);
                continue;
            }
            let version = match client.program {
                "musl-gcc" => musl_version(&scene.stage),
                name => scene.stage.version(name, client.version),
            };
            table.row(client.name, cases.iter().map(|case| scene.cell(&client, case)).collect());
            table.version(if client.program == "musl-gcc" { "musl" } else { client.program }, version);
        }
        table.settle();
    });
}

// What each client is started with, and how its output is read.

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `timeout` says so by this.
const TIMED_OUT: i32 = 124;

/// The addresses that a pattern finds; without any, the client's word.
fn found(output: &Output, pattern: &str, word: impl FnOnce(&str) -> String) -> Saw {
    let text = text(output);
    if output.status.code() == Some(TIMED_OUT) {
        return Saw::Said(format!("{WRONG}: no answer in time"));
    }
    let regex = Regex::new(pattern).expect("a valid pattern");
    let list: BTreeSet<IpAddr> =
        regex.captures_iter(&text).filter_map(|found| found.get(1)?.as_str().parse().ok()).collect();
    if list.is_empty() { Saw::Said(word(&text)) } else { Saw::Addresses(list) }
}

/// What a pattern finds, or all that was printed.
fn word(text: &str, pattern: &str) -> String {
    let regex = Regex::new(pattern).expect("a valid pattern");
    let found = regex.captures(text).and_then(|found| found.get(1)).map(|found| found.as_str().to_owned());
    found.unwrap_or_else(|| format!("{WRONG}: {text:?}"))
}

fn exit(output: &Output) -> String {
    output.status.code().map_or_else(|| format!("{WRONG}: killed"), |code| format!("exit {code}"))
}

fn letter(family: Family) -> &'static str {
    match family {
        Family::V4 => "4",
        Family::V6 => "6",
        Family::Any => "0",
    }
}

/// Output of the test's own small programs.
fn worded(output: &Output) -> Saw {
    found(output, r"(?m)^address (\S+)$", |text| word(text, r"(?m)^failed (.*)$"))
}

fn getent_ahosts(scene: &Scene, case: &Case, family: Family) -> Saw {
    let database = match family {
        Family::V4 => "ahostsv4",
        Family::V6 => "ahostsv6",
        Family::Any => "ahosts",
    };
    let output = scene.stage.run("getent", &[database, case.name]);
    found(&output, r"(?m)^(\S+) ", |_| exit(&output))
}

fn getent_hosts(scene: &Scene, case: &Case, _: Family) -> Saw {
    let output = scene.stage.run("getent", &["hosts", case.name]);
    found(&output, r"(?m)^(\S+) ", |_| exit(&output))
}

fn url(scene: &Scene, case: &Case) -> String {
    format!("http://{}:{}/", case.name, scene.web.port())
}

fn curl(scene: &Scene, case: &Case, family: Family) -> Saw {
    let family = match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
        Family::Any => "--no-progress-meter",
    };
    let format = "address %{remote_ip}\n";
    let url = url(scene, case);
    let output = scene.stage.run("curl", &["--silent", "--fail", "-o", "body", family, "-w", format, &url]);
    found(&output, r"(?m)^address (\S+)$", |_| exit(&output))
}

fn wget(scene: &Scene, case: &Case, family: Family) -> Saw {
    let family = match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
        Family::Any => "--no-config",
    };
    let url = url(scene, case);
    let output = scene.stage.run("wget", &["--no-config", "--tries=1", "-O", "body", family, &url]);
    found(&output, r"Connecting to [^\n]*\|([^|]+)\|:\d+\.\.\. connected", |_| exit(&output))
}

fn node(scene: &Scene, call: &str, case: &Case, family: Family) -> Saw {
    worded(&scene.stage.run("node", &[&scene.path("resolve.js"), call, letter(family), case.name]))
}

fn java(scene: &Scene, case: &Case, family: Family) -> Saw {
    let stack = format!("-Djava.net.preferIPv4Stack={}", family == Family::V4);
    let folder = scene.path("");
    let saw =
        worded(&scene.stage.run("java", &["-XX:TieredStopAtLevel=1", &stack, "-cp", &folder, "Resolve", case.name]));
    match saw {
        // Java asks for both families, or for IPv4 alone.
        Saw::Addresses(mut list) if family == Family::V6 => {
            list.retain(IpAddr::is_ipv6);
            Saw::Addresses(list)
        }
        saw => saw,
    }
}

/// Asks once for each family; tools that ask for one type at a time.
fn by_type(family: Family, ask: impl Fn(&str) -> Saw) -> Saw {
    match family {
        Family::V4 => ask("A"),
        Family::V6 => ask("AAAA"),
        Family::Any => match (ask("A"), ask("AAAA")) {
            (Saw::Addresses(mut v4), Saw::Addresses(v6)) => {
                v4.extend(v6);
                Saw::Addresses(v4)
            }
            (Saw::Said(_), saw) | (saw, Saw::Said(_)) => saw,
        },
    }
}

/// The address of a record as zone files have it.
const RECORD: &str = r"(?m)^\S+\s+\d+\s+IN\s+A(?:AAA)?\s+(\S+)$";

/// The response code; without an error, what it means that there was no record.
fn code(text: &str, pattern: &str) -> String {
    match word(text, pattern) {
        code if code == "NOERROR" => "no data".to_owned(),
        code => code,
    }
}

fn dig(scene: &Scene, case: &Case, family: Family) -> Saw {
    by_type(family, |kind| {
        let way = if case.way == Way::Tcp { "+tcp" } else { "+notcp" };
        let output = scene.stage.run("dig", &[case.name, kind, way]);
        found(&output, RECORD, |text| code(text, r"status: (\w+)"))
    })
}

fn kdig(scene: &Scene, case: &Case, family: Family) -> Saw {
    by_type(family, |kind| {
        // `+notcp` would also keep it from asking again over TCP.
        let way: &[&str] = if case.way == Way::Tcp { &["+tcp"] } else { &[] };
        let output = scene.stage.run("kdig", &[&[case.name, kind], way].concat());
        found(&output, RECORD, |text| code(text, r"status: (\w+)"))
    })
}

fn drill(scene: &Scene, case: &Case, family: Family) -> Saw {
    by_type(family, |kind| {
        let way = if case.way == Way::Tcp { "-t" } else { "-a" };
        let output = scene.stage.run("drill", &[way, case.name, kind]);
        found(&output, RECORD, |text| code(text, r"rcode: (\w+)"))
    })
}

fn delv(scene: &Scene, case: &Case, family: Family) -> Saw {
    by_type(family, |kind| {
        let way = if case.way == Way::Tcp { "+tcp" } else { "+notcp" };
        let output = scene.stage.run("delv", &["-i", case.name, kind, way]);
        found(&output, RECORD, |text| word(text, r"resolution failed: (.*)"))
    })
}

fn host(scene: &Scene, case: &Case, family: Family) -> Saw {
    by_type(family, |kind| {
        let way = if case.way == Way::Tcp { "-T" } else { "-U" };
        let output = scene.stage.run("host", &[way, "-t", kind, case.name]);
        found(&output, r"has (?:IPv6 )?address (\S+)", |text| match text {
            text if text.contains("has no A record") => "no data".to_owned(),
            text => word(text, r"not found: \d+\((\w+)\)"),
        })
    })
}

fn nslookup(scene: &Scene, case: &Case, family: Family) -> Saw {
    by_type(family, |kind| {
        let way = if case.way == Way::Tcp { "-vc" } else { "-novc" };
        let output = scene.stage.run("nslookup", &[way, &format!("-type={kind}"), case.name]);
        // The server's own address stands in front, with its port.
        found(&output, r"(?m)^Address: ([^\s#]+)$", |text| match text {
            text if text.contains("No answer") => "no data".to_owned(),
            text => word(text, r"can't find [^:]+: (\w+)"),
        })
    })
}

fn busybox_nslookup(scene: &Scene, case: &Case, family: Family) -> Saw {
    by_type(family, |kind| {
        let output = scene.stage.run("busybox", &["nslookup", &format!("-type={kind}"), case.name]);
        found(&output, r"(?m)^Address: (\S+)$", |text| match text {
            // Without records it prints no more than whom it asked.
            text if output.status.success() && text.trim_end().ends_with([':', '3']) => "no data".to_owned(),
            text => word(text, r"can't find [^:]+: (\w+)"),
        })
    })
}

fn busybox_wget(scene: &Scene, case: &Case, _: Family) -> Saw {
    let output = scene.stage.run("busybox", &["wget", "-O", "body", &url(scene, case)]);
    found(&output, r"Connecting to [^\n]* \(\[?([0-9a-f.:]+?)\]?:\d+\)", |_| exit(&output))
}
