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
pub(crate) mod reply;
pub(crate) mod script;
pub(crate) mod server;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fred::clients::{Client, SubscriberClient};
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, LuaInterface, PubsubInterface};
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
use fault::{Fault, away, fault_of, is_demoted};
use link::Link;
pub(crate) use listener::Listener;
use nodes::slot_of;
pub(crate) use nodes::{Node, Scan};
use reader::{RawEntry, entries_of};
use reply::{Reply, bytes_of, number_of};
use script::Call;

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

/// Least time that an answer is waited for: below it nothing but luck would bring one.
const ANSWER_MIN: Duration = Duration::from_millis(100);

/// Longest pause between two tries of a call.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Longest pause between two looks for a connection.
const AWAY_LOOK: Duration = Duration::from_millis(100);

/// Longest pause between two times that connections are made anew.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

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
    link: Link,
    /// For the scripts, where there is one.
    direct: Option<Direct>,
    /// Of the client library's connection, and of the one for the scripts: that one of them answers is no sign of life of the other.
    silences: [Silence; 2],
    reviving: AtomicBool,
    counted: Calls,
}

/// What a connection has not answered since its last answer.
#[derive(Default)]
struct Silence {
    /// Commands that were waited for as long as any.
    calls: AtomicU32,
    /// When the first command was sent.
    first: Mutex<Option<Instant>>,
    /// Whether there is a first, so that an answer hardly ever has to lock.
    any: AtomicBool,
}

impl Silence {
    fn first(&self) -> MutexGuard<'_, Option<Instant>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when; since `sent`, if this is the first command.
    fn since(&self, sent: Instant) -> Instant {
        let mut first = self.first();
        self.any.store(true, Ordering::Relaxed);
        *first.get_or_insert(sent)
    }

    fn end(&self) {
        self.calls.store(0, Ordering::Relaxed);
        if self.any.load(Ordering::Relaxed) {
            let mut first = self.first();
            self.any.store(false, Ordering::Relaxed);
            *first = None;
        }
    }
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

    /// Sends once. `by_text`: the server does not know the script.
    async fn send(
        &self,
        request: &Request,
        by_text: bool,
    ) -> std::result::Result<Value, FredError> {
        if let (Request::Script(call), Some(direct)) = (request, &self.inner.direct) {
            let pipe = self.pipe_of(direct).await?;
            let answer = pipe.write().command(|out| call.encode(by_text, out))?;
            let frame = answer.within(config::COMMAND_TIMEOUT).await;
            return frame.map(|frame| frame.value());
        }
        let client = self.inner.link.client();
        if !client.is_connected() {
            return Err(away());
        }
        match request {
            Request::Script(Call { script, keys, args }) if by_text => {
                Box::pin(client.eval(script.source, keys.clone(), args.clone())).await
            }
            Request::Script(Call { script, keys, args }) => {
                client
                    .evalsha(script.sha(), keys.clone(), args.clone())
                    .await
            }
            // In boxes, for these are rare and their futures large: every call would carry them about.
            Request::Durable(call, wait, numbers) => {
                Box::pin(send_durably(&client, call, by_text, wait, numbers)).await
            }
            Request::Command(command, args) => client.custom(command.clone(), args.clone()).await,
        }
    }

