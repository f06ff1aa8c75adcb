//! Jobs as plain data: what a producer hands in, what a handler gets, what is stored beside a payload. Nothing here does I/O.

mod check;
pub mod codec;
pub mod durability;
mod id;
mod meta;
mod new;
mod priority;
mod queue_name;
pub mod state;
pub(crate) mod trace;
mod unique;
mod update;

use std::time::Duration;

use serde::Serialize;

pub(crate) use check::check_name;
use durability::Durability;
pub use id::JobId;
pub(crate) use meta::Meta;
pub use new::NewJob;
pub use priority::Priority;
pub use queue_name::QueueName;
pub(crate) use unique::Hold;
pub use unique::OnConflict;
pub use update::JobUpdate;

/// What an enqueue answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enqueued {
    /// The new job, or with `duplicate` the one that holds the unique key.
    pub id: JobId,
    /// True when the unique key was held and no job was made.
    pub duplicate: bool,
    /// True when the holder took this job's place, payload and all; see [`OnConflict`]. Then `duplicate` is true as well.
    pub replaced: bool,
    /// The level that was reached: the one that was asked for, or less when Redis could not confirm it in time.
    pub durability: Durability,
}

/// Whole milliseconds, rounded up so that a wait is never cut short.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
