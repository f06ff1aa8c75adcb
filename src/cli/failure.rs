//! The error chain, printed once, and the exit code that goes with it.

use std::io::{self, Write as _};
use std::process::ExitCode;

/// The user's arguments or configuration are at fault: exit 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// A [`Usage`] as the error of a command.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Prints the chain to stderr, outermost first, and says how to exit.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        // `millstream jobs list Q | head`: the reader has seen enough.
        return ExitCode::SUCCESS;
    }
    // A stderr that cannot be written to leaves only the exit code to speak.
    let _ = write_chain(error);
    ExitCode::from(if is_usage(error) { 2 } else { 1 })
}

fn write_chain(error: &anyhow::Error) -> io::Result<()> {
    let mut stderr = anstream::stderr().lock();
    let red = anstyle::AnsiColor::Red.on_default().bold();
    writeln!(stderr, "{red}error:{red:#} {error}")?;
    for cause in error.chain().skip(1) {
        writeln!(stderr, "  caused by: {cause}")?;
    }
    Ok(())
}

fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause
                .downcast_ref::<millstream::Error>()
                .is_some_and(millstream::Error::is_usage)
    })
}

/// Whoever read our stdout is gone.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn what_the_user_wrote_wrong_is_told_from_what_went_wrong() {
        let setting = millstream::Error::setting("lease", "1ms", "1s to 1day");
        assert!(is_usage(
            &anyhow::Error::from(setting).context("queue webhooks")
        ));
        assert!(is_usage(&usage("no such flag")));
        let failed = millstream::Error::Stopped { what: "worker" };
        assert!(!is_usage(&failed.into()));
    }

    #[test]
    fn a_closed_pipe_is_recognised_through_its_context() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(
            &Err::<(), _>(error).context("cannot write").unwrap_err()
        ));
        assert!(!is_closed_pipe(&usage("x")));
    }
}
