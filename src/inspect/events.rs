//! What happened in a queue, from its `events` stream: page by page, or as it happens.
//!
//! The stream keeps about the last 10,000 events. A follower remembers the last one that it has shown and goes on behind it, however
//! often the connection is lost; where events were trimmed before it could show them, it says that there is a gap.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use serde::{Serialize, Serializer};

use super::Inspector;
use super::read::{list, of};
use crate::error::Result;
use crate::job::JobId;
use crate::redis::reader::raw_entry;

/// How often a follower looks. What it shows is for people and for logs, and a look costs Redis microseconds.
const LOOK: Duration = Duration::from_millis(200);
/// Events per look.
const PAGE: usize = 500;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// An attempt failed, and the job will be tried again.
    Retried,
    /// A job went to the dead letter.
    Dead,
    /// A job was taken from a silent worker.
    Stalled,
    /// A job was called off.
    Cancelled,
    /// A job that waits was changed.
    Updated,
    /// Dead jobs were made ready again.
    Redriven,
    /// Dead jobs were removed.
    Purged,
    /// What was left of a job cannot be run: its record or its payload is gone.
    Orphaned,
    /// A schedule's time has come, and its job was queued. Not told by schedules of more than one slot a minute.
    Fired,
    /// Slots of a schedule have no job: they were missed, or its last job was unfinished.
    Skipped,
    /// No worker claims from the queue any more.
    Paused,
    /// Workers claim from the queue again.
    Resumed,
    /// A worker claims nothing any more: what its jobs need is down.
    CircuitOpened,
    /// It claims again.
    CircuitClosed,
    /// What limits the queue or a group was changed.
    Limited,
    /// A quarter more of a running job is done, by its handler's word.
    Progress,
    /// `doctor --repair` gave jobs a home again, or took away what was too much.
    Mended,
    /// Something that this version has no word for.
    Other(String),
}

impl EventKind {
    const KNOWN: [Self; 17] = [
        Self::Retried,
        Self::Dead,
        Self::Stalled,
        Self::Cancelled,
        Self::Updated,
        Self::Redriven,
        Self::Purged,
        Self::Orphaned,
        Self::Fired,
        Self::Skipped,
        Self::Paused,
        Self::Resumed,
        Self::CircuitOpened,
        Self::CircuitClosed,
        Self::Limited,
        Self::Progress,
        Self::Mended,
    ];

    /// The word that stands in the stream.
    pub fn name(&self) -> &str {
        match self {
            Self::Retried => "retried",
            Self::Dead => "dead",
            Self::Stalled => "stalled",
            Self::Cancelled => "cancelled",
            Self::Updated => "updated",
            Self::Redriven => "redriven",
            Self::Purged => "purged",
            Self::Orphaned => "orphaned",
            Self::Fired => "fired",
            Self::Skipped => "skipped",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::CircuitOpened => "circuit_opened",
            Self::CircuitClosed => "circuit_closed",
            Self::Limited => "limited",
            Self::Progress => "progress",
            Self::Mended => "mended",
            Self::Other(name) => name,
        }
    }

