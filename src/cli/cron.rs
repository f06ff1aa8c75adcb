//! `millstream cron`: schedules.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args, Subcommand};
use comfy_table::{Cell, CellAlignment, Color};
use millstream::schedule::{Change, Missed, Overlap, Schedule, ScheduleView, Schedules};
use millstream::{Millstream, QueueName, config};
use serde_json::json;

use super::args::Globals;
use super::connect::{connect, connect_to_store};
use super::consent::Consent;
use super::failure::usage;
use super::job_args::JobArgs;
use super::{output, parse};

/// Schedules that a listing shows at most.
const LIST_MAX: u32 = 100_000;

/// List, set, pause or remove schedules: jobs that are due again and again.
#[derive(Debug, Subcommand)]
pub(crate) enum Cron {
    /// List schedules with their next runs
    List(List),
    /// Make a schedule, or change it
    Set(Box<Set>),
    /// Remove a schedule; jobs that it has queued stay
    Remove(Remove),
    /// Let a schedule fire nothing until it is resumed
    Pause(Pause),
    /// Let a paused schedule fire again, from its next slot on
    Resume(Resume),
}

impl Cron {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        match self {
            Self::List(command) => command.run(globals).await,
            Self::Set(command) => command.run(globals).await,
            Self::Remove(command) => command.run(globals).await,
            Self::Pause(command) => command.run(globals).await,
            Self::Resume(command) => command.run(globals).await,
        }
    }
}

/// List schedules with their next runs; those that are due first in front.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The queue [default: every queue that has schedules]
    #[arg(value_parser = parse::queue)]
    queue: Option<QueueName>,
    /// Next runs of each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    runs: u16,
    /// Schedules of each queue at most
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=LIST_MAX as i64))]
    limit: u32,
    /// Write JSON: a list of objects; times are unix ms
    #[arg(long)]
    json: bool,
}

impl List {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = connect(globals).await?;
        let queues = match &self.queue {
            Some(queue) => vec![queue.to_string()],
            None => client.queues_with_schedules().await?,
        };
        let mut views = Vec::new();
        for queue in &queues {
            let schedules = client.schedules(queue)?;
            views.extend(
                schedules
                    .list(self.limit as usize, self.runs.into())
                    .await?,
            );
        }
        if self.json {
            return output::json(&views);
        }
        let mut table = output::table(&[
            "queue", "id", "when", "name", "next", "last", "fired", "missed", "overlap", "origin",
        ]);
        for view in &views {
            let next = match (&view.problem, view.paused) {
                (Some(problem), _) => Cell::new(output::clean(problem)).fg(Color::Red),
                (None, true) => Cell::new("paused").fg(Color::Yellow),
                (None, false) => Cell::new(output::time(view.next_due_ms)),
            };
            table.add_row([
                Cell::new(&view.queue),
                Cell::new(output::clean(&view.id)),
                Cell::new(output::clean(&when(view))),
                Cell::new(output::clean(&view.name)),
                next,
                Cell::new(output::time(view.last_slot_ms)),
                Cell::new(output::count(view.fired_total)).set_alignment(CellAlignment::Right),
                Cell::new(&view.missed),
                Cell::new(&view.overlap),
                Cell::new(view.origin.as_deref().map_or("-".into(), output::clean)),
            ]);
            for run in view.next_runs_ms.iter().skip(1) {
                let mut row = vec![Cell::new(""); 10];
                row[4] = Cell::new(output::time(Some(*run)));
                table.add_row(row);
            }
        }
        let spare = ["origin", "overlap", "missed", "fired", "last", "name"];
        output::print_rows(&mut table, Some("when"), &spare, "no schedules")
    }
}

fn when(view: &ScheduleView) -> String {
    match (&view.cron, &view.zone, view.every_ms) {
        (Some(cron), Some(zone), _) => format!("{cron} {zone}"),
        (_, _, Some(ms)) => format!(
            "every {}",
            humantime::format_duration(Duration::from_millis(ms))
        ),
        _ => "-".into(),
    }
}

