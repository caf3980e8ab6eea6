//! `har events`: what happened, a line each; with `--follow` as it happens.
//!
//! The lines come from the `event` table, so that they are the same as those of an hour ago. Following looks twice
//! a second and ends when the reader of the output goes away.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::subject::Known;
use super::{Ended, Failure, subject};
use crate::os::output::rest;
use crate::store::{EventRow, ReadError, Reader};

/// Between two looks at the table.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What `har events` was asked for.
#[derive(Clone, Debug)]
pub struct EventsOptions {
    /// Only of this name.
    pub name: Option<String>,
    /// The last so many.
    pub limit: u32,
    /// Go on with what happens.
    pub follow: bool,
    /// A JSON object a line.
    pub json: bool,
}

/// Shows the events of the state file `state`.
pub fn run(state: &Path, options: &EventsOptions, out: &mut dyn Write) -> Ended {
    let failure = |error: ReadError| Failure::Run(error.to_string());
    let reader = Reader::open(state).map_err(failure)?;
    let name = options.name.as_deref().map(|name| meant(&reader, name)).transpose()?;
    // Before the rows, so that none falls in between; with none of them shown, it goes on from here.
    let mut last = newest(&reader).map_err(failure)?;
    let mut rows = reader.events(0, options.limit, name.as_deref()).map_err(failure)?;
    drop(reader);
    loop {
        for row in &rows {
            last = row.id;
            writeln!(out, "{}", if options.json { json(row) } else { line(row) })?;
        }
        out.flush()?;
        if !options.follow {
            return Ok(ExitCode::SUCCESS);
        }
        rest(std::io::stdout(), LOOK_EVERY)?;
        // Opened for each look: an open reader would keep a stopping har from leaving a plain file, and would
        // not see a file that took this one's place. While there is none, the wait goes on.
        rows = Reader::open(state).and_then(|reader| since(&reader, last, name.as_deref())).unwrap_or_default();
    }
}

/// The name whose events are asked for: one that has some, though it may have left the configuration, or the configured
/// one that answers for it.
fn meant(reader: &Reader, name: &str) -> Result<String, Failure> {
    let failure = |error: ReadError| Failure::Run(error.to_string());
    let spelled = subject::spelling(name);
    if !reader.events(0, 1, Some(&spelled)).map_err(failure)?.is_empty() {
        return Ok(spelled);
    }
    Known::of_state(&reader.load().map_err(failure)?).answering(name)
}

/// The number of the last event of all.
fn newest(reader: &Reader) -> Result<i64, ReadError> {
    Ok(reader.events(0, 1, None)?.first().map_or(0, |row| row.id))
}

/// The events after `last`; all of them when the file was begun anew since.
fn since(reader: &Reader, last: i64, name: Option<&str>) -> Result<Vec<EventRow>, ReadError> {
    reader.events(if newest(reader)? < last { 0 } else { last }, u32::MAX, name)
}

/// `TIME kind name family host address: before → after (12.5 ms → 8.3 ms): reason`
fn line(row: &EventRow) -> String {
    let mut line = format!("{} {}", row.at, row.kind);
    for part in [&row.name, &row.family, &row.host, &row.address].into_iter().flatten() {
        line.push(' ');
        line.push_str(part);
    }
    let or_none = |side: &Option<String>| side.clone().filter(|text| !text.is_empty()).unwrap_or("none".to_owned());
    if row.before.is_some() || row.after.is_some() {
        line.push_str(&format!(": {} → {}", or_none(&row.before), or_none(&row.after)));
    }
    if row.before_ms.is_some() || row.after_ms.is_some() {
        let ms = |latency: Option<f64>| latency.map_or("unknown".to_owned(), |latency| format!("{latency:.1} ms"));
        line.push_str(&format!(" ({} → {})", ms(row.before_ms), ms(row.after_ms)));
    }
    line + ": " + &row.reason
}

