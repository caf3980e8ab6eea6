//! What is known of a host: collected once, then judged without another look.
//!
//! Files and the process table are read below a root folder, which is `/` or a fabricated or mounted host. Only on
//! this host itself are questions asked (`ask`). Nothing here decides what is good or bad.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::ask::{self, Asked};
use super::root::{Content, Files, Root, Seen};
use super::{service, upstream};
use crate::commands::runner::Runner;
use crate::config::{self, Config, Problem, Report, Servers, defaults};
use crate::health::Time;
use crate::os;
use crate::os::holder::{self, Held};
use crate::poll::reload::{REFUSED, TAKEN};
use crate::store::{Life, ReadError, Reader, Stored, UpstreamRow};

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
    /// Files of it that everybody can write.
    pub open: Vec<String>,
    /// Whom the daemon runs as, and what he may not read: known on this host alone.
    pub runner: Runner,
    /// Files, by path.
    pub files: Files,
    /// Names of the processes, as the kernel keeps them (15 bytes).
    pub processes: Vec<String>,
    /// Who has the ports of `server.listen`.
    pub ports: Vec<Port>,
    /// The daemon that has one of them.
    pub daemon: Option<u32>,
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
    pub kept: Option<Result<Kept, ReadError>>,
    /// Why a folder that is not there cannot be made.
    pub hindrance: Option<String>,
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
    /// When the running daemon last refused a configuration, and why, if it has taken none since.
    pub refused: Option<(String, String)>,
    /// Where the daemon listens.
    pub listen: Vec<SocketAddr>,
    /// The upstreams.
    pub upstreams: Vec<UpstreamRow>,
}

impl Facts {
    /// Looks at everything.
    ///
    /// # Errors
    /// When root's rights are lost, which it gives up to look for another user.
    pub fn collect(root: &Root, config_path: &Path, now: Time) -> Result<Facts, os::Error> {
        // A relative one is where the command was given.
        let (place, config_path) = if config_path.is_absolute() {
            (root.outside(&shown(config_path)), config_path.to_owned())
        } else {
            let place = std::path::absolute(config_path).unwrap_or_else(|_| config_path.to_owned());
            let inside = within(root, &place);
            (place, inside.into())
        };
        let mut config = config::look(&place);
        // As that host names them, which are known by where they are here.
        match &mut config {
            Ok(config) => config.warnings.iter_mut().for_each(|problem| name(root, problem)),
            Err(report) => report.0.iter_mut().for_each(|problem| name(root, problem)),
        }
        let sources = config.as_ref().map_or_else(|_| vec![place.clone()], |config| config.sources.clone());
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
        service::config(&files).iter().for_each(|path| files.look(root, path));
        let runner = match &config {
            Ok(config) if root.is_this_host() => Runner::look(config, service::user(&files).as_deref())?,
            _ => Runner::default(),
        };
        let proc = root.outside("/proc");
        let port = |&address: &SocketAddr| {
            let [udp, tcp] = [true, false].map(|udp| holder::look(&proc, address, udp));
            Port { address, udp, tcp }
        };
        let ports: Vec<Port> = listen.iter().map(port).collect();
        let state_path = config.as_ref().map_or(Path::new(defaults::STATE), |config| &config.server.state);
        let state = State::look(root, &within(root, state_path));
        let started = state.kept.as_ref().and_then(|kept| kept.as_ref().ok()?.config.clone());
        started.iter().for_each(|path| files.look(root, path));
        let daemon = holder::daemon(&proc, &listen);
        let mut facts = Facts {
            config_path,
            open: sources.iter().filter(|path| is_open(path)).map(|path| within(root, path)).collect(),
            runner,
            state,
            limits: daemon.and_then(|pid| root.see(&format!("/proc/{pid}/limits"))),
            daemon,
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
        Ok(facts)
    }

    /// Whether two paths lead to the same file, by whatever links.
    pub fn is_same(&self, one: &str, other: &str) -> bool {
        let real = |path| self.files.get(path).map(|seen| seen.real.as_str()).unwrap_or(path);
        real(one) == real(other)
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
    pub(super) fn look(root: &Root, path: &str) -> State {
        let folder = Path::new(path).parent().map(shown).unwrap_or_default();
        let see = |path: &str| {
            // Its rows are read by SQLite; a state file may be large.
            let real = root.real(path).unwrap_or_else(|| path.to_owned());
            std::fs::metadata(root.outside(&real)).is_ok().then(|| root.see(path)).flatten()
        };
        let file = see(path).filter(|seen| seen.content != Content::Nothing);
        let kept = file.as_ref().map(|seen| {
            let path = root.outside(&seen.real);
            Reader::current(&path).map(|stored| Kept::of(stored, &path))
        });
        let folder = see(&folder);
        let is_there = folder.as_ref().is_some_and(|seen| seen.content == Content::Folder);
        let hindrance = if is_there { None } else { hindrance(&root.outside(path)) };
        State { path: path.to_owned(), folder, file, kept, hindrance }
    }
}

impl Kept {
    fn of(stored: Stored, path: &Path) -> Kept {
        let life = stored.life();
        let runs = matches!(life, Life::Running | Life::Silent);
        let daemon = stored.daemon;
        Kept {
            life,
            refused: if runs { refused(path) } else { None },
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

/// The place of a problem, as that host names it.
fn name(root: &Root, problem: &mut Problem) {
    problem.file = Path::new(&within(root, &problem.file)).into();
}

/// Whether everybody can write a file.
fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o002 != 0)
}

/// Why the folder of a file cannot be made: what is there of the way to it is no folder, or on a disk that cannot be
/// written.
fn hindrance(path: &Path) -> Option<String> {
    let there = path.ancestors().skip(1).find(|folder| folder.symlink_metadata().is_ok())?;
    if !there.is_dir() {
        return Some(format!("{} is not a folder", there.display()));
    }
    match nix::unistd::eaccess(there, nix::unistd::AccessFlags::W_OK) {
        Err(Errno::EROFS) => Some(format!("{} is on a file system that is read-only", there.display())),
        _ => None,
    }
}

/// When the daemon last refused a configuration, and why, if it has taken none since.
fn refused(state: &Path) -> Option<(String, String)> {
    const LAST: &str = "SELECT at, reason FROM event WHERE kind = 'daemon' ORDER BY id DESC LIMIT 50";
    let reader = Reader::open(state).ok()?;
    let mut statement = reader.connection().prepare(LAST).ok()?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).ok()?;
    let loads = |reason: &str| reason.starts_with(TAKEN) || reason.contains(" started, ");
    let (at, reason) = rows.flatten().find(|(_, reason)| reason.starts_with(REFUSED) || loads(reason))?;
    Some((at, reason.strip_prefix(REFUSED)?.to_owned()))
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
