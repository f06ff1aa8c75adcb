//! The front door: one connection to Redis, from which queues, workers and inspectors are made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use crate::config;
use crate::error::{Error, Result};
use crate::inspect::Inspector;
use crate::job::QueueName;
use crate::keys::Keys;
use crate::queue::Queue;
use crate::redis::{Address, Patience, Redis};
use crate::schedules::Schedules;
use crate::seal::Seal;
use crate::worker::WorkerBuilder;

/// A connection to Redis. Cheap to clone. It lives on the runtime on which it was made, and heals itself.
#[derive(Clone, Debug)]
pub struct Millstream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    redis: Redis,
    settings: Builder,
    server: String,
}

/// How to connect; see [`Millstream::builder`].
#[derive(Clone)]
pub struct Builder {
    url: String,
    namespace: String,
    allow_eviction: bool,
    payload_bytes_max: usize,
    enqueue_timeout: Duration,
    connect_timeout: Duration,
    seals: BTreeMap<String, Seal>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the URL: it may carry a password.
        f.debug_struct("Builder")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// The first part of every key: 1 to 64 letters, digits, `-`, `_`, `.`. Default `millstream`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Accept a server whose `maxmemory-policy` may drop jobs. Default: refuse it.
    #[must_use]
    pub fn allow_eviction(mut self, allow: bool) -> Self {
        self.allow_eviction = allow;
        self
    }

    /// Largest payload, bytes. Default 1 MiB, at most 64 MiB.
    #[must_use]
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }

    /// Longest wait for an enqueue, all tries together. Default 4 s.
    #[must_use]
    pub fn enqueue_timeout(mut self, timeout: Duration) -> Self {
        self.enqueue_timeout = timeout;
        self
    }

    /// Longest wait for the first connection. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Seals the payloads of `queue` with the first key of `ring` before they go to Redis, and opens what any of its keys sealed.
    /// Every program that enqueues into the queue or works on it needs the ring; a worker without the key fails the attempt, and
    /// the job is tried again. Default: payloads are stored as they are.
    #[cfg(feature = "encryption")]
    #[must_use]
    pub fn encrypt(mut self, queue: impl Into<String>, ring: crate::seal::KeyRing) -> Self {
        self.seals.insert(queue.into(), Seal::new(ring));
        self
    }

    /// Checks all settings without connecting.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check(&self) -> Result<()> {
        let name = &self.namespace;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            return Err(Error::setting(
                "namespace",
                name.escape_debug(),
                "1 to 64 letters, digits, '-', '_' or '.'",
            ));
        }
        if !(1..=config::PAYLOAD_BYTES_MAX_MAX).contains(&self.payload_bytes_max) {
            let reason = format!("1 to {} bytes", config::PAYLOAD_BYTES_MAX_MAX);
            return Err(Error::setting(
                "payload_bytes_max",
                self.payload_bytes_max,
                reason,
            ));
        }
        for (name, timeout) in [
            ("enqueue_timeout", self.enqueue_timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if timeout < Duration::from_millis(10) || timeout > Duration::from_secs(3600) {
                return Err(Error::setting(
                    name,
                    humantime::format_duration(timeout),
                    "10ms to 1h",
                ));
            }
        }
        for queue in self.seals.keys() {
            QueueName::new(queue)?;
        }
        Address::parse(&self.url).map(drop)
    }

    /// Connects and checks that the server is fit for jobs.
    ///
    /// # Errors
    /// [`Error::Setting`]: before anything is connected. [`Error::Unreachable`]: no server there.
    /// [`Error::Unfit`]: too old, or it would evict jobs.
    pub async fn connect(self) -> Result<Millstream> {
        self.check()?;
        crate::metrics::describe();
        let address = Address::parse(&self.url)?;
        let redis = Redis::connect(&address, self.connect_timeout).await?;
        let server = redis.check_server(self.allow_eviction).await?;
        redis.load_scripts().await;
        let server = format!("{} {} at {}", server.kind, server.version, address.shown());
        Ok(Millstream {
            inner: Arc::new(Inner {
                redis,
                settings: self,
                server,
            }),
        })
    }
}

impl Millstream {
    /// Connects to `url` with the defaults: `redis://`, `rediss://`, `unix:/path`, `redis-cluster://`, `redis-sentinel://`.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// Settings for a connection to `url`.
    pub fn builder(url: &str) -> Builder {
        Builder {
            url: url.to_owned(),
            namespace: config::NAMESPACE_DEFAULT.to_owned(),
            allow_eviction: false,
            payload_bytes_max: config::PAYLOAD_BYTES_MAX_DEFAULT,
            enqueue_timeout: config::ENQUEUE_TIMEOUT_DEFAULT,
            connect_timeout: config::CONNECT_TIMEOUT_DEFAULT,
            seals: BTreeMap::new(),
        }
    }

