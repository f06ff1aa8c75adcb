//! Drops finished jobs when their time is over, and producers that no longer call.

use std::time::Duration;

use super::{Leading, STEP};
use crate::broker::Broker;
use crate::config;
use crate::error::Result;
use crate::redis::jittered;

/// How often it looks. Ages are counted in hours and days, so a minute is soon enough.
const EVERY: Duration = Duration::from_secs(60);
/// How many of each kind go in one step.
const LIMIT: usize = 500;

pub(crate) async fn run(
    broker: Broker,
    retain_completed: Duration,
    retain_dead: Duration,
    leading: Leading,
) {
    loop {
        tokio::time::sleep(jittered(EVERY)).await;
        if leading.get()
            && let Err(error) = prune(&broker, Some(retain_completed), Some(retain_dead)).await
        {
            tracing::warn!(queue = %broker.queue, %error, "cannot prune; trying again");
        }
    }
}

/// Prunes until nothing is old enough, in bounded steps. Returns completed, dead, producers.
pub(crate) async fn prune(
    broker: &Broker,
    completed: Option<Duration>,
    dead: Option<Duration>,
) -> Result<(u64, u64, u64)> {
    let (mut producers, mut cursor) = (Some(config::PRODUCER_IDLE), None);
    let mut total = (0, 0, 0);
    loop {
        let step = broker
            .prune(completed, dead, producers, cursor.as_deref(), LIMIT, STEP)
            .await?;
        total = (
            total.0 + step.completed,
            total.1 + step.dead,
            total.2 + step.producers,
        );
        cursor = step.cursor;
        if cursor.is_none() {
            producers = None;
            if !step.more {
                return Ok(total);
            }
        }
    }
}
