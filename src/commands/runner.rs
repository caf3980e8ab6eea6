//! Whom the daemon runs as on this host, and what of its configuration that user may not read: asked beforehand, by root.
//!
//! Root reads everything, so that all looks well to it; the daemon that drops root, or never was it, finds out at its
//! next reload or start.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::os::Error;
use crate::os::privileges::{self, Account, Closed};

/// What is known of whom the daemon runs as.
#[derive(Clone, Debug, Default)]
pub struct Runner {
    /// His name, and how that is known, such as `har (server.user)`.
    pub name: String,
    /// Why the daemon does not start: there is no such user.
    pub missing: Option<String>,
    /// Files of the configuration that he may not read.
    pub closed: Vec<Closed>,
}

impl Runner {
    /// Looks at this host. `unit`: whom the service's unit names.
    ///
    /// # Errors
    /// When root's rights are lost.
    pub fn look(config: &Config, unit: Option<&str>) -> Result<Runner, Error> {
        let (account, how) = match account(config, unit) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Runner::default()),
            Err(error) => return Ok(Runner { missing: Some(error.to_string()), ..Runner::default() }),
        };
        // What comes through a pipe is nobody else's to read.
        let files: Vec<PathBuf> = config.files().into_iter().filter(|path| path.is_file()).collect();
        let closed = privileges::closed_to(&account, &files)?;
        Ok(Runner { name: format!("{} ({how})", account.name), missing: None, closed })
    }
}

/// Whom the daemon runs as, and how that is known: `server.user`, which must exist wherever it is stated, unless the unit
/// starts it as somebody else; where neither is stated, whom the state folder belongs to.
///
/// # Errors
/// When `server.user` does not exist.
pub fn account(config: &Config, unit: Option<&str>) -> Result<Option<(Account, &'static str)>, Error> {
    let stated = config.server.user.as_deref().map(privileges::stated).transpose()?;
    let folder = config.server.state.parent().unwrap_or(Path::new("/"));
    let unit = unit.and_then(privileges::user).map(|account| (account, "User= of the unit"));
    let stated = || stated.map(|account| (account, "server.user"));
    let owner = || privileges::owner(folder).map(|account| (account, "whose the state folder is"));
    Ok(unit.or_else(stated).or_else(owner).filter(|(account, _)| !account.is_root()))
}
