//! The state machine: which states a job can be in, and the only ways between them.
//!
//! Each [`Transition`] is one Lua script of the same name, one `Broker` method and one test file.

use std::fmt;

use serde::Serialize;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Due later: delayed, waiting to be retried, or snoozed. In the `scheduled` zset.
    Scheduled,
    /// Its group is at its limit. In the `held` zset.
    Held,
    /// May run. In a `ready` stream, not delivered.
    Ready,
    /// Delivered to a worker that holds the lease. In the pending entries list of a `ready` stream.
    Running,
    /// Done. Kept only when retention is asked for, in the `completed` stream.
    Completed,
    /// Given up: attempts exhausted, refused by the handler, crash-looped or expired. In the `dead` zset.
    Dead,
    /// Called off by an operator. Gone, with an event.
    Cancelled,
}

impl State {
    /// The state's name in keys, JSON and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Held => "held",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A move between states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the table below says what each one does")]
pub enum Transition {
    Enqueue,
    Promote,
    RunNow,
    Claim,
    Extend,
    Complete,
    Retry,
    Release,
    DeadLetter,
    Reclaim,
    Cancel,
    Update,
    Redrive,
    Admit,
    Prune,
    Purge,
    GroupPurge,
    CronFire,
}

impl Transition {
    /// The name of the script in `lua/`, without its ending.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Promote => "promote",
            Self::RunNow => "run_now",
            Self::Claim => "claim",
            Self::Extend => "extend",
            Self::Complete => "complete",
            Self::Retry => "retry",
            Self::Release => "release",
            Self::DeadLetter => "dead_letter",
            Self::Reclaim => "reclaim",
            Self::Cancel => "cancel",
            Self::Update => "update",
            Self::Redrive => "redrive",
            Self::Admit => "admit",
            Self::Prune => "prune",
            Self::Purge => "purge",
            Self::GroupPurge => "group_purge",
            Self::CronFire => "cron_fire",
        }
    }
}

/// One row per arrow. `None` on the left is a job that did not exist before, on the right one that is gone.
pub const TRANSITIONS: &[(Option<State>, Transition, Option<State>)] = &[
    (None, Transition::Enqueue, Some(State::Ready)),
    (None, Transition::Enqueue, Some(State::Scheduled)),
    (None, Transition::CronFire, Some(State::Ready)),
    (None, Transition::CronFire, Some(State::Held)),
    (None, Transition::Enqueue, Some(State::Held)),
    (
        Some(State::Scheduled),
        Transition::Promote,
        Some(State::Ready),
    ),
    (
        Some(State::Scheduled),
        Transition::Promote,
        Some(State::Dead),
    ),
    (
        Some(State::Scheduled),
        Transition::Promote,
        Some(State::Held),
    ),
    // Whatever settles or cancels a job also admits the next one of its group.
    (Some(State::Held), Transition::Admit, Some(State::Ready)),
    (
        Some(State::Scheduled),
        Transition::RunNow,
        Some(State::Ready),
    ),
    (
        Some(State::Scheduled),
        Transition::RunNow,
        Some(State::Held),
    ),
    (Some(State::Held), Transition::RunNow, Some(State::Ready)),
    (Some(State::Held), Transition::RunNow, Some(State::Held)),
    (Some(State::Ready), Transition::Claim, Some(State::Running)),
    (
        Some(State::Running),
        Transition::Extend,
        Some(State::Running),
    ),
    (
        Some(State::Running),
        Transition::Complete,
        Some(State::Completed),
    ),
    (
        Some(State::Running),
        Transition::Retry,
        Some(State::Scheduled),
    ),
    (
        Some(State::Running),
        Transition::Release,
        Some(State::Ready),
    ),
    (
        Some(State::Running),
        Transition::DeadLetter,
        Some(State::Dead),
    ),
    (
        Some(State::Running),
        Transition::Reclaim,
        Some(State::Ready),
    ),
    (Some(State::Running), Transition::Reclaim, Some(State::Dead)),
    (
        Some(State::Scheduled),
        Transition::Cancel,
        Some(State::Cancelled),
    ),
    (
        Some(State::Held),
        Transition::Cancel,
        Some(State::Cancelled),
    ),
    (
        Some(State::Ready),
        Transition::Cancel,
        Some(State::Cancelled),
    ),
    (
        Some(State::Running),
        Transition::Cancel,
        Some(State::Cancelled),
    ),
    (
        Some(State::Scheduled),
        Transition::Update,
        Some(State::Scheduled),
    ),
    (Some(State::Held), Transition::Update, Some(State::Held)),
    (
        Some(State::Held),
        Transition::Update,
        Some(State::Scheduled),
    ),
    (Some(State::Ready), Transition::Update, Some(State::Ready)),
    (
        Some(State::Ready),
        Transition::Update,
        Some(State::Scheduled),
    ),
    (Some(State::Dead), Transition::Redrive, Some(State::Ready)),
    (Some(State::Dead), Transition::Redrive, Some(State::Held)),
    (Some(State::Completed), Transition::Prune, None),
    (Some(State::Dead), Transition::Prune, None),
    (Some(State::Dead), Transition::Purge, None),
    (Some(State::Scheduled), Transition::GroupPurge, None),
    (Some(State::Held), Transition::GroupPurge, None),
    (Some(State::Ready), Transition::GroupPurge, None),
    (Some(State::Running), Transition::GroupPurge, None),
    (Some(State::Dead), Transition::GroupPurge, None),
];
