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
mod failure;
mod jobs;
mod keys;
mod logging;
mod output;
mod parse;
mod pause;
mod process;
mod prune;
mod serve;
mod settings;
mod signals;
mod stats;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use args::Cli;

/// Reads the arguments, runs the command, reports its failure once.
pub(crate) fn main() -> ExitCode {
    // Usage errors, `--help` and `--version` end here, with clap's own exit codes: 2 and 0.
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    logging::init(&cli.globals, &cli.command)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(cli.command.run(&cli.globals))
}
