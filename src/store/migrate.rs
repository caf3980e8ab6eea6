//! Versions of the schema: a new file gets the newest, an older one is brought there step by step.
//!
//! `PRAGMA user_version` holds the version. Each step runs in a transaction of its own, so that a crash leaves a
//! file of one version or the next. A file of a newer har is never touched.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// The version this har writes.
pub(super) const VERSION: i64 = 2;

/// The whole schema of [`VERSION`], for a new file.
const SCHEMA: &str = include_str!("schema.sql");

/// `STEPS[n]` leads from version n + 1 to n + 2.
const STEPS: [&str; VERSION as usize - 1] = [include_str!("migrate-2.sql")];

/// How long a command waits for the tables of a file that a daemon has begun: they follow within milliseconds, and
/// later where the disk is slow to sync.
const BEGUN_WITHIN: Duration = Duration::from_secs(1);

/// What a command says of a file of version 0.
pub(super) const NOT_BEGUN: &str = "is not a state file of har (or not begun yet)";

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// This har's version, or it is now.
    Current,
    /// A later one.
    Newer(i64),
    /// Tables of somebody else.
    Foreign,
}

/// Brings the schema to [`VERSION`] where that is ours to do.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<Found> {
    let version = version(connection)?;
    if version > VERSION {
        return Ok(Found::Newer(version));
    }
    if version <= 0 && tables(connection)? > 0 {
        return Ok(Found::Foreign);
    }
    if version <= 0 {
        advance(connection, SCHEMA, VERSION)?;
        return Ok(Found::Current);
    }
    for (reached, sql) in (2..).zip(STEPS).filter(|(reached, _)| *reached > version) {
        advance(connection, sql, reached)?;
    }
    Ok(Found::Current)
}

fn advance(connection: &mut Connection, sql: &str, reached: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "user_version", reached)?;
    transaction.commit()
}

/// The version a file states.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The same for a command, which may come between the beginning of a file and its tables.
pub(super) fn version_once_begun(connection: &Connection) -> rusqlite::Result<i64> {
    let until = Instant::now() + BEGUN_WITHIN;
    loop {
        // The tables first: they come with the version, and between two looks they may come.
        let is_filled = tables(connection)? > 0;
        let version = version(connection)?;
        if version != 0 || is_filled || Instant::now() >= until {
            return Ok(version);
        }
        thread::sleep(BEGUN_WITHIN / 100);
    }
}

fn tables(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
}
