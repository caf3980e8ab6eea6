//! Standard output of a command that goes on for long: whether anybody reads it still.
//!
//! A closed pipe shows at the next write, and where little happens that is hours away: the shell that began the pipe
//! would wait so long. The kernel says it at once to whoever waits for it.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits for this long.
///
/// # Errors
/// [`ErrorKind::BrokenPipe`] as soon as the reader of `output` is gone.
pub fn rest(output: impl AsFd, time: Duration) -> io::Result<()> {
    // Nothing is asked for: errors and hang-ups are told all the same, and a file has neither.
    let mut polled = [PollFd::new(output.as_fd(), PollFlags::empty())];
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, time) {
        Ok(0) | Err(Errno::EINTR) => Ok(()),
        Ok(_) => Err(ErrorKind::BrokenPipe.into()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_rest_ends_with_its_time_or_its_reader() {
        let (reader, writer) = io::pipe().unwrap();
        let begun = Instant::now();
        rest(&writer, SHORT).unwrap();
        assert!(begun.elapsed() >= SHORT);
        let leaves = std::thread::spawn(move || drop(reader));
        assert_eq!(rest(&writer, LONG).unwrap_err().kind(), ErrorKind::BrokenPipe);
        leaves.join().unwrap();
        assert!(begun.elapsed() < LONG);
        let file = tempfile::tempfile().unwrap();
        rest(&file, SHORT).unwrap();
    }
}
