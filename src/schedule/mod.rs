//! Schedules as plain data: a job, when it is due again and again, and what becomes of slots that were missed or that come
//! while the last job is unfinished. [`Schedules`] stores them; every worker of the queue fires them.

pub(crate) mod plan;
mod stored;
pub(crate) mod timing;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config;
use crate::error::{Error, Result};
use crate::job::NewJob;
pub use crate::schedules::{Change, ScheduleView, Schedules, SetSchedule, Synced};
pub(crate) use stored::Definition;
use timing::Timing;

/// The header of a scheduled job that carries its schedule's id.
pub const SCHEDULE_HEADER: &str = "millstream-schedule";
/// The header of a scheduled job that carries its slot: the time at which it was due, RFC 3339 in UTC.
pub const SLOT_HEADER: &str = "millstream-slot";

/// A job that is due again and again.
///
/// ```
/// # use millstream::NewJob;
/// # use millstream::schedule::{Missed, Overlap, Schedule};
/// let nightly = Schedule::cron("0 3 * * *", NewJob::raw("token-health", ""))
///     .zone("Europe/Bucharest")
///     .missed(Missed::Once)
///     .overlap(Overlap::Skip);
/// # nightly.check(1024)?;
/// # Ok::<(), millstream::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Schedule {
    pub(crate) when: When,
    pub(crate) job: NewJob,
    pub(crate) missed: Missed,
    pub(crate) overlap: Overlap,
    pub(crate) paused: bool,
    pub(crate) origin: Option<String>,
}

/// When, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum When {
    Cron { expression: String, zone: String },
    EveryMs(u64),
}

impl When {
    pub(crate) fn timing(&self) -> Result<Timing> {
        match self {
            Self::Cron { expression, zone } => Timing::cron(expression, zone),
            Self::EveryMs(ms) => Timing::every(Duration::from_millis(*ms)),
        }
    }

    /// Text that is equal if and only if the times are written the same.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Self::Cron { expression, zone } => format!("cron {expression} {zone}"),
            Self::EveryMs(ms) => format!("every {ms}"),
        }
    }
}

/// What becomes of slots that came while no worker was there: more than 30 s ago when one looks again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// They are not made up for.
    Skip,
    /// One job for all of them, for the latest.
    #[default]
    Once,
    /// A job for each, at most so many, the latest. 1 to 100.
    All(u32),
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip => f.write_str("skip"),
            Self::Once => f.write_str("once"),
            Self::All(count) => write!(f, "all:{count}"),
        }
    }
}

impl FromStr for Missed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let count = |count: &str| {
            count
                .parse()
                .ok()
                .filter(|count| (1..=config::MISSED_RUNS_MAX).contains(count))
        };
        match text.split_once(':') {
            None if text == "skip" => Ok(Self::Skip),
            None if text == "once" => Ok(Self::Once),
            Some(("all", number)) if count(number).is_some() => {
                Ok(Self::All(count(number).expect("just seen")))
            }
            _ => Err(Error::setting(
                "missed",
                text.escape_debug(),
                "write skip, once, or all:N with N from 1 to 100",
            )),
        }
    }
}

/// What becomes of a slot that comes while the schedule's last job is unfinished: scheduled, ready, running or waiting to be
/// tried again. A dead job is finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlap {
    /// It gets its job all the same.
    #[default]
    Allow,
    /// It gets none.
    Skip,
}

impl Overlap {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
        }
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Overlap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "allow" => Ok(Self::Allow),
            "skip" => Ok(Self::Skip),
            _ => Err(Error::setting(
                "overlap",
                text.escape_debug(),
                "write allow or skip",
            )),
        }
    }
}

impl Schedule {
    /// `job` at every moment that `expression` means: five fields (minute, hour, day, month, weekday), six with seconds in
    /// front, or a nickname like `@daily`. By the clock on the wall in UTC, unless [`Schedule::zone`] says where.
    pub fn cron(expression: impl Into<String>, job: NewJob) -> Self {
        let (expression, zone) = (expression.into(), "UTC".to_owned());
        Self::of(When::Cron { expression, zone }, job)
    }

    /// `job` every `every`, 1 s to 366 days: at the multiples of it since 1970-01-01T00:00Z, so that slots stay where they are.
    pub fn every(every: Duration, job: NewJob) -> Self {
        // What is no whole number of milliseconds is refused by the check, and must not become one here.
        let ms = match every.subsec_nanos().is_multiple_of(1_000_000) {
            true => u64::try_from(every.as_millis()).unwrap_or(u64::MAX),
            false => 0,
        };
        Self::of(When::EveryMs(ms), job)
    }

    fn of(when: When, job: NewJob) -> Self {
        Self {
            when,
            job,
            missed: Missed::default(),
            overlap: Overlap::default(),
            paused: false,
            origin: None,
        }
    }

    /// The time zone of a cron expression, by its IANA name: `Europe/Bucharest`. Default `UTC`. Says nothing to an interval.
    #[must_use]
    pub fn zone(mut self, name: impl Into<String>) -> Self {
        if let When::Cron { zone, .. } = &mut self.when {
            *zone = name.into();
        }
        self
    }

    /// What becomes of slots that came while no worker was there. Default: one job for all of them.
    #[must_use]
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// What becomes of a slot that comes while the last job is unfinished. Default: it gets its job all the same.
    #[must_use]
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// Pauses the schedule when it is set. `false`, the default, does not end an older pause: [`Schedules::resume`] does.
    #[must_use]
    pub fn paused(mut self, paused: bool) -> Self {
        self.paused = paused;
        self
    }

