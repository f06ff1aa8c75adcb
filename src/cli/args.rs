//! The list of commands, and the flags that all of them take.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use super::{
    bench, cron, dead, demo, dev, doctor, enqueue, events, groups, jobs, keys, manual, pause,
    prune, queue, serve, stats, top, workers,
};

/// A durable webhook inbox and job worker on Redis Streams.
///
/// Settings: flag, then environment, then config file, then default.
/// Durations are written 250ms, 5s, 2m, 1h30m; sizes 64KiB, 1MiB; rates 50/s, 600/m.
/// Exit codes: 0 done, 1 failed, 2 usage or configuration.
#[derive(Debug, Parser)]
#[command(
    name = "millstream",
    version,
    propagate_version = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Where Redis is: redis://, rediss://, unix: … [default: the config file's redis.url, else redis://127.0.0.1:6379]
    // The value may carry a password, so neither help nor errors show it.
    #[arg(
        long,
        global = true,
        env = "MILLSTREAM_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) redis_url: Option<String>,
    /// First part of every key [default: the config file's redis.namespace, else millstream]
    #[arg(long, global = true, env = "MILLSTREAM_NAMESPACE", value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// The TOML config file
    #[arg(long, global = true, env = "MILLSTREAM_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Accept a Redis whose maxmemory-policy may drop jobs
    #[arg(long, global = true)]
    pub(crate) allow_eviction: bool,
    /// How log lines are written, on stderr
    #[arg(
        long,
        global = true,
        env = "MILLSTREAM_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,
    /// Log more: -v debug, -vv trace. Without it MILLSTREAM_LOG or RUST_LOG decide, if set
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Log less: -q warnings only, -qq errors only
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work: a private Redis, a gateway and workers, signed webhooks through all of it, a worker killed on the way
    Demo(demo::Demo),
    /// A private Redis and a gateway with workers, for trying things by hand
    Dev(dev::Dev),
    /// The gateway and the workers in one process (production)
    Serve(serve::Serve),
    /// The gateway alone: take webhooks and store them
    Gateway(serve::Gateway),
    /// Workers alone: deliver jobs over HTTP or to a program
    Worker(serve::Worker),
    /// Put a job into a queue
    Enqueue(enqueue::Enqueue),
    /// Show a queue's counts
    Stats(stats::Stats),
    /// List, show, cancel or start unfinished jobs
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    /// List, show, redrive or purge dead jobs
    #[command(subcommand)]
    Dead(dead::Dead),
    /// List, set, pause or remove schedules: jobs that are due again and again
    #[command(subcommand)]
    Cron(cron::Cron),
    /// List groups (tenants), set their limits, or remove everything of one
    #[command(subcommand)]
    Groups(groups::Groups),
    /// Let no worker claim from a queue; running jobs run on
    Pause(pause::Pause),
    /// Let workers claim from a paused queue again
    Resume(pause::Resume),
    /// Show or set how many jobs a queue may have
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Remove old completed and dead jobs
    Prune(prune::Prune),
    /// List the workers and what they hold
    Workers(workers::Workers),
    /// Show what happened in a queue, or follow it
    Events(events::Events),
    /// A live view of queues, workers and failures
    Top(top::Top),
    /// Find out what is wrong with Redis and the queues, and mend it
    Doctor(doctor::Doctor),
    /// Explain every Redis key of a queue
    Keys(keys::Keys),
    /// Measure the engine on this machine beside a bare client
    Bench(bench::Bench),
    /// Write the completions of a shell
    Completions(manual::Completions),
    /// Write the manual pages
    Man(manual::Man),
}

