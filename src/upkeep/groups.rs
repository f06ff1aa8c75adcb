//! Gives jobs that wait for their group what room there is. Whoever settles a job does so for its own group; here it is done for
//! limits that were changed, and, a little with every sweep, for whatever was left lying.

use super::STEP;
use crate::broker::Broker;
use crate::error::Result;

/// Groups and jobs per step, so that no step holds Redis for more than a few milliseconds.
const LIMIT: usize = 200;

/// Admits what has room, in all groups or in one, in bounded steps. Returns how many jobs were admitted.
pub(crate) async fn admit(broker: &Broker, only: Option<&str>) -> Result<u64> {
    let (mut admitted, mut from) = (0, only.map(str::to_owned));
    loop {
        let (more, next) = broker.admit(from.as_deref(), LIMIT, STEP).await?;
        admitted += more;
        match next {
            // The names come in the order of their bytes, so the only group is over when another one is next.
            Some(next) if only.is_none_or(|only| only == next) => from = Some(next),
            _ => return Ok(admitted),
        }
    }
}

/// One step of a walk that never ends: goes on where the last one ended.
pub(crate) async fn step(broker: &Broker, from: &mut Option<String>) -> Result<()> {
    let (admitted, next) = broker.admit(from.as_deref(), LIMIT, STEP).await?;
    *from = next;
    if admitted > 0 {
        tracing::info!(queue = %broker.queue, admitted, "admitted jobs that waited for their group and need not have");
    }
    Ok(())
}
