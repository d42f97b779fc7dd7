//! One frame of `--watch` on a terminal: what is taller or wider than the window is cut, or it would scroll. Pure.

use std::fmt::Write;

/// Home, then, after the text, nothing below it (ECMA-48: CUP, ED).
const HOME: &str = "\x1b[H";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_LINE_END: &str = "\x1b[K";
/// The end of any colour (ECMA-48: SGR).
const PLAIN: &str = "\x1b[0m";

/// Rows and columns of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub rows: usize,
    pub columns: usize,
}

/// The sequences and the text that take the place of what a window shows.
pub(super) fn frame(text: &str, window: Window) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = HOME.to_owned();
    let shown = if lines.len() <= window.rows { lines.len() } else { window.rows.saturating_sub(1) };
    for (i, line) in lines[..shown].iter().enumerate() {
        // A line feed in the last row would scroll.
        let feed = if i == 0 { "" } else { "\n" };
        let _ = write!(out, "{feed}{}{CLEAR_LINE_END}", cut(line, window.columns));
    }
    let hidden = lines.len() - shown;
    if hidden > 0 {
        let _ = write!(out, "\n{}{CLEAR_LINE_END}", cut(&format!("... {hidden} more lines"), window.columns));
    }
    out + CLEAR_BELOW
}

/// The beginning of a line. Sequences of colour have no width.
fn cut(line: &str, columns: usize) -> String {
    let mut out = String::new();
    let (mut width, mut in_sequence) = (0, false);
    for character in line.chars() {
        if character == '\x1b' || in_sequence {
            in_sequence = character != 'm';
        } else if width == columns {
            return out + PLAIN;
        } else {
            width += 1;
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_shown_whole_and_no_row_scrolls() {
        let shown = frame("one\ntwo\n", Window { rows: 2, columns: 3 });
        assert_eq!(shown, "\x1b[Hone\x1b[K\ntwo\x1b[K\x1b[J");
    }

    #[test]
    fn what_is_taller_or_wider_is_cut_and_said() {
        let shown = frame("one\n\x1b[31mtwo\x1b[0m\nthree\nfour\n", Window { rows: 3, columns: 2 });
        assert_eq!(shown, "\x1b[Hon\x1b[0m\x1b[K\n\x1b[31mtw\x1b[0m\x1b[K\n..\x1b[0m\x1b[K\x1b[J");
        let shown = frame("1\n2\n3\n4\n", Window { rows: 3, columns: 80 });
        assert_eq!(shown, "\x1b[H1\x1b[K\n2\x1b[K\n... 2 more lines\x1b[K\x1b[J");
    }
}
