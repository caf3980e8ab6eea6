//! One transaction for what waits: each changed row once.
//!
//! Nothing here remembers anything that a rolled-back transaction could make wrong: the writer forgets
//! [`Targets`] when a transaction fails.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use rusqlite::{Connection, OptionalExtension, Statement, ToSql, params};

use super::base::Base;
use super::batch::{DaemonRow, EndpointKey, Pending, ResultRow};
use super::repair::Trouble;
use super::time::to_text;
use crate::health::{AnswerRecord, EndpointRecord, Event, Family, Host, Outcome, Time};
use crate::os;

/// Targets whose ids are remembered at most; beyond, they are looked up again.
const TARGETS_MAX: usize = 100_000;

/// The ids of `check_target`, and when each was last stamped (in slots).
///
/// There may be 50,000, so that each is known by a keyed hash of its address, candidate and definition and not by these:
/// that any two of so many share one is a matter of once in ten thousand million processes.
#[derive(Default)]
pub(super) struct Targets {
    hash: RandomState,
    known: HashMap<u64, Known>,
}

/// A target that is in the file. What is too large for it, which no file comes to, is looked up again.
struct Known {
    id: u32,
    stamped: u32,
}

impl Targets {
    /// After a failed transaction: ids given out in it are void.
    pub fn clear(&mut self) {
        self.known = HashMap::new();
    }

    fn id(&mut self, connection: &Connection, row: &ResultRow) -> rusqlite::Result<i64> {
        let slot = super::summary::slot_of(row.at);
        let key = self.hash.hash_one((row.address, &row.host, &row.definition));
        if let Some(known) = self.known.get(&key)
            && slot <= i64::from(known.stamped)
        {
            return Ok(known.id.into());
        }
        let id = connection
            .prepare_cached(
                "INSERT INTO check_target (host, address, definition, last_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET last_at = excluded.last_at RETURNING id",
            )?
            .query_row(
                params![row.host.to_string(), row.address.to_string(), row.definition, to_text(row.at)],
                |row| row.get(0),
            )?;
        if self.known.len() >= TARGETS_MAX {
            self.known.clear();
        }
        if let (Ok(id), Ok(stamped)) = (u32::try_from(id), u32::try_from(slot)) {
            self.known.insert(key, Known { id, stamped });
        }
        Ok(id)
    }
}

/// What a transaction leaves to be done once it is committed.
#[derive(Default)]
pub(super) struct Saved {
    /// Target, time, outcome and microseconds of each result, to be summed up.
    pub fresh: Vec<(i64, Time, Outcome, i64)>,
    /// Rows that SQLite refused, and why it refused the first.
    pub refused: u64,
    pub refusal: Option<String>,
}

