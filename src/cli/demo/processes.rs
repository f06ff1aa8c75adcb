//! The gateway and the workers of the demo: processes of this same program, with config files as a user would write them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::sync::oneshot;

use super::plan::{MAX_ATTEMPTS, QUEUE, Sender};
use crate::cli::process::READY;

/// Longest wait for a process to say that it is ready. It takes milliseconds; a loaded machine takes longer.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Lines of a process's log that are shown when it fails.
const LINES_SHOWN: usize = 20;
/// Jobs at once in each worker.
pub(super) const CONCURRENCY: usize = 8;
/// After this time without a sign of life a worker's jobs are taken away. The default is 30 s; nobody wants to watch that.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// A process of the demo. It is killed when this is dropped, and it stops by itself when this program dies.
pub(super) struct Child {
    name: String,
    process: tokio::process::Child,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts `millstream ARGS --config FILE` and waits until a line of its log is what `ready` looks for.
    async fn start<T: Send + 'static>(
        name: &str,
        args: &[&str],
        config: &Path,
        redis_url: &str,
        ready: impl FnMut(&Value) -> Option<T> + Send + 'static,
    ) -> anyhow::Result<(Self, T)> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            // The settings of whoever runs the demo are not those of its processes.
            let bytes = variable.as_encoded_bytes();
            if bytes.starts_with(b"MILLSTREAM_") || bytes == b"RUST_LOG" {
                command.env_remove(&variable);
            }
        }
        let mut process = command
            .args(args)
            .arg("--config")
            .arg(config)
            .args(["--log-format", "json", "--stop-with-stdin"])
            .env("MILLSTREAM_REDIS_URL", redis_url)
            // Held open and never written to: it closes when this program ends, however it ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which then stops its processes.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let stderr = process.stderr.take().context("a child without stderr")?;
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, told) = oneshot::channel();
        tokio::spawn(read_log(stderr, Arc::clone(&last_lines), tell, ready));
        let mut child = Self {
            name: name.to_owned(),
            process,
            last_lines,
        };
        match tokio::time::timeout(READY_TIMEOUT, told).await {
            Ok(Ok(ready)) => Ok((child, ready)),
            Ok(Err(_)) => {
                let status = child
                    .process
                    .wait()
                    .await
                    .context("cannot wait for a process")?;
                Err(child.failure(&format!("ended at its start with {status}")))
            }
            Err(_) => Err(child.failure(&format!("was not ready within {READY_TIMEOUT:?}"))),
        }
    }

    /// Kills the process without warning (SIGKILL) and returns its pid.
    pub(super) async fn kill(&mut self) -> anyhow::Result<u32> {
        let pid = self
            .process
            .id()
            .with_context(|| format!("the {} has ended already", self.name))?;
        self.process
            .kill()
            .await
            .with_context(|| format!("cannot kill the {}", self.name))?;
        Ok(pid)
    }

    /// Fails when the process has ended though nobody killed it.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self
            .process
            .try_wait()
            .context("cannot look after a process")?
        {
            None => Ok(()),
            Some(status) => Err(self.failure(&format!("ended with {status}"))),
        }
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        let lines = self
            .last_lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        anyhow::anyhow!(
            "the {} {what}; its last lines were:\n{}",
            self.name,
            lines.join("\n")
        )
    }
}

/// Reads the log to its end, so that the process never waits for us; hands on what `ready` finds first.
async fn read_log<T>(
    stderr: ChildStderr,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    tell: oneshot::Sender<T>,
    mut ready: impl FnMut(&Value) -> Option<T>,
) {
    let mut tell = Some(tell);
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if tell.is_some()
            && let Some(found) = serde_json::from_str(&line)
                .ok()
                .and_then(|line| ready(&line))
            && let Some(tell) = tell.take()
        {
            // Nobody listens once the wait for it has been given up.
            let _ = tell.send(found);
        }
        let mut last_lines = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        if last_lines.len() == LINES_SHOWN {
            last_lines.pop_front();
        }
        last_lines.push_back(line);
    }
}

/// Starts the gateway on a free port.
pub(super) async fn gateway(
    dir: &Path,
    redis_url: &str,
    secrets: &[(Sender, String)],
) -> anyhow::Result<(Child, SocketAddr)> {
    let mut config = String::new();
    for (sender, secret) in secrets {
        let name = sender.name();
        let path = dir.join(format!("{name}.secret"));
        std::fs::write(&path, secret)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let secret = toml::Value::from(format!("file:{}", path.display()));
        config.push_str(&format!(
            "[sources.{name}]\nscheme = \"{name}\"\nsecrets = [{secret}]\nqueue = \"{QUEUE}\"\n\n"
        ));
    }
    let path = dir.join("gateway.toml");
    std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    let listening = |line: &Value| line["address"].as_str()?.parse().ok();
    Child::start(
        "gateway",
        &["gateway", "--listen", "127.0.0.1:0"],
        &path,
        redis_url,
        listening,
    )
    .await
}

/// Starts the worker `name`, which delivers to `receiver`.
pub(super) async fn worker(
    name: &str,
    dir: &Path,
    redis_url: &str,
    receiver: SocketAddr,
) -> anyhow::Result<Child> {
    let lease = humantime::format_duration(LEASE);
    let config = format!(
        "[queues.{QUEUE}]\nhandler = {{ forward = \"http://{receiver}/{name}\" }}\nconcurrency = {CONCURRENCY}\nprefetch = 4\n\
         max_attempts = {MAX_ATTEMPTS}\nbackoff = \"exponential(100ms, 400ms)\"\ntimeout = \"10s\"\nlease = \"{lease}\"\n\
         retain_completed = \"1h\"\n"
    );
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    let started = |line: &Value| (line["message"] == READY).then_some(());
    let (child, ()) = Child::start(name, &["worker"], &path, redis_url, started).await?;
    Ok(child)
}