    fn read(name: &str) -> Self {
        let known = Self::KNOWN.into_iter().find(|kind| kind.name() == name);
        known.unwrap_or_else(|| Self::Other(name.to_owned()))
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What an event says beside its kind and its job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventDetail {
    /// Nothing.
    None,
    /// Of [`EventKind::Retried`].
    Retry {
        /// The attempt that failed, from 1.
        attempt: u32,
        /// How long until the next one, ms.
        next_in_ms: u64,
    },
    /// Of [`EventKind::Dead`].
    Died {
        /// `attempts`, `refused`, `crash_loop` or `expired`.
        reason: String,
    },
    /// Of [`EventKind::Stalled`].
    Stalled {
        /// How often the job was taken from a silent worker by now.
        stalls: u32,
    },
    /// Of [`EventKind::Cancelled`].
    Cancelled {
        /// The state that the job was in.
        was: String,
    },
    /// Of [`EventKind::Progress`].
    Progress {
        /// 25, 50, 75 or 100.
        percent: u8,
    },
    /// Of [`EventKind::Redriven`], [`EventKind::Purged`] and [`EventKind::Mended`].
    Bulk {
        /// How many jobs.
        jobs: u64,
        /// In how many steps. With more than one, this event stands for those right before it as well, and has taken their place.
        steps: u64,
    },
    /// What this version cannot read, as it stands there.
    Other(String),
}

impl EventDetail {
    fn read(kind: &EventKind, text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let read = match (kind, words.as_slice()) {
            (_, [""]) => Some(Self::None),
            (EventKind::Retried, ["attempt", attempt, "failed,", "next", "in", ms, "ms"]) => {
                attempt
                    .parse()
                    .and_then(|attempt| {
                        let next_in_ms = ms.parse()?;
                        Ok(Self::Retry {
                            attempt,
                            next_in_ms,
                        })
                    })
                    .ok()
            }
            (EventKind::Dead, [reason]) => Some(Self::Died {
                reason: (*reason).to_owned(),
            }),
            (EventKind::Stalled, ["stall", stalls]) => {
                stalls.parse().ok().map(|stalls| Self::Stalled { stalls })
            }
            (EventKind::Progress, [percent]) => percent
                .strip_suffix('%')
                .and_then(|percent| percent.parse().ok())
                .map(|percent| Self::Progress { percent }),
            (EventKind::Cancelled, [was]) => Some(Self::Cancelled {
                was: (*was).to_owned(),
            }),
            (
                EventKind::Redriven | EventKind::Purged | EventKind::Mended,
                [jobs, "jobs", rest @ ..],
            ) => match rest {
                [] => jobs.parse().ok().map(|jobs| Self::Bulk { jobs, steps: 1 }),
                ["in", steps, "steps"] => jobs
                    .parse()
                    .and_then(|jobs| {
                        let steps = steps.parse()?;
                        Ok(Self::Bulk { jobs, steps })
                    })
                    .ok(),
                _ => None,
            },
            _ => None,
        };
        read.unwrap_or_else(|| Self::Other(text.to_owned()))
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EventView {
    /// Its entry in the stream, `<unix ms>-<sequence>`: rising, and what the next call goes on after.
    pub entry: String,
    /// When, unix ms on Redis's clock.
    pub at_ms: u64,
    /// What happened.
    pub event: EventKind,
    /// The job, if it was about one.
    pub job: Option<JobId>,
    /// The rest, for people.
    pub detail: String,
}

impl EventView {
    /// The detail, read.
    pub fn parsed(&self) -> EventDetail {
        EventDetail::read(&self.event, &self.detail)
    }
}

/// What an [`EventFollower::stream`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Followed {
    /// Something happened.
    Event(EventView),
    /// Between the last event and the next one others were trimmed before they could be shown.
    Gap,
}

/// Events in the order in which they happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventPage {
    /// The events.
    pub events: Vec<EventView>,
    /// The entry that the caller went on after is gone, and so may be others that came between it and these: the stream keeps
    /// about the last 10,000.
    pub missed: bool,
}

impl Inspector {
    /// Up to `limit` events, at most 500, after `entry` (`None`: from the oldest that is kept).
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn events(&self, after: Option<&str>, limit: usize) -> Result<EventPage> {
        let limit = limit.clamp(1, PAGE);
        let from = after.map_or("-".to_owned(), |entry| format!("({entry}"));
        let count = limit.to_string();
        let events = self.range("XRANGE", &from, "+", &count).await?;
        let missed = match after {
            Some(after) if !events.is_empty() => {
                // The entry itself, or any older one: then nothing behind it was trimmed.
                let older = self.range("XREVRANGE", after, "-", "1").await?;
                older.is_empty() && after != BEGINNING
            }
            _ => false,
        };
        Ok(EventPage { events, missed })
    }

    /// The newest `limit` events, at most 500, oldest first.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn recent_events(&self, limit: usize) -> Result<Vec<EventView>> {
        let count = limit.clamp(1, PAGE).to_string();
        let mut events = self.range("XREVRANGE", "+", "-", &count).await?;
        events.reverse();
        Ok(events)
    }

    /// Follows what happens from now on, or after `entry`.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn follow_events(&self, after: Option<String>) -> Result<EventFollower> {
        let after = match after {
            Some(entry) => entry,
            None => {
                let last = self.recent_events(1).await?.pop();
                last.map_or_else(|| BEGINNING.to_owned(), |event| event.entry)
            }
        };
        Ok(EventFollower {
            inspector: self.clone(),
            after,
        })
    }

