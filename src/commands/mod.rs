//! The one-shot commands, one file each, and how they end.
//!
//! A command prints to the writer it is given and returns an [`Ended`]; `main` turns that into an exit
//! status and one line on standard error.

pub mod check_config;
pub mod demo;
pub mod doctor;
pub mod events;
pub mod explain;
mod fitness;
pub mod ground;
mod life;
pub mod metrics;
pub mod orders;
pub mod overrides;
pub mod probe;
pub mod replay;
pub mod report;
mod runner;
pub mod status;
mod subject;
mod table;
pub mod watch;

use std::process::ExitCode;

use crate::config::Report;

/// How a command ended: the exit status it asks for, or what went wrong.
pub type Ended = Result<ExitCode, Failure>;

/// Why a command could not do its work.
#[derive(Debug)]
pub enum Failure {
    /// Usage or an invalid configuration: exit status 2.
    Config(Report),
    /// A wrong argument that the grammar could not catch: exit status 2.
    Usage(String),
    /// Anything at run time: one line that says what and how to mend it. Exit status 1.
    Run(String),
    /// The reader of the output went away, which is no error.
    ClosedPipe,
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Run(format!("cannot write the output: {error}")),
        }
    }
}
