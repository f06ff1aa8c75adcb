//! Runs a program for a job: the payload on its standard input, the verdict from how it ends.
//!
//! Exit 0 completes; 65 (`EX_DATAERR` of sysexits.h) dead-letters; anything else is a failed attempt, with the end of what the
//! program wrote to stderr as the error. The program and all that it starts form a process group. When the attempt is over
//! before the program is, the group gets SIGTERM, and what is left of it after a grace gets SIGKILL.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::future::pending;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::escape_controls;
use crate::config::ERROR_BYTES_MAX;
use crate::error::{Error, Result};
use crate::spans;
use crate::worker::handler::{Context, Handler, HandlerFuture, JobError};

/// How long a program has between SIGTERM and SIGKILL.
pub const KILL_GRACE_DEFAULT: Duration = Duration::from_secs(5);
/// Longest grace. The job may be running elsewhere by then.
pub const KILL_GRACE_MAX: Duration = Duration::from_secs(3600);

/// The exit code by which a program says that the job can never succeed: `EX_DATAERR` of sysexits.h.
const EXIT_REFUSED: i32 = 65;
/// How long to go on reading stderr once the program has ended. What it wrote is there already; the end of the stream may
/// not be, while a process that it left behind holds it open.
const STDERR_LINGER: Duration = Duration::from_millis(200);
/// How often a group that was told to stop is looked at, once its leader is gone: nothing announces the end of the others.
const GROUP_POLL: Duration = Duration::from_millis(20);
/// Our own settings begin with this. They may hold the password of Redis or a token, and are none of the program's business.
const OWN_PREFIX: &[u8] = b"MILLSTREAM_";

/// What [`CommandHandler::new`] checks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandSettings {
    /// A path, or a name to be found on `PATH`.
    pub program: OsString,
    /// Its arguments, as they are: no shell reads them.
    pub args: Vec<OsString>,
    /// How long the program has between SIGTERM and SIGKILL. Default 5 s, at most 1 h.
    pub kill_grace: Duration,
}

impl CommandSettings {
    /// Runs `program` with `args`, and gives it the default grace.
    pub fn new<A>(program: impl Into<OsString>, args: A) -> Self
    where
        A: IntoIterator,
        A::Item: Into<OsString>,
    {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            kill_grace: KILL_GRACE_DEFAULT,
        }
    }

    /// Gives the program `grace` between SIGTERM and SIGKILL.
    #[must_use]
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.kill_grace = grace;
        self
    }
}

/// The handler that runs a program per job. Cheap to clone; clones share [`CommandHandler::finished`].
#[derive(Clone, Debug)]
pub struct CommandHandler {
    recipe: Arc<Recipe>,
    running: TaskTracker,
}

impl CommandHandler {
    /// Checks `settings` and finds the program. Nothing is started before the first job.
    ///
    /// # Errors
    /// [`Error::Setting`] names the program that is missing or cannot be executed, or the grace that is out of range.
    pub fn new(settings: CommandSettings) -> Result<Self> {
        if settings.kill_grace > KILL_GRACE_MAX {
            return Err(Error::setting(
                "kill_grace",
                humantime::format_duration(settings.kill_grace),
                format!("0s to {}", humantime::format_duration(KILL_GRACE_MAX)),
            ));
        }
        let shown = escape_controls(&settings.program.to_string_lossy(), &[]);
        let search = std::env::var_os("PATH").unwrap_or_default();
        let path = find_program(&settings.program, &search)
            .map_err(|reason| Error::setting("command", &shown, reason))?;
        let hidden = std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| name.as_encoded_bytes().starts_with(OWN_PREFIX))
            .collect();
        let running = TaskTracker::new();
        // Closed only means that an empty tracker counts as finished; more may still be started.
        running.close();
        Ok(Self {
            recipe: Arc::new(Recipe {
                path,
                shown,
                args: settings.args,
                hidden,
                kill_grace: settings.kill_grace,
            }),
            running,
        })
    }

    /// Waits until no program that this handler started is left.
    ///
    /// A program that is being stopped outlives the attempt by up to its grace. Await this before the process exits, or the
    /// program is killed without the rest of it (when the runtime is dropped) or left behind (by [`std::process::exit`],
    /// unless [`kill_all_programs`] comes first).
    pub async fn finished(&self) {
        self.running.wait().await;
    }
}

