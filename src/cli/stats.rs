//! `millstream stats`: a queue's counts, once or again and again.

use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{Cell, CellAlignment, Color};

use super::args::Globals;
use super::connect::connect;
use super::{output, parse};
use millstream::{Millstream, QueueName, inspect};

/// Show a queue's counts.
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// The queue [default: every queue there is]
    #[arg(value_parser = parse::queue)]
    queue: Option<QueueName>,
    /// Show them again and again, with rates, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
    /// With --watch: how often, 100ms to 1h
    #[arg(long, value_parser = parse::interval, value_name = "DURATION", default_value = "1s", requires = "watch")]
    interval: Duration,
    /// Write JSON: an object for one queue, a list without QUEUE; with --watch one a line
    #[arg(long)]
    json: bool,
}

impl Stats {
    /// `stats --watch`, for `top` where there is no terminal.
    pub(super) fn watching(queue: Option<QueueName>, interval: Duration) -> Self {
        Self {
            queue,
            watch: true,
            interval,
            json: false,
        }
    }

    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = connect(globals).await?;
        if self.watch {
            return self.watch(&client).await;
        }
        let all = self.read(&client).await?;
        match (self.json, self.queue.is_some()) {
            (true, true) => output::json(&all[0]),
            (true, false) => output::json(&all),
            (false, true) => one(&all[0], None),
            (false, false) => many(&all, &[]),
        }
    }

    async fn read(&self, client: &Millstream) -> anyhow::Result<Vec<inspect::Stats>> {
        let names = match &self.queue {
            Some(queue) => vec![queue.to_string()],
            None => client.queues().await?,
        };
        let mut all = Vec::with_capacity(names.len());
        for name in &names {
            all.push(client.inspect(name)?.stats().await?);
        }
        Ok(all)
    }

    async fn watch(&self, client: &Millstream) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before: Option<(Instant, Vec<inspect::Stats>)> = None;
        loop {
            tick.tick().await;
            let all = match self.read(client).await {
                Ok(all) => all,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "cannot look; trying again");
                    continue;
                }
            };
            let now = Instant::now();
            let rates: Vec<Rates> = match &before {
                Some((then, old)) => Rates::between(old, &all, now - *then),
                None => Vec::new(),
            };
            match (self.json, self.queue.is_some()) {
                (true, true) => output::json_line(&all[0])?,
                (true, false) => output::json_line(&all)?,
                (false, single) => {
                    if output::has_screen() {
                        // To the upper left, and what is below away.
                        print!("\x1b[H\x1b[2J");
                    }
                    match single {
                        true => one(&all[0], rates.first())?,
                        false => many(&all, &rates)?,
                    }
                }
            }
            before = Some((now, all));
        }
    }
}

/// What a queue does, per second.
#[derive(Debug)]
pub(super) struct Rates {
    pub(super) queue: String,
    pub(super) enqueued: f64,
    pub(super) completed: f64,
    pub(super) failed: f64,
}

impl Rates {
    pub(super) fn between(
        old: &[inspect::Stats],
        new: &[inspect::Stats],
        apart: Duration,
    ) -> Vec<Self> {
        let pairs = new.iter().filter_map(|new| {
            let old = old.iter().find(|old| old.queue == new.queue)?;
            Some((old, new))
        });
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / apart.as_secs_f64();
        pairs
            .map(|(old, new)| Self {
                queue: new.queue.clone(),
                enqueued: rate(old.enqueued_total, new.enqueued_total),
                completed: rate(old.completed_total, new.completed_total),
                failed: rate(old.failed_total, new.failed_total),
            })
            .collect()
    }
}

/// `0.5`, `12`, `1,234`: enough digits to see that something moves.
pub(super) fn per_second(rate: f64) -> String {
    if rate < 9.95 && rate > 0.0 {
        format!("{rate:.1}")
    } else {
        output::count(rate.round() as u64)
    }
}

fn one(stats: &inspect::Stats, rates: Option<&Rates>) -> anyhow::Result<()> {
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
    if let Some(text) = lanes(stats) {
        row("ready by lane", text);
    }
    row("oldest ready job waits", output::age(stats.oldest_ready_ms));
    if let Some(text) = circuits(stats) {
        row("circuit", text);
    }
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
    if let Some(rates) = rates {
        row("enqueued per second", per_second(rates.enqueued));
        row("completed per second", per_second(rates.completed));
        row("attempts failed per second", per_second(rates.failed));
    }
    output::print(&table, "")
}

/// `handed back 1, high 2, normal 3`, in the order in which they run; nothing while all ready jobs are normal ones.
fn lanes(stats: &inspect::Stats) -> Option<String> {
    let jobs = |lane: &str| stats.ready_by_lane.get(lane).copied().unwrap_or_default();
    if jobs("normal") == stats.ready {
        return None;
    }
    let lanes = ["next", "high", "normal", "low", "suspect"].into_iter();
    let told = lanes.filter(|lane| jobs(lane) > 0).map(|lane| {
        let label = if lane == "next" { "handed back" } else { lane };
        format!("{label} {}", output::count(jobs(lane)))
    });
    Some(told.collect::<Vec<_>>().join(", "))
}

/// `open in 2 workers: 127.0.0.1:3000 is down`.
fn circuits(stats: &inspect::Stats) -> Option<String> {
    let open = &stats.open_circuits;
    let mut targets: Vec<&str> = open.iter().map(|circuit| circuit.target.as_str()).collect();
    targets.sort_unstable();
    targets.dedup();
    let workers = match open.len() {
        0 => return None,
        1 => "1 worker".to_owned(),
        workers => format!("{workers} workers"),
    };
    let verb = if targets.len() == 1 { "is" } else { "are" };
    Some(format!(
        "open in {workers}: {} {verb} down",
        output::clean(&targets.join(", "))
    ))
}

fn many(all: &[inspect::Stats], rates: &[Rates]) -> anyhow::Result<()> {
    let mut header = vec![
        "queue",
        "ready",
        "running",
        "scheduled",
        "held",
        "dead",
        "oldest ready",
        "completed",
        "state",
    ];
    if !rates.is_empty() {
        header.extend(["in/s", "done/s", "failed/s"]);
    }
    let mut table = output::table(&header);
    for stats in all {
        let number = |n: u64| Cell::new(output::count(n)).set_alignment(CellAlignment::Right);
        let dead = match stats.dead {
            0 => number(0),
            dead => number(dead).fg(Color::Red),
        };
        let state = if stats.paused {
            Cell::new("paused").fg(Color::Yellow)
        } else if !stats.open_circuits.is_empty() {
            Cell::new("target down").fg(Color::Red)
        } else {
            Cell::new("open")
        };
        let mut row = vec![
            Cell::new(&stats.queue),
            number(stats.ready),
            number(stats.running),
            number(stats.scheduled),
            number(stats.held),
            dead,
            Cell::new(output::age(stats.oldest_ready_ms)),
            number(stats.completed_total),
            state,
        ];
        if !rates.is_empty() {
            let own = rates.iter().find(|rates| rates.queue == stats.queue);
            let cell = |of: fn(&Rates) -> f64| {
                let text = own.map_or_else(|| "-".into(), |rates| per_second(of(rates)));
                Cell::new(text).set_alignment(CellAlignment::Right)
            };
            row.extend([
                cell(|rates| rates.enqueued),
                cell(|rates| rates.completed),
                cell(|rates| rates.failed),
            ]);
        }
        table.add_row(row);
    }
    let spare = ["held", "completed", "failed/s", "oldest ready", "scheduled"];
    output::print_rows(&mut table, None, &spare, "no queues yet")
}