impl Command {
    /// True for commands that run until they are stopped: they log what they do, the others only what goes wrong.
    pub(crate) fn is_service(&self) -> bool {
        matches!(
            self,
            Self::Dev(_) | Self::Serve(_) | Self::Gateway(_) | Self::Worker(_)
        )
    }

    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        match self {
            Self::Demo(command) => command.run().await,
            Self::Dev(command) => command.run(globals).await,
            Self::Serve(command) => command.run(globals).await,
            Self::Gateway(command) => command.run(globals).await,
            Self::Worker(command) => command.run(globals).await,
            Self::Enqueue(command) => command.run(globals).await,
            Self::Stats(command) => command.run(globals).await,
            Self::Jobs(command) => command.run(globals).await,
            Self::Dead(command) => command.run(globals).await,
            Self::Cron(command) => command.run(globals).await,
            Self::Groups(command) => command.run(globals).await,
            Self::Pause(command) => command.run(globals).await,
            Self::Resume(command) => command.run(globals).await,
            Self::Queue(command) => command.run(globals).await,
            Self::Prune(command) => command.run(globals).await,
            Self::Workers(command) => command.run(globals).await,
            Self::Events(command) => command.run(globals).await,
            Self::Top(command) => command.run(globals).await,
            Self::Doctor(command) => command.run(globals).await,
            Self::Keys(command) => command.run(globals).await,
            Self::Bench(command) => command.run(globals).await,
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn refusal(words: &str) -> clap::Error {
        let words = ["millstream"].into_iter().chain(words.split_whitespace());
        Cli::try_parse_from(words).expect_err("it was accepted")
    }

    #[test]
    fn the_commands_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_flags_of_the_contract_are_there() {
        for words in [
            "demo --jobs 1000 --json",
            "dev --config f --listen 127.0.0.1:0",
            "serve --config f",
            "serve --source shop --scheme shopify --secret env:S --queue q --forward http://a/",
            "gateway --config f --listen 127.0.0.1:0 --max-body 64KiB --drain 10s --tls-cert c --tls-key k",
            "worker --queue q --forward http://a/ --concurrency 5 --max-attempts 3 --backoff fixed(1s) --timeout 5s --lease 3s \
             --prefetch 1 --shutdown-timeout 1s --retain-completed 1h --retain-dead 1d",
            "worker --queue q --forward http://a/ --target-concurrency 5 --refuse-private --circuit-failures 0 --circuit-pause fixed(1s)",
            "worker --queue q --command prog a b --concurrency 5",
            "worker --queue q --command prog --group-concurrency 4 --group-order block",
            "worker --queue q --command sh --lease 3s -- -c true",
            "enqueue q --name n --payload x --delay 5s --unique k --unique-for 1h --max-attempts 2 --timeout 1s --expires 1h --deadline 2h --durability replicas:1 --json",
            "enqueue q --name n --payload-file - --at 2027-01-31T09:00:00Z --count 10",
            "enqueue q --name n --unique k --unique-while-waiting --delay 2s --on-conflict replace",
            "enqueue q --name n --unique k --unique-for 1m --on-conflict throttle",
            "groups list q --limit 5 --json",
            "groups set q shop --concurrency 2",
            "groups set q --concurrency 0",
            "groups set q shop --pause",
            "groups set q shop --clear",
            "groups purge q shop --dry-run --yes --json",
            "groups purge q shop --rate 50/s -y",
            "groups set q shop --concurrency 2 --json",
            "stats q --json",
            "stats",
            "jobs list q --state running --limit 5 --json",
            "jobs show q 1-0",
            "jobs cancel q 1-0 2-0",
            "jobs run-now q 1-0",
            "jobs update q 1-0 --payload x --delay 5s --dry-run --json",
            "jobs update q 1-0 --payload-file - --at 2027-01-31T09:00:00Z",
            "dead list q --json",
            "dead show q 1-0",
            "dead redrive q --all --name n --rate 50/s --dry-run",
            "dead redrive q 1-0 2-0 --yes",
            "dead purge q --all",
            "enqueue q --name n --keep-result 1h --wait",
            "enqueue q --name n --keep-result 1h --wait=30s --json",
            "jobs wait q 1-0 --timeout 30s --json",
            "cron list",
            "cron list q --runs 5 --limit 10 --json",
            "cron set id --queue q --cron @daily --zone Europe/Bucharest --name n --payload x --missed all:5 --overlap skip --paused \
             --group g --max-attempts 2 --timeout 1s --expires 1h --dry-run --runs 3 --json",
            "cron set id --queue q --every 10m --name n --payload-file -",
            "cron remove id",
            "cron remove id --queue q",
            "cron remove id --dry-run --yes --json",
            "cron pause id --json",
            "cron resume id --json",
            "pause q --namespace n --redis-url redis://h --log-format json --allow-eviction -v",
            "resume q",
            "queue show q --json",
            "queue set q --max-depth 100000",
            "queue set q --no-max-depth --json",
            "prune q --completed-older-than 1h --dead-older-than 30d --dry-run",
            "keys q --json",
            "doctor",
            "top",
            "top q --interval 2s",
            "doctor --repair --json q",
            "dead redrive q --all --error x --reason attempts --older-than 1h --newer-than 2d",
            "jobs list q --group g --name n --after ready.1 --json",
            "stats q --watch --interval 2s",
            "workers",
            "workers q --json",
            "events q --limit 20 --json",
            "events q --follow",
            "bench --jobs 1000 --producers 8 --concurrency 10 --payload 2KiB --queue-depth 100 --persistence everysec --json",
            "bench groups --jobs 300 --groups 20 --group-concurrency 2 --batch 10 --payload 64B --turns 1 --json",
            "bench limits --jobs 1000 --payload 2KiB --turns 1 --json",
            "bench gateway --connections 8 --body 2KiB --turn 1s --turns 1 --idle 100 --access-log --json",
            "bench --only enqueue,bulk,drain,both,call,latency,delayed --turns 5 --workers 2",
            "completions bash",
            "man --dir d",
        ] {
            let words = ["millstream"].into_iter().chain(words.split_whitespace());
            if let Err(error) = Cli::try_parse_from(words.clone()) {
                panic!("{:?}: {error}", words.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_exit_code_2_and_named() {
        for (words, named) in [
            ("enqueue q --name n --colour red", "--colour"),
            ("enqueue q --name n --delay 5", "250ms"),
            (
                "enqueue q --name n --delay 5s --at 2027-01-31T09:00:00Z",
                "--at",
            ),
            (
                "enqueue q --name n --payload x --payload-file f",
                "--payload-file",
            ),
            ("enqueue q --name n --at tomorrow", "tomorrow"),
            ("enqueue q --name n --unique-for 1h", "--unique"),
            ("enqueue q --name n --on-conflict replace", "--unique"),
            (
                "enqueue q --name n --unique k --on-conflict merge",
                "refuse, replace or throttle",
            ),
            ("enqueue q", "--name"),
            ("enqueue q --name n --durability replicas:0", "replicas:0"),
            ("enqueue q --name n --delay 200000d", "--delay"),
            ("enqueue a/b --name n", "not allowed"),
            ("worker --queue a{b --forward http://a/", "a{b"),
            ("worker --forward http://a/", "--queue"),
            (
                "worker --queue q --forward http://a/ --command prog",
                "--command",
            ),
            (
                "worker --queue q --forward http://a/ --lease 1ms",
                "1s to 1day",
            ),
            (
                "worker --queue q --forward http://a/ --backoff often",
                "often",
            ),
            (
                "worker --queue q --forward http://a/ --concurrency 0",
                "1 to 100000",
            ),
            (
                "worker --queue q --forward http://a/ --target-concurrency 0",
                "1 to 100000",
            ),
            ("worker --queue q --circuit-failures 5", "--forward"),
            ("serve --source shop", "--scheme"),
            ("dead redrive q", "--all"),
            ("dead redrive q 1-0 --all", "--all"),
            ("dead redrive q --all --rate fast", "50/s"),
            ("queue set q", "--max-depth"),
            ("queue set q --max-depth 0", "1.."),
            ("prune q", "--dead-older-than"),
            ("jobs update q 1-0", "--payload"),
            (
                "jobs update q 1-0 --delay 5s --at 2027-01-31T09:00:00Z",
                "--at",
            ),
            ("jobs list q --state asleep", "asleep"),
            ("enqueue q --name n --wait", "--keep-result"),
            ("cron set id --queue q --name n", "--cron"),
            (
                "cron set id --queue q --name n --every 10m --cron @daily",
                "--cron",
            ),
            (
                "cron set id --queue q --name n --every 10m --zone UTC",
                "--cron",
            ),
            ("cron set id --name n --every 10m", "--queue"),
            ("cron set id --queue q --every 10m", "--name"),
            (
                "cron set id --queue q --name n --every 10m --missed all:101",
                "1 to 100",
            ),
            (
                "cron set id --queue q --name n --every 10m --overlap never",
                "allow or skip",
            ),
            ("stats q --interval 2s", "--watch"),
            ("stats q --watch --interval 1ms", "100ms to 1h"),
            ("events q --limit 501", "--limit"),
            ("completions csh", "csh"),
            ("bench --payload 7B", "8B to 1MiB"),
            ("bench --only speed", "latency"),
            ("bench --jobs 0", "--jobs"),
        ] {
            let error = refusal(words);
            assert_eq!(error.exit_code(), 2, "{words}");
            let said = error.to_string();
            assert!(
                said.contains(named),
                "{words}: {named:?} is not in {said:?}"
            );
        }
    }

    /// The words of every command that does something, and the command.
    fn commands() -> Vec<(String, clap::Command)> {
        fn walk(words: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
            let below: Vec<_> = command
                .get_subcommands()
                .filter(|below| below.get_name() != "help" && !below.is_hide_set())
                .collect();
            let leads_on = command.is_subcommand_required_set();
            if below.is_empty() || !leads_on {
                found.push((words.to_owned(), command.clone()));
            }
            for below in below {
                let words = format!("{words} {}", below.get_name());
                walk(words.trim(), below, found);
            }
        }
        let (mut found, mut cli) = (Vec::new(), Cli::command());
        cli.build();
        walk("", &cli, &mut found);
        found
    }

    fn has(command: &clap::Command, flag: &str) -> bool {
        command
            .get_arguments()
            .any(|argument| argument.get_long() == Some(flag))
    }

    #[test]
    fn every_command_that_tells_something_tells_it_as_json_too() {
        // Services write a log, `top` is a screen (`stats --watch --json` is the same for programs), and these two write files.
        const OTHERS: [&str; 7] = [
            "dev",
            "serve",
            "gateway",
            "worker",
            "top",
            "completions",
            "man",
        ];
        let found = commands();
        assert!(found.len() > 30, "{found:?}");
        for (words, command) in found {
            let expected = !OTHERS.contains(&words.as_str());
            assert_eq!(has(&command, "json"), expected, "{words}");
        }
    }

    #[test]
    fn everything_that_removes_or_moves_jobs_can_be_tried_dry_and_asks_first() {
        /// What a command does to what is there.
        #[derive(Debug, PartialEq)]
        enum Does {
            /// Nothing.
            Looks,
            /// Something that is easily set back.
            Sets,
            Adds,
            Moves,
            Removes,
        }
        use Does::{Adds, Looks, Moves, Removes, Sets};
        let kinds = [
            ("demo", Looks),
            ("dev", Looks),
            ("serve", Looks),
            ("gateway", Looks),
            ("worker", Looks),
            ("enqueue", Adds),
            ("stats", Looks),
            ("jobs list", Looks),
            ("jobs show", Looks),
            ("jobs cancel", Removes),
            ("jobs run-now", Moves),
            ("jobs update", Moves),
            ("jobs wait", Looks),
            ("dead list", Looks),
            ("dead show", Looks),
            ("dead redrive", Removes),
            ("dead purge", Removes),
            ("cron list", Looks),
            ("cron set", Adds),
            ("cron remove", Removes),
            ("cron pause", Sets),
            ("cron resume", Sets),
            ("groups list", Looks),
            ("groups set", Sets),
            ("groups purge", Removes),
            ("pause", Sets),
            ("resume", Sets),
            ("queue show", Looks),
            ("queue set", Sets),
            ("prune", Removes),
            ("workers", Looks),
            ("events", Looks),
            ("top", Looks),
            ("doctor", Looks),
            ("keys", Looks),
            ("bench", Looks),
            ("bench gateway", Looks),
            ("bench groups", Looks),
            ("bench limits", Looks),
            ("completions", Looks),
            ("man", Looks),
        ];
        for (words, command) in commands() {
            let kind = kinds.iter().find(|(known, _)| *known == words);
            let (_, does) = kind.unwrap_or_else(|| panic!("what does {words} do? Add it here"));
            // Without its flag the doctor only looks, so that is its dry run.
            let repairs = words == "doctor" && has(&command, "repair");
            let removes = *does == Removes;
            assert!(
                has(&command, "dry-run") || !(removes || *does == Moves),
                "{words}"
            );
            assert_eq!(has(&command, "yes"), removes || repairs, "{words}");
        }
    }

    #[test]
    fn help_does_not_show_the_password_of_the_environment() {
        let help = Cli::command().render_long_help().to_string();
        assert!(
            help.contains("MILLSTREAM_REDIS_URL") && !help.contains("MILLSTREAM_REDIS_URL="),
            "{help}"
        );
    }
}
