//! Styled text cut to a window, and only what changed of it sent to the terminal.
//!
//! Nothing of the state steers the terminal: control characters and those that turn the direction of a line around are
//! left out here, the one place that all text passes.

use std::fmt::Write as _;

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    #[default]
    Plain,
    /// A heading.
    Bold,
    /// Of less interest.
    Dim,
    /// Fine.
    Good,
    /// To be looked at.
    Warn,
    /// Broken.
    Bad,
    /// The bar at an edge.
    Bar,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
            Style::Bar => "7",
        }
    }

    /// Whether it is a colour, which can be unwanted.
    fn is_colour(self) -> bool {
        matches!(self, Style::Good | Style::Warn | Style::Bad)
    }
}

/// A line: pieces of text with their styles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(Style, String)>);

impl Line {
    /// A line of one piece.
    pub fn new(style: Style, text: impl Into<String>) -> Line {
        let mut line = Line::default();
        line.push(style, text);
        line
    }

    /// Adds a piece.
    pub fn push(&mut self, style: Style, text: impl Into<String>) {
        let text: String = text.into().chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|&c| shown(c)).collect();
        self.0.push((style, text));
    }

    /// Its text alone.
    #[cfg(test)]
    pub fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Its bytes for a terminal, at most so many columns; what stood to the right of them is wiped out. In a full line
    /// that would wipe out its own last character.
    fn bytes(&self, columns: usize, colour: bool) -> String {
        let mut left = columns;
        let mut bytes = String::new();
        for (style, text) in &self.0 {
            let piece: String = text.chars().take(left).collect();
            left -= piece.chars().count();
            let plain = *style == Style::Plain || (style.is_colour() && !colour);
            let _ = match plain {
                true => write!(bytes, "{piece}"),
                false => write!(bytes, "\x1b[{}m{piece}\x1b[0m", style.code()),
            };
        }
        if left > 0 {
            bytes.push_str("\x1b[K");
        }
        bytes
    }
}

fn shown(character: char) -> bool {
    let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !turns
}

/// What the terminal shows.
#[derive(Debug, Default)]
pub struct Canvas {
    size: (usize, usize),
    rows: Vec<String>,
    /// Whether colours are wanted.
    colour: bool,
}

impl Canvas {
    /// A terminal of which nothing is known yet.
    pub fn new(colour: bool) -> Canvas {
        Canvas { colour, ..Canvas::default() }
    }

    /// What brings a window of (columns, rows) from what it shows to `lines`: only the rows that differ, so that nothing flickers.
    pub fn draw(&mut self, lines: &[Line], size: (usize, usize)) -> String {
        let mut bytes = String::new();
        if self.size != size {
            bytes.push_str("\x1b[2J");
            self.rows.clear();
            self.size = size;
        }
        let nothing = Line::default();
        self.rows.resize(size.1, nothing.bytes(size.0, false));
        for (place, shown) in self.rows.iter_mut().enumerate() {
            let wanted = lines.get(place).unwrap_or(&nothing).bytes(size.0, self.colour);
            if *shown != wanted {
                let _ = write!(bytes, "\x1b[{};1H{wanted}", place + 1);
                *shown = wanted;
            }
        }
        bytes
    }

    /// Forgets what is shown: the next drawing is whole.
    pub fn forget(&mut self) {
        self.size = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent_and_nothing_is_wider_than_the_window() {
        let mut canvas = Canvas::new(true);
        let line = |text: &str| Line::new(Style::Plain, text);
        let first = canvas.draw(&[line("one, which is long"), Line::new(Style::Bad, "two")], (5, 3));
        assert_eq!(first, "\x1b[2J\x1b[1;1Hone, \x1b[2;1H\x1b[31mtwo\x1b[0m\x1b[K");
        assert_eq!(canvas.draw(&[line("one, which is longer"), Line::new(Style::Bad, "two")], (5, 3)), "");
        assert_eq!(canvas.draw(&[line("one")], (5, 3)), "\x1b[1;1Hone\x1b[K\x1b[2;1H\x1b[K");
        assert!(canvas.draw(&[line("one")], (9, 3)).starts_with("\x1b[2J\x1b[1;1Hone"), "another size: all anew");
    }

    #[test]
    fn nothing_of_the_state_steers_a_terminal() {
        let line = Line::new(Style::Plain, "a\x1b[31mb\u{9b}c\u{202e}d\te\n");
        assert_eq!(line.text(), "a[31mbcd e");
    }

    #[test]
    fn colours_can_be_unwanted() {
        let mut line = Line::new(Style::Bad, "down");
        line.push(Style::Bold, "name");
        assert_eq!(line.bytes(80, false), "down\x1b[1mname\x1b[0m\x1b[K");
    }
}
