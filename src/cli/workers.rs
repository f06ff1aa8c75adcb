//! `millstream workers`: who works.

use clap::Args;
use comfy_table::{Cell, CellAlignment};
use millstream::QueueName;

use super::args::Globals;
use super::connect::connect;
use super::{output, parse};

/// List the workers that Redis knows, with the jobs in their hands. One that crashed is listed until its jobs were taken back.
#[derive(Debug, Args)]
pub(crate) struct Workers {
    /// The queue [default: every queue there is]
    #[arg(value_parser = parse::queue)]
    queue: Option<QueueName>,
    /// Write JSON: a list of queue, worker, pid, running, idle_ms
    #[arg(long)]
    json: bool,
}

impl Workers {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = connect(globals).await?;
        let queues = match &self.queue {
            Some(queue) => vec![queue.to_string()],
            None => client.queues().await?,
        };
        let mut workers = Vec::new();
        for queue in &queues {
            workers.extend(client.inspect(queue)?.workers().await?);
        }
        if self.json {
            return output::json(&workers);
        }
        let mut table = output::table(&["queue", "worker", "pid", "running", "last asked"]);
        for worker in &workers {
            let pid = worker.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
            table.add_row([
                Cell::new(&worker.queue),
                Cell::new(output::clean(&worker.worker)),
                Cell::new(pid).set_alignment(CellAlignment::Right),
                Cell::new(output::count(worker.running)).set_alignment(CellAlignment::Right),
                Cell::new(format!("{} ago", output::age(Some(worker.idle_ms)))),
            ]);
        }
        output::print_rows(&mut table, None, &["pid", "last asked"], "no workers")
    }
}
