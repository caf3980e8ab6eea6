//! Changes of this host's addresses and routes, as the kernel announces them (rtnetlink(7)).
//!
//! A thread of its own reads the announcements, since they are rare and come in bursts; it tells of a burst once.
//! Announcements that repeat what is known (an IPv6 router renews its advertisement every few minutes) are no change.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{self, AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType};
use socket2::Socket;

use super::Error;

/// A burst is over when nothing came for this long.
const QUIET: Duration = Duration::from_millis(50);
/// A burst is told of after this at the latest: answers are to go on within a second.
const LONGEST_BURST: Duration = Duration::from_millis(250);
/// Least time between two tellings: each makes every query under way be sent again.
const REST: Duration = Duration::from_millis(500);
/// Announcements remembered, far more than a host has addresses and routes; beyond it all are forgotten.
const MOST_KNOWN: usize = 4096;
/// Several announcements come in one read; this is what `ip` uses.
const BUFFER: usize = 32 * 1024;
/// Length of the header of a message, and of the fixed parts of an address and a route behind it.
const HEADER: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;
/// An attribute's type for the life time of an address, and for that of a route.
const IFA_CACHEINFO: u16 = 6;
const RTA_CACHEINFO: u16 = 12;

/// Calls `changed` from a thread of its own whenever addresses or routes of this host changed, once for a burst.
///
/// # Errors
/// When the kernel's announcements cannot be had; har then learns of a change by queries that fail.
pub fn watch(changed: impl Fn() + Send + 'static) -> Result<(), Error> {
    let failed = |what: &str| {
        Error(format!("changes of this host's network are not followed ({what}); failing queries will show them"))
    };
    let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    let descriptor = socket::socket(kind.0, kind.1, kind.2, kind.3).map_err(|errno| failed(errno.desc()))?;
    let groups =
        libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_IFADDR | libc::RTMGRP_IPV6_ROUTE;
    socket::bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, groups as u32)).map_err(|errno| failed(errno.desc()))?;
    let socket = Socket::from(descriptor);
    let spawned = thread::Builder::new().name("har-network".to_owned()).spawn(move || follow(socket, &changed));
    spawned.map(|_| ()).map_err(|error| failed(&error.to_string()))
}

/// Reads for ever.
fn follow(mut socket: Socket, changed: &dyn Fn()) {
    let mut known = Known::default();
    let mut buffer = vec![0; BUFFER];
    // `Some`: a burst that began then is to be told of.
    let mut begun: Option<Instant> = None;
    loop {
        let wait = begun.map(|_| QUIET);
        if socket.set_read_timeout(wait).is_err() {
            return;
        }
        let quiet = match socket.read(&mut buffer) {
            Ok(length) => {
                if known.take(buffer.get(..length).unwrap_or_default()) {
                    begun.get_or_insert_with(Instant::now);
                }
                false
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => true,
            Err(error) if error.kind() == ErrorKind::Interrupted => false,
            // More was announced than the socket could hold: something changed, whatever it was.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                begun.get_or_insert_with(Instant::now);
                false
            }
            Err(_) => return,
        };
        if begun.is_some_and(|begun| quiet || begun.elapsed() >= LONGEST_BURST) {
            changed();
            begun = None;
            thread::sleep(REST);
        }
    }
}

/// What was announced and not taken back.
#[derive(Default)]
struct Known(HashSet<u64>);

impl Known {
    /// Takes a read's messages; whether one of them is a change.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        let mut changed = false;
        while let Some((header, _)) = bytes.split_first_chunk::<HEADER>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let Some(message) = bytes.get(HEADER..length) else { break };
            changed |= self.message(kind, message);
            bytes = bytes.get(aligned(length)..).unwrap_or_default();
        }
        changed
    }

    fn message(&mut self, kind: u16, message: &[u8]) -> bool {
        let (fixed, life_time, added) = match kind {
            libc::RTM_NEWADDR => (ADDRESS, IFA_CACHEINFO, true),
            libc::RTM_DELADDR => (ADDRESS, IFA_CACHEINFO, false),
            libc::RTM_NEWROUTE => (ROUTE, RTA_CACHEINFO, true),
            libc::RTM_DELROUTE => (ROUTE, RTA_CACHEINFO, false),
            _ => return false,
        };
        let mut hasher = DefaultHasher::new();
        (fixed, message.get(..fixed)).hash(&mut hasher);
        let mut attributes = message.get(fixed..).unwrap_or_default();
        while let Some((head, _)) = attributes.split_first_chunk::<4>() {
            let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            let kind = u16::from_ne_bytes([head[2], head[3]]);
            let Some(value) = attributes.get(4..length) else { break };
            if kind != life_time {
                (kind, value).hash(&mut hasher);
            }
            attributes = attributes.get(aligned(length)..).unwrap_or_default();
        }
        let known = hasher.finish();
        if self.0.len() >= MOST_KNOWN {
            self.0.clear();
        }
        if added {
            self.0.insert(known)
        } else {
            self.0.remove(&known);
            true
        }
    }
}

/// Messages and attributes begin at multiples of four.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An announcement of address 192.0.2.`last` with a life time.
    fn announcement(kind: u16, last: u8, life_time: u32) -> Vec<u8> {
        let mut message = vec![0; 4];
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend([2, 24, 0, 0, 1, 0, 0, 0]);
        for (kind, value) in [(1_u16, [192, 0, 2, last]), (IFA_CACHEINFO, life_time.to_ne_bytes())] {
            message.extend(8_u16.to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(value);
        }
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message
    }

    #[test]
    fn repetitions_are_no_change() {
        let mut known = Known::default();
        assert!(known.take(&announcement(libc::RTM_NEWADDR, 1, 100)));
        assert!(!known.take(&announcement(libc::RTM_NEWADDR, 1, 200)), "only the life time is another one");
        let both = [announcement(libc::RTM_NEWADDR, 1, 300), announcement(libc::RTM_NEWADDR, 2, 1)].concat();
        assert!(known.take(&both), "the second of two is new");
        assert!(known.take(&announcement(libc::RTM_DELADDR, 1, 0)));
        assert!(known.take(&announcement(libc::RTM_NEWADDR, 1, 100)), "it is back");
        assert!(!known.take(&announcement(libc::RTM_NEWLINK, 1, 100)), "something else");
    }

    #[test]
    fn scraps_are_no_change() {
        let mut known = Known::default();
        let whole = announcement(libc::RTM_NEWADDR, 1, 100);
        for end in 0..HEADER {
            assert!(!known.take(&whole[..end]));
        }
        let mut lying = whole.clone();
        lying[..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert!(!known.take(&lying));
        lying[..4].copy_from_slice(&4000_u32.to_ne_bytes());
        assert!(!known.take(&lying));
    }
}
