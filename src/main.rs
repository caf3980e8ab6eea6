//! The program: parse the command line, run the command, turn its end into an exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    har::cli::main()
}
