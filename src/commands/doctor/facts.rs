//! What is known of a host: collected once, then judged without another look.
//!
//! Files and the process table are read below a root folder, which is `/` or a fabricated or mounted host. Only on
//! this host itself are questions asked (`ask`). Nothing here decides what is good or bad.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::ask::{self, Asked};
use super::root::{Content, Files, Root, Seen};
use super::upstream;
use crate::config::{self, Config, Report, Servers, defaults};
use crate::health::Time;
use crate::os::holder::{self, Held};
use crate::store::{Life, Reader, Stored, UpstreamRow};

/// Every file that is looked at, whatever the configuration says.
const PATTERNS: &[&str] = &[
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/NetworkManager/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/hostname",
    // Who writes resolv.conf.
    "/etc/systemd/resolved.conf",
    "/usr/lib/systemd/resolved.conf",
    "/etc/systemd/resolved.conf.d/*.conf",
    "/run/systemd/resolved.conf.d/*.conf",
    "/usr/lib/systemd/resolved.conf.d/*.conf",
    "/etc/NetworkManager/NetworkManager.conf",
    "/etc/NetworkManager/conf.d/*.conf",
    "/run/NetworkManager/conf.d/*.conf",
    "/usr/lib/NetworkManager/conf.d/*.conf",
    "/etc/dhcp/dhclient-enter-hooks.d/*",
    "/etc/dhcp/dhclient-enter-hooks",
    "/etc/dhcpcd.conf",
    "/etc/resolvconf.conf",
    "/etc/resolvconf/update.d/*",
    "/etc/cloud/cloud.cfg",
    "/etc/cloud/cloud.cfg.d/*.cfg",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/sbin/resolvconf",
    "/usr/sbin/resolvconf",
    // Containers.
    "/etc/docker/daemon.json",
    "/usr/bin/dockerd",
    "/usr/bin/podman",
    "/usr/share/containers/containers.conf",
    "/etc/containers/containers.conf",
    "/etc/containers/containers.conf.d/*.conf",
    "/var/lib/kubelet/config.yaml",
    "/etc/kubernetes/kubelet-config.yaml",
    "/etc/default/kubelet",
    "/etc/sysconfig/kubelet",
    // Caches.
    "/usr/lib/jvm/*/conf/security/java.security",
    "/usr/lib/jvm/*/lib/security/java.security",
    "/usr/lib/jvm/*/jre/lib/security/java.security",
    "/etc/nscd.conf",
    // The service.
    "/run/systemd/system",
    "/run/systemd/timesync/synchronized",
    "/etc/systemd/system/har.*",
    "/etc/systemd/system/*/har.*",
    "/etc/systemd/system/har.service.d/*.conf",
    "/run/systemd/system/har.*",
    "/usr/local/lib/systemd/system/har.*",
    "/usr/lib/systemd/system/har.*",
    "/lib/systemd/system/har.*",
    // The kernel.
    "/proc/sys/net/ipv6/conf/lo/disable_ipv6",
    "/proc/net/if_inet6",
    "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/proc/sys/net/ipv4/ip_local_port_range",
];

/// All that is known.
#[derive(Debug)]
pub struct Facts {
    /// The configuration file as it was named.
    pub config_path: PathBuf,
    /// What it holds, or all that is wrong with it.
    pub config: Result<Config, Report>,
    /// Files, by path.
    pub files: Files,
    /// Names of the processes, as the kernel keeps them (15 bytes).
    pub processes: Vec<String>,
    /// Who has the ports of `server.listen`.
    pub ports: Vec<Port>,
    /// The limits of har's process.
    pub limits: Option<Seen>,
    /// The state file.
    pub state: State,
    /// What was heard; `None` when nobody was asked.
    pub asked: Option<Asked>,
    /// When it was looked.
    pub now: Time,
}

/// A listener of the configuration.
#[derive(Clone, Debug)]
pub struct Port {
    /// Where.
    pub address: SocketAddr,
    /// Over UDP.
    pub udp: Held,
    /// Over TCP.
    pub tcp: Held,
}

/// The state file and its folder.
#[derive(Clone, Debug)]
pub struct State {
    /// As that host names it.
    pub path: String,
    /// The file, if there is one.
    pub file: Option<Seen>,
    /// Its folder, if there is one.
    pub folder: Option<Seen>,
    /// What is in it, or why that cannot be said.
    pub kept: Option<Result<Kept, String>>,
}

