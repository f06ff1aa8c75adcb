//! What was measured, as tables for people and one object for scripts.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use super::super::arena::Circumstances;
use super::super::report::{LONGEST, Quantiles, median, rounded, row};
use crate::cli::output;

/// Times to the answer, and over how long they were taken.
pub(super) struct Latency {
    histogram: Histogram<u64>,
    elapsed: Duration,
}

impl Latency {
    pub(super) fn new() -> Self {
        Self {
            histogram: Histogram::new_with_bounds(1, LONGEST, 3)
                .expect("the bounds are constant and good"),
            elapsed: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(LONGEST);
        self.histogram.saturating_record(nanos);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.histogram += &other.histogram;
    }

    pub(super) fn over(self, elapsed: Duration) -> Self {
        Self { elapsed, ..self }
    }

    /// How many webhooks were sent.
    pub(super) fn sent(&self) -> u64 {
        self.histogram.len()
    }

    fn rate(&self) -> f64 {
        self.sent() as f64 / self.elapsed.as_secs_f64()
    }
}

/// One turn of the gateway.
pub(super) struct Round {
    pub(super) latency: Latency,
    pub(super) redis_cpu_us: f64,
    /// Answers of 200 with a new job, and the jobs in Redis.
    pub(super) stored: u64,
    pub(super) jobs: u64,
}

/// Everything that was measured.
pub(super) struct Report {
    circumstances: Circumstances,
    connections: u32,
    body: usize,
    turns: u32,
    ours: Vec<Round>,
    bare: Vec<Latency>,
    half: Option<Round>,
    memory: Option<(u32, u64, u64)>,
    stored: u64,
    /// What went wrong; nothing, if each answer of 200 is a job and each job was answered for.
    pub(super) problems: Vec<String>,
}

impl Report {
    pub(super) fn new(
        circumstances: Circumstances,
        connections: u32,
        body: usize,
        turns: u32,
    ) -> Self {
        Self {
            circumstances,
            connections,
            body,
            turns,
            ours: Vec::new(),
            bare: Vec::new(),
            half: None,
            memory: None,
            stored: 0,
            problems: Vec::new(),
        }
    }

    pub(super) fn ours(&mut self, round: Round) {
        self.counted(round.stored, round.jobs);
        self.ours.push(round);
    }

    pub(super) fn bare(&mut self, latency: Latency) {
        self.bare.push(latency);
    }

    pub(super) fn at_half(&mut self, round: Round) {
        self.counted(round.stored, round.jobs);
        self.half = Some(round);
    }

    pub(super) fn memory(&mut self, connections: u32, before: Option<u64>, after: Option<u64>) {
        self.memory = before
            .zip(after)
            .map(|(before, after)| (connections, before, after));
    }

    /// Compares answers and jobs.
    pub(super) fn counted(&mut self, stored: u64, jobs: u64) {
        self.stored += stored;
        if stored != jobs {
            self.problems.push(format!(
                "{stored} webhooks were answered with 200 and a new job, and there are {jobs} jobs"
            ));
        }
    }

    /// Half of what the gateway takes, webhooks a second.
    pub(super) fn half(&self) -> f64 {
        self.rate().unwrap_or(2.0) / 2.0
    }

    fn rate(&self) -> Option<f64> {
        median(self.ours.iter().map(|round| round.latency.rate()))
    }

    fn bare_rate(&self) -> Option<f64> {
        median(self.bare.iter().map(Latency::rate))
    }

    fn ratio(&self) -> Option<f64> {
        let (ours, bare) = self.rate().zip(self.bare_rate())?;
        Some(ours / bare)
    }

    /// The ratio of a gateway that needs no more processor time than the bare server does, beside a Redis that needs what this one did:
    /// where a full load takes all cores, as it does on few, nothing that does a bare server's work comes nearer.
    fn ceiling(&self) -> Option<f64> {
        let (bare, redis_us) = self.bare_rate().zip(self.redis_cpu_us())?;
        let bare_us = self.circumstances.cores as f64 * 1e6 / bare;
        Some(bare_us / (bare_us + redis_us))
    }

    fn redis_cpu_us(&self) -> Option<f64> {
        median(self.ours.iter().map(|round| round.redis_cpu_us))
    }

    /// Names, rates and times to the answer, one a row.
    fn latencies(&self) -> Vec<(&'static str, f64, Quantiles)> {
        let mut rows = Vec::new();
        let mut add = |name, latencies: Vec<&Latency>| {
            let mut all = Latency::new();
            latencies.iter().for_each(|latency| all.merge(latency));
            if let Some(rate) = median(latencies.iter().map(|latency| latency.rate())) {
                rows.push((name, rate, Quantiles::of(&all.histogram)));
            }
        };
        add(
            "gateway, full",
            self.ours.iter().map(|round| &round.latency).collect(),
        );
        add(
            "gateway, half",
            self.half.iter().map(|round| &round.latency).collect(),
        );
        add("bare server, full", self.bare.iter().collect());
        rows
    }

    pub(super) fn json(&self) -> anyhow::Result<()> {
        let latencies = self.latencies().into_iter().map(|(name, rate, quantiles)| {
            json!({ "load": name, "per_second": rate.round(), "us": quantiles })
        });
        output::json(&json!({
            "server": self.circumstances,
            "settings": { "connections": self.connections, "body_bytes": self.body, "turns": self.turns },
            "requests": {
                "per_second": self.rate().map(f64::round),
                "bare_per_second": self.bare_rate().map(f64::round),
                "ratio": self.ratio().map(rounded),
                "ceiling": self.ceiling().map(rounded),
                "answered": self.stored,
            },
            "latency": latencies.collect::<Vec<_>>(),
            "redis_cpu_us_per_webhook": self.redis_cpu_us().map(rounded),
            "memory": self.memory.map(|(connections, before, after)| json!({
                "connections": connections, "bytes_without": before, "bytes": after,
            })),
            "problems": self.problems,
        }))
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        output::line(self.circumstances.line())?;
        output::line(format!(
            "webhooks of {} over {}; medians of {}",
            output::counted(self.body as u64, "byte"),
            output::counted(self.connections.into(), "connection"),
            output::counted(self.turns.into(), "turn")
        ))?;
        let mut table = output::table(&["", "a second", "p50, µs", "p99", "p99.9"]);
        for (name, rate, quantiles) in self.latencies() {
            let Quantiles {
                p50, p99, p99_9, ..
            } = quantiles;
            let times = [p50, p99, p99_9].map(|us| format!("{us:.0}"));
            let numbers = [output::count(rate as u64)].into_iter().chain(times);
            table.add_row(row(name.into(), numbers));
        }
        output::print(&table, "")?;
        let fine = |number: Option<f64>| number.map_or("-".into(), |number| format!("{number:.2}"));
        output::line(format!(
            "ratio {}; Redis spends {} µs a webhook, which leaves {} to a gateway that costs what the bare server does",
            fine(self.ratio()),
            fine(self.redis_cpu_us()),
            fine(self.ceiling())
        ))?;
        if let Some((connections, before, after)) = self.memory {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            output::line(format!(
                "memory of the gateway: {:.1} MiB with {}, {:.1} MiB without",
                mib(after),
                output::counted(connections.into(), "connection"),
                mib(before)
            ))?;
        }
        for problem in &self.problems {
            output::line(format!("problem: {problem}"))?;
        }
        if self.problems.is_empty() {
            let stored = output::count(self.stored);
            output::line(format!("{stored} answers of 200, and as many jobs"))?;
        }
        Ok(())
    }
}
