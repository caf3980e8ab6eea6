//! `har status --watch`: what `har status` shows, kept up to date.
//!
//! On a terminal it is a live table on a screen of its own: the head with what is asked, names in trouble first, the
//! last checks of every address; only rows that changed are drawn. In a pipe each change of an answer, a state or the
//! daemon prints one plain table: ages and latencies alone are no change, or a log of them would be all noise.

mod keys;
mod paint;
mod trail;
mod view;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::status::{self, StatusOptions};
use super::{Ended, Failure};
use crate::health::Time;
use crate::os::output::rest;
use crate::os::terminal::{Screen, Woken};
use crate::store::{Reader, Stored, time};
use keys::{Command, Keys};
use paint::{Canvas, Line, Style};
use trail::{Rates, Trails};
use view::View;

/// Between two looks at the state.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A look that took long (many names) is not repeated before so many times as long have passed.
const LOOK_SHARE: u32 = 5;

/// How far back the first sparklines look.
const PAST: Duration = Duration::from_secs(600);

/// Where the output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A terminal, with colours or without.
    Terminal {
        /// Whether colours are wanted.
        colour: bool,
    },
    /// Anything else.
    Pipe,
}

/// Shows the state file `state` until it is told to stop or the reader of the output goes away.
pub fn run(state: &Path, options: &StatusOptions, output: Output, out: &mut dyn Write) -> Ended {
    match output {
        Output::Terminal { colour } => live(state, options, colour, out),
        Output::Pipe => tables(state, options, out),
    }
}

/// What goes on from look to look.
#[derive(Default)]
struct Memory {
    trails: Trails,
    rates: Rates,
}

/// The lines of one look for one width: a key moves in them and does not make them again.
struct Table {
    columns: usize,
    head: Vec<Line>,
    rows: Vec<Line>,
}

fn live(state: &Path, options: &StatusOptions, colour: bool, out: &mut dyn Write) -> Ended {
    let mut memory = Memory::default();
    // At the first look a wrong name or a missing file is an error as for `har status`, and the screen is left alone.
    let mut seen = look(state, options, &mut memory)?;
    past(state, &seen, &mut memory.trails);
    let mut screen = Screen::take_over()?;
    let (mut canvas, mut keys) = (Canvas::new(colour), Keys::default());
    let mut next = Instant::now() + LOOK_EVERY;
    let (mut top, mut table) = (0, Table::of(&seen, &memory, screen.size().0));
    loop {
        let size = screen.size();
        if table.columns != size.0 {
            table = Table::of(&seen, &memory, size.0);
        }
        let lines = table.frame(&mut top, size);
        out.write_all(canvas.draw(&lines, size).as_bytes())?;
        out.flush()?;
        match screen.wait(next.saturating_duration_since(Instant::now()))? {
            Woken::Stop => return Ok(ExitCode::SUCCESS),
            Woken::Keys(bytes) => {
                for command in keys.read(&bytes) {
                    match command {
                        Command::Quit => return Ok(ExitCode::SUCCESS),
                        Command::Suspend => {
                            screen.suspend()?;
                            canvas.forget();
                        }
                        Command::Move(by) => top = moved(top, by, size.1),
                    }
                }
            }
            Woken::Resized | Woken::Time => {}
        }
        if Instant::now() >= next {
            let began = Instant::now();
            // Opened for each look, as for `har events --follow`.
            seen = look(state, options, &mut memory).or_else(|failure| Ok::<_, Failure>(Seen::Trouble(failure)))?;
            table = Table::of(&seen, &memory, screen.size().0);
            next = Instant::now() + LOOK_EVERY.max(began.elapsed() * LOOK_SHARE);
        }
    }
}

/// What a look found.
enum Seen {
    /// The state, and when it was read.
    State(Box<Stored>, Time),
    /// Why it could not be read.
    Trouble(Failure),
}

fn look(state: &Path, options: &StatusOptions, memory: &mut Memory) -> Result<Seen, Failure> {
    let stored = status::read(state, options.name.as_deref())?;
    let now = time::now();
    memory.trails.look(&stored);
    let total = |keys: &[&str]| -> u64 {
        stored.counters.iter().filter(|(word, _)| keys.contains(&word.as_str())).map(|(_, count)| count).sum()
    };
    memory.rates.look("received", now, total(&["received_udp", "received_tcp"]));
    memory.rates.look("forwarded", now, total(&["forwarded"]));
    let servfail: u64 = stored.names.iter().filter_map(|(_, counters)| counters.answers.get(3)).sum();
    memory.rates.look("servfail", now, servfail);
    Ok(Seen::State(Box::new(stored), now))
}

/// The checks of the last minutes, where single results are kept; without them the sparklines begin empty.
fn past(state: &Path, seen: &Seen, trails: &mut Trails) {
    let Seen::State(stored, now) = seen else { return };
    let from = Time(now.0.saturating_sub(u64::try_from(PAST.as_millis()).unwrap_or_default()));
    let Ok(reader) = Reader::open(state) else { return };
    let Ok(checked) = reader.checked() else { return };
    // What cannot be read is missing in the sparklines, and nowhere else.
    let before = Trails::past(stored, &checked, |visit| drop(reader.each_result(from, visit)));
    *trails = before;
    trails.look(stored);
}

