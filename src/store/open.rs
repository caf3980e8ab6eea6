//! Opening the state file, whatever lies at its path.
//!
//! A missing or empty file is begun, a damaged one moved aside first. What can only be read is read; what
//! cannot be opened at all leaves har in memory, with the reason, and [`Store::reopen`] tries again later.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::AccessFlags;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::migrate::{Found, VERSION, migrate};
use super::repair::{JOURNALS, Trouble, beside, move_aside};

const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// Longest wait for somebody else's lock while opening: a copy or a query of an operator is over by then,
/// and a restart is not held up noticeably.
const OPEN_WAIT: Duration = Duration::from_millis(250);

/// At least between two damaged files that are moved aside.
const MOVE_EVERY: Duration = Duration::from_secs(60);

/// The write-ahead log and its index.
const LOG: [&str; 2] = ["-wal", "-shm"];

/// Why a file that somebody else holds is not written.
const LOCKED: &str = "is locked by another process";

/// The one connection of a daemon to its state file, or the reason why there is none.
pub struct Store {
    pub(super) path: PathBuf,
    pub(super) connection: Option<Connection>,
    /// Why nothing is written; `None` = all is well.
    pub(super) hindrance: Option<String>,
    /// What the last daemon left could not be read at the start, and has not been since.
    pub(super) missed: bool,
    /// The write-ahead log is in use, see [`Store::prepare`].
    prepared: bool,
    /// There was no file: this one is empty, and its tables are made by [`Store::prepare`].
    pub(super) fresh: bool,
    /// When a damaged file was last moved aside.
    moved: Option<Instant>,
    identity: Option<(u64, u64)>,
    /// It was seen to hold something.
    filled: bool,
    /// When it was last written, and its size.
    stamp: Option<(SystemTime, u64)>,
    /// It was written since [`Store::look_inside`], by a checkpoint or by somebody.
    touched: bool,
    /// The write-ahead log and its index, once they are there: as long as the file is open they stay.
    journals: Option<[(u64, u64); 2]>,
}

/// What is at the path of the file that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The file, with its log.
    Well,
    /// The file, but its log or the index of it was deleted, and nothing was written to another one.
    Bare,
    /// The file, with a log or an index that somebody else has begun.
    Shared,
    /// Nothing, another file, or the file without its content.
    Lost,
}

impl Place {
    /// What is wrong with the file at this path.
    pub(super) fn words(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Place::Lost => format!("the state file {path} was deleted or replaced, or emptied"),
            _ => format!("the log of the state file, {path}-wal or -shm, was deleted or replaced"),
        }
    }
}

/// An opened store and what the log should say about it, a line each.
pub struct Opened {
    /// Ready to load from and to give to the writer.
    pub store: Store,
    /// A damaged file moved aside, a file that cannot be written.
    pub notes: Vec<String>,
}

/// Why a daemon must not start on this path.
#[derive(Debug)]
pub enum OpenError {
    /// The folder of the state file cannot be made or written.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OpenError::Folder { folder, error } = self;
        let folder = folder.display();
        let mend = if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
            // Few hosts are read-only. har.service makes all but its own folder so, whomever it belongs to.
            format!("for har.service add ReadWritePaths={folder} in a drop-in,")
        } else {
            let uid = nix::unistd::geteuid();
            format!("make it writable for user {uid} (install -d -o {uid} {folder})")
        };
        write!(
            f,
            "cannot write the folder of the state file, {folder}: {error}; {mend} or set server.state to another place"
        )
    }
}

impl std::error::Error for OpenError {}

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// What it remembers; where there is no file an empty one is begun, and a schema is written to an empty one found.
    Reading,
    /// Everything.
    Writing,
}

/// How an attempt to open ended short of a file that can be written.
enum Shortfall {
    /// Can be read only, and why.
    ReadOnly(Box<Connection>, String),
    /// Not at all.
    Nothing(String),
    /// Not a database any more.
    Damaged(String),
}

