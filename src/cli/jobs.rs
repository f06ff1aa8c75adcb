//! `millstream jobs`: unfinished jobs (and dead ones, by `--state dead`).

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Cell, CellAlignment, Color};
use millstream::inspect::{Inspector, JobFilter, JobView};
use millstream::job::codec::Codec;
use millstream::job::state::State;
use millstream::{JobId, Priority, QueueName};

use super::args::Globals;
use super::connect::connect;
use super::consent::Consent;
use super::update::Update;
use super::wait::Wait;
use super::{output, parse};

/// List, show, cancel or start unfinished jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List jobs, oldest first
    List(List),
    /// Show one job with its payload and what went wrong
    Show(Show),
    /// Call jobs off; handlers that run are cancelled
    Cancel(Cancel),
    /// Make scheduled jobs ready at once, ahead of the others
    RunNow(RunNow),
    /// Wait until a job ends, and print what its handler gave back
    Wait(Wait),
    /// Change the payload, the priority or the time of a job that waits
    Update(Update),
}

impl Jobs {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        match self {
            Self::List(command) => command.run(globals).await,
            Self::Show(command) => command.run(globals).await,
            Self::Cancel(command) => command.run(globals).await,
            Self::RunNow(command) => command.run(globals).await,
            Self::Wait(command) => command.run(globals).await,
            Self::Update(command) => command.run(globals).await,
        }
    }
}

/// The states in which a job can be listed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Listed {
    Ready,
    Running,
    Held,
    Scheduled,
    Dead,
}

/// List jobs, oldest first.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// Only jobs in this state [default: all of them]
    #[arg(long, value_enum)]
    state: Option<Listed>,
    /// Only jobs with this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only jobs of this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    #[command(flatten)]
    page: Page,
}

/// A part of a listing.
#[derive(Debug, Args)]
pub(super) struct Page {
    /// Jobs at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) limit: u32,
    /// Go on behind this job: the cursor that each object of --json has, and that a listing which is cut short shows
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<String>,
    /// Write JSON: a list of objects
    #[arg(long)]
    pub(super) json: bool,
}

impl Page {
    /// The jobs that fit, and the cursor behind them if there may be more.
    pub(super) async fn read(
        &self,
        queue: &Inspector,
        filter: &JobFilter,
    ) -> anyhow::Result<(Vec<JobView>, Option<String>)> {
        let (limit, mut jobs) = (self.limit as usize, Vec::new());
        let mut after = self.after.clone();
        let spinner = output::spinner("looking");
        loop {
            let room = limit - jobs.len();
            let page = queue.page(filter, after.as_deref(), room).await?;
            jobs.extend(page.jobs);
            after = page.next;
            if after.is_none() || jobs.len() == limit {
                spinner.finish_and_clear();
                return Ok((jobs, after));
            }
        }
    }

    /// How to see the rest, below a table.
    pub(super) fn tell_rest(&self, jobs: &[JobView], next: Option<&str>) -> anyhow::Result<()> {
        if jobs.len() < self.limit as usize {
            return Ok(());
        }
        match next {
            Some(next) => output::line(format!(
                "the first {}; more with --limit, or the next ones with --after {next}",
                self.limit
            )),
            None => Ok(()),
        }
    }
}

/// The first line of what went wrong last.
pub(super) fn last_error(job: &JobView) -> &str {
    let last = job.errors.last();
    last.map_or("", |last| last.error.lines().next().unwrap_or(""))
}

/// Whether a column for groups shows anything.
pub(super) fn have_groups(jobs: &[JobView]) -> bool {
    jobs.iter().any(|job| job.group.is_some())
}

/// The cell of that column.
pub(super) fn group_cell(job: &JobView) -> Cell {
    Cell::new(output::clean(job.group.as_deref().unwrap_or("-")))
}