impl Table {
    fn of(seen: &Seen, memory: &Memory, columns: usize) -> Table {
        match seen {
            Seen::State(stored, now) => {
                let (trails, rates) = (&memory.trails, &memory.rates);
                let view = View { stored, trails, rates, now: *now, columns };
                Table { columns, head: view.head(), rows: view.rows() }
            }
            Seen::Trouble(failure) => {
                let head = vec![Line::new(Style::Bad, failure_line(failure)), Line::default()];
                let rows = vec![Line::new(Style::Dim, "It is looked for again every second.")];
                Table { columns, head, rows }
            }
        }
    }

    /// The rows of a window: head, as much of the table as fits, and a bar that says what does not.
    fn frame(&self, top: &mut usize, (columns, rows): (usize, usize)) -> Vec<Line> {
        let (room, total) = (rows.saturating_sub(self.head.len() + 1).max(1), self.rows.len());
        *top = (*top).min(total.saturating_sub(room));
        let mut lines: Vec<Line> = self.head.iter().chain(self.rows.iter().skip(*top).take(room)).cloned().collect();
        // In a window that is lower than the head the bar stays.
        lines.resize(rows.saturating_sub(1), Line::default());
        lines.push(bar(*top, room, total, columns));
        lines
    }
}

fn bar(top: usize, room: usize, total: usize, columns: usize) -> Line {
    let mut words = " q quits".to_owned();
    if total > room {
        let below = total.saturating_sub(top + room);
        words = format!(
            " q quits, arrows and page keys move  lines {}-{} of {total}, {below} more below",
            top + 1,
            (top + room).min(total)
        );
    }
    Line::new(Style::Bar, format!("{words:<columns$}"))
}

fn moved(top: usize, by: keys::Step, rows: usize) -> usize {
    // The head stays; a page is a little less than what is seen.
    let page = rows.saturating_sub(7).max(1);
    match by {
        keys::Step::Up => top.saturating_sub(1),
        keys::Step::Down => top.saturating_add(1),
        keys::Step::PageUp => top.saturating_sub(page),
        keys::Step::PageDown => top.saturating_add(page),
        keys::Step::First => 0,
        keys::Step::Last => usize::MAX,
    }
}

fn tables(state: &Path, options: &StatusOptions, out: &mut dyn Write) -> Ended {
    let mut shown: Option<String> = None;
    loop {
        let (text, substance) = match status::page(state, options) {
            Ok(page) => page,
            Err(failure) if shown.is_none() => return Err(failure),
            Err(failure) => {
                let text = format!("{}\n", failure_line(&failure));
                (text.clone(), text)
            }
        };
        if shown.as_ref() != Some(&substance) {
            let gap = if shown.is_some() { "\n" } else { "" };
            out.write_all(format!("{gap}{}\n{text}", time::to_text(time::now())).as_bytes())?;
        }
        out.flush()?;
        shown = Some(substance);
        rest(std::io::stdout(), LOOK_EVERY)?;
    }
}

fn failure_line(failure: &Failure) -> String {
    match failure {
        Failure::Config(report) => report.to_string(),
        Failure::Usage(line) | Failure::Run(line) => line.clone(),
        Failure::ClosedPipe => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;
    use crate::store::tests::{LONG, complete, start};
    use crate::store::{Batch, Writer};

    #[test]
    fn a_frame_fills_the_window_and_says_what_is_below() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, _) = start(&path);
        writer.send(complete(40));
        assert!(writer.flush(LONG));
        let mut memory = Memory::default();
        let seen = look(&path, &StatusOptions::default(), &mut memory).unwrap();
        let mut top = 0;
        let text = |top: &mut usize, size: (usize, usize)| {
            let lines = Table::of(&seen, &memory, size.0).frame(top, size);
            assert_eq!(lines.len(), size.1, "{lines:?}");
            lines.iter().map(Line::text).collect::<Vec<_>>()
        };
        let first = text(&mut top, (80, 24));
        assert!(first[23].contains("lines 1-19 of 41, 22 more below"), "{first:#?}");
        top = moved(top, keys::Step::Last, 24);
        let last = text(&mut top, (80, 24));
        assert!(last[23].contains("lines 23-41 of 41, 0 more below") && last[22].contains("192.0.2.40"), "{last:#?}");
        let all = text(&mut top, (80, 60));
        assert_eq!(all[59].trim(), "q quits");
        for rows in 1..6 {
            text(&mut top, (10, rows));
        }
        assert!(writer.stop(LONG));
    }

    /// Takes an address down after the first table, and breaks off at the second.
    struct Pipe<'a>(&'a Writer, Vec<String>);

    impl Write for Pipe<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.push(String::from_utf8(bytes.to_vec()).unwrap());
            if self.1.len() == 2 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            let mut endpoint = complete(1).endpoints.remove(0);
            endpoint.state = State::Down;
            self.0.send(Batch { endpoints: vec![endpoint], ..Batch::default() });
            assert!(self.0.flush(LONG));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_gets_a_plain_table_for_each_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.db");
        let (writer, _) = start(&path);
        writer.send(complete(1));
        assert!(writer.flush(LONG));
        let mut pipe = Pipe(&writer, Vec::new());
        assert!(matches!(run(&path, &StatusOptions::default(), Output::Pipe, &mut pipe), Err(Failure::ClosedPipe)));
        assert!(pipe.1[0].contains("h1.example.com  up") && pipe.1[1].contains("h1.example.com  down"), "{:?}", pipe.1);
        assert!(!pipe.1.concat().contains('\x1b'));
        assert!(writer.stop(LONG));
    }
}
