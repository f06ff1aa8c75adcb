//! A real failover: a primary, its replica, and a Sentinel that promotes the replica when the primary is killed.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Durability, JobError, Millstream, NewJob};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::support::program::SLACK;
use crate::support::resp::Connection;

/// Watches the primary. Ends with the test process, however that ends: a pipe ties the shell to it.
struct Sentinel {
    shell: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl Sentinel {
    fn watching(primary: &PrivateRedis) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; a Sentinel wants to be told its port.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let conf = dir.path().join("sentinel.conf");
        let mut file = std::fs::File::create(&conf).unwrap();
        writeln!(
            file,
            "port {port}\nbind 127.0.0.1\nprotected-mode no\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000",
            dir.path().display(),
            primary.port().unwrap()
        )
        .unwrap();
        // The program that serves, by the name under which it was started: it goes by that.
        let title = std::fs::read(format!("/proc/{}/cmdline", primary.pid().unwrap())).unwrap();
        let title = String::from_utf8_lossy(&title);
        let server = title.split([' ', '\0']).next().unwrap();
        let tied = r#""$0" "$1" --sentinel >/dev/null & cat >/dev/null; kill -9 $!; wait"#;
        let shell = Command::new("sh")
            .args(["-c", tied])
            .arg(server)
            .arg(&conf)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            shell,
            port,
            _dir: dir,
        }
    }

    fn url(&self) -> String {
        let port = self.port;
        format!("redis-sentinel://127.0.0.1:{port}/0?sentinelServiceName=main")
    }
}

fn node(args: &[&str]) -> PrivateRedis {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let options = Options {
        tcp: true,
        args,
        ..Options::default()
    };
    PrivateRedis::start(options).unwrap()
}

fn said(server: &PrivateRedis, section: &str) -> String {
    let info = Connection::open(&server.socket()).send(&["INFO", section]);
    info.unwrap().text().to_owned()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let shown = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let shown = timeout(SLACK * 2, shown).await;
    shown.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_by_sentinel_workers_and_producers_go_on_and_what_a_replica_had_is_there()
{
    let primary = node(&["--repl-diskless-sync-delay", "0"]);
    let port = primary.port().unwrap().to_string();
    let replica = node(&["--replicaof", "127.0.0.1", &port]);
    until("the replica is in step", || {
        said(&replica, "replication").contains("master_link_status:up")
    })
    .await;
    let sentinel = Sentinel::watching(&primary);
    until("the Sentinel knows the replica", || {
        let connect = std::net::TcpStream::connect(("127.0.0.1", sentinel.port));
        connect.is_ok() && knows_a_replica(sentinel.port)
    })
    .await;

    let client = Millstream::connect(&sentinel.url()).await.unwrap();
    let (tell, mut ran) = unbounded_channel();
    let worker = |queue: &str| {
        let tell = tell.clone();
        let handler = move |job: Context| {
            let _ = tell.send(job.id().to_string());
            std::future::ready(Ok::<(), JobError>(()))
        };
        client
            .worker(queue)
            .unwrap()
            .handle_raw("a", handler)
            .start()
    };
    // One worker lives through the failover; the jobs of the other queue wait for theirs in the replica.
    let living = worker("living").await.unwrap();
    let safe = client
        .queue("q")
        .unwrap()
        .with_durability(Durability::Replicas(1));
    let mut waiting = BTreeSet::new();
    for _ in 0..100 {
        let enqueued = safe.enqueue(NewJob::raw("a", "")).await.unwrap();
        assert_eq!(enqueued.durability, Durability::Replicas(1));
        waiting.insert(enqueued.id.to_string());
    }

    primary.kill().unwrap();
    until("the replica is promoted", || {
        said(&replica, "replication").contains("role:master")
    })
    .await;

    let began = std::time::Instant::now();
    let queue = client.queue("living").unwrap();
    let enqueued = loop {
        match queue.enqueue(NewJob::raw("a", "")).await {
            Ok(enqueued) => break enqueued.id.to_string(),
            Err(error) => assert!(began.elapsed() < SLACK, "{error}"),
        }
    };
    let mut next = async || {
        timeout(SLACK, ran.recv())
            .await
            .expect("a job runs")
            .unwrap()
    };
    assert_eq!(next().await, enqueued);
    let late = worker("q").await.unwrap();
    while !waiting.is_empty() {
        let id = next().await;
        assert!(waiting.remove(&id), "{id} was not stored, or ran twice");
    }
    tokio::join!(living.stop(), late.stop());
}

fn knows_a_replica(port: u16) -> bool {
    let asked = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(b"SENTINEL REPLICAS main\r\n")?;
        let mut answer = Vec::new();
        // The connection stays open, so the reading ends with its time.
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    });
    asked.is_ok_and(|answer| answer.contains("master-link-status\r\n$2\r\nok"))
}
