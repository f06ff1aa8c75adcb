//! A process that works until it is told to stop: workers, a gateway, or both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use millstream::deliver::CommandHandler;
use millstream::gateway::{Gateway, GatewaySettings, LiveSecrets};
use millstream::{Context, Millstream, Worker, config};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connect::connect_to;
use super::settings::{HandlerSettings, QueueSettings, RedisSettings, ScheduleSettings};
use super::{metrics, open_files, output, parse, schedules, signals, traces};

/// The log line that says that all workers of the process claim jobs and the gateway has its socket.
pub(crate) const READY: &str = "ready";

/// Flags of every command that runs until it is stopped.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServiceFlags {
    /// After SIGTERM or Ctrl-C: how long running jobs may go on [default: 15s]
    #[arg(long, env = "MILLSTREAM_SHUTDOWN_TIMEOUT", value_parser = parse::shutdown_timeout, value_name = "DURATION")]
    pub(crate) shutdown_timeout: Option<Duration>,
    /// Stop when stdin closes, so as not to outlive the program that holds its other end
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

/// What a process is to do, with everything checked and nothing connected.
pub(crate) struct Plan {
    pub(crate) redis: RedisSettings,
    pub(crate) queues: Vec<QueueSettings>,
    pub(crate) gateway: Option<GatewaySettings>,
    /// How SIGHUP reads the gateway's settings again.
    pub(crate) reread: Option<Reread>,
    pub(crate) schedules: ScheduleSettings,
    pub(crate) service: ServiceFlags,
}

/// Reads settings from where they came the first time.
pub(crate) type Reread = Arc<dyn Fn() -> anyhow::Result<GatewaySettings> + Send + Sync>;

/// A process at work.
pub(crate) struct Process {
    workers: Vec<Worker>,
    gateway: Option<Gateway>,
    /// Handlers that start programs, which may outlive the attempt that started them by their grace.
    programs: Vec<CommandHandler>,
    /// Looks after the schedules of the config file.
    keeper: Option<JoinHandle<()>>,
    stop: CancellationToken,
    shutdown_timeout: Duration,
}

impl Plan {
    /// Starts, works until a signal comes, and drains.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let stop = signals::shutdown(self.service.stop_with_stdin)?;
        // From here on, so that a SIGHUP does not end a process that is still starting.
        let reread = self.reread.clone();
        let hangups = reread.map(|reread| Ok::<_, anyhow::Error>((signals::hangup()?, reread)));
        let hangups = hangups.transpose()?;
        let start = Process::start(self, stop.clone());
        let process = tokio::select! {
            process = start => process?,
            // Told to stop before there was anything to stop.
            () = stop.cancelled() => return Ok(()),
        };
        if let (Some((mut hangups, reread)), Some(gateway)) = (hangups, &process.gateway) {
            let secrets = gateway.secrets();
            tokio::spawn(async move {
                while hangups.recv().await.is_some() {
                    reload(&secrets, &reread).await;
                }
            });
        }
        process.run().await
    }

    fn shutdown_timeout(&self) -> Duration {
        self.service
            .shutdown_timeout
            .unwrap_or(config::SHUTDOWN_TIMEOUT_DEFAULT)
    }

    /// A webhook's body becomes a payload, so the larger limit holds for both.
    fn payload_bytes_max(&self) -> usize {
        let max_body = self.gateway.as_ref().map_or(0, |gateway| gateway.max_body);
        max_body.max(config::PAYLOAD_BYTES_MAX_DEFAULT)
    }
}

impl Process {
    /// Connects, starts the workers, then opens the gateway: it answers only once there is somebody to work.
    pub(crate) async fn start(plan: Plan, stop: CancellationToken) -> anyhow::Result<Self> {
        // Only who can be asked for them counts.
        let recorder = plan.gateway.as_ref().map(|_| metrics::install());
        let recorder = recorder.transpose()?;
        traces::count_losses();
        let client = connect_to(&plan.redis, plan.payload_bytes_max()).await?;
        let mut process = Self {
            workers: Vec::new(),
            gateway: None,
            programs: Vec::new(),
            keeper: None,
            stop,
            shutdown_timeout: plan.shutdown_timeout(),
        };
        match process.fill(&plan, &client, recorder).await {
            Ok(()) => {
                let gateway = process.gateway.is_some();
                tracing::info!(workers = process.workers.len(), gateway, "{READY}");
                Ok(process)
            }
            Err(error) => {
                // What has been started claims jobs already: hand them back.
                process.stop.cancel();
                process.drain().await;
                Err(error)
            }
        }
    }

