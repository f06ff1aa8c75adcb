//! `millstream bench limits`: what Redis and this machine do for a client that is nothing but its bytes: commands made by hand, a
//! socket that blocks, one thread, and no more read of a reply than where it ends. Redis's processor time per job is what the command
//! costs there whoever sends it, so figures of two machines are to be compared by that. The rates are those of one thread that waits for its
//! replies, while Redis waits for it by turns: clients that overlap their calls do better.

mod hand;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use millstream::private_redis::Persistence;
use serde_json::json;

use super::arena::{self, Arena, Circumstances};
use super::bare::ONE;
use super::report::{Cost, LONGEST, Quantiles, cpu, rate, rounded, row};
use super::{Load, RATES};
use crate::cli::args::Globals;
use crate::cli::failure::usage;
use crate::cli::output;
use hand::Hand;

/// Commands that are written together before their replies are read.
const IN_FLIGHT: u64 = 50;
/// Jobs of a call, of a read and of a settlement.
const BATCH: u64 = 100;
/// One command at a time takes that much longer, so there are fewer.
const FEWER: u64 = 20;
/// Jobs of each start-latency measurement: three seconds' worth at most.
const LATENCY_SECONDS: u64 = 3;
const GROUP: &str = "workers";

const MANY: &str = "for i = 1, #ARGV, 2 do
  redis.call('XADD', KEYS[1], '*', 'name', ARGV[i], 'payload', ARGV[i + 1], 'attempt', '1', 'meta', '')
end";

/// Measure what Redis's own work costs on this machine, for a client of plain bytes in one thread, with no library and no promise: by its
/// processor time per job the figures of two machines can be compared. Always on a Redis of its own.
#[derive(Debug, Args)]
pub(crate) struct LimitsBench {
    /// Jobs of each measurement, 1000 to 10000000; one at a time a twentieth of them
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    jobs: u32,
    /// Size of a payload: 8B to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "200B", value_parser = super::payload)]
    payload: usize,
    /// Turns of each measurement; medians are told, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    turns: u32,
    /// Write JSON: one object with server, settings, limits (limit, jobs_per_second, redis_cpu_us_per_job), starts (jobs_per_second, us)
    #[arg(long)]
    json: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
enum Case {
    Alone,
    Together,
    Scripts,
    Batches,
    Drain,
}

impl Case {
    const ALL: [Self; 5] = [
        Self::Alone,
        Self::Together,
        Self::Scripts,
        Self::Batches,
        Self::Drain,
    ];

    /// In words, and for scripts.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Alone => ("XADD, one at a time", "xadd_alone"),
            Self::Together => ("XADD, 50 in flight", "xadd_together"),
            Self::Scripts => ("EVALSHA with one XADD, 50 in flight", "evalsha_together"),
            Self::Batches => ("EVALSHA with 100 XADDs", "evalsha_of_100"),
            Self::Drain => (
                "XREADGROUP of 100, XACK and XDEL with the next",
                "drain_by_100",
            ),
        }
    }

    fn jobs(self, jobs: u64) -> u64 {
        match self {
            Self::Alone => jobs / FEWER,
            _ => jobs,
        }
    }

    /// Does it `jobs` times.
    fn work(self, hand: &mut Hand, jobs: u64) -> anyhow::Result<()> {
        match self {
            Self::Alone => {
                for _ in 0..jobs {
                    hand.add();
                    hand.exchange(1)?;
                }
                Ok(())
            }
            Self::Together => hand.pipelined(jobs, |hand| hand.add()),
            Self::Scripts => {
                let sha = hand.load(ONE)?;
                hand.pipelined(jobs, |hand| hand.run(&sha, 1))
            }
            Self::Batches => {
                let sha = hand.load(MANY)?;
                for from in (0..jobs).step_by(BATCH as usize) {
                    hand.run(&sha, BATCH.min(jobs - from));
                    hand.exchange(1)?;
                }
                Ok(())
            }
            Self::Drain => {
                hand.read(None);
                hand.exchange(1)?;
                while hand.settled < jobs {
                    let last = jobs.min(hand.settled + BATCH);
                    hand.settle(last);
                    hand.read(None);
                    hand.exchange(3)?;
                }
                Ok(())
            }
        }
    }
}

/// Everything that was measured.
struct Report {
    circumstances: Circumstances,
    costs: [Vec<Cost>; Case::ALL.len()],
    /// From the write of an XADD to the answer of a blocked read, at each rate.
    starts: Vec<(u32, Histogram<u64>)>,
}

