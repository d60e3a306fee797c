//! Color, where it is asked for.

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::report) enum Style {
    Heading,
    Good,
    Warn,
    Bad,
    Faint,
}

/// Paints or does not, in so many columns.
#[derive(Clone, Copy, Debug)]
pub(in crate::report) struct Paint {
    color: bool,
    width: usize,
}

impl Paint {
    pub(in crate::report) const fn new(color: bool, width: usize) -> Self {
        Self { color, width }
    }

    /// Columns of a line, at most.
    pub(in crate::report) const fn width(self) -> usize {
        self.width
    }

    pub(in crate::report) fn apply(self, style: Style, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        // SGR codes (ECMA-48 §8.3.117).
        let code = match style {
            Style::Heading => "1",
            Style::Good => "1;32",
            Style::Warn => "1;33",
            Style::Bad => "1;31",
            Style::Faint => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}
