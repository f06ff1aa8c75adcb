//! What a test asks about its queue: where a job is, what is kept of it, whether everything fits.

use std::sync::PoisonError;

use millstream::JobId;
use millstream::job::state::State;
use serde_json::Value as Json;

use super::scan::{Home, Scan};
use super::{Fixture, PATIENCE};

impl Fixture {
    /// Reads the queue and notes what does not fit.
    pub(crate) fn scan(&self) -> Scan {
        let exceptions = self.exceptions().clone();
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Scan::of(&mut connection, &self.key(""), &exceptions)
    }

    /// Where the job is; `None` when it is nowhere.
    pub(crate) fn home_of(&self, id: &JobId) -> Option<Home> {
        self.scan().homes.get(id.as_str())?.first().cloned()
    }

    /// The state of an unfinished or dead job.
    pub(crate) fn state_of(&self, id: &JobId) -> Option<State> {
        self.home_of(id).map(|home| home.state)
    }

    /// The record of a job that is, or once was, off the streams.
    pub(crate) fn record_of(&self, id: &JobId) -> Option<Json> {
        self.scan().records.remove(id.as_str())
    }

    /// Every rule about what lives where, at a moment when nobody works on the queue.
    #[track_caller]
    pub(crate) fn assert_every_job_has_one_home(&self) {
        let faults = self.scan().faults;
        assert!(faults.is_empty(), "{}:\n{}", self.queue, faults.join("\n"));
    }

    /// The counts that the engine tells are those that the scanner finds.
    pub(crate) async fn assert_stats_agree(&self) {
        let told = self.broker.stats(PATIENCE).await.expect("stats");
        let scan = self.scan();
        let homes = || scan.homes.values().flatten();
        let found = |state| homes().filter(|home| home.state == state).count() as u64;
        assert_eq!(
            [
                told.ready,
                told.running,
                told.scheduled,
                told.held,
                told.dead
            ],
            [
                found(State::Ready),
                found(State::Running),
                found(State::Scheduled),
                found(State::Held),
                found(State::Dead)
            ],
            "ready, running, scheduled, held, dead as told and as found"
        );
    }
}
