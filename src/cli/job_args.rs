//! What is said of a job on the command line, whoever makes it: `enqueue` at once, `cron set` again and again.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use millstream::{NewJob, Priority, config};

use super::failure::usage;
use super::parse;

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job's name; workers choose the handler by it
    #[arg(long)]
    name: String,
    /// The payload as text [default: empty]
    #[arg(long, value_name = "TEXT", conflicts_with = "payload_file")]
    payload: Option<String>,
    /// Read the payload from this file, or from stdin for -
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// Which of the waiting jobs runs first: high, normal or low
    #[arg(long, value_name = "PRIORITY", value_parser = parse::priority, default_value = "normal")]
    priority: Priority,
    /// Whom the job is for: a tenant, a shop
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Points that the job takes from the bucket of its group, where that has a rate
    #[arg(long, value_name = "N", default_value_t = 1, requires = "group", value_parser = clap::value_parser!(u32).range(1..=i64::from(config::COST_MAX)))]
    cost: u32,
    /// Attempts in all, the first included [default: the worker's setting, 10]
    #[arg(long, value_parser = |text: &str| parse::number(text, parse::max_attempts), value_name = "N")]
    max_attempts: Option<u32>,
    /// How long one attempt may run [default: the worker's setting, 30s]
    #[arg(long, value_parser = parse::timeout, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// Dead-letter the job if no worker has started it this long after it was enqueued
    #[arg(long, value_parser = parse::window, value_name = "DURATION")]
    expires: Option<Duration>,
    /// Dead-letter the job if it is not completed this long after it was enqueued, all waits and attempts together
    #[arg(long, value_parser = parse::window, value_name = "DURATION")]
    deadline: Option<Duration>,
    /// Keep what the handler gives back for this long after the job is completed, for jobs wait
    #[arg(long, value_parser = parse::window, value_name = "DURATION")]
    keep_result: Option<Duration>,
}

impl JobArgs {
    /// The job as it is described. Reads the payload.
    pub(crate) fn job(&self) -> anyhow::Result<NewJob> {
        let payload = read_payload(self.payload.as_deref(), self.payload_file.as_deref())?;
        let mut job = NewJob::raw(&self.name, payload).priority(self.priority);
        if let Some(group) = &self.group {
            job = job.group(group).cost(self.cost);
        }
        if let Some(attempts) = self.max_attempts {
            job = job.max_attempts(attempts);
        }
        if let Some(timeout) = self.timeout {
            job = job.timeout(timeout);
        }
        if let Some(expires) = self.expires {
            job = job.expires(expires);
        }
        if let Some(deadline) = self.deadline {
            job = job.deadline(deadline);
        }
        if let Some(ttl) = self.keep_result {
            job = job.keep_result(ttl);
        }
        Ok(job)
    }
}

/// The payload that `--payload` or `--payload-file` gives.
pub(crate) fn read_payload(text: Option<&str>, file: Option<&Path>) -> anyhow::Result<Bytes> {
    let Some(path) = file else {
        return Ok(Bytes::copy_from_slice(text.unwrap_or_default().as_bytes()));
    };
    // No more than the largest limit there is: the client refuses anything above its own, and names both numbers.
    let limit = config::PAYLOAD_BYTES_MAX_MAX as u64 + 1;
    let mut payload = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut payload)
            .context("cannot read the payload from stdin")?;
    } else {
        let read =
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut payload));
        read.map_err(|error| usage(format!("--payload-file {}: {error}", path.display())))?;
    }
    Ok(payload.into())
}
