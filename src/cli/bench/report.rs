//! What was measured, as tables for people and one object for scripts.

use std::future::Future;
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::json;

use super::arena::{Arena, BULK_CALLERS, Circumstances};
use super::{Load, Scenario};
use crate::cli::output;

/// Longest time that a histogram holds, ns: half a minute.
pub(super) const LONGEST: u64 = 30_000_000_000;

/// Who did the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Millstream,
    Bare,
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Millstream, Self::Bare];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Millstream => "millstream",
            Self::Bare => "bare client",
        }
    }
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    Call,
    Start { rate: u32 },
    Late,
}

/// One throughput measurement.
#[derive(Debug, Default)]
pub(super) struct Cost {
    jobs_per_second: f64,
    redis_us_per_job: f64,
    pub(super) bytes_per_job: Option<f64>,
    pub(super) memory: Memory,
    problems: Vec<String>,
}

/// What the largest process of workers had in memory, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// When a tenth of the jobs was done.
    tenth: Option<u64>,
    most: Option<u64>,
    /// When all were done.
    end: Option<u64>,
}

impl Memory {
    /// Notes what it has when this share of the jobs is done.
    pub(super) fn note(&mut self, done: f64, bytes: u64) {
        if done >= 0.1 {
            self.tenth.get_or_insert(bytes);
        }
        self.most = self.most.max(Some(bytes));
        self.end = Some(bytes);
    }
}

impl Cost {
    /// Measures `work` on `jobs` jobs.
    pub(super) async fn of(
        arena: &Arena,
        jobs: u64,
        work: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Self> {
        let cpu = arena.redis_cpu().await?;
        let began = Instant::now();
        work.await?;
        let elapsed = began.elapsed();
        let cpu = arena.redis_cpu().await?.saturating_sub(cpu);
        let per_job = |time: Duration| time.as_secs_f64() / jobs as f64;
        Ok(Self {
            jobs_per_second: per_job(elapsed).recip(),
            redis_us_per_job: per_job(cpu) * 1e6,
            ..Self::default()
        })
    }

    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }
}

/// Everything that was measured.
pub(super) struct Report {
    circumstances: Circumstances,
    load: Load,
    turns: u32,
    throughput: Vec<(Scenario, [Vec<Cost>; 2])>,
    timings: Vec<(Timing, [Option<Histogram<u64>>; 2])>,
    /// Commands a second of a worker with nothing to do.
    pub(super) idle: Option<f64>,
    /// What went wrong; nothing, if every job ran exactly once.
    pub(super) problems: Vec<String>,
}

impl Report {
    pub(super) fn new(circumstances: Circumstances, load: Load, turns: u32) -> Self {
        Self {
            circumstances,
            load,
            turns,
            throughput: Vec::new(),
            timings: Vec::new(),
            idle: None,
            problems: Vec::new(),
        }
    }

    pub(super) fn throughput(&mut self, scenario: Scenario, side: Side, mut cost: Cost) {
        let name = name(scenario);
        let problems = cost.problems.drain(..);
        self.problems
            .extend(problems.map(|problem| format!("{name}: {problem}")));
        if self
            .throughput
            .last()
            .is_none_or(|(last, _)| *last != scenario)
        {
            self.throughput.push((scenario, Default::default()));
        }
        if let Some((_, costs)) = self.throughput.last_mut() {
            costs[side as usize].push(cost);
        }
    }

    /// Adds times, ns, to those of the turns before.
    pub(super) fn timing(&mut self, timing: Timing, side: Side, took: &[i64]) {
        if self.timings.last().is_none_or(|(last, _)| *last != timing) {
            self.timings.push((timing, Default::default()));
        }
        let Some((_, histograms)) = self.timings.last_mut() else {
            return;
        };
        let histogram = histograms[side as usize].get_or_insert_with(|| {
            Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are constant and good")
        });
        for took in took {
            histogram.saturating_record(took.unsigned_abs());
        }
    }

    /// The memory of one waiting job, bytes.
    fn bytes_per_job(&self) -> Option<f64> {
        let costs = self.throughput.iter().flat_map(|(_, costs)| &costs[0]);
        median(costs.filter_map(|cost| cost.bytes_per_job))
    }

    /// What the workers had in memory in the turn where they had most of it.
    fn worker_memory(&self) -> Option<Memory> {
        let costs = self.throughput.iter().flat_map(|(_, costs)| &costs[0]);
        let memory = costs.map(|cost| cost.memory).filter(|of| of.most.is_some());
        memory.max_by_key(|memory| memory.most)
    }