impl LimitsBench {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        if globals.redis_url.is_some() {
            let told = "bench limits measures a Redis of its own: leave --redis-url out";
            return Err(usage(told));
        }
        let load = Load {
            jobs: self.jobs.into(),
            payload_bytes: self.payload,
            ..Load::ONE
        };
        let measure = async |arena: &Arena, bar: &ProgressBar| self.measure(arena, bar).await;
        let report = arena::measured(globals, Persistence::None, load, measure).await?;
        match self.json {
            true => self.write_json(&report),
            false => self.print(&report),
        }
    }

    async fn measure(&self, arena: &Arena, bar: &ProgressBar) -> anyhow::Result<Report> {
        let mut report = Report {
            circumstances: arena.circumstances().await?,
            costs: Default::default(),
            starts: RATES.map(|rate| (rate, histogram())).into(),
        };
        for turn in 1..=self.turns {
            let say = |what: &str| {
                bar.set_message(format!("turn {turn} of {}: {what}", self.turns));
            };
            for case in Case::ALL {
                say(case.names().0);
                let cost = self.cost(arena, case).await?;
                report.costs[case as usize].push(cost);
            }
            for (rate, took) in &mut report.starts {
                say("from XADD to the answer of a blocked read");
                let (mut to, mut from) = (self.hand(arena).await?, self.hand(arena).await?);
                from.stream.clone_from(&to.stream);
                let (rate, jobs) = (*rate, u64::from(self.jobs));
                let starts = tokio::task::spawn_blocking(move || {
                    let jobs = jobs.min(u64::from(rate) * LATENCY_SECONDS);
                    starts(&mut to, &mut from, rate, jobs)
                });
                took.add(starts.await??)?;
            }
        }
        Ok(report)
    }

    async fn cost(&self, arena: &Arena, case: Case) -> anyhow::Result<Cost> {
        let mut hand = self.hand(arena).await?;
        let jobs = case.jobs(self.jobs.into());
        if matches!(case, Case::Drain) {
            hand = tokio::task::spawn_blocking(move || {
                hand.make_group()?;
                hand.pipelined(jobs, |hand| hand.add())?;
                anyhow::Ok(hand)
            })
            .await??;
        }
        let work = tokio::task::spawn_blocking(move || case.work(&mut hand, jobs));
        Cost::of(arena, jobs, async { work.await? }).await
    }

    /// A connection of its own, for a stream that nothing else uses.
    async fn hand(&self, arena: &Arena) -> anyhow::Result<Hand> {
        let address = arena.private_address().context("a Redis of its own")?;
        Hand::reach(address, arena.new_stream().await?, self.payload)
    }

    fn write_json(&self, report: &Report) -> anyhow::Result<()> {
        let limits = Case::ALL.map(|case| {
            let costs = &report.costs[case as usize];
            json!({
                "limit": case.names().1,
                "jobs_per_second": rate(costs).map(f64::round),
                "redis_cpu_us_per_job": cpu(costs).map(rounded),
            })
        });
        let starts = report.starts.iter();
        let starts = starts
            .map(|(rate, took)| json!({ "jobs_per_second": rate, "us": Quantiles::of(took) }));
        output::json(&json!({
            "server": report.circumstances,
            "settings": { "jobs": self.jobs, "payload_bytes": self.payload, "turns": self.turns },
            "limits": limits,
            "starts": starts.collect::<Vec<_>>(),
        }))
    }

    fn print(&self, report: &Report) -> anyhow::Result<()> {
        output::line(report.circumstances.line())?;
        output::line(format!(
            "{} of {}; medians of {}",
            output::counted(self.jobs.into(), "job"),
            output::counted(self.payload as u64, "byte"),
            output::counted(self.turns.into(), "turn")
        ))?;
        let mut table = output::table(&["limit", "jobs/s", "Redis µs/job"]);
        for case in Case::ALL {
            let costs = &report.costs[case as usize];
            let numbers = [
                output::count(rate(costs).unwrap_or_default() as u64),
                format!("{:.2}", cpu(costs).unwrap_or_default()),
            ];
            table.add_row(row(case.names().0.to_owned(), numbers));
        }
        output::print(&table, "")?;
        let mut table = output::table(&["time, µs", "p50", "p90", "p99", "p99.9"]);
        for (rate, took) in &report.starts {
            let title = format!(
                "XADD to the answer of a blocked read, {} jobs/s",
                output::count((*rate).into())
            );
            let numbers = Quantiles::of(took).in_order();
            table.add_row(row(title, numbers.map(|us| format!("{us:.0}"))));
        }
        output::print(&table, "")
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are constant and good")
}

/// How long after the write of its XADD each job was in the answer of a blocked read, ns. `to` writes at this rate, and does not wait for
/// anything but its reply; `from` reads and settles.
fn starts(to: &mut Hand, from: &mut Hand, rate: u32, jobs: u64) -> anyhow::Result<Histogram<u64>> {
    from.make_group()?;
    let began = Instant::now();
    let sent: Vec<AtomicU64> = (0..jobs).map(|_| 0.into()).collect();
    let ns = || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut took = histogram();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for (index, sent) in (0..).zip(&sent) {
                let due = Duration::from_secs(1) * index / rate;
                std::thread::sleep(due.saturating_sub(began.elapsed()));
                to.add();
                sent.store(ns(), Ordering::Relaxed);
                to.exchange(1)?;
            }
            anyhow::Ok(())
        });
        while from.settled < jobs {
            from.read(Some("5000"));
            let reply = from.exchange(1)?;
            let now = ns();
            // Each entry has one name of this kind.
            let came = reply.windows(4).filter(|four| *four == b"noop").count() as u64;
            anyhow::ensure!(came > 0, "no job came for five seconds");
            let last = from.settled + came;
            for index in from.settled..last {
                took.saturating_record(
                    now.saturating_sub(sent[index as usize].load(Ordering::Relaxed)),
                );
            }
            from.settle(last);
            from.exchange(2)?;
        }
        sending
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))?
    })?;
    Ok(took)
}
