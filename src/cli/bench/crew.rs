//! Who empties the queues: workers of this process, or of processes of their own, as in production.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures_util::future::try_join_all;
use millstream::{Context, Millstream, Queue, Worker};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Stdin, Stdout,
};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::Notify;

use super::arena::Arena;
use super::child::{program, resident_bytes};
use crate::cli::args::Globals;
use crate::cli::connect::connect_to;
use crate::cli::settings::RedisSettings;

/// Longest wait for a process to say that it is connected, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a process is told, and what it says; a line each.
const READY: &str = "ready";
const START: &str = "start";
const STOP: &str = "stop";

/// How often each job ran, by its number.
pub(super) struct Runs {
    runs: Vec<AtomicU8>,
    left: AtomicU64,
    enough: Notify,
}

impl Runs {
    /// For jobs with the numbers below `all`; `enough` of them are waited for.
    fn new(all: u64, enough: u64) -> Arc<Self> {
        // Written and not only asked for: its pages are taken off what the process has in memory, so they have to be there.
        let none = |_| AtomicU8::new(std::hint::black_box(0));
        Arc::new(Self {
            runs: (0..all).map(none).collect(),
            left: AtomicU64::new(enough),
            enough: Notify::new(),
        })
    }

    fn ran(&self, payload: &[u8]) {
        let number = payload
            .first_chunk()
            .map(|bytes| u64::from_le_bytes(*bytes));
        let ran = number.and_then(|number| self.runs.get(usize::try_from(number).ok()?));
        if let Some(ran) = ran {
            ran.fetch_add(1, Ordering::Relaxed);
        }
        // Beyond zero it goes on from the top: then enough have run already.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.enough.notify_one();
        }
    }

    fn counts(&self) -> Vec<u8> {
        let counts = self.runs.iter();
        counts.map(|runs| runs.load(Ordering::Relaxed)).collect()
    }
}

/// Starts `each` workers for each of the queues, with a handler that only counts.
async fn start_workers(
    client: &Millstream,
    queues: &[String],
    each: u32,
    concurrency: usize,
    runs: &Arc<Runs>,
) -> anyhow::Result<Vec<Worker>> {
    let runs = Arc::clone(runs);
    let handler = move |job: Context| {
        let runs = Arc::clone(&runs);
        async move {
            runs.ran(job.payload());
            Ok(())
        }
    };
    let names = queues
        .iter()
        .flat_map(|queue| (0..each).map(move |_| queue));
    let workers = names.map(|queue| async {
        let worker = client.worker(queue)?.concurrency(concurrency);
        anyhow::Ok(worker.handle_raw("noop", handler.clone()).start().await?)
    });
    try_join_all(workers).await
}

async fn stop_workers(workers: Vec<Worker>) {
    for worker in workers {
        worker.stop().await;
    }
}

/// The workers of one drain.
pub(super) enum Crew {
    Here {
        runs: Arc<Runs>,
        queues: Vec<String>,
        workers: Vec<Worker>,
    },
    Processes(Vec<Process>),
}

impl Crew {
    /// Gets it together; nothing is read from the queues before [`start`](Self::start).
    pub(super) async fn gather(arena: &Arena, queues: &[Queue], all: u64) -> anyhow::Result<Self> {
        let queues: Vec<String> = queues
            .iter()
            .map(|queue| queue.name().to_string())
            .collect();
        if arena.load.processes == 0 {
            return Ok(Self::Here {
                runs: Runs::new(all, arena.load.jobs),
                queues,
                workers: Vec::new(),
            });
        }
        let processes = (0..arena.load.processes).map(|_| Process::spawn(arena, &queues, all));
        Ok(Self::Processes(try_join_all(processes).await?))
    }

    pub(super) async fn start(&mut self, arena: &Arena) -> anyhow::Result<()> {
        let load = &arena.load;
        match self {
            Self::Here {
                runs,
                queues,
                workers,
            } => {
                *workers =
                    start_workers(&arena.client, queues, load.workers, load.concurrency, runs)
                        .await?;
            }
            Self::Processes(processes) => {
                for process in processes {
                    process.say(START).await?;
                }
            }
        }
        Ok(())
    }

    /// Returns when the jobs have run, where that is known here.
    pub(super) async fn enough(&self) {
        if let Self::Here { runs, .. } = self {
            runs.enough.notified().await;
        }
    }

