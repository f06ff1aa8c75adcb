//! What every bench stands on: a Redis of its own, the engine beside a bare client, and a report of the two side by side.

use std::process::Command;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, ConnectionConfig, TcpConfig};
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Millstream, NewJob, Queue};
use tokio::runtime::Runtime;

/// The queue of the engine.
pub(crate) const QUEUE: &str = "bench";
/// The stream of the bare client, and its consumer group.
pub(crate) const STREAM: &str = "bare";
pub(crate) const GROUP: &str = "workers";
/// Size of a payload: that of a small webhook.
pub(crate) const PAYLOAD_BYTES: usize = 200;

/// A server, and both ways to talk to it. Over TCP, as most do.
pub(crate) struct Arena {
    pub(crate) redis: PrivateRedis,
    pub(crate) bare: Client,
    pub(crate) millstream: Millstream,
    pub(crate) queue: Queue,
}

impl Arena {
    /// Starts and connects everything, and prints what the numbers depend on.
    pub(crate) fn start(runtime: &Runtime) -> Self {
        let options = Options {
            tcp: true,
            ..Options::default()
        };
        let redis = PrivateRedis::start(options).expect("a Redis to measure");
        print_circumstances(&redis);
        runtime.block_on(async {
            let bare = connect_bare(&redis).await;
            let millstream = Millstream::connect(&redis.url()).await.expect("connects");
            let queue = millstream.queue(QUEUE).expect("a good name");
            Self {
                redis,
                bare,
                millstream,
                queue,
            }
        })
    }

    /// Drops all jobs, so that a measurement does not depend on those before it.
    pub(crate) async fn clear(&self) {
        let args = vec![Value::from("SYNC")];
        let flush = CustomCommand::new_static("FLUSHDB", ClusterHash::Random, false);
        let _: Value = self.bare.custom(flush, args).await.expect("flushes");
    }
}

/// A client with the library's defaults for everything that costs time.
pub(crate) async fn connect_bare(redis: &PrivateRedis) -> Client {
    let config = Config::from_url(&redis.url()).expect("a good URL");
    let mut builder = Builder::from_config(config);
    builder.set_connection_config(ConnectionConfig {
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    });
    let client = builder.build().expect("a good configuration");
    client.init().await.expect("connects");
    client
}

/// The payload of the `index`-th job; it begins with its index.
pub(crate) fn payload(index: u64) -> Vec<u8> {
    let mut bytes = vec![b'x'; PAYLOAD_BYTES];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    bytes
}

/// The `index`-th job.
pub(crate) fn job(index: u64) -> NewJob {
    NewJob::raw("noop", payload(index))
}

/// True when criterion was told to run everything once, unmeasured: `cargo bench -- --test`, `cargo test --bench`.
pub(crate) fn once() -> bool {
    let given = |flag: &str| std::env::args().any(|arg| arg == flag);
    given("--test") || !given("--bench")
}

/// False when a filter was given or nothing is to be run: then the report would speak of what was not asked for.
pub(crate) fn wants_report() -> bool {
    std::env::args()
        .skip(1)
        .all(|arg| arg == "--bench" || arg == "--test")
}

/// The `share`-th part of the values below it; sorts them.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

fn print_circumstances(redis: &PrivateRedis) {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or(std::env::consts::ARCH, |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("machine: {model}, {cores} cores, {}", std::env::consts::OS);
    println!("redis:   {}, no persistence, loopback TCP", redis.version());
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    if let Ok(git) = git
        && git.status.success()
    {
        println!("commit:  {}", String::from_utf8_lossy(&git.stdout).trim());
    }
    if once() {
        println!("once:    small and unmeasured; the numbers mean nothing");
    }
}
