//! What the pictures of measurements are made of: bars, lines and text, in colors for light and dark pages. Pure.
//! In: shapes in pixels. Out: an SVG document.

use std::fmt::Write;

/// Colors are fills of classes, so that the style sheet can give each its shade on a dark page. The background is the
/// picture's own, because a viewer that does not follow the page's theme would show dark text on a dark page.
const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#1f2328}
.title{font-size:16px;font-weight:600}
.head{font-size:13px;font-weight:600}
.note{font-size:11px;fill:#59636e}
.end{text-anchor:end}
.middle{text-anchor:middle}
.page{fill:#fff;stroke:#d1d9e0}
.grid{stroke:#e4e8ec}
.axis{stroke:#818b98}
.limit{stroke:#cf222e;stroke-dasharray:5 3}
.shade{fill:#eceff2}
.green{fill:#1a7f5a}
.blue{fill:#3f74c2}
.amber{fill:#d28a0c}
.gray{fill:#9aa4af}
.red{fill:#cf222e}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.note{fill:#9da7b3}
.page{fill:#0d1117;stroke:#30363d}
.grid{stroke:#262c34}
.axis{stroke:#7d8590}
.limit{stroke:#ff7b72}
.shade{fill:#20262e}
.green{fill:#3fb68b}
.blue{fill:#6ea3f0}
.amber{fill:#e3a93c}
.gray{fill:#747d88}
.red{fill:#ff7b72}
}
";

/// The fill of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// apivip in all pictures.
    Green,
    Blue,
    Amber,
    Gray,
    Red,
    /// A region behind a curve.
    Shade,
}

impl Color {
    fn class(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Amber => "amber",
            Self::Gray => "gray",
            Self::Red => "red",
            Self::Shade => "shade",
        }
    }
}

/// Left, top, width and height.
pub type Area = (f64, f64, f64, f64);

/// A picture that grows.
pub struct Svg(String);

impl Svg {
    /// An empty picture. Screen readers read the title and the description.
    pub fn new(width: f64, height: f64, title: &str, description: &str) -> Self {
        let mut svg = Self(String::new());
        svg.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n<desc>{}</desc>\n<style>\n{STYLE}</style>",
            escaped(title),
            escaped(description)
        ));
        svg.put(format_args!(
            "<rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>",
            width - 1.0,
            height - 1.0
        ));
        svg.text(20.0, 30.0, "title", title);
        svg
    }

    /// A filled rectangle.
    pub fn bar(&mut self, area: Area, color: Color) {
        self.rect(area, &format!("class=\"{}\"", color.class()));
    }

    /// A hatched rectangle: what was not measured.
    pub fn hatched(&mut self, area: Area, color: Color) {
        let class = color.class();
        if !self.0.contains(&format!("id=\"hatch-{class}\"")) {
            self.put(format_args!(
                "<pattern id=\"hatch-{class}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
                 patternTransform=\"rotate(45)\"><rect class=\"{class}\" width=\"2\" height=\"6\"/></pattern>"
            ));
        }
        self.rect(area, &format!("fill=\"url(#hatch-{class})\""));
    }

    /// An area between a curve and its base line.
    pub fn curve(&mut self, base: f64, points: &[(f64, f64)], color: Color) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let mut path = format!("M{:.1} {base:.1}", first.0);
        for (x, y) in points {
            // Writing to a String cannot fail.
            let _ = write!(path, "L{x:.1} {y:.1}");
        }
        self.put(format_args!("<path class=\"{}\" d=\"{path}L{:.1} {base:.1}Z\"/>", color.class(), last.0));
    }

    /// A line of the class `grid`, `axis` or `limit`.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        self.put(format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    /// Words of these classes (`title`, `head`, `note`, `end`, `middle`) with their baseline at `y`.
    pub fn text(&mut self, x: f64, y: f64, classes: &str, words: &str) {
        let classes = if classes.is_empty() { String::new() } else { format!(" class=\"{classes}\"") };
        self.put(format_args!("<text{classes} x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(words)));
    }

    /// An entry of the legend. Returns where the next one begins.
    pub fn legend(&mut self, x: f64, y: f64, color: Color, words: &str) -> f64 {
        self.bar((x, y - 10.0, 11.0, 11.0), color);
        self.entry(x, y, words)
    }

    /// The same, for hatched bars.
    pub fn hatched_legend(&mut self, x: f64, y: f64, color: Color, words: &str) -> f64 {
        self.hatched((x, y - 10.0, 11.0, 11.0), color);
        self.entry(x, y, words)
    }

    /// The document.
    pub fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    fn entry(&mut self, x: f64, y: f64, words: &str) -> f64 {
        self.text(x + 16.0, y, "", words);
        // The width of a letter is known only to the viewer.
        x + 16.0 + 6.6 * words.chars().count() as f64 + 18.0
    }

    fn rect(&mut self, (left, top, width, height): Area, fill: &str) {
        self.put(format_args!(
            "<rect {fill} x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        ));
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{element}");
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A round step that divides a scale into at most `parts`, and the first multiple of it that holds `most`.
pub fn scale(most: f64, parts: f64) -> (f64, f64) {
    let rough = (most / parts).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * power).into_iter().find(|step| *step >= rough * 0.99);
    let step = step.unwrap_or(rough);
    (step, (most / step * 0.99).ceil() * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round() {
        assert_eq!(scale(34.4, 4.0), (10.0, 40.0));
        assert_eq!(scale(45.0, 5.0), (10.0, 50.0));
        assert_eq!(scale(5.0, 5.0), (1.0, 5.0));
    }

    #[test]
    fn words_are_escaped() {
        let mut svg = Svg::new(100.0, 100.0, "a < b", "none");
        svg.text(0.0, 0.0, "", "b & c");
        let drawn = svg.finish();
        assert!(drawn.contains("<title>a &lt; b</title>") && drawn.contains(">b &amp; c</text>"), "{drawn}");
    }
}