    /// What the largest of the processes has in memory without its table of runs, bytes.
    pub(super) fn resident_bytes(&self, all: u64) -> Option<u64> {
        let Self::Processes(processes) = self else {
            return None;
        };
        let largest = processes
            .iter()
            .filter_map(|process| resident_bytes(&process.child));
        Some(largest.max()?.saturating_sub(all))
    }

    /// Whether the jobs run in other processes, so that nothing is known here until they are settled.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Processes(_))
    }

    /// Stops the workers, and tells how often each job ran.
    pub(super) async fn stop(self, all: u64) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Here { runs, workers, .. } => {
                stop_workers(workers).await;
                Ok(runs.counts())
            }
            Self::Processes(processes) => {
                let counts = processes.into_iter().map(|process| process.stop(all));
                let counts = try_join_all(counts).await?;
                let sum = |job: usize| {
                    counts
                        .iter()
                        .fold(0, |sum: u8, of| sum.saturating_add(of[job]))
                };
                Ok((0..usize::try_from(all)?).map(sum).collect())
            }
        }
    }
}

/// A process of workers. Killed when it is dropped.
pub(super) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    async fn spawn(arena: &Arena, queues: &[String], all: u64) -> anyhow::Result<Self> {
        let load = &arena.load;
        let mut child = program(arena, &["bench", "crew"])?
            .args(["--queues", &queues.join(",")])
            .args(["--jobs", &all.to_string()])
            .args(["--workers", &load.workers.to_string()])
            .args(["--concurrency", &load.concurrency.to_string()])
            .env("MILLSTREAM_LOG", "warn,fred=error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process of workers")?;
        let stdin = child.stdin.take().context("a child without stdin")?;
        let stdout = child.stdout.take().context("a child without stdout")?;
        let mut process = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, process.stdout.read_line(&mut line))
            .await
            .context("a process of workers was not ready in time")??;
        anyhow::ensure!(
            line.trim_end() == READY,
            "a process of workers ended at its start"
        );
        Ok(process)
    }

    async fn say(&mut self, word: &str) -> anyhow::Result<()> {
        let said = self.stdin.write_all(format!("{word}\n").as_bytes()).await;
        said.context("a process of workers is gone")
    }

    async fn stop(mut self, all: u64) -> anyhow::Result<Vec<u8>> {
        self.say(STOP).await?;
        let mut counts = vec![0; usize::try_from(all)?];
        tokio::time::timeout(PATIENCE, async {
            self.stdout.read_exact(&mut counts).await?;
            self.child.wait().await
        })
        .await
        .context("a process of workers did not stop in time")??;
        Ok(counts)
    }
}

/// The other end of a process of workers: waits for `start`, works until `stop`, and writes how often each job ran, a byte each.
#[derive(Debug, Args)]
#[command(hide = true)]
pub(super) struct CrewProcess {
    #[arg(long, value_delimiter = ',', required = true)]
    queues: Vec<String>,
    /// Numbers of jobs there are.
    #[arg(long)]
    jobs: u64,
    #[arg(long)]
    workers: u32,
    #[arg(long)]
    concurrency: usize,
}

impl CrewProcess {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = connect_to(&RedisSettings::merge(globals, None), 1 << 20).await?;
        let runs = Runs::new(self.jobs, self.jobs);
        let (mut stdin, mut stdout) = (BufReader::new(tokio::io::stdin()), tokio::io::stdout());
        stdout.write_all(format!("{READY}\n").as_bytes()).await?;
        stdout.flush().await?;
        told(&mut stdin, START).await?;
        let workers =
            start_workers(&client, &self.queues, self.workers, self.concurrency, &runs).await?;
        let stop = told(&mut stdin, STOP).await;
        stop_workers(workers).await;
        stop?;
        tell(&mut stdout, &runs.counts()).await
    }
}

async fn told(stdin: &mut BufReader<Stdin>, word: &str) -> anyhow::Result<()> {
    let mut line = String::new();
    stdin.read_line(&mut line).await?;
    anyhow::ensure!(
        line.trim_end() == word,
        "the bench left before it said {word}"
    );
    Ok(())
}

async fn tell(stdout: &mut Stdout, counts: &[u8]) -> anyhow::Result<()> {
    stdout.write_all(counts).await?;
    Ok(stdout.flush().await?)
}
