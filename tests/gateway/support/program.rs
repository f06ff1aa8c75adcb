//! The gateway as a process of its own: what it costs can be told from what its tests cost, and its log can be read.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{self, Answer, Connection};
use super::senders::{Delivery, SECRET};
use super::{PATIENCE, Place, QUEUE};

pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    // The config file lives as long as the process.
    _dir: tempfile::TempDir,
}

impl Program {
    /// `millstream gateway` with the shop of [`super::senders`] as its only source, and `gateway` in its section of that name. More
    /// arguments come from `args`; `before` is what the shell does first.
    pub(crate) fn start(place: &Place, gateway: &str, args: &[&str], before: &str) -> Self {
        let text = format!(
            "[gateway]\nlisten = \"127.0.0.1:0\"\n{gateway}\n[sources.shop]\nscheme = \"shopify\"\nsecrets = [\"env:SHOP_SECRET\"]\nqueue = \"{QUEUE}\"\n"
        );
        Self::run(place, "gateway", &text, args, &[], before)
    }

    /// A `command` that listens, with `config` as its file and these variables besides.
    pub(crate) fn run(
        place: &Place,
        command: &str,
        config: &str,
        args: &[&str],
        env: &[(&str, &str)],
        before: &str,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("millstream.toml");
        std::fs::write(&file, config).unwrap();
        let mut shell = Command::new("sh");
        for (name, _) in std::env::vars_os() {
            let name_bytes = name.as_encoded_bytes();
            if name_bytes.starts_with(b"MILLSTREAM_") || name_bytes.starts_with(b"OTEL_") {
                shell.env_remove(name);
            }
        }
        let mut child = shell
            .args(["-c", &format!("{before}exec \"$@\""), "sh"])
            .arg(env!("CARGO_BIN_EXE_millstream"))
            .args([command, "--log-format", "json", "--config"])
            .arg(&file)
            .args(args)
            .env("MILLSTREAM_REDIS_URL", place.redis.url())
            .env("SHOP_SECRET", SECRET)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        // From here on it ends with this value, also when it never listens.
        let mut program = Self {
            child,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            log: Arc::clone(&log),
            _dir: dir,
        };
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let said: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(address) = said["address"].as_str() {
                    let _ = tell.send(address.parse().unwrap());
                }
                log.lock().unwrap().push(line);
            }
        });
        let address = told.recv_timeout(PATIENCE);
        program.address =
            address.unwrap_or_else(|_| panic!("it does not listen: {:?}", program.log()));
        program
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// A figure of `/proc/PID/status`, bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.unwrap().trim_matches([':', ' ', '\t', 'k', 'B']);
        kib.parse::<u64>().unwrap() << 10
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::to(self.address).await
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery) -> Answer {
        let mut connection = self.connect().await;
        connection.send(&delivery.request()).await;
        connection.answer().await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let mut connection = self.connect().await;
        connection.send(&http::get(path)).await;
        connection.answer().await
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").arg(pid).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end, and returns its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "it goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
