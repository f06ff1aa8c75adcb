//! `millstream demo`: signed webhooks through a private Redis, a gateway and two worker processes, one of which is killed
//! in the middle; then the proof that nothing was lost and nothing was done twice.
//!
//! [`plan`] says what is sent, [`send`] sends it, [`processes`] are the gateway and the workers, [`receiver`] is the user's
//! program behind them, [`verify`] judges, [`report`] tells.

mod plan;
mod processes;
mod receiver;
mod report;
mod send;
mod verify;

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use millstream::inspect::{Inspector, JobFilter};
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Millstream, config};
use tokio::time::Instant;

use super::{dev, output, signals};
use plan::{Plan, QUEUE, Sender};
use processes::{CONCURRENCY, Child, LEASE};
use receiver::{Progress, Receiver, Victim};
use send::{Answer, Keys};
use verify::{Counts, Facts, Verdict};

/// The worker that is killed, and the one that is left.
const WORKERS: [&str; 2] = ["worker-1", "worker-2"];
/// Longest wait for the end of all jobs, and what each job adds to it: a second for two hundred.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
const SETTLE_TIMEOUT_PER_JOB: Duration = Duration::from_millis(5);
/// Longest wait for the victim to have its hands full.
const HELD_TIMEOUT: Duration = Duration::from_secs(15);
/// How often Redis is asked how far it is.
const POLL: Duration = Duration::from_millis(100);
/// Entries of the history, or dead jobs, that are read in one call.
const PAGE: usize = 1_000;

/// See it work: a private Redis, a gateway and two workers; signed webhooks through all of it; one worker is killed on the
/// way; then the proof that nothing was lost and nothing was settled twice. Exit 0 only if that holds.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Webhooks to accept, 100 to 50000; some more are sent: twice, or forged
    // The history that the verdict reads keeps about 100,000 jobs.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    jobs: u32,
    /// Write JSON: one object with sent, accepted, refused, duplicates, completed, retried, dead, lost, doubled, repeated,
    /// workers_killed, enqueue_to_start_ms {p50, p99}, problems
    #[arg(long)]
    json: bool,
    /// Keep Redis running at the end, to look inside, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let stop = signals::shutdown(false)?;
        let play = async {
            let stage = Stage::start().await?;
            let verdict = stage.play(self.jobs as usize).await?;
            if self.json {
                report::json(&verdict)?;
            } else {
                report::table(&verdict)?;
                stage.epilogue(self.keep)?;
            }
            if self.keep {
                stop.cancelled().await;
            }
            anyhow::ensure!(
                verdict.is_good(),
                "{} lost, {} doubled, {}",
                verdict.lost.len(),
                verdict.doubled.len(),
                output::counted(verdict.problems.len() as u64, "other problem")
            );
            Ok(())
        };
        tokio::select! {
            // First: with --keep the token ends the play, and the verdict still decides.
            biased;
            outcome = play => outcome,
            () = stop.cancelled() => anyhow::bail!("interrupted: the demo was stopped before its end"),
        }
    }
}

/// What the demo plays on; all of it is gone when this is dropped.
struct Stage {
    display: Display,
    inspector: Inspector,
    redis: PrivateRedis,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn start() -> anyhow::Result<Self> {
        let display = Display::new();
        display.phase("starting a private Redis");
        let redis =
            tokio::task::spawn_blocking(|| PrivateRedis::start(Options::default())).await??;
        let client = Millstream::connect(&redis.url()).await?;
        let inspector = client.inspect(QUEUE)?;
        let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
        Ok(Self {
            display,
            inspector,
            redis,
            dir,
        })
    }

    /// The whole play, and the verdict on it.
    async fn play(&self, jobs: usize) -> anyhow::Result<Verdict> {
        let (dir, url) = (self.dir.path(), self.redis.url());
        let plan = Arc::new(Plan::new(jobs));
        let secrets = || Sender::ALL.map(|sender| (sender, dev::throw_away_secret()));
        let (genuine, forged) = (secrets(), secrets());
        let keys = Arc::new(Keys::new(&genuine, &forged)?);
        let notes = dir.join("deliveries.jsonl");
        let victim = Victim {
            worker: WORKERS[0].into(),
            after: jobs * 2 / 5,
        };

        self.display.phase("starting a gateway and two workers");
        let mut receiver = Receiver::start(&plan, victim, &notes).await?;
        let (mut gateway, address) = processes::gateway(dir, &url, &genuine).await?;
        let mut victim = processes::worker(WORKERS[0], dir, &url, receiver.address).await?;
        let mut survivor = processes::worker(WORKERS[1], dir, &url, receiver.address).await?;

        let all = plan.requests.len();
        self.display.phase(&format!(
            "sending {} signed webhooks",
            output::count(all as u64)
        ));
        let bar = self.display.bar(all);
        let send = send::send_all(address, Arc::clone(&plan), keys, bar);
        let (answers, ()) = tokio::try_join!(send, self.kill(&mut victim, &mut receiver.progress))?;

        self.settle(&answers, &mut [&mut gateway, &mut survivor])
            .await?;
        self.display
            .phase("verifying against Redis and against what the handler noted");
        let verdict = self.judge(&plan, &answers, &notes).await?;
        self.display.clear();
        Ok(verdict)
    }

