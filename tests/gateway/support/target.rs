//! A target of `forward` that misbehaves on command, byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the target does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// 204.
    Well,
    /// Answers with these bytes.
    Says(&'static str),
    /// Reads and never answers.
    Hangs,
    /// Cuts the connection before it has read anything.
    Resets,
    /// Cuts the connection in the middle of its answer's head.
    BreaksOff,
    /// 200, and a body that does not end.
    Floods,
    /// 200, and a body of which a byte comes now and then.
    Drips,
}

pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Target {
    pub(crate) async fn that(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(mode);
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, modes.clone(), Arc::clone(&counted)));
            }
        });
        Self {
            address,
            mode,
            counts,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    /// From now on, also for requests that hang.
    pub(crate) fn now(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Requests that wait for their answer.
    pub(crate) fn at_once(&self) -> usize {
        self.counts.at_once.load(Ordering::SeqCst)
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.counts.most_at_once.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, mut modes: watch::Receiver<Mode>, counts: Arc<Counts>) {
    while *modes.borrow() != Mode::Resets {
        if read_request(&mut stream).await.is_none() {
            return;
        }
        counts.requests.fetch_add(1, Ordering::SeqCst);
        let now = counts.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most_at_once.fetch_max(now, Ordering::SeqCst);
        let answered = answer(&mut stream, &mut modes).await;
        counts.at_once.fetch_sub(1, Ordering::SeqCst);
        if answered.is_none() {
            return;
        }
    }
    counts.requests.fetch_add(1, Ordering::SeqCst);
    // No linger: the peer sees a reset and not an orderly end.
    let _ = stream.set_zero_linger();
}

async fn answer(stream: &mut TcpStream, modes: &mut watch::Receiver<Mode>) -> Option<()> {
    let mode = modes.wait_for(|mode| *mode != Mode::Hangs).await;
    let mode = *mode.ok()?;
    let said = match mode {
        Mode::Well => "HTTP/1.1 204 No Content\r\n\r\n",
        Mode::Says(answer) => answer,
        Mode::Floods | Mode::Drips => "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n",
        Mode::Hangs | Mode::Resets | Mode::BreaksOff => "HTTP/1.1 2",
    };
    stream.write_all(said.as_bytes()).await.ok()?;
    match mode {
        Mode::Well | Mode::Says(_) => Some(()),
        Mode::Floods => loop {
            stream.write_all(&[b'x'; 16 << 10]).await.ok()?;
        },
        Mode::Drips => loop {
            stream.write_all(b".").await.ok()?;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        },
        Mode::Hangs | Mode::Resets | Mode::BreaksOff => None,
    }
}

/// Head and body of one request; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1)?;
    let length: usize = length.split("\r\n").next()?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(())
}
