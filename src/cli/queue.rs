//! `millstream queue`: what limits a queue as a whole.

use clap::{Args, Subcommand};
use millstream::{QueueName, config};

use super::args::Globals;
use super::connect::connect;
use super::{output, parse};

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
    /// Write JSON: one object with queue, depth (unfinished jobs), max_depth (null: no limit), paused
    #[arg(long)]
    json: bool,
}

impl Show {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let (stats, max_depth) = (queue.stats().await?, queue.max_depth().await?);
        let depth = stats.ready + stats.running + stats.scheduled + stats.held;
        if self.json {
            return output::json(&serde_json::json!({
                "queue": stats.queue, "depth": depth, "max_depth": max_depth, "paused": stats.paused,
            }));
        }
        let limit = max_depth.map_or_else(|| "no limit".into(), output::count);
        let mut table = output::table(&["queue", &stats.queue]);
        table.add_row(["unfinished jobs", &output::count(depth)]);
        table.add_row(["at most", &limit]);
        table.add_row(["paused", if stats.paused { "yes" } else { "no" }]);
        output::print(&table, "")
    }
}

/// Set what limits a queue.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Unfinished jobs at most (ready, running, scheduled and held together): enqueues beyond are refused, nothing is dropped
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=config::DEPTH_MAX),
          required_unless_present = "no_max_depth")]
    max_depth: Option<u64>,
    /// Take the limit away
    #[arg(long, conflicts_with = "max_depth")]
    no_max_depth: bool,
}

impl Set {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        queue.set_max_depth(self.max_depth).await?;
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
