//! `har doctor`: looks at this host and says what is wrong with the way its programs come to har, and the mend.
//!
//! It changes nothing. [`facts`] collects what is known: files and the process table below a root folder, and, on this
//! host itself, one question to each listener and each upstream server. From there on everything is pure: each subject
//! is a function from the [`Scene`] to [`Finding`]s. A file a subject; `docs/host-integration.md` is the page they
//! refer to.

pub mod ask;
pub mod caches;
pub mod clock;
pub mod configuration;
pub mod containers;
pub mod facts;
pub mod finding;
pub mod ini;
pub mod listeners;
pub mod nsswitch;
pub mod resolv_conf;
pub mod resolved;
pub mod root;
pub mod service;
pub mod state;
#[cfg(test)]
mod tests;
pub mod upstream;
pub mod writers;

use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::{Ended, Failure};
use crate::config::{Config, values};
use crate::os::holder::Held;
use crate::store::{Life, time};
use ask::Heard;
use configuration::counted;
use facts::{Facts, Kept, shown};
use finding::{Finding, Severity};
use nsswitch::HostsLine;
use resolv_conf::{ResolvConf, Server};
use resolved::Resolved;
use root::Root;
use writers::Writer;

/// Where a reader of a finding learns more.
const PAGE: &str = "see docs/host-integration.md";

/// Subjects, in the order of the report.
const SUBJECTS: [fn(&Scene<'_>, &mut Vec<Finding>); 12] = [
    configuration::diagnose,
    resolv_conf::diagnose,
    writers::diagnose,
    nsswitch::diagnose,
    resolved::diagnose,
    listeners::diagnose,
    upstream::diagnose,
    containers::diagnose,
    caches::diagnose,
    state::diagnose,
    service::diagnose,
    clock::diagnose,
];

/// What `har doctor` was asked for.
#[derive(Clone, Debug)]
pub struct DoctorOptions {
    /// The configuration file, as the host names it.
    pub config: PathBuf,
    /// Where the host's files are: `/` is this one.
    pub root: PathBuf,
    /// JSON instead of text.
    pub json: bool,
}

/// What is judged: the facts, and what several subjects read from them.
pub struct Scene<'a> {
    facts: &'a Facts,
    /// `None` when it is missing, invalid or not this user's to read.
    config: Option<&'a Config>,
    resolv: &'a ResolvConf,
    resolved: &'a Resolved,
    hosts_line: Option<HostsLine>,
    writer: Writer,
}

impl Scene<'_> {
    /// The configuration file, as the host names it.
    fn config_shown(&self) -> String {
        shown(&self.facts.config_path)
    }

    /// Whom a name server address stands for.
    fn whose(&self, address: IpAddr) -> Server {
        let own = |listener: &std::net::SocketAddr| listener.port() == values::DNS_PORT && listener.ip() == address;
        if self.facts.listen().iter().any(own) {
            Server::Har
        } else if resolv_conf::is_stub(address) {
            Server::Stub
        } else {
            Server::Other
        }
    }

    /// The configured names, wildcards included.
    fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.config.into_iter().flat_map(|config| &config.names).map(|name| name.name.to_string())
    }

    /// Whether a name is configured, by itself or by a wildcard.
    fn covers(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        self.names().any(|own| match own.strip_prefix('*') {
            Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            None => own == name,
        })
    }

    /// What the state file holds, if it could be read.
    fn kept(&self) -> Option<&Kept> {
        self.facts.state.kept.as_ref()?.as_ref().ok()
    }

    /// Whether a daemon runs: its process has a port, or its state file lives.
    fn runs_har(&self) -> bool {
        self.facts.daemon.is_some() || self.kept().is_some_and(|kept| kept.life == Life::Running)
    }

    /// Whether its process has this port, as far as that can be seen.
    fn has_port(&self, address: std::net::SocketAddr) -> bool {
        let of_har = |held: &Held| match held {
            Held::By(holder) => holder.command == "har",
            Held::Unseen => self.facts.daemon.is_some(),
            Held::Free => false,
        };
        self.facts.ports.iter().any(|port| port.address == address && of_har(&port.udp))
    }

    /// Whether it is silent on a port that it has: the process hangs, or something on this host is in between.
    fn is_mute(&self) -> bool {
        let heard = self.facts.asked.iter().flat_map(|asked| &asked.listeners);
        heard.into_iter().any(|listener| listener.udp == Heard::Silence && self.has_port(listener.address))
    }
}

