//! `millstream events`: what happened in a queue.

use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, Color};
use millstream::inspect::{EventKind, EventView};
use millstream::{JobId, QueueName};

use super::args::Globals;
use super::connect::connect;
use super::{output, parse};

/// Wait after a failed look, so that a Redis that is away is not asked without end.
const PAUSE: Duration = Duration::from_secs(1);

/// Show what happened in a queue: retried, dead, stalled, cancelled, redriven, purged, paused … About the last 10,000 events are kept.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Go on with what happens from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Events at most that have happened already, the newest; with --follow none of them unless given [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: Option<u32>,
    /// Write JSON, one object a line: entry, at_ms, event, job, detail
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let limit = match (self.limit, self.follow) {
            (None, true) => 0,
            (limit, _) => limit.unwrap_or(50),
        };
        let mut last = None;
        if limit > 0 {
            let events = queue.recent_events(limit as usize).await?;
            last = events.last().map(|event| event.entry.clone());
            self.print(&events)?;
        }
        if !self.follow {
            return Ok(());
        }
        let mut follower = queue.follow_events(last).await?;
        let mut away = false;
        loop {
            match follower.next().await {
                Ok(page) => {
                    away = false;
                    if page.missed {
                        tracing::warn!(queue = %self.queue, "some events are gone before they could be shown");
                    }
                    for event in &page.events {
                        self.follow_one(event)?;
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(%error, "cannot look; trying again");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn print(&self, events: &[EventView]) -> anyhow::Result<()> {
        if self.json {
            return events.iter().try_for_each(output::json_line);
        }
        if self.follow {
            return events.iter().try_for_each(|event| self.follow_one(event));
        }
        let mut table = output::table(&["at", "event", "job", "detail"]);
        for event in events {
            table.add_row([
                Cell::new(output::time(Some(event.at_ms))),
                Cell::new(output::clean(event.event.name())).fg(colour(&event.event)),
                Cell::new(event.job.as_ref().map_or("-", JobId::as_str)),
                Cell::new(output::clean(&event.detail)),
            ]);
        }
        output::print_rows(&mut table, Some("detail"), &["at"], "no events yet")
    }

    fn follow_one(&self, event: &EventView) -> anyhow::Result<()> {
        if self.json {
            return output::json_line(event);
        }
        output::line(format!(
            "{}  {:<9}  {}  {}",
            output::time(Some(event.at_ms)),
            output::clean(event.event.name()),
            event.job.as_ref().map_or("-", JobId::as_str),
            output::clean(&event.detail)
        ))
    }
}

fn colour(kind: &EventKind) -> Color {
    match kind {
        EventKind::Dead | EventKind::Orphaned => Color::Red,
        EventKind::Stalled | EventKind::Paused | EventKind::Skipped => Color::Yellow,
        _ => Color::Reset,
    }
}
