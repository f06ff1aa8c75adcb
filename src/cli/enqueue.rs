//! `millstream enqueue`: puts a job into a queue.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use millstream::{Durability, Enqueued, NewJob, OnConflict, QueueName, config};

use super::args::Globals;
use super::connect::connect_to_store;
use super::failure::is_closed_pipe;
use super::job_args::JobArgs;
use super::wait::wait;
use super::{output, parse};

/// Put a job into a queue and print its id. The payload is stored as it is given, byte for byte.
#[derive(Debug, Args)]
pub(crate) struct Enqueue {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    #[command(flatten)]
    job: JobArgs,
    /// Run the job no earlier than this from now: 250ms, 5s, 1h30m
    #[arg(long, value_parser = parse::retention, value_name = "DURATION", conflicts_with = "at")]
    delay: Option<Duration>,
    /// Run the job no earlier than this moment: 2027-01-31T09:00:00Z; a past moment is now
    #[arg(long, value_parser = moment, value_name = "RFC3339")]
    at: Option<Timestamp>,
    /// Refuse a second job with this key until this one is finished; prints the id of the job that holds the key
    #[arg(long, value_name = "KEY")]
    unique: Option<String>,
    /// Hold the key for this long instead, even after the job has finished
    #[arg(long, value_parser = parse::window, value_name = "DURATION", requires = "unique")]
    unique_for: Option<Duration>,
    /// Let the key stand in the way only while its job waits; once that runs, the next is a job of its own
    #[arg(long, requires = "unique", conflicts_with = "unique_for")]
    unique_while_waiting: bool,
    /// When another job holds the key: refuse; replace: it takes this payload, delay and options, as long as it waits; throttle:
    /// what comes within --unique-for becomes one job that is due at its end
    #[arg(long, value_name = "HOW", value_parser = parse::on_conflict, default_value = "refuse", requires = "unique")]
    on_conflict: OnConflict,
    /// The trace that the job belongs to, as a W3C traceparent, like the TRACEPARENT of a command's environment
    #[arg(long, value_name = "TRACEPARENT")]
    traceparent: Option<String>,
    /// What belongs to the traceparent, passed on with it
    #[arg(long, value_name = "TRACESTATE", requires = "traceparent")]
    tracestate: Option<String>,
    /// Wait until the job ends, for 5m or as long as given, and print what its handler gave back instead of the id
    #[arg(long, value_parser = parse::duration, value_name = "DURATION", num_args = 0..=1, default_missing_value = "5m",
          require_equals = true, requires = "keep_result", conflicts_with = "count")]
    wait: Option<Duration>,
    /// Return only once the job is that safe: memory, replicas:N (WAIT) or fsync (WAITAOF) [default: memory].
    /// fsync needs Redis 7.2 or Valkey 7.2 with appendonly yes. A level that is not reached exits 1, although the job is stored
    #[arg(long, value_parser = parse::durability, value_name = "LEVEL")]
    durability: Option<Durability>,
    /// Store this many such jobs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000_000),
          conflicts_with = "unique")]
    count: u64,
    /// Write JSON, one object a line: id, duplicate, replaced, durability (the level that was reached)
    #[arg(long)]
    json: bool,
}

