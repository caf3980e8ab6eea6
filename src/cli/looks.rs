//! The grammar of the commands that look: overrides, probe, explain, report, doctor.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{ConfigFile, StateFile, duration};
use crate::commands::doctor::DoctorOptions;
use crate::commands::report::ReportOptions;
use crate::commands::{self, Ended, Failure};
use crate::{config, os};

/// `har overrides`
#[derive(Debug, Args)]
pub struct Overrides {
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
}

/// `har probe`
#[derive(Debug, Args)]
pub struct Probe {
    /// Only this name
    pub name: Option<String>,
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    /// The configuration file.
    pub file: ConfigFile,
}

/// `har explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// A name as clients ask for it
    pub name: String,
    #[command(flatten)]
    /// The configuration file, which says where the state file is.
    pub file: ConfigFile,
}

/// `har report`
#[derive(Debug, Args)]
pub struct Report {
    /// Only these names; left out, those with trouble or changes first
    pub names: Vec<String>,
    /// Where to write the page (replaced as a whole); - is standard output
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// How far back, such as 30m, 24h or 168h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub since: Duration,
    /// At most this many names, when none are given
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
    #[command(flatten)]
    /// Where the state file is.
    pub file: StateFile,
}

/// `har doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
    /// Look at the files of a host below this folder, such as a mounted image; nobody is asked then
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    #[command(flatten)]
    /// The configuration file, as the host that is looked at names it.
    pub file: ConfigFile,
}

impl Overrides {
    /// Lists the orders.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        commands::overrides::run(&self.file.find()?.state, self.json, out)
    }
}

impl Probe {
    /// Runs the checks once.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        let config = config::load(&self.file.config).map_err(Failure::Config)?;
        commands::probe::become_runner(&config)?;
        commands::probe::run(&config, self.name.as_deref(), self.json, out)
    }
}

impl Explain {
    /// Says what is answered and why.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        let config = config::look(&self.file.config).map_err(Failure::Config)?;
        commands::explain::run(&config, &self.name, out)
    }
}

impl Report {
    /// Writes the page.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        let ground = self.file.find()?;
        let options = ReportOptions {
            names: self.names,
            since: self.since,
            limit: self.limit.into(),
            output: self.output,
            has_history: ground.config.is_none_or(|config| !config.server.history.is_zero()),
        };
        commands::report::run(&ground.state, &options, os::host_name(), out)
    }
}

impl Doctor {
    /// Looks at the host.
    pub fn run(self, out: &mut dyn Write) -> Ended {
        let options = DoctorOptions { config: self.file.config, root: self.root, json: self.json };
        commands::doctor::run(&options, out)
    }
}
