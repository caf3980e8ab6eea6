//! Who holds a port: `/proc/net` tells the socket's inode, the descriptors under `/proc/*/fd` tell the process.
//!
//! Best effort: without root only one's own processes can be looked into.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// A process that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its name, at most 15 bytes, as the kernel keeps it.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// What is known of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nobody is in the way.
    Free,
    /// Somebody is, whose process cannot be seen from here.
    Unseen,
    /// This process is.
    By(Holder),
}

/// The process that keeps others from binding `address`, over UDP or TCP; one that listens on every address counts.
pub fn find(address: SocketAddr, udp: bool) -> Option<Holder> {
    match look(Path::new("/proc"), address, udp) {
        Held::By(holder) => Some(holder),
        Held::Free | Held::Unseen => None,
    }
}

/// As [`find`], by a process table that is elsewhere, and telling a free port from a holder that cannot be seen.
pub fn look(proc: &Path, address: SocketAddr, udp: bool) -> Held {
    let tables = if udp { ["net/udp", "net/udp6"] } else { ["net/tcp", "net/tcp6"] };
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(proc.join(table)).ok())
        .flat_map(|table| {
            table.lines().skip(1).filter_map(|line| holding_inode(line, address, udp)).collect::<Vec<_>>()
        })
        .collect();
    if inodes.is_empty() {
        return Held::Free;
    }
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    owner(proc, &links).map_or(Held::Unseen, Held::By)
}

/// The daemon that has one of these addresses: a process called har, not this one. Another user's sockets are seen by
/// root alone; to others `har serve` beside a port that somebody has is it.
pub fn daemon(proc: &Path, listen: &[SocketAddr]) -> Option<u32> {
    let mut unseen = false;
    for (&address, udp) in listen.iter().flat_map(|address| [(address, true), (address, false)]) {
        match look(proc, address, udp) {
            Held::By(holder) if holder.command == "har" && holder.pid != std::process::id() => return Some(holder.pid),
            Held::By(_) | Held::Free => {}
            Held::Unseen => unseen = true,
        }
    }
    if unseen { serving(proc) } else { None }
}

/// A process that was started as `har serve`, which every user sees.
fn serving(proc: &Path) -> Option<u32> {
    fs::read_dir(proc).ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let mut words = line.split(|&byte| byte == 0);
        let program = Path::new(std::str::from_utf8(words.next()?).ok()?).file_name()?.to_owned();
        (program == "har" && words.next() == Some(b"serve")).then_some(pid)
    })
}

/// The first process that has one of these sockets open. systemd keeps the sockets that it passes on, so that it
/// gives way to the one it passed them to.
fn owner(proc: &Path, links: &[String]) -> Option<Holder> {
    let mut owners = fs::read_dir(proc).ok()?.flatten().filter_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd")).ok()?.flatten().any(|descriptor| {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            links.iter().any(|link| target.as_os_str() == link.as_str())
        });
        let command = || fs::read_to_string(process.path().join("comm")).unwrap_or_default().trim_end().to_owned();
        holds.then(|| Holder { pid, command: command() })
    });
    let first = owners.next()?;
    if first.pid == 1 { Some(owners.next().unwrap_or(first)) } else { Some(first) }
}

/// The inode of a line of `/proc/net/{udp,tcp}{,6}` whose socket is in the way of `address`.
fn holding_inode(line: &str, address: SocketAddr, udp: bool) -> Option<u64> {
    /// `TCP_LISTEN`: connections of the same port are in nobody's way.
    const LISTENING: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let ip = parse_ip(ip)?;
    let same = u16::from_str_radix(port, 16).ok()? == address.port()
        && (ip.is_unspecified() || ip.to_canonical() == address.ip());
    (same && (udp || state == LISTENING)).then_some(inode)
}

/// An address as the kernel prints it: groups of four bytes, each in this host's byte order.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for start in (0..text.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(text.get(start..start + 8)?, 16).ok()?.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_known_by_its_socket_or_by_its_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let local = u32::from_ne_bytes([127, 0, 0, 1]);
        let socket = format!("head\n1: {local:08X}:0035 0:0 07 0:0 0:0 0 0 0 4711 2 0\n");
        let listen: [SocketAddr; 1] = ["127.0.0.1:53".parse().unwrap()];
        let found = || daemon(folder.path(), &listen);
        put("77/comm", "har\n");
        put("77/cmdline", "/usr/bin/har\0serve\0");
        put("78/comm", "har\n");
        put("78/cmdline", "har\0status\0--watch\0");
        assert_eq!(found(), None, "nobody has the port");
        put("net/udp", &socket);
        assert_eq!(found(), Some(77), "somebody has it who cannot be seen, and this one serves");
        put("77/cmdline", "/usr/bin/har\0demo\0");
        assert_eq!(found(), None);
        fs::create_dir_all(folder.path().join("79/fd")).unwrap();
        std::os::unix::fs::symlink("socket:[4711]", folder.path().join("79/fd/3")).unwrap();
        put("79/comm", "dnsmasq\n");
        put("77/cmdline", "/usr/bin/har\0serve\0");
        assert_eq!(found(), None, "another server has it");
        put("79/comm", "har\n");
        assert_eq!(found(), Some(79));
    }

    #[test]
    fn lines_of_the_kernel() {
        let local = u32::from_ne_bytes([127, 0, 0, 1]);
        let line = |ip: String, state| {
            format!(
                "  12: {ip}:0035 00000000:0000 {state} 00000000:00000000 00:00000000 00000000   101        0 4711 2 0"
            )
        };
        let address: SocketAddr = "127.0.0.1:53".parse().unwrap();
        for (ip, state, udp, expected) in [
            (format!("{local:08X}"), "07", true, Some(4711)),
            ("00000000".to_owned(), "07", true, Some(4711)),
            ("0".repeat(32), "0A", false, Some(4711)),
            (format!("{local:08X}"), "01", false, None),
            (format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 53])), "07", true, None),
            ("nonsense".to_owned(), "07", true, None),
        ] {
            assert_eq!(holding_inode(&line(ip.clone(), state), address, udp), expected, "{ip} {state}");
        }
        assert_eq!(holding_inode("", address, true), None);
    }
}
