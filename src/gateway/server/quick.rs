//! A connection as long as its requests are plain ones: see [`plain`].
//!
//! It is a task with one small buffer and one timer. Whatever else comes is left to hyper, with what has come of it.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::http::request::Parts;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::access::Access;
use super::alarm::Alarm;
use super::body::Arriving;
use super::plain::{self, Seen};
use super::reply::Reply;
use super::{Inner, Lane, Limits, room_of};
use crate::gateway::Store;

/// Room for what comes next, bytes. Most requests fit.
const ROOM: usize = 2 << 10;
/// A buffer that has become larger is not kept from one request to the next, bytes.
const ROOM_KEPT: usize = 4 << 10;
/// How long the rest of a request may take once it has begun. Most come in one piece or two; hyper has more patience, and says what
/// is wrong.
const MOMENT: Duration = Duration::from_millis(250);
/// How often is looked whether a request is whole: each time at all that came of it.
const LOOKS_MAX: usize = 9;

thread_local! {
    /// Where answers are written before they are sent.
    static ANSWER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How a connection was left.
pub(super) enum Left {
    /// It can be closed. `unread`: the client may still be sending.
    Over { unread: bool },
    /// With this behind the last answer, which may be the beginning of anything.
    NotPlain(Bytes),
}

const OVER: Left = Left::Over { unread: false };

/// What came of waiting for the client.
enum Came {
    Bytes,
    /// No more will come.
    End,
    /// Nothing in time, or it is time to stop.
    Nothing,
}

impl<S: Store> Inner<S> {
    /// Serves plain requests until something else comes.
    pub(super) async fn plainly<C>(
        &self,
        io: &mut C,
        finish: &CancellationToken,
        expires: Instant,
    ) -> Left
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let mut told = pin!(finish.cancelled());
        let mut line = Line::new(io, &self.limits, expires);
        loop {
            let (mut head, body) = match line.next(told.as_mut()).await {
                Ok(request) => request,
                Err(left) => return left,
            };
            let mut access = Access::new(&head);
            let without_body = body.is_empty();
            let body = Arriving::Whole(body);
            let Line {
                io, read, alarm, ..
            } = &mut line;
            let route = self.route(&mut head, body, Lane::Main, &mut access, alarm);
            let Some(mut reply) = unless_gone(*io, read, route).await else {
                return OVER;
            };
            reply.request_read |= without_body && !reply.distrust;
            reply.last = finish.is_cancelled() || expires <= Instant::now();
            access.answered(&mut reply);
            drop(access);
            let unread = !reply.request_read;
            let last = unread || reply.last;
            if line.answer(reply, head).await.is_err() {
                return OVER;
            }
            if last {
                if !unread {
                    line.shutdown().await;
                }
                return Left::Over { unread };
            }
        }
    }
}

/// A client and what is known of it between two requests.
struct Line<'a, C> {
    io: &'a mut C,
    limits: &'a Limits,
    /// When the last request is taken.
    expires: Instant,
    alarm: Alarm,
    /// What has come and was not taken yet.
    read: BytesMut,
    /// Bytes of the largest request that `read` had to hold.
    largest: usize,
    /// Empty; its room serves the headers of the next request, and those of its answer.
    headers: HeaderMap,
}

impl<'a, C: AsyncRead + AsyncWrite + Unpin> Line<'a, C> {
    fn new(io: &'a mut C, limits: &'a Limits, expires: Instant) -> Self {
        Self {
            io,
            limits,
            expires,
            alarm: Alarm::default(),
            read: BytesMut::new(),
            largest: 0,
            headers: HeaderMap::new(),
        }
    }

