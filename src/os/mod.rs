//! The operating system, as far as har meets it: a leaf that no har room is below of.
//!
//! [`sockets`] binds listeners or takes passed ones, [`holder`] finds who has a port, [`process`] whether one is there, [`signals`] makes signals
//! readable, [`notify`] talks to the service manager, [`privileges`] gives root up, [`logger`] sets the log up,
//! [`clock`] tells the time. [`watch`] waits for what the kernel announces by itself: [`network`] for changes of this
//! host's addresses or routes, [`files`] for other files. [`memory`] gives back what is free, [`terminal`] takes the
//! terminal over for a live table, [`output`] tells when nobody reads any more. Every error here is one line that says what happened and how to mend it.

pub mod clock;
pub mod files;
pub mod holder;
pub mod logger;
pub mod memory;
pub mod network;
pub mod notify;
pub mod output;
pub mod privileges;
pub mod process;
pub mod signals;
pub mod sockets;
pub mod terminal;
pub mod watch;

pub use clock::{Clock, SuspendWatch};
pub use logger::Logger;
pub use notify::Notify;
pub use signals::Signals;
pub use sockets::{Bound, Listener};
pub use watch::{Change, Watch};

use std::fmt;

/// What could not be had from the system: one line with the remedy, good for an exit status of 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(pub String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// This host's id: the content of `/etc/machine-id`, else its host name. Only used to spread checks and
/// shares over a fleet.
pub fn machine_id() -> Vec<u8> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/hostname"]
        .into_iter()
        .filter_map(|path| std::fs::read(path).ok())
        .map(|id| id.trim_ascii().to_vec())
        .find(|id| !id.is_empty())
        .unwrap_or_default()
}

/// This host's name, as it calls itself.
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "this host".to_owned())
}

/// Descriptors that are asked for at most: every connection, forwarded query and check at once fits many times.
const MOST_FILES: u64 = 65_536;

/// Raises the soft limit of open files to the hard one, within reason. Returns the limit that holds now.
///
/// # Errors
/// When the limit cannot be read or raised; har works with what there is.
pub fn raise_open_files() -> Result<u64, Error> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let failed = |errno| Error(format!("the limit of open files cannot be raised: {errno}"));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    let wanted = hard.min(MOST_FILES);
    if soft >= wanted {
        return Ok(soft);
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_err(failed)?;
    Ok(wanted)
}

/// Rows of work between two offers of the processor: about a tenth of a millisecond.
const ROWS_IN_A_BREATH: usize = 64;

/// To be called for each row of a long loop: lets whoever waits for this processor run now and then. On a host with one
/// processor an answer would otherwise wait for a whole slice of the scheduler's, some milliseconds.
pub fn breathe(row: usize) {
    if row % ROWS_IN_A_BREATH == ROWS_IN_A_BREATH - 1 {
        std::thread::yield_now();
    }
}
