//! `millstream groups`: tenants, what limits them, and how one is removed.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::Cell;
use millstream::QueueName;
use millstream::inspect::{GroupLimits, GroupPurged, Inspector};
use serde::Serialize;
use serde_json::json;

use super::args::Globals;
use super::connect::connect;
use super::consent::Consent;
use super::failure::usage;
use super::output::{self, counted};
use super::pace::{Pace, at_least};
use super::parse::{self, Rate, number};

/// List groups, set their limits, or remove everything of one.
#[derive(Debug, Subcommand)]
pub(crate) enum Groups {
    /// List the groups that have jobs at work or limits of their own, those with most held jobs first
    List(List),
    /// Set the limits of a group, or of all
    Set(Set),
    /// Remove everything of a group: waiting, running and dead jobs, and its history
    Purge(Purge),
}

impl Groups {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        match self {
            Self::List(command) => command.run(globals).await,
            Self::Set(command) => command.run(globals).await,
            Self::Purge(command) => command.run(globals).await,
        }
    }
}

/// List the groups that have jobs at work or limits of their own, those with most held jobs first.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Groups at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Write JSON: groups, total, and what is set for all: concurrency, rate, burst, max_backlog
    #[arg(long)]
    json: bool,
}

impl List {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let page = queue.groups(self.limit as usize).await?;
        if self.json {
            return output::json(&page);
        }
        let mut table = output::table(&[
            "group",
            "active",
            "held",
            "concurrency",
            "rate",
            "may be held",
            "state",
        ]);
        for group in &page.groups {
            let limit = match (group.concurrency, group.own_limit) {
                (Some(jobs), true) => format!("{jobs} (its own)"),
                (Some(jobs), false) => jobs.to_string(),
                (None, _) => "-".to_owned(),
            };
            table.add_row([
                Cell::new(output::clean(&group.group)),
                Cell::new(output::count(group.active)),
                Cell::new(output::count(group.held)),
                Cell::new(limit),
                Cell::new(match (group.rate, group.burst) {
                    (Some(rate), Some(burst)) if burst != rate.burst_default() => {
                        format!("{rate}, {burst} at once")
                    }
                    (Some(rate), _) => rate.to_string(),
                    (None, _) => "-".to_owned(),
                }),
                Cell::new(group.max_backlog.map_or("-".to_owned(), output::count)),
                Cell::new(if group.paused { "paused" } else { "" }),
            ]);
        }
        output::print(&table, "no group has jobs that count or limits of its own")?;
        let more = page.total - page.groups.len() as u64;
        if more > 0 {
            output::line(format!(
                "and {}; --limit N shows more",
                counted(more, "other group")
            ))?;
        }
        Ok(())
    }
}

/// Set the limits of a group, or of all.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// The group; without it the limit is that of all groups that have none of their own
    #[arg(value_name = "GROUP")]
    group: Option<String>,
    /// Jobs ready or running at once, over all workers; 0 takes the limit away
    #[arg(long, value_parser = |text: &str| number(text, parse::group_concurrency), value_name = "N")]
    concurrency: Option<usize>,
    /// Held jobs at most: an enqueue that would hold more is refused whole; 0 takes the limit away
    #[arg(long, value_parser = |text: &str| number(text, parse::max_backlog), value_name = "N")]
    max_backlog: Option<u64>,
    /// Jobs (or points, see enqueue --cost) that may start in a time, over all workers: 50/s, 600/m, 1000/h; none takes it away
    #[arg(long, value_parser = parse::group_rate, value_name = "RATE")]
    rate: Option<parse::RateLimit>,
    /// Jobs or points at once after a quiet time; 0 for what comes in a second, at least 1
    #[arg(long, value_parser = |text: &str| number(text, parse::burst), value_name = "N")]
    burst: Option<u32>,
    /// Hold every job of the group that is not ready yet
    #[arg(long, requires = "group", conflicts_with = "resume")]
    pause: bool,
    /// End that
    #[arg(long, requires = "group")]
    resume: bool,
    /// Take away all that the group has of its own
    #[arg(long, requires = "group", conflicts_with_all = ["concurrency", "max_backlog", "rate", "burst", "pause"])]
    clear: bool,
    /// Write JSON: queue, group (null for all), admitted (held jobs that had room by it)
    #[arg(long)]
    json: bool,
}

