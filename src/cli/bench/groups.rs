//! `millstream bench groups`: what Redis spends on a job of a group, from its enqueue to its completion, beside one without a group. All
//! kinds of jobs in turns in one run, enqueued in calls of a fixed size and then drained by one worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use millstream::inspect::GroupLimits;
use millstream::private_redis::Persistence;
use millstream::{Context, JobError, NewJob, config};
use serde_json::json;
use tokio::sync::Notify;

use super::Load;
use super::arena::{self, Arena, Circumstances};
use super::report::{median, rounded, row};
use crate::cli::args::Globals;
use crate::cli::{output, parse};

/// Longest wait for the worker to have run every job.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measure what Redis spends on a job with a group beside one without, over its whole life, in turns: a group in a queue without
/// limits, a limited group that has room, and jobs nearly all of which are held first. Exit 1 unless every job ran once.
#[derive(Debug, Args)]
pub(crate) struct GroupsBench {
    /// Jobs of each measurement, 1 to 10000000
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// Groups that take turns, 1 to 1000000; a tenth of them where jobs are held
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    groups: u32,
    /// Jobs of a group at once where jobs are held, 1 to 100000
    #[arg(long, value_name = "N", default_value = "4", value_parser = |text: &str| parse::number(text, parse::concurrency))]
    group_concurrency: usize,
    /// Jobs in one call, and handlers that the worker runs at once, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// Size of a payload: 8B to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "200B", value_parser = super::payload)]
    payload: usize,
    /// Turns of each kind; medians are told, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    turns: u32,
    /// Write JSON: one object with server, settings, kinds (kind, enqueue_us, drain_us, redis_cpu_us_per_job, ratio), problems
    #[arg(long)]
    json: bool,
}

/// What the jobs are like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    NoLimit,
    Room,
    Held,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Plain, Self::NoLimit, Self::Room, Self::Held];

    /// In words, and for scripts.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Plain => ("no group", "plain"),
            Self::NoLimit => ("a group, no limit", "no_limit"),
            Self::Room => ("a limit, and room in the group", "room"),
            Self::Held => ("a limit, nearly all held first", "held"),
        }
    }
}

/// Redis's processor time per job, microseconds.
#[derive(Clone, Copy, Debug)]
struct Cost {
    enqueue: f64,
    drain: f64,
}

/// Everything that was measured.
struct Report {
    circumstances: Circumstances,
    costs: [Vec<Cost>; Kind::ALL.len()],
    problems: Vec<String>,
}

