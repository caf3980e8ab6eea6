//! `har check-config`: reads the configuration as the daemon would and says what is in it, or all that is wrong.
//!
//! Nothing is opened but the configuration and the files it names; no daemon is asked and none is needed. Root tries
//! them for the user whom the daemon runs as, too.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::runner::Runner;
use super::{Ended, Failure};
use crate::config::{self, Config, Problem, Servers};

/// Prints a summary of a valid configuration and its warnings.
///
/// # Errors
/// [`Failure::Config`] with everything that is wrong.
pub fn run(path: &Path, out: &mut dyn Write) -> Ended {
    let mut config = config::load(path).map_err(Failure::Config)?;
    let runner = Runner::look(&config, None).map_err(|error| Failure::Run(error.to_string()))?;
    config.warnings.extend(warnings(&config, &runner));
    summary(&config, out)?;
    for warning in &config.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What the daemon would stumble over on this host. No errors: the file may be for another host, or not in its place yet.
fn warnings(config: &Config, runner: &Runner) -> Vec<Problem> {
    let missing = runner.missing.iter().map(|why| Problem::of_file(config.path.clone(), why.as_str()));
    let closed = runner.closed.iter().map(|closed| {
        let message = format!("the daemon runs as {}, who may not read this file; {}", runner.name, closed.mend);
        Problem::of_file(closed.path.clone(), message)
    });
    missing.chain(closed).collect()
}

/// What is in the configuration, a line a subject.
fn summary(config: &Config, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}: valid", config.path.display())?;
    let listen: Vec<String> = config.server.listen.iter().map(ToString::to_string).collect();
    writeln!(out, "  listeners   {}", listen.join(", "))?;
    writeln!(out, "  state       {}", config.server.state.display())?;
    match &config.upstream.servers {
        Servers::Listed(servers) => {
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            writeln!(out, "  upstream    {}", servers.join(", "))?;
        }
        Servers::File(file) => writeln!(out, "  upstream    the nameservers of {}", file.display())?,
        Servers::Auto => writeln!(out, "  upstream    the nameservers of this host's resolv.conf (auto)")?,
    }
    if !config.upstream.routes.is_empty() {
        writeln!(out, "  routes      {}", config.upstream.routes.len())?;
    }
    let candidates: usize = config.names.iter().map(|name| name.candidates.len()).sum();
    writeln!(out, "  names       {}", config.names.len())?;
    writeln!(out, "  candidates  {candidates}")?;
    if !config.warnings.is_empty() {
        writeln!(out, "  warnings    {}", config.warnings.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> (Ended, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.toml");
        std::fs::write(&path, text).unwrap();
        let mut out = Vec::new();
        let ended = run(&path, &mut out);
        (ended, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_valid_file_is_summed_up() {
        let (ended, out) =
            checked("[names.a]\ncheck = \"tcp:1\"\ntimeout = \"20s\"\ncandidates = [\"192.0.2.1\", \"192.0.2.2\"]\n");
        assert!(ended.is_ok());
        for part in
            ["valid", "127.0.0.1:53, [::1]:53", "names       1", "candidates  2", "warning: ", "default interval"]
        {
            assert!(out.contains(part), "{part} in\n{out}");
        }
    }

    #[test]
    fn an_invalid_file_is_a_report() {
        let (ended, out) = checked("[server]\nttl = -1\nlog = 1\n");
        let Err(Failure::Config(report)) = ended else { panic!("{out}") };
        assert_eq!((report.0.len(), out.as_str()), (2, ""));
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("har.toml");
        std::fs::write(&path, "").unwrap();
        assert!(matches!(run(&path, &mut Closed), Err(Failure::ClosedPipe)));
    }
}
