//! `millstream dead`: the dead letter.

use std::cell::RefCell;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment};
use millstream::config::BATCH_JOBS_MAX;
use millstream::inspect::{Inspector, JobView};
use millstream::{JobId, QueueName};

use super::args::Globals;
use super::connect::connect;
use super::failure::usage;
use super::parse::{self, Rate};
use super::{jobs, output};

/// Dead jobs read in one call; their headers and errors come with them.
const PAGE_JOBS: usize = 500;

/// List, show, redrive or purge dead jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// List dead jobs in the order in which they died
    List(List),
    /// Show one dead job with its payload and what went wrong
    Show(jobs::Show),
    /// Make dead jobs ready again, with all their attempts
    Redrive(Redrive),
    /// Remove dead jobs for good
    Purge(Purge),
}

impl Dead {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        match self {
            Self::List(command) => command.run(globals).await,
            Self::Show(command) => command.run_dead(globals).await,
            Self::Redrive(command) => command.run(globals).await,
            Self::Purge(command) => command.run(globals).await,
        }
    }
}

/// Some of the dead jobs.
#[derive(Debug, Default, Args)]
struct Only {
    /// Only jobs with this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only jobs of this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
}

impl Only {
    fn is_narrower(&self) -> bool {
        self.name.is_some() || self.group.is_some()
    }

    fn takes(&self, job: &JobView) -> bool {
        self.name.as_ref().is_none_or(|name| *name == job.name)
            && (self.group.is_none() || self.group == job.group)
    }
}

/// List dead jobs in the order in which they died.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    #[command(flatten)]
    only: Only,
    /// Jobs at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Write JSON: a list of objects
    #[arg(long)]
    json: bool,
}

impl List {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let jobs = find(&queue, &self.only, self.limit as usize, |job| job).await?;
        if self.json {
            return output::json(&jobs);
        }
        let mut table = output::table(&[
            "id",
            "name",
            "died",
            "reason",
            "attempt",
            "bytes",
            "last error",
        ]);
        for job in &jobs {
            let error = job
                .errors
                .last()
                .map_or("", |last| last.error.lines().next().unwrap_or(""));
            table.add_row([
                Cell::new(job.id.as_str()),
                Cell::new(output::clean(&job.name)),
                Cell::new(output::time(job.died_ms)),
                Cell::new(job.reason.as_deref().unwrap_or("-")),
                Cell::new(job.attempt).set_alignment(CellAlignment::Right),
                Cell::new(output::count(job.payload_bytes)).set_alignment(CellAlignment::Right),
                Cell::new(output::clean(error)),
            ]);
        }
        let spare = ["bytes", "attempt", "died", "last error", "reason"];
        output::print_rows(&mut table, Some("last error"), &spare, "no dead jobs")?;
        if jobs.len() == self.limit as usize {
            output::line(format!("the first {}; more with --limit", self.limit))?;
        }
        Ok(())
    }
}

/// Which dead jobs.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("jobs").required(true).args(["ids", "all"])))]
struct Which {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// The jobs' ids
    ids: Vec<String>,
    /// All dead jobs; those that die meanwhile are left alone
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    only: Only,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
    /// Do not ask. Nobody is asked either when stdin is no terminal
    #[arg(long, short)]
    yes: bool,
}

/// Which dead jobs were found, and which of the ids that were named are not dead.
struct Found {
    ids: Vec<JobId>,
    not_dead: Vec<JobId>,
}

impl Which {
    /// The queue's inspector, once the flags are known to fit together.
    async fn open(&self, globals: &Globals) -> anyhow::Result<Inspector> {
        if !self.all && self.only.is_narrower() {
            return Err(usage(
                "--name and --group go with --all; jobs that are named by their ids need no filter",
            ));
        }
        Ok(connect(globals).await?.inspect(self.queue.as_str())?)
    }

    /// The ids meant. All are gathered before the first is touched: a job that is redriven and dies again
    /// while the command runs must not be redriven for ever.
    async fn gather(&self, queue: &Inspector) -> anyhow::Result<Found> {
        if self.all {
            let spinner = output::spinner("reading the dead letter");
            let ids = find(queue, &self.only, usize::MAX, |job| job.id).await?;
            spinner.finish_and_clear();
            let not_dead = Vec::new();
            return Ok(Found { ids, not_dead });
        }
        let mut ids: Vec<JobId> = self.ids.iter().map(|id| id.as_str().into()).collect();
        ids.sort();
        ids.dedup();
        let mut not_dead = Vec::new();
        if self.dry_run {
            let dead = find(queue, &Only::default(), usize::MAX, |job| job.id).await?;
            (ids, not_dead) = ids.into_iter().partition(|id| dead.contains(id));
        }
        Ok(Found { ids, not_dead })
    }

