//! The upstream servers of a `resolv.conf`, followed as the file changes.
//!
//! Whoever manages the file (DHCP clients, NetworkManager, systemd-resolved, a person) rewrites it, renames a new one
//! over it or swaps a symbolic link: [`Follower::poll`] looks at what the path leads to, not at an open file.
//! A file that is gone, unreadable or lists nothing leaves the last servers in place. har's own listeners are
//! never among the servers: a `resolv.conf` that points at har is the usual case, not an error.

use std::ffi::CString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::Servers;

/// The files that `auto` looks at, in this order, seen from the root folder.
pub const AUTO: [&str; 3] =
    ["run/systemd/resolve/resolv.conf", "run/NetworkManager/no-stub-resolv.conf", "etc/resolv.conf"];
/// As much of a file is read: a `resolv.conf` has a few lines, and a device file has no end.
const MAX_FILE: u64 = 64 << 10;
/// Servers taken from a file at most: each is asked, measured and tested for loops.
const MAX_SERVERS: usize = 32;
/// A file written this recently is read again even if it looks the same: a second write within one tick of
/// the file system's clock leaves no trace in its times.
const FRESH: Duration = Duration::from_secs(2);

/// Follows the file that the configuration names, or the usual ones.
#[derive(Clone, Debug)]
pub struct Follower {
    paths: Vec<PathBuf>,
    listeners: Vec<SocketAddr>,
    seen: Vec<Option<Stamp>>,
    listed: Vec<Vec<SocketAddr>>,
    last: Vec<SocketAddr>,
    used: Option<usize>,
}

/// What tells one content of a path from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Follower {
    /// Reads nothing yet. `listeners` are har's own addresses; `root` is `/` outside of tests and is where `auto`
    /// looks for the usual files.
    pub fn new(servers: &Servers, listeners: &[SocketAddr], root: &Path) -> Follower {
        let paths = match servers {
            Servers::Listed(_) => Vec::new(),
            Servers::File(path) => vec![path.clone()],
            Servers::Auto => AUTO.iter().map(|path| root.join(path)).collect(),
        };
        let last = match servers {
            Servers::Listed(listed) => listed.clone(),
            Servers::File(_) | Servers::Auto => Vec::new(),
        };
        Follower {
            seen: vec![None; paths.len()],
            listed: vec![Vec::new(); paths.len()],
            paths,
            listeners: listeners.to_vec(),
            last,
            used: None,
        }
    }

    /// Looks again. The new list when it differs from the last one, which is empty before the first call; never
    /// an empty list.
    pub fn poll(&mut self) -> Option<Vec<SocketAddr>> {
        for (at, path) in self.paths.iter().enumerate() {
            let Ok(metadata) = fs::metadata(path) else {
                self.seen[at] = None;
                self.listed[at].clear();
                continue;
            };
            let stamp = Stamp::of(&metadata);
            if self.seen[at] == Some(stamp) && !is_fresh(&metadata) {
                continue;
            }
            self.seen[at] = Some(stamp);
            self.listed[at] = read(path).map(|text| parse(&text)).unwrap_or_default();
            self.listed[at].retain(|server| !is_own(*server, &self.listeners));
        }
        let used = self.listed.iter().position(|servers| !servers.is_empty())?;
        self.used = Some(used);
        if self.listed[used] == self.last {
            return None;
        }
        self.last.clone_from(&self.listed[used]);
        Some(self.last.clone())
    }

    /// The servers in use: those stated, or the last that were found.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.last
    }

    /// Goes on with the servers of a follower before it until a file lists one; whether that is needed.
    pub fn keep(&mut self, last: &[SocketAddr]) -> bool {
        let needed = self.last.is_empty() && !last.is_empty();
        if needed {
            self.last = last.to_vec();
        }
        needed
    }

    /// The files that are looked at.
    pub fn files(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The file that [`Follower::servers`] came from.
    pub fn source(&self) -> Option<&Path> {
        self.used.and_then(|at| self.paths.get(at)).map(PathBuf::as_path)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

// A time in the future is in doubt, too.
fn is_fresh(metadata: &Metadata) -> bool {
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
    changed.elapsed().map_or(true, |age| age < FRESH)
}

fn read(path: &Path) -> Option<String> {
    let mut content = Vec::new();
    // A pipe in this place would block for ever.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut content).ok()?;
    Some(String::from_utf8_lossy(&content).into_owned())
}

/// Whether asking `server` would be asking har: one of its listeners, or the unspecified address, which reaches
/// the same socket.
pub fn is_own(server: SocketAddr, listeners: &[SocketAddr]) -> bool {
    let unspecified_own = |listener: &SocketAddr| server.ip().is_unspecified() && server.port() == listener.port();
    listeners.iter().any(|listener| {
        let same = listener.port() == server.port() && listener.ip().to_canonical() == server.ip().to_canonical();
        same || unspecified_own(listener)
    })
}

/// The servers of a file's text, in its order, each once: its `nameserver` lines with port 53. All of them,
/// though the C library stops at three. A line that holds no address is passed over.
pub fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        // The C library knows comments only at the start of a line, but ignores what follows the address.
        let mut words = line.split([' ', '\t', '\r']).filter(|word| !word.is_empty());
        if words.next() != Some("nameserver") {
            continue;
        }
        if let Some(server) = words.next().and_then(address)
            && !servers.contains(&server)
            && servers.len() < MAX_SERVERS
        {
            servers.push(server);
        }
    }
    servers
}

