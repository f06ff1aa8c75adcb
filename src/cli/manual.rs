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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_names_its_flags() {
        fn check(name: &str, command: &clap::Command, dir: &std::path::Path) {
            let path = dir.join(format!("{name}.1"));
            let page =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            for argument in command.get_arguments().filter(|one| !one.is_hide_set()) {
                if let Some(flag) = argument.get_long() {
                    // A hyphen is written `\-` there.
                    let flag = flag.replace('-', "\\-");
                    assert!(page.contains(&flag), "{name}: {flag}");
                }
            }
            for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
                check(&format!("{name}-{}", below.get_name()), below, dir);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().to_owned());
        Man { dir: path }.run().unwrap();
        check("millstream", &Cli::command(), dir.path());
    }
}