/// What matters of the state file's rows.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Whether a daemon runs.
    pub life: Life,
    /// When it last wrote.
    pub heartbeat_at: Option<Time>,
    /// The configuration that the daemon was started with.
    pub config: Option<String>,
    /// Where the daemon listens.
    pub listen: Vec<SocketAddr>,
    /// The upstreams.
    pub upstreams: Vec<UpstreamRow>,
}

impl Facts {
    /// Looks at everything.
    pub fn collect(root: &Root, config_path: &Path, now: Time) -> Facts {
        // A relative one is where the command was given.
        let (place, config_path) = if config_path.is_absolute() {
            (root.outside(&shown(config_path)), config_path.to_owned())
        } else {
            let place = std::path::absolute(config_path).unwrap_or_else(|_| config_path.to_owned());
            let inside = within(root, &place);
            (place, inside.into())
        };
        let config = config::load(&place);
        let mut files = Files::default();
        PATTERNS.iter().for_each(|pattern| files.look(root, pattern));
        let listen = config.as_ref().map_or_else(|_| defaults::LISTEN.to_vec(), |config| config.server.listen.clone());
        if let Ok(config) = &config
            && let Servers::File(file) = &config.upstream.servers
        {
            files.look(root, &shown(file));
        }
        for file in super::containers::named_files(&files) {
            files.look(root, &file);
        }
        files.look(root, &shown(&config_path));
        let proc = root.outside("/proc");
        let port = |&address: &SocketAddr| {
            let [udp, tcp] = [true, false].map(|udp| holder::look(&proc, address, udp));
            Port { address, udp, tcp }
        };
        let ports: Vec<Port> = listen.iter().map(port).collect();
        let state_path = config.as_ref().map_or(Path::new(defaults::STATE), |config| &config.server.state);
        let mut facts = Facts {
            config_path,
            state: State::look(root, &within(root, state_path)),
            limits: har_process(&ports).and_then(|pid| root.see(&format!("/proc/{pid}/limits"))),
            config,
            files,
            processes: processes(&proc),
            ports,
            asked: None,
            now,
        };
        if root.is_this_host() {
            let servers = upstream::servers(&facts).0;
            facts.asked = Some(ask::everybody(facts.config.as_ref().ok(), &facts.listen(), &servers));
        }
        facts
    }

    /// Where har is to listen.
    pub fn listen(&self) -> Vec<SocketAddr> {
        self.ports.iter().map(|port| port.address).collect()
    }

    /// Whether a process of this name runs. The kernel keeps 15 bytes of a name.
    pub fn runs(&self, command: &str) -> bool {
        let kept = command.get(..15).unwrap_or(command);
        self.processes.iter().any(|process| process == kept)
    }

    /// The number in a file of `/proc/sys`.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.files.text(path)?.split_whitespace().next()?.parse().ok()
    }
}

impl State {
    fn look(root: &Root, path: &str) -> State {
        let folder = Path::new(path).parent().map(shown).unwrap_or_default();
        let see = |path: &str| {
            // Its rows are read by SQLite; a state file may be large.
            let real = root.real(path).unwrap_or_else(|| path.to_owned());
            std::fs::metadata(root.outside(&real)).is_ok().then(|| root.see(path)).flatten()
        };
        let file = see(path).filter(|seen| seen.content != Content::Nothing);
        let kept = file.as_ref().map(|seen| {
            let stored = Reader::open(&root.outside(&seen.real)).and_then(|reader| reader.load());
            stored.map(Kept::of).map_err(|error| error.to_string())
        });
        State { path: path.to_owned(), folder: see(&folder), file, kept }
    }
}

impl Kept {
    fn of(stored: Stored) -> Kept {
        let life = stored.life();
        let daemon = stored.daemon;
        Kept {
            life,
            heartbeat_at: daemon.as_ref().map(|daemon| daemon.heartbeat_at),
            config: daemon.as_ref().map(|daemon| daemon.config.clone()),
            listen: daemon.map(|daemon| daemon.listen).unwrap_or_default(),
            upstreams: stored.upstreams,
        }
    }
}

/// A path as text.
pub fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A path that the configuration made absolute by its own place, as that host names it.
fn within(root: &Root, path: &Path) -> String {
    let outside = root.outside("/");
    match path.strip_prefix(&outside) {
        Ok(inside) => format!("/{}", inside.display()),
        Err(_) => shown(path),
    }
}

/// The process that has one of har's ports and is called har.
fn har_process(ports: &[Port]) -> Option<u32> {
    ports.iter().flat_map(|port| [&port.udp, &port.tcp]).find_map(|held| match held {
        Held::By(holder) if holder.command == "har" => Some(holder.pid),
        _ => None,
    })
}

fn processes(proc: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let folders = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_process));
    let mut names: Vec<String> = folders
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
