//! `millstream dev`: a private Redis and everything on top of it, for trying things by hand.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use millstream::gateway::GatewaySettings;
use millstream::gateway::signature::{Scheme, TOLERANCE_DEFAULT};
use millstream::gateway::source::{SchemeSettings, SourceSettings};
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{QueueName, config};

use super::args::Globals;
use super::process::{Plan, Process, ServiceFlags};
use super::settings::{
    self, ConfigFile, GatewayFlags, HandlerSettings, Plain, QueueFlags, QueueSettings,
    RedisSettings, SourceFlags,
};
use super::{output, signals};

/// The source and the queue of `dev` without a config file.
const DEMO: &str = "demo";

/// A private Redis and a gateway with workers, for trying things by hand. Everything is gone when it stops.
///
/// With --config it serves that file on the private Redis; secrets may stand in it in plain text here.
/// Without, it takes Standard Webhooks at /webhooks/demo and prints each job.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    #[command(flatten)]
    gateway: GatewayFlags,
    #[command(flatten)]
    service: ServiceFlags,
}

impl Dev {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let file = settings::load(globals)?;
        let secret = throw_away_secret();
        let queues = match &file {
            Some(file) => settings::queues(&QueueFlags::default(), Some(file), Plain::Allowed)?,
            None => vec![QueueSettings::new(
                QueueName::new(DEMO)?,
                HandlerSettings::Print,
            )],
        };
        let gateway = self.gateway(file.as_ref(), &secret)?;
        let names: Vec<String> = gateway
            .sources
            .iter()
            .map(|(name, _)| name.clone())
            .collect();

        let stop = signals::shutdown(self.service.stop_with_stdin)?;
        let server = tokio::task::spawn_blocking(|| {
            PrivateRedis::start(Options {
                tcp: true,
                ..Options::default()
            })
        });
        let server = server.await??;
        let redis = RedisSettings {
            url: server.url(),
            ..RedisSettings::merge(globals, file.as_ref())
                .with_keys(file.as_ref(), Plain::Allowed)?
        };
        let commands = Commands {
            url: redis.url.clone(),
            namespace: redis.namespace.clone(),
            queues: queues.iter().map(|queue| queue.name.to_string()).collect(),
            redis_cli: format!("redis-cli {}", server.cli_args().join(" ")),
        };
        let schedules = settings::schedules(file.as_ref())?;
        let plan = Plan {
            schedules,
            redis,
            queues,
            gateway: Some(gateway),
            reread: None,
            service: self.service,
        };
        let process = Process::start(plan, stop).await?;

        let base = process
            .address()
            .map(|address| format!("http://{address}"))
            .unwrap_or_default();
        let demo = file.is_none().then_some(secret.as_str());
        greet(&base, &names, demo, &commands)?;
        process.run().await
    }

    fn gateway(&self, file: Option<&ConfigFile>, secret: &str) -> anyhow::Result<GatewaySettings> {
        let mut settings = settings::gateway(
            &self.gateway,
            &SourceFlags::default(),
            None,
            file,
            Plain::Allowed,
        )?;
        if file.is_none() {
            let source = SourceSettings::new(SchemeSettings::Standard, [secret], DEMO);
            settings.sources.push((DEMO.to_owned(), source));
        }
        Ok(settings)
    }
}

/// What the commands that are shown need to know.
struct Commands {
    url: String,
    namespace: String,
    queues: Vec<String>,
    redis_cli: String,
}

impl Commands {
    /// How to point `millstream` in another shell at this Redis, and an example.
    fn example(&self) -> String {
        let mut line = format!("export MILLSTREAM_REDIS_URL={}", self.url);
        if self.namespace != config::NAMESPACE_DEFAULT {
            line.push_str(&format!(" MILLSTREAM_NAMESPACE={}", self.namespace));
        }
        line.push_str("; millstream stats");
        if let Some(queue) = self.queues.first() {
            line.push_str(&format!(" {queue}"));
        }
        line
    }
}

/// Says where everything is, and how to try it. `demo` is the secret of the source that exists without a config file.
fn greet(
    base: &str,
    sources: &[String],
    demo: Option<&str>,
    commands: &Commands,
) -> anyhow::Result<()> {
    output::line(
        "Millstream runs on a Redis of its own. Ctrl-C stops both, and nothing is kept.\n",
    )?;
    for source in sources {
        output::line(format!("  webhooks   POST {base}/webhooks/{source}"))?;
    }
    output::line(format!("  health     {base}/health/ready"))?;
    let queues = commands.queues.join(", ");
    if !queues.is_empty() {
        output::line(format!("  queues     {queues}"))?;
    }
    output::line(format!("  redis      {}", commands.url))?;
    output::line(format!(
        "  look       {} --scan --pattern '{}:*'",
        commands.redis_cli, commands.namespace
    ))?;
    output::line(format!("  commands   {}", commands.example()))?;
    if let Some(secret) = demo {
        output::line(format!(
            "  secret     {secret}   (Standard Webhooks, thrown away at the end)"
        ))?;
        let tolerance = humantime::format_duration(TOLERANCE_DEFAULT);
        output::line(format!(
            "\nSend a webhook; the signature is good for {tolerance}, and sending it twice makes one job:\n\n{}\n",
            curl(base, secret)?
        ))?;
    } else {
        output::line("")?;
    }
    Ok(())
}

/// A signed request that can be pasted into a shell.
fn curl(base: &str, secret: &str) -> anyhow::Result<String> {
    let scheme = Scheme::standard();
    let body = r#"{"type":"order.created","order":{"id":1}}"#;
    let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let signature = scheme.sign(
        &scheme.secret("secret", secret)?,
        &id,
        i64::try_from(now)?,
        body.as_bytes(),
    );
    Ok(format!(
        "  curl -sS {base}/webhooks/{DEMO} -H 'content-type: application/json' \\\n    -H 'webhook-id: {id}' -H 'webhook-timestamp: {now}' \\\n    -H 'webhook-signature: {signature}' \\\n    -d '{body}'"
    ))
}

/// A Standard Webhooks secret that nobody had before. Two UUIDs have 244 random bits; the scheme asks for 192 at least.
pub(crate) fn throw_away_secret() -> String {
    let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    format!(
        "whsec_{}",
        BASE64.encode([a.into_bytes(), b.into_bytes()].concat())
    )
}
