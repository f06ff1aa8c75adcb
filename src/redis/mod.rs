//! The only room that knows the Redis client: connections, script calls, replies, and what to do when they fail.
//!
//! What the client would do by itself and must not: send a command again after a lost connection (it would run twice
//! without the caller knowing), wait for an answer for ever, or take a demoted server for a healthy one. So commands are
//! sent once, with a deadline, and this room alone decides to send again: every script is made to bear it.

pub(crate) mod reader;
pub(crate) mod reply;
pub(crate) mod script;
pub(crate) mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fred::clients::{Client, SubscriberClient};
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, LuaInterface, PubsubInterface};
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectError, ReconnectPolicy, TcpConfig,
};
use fred::types::{Builder, ClusterHash, CustomCommand, Value};

use socket2::TcpKeepalive;

use crate::config;
use crate::error::{Error, Result};
use crate::job::durability::Durability;
use crate::keys::Key;
use reply::{Reply, number_of};
use script::Call;

/// How long replicas or the disk are waited for, ms. Below [`config::COMMAND_TIMEOUT`], so that it is Redis who gives up.
const WAIT_MS: i64 = 1_000;

/// Where Redis is and how to connect, checked before anything is connected.
#[derive(Clone)]
pub(crate) struct Address {
    config: Config,
    /// For messages: no credentials.
    shown: String,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.shown)
    }
}

impl Address {
    /// Reads a URL: `redis://`, `rediss://`, `unix:`, `redis-cluster://`, `redis-sentinel://`, `valkey://`.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let shown = without_credentials(url);
        let refuse = |reason: String| Error::setting("redis-url", &shown, reason);
        let url = match url.strip_prefix("unix:") {
            Some(path) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                if !path.starts_with('/') {
                    return Err(refuse("write unix:/path/to/redis.sock".into()));
                }
                format!("redis+unix://{path}")
            }
            None => url.to_owned(),
        };
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        if !scheme.starts_with("redis") && !scheme.starts_with("valkey") {
            return Err(refuse(
                "write redis://host:port, rediss://host:port or unix:/path/to/redis.sock".into(),
            ));
        }
        if cfg!(not(feature = "tls"))
            && (scheme.starts_with("rediss") || scheme.starts_with("valkeys"))
        {
            return Err(refuse(
                "this build has no TLS: enable the feature `tls`".into(),
            ));
        }
        let mut config =
            Config::from_url(&url).map_err(|error| refuse(error.details().to_owned()))?;
        config.fail_fast = true;
        Ok(Self { config, shown })
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// A client's settings. `command_timeout` zero means none, for readers that block.
    fn builder(&self, command_timeout: Duration) -> Builder {
        let mut builder = Builder::from_config(self.config.clone());
        builder.set_performance_config(PerformanceConfig {
            default_command_timeout: command_timeout,
            broadcast_channel_capacity: 1024,
            ..PerformanceConfig::default()
        });
        builder.set_connection_config(ConnectionConfig {
            connection_timeout: config::CONNECT_TIMEOUT_DEFAULT,
            internal_command_timeout: config::CONNECT_TIMEOUT_DEFAULT,
            max_command_attempts: 1,
            reconnect_on_auth_error: true,
            tcp: TcpConfig {
                nodelay: Some(true),
                keepalive: Some(
                    TcpKeepalive::new()
                        .with_time(Duration::from_secs(5))
                        .with_interval(Duration::from_secs(2)),
                ),
                user_timeout: Some(Duration::from_secs(5)),
                ..TcpConfig::default()
            },
            reconnect_errors: vec![
                ReconnectError::ReadOnly,
                ReconnectError::MasterDown,
                ReconnectError::Loading,
                ReconnectError::ClusterDown,
            ],
            ..ConnectionConfig::default()
        });
        // Full jitter is not to be had; half the first wait as jitter keeps a hundred workers apart.
        let mut policy = ReconnectPolicy::new_exponential(0, 50, 2_000, 2);
        policy.set_jitter(50);
        builder.set_policy(policy);
        builder
    }

    fn unreachable(&self, error: &FredError) -> Error {
        Error::Unreachable {
            server: self.shown.clone(),
            reason: error.details().to_owned(),
        }
    }
}

