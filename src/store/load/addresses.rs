//! Reading the addresses: by far the most rows, and wide ones.
//!
//! What nobody has asked for yet is waited for at a start: then half of them are read over a connection of its own by a
//! thread of its own. Only the daemon writes these tables, so that both see the same.

use std::path::Path;
use std::thread;

use rusqlite::{Connection, OpenFlags, Row};

use super::{Candidates, Strings, count, optional_text, rows, small, text, time};
use crate::health::{EndpointRecord, Host, Outcome, Recorded, State};
use crate::store::batch::EndpointKey;
use crate::store::open;

/// With fewer rows a second connection costs more than it saves.
const WORTH_TWO: i64 = 4000;

/// What there is about addresses.
#[derive(Default)]
pub(super) struct Addresses {
    /// The rows, in their order.
    pub endpoints: Vec<EndpointRecord>,
    /// How often each was chosen that ever was.
    pub times_chosen: Vec<(EndpointKey, u64)>,
    /// Their texts.
    pub strings: Strings,
}

/// Reads all rows; with `lenient` a table that cannot be read is a note, not an error.
pub(super) fn all(
    connection: &Connection,
    lenient: bool,
    notes: &mut Vec<String>,
    wanted: Candidates,
) -> rusqlite::Result<Addresses> {
    read(connection, lenient, notes, wanted, "")
}

/// Reads all rows, if they are many the second half from the file at `path`.
pub(super) fn by_halves(connection: &Connection, path: &Path, wanted: Candidates) -> rusqlite::Result<Addresses> {
    let read_here = |rows: &str| read(connection, false, &mut Vec::new(), wanted, rows);
    let Some(middle) = middle(connection)? else { return read_here("") };
    let (lower, upper) = (format!("WHERE id <= {middle}"), format!("WHERE id > {middle}"));
    let mut beside = None;
    let mut addresses = thread::scope(|scope| {
        let read_beside = || beside = read_apart(path, wanted, &upper).ok();
        // Without a thread it is read afterwards.
        let _ = thread::Builder::new().name("har-load".to_owned()).spawn_scoped(scope, read_beside);
        read_here(&lower)
    })?;
    let more = match beside {
        Some(more) => more,
        // Whatever is wrong, this connection tells.
        None => read_here(&upper)?,
    };
    addresses.endpoints.extend(more.endpoints);
    addresses.times_chosen.extend(more.times_chosen);
    Ok(addresses)
}

/// The row at which to part the table, if that is worth it.
fn middle(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let end = |sql| connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
    let (first, last) = (end("SELECT min(id) FROM address")?, end("SELECT max(id) FROM address")?);
    let ends = first.zip(last).filter(|(first, last)| last.saturating_sub(*first) >= WORTH_TWO);
    Ok(ends.map(|(first, last)| i64::midpoint(first, last)))
}

/// Reads some of the rows over a connection of its own.
fn read_apart(path: &Path, wanted: Candidates, rows: &str) -> rusqlite::Result<Addresses> {
    let connection = open::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    read(&connection, false, &mut Vec::new(), wanted, rows)
}

fn read(
    connection: &Connection,
    lenient: bool,
    notes: &mut Vec<String>,
    wanted: Candidates,
    which: &str,
) -> rusqlite::Result<Addresses> {
    let (mut strings, mut times_chosen) = (Strings::default(), Vec::new());
    let endpoints = rows(connection, lenient, notes, &format!("{ADDRESSES} {which}"), |row| {
        let Some(record) = address(row, wanted, &mut strings)? else { return Ok(None) };
        let times = count(row, 24)?;
        if times > 0 {
            times_chosen.push((EndpointKey::of(&record), times));
        }
        Ok(Some(record))
    })?;
    Ok(Addresses { endpoints, times_chosen, strings })
}

const ADDRESSES: &str = "SELECT name, host, address, checks_defined, state, since, successes, failures, window,
    window_len, latency_ms, deviation_ms, connect_ms, first_byte_ms, total_ms, last_check, last_outcome, last_error,
    interval_ms, stale, resolved_at, rank, chosen, standing, times_chosen, ok, timeout, connect_error, tls_error,
    response_error, other_error, local_error, drained, forced, keeps_place, over_limit, reported_priority,
    certificate_days FROM address";

