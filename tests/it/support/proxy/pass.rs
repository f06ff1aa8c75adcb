//! One connection on its way through: whole requests one way, whole answers the other.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;

use super::Shared;
use super::frame::{self, Request};
use super::rule::Fault;

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// An answer that the client waits for.
enum Awaited {
    /// The server's, and what is done to it.
    Servers(Arc<Request>, Option<Fault>),
    /// Ours.
    Error(&'static str),
}

struct Line {
    shared: Arc<Shared>,
    /// Place in the order of connections.
    serial: u64,
    awaited: Mutex<VecDeque<Awaited>>,
    asked: Notify,
}

/// Passes everything between the two until one of them, or a fault, ends it.
pub(super) async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    shared: Arc<Shared>,
    serial: u64,
) {
    let line = Line {
        shared,
        serial,
        awaited: Mutex::default(),
        asked: Notify::new(),
    };
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            end = line.requests(from_client, to_server) => end.unwrap_or(End::Closed),
            end = line.answers(from_server, to_client) => end.unwrap_or(End::Closed),
            () = line.shared.cut_off(serial) => End::Closed,
        }
    };
    if end == End::Reset {
        reset(client);
    }
}

/// Closes with RST: the peer loses what it has not read, and is told at once.
pub(super) fn reset(stream: TcpStream) {
    let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    linger.expect("a socket can be told not to linger");
}

/// Reads so slowly that nothing large ever ends, and often enough that the client's system sees it go on.
async fn trickle(mut from: ReadHalf<'_>) -> io::Result<End> {
    let mut sip = vec![0; 64 << 10];
    while from.read(&mut sip).await? > 0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(End::Closed)
}

impl Line {
    async fn requests(&self, mut from: ReadHalf<'_>, mut server: WriteHalf<'_>) -> io::Result<End> {
        let mut buffer = BytesMut::with_capacity(1 << 16);
        let mut swallowing = false;
        loop {
            while let Some(length) = frame::length(&buffer) {
                let whole = buffer.split_to(length);
                if swallowing || self.shared.is_dark(self.serial) {
                    continue;
                }
                let request = Arc::new(Request::read(&whole));
                match self.shared.fault_for(&request.names) {
                    Some(Fault::DropBefore) => return Ok(End::Closed),
                    Some(Fault::SwallowRequests) => swallowing = true,
                    Some(Fault::Stuck) => std::future::pending().await,
                    Some(Fault::Trickle) => return trickle(from).await,
                    Some(Fault::Refuse(error)) => self.await_answer(Awaited::Error(error)),
                    fault => {
                        if let Some(Fault::Late(delay)) = fault {
                            tokio::time::sleep(delay).await;
                        }
                        for _ in 0..request.answers {
                            self.await_answer(Awaited::Servers(
                                Arc::clone(&request),
                                fault.clone(),
                            ));
                        }
                        server.write_all(&whole).await?;
                    }
                }
            }
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok(End::Closed);
            }
        }
    }

    fn await_answer(&self, awaited: Awaited) {
        let mut all = self.awaited.lock().expect("no panic here");
        all.push_back(awaited);
        self.asked.notify_one();
    }

    async fn answers(&self, mut from: ReadHalf<'_>, mut client: WriteHalf<'_>) -> io::Result<End> {
        let mut buffer = BytesMut::with_capacity(1 << 16);
        let mut swallowing = false;
        loop {
            if let Some(error) = self.next_error() {
                client.write_all(format!("-{error}\r\n").as_bytes()).await?;
                continue;
            }
            let Some(length) = frame::length(&buffer) else {
                tokio::select! {
                    length = from.read_buf(&mut buffer) => if length? == 0 {
                        return Ok(End::Closed);
                    },
                    () = self.asked.notified() => {}
                }
                continue;
            };
            let whole = buffer.split_to(length);
            let fault = self.fault_of_answer(&whole);
            if swallowing || self.shared.is_dark(self.serial) {
                continue;
            }
            match fault {
                Some(Fault::DropAfter) => return Ok(End::Closed),
                Some(Fault::Reset) => return Ok(End::Reset),
                Some(Fault::Truncate) => {
                    client.write_all(&whole[..length / 2]).await?;
                    return Ok(End::Closed);
                }
                Some(Fault::SwallowReplies) => {
                    swallowing = true;
                    continue;
                }
                Some(Fault::Eat) => continue,
                Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
                Some(Fault::Slow(rate)) => {
                    tokio::time::sleep(Duration::from_secs_f64(length as f64 / rate as f64)).await;
                }
                _ => {}
            }
            client.write_all(&whole).await?;
        }
    }

    /// The error that the client is to be told, when it is the next answer that it waits for.
    fn next_error(&self) -> Option<&'static str> {
        let mut awaited = self.awaited.lock().expect("no panic here");
        match awaited.front()? {
            Awaited::Servers(..) => None,
            Awaited::Error(error) => {
                let error = *error;
                awaited.pop_front();
                Some(error)
            }
        }
    }

    fn fault_of_answer(&self, answer: &[u8]) -> Option<Fault> {
        if frame::is_message(answer) {
            return self.shared.fault_for(&["message".to_owned()]);
        }
        let mut awaited = self.awaited.lock().expect("no panic here");
        match awaited.pop_front() {
            Some(Awaited::Servers(request, fault)) => {
                request.learn(answer);
                fault
            }
            // What the server says unasked: that it closes a connection, or takes no more of them.
            _ => None,
        }
    }
}
