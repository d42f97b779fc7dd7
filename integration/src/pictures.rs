//! The pictures of the documents, `docs/NAME.svg`, and the figures that they show, `docs/data/NAME.json`.
//! In: figures, from a measurement or from such a file. Out: both files. So a picture can be drawn again without a measurement.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub mod failover;
pub mod forwarder;
pub mod leases;
mod svg;

/// Figures that a picture can show.
pub trait Figures: Serialize + DeserializeOwned {
    /// The picture.
    fn draw(&self) -> String;
}

/// Writes the figures, and the picture of them, into the folder of the documents.
pub fn save<F: Figures>(docs: &Path, name: &str, figures: &F) -> Result<()> {
    let data = docs.join("data").join(format!("{name}.json"));
    fs::write(&data, json(figures)?).with_context(|| format!("write {}", data.display()))?;
    write_picture(docs, name, figures)
}

/// Draws each picture again, from the figures beside it.
pub fn draw_all(docs: &Path) -> Result<()> {
    write_picture(docs, "failover", &read::<failover::Failovers>(docs, "failover")?)?;
    write_picture(docs, "leases", &read::<leases::Leases>(docs, "leases")?)?;
    for name in ["forwarder", "forwarder-one-core"] {
        write_picture(docs, name, &read::<forwarder::Comparison>(docs, name)?)?;
    }
    Ok(())
}

fn write_picture<F: Figures>(docs: &Path, name: &str, figures: &F) -> Result<()> {
    let picture = docs.join(format!("{name}.svg"));
    fs::write(&picture, figures.draw()).with_context(|| format!("write {}", picture.display()))
}

fn read<F: Figures>(docs: &Path, name: &str) -> Result<F> {
    let path = docs.join("data").join(format!("{name}.json"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// JSON with one line for each element of a list, which a person can read and compare.
fn json<F: Figures>(figures: &F) -> Result<String> {
    let Value::Object(fields) = serde_json::to_value(figures)? else {
        anyhow::bail!("figures are no object")
    };
    let lines = fields.iter().map(|(key, value)| match value {
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(|element| format!("  {element}")).collect();
            format!("\"{key}\": [\n{}\n]", elements.join(",\n"))
        }
        _ => format!("\"{key}\": {value}"),
    });
    Ok(format!("{{\n{}\n}}\n", lines.collect::<Vec<_>>().join(",\n")))
}

/// Three digits say what a measurement can say.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => thousands(value.round() as i64),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: i64) -> String {
    match value.abs() {
        0..1000 => value.to_string(),
        size => format!("{},{:03}", thousands(value / 1000), size % 1000),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn docs() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
    }

    fn assert_current<F: Figures>(name: &str) {
        let figures: F = read(&docs(), name).unwrap();
        let drawn = fs::read_to_string(docs().join(format!("{name}.svg"))).unwrap();
        assert!(figures.draw() == drawn, "docs/{name}.svg is old: run scripts/bench pictures");
        let data = fs::read_to_string(docs().join(format!("data/{name}.json"))).unwrap();
        assert_eq!(json(&figures).unwrap(), data);
    }

    #[test]
    fn the_pictures_show_the_figures_beside_them() {
        assert_current::<failover::Failovers>("failover");
        assert_current::<leases::Leases>("leases");
        assert_current::<forwarder::Comparison>("forwarder");
        assert_current::<forwarder::Comparison>("forwarder-one-core");
    }

    #[test]
    fn digits() {
        assert_eq!(
            [number(1_234_567.8), number(123.4), number(12.34), number(0.123)],
            ["1,234,568", "123", "12.3", "0.12"]
        );
    }
}
