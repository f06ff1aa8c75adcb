//! `millstream jobs wait`, and the same behind `enqueue --wait`.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use millstream::job::codec::Codec;
use millstream::{JobId, JobResult, Queue, QueueName};
use serde_json::Value;

use super::args::Globals;
use super::connect::connect;
use super::{output, parse};

/// Wait until a job ends, and print what its handler gave back. The job must have been enqueued with --keep-result.
///
/// Exit code 0 when it was completed; 1 when it is dead, was cancelled, left nothing, or is not finished in time.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// The job's id
    id: String,
    /// How long to wait at most
    #[arg(long, value_parser = parse::duration, default_value = "5m", value_name = "DURATION")]
    timeout: Duration,
    /// Write JSON: id, name, attempt, took_ms, codec, and result, or result_hex where it is neither JSON nor text
    #[arg(long)]
    json: bool,
}

impl Wait {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.queue(self.queue.as_str())?;
        wait(&queue, &self.id.as_str().into(), self.timeout, self.json).await
    }
}

/// Waits and prints.
pub(super) async fn wait(
    queue: &Queue,
    id: &JobId,
    timeout: Duration,
    json: bool,
) -> anyhow::Result<()> {
    let result = queue.wait_result(id, timeout).await?;
    if json {
        return output::json_line(&view(&result));
    }
    let Some(bytes) = &result.value else {
        return Ok(());
    };
    match result.codec {
        Codec::Raw => std::io::stdout()
            .write_all(bytes)
            .context("cannot write to stdout"),
        _ => output::line(
            value_of(&result).map_or_else(|| hex::encode(bytes), |value| value.to_string()),
        ),
    }
}

fn view(result: &JobResult) -> Value {
    let mut view = serde_json::json!({
        "id": result.id,
        "name": result.name,
        "attempt": result.attempt,
        "took_ms": u64::try_from(result.took.as_millis()).unwrap_or(u64::MAX),
        "codec": result.codec.name(),
    });
    match (value_of(result), &result.value) {
        (None, Some(bytes)) => view["result_hex"] = hex::encode(bytes).into(),
        (value, _) => view["result"] = value.unwrap_or_default(),
    }
    view
}

/// What is in the result, as far as JSON can say it.
fn value_of(result: &JobResult) -> Option<Value> {
    let bytes = result.value.as_ref()?;
    let text = || std::str::from_utf8(bytes).ok().map(Value::from);
    match result.codec {
        Codec::Raw => serde_json::from_slice(bytes).ok().or_else(text),
        _ => result.decode().ok(),
    }
}
