//! Opens the connection: where to, how, and as whom.

use std::io;
use std::path::PathBuf;

use bytes::BytesMut;
use fred::error::{Error as FredError, ErrorKind};
use fred::types::Value;
use fred::types::config::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::frame::{Frame, Scan, encode};
use super::pipe::{Pipe, ReadHalf, WriteHalf};
use crate::redis::address::{KEEPALIVE_INTERVAL, KEEPALIVE_TIME, USER_TIMEOUT};
use crate::redis::{Address, away};

/// How to open a connection.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) place: Place,
    /// User, if named, and password.
    credentials: Vec<String>,
    database: Option<u8>,
}

/// Where to.
#[derive(Clone)]
pub(super) enum Place {
    Host(String, u16),
    Path(PathBuf),
    /// Wherever the client library found the primary.
    Primary,
}

impl Dial {
    pub(super) fn to(address: &Address) -> Option<Self> {
        let config = address.config();
        #[cfg(feature = "tls")]
        if config.tls.is_some() {
            return None;
        }
        let place = match &config.server {
            ServerConfig::Centralized { server } => {
                Place::Host(server.host.to_string(), server.port)
            }
            ServerConfig::Unix { path } => Place::Path(path.clone()),
            ServerConfig::Sentinel { .. } => Place::Primary,
            _ => return None,
        };
        let password = config.password.clone();
        let user = config.username.clone().filter(|_| password.is_some());
        Some(Self {
            place,
            credentials: user.into_iter().chain(password).collect(),
            database: config.database,
        })
    }

    pub(super) async fn open(self, place: Place) -> Result<Pipe, FredError> {
        // Nothing of a job has been sent yet.
        let unreachable = |error: io::Error| {
            tracing::debug!(%error, "cannot connect");
            away()
        };
        let (mut read, mut write) = self.halves(place).await.map_err(unreachable)?;
        let (mut greeting, mut answers) = (Vec::new(), 1);
        if !self.credentials.is_empty() {
            let credentials: Vec<Value> = self.credentials.iter().map(Value::from).collect();
            encode(&mut greeting, &["AUTH"], &[], &credentials);
            answers += 1;
        }
        if let Some(number) = self.database {
            encode(&mut greeting, &["SELECT"], &[], &[i64::from(number).into()]);
            answers += 1;
        }
        encode(&mut greeting, &["CLIENT", "ID"], &[], &[]);
        match &mut write {
            WriteHalf::Tcp(write) => write.write_all(&greeting).await,
            WriteHalf::Unix(write) => write.write_all(&greeting).await,
        }
        .map_err(unreachable)?;

        let (mut buffer, mut scan) = (BytesMut::with_capacity(512), Scan::default());
        let mut last = None;
        while answers > 0 {
            if let Some(length) = scan.complete(&buffer).map_err(unreachable)? {
                last = Some(Frame::new(buffer.split_to(length).freeze()).unless_refused()?);
                answers -= 1;
            } else if read.read_buf(&mut buffer).await.map_err(unreachable)? == 0 {
                return Err(away());
            }
        }
        let id = last.and_then(|frame| frame.number());
        let id =
            id.ok_or_else(|| FredError::new(ErrorKind::Protocol, "no number for CLIENT ID"))?;
        Ok(Pipe::new(read, write, id))
    }

    async fn halves(&self, place: Place) -> io::Result<(ReadHalf, WriteHalf)> {
        match place {
            Place::Path(path) => {
                let (read, write) = UnixStream::connect(path).await?.into_split();
                Ok((Box::new(read), WriteHalf::Unix(write)))
            }
            Place::Host(host, port) => {
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                let keepalive = socket2::TcpKeepalive::new()
                    .with_time(KEEPALIVE_TIME)
                    .with_interval(KEEPALIVE_INTERVAL);
                socket.set_tcp_keepalive(&keepalive)?;
                #[cfg(target_os = "linux")]
                socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
                let (read, write) = stream.into_split();
                Ok((Box::new(read), WriteHalf::Tcp(write)))
            }
            Place::Primary => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
