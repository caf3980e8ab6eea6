//! The part of Markdown that har's documents use, as roff for man(7).
//!
//! A table becomes a list of tagged paragraphs: the first column is the tag, the last the text, and what stands
//! between them follows the text with its column's name.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// Text that roff prints as it is.
pub fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    text.replace('^', "\\(ha").replace('~', "\\(ti")
}

/// A line that roff does not take for a request.
pub fn line(text: &str) -> String {
    let text = text.trim();
    if text.starts_with('.') || text.starts_with("\\(aq") { format!("\\&{text}\n") } else { format!("{text}\n") }
}

/// A document without its title.
pub fn roff(text: &str) -> String {
    let mut page = Page::default();
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        page.take(event);
    }
    page.out
}

#[derive(Default)]
struct Page {
    out: String,
    /// The line being made: of a paragraph, a heading, an item or a cell.
    text: String,
    title: bool,
    code: bool,
    item: bool,
    head: Vec<String>,
    row: Vec<String>,
}

impl Page {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.begin(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.code => self.out.push_str(&verbatim(&text)),
            Event::Text(text) => self.text.push_str(&escape(&text)),
            Event::Code(text) => self.text.push_str(&format!("\\fB{}\\fR", escape(&text))),
            Event::SoftBreak | Event::HardBreak => self.text.push(' '),
            other => panic!("har's documents have no {other:?}"),
        }
    }

    fn begin(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Heading { level, .. } => self.title = *level as usize == 1,
            Tag::CodeBlock(CodeBlockKind::Fenced(_) | CodeBlockKind::Indented) => {
                self.code = true;
                self.out.push_str(".PP\n.RS 4\n.EX\n");
            }
            Tag::Item => self.item = true,
            Tag::Strong => self.text.push_str("\\fB"),
            Tag::Emphasis => self.text.push_str("\\fI"),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => {
                let text = std::mem::take(&mut self.text);
                match (self.title, level as usize) {
                    (true, _) => self.title = false,
                    (false, 2) => self.out.push_str(&format!(".SH \"{}\"\n", quoted(&text.to_uppercase(), &text))),
                    (false, _) => self.out.push_str(&format!(".SS \"{}\"\n", quoted(&text, &text))),
                }
            }
            TagEnd::Paragraph => self.paragraph(),
            TagEnd::Item => {
                self.paragraph();
                self.item = false;
            }
            TagEnd::CodeBlock => {
                self.code = false;
                self.out.push_str(".EE\n.RE\n");
            }
            TagEnd::Strong | TagEnd::Emphasis => self.text.push_str("\\fR"),
            TagEnd::TableCell => self.row.push(std::mem::take(&mut self.text)),
            TagEnd::TableHead => self.head = std::mem::take(&mut self.row),
            TagEnd::TableRow => self.entry(),
            _ => {}
        }
    }

    fn paragraph(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !text.trim().is_empty() {
            self.out.push_str(if self.item { ".IP \\(bu 2\n" } else { ".PP\n" });
            self.out.push_str(&line(&text));
        }
    }

    fn entry(&mut self) {
        let row = std::mem::take(&mut self.row);
        let (tag, rest) = row.split_first().expect("a first column");
        let (text, notes) = rest.split_last().expect("a last column");
        self.out.push_str(".TP\n");
        self.out.push_str(&line(tag));
        let notes: Vec<String> = self.head[1..]
            .iter()
            .zip(notes)
            .filter(|(_, note)| !note.is_empty())
            .map(|(head, note)| format!("{head}: {note}"))
            .collect();
        let mut text = text.clone();
        if !text.is_empty() && !text.ends_with('.') && !notes.is_empty() {
            text.push('.');
        }
        self.out.push_str(&line(&format!(
            "{text} {}",
            if notes.is_empty() { String::new() } else { format!("[{}]", notes.join("; ")) }
        )));
    }
}

/// A heading in quotes: fonts are the macro's. Names in it keep their letter case.
fn quoted(text: &str, plain: &str) -> String {
    let text = if plain.contains("\\fB") { plain } else { text };
    text.replace("\\fB", "").replace("\\fR", "").replace('"', "\\(dq")
}

/// Lines of an example, which begin with anything.
fn verbatim(text: &str) -> String {
    text.lines().map(|text| format!("{}\n", escape_first(&escape(text)))).collect()
}

fn escape_first(text: &str) -> String {
    if text.starts_with('.') || text.starts_with("\\(aq") { format!("\\&{text}") } else { text.to_owned() }
}

#[test]
fn nothing_is_lost_on_the_way() {
    let text = "# Title\n\nOne `a_b` -- \\ two\n.dot\n\n## `[x]` and *y*\n\n- item\n  goes on\n\n| key | default | range | meaning |\n|---|---|---|---|\n| `k` | `1` | | Means **it** |\n\n```toml\n.k = '1'\n```\n";
    let wanted = ".PP\nOne \\fBa_b\\fR \\-\\- \\e two .dot\n.SH \"[x] and \\fIy\"\n.IP \\(bu 2\nitem goes on\n.TP\n\\fBk\\fR\nMeans \\fBit\\fR. [default: \\fB1\\fR]\n.PP\n.RS 4\n.EX\n\\&.k = \\(aq1\\(aq\n.EE\n.RE\n";
    assert_eq!(roff(text), wanted);
}
