//! HTTP in: takes signed webhooks, answers once their job is stored, and says whether this process is alive and ready.
//!
//! [`signature`] knows how senders sign, [`field`] where in a request something stands, [`source`] what job a request becomes,
//! `sources` all of them; [`api`] takes jobs from programs that have a token, `health` knows what the probes are told, `server` sockets,
//! deadlines and answers. What a job is and how it is stored is left to [`crate::Queue`].
//!
//! ```no_run
//! # async fn example() -> millstream::Result<()> {
//! use millstream::Millstream;
//! use millstream::gateway::source::{SchemeSettings, SourceSettings};
//! use millstream::gateway::{Gateway, GatewaySettings};
//! use tokio_util::sync::CancellationToken;
//!
//! let client = Millstream::connect("redis://127.0.0.1:6379").await?;
//! let mut settings = GatewaySettings::new(([127, 0, 0, 1], 8080).into());
//! let github = SourceSettings::new(SchemeSettings::Github, ["a long secret"], "webhooks");
//! settings.sources.push(("github".to_owned(), github)); // POST /webhooks/github
//!
//! let gateway = Gateway::bind(settings, client, Vec::new()).await?;
//! let shutdown = CancellationToken::new();
//! gateway.run(shutdown).await
//! # }
//! ```

pub mod api;
pub mod field;
mod health;
mod metrics_page;
pub mod rate;
mod server;
pub mod signature;
pub mod source;
mod sources;
#[cfg(test)]
mod stand_in;
#[cfg(feature = "tls")]
pub mod tls;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::client::Millstream;
use crate::config;
use crate::error::{Error, Result};
use crate::job::durability::Durability;
use crate::job::{Enqueued, NewJob, QueueName};
use crate::queue::Queue;
use crate::worker::{CircuitState, WorkerHealth};
use api::tokens::{TokenSettings, Tokens};
use health::Pool;
pub use metrics_page::MetricsPage;
use server::Server;
use source::{Source, SourceSettings};
use sources::Sources;

/// Where the gateway listens when nobody says.
pub const LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
/// How long a client may take over a request's headers, and be idle between two requests.
pub const HEADER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How long a client may take over a request's body.
pub const BODY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How slowly a body may come, bytes a second. Providers send a body in one go.
pub const BODY_RATE_MIN_DEFAULT: u64 = 1 << 10;
/// How long a client may leave an answer unread.
pub const WRITE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Longest of these timeouts.
pub const READ_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Open connections. Each costs a file descriptor and up to 12 KiB once it has sent a webhook, 26 KiB if that was no plain one.
pub const CONNECTIONS_DEFAULT: usize = 10_000;
/// Connections that may wait to be accepted, in a burst. The system may allow fewer: on Linux `net.core.somaxconn`, 4,096 by default.
const BACKLOG: u32 = 4_096;
/// Most open connections.
pub const CONNECTIONS_MAX: usize = 1_000_000;
/// Bodies held in memory at once, all requests together, bytes.
pub const BUFFERED_BYTES_DEFAULT: usize = 256 << 20;

/// How the gateway listens and what it accepts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GatewaySettings {
    /// The address to listen on; port 0 picks a free one. Default 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// Largest request body, bytes, up to 64 MiB; not more than the client's payload limit makes sense. Default 1 MiB.
    pub max_body: usize,
    /// The senders by name: `POST /webhooks/{name}`.
    pub sources: Vec<(String, SourceSettings)>,
    /// Who may put jobs into queues, by name: `POST /queues/{queue}/jobs`. Default: nobody.
    pub tokens: Vec<(String, TokenSettings)>,
    /// How long a client may take over a request's headers, and be idle between two requests. Default 10 s.
    pub header_timeout: Duration,
    /// How long a client may take over a request's body. Default 10 s.
    pub body_timeout: Duration,
    /// Bytes a second that a body has to bring, looked at every 2 s, so that a dribbling client is gone before the body timeout.
    /// Zero: any. Default 1 KiB.
    pub body_rate_min: u64,
    /// How long a client may leave an answer unread. Default 10 s.
    pub write_timeout: Duration,
    /// Open connections; those beyond are told to come back, and only health is answered. Default 10,000.
    pub connections_max: usize,
    /// Bodies in memory at once, all requests together, bytes; requests beyond are told to come back. Default 256 MiB.
    pub buffered_max: usize,
    /// How long requests may go on once the gateway is told to stop. Default 15 s.
    pub shutdown_timeout: Duration,
    /// How long the gateway goes on taking requests after it is told to stop, already answering `/health/ready` with 503, so that a
    /// load balancer looks elsewhere first. Default 0.
    pub drain_delay: Duration,
    /// What `GET /metrics` shows; without it there is no such route. Default: none.
    pub metrics: Option<MetricsPage>,
    /// The certificate that the gateway's own socket speaks TLS with. Default: none, for a proxy in front does that.
    #[cfg(feature = "tls")]
    pub tls: Option<tls::TlsSettings>,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self::new(LISTEN_DEFAULT)
    }
}

