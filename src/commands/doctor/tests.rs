//! Every finding on a fabricated host: a sound one, made wrong in one point.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use regex::Regex;

use super::ask::{Asked, Heard, Listener, Upstream};
use super::facts::{Facts, Kept};
use super::finding::Severity;
use super::root::Root;
use super::*;
use crate::health::Time;
use crate::store::{ReadError, Unreadable, UpstreamRow};

mod cases;
mod integration;

/// 2026-06-01, when all of it was looked at.
const NOW: Time = Time(1_780_272_000_000);
/// The process that is har on the fabricated host.
const HAR: u32 = 77;

const CONFIG: &str = "[upstream]\nservers = [\"10.0.0.2\"]\n[names.\"api.example.com\"]\ncheck = \"tcp:80\"\n\
                      candidates = [\"192.0.2.7\"]\n[names.\"*.apps.example.com\"]\ncheck = \"tcp:80\"\n\
                      candidates = [\"192.0.2.8\"]\n";

/// A host made of files.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    /// One on which all is well.
    fn sound() -> Host {
        let host = Host { folder: tempfile::tempdir().unwrap() };
        host.put("etc/har/har.toml", CONFIG)
            .put("etc/resolv.conf", "nameserver 127.0.0.1\n")
            .put("etc/nsswitch.conf", "passwd: files\nhosts: files dns\n")
            .put("etc/hosts", "127.0.0.1 localhost\n")
            .put("etc/hostname", "client7\n")
            .put("usr/lib/systemd/system/har.service", include_str!("../../../packaging/har.service"))
            .link("etc/systemd/system/multi-user.target.wants/har.service", "/usr/lib/systemd/system/har.service")
            .put("run/systemd/system/x", "")
            .put("proc/net/if_inet6", "00000000000000000000000000000001 01 80 10 80       lo\n")
            .put("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
            .put("var/lib/har/har.db", "rows, which the test gives")
            .process(HAR, "har")
            .limit(65_536);
        for address in ["127.0.0.1", "::1"] {
            host.socket("udp", address, HAR).socket("tcp", address, HAR);
        }
        host
    }

    fn put(&self, path: &str, text: &str) -> &Host {
        let place = self.folder.path().join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::remove_file(&place).ok();
        fs::write(place, text).unwrap();
        self
    }

    fn add(&self, path: &str, text: &str) -> &Host {
        let before = fs::read_to_string(self.folder.path().join(path)).unwrap();
        self.put(path, &(before + text))
    }

    fn remove(&self, path: &str) -> &Host {
        fs::remove_file(self.folder.path().join(path)).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Host {
        let place = self.folder.path().join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::remove_file(&place).ok();
        symlink(target, place).unwrap();
        self
    }

    fn mode(&self, path: &str, mode: u32) -> &Host {
        fs::set_permissions(self.folder.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn process(&self, pid: u32, command: &str) -> &Host {
        self.put(&format!("proc/{pid}/comm"), &format!("{command}\n"))
    }

    fn limit(&self, files: u32) -> &Host {
        let head = "Limit                     Soft Limit           Hard Limit           Units\n";
        self.put(
            &format!("proc/{HAR}/limits"),
            &format!("{head}Max open files            {files}                65536                files\n"),
        )
    }

    /// A socket on port 53 that a process has.
    fn socket(&self, protocol: &str, address: &str, pid: u32) -> &Host {
        let address: IpAddr = address.parse().unwrap();
        let (bytes, table) = match address {
            IpAddr::V4(v4) => (v4.octets().to_vec(), format!("proc/net/{protocol}")),
            IpAddr::V6(v6) => (v6.octets().to_vec(), format!("proc/net/{protocol}6")),
        };
        let hex: String =
            bytes.chunks(4).map(|four| format!("{:08X}", u32::from_ne_bytes(four.try_into().unwrap()))).collect();
        let before = fs::read_to_string(self.folder.path().join(&table)).unwrap_or_else(|_| "head\n".to_owned());
        let inode = 1000 * u64::from(pid) + before.len() as u64 + u64::from(protocol == "tcp");
        let state = if protocol == "tcp" { "0A" } else { "07" };
        let line = format!("1: {hex}:0035 0:0 {state} 0:0 0:0 0 0 0 {inode} 2 0\n");
        self.put(&table, &(before + &line));
        self.link(&format!("proc/{pid}/fd/{inode}"), &format!("socket:[{inode}]"))
    }

    /// Nobody has a port any more.
    fn no_sockets(&self) -> &Host {
        for table in ["udp", "udp6", "tcp", "tcp6"] {
            self.put(&format!("proc/net/{table}"), "head\n");
        }
        self
    }

    /// What is known of it, with good answers from everybody and a good state file.
    fn facts(&self) -> Facts {
        let mut facts = Facts::collect(&Root::new(self.folder.path()), Path::new("/etc/har/har.toml"), NOW).unwrap();
        let fine = Heard::Reply { rcode: 0, authoritative: true };
        let listener = |&address: &std::net::SocketAddr| Listener {
            address,
            name: "api.example.com".to_owned(),
            configured: true,
            udp: fine.clone(),
            tcp: fine.clone(),
        };
        let upstream = |address: std::net::SocketAddr| Upstream {
            address,
            route: None,
            heard: Heard::Reply { rcode: 0, authoritative: false },
        };
        facts.asked = Some(Asked {
            listeners: facts.listen().iter().map(listener).collect(),
            upstreams: upstream::servers(&facts).0.into_iter().map(upstream).collect(),
        });
        if facts.state.file.is_some() {
            facts.state.kept = Some(Ok(Kept {
                life: Life::Running,
                heartbeat_at: Some(NOW),
                config: Some("/etc/har/har.toml".to_owned()),
                refused: None,
                listen: facts.listen(),
                upstreams: Vec::new(),
            }));
        }
        facts
    }
}

/// `warning rotate`, for everything that is not in order, sorted.
fn found(facts: &Facts) -> Vec<String> {
    let mut found: Vec<String> = diagnose(facts)
        .iter()
        .filter(|finding| finding.severity > Severity::Ok)
        .map(|finding| format!("{} {}", finding.severity.as_str(), finding.id))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn a_sound_host_is_found_sound() {
    let host = Host::sound();
    let findings = diagnose(&host.facts());
    assert_eq!(found(&host.facts()), [""; 0], "{findings:#?}");
    // Every subject has looked.
    let ids: Vec<&str> = findings.iter().map(|finding| finding.id).collect();
    for id in [
        "config",
        "resolv-conf",
        "resolv-conf-writer",
        "nsswitch",
        "listener",
        "upstream",
        "state",
        "unit",
        "open-files",
    ] {
        assert!(ids.contains(&id), "{id} in {ids:?}");
    }
}

#[test]
fn every_fault_is_found_and_nothing_else() {
    for case in cases::CASES {
        let host = Host::sound();
        (case.host)(&host);
        let mut facts = host.facts();
        (case.facts)(&mut facts);
        assert_eq!(found(&facts), case.found, "{}: {:#?}", case.what, diagnose(&facts));
    }
}

#[test]
fn every_kind_of_finding_has_a_case() {
    let constructed = Regex::new(
        r#"(?:Finding::(?:hint|warning|problem)|finding)\(\s*"([a-z0-9-]+)"|Engine \{\s*id: "([a-z0-9-]+)""#,
    )
    .unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands/doctor");
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text =
            if path.is_file() && !path.ends_with("tests.rs") { fs::read_to_string(&path).unwrap() } else { continue };
        ids.extend(constructed.captures_iter(&text).map(|id| id.get(1).or(id.get(2)).unwrap().as_str().to_owned()));
    }
    assert!(ids.len() > 50, "the constructors are found: {ids:?}");
    let known = |found: &&str| found.split_once(' ').unwrap().1.to_owned();
    let covered: BTreeSet<String> = cases::CASES.iter().flat_map(|case| case.found).map(known).collect();
    let missing: Vec<&String> = ids.difference(&covered).collect();
    assert!(missing.is_empty(), "without a case: {missing:?}");
}

#[test]
fn each_finding_says_why_and_what_to_do() {
    let file = Regex::new("packaging/[a-zA-Z./-]*[a-zA-Z]").unwrap();
    for case in cases::CASES {
        let host = Host::sound();
        (case.host)(&host);
        let mut facts = host.facts();
        (case.facts)(&mut facts);
        for finding in diagnose(&facts).iter().filter(|finding| finding.severity > Severity::Ok) {
            let texts = [&finding.place, &finding.found, &finding.why, &finding.mend];
            assert!(texts.iter().all(|text| !text.is_empty() && !text.contains('\n')), "{}: {finding:?}", case.what);
            for named in file.find_iter(&finding.mend) {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(named.as_str());
                assert!(path.is_file(), "{} is not there", named.as_str());
            }
        }
    }
}

#[test]
fn the_report_begins_with_the_worst_and_ends_with_the_sum() {
    let host = Host::sound();
    host.put("etc/resolv.conf", "nameserver 10.0.0.2\n")
        .put("etc/hosts", "192.0.2.1 x.apps.example.com\n")
        .remove("etc/systemd/system/multi-user.target.wants/har.service");
    let options = DoctorOptions { config: "/etc/har/har.toml".into(), root: "/".into(), json: false };
    let findings = diagnose(&host.facts());
    let text = report(&findings, &options);
    assert!(
        text.starts_with("problem: /etc/resolv.conf:1: the first name server is 10.0.0.2, not har\n  why:  "),
        "{text}"
    );
    assert!(text.contains("\n2 problems, 1 warning, 0 hints; "), "{text}");
    assert!(text.ends_with("; the packages have them in /usr/share/doc/har.\n"), "where a mend's file is: {text}");
    let text = report(&diagnose(&Host::sound().facts()), &options);
    assert!(!text.contains("/usr/share/doc/har"), "no mend names a file: {text}");
    let document: serde_json::Value = serde_json::from_str(&json(&findings, &options)).unwrap();
    assert_eq!((document["problems"].as_u64(), document["warnings"].as_u64()), (Some(2), Some(1)));
    assert_eq!(document["findings"][0]["id"], "resolv-conf-elsewhere");
    assert_eq!(document["findings"][0]["severity"], "problem");
}

#[test]
fn the_exit_status_tells_a_problem_from_a_configuration_that_is_none() {
    let status = |host: &Host| {
        let options =
            DoctorOptions { config: "/etc/har/har.toml".into(), root: host.folder.path().to_owned(), json: true };
        format!("{:?}", run(&options, &mut Vec::new()).unwrap())
    };
    let (host, code) = (Host::sound(), |code: u8| format!("{:?}", ExitCode::from(code)));
    // Its state file holds no rows; without one there is only a hint.
    host.remove("var/lib/har/har.db").no_sockets();
    assert_eq!(status(&host), code(0));
    host.put("etc/resolv.conf", "nameserver 10.0.0.2\n");
    assert_eq!(status(&host), code(1));
    host.put("etc/har/har.toml", "nonsense");
    assert_eq!(status(&host), code(2));
    let options = DoctorOptions { config: "x".into(), root: "/nonexistent".into(), json: false };
    assert!(matches!(run(&options, &mut Vec::new()), Err(Failure::Usage(_))));
}

#[test]
fn a_relative_configuration_is_named_as_the_host_does() {
    let host = Host::sound();
    // From the folder of the tests to the one of the host.
    let here = std::env::current_dir().unwrap();
    let mut up: std::path::PathBuf = here.components().skip(1).map(|_| "..").collect();
    up.push(host.folder.path().strip_prefix("/").unwrap());
    let facts = Facts::collect(&Root::new(host.folder.path()), &up.join("etc/har/har.toml"), NOW).unwrap();
    assert!(facts.config.is_ok());
    assert!(facts.config_path.is_absolute(), "{:?}", facts.config_path);
    let at_home = Path::new("Cargo.toml");
    let facts = Facts::collect(&Root::new(Path::new("/")), at_home, NOW).unwrap();
    assert_eq!(facts.config_path, here.join(at_home), "as the daemon writes it down");
}

#[test]
fn a_problem_is_placed_where_it_is() {
    let host = Host::sound();
    let include = "include = [\"conf.d/*.toml\"]\n";
    let name = |more: &str| format!("[names.\"b.example\"]\n{more}\ncheck = \"tcp:1\"\ncandidates = [\"192.0.2.9\"]\n");
    host.put("etc/har/har.toml", &format!("{include}{CONFIG}")).put("etc/har/conf.d/b.toml", &name("colour = 1"));
    let placed = |id: &str| {
        let found = diagnose(&host.facts()).into_iter().find(|finding| finding.id == id).unwrap();
        (found.place, found.found)
    };
    let (place, found) = placed("config-invalid");
    assert_eq!(place, "/etc/har/conf.d/b.toml:2:1");
    assert!(found.starts_with("names.\"b.example\".colour: unknown key"), "{found}");
    host.put("etc/har/conf.d/b.toml", &name("timeout = \"20s\""));
    let (place, found) = placed("config-warning");
    assert_eq!(place, "/etc/har/conf.d/b.toml:2:11");
    assert!(found.starts_with("names.\"b.example\".timeout: "), "{found}");
}

#[test]
fn the_last_word_of_the_daemon_on_its_configuration_counts() {
    use crate::health::{Event, EventKind};
    use crate::store::tests::{LONG, complete, start};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("har.db");
    let (writer, _) = start(&path);
    let kept = || {
        let state = facts::State::look(&Root::new(Path::new("/")), &path.to_string_lossy());
        state.kept.unwrap().unwrap()
    };
    let mut batch = complete(1);
    for (reason, refused) in [
        ("har 9 started, 1 name from /etc/har/har.toml; no earlier run is known", false),
        ("the configuration was not taken over: x.toml: cannot read the included file", true),
        ("2 more first answers", true),
        ("the configuration was loaded again: 1 name", false),
    ] {
        batch.events = vec![Event::new(crate::store::time::now(), EventKind::Daemon, reason.to_owned())];
        writer.send(batch.clone());
        assert!(writer.flush(LONG));
        let expected = refused.then(|| "x.toml: cannot read the included file".to_owned());
        assert_eq!(kept().refused.map(|(_, why)| why), expected, "{reason}");
    }
    assert!(writer.stop(LONG));
}

#[test]
fn one_file_by_two_paths_is_one_file() {
    let host = Host::sound();
    let root = Root::new(host.folder.path());
    host.link("opt/har.toml", "../etc/har/har.toml").put("opt/other.toml", CONFIG);
    for (started, found) in [("/opt/har.toml", &[][..]), ("/opt/other.toml", &["warning other-config"][..])] {
        let mut facts = host.facts();
        facts.files.look(&root, started);
        facts.state.kept.as_mut().unwrap().as_mut().unwrap().config = Some(started.to_owned());
        assert_eq!(self::found(&facts), found, "{started}");
    }
    let text = "[Service]\nExecStart=\nExecStart=/usr/bin/har serve --config /opt/har.toml\n";
    host.put("etc/systemd/system/har.service.d/local.conf", text);
    assert_eq!(found(&host.facts()), [""; 0]);
}

#[test]
fn what_mends_a_state_file_depends_on_what_it_is() {
    let host = Host::sound();
    let mend = |kind: Unreadable| {
        let mut facts = host.facts();
        facts.state.kept = Some(Err(ReadError::new(kind, "words")));
        diagnose(&facts).into_iter().find(|finding| finding.id == "state-unreadable").unwrap().mend
    };
    assert!(mend(Unreadable::Damaged).contains("moves a damaged file aside"));
    assert!(mend(Unreadable::Foreign).contains("server.state") && !mend(Unreadable::Foreign).contains("damaged"));
    assert!(mend(Unreadable::Barred).contains("root"));
}

#[test]
fn looking_changes_nothing() {
    let host = Host::sound();
    host.link("etc/resolv.conf", "../run/resolvconf/resolv.conf")
        .put("run/resolvconf/resolv.conf", "nameserver 127.0.0.1\n");
    let everything = || {
        let mut open = vec![host.folder.path().to_owned()];
        let mut seen = Vec::new();
        while let Some(path) = open.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            seen.push((path, metadata.modified().unwrap(), metadata.len(), metadata.permissions().mode()));
        }
        seen.sort();
        seen
    };
    let before = everything();
    diagnose(&host.facts());
    assert_eq!(everything(), before);
}
