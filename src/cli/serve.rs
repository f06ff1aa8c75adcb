//! `millstream serve`, `gateway` and `worker`: the services.

use std::sync::Arc;

use clap::Args;
use millstream::QueueName;

use super::args::Globals;
use super::failure::usage;
use super::process::{Plan, Reread, ServiceFlags};
use super::settings::{self, GatewayFlags, Plain, QueueFlags, RedisSettings, SourceFlags};

/// The gateway and the workers in one process, as the config file or the flags say.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    gateway: GatewayFlags,
    #[command(flatten)]
    source: SourceFlags,
    #[command(flatten)]
    queue: QueueFlags,
    #[command(flatten)]
    service: ServiceFlags,
}

impl Serve {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let file = settings::load(globals)?;
        let file = file.as_ref();
        let reread = gateway_reader(globals, self.gateway, self.source, self.queue.queue.clone());
        let gateway = reread()?;
        let queues = settings::queues(&self.queue, file, Plain::Refused)?;
        if gateway.sources.is_empty() && gateway.tokens.is_empty() && queues.is_empty() {
            return Err(usage(
                "nothing to serve: give --config FILE, or --source NAME --scheme S --secret env:VAR --queue Q --forward URL",
            ));
        }
        for (name, source) in &gateway.sources {
            if !queues
                .iter()
                .any(|queue| queue.name.as_str() == source.queue)
            {
                tracing::warn!(
                    source = name,
                    queue = source.queue,
                    "no worker of this process works on the queue of this source"
                );
            }
        }
        let redis = RedisSettings::merge(globals, file).with_keys(file, Plain::Refused)?;
        Plan {
            schedules: settings::schedules(file)?,
            redis,
            queues,
            gateway: Some(gateway),
            reread: Some(reread),
            service: self.service,
        }
        .run()
        .await
    }
}

/// How the gateway's settings are read, at the start and again on SIGHUP.
fn gateway_reader(
    globals: &Globals,
    gateway: GatewayFlags,
    source: SourceFlags,
    queue: Option<QueueName>,
) -> Reread {
    let globals = globals.clone();
    Arc::new(move || {
        let file = settings::load(&globals)?;
        settings::gateway(
            &gateway,
            &source,
            queue.as_ref(),
            file.as_ref(),
            Plain::Refused,
        )
    })
}

/// The gateway alone: takes webhooks, and jobs from who has a token, and stores them.
#[derive(Debug, Args)]
pub(crate) struct Gateway {
    #[command(flatten)]
    gateway: GatewayFlags,
    #[command(flatten)]
    source: SourceFlags,
    /// The queue that the jobs of --source go to
    #[arg(long, value_parser = super::parse::queue, value_name = "QUEUE")]
    queue: Option<QueueName>,
    #[command(flatten)]
    service: ServiceFlags,
}

impl Gateway {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let file = settings::load(globals)?;
        let file = file.as_ref();
        let reread = gateway_reader(globals, self.gateway, self.source, self.queue.clone());
        let gateway = reread()?;
        if gateway.sources.is_empty() && gateway.tokens.is_empty() {
            return Err(usage(
                "nobody to take webhooks or jobs from: give --config FILE with [sources.NAME] or [tokens.NAME], or --source NAME \
                 --scheme S --secret env:VAR --queue Q, or --token env:VAR",
            ));
        }
        let redis = RedisSettings::merge(globals, file).with_keys(file, Plain::Refused)?;
        Plan {
            schedules: settings::ScheduleSettings::default(),
            redis,
            queues: Vec::new(),
            gateway: Some(gateway),
            reread: Some(reread),
            service: self.service,
        }
        .run()
        .await
    }
}

/// Workers alone: claim jobs and deliver them.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[command(flatten)]
    queue: QueueFlags,
    /// Serve /health/live and /health/ready at this address and port [default: not served]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    #[command(flatten)]
    service: ServiceFlags,
}

impl Worker {
    /// What the flags say about queues.
    #[cfg(test)]
    pub(crate) fn queue_flags(&self) -> &QueueFlags {
        &self.queue
    }

    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let file = settings::load(globals)?;
        let file = file.as_ref();
        let queues = settings::queues(&self.queue, file, Plain::Refused)?;
        if queues.is_empty() {
            return Err(usage(
                "no queue to work on: give --config FILE with [queues.NAME], or --queue Q with --forward URL or --command PROG",
            ));
        }
        let gateway = self
            .listen
            .as_deref()
            .map(settings::health_only)
            .transpose()?;
        let redis = RedisSettings::merge(globals, file).with_keys(file, Plain::Refused)?;
        Plan {
            schedules: settings::schedules(file)?,
            redis,
            queues,
            gateway,
            reread: None,
            service: self.service,
        }
        .run()
        .await
    }
}