    /// Kills the victim once it has as many jobs running as it can have.
    async fn kill(
        &self,
        victim: &mut Child,
        progress: &mut tokio::sync::watch::Receiver<Progress>,
    ) -> anyhow::Result<()> {
        let busy = progress.wait_for(|progress| progress.held >= CONCURRENCY);
        if let Ok(busy) = tokio::time::timeout(HELD_TIMEOUT, busy).await {
            busy.context("the receiver of the demo has stopped")?;
        }
        // With few webhooks it may get fewer jobs than it has hands.
        let held = progress.borrow().held;
        anyhow::ensure!(
            held > 0,
            "{} had nothing to do when it was to be killed",
            WORKERS[0]
        );
        let pid = victim.kill().await?;
        let lease = humantime::format_duration(LEASE);
        self.display.note(&format!(
            "killed {} (pid {pid}) with {held} jobs running; they run again when its lease of {lease} is over",
            WORKERS[0]
        ));
        Ok(())
    }

    /// Waits until every accepted job has its end, or the deadline; the verdict tells which.
    async fn settle(&self, answers: &[Answer], alive: &mut [&mut Child]) -> anyhow::Result<()> {
        let new = |answer: &&Answer| {
            matches!(
                answer,
                Answer::Stored {
                    duplicate: false,
                    ..
                }
            )
        };
        let accepted = answers.iter().filter(new).count();
        self.display.phase("draining");
        let bar = self.display.bar(accepted);
        let deadline =
            Instant::now() + SETTLE_TIMEOUT + SETTLE_TIMEOUT_PER_JOB * u32::try_from(accepted)?;
        while Instant::now() < deadline {
            let stats = self.inspector.stats().await?;
            let settled = stats.completed_total + stats.dead_total;
            bar.set_position(settled);
            if Counts::from(&stats).unfinished == 0 && settled >= accepted as u64 {
                return Ok(());
            }
            for child in alive.iter_mut() {
                child.check_alive()?;
            }
            tokio::time::sleep(POLL).await;
        }
        self.display.note("not all jobs ended in time");
        Ok(())
    }

    async fn judge(
        &self,
        plan: &Plan,
        answers: &[Answer],
        notes: &Path,
    ) -> anyhow::Result<Verdict> {
        let mut completed = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.inspector.completed(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.entry.clone());
            completed.extend(page.into_iter().map(|job| job.id.to_string()));
        }
        let mut dead = Vec::new();
        let mut walk = self.inspector.walk_dead(&JobFilter::new()).await?;
        while let Some(step) = walk.next(PAGE).await? {
            dead.extend(step.ids.into_iter().map(|id| id.to_string()));
        }
        let stats = self.inspector.stats().await?;
        Ok(verify::verify(&Facts {
            plan,
            answers,
            completed: &completed,
            dead: &dead,
            counts: Counts::from(&stats),
            records: &receiver::read_records(notes)?,
            workers_killed: 1,
        }))
    }

    /// What to look at, and how to go on.
    fn epilogue(&self, kept: bool) -> anyhow::Result<()> {
        let prefix = format!("{}:{{{QUEUE}}}", config::NAMESPACE_DEFAULT);
        let redis_cli = format!("redis-cli {}", self.redis.cli_args().join(" "));
        if kept {
            output::line("\nRedis runs until Ctrl-C. Look inside:")?;
            for look in [
                format!("HGETALL '{prefix}:stats'"),
                format!("XREVRANGE '{prefix}:completed' + - COUNT 3"),
                format!("ZRANGE '{prefix}:dead' 0 -1 WITHSCORES"),
                format!("XREVRANGE '{prefix}:events' + - COUNT 5"),
            ] {
                output::line(format!("  {redis_cli} {look}"))?;
            }
            output::line(format!(
                "  MILLSTREAM_REDIS_URL={} millstream keys {QUEUE}",
                self.redis.url()
            ))?;
            output::line(format!(
                "What the handler noted: {}",
                self.dir.path().join("deliveries.jsonl").display()
            ))?;
            return Ok(());
        }
        output::line("\nThe demo's Redis is gone. To go on:")?;
        output::line(
            "  millstream demo --keep    the same, and Redis stays for redis-cli until Ctrl-C:",
        )?;
        output::line(format!(
            "                              XREVRANGE '{prefix}:completed' + - COUNT 3    the last completed jobs"
        ))?;
        output::line(format!(
            "                              ZRANGE '{prefix}:dead' 0 -1 WITHSCORES        the dead letter"
        ))?;
        output::line(
            "  millstream dev            a Redis, a gateway and a worker to send your own webhooks to",
        )?;
        output::line(
            "  millstream help           the commands; `millstream keys QUEUE` explains every Redis key",
        )
    }
}

/// Phases and progress on stderr: a bar on a terminal, else a line per phase.
struct Display {
    bar: ProgressBar,
    terminal: bool,
}

impl Display {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        bar.enable_steady_tick(POLL);
        Self {
            bar,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn phase(&self, doing: &str) {
        if self.terminal {
            self.bar.set_style(style("{spinner} {msg}"));
            self.bar.set_position(0);
            self.bar.set_message(doing.to_owned());
        } else {
            self.note(doing);
        }
    }

    /// The bar of the phase that has just begun, from 0 to `total`.
    fn bar(&self, total: usize) -> ProgressBar {
        // Its numbers before its look: the bar is drawn by another thread, which must not see those of the last phase.
        self.bar.set_position(0);
        self.bar.set_length(total as u64);
        self.bar
            .set_style(style("{spinner} {msg} {wide_bar} {human_pos}/{human_len}"));
        self.bar.clone()
    }

    /// A line that stays.
    fn note(&self, line: &str) {
        if self.terminal {
            self.bar.println(line);
        } else {
            anstream::eprintln!("{line}");
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are constant and their keys are indicatif's")
}
