//! What is wrong with a configuration, each finding with its place.
//!
//! A [`Problem`] names file, line, column and key and carries the offending line; a [`Report`] is all of them,
//! in the order of the files. Nothing secret is shown: user information and queries of URLs, and whatever stands
//! beside words such as `headers` or `password`, are masked before a line or a value gets in here.

use std::cell::OnceCell;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Characters of an offending line that are shown: a generated file may hold one of a megabyte.
const MAX_EXCERPT: usize = 160;

/// Lines in front of the offending one that are looked at for the beginning of a list: those of the longest command.
const MAX_LOOK_BACK: usize = 300;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in.
    pub file: Arc<Path>,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// Column in characters, from 1; 0 when the file as a whole is meant.
    pub column: usize,
    /// Path of the key, such as `names."api.example.com".interval`; may be empty.
    pub key: String,
    /// What was found and what is allowed.
    pub message: String,
    /// Nothing is known to be wrong: this user may not read what is meant.
    pub denied: bool,
    /// The offending line, shortened and without secrets.
    excerpt: Option<Excerpt>,
}

/// A line of a file and what of it is marked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    /// The text, one character a column.
    text: String,
    /// Characters before the mark.
    before: usize,
    /// Length of the mark in characters, at least 1.
    width: usize,
}

/// All findings of one attempt to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report(pub Vec<Problem>);

impl Problem {
    /// A problem of a file as a whole: it cannot be opened, for one.
    pub fn of_file(file: impl Into<Arc<Path>>, message: impl Into<String>) -> Problem {
        let (file, message) = (file.into(), message.into());
        Problem { file, line: 0, column: 0, key: String::new(), message, denied: false, excerpt: None }
    }
}

impl Report {
    /// Whether nothing is wrong but that this user may not read some of it: that says nothing about the configuration.
    pub fn is_denied(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|problem| problem.denied)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)?;
        let Some(excerpt) = &self.excerpt else { return Ok(()) };
        let number = self.line.to_string();
        write!(f, "\n  {number} | {}", excerpt.text)?;
        write!(f, "\n  {:1$} | ", "", number.len())?;
        write!(f, "{:1$}{2}", "", excerpt.before, "^".repeat(excerpt.width))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 problem")?,
            count => write!(f, "{count} problems")?,
        }
        if self.is_denied() { f.write_str(", in what this user may not read") } else { Ok(()) }
    }
}

impl std::error::Error for Report {}

/// A file that was read, able to turn byte offsets into lines.
pub(super) struct Source {
    /// Where it is.
    pub path: Arc<Path>,
    /// Its text.
    pub text: Arc<str>,
    /// Byte offset of each line's start, found when first needed.
    lines: OnceCell<Vec<usize>>,
}

impl Source {
    /// A file's text and where it came from.
    pub fn new(path: Arc<Path>, text: Arc<str>) -> Source {
        Source { path, text, lines: OnceCell::new() }
    }

    /// A problem at the bytes `start..end`; `key` decides whether the line may be shown as it is.
    pub fn problem(&self, start: usize, end: usize, key: String, message: String) -> Problem {
        let start = floor_boundary(&self.text, start);
        let end = floor_boundary(&self.text, end).max(start);
        let (line, line_start) = self.line_of(start);
        let rest = &self.text[line_start..];
        let whole = rest.split(['\n', '\r']).next().unwrap_or("");
        let column = self.text[line_start..start].chars().count() + 1;
        let width = self.text[start..end].split('\n').next().unwrap_or("").trim_end().chars().count().max(1);
        let shown = match () {
            () if self.is_inside_secret(line_start) => mask(whole),
            () if holds_secret(&key) => mask_values(whole),
            () => redact(whole),
        };
        let excerpt = Excerpt::new(&shown, column - 1, width);
        Problem { file: Arc::clone(&self.path), line, column, key, message, denied: false, excerpt: Some(excerpt) }
    }

    /// Whether a line continues a list or a table that begins on an earlier line, beside a secret word.
    fn is_inside_secret(&self, line_start: usize) -> bool {
        let mut open = 0;
        for line in self.text[..line_start].lines().rev().take(MAX_LOOK_BACK) {
            open += brackets(line);
            if open > 0 {
                if holds_secret(line) {
                    return true;
                }
                // What that list is in itself may be secret.
                open = 0;
            }
        }
        false
    }

    /// Whether a byte is in the header of a table.
    pub fn is_in_header(&self, at: usize) -> bool {
        let (_, start) = self.line_of(at);
        self.text.get(start..).is_some_and(|line| line.trim_start_matches([' ', '\t']).starts_with('['))
    }

    /// Number (from 1) and start of the line that holds a byte.
    pub fn line_of(&self, offset: usize) -> (usize, usize) {
        let lines = self
            .lines
            .get_or_init(|| std::iter::once(0).chain(self.text.match_indices('\n').map(|(at, _)| at + 1)).collect());
        let index = lines.partition_point(|&start| start <= offset).saturating_sub(1);
        (index + 1, lines.get(index).copied().unwrap_or(0))
    }
}

impl Excerpt {
    /// Cuts a window out of a long line so that the marked place is in it.
    fn new(line: &str, before: usize, width: usize) -> Excerpt {
        let plain: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let first = if plain.len() > MAX_EXCERPT { before.saturating_sub(MAX_EXCERPT / 2) } else { 0 };
        let text: String = plain.iter().skip(first).take(MAX_EXCERPT).collect();
        let shown = text.chars().count();
        let before = (before - first).min(shown);
        Excerpt { text, before, width: width.min((shown - before).max(1)) }
    }
}

/// The largest character boundary that is not past `offset`.
fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut at = offset.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Words beside which a secret may stand.
const SECRET_WORDS: [&str; 9] =
    ["headers", "authorization", "password", "cookie", "token", "secret", "key\"", "send", "command"];

