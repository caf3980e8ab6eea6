//! Writing HTML and SVG that are well-formed XML too, with everything from outside escaped.
//!
//! Only literals of this program can be names of elements and attributes or go in as they are: the types see
//! to it. All other text and every attribute's value is escaped on the way.

use std::fmt::{Display, Write as _};

/// A page in the making.
#[derive(Debug, Default)]
pub struct Markup(String);

/// Names and values of an element's attributes.
pub type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

impl Markup {
    /// The finished text.
    pub fn finish(self) -> String {
        self.0
    }

    /// Markup of this program's own.
    pub fn raw(&mut self, literal: &'static str) {
        self.0.push_str(literal);
    }

    /// Text, escaped.
    pub fn text(&mut self, text: impl Display) {
        escape(&text.to_string(), &mut self.0);
    }

    /// An element with what `inside` writes into it.
    pub fn element(&mut self, name: &'static str, attributes: Attributes<'_>, inside: impl FnOnce(&mut Markup)) {
        self.begin(name, attributes);
        self.0.push('>');
        inside(self);
        let _ = write!(self.0, "</{name}>");
    }

    /// An element that holds text alone.
    pub fn leaf(&mut self, name: &'static str, attributes: Attributes<'_>, text: impl Display) {
        self.element(name, attributes, |markup| markup.text(text));
    }

    /// An element that holds nothing: of SVG, or one that HTML knows as void.
    pub fn empty(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.begin(name, attributes);
        self.0.push_str("/>");
    }

    fn begin(&mut self, name: &'static str, attributes: Attributes<'_>) {
        let _ = write!(self.0, "<{name}");
        for (attribute, value) in attributes {
            let _ = write!(self.0, " {attribute}=\"");
            escape(&value.to_string(), &mut self.0);
            self.0.push('"');
        }
    }
}

/// Adds `text` so that it is text wherever it stands. What XML has no place for and what turns the
/// direction of the line around becomes the replacement character.
fn escape(text: &str, into: &mut String) {
    for character in text.chars() {
        match character {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#39;"),
            '\n' | '\t' => into.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => into.push('\u{fffd}'),
            character if character.is_control() => into.push('\u{fffd}'),
            character => into.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let mut markup = Markup::default();
        let hostile = "\"><script>alert('x')</script>&amp;\u{0}\u{1b}[31m\u{202e}";
        markup.leaf("p", &[("title", &hostile)], hostile);
        let text = markup.finish();
        let safe = "&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;amp;\u{fffd}\u{fffd}[31m\u{fffd}";
        assert_eq!(text, format!("<p title=\"{safe}\">{safe}</p>"));
    }
}