/// Make a schedule, or change it. What is not given has its default, also when the schedule was there before; the same
/// schedule again changes nothing. One that comes from a config file is set back to what the file says when a process
/// starts with it.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("times").required(true).args(["cron", "every"])))]
pub(crate) struct Set {
    /// The schedule's id, of which the queue has one
    id: String,
    /// The queue of its jobs
    #[arg(long, value_parser = parse::queue, value_name = "QUEUE")]
    queue: QueueName,
    /// When, by cron: "30 3 * * mon-fri" (minute hour day month weekday), six fields with seconds in front, or @hourly,
    /// @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "EXPR")]
    cron: Option<String>,
    /// How often, 1s to 366d, at the multiples of it since 1970-01-01T00:00Z: 30s, 10m, 6h
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    every: Option<Duration>,
    /// The time zone whose clocks --cron means, as in Europe/Bucharest [default: UTC]
    #[arg(long, value_name = "ZONE", conflicts_with = "every")]
    zone: Option<String>,
    #[command(flatten)]
    job: JobArgs,
    /// What becomes of runs that were missed by more than 30s, as no worker was there: skip, once (one job for all of them),
    /// or all:N (the last N, at most 100)
    #[arg(long, value_parser = parse::missed, default_value = "once", value_name = "POLICY")]
    missed: Missed,
    /// What becomes of a run while the last job is unfinished: allow, or skip
    #[arg(long, value_parser = parse::overlap, default_value = "allow", value_name = "POLICY")]
    overlap: Overlap,
    /// Pause it. Without this an older pause goes on: cron resume ends it
    #[arg(long)]
    paused: bool,
    /// Only check it and show its next runs, by this machine's clock; asks no Redis
    #[arg(long)]
    dry_run: bool,
    /// Next runs that are shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    runs: u16,
    /// Write JSON: id, queue, change (created, changed, unchanged; none with --dry-run), paused, next_runs_ms
    #[arg(long)]
    json: bool,
}

impl Set {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let schedule = self.schedule()?;
        schedule.check(config::PAYLOAD_BYTES_MAX_DEFAULT)?;
        if self.dry_run {
            let unix_ms = |at: SystemTime| {
                at.duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_millis() as u64
            };
            let runs = schedule.next_runs(SystemTime::now(), self.runs.into())?;
            return self.show(
                None,
                self.paused,
                &runs.into_iter().map(unix_ms).collect::<Vec<_>>(),
            );
        }
        let schedules = connect_to_store(globals)
            .await?
            .schedules(self.queue.as_str())?;
        let set = schedules.set(&self.id, schedule).await?;
        let view = schedules.get(&self.id, self.runs.into()).await?;
        self.show(Some(set.change), set.paused, &view.next_runs_ms)
    }

    fn schedule(&self) -> anyhow::Result<Schedule> {
        let job = self.job.job()?;
        let schedule = match (&self.cron, self.every) {
            (Some(cron), _) => {
                Schedule::cron(cron, job).zone(self.zone.as_deref().unwrap_or("UTC"))
            }
            (None, Some(every)) => Schedule::every(every, job),
            // clap asks for one of them.
            (None, None) => return Err(usage("when? Add --cron EXPR or --every DURATION")),
        };
        Ok(schedule
            .missed(self.missed)
            .overlap(self.overlap)
            .paused(self.paused))
    }

    fn show(&self, change: Option<Change>, paused: bool, runs_ms: &[u64]) -> anyhow::Result<()> {
        if self.json {
            return output::json(&serde_json::json!({
                "id": self.id,
                "queue": self.queue.as_str(),
                "change": change,
                "paused": paused,
                "next_runs_ms": runs_ms,
            }));
        }
        let did = match change {
            None => "would be set",
            Some(Change::Created) => "created",
            Some(Change::Changed) => "changed",
            Some(_) => "unchanged",
        };
        let paused = if paused { ", and paused" } else { "" };
        output::line(format!("{} of {}: {did}{paused}", self.id, self.queue))?;
        runs_ms
            .iter()
            .try_for_each(|run| output::line(format!("  {}", output::time(Some(*run)))))
    }
}

