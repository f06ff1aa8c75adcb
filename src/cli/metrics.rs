//! `/metrics` of a service: the process's counters by way of a recorder, and what its queues hold.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use millstream::Millstream;
use millstream::gateway::MetricsPage;
use millstream::metrics::{BUCKETS_SECONDS, QueueGauges};

/// How often what histograms have gathered is put into their buckets, so that it does not pile up when nobody scrapes.
const GATHER: Duration = Duration::from_secs(5);

/// Installs the recorder. Before the first connection: what was made without one counts nothing.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    // One per process, as the recorder is.
    static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = INSTALLED.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets(BUCKETS_SECONDS)
        .context("the buckets of the metrics")?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| anyhow::anyhow!("{error}"))?;
    let gathered = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(GATHER).await;
            gathered.run_upkeep();
        }
    });
    Ok(INSTALLED.get_or_init(|| handle).clone())
}

/// The page of a process that has to do with `queues`.
pub(crate) fn page<'a>(
    handle: PrometheusHandle,
    client: &Millstream,
    queues: impl IntoIterator<Item = &'a str>,
) -> anyhow::Result<MetricsPage> {
    let gauges = QueueGauges::new(client, queues)?;
    Ok(MetricsPage::new(move || {
        let (handle, gauges) = (handle.clone(), gauges.clone());
        async move { handle.render() + &gauges.render().await }
    }))
}
