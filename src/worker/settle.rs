//! From what a handler said to what becomes of the job. No I/O: every rule here is a one-line test.

use std::time::Duration;

use super::handler::{JobError, JobErrorKind};
use crate::backoff::Backoff;
use crate::broker::DeathReason;

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The handler returned `Ok`.
    Done,
    /// The handler returned an error, panicked, or ran out of time.
    Failed(JobError),
    /// Our shutdown, not the job's fault.
    Interrupted,
    /// The job was given up: cancelled, reclaimed, or out of reach.
    Gone,
    /// It was settled before its handler was called.
    Settled,
}

impl Outcome {
    /// Its word in spans.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(error) => match error.kind {
                JobErrorKind::Failed { .. } => "failed",
                JobErrorKind::Refused => "refused",
                JobErrorKind::Snoozed { .. } => "snoozed",
            },
            Self::Interrupted => "interrupted",
            Self::Gone => "gone",
            Self::Settled => "settled",
        }
    }

    /// What kind of failure it is, if it is one.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Failed(error) if error.unavailable => Some("unavailable"),
            Self::Failed(error) if !matches!(error.kind, JobErrorKind::Snoozed { .. }) => {
                Some(self.name())
            }
            _ => None,
        }
    }
}

/// What one script makes of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Complete,
    Retry { after: Duration, error: String },
    Snooze { after: Duration },
    DeadLetter { reason: DeathReason, error: String },
    Release,
    Nothing,
}

/// What follows from `outcome` at attempt `attempt` of `max_attempts`. `luck` draws the backoff's jitter
/// from `0.0..1.0`; only a retry pays for it.
pub(crate) fn settle(
    attempt: u32,
    max_attempts: u32,
    outcome: Outcome,
    backoff: &Backoff,
    luck: impl FnOnce() -> f64,
) -> Settlement {
    match outcome {
        Outcome::Done => Settlement::Complete,
        Outcome::Interrupted => Settlement::Release,
        Outcome::Gone | Outcome::Settled => Settlement::Nothing,
        Outcome::Failed(JobError {
            kind: JobErrorKind::Snoozed { after },
            ..
        }) => Settlement::Snooze { after },
        Outcome::Failed(JobError {
            kind: JobErrorKind::Refused,
            message,
            ..
        }) => Settlement::DeadLetter {
            reason: DeathReason::Refused,
            error: message,
        },
        Outcome::Failed(JobError { message, .. }) if attempt >= max_attempts => {
            Settlement::DeadLetter {
                reason: DeathReason::Attempts,
                error: message,
            }
        }
        Outcome::Failed(JobError {
            kind: JobErrorKind::Failed { after },
            message,
            ..
        }) => {
            let after = after.unwrap_or_else(|| backoff.delay(attempt, luck()));
            Settlement::Retry {
                after,
                error: message,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn settled(attempt: u32, outcome: Outcome) -> Settlement {
        settle(attempt, 3, outcome, &Backoff::Fixed(10 * S), || 1.0)
    }

    #[test]
    fn a_failure_is_retried_after_its_backoff_while_attempts_remain() {
        let failed = || Outcome::Failed(JobError::failed("boom"));
        assert_eq!(
            settled(2, failed()),
            Settlement::Retry {
                after: 10 * S,
                error: "boom".into()
            }
        );
        let dead = Settlement::DeadLetter {
            reason: DeathReason::Attempts,
            error: "boom".into(),
        };
        assert_eq!(settled(3, failed()), dead);
    }

    #[test]
    fn the_handler_may_say_when_or_never_or_later() {
        let told = Outcome::Failed(JobError::retry_after(S, "busy"));
        assert_eq!(
            settled(1, told),
            Settlement::Retry {
                after: S,
                error: "busy".into()
            }
        );
        let refused = Settlement::DeadLetter {
            reason: DeathReason::Refused,
            error: "no".into(),
        };
        assert_eq!(settled(1, Outcome::Failed(JobError::refuse("no"))), refused);
        assert_eq!(
            settled(3, Outcome::Failed(JobError::snooze(S))),
            Settlement::Snooze { after: S }
        );
    }

    #[test]
    fn a_shutdown_costs_no_attempt() {
        assert_eq!(settled(3, Outcome::Interrupted), Settlement::Release);
        assert_eq!(settled(1, Outcome::Gone), Settlement::Nothing);
        assert_eq!(settled(1, Outcome::Done), Settlement::Complete);
    }
}
