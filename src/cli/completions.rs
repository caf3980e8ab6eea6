//! `har completions`: what a shell needs to complete har's command line.
//!
//! The texts are made from the grammar by a test and lie in `packaging/completions/`, where packages take them from:
//! the maker is not part of the program, and what is printed is what is installed.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::commands::Ended;

/// `har completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// The shells that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash, with or without bash-completion
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

impl Shell {
    /// What the shell is to read.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Shell::Bash => include_str!("../../packaging/completions/har.bash"),
            Shell::Zsh => include_str!("../../packaging/completions/_har"),
            Shell::Fish => include_str!("../../packaging/completions/har.fish"),
        }
    }
}

impl Completions {
    /// Prints them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn run(&self, out: &mut dyn Write) -> Ended {
        out.write_all(self.shell.text().as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}