    /// Does `act` to what was found, no faster than `rate`. Returns how many it was done to.
    ///
    /// Ids that were named go one by one, to learn which of them are not dead.
    async fn act(
        &self,
        found: &mut Found,
        doing: &'static str,
        rate: Option<Rate>,
        act: impl AsyncFn(&[JobId]) -> anyhow::Result<u64>,
    ) -> anyhow::Result<u64> {
        let not_dead = RefCell::new(Vec::new());
        let done = paced(&found.ids, doing, rate, async |batch| {
            if self.all {
                return act(batch).await;
            }
            let mut done = 0;
            for id in batch {
                match act(std::slice::from_ref(id)).await? {
                    0 => not_dead.borrow_mut().push(id.clone()),
                    one => done += one,
                }
            }
            Ok(done)
        })
        .await?;
        found.not_dead.extend(not_dead.into_inner());
        Ok(done)
    }
}

impl Found {
    /// Fails if ids were named that are not dead. The others have been dealt with.
    fn all_were_dead(&self) -> anyhow::Result<()> {
        let ids: Vec<&str> = self.not_dead.iter().map(JobId::as_str).collect();
        anyhow::ensure!(ids.is_empty(), "not in the dead letter: {}", ids.join(", "));
        Ok(())
    }
}

/// Make dead jobs ready again, with all their attempts.
#[derive(Debug, Args)]
// clap puts flags that a group requires before the arguments.
#[command(
    override_usage = "millstream dead redrive [OPTIONS] <QUEUE> <IDS>...\n       millstream dead redrive [OPTIONS] <QUEUE> --all"
)]
pub(crate) struct Redrive {
    #[command(flatten)]
    which: Which,
    /// No faster than this, so that what they failed on is not flooded: 50/s, 600/m
    #[arg(long, value_parser = parse::rate, value_name = "RATE")]
    rate: Option<Rate>,
    /// Write JSON: matched, redriven, not_dead, dry_run
    #[arg(long)]
    json: bool,
}

impl Redrive {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let which = &self.which;
        let queue = which.open(globals).await?;
        let mut found = which.gather(&queue).await?;
        let matched = found.ids.len() as u64;
        let mut redriven = 0;
        if !which.dry_run && matched > 0 {
            if which.all {
                let question = format!(
                    "Redrive {} of {}?",
                    output::counted(matched, "dead job"),
                    which.queue
                );
                output::confirm(&question, which.yes)?;
            }
            redriven = which
                .act(&mut found, "redriving", self.rate, async |batch| {
                    Ok(queue.redrive(batch).await?)
                })
                .await?;
        }
        if self.json {
            output::json(&serde_json::json!({
                "matched": matched, "redriven": redriven, "not_dead": found.not_dead, "dry_run": which.dry_run,
            }))?;
        } else {
            report("redrive", "redriven", matched, redriven, which)?;
        }
        found.all_were_dead()
    }
}

/// Remove dead jobs for good.
#[derive(Debug, Args)]
// clap puts flags that a group requires before the arguments.
#[command(
    override_usage = "millstream dead purge [OPTIONS] <QUEUE> <IDS>...\n       millstream dead purge [OPTIONS] <QUEUE> --all"
)]
pub(crate) struct Purge {
    #[command(flatten)]
    which: Which,
    /// Write JSON: matched, purged, not_dead, dry_run
    #[arg(long)]
    json: bool,
}

impl Purge {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let which = &self.which;
        let queue = which.open(globals).await?;
        let mut found = which.gather(&queue).await?;
        let matched = found.ids.len() as u64;
        let mut purged = 0;
        if !which.dry_run && matched > 0 {
            let question = format!(
                "Remove {} of {} for good?",
                output::counted(matched, "dead job"),
                which.queue
            );
            output::confirm(&question, which.yes)?;
            purged = which
                .act(&mut found, "purging", None, async |batch| {
                    Ok(queue.purge(batch).await?)
                })
                .await?;
        }
        if self.json {
            output::json(&serde_json::json!({
                "matched": matched, "purged": purged, "not_dead": found.not_dead, "dry_run": which.dry_run,
            }))?;
        } else {
            report("purge", "purged", matched, purged, which)?;
        }
        found.all_were_dead()
    }
}

