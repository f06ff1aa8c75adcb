//! `[schedules.ID]`: what the config file wants to have done again and again.

use millstream::NewJob;
use millstream::schedule::Schedule;

use super::ConfigFile;
use super::file::ScheduleSection;
use crate::cli::failure::usage;

/// How schedules of a config file are marked, so that one that has left the file is known.
pub(crate) const ORIGIN: &str = "config";

/// The schedules of a config file, by queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScheduleSettings {
    /// Every queue that the file names, with the schedules that it wants there.
    pub(crate) queues: Vec<(String, Vec<(String, Schedule)>)>,
    /// The file has a `[schedules]` table, and so says all there is to say: others of its kind are removed.
    pub(crate) is_whole: bool,
}

/// Reads and checks the schedules of `file`.
pub(crate) fn read(file: Option<&ConfigFile>) -> anyhow::Result<ScheduleSettings> {
    let Some(file) = file else {
        return Ok(ScheduleSettings::default());
    };
    let mut settings = ScheduleSettings {
        queues: file
            .queue_names()
            .into_iter()
            .map(|name| (name, Vec::new()))
            .collect(),
        is_whole: file.sections.schedules.is_some(),
    };
    for (id, section) in file.sections.schedules.iter().flatten() {
        let refuse =
            |reason: String| usage(format!("{}: {reason}", file.place.at(&["schedules", id])));
        let schedule = schedule_of(section).map_err(|reason| refuse(reason.into()))?;
        schedule
            .check_as(id, millstream::config::PAYLOAD_BYTES_MAX_DEFAULT)
            .map_err(|error| refuse(error.to_string()))?;
        let name = section.queue.as_str();
        match settings.queues.iter_mut().find(|(queue, _)| queue == name) {
            Some((_, schedules)) => schedules.push((id.clone(), schedule)),
            None => settings
                .queues
                .push((name.to_owned(), vec![(id.clone(), schedule)])),
        }
    }
    Ok(settings)
}

fn schedule_of(section: &ScheduleSection) -> Result<Schedule, &'static str> {
    let mut job = NewJob::raw(&section.name, section.payload.clone());
    if let Some(priority) = section.priority {
        job = job.priority(priority);
    }
    if let Some(group) = &section.group {
        job = job.group(group);
    }
    if let Some(points) = section.cost {
        job = job.cost(points);
    }
    if let Some(ttl) = section.keep_result {
        job = job.keep_result(ttl);
    }
    if let Some(attempts) = section.max_attempts {
        job = job.max_attempts(attempts);
    }
    if let Some(timeout) = section.timeout {
        job = job.timeout(timeout);
    }
    if let Some(expires) = section.expires {
        job = job.expires(expires);
    }
    if let Some(deadline) = section.deadline {
        job = job.deadline(deadline);
    }
    let schedule = match (&section.cron, section.every, &section.zone) {
        (Some(cron), None, zone) => {
            Schedule::cron(cron, job).zone(zone.as_deref().unwrap_or("UTC"))
        }
        (None, Some(every), None) => Schedule::every(every, job),
        (None, Some(_), Some(_)) => return Err("zone belongs to cron; remove it"),
        _ => return Err("write either cron = \"0 3 * * *\" or every = \"10m\""),
    };
    Ok(schedule
        .missed(section.missed.unwrap_or_default())
        .overlap(section.overlap.unwrap_or_default())
        .paused(section.paused))
}
