//! `millstream keys`: every Redis key of a queue, explained.

use bytesize::ByteSize;
use clap::Args;
use comfy_table::{Cell, CellAlignment};

use super::args::Globals;
use super::connect::{connect_to, redis_cli};
use super::settings::{self, RedisSettings};
use super::{output, parse};
use millstream::{QueueName, config};

/// Explain every Redis key of a queue: what it holds, its size, and the redis-cli line that looks inside.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Write JSON: a list of key, kind, holds, size, memory_bytes, look
    #[arg(long)]
    json: bool,
}

impl Keys {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let file = settings::load(globals)?;
        let redis = RedisSettings::merge(globals, file.as_ref());
        let client = connect_to(&redis, config::PAYLOAD_BYTES_MAX_DEFAULT).await?;
        let keys = client.inspect(self.queue.as_str())?.keys().await?;
        if self.json {
            return output::json(&keys);
        }
        let mut table = output::table(&["key", "type", "entries", "memory", "holds"]);
        for key in &keys {
            let memory = key.memory_bytes.map_or_else(
                || "-".into(),
                |bytes| ByteSize::b(bytes).display().iec().to_string(),
            );
            table.add_row([
                Cell::new(&key.key),
                Cell::new(&key.kind),
                Cell::new(output::count(key.size)).set_alignment(CellAlignment::Right),
                Cell::new(memory).set_alignment(CellAlignment::Right),
                Cell::new(key.holds),
            ]);
        }
        output::print(&table, "no keys")?;
        // Not in the table: a wrapped command cannot be copied.
        output::line("\nLook inside:")?;
        let redis_cli = redis_cli(&redis.url);
        for key in &keys {
            output::line(format!("  {redis_cli} {}", key.look))?;
        }
        Ok(())
    }
}
