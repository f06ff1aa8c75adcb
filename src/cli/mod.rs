//! The command line: raw arguments → settings → run → exit code.
//!
//! One file per command or group of commands, each a struct of its flags with a `run`. [`args`] lists them, [`settings`]
//! reads the config file, [`process`] turns settings into running workers and a gateway. Exit codes: 0 done, 1 failed,
//! 2 usage or configuration; a second signal while draining leaves with 128 + its number.

mod args;
mod bench;
mod connect;
mod consent;
mod cron;
mod dead;
mod demo;
mod dev;
mod doctor;
mod enqueue;
mod events;
mod failure;
mod groups;
mod job_args;
mod jobs;
mod keys;
mod logging;
mod manual;
mod metrics;
mod open_files;
mod output;
mod pace;
mod parse;
mod pause;
mod process;
mod prune;
mod queue;
mod schedules;
mod serve;
mod settings;
mod signals;
mod stats;
mod top;
mod traces;
mod update;
mod wait;
mod workers;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use args::{Cli, Command};

/// Reads the arguments, runs the command, reports its failure once.
pub(crate) fn main() -> ExitCode {
    // Usage errors, `--help` and `--version` end here, with clap's own exit codes: 2 and 0.
    let cli = parse_arguments().unwrap_or_else(|error| error.exit());
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn parse_arguments() -> Result<Cli, clap::Error> {
    let mut definition = Cli::command();
    let matches = definition.try_get_matches_from_mut(std::env::args_os())?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut definition))?;
    refuse_redis_url(&cli, &matches).map_err(|reason| {
        let name = matches.subcommand_name().unwrap_or_default();
        let message = format!("{name} starts a Redis of its own: {reason}");
        match definition.find_subcommand_mut(name) {
            Some(command) => command.error(ErrorKind::ArgumentConflict, message),
            None => definition.error(ErrorKind::ArgumentConflict, message),
        }
    })?;
    // A URL of the environment is where the work is done: nobody's work shall be measured by accident.
    let written = matches.value_source("redis_url") == Some(ValueSource::CommandLine);
    if matches!(&cli.command, Command::Bench(bench) if bench.picks_its_server()) && !written {
        cli.globals.redis_url = None;
    }
    Ok(cli)
}

/// A URL that was written on the command line of `demo` or `dev` would do nothing, and so would a setting of the private
/// Redis of `bench` beside one. A URL from the environment is meant for the other commands.
fn refuse_redis_url(cli: &Cli, matches: &ArgMatches) -> Result<(), &'static str> {
    let written = matches.value_source("redis_url") == Some(ValueSource::CommandLine);
    match &cli.command {
        Command::Demo(_) | Command::Dev(_) if written => {
            Err("leave out --redis-url, or use serve to work on that one")
        }
        Command::Bench(bench) if written && bench.sets_up_redis() => {
            Err("--persistence is for that one; the server at --redis-url keeps its own setting")
        }
        _ => Ok(()),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    {
        // What exports traces sends them from here.
        let _within = runtime.enter();
        logging::init(&cli.globals, &cli.command)?;
    }
    runtime.block_on(cli.command.run(&cli.globals))
}
