//! A running inbox on a Redis of its own, and how to wait.

#[cfg(all(feature = "otel", feature = "cli"))]
pub(crate) mod collector;
pub(crate) mod http;
#[cfg(feature = "cli")]
pub(crate) mod program;
pub(crate) mod receiver;
pub(crate) mod senders;
pub(crate) mod target;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use millstream::gateway::source::{SchemeSettings, SourceSettings};
use millstream::gateway::{Gateway, GatewaySettings, LiveSecrets};
use millstream::inspect::{Inspector, JobView, Stats};
use millstream::private_redis::{Options, Persistence, PrivateRedis};
use millstream::{JobId, Millstream, WorkerHealth};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use http::{Answer, Connection};
use senders::Delivery;

/// Far longer than anything here takes on a busy machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// In which a webhook is answered, whatever Redis does: below the 5 s of the shortest-tempered senders.
pub(crate) const ANSWERED_WITHIN: Duration = Duration::from_secs(4);
/// The queue of every test. Each has a Redis of its own.
pub(crate) const QUEUE: &str = "webhooks";

/// A Redis, a client of it, and whatever gateways a test starts.
pub(crate) struct Place {
    pub(crate) client: Millstream,
    // After the client, so that it is dropped last.
    pub(crate) redis: PrivateRedis,
}

impl Place {
    /// A Redis that forgets everything when it is killed.
    pub(crate) async fn new() -> Self {
        Self::on(Persistence::None).await
    }

    /// A Redis that comes back with everything that it answered for.
    pub(crate) async fn durable() -> Self {
        Self::on(Persistence::AofAlways).await
    }

    /// One whose URL has room for a password.
    pub(crate) async fn over_tcp() -> Self {
        Self::with(Options {
            tcp: true,
            ..Options::default()
        })
        .await
    }

    async fn on(persistence: Persistence) -> Self {
        Self::with(Options {
            persistence,
            ..Options::default()
        })
        .await
    }

    async fn with(options: Options) -> Self {
        let redis = PrivateRedis::start(options).unwrap();
        let client = Millstream::connect(&redis.url()).await.unwrap();
        Self { client, redis }
    }

    /// Has Redis itself carry out a command that is answered in one line.
    pub(crate) fn command(&self, command: &str) {
        let mut redis = UnixStream::connect(self.redis.socket()).unwrap();
        redis
            .write_all(format!("{command}\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        BufReader::new(redis).read_line(&mut answer).unwrap();
        assert!(!answer.starts_with('-'), "{command}: {answer}");
    }

    pub(crate) async fn gateway(&self) -> Inbox {
        self.gateway_with(Vec::new(), |_| {}).await
    }

    /// A gateway with all sources of [`senders`], and a connection to Redis of its own, as another process has.
    pub(crate) async fn gateway_with(
        &self,
        workers: Vec<WorkerHealth>,
        change: impl FnOnce(&mut GatewaySettings),
    ) -> Inbox {
        let mut settings = GatewaySettings::new(([127, 0, 0, 1], 0).into());
        settings.sources = senders::sources();
        change(&mut settings);
        let client = Millstream::connect(&self.redis.url()).await.unwrap();
        let gateway = Gateway::bind(settings, client, workers).await.unwrap();
        let (address, secrets) = (gateway.local_addr(), gateway.secrets());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(gateway.run(shutdown.clone()));
        Inbox {
            address,
            secrets,
            shutdown,
            running,
        }
    }

    pub(crate) fn inspect(&self) -> Inspector {
        self.client.inspect(QUEUE).unwrap()
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.inspect().stats().await.unwrap()
    }

    /// The only job there is, with its payload.
    pub(crate) async fn only_job(&self) -> JobView {
        let jobs = self.inspect().list(None, 10).await.unwrap();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        assert_eq!(self.stats().await.enqueued_total, 1);
        self.job(jobs[0].id.as_str()).await
    }

    pub(crate) async fn job(&self, id: &str) -> JobView {
        self.inspect().show(&JobId::from(id)).await.unwrap()
    }

    pub(crate) async fn assert_nothing_is_stored(&self) {
        assert_eq!(self.inspect().list(None, 10).await.unwrap(), []);
        assert_eq!(self.stats().await.enqueued_total, 0);
    }
}

/// One running gateway.
pub(crate) struct Inbox {
    pub(crate) address: SocketAddr,
    pub(crate) secrets: LiveSecrets,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<millstream::Result<()>>,
}

impl Inbox {
    pub(crate) async fn connect(&self) -> Connection {
        Connection::to(self.address).await
    }

    /// The answer to one request on a connection of its own.
    pub(crate) async fn ask(&self, request: &[u8]) -> Answer {
        let mut connection = self.connect().await;
        connection.send(request).await;
        connection.answer().await
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery) -> Answer {
        self.ask(&delivery.request()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(&http::get(path)).await
    }

    /// Delivers until it is stored, as a sender does; returns the last answer.
    pub(crate) async fn deliver_until_stored(&self, delivery: &Delivery) -> Answer {
        let began = Instant::now();
        loop {
            let answer = self.deliver(delivery).await;
            if answer.status == 200 {
                return answer;
            }
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(began.elapsed() < PATIENCE, "still {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn stopped(self) {
        let ended = timeout(PATIENCE, self.running).await;
        ended
            .expect("the gateway ends")
            .expect("no panic")
            .expect("no error");
    }
}

/// A source that signs as Shopify does, with these secrets.
pub(crate) fn shopify_source<const N: usize>(secrets: [&str; N]) -> SourceSettings {
    SourceSettings::new(SchemeSettings::Shopify, secrets, QUEUE)
}

/// Asks again until the answer is yes; for what Redis has no event for.
pub(crate) async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
