//! `millstream jobs update`: changes a job that waits.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use jiff::Timestamp;
use millstream::inspect::Inspector;
use millstream::job::codec::Codec;
use millstream::job::state::State;
use millstream::{JobId, JobUpdate, Priority, QueueName};

use super::args::Globals;
use super::connect::connect;
use super::enqueue::{moment, until};
use super::failure::usage;
use super::job_args::read_payload;
use super::{output, parse};

/// Change a job that waits. One that runs, is dead or is finished stays as it is, and the command says so and exits 1.
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("change").required(true).multiple(true).args(["payload", "payload_file", "delay", "at", "priority"])),
)]
pub(crate) struct Update {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// The job's id
    id: String,
    /// The new payload as text; for a job whose payload is MessagePack it is JSON, as `jobs show` writes it
    #[arg(long, value_name = "TEXT", conflicts_with = "payload_file")]
    payload: Option<String>,
    /// Read the new payload from this file, or from stdin for -, byte for byte
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// Run the job no earlier than this from now: 250ms, 5s, 1h30m; 0s for as soon as it can
    #[arg(long, value_parser = parse::retention, value_name = "DURATION", conflicts_with = "at")]
    delay: Option<Duration>,
    /// Run the job no earlier than this moment: 2027-01-31T09:00:00Z; a past moment is now
    #[arg(long, value_parser = moment, value_name = "RFC3339")]
    at: Option<Timestamp>,
    /// The new priority: high, normal or low
    #[arg(long, value_name = "PRIORITY", value_parser = parse::priority)]
    priority: Option<Priority>,
    /// Only say in which state the job is, and whether it could be changed
    #[arg(long)]
    dry_run: bool,
    /// Write JSON: id, state (where it is now), dry_run
    #[arg(long)]
    json: bool,
}

impl Update {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let mut update = JobUpdate::new();
        if let Some(payload) = self.new_payload(&queue).await? {
            update = update.payload(payload);
        }
        let at = self.at.map(|at| until(at, Timestamp::now()));
        if let Some(delay) = self.delay.or(at) {
            update = update.delay(delay);
        }
        if let Some(priority) = self.priority {
            update = update.priority(priority);
        }
        let id = JobId::from(self.id.as_str());
        let state = match self.dry_run {
            true => could_be_changed(&queue, &id).await?,
            false => queue.update(&id, &update).await?,
        };
        if self.json {
            return output::json(&serde_json::json!({
                "id": id, "state": state, "dry_run": self.dry_run,
            }));
        }
        output::line(match self.dry_run {
            true => format!("{id} would be changed, is {state}"),
            false => format!("{id} is changed and {state}"),
        })
    }

    async fn new_payload(&self, queue: &Inspector) -> anyhow::Result<Option<Bytes>> {
        if let Some(file) = &self.payload_file {
            return read_payload(None, Some(file)).map(Some);
        }
        let Some(text) = &self.payload else {
            return Ok(None);
        };
        let job = queue.show(&self.id.as_str().into()).await?;
        if job.codec != Codec::MsgPack.name() {
            return Ok(Some(text.clone().into()));
        }
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| {
            usage(format!(
                "--payload: job {} is written in MessagePack, so write its payload as JSON: {error}",
                self.id
            ))
        })?;
        Ok(Some(Codec::MsgPack.encode(&job.name, &value)?))
    }
}

/// The state of a job that waits.
async fn could_be_changed(queue: &Inspector, id: &JobId) -> anyhow::Result<State> {
    let state = queue.show(id).await?.state;
    let waits = matches!(state, State::Scheduled | State::Held | State::Ready);
    anyhow::ensure!(
        waits,
        "job {id} is {state}: only a job that waits can be changed"
    );
    Ok(state)
}