impl GatewaySettings {
    /// The defaults, without sources.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            max_body: config::BODY_BYTES_MAX_DEFAULT,
            sources: Vec::new(),
            tokens: Vec::new(),
            header_timeout: HEADER_TIMEOUT_DEFAULT,
            body_timeout: BODY_TIMEOUT_DEFAULT,
            body_rate_min: BODY_RATE_MIN_DEFAULT,
            write_timeout: WRITE_TIMEOUT_DEFAULT,
            connections_max: CONNECTIONS_DEFAULT,
            buffered_max: BUFFERED_BYTES_DEFAULT,
            shutdown_timeout: config::SHUTDOWN_TIMEOUT_DEFAULT,
            drain_delay: Duration::ZERO,
            metrics: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Checks everything that can be known before a socket is opened or Redis is asked.
    ///
    /// # Errors
    /// [`Error::Setting`] names the setting and its range; secrets are never shown.
    pub fn validate(&self) -> Result<()> {
        self.checked().map(drop)
    }

    /// Read from its files.
    #[cfg(feature = "tls")]
    fn certificate(&self) -> Result<Option<tls::Certificate>> {
        self.tls.clone().map(tls::Certificate::read).transpose()
    }

    /// The sources and the tokens, once everything was checked.
    fn checked(&self) -> Result<(Sources, Tokens)> {
        for (name, value, max) in [
            ("max_body", self.max_body, config::PAYLOAD_BYTES_MAX_MAX),
            ("max_connections", self.connections_max, CONNECTIONS_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(Error::setting(
                    format!("gateway.{name}"),
                    value,
                    format!("1 to {max}"),
                ));
            }
        }
        if self.buffered_max < self.max_body {
            return Err(Error::setting(
                "gateway.buffered_max",
                self.buffered_max,
                format!("at least max_body, {} bytes", self.max_body),
            ));
        }
        let milli = Duration::from_millis(1);
        let hour = Duration::from_secs(3600);
        for (name, value, min, max) in [
            (
                "header_timeout",
                self.header_timeout,
                milli,
                READ_TIMEOUT_MAX,
            ),
            ("body_timeout", self.body_timeout, milli, READ_TIMEOUT_MAX),
            ("write_timeout", self.write_timeout, milli, READ_TIMEOUT_MAX),
            (
                "shutdown_timeout",
                self.shutdown_timeout,
                Duration::ZERO,
                hour,
            ),
            ("drain", self.drain_delay, Duration::ZERO, hour),
        ] {
            if !(min..=max).contains(&value) {
                let text = humantime::format_duration;
                return Err(Error::setting(
                    format!("gateway.{name}"),
                    text(value),
                    format!("{} to {}", text(min), text(max)),
                ));
            }
        }
        #[cfg(feature = "tls")]
        self.certificate()?;
        let mut names = HashSet::new();
        for (name, _) in &self.sources {
            if !names.insert(name) {
                return Err(Error::setting(
                    "sources",
                    name.escape_debug(),
                    "named twice",
                ));
            }
        }
        let sources = self.sources.iter();
        let sources = sources
            .map(|(name, settings)| Source::new(name, settings))
            .collect::<Result<_>>()?;
        Ok((Sources::new(sources), Tokens::new(&self.tokens)?))
    }
}

/// A gateway that holds its socket. Clients wait in the backlog until [`Gateway::run`].
#[derive(Debug)]
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    server: Server<Redis>,
    secrets: LiveSecrets,
}

