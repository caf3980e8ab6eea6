//! A terminal taken over for a while: another screen, keys as they are typed, and everything given back at the end.
//!
//! [`Screen`] gives the terminal back when it is dropped, on whatever way. Signals that end the process are waited for
//! like keys, so that they take the same way out.

use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::low_level::{pipe, unregister};

/// The other screen, without a cursor and without lines that run on in the next one.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";

/// And back.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The size of a terminal whose size is not to be had.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// The terminal of this process, taken over.
pub struct Screen {
    /// How the keyboard was; `None` when standard input is no terminal.
    keyboard: Option<Termios>,
    stop: UnixStream,
    resized: UnixStream,
    registered: Vec<signal_hook::SigId>,
    entered: bool,
}

/// What ended a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The time was over.
    Time,
    /// Bytes of the keyboard.
    Keys(Vec<u8>),
    /// The window has another size.
    Resized,
    /// A signal asks the process to end.
    Stop,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it cannot be written to or there is no descriptor left.
    pub fn take_over() -> io::Result<Screen> {
        let (stop, on_stop) = pair()?;
        let (resized, on_resized) = pair()?;
        let mut screen = Screen { keyboard: None, stop, resized, registered: Vec::new(), entered: false };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            screen.registered.push(pipe::register(signal, on_stop.try_clone()?)?);
        }
        screen.registered.push(pipe::register(SIGWINCH, on_resized)?);
        screen.enter()?;
        Ok(screen)
    }

    fn enter(&mut self) -> io::Result<()> {
        if io::stdin().is_terminal()
            && let Ok(before) = tcgetattr(io::stdin())
        {
            let mut raw = before.clone();
            // Keys one by one, unseen, and Control-C and Control-Z as keys.
            raw.local_flags &= !(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG | LocalFlags::IEXTEN);
            raw.input_flags &= !InputFlags::IXON;
            raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
            raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
            tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &raw)?;
            self.keyboard = Some(before);
        }
        self.entered = true;
        show(ENTER)
    }

    fn leave(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.entered) {
            let shown = show(LEAVE);
            if let Some(before) = self.keyboard.take() {
                tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &before)?;
            }
            shown?;
        }
        Ok(())
    }

    /// Gives the terminal back and stops the process, as Control-Z does; takes it over again when it goes on.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn suspend(&mut self) -> io::Result<()> {
        self.leave()?;
        raise(Signal::SIGTSTP)?;
        self.enter()
    }

    /// Columns and rows of the window now.
    pub fn size(&self) -> (usize, usize) {
        let size = terminal_size::terminal_size().map(|(width, height)| (width.0.into(), height.0.into()));
        size.filter(|&(width, height)| width > 0 && height > 0).unwrap_or(USUAL_SIZE)
    }

    /// Waits for a key, a signal or the end of the time.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn wait(&mut self, time: Duration) -> io::Result<Woken> {
        let stdin = io::stdin();
        let mut sources = vec![
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.resized.as_fd(), PollFlags::POLLIN),
        ];
        if self.keyboard.is_some() {
            sources.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut sources, time) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = sources.iter().map(|source| source.any().unwrap_or(false)).collect();
        if drained(&mut self.stop, ready.first()) {
            return Ok(Woken::Stop);
        }
        if drained(&mut self.resized, ready.get(1)) {
            return Ok(Woken::Resized);
        }
        if ready.get(2) == Some(&true) {
            let mut bytes = [0; 64];
            return match nix::unistd::read(stdin.as_fd(), &mut bytes) {
                // The terminal was hung up.
                Ok(0) | Err(nix::errno::Errno::EIO) => Ok(Woken::Stop),
                Ok(count) => Ok(Woken::Keys(bytes[..count].to_vec())),
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => Ok(Woken::Time),
                Err(errno) => Err(errno.into()),
            };
        }
        Ok(Woken::Time)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.leave();
        self.registered.drain(..).for_each(|id| {
            unregister(id);
        });
    }
}

fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    Ok((reader, writer))
}

/// Whether something had come; it is taken out.
fn drained(stream: &mut UnixStream, ready: Option<&bool>) -> bool {
    if ready != Some(&true) {
        return false;
    }
    let mut bytes = [0; 64];
    loop {
        match stream.read(&mut bytes) {
            Ok(count) if count > 0 => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return true,
        }
    }
}
