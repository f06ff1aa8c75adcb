//! A private Redis, and the `millstream` binary against it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Millstream, inspect::Stats};
use serde_json::Value;

/// How long a test waits for something that takes milliseconds on a quiet machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Cli {
    pub(crate) redis: PrivateRedis,
    pub(crate) dir: tempfile::TempDir,
}

impl Cli {
    pub(crate) fn new() -> Self {
        let redis = PrivateRedis::start(Options::default()).unwrap();
        Self {
            redis,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The binary, told where Redis is and nothing else of this machine.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = bare(args);
        command
            .env("MILLSTREAM_REDIS_URL", self.redis.url())
            .current_dir(self.dir.path());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, read as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    pub(crate) async fn stats(&self, queue: &str) -> Stats {
        let client = Millstream::connect(&self.redis.url()).await.unwrap();
        client.inspect(queue).unwrap().stats().await.unwrap()
    }

    /// Waits until the queue's counts are as wanted.
    pub(crate) async fn wait_for(
        &self,
        queue: &str,
        what: &str,
        wanted: impl Fn(&Stats) -> bool,
    ) -> Stats {
        let client = Millstream::connect(&self.redis.url()).await.unwrap();
        let inspector = client.inspect(queue).unwrap();
        let began = Instant::now();
        loop {
            let stats = inspector.stats().await.unwrap();
            if wanted(&stats) {
                return stats;
            }
            assert!(began.elapsed() < PATIENCE, "{what} did not come: {stats:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the handlers of this test wrote down.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn wait_for_log(&self, lines: usize) -> Vec<String> {
        let began = Instant::now();
        loop {
            let log = self.log();
            if log.len() >= lines {
                return log;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{lines} lines did not come: {log:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What a command said on standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The binary in an environment without settings.
pub(crate) fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MILLSTREAM_") {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

/// A gateway with the settings of `mill.toml`, whose log is read line by line.
pub(crate) struct Served {
    pub(crate) process: Process,
    log: std::sync::mpsc::Receiver<String>,
    pub(crate) address: String,
}

impl Served {
    /// `command` is `gateway` or `serve`.
    pub(crate) fn start(cli: &Cli, command: &str, env: &[(&str, &str)]) -> Self {
        let args = [command, "--config", "mill.toml", "--log-format", "json"];
        let mut command = cli.command(&args);
        command.envs(env.iter().copied());
        let command = command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, log) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut served = Self {
            process: Process(child),
            log,
            address: String::new(),
        };
        let listens = served.line("the gateway listens");
        served.address = listens["address"].as_str().unwrap().to_owned();
        served
    }

    /// The next line of the log that says this.
    pub(crate) fn line(&mut self, says: &str) -> Value {
        let mut seen = Vec::new();
        loop {
            let Ok(text) = self.log.recv_timeout(PATIENCE) else {
                panic!("{says:?} is not in {seen:#?}");
            };
            let line: Value = serde_json::from_str(&text).unwrap();
            if line["message"].as_str().unwrap().contains(says) {
                return line;
            }
            seen.push(text);
        }
    }
}

/// A process that is killed when the test ends, however it ends.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.0.id().to_string())
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// The exit code, within `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                began.elapsed() < limit,
                "the process did not end within {limit:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// False for a process that has ended, even if nobody has asked how.
pub(crate) fn is_running(pid: &str) -> bool {
    let args = ["-o", "stat=", "-p", pid];
    let ps = Command::new("ps").args(args).output().unwrap();
    let stat = String::from_utf8_lossy(&ps.stdout);
    !stat.is_empty() && !stat.starts_with('Z')
}