impl Saved {
    /// Goes on after a row that SQLite will never take (a broken rule of its table, too big): tried again with
    /// the rest, it would keep everything else out of the file for good.
    fn pass<T>(&mut self, table: &str, result: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if Trouble::of(&error) == Trouble::Refused => {
                self.refused += 1;
                self.refusal.get_or_insert_with(|| format!("a row of the table {table}: {error}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Rows in the order of their keys, which is theirs in the file.
fn in_order<K: Ord, V>(rows: &HashMap<K, V>) -> Vec<(&K, &V)> {
    let mut all: Vec<(&K, &V)> = rows.iter().collect();
    all.sort_unstable_by_key(|(key, _)| *key);
    all
}

/// Writes everything in `pending` within the transaction that is open. Counters are those of this process and
/// `base` together.
///
/// Most statements are prepared whether or not this batch needs them, so that the first one does it: what reads SQL is a
/// large part of the program, and leaves the memory with what else only the start needed.
pub(super) fn save(
    connection: &Connection,
    pending: &Pending,
    base: &Base,
    targets: &mut Targets,
    keep_results: bool,
) -> rusqlite::Result<Saved> {
    let mut saved = Saved::default();
    if pending.complete {
        sweep(connection, pending)?;
    }
    if let Some(row) = &pending.daemon {
        saved.pass("daemon", daemon(connection, row))?;
    }
    names(connection, pending, &mut saved)?;
    name_counters(connection, pending, base)?;
    candidates(connection, pending, &mut saved)?;
    endpoints(connection, pending, base, &mut saved)?;
    for (_, row) in in_order(&pending.answers) {
        saved.pass("answer", answer(connection, row))?;
    }
    upstreams(connection, pending, base, &mut saved)?;
    results(connection, pending, targets, keep_results, &mut saved)?;
    for event in &pending.events {
        saved.pass("event", self::event(connection, event))?;
    }
    given(connection, pending, base)?;
    counters(connection, pending, base, &saved)?;
    Ok(saved)
}

/// Before a complete batch: what it does not name leaves. Kept rows keep their counters.
fn sweep(connection: &Connection, pending: &Pending) -> rusqlite::Result<()> {
    let host = |text: &str| match text.parse() {
        Ok(address) => Host::Address(address),
        Err(_) => Host::Name(text.into()),
    };
    drop_others(connection, "name", ["name"], |[name]| pending.names.contains_key(name))?;
    drop_others(connection, "candidate", ["name", "host"], |[name, of]| {
        pending.candidates.contains_key(&(name.into(), host(of)))
    })?;
    drop_others(connection, "endpoint", ["name", "host", "address"], |[name, of, address]| {
        let key = address.parse().map(|address| EndpointKey { name: name.into(), host: host(of), address });
        key.is_ok_and(|key| pending.endpoints.get(&key).is_some_and(Option::is_some))
    })?;
    drop_others(connection, "answer", ["name", "family"], |[name, record]| {
        let family = Family::BOTH.into_iter().find(|family| family.record() == record);
        family.is_some_and(|family| pending.answers.contains_key(&(name.into(), family)))
    })?;
    drop_others(connection, "upstream", ["address", "route"], |[address, route]| {
        address.parse().is_ok_and(|address| pending.upstreams.contains_key(&(address, route.to_owned())))
    })
}

/// Deletes the rows of a table whose key does not pass. The keys that stay are not handed to SQLite: a table of fifty
/// thousand of them would keep its memory until the file is closed.
fn drop_others<const N: usize>(
    connection: &Connection,
    table: &str,
    key: [&str; N],
    keep: impl Fn([&str; N]) -> bool,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("SELECT {} FROM {table}", key.join(", ")))?;
    let mut rows = statement.query([])?;
    let mut gone: Vec<[String; N]> = Vec::new();
    'rows: while let Some(row) = rows.next()? {
        let mut values = [""; N];
        for (column, value) in values.iter_mut().enumerate() {
            // Somebody else's: a row that is no text is none that this daemon could name, or read.
            let Ok(text) = row.get_ref(column)?.as_str() else { continue 'rows };
            *value = text;
        }
        if !keep(values) {
            gone.push(values.map(str::to_owned));
        }
    }
    let condition = key.map(|column| format!("{column} = ?")).join(" AND ");
    let mut delete = connection.prepare(&format!("DELETE FROM {table} WHERE {condition}"))?;
    for key in &gone {
        delete.execute(rusqlite::params_from_iter(key))?;
    }
    Ok(())
}

fn daemon(connection: &Connection, row: &DaemonRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO daemon (id, version, pid, config, listen, started_at, heartbeat_at, stopped_at, note)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            row.version,
            row.pid,
            row.config,
            joined(&row.listen),
            to_text(row.started_at),
            to_text(row.heartbeat_at),
            row.stopped_at.map(to_text),
            row.note
        ])?;
    Ok(())
}

fn names(connection: &Connection, pending: &Pending, saved: &mut Saved) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO name (name, position, mode, select_by, ttl_s, interval_ms)
         VALUES (?1, coalesce(?2, (SELECT coalesce(max(position) + 1, 0) FROM name)), ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET position = coalesce(?2, position), mode = ?3, select_by = ?4, ttl_s = ?5,
             interval_ms = ?6",
    )?;
    for (_, (position, row)) in in_order(&pending.names) {
        let position = position.map(|position| position as i64);
        let values = params![row.name, position, row.mode, row.select, row.ttl_s, row.interval_ms as i64];
        saved.pass("name", statement.execute(values))?;
    }
    Ok(())
}

fn name_counters(connection: &Connection, pending: &Pending, base: &Base) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "UPDATE name SET queries_a = ?2, queries_aaaa = ?3, queries_other = ?4, answers_ranked = ?5,
             answers_stale = ?6, answers_empty = ?7, answers_servfail = ?8, answers_forwarded = ?9 WHERE name = ?1",
    )?;
    for (row, (name, counted)) in pending.name_counters.in_order().into_iter().enumerate() {
        os::breathe(row);
        let counted = base.name(name, counted);
        let [a, aaaa, other] = counted.queries.map(|count| count as i64);
        let [ranked, stale, empty, servfail, forwarded] = counted.answers.map(|count| count as i64);
        statement.execute(params![name, a, aaaa, other, ranked, stale, empty, servfail, forwarded])?;
    }
    Ok(())
}

