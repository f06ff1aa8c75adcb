//! After each step: the answer, all that is stored, the scanner's rules and the published counts.

use millstream::job::state::State;

use super::picture::Picture;
use super::reference::Reply;
use super::run::{Verdict, World, failed};
use crate::support::PATIENCE;

impl World<'_> {
    /// Both sides have gone the step; nothing may tell them apart.
    pub(super) async fn compare(&mut self, told: Reply, expected: Reply) -> Verdict {
        {
            let mut exceptions = self.t.exceptions();
            exceptions.unbooked = -self.model.pruned;
            exceptions.unfilled = self.model.unfilled || self.model.is_unfilled();
            exceptions.windows = self.model.unclaimed();
        }
        let scan = self.t.scan();
        let found = Picture::of(&scan);
        self.model.learn(&found, scan.now_ms);
        let mut faults = self.model.picture().compare(&found);
        if told != expected {
            faults += &format!("answer\n  expected {expected:?}\n  found    {told:?}\n");
        }
        faults += &scan.faults.join("\n");
        self.last = scan;
        if !faults.is_empty() {
            return Err(faults);
        }
        self.compare_counts().await
    }

    /// The counts that are published are those of the structures.
    pub(super) async fn compare_counts(&self) -> Verdict {
        let told = self.t.broker.stats(PATIENCE).await.map_err(failed)?;
        let jobs = || self.model.jobs.iter();
        let count = |state| jobs().filter(|job| job.state == Some(state)).count() as u64;
        let states = [
            State::Ready,
            State::Running,
            State::Scheduled,
            State::Dead,
            State::Held,
        ];
        let expected = states.map(count);
        let found = [
            told.ready,
            told.running,
            told.scheduled,
            told.dead,
            told.held,
        ];
        if expected != found
            || told.paused != self.model.paused
            || told.oldest_ready.is_some() != (expected[0] > 0)
        {
            return Err(format!(
                "counts {states:?}: expected {expected:?}, told {told:?}"
            ));
        }
        Ok(())
    }
}
