//! The command line: raw arguments → settings → run → exit code.
//!
//! One file per command or group of commands, each a struct of its flags with a `run`. [`args`] lists them, [`settings`]
//! reads the config file, [`process`] turns settings into running workers and a gateway. Exit codes: 0 done, 1 failed,
//! 2 usage or configuration; a second signal while draining leaves with 128 + its number.

mod args;
mod connect;
mod dead;
mod demo;
mod dev;
mod enqueue;
mod events;
mod failure;
mod jobs;
mod keys;
mod logging;
mod manual;
mod open_files;
mod output;
mod pace;
mod parse;
mod pause;
mod process;
mod prune;
mod serve;
mod settings;
mod signals;
mod stats;
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
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut definition))?;
    refuse_redis_url(&cli, &matches).map_err(|reason| {
        let name = matches.subcommand_name().unwrap_or_default();
        let message = format!("{name} starts a Redis of its own: {reason}");
        match definition.find_subcommand_mut(name) {
            Some(command) => command.error(ErrorKind::ArgumentConflict, message),
            None => definition.error(ErrorKind::ArgumentConflict, message),
        }
    })?;
    Ok(cli)
}

/// A URL that was written on the command line of `demo` or `dev` would do nothing. One from the environment is meant for
/// the other commands.
fn refuse_redis_url(cli: &Cli, matches: &ArgMatches) -> Result<(), &'static str> {
    let own = matches!(cli.command, Command::Demo(_) | Command::Dev(_));
    if own && matches.value_source("redis_url") == Some(ValueSource::CommandLine) {
        return Err("leave out --redis-url, or use serve to work on that one");
    }
    Ok(())
}

fn run(cli: Cli) -> anyhow::Result<()> {
    logging::init(&cli.globals, &cli.command)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(cli.command.run(&cli.globals))
}
