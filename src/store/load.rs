//! Reading the state back, for a warm start and for the commands.
//!
//! A row that makes no sense is skipped: the state file is only a memory, and the next check knows better. In a
//! file of a newer har each table is read as far as it is understood.

mod addresses;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use rusqlite::{Connection, Row};

use self::addresses::Addresses;
use super::batch::{CandidateRow, DaemonRow, EndpointKey, NameCounters, NameRow, UpstreamRow};
use super::open::Store;
use super::overrides;
use super::repair::Trouble;
use super::time::from_text;
use crate::health::compact::Common;
use crate::health::{AnswerRecord, EndpointRecord, Family, Host, Override, Text, Time};

/// Everything the state file knows except results, summaries and events.
#[derive(Debug, Default)]
pub struct Stored {
    /// The last daemon.
    pub daemon: Option<DaemonRow>,
    /// The names in the order of the file, with what was counted for them.
    pub names: Vec<(NameRow, NameCounters)>,
    /// The candidates, by name and place. [`Store::load`] leaves them out where nobody asks for them.
    pub candidates: Vec<CandidateRow>,
    /// Every address of every name, in the order of the ranking; with [`Candidates::Skip`] not why, and in no order
    /// where all candidates are addresses themselves.
    pub endpoints: Vec<EndpointRecord>,
    /// How often each was chosen that ever was.
    pub times_chosen: Vec<(EndpointKey, u64)>,
    /// What each name answered.
    pub answers: Vec<AnswerRecord>,
    /// What operators ordered, expired ones included.
    pub overrides: Vec<Override>,
    /// Overrides that make no sense, in words; the writer tells the daemon of them.
    pub ignored_overrides: Vec<String>,
    /// The upstreams with their counters.
    pub upstreams: Vec<UpstreamRow>,
    /// Totals that belong to no name.
    pub counters: Vec<(String, u64)>,
    /// What the log should say: tables that could not be read.
    pub notes: Vec<String>,
}

/// Whether the candidates are read, too: a start that knows them all from the configuration does without, and without
/// the words that say why each address is where it is, which it finds anew. It is waited for: the addresses are then
/// read by two threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// All of them.
    Read,
    /// None.
    Skip,
}

impl Store {
    /// What the last daemon left. A file that turns out damaged is moved aside and begun anew (its overrides
    /// are kept if they can be read), which a note tells.
    pub fn load(&mut self, candidates: Candidates) -> Stored {
        if self.fresh {
            self.missed = false;
            return Stored::default();
        }
        // Whatever is at the path by now must be the file that is open.
        let beside = (candidates == Candidates::Skip && self.is_in_place()).then_some(&*self.path);
        let Some(connection) = &self.connection else {
            self.missed = true;
            return Stored::default();
        };
        let lenient = self.hindrance.is_some();
        let error = match stored(connection, lenient, candidates, beside) {
            Ok(stored) => {
                self.missed = false;
                return stored;
            }
            Err(error) => error,
        };
        if Trouble::of(&error) != Trouble::Damaged || lenient {
            // What cannot be read now must not be written over: it is tried again.
            self.missed = true;
            let note = format!("the state file {} could not be read: {error}", self.path.display());
            self.hinder(note.clone());
            return Stored { notes: vec![note], ..Stored::default() };
        }
        self.missed = false;
        let kept = overrides::read(connection).map(|(orders, _)| orders).unwrap_or_default();
        let mut notes = vec![self.set_aside(&error.to_string())];
        notes.extend(self.reopen());
        if let Some(connection) = &self.connection {
            for order in &kept {
                if let Err(error) = overrides::insert(connection, order, Some(order.id)) {
                    notes.push(format!("override {} was lost with the damaged state file: {error}", order.id));
                }
            }
        }
        Stored { overrides: kept, notes, ..Stored::default() }
    }
}