impl Handler for CommandHandler {
    fn run(&self, job: Context) -> HandlerFuture {
        let recipe = Arc::clone(&self.recipe);
        let running = self.running.clone();
        Box::pin(async move {
            if job.cancelled().is_cancelled() {
                return Err(JobError::failed(format!(
                    "{} was not started: the attempt was given up",
                    recipe.shown
                )));
            }
            let (child, group) = GROUPS.start(&mut recipe.command(&job)).map_err(|error| {
                JobError::failed(format!("cannot start {}: {error}", recipe.shown))
            })?;
            // The worker drops this future at the timeout. The task does not go with it, so that the program still gets its
            // SIGTERM, its grace and its end; the guard tells it.
            let unwanted = job.cancelled().child_token();
            let watch = Watch {
                group,
                child,
                unwanted: unwanted.clone(),
                deadline: job.deadline().into(),
                recipe: Arc::clone(&recipe),
            };
            let _told_when_dropped = unwanted.drop_guard();
            let outcome = running.spawn(watch.run(job.payload().clone())).await;
            outcome.unwrap_or_else(|broken| {
                Err(JobError::failed(format!(
                    "lost sight of {}: {broken}",
                    recipe.shown
                )))
            })
        })
    }
}

/// Kills the programs of all handlers in this process, with all that belongs to their groups, and lets no more be started.
///
/// For a process that is about to [exit](std::process::exit) without waiting for its handlers: nobody would end their
/// programs then.
pub fn kill_all_programs() {
    GROUPS.kill_all();
}

/// The groups of this process that run.
static GROUPS: LazyLock<Groups> = LazyLock::new(Groups::default);

#[derive(Default)]
struct Groups {
    /// True once no more may start. Those who start hold it for reading, so that none is missed between start and entry.
    closed: RwLock<bool>,
    leaders: Mutex<HashSet<Pid>>,
}

