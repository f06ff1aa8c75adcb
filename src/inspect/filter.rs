//! Which jobs are meant.

use std::time::Duration;

use super::view::JobView;
use crate::job::state::State;

/// Which jobs are meant: those that fit everything that was said. A new one fits every job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub(super) state: Option<State>,
    name: Option<String>,
    pub(super) group: Option<String>,
    error: Option<String>,
    reason: Option<String>,
    pub(super) older_than: Option<Duration>,
    pub(super) newer_than: Option<Duration>,
}

impl JobFilter {
    /// Every job.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only jobs in this state.
    #[must_use]
    pub fn state(mut self, state: State) -> Self {
        self.state = Some(state);
        self
    }

    /// Only jobs with this name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only jobs of this group.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Only jobs that are off the streams and of whose kept errors at least one contains this text.
    #[must_use]
    pub fn error(mut self, text: impl Into<String>) -> Self {
        self.error = Some(text.into());
        self
    }

    /// Only jobs that died for this reason: `attempts`, `refused`, `crash_loop`, `expired` or `orphaned`.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Only jobs that died at least this long ago. Heeded by [`super::Inspector::walk_dead`] alone.
    #[must_use]
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Only jobs that died at most this long ago. Heeded by [`super::Inspector::walk_dead`] alone.
    #[must_use]
    pub fn newer_than(mut self, age: Duration) -> Self {
        self.newer_than = Some(age);
        self
    }

    /// Whether a job must be read to know if it is meant; its state and when it died are known without.
    pub(super) fn reads_jobs(&self) -> bool {
        let texts = [&self.name, &self.group, &self.error, &self.reason];
        texts.into_iter().any(Option::is_some)
    }

    pub(super) fn takes(&self, job: &JobView) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|text| found == Some(text))
        };
        let has_error = |text: &String| job.errors.iter().any(|error| error.error.contains(text));
        is(&self.name, Some(&job.name))
            && is(&self.group, job.group.as_deref())
            && is(&self.reason, job.reason.as_deref())
            && self.error.as_ref().is_none_or(has_error)
    }
}
