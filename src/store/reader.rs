//! Looking through the state file without touching it: for the commands, as any user.
//!
//! While har runs, and after it was killed, the write-ahead log's files lie beside the database and are read along.
//! After a clean stop there is one plain file. Where a log is announced but its files are gone (a copy of the
//! file alone), the database is read as it stands, which is safe as long as nobody writes it: then there
//! is no log to miss.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};

use super::load::{self, Candidates, Stored};
use super::migrate::{NOT_BEGUN, VERSION, version, version_once_begun};
use super::repair::beside;
use super::time::now;
use crate::health::{CheckResult, Host, Outcome, Text, Time};
use crate::os::process;

/// Longest wait for a lock, which only a har that starts or stops holds.
const WAIT: Duration = Duration::from_secs(2);

/// A heartbeat older than this belongs to a daemon that is gone or cannot write.
pub const HEARTBEAT_LATE: Duration = Duration::from_secs(15);

/// What a command says of a folder or a device in the place of the state file.
pub(super) const NOT_A_FILE: &str = "is not a file: move it away, or name another with server.state";

/// One this young was written by a daemon that runs: a quiet one writes it every 4 s.
const HEARTBEAT_FRESH: Duration = Duration::from_secs(6);

/// A stop this young may be half of a restart: the daemon that follows answers before it has written its row.
const STOP_FRESH: Duration = Duration::from_secs(2);

/// How long that row is waited for.
const ROW_WITHIN: Duration = Duration::from_secs(1);

/// How much a process must be younger than the last heartbeat to be another one than the daemon that wrote it.
const YOUNGER: Duration = Duration::from_secs(2);

/// The state file, opened to read.
pub struct Reader {
    connection: Connection,
    path: PathBuf,
    newer: bool,
}

/// A row of `event`, as text.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct EventRow {
    /// Grows with every event.
    pub id: i64,
    /// When.
    pub at: String,
    /// What kind.
    pub kind: String,
    /// The configured name it is about.
    pub name: Option<String>,
    /// `A` or `AAAA`.
    pub family: Option<String>,
    /// The candidate.
    pub host: Option<String>,
    /// The address.
    pub address: Option<String>,
    /// What was.
    pub before: Option<String>,
    /// What is.
    pub after: Option<String>,
    /// Latency of what was answered, milliseconds.
    pub before_ms: Option<f64>,
    /// Latency of what is answered, milliseconds.
    pub after_ms: Option<f64>,
    /// Why.
    pub reason: String,
}

/// A row of `check_target` with what is recorded of it.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetRow {
    /// Its row.
    pub id: i64,
    /// The candidate.
    pub host: Host,
    /// The address.
    pub address: IpAddr,
    /// The check in words.
    pub definition: Arc<str>,
    /// When the first recorded result ended.
    pub first: Time,
    /// When the last did.
    pub last: Time,
    /// How many there are.
    pub results: u64,
}

/// A row of `check_result`.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedRow {
    /// Grows with every result.
    pub id: i64,
    /// Row of `check_target`.
    pub target: i64,
    /// When it ended.
    pub at: Time,
    /// What it yielded, as far as that is recorded.
    pub result: CheckResult,
}

/// Why the state file cannot be read: one line that says what to do.
#[derive(Clone, Debug)]
pub struct ReadError {
    /// What kind of trouble it is.
    pub kind: Unreadable,
    /// The line.
    pub words: String,
}

/// The kinds of trouble with a state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// There is none, or it cannot be looked at.
    Missing,
    /// Something else is in its place: a folder, a file of another program, one that is empty.
    Foreign,
    /// It was one.
    Damaged,
    /// Not now, or not by this user.
    Barred,
}