    /// How many jobs a second go in and out at once.
    pub(super) fn both(&self) -> Option<f64> {
        let mut rows = self.throughput.iter();
        let (_, costs) = rows.find(|(scenario, _)| *scenario == Scenario::Both)?;
        rate(&costs[0])
    }

    pub(super) fn json(&self) -> anyhow::Result<()> {
        let throughput = self.throughput.iter().map(|(scenario, costs)| {
            let [ours, bare] = costs.each_ref().map(|costs| rate(costs));
            let [our_cpu, bare_cpu] = costs.each_ref().map(|costs| cpu(costs));
            json!({
                "scenario": name(*scenario),
                "jobs_per_second": ours.map(f64::round),
                "bare_jobs_per_second": bare.map(f64::round),
                "ratio": ours.zip(bare).map(|(ours, bare)| rounded(ours / bare)),
                "redis_cpu_us_per_job": our_cpu.map(rounded),
                "bare_redis_cpu_us_per_job": bare_cpu.map(rounded),
            })
        });
        let timing = |histograms: &[Option<Histogram<u64>>; 2]| {
            let [ours, bare] = histograms
                .each_ref()
                .map(|histogram| histogram.as_ref().map(Quantiles::of));
            json!({ "millstream_us": ours, "bare_us": bare })
        };
        let of = |wanted: fn(Timing) -> Option<u32>| {
            let rows = self.timings.iter();
            let rows = rows.filter_map(|(of, histograms)| Some((wanted(*of)?, timing(histograms))));
            rows.map(|(rate, mut row)| {
                if rate > 0 {
                    row["jobs_per_second"] = rate.into();
                }
                row
            })
            .collect::<Vec<_>>()
        };
        let bytes = self.bytes_per_job();
        let workers = self.worker_memory();
        output::json(&json!({
            "server": self.circumstances,
            "settings": {
                "jobs": self.load.jobs,
                "producers": self.load.producers,
                "concurrency": self.load.concurrency,
                "workers": self.load.workers,
                "processes": self.load.processes,
                "queues": self.load.queues,
                "payload_bytes": self.load.payload_bytes,
                "queue_depth": self.load.depth,
                "turns": self.turns,
            },
            "throughput": throughput.collect::<Vec<_>>(),
            "call": of(|timing| (timing == Timing::Call).then_some(0)).pop(),
            "latency": of(|timing| match timing { Timing::Start { rate } => Some(rate), _ => None }),
            "delayed": of(|timing| (timing == Timing::Late).then_some(0)).pop(),
            "memory": {
                "bytes_per_waiting_job": bytes.map(f64::round),
                "beyond_payload": bytes.map(|bytes| (bytes - self.load.payload_bytes as f64).round()),
            },
            "worker_memory": workers.map(|memory| json!({
                "tenth_bytes": memory.tenth,
                "most_bytes": memory.most,
                "end_bytes": memory.end,
            })),
            "idle_commands_per_second": self.idle.map(rounded),
            "problems": self.problems,
        }))
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        output::line(self.circumstances.line())?;
        output::line(format!(
            "{}, {} of payload each, {} waiting already; medians of {}",
            output::counted(self.load.jobs, "job"),
            output::counted(self.load.payload_bytes as u64, "byte"),
            output::count(self.load.depth),
            output::counted(self.turns.into(), "turn")
        ))?;
        if !self.throughput.is_empty() {
            let mut table = output::table(&[
                "throughput",
                "jobs/s",
                "bare client",
                "ratio",
                "Redis µs/job",
                "bare",
            ]);
            for (scenario, costs) in &self.throughput {
                let [ours, bare] = costs.each_ref().map(|costs| rate(costs));
                let [our_cpu, bare_cpu] = costs.each_ref().map(|costs| cpu(costs));
                let whole =
                    |rate: Option<f64>| rate.map_or("-".into(), |rate| output::count(rate as u64));
                let fine = |number: Option<f64>| {
                    number.map_or("-".into(), |number| format!("{number:.2}"))
                };
                let ratio = ours.zip(bare).map(|(ours, bare)| ours / bare);
                let numbers = [
                    whole(ours),
                    whole(bare),
                    fine(ratio),
                    fine(our_cpu),
                    fine(bare_cpu),
                ];
                table.add_row(row(self.title(*scenario), numbers));
            }
            output::print(&table, "")?;
        }
        if !self.timings.is_empty() {
            let mut table = output::table(&["time, µs", "", "p50", "p90", "p99", "p99.9"]);
            for (timing, histograms) in &self.timings {
                for (side, histogram) in Side::ALL.into_iter().zip(histograms) {
                    let Some(histogram) = histogram else { continue };
                    let numbers = Quantiles::of(histogram).in_order();
                    let numbers = numbers.map(|us| format!("{us:.0}"));
                    let mut cells = row(timing.title(), numbers);
                    cells.insert(1, Cell::new(side.name()));
                    table.add_row(cells);
                }
            }
            output::print(&table, "")?;
        }
        if let Some(bytes) = self.bytes_per_job() {
            let beyond = bytes - self.load.payload_bytes as f64;
            output::line(format!(
                "memory: {bytes:.0} bytes of Redis for each waiting job, {beyond:.0} beyond its payload"
            ))?;
        }
        if let Some(Memory { tenth, most, end }) = self.worker_memory() {
            let mib = |bytes: Option<u64>| {
                bytes.map_or("-".into(), |bytes| {
                    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
                })
            };
            output::line(format!(
                "a process of workers has {} MiB after a tenth of its jobs, {} at the end, {} at most",
                mib(tenth),
                mib(end),
                mib(most)
            ))?;
        }
        if let Some(commands) = self.idle {
            output::line(format!(
                "a worker with nothing to do sends {commands:.1} commands a second"
            ))?;
        }
        for problem in &self.problems {
            output::line(format!("problem: {problem}"))?;
        }
        if self.problems.is_empty() {
            output::line("every job was stored once and ran once")?;
        }
        Ok(())
    }