/// Whether a text speaks of something secret.
fn holds_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| lower.contains(word)) || lower.contains("api-key") || lower.contains("api_key")
}

/// A text without user information and queries of URLs, and without what stands beside a secret word.
/// Every hidden character becomes a `*`, so that columns stay where they are.
pub(super) fn redact(text: &str) -> String {
    let mut shown = mask_urls(text);
    // ASCII lower case keeps every byte in its place, so that offsets hold in both.
    let lower = text.to_ascii_lowercase();
    let words = SECRET_WORDS.iter().chain(&["api-key", "api_key"]);
    if let Some(at) = words.filter_map(|word| lower.find(word)).min() {
        // `mask_urls` keeps the number of characters, not of bytes.
        let visible = text[..at].chars().count();
        let head: String = shown.chars().take(visible).collect();
        let tail: String = shown.chars().skip(visible).collect();
        shown = head + &mask_values(&tail);
    }
    shown
}

/// Hides everything behind the first `=`, punctuation aside.
fn mask_values(text: &str) -> String {
    let Some(at) = text.find('=') else { return text.to_owned() };
    let (head, tail) = text.split_at(at);
    head.to_owned() + &mask(tail)
}

/// Hides everything, punctuation aside.
fn mask(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() { '*' } else { c }).collect()
}

/// How many brackets a line opens and does not close; less than none when it closes more. Those in texts and comments
/// are none.
fn brackets(line: &str) -> i32 {
    let (mut open, mut quote, mut escaped) = (0, None, false);
    for c in line.chars() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(begin) if c == begin => quote = None,
            Some(_) => {}
            None => match c {
                '"' | '\'' => quote = Some(c),
                '[' | '{' => open += 1,
                ']' | '}' => open -= 1,
                '#' => break,
                _ => {}
            },
        }
    }
    open
}

/// Hides the user information and the query of every URL in a text.
fn mask_urls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        shown.push_str(head);
        let end = tail.find(['"', '\'', ' ', '\t', '\n']).unwrap_or(tail.len());
        let (url, after) = tail.split_at(end);
        let authority = url.find(['/', '?', '#']).unwrap_or(url.len());
        // A password may hold any of `/?#` unescaped by mistake: the last `@` decides what is hidden.
        let user = url.rfind('@').unwrap_or(0);
        let query = url.find('?').filter(|&query| query >= authority).map_or(url.len(), |query| query + 1);
        for (position, c) in url.char_indices() {
            shown.push(if position < user || position >= query { '*' } else { c });
        }
        rest = after;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_place() {
        let source = Source::new(Path::new("/h.toml").into(), "a = 1\n\tb = 22 # ä\n".into());
        let problem = source.problem(11, 13, "b".into(), "found the integer 22".into());
        assert_eq!(problem.to_string(), "/h.toml:2:6: b: found the integer 22\n  2 |  b = 22 # ä\n    |      ^^");
        let report = Report(vec![problem, Problem::of_file(Path::new("/x"), "gone")]);
        assert!(report.to_string().ends_with("/x: gone\n2 problems"), "{report}");
    }

    #[test]
    fn places_beyond_the_text_and_inside_a_character_are_no_panic() {
        let source = Source::new(Path::new("/h").into(), "ä".into());
        for (start, end) in [(0, 1), (1, 2), (7, 9), (2, 0)] {
            source.problem(start, end, String::new(), String::new()).to_string();
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let text = format!("{}HERE{}", "a".repeat(5000), "b".repeat(5000));
        let source = Source::new(Path::new("/h").into(), text.into());
        let shown = source.problem(5000, 5004, String::new(), "m".into()).to_string();
        assert!(shown.len() < 500, "{}", shown.len());
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1].find("HERE"), lines[2].find("^^^^"));
    }

    #[test]
    fn a_secret_that_spans_lines_is_masked_on_each() {
        let text = "check = {\n type = \"exec\",\n command = [\n  \"/bin/x]\", # [\n  \"pw-1\",\n  \"--pass=pw-2\"\n ], x = 1,\n y = 2\n}\n";
        let source = Source::new(Path::new("/h").into(), text.into());
        let shown = |part: &str| {
            let at = text.find(part).unwrap();
            source.problem(at, at + part.len(), String::new(), "m".into()).to_string()
        };
        for (part, line) in [
            ("pw-1", "  5 |   \"**-*\",\n"),
            ("pw-2", "  6 |   \"--****=**-*\"\n"),
            ("x = 1", "  7 |  ], * = *,\n"),
            ("y = 2", "  8 |  y = 2\n"),
            ("exec", "  2 |  type = \"exec\",\n"),
        ] {
            assert!(shown(part).contains(line), "{}", shown(part));
        }
    }

    #[test]
    fn secrets_are_masked_and_columns_kept() {
        for (line, shown) in [
            (r#"check = "http://me:pw@h/x?k=v", n = 1"#, r#"check = "http://*****@h/x?***", n = 1"#),
            (r#"headers = { A = "b c" }, x = 1"#, r#"headers = { * = "* *" }, * = *"#),
            (r#"n = 1, command = ["/bin/x", "pw", "-p=pw"]"#, r#"n = 1, command = ["/***/*", "**", "-*=**"]"#),
            (r#"Authorization = "Bearer x1""#, r#"Authorization = "****** **""#),
            (r#"interval = "10s""#, r#"interval = "10s""#),
            (r#"url = "https://{host}:8080/healthz""#, r#"url = "https://{host}:8080/healthz""#),
        ] {
            assert_eq!(redact(line), shown);
            assert_eq!(line.chars().count(), redact(line).chars().count());
        }
    }
}
