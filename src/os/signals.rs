//! Signals as streams of bytes that the event loop waits on: no thread, nothing done inside a handler.
//!
//! SIGHUP asks for a reload, SIGTERM and SIGINT for a stop. SIGPIPE is ignored by Rust's start-up code already.
//! They are taken over before anything else, so that a reload asked for while har starts is not its end. A stop ends a
//! process that still starts at once: nothing is under way, and nobody looks at the streams yet.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::{pipe, unregister};

/// The signals that har acts on.
#[derive(Debug)]
pub struct Signals {
    reload: UnixStream,
    stop: UnixStream,
    /// A stop does not wait to be looked at.
    starting: Arc<AtomicBool>,
    registered: Vec<signal_hook::SigId>,
}

/// What has come since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// SIGHUP, once or more.
    pub reload: bool,
    /// How many SIGTERM and SIGINT.
    pub stops: usize,
}

impl Signals {
    /// Takes the signals over from their default actions, until this is dropped. Until [`Signals::started`] a stop ends
    /// the process at once, with exit status 0.
    ///
    /// # Errors
    /// When there is no descriptor left, or the kernel refuses a handler.
    pub fn take_over() -> io::Result<Signals> {
        let (reload, on_reload) = stream_pair()?;
        let (stop, on_stop) = stream_pair()?;
        let starting = Arc::new(AtomicBool::new(true));
        let mut signals = Signals { reload, stop, starting, registered: Vec::new() };
        for signal in [SIGTERM, SIGINT] {
            let at_once = flag::register_conditional_shutdown(signal, 0, Arc::clone(&signals.starting))?;
            signals.registered.push(at_once);
        }
        signals.registered.push(pipe::register(SIGTERM, on_stop.try_clone()?)?);
        signals.registered.push(pipe::register(SIGINT, on_stop)?);
        signals.registered.push(pipe::register(SIGHUP, on_reload)?);
        Ok(signals)
    }

    /// From now on a stop waits for [`Signals::received`]: there is something to be ended in order.
    pub fn started(&self) {
        self.starting.store(false, Ordering::SeqCst);
    }

    /// Has the loop woken under `token` when a signal arrives.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.reload, token, Interest::READABLE)?;
        registry.register(&mut self.stop, token, Interest::READABLE)
    }

    /// What has come since the last call; never waits.
    pub fn received(&mut self) -> Received {
        Received { reload: drain(&mut self.reload) > 0, stops: drain(&mut self.stop) }
    }

    /// Signals that a test sends by writing bytes: for a reload, for a stop.
    #[cfg(test)]
    pub(crate) fn scripted() -> (Signals, StdStream, StdStream) {
        let ((reload, on_reload), (stop, on_stop)) = (stream_pair().unwrap(), stream_pair().unwrap());
        (Signals { reload, stop, starting: Arc::default(), registered: Vec::new() }, on_reload, on_stop)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}

fn stream_pair() -> io::Result<(UnixStream, StdStream)> {
    let (reader, writer) = StdStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    Ok((UnixStream::from_std(reader), writer))
}

/// Bytes that were waiting: the socket's buffer bounds them.
fn drain(stream: &mut UnixStream) -> usize {
    let mut buffer = [0; 64];
    let mut count = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return count,
            Ok(length) => count += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, raise};

    #[test]
    fn a_signal_becomes_readable() {
        let mut poll = mio::Poll::new().unwrap();
        let mut signals = Signals::take_over().unwrap();
        signals.started();
        signals.register(poll.registry(), Token(7)).unwrap();
        assert_eq!(signals.received(), Received::default());
        for (signal, expected) in [
            (Signal::SIGHUP, Received { reload: true, stops: 0 }),
            (Signal::SIGTERM, Received { reload: false, stops: 1 }),
            (Signal::SIGINT, Received { reload: false, stops: 1 }),
        ] {
            raise(signal).unwrap();
            let mut events = mio::Events::with_capacity(4);
            poll.poll(&mut events, Some(std::time::Duration::from_secs(5))).unwrap();
            assert!(events.iter().all(|event| event.token() == Token(7)));
            assert_eq!(signals.received(), expected, "{signal}");
        }
    }
}
