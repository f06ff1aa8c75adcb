//! The only room that knows the Redis client: connections, script calls, replies, and what to do when they fail.
//!
//! What the client would do by itself and must not: send a command again after a lost connection (it would run twice
//! without the caller knowing), wait for an answer for ever, or take a demoted server for a healthy one. So commands are
//! sent once, with a deadline, and this room alone decides to send again: every script is made to bear it.

mod address;
mod direct;
mod fault;
mod link;
mod listener;
mod nodes;
pub(crate) mod reader;
mod renew;
pub(crate) mod reply;
pub(crate) mod script;
mod send;
pub(crate) mod server;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use fred::clients::SubscriberClient;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::{ClusterHash, ConnectHandle, CustomCommand, Value};
use tokio::runtime::Handle;

use crate::config;
use crate::error::{Error, Result};
use crate::job::durability::Durability;
use crate::keys::Key;
use crate::metrics::handles::Calls;
pub(crate) use address::Address;
use direct::{Direct, Pipe};
pub(crate) use fault::is_no_group;
use fault::{Fault, away, fault_of};
use link::Link;
pub(crate) use listener::Listener;
use nodes::slot_of;
pub(crate) use nodes::{Node, Scan};
use reader::{RawEntry, entries_of};
use renew::Silence;
use reply::{Reply, bytes_of, number_of};
use script::Call;
use send::{ANSWER_MIN, Request};

/// How long replicas or the disk are waited for, ms. Below [`config::COMMAND_TIMEOUT`], so that it is Redis who gives up.
const WAIT_MS: i64 = 1_000;

/// Nobody listens here; see [`Redis::unblock`].
const UNBLOCK_CHANNEL: &str = "millstream:unblock";

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

/// A connection for commands. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    /// For the scripts, where there is one.
    direct: Option<Direct>,
    /// Of the client library's connection, and of the one for the scripts: that one of them answers is no sign of life of the other.
    silences: [Silence; 2],
    reviving: AtomicBool,
    counted: Calls,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis({})", self.inner.link.address().shown)
    }
}

impl Redis {
    /// Connects within `timeout`; the connection heals itself afterwards. Lives on the current runtime.
    pub(crate) async fn connect(address: &Address, timeout: Duration) -> Result<Self> {
        let began = Instant::now();
        let counted = Calls::new();
        let direct = Direct::to(address, &counted);
        let redis = Self::with(address, timeout, direct, counted).await?;
        if let Some(direct) = &redis.inner.direct {
            // At once, so that the first call is as quick as any other.
            let left = timeout.saturating_sub(began.elapsed()).max(ANSWER_MIN);
            let connected = tokio::time::timeout(left, redis.pipe_of(direct)).await;
            let connected = connected.unwrap_or_else(|_| Err(away()));
            connected.map_err(|error| address.unreachable(&error))?;
        }
        Ok(redis)
    }

    /// [`Redis::connect`], for nothing but [`Redis::call_durably`]: a connection to wait on.
    pub(crate) async fn connect_to_wait(address: &Address, timeout: Duration) -> Result<Self> {
        Self::with(address, timeout, None, Calls::new()).await
    }