fn address(word: &str) -> Option<SocketAddr> {
    const PORT: u16 = 53;
    if let Some((address, zone)) = word.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        return Some(SocketAddrV6::new(address, PORT, 0, scope(zone)?).into());
    }
    let address: IpAddr = word.parse().ok()?;
    // Nobody's own address: a query to it could only fail.
    let is_group = address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST);
    (!is_group).then_some(SocketAddr::new(address, PORT))
}

// An interface's name or its index.
fn scope(zone: &str) -> Option<u32> {
    let name = CString::new(zone).ok()?;
    nix::net::if_::if_nametoindex(name.as_c_str()).ok().or_else(|| zone.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn servers(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nameserver_lines_are_read_as_the_c_library_does() {
        for (text, expected) in [
            ("nameserver 10.0.0.2\n", &["10.0.0.2:53"][..]),
            ("nameserver\t10.0.0.2 # office\r\nnameserver 2001:db8::1", &["10.0.0.2:53", "[2001:db8::1]:53"]),
            ("# nameserver 10.0.0.1\n; nameserver 10.0.0.2\nsearch nameserver 10.0.0.3", &[]),
            ("nameserver 10.0.0.1\nnameserver 10.0.0.1", &["10.0.0.1:53"]),
            ("nameserver dns.example\nnameserver\nnameserver 10.0.0.300\nnameserver 10.0.0.4", &["10.0.0.4:53"]),
            (
                "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n",
                &["10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53", "10.0.0.4:53"],
            ),
            ("nameserverx 10.0.0.1\n nameserver 10.0.0.2", &["10.0.0.2:53"]),
            ("nameserver fe80::1%nosuchinterface0", &[]),
            ("nameserver 255.255.255.255\nnameserver 224.0.0.1\nnameserver ff02::1", &[]),
        ] {
            assert_eq!(parse(text), servers(expected), "{text:?}");
        }
        let many: String = (0..200).map(|n| format!("nameserver 10.0.0.{n}\n")).collect();
        assert_eq!(parse(&many).len(), MAX_SERVERS);
    }

    #[test]
    fn a_scope_is_an_interface_or_its_index() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        let expected = SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, index));
        assert_eq!(parse("nameserver fe80::1%lo"), [expected]);
        let by_number = SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7777));
        assert_eq!(parse("nameserver fe80::1%7777"), [by_number]);
    }

    #[test]
    fn a_file_is_followed_through_rewrite_rename_and_loss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut follower = Follower::new(&Servers::File(path.clone()), &servers(&["127.0.0.1:53"]), folder.path());
        assert_eq!(follower.poll(), None);
        fs::write(&path, "nameserver 127.0.0.1\nnameserver 10.0.0.1\n").unwrap();
        assert_eq!(follower.poll(), Some(servers(&["10.0.0.1:53"])));
        assert_eq!(follower.poll(), None);
        // The same size within the same tick of the clock.
        fs::write(&path, "nameserver 127.0.0.1\nnameserver 10.0.0.2\n").unwrap();
        assert_eq!(follower.poll(), Some(servers(&["10.0.0.2:53"])));
        let new = folder.path().join("new");
        fs::write(&new, "nameserver 10.0.0.3\n").unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(follower.poll(), Some(servers(&["10.0.0.3:53"])));
        for broken in ["", "nameserver 127.0.0.1\n", "garbage \0\n"] {
            fs::write(&path, broken).unwrap();
            assert_eq!(follower.poll(), None, "{broken:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(follower.poll(), None);
        assert_eq!(follower.servers(), servers(&["10.0.0.3:53"]));
        fs::create_dir(&path).unwrap();
        assert_eq!(follower.poll(), None);
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "nameserver 10.0.0.4\n").unwrap();
        assert_eq!(follower.poll(), Some(servers(&["10.0.0.4:53"])));
        assert_eq!(follower.source(), Some(path.as_path()));
    }

    #[test]
    fn a_symbolic_link_that_is_swapped_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a"), "nameserver 10.0.0.1\n").unwrap();
        fs::write(at("b"), "nameserver 10.0.0.2\n").unwrap();
        symlink(at("a"), at("link")).unwrap();
        let mut follower = Follower::new(&Servers::File(at("link")), &[], folder.path());
        assert_eq!(follower.poll(), Some(servers(&["10.0.0.1:53"])));
        symlink(at("b"), at("new")).unwrap();
        fs::rename(at("new"), at("link")).unwrap();
        assert_eq!(follower.poll(), Some(servers(&["10.0.0.2:53"])));
        fs::remove_file(at("b")).unwrap();
        assert_eq!(follower.poll(), None);
    }

    #[test]
    fn auto_takes_the_first_file_that_lists_another_server() {
        let root = tempfile::tempdir().unwrap();
        let put = |at: usize, text: &str| {
            let path = root.path().join(AUTO[at]);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let own = servers(&["127.0.0.1:53", "[::1]:53"]);
        let mut follower = Follower::new(&Servers::Auto, &own, root.path());
        put(2, "nameserver 127.0.0.1\nnameserver ::1\nnameserver 0.0.0.0\nnameserver ::ffff:127.0.0.1\n");
        assert_eq!(follower.poll(), None);
        put(2, "nameserver 10.0.0.3\n");
        assert_eq!(follower.poll(), Some(servers(&["10.0.0.3:53"])));
        put(1, "nameserver 127.0.0.1\n");
        assert_eq!(follower.poll(), None);
        put(0, "nameserver 10.0.0.1\n");
        assert_eq!(follower.poll(), Some(servers(&["10.0.0.1:53"])));
        // systemd-resolved stopped: the next file takes over.
        fs::remove_file(root.path().join(AUTO[0])).unwrap();
        assert_eq!(follower.poll(), Some(servers(&["10.0.0.3:53"])));
    }

    #[test]
    fn stated_servers_never_change() {
        let listed = servers(&["10.0.0.1:53"]);
        let mut follower = Follower::new(&Servers::Listed(listed.clone()), &[], Path::new("/nonexistent"));
        assert_eq!(follower.poll(), None);
        assert_eq!(follower.servers(), listed);
    }
}
