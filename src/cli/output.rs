//! What people and scripts see on stdout: lines, tables, JSON; progress goes to stderr.
//!
//! Colours are stripped by anstream where `NO_COLOR` is set or nobody is looking.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{
    Attribute, Cell, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Writes one line to stdout.
pub(crate) fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    writeln!(anstream::stdout(), "{}", text.as_ref()).context("cannot write to stdout")
}

/// Writes `value` to stdout as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value).context("cannot write JSON")?)
}

/// Writes `value` to stdout as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value).context("cannot write JSON")?)
}

/// Lines above, below and under the header alone: rows stay close, and cells can be copied.
const RULE: LineStyle = LineStyle::none().fill('─').junction('─');
const STYLE: TableStyle = TableStyle::new()
    .top_border(RULE)
    .header_separator(RULE)
    .bottom_border(RULE);

/// An empty table that will fit the terminal.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .enforce_styling();
    if !header.is_empty() {
        table.set_header(
            header
                .iter()
                .map(|title| Cell::new(title).add_attribute(Attribute::Bold)),
        );
    }
    table
}

/// Writes the table, or `empty` when it has no rows.
pub(crate) fn print(table: &Table, empty: &str) -> anyhow::Result<()> {
    if table.is_empty() {
        line(empty)
    } else {
        line(table.to_string())
    }
}

/// Spaces beside the content of a cell, and the one between two columns.
const CELL_PADDING: usize = 2;
const COLUMN_GAP: usize = 1;
/// What the last column of a listing may be cut to.
const LAST_COLUMN_MIN: usize = 16;
/// What any column may be cut to where nothing else helps, padding and gap included.
const COLUMN_MIN: usize = 4 + CELL_PADDING + COLUMN_GAP;

/// Writes a listing: one line a row, and no cell wrapped, so that ids can be copied.
///
/// Where the terminal is too narrow, `cut`, a column of long text, is cut short first. Then columns are left out: `spare`
/// names them, the least important first. Below some fifty columns what is left is cut as well, ids last.
pub(crate) fn print_rows(
    table: &mut Table,
    cut: Option<&str>,
    spare: &[&str],
    empty: &str,
) -> anyhow::Result<()> {
    let left_out = fit(table, table.width(), cut, spare);
    print(table, empty)?;
    if !left_out.is_empty() && !table.is_empty() {
        line(format!(
            "left out on this narrow terminal: {}",
            left_out.join(", ")
        ))?;
    }
    Ok(())
}

/// Fixes the width of every column for a terminal of `width`. Returns the columns that are left out.
fn fit<'a>(
    table: &mut Table,
    width: Option<u16>,
    cut: Option<&str>,
    spare: &[&'a str],
) -> Vec<&'a str> {
    let titles: Vec<String> = table.header().map_or_else(Vec::new, |header| {
        header.cell_iter().map(Cell::content).collect()
    });
    let mut widths: Vec<usize> = table
        .column_max_content_widths()
        .into_iter()
        .map(|content| usize::from(content) + CELL_PADDING + COLUMN_GAP)
        .collect();
    let at = |title: &str| titles.iter().position(|other| other == title);
    let cut = cut.and_then(at);
    let mut left_out = Vec::new();
    if let Some(width) = width {
        // The last column has no gap behind it.
        let room = usize::from(width) + COLUMN_GAP;
        let shortest = |widths: &[usize]| {
            let surplus = cut.map_or(0, |cut| widths[cut].saturating_sub(LAST_COLUMN_MIN));
            widths.iter().sum::<usize>() - surplus
        };
        for &title in spare {
            let Some(index) = at(title) else { continue };
            if shortest(&widths) > room {
                widths[index] = 0;
                left_out.push(title);
            }
        }
        if let Some(cut) = cut {
            let others = widths.iter().sum::<usize>() - widths[cut];
            let least = widths[cut].min(LAST_COLUMN_MIN);
            widths[cut] = widths[cut].min(room.saturating_sub(others)).max(least);
        }
        cut_all(&mut widths, room);
    }
    for (column, &width) in table.column_iter_mut().zip(&widths) {
        column.set_constraint(match width {
            0 => ColumnConstraint::Hidden,
            width => ColumnConstraint::Absolute(Width::Fixed(
                u16::try_from(width - COLUMN_GAP).unwrap_or(u16::MAX),
            )),
        });
    }
    for row in table.row_iter_mut() {
        row.max_height(1);
    }
    left_out
}

/// Takes from the widest column until all fit, and from the first, where the ids are, only once the others are as narrow as can be.
fn cut_all(widths: &mut [usize], room: usize) {
    for first in [1, 0] {
        while widths.iter().sum::<usize>() > room
            && let Some(widest) = widths.iter_mut().skip(first).max()
            && *widest > COLUMN_MIN
        {
            *widest -= 1;
        }
    }
}

