//! `millstream bench`: what the engine does on this machine, with every promise switched on, beside a bare client that does
//! only what must be done. Both run in turns in one run, so what moves with the machine moves for both, and the ratio stays.
//!
//! [`arena`] is the server and both ways to talk to it, [`engine`] and [`bare`] do the same work each in its way, [`latency`]
//! sends at a fixed rate and takes times, [`report`] tells. [`gateway`] does the same for webhooks over HTTP.

mod arena;
mod bare;
mod engine;
mod gateway;
mod latency;
mod report;

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use millstream::private_redis::Persistence;

use super::args::Globals;
use super::{output, parse, signals};
use arena::Arena;
use report::{Report, Side, Timing};

/// Jobs of a latency measurement: five seconds' worth at most.
const LATENCY_SECONDS: u32 = 5;
/// Rates at which latency is measured, jobs a second: a quiet queue and a busy one.
const RATES: [u32; 2] = [200, 2_000];
/// Calls of the lone caller in each turn.
const CALLS: usize = 1_000;
/// The delayed jobs: how many a second, how many at most, and how long each waits.
const DELAYED_RATE: u32 = 200;
const DELAYED_MAX: usize = 400;
const DELAY: Duration = Duration::from_secs(1);

/// Measure the engine beside a bare client on the same Redis, in turns: throughput, latency, Redis's CPU and memory per job.
/// Every job is checked to run exactly once; exit 1 unless all did.
///
/// Starts a Redis of its own. With --redis-url on the command line (the environment does not count) it works on that server
/// instead, in a queue of its own that it removes at the end; other work there shows in Redis's CPU and memory.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    other: Option<Other>,
    /// Jobs of each throughput measurement, 1 to 10000000
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// Callers that enqueue one job after the other, all at once, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    producers: u32,
    /// Handlers that the worker runs at once, 1 to 100000
    #[arg(long, value_name = "N", default_value = "100", value_parser = |text: &str| parse::number(text, parse::concurrency))]
    concurrency: usize,
    /// Workers in this process that share the draining, each with its own thread and connections, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Size of a payload: 8B to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "200B", value_parser = payload)]
    payload: usize,
    /// Jobs that wait in the queue already, behind which everything else happens, 0 to 10000000
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    queue_depth: u32,
    /// What the private Redis writes to disk
    #[arg(long, value_enum, value_name = "P", default_value_t)]
    persistence: Disk,
    /// Turns of each measurement, the engine's and the bare client's; medians are told, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    turns: u32,
    /// Measure only these, separated by commas
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Write JSON: one object with server, settings, throughput, latency, delayed, memory, problems
    #[arg(long)]
    json: bool,
}

/// What else there is to measure.
#[derive(Debug, Subcommand)]
enum Other {
    Gateway(gateway::GatewayBench),
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    /// --producers callers enqueue one job after the other; bare: one pipelined script call with XADD for each
    Enqueue,
    /// One call of 1,000 jobs after the other; bare: ten pipelined script calls of 100 XADDs
    Bulk,
    /// A worker empties a full queue; bare: XREADGROUP of 100, XACK and XDEL while the next are read
    Drain,
    /// Bulk and drain at once
    Both,
    /// One caller enqueues one job after the other; bare: XADD
    Call,
    /// From enqueue to the start of the handler, at 200 and at 2,000 jobs a second; bare: from XADD to the answer of a blocked read
    Latency,
    /// How late delayed jobs start
    Delayed,
}

/// What the private Redis writes to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Disk {
    /// Nothing
    #[default]
    None,
    /// An append-only file, synced once a second
    Everysec,
    /// An append-only file, synced before each answer
    Always,
}

impl From<Disk> for Persistence {
    fn from(disk: Disk) -> Self {
        match disk {
            Disk::None => Self::None,
            Disk::Everysec => Self::AofEverysec,
            Disk::Always => Self::AofAlways,
        }
    }
}

fn payload(text: &str) -> Result<usize, String> {
    let bytes = parse::size(text)?;
    match bytes {
        // A payload begins with the number of its job.
        8..=1_048_576 => Ok(bytes),
        _ => Err("must be 8B to 1MiB".into()),
    }
}

