//! The service manager's side of `sd_notify`: a datagram socket that the test owns.
//!
//! Every message is kept, in order, one string per datagram.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::poll::{PollFd, PollFlags, poll};

/// How often the reading thread looks whether it is to end, milliseconds.
const TICK: u8 = 20;

/// A notify socket and what was sent to it.
pub struct Notify {
    path: PathBuf,
    /// The thread holds a weak one and ends when it is gone.
    received: Arc<Received>,
}

struct Received {
    socket: UnixDatagram,
    messages: Mutex<Vec<String>>,
}

impl Received {
    /// Everything that was sent before this call.
    fn all(&self) -> Vec<String> {
        let mut messages = self.messages.lock().expect("no panic while locked");
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        messages.clone()
    }
}

impl Notify {
    /// Opens a socket in `folder`, writable by everyone: the daemon may change its user.
    pub fn open(folder: &Path) -> Notify {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a notify socket");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("own file");
        socket.set_nonblocking(true).expect("non-blocking");
        let received = Arc::new(Received { socket, messages: Mutex::default() });
        let watch = Arc::downgrade(&received);
        // So that the socket never fills up; who asks reads too.
        std::thread::spawn(move || {
            while let Some(received) = watch.upgrade() {
                let _ = poll(&mut [PollFd::new(received.socket.as_fd(), PollFlags::POLLIN)], TICK);
                received.all();
            }
        });
        Notify { path, received }
    }

    /// For `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything so far.
    pub fn messages(&self) -> Vec<String> {
        self.received.all()
    }

    /// How many messages hold the line `line` (or a line that begins with it, if it ends in `=`).
    pub fn count(&self, line: &str) -> usize {
        let holds =
            |text: &String| text.lines().any(|l| if line.ends_with('=') { l.starts_with(line) } else { l == line });
        self.messages().iter().filter(|text| holds(text)).count()
    }

    /// Forgets what was sent, before a restart.
    pub fn clear(&self) {
        self.received.all();
        self.received.messages.lock().expect("no panic while locked").clear();
    }
}