fn address(row: &Row<'_>, wanted: Candidates, strings: &mut Strings) -> rusqlite::Result<Option<EndpointRecord>> {
    let (host, found) = (text(row, 1)?, text(row, 2)?);
    let (Ok(address), Some(state)) = (found.parse(), State::from_word(text(row, 4)?)) else {
        return Ok(None);
    };
    // Mostly a candidate is its own address.
    let host = if host == found { Host::Address(address) } else { strings.host(host) };
    let mut counts = [0; Outcome::ALL.len()];
    for (column, counter) in (25..).zip(&mut counts) {
        *counter = count(row, column)?;
    }
    Ok(Some(EndpointRecord {
        name: strings.share(text(row, 0)?),
        host,
        address,
        definition: strings.share(text(row, 3)?),
        state,
        since: time(row, 5)?.unwrap_or_default(),
        successes: small(row, 6)?,
        failures: small(row, 7)?,
        window: small(row, 8)?,
        window_len: small(row, 9)?,
        latency_ms: row.get(10)?,
        deviation_ms: row.get(11)?,
        connect_ms: row.get(12)?,
        first_byte_ms: row.get(13)?,
        total_ms: row.get(14)?,
        last_check: time(row, 15)?,
        last_outcome: optional_text(row, 16)?.and_then(Outcome::from_word),
        last_error: optional_text(row, 17)?.map(|text| strings.errors.share(text)),
        interval_ms: count(row, 18)?,
        stale: row.get(19)?,
        resolved_at: time(row, 20)?,
        rank: row.get::<_, Option<i64>>(21)?.and_then(|rank| u32::try_from(rank).ok()),
        chosen: row.get(22)?,
        standing: Recorded::Read(if wanted == Candidates::Read { row.get(23)? } else { String::new() }),
        counts,
        drained: row.get(32)?,
        forced: row.get(33)?,
        keeps_place: row.get(34)?,
        over_limit: row.get(35)?,
        reported_priority: row.get::<_, Option<i64>>(36)?.map(|priority| u32::try_from(priority).ok()),
        certificate_days: row.get(37)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    /// A state file with this many addresses, of which the last one was chosen.
    fn filled(path: &Path, count: i64) -> Connection {
        drop(Store::open(path).unwrap());
        let connection = Connection::open(path).unwrap();
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
            INSERT INTO endpoint (id, name, host, address, family, checks_defined, state, since, successes, failures,
                window, window_len, interval_ms, stale, chosen, standing, forced, keeps_place, over_limit, ok, timeout, connect_error, tls_error, response_error, other_error, local_error)
            SELECT i, 'n' || (i / 5), '10.0.' || (i / 250) || '.' || (i % 250),
                '10.0.' || (i / 250) || '.' || (i % 250), 'A',
                'tcp:9', 'up', '2026-01-01T00:00:00.000Z', i, 0, 1, 1, 1000, 0, 0, '', 0, 0, 0,
                1, 0, 0, 0, 0, 0, 0 FROM n";
        connection.execute(rows, [count]).unwrap();
        connection.execute("INSERT INTO given (endpoint_id, times_chosen) VALUES (?1, 1)", [count]).unwrap();
        connection
    }

    fn same(one: &Addresses, other: &Addresses) -> bool {
        one.endpoints == other.endpoints && one.times_chosen == other.times_chosen
    }

    #[test]
    fn two_connections_read_what_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let connection = filled(&path, WORTH_TWO + 2);
        let one = all(&connection, false, &mut Vec::new(), Candidates::Skip).unwrap();
        assert_eq!((one.endpoints.len() as i64, one.times_chosen.len()), (WORTH_TWO + 2, 1));
        assert_eq!(middle(&connection).unwrap(), Some(WORTH_TWO / 2 + 1));
        assert!(same(&by_halves(&connection, &path, Candidates::Skip).unwrap(), &one));
        let apart = read_apart(&path, Candidates::Skip, "WHERE id > 4000").unwrap();
        assert_eq!(apart.endpoints, one.endpoints[4000..]);
        let nowhere = folder.path().join("gone.db");
        assert!(same(&by_halves(&connection, &nowhere, Candidates::Skip).unwrap(), &one), "the first reads all, then");
    }

    #[test]
    fn few_rows_are_read_over_one_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let connection = filled(&path, WORTH_TWO);
        assert_eq!(middle(&connection).unwrap(), None);
        assert_eq!(by_halves(&connection, &path, Candidates::Skip).unwrap().endpoints.len() as i64, WORTH_TWO);
    }
}
