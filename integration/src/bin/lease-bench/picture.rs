//! The age of the node's lease while apiservers are unplugged, as a picture. Pure.
//! In: the outages of each row, of which the first three are drawn. Out: SVG.

use std::time::Duration;

use integration::real::node::arm::Arm;
use integration::real::node::leases::Outage;
use integration::svg::{rect, text};

const LEFT: f64 = 110.0;
const TOP: f64 = 60.0;
/// Of one outage.
const WIDTH: f64 = 240.0;
const GAP: f64 = 15.0;
const HEIGHT: f64 = 120.0;
const STEP: f64 = 190.0;
/// What is drawn of each outage after its end.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// The oldest lease that is drawn, in seconds.
const OLDEST: f64 = 50.0;
/// The length of a node's lease, in seconds: kubelet's default.
const EXPIRED: f64 = 40.0;

const FRESH: &str = "#4c9f70";
const DEAD: &str = "#c0392b";
const OUTAGE: &str = "#eeeeee";

/// Draws it.
pub fn draw(rows: &[(Arm, Vec<Outage>)], lasting: Duration) -> String {
    let height = TOP + STEP * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"900\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let title = format!(
        "Age of a node's lease while each of three apiservers is unplugged for {} s (grey); at 40 s it has expired: \
         the node is dead to the cluster",
        lasting.as_secs()
    );
    text(&mut svg, 20.0, 24.0, &title);
    text(&mut svg, 20.0, 42.0, "Below each outage: the controllers that lost leadership in it, and when");
    for (row, (arm, outages)) in rows.iter().enumerate() {
        let top = TOP + STEP * row as f64;
        for (i, words) in arm.to_string().split(", ").enumerate() {
            text(&mut svg, 20.0, top + 14.0 + 16.0 * i as f64, words);
        }
        for (column, outage) in outages.iter().take(3).enumerate() {
            panel(&mut svg, (LEFT + (WIDTH + GAP) * column as f64, top), column + 1, outage, lasting);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, (left, top): (f64, f64), number: usize, outage: &Outage, lasting: Duration) {
    let whole = lasting + AFTERWARDS;
    let x = |at: Duration| left + at.div_duration_f64(whole) * WIDTH;
    let y = |age: f64| top + HEIGHT - age.min(OLDEST) / OLDEST * HEIGHT;
    rect(svg, (left, top, x(lasting) - left, HEIGHT), OUTAGE);
    for pair in outage.ages.windows(2) {
        let [(from, age), (until, _)] = pair else { continue };
        if *from < whole {
            let seconds = age.as_secs_f64();
            let colour = if seconds < EXPIRED { FRESH } else { DEAD };
            let right = x((*until).min(whole));
            rect(svg, (x(*from), y(seconds), right - x(*from), top + HEIGHT - y(seconds)), colour);
        }
    }
    rect(svg, (left, y(EXPIRED), WIDTH, 0.5), "black");
    text(svg, left, top + HEIGHT + 16.0, &format!("apiserver {number} unplugged"));
    for (i, (name, at)) in outage.lost.iter().enumerate() {
        let down = top + HEIGHT + 32.0 + 14.0 * i as f64;
        text(svg, left, down, &format!("{name}: after {} s", at.as_secs()));
    }
}