/// Which schedule.
#[derive(Debug, Args)]
struct Which {
    /// The schedule's id
    id: String,
    /// Its queue [default: the one that has a schedule of this id]
    #[arg(long, value_parser = parse::queue, value_name = "QUEUE")]
    queue: Option<QueueName>,
}

impl Which {
    /// The queue's schedules, and the name of the queue.
    async fn find(&self, globals: &Globals) -> anyhow::Result<(Schedules, String)> {
        let client: Millstream = connect(globals).await?;
        if let Some(queue) = &self.queue {
            return Ok((client.schedules(queue.as_str())?, queue.to_string()));
        }
        let mut found = Vec::new();
        for queue in client.queues_with_schedules().await? {
            let schedules = client.schedules(&queue)?;
            match schedules.get(&self.id, 0).await {
                Ok(_) => found.push((schedules, queue)),
                Err(millstream::Error::NoSchedule { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match found.len() {
            0 => anyhow::bail!(
                "no queue has a schedule {:?}; see: millstream cron list",
                self.id
            ),
            1 => Ok(found.swap_remove(0)),
            _ => {
                let queues: Vec<&str> = found.iter().map(|(_, queue)| queue.as_str()).collect();
                Err(usage(format!(
                    "{} is a schedule of several queues: {}; add --queue QUEUE",
                    self.id,
                    queues.join(", ")
                )))
            }
        }
    }
}

/// Remove a schedule; jobs that it has queued stay.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    which: Which,
    /// Only see that there is one to remove
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    /// Write JSON: queue, id, dry_run
    #[arg(long)]
    json: bool,
}

impl Remove {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let (schedules, queue) = self.which.find(globals).await?;
        let (id, dry_run) = (&self.which.id, self.dry_run);
        if dry_run {
            schedules.get(id, 0).await?;
        } else {
            self.consent
                .to(&format!("Remove schedule {id} of {queue}?"))?;
            let removed = schedules.remove(id).await?;
            anyhow::ensure!(removed, "no schedule {id:?} in queue {queue}");
        }
        if self.json {
            return output::json(&json!({ "queue": queue, "id": id, "dry_run": dry_run }));
        }
        let done = if dry_run {
            "would be removed"
        } else {
            "removed"
        };
        output::line(format!("{id} of {queue}: {done}"))
    }
}

/// Let a schedule fire nothing until it is resumed.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    which: Which,
    /// Write JSON: queue, id, paused
    #[arg(long)]
    json: bool,
}

impl Pause {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let (schedules, queue) = self.which.find(globals).await?;
        let id = &self.which.id;
        schedules.pause(id).await?;
        if self.json {
            return output::json(&json!({ "queue": queue, "id": id, "paused": true }));
        }
        output::line(format!(
            "{id} of {queue}: paused. End it with: millstream cron resume {id}"
        ))
    }
}

/// Let a paused schedule fire again, from its next slot on. What would have been due meanwhile is not made up for.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    which: Which,
    /// Write JSON: queue, id, paused, next_due_ms
    #[arg(long)]
    json: bool,
}

impl Resume {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let (schedules, queue) = self.which.find(globals).await?;
        let id = &self.which.id;
        schedules.resume(id).await?;
        let view = schedules.get(id, 0).await?;
        if self.json {
            return output::json(&json!({
                "queue": queue, "id": id, "paused": false, "next_due_ms": view.next_due_ms,
            }));
        }
        output::line(format!(
            "{id} of {queue}: next at {}",
            output::time(view.next_due_ms)
        ))
    }
}
