//! What is asked before something that cannot be undone, and the flag that answers it.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::Args;

/// Flags of every command that asks.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Consent {
    /// Do not ask. Nobody is asked either when stdin is no terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
}

impl Consent {
    /// Whether [`Consent::to`] would ask.
    pub(crate) fn asks(self) -> bool {
        !self.yes && io::stdin().is_terminal()
    }

    /// Asks. Nobody is asked when the flag was given or stdin is no terminal.
    ///
    /// # Errors
    /// When the answer is not yes: nothing may be changed then.
    pub(crate) fn to(self, question: &str) -> anyhow::Result<()> {
        if !self.asks() {
            return Ok(());
        }
        write!(anstream::stderr(), "{question} [y/N] ").context("cannot write to stderr")?;
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .context("cannot read the answer")?;
        anyhow::ensure!(
            matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"),
            "not confirmed: nothing was changed (--yes skips the question)"
        );
        Ok(())
    }
}
