//! What this process does with the jobs of a queue.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use millstream::deliver::{CommandHandler, CommandSettings, Forward, ForwardSettings};
use millstream::{Backoff, Circuit, GroupOrder, QueueName, SharedLimit, WorkerBuilder};

use super::ConfigFile;
use super::file::{HandlerSection, QueueSection, SecretTexts};
use super::secret::{self, Plain};
use crate::cli::failure::usage;
use crate::cli::parse::{self, RateLimit, number};

/// Flags that say what a worker does. They win over the config file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Worker options")]
pub(crate) struct QueueFlags {
    /// The queue to work on [default: every queue of the config file]
    #[arg(long, value_parser = parse::queue, value_name = "QUEUE")]
    pub(crate) queue: Option<QueueName>,
    /// Deliver each job by an HTTP POST to this URL; 2xx completes it, 410 dead-letters it
    #[arg(
        long,
        value_name = "URL",
        requires = "queue",
        conflicts_with = "command"
    )]
    pub(crate) forward: Option<String>,
    /// Sign what is sent by Standard Webhooks, with the secret that env:NAME or file:/path holds
    #[arg(long, value_name = "SECRET", requires = "forward")]
    pub(crate) sign_with: Option<String>,
    /// Answers that dead-letter a job at once, besides 410: 404,422
    #[arg(
        long,
        value_name = "STATUS",
        requires = "forward",
        value_delimiter = ','
    )]
    pub(crate) dead_on: Vec<u16>,
    /// Requests to the host and port of --forward at once, from this process [default: --concurrency alone]
    #[arg(long, value_parser = |text: &str| number(text, parse::target_concurrency), value_name = "N", requires = "forward")]
    pub(crate) target_concurrency: Option<usize>,
    /// Refuse to connect to private, loopback, link-local and metadata addresses, whatever the name leads to
    #[arg(long, requires = "forward")]
    pub(crate) refuse_private: bool,
    /// Failures in a row (no connection, no answer, 5xx) after which nothing is claimed until the target is back; 0: never [default: 10]
    #[arg(long, value_parser = |text: &str| number(text, parse::circuit_failures), value_name = "N", requires = "forward")]
    pub(crate) circuit_failures: Option<u32>,
    /// Wait before one job tries a target again that is down, with jitter: fixed(5s) or exponential(1s, 30s) [default: exponential(1s, 30s)]
    #[arg(long, value_parser = parse::backoff, value_name = "BACKOFF", requires = "forward")]
    pub(crate) circuit_pause: Option<Backoff>,
    /// Run this program for each job, the payload on its stdin; exit 0 completes it, 65 dead-letters it.
    /// Arguments that begin with - go to the end, after --: --command sh -- -c 'exit 1'
    #[arg(long, value_names = ["PROG", "ARG"], num_args = 1.., requires = "queue")]
    pub(crate) command: Vec<String>,
    /// More arguments for the program of --command
    #[arg(last = true, value_name = "ARG", requires = "command")]
    pub(crate) args: Vec<String>,
    /// Jobs at once, in this process [default: 10]
    #[arg(long, value_parser = |text: &str| number(text, parse::concurrency), value_name = "N")]
    pub(crate) concurrency: Option<usize>,
    /// Jobs fetched ahead of free slots [default: as many as the concurrency, at most 100]
    #[arg(long, value_parser = |text: &str| number(text, parse::prefetch), value_name = "N")]
    pub(crate) prefetch: Option<usize>,
    /// Jobs of one group (a tenant) ready or running at once, over all workers; 0 for no limit [default: as it is, at first none]
    #[arg(long, value_parser = |text: &str| number(text, parse::group_concurrency), value_name = "N")]
    pub(crate) group_concurrency: Option<usize>,
    /// Whether a job that waits for a retry lets the next of its group pass (free) or not (block) [default: as it is, at first free]
    #[arg(long, value_parser = parse::group_order, value_name = "ORDER")]
    pub(crate) group_order: Option<GroupOrder>,
    /// Jobs of this queue at once, over all workers of all processes; 0 for no limit [default: as it is, at first none]
    #[arg(long, value_parser = |text: &str| number(text, parse::queue_concurrency), value_name = "N")]
    pub(crate) queue_concurrency: Option<usize>,
    /// Jobs of this queue that may start in a time, over all workers: 50/s, 600/m, 1000/h, or none [default: as it is, at first none]
    #[arg(long, value_parser = parse::group_rate, value_name = "RATE")]
    pub(crate) queue_rate: Option<RateLimit>,
    /// With that rate: jobs at once after a quiet time; 0 for what comes in a second, at least 1 [default: as it is, at first 0]
    #[arg(long, value_parser = |text: &str| number(text, parse::burst), value_name = "N")]
    pub(crate) queue_burst: Option<u32>,
    /// Jobs of one group that may be held; an enqueue of more is refused; 0 for no limit [default: as it is, at first none]
    #[arg(long, value_parser = |text: &str| number(text, parse::max_backlog), value_name = "N")]
    pub(crate) group_max_backlog: Option<u64>,
    /// Jobs or points of one group that may start in a time, over all workers: 50/s, 600/m, 1000/h, or none [default: as it is, at first none]
    #[arg(long, value_parser = parse::group_rate, value_name = "RATE")]
    pub(crate) group_rate: Option<RateLimit>,
    /// With the rate: jobs or points at once after a quiet time; 0 for what comes in a second, at least 1 [default: as it is, at first 0]
    #[arg(long, value_parser = |text: &str| number(text, parse::burst), value_name = "N")]
    pub(crate) group_burst: Option<u32>,
    /// Attempts of a failing job, the first included [default: 10]
    #[arg(long, value_parser = |text: &str| number(text, parse::max_attempts), value_name = "N")]
    pub(crate) max_attempts: Option<u32>,
    /// Wait after a failed attempt, with jitter: fixed(5s) or exponential(1s, 5m) [default: exponential(1s, 5m)]
    #[arg(long, value_parser = parse::backoff, value_name = "BACKOFF")]
    pub(crate) backoff: Option<Backoff>,
    /// Time limit of one attempt, 1ms to 7d [default: 30s]
    #[arg(long, value_parser = parse::timeout, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,
    /// How long this worker may be silent before its jobs are taken away, 1s to 1d [default: 30s]
    #[arg(long, value_parser = parse::lease, value_name = "DURATION")]
    pub(crate) lease: Option<Duration>,
    /// Cancel a handler whose lease cannot be renewed, before another worker can have its job
    #[arg(long)]
    pub(crate) strict_lease: bool,
    /// Keep completed jobs in the history for this long [default: 0s, not at all]
    #[arg(long, value_parser = parse::retention, value_name = "DURATION")]
    pub(crate) retain_completed: Option<Duration>,
    /// Keep dead jobs for this long [default: 30d]
    #[arg(long, value_parser = parse::retention, value_name = "DURATION")]
    pub(crate) retain_dead: Option<Duration>,
}

