//! Accepting, serving and ending connections.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
#[cfg(feature = "tls")]
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::quick::Left;
use super::socket::Socket;
use super::{Inner, Lane, Seldom, Server};
use crate::gateway::Store;
#[cfg(feature = "tls")]
use crate::gateway::tls::Certificate;

/// Connections beyond the limit, for probes: they must get through when all others are taken. One more makes the oldest of them
/// go, or whoever took them all and stays silent would keep probes out.
const SPARE_CONNECTIONS: usize = 64;
/// How long such a connection may take over everything.
const SPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest header section, bytes; beyond it 431. Providers send 1 to 2 KiB.
pub(super) const HEADER_BYTES_MAX: usize = 16 << 10;
/// Most headers; beyond it 431.
const HEADERS_MAX: usize = 100;
/// Read buffer of a connection at its largest, bytes.
const READ_BUFFER_MAX: usize = 64 << 10;
/// After this a connection is asked to close, so that none is kept for ever by a client that does not read its answers.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Wait after a failed accept (out of file descriptors, mostly): time for others to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Closing a socket with unread bytes in it resets it, and the client may lose the answer; so a little is still read.
const LINGER: Duration = Duration::from_secs(1);
/// As much as that little may be, bytes.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// A connection as it was accepted.
struct Arrived {
    stream: TcpStream,
    /// With TLS: the certificate as it is now.
    #[cfg(feature = "tls")]
    acceptor: Option<TlsAcceptor>,
}

/// What ends connections, in the order in which it comes.
#[derive(Clone)]
struct Ending {
    /// Finish the request at hand, then close.
    finish: CancellationToken,
    /// Close now.
    cut: CancellationToken,
}

impl<S: Store> Server<S> {
    /// Serves until `shutdown` is cancelled, then ends as [`crate::gateway::Gateway::run`] says.
    pub(crate) async fn run(self, listener: TcpListener, shutdown: CancellationToken) {
        let limits = &self.inner.limits;
        let ending = Ending {
            finish: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        let connections = TaskTracker::new();
        let stopped = async {
            shutdown.cancelled().await;
            self.inner.health.stop();
            sleep(limits.drain_delay).await;
        };
        tokio::select! {
            () = stopped => {}
            () = self.accept(&listener, &connections, &ending) => {}
        }
        drop(listener);

        ending.finish.cancel();
        connections.close();
        if timeout(limits.shutdown_timeout, connections.wait())
            .await
            .is_err()
        {
            warn!(
                connections = connections.len(),
                "requests were cut off at the shutdown timeout; their senders got no answer"
            );
            ending.cut.cancel();
            connections.wait().await;
        }
    }

    /// Accepts for ever.
    async fn accept(&self, listener: &TcpListener, connections: &TaskTracker, ending: &Ending) {
        let main = Arc::new(Semaphore::new(self.inner.limits.connections_max));
        let mut spare: VecDeque<AbortHandle> = VecDeque::new();
        let troubles = Seldom::default();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) if concerns_one_client(&error) => continue,
                Err(error) => {
                    if troubles.now() {
                        warn!(%error, "cannot accept connections; trying again");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let inner = self.inner.clone();
            let stream = Arrived {
                stream,
                #[cfg(feature = "tls")]
                acceptor: self.certificate.as_ref().map(Certificate::acceptor),
            };
            if let Ok(permit) = main.clone().try_acquire_owned() {
                connections.spawn(inner.connection(
                    stream,
                    Lane::Main,
                    Some(permit),
                    ending.clone(),
                ));
                continue;
            }
            if troubles.now() {
                let limit = self.inner.limits.connections_max;
                warn!(limit, "the connection limit is reached");
            }
            spare.retain(|connection| !connection.is_finished());
            if spare.len() >= SPARE_CONNECTIONS
                && let Some(oldest) = spare.pop_front()
            {
                oldest.abort();
            }
            let connection = inner.connection(stream, Lane::Spare, None, ending.clone());
            spare.push_back(connections.spawn(connection).abort_handle());
        }
    }
}

impl<S: Store> Inner<S> {
    /// Serves one connection to its end. `_permit` is its place among the open ones.
    async fn connection(
        self: Arc<Self>,
        arrived: Arrived,
        lane: Lane,
        _permit: Option<OwnedSemaphorePermit>,
        ending: Ending,
    ) {
        let serve = async {
            // Answers are small and complete; waiting to fill a packet would only delay them.
            let _ = arrived.stream.set_nodelay(true);
            #[cfg(feature = "tls")]
            if let Some(acceptor) = arrived.acceptor {
                let greeting = timeout(self.header_timeout(lane), acceptor.accept(arrived.stream));
                match greeting.await {
                    // Boxed, or connections without TLS would be as large.
                    Ok(Ok(stream)) => Box::pin(self.serve(stream, lane, &ending.finish)).await,
                    Ok(Err(error)) => debug!(%error, "a client does not speak TLS as we do"),
                    Err(_) => debug!("a client takes too long over its TLS greeting"),
                }
                return;
            }
            self.serve(arrived.stream, lane, &ending.finish).await;
        };
        tokio::select! {
            biased;
            () = ending.cut.cancelled() => {}
            () = serve => {}
        }
    }