    /// Who keeps this schedule, for those who remove what is no longer wanted: `config` is the config file. Default: nobody.
    #[must_use]
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = Some(origin.into());
        self
    }

    /// Checks everything that can be known before Redis is asked; [`Schedules::set`] does so by itself.
    ///
    /// # Errors
    /// [`Error::Setting`] names what is wrong with the time, [`Error::InvalidJob`] and [`Error::PayloadTooLarge`] with the job.
    pub fn check(&self, payload_bytes_max: usize) -> Result<()> {
        self.when.timing()?;
        if let Missed::All(count) = self.missed
            && !(1..=config::MISSED_RUNS_MAX).contains(&count)
        {
            return Err(Error::setting(
                "missed",
                self.missed,
                "all:N with N from 1 to 100",
            ));
        }
        let refuse = |field, value: String, reason: &str| {
            Err(Error::InvalidJob {
                field,
                value,
                reason: reason.to_owned(),
            })
        };
        if let Some(delay) = self.job.delay {
            let shown = humantime::format_duration(delay).to_string();
            return refuse(
                "delay",
                shown,
                "a scheduled job is due at its slot; write that into the schedule",
            );
        }
        if let Some(unique) = &self.job.unique {
            return refuse(
                "unique",
                unique.key.clone(),
                "use the schedule's overlap policy `skip` instead",
            );
        }
        self.job.check(payload_bytes_max)
    }

    /// [`Schedule::check`], and that `id` can be the schedule's id: 1 to 200 bytes without white space and control characters.
    ///
    /// # Errors
    /// As [`Schedule::check`].
    pub fn check_as(&self, id: &str, payload_bytes_max: usize) -> Result<()> {
        check_id(id)?;
        self.check(payload_bytes_max)
    }

    /// The next `count` slots after `after`, at most 1,000.
    ///
    /// # Errors
    /// [`Error::Setting`] names what is wrong with the time.
    pub fn next_runs(&self, after: SystemTime, count: usize) -> Result<Vec<SystemTime>> {
        let after = after
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let slots = next_slots(&self.when.timing()?, after, count);
        let slots = slots
            .into_iter()
            .filter_map(|slot| u64::try_from(slot).ok());
        Ok(slots
            .map(|slot| SystemTime::UNIX_EPOCH + Duration::from_millis(slot))
            .collect())
    }
}

pub(crate) fn next_slots(timing: &Timing, after: i64, count: usize) -> Vec<i64> {
    let slots = std::iter::successors(timing.next_after(after), |slot| timing.next_after(*slot));
    slots.take(count.min(1_000)).collect()
}

fn check_id(id: &str) -> Result<()> {
    let bad = |c: char| c.is_whitespace() || c.is_control();
    if id.is_empty() || id.len() > config::SCHEDULE_ID_BYTES_MAX || id.contains(bad) {
        let shown: String = id.chars().take(64).collect();
        let reason = format!(
            "1 to {} bytes, no white space or control characters",
            config::SCHEDULE_ID_BYTES_MAX
        );
        return Err(Error::setting("schedule", shown.escape_debug(), reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_out_of_range_is_refused_with_its_field() {
        let job = || NewJob::raw("a", "x");
        let daily = |job| Schedule::cron("@daily", job);
        let minute = Duration::from_secs(60);
        for (named, schedule) in [
            ("cron", Schedule::cron("*/0 * * * *", job())),
            ("zone", daily(job()).zone("Nowhere/City")),
            ("every", Schedule::every(Duration::from_millis(1), job())),
            (
                "every",
                Schedule::every(Duration::from_nanos(1_000_000_001), job()),
            ),
            ("missed", daily(job()).missed(Missed::All(0))),
            ("missed", daily(job()).missed(Missed::All(101))),
            ("name", daily(NewJob::raw("", "x"))),
            ("delay", daily(job().delay(minute))),
            ("unique", daily(job().unique("k"))),
            ("max_attempts", daily(job().max_attempts(0))),
        ] {
            match schedule.check(10) {
                Err(Error::Setting { name, .. }) => assert_eq!(name, named),
                Err(Error::InvalidJob { field, .. }) => assert_eq!(field, named),
                other => panic!("{named}: {other:?}"),
            }
        }
        assert!(matches!(
            daily(NewJob::raw("a", vec![0; 11])).check(10),
            Err(Error::PayloadTooLarge { .. })
        ));
        for id in ["", "a b", "a\nb", &"x".repeat(201)] {
            assert!(check_id(id).is_err(), "{id:?} was accepted");
        }
    }

    #[test]
    fn policies_are_read_as_they_are_shown() {
        for missed in [Missed::Skip, Missed::Once, Missed::All(7)] {
            assert_eq!(missed.to_string().parse::<Missed>().unwrap(), missed);
        }
        for overlap in [Overlap::Allow, Overlap::Skip] {
            assert_eq!(overlap.to_string().parse::<Overlap>().unwrap(), overlap);
        }
        for bad in [
            "", "all", "all:", "all:0", "all:101", "all:x", "once:1", "never",
        ] {
            assert!(bad.parse::<Missed>().is_err(), "{bad:?} was accepted");
            assert!(bad.parse::<Overlap>().is_err(), "{bad:?} was accepted");
        }
    }
}