    async fn range(
        &self,
        command: &'static str,
        from: &str,
        to: &str,
        count: &str,
    ) -> Result<Vec<EventView>> {
        let key = of(&self.broker.keys.events);
        let args = vec![key, from.into(), to.into(), "COUNT".into(), count.into()];
        let entries = list(self.ask(command, args).await?);
        Ok(entries
            .into_iter()
            .filter_map(|entry| {
                let raw = raw_entry(0, entry)?;
                let field = |name: &str| raw.text(name).unwrap_or_default();
                Some(EventView {
                    at_ms: raw.id.split('-').next()?.parse().ok()?,
                    event: EventKind::read(field("event")),
                    job: Some(field("job"))
                        .filter(|id| !id.is_empty())
                        .map(Into::into),
                    detail: field("detail").to_owned(),
                    entry: raw.id.to_string(),
                })
            })
            .collect())
    }
}

/// Before the first entry of any stream.
const BEGINNING: &str = "0-0";

/// Follows a queue's events. Made by [`Inspector::follow_events`].
#[derive(Clone, Debug)]
pub struct EventFollower {
    inspector: Inspector,
    after: String,
}

impl EventFollower {
    /// The next events, once there are any. After an error it may be called again: it goes on where it was, and says so when events
    /// were lost meanwhile.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn next(&mut self) -> Result<EventPage> {
        loop {
            let page = self.inspector.events(Some(&self.after), PAGE).await?;
            if let Some(last) = page.events.last() {
                self.after.clone_from(&last.entry);
                return Ok(page);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl EventFollower {
    /// The same as a stream, one event at a time. After an error it goes on where it was: nothing is shown twice, and nothing is left out
    /// without a [`Followed::Gap`]. It does not end.
    ///
    /// ```no_run
    /// # async fn f(client: millstream::Millstream) -> millstream::Result<()> {
    /// use futures_util::StreamExt as _;
    /// use millstream::inspect::{EventDetail, EventKind, Followed};
    ///
    /// let events = client.inspect("mail")?.follow_events(None).await?.stream();
    /// let mut events = std::pin::pin!(events);
    /// while let Some(next) = events.next().await {
    ///     match next {
    ///         Ok(Followed::Event(event)) if event.event == EventKind::Dead => {
    ///             if let EventDetail::Died { reason } = event.parsed() {
    ///                 println!("job {:?} died: {reason}", event.job);
    ///             }
    ///         }
    ///         Ok(Followed::Gap) => println!("some events were trimmed before they could be shown"),
    ///         Ok(_) => {}
    ///         Err(error) => {
    ///             println!("Redis is away: {error}");
    ///             tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(self) -> impl Stream<Item = Result<Followed>> + Send {
        let start = (self, VecDeque::new());
        stream::unfold(start, |(mut follower, mut waiting)| async move {
            if waiting.is_empty() {
                match follower.next().await {
                    Ok(page) => {
                        waiting.extend(page.missed.then_some(Followed::Gap));
                        waiting.extend(page.events.into_iter().map(Followed::Event));
                    }
                    Err(error) => return Some((Err(error), (follower, waiting))),
                }
            }
            let next = waiting.pop_front()?;
            Some((Ok(next), (follower, waiting)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_read_and_what_cannot_be_read_is_kept() {
        let died = |reason: &str| EventDetail::Died {
            reason: reason.to_owned(),
        };
        let bulk = |jobs, steps| EventDetail::Bulk { jobs, steps };
        let other = |text: &str| EventDetail::Other(text.to_owned());
        for (kind, text, read) in [
            (
                "retried",
                "attempt 2 failed, next in 1500 ms",
                EventDetail::Retry {
                    attempt: 2,
                    next_in_ms: 1_500,
                },
            ),
            ("dead", "crash_loop", died("crash_loop")),
            ("stalled", "stall 2", EventDetail::Stalled { stalls: 2 }),
            (
                "cancelled",
                "running",
                EventDetail::Cancelled {
                    was: "running".into(),
                },
            ),
            ("redriven", "1 jobs", bulk(1, 1)),
            ("purged", "1200 jobs in 12 steps", bulk(1_200, 12)),
            ("paused", "", EventDetail::None),
            (
                "retried",
                "attempt x failed, next in 1 ms",
                other("attempt x failed, next in 1 ms"),
            ),
            ("redriven", "many jobs", other("many jobs")),
            ("vanished", "into thin air", other("into thin air")),
        ] {
            assert_eq!(
                EventDetail::read(&EventKind::read(kind), text),
                read,
                "{kind}: {text}"
            );
        }
        assert_eq!(EventKind::read("vanished").name(), "vanished");
    }
}
