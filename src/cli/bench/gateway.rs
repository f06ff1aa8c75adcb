//! `millstream bench gateway`: signed webhooks over HTTP, verified and stored, beside a server of the same library that only reads
//! the body and answers. Both in turns in one run, on the same machine, by the same senders.
//!
//! [`senders`] sends and takes times, [`servers`] has the two that are measured, [`report`] tells.

mod report;
mod senders;
mod servers;

use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use millstream::private_redis::Persistence;

use super::Load;
use super::arena::{self, Arena};
use crate::cli::args::Globals;
use crate::cli::{open_files, parse};
use report::{Latency, Report, Round};
use senders::Senders;
use servers::{Bare, Child};

/// Before a turn is measured: connections, buffers and the allocator settle.
const WARM_UP: Duration = Duration::from_millis(500);

/// Measure the gateway beside a bare hyper server that only reads the body and answers, in turns: requests/s, latency at full and at
/// half load, memory, Redis's CPU. The answers of 200 are counted against the jobs in Redis; exit 1 unless they are the same.
///
/// The gateway is a process of its own with its default settings; only its access log is off unless --access-log is given.
#[derive(Debug, Args)]
pub(crate) struct GatewayBench {
    /// Keep-alive connections that send one webhook after the other, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Size of a body: 8B to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = super::payload)]
    body: usize,
    /// Length of each turn: 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse::interval)]
    turn: Duration,
    /// Turns of each, the gateway's and the bare server's; medians are told, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    turns: u32,
    /// Connections that are open when the gateway's memory is taken, 1 to 100000
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    idle: u32,
    /// Let the gateway write its access log, to a pipe that is read and thrown away
    #[arg(long)]
    access_log: bool,
    /// Write JSON: one object with server, settings, requests, latency, memory, redis_cpu_us_per_webhook, problems
    #[arg(long)]
    json: bool,
}

impl GatewayBench {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        open_files::raise(self.idle.max(self.connections) as usize);
        let load = Load {
            jobs: 0,
            producers: self.connections.into(),
            payload_bytes: self.body,
            ..Load::ONE
        };
        let measure = async |arena: &Arena, bar: &ProgressBar| self.measure(arena, bar).await;
        let report = arena::measured(globals, Persistence::None, load, measure).await?;
        if self.json {
            report.json()?;
        } else {
            report.print()?;
        }
        arena::without_problems(&report.problems)
    }

    async fn measure(&self, arena: &Arena, bar: &ProgressBar) -> anyhow::Result<Report> {
        let mut report = Report::new(
            arena.circumstances().await?,
            self.connections,
            self.body,
            self.turns,
        );
        for turn in 1..=self.turns {
            let of = format!("turn {turn} of {}", self.turns);
            bar.set_message(format!("{of}: gateway"));
            let round = self
                .round(arena, async |senders| senders.flat_out(self.turn).await)
                .await?;
            report.ours(round);
            bar.set_message(format!("{of}: bare server"));
            let bare = Bare::start().await?;
            let mut senders = Senders::connect(bare.address, self.connections, self.body).await?;
            senders.flat_out(WARM_UP).await?;
            report.bare(senders.flat_out(self.turn).await?);
        }
        let half = report.half();
        bar.set_message(format!("half load, {half:.0} a second"));
        let round = self
            .round(arena, async |senders| {
                senders.at_rate(half, self.turn).await
            })
            .await?;
        report.at_half(round);
        bar.set_message("memory");
        self.memory(arena, &mut report).await?;
        Ok(report)
    }

    /// A gateway and a queue of its own, what `send` sends, and the count afterwards.
    async fn round(
        &self,
        arena: &Arena,
        send: impl AsyncFnOnce(&mut Senders) -> anyhow::Result<Latency>,
    ) -> anyhow::Result<Round> {
        let queue = arena.new_queue().await?;
        let name = queue.name().as_str();
        let gateway = Child::start(arena, name, self.access_log).await?;
        let mut senders = Senders::connect(gateway.address, self.connections, self.body).await?;
        senders.flat_out(WARM_UP).await?;
        let cpu = arena.redis_cpu().await?;
        let latency = send(&mut senders).await?;
        let cpu = arena.redis_cpu().await?.saturating_sub(cpu);
        let jobs = arena.client.inspect(name)?.stats().await?.enqueued_total;
        Ok(Round {
            redis_cpu_us: cpu.as_secs_f64() * 1e6 / latency.sent().max(1) as f64,
            latency,
            stored: senders.stored(),
            jobs,
        })
    }

    /// What the gateway holds in memory with many connections open, each of which has sent a webhook.
    async fn memory(&self, arena: &Arena, report: &mut Report) -> anyhow::Result<()> {
        let queue = arena.new_queue().await?;
        let name = queue.name().as_str();
        let gateway = Child::start(arena, name, self.access_log).await?;
        let before = gateway.resident_bytes();
        let mut senders = Senders::connect(gateway.address, self.idle, self.body).await?;
        senders.once().await?;
        report.memory(self.idle, before, gateway.resident_bytes());
        let jobs = arena.client.inspect(name)?.stats().await?.enqueued_total;
        report.counted(senders.stored(), jobs);
        Ok(())
    }
}
