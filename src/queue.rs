//! The producer's door.
use crate::error::Result;
use crate::job::{Enqueued, NewJob};
/// A queue to put jobs into. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {}

impl Queue {
    /// Stores one job.
    /// # Errors
    /// see [`crate::Error`]
    pub async fn enqueue(&self, _job: NewJob) -> Result<Enqueued> {
        unreachable!()
    }
    /// Stores many jobs, all or nothing per chunk of 1,000.
    /// # Errors
    /// see [`crate::Error`]
    pub async fn enqueue_all(&self, _jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        unreachable!()
    }
}