/// A queue to work on, with everything checked. `None` leaves a setting at the engine's default.
#[derive(Clone, Debug)]
pub(crate) struct QueueSettings {
    pub(crate) name: QueueName,
    pub(crate) handler: HandlerSettings,
    pub(crate) concurrency: Option<usize>,
    pub(crate) prefetch: Option<usize>,
    pub(crate) group_concurrency: Option<usize>,
    pub(crate) group_order: Option<GroupOrder>,
    pub(crate) queue_concurrency: Option<usize>,
    pub(crate) queue_rate: Option<RateLimit>,
    pub(crate) queue_burst: Option<u32>,
    pub(crate) group_max_backlog: Option<u64>,
    pub(crate) group_rate: Option<RateLimit>,
    pub(crate) group_burst: Option<u32>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) lease: Option<Duration>,
    pub(crate) strict_lease: bool,
    pub(crate) retain_completed: Option<Duration>,
    pub(crate) retain_dead: Option<Duration>,
}

/// What does the jobs.
#[derive(Clone, Debug)]
pub(crate) enum HandlerSettings {
    Forward(ForwardPlan),
    Command(CommandHandler),
    /// `dev` without a config file: says what came.
    Print,
}

/// A target and how it is treated.
#[derive(Clone, Debug)]
pub(crate) struct ForwardPlan {
    pub(crate) handler: Forward,
    circuit: Option<Circuit>,
    target_concurrency: Option<usize>,
    /// Shared by all queues of the process with the same target; see [`share_targets`].
    pub(super) limit: Option<SharedLimit>,
}

