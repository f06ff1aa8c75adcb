//! Log lines: to stderr, as text or JSON. Never a payload, a secret or a header value; who logs sees to that.

use std::env;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::args::{Command, Globals, LogFormat};
use super::failure::usage;
use super::traces;

/// Installs the subscriber, with the bridge for records of the `log` crate (the Redis client writes those).
///
/// A service logs what it does; other commands only what goes wrong, so that their output stays readable.
pub(crate) fn init(globals: &Globals, command: &Command) -> anyhow::Result<()> {
    let filter = filter(globals, command)?;
    // What a log has no use for, and would put before every line.
    #[cfg(feature = "otel")]
    let filter = filter.add_directive(format!("{}=off", millstream::otel::SPANS_TARGET).parse()?);
    let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    #[cfg(feature = "otel")]
    if command.is_service()
        && let Some(exporter) = traces::start()?
    {
        return with_traces(globals, filter, colours, exporter);
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match globals.log_format {
        LogFormat::Text => builder.with_ansi(colours).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!(error))
    .context("cannot start logging")?;
    if command.is_service() {
        traces::mention_missing();
    }
    Ok(())
}

/// The same log, and beside it the spans that go to a collector: each with its own filter.
#[cfg(feature = "otel")]
fn with_traces(
    globals: &Globals,
    filter: EnvFilter,
    colours: bool,
    exporter: &millstream::otel::Exporter,
) -> anyhow::Result<()> {
    use tracing_subscriber::prelude::*;

    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match globals.log_format {
        LogFormat::Text => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let lines = lines.with_filter(filter);
    tracing_subscriber::registry()
        .with(lines)
        .with(exporter.layer())
        .try_init()
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
