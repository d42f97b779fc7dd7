//! The elements that the pictures of measurements are made of. Pure.

use std::fmt::Write;

/// A filled rectangle: left, top, width and height, in pixels.
pub fn rect(svg: &mut String, (left, top, width, height): (f64, f64, f64, f64), fill: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        svg,
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
    );
}

/// Words that begin at this point, with its baseline.
pub fn text(svg: &mut String, x: f64, y: f64, words: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>");
}
