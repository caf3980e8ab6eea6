//! What can be read of a configuration that is otherwise wrong: where the state file is.
//!
//! Whoever has an order to give, or looks for the cause, does not wait until somebody has mended another table.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::defaults;
use super::files::{open_file, read};

/// The path of the state file; `None` when the file cannot be read, or is not sound and does not show one.
pub(super) fn state(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let text = read(&path, open_file).ok()?;
    let (document, errors) = DeTable::parse_recoverable(&text);
    let server = document.get_ref().get("server").map(|item| item.get_ref());
    let stated = match server {
        Some(DeValue::Table(server)) => server.get("state").map(|item| item.get_ref()),
        _ => None,
    };
    match stated {
        Some(DeValue::String(state)) if !state.is_empty() => {
            Some(path.parent().unwrap_or(Path::new("/")).join(&**state))
        }
        // In a file with mistakes of syntax it may be stated where it was not understood.
        None if errors.is_empty() => Some(defaults::STATE.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<PathBuf> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.toml");
        std::fs::write(&path, text).unwrap();
        state(&path).map(|state| state.strip_prefix(folder.path()).map(Path::to_owned).unwrap_or(state))
    }

    #[test]
    fn the_path_is_found_whatever_is_wrong_elsewhere() {
        let server = "[server]\nstate = \"state/har.db\"\n";
        for rest in [
            "",
            "colour = 1\nttl = \"x\"\n",
            "[names.\"a.example\"]\ncheck = 7\n",
            "[names.\"a.example\"\ncandidates = []\n",
            "[names.\"a.example\"]\ncandidates = [\"192.0.2.1\n",
            "[server]\nttl = 5\n",
            "what is this?\n",
        ] {
            assert_eq!(shown(&format!("{server}{rest}")), Some("state/har.db".into()), "{rest}");
        }
        assert_eq!(shown(&format!("[defaults\ncheck = none\n{server}")), Some("state/har.db".into()));
        assert_eq!(shown("[server]\nstate = \"/srv/har.db\"\nlisten = 5\n"), Some("/srv/har.db".into()));
        assert_eq!(shown("[server]\nstate = \"/srv/har.db\nlisten = 5\n"), Some("/srv/har.db".into()));
        assert_eq!(shown("[server]\nlisten = 5\n"), Some(defaults::STATE.into()));
    }

    #[test]
    fn what_cannot_be_known_is_not_guessed() {
        assert_eq!(shown("[server]\nstate = 5\n"), None);
        assert_eq!(shown("[server]\nstate = \"\"\n"), None);
        assert_eq!(shown("[server\nstate = /srv/har.db\n"), None);
        assert_eq!(state(Path::new("/nonexistent/har.toml")), None);
    }
}