impl Set {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let mut limits = GroupLimits::new();
        if let Some(jobs) = self.concurrency {
            limits = limits.concurrency(Some(jobs).filter(|jobs| *jobs > 0));
        }
        if let Some(jobs) = self.max_backlog {
            limits = limits.max_backlog(Some(jobs).filter(|jobs| *jobs > 0));
        }
        if let Some(parse::RateLimit(rate)) = self.rate {
            limits = limits.rate(rate);
        }
        if let Some(jobs) = self.burst {
            limits = limits.burst(Some(jobs).filter(|jobs| *jobs > 0));
        }
        if self.pause || self.resume {
            limits = limits.paused(self.pause);
        }
        if self.clear {
            limits = limits.clear();
        }
        if limits == GroupLimits::new() {
            return Err(usage(
                "what is to be set? Add --concurrency N, --rate R, --burst N, --max-backlog N, --pause, --resume or --clear",
            ));
        }
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let admitted = queue
            .set_group_limits(self.group.as_deref(), &limits)
            .await?;
        if self.json {
            return output::json(&json!({
                "queue": self.queue.as_str(), "group": self.group, "admitted": admitted,
            }));
        }
        let of = match &self.group {
            Some(group) => format!("group {} of {}", output::clean(group), self.queue),
            None => format!("the groups of {}", self.queue),
        };
        output::line(match admitted {
            0 => format!("the limits of {of} are set"),
            _ => format!(
                "the limits of {of} are set; {} had room",
                counted(admitted, "held job")
            ),
        })
    }
}

/// Remove everything of a group: waiting, running and dead jobs, and its history.
///
/// Handlers that run are told to stop. It works in short steps, while workers work on; broken off, it has done whole steps, and the
/// same command does the rest.
#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// The group
    #[arg(value_name = "GROUP")]
    group: String,
    /// No faster than this: 50/s, 600/m
    #[arg(long, value_parser = parse::rate, value_name = "RATE")]
    rate: Option<Rate>,
    /// Only count what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    /// Write JSON: group, held, scheduled, dead, ready, running, completed, total, dry_run
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    group: &'a str,
    #[serde(flatten)]
    purged: GroupPurged,
    total: u64,
    dry_run: bool,
}

impl Purge {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let group = output::clean(&self.group);
        let mut counted_before = None;
        if self.dry_run || self.consent.asks() {
            counted_before = Some(self.count(&queue).await?);
        }
        let purged = match counted_before {
            Some(found) if self.dry_run => found,
            _ => self.purge(&queue, counted_before).await?,
        };
        let total = purged.total();
        if self.json {
            return output::json(&Report {
                group: &self.group,
                purged,
                total,
                dry_run: self.dry_run,
            });
        }
        let GroupPurged {
            held,
            scheduled,
            dead,
            ready,
            running,
            completed,
            ..
        } = purged;
        let verb = if self.dry_run {
            "would remove"
        } else {
            "removed"
        };
        output::line(format!(
            "{verb} {} of group {group}: {held} held, {scheduled} scheduled, {ready} ready, {running} running (cancelled), {dead} dead, \
             {completed} of the history",
            counted(total, "job")
        ))
    }

    async fn count(&self, queue: &Inspector) -> anyhow::Result<GroupPurged> {
        let mut walk = queue.walk_group_purge(&self.group, true)?;
        let spinner = output::spinner("counting");
        while walk.step().await? {
            spinner.set_position(walk.purged().total());
        }
        spinner.finish_and_clear();
        Ok(walk.purged())
    }

    /// `found`: what there is, if it was counted, which it is for whoever is asked.
    async fn purge(
        &self,
        queue: &Inspector,
        found: Option<GroupPurged>,
    ) -> anyhow::Result<GroupPurged> {
        let total = found.as_ref().map(GroupPurged::total);
        if let Some(total) = total {
            let (jobs, group) = (counted(total, "job"), output::clean(&self.group));
            let time = at_least(self.rate, total);
            let question = format!("Remove {jobs} of group {group} from {}{time}?", self.queue);
            self.consent.to(&question)?;
        }
        let mut walk = queue.walk_group_purge(&self.group, false)?;
        let mut pace = Pace::begin(self.rate, total, "purging", "removed")?;
        let mut removed = 0;
        loop {
            pace.wait().await?;
            let more = walk.step_of(pace.step()).await;
            if !more.with_context(|| pace.so_far())? {
                break;
            }
            let before = std::mem::replace(&mut removed, walk.purged().total());
            pace.step_done(removed - before, removed - before);
        }
        pace.finish();
        Ok(walk.purged())
    }
}