/// The URL without user, password and query.
fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .map_or(("", url), |(scheme, rest)| (scheme, rest));
    let rest = rest.split('?').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if scheme.is_empty() {
        format!("{host}{path}")
    } else {
        format!("{scheme}://{host}{path}")
    }
}

/// What a failed command means for the next step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The server does not know the script: send its text.
    NoScript,
    /// Not carried out, and worth another try soon.
    Busy,
    /// Not carried out, and not before somebody frees memory or disk, or a replica returns.
    Full,
    /// The stream or the consumer group is not there.
    NoGroup,
    /// Perhaps carried out.
    Unknown,
    /// Not carried out, and another try would end the same.
    Broken,
}

/// Reads Redis's error text. Old servers wrap script errors and proxies add prefixes, so it is searched, not matched at its start.
fn fault_of(error: &FredError) -> Fault {
    const TABLE: &[(&str, Fault)] = &[
        // First, because it quotes a key, and a key may be called anything.
        ("WRONGTYPE", Fault::Broken),
        ("NOSCRIPT", Fault::NoScript),
        ("NOGROUP", Fault::NoGroup),
        ("UNBLOCKED", Fault::NoGroup),
        ("LOADING", Fault::Busy),
        ("BUSY ", Fault::Busy),
        ("READONLY", Fault::Busy),
        ("MASTERDOWN", Fault::Busy),
        ("CLUSTERDOWN", Fault::Busy),
        ("TRYAGAIN", Fault::Busy),
        ("MOVED", Fault::Busy),
        ("max number of clients", Fault::Busy),
        ("OOM", Fault::Full),
        ("MISCONF", Fault::Full),
        ("NOREPLICAS", Fault::Full),
    ];
    let text = error.details();
    if let Some((_, fault)) = TABLE.iter().find(|(word, _)| text.contains(word)) {
        return *fault;
    }
    match error.kind() {
        ErrorKind::IO
        | ErrorKind::Timeout
        | ErrorKind::Canceled
        | ErrorKind::Routing
        | ErrorKind::Cluster => Fault::Unknown,
        ErrorKind::Backpressure => Fault::Busy,
        _ => Fault::Broken,
    }
}

/// Whether a call failed because the stream or its consumer group is not there.
pub(crate) fn is_no_group(error: &Error) -> bool {
    matches!(error, Error::Protocol { reason, .. } if reason.contains("NOGROUP"))
}

/// How long a call is repeated, and whether a full server is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the first try on.
    pub total: Duration,
    /// Goes on while Redis has no memory or disk to spare.
    pub waits_for_room: bool,
}

impl Patience {
    /// For callers who want an answer, good or bad.
    pub const fn brief(total: Duration) -> Self {
        Self {
            total,
            waits_for_room: false,
        }
    }

    /// For workers: what they have to say stays true however long Redis is away.
    pub const ENDLESS: Self = Self {
        total: Duration::from_secs(30 * 24 * 3600),
        waits_for_room: true,
    };
}

/// What is sent, kept until it is answered.
enum Request {
    Script(Call),
    /// A script, and a command that waits for what it wrote.
    Durable(Call, &'static str, Vec<Value>),
    Command(CustomCommand, Vec<Value>),
}

/// A connection for commands. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    address: Address,
    /// Commands in a row that were not answered in time.
    unanswered: AtomicU32,
    reconnecting: AtomicBool,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis({})", self.inner.address.shown)
    }
}

