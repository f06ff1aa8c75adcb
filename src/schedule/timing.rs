//! When a schedule fires: slots, one after the other. No clock and no I/O: everything is reckoned from the moment given.
//!
//! A slot is a moment in unix milliseconds. Those of a cron expression follow the clock on the wall of its zone; what becomes
//! of them where that clock jumps is told at [`Timing::next_after`]. Those of an interval are the multiples of its length
//! since 1970-01-01T00:00Z, so that they stay where they are whoever sets the schedule, and however often.

use std::collections::VecDeque;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config;
use crate::error::{Error, Result};

/// How much longer a window is than the one before it, in which too few slots were found.
const WINDOW_GROWTH: i64 = 8;

/// When a schedule fires, checked and ready to be reckoned with.
#[derive(Clone, Debug)]
pub(crate) enum Timing {
    Cron { cron: Box<Cron>, zone: TimeZone },
    Every { every_ms: i64 },
}

impl Timing {
    /// Reads a cron expression of five or six fields, or a nickname like `@daily`, for the wall clock of `zone`.
    pub(crate) fn cron(expression: &str, zone: &str) -> Result<Self> {
        let shown: String = expression.chars().take(64).collect();
        let refuse = |reason: String| Error::setting("cron", shown.escape_debug(), reason);
        if expression.len() > config::CRON_BYTES_MAX {
            return Err(refuse(format!(
                "has {} bytes, at most {} are read",
                expression.len(),
                config::CRON_BYTES_MAX
            )));
        }
        let parser = CronParser::builder().year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| {
            refuse(format!(
                "{error}; write five fields (minute hour day month weekday), six with seconds in front, or @daily"
            ))
        })?;
        // What parses may never come, like the 30th of February.
        if search(&cron, &TimeZone::UTC, 0, false).is_none() {
            return Err(refuse("never comes: there is no such day".into()));
        }
        Ok(Self::Cron {
            cron: Box::new(cron),
            zone: zone_of(zone)?,
        })
    }

    /// Fires every `every`.
    pub(crate) fn every(every: Duration) -> Result<Self> {
        if !(config::EVERY_MIN..=config::EVERY_MAX).contains(&every)
            || !every.subsec_nanos().is_multiple_of(1_000_000)
        {
            let show = humantime::format_duration;
            let range = format!(
                "whole milliseconds, {} to {}",
                show(config::EVERY_MIN),
                show(config::EVERY_MAX)
            );
            return Err(Error::setting("every", show(every), range));
        }
        let every_ms = i64::try_from(every.as_millis()).expect("at most a year");
        Ok(Self::Every { every_ms })
    }

    /// The first slot after `ms`, or none if there is no further one.
    ///
    /// Where clocks are put forward, a time of day that does not exist is made up for when the gap ends; a whole day that
    /// does not exist is passed over. Where they are put back, a time of day that comes twice fires at the first. What is
    /// written with `*` or steps in the seconds, minutes or hours follows the time that passes: every half hour is that also
    /// in such a night.
    pub(crate) fn next_after(&self, ms: i64) -> Option<i64> {
        match self {
            Self::Every { every_ms } => (ms.div_euclid(*every_ms) + 1).checked_mul(*every_ms),
            // The search gives up within a gap that is longer than two hours, as where a zone has left out a day: then it goes
            // on from behind it.
            Self::Cron { cron, zone } => (0..=30).find_map(|hours| {
                let from = ms.checked_add(hours * 3_600_000)?;
                search(cron, zone, from, hours > 0).filter(|next| *next > ms)
            }),
        }
    }

    /// The latest slots from `from`, which is one, to `until`, in order; at most `count`.
    ///
    /// Looks back from `until` by windows that grow until there are enough, so it costs no more for a year than for an hour.
    pub(crate) fn latest(&self, count: usize, from: i64, until: i64) -> VecDeque<i64> {
        if let Self::Every { every_ms } = self {
            let last = until.div_euclid(*every_ms) * every_ms;
            let slots = (0..count as i64).map(|back| last - back * every_ms);
            return slots
                .take_while(|slot| *slot >= from)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
        }
        let mut window = 60_000;
        loop {
            let begin = until.saturating_sub(window);
            let (mut slots, mut at) = (VecDeque::new(), begin);
            if begin <= from {
                slots.push_back(from);
                at = from;
            }
            while let Some(slot) = self.next_after(at).filter(|slot| *slot <= until) {
                if slots.len() == count {
                    slots.pop_front();
                }
                slots.push_back(slot);
                at = slot;
            }
            if begin <= from || slots.len() == count {
                return slots;
            }
            window = window.saturating_mul(WINDOW_GROWTH);
        }
    }
}

/// The first moment after `from`, or at it, that the expression means.
fn search(cron: &Cron, zone: &TimeZone, from: i64, inclusive: bool) -> Option<i64> {
    let from = Timestamp::from_millisecond(from)
        .ok()?
        .to_zoned(zone.clone());
    let next = cron.find_next_occurrence(&from, inclusive).ok()?;
    Some(next.timestamp().as_millisecond())
}

fn zone_of(name: &str) -> Result<TimeZone> {
    let shown: String = name.chars().take(64).collect();
    TimeZone::get(name).map_err(|_| {
        let reason =
            "is no time zone that this machine knows; write one like Europe/Vienna, or UTC";
        Error::setting("zone", shown.escape_debug(), reason)
    })
}

#[cfg(test)]
mod tests;