    async fn fill(
        &mut self,
        plan: &Plan,
        client: &Millstream,
        recorder: Option<PrometheusHandle>,
    ) -> anyhow::Result<()> {
        // Before there is anybody to fire them, so that the first look finds them.
        schedules::synchronise(client, &plan.schedules).await?;
        self.keeper = schedules::keep(client.clone(), plan.schedules.clone());
        for queue in &plan.queues {
            if let HandlerSettings::Command(handler) = &queue.handler {
                self.programs.push(handler.clone());
            }
            self.workers
                .push(start_worker(queue, client, plan.shutdown_timeout()).await?);
        }
        if let Some(settings) = &plan.gateway {
            let health = self.workers.iter().map(Worker::health).collect();
            let mut settings = settings.clone();
            settings.shutdown_timeout = plan.shutdown_timeout();
            open_files::raise(settings.connections_max);
            if let Some(recorder) = recorder {
                let worked_on = plan.queues.iter().map(|queue| queue.name.as_str());
                let filled = settings
                    .sources
                    .iter()
                    .map(|(_, source)| source.queue.as_str());
                settings.metrics = Some(metrics::page(recorder, client, worked_on.chain(filled))?);
            }
            self.gateway = Some(Gateway::bind(settings, client.clone(), health).await?);
        }
        Ok(())
    }

    /// Where the gateway listens.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.gateway.as_ref().map(Gateway::local_addr)
    }

    /// Works until the token is cancelled, then drains. A gateway that fails takes the process with it.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let gateway = self.gateway.take();
        let stop = self.stop.clone();
        let serve = async {
            let result = match gateway {
                Some(gateway) => gateway.run(stop.clone()).await,
                None => {
                    stop.cancelled().await;
                    Ok(())
                }
            };
            stop.cancel();
            result
        };
        let shutdown_timeout = self.shutdown_timeout;
        let work = async {
            stop.cancelled().await;
            let began = Instant::now();
            self.drain().await;
            began
        };
        let (served, began) = tokio::join!(serve, work);
        // What the drain left of the time is for the spans of the last jobs.
        traces::finish(shutdown_timeout.saturating_sub(began.elapsed())).await;
        tracing::info!("stopped");
        Ok(served?)
    }

    async fn drain(self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
        let drained = join_all(self.workers.into_iter().map(Worker::stop)).await;
        if !drained.is_empty() {
            let finished: usize = drained.iter().map(|drained| drained.finished).sum();
            let released: usize = drained.iter().map(|drained| drained.released).sum();
            tracing::info!(finished, released, "workers drained");
        }
        join_all(self.programs.iter().map(CommandHandler::finished)).await;
    }
}

/// Takes new secrets over, or says why the old ones stay.
async fn reload(secrets: &LiveSecrets, reread: &Reread) {
    let reread = reread.clone();
    // Files may be slow, and whoever waits for an answer shall not wait for them.
    let read = tokio::task::spawn_blocking(move || reread()).await;
    let replaced = read
        .map_err(anyhow::Error::from)
        .and_then(|settings| Ok(secrets.replace(&settings?)?));
    match replaced {
        Ok(missing) if missing.is_empty() => {
            tracing::info!(
                "SIGHUP: the secrets and the certificate were read again; other settings change at the next start"
            );
        }
        Ok(missing) => tracing::warn!(
            missing = missing.join(", "),
            "SIGHUP: the secrets were read again; what is missing in the settings keeps its own until the next start"
        ),
        Err(error) => {
            tracing::error!(
                "SIGHUP: the old secrets and the old certificate stay in force: {error:#}"
            );
        }
    }
}

async fn start_worker(
    queue: &QueueSettings,
    client: &Millstream,
    shutdown_timeout: Duration,
) -> anyhow::Result<Worker> {
    let worker = client.worker(queue.name.as_str())?;
    let worker = queue.apply(worker).shutdown_timeout(shutdown_timeout);
    let worker = match &queue.handler {
        HandlerSettings::Forward(plan) => worker.fallback(plan.handler.clone()),
        HandlerSettings::Command(handler) => worker.fallback(handler.clone()),
        HandlerSettings::Print => worker.fallback(print),
    };
    Ok(worker.start().await?)
}

/// The handler of `dev` without a config file: says what came.
async fn print(job: Context) -> Result<(), millstream::JobError> {
    let line = format!(
        "job {} {} attempt {}: {} bytes",
        job.id(),
        output::clean(job.name()),
        job.attempt(),
        job.payload().len()
    );
    output::line(line).map_err(|error| millstream::JobError::failed(format!("{error:#}")))
}
