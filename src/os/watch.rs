//! The thread that waits for what the kernel announces by itself: another network, other files, the end of a sleep.
//!
//! It sleeps until there is something; nothing here is looked at every so often. What cannot be had from the kernel
//! is left out, and whoever needs it looks by itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::Inotify;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::files::FileWatch;
use super::network::NetworkWatch;

/// An alarm that is never to go off: some 30 years from any now, within what every kernel takes.
const NEVER: Duration = Duration::from_secs(4_000_000_000);

/// What was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This host's addresses or routes.
    Network,
    /// What one of the watched paths leads to.
    Files,
    /// The wall clock jumped: the host slept, or somebody set the clock.
    Clock,
}

/// The handle of the thread.
#[derive(Clone)]
pub struct Watch {
    files: Option<Arc<Mutex<FileWatch>>>,
}

impl Watch {
    /// Watches the network and the clock, and calls `tell` from a thread of its own.
    ///
    /// # Errors
    /// When no thread can be had. What cannot be watched besides is a line in the log.
    pub fn start(tell: impl Fn(Change) + Send + 'static) -> io::Result<Watch> {
        let network = NetworkWatch::new().map_err(|error| log::warn!("{error}")).ok();
        let clock = clock_alarm().map_err(|errno| debug!("no alarm for a clock that jumps: {errno}")).ok();
        let files = FileWatch::new().map_err(|errno| debug!("no inotify: {errno}")).ok();
        let files = files.map(|files| Arc::new(Mutex::new(files)));
        let waiting = Waiting { network, clock, files: files.clone(), tell: Box::new(tell) };
        thread::Builder::new().name("har-watch".to_owned()).spawn(move || waiting.run())?;
        Ok(Watch { files })
    }

    /// Watches these paths in place of the earlier ones. `false` when that cannot be: they are to be looked at.
    pub fn files(&self, paths: Vec<PathBuf>) -> bool {
        let Some(files) = &self.files else { return paths.is_empty() };
        let set = files.lock().unwrap_or_else(PoisonError::into_inner).set(paths);
        set.map_err(|errno| debug!("a folder cannot be watched: {errno}")).is_ok()
    }
}

/// A timer that never expires but is cancelled by a jump of the wall clock, which waking from a sleep is.
fn clock_alarm() -> Result<TimerFd, Errno> {
    let alarm = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    set_alarm(&alarm)?;
    Ok(alarm)
}

fn set_alarm(alarm: &TimerFd) -> Result<(), Errno> {
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    alarm.set(Expiration::OneShot(TimeSpec::from_duration(NEVER)), flags)
}

/// What the thread has.
struct Waiting {
    network: Option<NetworkWatch>,
    clock: Option<TimerFd>,
    files: Option<Arc<Mutex<FileWatch>>>,
    tell: Box<dyn Fn(Change) + Send>,
}

/// Which of the sources have something.
#[derive(Clone, Copy, Default)]
struct Ready {
    network: bool,
    clock: bool,
    files: bool,
}

impl Waiting {
    fn run(mut self) {
        loop {
            let Ok(ready) = self.wait() else { return };
            let now = Instant::now();
            if ready.network && !self.network.as_mut().is_some_and(|network| network.read(now)) {
                self.network = None;
            }
            if self.network.as_mut().is_some_and(|network| network.is_over(now)) {
                (self.tell)(Change::Network);
            }
            if ready.clock {
                self.clock_jumped();
            }
            if ready.files && self.files.as_ref().is_some_and(|files| lock(files).take()) {
                (self.tell)(Change::Files);
            }
        }
    }

    /// Sleeps until one of them has something, or a burst is over.
    fn wait(&self) -> Result<Ready, Errno> {
        let timeout = match self.network.as_ref().and_then(NetworkWatch::due) {
            // Rounded up: a wait that ends too early would be begun again at once.
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
            }
            None => PollTimeout::NONE,
        };
        let files = self.files.as_ref().map(|files| lock(files).handle());
        let sources: [Option<BorrowedFd>; 3] = [
            self.network.as_ref().map(NetworkWatch::descriptor),
            self.clock.as_ref().map(AsFd::as_fd),
            files.as_deref().map(Inotify::as_fd),
        ];
        let mut polled: Vec<PollFd> =
            sources.iter().flatten().map(|source| PollFd::new(*source, PollFlags::POLLIN)).collect();
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut found = polled.iter().map(|polled| polled.any().unwrap_or(true));
        let mut ready = |source: Option<BorrowedFd>| source.is_some() && found.next().unwrap_or(false);
        Ok(Ready { network: ready(sources[0]), clock: ready(sources[1]), files: ready(sources[2]) })
    }

    fn clock_jumped(&mut self) {
        // Reading says that it was cancelled, once; it has to be set again.
        let _ = self.clock.as_ref().map(TimerFd::wait);
        if self.clock.as_ref().is_some_and(|alarm| set_alarm(alarm).is_err()) {
            self.clock = None;
        }
        (self.tell)(Change::Clock);
    }
}

fn lock(files: &Mutex<FileWatch>) -> std::sync::MutexGuard<'_, FileWatch> {
    // A panic ends the process: a poisoned lock is never seen.
    files.lock().unwrap_or_else(PoisonError::into_inner)
}
