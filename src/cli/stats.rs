//! `millstream stats`: a queue's counts.

use clap::Args;
use comfy_table::{Cell, CellAlignment, Color};

use super::args::Globals;
use super::connect::connect;
use super::{output, parse};
use millstream::{QueueName, inspect};

/// Show a queue's counts.
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// The queue [default: every queue there is]
    #[arg(value_parser = parse::queue)]
    queue: Option<QueueName>,
    /// Write JSON: an object for one queue, a list without QUEUE
    #[arg(long)]
    json: bool,
}

impl Stats {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = connect(globals).await?;
        let names = match &self.queue {
            Some(queue) => vec![queue.to_string()],
            None => client.queues().await?,
        };
        let mut all = Vec::with_capacity(names.len());
        for name in &names {
            all.push(client.inspect(name)?.stats().await?);
        }
        match (self.json, self.queue.is_some()) {
            (true, true) => output::json(&all[0]),
            (true, false) => output::json(&all),
            (false, true) => one(&all[0]),
            (false, false) => many(&all),
        }
    }
}

fn one(stats: &inspect::Stats) -> anyhow::Result<()> {
    let mut table = output::table(&["queue", &stats.queue]);
    let mut row = |label: &str, value: String| {
        table.add_row([
            Cell::new(label),
            Cell::new(value).set_alignment(CellAlignment::Right),
        ]);
    };
    let state = if stats.paused {
        "paused: no worker claims"
    } else {
        "open"
    };
    row("state", state.into());
    for (label, number) in [
        ("ready", stats.ready),
        ("running", stats.running),
        ("scheduled", stats.scheduled),
        ("held", stats.held),
        ("dead", stats.dead),
    ] {
        row(label, output::count(number));
    }
    row("oldest ready job waits", output::age(stats.oldest_ready_ms));
    for (label, number) in [
        ("enqueued since the queue began", stats.enqueued_total),
        ("completed", stats.completed_total),
        ("attempts failed", stats.failed_total),
        ("attempts retried", stats.retried_total),
        ("jobs dead-lettered", stats.dead_total),
        ("jobs taken from a silent worker", stats.stalled_total),
    ] {
        row(label, output::count(number));
    }
    output::print(&table, "")
}

fn many(all: &[inspect::Stats]) -> anyhow::Result<()> {
    let mut table = output::table(&[
        "queue",
        "ready",
        "running",
        "scheduled",
        "held",
        "dead",
        "oldest ready",
        "completed",
        "state",
    ]);
    for stats in all {
        let number = |n: u64| Cell::new(output::count(n)).set_alignment(CellAlignment::Right);
        let dead = match stats.dead {
            0 => number(0),
            dead => number(dead).fg(Color::Red),
        };
        let state = if stats.paused {
            Cell::new("paused").fg(Color::Yellow)
        } else {
            Cell::new("open")
        };
        table.add_row([
            Cell::new(&stats.queue),
            number(stats.ready),
            number(stats.running),
            number(stats.scheduled),
            number(stats.held),
            dead,
            Cell::new(output::age(stats.oldest_ready_ms)),
            number(stats.completed_total),
            state,
        ]);
    }
    let spare = ["held", "oldest ready", "completed", "scheduled"];
    output::print_rows(&mut table, None, &spare, "no queues yet")
}
