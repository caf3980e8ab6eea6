//! The `override` table: read by the daemon, written by the commands as another process.
//!
//! A row that was written by hand is read as generously as SQLite reads times; one that still makes no sense is left
//! out and named.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, TransactionBehavior, params};

use super::migrate::{NOT_BEGUN, VERSION, version_once_begun};
use super::reader::NOT_A_FILE;
use super::time::{from_text, to_text};
use crate::dns::HostName;
use crate::health::events::one_line;
use crate::health::{Override, OverrideKind, Time};

/// Overrides that are read at most: more is a script gone wrong, and each is looked at for every address.
pub const OVERRIDES_MAX: usize = 10_000;

/// Longest wait for the daemon's own transaction, which takes milliseconds.
const WAIT: Duration = Duration::from_secs(5);

/// The state file opened to give orders.
pub struct Overrides {
    connection: Connection,
}

/// Why an order could not be given: a line that says what to do.
#[derive(Debug)]
pub struct OverrideError(String);

impl fmt::Display for OverrideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OverrideError {}

impl Overrides {
    /// Opens an existing state file for writing; a daemon need not run.
    pub fn open(path: &Path) -> Result<Overrides, OverrideError> {
        let shown = path.display();
        match std::fs::metadata(path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(OverrideError(format!("the state file {shown} {NOT_A_FILE}"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let hint = "is har running, and with this configuration?";
                return Err(OverrideError(format!("there is no state file {shown}: {hint}")));
            }
            Err(error) => return Err(OverrideError(format!("cannot look at the state file {shown}: {error}"))),
        }
        let opened = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let connection = opened.map_err(|error| worded(path, &error))?;
        connection.busy_timeout(WAIT).map_err(|error| worded(path, &error))?;
        if connection.is_readonly("main").map_err(|error| worded(path, &error))? {
            return Err(forbidden(path));
        }
        match version_once_begun(&connection) {
            Ok(1..=VERSION) => Ok(Overrides { connection }),
            Ok(0) => Err(OverrideError(format!("{shown} {NOT_BEGUN}"))),
            Ok(found) => Err(OverrideError(format!(
                "the state file {shown} has schema {found} and this har writes {VERSION}: use the har that the daemon runs"
            ))),
            Err(error) => Err(worded(path, &error)),
        }
    }

    /// Adds one (its `id` is ignored) and returns its row; a daemon follows within a second.
    pub fn add(&self, order: &Override) -> Result<i64, OverrideError> {
        insert(&self.connection, order, None).map_err(|error| self.worded(&error))?;
        Ok(self.connection.last_insert_rowid())
    }

    /// Puts one in the place of the rows `replaced`, under the number of the first of them, and returns its row:
    /// an order that is given again is one order, and there is no moment without it.
    pub fn replace(&mut self, replaced: &[i64], order: &Override) -> Result<i64, OverrideError> {
        let mut put = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for id in replaced {
                transaction.execute("DELETE FROM override WHERE id = ?1", [id])?;
            }
            insert(&transaction, order, replaced.first().copied())?;
            let id = transaction.last_insert_rowid();
            transaction.commit()?;
            Ok(id)
        };
        put().map_err(|error| self.worded(&error))
    }

    /// Deletes those of `kind` (any if `None`) that have exactly this `name` and `target` (lower case, no
    /// trailing dot); returns how many.
    pub fn remove(
        &self,
        kind: Option<OverrideKind>,
        name: Option<&str>,
        target: Option<&str>,
    ) -> Result<usize, OverrideError> {
        let mut removed = 0;
        for order in self.list()? {
            let fits = kind.is_none_or(|kind| order.kind == kind);
            if fits && order.name.as_deref() == name && order.target.as_deref() == target {
                removed += usize::from(self.remove_row(order.id)?);
            }
        }
        Ok(removed)
    }

    /// Deletes one by its row; whether it was there.
    pub fn remove_row(&self, id: i64) -> Result<bool, OverrideError> {
        let deleted = self.connection.execute("DELETE FROM override WHERE id = ?1", [id]);
        Ok(deleted.map_err(|error| self.worded(&error))? > 0)
    }

    /// All that are there, expired ones included.
    pub fn list(&self) -> Result<Vec<Override>, OverrideError> {
        Ok(read(&self.connection).map_err(|error| self.worded(&error))?.0)
    }

    fn worded(&self, error: &rusqlite::Error) -> OverrideError {
        worded(Path::new(self.connection.path().unwrap_or_default()), error)
    }
}

impl Drop for Overrides {
    /// After a crash this may be the last connection: the log's files stay, or others than the owner could not
    /// read the file until har is started again.
    fn drop(&mut self) {
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }
}

fn worded(path: &Path, error: &rusqlite::Error) -> OverrideError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => forbidden(path),
        Some(ErrorCode::DatabaseBusy) => {
            OverrideError(format!("the state file {} is locked by another process; try again", path.display()))
        }
        _ => OverrideError(format!("cannot write the state file {}: {error}", path.display())),
    }
}

