//! The command line: grammar, help, and the way from a parsed command to its exit status.
//!
//! One definition (clap) yields the parser and `--help`; manual pages and completions come from it too.
//! Exit status: 0 fine; 1 a failure at run time, one line that says what and how to mend it; 2 usage or an
//! invalid configuration. The larger families of commands have files of their own.

mod completions;
mod looks;
mod orders;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::commands::demo;
use crate::commands::events::EventsOptions;
use crate::commands::ground::{self, Ground};
use crate::commands::replay::ReplayOptions;
use crate::commands::status::StatusOptions;
use crate::commands::watch::Output;
use crate::commands::{self, Ended, Failure};
use crate::{config, daemon, os};

/// A host's own DNS daemon: answers the names in its configuration with the address of the lowest-latency
/// healthy candidate and forwards everything else.
#[derive(Debug, Parser)]
#[command(name = "har", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground; log to standard error
    Serve(ConfigFile),
    /// Report everything that is wrong with the configuration, at once (exit status 2 if anything is)
    CheckConfig(ConfigFile),
    /// Show what is answered now and why
    Status(Status),
    /// Show the state as metrics of Prometheus, for the node exporter's textfile collector
    Metrics(StateFile),
    /// Show what another configuration would have answered, from the recorded check results
    Replay(Replay),
    /// Show what happened: changes of state and of answers, with the reasons
    Events(Events),
    /// Write a page (HTML) of what was answered, how every address did and why, over the last day or so
    Report(looks::Report),
    /// Run the checks once, now, without a daemon (exit status 1 when a name has nothing up)
    Probe(looks::Probe),
    /// Say what is answered for a name and why, and each candidate's part in it
    Explain(looks::Explain),
    /// Take a candidate out without touching the service
    Drain(orders::Drain),
    /// Take a drained candidate in again
    Undrain(orders::Undrain),
    /// Hold a candidate up whatever its checks say
    ForceUp(orders::ForceUp),
    /// Freeze the answer of a name
    Pin(orders::Pin),
    /// Let the answer of a name move again
    Unpin(orders::Unpin),
    /// Forward configured names too, as if har knew none of them
    Bypass(orders::Bypass),
    /// List what was ordered: drained, held up, pinned, bypassed, and what is left of the time
    Overrides(looks::Overrides),
    /// Look at this host and say what is wrong with its way to har, and the mend; changes nothing
    Doctor(looks::Doctor),
    /// Show har at work: three small HTTP servers, the real daemon on 127.0.0.1:5300, a failure and a recovery
    Demo(Demo),
    /// Print what bash, zsh or fish need to complete har's command line
    Completions(completions::Completions),
}

/// The configuration file.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = config::defaults::CONFIG)]
    pub config: PathBuf,
}

/// Where the state file is, for the commands that need no more of the configuration than names.
#[derive(Debug, Args)]
pub struct StateFile {
    /// Configuration file; when it is invalid, only where the state file is
    #[arg(long, value_name = "FILE", default_value = config::defaults::CONFIG)]
    pub config: PathBuf,
    /// The state file; the configuration is not read then
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
}

impl StateFile {
    /// Finds it, and says on standard error when the configuration is invalid or closed to this user.
    fn find(self) -> Result<Ground, Failure> {
        let ground = ground::find(&self.config, self.state)?;
        if let Some(warning) = &ground.warning() {
            say(&format!("har: {warning}"));
        }
        Ok(ground)
    }
}

/// `har status`
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
    /// Only this name
    pub name: Option<String>,
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
    /// One line and an exit status for monitoring plugins: 0 ok, 1 warning, 2 critical, 3 unknown
    #[arg(long, conflicts_with = "json")]
    pub check: bool,
    /// Go on: a live table on a terminal (q quits), a plain table for each change in a pipe
    #[arg(long, conflicts_with_all = ["json", "check"])]
    pub watch: bool,
}

/// `har replay`
#[derive(Debug, Args)]
pub struct Replay {
    /// The configuration to be tried
    #[arg(long, value_name = "NEW")]
    pub config: PathBuf,
    /// The configuration to compare with (the one that the daemon was started with)
    #[arg(long, value_name = "FILE")]
    pub old: Option<PathBuf>,
    /// The state file with the recorded results (that of the new configuration)
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
}

/// `har events`
#[derive(Debug, Args)]
pub struct Events {
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
    /// Only this name
    pub name: Option<String>,
    /// At most this many, the latest ones
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: u32,
    /// Go on with new ones as they come
    #[arg(long)]
    pub follow: bool,
    /// Machine-readable output, an object a line
    #[arg(long)]
    pub json: bool,
}

