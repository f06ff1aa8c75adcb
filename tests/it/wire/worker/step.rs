//! The steps of a worker's life: what goes by on the wire, and what becomes of the job.

use std::time::Duration;

use millstream::broker::Lane;
use millstream::{Backoff, WorkerBuilder};

use super::{GRACE, SHORT_LEASE};

/// The step that meets the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    CreateGroups,
    Subscribe,
    Look,
    /// A read that finds a job at once.
    Read,
    /// A read that waits for one.
    BlockedRead,
    /// The look at the own deliveries, after a read whose answer was lost.
    ReadOwn,
    /// The exact claim of a worker with one place.
    ClaimOne,
    Complete,
    Retry,
    Snooze,
    DeadLetter,
    Extend,
    Promote,
    Reclaim,
    // From here on, the worker is told to stop.
    Resign,
    OwnAtStop,
    HandBack,
    Interrupt,
    Retire,
}

impl Step {
    pub(super) const ALL: [Self; 19] = [
        // Slow ones first: the others run beside them.
        Self::Extend,
        Self::BlockedRead,
        Self::Read,
        Self::ReadOwn,
        Self::CreateGroups,
        Self::Subscribe,
        Self::Look,
        Self::ClaimOne,
        Self::Complete,
        Self::Retry,
        Self::Snooze,
        Self::DeadLetter,
        Self::Promote,
        Self::Reclaim,
        Self::Resign,
        Self::OwnAtStop,
        Self::HandBack,
        Self::Interrupt,
        Self::Retire,
    ];

    /// What goes by on the wire, and which one of them.
    pub(super) fn on(self) -> (&'static str, u32) {
        match self {
            Self::CreateGroups => ("XGROUP", 1),
            Self::Subscribe => ("SUBSCRIBE", 1),
            Self::Look => ("look", 1),
            Self::Read | Self::BlockedRead => ("read", 1),
            Self::ReadOwn | Self::OwnAtStop => ("own", 1),
            Self::ClaimOne => ("claim", 1),
            Self::Complete => ("complete", 1),
            Self::Retry | Self::Snooze => ("retry", 1),
            Self::DeadLetter => ("dead_letter", 1),
            Self::Extend => ("extend", 1),
            Self::Promote => ("promote", 1),
            Self::Reclaim => {
                let lanes_before = Lane::ALL.iter().position(|lane| *lane == Lane::Ready);
                ("reclaim", lanes_before.unwrap() as u32 + 1)
            }
            Self::Resign => ("unlock", 1),
            Self::HandBack | Self::Interrupt => ("release", 1),
            Self::Retire => ("retire", 1),
        }
    }

    pub(super) fn stops(self) -> bool {
        let stopping = [
            Self::Resign,
            Self::OwnAtStop,
            Self::HandBack,
            Self::Interrupt,
            Self::Retire,
        ];
        stopping.contains(&self)
    }

    /// What the handler is to do with the job.
    pub(super) fn payload(self) -> &'static str {
        match self {
            Self::Retry => "fail once",
            Self::Snooze => "snooze once",
            Self::DeadLetter => "refuse",
            Self::Extend => "slow",
            step if step.stops() => "hang once",
            _ => "done",
        }
    }

    /// How its attempts are numbered, start by start.
    pub(super) fn attempts(self) -> &'static [u32] {
        match self {
            Self::Retry => &[1, 2],
            Self::Snooze => &[1, 1],
            step if step.stops() => &[1, 1],
            _ => &[1],
        }
    }

    pub(super) fn settings(self, worker: WorkerBuilder) -> WorkerBuilder {
        let worker = worker
            .backoff(Backoff::Fixed(Duration::from_millis(1)))
            .sweep(Duration::from_millis(200))
            .shutdown_timeout(GRACE);
        match self {
            Self::ClaimOne => worker.concurrency(1).prefetch(0),
            Self::HandBack => worker.concurrency(1).prefetch(3),
            Self::Extend => worker.lease(SHORT_LEASE),
            _ => worker,
        }
    }
}
