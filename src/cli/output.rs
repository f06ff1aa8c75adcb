//! What people and scripts see on stdout: lines, tables, JSON; questions and progress go to stderr.
//!
//! Colours are stripped by anstream where `NO_COLOR` is set or nobody is looking.

use std::borrow::Cow;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{Attribute, Cell, ContentArrangement, LineStyle, Table, TableStyle};
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

/// Asks before something that cannot be undone. Nobody is asked when `yes` was given or stdin is no terminal.
///
/// # Errors
/// When the answer is not yes: nothing may be changed then.
pub(crate) fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes || !io::stdin().is_terminal() {
        return Ok(());
    }
    write!(anstream::stderr(), "{question} [y/N] ").context("cannot write to stderr")?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    anyhow::ensure!(
        matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"),
        "not confirmed: nothing was changed (--yes skips the question)"
    );
    Ok(())
}

/// A progress bar on stderr; invisible unless stderr is a terminal.
pub(crate) fn progress(total: u64, doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}")
            .expect("the template is constant and its keys are indicatif's");
    bar.set_style(style);
    bar.set_message(doing);
    bar
}

/// A spinner on stderr for work of unknown length; invisible unless stderr is a terminal.
pub(crate) fn spinner(doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
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
