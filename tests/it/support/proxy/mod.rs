//! A proxy between clients and a server that knows the protocol, and so can do to one command or script what a bad network
//! or a bad server does: see [`Fault`] for the list and [`Rule`] for the choice.

mod frame;
mod pass;
mod rule;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use millstream::private_redis::PrivateRedis;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use rule::{Fault, Hits, Rule};

/// A port that leads to a server, as long as nothing is wrong. Closed when it is dropped.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What all connections go by.
struct Shared {
    /// The server's port.
    target: AtomicU16,
    refuses: AtomicBool,
    /// Connections so far; the next one's number.
    attempts: AtomicU64,
    /// Connections with lower numbers swallow everything.
    dark_below: AtomicU64,
    /// Connections with lower numbers are cut.
    cut_below: watch::Sender<u64>,
    rules: Mutex<Vec<rule::Armed>>,
    /// How often each name was asked for.
    seen: Mutex<HashMap<String, u64>>,
}

impl Proxy {
    /// A way to `redis`, which must listen on a port.
    pub(crate) fn to(redis: &PrivateRedis) -> Self {
        Self::with_buffer(redis, None)
    }

    /// The same, but little fits between the client and us: a large request is only out when we have read it.
    pub(crate) fn narrow(redis: &PrivateRedis) -> Self {
        Self::with_buffer(redis, Some(64 << 10))
    }

    fn with_buffer(redis: &PrivateRedis, bytes: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = bytes {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(redis.port().expect("a server with a port")),
            refuses: AtomicBool::new(false),
            attempts: AtomicU64::new(0),
            dark_below: AtomicU64::new(0),
            cut_below: watch::Sender::new(0),
            rules: Mutex::default(),
            seen: Mutex::default(),
        });
        Self {
            port: listener.local_addr().unwrap().port(),
            accepting: tokio::spawn(accept(listener, Arc::clone(&shared))),
            shared,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Puts a fault in wait. The rules that were there come first.
    pub(crate) fn arm(&self, rule: Rule) -> Hits {
        let (armed, hits) = rule::Armed::new(rule);
        self.shared.rules().push(armed);
        hits
    }

    /// From now on nothing new goes wrong. Connections that swallow, or are stuck, stay what they are.
    pub(crate) fn heal(&self) {
        self.shared.rules().clear();
        self.refuse(false);
    }

    /// The connections there are swallow everything, both ways, and stay open; new ones work.
    pub(crate) fn darken(&self) {
        let next = self.attempts();
        self.shared.dark_below.store(next, Ordering::SeqCst);
    }

    /// Cuts the connections there are; new ones work.
    pub(crate) fn cut(&self) {
        let next = self.attempts();
        self.shared.cut_below.send_replace(next);
    }

    /// New connections end where they began.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }

    /// New connections lead to this server, as after a failover behind a stable address.
    pub(crate) fn retarget(&self, redis: &PrivateRedis) {
        let port = redis.port().expect("a server with a port");
        self.shared.target.store(port, Ordering::SeqCst);
    }

    /// Connections that clients tried to make, refused ones included.
    pub(crate) fn attempts(&self) -> u64 {
        self.shared.attempts.load(Ordering::SeqCst)
    }

    /// How often clients sent what goes by this name.
    pub(crate) fn seen(&self, name: &str) -> u64 {
        let seen = self.shared.seen.lock().expect("no panic here");
        seen.get(name).copied().unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.cut_below.send_replace(u64::MAX);
    }
}

impl Shared {
    fn rules(&self) -> std::sync::MutexGuard<'_, Vec<rule::Armed>> {
        self.rules.lock().expect("no panic here")
    }

    fn fault_for(&self, names: &[String]) -> Option<Fault> {
        let mut seen = self.seen.lock().expect("no panic here");
        for name in names {
            *seen.entry(name.clone()).or_default() += 1;
        }
        drop(seen);
        let mut rules = self.rules();
        rules.iter_mut().find_map(|rule| rule.fault_for(names))
    }

    fn is_dark(&self, serial: u64) -> bool {
        serial < self.dark_below.load(Ordering::SeqCst)
    }

    async fn cut_off(&self, serial: u64) {
        let mut cut_below = self.cut_below.subscribe();
        let cut = cut_below.wait_for(|below| serial < *below).await;
        cut.expect("the proxy outlives its connections");
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let serial = shared.attempts.fetch_add(1, Ordering::SeqCst);
        if shared.refuses.load(Ordering::SeqCst) {
            pass::reset(client);
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let target = shared.target.load(Ordering::SeqCst);
            match TcpStream::connect(("127.0.0.1", target)).await {
                Ok(server) => {
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    pass::pass(client, server, shared, serial).await;
                }
                // No server there: the client is told the same way.
                Err(_) => pass::reset(client),
            }
        });
    }
}
