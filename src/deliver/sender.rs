//! The pooled HTTP client: jobs go out through it, and what a collector is told.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
pub(crate) use hyper_util::client::legacy::Error as SendError;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::private::Resolver;
#[cfg(feature = "tls")]
use crate::error::Error;
use crate::error::Result;

/// Longest wait for a TCP connection. An address that does not answer by then is down, and the attempt's own limit may be minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept. Below the 5 s after which Node's server, the shortest of the common ones, closes it:
/// a request that meets the close on its way is a failed attempt.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Connects to what the resolver lets through.
type Connector = HttpConnector<Resolver>;

/// The pooled client. Plain `http` does without certificates, which a small container may not have.
pub(crate) enum Sender {
    Http(Client<Connector, Full<Bytes>>),
    #[cfg(feature = "tls")]
    Https(Client<hyper_rustls::HttpsConnector<Connector>, Full<Bytes>>),
}

impl Sender {
    pub(crate) fn new(https: bool, refuse_private: bool) -> Result<Self> {
        let mut connector = HttpConnector::new_with_resolver(Resolver::new(refuse_private));
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        connector.enforce_http(!https);
        let mut client = Client::builder(TokioExecutor::new());
        client
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            // When a kept connection turns out closed before anything of the request was written, it goes out again at once
            // on another. Once any of it may have been read it does not: that is a failed attempt, and the backoff's to repeat.
            .retry_canceled_requests(true);
        #[cfg(feature = "tls")]
        if https {
            let connector = hyper_rustls::HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
                .map_err(|source| Error::Io {
                    what: "loading this machine's trusted certificates, which https needs (Debian, Ubuntu: package ca-certificates)".into(),
                    source,
                })?
                .https_only()
                .enable_http1()
                .wrap_connector(connector);
            return Ok(Self::Https(client.build(connector)));
        }
        Ok(Self::Http(client.build(connector)))
    }

    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        match self {
            Self::Http(client) => client.request(request).await,
            #[cfg(feature = "tls")]
            Self::Https(client) => client.request(request).await,
        }
    }
}
