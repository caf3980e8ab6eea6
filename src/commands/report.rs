//! `har report`: one page that shows what was answered, from which address, how fast and why, over a stretch of time.
//!
//! The page is a single file without scripts and without anything from elsewhere. `collect` decides from the rows of
//! the state file what is shown, `measured` adds the recorded checks, `page` and `plot` write it down; all but
//! the reading and the writing of files is pure.

mod bands;
mod collect;
mod data;
mod markup;
mod measured;
mod output;
mod page;
mod plot;
mod sampling;
mod scale;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Ended, Failure};
use crate::store::{ReadError, Reader, time};
use collect::{Rows, Wanted};

/// What `har report` was asked for.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// Only these names; empty = those with trouble or changes first, up to `limit`.
    pub names: Vec<String>,
    /// How far back.
    pub since: Duration,
    /// Names that are shown at most.
    pub limit: usize,
    /// Where to write; `-` = standard output.
    pub output: PathBuf,
    /// Whether the configuration keeps single results.
    pub has_history: bool,
}

/// Makes the page of the state file `state`.
pub fn run(state: &Path, options: &ReportOptions, host: String, out: &mut dyn Write) -> Ended {
    let text = text(state, options, host)?;
    if options.output == Path::new("-") {
        out.write_all(text.as_bytes())?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    let shown = options.output.display();
    output::write(&options.output, &text).map_err(|error| Failure::Run(format!("cannot write {shown}: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

fn text(state: &Path, options: &ReportOptions, host: String) -> Result<String, Failure> {
    let failure = |error: ReadError| Failure::Run(error.to_string());
    let reader = Reader::open(state).map_err(failure)?;
    let stored = reader.load().map_err(failure)?;
    let events = reader.events(0, u32::MAX, None).map_err(failure)?;
    let now = time::now();
    let (result, sum) = reader.first_records(now).map_err(failure)?;
    let event = events.first().and_then(|event| time::from_text(&event.at));
    let rows = Rows {
        stored: &stored,
        events: &events,
        first_record: [result, sum, event].into_iter().flatten().min(),
        has_history: options.has_history,
    };
    let wanted = Wanted { names: &options.names, since: options.since, limit: options.limit };
    let mut report = collect::report(&rows, &wanted, host, now).map_err(Failure::Usage)?;
    measured::fill(&mut report, &reader, &stored).map_err(failure)?;
    Ok(page::page(&report))
}

#[cfg(test)]
mod tests;
