//! A queue of its own on a server that all tests share, and the verbs that the tests are written in.

mod keys;
pub(crate) mod long_job;
mod look;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod resp;
pub(crate) mod scan;
pub(crate) mod verbs;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use millstream::broker::{Broker, Patience, Upkeeper};
use millstream::private_redis::{Options, PrivateRedis};

use resp::{Connection, Value};
use scan::Exceptions;

/// For every call to the engine: none of these tests is about a slow Redis, and the machine may be loaded.
pub(crate) const PATIENCE: Patience = Patience::brief(Duration::from_secs(20));
/// The lease in force when a test does not say otherwise. No test waits for it.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// A wait that a test ends by hand; see [`Fixture::make_due`].
pub(crate) const LATER: Duration = Duration::from_secs(3600);

/// The server of this test process. A pipe ties it to the process, so it needs no end of its own.
fn server() -> &'static PrivateRedis {
    static SERVER: OnceLock<PrivateRedis> = OnceLock::new();
    SERVER.get_or_init(|| PrivateRedis::start(Options::default()).expect("a private Redis"))
}

/// One queue, alone with its test.
pub(crate) struct Fixture {
    pub(crate) broker: Broker,
    pub(crate) url: String,
    pub(crate) queue: String,
    socket: PathBuf,
    connection: Mutex<Connection>,
    callers: AtomicU32,
    exceptions: Mutex<Exceptions>,
}

impl Fixture {
    /// A new queue, with its consumer groups.
    pub(crate) async fn new() -> Self {
        Self::on(server()).await
    }

    /// A new queue on a server that the test keeps for itself.
    pub(crate) async fn on(redis: &PrivateRedis) -> Self {
        static QUEUES: AtomicU32 = AtomicU32::new(0);
        let queue = format!("test-{}", QUEUES.fetch_add(1, Ordering::Relaxed));
        let fixture = Self::over(redis, &queue).await;
        fixture
            .broker
            .create_groups(PATIENCE)
            .await
            .expect("groups");
        fixture.sweep_is_recent();
        fixture
    }

    /// The queue `queue` as it is.
    pub(crate) async fn over(redis: &PrivateRedis, queue: &str) -> Self {
        let url = redis.url();
        let broker = Broker::connect(&url, "millstream", queue)
            .await
            .expect("a connection to the private Redis");
        Self {
            broker,
            url,
            queue: queue.to_owned(),
            socket: redis.socket(),
            connection: Mutex::new(Connection::open(&redis.socket())),
            callers: AtomicU32::new(0),
            exceptions: Mutex::default(),
        }
    }

    /// Any Redis command, and the server's words if it refuses.
    pub(crate) fn try_redis<A: AsRef<[u8]>>(&self, command: &[A]) -> Result<Value, String> {
        self.connection
            .lock()
            .expect("no test panics within a command")
            .send(command)
    }

    /// Any Redis command.
    pub(crate) fn redis<A: AsRef<[u8]>>(&self, command: &[A]) -> Value {
        let name = String::from_utf8_lossy(command[0].as_ref()).into_owned();
        self.try_redis(command)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The full name of one of the queue's keys.
    pub(crate) fn key(&self, suffix: &str) -> String {
        format!("millstream:{{{}}}:{suffix}", self.queue)
    }

    /// Redis's clock, µs.
    pub(crate) fn now_us(&self) -> i64 {
        let time = self.redis(&["TIME"]);
        time.list()[0].int() * 1_000_000 + time.list()[1].int()
    }

    /// Hears the queue's channel from now on.
    pub(crate) fn listen(&self) -> Connection {
        let mut connection = Connection::open(&self.socket);
        let subscribed = connection.send(&["SUBSCRIBE", &self.key("wake")]);
        subscribed.expect("a subscription");
        connection
    }

    /// One of the queue's lifetime counters.
    pub(crate) fn counter(&self, name: &str) -> i64 {
        match self.redis(&["HGET", &self.key("stats"), name]) {
            Value::Nil => 0,
            count => count.int(),
        }
    }

    /// The queue's events as `(event, job)`, oldest first.
    pub(crate) fn events(&self) -> Vec<(String, String)> {
        let events = self.redis(&["XRANGE", &self.key("events"), "-", "+"]);
        let text = |event: &Value, name: &str| event.list()[1].field(name).text().to_owned();
        let pairs = events.list().iter();
        pairs
            .map(|event| (text(event, "event"), text(event, "job")))
            .collect()
    }

    /// Takes everything out of the queue, so that the next test of the same test function finds it new.
    pub(crate) async fn wipe(&self) {
        let keys = self.redis(&["KEYS", &self.key("*")]);
        let keys = keys.list().iter().map(Value::text);
        let command: Vec<&str> = std::iter::once("DEL").chain(keys).collect();
        if command.len() > 1 {
            self.redis(&command);
        }
        *self.exceptions() = Exceptions::default();
        self.broker.create_groups(PATIENCE).await.expect("groups");
        self.sweep_is_recent();
    }

    /// A queue that was never swept gives its workers time to renew; none of these is new to its workers.
    fn sweep_is_recent(&self) {
        let now_ms = (self.now_us() / 1000).to_string();
        self.redis(&["HSET", &self.key("stats"), "swept_ms", &now_ms]);
    }

    /// What the scanner is to pass over.
    pub(crate) fn exceptions(&self) -> MutexGuard<'_, Exceptions> {
        self.exceptions.lock().expect("no test panics with it")
    }

    /// Tells the scanner that `jobs` more jobs exist than the counters know.
    pub(crate) fn expect_unbooked(&self, jobs: i64) {
        self.exceptions().unbooked += jobs;
    }

    /// Tells the scanner that the unique key `key` may outlive its job.
    pub(crate) fn expect_window(&self, key: &str) {
        self.exceptions().windows.insert(key.to_owned());
    }
}

/// The upkeeper of this name, with a lock that no test outlives.
pub(crate) fn upkeeper(worker: &str) -> Upkeeper {
    Upkeeper {
        worker: worker.to_owned(),
        lock: Duration::from_secs(600),
    }
}
