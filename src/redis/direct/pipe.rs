//! Commands out and replies in, in the same order.
//!
//! A caller writes to the socket himself as long as it takes what he writes; only what it does not take is left to a task. Another
//! task reads, and gives each reply to the one who waits for it.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use fred::error::{Error as FredError, ErrorKind};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{tcp, unix};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use super::frame::{Frame, Scan};
use crate::redis::away;

/// Space that a read finds at least, and what is asked for when there is less.
const READ_MIN: usize = 16 << 10;
const READ_BUFFER: usize = 64 << 10;
/// A buffer that a large call left behind is not kept.
const WRITE_BUFFER_KEPT: usize = 256 << 10;

pub(super) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

pub(super) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    /// Something over a socket, as TLS is, which only a task can write to; and the socket.
    #[cfg_attr(
        not(any(feature = "tls", test)),
        expect(dead_code, reason = "nothing else is laid over a socket")
    )]
    Over(
        Mutex<Option<Box<dyn AsyncWrite + Send + Unpin>>>,
        socket2::Socket,
    ),
}

impl WriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
            Self::Over(..) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Ends the connection for the other side as well, whoever still holds this one: what blocks there is given up.
    fn shut(&self) {
        let socket = match self {
            Self::Tcp(half) => SockRef::from(half.as_ref()),
            Self::Unix(half) => SockRef::from(half.as_ref()),
            Self::Over(_, socket) => SockRef::from(socket),
        };
        // It may have ended by itself.
        let _ = socket.shutdown(Shutdown::Both);
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.writable().await,
            Self::Unix(half) => half.writable().await,
            Self::Over(..) => Ok(()),
        }
    }

    /// Writes to what is used by nobody else yet.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.write_all(bytes).await,
            Self::Unix(half) => half.write_all(bytes).await,
            Self::Over(half, _) => match half.get_mut().unwrap_or_else(PoisonError::into_inner) {
                Some(half) => {
                    half.write_all(bytes).await?;
                    half.flush().await
                }
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        }
    }

    #[cfg(any(feature = "tls", test))]
    pub(super) fn over(
        half: impl AsyncWrite + Send + Unpin + 'static,
        socket: socket2::Socket,
    ) -> Self {
        Self::Over(Mutex::new(Some(Box::new(half))), socket)
    }

    /// What only a task can write to, for the one that does.
    fn take_over(&self) -> Option<Box<dyn AsyncWrite + Send + Unpin>> {
        match self {
            Self::Over(half, _) => half.lock().unwrap_or_else(PoisonError::into_inner).take(),
            _ => None,
        }
    }
}

/// An open connection. It is closed when nobody holds it any more.
pub(in crate::redis) struct Pipe {
    shared: Arc<Shared>,
    /// The number by which Redis knows the connection, where it may be asked.
    pub(in crate::redis) id: Option<i64>,
    tasks: [AbortHandle; 2],
}

struct Shared {
    write: WriteHalf,
    state: Mutex<State>,
    /// Whether [`State::closed`] says nothing yet.
    open: AtomicBool,
    /// The socket did not take all that was written.
    stuck: Notify,
}

#[derive(Default)]
struct State {
    /// Written by callers, of which the socket has taken the first `sent` bytes.
    out: Vec<u8>,
    sent: usize,
    /// Those who wait for replies, in the order of their commands.
    waiting: VecDeque<oneshot::Sender<Frame>>,
    /// Why the connection is closed.
    closed: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but a caller who encodes; his command is cut off, and the server says so.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the socket what it takes.
    fn flush(&self, state: &mut State) {
        while state.sent < state.out.len() {
            match self.write.try_write(&state.out[state.sent..]) {
                Ok(taken) => state.sent += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // There may always be more. What is moved is no more than what was sent.
                    if state.sent > state.out.len() / 2 {
                        state.out.drain(..state.sent);
                        state.sent = 0;
                    }
                    self.stuck.notify_one();
                    return;
                }
                Err(error) => return self.close(state, error.to_string()),
            }
        }
        state.sent = 0;
        state.out.clear();
        state.out.shrink_to(WRITE_BUFFER_KEPT);
    }

    fn close(&self, state: &mut State, why: String) {
        self.open.store(false, Ordering::Release);
        state.closed.get_or_insert(why);
        state.out = Vec::new();
        state.sent = 0;
        self.write.shut();
        // Each of them learns that there will be no answer.
        state.waiting.clear();
    }

    fn close_now(&self, why: impl ToString) {
        self.close(&mut self.state(), why.to_string());
    }
}

/// A reply that is on its way.
pub(in crate::redis) struct Answer {
    shared: Arc<Shared>,
    reply: oneshot::Receiver<Frame>,
}

