//! One connection, and a new one in its place when it cannot be revived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::ConnectHandle;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

use super::Address;
use super::init;
use crate::config;
use crate::error::{Error, Result};
use crate::metrics::handles::Calls;

/// How long the client library may take to begin a reconnection. It returns at once, or not at all: a client that is stuck
/// in a large write hears nothing.
const REVIVE: Duration = Duration::from_secs(1);

/// A connection that heals itself, and is replaced when it does not.
pub(super) struct Link {
    live: ArcSwap<Live>,
    address: Address,
    /// Zero: none, for blocking reads.
    command_timeout: Duration,
    counted: Counted,
}

/// Counts the connections that were made anew.
#[derive(Clone)]
struct Counted {
    calls: Calls,
    here: Arc<AtomicU64>,
}

impl Counted {
    fn reconnected(&self) {
        self.calls.reconnected();
        self.here.fetch_add(1, Ordering::Release);
    }
}

struct Live {
    client: Client,
    /// The client lives as long as this task, and not only as long as its handles.
    task: ConnectHandle,
    /// Where the connection was made.
    runtime: Handle,
    /// Counts the connections that the client makes anew.
    counting: AbortHandle,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.counting.abort();
        let (client, task) = (self.client.clone(), self.task.abort_handle());
        self.runtime.spawn(async move {
            let _ = tokio::time::timeout(Duration::from_millis(500), client.quit()).await;
            task.abort();
        });
    }
}

impl Live {
    async fn connect(
        address: &Address,
        command_timeout: Duration,
        timeout: Duration,
        counted: &Counted,
    ) -> Result<Self> {
        let client = address
            .builder(command_timeout)
            .build()
            .map_err(|error| Error::setting("redis-url", address.shown(), error.details()))?;
        // Listens from before the first connection, which is the one that does not count.
        let mut connections = client.reconnect_rx();
        let task = init(&client, address, timeout).await?;
        let runtime = Handle::current();
        let counted = counted.clone();
        let counting = runtime.spawn(async move {
            let _first = connections.recv().await;
            while !matches!(connections.recv().await, Err(RecvError::Closed)) {
                counted.reconnected();
            }
        });
        Ok(Self {
            client,
            task,
            runtime,
            counting: counting.abort_handle(),
        })
    }
}

impl Link {
    /// Connects within `timeout`. Lives on the current runtime.
    pub(super) async fn connect(
        address: &Address,
        command_timeout: Duration,
        timeout: Duration,
        counted: &Calls,
    ) -> Result<Self> {
        let counted = Counted {
            calls: counted.clone(),
            here: Arc::default(),
        };
        let live = Live::connect(address, command_timeout, timeout, &counted).await?;
        Ok(Self {
            live: ArcSwap::from_pointee(live),
            address: address.clone(),
            command_timeout,
            counted,
        })
    }

    /// The connection as it is now.
    pub(super) fn client(&self) -> Client {
        self.live.load().client.clone()
    }

    /// How often it was made anew. What it led to before may be another server.
    pub(super) fn generation(&self) -> u64 {
        self.counted.here.load(Ordering::Acquire)
    }

    /// The runtime on which the connection lives; what must outlive its caller runs there.
    pub(super) fn runtime(&self) -> Handle {
        self.live.load().runtime.clone()
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Whether there is a connection to send by.
    pub(super) fn is_connected(&self) -> bool {
        let live = self.live.load();
        !live.task.is_finished() && live.client.is_connected()
    }

    /// Whether the client has given up, which it does when a node of a cluster, whose slot moves, sends a command on to another node. It
    /// goes on to say that it is connected, and whatever is sent by it waits for ever.
    pub(super) fn has_ended(&self) -> bool {
        self.live.load().task.is_finished()
    }

    /// Makes a new connection, for one that no longer answers: within the client if it still listens, else with a new one.
    /// Bounded. Where there is no connection, the client is making one already, in its own time.
    pub(super) async fn revive(&self) {
        if !self.has_ended() {
            if !self.client().is_connected() {
                return;
            }
            let begun = tokio::time::timeout(REVIVE, self.client().force_reconnection()).await;
            if matches!(begun, Ok(Ok(()))) {
                return;
            }
        }
        let timeout = config::CONNECT_TIMEOUT_DEFAULT;
        let counted = &self.counted;
        match Live::connect(&self.address, self.command_timeout, timeout, counted).await {
            Ok(live) => {
                tracing::warn!(
                    server = self.address.shown(),
                    "a connection that could not be revived was replaced"
                );
                self.live.store(live.into());
                counted.reconnected();
            }
            Err(error) => tracing::debug!(%error, "no new connection yet"),
        }
    }
}