    /// The next request, if it is a plain one, and comes before it is `told` that no more are taken.
    async fn next(
        &mut self,
        mut told: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Result<(Parts, Bytes), Left> {
        if self.largest > ROOM_KEPT && self.read.is_empty() {
            (self.read, self.largest) = (BytesMut::new(), 0);
        }
        let mut begun = false;
        for _ in 0..LOOKS_MAX {
            let missing = match plain::take(&mut self.read, &mut self.headers) {
                Seen::Whole(head, body) => return Ok((head, body)),
                Seen::Begun(missing) => missing,
                Seen::Other => break,
            };
            let idle = self.read.is_empty();
            if idle || !begun {
                begun = !idle;
                let patience = self.limits.header_timeout;
                let patience = if idle { patience } else { MOMENT.min(patience) };
                self.alarm.set(self.expires.min(Instant::now() + patience));
            }
            self.read.reserve(missing.max(ROOM));
            self.largest = self.largest.max(self.read.len() + missing);
            // A request that has begun is one that may finish.
            let told = Some(told.as_mut()).filter(|_| idle);
            match self.more(told).await {
                Came::Bytes => {}
                Came::End | Came::Nothing if idle => return Err(OVER),
                Came::End | Came::Nothing => break,
            }
        }
        Err(Left::NotPlain(std::mem::take(&mut self.read).freeze()))
    }

    /// Waits for bytes, until the alarm goes off or it is `told`.
    async fn more(&mut self, mut told: Option<Pin<&mut WaitForCancellationFuture<'_>>>) -> Came {
        poll_fn(|cx| {
            if let Poll::Ready(came) = poll_read(self.io, cx, &mut self.read) {
                return Poll::Ready(came);
            }
            let told = told.as_mut().map(|told| told.as_mut().poll(cx));
            if told.is_some_and(|told| told.is_ready()) {
                return Poll::Ready(Came::Nothing);
            }
            self.alarm.poll_past(cx).map(|()| Came::Nothing)
        })
        .await
    }

    /// Answers the request of this head.
    async fn answer(&mut self, reply: Reply, mut head: Parts) -> io::Result<()> {
        self.headers = room_of(&mut head);
        // With it goes what it has of the buffer, which serves the next request then.
        drop(head);
        let status = reply.status;
        let body = reply.into_body(&mut self.headers);
        let mut answer = ANSWER.take();
        answer.clear();
        plain::write(&mut answer, status, &self.headers, &body);
        self.headers.clear();
        let sent = self.send(&answer).await;
        ANSWER.set(answer);
        sent
    }

    /// Sends `bytes`. Each piece of it may take as long as the client may leave an answer unread.
    async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut waits = false;
        poll_fn(|cx| {
            loop {
                let io = Pin::new(&mut *self.io);
                // TLS keeps some of it until it is flushed.
                let sent = match bytes {
                    [] => io.poll_flush(cx).map_ok(|()| None),
                    _ => io.poll_write(cx, bytes).map_ok(Some),
                };
                match sent {
                    Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(Some(0))) => {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    Poll::Ready(Ok(Some(sent))) => {
                        bytes = &bytes[sent..];
                        waits = false;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        if !waits {
                            self.alarm.set(Instant::now() + self.limits.write_timeout);
                            waits = true;
                        }
                        ready!(self.alarm.poll_past(cx));
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
        })
        .await
    }

    /// Ends our half of the connection.
    async fn shutdown(&mut self) {
        let shut = self.io.shutdown();
        let _ = self.alarm.within(self.limits.write_timeout, shut).await;
    }
}

fn poll_read<C: AsyncRead + Unpin>(
    io: &mut C,
    cx: &mut Context<'_>,
    read: &mut BytesMut,
) -> Poll<Came> {
    // Nothing is kept in it between two calls.
    let bytes = pin!(io.read_buf(read)).poll(cx);
    bytes.map(|bytes| match bytes {
        Ok(1..) => Came::Bytes,
        Ok(0) | Err(_) => Came::End,
    })
}

/// The reply, if the client waits for it. What he sends meanwhile is kept as far as there is room.
async fn unless_gone<C: AsyncRead + Unpin>(
    io: &mut C,
    read: &mut BytesMut,
    route: impl Future<Output = Reply>,
) -> Option<Reply> {
    let mut route = pin!(route);
    poll_fn(|cx| {
        if let Poll::Ready(reply) = route.as_mut().poll(cx) {
            return Poll::Ready(Some(reply));
        }
        if read.is_empty()
            && read.capacity() > 0
            && let Came::End = ready!(poll_read(io, cx, read))
        {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}