/// Reads every table; with `lenient` one that cannot be read is a note, not an error. With the path of the file many
/// addresses are read over two connections.
pub(super) fn stored(
    connection: &Connection,
    lenient: bool,
    wanted: Candidates,
    path: Option<&Path>,
) -> rusqlite::Result<Stored> {
    // One transaction, so that everything is of one moment.
    let transaction = connection.unchecked_transaction()?;
    let mut notes = Vec::new();
    // Addresses first: they take longest and few small pieces of memory. At a start, what is to last is made beside
    // that, and small pieces that do not last would leave it full of holes.
    let Addresses { mut endpoints, times_chosen, mut strings } = match path.filter(|_| !lenient) {
        Some(path) => addresses::by_halves(connection, path, wanted)?,
        None => addresses::all(connection, lenient, &mut notes, wanted)?,
    };
    if wanted == Candidates::Read || endpoints.iter().any(|record| matches!(record.host, Host::Name(_))) {
        endpoints = in_ranking_order(endpoints);
    }
    let daemon = rows(connection, lenient, &mut notes, DAEMON, daemon)?.pop();
    let names = rows(connection, lenient, &mut notes, NAMES, |row| name(row, &mut strings))?;
    let candidates = match wanted {
        Candidates::Read => rows(connection, lenient, &mut notes, CANDIDATES, |row| candidate(row, &mut strings))?,
        Candidates::Skip => Vec::new(),
    };
    let answers = rows(connection, lenient, &mut notes, ANSWERS, |row| answer(row, &mut strings))?;
    let upstreams = rows(connection, lenient, &mut notes, UPSTREAMS, upstream)?;
    let counters = rows(connection, lenient, &mut notes, "SELECT key, value FROM counter ORDER BY key", |row| {
        Ok(Some((row.get(0)?, count(row, 1)?)))
    })?;
    let (overrides, ignored_overrides) = match overrides::read(connection) {
        Ok(read) => read,
        Err(error) if lenient => {
            notes.push(format!("the overrides could not be read: {error}"));
            Default::default()
        }
        Err(error) => return Err(error),
    };
    transaction.commit()?;
    Ok(Stored {
        daemon,
        names,
        candidates,
        endpoints,
        times_chosen,
        answers,
        overrides,
        ignored_overrides,
        upstreams,
        counters,
        notes,
    })
}