impl Enqueue {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let job = self.job(Timestamp::now())?;
        job.check(config::PAYLOAD_BYTES_MAX_DEFAULT)?;
        let queue = connect_to_store(globals)
            .await?
            .queue(self.queue.as_str())?;
        let queue = match self.durability {
            Some(durability) => queue.with_durability(durability),
            None => queue,
        };
        if self.count == 1 {
            let enqueued = queue.enqueue(job).await?;
            if let Some(timeout) = self.wait {
                self.confirm(std::slice::from_ref(&enqueued))?;
                // So that nobody who loses patience has lost the job.
                tracing::info!(job = %enqueued.id, duplicate = enqueued.duplicate, "waiting");
                return wait(&queue, &enqueued.id, timeout, self.json).await;
            }
            self.print_all(std::slice::from_ref(&enqueued))?;
            return self.confirm(std::slice::from_ref(&enqueued));
        }
        let progress = output::progress(self.count, "enqueueing");
        let mut stored = 0;
        let mut read = true;
        while stored < self.count {
            let chunk = (self.count - stored).min(config::BATCH_JOBS_MAX as u64);
            let jobs = vec![job.clone(); chunk as usize];
            let answers = queue.enqueue_all(jobs).await.with_context(|| {
                format!(
                    "{stored} of {} jobs are stored, in chunks of 1,000; the next chunk failed",
                    self.count
                )
            })?;
            read = read && self.print_all(&answers)?;
            self.confirm(&answers)?;
            stored += chunk;
            progress.set_position(stored);
        }
        progress.finish_and_clear();
        Ok(())
    }

    /// Fails when a job is stored, but not as safely as was asked for.
    fn confirm(&self, answers: &[Enqueued]) -> anyhow::Result<()> {
        let wanted = self.durability.unwrap_or_default();
        match answers
            .iter()
            .find(|enqueued| enqueued.durability != wanted)
        {
            Some(enqueued) => anyhow::bail!(
                "job {} is stored, but Redis confirmed only {} within a second, not {wanted}: look at its replicas and its disk",
                enqueued.id,
                enqueued.durability
            ),
            None => Ok(()),
        }
    }

    /// The job as it is described by the flags, at the moment `now` of this machine's clock.
    fn job(&self, now: Timestamp) -> anyhow::Result<NewJob> {
        let mut job = self.job.job()?;
        if let Some(delay) = self.delay.or_else(|| self.at.map(|at| until(at, now))) {
            job = job.delay(delay);
        }
        job = match (&self.unique, self.unique_for) {
            (Some(key), Some(window)) => job.unique_for(key, window),
            (Some(key), None) if self.unique_while_waiting => job.unique_while_waiting(key),
            (Some(key), None) => job.unique(key),
            (None, _) => job,
        };
        job = job.on_conflict(self.on_conflict);
        if let Some(traceparent) = &self.traceparent {
            job = job.traceparent(traceparent);
        }
        if let Some(tracestate) = &self.tracestate {
            job = job.tracestate(tracestate);
        }
        Ok(job)
    }

    /// Prints the answers. False if nobody reads them any more (`| head -1`): that ends the printing, not the storing.
    fn print_all(&self, answers: &[Enqueued]) -> anyhow::Result<bool> {
        for enqueued in answers {
            match self.print(enqueued) {
                Err(error) if is_closed_pipe(&error) => return Ok(false),
                printed => printed?,
            }
        }
        Ok(true)
    }

    fn print(&self, enqueued: &Enqueued) -> anyhow::Result<()> {
        if self.json {
            output::json_line(enqueued)
        } else if enqueued.duplicate && !enqueued.replaced {
            output::line(enqueued.id.as_str())?;
            tracing::warn!(job = %enqueued.id, "the unique key is held by this job: nothing was stored");
            Ok(())
        } else {
            output::line(enqueued.id.as_str())
        }
    }
}

/// Reads an RFC 3339 moment with its offset.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        "write a date, time and offset, like 2027-01-31T09:00:00Z or 2027-01-31T10:00:00+01:00"
            .into()
    })
}

/// From `now` to `at`; nothing if that has passed.
pub(crate) fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_until(at)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_becomes_a_delay_and_a_past_one_is_now() {
        let now = moment("2027-01-31T09:00:00Z").unwrap();
        assert_eq!(
            until(moment("2027-01-31T10:00:01+01:00").unwrap(), now),
            Duration::from_secs(1)
        );
        assert_eq!(
            until(moment("2020-01-01T00:00:00Z").unwrap(), now),
            Duration::ZERO
        );
        for bad in [
            "",
            "tomorrow",
            "2027-01-31",
            "2027-01-31T09:00:00",
            "1700000000",
        ] {
            assert!(moment(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
