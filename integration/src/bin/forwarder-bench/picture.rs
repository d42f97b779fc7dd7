//! The figures as a picture. Pure.
//! In: the columns of the table. Out: SVG, one group of bars per figure, each as long as its share of the longest.

use integration::svg::{rect, text};

use crate::measure::{Column, Figure};
use crate::table::number;

const LEFT: f64 = 290.0;
const WIDTH: f64 = 480.0;
const BAR: f64 = 14.0;
const GAP: f64 = 18.0;
const TOP: f64 = 70.0;

/// By title, so that a proxy keeps its colour when another is left out.
fn colour(title: &str) -> &'static str {
    match title {
        "apivip" => "#4c9f70",
        "haproxy" => "#5b4fa0",
        "nginx" => "#e0a030",
        _ => "#b0b0b0",
    }
}

/// Draws it.
pub fn draw(columns: &[Column]) -> String {
    let group = BAR * columns.len() as f64 + GAP;
    let height = TOP + group * Figure::ALL.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"900\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let title = "A TCP proxy on the node between a pod and an apiserver; ratios to a direct connection";
    text(&mut svg, 20.0, 24.0, title);
    for (i, column) in columns.iter().enumerate() {
        let at = 20.0 + 120.0 * i as f64;
        rect(&mut svg, (at, 38.0, 10.0, 10.0), colour(column.title));
        text(&mut svg, at + 16.0, 47.0, column.title);
    }
    for (i, figure) in Figure::ALL.into_iter().enumerate() {
        bars(&mut svg, TOP + group * i as f64, columns, figure);
    }
    svg.push_str("</svg>\n");
    svg
}

fn bars(svg: &mut String, top: f64, columns: &[Column], figure: Figure) {
    text(svg, 20.0, top + BAR * columns.len() as f64 / 2.0 + 4.0, figure.title());
    let longest = columns.iter().filter_map(|column| column.median(figure)).fold(f64::MIN_POSITIVE, f64::max);
    for (i, column) in columns.iter().enumerate() {
        let Some(value) = column.median(figure) else { continue };
        let (y, length) = (top + BAR * i as f64, (value / longest * WIDTH).max(1.0));
        rect(svg, (LEFT, y, length, BAR - 2.0), colour(column.title));
        let ratio = columns.first().filter(|_| i > 0).and_then(|direct| column.ratio(direct, figure));
        let ratio = ratio.map(|ratio| format!(" (x{ratio:.2})")).unwrap_or_default();
        text(svg, LEFT + length + 6.0, y + 10.0, &format!("{}{ratio}", number(value)));
    }
}