impl GroupsBench {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let load = Load {
            jobs: self.jobs.into(),
            concurrency: self.batch.into(),
            payload_bytes: self.payload,
            ..Load::ONE
        };
        let measure = async |arena: &Arena, bar: &ProgressBar| self.measure(arena, bar).await;
        let report = arena::measured(globals, Persistence::None, load, measure).await?;
        if self.json {
            self.write_json(&report)?;
        } else {
            self.print(&report)?;
        }
        arena::without_problems(&report.problems)
    }

    async fn measure(&self, arena: &Arena, bar: &ProgressBar) -> anyhow::Result<Report> {
        let mut report = Report {
            circumstances: arena.circumstances().await?,
            costs: Default::default(),
            problems: Vec::new(),
        };
        for turn in 1..=self.turns {
            for kind in Kind::ALL {
                bar.set_message(format!("turn {turn} of {}: {}", self.turns, kind.names().0));
                let cost = self.lives(arena, kind, &mut report.problems).await?;
                report.costs[kind as usize].push(cost);
            }
        }
        Ok(report)
    }

    /// Enqueues the jobs, and lets a worker drain them.
    async fn lives(
        &self,
        arena: &Arena,
        kind: Kind,
        problems: &mut Vec<String>,
    ) -> anyhow::Result<Cost> {
        let queue = arena.new_queue().await?;
        let name = queue.name().as_str();
        let inspector = arena.client.inspect(name)?;
        let most = match kind {
            Kind::Room => Some(config::GROUP_CONCURRENCY_MAX),
            Kind::Held => Some(self.group_concurrency),
            Kind::Plain | Kind::NoLimit => None,
        };
        if let Some(most) = most {
            let limits = GroupLimits::new().concurrency(Some(most));
            inspector.set_group_limits(None, &limits).await?;
        }
        let jobs = u64::from(self.jobs);
        let before = arena.redis_cpu().await?;
        for from in (0..jobs).step_by(self.batch.into()) {
            let call = from..jobs.min(from + u64::from(self.batch));
            let call = call.map(|index| self.job(arena, kind, index)).collect();
            queue.enqueue_all(call).await?;
        }
        let enqueued = arena.redis_cpu().await?;
        let (ran, all_ran) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let count = (Arc::clone(&ran), Arc::clone(&all_ran));
        let worker = arena.client.worker(name)?.concurrency(self.batch.into());
        let worker = worker.handle_raw("noop", move |_: Context| {
            if count.0.fetch_add(1, Ordering::Relaxed) + 1 >= jobs {
                count.1.notify_one();
            }
            std::future::ready(Ok::<(), JobError>(()))
        });
        let worker = worker.start().await?;
        let over = tokio::time::timeout(PATIENCE, all_ran.notified()).await;
        // Whatever ran is settled.
        worker.stop().await;
        let drained = arena.redis_cpu().await?;
        over.context("the worker did not run every job in time")?;
        let stats = inspector.stats().await?;
        let (ran, completed) = (ran.load(Ordering::Relaxed), stats.completed_total);
        if (ran, completed) != (jobs, jobs) {
            let kind = kind.names().0;
            problems.push(format!(
                "{kind}: of {jobs} jobs {ran} ran and {completed} were completed"
            ));
        }
        let per_job = |time: Duration| time.as_secs_f64() * 1e6 / jobs as f64;
        Ok(Cost {
            enqueue: per_job(enqueued.saturating_sub(before)),
            drain: per_job(drained.saturating_sub(enqueued)),
        })
    }

    fn job(&self, arena: &Arena, kind: Kind, index: u64) -> NewJob {
        let groups = match kind {
            Kind::Plain => return arena.job(index),
            Kind::NoLimit | Kind::Room => self.groups,
            Kind::Held => self.groups.div_ceil(10),
        };
        let group = index % u64::from(groups);
        arena.job(index).group(format!("shop-{group}.example"))
    }

    fn write_json(&self, report: &Report) -> anyhow::Result<()> {
        let kinds = report.rows().map(|(kind, cost, ratio)| {
            json!({
                "kind": kind.names().1,
                "enqueue_us": rounded(cost.enqueue),
                "drain_us": rounded(cost.drain),
                "redis_cpu_us_per_job": rounded(cost.whole()),
                "ratio": rounded(ratio),
            })
        });
        output::json(&json!({
            "server": report.circumstances,
            "settings": {
                "jobs": self.jobs, "groups": self.groups, "group_concurrency": self.group_concurrency,
                "batch": self.batch, "payload_bytes": self.payload, "turns": self.turns,
            },
            "kinds": kinds.collect::<Vec<_>>(),
            "problems": report.problems,
        }))
    }

    fn print(&self, report: &Report) -> anyhow::Result<()> {
        output::line(report.circumstances.line())?;
        output::line(format!(
            "{} of {} in calls of {}; medians of {}",
            output::counted(self.jobs.into(), "job"),
            output::counted(self.payload as u64, "byte"),
            self.batch,
            output::counted(self.turns.into(), "turn")
        ))?;
        let header = [
            "Redis's processor, µs a job",
            "enqueue",
            "drain",
            "both",
            "ratio",
        ];
        let mut table = output::table(&header);
        for (kind, cost, ratio) in report.rows() {
            let numbers = [cost.enqueue, cost.drain, cost.whole(), ratio];
            let numbers = numbers.map(|number| format!("{number:.2}"));
            table.add_row(row(kind.names().0.to_owned(), numbers));
        }
        output::print(&table, "")?;
        for problem in &report.problems {
            output::line(format!("problem: {problem}"))?;
        }
        Ok(())
    }
}

impl Cost {
    fn whole(self) -> f64 {
        self.enqueue + self.drain
    }
}

impl Report {
    /// The medians of each kind, and how they compare with jobs without a group.
    fn rows(&self) -> impl Iterator<Item = (Kind, Cost, f64)> {
        let medians = Kind::ALL.map(|kind| {
            let costs = &self.costs[kind as usize];
            let of = |part: fn(&Cost) -> f64| median(costs.iter().map(part)).unwrap_or_default();
            Cost {
                enqueue: of(|cost| cost.enqueue),
                drain: of(|cost| cost.drain),
            }
        });
        let plain = medians[Kind::Plain as usize].whole();
        let rows = Kind::ALL.into_iter().zip(medians);
        rows.map(move |(kind, cost)| (kind, cost, cost.whole() / plain))
    }
}
