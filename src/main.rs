//! The `millstream` binary: arguments and exit codes. Everything it does goes through the library's public doors.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
