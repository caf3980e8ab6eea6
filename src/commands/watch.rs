//! `har status --watch`: the table of `har status`, again whenever it changes.
//!
//! On a terminal it is redrawn in place every second, cut to the window, whose size is asked for each time. In a pipe
//! each change of an answer, a state or the daemon prints one plain table: ages and latencies alone are
//! no change, or a log of them would be all noise.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::status::{self, StatusOptions};
use super::{Ended, Failure};

/// Between two looks at the state.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The size of a terminal whose size is not to be had.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// Shows the state file `state` until the reader of the output goes away or a signal ends the process.
pub fn run(state: &Path, options: &StatusOptions, terminal: bool, out: &mut dyn Write) -> Ended {
    let mut shown = None;
    loop {
        // Opened for each look, as for `har events --follow`.
        let (text, substance) = match status::page(state, options) {
            Ok(page) => page,
            // At the first look a wrong name or a missing file is an error as for `har status`.
            Err(failure) if shown.is_none() => return Err(failure),
            Err(failure) => {
                let text = format!("{}\n", failure_line(&failure));
                (text.clone(), text)
            }
        };
        if terminal {
            let size = terminal_size::terminal_size().map(|(width, height)| (width.0.into(), height.0.into()));
            out.write_all(frame(&text, size.unwrap_or(USUAL_SIZE), shown.is_none()).as_bytes())?;
        } else if shown.as_ref() != Some(&substance) {
            let gap = if shown.is_some() { "\n" } else { "" };
            let at = crate::store::time::to_text(crate::store::time::now());
            out.write_all(format!("{gap}{at}\n{text}").as_bytes())?;
        }
        out.flush()?;
        shown = Some(substance);
        std::thread::sleep(LOOK_EVERY);
    }
}

fn failure_line(failure: &Failure) -> String {
    match failure {
        Failure::Config(report) => report.to_string(),
        Failure::Usage(line) | Failure::Run(line) => line.clone(),
        Failure::ClosedPipe => String::new(),
    }
}

/// A page for a terminal of (columns, rows): over the last one from the upper left corner, each line cleared to its end, so
/// that nothing flickers.
fn frame(text: &str, (columns, rows): (usize, usize), first: bool) -> String {
    let mut frame = String::from(if first { "\x1b[2J\x1b[H" } else { "\x1b[H" });
    let lines = text.lines().count();
    let room = rows.saturating_sub(1).max(1);
    // The last line says how much does not fit.
    let fit = if lines > room { room - 1 } else { lines };
    for line in text.lines().take(fit) {
        frame.extend(line.chars().filter(|character| !character.is_control()).take(columns));
        frame.push_str("\x1b[K\n");
    }
    if fit < lines {
        frame.extend(format!("… {} more lines", lines - fit).chars().take(columns));
        frame.push_str("\x1b[K\n");
    }
    frame + "\x1b[J"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;
    use crate::store::tests::{LONG, complete, start};
    use crate::store::{Batch, Writer};

    #[test]
    fn a_page_is_cut_to_the_window() {
        let page = "one\ntwo, which is long\nthree\nfour\n";
        assert_eq!(frame(page, (5, 10), false), "\x1b[Hone\x1b[K\ntwo, \x1b[K\nthree\x1b[K\nfour\x1b[K\n\x1b[J");
        let cut = frame(page, (40, 4), true);
        assert_eq!(cut, "\x1b[2J\x1b[Hone\x1b[K\ntwo, which is long\x1b[K\n… 2 more lines\x1b[K\n\x1b[J");
        assert_eq!(
            frame("a\x1bb\n", (40, 4), false),
            "\x1b[Hab\x1b[K\n\x1b[J",
            "nothing of the state steers a terminal"
        );
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
        assert!(matches!(run(&path, &StatusOptions::default(), false, &mut pipe), Err(Failure::ClosedPipe)));
        assert!(pipe.1[0].contains("h1.example.com  up") && pipe.1[1].contains("h1.example.com  down"), "{:?}", pipe.1);
        assert!(!pipe.1.concat().contains('\x1b'));
        assert!(writer.stop(LONG));
    }
}
