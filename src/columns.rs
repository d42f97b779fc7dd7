//! Rows of text whose columns align, for terminals and for files. Colour never changes the widths.

use std::fmt::{self, Display, Formatter};

/// The first eight names, and the number of the others.
pub fn few<S: AsRef<str>>(all: &[S]) -> String {
    const MOST: usize = 8;
    let mut text = all.iter().take(MOST).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if all.len() > MOST {
        text.push_str(&format!(" and {} more", all.len() - MOST));
    }
    text
}

/// Whether a terminal is to be written to in colour, or what is no terminal: only for eyes, <https://no-color.org>.
pub fn wants_colour(is_terminal: bool) -> bool {
    let says_no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    is_terminal && !says_no && !is_dumb
}

/// A colour by what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// As it should be.
    Good,
    /// Worth attention.
    Doubtful,
    /// Broken.
    Bad,
}

impl Colour {
    /// The text between the ANSI sequences of this colour (ECMA-48, SGR).
    pub fn around(self, text: &str) -> String {
        let code = match self {
            Self::Good => 32,
            Self::Doubtful => 33,
            Self::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    /// A cell in colour, where colours are wanted.
    pub fn coloured(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour: Some(colour) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), colour: None }
    }
}

/// Rows whose columns are as wide as their widest cell, with three spaces between them.
#[derive(Clone, Debug)]
pub struct Columns {
    indent: usize,
    colour: bool,
    rows: Vec<Vec<Cell>>,
}

impl Columns {
    /// No rows yet. All begin after `indent` spaces.
    pub fn new(indent: usize, colour: bool) -> Self {
        Self { indent, colour, rows: Vec::new() }
    }

    /// Appends a row.
    pub fn push(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }
}

impl Display for Columns {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            let filled = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
            write!(f, "{:indent$}", "", indent = if filled == 0 { 0 } else { self.indent })?;
            for (column, cell) in row.iter().enumerate().take(filled) {
                match cell.colour.filter(|_| self.colour) {
                    Some(colour) => f.write_str(&colour.around(&cell.text))?,
                    None => f.write_str(&cell.text)?,
                }
                if column + 1 < filled {
                    let padding = widths[column] - cell.text.chars().count() + 3;
                    write!(f, "{:padding$}", "")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_do_not_end_in_spaces() {
        let mut columns = Columns::new(2, false);
        columns.push(["A", "LONG", "C"].map(Cell::from));
        columns.push([Cell::from("wider"), Cell::coloured("x", Colour::Bad), Cell::from("")]);
        columns.push(["", "", ""].map(Cell::from));
        assert_eq!(columns.to_string(), "  A       LONG   C\n  wider   x\n\n");
    }

    #[test]
    fn colour_changes_no_width() {
        let rows = [["a", "b"], ["ccc", "d"]];
        let text = |colour| {
            let mut columns = Columns::new(0, colour);
            rows.iter().for_each(|row| columns.push(row.map(|text| Cell::coloured(text, Colour::Good))));
            columns.to_string()
        };
        assert_eq!(text(true).replace("\x1b[32m", "").replace("\x1b[0m", ""), text(false));
    }
}