fn json(row: &EventRow) -> String {
    // Nothing in it can fail to be written: text and numbers.
    serde_json::to_string(row).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Time;
    use crate::store::tests::{LONG, complete, daemon, event, name_row, start};
    use crate::store::{Batch, Writer};

    /// Sends another event for each line that was read, and breaks off at the third.
    struct Pipe<'a>(&'a Writer, u32);

    impl Write for Pipe<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1 += bytes.iter().filter(|&&byte| byte == b'\n').count() as u32;
            if self.1 > 2 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            if bytes.contains(&b'\n') {
                self.0.send(Batch { events: complete(1).events, ..Batch::default() });
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_name_is_known_by_its_events_or_its_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, _) = start(&path);
        let of = |name: &str| {
            let options = EventsOptions { name: Some(name.to_owned()), limit: 10, follow: false, json: false };
            let mut out = Vec::new();
            run(&path, &options, &mut out).map(|_| String::from_utf8(out).unwrap().lines().count())
        };
        let mut quiet = complete(1);
        let events = std::mem::take(&mut quiet.events);
        writer.send(quiet.clone());
        assert!(writer.flush(LONG));
        assert_eq!(of("api.example.com").unwrap(), 0, "configured, and nothing happened");
        // It happened, and then the name left the configuration.
        writer.send(Batch { events, ..Batch::default() });
        assert!(writer.flush(LONG));
        writer.send(Batch { complete: true, daemon: quiet.daemon, ..Batch::default() });
        assert!(writer.flush(LONG));
        assert!(Reader::open(&path).unwrap().load().unwrap().names.is_empty());
        assert!(of("api.example.com").unwrap() > 0);
        // What a wildcard covers has its events.
        let mut covered = event(Time(1_795_243_500_123), "news");
        covered.name = Some("*.apps.example".into());
        let daemon = Some(daemon());
        let names = vec![name_row("*.apps.example")];
        writer.send(Batch { complete: true, daemon, names, events: vec![covered], ..Batch::default() });
        assert!(writer.flush(LONG));
        assert_eq!(of("x.apps.example").unwrap(), 1);
        let slip = of("*.apbs.example");
        assert!(
            matches!(&slip, Err(Failure::Usage(line)) if line.contains("did you mean '*.apps.example'?")),
            "{slip:?}"
        );
        assert!(writer.stop(LONG));
    }

    #[test]
    fn events_are_shown_and_followed_until_the_pipe_closes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, _) = start(&path);
        writer.send(complete(1));
        assert!(writer.flush(LONG));
        let mut options =
            EventsOptions { name: Some("api.example.com".to_owned()), limit: 10, follow: false, json: false };
        let mut out = Vec::new();
        assert_eq!(run(&path, &options, &mut out).unwrap(), ExitCode::SUCCESS);
        let text = String::from_utf8(out).unwrap();
        let wanted = "answer api.example.com A: 192.0.2.2 → 192.0.2.1 (12.5 ms → 8.2 ms): 12.5 ms → 8.25 ms\n";
        assert!(text.ends_with(wanted), "{text}");
        for follow in [false, true] {
            let wrong = EventsOptions { name: Some("apj.example.com".to_owned()), follow, ..options.clone() };
            let ended = run(&path, &wrong, &mut Vec::new());
            assert!(matches!(&ended, Err(Failure::Usage(line)) if line.contains("'apj.example.com'")), "{ended:?}");
        }
        options.follow = true;
        assert!(matches!(run(&path, &options, &mut Pipe(&writer, 0)), Err(Failure::ClosedPipe)));
        assert!(writer.stop(LONG));
    }

    /// Sends an event when all that there was is out, and breaks off at the first line after that.
    struct Later<'a>(&'a Writer, String);

    impl Write for Later<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.push_str(std::str::from_utf8(bytes).unwrap());
            if self.1.contains("news") { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            let mut events = complete(1).events;
            events.truncate(1);
            events[0].reason = "news".to_owned().into();
            self.0.send(Batch { events, ..Batch::default() });
            assert!(self.0.flush(LONG));
            Ok(())
        }
    }

    #[test]
    fn without_earlier_events_only_what_happens_from_now_on_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, _) = start(&path);
        writer.send(complete(3));
        assert!(writer.flush(LONG));
        let options = EventsOptions { name: None, limit: 0, follow: true, json: false };
        let mut out = Later(&writer, String::new());
        assert!(matches!(run(&path, &options, &mut out), Err(Failure::ClosedPipe)));
        assert_eq!(out.1.lines().count(), 1, "{}", out.1);
        assert!(writer.stop(LONG));
    }
}
