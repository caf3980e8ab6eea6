//! Whether a daemon runs: by the state file's row, and by what this host shows beside it.
//!
//! A daemon that cannot write its state file, or has another one, leaves the last row to be that of an earlier run. Who
//! has the ports of that row tells the two from a host on which none runs.

use std::path::Path;

use crate::os::holder;
use crate::store::{Life, Stored};

/// The process of a daemon that runs although this file was last written by one that does not.
pub fn stranger(stored: &Stored) -> Option<u32> {
    match stored.life() {
        Life::Running | Life::Silent | Life::Never => None,
        Life::Stopped | Life::Gone => {
            stored.daemon.as_ref().and_then(|daemon| holder::daemon(Path::new("/proc"), &daemon.listen))
        }
    }
}

/// What is to be known before what the state file says is read on; nothing beside a daemon that writes it.
pub fn caveat(stored: &Stored) -> &'static str {
    words(stored.life(), stranger(stored).is_some())
}

fn words(life: Life, stranger: bool) -> &'static str {
    match life {
        Life::Running => "",
        Life::Silent => "What follows is what it knew then: it may answer otherwise now.\n",
        _ if stranger => {
            "What follows is what the last writer of the file knew: the daemon that runs may answer otherwise.\n"
        }
        _ => "What follows is what it knew then: nothing is answered, or checked, by what is not running.\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_cannot_write_is_not_taken_for_one_that_ended() {
        assert_eq!(words(Life::Running, false), "");
        for (life, stranger, part) in [
            (Life::Silent, false, "it may answer otherwise now"),
            (Life::Stopped, true, "the daemon that runs may answer otherwise"),
            (Life::Gone, false, "nothing is answered"),
            (Life::Stopped, false, "nothing is answered"),
        ] {
            assert!(words(life, stranger).contains(part), "{life:?}");
        }
    }
}
