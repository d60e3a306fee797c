//! As much of XML as UPnP's documents need, read leniently: routers forget to escape, and to close.

/// A piece of a document, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// `<name …>`, without its prefix.
    Open(&'a str),
    /// `</name>`, without its prefix; also follows an `Open` of `<name/>`.
    Close(&'a str),
    /// What stands between, not empty.
    Text(&'a str),
}

/// Reads on.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    rest: &'a str,
    /// The name of an empty element whose end is due.
    due: Option<&'a str>,
}

impl<'a> Tokens<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { rest: text, due: None }
    }

    /// Cuts up to and including `end`.
    fn until(&mut self, end: &str) -> &'a str {
        match self.rest.split_once(end) {
            Some((inside, rest)) => {
                self.rest = rest;
                inside
            }
            None => std::mem::take(&mut self.rest),
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if let Some(name) = self.due.take() {
            return Some(Token::Close(name));
        }
        loop {
            if self.rest.is_empty() {
                return None;
            }
            if let Some(rest) = self.rest.strip_prefix("<![CDATA[") {
                self.rest = rest;
                let text = self.until("]]>").trim();
                if !text.is_empty() {
                    return Some(Token::Text(text));
                }
            } else if let Some(rest) = self.rest.strip_prefix("<!--") {
                self.rest = rest;
                self.until("-->");
            } else if self.rest.starts_with("<?") || self.rest.starts_with("<!") {
                // No document type is taken in, so no entity of its own exists.
                self.until(">");
            } else if let Some(rest) = self.rest.strip_prefix("</") {
                self.rest = rest;
                return Some(Token::Close(local(self.until(">"))));
            } else if let Some(rest) = self.rest.strip_prefix('<') {
                self.rest = rest;
                let inside = self.until(">");
                let name = local(inside);
                if inside.ends_with('/') {
                    self.due = Some(name);
                }
                return Some(Token::Open(name));
            } else {
                let end = self.rest.find('<').unwrap_or(self.rest.len());
                let (text, rest) = self.rest.split_at(end);
                self.rest = rest;
                if !text.trim().is_empty() {
                    return Some(Token::Text(text.trim()));
                }
            }
        }
    }
}

/// The name of an element without attributes and prefix.
fn local(tag: &str) -> &str {
    let name = tag.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

/// The text of the first element of this name.
pub(super) fn text_of(document: &str, name: &str) -> Option<String> {
    let mut inside = false;
    for token in Tokens::new(document) {
        match token {
            Token::Open(open) => inside = open == name,
            Token::Text(text) if inside => return Some(unescaped(text)),
            Token::Text(_) => {}
            Token::Close(close) if close == name => return Some(String::new()),
            Token::Close(_) => inside = false,
        }
    }
    None
}

/// The five entities that XML has by itself.
pub(super) fn unescaped(text: &str) -> String {
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    entities.into_iter().fold(text.to_owned(), |text, (entity, meant)| text.replace(entity, meant))
}

/// Text for between tags.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
