//! Log lines: to stderr, as text or JSON. Never a payload, a secret or a header value; who logs sees to that.

use std::env;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::args::{Command, Globals, LogFormat};
use super::failure::usage;

/// Installs the subscriber, with the bridge for records of the `log` crate (the Redis client writes those).
///
/// A service logs what it does; other commands only what goes wrong, so that their output stays readable.
pub(crate) fn init(globals: &Globals, command: &Command) -> anyhow::Result<()> {
    let filter = filter(globals, command)?;
    let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match globals.log_format {
        LogFormat::Text => builder.with_ansi(colours).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!(error))
    .context("cannot start logging")
}

/// Flag, then `MILLSTREAM_LOG`, then `RUST_LOG`, then the default.
fn filter(globals: &Globals, command: &Command) -> anyhow::Result<EnvFilter> {
    if globals.verbose == 0 && globals.quiet == 0 {
        for name in ["MILLSTREAM_LOG", "RUST_LOG"] {
            if let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) {
                let value = value.to_string_lossy();
                return EnvFilter::try_new(value.as_ref()).map_err(|error| {
                    usage(format!("{name} = {value:?}: {error}; write a level or target=level, like info or millstream=debug"))
                });
            }
        }
    }
    let level = match (globals.verbose, globals.quiet, command.is_service()) {
        (0, 0, true) => "info",
        (0, 0 | 1, _) => "warn",
        (0, _, _) => "error",
        (1, _, _) => "debug",
        _ => "trace",
    };
    // The Redis client warns of every connection that breaks. A service wants to know; a command that fails says so itself,
    // and `dev` stops its own Redis at the end.
    let steady = command.is_service() && !matches!(command, Command::Dev(_));
    let client = if level == "error" || !steady {
        "error"
    } else {
        "warn"
    };
    Ok(EnvFilter::new(format!("{level},fred={client}")))
}
