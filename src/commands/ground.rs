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
    /// The configuration; `None` = it is invalid, cannot be read by this user, or was not asked for.
    pub config: Option<Config>,
    /// Why there is no configuration although it was asked for.
    pub report: Option<Report>,
}

impl Ground {
    /// What is wrong with the configuration, when it is that and not only closed to this user.
    pub fn invalid(&self) -> Option<&Report> {
        self.report.as_ref().filter(|report| !report.is_denied())
    }

    /// What the user should know about the configuration, a line.
    pub fn warning(&self) -> Option<String> {
        let report = self.report.as_ref()?;
        let what = if report.is_denied() { "is not this user's to read" } else { "is invalid" };
        Some(format!(
            "the configuration {what} ({}): going by the state file {} alone",
            first(report),
            self.state.display()
        ))
    }
}

/// Finds the state file: `state` if that is given, else what the configuration `file` says.
///
/// # Errors
/// When the configuration cannot be taken and does not show where the state file is.
pub fn find(file: &Path, state: Option<PathBuf>) -> Result<Ground, Failure> {
    if let Some(state) = state {
        return Ok(Ground { state, config: None, report: None });
    }
    let report = match config::look(file) {
        Ok(config) => return Ok(Ground { state: config.server.state.clone(), config: Some(config), report: None }),
        Err(report) => report,
    };
    let default = Path::new(defaults::STATE);
    let state = config::state_path(file).or_else(|| is_of(default, file).then(|| default.to_owned()));
    let Some(state) = state else {
        let mend = if report.is_denied() { "run the command as a user who may read" } else { "mend" };
        let why = first(&report);
        let line = format!(
            "{why}: where the state file is is not known; {mend} the configuration, or name the file with --state"
        );
        return Err(Failure::Usage(line));
    };
    Ok(Ground { state, config: None, report: Some(report) })
}

/// What is wrong, in a line.
fn first(report: &Report) -> String {
    let first = report.0.first().map(ToString::to_string).unwrap_or_default();
    let more = if report.0.len() > 1 { ", and more" } else { "" };
    first.lines().next().unwrap_or_default().to_owned() + more
}

/// Whether a state file is that of the daemon that was started with this configuration.
fn is_of(state: &Path, file: &Path) -> bool {
    let stored = Reader::open(state).and_then(|reader| reader.load()).ok();
    stored.and_then(|stored| stored.daemon).is_some_and(|daemon| same_file(Path::new(&daemon.config), file))
}

/// Whether two paths lead to the same file, by whatever links; of one that is gone its place counts.
pub(super) fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    one == other || matches!((real(one), real(other)), (Ok(one), Ok(other)) if one == other)
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
        assert_eq!((named.state.as_path(), named.warning()), (Path::new("har.db"), None));
    }
}
