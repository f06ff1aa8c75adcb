//! Opens the connection: where to, how, and as whom.

use std::io;
use std::path::PathBuf;

use bytes::BytesMut;
use fred::error::Error as FredError;
use fred::types::Value;
#[cfg(feature = "tls")]
use fred::types::config::TlsConnector;
use fred::types::config::{Server, ServerConfig};
#[cfg(feature = "tls")]
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UnixStream};

use super::frame::{Frame, Scan, encode};
use super::pipe::{Pipe, ReadHalf, WriteHalf};
use crate::redis::address::{KEEPALIVE_INTERVAL, KEEPALIVE_TIME, USER_TIMEOUT};
use crate::redis::{Address, away};

/// How to open a connection.
#[derive(Clone)]
pub(super) struct Dial {
    /// `None`: to wherever the client library found the primary.
    pub(super) place: Option<Place>,
    /// User, if named, and password.
    credentials: Vec<String>,
    database: Option<u8>,
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsConnector>,
}

/// Where to.
#[derive(Clone)]
pub(super) enum Place {
    Host(Server),
    Path(PathBuf),
}

impl Dial {
    pub(super) fn to(address: &Address) -> Option<Self> {
        let config = address.config();
        let place = match &config.server {
            ServerConfig::Centralized { server } => Some(Place::Host(server.clone())),
            ServerConfig::Unix { path } => Some(Place::Path(path.clone())),
            ServerConfig::Sentinel { .. } => None,
            _ => return None,
        };
        let password = config.password.clone();
        let user = config.username.clone().filter(|_| password.is_some());
        Some(Self {
            place,
            credentials: user.into_iter().chain(password).collect(),
            database: config.database,
            #[cfg(feature = "tls")]
            tls: match &config.tls {
                Some(tls) => match &tls.connector {
                    TlsConnector::Rustls(connector) => Some(connector.clone()),
                },
                None => None,
            },
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
        write.write_all(&greeting).await.map_err(unreachable)?;

        let (mut buffer, mut scan) = (BytesMut::with_capacity(512), Scan::default());
        let mut id = None;
        while answers > 0 {
            if let Some(length) = scan.complete(&buffer).map_err(unreachable)? {
                let answer = Frame::new(buffer.split_to(length).freeze()).unless_refused();
                answers -= 1;
                id = match answer {
                    // The last of them is only needed to end a blocked read at once.
                    Err(error) if answers == 0 && may_not(&error) => None,
                    answer => answer?.number(),
                };
            } else if read.read_buf(&mut buffer).await.map_err(unreachable)? == 0 {
                return Err(away());
            }
        }
        Ok(Pipe::new(read, write, id))
    }

    async fn halves(&self, place: Place) -> io::Result<(ReadHalf, WriteHalf)> {
        match place {
            Place::Path(path) => {
                let (read, write) = UnixStream::connect(path).await?.into_split();
                Ok((Box::new(read), WriteHalf::Unix(write)))
            }
            Place::Host(server) => {
                let host = unbracketed(&server.host);
                let stream = TcpStream::connect((host, server.port)).await?;
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                let keepalive = socket2::TcpKeepalive::new()
                    .with_time(KEEPALIVE_TIME)
                    .with_interval(KEEPALIVE_INTERVAL);
                socket.set_tcp_keepalive(&keepalive)?;
                #[cfg(target_os = "linux")]
                socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
                #[cfg(feature = "tls")]
                if let Some(tls) = &self.tls {
                    let socket = socket.try_clone()?;
                    let name = server.tls_server_name.as_deref().unwrap_or(host);
                    let name = ServerName::try_from(name.to_owned());
                    let name = name.map_err(io::Error::other)?;
                    let (read, write) = tokio::io::split(tls.connect(name, stream).await?);
                    return Ok((Box::new(read), WriteHalf::over(write, socket)));
                }
                let (read, write) = stream.into_split();
                Ok((Box::new(read), WriteHalf::Tcp(write)))
            }
        }
    }
}

/// Whether a command is not allowed to us, or not known to whatever stands in for Redis.
fn may_not(error: &FredError) -> bool {
    let text = error.details();
    text.starts_with("NOPERM") || text.contains("unknown")
}

/// The host of a URL, in which an IPv6 address is in brackets, as it is looked up.
fn unbracketed(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host)
}