    /// Sends once and waits no longer than `left`, unless that is nothing: whoever has no patience asks once, with a
    /// command's time.
    async fn send_within(
        &self,
        left: Duration,
        request: &Request,
        by_text: bool,
    ) -> std::result::Result<Value, FredError> {
        let sent = self.send(request, by_text);
        // In one place: it is large, and would else be there once for each of the two ways to wait.
        tokio::pin!(sent);
        // A whole command's time, give or take what has passed since: the client's own clock tells of a dead connection.
        if left.is_zero() || left + ANSWER_MIN >= config::COMMAND_TIMEOUT {
            return sent.await;
        }
        match tokio::time::timeout(left.max(ANSWER_MIN), sent).await {
            Ok(answer) => answer,
            // Not of the kind that is counted: it was the caller who had little time. How long this goes on counts.
            Err(_) => Err(FredError::new(ErrorKind::Canceled, "no answer in time")),
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
            let sent_after = began.elapsed();
            let left = patience.total.saturating_sub(sent_after);
            self.inner.counted.sent();
            // On the heap: what the client keeps during a call is large, and would be in everyone who calls.
            let sent = Box::pin(self.send_within(left, request, by_text));
            let error = match sent.await {
                Ok(value) => {
                    let counted = &self.inner.counted;
                    counted.answered(began.elapsed().saturating_sub(sent_after));
                    self.silence_of(request).end();
                    return Ok(value);
                }
                Err(error) => error,
            };
            let reason = error.details().to_owned();
            let fault = fault_of(&error);
            self.inner.counted.failed(fault.name());
            let mut is_away = false;
            tracing::debug!(operation, ?fault, reason, "redis call failed");
            self.heed(&error);
            match fault {
                Fault::NoScript if !by_text => {
                    by_text = true;
                    continue;
                }
                Fault::Away => is_away = true,
                Fault::Busy | Fault::NoScript => {}
                Fault::Unknown => {
                    perhaps_done = true;
                    self.note_unanswered(request, &error, began + sent_after);
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
                    false if is_away => Error::Unreachable {
                        server: self.address().shown.clone(),
                        reason,
                    },
                    false => Error::Refused { operation, reason },
                });
            }
            tokio::time::sleep(jittered(pause)).await;
            // To see whether there is a connection again costs nothing.
            let longest = if is_away { AWAY_LOOK } else { PAUSE_MAX };
            pause = (pause * 2).min(longest);
        }
    }

    /// `direct`'s connection to the server that this one leads to.
    async fn pipe_of(&self, direct: &Direct) -> std::result::Result<Arc<Pipe>, FredError> {
        direct.pipe(&self.inner.link).await
    }

    /// A server that was demoted, or that no longer knows us, says so to every call: then it is looked for anew. The client library does
    /// the same for what goes through it.
    fn heed(&self, error: &FredError) {
        if self.inner.direct.is_some() && is_demoted(error) {
            self.renew();
        }
    }

    /// Of the connection that `request` goes through.
    fn silence_of(&self, request: &Request) -> &Silence {
        let is_direct = matches!(request, Request::Script(_)) && self.inner.direct.is_some();
        &self.inner.silences[usize::from(is_direct)]
    }

    /// A connection that swallows commands shows nothing else: after two in a row a new one is made, or when none was answered for as
    /// long, whatever patience their callers had.
    fn note_unanswered(&self, request: &Request, error: &FredError, sent: Instant) {
        let calls = match error.kind() {
            ErrorKind::Timeout => 1,
            ErrorKind::Canceled => 0,
            _ => return,
        };
        let silence = self.silence_of(request);
        let unanswered = silence.calls.fetch_add(calls, Ordering::Relaxed) + calls;
        let is_long = silence.since(sent).elapsed() >= 2 * config::COMMAND_TIMEOUT;
        if (unanswered >= 2 || is_long) && self.renew() {
            tracing::warn!(
                server = self.address().shown,
                unanswered,
                "redis does not answer; connecting anew"
            );
        }
    }

    /// Makes new connections. `false`: they are in the making, or were made just now.
    fn renew(&self) -> bool {
        if self.inner.reviving.swap(true, Ordering::Relaxed) {
            return false;
        }
        let inner = Arc::clone(&self.inner);
        // Where the connection lives: the caller's runtime may end before.
        self.runtime().spawn(async move {
            inner.direct.iter().for_each(Direct::cut);
            inner.link.revive().await;
            inner.silences.iter().for_each(Silence::end);
            // A server that refuses everything is not better off for a hundred new connections a second.
            tokio::time::sleep(jittered(RENEW_PAUSE)).await;
            inner.reviving.store(false, Ordering::Relaxed);
        });
        true
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

/// Sends a script, and the command that waits for what it wrote, as one piece.
async fn send_durably(
    client: &Client,
    call: &Call,
    by_text: bool,
    wait: &'static str,
    numbers: &[Value],
) -> std::result::Result<Value, FredError> {
    let Call { script, keys, args } = call;
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
        .custom(CustomCommand::new(wait, hash, false), numbers.to_vec())
        .await?;
    let mut answers = pipeline.try_all::<Value>().await;
    // The job is stored: a server that refuses to wait has confirmed nothing, and that is no failure.
    if let [Ok(_), Err(error)] = answers.as_slice()
        && matches!(fault_of(error), Fault::Broken | Fault::Full)
    {
        tracing::warn!(
            reason = error.details(),
            "redis refuses {wait}; the job is in memory"
        );
        answers[1] = Ok(Value::Integer(0));
    }
    answers
        .into_iter()
        .collect::<std::result::Result<_, _>>()
        .map(Value::Array)
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
