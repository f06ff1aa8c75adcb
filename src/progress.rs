//! How far a running job is and what its handler logs, as others see it. How handlers tell it is in [`crate::Context`], how it
//! gets to Redis in [`crate::worker`].
//!
//! `progress` is a hash, job id -> JSON, from the first word of a handler until the job is completed, cancelled or removed; a dead
//! job keeps it. Where the result of a job is kept, `progress:<id>` keeps it as long. What is sealed is text in base64.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::redis::Patience;
use crate::redis::reply::{Value, text_of};

/// How long one answer is waited for.
const PATIENCE: Patience = Patience::brief(Duration::from_secs(5));
/// Larger numbers are cut to this.
const COUNT_MAX: u64 = 1 << 53;

/// So much is done of a job: percent, or some of a total. See [`crate::Context::progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HowFar {
    pub(crate) done: u64,
    pub(crate) total: u64,
}

impl HowFar {
    /// `done` of `total`; no more than all of it.
    pub fn of(done: u64, total: u64) -> Self {
        let total = total.min(COUNT_MAX);
        let done = done.min(total);
        Self { done, total }
    }
}

/// Percent, or `(done, total)`. What is below zero is zero.
macro_rules! how_far {
    ($($number:ty),+) => { $(
        impl From<$number> for HowFar {
            fn from(percent: $number) -> Self {
                Self::of(u64::try_from(percent).unwrap_or_default(), 100)
            }
        }

        impl From<($number, $number)> for HowFar {
            fn from((done, total): ($number, $number)) -> Self {
                Self::of(u64::try_from(done).unwrap_or_default(), u64::try_from(total).unwrap_or_default())
            }
        }
    )+ };
}
how_far!(i32, u8, u32, u64, usize);

/// What the handlers of a job have told so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Progress {
    /// So much of `total` is done, by the last word of a handler; 0 of 0 when none has said.
    pub done: u64,
    /// All that there is to do, in whatever the handler counts.
    pub total: u64,
    /// In words.
    pub note: Option<String>,
    /// When that was said, unix ms on Redis's clock.
    pub told_ms: Option<u64>,
    /// The attempt that told something last, from 1.
    pub attempt: u32,
    /// The newest lines of the log, at most 100, oldest first; of all attempts.
    pub log: Vec<LogLine>,
}

impl Progress {
    /// 0 to 100, rounded down; `None` when no handler has said.
    pub fn percent(&self) -> Option<u8> {
        let percent = u128::from(self.done) * 100;
        u8::try_from(percent.checked_div(self.total.into())?.min(100)).ok()
    }
}

/// `40 % (2 of 5): resizing`.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.percent() {
            Some(percent) => write!(f, "{percent} %")?,
            None => f.write_str("not told")?,
        }
        if self.total != 100 && self.total > 0 {
            write!(f, " ({} of {})", self.done, self.total)?;
        }
        match &self.note {
            Some(note) => write!(f, ": {note}"),
            None => Ok(()),
        }
    }
}

/// A line that a handler logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogLine {
    /// When it came to Redis, unix ms on its clock; lines that came together have the same.
    pub at_ms: u64,
    /// The attempt that logged it, from 1.
    pub attempt: u32,
    /// At most 1 KiB.
    pub line: String,
}

/// The stored form; see `lua/progress.lua`.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Stored {
    name: String,
    attempt: u32,
    done: String,
    total: String,
    note: Option<String>,
    sealed: Option<String>,
    told_ms: Option<u64>,
    lines: Vec<StoredLine>,
}

#[derive(Deserialize)]
struct StoredLine {
    at_ms: u64,
    attempt: u32,
    line: String,
    #[serde(default)]
    sealed: Option<String>,
}

/// What the job has told, while it is unfinished or dead, and as long as its result is kept.
pub(crate) async fn read(broker: &Broker, id: &JobId) -> Result<Option<Progress>> {
    let keys = &broker.keys;
    let of_job = vec![keys.progress.as_str().into(), id.as_str().into()];
    let told = broker.redis.command("HGET", of_job, PATIENCE).await?;
    if let Some(told) = read_stored(broker, id, &told)? {
        return Ok(Some(told));
    }
    let kept = vec![keys.told(id).as_str().into()];
    let told = broker.redis.command("GET", kept, PATIENCE).await?;
    read_stored(broker, id, &told)
}

fn read_stored(broker: &Broker, id: &JobId, told: &Value) -> Result<Option<Progress>> {
    let Some(told) = text_of(told) else {
        return Ok(None);
    };
    let stored: Stored = serde_json::from_str(told).map_err(|error| Error::Protocol {
        operation: "progress",
        reason: format!("what job {id} has told cannot be read: {error}"),
    })?;
    let open = |text: String, sealed: Option<&String>| match sealed {
        None => text,
        Some(key) => {
            let (seal, queue) = (&broker.seal, &broker.queue);
            let opened = seal.open_text(queue, &stored.name, key, &text);
            opened.unwrap_or_else(|_| format!("(sealed with key {key}, which is not at hand)"))
        }
    };
    let number = |text: &str| text.parse().unwrap_or_default();
    Ok(Some(Progress {
        done: number(&stored.done),
        total: number(&stored.total),
        note: stored.note.map(|note| open(note, stored.sealed.as_ref())),
        told_ms: stored.told_ms,
        attempt: stored.attempt,
        log: stored
            .lines
            .into_iter()
            .map(|line| LogLine {
                at_ms: line.at_ms,
                attempt: line.attempt,
                line: open(line.line, line.sealed.as_ref()),
            })
            .collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_percent_or_some_of_a_total() {
        assert_eq!(HowFar::from(40), HowFar::of(40, 100));
        assert_eq!(HowFar::from(140u8), HowFar::of(100, 100));
        assert_eq!(HowFar::from(-1), HowFar::of(0, 100));
        assert_eq!(HowFar::from((3, 12)), HowFar::of(3, 12));
        assert_eq!(HowFar::from((9u64, 4u64)), HowFar::of(4, 4));
        let told = |done, total| Progress {
            done,
            total,
            note: None,
            told_ms: None,
            attempt: 1,
            log: Vec::new(),
        };
        assert_eq!(told(1, 3).percent(), Some(33));
        assert_eq!(told(u64::MAX, u64::MAX).percent(), Some(100));
        assert_eq!(told(0, 0).percent(), None);
        let mut words = told(2, 5);
        words.note = Some("resizing".to_owned());
        assert_eq!(words.to_string(), "40 % (2 of 5): resizing");
    }
}
