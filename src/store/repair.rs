//! What to do with a file that cannot be used: tell the kinds of trouble apart, move a damaged one aside.
//!
//! A damaged file is renamed with its journals, never deleted: somebody may want to look at it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// What an error of SQLite means for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Somebody else holds it: the next tick may do.
    Busy,
    /// Not a database any more: move it aside.
    Damaged,
    /// The file is well, but it does not take this row, now or ever.
    Refused,
    /// No place, no permission, no such file …: try again later.
    Unusable,
}

impl Trouble {
    /// The kind of an error.
    pub fn of(error: &rusqlite::Error) -> Trouble {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Trouble::Busy,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Trouble::Damaged,
            // A schema that lacks a table or column which its version promises.
            Some(ErrorCode::Unknown) => Trouble::Damaged,
            Some(
                ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::TooBig
                | ErrorCode::ParameterOutOfRange,
            ) => Trouble::Refused,
            None if matches!(error, rusqlite::Error::ToSqlConversionFailure(_)) => Trouble::Refused,
            _ => Trouble::Unusable,
        }
    }
}

/// `path` with `suffix` behind its last part.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The files SQLite keeps beside a database.
pub(super) const JOURNALS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// A state file and what SQLite may keep beside it, whether they exist or not.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    std::iter::once(path.to_owned()).chain(JOURNALS.map(|journal| beside(path, journal))).collect()
}

/// Renames the file and its journals to `PATH.damaged-TIME` and returns that name.
pub(super) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let time = super::time::to_text(super::time::now()).replace(':', "");
    let target = beside(path, &format!(".damaged-{time}"));
    std::fs::rename(path, &target)?;
    for journal in JOURNALS {
        match std::fs::rename(beside(path, journal), beside(&target, journal)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
    }
    Ok(target)
}
