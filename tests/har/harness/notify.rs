//! The service manager's side of `sd_notify`: a datagram socket that the test owns.
//!
//! Every message is kept, in order, one string per datagram.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often the reading thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);

/// A notify socket and what was sent to it.
pub struct Notify {
    path: PathBuf,
    messages: Arc<Mutex<Vec<String>>>,
    /// Dropped with the value; the thread holds a weak one and ends when it is gone.
    _alive: Arc<()>,
}

impl Notify {
    /// Opens a socket in `folder`, writable by everyone: the daemon may change its user.
    pub fn open(folder: &Path) -> Notify {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a notify socket");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("own file");
        socket.set_read_timeout(Some(TICK)).expect("a time-out");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let alive = Arc::new(());
        let (kept, watch) = (Arc::clone(&messages), Arc::downgrade(&alive));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while watch.strong_count() > 0 {
                if let Ok(length) = socket.recv(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    kept.lock().expect("no panic while locked").push(text);
                }
            }
        });
        Notify { path, messages, _alive: alive }
    }

    /// For `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything so far.
    pub fn messages(&self) -> Vec<String> {
        self.messages.lock().expect("no panic while locked").clone()
    }

    /// How many messages hold the line `line` (or a line that begins with it, if it ends in `=`).
    pub fn count(&self, line: &str) -> usize {
        let holds =
            |text: &String| text.lines().any(|l| if line.ends_with('=') { l.starts_with(line) } else { l == line });
        self.messages().iter().filter(|text| holds(text)).count()
    }

    /// Forgets what was sent, before a restart.
    pub fn clear(&self) {
        self.messages.lock().expect("no panic while locked").clear();
    }
}
