//! `millstream dead`: the dead letter.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment};
use millstream::inspect::{Inspector, JobFilter, JobView};
use millstream::job::state::State;
use millstream::{JobId, QueueName};

use super::args::Globals;
use super::connect::connect;
use super::consent::Consent;
use super::failure::usage;
use super::pace::{Pace, at_least};
use super::parse::{self, Rate};
use super::{jobs, output};

/// Dead jobs that are looked at in one call while they are counted.
const LOOK_JOBS: usize = 500;

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
    /// Only jobs of whose kept errors one contains this text
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only jobs that died for this reason: attempts, refused, crash_loop, expired, orphaned
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only jobs that died at least this long ago: 30m, 7d
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    older_than: Option<Duration>,
    /// Only jobs that died at most this long ago: 30m, 7d
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    newer_than: Option<Duration>,
}

impl Only {
    fn filter(&self) -> JobFilter {
        let mut filter = JobFilter::new().state(State::Dead);
        if let Some(name) = &self.name {
            filter = filter.name(name);
        }
        if let Some(group) = &self.group {
            filter = filter.group(group);
        }
        if let Some(error) = &self.error {
            filter = filter.error(error);
        }
        if let Some(reason) = &self.reason {
            filter = filter.reason(reason);
        }
        if let Some(age) = self.older_than {
            filter = filter.older_than(age);
        }
        if let Some(age) = self.newer_than {
            filter = filter.newer_than(age);
        }
        filter
    }

    fn is_narrower(&self) -> bool {
        self.filter() != JobFilter::new().state(State::Dead)
    }

    fn by_age(&self) -> bool {
        self.older_than.is_some() || self.newer_than.is_some()
    }

    fn check(&self) -> anyhow::Result<()> {
        if let (Some(older), Some(newer)) = (self.older_than, self.newer_than)
            && older > newer
        {
            return Err(usage(format!(
                "no job died at least {} and at most {} ago; swap --older-than and --newer-than",
                humantime::format_duration(older),
                humantime::format_duration(newer)
            )));
        }
        Ok(())
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
    #[command(flatten)]
    page: jobs::Page,
}

impl List {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        self.only.check()?;
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let (jobs, next) = if self.only.by_age() {
            self.by_age(&queue).await?
        } else {
            self.page.read(&queue, &self.only.filter()).await?
        };
        if self.page.json {
            return output::json(&jobs);
        }
        let grouped = jobs::have_groups(&jobs);
        let mut header = vec!["id", "name"];
        header.extend(grouped.then_some("group"));
        header.extend(["died", "reason", "attempt", "bytes", "last error"]);
        let mut table = output::table(&header);
        for job in &jobs {
            let mut row = vec![
                Cell::new(job.id.as_str()),
                Cell::new(output::clean(&job.name)),
            ];
            row.extend(grouped.then(|| jobs::group_cell(job)));
            row.extend([
                Cell::new(output::time(job.died_ms)),
                Cell::new(job.reason.as_deref().unwrap_or("-")),
                Cell::new(job.attempt).set_alignment(CellAlignment::Right),
                Cell::new(output::count(job.payload_bytes)).set_alignment(CellAlignment::Right),
                Cell::new(output::clean(jobs::last_error(job))),
            ]);
            table.add_row(row);
        }
        let spare = ["bytes", "attempt", "group", "died", "last error", "reason"];
        output::print_rows(&mut table, Some("last error"), &spare, "no dead jobs")?;
        self.page.tell_rest(&jobs, next.as_deref())
    }

