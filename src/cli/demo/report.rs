//! What the demo tells at its end: a table for people, one object for scripts.

use comfy_table::{Cell, CellAlignment, Color};
use serde_json::json;

use super::verify::Verdict;
use crate::cli::output;

/// Ids and problems that are shown; the counts tell how many there are.
const SHOWN: usize = 10;

/// Writes the verdict as one JSON object, on one line.
pub(super) fn json(verdict: &Verdict) -> anyhow::Result<()> {
    output::json_line(&json!({
        "sent": verdict.sent,
        "accepted": verdict.accepted,
        "refused": verdict.refused,
        "duplicates": verdict.duplicates,
        "completed": verdict.completed,
        "retried": verdict.retried,
        "dead": verdict.dead,
        "lost": verdict.lost.len(),
        "doubled": verdict.doubled.len(),
        "repeated": verdict.repeated,
        "workers_killed": verdict.workers_killed,
        "enqueue_to_start_ms": {
            "p50": verdict.start_ms.map(|ms| ms.p50),
            "p99": verdict.start_ms.map(|ms| ms.p99),
        },
        "problems": verdict.problems,
    }))
}

/// Writes the verdict as a table, with what is wrong below it.
pub(super) fn table(verdict: &Verdict) -> anyhow::Result<()> {
    let mut table = output::table(&[]);
    let mut row = |label: &str, number: String, meaning: &str, good: Option<bool>| {
        let number = Cell::new(number).set_alignment(CellAlignment::Right);
        let number = match good {
            Some(true) => number.fg(Color::Green),
            Some(false) => number.fg(Color::Red),
            None => number,
        };
        table.add_row([Cell::new(label), number, Cell::new(meaning)]);
    };
    let n = |number: usize| output::count(number as u64);
    row("sent", n(verdict.sent), "requests to the gateway", None);
    row(
        "accepted",
        n(verdict.accepted),
        "webhooks stored as a job",
        None,
    );
    row(
        "refused",
        n(verdict.refused),
        "wrong signature: 401, no job",
        None,
    );
    row(
        "duplicates",
        n(verdict.duplicates),
        "sent again: same job id, no second job",
        None,
    );
    row(
        "completed",
        n(verdict.completed),
        "delivered to the handler, which answered 200",
        None,
    );
    row(
        "retried",
        n(verdict.retried),
        "failed attempts, tried again after a backoff",
        None,
    );
    row(
        "dead",
        n(verdict.dead),
        "failed at every attempt: kept in the dead letter",
        None,
    );
    row(
        "workers killed",
        verdict.workers_killed.to_string(),
        "by SIGKILL, with jobs running",
        None,
    );
    row(
        "repeated",
        n(verdict.repeated),
        "deliveries begun again because of the kill",
        None,
    );
    let start = |ms: Option<u64>| ms.map_or_else(|| "-".into(), |ms| format!("{ms} ms"));
    row(
        "enqueue→start p50",
        start(verdict.start_ms.map(|ms| ms.p50)),
        "from stored to the handler",
        None,
    );
    row(
        "enqueue→start p99",
        start(verdict.start_ms.map(|ms| ms.p99)),
        "with the backlog of the burst and the wait for the lease",
        None,
    );
    let lost = verdict.lost.len();
    row(
        "lost",
        n(lost),
        "accepted, and no end or no handler saw it",
        Some(lost == 0),
    );
    let doubled = verdict.doubled.len();
    row(
        "doubled settlements",
        n(doubled),
        "ended more than once",
        Some(doubled == 0),
    );
    output::print(&table, "")?;
    for (what, ids) in [("lost", &verdict.lost), ("doubled", &verdict.doubled)] {
        some(&format!("{what} job"), ids)?;
    }
    some("problem", &verdict.problems)
}

fn some(what: &str, lines: &[String]) -> anyhow::Result<()> {
    for line in lines.iter().take(SHOWN) {
        output::line(format!("{what}: {line}"))?;
    }
    if lines.len() > SHOWN {
        output::line(format!("… and {} more", lines.len() - SHOWN))?;
    }
    Ok(())
}