    /// Kind, version and address of the server, without credentials.
    pub fn server(&self) -> &str {
        &self.inner.server
    }

    /// The queue `name`, to put jobs into. Ask once and clone it: calls through one [`Queue`] travel together.
    ///
    /// # Errors
    /// [`Error::Setting`] when the name is not allowed.
    pub fn queue(&self, name: &str) -> Result<Queue> {
        let settings = &self.inner.settings;
        Ok(Queue::new(
            self.broker(name)?,
            settings.payload_bytes_max,
            settings.enqueue_timeout,
        ))
    }

    /// A worker for the queue `name`.
    ///
    /// # Errors
    /// [`Error::Setting`] when the name is not allowed.
    pub fn worker(&self, name: &str) -> Result<WorkerBuilder> {
        Ok(WorkerBuilder::new(
            self.broker(name)?,
            self.inner.settings.connect_timeout,
        ))
    }

    /// The queue `name`, to look at and to manage.
    ///
    /// # Errors
    /// [`Error::Setting`] when the name is not allowed.
    pub fn inspect(&self, name: &str) -> Result<Inspector> {
        let payload_bytes_max = self.inner.settings.payload_bytes_max;
        Ok(Inspector::new(self.broker(name)?, payload_bytes_max))
    }

    /// The schedules of the queue `name`.
    ///
    /// # Errors
    /// [`Error::Setting`] when the name is not allowed.
    pub fn schedules(&self, name: &str) -> Result<Schedules> {
        let settings = &self.inner.settings;
        Ok(Schedules::new(
            self.broker(name)?,
            settings.payload_bytes_max,
        ))
    }

    /// The names of all queues that have schedules, sorted. It looks for them as [`Millstream::queues`] does.
    ///
    /// # Errors
    /// As [`Millstream::queues`].
    pub async fn queues_with_schedules(&self) -> Result<Vec<String>> {
        self.queues_with("cron").await
    }

    /// An audit of the server and its queues; see [`crate::inspect::Doctor`].
    pub fn doctor(&self) -> crate::inspect::Doctor {
        crate::inspect::Doctor::new(self.clone())
    }

    pub(crate) fn redis(&self) -> &Redis {
        &self.inner.redis
    }

    /// The names of all queues that jobs were ever put into, sorted. Looks through the keys of the server in small steps,
    /// so it takes a while on one with millions of keys and disturbs nobody. On a cluster it looks at each node.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] or [`Error::Refused`] when Redis cannot be asked.
    pub async fn queues(&self) -> Result<Vec<String>> {
        self.queues_with("stats").await
    }

    /// The queues that have a key with this last part.
    async fn queues_with(&self, suffix: &str) -> Result<Vec<String>> {
        let (head, tail) = Keys::around_queue(&self.inner.settings.namespace, suffix);
        let patience = Patience::brief(self.inner.settings.connect_timeout);
        let name = |key: &String| Some(key.strip_prefix(&head)?.strip_suffix(&tail)?.to_owned());
        let pattern = format!("{head}*{tail}");
        let mut queues = Vec::new();
        let mut scan = self.inner.redis.scan_all(pattern, patience);
        while let Some(keys) = scan.next().await? {
            queues.extend(keys.iter().filter_map(name));
        }
        // A scan may show a key twice.
        queues.sort_unstable();
        queues.dedup();
        Ok(queues)
    }

    /// Asks Redis whether it answers and takes writes, waiting at most `timeout`.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] when it does not answer, [`Error::Refused`] when it takes no writes.
    pub async fn check_writable(&self, timeout: Duration) -> Result<()> {
        let key = format!("{}:health", self.inner.settings.namespace);
        let args = vec![key.into(), "1".into(), "PX".into(), "1000".into()];
        let check = self
            .inner
            .redis
            .command("SET", args, Patience::brief(Duration::ZERO));
        match tokio::time::timeout(timeout, check).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Error::Ambiguous {
                operation: "SET",
                waited: timeout,
                reason: "no answer".into(),
            }),
        }
    }

    pub(crate) fn broker(&self, name: &str) -> Result<Broker> {
        let settings = &self.inner.settings;
        Ok(Broker::new(
            self.inner.redis.clone(),
            &settings.namespace,
            &QueueName::new(name)?,
            settings.seals.get(name).cloned().unwrap_or_default(),
        ))
    }
}
