//! Traces of a service to a collector, when the `OTEL_*` variables name one.

use std::time::Duration;

/// How long the last spans may take when the shutdown has used its own time up.
const FINISH_MIN: Duration = Duration::from_millis(500);
/// And how long however much of it is left: a collector that is there takes them at once.
const FINISH_MAX: Duration = Duration::from_secs(5);

#[cfg(feature = "otel")]
mod exporting {
    use std::sync::OnceLock;
    use std::time::Duration;

    use millstream::otel::{Exporter, Settings};

    /// Never dropped: that would wait for the collector, with no limit of ours.
    static EXPORTER: OnceLock<Exporter> = OnceLock::new();

    /// The exporter of this process, if its environment asks for one. Within the runtime.
    pub(crate) fn start() -> anyhow::Result<Option<&'static Exporter>> {
        let Some(settings) = Settings::from_env()? else {
            return Ok(None);
        };
        let exporter = Exporter::start(settings)?;
        Ok(Some(EXPORTER.get_or_init(|| exporter)))
    }

    pub(super) fn count_losses() {
        if let Some(exporter) = EXPORTER.get() {
            exporter.count_losses();
        }
    }

    pub(super) async fn finish(limit: Duration) {
        if let Some(exporter) = EXPORTER.get() {
            let finishing = tokio::task::spawn_blocking(move || exporter.shutdown(limit));
            // It says itself what goes wrong.
            let _ = finishing.await;
        }
    }
}

#[cfg(feature = "otel")]
pub(crate) use exporting::start;

/// Says so when the environment wants what this build does not have.
pub(crate) fn mention_missing() {
    let wanted = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ];
    let wanted = wanted.into_iter().find(|name| {
        let set = std::env::var_os(name);
        set.is_some_and(|value| !value.is_empty())
    });
    if let (Some(name), false) = (wanted, cfg!(feature = "otel")) {
        tracing::warn!(
            "{name} is set, but this build exports no traces: build with --features otel"
        );
    }
}

/// Counts lost spans on the page of metrics from now on. Once its recorder is installed.
pub(crate) fn count_losses() {
    #[cfg(feature = "otel")]
    exporting::count_losses();
}

/// Sends the last spans. `left`: what is left of the time to shut down.
pub(crate) async fn finish(left: Duration) {
    let limit = left.clamp(FINISH_MIN, FINISH_MAX);
    #[cfg(feature = "otel")]
    exporting::finish(limit).await;
    #[cfg(not(feature = "otel"))]
    let _ = limit;
}