fn rows<T>(
    connection: &Connection,
    lenient: bool,
    notes: &mut Vec<String>,
    sql: &str,
    mut parse: impl FnMut(&Row<'_>) -> rusqlite::Result<Option<T>>,
) -> rusqlite::Result<Vec<T>> {
    let mut read = || {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut parsed = Vec::new();
        while let Some(row) = rows.next()? {
            match parse(row) {
                Ok(row) => parsed.extend(row),
                // A value of the wrong kind is the row's trouble, not the file's.
                Err(error) if error.sqlite_error_code().is_none() => (),
                Err(error) => return Err(error),
            }
        }
        Ok(parsed)
    };
    match read() {
        Err(error) if lenient => {
            notes.push(format!("a part of the state file could not be read: {error}"));
            Ok(Vec::new())
        }
        read => read,
    }
}

/// Texts that many rows share are kept once.
#[derive(Default)]
struct Strings {
    all: HashSet<Arc<str>>,
    /// The last two: a name and the checks of its addresses come in many rows, one after the other.
    last: [Arc<str>; 2],
    /// What went wrong with one address after the other.
    errors: Common<Text>,
}

impl Strings {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(last) = self.last.iter().find(|last| ***last == *text) {
            return Arc::clone(last);
        }
        let shared = match self.all.get(text) {
            Some(known) => Arc::clone(known),
            None => {
                let new: Arc<str> = text.into();
                self.all.insert(Arc::clone(&new));
                new
            }
        };
        self.last.rotate_right(1);
        self.last[0] = Arc::clone(&shared);
        shared
    }

    fn host(&mut self, text: &str) -> Host {
        match IpAddr::from_str(text) {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(self.share(text)),
        }
    }
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a str> {
    Ok(row.get_ref(column)?.as_str()?)
}

fn optional_text<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<Option<&'a str>> {
    Ok(row.get_ref(column)?.as_str_or_null()?)
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Time>> {
    Ok(optional_text(row, column)?.and_then(from_text))
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn small(row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
    Ok(u32::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn list<T: FromStr>(text: &str) -> Vec<T> {
    text.split(' ').filter_map(|part| part.parse().ok()).collect()
}

fn family(text: &str) -> Option<Family> {
    Family::BOTH.into_iter().find(|family| family.record() == text)
}

const DAEMON: &str = "SELECT version, pid, config, listen, started_at, heartbeat_at, stopped_at, note FROM daemon";

fn daemon(row: &Row<'_>) -> rusqlite::Result<Option<DaemonRow>> {
    Ok(Some(DaemonRow {
        version: row.get(0)?,
        pid: small(row, 1)?,
        config: row.get(2)?,
        listen: list(text(row, 3)?),
        started_at: time(row, 4)?.unwrap_or_default(),
        heartbeat_at: time(row, 5)?.unwrap_or_default(),
        stopped_at: time(row, 6)?,
        note: row.get(7)?,
    }))
}

const NAMES: &str = "SELECT name, mode, select_by, ttl_s, interval_ms, queries_a, queries_aaaa, queries_other,
    answers_ranked, answers_stale, answers_empty, answers_servfail, answers_forwarded FROM name ORDER BY position";

fn name(row: &Row<'_>, strings: &mut Strings) -> rusqlite::Result<Option<(NameRow, NameCounters)>> {
    let name = NameRow {
        name: strings.share(text(row, 0)?),
        mode: row.get(1)?,
        select: row.get(2)?,
        ttl_s: small(row, 3)?,
        interval_ms: count(row, 4)?,
    };
    let mut counters = NameCounters::default();
    for (column, counter) in (5..).zip(counters.queries.iter_mut().chain(&mut counters.answers)) {
        *counter = count(row, column)?;
    }
    Ok(Some((name, counters)))
}

const CANDIDATES: &str =
    "SELECT name, host, position, priority, weight, resolved_at, error FROM candidate ORDER BY name, position";

fn candidate(row: &Row<'_>, strings: &mut Strings) -> rusqlite::Result<Option<CandidateRow>> {
    Ok(Some(CandidateRow {
        name: strings.share(text(row, 0)?),
        host: strings.host(text(row, 1)?),
        position: small(row, 2)?,
        priority: small(row, 3)?,
        weight: small(row, 4)?,
        resolved_at: time(row, 5)?,
        error: row.get(6)?,
    }))
}

/// Records by name, family and rank.
///
/// Sorted here since SQLite's sorter would copy each wide row twice; by numbers, since the rows are wide here too.
fn in_ranking_order(records: Vec<EndpointRecord>) -> Vec<EndpointRecord> {
    let mut names: Vec<&str> = records.iter().map(|record| &*record.name).collect();
    names.dedup();
    names.sort_unstable();
    let numbers: HashMap<&str, usize> = names.into_iter().zip(0..).collect();
    let place = |(at, record): (usize, &EndpointRecord)| {
        let family = Family::of(record.address);
        (numbers.get(&*record.name), family, record.rank.is_none(), record.rank, at)
    };
    let mut places: Vec<_> = records.iter().enumerate().map(place).collect();
    // The last part is the place in the file, so that equal ones stay as they are.
    places.sort_unstable();
    let order: Vec<usize> = places.into_iter().map(|(.., at)| at).collect();
    let mut records: Vec<Option<_>> = records.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| records.get_mut(at)?.take()).collect()
}

const ANSWERS: &str =
    "SELECT name, family, addresses, basis, reason, since, last_good FROM answer ORDER BY name, family";

fn answer(row: &Row<'_>, strings: &mut Strings) -> rusqlite::Result<Option<AnswerRecord>> {
    let Some(family) = family(text(row, 1)?) else { return Ok(None) };
    Ok(Some(AnswerRecord {
        name: strings.share(text(row, 0)?),
        family,
        addresses: list(text(row, 2)?).into(),
        basis: row.get(3)?,
        reason: strings.share(text(row, 4)?),
        since: time(row, 5)?.unwrap_or_default(),
        last_good: list(text(row, 6)?).into(),
    }))
}

const UPSTREAMS: &str = "SELECT address, route, usable, note, queries, answers, timeouts, servfail, rtt_ms FROM upstream ORDER BY route, address";

fn upstream(row: &Row<'_>) -> rusqlite::Result<Option<UpstreamRow>> {
    let Ok(address) = text(row, 0)?.parse() else { return Ok(None) };
    Ok(Some(UpstreamRow {
        address,
        route: row.get(1)?,
        usable: row.get(2)?,
        note: row.get(3)?,
        queries: count(row, 4)?,
        answers: count(row, 5)?,
        timeouts: count(row, 6)?,
        servfail: count(row, 7)?,
        rtt_ms: row.get(8)?,
    }))
}
