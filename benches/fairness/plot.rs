//! The plot: what share of the fresh jobs had started after which time, a curve for each backlog.

use std::fmt::Write as _;
use std::time::Duration;

/// Of the whole, and of the frame within it.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 310.0;
/// The axis of time, from and to; each step is twice the one before.
const FIRST_MS: f64 = 0.25;
const LAST_MS: f64 = 256.0;
const COLOURS: [&str; 2] = ["#4c78a8", "#e45756"];

/// `curves`: how many jobs of one tenant waited, and the waits of the fresh ones, the shortest first.
pub(super) fn drawn(curves: &[(usize, Vec<Duration>)]) -> String {
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="{LEFT}" y="20" font-size="14">From enqueue to start: a fresh job of another tenant (share that has started)</text>"##
    );
    for percent in [0, 25, 50, 75, 99] {
        let y = height_of(f64::from(percent) / 100.0);
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}" stroke="#dddddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{percent} %</text>"##,
            LEFT - 6.0,
            y + 4.0
        );
    }
    let mut ms = FIRST_MS;
    while ms <= LAST_MS {
        let x = place_of(ms);
        let _ = writeln!(
            svg,
            r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{BOTTOM}" stroke="#eeeeee"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{ms} ms</text>"##,
            BOTTOM + 18.0
        );
        ms *= 2.0;
    }
    for (nth, (waiting, waits)) in curves.iter().enumerate() {
        let colour = COLOURS[nth % COLOURS.len()];
        let points = waits.iter().enumerate().map(|(place, wait)| {
            let share = (place + 1) as f64 / waits.len() as f64;
            format!(
                "{:.1},{:.1}",
                place_of(wait.as_secs_f64() * 1e3),
                height_of(share)
            )
        });
        let points: Vec<String> = points.collect();
        let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
        let _ = writeln!(
            svg,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="2" points="{}"/>
<text x="{LEFT}" y="{:.1}" fill="{colour}">{waiting} jobs of one tenant wait: p50 {:.1?}, p99 {:.1?}</text>"#,
            points.join(" "),
            HEIGHT - 18.0 + 14.0 * nth as f64,
            at(50),
            at(99)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn place_of(ms: f64) -> f64 {
    let whole = (LAST_MS / FIRST_MS).log2();
    let share = (ms.clamp(FIRST_MS, LAST_MS) / FIRST_MS).log2() / whole;
    LEFT + (RIGHT - LEFT) * share
}

fn height_of(share: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * share
}