    async fn with(
        address: &Address,
        timeout: Duration,
        direct: Option<Direct>,
        counted: Calls,
    ) -> Result<Self> {
        let link = Link::connect(address, config::COMMAND_TIMEOUT, timeout, &counted);
        let inner = Inner {
            link: link.await?,
            direct,
            silences: Default::default(),
            reviving: AtomicBool::new(false),
            counted,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The runtime on which the connection lives; what must outlive its caller runs there.
    pub(crate) fn runtime(&self) -> Handle {
        self.inner.link.runtime()
    }

    pub(crate) fn address(&self) -> &Address {
        self.inner.link.address()
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
        // The key, where there is one, is the first argument and decides the cluster node.
        let key = args.first().cloned().and_then(bytes_of);
        let hash = key.map_or(ClusterHash::Random, slot_of);
        self.command_to(hash, name, args, patience).await
    }

    async fn command_to(
        &self,
        node: ClusterHash,
        name: &'static str,
        args: Vec<Value>,
        patience: Patience,
    ) -> Result<Value> {
        let mut words = name.split(' ');
        let command = CustomCommand::new(words.next().unwrap_or(name), node, false);
        let args = words.map(Value::from).chain(args).collect();
        let request = Request::Command(command, args);
        self.repeat(name, &request, patience).await
    }

    /// What was delivered to `consumer` and not settled, up to `count` of each stream.
    pub(crate) async fn read_own(
        &self,
        streams: &[&Key],
        group: &'static str,
        consumer: &str,
        count: usize,
        patience: Patience,
    ) -> Result<Vec<RawEntry>> {
        let first = streams.first().map(|key| key.0.clone());
        let node = slot_of(first.unwrap_or_default());
        let command = CustomCommand::new_static("XREADGROUP", node, false);
        let mut args: Vec<Value> = vec![
            "GROUP".into(),
            group.into(),
            consumer.into(),
            "COUNT".into(),
            count.to_string().into(),
            "STREAMS".into(),
        ];
        args.extend(streams.iter().map(|key| Value::from(key.as_str())));
        args.extend(streams.iter().map(|_| Value::from("0")));
        let reply = self
            .repeat("XREADGROUP", &Request::Command(command, args), patience)
            .await?;
        Ok(entries_of(reply, streams))
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

    /// Ends the blocked read of `read` on another connection, as its timeout would.
    ///
    /// The order follows a write. While writes are paused (`CLIENT PAUSE`, a failover), a read of a group is held back rather
    /// than blocked, and Redis 7.0 dies of an order to unblock such a one. The pause holds the write back as well, and with
    /// it the order behind it.
    pub(crate) async fn unblock(&self, connection: i64, read: &Key) {
        // To the node where the read waits.
        let node = slot_of(read.0.clone());
        let send = |name: &'static str| CustomCommand::new_static(name, node.clone(), false);
        let pipeline = self.inner.link.client().pipeline();
        let write: Vec<Value> = vec![UNBLOCK_CHANNEL.into(), "".into()];
        let order: Vec<Value> = vec!["UNBLOCK".into(), connection.into(), "TIMEOUT".into()];
        let queued: std::result::Result<(), FredError> = async {
            let _: () = pipeline.custom(send("PUBLISH"), write).await?;
            pipeline.custom(send("CLIENT"), order).await
        }
        .await;
        if queued.is_ok() {
            pipeline.try_all::<Value>().await;
        }
    }

    /// `direct`'s connection to the server that this one leads to.
    async fn pipe_of(&self, direct: &Direct) -> std::result::Result<Arc<Pipe>, FredError> {
        direct.pipe(&self.inner.link).await
    }

    /// Gives the server, or each node of a cluster, every script, so that the first calls need not send their texts. A server that was not reached or
    /// that forgets them gets the text with a call.
    pub(crate) async fn load_scripts(&self) {
        let nodes = self.nodes();
        let load = |node, script: &'static script::Script| {
            let args = vec![Value::from(script.source)];
            let patience = Patience::brief(config::COMMAND_TIMEOUT);
            self.command_at(node, "SCRIPT LOAD", args, patience)
        };
        let loads = nodes
            .iter()
            .flat_map(|node| script::ALL.iter().map(move |script| load(node, script)));
        // One after the other into a list: an array of so many futures is more than a test's stack holds.
        let failed = futures_util::future::join_all(loads)
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
            .address()
            .builder(config::COMMAND_TIMEOUT)
            .build_subscriber_client()
            .map_err(|error| self.address().unreachable(&error))?;
        init(&client, self.address(), config::CONNECT_TIMEOUT_DEFAULT).await?;
        let messages = client.message_rx();
        client
            .subscribe(channel)
            .await
            .map_err(|error| self.address().unreachable(&error))?;
        // Subscribes again after a lost connection.
        let manager = client.manage_subscriptions();
        Ok(Listener {
            client,
            messages,
            manager,
        })
    }
}

/// Connects for the first time.
async fn init<C: ClientLike + 'static>(
    client: &C,
    address: &Address,
    timeout: Duration,
) -> Result<ConnectHandle> {
    // `init` listens before it connects; to connect first and listen then would miss a quick server.
    match tokio::time::timeout(timeout, client.init()).await {
        Ok(Ok(task)) => return Ok(task),
        Ok(Err(error)) => return Err(address.unreachable(&error)),
        Err(_) => {}
    }
    // It would go on trying.
    let client = client.clone();
    tokio::spawn(async move {
        let _ = tokio::time::timeout(Duration::from_millis(500), client.quit()).await;
    });
    Err(Error::Unreachable {
        server: address.shown.clone(),
        reason: format!("no answer within {}", humantime::format_duration(timeout)),
    })
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
