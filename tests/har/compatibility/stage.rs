//! What the tests stand on: addresses that lead back to this host, the host's files, programs with a deadline.
//!
//! Only for use inside [`namespace::inside`]: files of the host are covered by others.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use regex::Regex;
use tempfile::TempDir;

use crate::harness::{dns, missing, namespace, program, wait_for};

/// Longest time of one program, seconds: a lost answer must show, a loaded machine must not.
const PATIENCE: &str = "30";

/// Programs that a stage needs.
pub const NEEDED: [&str; 3] = ["ip", "mount", "timeout"];

/// A namespace made ready, and a folder for the test's files.
pub struct Stage {
    folder: TempDir,
}

impl Stage {
    /// Gives loopback addresses of the documentation ranges and covers the host's own files.
    pub fn new() -> Stage {
        assert!(namespace::is_inside(), "the host's own files must stay as they are");
        let stage = Stage { folder: tempfile::tempdir().expect("a temporary folder") };
        // An address beyond 127/8 and ::1 makes programs that look at the interfaces believe in both families.
        for words in [
            "addr add 192.0.2.1/32 dev lo",
            "addr add 2001:db8::1/128 dev lo nodad",
            "route add local 192.0.2.0/24 dev lo",
            "route add local 198.51.100.0/24 dev lo",
            "route add local 2001:db8::/32 dev lo",
        ] {
            stage.must("ip", &words.split(' ').collect::<Vec<_>>());
        }
        stage.cover("/etc/nsswitch.conf", "hosts: files dns\n");
        stage.cover("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n");
        stage
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in the test's folder and returns its path as text.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("own folder");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Puts a file of these contents in the place of the host's, if that has it.
    pub fn cover(&self, path: &str, text: &str) {
        if Path::new(path).exists() {
            let own = self.file(&path.replace('/', "_"), text);
            self.must("mount", &["--bind", &own, path]);
        }
    }

    /// Writes `/etc/resolv.conf`, which is the test's own inside the namespace.
    pub fn resolv_conf(&self, server: &str, options: &str) {
        let text = format!("nameserver {server}\noptions {options}\n");
        fs::write("/etc/resolv.conf", text).expect("the namespace's own");
    }

    /// Runs a program to its end.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let path = program(name).unwrap_or_else(|| PathBuf::from(name));
        let mut command = Command::new("timeout");
        command.args(["-k", "1", PATIENCE]).arg(path).args(arguments);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env("LC_ALL", "C").env("HOME", self.folder.path());
        // Proxies, resolver options and the like of whoever runs the tests must not count.
        for (key, _) in std::env::vars_os() {
            let text = key.to_string_lossy().to_ascii_lowercase();
            if text.ends_with("_proxy")
                || text.starts_with("res_")
                || text.contains("java")
                || text.starts_with("node_")
            {
                command.env_remove(&key);
            }
        }
        command.output().expect("timeout starts")
    }

    /// [`Stage::run`] of what must succeed; returns its standard output.
    #[track_caller]
    pub fn must(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.run(name, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name} {arguments:?}: {text}{error}");
        text
    }

    /// The first version number that a program prints.
    pub fn version(&self, name: &str, argument: &str) -> String {
        let output = self.run(name, &[argument]);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let version = Regex::new(r"\d+\.\d[\w.+~]*").expect("a valid pattern");
        version.find(&text).map_or("of an unknown version", |found| found.as_str()).trim_end_matches('.').to_owned()
    }

    /// Starts a server and waits until it answers a query at `address`.
    #[track_caller]
    pub fn serve(&self, name: &str, arguments: &[&str], environment: &[(&str, String)], address: SocketAddr) -> Server {
        let path = program(name).unwrap_or_else(|| PathBuf::from(name));
        let log = self.path(&format!("{}-{}.log", path.file_name().unwrap_or_default().display(), address.port()));
        let file = fs::File::create(&log).expect("own folder");
        let mut command = Command::new(&path);
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("another handle")).stderr(file);
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        let mut server = Server { child: command.spawn().expect("the server starts") };
        let probe = dns::encode(&dns::question("www.forwarded.example", dns::record_type("A")));
        wait_for(&format!("{name} at {address}"), || {
            let log = || fs::read_to_string(&log).unwrap_or_default();
            let ended = server.child.try_wait().expect("own child");
            assert!(ended.is_none(), "{name} ended with {ended:?}:\n{}", log());
            dns::udp_within(address, &probe, Duration::from_millis(500)).map(drop)
        });
        server
    }
}

/// Why dnsmasq or systemd-resolved cannot be started here: not installed, or forbidden to set its groups, which a user
/// namespace denies.
pub fn cannot_drop_root(programs: &[&str]) -> Option<String> {
    missing(programs).or_else(|| {
        let groups = fs::read_to_string("/proc/self/setgroups").unwrap_or_default();
        (groups.trim() == "deny").then(|| "needs root".to_owned())
    })
}

/// A server of another project, stopped when dropped.
pub struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM: some have children of their own, which they end.
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM);
        }
        for _ in 0..300 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