impl List {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        let mut filter = JobFilter::new();
        if let Some(state) = self.state {
            filter = filter.state(match state {
                Listed::Ready => State::Ready,
                Listed::Running => State::Running,
                Listed::Held => State::Held,
                Listed::Scheduled => State::Scheduled,
                Listed::Dead => State::Dead,
            });
        }
        if let Some(name) = &self.name {
            filter = filter.name(name);
        }
        if let Some(group) = &self.group {
            filter = filter.group(group);
        }
        let (jobs, next) = self.page.read(&queue, &filter).await?;
        if self.page.json {
            return output::json(&jobs);
        }
        let mut header = vec!["id", "name"];
        let grouped = have_groups(&jobs);
        header.extend(grouped.then_some("group"));
        let prioritised = jobs.iter().any(|job| job.priority != Priority::Normal);
        header.extend(prioritised.then_some("priority"));
        header.extend(["state", "attempt", "stalls", "bytes", "when", "last error"]);
        let mut table = output::table(&header);
        for job in &jobs {
            let colour = match job.state {
                State::Running => Color::Green,
                State::Dead => Color::Red,
                State::Scheduled => Color::Yellow,
                _ => Color::Reset,
            };
            let when = match job.state {
                State::Scheduled => format!("due {}", output::time(job.due_ms)),
                State::Dead => format!("died {}", output::time(job.died_ms)),
                State::Running => format!("renewed {} ago", output::age(job.idle_ms)),
                _ => "-".into(),
            };
            let mut row = vec![
                Cell::new(job.id.as_str()),
                Cell::new(output::clean(&job.name)),
            ];
            row.extend(grouped.then(|| group_cell(job)));
            row.extend(prioritised.then(|| Cell::new(job.priority)));
            row.extend([
                Cell::new(job.state).fg(colour),
                Cell::new(job.attempt).set_alignment(CellAlignment::Right),
                Cell::new(job.stalls).set_alignment(CellAlignment::Right),
                Cell::new(output::count(job.payload_bytes)).set_alignment(CellAlignment::Right),
                Cell::new(when),
                Cell::new(output::clean(last_error(job))),
            ]);
            table.add_row(row);
        }
        let spare = [
            "stalls",
            "bytes",
            "attempt",
            "priority",
            "group",
            "last error",
            "when",
        ];
        output::print_rows(&mut table, Some("last error"), &spare, "no such jobs")?;
        self.page.tell_rest(&jobs, next.as_deref())
    }
}

/// Show one job with its payload and what went wrong.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// The job's id
    id: String,
    /// Write JSON: the fields of the listing, and payload where it is text, else payload_hex
    #[arg(long, conflicts_with = "payload")]
    json: bool,
    /// Write only the payload, byte for byte
    #[arg(long)]
    payload: bool,
}

impl Show {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let job = self.read(globals).await?;
        self.print(&job)
    }

    /// For `millstream dead show`: a job in another state is not what was asked for.
    pub(super) async fn run_dead(self, globals: &Globals) -> anyhow::Result<()> {
        let job = self.read(globals).await?;
        anyhow::ensure!(
            job.state == State::Dead,
            "job {} is {}, not dead; see `millstream jobs show`",
            job.id,
            job.state
        );
        self.print(&job)
    }

    async fn read(&self, globals: &Globals) -> anyhow::Result<JobView> {
        let queue = connect(globals).await?.inspect(self.queue.as_str())?;
        Ok(queue.show(&self.id.as_str().into()).await?)
    }

    fn print(&self, job: &JobView) -> anyhow::Result<()> {
        if self.payload {
            if let (None, Some(key)) = (&job.payload, &job.sealed_with) {
                anyhow::bail!("job {}: the payload is {}", job.id, sealed(key));
            }
            let bytes = job.payload.as_deref().unwrap_or_default();
            return std::io::stdout()
                .write_all(bytes)
                .context("cannot write to stdout");
        }
        if self.json {
            return output::json(&with_payload(job)?);
        }
        print_job(job)
    }
}

/// The job's fields and its payload, as one JSON object.
fn with_payload(job: &JobView) -> anyhow::Result<serde_json::Value> {
    let mut object = serde_json::to_value(job).context("cannot write JSON")?;
    if let Some(bytes) = &job.payload {
        match std::str::from_utf8(bytes) {
            Ok(text) => object["payload"] = text.into(),
            Err(_) => object["payload_hex"] = hex::encode(bytes).into(),
        }
    }
    Ok(object)
}

fn print_job(job: &JobView) -> anyhow::Result<()> {
    let mut table = output::table(&["job", job.id.as_str()]);
    for (label, value) in facts(job) {
        table.add_row([label, value]);
    }
    output::print(&table, "")?;
    let payload = payload_text(job);
    if payload.is_empty() {
        return Ok(());
    }
    output::line(payload)
}