impl Store {
    /// Opens the state file for reading what it remembers, with its folder made where it is missing. Only a folder
    /// that cannot be written is an error. `Store::prepare` is to follow before anything is written.
    pub fn open(path: &Path) -> Result<Opened, OpenError> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        make_folder(folder).map_err(|error| OpenError::Folder { folder: folder.to_owned(), error })?;
        let mut store = Store {
            path: path.to_owned(),
            connection: None,
            hindrance: None,
            missed: false,
            prepared: false,
            fresh: false,
            moved: None,
            identity: None,
            filled: false,
            stamp: None,
            touched: false,
            journals: None,
        };
        let notes = store.reopen_for(Purpose::Reading);
        Ok(Opened { store, notes })
    }

    /// Why nothing is written, if so: har goes on in memory.
    pub fn hindrance(&self) -> Option<&str> {
        self.hindrance.as_deref()
    }

    /// Whether nothing is written, for a reason that is not over when somebody else is done.
    pub(super) fn is_barred(&self) -> bool {
        self.hindrance.as_ref().is_some_and(|reason| !reason.ends_with(LOCKED))
    }

    /// Whether batches can be written.
    pub(super) fn is_writable(&self) -> bool {
        self.connection.is_some() && self.hindrance.is_none()
    }

    /// Does what [`Store::open`] left: the change to the write-ahead log syncs the disk several times, and so do the
    /// tables of a new file; no answer is to wait for that. `Some` when the file had to be opened again, with what the
    /// log should say.
    pub(super) fn prepare(&mut self) -> Option<Vec<String>> {
        if self.prepared || !self.is_writable() {
            return None;
        }
        let connection = self.connection.as_mut()?;
        // In the log the tables need no sync of their own.
        let done = set_up(connection).and_then(|()| if self.fresh { migrate(connection) } else { Ok(Found::Current) });
        match done {
            Ok(Found::Current) => {
                self.prepared = true;
                self.fresh = false;
                self.note_journals();
                None
            }
            _ => Some(self.reopen()),
        }
    }

    /// Opens again after anything; returns what the log should say.
    pub(super) fn reopen(&mut self) -> Vec<String> {
        self.reopen_for(Purpose::Writing)
    }

    fn reopen_for(&mut self, purpose: Purpose) -> Vec<String> {
        self.close();
        self.fresh = false;
        self.journals = None;
        let mut notes = Vec::new();
        let mut attempt = attempt(&self.path, purpose);
        if let Err(Shortfall::Damaged(reason)) = &attempt
            && self.may_set_aside()
        {
            notes.push(self.set_aside(reason));
            attempt = self::attempt(&self.path, purpose);
        }
        let path = self.path.display();
        match attempt {
            Ok((connection, fresh)) => {
                self.connection = Some(connection);
                self.hindrance = None;
                self.prepared = purpose == Purpose::Writing;
                self.fresh = fresh;
                if self.prepared {
                    self.note_journals();
                }
            }
            Err(Shortfall::ReadOnly(connection, reason)) => {
                self.connection = Some(*connection);
                self.hindrance = Some(format!("the state file {path} {reason}"));
            }
            Err(Shortfall::Nothing(reason)) => {
                self.hindrance = Some(format!("the state file {path} {reason}"));
            }
            Err(Shortfall::Damaged(reason)) => {
                self.hindrance = Some(format!("the state file {path} is damaged ({reason})"));
            }
        }
        self.identity = identity(&self.path);
        self.filled = false;
        notes.extend(self.hindrance.as_deref().map(in_memory));
        notes
    }

    /// Closes the file as it is, leaving the journals for whoever opens it next.
    pub(super) fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The path may lead to another file by now, whose journals SQLite would take for this one's.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }

    /// Goes on in memory although a file is there, until [`Store::reopen`].
    pub(super) fn hinder(&mut self, reason: String) {
        self.hindrance = Some(reason);
    }

    /// Whether the last damaged file was moved aside long enough ago: a disk that spoils every file must not
    /// be filled with them.
    pub(super) fn may_set_aside(&self) -> bool {
        self.moved.is_none_or(|at| at.elapsed() >= MOVE_EVERY)
    }

    /// Moves the damaged file aside and says so.
    pub(super) fn set_aside(&mut self, reason: &str) -> String {
        self.close();
        self.moved = Some(Instant::now());
        let path = self.path.display();
        match move_aside(&self.path) {
            Ok(target) => {
                format!("the state file {path} is damaged ({reason}): moved to {} and begun anew", target.display())
            }
            Err(error) => format!("the state file {path} is damaged ({reason}) and cannot be moved aside: {error}"),
        }
    }

    /// Whether the path still leads to what is open.
    pub(super) fn is_in_place(&mut self) -> bool {
        self.place() == Place::Well
    }

    /// What the path leads to by now. SQLite writes its log on without a look at the files: readers would find nothing,
    /// and what others write would be lost.
    pub(super) fn place(&mut self) -> Place {
        let found = fs::metadata(&self.path).ok();
        let emptied = self.filled && found.as_ref().is_some_and(|found| found.len() == 0);
        self.filled = found.as_ref().is_some_and(|found| found.len() > 0);
        let stamp = found.as_ref().and_then(|found| Some((found.modified().ok()?, found.len())));
        self.touched |= std::mem::replace(&mut self.stamp, stamp) != stamp;
        if found.as_ref().map(number) != self.identity || emptied {
            return Place::Lost;
        }
        let Some(noted) = self.journals else { return Place::Well };
        let [log, index] = LOG.map(|suffix| fs::metadata(beside(&self.path, suffix)).ok());
        let own = |found: &Option<fs::Metadata>, noted| found.as_ref().map(number) == Some(noted);
        match (own(&log, noted[0]), own(&index, noted[1])) {
            (true, true) => Place::Well,
            (true, false) if index.is_some() => Place::Shared,
            // A reader that finds no log begins an empty one.
            (false, _) if log.is_some_and(|log| log.len() > 0) => Place::Shared,
            _ => Place::Bare,
        }
    }

    /// What a reader meets in a file that was written since the last look, when that is damage: somebody may have
    /// copied something over it, which a connection that is open does not see before it reads a page anew.
    pub(super) fn look_inside(&mut self) -> Option<rusqlite::Error> {
        if !std::mem::take(&mut self.touched) {
            return None;
        }
        // Through SQLite: closing a descriptor of one's own would end the locks of the connection that is open.
        let looked = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|connection| {
            connection.busy_timeout(Duration::ZERO)?;
            connection.query_row("SELECT count(*) FROM daemon", [], |row| row.get::<_, i64>(0))
        });
        looked.err().filter(|error| Trouble::of(error) == Trouble::Damaged)
    }

    /// Remembers the write-ahead log as this file's, to be told from a later one's.
    pub(super) fn note_journals(&mut self) {
        if let (None, [Some(log), Some(index)]) =
            (self.journals, LOG.map(|suffix| identity(&beside(&self.path, suffix))))
        {
            self.journals = Some([log, index]);
        }
    }

    /// After what is open was found not to be in its place: closes it, so that it can be opened again.
    pub(super) fn forget(&mut self, place: Place) {
        match place {
            // The log is still there for this connection: nothing of it is lost when it is put into the file.
            Place::Well | Place::Bare => self.put_log_away(),
            // Somebody may have written by the other log, which this one knows nothing of.
            Place::Shared => self.close(),
            // The journals that it left behind would damage the file that takes its place.
            Place::Lost => {
                self.close();
                let log = identity(&beside(&self.path, LOG[0]));
                if log.is_some() && log == self.journals.take().map(|[log, _]| log) {
                    for suffix in JOURNALS {
                        let _ = fs::remove_file(beside(&self.path, suffix));
                    }
                }
            }
        }
    }

    /// Ends cleanly: one file without journals, for anyone with read permission. A reader who is just
    /// looking can prevent it; then the write-ahead log stays, which is as safe.
    pub(super) fn finish(&mut self) {
        if !self.is_writable() || !matches!(self.place(), Place::Well | Place::Bare) {
            return self.close();
        }
        if let (true, Some(connection)) = (self.fresh, &mut self.connection) {
            // Not even begun: tables without rows say more to a reader than no tables.
            let _ = connection.busy_timeout(OPEN_WAIT);
            let _ = migrate(connection);
        }
        self.put_log_away();
    }

    /// Closes the file with its log taken over and removed, unless somebody else has it open.
    fn put_log_away(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.busy_timeout(OPEN_WAIT);
            let mode = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0));
            match mode {
                Ok(mode) if mode == "delete" => (),
                _ => {
                    // A reader still looks: with the log's files in place it, and others, can go on.
                    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
                }
            }
        }
    }
}