impl ReadError {
    pub(crate) fn new(kind: Unreadable, words: impl Into<String>) -> ReadError {
        ReadError { kind, words: words.into() }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for ReadError {}

/// Whether a daemon runs on this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its process is there and its heart beats.
    Running,
    /// Its process is there, but it has written nothing for long: stuck, or it cannot write.
    Silent,
    /// It ended in order.
    Stopped,
    /// It is gone without a word (kill -9, a crash, a power cut).
    Gone,
    /// There was none yet.
    Never,
}

impl Reader {
    /// Opens an existing state file.
    pub fn open(path: &Path) -> Result<Reader, ReadError> {
        let shown = path.display();
        match std::fs::metadata(path) {
            Ok(found) if found.is_file() => (),
            Ok(_) => return Err(ReadError::new(Unreadable::Foreign, format!("the state file {shown} {NOT_A_FILE}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let hint = "is har running, and with this configuration?";
                return Err(ReadError::new(Unreadable::Missing, format!("there is no state file {shown}: {hint}")));
            }
            Err(error) => {
                let words = format!("cannot look at the state file {shown}: {error}");
                return Err(ReadError::new(Unreadable::Barred, words));
            }
        }
        let (connection, version) = connect(path).map_err(|error| worded(path, &error))?;
        if version == 0 {
            return Err(ReadError::new(Unreadable::Foreign, format!("{shown} {NOT_BEGUN}")));
        }
        Ok(Reader { connection, path: path.to_owned(), newer: version > VERSION })
    }

    /// Everything but results, summaries and events, of one moment.
    pub fn load(&self) -> Result<Stored, ReadError> {
        load::stored(&self.connection, self.newer, Candidates::Read, None).map_err(|error| worded(&self.path, &error))
    }

    /// Opens a state file and loads it, for a command that says whether a daemon runs: right after a stop it looks again
    /// for a moment.
    pub fn current(path: &Path) -> Result<Stored, ReadError> {
        let until = Instant::now() + ROW_WITHIN;
        loop {
            let stored = Reader::open(path)?.load()?;
            if !stored.stopped_just_now(now()) || Instant::now() >= until {
                return Ok(stored);
            }
            thread::sleep(ROW_WITHIN / 20);
        }
    }

    /// The events after the row `after`, oldest first: the last `limit` of them, of one name if that is given.
    pub fn events(&self, after: i64, limit: u32, name: Option<&str>) -> Result<Vec<EventRow>, ReadError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT id, at, kind, name, family, host, address, before, after, before_ms, after_ms, reason FROM
                 (SELECT * FROM event WHERE id > ?1 AND (?3 IS NULL OR name = ?3) ORDER BY id DESC LIMIT ?2) ORDER BY id",
            )?;
            statement.query_map(params![after, limit, name], event)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| worded(&self.path, &error))
    }

    /// What single results are recorded of, oldest row first.
    pub fn targets(&self) -> Result<Vec<TargetRow>, ReadError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT id, host, address, definition, first, last, results FROM check_target JOIN
                 (SELECT target_id, min(at_unix_ms) AS first, max(at_unix_ms) AS last, count(*) AS results
                  FROM check_result GROUP BY target_id) ON target_id = id ORDER BY id",
            )?;
            let rows = statement.query_map([], target)?.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(rows.into_iter().flatten().collect())
        };
        read().map_err(|error| worded(&self.path, &error))
    }

    /// The first `limit` results after the first of these rows up to the second that ended at `from` or later.
    pub(super) fn results(&self, rows: (i64, i64), from: Time, limit: u32) -> Result<Vec<RecordedRow>, ReadError> {
        let from = i64::try_from(from.0).unwrap_or(i64::MAX);
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT id, target_id, at_unix_ms, outcome_code, status, connect_us, first_byte_us, total_us, error
                 FROM check_result WHERE id > ?1 AND id <= ?2 AND at_unix_ms >= ?3 ORDER BY id LIMIT ?4",
            )?;
            statement.query_map(params![rows.0, rows.1, from, limit], recorded)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| worded(&self.path, &error))
    }

    /// The file that is read.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For a command's own question: the connection cannot write.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Stored {
    /// Whether the daemon that wrote this runs, by its last row and this host's process table.
    pub fn life(&self) -> Life {
        let Some(daemon) = &self.daemon else { return Life::Never };
        if daemon.stopped_at.is_some() {
            return Life::Stopped;
        }
        let silence = now().since(daemon.heartbeat_at);
        // A daemon in another process namespace (a container) is not in this one's table: then only a fresh heartbeat
        // tells.
        match (silence < HEARTBEAT_LATE, is_writer(daemon.pid, silence)) {
            (true, true) => Life::Running,
            (false, true) => Life::Silent,
            (true, false) if silence < HEARTBEAT_FRESH => Life::Running,
            (_, false) => Life::Gone,
        }
    }

    /// Whether the daemon ended so lately that the next one may not have written its row yet.
    fn stopped_just_now(&self, now: Time) -> bool {
        let stopped_at = self.daemon.as_ref().and_then(|daemon| daemon.stopped_at);
        stopped_at.is_some_and(|at| at <= now && now.since(at) < STOP_FRESH)
    }
}