fn forbidden(path: &Path) -> OverrideError {
    OverrideError(format!(
        "no permission to write the state file {}: run the command as the user har runs as, or as root",
        path.display()
    ))
}

/// Reads every override; with them what the log should say about rows that make no sense.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<(Vec<Override>, Vec<String>)> {
    let mut statement = connection.prepare_cached(
        "SELECT id, kind, name, target, expires_at, strftime('%Y-%m-%dT%H:%M:%fZ', expires_at), reason, created_by,
                strftime('%Y-%m-%dT%H:%M:%fZ', created_at)
         FROM override ORDER BY id LIMIT ?1",
    )?;
    let (mut orders, mut notes) = (Vec::new(), Vec::new());
    let mut rows = statement.query([OVERRIDES_MAX as i64 + 1])?;
    let mut read = 0;
    while let Some(row) = rows.next()? {
        read += 1;
        if read > OVERRIDES_MAX {
            notes.push(format!("only the first {OVERRIDES_MAX} overrides are read: the others are ignored"));
            break;
        }
        // A text that is none (a blob cast to text) spoils its own row, not the others.
        let unreadable = |error: rusqlite::Error| {
            let id: i64 = row.get(0).unwrap_or_default();
            Err(format!("override {id} is ignored: it cannot be read ({error})"))
        };
        match parse(row).unwrap_or_else(unreadable) {
            Ok(order) => orders.push(order),
            Err(note) => notes.push(note),
        }
    }
    Ok((orders, notes))
}

fn parse(row: &Row<'_>) -> rusqlite::Result<Result<Override, String>> {
    let (id, kind): (i64, String) = (row.get(0)?, row.get(1)?);
    let Some(kind) = OverrideKind::from_word(&kind) else {
        return Ok(Err(format!("override {id} is ignored: this har knows no kind '{kind}'")));
    };
    let stated: Option<String> = row.get(4)?;
    let expires_at = row.get::<_, Option<String>>(5)?.and_then(|text| from_text(&text));
    if let (Some(stated), None) = (stated, expires_at) {
        return Ok(Err(format!("override {id} is ignored: expires_at '{stated}' is not a time since 1970")));
    }
    let (name, target) = (row.get::<_, Option<String>>(2)?.map(normal), row.get::<_, Option<String>>(3)?.map(normal));
    if name.as_deref() == Some("") {
        return Ok(Err(format!("override {id} is ignored: its name is empty (NULL means all names)")));
    }
    if target.as_deref() == Some("") && kind != OverrideKind::Bypass {
        return Ok(Err(format!("override {id} is ignored: its target is empty")));
    }
    Ok(Ok(Override {
        id,
        kind,
        name,
        target,
        expires_at,
        reason: row.get::<_, Option<String>>(6)?.map(|text| one_line(&text)),
        created_by: row.get::<_, Option<String>>(7)?.map(|text| one_line(&text)),
        created_at: row.get::<_, Option<String>>(8)?.and_then(|text| from_text(&text)),
    }))
}

/// A name as it is kept: A-labels in lower case without a trailing dot. A hand that typed it otherwise meant the same.
fn normal(text: String) -> String {
    let text = text.trim();
    match text.parse::<HostName>() {
        Ok(name) => name.to_string(),
        // An address in brackets, or nothing that can be a name.
        Err(_) => text.trim_end_matches('.').to_ascii_lowercase(),
    }
}

/// Deletes those of `orders`, which were read, that have ended: one that comes meanwhile is read, and told of, first.
pub(super) fn delete_over(connection: &Connection, orders: &[Override], now: Time) -> rusqlite::Result<()> {
    let sql = "DELETE FROM override WHERE id = ?1 AND julianday(expires_at) <= julianday(?2)";
    let mut statement = connection.prepare_cached(sql)?;
    for order in orders.iter().filter(|order| order.expires_at.is_some_and(|end| end <= now)) {
        statement.execute(params![order.id, to_text(now)])?;
    }
    Ok(())
}

/// Puts those back that are not there any more, under the number each had if no other has taken it.
pub(super) fn restore(connection: &Connection, orders: &[Override]) {
    let there = read(connection).map(|(orders, _)| orders).unwrap_or_default();
    for order in orders {
        let same =
            |other: &Override| (other.kind, &other.name, &other.target) == (order.kind, &order.name, &order.target);
        if !there.iter().any(same) {
            let taken = there.iter().any(|other| other.id == order.id);
            let _ = insert(connection, order, (!taken).then_some(order.id));
        }
    }
}

/// Writes one, as a new row or (when a file was begun anew) under the number it had.
pub(super) fn insert(connection: &Connection, order: &Override, id: Option<i64>) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO override (id, kind, name, target, expires_at, reason, created_by, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, coalesce(?8, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))",
        )?
        .execute(params![
            id,
            order.kind.as_str(),
            order.name,
            order.target,
            order.expires_at.map(to_text),
            order.reason,
            order.created_by,
            order.created_at.map(to_text)
        ])?;
    Ok(())
}
