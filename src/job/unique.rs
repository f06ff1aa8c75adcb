//! Unique keys: how long one is held, and what is done with a job that finds it held.

use std::time::Duration;

use crate::error::{Error, Result};

/// A unique key and how long it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unique {
    pub(crate) key: String,
    pub(crate) hold: Hold,
}

/// How long a unique key stands in the way of other jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// While its job waits, before the first attempt or the next.
    Waiting,
    /// Until its job is finished.
    Unfinished,
    /// For this long from the enqueue, whatever becomes of the job.
    For(Duration),
}

impl Unique {
    pub(crate) fn window(&self) -> Option<Duration> {
        match self.hold {
            Hold::For(window) => Some(window),
            Hold::Waiting | Hold::Unfinished => None,
        }
    }
}

/// What an enqueue does when another job holds its unique key; see [`crate::NewJob::on_conflict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnConflict {
    /// Makes no job and answers with the holder's id.
    #[default]
    Refuse,
    /// Gives the holder this job's name, payload, delay and options, as long as it waits. It keeps its id and begins again with
    /// its first attempt. One that runs, or is finished and holds the key for a time, refuses.
    Replace,
    /// Lets one job start per time: what comes while the key is held becomes one job that is due when the time is over, with the
    /// newest payload. Needs [`crate::NewJob::unique_for`].
    Throttle,
}

impl OnConflict {
    /// The word in flags, JSON and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Replace => "replace",
            Self::Throttle => "throttle",
        }
    }
}

impl std::str::FromStr for OnConflict {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Refuse, Self::Replace, Self::Throttle];
        let found = all.into_iter().find(|conflict| conflict.name() == text);
        found.ok_or_else(|| Error::setting("on_conflict", text, "refuse, replace or throttle"))
    }
}
