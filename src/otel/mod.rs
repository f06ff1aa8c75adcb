//! Traces to an OpenTelemetry collector, as the standard variables say: OTLP over HTTP, protobuf.
//!
//! [`Settings::from_env`] reads and checks them, [`Exporter::start`] makes the pipeline, [`Exporter::layer`] is what a
//! subscriber needs, [`Exporter::shutdown`] sends what is left. Spans wait in a bounded queue and go out from a thread of its own:
//! a collector that is slow or down costs spans, and never a webhook or a job.

mod loss;
mod queue;
mod settings;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::registry::LookupSpan;

use loss::Losses;
use queue::{Bounded, Waiting};
pub use settings::Settings;
use transport::{Transport, Watched};

use crate::error::{Error, Result};
use crate::spans;

/// A running exporter.
pub struct Exporter {
    provider: SdkTracerProvider,
    losses: Arc<Losses>,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl Exporter {
    /// Starts it; nothing is connected before the first spans go out. Must be called within a tokio runtime, which carries its
    /// requests.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Io`] when an `https` collector is named and this machine has no trusted certificates.
    pub fn start(settings: Settings) -> Result<Self> {
        let transport = Transport::new(&settings)?;
        let said = transport.said();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(transport)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&settings.endpoint)
            .with_timeout(settings.timeout)
            .with_headers(settings.headers.into_iter().collect())
            .build()
            .map_err(|error| Error::setting("OTEL_EXPORTER_OTLP_*", "", error.to_string()))?;
        let (waiting, losses) = (Waiting::default(), Arc::<Losses>::default());
        let watched = Watched::new(exporter, said, waiting.clone(), Arc::clone(&losses));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded {
                processor: BatchSpanProcessor::builder(watched).build(),
                waiting,
                most: settings.queue_spans,
                losses: Arc::clone(&losses),
            })
            .with_sampler(settings.sampler)
            .with_resource(settings.resource)
            .build();
        Ok(Self { provider, losses })
    }

    /// Counts the spans that are lost from now on in `millstream_spans_lost_total`. Once the recorder is installed: what was made
    /// without one counts nothing.
    pub fn count_losses(&self) {
        self.losses.count();
    }

    /// The layer that makes spans of the engine's work, and of nothing else: no event, so no text of a log line, leaves with them.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let scope =
            InstrumentationScope::builder("millstream").with_version(env!("CARGO_PKG_VERSION"));
        let tracer = self.provider.tracer_with_scope(scope.build());
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(
                FilterFn::new(spans::is_for_tracers).with_max_level_hint(LevelFilter::INFO),
            )
    }

    /// Sends what has gathered, within `limit`. Blocks: call it from where that does no harm.
    pub fn shutdown(&self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the last spans may not have reached the collector");
        }
        self.losses.mention(String::new);
    }
}

/// The target of spans that a log has no use for.
pub const SPANS_TARGET: &str = spans::TARGET;
