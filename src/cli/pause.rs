//! `millstream pause` and `millstream resume`.

use clap::Args;
use millstream::QueueName;

use super::args::Globals;
use super::connect::connect;
use super::{output, parse};

/// Let no worker claim from a queue; running jobs run on, and enqueueing goes on.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Write JSON: queue, paused
    #[arg(long)]
    json: bool,
}

impl Pause {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        connect(globals)
            .await?
            .inspect(self.queue.as_str())?
            .pause()
            .await?;
        if self.json {
            return tell(&self.queue, true);
        }
        output::line(format!(
            "{0} is paused; workers see it within a second. End it with: millstream resume {0}",
            self.queue
        ))
    }
}

/// Let workers claim from a paused queue again.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Write JSON: queue, paused
    #[arg(long)]
    json: bool,
}

impl Resume {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        connect(globals)
            .await?
            .inspect(self.queue.as_str())?
            .resume()
            .await?;
        if self.json {
            return tell(&self.queue, false);
        }
        output::line(format!("{} is open", self.queue))
    }
}

fn tell(queue: &QueueName, paused: bool) -> anyhow::Result<()> {
    output::json(&serde_json::json!({ "queue": queue.to_string(), "paused": paused }))
}