impl ForwardPlan {
    fn new(
        settings: ForwardSettings,
        target_concurrency: Option<usize>,
        circuit_failures: Option<u32>,
        circuit_pause: Option<Backoff>,
    ) -> millstream::Result<Self> {
        let handler = Forward::new(settings)?;
        let mut circuit = Circuit::new(handler.target());
        if let Some(failures) = circuit_failures {
            circuit = circuit.failures(failures);
        }
        if let Some(pause) = circuit_pause {
            circuit = circuit.pause(pause);
        }
        Ok(Self {
            handler,
            circuit: (circuit_failures != Some(0)).then_some(circuit),
            target_concurrency,
            limit: None,
        })
    }
}

impl QueueSettings {
    /// A queue with every setting at its default.
    pub(crate) fn new(name: QueueName, handler: HandlerSettings) -> Self {
        Self {
            name,
            handler,
            concurrency: None,
            prefetch: None,
            group_concurrency: None,
            group_order: None,
            queue_concurrency: None,
            queue_rate: None,
            queue_burst: None,
            group_max_backlog: None,
            group_rate: None,
            group_burst: None,
            max_attempts: None,
            backoff: None,
            timeout: None,
            lease: None,
            strict_lease: false,
            retain_completed: None,
            retain_dead: None,
        }
    }

    fn merge(
        name: QueueName,
        handler: HandlerSettings,
        flags: &QueueFlags,
        section: Option<&QueueSection>,
    ) -> Self {
        Self {
            concurrency: flags.concurrency.or(section.and_then(|s| s.concurrency)),
            prefetch: flags.prefetch.or(section.and_then(|s| s.prefetch)),
            group_concurrency: flags
                .group_concurrency
                .or(section.and_then(|s| s.group_concurrency)),
            group_order: flags.group_order.or(section.and_then(|s| s.group_order)),
            queue_concurrency: flags
                .queue_concurrency
                .or(section.and_then(|s| s.queue_concurrency)),
            queue_rate: flags.queue_rate.or(section.and_then(|s| s.queue_rate)),
            queue_burst: flags.queue_burst.or(section.and_then(|s| s.queue_burst)),
            group_max_backlog: flags
                .group_max_backlog
                .or(section.and_then(|s| s.group_max_backlog)),
            group_rate: flags.group_rate.or(section.and_then(|s| s.group_rate)),
            group_burst: flags.group_burst.or(section.and_then(|s| s.group_burst)),
            max_attempts: flags.max_attempts.or(section.and_then(|s| s.max_attempts)),
            backoff: flags.backoff.or(section.and_then(|s| s.backoff)),
            timeout: flags.timeout.or(section.and_then(|s| s.timeout)),
            lease: flags.lease.or(section.and_then(|s| s.lease)),
            strict_lease: flags.strict_lease || section.is_some_and(|s| s.strict_lease),
            retain_completed: flags
                .retain_completed
                .or(section.and_then(|s| s.retain_completed)),
            retain_dead: flags.retain_dead.or(section.and_then(|s| s.retain_dead)),
            ..Self::new(name, handler)
        }
    }

    /// Hands these settings to `worker`.
    pub(crate) fn apply(&self, mut worker: WorkerBuilder) -> WorkerBuilder {
        if let Some(jobs) = self.concurrency {
            worker = worker.concurrency(jobs);
        }
        if let Some(jobs) = self.prefetch {
            worker = worker.prefetch(jobs);
        }
        if let Some(jobs) = self.group_concurrency {
            worker = worker.group_concurrency(jobs);
        }
        if let Some(order) = self.group_order {
            worker = worker.group_order(order);
        }
        if let Some(jobs) = self.queue_concurrency {
            worker = worker.queue_concurrency(jobs);
        }
        if let Some(RateLimit(rate)) = self.queue_rate {
            worker = worker.queue_rate(rate);
        }
        if let Some(jobs) = self.queue_burst {
            worker = worker.queue_burst(jobs);
        }
        if let Some(jobs) = self.group_max_backlog {
            worker = worker.group_max_backlog(jobs);
        }
        if let Some(RateLimit(rate)) = self.group_rate {
            worker = worker.group_rate(rate);
        }
        if let Some(jobs) = self.group_burst {
            worker = worker.group_burst(jobs);
        }
        if let Some(attempts) = self.max_attempts {
            worker = worker.max_attempts(attempts);
        }
        if let Some(backoff) = self.backoff {
            worker = worker.backoff(backoff);
        }
        if let Some(timeout) = self.timeout {
            worker = worker.timeout(timeout);
        }
        if let Some(lease) = self.lease {
            worker = worker.lease(lease);
        }
        worker = worker.strict_lease(self.strict_lease);
        if let HandlerSettings::Forward(plan) = &self.handler {
            if let Some(circuit) = &plan.circuit {
                worker = worker.circuit(circuit.clone());
            }
            if let Some(limit) = &plan.limit {
                worker = worker.shared_limit(limit.clone());
            }
        }
        if let Some(age) = self.retain_completed {
            worker = worker.retain_completed(age);
        }
        if let Some(age) = self.retain_dead {
            worker = worker.retain_dead(age);
        }
        worker
    }
}

