//! `millstream prune`: removes old completed and dead jobs.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use millstream::QueueName;
use millstream::inspect::{Inspector, Pruned};

use super::args::Globals;
use super::connect::connect;
use super::consent::Consent;
use super::pace::{Pace, at_least};
use super::parse::Rate;
use super::{output, parse};

/// Remove old completed and dead jobs. Workers do so by themselves, by retain_completed and retain_dead.
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("age").required(true).multiple(true)),
    // clap puts flags that a group requires before the arguments.
    override_usage = "millstream prune [OPTIONS] <QUEUE> <--completed-older-than <DURATION>|--dead-older-than <DURATION>>"
)]
pub(crate) struct Prune {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Completed jobs older than this: 30m, 7d
    #[arg(long, group = "age", value_parser = parse::duration, value_name = "DURATION")]
    completed_older_than: Option<Duration>,
    /// Dead jobs older than this: 12h, 30d
    #[arg(long, group = "age", value_parser = parse::duration, value_name = "DURATION")]
    dead_older_than: Option<Duration>,
    /// No faster than this: 5000/s
    #[arg(long, value_parser = parse::rate, value_name = "RATE")]
    rate: Option<Rate>,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    /// Write JSON: completed, dead, producers, dry_run
    #[arg(long)]
    json: bool,
}

impl Prune {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let spinner = output::spinner("counting");
        let (completed, dead) = (self.completed_older_than, self.dead_older_than);
        let found = queue.prune(completed, dead, true).await?;
        spinner.finish_and_clear();
        let pruned = if self.dry_run {
            found
        } else {
            self.prune(&queue, found).await?
        };
        if self.json {
            return output::json(&serde_json::json!({
                "completed": pruned.completed,
                "dead": pruned.dead,
                "producers": pruned.producers,
                "dry_run": self.dry_run,
            }));
        }
        output::line(format!(
            "{} {}, {} and {}",
            if self.dry_run {
                "would remove"
            } else {
                "removed"
            },
            output::counted(pruned.completed, "completed job"),
            output::counted(pruned.dead, "dead job"),
            output::counted(pruned.producers, "idle producer"),
        ))
    }

    async fn prune(&self, queue: &Inspector, found: Pruned) -> anyhow::Result<Pruned> {
        let total = found.completed + found.dead;
        if total > 0 {
            let question = format!(
                "Remove {} and {} of {} for good{}?",
                output::counted(found.completed, "completed job"),
                output::counted(found.dead, "dead job"),
                self.queue,
                at_least(self.rate, total)
            );
            self.consent.to(&question)?;
        }
        let mut pace = Pace::begin(self.rate, total, "pruning", "removed")?;
        let mut walk = queue.walk_prune(self.completed_older_than, self.dead_older_than);
        let mut pruned = Pruned::default();
        loop {
            pace.wait().await?;
            let step = walk.next(pace.step()).await;
            let Some(step) = step.with_context(|| pace.so_far())? else {
                break;
            };
            pruned += step;
            let removed = step.completed + step.dead;
            pace.step_done(removed, removed);
        }
        pace.finish();
        Ok(pruned)
    }
}