    fn title(&self, scenario: Scenario) -> String {
        let (producers, concurrency) = (self.load.producers, self.load.concurrency);
        match scenario {
            Scenario::Enqueue => format!(
                "enqueue, one call a job, {}",
                output::counted(producers, "caller")
            ),
            Scenario::Bulk => format!("enqueue, 1,000 a call, {BULK_CALLERS} callers"),
            Scenario::Drain => format!("drain, {} of {concurrency} slots", self.crew()),
            _ => "bulk and drain at once".into(),
        }
    }
}

impl Report {
    /// Who drains.
    fn crew(&self) -> String {
        let Load {
            workers,
            processes,
            queues,
            ..
        } = self.load;
        let processes = match processes {
            0 => String::new(),
            1 => "1 process of ".into(),
            _ => format!("{processes} processes of "),
        };
        let workers = output::counted(workers.into(), "worker");
        let queues = match queues {
            1 => String::new(),
            _ => format!(" for each of {queues} queues,"),
        };
        format!("{processes}{workers}{queues}")
    }
}

impl Timing {
    fn title(self) -> String {
        match self {
            Self::Call => "enqueue by a lone caller; bare: XADD".into(),
            Self::Start { rate } => {
                format!("enqueue to start, {} jobs/s", output::count(rate.into()))
            }
            Self::Late => "due to start, delayed by 1 s".into(),
        }
    }
}

/// Microseconds.
#[derive(Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    p90: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
}

impl Quantiles {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let us = |share| histogram.value_at_quantile(share) as f64 / 1e3;
        Self {
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p99_9: us(0.999),
        }
    }

    pub(super) fn in_order(&self) -> [f64; 4] {
        [self.p50, self.p90, self.p99, self.p99_9]
    }
}

pub(super) fn row(title: String, numbers: impl IntoIterator<Item = String>) -> Vec<Cell> {
    let right = |number| Cell::new(number).set_alignment(CellAlignment::Right);
    let numbers = numbers.into_iter().map(right);
    [Cell::new(title)].into_iter().chain(numbers).collect()
}

/// A scenario as flags and JSON name it.
fn name(scenario: Scenario) -> String {
    let value = clap::ValueEnum::to_possible_value(&scenario);
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

pub(super) fn rate(costs: &[Cost]) -> Option<f64> {
    median(costs.iter().map(|cost| cost.jobs_per_second))
}

pub(super) fn cpu(costs: &[Cost]) -> Option<f64> {
    median(costs.iter().map(|cost| cost.redis_us_per_job))
}

pub(super) fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_what_was_measured_is_told() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([].into_iter()), None);
        assert_eq!(rounded(0.8449), 0.84);
    }
}
