//! What an operator changes about a job that waits.

use std::time::Duration;

use bytes::Bytes;

use super::{JobId, Priority};
use crate::config;
use crate::error::{Error, Result};

/// Changes to a job that waits; see [`crate::inspect::Inspector::update`]. What is not said stays as it is.
///
/// ```
/// # use millstream::JobUpdate;
/// # use std::time::Duration;
/// let later = JobUpdate::new().delay(Duration::from_secs(3600));
/// let other = JobUpdate::new().payload(r#"{"user":8}"#);
/// let first = JobUpdate::new().priority(millstream::Priority::High);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct JobUpdate {
    pub(crate) payload: Option<Bytes>,
    pub(crate) delay: Option<Duration>,
    pub(crate) priority: Option<Priority>,
}

impl JobUpdate {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The new payload, written as the job's codec says ([`crate::inspect::JobView::codec`]).
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// Runs the job no earlier than `delay` from now, on Redis's clock. Zero: as soon as it can.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The new priority. A job that is ready goes to the end of its new lane.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Checks everything that can be known before Redis is asked.
    ///
    /// # Errors
    /// [`Error::InvalidJob`]: nothing is to be changed, or the delay is too long. [`Error::PayloadTooLarge`].
    pub(crate) fn check(&self, id: &JobId, payload_bytes_max: usize) -> Result<()> {
        let invalid = |field, value, reason| {
            Err(Error::InvalidJob {
                field,
                value,
                reason,
            })
        };
        if *self == Self::default() {
            let reason = "say what is to be changed: the payload, the delay or the priority".into();
            return invalid("update", "nothing".into(), reason);
        }
        let horizon = config::HORIZON_MAX;
        if let Some(delay) = self.delay.filter(|delay| *delay > horizon) {
            let shown = humantime::format_duration;
            let reason = format!("at most {}", shown(horizon));
            return invalid("delay", shown(delay).to_string(), reason);
        }
        match &self.payload {
            Some(payload) if payload.len() > payload_bytes_max => Err(Error::PayloadTooLarge {
                name: id.to_string(),
                bytes: payload.len(),
                limit: payload_bytes_max,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_of_nothing_or_out_of_range_is_refused() {
        let id = JobId::from("1-0");
        let check = |update: JobUpdate| update.check(&id, 10);
        for (update, named) in [
            (JobUpdate::new(), "update"),
            (JobUpdate::new().delay(Duration::MAX), "delay"),
        ] {
            match check(update) {
                Err(Error::InvalidJob { field, .. }) => assert_eq!(field, named),
                other => panic!("{named}: {other:?}"),
            }
        }
        assert!(matches!(
            check(JobUpdate::new().payload(vec![0; 11])),
            Err(Error::PayloadTooLarge { bytes: 11, .. })
        ));
        assert!(check(JobUpdate::new().payload("").delay(Duration::ZERO)).is_ok());
    }
}
