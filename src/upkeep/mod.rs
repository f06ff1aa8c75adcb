//! What somebody must do regularly: promote due jobs, reclaim stalled ones, fire schedules, prune old ones. Every worker offers; a short
//! lock in Redis picks one, for thrift only. One file per loop; each runs until it is dropped.

pub(crate) mod cron;
pub(crate) mod groups;
pub(crate) mod hints;
pub(crate) mod promote;
pub(crate) mod prune;
pub(crate) mod reclaim;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::redis::Patience;

/// How long one step of upkeep may take: Redis has other things to do, and the next step is never far.
pub(crate) const STEP: Patience = Patience::brief(Duration::from_secs(2));

/// Whether this worker does the upkeep at the moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leading(Arc<AtomicBool>);

impl Leading {
    pub(crate) fn set(&self, leading: bool) {
        self.0.store(leading, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