/// `har demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// End by itself after this long, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub length: Option<Duration>,
    /// Where the daemon of the demonstration listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5300")]
    pub listen: SocketAddr,
}

/// Parses the process's arguments, runs the command and reports how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // A daemon's end waits for nobody who should have read.
    let say = if matches!(cli.command, Command::Serve(_)) { last_words } else { say };
    // Not locked for good: the demonstration prints from another thread than the daemon's.
    let ended = run(cli, &mut std::io::stdout()).and_then(|code| {
        std::io::stdout().flush()?;
        Ok(code)
    });
    match ended {
        Ok(code) => code,
        // `har status | head` ends the reader first: nothing is wrong with that.
        Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Config(report)) => complain(say, 2, &report.to_string()),
        Err(Failure::Usage(text)) => complain(say, 2, &format!("har: {text}")),
        Err(Failure::Run(text)) => complain(say, 1, &format!("har: {text}")),
    }
}

fn run(cli: Cli, out: &mut (dyn Write + Send)) -> Ended {
    match cli.command {
        Command::Serve(file) => daemon::serve(&file.config),
        Command::CheckConfig(file) => commands::check_config::run(&file.config, out),
        Command::Status(arguments) => {
            let Status { file, name, json, check, watch } = arguments;
            // A monitoring system is to hear that it is invalid; who looks at a screen sees the warning.
            let ground = if check { ground::find(&file.config, file.state) } else { file.find() };
            let state = match ground {
                Ok(ground) => match ground.invalid().filter(|_| check) {
                    Some(report) => return commands::status::unknown(&report.to_string(), out),
                    None => ground.state,
                },
                Err(Failure::Usage(line)) if check => return commands::status::unknown(&line, out),
                Err(failure) => return Err(failure),
            };
            let options = StatusOptions { name, json, check };
            if watch {
                return commands::watch::run(&state, &options, watch_output(), out);
            }
            commands::status::run(&state, &options, out)
        }
        Command::Metrics(file) => commands::metrics::run(&file.find()?.state, out),
        Command::Replay(Replay { config, old, state, json }) => {
            let options = ReplayOptions { new: config, old, state, json };
            commands::replay::run(&options, &os::machine_id(), out)
        }
        Command::Events(arguments) => {
            let Events { file, name, limit, follow, json } = arguments;
            commands::events::run(&file.find()?.state, &EventsOptions { name, limit, follow, json }, out)
        }
        Command::Report(arguments) => arguments.run(out),
        Command::Probe(arguments) => arguments.run(out),
        Command::Explain(arguments) => arguments.run(out),
        Command::Drain(arguments) => arguments.run(out),
        Command::Undrain(arguments) => arguments.run(out),
        Command::ForceUp(arguments) => arguments.run(out),
        Command::Pin(arguments) => arguments.run(out),
        Command::Unpin(arguments) => arguments.run(out),
        Command::Bypass(arguments) => arguments.run(out),
        Command::Overrides(arguments) => arguments.run(out),
        Command::Doctor(arguments) => arguments.run(out),
        Command::Completions(arguments) => arguments.run(out),
        Command::Demo(Demo { length, listen }) => {
            let options = demo::Options { length, listen, terminal: std::io::stdout().is_terminal() };
            demo::run(&options, out, daemon::run)
        }
    }
}

/// What a live table may do: a terminal that knows no control sequences gets what a pipe gets, and NO_COLOR
/// (<https://no-color.org>) keeps colours away.
fn watch_output() -> Output {
    let is_dumb = std::env::var_os("TERM").is_none_or(|kind| kind.is_empty() || kind == "dumb");
    if !std::io::stdout().is_terminal() || is_dumb {
        return Output::Pipe;
    }
    Output::Terminal { colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
}

/// Says what went wrong on standard error; a standard error that is gone too is nobody's problem.
fn complain(say: fn(&str), code: u8, text: &str) -> ExitCode {
    say(text);
    ExitCode::from(code)
}

fn last_words(text: &str) {
    os::logger::last_words(text.trim_end());
}

/// Prints on standard error.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
}

/// A duration with a unit, as in the configuration: `250ms`, `10s`, `5m`, `24h`.
fn duration(text: &str) -> Result<Duration, String> {
    config::values::duration(text).ok_or_else(|| "a number and a unit are needed: 250ms, 10s, 5m or 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
