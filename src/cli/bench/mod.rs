//! `millstream bench`: what the engine does on this machine, with every promise switched on, beside a bare client that does
//! only what must be done. Both run in turns in one run, so what moves with the machine moves for both, and the ratio stays.
//!
//! [`arena`] is the server and both ways to talk to it, [`engine`] and [`bare`] do the same work each in its way, [`crew`] is the
//! engine's workers, here or in processes of their own ([`child`]), [`latency`] sends at a fixed rate and takes times, [`monitor`]
//! counts what reaches the server, [`report`] tells. [`gateway`] does the same for webhooks over HTTP, [`groups`] compares jobs of groups
//! with others, and [`limits`] tells what Redis itself does on this machine.

mod arena;
mod bare;
mod child;
mod crew;
mod engine;
mod gateway;
mod groups;
mod latency;
mod limits;
mod monitor;
mod report;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;
use millstream::private_redis::Persistence;

use super::args::Globals;
use super::{open_files, parse};
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
/// Files that a worker has open at most: its connections and what its runtime needs.
const FILES_PER_WORKER: usize = 12;

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
    /// Let so many processes of their own do the draining, each with --workers workers, 1 to 64, and tell what they have in memory
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: Option<u32>,
    /// Queues that the jobs are spread over, each with workers and slots of its own, 1 to 1000; latency is measured on one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    queues: u32,
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
    /// Jobs a second at which the time to the start of the handler is measured, separated by commas, 1 to 1000000 [default: 200,2000 and
    /// half of what `both` gave, if that was measured]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Vec<u32>,
    /// Measure only these, separated by commas
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Write JSON: one object with server, settings, throughput, latency, delayed, memory, idle, problems
    #[arg(long)]
    json: bool,
}

/// What else there is to measure.
#[derive(Debug, Subcommand)]
enum Other {
    Gateway(gateway::GatewayBench),
    Groups(groups::GroupsBench),
    Limits(limits::LimitsBench),
    Crew(crew::CrewProcess),
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
    /// From enqueue to the start of the handler, at each --rate;
    /// bare: from XADD to the answer of a blocked read
    Latency,
    /// How late delayed jobs start
    Delayed,
    /// Commands a second of a worker with nothing to do, seventeen seconds long; only on a Redis that the bench started
    Idle,
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
    /// Processes of workers; none: the workers are in this one.
    pub(super) processes: u32,
    pub(super) queues: u32,
    pub(super) payload_bytes: usize,
    /// Jobs that wait already.
    pub(super) depth: u64,
}

impl Load {
    /// One of everything.
    pub(super) const ONE: Self = Self {
        jobs: 1,
        producers: 1,
        concurrency: 1,
        workers: 1,
        processes: 0,
        queues: 1,
        payload_bytes: 8,
        depth: 0,
    };
}

impl Bench {
    /// Whether nobody but the command line may say where Redis is; a process of workers was told by the bench that started it.
    pub(crate) fn picks_its_server(&self) -> bool {
        !matches!(self.other, Some(Other::Crew(_)))
    }

    /// Whether it says how its own Redis is to be set up.
    pub(crate) fn sets_up_redis(&self) -> bool {
        self.persistence != Disk::None
    }

    pub(crate) async fn run(mut self, globals: &Globals) -> anyhow::Result<()> {
        match self.other.take() {
            Some(Other::Gateway(bench)) => return bench.run(globals).await,
            Some(Other::Groups(bench)) => return bench.run(globals).await,
            Some(Other::Limits(bench)) => return bench.run(globals).await,
            Some(Other::Crew(crew)) => return crew.run(globals).await,
            None => {}
        }
        open_files::raise((self.queues * self.workers) as usize * FILES_PER_WORKER);
        let measure = async |arena: &Arena, bar: &ProgressBar| self.measure(arena, bar).await;
        let report =
            arena::measured(globals, self.persistence.into(), self.load(), measure).await?;
        if self.json {
            report.json()?;
        } else {
            report.print()?;
        }
        arena::without_problems(&report.problems)
    }

    fn load(&self) -> Load {
        Load {
            jobs: self.jobs.into(),
            producers: self.producers.into(),
            concurrency: self.concurrency,
            workers: self.workers,
            processes: self.processes.unwrap_or(0),
            queues: self.queues,
            payload_bytes: self.payload,
            depth: self.queue_depth.into(),
        }
    }

    fn wants(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }

    async fn measure(&self, arena: &Arena, bar: &ProgressBar) -> anyhow::Result<Report> {
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
        let rates = match self.rate.is_empty() {
            true => {
                // Half of what goes in and out at once, where that was measured.
                let half = report.both().map(|both| (both / 2.0) as u32);
                RATES
                    .into_iter()
                    .chain(half.filter(|rate| *rate > 0))
                    .collect()
            }
            false => self.rate.clone(),
        };
        for rate in rates.into_iter().filter(|_| self.wants(Scenario::Latency)) {
            let jobs = self.jobs.min(rate.saturating_mul(LATENCY_SECONDS)) as usize;
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
        if self.wants(Scenario::Idle) {
            say(Scenario::Idle, 0, Side::Millstream);
            report.idle = engine::idle(arena).await?;
        }
        Ok(report)
    }
}