/// What every scenario needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) jobs: u64,
    pub(super) producers: u64,
    pub(super) concurrency: usize,
    pub(super) workers: u32,
    pub(super) payload_bytes: usize,
    /// Jobs that wait already.
    pub(super) depth: u64,
}

impl Bench {
    /// Whether it says how its own Redis is to be set up.
    pub(crate) fn sets_up_redis(&self) -> bool {
        self.persistence != Disk::None
    }

    pub(crate) async fn run(mut self, globals: &Globals) -> anyhow::Result<()> {
        if let Some(Other::Gateway(bench)) = self.other.take() {
            return bench.run(globals).await;
        }
        let stop = signals::shutdown(false)?;
        let url = globals.redis_url.as_deref();
        let bar = output::spinner("starting");
        let arena = Arena::connect(url, globals, self.persistence.into(), self.load()).await?;
        let measured = tokio::select! {
            measured = self.measure(&arena, &bar) => measured,
            () = stop.cancelled() => Err(anyhow::anyhow!("interrupted: the bench was stopped before its end")),
        };
        bar.finish_and_clear();
        // Also after a failure: on somebody's server nothing of this may stay.
        let removed = arena.remove().await;
        let report = measured?;
        removed.context("cannot remove the queue of the bench")?;
        if self.json {
            report.json()?;
        } else {
            report.print()?;
        }
        anyhow::ensure!(
            report.problems.is_empty(),
            "{}",
            output::counted(report.problems.len() as u64, "problem")
        );
        Ok(())
    }

    fn load(&self) -> Load {
        Load {
            jobs: self.jobs.into(),
            producers: self.producers.into(),
            concurrency: self.concurrency,
            workers: self.workers,
            payload_bytes: self.payload,
            depth: self.queue_depth.into(),
        }
    }

    fn wants(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }

    async fn measure(&self, arena: &Arena, bar: &indicatif::ProgressBar) -> anyhow::Result<Report> {
        let mut report = Report::new(arena.circumstances().await?, self.load(), self.turns);
        let say = |scenario: Scenario, turn: u32, side: Side| {
            let (name, side) = (scenario.to_possible_value(), side.name());
            let name = name.as_ref().map_or("", |value| value.get_name());
            bar.set_message(format!(
                "{name}, turn {} of {}: {side}",
                turn + 1,
                self.turns
            ));
        };
        for scenario in [
            Scenario::Enqueue,
            Scenario::Bulk,
            Scenario::Drain,
            Scenario::Both,
        ] {
            if !self.wants(scenario) {
                continue;
            }
            for turn in 0..self.turns {
                for side in Side::ALL {
                    say(scenario, turn, side);
                    let cost = match side {
                        Side::Millstream => engine::throughput(arena, scenario).await,
                        Side::Bare => bare::throughput(arena, scenario).await,
                    };
                    report.throughput(scenario, side, cost?);
                }
            }
        }
        if self.wants(Scenario::Call) {
            for turn in 0..self.turns {
                say(Scenario::Call, turn, Side::Millstream);
                let took = engine::calls(arena, CALLS.min(self.jobs as usize)).await?;
                report.timing(Timing::Call, Side::Millstream, &took);
                say(Scenario::Call, turn, Side::Bare);
                let took = bare::calls(arena, CALLS.min(self.jobs as usize)).await?;
                report.timing(Timing::Call, Side::Bare, &took);
            }
        }
        for rate in RATES.into_iter().filter(|_| self.wants(Scenario::Latency)) {
            let jobs = self.jobs.min(rate * LATENCY_SECONDS) as usize;
            for turn in 0..self.turns {
                say(Scenario::Latency, turn, Side::Millstream);
                let took = engine::starts(arena, rate, jobs, None).await?;
                report.timing(Timing::Start { rate }, Side::Millstream, &took);
                say(Scenario::Latency, turn, Side::Bare);
                let took = bare::starts(arena, rate, jobs).await?;
                report.timing(Timing::Start { rate }, Side::Bare, &took);
            }
        }
        if self.wants(Scenario::Delayed) {
            say(Scenario::Delayed, 0, Side::Millstream);
            let jobs = DELAYED_MAX.min(self.jobs as usize);
            let late = engine::starts(arena, DELAYED_RATE, jobs, Some(DELAY)).await?;
            report.timing(Timing::Late, Side::Millstream, &late);
        }
        Ok(report)
    }
}