/// What is known of a job, for people: label and value.
pub(super) fn facts(job: &JobView) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut row = |label: &str, value: String| {
        facts.push((label.to_owned(), output::clean(&value).into_owned()));
    };
    row("name", job.name.clone());
    if let Some(group) = &job.group {
        row("group", group.clone());
    }
    if job.priority != Priority::Normal {
        row("priority", job.priority.to_string());
    }
    row("state", job.state.to_string());
    let limit = job
        .max_attempts
        .map_or_else(|| "the worker's limit".into(), |limit| limit.to_string());
    row("attempt", format!("{} of {limit}", job.attempt));
    row("stalls", job.stalls.to_string());
    if job.due_ms.is_some() {
        row("due", output::time(job.due_ms));
    }
    if job.died_ms.is_some() {
        row("died", output::time(job.died_ms));
    }
    if job.expires_at_ms.is_some() {
        row("expires", output::time(job.expires_at_ms));
    }
    if job.deadline_at_ms.is_some() {
        row("deadline", output::time(job.deadline_at_ms));
    }
    if let Some(reason) = &job.reason {
        row("reason", reason.clone());
    }
    if let Some(worker) = &job.worker {
        row("worker", worker.clone());
        row("lease renewed", format!("{} ago", output::age(job.idle_ms)));
    }
    if let Some(progress) = &job.progress {
        row(
            "progress",
            format!("{progress}, told {}", output::time(progress.told_ms)),
        );
        let lines = progress.log.iter();
        let lines = lines.map(|line| format!("{} {}", output::time(Some(line.at_ms)), line.line));
        if !progress.log.is_empty() {
            row("log", lines.collect::<Vec<_>>().join("\n"));
        }
    }
    for (name, value) in &job.headers {
        row(&format!("header {name}"), value.clone());
    }
    for error in &job.errors {
        row(
            &format!("error of attempt {}", error.attempt),
            format!("{}\n{}", output::time(Some(error.at_ms)), error.error),
        );
    }
    if let Some(key) = &job.sealed_with {
        row("sealed with", key.clone());
    }
    row(
        "payload",
        format!(
            "{}, {}",
            output::counted(job.payload_bytes, "byte"),
            job.codec
        ),
    );
    facts
}

/// The payload for people, or why there is none to be seen.
pub(super) fn payload_text(job: &JobView) -> String {
    match (&job.payload, &job.sealed_with) {
        (Some(bytes), _) => readable(job, bytes),
        (None, Some(key)) => format!("({})", sealed(key)),
        (None, None) => String::new(),
    }
}

/// Why there is no payload to be seen, and the way to it.
fn sealed(key: &str) -> String {
    format!(
        "sealed with key {}, which is not at hand or does not fit: --config FILE, whose encrypt_with for this queue has it",
        output::clean(key)
    )
}

/// The payload for people: text as it is, MessagePack as JSON, anything else by its size.
fn readable(job: &JobView, bytes: &[u8]) -> String {
    if job.codec == Codec::MsgPack.name()
        && let Ok(value) = Codec::MsgPack.decode::<serde_json::Value>(&job.name, bytes)
    {
        return output::clean(&format!("{value:#}")).into_owned();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => output::clean(text).into_owned(),
        Err(_) => "(not text; --payload writes the bytes)".into(),
    }
}

/// Some jobs, named one by one.
#[derive(Debug, Args)]
struct Named {
    /// The queue
    #[arg(value_parser = parse::queue)]
    queue: QueueName,
    /// The jobs' ids
    #[arg(required = true)]
    ids: Vec<String>,
    /// Only say in which state each of them is
    #[arg(long)]
    dry_run: bool,
}

/// Call jobs off; handlers that run are cancelled.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    consent: Consent,
    /// Write JSON: cancelled (id, was), failed (id, error), dry_run
    #[arg(long)]
    json: bool,
}

