//! `millstream queue`: what limits a queue as a whole.

use clap::{Args, Subcommand};
use millstream::inspect::{QueueLimits, QueueLimitsView, Stats};
use millstream::{QueueName, config};

use super::args::Globals;
use super::connect::connect;
use super::output;
use super::parse::{self, number};

/// Show or set what limits a queue.
#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// Show what limits a queue
    Show(Show),
    /// Set what limits a queue, for all producers and workers, from the next call on
    Set(Set),
}

impl Queue {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        match self {
            Self::Show(command) => command.run(globals).await,
            Self::Set(command) => command.run(globals).await,
        }
    }
}

/// Show what limits a queue.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Write JSON: one object with queue, depth (unfinished jobs), paused, and the limits, null where there is none: max_depth,
    /// concurrency, rate, burst
    #[arg(long)]
    json: bool,
}

impl Show {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let (stats, limits) = (queue.stats().await?, queue.queue_limits().await?);
        let depth = depth(&stats);
        if self.json {
            return tell(&stats, &limits);
        }
        let limit = |jobs: Option<u64>| jobs.map_or_else(|| "no limit".into(), output::count);
        let rate = match (limits.rate, limits.burst) {
            (Some(rate), Some(burst)) => format!("{rate}, {burst} at once"),
            _ => "no limit".to_owned(),
        };
        let mut table = output::table(&["queue", &stats.queue]);
        table.add_row(["unfinished jobs", &output::count(depth)]);
        table.add_row(["at most", &limit(limits.max_depth)]);
        table.add_row(["running", &output::count(stats.running)]);
        table.add_row(["at most, over all workers", &limit(limits.concurrency)]);
        table.add_row(["starts", &rate]);
        table.add_row(["paused", if stats.paused { "yes" } else { "no" }]);
        output::print(&table, "")
    }
}

/// Unfinished jobs.
fn depth(stats: &Stats) -> u64 {
    stats.ready + stats.running + stats.scheduled + stats.held
}

fn tell(stats: &Stats, limits: &QueueLimitsView) -> anyhow::Result<()> {
    output::json(&serde_json::json!({
        "queue": stats.queue, "depth": depth(stats), "max_depth": limits.max_depth, "paused": stats.paused,
        "running": stats.running, "concurrency": limits.concurrency, "rate": limits.rate, "burst": limits.burst,
    }))
}

/// Set what limits a queue.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Unfinished jobs at most (ready, running, scheduled and held together): enqueues beyond are refused, nothing is dropped
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=config::DEPTH_MAX),
          required_unless_present_any = ["no_max_depth", "concurrency", "rate", "burst"])]
    max_depth: Option<u64>,
    /// Take the limit away
    #[arg(long, conflicts_with = "max_depth")]
    no_max_depth: bool,
    /// Jobs running at once, over all workers of all processes; 0 takes the limit away
    #[arg(long, value_parser = |text: &str| number(text, parse::queue_concurrency), value_name = "N")]
    concurrency: Option<usize>,
    /// Jobs that start in a time, over all workers: 50/s, 600/m, 1000/h; none takes it away
    #[arg(long, value_parser = parse::group_rate, value_name = "RATE")]
    rate: Option<parse::RateLimit>,
    /// With the rate: jobs at once after a quiet time; 0 for what comes in a second, at least 1
    #[arg(long, value_parser = |text: &str| number(text, parse::burst), value_name = "N")]
    burst: Option<u32>,
    /// Write JSON: what queue show --json writes, as it is then
    #[arg(long)]
    json: bool,
}

impl Set {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let mut limits = QueueLimits::new();
        if let Some(jobs) = self.concurrency {
            limits = limits.concurrency(Some(jobs).filter(|jobs| *jobs > 0));
        }
        if let Some(parse::RateLimit(rate)) = self.rate {
            limits = limits.rate(rate);
        }
        if let Some(jobs) = self.burst {
            limits = limits.burst(Some(jobs).filter(|jobs| *jobs > 0));
        }
        let sets_limits = limits != QueueLimits::new();
        if sets_limits {
            queue.set_queue_limits(&limits).await?;
        }
        let sets_depth = self.max_depth.is_some() || self.no_max_depth;
        if sets_depth {
            queue.set_max_depth(self.max_depth).await?;
        }
        if self.json {
            return tell(&queue.stats().await?, &queue.queue_limits().await?);
        }
        if sets_limits {
            output::line(format!(
                "the limits of {} are set; workers see them within a second",
                self.queue
            ))?;
        }
        if !sets_depth {
            return Ok(());
        }
        match self.max_depth {
            Some(jobs) => output::line(format!(
                "{} takes up to {} unfinished jobs",
                self.queue,
                output::count(jobs)
            )),
            None => output::line(format!("{} takes as many jobs as come", self.queue)),
        }
    }
}
