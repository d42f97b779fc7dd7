//! The table of `docs/benchmarks.md`, and the figures of the picture. Pure but for printing.

use integration::pictures::forwarder::{self, Comparison, Measured};

use crate::measure::{Column, Figure};

/// The medians, and their ratios to the direct connection.
pub fn comparison(columns: &[Column], setting: String) -> Comparison {
    let figures = Figure::ALL.into_iter().map(|figure| forwarder::Figure {
        title: figure.title().to_owned(),
        higher_is_better: figure.higher_is_better(),
        values: columns.iter().map(|column| measured(columns, column, figure)).collect(),
    });
    Comparison {
        setting,
        columns: columns.iter().map(|column| column.title.to_owned()).collect(),
        figures: figures.collect(),
    }
}

/// Prints it in Markdown: medians, and in parentheses the ratio to the direct connection.
pub fn print(comparison: &Comparison) {
    println!("| | {} |", comparison.columns.join(" | "));
    println!("|---|{}", "---|".repeat(comparison.columns.len()));
    for figure in &comparison.figures {
        let cells =
            figure.values.iter().map(|value| value.map_or_else(|| "-".to_owned(), |value| value.words()));
        println!("| {} | {} |", figure.title, cells.collect::<Vec<_>>().join(" | "));
    }
}

fn measured(columns: &[Column], column: &Column, figure: Figure) -> Option<Measured> {
    let direct = columns.first().filter(|direct| direct.title != column.title);
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    Some(Measured {
        value: round(column.median(figure)?),
        ratio: direct.and_then(|direct| column.ratio(direct, figure)).map(round),
    })
}