impl Redis {
    /// Connects within `timeout`; the connection heals itself afterwards. Lives on the current runtime.
    pub(crate) async fn connect(address: &Address, timeout: Duration) -> Result<Self> {
        let client = address
            .builder(config::COMMAND_TIMEOUT)
            .build()
            .map_err(|error| Error::setting("redis-url", address.shown(), error.details()))?;
        init(&client, address, timeout).await?;
        let inner = Inner {
            client,
            address: address.clone(),
            unanswered: AtomicU32::new(0),
            reconnecting: AtomicBool::new(false),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.inner.address
    }

    /// Runs a script, and runs it again while the answer is missing or Redis is busy, until `patience` ends.
    /// The script must bear being run twice: it carries a caller's number, or its effect is the same.
    pub(crate) async fn call(&self, call: Call, patience: Patience) -> Result<Reply> {
        debug_assert!(call.is_whole(), "{call:?} lacks a key or an argument");
        let operation = call.script.name;
        let value = self
            .repeat(operation, &Request::Script(call), patience)
            .await?;
        Reply::read(operation, value)
    }

    /// [`Redis::call`], then waits for replicas or the disk, for a second at most; returns the level that was reached.
    ///
    /// The wait is about what this connection wrote last, so both go out as one piece, and while it lasts everything else
    /// on the connection waits as well: use one that serves nothing else.
    pub(crate) async fn call_durably(
        &self,
        call: Call,
        durability: Durability,
        patience: Patience,
    ) -> Result<(Reply, Durability)> {
        let operation = call.script.name;
        let (command, numbers) = match durability {
            Durability::Memory => return Ok((self.call(call, patience).await?, durability)),
            Durability::Replicas(count) => ("WAIT", vec![count.into(), WAIT_MS.into()]),
            Durability::Fsync => ("WAITAOF", vec![1.into(), 0.into(), WAIT_MS.into()]),
        };
        let Value::Array(mut answers) = self
            .repeat(
                operation,
                &Request::Durable(call, command, numbers),
                patience,
            )
            .await?
        else {
            return Err(Error::Protocol {
                operation,
                reason: "two answers were expected".into(),
            });
        };
        let confirmed = match answers.pop() {
            Some(Value::Array(numbers)) => numbers.first().and_then(number_of),
            number => number.as_ref().and_then(number_of),
        };
        let reached = match (durability, confirmed.unwrap_or_default()) {
            (_, ..=0) => Durability::Memory,
            (Durability::Replicas(wanted), count) => {
                Durability::Replicas(u32::try_from(count).unwrap_or(u32::MAX).min(wanted))
            }
            (level, _) => level,
        };
        Ok((
            Reply::read(operation, answers.pop().unwrap_or(Value::Null))?,
            reached,
        ))
    }

    /// Runs a plain command that changes nothing, or the same however often it runs.
    pub(crate) async fn command(
        &self,
        name: &'static str,
        args: Vec<Value>,
        patience: Patience,
    ) -> Result<Value> {
        // The key, where there is one, stands behind the words of the command and decides the cluster node.
        let mut words = name.split(' ');
        let command = words.next().unwrap_or(name);
        let args: Vec<Value> = words.map(Value::from).chain(args).collect();
        let hash = if args.is_empty() {
            ClusterHash::Random
        } else {
            ClusterHash::Offset(name.matches(' ').count())
        };
        self.repeat(
            name,
            &Request::Command(CustomCommand::new(command, hash, false), args),
            patience,
        )
        .await
    }

    /// Makes a consumer group that begins with the stream's first entry, and the stream; no harm if both are there.
    pub(crate) async fn create_group(
        &self,
        stream: &Key,
        group: &'static str,
        patience: Patience,
    ) -> Result<()> {
        let args = vec![
            stream.as_str().into(),
            group.into(),
            "0".into(),
            "MKSTREAM".into(),
        ];
        match self.command("XGROUP CREATE", args, patience).await {
            Err(Error::Protocol { reason, .. }) if reason.contains("BUSYGROUP") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sends once. `by_text`: the server does not know the script.
    async fn send(
        &self,
        request: &Request,
        by_text: bool,
    ) -> std::result::Result<Value, FredError> {
        let client = &self.inner.client;
        match request {
            Request::Script(Call { script, keys, args }) if by_text => {
                client.eval(script.source, keys.clone(), args.clone()).await
            }
            Request::Script(Call { script, keys, args }) => {
                client
                    .evalsha(script.sha(), keys.clone(), args.clone())
                    .await
            }
            Request::Durable(Call { script, keys, args }, wait, numbers) => {
                let pipeline = client.pipeline();
                let (verb, body) = if by_text {
                    ("EVAL", script.source)
                } else {
                    ("EVALSHA", script.sha())
                };
                let mut whole = vec![Value::from(body), Value::from(keys.len().to_string())];
                whole.extend(keys.iter().cloned().map(Value::from));
                whole.extend(args.iter().cloned());
                let hash = ClusterHash::Offset(2);
                let _: () = pipeline
                    .custom(CustomCommand::new(verb, hash.clone(), false), whole)
                    .await?;
                let hash = keys.first().map_or(ClusterHash::Random, |key| {
                    ClusterHash::Custom(key.cluster_hash())
                });
                let _: () = pipeline
                    .custom(CustomCommand::new(*wait, hash, false), numbers.clone())
                    .await?;
                pipeline
                    .try_all::<Value>()
                    .await
                    .into_iter()
                    .collect::<std::result::Result<_, _>>()
                    .map(Value::Array)
            }
            Request::Command(command, args) => client.custom(command.clone(), args.clone()).await,
        }
    }

    async fn repeat(
        &self,
        operation: &'static str,
        request: &Request,
        patience: Patience,
    ) -> Result<Value> {
        let began = Instant::now();
        let (mut by_text, mut perhaps_done, mut pause) = (false, false, Duration::from_millis(10));
        loop {
            let error = match self.send(request, by_text).await {
                Ok(value) => {
                    self.inner.unanswered.store(0, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let reason = error.details().to_owned();
            let fault = fault_of(&error);
            tracing::debug!(operation, ?fault, reason, "redis call failed");
            match fault {
                Fault::NoScript if !by_text => {
                    by_text = true;
                    continue;
                }
                Fault::Busy | Fault::NoScript => {}
                Fault::Unknown => {
                    perhaps_done = true;
                    self.note_unanswered(&error);
                }
                Fault::Full if patience.waits_for_room || perhaps_done => {}
                Fault::Full => return Err(Error::Refused { operation, reason }),
                Fault::NoGroup | Fault::Broken => {
                    return Err(Error::Protocol { operation, reason });
                }
            }
            if began.elapsed() + pause >= patience.total {
                let waited = began.elapsed();
                return Err(match perhaps_done {
                    true => Error::Ambiguous {
                        operation,
                        waited,
                        reason,
                    },
                    false => Error::Refused { operation, reason },
                });
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// A connection that swallows commands shows nothing else: after two in a row a new one is made.
    fn note_unanswered(&self, error: &FredError) {
        if *error.kind() != ErrorKind::Timeout {
            return;
        }
        let unanswered = self.inner.unanswered.fetch_add(1, Ordering::Relaxed) + 1;
        if unanswered >= 2 && !self.inner.reconnecting.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                server = self.inner.address.shown,
                unanswered,
                "redis does not answer; connecting anew"
            );
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move {
                // Bounded, because a client stuck in a large write never comes back from this.
                let _ = tokio::time::timeout(
                    config::CONNECT_TIMEOUT_DEFAULT,
                    inner.client.force_reconnection(),
                )
                .await;
                inner.unanswered.store(0, Ordering::Relaxed);
                inner.reconnecting.store(false, Ordering::Relaxed);
            });
        }
    }

    /// Gives the server every script, so that the first calls need not send their texts. A server that was not reached or
    /// that forgets them gets the text with a call.
    pub(crate) async fn load_scripts(&self) {
        let load = |script: &'static script::Script| {
            let args = vec![Value::from(script.source)];
            self.command(
                "SCRIPT LOAD",
                args,
                Patience::brief(config::COMMAND_TIMEOUT),
            )
        };
        let failed = futures_util::future::join_all(script::ALL.map(load))
            .await
            .into_iter()
            .find_map(Result::err);
        if let Some(error) = failed {
            tracing::debug!(%error, "scripts are sent with the calls");
        }
    }

    /// Hears messages on `channel` until the receiver is dropped. They are hints: any may be lost.
    pub(crate) async fn listen(&self, channel: &str) -> Result<Listener> {
        let client: SubscriberClient = self
            .inner
            .address
            .builder(config::COMMAND_TIMEOUT)
            .build_subscriber_client()
            .map_err(|error| self.inner.address.unreachable(&error))?;
        client
            .init()
            .await
            .map_err(|error| self.inner.address.unreachable(&error))?;
        let messages = client.message_rx();
        client
            .subscribe(channel)
            .await
            .map_err(|error| self.inner.address.unreachable(&error))?;
        // Subscribes again after a lost connection.
        let manager = client.manage_subscriptions();
        Ok(Listener {
            client,
            messages,
            manager,
        })
    }
}

/// Hints from other processes.
pub(crate) struct Listener {
    client: SubscriberClient,
    messages: tokio::sync::broadcast::Receiver<fred::types::Message>,
    manager: tokio::task::JoinHandle<()>,
}

impl Listener {
    /// The next hint; an empty one when some were missed.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            match self.messages.recv().await {
                Ok(message) => {
                    return reply::text_of(&message.value)
                        .unwrap_or_default()
                        .to_owned();
                }
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => return String::new(),
                // The client is gone for good: nothing more will come.
                Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                    std::future::pending().await
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.manager.abort();
        let client = self.client.clone();
        tokio::spawn(async move { client.quit().await });
    }
}

/// Connects for the first time.
async fn init<C: ClientLike>(client: &C, address: &Address, timeout: Duration) -> Result<()> {
    match tokio::time::timeout(timeout, client.init()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(address.unreachable(&error)),
        Err(_) => Err(Error::Unreachable {
            server: address.shown.clone(),
            reason: format!("no answer within {}", humantime::format_duration(timeout)),
        }),
    }
}

/// Between half and all of `pause`.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * luck())
}

/// Uniform in `0.0..1.0`. Random enough to keep machines apart, which is all that jitter needs.
pub(crate) fn luck() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(random) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_show() {
        for (url, shown) in [
            (
                "redis://user:hunter2@db:6379/1?password=hunter2",
                "redis://db:6379/1",
            ),
            ("redis://:hunt@er2@db", "redis://db"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock"),
            ("hunter2@db", "db"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
        let error = Address::parse("http://user:hunter2@db")
            .unwrap_err()
            .to_string();
        assert!(
            !error.contains("hunter2") && error.contains("redis://host:port"),
            "{error}"
        );
    }

    #[test]
    fn urls_of_the_contract_are_read() {
        for url in [
            "redis://db",
            "unix:/run/redis.sock",
            "unix:///run/redis.sock",
            "redis-cluster://a:1",
            "redis-sentinel://a:1/0?sentinelServiceName=m",
        ] {
            Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        }
        for url in ["", "6379", "unix:redis.sock", "postgres://db"] {
            assert!(Address::parse(url).is_err(), "{url:?} was accepted");
        }
    }

    #[test]
    fn redis_errors_are_told_apart_wherever_the_word_stands() {
        let fault = |text: &str| fault_of(&FredError::new(ErrorKind::Unknown, text.to_owned()));
        for (text, expected) in [
            ("NOSCRIPT No matching script.", Fault::NoScript),
            (
                "ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write",
                Fault::Busy,
            ),
            ("UNBLOCKED the stream key no longer exists", Fault::NoGroup),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Fault::Full,
            ),
            ("WRONGTYPE Operation against a key", Fault::Broken),
            ("ERR max number of clients reached", Fault::Busy),
        ] {
            assert_eq!(fault(text), expected, "{text}");
        }
        assert_eq!(
            fault_of(&FredError::new(ErrorKind::Timeout, "")),
            Fault::Unknown
        );
    }
}