    /// How long a client may take over a request's headers.
    pub(super) fn header_timeout(&self, lane: Lane) -> Duration {
        match lane {
            Lane::Main => self.limits.header_timeout,
            Lane::Spare => self.limits.header_timeout.min(SPARE_TIMEOUT),
        }
    }

    async fn serve<C>(&self, mut stream: C, lane: Lane, finish: &CancellationToken)
    where
        C: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let expires = Instant::now()
            + match lane {
                Lane::Main => AGE_MAX,
                Lane::Spare => SPARE_TIMEOUT,
            };
        let begun = match lane {
            Lane::Main => match self.plainly(&mut stream, finish, expires).await {
                Left::NotPlain(begun) => begun,
                Left::Over { unread } => {
                    if unread {
                        let _ = timeout(LINGER, linger(stream)).await;
                    }
                    return;
                }
            },
            Lane::Spare => Bytes::new(),
        };
        // On the heap: it is large, and few connections need it.
        Box::pin(self.serve_any(stream, begun, lane, finish, expires)).await;
    }

    /// Serves whatever HTTP may come, of which `begun` has come already.
    async fn serve_any<C>(
        &self,
        stream: C,
        begun: Bytes,
        lane: Lane,
        finish: &CancellationToken,
        expires: Instant,
    ) where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let mut io = Socket::new(begun, stream, self.limits.write_timeout);
        let unread = AtomicBool::new(false);
        // In a box while there is a request: what answers it is larger than the rest of a connection, and most are idle.
        let service = service_fn(|request| Box::pin(self.answer(request, lane, &unread)));
        let ended = {
            let mut connection = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(self.header_timeout(lane))
                    .keep_alive(lane == Lane::Main)
                    .max_header_size(HEADER_BYTES_MAX)
                    .max_headers(HEADERS_MAX)
                    .max_buf_size(READ_BUFFER_MAX)
                    // Answers are small: one piece is written in less time than two.
                    .writev(false)
                    .serve_connection(&mut io, service)
            );
            let ended = tokio::select! {
                // First, so that a request that has begun already is one that may finish.
                biased;
                ended = connection.as_mut() => Some(ended),
                () = finish.cancelled() => None,
                () = sleep_until(expires) => None,
            };
            match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    let last = self.limits.shutdown_timeout.max(SPARE_TIMEOUT);
                    match timeout(last, connection).await {
                        Ok(ended) => ended,
                        Err(_) => return,
                    }
                }
            }
        };
        let cut_short = match &ended {
            Ok(()) => unread.load(Ordering::Relaxed),
            Err(error) => error.is_parse() || error.is_parse_too_large(),
        };
        if let Err(error) = ended {
            debug!(%error, "a connection ended early");
        }
        if cut_short {
            let _ = timeout(LINGER, linger(io.into_inner())).await;
        }
    }
}

/// Ends our half of the connection, and reads what the client had sent meanwhile until it ends its own.
async fn linger<C: AsyncRead + AsyncWrite + Unpin>(mut stream: C) -> io::Result<()> {
    stream.shutdown().await?;
    let mut discarded = 0;
    let mut buffer = vec![0; 4096]; // not an array: it would be part of every connection's task
    while discarded < LINGER_BYTES_MAX {
        match stream.read(&mut buffer).await? {
            0 => break,
            bytes => discarded += bytes,
        }
    }
    Ok(())
}

/// Errors of the connection that was to be accepted, rather than of the socket that accepts.
fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}
