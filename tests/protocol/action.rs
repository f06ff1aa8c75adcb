//! What can happen: each action is one step of Redis, of a caller, or of time. Those of Redis name their scripts.

use std::fmt;

use crate::redis::{Call, Consumer, Delivery, EntryId, Job};

/// Whether an answer arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Heard,
    Lost,
}

/// What can happen next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// A caller sends a call.
    Send(Call),
    /// A caller without an answer sends the same call again.
    SendAgain(Call),
    /// A worker no longer waits for an answer, and lets the lease lapse.
    GiveUp(u8),
    /// A call reaches Redis, however late: the script of its name runs.
    Arrive(Call, Reply),
    /// The second half of a settlement that is not one step.
    Finish(usize),
    /// `lua/claim.lua`. Lost: the worker does not see what it was given.
    Claim(Consumer, EntryId, Reply),
    /// XREADGROUP `0`: a worker reads its own pending list and finds what it did not see.
    ReadOwn(Consumer, EntryId),
    /// A lease runs out.
    Lapse(EntryId),
    /// `lua/extend.lua`, perhaps late.
    Extend(EntryId),
    /// `lua/extend.lua` tells a worker that its lease is lost.
    Told(u8, Delivery),
    /// A worker dies and is started again.
    Crash(u8),
    /// `lua/promote.lua`
    Promote(Job),
    /// `lua/reclaim.lua`
    Reclaim(Delivery),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(call) => write!(f, "sent: {call}"),
            Self::SendAgain(call) => write!(f, "sent again: {call}"),
            Self::GiveUp(worker) => write!(f, "worker {worker} gives up its call"),
            Self::Arrive(call, Reply::Heard) => write!(f, "carried out: {call}"),
            Self::Arrive(call, Reply::Lost) => write!(f, "carried out, answer lost: {call}"),
            Self::Finish(_) => write!(f, "a settlement's second half"),
            Self::Claim(by, entry, Reply::Heard) => write!(f, "claim of entry {entry} by {by}"),
            Self::Claim(by, entry, Reply::Lost) => {
                write!(f, "claim of entry {entry} by {by}, answer lost")
            }
            Self::ReadOwn(by, entry) => write!(f, "{by} finds that it has entry {entry}"),
            Self::Lapse(entry) => write!(f, "the lease of entry {entry} lapses"),
            Self::Extend(entry) => write!(f, "extend of entry {entry}"),
            Self::Told(worker, of) => write!(f, "worker {worker} hears that {of} is lost"),
            Self::Crash(worker) => write!(f, "worker {worker} crashes and starts again"),
            Self::Promote(job) => write!(f, "promote of job {job}"),
            Self::Reclaim(of) => write!(f, "reclaim of {of}"),
        }
    }
}