impl Answer {
    /// The reply, or what Redis says against the command.
    ///
    /// Whoever does not wait for it loses nothing but the reply: it is read and thrown away.
    pub(in crate::redis) async fn within(self, time: Duration) -> Result<Frame, FredError> {
        match tokio::time::timeout(time, self.reply).await {
            Ok(Ok(frame)) => frame.unless_refused(),
            Ok(Err(_)) => {
                let why = self.shared.state().closed.clone();
                Err(FredError::new(ErrorKind::IO, why.unwrap_or_default()))
            }
            Err(_) => Err(FredError::new(ErrorKind::Timeout, "no answer in time")),
        }
    }
}

/// Commands that are written one behind the other. They go out when this is dropped.
pub(in crate::redis) struct Writing<'a> {
    pipe: &'a Pipe,
    state: MutexGuard<'a, State>,
    /// The socket has yet to take what others wrote: it is known to be busy.
    behind: bool,
}

impl Writing<'_> {
    /// Adds a command, which `write` encodes.
    pub(in crate::redis) fn command(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Answer, FredError> {
        if self.state.closed.is_some() {
            return Err(away());
        }
        let (answer, reply) = oneshot::channel();
        write(&mut self.state.out);
        self.state.waiting.push_back(answer);
        let shared = Arc::clone(&self.pipe.shared);
        Ok(Answer { shared, reply })
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.behind {
            self.pipe.shared.flush(&mut self.state);
        }
    }
}

impl Pipe {
    /// Takes a connection over that is logged in and waits for nothing. Lives on the current runtime.
    pub(super) fn new(read: ReadHalf, write: WriteHalf, id: Option<i64>) -> Self {
        let shared = Arc::new(Shared {
            write,
            state: Mutex::default(),
            open: AtomicBool::new(true),
            stuck: Notify::new(),
        });
        let reading = tokio::spawn(read_all(Ending(Arc::clone(&shared)), read));
        let writing = tokio::spawn(write_rest(Ending(Arc::clone(&shared))));
        let tasks = [reading, writing].map(|task| task.abort_handle());
        Self { shared, id, tasks }
    }

    pub(super) fn is_open(&self) -> bool {
        self.shared.open.load(Ordering::Acquire)
    }

    pub(in crate::redis) fn write(&self) -> Writing<'_> {
        let state = self.shared.state();
        let behind = !state.out.is_empty();
        Writing {
            pipe: self,
            state,
            behind,
        }
    }

    pub(super) fn close(&self, why: &str) {
        self.shared.close_now(why);
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.close("nobody uses the connection any more");
    }
}

/// Closes the connection when its task ends, in whatever way.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.close_now("the connection has ended");
    }
}

