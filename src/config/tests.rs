//! Good and bad files, the example, and the page of keys.

mod probes;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::health::{AllDown, LatencyOf, Select};

/// A folder with a configuration and the files beside it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(main: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.put("har.toml", main);
        folder
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Result<Config, Report> {
        load(&self.path("har.toml"))
    }

    /// The problems as `line:column key: message`.
    fn problems(&self) -> Vec<String> {
        let Err(report) = self.load() else { return Vec::new() };
        assert!(report.to_string().ends_with(if report.0.len() == 1 { "1 problem" } else { " problems" }));
        report.0.iter().map(|p| format!("{}:{} {}: {}", p.line, p.column, p.key, p.message)).collect()
    }
}

fn good(text: &str) -> Config {
    Folder::new(text).load().unwrap_or_else(|report| panic!("{text}\n{report}"))
}

fn bad(text: &str) -> Vec<String> {
    let problems = Folder::new(text).problems();
    assert!(!problems.is_empty(), "this was taken:\n{text}");
    problems
}

fn http(check: &Check) -> &HttpCheck {
    let CheckKind::Http(http) = &check.kind else { panic!("{check:?}") };
    http
}

const A: &str = "[names.\"a.example\"]\n";

#[test]
fn an_empty_file_has_every_default() {
    let config = good("");
    assert_eq!(config.server.listen, defaults::LISTEN);
    assert!(!config.server.listen_stated);
    assert_eq!(config.server.state, PathBuf::from(defaults::STATE));
    assert_eq!(config.server.tcp_connections, 256);
    assert_eq!(config.server.history, Duration::from_secs(86_400));
    assert_eq!(config.server.log, log::LevelFilter::Info);
    assert_eq!(config.upstream.servers, Servers::Auto);
    assert_eq!(config.upstream.order, Order::Listed);
    assert_eq!(config.upstream.timeout, Duration::from_secs(4));
    assert!(config.names.is_empty() && config.warnings.is_empty());
}