/// Looks, judges and prints. Exit status 0 without a problem, 1 with one, 2 when the configuration is none, or not this
/// user's to read.
///
/// # Errors
/// When the root is no folder or the output cannot be written.
pub fn run(options: &DoctorOptions, out: &mut dyn Write) -> Ended {
    if !options.root.is_dir() {
        return Err(Failure::Usage(format!("--root {}: there is no such folder", options.root.display())));
    }
    let root = Root::new(&options.root);
    let facts = Facts::collect(&root, &options.config, time::now()).map_err(|error| Failure::Run(error.to_string()))?;
    let findings = diagnose(&facts);
    let text = if options.json { json(&findings, options) } else { report(&findings, options) };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let problem = findings.iter().any(|finding| finding.severity == Severity::Problem);
    Ok(match (&facts.config, problem) {
        (Err(_), _) => ExitCode::from(2),
        (Ok(_), true) => ExitCode::FAILURE,
        (Ok(_), false) => ExitCode::SUCCESS,
    })
}

/// Judges what is known. Pure: the same facts yield the same findings, what matters most first.
pub fn diagnose(facts: &Facts) -> Vec<Finding> {
    let resolv = ResolvConf::parse(facts.files.text(resolv_conf::PATH).unwrap_or_default());
    let resolved = Resolved::of(&facts.files, facts.runs("systemd-resolved"), &facts.listen());
    let scene = Scene {
        facts,
        config: facts.config.as_ref().ok(),
        resolv: &resolv,
        resolved: &resolved,
        hosts_line: facts.files.text(nsswitch::PATH).and_then(HostsLine::parse),
        writer: Writer::of(&facts.files),
    };
    let mut findings = Vec::new();
    SUBJECTS.iter().for_each(|subject| subject(&scene, &mut findings));
    // Within a severity the order of the subjects stays.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// How many of each.
fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

/// Paragraphs for what is to be done, lines for what is in order, and the sum.
fn report(findings: &[Finding], options: &DoctorOptions) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for finding in findings.iter().filter(|finding| finding.severity > Severity::Ok) {
        let _ = writeln!(text, "{}: {}: {}", finding.severity.as_str(), finding.place, finding.found);
        let _ = writeln!(text, "  why:  {}\n  mend: {}\n", finding.why, finding.mend);
    }
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Ok) {
        let _ = writeln!(text, "ok: {}: {}", finding.place, finding.found);
    }
    let [problems, warnings, hints, fine] =
        [Severity::Problem, Severity::Warning, Severity::Hint, Severity::Ok].map(|severity| count(findings, severity));
    let _ = writeln!(
        text,
        "\n{}, {}, {}; {fine} in order",
        counted(problems, "problem"),
        counted(warnings, "warning"),
        counted(hints, "hint")
    );
    if !Root::new(&options.root).is_this_host() {
        let _ = writeln!(text, "Only files below {} were looked at; nobody was asked.", options.root.display());
    }
    if findings.iter().any(|finding| ["packaging/", "docs/"].iter().any(|folder| finding.mend.contains(folder))) {
        text.push_str(
            "packaging/ and docs/ are folders of har's sources; the packages have them in /usr/share/doc/har.\n",
        );
    }
    text
}

#[derive(Serialize)]
struct Document<'a> {
    config: String,
    root: String,
    problems: usize,
    warnings: usize,
    hints: usize,
    findings: &'a [Finding],
}

fn json(findings: &[Finding], options: &DoctorOptions) -> String {
    let document = Document {
        config: shown(&options.config),
        root: shown(&options.root),
        problems: count(findings, Severity::Problem),
        warnings: count(findings, Severity::Warning),
        hints: count(findings, Severity::Hint),
        findings,
    };
    // Nothing in it can fail to be written: text and numbers.
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}