impl Cancel {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let Named {
            queue,
            ids,
            dry_run,
        } = &self.named;
        let inspector = connect(globals).await?.inspect(queue.as_str())?;
        if !dry_run {
            let jobs = output::counted(ids.len() as u64, "job");
            self.consent.to(&format!("Cancel {jobs} of {queue}?"))?;
        }
        let each = Each::of(ids, async |id| {
            if !dry_run {
                return Ok(inspector.cancel(id).await?);
            }
            let state = inspector.show(id).await?.state;
            anyhow::ensure!(state != State::Dead, "job {id} is dead: purge it instead");
            Ok(state)
        });
        let each = each.await;
        if self.json {
            let done = each
                .done
                .iter()
                .map(|(id, was)| serde_json::json!({"id": id, "was": was}));
            each.write_json("cancelled", done, *dry_run)?;
        } else {
            for (id, was) in &each.done {
                output::line(match dry_run {
                    true => format!("{id} would be cancelled, is {was}"),
                    false => format!("{id} cancelled, was {was}"),
                })?;
            }
        }
        each.all_were("cancelled")
    }
}

/// Make scheduled jobs ready at once, ahead of the others.
#[derive(Debug, Args)]
pub(crate) struct RunNow {
    #[command(flatten)]
    named: Named,
    /// Write JSON: ready (ids), failed (id, error), dry_run
    #[arg(long)]
    json: bool,
}

impl RunNow {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let Named {
            queue,
            ids,
            dry_run,
        } = &self.named;
        let inspector: Inspector = connect(globals).await?.inspect(queue.as_str())?;
        let each = Each::of(ids, async |id| {
            if !dry_run {
                return Ok(inspector.run_now(id).await?);
            }
            let state = inspector.show(id).await?.state;
            anyhow::ensure!(
                state == State::Scheduled,
                "job {id} is {state}: only a scheduled job can be run now"
            );
            Ok(())
        });
        let each = each.await;
        if self.json {
            let done = each.done.iter().map(|(id, ())| id.as_str().into());
            each.write_json("ready", done, *dry_run)?;
        } else {
            for (id, ()) in &each.done {
                output::line(match dry_run {
                    true => format!("{id} would be made ready"),
                    false => format!("{id} is ready"),
                })?;
            }
        }
        each.all_were("made ready")
    }
}

/// What became of each of several jobs.
struct Each<T> {
    done: Vec<(JobId, T)>,
    failed: Vec<(JobId, anyhow::Error)>,
}

impl<T> Each<T> {
    /// Does `one` for every id. One that fails does not keep the others from their turn.
    async fn of(ids: &[String], one: impl AsyncFn(&JobId) -> anyhow::Result<T>) -> Self {
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for id in ids {
            let id = JobId::from(id.as_str());
            match one(&id).await {
                Ok(result) => done.push((id, result)),
                Err(error) => failed.push((id, error)),
            }
        }
        Self { done, failed }
    }

    fn write_json(
        &self,
        word: &str,
        done: impl Iterator<Item = serde_json::Value>,
        dry_run: bool,
    ) -> anyhow::Result<()> {
        let failed = self.failed.iter();
        let failed =
            failed.map(|(id, error)| serde_json::json!({"id": id, "error": format!("{error:#}")}));
        let done: Vec<_> = done.collect();
        output::json(&serde_json::json!({
            word: done, "failed": failed.collect::<Vec<_>>(), "dry_run": dry_run,
        }))
    }

    /// Fails if one failed.
    fn all_were(self, done: &str) -> anyhow::Result<()> {
        let (all, failed) = (self.done.len() + self.failed.len(), self.failed.len());
        let Some((_, first)) = self.failed.into_iter().next() else {
            return Ok(());
        };
        if all == 1 {
            return Err(first);
        }
        Err(first.context(format!(
            "{failed} of {all} jobs were not {done}; the first because"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_bad_id_does_not_keep_the_others_from_their_turn() {
        let seen = std::cell::RefCell::new(Vec::new());
        let ids = ["1-0", "bad", "2-0"].map(str::to_owned);

        let each = Each::of(&ids, async |id| {
            seen.borrow_mut().push(id.to_string());
            anyhow::ensure!(id.as_str() != "bad", "no job {id}");
            Ok(())
        })
        .await;

        assert_eq!(*seen.borrow(), ids);
        let said = format!("{:#}", each.all_were("cancelled").unwrap_err());
        assert!(
            said.contains("1 of 3") && said.contains("no job bad"),
            "{said}"
        );
    }
}
