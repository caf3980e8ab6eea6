//! What a command stands on: the state file, and the configuration as far as that is valid.
//!
//! In an incident an order must be given and the state be seen although somebody broke the configuration: the daemon
//! runs on with the last good one. Then the names are those of the state file.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::config::{self, Config, Report, defaults};
use crate::store::Reader;

/// Where to look and what to hold names against.
#[derive(Debug)]
pub struct Ground {
    /// The state file.
    pub state: PathBuf,
    /// The configuration; `None` = it is invalid, or was not asked for.
    pub config: Option<Config>,
    /// What the user should know about the configuration, a line.
    pub warning: Option<String>,
}

/// Finds the state file: `state` if that is given, else what the configuration `file` says.
///
/// # Errors
/// When the configuration is invalid and does not show where the state file is.
pub fn find(file: &Path, state: Option<PathBuf>) -> Result<Ground, Failure> {
    if let Some(state) = state {
        return Ok(Ground { state, config: None, warning: None });
    }
    let report = match config::load(file) {
        Ok(config) => return Ok(Ground { state: config.server.state.clone(), config: Some(config), warning: None }),
        Err(report) => report,
    };
    let default = Path::new(defaults::STATE);
    let state = config::state_path(file).or_else(|| is_of(default, file).then(|| default.to_owned()));
    let Some(state) = state else {
        let hint = "it cannot be read where the state file is: mend the configuration or name the file with --state";
        return Err(Failure::Usage(format!("{hint}\n{report}")));
    };
    let warning = Some(warning(&report, &state));
    Ok(Ground { state, config: None, warning })
}

/// Whether a state file is that of the daemon that was started with this configuration.
fn is_of(state: &Path, file: &Path) -> bool {
    let stored = Reader::open(state).and_then(|reader| reader.load()).ok();
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    stored.and_then(|stored| stored.daemon).is_some_and(|daemon| Path::new(&daemon.config) == path)
}

fn warning(report: &Report, state: &Path) -> String {
    let first = report.0.first().map(ToString::to_string).unwrap_or_default();
    let first = first.lines().next().unwrap_or_default();
    let more = if report.0.len() > 1 { ", and more" } else { "" };
    format!("the configuration is invalid ({first}{more}): going by the state file {} alone", state.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{LONG, complete, start};

    #[test]
    fn the_default_state_file_is_taken_for_the_configuration_that_it_was_written_by() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, _) = start(&path);
        let mut batch = complete(1);
        let gone = folder.path().join("har.toml");
        batch.daemon.as_mut().unwrap().config = gone.display().to_string();
        writer.send(batch);
        assert!(writer.stop(LONG));
        assert!(is_of(&path, &gone));
        assert!(!is_of(&path, &folder.path().join("other.toml")));
        assert!(!is_of(&folder.path().join("other.db"), &gone));
    }

    #[test]
    fn a_file_that_shows_no_state_file_asks_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("har.toml");
        assert!(matches!(find(&file, None), Err(Failure::Usage(line)) if line.contains("--state")));
        let named = find(&file, Some("har.db".into())).unwrap();
        assert_eq!((named.state.as_path(), named.warning), (Path::new("har.db"), None));
    }
}