impl Gateway {
    /// Checks the settings and opens the socket. `workers` are the worker pools of this process, for `/health/ready`.
    ///
    /// # Errors
    /// [`Error::Setting`]: correct it. [`Error::Io`]: the address is taken or not ours.
    pub async fn bind(
        settings: GatewaySettings,
        client: Millstream,
        workers: Vec<WorkerHealth>,
    ) -> Result<Self> {
        let (sources, tokens) = settings.checked()?;
        let queues = sources
            .known()
            .iter()
            .map(|source| client.queue(source.queue().as_str()));
        let queues = queues.collect::<Result<_>>()?;
        let pools = workers.into_iter().map(|worker| Pool {
            queue: worker.queue().to_owned(),
            circuit: {
                let worker = worker.clone();
                Box::new(move || match worker.circuit() {
                    None | Some(CircuitState::Closed) => None,
                    Some(state) => Some(state.name()),
                })
            },
            problem: Box::new(move || worker.problem()),
        });
        let listener = listen(settings.listen)?;
        let address = listener.local_addr().map_err(|source| Error::Io {
            what: format!("cannot listen on {}", settings.listen),
            source,
        })?;
        #[cfg(feature = "tls")]
        let certificate = settings.certificate()?;
        let secrets = LiveSecrets {
            sources: sources.clone(),
            tokens: tokens.clone(),
            #[cfg(feature = "tls")]
            certificate: certificate.clone(),
        };
        let redis = Redis {
            client,
            queues,
            named: Mutex::default(),
        };
        let server = Server::new(&settings, sources, tokens, redis, pools.collect());
        #[cfg(feature = "tls")]
        let server = server.with_certificate(certificate);
        Ok(Self {
            listener,
            address,
            server,
            secrets,
        })
    }

    /// The secrets that this gateway verifies with, to be replaced while it runs.
    pub fn secrets(&self) -> LiveSecrets {
        self.secrets.clone()
    }

    /// The address that it listens on, with the port that was picked for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled; then `/health/ready` says 503, the socket is closed, and accepted requests finish, at the
    /// latest after the shutdown timeout. Whoever did not get a 200 by then has to send again.
    ///
    /// # Errors
    /// None at present: a socket that cannot accept for a while is tried again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        tracing::info!(address = %self.address, "the gateway listens");
        self.server.run(self.listener, shutdown).await;
        tracing::info!("the gateway has stopped");
        Ok(())
    }
}

/// The secrets of a gateway, which can be replaced while it serves: no request is dropped, and one that is being verified
/// passes by the old ones or by the new ones. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveSecrets {
    sources: Sources,
    tokens: Tokens,
    #[cfg(feature = "tls")]
    certificate: Option<tls::Certificate>,
}

impl LiveSecrets {
    /// Takes over the secrets and the tokens of `settings`, all of them or none, and nothing else of it; the certificate is
    /// read again from where it was, for connections that are made from then on. Says which sources of the running gateway were not
    /// found there and keep their secrets.
    ///
    /// # Errors
    /// [`Error::Setting`] names the setting at fault; everything stays as it was.
    pub fn replace(&self, settings: &GatewaySettings) -> Result<Vec<String>> {
        settings.validate()?;
        let mut missing = Vec::new();
        let mut read = Vec::new();
        for source in self.sources.known() {
            let mut found = settings.sources.iter();
            match found.find(|(name, _)| name == source.name()) {
                Some((_, settings)) => read.push((source, source.read_secrets(&settings.secrets)?)),
                None => missing.push(source.name().to_owned()),
            }
        }
        let tokens = self.tokens.read(&settings.tokens)?;
        #[cfg(feature = "tls")]
        if let Some(certificate) = &self.certificate {
            certificate.reload()?;
        }
        self.tokens.replace(tokens);
        self.sources.rekey(read);
        Ok(missing)
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listening = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // A restart need not wait for the last connections of the process before.
        socket.set_reuseaddr(cfg!(unix))?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listening().map_err(|source| Error::Io {
        what: format!("cannot listen on {address}"),
        source,
    })
}

/// What the gateway asks of what is behind it.
pub(crate) trait Store: Send + Sync + 'static {
    /// Stores the job of the source with this number; `Ok` means that it is stored. The caller bounds the wait.
    fn store(&self, source: usize, job: NewJob) -> impl Future<Output = Result<Enqueued>> + Send;