    /// Dead jobs by when they died: a walk knows where to begin.
    async fn by_age(&self, queue: &Inspector) -> anyhow::Result<(Vec<JobView>, Option<String>)> {
        if self.page.after.is_some() {
            return Err(usage(
                "--after goes on in a listing of all ages; narrow --older-than and --newer-than instead",
            ));
        }
        let limit = self.page.limit as usize;
        let mut walk = queue.walk_dead(&self.only.filter()).await?;
        let mut jobs = Vec::new();
        while jobs.len() < limit
            && let Some(step) = walk.next(LOOK_JOBS).await?
        {
            for id in step.ids.iter().take(limit - jobs.len()) {
                match queue.show(id).await {
                    Ok(job) => jobs.push(job),
                    // It has left the dead letter since.
                    Err(millstream::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok((jobs, None))
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
    /// All dead jobs that fit; those that die meanwhile are left alone
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    only: Only,
    /// No faster than this: 50/s, 600/m
    #[arg(long, value_parser = parse::rate, value_name = "RATE")]
    rate: Option<Rate>,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
}

/// What is done to dead jobs.
#[derive(Clone, Copy)]
enum Verb {
    Redrive,
    Purge,
}

impl Verb {
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Redrive => ("redrive", "redriving", "redriven"),
            Self::Purge => ("purge", "purging", "purged"),
        }
    }

    async fn act(self, queue: &Inspector, ids: &[JobId]) -> anyhow::Result<u64> {
        Ok(match self {
            Self::Redrive => queue.redrive(ids).await?,
            Self::Purge => queue.purge(ids).await?,
        })
    }

    /// What is asked before it is done to `jobs` of them.
    fn question(self, jobs: u64, which: &Which) -> String {
        let (jobs, queue) = (output::counted(jobs, "dead job"), &which.queue);
        match self {
            Self::Redrive => format!("Redrive {jobs} of {queue}?"),
            Self::Purge => format!("Remove {jobs} of {queue} for good?"),
        }
    }
}

/// What became of it.
#[derive(Default)]
struct Outcome {
    matched: u64,
    done: u64,
    /// Ids that were named and are not dead.
    not_dead: Vec<JobId>,
}

impl Which {
    async fn run(&self, verb: Verb, json: bool, globals: &Globals) -> anyhow::Result<()> {
        if !self.all && self.only.is_narrower() {
            return Err(usage(
                "--name, --group, --error, --reason, --older-than and --newer-than go with --all; jobs that are named by their ids \
                 need no filter",
            ));
        }
        self.only.check()?;
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let outcome = if self.all {
            self.all(verb, &queue).await?
        } else {
            self.named(verb, &queue).await?
        };
        self.report(verb, json, &outcome)?;
        let ids: Vec<&str> = outcome.not_dead.iter().map(JobId::as_str).collect();
        anyhow::ensure!(ids.is_empty(), "not in the dead letter: {}", ids.join(", "));
        Ok(())
    }

    /// All that fit, step by step: a step is read, dealt with and forgotten, so a million of them need no room. One that is
    /// redriven and dies again meanwhile is not met a second time.
    async fn all(&self, verb: Verb, queue: &Inspector) -> anyhow::Result<Outcome> {
        let filter = self.only.filter();
        let mut outcome = Outcome::default();
        if self.dry_run || self.consent.asks() {
            outcome.matched = count(queue, &filter).await?;
            if self.dry_run || outcome.matched == 0 {
                return Ok(outcome);
            }
            let time = at_least(self.rate, outcome.matched);
            self.consent
                .to(&format!("{}{time}", verb.question(outcome.matched, self)))?;
        }
        let (_, doing, done_word) = verb.words();
        let mut walk = queue.walk_dead(&filter).await?;
        let mut pace = Pace::begin(self.rate, walk.total().await?, doing, done_word)?;
        outcome.matched = 0;
        loop {
            let step = walk.next(LOOK_JOBS).await.with_context(|| pace.so_far())?;
            let Some(step) = step else { break };
            outcome.matched += step.ids.len() as u64;
            let mut passed_over = step.looked - step.ids.len() as u64;
            for ids in step.ids.chunks(pace.step()) {
                pace.wait().await?;
                let done = verb.act(queue, ids).await;
                let done = done.with_context(|| pace.so_far())?;
                pace.step_done(ids.len() as u64 + std::mem::take(&mut passed_over), done);
            }
            pace.step_done(passed_over, 0);
        }
        outcome.done = pace.finish();
        Ok(outcome)
    }

    /// Ids that were named go one by one, to learn which of them are not dead.
    async fn named(&self, verb: Verb, queue: &Inspector) -> anyhow::Result<Outcome> {
        let mut ids: Vec<JobId> = self.ids.iter().map(|id| id.as_str().into()).collect();
        ids.sort();
        ids.dedup();
        let mut outcome = Outcome::default();
        if self.dry_run {
            let dead = queue.are_dead(&ids).await?;
            for (id, is_dead) in ids.into_iter().zip(dead) {
                match is_dead {
                    true => outcome.matched += 1,
                    false => outcome.not_dead.push(id),
                }
            }
            return Ok(outcome);
        }
        outcome.matched = ids.len() as u64;
        if matches!(verb, Verb::Purge) {
            self.consent.to(&verb.question(outcome.matched, self))?;
        }
        let (_, doing, done_word) = verb.words();
        let mut pace = Pace::begin(self.rate, outcome.matched, doing, done_word)?;
        for id in ids {
            pace.wait().await?;
            let done = verb.act(queue, std::slice::from_ref(&id)).await;
            let done = done.with_context(|| pace.so_far())?;
            pace.step_done(1, done);
            if done == 0 {
                outcome.not_dead.push(id);
            }
        }
        outcome.done = pace.finish();
        Ok(outcome)
    }

    fn report(&self, verb: Verb, json: bool, outcome: &Outcome) -> anyhow::Result<()> {
        let (word, _, done_word) = verb.words();
        let (matched, done) = (outcome.matched, outcome.done);
        if json {
            return output::json(&serde_json::json!({
                "matched": matched, done_word: done, "not_dead": outcome.not_dead, "dry_run": self.dry_run,
            }));
        }
        if self.dry_run {
            let time = at_least(self.rate, matched);
            return output::line(format!(
                "would {word} {}{time}",
                output::counted(matched, "job")
            ));
        }
        output::line(format!("{done_word} {}", output::counted(done, "job")))?;
        if self.all && done < matched {
            let missed = output::count(matched - done);
            output::line(format!("{missed} left the dead letter meanwhile"))?;
        }
        Ok(())
    }
}

/// How many dead jobs fit.
async fn count(queue: &Inspector, filter: &JobFilter) -> anyhow::Result<u64> {
    let mut walk = queue.walk_dead(filter).await?;
    let bar = output::progress(walk.total().await?, "counting");
    let mut found = 0;
    while let Some(step) = walk.next(LOOK_JOBS).await? {
        found += step.ids.len() as u64;
        bar.inc(step.looked);
    }
    bar.finish_and_clear();
    Ok(found)
}

/// Make dead jobs ready again, with all their attempts. A run that is broken off has done whole steps; the same command does the rest.
#[derive(Debug, Args)]
// clap puts flags that a group requires before the arguments.
#[command(
    override_usage = "millstream dead redrive [OPTIONS] <QUEUE> <IDS>...\n       millstream dead redrive [OPTIONS] <QUEUE> --all"
)]
pub(crate) struct Redrive {
    #[command(flatten)]
    which: Which,
    /// Write JSON: matched, redriven, not_dead, dry_run
    #[arg(long)]
    json: bool,
}

impl Redrive {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        self.which.run(Verb::Redrive, self.json, globals).await
    }
}

/// Remove dead jobs for good. A run that is broken off has done whole steps; the same command does the rest.
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
        self.which.run(Verb::Purge, self.json, globals).await
    }
}