fn report(
    verb: &str,
    participle: &str,
    matched: u64,
    done: u64,
    which: &Which,
) -> anyhow::Result<()> {
    if which.dry_run {
        return output::line(format!("would {verb} {}", output::counted(matched, "job")));
    }
    output::line(format!("{participle} {}", output::counted(done, "job")))?;
    if which.all && done < matched {
        let missed = output::count(matched - done);
        output::line(format!("{missed} left the dead letter meanwhile"))?;
    }
    Ok(())
}

/// Up to `limit` dead jobs from the oldest on, each reduced by `keep`.
async fn find<T>(
    queue: &Inspector,
    only: &Only,
    limit: usize,
    keep: impl Fn(JobView) -> T,
) -> anyhow::Result<Vec<T>> {
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let page = queue.dead(cursor, PAGE_JOBS).await?;
        let room = limit - found.len();
        let wanted = page.jobs.into_iter().filter(|job| only.takes(job));
        found.extend(wanted.take(room).map(&keep));
        match page.next {
            Some(next) if found.len() < limit => cursor = Some(next),
            _ => return Ok(found),
        }
    }
}

/// Does `one` batch of ids after the other, no faster than `rate`. Returns the sum of what the batches returned.
async fn paced(
    ids: &[JobId],
    doing: &'static str,
    rate: Option<Rate>,
    one: impl AsyncFn(&[JobId]) -> anyhow::Result<u64>,
) -> anyhow::Result<u64> {
    let batch_jobs = batch_jobs(rate);
    let progress = output::progress(ids.len() as u64, doing);
    let start = tokio::time::Instant::now();
    let (mut begun, mut done) = (0, 0);
    for batch in ids.chunks(batch_jobs) {
        if let Some(rate) = rate {
            tokio::time::sleep_until(start + rate.time_for(begun)).await;
        }
        done += one(batch).await?;
        begun += batch.len();
        progress.set_position(begun as u64);
    }
    progress.finish_and_clear();
    Ok(done)
}

/// With a rate, batches of a tenth of a second: steady enough for whoever gets the jobs, few enough calls for Redis.
fn batch_jobs(rate: Option<Rate>) -> usize {
    let Some(rate) = rate else {
        return BATCH_JOBS_MAX;
    };
    let tenth =
        Duration::from_millis(100).as_secs_f64() / rate.per.as_secs_f64() * f64::from(rate.count);
    (tenth as usize).clamp(1, BATCH_JOBS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: usize) -> Vec<JobId> {
        (0..count).map(|n| JobId::from(format!("{n}-0"))).collect()
    }

    #[tokio::test]
    async fn every_id_is_in_exactly_one_batch() {
        let seen = RefCell::new(Vec::new());
        let ids = ids(2_500);

        let done = paced(&ids, "redriving", None, async |batch| {
            seen.borrow_mut().extend(batch.to_vec());
            Ok(batch.len() as u64)
        })
        .await;

        assert_eq!(done.unwrap(), 2_500);
        assert_eq!(*seen.borrow(), ids);
    }

    #[tokio::test]
    async fn a_rate_is_not_exceeded() {
        let rate = parse::rate("100/s").unwrap();
        let start = tokio::time::Instant::now();

        paced(&ids(30), "redriving", Some(rate), async |batch| {
            Ok(batch.len() as u64)
        })
        .await
        .unwrap();

        // Batches of 10: at once, after 100 ms, after 200 ms.
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(200), "{took:?}");
    }

    #[test]
    fn a_slow_rate_goes_one_by_one_and_a_fast_one_in_full_batches() {
        assert_eq!(batch_jobs(parse::rate("1/m").ok()), 1);
        assert_eq!(batch_jobs(parse::rate("50/s").ok()), 5);
        assert_eq!(batch_jobs(parse::rate("1000000/s").ok()), BATCH_JOBS_MAX);
        assert_eq!(batch_jobs(None), BATCH_JOBS_MAX);
    }
}
