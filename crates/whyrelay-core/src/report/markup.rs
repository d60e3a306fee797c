//! HTML and SVG, written so that nothing a peer sent can become markup: tags and attribute names are constants of this
//! program, and every other text goes through [`Markup::text`] or an attribute, which escape.

/// A piece of HTML or SVG.
#[derive(Debug, Default)]
pub(super) struct Markup(String);

impl Markup {
    pub(super) const fn new() -> Self {
        Self(String::new())
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    /// A constant, as it is.
    pub(super) fn raw(&mut self, constant: &'static str) {
        self.0.push_str(constant);
    }

    /// A finished picture.
    pub(super) fn append(&mut self, other: Self) {
        self.0.push_str(&other.0);
    }

    /// Text.
    pub(super) fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(visible(c)),
            }
        }
    }

    /// A start tag.
    pub(super) fn open(&mut self, tag: &'static str, attributes: &[(&'static str, &str)]) {
        self.tag(tag, attributes);
        self.0.push('>');
    }

    /// An end tag.
    pub(super) fn close(&mut self, tag: &'static str) {
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
    }

    /// An element that holds nothing.
    pub(super) fn empty(&mut self, tag: &'static str, attributes: &[(&'static str, &str)]) {
        self.tag(tag, attributes);
        self.0.push_str("/>");
    }

    /// An element that holds text.
    pub(super) fn element(&mut self, tag: &'static str, attributes: &[(&'static str, &str)], text: &str) {
        self.open(tag, attributes);
        self.text(text);
        self.close(tag);
    }

    /// A line feed, so that a reader of the source finds the way.
    pub(super) fn line(&mut self) {
        self.0.push('\n');
    }

    fn tag(&mut self, tag: &'static str, attributes: &[(&'static str, &str)]) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
    }
}

/// A character that shows what it is: control characters and those that turn the direction of writing would let a name
/// look like another one.
pub(crate) const fn visible(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => '\u{FFFD}',
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => '\u{FFFD}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_stay_text() {
        let mut markup = Markup::new();
        markup.element("b", &[("title", "\"><script>'&")], "</b>\u{202e}\u{1b}x");
        let expected = "<b title=\"&quot;&gt;&lt;script&gt;&#39;&amp;\">&lt;/b&gt;\u{FFFD}\u{FFFD}x</b>";
        assert_eq!(markup.finish(), expected);
    }
}
