//! What lies between a process and Redis: a network that can be bad in the ways in which networks are.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How the connections are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Clear,
    /// What Redis says is lost. Whoever ends this must cut: a connection never loses what lies in its middle.
    LosesReplies,
    /// What Redis is asked is lost. Ends with a cut, too.
    LosesRequests,
    /// Nothing moves, and nothing is lost.
    Still,
    /// Every piece waits.
    Slow(Duration),
    /// The next answer breaks off, and its connection with it.
    Tears,
}

#[derive(Clone, Copy, Debug)]
struct State {
    weather: Weather,
    /// A connection lives until this is no longer what it was when the connection began.
    cuts: u64,
}

/// The connections of one process.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    listening: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Proxy {
    pub(crate) async fn start(redis_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port for the proxy");
        let port = listener.local_addr().expect("it is bound").port();
        let weather = Weather::Clear;
        let (state, seen) = watch::channel(State { weather, cuts: 0 });
        let listening = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(tokio::spawn(carry(client, redis_port, seen.clone()))),
                    // Out of files, perhaps; they come back as connections end.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        Self {
            port,
            state,
            listening,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.state.send_modify(|state| state.weather = weather);
    }

    /// Ends every connection; new ones are fine from the start.
    pub(crate) fn cut(&self) {
        // At once, or an old connection would go on with a piece missing.
        self.state.send_modify(|state| {
            *state = State {
                weather: Weather::Clear,
                cuts: state.cuts + 1,
            };
        });
    }
}

async fn carry(client: TcpStream, redis_port: u16, mut state: watch::Receiver<State>) {
    let cuts = state.borrow_and_update().cuts;
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, redis_port)).await else {
        return;
    };
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, false, cuts, state.clone()) => {}
        () = pump(from_server, to_client, true, cuts, state.clone()) => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

/// Moves bytes one way until one end closes or the connection is cut.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    replies: bool,
    cuts: u64,
    mut state: watch::Receiver<State>,
) {
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = match from.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let mut passed = &piece[..length];
        let moving = state.wait_for(|state| state.weather != Weather::Still || state.cuts != cuts);
        let now = match moving.await {
            Ok(now) => *now,
            Err(_) => return,
        };
        match now.weather {
            _ if now.cuts != cuts => return,
            Weather::LosesReplies if replies => continue,
            Weather::LosesRequests if !replies => continue,
            Weather::Slow(wait) => tokio::time::sleep(wait).await,
            Weather::Tears if replies => passed = &piece[..length / 2],
            _ => {}
        }
        if to.write_all(passed).await.is_err() || passed.len() < length {
            return;
        }
    }
}