/// Reads replies until the connection ends.
async fn read_all(shared: Ending, mut read: ReadHalf) {
    let (mut buffer, mut scan) = (BytesMut::new(), Scan::default());
    let why = loop {
        match scan.complete(&buffer) {
            Ok(Some(length)) => {
                let frame = Frame::new(buffer.split_to(length).freeze());
                let waiter = shared.0.state().waiting.pop_front();
                match waiter {
                    // He may have gone.
                    Some(waiter) => drop(waiter.send(frame)),
                    None => break "a reply to nothing".to_owned(),
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => break error.to_string(),
        }
        let missing = scan.missing(buffer.len());
        if buffer.capacity() - buffer.len() < READ_MIN.max(missing) {
            buffer.reserve(READ_BUFFER.max(missing));
        }
        match read.read_buf(&mut buffer).await {
            Ok(0) => break "redis closed the connection".to_owned(),
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    shared.0.close_now(why);
}

/// Writes what the socket did not take at once.
async fn write_rest(shared: Ending) {
    let shared = &shared.0;
    let mut over = shared.write.take_over();
    loop {
        shared.stuck.notified().await;
        if let Some(half) = &mut over {
            let bytes = std::mem::take(&mut shared.state().out);
            let written = async {
                half.write_all(&bytes).await?;
                half.flush().await
            };
            if let Err(error) = written.await {
                return shared.close_now(error);
            }
            continue;
        }
        if let Err(error) = shared.write.writable().await {
            return shared.close_now(error);
        }
        // It says again when it is stuck.
        shared.flush(&mut shared.state());
    }
}

#[cfg(test)]
mod tests {
    use fred::types::Value;
    use tokio::net::UnixStream;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// A pipe, and its other end.
    fn pipe() -> (Pipe, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        let (read, write) = near.into_split();
        (Pipe::new(Box::new(read), WriteHalf::Unix(write), None), far)
    }

    /// The same, with something between that only a task can write to.
    fn covered() -> (Pipe, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        let socket = SockRef::from(&near).try_clone().expect("a second handle");
        let (read, write) = tokio::io::split(near);
        let write = WriteHalf::over(write, socket);
        (Pipe::new(Box::new(read), write, None), far)
    }

    fn ask(pipe: &Pipe, text: &str) -> Answer {
        let write = |out: &mut Vec<u8>| out.extend_from_slice(text.as_bytes());
        pipe.write().command(write).expect("it is open")
    }

    async fn hear(far: &mut UnixStream, bytes: usize) -> Vec<u8> {
        let mut heard = vec![0; bytes];
        let all = tokio::time::timeout(LONG, far.read_exact(&mut heard)).await;
        all.expect("in time").expect("so many bytes");
        heard
    }

    #[tokio::test]
    async fn each_gets_the_reply_to_his_command_and_that_of_one_who_left_goes_to_nobody() {
        for (pipe, mut far) in [pipe(), covered()] {
            let (first, left) = {
                let mut writing = pipe.write();
                let mut ask =
                    |text: &'static [u8]| writing.command(|out| out.extend(text)).unwrap();
                (ask(b"a"), ask(b"b"))
            };
            let last = ask(&pipe, "c");
            drop(left);
            assert_eq!(hear(&mut far, 3).await, b"abc");
            far.write_all(b":1\r\n:2\r\n:3\r\n").await.unwrap();
            for (answer, number) in [(first, 1), (last, 3)] {
                let frame = answer.within(LONG).await.unwrap();
                assert_eq!(frame.value(), Value::Integer(number));
            }
        }
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_at_once_goes_later_and_in_order() {
        for (pipe, mut far) in [pipe(), covered()] {
            let large = "x".repeat(8 << 20);
            let answers = [ask(&pipe, &large), ask(&pipe, "behind it")];
            let heard = hear(&mut far, large.len() + 9).await;
            assert!(heard.starts_with(large.as_bytes()) && heard.ends_with(b"behind it"));
            far.write_all(b":1\r\n:2\r\n").await.unwrap();
            for answer in answers {
                answer.within(LONG).await.unwrap();
            }
            let after = ask(&pipe, "and again");
            hear(&mut far, 9).await;
            far.write_all(b":3\r\n").await.unwrap();
            after.within(LONG).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_the_socket_has_taken_is_not_kept_while_there_is_always_more() {
        const CALLS: usize = 4;
        const EACH: usize = 1 << 20;
        let (pipe, mut far) = pipe();
        let text = "x".repeat(EACH);
        let mut asked: VecDeque<Answer> = (0..CALLS).map(|_| ask(&pipe, &text)).collect();
        for _ in 0..8 * CALLS {
            hear(&mut far, EACH).await;
            far.write_all(b":1\r\n").await.unwrap();
            let first = asked.pop_front().expect("several");
            first.within(LONG).await.unwrap();
            asked.push_back(ask(&pipe, &text));

            let kept = pipe.shared.state().out.len();
            assert!(kept <= 2 * CALLS * EACH, "{kept} bytes are kept");
        }
    }

    #[tokio::test]
    async fn whoever_waits_when_the_connection_ends_is_told_and_nothing_more_is_sent() {
        for reply in ["", ":1\r\n:2\r\n", "HTTP/1.1 400 Bad Request\r\n"] {
            let (pipe, mut far) = pipe();
            let answers = [ask(&pipe, "a")];
            hear(&mut far, 1).await;
            far.write_all(reply.as_bytes()).await.unwrap();
            if reply.is_empty() {
                drop(far);
            }
            for answer in answers {
                match answer.within(LONG).await {
                    Ok(frame) => assert_eq!(frame.value(), Value::Integer(1)),
                    Err(error) => assert_eq!(*error.kind(), ErrorKind::IO, "{error:?}"),
                }
            }
            while pipe.is_open() {
                tokio::task::yield_now().await;
            }
            let refused = pipe.write().command(|_| ()).err().expect("it is closed");
            assert_eq!(refused.details(), away().details());
        }
    }

    #[tokio::test]
    async fn a_pipe_that_is_given_up_answers_at_once() {
        for (pipe, mut far) in [pipe(), covered()] {
            let answer = ask(&pipe, "a");
            hear(&mut far, 1).await;
            pipe.close("given up");
            let error = answer.within(LONG).await.expect_err("no answer");
            assert_eq!(
                (error.kind(), error.details()),
                (&ErrorKind::IO, "given up")
            );
            let ended = tokio::time::timeout(LONG, far.read_u8()).await;
            assert!(ended.expect("in time").is_err(), "the socket is closed");
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_waited_for_no_longer_than_that() {
        let (pipe, _far) = pipe();
        let error = ask(&pipe, "a").within(Duration::from_millis(5)).await;
        let error = error.expect_err("no answer");
        assert_eq!(*error.kind(), ErrorKind::Timeout);
    }
}
