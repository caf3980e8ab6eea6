//! What the writer sleeps on: a call of another thread, or somebody else's hand on the state file.
//!
//! inotify(7) announces writes to the write-ahead log. har's own are not listened to: the writer turns a deaf ear
//! while it writes and looks once by itself afterwards, so that a quiet daemon wakes for others only.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::repair::beside;

const CALLED: Token = Token(0);
const ANNOUNCED: Token = Token(1);
/// A file that is open and deleted is one whose number of links changes.
const LOSS: AddWatchFlags =
    AddWatchFlags::IN_ATTRIB.union(AddWatchFlags::IN_DELETE_SELF).union(AddWatchFlags::IN_MOVE_SELF);

/// Wakes the writer's thread, and is woken by the kernel.
pub(super) struct Alarm {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    inotify: Option<Inotify>,
    /// The file whose log is listened to.
    listening: Option<PathBuf>,
    /// The watch of its log.
    log: Option<WatchDescriptor>,
}

impl Alarm {
    /// An alarm that listens to no file.
    pub fn new() -> io::Result<Alarm> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), CALLED)?);
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok().filter(|inotify| {
            let descriptor = inotify.as_fd().as_raw_fd();
            poll.registry().register(&mut SourceFd(&descriptor), ANNOUNCED, Interest::READABLE).is_ok()
        });
        Ok(Alarm { poll, events: Events::with_capacity(4), waker, inotify, listening: None, log: None })
    }

    /// What other threads wake it with.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Announces from now on what others do to this file. `false` when that cannot be had: it is to be looked at.
    pub fn listen(&mut self, path: &Path) -> bool {
        let heard = self.inotify.as_ref().is_some_and(|inotify| {
            self.log = inotify.add_watch(&beside(path, "-wal"), LOSS | AddWatchFlags::IN_MODIFY).ok();
            self.log.is_some() && inotify.add_watch(path, LOSS).is_ok()
        });
        self.listening = heard.then(|| path.to_owned());
        heard
    }

    /// Announces no writes until [`Alarm::listen`].
    pub fn ignore(&mut self) {
        let Some(path) = self.listening.take() else { return };
        if let Some(inotify) = &self.inotify {
            // Another mask, not the end of the watch, which would be announced itself.
            let _ = inotify.add_watch(&beside(&path, "-wal"), LOSS);
        }
    }

    /// Sleeps until it is woken, something is announced, or the time is over. `true` for what others did to the file.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        if self.poll.poll(&mut self.events, Some(timeout)).is_err() {
            return false;
        }
        let announced = self.events.iter().any(|event| event.token() == ANNOUNCED);
        announced
            && self.inotify.as_ref().is_some_and(|inotify| {
                let mut any = false;
                while let Ok(events) = inotify.read_events() {
                    any |= events.iter().any(|event| !self.is_reading(event));
                }
                any
            })
    }
}

impl Alarm {
    /// SQLite gives the log to the owner of the file whenever root opens it, if only to read.
    fn is_reading(&self, event: &InotifyEvent) -> bool {
        let of_log = Some(event.wd) == self.log && event.mask == AddWatchFlags::IN_ATTRIB;
        of_log && self.listening.as_ref().is_some_and(|path| beside(path, "-wal").exists())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn others_are_heard_and_own_writes_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let log = beside(&path, "-wal");
        let mut alarm = Alarm::new().unwrap();
        assert!(!alarm.listen(&path), "there is no file");
        fs::write(&path, "").unwrap();
        fs::write(&log, "").unwrap();
        assert!(alarm.listen(&path));
        fs::write(&log, "somebody").unwrap();
        assert!(alarm.wait(SOON));
        assert!(!alarm.wait(Duration::ZERO), "said once");
        alarm.ignore();
        fs::write(&log, "har").unwrap();
        assert!(!alarm.wait(Duration::ZERO));
        assert!(alarm.listen(&path));
        assert!(!alarm.wait(Duration::ZERO), "what was ignored does not come later");
        alarm.waker().wake().unwrap();
        assert!(!alarm.wait(SOON), "a call is no announcement");
        std::os::unix::fs::chown(&log, Some(nix::unistd::getuid().as_raw()), None).unwrap();
        assert!(!alarm.wait(SOON), "as a reader does who is root");
        let open = fs::File::open(&log).unwrap();
        fs::remove_file(&log).unwrap();
        assert!(alarm.wait(SOON), "the log is gone, though somebody has it open");
        drop(open);
        fs::remove_file(&path).unwrap();
        assert!(alarm.wait(SOON), "the file is gone");
    }
}
