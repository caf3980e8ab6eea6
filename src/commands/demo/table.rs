//! What the demo shows: a table drawn over and over on a terminal, a line for each change in a pipe.
//!
//! Made from rows and times alone, so that every line can be tested.

use std::io::{Result, Write};
use std::time::Duration;

/// Longest error text in the table; the state file has all of it.
const ERROR_WIDTH: usize = 40;

/// One candidate as the state file ranks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its address.
    pub address: String,
    /// `up`, `down` or `unknown`.
    pub state: String,
    /// Whether it is answered now.
    pub chosen: bool,
    /// Smoothed latency, milliseconds.
    pub latency_ms: Option<f64>,
    /// Checks so far.
    pub checks: i64,
    /// Those of them that failed.
    pub failures: i64,
    /// How the last failure was worded.
    pub last_error: Option<String>,
}

/// What was shown last, and how to show the next.
pub struct Screen {
    terminal: bool,
    drawn: usize,
    last: Option<String>,
}

impl Screen {
    /// Nothing shown yet.
    pub fn new(terminal: bool) -> Screen {
        Screen { terminal, drawn: 0, last: None }
    }

    /// Shows `rows`: over the last table on a terminal, else as a line if it differs from the last.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn show(&mut self, elapsed: Duration, failing: bool, rows: &[Row], out: &mut (dyn Write + Send)) -> Result<()> {
        if self.terminal {
            if self.drawn > 0 {
                // Up to the first line of the last table, and clear from there.
                write!(out, "\x1b[{}A\x1b[J", self.drawn)?;
            }
            let table = table(elapsed, failing, rows);
            self.drawn = table.lines().count();
            out.write_all(table.as_bytes())?;
        } else {
            let line = line(rows);
            if self.last.as_ref() != Some(&line) {
                writeln!(out, "{:>4} s  {line}", elapsed.as_secs())?;
                self.last = Some(line);
            }
        }
        out.flush()
    }
}

/// The whole picture, a line for each candidate.
fn table(elapsed: Duration, failing: bool, rows: &[Row]) -> String {
    let scene = if failing { "the fastest server fails" } else { "all servers work" };
    let mut text = format!("{:>4} s  {scene}\n\n", elapsed.as_secs());
    text.push_str("  answered  address          state     latency   checks  failures  last error\n");
    for row in rows {
        let latency = row.latency_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let error: String = row.last_error.as_deref().unwrap_or("").chars().take(ERROR_WIDTH).collect();
        let line = format!(
            "  {:<8}  {:<15}  {:<7}  {latency:>9}  {:>6}  {:>8}  {error}",
            if row.chosen { "  =>" } else { "" },
            row.address,
            row.state,
            row.checks,
            row.failures,
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The answer and the states, without anything that changes with every check.
fn line(rows: &[Row]) -> String {
    let answer: Vec<&str> = rows.iter().filter(|row| row.chosen).map(|row| row.address.as_str()).collect();
    let states: Vec<String> = rows.iter().map(|row| format!("{} {}", row.address, row.state)).collect();
    let answer = if answer.is_empty() { "nothing yet".to_owned() } else { answer.join(", ") };
    format!("answer: {answer}  ({})", states.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |address: &str, state: &str, chosen, latency_ms, last_error: Option<&str>| Row {
            address: address.to_owned(),
            state: state.to_owned(),
            chosen,
            latency_ms,
            checks: 12,
            failures: 3,
            last_error: last_error.map(str::to_owned),
        };
        vec![
            row("127.0.0.1", "down", false, Some(5.44), Some("status 503")),
            row("127.0.0.2", "up", true, Some(40.06), None),
            row("127.0.0.3", "unknown", false, None, None),
        ]
    }

    #[test]
    fn the_table_has_a_line_for_each_candidate() {
        let text = table(Duration::from_millis(9_700), true, &rows());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "   9 s  the fastest server fails",
                "",
                "  answered  address          state     latency   checks  failures  last error",
                "            127.0.0.1        down        5.4 ms      12         3  status 503",
                "    =>      127.0.0.2        up         40.1 ms      12         3",
                "            127.0.0.3        unknown          -      12         3",
            ]
        );
    }

    #[test]
    fn a_pipe_gets_a_line_for_each_change_only() {
        let mut out = Vec::new();
        let mut screen = Screen::new(false);
        let mut rows = rows();
        screen.show(Duration::from_secs(1), true, &rows, &mut out).unwrap();
        rows[1].checks += 1;
        rows[1].latency_ms = Some(41.0);
        screen.show(Duration::from_secs(2), true, &rows, &mut out).unwrap();
        rows[0].state = "up".to_owned();
        screen.show(Duration::from_secs(3), false, &rows, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "   1 s  answer: 127.0.0.2  (127.0.0.1 down, 127.0.0.2 up, 127.0.0.3 unknown)\n   \
             3 s  answer: 127.0.0.2  (127.0.0.1 up, 127.0.0.2 up, 127.0.0.3 unknown)\n"
        );
    }

    #[test]
    fn a_terminal_is_drawn_over() {
        let mut out = Vec::new();
        let mut screen = Screen::new(true);
        for second in [1, 2] {
            screen.show(Duration::from_secs(second), false, &rows(), &mut out).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("\x1b[6A\x1b[J").count(), 1, "the second table goes over the six lines of the first");
    }
}
