//! How spans reach the collector, and what is said when they do not.

use std::error::Error as _;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::runtime::Handle;

use super::Settings;
use super::loss::Losses;
use super::queue::Waiting;
use crate::deliver::sender::{SendError, Sender};
use crate::error::Result;

/// Bytes of a collector's answer that are read; it has little to say.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why the last request came to nothing; what the exporter itself says of that is not worth reading.
pub(super) type Said = Arc<Mutex<Option<String>>>;

/// The pooled client of [`crate::deliver`], on the runtime that it was made in: the exporter's own thread has none.
pub(super) struct Transport {
    sender: Arc<Sender>,
    runtime: Handle,
    timeout: Duration,
    said: Said,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Transport {
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        Ok(Self {
            sender: Sender::new(settings.endpoint.starts_with("https:"), false)?.into(),
            runtime: Handle::current(),
            timeout: settings.timeout,
            said: Said::default(),
        })
    }

    pub(super) fn said(&self) -> Said {
        Arc::clone(&self.said)
    }
}

impl HttpClient for Transport {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let (sender, timeout) = (Arc::clone(&self.sender), self.timeout);
        let sent = self.runtime.spawn(async move {
            let exchange = tokio::time::timeout(timeout, exchange(&sender, request));
            exchange.await.unwrap_or_else(|_| {
                Err(format!("no answer within {}", humantime::format_duration(timeout)).into())
            })
        });
        Box::pin(async move {
            let answer = sent.await.unwrap_or_else(|error| Err(error.into()));
            let trouble = match &answer {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(format!("the collector answered {}", answer.status())),
                Err(error) => Some(error.to_string()),
            };
            *self.said.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
            answer
        })
    }
}

async fn exchange(sender: &Sender, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let answer = sender.send(request.map(Full::new)).await.map_err(told)?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// The error with its causes, in one line.
fn told(error: SendError) -> HttpError {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message.into()
}

/// The exporter, with an eye on what it takes and what of that it does not get rid of.
pub(super) struct Watched<E> {
    exporter: E,
    said: Said,
    waiting: Waiting,
    losses: Arc<Losses>,
}

impl<E> Watched<E> {
    pub(super) fn new(exporter: E, said: Said, waiting: Waiting, losses: Arc<Losses>) -> Self {
        Self {
            exporter,
            said,
            waiting,
            losses,
        }
    }

    /// What the last request came to, in better words than the exporter's.
    fn reason(&self, exported: &OTelSdkResult) -> String {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let told = || exported.as_ref().err().map(ToString::to_string);
        said.take().or_else(told).unwrap_or_default()
    }
}

impl<E> fmt::Debug for Watched<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.taken(spans);
        let exported = self.exporter.export(batch).await;
        if exported.is_err() {
            self.losses.undelivered(spans);
        }
        self.losses.mention(|| self.reason(&exported));
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