fn candidates(connection: &Connection, pending: &Pending, saved: &mut Saved) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO candidate (name, host, position, priority, weight, resolved_at, error)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (_, row) in in_order(&pending.candidates) {
        let done = statement.execute(params![
            row.name,
            row.host.to_string(),
            row.position,
            row.priority,
            row.weight,
            row.resolved_at.map(to_text),
            row.error
        ]);
        saved.pass("candidate", done)?;
    }
    Ok(())
}

/// In the column of a reported priority: the check said that the address is not to be used.
const NOT_TO_BE_USED: i64 = -1;

/// An address that has no row yet.
const INSERT_ENDPOINT: &str =
    "INSERT INTO endpoint (name, host, address, family, checks_defined, state, since, successes, failures, window,
         window_len, latency_ms, deviation_ms, connect_ms, first_byte_ms, total_ms, last_check, last_outcome,
         last_error, interval_ms, stale, resolved_at, rank, chosen, standing,
         ok, timeout, connect_error, tls_error, response_error, other_error, local_error,
         drained, forced, keeps_place, over_limit, reported_priority, certificate_days)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
         ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35, ?36, ?37, ?38)";

/// The row of an address, by the same numbers.
const UPDATE_ENDPOINT: &str =
    "UPDATE endpoint SET checks_defined = ?5, state = ?6, since = ?7, successes = ?8, failures = ?9,
         window = ?10, window_len = ?11, latency_ms = ?12, deviation_ms = ?13, connect_ms = ?14,
         first_byte_ms = ?15, total_ms = ?16, last_check = ?17, last_outcome = ?18, last_error = ?19,
         interval_ms = ?20, stale = ?21, resolved_at = ?22, rank = ?23, chosen = ?24, standing = ?25, ok = ?26,
         timeout = ?27, connect_error = ?28, tls_error = ?29, response_error = ?30, other_error = ?31,
         local_error = ?32, drained = ?33, forced = ?34, keeps_place = ?35, over_limit = ?36,
         reported_priority = ?37, certificate_days = ?38
     WHERE name = ?1 AND host = ?2 AND address = ?3";

fn endpoints(connection: &Connection, pending: &Pending, base: &Base, saved: &mut Saved) -> rusqlite::Result<()> {
    // Two statements, since one that does both costs as much again for a row that is there, and mostly it is.
    let mut update = connection.prepare_cached(UPDATE_ENDPOINT)?;
    let mut insert = connection.prepare_cached(INSERT_ENDPOINT)?;
    let mut remove =
        connection.prepare_cached("DELETE FROM endpoint WHERE name = ?1 AND host = ?2 AND address = ?3")?;
    for (row, (key, record)) in in_order(&pending.endpoints).into_iter().enumerate() {
        os::breathe(row);
        match record {
            Some(record) => {
                let done = with_endpoint(record, base, |values| match update.execute(values)? {
                    0 => insert.execute(values),
                    changed => Ok(changed),
                });
                saved.pass("address", done)?;
            }
            None => drop(remove.execute(params![key.name, key.host.to_string(), key.address.to_string()])?),
        }
    }
    Ok(())
}

/// Does something with the values of an address, in the order of [`INSERT_ENDPOINT`].
fn with_endpoint<T>(record: &EndpointRecord, base: &Base, run: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
    let counts = base.outcomes(record).map(|count| count as i64);
    run(params![
        record.name,
        record.host.to_string(),
        record.address.to_string(),
        Family::of(record.address).record(),
        record.definition,
        record.state.as_str(),
        to_text(record.since),
        record.successes,
        record.failures,
        record.window,
        record.window_len,
        record.latency_ms,
        record.deviation_ms,
        record.connect_ms,
        record.first_byte_ms,
        record.total_ms,
        record.last_check.map(to_text),
        record.last_outcome.map(Outcome::as_str),
        record.last_error.as_deref(),
        record.interval_ms as i64,
        record.stale,
        record.resolved_at.map(to_text),
        record.rank,
        record.chosen,
        record.words(),
        counts[0],
        counts[1],
        counts[2],
        counts[3],
        counts[4],
        counts[5],
        counts[6],
        record.drained,
        record.forced,
        record.keeps_place,
        record.over_limit,
        record.reported_priority.map(|priority| priority.map_or(NOT_TO_BE_USED, i64::from)),
        record.certificate_days,
    ])
}