impl Stored {
    /// The process of another daemon that writes this file now.
    pub fn other_writer(&self) -> Option<u32> {
        let daemon = self.daemon.as_ref().filter(|daemon| daemon.stopped_at.is_none())?;
        let silence = now().since(daemon.heartbeat_at);
        let beats = silence < HEARTBEAT_LATE;
        (beats && daemon.pid != std::process::id() && is_writer(daemon.pid, silence)).then_some(daemon.pid)
    }
}

/// Whether the process of that number is there and may have written a heartbeat so long ago: one that is younger was given
/// the number later.
fn is_writer(pid: u32, silence: Duration) -> bool {
    process::is_there(pid) && process::age(pid).is_none_or(|age| age + YOUNGER >= silence)
}

fn connect(path: &Path) -> rusqlite::Result<(Connection, i64)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let first = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(WAIT)?;
        let version = version_once_begun(&connection)?;
        Ok((connection, version))
    });
    let unreadable = |error: &rusqlite::Error| {
        matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
    };
    match first {
        Err(error) if unreadable(&error) && !beside(path, "-wal").exists() && !beside(path, "-journal").exists() => {
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            let connection = Connection::open_with_flags(immutable(path), flags)?;
            let version = version(&connection)?;
            Ok((connection, version))
        }
        first => first,
    }
}

/// The file as a URI; `immutable` reads it without a log and without locks.
fn immutable(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file:".to_owned();
    for &byte in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02x}"));
        }
    }
    uri.push_str("?immutable=1");
    uri
}

pub(super) fn worded(path: &Path, error: &rusqlite::Error) -> ReadError {
    let shown = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => {
            let words = format!("the state file {shown} is locked by another process; try again");
            ReadError::new(Unreadable::Barred, words)
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            let words = format!("the state file {shown} is damaged ({error}); har begins a new one at its next write");
            ReadError::new(Unreadable::Damaged, words)
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            let words =
                format!("cannot open the state file {shown}: {error}; is it readable for this user, and its folder?");
            ReadError::new(Unreadable::Barred, words)
        }
        _ => ReadError::new(Unreadable::Barred, format!("cannot read the state file {shown}: {error}")),
    }
}

fn target(row: &Row<'_>) -> rusqlite::Result<Option<TargetRow>> {
    let (host, address): (String, String) = (row.get(1)?, row.get(2)?);
    let Ok(address) = address.parse() else { return Ok(None) };
    let host = host.parse().map_or_else(|_| Host::Name(host.as_str().into()), Host::Address);
    Ok(Some(TargetRow {
        id: row.get(0)?,
        host,
        address,
        definition: row.get::<_, String>(3)?.into(),
        first: Time(unsigned(row, 4)?),
        last: Time(unsigned(row, 5)?),
        results: unsigned(row, 6)?,
    }))
}

fn recorded(row: &Row<'_>) -> rusqlite::Result<RecordedRow> {
    let micros = |column: usize| -> rusqlite::Result<Option<Duration>> {
        Ok(row.get::<_, Option<i64>>(column)?.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros))
    };
    let code = usize::try_from(row.get::<_, i64>(3)?).unwrap_or(usize::MAX);
    let result = CheckResult {
        outcome: Outcome::ALL.get(code).copied().unwrap_or(Outcome::LocalError),
        silent: false,
        status: row.get(4)?,
        connect: micros(5)?,
        first_byte: micros(6)?,
        total: micros(7)?.unwrap_or_default(),
        error: row.get::<_, Option<String>>(8)?.map(Text::from),
        priority: None,
        certificate_days: None,
    };
    Ok(RecordedRow { id: row.get(0)?, target: row.get(1)?, at: Time(unsigned(row, 2)?), result })
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn event(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok(EventRow {
        id: row.get(0)?,
        at: row.get(1)?,
        kind: row.get(2)?,
        name: row.get(3)?,
        family: row.get(4)?,
        host: row.get(5)?,
        address: row.get(6)?,
        before: row.get(7)?,
        after: row.get(8)?,
        before_ms: row.get(9)?,
        after_ms: row.get(10)?,
        reason: row.get(11)?,
    })
}