impl Drop for Store {
    /// A daemon that fails between opening and starting leaves a file that others can read, too.
    fn drop(&mut self) {
        self.finish();
    }
}

/// How the log says what keeps har from writing.
pub(super) fn in_memory(reason: &str) -> String {
    format!("{reason}; going on in memory")
}

fn number(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().as_ref().map(number)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    for made in missing {
        fs::set_permissions(made, fs::Permissions::from_mode(FOLDER_MODE))?;
    }
    Ok(nix::unistd::eaccess(folder, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// The file, and whether it was begun just now and has no tables yet.
fn attempt(path: &Path, purpose: Purpose) -> Result<(Connection, bool), Shortfall> {
    let mut begun = false;
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(Shortfall::Nothing("is not a file but something else".to_owned())),
        Ok(_) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            begin(path).map_err(|error| Shortfall::Nothing(format!("cannot be created: {error}")))?;
            begun = true;
        }
        Err(error) => return Err(Shortfall::Nothing(format!("cannot be looked at: {error}"))),
    }
    let shortfall = |error: rusqlite::Error| match Trouble::of(&error) {
        Trouble::Busy => locked(path),
        Trouble::Damaged => Shortfall::Damaged(error.to_string()),
        Trouble::Unusable | Trouble::Refused => Shortfall::Nothing(format!("cannot be used: {error}")),
    };
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(shortfall)?;
    if connection.is_readonly("main").map_err(shortfall)? {
        return Err(Shortfall::ReadOnly(Box::new(connection), "cannot be written (read-only)".to_owned()));
    }
    if begun && purpose == Purpose::Reading {
        return Ok((connection, true));
    }
    match migrate(&mut connection).map_err(shortfall)? {
        Found::Current => (),
        Found::Newer(version) => {
            let reason =
                format!("was written by a newer har (schema {version}, this one knows {VERSION}) and is only read");
            let readable = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(shortfall)?;
            return Err(Shortfall::ReadOnly(Box::new(readable), reason));
        }
        Found::Foreign => {
            return Err(Shortfall::Nothing("is a database of some other program".to_owned()));
        }
    }
    if purpose == Purpose::Writing {
        set_up(&connection).map_err(shortfall)?;
    }
    Ok((connection, false))
}

/// A file that somebody else holds: with a write-ahead log it can be read all the same.
fn locked(path: &Path) -> Shortfall {
    let reason = LOCKED.to_owned();
    let readable = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|connection| {
        connection.busy_timeout(Duration::ZERO)?;
        Ok((super::migrate::version(&connection)?, connection))
    });
    match readable {
        Ok((VERSION, connection)) => Shortfall::ReadOnly(Box::new(connection), reason),
        _ => Shortfall::Nothing(reason),
    }
}

/// A new, empty file, readable by everyone whatever the umask.
fn begin(path: &Path) -> io::Result<()> {
    for suffix in JOURNALS {
        // Left by a file that is gone; they would be taken for the new one's.
        let _ = fs::remove_file(beside(path, suffix));
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))
}

/// Opens a file, as every connection of the daemon to it is opened.
pub(super) fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(OPEN_WAIT)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Damage is found where it is read, before it spreads.
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Pages that SQLite keeps itself, in KiB, negative as its pragma wants it.
const CACHE_KIB: i32 = -512;

/// The write-ahead log, and no waiting from now on. `synchronous = NORMAL` syncs the disk only when the log
/// is taken over: after a power cut the last seconds may be missing, the file is whole either way.
fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Rows are written in the order of the tables, so that few pages are looked at twice; the kernel has them all.
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // A reader that looked for long makes the log grow: give the place back afterwards.
    connection.query_row("PRAGMA journal_size_limit = 4194304", [], |row| row.get::<_, i64>(0))?;
    // Make sure that it can be written now, not at the first batch.
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
    connection.busy_timeout(Duration::ZERO)
}
