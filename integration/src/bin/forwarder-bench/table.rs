//! The table of `docs/benchmarks.md`. Pure but for printing.

use crate::measure::{Column, Figure};

/// Prints it in Markdown: medians, and in brackets the ratio to a direct connection.
pub fn print(columns: &[Column]) {
    let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
    println!("| | {} |", titles.join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    for figure in Figure::ALL {
        let cells: Vec<String> = columns.iter().map(|column| cell(columns, column, figure)).collect();
        println!("| {} | {} |", figure.title(), cells.join(" | "));
    }
}

fn cell(columns: &[Column], column: &Column, figure: Figure) -> String {
    let Some(value) = column.median(figure) else { return "-".to_owned() };
    let value = number(value);
    match columns.first().filter(|direct| direct.title != column.title) {
        Some(direct) => match column.ratio(direct, figure) {
            Some(ratio) => format!("{value} (x{ratio:.2})"),
            None => value,
        },
        None => value,
    }
}

/// Three digits say what a measurement can say.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        assert_eq!([number(12345.6), number(12.34), number(0.123)], ["12346", "12.3", "0.12"]);
    }
}
