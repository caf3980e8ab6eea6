//! What the process tests stand on: the real daemon, and scripted peers around it.
//!
//! A test owns every peer: the upstream resolver ([`Upstream`]), the checked servers ([`Backend`]), the
//! notify socket and the temporary folder. Ports come from the kernel or, where one is bound later than it is chosen,
//! from those that the kernel gives to nobody ([`daemon::free_port`]); addresses are 127.0.0.x, waiting is for a
//! condition with a deadline ([`wait_for`]), and what is started is stopped when its value is dropped.
//! A test that cannot run here says so with [`skip`], which `tests/run` counts.

pub mod backend;
pub mod certificates;
pub mod daemon;
pub mod dns;
pub mod load;
pub mod machine;
pub mod namespace;
pub mod notify;
pub mod script;
pub mod scripted;
#[cfg(test)]
mod tests;
pub mod upstream;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use backend::{Backend, Mode};
pub use certificates::Authority;
pub use daemon::{Har, har};
pub use dns::Reply;
pub use upstream::{Behaviour, Upstream};

/// How long a condition may take before the test fails: far above what is needed, for loaded machines.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks until `condition` holds and returns what it found.
///
/// # Panics
/// When [`PATIENCE`] is over.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Says that a test cannot run here. Goes past the capture of the test runner, so that it is always seen.
pub fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // One write: lines of tests that run at the same time must not mix.
    let line = format!("SKIPPED: {name}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("standard error is open");
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where an outside program is, if it is installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The programs of `names` that are missing, as a reason to skip.
pub fn missing(names: &[&str]) -> Option<String> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| program(name).is_none()).collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}
