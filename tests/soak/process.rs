//! The processes of a soak: this same program once more, with its part in the environment.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::plan::{GRACE, PRODUCERS, WORKERS};
use crate::record::Record;
use crate::{producer, worker};

/// The test in which a process begins; in a test run it has nothing to do.
pub(crate) const ENTRY: &str = "a_process_of_the_soak_begins_here";

const PART: &str = "MILLSTREAM_SOAK_PART";
const REDIS: &str = "MILLSTREAM_SOAK_REDIS";
const DIR: &str = "MILLSTREAM_SOAK_DIR";
const SEED: &str = "MILLSTREAM_SOAK_PART_SEED";

/// How long a stopped worker may take beyond its grace: 2 s, and what a loaded machine adds.
const EXIT_WITHIN: Duration = Duration::from_secs(2 + 5);

/// Longest start of a process, which takes milliseconds.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);

/// What a process is told, and what it is called: `worker-0.3` is the third process in the first worker's place.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) redis: String,
    pub(crate) dir: PathBuf,
    pub(crate) seed: u64,
}

impl Part {
    /// What this process was started for; `None` in the process of the test run.
    pub(crate) fn of_this_process() -> Option<Self> {
        let name = std::env::var(PART).ok()?;
        let told = |name: &str| std::env::var(name).expect("given with the part");
        Some(Self {
            name,
            redis: told(REDIS),
            dir: told(DIR).into(),
            seed: told(SEED).parse().expect("a seed"),
        })
    }

    pub(crate) fn record(&self) -> Record {
        Record::create(&self.dir.join(format!("{}.log", self.name)))
    }

    /// Does what it was started for, and ends the process.
    pub(crate) fn play(self) -> ! {
        // Whoever started this process is gone when its pipe closes; nothing must be left behind.
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(3);
        });
        let _ = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter("warn,fred=error")
            .with_writer(std::io::stderr)
            .try_init();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        match self.name.starts_with("worker") {
            true => runtime.block_on(worker::run(self)),
            false => runtime.block_on(producer::run(self)),
        }
        std::process::exit(0);
    }
}

/// One place, filled by one process after the other.
#[derive(Debug)]
pub(crate) struct Place {
    index: usize,
    redis: String,
    dir: PathBuf,
    seed: u64,
    processes: u32,
    child: Option<Child>,
}

impl Place {
    pub(crate) fn new(index: usize, redis: String, dir: &Path, seed: u64) -> Self {
        assert!(index < WORKERS + PRODUCERS, "{index} is no place");
        Self {
            index,
            redis,
            dir: dir.to_owned(),
            seed,
            processes: 0,
            child: None,
        }
    }

    /// The process that is in this place now.
    pub(crate) fn name(&self) -> String {
        let (index, nth) = (self.index, self.processes);
        match index < WORKERS {
            true => format!("worker-{index}.{nth}"),
            false => format!("producer-{}.{nth}", index - WORKERS),
        }
    }

    pub(crate) fn start(&mut self, faults: &Record) {
        assert!(self.child.is_none(), "{} still runs", self.name());
        self.processes += 1;
        let name = self.name();
        let errors = File::create(self.dir.join(format!("{name}.err"))).expect("a file");
        let program = std::env::current_exe().expect("this program's own file");
        let child = Command::new(program)
            .args([ENTRY, "--exact", "--nocapture", "--test-threads=1"])
            .env(PART, &name)
            .env(REDIS, &self.redis)
            .env(DIR, &self.dir)
            .env(SEED, self.seed.to_string())
            // Held open and never written to: it closes when this program ends, however it ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(errors)
            // Of its own, so that Ctrl-C is for the soak alone, and one that is frozen when the soak dies is sent SIGHUP.
            .process_group(0)
            .spawn();
        self.child = Some(child.expect("the program starts once more"));
        faults.note(format_args!("started {name}"));
    }

    fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have ended meanwhile; until it is waited for, the pid stays its own.
            let _ = kill_process(pid, signal);
        }
    }

    pub(crate) fn kill(&mut self, faults: &Record) {
        let name = self.name();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let status = child.wait().expect("a process that was killed ends");
            faults.note(format_args!("ended {name} killed {status}"));
        }
    }

    /// The status of a process that has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("a child");
        if status.is_some() {
            self.child = None;
        }
        status
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.child.is_none()
    }

    /// A process makes its record when it hears signals; a loaded machine takes a while to get there.
    async fn wait_until_it_listens(&self) {
        let record = self.dir.join(format!("{}.log", self.name()));
        let began = Instant::now();
        while !record.exists() && began.elapsed() < LISTENS_WITHIN {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, and waits for the end. What is wrong with the way in which it ended is noted as `unruly`.
    pub(crate) async fn stop(&mut self, faults: &Record) {
        if self.is_empty() {
            return;
        }
        let name = self.name();
        let limit = GRACE + EXIT_WITHIN;
        self.wait_until_it_listens().await;
        faults.note(format_args!("stopping {name}"));
        self.signal(Signal::TERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                faults.note(format_args!("ended {name} stopped {status}"));
                // A poisoned worker may die on its way out.
                if !status.success() && !was_aborted(status) {
                    faults.note(format_args!("unruly {name} ended with {status}"));
                }
                return;
            }
            if began.elapsed() > limit {
                faults.note(format_args!("unruly {name} not stopped within {limit:?}"));
                self.kill(faults);
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// As by a job that kills its worker.
pub(crate) fn was_aborted(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::ABORT.as_raw())
}