/// Text that came from outside, made safe for a terminal: control characters are shown, not obeyed.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && c != '\n';
    if !text.contains(obeyed) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// Unix milliseconds as UTC with three digits of them, so that columns line up; or `-`.
pub(crate) fn time(unix_ms: Option<u64>) -> String {
    unix_ms
        .and_then(|ms| i64::try_from(ms).ok())
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| "-".into(), |time| format!("{time:.3}"))
}

/// Milliseconds as `1h 2m 3s`, or `-`.
pub(crate) fn age(ms: Option<u64>) -> String {
    ms.map_or_else(
        || "-".into(),
        |ms| {
            // Below ten seconds the fraction matters, above it is noise.
            let ms = if ms < 10_000 { ms } else { ms / 1000 * 1000 };
            humantime::format_duration(Duration::from_millis(ms)).to_string()
        },
    )
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 job`, `2 jobs`, `1,000 jobs`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {noun}{s}", count(number))
}

/// Whether the terminal can only write one line after the other, as those within editors do.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Whether stdout is a screen: a terminal on which what was written can be written over.
pub(crate) fn has_screen() -> bool {
    io::stdout().is_terminal() && !is_dumb()
}

/// Where progress is shown: on stderr, if that is a screen.
fn progress_target() -> ProgressDrawTarget {
    match is_dumb() {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    }
}

/// A progress bar on stderr; invisible unless stderr is a terminal.
pub(crate) fn progress(total: u64, doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), progress_target());
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}")
            .expect("the template is constant and its keys are indicatif's");
    bar.set_style(style);
    bar.set_message(doing);
    bar
}

/// A spinner on stderr for work of unknown length; invisible unless stderr is a terminal.
pub(crate) fn spinner(doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, progress_target());
    bar.set_message(doing);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_from_outside_are_shown_not_obeyed() {
        assert_eq!(clean("plain ü\nnext"), "plain ü\nnext");
        assert_eq!(clean("\u{1b}[2Jgone\r"), "\\u{1b}[2Jgone\\r");
    }

    #[test]
    fn numbers_are_grouped_in_threes() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    const ID: &str = "1700000000000-12345";

    /// A listing at this width, and what it leaves out.
    fn listing(width: Option<u16>) -> (String, Vec<&'static str>) {
        let header = ["id", "name", "state", "bytes", "died", "last error"];
        let mut table = table(&header);
        let error = "connection refused by 127.0.0.1:3000, and the rest of a long story";
        let died = time(Some(1_700_000_000_000));
        table.add_row([ID, "order.created", "scheduled", "1,024", &died, error]);
        table.add_row(["2-0", "a", "dead", "5", &died, ""]);
        let spare = ["bytes", "died", "last error"];
        let left_out = fit(&mut table, width, Some("last error"), &spare);
        (table.to_string(), left_out)
    }

    #[test]
    fn ids_names_and_states_stay_whole_on_a_narrow_terminal() {
        for (width, missing) in [
            (None, &[][..]),
            (Some(200), &[]),
            (Some(110), &[]),
            (Some(80), &["bytes", "died"]),
            (Some(60), &["bytes", "died", "last error"]),
            (Some(45), &["bytes", "died", "last error"]),
            (Some(40), &["bytes", "died", "last error"]),
        ] {
            let (text, left_out) = listing(width);
            assert_eq!(left_out, missing, "{width:?}:\n{text}");
            let lines: Vec<&str> = text.lines().collect();
            // Rule, header, rule, two rows, rule.
            assert_eq!(lines.len(), 6, "{width:?}:\n{text}");
            // The id is the last to be cut.
            let whole = match width {
                Some(..60) => &[ID][..],
                _ => &[ID, "order.created", "scheduled"],
            };
            for whole in whole {
                assert!(lines[3].contains(whole), "{width:?}:\n{text}");
            }
            if let Some(width) = width {
                // The header is bold, by characters that have no width.
                let plain = lines.iter().filter(|line| !line.contains('\u{1b}'));
                let longest = plain.map(|line| line.chars().count()).max();
                assert!(longest <= Some(width.into()), "{width}:\n{text}");
            }
        }
        assert!(listing(None).0.contains("long story"));
        // Too narrow for anything: a mess, and no panic.
        for width in 0..25 {
            assert!(listing(Some(width)).0.contains('─'), "{width}");
        }
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(0, "job"), "0 jobs");
        assert_eq!(counted(1, "dead job"), "1 dead job");
        assert_eq!(counted(1_000, "job"), "1,000 jobs");
    }

    #[test]
    fn times_are_utc_and_ages_are_short() {
        assert_eq!(time(Some(1_700_000_000_000)), "2023-11-14T22:13:20.000Z");
        assert_eq!(time(None), "-");
        assert_eq!(age(Some(1_250)), "1s 250ms");
        assert_eq!(age(Some(61_999)), "1m 1s");
    }
}
