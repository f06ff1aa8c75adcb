//! `millstream top`: a live view of queues, workers and failures, with a few keys to act.
//!
//! What is shown is gathered in the background ([`gather`]), so the view answers keys while Redis does not. [`app`] says what
//! a key does, [`view`] draws. Without a terminal that is a screen, or without the feature `tui`, it is
//! `stats --watch`.

#[cfg(feature = "tui")]
mod app;
#[cfg(feature = "tui")]
mod gather;
#[cfg(feature = "tui")]
mod view;

use std::time::Duration;

use clap::Args;
use millstream::QueueName;

use super::args::Globals;
use super::{parse, stats};

/// A live view of queues, workers and failures. Keys: arrows or j/k to select, Tab to change the pane, Enter to look into a job, p to pause
/// or resume, r to redrive (both ask), q to leave. Without a terminal, or on one with TERM=dumb, it writes what `stats --watch` writes.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The queue [default: every queue there is]
    #[arg(value_parser = parse::queue)]
    queue: Option<QueueName>,
    /// How often to look, 100ms to 1h
    #[arg(long, value_parser = parse::interval, value_name = "DURATION", default_value = "1s")]
    interval: Duration,
}

impl Top {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        #[cfg(feature = "tui")]
        {
            use std::io::IsTerminal as _;
            if super::output::has_screen() && std::io::stdin().is_terminal() {
                let client = super::connect::connect(globals).await?;
                return app::run(
                    client,
                    self.queue.map(|queue| queue.to_string()),
                    self.interval,
                )
                .await;
            }
        }
        let watch = stats::Stats::watching(self.queue, self.interval);
        watch.run(globals).await
    }
}
