//! Keeps the schedules of the config file in Redis: sets them when a process starts, and again when Redis has lost them.

use std::time::Duration;

use millstream::Millstream;
use tokio::task::JoinHandle;

use super::settings::{SCHEDULE_ORIGIN, ScheduleSettings};

/// How often a process looks whether Redis still has them.
const LOOK: Duration = Duration::from_secs(10);

/// Sets the schedules of the file, and removes those that have left it.
pub(crate) async fn synchronise(
    client: &Millstream,
    settings: &ScheduleSettings,
) -> anyhow::Result<()> {
    for (queue, schedules) in &settings.queues {
        let there = client.schedules(queue)?;
        let synced = there
            .sync(SCHEDULE_ORIGIN, schedules.clone(), settings.is_whole)
            .await?;
        for id in &synced.removed {
            tracing::info!(
                queue,
                schedule = id,
                "removed the schedule: it has left the config file"
            );
        }
        for id in &synced.left {
            tracing::warn!(
                queue,
                schedule = id,
                "this schedule came from a config file that had [schedules], and this one has none: remove it with \
                 millstream cron remove, or write an empty [schedules]"
            );
        }
        if synced.set > 0 {
            tracing::info!(queue, set = synced.set, "schedules of the config file");
        }
    }
    Ok(())
}

/// Sets them again whenever Redis has forgotten that they were set, until it is aborted. What somebody removed by hand
/// stays removed until the next start.
pub(crate) fn keep(client: Millstream, settings: ScheduleSettings) -> Option<JoinHandle<()>> {
    if settings
        .queues
        .iter()
        .all(|(_, schedules)| schedules.is_empty())
    {
        return None;
    }
    Some(tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = look(&client, &settings).await {
                tracing::debug!(%error, "cannot look after the schedules of the config file; trying again");
            }
        }
    }))
}

async fn look(client: &Millstream, settings: &ScheduleSettings) -> anyhow::Result<()> {
    for (queue, schedules) in settings
        .queues
        .iter()
        .filter(|(_, schedules)| !schedules.is_empty())
    {
        let there = client.schedules(queue)?;
        if !there.is_synced(SCHEDULE_ORIGIN).await? {
            tracing::warn!(
                queue,
                "redis has lost the schedules of the config file; setting them again"
            );
            there
                .sync(SCHEDULE_ORIGIN, schedules.clone(), false)
                .await?;
        }
    }
    Ok(())
}