/// The queues that this process works on, by flags and file; empty when neither names one.
pub(crate) fn merge(
    flags: &QueueFlags,
    file: Option<&ConfigFile>,
    plain: Plain,
) -> anyhow::Result<Vec<QueueSettings>> {
    if let Some(handler) = from_flags(flags, plain)? {
        // clap sees to it that a handler comes with a queue.
        let name = flags
            .queue
            .clone()
            .ok_or_else(|| usage("which queue? Add --queue QUEUE"))?;
        let section = file.and_then(|file| file.sections.queues.get(name.as_str()));
        let mut queues = vec![QueueSettings::merge(name, handler, flags, section)];
        share_targets(&mut queues)?;
        return Ok(queues);
    }
    let Some(file) = file else {
        return match &flags.queue {
            Some(queue) => Err(usage(format!(
                "--queue {queue}: what is to be done with its jobs? Add --forward URL or --command PROG, or give --config FILE"
            ))),
            None => Ok(Vec::new()),
        };
    };
    if let Some(wanted) = &flags.queue
        && !file.sections.queues.contains_key(wanted.as_str())
    {
        return Err(usage(format!(
            "--queue {wanted}: {} has no [queues.{wanted}], only {}; add it, or --forward URL or --command PROG",
            file.place.path.display(),
            match file.queue_names() {
                names if names.is_empty() => "no queue at all".to_owned(),
                names => names.join(", "),
            }
        )));
    }
    let wanted = |name: &str| {
        flags
            .queue
            .as_ref()
            .is_none_or(|queue| queue.as_str() == name)
    };
    let mut queues = file
        .sections
        .queues
        .iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, section)| {
            let handler = from_section(file, name, section, plain)?;
            Ok(QueueSettings::merge(
                QueueName::new(name)?,
                handler,
                flags,
                Some(section),
            ))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    share_targets(&mut queues)?;
    Ok(queues)
}

/// Gives all queues with the same target its limit, also those that do not name it: it is the target's.
fn share_targets(queues: &mut [QueueSettings]) -> anyhow::Result<()> {
    let mut limits: BTreeMap<String, SharedLimit> = BTreeMap::new();
    for queue in queues.iter() {
        let HandlerSettings::Forward(plan) = &queue.handler else {
            continue;
        };
        let Some(at_once) = plan.target_concurrency else {
            continue;
        };
        let target = plan.handler.target();
        let limit = limits
            .entry(target.to_owned())
            .or_insert_with(|| SharedLimit::new(at_once));
        if limit.at_once() != at_once {
            return Err(usage(format!(
                "target_concurrency of {target} is {} in one queue and {at_once} in [queues.{}]; it is one limit for all queues of this process: write it once",
                limit.at_once(),
                queue.name
            )));
        }
    }
    for queue in queues {
        if let HandlerSettings::Forward(plan) = &mut queue.handler {
            plan.limit = limits.get(plan.handler.target()).cloned();
        }
    }
    Ok(())
}

