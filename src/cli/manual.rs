//! `millstream completions` and `millstream man`: what shells and `man` want to know of the commands.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::args::Cli;
use super::output;

/// Write the completions of a shell to stdout, as in `millstream completions bash > /etc/bash_completion.d/millstream`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "millstream", &mut script);
        std::io::stdout()
            .write_all(&script)
            .context("cannot write to stdout")
    }
}

/// Write the manual page to stdout, or with --dir a page for every command.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write millstream.1, millstream-serve.1 … into this directory, which must exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Some(dir) = self.dir else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            return std::io::stdout()
                .write_all(&page)
                .context("cannot write to stdout");
        };
        clap_mangen::generate_to(Cli::command(), &dir)
            .with_context(|| format!("cannot write manual pages to {}", dir.display()))?;
        output::line(format!("written to {}", dir.display()))
    }
}