fn answer(connection: &Connection, row: &AnswerRecord) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO answer (name, family, addresses, basis, reason, since, last_good)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            row.name,
            row.family.record(),
            joined(&row.addresses),
            row.basis,
            row.reason,
            to_text(row.since),
            joined(&row.last_good)
        ])?;
    Ok(())
}

fn counters(connection: &Connection, pending: &Pending, base: &Base, saved: &Saved) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO counter (key, value) VALUES (?1, ?2)")?;
    for (key, value) in &pending.counters {
        statement.execute(params![key, base.counter(key, *value) as i64])?;
    }
    let dropped = [
        ("results_not_stored", pending.dropped[0]),
        ("events_not_stored", pending.dropped[1]),
        ("rows_refused", saved.refused),
    ];
    let mut statement = connection.prepare_cached(
        "INSERT INTO counter (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = value + excluded.value",
    )?;
    for (key, count) in dropped.into_iter().filter(|&(_, count)| count > 0) {
        statement.execute(params![key, count as i64])?;
    }
    Ok(())
}

/// How often addresses were given. Two statements of one row each: one that does both, or that replaces, keeps a copy of
/// the page that it changes, for each of what may be ten thousand rows.
fn given(connection: &Connection, pending: &Pending, base: &Base) -> rusqlite::Result<()> {
    let mut find =
        connection.prepare_cached("SELECT id FROM endpoint WHERE name = ?1 AND host = ?2 AND address = ?3")?;
    let mut put = connection.prepare_cached(
        "INSERT INTO given (endpoint_id, times_chosen) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET times_chosen = excluded.times_chosen",
    )?;
    for (row, (key, times)) in pending.times_chosen.in_order().into_iter().enumerate() {
        os::breathe(row);
        let address = key.address.to_string();
        let host = match &key.host {
            Host::Address(same) if *same == key.address => Cow::Borrowed(&address),
            other => Cow::Owned(other.to_string()),
        };
        let id: Option<i64> = find.query_row(params![key.name, *host, address], |row| row.get(0)).optional()?;
        // An address whose row has yet to be written: it is said again afterwards.
        if let Some(id) = id {
            put.execute(params![id, base.times_chosen(key, *times) as i64])?;
        }
    }
    Ok(())
}

fn upstreams(connection: &Connection, pending: &Pending, base: &Base, saved: &mut Saved) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO upstream (address, route, usable, note, queries, answers, timeouts, servfail, rtt_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for row in pending.upstreams.values() {
        let counts = base.upstream(row).map(|count| count as i64);
        let done = statement.execute(params![
            row.address.to_string(),
            row.route,
            row.usable,
            row.note,
            counts[0],
            counts[1],
            counts[2],
            counts[3],
            row.rtt_ms
        ]);
        saved.pass("upstream", done)?;
    }
    Ok(())
}

fn results(
    connection: &Connection,
    pending: &Pending,
    targets: &mut Targets,
    keep: bool,
    saved: &mut Saved,
) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT INTO check_result (target_id, at_unix_ms, outcome_code, status, connect_us, first_byte_us, total_us,
             certificate_days, error)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for row in &pending.results {
        let Some(id) = saved.pass("check_target", targets.id(connection, row))? else { continue };
        let total_us = micros(Some(row.result.total)).unwrap_or(0);
        saved.fresh.push((id, row.at, row.result.outcome, total_us));
        if keep {
            saved.pass("check_result", result(&mut put, id, total_us, row))?;
        }
    }
    Ok(())
}

fn result(put: &mut Statement<'_>, target: i64, total_us: i64, row: &ResultRow) -> rusqlite::Result<usize> {
    let code = Outcome::ALL.iter().position(|&outcome| outcome == row.result.outcome).unwrap_or(Outcome::ALL.len() - 1);
    put.execute(params![
        target,
        row.at.0 as i64,
        code as i64,
        row.result.status,
        micros(row.result.connect),
        micros(row.result.first_byte),
        total_us,
        row.result.certificate_days,
        row.result.error.as_deref()
    ])
}

fn event(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO event (at, kind, name, family, host, address, before, after, before_ms, after_ms, reason)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            to_text(event.at),
            event.kind.as_str(),
            event.name,
            event.family.map(Family::record),
            event.host.as_ref().map(Host::to_string),
            event.address.map(|address| address.to_string()),
            event.before,
            event.after,
            event.before_ms,
            event.after_ms,
            event.reason
        ])?;
    Ok(())
}

fn micros(duration: Option<std::time::Duration>) -> Option<i64> {
    duration.map(|duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

fn joined<T: ToString>(parts: &[T]) -> String {
    parts.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}