#[test]
fn every_server_and_upstream_key() {
    let config = good(
        r#"
        [server]
        listen = ["127.0.0.2:5300", "::1"]
        state = "state/har.db"
        user = "har"
        ttl = 5
        tcp_connections = 10
        tcp_idle = "3s"
        max_forwards = 20
        history = "0s"
        log = "debug"
        [upstream]
        servers = ["10.0.0.2", "10.0.0.3:5353", "[2001:db8::1]:53", "2001:db8::2"]
        timeout = "2s"
        source = "10.0.0.9"
        [upstream.routes]
        "Corp.Example." = ["10.8.0.1"]
        [names.a]
        check = "none"
        candidates = ["192.0.2.1"]
        [names.b]
        check = "none"
        candidates = ["192.0.2.1"]
        ttl = 0
    "#,
    );
    let server = &config.server;
    assert_eq!(server.listen, ["127.0.0.2:5300".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    assert!(server.listen_stated);
    assert_eq!(server.state, config.path.parent().unwrap().join("state/har.db"));
    assert_eq!(server.user.as_deref(), Some("har"));
    assert_eq!((server.tcp_connections, server.max_forwards), (10, 20));
    assert_eq!((server.tcp_idle, server.history), (Duration::from_secs(3), Duration::ZERO));
    assert_eq!(server.log, log::LevelFilter::Debug);
    let upstream = &config.upstream;
    let listed = ["10.0.0.2:53", "10.0.0.3:5353", "[2001:db8::1]:53", "[2001:db8::2]:53"];
    assert_eq!(upstream.servers, Servers::Listed(listed.iter().map(|text| text.parse().unwrap()).collect()));
    assert_eq!(upstream.order, Order::Fastest);
    assert_eq!(upstream.timeout, Duration::from_secs(2));
    assert_eq!(upstream.source, Some("10.0.0.9".parse().unwrap()));
    assert_eq!(upstream.routes[0].suffix.to_string(), "corp.example");
    assert_eq!(upstream.routes[0].servers, ["10.8.0.1:53".parse().unwrap()]);
    assert_eq!(config.names.iter().map(|name| name.ttl).collect::<Vec<_>>(), [5, 0]);
}

#[test]
fn who_wins() {
    let config = good(
        r#"
        [server]
        ttl = 9
        [defaults]
        check = "tcp:80"
        ttl = 7
        interval = "5s"
        fast_interval = "4s"
        select = "failover"
        drain_record = "drain.example"
        [names.z]
        candidates = ["192.0.2.1", { host = "192.0.2.2", check = "tcp:81", priority = 3, weight = 0 }]
        [names.a]
        candidates = ["192.0.2.1"]
        check = ["tcp:82", { type = "tcp", port = 83, timeout = "100ms" }]
        interval = "1s"
        select = "latency-group"
        latency = "connect"
        when_all_down = "fallback"
        fallback = ["192.0.2.9", "spare.example"]
        drain_record = ""
    "#,
    );
    let [z, a] = &config.names[..] else { panic!("{config:?}") };
    assert_eq!((z.name.to_string(), a.name.to_string()), ("z".into(), "a".into()), "the order of the file");
    let ports = |name: &Name| -> Vec<Vec<(String, Duration)>> {
        let of = |c: &Candidate| c.checks.iter().map(|check| (check.definition(), check.timeout)).collect();
        name.candidates.iter().map(of).collect()
    };
    let (two, one) = (Duration::from_secs(2), Duration::from_secs(1));
    assert_eq!(ports(z), [vec![("tcp:80".into(), two)], vec![("tcp:81".into(), two)]]);
    assert_eq!(ports(a), [vec![("tcp:82".into(), one), ("tcp:83".into(), Duration::from_millis(100))]]);
    assert_eq!((z.candidates[1].priority, z.candidates[1].weight), (3, 0));
    assert_eq!((z.ttl, z.policy.select, z.policy.latency), (7, Select::Failover, LatencyOf::Total));
    assert_eq!((a.policy.select, a.policy.latency), (Select::LatencyGroup, LatencyOf::Connect));
    assert_eq!((z.pace.interval, z.pace.fast_interval), (Duration::from_secs(5), Duration::from_secs(4)));
    assert_eq!((a.pace.interval, a.pace.fast_interval, a.pace.down_interval), (one, one, one));
    assert_eq!(a.policy.when_all_down, AllDown::Fallback);
    assert_eq!(a.fallback.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.9", "spare.example"]);
    assert_eq!((z.drain_record.is_some(), a.drain_record.is_some()), (true, false));
}

#[test]
fn checks_are_filled_in_and_equal_ones_are_equal() {
    let config = good(
        r#"
        [defaults]
        check = { type = "http", url = "http://u:p@{host}:8080/x?h={host}", host = "{host}:{port}", headers = { X-A = "{name} {address}" } }
        [names."a.example"]
        candidates = ["api1.example", "2001:db8::7"]
        [names."b.example"]
        check = "https://{address}/"
        candidates = ["api1.example", "api2.example"]
        [names."c.example"]
        check = { type = "tcp", port = 9, send = "{host}{address}{port}", address = "192.0.2.5", source = "::1" }
        candidates = ["api1.example"]
    "#,
    );
    let [a, b, c] = &config.names[..] else { panic!() };
    let first = http(&a.candidates[0].checks[0]);
    assert_eq!((first.host.as_deref(), first.port, first.port_stated), (Some("api1.example"), 8080, true));
    assert_eq!(first.path, "/x?h=api1.example");
    assert_eq!(first.userinfo.as_deref(), Some("u:p"));
    assert_eq!(first.host_header.as_deref(), Some("api1.example:8080"));
    assert_eq!(first.headers, [("X-A".into(), "a.example {address}".into())]);
    let second = http(&a.candidates[1].checks[0]);
    assert_eq!(second.host.as_deref(), Some("2001:db8::7"));
    assert_eq!(second.host_header.as_deref(), Some("[2001:db8::7]:8080"));
    assert_eq!(second.path, "/x?h=2001:db8::7");
    assert_eq!(
        a.candidates[1].checks[0].definition(),
        "GET http://[2001:db8::7]:8080/x query=#666b headers=X-A #0145 host=[2001:db8::7]:8080"
    );
    assert_eq!(b.candidates[0].checks, b.candidates[1].checks);
    assert_eq!(b.candidates[0].checks[0].definition(), "GET https://{address}/");
    let tcp = &c.candidates[0].checks[0];
    assert_eq!(
        tcp.kind,
        CheckKind::Tcp(TcpCheck { port: 9, send: Some("api1.example{address}9".into()), expect: None })
    );
    assert_eq!(tcp.definition(), "tcp:9 send=22bytes #cf59 address=192.0.2.5 source=::1");
}

#[test]
fn every_key_of_an_http_check() {
    let folder = Folder::new(
        r#"
        [names.a]
        candidates = ["h.example"]
        [names.a.check]
        type = "https"
        url = "https://{host}"
        method = "head"
        status = [204, "300-399"]
        body = "^ok$"
        follow_redirects = true
        verify = false
        ca_file = "ca.pem"
        client_cert = "c.pem"
        client_key = "c.key"
        timeout = "1s"
    "#,
    );
    for file in ["ca.pem", "c.pem", "c.key"] {
        folder.put(file, "");
    }
    let config = folder.load().unwrap_or_else(|report| panic!("{report}"));
    let check = http(&config.names[0].candidates[0].checks[0]);
    assert_eq!((check.method.as_str(), check.tls, check.port), ("HEAD", true, 443));
    assert_eq!(check.status, [(204, 204), (300, 399)]);
    assert_eq!(check.body.as_deref(), Some("^ok$"));
    assert!(check.follow_redirects && !check.trust.verify);
    assert_eq!(check.trust.ca_file, Some(folder.path("ca.pem")));
    assert_eq!(check.trust.client, Some((folder.path("c.pem"), folder.path("c.key"))));
}

/// Files of one or a few mistakes, and a part of each expected problem, in order.
#[test]
fn bad_files() {
    let mut failures = Vec::new();
    let candidates = "candidates = [\"192.0.2.1\"]\n";
    let name = format!("{A}check = \"none\"\n{candidates}");
    for (text, expected) in [
        // Keys and types.
        ("[sever]", &["1:2 sever: unknown key; did you mean server?"][..]),
        ("zzzzzz = 1", &["1:1 zzzzzz: unknown key; known here: include, names, server, upstream, defaults"]),
        (
            "[server]\nlisten_on = 1\nttl = true\nlog = \"inf\"",
            &[
                "2:1 server.listen_on: unknown key; did you mean listen?",
                "3:7 server.ttl: found true; allowed: a whole number from 0 to 86400",
                "4:7 server.log: found \"inf\"; allowed: \"error\", \"warn\", \"info\", \"debug\", \"trace\"; did you mean \"info\"?",
            ],
        ),
        ("server = 1", &["1:10 server: found the integer 1; allowed: a table"]),
        (
            "[server]\nttl = 86401\ntcp_connections = 0\nmax_forwards = -1\ntcp_idle = 10\nhistory = \"1d\"\nuser = 1",
            &[
                "2:7 server.ttl: found the integer 86401",
                "3:19 server.tcp_connections: found the integer 0; allowed: a whole number from 1",
                "4:16 server.max_forwards: found the integer -1",
                "5:12 server.tcp_idle: found the integer 10; allowed: a whole number with a unit, such as \"250ms\"",
                "6:11 server.history: found \"1d\"; allowed: a whole number with a unit",
                "7:8 server.user: found the integer 1",
            ],
        ),
        ("a = ", &["1:1 a: unknown key", "1:5 a: not valid TOML: a value is missing"]),
        ("[server]\nttl = 1\nttl = 2", &["3:1 server.ttl: the same key twice"]),
        // Listeners and upstreams.
        (
            "[server]\nlisten = [\"0.0.0.0:53\", \"127.0.0.1:0\", \"127.0.0.1\", \"127.0.0.1:53\", \"localhost:53\"]",
            &[
                "2:11 server.listen[1]: found \"0.0.0.0:53\"; allowed: loopback addresses",
                "2:25 server.listen[2]: found \"127.0.0.1:0\"",
                "2:53 server.listen[4]: 127.0.0.1:53 is listed twice",
                "2:69 server.listen[5]: found \"localhost:53\"",
            ],
        ),
        ("[server]\nlisten = []", &["2:10 server.listen: found an empty list; allowed: a list of loopback"]),
        (
            "[upstream]\nservers = [\"10.0.0.2\"]\nresolv_conf = \"auto\"",
            &["3:15 upstream.resolv_conf: servers and resolv_conf exclude"],
        ),
        (
            "[upstream]\nservers = [\"127.0.0.1\", \"10.0.0.1\", \"10.0.0.1:53\", \"224.0.0.1\"]\n[upstream.routes]\n\"x\" = [\"::1\"]\n\"*.y\" = [\"10.0.0.1\"]\n\"X.\" = [\"10.0.0.1\"]",
            &[
                "2:12 upstream.servers[1]: found \"127.0.0.1\"",
                "2:37 upstream.servers[3]: 10.0.0.1:53 is listed twice",
                "2:52 upstream.servers[4]: found \"224.0.0.1\"",
                "4:8 upstream.routes.x[1]: found \"::1\"",
                "5:1 upstream.routes.\"*.y\": a route holds",
                "6:1 upstream.routes.\"X.\": the suffix x is routed twice",
            ],
        ),
        (
            "[upstream]\nsource = \"0.0.0.0\"\norder = \"random\"\ntimeout = \"0s\"",
            &[
                "2:10 upstream.source: found \"0.0.0.0\"",
                "3:9 upstream.order: found \"random\"; allowed: \"fastest\", \"listed\"",
                "4:11 upstream.timeout: found \"0s\"; allowed: 10ms to 1m",
            ],
        ),
        // Names and candidates.
        (
            "[names.\"a b\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]",
            &["1:8 names.\"a b\": found \"a b\"; allowed: a host name"],
        ),
        ("[names.\"a.*.b\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]", &["1:8 names.\"a.*.b\": found"]),
        ("[names.\"*\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]", &["1:8 names.\"*\": a wildcard needs"]),
        (
            "[names.LOCALHOST]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]\n[names.\"*.x.localhost\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]\n[names.\"_dns.resolver.arpa\"]\ncheck = \"none\"\ncandidates = [\"192.0.2.1\"]\n[names.mylocalhost]\ncheck=\"none\"\ncandidates = [\"192.0.2.1\"]",
            &[
                "1:8 names.LOCALHOST: localhost and",
                "4:8 names.\"*.x.localhost\": localhost and",
                "7:8 names.\"_dns.resolver.arpa\": ",
            ],
        ),
        (
            &format!("{name}[names.\"A.example.\"]\ncheck = \"none\"\n{candidates}"),
            &["4:8 names.\"A.example.\": the name a.example is already configured at"],
        ),
        (&format!("{name}{name}"), &["4:8 names.\"a.example\": the same key twice; it is already there at"]),
        (&format!("{A}check = \"none\""), &["1:8 names.\"a.example\": candidates are missing"]),
        (
            &format!("{A}check = \"none\"\ncandidates = []"),
            &["3:14 names.\"a.example\".candidates: found an empty list"],
        ),
        (&format!("{A}{candidates}"), &["1:8 names.\"a.example\": check is missing"]),
        (
            &format!(
                "{A}check = \"none\"\ncandidates = [\"224.0.0.1\", \"0.0.0.0\", \"255.255.255.255\", \"h:80\", 7, \"B.x\", \"b.x.\"]"
            ),
            &[
                "3:15 names.\"a.example\".candidates[1]: found \"224.0.0.1\"",
                "[2]: found \"0.0.0.0\"",
                "[3]: found \"255",
                "[4]: found \"h:80\"",
                "[5]: found the integer 7",
                "[7]: the candidate b.x is already listed at",
            ],
        ),
        (
            &format!("{A}check = \"none\"\ncandidates = [{{ hots = \"h\", priority = -1, weight = 101 }}]"),
            &[
                "candidates[1]: host is missing",
                ".hots: unknown key; did you mean host?",
                ".priority: found the integer -1",
                ".weight: found the integer 101; allowed: a whole number from 0 to 100",
            ],
        ),
        (
            &format!("{A}discover = {{ type = \"srv\" }}\ncheck = \"none\""),
            &["names.\"a.example\".discover: record is missing"],
        ),
        (
            &format!("{A}discover = {{ type = \"dns\" }}\ncheck = \"none\""),
            &["discover.type: found \"dns\"; allowed: \"redis-sentinel\", \"srv\""],
        ),
        (
            &format!(
                "{A}discover = {{ type = \"redis-sentinel\", sentinels = [\"a:0\"] }}\ncheck = {{ type = \"redis\" }}"
            ),
            &["discover: master is missing", "sentinels[1]: found \"a:0\"; allowed: a host with its port"],
        ),
        (
            &format!(
                "{A}discover = {{ type = \"redis-sentinel\", master = \"m\", sentinels = [\"a\", \"a:26379\"] }}\ncheck = \"none\""
            ),
            &["sentinels[2]: this sentinel is listed twice"],
        ),
        (
            &format!("{A}discover = {{ type = \"srv\", record = \"_x._tcp.example\" }}"),
            &["names.\"a.example\": check is missing"],
        ),
        (
            &format!("{name}fallback = [\"0.0.0.0\"]\nwhen_all_down = \"fallback\""),
            &["4:13 names.\"a.example\".fallback[1]"],
        ),
        (
            &format!("{name}when_all_down = \"fallback\""),
            &["4:17 names.\"a.example\".when_all_down: when_all_down = \"fallback\" needs"],
        ),
        (
            &format!(
                "{name}hysteresis = 1.5\npanic_below = -0.1\nmin_success = \"x\"\nanswers = 17\nrise = 0\nselect = \"fastest\"\ndrain_record = \"*.x\"\nother_types = \"no_hints\""
            ),
            &[
                "4:14 names.\"a.example\".hysteresis: found the number 1.5; allowed: a number from 0.0 to 1.0",
                "panic_below",
                "min_success",
                "answers: found the integer 17; allowed: a whole number from 1 to 16",
                "rise: found the integer 0",
                "select: found \"fastest\"; allowed: \"lowest-latency\"",
                "drain_record",
                "other_types: found \"no_hints\"; allowed: \"forward\", \"no-hints\", \"nodata\"; did you mean \"no-hints\"?",
            ],
        ),
        (
            "[defaults]\ncandidates = []\nfallback = []\nintervall = \"1s\"",
            &[
                "defaults.candidates: candidates belongs to a name",
                "defaults.fallback",
                "defaults.intervall: unknown key; did you mean interval?",
            ],
        ),
        // Durations that do not go together.
        (
            &format!("{name}interval = \"1s\"\ntimeout = \"2s\""),
            &["5:11 names.\"a.example\".timeout: found \"2s\"; allowed: up to the interval in effect, 1s"],
        ),
        (
            &format!(
                "[defaults]\ntimeout = \"5s\"\n{name}interval = \"1s\"\n[names.b]\ninterval = \"1s\"\ncheck = \"none\"\n{candidates}"
            ),
            &[
                "2:11 defaults.timeout: found \"5s\"; allowed: up to the interval in effect, 1s",
                "2:11 defaults.timeout",
            ],
        ),
        (
            &format!(
                "[defaults]\ninterval = \"1s\"\n{A}{candidates}check = {{ type = \"tcp\", port = 1, timeout = \"3s\" }}"
            ),
            &["5:45 names.\"a.example\".check.timeout: found \"3s\""],
        ),
        (
            &format!("{name}interval = \"1s\"\nfast_interval = \"2s\""),
            &["5:17 names.\"a.example\".fast_interval: found \"2s\"; allowed: up to the interval stated beside it"],
        ),
        (
            &format!("{A}check = \"x\"\n{candidates}interval = \"1s\"\ntimeout = \"2s\""),
            &["check: found \"x\"", "timeout: found \"2s\""],
        ),
        // Checks.
        (
            &format!("{A}{candidates}check = \"api/healthz\""),
            &["3:9 names.\"a.example\".check: found \"api/healthz\"; allowed: \"http://"],
        ),
        (
            &format!("{A}{candidates}check = \"http:///x\""),
            &["3:9 names.\"a.example\".check: found \"http:///x\"; allowed: a URL"],
        ),
        (
            &format!("{A}{candidates}check = \"http://{{hosts}}/\""),
            &["{hosts} is unknown; allowed: {host}, {address}, {name}, {port}"],
        ),
        (&format!("{A}{candidates}check = \"tcp:0\""), &["allowed: tcp:PORT"]),
        (&format!("{A}{candidates}check = {{ type = \"postgres\" }}"), &["names.\"a.example\".check: user is missing"]),
        (
            &format!(
                "{A}{candidates}check = {{ type = \"postgres\", user = \"x\", role = \"primary\", max_lag = \"1s\", ca_file = \"no\" }}"
            ),
            &["max_lag says nothing about a primary", "cannot read", "ca_file is only looked at with tls = \"verify\""],
        ),
        (
            &format!("{A}{candidates}check = {{ type = \"redis\", role = \"slave\", username = \"u\" }}"),
            &["role: found \"slave\"; allowed: \"any\", \"master\", \"replica\"", "username needs a password"],
        ),
        (
            &format!("{A}{candidates}check = {{ type = \"redis\", password = \"p\", password_file = \"f\" }}"),
            &["password and password_file exclude each other"],
        ),
        (&format!("{A}{candidates}check = {{ port = 1 }}"), &["check: type is missing"]),
        (&format!("{A}{candidates}check = {{ type = \"udp\" }}"), &["check.type: found \"udp\"; allowed: \"http\""]),
        (&format!("{A}{candidates}check = []"), &["check: found an empty list"]),
        (&format!("{A}{candidates}check = [\"none\", \"tcp:1\"]"), &["check[1]: \"none\" stands alone"]),
        (
            &format!("{A}{candidates}check = [\"tcp:x\", \"http://\"]"),
            &["check[1]: found \"tcp:x\"", "check[2]: found \"http://\""],
        ),
        (
            &format!("{A}{candidates}check = {{ type = \"tcp\", expect = \"(\", prot = 1 }}"),
            &[
                "port is missing; a check of type \"tcp\" needs one",
                "check.expect: not a regular expression: unclosed group",
                "check.prot: unknown key; did you mean port?",
            ],
        ),
        (
            &format!(
                "{A}{candidates}check = {{ type = \"http\", url = 1, method = \"G T\", status = [\"99\", \"300-200\"], body = \"[\", follow_redirects = 1, ca_file = \"nowhere.pem\", client_key = \"nowhere.key\", headers = {{ Host = \"x\", \"a b\" = \"x\", C = 1 }}, verfy = false }}"
            ),
            &[
                "check: client_cert and client_key",
                ".url: found the integer 1; allowed: a URL",
                ".method: found \"G T\"",
                ".status[1]: found \"99\"",
                ".status[2]: found \"300-200\"",
                ".body: not a regular",
                ".follow_redirects: found the integer 1; allowed: true or false",
                ".ca_file: cannot read ",
                ".client_key: cannot read",
                ".headers.Host: this header is set with",
                ".headers.\"a b\": this cannot be",
                ".headers.C: a header's value",
                ".verfy: unknown key; did you mean verify?",
            ],
        ),
        (
            &format!("[names.\"*.w\"]\n{candidates}check = \"http://{{name}}/\""),
            &["3:9 names.\"*.w\".check: {name} cannot stand for the wildcard *.w"],
        ),
    ] {
        let problems = bad(text);
        let missing: Vec<_> =
            expected.iter().filter(|part| !problems.iter().any(|problem| problem.contains(**part))).collect();
        let fits = missing.is_empty() && problems.len() == expected.len();
        if !fits {
            failures.push(format!("{text}\nexpected: {missing:#?}\nfound: {problems:#?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn what_is_no_toml_hides_nothing_that_can_be_told() {
    // Values that are none leave the rest of the file as it is.
    let all = "[server]\nttl = -1\nfoo = bar\n[names.\"a\"]\ncheck=none\nintervall=\"1s\"\ncandidates=[10.0.0.1, 9]\n\
        idle_after = 10s\ndrain_record = tcp.example\n[upstream]\nservers=[10.0.0.1:53]\norder = True\n";
    assert_eq!(
        bad(all),
        [
            "2:7 server.ttl: found the integer -1; allowed: a whole number from 0 to 86400",
            "3:1 server.foo: unknown key; known here: listen, state, user, ttl, tcp_connections, tcp_idle, max_forwards, \
             history, log",
            "3:7 server.foo: not valid TOML: a text stands in quotes, and so do addresses and durations",
            "5:7 names.a.check: not valid TOML: a text stands in quotes: write \"none\"",
            "6:1 names.a.intervall: unknown key; did you mean interval?",
            "7:17 names.a.candidates[1]: not valid TOML: a text stands in quotes: write \"10.0.0.1\"",
            "7:23 names.a.candidates[2]: found the integer 9; allowed: a host name or the address of one host",
            "8:14 names.a.idle_after: not valid TOML: a text stands in quotes: write \"10s\"",
            "9:16 names.a.drain_record: not valid TOML: a text stands in quotes, and so do addresses and durations",
            "11:14 upstream.servers[1]: not valid TOML: a text stands in quotes: write \"10.0.0.1:53\"",
            "12:9 upstream.order: not valid TOML: write true, in lower case",
        ]
    );
    // Nothing of a secret is told.
    let login = "[names.a]\ncandidates = [\"10.0.0.1\"]\ncheck = { type = \"redis\", password = s3cret }\n";
    let report = Folder::new(login).load().unwrap_err().to_string();
    assert!(report.contains("names.a.check.password: not valid TOML") && !report.contains("s3cret"), "{report}");
    // Behind what breaks the structure are echoes; before it things are as they are, but for what may be missing.
    let broken = "[server]\nttl = -1\n[names.b]\ncheck = none\n[names.a]\ncheck = \"x\"\n[[names.a.candidates]\n\
        host = \"h\"\n[defaults]\nttl = -1\n";
    let problems = bad(broken);
    assert_eq!(problems.len(), 4, "{problems:#?}");
    for (problem, wanted) in problems.iter().zip([
        "2:7 server.ttl: found the integer -1",
        "4:9 names.b.check: not valid TOML: a text",
        "6:9 names.a.check: found \"x\"",
        "7:22 : not valid TOML: unclosed",
    ]) {
        assert!(problem.starts_with(wanted), "{wanted}\n{problems:#?}");
    }
    let unclosed = "[names.a]\ncandidates = [\"a\"\ncheck = \"none\"\n[names.b]\ncheck=1\n[defaults]\nttl=-1\n";
    assert_eq!(bad(unclosed), ["3:1 : not valid TOML: missing comma between array elements, expected `,`"]);
}

#[test]
fn names_without_quotes_are_told_to_have_some() {
    let text = "[names.api.example.com]\ncheck = \"none\"\ncandidates = [\"10.0.0.1\"]\n\
        [names.api.example.com.check]\ntype = \"none\"\n[names.www.example]\n[names.www.example.org]\n";
    let write = |place: &str, name: &str| {
        let label = name.split('.').next().unwrap();
        format!("{place} names.{label}: write [names.\"{name}\"]: without quotes each dot begins a table in a table")
    };
    let text = text.replace("check = \"none\"\n", "");
    assert_eq!(bad(&text), [write("1:20", "api.example.com"), write("6:20", "www.example.org")]);
    // A table in the place of something else is none of these.
    let text = format!("{A}check = \"none\"\ncandidates = [\"10.0.0.1\"]\nheaders = {{ a = 1 }}\n");
    assert!(bad(&text)[0].starts_with("4:1 names.\"a.example\".headers: unknown key"));
}

#[test]
fn what_is_never_used_or_reached_draws_a_warning() {
    let warnings = |lines: &str| {
        let config = good(&format!("{A}check = \"none\"\n{lines}\n"));
        config.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.message)).collect::<Vec<_>>()
    };
    let listed = "candidates = [\"10.0.0.1\"]\nfallback = [\"10.0.0.2\"]";
    let unused = "names.\"a.example\".fallback: it is never used: that takes when_all_down = \"fallback\"";
    assert_eq!(warnings(listed), [unused]);
    assert!(warnings(&format!("{listed}\nwhen_all_down = \"fallback\"")).is_empty());
    let local = "names.\"a.example\".candidates[2]: a link-local address says not on which link it is: no check can \
        reach it";
    assert_eq!(warnings("candidates = [\"2001:db8::1\", \"fe80::1\"]"), [local]);
}

#[test]
fn includes() {
    let main = "include = [\"conf.d/*.toml\", \"more.toml\", \"none.d/*.toml\"]\n[defaults]\ncheck = \"tcp:1\"\n";
    let folder = Folder::new(main);
    let name = |name: &str| format!("[names.\"{name}\"]\ncandidates = [\"192.0.2.1\"]\n");
    folder.put("conf.d/20.toml", &name("b"));
    folder.put("conf.d/10.toml", &name("a"));
    folder.put("conf.d/.hidden.toml", "not TOML");
    folder.put("conf.d/README", "not TOML");
    folder.put("more.toml", &name("c"));
    let config = folder.load().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(config.names.iter().map(|name| name.name.to_string()).collect::<Vec<_>>(), ["a", "b", "c"]);

    folder.put("conf.d/10.toml", &format!("[server]\nttl = 1\n{}", name("a")));
    folder.put("conf.d/20.toml", "[names\n");
    folder.put("more.toml", &name("A."));
    let report = folder.load().unwrap_err().to_string();
    for part in [
        "10.toml:1:2: server: an included file holds [names] only",
        "20.toml:1:7: not valid TOML",
        "more.toml:1:8: names.\"A.\": the name a is already configured at",
        "10.toml:3",
        "3 problems",
    ] {
        assert!(report.contains(part), "missing {part}\n{report}");
    }

    folder.put("har.toml", "include = [\"gone.toml\", \"*/x.toml\", \"har.toml\", 1]");
    let problems = folder.problems();
    for (problem, part) in problems.iter().zip(["No such file", "last part", "itself", "the integer 1"]) {
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(problems.len(), 4);
}

#[test]
fn no_reader_waits_for_a_pipe() {
    let folder = Folder::new(&format!(
        "include = [\"conf.d/*.toml\", \"more\"]\n{A}candidates = [\"192.0.2.1\"]\n\
         check = {{ type = \"tls\", port = 1, ca_file = \"authorities\" }}\n"
    ));
    fs::create_dir(folder.path("conf.d")).unwrap();
    let pipes = ["conf.d/a.toml", "more", "authorities"];
    for pipe in pipes {
        nix::unistd::mkfifo(&folder.path(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let report = folder.load().unwrap_err().to_string();
    for pipe in pipes {
        let told = report.lines().any(|line| line.contains(pipe) && line.ends_with("it is no regular file"));
        assert!(told, "{pipe}: {report}");
    }
    // A command may be given its configuration through one, but a daemon could not read it again.
    let pipe = folder.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(load_again(&pipe).unwrap_err().to_string().contains("it is no regular file; a text file"));
    let (at, text) = (pipe.clone(), format!("{A}check = \"none\"\ncandidates = [\"192.0.2.1\"]\n"));
    let writer = std::thread::spawn(move || fs::write(at, text));
    assert_eq!(load(&pipe).unwrap().names.len(), 1);
    writer.join().unwrap().unwrap();
}

#[test]
fn a_broken_main_file_does_not_hide_the_included_ones() {
    let folder = Folder::new("include = [\"a.toml\"]\n[defaults]\ncheck = \"tcp:1\n");
    folder.put("a.toml", "[names.x]\ncandidates = [\"192.0.2.1\", \"0.0.0.0\"]\n");
    let report = folder.load().unwrap_err();
    assert_eq!(report.0.len(), 2, "{report}");
}

#[test]
fn a_missing_file_is_named_with_its_remedy() {
    let folder = Folder::new("");
    let report = load(&folder.path("gone.toml")).unwrap_err().to_string();
    assert!(report.contains("gone.toml: cannot read the configuration: No such file"), "{report}");
    assert!(report.contains("--config"), "{report}");
    fs::write(folder.path("har.toml"), b"a\n\xff").unwrap();
    let report = folder.problems()[0].clone();
    assert!(
        report.contains("not UTF-8 text (line 2); a text file in UTF-8") && !report.contains("example"),
        "{report}"
    );
    let report = load(&folder.path("")).unwrap_err().to_string();
    assert!(report.contains("it is a folder") && !report.contains("example"), "{report}");
}

#[test]
fn secrets_are_warned_of_and_never_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let text = format!(
        "{A}candidates = [\"h.example\"]\ncheck = {{ type = \"http\", url = \"http://me:hunter2@{{host}}/x?k=hunter2\", headers = {{ Authorization = \"Bearer hunter2\" }} }}\n"
    );
    let folder = Folder::new(&text);
    let mode = |mode| fs::set_permissions(folder.path("har.toml"), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let config = folder.load().unwrap();
    assert_eq!(config.warnings.len(), 1);
    let shown = format!("{config:?} {} {}", config.warnings[0], config.names[0].candidates[0].checks[0].definition());
    assert!(shown.contains("everybody on this host can read it"));
    // What mends it must leave it to the daemon, who is not root.
    let path = folder.path("har.toml").display().to_string();
    assert!(config.warnings[0].message.ends_with(&format!("chgrp har {path}; chmod 640 {path}")), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    mode(0o640);
    assert!(folder.load().unwrap().warnings.is_empty());

    folder.put("har.toml", &text.replace("type =", "tpye ="));
    let report = folder.load().unwrap_err().to_string();
    assert!(!report.contains("hunter2"), "{report}");
    folder.put("har.toml", &text.replace("http://me", "htp://me").replace("Bearer", "\\q"));
    let report = folder.load().unwrap_err().to_string();
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn a_time_limit_above_the_default_interval_is_a_warning() {
    let config = good(&format!("{A}check = \"tcp:1\"\ncandidates = [\"192.0.2.1\", \"192.0.2.2\"]\ntimeout = \"15s\""));
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].message.contains("above the default interval"));
}

const EXAMPLE: &str = include_str!("../../har.toml.example");
const ONE_NAME: &str = "[names.a]\ncheck = \"tcp:1\"\ncandidates = [\"192.0.2.1\"]\n";

/// The example with every line of a default uncommented.
fn example_with_defaults() -> String {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_shows_the_defaults() {
    let expected = good(ONE_NAME);
    for text in [EXAMPLE.to_owned(), example_with_defaults()] {
        let mut config = good(&format!("{text}\n{ONE_NAME}"));
        config.server.listen_stated = false;
        assert_eq!(config.server, expected.server);
        assert_eq!(config.upstream, expected.upstream);
        assert_eq!(config.names, expected.names);
        assert!(config.warnings.is_empty());
    }
}

#[test]
fn the_commented_examples_of_the_example_are_valid() {
    let start = EXAMPLE.find("# [names.").unwrap();
    let text: String = EXAMPLE[start..]
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or("").to_owned() + "\n")
        .filter(|line| line.starts_with('[') || line.contains(" = "))
        .collect();
    let folder = Folder::new(&text);
    for file in ["ca.pem", "client.pem", "client.key"] {
        folder.put(file, "");
    }
    let config = folder.load().unwrap_or_else(|report| panic!("{text}\n{report}"));
    assert_eq!(config.names.len(), 10);
}

/// The keys that a table knows, by its own account.
fn known_keys(table: &str) -> Vec<String> {
    let problems = bad(&table.replace("KEY", "qqqqqqqqqqqq = 1"));
    let known = problems.iter().find_map(|problem| problem.split_once("known here: ")).unwrap().1;
    known.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_is_in_the_example_and_in_the_manual() {
    let manual = include_str!("../../docs/configuration.md");
    for table in [
        "KEY",
        "[server]\nKEY",
        "[upstream]\nKEY",
        "[defaults]\nKEY",
        "[names.a]\nKEY",
        "[[names.a.candidates]]\nKEY",
        "[names.a.check]\ntype = \"http\"\nKEY",
        "[names.a.check]\ntype = \"tcp\"\nKEY",
        "[names.a.check]\ntype = \"redis\"\nKEY",
        "[names.a.check]\ntype = \"postgres\"\nKEY",
        "[names.a.discover]\ntype = \"srv\"\nKEY",
        "[names.a.discover]\ntype = \"redis-sentinel\"\nKEY",
        "[names.a.check]\ntype = \"tls\"\nKEY",
        "[names.a.check]\ntype = \"exec\"\nKEY",
    ] {
        for key in known_keys(table) {
            assert!(manual.contains(&format!("`{key}`")), "{key} is not in docs/configuration.md");
            let in_example = EXAMPLE.contains(&format!("{key} ")) || EXAMPLE.contains(&format!("{key}]"));
            assert!(in_example, "{key} is not in har.toml.example");
        }
    }
}

#[test]
fn ten_thousand_names_load() {
    let mut text = "[defaults]\ncheck = \"http://{host}:8080/healthz\"\n".to_owned();
    for name in 0..10_000 {
        text += &format!("[names.\"n{name}.example.com\"]\ncandidates = [");
        for host in 0..5 {
            text += &format!("\"h{host}.n{name}.example.com\", ");
        }
        text += "]\n";
    }
    let folder = Folder::new(&text);
    let start = std::time::Instant::now();
    let config = folder.load().unwrap();
    println!("10,000 names x 5 candidates: {:?}", start.elapsed());
    assert_eq!(config.names.len(), 10_000);
}

#[test]
fn damaged_files_are_problems_and_never_a_panic() {
    let whole = example_with_defaults()
        + "\n[names.\"a.ä\"]\ncheck = { type = \"http\", url = \"http://u:p@{host}:80/x?y\", status = [\"200-299\", 3], headers = { Ä = \"ö\" } }\n"
        + "candidates = [\"192.0.2.1\", { host = \"h\", weight = 1, check = [\"tcp:1\", \"none\"] }]\n";
    let whole: String =
        whole.lines().filter(|line| !line.starts_with('#')).map(|line| line.to_owned() + "\n").collect();
    let folder = Folder::new("");
    let mut random = 0x9e37_79b9_u64;
    for _ in 0..400 {
        let mut characters: Vec<char> = whole.chars().collect();
        for _ in 0..3 {
            // xorshift: the same files on every run.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = (random >> 8) as usize % characters.len();
            match random % 4 {
                0 => characters.truncate(at.max(1)),
                1 => drop(characters.remove(at)),
                2 => characters[at] = ['"', '[', '}', '{', '\n', '=', 'ß', '0', '.', '\\'][random as usize / 7 % 10],
                _ => characters
                    .insert(at, ['\'', ']', ',', '#', '@', ':', '*', '-', '9', '\u{0}'][random as usize / 7 % 10]),
            }
        }
        folder.put("har.toml", &characters.into_iter().collect::<String>());
        if let Err(report) = folder.load() {
            assert!(!report.0.is_empty() && !report.to_string().is_empty());
        }
    }
}

#[test]
fn a_report_reads_like_this() {
    let folder = Folder::new(
        "[server]\nttl = 1\n\n[names.\"api.example.com\"]\n  intervall = 5\ncheck = \"tcp:80\"\ncandidates = [\"192.0.2.1\"]\n",
    );
    let path = folder.path("har.toml");
    let expected = format!(
        "{}:5:3: names.\"api.example.com\".intervall: unknown key; did you mean interval?\n  5 |   intervall = 5\n    |   ^^^^^^^^^\n1 problem",
        path.display()
    );
    assert_eq!(folder.load().unwrap_err().to_string(), expected);
}
