//! Changes of this host's addresses and routes, as the kernel announces them (rtnetlink(7)).
//!
//! They are rare and come in bursts; a burst is told of once. Announcements that repeat what is known (an IPv6 router
//! renews its advertisement every few minutes) are no change.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
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

/// A socket on which the kernel announces changes, and what it has announced.
pub struct NetworkWatch {
    socket: Socket,
    known: Known,
    burst: Burst,
}

impl NetworkWatch {
    /// Watches from now on.
    ///
    /// # Errors
    /// When the kernel's announcements cannot be had; har then learns of a change by queries that fail.
    pub fn new() -> Result<NetworkWatch, Error> {
        let failed = |what: &str| {
            Error(format!("changes of this host's network are not followed ({what}); failing queries will show them"))
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let descriptor = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)
            .map_err(|errno| failed(errno.desc()))?;
        let groups =
            libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_IFADDR | libc::RTMGRP_IPV6_ROUTE;
        socket::bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, groups as u32))
            .map_err(|errno| failed(errno.desc()))?;
        Ok(NetworkWatch { socket: Socket::from(descriptor), known: Known::default(), burst: Burst::default() })
    }

    /// Readable when [`NetworkWatch::read`] has something.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what has been announced. `false` when there will be nothing more.
    pub fn read(&mut self, now: Instant) -> bool {
        // On the heap, and only while there is something to read: it is rare.
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(length) => {
                    let changed = self.known.take(buffer.get(..length).unwrap_or_default());
                    self.burst.announced(changed, now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // More was announced than the socket could hold: something changed, whatever it was.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.burst.announced(true, now),
                Err(_) => return false,
            }
        }
    }

    /// When [`NetworkWatch::is_over`] is to be asked though nothing was announced.
    pub fn due(&self) -> Option<Instant> {
        self.burst.due()
    }

    /// Whether there is a change to tell of now; said once.
    pub fn is_over(&mut self, now: Instant) -> bool {
        self.burst.is_over(now)
    }
}

/// Changes that came in a row.
#[derive(Default)]
struct Burst {
    /// The first and the latest announcement of what is to be told.
    open: Option<(Instant, Instant)>,
    told: Option<Instant>,
}

impl Burst {
    fn announced(&mut self, changed: bool, now: Instant) {
        match &mut self.open {
            Some((_, last)) => *last = now,
            None if changed => self.open = Some((now, now)),
            None => {}
        }
    }

    fn due(&self) -> Option<Instant> {
        let (first, last) = self.open?;
        let over = (last + QUIET).min(first + LONGEST_BURST);
        Some(self.told.map_or(over, |told| over.max(told + REST)))
    }

    fn is_over(&mut self, now: Instant) -> bool {
        let over = self.due().is_some_and(|due| due <= now);
        if over {
            *self = Burst { open: None, told: Some(now) };
        }
        over
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
    fn a_burst_is_told_of_once_and_not_too_late() {
        let (mut burst, start) = (Burst::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        burst.announced(false, start);
        assert_eq!(burst.due(), None, "a repetition alone is none");
        for ms in [0, 40, 80] {
            burst.announced(true, at(ms));
            assert!(!burst.is_over(at(ms + 30)));
        }
        assert_eq!(burst.due(), Some(at(130)));
        assert!(burst.is_over(at(130)) && !burst.is_over(at(131)), "said once");
        (200..1000).step_by(20).for_each(|ms| burst.announced(true, at(ms)));
        assert_eq!(burst.due(), Some(at(630)), "not before its rest, however long ago it began");
        assert!(!burst.is_over(at(629)) && burst.is_over(at(630)));
        burst.announced(true, at(2000));
        (2000..3000).step_by(20).for_each(|ms| burst.announced(false, at(ms)));
        assert_eq!(burst.due(), Some(at(2250)), "an endless one is told of all the same");
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
