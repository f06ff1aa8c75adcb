//! Finds jobs whose workers have gone silent, and now and then forgets the workers themselves.

use std::time::Duration;

use super::{STEP, groups};
use crate::broker::{Broker, Sweep, Upkeeper};
use crate::error::Result;
use crate::metrics::handles::Working;
use crate::redis::jittered;
use crate::worker::health::Pulse;

/// How often consumers that hold nothing are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Silence after which a consumer that holds nothing is forgotten. A living one that is forgotten is made anew by its next read.
const FORGET_IDLE: Duration = Duration::from_secs(600);

pub(crate) async fn run(
    broker: Broker,
    by: Upkeeper,
    lease: Duration,
    sweep: Duration,
    pulse: Pulse,
    counted: Working,
) {
    let mut forget = tokio::time::interval(FORGET_EVERY);
    let mut group = None;
    loop {
        // Between 80 and 100 % of the period, so that a hundred workers do not ask in the same moment.
        tokio::time::sleep(sweep.mul_f64(0.6) + jittered(sweep.mul_f64(0.4))).await;
        let swept = sweep_lanes(&broker, &by, lease, &counted).await;
        match &swept {
            Ok(_) => pulse.beat(),
            Err(error) => pulse.failed(error.to_string()),
        }
        match swept {
            Ok(true) => {
                if let Err(error) = groups::step(&broker, &mut group).await {
                    tracing::warn!(queue = %broker.queue, %error, "cannot admit held jobs; trying again");
                }
                let now = futures_util::FutureExt::now_or_never(forget.tick()).is_some();
                if now
                    && let Err(error) = broker.retire(None, FORGET_IDLE.max(lease * 10), STEP).await
                {
                    tracing::debug!(queue = %broker.queue, %error, "cannot forget idle consumers");
                }
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(queue = %broker.queue, %error, "cannot reclaim; trying again")
            }
        }
    }
}

/// One sweep over every lane. `false` when another worker does the upkeep.
async fn sweep_lanes(
    broker: &Broker,
    by: &Upkeeper,
    lease: Duration,
    counted: &Working,
) -> Result<bool> {
    let mut from = None;
    loop {
        match broker.reclaim(by, lease, from.as_ref(), STEP).await? {
            Sweep::Standby => return Ok(false),
            Sweep::Swept {
                next,
                reclaimed,
                dead,
                unlock,
            } => {
                counted.swept(reclaimed, dead);
                if reclaimed + dead > 0 {
                    tracing::warn!(queue = %broker.queue, reclaimed, dead, "took jobs from workers that went silent");
                }
                if !unlock.is_empty() {
                    broker.unlock(&unlock, STEP).await?;
                }
                if next.is_none() {
                    return Ok(true);
                }
                from = next;
            }
        }
    }
}