fn from_flags(flags: &QueueFlags, plain: Plain) -> anyhow::Result<Option<HandlerSettings>> {
    if let Some(url) = &flags.forward {
        let mut settings = ForwardSettings::new(url)
            .dead_on(flags.dead_on.iter().copied())
            .refuse_private(flags.refuse_private);
        if let Some(reference) = &flags.sign_with {
            let secret = secret::resolve(reference, plain)
                .map_err(|reason| usage(format!("--sign-with: {reason}")))?;
            settings = settings.sign_with(secret);
        }
        return Ok(Some(HandlerSettings::Forward(ForwardPlan::new(
            settings,
            flags.target_concurrency,
            flags.circuit_failures,
            flags.circuit_pause,
        )?)));
    }
    let Some((program, args)) = flags.command.split_first() else {
        return Ok(None);
    };
    // clap lets them pass beside --command, which rules --forward out.
    for (flag, given) in [
        ("--sign-with", flags.sign_with.is_some()),
        ("--dead-on", !flags.dead_on.is_empty()),
        ("--target-concurrency", flags.target_concurrency.is_some()),
        ("--refuse-private", flags.refuse_private),
        ("--circuit-failures", flags.circuit_failures.is_some()),
        ("--circuit-pause", flags.circuit_pause.is_some()),
    ] {
        if given {
            return Err(usage(format!(
                "{flag} belongs to --forward, and --command was given: remove one"
            )));
        }
    }
    let handler = CommandHandler::new(CommandSettings::new(
        program,
        args.iter().chain(&flags.args),
    ))?;
    Ok(Some(HandlerSettings::Command(handler)))
}

fn from_section(
    file: &ConfigFile,
    name: &str,
    section: &QueueSection,
    plain: Plain,
) -> anyhow::Result<HandlerSettings> {
    let at = || file.place.at(&["queues", name, "handler"]);
    let refuse = |reason: &str| usage(format!("{}: {reason}", at()));
    let either = "write either { forward = \"http://127.0.0.1:3000/hooks\" } or { command = [\"./handle\"] }";
    match &section.handler {
        None => Err(refuse(&format!("is missing; {either}"))),
        Some(HandlerSection {
            forward: Some(url),
            sign_with,
            dead_on,
            target_concurrency,
            refuse_private,
            circuit_failures,
            circuit_pause,
            command: None,
            kill_grace: None,
        }) => {
            let mut settings = ForwardSettings::new(url)
                .dead_on(dead_on.iter().flatten().copied())
                .refuse_private(refuse_private.unwrap_or_default());
            if let Some(reference) = sign_with {
                settings = settings.sign_with(
                    signing_secret(reference, plain)
                        .map_err(|reason| refuse(&format!("sign_with: {reason}")))?,
                );
            }
            let plan = ForwardPlan::new(
                settings,
                *target_concurrency,
                *circuit_failures,
                *circuit_pause,
            );
            Ok(HandlerSettings::Forward(plan.with_context(at)?))
        }
        Some(HandlerSection {
            forward: None,
            sign_with: None,
            dead_on: None,
            target_concurrency: None,
            refuse_private: None,
            circuit_failures: None,
            circuit_pause: None,
            command: Some(words),
            kill_grace,
        }) => {
            let (program, args) = words
                .split_first()
                .ok_or_else(|| refuse("command is empty; write [\"./handle\"]"))?;
            let mut settings = CommandSettings::new(program, args);
            if let Some(grace) = *kill_grace {
                settings = settings.kill_grace(grace);
            }
            Ok(HandlerSettings::Command(
                CommandHandler::new(settings).with_context(at)?,
            ))
        }
        Some(HandlerSection {
            forward: Some(_),
            command: Some(_),
            ..
        }) => Err(refuse(&format!("has both forward and command; {either}"))),
        Some(HandlerSection {
            forward: Some(_), ..
        }) => Err(refuse("kill_grace belongs to command; remove it")),
        Some(HandlerSection {
            command: Some(_), ..
        }) => Err(refuse(
            "sign_with, dead_on, target_concurrency, refuse_private, circuit_failures and circuit_pause belong to forward; remove them",
        )),
        Some(_) => Err(refuse(&format!(
            "has neither forward nor command; {either}"
        ))),
    }
}

fn signing_secret(references: &SecretTexts, plain: Plain) -> Result<String, String> {
    match references.0.as_slice() {
        [reference] => secret::resolve(reference, plain),
        _ => Err("write exactly one secret, like \"env:FORWARD_SECRET\"".into()),
    }
}
