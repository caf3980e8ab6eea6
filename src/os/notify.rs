//! Messages to the service manager (sd_notify(3)): datagrams to the socket that `NOTIFY_SOCKET` names.
//!
//! Without the variable every call does nothing. A message that cannot be sent is no reason to stop or to wait:
//! the first failure draws one debug line. The variables stay in this process's environment; who starts a child
//! clears them there ([`CHILD_UNSET`]).

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Variables that are meant for har alone: a child must not inherit them.
pub const CHILD_UNSET: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// The way to the service manager, if there is one. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    target: Option<Arc<Target>>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Target {
    socket: UnixDatagram,
    address: SocketAddr,
    failed: AtomicBool,
}

impl Notify {
    /// No service manager.
    pub fn none() -> Notify {
        Notify::default()
    }

    /// The service manager that the environment names.
    pub fn from_env() -> Notify {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Notify::none() };
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let for_us = env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
        let watchdog = number("WATCHDOG_USEC").filter(|&usec| usec > 0 && for_us).map(Duration::from_micros);
        Notify::to(path.as_bytes(), watchdog).unwrap_or_else(|error| {
            log::debug!("NOTIFY_SOCKET is not usable: {error}");
            Notify::none()
        })
    }

    /// A socket by its path, or by its abstract name behind an `@`; `watchdog` is the manager's patience.
    ///
    /// # Errors
    /// When the name is none, or no socket can be made.
    pub fn to(name: &[u8], watchdog: Option<Duration>) -> io::Result<Notify> {
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
        };
        let socket = UnixDatagram::unbound()?;
        // A service manager that does not read must not stop the loop.
        socket.set_nonblocking(true)?;
        Ok(Notify { target: Some(Arc::new(Target { socket, address, failed: AtomicBool::new(false) })), watchdog })
    }

    /// Whether there is a service manager to tell.
    pub fn is_some(&self) -> bool {
        self.target.is_some()
    }

    /// How often [`Notify::alive`] is wanted: half of the manager's patience.
    pub fn watchdog_every(&self) -> Option<Duration> {
        self.watchdog.map(|patience| patience / 2)
    }

    /// Start-up or a reload is over.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// A reload begins.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// The watchdog's food.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// A line for people; line breaks in it become spaces, since they end a message's field.
    pub fn status(&self, line: &str) {
        self.send(&format!("STATUS={}", line.replace(['\n', '\r'], " ")));
    }

    fn send(&self, message: &str) {
        let Some(target) = &self.target else { return };
        if let Err(error) = target.socket.send_to_addr(message.as_bytes(), &target.address)
            && !target.failed.swap(true, Ordering::Relaxed)
        {
            log::debug!("the service manager cannot be told {message:?}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_at_paths_and_abstract_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("har-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (receiver, target) in [(by_path, path.to_str().unwrap().to_owned()), (by_name, format!("@{name}"))] {
            receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let notify = Notify::to(target.as_bytes(), Some(Duration::from_secs(10))).unwrap();
            assert_eq!(notify.watchdog_every(), Some(Duration::from_secs(5)));
            let mut buffer = [0; 200];
            let mut got = || {
                let length = receiver.recv(&mut buffer).unwrap();
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            };
            notify.ready();
            assert_eq!(got(), "READY=1");
            notify.status("two\nlines");
            assert_eq!(got(), "STATUS=two lines");
            notify.reloading();
            let text = got();
            let usec = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(usec.parse::<u64>().unwrap() > 0, "{text}");
        }
    }

    #[test]
    fn nobody_there_is_no_error() {
        Notify::none().ready();
        let gone = Notify::to(b"@har-nobody-has-this-name", None).unwrap();
        gone.ready();
        gone.stopping();
        assert_eq!(gone.watchdog_every(), None);
    }
}