impl Groups {
    fn start(&self, command: &mut Command) -> io::Result<(Child, Group)> {
        // Poison means nothing here: neither lock is ever held over a half-made change.
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Err(io::Error::other("this process is leaving"));
        }
        let child = command.spawn()?;
        let leader = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        self.change(|leaders| leaders.extend(leader));
        Ok((child, Group { leader }))
    }

    fn forget(&self, leader: Pid) {
        self.change(|leaders| {
            leaders.remove(&leader);
        });
    }

    fn kill_all(&self) {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
        self.change(|leaders| {
            for leader in leaders.drain() {
                // A group that is gone already is what was wanted.
                let _ = kill_process_group(leader, Signal::KILL);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<Pid>)) {
        change(&mut self.leaders.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// How to start the program.
#[derive(Debug)]
struct Recipe {
    /// Absolute: found once, at the start, where a missing program can still be refused.
    path: PathBuf,
    /// The program as the user wrote it, for messages.
    shown: String,
    args: Vec<OsString>,
    /// Variables of our environment that the program does not get.
    hidden: Vec<OsString>,
    kill_grace: Duration,
}

impl Recipe {
    fn command(&self, job: &Context) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args);
        for name in &self.hidden {
            command.env_remove(name);
        }
        // As OpenTelemetry passes a trace to a program; ours, if we were started in one, is not the job's.
        let current = spans::current();
        let (parent, state) = match &current {
            Some(context) => (Some(context.parent.as_str()), context.state.as_deref()),
            None => (job.traceparent(), job.tracestate()),
        };
        for (name, value) in [("TRACEPARENT", parent), ("TRACESTATE", state)] {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .env("MILLSTREAM_JOB_ID", job.id().as_str())
            .env("MILLSTREAM_JOB_NAME", job.name())
            .env("MILLSTREAM_JOB_ATTEMPT", job.attempt().to_string())
            .env("MILLSTREAM_JOB_QUEUE", job.queue().as_str())
            .envs(job.group().map(|group| ("MILLSTREAM_JOB_GROUP", group)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }
}

/// One run of the program, from its start to the end of its last process that matters.
struct Watch {
    /// Before `child`, so that a drop kills first and reaps then.
    group: Group,
    child: Child,
    /// Fires when the attempt is over: cancelled, or its future dropped.
    unwanted: CancellationToken,
    deadline: Instant,
    recipe: Arc<Recipe>,
}

impl Watch {
    async fn run(mut self, payload: Bytes) -> Result<(), JobError> {
        let stdin = self.child.stdin.take();
        let mut stderr = self.child.stderr.take();
        let mut tail = Tail::default();
        // Both sides at once: a program that writes before it has read must not wait for us, nor we for it.
        let talk = async {
            tokio::join!(feed(stdin, &payload), tail.follow(&mut stderr));
            pending::<Infallible>().await
        };
        let grace = self.recipe.kill_grace;
        let ended = tokio::select! {
            ended = end(&mut self.child, &mut self.group, &self.unwanted, self.deadline, grace) => ended,
            never = talk => match never {},
        };

        let shown = &self.recipe.shown;
        let (status, stopped) = match ended {
            Ok(ended) => ended,
            Err(error) => return Err(JobError::failed(format!("lost sight of {shown}: {error}"))),
        };
        if status.success() && stopped.is_none() {
            return Ok(());
        }
        let _ = timeout(STDERR_LINGER, tail.follow(&mut stderr)).await;
        let what = match stopped {
            Some(why) => format!("{shown} was stopped, {why} ({status})"),
            None => format!("{shown} failed ({status})"),
        };
        let message = tail.appended_to(what);
        if status.code() == Some(EXIT_REFUSED) && stopped.is_none() {
            Err(JobError::refuse(message))
        } else {
            Err(JobError::failed(message))
        }
    }
}

/// Waits for the program to end, and sees to it when it is no longer wanted. Says why it was stopped, if it was: what a
/// stopped program answers counts for nothing, because many exit 0 on SIGTERM without having done the work.
async fn end(
    child: &mut Child,
    group: &mut Group,
    unwanted: &CancellationToken,
    deadline: Instant,
    grace: Duration,
) -> io::Result<(ExitStatus, Option<&'static str>)> {
    let why = tokio::select! {
        status = child.wait() => {
            // What it left running on purpose is not ours to end.
            group.let_go();
            return Ok((status?, None));
        }
        () = sleep_until(deadline) => "its time was up",
        () = unwanted.cancelled() => "the attempt was given up",
    };
    group.signal(Signal::TERM);
    let all_gone = timeout(grace, async {
        let status = child.wait().await;
        while group.exists() {
            sleep(GROUP_POLL).await;
        }
        status
    });
    let status = match all_gone.await {
        Ok(status) => status,
        Err(_) => {
            group.signal(Signal::KILL);
            child.wait().await
        }
    };
    group.let_go();
    Ok((status?, Some(why)))
}

/// The process group of a program. Kills it when dropped before it was let go, which happens when the runtime ends first.
struct Group {
    leader: Option<Pid>,
}

impl Group {
    fn let_go(&mut self) {
        if let Some(leader) = self.leader.take() {
            GROUPS.forget(leader);
        }
    }

    /// Sends `signal`. A group that is gone already is what was wanted.
    ///
    /// The number cannot have gone to strangers: it stays taken while the leader is not reaped or the group has members, and
    /// one of the two was so just before.
    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            let _ = kill_process_group(leader, signal);
        }
    }

    fn exists(&self) -> bool {
        self.leader
            .is_some_and(|leader| test_kill_process_group(leader).is_ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        self.let_go();
    }
}

/// Writes the payload and closes the pipe. A program may end without having read it: its exit code says whether that is well.
async fn feed(stdin: Option<ChildStdin>, payload: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(payload).await;
    }
}

/// The end of what was written to stderr.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    /// True once something was dropped at the front.
    cut: bool,
}

impl Tail {
    /// Reads to the end. May be dropped and begun again: nothing that was read is lost.
    async fn follow(&mut self, stream: &mut Option<impl AsyncRead + Unpin>) {
        let Some(stream) = stream else { return };
        let mut chunk = [0; ERROR_BYTES_MAX];
        while let Ok(read) = stream.read(&mut chunk).await
            && read > 0
        {
            self.push(&chunk[..read]);
        }
    }

    fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
        let surplus = self.bytes.len().saturating_sub(ERROR_BYTES_MAX);
        self.cut |= surplus > 0;
        self.bytes.drain(..surplus);
    }

    /// `what`, and the tail as text behind it, cut at its front so that both fit into a stored error.
    fn appended_to(&self, what: String) -> String {
        let lossy = String::from_utf8_lossy(&self.bytes);
        // A cut in the middle of a character leaves its rest in front.
        let whole = if self.cut {
            lossy.trim_start_matches('\u{fffd}')
        } else {
            &lossy
        };
        let text = escape_controls(whole.trim_end(), &['\n', '\t']);
        if text.is_empty() {
            return what;
        }
        let room = ERROR_BYTES_MAX.saturating_sub(what.len() + 2);
        let mut from = text.len().saturating_sub(room);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        format!("{what}: {}", &text[from..])
    }
}

/// The absolute path of `program`, looked up as a shell would, or why there is none.
fn find_program(program: &OsStr, search: &OsStr) -> Result<PathBuf, String> {
    if program.is_empty() {
        return Err("give a program to run".into());
    }
    if program.as_encoded_bytes().contains(&b'/') {
        let path = std::path::absolute(program).map_err(|error| error.to_string())?;
        return match path.metadata() {
            Err(error) => Err(format!("cannot be run: {error}")),
            Ok(_) if is_executable(&path) => Ok(path),
            Ok(meta) if meta.is_dir() => Err("is a directory, not a program".into()),
            Ok(_) => Err("is not executable; make it so with chmod +x".into()),
        };
    }
    std::env::split_paths(search)
        .filter_map(|directory| std::path::absolute(directory.join(program)).ok())
        .find(|path| is_executable(path))
        .ok_or_else(|| {
            "no such program on PATH; install it, or give its path, such as ./handle".into()
        })
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests;
