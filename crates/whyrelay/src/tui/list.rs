//! A list with one selected row.

/// Which row is selected. Where the list begins on the screen follows from that and from the room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) selected: usize,
}

impl List {
    pub(crate) fn up(&mut self, by: usize) {
        self.selected = self.selected.saturating_sub(by);
    }

    pub(crate) fn down(&mut self, by: usize, length: usize) {
        self.selected = self.selected.saturating_add(by);
        self.keep_within(length);
    }

    pub(crate) fn last(&mut self, length: usize) {
        self.selected = length.saturating_sub(1);
    }

    pub(crate) fn keep_within(&mut self, length: usize) {
        self.selected = self.selected.min(length.saturating_sub(1));
    }

    /// The rows that a pane of this height shows: the selected one in the middle, except at both ends.
    pub(crate) fn window(self, length: usize, height: usize) -> std::ops::Range<usize> {
        let start = self.selected.saturating_sub(height / 2).min(length.saturating_sub(height));
        start..(start + height).min(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selected_row_is_always_shown() {
        for (length, height) in [(0, 3), (1, 3), (10, 3), (10, 20), (100, 7), (5, 0), (5, 1)] {
            for selected in 0..length {
                let window = List { selected }.window(length, height);
                assert!(window.len() <= height && window.end <= length);
                assert!(height == 0 || window.contains(&selected), "{selected} of {length} in {height}: {window:?}");
            }
        }
    }
}