    /// Stores `jobs` in the queue of this name, whole or not at all; `Ok` means that they are stored.
    fn store_in(
        &self,
        queue: &QueueName,
        jobs: Vec<NewJob>,
        durability: Durability,
    ) -> impl Future<Output = Result<Vec<Enqueued>>> + Send;

    /// Asks whether jobs could be stored now.
    fn check_writable(&self, timeout: Duration) -> impl Future<Output = Result<()>> + Send;
}

/// Queues that are kept open for programs; each above plain durability has a connection of its own.
const OPEN_QUEUES_MAX: usize = 64;

/// What is behind the gateway.
#[derive(Debug)]
struct Redis {
    client: Millstream,
    /// One per source, in the order of the sources.
    queues: Vec<Queue>,
    /// Those that programs have named, so that calls of many requests travel together.
    named: Mutex<HashMap<(QueueName, Durability), Queue>>,
}

impl Redis {
    fn named(&self, queue: &QueueName, durability: Durability) -> Result<Queue> {
        // Nothing panics while it is held, and a map of queues stays valid anyway.
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (queue.clone(), durability);
        if let Some(queue) = named.get(&key) {
            return Ok(queue.clone());
        }
        let opened = self.client.queue(queue.as_str())?;
        let opened = match durability {
            Durability::Memory => opened,
            more => opened.with_durability(more),
        };
        if named.len() >= OPEN_QUEUES_MAX {
            // Whoever is at work with one has it still; the next request opens it again.
            named.clear();
        }
        named.insert(key, opened.clone());
        Ok(opened)
    }
}

impl Store for Redis {
    fn store(&self, source: usize, job: NewJob) -> impl Future<Output = Result<Enqueued>> + Send {
        self.queues[source].submit(job)
    }

    async fn store_in(
        &self,
        queue: &QueueName,
        jobs: Vec<NewJob>,
        durability: Durability,
    ) -> Result<Vec<Enqueued>> {
        let queue = self.named(queue, durability)?;
        match <[NewJob; 1]>::try_from(jobs) {
            // One by itself travels with those of other requests.
            Ok([job]) => Ok(vec![queue.enqueue(job).await?]),
            Err(jobs) => queue.enqueue_all(jobs).await,
        }
    }

    async fn check_writable(&self, timeout: Duration) -> Result<()> {
        self.client.check_writable(timeout).await
    }
}

#[cfg(test)]
mod tests {
    use super::source::SchemeSettings;
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let base = GatewaySettings::default;
        let shop = || {
            let settings = SourceSettings::new(SchemeSettings::Shopify, ["hunter2"], "webhooks");
            ("shop".to_owned(), settings)
        };
        let zero = Duration::ZERO;
        for (name, settings) in [
            (
                "gateway.max_body",
                GatewaySettings {
                    max_body: 0,
                    ..base()
                },
            ),
            (
                "gateway.max_body",
                GatewaySettings {
                    max_body: (64 << 20) + 1,
                    ..base()
                },
            ),
            (
                "gateway.max_connections",
                GatewaySettings {
                    connections_max: 0,
                    ..base()
                },
            ),
            (
                "gateway.buffered_max",
                GatewaySettings {
                    buffered_max: 1000,
                    ..base()
                },
            ),
            (
                "gateway.header_timeout",
                GatewaySettings {
                    header_timeout: zero,
                    ..base()
                },
            ),
            (
                "gateway.body_timeout",
                GatewaySettings {
                    body_timeout: Duration::MAX,
                    ..base()
                },
            ),
            (
                "gateway.write_timeout",
                GatewaySettings {
                    write_timeout: zero,
                    ..base()
                },
            ),
            (
                "gateway.shutdown_timeout",
                GatewaySettings {
                    shutdown_timeout: Duration::MAX,
                    ..base()
                },
            ),
            (
                "gateway.drain",
                GatewaySettings {
                    drain_delay: Duration::MAX,
                    ..base()
                },
            ),
            (
                "sources",
                GatewaySettings {
                    sources: vec![shop(), shop()],
                    ..base()
                },
            ),
        ] {
            match settings.validate() {
                Err(Error::Setting { name: refused, .. }) => assert_eq!(refused, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        let fine = GatewaySettings {
            sources: vec![shop()],
            ..base()
        };
        fine.validate().unwrap();
        assert!(!format!("{fine:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let first = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
